"""What a Dask worker does: one run of a notebook as a plain function, with its kernel beside it.

The server sends a `WorkerRun` and gets a `WorkerAnswer`. Dask cannot stop what a thread of a worker does, so each run
has a plugin of its worker beside it, which learns that the run is no longer wanted, and which `stop_runs` finds.

Workers import this module in their event loop, to stop runs, so it imports only what is light. The engine is imported
by the run, in its thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Reschedule, Worker, WorkerPlugin, get_worker

from papermill_mcp import __version__
from papermill_mcp.errors import ServerError

if TYPE_CHECKING:
    from papermill_mcp.core.jupyter_manager import JupyterManager
    from papermill_mcp.core.notebook_run import RunSummary
    from papermill_mcp.core.papermill_run import PapermillRun

#: Seconds that code gets to obey an interrupt when nobody wants its run any more. Then its kernel is ended.
UNWANTED_PATIENCE = 1.0

#: Seconds within which the end of a run is waited for after that.
_END_SECONDS = 3.0

#: States of a Dask task whose function goes on in a thread.
_ON = ("executing", "long-running")


@dataclass(frozen=True)
class ClusterTask:
    """One run of a batch.

    Args:
        key: what the batch calls it.
        notebook: the input notebook as it was read, nbformat JSON.
        input_path: absolute, as papermill's metadata has it. Its directory is the kernel's working directory if the
            worker has it, else that is an empty temporary one.
        output_path: absolute, for papermill's metadata. Nothing is written there.
        shown: what messages call the notebook.
        timeout_seconds: how long a cell may run, None for no limit.
        start_timeout_seconds: how long the kernel may take to start.
        denied_env: names of the worker's environment variables that the kernel must not see.
    """

    key: str
    notebook: bytes
    parameters: dict[str, Any]
    kernel_name: str
    language: str
    input_path: str
    output_path: str
    shown: str
    timeout_seconds: float | None
    continue_on_error: bool
    report_mode: bool
    start_timeout_seconds: float
    denied_env: tuple[str, ...]


@dataclass(frozen=True)
class ClusterOutcome:
    """How a run ended.

    Attributes:
        status: `ok`, `error`, `timeout`, `interrupted` or `died`.
        duration: seconds on the worker, start and end of the kernel included.
        output: the whole output notebook, None if there is none.
        notes: what a caller should know besides.
    """

    status: str
    duration: float
    output: bytes | None
    summary: RunSummary
    notes: list[str]


@dataclass(frozen=True)
class WorkerAnswer:
    """What comes back from a worker: an outcome, or the error because of which there is none."""

    worker: str
    version: str
    python: str
    result: ClusterOutcome | ServerError


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
        # Dask removes its local directory when the worker is gone, whatever is left in there.
        with tempfile.TemporaryDirectory(
            prefix="papermill-run-", dir=worker.local_directory, ignore_cleanup_errors=True
        ) as path:
            result = asyncio.run(_Run(self.task, Path(path).resolve()).main(self.key, worker))
        return WorkerAnswer(worker.address, __version__, platform.python_version(), result)


def empty_summary(error: str | None = None) -> RunSummary:
    """The summary of a run of which nothing is known but why it ended."""
    from papermill_mcp.core.notebook_run import RunSummary  # noqa: PLC0415 - imports the engine

    return RunSummary(0, 0, None, error, {})


class _Run:
    """A run in the event loop of its thread."""

    def __init__(self, task: ClusterTask, directory: Path) -> None:
        self._task = task
        self._directory = directory
        self._run: PapermillRun | None = None
        self._work: asyncio.Task[ClusterOutcome] | None = None
        self._stops: set[asyncio.Task[None]] = set()

    async def main(self, key: str, worker: Worker) -> ClusterOutcome | ServerError:
        """Run the notebook, watched from the loop of the worker. The kernel is gone when this returns.

        Raises:
            Reschedule: the worker has to give it up.
        """
        began = time.monotonic()
        await asyncio.to_thread(_import_engine)
        from papermill_mcp.core.jupyter_manager import JupyterManager  # noqa: PLC0415

        manager = JupyterManager(self._directory)
        loop = asyncio.get_running_loop()
        watch = RunWatch(key, lambda patience: loop.call_soon_threadsafe(self._stop, patience))
        self._work = asyncio.create_task(self._perform(manager))
        worker.loop.add_callback(watch.begin, worker)
        result: ClusterOutcome | ServerError
        try:
            result = await self._work
        except asyncio.CancelledError:
            result = ClusterOutcome("interrupted", 0.0, None, empty_summary(), [])
        except ServerError as error:
            result = error
        finally:
            await manager.aclose()
            watch.ended.set_result(None)
            worker.loop.add_callback(watch.end, worker)
        if watch.unwanted:
            raise Reschedule  # if somebody wants it after all, it begins anew
        return result if isinstance(result, ServerError) else replace(result, duration=time.monotonic() - began)

    async def _perform(self, manager: JupyterManager) -> ClusterOutcome:
        from papermill_mcp.core.document import NotebookDocument  # noqa: PLC0415
        from papermill_mcp.core.papermill_executor import prepare  # noqa: PLC0415
        from papermill_mcp.core.papermill_run import PapermillRun  # noqa: PLC0415
        from papermill_mcp.core.run_file import RunFile  # noqa: PLC0415
        from papermill_mcp.utils.file_utils import write_file  # noqa: PLC0415

        task, notes = self._task, []
        manager.guard_directory(self._directory)
        document = await asyncio.to_thread(NotebookDocument.parse, task.notebook, shown=task.shown)
        prepared = await asyncio.to_thread(
            prepare,
            document,
            task.parameters,
            kernel_name=task.kernel_name,
            language=task.language,
            input_path=task.input_path,
            output_path=task.output_path,
            report_mode=task.report_mode,
            shown=task.shown,
        )
        cwd = Path(task.input_path).parent
        if not await asyncio.to_thread(cwd.is_dir):
            notes.append(f"the worker has no directory {str(cwd)!r}, so the notebook was run in an empty one")
            cwd = self._directory / "cwd"
            await asyncio.to_thread(cwd.mkdir)
        kernel = await manager.start_kernel(
            task.kernel_name,
            cwd=cwd,
            timeout_seconds=task.start_timeout_seconds,
            denied_env=list(task.denied_env),
        )
        path = self._directory / "output.ipynb"
        content = await asyncio.to_thread(
            write_file, path, prepared.document.render(), expected=None, shown=task.shown, durable=False
        )
        file = RunFile(
            path,
            prepared.document,
            content,
            shown=task.shown,
            max_bytes=sys.maxsize,  # whoever keeps the output has a limit
            lock=contextlib.nullcontext,
        )
        self._run = PapermillRun(
            prepared, file, timeout_seconds=task.timeout_seconds, continue_on_error=task.continue_on_error
        )
        await self._run.run(kernel)
        run = self._run
        return ClusterOutcome(run.status, 0.0, file.content.data, run.summary(), [*notes, *run.notes])

    def _stop(self, patience: float) -> None:
        stop = asyncio.create_task(self._stop_within(patience))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)

    async def _stop_within(self, patience: float) -> None:
        """Interrupt the cell that runs. What is not over `patience` seconds later is cut off."""
        assert self._work is not None
        if self._run is not None:
            interrupt = asyncio.create_task(self._run.cells.cancel())
            await asyncio.wait([self._work], timeout=patience)
            interrupt.cancel()
        self._work.cancel("it was cancelled")


class RunWatch(WorkerPlugin):
    """Stops a run when its worker has to give it up. While the run goes on, it is a plugin of the worker by its key.

    Dask calls its methods in the event loop of the worker. The run is in another thread.

    Attributes:
        unwanted: nobody waits for the result: the task was cancelled, its client is gone, or the worker closes.
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


def _import_engine() -> None:
    from papermill_mcp.core import jupyter_manager, papermill_run  # noqa: F401, PLC0415 - up to two seconds
