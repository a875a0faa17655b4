"""How executions are shown: what a reply says of one, and what is new in it since the last look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, PrivateAttr

from papermill_mcp.core.outputs import MAX_CELL_OUTPUTS, is_error, only_records
from papermill_mcp.errors import InvalidArgumentError
from papermill_mcp.services.execution_store import ExecutionRecord
from papermill_mcp.services.output_view import (
    ErrorView,
    OutputBudget,
    OutputView,
    ShownImage,
    show_error,
    show_outputs,
)
from papermill_mcp.services.results import ROWS, Result
from papermill_mcp.services.workspace import Workspace

if TYPE_CHECKING:
    from papermill_mcp.core.execution import CellError, CellExecution
    from papermill_mcp.core.notebook_run import NotebookRun, RunCell
    from papermill_mcp.core.outputs import Output
    from papermill_mcp.services.batch import Batch, BatchRun
    from papermill_mcp.services.execution_service import Execution

#: Cells listed in one reply, and characters of output shown for one cell of a run that has many.
_MAX_ROWS = 200
_CELL_CHARS = 1500

#: Characters of a recorded value, as JSON, in a reply.
_VALUE_CHARS = 1000


class CellResult(BaseModel):
    """One cell of a run."""

    index: int
    id: str | None = None
    status: str
    execution_count: int | None = None
    duration: float | None = None
    outputs: list[OutputView] | None = None
    error: ErrorView | None = None


class FailedCell(BaseModel):
    """The cell that ended a run."""

    index: int
    id: str | None = None
    source: str
    error: ErrorView | None = None


class RecordedValue(BaseModel):
    """A value that the notebook recorded for whoever ran it."""

    name: str
    value: Any = None


class RunRow(BaseModel):
    """One run of a batch. `failed_cell` is an index in the output; `kept`: an earlier batch had completed it."""

    run: int
    status: str
    parameters: dict[str, Any]
    duration: float | None = None
    input_path: str | None = None
    output_path: str
    kept: bool | None = None
    progress: str | None = None
    failed_cell: int | None = None
    error: str | None = None
    result: list[RecordedValue] | None = None
    notes: list[str] | None = None


class ExecutionView(BaseModel):
    """An execution as it stands. Which fields there are depends on what was executed."""

    execution_id: str
    kind: str
    status: str
    kernel_id: str | None = None
    index: int | None = None
    id: str | None = None
    execution_count: int | None = None
    duration: float
    cursor: str
    path: str | None = None
    input_path: str | None = None
    output_path: str | None = None
    revision: str | None = None
    parameters: dict[str, Any] | None = None
    cells_total: int | None = None
    cells_done: int | None = None
    cells_failed: int | None = None
    outputs: list[OutputView] | None = None
    error: ErrorView | None = None
    results: list[CellResult] | None = None
    failed_cell: FailedCell | None = None
    result: list[RecordedValue] | None = None
    runs_total: int | None = None
    runs_done: int | None = None
    runs_failed: int | None = None
    runs: list[RunRow] | None = None
    progress: str | None = None
    notes: list[str] | None = None
    _images: list[ShownImage] = PrivateAttr(default_factory=list)


class BatchView(Result):
    """A batch as it stands, with the runs that have ended or are running."""

    execution_id: str
    status: str
    duration: float
    cursor: str
    input_path: str | None = None
    runs_total: int | None = None
    runs_done: int | None = None
    runs_failed: int | None = None
    runs: Annotated[list[RunRow] | None, ROWS] = None
    progress: str | None = None
    notes: list[str] | None = None

    @classmethod
    def of(cls, view: ExecutionView) -> BatchView:
        """The part of a view that a batch has."""
        return cls(**{name: getattr(view, name) for name in cls.model_fields})


class ExecutionRow(BaseModel):
    """An execution in a line. `cut_off`: its server process ended while it ran."""

    execution_id: str
    kind: str
    status: str
    started_at: str
    duration: float
    path: str | None = None
    output_path: str | None = None
    cells_done: int | None = None
    cells_total: int | None = None
    at_cell: int | None = None
    cut_off: bool | None = None


class ExecutionList(Result):
    """Executions, the newest first."""

    executions: Annotated[list[ExecutionRow], ROWS]


class CancelledExecution(Result):
    """What became of an execution that was cancelled. Its outputs are for `get_execution`."""

    execution_id: str
    status: str
    ended: bool
    kernel_id: str | None = None
    duration: float
    cells_total: int | None = None
    cells_done: int | None = None
    path: str | None = None
    output_path: str | None = None
    notes: list[str] | None = None


def show(execution: Execution, seen: Cursor, budget: OutputBudget) -> ExecutionView:
    view = ExecutionView(
        execution_id=execution.execution_id,
        kind=execution.kind,
        status=execution.status,
        kernel_id=execution.kernel.kernel_id if execution.kernel and execution.keeps_kernel else None,
        duration=round(execution.seconds, 3),
        cursor="",
        path=execution.path,
        input_path=execution.input_path,
        output_path=execution.output_path,
        revision=execution.run_file.revision if execution.run_file else execution.revision,
        parameters=execution.parameters or None,
        notes=list(execution.notes) or None,
    )
    if execution.run is not None and execution.one_cell:
        view.index, view.id = execution.run.cells[0].index, execution.run.cells[0].cell_id
    only = execution.run.cells[0].execution if execution.run and execution.one_cell else execution.cell
    if only is not None:
        _show_cell(view, only, seen, budget)
    elif execution.run is not None:
        _show_run(view, execution.run, seen, budget)
    elif execution.batch is not None:
        _show_batch(view, execution.batch, seen)
    if not execution.finished.is_set():
        view.progress = progress_of(execution)[2]
    return view


def row_of(record: ExecutionRecord, workspace: Workspace) -> ExecutionRow:
    cut_off = record.status == "running" and not record.server_alive
    started = datetime.fromtimestamp(record.started_at, UTC)
    return ExecutionRow(
        execution_id=record.execution_id,
        kind=record.kind,
        status="aborted" if cut_off else record.status,
        started_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        duration=record.duration,
        path=workspace.shown(Path(record.path)) if record.path else None,
        output_path=workspace.shown(Path(record.output_path)) if record.output_path else None,
        cells_done=record.cells_done,
        cells_total=record.cells_total,
        at_cell=record.failed_cell,
        cut_off=cut_off or None,
    )


def _show_cell(view: ExecutionView, cell: CellExecution, seen: Cursor, budget: OutputBudget) -> None:
    every = cell.outputs
    fresh = seen.new_of(every)
    view.execution_count = cell.execution_count or None
    view.duration = round(cell.duration, 3)
    views, images = show_outputs(_without(cell.error, fresh), budget)
    pages: list[Output] = [{"output_type": "stream", "name": "help", "text": page} for page in cell.pages]
    view.outputs = [*views, *show_outputs(pages, budget)[0]] or None
    view._images = images
    if cell.collector.dropped_chars:
        lost = f"{cell.collector.dropped_chars:,} characters of its output were not kept, since a cell keeps 10 MiB"
        view.notes = [*(view.notes or []), lost]
    if cell.collector.omitted_outputs:
        limits = f"{MAX_CELL_OUTPUTS:,}, and 10 MiB"
        lost = f"{cell.collector.omitted_outputs:,} of its outputs were not kept, since a cell keeps {limits}"
        view.notes = [*(view.notes or []), lost]
    if cell.error is not None:
        view.error = show_error(_error_of(cell.error), budget)
    view.cursor = Cursor.at(0, every).text()


def _show_run(view: ExecutionView, run: NotebookRun, seen: Cursor, budget: OutputBudget) -> None:
    current = run.current if run.current is not None and not run.current.status.final else None
    over = [cell for cell in run.cells if cell.status.final]
    rows = over[seen.cells :]
    left_out = max(0, len(rows) - _MAX_ROWS)
    view.cells_total = len(run.cells)
    view.cells_done = run.done
    view.cells_failed = len(run.failed_cells)
    view.results = [
        # The first of them may have been shown while it ran.
        _row(view, cell, seen.new_of(cell.outputs) if cell is rows[0] else cell.outputs, budget)
        for cell in rows[left_out:]
    ]
    if left_out:
        view.notes = [*(view.notes or []), f"the first {left_out} of {len(rows)} cells are not listed here"]
    if current is not None:
        fresh = seen.new_of(current.outputs) if len(over) == seen.cells else current.outputs
        view.results.append(_row(view, current, fresh, budget))
    view.cursor = Cursor.at(len(over), current.outputs if current else []).text()
    failed = [cell for cell in run.failed_cells if cell.status != "aborted"]
    if failed:
        error = failed[-1].execution.error if failed[-1].execution else None
        view.failed_cell = FailedCell(
            index=failed[-1].index,
            id=failed[-1].cell_id,
            source=failed[-1].source[:2000],
            error=show_error(_error_of(error), budget) if error else None,
        )
    view.result = _recorded_view(short_values(run.recorded))


def _show_batch(view: ExecutionView, batch: Batch, seen: Cursor) -> None:
    ended = batch.ended[seen.cells :]
    left_out = max(0, len(ended) - _MAX_ROWS)
    view.runs_total, view.runs_done, view.runs_failed = len(batch.runs), batch.done, len(batch.failed)
    shown = sorted(ended[left_out:], key=lambda run: run.number)
    view.runs = [_run_row(run, batch.several_notebooks) for run in [*shown, *batch.running]]
    if left_out:
        view.notes = [*(view.notes or []), f"{left_out} of {len(ended)} runs that ended are not listed here"]
    view.cursor = Cursor(len(batch.ended)).text()


def _run_row(run: BatchRun, with_notebook: bool) -> RunRow:
    going = run.execution
    return RunRow(
        run=run.number,
        status=run.status,
        parameters=run.plan.values,
        duration=round(run.duration, 3) if run.duration is not None else None,
        input_path=run.plan.notebook.shown if with_notebook else None,
        output_path=run.output_shown,
        kept=run.kept or None,
        progress=progress_of(going)[2] if going is not None else None,
        failed_cell=run.failed_index,
        error=run.error,
        result=_recorded_view(run.recorded),
        notes=run.notes or None,
    )


def short_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded values, large ones cut: the output has them whole."""
    short = {}
    for name, value in values.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        short[name] = value if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}… ({len(text)} characters)"
    return short


