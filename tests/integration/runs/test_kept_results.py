"""Results that find no place in the notebook: cut, kept beside it, or in the output directory, and always named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Connect
from helpers import (
    Json,
    call,
    cell,
    read_json,
    stdout_in,
    until,
    waiting_code,
    write_notebook,
)

pytestmark = pytest.mark.kernel

_TOOLS = ["execute_notebook", "execute_notebook_papermill"]


def _arguments(tool: str, path: str, output: str) -> Json:
    return {"path": path} if tool == "execute_notebook" else {"input_path": path, "output_path": output}


def _kept_in(facts: Json, workspace: Path) -> list[Json]:
    """The cells of the notebook that a note names."""
    (name,) = re.findall(r"kept in (\S+\.ipynb)", " ".join(facts["notes"]))
    notebook = read_json(workspace / name)
    nbformat.validate(notebook)
    cells: list[Json] = notebook["cells"]
    return cells


@pytest.mark.case("R08")
@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize(
    "code", ["print(('y' * 99 + '\\n') * 4_000)", "display({'text/html': 'y' * 400_000}, raw=True)"]
)
async def test_outputs_over_the_limit_of_the_notebook_are_cut_and_all_else_is_saved(
    code: str, tool: str, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", [*[code] * 4, "print('the answer')"])
    async with client(max_notebook_bytes=1_000_000) as c:
        facts = await call(c, tool, **_arguments(tool, "a.ipynb", "b.ipynb"))

    saved = read_json(workspace / ("a.ipynb" if tool == "execute_notebook" else "b.ipynb"))
    nbformat.validate(saved)
    assert facts["status"] == "ok"
    assert [entry["execution_count"] for entry in saved["cells"]] == [1, 2, 3, 4, 5]
    assert stdout_in(saved["cells"][-1]) == "the answer\n"
    assert any("were cut" in note for note in facts["notes"])
    texts = [str(entry["outputs"]) for entry in saved["cells"][:4]]
    assert 2 <= sum("not saved" in text for text in texts) < 4, "no more is cut than must be"


@pytest.mark.case("R08")
async def test_very_many_outputs_over_the_limit_leave_one_line(client: Connect, workspace: Path) -> None:
    write_notebook(
        workspace / "a.ipynb", ["for n in range(300):\n    display({'text/plain': 'y' * 9_000}, raw=True)", "1"]
    )
    async with client(max_notebook_bytes=1_000_000) as c:
        facts = await call(c, "execute_notebook", path="a.ipynb")

    saved = read_json(workspace / "a.ipynb")["cells"]
    assert facts["status"] == "ok"
    assert "300 outputs" in str(saved[0]["outputs"])
    assert len(saved[1]["outputs"]) == 1


def _delete(file: Path) -> None:
    file.unlink()


def _rename(file: Path) -> None:
    file.rename(file.with_name("renamed.ipynb"))


def _move_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))


def _remove_directory(file: Path) -> None:
    shutil.rmtree(file.parent)


def _break(file: Path) -> None:
    file.write_text("{")


def _replace_by_text(file: Path) -> None:
    file.write_text("my diary")


def _replace_by_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.case("R06", "R09")
@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize(
    "lose", [_delete, _rename, _move_directory, _remove_directory, _break, _replace_by_text, _replace_by_directory]
)
async def test_results_of_a_notebook_that_has_gone_are_kept_and_the_run_is_no_success(
    lose: Callable[[Path], Any], tool: str, client: Connect, workspace: Path
) -> None:
    (workspace / "d").mkdir()
    write_notebook(
        workspace / "in.ipynb" if tool != "execute_notebook" else workspace / "d" / "a.ipynb",
        [cell("# Title", "markdown"), "print('first')", waiting_code(workspace), "print('last')"],
    )
    file = workspace / "d" / ("a.ipynb" if tool == "execute_notebook" else "out.ipynb")
    async with client() as c:
        arguments = _arguments(tool, "d/a.ipynb" if tool == "execute_notebook" else "in.ipynb", "d/out.ipynb")
        begun = await call(c, tool, wait=0, **arguments)
        await until((workspace / "waiting").exists, seconds=20, what="the second cell runs")
        await until(lambda: "first" in file.read_text(), seconds=20, what="the first result is saved")
        lose(file)
        (workspace / "go").touch()
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=25)

    kept = _kept_in(facts, workspace)
    assert facts["status"] == "error"
    assert kept[0]["source"] in ("# Title", ["# Title"])
    assert [stdout_in(entry) for entry in kept if entry["cell_type"] == "code"] == ["first\n", "waiting\n", "last\n"]


@pytest.mark.case("R09")
@pytest.mark.parametrize("tool", _TOOLS)
async def test_the_result_of_a_cell_that_was_removed_is_kept(tool: str, client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [waiting_code(workspace), "print('last')"])
    file = "a.ipynb" if tool == "execute_notebook" else "b.ipynb"
    async with client() as c:
        begun = await call(c, tool, wait=0, **_arguments(tool, "a.ipynb", "b.ipynb"))
        await until((workspace / "waiting").exists, seconds=20, what="the first cell runs")
        await call(c, "remove_cell", path=file, index=1)
        (workspace / "go").touch()
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=25)

    assert facts["status"] == "ok"
    assert [stdout_in(entry) for entry in _kept_in(facts, workspace)] == ["last\n"]
    assert len(read_json(workspace / file)["cells"]) == 1


@pytest.mark.case("R07")
async def test_cells_are_counted_by_their_outcome(client: Connect, workspace: Path) -> None:
    sources: list[Json | str] = [
        "1",
        cell("2", tags=["skip-execution"]),
        cell("1/0", tags=["raises-exception"]),
        "1/0",
        "5",
    ]
    write_notebook(workspace / "a.ipynb", sources)
    async with client() as c:
        for tool in _TOOLS:
            facts = await call(c, tool, **_arguments(tool, "a.ipynb", "b.ipynb"))
            assert facts["counts"] == {"ok": 2, "skipped": 1, "error": 1, "not_run": 1}
            assert (facts["cells_total"], facts["cells_done"], facts["cells_failed"]) == (5, 3, 1)
            assert [(row["index"], row["status"]) for row in facts["results"]] == [
                *((0, "ok"), (1, "skipped"), (2, "error"), (3, "error"))
            ]


@pytest.mark.case("R07")
async def test_a_cancelled_run_is_shown_with_the_cell_that_was_interrupted(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1", waiting_code(workspace), "3"])
    async with client() as c:
        begun = await call(c, "execute_notebook", path="a.ipynb", wait=0)
        await until((workspace / "waiting").exists, seconds=20, what="the second cell runs")
        cancelled = await call(c, "cancel_execution", execution_id=begun["execution_id"])
        looked = await call(c, "get_execution", execution_id=begun["execution_id"])

    assert cancelled.pop("ended") is True
    assert cancelled == looked
    assert cancelled["counts"] == {"ok": 1, "interrupted": 1, "not_run": 1}
    assert cancelled["results"][-1]["outputs"][0]["text"] == "waiting\n"
    assert cancelled["revision"]


@pytest.mark.case("R07")
async def test_a_new_kernel_is_named_when_cells_above_have_not_run_in_it(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["total = 41", cell("# Text", "markdown"), "", "print(total + 1)"])
    async with client() as c:
        alone = await call(c, "execute_notebook_cell", path="a.ipynb", index=3)
        whole = await call(c, "execute_notebook", path="a.ipynb")

    assert alone["error"]["ename"] == "NameError"
    assert any("cells above it have not run: 0" in note for note in alone["notes"])
    assert any("'total'" in note and "set in cell 0" in note for note in alone["notes"])
    assert whole["status"] == "ok"
    assert "notes" not in whole


async def test_a_limit_of_time_is_told_while_code_runs_and_there_is_none_by_default(client: Connect) -> None:
    async with client() as c:
        kernel = (await call(c, "start_kernel"))["kernel_id"]
        code = "import time; time.sleep(0.5)"
        free = await call(c, "execute_cell", kernel_id=kernel, code=code, wait=0.2)
        bound = await call(c, "execute_cell", kernel_id=kernel, code=code, wait=0.2, timeout=30)

    assert "30 s" not in free["progress"]
    assert "a cell may run for 30 s" in bound["progress"]


async def test_a_cell_that_is_named_runs_whatever_its_tag(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [cell("print('ran')", tags=["skip-execution"])])
    async with client() as c:
        facts = await call(c, "execute_notebook_cell", path="a.ipynb", index=0)

    assert facts["status"] == "ok"
    assert facts["outputs"][0]["text"] == "ran\n"
