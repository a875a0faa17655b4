"""Live kernels: the limit of their number, the kernel of each notebook, and the lifetime of an idle one.

Owns every kernel of this server. Leaving the service ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self
from weakref import WeakValueDictionary

from pydantic import BaseModel

from papermill_mcp.config import Config
from papermill_mcp.core.documents.names import missing_module
from papermill_mcp.errors import (
    BusyError,
    InvalidArgumentError,
    KernelNotFoundError,
    LimitReachedError,
    ServerError,
    listed,
)
from papermill_mcp.observability import Metrics
from papermill_mcp.services.pythons import GENERIC_KERNEL, NOTEBOOK_PYTHON, PythonChoice, Pythons, relabelled
from papermill_mcp.services.results import ROWS, Result
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.process_stats import usage
from papermill_mcp.utils.text_utils import clean_text, count_noun, head_and_tail, iso_time, one_line

if TYPE_CHECKING:
    from papermill_mcp.core import jupyter_manager
    from papermill_mcp.core.documents.document import NotebookDocument
    from papermill_mcp.core.environments.installing import Installation
    from papermill_mcp.core.environments.making import EnvironmentMaker
    from papermill_mcp.core.environments.reading import Environment
    from papermill_mcp.core.git import MakeProgram
    from papermill_mcp.core.jupyter_manager import InstalledKernel, JupyterManager
    from papermill_mcp.core.kernels import variables as kernel_variables
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.kernels.request import CellError
    from papermill_mcp.core.processes import ledger
else:
    jupyter_manager = lazy("papermill_mcp.core.jupyter_manager")
    kernel_variables = lazy("papermill_mcp.core.kernels.variables")
    ledger = lazy("papermill_mcp.core.processes.ledger")

logger = logging.getLogger(__name__)

#: The default kernel. Spares are kept of it only.
DEFAULT_KERNEL = GENERIC_KERNEL

#: Seconds after the use of a spare kernel at which the next one is started: the first cell should not compete with it.
_SPARE_DELAY = 2.0

#: Time in which a kernel that a run was given need not have been used yet.
_GIVEN_FOR = timedelta(seconds=10)

_GIVEN_UP = "was stopped, since another kernel was needed and it was idle longest; its variables are lost"

#: Environments in the list of kernels, at most.
_SHOWN_ENVIRONMENTS = 20

_NOTHING = "nothing was done"
#: Kernels that are gone, of which we still know why.
_REMEMBERED = 200

#: Seconds after the start of the server at which it ends leftovers of an earlier one and imports the engine. So the
#: first kernel need not wait for it. The handshake comes first.
_WARM_UP_DELAY = 0.5


class AvailableKernel(BaseModel):
    """An installed kernelspec."""

    name: str
    display_name: str
    language: str
    problem: str | None = None


class ActiveKernel(BaseModel):
    """A kernel that this server started and that has not been stopped."""

    kernel_id: str
    kernel_name: str
    state: str
    started_at: str
    last_activity: str
    execution_count: int
    notebook: str | None = None


class KnownEnvironment(BaseModel):
    """A Python that kernels can be started in. `python` is the argument that names it."""

    label: str
    python: str


class KernelList(Result):
    """Installed kernelspecs, Pythons and running kernels. `environment_count`: all that were found."""

    available: Annotated[list[AvailableKernel], ROWS]
    environments: Annotated[list[KnownEnvironment], ROWS]
    environment_count: int
    active: Annotated[list[ActiveKernel], ROWS]


class StartedKernel(Result):
    """A kernel that is ready."""

    kernel_id: str
    kernel_name: str
    language: str
    python: str | None = None
    state: str
    pid: int | None = None
    cwd: str
    notes: list[str] | None = None


class RestartedKernel(Result):
    """A kernel with a new process."""

    kernel_id: str
    kernel_name: str
    python: str | None = None
    state: str
    pid: int | None = None
    aborted: int


class InterruptedKernel(Result):
    """The effect of an interrupt: `interrupted`, `idle` (there was nothing to interrupt) or `still_running`."""

    kernel_id: str
    result: str
    state: str
    advice: str | None = None


class KernelStatus(Result):
    """A kernel as it is now."""

    kernel_id: str
    kernel_name: str
    language: str
    python: str | None = None
    state: str
    pid: int | None = None
    cwd: str
    started_at: str
    last_activity: str
    idle_seconds: float
    execution_count: int
    running_execution: str | None = None
    running_seconds: float | None = None
    queue_length: int
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    exit_code: int | None = None
    notebook: str | None = None
    late_output: str | None = None
    note: str | None = None


class FailedStop(BaseModel):
    """A kernel that could not be stopped."""

    kernel_id: str
    reason: str


class StoppedKernels(Result):
    """The result of stopping all kernels."""

    stopped: list[str]
    failed: Annotated[list[FailedStop], ROWS]
    stopped_count: int
    failed_count: int


class Variable(BaseModel):
    """A variable in a kernel."""

    name: str
    type: str
    shape: list[int] | None = None
    size: int | None = None
    preview: str


class VariableList(Result):
    """Variables in a kernel."""

    kernel_id: str
    variables: Annotated[list[Variable], ROWS]
    count: int
    frame: str | None = None


class StoppedKernel(Result):
    """A kernel that is gone."""

    kernel_id: str
    state: str


class KernelService:
    """Starts, finds and stops kernels. Used as a context manager; leaving it ends every kernel."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        state_directory: Path,
        metrics: Metrics | None = None,
        *,
        pythons: Pythons | None = None,
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._state_directory = state_directory
        self._manager: JupyterManager | None = None
        self._manager_lock = asyncio.Lock()
        self._maker: EnvironmentMaker | None = None
        self._kernels: dict[str, Kernel] = {}
        self._starting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._notebooks: dict[Path, str] = {}
        self._expected: dict[Path, str | None] = {}  # the Python of a notebook's kernel, if no call named it
        self._beginning: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._given: dict[str, datetime] = {}  # kernels that were started for a notebook, and when a run last got them
        self._tasks: list[asyncio.Task[None]] = []
        self._spares: list[Kernel] = []
        self._filling: asyncio.Task[None] | None = None
        self._renewals = 0
        self._closed = False
        self._pythons = pythons or Pythons(config, workspace)
        self._metrics = metrics or Metrics()
        self._metrics.watch_kernels(
            lambda: [(k.kernel_name, k.state) for k in [*self._kernels.values(), *self._spares] if k.alive]
        )

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._warm_up(), name="import the kernel engine")]
        if self._config.kernel_idle_timeout > 0:
            self._tasks.append(asyncio.create_task(self._stop_idle_kernels(), name="stop idle kernels"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=1)
        if self._maker is not None:
            await self._maker.aclose()
        if self._manager is not None:
            await self._manager.aclose()
        self._kernels.clear()

    async def _warm_up(self) -> None:
        await self._workspace.usable.wait()
        await asyncio.sleep(_WARM_UP_DELAY)
        try:
            await asyncio.to_thread(lambda: ledger.reap(self._state_directory))
        except Exception:
            logger.exception("leftovers of earlier servers could not be searched")
        await imported(jupyter_manager)

    async def _engine(self) -> JupyterManager:
        """The engine, imported and made at first use: it costs a quarter of a second, and many sessions need none."""
        async with self._manager_lock:
            if self._manager is None:
                await imported(jupyter_manager)
                self._manager = jupyter_manager.JupyterManager(
                    self._state_directory, patience=self._config.response_wait
                )
                self._fill_spares(delay=0)
        return self._manager

    async def overview(self) -> KernelList:
        """Installed kernelspecs and live kernels."""
        manager = await self._engine()
        notebooks = {kernel_id: path for path, kernel_id in self._notebooks.items()}
        known = await asyncio.to_thread(self._pythons.known, self._workspace.roots[0])
        return KernelList(
            environments=[
                KnownEnvironment(label=one.label, python=str(one.prefix or one.python))
                for one in known[:_SHOWN_ENVIRONMENTS]
            ],
            environment_count=len(known),
            available=[
                AvailableKernel(name=k.name, display_name=k.display_name, language=k.language, problem=k.problem)
                for k in await manager.installed()
            ],
            active=[
                ActiveKernel(
                    kernel_id=kernel.kernel_id,
                    kernel_name=kernel.kernel_name,
                    state=kernel.state,
                    started_at=iso_time(kernel.started_at),
                    last_activity=iso_time(kernel.last_activity),
                    execution_count=kernel.execution_count,
                    notebook=self._workspace.display_path(notebooks[kernel.kernel_id])
                    if kernel.kernel_id in notebooks
                    else None,
                )
                for kernel in self._kernels.values()
            ],
        )

    async def installed(self, kernel_name: str) -> InstalledKernel:
        """The kernelspec of that name.

        Raises:
            KernelSpecNotFoundError: there is none; the message lists those there are.
        """
        manager = await self._engine()
        spec = await manager.kernelspec(kernel_name)
        return jupyter_manager.InstalledKernel(kernel_name, spec.display_name or kernel_name, spec.language)

    async def choose(
        self,
        directory: Path,
        *,
        document: NotebookDocument | None = None,
        python: str | None = None,
        kernel_name: str | None = None,
        make: bool = True,
    ) -> PythonChoice:
        """The Python, or the kernelspec, for a kernel that starts in a directory: see `Pythons.choose`.

        An environment that the notebook declares is made, if need be, and with `make`.

        Raises:
            InvalidArgumentError: `python` and `kernel_name` are both given, or `python` names no environment.
            BusyError: the environment that the notebook declares is still being made.
            EnvironmentFailedError: it cannot be made.
        """
        manager = await self._engine()
        choice = await self._pythons.choose(
            directory, manager.found, document=document, python=python, kernel_name=kernel_name
        )
        if choice.declaration is None:
            return choice
        maker = await self.maker()
        if not make:
            return choice.made(await asyncio.to_thread(maker.planned, choice.declaration))
        return choice.made(await maker.environment(choice.declaration))

    async def maker(self) -> EnvironmentMaker:
        """The maker of environments that notebooks declare."""
        if self._maker is None:
            manager = await self._engine()
            self._maker = manager.maker(
                denied_env=self._config.kernel_env_deny, in_use=self._interpreters, known=self._pythons.everywhere
            )
        return self._maker

    def _interpreters(self) -> list[Path]:
        return [kernel.interpreter for kernel in list(self._kernels.values()) if kernel.interpreter and kernel.alive]

    async def start(
        self,
        kernel_name: str,
        *,
        cwd: str | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> StartedKernel:
        """Start a kernel in a directory of the workspace.

        Args:
            kernel_name: the generic one counts as none, so the order of `Pythons.choose` decides.
            python: an interpreter or an environment; need not be inside a root, since it is only executed.

        Raises:
            InvalidArgumentError: `python` names no environment, or a `kernel_name` is given, too.
            LimitReachedError: as many kernels live as may.
            KernelSpecNotFoundError, KernelStartFailedError: it cannot be started.
        """
        for name, value in (env or {}).items():
            if not name or "=" in name or "\0" in name + value:
                raise InvalidArgumentError(
                    f"env has {name[:100]!r}, which cannot be an environment variable", state="no kernel was started"
                )
        directory = self._workspace.directory("." if cwd is None else cwd)
        named = None if kernel_name == DEFAULT_KERNEL else kernel_name
        choice = await self.choose(directory, python=python, kernel_name=named)
        async with self.slot():
            kernel = await self.launch(choice, cwd=directory, env=dict(env or {}))
        return StartedKernel(
            kernel_id=kernel.kernel_id,
            kernel_name=kernel.kernel_name,
            language=kernel.language,
            state=kernel.state,
            python=kernel.python,
            pid=kernel.pid,
            cwd=self._workspace.display_path(directory),
            notes=list(choice.notes) or None,
        )

    @asynccontextmanager
    async def slot(self, *, queue: Callable[[str], None] | None = None) -> AsyncIterator[list[str]]:
        """Capacity for one more kernel, while it starts. The living kernel holds the capacity afterwards.

        Where there is none, the kernel that was idle longest is stopped, of those that were started for a notebook and
        have run its cells only.

        Args:
            queue: wait for capacity, first come, first served. Called with the reason if the caller has to wait.

        Yields:
            Notes about a kernel that was stopped.

        Raises:
            LimitReachedError: as many kernels live as may, and `queue` was not given.
        """
        notes: list[str] = []
        idle = None if self._waiting or self._room() > 0 else self._longest_idle()
        if idle is not None:
            self._starting += 1
            notes.append(
                f"kernel {self._described(idle)} was stopped to make room (max_kernels); its variables are lost"
            )
            try:
                await self._end_or_log(idle, _GIVEN_UP)
            except BaseException:
                self._starting -= 1
                raise
        elif not self._waiting and self._room() > 0:
            self._starting += 1
        elif queue is None or self._closed:
            raise self._limit_reached()
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            queue(f"waiting for a kernel to end: {self._config.max_kernels} live, as max_kernels allows")
            try:
                await place  # `_hand_on` has counted us in
            except BaseException:
                if place.done() and not place.cancelled():
                    self._starting -= 1
                elif place in self._waiting:
                    self._waiting.remove(place)
                self._hand_on()
                raise
        try:
            yield notes
        finally:
            self._starting -= 1
            self._hand_on()

    @property
    def full(self) -> bool:
        """Whether a kernel that is started now waits in line, or is refused."""
        return bool(self._waiting) or (self._room() <= 0 and self._longest_idle() is None)

    def _room(self) -> int:
        living = sum(kernel.alive for kernel in self._kernels.values())
        return 0 if self._closed else self._config.max_kernels - living - self._starting

    def _longest_idle(self) -> Kernel | None:
        """The kernel to give up first: idle, started for a notebook, and not just given to a run."""
        if self._closed:
            return None
        found = [
            kernel
            for kernel_id, given in self._given.items()
            if (kernel := self._kernels.get(kernel_id)) is not None
            and kernel.state == "idle"
            and not kernel.last_failed  # its variables show why, and the cell can be mended in it
            and (kernel.last_activity > given or datetime.now(UTC) - given > _GIVEN_FOR)
        ]
        return max(found, key=lambda kernel: kernel.idle_seconds, default=None)

    def _hand_on(self) -> None:
        """Give free capacity to the first in line."""
        while self._waiting and self._room() > 0:
            place = self._waiting.popleft()
            if not place.done():
                self._starting += 1
                place.set_result(None)

    def _limit_reached(self) -> LimitReachedError:
        living = [kernel for kernel in self._kernels.values() if kernel.alive]
        return LimitReachedError(
            f"{count_noun(len(living), 'kernel')} alive and {self._starting} starting, and max_kernels is "
            f"{self._config.max_kernels}" + (f"; {len(self._waiting)} wait in line" if self._waiting else ""),
            allowed=f"alive: {listed(map(self._described, living))}",
            state="no kernel was started",
            advice="stop one with stop_kernel, all with cleanup_all_kernels, wait for one, or raise max_kernels",
        )

    def _described(self, kernel: Kernel) -> str:
        """A kernel for the message that there is no room for another."""
        facts = [f"idle for {kernel.idle_seconds:.0f} s" if kernel.state == "idle" else str(kernel.state)]
        bound = [path for path, kernel_id in self._notebooks.items() if kernel_id == kernel.kernel_id]
        facts += map(self._workspace.display_path, bound)
        return f"{kernel.kernel_id} ({', '.join(facts)})"

    async def launch(
        self,
        choice: PythonChoice,
        *,
        cwd: Path,
        env: dict[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        patient: bool = False,
    ) -> Kernel:
        """Start a kernel. The caller holds a `slot` for it.

        Args:
            env: environment variables that the start of the kernel may depend on.
            variables: environment variables for the code alone. A spare kernel can get them, too.
            patient: wait for ipykernel to be fetched, as long as that takes.

        Raises:
            KernelSpecNotFoundError, KernelStartFailedError: see `start`.
            PathNotAllowedError: `cwd` leads through a link that was not there when it was checked.
        """
        self._workspace.require_unmoved(cwd)
        manager = await self._engine()
        variables = dict(variables or {})
        kernel_name, environment = choice.kernel_name, choice.environment
        spare = None if environment or env else await self._spare(kernel_name, cwd, variables)
        if spare is not None:
            spare.python = _label(spare, choice.label, choice.packages_in)
            spare.died.connect(self._hand_on)
            self._kernels[spare.kernel_id] = spare
            logger.info("spare kernel used", extra={"kernel_id": spare.kernel_id})
            return spare
        with self._metrics.kernel_start("" if environment else kernel_name):
            kernel = await manager.start_kernel(
                kernel_name,
                cwd=cwd,
                timeout_seconds=self._config.jupyter_timeout,
                environment=environment,
                env=variables | (env or {}),
                denied_env=list(self._config.kernel_env_deny),
                patient=patient,
            )
        kernel.python = _label(kernel, choice.label, environment or choice.packages_in)
        kernel.died.connect(self._hand_on)
        self._kernels[kernel.kernel_id] = kernel
        logger.info("kernel started", extra={"kernel_id": kernel.kernel_id, "kernel_name": kernel_name})
        return kernel

    async def _spare(self, kernel_name: str, cwd: Path, variables: dict[str, str]) -> Kernel | None:
        """A kernel that was started ahead of time, moved to `cwd`, if there is one of that name."""
        while self._spares and kernel_name == DEFAULT_KERNEL:
            kernel = self._spares.pop()
            self._fill_spares(delay=_SPARE_DELAY)
            try:
                await kernel.move_to(cwd, variables)
            except Exception as error:
                known = isinstance(error, ServerError)
                logger.warning("a spare kernel cannot be used: %s", error, exc_info=None if known else error)
                await self._end_or_log(kernel, "was a spare one that failed")
                continue
            return kernel
        return None

    def _fill_spares(self, *, delay: float) -> None:
        """Start spare kernels until there are as many as the settings say, after a moment."""
        if self._closed or (self._filling is not None and not self._filling.done()):
            return
        if len(self._spares) < self._config.prewarm_kernels:
            self._filling = asyncio.create_task(self._start_spares(delay), name="start spare kernels")
            self._tasks.append(self._filling)

    async def renew_spares(self, environment: Environment) -> None:
        """End the spare kernels of an environment whose packages changed: they may have imported the old ones."""
        self._renewals += 1  # one that starts now is not used either
        old = [kernel for kernel in self._spares if self._has(kernel, environment)]
        self._spares = [kernel for kernel in self._spares if kernel not in old]
        for kernel in old:
            await self._end_or_log(kernel, "was a spare one with the packages of before")
        self._fill_spares(delay=_SPARE_DELAY)

    async def _start_spares(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while len(self._spares) < self._config.prewarm_kernels and not self._closed:
            renewals = self._renewals
            try:
                self._workspace.require_unmoved(self._workspace.roots[0])
                manager = await self._engine()
                with self._metrics.kernel_start(DEFAULT_KERNEL):
                    kernel = await manager.start_kernel(
                        DEFAULT_KERNEL,
                        cwd=self._workspace.roots[0],
                        timeout_seconds=self._config.jupyter_timeout,
                        denied_env=list(self._config.kernel_env_deny),
                    )
            except ServerError as error:
                logger.warning("no spare kernel could be started: %s", error)
                return
            except Exception:
                logger.exception("no spare kernel could be started")
                return
            if renewals != self._renewals:
                await self._end_or_log(kernel, "was a spare one that started while packages changed")
                continue
            self._spares.append(kernel)

    def get(self, kernel_id: str) -> Kernel:
        """The kernel with that id, dead or alive.

        Raises:
            KernelNotFoundError: there is none; the message has the fate of a former one.
        """
        kernel = self._kernels.get(kernel_id)
        if kernel is not None:
            return kernel
        stop_reason = self._gone.get(kernel_id)
        raise KernelNotFoundError(
            f"kernel {kernel_id[:64]!r} {stop_reason}" if stop_reason else f"there is no kernel {kernel_id[:64]!r}",
            allowed=f"kernels: {listed(self._kernels)}",
            advice="start one with start_kernel",
        )

    def named(self, kernel_id: str | None, path: str | None) -> str:
        """The id of a kernel that is named by its id, or by the notebook that uses it.

        Raises:
            InvalidArgumentError: neither is given, or the notebook does not use that kernel.
            KernelNotFoundError: the notebook has no kernel.
        """
        if path is None:
            if kernel_id is None:
                raise InvalidArgumentError(
                    "no kernel is named", allowed="kernel_id, or the path of the notebook that uses it", state=_NOTHING
                )
            return kernel_id
        file = self._workspace.notebook(path)
        bound = self._notebooks.get(file)
        if kernel_id is not None and kernel_id != bound:
            raise InvalidArgumentError(
                f"kernel {kernel_id[:64]!r} is not that of {self._workspace.display_path(file)}",
                allowed=f"its kernel: {bound or 'none'}",
                state=_NOTHING,
                advice="give kernel_id or path",
            )
        if bound is None:
            raise KernelNotFoundError(
                f"{self._workspace.display_path(file)} has no kernel",
                allowed=f"kernels: {listed(self._kernels)}",
                state=_NOTHING,
                advice="execute_notebook, or execute_cell with this path, starts it",
            )
        return bound

    async def stop(self, kernel_id: str) -> StoppedKernel:
        """Stop a kernel and forget it.

        Raises:
            KernelNotFoundError: there is no such kernel.
        """
        await self.end(self.get(kernel_id), "was stopped; its variables are lost")
        return StoppedKernel(kernel_id=kernel_id, state="stopped")

    async def stop_all(self) -> StoppedKernels:
        """Stop every kernel of this server, in parallel."""
        kernels = list(self._kernels.values())
        results = await asyncio.gather(
            *(self.end(kernel, "was stopped by cleanup_all_kernels; its variables are lost") for kernel in kernels),
            return_exceptions=True,
        )
        failed = [
            FailedStop(kernel_id=kernel.kernel_id, reason=str(result))
            for kernel, result in zip(kernels, results, strict=True)
            if isinstance(result, BaseException)
        ]
        lost = {failure.kernel_id for failure in failed}
        stopped = [kernel.kernel_id for kernel in kernels if kernel.kernel_id not in lost]
        return StoppedKernels(stopped=stopped, failed=failed, stopped_count=len(stopped), failed_count=len(failed))

    async def interrupt(self, kernel_id: str) -> InterruptedKernel:
        """Interrupt the running code of a kernel and wait, at most 5 s, for the effect.

        Raises:
            KernelNotFoundError, KernelDiedError: there is nothing to interrupt.
        """
        kernel = self.get(kernel_id)
        kernel.require_alive()
        running = kernel.running
        if running is None:
            return InterruptedKernel(kernel_id=kernel_id, result="idle", state=kernel.state)
        obeyed = await kernel.interrupt(running)
        if obeyed:
            kernel.require_alive()  # some kernels die of an interrupt
            return InterruptedKernel(kernel_id=kernel_id, result="interrupted", state=kernel.state)
        return InterruptedKernel(
            kernel_id=kernel_id,
            result="still_running",
            state=kernel.state,
            advice="the kernel ignores interrupts; restart_kernel ends the code, and its variables are lost then",
        )

    async def restart(self, kernel_id: str) -> RestartedKernel:
        """Give a kernel a new process under its old id, also if it is dead. Its variables are lost.

        Its environment is looked at again: it may have been remade with another version of Python.

        Raises:
            KernelNotFoundError: there is no such kernel.
            LimitReachedError: the kernel is dead, and as many others live as may.
            KernelStartFailedError: its environment is gone, or the new process did not come up.
        """
        kernel = self.get(kernel_id)
        self._workspace.require_unmoved(kernel.cwd)
        environment = kernel.environment
        if environment is not None:
            environment = await asyncio.to_thread(self._pythons.again, environment)
        aborted = kernel.queue_length + (kernel.running is not None)
        manager = await self._engine()
        async with contextlib.nullcontext() if kernel.alive else self.slot():  # a dead one has given up its place
            with self._metrics.kernel_start("" if environment else kernel.kernel_name):
                await manager.restart_kernel(
                    kernel,
                    environment,
                    timeout_seconds=self._config.jupyter_timeout,
                    denied_env=list(self._config.kernel_env_deny),
                )
        if environment is not None and kernel.python is not None:
            label = relabelled(kernel.python, environment)
            kernel.python = _label(kernel, label, environment)
            for path in self._expected:
                if self._notebooks.get(path) == kernel_id:
                    self._expected[path] = label
        return RestartedKernel(
            kernel_id=kernel_id,
            kernel_name=kernel.kernel_name,
            python=kernel.python,
            state=kernel.state,
            pid=kernel.pid,
            aborted=aborted,
        )

    async def status(self, kernel_id: str) -> KernelStatus:
        """The state of a kernel, its use of processor and memory, and the end of a dead one.

        Raises:
            KernelNotFoundError: there is no such kernel.
        """
        kernel = self.get(kernel_id)
        running = kernel.running
        used = await asyncio.to_thread(usage, kernel.pid) if kernel.pid is not None and kernel.alive else None
        late = kernel.late.text()
        note = None
        if kernel.exit_code is not None:
            note = f"it died: {kernel.exit_description}; restart_kernel gives it a new process. {kernel.output_tail()}"
        elif running is not None and running.still_running:
            note = "it ignores interrupts; restart_kernel ends the code"
        path = next((path for path, bound in self._notebooks.items() if bound == kernel_id), None)
        return KernelStatus(
            kernel_id=kernel_id,
            kernel_name=kernel.kernel_name,
            language=kernel.language,
            python=kernel.python,
            state=kernel.state,
            pid=kernel.pid,
            cwd=self._workspace.display_path(kernel.cwd),
            started_at=iso_time(kernel.started_at),
            last_activity=iso_time(kernel.last_activity),
            idle_seconds=round(kernel.idle_seconds, 1),
            execution_count=kernel.execution_count,
            running_execution=running.owner if running else None,
            running_seconds=round(running.duration, 1) if running else None,
            queue_length=kernel.queue_length,
            cpu_percent=used[0] if used else None,
            memory_bytes=used[1] if used else None,
            exit_code=kernel.exit_code,
            notebook=self._workspace.display_path(path) if path else None,
            late_output=head_and_tail(clean_text(late), 2000)[0] if late else None,
            note=note,
        )

    async def variables(
        self, kernel_id: str, *, pattern: str = "*", limit: int = 50, name: str | None = None, frame: int | None = None
    ) -> VariableList:
        """The variables in a Python kernel, also while it runs code.

        Args:
            name: one variable, in depth.
            frame: of the last failure: its local variables instead.

        Raises:
            InvalidArgumentError: the kernel speaks another language, or there is no such variable or frame.
            BusyError, KernelUnresponsiveError: it cannot be asked now.
        """
        await imported(kernel_variables)
        found = await kernel_variables.python_variables(
            self.get(kernel_id), pattern=pattern, limit=limit, name=name, frame=frame
        )
        rows = [Variable(**row) for row in found.rows]
        return VariableList(kernel_id=kernel_id, variables=rows, count=found.count, frame=found.frame)

    def keep(self, kernel: Kernel) -> None:
        """Never give up this kernel for another one: it has variables that no notebook can make again."""
        self._given.pop(kernel.kernel_id, None)

    async def end(self, kernel: Kernel, stop_reason: str) -> None:
        """Stop a kernel, remembering why it is gone."""
        self._kernels.pop(kernel.kernel_id, None)
        self._given.pop(kernel.kernel_id, None)
        self._remember(kernel.kernel_id, stop_reason)
        manager = await self._engine()
        await asyncio.shield(self._stop(manager, kernel))

    async def _stop(self, manager: JupyterManager, kernel: Kernel) -> None:
        try:
            await manager.stop_kernel(kernel)
        finally:
            self._hand_on()

    async def _end_or_log(self, kernel: Kernel, stop_reason: str) -> None:
        """Stop a kernel. A failure goes to the log, since no caller waits for it."""
        try:
            await self.end(kernel, stop_reason)
        except Exception:
            logger.exception("a kernel could not be stopped", extra={"kernel_id": kernel.kernel_id})

    def _remember(self, kernel_id: str, stop_reason: str) -> None:
        self._gone[kernel_id] = stop_reason
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    async def for_notebook(
        self,
        path: Path,
        document: NotebookDocument,
        *,
        kernel_id: str | None = None,
        python: str | None = None,
        fresh: bool = False,
    ) -> tuple[Kernel, list[str], bool]:
        """The kernel that a notebook is bound to, started if need be.

        Args:
            kernel_id: bind the notebook to this kernel.
            python: the environment for a new kernel.
            fresh: restart a live kernel. One of another Python than a new one would have is replaced.

        Returns:
            The kernel; notes about it and about an earlier kernel; and whether it is new.

        Raises:
            InvalidArgumentError: `python` is not the Python of the kernel.
            BusyError: a kernel that is to be restarted runs code.
        """
        async with self._beginning.setdefault(path, asyncio.Lock()):  # two calls at once start one kernel
            return await self._for_notebook(path, document, kernel_id, python, fresh)

    async def _for_notebook(
        self, path: Path, document: NotebookDocument, kernel_id: str | None, python: str | None, fresh: bool
    ) -> tuple[Kernel, list[str], bool]:
        if kernel_id is not None and python is not None:
            raise InvalidArgumentError("give python or kernel_id, not both", state="nothing was run")
        if kernel_id is not None:
            kernel = self.get(kernel_id)
            notes = [await self._restarted(kernel)] if fresh else []
            kernel.require_alive()
            self.bind(path, kernel)
            return kernel, notes, fresh
        notes, choice = [], None
        bound = self._notebooks.get(path)
        known = self._kernels.get(bound or "")
        if bound is not None and known is not None and known.alive and fresh:
            _require_idle(known)
            choice = await self.choose(path.parent, document=document, python=python)
            if _is_of(known, choice):
                return known, [*choice.notes, await self._restarted(known)], True
            await self.end(known, "was replaced by a fresh one of another Python")
            notes.append(f"kernel {bound} was stopped and its variables are lost: fresh=true started another one")
        elif bound is not None and known is not None and known.alive:
            if python is not None:
                await self._require_python(known, python, path, document)
            if bound in self._given:
                self._given[bound] = datetime.now(UTC)
            return known, await self._python_notes(known, path, document), False
        elif bound is not None:
            stop_reason = self._gone.get(bound, "is gone")
            if known is not None:
                ended = known.exit_code is not None
                stop_reason = f"died ({known.exit_description})" if ended else "could not be started again"
            notes.append(
                f"the notebook's earlier kernel {bound} {stop_reason}; "
                "a new one was started, so earlier variables are gone"
            )
        choice = choice or await self.choose(path.parent, document=document, python=python)
        async with self.slot() as made_room:
            notes += made_room
            kernel = await self.launch(choice, cwd=path.parent)
            self._given[kernel.kernel_id] = datetime.now(UTC)
        self.bind(path, kernel)
        if python is None:
            self._expected[path] = choice.label
        if known is not None and known.python != kernel.python:
            notes.append(f"the earlier kernel had another Python: {known.python}")
        return kernel, [*choice.notes, *notes], True

    async def _restarted(self, kernel: Kernel) -> str:
        """Restart an idle kernel. Returns a note about it."""
        _require_idle(kernel)
        await self.restart(kernel.kernel_id)
        return f"kernel {kernel.kernel_id} was restarted before the run, so its variables are lost"

    async def _python_notes(self, kernel: Kernel, path: Path, document: NotebookDocument) -> list[str]:
        """A note, once, that a new kernel for the notebook would have another Python than its live one."""
        if path not in self._expected or self._declared(kernel):
            return await self._declaration_notes(kernel, document)
        manager = await self._engine()
        try:
            choice = await self._pythons.choose(path.parent, manager.found, document=document)
        except ServerError:  # the setting is wrong, for one: that concerns new kernels
            return []
        if choice.declaration is not None:  # its environment is made for a new kernel, not for a note
            choice = choice.made((await self.maker()).planned(choice.declaration))
        if choice.label == self._expected[path] or choice.packages_in is None:
            return []
        self._expected[path] = choice.label
        same = kernel.environment is not None and kernel.environment.place == choice.packages_in.place
        call = "restart_kernel" if same else "stop_kernel before the next run"
        return [f"the kernel runs in {kernel.python}; a new one would run in {choice.label}. {call} changes to that"]

    async def _declaration_notes(self, kernel: Kernel, document: NotebookDocument) -> list[str]:
        """A note that a notebook no longer declares the packages that its kernel has."""
        if self._maker is None or not self._declared(kernel):
            return []
        declaration = await asyncio.to_thread(self._pythons.declared, document)
        if declaration is not None and kernel.environment == self._maker.planned(declaration):
            return []
        now = "no packages now" if declaration is None else f"other packages now: {declaration}"
        named = "" if self._config.notebook_environments == "auto" else f' and python="{NOTEBOOK_PYTHON}"'
        return [
            f"the kernel has the packages that the notebook declared when it started; it declares {now}. "
            f"execute_notebook with fresh=true{named} changes to these"
        ]

    def bound(self, path: Path) -> Kernel | None:
        """The living kernel that a notebook is bound to."""
        kernel = self._kernels.get(self._notebooks.get(path, ""))
        return kernel if kernel is not None and kernel.alive else None

    def python_of(self, path: Path) -> str | None:
        """The Python of the live kernel that a notebook is bound to, and the id of that kernel; None without one."""
        kernel = self.bound(path)
        if kernel is None:
            return None
        return f"{kernel.python or kernel.kernel_name}; kernel {kernel.kernel_id} runs in it"

    async def module_notes(self, kernel: Kernel, errors: Iterable[CellError | None]) -> list[str]:
        """Notes about modules that code did not find: which Python it ran in, and which one has the module."""
        modules = dict.fromkeys(missing_module(error.ename, error.evalue) for error in errors if error is not None)
        if kernel.interpreter is None:
            return []
        return [
            await asyncio.to_thread(
                self._pythons.module_note, module, kernel.interpreter, kernel.cwd, declared=self._declared(kernel)
            )
            for module in modules
            if module is not None
        ]

    def _declared(self, kernel: Kernel) -> bool:
        """Whether the environment of a kernel was made of a notebook's declaration."""
        environment = kernel.environment
        return self._maker is not None and environment is not None and self._maker.holds(environment)

    def environment_of(self, kernel: Kernel) -> Environment:
        """The environment of a Python kernel. Reads files.

        Raises:
            InvalidArgumentError: it is no Python, or its command does not say which.
        """
        if kernel.interpreter is None:
            raise InvalidArgumentError(
                f"kernel {kernel.kernel_id} ({kernel.kernel_name}) has no Python that its command names",
                state="nothing was installed",
                advice="name the environment by python",
            )
        return self._pythons.at(kernel.interpreter)

    async def environment_for(self, path: Path, document: NotebookDocument) -> Environment:
        """The environment of the kernel that a notebook is bound to, else that of the one it would get.

        Raises:
            InvalidArgumentError: the notebook is not in Python, or its kernel does not say which.
        """
        bound = self.bound(path)
        if bound is not None:
            return await asyncio.to_thread(self.environment_of, bound)
        choice = await self.choose(path.parent, document=document)
        if choice.packages_in is None:
            raise InvalidArgumentError(
                f"the kernel {choice.kernel_name[:100]!r} of {self._workspace.display_path(path)} has no Python that "
                "its command names",
                state="nothing was installed",
                advice="name the environment by python",
            )
        return choice.packages_in

    async def environment_named(self, python: str) -> Environment:
        """The environment that an argument `python` names.

        Raises:
            InvalidArgumentError: it names none.
        """
        return await asyncio.to_thread(self._pythons.named, python)

    def bound_environment(self, path: Path) -> Environment | None:
        """The environment of the living kernel that a notebook is bound to. Reads files."""
        bound = self.bound(path)
        if bound is None or bound.interpreter is None:
            return None
        return self._pythons.at(bound.interpreter)

    def is_own(self, environment: Environment) -> bool:
        """Whether it is the environment of this server. Reads files."""
        return self._pythons.is_own(environment)

    async def require_changeable(self, environment: Environment, *, named: bool) -> None:
        """Refuse the environment of this server, unless the call names it, and those made of declarations.

        Raises:
            InvalidArgumentError: it is one of them.
        """
        if not named and await asyncio.to_thread(self.is_own, environment):
            raise InvalidArgumentError(
                f"this would change {environment.label} at {environment.prefix or environment.python}, the environment "
                "of the server itself",
                state="nothing was installed",
                advice="make an environment in the project (.venv), or name the server's by python if you mean it",
            )
        if (await self.maker()).holds(environment):
            raise InvalidArgumentError(
                "this environment is made of a notebook's declaration, and others may share it",
                state="nothing was installed",
                advice="call again with the notebook's path and record=true: the notebook declares the packages, too, "
                "and gets an environment with them",
            )

    def kernels_in(self, environment: Environment) -> list[str]:
        """The ids of the living kernels that have the packages of an environment. Reads files."""
        return [
            kernel.kernel_id for kernel in self._kernels.values() if kernel.alive and self._has(kernel, environment)
        ]

    def _has(self, kernel: Kernel, environment: Environment) -> bool:
        """Whether a kernel has the packages of an environment. Reads files."""
        return kernel.interpreter is not None and self._pythons.at(kernel.interpreter).place == environment.place

    async def installation(
        self, environment: Environment, requirements: Sequence[str], *, upgrade: bool
    ) -> Installation:
        """An installer that is ready to run.

        Raises:
            EnvironmentFailedError: there is none.
        """
        manager = await self._engine()
        denied = self._config.kernel_env_deny
        return await asyncio.to_thread(
            manager.installation, environment, requirements, upgrade=upgrade, denied_env=denied
        )

    async def program_maker(self) -> MakeProgram:
        """Makes programs that end with this server."""
        return (await self._engine()).program

    async def _require_python(self, kernel: Kernel, python: str, path: Path, document: NotebookDocument) -> None:
        if not _is_of(kernel, await self.choose(path.parent, document=document, python=python)):
            raise InvalidArgumentError(
                f"the kernel of the notebook has another Python than {python[:200]!r}"
                + (" now stands for" if python == NOTEBOOK_PYTHON else "")
                + f": {kernel.python or 'unknown'}",
                state=f"nothing was run; kernel {kernel.kernel_id} stays with its variables",
                advice="execute_notebook with fresh=true starts a kernel in the named one; or leave python out",
            )

    def bind(self, path: Path, kernel: Kernel) -> None:
        """Have runs of the notebook use this kernel from now on."""
        self._notebooks[path] = kernel.kernel_id
        self._expected.pop(path, None)

    def follow(self, old: Path, new: Path) -> list[str]:
        """Bind the kernel of a notebook that was renamed to its new path. Returns notes about it."""
        kernel = self.bound(old)
        bound = self._notebooks.pop(old, None)
        if bound is None:
            return []
        self._notebooks[new] = bound
        self._expected.pop(new, None)
        if old in self._expected:
            self._expected[new] = self._expected.pop(old)
        if kernel is None or kernel.cwd == new.parent:
            return []
        cwd = self._workspace.display_path(kernel.cwd)
        return [f"kernel {bound} goes on with the notebook; its working directory is still {cwd}"]

    async def _stop_idle_kernels(self) -> None:
        while True:
            await asyncio.sleep(self._config.cleanup_interval)
            for kernel in list(self._kernels.values()):
                idle = kernel.idle_seconds
                if idle < self._config.kernel_idle_timeout:
                    continue
                logger.info("idle kernel stopped", extra={"kernel_id": kernel.kernel_id, "idle_seconds": round(idle)})
                await self._end_or_log(
                    kernel,
                    f"was stopped after {idle / 60:.1f} min of idleness (kernel_idle_timeout); its variables are lost",
                )


def _label(kernel: Kernel, label: str | None, environment: Environment | None) -> str | None:
    """The label of the Python of a kernel. The kernel knows the version where no file tells it."""
    version = kernel.info.get("language_info", {}).get("version")
    if label is None or environment is None or environment.version or not isinstance(version, str):
        return label
    return relabelled(label, replace(environment, version=one_line(version, 20)))


def _require_idle(kernel: Kernel) -> None:
    if kernel.running is not None or kernel.queue_length:
        raise BusyError(
            f"kernel {kernel.kernel_id} runs code, so it is not restarted",
            state="nothing was run",
            advice="wait for that run, or end it with cancel_execution or interrupt_kernel",
        )


def _is_of(kernel: Kernel, choice: PythonChoice) -> bool:
    """Whether a kernel is one of this Python, or of this kernelspec where its Python is not known."""
    if choice.packages_in is not None:
        return kernel.interpreter == choice.packages_in.python
    return kernel.kernel_name == choice.kernel_name
