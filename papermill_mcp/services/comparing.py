"""Comparing notebooks: two files, or a file with an earlier version of it in git or in the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, PrivateAttr

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import InvalidArgumentError, Remedy, TooLargeError
from papermill_mcp.services.history_service import HistoryService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.results import Result
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import cell_name, count_noun, one_line

if TYPE_CHECKING:
    from papermill_mcp.core import git
    from papermill_mcp.core.git import MakeProgram
    from papermill_mcp.core.pictures import contact_sheet as sheets
    from papermill_mcp.core.pictures import drawing
    from papermill_mcp.services.notebooks import differences
    from papermill_mcp.services.notebooks.differences import Difference
else:
    git = lazy("papermill_mcp.core.git")
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")
    drawing = lazy("papermill_mcp.core.pictures.drawing")
    differences = lazy("papermill_mcp.services.notebooks.differences")

Part = Literal["source", "outputs", "both"]

_NOTHING_COMPARED = "nothing was compared"

#: Characters of a line of a diff, and lines of the diff of one cell, at most.
_LINE_CHARS = 400
_CELL_LINES = 120


class CellDifference(BaseModel):
    """A cell that differs. An index is None where the cell is not there."""

    id: str | None
    index_before: int | None
    index_after: int | None
    change: str
    diff: str


class NotebookComparison(Result):
    """The differences of two notebooks.

    Attributes:
        before, after: the older and the newer side.
        revision: of the notebook at `path`.
        summary: the number of cells for each kind of change, and of those that are the same.
        notebook: differences of the notebook itself.
        next: the first difference that is not shown, counted from 0; None if all are.
        note: pictures that are not shown.
    """

    path: str
    revision: str
    before: str
    after: str
    summary: dict[str, int]
    notebook: str | None = None
    cells: list[CellDifference]
    next: int | None = None
    note: str | None = None
    _images: list[ShownImage] = PrivateAttr(default_factory=list)


@dataclass(frozen=True)
class _Side:
    name: str
    data: bytes
    revision: str = ""


class ComparisonService:
    """Compares notebooks. Every path passes through the workspace first.

    Args:
        programs: gives the maker of the processes of git.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        notebooks: NotebookService,
        histories: HistoryService,
        programs: Callable[[], Awaitable[MakeProgram]],
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._notebooks = notebooks
        self._histories = histories
        self._programs = programs

    async def compare(self, path: str, other: str, *, part: Part = "both", start: int = 0) -> NotebookComparison:
        """The differences of two notebooks, a page of them.

        Args:
            path: the older side, if `other` is a path.
            other: a notebook, or an older side: `git:REV` or `version:N` of the notebook at `path`.
            part: of the cells.
            start: the first difference that is shown, counted from 0.

        Raises:
            InvalidArgumentError: `other` names no version, or `start` is negative.
            NotFoundError: a side is not there.
            NotANotebookError, InvalidNotebookError: a side is no notebook.
            TooLargeError: a side is over the limit.
        """
        if start < 0:
            raise InvalidArgumentError(f"start is {start}", allowed="0, or next of a reply", state=_NOTHING_COMPARED)
        older = await self._older(path, other)
        named = await self._file(path)
        before, after = (named, await self._file(other)) if older is None else (older, named)
        async with self._notebooks.admitted(len(before.data) + len(after.data)) as work:
            return await work.run(lambda: self._compared(named, before, after, part, start))

    async def earlier(self, path: str, other: str) -> tuple[str, NotebookDocument] | None:
        """An earlier version of a notebook, and its name; None if `other` names none.

        Args:
            other: `git:REV` or `version:N`.

        Raises:
            ServerError: as for `compare`.
        """
        side = await self._older(path, other)
        if side is None:
            return None
        return side.name, await self._notebooks.parse(side.data, display_path=side.name)

    async def _older(self, path: str, other: str) -> _Side | None:
        kind, colon, name = other.partition(":")
        if not colon or kind not in ("git", "version"):
            return None
        file = self._workspace.notebook(path)
        display_path = self._workspace.display_path(file)
        if kind == "git":
            data = await git.read_revision(
                file,
                name,
                display_path=display_path,
                max_bytes=self._notebooks.max_bytes,
                program=await self._programs(),
            )
            return _Side(f"{display_path} in {other}", data)
        if not name.isdecimal() or len(name) > 18:
            raise InvalidArgumentError(
                f"{other[:60]!r} names no version",
                allowed="version: and a number that notebook_history lists",
                state=_NOTHING_COMPARED,
            )
        version, data = await self._histories.version(path, int(name))
        return _Side(f"{display_path} in version {version.version}", data)

    async def _file(self, path: str) -> _Side:
        file = self._workspace.notebook(path)
        display_path = self._workspace.display_path(file)
        content = await self._notebooks.bytes_of(file)
        if len(content.data) != content.stamp.size:
            raise TooLargeError(
                f"{display_path} is {content.stamp.size:,} bytes",
                allowed=f"The limit is {self._notebooks.max_bytes:,} bytes (max_notebook_bytes)",
                state=_NOTHING_COMPARED,
                advice=Remedy.CLEAR_OUTPUTS,
            )
        return _Side(display_path, content.data, content.revision)

    def _compared(self, named: _Side, before: _Side, after: _Side, part: Part, start: int) -> NotebookComparison:
        old, new = (NotebookDocument.parse(side.data, display_path=side.name) for side in (before, after))
        counts: Counter[str] = Counter()
        rows: list[CellDifference] = []
        pairs: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
        room, following, number, common = self._config.max_output_chars, None, 0, 0
        found = differences.differences(old, new, source=part != "outputs", outputs=part != "source", context=2)
        for number, one in enumerate(found, 1):
            counts.update(one.changes)
            common += one.after is not None and one.before is not None
            if number <= start or following is not None:
                continue
            row = _row(one, room)
            if rows and room < len(row.diff):
                following = number - 1
                continue
            room -= len(row.diff) + 100
            rows.append(row)
            name = cell_name(one.after or 0, one.cell_id)
            pairs += [(f"cell {name}", *images) for images in one.images]
        if number and start >= number:
            raise InvalidArgumentError(
                f"start is {start}", allowed=f"0 to {number - 1}: so many cells differ", state=_NOTHING_COMPARED
            )
        same = len(new.cells) - counts["added"] - common
        keys = differences.metadata_changes(old.metadata, new.metadata) if part != "outputs" else []
        view = NotebookComparison(
            path=named.name,
            revision=named.revision,
            before=before.name,
            after=after.name,
            summary={**counts, "same": same},
            notebook=f"metadata {' '.join(keys[:20])}" if keys else None,
            cells=rows,
            next=following,
        )
        view._images = self._pictures(pairs)
        if rest := len(pairs) - len(view._images):
            view.note = f"{count_noun(rest, 'pair')} of pictures that differ not shown (max_images)"
        return view

    def _pictures(self, pairs: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> list[ShownImage]:
        """The pictures before and after, as one picture for each pair."""
        shown: list[ShownImage] = []
        drawer = drawing.Drawer()
        try:
            for label, before, after in pairs[: self._config.max_images]:
                tiles = [
                    sheets.Tile(f"{label} {when}", data if isinstance(data := output.get("data"), dict) else {})
                    for when, output in (("before", before), ("after", after))
                ]
                sheet = sheets.contact_sheet(tiles, self._config.max_image_pixels, drawer=drawer)
                if sheet is not None:
                    size = f"image/png {sheet.width}x{sheet.height}"
                    shown.append(ShownImage("image/png", sheet.data, f"{label} · before and after · {size}"))
        finally:
            drawer.close()
        return shown


def _row(one: Difference, room: int) -> CellDifference:
    lines = [line[:_LINE_CHARS] for line in one.lines[:_CELL_LINES]]
    size = 0
    for number, line in enumerate(lines):
        size += len(line) + 1
        if size > max(room, 1000):
            lines = lines[:number]
            break
    if rest := len(one.lines) - len(lines):
        lines.append(f"… {rest} more lines")
    return CellDifference(
        id=None if one.cell_id is None else one_line(one.cell_id, 64),
        index_before=one.before,
        index_after=one.after,
        change=", ".join(one.changes),
        diff="\n".join(lines),
    )
