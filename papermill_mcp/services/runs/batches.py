"""Begins batches: which runs there are, the name of each output, and which need not be run again.

An output records a digest of the notebook's bytes, the parameters and the Python, and has a name that is the same each
time. So a batch that was cut off is taken up by the same request: complete outputs are kept.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.config import Config
from papermill_mcp.errors import InvalidArgumentError, InvalidParametersError, ServerError, listed
from papermill_mcp.services.runs.backends import DaskBackend, LocalBackend
from papermill_mcp.services.runs.batch import Backend, BatchRow, BatchRun
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.papermill_run import Bench, RunTemplate
from papermill_mcp.services.runs.remote_outputs import RemoteDirectory, copy_name
from papermill_mcp.services.runs.requests import BatchRequest, PapermillRequest
from papermill_mcp.services.runs.run_pictures import RunPictures
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.runs.view import BatchPreview, RunRow
from papermill_mcp.services.workspace import Workspace, short_stem
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.file_utils import read_file, stamp_of
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.text_utils import count_noun

if TYPE_CHECKING:
    from papermill_mcp.core.documents.document import NotebookDocument
    from papermill_mcp.core.papermill import batch_outputs, parameter_file, parameter_sets
    from papermill_mcp.core.papermill.batch_outputs import Found, OutputsOf
    from papermill_mcp.core.runs import table as tables
    from papermill_mcp.services.runs import batch_estimate, batch_report
else:
    batch_estimate = lazy("papermill_mcp.services.runs.batch_estimate")
    batch_report = lazy("papermill_mcp.services.runs.batch_report")
    tables = lazy("papermill_mcp.core.runs.table")
    batch_outputs = lazy("papermill_mcp.core.papermill.batch_outputs")
    parameter_file = lazy("papermill_mcp.core.papermill.parameter_file")
    parameter_sets = lazy("papermill_mcp.core.papermill.parameter_sets")

#: Runs of one batch in this server, and on a cluster, at most.
MAX_RUNS = 1000
MAX_CLUSTER_RUNS = 10_000

#: Runs that are planned in one go of a worker thread.
_SLICE = 200

#: Runs that a preview lists.
PLANNED_ROWS = 40

#: Faults of parameters that are said at once.
_MAX_FAULTS = 10

#: Bytes of a file of parameters.
MAX_FILE_BYTES = 50_000_000

#: Characters that a URL cannot have, and that mean more than one name to a store.
_NO_NAME = re.compile(r"[?#*\[\]\\%]")

logger = logging.getLogger(__name__)


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
        plan = await self._plan(request)
        rows = plan.rows
        backend: Backend = LocalBackend(self._config, self._bench, memory_limit=request.memory_limit)
        if self._clustered and plan.kept < len(rows):
            backend = await self._cluster([row for row in rows if not row.kept], request.resources)
        await imported(batch_report)
        batch = BatchRun(
            request,
            rows,
            backend,
            self._bench.claims,
            self._journal,
            table=_table(rows, request, self._memory),
            reports=batch_report.BatchReports(self._config, self._pictures),
            remote=plan.remote,
        )
        try:
            outputs = await asyncio.to_thread(lambda: [row.output for row in rows])
            await self._bench.claims.take(outputs, batch.execution_id)
        except BaseException:
            await backend.aclose()
            raise
        batch.notes[:0] = plan.first_notes
        batch.notes += plan.notes
        return batch

    async def preview(self, request: BatchRequest) -> BatchPreview:
        """The plan of a batch and an estimate. Nothing is run, made or written.

        Raises:
            InvalidArgumentError: as for `batch`. Parameters that do not fit are in the answer.
        """
        try:
            plan = await self._plan(request)
        except InvalidParametersError as error:
            return BatchPreview(status="refused", duration=0.0, notes=[str(error)])
        room = (
            None
            if self._clustered
            else LocalBackend(self._config, self._bench, memory_limit=request.memory_limit).room(request.max_parallel)
        )
        notes = [*plan.first_notes, *plan.notes]
        for part in plan.parts:
            if left := sum(not row.kept for row in part.rows):
                files = await asyncio.to_thread(part.earlier_outputs)
                found = await batch_estimate.estimate(part.template.notebook.path, files, self._bench.notebooks)
                name = part.template.notebook.display_path
                notes.append(
                    f"{name}: {found.sentence(left, room)}"
                    if found is not None
                    else f"there is no complete output of {name} yet to estimate time and disk from"
                )
        rows, shown = plan.rows, self._workspace.display_path
        first = plan.parts[0].template
        if len(rows) > PLANNED_ROWS:
            notes.append(f"{len(rows) - PLANNED_ROWS:,} more runs are not listed here")
        return BatchPreview(
            status="planned",
            duration=0.0,
            kernel_name=first.task.kernel_name,
            python=first.task.python,
            input_path=first.notebook.display_path if len(plan.parts) == 1 else None,
            runs_total=len(rows),
            runs_done=plan.kept,
            runs=[
                RunRow(
                    run=row.number,
                    status="ok" if row.kept else "planned",
                    parameters=row.values,
                    input_path=row.template.notebook.display_path if len(plan.parts) > 1 else None,
                    output_path=row.remote.url if row.remote is not None else shown(row.output),
                    kept=row.kept or None,
                )
                for row in rows[:PLANNED_ROWS]
            ],
            notes=notes,
        )

    @property
    def _clustered(self) -> bool:
        return self._config.dask_scheduler is not None

    async def _plan(self, request: BatchRequest) -> _Plan:
        """The runs of a batch, checked, each with its output.

        Raises:
            ServerError: see `batch`.
        """
        if request.resources is not None and not self._clustered:
            raise InvalidArgumentError(
                "resources are those of Dask workers, and there is no cluster",
                state="nothing was run",
                advice="leave resources out, or set dask_scheduler",
            )
        if wrong := [name for name, number in (request.resources or {}).items() if not 0 < number < math.inf]:
            raise InvalidArgumentError(
                f"resources has {wrong[0][:100]!r} with a number that is not above 0", state="nothing was run"
            )
        await imported(parameter_sets)
        paths = _paths(request.input_path, request.input_paths)
        most = MAX_CLUSTER_RUNS if self._clustered else MAX_RUNS
        found = await asyncio.to_thread(
            parameter_sets.parameter_sets,
            await self._listed(request.parameters),
            request.grid,
            sample=request.sample,
            seed=request.seed,
            most=most,
        )
        if (number := len(paths) * len(found.sets)) > most:
            raise InvalidArgumentError(
                f"{len(paths)} notebooks with {len(found.sets):,} sets of parameters make {number:,} runs",
                allowed=f"a batch has at most {most:,}",
                state="nothing was run",
                advice="make several batches of it",
            )
        remote = await self._remote(request)
        parts = await self._planned(request, paths, found.sets, remote)
        changed, edited = await self._place(parts, resume=request.resume, make=not request.dry_run)
        return _Plan(parts, changed, edited, found.note, remote)

    async def _remote(self, request: BatchRequest) -> RemoteDirectory | None:
        """The place in an object store that the request names for the outputs; None if it names none.

        Raises:
            PathNotAllowedError: it may not be used.
            NotFoundError, PermissionDeniedError, ServerNotRunningError: it cannot be used.
        """
        url = request.output_directory and self._workspace.remote(request.output_directory, directory=True)
        if not url:
            return None
        name = f"{self._config.output_directory}/{copy_name(url)}"
        copy = self._workspace.directory(name, create=True, make=False)
        remote = await self._bench.remotes.directory(url, copy)
        if not request.dry_run:
            self._workspace.directory(name, create=True)
        return remote

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
            found = parameter_file.sets_in(content.data, real.suffix.lower(), shown)
            if not found:
                raise InvalidArgumentError(
                    f"{shown} has no set of parameters", state="nothing was run", advice="add a line, or an object"
                )
            return found

        return await asyncio.to_thread(read)

    async def _cluster(self, rows: Sequence[BatchRow], resources: Mapping[str, float] | None) -> DaskBackend:
        """The Dask cluster, whose workers can do the runs."""
        backend = await DaskBackend.connect(self._config, self._bench, resources)
        try:
            await backend.check({id(row.template): row for row in rows}.values())
        except BaseException:
            await backend.aclose()
            raise
        return backend

    async def _planned(
        self,
        request: BatchRequest,
        paths: Sequence[str],
        sets: Sequence[dict[str, Any]],
        remote: RemoteDirectory | None,
    ) -> list[_Part]:
        """The runs of each notebook, checked. It is read and inspected once, and the sets are checked in threads.

        Raises:
            InvalidParametersError: the parameters of runs do not fit; the message names them.
            InvalidArgumentError: two runs are the same.
        """
        parts: list[_Part] = []
        digests: dict[str, int] = {}
        first = 0
        await imported(parameter_file, batch_outputs)
        for path in paths:
            notebook = await self._runs.input(path)
            one = PapermillRequest(
                input_path=path,
                timeout=request.timeout,
                continue_on_error=request.continue_on_error,
                strict_parameters=request.strict_parameters,
                kernel_name=request.kernel_name,
                python=request.python,
                language=request.language,
                report_mode=request.report_mode,
                overwrite=True,
            )
            try:
                template = await self._runs.template(notebook, one, make=not request.dry_run)
                template.task = replace(template.task, memory_limit=request.memory_limit)
            except ServerError as error:
                if len(paths) * len(sets) == 1:
                    raise
                raise error.within(f"run {first} of the batch, {notebook.display_path}") from error
            faults = _Faults(notebook.display_path, first, alone=len(paths) * len(sets) == 1)
            checked: list[dict[str, Any]] = []
            for start in range(0, len(sets), _SLICE):
                checked += await asyncio.to_thread(_checked, template, sets[start : start + _SLICE], start, faults)
            faults.none_left()
            default = f"{self._config.output_directory}/{short_stem(notebook.path)}-batch"
            if remote is not None:
                directory = remote.copy
            else:
                directory = self._workspace.directory(
                    request.output_directory or default, create=True, make=not request.dry_run
                )
            outputs = batch_outputs.OutputsOf(notebook.document, template.task, notebook.revision)
            template.outputs = outputs
            part = _Part(template, directory, outputs, remote)
            for start in range(0, len(sets), _SLICE):
                await asyncio.to_thread(part.add, checked[start : start + _SLICE], first + start, digests)
            parts.append(part)
            first += len(sets)
        return parts

    async def _place(self, parts: Sequence[_Part], *, resume: bool, make: bool) -> tuple[list[str], list[str]]:
        """Give each run its output, and count runs as done whose outputs are there from an earlier batch, and complete.

        Args:
            make: copy complete outputs of an object store.

        Returns:
            The names of outputs whose cells were changed since. They stay: their runs get others. And the names of
            complete ones that others have written since.
        """
        await asyncio.to_thread(_name, parts)
        changed: list[str] = []
        kept: dict[BatchRow, str] = {}
        for part in parts:
            there = await asyncio.to_thread(part.names_there)
            for start in range(0, len(part.rows), _SLICE):
                left = await asyncio.to_thread(part.place, part.rows[start : start + _SLICE], there)
                if part.remote is None:
                    for row in left:
                        changed += await self._look(row, part, there, kept, resume=resume, make=make)
                else:  # its objects are read a few at a time
                    looks = (self._look(row, part, there, kept, resume=resume, make=make) for row in left)
                    changed += itertools.chain.from_iterable(await asyncio.gather(*looks))
            if part.remote is not None:
                for row in part.rows:
                    row.remote = row.remote or part.remote.output(row.name, published=False)
        return changed, await self._edited(parts, kept)

    async def _edited(self, parts: Sequence[_Part], kept: Mapping[BatchRow, str]) -> list[str]:
        """The names of complete outputs that are not as any run in the table of results has left them.

        Args:
            kept: their rows, and the revision of each.
        """
        if not kept:
            return []
        remote = parts[0].remote
        try:
            lines = await remote.tables() if remote is not None else []
            directory = _common([part.directory for part in parts])
            known = await asyncio.to_thread(tables.revisions_in, directory, lines)
        except ServerError:
            return []  # without a table it is not known
        return [row.name for row, revision in kept.items() if revision not in known.get(row.name, {revision})]

    async def _look(
        self,
        row: BatchRow,
        part: _Part,
        there: Mapping[str, str],
        kept: dict[BatchRow, str],
        *,
        resume: bool,
        make: bool,
    ) -> list[str]:
        """Choose the output of a run that finds files under its names. Returns the names of those that were changed.

        A complete output is kept. One that is incomplete and unchanged is replaced. Any other file stays.

        Args:
            kept: the revisions of outputs that are kept; that of this run is added.
        """
        free = ""
        mine: list[str] = []
        changed: list[str] = []
        for number, (name, by_digest) in enumerate(part.options(row)):
            found_name = there.get(name.casefold())
            if found_name is None:
                free = free or (name if by_digest or number == 0 else "")
                if by_digest:
                    break
                continue
            if found_name != name:
                continue  # on other file systems it is the same one
            try:
                document, found, revision = await self._read(row, part, name)
            except ServerError:
                changed.append(name)  # something else is in its place
                continue
            if found.digest != row.digest and not (by_digest and found.digest is None):
                continue
            if resume and found.summary is not None:
                row.name = name
                row.keep(found.summary)
                kept[row] = revision
                if document is not None and part.remote is not None:
                    row.remote = part.remote.output(name, published=True)
                    if make:
                        await self._copy(row, document)
                return []
            (changed if found.changed else mine).append(name)
        row.name, row.replaces = mine[0] if mine else free, bool(mine)
        return [] if mine else changed[:1]

    async def _read(self, row: BatchRow, part: _Part, name: str) -> tuple[NotebookDocument | None, Found, str]:
        """Compare a notebook with the output of a run: the object in a store if there is one, else the file.

        Returns:
            Also the document of an object, and the revision.

        Raises:
            ServerError: it cannot be read.
        """
        notebooks = self._bench.notebooks
        if part.remote is not None and name in part.remote.versions:
            document = await part.remote.read(name, notebooks)
            revision = await asyncio.to_thread(lambda: revision_of(document.render()))
            return document, await asyncio.to_thread(part.outputs.look, document, row.values), revision
        path = self._workspace.display_path(row.directory / name)
        async with notebooks.opened(path) as (notebook, work):
            found = await work.run(partial(part.outputs.look, notebook.document, row.values))
            return None, found, notebook.revision

    async def _copy(self, row: BatchRow, document: NotebookDocument) -> None:
        """Keep a copy of an output in an object store, for pictures and reports."""
        try:
            data = await asyncio.to_thread(document.render)
            if await self._bench.notebooks.revision_of(row.output) != revision_of(data):
                await self._bench.notebooks.put(row.output, document, overwrite=True)
        except ServerError as error:
            logger.warning("an output has no copy here", extra={"path": str(row.output), "error": str(error)})


@dataclass
class _Part:
    """The runs of one notebook in a batch, and their outputs.

    Attributes:
        speaking: names that say the parameters, for each run, the best first.
    """

    template: RunTemplate
    directory: Path
    outputs: OutputsOf
    remote: RemoteDirectory | None = None
    rows: list[BatchRow] = field(default_factory=list)
    speaking: list[list[str]] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """The beginning of the names of the outputs."""
        stem = short_stem(self.template.notebook.path)
        return stem if self.remote is None else _NO_NAME.sub("_", stem)

    def add(self, sets: Sequence[dict[str, Any]], first: int, digests: dict[str, int]) -> None:
        """Add a run for each set of parameters. Called in a worker thread.

        Args:
            first: the number of the first of them in the batch.
            digests: the runs so far; these runs are added.

        Raises:
            InvalidArgumentError: two runs are the same.
        """
        for number, values in enumerate(sets, first):
            digest = self.outputs.digest(values)
            other = digests.setdefault(digest, number)
            if other != number:
                raise InvalidArgumentError(
                    f"runs {other} and {number} are the same: {self.template.notebook.display_path} with "
                    f"{_short(values)}",
                    state="nothing was run",
                    advice="give each run once; to repeat a run, add a parameter that numbers the repetition",
                )
            self.rows.append(BatchRow(number, self.template, values, self.directory, digest))

    def names_there(self) -> dict[str, str]:
        """The names of the files in the directory, by their text without case. Called in a worker thread."""
        names = [file.name for file in self.directory.iterdir()] if self.directory.is_dir() else []
        return {name.casefold(): name for name in [*names, *(self.remote.versions if self.remote is not None else ())]}

    def earlier_outputs(self) -> list[Path]:
        """Files that may be outputs of the notebook, the newest first. Called in a worker thread."""
        names = [name for name in self.names_there().values() if name.startswith(f"{self.stem}-")]
        files = [self.directory / name for name in names if name.endswith(".ipynb")]
        stamps = {file: stamp.mtime_ns for file in files if (stamp := stamp_of(file)) is not None}
        return sorted(stamps, key=lambda file: stamps[file], reverse=True)

    def place(self, rows: Sequence[BatchRow], there: Container[str]) -> list[BatchRow]:
        """Give the best of its names to each run that finds none of them taken. Returns the other runs."""
        left = []
        for row in rows:
            by_digest = batch_outputs.digest_name(self.stem, row.digest)
            names = [*self.speaking[row.number - self.rows[0].number], by_digest]
            if any(name.casefold() in there for name in names):
                left.append(row)
            else:
                row.name = names[0]
        return left

    def options(self, row: BatchRow) -> Iterator[tuple[str, bool]]:
        """The names that an output may have, without end, and whether each is after its digest."""
        yield from ((name, False) for name in self.speaking[row.number - self.rows[0].number])
        yield from ((batch_outputs.digest_name(self.stem, row.digest, number), True) for number in itertools.count(1))


@dataclass(frozen=True)
class _Plan:
    """The runs of a batch.

    Attributes:
        changed: the names of outputs that were changed since an earlier run.
        edited: the names of complete outputs that others have written since their run.
        sampled: a sentence about the sample.
        remote: the place of the outputs in an object store.
    """

    parts: Sequence[_Part]
    changed: Sequence[str]
    edited: Sequence[str]
    sampled: str | None
    remote: RemoteDirectory | None

    @cached_property
    def rows(self) -> list[BatchRow]:
        """All runs, in order."""
        return [row for part in self.parts for row in part.rows]

    @cached_property
    def kept(self) -> int:
        """How many an earlier batch has completed."""
        return sum(row.kept for row in self.rows)

    @property
    def first_notes(self) -> list[str]:
        """A sentence for the client about the runs that are kept."""
        if not self.kept:
            return []
        return [
            f"{self.kept} of {len(self.rows)} runs were complete already and are kept; resume=false runs them again"
        ]

    @property
    def notes(self) -> list[str]:
        """Further sentences for the client."""
        notes = []
        if self.changed:
            notes.append(
                f"{count_noun(len(self.changed), 'output')} changed since an earlier run stays as it is, and its run "
                f"has another one: {listed(self.changed, limit=5)}"
            )
        if self.edited:
            notes.append(
                f"{count_noun(len(self.edited), 'output')} changed by another program since the run, but complete, so "
                f"kept: {listed(self.edited, limit=5)}"
            )
        notes += filter(None, [self.sampled])
        return [*notes, *dict.fromkeys(note for part in self.parts for note in part.template.notes)]


def _name(parts: Sequence[_Part]) -> None:
    """Find the names that say parameters. Those that two runs would have, up to case, are dropped."""
    for part in parts:
        part.speaking = batch_outputs.speaking_names(part.stem, [row.values for row in part.rows])
    times = Counter(
        (part.directory, name)
        for part in parts
        for names in part.speaking
        for name in {name.casefold() for name in names}
    )
    for part in parts:
        part.speaking = [
            [name for name in names if times[part.directory, name.casefold()] == 1] for names in part.speaking
        ]


class _Faults:
    """The runs of a notebook whose parameters do not fit.

    Args:
        first: the number of its first run in the batch.
        alone: it is the only run of the batch.
    """

    def __init__(self, notebook: str, first: int, *, alone: bool) -> None:
        self._notebook = notebook
        self._first = first
        self._alone = alone
        self._faults: list[tuple[str, InvalidParametersError]] = []

    def add(self, number: int, values: Mapping[str, Any], error: InvalidParametersError) -> None:
        """Remember a fault.

        Raises:
            InvalidParametersError: there are enough for one message.
        """
        if self._alone:
            raise error
        line = f" (line {values.line})" if isinstance(values, parameter_file.TextSet) else ""
        self._faults.append((f"run {self._first + number}{line}", error))
        if len(self._faults) == _MAX_FAULTS:
            self.none_left()

    def none_left(self) -> None:
        """Check that there is no fault.

        Raises:
            InvalidParametersError: there are some.
        """
        if self._faults:
            raise _all_of(self._faults, self._notebook) from self._faults[0][1]


def _checked(
    template: RunTemplate, sets: Sequence[dict[str, Any]], first: int, faults: _Faults
) -> list[dict[str, Any]]:
    """Sets of parameters as they are injected. Called in a worker thread. Args: `first`: the number of the first."""
    found: list[dict[str, Any]] = []
    for number, given in enumerate(sets, first):
        columns = given.columns if isinstance(given, parameter_file.TextSet) else None
        try:
            values, warnings = template.checked(given, columns=columns)
        except InvalidParametersError as error:
            faults.add(number, given, error)
        else:
            found.append(values)
            template.notes += [warning for warning in warnings if warning not in template.notes]
    return found


def _table(rows: Sequence[BatchRow], request: BatchRequest, memory: Path | None) -> tables.ResultsTable:
    """The table of a batch, in the directory that holds all of its outputs."""
    return tables.ResultsTable(_common([row.directory for row in rows]), request.execution_id, memory)


def _common(directories: Iterable[Path]) -> Path:
    return Path(os.path.commonpath({*directories}))


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


def _short(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, default=str)
    return text if len(text) <= 200 else text[:200] + "…"
