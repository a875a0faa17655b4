"""The tags and texts of HTML and SVG, one after the other.

Pages come from files and kernels of others. They are read as a row of tags, without a tree: parsers that build the tree
of HTML 5 take time in the square of the depth, ten seconds for 100,000 nested tags.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

_MAX_BROKEN_TAGS = 20

_START = re.compile(r"<(?=[a-zA-Z/!?])")
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*+)((?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+)>")
_ATTRIBUTE = re.compile(r"([^\s\"'=<>/]++)\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"'>]++))")
_QUOTED = re.compile(r"\"[^\"]*+\"|'[^']*+'")
_HIDDEN = re.compile(r"(?:^|\s)hidden(?:[\s=/]|$)", re.IGNORECASE)
_NOT_DISPLAYED = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_DRAWN = re.compile(r"[ \n]{1,80}<g transform")

#: Elements whose content is no text of the page, by the pattern of their ends.
RAW = {
    name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE)
    for name in ("script", "style", "noscript", "template", "metadata")
}
#: Elements without content.
VOID = re.compile(r"area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr")
#: Elements that begin on a new line.
BLOCK = re.compile(
    r"address|article|aside|blockquote|body|center|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|g|h[1-6]"
    r"|head|header|hr|html|iframe|li|main|nav|ol|option|p|pre|section|summary|svg|text|title|tr|ul"
)


class Part(NamedTuple):
    """A text, or a tag with its attributes. A raw element comes as one part with its content as text."""

    text: str = ""
    tag: str = ""
    closes: bool = False
    attributes: str = ""


def parts_of(markup: str) -> Iterator[Part]:
    """The tags and texts of a page in their order. Comments and declarations are left out."""
    at, broken = 0, 0
    while start := _START.search(markup, at):
        if start.start() > at:
            yield Part(markup[at : start.start()])
        at = start.start()
        tag = _TAG.match(markup, at)
        if tag is None:
            end, text = _end_of_other(markup, at)
            if text:
                yield Part(text)
            broken += markup[at + 1].isalpha()
            if end < 0 or broken > _MAX_BROKEN_TAGS:
                return
            at = end
            continue
        at = tag.end()
        name = tag[2].lower()
        if name in RAW and not tag[1]:
            close = RAW[name].search(markup, at)
            end = close.start() if close else len(markup)
            yield Part(markup[at:end], name, attributes=tag[3])
            at = end
        else:
            yield Part("", name, bool(tag[1]), tag[3])
    if at < len(markup):
        yield Part(markup[at:])


def _end_of_other(markup: str, at: int) -> tuple[int, str]:
    """Where a comment, a declaration or a broken tag ends, and its text to show.

    Matplotlib draws the letters of an SVG as paths, and names them in comments of one line.
    """
    if markup.startswith("<!--", at):
        end = markup.find("-->", at + 4)
        text = markup[at + 4 : end] if end - at < 1_000 else ""
        shown = bool(text and _DRAWN.match(markup, end + 3))
        return (end + 3 if end >= 0 else -1), (f"\n{text}\n" if shown else "")
    if markup.startswith("<![CDATA[", at):
        end = markup.find("]]>", at)
        return (end + 3 if end >= 0 else -1), markup[at + 9 : end] if end >= 0 else ""
    end = markup.find(">", at)
    return (end + 1 if end >= 0 else -1), ""


def attributes_of(text: str) -> dict[str, str]:
    """The attributes of a tag, by their names in lower case."""
    return {
        found[1].lower(): html.unescape(found[2] or found[3] or found[4] or "") for found in _ATTRIBUTE.finditer(text)
    }


def is_hidden(attributes: str) -> bool:
    """Whether the attributes of a tag hide its content."""
    if _HIDDEN.search(attributes) and _HIDDEN.search(_QUOTED.sub("''", attributes)):
        return True
    return bool(_NOT_DISPLAYED.search(attributes) and _NOT_DISPLAYED.search(attributes_of(attributes).get("style", "")))
