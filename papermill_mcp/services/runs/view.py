"""How runs are shown: the models of replies, made of the snapshots of runs and of the records of earlier ones."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, PrivateAttr

from papermill_mcp.core.kernels.outputs import MAX_CELL_OUTPUTS, Output, is_error, only_records
from papermill_mcp.core.kernels.request import CellError, RunStatus
from papermill_mcp.core.runs.snapshot import (
    BatchSnapshot,
    CellSnapshot,
    CellsState,
    CellState,
    Cursor,
    InstallSnapshot,
    NotebookSnapshot,
    PapermillSnapshot,
    RowState,
    RunSnapshot,
)
from papermill_mcp.core.runs.store import ExecutionRecord
from papermill_mcp.services.notebooks.view import ranges
from papermill_mcp.services.output_text import WRITTEN
from papermill_mcp.services.outputs import (
    ErrorView,
    OutputBudget,
    OutputView,
    Way,
    show_error,
    show_outputs,
)
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.results import OBJECT, ROWS, Result
from papermill_mcp.services.runs.batch_summary import (
    FailureGroup,
    NumbersByParameter,
    NumberSpan,
    failure_groups,
    number_spans,
    numbers_by_parameter,
    positions,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import cell_name, count_noun, iso_time

if TYPE_CHECKING:
    from papermill_mcp.core.runs import table as tables
else:
    tables = lazy("papermill_mcp.core.runs.table")

#: Characters of output shown for one cell of a run that has many.
_CELL_CHARS = 1500

#: Characters, about, of the lines that tell of cells and their outputs in one reply, without the text of the outputs.
#: Those of one output and of one cell.
_ROWS_CHARS = 10_000
_VIEW_CHARS = 80
_ROW_CHARS = 60

#: Characters of a list of cells.
_RANGES_CHARS = 300

#: Runs that a reply advises to look at next, and runs of an earlier batch in one reply.
_PAGE = 100
_EARLIER_ROWS = 40

#: Characters that a call for the rest of an output asks for, and more than a stream has.
_WAY_CHARS = 50_000
_ALL_CHARS = 999_999_999

#: Packages of an installation that are listed.
_PACKAGES = 200

#: Characters of a recorded value, as JSON, in a reply, and of one for which there is no more room.
_VALUE_CHARS = 1000
_CUT_CHARS = 60


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
    """A value that the notebook recorded for its caller."""

    name: str
    value: Any = None


class RunRow(BaseModel):
    """One run of a batch. `failed_cell` is an index in the output; `kept`: an earlier batch had completed it."""

    run: int
    status: str
    kernel_name: str | None = None
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


class RunView(BaseModel):
    """The fields that every run has. Each kind of run has a view of its own.

    `ended`: whether a run is over that was to be cancelled. `next`: the call that follows a run that goes on.
    """

    execution_id: str
    kind: str
    status: str
    kernel_id: str | None = None
    kernel_name: str | None = None
    python: str | None = None
    duration: float
    cursor: str
    progress: str | None = None
    next: str | None = None
    ended: bool | None = None
    notes: list[str] | None = None
    _new_kernel: bool = PrivateAttr(True)
    _later: bool = PrivateAttr(False)
    _images: list[ShownImage] = PrivateAttr(default_factory=list)

    def add_note(self, note: str) -> None:
        """Say one more thing."""
        self.notes = [*(self.notes or []), note]

    def add_image(self, image: ShownImage) -> None:
        """Show one more image."""
        self._images = [*self._images, image]


class CodeView(RunView):
    """Code in a kernel, or one cell of a notebook: then with `path`, `index` and `id`."""

    path: str | None = None
    revision: str | None = None
    index: int | None = None
    id: str | None = None
    execution_count: int | None = None
    outputs: list[OutputView] | None = None
    error: ErrorView | None = None


class CellsView(RunView):
    """The cells of a run that has several.

    `cells_done` have run to their end, well or badly. `counts` are by outcome: `ok`, a status of a cell that failed,
    `skipped`, and `not_run`.
    """

    revision: str | None = None
    cells_total: int | None = None
    cells_done: int | None = None
    cells_failed: int | None = None
    counts: dict[str, int] | None = None
    results: list[CellResult] | None = None
    failed_cell: FailedCell | None = None
    result: list[RecordedValue] | None = None


class NotebookRunView(CellsView):
    """A notebook in place."""

    path: str


class PapermillRunView(CellsView):
    """A notebook with parameters."""

    input_path: str
    output_path: str
    parameters: dict[str, Any] | None = None


class BatchRunView(RunView):
    """A batch as it stands, with the runs that have ended or are running."""

    input_path: str | None = None
    runs_total: int | None = None
    runs_done: int | None = None
    runs_failed: int | None = None
    results: str | None = None
    report: str | None = None
    failures: list[FailureGroup] | None = None
    numbers: list[NumberSpan] | None = None
    by_parameter: NumbersByParameter | None = None
    runs: list[RunRow] | None = None

    def fit(self, chars: int) -> None:
        """Leave out recorded values of runs, and cut parameters, beyond `chars` characters in all. A note says so."""
        left_out = 0
        for row in self.runs or []:
            row.parameters, chars = _fitted(row.parameters, chars)
            kept = []
            for value in row.result or []:
                size = len(value.name) + len(_json(value.value))
                if size <= chars:
                    kept.append(value)
                    chars -= size
                else:
                    left_out += 1
            row.result = kept or None
        if left_out:
            self.add_note(f"{count_noun(left_out, 'recorded value')} not shown for want of room: the table has them")


class BatchPreview(BatchRunView):
    """The plan of a batch, which has no run to look at."""

    execution_id: str = Field("", exclude=True)
    cursor: str = Field("", exclude=True)
    kind: str = "batch"


class InstalledPackage(BaseModel):
    """A package with its version before and after an installation, where it was or is installed."""

    name: str
    before: str | None = None
    after: str | None = None


class InstallView(RunView, Result):
    """An installation. `environment` is for a person, `python` is the path of its interpreter."""

    path: str | None = None
    environment: str | None = None
    installed: Annotated[list[InstalledPackage] | None, ROWS] = None
    kernel_must_restart: bool | None = None
    error: Annotated[ErrorView | None, OBJECT] = None

    @classmethod
    def of(cls, view: RunView) -> InstallView:
        """The view of an installation, or of an earlier one, as the reply of the tool that installs only."""
        return cls(**{name: getattr(view, name, None) for name in cls.model_fields})


class EarlierView(RunView):
    """A run of another server process, as it stands or ended."""

    path: str | None = None
    input_path: str | None = None
    output_path: str | None = None
    cells_total: int | None = None
    cells_done: int | None = None
    runs_total: int | None = None
    runs_done: int | None = None


class ExecutionRow(BaseModel):
    """An execution in a line.

    `cut_off`: its server process ended while it ran. `server_pid`: the process of another server that runs it.
    """

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
    server_pid: int | None = None


class ExecutionList(Result):
    """Executions, the newest first."""

    executions: Annotated[list[ExecutionRow], ROWS]
    note: str | None = None


class RunViewer:
    """Makes the view of a snapshot, within the budget of one reply.

    Args:
        wait: seconds that the next call about a run should wait.
        later: an earlier reply showed the run, so what stays the same need not be shown.
    """

    def __init__(self, workspace: Workspace, budget: OutputBudget, *, wait: float, later: bool) -> None:
        self._workspace = workspace
        self._wait = wait
        self._later = later
        self.budget = budget

    def show(self, run: RunSnapshot) -> RunView:
        """The view of any run. Scales images, so call it in a worker thread unless `shown_at_once`."""
        self.budget.pages = self._later and run.status.final
        with self.budget.pictures as pictures:
            view = view_of(run, self)
            view._images = pictures.images()
        view._new_kernel, view._later = run.new_kernel, self._later
        if not run.status.final:
            limit = f" · a cell may run for {run.cell_limit:g} s" if run.cell_limit else ""
            view.progress = run.progress + limit
            since = f'since="{run.cursor}", ' if run.cursor != Cursor() else ""
            view.next = f'get_execution(execution_id="{run.execution_id}", {since}wait={self._wait:g})'
        return view

    def head(self, run: RunSnapshot) -> dict[str, Any]:
        """The fields that every view has."""
        return {
            "execution_id": run.execution_id,
            "kind": run.kind,
            "status": run.status,
            "kernel_id": run.kernel_id,
            "kernel_name": run.kernel_name,
            "python": run.python,
            "duration": round(run.seconds, 3),
            "cursor": str(run.cursor),
            "notes": list(run.notes) or None,
        }

    def path(self, path: Path | None) -> str:
        """The name of a file for clients."""
        return self._workspace.display_path(path) if path is not None else ""

    def code(self, run: RunSnapshot, cell: CellState, **more: Any) -> CodeView:
        """Code, or one cell of a notebook."""
        view = CodeView(**self.head(run), **more)
        view.duration = round(cell.duration or 0.0, 3)
        view.execution_count = cell.execution_count or None
        label = f"cell {cell_name(view.index, view.id)}" if view.index is not None else ""
        self.budget.way = _way_in(view.path, view.index) if view.path is not None else _way_on(run.execution_id, cell)
        views = show_outputs(_without(cell.error, cell.outputs), self.budget, label=label)
        pages: list[Output] = [{"output_type": "stream", "name": "help", "text": page} for page in cell.pages]
        view.outputs = [*views, *show_outputs(pages, self.budget)] or None
        if cell.dropped_chars:
            view.add_note(f"{cell.dropped_chars:,} characters of its output were not kept, since a cell keeps 10 MiB")
        if cell.omitted_outputs:
            limits = f"{MAX_CELL_OUTPUTS:,}, and 10 MiB"
            view.add_note(f"{cell.omitted_outputs:,} of its outputs were not kept, since a cell keeps {limits}")
        if cell.error is not None:
            view.error = show_error(_error_of(cell.error), self.budget)
        return view

    def fill(self, view: CellsView, cells: CellsState) -> None:
        """Put the cells of a run into its view."""
        view.counts = dict(cells.counts)
        view.cells_total, view.cells_failed = cells.total, cells.failed
        view.cells_done = cells.total - cells.counts.get("skipped", 0) - cells.counts.get("not_run", 0)
        view.results, unlisted = [], []
        path = str(getattr(view, "output_path", None) or getattr(view, "path", ""))
        room = _ROWS_CHARS
        for cell in cells.rows:
            shows = cell.status != RunStatus.OK or bool(cell.outputs)
            if room <= 0 and shows:
                unlisted.append(cell)
                continue
            row = self._row(cell, path)
            view.results.append(row)
            room -= _cost(row) if shows else 0
        if unlisted:
            view.add_note(_unlisted(unlisted, path))
        if cells.left_out:
            count = cells.left_out + sum(cell.status.final for cell in cells.rows)
            call = (
                f'read_notebook(path={json.dumps(path, ensure_ascii=False)}, cells="0-", outputs="full")'
                if path
                else ""
            )
            named = f": {call} shows them" if path else ""
            view.add_note(f"the first {cells.left_out} of {count} cells are not listed here{named}")
        failed = cells.failed_cell
        if failed is not None and failed.index is not None:
            view.failed_cell = FailedCell(
                index=failed.index,
                id=failed.cell_id,
                source=failed.source[:2000],
                error=show_error(_error_of(failed.error), self.budget) if failed.error else None,
            )
        recorded, _ = _fitted(short_values(cells.recorded or {}), max(self.budget.chars, _VALUE_CHARS))
        view.result = _recorded_view(recorded)

    def _row(self, cell: CellState, path: str) -> CellResult:
        budget = self.budget
        budget.way = _way_in(path, cell.index)
        budget_left = budget.chars
        budget.chars = min(budget_left, _CELL_CHARS)
        granted = budget.chars
        views = show_outputs(
            [output for output in _without(cell.error, cell.outputs) if not only_records(output)],
            budget,
            label=f"cell {cell_name(cell.index or 0, cell.cell_id)}",
        )
        budget.chars = budget_left - (granted - budget.chars)
        # The cell that ended the run is shown in full as `failed_cell`.
        brief = ErrorView(ename=cell.error.ename, evalue=cell.error.evalue[:300], traceback="") if cell.error else None
        return CellResult(
            index=cell.index or 0,
            id=cell.cell_id,
            status=cell.status,
            execution_count=cell.execution_count,
            duration=round(cell.duration, 3) if cell.duration is not None else None,
            outputs=views or None,
            error=brief,
        )

    def batch_row(self, row: RowState, *, with_notebook: bool, with_kernel: bool) -> RunRow:
        """One run of a batch."""
        return RunRow(
            run=row.number,
            status=row.status,
            kernel_name=row.kernel_name if with_kernel else None,
            parameters=dict(row.parameters),
            duration=round(row.duration, 3) if row.duration is not None else None,
            input_path=self.path(row.file) if with_notebook else None,
            output_path=row.output_url or self.path(row.output_file),
            kept=row.kept or None,
            progress=row.progress,
            failed_cell=row.failed_cell,
            error=row.error,
            result=_recorded_view(row.recorded or {}),
            notes=list(row.notes) or None,
        )


@singledispatch
def view_of(run: Any, viewer: RunViewer) -> RunView:
    """The view of a run of any kind. Kinds register theirs here."""
    raise NotImplementedError(f"no view of {type(run).__name__}")


@view_of.register
def _(run: CellSnapshot, viewer: RunViewer) -> RunView:
    return viewer.code(run, run.cell)


@view_of.register
def _(run: NotebookSnapshot, viewer: RunViewer) -> RunView:
    only = run.cells.only
    if only is not None:
        return viewer.code(
            run, only, path=viewer.path(run.file), revision=run.revision, index=only.index, id=only.cell_id
        )
    view = NotebookRunView(**viewer.head(run), path=viewer.path(run.file), revision=run.revision)
    viewer.fill(view, run.cells)
    return view


@view_of.register
def _(run: PapermillSnapshot, viewer: RunViewer) -> RunView:
    view = PapermillRunView(
        **viewer.head(run),
        input_path=viewer.path(run.file),
        output_path=viewer.path(run.output_file),
        revision=run.revision,
        parameters=dict(run.parameters) or None,
    )
    if run.cells is not None:
        viewer.fill(view, run.cells)  # its calls name the file, which can be read
    view.output_path = run.output_url or view.output_path
    return view


@view_of.register
def _(run: BatchSnapshot, viewer: RunViewer) -> RunView:
    view = BatchRunView(
        **viewer.head(run),
        input_path=None if run.several_notebooks else viewer.path(run.file),
        runs_total=run.total or 0,
        runs_done=run.done or 0,
        runs_failed=run.failed,
        runs=[
            viewer.batch_row(row, with_notebook=run.several_notebooks, with_kernel=run.kernel_name is None)
            for row in run.rows
        ],
    )
    view.results = run.table_url or viewer.path(run.output_file) or None
    view.report = run.report_url or viewer.path(run.report) or None
    view.failures = failure_groups(run.errors) or None
    view.numbers = number_spans(run.numbers) or None
    view.by_parameter = numbers_by_parameter(run.over) if run.numbers else None
    view.fit(viewer.budget.chars)
    if run.left_out or run.more_rows:
        which = run.more_rows or f"0-{min(run.total or 1, _PAGE) - 1}"
        more = f"{count_noun(run.left_out, 'more run')} ended: " if run.left_out else "more of them: "
        view.add_note(
            f'{more}get_execution(execution_id="{run.execution_id}", runs="{which}"), or the table of results'
        )
    return view


@view_of.register
def _(run: InstallSnapshot, viewer: RunViewer) -> RunView:
    view = InstallView(
        **viewer.head(run),
        path=viewer.path(run.file) or None,
        environment=run.environment,
        installed=[InstalledPackage(**vars(one)) for one in run.packages[:_PACKAGES]] or None,
        kernel_must_restart=run.must_restart,
        error=show_error(_error_of(run.error), viewer.budget) if run.error is not None else None,
    )
    if len(run.packages) > _PACKAGES:
        view.add_note(f"{len(run.packages) - _PACKAGES} more packages changed")
    return view


def row_of(record: ExecutionRecord, workspace: Workspace) -> ExecutionRow:
    """A record of the store as a row."""
    return ExecutionRow(
        execution_id=record.execution_id,
        kind=record.kind,
        status="aborted" if record.cut_off else record.status,
        started_at=iso_time(datetime.fromtimestamp(record.started_at, UTC)),
        duration=record.duration,
        path=workspace.display_path(Path(record.path)) if record.path else None,
        output_path=workspace.display_path(Path(record.output_path)) if record.output_path else None,
        cells_done=record.cells_done,
        cells_total=record.cells_total,
        at_cell=record.failed_cell,
        cut_off=record.cut_off or None,
        server_pid=record.server_pid if record.goes_on and record.server_pid != os.getpid() else None,
    )


def earlier_view(row: ExecutionRow) -> EarlierView:
    """The record of a run of another server process."""
    where = row.output_path or row.path
    batch = row.kind == BatchSnapshot.kind
    place = "before its first cell" if row.at_cell is None else f"at cell {row.at_cell}"
    notes = ["it ran in another server process" + ("" if batch else ", so its outputs are not kept here")]
    if row.server_pid is not None:
        notes = [
            f"another server (process {row.server_pid}) is running it, so its outputs are not shown here; only that "
            "server can cancel it"
        ]
    elif row.cut_off and batch:
        notes = [
            f"it was cut off: its server process ended after {row.cells_done or 0} of {row.cells_total or 'its'} runs; "
            "execute_notebook_batch with the same arguments, and a new idempotency_key if it had one, keeps those that "
            "are complete and runs the others"
        ]
    elif row.cut_off and row.kind == InstallSnapshot.kind:
        notes = ["it was cut off: its server process ended while it installed; the same call completes it"]
    elif row.cut_off:
        notes = [f"it was cut off: its server process ended {place}"]
    if where and not batch:
        notes.append(f"its saved results are in {where}")
    return EarlierView(
        execution_id=row.execution_id,
        kind=row.kind,
        status=row.status,
        duration=row.duration,
        cursor="0.0.0",
        path=row.path if row.output_path is None else None,
        input_path=row.path if row.output_path is not None else None,
        output_path=row.output_path,
        cells_total=None if batch else row.cells_total,
        cells_done=None if batch else row.cells_done,
        runs_total=row.cells_total if batch else None,
        runs_done=row.cells_done if batch else None,
        notes=notes,
    )


def earlier_batch(
    record: ExecutionRecord, rows: Sequence[Mapping[str, Any]], workspace: Workspace, selection: str | None
) -> BatchRunView:
    """A batch of another server process, as its table of results has it.

    Args:
        rows: of the table, by run.
        selection: the runs to show, as `BatchRun.page` takes it. Without one, failed ones come first.

    Raises:
        InvalidArgumentError: it is none.
    """
    over = sum(str(row.get("status")) not in (RunStatus.ABORTED, RunStatus.NOT_RUN) for row in rows)
    record = replace(record, cells_done=max(over, record.cells_done or 0))  # the record may be a second older
    view = earlier_view(row_of(record, workspace))
    if view.status == RunStatus.INTERRUPTED:
        view.add_note("the same request keeps the runs that are complete and runs the others")
    failed = [row for row in rows if _failure_of(row)]
    shown = sorted(rows, key=lambda row: not _failure_of(row))[:_EARLIER_ROWS]
    if selection is not None:
        span = positions(selection)
        if span is not None:
            shown = [row for row in rows if row["run"] in span]
        else:
            shown = failed if selection == "failed" else []
    elif len(shown) < len(rows):
        left = count_noun(len(rows) - len(shown), "more run")
        page = f"0-{min(max(row['run'] for row in rows), _PAGE - 1)}"
        view.add_note(
            f'{left}: get_execution(execution_id="{view.execution_id}", runs="{page}"), or the table of results'
        )
    return BatchRunView(
        **view.model_dump(include={"execution_id", "kind", "status", "duration", "input_path", "notes"}),
        cursor=str(Cursor(len(rows), int(not record.goes_on))),
        runs_total=view.runs_total,
        runs_done=view.runs_done,
        runs_failed=len(failed),
        results=workspace.display_path(Path(record.output_path)) if record.output_path else None,
        failures=failure_groups((row["run"], _failure_of(row)) for row in failed) or None,
        numbers=number_spans((row["run"], _values(row, tables.RESULT)) for row in rows) or None,
        by_parameter=numbers_by_parameter(earlier_states(rows)) if selection is None else None,
        runs=[_earlier_row(row, workspace) for row in shown],
    )


def earlier_states(rows: Sequence[Mapping[str, Any]]) -> list[RowState]:
    """The rows of a table of results as the states of their runs."""
    return [
        RowState(
            number=row["run"],
            status=RunStatus(status) if (status := str(row.get("status"))) in {*RunStatus} else RunStatus.ABORTED,
            kernel_name="",
            parameters=_values(row, tables.PARAMETER),
            file=Path(str(row.get("input"))),
            output_file=Path(str(row.get("output"))),
            duration=row.get("duration"),
            failed=bool(_failure_of(row)),
            failed_cell=row.get("failed_cell"),
            error=_failure_of(row) or None,
            recorded=_values(row, tables.RESULT),
        )
        for row in rows
    ]


def _earlier_row(row: Mapping[str, Any], workspace: Workspace) -> RunRow:
    return RunRow(
        run=row["run"],
        status=str(row.get("status")),
        parameters=_values(row, tables.PARAMETER),
        duration=row.get("duration"),
        output_path=output if "://" in (output := str(row.get("output"))) else workspace.display_path(Path(output)),
        failed_cell=row.get("failed_cell"),
        error=_failure_of(row) or None,
        result=_recorded_view(_values(row, tables.RESULT)),
        notes=[str(row["earlier_errors"])] if row.get("earlier_errors") else None,
    )


def _failure_of(row: Mapping[str, Any]) -> str:
    return ": ".join(str(row[name]) for name in ("error", "message") if row.get(name))


def _values(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def _way_in(path: str, index: int | None) -> Way:
    """The call that shows the rest of an output which the run has saved."""

    def way(place: int, shown: int | None) -> str:
        named = f'path={json.dumps(path, ensure_ascii=False)}, cells="{index}", first_output={place}'
        chars = f", max_chars={_WAY_CHARS}" if shown is not None else ""
        return f"read_notebook({named}{chars})"

    return way


def _way_on(execution_id: str, cell: CellState) -> Way:
    """The call that shows the rest of an output of code: what stands behind a cursor."""

    def way(place: int, shown: int | None) -> str:
        before = cell.outputs_before + place
        seen = (shown or 0) + (cell.chars_before if place == 0 else 0)
        since = Cursor(0, before + 1, seen) if shown else Cursor(0, before, _ALL_CHARS if before else 0)
        return f'get_execution(execution_id="{execution_id}", since="{since}")'

    return way


def _cost(row: CellResult) -> int:
    """Characters of the lines of a cell, about."""
    notes = sum(_VIEW_CHARS + len(view.note or "") for view in row.outputs or [])
    return _ROW_CHARS + notes + (len(row.error.evalue) if row.error is not None else 0)


def _unlisted(cells: Sequence[CellState], path: str) -> str:
    """A sentence about the cells that a reply has no room for."""
    counts = ", ".join(f"{number} {status}" for status, number in Counter(cell.status for cell in cells).items())
    which = ranges([cell.index for cell in cells if cell.index is not None])
    which = which if len(which) <= _RANGES_CHARS else which[:_RANGES_CHARS].rpartition(",")[0]
    return (
        f"{count_noun(len(cells), 'more cell')} not listed here ({counts}): "
        f'read_notebook with path={path}, cells="{which}" and outputs="full" shows them'
    )


def shown_at_once(run: RunSnapshot) -> bool:
    """Whether showing takes less than handing it to a thread: code with little output, all of it text."""
    if not isinstance(run, CellSnapshot):
        return False
    outputs = run.cell.outputs
    return len(outputs) < 20 and all(
        len(str(output.get("text", ""))) < 20_000
        and all(
            name in WRITTEN and isinstance(value, str) and len(value) < 20_000
            for name, value in (output.get("data") or {}).items()
        )
        for output in outputs
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _fitted(values: Mapping[str, Any], chars: int) -> tuple[dict[str, Any], int]:
    """Values with those cut for which there is no room, and the room that is left. Short ones always stay."""
    fitted = {}
    for name, value in values.items():
        text = _json(value)
        if len(text) > max(chars, _CUT_CHARS):
            value = f"{text[:_CUT_CHARS]}… ({len(text)} characters)"
        fitted[name] = value
        chars -= len(name) + min(len(text), max(chars, _CUT_CHARS))
    return fitted, max(chars, 0)


def short_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded values, large ones cut: the output has them whole."""
    short = {}
    for name, value in values.items():
        text = _json(value)
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


def _error_of(error: CellError) -> dict[str, Any]:
    return {"ename": error.ename, "evalue": error.evalue, "traceback": error.traceback}
