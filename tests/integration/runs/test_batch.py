"""Batches: many runs as one execution, bounded, resumable, cancelled as a whole. Real kernels, through a client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
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
    stdout_in,
    text_of,
    until,
    wait_gone,
    write_notebook,
)
from mcp import Client

from papermill_mcp.core.papermill import parameters

pytestmark = pytest.mark.kernel

_PARAMETERS = cell("alpha: float = 0.5\nn = 1", tags=["parameters"])
_COUNT = "with open('ran', 'a') as f: f.write(f'{alpha}:{n} ')"
_RECORD = (
    "from IPython.display import display\n"
    "display({'application/papermill.record+json': {'product': alpha * n}}, raw=True)"
)
_MAY_FAIL = "assert n != 2, 'two'"
_ENDLESS = "open(f'begun-{n}', 'w').close()\nwhile True: pass"


@pytest.fixture
def notebook(workspace: Path) -> Path:
    """Counts how often it ran, fails for n = 2, and records a value."""
    return write_notebook(workspace / "in.ipynb", [_PARAMETERS, _COUNT, _MAY_FAIL, _RECORD])


async def batch(client: Client, *, seconds: float = 60, **arguments: Any) -> Json:
    """Run a batch and wait for its end."""
    return await call(client, "execute_notebook_batch", seconds=seconds, **({"wait": seconds} | arguments))


def rows(facts: Json) -> list[Json]:
    """The runs, by number."""
    return sorted(facts["runs"], key=lambda row: row["run"])


# What is run


async def test_a_grid_runs_every_combination_with_a_row_for_each(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client() as c:
        facts = await batch(c, input_path="in.ipynb", grid={"alpha": [0.1, 10], "n": [1, 2]})

    assert facts["status"] == "error"
    assert (facts["runs_total"], facts["runs_done"], facts["runs_failed"]) == (4, 4, 2)
    assert [row["parameters"] for row in rows(facts)] == [
        {"alpha": alpha, "n": n} for alpha in (0.1, 10) for n in (1, 2)
    ]
    for row in rows(facts):
        failed = row["parameters"]["n"] == 2
        output = read_json(workspace / row["output_path"])
        assert output["metadata"]["papermill"]["parameters"] == row["parameters"]
        assert row["duration"] > 0
        assert row["status"] == ("error" if failed else "ok")
        if failed:
            assert row["error"] == "AssertionError: two"
            assert "".join(output["cells"][row["failed_cell"]]["source"]) == _MAY_FAIL
        else:
            product = row["parameters"]["alpha"] * row["parameters"]["n"]
            assert row["result"] == [{"name": "product", "value": product}]
    assert len({row["output_path"] for row in facts["runs"]}) == 4
    assert all(row["output_path"].startswith("outputs/in-batch/in-") for row in facts["runs"])


async def test_the_text_has_a_short_line_for_each_run(client: Connect, notebook: Path) -> None:
    """The text alone is all that several clients show."""
    async with client() as c:
        result = await c.call_tool(
            "execute_notebook_batch", {"input_path": "in.ipynb", "parameters": [{"n": 3}, {"n": 2}], "wait": 60}
        )
    lines = text_of(result).splitlines()

    assert "outputs in: outputs/in-batch/" in lines
    assert "runs: 2 of 2 done, 1 failed" in lines
    (first,) = [line for line in lines if line.startswith("- run 0: ok · ")]
    (second,) = [line for line in lines if line.startswith("- run 1: error · ")]
    assert re.search(r'· \{"n": 3\} · in-n=3\.ipynb$', first)
    at = lines.index("by n:")
    assert lines[at + 1 : at + 4] == ["n | run | product", "2 | 1 | failed", "3 | 0 | 1.5"]
    assert second.endswith("cell 5: AssertionError: two")


@pytest.mark.slow
async def test_several_notebooks_are_run_each_with_every_set(client: Connect, workspace: Path, notebook: Path) -> None:
    (workspace / "sub").mkdir()
    write_notebook(workspace / "sub" / "in.ipynb", [_PARAMETERS, "import os; print(os.path.basename(os.getcwd()), n)"])
    async with client() as c:
        facts = await batch(
            c,
            input_paths=["in.ipynb", "sub/in.ipynb"],
            parameters=[{"n": 5}, {"n": 6}],
            output_directory="all",
            max_parallel=1,
        )

    assert facts["status"] == "ok"
    assert [(row["input_path"], row["parameters"]["n"]) for row in rows(facts)] == [
        ("in.ipynb", 5),
        ("in.ipynb", 6),
        ("sub/in.ipynb", 5),
        ("sub/in.ipynb", 6),
    ]
    last = read_json(workspace / rows(facts)[3]["output_path"])
    assert stdout_in(last["cells"][2]) == "sub 6\n"
    assert {Path(row["output_path"]).parent.as_posix() for row in facts["runs"]} == {"all"}


@pytest.mark.slow
async def test_no_more_runs_at_once_than_asked_for(client: Connect, workspace: Path) -> None:
    """Each run notes when it began and ended."""
    write_notebook(
        workspace / "in.ipynb",
        [
            _PARAMETERS,
            "import time\nbegan = time.time(); time.sleep(0.3)\n"
            "with open('times', 'a') as f: f.write(f'{began} {time.time()}\\n')",
        ],
    )
    async with client() as c:
        facts = await batch(c, input_path="in.ipynb", grid={"n": [1, 2, 3, 4, 5]}, max_parallel=2)

    assert facts["status"] == "ok"
    times = [tuple(map(float, line.split())) for line in (workspace / "times").read_text().splitlines()]
    assert len(times) == 5
    together = [sum(b <= began < e for b, e in times) for began, _ in times]
    assert max(together) <= 2


@pytest.mark.slow
async def test_a_batch_waits_for_a_kernel_when_others_take_all_places(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client(max_kernels=1) as c:
        other = await call(c, "start_kernel")
        begun = await batch(c, input_path="in.ipynb", parameters=[{"n": 7}], wait=0.5)
        assert begun["status"] == "queued"
        await call(c, "stop_kernel", kernel_id=other["kernel_id"])
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=30)

    assert facts["status"] == "ok"
    assert facts["runs"][0]["result"] == [{"name": "product", "value": 3.5}]


async def test_a_sample_of_a_huge_grid_is_the_same_for_the_same_request(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    """The seed is said, and draws the same sample in another request."""
    grid = {"n": list(range(3, 100_003)), "alpha": list(range(100_000))}
    async with client() as c:
        first = await batch(c, input_path="in.ipynb", grid=grid, sample=2)
        again = await batch(c, input_path="in.ipynb", grid=grid, sample=2)
        (note,) = [note for note in first["notes"] if "seed=" in note]
        seed = int(note.rpartition("=")[2])
        named = await batch(c, input_path="in.ipynb", grid=grid, sample=2, seed=seed)
        other = await batch(c, input_path="in.ipynb", grid=grid, sample=2, seed=seed ^ 1)

    assert "a sample of 2 of 10,000,000,000 sets" in note
    assert first["status"] == "ok"
    assert [row["kept"] for row in rows(again)] == [row["kept"] for row in rows(named)] == [True, True]
    assert [row["parameters"] for row in rows(other)] != [row["parameters"] for row in rows(first)]


# The plan alone


async def test_a_dry_run_shows_the_plan_and_writes_nothing(client: Connect, workspace: Path, notebook: Path) -> None:
    """The plan holds: the batch then has the same names, and keeps the same outputs."""
    request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [3, 4, 5]}, "max_parallel": 2}
    async with client() as c:
        before = await batch(c, dry_run=True, **request)
        assert sorted(path.name for path in workspace.rglob("*")) == ["in.ipynb"]
        await batch(c, input_path="in.ipynb", grid={"n": [3, 4]})
        files = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
        after = await batch(c, dry_run=True, **request)
        faults = await batch(c, dry_run=True, input_path="in.ipynb", grid={"n": ["x", "y", 1]})
        assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == files
        text = text_of(await c.call_tool("execute_notebook_batch", {**request, "dry_run": True}))
        listed = (await call(c, "list_executions"))["executions"]
        real = await batch(c, **request)

    assert (before["status"], before["runs_total"], before["runs_done"]) == ("planned", 3, 0)
    assert any("no complete output of in.ipynb" in note for note in before["notes"])
    assert [row["status"] for row in after["runs"]] == ["ok", "ok", "planned"]
    assert any(
        re.search(r"from 2 earlier outputs: \d s a run, \d s for 1 run with 1 at a time, \d+ kB", note)
        for note in after["notes"]
    )
    assert [row["output_path"] for row in before["runs"]] == [row["output_path"] for row in rows(real)]
    assert [row.get("kept") for row in after["runs"]] == [row.get("kept") for row in rows(real)] == [True, True, None]
    assert faults["status"] == "refused"
    assert "run 0: " in faults["notes"][0]
    assert "run 1: " in faults["notes"][0]
    assert "execution_id" not in text
    assert len(listed) == 1


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of input_path and input_paths"),
        ({"input_path": "in.ipynb", "input_paths": ["in.ipynb"]}, "exactly one of input_path and input_paths"),
        ({"input_paths": []}, "exactly one of input_path and input_paths"),
        ({"input_path": "in.ipynb", "parameters": [{"n": 1}], "grid": {"n": [1]}}, "parameters or grid, not both"),
        ({"input_path": "in.ipynb", "parameters": []}, "empty list"),
        ({"input_path": "in.ipynb", "grid": {"n": []}}, "no value for 'n'"),
        ({"input_path": "in.ipynb", "grid": {"n": list(range(40)), "alpha": list(range(40))}}, "1,600 combinations"),
        ({"input_path": "in.ipynb", "parameters": [{"n": 1}, {"n": 2}, {"n": 1}]}, "runs 0 and 2 are the same"),
        ({"input_path": "in.ipynb", "parameters": [{"n": 1}], "seed": 1}, "seed is for a sample"),
        ({"input_path": "in.ipynb", "output_directory": ".hidden"}, "hidden"),
        ({"input_path": "in.ipynb", "output_directory": "../out"}, "leads out of the roots"),
        ({"input_paths": ["in.ipynb", "../x.ipynb"]}, "leads out of the roots"),
        ({"input_path": "missing.ipynb"}, "does not exist"),
    ],
)
async def test_a_batch_that_makes_no_sense_is_refused_before_anything_runs(
    arguments: dict[str, Any], words: str, client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client() as c:
        assert words in await refused(c, "execute_notebook_batch", **arguments)

    assert not (workspace / "ran").exists()
    assert sorted(path.name for path in workspace.rglob("*.ipynb")) == ["in.ipynb"]


@pytest.mark.slow
async def test_wrong_parameters_of_one_run_stop_all_before_the_first_and_name_the_run(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client() as c:
        message = await refused(
            c, "execute_notebook_batch", input_path="in.ipynb", parameters=[{"n": 1}, {"n": 3}, {"alpa": 1}]
        )
        lenient = await batch(c, input_path="in.ipynb", parameters=[{"n": 1}, {"alpa": 1}], strict_parameters=False)

    assert message.startswith("INVALID_PARAMETERS: run 2 of the batch, in.ipynb: ")
    assert "did you mean 'alpha'?" in message
    assert lenient["status"] == "ok"
    assert any("'alpa'" in note for note in lenient["notes"])
    assert (workspace / "ran").read_text().split() == ["0.5:1"] * 2


async def test_a_notebook_is_inspected_once_for_any_number_of_runs(
    client: Connect, workspace: Path, notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row has a fault, so nothing runs."""
    inspected: list[str] = []
    real = parameters.inspect_parameters

    def count(*arguments: Any) -> Any:
        inspected.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(parameters, "inspect_parameters", count)
    (workspace / "many.csv").write_text("n,alpha\n" + "".join(f"{n},0.5\n" for n in range(999)) + "x,1\n")
    async with client() as c:
        message = await refused(c, "execute_notebook_batch", input_path="in.ipynb", parameters="many.csv")

    assert "run 999 (line 1001)" in message
    assert inspected == ["python3"]


