"""One Jupyter server process: JupyterLab, or plain jupyter_server where Lab is not installed.

It listens on 127.0.0.1 only and wants a token, against any Jupyter configuration of the user. That configuration is
not read; the important settings are on the command line, which is stronger than any file. A server that answers without
the token is ended at once. Themes, other Lab settings, kernelspecs and extensions of the environment stay the user's.

The token is in a file of a private directory. It is in no environment, since every kernel would inherit it and a cell
that prints its environment would save it into a notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jupyter_core.paths import jupyter_config_dir

from papermill_mcp.core.processes import guard
from papermill_mcp.core.processes.child import OutputTail, describe_exit, private_directory
from papermill_mcp.core.processes.watchdog import Watchdog
from papermill_mcp.errors import ServerStartFailedError
from papermill_mcp.utils.file_utils import create_private_file

logger = logging.getLogger(__name__)

#: Seconds between two looks at a server that starts, and at one that runs.
_STARTING_POLL = 0.05
_RUNNING_POLL = 1.0

#: Seconds between two reports while it starts.
_REPORT_SECONDS = 2.0

#: Seconds for one HTTP request to it.
_REQUEST_SECONDS = 5.0

#: Characters of its log in an error.
_LOG_CHARS = 2000

_TOKEN_PARAMETER = re.compile(r"(token=)[^\s&\"']+")

#: Variables that would undo these settings, or set them in another way.
_OWN_VARIABLES = {
    "JUPYTER_TOKEN",
    "JUPYTER_PORT",
    "JUPYTER_PORT_RETRIES",
    "JUPYTER_CONFIG_PATH",
    "JUPYTER_NO_CONFIG",
    "JUPYTER_SERVER_ALLOW_UNAUTHENTICATED_ACCESS",
}

#: Settings that a configuration file of the system cannot change.
_FIXED = {
    "ip": "127.0.0.1",
    "port_retries": "0",
    "sock": "",
    "certfile": "",
    "base_url": "/",
    "allow_remote_access": "False",
    "allow_origin": "",
    "allow_origin_pat": "",
    "disable_check_xsrf": "False",
}

_CONFIGURATION_ADVICE = (
    "a jupyter_server_config file of the system or of the Python environment changes the authentication: remove that "
    "setting (jupyter --paths lists the directories)"
)

Report = Callable[[float], Awaitable[None]]


class Application(NamedTuple):
    """A program that is a Jupyter server."""

    module: str
    name: str
    page: str


_APPLICATIONS = (Application("jupyterlab", "JupyterLab", "lab"), Application("jupyter_server", "Jupyter Server", ""))


def installed_application() -> Application:
    """JupyterLab if it is installed beside this package, else jupyter_server.

    Raises:
        ServerStartFailedError: neither is there; the message gives the command that installs one.
    """
    for application in _APPLICATIONS:
        if importlib.util.find_spec(application.module) is not None:
            return application
    raise ServerStartFailedError(
        f"neither JupyterLab nor jupyter_server is installed for {sys.executable}",
        state="nothing was started",
        advice='install it there: pip install "jupyter-papermill-mcp-server[lab]", or pip install jupyterlab',
    )


def has_collaboration() -> bool:
    """Whether jupyter-collaboration is installed.

    It saves an open notebook from its memory, over changes that others make to the file at the same moment. So the
    server that is started here does without it, and JupyterLab asks its user when a file has changed on the disk.
    """
    return importlib.util.find_spec("jupyter_server_ydoc") is not None


class JupyterServer:
    """A Jupyter server with `root` as its root directory. It is started once, and never again after its end.

    Args:
        state_directory: where its private directory is made.
    """

    def __init__(self, root: Path, state_directory: Path) -> None:
        self.root = root
        self.application = installed_application()
        self.port = 0
        self._state_directory = state_directory
        self._token = secrets.token_hex(32)
        self._watchdog = Watchdog()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0
        self._output: OutputTail | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._stop_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of its process, also when that is over."""
        assert self._process is not None
        return self._process.pid

    @property
    def version(self) -> str:
        """The program with its version: `JupyterLab 4.4.0`."""
        try:
            return f"{self.application.name} {importlib.metadata.version(self.application.module)}"
        except importlib.metadata.PackageNotFoundError:
            return self.application.name

    @property
    def url(self) -> str:
        """Where a browser finds it. Without the token."""
        return f"http://127.0.0.1:{self.port}/{self.application.page}"

    @property
    def page(self) -> Path:
        """A page that only its user can read, and that logs a browser in. Jupyter writes it."""
        assert self._directory is not None
        return self._directory / f"jpserver-{self.pid}-open.html"

    @property
    def token_file(self) -> Path:
        """A file that only its user can read, with nothing but the token."""
        assert self._directory is not None
        return self._directory / "token"

    def exit_description(self) -> str:
        """How it ended, in words; empty while it has not."""
        code = self._process.poll() if self._process is not None else None
        return "" if code is None else describe_exit(code)

    def log_tail(self) -> str:
        """A sentence with the end of its log, without tokens; empty if it wrote nothing."""
        if self._output is None:
            return ""
        self._output.drain()
        # Cut after the tokens are gone: half a token would not be found.
        text = _TOKEN_PARAMETER.sub(r"\1…", self._output.text(10 * _LOG_CHARS).replace(self._token, "…"))
        return f"Its log ends with:\n```\n{text[-_LOG_CHARS:]}\n```" if text else ""

    async def start(self, *, port: int, timeout_seconds: float, report: Report, denied_env: Sequence[str] = ()) -> None:
        """Start it and wait until it answers with the token.

        Args:
            port: 0 for any that is free.
            report: called every two seconds, with the seconds since the start.
            denied_env: names of our environment variables that it, and so its kernels, must not see.

        Raises:
            ServerStartFailedError: the port is taken, or it ends, does not answer in time, or cannot be trusted.
                Nothing is left of it.
        """
        if port:
            _check_port(port)
        try:
            try:
                self._launch(port, denied_env)
            except OSError as error:
                raise self._failed(f"could not be started: {error}") from error
            await self._ready(timeout_seconds, report)
        except BaseException:  # a cancelled caller too
            await self.aclose()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="watch the Jupyter server")

    def _launch(self, port: int, denied_env: Sequence[str]) -> None:
        self._directory = private_directory(self._state_directory)
        self._watchdog.guard_runtime(self._directory)
        create_private_file(self.token_file, self._token.encode())
        fixed = _FIXED | {"port": str(port), "root_dir": str(self.root)}
        self._output = OutputTail()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # a tornado.py in some folder is not tornado
                    "-m",
                    self.application.module,
                    "--no-browser",
                    # A user that runs this server as root runs kernels as root already.
                    *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
                    *(f"--ServerApp.{name}={value}" for name, value in fixed.items()),
                    "--PasswordIdentityProvider.hashed_password=",
                    *(["--YDocExtension.disable_rtc=True"] if has_collaboration() else []),
                ],
                env=self._environment(denied_env),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=self._output.write_fd,
                stderr=self._output.write_fd,
                start_new_session=True,
            )
        finally:
            self._output.close_write()
        self._started = self._watchdog.guard(self._process.pid)

    def _environment(self, denied: Sequence[str]) -> dict[str, str]:
        assert self._directory is not None
        env = {name: value for name, value in os.environ.items() if name not in (*denied, *_OWN_VARIABLES)}
        # The user's Lab settings, without the user's server configuration.
        env.setdefault("JUPYTERLAB_SETTINGS_DIR", str(Path(jupyter_config_dir()) / "lab" / "user-settings"))
        return env | {
            "JUPYTER_TOKEN_FILE": str(self.token_file),
            "JUPYTER_RUNTIME_DIR": str(self._directory),
            "JUPYTER_CONFIG_DIR": str(self._directory / "config"),
            # The tabs of another Lab are not for this root.
            "JUPYTERLAB_WORKSPACES_DIR": str(self._directory / "workspaces"),
        }

    async def _ready(self, timeout_seconds: float, report: Report) -> None:
        began = reported = time.monotonic()
        while True:
            if self._closing is not None:
                raise self._failed("was stopped while it started")
            if not self.alive:
                raise self._failed(f"ended while it started: {self.exit_description()}")
            self.port = self._announced_port()
            if self.port and await self._trusted() and self._closing is None:
                break
            now = time.monotonic()
            if now - began > timeout_seconds:
                raise self._failed(f"did not answer within {timeout_seconds:g} s, which is jupyter_timeout")
            if now - reported >= _REPORT_SECONDS:
                reported = now
                await report(now - began)
            await asyncio.sleep(_STARTING_POLL)
        with contextlib.suppress(FileNotFoundError):
            self.page.chmod(0o600)  # Jupyter makes it for all to read; so far the directory has kept others out

    def _announced_port(self) -> int:
        """The port it listens on, as it wrote down for other programs; 0 while it has not."""
        assert self._directory is not None
        try:
            info = json.loads((self._directory / f"jpserver-{self.pid}.json").read_bytes())
            return int(info["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # not there, or half of it

    async def _trusted(self) -> bool:
        """Whether it answers with the token. False when it does not answer yet.

        Raises:
            ServerStartFailedError: it refuses the token, or answers without one.
        """
        status = await asyncio.to_thread(_status, self.port, self._token)
        if status is None or status >= 500:
            return False
        if status != 200:
            raise self._failed(f"does not accept its token (HTTP status {status})", configuration=True)
        if await asyncio.to_thread(_status, self.port, None) == 200:
            raise self._failed("answers without a token", configuration=True)
        return True

    def _failed(self, what: str, *, configuration: bool = False) -> ServerStartFailedError:
        return ServerStartFailedError(
            f"{self.application.name} {what}",
            allowed=self.log_tail(),
            state="no Jupyter server is running now",
            advice=_CONFIGURATION_ADVICE if configuration else "",
        )

    async def _watch(self) -> None:
        """Clear up after a server that ends by itself: its kernels may live on."""
        while self.alive:  # noqa: ASYNC110 - the end of a process is no event of asyncio's
            await asyncio.sleep(_RUNNING_POLL)
        logger.warning("the Jupyter server ended by itself", extra={"pid": self.pid})
        await self.aclose()

    async def aclose(self, *, grace_seconds: float = 0) -> None:
        """End it, its kernels and their children, and remove its private directory. A second call waits for the
        first.

        Args:
            grace_seconds: how long it gets to stop its kernels and itself in an orderly way. The last call counts.
        """
        self._stop_at = time.monotonic() + grace_seconds
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="end the Jupyter server")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        trees = {}
        if self._process is not None:
            # As it is now, since children of a kernel can be found through living parents only.
            rows = await asyncio.to_thread(guard.tree_of, self.pid, self._started)
            trees = {row.pid: row.started for row in rows} | {self.pid: self._started}
            if self.alive and time.monotonic() < self._stop_at:
                self._process.terminate()
            while self.alive and time.monotonic() < self._stop_at:  # noqa: ASYNC110 - as above
                await asyncio.sleep(_STARTING_POLL)
        directories = [str(self._directory)] if self._directory is not None else []
        await asyncio.to_thread(guard.end, trees, directories)
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, 2)
            except subprocess.TimeoutExpired:
                logger.error("the Jupyter server survived its end", extra={"pid": self.pid})
        await asyncio.to_thread(self._watchdog.close)
        if self._output is not None:
            self._output.drain()
            self._output.close()


def _check_port(port: int) -> None:
    """Refuse a port that cannot be listened on, without waiting for Jupyter to find that out."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Jupyter does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ServerStartFailedError(
                f"port {port} is taken" if taken else f"port {port} cannot be used: {error.strerror}",
                state="nothing was started",
                advice="leave port out for one that is free",
            ) from error


def _status(port: int, token: str | None) -> int | None:
    """The HTTP status of `/api/status`, or None when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_SECONDS)
    try:
        connection.request("GET", "/api/status", headers={"Authorization": f"token {token}"} if token else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
