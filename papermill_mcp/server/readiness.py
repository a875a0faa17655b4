"""Whether the server can work: one decision, made before each request that needs the settings.

A server with a fault in its settings answers its client, so that the client can show the fault. It has no root, and
does nothing. A missing root is looked for before each request, and taken once it is there.
"""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import anyio.to_thread

from papermill_mcp.config import PROGRAM, Config, ConfigError, MissingRootError, real_root
from papermill_mcp.errors import NotConfiguredError
from papermill_mcp.services.workspace import Workspace

logger = logging.getLogger(__name__)

#: Seconds that a look for missing roots may take. A file system of the network may not answer.
LOOK_SECONDS = 1.0


class Readiness:
    """The roots of a server, and the fault that keeps it from work.

    Args:
        state: the state directory, which no tool may touch.
        fault: a fault of the settings. Missing roots are no reason to give one.
    """

    def __init__(self, config: Config, state: Path, fault: ConfigError | None = None) -> None:
        self._i_know = config.i_know
        self._fault = None if isinstance(fault, MissingRootError) else fault
        self._missing: dict[Path, Path] = {}  # as the settings name a root, and its real path at the start
        self._problems: dict[Path, str] = {}
        self._looking = anyio.CapacityLimiter(1)  # a look that hangs must not take the threads of others
        every: list[Path] = []
        roots: list[Path] = []
        for root in config.roots if self._fault is None else ():
            try:
                roots.append(real_root(root, i_know=config.i_know))
                every.append(roots[-1])
            except MissingRootError as error:
                every.append(root.absolute().resolve())
                self._missing[root.absolute()] = every[-1]
                self._problems[root.absolute()] = str(error)
            except ConfigError as error:
                self._fault = error
        self.workspace = Workspace(
            roots if self._fault is None else [], private=[state], awaited=every, remote=config.remote_outputs
        )

    @property
    def notice(self) -> str | None:
        """The fault, or the missing roots, for a client that connects. None if all is well."""
        if (error := self._error()) is not None:
            return f"This server cannot work yet. {error}"
        if not self._missing:
            return None
        return (
            f"{self._problem()}. It is used once it is there. Until then the server works with its other roots, and "
            f"relative paths start at {str(self.workspace.roots[0])!r}."
        )

    async def check(self) -> None:
        """Look for missing roots, and let the request go on if there is a root.

        Raises:
            NotConfiguredError: the settings have a fault, or no root is there.
        """
        if self._missing and self._fault is None:
            with anyio.move_on_after(LOOK_SECONDS):
                found = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._looking)
                self._take(found)
        if (error := self._error()) is not None:
            raise error

    def _look(self) -> dict[Path, Path | ConfigError]:
        """The missing roots: the real path of each that is there now, or the problem."""
        found: dict[Path, Path | ConfigError] = {}
        for root, expected in list(self._missing.items()):
            try:
                found[root] = real = real_root(root, i_know=self._i_know)
                if real != expected and not self._i_know:
                    found[root] = ConfigError(
                        f"the root {str(root)!r} was missing at the start, and is now a link to another place; "
                        "restart the server to allow that place"
                    )
            except ConfigError as error:
                found[root] = error
        return found

    def _take(self, found: dict[Path, Path | ConfigError]) -> None:
        for root in list(self._missing):
            result = found.get(root)
            if isinstance(result, Path):
                self.workspace.add(result)
                del self._missing[root]
                logger.info("a root that was missing is used now", extra={"root": str(root)})
            elif result is not None and self._problems[root] != str(result):
                self._problems[root] = str(result)
                logger.warning("a root cannot be used", extra={"problem": str(result)})

    def _problem(self) -> str:
        return ". Also: ".join(self._problems[root] for root in self._missing)

    def _error(self) -> NotConfiguredError | None:
        granted = "no root is granted, so no file was read or written and no code was run"
        if self._fault is not None:
            return NotConfiguredError(
                str(self._fault),
                allowed=f"`{PROGRAM} --help` lists the settings",
                state=granted,
                advice="the user must correct this server's arguments, variables or settings file, and restart it",
            )
        if not self.workspace.roots:
            return NotConfiguredError(
                self._problem(),
                allowed="roots are directories, from --roots, JUPYTER_MCP_ROOTS or the settings file",
                state=granted,
                advice="make the directory and call again, without a restart; or name another one with --roots DIR in "
                "this server's arguments, and restart it",
            )
        return None