async def test_a_cluster_takes_more_runs_than_this_server(client: Connect, notebook: Path) -> None:
    arguments: dict[str, Any] = {"input_path": "in.ipynb"}
    async with client() as c:
        here = await refused(c, "execute_notebook_batch", grid={"n": [*range(1001)]}, **arguments)
    async with client(dask_scheduler="tcp://127.0.0.1:9", jupyter_timeout=1) as c:
        some = await refused(c, "execute_notebook_batch", grid={"n": [*range(1001)]}, **arguments)
        more = await refused(c, "execute_notebook_batch", grid={"n": [*range(10_001)]}, **arguments)

    assert "at most 1,000 runs" in here
    assert some.startswith("SERVER_NOT_RUNNING: ")
    assert "at most 10,000 runs" in more


@pytest.mark.slow
async def test_an_output_that_is_no_notebook_is_not_replaced_and_its_run_has_another_one(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client() as c:
        first = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}, {"n": 4}])
        in_the_way = workspace / rows(first)[0]["output_path"]
        in_the_way.write_text("precious\n")
        again = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}, {"n": 4}])

    assert [row["status"] for row in rows(again)] == ["ok", "ok"]
    assert [row.get("kept") for row in rows(again)] == [None, True]
    assert re.fullmatch(r"outputs/in-batch/in-[0-9a-f]{12}\.ipynb", rows(again)[0]["output_path"])
    assert in_the_way.read_text() == "precious\n"


