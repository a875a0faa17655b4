"""The registry of runs: ids, keys, waiting clients, and the record for later server processes.

A run outlives the call that began it. A call waits for it for a while and then answers with the results so far;
`get_execution` goes on from there. Cancelling a call ends the run that it began, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from papermill_mcp.config import Config
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import Run
from papermill_mcp.core.runs.snapshot import END, Cursor, RunSnapshot
from papermill_mcp.core.runs.store import ExecutionRecord, ExecutionStore
from papermill_mcp.errors import ExecutionNotFoundError, InvalidArgumentError, ServerError, listed
from papermill_mcp.services.outputs import OutputBudget
from papermill_mcp.services.results import Progress
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.requests import RunRequest
from papermill_mcp.services.runs.view import (
    ExecutionList,
    RunView,
    RunViewer,
    earlier_view,
    row_of,
    shown_at_once,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.background import Background

#: Seconds between two progress notifications while nothing else happens, and the least between any two.
_HEARTBEAT = 5.0
_PROGRESS_INTERVAL = 0.3

#: Seconds between two records of a run that goes on.
_RECORD_INTERVAL = 1.0

#: Seconds that `cancel` waits for the end of a run whose kernel was interrupted.
_CANCEL_SECONDS = 3.0

#: Runs that are over and still have their results.
_REMEMBERED = 100

_KEY_USED = "this idempotency_key was used before, so nothing was run again; this is the result of that earlier request"


@dataclass(eq=False)
class _Entry:
    """A run with its key and the state of its record."""

    run: Run
    key: str | None
    recorded_at: float = 0.0
    record_due: bool = False
    ended: bool = False


class RunRegistry:
    """Remembers runs and waits for them. `aclose` ends the runs that still go on."""

    def __init__(self, config: Config, workspace: Workspace, store: ExecutionStore, journal: Journal) -> None:
        self._config = config
        self._workspace = workspace
        self._store = store
        self._journal = journal
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
            idempotency_key: a repeated request with this key runs nothing. It follows the earlier run, also one of an
                earlier server process.

        Raises:
            InvalidArgumentError: the key was used for another request.
        """
        if idempotency_key is None:
            return await self._answer(await self._add(await begin(), None), wait, progress)
        async with self._keys.setdefault(idempotency_key, asyncio.Lock()):  # the same request may come twice at once
            earlier = await self._with_key(idempotency_key, request)
            entry = await self._add(await begin(), idempotency_key) if earlier is None else None
        if entry is not None:
            return await self._answer(entry, wait, progress)
        if isinstance(earlier, _Entry):
            await self._wait(earlier.run, self._wait_seconds(wait), progress)
            view = await self._view(earlier.run)
        else:
            assert earlier is not None
            view = earlier_view(row_of(earlier, self._workspace))
        view.add_note(_KEY_USED)
        return view

    async def _with_key(self, key: str, request: RunRequest) -> _Entry | ExecutionRecord | None:
        found: _Entry | ExecutionRecord | None
        found = next((entry for entry in self._entries.values() if entry.key == key), None)
        if found is not None:
            identity, kind, execution_id = found.run.identity, found.run.snapshot(END).kind, found.run.execution_id
        else:
            found = await asyncio.to_thread(self._store.record_with_key, key)
            if found is None:
                return None
            identity, kind, execution_id = found.request_digest or "", found.kind, found.execution_id
        if identity != request.identity:
            raise InvalidArgumentError(
                f"idempotency_key {key[:100]!r} was used for another request ({kind}, {execution_id})",
                state="nothing was run",
                advice="use a new key for a new request",
            )
        return found

    async def _add(self, run: Run, key: str | None) -> _Entry:
        entry = self._entries[run.execution_id] = _Entry(run, key)
        self._record(entry)
        run.changed.connect(lambda: self._on_change(entry))
        if key is not None:  # known to a later server process before any code runs
            await asyncio.to_thread(self._store.flush)
        try:
            run.start()
        except ServerError:
            del self._entries[run.execution_id]
            self._store.put(replace(self._record_of(entry, None), status=RunStatus.ABORTED))
            raise
        return entry

    def _on_change(self, entry: _Entry) -> None:
        if entry.run.finished:
            if not entry.ended:  # output may still come late, and change the run once more
                entry.ended = True
                self._journal.ended(self._record(entry))
                self._ended.append(entry.run.execution_id)
                while len(self._ended) > _REMEMBERED:
                    self._entries.pop(self._ended.popleft(), None)
        elif not entry.record_due:
            entry.record_due = True
            wait = max(0.0, entry.recorded_at + _RECORD_INTERVAL - time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._record_if_due, entry)

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
        self, execution_id: str, *, wait: float | None = 0, since: str | None = None, progress: Progress
    ) -> RunView:
        """A run as it stands, with the outputs that are new since the cursor.

        Args:
            wait: seconds to wait for its end.
        """
        cursor = Cursor.parse(since)
        earlier = await self._earlier(execution_id)
        if earlier is not None:
            return earlier
        run = self.get(execution_id)
        await self._wait(run, self._wait_seconds(wait), progress)
        return await self._view(run, cursor)

    async def overview(self, *, status: str | None = None, limit: int = 20) -> ExecutionList:
        """Runs, the newest first, those of earlier server processes included.

        Args:
            status: only those with this status.
        """
        for entry in self._entries.values():
            if not entry.run.finished:
                self._record(entry)
        records = await asyncio.to_thread(self._store.records, limit=limit if status is None else 1000)
        rows = [row_of(record, self._workspace) for record in records]
        return ExecutionList(executions=[row for row in rows if status in (None, row.status)][:limit])

    async def cancel(self, execution_id: str) -> RunView:
        """Interrupt a run and wait until it has really ended, or the kernel turns out to ignore interrupts."""
        earlier = await self._earlier(execution_id)
        if earlier is not None:
            earlier.ended = earlier.status not in ("running", "queued")
            return earlier
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

    async def _earlier(self, execution_id: str) -> RunView | None:
        if execution_id in self._entries:
            return None
        record = await asyncio.to_thread(self._store.record, execution_id)
        return None if record is None else earlier_view(row_of(record, self._workspace))

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

    async def _view(self, run: Run, since: Cursor | None = None) -> RunView:
        viewer = RunViewer(self._workspace, OutputBudget.of(self._config))
        state = run.snapshot(since or Cursor())
        return viewer.show(state) if shown_at_once(state) else await asyncio.to_thread(viewer.show, state)

    def _wait_seconds(self, wait: float | None) -> float:
        return self._config.response_wait if wait is None else wait

    def _record(self, entry: _Entry) -> RunSnapshot:
        """Keep the state of a run for later server processes. Returns it."""
        entry.recorded_at, entry.record_due = time.monotonic(), False
        state = entry.run.snapshot(END)
        self._store.put(self._record_of(entry, state))
        return state

    def _record_of(self, entry: _Entry, state: RunSnapshot | None) -> ExecutionRecord:
        state, key = state or entry.run.snapshot(END), entry.key if state is not None else None
        return ExecutionRecord(
            execution_id=state.execution_id,
            kind=state.kind,
            status=state.status,
            path=str(state.file) if state.file else None,
            output_path=str(state.output_file) if state.output_file else None,
            kernel_name=state.kernel_name,
            started_at=state.started_at.timestamp(),
            duration=round(state.seconds, 3),
            cells_total=state.total,
            cells_done=state.done,
            failed_cell=state.at,
            server_pid=self._store.pid,
            server_started=self._store.server_started,
            idempotency_key=key,
            request_digest=entry.run.identity if key else None,
        )
