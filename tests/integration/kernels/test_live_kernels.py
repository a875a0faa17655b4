"""Live kernels through the tools: several at once, interrupts, restarts, status, variables, spares, limits, memory."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fake_kernel
import psutil
import pytest
from conftest import AddKernelspec, Connect, ConnectStdio, StartRaw
from helpers import (
    Json,
    call,
    cell,
    digest,
    facts_of,
    read_json,
    refused,
    stdio_client_of,
    stdout_in,
    stdout_of,
    text_of,
    until,
    wait_gone,
    write_notebook,
)
from mcp import Client

from papermill_mcp.core.kernels import interrupts
from papermill_mcp.utils.digests import revision_of

pytestmark = pytest.mark.kernel


async def start(client: Client, **arguments: Any) -> str:
    """Start a kernel. Returns its id."""
    return str((await call(client, "start_kernel", **arguments))["kernel_id"])


async def running(client: Client, kernel_id: str, code: str) -> str:
    """Have a kernel run code that goes on. Returns the execution id once the code has put something out."""
    begun = await call(client, "execute_cell", kernel_id=kernel_id, code=f"print('on')\n{code}", wait=0)
    execution_id = str(begun["execution_id"])
    async with asyncio.timeout(10):
        while not (await call(client, "get_execution", execution_id=execution_id)).get("outputs"):
            await asyncio.sleep(0.02)
    return execution_id


async def run(client: Client, kernel_id: str, code: str, **arguments: Any) -> dict[str, Any]:
    return await call(client, "execute_cell", kernel_id=kernel_id, code=code, **arguments)


def server_process() -> psutil.Process:
    """The server that this process has started."""
    return next(p for p in psutil.Process().children() if "papermill_mcp.main" in " ".join(p.cmdline()))


# Several at once


@pytest.mark.alone
async def test_four_kernels_that_sleep_a_second_finish_together(client: Connect) -> None:
    """Kernels do not wait for one another."""
    async with client() as c:
        kernels = await asyncio.gather(*(start(c) for _ in range(4)))
        began = time.monotonic()
        results = await asyncio.gather(
            *(run(c, kernel, "import time; time.sleep(1); print('x')") for kernel in kernels)
        )
        assert [stdout_of(result) for result in results] == ["x\n"] * 4
        assert time.monotonic() - began < 2.5  # four seconds if they waited


@pytest.mark.case("L03")
async def test_no_more_kernels_than_the_limit_and_the_message_names_those_there_are(
    client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with client(max_kernels=2) as c:
        first, second = await start(c), await start(c)
        for message in (
            await refused(c, "start_kernel"),
            await refused(c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb"),
        ):
            assert message.startswith("LIMIT_REACHED")
            assert first in message
            assert second in message
        assert [path.name for path in workspace.iterdir()] == ["a.ipynb"]
        await call(c, "stop_kernel", kernel_id=first)
        await start(c)


@pytest.mark.case("L03")
async def test_twenty_requests_at_once_start_no_more_than_the_limit(client: Connect) -> None:
    """Kernels that are starting count, too."""
    async with client(max_kernels=3) as c:
        replies = await asyncio.gather(*(c.call_tool("start_kernel", {}) for _ in range(20)))
        assert sum(not reply.is_error for reply in replies) == 3
        assert all("LIMIT_REACHED" in text_of(reply) for reply in replies if reply.is_error)


@pytest.mark.case("L09")
async def test_a_queue_that_is_full_refuses_more_and_loses_none(client: Connect) -> None:
    """200 requests at once: one runs, 64 wait, and the rest is refused with a hint."""
    async with client() as c:
        kernel = await start(c)
        first = await running(c, kernel, "import time; time.sleep(60)")
        request = {"kernel_id": kernel, "code": "n = globals().get('n', 0) + 1", "wait": 0}
        replies = await asyncio.gather(*(c.call_tool("execute_cell", request) for _ in range(200)))
        refusals = [text_of(reply) for reply in replies if reply.is_error]
        assert len(refusals) == 200 - 64
        assert all(text.startswith("LIMIT_REACHED") and "get_execution" in text for text in refusals)
        await call(c, "cancel_execution", execution_id=first)
        assert stdout_of(await run(c, kernel, "print(n)")) == "64\n"


async def test_a_flood_of_cancellations_leaves_the_server_responsive(raw_server: StartRaw) -> None:
    """Unknown and malformed ones are ignored, one of our own ends only its own request (J10, J11)."""
    async with raw_server() as server:
        kernel = (await server.call("start_kernel"))["kernel_id"]
        slow = {"name": "execute_cell", "arguments": {"kernel_id": kernel, "code": "import time; time.sleep(60)"}}
        wanted = {"name": "execute_cell", "arguments": {"kernel_id": kernel, "code": "print('kept')"}}
        doomed, _ = await server.send("tools/call", slow)
        _, kept = await server.send("tools/call", wanted)
        for number in range(10_000):
            await server.notify("notifications/cancelled", {"requestId": f"no-{number}"})
        malformed: list[dict[str, Any]] = [{}, {"requestId": None}, {"requestId": []}]
        for wrong in malformed:
            await server.notify("notifications/cancelled", wrong)
        began = time.monotonic()
        await server.request("ping", {})
        assert time.monotonic() - began < 5
        await server.notify("notifications/cancelled", {"requestId": doomed})
        async with asyncio.timeout(15):
            answer = await kept
        assert "kept" in str(answer)


@pytest.mark.case("K02")
async def test_a_cell_that_runs_out_of_memory_is_an_error_and_the_kernel_lives(client: Connect) -> None:
    """The limit is that of the kernel's process (K02)."""
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))")
        failed = await run(c, kernel, "x = bytearray(4 * 10**9)")
        assert (failed["status"], failed["error"]["ename"]) == ("error", "MemoryError")
        assert stdout_of(await run(c, kernel, "print('alive')")) == "alive\n"


