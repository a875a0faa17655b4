"""Running code cells of a notebook, one after another, in one kernel.

Used in place, for the user's own notebook, and by papermill runs for their output notebooks. The two differ only in
the `RunObserver` that records each cell.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Any, Protocol

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.core.kernels.outputs import MAX_CELL_BYTES, RAISES_TAG, Output, is_error, recorded_values
from papermill_mcp.core.kernels.request import CellExecution, RunStatus
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.core.runs.snapshot import END, CellsState, CellState, Cursor
from papermill_mcp.core.widget_state import merged, with_text
from papermill_mcp.errors import KernelDiedError, KernelNotFoundError, KernelUnresponsiveError, ServerError
from papermill_mcp.utils.markdown import headings
from papermill_mcp.utils.text_utils import clean_text, one_line, rough_duration

#: Tag of a cell that is not run, as nbclient knows it.
SKIP_TAG = "skip-execution"

#: The outcome of a cell that the run did not reach.
NOT_RUN = "not_run"

#: Seconds between two records of a cell that is still running, for the file.
_RECORD_INTERVAL = 2.0

#: Cells in one snapshot.
_MAX_ROWS = 200

#: Characters of the last text of a run, in its summary.
_TEXT_CHARS = 200

#: Characters of a source that stay when the outputs are given up.
_FORGOTTEN_SOURCE_CHARS = 2_000

#: Bytes of output that one run may keep, as they are in memory, and the bytes that each of its cells may keep beyond.
MAX_RUN_BYTES = 256 * 1024 * 1024
MIN_CELL_BYTES = 64 * 1024


@dataclass(eq=False)
class RunCell:
    """One cell of a run.

    Attributes:
        index: its place in the notebook that is run.
        label: its name for a person, in progress messages.
        skip: a tag says that it is not run.
        passed: the run has passed it over.
        expected_seconds: how long it took last time, where that is known.
    """

    index: int
    cell_id: str | None
    source: str
    label: str
    allow_error: bool = False
    skip: bool = False
    passed: bool = False
    expected_seconds: float | None = None
    execution: CellExecution | None = None

    @property
    def status(self) -> RunStatus:
        """Where this cell stands."""
        if self.passed:
            return RunStatus.SKIPPED
        return self.execution.status if self.execution else RunStatus.QUEUED

    @property
    def outputs(self) -> list[Output]:
        """The outputs so far, with an `error` output when the cell was ended from outside."""
        if self.execution is None:
            return []
        outputs = self.execution.outputs
        error = self.execution.error
        if error is None or self.status == RunStatus.ABORTED:
            return outputs
        if not any(is_error(output, error.ename, error.evalue) for output in outputs):
            outputs.append(error.output())
        return outputs

    def state(self, outputs: Sequence[Output] | None = None) -> CellState:
        """The cell as a frozen value for clients. Args: `outputs`: those to show, by default all."""
        execution = self.execution
        shown = self.outputs if outputs is None else outputs
        return CellState(
            status=self.status,
            index=self.index,
            cell_id=self.cell_id,
            source=self.source,
            execution_count=execution.execution_count if execution else None,
            duration=execution.duration if execution else None,
            outputs=with_text(shown, execution.widgets.models) if execution else shown,
            error=execution.error if execution else None,
            pages=tuple(execution.pages) if execution else (),
            dropped_chars=execution.collector.dropped_chars if execution else 0,
            omitted_outputs=execution.collector.omitted_outputs if execution else 0,
        )

    @property
    def failed(self) -> bool:
        """Whether it ended badly, which makes the run an error. An allowed error does not count."""
        if self.status == RunStatus.ERROR:
            return not self.allow_error
        return self.status.final and self.status not in (RunStatus.OK, RunStatus.SKIPPED)

    @property
    def outcome(self) -> str:
        """One word for the end of the cell: its status, `ok` for an allowed error, `not_run` if it did not begin."""
        if self.passed:
            return RunStatus.SKIPPED
        if self.execution is None or self.execution.began is None or not self.status.final:
            return NOT_RUN
        return self.status if self.failed else RunStatus.OK

    @property
    def stops(self) -> bool:
        """Whether it ended in a way that stops a run: as in papermill, an exception or a clean exit of its own code.

        An error that the code only showed stops no run.
        """
        allowed = self.allow_error and self.status in (RunStatus.OK, RunStatus.ERROR)
        return self.execution is not None and self.execution.raised and not allowed


class RunObserver(Protocol):
    """Observes each cell of a run. Called in the event loop; must not block."""

    def cell_started(self, cell: RunCell) -> None:
        """The kernel gets the cell now, or the cell has ended without that."""

    def cell_progressed(self, cell: RunCell) -> None:
        """The cell has run for a while and put something out. Called now and then."""

    def cell_finished(self, cell: RunCell) -> None:
        """The cell has ended, well or badly."""


@dataclass(frozen=True)
class RunSummary:
    """A run in a few plain values, which can also be sent to another process.

    Attributes:
        failed_index: index of the cell that ended it badly.
        error: the failure in one line.
        recorded: values that the notebook recorded, by name.
        error_name: the class of the exception, if one was the failure.
        text: the end of the last text that the notebook put out.
    """

    cells_total: int
    cells_done: int
    failed_index: int | None
    error: str | None
    recorded: dict[str, Any]
    error_name: str | None = None
    text: str | None = None


class NotebookRun:
    """A run over cells of a notebook. `run` returns when it is over; `cancel` ends it early.

    Attributes:
        cells: all cells of the run in order; `current` is the one that runs.
        done: how many of them are over, skipped ones included.
        status: that of the run: `running` until its end.
        complete: whether every cell was run.
        left_at: the cell that ended the run by a clean exit.
        problem: why the run ended where no cell tells it.
    """

    def __init__(
        self,
        cells: Sequence[RunCell],
        observer: RunObserver,
        *,
        timeout_seconds: float | None,
        continue_on_error: bool,
        owner: str | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.cells = list(cells)
        self.done = 0
        self.current: RunCell | None = None
        self.status = RunStatus.QUEUED
        self.kernel: Kernel | None = None
        self._observer = observer
        self._owner = owner
        self.timeout_seconds = timeout_seconds
        self.continues = continue_on_error
        self.complete = False
        self.left_at: RunCell | None = None
        self.problem: ServerError | None = None
        self._changed = changed
        self._cancelled = False
        self._held = 0  # bytes of the outputs of ended cells
        self._widgets_left_out = 0  # before the run
        self._recorded: dict[int, int] = {}  # the version of each cell's outputs that the observer has

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest will take if each cell takes as long as last time; None when that is not known of all."""
        left = 0.0
        for cell in self.cells:
            if cell.skip or cell.status.final:
                continue
            if cell.expected_seconds is None:
                return None
            spent = cell.execution.duration if cell.execution else 0.0
            left += max(0.0, cell.expected_seconds - spent)
        return left

    def timings(self) -> dict[str, float]:
        """Seconds of the cells that ended well, by a digest of their source."""
        return {
            source_digest(cell.source): round(cell.execution.duration, 3)
            for cell in self.cells
            if cell.execution is not None and cell.status == RunStatus.OK
        }

    @property
    def failed_cells(self) -> list[RunCell]:
        """Cells that ended badly."""
        return [cell for cell in self.cells if cell.failed]

    @property
    def recorded(self) -> dict[str, Any]:
        """Values that the notebook recorded for its caller, by name; the last one of a name counts."""
        values: dict[str, Any] = {}
        for cell in self.cells:
            if cell.status.final:
                values |= recorded_values(cell.outputs)
        return values

    @property
    def widgets_left_out(self) -> int:
        """Widgets whose states were given up during the run."""
        return 0 if self.kernel is None else self.kernel.widgets.left_out - self._widgets_left_out

    @property
    def held(self) -> int:
        """Bytes of sources and outputs in memory, and of the widgets of a kernel that has ended."""
        executions = [cell.execution for cell in self.cells if cell.execution is not None]
        ended = self.kernel is None or not self.kernel.alive
        widgets = executions[0].widgets.held if executions and ended else 0
        return sum(getsizeof(cell.source) for cell in self.cells) + sum(e.held for e in executions) + widgets

    def forget_outputs(self) -> None:
        """Give up the outputs of the cells, and long sources. States and errors stay."""
        for cell in self.cells:
            cell.source = cell.source[:_FORGOTTEN_SOURCE_CHARS]
            if cell.execution is not None:
                cell.execution.forget_outputs()

    @property
    def began(self) -> float | None:
        """When the kernel got the first cell, by `time.monotonic`; None before that."""
        return next((cell.execution.began for cell in self.cells if cell.execution and cell.execution.began), None)

    @property
    def waits(self) -> bool:
        """Whether no cell has begun yet, since the kernel runs other code."""
        cell = self.current
        if self.began is not None or cell is None or cell.execution is None or self.kernel is None:
            return False
        return cell.status == RunStatus.QUEUED and self.kernel.has_ahead_of(cell.execution)

    def state(self, since: Cursor) -> tuple[CellsState, Cursor]:
        """The cells as frozen values, with the outputs behind the cursor, and the cursor after them."""
        current = self.current if self.current is not None and not self.current.status.final else None
        failed = [cell for cell in self.failed_cells if cell.status != RunStatus.ABORTED]
        at = current or (self.failed_cells[-1] if self.failed_cells else None)
        totals = CellsState(
            total=len(self.cells), done=self.done, failed=len(self.failed_cells), at=at.index if at else None
        )
        if since is END:
            return totals, since
        over = [cell for cell in self.cells if cell.status.final]
        ended = over[since.cells :]
        left_out = max(0, len(ended) - _MAX_ROWS)
        # The first of them may have been shown while it ran.
        rows = [cell.state(since.new_of(cell.outputs) if cell is ended[0] else None) for cell in ended[left_out:]]
        if current is not None:
            rows.append(current.state(since.new_of(current.outputs) if len(over) == since.cells else None))
        state = replace(
            totals,
            rows=rows,
            left_out=left_out,
            counts=Counter(cell.outcome for cell in self.cells),
            failed_cell=failed[-1].state(()) if failed else None,
            recorded=self.recorded,
        )
        return state, Cursor.at(len(over), current.outputs if current else [])

    def progress(self, seconds: float) -> str:
        """A line for a person: `cell 12 (7 of 31) · "Train the model" · 42 s`. Cells are named by their index."""
        cell = self.current
        if cell is None:
            return f"{self.done} of {len(self.cells)} cells · {seconds:.0f} s"
        left = self.remaining_seconds
        rest = f" · about {rough_duration(left)} left" if left is not None and left >= 1 else ""
        return f"{self.place_of(cell)} · {seconds:.0f} s{rest}"

    def place_of(self, cell: RunCell) -> str:
        """The place of a cell for a person: `cell 12 (7 of 31) · "Train the model"`."""
        return f'cell {cell.index} ({self.cells.index(cell) + 1} of {len(self.cells)}) · "{cell.label}"'

    def summary(self) -> RunSummary:
        """The run in short."""
        failed = self.failed_cells[-1] if self.failed_cells else None
        error = str(self.problem) if self.problem else _what_failed(failed) if failed else None
        raised = failed.execution.error if failed is not None and failed.execution is not None else None
        return RunSummary(
            cells_total=len(self.cells),
            cells_done=self.done,
            failed_index=failed.index if failed else None,
            error=error,
            recorded=self.recorded,
            error_name=raised.ename if raised is not None else None,
            text=last_text(output for cell in reversed(self.cells) for output in reversed(cell.outputs)),
        )

    async def run(self, kernel: Kernel) -> None:
        """Run the cells in `kernel`. Returns when the last has ended, one has failed, or the run was cancelled."""
        self.kernel = kernel
        self._widgets_left_out = kernel.widgets.left_out
        self.status = RunStatus.RUNNING
        self._changed()
        for cell in self.cells:
            if self._cancelled:
                self.status = RunStatus.INTERRUPTED
                return
            if cell.skip:
                cell.passed = True
                self.done += 1
                continue
            try:
                await self._run_cell(kernel, cell)
            except (KernelDiedError, KernelNotFoundError, KernelUnresponsiveError) as error:
                self.problem = error  # between two cells
                self.status = RunStatus.DIED
                return
            if cell.stops and not (self.continues and cell.status in (RunStatus.OK, RunStatus.ERROR)):
                # With continue_on_error a raised exception is passed over. A dead or unresponsive kernel is not.
                self.status = RunStatus.ERROR if cell.status == RunStatus.OK and self.failed_cells else cell.status
                self.left_at = cell if cell.status == RunStatus.OK else None
                return
        self.complete = True
        self.status = RunStatus.ERROR if self.failed_cells else RunStatus.OK

    async def hear_out(self) -> None:
        """Wait for output that a kernel sends behind the end of the last cell, and record it."""
        if self.kernel is not None:
            await self.kernel.hear_out()
        self.record_late_output()

    def record_late_output(self) -> None:
        """Pass on output that came after a cell's end: of a thread, or an update of a display. It may be an error."""
        if self.status == RunStatus.OK and self.failed_cells:
            self.status = RunStatus.ERROR
        for cell in self.cells:
            if cell.execution is not None and cell.execution.collector.version != self._recorded.get(cell.index):
                self._recorded[cell.index] = cell.execution.collector.version
                self._observer.cell_progressed(cell)

    def late_cells(self) -> list[RunCell]:
        """Cells whose outputs have changed since they were recorded."""
        return [
            cell
            for cell in self.cells
            if cell.execution is not None
            and not cell.execution.collector.forgotten
            and cell.index in self._recorded
            and cell.execution.collector.version != self._recorded[cell.index]
        ]

    def late_is_recorded(self, cell: RunCell, version: int) -> None:
        """This version of the outputs is in the file now."""
        self._recorded[cell.index] = version

    async def _run_cell(self, kernel: Kernel, cell: RunCell) -> None:
        started = False

        def changed() -> None:
            nonlocal started
            if not started and cell.execution is not None and cell.execution.began is not None:
                started = True
                self._observer.cell_started(cell)
            self._changed()

        cell.execution = kernel.submit(
            cell.source,
            timeout_seconds=self.timeout_seconds,
            stop_on_error=not (cell.allow_error or self.continues),
            owner=self._owner,
            max_bytes=max(MIN_CELL_BYTES, min(MAX_CELL_BYTES, MAX_RUN_BYTES - self._held)),
            on_change=changed,
        )
        self.current = cell
        self._changed()
        settled = asyncio.create_task(cell.execution.settled.wait())
        try:
            seen = 0
            while not settled.done():
                await asyncio.wait([settled], timeout=_RECORD_INTERVAL)
                version = cell.execution.collector.version
                if not settled.done() and version != seen:
                    seen = version
                    self._observer.cell_progressed(cell)
        finally:
            settled.cancel()
        self.current = None
        self.done += 1
        self._held += cell.execution.collector.held
        if not started:
            self._observer.cell_started(cell)
        self._observer.cell_finished(cell)
        self._recorded[cell.index] = cell.execution.collector.version
        self._changed()

    async def cancel(self) -> bool:
        """Interrupt the cell that runs and start no further one. Returns whether the kernel obeyed."""
        self._cancelled = True
        execution = self.current.execution if self.current else None
        if self.kernel is None or execution is None:
            return True
        return await self.kernel.interrupt(execution)

    def cut_off(self, why: str) -> None:
        """The run ends here and now, in the middle of a cell. The cell keeps its outputs so far."""
        cell, self.current = self.current, None
        if cell is not None and cell.execution is not None:
            cell.execution.abort(why)
            self.done += 1
            self._recorded[cell.index] = cell.execution.collector.version
            self._observer.cell_finished(cell)


