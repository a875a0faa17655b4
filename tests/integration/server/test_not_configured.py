"""A server whose settings have a fault: it connects, does nothing, and each answer says the fault and the remedy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import LEGACY_VERSION, MODERN_VERSION, RawServer, envelope_of, server_environment, write_notebook

from papermill_mcp.config import Config
from papermill_mcp.server.app import build_server
from papermill_mcp.server.mcp_server import NEED_SETTINGS
from papermill_mcp.server.sdk import registered_tools

TOOLS = {tool.name for tool in registered_tools(build_server(Config()))}

_NO_DASK = "import sys; sys.modules['distributed'] = None; from papermill_mcp.main import main; sys.exit(main())"
_NO_PROMETHEUS = _NO_DASK.replace("distributed", "prometheus_client")
_BLOCKED = {"distributed": _NO_DASK, "prometheus_client": _NO_PROMETHEUS}


@dataclass(frozen=True)
class Start:
    """How a client starts the server. `{root}` and `{other}` stand for directories, `{file}` for the settings file.

    Attributes:
        named: what the answers must name: the fault and what to type.
        blocked: a package that is not installed.
    """

    named: Sequence[str]
    argv: Sequence[str] = ("--roots", "{root}")
    environ: Mapping[str, str] = field(default_factory=dict)
    content: str | None = None
    cwd: str = "{other}"
    blocked: str | None = None


FAULTS = {
    "the whole file system as the start directory": Start(["'/'", "--roots DIR"], argv=(), cwd="/"),
    "the whole file system as a root": Start(["'/'", "--roots DIR", "--i-know"], argv=("--roots", "/")),
    "a root that is missing": Start(["missing'", "--roots DIR"], argv=("--roots", "{root}/missing")),
    "a root that is a file": Start(["a.txt'", "--roots DIR"], argv=("--roots", "{other}/a.txt")),
    "a root that is a notebook": Start(["a.ipynb'", "--roots '{root}'"], argv=("{root}/a.ipynb",)),
    "a file that is missing": Start(["nowhere.json"], argv=("--roots", "{root}", "--config", "nowhere.json")),
    "a file that is no JSON": Start(["{file}"], content="{"),
    "a file that is a list": Start(["{file}"], content="[]"),
    "an unknown key": Start(["max_kernel;", "max_kernels?"], content='{"max_kernel": 3}'),
    "a number as text": Start(["max_kernels", "{file}"], content='{"max_kernels": "4"}'),
    "an unknown flag": Start(["--max-kernel;", "--max-kernels?"], argv=("--roots", "{root}", "--max-kernel", "3")),
    "a flag that is not UTF-8": Start(["--caf"], argv=("--roots", "{root}", os.fsdecode(b"--caf\xe9"))),
    "a flag without its value": Start(["--max-kernels"], argv=("--roots", "{root}", "--max-kernels")),
    "a bad value": Start(["--max-kernels", "'many'"], argv=("--roots", "{root}", "--max-kernels", "many")),
    "a bad variable": Start(["JUPYTER_MCP_MAX_KERNELS"], environ={"JUPYTER_MCP_MAX_KERNELS": "0"}),
    "a misspelt variable": Start(["JUPYTER_MCP_ROOTS?"], environ={"JUPYTER_MCP_ROOT": "/"}),
    "a list that is none": Start(["--toolsets"], argv=("--roots", "{root}", "--toolsets", "[")),
    "outputs outside": Start(["output_directory"], argv=("--roots", "{root}", "--output-directory", "{other}")),
    "an unknown home": Start(["~no-such-user"], argv=("--roots", "~no-such-user/x")),
    "a missing extra": Start(
        ['pip install "jupyter-papermill-mcp-server[cluster]"'],
        argv=("--roots", "{root}", "--dask-scheduler", "tcp://127.0.0.1:1"),
        blocked="distributed",
    ),
    "a missing package": Start(
        ["pip install prometheus-client"],
        argv=("--roots", "{root}", "--metrics-port", "0"),
        blocked="prometheus_client",
    ),
    "a port in use": Start(["metrics_port {port}"], argv=("--roots", "{root}", "--metrics-port", "{port}")),
}


@dataclass
class Place:
    """Directories of a test, the settings file, and a port that is taken."""

    root: Path
    other: Path
    state: Path
    file: Path
    port: int

    def filled(self, text: str) -> str:
        """Text with the paths in place of their names."""
        names = {"root": self.root, "other": self.other, "file": self.file, "port": self.port}
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def files(self) -> dict[str, bytes | None]:
        """Every file in the directories, with its content."""
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for directory in (self.root, self.other, self.state)
            for path in directory.rglob("*")
        }


@pytest.fixture
def place(tmp_path: Path) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Place(
            tmp_path / "root", tmp_path / "other", tmp_path / "state", tmp_path / "mine.json", taken.getsockname()[1]
        )
        for directory in (place.root, place.other):
            directory.mkdir()
            write_notebook(directory / "a.ipynb", ["CANARY = 1"])
        (place.other / "a.txt").touch()
        yield place


@asynccontextmanager
async def started(
    place: Place, start: Start, era: str = LEGACY_VERSION, *, code: str | None = None
) -> AsyncIterator[RawServer]:
    """A server over pipes, as a client starts it, or by code of its own."""
    code = _BLOCKED[start.blocked] if start.blocked else code
    command = ["-P", "-m", "papermill_mcp"] if code is None else ["-c", code]
    environ = server_environment() | {"XDG_CONFIG_HOME": str(place.file.parent / "config")}
    environ |= {"XDG_STATE_HOME": str(place.state)} | dict(start.environ)
    if start.content is not None:
        place.file.write_text(start.content)
        environ["JUPYTER_MCP_CONFIG"] = str(place.file)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *map(place.filled, start.argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        cwd=place.filled(start.cwd),
        limit=64 * 1024 * 1024,
        start_new_session=True,
    )
    server = RawServer(process)
    try:
        if era == LEGACY_VERSION:
            await server.handshake()
        else:
            server.envelope = envelope_of(era)
        yield server
        server.close_stdin()
        assert await server.exit_code(seconds=5) == 0
        assert "Traceback" not in server.errors
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert server.impure == []


async def answer_of(server: RawServer, tool: str, **arguments: Any) -> str:
    """The text of the answer of a tool that must fail, whatever its arguments are."""
    answer = await server.request("tools/call", {"name": tool, "arguments": arguments})
    assert answer["isError"], answer
    return str(answer["content"][0]["text"])


async def error_of(server: RawServer, method: str, params: Any) -> str:
    """The message of the error that answers a request."""
    _, future = await server.send(method, params)
    async with asyncio.timeout(30):
        answer = await future
    return str(answer["error"]["message"])


REQUESTS: dict[str, dict[str, Any]] = {
    "resources/read": {"uri": "notebook:///a.ipynb"},
    "resources/subscribe": {"uri": "notebook:///a.ipynb"},
    "prompts/get": {"name": "tidy_notebook", "arguments": {"path": "a.ipynb"}},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "tidy_notebook"},
        "argument": {"name": "path", "value": "a"},
    },
}


@pytest.mark.case("P25")
@pytest.mark.parametrize("start", FAULTS.values(), ids=FAULTS.keys())
async def test_each_fault_connects_and_each_answer_says_it(start: Start, place: Place) -> None:
    named = [place.filled(text) for text in start.named]
    before = place.files()
    async with started(place, start) as server:
        (hello,) = [one["result"] for one in server.answers if "serverInfo" in one.get("result", {})]
        said = [hello["instructions"]]
        tools = (await server.request("tools/list"))["tools"]
        assert {tool["name"] for tool in tools} == TOOLS
        said += [await answer_of(server, tool["name"]) for tool in tools]
        said.append(await answer_of(server, "no_such_tool", path="a.ipynb"))
        for method, params in REQUESTS.items():
            said.append(await error_of(server, method, params))
        assert (await server.request("resources/list"))["resources"] == []
        for method in ("prompts/list", "resources/templates/list", "ping"):
            await server.request(method)
        assert "CANARY" not in json.dumps(server.answers)
        assert place.files() == before
    for answer in said:
        assert "NOT_CONFIGURED: " in answer
        for text in named:
            assert text in answer
        assert answer.count("NOT_CONFIGURED") == 1
    assert all(answer == said[1] for answer in said[1:])
    assert named[0] in server.errors, "the log says it, too"


def test_each_request_is_known_to_need_the_settings_or_not() -> None:
    """A new kind of request must be put into one of the two groups."""
    server = build_server(Config())
    answered = {"ping", "server/discover", "tools/list", "prompts/list", "resources/templates/list"}

    assert server.methods() == answered | set(NEED_SETTINGS) | {"resources/unsubscribe"}


@pytest.mark.parametrize("era", [LEGACY_VERSION, MODERN_VERSION])
async def test_the_mended_start_works(place: Place, era: str) -> None:
    async with started(place, FAULTS["a bad value"], era) as server:
        refused = await server.request("tools/list")
        assert "NOT_CONFIGURED" in await answer_of(server, "list_notebook_files")
    async with started(place, Start([]), era) as server:
        assert (await server.request("tools/list"))["tools"] == refused["tools"]
        assert (await server.call("list_notebook_files"))["count"] == 1


async def test_a_client_without_a_handshake_reads_the_fault_in_the_discovery(place: Place) -> None:
    listen = {"notifications": {"resourcesListChanged": True}}
    async with started(place, FAULTS["a bad value"], MODERN_VERSION) as server:
        found = await server.request("server/discover")
        assert "NOT_CONFIGURED" in await error_of(server, "subscriptions/listen", listen)

    assert "NOT_CONFIGURED" in found["instructions"]


async def test_tools_that_other_settings_leave_out_stay_out(place: Place) -> None:
    start = Start([], argv=("--roots", "{root}/missing", "--read-only", "--no-execute"))
    async with started(place, start) as server:
        names = {tool["name"] for tool in (await server.request("tools/list"))["tools"]}

    assert "read_notebook" in names
    assert names.isdisjoint({"edit_notebook", "execute_cell"})


async def test_a_missing_root_is_taken_once_it_is_there(place: Place) -> None:
    late = place.other / "late"
    async with started(place, Start([], argv=("--roots", str(late)))) as server:
        assert str(late) in await answer_of(server, "list_notebook_files")
        late.touch()
        assert "NOT_CONFIGURED" in await answer_of(server, "list_notebook_files")
        late.unlink()
        late.mkdir()
        write_notebook(late / "b.ipynb", ["1"])
        listed = await server.call("list_notebook_files")
        assert [one["path"] for one in listed["notebooks"]] == ["b.ipynb"]
        await server.call("create_notebook", path="c.ipynb")
        resources = (await server.request("resources/list"))["resources"]
        assert {one["name"] for one in resources} == {"b.ipynb", "c.ipynb"}
        assert "PATH_NOT_ALLOWED" in await answer_of(server, "read_notebook", path=str(place.other / "a.ipynb"))


@pytest.mark.kernel
async def test_a_root_that_is_taken_late_is_as_good_as_one_of_the_start(place: Place) -> None:
    late = place.other / "late"
    flags = ("--roots", str(late), "--state-directory", str(place.state))
    async with started(place, Start([], argv=flags)) as server:
        assert "NOT_CONFIGURED" in await answer_of(server, "start_kernel")
        late.mkdir()
        write_notebook(late / "a.ipynb", ["import os; print(os.getcwd())"])
        run = await server.call("execute_notebook_papermill", input_path="a.ipynb")
        assert run["status"] == "ok"
        assert (late / run["output_path"]).is_file()
    async with started(place, Start([], argv=flags)) as server:
        known = await server.call("list_executions")
        assert [one["execution_id"] for one in known["executions"]] == [run["execution_id"]]


@pytest.mark.parametrize("first", [True, False], ids=["workspace missing", "other missing"])
async def test_with_one_root_missing_the_server_works_with_the_others(place: Place, first: bool) -> None:
    late = place.other / "late"
    roots = [str(late), str(place.root)] if first else [str(place.root), str(late)]
    async with started(place, Start([], argv=("--roots", roots[0], "--roots", roots[1]))) as server:
        (hello,) = [one["result"] for one in server.answers if "serverInfo" in one.get("result", {})]
        assert str(late) in hello["instructions"]
        assert str(place.root) in hello["instructions"]
        assert "NOT_CONFIGURED" not in hello["instructions"]
        assert (await server.call("read_notebook", path="a.ipynb"))["cell_count"] == 1
        assert "PATH_NOT_ALLOWED" in await answer_of(server, "read_notebook", path=str(late / "b.ipynb"))
        late.mkdir()
        write_notebook(late / "b.ipynb", ["1", "2"])
        assert (await server.call("read_notebook", path=str(late / "b.ipynb")))["cell_count"] == 2
        assert (await server.call("read_notebook", path="a.ipynb"))["cell_count"] == 1, "as before"
    assert "WARNING" in server.errors
    assert str(late) in server.errors


LINKS: dict[str, Callable[[Place], Path]] = {
    "everything": lambda _: Path("/"),
    "another directory": lambda place: place.other,
}


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("others", [True, False], ids=["beside another root", "alone"])
async def test_a_missing_root_that_becomes_a_link_elsewhere_is_refused(place: Place, target: str, others: bool) -> None:
    """Another user may have made the link, for one in a common directory for temporary files."""
    late = place.file.parent / "late"
    argv = ["--roots", str(late), *(("--roots", str(place.root)) if others else ())]
    outside = place.other / "a.ipynb"
    async with started(place, Start([], argv=argv)) as server:
        late.symlink_to(LINKS[target](place))
        for path in (str(outside), str(late / "a.ipynb"), str(late / outside.relative_to("/"))):
            answer = await answer_of(server, "read_notebook", path=path)
            assert ("PATH_NOT_ALLOWED" if others else "NOT_CONFIGURED") in answer
            assert others or ("--i-know" if target == "everything" else "restart") in answer
        assert "CANARY" not in json.dumps(server.answers)


async def test_a_link_that_is_there_at_the_start_may_wait_for_its_target(place: Place) -> None:
    """As a mounted disk has it."""
    (place.file.parent / "disk").symlink_to(place.other / "mounted")
    async with started(place, Start([], argv=("--roots", str(place.file.parent / "disk")))) as server:
        assert "NOT_CONFIGURED" in await answer_of(server, "list_notebook_files")
        (place.other / "mounted").mkdir()
        assert (await server.call("list_notebook_files"))["count"] == 0


async def test_a_server_whose_start_directory_is_gone_connects(place: Place) -> None:
    gone = place.other / "gone"
    gone.mkdir()
    enter = f"import os, runpy, sys; sys.path.remove(''); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); "
    code = f"{enter}runpy.run_module('papermill_mcp', run_name='__main__')"
    async with started(place, Start([], argv=()), code=code) as server:
        assert "--roots" in await answer_of(server, "list_notebook_files")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
async def test_a_root_that_may_not_be_looked_at_is_missing(place: Place) -> None:
    place.other.chmod(0)
    try:
        async with started(place, Start([], argv=("--roots", "{other}/a"), cwd="{root}")) as server:
            assert "permission denied" in await answer_of(server, "list_notebook_files")
    finally:
        place.other.chmod(0o700)