# Taking up again


async def test_the_same_batch_again_runs_only_what_is_not_complete(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [1, 2, 3]}}
    async with client() as c:
        await batch(c, **request)
        again = await batch(c, **request)
        ran = (workspace / "ran").read_text().split()
        anew = await batch(c, resume=False, **request)

    assert ran == ["0.5:1", "0.5:2", "0.5:3", "0.5:2"] or sorted(ran) == ["0.5:1", "0.5:2", "0.5:2", "0.5:3"]
    assert [row.get("kept", False) for row in rows(again)] == [True, False, True]
    assert [row["status"] for row in rows(again)] == ["ok", "error", "ok"]
    assert rows(again)[2]["result"] == [{"name": "product", "value": 1.5}]
    assert "2 of 3 runs were complete already" in again["notes"][0]
    assert not any(row.get("kept") for row in anew["runs"])
    assert len((workspace / "ran").read_text().split()) == 7


async def test_an_output_that_was_edited_by_hand_is_kept_and_named(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    """Its results are no longer those of the run, though its metadata still say that it is complete."""
    request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [1, 3]}}
    async with client() as c:
        first = await batch(c, **request)
        again = await batch(c, **request)
        edited = workspace / rows(first)[0]["output_path"]
        edited.write_text(edited.read_text().replace('"product": 0.5', '"product": 99'))
        noted = await batch(c, **request)
        still = await batch(c, **request)

    assert all(row["kept"] for one in (again, noted, still) for row in rows(one))
    assert not any("by another program" in note for note in again["notes"])
    for one in (noted, still):
        [note] = [note for note in one["notes"] if "by another program" in note]
        assert note == f"1 output changed by another program since the run, but complete, so kept: {edited.name}"
    lines = (edited.parent / "results.jsonl").read_text().splitlines()
    assert [("revision" in json.loads(line)) for line in lines[:2]] == [True, True]


