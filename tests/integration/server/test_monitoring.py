"""What an operator sees of a server: metrics over HTTP, and a log of one JSON object a line."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import StartRaw
from helpers import Json, RawServer, cell, read_json, server_command, server_environment, until, write_notebook

pytestmark = pytest.mark.kernel


def lines_of(server: RawServer) -> list[Json]:
    """The log so far. Every line is one JSON object."""
    return [json.loads(line) for line in server.errors.splitlines()]


async def scraped(url: str) -> dict[str, float]:
    """The metrics, by name with labels."""

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    text = await asyncio.to_thread(get)
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    }


async def metrics_url(server: RawServer) -> str:
    await until(lambda: "metrics are served" in server.errors, seconds=20, what="the port is logged")
    (found,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", server.errors)
    return str(found)


async def test_metrics_of_a_real_session_are_served(raw_server: StartRaw, workspace: Path) -> None:
    pytest.importorskip("prometheus_client")
    write_notebook(workspace / "in.ipynb", [cell("x = 1", tags=["parameters"]), "print(x)"])
    write_notebook(workspace / "bad.ipynb", ["1/0"])
    async with raw_server("--metrics-port", "0") as server:
        url = await metrics_url(server)
        before = await scraped(url)
        assert not [name for name in before if name.startswith(("notebook_executions_total", "active_kernels"))]

        await server.call("execute_notebook_papermill", input_path="in.ipynb", parameters={"x": 2})
        await server.call("execute_notebook", path="bad.ipynb")
        kernel = await server.call("start_kernel", python=sys.executable)
        await server.call("execute_cell", kernel_id=kernel["kernel_id"], code="1")
        await server.call("restart_kernel", kernel_id=kernel["kernel_id"])
        unknown = await server.request(
            "tools/call", {"name": "start_kernel", "arguments": {"kernel_name": "never-heard-of"}}
        )
        assert unknown["isError"]
        after = await scraped(url)

        run = 'tool="execute_notebook_papermill"'
        assert after[f'notebook_executions_total{{kernel="python3",status="ok",{run}}}'] == 1
        assert after['notebook_executions_total{kernel="python3",status="error",tool="execute_notebook"}'] == 1
        assert after['kernel_starts_total{kernel="python3",status="ok"}'] == 2
        assert after['kernel_starts_total{kernel="interpreter",status="ok"}'] == 2
        assert 0 < after[f'execution_duration_seconds_sum{{kernel="python3",status="ok",{run}}}'] < 30
        cells = 'kernel="interpreter",status="ok",tool="execute_cell"'
        assert after[f"execution_duration_seconds_count{{{cells}}}"] == 1
        # The papermill run's own kernel is gone; the notebook's and the started one live.
        assert after['active_kernels_gauge{kernel="python3",status="idle"}'] == 1
        assert after['active_kernels_gauge{kernel="interpreter",status="idle"}'] == 1
        assert not [name for name in after if "/" in name or "never-heard-of" in name]

        began = time.monotonic()
        server.close_stdin()
        assert await server.exit_code(seconds=5) == 0
        assert time.monotonic() - began < 2
        assert server.impure == []


async def test_metrics_are_on_loopback_and_a_client_that_only_waits_holds_nothing_up(
    raw_server: StartRaw, workspace: Path
) -> None:
    pytest.importorskip("prometheus_client")
    async with raw_server("--metrics-port", "0") as server:
        port = int((await metrics_url(server)).rsplit(":", 1)[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as waiting:
            waiting.sendall(b"GET /metrics HTTP/1.1\r\n")  # and no more
            await server.call("list_notebook_files", seconds=5)
            assert "python_gc_objects_collected_total" not in str(await scraped(f"http://127.0.0.1:{port}/metrics"))
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.2", port), timeout=5).close()
            server.close_stdin()
            assert await server.exit_code(seconds=2) == 0


@pytest.mark.case("W09")
async def test_the_metrics_answer_to_names_of_this_machine_only(raw_server: StartRaw) -> None:
    """A page of another site may reach the port under a name of its own."""
    pytest.importorskip("prometheus_client")

    def status(url: str, host: str | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port or 0, timeout=10)
        connection.putrequest("GET", "/metrics", skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse().status
        connection.close()
        return answer

    async with raw_server("--metrics-port", "0") as server:
        url = await metrics_url(server)
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:9000", "[::1]", "[::1]:9000"):
            assert await asyncio.to_thread(status, url, host) == 200, host
        for other in (
            "evil.example.com",
            "evil.example.com:9000",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "",
            None,
            "[::1",
            "localhost@evil.example",
            "evil@localhost",
            "0.0.0.0",
        ):
            assert await asyncio.to_thread(status, url, other) == 403, other


def start(workspace: Path, state: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A server whose input is at its end."""
    return subprocess.run(
        [sys.executable, *server_command(workspace, state, *flags)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=server_environment(),
        cwd=workspace,
        timeout=30,
        check=False,
    )


def test_a_port_that_is_taken_is_a_fault(workspace: Path, state_directory: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(workspace, state_directory, "--metrics-port", str(port))

    assert done.returncode == 0
    assert done.stdout == ""
    assert f"metrics_port {port} cannot be used: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "high"])
def test_a_port_that_is_none_is_a_fault(port: str, workspace: Path, state_directory: Path) -> None:
    done = start(workspace, state_directory, f"--metrics-port={port}")

    assert done.returncode == 0
    assert "metrics_port from --metrics-port" in done.stderr
    assert "metrics are served" not in done.stderr


_RUN = """
import runpy, sys
{before}
sys.argv = ["server", *sys.argv[1:]]
try:
    runpy.run_module("papermill_mcp.main", run_name="__main__")
except SystemExit as end:
    code = end.code
{after}
sys.exit(code)
"""


def start_with(workspace: Path, state: Path, before: str, after: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A server with code before and after it in the same process."""
    code = _RUN.format(before=textwrap.dedent(before), after=after)
    return subprocess.run(
        [sys.executable, "-c", code, *server_command(workspace, state, *flags)[2:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=server_environment(),
        cwd=workspace,
        timeout=30,
        check=False,
    )


def test_without_the_extra_the_setting_is_a_fault(workspace: Path, state_directory: Path) -> None:
    missing = "sys.modules['prometheus_client'] = None"  # as if it were not installed
    done = start_with(workspace, state_directory, missing, "", "--metrics-port", "0")

    assert done.returncode == 0
    assert done.stdout == ""
    assert "pip install prometheus-client" in done.stderr
    assert "`monitoring`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("flags", "expected"), [((), "False"), (("--metrics-port", "0"), "True")])
def test_prometheus_is_imported_only_if_it_is_wanted(
    flags: tuple[str, ...], expected: str, workspace: Path, state_directory: Path
) -> None:
    if flags:
        pytest.importorskip("prometheus_client")
    # The server leaves by os._exit, so the question comes there. It has closed its own standard error by then.
    ask = """
    import os
    leave, stderr = os._exit, os.dup(2)
    def asked(code):
        os.write(stderr, b"imported: %r\\n" % ("prometheus_client" in sys.modules))
        leave(code)
    os._exit = asked
    """
    done = start_with(workspace, state_directory, ask, "", *flags)

    assert done.returncode == 0
    assert f"imported: {expected}" in done.stderr


# The log


async def test_the_log_in_json_is_an_object_a_line_for_calls_and_executions(
    raw_server: StartRaw, workspace: Path, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cr3t-" + "v" * 20
    monkeypatch.setenv("A_TOKEN", secret)
    name = "naïve \u2028name.ipynb"
    write_notebook(workspace / "in.ipynb", [cell("x = 1", tags=["parameters"]), f"print('{secret}')\n1/0"])
    async with raw_server("--log-format", "json", "--log-level", "INFO") as server:
        await server.call("execute_notebook_papermill", input_path="in.ipynb", parameters={"x": 25_252_525})
        kernel = await server.call("start_kernel", env={"OTHER_TOKEN": secret})
        (key,) = [read_json(path)["key"] for path in state_directory.rglob("kernel-*.json")]
        await server.call(
            "execute_cell", kernel_id=kernel["kernel_id"], code=f"import os; os.environ['A_TOKEN'], {secret!r}"
        )
        for path in (name, "a\nb\x1b[31m\x00.ipynb", "\u202e.ipynb", "x" * 5000 + ".ipynb"):
            await server.request("tools/call", {"name": "get_notebook_info", "arguments": {"path": path}})
        server.close_stdin()
        assert await server.exit_code(seconds=5) == 0
        await until(lambda: server.errors.endswith("\n"), what="the last line is whole")

        events = lines_of(server)
        calls = [event for event in events if event["message"] == "tool call"]
        ended = [event for event in events if event["message"] == "execution ended"]

    assert [event["operation"] for event in calls] == [
        "execute_notebook_papermill", "start_kernel", "execute_cell", *["get_notebook_info"] * 4
    ]  # fmt: skip
    assert [event["operation"] for event in ended] == ["execute_notebook_papermill", "execute_cell"]
    for event in (calls[0], ended[0]):
        assert (event["path"], event["outcome"]) == ("in.ipynb", "error")
        assert 0 < event["duration"] < 30
    assert [event["outcome"] for event in calls[3:]] == ["PATH_NOT_ALLOWED"] * 4
    assert [event["path"] for event in calls[3:]] == [name, "a\nb\x1b[31m\x00.ipynb", "\u202e.ipynb", "x" * 300]
    assert all(event["level"] and event["time"] and event["logger"] for event in events)
    assert server.errors.isascii()
    assert "\x1b" not in server.errors
    assert secret not in server.errors
    assert key not in server.errors
    assert "25252525" not in server.errors
