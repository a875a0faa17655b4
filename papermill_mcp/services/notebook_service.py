"""Notebooks as files: reading, creating and editing them under the workspace rule.

Owns the lock of each file. No content is cached: the file is the truth, and every request reads it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar
from weakref import WeakSet, WeakValueDictionary

import anyio
import anyio.to_thread
from pydantic import PrivateAttr

from papermill_mcp.config import Config
from papermill_mcp.core.documents.check import content_problems, is_valid
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.fitting import fit
from papermill_mcp.core.documents.places import Places
from papermill_mcp.core.documents.reading import quoted
from papermill_mcp.core.environments.reading import METADATA_KEY
from papermill_mcp.core.history.cause import Cause
from papermill_mcp.core.runs.late import LateOutputs, put_late
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.errors import (
    AlreadyExistsError,
    BusyError,
    ConflictError,
    InvalidArgumentError,
    InvalidNotebookError,
    NotANotebookError,
    NotFoundError,
    Remedy,
    ServerError,
    TooLargeError,
    listed,
)
from papermill_mcp.services.notebooks.edits import (
    Add,
    CellRef,
    Change,
    ClearOutputs,
    NewCell,
    NotebookEdit,
    Operation,
    Relocate,
    Remove,
    SetNotebookMetadata,
    Update,
    at_position,
    diff_text,
    operation,
    summary,
)
from papermill_mcp.services.notebooks.history import History, RunKeeper, cause_of_edit, cause_of_run, counted
from papermill_mcp.services.notebooks.last_edits import Facts, LastEdits, Version
from papermill_mcp.services.notebooks.view import (
    NotebookView,
    Outline,
    Outputs,
    SourceView,
    outline_around,
    outline_page,
    page,
    ranges,
    select,
    short_metadata,
    source_view,
)
from papermill_mcp.services.outputs import OutputBudget, whole_output
from papermill_mcp.services.results import OBJECT, Result
from papermill_mcp.services.staleness import STALE, Staleness
from papermill_mcp.services.workspace import Workspace, short_stem
from papermill_mcp.utils.admission import Admission, Work
from papermill_mcp.utils.digests import Digests, Versions
from papermill_mcp.utils.file_utils import (
    FileContent,
    FileStamp,
    copy_file,
    move_file,
    read_file,
    read_in_pieces,
    stamp_of,
    write_file,
)
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.lock_files import HeldLock, LockFiles, LocksUnavailableError, lock_name
from papermill_mcp.utils.text_utils import cells_named, count_noun

if TYPE_CHECKING:
    from papermill_mcp.core.documents import stripping
    from papermill_mcp.core.environments import declared, recording, requirements
    from papermill_mcp.core.history import store as versions
    from papermill_mcp.core.history.store import HistoryStore
else:
    versions = lazy("papermill_mcp.core.history.store")
    stripping = lazy("papermill_mcp.core.documents.stripping")
    declared = lazy("papermill_mcp.core.environments.declared")
    requirements = lazy("papermill_mcp.core.environments.requirements")
    recording = lazy("papermill_mcp.core.environments.recording")

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Bytes of notebook files that are parsed and held at a time. A parsed notebook takes four times as much memory.
PARSED_BYTES = 64 * 2**20

#: A notebook over `max_notebook_bytes` is read without its outputs, where that is enough, up to this many times it.
LARGE_FACTOR = 32

#: Files up to this size are small; they have a place of their own, so they do not wait for large ones.
SMALL_BYTES = 4 * 2**20
SMALL_PARSED_BYTES = 16 * 2**20

#: Notebooks whose places of cells are kept for the next look, and the most cells of one of them.
_FILES_WITH_PLACES = 8
_PLACES = 20_000

#: Seconds an edit waits for another one of the same file.
_LOCK_SECONDS = 10.0

#: Seconds after which a file that cannot be parsed is read once more: some programs write in place.
_REREAD_SECONDS = 0.3


#: Seconds between two looks at a lock that another process holds: the first, and the longest.
_POLL_SECONDS = (0.002, 0.05)

#: Characters of the diff in a reply, at most, and of the source of a cell that was just changed.
DIFF_CHARS = 4000
_CHANGED_CHARS = 1000

_NOT_MOVED = "the notebook is where it was"

#: Ids of new cells that a reply has.
_IDS = 100

_Cell = Annotated[SourceView, OBJECT]


class CreatedNotebook(Result):
    """A notebook that is new."""

    path: str
    revision: str
    kernel_name: str
    language: str
    cell_count: int
    ids: list[str]
    """Of the first cells."""
    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Sentences for the client, which only the text has."""
        return self._notes


class WrittenNotebook(Result):
    """A notebook that was written as a whole."""

    path: str
    revision: str
    size: int
    cell_count: int
    created: bool
    notes: list[str] | None = None


class EditedNotebook(Result):
    """The changes of an edit."""

    path: str
    revision: str
    changed: bool
    diff: str
    outline: Outline
    notes: list[str] | None = None
    _code_cells: list[tuple[int, str | None]] = PrivateAttr(default_factory=list)
    _summary: list[Change] = PrivateAttr(default_factory=list)

    @property
    def summary(self) -> list[Change]:
        """The changes without the sources that the caller has sent."""
        return self._summary

    @property
    def code_cells(self) -> list[tuple[int, str | None]]:
        """Index and id of the code cells to which the edit gave a source."""
        return self._code_cells


class _EditedCell(EditedNotebook):
    cell: _Cell

    @property
    def code_cells(self) -> list[tuple[int, str | None]]:
        """The cell, if it is one of code."""
        return [(self.cell.index, self.cell.id)] if self.cell.cell_type == "code" else []


class AddedCell(_EditedCell):
    """A new cell and the outline around it."""


class UpdatedCell(_EditedCell):
    """A cell after a change, without its outputs."""


class RemovedCell(EditedNotebook):
    """A cell that is gone from the notebook, so that it can be put back."""

    cell: _Cell
    outputs_dropped: int


class FileClaims(Protocol):
    """The files that runs have."""

    def __contains__(self, path: Path) -> bool: ...

    async def take(self, paths: Iterable[Path], owner: str, *, doing: str, state: str) -> None: ...

    def release(self, owner: str) -> None: ...