@pytest.mark.slow
async def test_a_notebook_that_was_changed_is_run_again(client: Connect, workspace: Path, notebook: Path) -> None:
    async with client() as c:
        before = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}])
        await call(c, "update_cell", path="in.ipynb", index=2, source="n += 1")
        after = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}])

    assert before["runs"][0]["output_path"] != after["runs"][0]["output_path"]
    assert "kept" not in after["runs"][0]
    assert after["runs"][0]["result"] == [{"name": "product", "value": 2.0}]


async def test_outputs_say_their_parameters_and_those_of_earlier_names_are_kept(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    """A name alone proves nothing: an output of another version of the notebook stays, and the run has another one."""
    request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [3, 4], "alpha": [0.5]}}
    async with client() as c:
        first = await batch(c, **request)
        smaller = await batch(c, input_path="in.ipynb", grid={"n": [3], "alpha": [0.5]})
        old = workspace / rows(first)[1]["output_path"]
        output = read_json(old)
        digest = output["metadata"]["papermill"].pop("digest")
        old.unlink()
        earlier = old.with_name(f"in-{digest[:12]}.ipynb")
        earlier.write_text(json.dumps(output))
        again = await batch(c, **request)
        (workspace / "outputs" / "in-batch" / "IN-n=9.ipynb").write_text("of a person")
        cased = await batch(c, input_path="in.ipynb", parameters=[{"n": 9}])
        before = (workspace / rows(first)[0]["output_path"]).read_bytes()
        await call(c, "update_cell", path="in.ipynb", index=1, source="n += 1")
        changed = await batch(c, **request)

    assert [Path(row["output_path"]).name for row in rows(first)] == ["in-n=3.ipynb", "in-n=4.ipynb"]
    assert smaller["runs"][0].get("kept") is None, "its outputs are named after all parameters"
    assert smaller["runs"][0]["output_path"].endswith("/in-n=3-alpha=0.5.ipynb")
    assert [(row["kept"], Path(row["output_path"]).name) for row in rows(again)] == [
        (True, "in-n=3.ipynb"),
        (True, earlier.name),
    ]
    digest_named = re.compile(r"outputs/in-batch/in-[0-9a-f]{12}\.ipynb")
    assert digest_named.fullmatch(cased["runs"][0]["output_path"])
    assert digest_named.fullmatch(rows(changed)[0]["output_path"])
    assert not any(row.get("kept") for row in rows(changed))
    assert (workspace / rows(first)[0]["output_path"]).read_bytes() == before


