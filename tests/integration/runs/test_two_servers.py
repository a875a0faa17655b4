"""Two servers with one state directory: one run at a time for each file, and one run for each key."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRaw
from helpers import Json, RawServer, cell, until, write_notebook

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

#: A notebook that says that it runs, and waits to be told to end.
WAITING = [
    cell("n = 0", tags=["parameters"]),
    "import os, pathlib, time\n"
    "with open('runs', 'a') as file: file.write(f'{os.getppid()}\\n')\n"
    "while not pathlib.Path('go').exists(): time.sleep(0.02)",
]


@asynccontextmanager
async def two(raw_server: StartRaw) -> AsyncIterator[tuple[RawServer, RawServer]]:
    """Two servers with one workspace and one state directory."""
    async with raw_server() as first, raw_server() as second:
        yield first, second


async def refusal(server: RawServer, tool: str, **arguments: Any) -> str:
    """The text of an error."""
    result = await server.request("tools/call", {"name": tool, "arguments": arguments})
    assert result.get("isError"), result
    return str(result["content"][0]["text"])


def runs(workspace: Path) -> int:
    """How many runs of the waiting notebook have begun."""
    file = workspace / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


async def begun(workspace: Path, count: int = 1) -> None:
    await until(lambda: runs(workspace) == count, seconds=30, what=f"{count} runs")


IN_PLACE: tuple[str, Json] = ("execute_notebook", {"path": "a.ipynb"})
ONE_CELL: tuple[str, Json] = ("execute_notebook_cell", {"path": "a.ipynb", "index": 1})
PAPERMILL: tuple[str, Json] = (
    "execute_notebook_papermill",
    {"input_path": "a.ipynb", "output_path": "out.ipynb", "overwrite": True},
)
BATCH: tuple[str, Json] = (
    "execute_notebook_batch",
    {"input_path": "a.ipynb", "grid": {"n": [1, 2]}, "output_directory": "batch", "max_parallel": 1, "resume": False},
)


@pytest.mark.case("W02")
@pytest.mark.parametrize(
    ("going", "refused"),
    [
        (IN_PLACE, [IN_PLACE, ONE_CELL]),
        (ONE_CELL, [IN_PLACE]),
        (PAPERMILL, [PAPERMILL, ("execute_notebook", {"path": "./out.ipynb"})]),
    ],
    ids=["in place", "one cell", "papermill"],
)
async def test_a_file_that_another_server_runs_is_busy(
    going: tuple[str, Json], refused: list[tuple[str, Json]], raw_server: StartRaw, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        tool, arguments = going
        run = await first.call(tool, **arguments, wait=0)
        await begun(workspace)
        for other, others in refused:
            text = await refusal(second, other, **others, wait=0)
            assert text.startswith("BUSY")
            assert run["execution_id"] in text
            assert str(first.pid) in text
        (workspace / "go").touch()
        assert (await first.call("get_execution", execution_id=run["execution_id"], wait=30))["status"] == "ok"
        assert runs(workspace) == 1

        after = await second.call(tool, **arguments, wait=30)
        assert after["status"] == "ok"


@pytest.mark.case("W02")
async def test_the_outputs_of_a_batch_are_busy_for_another_server(raw_server: StartRaw, workspace: Path) -> None:
    """Also those whose turn has not come, for batches and for single runs."""
    write_notebook(workspace / "a.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        tool, arguments = BATCH
        batch = await first.call(tool, **arguments, wait=0)
        await begun(workspace)
        outputs = {path.name for path in (workspace / "batch").iterdir()}
        assert (await refusal(second, tool, **arguments, wait=0)).startswith("BUSY")
        (workspace / "go").touch()
        ended = await first.call("get_execution", execution_id=batch["execution_id"], wait=30)
        assert ended["status"] == "ok"

        (workspace / "go").unlink()
        (workspace / "runs").unlink()
        later = next(row["output_path"] for row in ended["runs"] if Path(row["output_path"]).name not in outputs)
        batch = await first.call(tool, **arguments, wait=0)
        await begun(workspace)
        single: Json = {"input_path": "a.ipynb", "output_path": later, "overwrite": True, "wait": 0}
        assert (await refusal(second, "execute_notebook_papermill", **single)).startswith("BUSY")
        assert (await refusal(first, "execute_notebook_papermill", **single)).startswith("BUSY")
        (workspace / "go").touch()
        ended = await first.call("get_execution", execution_id=batch["execution_id"], wait=30)
        assert ended["status"] == "ok"


@pytest.mark.case("W01")
async def test_a_killed_server_leaves_no_claim(raw_server: StartRaw, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        await first.call("execute_notebook", path="a.ipynb", wait=0)
        await begun(workspace)
        assert (await refusal(second, "execute_notebook", path="a.ipynb")).startswith("BUSY")
        first.signal(signal.SIGKILL)
        await first.exit_code(seconds=5)

        (workspace / "go").touch()
        assert (await second.call("execute_notebook", path="a.ipynb", wait=30))["status"] == "ok"


async def test_names_made_by_two_servers_differ(raw_server: StartRaw, workspace: Path) -> None:
    """Both make the name of an output of the time."""
    write_notebook(workspace / "a.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        made = [
            (server, await server.call("execute_notebook_papermill", input_path="a.ipynb", wait=0))
            for server in (first, second, first, second)
        ]
        (workspace / "go").touch()
        for server, run in made:
            assert (await server.call("get_execution", execution_id=run["execution_id"], wait=30))["status"] == "ok"
        assert len({run["output_path"] for _, run in made}) == 4


async def test_a_server_without_a_place_for_claims_runs_and_logs_it_once(raw_server: StartRaw, workspace: Path) -> None:
    (workspace / "go").touch()
    write_notebook(workspace / "a.ipynb", WAITING)
    state = workspace.parent / "state"
    state.mkdir()
    (state / "claims").touch()
    async with raw_server() as server:
        for _ in range(2):
            assert (await server.call("execute_notebook", path="a.ipynb"))["status"] == "ok"
        assert server.errors.count("runs of other servers are not seen") == 1
