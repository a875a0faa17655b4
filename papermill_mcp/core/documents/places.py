"""Where the cells of a notebook stand in its bytes, found without making values of them.

msgspec checks the grammar of the whole file and gives the bytes of each cell. This takes a tenth of the time that
`json` needs for the values. All that the two read differently is left to `json`: None is returned for it.
"""

from __future__ import annotations

import codecs
import functools
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from papermill_mcp.core.documents.json_text import after_whitespace, read_members, read_value
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.memory import has_room_for_texts

if TYPE_CHECKING:
    import msgspec
else:
    msgspec = lazy("msgspec")

_PREFIX = 65_536  # bytes that are looked at first for the start of the cells
_DECODED_AT_ONCE = 2**20  # bytes

#: Levels that the check of the grammar has less than a later reader. That reader then never finds a value too deep.
_LEVELS_KEPT = 120

_WHITESPACE = re.compile(rb"[ \t\n\r]*")
_DIGIT_PAIR = re.compile(rb"[0-9](?=[0-9])")
_COMMA, _ARRAY, _END_OF_ARRAY, _OBJECT, _CLOSED, _SPACE = b",[]{} "  # as numbers

#: Members of a cell that may be large. They are read only with the whole cell.
LARGE_MEMBERS = frozenset(("outputs", "attachments"))


class Place(NamedTuple):
    """The place of a cell: bytes from the start of the file, and the whitespace around the cell."""

    start: int
    end: int
    before: str
    after: str


@dataclass(slots=True)
class Places:
    """The text of a notebook with an empty list of cells, and the places of its cells."""

    shell: str
    cells: list[Place]
    ids: list[object] | None = None
    """Of the cells, where they were looked for."""

    def fit(self, data: bytes) -> bool:
        """Whether there are objects at the places of the cells. A quick look, for bytes that should be the same."""
        last = self.cells[-1].end
        return last < len(data) and all(data[at.start] == _OBJECT and data[at.end - 1] == _CLOSED for at in self.cells)


class Survey(NamedTuple):
    """The source of each cell, and the metadata of the notebook."""

    sources: list[str]
    metadata: dict[str, Any]


class Head(NamedTuple):
    """The members of a cell that a look at all cells needs, as the file has them; None where it has none."""

    id: object
    cell_type: object
    source: str | list[str] | None