@pytest.mark.slow
async def test_a_run_that_left_by_sys_exit_is_complete(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, _COUNT, "import sys; sys.exit()", "never"])
    async with client() as c:
        first = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}])
        again = await batch(c, input_path="in.ipynb", parameters=[{"n": 3}])

    assert (first["status"], again["status"]) == ("ok", "ok")
    assert again["runs"][0]["kept"] is True


@pytest.mark.case("J16")
async def test_a_batch_whose_server_was_killed_is_taken_up_by_the_next_one(
    stdio_client: ConnectStdio, workspace: Path, state_directory: Path
) -> None:
    """Complete runs are kept, the run that was cut off is run again, and the list says what happened."""
    write_notebook(
        workspace / "in.ipynb",
        [_PARAMETERS, _COUNT, "import os, time\nopen(f'begun-{n}', 'w').close()\nif n == 2: time.sleep(60)"],
    )
    request: dict[str, Any] = {
        "input_path": "in.ipynb",
        "parameters": [{"n": 1}, {"n": 2}, {"n": 3}],
        "max_parallel": 1,
    }
    async with stdio_client_of(workspace, state_directory) as c:
        begun = await call(c, "execute_notebook_batch", wait=0, timeout=0, **request)
        await until((workspace / "begun-2").exists, seconds=20, what="the second run")
        await call(c, "list_executions")
        (server,) = [p for p in marked_processes(os.environ[MARKER]) if "papermill_mcp.main" in p.cmdline()]
        os.kill(server.pid, signal.SIGKILL)
        assert await wait_gone([server.pid], seconds=5) == []
    (workspace / "in.ipynb").touch()
    async with stdio_client() as c:
        listed = (await call(c, "list_executions"))["executions"]
        seen = await call(c, "get_execution", execution_id=begun["execution_id"])
        again = await call(c, "execute_notebook_batch", wait=0, timeout=0, **request)
        await until(lambda: len((workspace / "ran").read_text().split()) == 3, seconds=20, what="the second run again")
        await call(c, "cancel_execution", execution_id=again["execution_id"])

    assert (listed[0]["kind"], listed[0]["cut_off"], listed[0]["cells_done"]) == ("batch", True, 1)
    assert any("after 1 of 3 runs" in note and "same arguments" in note for note in seen["notes"])
    assert any("1 of 3 runs were complete already" in note for note in again["notes"])
    assert (workspace / "ran").read_text().split() == ["0.5:1", "0.5:2", "0.5:2"]


@pytest.mark.slow
async def test_a_repeated_request_with_the_same_key_is_one_batch(
    client: Connect, workspace: Path, notebook: Path
) -> None:
    async with client() as c:
        request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [1, 3]}, "idempotency_key": "k"}
        first, second = await asyncio.gather(*(batch(c, resume=False, **request) for _ in range(2)))

    assert first["execution_id"] == second["execution_id"]
    assert len((workspace / "ran").read_text().split()) == 2


async def test_the_same_batch_at_the_same_time_is_busy(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, _ENDLESS])
    async with client() as c:
        begun = await batch(c, input_path="in.ipynb", parameters=[{"n": 1}], wait=0, timeout=0)
        message = await refused(c, "execute_notebook_batch", input_path="in.ipynb", parameters=[{"n": 1}])
        await call(c, "cancel_execution", execution_id=begun["execution_id"])

    assert message.startswith("BUSY: ")
    assert begun["execution_id"] in message


# Following and ending


