"""Fixtures for all tests: a workspace, servers and their clients, kernelspecs, and a look for what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import turns
from helpers import LEGACY_VERSION, MARKER, RawServer, gone_in_time, marked_processes, stdio_client_of, zombies
from mcp import Client
from mcp.client.client import ConnectMode

from dev import fuzz
from dev.proof import Recorder
from papermill_mcp.config import Config
from papermill_mcp.main import main
from papermill_mcp.server.app import build_server

fuzz.register()
pytest_plugins = ["pytester"]

#: Seconds that processes get to be gone after a test.
_GRACE = 2.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-snapshots", action="store_true", help="write tests/snapshots anew instead of comparing with it"
    )


#: What was collected, for the test of the proof itself.
RECORDER = pytest.StashKey[Recorder]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background commands with SIGINT ignored. Kernels would inherit that; those of a real server do not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[RECORDER] = Recorder()
    config.pluginmanager.register(config.stash[RECORDER])
    config.pluginmanager.register(turns.plugin(config))


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the settings nor the Jupyter files and the IPython profile of a developer matter to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("JUPYTER_MCP_")]:
            patch.delenv(name)
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The one root of the server under test."""
    root = tmp_path / "workspace"
    root.mkdir()
    return root


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    """Where the server under test keeps its state. It makes the directory itself."""
    return tmp_path / "state"


class MakeConfig(Protocol):
    """Makes settings for a server in the workspace; keywords replace the defaults."""

    def __call__(self, **settings: Any) -> Config: ...


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where screenshots are kept: TEST_ARTIFACTS, if that is set."""
    directory = Path(os.environ.get("TEST_ARTIFACTS") or tmp_path / "artifacts")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def config(workspace: Path, state_directory: Path) -> MakeConfig:
    """A factory of settings."""

    def make(**settings: Any) -> Config:
        defaults: dict[str, Any] = {
            "roots": [workspace],
            "state_directory": state_directory,
            "jupyter_timeout": 30,
            "log_level": "WARNING",
        }
        return Config(**(defaults | settings))

    return make


class Connect(Protocol):
    """Makes a client in memory, of a server with these settings, as a context manager.

    A context manager and not a fixture: a client holds cancel scopes, which must be left in the task that entered them.
    """

    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[Client]: ...


@pytest.fixture
def client(config: MakeConfig) -> Connect:
    """`async with client() as c:` is a client of a server in this process."""

    @asynccontextmanager
    async def connect(**settings: Any) -> AsyncIterator[Client]:
        async with Client(build_server(config(**settings))) as connected:
            yield connected

    return connect


class ConnectStdio(Protocol):
    """Makes a client of a server process with these flags, as a context manager."""

    def __call__(self, *flags: str, mode: ConnectMode = "auto") -> AbstractAsyncContextManager[Client]: ...


@pytest.fixture
def stdio_client(workspace: Path, state_directory: Path) -> ConnectStdio:
    """`async with stdio_client(mode="legacy") as c:` is a client of a server process."""

    def connect(*flags: str, mode: ConnectMode = "auto") -> AbstractAsyncContextManager[Client]:
        return stdio_client_of(workspace, state_directory, *flags, mode=mode)

    return connect


class StartRaw(Protocol):
    """Starts a server process that is driven line by line, as a context manager."""

    def __call__(
        self, *flags: str, script: Path | None = None, era: str | None = LEGACY_VERSION, stderr: int = subprocess.PIPE
    ) -> AbstractAsyncContextManager[RawServer]: ...


@pytest.fixture
def raw_server(workspace: Path, state_directory: Path) -> StartRaw:
    """`async with raw_server() as s:` is a server process after the handshake of the older protocol era."""

    def start(
        *flags: str, script: Path | None = None, era: str | None = LEGACY_VERSION, stderr: int = subprocess.PIPE
    ) -> AbstractAsyncContextManager[RawServer]:
        return RawServer.running(workspace, state_directory, *flags, script=script, era=era, stderr=stderr)

    return start


class AddKernelspec(Protocol):
    """Installs a kernelspec for one test. Text instead of a command becomes the whole kernel.json."""

    def __call__(self, name: str, argv: list[str] | str, **members: Any) -> str: ...


@pytest.fixture
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddKernelspec:
    """A factory of kernelspecs. Returns their names."""
    directory = tmp_path / "jupyter"
    before = os.environ.get("JUPYTER_PATH")
    monkeypatch.setenv("JUPYTER_PATH", os.pathsep.join([str(directory), *([before] if before else [])]))

    def add(name: str, argv: list[str] | str, **members: Any) -> str:
        spec = directory / "kernels" / name
        spec.mkdir(parents=True)
        written = {"argv": argv, "display_name": name, "language": "python", **members}
        (spec / "kernel.json").write_text(argv if isinstance(argv, str) else json.dumps(written))
        return name

    return add


@pytest.fixture
def bash_kernelspec(kernelspec: AddKernelspec) -> str:
    """The name of a kernelspec for the bash kernel of this environment."""
    pytest.importorskip("bash_kernel")
    return kernelspec(
        "bash",
        [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
        display_name="Bash",
        language="bash",
        env={"PS1": "$"},
    )


@pytest.fixture
def deno_kernelspec(kernelspec: AddKernelspec) -> str:
    """The name of a kernelspec for Deno's TypeScript kernel."""
    found = Path(sys.executable).with_name("deno")
    command = str(found) if found.exists() else shutil.which("deno")
    if command is None:
        pytest.skip("deno is not installed")
    return kernelspec("deno", [command, "jupyter", "--kernel", "--conn", "{connection_file}"], language="typescript")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user of a command. It and all places that variables name are in the directory of the test."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "FLATPAK_XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".state"))
    monkeypatch.setenv("APPDATA", str(home / "roaming"))
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    return home


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    project = tmp_path / "my, project"
    project.mkdir()
    monkeypatch.chdir(project)
    return project


class RunCommand(Protocol):
    """Runs a command such as `install` with these arguments. Returns the exit code and both outputs."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def run(home: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs a command of the program in this process. Returns the exit code and both outputs."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(autouse=True)
def process_check(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], list[psutil.Process]] | None]:
    """After a test with kernels, no process it started is left, and no file that should have been removed.

    Gives a function that lists the living processes which the test has started.
    """
    if request.node.get_closest_marker("kernel") is None:
        yield None
        return
    tmp_path: Path = request.getfixturevalue("tmp_path")
    marker = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, marker)
    before = zombies()

    yield lambda: marked_processes(marker)

    # Those that have just been told to end may take a moment.
    gone_in_time([process.pid for process in marked_processes(marker)], _GRACE)
    left = marked_processes(marker)
    described = [f"{process.pid} {' '.join(process.cmdline())[:150]}" for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_GRACE)
    assert not described, f"processes are left: {described}"
    assert not zombies() - before, "dead children were not waited for"
    files = leftovers(tmp_path)
    assert not files, f"files are left: {files}"


def leftovers(directory: Path) -> list[str]:
    """Temporary and connection files below a directory, and directories for the latter."""
    patterns = ("runtime-*", "kernel-*.json", ".*.tmp", "*.tmp")
    return sorted({str(path.relative_to(directory)) for pattern in patterns for path in directory.rglob(pattern)})
