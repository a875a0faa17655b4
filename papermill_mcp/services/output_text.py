"""The text of a display: which of its forms is read.

First `text/llm+plain`, which a library writes for models. Then `text/plain`, unless it only stands for another form, as
`<Figure size 640x480 with 1 Axes>` does. Then Markdown, LaTeX, and text made from charts, data, pages and pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.documents.reading import joined
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import clean_text

if TYPE_CHECKING:
    from papermill_mcp.core.displays import made_text as displays
else:
    displays = lazy("papermill_mcp.core.displays.made_text")

_FOR_MODELS = "text/llm+plain"
_PLAIN = "text/plain"
_MARKED_UP = ("text/markdown", "text/latex")
#: Forms that are text as they are.
WRITTEN = (_FOR_MODELS, _PLAIN, *_MARKED_UP)
_DATA = "application/json"

# Forms of text/plain that carry no information.
_PLACEHOLDER = re.compile(
    r"<IPython\.[\w.]{1,80} object>|<Figure size [^<>\n]{1,60}>|<[\w.]{1,150}(?: object)? at 0x[0-9a-fA-F]{1,16}>"
    r"|[\w.]{1,80}\(\.\.\.\)|<Vega(?:Lite)? \d object>\s+If you see this message.{1,300}",
    re.DOTALL,
)
_PLACEHOLDER_CHARS = 500
_CALL = re.compile(r"[A-Za-z_][\w.]{0,80}\(")
_DATA_URI = re.compile(r"data:[\w/+.\-]{1,80};base64,[A-Za-z0-9+/=]{64,}+")


def text_of(data: Mapping[str, Any], *, make: bool = True, whole: bool = False) -> tuple[str | None, str]:
    """The form that is read as text, and that text, cleaned. No text if the form only stands for another one.

    Args:
        make: also make a text of forms that are none. This may take some tenths of a second.
        whole: with all rows of the tables of a page.
    """
    plain = joined(data.get(_PLAIN))
    if text := joined(data.get(_FOR_MODELS)):
        return _FOR_MODELS, _shown(text)
    if plain and not _stands_for_another(plain, data, make):
        return _PLAIN, _shown(plain)
    for mime in _MARKED_UP:
        if text := joined(data.get(mime)):
            return mime, _shown(text)
    made, text = displays.made_text(data, whole=whole) if make and _has_more(data) else (None, "")
    if text:
        return made, _shown(text)
    if _DATA in data and (text := json_text(data[_DATA])):
        return _DATA, _shown(text)
    if plain:
        return _PLAIN, clean_text(plain) if len(data) == 1 else ""
    other = next(
        (mime for mime in data if mime.startswith("text/") and mime != "text/html" and joined(data[mime])), None
    )
    return other, _shown(joined(data[other])) if other else ""


def searched_texts(data: Mapping[str, Any]) -> Iterator[str]:
    """All texts of a display in which a search looks, each once. Tables have all their rows here."""
    yield from (joined(data[mime]) for mime in WRITTEN if mime in data)
    mime, text = text_of(data)
    if mime not in WRITTEN or not text:
        yield displays.made_text(data, whole=True)[1] or text


def json_text(value: object) -> str:
    """A value as JSON; empty where it has none."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # an integer of 5,000 digits, a depth of 100,000
        return ""


def _has_more(data: Mapping[str, Any]) -> bool:
    return any(mime not in (_PLAIN, _DATA) and not mime.startswith("image/p") for mime in data)


def _stands_for_another(plain: str, data: Mapping[str, Any], make: bool) -> bool:
    """Whether the plain text says nothing, or only says how to make the object, at more length than another form."""
    if len(plain) < _PLACEHOLDER_CHARS:
        return _PLACEHOLDER.fullmatch(plain.strip()) is not None
    if not make or not _CALL.match(plain) or not plain.rstrip().endswith(")"):
        return False
    text = displays.made_text(data)[1]
    return 0 < len(text) < len(plain)


def _shown(text: str) -> str:
    """The text cleaned and without base64, which costs thousands of tokens and says nothing."""
    text = clean_text(text)
    if ";base64," not in text:
        return text
    return _DATA_URI.sub(lambda match: f"⟨data URI of {len(match[0])} characters⟩", text)
