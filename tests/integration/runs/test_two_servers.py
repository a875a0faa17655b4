"""Two servers with one state directory: one run at a time for each file, and one run for each key."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from conftest import StartRaw
from helpers import (
    Json,
    RawServer,
    cell,
    remove_cut_off_saves,
    until,
    write_notebook,
)

pytestmark = pytest.mark.kernel

#: A notebook that says that it runs, and waits to be told to end.
WAITING: list[Json | str] = [
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# Keys


@pytest.mark.slow
@pytest.mark.case("W03")
async def test_a_key_of_another_workspace_is_another_key(
    workspace: Path, state_directory: Path, tmp_path: Path
) -> None:
    (other := tmp_path / "other").mkdir()
    ids = set()
    for root in (workspace, other):
        (root / "go").touch()
        write_notebook(root / "a.ipynb", WAITING)
        async with RawServer.running(root, state_directory) as server:
            ids.add((await server.call("execute_notebook", path="a.ipynb", idempotency_key="k"))["execution_id"])
        async with RawServer.running(root, state_directory) as server:
            absolute = str(root / "a.ipynb")
            again = await server.call("execute_notebook", path=absolute, idempotency_key="k")
            ids.add(again["execution_id"])
        assert runs(root) == 1
    assert len(ids) == 2


@pytest.mark.slow
@pytest.mark.case("W03")
@pytest.mark.parametrize("going", [IN_PLACE, PAPERMILL, BATCH], ids=["in place", "papermill", "batch"])
async def test_two_servers_that_get_a_key_at_once_run_it_once(
    going: tuple[str, Json], raw_server: StartRaw, workspace: Path
) -> None:
    """The second server waits for the end in the first, and shows its record."""
    write_notebook(workspace / "a.ipynb", WAITING)
    tool, arguments = going
    arguments = arguments | {"idempotency_key": "once", "wait": 30}
    if "grid" in arguments:
        arguments["grid"] = {"n": [1]}
    async with two(raw_server) as (first, second), asyncio.TaskGroup() as group:
        calls = [group.create_task(server.call(tool, **arguments)) for server in (first, second)]
        await begun(workspace)
        await asyncio.sleep(0.5)  # nothing tells that a second run does not begin
        (workspace / "go").touch()
    one, other = (call.result() for call in calls)
    assert one["execution_id"] == other["execution_id"]
    assert {one["status"], other["status"]} == {"ok"}
    assert runs(workspace) == 1


async def killed_while(server: RawServer, tool: str, delay: float, **arguments: Any) -> None:
    """Kill a server some time after a request."""
    await server.send("tools/call", {"name": tool, "arguments": arguments})
    await asyncio.sleep(delay)
    server.signal(signal.SIGKILL)
    await server.exit_code(seconds=5)


@pytest.mark.slow
@pytest.mark.case("W04")
async def test_after_a_kill_at_any_instant_the_same_key_runs_nothing_twice(
    raw_server: StartRaw, workspace: Path
) -> None:
    """And never ends in an error: the key wins over the output that the killed server left."""
    short = ["with open('runs', 'a') as file: file.write('x\\n')", "import time; time.sleep(0.2)"]
    write_notebook(workspace / "a.ipynb", short)
    random = Random(20)
    ends: Counter[str] = Counter()
    for number in range(10):
        (workspace / "runs").unlink(missing_ok=True)
        request: Json = {
            "input_path": "a.ipynb",
            "output_path": f"out-{number}.ipynb",
            "idempotency_key": f"key {number}",
        }
        async with raw_server() as server:
            await killed_while(server, "execute_notebook_papermill", random.uniform(0.0, 2.0), **request)
        async with raw_server() as server:
            again = await server.call("execute_notebook_papermill", **request, wait=30)
            ends[again["status"]] += 1
            assert again["status"] in ("ok", "aborted")
            assert runs(workspace) <= 1
            before = runs(workspace)
            third = await server.call("execute_notebook_papermill", **request, wait=30)
            assert third["execution_id"] == again["execution_id"]
            assert runs(workspace) == before
            if again["status"] == "aborted":
                assert any("new idempotency_key" in note for note in again["notes"])
        remove_cut_off_saves(workspace)
    assert ends["aborted"], ends


@pytest.mark.case("W04")
async def test_a_key_wins_over_the_output_that_a_killed_server_left(raw_server: StartRaw, workspace: Path) -> None:
    """Killed as soon as the output is there, before the first cell."""
    write_notebook(workspace / "a.ipynb", WAITING)
    request: Json = {"input_path": "a.ipynb", "output_path": "out.ipynb", "idempotency_key": "once"}
    async with raw_server() as server:
        await server.send("tools/call", {"name": "execute_notebook_papermill", "arguments": request})
        await until((workspace / "out.ipynb").exists, seconds=30)
        server.signal(signal.SIGKILL)
        await server.exit_code(seconds=5)
    async with raw_server() as server:
        again = await server.call("execute_notebook_papermill", **request)
        assert again["status"] == "aborted"
        assert again["output_path"] == "out.ipynb"
        fresh = request | {"idempotency_key": "another", "overwrite": True, "wait": 0}
        assert (await server.call("execute_notebook_papermill", **fresh))["status"] == "running"
        (workspace / "go").touch()
        found = (await server.call("list_executions"))["executions"]
        assert [row["status"] for row in found if row.get("cut_off")] == ["aborted"]
        await server.call("get_execution", execution_id=found[0]["execution_id"], wait=30)
    remove_cut_off_saves(workspace)


async def test_a_request_that_began_nothing_leaves_its_key_free(raw_server: StartRaw, workspace: Path) -> None:
    (workspace / "go").touch()
    async with raw_server() as server:
        missing: Json = {"path": "a.ipynb", "idempotency_key": "once"}
        assert (await refusal(server, "execute_notebook", **missing)).startswith("NOT_FOUND")
        write_notebook(workspace / "a.ipynb", WAITING)
        assert (await server.call("execute_notebook", **missing))["status"] == "ok"
        assert len((await server.call("list_executions"))["executions"]) == 1


class Fleet:
    """Three servers with one workspace and one state directory. Any of them may be killed, and is started anew."""

    def __init__(self, start: StartRaw) -> None:
        self._start = start
        self._places: list[AsyncExitStack] = []
        self.servers: list[RawServer] = []

    async def __aenter__(self) -> Self:
        for _ in range(3):
            self._places.append(AsyncExitStack())
            self.servers.append(await self._places[-1].enter_async_context(self._start()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server, place in zip(self.servers, self._places, strict=True):
            server.close_stdin()
            await server.exit_code(seconds=5)
            await place.aclose()

    async def replace(self, index: int) -> None:
        """Start a server in the place of one that was killed."""
        await self._places[index].aclose()
        self.servers[index] = await self._places[index].enter_async_context(self._start())


#: Notes its key and each overlap with another run of the same output.
EXCLUSIVE: list[Json | str] = [
    cell("key = ''\noutput = ''", tags=["parameters"]),
    "import fcntl, time\n"
    "held = open(output + '.held', 'w')\n"
    "try: fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except OSError: open('overlap', 'a').write(output)\n"
    "with open('runs', 'a') as file: file.write(key + '\\n')\n"
    "time.sleep(0.3)",
]


@pytest.mark.slow
@pytest.mark.case("W01", "W02", "W03", "W04")
@pytest.mark.parametrize("seed", [1, 2])
async def test_three_servers_under_random_kills_run_each_key_once_and_each_output_alone(
    seed: int, raw_server: StartRaw, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", EXCLUSIVE)
    random = Random(seed)
    ids: dict[str, set[str]] = {}

    async def request(server: RawServer, key: str) -> str:
        """Run a key, whose output is decided by it: `ok`, `aborted`, `BUSY`, or `killed` if the server has gone."""
        output = f"out-{key[-1]}.ipynb"
        arguments = {
            "input_path": "a.ipynb",
            "output_path": output,
            "parameters": {"key": key, "output": output},
            "overwrite": True,
            "idempotency_key": key,
            "wait": 20,
        }
        message = {"name": "execute_notebook_papermill", "arguments": arguments}
        _, answer = await server.send("tools/call", message)
        try:
            result = (await asyncio.wait_for(answer, 40))["result"]
        except asyncio.CancelledError:
            return "killed"
        if result.get("isError"):
            return str(result["content"][0]["text"]).partition(":")[0]
        facts = result["structuredContent"]
        ids.setdefault(key, set()).add(facts["execution_id"])
        return str(facts["status"])

    ends: Counter[str] = Counter()
    async with Fleet(raw_server) as fleet:
        for turn in range(6):
            keys = [f"{turn}{random.choice('xy')}-{random.choice('ab')}" for _ in fleet.servers]
            calls = [asyncio.create_task(request(server, key)) for server, key in zip(fleet.servers, keys, strict=True)]
            victim = random.randrange(3) if random.random() < 0.7 else None
            if victim is not None:
                await asyncio.sleep(random.uniform(0.0, 1.5))
                fleet.servers[victim].signal(signal.SIGKILL)
                await fleet.servers[victim].exit_code(seconds=5)
            ends.update(await asyncio.gather(*calls))
            if victim is not None:
                await fleet.replace(victim)
                ends.update(await asyncio.gather(*(request(fleet.servers[victim], key) for key in {*keys})))
        final = await asyncio.gather(
            *(request(server, f"last-{name}") for server, name in zip(fleet.servers, "abc", strict=True))
        )

    assert final == ["ok", "ok", "ok"]
    assert {*ends} <= {"ok", "aborted", "BUSY", "killed"}, ends
    assert all(len(found) == 1 for found in ids.values()), ids
    assert not (workspace / "overlap").exists()
    ran = (workspace / "runs").read_text().split()
    assert len(ran) == len({*ran})
    remove_cut_off_saves(workspace)


@pytest.mark.case("W02")
async def test_a_server_that_was_stopped_holds_up_no_other(raw_server: StartRaw, workspace: Path) -> None:
    """Its run still has its file, and nothing else waits for it."""
    for name in "ab":
        write_notebook(workspace / f"{name}.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        await second.call("start_kernel")
        await first.call("execute_notebook", path="a.ipynb", wait=0, idempotency_key="k")
        await begun(workspace)
        first.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert (await refusal(second, "execute_notebook", path="a.ipynb", wait=0)).startswith("BUSY")
            await second.call("list_executions")
            again = await second.call("execute_notebook", path="a.ipynb", wait=0, idempotency_key="k")
            assert again["status"] in ("queued", "running")
            assert time.monotonic() - began < 2
            (workspace / "go").touch()
            assert (await second.call("execute_notebook", path="b.ipynb", wait=30))["status"] == "ok"
        finally:
            first.signal(signal.SIGCONT)
    remove_cut_off_saves(workspace)  # the end of the test kills the first server, which saves by then


# Executions of others


@pytest.mark.case("W05")
async def test_executions_of_another_workspace_do_not_exist_here(
    workspace: Path, state_directory: Path, tmp_path: Path
) -> None:
    (other := tmp_path / "other").mkdir()
    write_notebook(workspace / "secret-client.ipynb", WAITING)
    async with (
        RawServer.running(workspace, state_directory) as first,
        RawServer.running(other, state_directory) as second,
    ):
        kernel_id = (await first.call("start_kernel"))["kernel_id"]
        code = await first.call("execute_cell", kernel_id=kernel_id, code="'secret'")
        run = await first.call("execute_notebook", path="secret-client.ipynb", wait=0)
        await begun(workspace)

        assert (await second.call("list_executions"))["executions"] == []
        for found in (code, run):
            for tool in ("get_execution", "cancel_execution"):
                text = await refusal(second, tool, execution_id=found["execution_id"])
                assert text.startswith("EXECUTION_NOT_FOUND")
                assert "secret-client" not in text
        (workspace / "go").touch()
        assert (await first.call("get_execution", execution_id=run["execution_id"], wait=30))["status"] == "ok"


@pytest.mark.slow
@pytest.mark.case("W05")
async def test_a_run_of_another_living_server_is_shown_as_such_and_not_cancelled(
    raw_server: StartRaw, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", WAITING)
    async with two(raw_server) as (first, second):
        run = await first.call("execute_notebook", path="a.ipynb", wait=0)
        await begun(workspace)
        identifier = run["execution_id"]

        async def rows() -> list[Json]:
            found: list[Json] = (await second.call("list_executions"))["executions"]
            return found

        async with asyncio.timeout(10):
            while not (found := await rows()):
                await asyncio.sleep(0.05)  # a record is written after a moment
        assert [(row["execution_id"], row["server_pid"]) for row in found] == [(identifier, first.pid)]
        shown = await second.call("get_execution", execution_id=identifier)
        assert str(first.pid) in shown["notes"][0]
        cancelled = await second.call("cancel_execution", execution_id=identifier)
        assert (cancelled["ended"], cancelled["status"]) == (False, "running")

        waiting = asyncio.create_task(second.call("get_execution", execution_id=identifier, wait=30))
        (workspace / "go").touch()
        assert (await waiting)["status"] == "ok"

        (workspace / "go").unlink()
        await first.call("execute_notebook", path="a.ipynb", wait=0)
        await begun(workspace, 2)
        await asyncio.sleep(0.6)  # until the record is written
        first.signal(signal.SIGKILL)
        await first.exit_code(seconds=5)
        assert (await rows())[0]["cut_off"]
