"""The run of an installer, uv or pip, in an environment.

No project configures it: it starts in the root of the file system, since uv reads the settings of the directories
above. The user's own settings, proxies and indexes count as usual.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from papermill_mcp.core.environments.reading import Environment
from papermill_mcp.core.environments.requirements import name_of
from papermill_mcp.core.environments.starting import find_uv, variables_of
from papermill_mcp.core.processes.program import Program
from papermill_mcp.errors import EnvironmentFailedError

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


class Installation(Program):
    """One run of an installer."""

    def last_lines(self, number: int = _QUOTED_LINES) -> str:
        """The end of its output."""
        return "\n".join(self.text(_QUOTED_CHARS).splitlines()[-number:])

    async def run(self) -> int:
        """Run to the end. Returns the exit code.

        Raises:
            EnvironmentFailedError: it cannot be started.
        """
        try:
            return await super().run()
        except OSError as error:
            raise EnvironmentFailedError(
                f"{self.command[0]!r} could not be started: {error.strerror or error}", state=_STATE
            ) from error
