"""The memory of a real server under outputs without end."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from conftest import StartRaw
from helpers import cell, write_notebook

pytestmark = [pytest.mark.kernel, pytest.mark.alone, pytest.mark.slow]

_MIB = 2**20

#: Code that puts out about 100 MB, with the same display, bar or widget again and again.
_ENDLESS = {
    "frames": """
from IPython.display import clear_output, display
for number in range(800):
    clear_output(wait=True)
    display({'text/plain': 'frame', 'text/html': str(number % 10) * 115_000}, raw=True, display_id='live')
""",
    "updates": """
from IPython.display import display
handle = display({'text/plain': 'frame'}, raw=True, display_id=True)
for number in range(800):
    handle.update({'text/plain': 'frame', 'application/json': [number] * 20_000}, raw=True)
""",
    "widgets": """
import ipywidgets
from IPython.display import clear_output, display
out = ipywidgets.Output()
for number in range(300):
    bar = ipywidgets.IntProgress(max=10)
    image = ipywidgets.Image(value=bytes(300_000))
    with out:
        clear_output(wait=True)
        print(str(number) * 30_000)
    bar.close()
""",
    "tracebacks": """
def fail(depth):
    return fail(depth - 1) if depth else 1 / len('')
for number in range(30):
    try:
        exec('x = 1\\n' * 20_000 + 'fail(50)')
    except ZeroDivisionError:
        get_ipython().showtraceback()
""",
}


@pytest.mark.case("O03")
async def test_outputs_without_end_take_no_memory_for_good(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        process = psutil.Process(server.pid)
        kernel = (await server.call("start_kernel"))["kernel_id"]
        before = 0
        for number in range(4):  # the first two fill the budgets
            for code in _ENDLESS.values():
                await server.call("execute_cell", kernel_id=kernel, code=code, wait=60, seconds=70)
            before = before if number > 1 else process.memory_info().rss
        assert process.memory_info().rss - before < 80 * _MIB  # of about 800 MB


@pytest.mark.case("O04")
async def test_ended_executions_have_one_budget(raw_server: StartRaw) -> None:
    """Of 60 executions of nearly 10 MB each the last ones keep their outputs. The first ones say theirs are gone."""
    code = (
        "print('x' * 8_000_000)\nfor n in range(60):\n    display({'application/json': list(range(1_000))}, raw=True)"
    )
    async with raw_server() as server:
        process = psutil.Process(server.pid)
        kernel = (await server.call("start_kernel"))["kernel_id"]
        runs = [await server.call("execute_cell", kernel_id=kernel, code=code) for _ in range(60)]
        held = process.memory_info().rss
        first, last = [await server.call("get_execution", execution_id=runs[at]["execution_id"]) for at in (0, -1)]
        assert held < 400 * _MIB
    assert (first["status"], first.get("outputs")) == ("ok", None)
    assert any("no longer kept" in note for note in first["notes"])
    assert last["outputs"][0]["text"].startswith("xxx")


@pytest.mark.case("O04")
async def test_runs_that_are_over_keep_no_document(raw_server: StartRaw, workspace: Path) -> None:
    """A notebook with 8 MB of text, run 16 times. The text is in no reply, so nothing of it has to stay."""
    write_notebook(workspace / "a.ipynb", [cell("text " * 1_600_000, "markdown"), "print(1)"])
    async with raw_server() as server:
        process = psutil.Process(server.pid)

        async def run(number: int) -> None:
            await server.call("execute_notebook", path="a.ipynb")
            output = f"out-{number % 3}.ipynb"
            await server.call("execute_notebook_papermill", input_path="a.ipynb", output_path=output, overwrite=True)

        for number in range(3):
            await run(number)
        before = process.memory_info().rss
        for number in range(13):
            await run(number)
        assert process.memory_info().rss - before < 60 * _MIB