async def test_get_execution_shows_the_runs_that_ended_since_the_cursor(client: Connect, workspace: Path) -> None:
    write_notebook(
        workspace / "in.ipynb",
        [_PARAMETERS, "import os, time\nwhile n > 1 and not os.path.exists(f'go-{n}'): time.sleep(0.01)"],
    )
    async with client() as c, asyncio.timeout(60):
        begun = await batch(c, input_path="in.ipynb", grid={"n": [1, 2, 3]}, max_parallel=1, wait=0)

        async def look(done: int, since: str) -> Json:
            while True:  # the cell that runs may not have begun yet
                arguments = {"execution_id": begun["execution_id"], "since": since, "wait": 0.1}
                seen = await call(c, "get_execution", **arguments)
                if seen["runs_done"] == done and (done == 3 or "(3 of 3)" in seen["runs"][-1].get("progress", "")):
                    return seen

        first = await look(1, begun["cursor"])
        (workspace / "go-2").touch()
        second = await look(2, first["cursor"])
        (workspace / "go-3").touch()
        last = await look(3, second["cursor"])

    assert [(row["run"], row["status"]) for row in first["runs"]] == [(0, "ok"), (1, "running")]
    assert [(row["run"], row["status"]) for row in second["runs"]] == [(1, "ok"), (2, "running")]
    assert [(row["run"], row["status"]) for row in last["runs"]] == [(2, "ok")]


@pytest.mark.slow
async def test_progress_is_told_over_the_whole_batch(client: Connect, notebook: Path) -> None:
    reported: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async with client() as c, asyncio.timeout(60):
        await c.call_tool(
            "execute_notebook_batch",
            {"input_path": "in.ipynb", "grid": {"n": [1, 2, 3]}, "max_parallel": 1, "wait": 60},
            progress_callback=hear,
        )

    assert [done for done, _, _ in reported] == sorted(done for done, _, _ in reported)
    assert reported[-1][:2] == (3.0, 3.0)
    assert re.match(r"3 of 3 runs · 0 running · 1 failed · \d+ s", reported[-1][2] or "")


async def test_cancelling_a_batch_ends_all_of_it_and_leaves_no_kernel(client: Connect, workspace: Path) -> None:
    """Also the run that waits never begins, and what the others had put out is on disk."""
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, "print('so far')", _ENDLESS])
    async with client() as c:
        begun = await batch(c, input_path="in.ipynb", grid={"n": [1, 2, 3]}, max_parallel=2, wait=0, timeout=0)
        await until(lambda: {p.name for p in workspace.glob("begun-*")} == {"begun-1", "begun-2"}, seconds=20)
        cancelled = await call(c, "cancel_execution", execution_id=begun["execution_id"])
        facts = await call(c, "get_execution", execution_id=begun["execution_id"])
        kernels = await call(c, "list_kernels")

    assert (cancelled["ended"], cancelled["status"]) == (True, "interrupted")
    assert [row["status"] for row in rows(facts)] == ["interrupted", "interrupted", "aborted"]
    assert kernels["active"] == []
    assert not (workspace / "begun-3").exists()
    for row in rows(facts)[:2]:
        assert stdout_in(read_json(workspace / row["output_path"])["cells"][2]) == "so far\n"
    assert any("2 of 3 runs had begun" in note for note in facts["notes"])


async def test_a_request_that_is_cancelled_ends_its_batch(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, _ENDLESS])
    async with client() as c:
        task = asyncio.create_task(batch(c, input_path="in.ipynb", grid={"n": [1, 2, 3]}, max_parallel=1, timeout=0))
        await until((workspace / "begun-1").exists, seconds=20)
        task.cancel()
        await asyncio.wait([task])
        (row,) = (await call(c, "list_executions"))["executions"]
        facts = await call(c, "get_execution", execution_id=row["execution_id"], wait=10)
        kernels = await call(c, "list_kernels")

    assert facts["status"] == "interrupted"
    assert kernels["active"] == []
    assert not (workspace / "begun-2").exists()


@pytest.mark.slow
async def test_a_kernel_that_dies_ends_its_run_alone(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, "import os\nif n == 2: os._exit(3)", "print(n)"])
    async with client() as c:
        facts = await batch(c, input_path="in.ipynb", grid={"n": [1, 2, 3]})

    assert [row["status"] for row in rows(facts)] == ["ok", "died", "ok"]
    assert "exit code 3" in json.dumps(rows(facts)[1])


