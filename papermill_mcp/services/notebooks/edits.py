"""Operations on the cells of a notebook, and how a change is shown.

An operation is a small value; `NotebookEdit` applies one after the other to a document and knows, at the end, the
fate of each cell. It opens no file: its owner saves the document, or drops it, and nothing has happened.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from papermill_mcp.core.documents.check import upgraded
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.errors import InvalidArgumentError, ServerError, nearest
from papermill_mcp.services.notebooks.view import insertion_point, ranges
from papermill_mcp.utils.diff_text import unified_diff
from papermill_mcp.utils.text_utils import cell_name, count_noun, one_line

CellKind = Literal["code", "markdown", "raw"]

_NOTHING_CHANGED = "nothing was changed"
_NEAREST_LINES = 3000  # of a source, looked at for the line that was probably meant
_NEAREST_CHARS = 200  # of each of them
_LISTED_KEYS = 8


@dataclass(frozen=True)
class CellRef:
    """One cell, by index or by id: exactly one of the two."""

    index: int | None = None
    cell_id: str | None = None

    def __bool__(self) -> bool:
        return self.index is not None or self.cell_id is not None


@dataclass(frozen=True)
class NewCell:
    """A cell to be made."""

    cell_type: CellKind
    source: str
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None
    cell_id: str | None = None

    def data(self) -> dict[str, Any]:
        """The cell as nbformat 4 has it; without an id, unless one is wanted."""
        metadata = dict(self.metadata or {})
        if tags := self.tags or metadata.get("tags"):
            metadata["tags"] = checked_tags(tags)
        data: dict[str, Any] = {"cell_type": self.cell_type, "metadata": metadata, "source": self.source}
        if self.cell_id is not None:
            data["id"] = self.cell_id
        if self.cell_type == "code":
            data |= {"execution_count": None, "outputs": []}
        return data


@dataclass(frozen=True)
class Add:
    """Insert a cell: where it will stand, or behind another one; at the end without either."""

    cell: NewCell
    index: int | None = None
    after_cell_id: str | None = None


@dataclass(frozen=True)
class Update:
    """Set parts of a cell. `old_text` must stand in the source exactly once. A metadata value of None removes a key."""

    at: CellRef
    source: str | None = None
    old_text: str | None = None
    new_text: str | None = None
    cell_type: CellKind | None = None
    tags: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Remove:
    """Take a cell out."""

    at: CellRef


@dataclass(frozen=True)
class Move:
    """Put a cell where it will have the index `to`, or behind another one."""

    at: CellRef
    to: int | None = None
    after_cell_id: str | None = None


@dataclass(frozen=True)
class ClearOutputs:
    """Drop the outputs and the count of a code cell, or of all."""

    at: CellRef


@dataclass(frozen=True)
class SetNotebookMetadata:
    """Set keys of the notebook's metadata. A value of None removes one."""

    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class AddIds:
    """Give ids to the cells that have none, or one that another cell has."""


@dataclass(frozen=True)
class Convert:
    """Make a notebook of version 3 one of version 4.5."""


Operation = Add | Update | Remove | Move | ClearOutputs | SetNotebookMetadata | AddIds | Convert

# The arguments of each operation beside `op`, and the required ones among them.
_CELL = {"index", "cell_id"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "add": ({"cell_type", "source", "tags", "metadata", "after_cell_id"} | _CELL, {"source"}),
    "update": ({"source", "cell_type", "tags", "metadata"} | _CELL, set()),
    "replace_text": ({"old_text", "new_text"} | _CELL, {"old_text", "new_text"}),
    "remove": (_CELL, set()),
    "move": ({"to", "after_cell_id"} | _CELL, set()),
    "set_type": ({"cell_type"} | _CELL, {"cell_type"}),
    "set_tags": ({"tags"} | _CELL, {"tags"}),
    "clear_outputs": (_CELL, set()),
    "set_metadata": ({"metadata"} | _CELL, {"metadata"}),
    "add_ids": (set(), set()),
    "convert": (set(), set()),
}