class WidgetRecorder:
    """Records the states of the widgets of a run in its notebook."""

    def __init__(self, file: RunFile) -> None:
        self._file = file
        self._before: int | None = None  # how many widgets the kernel had made before the run

    def record(self, execution: CellExecution) -> None:
        """Record the states as they are now, while or after `execution` runs."""
        widgets = execution.widgets
        self._before = widgets.opened if self._before is None else self._before
        states = widgets.states()
        fresh = states.since(self._before)

        def of_document(document: NotebookDocument) -> dict[str, Any]:
            outputs = (output for cell in document.cells for output in cell.outputs)
            return merged(document.metadata, states.models, fresh, outputs)

        self._file.record_widgets(of_document)


class InPlaceObserver:
    """Records results in the notebook that was run itself."""

    def __init__(self, file: RunFile | None) -> None:
        self._file = file
        self._widgets = None if file is None else WidgetRecorder(file)

    def cell_started(self, cell: RunCell) -> None:
        """The outputs of an earlier run go now: they are not this run's."""
        self._record(cell)

    def cell_progressed(self, cell: RunCell) -> None:
        """Keep the outputs of a long cell so far."""
        self._record(cell)

    def cell_finished(self, cell: RunCell) -> None:
        """Keep everything, timings included."""
        self._record(cell, final=True)

    def _record(self, cell: RunCell, *, final: bool = False) -> None:
        if self._file is None or self._widgets is None or cell.execution is None or cell.execution.began is None:
            return  # code that never began leaves the outputs of an earlier run
        self._file.record(
            cell.index,
            {
                "execution_count": cell.execution.execution_count,
                "metadata": self._metadata(cell),
                "outputs": cell.outputs,
            },
            final=final,
        )
        self._widgets.record(cell.execution)

    def _metadata(self, cell: RunCell) -> dict[str, Any]:
        """Our keys of the cell's metadata."""
        return {"execution": dict(cell.execution.timing)} if cell.execution is not None else {}