@pytest.mark.case("J12")
async def test_the_end_of_the_server_in_the_middle_of_a_batch_leaves_whole_outputs_and_no_process(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, "print('so far')", _ENDLESS])
    async with stdio_client() as c:
        begun = await call(c, "execute_notebook_batch", input_path="in.ipynb", grid={"n": [1, 2, 3]}, wait=0, timeout=0)
        await until(lambda: len(list(workspace.glob("begun-*"))) >= min(2, os.cpu_count() or 1), seconds=20)
        assert begun["status"] == "running"
    psutil.wait_procs(marked_processes(os.environ[MARKER]), timeout=2)

    assert marked_processes(os.environ[MARKER]) == []
    outputs = [read_json(path) for path in (workspace / "outputs" / "in-batch").glob("*.ipynb")]
    assert outputs
    assert all(stdout_in(output["cells"][2]) == "so far\n" for output in outputs)


# Further attempts


async def test_a_run_that_fails_is_tried_again_and_the_last_attempt_counts(client: Connect, workspace: Path) -> None:
    """Also the table counts the attempts. Code that raises is tried again only if the call says so."""
    flaky = (
        "import os\nwith open(f'tries-{n}', 'a') as f: f.write('x')\ntries = os.path.getsize(f'tries-{n}')\n"
        "if n == 1 and tries < 2: os._exit(3)\nassert n != 2 or tries > 2, 'not yet'\nprint('try', tries)"
    )
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, flaky])
    request: dict[str, Any] = {"input_path": "in.ipynb", "grid": {"n": [1, 2, 3]}}
    async with client() as c:
        first = await batch(c, retries=2, **request)
        again = await batch(c, retries=1, retry_on=["error"], **request)
    async with client() as c:
        later = await call(c, "get_execution", execution_id=again["execution_id"], runs="1")
    assert later["runs"][0]["notes"] == ["attempt 1: AssertionError: not yet"]
    table = [json.loads(line) for line in (workspace / first["results"]).with_suffix(".jsonl").read_text().splitlines()]

    assert [row["status"] for row in rows(first)] == ["ok", "error", "ok"]
    assert rows(first)[0]["notes"] == ["attempt 1: died"] or "attempt 1: " in rows(first)[0]["notes"][0]
    assert [row["status"] for row in rows(again)] == ["ok", "ok", "ok"]
    assert [row["attempts"] for row in table if row["batch"] == first["execution_id"]] == [2, 1, 1]
    assert [row["attempts"] for row in table if row["batch"] == again["execution_id"]] == [0, 2, 0]
    assert [row.get("earlier_errors") for row in table][-2] == "attempt 1: AssertionError: not yet"
    assert [row["text"] for row in table][-3:] == ["try 2", "try 3", "try 1"]
    assert [len((workspace / f"tries-{n}").read_text()) for n in (1, 2, 3)] == [2, 3, 1]


async def test_a_cancelled_batch_tries_nothing_again(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, "open(f'tries-{n}', 'a').write('x')\n" + _ENDLESS])
    async with client() as c:
        begun = await batch(c, input_path="in.ipynb", parameters=[{"n": 1}], retries=9, wait=0, timeout=0)
        await until((workspace / "begun-1").exists, seconds=20)
        await call(c, "cancel_execution", execution_id=begun["execution_id"])
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert [row["status"] for row in rows(facts)] == ["interrupted"]
    assert (workspace / "tries-1").read_text() == "x"


async def test_neither_an_attempt_nor_a_late_run_replaces_what_another_program_wrote_meanwhile(
    client: Connect, workspace: Path
) -> None:
    """A person changes the output of the first run while it goes on, and makes the one of the second."""
    code = (
        "import os, time\nopen(f'tries-{n}', 'a').write('x')\nopen(f'begun-{n}', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.01)\nraise ValueError(n)"
    )
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, code])
    directory = workspace / "outputs" / "in-batch"
    async with client() as c:
        begun = await batch(
            c, input_path="in.ipynb", grid={"n": [1, 2]}, max_parallel=1, retries=1, retry_on=["error"], wait=0
        )
        await until((workspace / "begun-1").exists, seconds=20)
        await call(c, "add_cell", path="outputs/in-batch/in-n=1.ipynb", source="mine", cell_type="markdown")
        theirs = write_notebook(directory / "in-n=2.ipynb", ["'of a person'"]).read_bytes()
        (workspace / "go").touch()
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=30)

    first, second = rows(facts)
    assert first["error"] == "ValueError: 1"
    assert (workspace / "tries-1").read_text() == "x"
    assert "mine" in (directory / "in-n=1.ipynb").read_text()
    assert second["error"].startswith("ALREADY_EXISTS: ")
    assert (directory / "in-n=2.ipynb").read_bytes() == theirs
    assert not (workspace / "tries-2").exists()


