"""Batches: one notebook with many parameters, or many notebooks, as one execution.

Decides which runs there are, what each output is called, and which need not be run again. The name of an output is
made of the notebook's bytes and the parameters, so a batch that was cut off is taken up by the same request: outputs
that are complete are kept. The runs go on in this process, a few at a time, or on a Dask cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.config import Config
from papermill_mcp.core.document import NotebookDocument
from papermill_mcp.core.outputs import recorded_values
from papermill_mcp.errors import BusyError, InvalidArgumentError, LimitReachedError, ServerError
from papermill_mcp.services.batch import Batch, BatchRun
from papermill_mcp.services.execution_service import Execution, ExecutionService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.run_service import PapermillPlan, RunService
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.import_lock import IMPORTING

if TYPE_CHECKING:
    from papermill_mcp.core.cluster import Cluster
    from papermill_mcp.core.notebook_run import RunSummary

logger = logging.getLogger(__name__)

#: Runs of one batch, at most.
MAX_RUNS = 1000

#: Seconds between two tries to start a kernel while as many live as may.
_ROOM_INTERVAL = 0.5

#: Seconds a Dask scheduler gets to answer.
_CONNECT_SECONDS = 10.0

#: Characters of the digest in the name of an output.
_DIGEST_CHARS = 12


@dataclass(frozen=True)
class _Options:
    """What is the same for all runs of a batch."""

    timeout: float | None
    continue_on_error: bool | None
    parallel: int


class BatchService:
    """Begins batches. `ExecutionService.follow` waits for them."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        notebooks: NotebookService,
        runs: RunService,
        executions: ExecutionService,
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._notebooks = notebooks
        self._runs = runs
        self._executions = executions
        self._outputs: dict[Path, str] = {}  # of batches that go on, with the execution that makes each

    async def execute(
        self,
        input_path: str | None,
        *,
        input_paths: Sequence[str] | None = None,
        parameters: Sequence[Mapping[str, Any]] | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
        output_directory: str | None = None,
        max_parallel: int | None = None,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        strict_parameters: bool = True,
        resume: bool = True,
    ) -> Execution:
        """Run every notebook with every set of parameters, each into an output of its own.

        Everything is checked before the first run begins. A run that fails does not stop the others.

        Args:
            grid: lists of values; each combination of them is a run.
            resume: keep outputs of an earlier, equal batch that are complete, instead of running them again.

        Raises:
            InvalidArgumentError: the runs cannot be told from the arguments, or two of them are the same.
            InvalidParametersError: the parameters of a run do not fit; the message says of which.
            BusyError: another batch is making one of the outputs.
        """
        sets = _parameter_sets(parameters, grid)
        paths = _paths(input_path, input_paths)
        if len(paths) * len(sets) > MAX_RUNS:
            raise InvalidArgumentError(
                f"{len(paths)} notebooks with {len(sets)} sets of parameters make {len(paths) * len(sets):,} runs",
                allowed=f"a batch has at most {MAX_RUNS:,}",
                state="nothing was run",
                advice="make several batches of it",
            )
        batch = self._batch(await self._planned(paths, sets, strict_parameters), output_directory)
        execution = Execution("batch", batch=batch, file=batch.runs[0].plan.notebook.path)
        if len(paths) == 1:
            execution.input_path = batch.runs[0].plan.notebook.shown
        self._claim(batch, execution)
        try:
            if resume:
                for run in batch.runs:
                    await self._keep_if_complete(batch, run)
            if self._config.dask_scheduler is not None and not batch.over:
                batch.cluster = await _connected(self._config.dask_scheduler, self._config.jupyter_timeout)
        except BaseException:
            self._release(batch)
            raise
        if batch.ended:
            execution.notes.append(
                f"{len(batch.ended)} of {len(batch.runs)} runs were complete already and are kept; resume=false runs "
                "them again"
            )
        execution.notes += dict.fromkeys(note for run in batch.runs for note in run.plan.warnings)
        if batch.cluster is not None:
            execution.notes.append(_place(batch.cluster))
            parallel = max_parallel or len(batch.runs)  # the cluster has as many under way as it has room for
        else:
            parallel = max_parallel or min(os.cpu_count() or 1, self._config.max_kernels)
        options = _Options(timeout, continue_on_error, min(parallel, len(batch.runs)))
        self._executions.begin(execution, self._work(execution, batch, options))
        return execution

    async def _planned(self, paths: Sequence[str], sets: Sequence[dict[str, Any]], strict: bool) -> list[PapermillPlan]:
        plans: list[PapermillPlan] = []
        for path in paths:
            notebook = await self._notebooks.open(path)
            for values in sets:
                try:
                    plans.append(await self._runs.plan(notebook, values, strict=strict))
                except ServerError as error:
                    if len(paths) * len(sets) == 1:
                        raise
                    what = str(error).partition(": ")[2]
                    raise type(error)(f"run {len(plans)} of the batch, {notebook.shown}: {what}") from error
        return plans

    def _batch(self, plans: Sequence[PapermillPlan], output_directory: str | None) -> Batch:
        runs: list[BatchRun] = []
        by_output: dict[Path, int] = {}
        for number, plan in enumerate(plans):
            default = f"{self._config.output_directory}/{plan.notebook.path.stem}-batch"
            output = self._workspace.directory(output_directory or default, create=True) / _output_name(plan)
            other = by_output.setdefault(output, number)
            if other != number:
                raise InvalidArgumentError(
                    f"runs {other} and {number} are the same: {plan.notebook.shown} with {_short(plan.values)}",
                    state="nothing was run",
                    advice="give each run once; to repeat a run, add a parameter that numbers the repetition",
                )
            runs.append(BatchRun(number, plan, output, self._workspace.shown(output)))
        return Batch(runs)

    def _claim(self, batch: Batch, execution: Execution) -> None:
        for run in batch.runs:
            other = self._outputs.get(run.output)
            if other is not None:
                raise BusyError(
                    f"batch {other} is making {run.output_shown}",
                    state="nothing was started",
                    advice="wait for it with get_execution, or end it with cancel_execution",
                )
        self._outputs |= {run.output: execution.execution_id for run in batch.runs}

    def _release(self, batch: Batch) -> None:
        for run in batch.runs:
            self._outputs.pop(run.output, None)

    async def _keep_if_complete(self, batch: Batch, run: BatchRun) -> None:
        """Count a run as done if its output is there from an earlier batch, and complete."""
        if not await asyncio.to_thread(run.output.exists):
            return
        try:
            notebook = await self._notebooks.open(run.output_shown)
        except ServerError:
            return  # it is run again; if something else is in its place, that run says so
        summary = await asyncio.to_thread(_completed, notebook.document, run.plan.values)
        if summary is not None:
            run.take(summary, [])
            run.kept = True
            batch.end(run, "ok")

    async def _work(self, execution: Execution, batch: Batch, options: _Options) -> None:
        waiting = iter([run for run in batch.runs if not run.over])
        turns = [
            asyncio.create_task(self._take_turns(execution, batch, waiting, options)) for _ in range(options.parallel)
        ]
        try:
            await asyncio.wait(turns)
        except asyncio.CancelledError:
            batch.cancelled = True  # the server is closed: each run saves what it has
            for turn in turns:
                turn.cancel()
            await asyncio.wait(turns)
        finally:
            batch.settle()
            if batch.cluster is not None:
                await batch.cluster.aclose()
            if batch.cancelled:
                execution.notes.append(
                    f"{batch.done} of {len(batch.runs)} runs had begun; the same request keeps those that are complete "
                    "and runs the others"
                )
            self._release(batch)
            execution.finish(batch.status)

    async def _take_turns(
        self, execution: Execution, batch: Batch, waiting: Iterator[BatchRun], options: _Options
    ) -> None:
        for run in waiting:
            if batch.cancelled:
                return
            status = "error"
            try:
                if batch.cluster is None:
                    status = await self._run_here(execution, batch, run, options)
                else:
                    status = await self._run_there(execution, batch.cluster, batch, run, options)
            except ServerError as error:
                run.error = str(error)
            except asyncio.CancelledError:
                status = "interrupted"
                raise
            except Exception:
                logger.exception("a run of a batch failed in the server", extra={"path": run.output_shown})
                run.error = "the server failed while it ran this; its log has the details"
            finally:
                batch.end(run, status)
                self._executions.on_change(execution)

    async def _run_here(self, execution: Execution, batch: Batch, run: BatchRun, options: _Options) -> str:
        """Run it in a kernel of this server. Returns its status."""
        batch.begin(run)
        deadline = time.monotonic() + self._config.jupyter_timeout
        while True:
            try:
                started, work = await self._runs.start_papermill(
                    run.plan,
                    run.output,
                    timeout=options.timeout,
                    continue_on_error=options.continue_on_error,
                    overwrite=True,
                    on_change=lambda: self._executions.on_change(execution),
                )
                break
            except LimitReachedError:
                # Other kernels of the server take all places. One of them may end.
                if batch.cancelled:
                    return "aborted"
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_ROOM_INTERVAL)
        run.execution = started
        if batch.cancelled and started.run is not None:
            await started.run.cancel()
        await work
        assert started.papermill is not None
        run.take(started.papermill.summary(), started.papermill.notes)
        return started.status

    async def _run_there(
        self, execution: Execution, cluster: Cluster, batch: Batch, run: BatchRun, options: _Options
    ) -> str:
        """Run it on the cluster, and put the output in place. Returns its status."""
        from papermill_mcp.core.cluster import ClusterTask  # noqa: PLC0415 - imported when it was connected

        plan = run.plan
        assert plan.notebook.content is not None
        task = ClusterTask(
            key=f"{execution.execution_id}-{run.number}",
            notebook=plan.notebook.content.data,
            parameters=plan.values,
            kernel_name=plan.kernel_name,
            language=plan.language,
            input_path=str(plan.notebook.path),
            output_path=str(run.output),
            shown=plan.notebook.shown,
            timeout_seconds=self._runs.timeout_seconds(options.timeout),
            continue_on_error=self._runs.continues(options.continue_on_error),
            report_mode=False,
            start_timeout_seconds=self._config.jupyter_timeout,
            denied_env=tuple(self._config.kernel_env_deny),
        )
        told = Execution("papermill", input_path=plan.notebook.shown, on_end=self._executions.note_end)
        outcome = await cluster.run(task, on_begin=lambda: batch.begin(run))
        if run.status == "waiting":
            return "aborted"  # it was called off before it began
        if outcome.output is not None:
            document = await asyncio.to_thread(NotebookDocument.parse, outcome.output, shown=run.output_shown)
            # The run is over: its result is not to be lost because somebody gives up now.
            await asyncio.shield(self._notebooks.put(run.output, document, overwrite=True))
        run.take(outcome.summary, outcome.notes)
        told.finish(outcome.status)
        return outcome.status


