"""A notebook with parameters that runs in a kernel of its own, into an output."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.documents.check import upgraded
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.core.runs.snapshot import CellsState, Cursor, PapermillSnapshot
from papermill_mcp.errors import sentence
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService, OpenNotebook
from papermill_mcp.services.pythons import PythonChoice
from papermill_mcp.services.runs.claims import Claims
from papermill_mcp.services.runs.notes import errors_of, run_notes
from papermill_mcp.services.runs.remote_outputs import RemoteOutput, RemoteOutputs
from papermill_mcp.services.runs.requests import PapermillRequest
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core import papermill_executor as recipes
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.papermill import parameter_file
    from papermill_mcp.core.papermill.batch_outputs import OutputsOf
    from papermill_mcp.core.papermill.output import PapermillTask
    from papermill_mcp.core.papermill.parameters import NotebookParameters
    from papermill_mcp.core.papermill_executor import Outcome, PapermillRecipe
    from papermill_mcp.core.runs.store import ExecutionStore
    from papermill_mcp.services.staleness import Staleness
else:
    parameter_file = lazy("papermill_mcp.core.papermill.parameter_file")
    recipes = lazy("papermill_mcp.core.papermill_executor")


@dataclass(frozen=True)
class RunInput:
    """The notebook that a run copies, as it was read, but of version 4 and without outputs, which such a run leaves.

    It is kept until the run, or the whole batch, is over. So it must not take the memory of old outputs.
    """

    path: Path
    display_path: str
    revision: str
    document: NotebookDocument
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, notebook: OpenNotebook, notes: Sequence[str] = ()) -> RunInput:
        """The input of a run of this notebook.

        Args:
            notes: sentences for the client about it.

        Raises:
            InvalidNotebookError: it is of version 3 and cannot be converted.
        """
        document = notebook.document
        if document.nbformat < 4:
            document = upgraded(document, display_path=notebook.display_path)
        return cls(notebook.path, notebook.display_path, notebook.revision, document.without_outputs(), tuple(notes))

    def released(self) -> RunInput:
        """The same without the document, after the run."""
        return replace(self, document=NotebookDocument.new({}))


@dataclass(frozen=True)
class PapermillPlan:
    """A notebook and parameters that fit it.

    Attributes:
        task: the run; its `output_path` is filled in when the output is known.
        warnings: sentences for the client about the parameters.
    """

    notebook: RunInput
    task: PapermillTask
    warnings: list[str]
    planned_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def into(self, output: Path) -> PapermillTask:
        """The task with its output."""
        return replace(self.task, output_path=str(output))

    def released(self) -> PapermillPlan:
        """The plan without the document, after the run."""
        return replace(self, notebook=self.notebook.released())


@dataclass
class RunTemplate:
    """Runs of one notebook that differ in their parameters and outputs only. It holds the document once for all.

    Args:
        request: of one run, without parameters and output.
        task: the same.
        known: the parameters of the notebook.
        outputs: how the outputs of the runs look; needed in a batch only.
        notes: sentences for the client about each of the runs.
    """

    request: PapermillRequest
    notebook: RunInput
    task: PapermillTask
    known: NotebookParameters
    notes: list[str]
    outputs: OutputsOf | None = None
    planned_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def checked(
        self, values: Mapping[str, Any], *, columns: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """Parameters of a run as they are injected, and warnings. Called in a worker thread.

        Args:
            columns: the names of the table that the values come from. They are text, and get the types that the
                parameters of the notebook have. A name without any value is checked, too.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
        """
        found, unknown = dict(values), {}
        if columns is not None:
            unknown = parameter_file.unknown_columns(columns, self.known)
            found = parameter_file.typed(found, self.known)
        return found, self.known.check(unknown | found, strict=self.request.strict_parameters)

    def plan(self, values: dict[str, Any], warnings: Sequence[str] = (), *, digest: str | None = None) -> PapermillPlan:
        """One of the runs.

        Args:
            warnings: sentences for the client about its parameters.
            digest: see `PapermillTask`.
        """
        task = replace(self.task, parameters=values, digest=digest)
        return PapermillPlan(self.notebook, task, [*self.notes, *warnings], self.planned_at)

    def request_of(self, values: dict[str, Any], *, overwrite: bool) -> PapermillRequest:
        """The request of one of the runs, with an id of its own. Args: `overwrite`: replace an output."""
        return PapermillRequest(**{**dict(self.request), "parameters": values, "overwrite": overwrite})

    @cached_property
    def rendered(self) -> bytes:
        """The notebook as bytes. Called in a worker thread."""
        return self.notebook.document.render()

    def release(self) -> None:
        """Let go of the document: all runs are over."""
        self.notebook, self.outputs = self.notebook.released(), None
        self.__dict__.pop("rendered", None)


@dataclass(frozen=True)
class Bench:
    """The parts of the server that a run with parameters works with."""

    kernels: KernelService
    notebooks: NotebookService
    claims: Claims
    store: ExecutionStore
    staleness: Staleness
    remotes: RemoteOutputs


class _Here:
    """This server as the place of a run.

    Args:
        owner: the id under which clients know the run.
        overwrite: the output may replace a notebook.
        patient: no call waits for the start of the kernel.
    """

    def __init__(self, bench: Bench, owner: str, *, overwrite: bool, patient: bool) -> None:
        self._bench = bench
        self._owner = owner
        self._overwrite = overwrite
        self._patient = patient

    async def start_kernel(self, task: PapermillTask) -> Kernel:
        """Start a kernel in the directory of the notebook. The caller holds a slot for it."""
        cwd = Path(task.input_path).parent
        choice = PythonChoice(task.kernel_name, task.environment, task.python)
        return await self._bench.kernels.launch(choice, cwd=cwd, variables=task.variables, patient=self._patient)

    async def put_output(self, task: PapermillTask, document: NotebookDocument) -> RunFile:
        """Write the output where it stays."""
        notebooks = self._bench.notebooks
        notebook = await notebooks.put(Path(task.output_path), document, overwrite=self._overwrite)
        return notebooks.run_file(notebook, self._owner, in_place=False)

    async def end_kernel(self, kernel: Kernel) -> None:
        """End the kernel of a run that did not begin."""
        await self._bench.kernels.end(kernel, "was stopped: the run it was for did not begin")


class PapermillRun(BaseRun):
    """A run with parameters in this server.

    Args:
        owner: the id of the batch that the run is part of; by default the run stands for itself.
        remote: the place in an object store that the output goes to at the end.

    Attributes:
        waits_for: the reason that the run is queued, for a person; None when it is not.
    """

    def __init__(
        self,
        request: PapermillRequest,
        plan: PapermillPlan,
        output: Path,
        bench: Bench,
        *,
        owner: str | None = None,
        remote: RemoteOutput | None = None,
    ) -> None:
        super().__init__(request.execution_id)
        self._operation = request.operation
        self._plan = plan
        self._output = output
        self._bench = bench
        self._owner = owner or self.execution_id
        self._keep_kernel = request.keep_kernel
        self._keeps_kernel = True  # while the run goes on, clients can look into it
        self._overwrite = request.overwrite
        self._recipe: PapermillRecipe | None = None
        self._kernel: Kernel | None = None
        self.waits_for: str | None = None
        self._remote = remote
        self._upload: asyncio.Task[str | None] | None = None
        self.notes += plan.warnings
        self._going = "" if remote is None else f"the output goes to {remote.url} when the run is over"
        self.notes += filter(None, [self._going])

    async def prepare(self, *, queue: bool = False) -> None:
        """Claim the output, start the kernel, and put the output in place.

        Args:
            queue: wait for a kernel to end where as many live as may.

        Raises:
            AlreadyExistsError: the output exists and may not be replaced.
            BusyError: another run writes to the output.
            KernelStartFailedError, LimitReachedError: there is no kernel for the run.
        """
        bench = self._bench
        await bench.claims.take(
            [self._output, *([self._remote.claim] if self._remote is not None else [])], self._owner
        )
        try:
            async with bench.kernels.slot(queue=self._queue if queue else None) as made_room:
                self.notes += made_room
                self.waits_for = None
                self._begin()
                self.changed()
                await imported(recipes)
                path = self._plan.notebook.path
                recipe = recipes.PapermillRecipe(
                    self._plan.into(self._output),
                    timings=await asyncio.to_thread(bench.store.timings, str(path)),
                    owner=self._owner,
                    changed=self.changed,
                )
                here = _Here(bench, self._owner, overwrite=self._overwrite, patient=queue)
                await recipe.begin(self._plan.notebook.document, here)
        except BaseException:
            if self._owner == self.execution_id:
                bench.claims.release(self._owner)
            raise
        self._recipe, self._kernel = recipe, recipe.kernel

    def _queue(self, reason: str) -> None:
        self.waits_for = reason
        self.changed()

    async def _work(self) -> RunStatus:
        recipe, bench = self._recipe, self._bench
        assert recipe is not None
        try:
            if self.cancelled:
                await recipe.run.cancel()  # cancelled while its kernel started
            await recipe.perform()
        finally:
            kernel = recipe.kernel
            self.notes += recipe.notes
            if self._owner == self.execution_id and self._remote is None:
                bench.claims.release(self._owner)
            self._keeps_kernel = self._keep_kernel and recipe.status != RunStatus.OK and kernel.alive
            self.notes += run_notes(recipe.run, kernel_stays=self._keeps_kernel)
            if recipe.place_of_failure is not None:
                self.notes.append(self._next_steps(recipe, recipe.place_of_failure))
            if self._keeps_kernel:
                bench.kernels.bind(self._output, kernel)
            else:
                await bench.kernels.end(kernel, "was stopped at the end of the run it was started for")
            bench.store.put_timings(str(self._plan.notebook.path), recipe.run.timings())
            if self._remote is not None and self.cancelled:
                self._note_kept(self._remote, "the run was cancelled")
        self.notes += await bench.kernels.module_notes(recipe.kernel, errors_of(recipe.run))
        if self._remote is None or self.cancelled:
            return recipe.status
        return await self._publish(self._remote, recipe.status)

    async def _publish(self, remote: RemoteOutput, status: RunStatus) -> RunStatus:
        """Write the output to its place in an object store. Returns the status of the whole run."""
        self._upload = asyncio.create_task(self._bench.remotes.publish(remote, self._output))
        self.changed()
        try:
            failure = await self._upload
        except asyncio.CancelledError:
            self._note_kept(remote, "the upload was cancelled")
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the server is closed
            return RunStatus.INTERRUPTED
        finally:
            self._upload = None
        if failure is None:
            self.notes.remove(self._going)
            self.notes.append(f"a copy of the output that tools can read is {self._shown}")
            return status
        self._note_kept(remote, failure)
        return RunStatus.ERROR if status == RunStatus.OK else status

    def _note_kept(self, remote: RemoteOutput, reason: str) -> None:
        self.notes.remove(self._going)
        self.notes.append(
            f"the output was not written to {remote.url}: {sentence(reason)} It is kept in {self._shown}: copy it from "
            "there, or run again"
        )

    @property
    def _shown(self) -> str:
        return self._bench.notebooks.display_path(self._output)

    def _next_steps(self, recipe: PapermillRecipe, place: int) -> str:
        """The way to go on after a failure. The cell's index is another one in the output."""
        where = f"in the output the failed cell has index {place}"
        if place > recipe.run.failed_cells[-1].index:
            where += ", since cells were put before it"
        if not recipe.kernel.alive:
            return f"{where}; its kernel has ended, so no variable is left: fix the cell and run the notebook again"
        if not self._keeps_kernel:
            return f"{where}; its kernel is gone: with keep_kernel=true the cell can be fixed and the run resumed there"
        output = self._shown
        return (
            f"{where}; kernel {recipe.kernel.kernel_id} is kept with the variables of the run: look at them, fix the "
            f'cell in the output, and go on from there with execute_notebook, path={output}, cells="{place}-"'
        )

    def _release(self) -> None:
        if self._remote is not None and self._owner == self.execution_id:
            self._bench.claims.release(self._owner)
        self._plan = self._plan.released()
        if self._recipe is not None:
            self._recipe.file.release()

    @property
    def held(self) -> int:
        """Bytes of sources and outputs in memory."""
        return 0 if self._recipe is None else self._recipe.run.held

    def forget_outputs(self) -> None:
        """Give up the outputs."""
        super().forget_outputs()
        if self._recipe is not None:
            self._recipe.run.forget_outputs()

    async def cancel(self) -> None:
        """Interrupt the cell that runs and start no more."""
        if not self.finished:
            self.cancelled = True
            if self._upload is not None:
                self._upload.cancel()
            elif self._recipe is not None:
                await self._recipe.run.cancel()

    @property
    def outcome(self) -> Outcome:
        """The end of the run."""
        assert self._recipe is not None
        recipe = self._recipe
        return recipes.Outcome(
            self._status,
            self.seconds,
            recipe.summary,
            recipe.notes,
            peak_memory=recipe.peak_memory,
            processor_seconds=recipe.processor_seconds,
            revision=recipe.file.revision,
        )

    @property
    def begun(self) -> bool:
        """Whether the run has got its place among the kernels."""
        return self._began is not None

    @property
    def status(self) -> RunStatus:
        """`queued` while the run waits for a kernel to end."""
        return RunStatus.QUEUED if self.waits_for is not None and not self.finished else self._status

    def snapshot(self, since: Cursor) -> PapermillSnapshot:
        """The state of the run, with new outputs."""
        cells: CellsState | None = None
        parameters: dict[str, Any] = self._plan.task.parameters
        progress, cursor, revision = self.waits_for or "starting", since, None
        if self._recipe is not None:
            cells, cursor = self._recipe.run.state(since)
            parameters, revision = self._recipe.parameters, self._recipe.file.revision
            progress = self._recipe.run.progress(self.seconds)
        if self._upload is not None and self._remote is not None:
            progress = f"writing the output to {self._remote.url} · {self.seconds:.0f} s"
        kernel = self._kernel
        return PapermillSnapshot(
            execution_id=self.execution_id,
            operation=self._operation,
            status=self.status,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=tuple(self.notes),
            kernel_id=kernel.kernel_id if kernel is not None and self._keeps_kernel else None,
            kernel_name=self._plan.task.kernel_name,
            python=self._plan.task.python,
            file=self._plan.notebook.path,
            output_file=self._output,
            output_url=self._remote.url if self._remote is not None and self._remote.published else None,
            done=cells.done if cells else None,
            total=cells.total if cells else None,
            at=cells.at if cells else None,
            progress=progress,
            cell_limit=self._plan.task.timeout_seconds,
            cursor=cursor,
            cells=cells,
            parameters=parameters,
            revision=revision,
        )