# An early end


async def test_a_batch_begins_no_more_after_so_many_failures_and_the_same_request_takes_up_the_rest(
    client: Connect, workspace: Path
) -> None:
    """Runs that go on end as they would."""
    code = (
        "import os, time\nopen(f'begun-{n}', 'w').close()\n"
        "while n == 2 and not os.path.exists('go'): time.sleep(0.01)\n"
        "while n == 1 and not os.path.exists('begun-2'): time.sleep(0.01)\n"
        "assert n != 1 or os.path.exists('mended'), 'broken'"
    )
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, code])
    request: dict[str, Any] = {
        "input_path": "in.ipynb",
        "grid": {"n": [1, 2, 3, 4]},
        "max_parallel": 2,
        "stop_after_failures": 1,
    }
    async with client() as c, asyncio.timeout(60):
        begun = await batch(c, wait=0, **request)
        while not (facts := await call(c, "get_execution", execution_id=begun["execution_id"], wait=0.1))[
            "runs_failed"
        ]:
            pass
        (workspace / "go").touch()
        first = await call(c, "get_execution", execution_id=begun["execution_id"], wait=30)
        page = await call(c, "get_execution", execution_id=begun["execution_id"], runs="0-9")
        (workspace / "mended").touch()
        again = await batch(c, **request)

    assert facts["status"] == "running", "the second run goes on"
    assert (first["status"], first["runs_done"], first["runs_failed"]) == ("error", 2, 1)
    assert [row["status"] for row in rows(page)] == ["error", "ok", "not_run", "not_run"]
    assert any("stopped after 1 failed run" in note and "2 runs did not begin" in note for note in first["notes"])
    assert again["status"] == "ok"
    assert [row.get("kept", False) for row in rows(again)] == [False, True, False, False]


# Limits


async def test_a_kernel_over_its_memory_limit_is_killed_and_the_others_go_on(client: Connect, workspace: Path) -> None:
    """The memory of its child processes counts. The run says the limit, and so does its output."""
    hungry = (
        "import subprocess, sys\n"
        "code = \"x = b'1' * 300_000_000; import time; time.sleep(60)\"\n"
        "if n == 1: subprocess.run([sys.executable, '-c', code])\nprint('done')"
    )
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, hungry])
    async with client() as c:
        facts = await batch(c, input_path="in.ipynb", grid={"n": [1, 2]}, memory_limit=250_000_000)
        low = await refused(c, "execute_notebook_batch", input_path="in.ipynb", memory_limit=0)

    assert [row["status"] for row in rows(facts)] == ["died", "ok"]
    assert "memory_limit=250000000" in rows(facts)[0]["error"]
    output = read_json(workspace / rows(facts)[0]["output_path"])
    assert "memory_limit=250000000" in json.dumps(output["cells"])
    assert "memory_limit" in low
    table = (workspace / facts["results"]).with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(table[0])["peak_memory"] > 250_000_000


async def test_a_run_too_short_to_be_killed_says_that_it_was_over_its_limit(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_PARAMETERS, "x = b'1' * 100_000_000; del x"])
    async with client() as c:
        facts = await batch(c, input_path="in.ipynb", memory_limit=100_000_000)

    assert rows(facts)[0]["status"] == "died" or "memory_limit=100000000" in rows(facts)[0]["notes"][0]


async def test_resources_need_a_cluster(client: Connect, notebook: Path) -> None:
    async with client() as c:
        message = await refused(c, "execute_notebook_batch", input_path="in.ipynb", resources={"GPU": 1})
    async with client(dask_scheduler="tcp://127.0.0.1:9") as c:
        wrong = await refused(c, "execute_notebook_batch", input_path="in.ipynb", resources={"GPU": 0})

    assert "there is no cluster" in message
    assert "resources has 'GPU'" in wrong
