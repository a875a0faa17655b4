"""Results of cells that had ended: others run them again or clear them, and output comes late."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Connect
from helpers import Json, call, joined, read_json, until, waiting_code, write_notebook
from mcp import Client

pytestmark = pytest.mark.kernel

_TOOLS = ["execute_notebook", "execute_notebook_papermill"]


async def _run(
    tool: str, client: Connect, workspace: Path, change: Callable[[Path], None], *operations: Json
) -> tuple[Json, Json]:
    """Run two cells. When the first has ended and is saved, others change the file."""
    source = write_notebook(workspace / "a.ipynb", ["print('first')", waiting_code() + "\nprint('second')"])
    arguments: Json = {"path": "a.ipynb"}
    if tool == "execute_notebook_papermill":
        arguments = {"input_path": "a.ipynb", "output_path": "out.ipynb"}
    file = source if tool == "execute_notebook" else workspace / "out.ipynb"
    async with client() as connected:
        begun = await call(connected, tool, timeout=0, wait=0, **arguments)
        await until((workspace / "waiting").exists, seconds=20, what="the second cell runs")
        await until(lambda: bool(_text(read_json(file), 0)), seconds=20, what="the first result is saved")
        change(file)
        if operations:
            await call(connected, "edit_notebook", path=file.name, operations=list(operations))
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)
    return facts, read_json(file)


def _text(notebook: Json, index: int) -> str:
    return "".join(joined(output["text"]) for output in notebook["cells"][index]["outputs"])


def _changed(**members: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        notebook = read_json(file)
        notebook["cells"][0] |= members
        file.write_text(json.dumps(notebook))

    return change


def _output(text: str, **more: object) -> Json:
    return {"output_type": "stream", "name": "stdout", "text": [text], **more}


@pytest.mark.case("R10")
@pytest.mark.parametrize("tool", _TOOLS)
async def test_a_newer_result_stays_and_ours_is_kept_aside(tool: str, client: Connect, workspace: Path) -> None:
    change = _changed(outputs=[_output("newer\n")], execution_count=77)
    facts, saved = await _run(tool, client, workspace, change)

    assert facts["status"] == "ok"
    assert (_text(saved, 0), saved["cells"][0]["execution_count"]) == ("newer\n", 77)
    assert "second" in _text(saved, 1)
    assert any("into cell 0" in note for note in facts["notes"])
    (kept,) = workspace.glob("*-results-*.ipynb")
    assert _text(read_json(kept), 0) == "first\n"


@pytest.mark.case("R10")
async def test_the_same_result_with_another_count_stays_and_is_told(client: Connect, workspace: Path) -> None:
    change = _changed(outputs=[_output("first\n")], execution_count=77)
    facts, saved = await _run("execute_notebook", client, workspace, change)

    assert saved["cells"][0]["execution_count"] == 77
    assert any("cell 0 again" in note for note in facts["notes"])
    assert not list(workspace.glob("*-results-*.ipynb"))


@pytest.mark.case("R10")
async def test_our_result_in_another_form_is_ours(client: Connect, workspace: Path) -> None:
    change = _changed(outputs=[_output("fir", transient={}), _output("st\n", metadata={"a": 1})])
    facts, saved = await _run("execute_notebook", client, workspace, change)

    assert "notes" not in facts
    assert len(saved["cells"][0]["outputs"]) == 1
    assert _text(saved, 0) == "first\n"


@pytest.mark.case("R10")
@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize("by_tool", [True, False])
async def test_a_cell_that_was_cleared_after_its_end_stays_so_and_is_told(
    by_tool: bool, tool: str, client: Connect, workspace: Path
) -> None:
    change = (lambda _: None) if by_tool else _changed(outputs=[], execution_count=None)
    operations = [{"op": "clear_outputs", "index": 0}] if by_tool else []
    facts, saved = await _run(tool, client, workspace, change, *operations)

    assert facts["status"] == "ok"
    assert (saved["cells"][0]["outputs"], saved["cells"][0]["execution_count"]) == ([], None)
    assert "second" in _text(saved, 1)
    assert any("cleared cell 0" in note for note in facts["notes"])


@pytest.mark.case("R10")
async def test_results_that_an_older_copy_lacks_are_saved_again_and_told(client: Connect, workspace: Path) -> None:
    def older(file: Path) -> None:
        notebook = read_json(file)
        notebook["cells"][0] |= {"outputs": [], "execution_count": None, "metadata": {}}
        file.write_text(json.dumps(notebook))

    facts, saved = await _run("execute_notebook", client, workspace, older)

    assert _text(saved, 0) == "first\n"
    assert any("older copy" in note and "cell 0" in note for note in facts["notes"])


@pytest.mark.case("R10")
async def test_results_find_their_cells_when_the_ids_are_gone(client: Connect, workspace: Path) -> None:
    def without_ids(file: Path) -> None:
        notebook = read_json(file)
        for cell in notebook["cells"]:
            del cell["id"]
        file.write_text(json.dumps(notebook | {"nbformat_minor": 4}))

    facts, saved = await _run("execute_notebook", client, workspace, without_ids)

    assert "notes" not in facts
    assert _text(saved, 0) == "first\n"
    assert "second" in _text(saved, 1)


async def _update_later(connected: Client, file: Path) -> tuple[Json, Json]:
    """Run a cell with a display, and another one that updates it. Returns what the first run says, and the second."""
    shown = await call(connected, "execute_notebook_cell", path=file.name, index=0)
    updated = await call(connected, "execute_notebook_cell", path=file.name, index=1)
    return await call(connected, "get_execution", execution_id=shown["execution_id"]), updated


_DISPLAY = "from IPython.display import display\nhandle = display('old', display_id='x')"


@pytest.mark.case("R10")
async def test_a_display_that_a_later_run_updates_is_saved(client: Connect, workspace: Path) -> None:
    file = write_notebook(workspace / "a.ipynb", [_DISPLAY, "handle.update('new')"])
    async with client() as connected:
        first, second = await _update_later(connected, file)
        revision = second["revision"]
        await call(connected, "update_cell", path=file.name, index=1, source="1", if_revision=revision)

    assert "new" in str(read_json(file)["cells"][0]["outputs"])
    assert "notes" not in first


@pytest.mark.case("R10")
async def test_a_display_that_others_cleared_is_not_updated_and_that_is_told(client: Connect, workspace: Path) -> None:
    code = f"import json, pathlib\nfile = pathlib.Path({str(workspace / 'a.ipynb')!r})\n"
    code += "notebook = json.loads(file.read_text())\nnotebook['cells'][0]['outputs'] = []\n"
    code += "file.write_text(json.dumps(notebook))\nhandle.update('new')"
    file = write_notebook(workspace / "a.ipynb", [_DISPLAY, code])
    async with client() as connected:
        first, _ = await _update_later(connected, file)

    assert read_json(file)["cells"][0]["outputs"] == []
    assert any("not in the file" in note for note in first["notes"])


@pytest.mark.case("R10")
async def test_output_after_the_end_is_told_and_saved_by_the_next_edit(client: Connect, workspace: Path) -> None:
    code = (
        "import pathlib, threading, time\ndef late():\n    while not pathlib.Path('go').exists():\n"
        "        time.sleep(0.01)\n    print('late', flush=True)\nthreading.Thread(target=late).start()"
    )
    file = write_notebook(workspace / "a.ipynb", [code, "2"])
    async with client() as connected:
        begun = await call(connected, "execute_notebook_cell", path=file.name, index=0)
        (workspace / "go").touch()
        async with asyncio.timeout(20):
            while "notes" not in (told := await call(connected, "get_execution", execution_id=begun["execution_id"])):
                await asyncio.sleep(0.02)
        before = _text(read_json(file), 0)
        await call(connected, "update_cell", path=file.name, index=1, source="3")
        after = await call(connected, "get_execution", execution_id=begun["execution_id"])

    assert any("not in the file" in note for note in told["notes"])
    assert before == ""
    assert _text(read_json(file), 0) == "late\n"
    assert "notes" not in after
