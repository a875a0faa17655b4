"""Which kernels are installed, and the starting and ending of live ones.

`JupyterManager` owns the common parts of live kernels: the zmq context, the private directory of their connection
files, and the watchdog. The service above decides how many may live, and for which notebooks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from papermill_mcp.core.environments import starting
from papermill_mcp.core.environments.background import GoesOnError, SharedWork
from papermill_mcp.core.environments.installing import Installation, installer_command, installer_variables
from papermill_mcp.core.environments.making import PATIENCE, EnvironmentMaker
from papermill_mcp.core.environments.programs import with_pip
from papermill_mcp.core.environments.reading import Environment, environment_of, install_command, python_of_kernel
from papermill_mcp.core.kernels.kernel import Kernel, kernel_environment
from papermill_mcp.core.processes.child import TAIL_BYTES, private_directory
from papermill_mcp.core.processes.program import Program
from papermill_mcp.core.processes.watchdog import Watchdog
from papermill_mcp.errors import (
    BusyError,
    KernelSpecNotFoundError,
    KernelStartFailedError,
    listed,
    nearest,
)
from papermill_mcp.utils.file_utils import EXHAUSTED

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds after which an interpreter is asked whether it runs at all, while its kernel has not answered.
_PATIENCE = 15.0


class _Guarded(TypedDict):
    watchdog: Watchdog
    mark: Path


@dataclass(frozen=True)
class InstalledKernel:
    """One kernelspec. `problem` says why it cannot be used."""

    name: str
    display_name: str
    language: str
    problem: str | None = None


class JupyterManager:
    """Finds kernelspecs and starts kernels. Closing it ends every kernel it started.

    Args:
        state_directory: where the private directory for connection files is made.
        patience: seconds that a start waits for ipykernel to be fetched. The fetching goes on.
    """

    def __init__(self, state_directory: Path, *, patience: float = PATIENCE) -> None:
        self._specs = KernelSpecManager()
        self._context = zmq.asyncio.Context()
        self._watchdog = Watchdog()
        self._state_directory = state_directory
        self._runtime: Path | None = None
        self._kernels: set[Kernel] = set()
        self._patience = patience
        self._layers = SharedWork[str | None](min(PATIENCE, patience))

    async def installed(self) -> list[InstalledKernel]:
        """All kernelspecs, by name. A broken one is listed with its problem."""
        return await asyncio.to_thread(self._installed)

    def _installed(self) -> list[InstalledKernel]:
        found = []
        for name in sorted(self._specs.find_kernel_specs()):
            try:
                spec = self._load(name)
            except KernelStartFailedError as error:
                found.append(InstalledKernel(name, name, "", str(error).partition(": ")[2]))
                continue
            problem = None if _executable(spec) else f"its command {spec.argv[0]!r} is not installed"
            found.append(InstalledKernel(name, spec.display_name or name, spec.language, problem))
        return found

    async def kernelspec(self, kernel_name: str) -> KernelSpec:
        """The kernelspec of that name.

        Raises:
            KernelSpecNotFoundError: there is none.
            KernelStartFailedError: its file is broken.
        """
        return await asyncio.to_thread(self._load, kernel_name)

    async def found(self, kernel_name: str) -> KernelSpec | None:
        """The kernelspec of that name; None if there is none that can be read."""
        try:
            return await self.kernelspec(kernel_name)
        except (KernelSpecNotFoundError, KernelStartFailedError):
            return None

    def _load(self, kernel_name: str) -> KernelSpec:
        try:
            spec = self._specs.get_kernel_spec(kernel_name)
        except NoSuchKernel:
            names = sorted(self._specs.find_kernel_specs())
            near = nearest(kernel_name, names)
            raise KernelSpecNotFoundError(
                f"no kernelspec is named {kernel_name[:100]!r}" + (f"; did you mean {near!r}?" if near else ""),
                allowed=f"installed: {listed(names)}",
                advice="choose one of these, install the kernel you need, or name a Python by the argument python",
            ) from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise KernelStartFailedError(
                f"kernelspec {kernel_name[:100]!r} is broken: {error}", advice="fix or remove its kernel.json"
            ) from error
        if not spec.argv or not all(isinstance(part, str) for part in spec.argv):
            raise KernelStartFailedError(
                f"kernelspec {kernel_name[:100]!r} is broken: it has no command (argv)",
                advice="fix or remove its kernel.json",
            )
        return spec

    async def start_kernel(
        self,
        kernel_name: str,
        *,
        cwd: Path,
        timeout_seconds: float,
        environment: Environment | None = None,
        env: dict[str, str] | None = None,
        denied_env: list[str] | None = None,
        patient: bool = False,
    ) -> Kernel:
        """Start a kernel and wait until it answers.

        Args:
            environment: a Python that replaces the kernelspec, with or without ipykernel.
            env: variables on top of this server's environment.
            denied_env: names of this server's variables that the kernel must not see.
            patient: wait for ipykernel to be fetched, as long as that takes.

        Raises:
            BusyError: ipykernel is being fetched for this environment, and that takes long.
            KernelSpecNotFoundError: no such kernelspec.
            KernelStartFailedError: it cannot be executed, dies, or does not answer in time.
        """

        denied = denied_env or []
        if environment is None:
            spec = await self.kernelspec(kernel_name)
            python = python_of_kernel(spec.language, spec.argv)
            own = None if python is None else environment_of(python)
            variables = await self._variables(spec, own, env, denied)
            return await self._start(kernel_name, spec, cwd, variables, timeout_seconds)

        async def start(spec: KernelSpec) -> Kernel:
            variables = await self._variables(spec, environment, env, denied)
            return await self._start(spec.display_name, spec, cwd, variables, timeout_seconds)

        kernel = await self._in_environment(environment, start, patient=patient)
        kernel.environment, kernel.extra_env = environment, env
        return kernel

    async def restart_kernel(
        self, kernel: Kernel, environment: Environment | None, *, timeout_seconds: float, denied_env: list[str]
    ) -> None:
        """Give a kernel a new process.

        Args:
            environment: its Python as it is now; None to use the command and the variables of the first start.

        Raises:
            KernelNotFoundError, KernelStartFailedError: as `Kernel.restart`, and as `start_kernel`.
        """
        if environment is None:
            await kernel.restart(timeout_seconds=timeout_seconds)
            return

        async def start(spec: KernelSpec) -> None:
            variables = await self._variables(spec, environment, kernel.extra_env, denied_env)
            await kernel.restart(timeout_seconds=timeout_seconds, recipe=(spec, variables))

        await self._in_environment(environment, start)
        kernel.environment = environment

    async def _variables(
        self, spec: KernelSpec, own: Environment | None, extra: dict[str, str] | None, denied: list[str]
    ) -> dict[str, str]:
        variables = kernel_environment(spec, own, extra, denied)
        if own is None:
            return variables
        variables = await asyncio.to_thread(with_pip, own, variables, self._state_directory / "layers")
        return await starting.activated(own, variables, self.program)

    async def _in_environment(
        self, environment: Environment, start: Callable[[KernelSpec], Coroutine[Any, Any, T]], *, patient: bool = False
    ) -> T:
        """Start a kernel in an environment. Where ipykernel is missing, a layer with it is made first."""
        layers = self._state_directory / "layers"
        if not await asyncio.to_thread(environment.has_package, "ipykernel"):
            try:
                await asyncio.to_thread(starting.own_layer, layers)
            except OSError as error:
                raise KernelStartFailedError(
                    f"{environment.label} has no ipykernel, and {str(layers)!r}, where it would be kept, cannot be "
                    f"used: {error.strerror or error}",
                    state="no kernel was started",
                    advice="let a person set state_directory to a directory that can be written, or install ipykernel: "
                    f"{install_command(environment, ['ipykernel'])}",
                ) from error
        spec = starting.spec_of(environment, layers)
        make_layer = partial(self._layer, patient=patient)
        starts = asyncio.create_task(start(spec))
        try:
            await asyncio.wait([starts], timeout=_PATIENCE)
            if not starts.done():
                # An interpreter that does not answer is not waited for.
                await starting.mend(environment, layers, self.program, make_layer)
            return await starts
        except asyncio.CancelledError:
            await _cancelled(starts)
            raise
        except KernelStartFailedError:
            if not starts.done():
                await _cancelled(starts)
                raise
            if not await starting.mend(environment, layers, self.program, make_layer):
                raise
        return await start(spec)

    async def _layer(self, environment: Environment, tag: str, *, patient: bool) -> str | None:
        """Have uv fetch ipykernel for a version of Python. Returns the reason why it could not; None if it is there.

        Raises:
            BusyError: that takes long. It goes on.
        """
        layers = self._state_directory / "layers"

        async def begin() -> str | None:
            return await starting.made_layer(environment, layers, tag, self.program, self.guard_directory)

        try:
            return await self._layers.result(tag, begin, to_its_end=patient)
        except GoesOnError:
            raise BusyError(
                f"{environment.label} has no ipykernel, and uv is fetching it to the state directory",
                state="no kernel was started; the fetching goes on",
                advice="send the same call again in a while",
            ) from None
        except asyncio.InvalidStateError:
            return "the server was closed"

    async def _start(
        self, kernel_name: str, spec: KernelSpec, cwd: Path, variables: dict[str, str], timeout_seconds: float
    ) -> Kernel:
        kernel = Kernel(
            kernel_name,
            spec,
            cwd=cwd,
            env=variables,
            context=self._context,
            runtime=self._runtime_directory,
            watchdog=self._watchdog,
        )
        self._kernels.add(kernel)
        try:
            await kernel.start(timeout_seconds=timeout_seconds)
        except BaseException as error:
            self._kernels.discard(kernel)
            if isinstance(error, OSError) and error.errno not in EXHAUSTED:
                raise KernelStartFailedError(
                    f"kernel {kernel.kernel_name!r} could not be started: {error}",
                    state="nothing was started",
                    advice="check the rights of the server, then try again",
                ) from error
            raise
        return kernel

    async def stop_kernel(self, kernel: Kernel) -> None:
        """End a kernel and forget it."""
        await kernel.aclose()
        self._kernels.discard(kernel)

    def installation(
        self, environment: Environment, requirements: Sequence[str], *, upgrade: bool, denied_env: Sequence[str]
    ) -> Installation:
        """An installer for an environment. Its processes end with this server. Reads files.

        Raises:
            EnvironmentFailedError: there is no installer.
        """
        return Installation(
            installer_command(environment, requirements, upgrade=upgrade),
            installer_variables(environment, os.environ, denied_env),
            **self._guarded(),
        )

    def maker(
        self,
        *,
        denied_env: Sequence[str],
        in_use: Callable[[], Iterable[Path]],
        known: Callable[[], Iterable[Environment]],
    ) -> EnvironmentMaker:
        """The maker of environments that notebooks declare. Its programs end with this server."""
        directory = self._state_directory / "environments"
        return EnvironmentMaker(
            directory,
            self.program,
            self.guard_directory,
            denied=denied_env,
            in_use=in_use,
            known=known,
            patience=self._patience,
        )

    def program(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        keep: int = TAIL_BYTES,
        text: bytes | None = None,
        errors: bool = True,
    ) -> Program:
        """A program that ends with this server. The arguments are those of `Program`."""
        return Program(command, variables, keep=keep, text=text, errors=errors, **self._guarded())

    def _guarded(self) -> _Guarded:
        """The parts by which a program ends with this server."""
        return {"watchdog": self._watchdog, "mark": self._runtime_directory() / "program"}

    def guard_directory(self, directory: Path) -> None:
        """Have `directory` removed at the end, however this process ends."""
        self._watchdog.guard_directory(directory)

    def _runtime_directory(self) -> Path:
        """The directory for connection files, made at first use: mode 0700, since the files hold the kernels' keys.

        Another program may remove it, with the whole state directory. Then there is a new one.
        """
        if self._runtime is None or not self._runtime.is_dir():
            self._runtime = private_directory(self._state_directory)
            self._watchdog.guard_runtime(self._runtime)
        return self._runtime

    async def aclose(self) -> None:
        """End every kernel, in parallel, and remove their files. A second call does nothing."""
        await self._layers.aclose()
        kernels, self._kernels = list(self._kernels), set()
        for result in await asyncio.gather(*(kernel.aclose() for kernel in kernels), return_exceptions=True):
            if isinstance(result, BaseException):
                logger.error("a kernel could not be stopped: %s", result)
        if self._runtime is not None:
            await asyncio.to_thread(shutil.rmtree, self._runtime, True)
            self._runtime = None
        await asyncio.to_thread(self._watchdog.close)
        self._context.destroy(linger=0)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a start, and wait until nothing of it is left."""
    task.cancel()
    await asyncio.wait([task])


def _executable(spec: KernelSpec) -> bool:
    command = spec.argv[0]
    return command in ("python", "python3") or shutil.which(command) is not None
