"""A notebook as text that keeps every byte it is not asked to change.

The file is cut into a shell (the top-level object with its `cells` emptied) and one piece of text per cell. An edit
replaces pieces, and inside a cell only the members it names; rendering joins the pieces. How new text looks (indent,
line ends, separators, escapes, key order, text as lines or as one string) is read off the file.

nbformat is not used to read or write: it re-indents, re-sorts, rewrites floats and invents ids. Text that this module
writes in nbformat's own style is byte-identical with `nbformat.writes` (nbformat 4.5, `nbformat/v4/nbjson.py`).
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.documents.json_text import (
    Gaps,
    Style,
    after_whitespace,
    line_of,
    put,
    read_members,
    read_value,
    same,
    spliced,
    style_of_object,
    take,
)
from papermill_mcp.core.documents.places import (
    LARGE_MEMBERS,
    Head,
    Places,
    count_objects,
    find_places,
    read_heads,
    read_ids,
    read_small_members,
)
from papermill_mcp.core.documents.reading import (
    BOM,
    CELL_ID,
    NOTHING_DONE,
    TopLevel,
    cell_of_version_3,
    check_cell,
    decoded,
    diagnosis,
    joined,
    kernel_name_of,
    language_of,
    quoted,
    shown_id,
    version_of,
)
from papermill_mcp.errors import (
    CellNotFoundError,
    InvalidArgumentError,
    InvalidNotebookError,
    NotANotebookError,
    Remedy,
    alike,
    listed,
)
from papermill_mcp.utils.memory import collector_paused

_SAMPLE = 50  # cells looked at to learn the style of a file
_ESCAPES_LOOKED_AT = 20_000
_BYTES_LOOKED_AT = 2_000_000
_VALUES_LOOKED_AT = 5_000
_LISTED_IDS = 20  # ids of a notebook with no more cells stand in the answer to an unknown one
_IDS_COMPARED = 2_000

_SURROGATE_ESCAPE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
_NON_ASCII_ESCAPE = re.compile(
    rb"(?!00[0-7]|d[89a-f])[0-9a-f]{4}|d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", re.IGNORECASE
)
_SPLIT_MIMES = {"application/javascript", "image/svg+xml"}


_UNREAD = object()  # the mark of an id that was not looked for


class NotebookCell:
    """One cell. Read it, and change it through the document.

    A cell of a file is read when it is asked for, and its outputs only with all of it.

    Args:
        data: the parsed text; None to read it later.
        raw: the text, checked JSON.
        before, after: whitespace around it in the file.
    """

    __slots__ = ("_data", "_head", "_id", "_small", "after", "before", "raw")

    def __init__(
        self, data: dict[str, Any] | None, raw: bytes | memoryview = b"", before: str = "", after: str = ""
    ) -> None:
        self._data = data
        self._small: dict[str, Any] | None = None
        self._id: object = _UNREAD
        self._head: Head | None = None
        self.raw = raw
        self.before = before
        self.after = after

    def __repr__(self) -> str:
        return f"NotebookCell({self.cell_type}, {self.cell_id}, {len(self.raw)} bytes)"

    @property
    def data(self) -> dict[str, Any]:
        """The whole cell. Kept as long as the cell."""
        if self._data is None:
            self._data, self._small = self.read(), None
        return self._data

    def read(self) -> dict[str, Any]:
        """The whole cell, for a look at all cells of a notebook: it is not kept."""
        if self._data is not None:
            return self._data
        value: dict[str, Any] = read_value(str(self.raw, "utf-8"), 0)[0]
        return value

    def member(self, key: str) -> Any:
        """A member of the cell; None if there is none."""
        if self._data is None and key not in LARGE_MEMBERS:
            if self._small is None:
                self._small = read_small_members(self.raw)
            return self._small.get(key)
        return self.data.get(key)

    @property
    def cell_type(self) -> str:
        """`code`, `markdown`, `raw` or another word of the file; empty when it has none."""
        value = self._head.cell_type if self._head is not None else self.member("cell_type")
        return value if isinstance(value, str) else ""

    @property
    def cell_id(self) -> str | None:
        value = self.member("id") if self._id is _UNREAD else self._id
        return value if isinstance(value, str) else None

    def know_id(self, value: object) -> None:
        """The id that the text has, found for all cells at once."""
        self._id = value

    def know_head(self, head: Head) -> None:
        """Members that the text has, found for all cells at once."""
        self._id, self._head = head.id, head

    @property
    def source(self) -> str:
        return joined(self._head.source if self._head is not None else self.member("source"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Empty when it is none."""
        value = self.member("metadata")
        return value if isinstance(value, dict) else {}

    @property
    def tags(self) -> list[str]:
        tags = self.metadata.get("tags")
        return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs as the file has them: texts may be lists of lines."""
        return _objects(self.data.get("outputs"))

    def read_outputs(self) -> list[dict[str, Any]]:
        """The outputs, for a look at all cells of a notebook: they are not kept."""
        return _objects(self.read().get("outputs"))

    @property
    def output_count(self) -> int:
        """How many outputs there are. They are not read for it."""
        return count_objects(self.raw, "outputs") if self._data is None else len(self.outputs)


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class NotebookDocument:
    """A parsed notebook. Edits change `cells` and the text together; `render` gives the bytes to save."""

    cells: list[NotebookCell]

    def __init__(self, shell: str, cells: list[NotebookCell], *, display_path: str, head: bytes = b"") -> None:
        """Use `parse`, `new` or `from_node`. `shell` is the notebook's text with an empty list of cells."""
        self._display_path = display_path
        self._head = head
        self._cached_style: _FileStyle | None = None
        self._source_bytes: bytes | None = None  # the parsed file
        self._without_ids: list[NotebookCell] = []  # cells of the file whose ids were not looked for
        self._without_heads: list[NotebookCell] = []  # the same, with types and sources
        self._places: Places | None = None
        self._fixed = False  # version 3: renders to the parsed file
        self.cells = cells
        self._take_shell(shell)

    @classmethod
    def parse(cls, data: bytes, *, display_path: str, places: Places | None = None) -> NotebookDocument:
        """Read a notebook of nbformat 4, or of 3, which cannot be edited.

        Args:
            places: of an earlier document of the same bytes.

        Raises:
            NotANotebookError: this is something else.
            InvalidNotebookError: this means to be a notebook, but is broken. The message names line and cause.
        """
        with collector_paused():
            known = places if places is not None and places.fit(data) else find_places(data)
            return cls._from_places(data, known, display_path) or cls._parse(data, display_path)

    @classmethod
    def _from_places(cls, data: bytes, places: Places | None, display_path: str) -> NotebookDocument | None:
        """The document of a plain notebook of version 4, without a look into its cells; None for all others."""
        if places is None:
            return None
        top = TopLevel.read(places.shell)
        assert top is not None
        if version_of(top, display_path) == 3:
            return None
        whole = memoryview(data)
        cells = [NotebookCell(None, whole[start:end], before, after) for start, end, before, after in places.cells]
        document = cls(places.shell, cells, display_path=display_path)
        document._source_bytes = data
        document._without_ids = document._without_heads = list(cells)
        document._places = places
        return document

    @classmethod
    def _parse(cls, data: bytes, display_path: str) -> NotebookDocument:
        text = decoded(data, display_path)
        head = BOM if data.startswith(BOM) else b""
        try:
            top = TopLevel.read(text)
        except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError
            raise diagnosis(error, text, display_path) from None
        if top is None:
            raise NotANotebookError(
                f"{display_path} is JSON, but not an object: it starts with {text.lstrip()[:20]!r}",
                allowed="A notebook is an object with nbformat and cells",
                state=NOTHING_DONE,
            )
        if version_of(top, display_path) == 3:
            return cls._of_version_3(top.members, data, display_path)
        shell, cells = _cut(text, top, data, len(head), display_path)
        try:
            document = cls(shell, cells, display_path=display_path, head=head)
        except RecursionError as error:  # one level more than the limit of the first look
            raise diagnosis(error, text, display_path) from None
        document._source_bytes = data
        return document

    @classmethod
    def new(cls, metadata: dict[str, Any]) -> NotebookDocument:
        """A notebook of nbformat 4.5 without cells."""
        node = {"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
        return cls.from_node(node, final_newline=True)

    @classmethod
    def from_node(
        cls, node: Mapping[str, Any], *, final_newline: bool = False, display_path: str = "the notebook"
    ) -> NotebookDocument:
        """The document that `nbformat.writes` would make of a version 4 node.

        `nbformat.writes`, and so papermill, ends without a newline; `nbformat.write` adds one: `final_newline`.
        """
        if node.get("nbformat") != 4 or not isinstance(node.get("cells"), list):
            raise InvalidNotebookError(
                f"{display_path} is not a notebook of nbformat 4", state=NOTHING_DONE, advice="Convert it first"
            )
        style = Style()
        outer = {key: value for key, value in node.items() if key != "cells"} | {"cells": []}
        transient = ("orig_nbformat", "orig_nbformat_minor", "signature")
        outer["metadata"] = {k: v for k, v in dict(node.get("metadata") or {}).items() if k not in transient}
        cells: list[NotebookCell] = []
        with _storable(display_path):
            shell = style.dump(outer, "\n") + ("\n" if final_newline else "")
            for source in node["cells"]:
                cell = split_lines_for_file(source)
                if isinstance(cell.get("metadata"), Mapping) and "trusted" in cell["metadata"]:
                    cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k != "trusted"}
                raw = style.dump(cell, "\n  ")
                cells.append(NotebookCell(_parsed_back(raw, cell), raw.encode(), "\n  "))
        if cells:
            cells[-1].after = "\n "
        return cls(shell, cells, display_path=display_path)

    def without_outputs(self) -> NotebookDocument:
        """The notebook of version 4 as a document of its own, without the outputs and counts of its code cells."""
        empty: dict[str, Any] = {"outputs": [], "execution_count": None}
        cells = [cell.data | empty if cell.cell_type == "code" else cell.data for cell in self.cells]
        node = self.outer_members() | {"metadata": self.metadata, "cells": cells}
        return self.from_node(node, display_path=self._display_path)

    @property
    def places(self) -> Places | None:
        """The places of the cells in the parsed file, for another document of the same bytes; None if unknown."""
        return self._places

    @property
    def language(self) -> str | None:
        """The language of the code, from the metadata."""
        return language_of(self.metadata)

    @property
    def kernel_name(self) -> str | None:
        return kernel_name_of(self.metadata)

    @property
    def supports_ids(self) -> bool:
        """Whether cells have ids: since nbformat 4.5."""
        return (self.nbformat, self.nbformat_minor) >= (4, 5)

    def ids(self) -> list[str | None]:
        """The ids of all cells; None where a cell has none. Faster than cell by cell."""
        cells, self._without_ids = self._without_ids, []
        if cells and self._source_bytes is not None:
            found = self._places.ids if self._places is not None else None
            found = read_ids(self._source_bytes) if found is None else found
            if self._places is not None:
                self._places.ids = found
            for cell, value in zip(cells, found or (), strict=found is not None):
                cell.know_id(value)
        return [cell.cell_id for cell in self.cells]

    def read_ahead(self) -> None:
        """Read the ids, types and sources of all cells at once, for a look at each of them.

        The same is read cell by cell otherwise, which takes several times as long.
        """
        cells = self._without_heads
        self._without_heads = []
        found = read_heads(self._source_bytes) if cells and self._source_bytes is not None else None
        if found is not None:
            self._without_ids = []
            for cell, head in zip(cells, found, strict=True):
                cell.know_head(head)

    def find(self, *, index: int | None = None, cell_id: str | None = None, display_path: str) -> int:
        """The position of the one cell that is named, from the start.

        Raises:
            CellNotFoundError: there is none, or more than one.
            InvalidArgumentError: neither or both names are given.
        """
        if (index is None) == (cell_id is None):
            raise InvalidArgumentError(
                "A cell is named by cell_id or by index: give exactly one of the two", state=NOTHING_DONE
            )
        if index is not None:
            return self._at(index, display_path)
        known = self.ids()
        found = [position for position, known_id in enumerate(known) if known_id == cell_id]
        if len(found) == 1:
            return found[0]
        if found:
            raise CellNotFoundError(
                f"{display_path} has {len(found)} cells with the id {quoted(cell_id)}",
                allowed=f"They are at index {listed(map(str, found))}",
                state=NOTHING_DONE,
                advice="Name the cell by its index",
            )
        ids = [known_id for known_id in known if known_id is not None]
        few = len(ids) <= _LISTED_IDS
        near = alike(cell_id or "", ids[:_IDS_COMPARED])
        if not ids:
            allowed = f"None of its {len(self.cells)} cells has an id"
        elif few:
            allowed = f"Its cells: {listed(map(shown_id, ids))}"
        elif near:
            allowed = f"The nearest of its {len(ids)} ids: {listed(map(shown_id, near))}"
        else:
            allowed = f"None of its {len(ids)} ids is like it"
        advice = "Name the cell by its index" if not ids else Remedy.SHOW_CELLS
        raise CellNotFoundError(
            f"{display_path} has no cell {quoted(cell_id)}",
            allowed=allowed,
            state=NOTHING_DONE,
            advice=f"Did you mean {quoted(near[0])}?" if near else ("" if few and ids else advice),
        )

    def insert(self, index: int, data: Mapping[str, Any]) -> None:
        """Put a new cell at `index`, 0 to the number of cells. It gets an id where the format has them."""
        self.require_editable()
        if not 0 <= index <= len(self.cells):
            raise CellNotFoundError(
                f"{self._display_path} has no place {index} for a cell",
                allowed=f"Places go from 0 to {len(self.cells)}",
                state=NOTHING_DONE,
            )
        data = self._with_id(dict(data))
        before = self.cells[min(index, len(self.cells) - 1)].before if self.cells else self._style.gaps.first
        put(self.cells, index, self._made(data, before), self._style.gaps)

    def remove(self, index: int) -> dict[str, Any]:
        """Take a cell out and return its data."""
        self.require_editable()
        return take(self.cells, self._at(index)).data

    def move(self, index: int, to: int) -> None:
        """Take a cell out and put it back so that it has the index `to`. Its text does not change."""
        self.require_editable()
        index, to = self._at(index), self._at(to)
        if index == to:
            return
        put(self.cells, to, take(self.cells, index), self._style.gaps)

    def update(self, index: int, members: Mapping[str, Any], *, drop: Collection[str] = ()) -> None:
        """Set members of a cell and drop others. Members that have the value already keep their text.

        A `source` given as one string is written as the cell writes its source; texts of outputs and attachments, as
        the file does.
        """
        self.require_editable()
        index = self._at(index)
        cell = self.cells[index]
        style = self._style
        wanted = dict(members)
        if "id" in wanted and wanted["id"] != cell.data.get("id"):
            self._check_id(wanted["id"])
        if isinstance(wanted.get("source"), str):
            wanted["source"] = self._source_as(wanted["source"], cell.data.get("source"))
        for key in wanted.keys() & {"outputs", "attachments"}:
            wanted[key] = self._texts_as_file(key, wanted[key], cell.data)
        with _storable(self._display_path):
            changed = {k: v for k, v in wanted.items() if k not in cell.data or not same(cell.data[k], v)}
            dropped = {key for key in drop if key in cell.data and key not in wanted}
            if not changed and not dropped:
                return
            line = line_of(cell.before) or style.cell_line
            text = spliced(str(cell.raw, "utf-8"), changed, dropped, style.cell, line)
            data = _parsed_back(text, {k: v for k, v in cell.data.items() if k not in dropped} | changed)
        self.cells[index] = NotebookCell(data, text.encode(), cell.before, cell.after)

    def add_ids(self) -> list[int]:
        """Give an id to each cell that has none, or one that a cell before it has. Returns where those cells stand.

        A notebook of nbformat 4.0 to 4.4, where cells have no ids, becomes one of 4.5.
        """
        self.require_editable()
        if not self.supports_ids:
            self.set_member("nbformat_minor", 5)
        taken = {cell.cell_id for cell in self.cells}
        seen: set[str] = set()
        changed: list[int] = []
        for index, cell in enumerate(self.cells):
            if cell.cell_id is not None and cell.cell_id not in seen:
                seen.add(cell.cell_id)
                continue
            while (made := secrets.token_hex(4)) in taken:
                pass
            taken.add(made)
            line = line_of(cell.before) or self._style.cell_line
            text = spliced(str(cell.raw, "utf-8"), {"id": made}, (), self._style.cell, line)
            data = _parsed_back(text, cell.data | {"id": made})
            self.cells[index] = NotebookCell(data, text.encode(), cell.before, cell.after)
            changed.append(index)
        return changed

    def set_member(self, key: str, value: Any) -> None:
        """Set a member of the top-level object, such as `metadata`. Cells have methods of their own."""
        self.require_editable()
        if key == "cells":
            raise ValueError("cells are changed one by one")
        with _storable(self._display_path):
            old = TopLevel.read(self._shell)
            assert old is not None
            if key in old.members and same(old.members[key], value):
                return
            text = spliced(self._shell, {key: value}, (), self._style.shell, "\n")
            new = TopLevel.read(text)
            assert new is not None
            if not _SURROGATE_ESCAPE.search(text) and not same(new.members[key], value):
                raise ValueError("it does not come back as it was given")
        self._take_shell(text)

    def render(self) -> bytes:
        """The bytes of the file. Without edits they are the ones that were parsed."""
        if self._fixed and self._source_bytes is not None:
            return self._source_bytes
        if not self.cells:
            return self._head + self._shell.encode()
        pieces: list[bytes | memoryview] = [self._head, self._shell[: self._cells_start].encode()]
        for cell in self.cells:
            if cell.before:
                pieces.append(cell.before.encode())
            pieces.append(cell.raw)
            pieces.append(f"{cell.after},".encode() if cell.after else b",")
        pieces[-1] = self.cells[-1].after.encode()
        pieces.append(self._shell[self._cells_end :].encode())
        return b"".join(pieces)

    def outer_members(self) -> dict[str, Any]:
        """The members of the top-level object but for the cells."""
        top = TopLevel.read(self._shell)
        assert top is not None
        return {key: value for key, value in top.members.items() if key != "cells"}

    def new_cell_id(self) -> str:
        """An id that no cell has: 8 hex digits, as nbformat makes them."""
        taken = set(self.ids())
        while (made := secrets.token_hex(4)) in taken:
            pass
        return made

    @classmethod
    def _of_version_3(cls, members: Mapping[str, Any], data: bytes, display_path: str) -> NotebookDocument:
        sheets = members.get("worksheets")
        found: list[Any] = []
        for sheet in sheets if isinstance(sheets, list) else []:
            if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list):
                found += sheet["cells"]
        for position, cell in enumerate(found):
            check_cell(position, cell, display_path)
        shell = json.dumps({key: value for key, value in members.items() if key != "worksheets"} | {"cells": []})
        document = cls(shell, [NotebookCell(cell_of_version_3(cell)) for cell in found], display_path=display_path)
        document._source_bytes = data
        document._fixed = True
        return document

    def _take_shell(self, shell: str) -> None:
        top = TopLevel.read(shell)
        assert top is not None
        self._shell = shell
        self._cells_start, self._cells_end = top.cells_start + 1, top.cells_end - 1
        members = top.members
        self.nbformat: int = members["nbformat"]
        minor = members.get("nbformat_minor", 0)
        self.nbformat_minor: int = minor if isinstance(minor, int) else 0
        metadata = members.get("metadata")
        self.metadata: dict[str, Any] = metadata if isinstance(metadata, dict) else {}

    @property
    def _style(self) -> _FileStyle:
        if self._cached_style is None:
            self._cached_style = _FileStyle.of(self._shell, self.cells, self._source_bytes)
        return self._cached_style

    def require_editable(self) -> None:
        """Raise if the notebook can be read but not edited, as those of version 3 are."""
        if self.nbformat < 4:
            raise InvalidNotebookError(
                f"{self._display_path} is a notebook of nbformat {self.nbformat}, which can be read but not edited",
                state=NOTHING_DONE,
                advice=Remedy.CONVERT_NOTEBOOK,
            )
        with _storable(self._display_path):
            _ = self._style  # learned from the file as it came, not from the rest of it

    def _at(self, index: int, display_path: str | None = None) -> int:
        count = len(self.cells)
        if -count <= index < count:
            return index + count if index < 0 else index
        number = str(index) if abs(index) < 10**20 else "of more than 20 digits"
        raise CellNotFoundError(
            f"{display_path or self._display_path} has no cell with index {number}",
            allowed=f"It has {count} cells: index 0 to {count - 1}, or -{count} to -1 from the end"
            if count
            else "It has no cells",
            state=NOTHING_DONE,
        )

    def _check_id(self, value: object) -> None:
        if not isinstance(value, str) or not CELL_ID.fullmatch(value):
            raise InvalidArgumentError(
                f"{quoted(value)} is not a cell id",
                allowed="An id has 1 to 64 letters, digits, - or _",
                state=NOTHING_DONE,
            )
        if value in self.ids():
            raise InvalidArgumentError(f"{self._display_path} has a cell {quoted(value)} already", state=NOTHING_DONE)

    def _with_id(self, data: dict[str, Any]) -> dict[str, Any]:
        if not self.supports_ids:
            data.pop("id", None)
        elif data.get("id") is None:
            data["id"] = self.new_cell_id()
        else:
            self._check_id(data["id"])
        return data

    def _source_as(self, source: str, current: object) -> str | list[str]:
        as_lines = isinstance(current, list) if isinstance(current, str | list) else self._style.as_lines
        if not as_lines:
            return source
        if isinstance(current, list) and joined(current) == source:
            return current  # the same text cut elsewhere is not a change
        return source.splitlines(True)

    def _texts_as_file(self, key: str, value: Any, current: Mapping[str, Any]) -> Any:
        if not self._style.as_lines:
            return value
        code = {"cell_type": "code", "outputs": []}
        made = split_lines_for_file(code | {key: value})[key]
        with _storable(self._display_path):
            if key in current and same(split_lines_for_file(code | {key: current[key]})[key], made):
                return current[key]  # the same texts in another form are not a change
        return made

    def _made(self, data: dict[str, Any], before: str) -> NotebookCell:
        style = self._style
        if style.as_lines:
            data = split_lines_for_file(data)
        if not style.cell.sort_keys:
            order = style.key_orders.get(str(data.get("cell_type")), ())
            data = {key: data[key] for key in order if key in data} | data
        with _storable(self._display_path):
            text = style.cell.dump(data, line_of(before) or style.cell_line)
            return NotebookCell(_parsed_back(text, data), text.encode(), before)


