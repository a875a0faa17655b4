"""Begins verifications: reads the notebook, its reference, and the wishes of nbval's users."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.config import Config
from papermill_mcp.core.documents.alignment import aligned
from papermill_mcp.errors import ConflictError, InvalidArgumentError, InvalidParametersError, NotFoundError
from papermill_mcp.services.comparing import ComparisonService
from papermill_mcp.services.notebook_service import OpenNotebook
from papermill_mcp.services.notebooks.walk import walk
from papermill_mcp.services.runs.papermill_run import Bench, RunInput
from papermill_mcp.services.runs.requests import PapermillRequest, VerifyRequest
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.runs.verify_directory import VerifyDirectoryRun
from papermill_mcp.services.runs.verify_run import Reference, VerifyRun
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core.verification import blanking
    from papermill_mcp.core.verification.blanking import Blank
else:
    blanking = lazy("papermill_mcp.core.verification.blanking")

_SAVED = "saved"


class VerifyStarter:
    """Prepares verifications. The registry starts and follows them.

    Args:
        memory: a private directory for `ResultsTable`.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        bench: Bench,
        runs: RunStarter,
        comparisons: ComparisonService,
        *,
        memory: Path | None = None,
    ) -> None:
        self._config = config
        self._comparisons = comparisons
        self._memory = memory
        self._workspace = workspace
        self._bench = bench
        self._runs = runs
        self.blanks: list[Blank] = []
        """Expressions that do not count in any verification, such as those of a sanitiser file."""

    async def verify(self, request: VerifyRequest) -> VerifyRun | VerifyDirectoryRun:
        """Run a notebook, or each one of a directory, in a fresh kernel and compare its outputs with saved ones.

        Raises:
            ServerError: as for `one`, or the directory has no notebook.
        """
        file = request.path.lower().endswith(".ipynb")
        if not file:  # a file of another name gets the error of a notebook
            file = await asyncio.to_thread(self._workspace.real_path(request.path).is_file)
        return await (self.one(request) if file else self.directory(request))

    async def directory(self, request: VerifyRequest, *, report: bool = True) -> VerifyDirectoryRun:
        """Verify each notebook of a directory, or one notebook as if it were alone in one.

        Args:
            report: write a table and a report.

        Raises:
            ServerError: the arguments do not fit together, or there is no notebook.
        """
        workspace = self._workspace
        if request.path.lower().endswith(".ipynb"):
            file = workspace.notebook(request.path)
            if not await asyncio.to_thread(file.exists):
                raise workspace.not_found(file, request.path)
            place, paths, notes = file.parent, [request.path], []
        else:
            place = workspace.directory(request.path)
            found = await asyncio.to_thread(walk, place, workspace, recursive=True)
            paths, notes = [one.display_path for one in found.found], found.notes()
        shown = workspace.display_path(place)
        if not paths:
            raise NotFoundError(f"{shown} has no notebook", state="nothing was run", advice="name another directory")
        if request.if_revision is not None or (request.against != _SAVED and not request.against.startswith("git:")):
            raise InvalidArgumentError(
                f"{shown} is a directory, which goes without if_revision and against another notebook",
                allowed='against="saved" or "git:HEAD"',
                state="nothing was run",
            )
        if request.ignore:
            await imported(blanking)
            await blanking.checked([blanking.Blank(pattern) for pattern in request.ignore])
        results = None if self._config.read_only or not report else partial(self._results_of, place)
        run = VerifyDirectoryRun(request, place, paths, self.one, results=results, memory=self._memory)
        run.notes += notes
        return run

    def _results_of(self, directory: Path) -> Path:
        """The directory for the table and the report of a verified directory."""
        name = f"{self._config.output_directory}/verify-{directory.name}"
        return self._workspace.directory(name, create=True)

    async def one(self, request: VerifyRequest) -> VerifyRun:
        """Run a notebook in a fresh kernel and compare its outputs with saved ones.

        Raises:
            InvalidArgumentError: the arguments do not fit together, or `ignore` has no regular expression.
            InvalidParametersError: the parameters do not fit the notebook.
            ConflictError: the file is not `if_revision`.
            ServerError: the notebook or its reference cannot be read, or no kernel starts.
        """
        if request.update and request.against != _SAVED:
            raise InvalidArgumentError(
                "update writes the fresh outputs of cells that differ from the saved ones",
                allowed='with against="saved"',
                state="nothing was run",
            )
        if request.update and request.parameters:
            raise InvalidArgumentError(
                "update would save outputs of the parameters of this call beside the notebook's own values",
                allowed="update=true without parameters",
                state="nothing was run",
            )
        if request.update and self._config.read_only:
            raise InvalidArgumentError(
                "update writes a notebook, and this server may not write (read_only)",
                allowed="update=false",
                state="nothing was run",
            )
        await imported(blanking)
        notebook = await self._bench.notebooks.open(request.path, writing=request.update)
        if request.if_revision is not None and notebook.revision != request.if_revision:
            raise ConflictError(
                f"{notebook.display_path} has revision {notebook.revision}, not {request.if_revision[:64]}",
                state="nothing was run",
                advice="read it again",
            )
        if request.update:
            notebook.document.require_editable()
        reference = await self._reference(request.path, request.against, notebook)
        one = PapermillRequest(
            input_path=request.path,
            parameters=request.parameters,
            python=request.python,
            kernel_name=request.kernel_name,
            timeout=request.timeout,
        )
        try:
            plan = await self._runs.plan(RunInput.of(notebook), one)
        except InvalidParametersError as error:
            words = error.advice.partition(", or pass strict_parameters")[0]  # an argument that this tool has not got
            raise error.advising(words) from None
        blanks = [*self.blanks, *(blanking.Blank(pattern) for pattern in request.ignore or ())]
        run = VerifyRun(request, notebook, reference, plan, self._bench, blanks=blanks)
        await run.prepare()
        return run

    async def _reference(self, path: str, against: str, notebook: OpenNotebook) -> Reference:
        document = notebook.document
        if against == _SAVED:
            return Reference("its saved outputs", dict(enumerate(document.cells)), document)
        earlier = await self._comparisons.earlier(path, against)
        if earlier is None:
            other = await self._bench.notebooks.open(against)
            earlier = other.display_path, other.document
        name, reference = earlier
        places = aligned(document.cells, reference.cells)
        return Reference(name, {index: reference.cells[place] for index, place in places.items()}, reference)