async def test_all_kernels_are_stopped_and_no_other(
    client: Connect, process_check: Callable[[], list[psutil.Process]]
) -> None:
    """An ipykernel that this server did not start lives on."""
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ipykernel_launcher", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with client() as c:
            kernels = [await start(c), await start(c)]
            await running(c, kernels[1], "while True: pass")
            stopped = await call(c, "cleanup_all_kernels")
            assert sorted(stopped["stopped"]) == sorted(kernels)
            assert stopped["stopped_count"] == 2
            assert stopped["failed"] == []
            assert (await call(c, "list_kernels"))["active"] == []
        assert stranger.returncode is None
        assert stranger.pid in {process.pid for process in process_check()}
    finally:
        stranger.kill()
        await stranger.wait()


# Interrupt and restart


async def test_an_interrupt_tells_that_it_worked_and_variables_stay(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, "x = 41")
        execution = await running(c, kernel, "import time\ntime.sleep(60)")
        reported = await call(c, "interrupt_kernel", kernel_id=kernel)
        assert reported["result"] == "interrupted"
        assert (await call(c, "get_execution", execution_id=execution))["status"] == "interrupted"
        assert stdout_of(await run(c, kernel, "print(x + 1)")) == "42\n"


async def test_an_interrupt_of_an_idle_kernel_says_idle(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        assert (await call(c, "interrupt_kernel", kernel_id=kernel))["result"] == "idle"


@pytest.mark.case("K04")
@pytest.mark.parametrize(
    ("code", "patience"),
    [
        # ipykernel installs its handler anew for each cell, so the cell itself must ignore the signal.
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", 1.0),
        pytest.param(
            "import time\nwhile True:\n    try: time.sleep(3600)\n    except BaseException: pass",
            interrupts.INTERRUPT_PATIENCE,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ignored", "swallowed"],
)
async def test_a_kernel_that_ignores_interrupts_is_told_as_such_and_a_restart_helps(
    code: str, patience: float, client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller knows a second after the patience of 5 s, and within 3 s more the kernel is new."""
    monkeypatch.setattr(interrupts, "INTERRUPT_PATIENCE", patience)
    async with client() as c:
        kernel = await start(c)
        execution = await running(c, kernel, code)
        began = time.monotonic()
        reported = await call(c, "interrupt_kernel", kernel_id=kernel)
        assert reported["result"] == "still_running"
        assert "restart_kernel" in reported["advice"]
        assert time.monotonic() - began < max(patience, 2) + 1
        assert "ignores interrupts" in (await call(c, "get_kernel_status", kernel_id=kernel))["note"]
        seen = await call(c, "get_execution", execution_id=execution)
        assert any("ignores interrupts" in note for note in seen["notes"])
        began = time.monotonic()
        restarted = await call(c, "restart_kernel", kernel_id=kernel)
        assert time.monotonic() - began < 3
        assert restarted["kernel_id"] == kernel
        assert stdout_of(await run(c, kernel, "print('new')")) == "new\n"


@pytest.mark.case("K13")
async def test_a_restart_aborts_what_runs_and_what_waits_and_forgets_variables(client: Connect) -> None:
    """What is queued must not run in the new process."""
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, "x = 1")
        first = await running(c, kernel, "import time; time.sleep(60)")
        queued = await call(c, "execute_cell", kernel_id=kernel, code="open('ran', 'w')", wait=0)
        before = (await call(c, "get_kernel_status", kernel_id=kernel))["pid"]
        restarted = await call(c, "restart_kernel", kernel_id=kernel)
        assert restarted["aborted"] == 2
        assert restarted["pid"] != before
        for execution in (first, queued["execution_id"]):
            assert (await call(c, "get_execution", execution_id=execution))["status"] == "aborted"
        result = await run(c, kernel, "import os; print(os.path.exists('ran')); x")
        assert stdout_of(result) == "False\n"
        assert result["error"]["ename"] == "NameError"
        assert result["execution_count"] == 1


@pytest.mark.case("K01")
async def test_a_dead_kernel_tells_how_it_ended_and_can_be_restarted_under_its_id(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "a.ipynb", ["1"])
    before = digest(path)
    async with client() as c:
        kernel = await start(c)
        died = await run(
            c, kernel, "print('last', flush=True)\nimport os, time; time.sleep(0.3)\nos.kill(os.getpid(), 9)"
        )
        assert died["status"] == "died", died
        assert "SIGKILL" in died["error"]["evalue"]
        assert stdout_of(died) == "last\n"
        status = await call(c, "get_kernel_status", kernel_id=kernel)
        assert (status["state"], status["exit_code"]) == ("dead", -9)
        for message in (
            await refused(c, "execute_cell", kernel_id=kernel, code="1"),
            await refused(c, "execute_notebook", path="a.ipynb", kernel_id=kernel),
        ):
            assert message.startswith("KERNEL_DIED")
            assert "signal 9" in message
            assert "restart_kernel" in message
        assert digest(path) == before
        assert "· dead ·" in text_of(await c.call_tool("list_kernels", {}))
        await call(c, "restart_kernel", kernel_id=kernel)
        assert stdout_of(await run(c, kernel, "print('back')")) == "back\n"


@pytest.mark.case("K13")
async def test_stopping_and_restarting_in_any_order_hangs_nothing(client: Connect) -> None:
    """Restart while a cell runs, two restarts at once, stop while restarting, restart after stop."""
    async with client() as c:
        kernel = await start(c)
        await running(c, kernel, "while True: pass")
        await asyncio.gather(*(call(c, "restart_kernel", kernel_id=kernel) for _ in range(2)))
        assert stdout_of(await run(c, kernel, "print(1)")) == "1\n"
        restart = asyncio.create_task(c.call_tool("restart_kernel", {"kernel_id": kernel}))
        await asyncio.sleep(0)
        await call(c, "stop_kernel", kernel_id=kernel)
        async with asyncio.timeout(10):
            await restart  # either it came first, or it says that the kernel was stopped
        assert (await refused(c, "restart_kernel", kernel_id=kernel)).startswith("KERNEL_NOT_FOUND")


# Status and late output


async def test_the_status_shows_what_runs_and_what_waits(client: Connect, workspace: Path) -> None:
    async with client() as c:
        kernel = await start(c)
        execution = await running(c, kernel, "while True: pass")
        await call(c, "execute_cell", kernel_id=kernel, code="1", wait=0)
        status = await call(c, "get_kernel_status", kernel_id=kernel)
        assert status["state"] == "busy"
        assert status["running_execution"] == execution
        assert status["queue_length"] == 1
        assert status["memory_bytes"] > 10_000_000
        assert status["cpu_percent"] > 10  # a busy loop
        assert psutil.pid_exists(status["pid"])
        await call(c, "interrupt_kernel", kernel_id=kernel)


async def test_output_after_the_end_of_a_cell_is_shown_with_the_next_look(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        done = await run(
            c,
            kernel,
            "import asyncio\nasync def later():\n    await asyncio.sleep(0.2)\n    print('late')\n"
            "task = asyncio.ensure_future(later())",
        )
        assert done["status"] == "ok"
        assert "outputs" not in done

        async def seen() -> dict[str, Any]:
            return await call(c, "get_execution", execution_id=done["execution_id"], since=done["cursor"])

        async with asyncio.timeout(5):
            while not (await seen()).get("outputs"):
                await asyncio.sleep(0.02)
        assert stdout_of(await seen()) == "late\n"


# Variables


async def test_variables_are_shown_with_type_and_extent_and_nothing_is_left_behind(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, "import numpy as np\nimport pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})\nn = 3")
        await run(c, kernel, "names = ['x'] * 1000\n_hidden = 1\ngrid = np.zeros((2, 5))")
        shown = await call(c, "inspect_variables", kernel_id=kernel)
        rows = {row["name"]: row for row in shown["variables"]}
        assert set(rows) == {"grid", "n", "names", "table"}
        assert (rows["grid"]["type"], rows["grid"]["shape"]) == ("ndarray", [2, 5])
        assert rows["table"]["shape"] == [2, 1]
        assert rows["names"]["size"] == 1000
        assert len(rows["names"]["preview"]) < 200
        assert rows["n"]["preview"] == "3"
        after = await run(c, kernel, "print(sorted(k for k in globals() if not k.startswith('_')), len(In))")
        assert after["execution_count"] == 3
        assert (
            stdout_of(after)
            == str(
                sorted(["In", "Out", "exit", "get_ipython", "grid", "n", "names", "np", "open", "pd", "quit", "table"])
            )
            + " 4\n"
        )


_TABLE = """
import pandas as pd, numpy as np
from collections import OrderedDict
from os.path import join
sales = pd.DataFrame({"month": ["Jan", "Feb|", None], "amount": [1.5, 2.5, 3.5]})
sales["when"] = pd.to_datetime(["2026-01-02"] * 3)
wide = pd.DataFrame(np.zeros((3, 100)))
empty = pd.DataFrame()
def own(): pass
class Own: pass
settings = {"rate": 0.25, "names": ["a", "b"]}
"""


async def test_a_table_is_shown_by_its_columns(client: Connect) -> None:
    """With types and missing values; in depth also its first rows. Imported names are left out."""
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, _TABLE)
        shown = await call(c, "inspect_variables", kernel_id=kernel)
        deep = await c.call_tool("inspect_variables", {"kernel_id": kernel, "name": "sales"})
        settings = await call(c, "inspect_variables", kernel_id=kernel, name="settings")
        wrong = await refused(c, "inspect_variables", kernel_id=kernel, name="sale")

    rows = {row["name"]: row for row in shown["variables"]}
    assert set(rows) == {"sales", "wide", "empty", "own", "Own", "settings"}
    preview = rows["sales"]["preview"]
    assert re.match(
        r"month \w+ \(1 missing\); amount float64; when datetime64\[\w+\]\. first row: Jan, 1\.5, ", preview
    )
    assert "88 more columns" in rows["wide"]["preview"]
    assert rows["empty"]["shape"] == [0, 0]
    assert "\n| month | amount | when |\n|---|---|---|\n| Jan | 1.5 | 2026-01-02" in text_of(deep)
    assert "Feb/" in text_of(deep)
    assert settings["variables"][0]["preview"] == "{'names': ['a', 'b'], 'rate': 0.25}"
    assert "did you mean 'sales'" in wrong


async def test_the_frames_of_the_last_failure_are_shown(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        none = await refused(c, "inspect_variables", kernel_id=kernel, frame=0)
        await run(c, kernel, "import json\ndef parse(text, depth=2):\n    half = text[:3]\n    return json.loads(half)")
        await run(c, kernel, "data = '[1, 2'\nparse(data)")
        inner = await call(c, "inspect_variables", kernel_id=kernel, frame=0)
        every = [await call(c, "inspect_variables", kernel_id=kernel, frame=number) for number in range(5)]
        beyond = await refused(c, "inspect_variables", kernel_id=kernel, frame=50)
        half = await call(c, "inspect_variables", kernel_id=kernel, frame=3, name="half")

    assert "no code has failed" in none
    assert "json" in inner["frame"]
    own = next(facts for facts in every if facts["frame"].startswith("parse, line 4"))
    assert {row["name"]: row["preview"] for row in own["variables"]} == {
        "text": "'[1, 2'",
        "depth": "2",
        "half": "'[1,'",
    }
    outer = next(facts for facts in every if facts["frame"].startswith("<module>"))
    assert {"data", "parse"} <= {row["name"] for row in outer["variables"]}
    assert "has no frame 50" in beyond
    assert half["variables"][0]["preview"] == "'[1,'"


async def test_variables_can_be_seen_while_a_cell_runs_where_kernels_have_subshells(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        execution = await running(c, kernel, "import time\nfor step in range(1000):\n    time.sleep(0.05)")
        began = time.monotonic()
        if int(version("ipykernel").partition(".")[0]) < 7:  # without subshells
            message = await refused(c, "inspect_variables", kernel_id=kernel, pattern="st*")
            assert message.startswith("BUSY")
        else:
            shown = await call(c, "inspect_variables", kernel_id=kernel, pattern="st*")
            assert [row["name"] for row in shown["variables"]] == ["step"]
        assert time.monotonic() - began < 2
        assert (await call(c, "get_execution", execution_id=execution))["status"] == "running"
        await call(c, "cancel_execution", execution_id=execution)


async def test_a_value_whose_repr_raises_does_not_hide_the_others(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        await run(c, kernel, "class Bad:\n    def __repr__(self): raise ValueError('no')\nbad = Bad()\ngood = 1")
        rows = (await call(c, "inspect_variables", kernel_id=kernel))["variables"]
        assert {row["name"] for row in rows} == {"Bad", "bad", "good"}


async def test_a_kernel_of_another_language_says_that_it_cannot_be_asked(client: Connect, bash_kernelspec: str) -> None:
    async with client() as c:
        kernel = await start(c, kernel_name=bash_kernelspec)
        message = await refused(c, "inspect_variables", kernel_id=kernel)
        assert message.startswith("INVALID_ARGUMENT")
        assert "bash" in message


# Spares and idle kernels


async def test_a_spare_kernel_is_used_in_the_right_directory_and_replaced(
    client: Connect, workspace: Path, process_check: Callable[[], list[psutil.Process]]
) -> None:
    """The kernel that answers was there before it was asked for."""
    (workspace / "sub").mkdir()

    def kernels() -> set[int]:
        return {process.pid for process in process_check() if "ipykernel_launcher" in " ".join(process.cmdline())}

    async with client(prewarm_kernels=1) as c:
        await call(c, "list_kernels")
        await until(lambda: bool(kernels()), seconds=10, what="a spare kernel was started")
        before = kernels()
        async with asyncio.timeout(20):
            while True:  # the process is there before it is ready
                started = await call(c, "start_kernel", cwd="sub")
                if started["pid"] in before:
                    break
                await call(c, "stop_kernel", kernel_id=started["kernel_id"])
        where = await run(c, started["kernel_id"], "import os; print(os.getcwd())")
        assert stdout_of(where) == f"{workspace / 'sub'}\n"
        assert where["execution_count"] == 1
        await until(lambda: bool(kernels() - before), seconds=10, what="another spare kernel was started")


async def test_a_notebook_whose_kernel_was_stopped_gets_a_new_one_and_is_told(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["x = 1", "print(x)"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb")
        await call(c, "stop_kernel", kernel_id=first["kernel_id"])
        second = await call(c, "execute_notebook_cell", path="a.ipynb", index=1)
        assert second["kernel_id"] != first["kernel_id"]
        assert second["error"]["ename"] == "NameError"
        assert any("earlier variables are gone" in note for note in second["notes"])


# A kernel named by its notebook


async def test_a_kernel_is_named_by_the_notebook_that_uses_it(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["x = 41"])
    async with client() as c:
        kernel_id = (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"]
        ran = await call(c, "execute_cell", path=str(workspace / "a.ipynb"), code="print(x + 1)")
        assert (ran["kernel_id"], stdout_of(ran)) == (kernel_id, "42\n")
        assert not ran.get("notes")
        variables = await call(c, "inspect_variables", notebook_path="a.ipynb")
        assert [one["name"] for one in variables["variables"]] == ["x"]
        for tool in ("get_kernel_status", "interrupt_kernel", "restart_kernel", "stop_kernel"):
            assert (await call(c, tool, path="a.ipynb"))["kernel_id"] == kernel_id
        gone = await refused(c, "get_kernel_status", path="a.ipynb")
        assert gone.startswith("KERNEL_NOT_FOUND: ")
        assert "was stopped" in gone


async def test_code_starts_the_kernel_of_its_notebook_and_says_so(client: Connect, workspace: Path) -> None:
    """Two calls at once start one kernel."""
    write_notebook(workspace / "a.ipynb", ["x = 41"])
    async with client() as c:
        one, two = await asyncio.gather(*(call(c, "execute_cell", path="a.ipynb", code=f"y{n} = {n}") for n in (1, 2)))
        assert one["kernel_id"] == two["kernel_id"]
        notes = [*one.get("notes", ()), *two.get("notes", ())]
        assert notes == ["a kernel was started for a.ipynb; no cell of it has run there"]
        assert (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"] == one["kernel_id"]


async def test_a_kernel_that_is_named_badly_is_refused(client: Connect, workspace: Path) -> None:
    for name in ("a.ipynb", "b.ipynb"):
        write_notebook(workspace / name, ["x = 41"])
    async with client() as c:
        kernel_id = (await call(c, "execute_cell", path="a.ipynb", code="1"))["kernel_id"]
        await call(c, "execute_cell", path="b.ipynb", code="1")
        for tool in ("get_kernel_status", "inspect_variables", "interrupt_kernel", "restart_kernel", "stop_kernel"):
            assert (await refused(c, tool)).startswith("INVALID_ARGUMENT: ")
        for tool, more in (("stop_kernel", {}), ("execute_cell", {"code": "1"})):
            message = await refused(c, tool, kernel_id=kernel_id, path="b.ipynb", **more)
            assert message.startswith("INVALID_ARGUMENT: ")
            assert kernel_id in message
        assert (await refused(c, "execute_cell", code="1")).startswith("INVALID_ARGUMENT: ")
        python = await refused(c, "execute_cell", kernel_id=kernel_id, python=sys.executable, code="1")
        assert python.startswith("INVALID_ARGUMENT: ")
        write_notebook(workspace / "c.ipynb", ["1"])
        message = await refused(c, "stop_kernel", path="c.ipynb")
        assert message.startswith("KERNEL_NOT_FOUND: ")
        assert "execute_notebook" in message
        assert (await refused(c, "stop_kernel", path="none.ipynb")).startswith("NOT_FOUND: ")


# Notebooks in place


async def test_one_cell_of_a_notebook_is_run_and_saved(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", [cell("# Text", "markdown"), "print('one')", "print('two')"])
    async with client() as c:
        done = await call(c, "execute_notebook_cell", path="a.ipynb", cell_id="c2")
        assert done["status"] == "ok"
        assert stdout_of(done) == "two\n"
        saved = read_json(path)["cells"]
        assert stdout_in(saved[2]) == "two\n"
        assert saved[1]["outputs"] == []
        for wrong in ({}, {"index": 1, "cell_id": "c1"}, {"index": 0}):
            assert (await refused(c, "execute_notebook_cell", path="a.ipynb", **wrong)).startswith("INVALID_ARGUMENT")
        assert (await refused(c, "execute_notebook_cell", path="a.ipynb", index=9)).startswith("CELL_NOT_FOUND")


@pytest.mark.case("K15")
async def test_a_run_is_taken_up_again_from_the_cell_that_failed(client: Connect, workspace: Path) -> None:
    """The cells before it are not run again: their variables are still there."""
    sources: list[Json | str] = ["open('ran', 'a').write('x')\nn = 2", "n / zero", cell("# T", "markdown"), "print(n)"]
    path = write_notebook(workspace / "a.ipynb", sources)
    before = read_json(path)["cells"]
    async with client() as c:
        failed = await call(c, "execute_notebook", path="a.ipynb")
        assert failed["status"] == "error"
        assert failed["failed_cell"]["index"] == 1
        assert failed["cells_done"] == 2
        saved = read_json(path)["cells"]
        assert saved[1]["outputs"][0]["ename"] == "NameError"
        assert saved[2:] == before[2:]
        await run(c, failed["kernel_id"], "zero = 1")
        again = await call(c, "execute_notebook", path="a.ipynb", cells="1-")
        assert again["status"] == "ok"
        assert (workspace / "ran").read_text() == "x"
        assert stdout_in(read_json(path)["cells"][3]) == "2\n"


@pytest.mark.slow
async def test_the_second_run_of_a_notebook_estimates_the_time_left(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["import time; time.sleep(0.5)", "time.sleep(1.6)"])
    async with client() as c:
        messages: list[str] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            messages.append(message or "")

        await c.call_tool("execute_notebook", {"path": "a.ipynb"}, progress_callback=note)
        assert messages
        assert not any("left" in message for message in messages)
        messages.clear()
        await c.call_tool("execute_notebook", {"path": "a.ipynb"}, progress_callback=note)
        assert any("left" in message for message in messages), messages


async def test_a_cell_that_was_seen_while_it_ran_is_shown_with_its_rest_only(client: Connect, workspace: Path) -> None:
    """The cursor holds over the end of the cell; the revision is that of the file in between."""
    code = (
        "import pathlib, time\nfor n in range(12):\n    print('tick', n, flush=True)\n"
        "    while n == 5 and not pathlib.Path('go').exists(): time.sleep(0.01)"
    )
    path = write_notebook(workspace / "a.ipynb", [code, "print('next')"])
    async with client() as c:
        begun = await call(c, "execute_notebook", path="a.ipynb", wait=0)
        execution = {"execution_id": begun["execution_id"]}
        async with asyncio.timeout(20):
            while "tick 5" not in str((part := await call(c, "get_execution", **execution)).get("results")):
                await asyncio.sleep(0.02)
        seen = part["results"][0]["outputs"][0]["text"]
        assert part["status"] == "running"
        assert "tick 0" in seen
        (workspace / "go").touch()
        rest = await call(c, "get_execution", **execution, since=part["cursor"], wait=20, seconds=30)
        reported = rest["results"][0]["outputs"][0]["text"]
        assert (seen + "\n" + reported).split() == " ".join(f"tick {n}" for n in range(12)).split()
        assert [row["index"] for row in rest["results"]] == [0, 1]
        assert rest["revision"] == revision_of(path.read_bytes())


async def test_an_empty_selection_runs_nothing(client: Connect, workspace: Path) -> None:
    """It is not taken for all cells."""
    write_notebook(workspace / "a.ipynb", ["open('ran', 'w')"])
    async with client() as c:
        assert (await refused(c, "execute_notebook", path="a.ipynb", cells=" ")).startswith("INVALID_ARGUMENT")
        assert not (workspace / "ran").exists()


async def test_the_help_of_a_name_is_shown(client: Connect) -> None:
    """What Jupyter shows in its pager comes with the reply."""
    async with client() as c:
        kernel = await start(c)
        shown = await run(c, kernel, "len?")
        assert "number of items" in shown["outputs"][0]["text"]


async def test_a_notebook_that_is_being_run_is_not_run_twice(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["import time; time.sleep(30)"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb", wait=0)
        message = await refused(c, "execute_notebook", path="a.ipynb")
        assert message.startswith("BUSY")
        assert first["execution_id"] in message
        ended = await call(c, "cancel_execution", execution_id=first["execution_id"])
        assert ended["ended"] is True
        assert ended["status"] == "interrupted"


# Executions across server processes


async def test_executions_of_an_earlier_server_are_listed_and_a_cut_off_one_is_marked(
    stdio_client: ConnectStdio, workspace: Path, state_directory: Path
) -> None:
    """After kill -9 the next server says how far the run had come; its output on disk is whole."""
    write_notebook(workspace / "a.ipynb", ["print('first')", "import time; time.sleep(60)"])
    async with stdio_client_of(workspace, state_directory) as c:
        ok = await call(c, "execute_notebook", path="a.ipynb", cells="0")
        cut = await call(c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb", wait=0)
        output = workspace / "out.ipynb"
        await until(lambda: output.exists() and "first\\n" in output.read_text(), seconds=20, what="the first cell")
        async with asyncio.timeout(20):  # until its record says where it is
            while (await call(c, "list_executions"))["executions"][0].get("at_cell") != 1:
                await asyncio.sleep(0.05)
        server = server_process()
        os.kill(server.pid, signal.SIGKILL)
        assert await wait_gone([server.pid], seconds=5) == []
    async with stdio_client() as c:
        rows = (await call(c, "list_executions"))["executions"]
        assert [row["execution_id"] for row in rows] == [cut["execution_id"], ok["execution_id"]]
        assert rows[0]["status"] == "aborted"
        assert rows[0]["cut_off"] is True
        assert rows[0]["at_cell"] == 1
        assert rows[1]["status"] == "ok"
        assert "cut_off" not in rows[1]
        assert [r["execution_id"] for r in (await call(c, "list_executions", status="ok"))["executions"]] == [
            ok["execution_id"]
        ]
        seen = await call(c, "get_execution", execution_id=cut["execution_id"])
        assert any("cut off" in note for note in seen["notes"])
        assert stdout_in(read_json(workspace / "out.ipynb")["cells"][0]) == "first\n"


@pytest.mark.case("K21", "J16")
async def test_a_repeated_request_with_the_same_key_runs_once_also_in_the_next_server(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    """Clients repeat requests whose answer they did not get. The side effect happens once."""
    write_notebook(workspace / "a.ipynb", ["with open('count', 'a') as f: f.write('x')\nimport time; time.sleep(0.3)"])
    request = {"input_path": "a.ipynb", "output_path": "out.ipynb", "idempotency_key": "once"}
    async with stdio_client() as c:
        first, second = await asyncio.gather(*(call(c, "execute_notebook_papermill", **request) for _ in range(2)))
        third = await call(c, "execute_notebook_papermill", **request)
        assert first["execution_id"] == second["execution_id"] == third["execution_id"]
        assert third["status"] == "ok"
        assert any("nothing was run again" in note for note in third["notes"])
        assert (await refused(c, "execute_notebook", path="a.ipynb", idempotency_key="once")).startswith("INVALID_ARG")
        other_values = request | {"output_path": "other.ipynb"}
        assert "another request" in await refused(c, "execute_notebook_papermill", **other_values)
    async with stdio_client() as c:
        later = await call(c, "execute_notebook_papermill", **request)
        assert (later["execution_id"], later["status"]) == (first["execution_id"], "ok")
        assert later["output_path"] == "out.ipynb"
        other = await call(c, "execute_notebook_papermill", **(request | {"idempotency_key": "2", "overwrite": True}))
        assert other["execution_id"] != first["execution_id"]
    assert (workspace / "count").read_text() == "xx"


async def test_a_key_of_a_request_that_could_not_begin_is_free_again(client: Connect, workspace: Path) -> None:
    async with client() as c:
        wrong = {"path": "a.ipynb", "idempotency_key": "k"}
        assert (await refused(c, "execute_notebook", **wrong)).startswith("NOT_FOUND")
        write_notebook(workspace / "a.ipynb", ["1"])
        assert (await call(c, "execute_notebook", **wrong))["status"] == "ok"


async def test_a_server_whose_state_directory_cannot_be_used_works_without_memory(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    async with client(state_directory=blocked / "state") as c:
        kernel = await start(c)
        ran = await run(c, kernel, "print(1)")
        assert stdout_of(ran) == "1\n"
        listed = (await call(c, "list_executions"))["executions"]
        assert [row["execution_id"] for row in listed] == [ran["execution_id"]]


# Other languages


async def test_a_kernel_that_dies_of_interrupts_says_so_and_restarts(client: Connect, deno_kernelspec: str) -> None:
    async with client() as c:
        kernel = await start(c, kernel_name=deno_kernelspec)
        answer = await run(c, kernel, "const x: number = 20 + 1; x * 2")
        assert answer["outputs"][0]["text"] == "42"
        failed = await run(c, kernel, "throw new Error('boom')")
        assert (failed["status"], failed["error"]["evalue"]) == ("error", "boom")
        died = await run(c, kernel, "await new Promise(done => setTimeout(done, 30000))", timeout=0.5)
        assert died["status"] == "died", died
        assert "of the interrupt" in died["error"]["evalue"]
        await call(c, "restart_kernel", kernel_id=kernel)
        assert (await run(c, kernel, "1 + 1"))["outputs"][0]["text"] == "2"


@pytest.mark.case("O05")
async def test_output_behind_the_end_of_the_code_is_in_the_reply_and_in_the_file(
    client: Connect, workspace: Path, kernelspec: AddKernelspec
) -> None:
    command = [sys.executable, str(Path(fake_kernel.__file__)), "{connection_file}", "output-last"]
    name = kernelspec("late", command)
    path = write_notebook(workspace / "a.ipynb", ["first", "last"], kernel=name)
    async with client() as c:
        kernel = await start(c, kernel_name=name)
        for number in range(5):
            assert stdout_of(await run(c, kernel, f"code {number}")) == f"code {number}"
        await call(c, "execute_notebook", path="a.ipynb")
        await call(c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb")

    for saved in (path, workspace / "out.ipynb"):
        assert [stdout_in(entry) for entry in read_json(saved)["cells"]] == ["first", "last"]


@pytest.mark.slow
@pytest.mark.case("O05")
async def test_each_result_of_deno_is_in_its_reply(client: Connect, deno_kernelspec: str) -> None:
    """Deno 2.9 sends some of its results after `idle`."""
    async with client() as c:
        kernel = await start(c, kernel_name=deno_kernelspec)
        for number in range(150):
            assert (await run(c, kernel, f"{number} + 1"))["outputs"][0]["text"] == str(number + 1)


async def test_a_bash_notebook_runs_with_parameters(client: Connect, workspace: Path, bash_kernelspec: str) -> None:
    """Papermill translates for bash, but cannot inspect it: the reply says that names were not checked."""
    write_notebook(
        workspace / "b.ipynb",
        [cell("name=world", tags=["parameters"]), 'echo "hello $name"'],
        kernel=bash_kernelspec,
        language="bash",
    )
    async with client() as c:
        done = await call(c, "execute_notebook_papermill", input_path="b.ipynb", parameters={"name": "moon"})
        assert done["status"] == "ok"
        assert "hello moon" in str(done["results"])
        assert any("not checked" in note for note in done["notes"])


async def test_a_language_without_translator_is_refused_before_anything_runs(
    client: Connect, workspace: Path, deno_kernelspec: str
) -> None:
    write_notebook(
        workspace / "d.ipynb", [cell("let n = 1", tags=["parameters"])], kernel=deno_kernelspec, language="typescript"
    )
    async with client() as c:
        message = await refused(c, "execute_notebook_papermill", input_path="d.ipynb", parameters={"n": 2})
        assert message.startswith("INVALID_PARAMETERS")
        assert "cannot write parameters in 'typescript'" in message
        assert "Nothing was run." in message
        assert not (workspace / "outputs").exists() or not list((workspace / "outputs").iterdir())


# Code


async def test_code_that_raises_is_a_result_and_no_error_of_the_tool(client: Connect, workspace: Path) -> None:
    async with client() as c:
        kernel_id = (await call(c, "start_kernel"))["kernel_id"]
        for code, name in (
            ("1/0", "ZeroDivisionError"),
            ("def f(:", "SyntaxError"),
            ("raise SystemExit(3)", "SystemExit"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("raise MemoryError", "MemoryError"),
            ("def f(): f()\nf()", "RecursionError"),
            ("input()", "StdinNotImplementedError"),
            ("raise type('E' * 10_000, (Exception,), {})('v' * 100_000)", "E" * 100),
        ):
            result = await c.call_tool("execute_cell", {"kernel_id": kernel_id, "code": code})
            facts = facts_of(result)
            assert facts["status"] == "error", code
            assert facts["error"]["ename"].startswith(name)
            assert name in text_of(result)
            assert len(text_of(result)) < 20_000
        facts = await call(c, "execute_cell", kernel_id=kernel_id, code="print('fine')")
        assert stdout_of(facts) == "fine\n"


@pytest.mark.case("K03")
async def test_code_that_runs_over_its_time_is_told_with_its_output(client: Connect) -> None:
    async with client(execution_timeout=0.5) as c:
        kernel_id = (await call(c, "start_kernel"))["kernel_id"]
        for given in ({}, {"timeout": 0.3}):
            began = time.monotonic()
            facts = await call(
                c,
                "execute_cell",
                kernel_id=kernel_id,
                code="print('so far', flush=True)\nwhile True: pass",
                **given,
            )
            assert time.monotonic() - began < 2.5
            assert facts["status"] == "timeout"
            assert stdout_of(facts) == "so far\n"
        assert stdout_of(await call(c, "execute_cell", kernel_id=kernel_id, code="print(1)")) == "1\n"


async def test_output_without_end_is_cut_with_exact_counts_and_the_kernel_goes_on(client: Connect) -> None:
    async with client(max_output_chars=1000) as c:
        kernel_id = (await call(c, "start_kernel"))["kernel_id"]
        result = await c.call_tool(
            "execute_cell", {"kernel_id": kernel_id, "code": "for i in range(20_000): print('x' * 49)"}
        )

    facts = facts_of(result)
    (output,) = facts["outputs"]
    assert facts["status"] == "ok"
    assert len(text_of(result)) < 2500
    assert 1_000_000 - output["omitted_chars"] == output["text"].count("x") + output["text"].count("x\n")


# Much output, many kernels


@pytest.mark.alone
@pytest.mark.case("K22")
async def test_ten_megabytes_of_prints_leave_the_server_responsive(client: Connect) -> None:
    async with client() as c:
        kernel = await start(c)
        code = "for i in range(200_000):\n    print(f'{i:049d}')"
        work = asyncio.create_task(run(c, kernel, code, seconds=60))
        slowest = 0.0
        while not work.done():
            began = time.monotonic()
            await call(c, "get_kernel_status", kernel_id=kernel)
            slowest = max(slowest, time.monotonic() - began)
        done = await work
        assert done["status"] == "ok"
        shown = done["outputs"][0]
        assert shown["text"].startswith("0" * 49)
        assert f"{199_999:049d}" in shown["text"]
        assert shown["omitted_chars"] > 9_900_000
        assert slowest < 1.5  # the status itself takes a tenth of a second


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.case("K22")
async def test_a_hundred_megabytes_of_prints_keep_memory_bounded(stdio_client: ConnectStdio) -> None:
    """10 MiB of a cell are kept, and what is left out is counted."""
    async with stdio_client() as c:
        kernel = await start(c)
        server = server_process()
        before = server.memory_info().rss
        done = await run(c, kernel, "for i in range(100_000):\n    print('x' * 999)", seconds=100, timeout=90, wait=90)
        assert done["status"] == "ok"
        assert server.memory_info().rss - before < 80_000_000
        dropped = 100_000_000 - 11 * 1024 * 1024  # the head and the tail that are kept
        note = next(note for note in done["notes"] if "not kept" in note)
        assert abs(int(note.split()[0].replace(",", "")) - dropped) < 2000


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.case("L04")
async def test_two_hundred_kernels_leave_nothing_behind(
    stdio_client: ConnectStdio, state_directory: Path, record_property: Callable[[str, object], None]
) -> None:
    """File descriptors, threads, processes and connection files are back where they were, and memory stays flat."""
    async with stdio_client() as c:

        async def cycles(number: int) -> None:
            for _ in range(number):
                await call(c, "stop_kernel", kernel_id=await start(c))

        server = server_process()
        await cycles(50)  # what is made once
        before = server.num_fds(), server.num_threads(), server.memory_info().rss
        await cycles(150)
        growth = (server.memory_info().rss - before[2]) / 150 / 1024
        record_property("rss_growth_kb_per_cycle", round(growth, 1))
        assert server.num_fds() <= before[0] + 2
        assert server.num_threads() <= before[1] + 2
        assert growth < 50
        children = server.children(recursive=True)
        assert [child.status() for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
        assert len(children) == 1, "the watchdog"
        assert not list(state_directory.rglob("kernel-*.json"))


def test_facts_of_is_strict() -> None:
    """The helper of these tests fails where a reply is an error."""
    from mcp_types import CallToolResult, TextContent

    with pytest.raises(AssertionError):
        facts_of(CallToolResult(content=[TextContent(type="text", text="CODE: no")], is_error=True))


async def test_a_kernel_that_runs_left_idle_makes_room_and_its_next_use_says_so(
    client: Connect, workspace: Path
) -> None:
    """Kernels that a client has started, and busy ones, stay."""
    for name in "abc":
        write_notebook(workspace / f"{name}.ipynb", ["print('done')"])
    async with client(max_kernels=3) as c:
        own = await start(c)
        await call(c, "execute_notebook", path="a.ipynb")
        busy = (await call(c, "execute_notebook", path="b.ipynb"))["kernel_id"]
        await running(c, busy, "import time; time.sleep(60)")
        last = await call(c, "execute_notebook", path="c.ipynb")
        assert last["status"] == "ok"
        assert any("a.ipynb" in note and "to make room" in note for note in last["notes"])
        kernels = {row["kernel_id"] for row in (await call(c, "list_kernels"))["active"]}
        assert kernels == {own, busy, last["kernel_id"]}
        again = await call(c, "execute_notebook_cell", path="a.ipynb", index=0)
        assert again["status"] == "ok"
        assert any("idle longest" in note and "variables are gone" in note for note in again["notes"])

        await running(c, again["kernel_id"], "import time; time.sleep(60)")
        message = await refused(c, "execute_notebook", path="c.ipynb")
    assert message.startswith("LIMIT_REACHED")
    assert "b.ipynb" in message
    assert "cleanup_all_kernels" in message


async def test_a_kernel_with_variables_of_a_client_is_never_given_up(client: Connect, workspace: Path) -> None:
    """Code of the client ran in it, so no notebook can make its variables again."""
    for name in "abc":
        write_notebook(workspace / f"{name}.ipynb", ["print('done')"])
    async with client(max_kernels=2) as c:
        first = (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"]
        await call(c, "execute_cell", path="a.ipynb", code="found = 41")
        second = await call(c, "execute_cell", path="b.ipynb", code="other = 42")
        message = await refused(c, "execute_notebook", path="c.ipynb")
        kept = await call(c, "execute_cell", kernel_id=first, code="print(found)")
        other = await call(c, "execute_cell", kernel_id=second["kernel_id"], code="print(other)")
    assert message.startswith("LIMIT_REACHED")
    assert "a.ipynb" in message
    assert "b.ipynb" in message
    assert stdout_of(kept) == "41\n"
    assert stdout_of(other) == "42\n"


async def test_a_kernel_whose_last_run_failed_is_not_given_up(client: Connect, workspace: Path) -> None:
    """Its variables show why, and the cell can be mended in it."""
    write_notebook(workspace / "a.ipynb", ["kept = 5", "1 / 0"])
    for name in "bcd":
        write_notebook(workspace / f"{name}.ipynb", ["print('done')"])
    async with client(max_kernels=2) as c:
        failed = (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"]
        for name in "bcd":
            assert (await call(c, "execute_notebook", path=f"{name}.ipynb"))["status"] == "ok"
        again = await call(c, "update_cell", path="a.ipynb", index=1, source="print(kept)", run=True)
    assert again["execution"]["kernel_id"] == failed
    assert stdout_of(again["execution"]) == "5\n"