def _recorded_view(values: Mapping[str, Any]) -> list[RecordedValue] | None:
    return [RecordedValue(name=name, value=value) for name, value in values.items()] or None


def _without(error: CellError | None, outputs: Sequence[Output]) -> list[Output]:
    """The outputs without the last `error` output of this error, which the reply shows by itself. Others stay."""
    shown = list(outputs)
    if error is not None:
        same = [at for at, output in enumerate(shown) if is_error(output, error.ename, error.evalue)]
        if same:
            del shown[same[-1]]
    return shown


def _row(view: ExecutionView, cell: RunCell, outputs: Sequence[Output], budget: OutputBudget) -> CellResult:
    budget_left = budget.chars
    budget.chars = min(budget_left, _CELL_CHARS)
    granted = budget.chars
    views, images = show_outputs(
        [o for o in _without(cell.execution.error if cell.execution else None, outputs) if not only_records(o)],
        budget,
        label=f"cell {cell.index}",
    )
    budget.chars = budget_left - (granted - budget.chars)
    view._images.extend(images)
    execution = cell.execution
    error = execution.error if execution else None
    # The cell that ended the run is shown in full as `failed_cell`.
    brief = ErrorView(ename=error.ename, evalue=error.evalue[:300], traceback="") if error else None
    return CellResult(
        index=cell.index,
        id=cell.cell_id,
        status=cell.status,
        execution_count=execution.execution_count if execution else None,
        duration=round(execution.duration, 3) if execution else None,
        outputs=views or None,
        error=brief,
    )


