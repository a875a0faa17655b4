"""A Jupyter server beside this one: a real JupyterLab, and a stand-in for what a real one does rarely."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Connect, StartRaw
from helpers import (
    TESTS,
    Json,
    Lab,
    RawServer,
    ask,
    call,
    facts_of,
    read_json,
    refused,
    stdout_in,
    text_of,
    until,
    wait_gone,
    write_notebook,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(find_spec("jupyterlab") is None, reason="there is no jupyterlab"),
]

_FAKE = TESTS / "fake_jupyter_server.py"


_RUN_IN = """
import pathlib, sys, time
from jupyter_client import BlockingKernelClient

file, code, begun = sys.argv[1:]
client = BlockingKernelClient(connection_file=file)
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=30)
if begun:
    client.execute(code)
    while not pathlib.Path(begun).exists():
        time.sleep(0.01)
else:
    reply = client.execute_interactive(code, timeout=30, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok", reply
client.stop_channels()
"""

#: Holds the interpreter lock, so that a kernel can neither answer nor see that its parent is gone.
_BUSY = "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"


async def run_in(connection_file: Path, code: str, *, begun: Path | None = None) -> None:
    """Run code in a kernel, until it is over or has made the file `begun`.

    In a process, since the client leaves event loops behind.
    """
    command = [sys.executable, "-c", _RUN_IN, str(connection_file), code, str(begun or "")]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)


async def started_raw(server: RawServer, **arguments: Any) -> Lab:
    return Lab.of(await server.call("start_jupyter_server", seconds=60, **arguments))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def runtime_directories(state: Path) -> list[Path]:
    return list(state.glob("runtime-*"))


@pytest.fixture
def fake_jupyter_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the stand-in in the place of JupyterLab, for servers that are started from now on."""
    package = tmp_path / "fake" / "jupyterlab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"import runpy; runpy.run_path({str(_FAKE)!r}, run_name='__main__')")
    before = os.environ.get("PYTHONPATH")

    def behave(behaviour: str) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), *([before] if before else [])]))
        monkeypatch.setenv("FAKE_JUPYTER_SERVER", behaviour)

    return behave


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


# Starting and stopping


@pytest.mark.case("S02", "S04")
async def test_a_server_lets_in_who_has_the_token_of_the_hint_until_it_is_stopped(
    client: Connect, workspace: Path, state_directory: Path
) -> None:
    (workspace / "sub").mkdir()
    async with client() as connected:
        first, second = await asyncio.gather(
            *(connected.call_tool("start_jupyter_server", {"root_directory": "sub"}) for _ in range(2))
        )
        lab = Lab.of(facts_of(first))
        other = await refused(connected, "start_jupyter_server")

        assert (await lab.ask("/api/status")).status == 200
        assert (await asyncio.to_thread(ask, lab.port, "/api/status")).status == 403
        assert facts_of(first)["url"] == f"http://127.0.0.1:{lab.port}/lab"
        assert facts_of(first)["version"].startswith("JupyterLab 4")
        assert facts_of(first)["root_directory"] == "sub"
        assert lab.token in lab.page.read_text()
        assert lab.token not in text_of(first) + json.dumps(facts_of(first))
        listening = [c.laddr for c in psutil.Process(lab.pid).net_connections("inet") if c.status == "LISTEN"]
        assert listening == [("127.0.0.1", lab.port)]

        assert facts_of(second)["pid"] == lab.pid, "each request started one"
        assert other.startswith("LIMIT_REACHED: ")
        assert "'sub'" in other
        assert "stop_jupyter_server" in other
        assert (await lab.ask("/api/status")).status == 200

        stopped = await call(connected, "stop_jupyter_server")
        assert stopped == {"pid": lab.pid, "state": "stopped"}
        assert gone(lab.pid)
        assert runtime_directories(state_directory) == []
        again = await refused(connected, "stop_jupyter_server")
        assert again.startswith("SERVER_NOT_RUNNING: ")
        assert "start_jupyter_server" in again


@pytest.mark.case("S02")
async def test_stopping_what_was_never_started_is_an_error(client: Connect) -> None:
    async with client() as connected:
        assert (await refused(connected, "stop_jupyter_server")).startswith("SERVER_NOT_RUNNING: ")


