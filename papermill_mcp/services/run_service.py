"""Runs: a piece of code, a notebook in place, and a notebook with parameters by papermill.

Decides whether a run may begin, in which kernel and into which file, and what it leaves behind. Waiting for it and
asking about it is the business of `ExecutionService`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.config import Config
from papermill_mcp.core.document import NotebookDocument
from papermill_mcp.core.run_file import RunFile
from papermill_mcp.errors import AlreadyExistsError, BusyError, InvalidArgumentError
from papermill_mcp.services.execution_service import Execution, ExecutionService
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService, OpenNotebook
from papermill_mcp.services.notebook_view import select
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.import_lock import IMPORTING

if TYPE_CHECKING:
    from papermill_mcp.core.execution import CellExecution
    from papermill_mcp.core.kernel import Kernel
    from papermill_mcp.core.notebook_run import NotebookRun
    from papermill_mcp.core.papermill_resume import ResumedObserver
    from papermill_mcp.core.papermill_run import PapermillRun


@dataclass(frozen=True)
class PapermillPlan:
    """A notebook and parameters that fit it.

    Attributes:
        values: the parameters as given.
        language: that of the kernel, for which the values are written.
    """

    notebook: OpenNotebook
    values: dict[str, Any]
    kernel_name: str
    language: str
    warnings: list[str]


class RunService:
    """Begins runs. Each method returns the execution as soon as it goes on; `ExecutionService.follow` waits for it."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        notebooks: NotebookService,
        kernels: KernelService,
        executions: ExecutionService,
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._notebooks = notebooks
        self._kernels = kernels
        self._executions = executions
        self._running_paths: dict[Path, str] = {}

    async def execute_cell(
        self,
        kernel_id: str,
        code: str,
        *,
        timeout: float | None = None,
        store_history: bool = True,
    ) -> Execution:
        """Run code in a kernel.

        Raises:
            KernelNotFoundError, KernelDiedError: there is no kernel to run it.
        """
        kernel = self._kernels.get(kernel_id)
        execution = Execution("cell", kernel)
        execution.cell = kernel.submit(
            code,
            timeout_seconds=self.timeout_seconds(timeout),
            store_history=store_history,
            owner=execution.execution_id,
        )
        self._executions.begin(execution, self._follow_cell(execution, execution.cell))
        return execution

    async def _follow_cell(self, execution: Execution, cell: CellExecution) -> None:
        try:
            await cell.settled.wait()
        except asyncio.CancelledError:
            execution.finish("interrupted")
            raise
        _note_cell_end(execution, cell, "the code")
        execution.finish(cell.status)

    async def execute_notebook(
        self,
        path: str,
        *,
        kernel_id: str | None = None,
        cells: str | None = None,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        save: bool = True,
        one_cell: bool = False,
    ) -> Execution:
        """Run the code cells of a notebook in its kernel, saving results into it as the run goes on.

        Args:
            one_cell: show the execution as that of its only cell.

        Raises:
            CellNotFoundError, InvalidArgumentError: the selection names no code cell.
            BusyError: the notebook is being run already.
        """
        notebook_run = await asyncio.to_thread(_import_runs)
        notebook = await self._notebooks.open(path, writing=save)
        document = notebook.document
        if save:
            document.require_editable()
        chosen = None if cells is None else select(document, cells, notebook.shown)
        timings = await asyncio.to_thread(self._executions.timings, notebook.path)
        to_run = notebook_run.run_cells(document.cells, chosen, timings=timings)
        if not to_run:
            raise InvalidArgumentError(
                f"{notebook.shown} has no code cell to run" + (f" in the selection {cells[:100]!r}" if cells else ""),
                state="nothing was run",
                advice="read_notebook shows its cells",
            )
        execution = Execution(
            "notebook", path=notebook.shown, revision=notebook.revision, file=notebook.path, one_cell=one_cell
        )
        self._claim(notebook.path, notebook.shown, execution)
        try:
            kernel, remark = await self._kernels.for_notebook(
                notebook.path, document.kernel_name or "python3", kernel_id
            )
            file = execution.run_file = self._run_file(notebook) if save else None
        except BaseException:
            self._running_paths.pop(notebook.path, None)
            raise
        execution.kernel = kernel
        if remark:
            execution.notes.append(remark)
        observer = notebook_run.InPlaceObserver(file, document.cells)
        resumed = None
        if file is not None and document.metadata.get("papermill"):
            resumed = await asyncio.to_thread(_resumed_observer, file, document)
        execution.run = notebook_run.NotebookRun(
            to_run,
            resumed or observer,
            timeout_seconds=self.timeout_seconds(timeout),
            continue_on_error=self.continues(continue_on_error),
            owner=execution.execution_id,
            on_change=lambda: self._executions.on_change(execution),
        )
        self._executions.begin(execution, self._run_in_place(execution, execution.run, kernel, file, resumed, notebook))
        return execution

    async def _run_in_place(
        self,
        execution: Execution,
        run: NotebookRun,
        kernel: Kernel,
        file: RunFile | None,
        resumed: ResumedObserver | None,
        notebook: OpenNotebook,
    ) -> None:
        status = "interrupted"
        try:
            if file is not None:
                file.start()
            await run.run(kernel)
            status = str(run.status)
            run.record_late_output()
        except asyncio.CancelledError:
            run.cut_off("the server was closed")
        finally:
            if file is not None:
                if kernel.info.get("language_info") and status != "interrupted":
                    file.record_metadata({"language_info": kernel.info["language_info"]})
                change = None if resumed is None else functools.partial(resumed.finish, run)
                execution.notes += await file.close(change=change)
                if resumed is not None:
                    execution.notes += resumed.notes
                execution.revision = file.revision
            self._running_paths.pop(notebook.path, None)
            self._note_end(execution, run)
            execution.finish(status)

    async def execute_notebook_cell(
        self,
        path: str,
        *,
        index: int | None = None,
        cell_id: str | None = None,
        kernel_id: str | None = None,
        timeout: float | None = None,
    ) -> Execution:
        """Run one code cell of a notebook in its kernel and save the result into it.

        Raises:
            InvalidArgumentError: not exactly one of `index` and `cell_id` is given, or it is no code cell.
            CellNotFoundError: there is no such cell.
        """
        if (index is None) == (cell_id is None):
            raise InvalidArgumentError("give exactly one of index and cell_id", state="nothing was run")
        return await self.execute_notebook(
            path,
            kernel_id=kernel_id,
            cells=cell_id if cell_id is not None else str(index),
            timeout=timeout,
            one_cell=True,
        )

    async def execute_papermill(
        self,
        input_path: str,
        *,
        output_path: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        kernel_name: str | None = None,
        language: str | None = None,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        strict_parameters: bool = True,
        keep_kernel: bool = False,
        report_mode: bool = False,
        overwrite: bool = False,
    ) -> Execution:
        """Run a notebook with parameters into an output notebook, in a kernel of its own.

        The input is never changed. The output is there from the first cell on, and whole at every instant.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
            AlreadyExistsError: the output exists and `overwrite` is false.
            KernelSpecNotFoundError, KernelStartFailedError, LimitReachedError: there is no kernel for it.
        """
        notebook = await self._notebooks.open(input_path)
        plan = await self.plan(
            notebook, parameters or {}, kernel_name=kernel_name, language=language, strict=strict_parameters
        )
        output = self._output_file(output_path, notebook, overwrite)
        execution, work = await self.start_papermill(
            plan,
            output,
            timeout=timeout,
            continue_on_error=continue_on_error,
            keep_kernel=keep_kernel,
            report_mode=report_mode,
            overwrite=overwrite,
        )
        self._executions.begin(execution, work)
        return execution

    async def plan(
        self,
        notebook: OpenNotebook,
        parameters: Mapping[str, Any],
        *,
        kernel_name: str | None = None,
        language: str | None = None,
        strict: bool = True,
    ) -> PapermillPlan:
        """Check that a notebook can be run with these parameters, before anything is begun.

        Args:
            language: in which the parameters are written. By default that of `kernel_name`, else of the notebook.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
            KernelSpecNotFoundError: no such kernel is installed.
        """
        executor, _ = await asyncio.to_thread(_import_papermill)
        document = notebook.document
        name = kernel_name or document.kernel_name or "python3"
        spec = await self._kernels.installed(name)
        if language is None:
            language = spec.language if kernel_name else (document.language or spec.language)
        values = dict(parameters)
        warnings = await asyncio.to_thread(
            executor.check_parameters,
            values,
            document,
            kernel_name=name,
            language=language,
            strict=strict,
        )
        return PapermillPlan(notebook, values, name, language, warnings)

    async def start_papermill(
        self,
        plan: PapermillPlan,
        output: Path,
        *,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        keep_kernel: bool = False,
        report_mode: bool = False,
        overwrite: bool = False,
        on_change: Callable[[], None] | None = None,
    ) -> tuple[Execution, Coroutine[Any, Any, None]]:
        """Start the kernel and put the output in place. Returns the execution and the work that is left to be done.

        Args:
            on_change: called when the run gets on. Default: the execution is recorded, as one of its own.

        Raises:
            AlreadyExistsError: the output exists and `overwrite` is false.
            BusyError: another run writes to the output.
            KernelStartFailedError, LimitReachedError: there is no kernel for it.
        """
        notebook = plan.notebook
        shown = self._workspace.shown(output)
        execution = Execution(
            "papermill",
            file=notebook.path,
            output_file=output,
            input_path=notebook.shown,
            output_path=shown,
            notes=list(plan.warnings),
        )
        self._claim(output, shown, execution)  # before anything is awaited: the name was free a moment ago
        kernel = None
        try:
            executor, papermill_run = await asyncio.to_thread(_import_papermill)
            timings = await asyncio.to_thread(self._executions.timings, notebook.path)
            prepared = await asyncio.to_thread(
                executor.prepare,
                notebook.document,
                plan.values,
                kernel_name=plan.kernel_name,
                language=plan.language,
                input_path=str(notebook.path),
                output_path=str(output),
                report_mode=report_mode,
                shown=notebook.shown,
            )
            kernel = await self._kernels.launch(plan.kernel_name, cwd=notebook.path.parent)
            execution.run_file = self._run_file(
                await self._notebooks.put(output, prepared.document, overwrite=overwrite)
            )
        except BaseException:
            self._running_paths.pop(output, None)
            if kernel is not None:
                await asyncio.shield(self._kernels.end(kernel, "was stopped: the run it was for did not begin"))
            raise
        execution.parameters = prepared.parameters
        execution.kernel = kernel
        execution.on_end = self._executions.note_end
        run = papermill_run.PapermillRun(
            prepared,
            execution.run_file,
            timeout_seconds=self.timeout_seconds(timeout),
            continue_on_error=self.continues(continue_on_error),
            timings=timings,
            owner=execution.execution_id,
            on_change=on_change or (lambda: self._executions.on_change(execution)),
        )
        execution.run, execution.papermill = run.cells, run
        return execution, self._run_papermill(execution, run, kernel, output, keep_kernel)

    async def _run_papermill(
        self, execution: Execution, run: PapermillRun, kernel: Kernel, output: Path, keep_kernel: bool
    ) -> None:
        try:
            await run.run(kernel)
        finally:
            assert execution.run_file is not None
            execution.revision = execution.run_file.revision
            execution.notes += run.notes
            self._running_paths.pop(output, None)
            execution.keeps_kernel = keep_kernel and run.status != "ok" and kernel.alive
            self._note_end(execution, run.cells)
            if run.place_of_failure is not None:
                execution.notes.append(self._way_on(execution, kernel, run.place_of_failure))
            if execution.keeps_kernel:
                self._kernels.bind(output, kernel)
            else:
                await self._kernels.end(kernel, "was stopped at the end of the run it was started for")
            execution.finish(run.status)

    def _way_on(self, execution: Execution, kernel: Kernel, place: int) -> str:
        """What can be done after a failure, in words. The cell's index is another one in the output."""
        assert execution.run is not None
        cell = execution.run.failed_cells[-1]
        where = f"in the output the failed cell has index {place}"
        if place != cell.index:
            where += ", since papermill put two cells before it"
        if not execution.keeps_kernel:
            return (
                f"{where}; its kernel is gone: with keep_kernel=true the cell can be mended and the run taken up there"
            )
        return (
            f"{where}; kernel {kernel.kernel_id} is kept with the variables of the run: look at them, mend the cell in "
            f'the output, and go on from there with execute_notebook, path={execution.output_path}, cells="{place}-"'
        )

    def _output_file(self, output_path: str | None, notebook: OpenNotebook, overwrite: bool) -> Path:
        """Where the output goes: as given, else a name with the time in the output directory.

        Raises:
            PathNotAllowedError: it is outside the roots, or is the input itself.
            AlreadyExistsError: it is there and may not be replaced.
        """
        if output_path is None:
            directory = self._workspace.directory(str(self._config.output_directory), create=True)
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            stem = notebook.path.stem
            output = directory / f"{stem}-{stamp}.ipynb"
            number = 1
            while output.exists() or output in self._running_paths:
                number += 1
                output = directory / f"{stem}-{stamp}-{number}.ipynb"
            return output
        output = self._workspace.notebook(output_path, writing=True)
        if output.exists():
            if self._workspace.same_file(output, notebook.path):
                raise InvalidArgumentError(
                    f"output_path and input_path are the same file, {notebook.shown}",
                    state="nothing was run",
                    advice="give another output_path, or use execute_notebook to run a notebook in place",
                )
            if not overwrite:
                raise AlreadyExistsError(
                    f"{self._workspace.shown(output)} exists",
                    state="nothing was run",
                    advice="give another output_path, leave it out for a new name, or pass overwrite=true",
                )
        return output

    def _claim(self, path: Path, shown: str, execution: Execution) -> None:
        other = self._running_paths.get(path)
        if other is not None:
            raise BusyError(
                f"{shown} is being run by execution {other}",
                state="nothing was started",
                advice="wait for it with get_execution, or end it with cancel_execution",
            )
        self._running_paths[path] = execution.execution_id

    def _run_file(self, notebook: OpenNotebook) -> RunFile:
        assert notebook.content is not None  # it was read, or has just been written
        return RunFile(
            notebook.path,
            notebook.document,
            notebook.content,
            shown=notebook.shown,
            max_bytes=self._config.max_notebook_bytes,
            lock=lambda: self._notebooks.lock(notebook.path),
        )

    def _note_end(self, execution: Execution, run: NotebookRun) -> None:
        if run.problem is not None:
            execution.notes.append(str(run.problem))
        for cell in run.cells:
            if cell.execution is not None:
                _note_cell_end(execution, cell.execution, f"cell {cell.index}")

    def timeout_seconds(self, timeout: float | None) -> float | None:
        """How long a cell may run: as given, else as the server is set; None for no limit."""
        seconds = self._config.execution_timeout if timeout is None else timeout
        return seconds or None

    def continues(self, continue_on_error: bool | None) -> bool:
        """Whether a run goes on after a cell that raised: as given, else as the server is set."""
        return self._config.continue_on_error if continue_on_error is None else continue_on_error