@dataclass(frozen=True)
class Cursor:
    """What a caller has seen: cells that were over, and of the next one, how many outputs and how much of the last."""

    cells: int = 0
    outputs: int = 0
    chars: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        if not text:
            return cls()
        parts = text.split(".")
        if len(parts) != 3 or not all(part.isdigit() and len(part) < 12 for part in parts):
            raise InvalidArgumentError(
                f"since {text[:60]!r} is not a cursor", allowed="pass the `cursor` of an earlier reply, or leave it out"
            )
        return cls(*(int(part) for part in parts))

    @classmethod
    def at(cls, cells: int, outputs: Sequence[Output]) -> Cursor:
        last = outputs[-1] if outputs else None
        return cls(cells, len(outputs), len(_stream_text(last)) if last else 0)

    def text(self) -> str:
        return f"{self.cells}.{self.outputs}.{self.chars}"

    def new_of(self, outputs: Sequence[Output]) -> list[Output]:
        """Outputs that were not there, and of a stream that has grown, what it has grown by."""
        if not self.outputs or len(outputs) < self.outputs:
            return list(outputs)  # nothing was seen yet, or it was cleared since
        last = outputs[self.outputs - 1]
        text = _stream_text(last)
        grown = [{**last, "text": text[self.chars :]}] if len(text) > self.chars else []
        return [*grown, *outputs[self.outputs :]]