@pytest.mark.slow
@pytest.mark.case("S02")
async def test_stopping_ends_the_kernels_and_their_children_and_no_other_server(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    foreign_directory = tmp_path / "foreign"
    foreign_directory.mkdir()
    foreign = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ServerApp.port=0"],
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(foreign_directory), "JUPYTER_TOKEN": "foreign"},
        cwd=workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        info = foreign_directory / f"jpserver-{foreign.pid}.json"
        await until(lambda: info.exists() and info.read_text().endswith("}"), seconds=40, what="the foreign server")
        async with client() as connected:
            lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))
            connection_file = await lab.start_kernel()
            code = (
                "import os, pathlib, subprocess\n"
                "child = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
                f"pathlib.Path({str(workspace / 'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')"
            )
            await run_in(connection_file, code)
            kernel, child = map(int, (workspace / "pids").read_text().split())
            assert not gone(kernel)
            assert not gone(child)

            await call(connected, "stop_jupyter_server", seconds=10)

            assert gone(lab.pid)
            assert await wait_gone([kernel, child], seconds=0.5) == []
            assert not lab.directory.exists()
            await refused(connected, "stop_jupyter_server")
        assert foreign.poll() is None
        answer = await asyncio.to_thread(ask, read_json(info)["port"], "/api/status", token="foreign")
        assert answer.status == 200
        assert info.exists()
    finally:
        foreign.terminate()
        await asyncio.to_thread(foreign.wait, 20)


async def test_stopping_a_server_that_is_starting_ends_it(
    client: Connect, state_directory: Path, fake_jupyter_server: Callable[[str], None]
) -> None:
    fake_jupyter_server("silent")
    async with client() as connected:
        starting = asyncio.create_task(refused(connected, "start_jupyter_server"))
        await until(lambda: bool(runtime_directories(state_directory)), what="it is starting")
        stopped = await call(connected, "stop_jupyter_server")
        message = await starting

        assert message.startswith("SERVER_START_FAILED: ")
        assert "was stopped while it started" in message
        assert gone(stopped["pid"])
        assert runtime_directories(state_directory) == []


async def test_a_start_that_is_cancelled_leaves_nothing(
    client: Connect,
    state_directory: Path,
    fake_jupyter_server: Callable[[str], None],
    process_check: Callable[[], list[Any]],
) -> None:
    fake_jupyter_server("silent")
    async with client() as connected:
        starting = asyncio.create_task(connected.call_tool("start_jupyter_server", {}))
        await until(lambda: bool(runtime_directories(state_directory)), what="it is starting")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(lambda: not runtime_directories(state_directory), what="it was ended")
        await until(lambda: not process_check(), what="its processes are gone")
        fake_jupyter_server("good")
        assert "note" not in await call(connected, "start_jupyter_server")


async def test_a_browser_that_was_told_to_open_the_page_is_not_ended_with_the_server(
    client: Connect, fake_jupyter_server: Callable[[str], None]
) -> None:
    """Its command line names the directory, as those of the kernels do."""
    fake_jupyter_server("good")
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server"))
        browser = subprocess.Popen(["tail", "-f", "/dev/null", str(lab.page)], stderr=subprocess.DEVNULL)
        try:
            await call(connected, "stop_jupyter_server")
            assert not lab.directory.exists()
            assert browser.poll() is None
        finally:
            browser.kill()
            browser.wait()


# Failures


@pytest.mark.case("S01")
async def test_a_port_that_is_taken_is_refused_at_once(client: Connect, state_directory: Path) -> None:
    async with client() as connected:
        with taken_port() as port:
            message = await refused(connected, "start_jupyter_server", port=port)

    assert message.startswith(f"SERVER_START_FAILED: port {port} is taken. Nothing was started. ")
    assert runtime_directories(state_directory) == []


async def test_a_port_that_is_free_is_used(client: Connect, fake_jupyter_server: Callable[[str], None]) -> None:
    fake_jupyter_server("good")
    with taken_port() as port:
        pass
    async with client() as connected:
        first = await call(connected, "start_jupyter_server", port=port)
        again = await call(connected, "start_jupyter_server", port=port)
        other = await refused(connected, "start_jupyter_server", port=port - 1)

    assert first["port"] == port
    assert again["pid"] == first["pid"]
    assert other.startswith("LIMIT_REACHED: ")


