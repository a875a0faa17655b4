"""What kernels do to a server: die, flood it, fork without end, write where they should not, ask for its secrets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import AddKernelspec, Connect, StartRaw, leftovers
from helpers import (
    RawServer,
    call,
    cell,
    read_json,
    refused,
    stdout_in,
    stdout_of,
    text_of,
    until,
    wait_gone,
    write_notebook,
)

from papermill_mcp.core.kernels import kernel as kernel_module

pytestmark = pytest.mark.kernel

slow = pytest.mark.slow

MEGABYTE = 2**20


# Deaths, starts and ends


@pytest.mark.case("K01")
async def test_what_a_cell_put_out_before_its_kernel_died_is_in_the_file(client: Connect, workspace: Path) -> None:
    # A kill at once takes what ZeroMQ has not sent yet.
    dying = "import os, time\nprint('last words', flush=True); time.sleep(0.3)\nos.kill(os.getpid(), 9)"
    path = write_notebook(workspace / "a.ipynb", ["print('first')", dying, "print('never')"])
    async with client() as c:
        began = time.monotonic()
        died = await call(c, "execute_notebook", path="a.ipynb")
        assert time.monotonic() - began < 10
        assert died["status"] == "died"
        assert died["failed_cell"]["index"] == 1
        again = await call(c, "execute_notebook", path="a.ipynb", cells="2")  # with a new kernel
        assert any("signal 9" in note for note in again["notes"])

    cells = read_json(path)["cells"]
    assert [stdout_in(entry) for entry in cells] == ["first\n", "last words\n", "never\n"]


@pytest.mark.case("K07")
async def test_what_a_kernel_says_that_cannot_start_is_shown_without_what_a_terminal_would_obey(
    client: Connect, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    garbage = r"\033]0;title\007\033[31mred\377\000 end"
    name = kernelspec("garbage", ["sh", "-c", f"printf '{garbage}'; exit 4"])
    async with client() as c:
        message = await refused(c, "start_kernel", kernel_name=name)

    assert message.startswith("KERNEL_START_FAILED")
    assert "exit code 4" in message
    assert "red" in message
    assert "end" in message
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", message)
    assert leftovers(state_directory) == []


@slow
@pytest.mark.case("K13")
async def test_whatever_is_asked_of_a_kernel_that_restarts_or_stops_is_answered(client: Connect) -> None:
    async with client() as c:
        kernel = (await call(c, "start_kernel"))["kernel_id"]
        names = ("restart_kernel", "interrupt_kernel", "get_kernel_status", "restart_kernel", "interrupt_kernel")
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*(c.call_tool(name, {"kernel_id": kernel}) for name in names))
        assert not [text_of(reply) for reply in replies if reply.is_error]
        assert stdout_of(await call(c, "execute_cell", kernel_id=kernel, code="print(1)")) == "1\n"

        ending = ("stop_kernel", "stop_kernel", "interrupt_kernel", "restart_kernel", "get_kernel_status")
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*(c.call_tool(name, {"kernel_id": kernel}) for name in ending))
        assert not replies[0].is_error
        assert all(text_of(reply).startswith("KERNEL_NOT_FOUND") for reply in replies[1:] if reply.is_error)
        message = await refused(c, "execute_cell", kernel_id=kernel, code="1")
        assert message.startswith("KERNEL_NOT_FOUND")
        assert "was stopped" in message


@pytest.mark.case("K14")
async def test_calls_at_the_same_time_in_one_kernel_take_turns(client: Connect) -> None:
    async with client() as c:
        kernel = (await call(c, "start_kernel"))["kernel_id"]
        order: list[int] = []

        async def one(number: int) -> str:
            code = f"for _ in range(5): print({number}, flush=True)"
            facts = await call(c, "execute_cell", kernel_id=kernel, code=code)
            order.append(facts["execution_count"])
            return stdout_of(facts)

        outputs = await asyncio.gather(*(one(number) for number in range(10)))

    assert outputs == [f"{number}\n" * 5 for number in range(10)]
    assert order == sorted(order) == list(range(1, 11))


@slow
@pytest.mark.timeout(300)
async def test_a_kernel_that_can_no_longer_broadcast_is_told_from_a_busy_one(client: Connect, workspace: Path) -> None:
    """Writing fails again and again, and the thread of ipykernel that broadcasts is never woken again."""
    unwritable = "kept = 1\nfor i in range(20): print(chr(0xD800), flush=True)"
    write_notebook(workspace / "a.ipynb", ["1", unwritable, "print('never')"])
    async with client() as c:
        kernel_id = (await call(c, "start_kernel"))["kernel_id"]
        # A thread of the kernel that speaks for the first time wakes the other one for once, so it may take a while.
        arguments = {"path": "a.ipynb", "kernel_id": kernel_id, "timeout": 0, "wait": 200}
        ended = await call(c, "execute_notebook", **arguments, seconds=220)
        assert ended["status"] == "error"
        assert ended["failed_cell"]["index"] == 1
        assert ended["failed_cell"]["error"]["ename"] == "KernelUnresponsive"

        refusal = await refused(c, "execute_cell", kernel_id=kernel_id, code="1 + 1")
        assert refusal.startswith("KERNEL_UNRESPONSIVE")
        assert "restart_kernel" in refusal

        await call(c, "restart_kernel", kernel_id=kernel_id)
        assert stdout_of(await call(c, "execute_cell", kernel_id=kernel_id, code="print(1 + 1)")) == "2\n"


@slow
@pytest.mark.timeout(300)
async def test_a_cell_that_is_silent_for_long_is_not_taken_for_a_mute_one(client: Connect) -> None:
    async with client() as c:

        async def one(code: str) -> None:
            kernel_id = (await call(c, "start_kernel"))["kernel_id"]
            arguments = {"kernel_id": kernel_id, "code": code, "timeout": 0, "wait": 130}
            facts = await call(c, "execute_cell", **arguments, seconds=140)
            assert facts["status"] == "ok"
            assert stdout_of(facts) == "slept\n"

        codes = ("import time; time.sleep(26); print('slept')", "pow(3, 10**7 * 3) and print('slept')")
        await asyncio.gather(*map(one, codes))


# Idle kernels


@pytest.mark.case("K17")
async def test_a_kernel_is_stopped_after_an_hour_of_idleness_and_not_before(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    clock = SimpleNamespace(**{name: getattr(time, name) for name in ("time", "sleep", "perf_counter")})
    clock.monotonic = lambda: time.monotonic() + later
    write_notebook(workspace / "a.ipynb", ["x = 1"])
    async with client(cleanup_interval=0.1) as c:
        idle = (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"]
        busy = (await call(c, "start_kernel"))["kernel_id"]
        await call(c, "execute_cell", kernel_id=busy, code="import time; time.sleep(60)", wait=0, timeout=0)
        monkeypatch.setattr(kernel_module, "time", clock)

        async def alive() -> set[str]:
            return {row["kernel_id"] for row in (await call(c, "list_kernels"))["active"]}

        later = 59 * 60
        await asyncio.sleep(0.5)  # several looks
        assert await alive() == {idle, busy}
        later = 61 * 60
        async with asyncio.timeout(5):
            while idle in await alive():
                await asyncio.sleep(0.05)
        assert await alive() == {busy}

        message = await refused(c, "execute_cell", kernel_id=idle, code="1")
        assert message.startswith("KERNEL_NOT_FOUND")
        assert "after 61.0 min of idleness (kernel_idle_timeout); its variables are lost" in message
        assert "start_kernel" in message
        again = await call(c, "execute_notebook", path="a.ipynb")
        assert again["kernel_id"] != idle
        assert any("idleness" in note and "earlier variables are gone" in note for note in again["notes"])


# Secrets


@slow
@pytest.mark.case("K19")
async def test_a_variable_that_is_denied_is_in_no_kernel_and_one_that_is_not_is_in_no_reply(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X_API_KEY", "CANARY-DENIED")
    monkeypatch.setenv("X_OTHER", "CANARY-PASSED")
    code = "import os; print(os.environ.get('X_API_KEY'), os.environ.get('X_OTHER') == 'CAN' 'ARY-PASSED')"
    write_notebook(workspace / "a.ipynb", [cell("n = 1", tags=["parameters"]), code])
    said: list[str] = []
    async with client(kernel_env_deny=["X_API_KEY"], prewarm_kernels=1) as c:

        async def reported(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await c.call_tool(tool, arguments)
            said.append(text_of(result) + json.dumps(result.structured_content))
            return result.structured_content or {}

        started = await reported("start_kernel")
        shown = [stdout_of(await reported("execute_cell", kernel_id=started["kernel_id"], code=code))]
        await asyncio.sleep(3)  # a spare kernel takes the place
        for _ in range(2):
            other = await reported("start_kernel")
            shown.append(stdout_of(await reported("execute_cell", kernel_id=other["kernel_id"], code=code)))
        own = await reported("start_kernel", python=sys.executable)
        shown.append(stdout_of(await reported("execute_cell", kernel_id=own["kernel_id"], code=code)))
        await reported("restart_kernel", kernel_id=started["kernel_id"])
        shown.append(stdout_of(await reported("execute_cell", kernel_id=started["kernel_id"], code=code)))
        await reported("execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb", parameters={"n": 2})
        shown.append(stdout_in(read_json(workspace / "out.ipynb")["cells"][-1]))
        for tool in ("get_kernel_status", "inspect_variables", "stop_kernel"):
            await reported(tool, kernel_id=started["kernel_id"])
        for tool in ("list_kernels", "list_executions", "debug_list_runtime_dir"):
            await reported(tool)

    assert shown == ["None True\n"] * 6
    assert "CANARY" not in "".join(said)
    assert "CANARY" not in (workspace / "out.ipynb").read_text()


# Floods


async def peak_of(process: psutil.Process, work: asyncio.Task[Any]) -> int:
    """The most resident memory of a process while `work` goes on, in bytes."""
    peak = 0
    while not work.done():
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.02)
    return peak


@slow
@pytest.mark.case("K10", "J20")
async def test_what_a_kernel_writes_to_its_descriptors_reaches_neither_the_protocol_nor_the_log(
    raw_server: StartRaw,
) -> None:
    code = (
        "import os, subprocess\n"
        "for fd in (1, 2):\n"
        "    for _ in range(300): os.write(fd, b'SPAM direct\\n' * 500)\n"
        "    subprocess.run(['sh', '-c', 'yes SPAM child | head -n 150000'], stdout=fd)\n"
        "print('done')"
    )
    async with raw_server() as server:
        kernel = (await server.call("start_kernel"))["kernel_id"]
        facts = await server.call("execute_cell", kernel_id=kernel, code=code, seconds=60)
        assert facts["status"] == "ok"
        assert (await server.call("execute_cell", kernel_id=kernel, code="print(2)"))["status"] == "ok"
        await server.request("tools/list")
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    assert server.impure == []
    assert "SPAM" not in server.errors
    assert len(server.errors) < 10_000


_NESTED = """
outer = display('outer', display_id=True)
for n in range(20_000):
    outer.update(f'outer {n}')
    if n % 4 == 0:
        inner = display(f'inner {n}', display_id=f'inner-{n % 100}')
    inner.update(f'changed {n}')
