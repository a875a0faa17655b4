"""Random histories of a batch on Dask: workers and the scheduler are killed at random moments.

No run is lost, none counts twice, and the table agrees with the outputs. Set CLUSTER_SEED to repeat a history.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Connect
from helpers import REPOSITORY, Json, call, cell, read_json, stdout_in, until, write_notebook
from mcp import Client

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(180)]

_MAIN = {name: f"from distributed.cli.dask_{name} import main; main()" for name in ("scheduler", "worker")}

#: Runs of the batch, workers, and the seconds in which processes are killed.
RUNS = 10
WORKERS = 2
SECONDS = 20.0

_CODE = (
    "import os, time\n"
    "with open(f'ran-{n}', 'a') as log:\n"
    "    log.write(f'{os.getpid()}\\n')\n"
    "time.sleep(0.2 + n % 3 * 0.3)\n"
    "print('square', n * n)"
)


class Victims:
    """A scheduler and its workers, which are killed and started anew."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = directory / "scheduler.json"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def _start(self, kind: str, *flags: str) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"DASK_TEMPORARY_DIRECTORY": str(self._directory), "PYTHONPATH": paths}
        command = [sys.executable, "-c", _MAIN[kind], "--no-dashboard", *flags]
        with (self._directory / "dask.log").open("ab") as log:
            return subprocess.Popen(command, env=env, cwd=self._directory, stdout=log, stderr=log)

    async def start(self) -> None:
        """Start everything anew."""
        self.file.unlink(missing_ok=True)
        flags = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        self.scheduler = self._start("scheduler", *flags)
        await until(
            lambda: self.file.exists() and self.file.read_text().endswith("}"), seconds=30, what="the scheduler"
        )
        for _ in range(WORKERS):
            self.add_worker()

    def add_worker(self) -> None:
        self.workers.append(self._start("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny"))

    def kill_worker(self, number: int) -> None:
        worker = self.workers.pop(number)
        worker.send_signal(signal.SIGKILL)
        worker.wait(timeout=10)

    def kill_all(self) -> None:
        processes = [*self.workers, *([self.scheduler] if self.scheduler is not None else [])]
        for process in reversed(processes):
            process.kill()
        for process in processes:
            process.wait(timeout=10)
        self.workers, self.scheduler = [], None


async def _history(chance: random.Random, victims: Victims, stop: float, log: list[str]) -> None:
    """Kill processes until the time is over. There is always a scheduler with workers soon after."""
    while time.monotonic() < stop:
        await asyncio.sleep(chance.uniform(0.3, 4.0))
        if chance.random() < 0.75:
            victim = chance.randrange(len(victims.workers))
            log.append(f"worker {victim}")
            victims.kill_worker(victim)
            await asyncio.sleep(chance.choice([0.0, 0.5]))
            victims.add_worker()
        else:
            log.append("scheduler")
            victims.kill_all()
            await asyncio.sleep(chance.choice([0.0, 0.5]))
            await victims.start()


async def _batch(client: Client) -> Json:
    """The batch once, to its end, however it ends. A batch that cannot connect is no batch."""
    for _ in range(60):
        result = await client.call_tool(
            "execute_notebook_batch",
            {"input_path": "in.ipynb", "grid": {"n": [*range(RUNS)]}, "output_directory": "out", "wait": 0},
        )
        if not result.is_error:
            break
        await asyncio.sleep(0.5)
    assert not result.is_error, result
    content: Json = result.structured_content or {}
    while content["status"] in ("queued", "running"):
        content = await call(
            client, "get_execution", seconds=90, execution_id=content["execution_id"], wait=60, runs=f"0-{RUNS}"
        )
    return content


def _check(workspace: Path, view: Json) -> dict[Path, bytes]:
    """The table, the outputs and the reply agree about every run of a batch. Returns the complete outputs."""
    rows = [json.loads(line) for line in (workspace / "out" / "results.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["batch"] == view["execution_id"]]
    assert [row["run"] for row in mine] == [*range(RUNS)], "a run is lost, or counts twice"
    for row in mine:
        if row["status"] == "ok":
            notebook = read_json(Path(row["output"]))
            assert notebook["metadata"]["papermill"]["parameters"] == {"n": row["param.n"]}
            assert f"square {row['param.n'] ** 2}\n" in [
                stdout_in(one) for one in notebook["cells"] if one["cell_type"] == "code"
            ]
    assert len({row["output"] for row in mine}) == RUNS
    failed = [row for row in mine if row["status"] in ("error", "died", "timeout")]
    assert view["runs_failed"] == len(failed)
    return {file: file.read_bytes() for row in mine if row["status"] == "ok" for file in [Path(row["output"])]}


@pytest.mark.parametrize("seed", [int(os.environ["CLUSTER_SEED"])] if "CLUSTER_SEED" in os.environ else [1])
async def test_batch_survives_kills(seed: int, tmp_path: Path, client: Connect, workspace: Path) -> None:
    chance, log = random.Random(seed), list[str]()
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), cell(_CODE)])
    victims = Victims(tmp_path)
    await victims.start()
    statuses: list[str] = []
    try:
        async with client(dask_scheduler=str(victims.file)) as mcp:
            killer = asyncio.create_task(_history(chance, victims, time.monotonic() + SECONDS, log))
            try:
                complete: dict[Path, bytes] = {}
                while not killer.done():
                    view = await _batch(mcp)
                    statuses.append(view["status"])
                    found = _check(workspace, view)
                    assert complete.items() <= found.items(), "a complete run was done again"
                    complete = found
                    if view["status"] == "ok":  # all over again, in a new place
                        (workspace / "out").rename(workspace / f"out-{len(statuses)}")
                        complete = {}
                await killer
            finally:
                killer.cancel()
            view = await _batch(mcp)
            assert view["status"] == "ok" and view["runs_done"] == RUNS, view
            _check(workspace, view)
    finally:
        print(f"CLUSTER_SEED={seed}: {', '.join(log)}; batches ended: {', '.join(statuses)}")
        victims.kill_all()