_DEAF = (
    "the kernel ignores interrupts: the code is still running in it, and what is queued there waits. "
    "restart_kernel ends it; its variables are lost then"
)


def _note_cell_end(execution: Execution, cell: CellExecution, name: str) -> None:
    if cell.status == "timeout":
        execution.notes.append(
            f"{name} ran longer than its timeout of {cell.timeout_seconds:g} s and was interrupted; pass a larger "
            "timeout, or 0 for none"
        )
    if cell.status == "died" and execution.keeps_kernel:
        execution.notes.append("restart_kernel gives the kernel a new process under the same id; variables are lost")
    if cell.error is not None and cell.error.ename == "StdinNotImplementedError":
        execution.notes.append("nobody can answer input() here; set the value in the code, or pass it as a parameter")
    if cell.still_running:
        execution.notes.append(_DEAF)
    if cell.output_incomplete:
        execution.notes.append(f"the kernel never said that {name} was over, so output may be missing")


def _import_runs() -> Any:
    with IMPORTING:
        from papermill_mcp.core import notebook_run  # noqa: PLC0415 - imports the engine, see KernelService

    return notebook_run


def _import_papermill() -> tuple[Any, Any]:
    with IMPORTING:
        from papermill_mcp.core import papermill_executor, papermill_run  # noqa: PLC0415 - takes half a second

    return papermill_executor, papermill_run


def _resumed_observer(file: RunFile, document: NotebookDocument) -> ResumedObserver | None:
    """Who records a run in a notebook that is the output of a papermill run; None for any other notebook."""
    with IMPORTING:
        from papermill_mcp.core.papermill_resume import ResumedObserver, is_output  # noqa: PLC0415 - imports papermill

    return ResumedObserver(file, document) if is_output(document) else None