async def test_a_directory_that_is_none_is_refused(client: Connect, workspace: Path) -> None:
    (workspace / "file").touch()
    async with client() as connected:
        missing = await refused(connected, "start_jupyter_server", root_directory="nowhere")
        file = await refused(connected, "start_jupyter_server", root_directory="file")
        outside = await refused(connected, "start_jupyter_server", root_directory="/")

    assert missing.startswith("NOT_FOUND: ")
    assert file.startswith("PATH_NOT_ALLOWED: ")
    assert outside.startswith("PATH_NOT_ALLOWED: ")


@pytest.mark.parametrize(
    ("behaviour", "reported"),
    [
        ("dying", "ended while it started: exit code 3"),
        ("silent", "did not answer within 1 s"),
        ("open", "answers without a token"),
        ("refusing", "does not accept its token (HTTP status 403)"),
    ],
)
@pytest.mark.case("S03")
async def test_a_server_that_does_not_come_up_is_reported_and_the_next_start_works(
    behaviour: str, reported: str, client: Connect, state_directory: Path, fake_jupyter_server: Callable[[str], None]
) -> None:
    """The end of its log is told, without the token in it."""
    fake_jupyter_server(behaviour)
    async with client(jupyter_timeout=1) as connected:
        message = await refused(connected, "start_jupyter_server")
        assert message.startswith("SERVER_START_FAILED: JupyterLab ")
        assert reported in message
        assert "starting http://127.0.0.1/lab?token=…" in message
        assert not re.search("[0-9a-f]{40}", message)
        assert "No Jupyter server is running now." in message
        assert runtime_directories(state_directory) == []
        assert (await refused(connected, "stop_jupyter_server")).startswith("SERVER_NOT_RUNNING: ")

        fake_jupyter_server("good")
        facts = await call(connected, "start_jupyter_server")
        assert "note" not in facts


async def test_a_server_that_halts_at_its_start_is_waited_for(
    client: Connect, fake_jupyter_server: Callable[[str], None]
) -> None:
    fake_jupyter_server("halting")
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server"))
        assert (await lab.ask("/api/status")).status == 200


async def test_progress_is_reported_while_a_server_starts(
    client: Connect, fake_jupyter_server: Callable[[str], None]
) -> None:
    fake_jupyter_server("silent")
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    async with client(jupyter_timeout=2.5) as connected:
        result = await connected.call_tool("start_jupyter_server", {}, progress_callback=hear)

    assert result.is_error
    assert heard == ["JupyterLab starts · 2 s"]


@pytest.mark.case("S03")
async def test_a_server_that_dies_later_is_cleared_away_and_told(
    client: Connect, state_directory: Path, fake_jupyter_server: Callable[[str], None]
) -> None:
    fake_jupyter_server("good")
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server"))
        os.kill(lab.pid, signal.SIGKILL)
        await until(lambda: not lab.directory.exists(), what="its directory is removed")  # without any request
        second = Lab.of(facts := await call(connected, "start_jupyter_server"))
        assert "ended by itself: signal 9 (SIGKILL)" in facts["note"]

        os.kill(second.pid, signal.SIGKILL)
        await until(lambda: gone(second.pid), what="it is gone")
        message = await refused(connected, "stop_jupyter_server")
        assert message.startswith("SERVER_NOT_RUNNING: ")
        assert "ended by itself: signal 9 (SIGKILL)" in message
        assert not second.directory.exists()


@pytest.mark.slow
async def test_the_kernels_of_a_server_that_dies_are_ended(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))
        connection_file = await lab.start_kernel()
        file = workspace / "pid"
        note = f"import os, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.getpid()))"
        await run_in(connection_file, note)
        begun = workspace / "begun"
        await run_in(connection_file, f"pathlib.Path({str(begun)!r}).touch()\n{_BUSY}", begun=begun)
        os.kill(lab.pid, signal.SIGKILL)

        assert await wait_gone([int(file.read_text())], seconds=3) == []
        await until(lambda: not lab.directory.exists(), what="its directory is removed")


@asynccontextmanager
async def environment_without(tmp_path: Path, *modules: str) -> AsyncIterator[str]:
    """The interpreter of a virtual environment with everything that is installed here but these packages."""
    directory = tmp_path / "environment"
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60
    )
    (target,) = directory.glob("lib/python*/site-packages")
    for source in map(Path, sys.path):
        if source.name == "site-packages":
            for entry in source.iterdir():
                if not entry.name.startswith(modules) and not (target / entry.name).exists():
                    (target / entry.name).symlink_to(entry)
    yield str(directory / "bin" / "python")


