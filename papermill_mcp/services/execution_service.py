"""Executions: running code, whole notebooks and papermill runs, and asking about them later.

An execution outlives the call that began it. A call waits for it for a while and then answers with what there is;
`get_execution` goes on from there. Cancelling a call ends what that call began, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, PrivateAttr

from papermill_mcp.config import Config
from papermill_mcp.core.document import NotebookDocument
from papermill_mcp.core.run_file import RunFile
from papermill_mcp.errors import (
    AlreadyExistsError,
    BusyError,
    ExecutionNotFoundError,
    InvalidArgumentError,
    ServerError,
    listed,
)
from papermill_mcp.services.execution_store import ExecutionRecord, ExecutionStore
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService, OpenNotebook
from papermill_mcp.services.notebook_view import select
from papermill_mcp.services.output_view import (
    ErrorView,
    OutputBudget,
    OutputView,
    ShownImage,
    show_error,
    show_outputs,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import FileContent

if TYPE_CHECKING:
    from papermill_mcp.core.execution import CellExecution
    from papermill_mcp.core.kernel import Kernel
    from papermill_mcp.core.notebook_run import NotebookRun, RunCell, RunObserver
    from papermill_mcp.core.outputs import Output

logger = logging.getLogger(__name__)

#: Told how far an execution is: cells done, cells in all, and a line for a person.
Progress = Callable[[float, float | None, str | None], Awaitable[None]]

#: Seconds between two progress notifications while nothing else happens, and the least between any two.
_HEARTBEAT = 5.0

#: Seconds between two records of a run that goes on.
_RECORD_INTERVAL = 1.0

_PROGRESS_INTERVAL = 0.3

#: Executions that are over, of which the results are kept.
_REMEMBERED = 100

#: Cells listed in one reply, and characters of output shown for one cell of a run that has many.
_MAX_ROWS = 200
_CELL_CHARS = 1500

_RECORD_TYPES = ("application/papermill.record+json", "application/scrapbook.scrap.json+json")

Kind = Literal["cell", "notebook", "papermill"]


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


class ExecutionView(BaseModel):
    """An execution as it stands. Which fields there are depends on what was executed."""

    execution_id: str
    kind: str
    status: str
    kernel_id: str | None = None
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
    progress: str | None = None
    notes: list[str] | None = None
    _images: list[ShownImage] = PrivateAttr(default_factory=list)


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


class ExecutionList(BaseModel):
    """Executions, the newest first."""

    executions: list[ExecutionRow]


class CancelledExecution(BaseModel):
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


_OF_CANCELLED = set(CancelledExecution.model_fields) - {"ended"}


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
    file: Path | None = None
    output_file: Path | None = None
    path: str | None = None
    input_path: str | None = None
    output_path: str | None = None
    revision: str | None = None
    parameters: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    failure: ServerError | None = None
    keeps_kernel: bool = True
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    task: asyncio.Task[None] | None = None
    recorded_at: float = 0.0
    record_due: bool = False

    @property
    def seconds(self) -> float:
        """How long it has taken so far, or took."""
        return (self.ended or time.monotonic()) - self.began

    def finish(self, status: str) -> None:
        """It is over."""
        self.status = status
        self.ended = time.monotonic()
        self.finished.set()


class ExecutionService:
    """Runs things and remembers them. `aclose` cancels what still runs."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        notebooks: NotebookService,
        kernels: KernelService,
        store: ExecutionStore,
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._notebooks = notebooks
        self._kernels = kernels
        self._store = store
        self._executions: OrderedDict[str, Execution] = OrderedDict()
        self._running_paths: dict[Path, str] = {}
        self._background: set[asyncio.Task[Any]] = set()

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

    # One piece of code

    async def execute_cell(
        self,
        kernel_id: str,
        code: str,
        *,
        timeout: float | None = None,
        wait: float | None = None,
        store_history: bool = True,
        progress: Progress,
    ) -> ExecutionView:
        """Run code in a kernel and wait for it, at most `wait` seconds.

        Raises:
            KernelNotFoundError, KernelDiedError: there is no kernel to run it.
        """
        kernel = self._kernels.get(kernel_id)
        execution = Execution("cell", kernel)
        execution.cell = kernel.submit(
            code,
            timeout_seconds=self._timeout(timeout),
            store_history=store_history,
            owner=execution.execution_id,
        )
        self._begin(execution, self._follow_cell(execution, execution.cell))
        return await self._answer(execution, wait, progress)

    async def _follow_cell(self, execution: Execution, cell: CellExecution) -> None:
        try:
            await cell.settled.wait()
        except asyncio.CancelledError:
            execution.finish("interrupted")
            raise
        _note_cell_end(execution, cell, "the code")
        execution.finish(cell.status)

    # A notebook, in place

    async def execute_notebook(
        self,
        path: str,
        *,
        kernel_id: str | None = None,
        cells: str | None = None,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        save: bool = True,
        wait: float | None = None,
        progress: Progress,
    ) -> ExecutionView:
        """Run the code cells of a notebook in its kernel, saving results into it as the run goes on.

        Raises:
            CellNotFoundError, InvalidArgumentError: the selection names no code cell.
            BusyError: the notebook is being run already.
        """
        from papermill_mcp.core.notebook_run import (  # noqa: PLC0415 - imports the engine, see KernelService
            InPlaceObserver,
            NotebookRun,
            run_cells,
        )

        notebook = await self._notebooks.open(path, writing=save)
        document = notebook.document
        if save and document.nbformat != 4:
            document.insert(0, {})  # raises: a notebook of version 3 cannot be edited
        chosen = None if cells is None else select(document, cells, notebook.shown)
        timings = await asyncio.to_thread(self._store.timings, str(notebook.path))
        to_run = run_cells(document.cells, chosen, timings=timings)
        if not to_run:
            raise InvalidArgumentError(
                f"{notebook.shown} has no code cell to run" + (f" in the selection {cells[:100]!r}" if cells else ""),
                state="nothing was run",
                advice="read_notebook shows its cells",
            )
        execution = Execution("notebook", path=notebook.shown, revision=notebook.revision, file=notebook.path)
        self._claim(notebook.path, notebook.shown, execution)
        try:
            kernel, remark = await self._kernels.for_notebook(
                notebook.path, document.kernel_name or "python3", kernel_id
            )
            file = self._run_file(notebook) if save else None
        except BaseException:
            self._running_paths.pop(notebook.path, None)
            raise
        execution.kernel = kernel
        if remark:
            execution.notes.append(remark)
        observer = InPlaceObserver(file, document.cells)
        execution.run = NotebookRun(
            to_run,
            observer,
            timeout_seconds=self._timeout(timeout),
            continue_on_error=self._continue(continue_on_error),
            owner=execution.execution_id,
            on_change=lambda: self._on_change(execution),
        )
        self._begin(execution, self._run_in_place(execution, execution.run, kernel, file, observer, notebook))
        return await self._answer(execution, wait, progress)

    async def _run_in_place(
        self,
        execution: Execution,
        run: NotebookRun,
        kernel: Kernel,
        file: RunFile | None,
        observer: RunObserver,
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
                await self._close_file(execution, file)
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
        wait: float | None = None,
        progress: Progress,
    ) -> ExecutionView:
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
            wait=wait,
            progress=progress,
        )

    # A papermill run

    async def execute_papermill(
        self,
        input_path: str,
        *,
        output_path: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        kernel_name: str | None = None,
        timeout: float | None = None,
        continue_on_error: bool | None = None,
        strict_parameters: bool = True,
        keep_kernel: bool = False,
        report_mode: bool = False,
        overwrite: bool = False,
        wait: float | None = None,
        progress: Progress,
    ) -> ExecutionView:
        """Run a notebook with parameters into an output notebook, in a kernel of its own.

        The input is never changed. The output is there from the first cell on, and whole at every instant.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
            AlreadyExistsError: the output exists and `overwrite` is false.
            KernelSpecNotFoundError, KernelStartFailedError, LimitReachedError: there is no kernel for it.
        """
        executor = await asyncio.to_thread(_import_executor)
        notebook = await self._notebooks.open(input_path)
        document = notebook.document
        name = kernel_name or document.kernel_name or "python3"
        spec = await self._kernels.installed(name)
        language = spec.language if kernel_name else (document.language or spec.language)
        values = dict(parameters or {})
        warnings = await asyncio.to_thread(
            executor.check_parameters,
            values,
            document,
            kernel_name=name,
            language=language,
            strict=strict_parameters,
        )
        output = self._output_file(output_path, notebook, overwrite)
        prepared = await asyncio.to_thread(
            executor.prepare,
            document,
            values,
            kernel_name=name,
            language=language,
            input_path=str(notebook.path),
            output_path=str(output),
            report_mode=report_mode,
            shown=notebook.shown,
        )
        execution = Execution(
            "papermill",
            file=notebook.path,
            output_file=output,
            input_path=notebook.shown,
            output_path=self._workspace.shown(output),
            parameters=prepared.parameters,
            notes=warnings,
        )
        self._claim(output, self._workspace.shown(output), execution)
        kernel = None
        try:
            kernel = await self._kernels.launch(name, cwd=notebook.path.parent)
            result = await self._new_output(output, prepared.document, overwrite)
        except BaseException:
            self._running_paths.pop(output, None)
            if kernel is not None:
                await asyncio.shield(self._kernels.end(kernel, "was stopped: the run it was for did not begin"))
            raise
        execution.kernel = kernel
        timings = await asyncio.to_thread(self._store.timings, str(notebook.path))
        file = self._run_file(result)
        observer = executor.PapermillObserver(prepared, file)
        from papermill_mcp.core.notebook_run import NotebookRun, run_cells  # noqa: PLC0415

        execution.run = NotebookRun(
            run_cells(result.document.cells, timings=timings),
            observer,
            timeout_seconds=self._timeout(timeout),
            continue_on_error=self._continue(continue_on_error),
            owner=execution.execution_id,
            on_change=lambda: self._on_change(execution),
        )
        work = self._run_papermill(execution, execution.run, kernel, file, observer, executor, output, keep_kernel)
        self._begin(execution, work)
        return await self._answer(execution, wait, progress)

    async def _run_papermill(
        self,
        execution: Execution,
        run: NotebookRun,
        kernel: Kernel,
        file: RunFile,
        observer: Any,
        executor: Any,
        output: Path,
        keep_kernel: bool,
    ) -> None:
        status, complete, mark_error = "interrupted", False, False
        try:
            observer.begin()
            file.start()
            await run.run(kernel)
            status = str(run.status)
            run.record_late_output()
            complete = status == "ok" or (status == "error" and run.continues)
            mark_error = status == "error" and not run.continues
            if mark_error and executor.exit_is_clean(run.failed_cells[-1]):
                status, mark_error = "ok", False
                execution.notes.append(f"cell {run.failed_cells[-1].index} left by sys.exit(); the run ended there")
        except asyncio.CancelledError:
            run.cut_off("the server was closed")
        finally:
            final = observer.finish(kernel.info.get("language_info"), complete=complete, mark_error=mark_error)
            await self._close_file(execution, file, final)
            self._running_paths.pop(output, None)
            self._note_end(execution, run)
            if keep_kernel and status != "ok" and kernel.alive:
                execution.notes.append(f"kernel {kernel.kernel_id} is kept, with the variables of the run")
            else:
                execution.keeps_kernel = False
                await self._kernels.end(kernel, "was stopped at the end of the run it was started for")
            execution.finish(status)

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

    async def _new_output(self, output: Path, document: NotebookDocument, overwrite: bool) -> OpenNotebook:
        shown = self._workspace.shown(output)
        async with self._notebooks.lock(output):
            expected: FileContent | None = None
            if overwrite and await asyncio.to_thread(output.exists):
                expected = (await self._notebooks.open(str(output), writing=True)).content
            notebook = OpenNotebook(output, shown, expected, document)
            await self._notebooks.save(notebook)
        return notebook

    # Asking about executions

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
                return _view_of(self._row_of(record))
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
        rows = [self._row_of(record) for record in records]
        return ExecutionList(executions=[row for row in rows if status in (None, row.status)][:limit])

    async def cancel(self, execution_id: str) -> CancelledExecution:
        """Interrupt an execution and wait until it has really ended, or the kernel turns out to ignore interrupts."""
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
        if execution.run is not None:
            await execution.run.cancel()
        elif execution.cell is not None and execution.kernel is not None:
            await execution.kernel.interrupt(execution.cell)

    # Shared steps

    def _begin(self, execution: Execution, work: Any) -> None:
        self._executions[execution.execution_id] = execution
        self._record(execution)
        over = [key for key, known in self._executions.items() if known.finished.is_set()]
        for key in over[: max(0, len(over) - _REMEMBERED)]:
            del self._executions[key]
        execution.task = asyncio.create_task(self._guarded(execution, work), name=f"run {execution.execution_id}")

    async def _guarded(self, execution: Execution, work: Awaitable[None]) -> None:
        try:
            await work
        except ServerError as error:
            execution.failure = error
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

    def _on_change(self, execution: Execution) -> None:
        if not execution.record_due:
            execution.record_due = True
            wait = max(0.0, execution.recorded_at + _RECORD_INTERVAL - time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._record, execution)

    def _record(self, execution: Execution) -> None:
        """Keep what is known of an execution for later server processes."""
        execution.recorded_at, execution.record_due = time.monotonic(), False
        run = execution.run
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
                cells_total=len(run.cells) if run else None,
                cells_done=run.done if run else None,
                failed_cell=failed,
                server_pid=self._store.pid,
                server_started=self._store.server_started,
            )
        )

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

    async def _close_file(self, execution: Execution, file: RunFile, final: NotebookDocument | None = None) -> None:
        try:
            await file.close(final)
        except ServerError as error:
            execution.notes.append(f"the last save failed, so the file has an earlier state of the run: {error}")
        execution.revision = file.revision
        if file.unsaved:
            execution.notes.append(
                f"cells {', '.join(map(str, sorted(file.unsaved)))} were changed or removed by somebody else during "
                "the run, so their results are not in the file"
            )

    def _note_end(self, execution: Execution, run: NotebookRun) -> None:
        if run.problem is not None:
            execution.notes.append(str(run.problem))
        for cell in run.cells:
            if cell.execution is not None:
                _note_cell_end(execution, cell.execution, f"cell {cell.index}")

    def _timeout(self, timeout: float | None) -> float | None:
        seconds = self._config.execution_timeout if timeout is None else timeout
        return seconds or None

    def _continue(self, continue_on_error: bool | None) -> bool:
        return self._config.continue_on_error if continue_on_error is None else continue_on_error

    def _wait_seconds(self, wait: float | None) -> float:
        return self._config.response_wait if wait is None else wait

    async def _answer(self, execution: Execution, wait: float | None, progress: Progress) -> ExecutionView:
        """Wait for an execution that this call began, and show it. If the call is cancelled, so is the execution."""
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
            done, total, message = _progress_of(execution)
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
        done, total, message = _progress_of(execution)
        if done > reported and (reported >= 0 or execution.run is not None):
            await progress(done, total, message)

    # Showing

    async def _view(self, execution: Execution, since: str | None = None) -> ExecutionView:
        seen = _Cursor.parse(since)
        budget = OutputBudget.of(self._config)
        if _shown_at_once(execution):
            return self._shown(execution, seen, budget)
        return await asyncio.to_thread(self._shown, execution, seen, budget)

    def _shown(self, execution: Execution, seen: _Cursor, budget: OutputBudget) -> ExecutionView:
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
            revision=execution.revision,
            parameters=execution.parameters or None,
            notes=list(execution.notes) or None,
        )
        if execution.cell is not None:
            self._show_cell(view, execution.cell, seen, budget)
        if execution.run is not None:
            self._show_run(view, execution.run, seen, budget)
        if not execution.finished.is_set():
            view.progress = _progress_of(execution)[2]
        return view

    def _row_of(self, record: ExecutionRecord) -> ExecutionRow:
        cut_off = record.status == "running" and not record.server_alive
        started = datetime.fromtimestamp(record.started_at, UTC)
        return ExecutionRow(
            execution_id=record.execution_id,
            kind=record.kind,
            status="aborted" if cut_off else record.status,
            started_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration=record.duration,
            path=self._workspace.shown(Path(record.path)) if record.path else None,
            output_path=self._workspace.shown(Path(record.output_path)) if record.output_path else None,
            cells_done=record.cells_done,
            cells_total=record.cells_total,
            at_cell=record.failed_cell,
            cut_off=cut_off or None,
        )

    def _show_cell(self, view: ExecutionView, cell: CellExecution, seen: _Cursor, budget: OutputBudget) -> None:
        every = cell.outputs
        fresh = seen.new_of(every)
        view.execution_count = cell.execution_count
        view.duration = round(cell.duration, 3)
        views, images = show_outputs([o for o in fresh if o["output_type"] != "error"], budget)
        view.outputs = views or None
        view._images = images
        if cell.error is not None:
            view.error = show_error(_error_of(cell.error), budget)
        view.cursor = _Cursor.at(0, every).text()

    def _show_run(self, view: ExecutionView, run: NotebookRun, seen: _Cursor, budget: OutputBudget) -> None:
        over = [cell for cell in run.cells if cell.status.final]
        current = run.current
        rows = over[seen.cells :]
        left_out = max(0, len(rows) - _MAX_ROWS)
        if len(run.cells) == 1 and view.kind == "notebook" and run.cells[0].execution is not None:
            self._show_cell(view, run.cells[0].execution, seen, budget)
            return
        view.cells_total = len(run.cells)
        view.cells_done = run.done
        view.cells_failed = len(run.failed_cells)
        view.results = [self._row(view, cell, cell.outputs, budget) for cell in rows[left_out:]]
        if left_out:
            view.notes = [*(view.notes or []), f"the first {left_out} of {len(rows)} cells are not listed here"]
        if current is not None:
            fresh = seen.new_of(current.outputs) if len(over) == seen.cells else current.outputs
            view.results.append(self._row(view, current, fresh, budget))
        view.cursor = _Cursor.at(len(over), current.outputs if current else []).text()
        failed = [cell for cell in run.failed_cells if cell.status != "aborted"]
        if failed:
            error = failed[-1].execution.error if failed[-1].execution else None
            view.failed_cell = FailedCell(
                index=failed[-1].index,
                id=failed[-1].cell_id,
                source=failed[-1].source[:2000],
                error=show_error(_error_of(error), budget) if error else None,
            )
        view.result = [value for cell in over for value in _recorded(cell.outputs)] or None

    def _row(self, view: ExecutionView, cell: RunCell, outputs: Sequence[Output], budget: OutputBudget) -> CellResult:
        budget_left = budget.chars
        budget.chars = min(budget_left, _CELL_CHARS)
        granted = budget.chars
        views, images = show_outputs(
            [o for o in outputs if o["output_type"] != "error"], budget, label=f"cell {cell.index}"
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
class _Cursor:
    """What a caller has seen: cells that were over, and of the next one, how many outputs and how much of the last."""

    cells: int = 0
    outputs: int = 0
    chars: int = 0

    @classmethod
    def parse(cls, text: str | None) -> _Cursor:
        if not text:
            return cls()
        parts = text.split(".")
        if len(parts) != 3 or not all(part.isdigit() and len(part) < 12 for part in parts):
            raise InvalidArgumentError(
                f"since {text[:60]!r} is not a cursor", allowed="pass the `cursor` of an earlier reply, or leave it out"
            )
        return cls(*(int(part) for part in parts))

    @classmethod
    def at(cls, cells: int, outputs: Sequence[Output]) -> _Cursor:
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
    if cell.error is not None and cell.error.ename == "StdinNotImplementedError":
        execution.notes.append("nobody can answer input() here; set the value in the code, or pass it as a parameter")
    if cell.still_running:
        execution.notes.append(_DEAF)
    if cell.output_incomplete:
        execution.notes.append(f"the kernel never said that {name} was over, so output may be missing")


def _progress_of(execution: Execution) -> tuple[float, float | None, str]:
    """Cells done, cells in all, and a line for a person."""
    if execution.run is not None:
        from papermill_mcp.core.notebook_run import progress_message  # noqa: PLC0415 - imported long ago

        run = execution.run
        return float(run.done), float(len(run.cells)), progress_message(run, execution.seconds)
    cell = execution.cell
    if cell is None:
        return 0.0, None, "starting"
    if cell.status == "queued":
        return 0.0, None, f"waiting for the kernel · {execution.seconds:.0f} s"
    line = cell.collector.last_line()[-100:]
    done = 1.0 if execution.finished.is_set() else 0.0
    return done, 1.0, f"running · {cell.duration:.0f} s" + (f" · {line}" if line else "")


def _view_of(row: ExecutionRow) -> ExecutionView:
    """What an earlier server process left of an execution."""
    where = row.output_path or row.path
    notes = ["it belongs to an earlier server process, so its outputs are not kept here"]
    if row.cut_off:
        notes = [f"it was cut off: its server process ended at cell {row.at_cell}"]
    if where:
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
        cells_total=row.cells_total,
        cells_done=row.cells_done,
        notes=notes,
    )


def _shown_at_once(execution: Execution) -> bool:
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


def _recorded(outputs: Sequence[Output]) -> list[RecordedValue]:
    """Values recorded by papermill's `record` or scrapbook's `glue`."""
    found: list[RecordedValue] = []
    for output in outputs:
        data = output.get("data") or {}
        for mime_type in _RECORD_TYPES:
            value = data.get(mime_type)
            if isinstance(value, dict) and mime_type.startswith("application/papermill"):
                found.extend(RecordedValue(name=str(name), value=item) for name, item in value.items())
            elif isinstance(value, dict) and "name" in value:
                found.append(RecordedValue(name=str(value["name"]), value=value.get("data")))
    return found


def _import_executor() -> Any:
    from papermill_mcp.core import papermill_executor  # noqa: PLC0415 - half a second: not before it is needed

    return papermill_executor