class _Start(Exception):
    """The array of cells has been reached."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def find_places(data: bytes) -> Places | None:
    """The places of the cells of a notebook of version 4.

    None if there are no cells, if this is no such notebook, or if `json` has to read it: it is broken, it has a BOM,
    NaN, a lone surrogate, a very long number or very deep values, or `cells` stands there twice.
    """
    found = _decoded(_decoders().notebook, data)
    if found is None or not found.cells:
        return None
    raws = found.cells
    start = _start_of_cells(data)
    if start is None:
        return None
    places: list[Place] = []
    position = start + 1
    for raw in raws:
        begin = _after_whitespace(data, position)
        end = begin + len(raw)
        comma = _after_whitespace(data, end)
        if data[begin] != _OBJECT or data[comma] != (_COMMA if len(places) < len(raws) - 1 else _END_OF_ARRAY):
            return None
        places.append(Place(begin, end, str(data[position:begin], "ascii"), str(data[end:comma], "ascii")))
        position = comma + 1
    shell = str(data[: start + 1], "utf-8") + str(data[position - 1 :], "utf-8")
    return Places(shell, places) if _has_cells_once(shell) else None


def survey(data: bytes) -> Survey | None:
    """The parts of a notebook of version 4 that lists and searches of sources need, in one pass.

    None if `json` has to read it, as for `find_places`, or if a source is neither a text nor a list of texts. Values
    that are not read may be a little deeper here.
    """
    found = _decoded(_decoders().survey, data, levels=0) if has_room_for_texts(len(data)) else None
    if found is None or (type(found.nbformat), found.nbformat, type(found.nbformat_minor)) != (int, 4, int):
        return None
    sources = [cell.source if isinstance(cell.source, str) else "".join(cell.source) for cell in found.cells]
    try:
        metadata = _value(found.metadata)
    except RecursionError:
        return None
    return Survey(sources, metadata if isinstance(metadata, dict) else {})


def read_ids(data: bytes) -> list[object] | None:
    """The id of each cell of a checked file, in one pass, None where a cell has none. None if it takes `json`."""
    found = decoded_texts(_decoders().ids, data)  # none for a number that is no id, and too large for msgspec
    return None if found is None else [cell.id for cell in found.cells]


def read_heads(data: bytes) -> list[Head] | None:
    """Id, type and source of each cell of a checked file, in one pass. None if it takes `json`."""
    found = decoded_texts(_decoders().heads, data)  # none for a source that is no text, for one
    if found is None:
        return None
    return [Head(cell.id, cell.cell_type, cell.source) for cell in found.cells]


def decoded_texts(decoder: msgspec.json.Decoder[Any], data: bytes | memoryview) -> Any:
    """The value of checked JSON by a decoder that makes texts; None if it takes `json`."""
    if not has_room_for_texts(len(data)):
        return None
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return None


def read_small_members(raw: bytes | memoryview) -> dict[str, Any]:
    """The members of a checked cell but for the large ones."""
    members = _decoders().object.decode(raw)
    return {key: _value(member) for key, member in members.items() if key not in LARGE_MEMBERS}


def count_objects(raw: bytes | memoryview, member: str) -> int:
    """How many objects the array `member` of a checked cell has; 0 if it is no array."""
    found = _decoders().object.decode(raw).get(member)
    if found is None or memoryview(found)[0] != _ARRAY:
        return 0
    return sum(memoryview(element)[0] == _OBJECT for element in _decoders().array.decode(found))


def _value(raw: msgspec.Raw) -> Any:
    text = str(raw, "utf-8")
    return text[1:-1] if text[0] == '"' and "\\" not in text else read_value(text, 0)[0]


class _Decoders:
    """The decoders of msgspec for each shape that is read here."""

    def __init__(self) -> None:
        notebook: Any = msgspec.defstruct("Notebook", [("cells", list[msgspec.Raw])])
        self.notebook: msgspec.json.Decoder[Any] = msgspec.json.Decoder(notebook)
        cell = msgspec.defstruct("Cell", [("id", Any, None)])
        ids: Any = msgspec.defstruct("Ids", [("cells", list[cell])])  # type: ignore[valid-type]
        self.ids: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ids)
        of_head: list[tuple[str, Any, Any]] = [
            ("id", Any, None),
            ("cell_type", Any, None),
            ("source", str | list[str] | None, None),
        ]
        heads: Any = msgspec.defstruct("Heads", [("cells", list[msgspec.defstruct("CellHead", of_head)])])  # type: ignore[misc]
        self.heads: msgspec.json.Decoder[Any] = msgspec.json.Decoder(heads)
        text = msgspec.defstruct("CellText", [("source", str | list[str], "")])
        of_survey: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("cells", list[text]),  # type: ignore[valid-type]
            ("nbformat", Any),
            ("nbformat_minor", Any, 0),
            ("metadata", msgspec.Raw, msgspec.Raw(b"{}")),
        ]
        found: Any = msgspec.defstruct("Survey", of_survey)
        self.survey: msgspec.json.Decoder[Any] = msgspec.json.Decoder(found)
        self.object = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self.array = msgspec.json.Decoder(list[msgspec.Raw])


@functools.cache  # of types, not of content
def _decoders() -> _Decoders:
    return _Decoders()


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes, *, levels: int = _LEVELS_KEPT) -> Any:
    """The value of a whole file; None if `json` has to read it."""
    try:
        found = _at_depth(levels, decoder, data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if _is_utf8(data) and not _may_have_long_number(data) else None


def _at_depth(levels: int, decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """The value, decoded `levels` calls further down. `map` makes them count on the stack of C, too."""
    return next(map(_at_depth, (levels - 1,), (decoder,), (data,))) if levels else decoder.decode(data)


def _is_utf8(data: bytes) -> bool:
    """msgspec does not look at the bytes of texts that it does not make."""
    if data.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    try:
        for at in range(0, len(data), _DECODED_AT_ONCE):
            decoder.decode(view[at : at + _DECODED_AT_ONCE])  # in pieces: a text may take four times the bytes
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _may_have_long_number(data: bytes) -> bool:
    """Whether there may be a number of more digits than Python reads. Such a number spans two samples in a row."""
    limit = sys.get_int_max_str_digits()
    if not limit:
        return False
    step = limit // 2
    found = _DIGIT_PAIR.finditer(data[::step])
    return any(data[pair.start() * step : (pair.start() + 1) * step].isdigit() for pair in found)


def _start_of_cells(data: bytes) -> int | None:
    """Where the array of cells opens. Members before it are walked over as Latin-1, where each byte is a character."""

    def read(key: str, text: str, start: int) -> tuple[Any, int]:
        if key == "cells":
            raise _Start(start)
        return read_value(text, start)

    for length in (_PREFIX, len(data)):
        text = str(data[:length], "latin-1")
        try:
            read_members(text, after_whitespace(text, 0), read)
        except _Start as found:
            return found.at if data[found.at : found.at + 1] == b"[" else None
        except (ValueError, RecursionError):  # the prefix ends inside a member
            continue
    return None


def _has_cells_once(shell: str) -> bool:
    try:
        members, _ = read_members(shell, after_whitespace(shell, 0))
    except (ValueError, RecursionError):
        return False
    return [member.key for member in members].count("cells") == 1


def _after_whitespace(data: bytes, at: int) -> int:
    if data[at] > _SPACE:
        return at
    found = _WHITESPACE.match(data, at)
    return at if found is None else found.end()
