"""Begins runs of code and notebooks: which are allowed, in which kernel, and into which file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.papermill.metadata import is_output
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.errors import AlreadyExistsError, EnvironmentFailedError, InvalidArgumentError
from papermill_mcp.services.notebooks.view import ranges, select
from papermill_mcp.services.runs.cell_run import CellRun
from papermill_mcp.services.runs.in_place_run import InPlaceRun
from papermill_mcp.services.runs.install_run import InstallRun, Recording
from papermill_mcp.services.runs.papermill_run import Bench, PapermillPlan, PapermillRun, RunInput, RunTemplate
from papermill_mcp.services.runs.remote_outputs import RemoteOutput
from papermill_mcp.services.runs.requests import (
    CodeRequest,
    InstallRequest,
    NotebookCellRequest,
    NotebookRequest,
    PapermillRequest,
    RunRequest,
)
from papermill_mcp.services.workspace import Workspace, short_stem
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core.environments import declared, requirements
    from papermill_mcp.core.environments.reading import Environment
    from papermill_mcp.core.papermill import output as papermill_output
    from papermill_mcp.core.papermill import parameters, resume
    from papermill_mcp.core.papermill.resume import ResumedObserver
    from papermill_mcp.core.runs import notebook_run
    from papermill_mcp.core.runs.notebook_run import RunCell
    from papermill_mcp.services.notebook_service import OpenNotebook
else:
    declared = lazy("papermill_mcp.core.environments.declared")
    requirements = lazy("papermill_mcp.core.environments.requirements")
    papermill_output = lazy("papermill_mcp.core.papermill.output")
    parameters = lazy("papermill_mcp.core.papermill.parameters")
    resume = lazy("papermill_mcp.core.papermill.resume")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")


#: The selection of the cells that are not as a run from the top would have them.
_STALE = "stale"


class RunStarter:
    """Prepares runs. The registry starts and follows them."""

    def __init__(self, config: Config, workspace: Workspace, bench: Bench) -> None:
        self._config = config
        self._workspace = workspace
        self._bench = bench

    async def code(self, request: CodeRequest) -> CellRun:
        """Run code in a kernel. The kernel of a notebook is started, if need be.

        Raises:
            InvalidArgumentError: no kernel is named, or the arguments name two.
            KernelNotFoundError, KernelDiedError: there is no kernel to run it.
        """
        kernels = self._bench.kernels
        notes: list[str] = []
        if request.path is not None and request.kernel_id is None:
            notebook = await self._bench.notebooks.open(request.path)
            kernel, notes, new = await kernels.for_notebook(notebook.path, notebook.document, python=request.python)
            if new:
                notes.insert(0, f"a kernel was started for {notebook.display_path}; no cell of it has run there")
        else:
            kernel = kernels.get(kernels.named(request.kernel_id, request.path))
            if request.python is not None:
                raise InvalidArgumentError("give python or kernel_id, not both", state="nothing was run")
        kernels.keep(kernel)
        run = CellRun(request, kernel, kernels, timeout_seconds=self._timeout_seconds(request.timeout))
        run.notes += notes
        return run

    async def notebook_cell(self, request: NotebookCellRequest) -> InPlaceRun:
        """Run one code cell of a notebook in its kernel and save the result into it.

        Raises:
            InvalidArgumentError: not exactly one of `index` and `cell_id` is given, or it is no code cell.
            CellNotFoundError: there is no such cell.
        """
        if (request.index is None) == (request.cell_id is None):
            raise InvalidArgumentError("give exactly one of index and cell_id", state="nothing was run")
        cells = request.cell_id if request.cell_id is not None else str(request.index)
        options = NotebookRequest(
            path=request.path,
            kernel_id=request.kernel_id,
            python=request.python,
            cells=cells,
            timeout=request.timeout,
        )
        return await self._in_place(options, request, one_cell=True)

    async def notebook(self, request: NotebookRequest) -> InPlaceRun:
        """Run the code cells of a notebook in its kernel, saving results into it as the run goes on.

        Raises:
            CellNotFoundError, InvalidArgumentError: the selection names no code cell.
            BusyError: another run writes to the notebook.
        """
        return await self._in_place(request, request, one_cell=False)

    async def _in_place(self, options: NotebookRequest, request: RunRequest, *, one_cell: bool) -> InPlaceRun:
        bench = self._bench
        await imported(notebook_run)
        notebook = await bench.notebooks.open(options.path, writing=options.save)
        document = notebook.document
        wants_stale = _is_stale(options.cells, document)

        def chosen_cells() -> list[notebook_run.RunCell]:
            document.read_ahead()
            if options.save:
                document.require_editable()
            chosen: Sequence[int] | None
            if wants_stale:
                kernel = None if options.fresh else bench.kernels.bound(notebook.path)
                chosen = bench.staleness.to_run(notebook.path, document, kernel)
            else:
                chosen = None if options.cells is None else select(document, options.cells, notebook.display_path)
            timings = bench.store.timings(str(notebook.path))
            return notebook_run.run_cells(document.cells, chosen, timings=timings)

        cells = await asyncio.to_thread(chosen_cells)
        if not cells and not wants_stale:
            selection = f" in the selection {options.cells[:100]!r}" if options.cells else ""
            raise InvalidArgumentError(
                f"{notebook.display_path} has no code cell to run{selection}",
                state="nothing was run",
                advice="read_notebook shows its cells",
            )
        if one_cell:
            cells[0].skip = False  # its tag is for runs of the notebook, and this call names the cell
        run = InPlaceRun(request, notebook, bench, one_cell=one_cell, of_stale=wants_stale)
        if not cells:
            run.notes.append("nothing is stale")
        await bench.claims.take([notebook.path], run.execution_id)
        try:
            run.notes += await bench.notebooks.undone(notebook, outputs=False)
            kernel, notes, new = await bench.kernels.for_notebook(
                notebook.path, document, kernel_id=options.kernel_id, python=options.python, fresh=options.fresh
            )
            run.notes += notes
            run.notes += filter(None, [_not_yet_run(document, cells) if new and cells else None])
            file = bench.notebooks.run_file(notebook, run.execution_id) if options.save else None
            if file is not None:
                file.expect(cell.index for cell in cells if not cell.skip)
            resumed = None
            if file is not None and document.metadata.get("papermill"):
                resumed = await asyncio.to_thread(_resumed_observer, file, document)
            run.prepare(
                kernel,
                notebook_run.NotebookRun(
                    cells,
                    resumed or notebook_run.InPlaceObserver(file),
                    timeout_seconds=self._timeout_seconds(options.timeout),
                    continue_on_error=self._continues(options.continue_on_error),
                    owner=run.execution_id,
                    changed=run.changed,
                ),
                file,
                resumed,
            )
        except BaseException:
            bench.claims.release(run.execution_id)
            raise
        return run

    async def papermill(self, request: PapermillRequest) -> PapermillRun:
        """Run a notebook with parameters into an output notebook, in a kernel of its own.

        The input is never changed. The output is there from the first cell on, and whole at every instant.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
            AlreadyExistsError: the output exists and may not be replaced.
            BusyError: another run writes to the output.
            KernelSpecNotFoundError, KernelStartFailedError, LimitReachedError: there is no kernel for it.
        """
        notebook = await self.input(request.input_path)
        plan = await self.plan(notebook, request)
        remote = None
        if request.output_path is not None and (url := self._workspace.remote(request.output_path)) is not None:
            remote = await self._bench.remotes.planned(url, overwrite=request.overwrite)
        run = PapermillRun(request, plan, self._output_file(request, notebook, remote), self._bench, remote=remote)
        await run.prepare()
        return run

    async def input(self, path: str) -> RunInput:
        """Read a notebook to run a copy of it.

        Raises:
            ServerError: it cannot be read.
        """
        async with self._bench.notebooks.opened(path) as (notebook, work):
            notes = await self._bench.notebooks.undone(notebook, outputs=False)
            return await work.run(lambda: RunInput.of(notebook, notes))

    async def plan(self, notebook: RunInput, request: PapermillRequest) -> PapermillPlan:
        """Check that a notebook can be run with these parameters, before anything is begun.

        Raises:
            InvalidParametersError: the parameters do not fit the notebook.
            KernelSpecNotFoundError: no such kernel is installed.
        """
        template = await self.template(notebook, request)
        values, warnings = await asyncio.to_thread(template.checked, request.parameters or {})
        return template.plan(values, warnings)

    async def template(self, notebook: RunInput, request: PapermillRequest, *, make: bool = True) -> RunTemplate:
        """All that runs of a notebook have in common, whatever their parameters.

        Args:
            make: make the environment that the notebook declares, if need be.

        Raises:
            KernelSpecNotFoundError: no such kernel is installed.
        """
        await imported(papermill_output, parameters)
        document = notebook.document
        choice = await self._bench.kernels.choose(
            notebook.path.parent,
            document=document,
            python=request.python,
            kernel_name=request.kernel_name,
            make=make,
        )
        name = choice.kernel_name
        kernelspec = choice.kernelspec()
        if kernelspec is None:
            spec = await self._bench.kernels.installed(name)
            kernelspec = {"display_name": spec.display_name, "language": spec.language, "name": name}
        language = request.language
        if language is None:
            chosen = request.kernel_name or request.python
            language = kernelspec["language"] if chosen else (document.language or kernelspec["language"])
        known = await asyncio.to_thread(parameters.NotebookParameters, document, kernel_name=name, language=language)
        task = papermill_output.PapermillTask(
            parameters={},
            kernelspec=kernelspec,
            environment=choice.environment,
            python=choice.label,
            packages_in=choice.packages_in,
            language=language,
            input_path=str(notebook.path),
            output_path="",
            display_path=notebook.display_path,
            timeout_seconds=self._timeout_seconds(request.timeout),
            continue_on_error=self._continues(request.continue_on_error),
            report_mode=request.report_mode,
        )
        return RunTemplate(request, notebook, task, known, [*notebook.notes, *choice.notes])

    async def install(self, request: InstallRequest) -> InstallRun:
        """Install packages into the environment of a kernel, a notebook or a name.

        Raises:
            InvalidArgumentError: a package is no requirement, not exactly one target is given, or it is no Python.
            KernelNotFoundError: there is no such kernel.
            BusyError: another execution installs there.
            EnvironmentFailedError: there is no installer.
        """
        if sum(one is not None for one in (request.kernel_id, request.path, request.python)) != 1:
            raise InvalidArgumentError("give exactly one of kernel_id, path and python", state="nothing was installed")
        packages = requirements.requirements_of(request.packages)
        kernels, file, recording = self._bench.kernels, None, None
        if request.record and request.path is None:
            raise InvalidArgumentError(
                "record=true needs path, the notebook in which the packages are recorded", state="nothing was installed"
            )
        if request.python is not None:
            environment = await kernels.environment_named(request.python)
        elif request.kernel_id is not None:
            environment = await asyncio.to_thread(kernels.environment_of, kernels.get(request.kernel_id))
        else:
            assert request.path is not None
            notebook = await self._bench.notebooks.open(request.path, writing=request.record)
            file = notebook.path
            if request.record:
                environment, recording = await self._recording(notebook, packages)
            else:
                environment = await kernels.environment_for(notebook.path, notebook.document)
        if recording is None or recording.declaration is None:
            await kernels.require_changeable(environment, named=request.python is not None)
        run = InstallRun(
            request, environment, packages, kernels=kernels, claims=self._bench.claims, file=file, recording=recording
        )
        await run.prepare()
        return run

    async def _recording(self, notebook: OpenNotebook, packages: Sequence[str]) -> tuple[Environment, Recording]:
        """Where packages of a notebook go, and where they are recorded.

        Raises:
            InvalidNotebookError: it cannot be edited.
            EnvironmentFailedError: its declaration cannot be used.
        """
        document, kernels, notebooks = notebook.document, self._bench.kernels, self._bench.notebooks
        document.require_editable()
        found = await asyncio.to_thread(declared.declared_by, document)
        if found is not None and found.problem is not None:
            raise EnvironmentFailedError(
                f"the declaration of the notebook in {found.place} cannot be used: {found.problem}",
                state="nothing was installed",
                advice="mend it there first",
            )
        maker = await kernels.maker()
        used = self._config.notebook_environments == "auto" and self._config.python is None
        bound = await asyncio.to_thread(kernels.bound_environment, notebook.path)
        if not used and (bound is None or not maker.holds(bound)):
            environment = await kernels.environment_for(notebook.path, document)
            if not await asyncio.to_thread(kernels.is_own, environment):
                return environment, Recording(notebooks, notebook.display_path)
            bound = None  # the server's own environment stays as it is: the notebook gets one for itself
        fresh = declared.Declaration("the new cell 0", requires_python=f">={sys.version_info[0]}.{sys.version_info[1]}")
        declaration = (found or fresh).with_packages(packages)
        earlier = bound or (maker.found(found) if found is not None else None)
        return maker.planned(declaration), Recording(notebooks, notebook.display_path, declaration, earlier, used)

    def _output_file(self, request: PapermillRequest, notebook: RunInput, remote: RemoteOutput | None) -> Path:
        """The output as the client named it, else a name with the time in the output directory.

        Args:
            remote: the place in an object store that the client named. The file is the copy here.

        Raises:
            PathNotAllowedError: it is outside the roots, or is the input itself.
            AlreadyExistsError: it is there and may not be replaced.
        """
        if request.output_path is None or remote is not None:
            directory = self._workspace.directory(str(self._config.output_directory), create=True)
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            stem = short_stem(remote.claim if remote is not None else notebook.path)
            output = directory / f"{stem}-{stamp}.ipynb"
            number = 1
            while output.exists() or output in self._bench.claims:
                number += 1
                output = directory / f"{stem}-{stamp}-{number}.ipynb"
            return output
        output = self._workspace.notebook(request.output_path, writing=True)
        if output.exists():
            if self._workspace.same_file(output, notebook.path):
                raise InvalidArgumentError(
                    f"output_path and input_path are the same file, {notebook.display_path}",
                    state="nothing was run",
                    advice="give another output_path, or use execute_notebook to run a notebook in place",
                )
            if not request.overwrite:
                raise AlreadyExistsError(
                    f"{self._workspace.display_path(output)} exists",
                    state="nothing was run",
                    advice="give another output_path, leave it out for a new name, or pass overwrite=true",
                )
        return output

    def _timeout_seconds(self, timeout: float | None) -> float | None:
        """The longest time of a cell: as given, else as the server is set; None for no limit."""
        seconds = self._config.execution_timeout if timeout is None else timeout
        return seconds or None

    def _continues(self, continue_on_error: bool | None) -> bool:
        """Whether a run goes on after a cell that raised: as given, else as the server is set."""
        return self._config.continue_on_error if continue_on_error is None else continue_on_error


def _not_yet_run(document: NotebookDocument, cells: Sequence[RunCell]) -> str:
    """The cells that a selection leaves out before its last cell. They have not run in a new kernel."""
    chosen = {cell.index for cell in cells}
    above = [cell.index for cell in notebook_run.run_cells(document.cells[: max(chosen)]) if cell.index not in chosen]
    return f"this run has a new kernel, in which cells above it have not run: {ranges(above)}" if above else ""


def _resumed_observer(file: RunFile, document: NotebookDocument) -> ResumedObserver | None:
    """The observer for the output of an earlier papermill run; None for any other notebook."""
    return resume.ResumedObserver(file) if is_output(document) else None


def _is_stale(cells: str | None, document: NotebookDocument) -> bool:
    """Whether a selection is `stale`, and no cell has that id.

    Raises:
        InvalidArgumentError: other cells are named beside it.
    """
    parts = [part.strip() for part in (cells or "").split(",")]
    if _STALE not in parts or _STALE in document.ids():
        return False
    if len(parts) > 1:
        raise InvalidArgumentError(
            f"the selection {(cells or '')[:100]!r} has stale beside other cells",
            allowed='cells="stale" alone, or cells by index or id',
            state="nothing was run",
            advice="make two calls",
        )
    return True