@pytest.mark.slow
@pytest.mark.case("S01")
async def test_without_jupyterlab_a_plain_jupyter_server_is_started(
    tmp_path: Path, workspace: Path, state_directory: Path
) -> None:
    async with (
        environment_without(tmp_path, "jupyterlab") as python,
        RawServer.running(workspace, state_directory, python=python) as server,
    ):
        facts = await server.call("start_jupyter_server", seconds=60)
        lab = Lab.of(facts)
        assert facts["version"].startswith("Jupyter Server ")
        assert facts["url"] == f"http://127.0.0.1:{lab.port}/"
        assert (await lab.ask("/api/status")).status == 200
        assert (await asyncio.to_thread(ask, lab.port, "/api/status")).status == 403
        await server.call("stop_jupyter_server")


@pytest.mark.slow
@pytest.mark.case("S01")
async def test_without_any_jupyter_server_the_error_says_how_to_install_one(
    tmp_path: Path, workspace: Path, state_directory: Path
) -> None:
    async with (
        environment_without(tmp_path, "jupyterlab", "jupyter_server") as python,
        RawServer.running(workspace, state_directory, python=python) as server,
    ):
        result = await server.request("tools/call", {"name": "start_jupyter_server", "arguments": {}})

    assert result["isError"]
    message = result["content"][0]["text"]
    assert message.startswith("SERVER_START_FAILED: ")
    assert 'pip install "jupyter-papermill-mcp-server[lab]"' in message
    assert "pip install jupyterlab" in message


# Secrets and access


@pytest.mark.slow
@pytest.mark.case("S04")
async def test_no_secret_is_in_a_reply_a_log_a_command_line_or_a_file_that_others_can_read(
    raw_server: StartRaw, workspace: Path, state_directory: Path, process_check: Callable[[], list[psutil.Process]]
) -> None:
    async with raw_server("--log-level", "DEBUG") as server:
        lab = await started_raw(server)
        await started_raw(server)
        connection_file = await lab.start_kernel()
        await run_in(
            connection_file,
            f"import os, pathlib\npathlib.Path({str(workspace / 'env')!r}).write_text(repr(dict(os.environ)))",
        )
        await server.call("debug_list_runtime_dir")
        secrets = [
            lab.token,
            read_json(connection_file)["key"],
            (lab.directory / "jupyter_cookie_secret").read_text().strip(),
        ]
        assert all(len(secret) >= 32 for secret in secrets)
        assert len(bytes.fromhex(lab.token)) == 32
        commands = [" ".join(process.cmdline()) for process in process_check()]
        assert len(commands) >= 4, "this server, its watchdog, the Jupyter server and a kernel"
        assert stat.S_IMODE(lab.directory.stat().st_mode) & 0o777 == 0o700
        open_files = [
            path
            for directory in (state_directory, workspace)
            for path in directory.rglob("*")
            if path.is_file() and path.stat().st_mode & 0o077
        ]
        readable = [path.read_bytes().decode("utf-8", "replace") for path in open_files]
        environment = (workspace / "env").read_text()
        assert lab.directory.name in environment
        await server.call("stop_jupyter_server")
        server.close_stdin()
        assert await server.exit_code(seconds=5) == 0

        reported = [server.errors, json.dumps(server.answers), json.dumps(server.notifications), environment]
        for secret in secrets:
            for text in [*reported, *commands, *readable]:
                assert secret not in text
        assert server.impure == []


@pytest.mark.slow
@pytest.mark.case("S06")
async def test_requests_from_elsewhere_are_refused(client: Connect) -> None:
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))

        def status(path: str, **options: Any) -> int:
            return ask(lab.port, path, **options).status

        assert status("/api/status") == 403
        assert status("/api/contents", token="0" * 64) == 403
        assert status("/api/status", token=lab.token, headers={"Host": "evil.example"}) == 403
        # A browser that has logged in.
        page = ask(lab.port, f"/lab?token={lab.token}")
        cookies = [cookie.partition(";")[0] for cookie in page.headers.get_all("Set-Cookie") or []]
        logged_in = {"Cookie": "; ".join(cookies)}
        (xsrf,) = [cookie.partition("=")[2] for cookie in cookies if cookie.startswith("_xsrf=")]
        body = {"type": "notebook"}
        new = {"method": "POST", "body": body}
        assert status("/api/status", headers=logged_in) == 200
        assert status("/api/contents", **new, headers=logged_in) == 403
        evil = {"Origin": "http://evil.example", "X-XSRFToken": xsrf}
        assert status("/api/contents", **new, headers=logged_in | evil) in (403, 404)
        assert status("/api/contents", **new, headers=logged_in | {"X-XSRFToken": xsrf}) == 201


