"""What all kinds of run share: the identity of a request, the wait for a kernel, durations, and claims of files."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import Json, call, cell, refused, until, write_notebook

from papermill_mcp.services.runs.requests import (
    BatchRequest,
    CodeRequest,
    NotebookCellRequest,
    NotebookRequest,
    PapermillRequest,
    RunRequest,
    VerifyRequest,
)
from papermill_mcp.services.workspace import Workspace

pytestmark = pytest.mark.kernel

_REQUESTS: dict[str, tuple[type[RunRequest], Json]] = {
    "execute_cell": (CodeRequest, {"kernel_id": "k", "code": "1"}),
    "execute_notebook": (NotebookRequest, {"path": "a.ipynb"}),
    "execute_notebook_cell": (NotebookCellRequest, {"path": "a.ipynb", "index": 0}),
    "execute_notebook_papermill": (PapermillRequest, {"input_path": "a.ipynb", "output_path": "out.ipynb"}),
    "execute_notebook_batch": (BatchRequest, {"input_path": "a.ipynb", "output_directory": "many"}),
    "verify_notebook": (VerifyRequest, {"path": "a.ipynb"}),
}

#: Another value for each argument, by name.
_OTHER: Json = {
    "kernel_id": "other",
    "code": "2",
    "path": "b.ipynb",
    "index": 1,
    "cell_id": "c1",
    "cells": "1",
    "timeout": 7,
    "store_history": False,
    "continue_on_error": True,
    "save": False,
    "input_path": "b.ipynb",
    "input_paths": ["a.ipynb"],
    "output_path": "other.ipynb",
    "output_directory": "others",
    "parameters": {"x": 2},
    "grid": {"x": [1]},
    "kernel_name": "bash",
    "language": "bash",
    "python": "other",
    "fresh": True,
    "strict_parameters": False,
    "keep_kernel": True,
    "report_mode": True,
    "overwrite": True,
    "max_parallel": 1,
    "resume": False,
    "against": "git:HEAD",
    "compare": "run",
    "rtol": 0.1,
    "ignore": ["x"],
    "repeat": 2,
    "update": True,
    "if_revision": "0" * 16,
    "retries": 1,
    "retry_on": ["error"],
    "stop_after_failures": 1,
    "dry_run": True,
    "sample": 1,
    "memory_limit": 10_000_000,
    "resources": {"GPU": 1},
    "seed": 1,
}


async def test_every_argument_but_the_wait_belongs_to_the_identity_of_a_request(
    client: Connect, workspace: Path
) -> None:
    """The arguments are those of the schemas, so that a new one cannot be forgotten."""
    here = Workspace([workspace])
    async with client() as connected:
        tools = {tool.name: tool for tool in (await connected.list_tools()).tools}
    for name, (kind, given) in _REQUESTS.items():
        arguments = set(tools[name].input_schema["properties"]) - {"wait", "idempotency_key"}
        assert arguments == set(kind.model_fields), name
        first = kind(**given).identity(here)
        assert kind(**given).identity(here) == first
        for argument in arguments:
            other: Any = _OTHER[argument]
            if name == "execute_notebook_batch" and argument == "parameters":
                other = [other]
            changed = kind.model_construct(**{**kind(**given).model_dump(), argument: other})
            assert changed.identity(here) != first, argument
        assert {argument for argument in arguments if "path" in argument or "directory" in argument} == set(kind.paths)
    assert len({kind(**given).identity(here) for kind, given in _REQUESTS.values()}) == len(_REQUESTS)


@pytest.mark.case("W03")
def test_a_request_is_the_same_by_any_name_of_its_files_and_another_one_in_other_roots(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for directory in (root / "below", other):
        directory.mkdir(parents=True)
    (root / "a.ipynb").write_text("{}")
    (root / "link.ipynb").symlink_to("a.ipynb")
    (root / "far").symlink_to("below")
    here = Workspace([root])

    for name in ("./a.ipynb", "below/../a.ipynb", str(root / "a.ipynb"), "link.ipynb"):
        assert NotebookRequest(path=name).identity(here) == NotebookRequest(path="a.ipynb").identity(here), name
    batches = [
        BatchRequest(input_paths=[a], output_directory=b) for a, b in (("a.ipynb", "far/x"), ("link.ipynb", "below/x"))
    ]
    assert batches[0].identity(here) == batches[1].identity(here)
    for elsewhere in (Workspace([other]), Workspace([root, other])):
        assert NotebookRequest(path="a.ipynb").identity(elsewhere) != NotebookRequest(path="a.ipynb").identity(here)


@pytest.mark.parametrize(
    ("tool", "change"),
    [
        ("execute_cell", {"store_history": False}),
        ("execute_cell", {"timeout": 7}),
        ("execute_notebook", {"continue_on_error": True}),
        ("execute_notebook_papermill", {"report_mode": True}),
        ("execute_notebook_papermill", {"overwrite": True}),
        ("execute_notebook_batch", {"resume": False}),
    ],
)
async def test_a_key_does_not_stand_for_a_request_with_another_option(
    tool: str, change: Json, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", ["print('ran')"])
    arguments: Json = dict(_REQUESTS[tool][1]) | {"idempotency_key": "once"}
    async with client() as connected:
        if tool == "execute_cell":
            arguments["kernel_id"] = (await call(connected, "start_kernel"))["kernel_id"]
        first = await call(connected, tool, **arguments)
        again = await call(connected, tool, wait=9, **arguments)
        message = await refused(connected, tool, **arguments, **change)

    assert again["execution_id"] == first["execution_id"]
    assert any("this is the result of that earlier request" in note for note in again["notes"])
    assert message.startswith("INVALID_ARGUMENT: idempotency_key 'once' was used for another request")


def _ended(records: list[logging.LogRecord], operation: str) -> list[Any]:
    """The log lines about ended runs of one tool."""
    return [
        record
        for record in records
        if record.getMessage() == "execution ended" and getattr(record, "operation", "") == operation
    ]


async def test_a_batch_that_waits_for_a_kernel_is_queued_and_its_wait_is_no_duration(
    client: Connect, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_notebook(workspace / "a.ipynb", [cell("x = 1", tags=["parameters"]), "print(x)"])
    async with client(max_kernels=1) as connected:
        kernel = await call(connected, "start_kernel")
        began = time.monotonic()
        waiting = await call(
            connected, "execute_notebook_batch", input_path="a.ipynb", parameters=[{"x": 1}, {"x": 2}], wait=1.5
        )
        listed = await call(connected, "list_executions", status="queued")
        outputs = list((workspace / "outputs").rglob("*.ipynb"))
        await call(connected, "stop_kernel", kernel_id=kernel["kernel_id"])
        ended = await call(connected, "get_execution", execution_id=waiting["execution_id"], wait=30, seconds=40)
        took = time.monotonic() - began

    assert waiting["status"] == "queued"
    assert "waiting for a kernel to end: 1 live, as max_kernels allows" in waiting["progress"]
    assert (waiting["runs"][0]["status"], waiting["runs"][0].get("duration")) == ("queued", None)
    assert [row["execution_id"] for row in listed["executions"]] == [waiting["execution_id"]]
    assert outputs == [], "nothing is prepared while the batch waits"
    assert (ended["status"], ended["runs_done"]) == ("ok", 2)
    runs = _ended(caplog.records, "execute_notebook_papermill")
    assert len(runs) == 2
    # The second run waited for the first one, and both for the stop of the kernel: 1.5 s and more.
    total = sum(run.duration for run in runs)
    (batch,) = _ended(caplog.records, "execute_notebook_batch")
    assert batch.outcome == "ok"
    assert batch.duration == pytest.approx(ended["duration"], abs=0.01)
    assert total <= batch.duration + 0.1
    assert waiting["duration"] == 0
    assert took - batch.duration >= 1.4


async def test_a_batch_that_is_cancelled_while_it_waits_runs_nothing(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["print('ran')"])
    async with client(max_kernels=1) as connected:
        kernel = await call(connected, "start_kernel")
        begun = await call(connected, "execute_notebook_batch", input_path="a.ipynb", wait=0.5)
        ended = await call(connected, "cancel_execution", execution_id=begun["execution_id"])
        look = await call(connected, "get_execution", execution_id=begun["execution_id"])
        await call(connected, "stop_kernel", kernel_id=kernel["kernel_id"])
        again = await call(connected, "execute_notebook_batch", input_path="a.ipynb")

    assert (begun["status"], ended["status"], ended["ended"]) == ("queued", "interrupted", True)
    assert look["runs"][0]["status"] == "aborted"
    assert again["status"] == "ok"


async def test_kernels_are_given_first_come_first_served(client: Connect, workspace: Path) -> None:
    """A kernel that is started while a batch waits in line does not jump the queue."""
    write_notebook(workspace / "a.ipynb", ["import time; time.sleep(1)"])
    async with client(max_kernels=1) as connected:
        kernel = await call(connected, "start_kernel")
        begun = await call(connected, "execute_notebook_batch", input_path="a.ipynb", wait=0.3)
        await call(connected, "stop_kernel", kernel_id=kernel["kernel_id"])
        message = await refused(connected, "start_kernel")
        ended = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert message.startswith("LIMIT_REACHED")
    assert ended["status"] == "ok"


@pytest.mark.parametrize("death", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
async def test_the_death_of_a_kernel_makes_room_for_a_run_that_waits(
    death: str, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", ["print('ran')"])
    async with client(max_kernels=1) as connected:
        kernel = await call(connected, "start_kernel")
        begun = await call(connected, "execute_notebook_batch", input_path="a.ipynb", wait=0.3)
        await call(connected, "execute_cell", kernel_id=kernel["kernel_id"], code=f"import os; {death}")
        ended = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert (begun["status"], ended["status"]) == ("queued", "ok")


async def test_code_behind_other_code_is_queued_and_its_wait_is_no_duration(
    client: Connect, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_notebook(workspace / "a.ipynb", ["print('in place')"])
    code = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)"
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        busy = await call(connected, "execute_cell", kernel_id=kernel_id, code=code, timeout=0, wait=1.0)
        waiting = await call(connected, "execute_cell", kernel_id=kernel_id, code="1", wait=0.5)
        notebook = await call(connected, "execute_notebook", path="a.ipynb", kernel_id=kernel_id, wait=0.5)
        await asyncio.to_thread((workspace / "go").touch)
        for begun in (busy, waiting, notebook):
            ended = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)
            assert ended["status"] == "ok"

    assert (busy["status"], waiting["status"], notebook["status"]) == ("running", "queued", "queued")
    assert waiting["progress"].startswith("waiting for the kernel")
    assert notebook["progress"].startswith("waiting for the kernel")
    long, short = _ended(caplog.records, "execute_cell")
    assert long.duration >= 2.0
    assert short.duration < 1.0
    (run,) = _ended(caplog.records, "execute_notebook")
    assert run.duration < 1.0


async def test_output_that_comes_late_does_not_end_a_run_twice(
    client: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    late = (
        "import asyncio\nasync def say():\n    await asyncio.sleep(0.3)\n    print('late')\n"
        "task = asyncio.create_task(say())"
    )
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        first = await call(connected, "execute_cell", kernel_id=kernel_id, code=late)
        await call(connected, "execute_cell", kernel_id=kernel_id, code="await task; await asyncio.sleep(0.2)")
        again = await call(connected, "get_execution", execution_id=first["execution_id"])

    assert "late" in str(again["outputs"])
    assert len(_ended(caplog.records, "execute_cell")) == 2


async def test_one_table_holds_the_claims_of_all_kinds_of_run(client: Connect, workspace: Path) -> None:
    """A run in place, a run with parameters and a batch refuse a file that another run has, in the same words."""
    code = (
        "import pathlib, time\npathlib.Path('up').touch()\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)"
    )
    write_notebook(workspace / "a.ipynb", [code])
    async with client() as connected:
        batch = await call(connected, "execute_notebook_batch", input_path="a.ipynb", output_directory="many", wait=0)
        await until((workspace / "up").exists, seconds=20, what="the run of the batch goes on")
        (output,) = (workspace / "many").glob("*.ipynb")
        name = f"many/{output.name}"
        messages = [
            await refused(connected, "execute_notebook", path=name),
            await refused(
                connected, "execute_notebook_papermill", input_path="a.ipynb", output_path=name, overwrite=True
            ),
            await refused(connected, "execute_notebook_batch", input_path="a.ipynb", output_directory="many"),
        ]
        (workspace / "go").touch()
        (workspace / "many" / "go").touch()
        await call(connected, "get_execution", execution_id=batch["execution_id"], wait=20)
        again = await call(connected, "execute_notebook", path=name)

    assert {message.partition(". ")[0] for message in messages} == {
        f"BUSY: {name} is being run by execution {batch['execution_id']}"
    }
    assert again["status"] == "ok"


async def test_a_comment_in_fenced_code_is_no_heading_of_a_run(client: Connect, workspace: Path) -> None:
    text = "# Train the model\n\n```sh\n# install first\npip install x\n```\n"
    code = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)"
    write_notebook(workspace / "a.ipynb", [cell(text, "markdown"), code])
    async with client() as connected:
        begun = await call(connected, "execute_notebook", path="a.ipynb", wait=1)
        (workspace / "go").touch()
        await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert '"Train the model"' in begun["progress"]


@pytest.mark.parametrize("end", ["stop_kernel", "restart_kernel"])
async def test_a_run_of_a_batch_that_is_ended_from_outside_has_failed(
    end: str, client: Connect, workspace: Path
) -> None:
    code = "import pathlib, time\npathlib.Path('up').touch()\ntime.sleep(60)"
    write_notebook(workspace / "a.ipynb", [code])
    async with client() as connected:
        begun = await call(connected, "execute_notebook_batch", input_path="a.ipynb", timeout=0, wait=0)
        await until((workspace / "up").exists, seconds=20, what="the run goes on")
        (kernel,) = (await call(connected, "list_kernels"))["active"]
        # The run ends its kernel when it is over, so a restart may find it stopped.
        await connected.call_tool(end, {"kernel_id": kernel["kernel_id"]})
        ended = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    assert (ended["status"], ended["runs_failed"]) == ("error", 1)
    assert ended["runs"][0]["status"] == "aborted"


async def test_a_dead_kernel_gets_no_place_beyond_the_limit(client: Connect) -> None:
    async with client(max_kernels=1) as connected:
        dead = (await call(connected, "start_kernel"))["kernel_id"]
        await call(connected, "execute_cell", kernel_id=dead, code="import os; os._exit(1)")
        other = (await call(connected, "start_kernel"))["kernel_id"]
        message = await refused(connected, "restart_kernel", kernel_id=dead)
        await call(connected, "stop_kernel", kernel_id=other)
        again = await call(connected, "restart_kernel", kernel_id=dead)

    assert message.startswith("LIMIT_REACHED")
    assert again["state"] == "idle"


async def test_a_long_name_of_a_notebook_makes_a_shorter_name_of_its_output(client: Connect, workspace: Path) -> None:
    name = "é" * 120 + ".ipynb"
    write_notebook(workspace / name, ["print('ran')"])
    async with client() as connected:
        one = await call(connected, "execute_notebook_papermill", input_path=name)
        many = await call(connected, "execute_notebook_batch", input_path=name, parameters=[{}])

    assert (one["status"], many["status"]) == ("ok", "ok")
    assert (workspace / one["output_path"]).is_file()
    assert (workspace / many["runs"][0]["output_path"]).is_file()


@pytest.mark.parametrize("tool", ["execute_cell", "execute_notebook"])
async def test_a_key_is_kept_before_the_code_runs(tool: str, client: Connect, workspace: Path) -> None:
    """A server that is killed at once leaves the key to the next one: the code of a request runs once."""
    query = "SELECT idempotency_key FROM executions"
    seen = f"import sqlite3, os\nprint(sqlite3.connect(os.environ['STORE']).execute('{query}').fetchall())"
    write_notebook(workspace / "a.ipynb", [seen])
    async with client() as connected:
        store = str(workspace.parent / "state" / "executions.sqlite")
        kernel_id = (await call(connected, "start_kernel", env={"STORE": store}))["kernel_id"]
        arguments = {"code": seen} if tool == "execute_cell" else {"path": "a.ipynb"}
        facts = await call(connected, tool, kernel_id=kernel_id, idempotency_key="once", **arguments)

    assert "once" in str(facts)


@pytest.mark.kernel
async def test_an_execution_that_will_wait_is_queued_from_its_first_reply_on(client: Connect, workspace: Path) -> None:
    """It must not be called running before it is queued."""
    write_notebook(workspace / "a.ipynb", ["1"])
    async with client(max_kernels=1) as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        here = {"kernel_id": kernel_id, "wait": 0}
        begun = await asyncio.gather(
            *(call(connected, "execute_cell", **here, code="import time; time.sleep(1)") for _ in range(3)),
            call(connected, "execute_notebook", **here, path="a.ipynb"),
            call(connected, "execute_notebook_batch", input_path="a.ipynb", wait=0),
        )
        assert sorted(one["status"] for one in begun) == ["queued"] * 4 + ["running"]
        await call(connected, "stop_kernel", kernel_id=kernel_id)
        batch = begun[-1]["execution_id"]
        assert (await call(connected, "get_execution", execution_id=batch, wait=20))["status"] == "ok"