def new_cell(fields: Mapping[str, Any]) -> NewCell:
    """The cell that fields of a client describe; a code cell unless they say otherwise."""
    return NewCell(
        fields.get("cell_type", "code"),
        fields["source"],
        fields.get("tags", ()),
        fields.get("metadata"),
        fields.get("cell_id"),
    )


def fields_of(op: object) -> set[str] | None:
    """The fields of an operation, `op` included; None if there is no such operation."""
    return _FIELDS[op][0] | {"op"} if isinstance(op, str) and op in _FIELDS else None


def operation(fields: Mapping[str, Any]) -> Operation:
    """The operation that a flat object with `op` stands for.

    Raises:
        InvalidArgumentError: it has a field that the operation does not take, or lacks one.
    """
    given = {key: value for key, value in fields.items() if key != "op" and value is not None}
    op = fields["op"]
    allowed, required = _FIELDS[op]
    takes = f"{op} takes {', '.join(sorted(allowed)) or 'no further fields'}"
    if wrong := sorted(given.keys() - allowed):
        near = nearest(wrong[0], allowed)
        guess = f"; did you mean {near!r}?" if near else ""
        raise InvalidArgumentError(f"{op} has no field {wrong[0]!r}{guess}", allowed=takes)
    if missing := sorted(required - given.keys()):
        raise InvalidArgumentError(f"{op} needs the field {missing[0]!r}", allowed=takes)
    at = CellRef(given.get("index"), given.get("cell_id"))
    match op:
        case "add":
            return Add(new_cell(given), given.get("index"), given.get("after_cell_id"))
        case "remove":
            return Remove(at)
        case "move":
            return Move(at, given.get("to"), given.get("after_cell_id"))
        case "clear_outputs":
            return ClearOutputs(at)
        case "set_metadata" if not at:
            return SetNotebookMetadata(given["metadata"])
        case "add_ids":
            return AddIds()
        case "convert":
            return Convert()
        case _:
            return Update(at, **{key: value for key, value in given.items() if key not in _CELL})