"""

_STORMS = {
    "displays": "for n in range(60_000): display(n)",
    "one long line": "print('x' * 50_000_000)",
    "prints": "for n in range(1_000_000): print(n)",
    "flushed prints": "for n in range(50_000): print(n, flush=True)",
    "progress": "for n in range(300_000): print('\\r', n, '#' * (n % 60), end='')",
    "clearing": "from IPython.display import clear_output\nfor n in range(20_000): clear_output(wait=True); print(n)",
    "updates": _NESTED,
}


@pytest.mark.alone
@slow
@pytest.mark.timeout(500)
@pytest.mark.case("K22")
@pytest.mark.parametrize("storm", _STORMS)
async def test_a_storm_of_output_keeps_memory_bounded_and_is_counted(
    storm: str, raw_server: StartRaw, record_property: Callable[[str, object], None]
) -> None:
    async with raw_server() as server:
        kernel = (await server.call("start_kernel"))["kernel_id"]
        await server.call("execute_cell", kernel_id=kernel, code="1")
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        arguments = {"kernel_id": kernel, "code": _STORMS[storm], "timeout": 400, "wait": 400}
        request = {"name": "execute_cell", "arguments": arguments}
        work = asyncio.create_task(server.request("tools/call", request, seconds=420))
        peak = await peak_of(process, work)
        result = await work
        facts = result["structuredContent"]
        assert facts["status"] == "ok"
        again = await server.call("execute_cell", kernel_id=kernel, code="print('usable')")
        assert stdout_of(again) == "usable\n"

    record_property("rss_growth_mb", round((peak - before) / MEGABYTE))
    assert len(json.dumps(result)) < 60_000
    assert peak - before < 150 * MEGABYTE
    shown = json.dumps(facts)
    match storm:
        case "displays":
            assert "55,000 of its outputs were not kept" in shown
        case "one long line":
            note = next(note for note in facts["notes"] if "not kept" in note)
            dropped = int(note.split()[0].replace(",", ""))
            assert abs(dropped - (50_000_001 - 11 * MEGABYTE)) < 1000  # an output counts some bytes beside its text
        case "prints" | "flushed prints":
            (output,) = facts["outputs"]
            written = "".join(f"{n}\n" for n in range(1_000_000 if storm == "prints" else 50_000))
            kept = output["text"].splitlines()
            assert kept[0] == "0"
            assert kept[-1] == written.splitlines()[-1]
            head, tail = re.split(r"\n?⟨?\[?…[^\n]*\n?", output["text"], maxsplit=1)
            assert written.startswith(head)
            assert written.rstrip("\n").endswith(tail.rstrip("\n"))
        case "progress":
            assert "299999" in facts["outputs"][-1]["text"]
        case "clearing":
            assert stdout_of(facts) == "19999\n"
        case "updates":
            assert facts["outputs"][0]["text"] == "'outer 19999'"


@pytest.mark.alone
@slow
@pytest.mark.timeout(300)
@pytest.mark.case("L07")
async def test_a_hundred_megabytes_over_fifty_cells_keep_memory_and_replies_bounded(
    raw_server: StartRaw, workspace: Path, record_property: Callable[[str, object], None]
) -> None:
    path = write_notebook(workspace / "a.ipynb", ["print(('x' * 99 + '\\n') * 20_000)"] * 50)
    async with raw_server("--max-notebook-bytes", str(200 * MEGABYTE)) as server:
        kernel = (await server.call("start_kernel"))["kernel_id"]
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        arguments = {"path": "a.ipynb", "kernel_id": kernel, "wait": 200}
        request = {"name": "execute_notebook", "arguments": arguments}
        work = asyncio.create_task(server.request("tools/call", request, seconds=220))
        peak = await peak_of(process, work)
        result = await work
        assert result["structuredContent"]["status"] == "ok"
        assert len(json.dumps(result)) < 60_000
        read = await server.request("tools/call", {"name": "read_notebook", "arguments": {"path": "a.ipynb"}})
        assert len(json.dumps(read)) < 200_000

    record_property("rss_growth_mb", round((peak - before) / MEGABYTE))
    assert all(len(stdout_in(entry)) == 2_000_001 for entry in read_json(path)["cells"])
    assert peak - before < 6 * 100 * MEGABYTE  # the outputs, the document, and the text of the file while it is saved


# Many


@pytest.mark.alone
@slow
@pytest.mark.case("L03")
async def test_eight_kernels_start_at_once_and_the_ninth_is_refused(
    client: Connect, record_property: Callable[[str, object], None]
) -> None:
    async with client(max_kernels=8) as c:
        began = time.monotonic()
        started = await asyncio.gather(*(call(c, "start_kernel", seconds=60) for _ in range(8)))
        took = time.monotonic() - began
        record_property("seconds", round(took, 2))
        message = await refused(c, "start_kernel")

    assert took < 15
    assert message.startswith("LIMIT_REACHED")
    assert all(facts["kernel_id"] in message for facts in started)


@slow
@pytest.mark.case("L11")
async def test_a_server_at_rest_costs_little(
    raw_server: StartRaw, record_property: Callable[[str, object], None]
) -> None:
    """Bounds for a slow machine; the benchmarks compare with a bare server."""
    began = time.monotonic()
    async with raw_server() as server:
        took = time.monotonic() - began
        process = psutil.Process(server.pid)
        await asyncio.sleep(5)  # what is imported after the handshake is there
        used = process.cpu_times()
        await asyncio.sleep(10)
        now = process.cpu_times()
        percent = (now.user + now.system - used.user - used.system) * 10
        resident = process.memory_info().rss / MEGABYTE

    for name, value in (("initialize_seconds", took), ("idle_cpu_percent", percent), ("resident_mb", resident)):
        record_property(name, round(value, 2))
    assert took < 4
    assert percent < 2
    assert resident < 120


# Bombs


@asynccontextmanager
async def unprivileged_server(workspace: Path, state: Path, scratch: Path) -> AsyncIterator[RawServer]:
    """A server of another user, for whom the system counts processes. It keeps the right to read what the tests use."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to become another user")
    rights = "+dac_override,+dac_read_search"
    become = f"setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps {rights} --ambient-caps {rights}"
    python = scratch / "python"
    python.write_text(f'#!/bin/sh\nexec {become} -- {sys.executable} "$@"\n')
    python.chmod(0o755)
    async with RawServer.running(workspace, state, python=str(python)) as server:
        assert psutil.Process(server.pid).uids().real == 65534
        yield server


