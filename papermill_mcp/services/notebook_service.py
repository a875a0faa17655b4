"""Notebooks as files: reading, creating and editing them under the workspace rule.

Owns the lock of each file. Nothing is cached: the file is the truth, and every request reads it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
from pydantic import BaseModel, Field, PrivateAttr

from papermill_mcp.config import Config
from papermill_mcp.core.document import NotebookCell, NotebookDocument
from papermill_mcp.errors import (
    BusyError,
    CellNotFoundError,
    ConflictError,
    InvalidArgumentError,
    InvalidNotebookError,
    NotANotebookError,
)
from papermill_mcp.services.output_view import (
    OutputBudget,
    OutputView,
    ShownImage,
    show_outputs,
    summarise_outputs,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import FileContent, read_file, write_file
from papermill_mcp.utils.text_utils import one_line

#: Seconds an edit waits for another one of the same file.
_LOCK_SECONDS = 10.0

#: Seconds after which a file that cannot be parsed is read once more: some programs write in place.
_REREAD_SECONDS = 0.3


class OutlineRow(BaseModel):
    """One cell in a line."""

    index: int
    id: str | None = None
    cell_type: str
    first_line: str


class CellView(BaseModel):
    """One cell as it is shown."""

    index: int
    id: str | None = None
    cell_type: str
    source: str
    execution_count: int | None = None
    tags: list[str] | None = None
    outputs: list[OutputView] | None = None
    truncated: bool = False


class NotebookView(BaseModel):
    """A notebook, or a page of it."""

    path: str
    revision: str
    nbformat: int
    nbformat_minor: int
    kernel_name: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    cell_count: int
    cells: list[CellView]
    next_cells: str | None = None
    _images: list[ShownImage] = PrivateAttr(default_factory=list)


class CreatedNotebook(BaseModel):
    """A notebook that is new."""

    path: str
    revision: str
    kernel_name: str
    language: str
    cell_count: int


class SourceView(BaseModel):
    """A cell without what it put out."""

    index: int
    id: str | None = None
    cell_type: str
    source: str
    tags: list[str] | None = None


class AddedCell(BaseModel):
    """A new cell and what stands around it."""

    path: str
    revision: str
    cell: SourceView
    outline: list[OutlineRow]


@dataclass(frozen=True)
class NewCell:
    """A cell to be made."""

    cell_type: Literal["code", "markdown", "raw"]
    source: str
    tags: Sequence[str] = ()
    metadata: dict[str, Any] | None = None

    def data(self) -> dict[str, Any]:
        """The cell as nbformat 4 has it, without id."""
        metadata = dict(self.metadata or {})
        if self.tags:
            metadata["tags"] = list(self.tags)
        data: dict[str, Any] = {"cell_type": self.cell_type, "metadata": metadata, "source": self.source}
        if self.cell_type == "code":
            data |= {"execution_count": None, "outputs": []}
        return data


@dataclass
class OpenNotebook:
    """A notebook as it was read: where from, which version, and what it holds.

    Attributes:
        content: the version on disk; None for a notebook that is to be a new file.
    """

    path: Path
    shown: str
    content: FileContent | None
    document: NotebookDocument

    @property
    def revision(self) -> str:
        """The revision on disk; empty for a file that is not there yet."""
        return self.content.revision if self.content else ""


class NotebookService:
    """Reads and edits notebook files. Every path passes through the workspace first."""

    def __init__(self, config: Config, workspace: Workspace) -> None:
        self._config = config
        self._workspace = workspace
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def lock(self, path: Path) -> AsyncIterator[None]:
        """Hold the lock of one file; edits and saves of this process take turns.

        Raises:
            BusyError: somebody else holds it for longer than the wait is bounded to.
        """
        lock = self._locks[path]
        try:
            async with asyncio.timeout(_LOCK_SECONDS):
                await lock.acquire()
        except TimeoutError:
            raise BusyError(
                f"{self._workspace.shown(path)} is being saved by another request",
                state="nothing was changed",
                advice="try again",
            ) from None
        try:
            yield
        finally:
            lock.release()
            if not lock.locked():
                self._locks.pop(path, None)

    async def open(self, path: str, *, writing: bool = False) -> OpenNotebook:
        """Read a notebook.

        Raises:
            PathNotAllowedError, NotFoundError, PermissionDeniedError, TooLargeError: it may or can not be read.
            NotANotebookError, InvalidNotebookError: it is none, or a broken one.
        """
        file = self._workspace.notebook(path, writing=writing)
        return await self._read(file)

    async def _read(self, file: Path) -> OpenNotebook:
        shown = self._workspace.shown(file)

        def read() -> OpenNotebook:
            content = read_file(file, max_bytes=self._config.max_notebook_bytes, shown=shown)
            return OpenNotebook(file, shown, content, NotebookDocument.parse(content.data, shown=shown))

        try:
            return await asyncio.to_thread(read)
        except (InvalidNotebookError, NotANotebookError):
            if not _young(file):
                raise
        await asyncio.sleep(_REREAD_SECONDS)  # JupyterLab writes in place: it may have been half-way
        return await asyncio.to_thread(read)

    async def save(self, notebook: OpenNotebook) -> str:
        """Write a notebook over the version it was made from, or as a new file. Returns the new revision.

        The caller holds the file's lock. Once begun, a save is carried to its end even if the request is cancelled.
        """

        def write() -> FileContent:
            return write_file(
                notebook.path,
                notebook.document.render(),
                expected=notebook.content,
                shown=notebook.shown,
                max_bytes=self._config.max_notebook_bytes,
            )

        with anyio.CancelScope(shield=True):
            content = await anyio.to_thread.run_sync(write)
        notebook.content = content
        return content.revision

    def require_revision(self, notebook: OpenNotebook, if_revision: str | None) -> None:
        """Raise if the file has another revision than the caller expects.

        Raises:
            ConflictError: it has; both are named.
        """
        if if_revision is not None and notebook.revision != if_revision:
            raise ConflictError(
                f"{notebook.shown} has revision {notebook.revision}, not {if_revision[:64]}",
                state="the file was changed since that revision was read, or never had it; nothing was written",
                advice="read it again, then repeat the edit on what is there now",
            )

    async def create(
        self,
        path: str,
        *,
        kernel_name: str,
        language: str,
        display_name: str,
        cells: Sequence[NewCell],
        overwrite: bool,
    ) -> CreatedNotebook:
        """Make a notebook.

        Raises:
            AlreadyExistsError: there is a file and `overwrite` is false.
            NotANotebookError, InvalidNotebookError: `overwrite` is true, but what is there is no notebook.
        """
        file = self._workspace.notebook(path, writing=True)
        shown = self._workspace.shown(file)
        document = NotebookDocument.new(
            {
                "kernelspec": {"display_name": display_name, "language": language, "name": kernel_name},
                "language_info": {"name": language},
            }
        )
        for cell in cells:
            document.insert(len(document.cells), cell.data())
        async with self.lock(file):
            expected: FileContent | None = None
            if overwrite and await asyncio.to_thread(file.exists):
                expected = (await self._read(file)).content  # a file that is no notebook is never replaced
            revision = await self.save(OpenNotebook(file, shown, expected, document))
        return CreatedNotebook(
            path=shown,
            revision=revision,
            kernel_name=kernel_name,
            language=language,
            cell_count=len(document.cells),
        )

    async def add_cell(
        self,
        path: str,
        cell: NewCell,
        *,
        index: int | None = None,
        after_cell_id: str | None = None,
        if_revision: str | None = None,
    ) -> AddedCell:
        """Insert a cell and save.

        Args:
            index: where the new cell will stand; the number of cells, or None, means the end.

        Raises:
            InvalidArgumentError: both places are given.
            CellNotFoundError: there is no such place.
            ConflictError: the file is not `if_revision`, or was changed while it was edited.
        """
        if index is not None and after_cell_id is not None:
            raise InvalidArgumentError(
                "index and after_cell_id are both given", allowed="give one of them, or neither for the end"
            )
        file = self._workspace.notebook(path, writing=True)
        async with self.lock(file):
            notebook = await self._read(file)
            self.require_revision(notebook, if_revision)
            document = notebook.document
            if after_cell_id is not None:
                place = document.find(cell_id=after_cell_id, shown=notebook.shown) + 1
            else:
                place = insertion_point(index, len(document.cells), notebook.shown)
            document.insert(place, cell.data())
            revision = await self.save(notebook)
        return AddedCell(
            path=notebook.shown,
            revision=revision,
            cell=source_view(document.cells[place], place),
            outline=outline(document, around=place),
        )

    async def read(
        self,
        path: str,
        *,
        cells: str | None = None,
        outputs: Literal["none", "summary", "full"] = "summary",
        max_chars: int | None = None,
    ) -> NotebookView:
        """Show a notebook, cell by cell, until the budget of characters ends the page.

        Args:
            cells: a selection such as `0-9`, `3,5,-1`, or cell ids.
            max_chars: characters of sources and outputs; the default is the setting `max_output_chars`.

        Raises:
            CellNotFoundError: the selection names a cell that is not there.
        """
        notebook = await self.open(path)
        document = notebook.document
        chosen = select(document, cells, notebook.shown)
        budget = OutputBudget.of(self._config, chars=max_chars)
        shown, images, rest = await asyncio.to_thread(_page, document, chosen, outputs, budget)
        view = NotebookView(
            path=notebook.shown,
            revision=notebook.revision,
            nbformat=document.nbformat,
            nbformat_minor=document.nbformat_minor,
            kernel_name=document.kernel_name,
            language=document.language,
            metadata=_short_metadata(document.metadata),
            cell_count=len(document.cells),
            cells=shown,
            next_cells=ranges(rest) if rest else None,
        )
        view._images = images
        return view


def _young(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < 2
    except OSError:
        return False


def _page(
    document: NotebookDocument, chosen: Sequence[int], outputs: str, budget: OutputBudget
) -> tuple[list[CellView], list[ShownImage], list[int]]:
    """Cells until the budget ends, the images among them, and the indexes that did not fit.

    The first cell is shown in any case, cut if need be: a page that shows nothing would repeat itself for ever.
    """
    shown: list[CellView] = []
    images: list[ShownImage] = []
    for number, index in enumerate(chosen):
        cell = document.cells[index]
        if shown and len(cell.source) > budget.chars:
            return shown, images, list(chosen[number:])
        view = cell_view(cell, index)
        if len(view.source) > budget.chars:
            view.source = view.source[: budget.chars]
            view.truncated = True
        budget.chars -= len(view.source)
        if outputs == "summary":
            view.outputs = summarise_outputs(cell.outputs) or None
            budget.chars = max(0, budget.chars - sum(len(o.text or "") + len(o.note or "") for o in view.outputs or []))
        elif outputs == "full":
            views, found = show_outputs(cell.outputs, budget, label=f"cell {index}")
            view.outputs = views or None
            view.truncated = view.truncated or any(output.omitted_chars for output in views)
            images.extend(found)
        shown.append(view)
    return shown, images, []


def cell_view(cell: NotebookCell, index: int) -> CellView:
    """A cell without its outputs."""
    count = cell.data.get("execution_count")
    return CellView(
        index=index,
        id=cell.cell_id,
        cell_type=cell.cell_type,
        source=cell.source,
        execution_count=count if isinstance(count, int) else None,
        tags=cell.tags or None,
    )


def source_view(cell: NotebookCell, index: int) -> SourceView:
    """A cell as an edit shows it."""
    return SourceView(
        index=index, id=cell.cell_id, cell_type=cell.cell_type, source=cell.source, tags=cell.tags or None
    )


def outline(document: NotebookDocument, *, around: int | None = None, reach: int = 2) -> list[OutlineRow]:
    """A line for each cell, or for those near `around`."""
    first, last = (0, len(document.cells)) if around is None else (max(0, around - reach), around + reach + 1)
    return [
        OutlineRow(
            index=first + offset,
            id=cell.cell_id,
            cell_type=cell.cell_type,
            first_line=one_line(cell.source, 80),
        )
        for offset, cell in enumerate(document.cells[first:last])
    ]


def insertion_point(index: int | None, count: int, shown: str) -> int:
    """Where a new cell goes. Negative indexes count from the end, so -1 is before the last cell.

    Raises:
        CellNotFoundError: there is no such place.
    """
    if index is None:
        return count
    place = index if index >= 0 else count + index
    if not 0 <= place <= count:
        raise CellNotFoundError(
            f"{shown} has no place {str(index)[:40]} for a cell",
            allowed=f"it has {count} cells, so an index from {-count} to {count}",
            state="nothing was changed",
        )
    return place


def select(document: NotebookDocument, selection: str | None, shown: str) -> list[int]:
    """The indexes that a selection such as `0-9`, `3,5,-1` or `intro,plot` names, in its order, each once.

    Raises:
        InvalidArgumentError: it cannot be read.
        CellNotFoundError: it names a cell that is not there.
    """
    count = len(document.cells)
    if selection is None or not selection.strip():
        return list(range(count))
    found: list[int] = []
    for part in (part.strip() for part in selection.split(",")):
        span = re.fullmatch(r"(-?\d{1,9})\s*-\s*(-?\d{1,9})?", part)
        if not part:
            raise InvalidArgumentError(
                f"the selection {selection[:100]!r} has an empty part",
                allowed='a selection reads like "0-9", "3,5,-1", "12-" or cell ids',
            )
        if any(cell.cell_id == part for cell in document.cells):
            found.append(document.find(cell_id=part, shown=shown))
        elif re.fullmatch(r"-?\d{1,9}", part):
            found.append(document.find(index=int(part), shown=shown))
        elif span:
            first = document.find(index=int(span.group(1)), shown=shown)
            last = document.find(index=int(span.group(2)), shown=shown) if span.group(2) else count - 1
            if last < first:
                raise InvalidArgumentError(f"the selection {part!r} ends before it begins")
            found.extend(range(first, last + 1))
        else:
            document.find(cell_id=part, shown=shown)
    return list(dict.fromkeys(found))


def ranges(indexes: Sequence[int]) -> str:
    """Indexes as a selection: `3-9,12`."""
    spans: list[list[int]] = []
    for index in indexes:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _short_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Notebook metadata without what the header shows already and what would fill a page."""
    short = {}
    for key, value in metadata.items():
        if key in ("kernelspec", "language_info"):
            continue
        text = str(value)
        short[key] = value if len(text) <= 500 else f"({len(text)} characters)"
    return short
