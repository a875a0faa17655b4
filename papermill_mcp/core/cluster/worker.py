"""The work of a Dask worker: one run of a notebook as a plain function, with its kernel beside it.

The server sends a `WorkerRun` and gets a `WorkerAnswer`. Dask cannot stop a thread of a worker, so each run
has a plugin of its worker beside it, which learns that the run is no longer wanted, and which `stop_runs` finds.

Workers import this module in their event loop, to stop runs, so it imports only light modules. The engine is imported
by the run, in its thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import os
import pickle
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distributed import Reschedule, Worker, WorkerPlugin, get_worker

from papermill_mcp import __version__
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.errors import ServerError, listed
from papermill_mcp.utils.background import Background
from papermill_mcp.utils.lazy import imported, lazy, load

if TYPE_CHECKING:
    from jupyter_client import kernelspec

    from papermill_mcp.core import jupyter_manager
    from papermill_mcp.core import papermill_executor as papermill_run
    from papermill_mcp.core.documents import document
    from papermill_mcp.core.documents.document import NotebookDocument
    from papermill_mcp.core.jupyter_manager import JupyterManager
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.papermill.output import PapermillTask
    from papermill_mcp.core.papermill_executor import Outcome, PapermillRecipe
    from papermill_mcp.core.runs import notebook_run, run_file
    from papermill_mcp.core.runs.notebook_run import NotebookRun, RunCell
    from papermill_mcp.core.runs.run_file import RunFile
    from papermill_mcp.utils import file_utils
else:
    kernelspec = lazy("jupyter_client.kernelspec")
    document = lazy("papermill_mcp.core.documents.document")
    jupyter_manager = lazy("papermill_mcp.core.jupyter_manager")
    papermill_run = lazy("papermill_mcp.core.papermill_executor")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")
    run_file = lazy("papermill_mcp.core.runs.run_file")
    file_utils = lazy("papermill_mcp.utils.file_utils")

logger = logging.getLogger(__name__)

#: Seconds that code gets to obey an interrupt when no client wants its run any more. Then its kernel is ended.
UNWANTED_PATIENCE = 1.0

#: Seconds within which the end of a run is waited for after that.
_END_SECONDS = 3.0

#: Workers report here that a run has begun there. Dask itself only tells that a worker has it in line.
BEGUN_TOPIC = "papermill-runs"

#: Workers report here which cell runs, at most once in so many seconds for each run.
PROGRESS_TOPIC = "papermill-progress"
_PROGRESS_SECONDS = 1.0

#: States of a Dask task whose function goes on in a thread.
_ON = ("executing", "long-running")


@dataclass(frozen=True)
class ClusterTask:
    """A run as it is sent to a worker.

    Args:
        run: its `output_path` is for papermill's metadata only; nothing is written there. The kernel's working
            directory is that of `input_path` if the worker has it, else an empty temporary one.
        notebook: the input notebook without outputs, nbformat 4 JSON.
        start_timeout_seconds: the longest time of the kernel's start.
        denied_env: names of the worker's environment variables that the kernel must not see.
        resources: the Dask resources that the run takes of its worker.
    """

    run: PapermillTask
    notebook: bytes
    start_timeout_seconds: float
    denied_env: tuple[str, ...]
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerAnswer:
    """The answer of a worker: an outcome, or the error in place of one."""

    worker: str
    version: str
    python: str
    result: Outcome | ServerError


@dataclass(frozen=True)
class WorkerRun:
    """A run as it is sent to a worker. `key` is that of the Dask task."""

    key: str
    task: ClusterTask

    def run(self) -> WorkerAnswer:
        """Do the run, in this thread. It has an event loop, a kernel and a temporary directory of its own.

        Raises:
            Reschedule: it was stopped because this worker has to give it up.
        """
        worker = get_worker()
        # Dask removes its local directory when the worker is gone, with all its files.
        with tempfile.TemporaryDirectory(
            prefix="papermill-run-", dir=worker.local_directory, ignore_cleanup_errors=True
        ) as path:
            result = asyncio.run(_Run(self.task, Path(path).resolve()).main(self.key, worker))
        return WorkerAnswer(worker.address, __version__, platform.python_version(), result)


@dataclass(frozen=True)
class Lack:
    """A thing that runs need and a worker has not."""

    kind: Literal["package", "python", "kernelspec"]
    reason: str


def lacks(payload: bytes) -> list[Lack | None]:
    """The first thing that this machine lacks for each of some runs. Called on a worker. Reads files.

    Args:
        payload: a pickled list of `ClusterTask`.

    Raises:
        Exception: the runs cannot be read here, or a required package is missing.
    """
    load(jupyter_manager)
    load(papermill_run)
    tasks: list[ClusterTask] = pickle.loads(payload)
    return [_lack_of(task) for task in tasks]


def _lack_of(task: ClusterTask) -> Lack | None:
    run = task.run
    for part in (task, run, run.environment):
        if part is not None and vars(part).keys() != {field.name for field in dataclasses.fields(part)}:
            return Lack("package", f"version {__version__} of this package has other runs")
    if run.environment is not None:
        python = run.environment.python
        if python.is_file() and os.access(python, os.X_OK):
            return None
        return Lack("python", f"no interpreter {str(python)!r}")
    specs = kernelspec.KernelSpecManager()
    try:
        command = specs.get_kernel_spec(run.kernel_name).argv
    except kernelspec.NoSuchKernel:
        names = listed(sorted(specs.find_kernel_specs()), limit=10)
        return Lack("kernelspec", f"no kernelspec {run.kernel_name[:100]!r} (installed: {names})")
    if shutil.which(command[0]) is None:
        return Lack("kernelspec", f"the kernelspec {run.kernel_name!r} starts {command[0]!r}, which is not there")
    return None


def without_output(status: RunStatus, notes: Sequence[str], error: str | None = None) -> Outcome:
    """The outcome of a run of which nothing is known but the reason for its end."""
    return papermill_run.Outcome(status, 0.0, notebook_run.RunSummary(0, 0, None, error, {}), list(notes))


class _Bench:
    """A worker as the place of a run: a kernel beside its thread, and the output in a temporary directory."""

    def __init__(self, task: ClusterTask, manager: JupyterManager, directory: Path) -> None:
        self._task = task
        self._manager = manager
        self._directory = directory
        self.notes: list[str] = []

    async def start_kernel(self, task: PapermillTask) -> Kernel:
        """Start the kernel in the directory of the notebook, if this machine has it."""
        cwd = Path(task.input_path).parent
        if not await asyncio.to_thread(cwd.is_dir):
            self.notes.append(f"the worker has no directory {str(cwd)!r}, so the notebook was run in an empty one")
            cwd = self._directory / "cwd"
            await asyncio.to_thread(cwd.mkdir)
        return await self._manager.start_kernel(
            task.kernel_name,
            cwd=cwd,
            timeout_seconds=self._task.start_timeout_seconds,
            environment=task.environment,
            env=task.variables,
            denied_env=list(self._task.denied_env),
            patient=True,
        )

    async def put_output(self, task: PapermillTask, document: NotebookDocument) -> RunFile:
        """Write the output into the temporary directory. The server puts it in place after the run."""
        path = self._directory / "output.ipynb"
        content = await asyncio.to_thread(
            file_utils.write_file,
            path,
            document.render(),
            expected=None,
            display_path=task.display_path,
            durable=False,
        )
        saving = asyncio.Lock()
        return run_file.RunFile(
            path,
            document,
            content,
            display_path=task.display_path,
            max_bytes=sys.maxsize,  # the server that keeps the output has a limit
            lock=lambda: saving,
        )

    async def end_kernel(self, kernel: Kernel) -> None:
        """The manager ends the kernel with everything else."""


class _Run:
    """A run in the event loop of its thread."""

    def __init__(self, task: ClusterTask, directory: Path) -> None:
        self._task = task
        self._directory = directory
        self._recipe: PapermillRecipe | None = None
        self._work: asyncio.Task[Outcome] | None = None
        self._stops = Background()
        self._reports: CellReports | None = None

    async def main(self, key: str, worker: Worker) -> Outcome | ServerError:
        """Run the notebook, watched from the loop of the worker. The kernel is gone when this returns.

        Raises:
            Reschedule: the worker has to give it up.
        """
        began = time.monotonic()
        await imported(jupyter_manager, papermill_run)
        manager = jupyter_manager.JupyterManager(self._directory)
        loop = asyncio.get_running_loop()
        self._reports = CellReports(lambda place: worker.log_event(PROGRESS_TOPIC, {"key": key, "cell": place}))
        watch = RunWatch(key, lambda patience: loop.call_soon_threadsafe(self._stop, patience))
        self._work = asyncio.create_task(self._perform(manager))
        worker.loop.add_callback(watch.begin, worker)
        result: Outcome | ServerError
        try:
            result = await self._work
        except asyncio.CancelledError:
            result = without_output(RunStatus.INTERRUPTED, [])
        except ServerError as error:
            result = error
        finally:
            await manager.aclose()
            watch.ended.set_result(None)
            worker.loop.add_callback(watch.end, worker)
        if watch.unwanted:
            raise Reschedule  # a client that still waits for it gets a new try
        return result if isinstance(result, ServerError) else replace(result, seconds=time.monotonic() - began)

    async def _perform(self, manager: JupyterManager) -> Outcome:
        task = self._task
        manager.guard_directory(self._directory)
        bench = _Bench(task, manager, self._directory)
        recipe = papermill_run.PapermillRecipe(task.run, changed=self._report)
        parsed = await asyncio.to_thread(
            document.NotebookDocument.parse, task.notebook, display_path=task.run.display_path
        )
        await recipe.begin(parsed, bench)
        self._recipe = recipe
        await recipe.perform()
        notes = [*bench.notes, *recipe.notes]
        output = recipe.file.content.data
        return papermill_run.Outcome(
            recipe.status,
            0.0,
            recipe.summary,
            notes,
            output,
            peak_memory=recipe.peak_memory,
            processor_seconds=recipe.processor_seconds,
        )

    def _report(self) -> None:
        """The run has changed."""
        if self._recipe is not None and self._reports is not None and (cell := self._recipe.run.current) is not None:
            self._reports.note(cell, self._recipe.run)

    def _stop(self, patience: float) -> None:
        self._stops.start(self._stop_within(patience))

    async def _stop_within(self, patience: float) -> None:
        """Interrupt the running cell. A run that is not over `patience` seconds later is cut off."""
        assert self._work is not None
        if self._recipe is not None:
            interrupt = asyncio.create_task(self._recipe.run.cancel())
            await asyncio.wait([self._work], timeout=patience)
            interrupt.cancel()
        self._work.cancel("it was cancelled")


class CellReports:
    """Reports which cell of a run has begun. Of several cells within `_PROGRESS_SECONDS`, the last one is reported.

    The scheduler keeps each report, so there is none while a cell goes on.

    Args:
        send: called with the place of the cell, in a few words.
    """

    def __init__(self, send: Callable[[str], object]) -> None:
        self._send = send
        self._cell: RunCell | None = None
        self._next = 0.0
        self._waiting: asyncio.TimerHandle | None = None

    def note(self, cell: RunCell, run: NotebookRun) -> None:
        """A cell goes on. Called in the event loop of the run, also for each output."""
        if cell is self._cell:
            return
        self._cell = cell
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_at(max(loop.time(), self._next), self._report, run)

    def _report(self, run: NotebookRun) -> None:
        loop = asyncio.get_running_loop()
        self._waiting, self._next = None, loop.time() + _PROGRESS_SECONDS
        cell = run.current
        if cell is None:
            return
        self._cell = cell
        try:
            self._send(run.place_of(cell))
        except Exception:  # the worker has lost its scheduler, and the run goes on
            logger.debug("the progress of a run could not be reported", exc_info=True)


class RunWatch(WorkerPlugin):
    """Stops a run when its worker has to give it up. While the run goes on, it is a plugin of the worker by its key.

    Dask calls its methods in the event loop of the worker. The run is in another thread.

    Attributes:
        unwanted: no client waits for the result: the task was cancelled, its client is gone, or the worker closes.
        ended: done when the run is over and its kernel gone.
    """

    def __init__(self, key: str, stop: Callable[[float], object]) -> None:
        self._key = key
        self._stop = stop
        self.unwanted = False
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def begin(self, worker: Worker) -> None:
        """Become a plugin of the worker. If the run was cancelled before that, it is stopped now.

        `Worker.plugin_add` would be another way, but it ends later than it returns, perhaps after the run.
        """
        worker.plugins[self._key] = self
        worker.log_event(BEGUN_TOPIC, {"key": self._key})
        task = worker.state.tasks.get(self._key)
        if task is None or task.state not in _ON:
            self._give_up()

    def end(self, worker: Worker) -> None:
        """The run is over."""
        worker.plugins.pop(self._key, None)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Notice that the scheduler has taken the run away: it was cancelled, or its client is gone."""
        if key == self._key and start in _ON and finish == "released":
            self._give_up()

    async def teardown(self, worker: Worker) -> None:
        """The worker closes. Wait until the kernel is gone."""
        self._give_up()
        await self.wait_ended()

    def _give_up(self) -> None:
        self.unwanted = True
        self.stop(UNWANTED_PATIENCE)

    def stop(self, patience: float) -> None:
        """Have the run interrupted, and cut off after `patience` seconds. Returns at once."""
        try:
            self._stop(patience)
        except RuntimeError:
            pass  # its loop is closed: it is over

    async def wait_ended(self) -> None:
        """Wait for the end of the run, for a few seconds at most."""
        await asyncio.wait([asyncio.wrap_future(self.ended)], timeout=_END_SECONDS)


def begun_runs(keys: Sequence[str], dask_worker: Worker) -> list[str]:
    """The keys of those of the runs that go on in a worker. Called there, by `Client.run`."""
    return [key for key in keys if isinstance(dask_worker.plugins.get(key), RunWatch)]


async def stop_runs(keys: Sequence[str], patience: float, wait: bool, dask_worker: Worker) -> list[str]:
    """Stop those of the runs that go on in a worker. Called there, by `Client.run`.

    Args:
        patience: seconds that the code gets to obey the interrupt.
        wait: return when they are over, not at once.

    Returns:
        The keys of those runs.
    """
    found = {key: watch for key in keys if isinstance(watch := dask_worker.plugins.get(key), RunWatch)}
    for watch in found.values():
        watch.stop(patience)
    if wait:
        await asyncio.gather(*(watch.wait_ended() for watch in found.values()))
    return list(found)