@dataclass
class OpenNotebook:
    """A notebook as it was read: its path, version and content.

    Attributes:
        content: the version on disk; None for a notebook that is to be a new file.
        facts: what edits of this server had made of it before it was read.
        dropped: the number of outputs that a cell has in the file and not in the document, by index, where the file is
            over the limit; else None.
        notes: sentences about versions that a save could not keep.
    """

    path: Path
    display_path: str
    content: FileContent | None
    document: NotebookDocument
    facts: Facts = field(default_factory=Facts)
    dropped: Mapping[int, int] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def revision(self) -> str:
        """The revision on disk; empty for a file that is not there yet."""
        return self.content.revision if self.content else ""

    def released(self) -> OpenNotebook:
        """The same without content, for a run that is over."""
        return replace(
            self,
            content=None if self.content is None else self.content.released(),
            document=NotebookDocument.new({}),
        )


class NotebookService:
    """Reads and edits notebook files. Every path passes through the workspace first."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        state: Path | None = None,
        *,
        claims: FileClaims | None = None,
        staleness: Staleness | None = None,
    ) -> None:
        """Use files in the directory `state` as locks between servers; without it, only this process takes turns.

        The directory also has the history.

        Args:
            claims: the files that runs have, in this server or another.
            staleness: the memory of the runs of cells.
        """
        self._claims = claims
        self._staleness = staleness or Staleness(None)
        self.followers: list[Callable[[Path, Path], list[str]]] = []
        """Called with the old and the new path of a notebook that was renamed. They return notes for the client."""
        self._config = config
        self._workspace = workspace
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lock_files = LockFiles(state / "locks") if state is not None else None

        def make_store() -> HistoryStore:
            assert state is not None
            return versions.HistoryStore(state, versions=config.history_versions, max_bytes=config.history_bytes)

        kept = state is not None and config.history_versions > 0
        self.history = History(make_store if kept else None, workspace.holds)
        self._run_files: WeakValueDictionary[Path, RunFile] = WeakValueDictionary()
        self._last_edits = LastEdits()
        self._digests = Digests()
        self._places = Versions[Places](_FILES_WITH_PLACES)
        self._over: defaultdict[Path, WeakSet[RunFile]] = defaultdict(WeakSet)  # files of runs, also of those over
        self._admission = Admission(PARSED_BYTES, small=SMALL_BYTES, small_limit=SMALL_PARSED_BYTES)

    async def aclose(self) -> None:
        """Keep the versions that wait for it."""
        await asyncio.to_thread(self.history.close)

    def _claimed(self, path: Path) -> bool:
        return self._claims is not None and path in self._claims

    @asynccontextmanager
    async def lock(self, path: Path, *, held_already: bool = False) -> AsyncIterator[None]:
        """Hold the lock of one file; edits and saves of this server, and of others of its kind, take turns.

        Args:
            held_already: the caller has the lock of another file that shares its lock file.

        Raises:
            BusyError: another holder kept it for longer than the bound of the wait.
        """
        deadline = asyncio.get_running_loop().time() + _LOCK_SECONDS
        lock = self._locks[path]
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise self._busy(path, "another request") from None
        held: HeldLock | None = None
        try:
            if not held_already:
                held = await self._lock_file(path, deadline)
            yield
        finally:
            if held is not None:
                held.release()
            lock.release()
            if not lock.locked():
                self._locks.pop(path, None)

    @asynccontextmanager
    async def _lock_both(self, one: Path, other: Path) -> AsyncIterator[None]:
        """Hold the locks of two files, always in the same order."""
        first, second = sorted((one, other), key=lambda path: (lock_name(path), path))
        async with self.lock(first), self.lock(second, held_already=lock_name(first) == lock_name(second)):
            yield

    async def _lock_file(self, path: Path, deadline: float) -> HeldLock | None:
        """The lock between processes. None when there can be none: each save still compares the version."""
        pause, longest = _POLL_SECONDS
        while self._lock_files is not None:
            try:
                # Shielded, so that a lock taken for a request that is cancelled meanwhile is not lost.
                with anyio.CancelScope(shield=True):
                    held = await anyio.to_thread.run_sync(self._lock_files.try_acquire, path)
            except LocksUnavailableError as error:
                self._lock_files = None
                logger.warning(
                    "no locks between servers: the state directory cannot be used", extra={"error": str(error)}
                )
                break
            if held is not None:
                return held
            if asyncio.get_running_loop().time() > deadline:
                raise self._busy(path, "another server")
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
        return None

    def _busy(self, path: Path, holder: str) -> BusyError:
        return BusyError(
            f"{self._workspace.display_path(path)} is being saved by {holder}",
            state="nothing was changed",
            advice="try again",
        )

    async def open(self, path: str, *, writing: bool = False) -> OpenNotebook:
        """Read a notebook to keep it, as a run does.

        Raises:
            PathNotAllowedError, NotFoundError, PermissionDeniedError, TooLargeError: it may or can not be read.
            NotANotebookError, InvalidNotebookError: it is none, or a broken one.
        """
        async with self.opened(path, writing=writing) as (notebook, _):
            return notebook

    @asynccontextmanager
    async def opened(
        self, path: str, *, writing: bool = False, light: bool = False, showing: bool = False
    ) -> AsyncIterator[tuple[OpenNotebook, Work]]:
        """Read a notebook to use it inside this block. The work in the block runs in threads by `Work.run`.

        Waits while the notebooks in other blocks hold too many bytes.

        Args:
            light: the outputs are not needed: a notebook over the limit comes without them.
            showing: it will be shown, and nothing will be written of it. An earlier look at this version then helps.

        Raises:
            ServerError: as for `open`.
        """
        async with self._read(
            self._workspace.notebook(path, writing=writing),
            load=partial(self._load_light, showing=showing) if light else None,
            showing=showing,
        ) as opened:
            yield opened

    def located(self, path: str) -> str:
        """The path of a notebook whose first slash may be missing, as in a URI. A path without a notebook stays."""
        for candidate in (path, f"/{path}"):
            try:
                self._workspace.notebook(candidate)
            except ServerError:
                continue
            return candidate
        return path

    def check_allowed(self, path: str) -> None:
        """Check that a notebook may be read, also if it is not there yet.

        Raises:
            PathNotAllowedError: it may not.
        """
        try:
            self._workspace.notebook(self.located(path))
        except NotFoundError:
            return

    def stamp(self, path: str) -> FileStamp | None:
        """A cheap look at the file of a notebook; None if there is none, or none that may be read."""
        try:
            return stamp_of(self._workspace.notebook(self.located(path)))
        except ServerError:
            return None

    async def parse(self, data: bytes, *, display_path: str) -> NotebookDocument:
        """The document of bytes that are not in a file yet.

        Raises:
            NotANotebookError, InvalidNotebookError: it is none, or a broken one.
        """
        async with self.admitted(len(data)) as work:
            return await work.run(lambda: NotebookDocument.parse(data, display_path=display_path))

    @asynccontextmanager
    async def _read(
        self,
        file: Path,
        *,
        named: bool = True,
        load: Callable[[Path], OpenNotebook] | None = None,
        showing: bool = False,
    ) -> AsyncIterator[tuple[OpenNotebook, Work]]:
        """Read a notebook, by `load` one that may be over the limit. `named`: its revision will be asked for."""
        size = _size(file)
        if load is not None:
            size = min(size, self._config.max_notebook_bytes)
        read = partial(load, file) if load is not None else partial(self._load, file, named=named, showing=showing)
        async with self.admitted(size) as work:
            try:
                notebook = await work.run(lambda: read_patiently(file, read))
            except NotFoundError:
                raise self._workspace.not_found(file, self._workspace.display_path(file)) from None
            yield notebook, work

    @property
    def max_bytes(self) -> int:
        """Bytes of a notebook that is read with its outputs, at most."""
        return self._config.max_notebook_bytes

    def large_note(self, notebook: OpenNotebook) -> str | None:
        """A sentence about a notebook that is over the limit; None for others."""
        if notebook.dropped is None or notebook.content is None:
            return None
        return (
            f"the file has {notebook.content.stamp.size:,} bytes, over the limit of "
            f"{self._config.max_notebook_bytes:,}, and was read without its outputs; the operation clear_outputs of "
            "edit_notebook makes it smaller"
        )

    def admitted(self, size: int) -> AbstractAsyncContextManager[Work]:
        """Wait for a share of the budget for `size` bytes of notebooks, and hold it."""
        return self._admission.admit(size)

    def load(self, path: str) -> OpenNotebook:
        """Read a notebook at once, in a thread of admitted work.

        Raises:
            ServerError: as for `open`.
        """
        return self._load(self._workspace.notebook(path), named=False)

    def content_of(self, file: Path, display_path: str) -> FileContent:
        """The bytes of a notebook at once, in a thread of admitted work.

        Args:
            file: its real path, as a walk finds it. A directory on the way that is a link by now is not followed.

        Raises:
            ServerError: as for `open`.
        """
        return read_file(file, max_bytes=self._config.max_notebook_bytes, display_path=display_path)

    def _load(self, file: Path, *, named: bool = True, showing: bool = False) -> OpenNotebook:
        """Read a notebook. `named`: its revision will be asked for, so it is made beside the parse.

        Args:
            showing: nothing will be written of it. Otherwise its cells are always found anew, since a program may
                change a file through a memory map while its times stay.
        """
        display_path = self._workspace.display_path(file)
        facts = self._last_edits.facts(file)
        content = self._content(file, named=named)
        known = self._places.of(file, content.stamp) if showing else None
        document = NotebookDocument.parse(content.data, display_path=display_path, places=known)
        found = document.places
        if content.stamp.settled and found is not None and found is not known and len(found.cells) <= _PLACES:
            self._places.keep(file, content.stamp, found, content.stamp.device)
        return OpenNotebook(file, display_path, content, document, facts)

    def _content(self, file: Path, *, named: bool = True) -> FileContent:
        """The bytes of a notebook. `named`: its revision will be asked for.

        Raises:
            TooLargeError: it is over the limit, and there are ways around.
        """
        most = self._config.max_notebook_bytes
        display_path = self._workspace.display_path(file)
        if (size := _size(file)) > most:
            raise TooLargeError(
                f"{display_path} is {size:,} bytes",
                allowed=f"The limit is {most:,} bytes (max_notebook_bytes)",
                state="Nothing was read",
                advice=Remedy.CLEAR_OUTPUTS,
            )
        digests = self._digests if named else None
        return read_file(file, max_bytes=most, display_path=display_path, digests=digests)

    def _load_light(self, file: Path, *, cells: Sequence[CellRef] | None = None, showing: bool = False) -> OpenNotebook:
        """Read a notebook. One over the limit comes without the outputs of `cells`, or of all.

        Raises:
            TooLargeError: it is over the limit without them, too, or far beyond the limit.
        """
        most = self._config.max_notebook_bytes
        if _size(file) <= most:
            return self._load(file, showing=showing)
        notebook = self._stripped(file, lambda _: True)
        if cells is not None:
            found = notebook.document.find
            display_path = notebook.display_path
            places = {found(index=at.index, cell_id=at.cell_id, display_path=display_path) for at in cells}
            notebook = self._stripped(file, places.__contains__)
        return notebook

    def _stripped(self, file: Path, drop: Callable[[int], bool]) -> OpenNotebook:
        most = self._config.max_notebook_bytes
        display_path = self._workspace.display_path(file)
        facts = self._last_edits.facts(file)
        stripper = stripping.OutputStripper(most=most, drop=drop)

        def begin() -> Callable[[bytes], None]:
            nonlocal stripper
            stripper = stripping.OutputStripper(most=most, drop=drop)
            return stripper.feed

        content = read_in_pieces(file, max_bytes=most * LARGE_FACTOR, display_path=display_path, begin=begin)
        stripper.close()
        if stripper.kept > most:
            raise TooLargeError(
                f"{display_path} is {content.stamp.size:,} bytes, and {stripper.kept:,} without these outputs",
                allowed=f"The limit is {most:,} bytes (max_notebook_bytes)",
                state="The file is unchanged",
                advice="clear the outputs of all cells, raise the limit in the settings, or split the notebook",
            )
        document = NotebookDocument.parse(stripper.data, display_path=display_path)
        return OpenNotebook(file, display_path, content, document, facts, dropped=stripper.outputs)

    async def undone(
        self, notebook: OpenNotebook, version: Version | None = None, *, outputs: bool = True
    ) -> list[str]:
        """A note about the edits of this server that another program has undone. Each is told once.

        Args:
            version: what was read, if the document has been changed since.
            outputs: also those that cleared outputs, unless a run is about to set them.
        """
        facts = notebook.facts
        if not facts.facts or facts.revision == notebook.revision:
            return []
        read = version or Version(notebook.document.cells, notebook.document.metadata)
        run = self._run_files.get(notebook.path)
        outputs = outputs and (run is None or not run.active)
        undone = await asyncio.to_thread(lambda: facts.undone(read, outputs=outputs))
        self._last_edits.seen(notebook.path, facts, notebook.revision, undone)
        return [facts.note(undone)] if undone else []

    async def save(
        self,
        notebook: OpenNotebook,
        data: bytes | None = None,
        *,
        cause: Cause | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """Write a notebook over the version it was made from, or as a new file. Returns the new revision.

        The version before is kept in the history. The caller holds the file's lock. Once begun, a save is carried to
        its end even if the request is cancelled.

        Args:
            data: the rendered document, if the caller has it.
            cause: of the new version, which is also kept then.
            max_bytes: in place of the limit of the settings.
        """

        def write() -> FileContent:
            if notebook.content is None:
                self._workspace.make_directory_of(notebook.path)
            notebook.notes += self.history.before(
                notebook.path, notebook.content, cause=self._cause_of_run(notebook.path, notebook.revision)
            )
            content = write_file(
                notebook.path,
                notebook.document.render() if data is None else data,
                expected=notebook.content,
                display_path=notebook.display_path,
                max_bytes=self._config.max_notebook_bytes if max_bytes is None else max_bytes,
            )
            if cause is not None:
                missed = self.history.after(notebook.path, content, cause)
                notebook.notes += missed if not notebook.notes else []  # one line says enough
            return content

        with anyio.CancelScope(shield=True):
            content = await anyio.to_thread.run_sync(write)
        notebook.content = content
        return content.revision

    def stale_cells(self, notebook: OpenNotebook, *, edited: bool = False) -> Mapping[int, str]:
        """A few words for each cell that is not as a run from the top would have it, by index. Reads a file.

        Args:
            edited: the document is not as the file has it.
        """
        if notebook.dropped is not None:
            return {}
        revision = None if edited else lambda: notebook.revision
        return self._staleness.stale(notebook.path, notebook.document, revision=revision).marks

    def _cause_of_run(self, path: Path, revision: str) -> Cause | None:
        """The cause of the version that a run saved last, which still goes on; None for other versions."""
        run = self._run_files.get(path)
        if run is None or not run.active or run.revision != revision or not isinstance(run.keeper, RunKeeper):
            return None
        return run.keeper.cause(run.ended)

    def require_revision(self, notebook: OpenNotebook, if_revision: str | None) -> None:
        """Raise if the file has another revision than the caller expects.

        Raises:
            ConflictError: it has; both are named.
        """
        if if_revision is not None and notebook.revision != if_revision:
            raise ConflictError(
                f"{notebook.display_path} has revision {notebook.revision}, not {if_revision[:64]}",
                state="the file was changed since that revision was read, or never had it; nothing was written",
                advice="read it again, then repeat the edit on the present version",
            )

    async def save_version(self, notebook: OpenNotebook, data: bytes, cause: Cause) -> str:
        """Write an earlier version over a notebook, whatever its size. As `save`."""
        revision = await self.save(notebook, data, cause=cause, max_bytes=sys.maxsize)
        self._last_edits.remember(notebook.path, Facts())  # it was this server that undid them
        return revision

    async def bytes_of(self, file: Path) -> FileContent:
        """The version of a file, whether or not it is a notebook. One over the limit comes without its bytes.

        Raises:
            ServerError: as for `open`.
        """
        display_path = self._workspace.display_path(file)
        most = self._config.max_notebook_bytes
        size = await asyncio.to_thread(_size, file)
        async with self.admitted(min(size, most)) as work:
            if size > most:
                return await work.run(
                    partial(
                        read_in_pieces,
                        file,
                        max_bytes=most * LARGE_FACTOR,
                        display_path=display_path,
                        begin=lambda: lambda _: None,
                    )
                )
            return await work.run(
                partial(read_file, file, max_bytes=most, display_path=display_path, digests=self._digests)
            )

    def is_written_by_run(self, file: Path) -> bool:
        """Whether a run saves its results into a notebook, in this server or another."""
        return self._claimed(file)

    async def put(
        self,
        file: Path,
        document: NotebookDocument,
        *,
        overwrite: bool,
        replaces: str | None = None,
        cause: Cause | None = None,
    ) -> OpenNotebook:
        """Write a document as a new file or, with `overwrite`, over the notebook that is there.

        Args:
            replaces: the only revision to be written over, empty for no file; None for any.
            cause: of the new version, if it is to be kept.

        Raises:
            AlreadyExistsError: there is a file and `overwrite` is false.
            ConflictError: the file has another revision than `replaces`.
            NotANotebookError, InvalidNotebookError: `overwrite` is true, but the existing file is no notebook.
        """
        async with self.lock(file):
            expected: FileContent | None = None
            if overwrite and await asyncio.to_thread(file.exists):
                async with self._read(file) as (found, _):  # a file that is no notebook is never replaced
                    expected = found.content
            notebook = OpenNotebook(file, self._workspace.display_path(file), expected, document)
            if replaces is not None and notebook.revision != replaces:
                raise ConflictError(f"{notebook.display_path} was changed during the run", state="it stays as it is")
            await self.save(notebook, cause=cause)
            self._last_edits.remember(file, Facts())
        return notebook

    async def put_outputs(self, file: Path, results: Mapping[int, Mapping[str, Any]], *, replaces: str) -> str:
        """Set outputs and counts of code cells. Returns the new revision.

        Args:
            results: members of cells, by index.
            replaces: the only revision that is changed.

        Raises:
            ConflictError: the file has another revision.
            ServerError: as for `open`, or it cannot be written.
        """
        async with self.lock(file), self._read(file) as (notebook, work):
            self.require_revision(notebook, replaces)

            def change() -> None:
                for index, members in results.items():
                    notebook.document.update(index, members)

            await work.run(change)
            return await self.save(notebook, cause=cause_of_run(count_noun(len(results), "cell")))

    def run_file(self, notebook: OpenNotebook, owner: str, *, in_place: bool = True) -> RunFile:
        """The file of a notebook that was read, or just written, for a run that saves its results there.

        Args:
            owner: the id under which clients know the run.
            in_place: the notebook is no output that can be made again, so the version that the run leaves is kept.
        """
        assert notebook.content is not None
        self._last_edits.forget_outputs(notebook.path)
        path = notebook.path  # the run file outlives the run, and must not keep the notebook by its functions
        keeper = RunKeeper(self.history, path, result=in_place)
        keeper.notes += notebook.notes
        file = self._run_files[path] = RunFile(
            path,
            notebook.document,
            notebook.content,
            display_path=notebook.display_path,
            max_bytes=self._config.max_notebook_bytes,
            lock=lambda: self._saving(path),
            keep_aside=lambda document: self._keep_aside(path, document),
            owner=owner,
            save_late=lambda: self._save_late(path),
            keeper=keeper,
            own=not in_place,
        )
        self._over = defaultdict(WeakSet, {known: files for known, files in self._over.items() if len(files)})
        self._over[path].add(file)
        return file

    def _late(self, path: Path) -> list[LateOutputs]:
        """Outputs that came after the last save of their run. A cell that has run again since has newer ones."""
        found: list[LateOutputs] = []
        taken: set[str] = set()
        for file in sorted(self._over.get(path, ()), key=lambda file: file.began, reverse=True):
            found += [one for one in file.late() if one.cell_id not in taken]
            taken |= file.taken
        return found

    async def _save_late(self, path: Path) -> FileContent | None:
        """Save late outputs of earlier runs. The caller holds the claim of the file. Without success they stay late."""
        if not self._late(path):
            return None
        try:
            async with self.lock(path), self._read(path) as (notebook, work):
                late = self._late(path)
                done = await work.run(lambda: put_late(notebook.document, late))
                if not done:
                    return None
                await self.save(notebook, cause=cause_of_run("late outputs"))
        except ServerError as error:
            logger.warning("late outputs were not saved", extra={"path": str(path), "error": str(error)})
            return None
        for saved in done:
            saved()
        return notebook.content

    @asynccontextmanager
    async def _saving(self, path: Path) -> AsyncIterator[None]:
        """The lock of a save by a run, and a place to parse the file if another program has changed it."""
        async with self.lock(path):
            file = self._run_files.get(path)
            if file is not None and await asyncio.to_thread(stamp_of, path) == file.content.stamp:
                yield
                return
            async with self.admitted(_size(path)):
                yield

    async def revision_of(self, file: Path) -> str:
        """The revision of a file; empty if there is none.

        Raises:
            ServerError: it cannot be read, or is no notebook.
        """
        if not await asyncio.to_thread(file.exists):
            return ""
        async with self._read(file) as (notebook, _):
            return notebook.revision

    async def put_result(self, file: Path, document: NotebookDocument, *, replaces: str) -> str | None:
        """Put the output of a run that is over in place. Returns a note if it had to be kept aside.

        Args:
            replaces: the revision that the output had before the run; empty for none. Another version stays.

        Raises:
            ServerError: it cannot be kept aside either.
        """
        await asyncio.to_thread(fit, document, self._config.max_notebook_bytes, range(len(document.cells)))
        try:
            await self.put(file, document, overwrite=True, replaces=replaces)
        except ServerError as error:
            return f"{error} The output of the run is kept in {await self._keep_aside(file, document)}"
        return None

    async def _keep_aside(self, path: Path, document: NotebookDocument) -> str:
        """Write a document to a new file beside a notebook, or in the output directory. Returns its name.

        Raises:
            ServerError: neither can be written.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        name = f"{short_stem(path)}-results-{stamp}{path.suffix}"
        try:
            file = self._workspace.notebook(str(path.with_name(name)), writing=True)
            await self.put(file, document, overwrite=False)
        except ServerError:
            directory = self._workspace.directory(str(self._config.output_directory), create=True)
            file = directory / name
            await self.put(file, document, overwrite=False)
        return self.display_path(file)

    def display_path(self, path: Path) -> str:
        """The name of a file for clients."""
        return self._workspace.display_path(path)

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
            NotANotebookError, InvalidNotebookError: `overwrite` is true, but the existing file is no notebook.
        """
        file = self._workspace.notebook(path, writing=True)
        display_path = self._workspace.display_path(file)
        document = NotebookDocument.new(
            {
                "kernelspec": {"display_name": display_name, "language": language, "name": kernel_name},
                "language_info": {"name": language},
            }
        )
        for cell in cells:
            document.insert(len(document.cells), cell.data())
        cause = cause_of_edit(f"made with {count_noun(len(cells), 'cell')}")
        notebook = await self.put(file, document, overwrite=overwrite, cause=cause)
        created = CreatedNotebook(
            path=display_path,
            revision=notebook.revision,
            kernel_name=kernel_name,
            language=language,
            cell_count=len(document.cells),
            ids=[cell.cell_id or "" for cell in document.cells[:_IDS]],
        )
        created._notes = notebook.notes
        return created

    async def write(
        self, path: str, content: Mapping[str, Any], *, overwrite: bool = False, if_revision: str | None = None
    ) -> WrittenNotebook:
        """Write a whole notebook of nbformat 4. Ids are kept; missing ones, and empty required members, are made.

        Raises:
            InvalidArgumentError: the content is no valid notebook.
            AlreadyExistsError, NotANotebookError, InvalidNotebookError: as for `create`.
            ConflictError: the file is not `if_revision`.
        """
        file = self._workspace.notebook(path, writing=True)
        display_path = self._workspace.display_path(file)
        document = await asyncio.to_thread(_document_of, content)
        data = await asyncio.to_thread(document.render)
        async with self.lock(file):
            expected: FileContent | None = None
            if (overwrite or if_revision is not None) and await asyncio.to_thread(file.exists):
                async with self._read(file) as (found, _):  # a file that is no notebook is never replaced
                    self.require_revision(found, if_revision)
                    expected = found.content if overwrite else None
            elif if_revision is not None:
                raise ConflictError(
                    f"{display_path} does not exist, and revision {if_revision[:64]} was expected",
                    state="nothing was written",
                    advice="leave if_revision out to make a new notebook",
                )
            before = found.document.cells if expected is not None else []
            notebook = OpenNotebook(file, display_path, expected, document)
            cause = cause_of_edit(f"written with {count_noun(len(document.cells), 'cell')}")
            revision = await self.save(notebook, data, cause=cause)
            self._last_edits.remember(file, Facts())
        return WrittenNotebook(
            path=display_path,
            revision=revision,
            size=len(data),
            cell_count=len(document.cells),
            created=expected is None,
            notes=[*self._run_notes(file, before, document.cells), *notebook.notes] or None,
        )

    async def add_cell(self, path: str, addition: Add, *, if_revision: str | None = None) -> AddedCell:
        """Insert a cell and save.

        Raises:
            InvalidArgumentError: both places are given.
            CellNotFoundError: there is no such place.
            ConflictError: the file is not `if_revision`, or was changed while it was edited.
        """
        edited, edit = await self._edit(path, lambda edit: edit.apply(addition), if_revision)
        return _with_cell(AddedCell, edited, edit)

    async def update_cell(self, path: str, change: Update, *, if_revision: str | None = None) -> UpdatedCell:
        """Change a cell and save. A code cell whose source changes loses its outputs.

        Raises:
            InvalidArgumentError: the request names no change, or an ambiguous one.
            CellNotFoundError, ConflictError: as for `add_cell`.
        """
        if change == Update(change.at):
            raise InvalidArgumentError(
                "update_cell got no change",
                allowed="give source, or old_text and new_text, or cell_type, tags or metadata",
                state="nothing was changed",
            )
        edited, edit = await self._edit(path, lambda edit: edit.apply(change), if_revision)
        return _with_cell(UpdatedCell, edited, edit)

    async def remove_cell(self, path: str, at: CellRef, *, if_revision: str | None = None) -> RemovedCell:
        """Take a cell out and save.

        Raises:
            InvalidArgumentError, CellNotFoundError, ConflictError: as for `update_cell`.
        """
        removed: list[tuple[SourceView, int]] = []

        def apply(edit: NotebookEdit) -> None:
            place = edit.document.find(index=at.index, cell_id=at.cell_id, display_path=display_path)
            cell = edit.document.cells[place]
            removed.append((source_view(cell, place, metadata=True), len(cell.outputs)))
            edit.apply(Remove(at))

        display_path = self._workspace.display_path(self._workspace.notebook(path, writing=True))
        edited, _ = await self._edit(path, apply, if_revision)
        view, outputs = removed[0]
        return RemovedCell(**dict(edited), cell=view, outputs_dropped=outputs)

    async def edit(
        self, path: str, operations: Sequence[Mapping[str, Any]], *, if_revision: str | None = None
    ) -> EditedNotebook:
        """Apply operations in order, all or none, and save once.

        Args:
            operations: flat objects with `op`, as `notebook_edits.operation` reads them.

        Raises:
            ServerError: as the operation says; the message names its position. Nothing was written.
        """
        wanted: list[Operation] = []
        for position, fields in enumerate(operations):
            try:
                one = operation(fields)
                if isinstance(one, Relocate):
                    if len(operations) > 1:
                        raise InvalidArgumentError(
                            f"{fields['op']} stands beside other operations",
                            allowed="it is the only operation of its call",
                        )
                    return await self._relocate(path, one, if_revision)
                wanted.append(one)
            except InvalidArgumentError as error:
                raise at_position(error, position) from error
        if not wanted:
            raise InvalidArgumentError("operations is empty", allowed="at least one", state="nothing was changed")
        edited, _ = await self._edit(
            path, lambda edit: edit.apply_all(wanted), if_revision, load=self._load_for(wanted)
        )
        return edited

    def _load_for(self, operations: Sequence[Operation]) -> Callable[[Path], OpenNotebook] | None:
        """How a notebook over the limit is read for operations that clear outputs, all of them first."""
        if operations[0] == ClearOutputs(CellRef()):
            return self._load_light
        cells = [one.at for one in operations if isinstance(one, ClearOutputs) and one.at]
        return partial(self._load_light, cells=cells) if len(cells) == len(operations) else None

    async def _relocate(self, path: str, one: Relocate, if_revision: str | None) -> EditedNotebook:
        """Rename or copy a notebook file. No file is ever replaced.

        Raises:
            AlreadyExistsError: there is something at the new place.
            BusyError: a run writes the notebook, or will write at the new place.
            ConflictError: the file is not `if_revision`, or was changed meanwhile.
        """
        source = self._workspace.notebook(path)
        source = source if one.copy else self._workspace.notebook(path, writing=True)
        target = self._workspace.notebook(one.to, writing=True)
        display_path, target_path = map(self._workspace.display_path, (source, target))
        if not one.copy and self._workspace.is_link(path):
            raise InvalidArgumentError(
                f"{path[:200]} is a symbolic link to {display_path}", allowed="a rename takes the path of a file itself"
            )
        if source == target:
            raise InvalidArgumentError(f"to is {display_path} itself", allowed="another path, ending in .ipynb")
        if self._workspace.is_link(one.to):
            raise AlreadyExistsError(
                f"{one.to[:200]} is a symbolic link", state=_NOT_MOVED, advice="choose another name"
            )
        async with (
            self._lock_both(source, target),
            self._claiming([target] if one.copy else [source, target]),
            self.admitted(_size(source)) as work,
        ):
            content = await work.run(lambda: self._content(source))
            self.require_revision(OpenNotebook(source, display_path, content, NotebookDocument.new({})), if_revision)

            def put() -> FileContent:
                self._workspace.make_directory_of(target)
                if one.copy:
                    return copy_file(source, target, content, display_path=target_path)
                return move_file(source, target, content, display_path=display_path, target_path=target_path)

            with anyio.CancelScope(shield=True):
                put_there = await anyio.to_thread.run_sync(put)
                notes = [] if one.copy else self._follow(source, target)
                if not one.copy:
                    notes += await anyio.to_thread.run_sync(self.history.moved, source, target)
        change = Change("notebook", [f"{'copied' if one.copy else 'renamed'} from {display_path}"])
        edited = EditedNotebook(
            path=target_path,
            revision=put_there.revision,
            changed=True,
            diff=change.head(),
            outline=[],
            notes=notes or None,
        )
        edited._summary = [change]
        return edited

    @asynccontextmanager
    async def _claiming(self, files: Sequence[Path]) -> AsyncIterator[None]:
        """Keep runs away from files for a moment.

        Raises:
            BusyError: a run has one of them.
        """
        if self._claims is None:
            yield
            return
        owner = f"move{secrets.token_hex(8)}"
        try:
            await self._claims.take(files, owner, doing="written", state=_NOT_MOVED)
            yield
        finally:
            self._claims.release(owner)

    def _follow(self, old: Path, new: Path) -> list[str]:
        """Take the knowledge of a notebook, and its kernel, to its new place. Returns notes."""
        facts = self._last_edits.facts(old)
        self._last_edits.remember(old, Facts())
        self._last_edits.remember(new, facts)
        if old in self._over:
            self._over[new] = self._over.pop(old)
        return [note for follow in self.followers for note in follow(old, new)]

    async def record_packages(self, path: str, packages: Sequence[str], requires_python: str | None) -> str:
        """Put checked requirements into the declaration of a notebook, and save. Without one it gets a first cell.

        Args:
            requires_python: versions for a new block.

        Returns:
            Where they stand now, and the requirements that they replace, for a person.

        Raises:
            ServerError: as for `edit`. Nothing was written.
        """
        where: list[str] = []
        before: list[str] = []

        def apply(edit: NotebookEdit) -> None:
            declaration = declared.declared_by(edit.document)
            before.extend(declaration.packages if declaration is not None else ())
            cells, metadata = edit.document.cells, edit.document.metadata
            found = recording.recorded(cells, packages)
            of_nteract = metadata.get(METADATA_KEY)
            if found is not None:
                index, source = found
                where.append(f"cell {index}")
                if source != cells[index].source:
                    edit.apply(Update(CellRef(index=index), source=source))
            elif isinstance(of_nteract, dict):
                where.append(f"metadata.{METADATA_KEY}")
                changed = {"dependencies": requirements.merged(of_nteract.get("dependencies", []), packages)}
                edit.apply(SetNotebookMetadata({METADATA_KEY: of_nteract | changed}))
            else:
                where.append("the new cell 0")
                cell = NewCell(
                    "code",
                    recording.new_block(packages, requires_python),
                    metadata={"jupyter": {"source_hidden": True}},
                )
                edit.apply(Add(cell, index=0))

        _, edit = await self._edit(path, apply, None)
        after = declared.declared_by(edit.document)
        gone = [one for one in before if after is not None and one not in after.packages]
        return where[0] + (f", in place of {', '.join(gone)}" if gone else "")

    async def _edit(
        self,
        path: str,
        apply: Callable[[NotebookEdit], None],
        if_revision: str | None,
        *,
        load: Callable[[Path], OpenNotebook] | None = None,
    ) -> tuple[EditedNotebook, NotebookEdit]:
        """Read, change, save and tell. Without a change the file is not touched.

        Args:
            load: reads a notebook that may be over the limit.
        """
        file = self._workspace.notebook(path, writing=True)
        compared = if_revision is not None  # else a new revision replaces the old one, and nothing needs that
        named = compared or self.history.kept or bool(self._last_edits.facts(file).facts)
        async with self.lock(file), self._read(file, named=named, load=load) as (notebook, work):
            self.require_revision(notebook, if_revision)
            late = [] if self._claimed(file) or notebook.dropped is not None else self._late(file)
            done: list[Callable[[], None]] = []

            stale: list[int] = []

            def change() -> tuple[NotebookEdit, bytes, EditedNotebook, Facts, str]:
                edit = NotebookEdit(notebook.document, notebook.display_path)
                stale_before = {notebook.document.cells[index].cell_id for index in self.stale_cells(notebook)}
                apply(edit)
                changes = edit.changes()
                diff = diff_text(changes, DIFF_CHARS)
                rows = outline_around(edit.document, edit.shifted())
                data = edit.document.render()
                changed = notebook.content is None or data != notebook.content.data
                if changed and late and (put := put_late(edit.document, late)):
                    with_late = edit.document.render()
                    if len(with_late) <= self._config.max_notebook_bytes:
                        data = with_late
                        done.extend(put)
                before = Version(edit.before, edit.metadata_before)
                after = Version(edit.document.cells, edit.document.metadata)
                facts = Facts(facts=notebook.facts.after(before, after, edit.moved))
                edited = EditedNotebook(
                    path=notebook.display_path,
                    revision="" if changed else notebook.revision,
                    changed=changed,
                    diff=diff,
                    outline=rows,
                )
                edited._summary = summary(changes)
                stale.extend(
                    index
                    for index, mark in self.stale_cells(replace(notebook, document=edit.document), edited=True).items()
                    if mark.startswith(STALE) and edit.document.cells[index].cell_id not in stale_before
                )
                return edit, data, edited, facts, counted(changes)

            edit, data, edited, facts, numbers = await work.run(change)
            edited._code_cells = [(place, edit.document.cells[place].cell_id) for place in edit.code_to_run()]
            notes = self._run_notes(file, edit.before, edit.document.cells)
            if stale:
                notes.append(f'stale now: {cells_named(stale[:20])}; execute_notebook with cells="stale" runs them')
            if notebook.dropped is None:
                notes += await self.undone(notebook, Version(edit.before, edit.metadata_before))
            elif notebook.content is not None:
                number = count_noun(sum(notebook.dropped.values()), "output")
                cells = count_noun(len(notebook.dropped), "cell")
                notes.append(
                    f"{number} of {cells} dropped; the file had {notebook.content.stamp.size:,} bytes and has "
                    f"{len(data):,}"
                )
            notebook.document = edit.document
            edited.notes = notes or None
            if edited.changed:
                edited.revision = await self.save(notebook, data, cause=cause_of_edit(numbers))
                edited.notes = [*notes, *notebook.notes] or None
                for saved in done:
                    saved()
                self._last_edits.remember(file, replace(facts, revision=edited.revision))
        return edited, edit

    def run_notes(self, file: Path, before: NotebookDocument | None, after: NotebookDocument | None) -> list[str]:
        """A note if a run of the notebook has yet to end cells that a change changed. Documents may be broken."""
        return [] if before is None or after is None else self._run_notes(file, before.cells, after.cells)

    def _run_notes(self, file: Path, before: Sequence[NotebookCell], after: Sequence[NotebookCell]) -> list[str]:
        """A note if a run of the notebook has yet to end cells that an edit changed."""
        run = self._run_files.get(file)
        if run is None or not run.active:
            same = len(before) == len(after) and all(
                old is new or old.source == new.source for old, new in zip(before, after, strict=True)
            )
            if same or not self._claimed(file):
                return []
            return ["another server runs this notebook; cells that it has yet to end run as they were before this edit"]
        ahead = run.changed_ahead(before, after)
        if not ahead:
            return []
        one = len(ahead) == 1
        them, they_were, their = ("it", "it was", "its") if one else ("them", "they were", "their")
        return [
            f"execution {run.owner} runs this notebook and has yet to end {cells_named(ahead)}: it runs {them} as "
            f"{they_were} before this edit, and keeps {their} results in another file"
        ]

    async def read(
        self,
        path: str,
        *,
        cells: str | None = None,
        cell_id: str | None = None,
        outputs: Outputs = "summary",
        outline: bool = False,
        max_chars: int | None = None,
        max_images: int | None = None,
        first_output: int | None = None,
    ) -> NotebookView:
        """Show a notebook, cell by cell, until the budget of characters ends the page.

        Args:
            cells: a selection such as `0-9`, `3,5,-1`, or cell ids.
            cell_id: the one cell to show, even if its id looks like a selection.
            outline: a line for each cell in place of its source and outputs.
            max_chars: characters of sources and outputs; the default is the setting `max_output_chars`.
            max_images: images; the default is the setting of this name.
            first_output: of the one cell that is chosen, outputs from this one on, in full.

        Raises:
            CellNotFoundError: the selection names a cell that is not there.
            InvalidArgumentError: `first_output` is given and not exactly one cell is chosen.
        """

        def show(notebook: OpenNotebook) -> NotebookView:
            document = notebook.document
            if cell_id is not None:
                chosen = [document.find(cell_id=cell_id, display_path=notebook.display_path)]
            else:
                chosen = select(document, cells, notebook.display_path)
            if first_output is not None and (len(chosen) != 1 or outline):
                raise InvalidArgumentError(
                    f"first_output is for one cell, and {count_noun(len(chosen), 'cell')} would be shown",
                    allowed='one cell, such as cells="3"',
                    state="nothing was read",
                )
            budget = OutputBudget.of(self._config, chars=max_chars, images=max_images, first_output=first_output)
            view = NotebookView(
                path=notebook.display_path,
                revision=notebook.revision,
                nbformat=document.nbformat,
                nbformat_minor=document.nbformat_minor,
                kernel_name=document.kernel_name,
                language=document.language,
                metadata=short_metadata({key: value for key, value in document.metadata.items() if key != "papermill"}),
                cell_count=len(document.cells),
                cells=[],
            )
            if outline:
                view.outline, rest = outline_page(document, chosen, budget.chars)
                for row in view.outline:
                    if notebook.dropped and row.index in notebook.dropped:
                        row.outputs = notebook.dropped[row.index]
            else:
                form = outputs if first_output is None else "full"
                with budget.pictures as pictures:
                    view.cells, rest = page(document, chosen, form, budget, first_output=first_output or 0)
                    view._images = pictures.images()
            if marks := self.stale_cells(notebook):
                for shown in (*(view.outline or ()), *view.cells):
                    shown.stale = marks.get(shown.index)
            if rest:
                view.next_cells, view.cells_left = ranges(rest), len(rest)
            if document.nbformat < 4:
                view.note = "version 3: can be read; to edit it, use the operation `convert` of edit_notebook first"
            return view

        light = outline or (outputs == "none" and first_output is None)
        async with self.opened(path, light=light, showing=True) as (notebook, work):
            view = await work.run(lambda: show(notebook))
            notes = [*filter(None, [view.note, self.large_note(notebook)])]
            if notebook.dropped is None:
                notes += await self.undone(notebook)
            view.note = "; ".join(notes) or None
            return view

    async def output(self, path: str, cell_id: str, index: int) -> list[tuple[str, str | bytes]]:
        """One output of a cell, complete, in every form it has: MIME types, with text or bytes.

        Raises:
            CellNotFoundError: there is no such cell.
            InvalidArgumentError: it has fewer outputs.
        """

        def take(notebook: OpenNotebook) -> list[tuple[str, str | bytes]]:
            cell = notebook.document.cells[notebook.document.find(cell_id=cell_id, display_path=notebook.display_path)]
            outputs = cell.outputs
            if index >= len(outputs):
                raise InvalidArgumentError(
                    f"cell {quoted(cell_id)} of {notebook.display_path} has no output {index}",
                    allowed=f"it has {count_noun(len(outputs), 'output')}, counted from 0",
                    state="nothing was read",
                )
            return whole_output(outputs, index)

        async with self.opened(path, showing=True) as (notebook, work):
            return await work.run(lambda: take(notebook))


_OfCell = TypeVar("_OfCell", bound=_EditedCell)


def _with_cell(kind: type[_OfCell], edited: EditedNotebook, edit: NotebookEdit) -> _OfCell:
    cell = source_view(edit.document.cells[edit.place], edit.place, max_chars=_CHANGED_CHARS)
    made = kind(**dict(edited), cell=cell)
    made._summary = edited.summary
    return made


def _document_of(content: Mapping[str, Any]) -> NotebookDocument:
    """The document of a whole notebook that a client has sent."""
    if not isinstance(content.get("cells"), list):
        raise InvalidArgumentError(
            "content has no list of cells",
            allowed="content is a notebook of nbformat 4: {cells, metadata, nbformat, nbformat_minor}",
            state="nothing was written",
        )
    try:
        node: dict[str, Any] = {"metadata": {}, **deepcopy(dict(content))}
        if "nbformat" not in node and "nbformat_minor" not in node:
            node |= {"nbformat": 4, "nbformat_minor": 5}
        if node.get("nbformat") != 4:
            raise InvalidArgumentError(
                f"content has the nbformat {str(node.get('nbformat'))[:60]}", allowed="4", state="nothing was written"
            )
        _fill_in(node)
        problems = [] if is_valid(node) else content_problems(node)
    except RecursionError:
        problems = ["a value is nested too deeply"]
    if problems:
        raise InvalidArgumentError(
            f"content is no valid notebook: {'; '.join(problems[:5])}",
            allowed=f"{len(problems) - 5} more problems were found" if len(problems) > 5 else "",
            state="nothing was written",
        )
    ids = Counter(cell["id"] for cell in node["cells"] if "id" in cell)
    if doubled := [cell_id for cell_id, number in ids.items() if number > 1]:
        raise InvalidArgumentError(
            f"content has more than one cell with the id {listed(map(repr, doubled), limit=5)}",
            allowed="each id stands once; cells without an id get one",
            state="nothing was written",
        )
    return NotebookDocument.from_node(node, final_newline=True)


def _fill_in(node: dict[str, Any]) -> None:
    """Put in ids and the members that the format requires and that can only be empty."""
    cells = [cell for cell in node["cells"] if isinstance(cell, dict)]
    minor = node.get("nbformat_minor")
    with_ids = isinstance(minor, int) and minor >= 5
    maker = NotebookDocument.new({})
    taken = {cell.get("id") for cell in cells if isinstance(cell.get("id"), str)}
    for cell in cells:
        cell.setdefault("metadata", {})
        if cell.get("cell_type") == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)
        if with_ids and cell.get("id") is None:
            while (made := maker.new_cell_id()) in taken:
                pass
            taken.add(made)
            cell["id"] = made


def _size(file: Path) -> int:
    """Bytes of a file; 0 if it cannot be looked at, which its reader reports."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def read_patiently(file: Path, read: Callable[[], _T]) -> _T:
    """Read a notebook in this thread. One that is no notebook, and was changed just now, is read again a little later.

    JupyterLab and others write in place, so it may have been half-way.

    Raises:
        ServerError: as `read` does. It gives no advice to delete a file that may be half-way.
    """
    try:
        return read()
    except (InvalidNotebookError, NotANotebookError):
        if not _young(file):
            raise
    time.sleep(_REREAD_SECONDS)
    try:
        return read()
    except (InvalidNotebookError, NotANotebookError) as error:
        if not _young(file):
            raise
        raise type(error)(
            error.problem,
            state="the file was changed less than 2 s ago, so another program may be saving it",
            advice="try again",
        ) from None


def _young(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < 2
    except OSError:
        return False
