"""How the server ends: by whatever way its client or a signal brings that about, with everything it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import StartRaw, leftovers
from helpers import (
    RawServer,
    read_json,
    remove_cut_off_saves,
    server_command,
    server_environment,
    stdout_in,
    stdout_of,
    until,
    wait_gone,
    write_notebook,
)

pytestmark = pytest.mark.kernel

slow = pytest.mark.slow

#: What a kernel does when the end comes. It ends by itself only where it is idle.
_STATES = {
    "idle": None,
    "busy": "while True: pass",
    "deaf": "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(0.1)",
    "holds the GIL": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "halted": None,
}

_CHILDREN = """\
import subprocess
print(subprocess.Popen(['sleep', '3600']).pid, subprocess.Popen(['sleep', '3600'], start_new_session=True).pid)
"""

Processes = Callable[[], list[psutil.Process]]


async def with_kernels(server: RawServer, workspace: Path, states: Iterable[str]) -> list[int]:
    """Start a kernel for each state, with children. Returns the pids of all of them."""
    found = await asyncio.gather(*(_with_kernel(server, workspace, state) for state in states))
    return [pid for pids in found for pid in pids]


async def _with_kernel(server: RawServer, workspace: Path, state: str) -> list[int]:
    started = await server.call("start_kernel")
    facts = await server.call("execute_cell", kernel_id=started["kernel_id"], code=_CHILDREN)
    pids = [started["pid"], *map(int, stdout_of(facts).split())]
    assert len(pids) == 3
    busy = _STATES[state]
    if busy is not None:
        code = f"import pathlib; pathlib.Path('{state}').touch()\n{busy}"
        arguments = {"kernel_id": started["kernel_id"], "code": code, "timeout": 0}
        await server.send("tools/call", {"name": "execute_cell", "arguments": arguments})
        await until((workspace / state).exists, seconds=10, what="the cell runs")
    if state == "halted":
        os.kill(started["pid"], signal.SIGSTOP)
    return pids


def end(server: RawServer, how: str) -> None:
    """Bring the end of a server about."""
    match how:
        case "EOF":
            server.close_stdin()
        case "client gone" | "stdout closed":  # what the server still writes reaches nobody
            for stream in (0, 1) if how == "client gone" else (1,):
                pipe = server.process._transport.get_pipe_transport(stream)  # type: ignore[attr-defined]
                pipe.close()
        case "many signals":
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                server.signal(number)
        case _:
            server.signal(signal.Signals[how])


async def ended(
    server: RawServer, how: str, pids: list[int], state: Path, record: Callable[[str, object], None]
) -> None:
    """Bring the end about, and see that everything is gone in time."""
    began = time.monotonic()
    end(server, how)
    code = await server.exit_code(seconds=4)
    took = time.monotonic() - began
    record("exit_seconds", round(took, 3))

    assert code == (-signal.SIGKILL if how == "SIGKILL" else 0), server.errors
    assert took < 2
    assert await wait_gone(pids, seconds=began + 2.5 - time.monotonic()) == []
    await until(lambda: leftovers(state) == [], seconds=0.5, what="its files are removed")
    assert "Traceback" not in server.errors
    assert server.impure == []


@pytest.mark.alone
@pytest.mark.case("J12", "J14", "K12")
@pytest.mark.parametrize(
    ("how", "states"),
    [
        ("EOF", ["idle", "busy", "deaf"]),
        ("SIGTERM", ["idle", "busy", "deaf"]),
        ("SIGKILL", ["idle", "holds the GIL"]),
        pytest.param("SIGINT", ["idle", "busy"], marks=slow),
        pytest.param("SIGHUP", ["busy", "deaf"], marks=slow),
        pytest.param("many signals", list(_STATES), marks=slow),
        pytest.param("client gone", list(_STATES), marks=slow),
        pytest.param("EOF", ["idle"], marks=slow),
        pytest.param("SIGKILL", ["busy", "deaf", "halted"], marks=slow),
    ],
)
async def test_the_server_ends_in_two_seconds_with_everything_it_started(
    how: str,
    states: list[str],
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    record_property: Callable[[str, object], None],
) -> None:
    async with raw_server() as server:
        pids = await with_kernels(server, workspace, states)
        await ended(server, how, pids, state_directory, record_property)


@pytest.mark.alone
@slow
@pytest.mark.case("K12")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
async def test_kernels_of_other_languages_end_with_the_server(
    how: str,
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    bash_kernelspec: str,
    deno_kernelspec: str,
    record_property: Callable[[str, object], None],
) -> None:
    """They do not look whether their parent lives."""
    async with raw_server() as server:
        started = [await server.call("start_kernel", kernel_name=name) for name in (bash_kernelspec, deno_kernelspec)]
        bash = {"kernel_id": started[0]["kernel_id"], "code": "sleep 3600 & touch begun; sleep 3600", "timeout": 0}
        await server.send("tools/call", {"name": "execute_cell", "arguments": bash})
        await until((workspace / "begun").exists, seconds=20, what="the cell runs")

        def family() -> list[int]:
            kernels = [row["pid"] for row in started]
            return kernels + [child.pid for pid in kernels for child in psutil.Process(pid).children(recursive=True)]

        await until(lambda: len(family()) >= 5, what="both commands of the cell run")
        pids = family()
        await ended(server, how, pids, state_directory, record_property)


@pytest.mark.case("J14")
async def test_a_broken_pipe_signal_has_no_effect(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        server.signal(signal.SIGPIPE)
        assert (await server.request("tools/list"))["tools"]
        assert server.process.returncode is None


@pytest.mark.alone
@pytest.mark.case("J12")
async def test_a_server_without_kernels_ends_at_once(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        began = time.monotonic()
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0
        assert time.monotonic() - began < 1.5


@pytest.mark.alone
@pytest.mark.case("J12", "J14")
@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("EOF", marks=slow), pytest.param("SIGKILL", marks=slow)])
async def test_a_server_that_ends_while_a_kernel_starts_leaves_none(
    how: str,
    raw_server: StartRaw,
    state_directory: Path,
    process_check: Processes,
    record_property: Callable[[str, object], None],
) -> None:
    async with raw_server() as server:
        await server.send("tools/call", {"name": "start_kernel", "arguments": {}})
        await until(lambda: any(state_directory.rglob("kernel-*.json")), what="a kernel is on its way")
        await ended(server, how, [], state_directory, record_property)
        await until(lambda: not process_check(), seconds=1, what="all is gone")


@pytest.mark.case("J12", "J14")
@pytest.mark.parametrize("how", ["EOF", "stdout closed", pytest.param("SIGTERM", marks=slow)])
async def test_a_run_that_the_end_of_the_server_stops_leaves_what_it_has_in_the_file(
    how: str, raw_server: StartRaw, workspace: Path
) -> None:
    """Also when the end is noticed by a report of progress that nobody takes."""
    slow_cells = [f"print('cell', {number}, flush=True); import time; time.sleep(0.3)" for number in range(60)]
    path = write_notebook(workspace / "a.ipynb", slow_cells)
    async with raw_server() as server:
        arguments = {"path": "a.ipynb", "timeout": 0}
        await server.send(
            "tools/call", {"name": "execute_notebook", "arguments": arguments, "_meta": {"progressToken": 1}}
        )
        await until(lambda: len(server.notifications) > 3, seconds=30, what="progress is reported")
        end(server, how)
        assert await server.exit_code(seconds=4) == 0

    outputs = [stdout_in(entry) for entry in read_json(path)["cells"]]
    over = [number for number, output in enumerate(outputs) if output]
    assert over == list(range(len(over)))
    assert len(over) >= server.notifications[-1]["params"]["progress"]
    assert outputs[over[-1]] == f"cell {over[-1]}\n"
    assert outputs[-1] == ""


@slow
@pytest.mark.case("J12", "J14")
@pytest.mark.parametrize("how", ["EOF", "SIGTERM", "client gone"])
async def test_a_server_that_ends_during_a_save_leaves_the_old_or_the_new_version(
    how: str, raw_server: StartRaw, workspace: Path
) -> None:
    sources = [f"x = '{number}' * 3  # {'-' * 2000}" for number in range(2000)]
    found = set()
    for delay in (0, 0.01, 0.03, 0.06, 0.1, 0.2):
        path = write_notebook(workspace / "a.ipynb", sources)
        async with raw_server() as server:
            await server.request("tools/call", {"name": "read_notebook", "arguments": {"path": "a.ipynb"}})
            change = {"path": "a.ipynb", "cell_id": "c7", "source": "new"}
            await server.send("tools/call", {"name": "update_cell", "arguments": change})
            await asyncio.sleep(delay)
            end(server, how)
            assert await server.exit_code(seconds=3) == 0
        cells = read_json(path)["cells"]
        assert len(cells) == len(sources)
        found.add("".join(cells[7]["source"]))
        assert leftovers(workspace) == []

    assert found <= {sources[7], "new"}
    assert "new" in found


@pytest.mark.alone
@slow
@pytest.mark.case("J12", "J14")
@pytest.mark.parametrize("how", ["EOF", "SIGTERM", "SIGKILL"])
async def test_a_batch_ends_with_the_server(
    how: str,
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    process_check: Processes,
    record_property: Callable[[str, object], None],
) -> None:
    """What its runs have written is whole, and says how far they had come."""
    endless = "import pathlib, subprocess, time\nsubprocess.Popen(['sleep', '3600'])\n"
    endless += "pathlib.Path(f'begun-{n}').touch()\ntime.sleep(3600)"
    parameters = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "n = 0"}
    write_notebook(
        workspace / "in.ipynb", [{**parameters, "outputs": [], "execution_count": None}, "print('so far')", endless]
    )
    async with raw_server() as server:
        arguments: dict[str, Any] = {
            "input_path": "in.ipynb",
            "grid": {"n": [1, 2, 3]},
            "max_parallel": 2,
            "wait": 0,
            "timeout": 0,
        }
        assert (await server.call("execute_notebook_batch", **arguments))["status"] == "running"
        await until(lambda: len(list(workspace.glob("begun-*"))) == 2, seconds=30, what="two runs")
        await asyncio.sleep(1.5)  # the save of the cells before, which a kill would take with it
        pids = [process.pid for process in process_check() if process.pid != server.pid]
        await ended(server, how, pids, state_directory, record_property)

    outputs = [read_json(path) for path in (workspace / "outputs" / "in-batch").glob("*.ipynb")]
    assert len(outputs) == 2
    assert all(stdout_in(output["cells"][2]) == "so far\n" for output in outputs)
    assert not list((workspace / "outputs").rglob(".*"))


async def test_the_end_of_one_server_does_not_touch_the_kernels_of_another(
    raw_server: StartRaw, workspace: Path
) -> None:
    async with raw_server() as one, raw_server() as two:
        gone = await with_kernels(one, workspace, ["idle"])
        kept = await with_kernels(two, workspace, ["idle"])
        one.signal(signal.SIGTERM)
        assert await one.exit_code(seconds=3) == 0
        assert await wait_gone(gone, seconds=0.5) == []
        assert sorted(await wait_gone(kept, seconds=0)) == sorted(kept)
        two.close_stdin()
        assert await two.exit_code(seconds=3) == 0


# The client is killed


_CLIENT = """
import json, os, subprocess, sys

server = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def ask(number, method, params):
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())
    server.stdin.write(b"\\n")
    server.stdin.flush()
    while True:
        answer = json.loads(server.stdout.readline())
        if answer.get("id") == number:
            return answer["result"]
hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "doomed", "version": "0"}}
ask(1, "initialize", hello)
started = ask(2, "tools/call", {"name": "start_kernel", "arguments": {}})["structuredContent"]
code = {"kernel_id": started["kernel_id"], "code": "import subprocess; subprocess.run(['sleep', '3600'])", "wait": 0.5}
ask(3, "tools/call", {"name": "execute_cell", "arguments": {**code, "timeout": 0}})
print(server.pid, started["pid"], flush=True)
server.wait()
"""


@pytest.mark.alone
@pytest.mark.case("J12", "K12")
async def test_a_client_that_is_killed_takes_the_server_and_all_it_started_along(
    workspace: Path, state_directory: Path, process_check: Processes, record_property: Callable[[str, object], None]
) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CLIENT,
        *server_command(workspace, state_directory),
        stdout=asyncio.subprocess.PIPE,
        env=server_environment(),
        cwd=workspace,
    )
    assert client.stdout is not None
    async with asyncio.timeout(30):
        server, kernel = map(int, (await client.stdout.readline()).split())
    pids = [process.pid for process in process_check() if process.pid != client.pid]
    assert {server, kernel} < set(pids)
    assert len(pids) >= 4, "the server, its watchdog, a kernel and its child"
    began = time.monotonic()
    client.kill()
    await client.wait()

    assert await wait_gone(pids, seconds=2.5) == []
    record_property("exit_seconds", round(time.monotonic() - began, 3))
    await until(lambda: leftovers(state_directory) == [], seconds=0.5, what="its files are removed")


# The server is killed together with its watchdog


def kill_family(server: RawServer, processes: Iterable[psutil.Process]) -> None:
    """Kill the watchdogs of a server, then the server."""
    watchdogs = [p for p in processes if p.ppid() == server.pid and "processes/guard.py" in " ".join(p.cmdline())]
    assert watchdogs
    for process in watchdogs:
        process.kill()
    server.signal(signal.SIGKILL)


@pytest.mark.case("J16", "K12")
@pytest.mark.parametrize(
    "states", [["idle", "holds the GIL"], pytest.param(["idle", "busy", "deaf", "halted"], marks=slow)]
)
async def test_the_next_server_ends_what_one_left_that_was_killed_with_its_watchdog(
    states: list[str],
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    process_check: Processes,
    record_property: Callable[[str, object], None],
) -> None:
    """And nothing of a server that lives."""
    async with raw_server() as living, raw_server() as doomed:
        kept = await with_kernels(living, workspace, ["idle"])
        before = {process.pid for process in process_check()}
        pids = await with_kernels(doomed, workspace, states)
        assert len(list(state_directory.glob("runtime-*"))) == 2
        kill_family(doomed, process_check())
        await doomed.exit_code(seconds=2)
        left = await wait_gone(pids, seconds=1.5)  # an idle ipykernel sees the end of its parent
        assert len(left) >= 2 * len(states), "there is something to do for the next server"
        assert len(list(state_directory.glob("runtime-*"))) == 2

        began = time.monotonic()
        async with raw_server() as following:
            assert await wait_gone(left, seconds=5) == []
            record_property("reap_seconds", round(time.monotonic() - began, 3))
            await until(lambda: len(list(state_directory.glob("runtime-*"))) == 1, seconds=1, what="its files are gone")
            await until(lambda: "an earlier server was killed" in following.errors, seconds=2)
            assert sorted(await wait_gone(kept, seconds=0)) == sorted(kept)
            assert before >= {process.pid for process in process_check()} - {following.pid}
            facts = await living.call("start_kernel")
            assert (await living.call("get_kernel_status", kernel_id=facts["kernel_id"]))["state"] == "idle"
            following.close_stdin()
            assert await following.exit_code(seconds=3) == 0
        living.close_stdin()
        assert await living.exit_code(seconds=3) == 0

    assert leftovers(state_directory) == []


@slow
@pytest.mark.case("J16", "S08")
async def test_the_next_server_ends_a_jupyter_server_that_one_left(
    raw_server: StartRaw, state_directory: Path, process_check: Processes
) -> None:
    pytest.importorskip("jupyterlab")
    async with raw_server() as doomed:
        facts = await doomed.call("start_jupyter_server", seconds=60)
        kill_family(doomed, process_check())
        await doomed.exit_code(seconds=2)
    assert psutil.pid_exists(facts["pid"])
    assert len(list(state_directory.glob("runtime-*"))) == 1

    async with raw_server() as following:
        assert await wait_gone([facts["pid"]], seconds=5) == []
        await until(lambda: not list(state_directory.glob("runtime-*")), seconds=1, what="its files are gone")
        following.close_stdin()
        assert await following.exit_code(seconds=3) == 0


@slow
@pytest.mark.case("J16")
async def test_a_server_that_lost_its_watchdog_has_a_new_one_at_the_next_kernel(
    raw_server: StartRaw, workspace: Path, state_directory: Path, process_check: Processes
) -> None:
    async with raw_server() as server:
        pids = await with_kernels(server, workspace, ["idle"])
        (watchdog,) = [p for p in process_check() if "processes/guard.py" in " ".join(p.cmdline())]
        watchdog.kill()
        await asyncio.to_thread(psutil.wait_procs, [watchdog], 2)
        pids += await with_kernels(server, workspace, ["holds the GIL"])
        server.signal(signal.SIGKILL)
        await server.exit_code(seconds=2)

        assert await wait_gone(pids, seconds=2) == []
        await until(lambda: leftovers(state_directory) == [], seconds=2, what="the connection files are removed")


@pytest.mark.case("J16", "K21")
@slow
async def test_a_request_that_a_client_repeats_after_a_kill_is_told_what_became_of_it(
    raw_server: StartRaw, workspace: Path
) -> None:
    """The code ran once; the next server knows the key and does not run it again."""
    write_notebook(workspace / "a.ipynb", ["open('count', 'a').write('x')", "import time; time.sleep(3600)"])
    request: dict[str, Any] = {"path": "a.ipynb", "idempotency_key": "once", "timeout": 0, "wait": 1}
    async with raw_server() as server:
        begun = await server.call("execute_notebook", **request)
        await until((workspace / "count").exists, what="the first cell has run")
        await server.call("list_executions")  # its record is written
        server.signal(signal.SIGKILL)
        await server.exit_code(seconds=2)
    async with raw_server() as server:
        again = await server.call("execute_notebook", **request)
    remove_cut_off_saves(workspace)

    assert again["execution_id"] == begun["execution_id"]
    assert again["status"] == "aborted"
    assert (workspace / "count").read_text() == "x"