_LIMIT = """
import os, resource, threading, time, pathlib
tasks = sum(len(os.listdir(f'/proc/{p}/task')) for p in os.listdir('/proc') if p.isdigit()
            and os.path.exists(f'/proc/{p}') and os.stat(f'/proc/{p}').st_uid == os.getuid())
resource.setrlimit(resource.RLIMIT_NPROC, (tasks + 100, tasks + 100))
"""

_FORK_BOMB = (
    _LIMIT
    + """
pathlib.Path('begun').touch()
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError:
        time.sleep(0.001)
"""
)

_THREAD_BOMB = (
    _LIMIT
    + """
pathlib.Path('begun').touch()
while True:
    threading.Thread(target=time.sleep, args=(3600,)).start()
"""
)


@pytest.mark.alone
@slow
@pytest.mark.case("L12")
@pytest.mark.parametrize("bomb", ["forks", "threads"])
async def test_a_bomb_in_a_cell_leaves_the_server_responsive_and_its_kernel_can_be_ended(
    bomb: str,
    workspace: Path,
    state_directory: Path,
    tmp_path: Path,
    process_check: Callable[[], list[psutil.Process]],
    record_property: Callable[[str, object], None],
) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with unprivileged_server(workspace, state_directory, tmp_path) as server:
        started = await server.call("start_kernel")
        other = (await server.call("start_kernel"))["kernel_id"]
        arguments = {
            "kernel_id": started["kernel_id"],
            "code": _FORK_BOMB if bomb == "forks" else _THREAD_BOMB,
            "timeout": 0,
        }
        _, answer = await server.send("tools/call", {"name": "execute_cell", "arguments": arguments})
        await until((workspace / "begun").exists, seconds=20, what="the bomb is lit")
        if bomb == "forks":
            await until(lambda: len(process_check()) > 100, seconds=20, what="it has gone off")
        else:
            assert "can't start new thread" in json.dumps(await asyncio.wait_for(answer, 20))
        slowest = 0.0
        for _ in range(5):
            began = time.monotonic()
            await server.call("read_notebook", path="a.ipynb")
            await server.call("list_kernels")
            slowest = max(slowest, time.monotonic() - began)
        record_property("slowest_seconds", round(slowest, 2))
        assert slowest < 5
        assert stdout_of(await server.call("execute_cell", kernel_id=other, code="print(1)")) == "1\n"
        began = time.monotonic()
        await server.call("stop_kernel", kernel_id=started["kernel_id"])
        record_property("stop_seconds", round(time.monotonic() - began, 2))
        assert await wait_gone([started["pid"]], seconds=1) == []
        # The server, its watchdog and the other kernel.
        await until(lambda: len(process_check()) <= 3, seconds=2, what="the bomb is over")
        server.signal(signal.SIGTERM)
        assert await server.exit_code(seconds=3) == 0


