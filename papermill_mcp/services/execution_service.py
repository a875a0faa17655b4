"""Executions: what runs and what has run, waiting for it, asking about it, ending it.

An execution outlives the call that began it. A call waits for it for a while and then answers with what there is;
`get_execution` goes on from there. Cancelling a call ends what that call began, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from papermill_mcp.config import Config
from papermill_mcp.errors import ExecutionNotFoundError, InvalidArgumentError, ServerError, listed
from papermill_mcp.services.execution_store import ExecutionRecord, ExecutionStore
from papermill_mcp.services.execution_view import (
    CancelledExecution,
    Cursor,
    ExecutionList,
    ExecutionView,
    progress_of,
    row_of,
    show,
    shown_at_once,
    view_of,
)
from papermill_mcp.services.metrics import Metrics
from papermill_mcp.services.output_view import OutputBudget
from papermill_mcp.services.workspace import Workspace

if TYPE_CHECKING:
    from papermill_mcp.core.execution import CellExecution
    from papermill_mcp.core.kernel import Kernel
    from papermill_mcp.core.notebook_run import NotebookRun
    from papermill_mcp.core.papermill_run import PapermillRun
    from papermill_mcp.core.run_file import RunFile
    from papermill_mcp.services.batch import Batch

logger = logging.getLogger(__name__)

#: Told how far an execution is: cells done, cells in all, and a line for a person.
Progress = Callable[[float, float | None, str | None], Awaitable[None]]

#: Seconds between two progress notifications while nothing else happens, and the least between any two.
_HEARTBEAT = 5.0
_PROGRESS_INTERVAL = 0.3

#: Seconds between two records of a run that goes on.
_RECORD_INTERVAL = 1.0

#: Executions that are over, of which the results are kept.
_REMEMBERED = 100

_OF_CANCELLED = set(CancelledExecution.model_fields) - {"ended"}

_KEY_USED = "this idempotency_key was used before, so nothing was run again; what is shown is the request of then"

Kind = Literal["cell", "notebook", "papermill", "batch"]


@dataclass
class Execution:
    """What is known of one execution, through its whole life."""

    kind: Kind
    kernel: Kernel | None = None
    execution_id: str = field(default_factory=lambda: secrets.token_hex(12))
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: float | None = None
    status: str = "running"
    cell: CellExecution | None = None
    run: NotebookRun | None = None
    papermill: PapermillRun | None = None
    batch: Batch | None = None
    run_file: RunFile | None = None
    file: Path | None = None
    output_file: Path | None = None
    path: str | None = None
    input_path: str | None = None
    output_path: str | None = None
    revision: str | None = None
    parameters: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    keeps_kernel: bool = True
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    task: asyncio.Task[None] | None = None
    one_cell: bool = False
    idempotency_key: str | None = None
    request_digest: str | None = None
    recorded_at: float = 0.0
    record_due: bool = False
    on_end: Callable[[Execution], None] | None = None

    @property
    def tool(self) -> str:
        """The tool that runs such things."""
        if self.kind == "notebook":
            return "execute_notebook_cell" if self.one_cell else "execute_notebook"
        return "execute_cell" if self.kind == "cell" else f"execute_notebook_{self.kind}"

    @property
    def seconds(self) -> float:
        """How long it has taken so far, or took."""
        return (self.ended or time.monotonic()) - self.began

    def finish(self, status: str) -> None:
        """It is over."""
        self.status = status
        self.ended = time.monotonic()
        self.finished.set()
        if self.on_end is not None:
            self.on_end(self)


class ExecutionService:
    """Remembers executions and waits for them. `aclose` cancels what still runs."""

    def __init__(
        self, config: Config, workspace: Workspace, store: ExecutionStore, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics()
        self._config = config
        self._workspace = workspace
        self._store = store
        self._executions: OrderedDict[str, Execution] = OrderedDict()
        self._background: set[asyncio.Task[Any]] = set()
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def aclose(self) -> None:
        """Cancel every execution and give each a moment to save what it has."""
        tasks = []
        for execution in self._executions.values():
            if execution.task is not None and not execution.task.done():
                execution.cancelled = True
                execution.task.cancel()
                tasks.append(execution.task)
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await asyncio.to_thread(self._store.close)

    def begin(self, execution: Execution, work: Any) -> None:
        self._executions[execution.execution_id] = execution
        execution.on_end = self.note_end
        self._record(execution)
        over = [key for key, known in self._executions.items() if known.finished.is_set()]
        for key in over[: max(0, len(over) - _REMEMBERED)]:
            del self._executions[key]
        execution.task = asyncio.create_task(self._guarded(execution, work), name=f"run {execution.execution_id}")

    async def _guarded(self, execution: Execution, work: Awaitable[None]) -> None:
        try:
            await work
        except ServerError as error:
            execution.notes.append(str(error))
        except Exception:
            logger.exception("an execution failed in the server", extra={"execution_id": execution.execution_id})
            execution.notes.append("the server failed while it ran this; its log has the details")
        finally:
            if not execution.finished.is_set():
                execution.finish("interrupted" if execution.cancelled else "error")
            self._record(execution)
            if execution.run is not None and execution.file is not None and execution.run.timings():
                self._store.put_timings(str(execution.file), execution.run.timings())

    def note_end(self, execution: Execution) -> None:
        """Count and log what is over, also what was run in a batch."""
        kernel_name = execution.kernel.kernel_name if execution.kernel else None
        self._metrics.execution_ended(execution.tool, kernel_name, execution.status, execution.seconds)
        if execution.kind in ("notebook", "papermill"):
            self._metrics.notebook_ended(execution.tool, kernel_name, execution.status)
        logger.info(
            "execution ended",
            extra={
                "operation": execution.tool,
                **({"path": path} if (path := execution.path or execution.input_path) else {}),
                "duration": round(execution.seconds, 4),
                "outcome": execution.status,
                "execution_id": execution.execution_id,
            },
        )

    def on_change(self, execution: Execution) -> None:
        if not execution.record_due:
            execution.record_due = True
            wait = max(0.0, execution.recorded_at + _RECORD_INTERVAL - time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._record, execution)

    def _record(self, execution: Execution) -> None:
        """Keep what is known of an execution for later server processes."""
        execution.recorded_at, execution.record_due = time.monotonic(), False
        run, batch = execution.run, execution.batch
        failed = run.failed_cells[-1].index if run and run.failed_cells else None
        if run is not None and run.current is not None:
            failed = run.current.index  # where it stands, should this process end now
        self._store.put(
            ExecutionRecord(
                execution_id=execution.execution_id,
                kind=execution.kind,
                status=execution.status,
                path=str(execution.file) if execution.file else None,
                output_path=str(execution.output_file) if execution.output_file else None,
                kernel_name=execution.kernel.kernel_name if execution.kernel else None,
                started_at=execution.started_at.timestamp(),
                duration=round(execution.seconds, 3),
                cells_total=len(batch.runs) if batch else len(run.cells) if run else None,
                cells_done=batch.done if batch else run.done if run else None,
                failed_cell=failed,
                server_pid=self._store.pid,
                server_started=self._store.server_started,
                idempotency_key=execution.idempotency_key,
                request_digest=execution.request_digest,
            )
        )

    def get(self, execution_id: str) -> Execution:
        """The execution with that id.

        Raises:
            ExecutionNotFoundError: there is none.
        """
        execution = self._executions.get(execution_id)
        if execution is None:
            raise ExecutionNotFoundError(
                f"there is no execution {execution_id[:64]!r}",
                allowed=f"the last ones: {listed(reversed(self._executions), limit=5)}",
                state="results are kept for the last "
                f"{_REMEMBERED} executions of this server; outputs of notebook runs are in the notebook",
            )
        return execution

    async def look(
        self, execution_id: str, *, wait: float | None = 0, since: str | None = None, progress: Progress
    ) -> ExecutionView:
        """An execution as it stands, only what is new since the cursor.

        Args:
            wait: seconds to wait for its end.
        """
        if execution_id not in self._executions:
            record = await asyncio.to_thread(self._store.record, execution_id)
            if record is not None:
                return view_of(row_of(record, self._workspace))
        execution = self.get(execution_id)
        await self._wait(execution, self._wait_seconds(wait), progress)
        return await self._view(execution, since=since)

    async def overview(self, *, status: str | None = None, limit: int = 20) -> ExecutionList:
        """Executions, the newest first, those of earlier server processes included.

        Args:
            status: only those that stand like this.
        """
        for execution in self._executions.values():
            if not execution.finished.is_set():
                self._record(execution)
        records = await asyncio.to_thread(self._store.records, limit=limit if status is None else 1000)
        rows = [row_of(record, self._workspace) for record in records]
        return ExecutionList(executions=[row for row in rows if status in (None, row.status)][:limit])

    async def cancel(self, execution_id: str) -> CancelledExecution:
        """Interrupt an execution and wait until it has really ended, or the kernel turns out to ignore interrupts."""
        if execution_id not in self._executions:
            record = await asyncio.to_thread(self._store.record, execution_id)
            if record is not None:
                earlier = view_of(row_of(record, self._workspace))
                return CancelledExecution(
                    ended=earlier.status != "running", **earlier.model_dump(include=_OF_CANCELLED)
                )
        execution = self.get(execution_id)
        await self._cancel(execution)
        try:
            async with asyncio.timeout(3):
                await execution.finished.wait()
        except TimeoutError:
            pass
        view = await self._view(execution)
        return CancelledExecution(ended=execution.finished.is_set(), **view.model_dump(include=_OF_CANCELLED))

    async def _cancel(self, execution: Execution) -> None:
        if execution.finished.is_set():
            return
        execution.cancelled = True
        if execution.batch is not None:
            await execution.batch.cancel()
        elif execution.run is not None:
            await execution.run.cancel()
        elif execution.cell is not None and execution.kernel is not None:
            await execution.kernel.interrupt(execution.cell)

    async def follow(
        self,
        kind: Kind,
        begin: Callable[[], Awaitable[Execution]],
        *,
        request: Sequence[object] = (),
        idempotency_key: str | None = None,
        wait: float | None = None,
        progress: Progress,
    ) -> ExecutionView:
        """Begin an execution, wait for it, at most `wait` seconds, and show it. If the call is cancelled, so is it.

        Args:
            request: what is to be run, to tell a request that is repeated from another one with the same key.
            idempotency_key: a request with a key that was used before runs nothing: it follows the execution of then,
                also one of an earlier server process.

        Raises:
            InvalidArgumentError: the key was used for something else.
        """
        if idempotency_key is None:
            return await self._answer(await begin(), wait, progress)
        digest = hashlib.sha256(json.dumps([kind, *request], sort_keys=True).encode()).hexdigest()[:16]
        async with self._keys.setdefault(idempotency_key, asyncio.Lock()):  # the same request may come twice at once
            earlier = await self._with_key(idempotency_key)
            execution = await begin() if earlier is None else earlier
            if isinstance(execution, Execution) and earlier is None:
                execution.idempotency_key, execution.request_digest = idempotency_key, digest
                self._record(execution)
        if execution.request_digest != digest:
            raise InvalidArgumentError(
                f"idempotency_key {idempotency_key[:100]!r} was used for another request "
                f"({execution.kind}, {execution.execution_id})",
                state="nothing was run",
                advice="use a new key for a new request",
            )
        if isinstance(execution, ExecutionRecord):
            view = view_of(row_of(execution, self._workspace))
            view.notes = [*(view.notes or []), _KEY_USED]
            return view
        if earlier is None:
            return await self._answer(execution, wait, progress)
        await self._wait(execution, self._wait_seconds(wait), progress)
        view = await self._view(execution)
        view.notes = [*(view.notes or []), _KEY_USED]
        return view

    async def _with_key(self, key: str) -> Execution | ExecutionRecord | None:
        for execution in self._executions.values():
            if execution.idempotency_key == key:
                return execution
        return await asyncio.to_thread(self._store.record_with_key, key)

    async def _answer(self, execution: Execution, wait: float | None, progress: Progress) -> ExecutionView:
        try:
            await self._wait(execution, self._wait_seconds(wait), progress)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._cancel(execution))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            raise
        return await self._view(execution)

    async def _wait(self, execution: Execution, seconds: float, progress: Progress) -> None:
        """Wait for the end, at most `seconds`, reporting progress at every cell and at least every few seconds."""
        deadline = time.monotonic() + seconds
        reported = -1.0
        told_at = time.monotonic()  # what is over at once needs no progress
        while not execution.finished.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            done, total, message = progress_of(execution)
            now = time.monotonic()
            if (done > reported and now - told_at >= _PROGRESS_INTERVAL) or now - told_at >= _HEARTBEAT:
                # Progress must increase with each notification, also while one cell takes long.
                reported = max(done, reported + 0.001)
                told_at = now
                await progress(reported, total, message)
            try:
                async with asyncio.timeout(min(left, _PROGRESS_INTERVAL)):
                    await execution.finished.wait()
            except TimeoutError:
                pass
        done, total, message = progress_of(execution)
        if done > reported and (reported >= 0 or execution.cell is None):
            await progress(done, total, message)

    async def _view(self, execution: Execution, since: str | None = None) -> ExecutionView:
        seen = Cursor.parse(since)
        budget = OutputBudget.of(self._config)
        if shown_at_once(execution):
            return show(execution, seen, budget)
        return await asyncio.to_thread(show, execution, seen, budget)

    def timings(self, path: Path) -> dict[str, float]:
        """How long the cells of a notebook took last time, by a digest of their source. Blocks."""
        return self._store.timings(str(path))

    def _wait_seconds(self, wait: float | None) -> float:
        return self._config.response_wait if wait is None else wait
