"""The one Jupyter server that this process may have: where it may look, and whether there is one.

Leaving the service ends it. Jupyter servers of anybody else are never touched.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Self

from papermill_mcp.config import Config
from papermill_mcp.errors import LimitReachedError, ServerNotRunningError
from papermill_mcp.services.results import Progress, Result
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core import jupyter_server
    from papermill_mcp.core.jupyter_server import JupyterServer
else:
    jupyter_server = lazy("papermill_mcp.core.jupyter_server")

logger = logging.getLogger(__name__)

_NO_COLLABORATION = (
    "jupyter-collaboration is off in it, since it would save open notebooks over changes by others at the same moment"
)

#: Seconds that a server gets to stop its kernels and itself when it is asked to.
_GRACE_SECONDS = 5.0


class StartedServer(Result):
    """A Jupyter server that answers. `token_hint` says how its user gets in; the token itself is in no reply."""

    url: str
    port: int
    pid: int
    version: str
    root_directory: str
    token_hint: str
    note: str | None = None


class StoppedServer(Result):
    """A Jupyter server that is gone."""

    pid: int
    state: str


class JupyterServerService:
    """Starts and stops a Jupyter server. Used as a context manager; leaving it ends the server."""

    def __init__(self, config: Config, workspace: Workspace, state_directory: Path) -> None:
        self._config = config
        self._workspace = workspace
        self._state_directory = state_directory
        self._server: JupyterServer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.aclose()

    async def start(self, root_directory: str, *, port: int, progress: Progress) -> StartedServer:
        """Start a Jupyter server for a directory of the workspace, or find the one that runs there already.

        Raises:
            PathNotAllowedError, NotFoundError: `root_directory` is no directory inside a root.
            LimitReachedError: one runs with another directory or port.
            ServerStartFailedError: it cannot be started; nothing is left of it.
        """
        directory = self._workspace.directory(root_directory)
        async with self._starting:
            last = self._server
            if last is not None and last.alive:
                if last.root != directory or port not in (0, last.port):
                    raise LimitReachedError(
                        f"a Jupyter server is running at {last.url} with the root directory "
                        f"{self._workspace.display_path(last.root)!r}",
                        allowed="one at a time",
                        state="it goes on as it is",
                        advice="use it, or end it with stop_jupyter_server first",
                    )
                return self._started(last, "it was running already")
            stop_reason = await _clear_away(last)
            await imported(jupyter_server)
            self._server = server = jupyter_server.JupyterServer(directory, self._state_directory)
            try:
                await server.start(
                    port=port,
                    timeout_seconds=self._config.jupyter_timeout,
                    report=lambda seconds: progress(
                        seconds, None, f"{server.application.name} starts · {seconds:.0f} s"
                    ),
                    denied_env=self._config.kernel_env_deny,
                )
            except BaseException:  # nothing is left of it
                self._server = None
                raise
        logger.info("Jupyter server started", extra={"pid": server.pid, "port": server.port})
        return self._started(server, f"the one before had ended by itself: {stop_reason}" if stop_reason else None)

    def _started(self, server: JupyterServer, note: str | None) -> StartedServer:
        if jupyter_server.has_collaboration():
            note = "; ".join(filter(None, [note, _NO_COLLABORATION]))
        return StartedServer(
            url=server.url,
            port=server.port,
            pid=server.pid,
            version=server.version,
            root_directory=self._workspace.display_path(server.root),
            token_hint=f"Open {server.page} in a browser. If the browser may not read it, log in at the url with the "
            f"token in {server.token_file}. Only you can read these files, and they go with the server.",
            note=note,
        )

    async def stop(self) -> StoppedServer:
        """Stop the Jupyter server, also one that is starting, and the kernels in it.

        Raises:
            ServerNotRunningError: there is none; if there was, the message says how it ended.
        """
        server = self._server
        if server is None or not server.alive:
            self._server = None
            stop_reason = await _clear_away(server)
            raise ServerNotRunningError(
                f"the Jupyter server has ended by itself: {stop_reason}"
                if stop_reason
                else "this server has started no Jupyter server",
                allowed=server.log_tail() if server is not None else "",
                state="nothing was stopped; Jupyter servers that others have started are never touched",
                advice="start one with start_jupyter_server",
            )
        await server.aclose(grace_seconds=_GRACE_SECONDS)
        if self._server is server:
            self._server = None
        return StoppedServer(pid=server.pid, state="stopped")


async def _clear_away(server: JupyterServer | None) -> str:
    """See to it that nothing is left of a server that has ended by itself. Returns how it ended."""
    if server is None:
        return ""
    await server.aclose()
    return server.exit_description()
