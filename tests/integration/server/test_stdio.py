"""The server as clients start it: a process that speaks over its standard streams. How it ends is in `test_exit`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest
from conftest import ConnectStdio, StartRaw
from helpers import (
    RawServer,
    call,
    cell,
    facts_of,
    images_of,
    stdout_of,
    text_of,
    until,
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
    assert any("(2 of 3)" in (message or "") for _, _, message in heard)


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


@pytest.mark.alone
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


@pytest.mark.case("J20")
async def test_nothing_but_the_protocol_is_on_stdout(raw_server: StartRaw, workspace: Path) -> None:
    code = (
        "import os, subprocess, sys, ctypes\n"
        "os.system('echo from a child')\n"
        "os.write(1, b'from the descriptor\\n')\n"
        "os.write(2, b'from the other descriptor\\n')\n"
        "subprocess.run(['echo', 'from a process'])\n"
        "libc = ctypes.CDLL(None); libc.puts(b'from C'); libc.fflush(None)\n"
        "sys.__stdout__.write('from the real stdout\\n'); sys.__stdout__.flush()\n"
        "import warnings, logging; warnings.warn('w'); logging.warning('l'); print('printed')\n"
        "import faulthandler; faulthandler.dump_traceback(open(1, 'w', closefd=False))\n"
        "subprocess.run([sys.executable, '-X', 'dev', '-c', 'open(__file__) if 0 else print(1)'])\n"
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


@pytest.mark.timeout(300)
async def test_text_that_cannot_be_encoded_does_not_end_the_server(raw_server: StartRaw, workspace: Path) -> None:
    """One lone surrogate in a result, and the caller would never be answered."""
    (workspace / os.fsdecode(b"\xff.ipynb")).write_text("{}")
    async with raw_server() as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        for code in ("print('\\ud800')", "'\\udfff'", "raise ValueError('\\ud800')", "display({'a': float('nan')})"):
            arguments = {"kernel_id": kernel_id, "code": code, "timeout": 0, "wait": 100}
            facts = await server.call("execute_cell", **arguments, seconds=110)
            assert facts["status"] in ("ok", "error")
            if "KernelUnresponsive" in str(facts):  # it can no longer send anything; seldom
                await server.call("restart_kernel", kernel_id=kernel_id)
        await server.call("list_kernels")

    assert server.impure == []


async def test_a_secret_of_the_server_is_not_in_its_log(raw_server: StartRaw, state_directory: Path) -> None:
    async with raw_server("--log-level", "INFO") as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        (file,) = state_directory.rglob("kernel-*.json")
        key = json.loads(file.read_text())["key"]
        await server.call("execute_cell", kernel_id=kernel_id, code="'CANARY CODE'")
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    assert key
    assert key not in server.errors
    assert "CANARY CODE" not in server.errors
    assert key not in json.dumps(server.answers)
    assert "execute_cell" in server.errors


_RECORDING = """
import os, sys
LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def record(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(LOG, os.path.abspath(os.fsencode(arguments[0])) + b"\\n")

sys.addaudithook(record)
from papermill_mcp.main import main
sys.exit(main())
"""


async def test_no_file_of_the_start_directory_is_read_as_settings(
    raw_server: StartRaw, workspace: Path, tmp_path: Path
) -> None:
    """Neither by the server nor by a library in it. Each name is one that some program reads where it starts."""
    names = ["config.json", ".env", "pyproject.toml", "jupyter_config.json", "jupyter_client_config.json"]
    names += ["papermill.yaml", "dask.yaml", "ipython_config.json", "setup.cfg", "fastmcp.json"]
    for name in names:
        (workspace / name).write_text("{")
    write_notebook(workspace / "a.ipynb", [cell("x = 1", tags=["parameters"])])
    opened = tmp_path / "opened"
    script = tmp_path / "recording.py"
    script.write_text(_RECORDING.format(log=str(opened)))
    async with raw_server(script=script) as server:
        await server.call("start_kernel")
        run = await server.call("execute_notebook_papermill", input_path="a.ipynb", parameters={"x": 2})
        assert run["status"] == "ok"

    files = set(opened.read_text().splitlines())
    assert str(workspace / "a.ipynb") in files
    assert files.isdisjoint({str(workspace / name) for name in names})


@pytest.mark.parametrize("module", ["papermill_mcp", "papermill_mcp.main"])
async def test_no_module_of_the_start_directory_is_imported(
    module: str, workspace: Path, state_directory: Path
) -> None:
    """`python -m` puts the directory first on the path of imports."""
    names = ["anyio", "asyncio", "json", "logging", "mcp", "nbformat", "papermill", "pydantic", "sqlite3", "zmq"]
    for name in names:
        (workspace / f"{name}.py").write_text(f"open({str(workspace / 'ran')!r}, 'a').write({name!r})")
    write_notebook(workspace / "a.ipynb", ["1"])
    async with RawServer.running(workspace, state_directory, "--no-execute", "--read-only", module=module) as server:
        await server.call("read_notebook", path="a.ipynb")
        await server.call("get_notebook_info", path="a.ipynb")
        await server.call("list_notebook_files")

    assert not (workspace / "ran").exists()


@pytest.mark.kernel
@pytest.mark.parametrize("start", ["papermill_mcp", "papermill_mcp.main", "script"])
async def test_modules_of_pythonpath_are_for_kernels_and_not_for_the_server(
    start: str, workspace: Path, state_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's `json.py` and another pydantic. A relative directory counts, too."""
    for name in ("json", "pydantic", "logging", "asyncio", "anyio"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / f"{name}.py").write_text("raise SystemExit('not this one')")
    (workspace / "near").mkdir()
    (workspace / "near" / "sqlite3.py").write_text("raise SystemExit('not this one')")
    (workspace / "mine").mkdir()
    (workspace / "mine" / "users_own.py").write_text("VALUE = 7")
    script = Path(sys.executable).with_name("jupyter-papermill-mcp") if start == "script" else None
    module = "papermill_mcp" if script else start
    paths = [tmp_path / "theirs", "near", workspace / "mine"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    async with RawServer.running(workspace, state_directory, module=module, script=script) as server:
        # The kernel is the user's: there the directories come first, and these modules would end it.
        kernel = await server.call("start_kernel", env={"PYTHONPATH": str(workspace / "mine")})
        run = await server.call(
            "execute_cell", kernel_id=kernel["kernel_id"], code="import users_own; print(users_own.VALUE)"
        )
        assert stdout_of(run) == "7\n"


@pytest.mark.slow
@pytest.mark.case("J20")
async def test_nothing_but_the_protocol_is_on_stdout_in_development_mode(
    raw_server: StartRaw, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python then warns of much, the debugger of asyncio speaks, and so do the kernels."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    write_notebook(workspace / "a.ipynb", ["print(1)"])
    async with raw_server("--log-level", "DEBUG") as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        code = "import warnings; warnings.warn('w'); open('/dev/null'); print('printed')"
        assert "printed" in stdout_of(await server.call("execute_cell", kernel_id=kernel_id, code=code))
        assert (await server.call("execute_notebook", path="a.ipynb"))["status"] == "ok"
        await server.call("stop_kernel", kernel_id=kernel_id)
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    assert server.impure == []
    assert "Traceback" not in server.errors