class NotebookEdit:
    """Operations on a document, one after the other, and their changes in all."""

    def __init__(self, document: NotebookDocument, display_path: str) -> None:
        self.document = document
        self._display_path = display_path
        self._before = list(document.cells)
        self._metadata = document.metadata
        self._version = (document.nbformat, document.nbformat_minor)
        self._origins: list[int | None] = list(range(len(document.cells)))  # where each cell stood; None: it is new
        self._moved: set[int] = set()
        self.place = 0
        """Where the cell of the last operation stands; for a removed one, where it stood."""

    def apply_all(self, operations: Sequence[Operation]) -> None:
        """Apply operations in order. The error of one names its position."""
        for position, one in enumerate(operations):
            try:
                self.apply(one)
            except ServerError as error:
                raise at_position(error, position) from error

    def apply(self, one: Operation) -> None:
        """Apply one operation. Indexes count as things are now, after the operations before."""
        match one:
            case Add():
                self._add(one)
            case Update():
                self._update(one)
            case Remove():
                self.place = self._find(one.at)
                self.document.remove(self.place)
                del self._origins[self.place]
            case Move():
                self._move(one)
            case ClearOutputs():
                self._clear(one)
            case SetNotebookMetadata():
                self.document.set_member("metadata", _merged(self.document.metadata, one.metadata))
            case AddIds():
                self.document.add_ids()
            case Convert():
                self._convert()

    def _find(self, at: CellRef) -> int:
        return self.document.find(index=at.index, cell_id=at.cell_id, display_path=self._display_path)

    def _add(self, one: Add) -> None:
        if one.index is not None and one.after_cell_id is not None:
            raise InvalidArgumentError(
                "index and after_cell_id are both given", allowed="give one of them, or neither for the end"
            )
        if one.after_cell_id is not None:
            place = self.document.find(cell_id=one.after_cell_id, display_path=self._display_path) + 1
        else:
            place = insertion_point(one.index, len(self.document.cells), self._display_path)
        if one.cell.cell_id is not None and not self.document.supports_ids:
            raise InvalidArgumentError(
                f"{self._display_path} is of nbformat {self.document.nbformat}.{self.document.nbformat_minor}, "
                "whose cells have no ids",
                advice="leave cell_id out, or use add_ids first",
            )
        self.document.insert(place, one.cell.data())
        self._origins.insert(place, None)
        self.place = place

    def _update(self, one: Update) -> None:
        place = self.place = self._find(one.at)
        cell = self.document.cells[place]
        members: dict[str, Any] = {}
        drop: set[str] = set()
        kind = one.cell_type or cell.cell_type
        if kind != cell.cell_type:
            members["cell_type"] = kind
            if kind == "code":
                if cell.data.get("attachments"):
                    raise InvalidArgumentError(
                        f"the cell {self._name(place)} has attachments, which a code cell cannot hold",
                        advice="add a code cell beside it instead",
                    )
                drop.add("attachments")
                members |= {"execution_count": None, "outputs": []}
            else:
                drop |= {"outputs", "execution_count"}
        source = self._new_source(one, cell)
        if source is not None and source != cell.source:
            members["source"] = source
            if kind == "code":  # they came from the old source
                members |= {"execution_count": None, "outputs": []}
        if one.metadata is not None or one.tags is not None:
            found = cell.data.get("metadata")
            old = found if isinstance(found, dict) else {}
            new = _merged(old, one.metadata or {})
            if one.tags is not None:
                new = _merged(new, {"tags": checked_tags(one.tags) or None})
            if new != old:
                members["metadata"] = new
        self.document.update(place, members, drop=drop)

    def _new_source(self, one: Update, cell: NotebookCell) -> str | None:
        if (one.old_text is None) != (one.new_text is None):
            raise InvalidArgumentError("old_text and new_text belong together", allowed="give both, or neither")
        if one.old_text is None or one.new_text is None:
            return one.source
        if one.source is not None:
            raise InvalidArgumentError(
                "source and old_text are both given", allowed="source is the whole new source; old_text a part of it"
            )
        return replaced(
            cell.source, one.old_text, one.new_text, f"cell {self._name(self.place)} of {self._display_path}"
        )

    def _move(self, one: Move) -> None:
        place = self._find(one.at)
        if (one.to is None) == (one.after_cell_id is None):
            raise InvalidArgumentError("move needs to or after_cell_id", allowed="give exactly one of the two")
        if one.after_cell_id is not None:
            after = self.document.find(cell_id=one.after_cell_id, display_path=self._display_path)
            if after == place:
                raise InvalidArgumentError("a cell cannot stand behind itself", allowed="after_cell_id names another")
            to = after if place < after else after + 1
        else:
            to = self.document.find(index=one.to, display_path=self._display_path)
        self.document.move(place, to)
        origin = self._origins.pop(place)
        self._origins.insert(to, origin)
        if origin is not None and to != place:
            self._moved.add(origin)
        self.place = to

    def _clear(self, one: ClearOutputs) -> None:
        if one.at:
            self.place = self._find(one.at)
            if self.document.cells[self.place].cell_type != "code":
                raise InvalidArgumentError(
                    f"the cell {self._name(self.place)} is {self.document.cells[self.place].cell_type or 'of no type'}",
                    allowed="only code cells have outputs",
                )
        for place in [self.place] if one.at else range(len(self.document.cells)):
            data = self.document.cells[place].data
            if data.get("cell_type") == "code" and (data.get("outputs") or data.get("execution_count") is not None):
                self.document.update(place, {"outputs": [], "execution_count": None})

    def _convert(self) -> None:
        if self.document.nbformat >= 4:
            return
        self.document = upgraded(self.document, display_path=self._display_path)
        if len(self.document.cells) != len(self._origins):
            self._before, self._origins = [], [None] * len(self.document.cells)

    def _name(self, place: int) -> str:
        return cell_name(place, self.document.cells[place].cell_id)

    # Changes

    @property
    def before(self) -> list[NotebookCell]:
        """The cells before the first operation."""
        return self._before

    @property
    def metadata_before(self) -> dict[str, Any]:
        """The metadata of the notebook before the first operation."""
        return self._metadata

    def touched(self) -> list[int]:
        """Where the cells stand that are new, changed or moved, and the neighbours of removed ones."""
        places = []
        kept = {origin for origin in self._origins if origin is not None}
        last = len(self._before) - 1
        for place, origin in enumerate(self._origins):
            changed = origin is None or origin in self._moved or self._before[origin] is not self.document.cells[place]
            if changed or (origin is not None and not {max(origin - 1, 0), min(origin + 1, last)} <= kept):
                places.append(place)
        return places

    def code_to_run(self) -> list[int]:
        """Where the code cells stand that are new, or have another source."""
        places = []
        for place, origin in enumerate(self._origins):
            cell = self.document.cells[place]
            old = None if origin is None else self._before[origin]
            same = old is not None and (old.cell_type, old.source) == (cell.cell_type, cell.source)
            if cell.cell_type == "code" and not same:
                places.append(place)
        return places

    @property
    def moved(self) -> list[str]:
        """The ids of the cells that were moved."""
        return [cell_id for origin in self._moved if (cell_id := self._before[origin].cell_id)]

    def diff(self, limit: int) -> str:
        """Notes and unified diffs of sources, cell by cell, at most about `limit` characters."""
        lines: list[str] = []
        room = limit
        left_out = 0
        for line in self._diff_lines():
            if room > 0:
                lines.append(line)
                room -= len(line) + 1
            else:
                left_out += 1
        if left_out:
            lines.append(f"… {count_noun(left_out, 'line')} of this diff left out: read the cells to see them")
        return "\n".join(lines)

    def _diff_lines(self) -> Iterator[str]:
        yield from self._notebook_notes()
        kept = {origin for origin in self._origins if origin is not None}
        for origin, cell in enumerate(self._before):
            if origin not in kept:
                name = f"cell {cell_name(origin, cell.cell_id)}"
                yield f"{name}: removed ({_extent(cell)})"
                yield from unified_diff(cell.source, "", old=name, new="/dev/null")
        new_ids: list[int] = []
        for place, stood in enumerate(self._origins):
            cell = self.document.cells[place]
            old = None if stood is None else self._before[stood]
            if old is cell and stood not in self._moved:
                continue
            name = f"cell {self._name(place)}"
            if old is None or stood is None:
                yield f"{name}: added ({_extent(cell)})"
                yield from unified_diff("", cell.source, old="/dev/null", new=name)
                continue
            notes = [f"moved from {stood}"] if stood in self._moved else []
            notes += _notes(old, cell) if old is not cell else []
            if old.cell_id != cell.cell_id:
                new_ids.append(place)
            if notes:
                yield f"{name}: {', '.join(notes)}"
            if old.source != cell.source:
                yield from unified_diff(old.source, cell.source, old=f"cell {cell_name(stood, old.cell_id)}", new=name)
        if new_ids:
            yield f"new ids for {count_noun(len(new_ids), 'cell')}: {ranges(new_ids)}"

    def _notebook_notes(self) -> Iterator[str]:
        version = (self.document.nbformat, self.document.nbformat_minor)
        if version != self._version:
            yield f"notebook: nbformat {self._version[0]}.{self._version[1]} -> {version[0]}.{version[1]}"
        if keys := _changed_keys(self._metadata, self.document.metadata):
            yield f"notebook: metadata {keys}"


