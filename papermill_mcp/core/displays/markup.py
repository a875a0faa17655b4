"""The visible text of HTML and SVG, and the scripts within. Nothing is fetched or run."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from itertools import islice

from papermill_mcp.core.displays.grid import Grid
from papermill_mcp.core.displays.tags import BLOCK, RAW, VOID, Part, attributes_of, is_hidden, parts_of

#: Tags and texts of a page that are read; the rest is left out.
MAX_PARTS = 200_000
#: Characters of visible text that are kept.
MAX_TEXT = 200_000

_MAX_SCRIPTS = 20
_MEDIA = frozenset(("img", "iframe", "video", "audio", "embed"))


@dataclass
class Page:
    """The text that a reader of a page sees.

    Attributes:
        text: the visible text, with tables as rows.
        scripts: sources of scripts that stand in the page itself.
        frames: pages within it, as HTML.
    """

    text: str = ""
    scripts: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)


def read_page(markup: str, *, whole: bool = False) -> Page:
    """The page that `markup` describes, read in a time in proportion to its length.

    Args:
        whole: with all rows of its tables.
    """
    reader = _Reader(whole)
    parts = parts_of(markup)
    for part in islice(parts, MAX_PARTS):
        reader.take(part)
        if reader.chars > MAX_TEXT:
            break
    return reader.page(complete=next(parts, None) is None)


class _Reader:
    """Collects the visible text of a page from its parts."""

    def __init__(self, whole: bool) -> None:
        self.chars = 0
        self._whole = whole
        self._found = Page()
        self._lines: list[str] = []
        self._words: list[str] = []
        self._pre = 0
        self._hidden: tuple[str, int] | None = None
        """The tag whose content is hidden, and how many of its name are open."""
        self._grid: Grid | None = None
        self._tables = 0

    def take(self, part: Part) -> None:
        if part.tag in RAW and not part.closes:
            if part.tag == "script" and part.text.strip() and len(self._found.scripts) < _MAX_SCRIPTS:
                self._found.scripts.append(part.text)
            return
        if self._hidden:
            self._skip(part, *self._hidden)
        elif not part.tag:
            self._text(html.unescape(part.text))
        else:
            if not part.closes and not VOID.fullmatch(part.tag) and is_hidden(part.attributes):
                self._hidden = (part.tag, 1)
                return
            self._tag(part)

    def page(self, *, complete: bool) -> Page:
        """The page as far as it was read."""
        if self._grid:
            self._end_table()
        self._break()
        if not complete:
            self._lines.append("… the rest of this long page is left out …")
        self._found.text = re.sub(r"\n{3,}", "\n\n", "\n".join(self._lines)).strip("\n")
        return self._found

    def _skip(self, part: Part, name: str, depth: int) -> None:
        if part.tag == name:
            depth += -1 if part.closes else 1
        self._hidden = (name, depth) if depth else None

    def _text(self, text: str) -> None:
        self.chars += len(text)
        if self._grid:
            self._grid.text(text)
        elif self._pre:
            self._words.append(text)
        elif text.isspace():
            self._words.append(" ")
        else:
            self._words.append(re.sub(r"\s+", " ", text))

    def _break(self) -> None:
        line = "".join(self._words)
        self._words = []
        line = line.rstrip() if self._pre else " ".join(line.split())
        if line and line != "-":
            self._lines.append(line)

    def _tag(self, part: Part) -> None:
        name = part.tag
        if name in _MEDIA and not part.closes:
            self._medium(name, attributes_of(part.attributes))
        if name == "table":
            self._table(part.closes)
        elif self._grid:
            self._grid.tag(part, nested=self._tables > 1)
        elif name == "pre":
            self._break()
            self._pre = max(self._pre + (-1 if part.closes else 1), 0)
        elif name == "br":
            self._words.append("\n") if self._pre else self._break()
        elif BLOCK.fullmatch(name):
            self._break()
            if name == "li" and not part.closes:
                self._words.append("- ")

    def _table(self, closes: bool) -> None:
        if not closes:
            self._tables += 1
            if self._grid is None:
                self._break()
                self._grid = Grid(self._whole)
        elif self._tables:
            self._tables -= 1
            if self._tables == 0:
                self._end_table()

    def _end_table(self) -> None:
        if self._grid:
            self._lines += ["", *self._grid.lines(), ""]
        self._grid, self._tables = None, 0

    def _medium(self, name: str, attributes: dict[str, str]) -> None:
        frame = attributes.get("srcdoc", "")
        if frame:
            self._found.frames.append(frame)
        source = attributes.get("src", "")
        label = attributes.get("alt") or attributes.get("title") or ("" if source.startswith("data:") else source)
        if label:
            self._text(f" [{'image' if name == 'img' else name}: {label[:200]}] ")