def run_cells(
    cells: Sequence[NotebookCell], chosen: Sequence[int] | None = None, *, timings: Mapping[str, float] | None = None
) -> list[RunCell]:
    """The code cells of a notebook as a run has them, those of `chosen` indexes only.

    Args:
        timings: seconds that cells took last time, by the digest of their source.

    Empty cells and cells tagged `skip-execution` are skipped, as nbclient does; an empty cell is left out altogether.
    """
    heading, first_below = "", True
    found = []
    wanted = None if chosen is None else set(chosen)
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            below = heading_of(cell.source)
            heading, first_below = (below, True) if below else (heading, first_below)
        if cell.cell_type != "code" or (wanted is not None and index not in wanted) or not cell.source.strip():
            continue
        found.append(
            RunCell(
                index=index,
                cell_id=cell.cell_id,
                source=cell.source,
                label=heading if heading and first_below else code_label(cell.source),
                allow_error=RAISES_TAG in cell.tags,
                skip=SKIP_TAG in cell.tags,
                expected_seconds=(timings or {}).get(source_digest(cell.source)),
            )
        )
        first_below = False
    return found


def last_text(outputs: Iterable[Mapping[str, Any]]) -> str | None:
    """The end of the first text among outputs, which come in reverse; None if there is none."""
    for output in outputs:
        found = output.get("data")
        data = found if isinstance(found, Mapping) else {}
        if any(str(mime).startswith("image/") for mime in data):
            continue  # its text only stands for the picture
        text = joined(output.get("text")) or joined(data.get("text/plain"))
        if shown := clean_text(text[-4 * _TEXT_CHARS :]).strip():
            return shown[-_TEXT_CHARS:]
    return None


def _what_failed(cell: RunCell) -> str:
    assert cell.execution is not None
    if cell.status == RunStatus.TIMEOUT:
        return f"it ran longer than its timeout of {cell.execution.timeout_seconds:g} s"
    error = cell.execution.error
    return one_line(": ".join(filter(None, (error.ename, error.evalue))), 500) if error else str(cell.status)


def source_digest(source: str) -> str:
    """A short digest of a cell's source."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def heading_of(markdown: str) -> str:
    """The last heading in a markdown source, or an empty string."""
    texts = [text for _, text in headings(markdown)]
    return one_line(texts[-1], 60) if texts else ""


def code_label(source: str) -> str:
    """A few words for a code cell: its first line that is neither blank nor a magic."""
    for line in source.splitlines():
        text = line.strip().lstrip("#").strip()
        if text and not text.startswith("%"):
            return one_line(text, 60)
    return "code"