def split_lines_for_file(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the cell with its texts as lists of lines, by the rules of `nbformat/v4/rwbase.py`."""
    made = dict(cell)
    if isinstance(made.get("source"), str):
        made["source"] = made["source"].splitlines(True)
    if isinstance(made.get("attachments"), Mapping):
        made["attachments"] = {name: _split_bundle(bundle) for name, bundle in made["attachments"].items()}
    if made.get("cell_type") == "code" and isinstance(made.get("outputs"), list | tuple):
        made["outputs"] = [_split_output(output) for output in made["outputs"]]
    return made


def _split_output(output: Any) -> Any:
    if not isinstance(output, Mapping):
        return output
    kind = output.get("output_type")
    if kind in {"execute_result", "display_data"} and "data" in output:
        return {**output, "data": _split_bundle(output["data"])}
    if kind == "stream" and isinstance(output.get("text"), str):
        return {**output, "text": output["text"].splitlines(True)}
    return output


def _split_bundle(bundle: Any) -> Any:
    if not isinstance(bundle, Mapping):
        return bundle
    return {
        mime: value.splitlines(True)
        if isinstance(value, str) and (mime.startswith("text/") or mime in _SPLIT_MIMES)
        else value
        for mime, value in bundle.items()
    }


@contextlib.contextmanager
def _storable(display_path: str) -> Iterator[None]:
    """Report a value that cannot be kept as JSON, in place of the errors of json and the interpreter."""
    try:
        yield
    except RecursionError:
        reason = "it is nested too deeply"
    except (TypeError, ValueError) as error:
        reason = str(error)
    else:
        return
    raise InvalidArgumentError(f"A value for {display_path} cannot be stored: {reason}", state=NOTHING_DONE)


def _parsed_back(text: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    data, end = read_value(text, after_whitespace(text, 0))
    # Two halves of a surrogate pair, given apart, come back as the one character they are.
    if end != len(text) or not isinstance(data, dict):
        raise ValueError("it does not come back as JSON")
    if not same(data, expected) and not _SURROGATE_ESCAPE.search(text):
        raise ValueError("it does not come back as it was given")
    return data


def _cut(text: str, top: TopLevel, data: bytes, offset: int, display_path: str) -> tuple[str, list[NotebookCell]]:
    """The shell and the cells of a notebook."""
    if not top.elements:
        return text, []
    one_byte_each = text.isascii()
    whole = memoryview(data)
    cells: list[NotebookCell] = []
    position = top.cells_start + 1
    for index, (value, start, end) in enumerate(top.elements):
        if not isinstance(value, dict):
            check_cell(index, value, display_path, text, start)
        comma = end if text[end] == "," else after_whitespace(text, end)
        raw = whole[start + offset : end + offset] if one_byte_each else text[start:end].encode()
        cells.append(NotebookCell(value, raw, text[position:start], text[end:comma]))
        position = comma + 1
    assert position == top.cells_end
    return text[: top.cells_start + 1] + text[top.cells_end - 1 :], cells


@dataclass(frozen=True)
class _FileStyle:
    """How a notebook is written."""

    shell: Style
    cell: Style
    cell_line: str  # line break and indent of the lines where cells start and end
    gaps: Gaps
    as_lines: bool  # texts are lists of lines
    key_orders: Mapping[str, Sequence[str]]  # the first cell of each type, for files that do not sort keys

    @classmethod
    def of(cls, shell: str, cells: Sequence[NotebookCell], source: bytes | None) -> _FileStyle:
        at = after_whitespace(shell, 0)
        members, end = read_members(shell, at)
        like = Style(ascii_only=source is not None and _escapes_non_ascii(source, cells))
        outer, closing = style_of_object(shell, at, members, end, like)
        sample = cells[:_SAMPLE]
        inner, cell_line = outer, ""
        for cell in sample:
            if cell.data and cell.raw:
                text = str(cell.raw, "utf-8")
                members, end = read_members(text, 0)
                inner, cell_line = style_of_object(text, 0, members, end, outer)
                break
        inner_sorted = _is_sorted([cell.data for cell in sample]) if sample else outer.sort_keys
        inner = Style(inner.unit, inner.comma, inner.colon, inner.ascii_only, inner_sorted)
        if cells:
            between = cells[1].before if len(cells) > 1 else cells[0].before or inner.comma[1:]
            gaps = Gaps(cells[0].before, between, cells[-1].after)
        elif outer.unit is None:
            gaps = Gaps("", outer.comma[1:], "")
        else:
            line = (closing or "\n") + outer.unit
            gaps = Gaps(line + outer.unit, line + outer.unit, line)
        sources = {type(cell.data.get("source")) for cell in sample if cell.data.get("source")}
        orders: dict[str, Sequence[str]] = {}
        for cell in sample:
            orders.setdefault(cell.cell_type, list(cell.data))
        return cls(outer, inner, cell_line or line_of(gaps.first), gaps, sources != {str}, orders)


def _is_sorted(value: object) -> bool:
    """Whether the keys of all objects in `value` are sorted, as far as a sample tells."""
    pending = [value]
    for _ in range(_VALUES_LOOKED_AT):
        if not pending:
            break
        value = pending.pop()
        if isinstance(value, dict):
            keys = list(value)
            if keys != sorted(keys):
                return False
            pending += value.values()
        elif isinstance(value, list) and not (value and isinstance(value[0], str)):
            pending += value
    return True


def _escapes_non_ascii(source: bytes, cells: Sequence[NotebookCell]) -> bool:
    """Whether characters outside ASCII are written as escapes. Without any, they are not.

    Of a large file, the sources and the first megabytes are looked at.
    """
    if not source.removeprefix(BOM).isascii() or source.rfind(b"\\u") < 0:  # from the end: three times as fast
        return False
    if not all(cell.source.isascii() for cell in cells):
        return True
    data = source[:_BYTES_LOOKED_AT]
    at = data.find(b"\\u")
    for _ in range(_ESCAPES_LOOKED_AT):
        if at < 0:
            break
        start = at
        while start and data[start - 1] == 0x5C:
            start -= 1
        if (at - start) % 2 == 0 and _NON_ASCII_ESCAPE.match(data, at + 2):  # else the backslash itself is escaped
            return True
        at = data.find(b"\\u", at + 2)
    return False
