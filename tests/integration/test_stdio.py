"""The server as clients start it: a process that speaks over its standard streams, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import ConnectStdio, StartRaw, leftovers
from helpers import (
    RawServer,
    call,
    facts_of,
    images_of,
    stdout_of,
    text_of,
    until,
    wait_gone,
    write_notebook,
)
from mcp import Client
from mcp.client.client import ConnectMode

pytestmark = pytest.mark.kernel

each_era = pytest.mark.parametrize("mode", ["legacy", "2026-07-28", pytest.param("auto", marks=pytest.mark.slow)])

#: For what hardly depends on the era.
one_era = pytest.mark.parametrize(
    "mode", ["legacy", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("2026-07-28", "auto"))]
)

#: Waits for a file named `go` in the workspace, which the test makes.
_WAIT = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)\n"


async def kernel_of(client: Client) -> str:
    return str((await call(client, "start_kernel"))["kernel_id"])


async def ran(client: Client, kernel_id: str, code: str) -> str:
    """What code in a kernel writes to stdout."""
    facts = await call(client, "execute_cell", kernel_id=kernel_id, code=code)
    assert facts["status"] == "ok", facts
    return stdout_of(facts)


# A session from end to end


@each_era
async def test_a_session_of_a_client(mode: ConnectMode, stdio_client: ConnectStdio, workspace: Path) -> None:
    async with stdio_client(mode=mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"create_notebook", "execute_cell", "execute_notebook_papermill"} <= names
        assert client.instructions or mode == "2026-07-28"  # a client that does not ask is not told

        made = await call(
            client,
            "create_notebook",
            path="a.ipynb",
            cells=[
                {"cell_type": "markdown", "source": "# Title"},
                {"cell_type": "code", "source": "rate = 1", "tags": ["parameters"]},
            ],
        )
        added = await call(
            client,
            "add_cell",
            path="a.ipynb",
            cell_type="code",
            source="print(rate * 2)",
            if_revision=made["revision"],
        )
        read = await client.call_tool("read_notebook", {"path": "a.ipynb"})
        assert facts_of(read)["revision"] == added["revision"]
        for shown in ("# Title", "rate = 1", "print(rate * 2)", "tags parameters", added["cell"]["id"]):
            assert shown in text_of(read)

        kernel_id = await kernel_of(client)
        assert await ran(client, kernel_id, "print(6 * 7)") == "42\n"
        run = await call(client, "execute_notebook_papermill", input_path="a.ipynb", parameters={"rate": 21})
        assert run["status"] == "ok"
        assert run["parameters"] == {"rate": 21}
        output = json.loads((workspace / run["output_path"]).read_text())
        assert "42\n" in json.dumps(output["cells"][-1]["outputs"]).encode().decode("unicode_escape")
        stopped = await call(client, "stop_kernel", kernel_id=kernel_id)
        assert stopped["state"] == "stopped"


@one_era
async def test_a_plot_comes_as_an_image_and_without_structured_content(
    mode: ConnectMode, stdio_client: ConnectStdio
) -> None:
    """Some clients drop the images of a reply that has structured content."""
    code = (
        "from PIL import Image\nfrom IPython.display import display\n"
        "display(Image.new('RGB', (40, 30), 'red'))\nprint('drawn')"
    )
    async with stdio_client(mode=mode) as client:
        result = await client.call_tool("execute_cell", {"kernel_id": await kernel_of(client), "code": code})

    assert not result.is_error
    assert result.structured_content is None
    (image,) = images_of(result)
    assert image.mime_type == "image/png"
    assert image.data.startswith("iVBOR")
    assert "status: ok" in text_of(result)
    assert "drawn" in text_of(result)
    assert image.data[:100] not in text_of(result)


@pytest.mark.slow
async def test_a_figure_of_matplotlib_is_an_image(stdio_client: ConnectStdio) -> None:
    pytest.importorskip("matplotlib")
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);"
    async with stdio_client() as client:
        result = await client.call_tool("execute_cell", {"kernel_id": await kernel_of(client), "code": code})

    assert len(images_of(result)) == 1, text_of(result)


# Progress, waiting, cancelling


@one_era
async def test_progress_increases_and_says_where_the_run_is(
    mode: ConnectMode, stdio_client: ConnectStdio, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", [f"import time; time.sleep(0.35)  # step {n}" for n in range(3)])
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with stdio_client(mode=mode) as client:
        result = await client.call_tool("execute_notebook", {"path": "a.ipynb"}, progress_callback=hear)

    assert facts_of(result)["status"] == "ok"
    values = [progress for progress, _, _ in heard]
    assert values == sorted(set(values))
    assert len(values) >= 3
    assert values[-1] == 3
    assert all(total == 3 for _, total, _ in heard)
    assert any("cell 2 of 3" in (message or "") for _, _, message in heard)


async def test_a_long_cell_answers_running_and_then_tells_only_what_is_new(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    async with stdio_client() as client:
        kernel_id = await kernel_of(client)
        code = f"print('first', flush=True)\n{_WAIT}print('second')"
        began = time.monotonic()
        first = await call(client, "execute_cell", kernel_id=kernel_id, code=code, wait=0.5)
        assert time.monotonic() - began < 2
        assert first["status"] == "running"
        assert stdout_of(first) == "first\n"

        again = await call(client, "get_execution", execution_id=first["execution_id"], since=first["cursor"])
        assert again["status"] == "running"
        assert stdout_of(again) == ""

        (workspace / "go").touch()
        last = await call(client, "get_execution", execution_id=first["execution_id"], since=first["cursor"], wait=10)
        assert last["status"] == "ok"
        assert stdout_of(last) == "second\n"
        whole = await call(client, "get_execution", execution_id=first["execution_id"])
        assert stdout_of(whole) == "first\nsecond\n"


async def test_cancelling_an_execution_ends_it_and_leaves_the_kernel(stdio_client: ConnectStdio) -> None:
    async with stdio_client() as client:
        kernel_id = await kernel_of(client)
        await ran(client, kernel_id, "x = 5")
        begun = await call(
            client, "execute_cell", kernel_id=kernel_id, code="import time; time.sleep(3600)", wait=0.3, timeout=0
        )
        cancelled = await call(client, "cancel_execution", execution_id=begun["execution_id"], seconds=6)

        assert cancelled["ended"] is True
        assert cancelled["status"] == "interrupted"
        assert await ran(client, kernel_id, "print(x)") == "5\n"
        once_more = await call(client, "cancel_execution", execution_id=begun["execution_id"])
        assert once_more["status"] == "interrupted"


@each_era
async def test_a_request_that_is_cancelled_interrupts_its_cell_and_nothing_else(
    mode: ConnectMode, stdio_client: ConnectStdio, workspace: Path
) -> None:
    async with stdio_client(mode=mode) as client:
        one, two = await kernel_of(client), await kernel_of(client)
        other = asyncio.create_task(
            call(client, "execute_cell", kernel_id=two, code=f"{_WAIT}print('untouched')", timeout=0)
        )
        code = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(3600)"
        task = asyncio.create_task(client.call_tool("execute_cell", {"kernel_id": one, "code": code, "timeout": 0}))
        await until((workspace / "begun").exists, what="the cell runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        began = time.monotonic()
        assert await ran(client, one, "print('usable')") == "usable\n"
        assert time.monotonic() - began < 4
        assert not other.done()
        (workspace / "go").touch()
        assert stdout_of(await other) == "untouched\n"


async def test_other_calls_are_answered_at_once_while_a_cell_runs(stdio_client: ConnectStdio, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with stdio_client() as client:
        kernel_id = await kernel_of(client)
        await call(client, "list_kernels")
        await call(client, "read_notebook", path="a.ipynb")
        code = "import pathlib\nwhile not pathlib.Path('go').exists(): print('x' * 1000)"
        task = asyncio.create_task(call(client, "execute_cell", kernel_id=kernel_id, code=code, timeout=0))
        took = []
        for _ in range(10):
            for tool, arguments in (("list_kernels", {}), ("read_notebook", {"path": "a.ipynb"})):
                began = time.monotonic()
                await call(client, tool, **arguments)
                took.append(time.monotonic() - began)
        (workspace / "go").touch()
        await task

    # Half of them, since another process may have had the processor.
    assert sorted(took)[len(took) // 2] < 0.1, took


# The standard streams


async def test_nothing_but_the_protocol_is_on_stdout(raw_server: StartRaw, workspace: Path) -> None:
    code = (
        "import os, subprocess, sys, ctypes\n"
        "os.system('echo from a child')\n"
        "os.write(1, b'from the descriptor\\n')\n"
        "os.write(2, b'from the other descriptor\\n')\n"
        "subprocess.run(['echo', 'from a process'])\n"
        "libc = ctypes.CDLL(None); libc.puts(b'from C'); libc.fflush(None)\n"
        "sys.__stdout__.write('from the real stdout\\n'); sys.__stdout__.flush()\n"
        "import warnings, logging; warnings.warn('w'); logging.warning('l'); print('printed')"
    )
    async with raw_server() as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        facts = await server.call("execute_cell", kernel_id=kernel_id, code=code)
        assert "printed" in stdout_of(facts)
        await server.call("execute_cell", kernel_id=kernel_id, code="import os; os._exit(1)")
        await server.request("tools/list")
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    assert server.impure == []


@pytest.mark.case("B15")
async def test_numbers_that_json_does_not_have_are_refused(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
            before = len(server.answers)
            await server.write(
                b'{"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": {"name": "execute_cell", '
                b'"arguments": {"kernel_id": "x", "code": "1", "timeout": ' + value + b"}}}\n"
            )
            await server.request("tools/list")
            answers = server.answers[before:]
            for answer in answers:
                assert "error" in answer or answer["result"].get("isError") or "tools" in answer["result"]
                assert "KERNEL_NOT_FOUND" not in json.dumps(answer), value

    assert server.impure == []


async def test_text_that_cannot_be_encoded_does_not_end_the_server(raw_server: StartRaw, workspace: Path) -> None:
    """One lone surrogate in a result, and the caller would never be answered."""
    (workspace / os.fsdecode(b"\xff.ipynb")).write_text("{}")
    async with raw_server() as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        for code in ("print('\\ud800')", "'\\udfff'", "raise ValueError('\\ud800')", "display({'a': float('nan')})"):
            facts = await server.call("execute_cell", kernel_id=kernel_id, code=code)
            assert facts["status"] in ("ok", "error")
        await server.call("list_kernels")

    assert server.impure == []


async def test_a_secret_of_the_server_is_not_in_its_log(raw_server: StartRaw, state_directory: Path) -> None:
    async with raw_server("--log-level", "INFO") as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        (file,) = state_directory.rglob("kernel-*.json")
        key = json.loads(file.read_text())["key"]
        await server.call("execute_cell", kernel_id=kernel_id, code="'CANARY CODE'")
        assert key
        assert key not in server.errors
        assert "CANARY CODE" not in server.errors
        assert key not in json.dumps(server.answers)
        assert "execute_cell" in server.errors


# The end


async def with_kernels(server: RawServer, workspace: Path, *, busy: str | None) -> list[int]:
    """Start a kernel with children, and have it run `busy`. Returns the pids of all of them."""
    started = await server.call("start_kernel")
    code = (
        "import subprocess\n"
        "print(subprocess.Popen(['sleep', '3600']).pid, "
        "subprocess.Popen(['sleep', '3600'], start_new_session=True).pid)"
    )
    facts = await server.call("execute_cell", kernel_id=started["kernel_id"], code=code)
    if busy is not None:
        code = f"import pathlib; pathlib.Path('busy').touch()\n{busy}"
        await server.send(
            "tools/call",
            {"name": "execute_cell", "arguments": {"kernel_id": started["kernel_id"], "code": code, "timeout": 0}},
        )
        await until((workspace / "busy").exists, what="the cell runs")
    pids = [started["pid"], *map(int, stdout_of(facts).split())]
    assert len(pids) == 3
    return pids


_BUSY = "while True: pass"


@pytest.mark.parametrize(
    ("how", "busy"),
    [
        pytest.param("EOF", None, id="EOF, idle"),
        pytest.param("EOF", _BUSY, id="EOF, busy"),
        pytest.param("SIGTERM", _BUSY, id="SIGTERM, busy"),
        pytest.param("SIGINT", None, id="SIGINT, idle"),
        pytest.param("SIGHUP", _BUSY, id="SIGHUP, busy"),
        pytest.param("SIGTERM", None, id="SIGTERM, idle", marks=pytest.mark.slow),
        pytest.param("SIGINT", _BUSY, id="SIGINT, busy", marks=pytest.mark.slow),
        pytest.param("SIGHUP", None, id="SIGHUP, idle", marks=pytest.mark.slow),
    ],
)
async def test_the_server_ends_in_two_seconds_with_everything_it_started(
    how: str, busy: str | None, raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    async with raw_server() as server:
        pids = await with_kernels(server, workspace, busy=busy)
        began = time.monotonic()
        if how == "EOF":
            server.close_stdin()
        else:
            server.signal(signal.Signals[how])
        code = await server.exit_code(seconds=4)
        took = time.monotonic() - began

    assert code == 0, server.errors
    assert took < 2
    assert await wait_gone(pids, seconds=0.5) == []
    assert leftovers(state_directory) == []
    assert "Traceback" not in server.errors
    assert server.impure == []


@pytest.mark.slow
async def test_a_second_signal_does_no_harm(raw_server: StartRaw, workspace: Path) -> None:
    async with raw_server() as server:
        pids = await with_kernels(server, workspace, busy=_BUSY)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            server.signal(number)
        assert await server.exit_code(seconds=3) == 0

    assert await wait_gone(pids, seconds=0.5) == []


async def test_a_server_without_kernels_ends_at_once(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        began = time.monotonic()
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0
        assert time.monotonic() - began < 1.5


async def test_a_server_that_ends_while_a_kernel_starts_leaves_none(
    raw_server: StartRaw, state_directory: Path, tmp_path: Path
) -> None:
    async with raw_server() as server:
        await server.send("tools/call", {"name": "start_kernel", "arguments": {}})
        await until(lambda: any(state_directory.rglob("kernel-*.json")), what="a kernel is on its way")
        server.signal(signal.SIGTERM)
        assert await server.exit_code(seconds=3) == 0

    assert leftovers(state_directory) == []


async def test_a_run_that_the_end_of_the_server_stops_leaves_what_it_has_in_the_file(
    raw_server: StartRaw, workspace: Path
) -> None:
    busy = "import pathlib, time\nprint('so far', flush=True)\npathlib.Path('busy').touch()\ntime.sleep(3600)"
    write_notebook(workspace / "a.ipynb", ["print('first')", busy, "print('never')"])
    async with raw_server() as server:
        await server.send("tools/call", {"name": "execute_notebook", "arguments": {"path": "a.ipynb", "timeout": 0}})
        await until((workspace / "busy").exists, seconds=20, what="the second cell runs")
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    cells = json.loads((workspace / "a.ipynb").read_text())["cells"]
    assert "first" in json.dumps(cells[0]["outputs"])
    assert "so far" in json.dumps(cells[1]["outputs"])
    assert cells[2]["outputs"] == []


_HOLDS_THE_GIL = "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param(None, id="idle", marks=pytest.mark.slow),
        pytest.param(_BUSY, id="busy", marks=pytest.mark.slow),
        pytest.param(_HOLDS_THE_GIL, id="holds the GIL"),
    ],
)
async def test_after_a_kill_of_the_server_nothing_it_started_is_left(
    busy: str | None, raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    async with raw_server() as server:
        pids = await with_kernels(server, workspace, busy=busy)
        server.signal(signal.SIGKILL)
        await server.exit_code(seconds=2)

        assert await wait_gone(pids, seconds=2) == []
        await until(lambda: leftovers(state_directory) == [], seconds=2, what="the connection files are removed")


async def test_the_end_of_one_server_does_not_touch_the_kernels_of_another(
    raw_server: StartRaw, workspace: Path
) -> None:
    async with raw_server() as one, raw_server() as two:
        gone = await with_kernels(one, workspace, busy=None)
        kept = await with_kernels(two, workspace, busy=None)
        one.signal(signal.SIGTERM)
        assert await one.exit_code(seconds=3) == 0
        assert await wait_gone(gone, seconds=0.5) == []
        assert sorted(await wait_gone(kept, seconds=0)) == sorted(kept)
        two.close_stdin()
        assert await two.exit_code(seconds=3) == 0
