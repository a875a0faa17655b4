"""Operations on the cells of a notebook, and how a change is shown.

An operation is a small value; `NotebookEdit` applies one after the other to a document and knows, at the end, the
fate of each cell. It opens no file: its owner saves the document, or drops it, and nothing has happened.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from papermill_mcp.core.documents.check import upgraded
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.errors import InvalidArgumentError, ServerError, listed, nearest
from papermill_mcp.services.notebooks.view import insertion_point, ranges
from papermill_mcp.utils.diff_text import hunks
from papermill_mcp.utils.text_utils import cell_name, count_noun, one_line

CellKind = Literal["code", "markdown", "raw"]

_NOTHING_CHANGED = "nothing was changed"
_NEAREST_LINES = 3000  # of a source, looked at for the line that was probably meant
_NEAREST_CHARS = 200  # of each of them
_LISTED_KEYS = 8
_LISTED_CELLS = 100  # of those with replaced texts
_DROPPED = " dropped"


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
class ReplaceText:
    """Put `new_text` in place of `old_text`: the one match in a cell, or all in a cell or in the notebook.

    Attributes:
        word: only where no letter, digit or underscore stands beside the match.
    """

    at: CellRef
    old_text: str
    new_text: str
    all: bool = False
    word: bool = False


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


@dataclass(frozen=True)
class Relocate:
    """Give the notebook another place, or with `copy` make another file of its bytes. No edit goes with it."""

    to: str
    copy: bool


Operation = Add | Update | ReplaceText | Remove | Move | ClearOutputs | SetNotebookMetadata | AddIds | Convert

# The arguments of each operation beside `op`, and the required ones among them.
_CELL = {"index", "cell_id"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "add": ({"cell_type", "source", "tags", "metadata", "after_cell_id"} | _CELL, {"source"}),
    "update": ({"source", "cell_type", "tags", "metadata"} | _CELL, set()),
    "replace_text": ({"old_text", "new_text", "all", "word"} | _CELL, {"old_text", "new_text"}),
    "remove": (_CELL, set()),
    "move": ({"to", "after_cell_id"} | _CELL, set()),
    "set_type": ({"cell_type"} | _CELL, {"cell_type"}),
    "set_tags": ({"tags"} | _CELL, {"tags"}),
    "clear_outputs": (_CELL, set()),
    "set_metadata": ({"metadata"} | _CELL, {"metadata"}),
    "add_ids": (set(), set()),
    "convert": (set(), set()),
    "rename": ({"to"}, {"to"}),
    "copy": ({"to"}, {"to"}),
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


def operation(fields: Mapping[str, Any]) -> Operation | Relocate:
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
        case "replace_text":
            return ReplaceText(at, **{key: value for key, value in given.items() if key not in _CELL})
        case "remove":
            return Remove(at)
        case "move":
            return Move(at, _index(given.get("to")), given.get("after_cell_id"))
        case "clear_outputs":
            return ClearOutputs(at)
        case "set_metadata" if not at:
            return SetNotebookMetadata(given["metadata"])
        case "add_ids":
            return AddIds()
        case "convert":
            return Convert()
        case "rename" | "copy":
            if not isinstance(to := given["to"], str):
                raise InvalidArgumentError(f"{op} to {to} has no path", allowed="to is the new path, ending in .ipynb")
            return Relocate(to, copy=op == "copy")
        case _:
            return Update(at, **{key: value for key, value in given.items() if key not in _CELL})


def _index(to: int | str | None) -> int | None:
    """The index that a cell is moved to."""
    if isinstance(to, str):
        if not re.fullmatch(r"\s*-?\d{1,9}\s*", to):
            raise InvalidArgumentError(
                f"{to[:60]!r} is no index", allowed="to of the operation move is the new index, an integer"
            )
        return int(to)
    return to


class NotebookEdit:
    """Operations on a document, one after the other, and their changes in all."""

    def __init__(self, document: NotebookDocument, display_path: str) -> None:
        self.document = document
        self._display_path = display_path
        self._before = list(document.cells)
        document.ids()  # most edits ask for all of them, cell by cell
        self._metadata = document.metadata
        self._version = (document.nbformat, document.nbformat_minor)
        self._origins: list[int | None] = list(range(len(document.cells)))  # where each cell stood; None: it is new
        self._moved: set[int] = set()
        self._sent: set[int] = set()  # cells whose whole source the caller gave
        self._matches: Counter[int] = Counter()  # replaced in each cell by `all`
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
            case ReplaceText():
                self._replace(one)
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

    def _update(self, one: Update, *, sent: bool = True) -> None:
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
        origin = self._origins[place]
        if sent and one.source is not None and origin is not None:
            self._sent.add(origin)
        if source is not None and source != cell.source:
            members["source"] = source
            if kind == "code":  # they came from the old source
                members |= {"execution_count": None, "outputs": []}
        if one.metadata is not None or one.tags is not None:
            old = cell.metadata
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

    def _replace(self, one: ReplaceText) -> None:
        if not one.all and not one.at:
            raise InvalidArgumentError(
                "replace_text names no cell", allowed="cell_id or index, or all=true for every cell"
            )
        places = [self._find(one.at)] if one.at else list(range(len(self.document.cells)))
        if not one.all:
            self.place = places[0]
            where = f"cell {self._name(self.place)} of {self._display_path}"
            source = self.document.cells[self.place].source
            self._set_source(self.place, replaced(source, one.old_text, one.new_text, where, word=one.word))
            return
        found = False
        for place in places:
            source = self.document.cells[place].source
            matches = [*_matches(source, one.old_text, word=one.word)]
            if not matches:
                continue
            if not found:
                self.place, found = place, True
            origin = self._origins[place]
            if origin is not None:
                self._matches[origin] += len(matches)
            self._set_source(place, _put_in(source, matches, len(one.old_text), one.new_text))
        if not found:
            if one.at:
                where = f"cell {self._name(places[0])} of {self._display_path}"
                raise _absent(self.document.cells[places[0]].source, one.old_text, where, word=one.word)
            parts = sum(one.old_text in cell.source for cell in self.document.cells) if one.word else 0
            raise InvalidArgumentError(
                f"old_text stands in no cell of {self._display_path}" + (" as a whole word" if one.word else ""),
                allowed=f"{count_noun(parts, 'cell')} {'has' if parts == 1 else 'have'} it inside longer words"
                if parts
                else "",
                state=_NOTHING_CHANGED,
                advice="leave word out to replace parts of words" if parts else "",
            )

    def _set_source(self, place: int, source: str) -> None:
        self._update(Update(CellRef(index=place), source=source), sent=False)

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
            cell = self.document.cells[place]
            if cell.cell_type == "code" and (cell.member("execution_count") is not None or cell.read().get("outputs")):
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

    def code_to_run(self) -> list[int]:
        """Where the code cells stand that are new, or have another source."""
        places = []
        for place, origin in enumerate(self._origins):
            cell = self.document.cells[place]
            old = None if origin is None else self._before[origin]
            if old is cell or cell.cell_type != "code":
                continue
            if old is None or (old.cell_type, old.source) != (cell.cell_type, cell.source):
                places.append(place)
        return places

    @property
    def moved(self) -> list[str]:
        """The ids of the cells that were moved."""
        return [cell_id for origin in self._moved if (cell_id := self._before[origin].cell_id)]

    def shifted(self) -> list[int]:
        """Where the cells stand that are new, moved or of another type, and the neighbours of removed ones."""
        kept = {origin for origin in self._origins if origin is not None}

        def is_shifted(place: int, origin: int | None) -> bool:
            if origin is None or origin in self._moved:
                return True
            beside = {max(origin - 1, 0), min(origin + 1, len(self._before) - 1)}
            before, now = self._before[origin], self.document.cells[place]
            return not beside <= kept or (before is not now and before.cell_type != now.cell_type)

        return [place for place, origin in enumerate(self._origins) if is_shifted(place, origin)]

    def changes(self) -> list[Change]:
        """The change of the notebook, then of each cell."""
        return [*self._changes()]

    def _changes(self) -> Iterator[Change]:
        if notes := [*self._notebook_notes()]:
            yield Change("notebook", notes)
        changed = [
            (place, stood)
            for place, stood in enumerate(self._origins)
            if stood is None or stood in self._moved or self._before[stood] is not self.document.cells[place]
        ]
        kept = {origin for origin in self._origins if origin is not None}
        removed = [origin for origin in range(len(self._before)) if origin not in kept]
        for origin in removed:
            cell = self._before[origin]
            yield Change(
                f"cell {cell_name(origin, cell.cell_id)}",
                [f"removed ({_extent(cell)})"],
                [*hunks(cell.source, "")][1:],
            )
        context = 1 if len(changed) + len(removed) == 1 else 0
        new_ids: list[int] = []
        for place, stood in changed:
            cell = self.document.cells[place]
            name = f"cell {self._name(place)}"
            if stood is None:
                yield Change(name, [f"added ({_extent(cell)})"])
                continue
            old = self._before[stood]
            if old.cell_id != cell.cell_id:
                new_ids.append(place)
            change = Change(name, _notes(old, cell), sent=stood in self._sent, matches=self._matches[stood])
            if stood in self._moved:
                change.notes.insert(0, f"moved from {stood}")
            if old.source != cell.source:
                lines = hunks(old.source, cell.source, context=context)
                change.lines = [line for line in lines if context or not line.startswith("@@")]
            if change.notes or change.lines:
                yield change
        if new_ids:
            yield Change(f"new ids for {count_noun(len(new_ids), 'cell')}", [ranges(new_ids)])

    def _notebook_notes(self) -> Iterator[str]:
        version = (self.document.nbformat, self.document.nbformat_minor)
        if version != self._version:
            yield f"nbformat {self._version[0]}.{self._version[1]} -> {version[0]}.{version[1]}"
        if keys := _changed_keys(self._metadata, self.document.metadata):
            yield f"metadata {keys}"


@dataclass
class Change:
    """The change of one cell, or of the notebook itself.

    Attributes:
        name: of the cell.
        lines: of its source, with `-` or `+` before them. Where it is the only change there are `@@` lines, too.
        sent: the caller gave the whole source.
        matches: the texts that an operation for several cells replaced.
    """

    name: str
    notes: list[str]
    lines: list[str] = field(default_factory=list)
    sent: bool = False
    matches: int = 0

    def head(self) -> str:
        """The cell and its notes in a line."""
        return f"{self.name}: {', '.join(self.notes)}" if self.notes else self.name


def diff_text(changes: Iterable[Change], limit: int) -> str:
    """Changes as lines of text, at most about `limit` characters. The others are counted."""
    lines: list[str] = []
    left_out = 0
    for line in (line for change in changes for line in (change.head(), *change.lines)):
        if limit > 0:
            lines.append(line[:limit])
            limit -= len(line) + 1
        else:
            left_out += 1
    if left_out:
        lines.append(f"… {count_noun(left_out, 'line')} of this diff left out: read the cells to see them")
    return "\n".join(lines)


def summary(changes: Sequence[Change]) -> list[Change]:
    """The same changes without the sources that the caller has sent, and replaced texts of many cells in a line."""
    many = [change for change in changes if change.matches]
    rows: list[Change] = []
    if len(many) > 1:
        names = [f"{change.name.removeprefix('cell ')} {change.matches}" for change in many]
        dropped = sum(any(note.endswith(_DROPPED) for note in change.notes) for change in many)
        total = count_noun(sum(change.matches for change in many), "place")
        rows.append(
            Change(
                f"{total} replaced in {len(many)} cells",
                [listed(names, limit=_LISTED_CELLS), *([f"outputs of {dropped} of them dropped"] if dropped else [])],
            )
        )
    for change in changes:
        if change.matches and len(many) > 1:
            notes = [note for note in change.notes if not note.endswith(_DROPPED)]
            rows += [Change(change.name, notes)] if notes else []
        elif change.sent and change.lines:
            added, gone = (sum(line.startswith(mark) for line in change.lines) for mark in "+-")
            rows.append(Change(change.name, [*change.notes, f"lines +{added} -{gone}"]))
        elif change.matches:
            found = count_noun(change.matches, "place")
            rows.append(Change(change.name, [f"{found} replaced", *change.notes], change.lines))
        else:
            rows.append(change)
    return rows


def at_position(error: ServerError, position: int) -> ServerError:
    """The same error, naming which of the operations it is about."""
    return error.within(f"operations[{position}]", state="No operation was applied")


def replaced(source: str, old: str, new: str, where: str, *, word: bool = False) -> str:
    """`source` with the one place where `old` stands replaced.

    Args:
        word: count only whole words.

    Raises:
        InvalidArgumentError: `old` is empty, or stands nowhere or more than once.
    """
    found = [*_matches(source, old, word=word, overlapping=True)]
    if len(found) == 1:
        return _put_in(source, found, len(old), new)
    if not found:
        raise _absent(source, old, where, word=word)
    lines = [str(source.count("\n", 0, first) + 1) for first in found[:_LISTED_KEYS]]
    more = ", …" if len(found) > len(lines) else ""
    raise InvalidArgumentError(
        f"old_text stands {len(found)} times in {where}, at line {', '.join(lines)}{more}",
        allowed="it must stand there exactly once",
        state=_NOTHING_CHANGED,
        advice="take in more of the text around the place that is meant; edit_notebook replaces every match with "
        "the operation replace_text and all=true",
    )


def _matches(source: str, old: str, *, word: bool, overlapping: bool = False) -> Iterator[int]:
    """Where `old` stands in `source`.

    Raises:
        InvalidArgumentError: `old` is empty.
    """
    if not old:
        raise InvalidArgumentError("old_text is empty", allowed="a text that stands in the cell")
    first = source.find(old)
    while first >= 0:
        end = first + len(old)
        whole = not word or not (
            (first and _is_of_word(source[first - 1]) and _is_of_word(old[0]))
            or (end < len(source) and _is_of_word(source[end]) and _is_of_word(old[-1]))
        )
        if whole:
            yield first
        first = source.find(old, end if whole and not overlapping else first + 1)


def _is_of_word(character: str) -> bool:
    """Whether a name may go on with a character, as in Python: letters, digits, marks and underscores."""
    return ("_" + character).isidentifier()


def _put_in(source: str, places: Iterable[int], length: int, new: str) -> str:
    parts: list[str] = []
    last = 0
    for first in places:
        parts += (source[last:first], new)
        last = first + length
    return "".join((*parts, source[last:]))


def _absent(source: str, old: str, where: str, *, word: bool) -> InvalidArgumentError:
    if word and old in source:
        return InvalidArgumentError(
            f"old_text does not stand in {where} as a whole word",
            allowed="it stands there inside longer words",
            state=_NOTHING_CHANGED,
            advice="leave word out to replace parts of words",
        )
    return InvalidArgumentError(
        f"old_text does not stand in {where}",
        allowed=_nearest_line(source, old),
        state=_NOTHING_CHANGED,
        advice="copy it from read_notebook, with its spaces and line ends",
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
    if cell.output_count:
        facts.append(count_noun(cell.output_count, "output"))
    return ", ".join(facts)


def _notes(old: NotebookCell, new: NotebookCell) -> list[str]:
    """The changes of a cell besides its source and its id."""
    notes = []
    if old.cell_type != new.cell_type:
        notes.append(f"{old.cell_type or 'no type'} -> {new.cell_type}")
    if old.output_count and not new.output_count:
        notes.append(f"{count_noun(old.output_count, 'output')}{_DROPPED}")
    elif old.member("execution_count") is not None and new.member("execution_count") is None:
        notes.append(f"execution count{_DROPPED}")
    if old.tags != new.tags:
        notes.append(f"tags {', '.join(old.tags) or 'none'} -> {', '.join(new.tags) or 'none'}")
    before, after = ({key: value for key, value in cell.metadata.items() if key != "tags"} for cell in (old, new))
    if keys := _changed_keys(before, after):
        notes.append(f"metadata {keys}")
    return [one_line(note, 300) for note in notes]


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changes = [f"-{key}" for key in old if key not in new]
    changes += [f"+{key}" for key in new if key not in old]
    changes += [f"{key} changed" for key in new if key in old and old[key] != new[key]]
    rest = len(changes) - _LISTED_KEYS
    shown = ", ".join(re.sub(r"\s+", " ", change)[:80] for change in changes[:_LISTED_KEYS])
    return shown if rest <= 0 else f"{shown} and {rest} more"
