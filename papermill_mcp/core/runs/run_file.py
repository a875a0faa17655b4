"""The notebook file that a run writes its results to, while the run goes on.

A run records results, cell by cell; a background task saves at a bounded rate, off the event loop, and each save
is atomic. When another program has changed the file in the meantime, the file is read again and the results are
merged into it, cell by cell: the other change stays, and so does ours. A cell whose source was changed or that is gone
gets no result, and a result that somebody wrote into a cell after its end stays, or was cleared on purpose. Results
without a place, or all of them if the file cannot be saved, are kept aside in a new file.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from papermill_mcp.core.documents.alignment import aligned, by_id
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.fitting import fit
from papermill_mcp.core.runs.late import LateOutputs
from papermill_mcp.core.runs.traces import Result, Theirs, Traces, digest_of
from papermill_mcp.errors import (
    ConflictError,
    InvalidNotebookError,
    NotANotebookError,
    NotFoundError,
    ServerError,
    TooLargeError,
)
from papermill_mcp.utils.file_utils import FileContent, read_file, stamp_of, write_file
from papermill_mcp.utils.text_utils import cells_named

logger = logging.getLogger(__name__)

#: Seconds between two saves during a run, and the largest share of the run's time that saving may take.
SAVE_INTERVAL = 1.0
SAVE_SHARE = 0.05

#: Seconds before the first save. The results of a run that ends sooner are saved once.
FIRST_SAVE = 0.2

#: How often a save starts again because the file was changed while it went on.
_ATTEMPTS = 5

#: Seconds for which the last save waits for a file that another program is about to write anew.
_PATIENCE = 0.6
_PAUSE = 0.1

KeepAside = Callable[[NotebookDocument], Awaitable[str]]
"""Writes a document to a new file near the notebook, and returns its name for clients. Raises a ServerError."""


class Keeper(Protocol):
    """Keeps versions of the file. Its methods block, and never fail."""

    notes: list[str]

    def before(self, content: FileContent) -> None:
        """Others made this version, and the run is about to replace it."""

    def after(self, content: FileContent, cells: int) -> None:
        """The run leaves this version, in which so many cells have ended."""


class RunFile:
    """A notebook file under a run.

    Args:
        content: the file as it was when `document` was made from it.
        lock: entered around each save, so that edits of this process and saves take turns.
        keep_aside: keeps results that find no place in the file. Without it they are lost, and a note says so.
        owner: the id under which clients know the run.
        save_late: saves late outputs of earlier runs, and returns the file then; None if there are none.
        keeper: keeps the versions around the run.
        own: the run has just written the content itself, so there is no version before.

    Attributes:
        late: gives the outputs that came after the last save.
        began: when the run took the file, by `time.monotonic`.
        active: whether the run goes on.
        complete: whether everything that the run has recorded is on the disk, in the file or beside it. Known at the
            end.
    """

    def __init__(
        self,
        path: Path,
        document: NotebookDocument,
        content: FileContent,
        *,
        display_path: str,
        max_bytes: int,
        lock: Callable[[], AbstractAsyncContextManager[Any]],
        keep_aside: KeepAside | None = None,
        owner: str = "",
        save_late: Callable[[], Awaitable[FileContent | None]] | None = None,
        keeper: Keeper | None = None,
        own: bool = False,
    ) -> None:
        self.path = path
        self.display_path = display_path
        self.content = content
        self._document = document
        self._max_bytes = max_bytes
        self._lock = lock
        self._keep_aside = keep_aside
        self.owner = owner
        self._save_late = save_late
        self.keeper = keeper
        self._own: FileContent | None = content if own else None  # the version of the last save
        self.late: Callable[[], list[LateOutputs]] = list
        self._ahead: set[int] = set()
        self.active = False
        self._sources = [(cell.cell_type, cell.source) for cell in document.cells]
        self._ids = {found[0]: cell_id for cell_id, found in by_id(document.cells).items() if len(found) == 1}
        self._saved = list(document.cells)  # as the file has them
        self._results: dict[int, dict[str, Any]] = {}  # all members set so far, by cell, to be put in again if need be
        self._pending: dict[int, dict[str, Any]] = {}
        self._metadata: dict[str, Any] = {}
        self._metadata_pending = False
        self._widgets: Callable[[NotebookDocument], dict[str, Any]] | None = None
        self._recording = threading.Lock()  # the run records in the event loop while a save applies in a thread
        self._places = {index: index for index in range(len(document.cells))}  # the present place of each of our cells
        self._wake = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None
        self.began = time.monotonic()
        self._saving_seconds = 0.0
        self._last_save = 0.0
        self._finished: NotebookDocument | None = None
        self._unsaved: set[int] = set()
        self._traces = Traces()
        self._ended: set[int] = set()
        self._applied: set[int] = set()  # ended cells whose last results are in the document
        self._theirs: dict[int, Theirs] = {}  # cells with the result of another writer, or none
        self._again: set[int] = set()  # cells that an older copy had without their results
        self._cut: dict[int, int] = {}  # bytes that were cut from the outputs of a place, in the last save
        self.complete = False

    @property
    def revision(self) -> str:
        """The revision of the last save."""
        return self.content.revision

    @property
    def ended(self) -> int:
        """How many cells have ended."""
        with self._recording:
            return len(self._ended)

    def start(self) -> None:
        """Begin to save in the background whenever something was recorded."""
        self._last_save = time.monotonic() + FIRST_SAVE - SAVE_INTERVAL
        self._saver = asyncio.create_task(self._save_now_and_then(), name=f"save {self.display_path}")

    def expect(self, indexes: Iterable[int]) -> None:
        """These cells will be run."""
        self._ahead, self.active = set(indexes), True

    def changed_ahead(self, before: Sequence[NotebookCell], after: Sequence[NotebookCell]) -> list[int]:
        """Indexes, before an edit, of the cells whose end is outstanding and whose source the edit changed.

        Args:
            before, after: the cells of the notebook before and after the edit.
        """
        now, then = aligned(self._saved, before), aligned(before, after)
        found = []
        for index in self._ahead & self._places.keys():
            place = now.get(self._places[index])
            if place is None or (before[place].cell_type, before[place].source) != self._sources[index]:
                continue  # an earlier edit has changed it
            kept = then.get(place)
            if kept is None or (after[kept].cell_type, after[kept].source) != self._sources[index]:
                found.append(place)
        return sorted(found)

    def record(self, index: int, members: dict[str, Any], *, final: bool = False) -> None:
        """Set members of a cell, such as `outputs` and `execution_count`. They are saved soon, or by `close`.

        Keys of `metadata` are put beside the present ones, which belong to other writers.

        Args:
            final: the cell has ended.
        """
        if final:
            self._ahead.discard(index)
        with self._recording:
            if final:
                self._ended.add(index)
            self._results.setdefault(index, {}).update(members)
            self._pending.setdefault(index, {}).update(members)
        self._wake.set()

    def record_metadata(self, members: dict[str, Any]) -> None:
        """Set keys of the notebook's metadata."""
        with self._recording:
            self._metadata = self._metadata | members
            self._metadata_pending = True
        self._wake.set()

    def record_widgets(self, widgets: Callable[[NotebookDocument], dict[str, Any]]) -> None:
        """Set the states of widgets, the member `widgets` of the notebook's metadata; none if they are empty.

        Args:
            widgets: makes the member from a document that has the outputs. Called in a thread, at each save.
        """
        self._widgets = widgets
        self._wake.set()

    async def close(self, *, change: Callable[[NotebookDocument], None] | None = None) -> list[str]:
        """Save all results and end the background task. Returns a note for each result that was not saved.

        Args:
            change: a last change to the document that has all results. Called in a thread, once for each version of
                the file: a version that another program wrote meanwhile gets it, too.
        """
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.wait([self._saver])
            self._saver = None
        self._ahead, self.active = set(), False
        failure = await self._save_for_good(change)
        self.complete = failure is None
        notes = []
        if failure is not None:
            notes.append(f"the last save failed: {failure}")
        elif self._cut:
            notes.append(
                f"outputs of {cells_named(self._cut)} were cut by {sum(self._cut.values()):,} bytes, since a notebook "
                f"holds at most {self._max_bytes:,} bytes (max_notebook_bytes)"
            )
        if failure is not None or self._unsaved:
            notes.append(await self._rescue(failure))
        notes += self._notes_of_others()
        if self.keeper is None:
            return notes
        if failure is None:
            await asyncio.shield(asyncio.to_thread(self.keeper.after, self.content, self.ended))
        return notes + self.keeper.notes

    def _notes_of_others(self) -> list[str]:
        """Notes about results that others replaced by the same, cleared, or lost by an older copy."""
        same = {index for index, theirs in self._theirs.items() if theirs == Theirs.OTHER} - self._unsaved
        cleared = {index for index, theirs in self._theirs.items() if theirs == Theirs.CLEARED} - self._unsaved
        again = self._again - self._theirs.keys() - self._unsaved if self.complete else set()
        notes = []
        if same:
            notes.append(f"others have run {cells_named(same)} again, with the same outputs, and theirs stay")
        if cleared:
            notes.append(
                f"others have cleared {cells_named(cleared)}, which had ended, so the results are not in the file; "
                "this execution still shows them"
            )
        if again:
            notes.append(
                f"another program saved an older copy without the results of {cells_named(again)}; they are in the "
                "file again"
            )
        return notes

    async def _save_for_good(self, change: Callable[[NotebookDocument], None] | None) -> ServerError | str | None:
        """Save everything to the disk. Returns the reason of a failure."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                # A caller that is cancelled must not stop the save between its steps.
                await asyncio.shield(self.save(durable=True, change=change))
            except (NotFoundError, InvalidNotebookError, NotANotebookError) as error:
                if time.monotonic() > deadline:
                    return error
                await asyncio.sleep(_PAUSE)  # another program may be about to write it anew
            except ServerError as error:
                return error
            except Exception as error:
                logger.exception("the last save of a run failed in the server", extra={"path": self.display_path})
                return f"{type(error).__name__}; the log of the server has the details"
            else:
                return None

    async def _rescue(self, failure: ServerError | str | None) -> str:
        """Keep aside all results, or those without a place in the file. Returns a note about them."""
        if failure is None:
            others = {index for index in self._unsaved if self._theirs.get(index) == Theirs.OTHER}
            reasons = []
            if changed := self._unsaved - others:
                verb = "was" if len(changed) == 1 else "were"
                reasons.append(f"{cells_named(changed)} {verb} changed or removed during the run")
            if others:
                reasons.append(f"others have put outputs of their own into {cells_named(others)}")
            lost = f"{', and '.join(reasons)}, so results of this run are not in the file"
        else:
            lost = f"results since the save before are not in {self.display_path}"
        if self._keep_aside is None:
            self.complete = False
            return lost
        try:
            document = await asyncio.to_thread(self._aside, failure)
            name = await asyncio.shield(self._keep_aside(document))
        except Exception as error:
            if not isinstance(error, ServerError):
                logger.exception("results could not be kept aside", extra={"path": self.display_path})
            self.complete = False
            return f"{lost}, and could not be kept aside: {error}"
        return f"{lost}; they are kept in {name}"

    def _aside(self, failure: ServerError | str | None) -> NotebookDocument:
        """A notebook with the cells whose results have no place; after a failed save with all others, too."""
        document, lost = self._document, self._unsaved
        if failure is not None:
            self._apply(document)
        if failure is None or isinstance(failure, TooLargeError):
            document = NotebookDocument.new(self._document.metadata)
            lost = self._unsaved if failure is None else {at for at, one in self._results.items() if _has_result(one)}
        for index in sorted(lost):
            cell_type, source = self._sources[index]
            members = {"metadata": {}, "outputs": [], "execution_count": None} | self._results[index]
            document.insert(len(document.cells), {"cell_type": cell_type, "source": source} | members)
        fit(document, self._max_bytes, range(len(document.cells)))
        return document

    async def _save_now_and_then(self) -> None:
        while True:
            await self._wake.wait()
            now = time.monotonic()
            share_over = self.began + self._saving_seconds / SAVE_SHARE
            await asyncio.sleep(max(self._last_save + SAVE_INTERVAL, share_over) - now)
            self._wake.clear()
            try:
                await asyncio.shield(self.save(durable=False))
            except ServerError as error:
                # The run goes on: the next save may succeed, and the last one reports if it does not.
                logger.warning("a save during a run failed", extra={"path": self.display_path, "error": str(error)})
            except Exception:
                logger.exception("a save during a run failed in the server", extra={"path": self.display_path})

    async def save(self, *, durable: bool, change: Callable[[NotebookDocument], None] | None = None) -> None:
        """Save everything that was recorded. The background task and `close` call it.

        Raises:
            ServerError: the file cannot be read or written. The next save tries again.
        """
        async with self._lock():
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._save_in_thread, durable, change)
            finally:
                self._last_save = time.monotonic()
                self._saving_seconds += self._last_save - began

    def _save_in_thread(self, durable: bool, change: Callable[[NotebookDocument], None] | None) -> None:
        changed = stamp_of(self.path) != self.content.stamp
        before: list[NotebookCell] = []
        for attempt in range(_ATTEMPTS):
            if changed:
                self._adopt_change()
            self._apply(self._document)
            if change is not None and self._finished is not self._document:
                before = list(self._document.cells)
                change(self._document)
                self._finished = self._document  # a later attempt with the same document must not repeat the change
            if self.keeper is not None and self.content is not self._own:
                self.keeper.before(self.content)
            try:
                self.content = self._own = write_file(
                    self.path,
                    self._rendered(),
                    expected=self.content,
                    display_path=self.display_path,
                    max_bytes=self._max_bytes,
                    durable=durable,
                )
                self._saved = list(self._document.cells)
                if before:
                    self._move(aligned(before, self._saved))
                ours = self._places.keys() & self._results.keys() - self._theirs.keys() - self._unsaved
                self._traces.saved({index: self._saved[self._places[index]] for index in ours}, self._applied)
                return
            except ConflictError:
                changed = True
                if attempt == _ATTEMPTS - 1:
                    raise

    def _rendered(self) -> bytes:
        """The bytes of the document, with outputs of the run cut if it is too large."""
        data = self._document.render()
        if len(data) > self._max_bytes:
            places = [self._places[index] for index in self._results if index in self._places.keys() - self._theirs]
            self._cut |= fit(self._document, self._max_bytes, places)
            data = self._document.render()
        return data

    def _adopt_change(self) -> None:
        """Another program wrote the file. Go on from its version, with all results applied again."""
        current = read_file(self.path, max_bytes=self._max_bytes, display_path=self.display_path)
        if current.revision == self.content.revision:
            self._own = current if self._own is self.content else None
            self.content = current
            return
        self._document = NotebookDocument.parse(current.data, display_path=self.display_path)
        self.content = current
        with self._recording:
            ended = set(self._ended)
        for index in self._places.keys() & (self._ahead | ended):
            self._traces.stood(index, self._saved[self._places[index]])
        self._move(aligned(self._saved, self._document.cells))
        self._find_again()
        self._saved = list(self._document.cells)
        self._cut = {}
        self._judge(ended)
        with self._recording:
            self._pending = {index: dict(members) for index, members in self._results.items()}
            self._metadata_pending = bool(self._metadata)

    def _judge(self, ended: set[int]) -> None:
        """Find the results of ended cells that are the work of others. They stay, as the program left them."""
        cells = {
            index: self._saved[place]
            for index, place in self._places.items()
            if index in ended and self._is_unchanged(index, self._saved[place])
        }
        timings = {index: self._results[index].get("metadata", {}).get("execution") for index in cells}
        cleared = [index for index, theirs in self._theirs.items() if theirs == Theirs.CLEARED]
        self._theirs = self._traces.judge(cells, timings, cleared)
        self._again |= {
            index
            for index, cell in cells.items()
            if self._traces.has_saved(index) and _has_result(self._results[index]) and not _has_result(cell.data)
        }

    def _is_unchanged(self, index: int, cell: NotebookCell) -> bool:
        return (cell.cell_type, cell.source) == self._sources[index]

    def _find_again(self) -> None:
        """Cells that were gone may be back, as after an undo or with an old copy. Their ids tell."""
        places, taken = by_id(self._document.cells), set(self._places.values())
        for index, cell_id in self._ids.items():
            found = places.get(cell_id, [])
            if index not in self._places and len(found) == 1 and found[0] not in taken:
                self._places[index] = found[0]

    def _move(self, moved: dict[int, int]) -> None:
        """Follow our cells to their new places. A cell without one is gone."""
        self._places = {index: moved[place] for index, place in self._places.items() if place in moved}

    def locate(self, index: int) -> int | None:
        """The present index of a cell of the run, also after an edit of its source; None if the cell is gone."""
        return self._places.get(index)

    def _apply(self, document: NotebookDocument) -> None:
        with self._recording:
            pending, self._pending = self._pending, {}
            metadata, self._metadata_pending = self._metadata if self._metadata_pending else {}, False
            self._applied |= pending.keys() & self._ended
        for index, members in pending.items():
            place = self._places.get(index)
            present = None if place is None else document.cells[place]
            if place is None or present is None or not self._is_unchanged(index, present):
                if _has_result(members):
                    self._unsaved.add(index)
                continue
            self._unsaved.discard(index)
            if index in self._theirs:
                ours = self._results[index].get("outputs", [])
                if self._theirs[index] == Theirs.OTHER and digest_of(ours) != digest_of(present.outputs):
                    self._unsaved.add(index)
                kept = {key: value for key, value in members.get("metadata", {}).items() if key != "execution"}
                members = {"metadata": kept}
            else:
                self._traces.stood(index, present)
            if "metadata" in members:
                members = members | {"metadata": present.metadata | members["metadata"]}
            try:
                document.update(place, members)
            except ServerError:  # one output cannot be stored; the others can
                if "outputs" not in members:
                    raise
                document.update(place, members | {"outputs": [_storable(output) for output in members["outputs"]]})
        if metadata:
            document.set_member("metadata", document.metadata | metadata)
        widgets = self._widgets(document) if self._widgets is not None else None
        if widgets is not None and widgets != document.metadata.get("widgets", {}):
            others = {key: value for key, value in document.metadata.items() if key != "widgets"}
            document.set_member("metadata", others | ({"widgets": widgets} if widgets else {}))

    @property
    def taken(self) -> set[str]:
        """The ids of the cells whose results the run has saved."""
        return {cell_id for index, cell_id in self._ids.items() if self._traces.last(index) is not None}

    def last_result(self, index: int) -> Result | None:
        """The result of a cell that was saved last."""
        return self._traces.last(index)

    def replaced(self, index: int, result: Result) -> None:
        """Late outputs of a cell have been saved."""
        self._traces.replaced(index, result)

    async def save_late(self) -> None:
        """Save the changes of this run to outputs of earlier ones. Called after `close`."""
        content = None if self._save_late is None or not self.complete else await self._save_late()
        if content is not None:
            self.content = content

    def release(self) -> None:
        """Forget the document and the results after the last save. Places and the revision stay."""
        self._document, self._finished = NotebookDocument.new({}), None
        self._saved, self._sources, self._results, self._pending, self._widgets = [], [], {}, {}, None
        self.content, self._own = self.content.released(), None
        self._traces.release()


def _has_result(members: dict[str, Any]) -> bool:
    """Whether a run has recorded more for a cell than its own metadata."""
    return bool(members.get("outputs")) or members.get("execution_count") is not None


def _storable(output: dict[str, Any]) -> dict[str, Any]:
    """The output, or a line in its place if it cannot be stored."""
    try:
        NotebookDocument.new({}).insert(
            0, {"cell_type": "code", "source": "", "metadata": {}, "outputs": [output], "execution_count": None}
        )
    except ServerError as error:
        text = f"[an output ({output.get('output_type')}) was not saved: {error}]\n"
        return {"output_type": "stream", "name": "stderr", "text": text}
    return output
