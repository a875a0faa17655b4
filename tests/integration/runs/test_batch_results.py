"""The results of a batch: a table beside the outputs, a summary, and every run within reach, also after a restart."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Connect, ConnectStdio
from helpers import (
    MARKER,
    Json,
    call,
    cell,
    marked_processes,
    read_json,
    refused,
    stdio_client_of,
    text_of,
    until,
    wait_gone,
    write_notebook,
)

pytestmark = pytest.mark.kernel

_CELLS: list[Json | str] = [
    cell("n = 1\nname = 'x'", tags=["parameters"]),
    "from IPython.display import display\n"
    "display({'application/papermill.record+json': {'half': n / 2, 'label': name}}, raw=True)",
    "assert n != 3, 'three'\nassert n != 4, 'four'",
    "print('the number is', n)",
]


def _lines(directory: Path) -> list[Json]:
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


async def test_the_table_equals_what_the_notebooks_say(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    grid = {"n": [1, 2, 3], "name": ["=1+1", "b"]}
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid=grid, wait=60)
    table = workspace / facts["results"]
    rows = _lines(table.parent)
    assert len(rows) == 6
    for number, row in enumerate(rows):
        output = read_json(Path(row["output"]))
        said = output["metadata"]["papermill"]
        failed = row["param.n"] == 3
        assert (row["run"], row["batch"]) == (number, facts["execution_id"])
        assert {"n": row["param.n"], "name": row["param.name"]} == said["parameters"]
        assert (row["result.half"], row["result.label"]) == (row["param.n"] / 2, row["param.name"])
        assert (row["status"], row["error"], row["message"]) == (
            ("error", "AssertionError", "three") if failed else ("ok", None, None)
        )
        assert row["text"] == (None if failed else f"the number is {row['param.n']}")
        assert row["duration"] > 0
        assert row["wait"] >= 0
        assert row["attempts"] == 1
        assert 20e6 < row["peak_memory"] < 1e9
        assert 0.05 < row["processor_time"] < 60
        assert row["worker"] is None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["started"])
        assert "papermill" not in str(row["input"])
        assert row["failed_cell"] == (5 if failed else None)
    with table.open(newline="") as file:
        shown = list(csv.DictReader(file))
    assert [row["param.name"] for row in shown] == ["'=1+1", "b"] * 3
    typed = {"results.parquet"} if find_spec("pyarrow") else set()
    assert {path.name for path in table.parent.glob("results*")} == {"results.csv", "results.jsonl", *typed}


async def test_failed_runs_come_first_and_numbers_in_one_line(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    async with client() as c:
        reply = await c.call_tool(
            "execute_notebook_batch", {"input_path": "in.ipynb", "grid": {"n": [9, 1, 3, 2, 4]}, "wait": 60}
        )
    facts = reply.structured_content or {}
    assert [row["run"] for row in facts["runs"]] == [2, 4, 0, 1, 3]
    assert [(one["error"], one["runs"]) for one in facts["failures"]] == [
        ("AssertionError: three", [2]),
        ("AssertionError: four", [4]),
    ]
    (half,) = facts["numbers"]
    assert half == {
        "name": "half",
        "count": 5,
        "min": 0.5,
        "min_run": 1,
        "median": 1.5,
        "max": 4.5,
        "max_run": 0,
    }
    assert "recorded half: 0.5 (run 1) to 4.5 (run 0), median 1.5, of 5 runs" in text_of(reply)
    assert "failed: 1 run (2) · AssertionError: three" in text_of(reply)


async def test_every_run_of_a_large_batch_is_within_reach(client: Connect, workspace: Path) -> None:
    """Kept outputs make it large without running: they are runs as others are."""
    write_notebook(workspace / "in.ipynb", [cell("n = 1", tags=["parameters"]), "assert n != 0, 'the first'"])
    values = {"n": list(range(60))}
    async with client() as c:
        begun = await call(
            c, "execute_notebook_batch", seconds=120, input_path="in.ipynb", grid=values, max_parallel=4, wait=120
        )
        reply = await c.call_tool("get_execution", {"execution_id": begun["execution_id"]})
        pages = [
            await call(c, "get_execution", execution_id=begun["execution_id"], runs=runs)
            for runs in ("0-29", "30-99", "failed", "5", " 7 - 8 ")
        ]
        none = await call(c, "get_execution", execution_id=begun["execution_id"], runs="running")
        errors = [
            await refused(c, "get_execution", execution_id=begun["execution_id"], runs=runs)
            for runs in ("60-70", "best", "-3", "9-2")
        ]
        code = await call(c, "execute_cell", path="in.ipynb", code="1")
        other = await refused(c, "get_execution", execution_id=code["execution_id"], runs="failed")
    assert (begun["runs_total"], begun["runs_done"], begun["runs_failed"]) == (60, 60, 1)
    assert begun["runs"][0]["run"] == 0, "the failed one"
    assert len(begun["runs"]) < 60
    assert "runs=" in text_of(reply)
    assert "the first" in text_of(reply)
    assert [[row["run"] for row in page["runs"]] for page in pages] == [
        [*range(30)],
        [*range(30, 60)],
        [0],
        [5],
        [7, 8],
    ]
    assert not none.get("runs")
    assert "0 to 59" in errors[0]
    assert all(error.startswith("INVALID_ARGUMENT") for error in errors)
    assert '"failed"' in errors[1]
    assert "batches" in other
    assert len(_lines(workspace / "outputs" / "in-batch")) == 60


async def test_the_next_server_reads_the_batch_from_its_table(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    async with client() as c:
        before = await call(
            c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1, 3, 5]}, wait=60
        )
    async with client() as c:
        after = await call(c, "get_execution", execution_id=before["execution_id"])
        failed = await call(c, "get_execution", execution_id=before["execution_id"], runs="failed")
        page = await call(c, "get_execution", execution_id=before["execution_id"], runs="1-9")
        error = await refused(c, "get_execution", execution_id=before["execution_id"], runs="all")
    same = ("runs_total", "runs_done", "runs_failed", "status", "results", "failures", "numbers")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    compared = ("run", "status", "parameters", "output_path", "error", "failed_cell", "result")
    assert [{name: row.get(name) for name in compared} for row in after["runs"]] == [
        {name: row.get(name) for name in compared} for row in before["runs"]
    ]
    assert [row["run"] for row in failed["runs"]] == [1]
    assert [row["run"] for row in page["runs"]] == [1, 2]
    assert error.startswith("INVALID_ARGUMENT")


@pytest.mark.slow
async def test_a_batch_whose_server_is_killed_has_a_true_table(
    stdio_client: ConnectStdio, workspace: Path, state_directory: Path
) -> None:
    slow = "import time; time.sleep(0.4)\nassert n != 1, 'one'"
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), slow])
    table = workspace / "outputs" / "in-batch" / "results.jsonl"
    request: Json = {"input_path": "in.ipynb", "max_parallel": 2}
    async with stdio_client_of(workspace, state_directory) as c:
        begun = await call(c, "execute_notebook_batch", grid={"n": list(range(40))}, wait=0, **request)
        await until(lambda: table.exists() and len(table.read_text().splitlines()) > 3, seconds=40)
        (server,) = [p for p in marked_processes(os.environ[MARKER]) if "papermill_mcp.main" in p.cmdline()]
        os.kill(server.pid, signal.SIGKILL)
        assert await wait_gone([server.pid], seconds=5) == []
    async with stdio_client() as c:
        after = await call(c, "get_execution", execution_id=begun["execution_id"])
        again = await call(c, "execute_notebook_batch", seconds=60, grid={"n": list(range(8))}, wait=60, **request)
    assert after["status"] == "aborted"
    assert after["runs_failed"] == 1
    assert after["failures"][0]["runs"] == [1]
    for left in table.parent.glob(".papermill-mcp-*.tmp"):
        left.unlink()  # of the killed server; a later save would remove it
    rows = _lines(table.parent)
    for row in rows:
        output = read_json(Path(row["output"]))
        assert output["metadata"]["papermill"]["parameters"] == {"n": row["param.n"]}
        assert row["status"] == ("error" if row["param.n"] == 1 else "ok")
    named = [(row["batch"], row["run"]) for row in rows]
    assert len(named) == len(set(named))
    assert [run for batch, run in named if batch == again["execution_id"]] == [*range(8)]


async def test_runs_stand_where_the_table_cannot_be_written(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    directory = workspace / "outputs" / "in-batch"
    (directory / "results.jsonl").mkdir(parents=True)
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1]}, wait=60)
    assert facts["status"] == "ok"
    assert "results" not in facts
    assert any("the table of results could not be written" in note for note in facts["notes"])


async def test_the_outputs_of_several_notebooks_have_one_table(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    write_notebook(workspace / "b.ipynb", ["2"])
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_paths=["a.ipynb", "b.ipynb"], wait=60)
    assert facts["results"] == "outputs/results.csv"
    rows = _lines(workspace / "outputs")
    assert [Path(row["input"]).name for row in rows] == ["a.ipynb", "b.ipynb"]
    assert [row["text"] for row in rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("values.csv", "n,name\n1,a\n2,\n5,007\n"),
        ("values.json", '[{"n": 1, "name": "a"}, {"n": 2}, {"n": 5, "name": "007"}]'),
        ("values.yaml", "- {n: 1, name: a}\n- n: 2\n- n: 5\n  name: '007'\n"),
    ],
)
async def test_parameters_come_from_a_file(name: str, text: str, client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    (workspace / "data").mkdir()
    (workspace / "data" / name).write_text(text)
    async with client() as c:
        facts = await call(
            c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", parameters=f"data/{name}", wait=60
        )
    assert [row["parameters"] for row in sorted(facts["runs"], key=lambda row: row["run"])] == [
        {"n": 1, "name": "a"},
        {"n": 2},
        {"n": 5, "name": "007"},
    ]
    assert facts["runs_failed"] == 0
    output = read_json(workspace / facts["runs"][2]["output_path"])
    assert output["metadata"]["papermill"]["parameters"] == {"n": 5, "name": "007"}


async def test_json_text_is_a_list_of_parameters(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    async with client() as c:
        facts = await call(
            c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", parameters='[{"n": 8}]', wait=60
        )
    assert [row["parameters"] for row in facts["runs"]] == [{"n": 8}]


async def test_all_faults_of_a_file_are_said_at_once(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    rows = [f"{'x' if number % 2 else number},a" for number in range(40)]
    (workspace / "many.csv").write_text("n,name\n" + "\n".join(rows) + "\n")
    (workspace / "column.csv").write_text("n,nome\n1,a\n")
    (workspace / "huge.csv").write_text("n\n" + "\n".join(map(str, range(1001))))
    (workspace / "nan.csv").write_text("n\nnan\n")
    (workspace / "notes.txt").write_text("n\n1\n")
    (workspace / "two.csv").write_text("n,n\n1,2\n")
    (workspace.parent / "out.csv").write_text("n\n1\n")
    async with client() as c:
        messages = {
            name: await refused(c, "execute_notebook_batch", input_path="in.ipynb", parameters=name)
            for name in (
                "many.csv",
                "column.csv",
                "huge.csv",
                "nan.csv",
                "notes.txt",
                "two.csv",
                "none.csv",
                "../out.csv",
            )
        }
    assert messages["many.csv"].count("parameter 'n' must be a number") == 10
    assert all(f"run {number} (line {number + 2}): " in messages["many.csv"] for number in range(1, 20, 2)), messages[
        "many.csv"
    ]
    assert "did you mean 'name'" in messages["column.csv"]
    assert "1,000" in messages["huge.csv"]
    assert "parameter 'n' must be a number" in messages["nan.csv"]
    assert ".csv, .json, .yaml" in messages["notes.txt"]
    assert "'n' twice" in messages["two.csv"]
    assert messages["none.csv"].startswith("NOT_FOUND")
    assert messages["../out.csv"].startswith("PATH_NOT_ALLOWED")
    assert all("othing was r" in message for message in messages.values())
    assert not (workspace / "outputs").exists()


def _add_note(notebook: Json) -> None:
    notebook["cells"].insert(1, cell("a note of a person", "markdown", cell_id="note"))


def _mend(notebook: Json) -> None:
    notebook["cells"][-1]["source"] = "print('mended')"


def _tag(notebook: Json) -> None:
    notebook["cells"][-1]["metadata"]["tags"] = ["mine"]


def _remove(notebook: Json) -> None:
    del notebook["cells"][-1]


@pytest.mark.parametrize("change", [_add_note, _mend, _tag, _remove])
@pytest.mark.parametrize(("n", "resume"), [(3, True), (1, False)])
async def test_an_output_that_a_person_changed_stays_and_its_run_has_another_one(
    change: Callable[[Json], None], n: int, resume: bool, client: Connect, workspace: Path
) -> None:
    """One that failed is run again by the same request; one that is complete only if that is asked for."""
    write_notebook(workspace / "in.ipynb", _CELLS)
    request: Json = {"input_path": "in.ipynb", "grid": {"n": [n]}, "wait": 60}
    async with client() as c:
        first = await call(c, "execute_notebook_batch", seconds=60, **request)
        output = workspace / first["runs"][0]["output_path"]
        notebook = read_json(output)
        change(notebook)
        output.write_text(json.dumps(notebook))
        before = output.read_bytes()
        second = await call(c, "execute_notebook_batch", seconds=60, resume=resume, **request)
        third = await call(c, "execute_notebook_batch", seconds=60, **request)
    assert output.read_bytes() == before
    assert output.name == f"in-n={n}.ipynb"
    assert re.fullmatch(r"outputs/in-batch/in-[0-9a-f]{12}\.ipynb", second["runs"][0]["output_path"])
    assert any("stays as it is" in note and output.name in note for note in second["notes"])
    assert third["runs"][0].get("kept") is (True if n == 1 else None)
    assert output.read_bytes() == before


async def test_a_note_of_a_person_leaves_a_complete_output_complete(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    request: Json = {"input_path": "in.ipynb", "grid": {"n": [1]}, "wait": 60}
    async with client() as c:
        first = await call(c, "execute_notebook_batch", seconds=60, **request)
        path = first["runs"][0]["output_path"]
        await call(c, "add_cell", path=path, source="looks right", cell_type="markdown")
        second = await call(c, "execute_notebook_batch", seconds=60, **request)
    assert second["runs"][0]["kept"] is True
    assert second["runs"][0]["output_path"] == path


@pytest.mark.parametrize("one", [True, False])
async def test_an_output_without_its_outputs_is_not_complete(one: bool, client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    request: Json = {"input_path": "in.ipynb", "grid": {"n": [1]}, "wait": 60}
    async with client() as c:
        first = await call(c, "execute_notebook_batch", seconds=60, **request)
        path = first["runs"][0]["output_path"]
        clear: Json = {"op": "clear_outputs"} | ({"index": -1} if one else {})
        await call(c, "edit_notebook", path=path, operations=[clear])
        second = await call(c, "execute_notebook_batch", seconds=60, **request)
    (row,) = second["runs"]
    assert row.get("kept") is None
    assert row["status"] == "ok"
    assert row["output_path"] == path
    assert _lines(workspace / "outputs" / "in-batch")[-1]["text"] == "the number is 1"


async def test_a_cancelled_batch_says_the_same_after_a_restart(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [*_CELLS, "import time; time.sleep(60 if n > 5 else 0)"])
    async with client() as c:
        begun = await call(
            c, "execute_notebook_batch", input_path="in.ipynb", grid={"n": [1, 3, 6, 7, 8]}, max_parallel=2, wait=0
        )
        while True:
            facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=0.3)
            if facts["runs_done"] == 2 and sum(row["status"] == "running" for row in facts["runs"]) == 2:
                break
        await call(c, "cancel_execution", execution_id=begun["execution_id"])
        before = await call(c, "get_execution", execution_id=begun["execution_id"], wait=10)
    async with client() as c:
        after = await call(c, "get_execution", execution_id=begun["execution_id"])
        failed = await call(c, "get_execution", execution_id=begun["execution_id"], runs="failed")
    same = ("runs_done", "runs_failed", "status", "failures")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert before["runs_failed"] == 3
    assert [row["run"] for row in failed["runs"]] == [1, 2, 3]
    assert any("same request keeps" in note for note in after["notes"])


async def test_a_row_of_empty_cells_is_a_run_with_the_defaults(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    (workspace / "a.csv").write_text("n,name\n1,\n,\n2,\n")
    (workspace / "b.csv").write_text("n,zz\n1,\n")
    (workspace / "c.csv").write_text("n,name\n1,a\n,\nx,b\n")
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", parameters="a.csv", wait=60)
        column = await refused(c, "execute_notebook_batch", input_path="in.ipynb", parameters="b.csv")
        line = await refused(c, "execute_notebook_batch", input_path="in.ipynb", parameters="c.csv")
    assert [row["parameters"] for row in facts["runs"]] == [{"n": 1}, {}, {"n": 2}]
    assert "'zz'" in column
    assert "run 2 (line 4)" in line


async def test_a_table_that_was_changed_is_named_with_the_new_one(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", _CELLS)
    async with client() as c:
        first = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1]}, wait=60)
        (workspace / first["results"]).write_text("mine")
        second = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [2]}, wait=60)
    assert second["results"].endswith("results-2.csv")
    assert any("results.csv was changed by another program" in note for note in second["notes"])
    assert (workspace / first["results"]).read_text() == "mine"
