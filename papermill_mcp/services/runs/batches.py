"""Begins batches: which runs there are, the name of each output, and which need not be run again.

The name of an output is made of the notebook's bytes and the parameters. So a batch that was cut off is taken up by the
same request: complete outputs are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.outputs import recorded_values
from papermill_mcp.core.papermill.metadata import COMPLETED, ERROR_MARKER_TAG, completed_run, of_cell
from papermill_mcp.errors import InvalidArgumentError, InvalidParametersError, ServerError, listed
from papermill_mcp.services.runs.backends import DaskBackend, LocalBackend
from papermill_mcp.services.runs.batch import Backend, BatchRow, BatchRun
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.papermill_run import Bench, PapermillPlan
from papermill_mcp.services.runs.requests import BatchRequest, PapermillRequest
from papermill_mcp.services.runs.run_pictures import RunPictures
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.workspace import Workspace, short_stem
from papermill_mcp.utils.file_utils import read_file
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.text_utils import count_noun

if TYPE_CHECKING:
    from papermill_mcp.core.papermill import output as papermill_output
    from papermill_mcp.core.papermill import parameter_file, parameter_sets
    from papermill_mcp.core.runs import notebook_run
    from papermill_mcp.core.runs import table as tables
    from papermill_mcp.core.runs.notebook_run import RunSummary
    from papermill_mcp.services.runs import batch_report
else:
    batch_report = lazy("papermill_mcp.services.runs.batch_report")
    tables = lazy("papermill_mcp.core.runs.table")
    papermill_output = lazy("papermill_mcp.core.papermill.output")
    parameter_file = lazy("papermill_mcp.core.papermill.parameter_file")
    parameter_sets = lazy("papermill_mcp.core.papermill.parameter_sets")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")

#: Runs of one batch, at most.
MAX_RUNS = 1000

#: Metadata of cells that runs write, or front ends with them.
_OF_RUNS = frozenset(("papermill", "execution", "collapsed", "scrolled", "ExecuteTime"))

#: Faults of parameters that are said at once.
_MAX_FAULTS = 10

#: Bytes of a file of parameters.
MAX_FILE_BYTES = 50_000_000

#: Characters of the digest in the name of an output.
_DIGEST_CHARS = 12


class BatchStarter:
    """Prepares batches. The registry starts and follows them.

    Args:
        memory: a private directory for `ResultsTable`.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        bench: Bench,
        runs: RunStarter,
        journal: Journal,
        pictures: RunPictures,
        *,
        memory: Path | None = None,
    ) -> None:
        self._pictures = pictures
        self._memory = memory
        self._config = config
        self._workspace = workspace
        self._bench = bench
        self._runs = runs
        self._journal = journal

    async def batch(self, request: BatchRequest) -> BatchRun:
        """Run every notebook with every set of parameters, each into an output of its own.

        Everything is checked before the first run begins. A run that fails does not stop the others.

        Raises:
            InvalidArgumentError: the arguments do not determine the runs, or two runs are the same.
            InvalidParametersError: the parameters of a run do not fit; the message names the run.
            BusyError: another run writes to one of the outputs.
        """
        await imported(parameter_sets)
        found = await asyncio.to_thread(
            parameter_sets.parameter_sets,
            await self._listed(request.parameters),
            request.grid,
            sample=request.sample,
            seed=request.seed,
            most=MAX_RUNS,
        )
        sets = found.sets
        paths = _paths(request.input_path, request.input_paths)
        if len(paths) * len(sets) > MAX_RUNS:
            raise InvalidArgumentError(
                f"{len(paths)} notebooks with {len(sets)} sets of parameters make {len(paths) * len(sets):,} runs",
                allowed=f"a batch has at most {MAX_RUNS:,}",
                state="nothing was run",
                advice="make several batches of it",
            )
        rows = self._rows(await self._planned(request, paths, sets), request.output_directory)
        backend: Backend = LocalBackend(self._config, self._bench)
        await imported(batch_report)
        changed = [name for row in rows if (name := await self._place(row, resume=request.resume)) is not None]
        kept = sum(row.kept for row in rows)
        if self._config.dask_scheduler is not None and kept < len(rows):
            backend = await self._cluster([row for row in rows if not row.kept])
        batch = BatchRun(
            request,
            rows,
            backend,
            self._bench.claims,
            self._journal,
            table=_table(rows, request, self._memory),
            reports=batch_report.BatchReports(self._config, self._pictures),
        )
        try:
            await self._bench.claims.take([row.output for row in rows], batch.execution_id)
        except BaseException:
            await backend.aclose()
            raise
        if kept:
            batch.notes.insert(
                0, f"{kept} of {len(rows)} runs were complete already and are kept; resume=false runs them again"
            )
        if changed:
            batch.notes.append(
                f"{count_noun(len(changed), 'output')} changed since an earlier run stays as it is, and its run has "
                f"another one: {listed(changed, limit=5)}"
            )
        batch.notes += filter(None, [found.note])
        batch.notes += dict.fromkeys(warning for row in rows for warning in row.plan.warnings)
        return batch

    async def _listed(self, parameters: Sequence[dict[str, Any]] | str | None) -> Sequence[dict[str, Any]] | None:
        """The sets of parameters that were given, as a list, as JSON or as the name of a file.

        Raises:
            InvalidArgumentError: they are none.
            NotFoundError, PathNotAllowedError, TooLargeError: the file cannot be read.
        """
        if not isinstance(parameters, str):
            return parameters
        await imported(parameter_file)
        if parameters.lstrip()[:1] in ("[", "{"):
            return await asyncio.to_thread(parameter_file.sets_in, parameters.encode(), ".json", "parameters")
        real = self._workspace.real_path(parameters)
        if real.suffix.lower() not in parameter_file.SUFFIXES:
            raise InvalidArgumentError(
                f"parameters names {parameters[:200]!r}, which is no file of parameters",
                allowed=f"its name ends in {listed(parameter_file.SUFFIXES)}",
                state="nothing was run",
                advice="or give the parameters themselves, as a list of objects",
            )
        shown = self._workspace.display_path(real)

        def read() -> Sequence[dict[str, Any]]:
            content = read_file(real, max_bytes=MAX_FILE_BYTES, display_path=shown)
            return parameter_file.sets_in(content.data, real.suffix.lower(), shown)

        return await asyncio.to_thread(read)

    async def _cluster(self, rows: Sequence[BatchRow]) -> DaskBackend:
        """The Dask cluster, whose workers can do the runs."""
        backend = await DaskBackend.connect(self._config, self._bench)
        try:
            await backend.check(rows)
        except BaseException:
            await backend.aclose()
            raise
        return backend

    async def _planned(
        self, request: BatchRequest, paths: Sequence[str], sets: Sequence[dict[str, Any]]
    ) -> list[tuple[PapermillRequest, PapermillPlan]]:
        plans: list[tuple[PapermillRequest, PapermillPlan]] = []
        faults: list[tuple[str, InvalidParametersError]] = []
        from_file = isinstance(request.parameters, str)
        for path in paths:
            notebook = await self._runs.input(path)
            for values in sets:
                one = PapermillRequest(
                    input_path=path,
                    parameters=values,
                    timeout=request.timeout,
                    continue_on_error=request.continue_on_error,
                    strict_parameters=request.strict_parameters,
                    kernel_name=request.kernel_name,
                    python=request.python,
                    language=request.language,
                    report_mode=request.report_mode,
                    overwrite=True,
                )
                row = values if from_file and isinstance(values, parameter_file.TextSet) else None
                try:
                    plan = await self._runs.plan(notebook, one, columns=None if row is None else row.columns)
                except InvalidParametersError as error:
                    if len(paths) * len(sets) == 1:
                        raise
                    line = f" (line {row.line})" if row is not None else ""
                    faults.append((f"run {len(plans) + len(faults)}{line}", error))
                    if len(faults) == _MAX_FAULTS:
                        raise _all_of(faults, notebook.display_path) from error
                except ServerError as error:
                    if len(paths) * len(sets) == 1:
                        raise
                    place = f"run {len(plans) + len(faults)} of the batch, {notebook.display_path}"
                    raise error.within(place) from error
                else:
                    plans.append((one.model_copy(update={"parameters": dict(plan.task.parameters)}), plan))
            if faults:
                raise _all_of(faults, notebook.display_path) from faults[0][1]
        return plans

    def _rows(
        self, plans: Sequence[tuple[PapermillRequest, PapermillPlan]], output_directory: str | None
    ) -> list[BatchRow]:
        rows: list[BatchRow] = []
        by_output: dict[Path, int] = {}
        for number, (request, plan) in enumerate(plans):
            default = f"{self._config.output_directory}/{short_stem(plan.notebook.path)}-batch"
            output = self._workspace.directory(output_directory or default, create=True) / _output_name(plan)
            other = by_output.setdefault(output, number)
            if other != number:
                raise InvalidArgumentError(
                    f"runs {other} and {number} are the same: {plan.notebook.display_path} with "
                    f"{_short(plan.task.parameters)}",
                    state="nothing was run",
                    advice="give each run once; to repeat a run, add a parameter that numbers the repetition",
                )
            rows.append(BatchRow(number, request, plan, output))
        return rows

    async def _place(self, row: BatchRow, *, resume: bool) -> str | None:
        """Count a run as done if its output is there from an earlier batch, and complete.

        An output that was changed since is left as it is: the run gets another one.

        Returns:
            The name of a changed output.
        """
        first = row.output
        for number in itertools.count(2):
            if not await asyncio.to_thread(row.output.exists):
                break
            try:
                async with self._bench.notebooks.opened(self._workspace.display_path(row.output)) as (notebook, work):
                    changed, summary = await work.run(partial(_looked_at, notebook.document, row))
            except ServerError:
                break  # if something else is in its place, the run says so
            if resume and summary is not None:
                row.keep(summary)
                break
            if not changed:
                break
            row.output = first.with_name(f"{first.stem}-{number}.ipynb")
        return first.name if row.output != first and not row.kept else None