async def _connected(address: str, timeout_seconds: float) -> Cluster:
    """A connection to the Dask scheduler.

    Raises:
        ServerNotRunningError: none answers there.
    """
    cluster = await asyncio.to_thread(_import_cluster)
    return await cluster.connect(address, timeout_seconds=min(timeout_seconds, _CONNECT_SECONDS))


def _import_cluster() -> type[Cluster]:
    with IMPORTING:
        from papermill_mcp.core.cluster import Cluster  # noqa: PLC0415 - an extra, and a second to import

    return Cluster


def _place(cluster: Cluster) -> str:
    if cluster.workers:
        return f"the runs are on a Dask cluster, {cluster.workers} at a time"
    return "the Dask cluster has no workers yet; the runs begin when one comes"


def _parameter_sets(
    parameters: Sequence[Mapping[str, Any]] | None, grid: Mapping[str, Sequence[Any]] | None
) -> list[dict[str, Any]]:
    if parameters is not None and grid is not None:
        raise InvalidArgumentError("give parameters or grid, not both", state="nothing was run")
    if grid is not None:
        empty = next((name for name, values in grid.items() if not values), None)
        if empty is not None:
            raise InvalidArgumentError(f"grid has no value for {empty[:100]!r}", state="nothing was run")
        if math.prod(len(values) for values in grid.values()) > MAX_RUNS:
            raise InvalidArgumentError(
                f"grid has {math.prod(len(values) for values in grid.values()):,} combinations",
                allowed=f"a batch has at most {MAX_RUNS:,} runs",
                state="nothing was run",
                advice="make several batches of it",
            )
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if parameters is not None and not parameters:
        raise InvalidArgumentError("parameters is an empty list, so there is nothing to run", state="nothing was run")
    return [dict(values) for values in parameters or [{}]]


def _paths(input_path: str | None, input_paths: Sequence[str] | None) -> list[str]:
    if (input_path is None) == (not input_paths):
        raise InvalidArgumentError("give exactly one of input_path and input_paths", state="nothing was run")
    return [input_path] if input_path is not None else list(input_paths or [])


def _output_name(plan: PapermillPlan) -> str:
    """A name that is the same for the same notebook, parameters and kernel, and for nothing else."""
    facts = [plan.notebook.shown, plan.notebook.revision, plan.values, plan.kernel_name, plan.language]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{plan.notebook.path.stem}-{digest}.ipynb"


def _completed(document: NotebookDocument, values: Mapping[str, Any]) -> RunSummary | None:
    from papermill_mcp.core.notebook_run import RunSummary  # noqa: PLC0415 - imported by the plans
    from papermill_mcp.core.papermill_executor import completed_run  # noqa: PLC0415 - the same

    if completed_run(document) != values:
        return None
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    recorded = recorded_values([output for cell in cells for output in cell.outputs])
    return RunSummary(len(cells), len(cells), None, None, recorded)


def _short(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
