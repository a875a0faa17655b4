"""A run and other writers of its file: every change made meanwhile is in the file afterwards, however the run ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from conftest import Connect
from helpers import (
    Json,
    call,
    cell,
    joined,
    read_json,
    until,
    waiting_code,
    write_notebook,
)

pytestmark = pytest.mark.kernel

#: Says that it runs, then waits for a file named `go`.
_WAIT = waiting_code()

#: How a run may end: the code behind the wait, the arguments of the run, and the status it ends with.
_ENDS: dict[str, tuple[str, Json, str]] = {
    "ok": ("print('end')", {}, "ok"),
    "error": ("1/0", {}, "error"),
    "error and on": ("1/0", {"continue_on_error": True}, "error"),
    "exit": ("import sys; sys.exit()", {}, "ok"),
    "timeout": ("time.sleep(60)", {"timeout": 4}, "timeout"),
    "death": ("import os; os._exit(9)", {}, "died"),
}


def _insert_note(notebook: Json) -> None:
    notebook["cells"].insert(0, cell("my note", "markdown", cell_id="note"))


def _append_note(notebook: Json) -> None:
    notebook["cells"].append(cell("my note", "markdown", cell_id="note"))


def _edit_failing(notebook: Json) -> None:
    notebook["cells"][1]["source"] = "# my note\n" + joined(notebook["cells"][1]["source"])


def _edit_later(notebook: Json) -> None:
    notebook["cells"][2]["source"] = "# my note"


def _replace_failing(notebook: Json) -> None:
    notebook["cells"][1] = cell("my note", "markdown", cell_id="note")


_EDITS = [_insert_note, _append_note, _edit_failing, _edit_later, _replace_failing]


@pytest.mark.case("R02")
@pytest.mark.parametrize(
    ("end", "edit"),
    [
        pytest.param(end, edit, marks=[pytest.mark.slow] if end == "timeout" and edit is not _insert_note else [])
        for end in _ENDS
        for edit in _EDITS
    ],
)
async def test_a_change_of_an_output_stays_however_the_run_ends(
    end: str, edit: Callable[[Json], None], client: Connect, workspace: Path
) -> None:
    """A save in the middle of the run adopts the change. The last save must not take it back."""
    code, options, status = _ENDS[end]
    write_notebook(workspace / "in.ipynb", [_WAIT + "print('seen')\ntime.sleep(0.1)", code, "print('last')"])
    output = workspace / "out.ipynb"
    async with client() as connected:
        begun = await call(
            connected,
            "execute_notebook_papermill",
            input_path="in.ipynb",
            output_path="out.ipynb",
            wait=0,
            **{"timeout": 0} | options,
        )
        await until((workspace / "waiting").exists, seconds=20, what="the first cell runs")
        notebook = read_json(output)
        edit(notebook)
        output.write_text(json.dumps(notebook))
        await until(lambda: "waiting" in output.read_text(), seconds=20, what="a save after the change")
        assert "my note" in output.read_text()
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)

    assert facts["status"] == status
    saved = read_json(output)
    nbformat.validate(saved)
    sources = [joined(entry["source"]) for entry in saved["cells"]]
    assert sum("my note" in source for source in sources) == 1
    assert "seen" in str(saved["cells"])
    markers = [entry for entry in saved["cells"] if "papermill-error-cell-tag" in entry["metadata"].get("tags", [])]
    failed = [number for number, entry in enumerate(saved["cells"]) if entry["id"] == "c1"]
    expected = 0 if end != "error" else 2 if failed else 1
    assert len(markers) == expected
    if expected == 2:
        assert saved["cells"][failed[0] - 1] is markers[1]
        assert facts["failed_cell"]["index"] == 1
        assert any(f"the failed cell has index {failed[0]}" in note for note in facts["notes"])


@pytest.mark.case("R03")
@pytest.mark.parametrize("tool", ["execute_notebook", "execute_notebook_papermill"])
async def test_tags_and_metadata_that_are_given_during_a_run_stay(tool: str, client: Connect, workspace: Path) -> None:
    """A run adds its own keys to the metadata of a cell and owns no other."""
    write_notebook(workspace / "a.ipynb", [_WAIT, "print('last')"])
    arguments: Json = {"path": "a.ipynb"}
    if tool == "execute_notebook_papermill":
        arguments = {"input_path": "a.ipynb", "output_path": "out.ipynb"}
    file = workspace / ("a.ipynb" if tool == "execute_notebook" else "out.ipynb")
    async with client() as connected:
        begun = await call(connected, tool, timeout=0, wait=0, **arguments)
        await until((workspace / "waiting").exists, seconds=20, what="the first cell runs")
        for index in (0, 1):
            await call(
                connected, "update_cell", path=file.name, index=index, tags=["mine"], metadata={"slide": {"type": "x"}}
            )
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)

    assert facts["status"] == "ok"
    for entry in read_json(file)["cells"]:
        assert entry["metadata"]["tags"] == ["mine"]
        assert entry["metadata"]["slide"] == {"type": "x"}
        assert set(entry["metadata"]["execution"]) >= {"iopub.status.busy", "iopub.status.idle"}
        if tool == "execute_notebook_papermill":
            assert entry["metadata"]["papermill"]["status"] == "completed"


@pytest.mark.case("R03")
async def test_results_follow_cells_without_ids(client: Connect, workspace: Path) -> None:
    """A copy of a cell that is put in at the top during the run gets no result, and the others keep theirs."""
    source = "n = globals().get('n', 0) + 1\nprint('step', n)"
    path = write_notebook(workspace / "a.ipynb", [source, _WAIT, source, source])
    notebook = read_json(path)
    notebook["nbformat_minor"] = 4
    for entry in notebook["cells"]:
        del entry["id"]
    path.write_text(json.dumps(notebook))
    async with client() as connected:
        begun = await call(connected, "execute_notebook", path="a.ipynb", timeout=0, wait=0)
        await until(lambda: "step 1" in path.read_text(), seconds=20, what="the first result is saved")
        await call(connected, "add_cell", path="a.ipynb", cell_type="code", source=source, index=0)
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)

    assert facts["status"] == "ok"
    texts = ["".join("".join(output["text"]) for output in entry["outputs"]) for entry in read_json(path)["cells"]]
    assert texts == ["", "step 1\n", "waiting\n", "step 2\n", "step 3\n"]


@pytest.mark.case("R03")
@pytest.mark.parametrize("kind", ["markdown", "raw"])
@pytest.mark.parametrize("tool", ["execute_notebook", "execute_notebook_papermill"])
async def test_a_cell_that_is_no_code_any_more_gets_no_result(
    tool: str, kind: str, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", [_WAIT, "print('last')"])
    arguments: Json = {"path": "a.ipynb"}
    if tool == "execute_notebook_papermill":
        arguments = {"input_path": "a.ipynb", "output_path": "out.ipynb"}
    file = workspace / ("a.ipynb" if tool == "execute_notebook" else "out.ipynb")
    async with client() as connected:
        begun = await call(connected, tool, timeout=0, wait=0, **arguments)
        await until((workspace / "waiting").exists, seconds=20, what="the first cell runs")
        await call(connected, "update_cell", path=file.name, index=1, cell_type=kind)
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)

    saved = read_json(file)
    nbformat.validate(saved)
    assert saved["cells"][1]["cell_type"] == kind
    assert "outputs" not in saved["cells"][1]
    assert any("cell 1 was changed" in note for note in facts["notes"])


@pytest.mark.parametrize("end", ["cancel", "restart"])
async def test_code_that_never_began_leaves_the_earlier_outputs(end: str, client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["print('earlier')"])
    async with client() as connected:
        kernel_id = (await call(connected, "execute_notebook", path="a.ipynb"))["kernel_id"]
        before = path.read_bytes()
        await call(connected, "execute_cell", kernel_id=kernel_id, code=_WAIT, timeout=0, wait=0.5)
        begun = await call(connected, "execute_notebook", path="a.ipynb", wait=0.5)
        assert begun["status"] == "queued"
        if end == "cancel":
            await call(connected, "cancel_execution", execution_id=begun["execution_id"])
            (workspace / "go").touch()
        else:
            await call(connected, "restart_kernel", kernel_id=kernel_id)
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert facts["status"] in ("aborted", "interrupted")
    assert read_json(path)["cells"] == json.loads(before)["cells"]


@pytest.mark.case("R04")
@pytest.mark.parametrize("tool", ["execute_notebook", "execute_notebook_papermill"])
async def test_an_edit_of_a_cell_that_a_run_has_yet_to_end_says_so(tool: str, client: Connect, workspace: Path) -> None:
    text, skipped = cell("# Text", "markdown"), cell("print('skipped')", tags=["skip-execution"])
    write_notebook(workspace / "a.ipynb", ["print('over')", _WAIT, text, "print('last')", skipped])
    arguments: Json = {"path": "a.ipynb"}
    if tool == "execute_notebook_papermill":
        arguments = {"input_path": "a.ipynb", "output_path": "out.ipynb"}
    file = "a.ipynb" if tool == "execute_notebook" else "out.ipynb"
    async with client() as connected:
        begun = await call(connected, tool, timeout=0, wait=0, **arguments)
        await until((workspace / "waiting").exists, seconds=20, what="the second cell runs")
        told = {
            index: "notes" in await call(connected, "update_cell", path=file, index=index, source="# mine")
            for index in (0, 1, 2, 3, 4)
        }
        again = await call(connected, "update_cell", path=file, index=3, source="# mine, too")
        tags = await call(connected, "update_cell", path=file, index=3, tags=["x"])
        (workspace / "go").touch()
        await call(connected, "get_execution", execution_id=begun["execution_id"], wait=25)
        after = await call(connected, "update_cell", path=file, index=1, source="# later")

    assert told == {0: False, 1: True, 2: False, 3: True, 4: False}
    assert "notes" not in again, "the first edit has said so"
    assert "notes" not in tags
    assert "notes" not in after


@pytest.mark.case("R04")
async def test_an_edit_in_another_server_is_told_that_a_run_goes_on(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [_WAIT, "print('last')"])
    async with client() as first, client() as second:
        begun = await call(first, "execute_notebook", path="a.ipynb", timeout=0, wait=0)
        await until((workspace / "waiting").exists, seconds=20, what="the first cell runs")
        told = await call(second, "update_cell", path="a.ipynb", index=1, source="# mine")
        tags = await call(second, "update_cell", path="a.ipynb", index=1, tags=["x"])
        (workspace / "go").touch()
        await call(first, "get_execution", execution_id=begun["execution_id"], wait=25)
        after = await call(second, "update_cell", path="a.ipynb", index=1, source="# later")

    assert any("another server" in note for note in told["notes"])
    assert "notes" not in tags
    assert "notes" not in after