def _table(rows: Sequence[BatchRow], request: BatchRequest, memory: Path | None) -> tables.ResultsTable:
    """The table of a batch, in the directory that holds all of its outputs."""
    directory = os.path.commonpath([row.output.parent for row in rows])
    return tables.ResultsTable(Path(directory), request.execution_id, memory)


def _all_of(faults: Sequence[tuple[str, InvalidParametersError]], notebook: str) -> InvalidParametersError:
    """One error for the parameters of several runs of a notebook."""
    place, first = faults[0]
    if len(faults) == 1:
        return first.within(f"{place} of the batch, {notebook}")
    return InvalidParametersError(
        f"the parameters of {len(faults)} runs do not fit {notebook}: "
        + "; ".join(f"{place}: {error.problem}" for place, error in faults),
        state="nothing was run",
        advice="correct them, or pass strict_parameters=false to inject them all the same",
    )


def _paths(input_path: str | None, input_paths: Sequence[str] | None) -> list[str]:
    if (input_path is None) == (not input_paths):
        raise InvalidArgumentError("give exactly one of input_path and input_paths", state="nothing was run")
    return [input_path] if input_path is not None else list(input_paths or [])


def _output_name(plan: PapermillPlan) -> str:
    """A name that is the same for the same notebook, parameters and kernel, and for nothing else."""
    task = plan.task
    facts = [plan.notebook.display_path, plan.notebook.revision, task.parameters, task.kernel_name, task.language]
    if task.environment is not None:
        facts.append(str(task.environment.python))
    if task.report_mode:
        facts.append("report")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{short_stem(plan.notebook.path)}-{digest}.ipynb"


