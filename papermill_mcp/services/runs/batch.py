"""A batch: rows of runs with parameters that go on a few at a time, here or on a Dask cluster."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import END, BatchSnapshot, Cursor, PapermillSnapshot, RowState
from papermill_mcp.errors import ConflictError, InvalidArgumentError, ServerError, ServerNotRunningError, sentence
from papermill_mcp.services.runs.batch_summary import positions
from papermill_mcp.services.runs.claims import Claims
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.papermill_run import PapermillPlan, PapermillRun, RunTemplate
from papermill_mcp.services.runs.remote_outputs import RemoteDirectory, RemoteOutput
from papermill_mcp.services.runs.requests import RETRY_ON, AttemptEnd, BatchRequest
from papermill_mcp.services.runs.view import short_values
from papermill_mcp.utils.background import Background, completed, in_time
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import count_noun, iso_time, one_line, rough_duration

if TYPE_CHECKING:
    from papermill_mcp.core.papermill_executor import Outcome
    from papermill_mcp.core.runs import table as tables
    from papermill_mcp.core.runs.notebook_run import RunSummary
    from papermill_mcp.services.runs.batch_report import BatchReports
else:
    tables = lazy("papermill_mcp.core.runs.table")

logger = logging.getLogger(__name__)

#: Ended runs in one snapshot, and how many a selection shows.
_MAX_ROWS = 40
_MAX_SELECTED = 200

#: Seconds before the second attempt of a run; each further pause is twice as long, up to the longest.
_PAUSE = 0.5
_MAX_PAUSE = 8.0

#: Characters of the failure of an earlier attempt.
_ERROR_CHARS = 120

#: How often the table in an object store is read anew after another server has changed it meanwhile.
_TRIES = 3

#: Seconds between two looks whether a place has room for more runs.
_LOOK_SECONDS = 1.0

#: The statuses of runs that never had a turn.
_NEVER = (RunStatus.ABORTED, RunStatus.NOT_RUN)

#: The kinds of failures that statuses stand for.
_ENDS: dict[RunStatus, AttemptEnd] = {
    RunStatus.DIED: "died",
    RunStatus.TIMEOUT: "timeout",
    RunStatus.ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class _Result:
    """The end of an attempt, in short values.

    Attributes:
        seconds: without the time in a queue; None for one that never began.
        failed_cell: an index in the output.
        error: the failure in one line.
        revision: of the output, as the run left it; None if it is not known.
    """

    status: RunStatus
    seconds: float | None = None
    error: str | None = None
    error_name: str | None = None
    failed_cell: int | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    notes: tuple[str, ...] = ()
    peak_memory: int | None = None
    processor_seconds: float | None = None
    worker: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, status: RunStatus, seconds: float | None, summary: RunSummary, **more: Any) -> Self:
        """The end with a summary. That may be large, so only the short values are kept."""
        return cls(
            status=status,
            seconds=seconds,
            error=summary.error,
            error_name=summary.error_name,
            failed_cell=summary.failed_index,
            recorded=short_values(summary.recorded),
            text=summary.text,
            **more,
        )


class BatchRow:
    """One run of a batch. It may take several attempts; the last one counts.

    Attributes:
        number: its place in the batch, from 0.
        digest: of all that its output is made of.
        replaces: whether there was an output of an earlier batch that the run replaces.
        active: whether a backend has taken it and has not returned it.
        waits_for: the reason that an active run is queued.
        cell: the cell that runs on a worker, for a person; None where the worker does not report it.
        child: the run itself while it goes on in this server.
        attempts: how often a kernel, or a worker, has begun it.
        earlier_errors: the failures of the attempts before the last one, short.
        remote: the place of the output in an object store, where it goes after the run.
        changed: called with the row at each change.
    """

    __slots__ = (
        "_before",
        "_began",
        "_counted",
        "_planned_at",
        "_result",
        "_started_at",
        "_waited",
        "active",
        "attempts",
        "cell",
        "changed",
        "child",
        "digest",
        "directory",
        "earlier_errors",
        "kept",
        "name",
        "number",
        "remote",
        "replaces",
        "template",
        "values",
        "waits_for",
    )

    def __init__(
        self, number: int, template: RunTemplate, values: dict[str, Any], directory: Path, digest: str
    ) -> None:
        self.number = number
        self.template = template
        self.values = values
        self.directory = directory
        self.digest = digest
        self.name = ""
        self.active = False
        self.replaces = False
        self.kept = False
        self.remote: RemoteOutput | None = None
        self.waits_for: str | None = None
        self.cell: str | None = None
        self.child: PapermillRun | None = None
        self.attempts = 0
        self.earlier_errors: tuple[str, ...] = ()
        self.changed: Callable[[BatchRow], None] = _ignore
        self._planned_at = time.monotonic()
        self._started_at: datetime | None = None
        self._waited: float | None = None
        self._began: float | None = None
        self._counted = False
        self._result: _Result | None = None
        self._before: _Result | None = None

    def begin(self) -> None:
        """A worker has begun the run, or has begun it anew since another worker was lost."""
        self._began, self.waits_for, self._counted = time.monotonic(), None, False
        self.cell = None
        self._note_start()
        self.changed(self)

    def report(self, cell: str) -> None:
        """A worker has begun a cell of the run. Args: `cell`: its place, in a few words."""
        self.cell = cell
        self.changed(self)

    def follow(self, child: PapermillRun) -> None:
        """The run in this server has changed."""
        self.waits_for = child.waits_for
        if child.begun:
            self._note_start()
        self.changed(self)

    def _note_start(self) -> None:
        if not self._counted:
            self._counted = True
            self.attempts += 1
        if self._started_at is None:
            self._started_at = datetime.now(UTC)
            self._waited = time.monotonic() - self._planned_at

    def end(self, status: RunStatus, *, error: str | None = None) -> None:
        """The attempt is over, without an outcome."""
        self._over_with(_Result(status, self.seconds, error))

    def take(self, outcome: Outcome) -> None:
        """The attempt is over."""
        seconds = (outcome.seconds or self.seconds) if self.begun else None  # a lost worker does not say
        notes, reason = list(outcome.notes), outcome.summary.error
        if outcome.status == RunStatus.ERROR and reason is None and notes:
            reason = one_line(notes[-1], 2 * _ERROR_CHARS)  # its results could not be saved, or the like
        more = {
            "notes": tuple(notes),
            "peak_memory": outcome.peak_memory,
            "processor_seconds": outcome.processor_seconds,
            "worker": outcome.worker,
            "revision": outcome.revision,
        }
        self._over_with(replace(_Result.of(outcome.status, seconds, outcome.summary, **more), error=reason))

    def keep(self, summary: RunSummary) -> None:
        """An earlier batch has completed the run."""
        self.kept = True
        self._over_with(_Result.of(RunStatus.OK, None, summary))

    def _over_with(self, result: _Result) -> None:
        if self._before is not None and result.status == RunStatus.ABORTED:  # the result before it stands
            result, self.earlier_errors = self._before, self.earlier_errors[:-1]
        self._result, self._before = result, None
        self.active, self.child, self.waits_for, self._began = False, None, None, None
        self.cell = None

    def not_published(self, reason: str, copy: str) -> None:
        """The output could not be written to its object store. A run that was well ends as an error."""
        assert self._result is not None and self.remote is not None
        failure = f"the output was not written to {self.remote.url}: {sentence(reason)}"
        well = self._result.status == RunStatus.OK
        again = (
            "the same request runs it again, under another name" if self.remote.taken else "the same request writes it"
        )
        self._result = replace(
            self._result,
            status=RunStatus.ERROR if well else self._result.status,
            error=one_line(failure, 2 * _ERROR_CHARS) if well else self._result.error,
            notes=(*self._result.notes, f"{'' if well else f'{failure} '}it is kept in {copy}, and {again}"),
        )

    def repeat(self) -> None:
        """The run is tried once more. If that attempt never begins, the result so far stands."""
        assert self._result is not None
        error = one_line(self.error or str(self.status), _ERROR_CHARS)
        self.earlier_errors += (f"attempt {max(1, self.attempts)}: {error}",)
        self._before, self._result, self._counted = self._result, None, False

    @property
    def output(self) -> Path:
        """The output, once it has a name. Thousands of paths take more memory than their names."""
        return self.directory / self.name

    @property
    def url(self) -> str | None:
        """The output in an object store, once it is there."""
        return self.remote.url if self.remote is not None and self.remote.published else None

    @property
    def plan(self) -> PapermillPlan:
        """The run."""
        return self.template.plan(self.values, digest=self.digest)

    @property
    def status(self) -> RunStatus:
        """`queued` until the attempt begins."""
        if self._result is not None:
            return self._result.status
        return RunStatus.RUNNING if self.begun else RunStatus.QUEUED

    @property
    def overwrites(self) -> bool:
        """Whether the attempt may find an output: one of an earlier batch, or of an earlier attempt."""
        return self.replaces or bool(self.earlier_errors)

    @property
    def begun(self) -> bool:
        """Whether the attempt goes on and has got a kernel, or a worker."""
        return self._began is not None or (self.child is not None and self.child.begun)

    @property
    def ran(self) -> bool:
        """Whether the attempt is over and had begun."""
        return self._result is not None and self._result.seconds is not None

    @property
    def had_turn(self) -> bool:
        """Whether the run is over and did begin, or need not."""
        return self.ran or (self.status.final and self.status not in _NEVER)

    @property
    def error(self) -> str | None:
        """The failure of a run that began, in one line; None if there is none."""
        result = self._result
        if result is None or result.status == RunStatus.OK or not self.had_turn:
            return None
        return result.error or str(result.status)

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The values that the run recorded, large ones cut."""
        return self._result.recorded if self._result is not None else {}

    @property
    def seconds(self) -> float | None:
        """Seconds of the attempt without the time in a queue; None before it begins."""
        if self._result is not None:
            return self._result.seconds
        if self.child is not None and self.child.begun:
            return self.child.seconds
        return time.monotonic() - self._began if self._began is not None else None

    def state(self) -> RowState:
        """The row as a frozen value."""
        progress = self.child.snapshot(END).progress if self.child is not None else self.waits_for
        if self.cell is not None:
            progress = f"{self.cell} · {self.seconds or 0.0:.0f} s"
        result = self._result
        return RowState(
            number=self.number,
            status=self.status,
            kernel_name=self.template.task.kernel_name,
            parameters=self.values,
            file=self.template.notebook.path,
            output_file=self.output,
            duration=self.seconds,
            kept=self.kept,
            failed=self.error is not None,
            progress=progress,
            failed_cell=result.failed_cell if result is not None else None,
            error=result.error if result is not None else None,
            recorded=self.recorded,
            notes=(*self.earlier_errors, *(result.notes if result is not None else ())),
            output_url=self.url,
        )

    def result(self, batch: str) -> dict[str, Any]:
        """The row of the table of results. Durations are in seconds, paths are real ones."""
        result = self._result
        assert result is not None
        error = result.error_name or (str(self.status) if self.error is not None else None)
        message = (result.error or "").removeprefix(f"{error}: ")
        values = {
            "batch": batch,
            "run": self.number,
            "status": self.status,
            "attempts": self.attempts,
            "started": iso_time(self._started_at) if self._started_at is not None else None,
            "duration": _rounded(self.seconds),
            "wait": _rounded(self._waited),
            "peak_memory": result.peak_memory,
            "processor_time": _rounded(result.processor_seconds),
            "worker": result.worker,
            "python": self.template.task.python,
            "input": str(self.template.notebook.path),
            "output": self.url or str(self.output),
            "failed_cell": result.failed_cell,
            "error": error,
            "message": message if message not in ("", error) else None,
            "text": result.text,
        }
        if result.revision is not None:
            values[tables.REVISION] = result.revision
        if self.earlier_errors:
            values["earlier_errors"] = "; ".join(self.earlier_errors)
        values |= {f"{tables.PARAMETER}{name}": value for name, value in self.values.items()}
        return values | {f"{tables.RESULT}{name}": value for name, value in self.recorded.items()}

    def snapshot(self, execution_id: str) -> PapermillSnapshot:
        """The run as one of its own, for the log and the metrics."""
        return PapermillSnapshot(
            execution_id=execution_id,
            operation=self.template.request.operation,
            status=self.status,
            started_at=self.template.planned_at,
            seconds=self.seconds or 0.0,
            kernel_name=self.template.task.kernel_name,
            file=self.template.notebook.path,
            output_file=self.output,
            parameters=self.values,
        )