@pytest.mark.case("F16")
async def test_kernels_start_after_the_state_directory_was_removed(
    raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    """Another program tidies up while the server lives. Kernels that live go on, and can be restarted."""
    for name in ("a", "b"):
        write_notebook(workspace / f"{name}.ipynb", ["print(1)"])
    async with raw_server() as server:
        first = await server.call("execute_notebook", path="a.ipynb")
        shutil.rmtree(state_directory)
        again = await server.call("execute_notebook", path="a.ipynb")
        second = await server.call("execute_notebook", path="b.ipynb")
        restarted = await server.call("restart_kernel", kernel_id=first["kernel_id"])
        output = await server.call("execute_notebook_papermill", input_path="a.ipynb")
        server.close_stdin()
        assert await server.exit_code(seconds=5) == 0
    assert [run["status"] for run in (first, again, second, output)] == ["ok"] * 4
    assert restarted["state"] == "idle"
    assert list(state_directory.glob("runtime-*")) == []


@pytest.mark.case("L12")
@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are a matter of Linux")
async def test_a_server_without_descriptors_says_so_and_works_when_there_are_some(
    raw_server: StartRaw, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", ["print(1)"])
    async with raw_server() as server:
        await server.call("list_notebook_files")
        open_now = len(os.listdir(f"/proc/{server.pid}/fd"))
        limits = psutil.Process(server.pid).rlimit(psutil.RLIMIT_NOFILE)
        psutil.Process(server.pid).rlimit(psutil.RLIMIT_NOFILE, (open_now, limits[1]))
        for tool, arguments in (
            ("execute_notebook", {"path": "a.ipynb"}),
            ("start_kernel", {}),
            ("read_notebook", {"path": "a.ipynb"}),
            ("search_notebooks", {"query": "print"}),
        ):
            answer = await server.request("tools/call", {"name": tool, "arguments": arguments})
            assert answer["content"][0]["text"].startswith("LIMIT_REACHED: "), answer
        psutil.Process(server.pid).rlimit(psutil.RLIMIT_NOFILE, limits)
        assert (await server.call("execute_notebook", path="a.ipynb"))["status"] == "ok"