def _looked_at(document: NotebookDocument, row: BatchRow) -> tuple[bool, RunSummary | None]:
    """Whether the cells of an output are others than its run made, and its summary if it is complete.

    Cells of text that were added do not make it incomplete.
    """
    wanted = papermill_output.prepare(row.plan.notebook.document, row.plan.into(row.output)).document.cells
    found = [cell for cell in document.cells if ERROR_MARKER_TAG not in cell.tags]
    changed = list(map(_as_made, found)) != list(map(_as_made, wanted))
    code, wanted_code = ([_as_made(cell) for cell in cells if cell.cell_type == "code"] for cells in (found, wanted))
    return changed, _completed(document, row.plan.task.parameters) if code == wanted_code else None


def _as_made(cell: NotebookCell) -> tuple[str | None, str, dict[str, Any]]:
    """A cell as a run leaves it, without the run's own traces."""
    metadata = {name: value for name, value in cell.metadata.items() if name not in _OF_RUNS}
    return cell.cell_type, cell.source, metadata


def _completed(document: NotebookDocument, values: Mapping[str, Any]) -> RunSummary | None:
    if completed_run(document) != values or any(map(_is_cleared, document.cells)):
        return None
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = notebook_run.last_text(reversed(outputs))
    return notebook_run.RunSummary(len(cells), len(cells), None, None, recorded_values(outputs), text=text)


def _is_cleared(cell: NotebookCell) -> bool:
    """Whether a cell that ran has lost its result since."""
    ran = cell.cell_type == "code" and bool(cell.source.strip()) and of_cell(cell).get("status") == COMPLETED
    return ran and cell.member("execution_count") is None and notebook_run.SKIP_TAG not in cell.tags


def _short(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