_HOSTILE = """
for app in (c.ServerApp, c.LabApp):
    app.ip = "0.0.0.0"
    app.port = 1
    app.open_browser = True
    app.disable_check_xsrf = True
    app.allow_origin = "*"
    app.allow_remote_access = True
    app.base_url = "/elsewhere/"
    app.root_dir = "/"
    app.certfile = "/none.pem"
c.ServerApp.token = ""
c.IdentityProvider.token = ""
c.PasswordIdentityProvider.hashed_password = "argon2:x"
"""


@pytest.mark.slow
@pytest.mark.case("S04")
async def test_the_users_jupyter_configuration_breaks_no_promise_and_their_theme_stays(
    client: Connect, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".jupyter"
    other = tmp_path / "other"
    settings = home / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    other.mkdir()
    (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    for directory in (home, other):
        for name in ("jupyter_config.py", "jupyter_server_config.py", "jupyter_lab_config.py"):
            (directory / name).write_text(_HOSTILE)
    kernelspec = tmp_path / "home" / ".local" / "share" / "jupyter" / "kernels" / "mine"
    kernelspec.mkdir(parents=True)
    (kernelspec / "kernel.json").write_text('{"argv": ["true"], "display_name": "Mine", "language": "x"}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JUPYTER_CONFIG_DIR")
    monkeypatch.delenv("JUPYTER_DATA_DIR")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(other))
    monkeypatch.setenv("JUPYTER_TOKEN", "known")
    monkeypatch.setenv("JUPYTER_PORT", "1")
    (workspace / "a.ipynb").write_text("{}")
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))
        listening = [c.laddr for c in psutil.Process(lab.pid).net_connections("inet") if c.status == "LISTEN"]
        assert listening == [("127.0.0.1", lab.port)]
        assert (await asyncio.to_thread(ask, lab.port, "/api/status")).status == 403
        assert (await asyncio.to_thread(ask, lab.port, "/api/status", token="known")).status == 403
        contents = (await lab.ask("/api/contents")).json["content"]
        assert [entry["name"] for entry in contents] == ["a.ipynb"]
        theme = (await lab.ask("/lab/api/settings/@jupyterlab/apputils-extension:themes")).json
        assert theme["settings"] == {"theme": "JupyterLab Dark"}
        assert "mine" in (await lab.ask("/api/kernelspecs")).json["kernelspecs"]
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["lab"]


# The end


@pytest.mark.slow
@pytest.mark.parametrize("way", ["end of input", "SIGTERM", "SIGKILL"])
@pytest.mark.case("S08", "J12", "J14")
async def test_a_server_with_a_busy_kernel_is_gone_when_this_one_is(
    way: str,
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    process_check: Callable[[], list[psutil.Process]],
) -> None:
    async with raw_server() as server:
        ours = await server.call("start_kernel")
        lab = await started_raw(server)
        connection_file = await lab.start_kernel()
        begun = workspace / "begun"
        code = (
            "import pathlib, subprocess; subprocess.Popen(['sleep', '3600'])\n"
            f"pathlib.Path({str(begun)!r}).touch()\n{_BUSY}"
        )
        await run_in(connection_file, code, begun=begun)
        pids = [process.pid for process in process_check()]
        assert {server.pid, lab.pid, ours["pid"]} < set(pids)
        assert len(pids) >= 7, "two watchdogs, a kernel with a child, and those above"
        if way == "end of input":
            server.close_stdin()
        else:
            server.signal(signal.Signals[way])

        began = time.monotonic()
        assert await server.exit_code(seconds=2) == (-signal.SIGKILL if way == "SIGKILL" else 0)
        others = [pid for pid in pids if pid != server.pid]  # nobody else may wait for our own child
        assert await wait_gone(others, seconds=began + 2 - time.monotonic()) == []
        await until(lambda: not runtime_directories(state_directory), seconds=1, what="its directory is removed")


