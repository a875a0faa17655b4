"""The server's side of runs on a Dask cluster: hands them to the scheduler, and gets each outcome once.

Messages to Dask are bytes and functions of the standard library and of toolz, which Dask needs itself. So only the
workers must have this package, the scheduler need not; and a worker that lacks it is distinguished from other failures.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import pickle
import platform
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import dask
from distributed import CancelledError, Client, Future, KilledWorker
from toolz import compose

from papermill_mcp import __version__
from papermill_mcp.core.cluster.checks import REQUIREMENT, WorkerChecks
from papermill_mcp.core.cluster.scheduler import address_of, refusal
from papermill_mcp.core.cluster.worker import (
    BEGUN_TOPIC,
    PROGRESS_TOPIC,
    UNWANTED_PATIENCE,
    ClusterTask,
    WorkerAnswer,
    WorkerRun,
    begun_runs,
    stop_runs,
    without_output,
)
from papermill_mcp.core.kernels.interrupts import INTERRUPT_PATIENCE
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.papermill_executor import Outcome
from papermill_mcp.errors import InvalidArgumentError, KernelStartFailedError, ServerError, ServerNotRunningError
from papermill_mcp.utils.background import Background, in_time
from papermill_mcp.utils.text_utils import one_line

__all__ = ["Cluster", "ClusterTask"]

logger = logging.getLogger(__name__)

#: The function of a worker for the bytes it gets: a `WorkerRun`.
_RUN = compose(operator.methodcaller("run"), pickle.loads)

#: Characters of the place of a cell.
_PROGRESS_CHARS = 200

#: Seconds that workers get to answer a question beside their runs.
_ANSWER_SECONDS = 5.0

#: Seconds that a stopping run gets beyond the patience with its code, to save and to end its kernel.
_END_SECONDS = 4.0

#: Seconds between two looks whether there are more workers.
_LOOK_SECONDS = 1.0

#: Runs that the scheduler has in line, at least, and as many as go on. A cluster that can grow adds workers for them.
_BACKLOG = 8

#: Dask warns of tasks over 10 MB. Ours may have 64 MiB, and few are under way at once.
_NO_SIZE_WARNING = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}


@dataclass
class _Sent:
    """A run that the scheduler has, or is about to get.

    Attributes:
        on_begin: called when a worker begins it, also when another one begins it anew.
        on_progress: called with the place of a cell that has begun, such as `cell 12 (7 of 31) · "Train the model"`.
        begun: a worker has it, and not only in line.
        workers: those that may have it; None for all.
        moved: it goes to other workers, since none of these is left or one lacks something.
    """

    task: ClusterTask
    on_begin: Callable[[], None]
    on_progress: Callable[[str], None]
    workers: set[str] | None = None
    begun: bool = False
    moved: bool = False
    future: Future[Any] | None = None
    waiting: asyncio.Task[Outcome | None] | None = None
    lost_workers: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """A worker has begun it."""
        if not self.begun:
            self.begun = True
            self.on_begin()

    def lose(self, worker: str) -> None:
        """Its worker died. That does not count against a run that the worker only had in line."""
        if self.begun:
            self.begun = False
            self.lost_workers.append(worker)


class Cluster:
    """A connection to a Dask scheduler, for the runs of one batch.

    The scheduler has some more runs than the workers have threads, so that a cluster that can grow does. Further ones
    wait here, so notebooks do not pile up there. The death of a worker does not count against runs that it only had in
    line.

    Made by `connect`, closed by `aclose`.
    """

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address
        self._sent: dict[str, _Sent] = {}
        self._checks = WorkerChecks(client)
        self._freed = asyncio.Event()
        self._cancelled = False
        self._held = False
        self._background = Background()
        client.subscribe_topic("all", self._on_event)
        client.subscribe_topic(BEGUN_TOPIC, self._on_begun)
        client.subscribe_topic(PROGRESS_TOPIC, self._on_progress)

    @classmethod
    async def connect(cls, setting: str, *, timeout_seconds: float) -> Self:
        """Connect to the scheduler.

        Args:
            setting: its address, such as `tcp://127.0.0.1:8786`, or the path of its scheduler file.

        Raises:
            ServerNotRunningError: no scheduler answers there in time, or the file or the certificates cannot be used.
        """
        # Dask has set the level of its loggers at import, independent of ours.
        logging.getLogger("distributed").setLevel(max(logging.WARNING, logging.getLogger().level))
        address = await address_of(setting)
        client: Client | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                client = Client(address, asynchronous=True, set_as_default=False, timeout=timeout_seconds)
                await client
        except BaseException as error:
            if client is not None:
                await asyncio.shield(in_time(client.close(), _ANSWER_SECONDS))
            if not isinstance(error, OSError | ImportError | ValueError):  # a timeout is an OSError
                raise
            raise await refusal(address, error) from error
        return cls(client, address)

    @property
    def workers(self) -> int:
        """Threads of the workers that can do runs, as many as can go on at once. A few seconds old."""
        return max(0, int(self._client.scheduler_info().get("total_threads", 0)) - self._checks.unfit_threads)

    @property
    def capacity(self) -> int:
        """Runs that the scheduler may have at a time: those that go on, and some in line."""
        return self.workers + max(_BACKLOG, self.workers)

    async def check(self, tasks: Collection[ClusterTask]) -> str | None:
        """Ask each worker whether it has what the runs need there.

        Returns:
            A sentence about workers that are left out.

        Raises:
            KernelSpecNotFoundError: no worker has the kernel of a run.
            KernelStartFailedError: each worker lacks the package, or the Python of a run.
            InvalidArgumentError: no worker offers the resources of a run.
        """
        await self._checks.look(tasks)
        for resources in {tuple(sorted(task.resources.items())) for task in tasks} - {()}:
            await self._check_resources(dict(resources))
        for task in tasks:
            self._checks.fit(task)
        return self._checks.left_out()

    async def _check_resources(self, wanted: Mapping[str, float]) -> None:
        scheduler: Any = self._client.scheduler
        identity = await in_time(scheduler.identity(n_workers=-1), _ANSWER_SECONDS)
        offers = [dict(worker.get("resources") or {}) for worker in (identity or {}).get("workers", {}).values()]
        if not offers or any(all(offer.get(name, 0) >= number for name, number in wanted.items()) for offer in offers):
            return
        most: dict[str, float] = {}
        for offer in offers:
            most |= {name: max(number, most.get(name, 0)) for name, number in offer.items()}
        raise InvalidArgumentError(
            f"no worker of the Dask cluster offers the resources {_resources(wanted)} together",
            allowed=f"at most, a worker offers {_resources(most)}" if most else "its workers offer none",
            state="nothing was run",
            advice="start workers with --resources, or take resources that there are",
        )

    async def run(
        self,
        task: ClusterTask,
        *,
        on_begin: Callable[[], None] = lambda: None,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> Outcome:
        """Do a run on a worker. If the worker is lost, the run is done again on another one.

        Args:
            on_begin: called when a worker has begun it, once for each worker that does.
            on_progress: called with the cell that has begun, in a few words. Older workers do not report it.

        If this coroutine is cancelled, the run is ended on its worker first, which takes up to two seconds.

        Raises:
            ServerNotRunningError: the connection to the scheduler is lost.
            KernelSpecNotFoundError: no worker has its kernel.
            KernelStartFailedError: each worker lacks a required package, for one.
            ServerError: the worker raised it instead of an outcome.
        """
        await self._checks.look([task])
        while not self._held and len(self._sent) >= self.capacity:
            self._freed.clear()
            await in_time(self._freed.wait(), _LOOK_SECONDS)
        sent = _Sent(task, on_begin, on_progress, self._checks.fit(task))
        outcome = None if self._held else await self._attempt(sent)
        while outcome is None and not self._held:
            await self._checks.look([task])
            sent = replace(sent, workers=self._checks.fit(task), moved=False, future=None, waiting=None)
            outcome = await self._attempt(sent)
        return outcome or _interrupted("it was cancelled before it began")

    async def _attempt(self, sent: _Sent) -> Outcome | None:
        """Hand a run to the scheduler. Returns its outcome, None if it must go to other workers."""
        key = f"papermill-{uuid.uuid4().hex}"  # unique in the cluster: others use it as well
        self._sent[key] = sent
        try:
            payload = await asyncio.to_thread(pickle.dumps, WorkerRun(key, sent.task))
            if self._held:
                return _interrupted("it was cancelled before it began")
            if self._client.status != "running":
                raise self._dropped("")
            with dask.config.set(_NO_SIZE_WARNING):
                workers = None if sent.workers is None else sorted(sent.workers)
                sent.future = self._client.submit(
                    _RUN, payload, key=key, pure=False, workers=workers, resources=dict(sent.task.resources) or None
                )
            del payload
            # A cancellation must not reach the future that Dask awaits in there: it is shared with other runs.
            sent.waiting = asyncio.create_task(self._outcome(sent, sent.future))
            try:
                return await asyncio.shield(sent.waiting)
            except asyncio.CancelledError:
                await asyncio.shield(self._background.start(self._withdraw(key, sent.future)))
                raise
        finally:
            del self._sent[key]
            self._freed.set()

    async def _outcome(self, sent: _Sent, future: Future[Any]) -> Outcome | None:
        try:
            answer = await future
            assert isinstance(answer, WorkerAnswer)
            sent.begin()  # the event of a worker may be late, and one of another version sends none
        except CancelledError as error:
            if self._held:
                return _interrupted("it was cancelled")
            if sent.moved:
                return _given_up(sent.lost_workers, dask.config.get("distributed.scheduler.allowed-failures"))
            raise self._dropped(str(error)) from error
        except KilledWorker as error:
            sent.lose(str(error.last_worker.address))
            return _given_up(sent.lost_workers, error.allowed_failures)
        except Exception as error:
            if self._client.status != "running":
                raise self._dropped(str(error)) from error
            if await self._lacking_worker(sent):
                return None
            raise KernelStartFailedError(
                f"a Dask worker could not do the run of {sent.task.run.display_path}: {type(error).__name__}: {error}",
                advice=f"the workers need {REQUIREMENT}; their logs say more",
            ) from error
        if isinstance(answer.result, ServerError):
            if await self._lacking_worker(sent, answer.worker):
                return None
            raise answer.result
        return replace(answer.result, notes=[*answer.result.notes, *_remarks(sent, answer)], worker=answer.worker)

    async def _lacking_worker(self, sent: _Sent, worker: str | None = None) -> bool:
        """Whether a run came to a worker that lacks something: it joined the cluster after the last look.

        Args:
            worker: the one that had the run; None if it is not known.

        Raises:
            KernelSpecNotFoundError, KernelStartFailedError: all workers lack something.
        """
        await self._checks.look([sent.task])
        fit = self._checks.fit(sent.task)
        return sent.workers is None and fit is not None and worker not in fit

    def _dropped(self, why: str) -> ServerError:
        connected = self._client.status == "running"
        return ServerNotRunningError(
            f"the Dask scheduler at {self._address} dropped the run: {why}"
            if connected
            else f"the connection to the Dask scheduler at {self._address} is lost",
            state="runs that had begun are ended by their workers",
            advice="start the batch again" if connected else "check that the scheduler runs, and start the batch again",
        )

    def _on_event(self, event: tuple[float, Any]) -> None:
        """The scheduler reports events of the cluster. We note which workers were lost, and with which runs."""
        _, message = event
        if not isinstance(message, dict) or message.get("action") != "remove-worker":
            return
        lost = [self._sent[key] for key in message.get("processing-tasks", ()) if key in self._sent]
        worker = str(message.get("worker"))
        for run in lost:
            run.lose(worker)
        self._background.start(self._cancel_futures(self._without_worker(worker)))
        if self._cancelled:
            self._background.start(self._cancel_futures(lost))  # or another worker would begin a cancelled run

    def _on_begun(self, event: tuple[float, Any]) -> None:
        """A worker reports that it has begun a run, of this batch or of another one."""
        _, message = event
        run = self._sent.get(str(message.get("key"))) if isinstance(message, dict) else None
        if run is not None:
            run.begin()

    def _on_progress(self, event: tuple[float, Any]) -> None:
        """A worker reports which cell of a run has begun."""
        _, message = event
        if not isinstance(message, dict) or not isinstance(cell := message.get("cell"), str):
            return
        run = self._sent.get(str(message.get("key")))
        if run is not None and run.begun:
            run.on_progress(one_line(cell, _PROGRESS_CHARS))

    def _without_worker(self, worker: str) -> list[_Sent]:
        """The runs whose last fit worker is lost. The scheduler would wait for it without end."""
        left = []
        for run in self._sent.values():
            if run.workers is not None and worker in run.workers:
                run.workers.discard(worker)
                run.moved = not run.workers
                left += [run] * run.moved
        return left

    async def hold(self) -> None:
        """Begin no more runs. Those that a worker has begun go on to their end.

        `run` of the others returns an outcome with status `interrupted`, as later `run` calls do.
        """
        self._held = True
        self._freed.set()
        sent = dict(self._sent)
        if not sent or self._client.status != "running":
            return
        begun = _keys_in(await self._ask_workers(begun_runs, list(sent)))
        await self._cancel_futures([run for key, run in sent.items() if key not in begun and not run.begun])

    async def cancel(self) -> None:
        """End all runs, on every worker. Returns when they are over, after some ten seconds at the latest.

        Their `run` returns an outcome with status `interrupted`. Queued runs never start; later `run` calls return at
        once.
        """
        self._cancelled = self._held = True
        self._freed.set()
        sent = dict(self._sent)
        # Workers first say which runs they have: those are to answer. Of the others there is nothing to wait for.
        begun = await self._stop(sent, INTERRUPT_PATIENCE + 1, wait=False)
        await self._cancel_futures([run for key, run in sent.items() if key not in begun])
        if ending := [run.waiting for run in sent.values() if run.waiting is not None]:
            await asyncio.wait(ending, timeout=INTERRUPT_PATIENCE + 1 + _END_SECONDS)
        await self._cancel_futures(sent.values())

    async def _cancel_futures(self, runs: Collection[_Sent]) -> None:
        futures = [run.future for run in runs if run.future is not None and not run.future.done()]
        if futures and self._client.status == "running":
            await self._client.cancel(futures)

    async def _withdraw(self, key: str, future: Future[Any]) -> None:
        """Cancel a run whose caller is gone."""
        if self._client.status == "running":
            await self._client.cancel([future])  # its worker learns of it, and no other one gets the run
            await self._stop([key], UNWANTED_PATIENCE, wait=True)

    async def _stop(self, keys: Collection[str], patience: float, *, wait: bool) -> set[str]:
        """Stop runs on their workers. Returns the keys of those that had begun."""
        if not keys or self._client.status != "running":
            return set()
        return _keys_in(await self._ask_workers(stop_runs, list(keys), patience, wait))

    async def _ask_workers(self, function: Any, *arguments: Any) -> dict[str, Any]:
        """Call a function in every worker, beside its threads. An exception there stands for its result."""
        answers = await in_time(self._client.run(function, *arguments, on_error="return"), _ANSWER_SECONDS)
        return answers if isinstance(answers, dict) else {}

    async def aclose(self) -> None:
        """Disconnect. Runs that still go on are ended by their workers. A second call does nothing."""
        await self._background.wait()
        await in_time(self._client.close(), _ANSWER_SECONDS)


def _resources(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={number:g}" for name, number in sorted(numbers.items()))


def _keys_in(found: Mapping[str, Any]) -> set[str]:
    """The keys that workers have answered with."""
    return {key for keys_there in found.values() if isinstance(keys_there, list) for key in keys_there}


def _given_up(lost: list[str], allowed: int) -> Outcome | None:
    """The outcome of a run that lost more workers than are allowed; None if it may be tried again."""
    if len(lost) <= allowed:
        return None
    why = f"{len(lost)} workers died one after the other while they had this run, the last one at {lost[-1]}"
    return replace(without_output(RunStatus.DIED, [f"{why}; Dask gives it up"], why), lost_worker=True)


def _interrupted(note: str) -> Outcome:
    return without_output(RunStatus.INTERRUPTED, [note])


def _remarks(sent: _Sent, answer: WorkerAnswer) -> list[str]:
    """Notes about the worker for the caller."""
    notes = []
    if sent.lost_workers:
        notes.append(
            f"the run was started again, since its worker was lost: {', '.join(sent.lost_workers)}; what its "
            "code did outside the notebook may have happened more than once"
        )
    if answer.version != __version__:
        notes.append(f"worker {answer.worker} has version {answer.version} of this server, which is {__version__}")
    if answer.python.rpartition(".")[0] != platform.python_version().rpartition(".")[0]:
        notes.append(f"worker {answer.worker} has Python {answer.python}, this server {platform.python_version()}")
    return notes