def progress_of(execution: Execution) -> tuple[float, float | None, str]:
    """Cells done, cells in all, and a line for a person."""
    if execution.run is not None:
        from papermill_mcp.core.notebook_run import progress_message  # noqa: PLC0415 - imported long ago

        run = execution.run
        return float(run.done), float(len(run.cells)), progress_message(run, execution.seconds)
    if execution.batch is not None:
        batch = execution.batch
        return float(len(batch.ended)), float(len(batch.runs)), batch.progress(execution.seconds)
    cell = execution.cell
    if cell is None:
        return 0.0, None, "starting"
    if cell.status == "queued":
        return 0.0, None, f"waiting for the kernel · {execution.seconds:.0f} s"
    line = cell.collector.last_line()[-100:]
    done = 1.0 if execution.finished.is_set() else 0.0
    return done, 1.0, f"running · {cell.duration:.0f} s" + (f" · {line}" if line else "")


def view_of(row: ExecutionRow) -> ExecutionView:
    """What an earlier server process left of an execution."""
    where = row.output_path or row.path
    notes = ["it belongs to an earlier server process, so its outputs are not kept here"]
    if row.cut_off:
        notes = [f"it was cut off: its server process ended at cell {row.at_cell}"]
        if row.kind == "batch":
            notes = [
                f"it was cut off: its server process ended after {row.cells_done} of {row.cells_total} runs; "
                "execute_notebook_batch with the same arguments keeps those that are complete and runs the others"
            ]
    if where and row.kind != "batch":
        notes.append(f"what was saved of it is in {where}")
    return ExecutionView(
        execution_id=row.execution_id,
        kind=row.kind,
        status=row.status,
        duration=row.duration,
        cursor="0.0.0",
        path=row.path if row.output_path is None else None,
        input_path=row.path if row.output_path is not None else None,
        output_path=row.output_path,
        cells_total=row.cells_total if row.kind != "batch" else None,
        cells_done=row.cells_done if row.kind != "batch" else None,
        runs_total=row.cells_total if row.kind == "batch" else None,
        runs_done=row.cells_done if row.kind == "batch" else None,
        notes=notes,
    )


def shown_at_once(execution: Execution) -> bool:
    """Whether showing it takes less than handing it to a thread: a piece of code with little output and no image."""
    if execution.cell is None:
        return False
    outputs = execution.cell.outputs
    return len(outputs) < 20 and all(
        len(str(output.get("text", ""))) < 20_000
        and not any(
            name.startswith("image/") or len(str(value)) > 20_000 for name, value in (output.get("data") or {}).items()
        )
        for output in outputs
    )


def _stream_text(output: Mapping[str, Any] | None) -> str:
    return str(output.get("text", "")) if output else ""


def _error_of(error: Any) -> dict[str, Any]:
    return {"ename": error.ename, "evalue": error.evalue, "traceback": error.traceback}