def at_position(error: ServerError, position: int) -> ServerError:
    """The same error, naming which of the operations it is about."""
    return error.within(f"operations[{position}]", state="No operation was applied")


def replaced(source: str, old: str, new: str, where: str) -> str:
    """`source` with the one place where `old` stands replaced.

    Raises:
        InvalidArgumentError: `old` is empty, or stands nowhere or more than once.
    """
    if not old:
        raise InvalidArgumentError("old_text is empty", allowed="a text that stands in the cell exactly once")
    first = source.find(old)
    if first >= 0 and source.find(old, first + 1) < 0:
        return source[:first] + new + source[first + len(old) :]
    if first < 0:
        raise InvalidArgumentError(
            f"old_text does not stand in {where}",
            allowed=_nearest_line(source, old),
            state=_NOTHING_CHANGED,
            advice="copy it from read_notebook, with its spaces and line ends",
        )
    count = 0
    lines: list[str] = []
    while first >= 0:
        count += 1
        if count <= _LISTED_KEYS:
            lines.append(str(source.count("\n", 0, first) + 1))
        first = source.find(old, first + 1)
    raise InvalidArgumentError(
        f"old_text stands {count} times in {where}, at line {', '.join(lines)}{', …' if count > len(lines) else ''}",
        allowed="it must stand there exactly once",
        state=_NOTHING_CHANGED,
        advice="take in more of the text around the place that is meant",
    )


