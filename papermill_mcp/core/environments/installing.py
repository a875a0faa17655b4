"""The run of an installer, uv or pip, in an environment.

No project configures it: it starts in the root of the file system, since uv reads the settings of the directories
above. The user's own settings, proxies and indexes count as usual.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from papermill_mcp.core.environments.reading import Environment
from papermill_mcp.core.environments.requirements import name_of
from papermill_mcp.core.environments.starting import find_uv, variables_of
from papermill_mcp.core.processes import guard
from papermill_mcp.core.processes.child import OutputTail
from papermill_mcp.core.processes.watchdog import Watchdog
from papermill_mcp.errors import EnvironmentFailedError

#: Seconds that an interrupted installer gets to put things in order.
_PATIENCE = 2.0

#: Lines and characters of its output that are quoted.
_QUOTED_LINES = 20
_QUOTED_CHARS = 2000

_STATE = "nothing was installed"


def installer_command(environment: Environment, requirements: Sequence[str], *, upgrade: bool) -> list[str]:
    """The command that installs checked requirements into an environment: that of uv where it is found, else of pip.

    Raises:
        EnvironmentFailedError: there is neither.
    """
    python = str(environment.python)
    uv = find_uv()
    if uv is not None:
        names = dict.fromkeys(map(name_of, requirements)) if upgrade else ()
        upgrades = [part for name in names for part in ("--upgrade-package", name)]
        return [uv, "pip", "install", "--python", python, *upgrades, "--", *requirements]
    if environment.prefix is None or environment.has_package("pip"):
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        return [*command, *(["--upgrade"] if upgrade else []), "--", *requirements]
    raise EnvironmentFailedError(
        f"{environment.label} has no pip, and uv is not installed",
        state=_STATE,
        advice=f"install uv, or let a person run: {shlex.quote(python)} -m ensurepip && "
        f"{shlex.quote(python)} -m pip install {shlex.join(requirements)}",
    )


def installer_variables(environment: Environment, given: Mapping[str, str], denied: Sequence[str]) -> dict[str, str]:
    """The variables of an installer.

    Args:
        given: the variables of this server.
        denied: names of those that kernels must not see. Installers run the code of packages, too.
    """
    seen = {name: value for name, value in given.items() if name not in denied}
    return variables_of(environment, seen) | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def externally_managed_advice(environment: Environment, output: str) -> str | None:
    """The way out where an installer refuses to change the Python of the system (PEP 668); None for other failures."""
    if "externally managed" not in output.lower() and "externally-managed" not in output.lower():
        return None
    return (
        f"{environment.label} belongs to the system; make an environment in the project with "
        f"{shlex.quote(str(environment.python))} -m venv .venv, or with uv venv, and name it by python"
    )


class Installation:
    """One process of an installer, in a session of its own, with all that it starts.

    Args:
        mark: a path below the directory that the watchdog guards. The processes are found by it.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], *, watchdog: Watchdog, mark: Path) -> None:
        self._command = list(command)
        self._variables = dict(variables) | {guard.KERNEL_VARIABLE: str(mark)}
        self._watchdog = watchdog
        self._tail: OutputTail | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._started = 0
        self._interrupted = False

    @property
    def lines(self) -> int:
        """How many lines it has written."""
        return self._tail.lines if self._tail is not None else 0

    def last_lines(self, number: int = _QUOTED_LINES) -> str:
        """The end of its output."""
        text = self._tail.text(_QUOTED_CHARS) if self._tail is not None else ""
        return "\n".join(text.splitlines()[-number:])

    async def run(self) -> int:
        """Run to the end. Returns the exit code. Nothing of it is left, also when the caller is cancelled.

        Raises:
            EnvironmentFailedError: it cannot be started.
        """
        self._tail = tail = OutputTail()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=tail.write_fd,
                stderr=tail.write_fd,
                start_new_session=True,
                env=self._variables,
                cwd=os.sep,
            )
        except OSError as error:
            tail.close()
            raise EnvironmentFailedError(
                f"{self._command[0]!r} could not be started: {error.strerror or error}", state=_STATE
            ) from error
        finally:
            tail.close_write()
        self._started = self._watchdog.guard(process.pid)
        try:
            if self._interrupted:  # while it was being started
                self._kill()
            code = await process.wait()
            await asyncio.to_thread(self._kill)
            return code
        finally:
            if process.returncode is None:
                self._kill()
                await process.wait()
            self._watchdog.release(process.pid)
            tail.drain()
            tail.close()

    async def interrupt(self) -> None:
        """End it. It gets a moment to undo its work, then everything of it is killed."""
        self._interrupted = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if sys.platform != "win32":
            try:
                os.killpg(process.pid, signal.SIGINT)
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
            except (TimeoutError, OSError):
                pass
        await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        assert self._process is not None
        guard.kill_tree(self._process.pid, self._started)