def _ignore(_: BatchRow) -> None:
    """The default of `BatchRow.changed`."""


class Backend(Protocol):
    """Where the runs of a batch go on."""

    def room(self, wanted: int | None) -> int:
        """How many runs it may have now, at least one. Args: `wanted`: as the client said."""

    @property
    def full(self) -> bool:
        """Whether a run that is handed over now waits."""

    def note(self) -> str | None:
        """A sentence for the client about the place, if it needs one."""

    async def run(self, row: BatchRow, owner: str) -> Outcome:
        """Do one run. A run that never began has an outcome with status `aborted`.

        Raises:
            ServerError: the run could not be done.
        """

    async def revision(self, row: BatchRow) -> str | None:
        """The version of the output of a run as it is now; None if it is not as the run has made it."""

    async def hold(self) -> None:
        """Begin no more runs. Those that have begun go on to their end."""

    async def cancel(self) -> None:
        """Interrupt all runs and begin no more."""

    async def aclose(self) -> None:
        """Release the resources of the backend."""


class BatchRun(BaseRun):
    """The runs of a batch, and the order in which they ended.

    Args:
        remote: the place in an object store that outputs, tables and the report go to.
    """

    def __init__(
        self,
        request: BatchRequest,
        rows: Sequence[BatchRow],
        backend: Backend,
        claims: Claims,
        journal: Journal,
        *,
        table: tables.ResultsTable,
        reports: BatchReports,
        remote: RemoteDirectory | None = None,
    ) -> None:
        super().__init__(request.execution_id)
        self._operation = request.operation
        self._wanted = request.max_parallel
        self._retries = request.retries
        self._retry_on = frozenset(request.retry_on if request.retry_on is not None else RETRY_ON)
        self._stop_after = request.stop_after_failures
        self._stopped = False
        self._halted = asyncio.Event()
        self._background = Background()
        self._going: set[asyncio.Task[None]] = set()
        self._active: dict[int, BatchRow] = {}
        self._backend = backend
        self._claims = claims
        self._journal = journal
        self._table = table
        self._writing: asyncio.Task[None] | None = None
        self._unwritten: str | None = None
        self._written = False
        self._reports = reports
        self._reporting = False
        self._report: Path | None = None
        self._typed: Path | None = None
        self._remote = remote
        self._uploads: set[asyncio.Task[str | None]] = set()
        self._urls: dict[str, str] = {}
        self._storing: asyncio.Task[bool] | None = None
        self.rows = list(rows)
        self._over: list[BatchRow] = []
        self._counted: set[int] = set()
        self._done = self._failed = self._timed = 0
        self._took = 0.0
        for row in self.rows:
            if row.status.final:
                self._count(row)  # it is kept
            row.changed = self._follow
        self._templates = list({id(row.template): row.template for row in rows}.values())
        self._several_notebooks = len(self._templates) > 1
        self._kernel_names = {one.task.kernel_name for one in self._templates}
        self._pythons = {one.task.python for one in self._templates}
        if remote is not None:
            copies = claims.display_path(remote.copy)
            self.notes.append(f"outputs go to {remote.url} as their runs end; copies of them are in {copies}")
        if (note := backend.note()) is not None and len(self._over) < len(self.rows):
            self.notes.append(note)

    def _follow(self, row: BatchRow) -> None:
        """A row has changed. The clock of the batch starts with its first run, after any wait for a kernel."""
        if row.begun:
            self._begin()
        self.changed()

    async def _work(self) -> RunStatus:
        closing = False  # whether the server is closed
        try:
            await self._publish_kept()
            await self._hand_over()
        except asyncio.CancelledError:
            self.cancelled = closing = True  # the server is closed: each run saves its results
            for run in self._going:
                run.cancel()
            if self._going:
                await asyncio.wait(self._going)
        finally:
            for row in self.rows:
                if not row.status.final:
                    row.end(RunStatus.NOT_RUN if self._stopped else RunStatus.ABORTED)
                    self._over_with(row)
            await self._background.wait()
            try:
                await self._backend.aclose()
            except Exception:
                logger.exception("the place of a batch could not be closed")
            if self._stopped and (left := len(self.rows) - self._done):
                self.notes.append(
                    f"stopped after {count_noun(self._failed, 'failed run')}, as stop_after_failures says: "
                    f"{count_noun(left, 'run')} did not begin; the same request keeps those that are complete and runs "
                    "the others"
                )
            elif self.cancelled:
                self.notes.append(
                    f"{self._done} of {len(self.rows)} runs had begun; the same request keeps those that are complete "
                    "and runs the others"
                )
            there = False
            if self._remote is not None and not self.cancelled:
                there, closing = await self._in_store(self._put_remote_table(self._remote))
            if not there:
                await completed(self._put_table(durable=True))
            if self._written and (first := self._table.taken) is not None:
                self.notes.append(
                    f"{first} was changed by another program and stays; the table is {self._table.path.name}"
                )
            if self._unwritten is not None:
                self.notes.append(f"the table of results could not be written: {self._unwritten}")
            interrupted = self.cancelled
            if not closing:
                try:
                    await self._put_typed_table()
                    await self._put_report()
                    if self._remote is not None and not self.cancelled:
                        _, closing = await self._in_store(self._put_remote_report(self._remote))
                except asyncio.CancelledError:
                    pass  # the server is closed meanwhile: the same request writes them
            await self._claims.release_many(self.execution_id)
        if interrupted:
            return RunStatus.INTERRUPTED
        return RunStatus.ERROR if self._failed else RunStatus.OK

    async def _hand_over(self) -> None:
        """Hand runs to the backend, as many at a time as it has room for. Returns when they are over."""
        waiting = deque(row for row in self.rows if not row.status.final)
        while True:
            room = self._backend.room(self._wanted)
            while waiting and len(self._going) < room and not self._halted.is_set():
                self._going.add(asyncio.create_task(self._run(waiting.popleft())))
            if not self._going:
                return
            # The place may grow meanwhile.
            _, self._going = await asyncio.wait(self._going, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _run(self, row: BatchRow) -> None:
        """Do a run, and do it again while it ends in a way that is worth another attempt."""
        execution_id = self.execution_id
        try:
            for number in itertools.count(1):
                if self._halted.is_set():
                    break
                self._active[row.number] = row
                row.active = True
                end, execution_id = await self._attempt(row)
                if end not in self._retry_on or max(number, row.attempts) > self._retries:
                    break
                if not await self._paused(row, min(_PAUSE * 2 ** (number - 1), _MAX_PAUSE)):
                    break
                row.repeat()
                self.changed()
            if row.ran:
                await self._publish(row)
        finally:
            self._active.pop(row.number, None)
            if row.status == RunStatus.ABORTED and not row.ran and self._stopped:
                row.end(RunStatus.NOT_RUN)
            if row.status.final:
                if row.had_turn:
                    self._journal.ended(row.snapshot(execution_id))
                self._over_with(row)

    async def _publish_kept(self) -> None:
        """Write complete outputs of an earlier batch that could not be written then."""
        kept = [row for row in self.rows if row.kept and row.remote is not None and not row.remote.published]
        await asyncio.gather(*map(self._publish, kept))
        self._failed += sum(row.error is not None for row in kept)

    async def _publish(self, row: BatchRow) -> None:
        """Write the output of a run that is over to its object store."""
        if self._remote is None or row.remote is None:
            return
        copy = self._claims.display_path(row.output)
        if self.cancelled:
            if row.status == RunStatus.OK:  # the same request does the others again
                row.not_published("the batch was cancelled", copy)
            return
        upload = asyncio.create_task(self._remote.publish(row.remote, row.output))
        self._uploads.add(upload)
        self.changed()
        try:
            failure = await upload
        except asyncio.CancelledError:
            row.not_published("the upload was cancelled", copy)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the server is closed
        else:
            if failure is not None:
                row.not_published(failure, copy)
        finally:
            self._uploads.discard(upload)

    async def _in_store(self, work: Coroutine[Any, Any, bool]) -> tuple[bool, bool]:
        """Do some work in the object store, unless it is cancelled: by a client, or since the server is closed.

        Returns:
            Its result, and whether the server is closed.
        """
        self._storing = asyncio.create_task(work)
        try:
            return await self._storing, False
        except asyncio.CancelledError:
            self.cancelled = True
            self.notes.append("the table and the report were not written to the object store: that was cancelled")
            return False, bool((task := asyncio.current_task()) is not None and task.cancelling())
        except Exception:
            logger.exception("tables and the report of a batch could not be written to an object store")
            self.notes.append("the table or the report was not written to the object store; the log has the details")
            return False, False
        finally:
            self._storing = None

    async def _put_remote_table(self, remote: RemoteDirectory) -> bool:
        """Write the table here and to the object store. Returns whether it is at least here.

        Rows that other servers have written there meanwhile stay.
        """
        if self._writing is not None:
            await asyncio.wait([self._writing])
        try:
            for number in itertools.count(1):
                await remote.fetch_tables()
                await self._put_table(durable=True)
                if not self._written:
                    return True
                try:
                    await remote.put(self._table.exact_path)
                    self._urls["table"] = await remote.put(self._table.path)
                    return True
                except ConflictError:
                    if number == _TRIES:
                        raise
        except ServerError as error:
            copy = self._claims.display_path(self._table.path.parent)
            self.notes.append(f"the table of results was not written to {remote.url}: {error} It is kept in {copy}")
        return False

    async def _put_remote_report(self, remote: RemoteDirectory) -> bool:
        """Write the report, and the table as Parquet, to the object store. Returns whether they are there."""
        try:
            if self._typed is not None:
                await remote.put(self._typed)
            if self._report is not None:
                self._urls["report"] = await remote.put(self._report)
        except ServerError as error:
            self.notes.append(f"the report was not written to {remote.url}: {error}")
            return False
        return True

    async def _attempt(self, row: BatchRow) -> tuple[AttemptEnd | None, str]:
        """Do a run once. Returns the kind of a failure, None for another end, and the id of the attempt."""
        end: AttemptEnd | None = None
        execution_id = self.execution_id
        try:
            outcome = await self._backend.run(row, self.execution_id)
        except ServerError as error:
            end = None if isinstance(error, ServerNotRunningError) else "error"
            row.end(RunStatus.ERROR, error=str(error))
        except asyncio.CancelledError:
            row.end(RunStatus.INTERRUPTED if row.begun else RunStatus.ABORTED)
            raise
        except Exception:
            logger.exception("a run of a batch failed in the server", extra={"path": str(row.output)})
            row.end(RunStatus.ERROR, error="the server failed during this run; its log has the details")
        else:
            execution_id = row.child.execution_id if row.child is not None else execution_id
            end = "lost_worker" if outcome.lost_worker else _ENDS.get(outcome.status)
            row.take(outcome)
        return end, execution_id

    async def _paused(self, row: BatchRow, seconds: float) -> bool:
        """Wait before the next attempt. Returns whether there is one.

        There is none if the batch ends, or if another program has changed the output.
        """
        before = await self._backend.revision(row)
        self.changed()
        await in_time(self._halted.wait(), seconds)
        return not self._halted.is_set() and before is not None and await self._backend.revision(row) == before

    def _over_with(self, row: BatchRow) -> None:
        self._count(row)
        if self._stop_after is not None and self._failed >= self._stop_after and not self._halted.is_set():
            self._stopped = True
            self._halted.set()
            self._background.start(self._backend.hold())
        if self._table.due and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._put_table())
        self.changed()

    def _count(self, row: BatchRow) -> None:
        """Put a run among those that are over, once: at the end of the server its task may still go on."""
        if row.number in self._counted:
            return
        self._counted.add(row.number)
        self._over.append(row)
        self._done += row.had_turn
        self._failed += row.error is not None
        if row.seconds is not None:
            self._took += row.seconds
            self._timed += 1

    async def _put_table(self, *, durable: bool = False) -> None:
        """Write the rows of the runs that are over. The last write waits for the one before."""
        if durable and self._writing is not None:
            await asyncio.wait([self._writing])
        over = list(self._over)

        def write() -> None:
            rows = [row.result(self.execution_id) for row in sorted(over, key=lambda row: row.number)]
            self._table.write(rows, durable=durable)

        try:
            await asyncio.to_thread(write)
            self._unwritten, self._written = None, True
        except ServerError as error:
            self._unwritten = str(error)
        except OSError as error:
            self._unwritten = error.strerror or str(error)

    async def _put_typed_table(self) -> None:
        """Write the table as Parquet, where that can be done."""
        if not self._written:
            return
        try:
            self._typed = await asyncio.to_thread(self._table.write_typed)
        except ServerError as error:
            self.notes.append(f"results.parquet could not be written: {error}")
        except Exception:  # a library that is broken, or refuses a value, is no fault of the batch
            logger.exception("the table of a batch as Parquet failed", extra={"path": str(self._table.path)})
            self.notes.append("results.parquet could not be written; the log of the server has the details")

    async def _put_report(self) -> None:
        """Write the report."""
        self._reporting = True
        directory = self._table.path.parent
        try:
            self._report = await self._reports.write(self._snapshot([]), self._states(self._over), directory)
        except Exception as error:
            if not isinstance(error, ServerError | OSError):
                logger.exception("the report of a batch failed", extra={"path": str(directory)})
            known = str(error) if isinstance(error, ServerError) else getattr(error, "strerror", None)
            self.notes.append(f"the report could not be written: {known or 'the log of the server has the details'}")
        finally:
            self._reporting = False
        if self._report is not None and self._report.stem != "report":
            self.notes.append(f"report.html was changed by another program and stays; this one is {self._report.name}")

    def _release(self) -> None:
        for template in self._templates:
            template.release()

    async def cancel(self) -> None:
        """Interrupt the runs that go on and begin no more."""
        if not self.finished:
            self.cancelled = True
            self._halted.set()
            for upload in [*self._uploads, *([self._storing] if self._storing is not None else [])]:
                upload.cancel()
            await self._backend.cancel()

    @property
    def _running(self) -> list[BatchRow]:
        return [row for row in self._active.values() if row.status == RunStatus.RUNNING]

    @property
    def _queued(self) -> list[BatchRow]:
        """Runs that a backend has taken and that wait for a kernel or a worker."""
        return [row for row in self._active.values() if row.active and row.waits_for is not None]

    @property
    def status(self) -> RunStatus:
        """`queued` while no run goes on and one waits, or will wait, for a kernel or a worker."""
        waits = self._queued or (self._began is None and self._backend.full)
        return RunStatus.QUEUED if waits and not self.finished and not self._running else self._status

    def snapshot(self, since: Cursor) -> BatchSnapshot:
        """The state of the batch. Rows: those that ended behind the cursor, failed ones first, and those under way.

        Pictures are part of the whole state, and of the first look at the end.
        """
        if since is END:
            return self._snapshot([])
        whole = since == Cursor() or (self.finished and since != self._cursor)
        ended = sorted(self._over[since.cells :], key=lambda row: (row.status == RunStatus.OK, row.number))
        under_way = self._running or self._queued[:1]
        return self._snapshot(
            [*ended[:_MAX_ROWS], *under_way],
            left_out=max(0, len(ended) - _MAX_ROWS),
            errors=[(row.number, row.error) for row in self._over if row.error is not None],
            numbers=[(row.number, row.recorded) for row in self._over if row.recorded],
            over=self._states(self._over) if whole else (),
        )

    @property
    def _cursor(self) -> Cursor:
        """Its second number is that of the ends that were seen."""
        return Cursor(len(self._over), int(self.finished))

    def _states(self, rows: Sequence[BatchRow]) -> list[RowState]:
        """The rows that are over and have an output, in their order."""
        return [row.state() for row in sorted(rows, key=lambda row: row.number) if row.kept or row.ran]

    def page(self, selection: str) -> BatchSnapshot:
        """The state of the batch, with the runs of a selection.

        Args:
            selection: `failed`, `running`, `queued`, or positions such as `0-99`.

        Raises:
            InvalidArgumentError: it is none of these.
        """
        span = positions(selection)
        if span is not None:
            chosen = self.rows[span.start : span.stop]
        elif selection == "failed":
            chosen = [row for row in self.rows if row.error is not None]
        else:
            chosen = [row for row in self.rows if row.status == selection]
        if not chosen and span is not None:
            raise InvalidArgumentError(
                f"there is no run {span.start}", allowed=f"runs of this batch are 0 to {len(self.rows) - 1}"
            )
        rest = chosen[_MAX_SELECTED:]
        more = f"{rest[0].number}-{rest[-1].number}" if rest else None
        shown = chosen[:_MAX_SELECTED]
        return self._snapshot(shown, more_rows=more, over=self._states(shown))

    def _snapshot(self, shown: Sequence[BatchRow], **more: Any) -> BatchSnapshot:
        return BatchSnapshot(
            execution_id=self.execution_id,
            operation=self._operation,
            status=self.status,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=tuple(self.notes),
            kernel_name=next(iter(self._kernel_names)) if len(self._kernel_names) == 1 else None,
            python=next(iter(self._pythons)) if len(self._pythons) == 1 else None,
            file=self._templates[0].notebook.path,
            output_file=self._table.path if self._written else None,
            table=self._table.path,
            done=self._done,
            total=len(self.rows),
            failed=self._failed,
            progress=self._progress(),
            cell_limit=self._templates[0].task.timeout_seconds,
            cursor=self._cursor,
            rows=[row.state() for row in shown],
            several_notebooks=self._several_notebooks,
            report=self._report,
            typed_table=self._typed,
            table_url=self._urls.get("table"),
            report_url=self._urls.get("report"),
            **more,
        )

    def _progress(self) -> str:
        """A line for a person: `7 of 40 runs · 2 running · 1 failed · 42 s · about 3 min left`."""
        running, queued = self._running, self._queued
        facts = [f"{self._done} of {count_noun(len(self.rows), 'run')}", f"{len(running)} running"]
        if queued and not running:
            facts.append(str(queued[0].waits_for))
        if self._uploads:
            facts.append(f"{count_noun(len(self._uploads), 'output')} being written to {self._remote_place}")
        if self._failed:
            facts.append(f"{self._failed} failed")
        facts.append(f"{self.seconds:.0f} s")
        if self._reporting:
            facts.append("writing the report")
        left = self._seconds_left(running)
        if left is not None:
            facts.append(f"about {rough_duration(left)} left")
        return " · ".join(facts)

    @property
    def _remote_place(self) -> str:
        return self._remote.url if self._remote is not None else ""

    def _seconds_left(self, running: Sequence[BatchRow]) -> float | None:
        """An estimate from the runs that are over; None while there are none."""
        if not self._timed or not running:
            return None
        each = self._took / self._timed
        waiting = len(self.rows) - len(self._over) - len(running)
        return (each * waiting + sum(max(0.0, each - (row.seconds or 0.0)) for row in running)) / len(running)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