@pytest.mark.case("J12")
async def test_a_client_that_leaves_during_a_start_leaves_nothing(
    raw_server: StartRaw,
    state_directory: Path,
    fake_jupyter_server: Callable[[str], None],
    process_check: Callable[[], list[psutil.Process]],
) -> None:
    fake_jupyter_server("silent")
    async with raw_server() as server:
        await server.send("tools/call", {"name": "start_jupyter_server", "arguments": {}})
        await until(lambda: len(process_check()) >= 3, what="it is starting")
        server.close_stdin()
        assert await server.exit_code(seconds=2) == 0
        await until(lambda: not process_check(), seconds=1, what="all is gone")
        assert runtime_directories(state_directory) == []


# One notebook, two editors


@pytest.mark.slow
@pytest.mark.case("S09")
async def test_a_notebook_that_is_edited_in_the_browser_and_here(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["x = 1", "print(x)"])

    async def seen_by(lab: Lab) -> Json:
        answer = await lab.ask("/api/contents/a.ipynb?hash=1")
        assert answer.status == 200
        seen: Json = answer.json
        return seen

    async def saved_by(lab: Lab, seen: Json, source: str) -> None:
        seen["content"]["cells"][0]["source"] = source
        body = {"type": "notebook", "format": "json", "content": seen["content"]}
        assert (await lab.ask("/api/contents/a.ipynb", method="PUT", body=body)).status == 200

    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))

        # Saved in the browser after it was read here.
        read = await call(connected, "read_notebook", path="a.ipynb")
        await saved_by(lab, await seen_by(lab), "x = 2")
        message = await refused(
            connected, "update_cell", path="a.ipynb", index=0, source="x = 3", if_revision=read["revision"]
        )
        assert message.startswith("CONFLICT: ")
        assert read_json(path)["cells"][0]["source"] in ("x = 2", ["x = 2"])

        # Edited here while it is open in the browser.
        opened = await seen_by(lab)
        await call(connected, "update_cell", path="a.ipynb", index=0, source="x = 4")
        now = await seen_by(lab)
        assert now["hash"] != opened["hash"]
        assert now["last_modified"] > opened["last_modified"]
        assert now["content"]["cells"][0]["source"] == "x = 4"

        # Saved from the browser's old copy all the same: it is seen here as a change.
        read = await call(connected, "read_notebook", path="a.ipynb")
        await saved_by(lab, opened, "x = 5")
        message = await refused(
            connected, "add_cell", path="a.ipynb", cell_type="code", source="y", if_revision=read["revision"]
        )
        assert message.startswith("CONFLICT: ")


@pytest.mark.slow
@pytest.mark.case("S09")
async def test_a_notebook_that_is_saved_in_the_browser_while_it_runs_here(client: Connect, workspace: Path) -> None:
    """The run goes on from the version of the browser. Its results are in it, and so is what was written there."""
    wait = "import pathlib, time\nprint('begun', flush=True)\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    path = write_notebook(workspace / "a.ipynb", [wait, "print('second')"])
    async with client() as connected:
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))
        run = await call(connected, "execute_notebook", path="a.ipynb", wait=1)
        assert run["status"] == "running"
        seen = (await lab.ask("/api/contents/a.ipynb")).json
        seen["content"]["cells"].insert(
            0, {"cell_type": "markdown", "id": "new", "metadata": {}, "source": "# From Lab"}
        )
        body = {"type": "notebook", "format": "json", "content": seen["content"]}
        assert (await lab.ask("/api/contents/a.ipynb", method="PUT", body=body)).status == 200
        stale = await refused(
            connected,
            "update_cell",
            path="a.ipynb",
            cell_id="c1",
            source="1",
            if_revision=run.get("revision", "0" * 16),
        )
        assert stale.startswith(("CONFLICT: ", "BUSY: "))
        (workspace / "go").touch()
        done = await call(connected, "get_execution", execution_id=run["execution_id"], wait=20)

        assert done["status"] == "ok"
        cells = read_json(path)["cells"]
        assert [cell["id"] for cell in cells] == ["new", "c0", "c1"]
        assert [stdout_in(cell) for cell in cells[1:]] == ["begun\n", "second\n"]
        shown = (await lab.ask("/api/contents/a.ipynb")).json["content"]["cells"]
        assert [cell["id"] for cell in shown] == ["new", "c0", "c1"]


async def test_collaboration_is_off_where_it_is_installed(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papermill_mcp.core.jupyter_server.has_collaboration", lambda: True)
    async with client() as connected:
        started = await call(connected, "start_jupyter_server", seconds=60)
        command = psutil.Process(started["pid"]).cmdline()

    assert "--YDocExtension.disable_rtc=True" in command
    assert "collaboration" in started["note"]