def _nearest_line(source: str, old: str) -> str:
    wanted = next((line for line in old.split("\n") if line.strip()), old)[:_NEAREST_CHARS]
    lines = [line[:_NEAREST_CHARS] for line in source.split("\n", _NEAREST_LINES)[:_NEAREST_LINES]]
    if not any(line.strip() for line in lines):
        return "the cell is empty"
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    best, place = -1.0, 0
    for number, line in enumerate(lines):
        matcher.set_seq1(line)
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and matcher.ratio() > best:
            best, place = matcher.ratio(), number
    return f"the nearest line is {place + 1}: {lines[place]!r}"


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags as nbformat allows them.

    Raises:
        InvalidArgumentError: they are no list of texts, or one is empty, has a comma or stands there twice.
    """
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidArgumentError(
            f"{str(tags)[:60]!r} cannot be the tags of a cell", allowed="tags are a list of texts"
        )
    for number, tag in enumerate(tags):
        if not tag or "," in tag or tag in tags[:number]:
            raise InvalidArgumentError(
                f"{tag[:60]!r} cannot be a tag here", allowed="tags are not empty, have no comma and differ"
            )
    return list(tags)


def _merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old) | {key: value for key, value in changes.items() if value is not None}
    return {key: value for key, value in merged.items() if key not in changes or changes[key] is not None}


def _extent(cell: NotebookCell) -> str:
    facts = [cell.cell_type or "no type", count_noun(cell.source.count("\n") + 1 if cell.source else 0, "line")]
    if cell.outputs:
        facts.append(count_noun(len(cell.outputs), "output"))
    return ", ".join(facts)


def _notes(old: NotebookCell, new: NotebookCell) -> list[str]:
    """The changes of a cell besides its source and its id."""
    notes = []
    if old.cell_type != new.cell_type:
        notes.append(f"{old.cell_type or 'no type'} -> {new.cell_type}")
    if old.outputs and not new.outputs:
        notes.append(f"{count_noun(len(old.outputs), 'output')} dropped")
    elif old.data.get("execution_count") is not None and new.data.get("execution_count") is None:
        notes.append("execution count dropped")
    if old.tags != new.tags:
        notes.append(f"tags {', '.join(old.tags) or 'none'} -> {', '.join(new.tags) or 'none'}")
    before, after = (cell.data.get("metadata") for cell in (old, new))
    before, after = (value if isinstance(value, dict) else {} for value in (before, after))
    if keys := _changed_keys(
        {k: v for k, v in before.items() if k != "tags"}, {k: v for k, v in after.items() if k != "tags"}
    ):
        notes.append(f"metadata {keys}")
    return [one_line(note, 300) for note in notes]


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changes = [f"-{key}" for key in old if key not in new]
    changes += [f"+{key}" for key in new if key not in old]
    changes += [f"{key} changed" for key in new if key in old and old[key] != new[key]]
    rest = len(changes) - _LISTED_KEYS
    shown = ", ".join(re.sub(r"\s+", " ", change)[:80] for change in changes[:_LISTED_KEYS])
    return shown if rest <= 0 else f"{shown} and {rest} more"
