"""The registry of runs: ids, keys, waiting clients, and the record for later server processes.

A run outlives the call that began it. A call waits for it for a while and then answers with the results so far;
`get_execution` goes on from there. Cancelling a call ends the run that it began, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from papermill_mcp.config import Config
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import Run
from papermill_mcp.core.runs.snapshot import END, BatchSnapshot, Cursor, RowState, RunSnapshot
from papermill_mcp.core.runs.store import ExecutionRecord, ExecutionStore, StoreUnavailableError
from papermill_mcp.errors import BusyError, ExecutionNotFoundError, InvalidArgumentError, ServerError, listed
from papermill_mcp.services.outputs import OutputBudget
from papermill_mcp.services.results import Progress
from papermill_mcp.services.runs.batch import BatchRun
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.requests import RunRequest
from papermill_mcp.services.runs.run_pictures import RunPictures
from papermill_mcp.services.runs.view import (
    ExecutionList,
    RunView,
    RunViewer,
    earlier_batch,
    earlier_states,
    earlier_view,
    row_of,
    shown_at_once,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.background import Background
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from papermill_mcp.core.reports import file as files
    from papermill_mcp.core.runs import table as tables
else:
    files = lazy("papermill_mcp.core.reports.file")
    tables = lazy("papermill_mcp.core.runs.table")

#: Seconds between two progress notifications while nothing else happens, and the least between any two.
_HEARTBEAT = 5.0
_PROGRESS_INTERVAL = 0.3

#: Seconds between two records of a run that goes on.
_RECORD_INTERVAL = 1.0

#: Seconds that `cancel` waits for the end of a run whose kernel was interrupted.
_CANCEL_SECONDS = 3.0

#: Seconds that a client is advised to wait with its next look at a run, at most.
_NEXT_WAIT = 25.0

#: Runs that are over and still have their results.
_REMEMBERED = 100

#: Bytes of the outputs of all runs that are over, but for the last one.
MAX_KEPT_BYTES = 100 * 1024 * 1024

_KEY_USED = "this idempotency_key was used before, so nothing was run again; this is the result of that earlier request"
_KEY_CUT_OFF = (
    "this idempotency_key was used before, so nothing was run again; that request was cut off. To run it again, use a "
    "new idempotency_key"
)
_KEY_NOT_KEPT = (
    "idempotency_key is known to this server only, since the record of executions cannot be used ({}): another server, "
    "or this one after a new start, would run a repeated request again"
)

#: Seconds between two looks at a run of another server.
_POLL_SECONDS = 0.3


@dataclass(eq=False)
class _Entry:
    """A run with its key and the state of its record."""

    run: Run
    key: str | None
    identity: str | None
    recorded_at: float = 0.0
    record_due: bool = False
    ended: bool = False
    held: int = 0


class RunRegistry:
    """Remembers runs and waits for them. `aclose` ends the runs that still go on."""

    def __init__(
        self, config: Config, workspace: Workspace, store: ExecutionStore, journal: Journal, pictures: RunPictures
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._store = store
        self._journal = journal
        self._pictures = pictures
        self._entries: dict[str, _Entry] = {}
        self._ended: deque[str] = deque()
        self._background = Background()
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def aclose(self) -> None:
        """End every run and give each a moment to save its results."""
        tasks = [task for entry in self._entries.values() if (task := entry.run.stop()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.to_thread(self._store.close)

    async def follow(
        self,
        request: RunRequest,
        begin: Callable[[], Awaitable[Run]],
        *,
        idempotency_key: str | None = None,
        wait: float | None = None,
        progress: Progress,
    ) -> RunView:
        """Begin a run, wait for it, at most `wait` seconds, and show it. If the call is cancelled, so is the run.

        Args:
            idempotency_key: a repeated request with this key runs nothing. It follows the earlier run, also one of
                another server process.

        Raises:
            InvalidArgumentError: the key was used for another request.
        """
        if idempotency_key is None:
            return await self._answer(self._add(await begin()), wait, progress)
        identity = request.identity(self._workspace)
        earlier: ExecutionRecord | None = None
        async with self._keys.setdefault(idempotency_key, asyncio.Lock()):  # the same request may come twice at once
            entry = next((entry for entry in self._entries.values() if entry.key == idempotency_key), None)
            note, repeated = _KEY_USED, entry is not None
            if entry is not None:
                _require_same(identity, entry.identity, idempotency_key, entry.run.snapshot(END).kind, entry.run)
            else:
                earlier, note = await self._reserve(request, idempotency_key, identity)
                if earlier is None:
                    entry = await self._begin(request, begin, idempotency_key, identity)
                else:
                    _require_same(identity, earlier.request_digest, idempotency_key, earlier.kind, earlier)
        if earlier is not None:
            earlier = await self._wait_elsewhere(earlier, self._wait_seconds(wait), progress)
            view: RunView = await self._earlier_view(earlier)
            note = _KEY_CUT_OFF if earlier.cut_off else note
        elif repeated:
            assert entry is not None
            await self._wait(entry.run, self._wait_seconds(wait), progress)
            view = await self._view(entry.run)
        else:
            assert entry is not None
            view = await self._answer(entry, wait, progress)
        if note:
            view.add_note(note)
        return view

    async def _reserve(self, request: RunRequest, key: str, identity: str) -> tuple[ExecutionRecord | None, str]:
        """Put the key on record before anything begins. Returns the record that has it already, and a note."""
        paths = request.real_paths(self._workspace)
        notebook = next(iter(paths.values()), None)
        output = paths.get("output_path")
        record = ExecutionRecord(
            execution_id=request.execution_id,
            kind=request.kind,
            status=RunStatus.QUEUED,
            path=notebook[0] if isinstance(notebook, list) else notebook,
            output_path=output if isinstance(output, str) and "://" not in output else None,
            kernel_name=None,
            started_at=time.time(),
            duration=0.0,
            cells_total=None,
            cells_done=None,
            failed_cell=None,
            server_pid=self._store.pid,
            server_started=self._store.server_started,
            workspace=self._workspace.name,
            idempotency_key=key,
            request_digest=identity,
        )
        try:
            earlier = await asyncio.to_thread(self._store.reserve, record)
        except StoreUnavailableError as error:
            return None, _KEY_NOT_KEPT.format(error)
        return earlier, "" if earlier is None else _KEY_USED

    async def _begin(self, request: RunRequest, begin: Callable[[], Awaitable[Run]], key: str, identity: str) -> _Entry:
        """Begin a run with a reserved key. If it does not begin, its key is free again."""
        try:
            return self._add(await begin(), key, identity)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._store.forget, request.execution_id)
            raise

    async def _wait_elsewhere(self, record: ExecutionRecord, seconds: float, progress: Progress) -> ExecutionRecord:
        """Wait for the end of a run of another server, reporting progress. Returns its last record.

        Raises:
            BusyError: the run did not begin there.
        """
        began = reported = time.monotonic()
        while record.goes_on and (left := began + seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _POLL_SECONDS))
            now = time.monotonic()
            if now - reported >= _HEARTBEAT:
                reported = now
                await progress(now - began, None, f"another server runs it · {now - began:.0f} s")
            latest = await asyncio.to_thread(self._store.record, record.execution_id)
            if latest is None:
                raise BusyError(
                    f"execution {record.execution_id} of another server (process {record.server_pid}) did not begin",
                    state="nothing was run",
                    advice="send the request again",
                )
            record = latest
        return record

    def _add(self, run: Run, key: str | None = None, identity: str | None = None) -> _Entry:
        entry = self._entries[run.execution_id] = _Entry(run, key, identity)
        self._record(entry)
        run.changed.connect(lambda: self._on_change(entry))
        try:
            run.start()
        except ServerError:
            del self._entries[run.execution_id]
            self._store.put(
                replace(self._record_of(entry), status=RunStatus.ABORTED, idempotency_key=None, request_digest=None)
            )
            raise
        return entry

    def _on_change(self, entry: _Entry) -> None:
        if entry.run.finished:
            if not entry.ended:  # output may still come late, and change the run once more
                entry.ended = True
                self._journal.ended(self._record(entry))
                self._keep(entry)
        elif not entry.record_due:
            entry.record_due = True
            wait = max(0.0, entry.recorded_at + _RECORD_INTERVAL - time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._record_if_due, entry)

    def _keep(self, entry: _Entry) -> None:
        """Remember a run that is over. Older ones lose their outputs when there are too many bytes, and then all."""
        while len(self._ended) >= _REMEMBERED:
            del self._entries[self._ended.popleft()]
        older = [self._entries[execution_id] for execution_id in self._ended]
        entry.held = entry.run.held
        excess = sum(one.held for one in older) - MAX_KEPT_BYTES
        for one in older:
            if excess > 0 and one.held:
                excess -= one.held
                one.held = 0
                one.run.forget_outputs()
        self._ended.append(entry.run.execution_id)

    def _record_if_due(self, entry: _Entry) -> None:
        if entry.record_due:
            self._record(entry)

    def get(self, execution_id: str) -> Run:
        """The run with that id.

        Raises:
            ExecutionNotFoundError: there is none.
        """
        entry = self._entries.get(execution_id)
        if entry is None:
            raise ExecutionNotFoundError(
                f"there is no execution {execution_id[:64]!r}",
                allowed=f"the last ones: {listed(reversed(self._entries), limit=5)}",
                state="results are kept for the last "
                f"{_REMEMBERED} executions of this server; outputs of notebook runs are in the notebook",
            )
        return entry.run

    async def look(
        self,
        execution_id: str,
        *,
        wait: float | None = 0,
        since: str | None = None,
        runs: str | None = None,
        progress: Progress,
    ) -> RunView:
        """A run as it stands, with the outputs that are new since the cursor.

        Args:
            wait: seconds to wait for its end.
            runs: the runs of a batch to show, as `BatchRun.page` takes it.

        Raises:
            InvalidArgumentError: the cursor or the selection is none, or the execution is no batch.
        """
        cursor = Cursor.parse(since)
        earlier = await self._earlier(execution_id)
        if runs is not None and BatchSnapshot.kind != (
            earlier.kind if earlier else self.get(execution_id).snapshot(END).kind
        ):
            raise InvalidArgumentError("runs is for batches, and this execution is none", advice="leave runs out")
        if earlier is not None:
            earlier = await self._wait_elsewhere(earlier, self._wait_seconds(wait), progress)
            return await self._earlier_view(earlier, runs, cursor)
        run = self.get(execution_id)
        await self._wait(run, self._wait_seconds(wait), progress)
        return await self._view(run, cursor, runs)

    async def _earlier_view(
        self, record: ExecutionRecord, runs: str | None = None, since: Cursor | None = None
    ) -> RunView:
        """A run of another server process. A batch is read from its table."""
        if record.kind == BatchSnapshot.kind and record.output_path is not None:
            table = Path(record.output_path).with_suffix(".jsonl")
            if rows := await asyncio.to_thread(tables.rows_of, table, record.execution_id):
                view = earlier_batch(record, rows, self._workspace, runs)
                view.fit(self._config.max_output_chars)
                report = await asyncio.to_thread(files.report_of, table.parent, record.execution_id)
                view.report = self._workspace.display_path(report) if report is not None else None
                if runs is not None:
                    listed_runs = {row.run for row in view.runs or []}
                    rows = [row for row in rows if row["run"] in listed_runs]
                if runs is not None or str(since) != view.cursor:
                    await self._add_pictures(view, earlier_states(rows))
                return view
            record = replace(record, output_path=None)  # there is no table yet
        return earlier_view(row_of(record, self._workspace))

    async def _add_pictures(self, view: RunView, runs: Sequence[RowState]) -> None:
        """Show the last pictures of the runs of a batch."""
        image, note = await self._pictures.sheet(runs)
        if image is not None:
            view.add_image(image)
            if note is not None:
                view.add_note(note)

    async def overview(self, *, status: str | None = None, limit: int = 20) -> ExecutionList:
        """Runs of this workspace, the newest first, those of other server processes included.

        Args:
            status: only those with this status.
        """
        for entry in self._entries.values():
            if not entry.run.finished:
                self._record(entry)
        await asyncio.to_thread(self._store.flush)
        stored: list[ExecutionRecord] = []
        note: str | None = None
        try:
            stored = await asyncio.to_thread(self._store.records)
        except StoreUnavailableError as error:
            note = (
                f"executions of other servers are not listed, since the record of executions cannot be used ({error})"
            )
        records = {record.execution_id: record for record in stored}
        records |= {identifier: self._record_of(entry) for identifier, entry in self._entries.items()}
        newest = sorted(records.values(), key=lambda record: record.started_at, reverse=True)
        rows = (row_of(record, self._workspace) for record in newest if self._is_ours(record))
        found = (row for row in rows if status in (None, row.status))
        return ExecutionList(executions=[*itertools.islice(found, limit)], note=note)

    def _is_ours(self, record: ExecutionRecord) -> bool:
        """Whether an execution is inside the roots, or is code that a server with the same roots ran."""
        paths = [Path(path) for path in (record.path, record.output_path) if path]
        if not paths:
            return record.workspace == self._workspace.name
        return all(map(self._workspace.holds, paths))

    async def cancel(self, execution_id: str) -> RunView:
        """Interrupt a run and wait until it has really ended, or the kernel turns out to ignore interrupts."""
        earlier = await self._earlier(execution_id)
        if earlier is not None:
            view: RunView = await self._earlier_view(earlier)
            view.ended = not earlier.goes_on
            return view
        run = self.get(execution_id)
        await run.cancel()
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                await run.wait()
        except TimeoutError:
            pass
        view = await self._view(run)
        view.ended = run.finished
        return view

    async def _earlier(self, execution_id: str) -> ExecutionRecord | None:
        """The record of an execution of this workspace in another server process; None if there is none."""
        if execution_id in self._entries:
            return None
        record = await asyncio.to_thread(self._store.record, execution_id)
        return record if record is not None and self._is_ours(record) else None

    async def _answer(self, entry: _Entry, wait: float | None, progress: Progress) -> RunView:
        try:
            await self._wait(entry.run, self._wait_seconds(wait), progress)
        except asyncio.CancelledError:
            self._background.start(entry.run.cancel(), name=f"cancel {entry.run.execution_id}")
            raise
        return await self._view(entry.run)

    async def _wait(self, run: Run, seconds: float, progress: Progress) -> None:
        """Wait for the end, at most `seconds`, reporting progress at every cell and at least every few seconds."""
        deadline = time.monotonic() + seconds
        reported = -1.0
        reported_at = time.monotonic()  # a run that is over at once needs no progress
        while not run.finished:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            now = time.monotonic()
            if now - reported_at >= _PROGRESS_INTERVAL:
                state = run.snapshot(END)
                if state.part_done > reported or now - reported_at >= _HEARTBEAT:
                    # Progress must increase with each notification, also while one cell takes long.
                    reported = max(state.part_done, reported + 0.001)
                    reported_at = now
                    await progress(reported, state.parts, state.progress)
            try:
                async with asyncio.timeout(min(left, _PROGRESS_INTERVAL)):
                    await run.wait()
            except TimeoutError:
                pass
        state = run.snapshot(END)
        if state.part_done > reported and (reported >= 0 or state.total is not None):
            await progress(state.part_done, state.parts, state.progress)

    async def _view(self, run: Run, since: Cursor | None = None, runs: str | None = None) -> RunView:
        wait = min(self._config.response_wait, _NEXT_WAIT)
        viewer = RunViewer(
            self._workspace, OutputBudget.of(self._config), wait=wait, later=since not in (None, Cursor())
        )
        state = run.page(runs) if runs is not None and isinstance(run, BatchRun) else run.snapshot(since or Cursor())
        view = viewer.show(state) if shown_at_once(state) else await asyncio.to_thread(viewer.show, state)
        if isinstance(state, BatchSnapshot):
            await self._add_pictures(view, state.over)
        return view

    def _wait_seconds(self, wait: float | None) -> float:
        return self._config.response_wait if wait is None else wait

    def _record(self, entry: _Entry) -> RunSnapshot:
        """Keep the state of a run for later server processes. Returns it."""
        entry.recorded_at, entry.record_due = time.monotonic(), False
        state = entry.run.snapshot(END)
        self._store.put(self._record_of(entry, state))
        return state

    def _record_of(self, entry: _Entry, state: RunSnapshot | None = None) -> ExecutionRecord:
        state = state or entry.run.snapshot(END)
        output = state.table if isinstance(state, BatchSnapshot) else state.output_file
        return ExecutionRecord(
            execution_id=state.execution_id,
            kind=state.kind,
            status=state.status,
            path=str(state.file) if state.file else None,
            output_path=str(output) if output else None,
            kernel_name=state.kernel_name,
            started_at=state.started_at.timestamp(),
            duration=round(state.seconds, 3),
            cells_total=state.total,
            cells_done=state.done,
            failed_cell=state.at,
            server_pid=self._store.pid,
            server_started=self._store.server_started,
            workspace=self._workspace.name,
            idempotency_key=entry.key,
            request_digest=entry.identity,
        )


def _require_same(identity: str, other: str | None, key: str, kind: str, earlier: Run | ExecutionRecord) -> None:
    """Raise if a key belongs to another request.

    Raises:
        InvalidArgumentError: it does.
    """
    if identity != other:
        raise InvalidArgumentError(
            f"idempotency_key {key[:100]!r} was used for another request ({kind}, {earlier.execution_id})",
            state="nothing was run",
            advice="use a new key for a new request",
        )
