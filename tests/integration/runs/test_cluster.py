"""Runs on a Dask cluster: a real scheduler, real workers, and what happens when one of them goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self

import nbformat
import psutil
import pytest
from conftest import AddKernelspec, Connect
from distributed import Client, LocalCluster
from helpers import (
    REPOSITORY,
    Json,
    call,
    cell,
    joined,
    read_json,
    refused,
    stdout_in,
    until,
    wait_gone,
    write_notebook,
)

from papermill_mcp import __version__
from papermill_mcp.core.cluster.client import Cluster, ClusterTask
from papermill_mcp.core.environments.discovery import Discovery
from papermill_mcp.core.environments.reading import Environment
from papermill_mcp.core.papermill.output import PapermillTask
from papermill_mcp.core.papermill_executor import Outcome
from papermill_mcp.core.widget_state import models_in, shown_in
from papermill_mcp.errors import KernelSpecNotFoundError, KernelStartFailedError, ServerNotRunningError
from papermill_mcp.utils.digests import revision_of

pytestmark = pytest.mark.kernel

#: Seconds in which a kernel must be gone when its run is wanted no more. Its code has one to obey an interrupt.
_GONE = 2.5

#: Says that it began, with the pids of the kernel and its worker. Its parameter `name` tells runs apart.
_BEGIN = (
    "import json, os, pathlib, time\n"
    "with open(f'begun-{name}', 'a') as log:\n"
    "    log.write(json.dumps([os.getpid(), os.getppid()]) + '\\n')\n"
)
_UNTIL_GO = "while not pathlib.Path('go').exists():\n    time.sleep(0.01)\n"
_END = "with open(f'ended-{name}', 'a') as log:\n    log.write('x')\nprint(name)"
_DEAF = (
    "while not pathlib.Path('go').exists():\n"
    "    try:\n"
    "        time.sleep(0.01)\n"
    "    except KeyboardInterrupt:\n"
    "        pathlib.Path('interrupted').touch()\n"
)

_SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"
_WORKER = "from distributed.cli.dask_worker import main; main()"


class Dask:
    """A scheduler and its workers, processes of this test on loopback."""

    def __init__(self, directory: Path, workspace: Path, settings: dict[str, str]) -> None:
        self._directory = directory
        self.workspace = workspace
        self._env = os.environ | {
            "DASK_TEMPORARY_DIRECTORY": str(directory),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            **settings,
        }
        self.address = ""
        self.scheduler: asyncio.subprocess.Process
        self.workers: list[asyncio.subprocess.Process] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        directory: Path,
        workspace: Path,
        *worker_flags: str,
        workers: int = 2,
        settings: dict[str, str] | None = None,
    ) -> AsyncIterator[Self]:
        """A cluster whose workers, with one thread each, are ready."""
        dask = cls(directory, workspace, settings or {})
        file = directory / "scheduler.json"
        dask.scheduler = await dask.start(
            _SCHEDULER, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
        )
        try:
            await until(lambda: file.exists() and file.read_text().endswith("}"), seconds=20, what="the scheduler")
            dask.address = read_json(file)["address"]
            for _ in range(workers):
                await dask.add_worker(*worker_flags)
            await dask.ready()
            yield dask
        finally:
            # The scheduler ends last: a worker that loses it while it ends itself may wait for it without end.
            for processes in (dask.workers, [dask.scheduler]):
                for process in processes:
                    if process.returncode is None:
                        process.terminate()  # a nanny takes its worker with it
                for process in processes:
                    try:
                        async with asyncio.timeout(10):
                            await process.wait()
                    except TimeoutError:
                        process.kill()
                        await process.wait()

    async def start(
        self, code: str, *flags: str, python: str = sys.executable, packages: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Start a process. `packages`: the only directory of packages that it has."""
        env = self._env if packages is None else self._env | {"PYTHONPATH": str(packages)}
        with (self._directory / "dask.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                python, "-c", code, *flags, env=env, cwd=self._directory, stdout=log, stderr=log
            )

    async def add_worker(self, *flags: str, before: str = "pass", **place: Any) -> None:
        """Start a worker. `before` is code that it runs first, `place` its interpreter and its packages."""
        local = str(self._directory / f"worker-{len(self.workers)}")
        settings = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", local)
        self.workers.append(await self.start(f"{before}\n{_WORKER}", self.address, *settings, *flags, **place))

    async def ready(self) -> None:
        """Wait until the scheduler knows all workers."""
        if self.workers:
            async with Client(self.address, asynchronous=True, set_as_default=False) as client:
                await client.wait_for_workers(len(self.workers), timeout=20)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Cluster]:
        """A connection to it."""
        cluster = await Cluster.connect(self.address, timeout_seconds=10)
        try:
            yield cluster
        finally:
            await cluster.aclose()

    def left_behind(self) -> list[Path]:
        """The directories of runs that workers have not removed."""
        return list(self._directory.glob("worker-*/**/papermill-run-*"))

    def begun(self, name: str) -> list[tuple[int, int]]:
        """The pids of the kernels that have begun a run, and of their workers."""
        file = self.workspace / f"begun-{name}"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [(kernel, worker) for kernel, worker in map(json.loads, lines)]

    async def until_begun(self, *names: str, times: int = 1) -> None:
        """Wait until runs have begun."""
        await until(lambda: all(len(self.begun(name)) >= times for name in names), seconds=20, what=f"begin of {names}")

    def task(self, name: str, *sources: Json | str, **changes: Any) -> ClusterTask:
        """A run in the workspace, whose parameter `name` is its key."""
        notebook = write_notebook(self._directory / "in.ipynb", [cell("name = ''", tags=["parameters"]), *sources])
        run = PapermillTask(
            parameters={"name": name},
            kernelspec={"name": "python3", "display_name": "python3", "language": "python"},
            language="python",
            input_path=str(self.workspace / "in.ipynb"),
            output_path=str(self.workspace / f"{name}.ipynb"),
            display_path="in.ipynb",
            timeout_seconds=60,
            continue_on_error=False,
            report_mode=False,
        )
        own = {key: changes.pop(key) for key in ("start_timeout_seconds", "denied_env") if key in changes}
        task = ClusterTask(replace(run, **changes), notebook.read_bytes(), start_timeout_seconds=30, denied_env=())
        return replace(task, **own)


@pytest.fixture
def dask(tmp_path: Path, workspace: Path) -> Callable[..., AbstractAsyncContextManager[Dask]]:
    """`async with dask(workers=1) as d:` is a cluster."""

    def run(*flags: str, **arguments: Any) -> AbstractAsyncContextManager[Dask]:
        return Dask.running(tmp_path, workspace, *flags, **arguments)

    return run


StartDask = Callable[..., AbstractAsyncContextManager[Dask]]


def output_of(outcome: Outcome) -> Json:
    """The output notebook, which must be a valid one."""
    assert outcome.output is not None, outcome
    notebook: Json = json.loads(outcome.output)
    nbformat.validate(notebook)
    return notebook


def printed(outcome: Outcome) -> str:
    """What all cells of an output notebook wrote."""
    return "".join(stdout_in(data) for data in output_of(outcome)["cells"] if data["cell_type"] == "code")


# A run


async def test_a_run_on_a_worker_gives_the_output_notebook(dask: StartDask) -> None:
    """As papermill has it, with the parameters, from a kernel in the directory of the input."""
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(30):
        widget = "import ipywidgets\ndisplay(ipywidgets.IntSlider())"
        task = d.task("a", cell("# Title", "markdown"), _BEGIN + "print(os.getcwd(), other)", widget)
        outcome = await cluster.run(replace(task, run=replace(task.run, parameters={"name": "a", "other": [1, None]})))

        assert cluster.workers == 1
        assert (outcome.status, outcome.notes) == ("ok", [])
        assert printed(outcome) == f"{d.workspace} [1, None]\n"
        papermill = output_of(outcome)["metadata"]["papermill"]
        assert papermill["parameters"] == {"name": "a", "other": [1, None]}
        assert (papermill["input_path"], papermill["output_path"]) == (task.run.input_path, task.run.output_path)
        assert (outcome.summary.cells_total, outcome.summary.cells_done, outcome.summary.error) == (4, 4, None)
        shown = shown_in(output_of(outcome)["cells"][-1]["outputs"])
        assert shown
        assert shown <= models_in(output_of(outcome)["metadata"]).keys()
        assert d.begun("a")[0][1] == d.workers[0].pid
        assert await wait_gone([d.begun("a")[0][0]], seconds=0.5) == []
        assert not list(d.workspace.rglob("*.ipynb")), "the worker wrote the output itself"


@pytest.mark.slow
async def test_what_fails_is_not_tried_again(dask: StartDask) -> None:
    """Neither a notebook that raises, nor a kernel that dies, nor a cell that is out of time."""
    async with dask() as d, d.connect() as cluster, asyncio.timeout(60):
        raising, dying, slow = await asyncio.gather(
            cluster.run(d.task("raising", _BEGIN, "1/0", "print('never')")),
            cluster.run(d.task("dying", _BEGIN, "print('before')", "os.kill(os.getpid(), 9)")),
            cluster.run(d.task("slow", _BEGIN, "time.sleep(60)", timeout_seconds=1)),
        )

        assert [raising.status, dying.status, slow.status] == ["error", "died", "timeout"]
        assert raising.summary.error == "ZeroDivisionError: division by zero"
        assert raising.summary.failed_index is not None
        assert "SIGKILL" in str(dying.summary.error)
        assert "before" in printed(dying)
        assert [len(d.begun(name)) for name in ("raising", "dying", "slow")] == [1, 1, 1]
        assert any("An Exception was encountered" in joined(data["source"]) for data in output_of(raising)["cells"])


@pytest.mark.slow
async def test_an_error_of_the_worker_comes_back_as_what_it_is(dask: StartDask) -> None:
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(30):
        with pytest.raises(KernelSpecNotFoundError) as raised:
            await cluster.run(d.task("a", "1", kernelspec={"name": "pyhton3"}))
        assert "tcp://127.0.0.1:" in str(raised.value)
        assert "no kernelspec 'pyhton3' (installed: " in str(raised.value)
        elsewhere = str(d.workspace / "only-here" / "in.ipynb")
        outcome = await cluster.run(d.task("b", "import os; print(os.listdir())", input_path=elsewhere))
        assert printed(outcome) == "[]\n"
        assert any("only-here" in note for note in outcome.notes)


@pytest.mark.slow
async def test_runs_in_one_worker_process_do_not_mix(dask: StartDask) -> None:
    """Four threads, four event loops, four kernels, four directories."""
    names = ["a", "b", "c", "d"]
    meet = _BEGIN + "while not all(pathlib.Path(f'../{n}/begun-{n}').exists() for n in 'abcd'):\n    time.sleep(0.01)\n"
    async with dask("--nthreads", "4", workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        assert cluster.workers == 4
        for name in names:
            (d.workspace / name).mkdir()
        before = psutil.Process(d.workers[0].pid).cwd()
        outcomes = await asyncio.gather(
            *(
                cluster.run(
                    d.task(name, meet, "print(name, os.getcwd())", input_path=str(d.workspace / name / "in.ipynb"))
                )
                for name in names
            )
        )
        assert [printed(outcome) for outcome in outcomes] == [f"{name} {d.workspace / name}\n" for name in names]
        assert psutil.Process(d.workers[0].pid).cwd() == before


@pytest.mark.slow
async def test_a_large_notebook_passes_and_the_event_loop_goes_on(dask: StartDask) -> None:
    text = "x" * (60 * 2**20)
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(90):
        task = d.task("a", cell(text, "markdown"), "print('ran')")
        async with busy_times() as times:
            outcome = await cluster.run(task)
        assert printed(outcome) == "ran\n"
        assert len(outcome.output or b"") > len(text)
        assert max(times) < 0.2, f"the event loop did nothing else for {max(times):.2f} s"


@asynccontextmanager
async def busy_times() -> AsyncIterator[list[float]]:
    """Collects how long the event loop worked without a pause, in processor time: others use the machine, too."""
    times: list[float] = []

    async def look() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            times.append(time.thread_time() - before)

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    try:
        yield times
    finally:
        looking.cancel()


# Workers that go away


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_runs_of_a_lost_worker_are_done_again_and_counted_once(number: int, dask: StartDask) -> None:
    names = ["a", "b", "c", "d", "e"]
    async with dask() as d, d.connect() as cluster, asyncio.timeout(90):
        runs = [asyncio.create_task(cluster.run(d.task(name, _BEGIN, _UNTIL_GO, _END))) for name in names]
        await d.until_begun("a", "b")
        kernel, worker = d.begun("a")[0]
        assert worker != d.begun("b")[0][1], "both runs are on one worker"

        os.kill(worker, number)
        assert await wait_gone([kernel], seconds=_GONE) == []
        (d.workspace / "go").touch()
        outcomes = await asyncio.gather(*runs)

        assert [outcome.status for outcome in outcomes] == ["ok"] * len(names)
        assert [printed(outcome) for outcome in outcomes] == [f"{name}\n" for name in names]
        assert [len(d.begun(name)) for name in names] == [2, 1, 1, 1, 1]
        assert [(d.workspace / f"ended-{name}").read_text() for name in names] == ["x"] * len(names)
        assert "started again" in "".join(outcomes[0].notes)
        assert [outcome.notes for outcome in outcomes[1:]] == [[]] * 4
        assert d.left_behind() == []


@pytest.mark.slow
async def test_a_worker_under_a_nanny_comes_back_and_does_its_run_again(dask: StartDask) -> None:
    async with dask("--nanny", workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        run = asyncio.create_task(cluster.run(d.task("a", _BEGIN, _UNTIL_GO, _END)))
        await d.until_begun("a")
        os.kill(d.begun("a")[0][1], signal.SIGKILL)
        await d.until_begun("a", times=2)
        (d.workspace / "go").touch()
        assert (await run).status == "ok"
        assert (d.workspace / "ended-a").read_text() == "x"


@pytest.mark.slow
async def test_a_run_that_kills_worker_after_worker_is_given_up(dask: StartDask) -> None:
    """The other one, which goes on meanwhile, is not."""
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    log = "pathlib.Path('begun-a')"
    until_twice = f"while not {log}.exists() or len({log}.read_text().splitlines()) < 2:\n    time.sleep(0.01)\n"
    async with dask(workers=3, settings=settings) as d, d.connect() as cluster, asyncio.timeout(60):
        outcome, other = await asyncio.gather(
            cluster.run(d.task("a", _BEGIN, "os.kill(os.getppid(), 9)")),
            cluster.run(d.task("b", _BEGIN, until_twice, _END)),
        )
        assert (outcome.status, outcome.output) == ("died", None)
        assert outcome.summary.error is not None
        assert outcome.summary.error.startswith("2 workers died")
        assert len(d.begun("a")) == 2
        assert other.status == "ok"


# Cancellation


@pytest.mark.slow
@pytest.mark.parametrize("code", [_UNTIL_GO, _DEAF], ids=["obeys", "is deaf"])
async def test_cancel_reaches_runs_that_have_begun_and_what_waits_never_begins(code: str, dask: StartDask) -> None:
    async with dask() as d, d.connect() as cluster, d.connect() as other, asyncio.timeout(60):
        running = [asyncio.create_task(cluster.run(d.task(name, _BEGIN, code, _END))) for name in "ab"]
        await d.until_begun("a", "b")
        waiting = [
            asyncio.create_task(cluster.run(d.task("c", _BEGIN))),  # in line behind them, as there are two threads
            asyncio.create_task(other.run(d.task("d", _BEGIN))),  # waits at the scheduler
        ]
        await until(lambda: bool(other._sent) and all(sent.future for sent in other._sent.values()), seconds=5)
        kernels = [d.begun(name)[0][0] for name in "ab"]

        await other.cancel()
        await cluster.cancel()

        assert await wait_gone(kernels, seconds=0.5) == []
        outcomes = await asyncio.gather(*running)
        assert [outcome.status for outcome in outcomes] == ["interrupted"] * 2
        for outcome in outcomes:
            assert outcome.summary.cells_done >= 3
            states = [data["metadata"]["papermill"]["status"] for data in output_of(outcome)["cells"]]
            assert states == ["completed", "completed", "completed", "failed", "pending"]
        assert [(run.status, run.output) for run in await asyncio.gather(*waiting)] == [("interrupted", None)] * 2
        assert (await cluster.run(d.task("e", _BEGIN))).status == "interrupted"
        assert [d.begun(name) for name in "cde"] == [[], [], []]

        async with d.connect() as again:
            assert (await again.run(d.task("f", _BEGIN))).status == "ok"  # the workers are free


@pytest.mark.slow
async def test_what_was_cancelled_does_not_begin_anew_when_its_worker_is_lost(dask: StartDask) -> None:
    async with dask() as d, d.connect() as cluster, asyncio.timeout(60):
        run = asyncio.create_task(cluster.run(d.task("a", _BEGIN + _DEAF)))
        await d.until_begun("a")
        cancelling = asyncio.create_task(cluster.cancel())
        await until((d.workspace / "interrupted").exists, seconds=10)

        os.kill(d.begun("a")[0][1], signal.SIGKILL)

        outcome = await run
        assert (outcome.status, outcome.output) == ("interrupted", None)
        await cancelling
        async with d.connect() as again:
            assert (await again.run(d.task("b", _BEGIN))).status == "ok"
        assert len(d.begun("a")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("code", [_UNTIL_GO, _DEAF], ids=["obeys", "is deaf"])
async def test_a_cancelled_caller_takes_its_run_along(code: str, dask: StartDask) -> None:
    """And no other one."""
    async with dask() as d, d.connect() as cluster, asyncio.timeout(60):
        run, other = (
            asyncio.create_task(cluster.run(d.task(name, _BEGIN, text)))
            for name, text in (("a", code), ("b", _UNTIL_GO))
        )
        await d.until_begun("a", "b")

        run.cancel()
        began = time.monotonic()
        await asyncio.wait([run])
        assert time.monotonic() - began < _GONE
        assert run.cancelled()
        assert await wait_gone([d.begun("a")[0][0]], seconds=0.1) == []
        (d.workspace / "go").touch()
        assert (await other).status == "ok"
        assert len(d.begun("a")) == 1


@pytest.mark.slow
async def test_a_run_whose_kernel_still_starts_can_be_cancelled(dask: StartDask, kernelspec: AddKernelspec) -> None:
    code = "import os, pathlib, sys, time; pathlib.Path('begun').write_text(str(os.getpid())); time.sleep(60)"
    kernelspec("never", [sys.executable, "-c", code, "{connection_file}"])
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        run = asyncio.create_task(cluster.run(d.task("a", "1", kernelspec={"name": "never"})))
        begun = d.workspace / "begun"
        await until(lambda: begun.exists() and begun.read_text() != "", seconds=20)
        await cluster.cancel()
        assert await wait_gone([int(begun.read_text())], seconds=0.5) == []
        assert (await run).status == "interrupted"


_CLIENT = """
import asyncio, pickle, sys
from papermill_mcp.core.cluster.client import Cluster

async def main():
    cluster = await Cluster.connect(sys.argv[1], timeout_seconds=10)
    await asyncio.gather(*(cluster.run(task) for task in pickle.loads(open(sys.argv[2], "rb").read())))

asyncio.run(main())
"""


@pytest.mark.slow
async def test_runs_end_when_their_client_was_killed(dask: StartDask, tmp_path: Path) -> None:
    async with dask() as d, asyncio.timeout(60):
        tasks = [d.task("a", _BEGIN, _UNTIL_GO), d.task("b", _BEGIN, _DEAF), d.task("c", _BEGIN)]
        (tmp_path / "tasks").write_bytes(pickle.dumps(tasks))
        client = await d.start(_CLIENT, d.address, str(tmp_path / "tasks"))
        await d.until_begun("a", "b")

        client.kill()
        await client.wait()

        assert await wait_gone([d.begun(name)[0][0] for name in "ab"], seconds=_GONE + 1) == []
        async with d.connect() as cluster:
            assert (await cluster.run(d.task("d", _BEGIN))).status == "ok"
        assert d.begun("c") == []


# A cluster that does not fit


async def test_a_scheduler_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerNotRunningError, match=r"SERVER_NOT_RUNNING: .*tcp://127\.0\.0\.1:9"):
        async with asyncio.timeout(5):
            await Cluster.connect("tcp://127.0.0.1:9", timeout_seconds=0.5)


@pytest.mark.parametrize("address", ["carrier-pigeon://coop", "127.0.0.1", "tcp://127.0.0.1:99999"])
async def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ServerNotRunningError, match=address):
        async with asyncio.timeout(5):
            await Cluster.connect(address, timeout_seconds=0.5)


@pytest.mark.slow
async def test_a_scheduler_that_goes_away_is_told_and_its_runs_end(dask: StartDask) -> None:
    async with dask() as d, d.connect() as cluster, asyncio.timeout(60):
        runs = [asyncio.create_task(cluster.run(d.task(name, _BEGIN, _UNTIL_GO))) for name in "abc"]
        await d.until_begun("a", "b")
        kernels = [d.begun(name)[0][0] for name in "ab"]

        d.scheduler.kill()

        for result in await asyncio.gather(*runs, return_exceptions=True):
            assert isinstance(result, ServerNotRunningError), result
            assert f"the connection to the Dask scheduler at {d.address} is lost" in str(result)
        assert await wait_gone(kernels, seconds=_GONE + 1) == []
        with pytest.raises(ServerNotRunningError, match=d.address):
            await cluster.run(d.task("d", _BEGIN))
        await cluster.cancel()  # nothing to do, and no reason to hang
        assert d.begun("c") == []


@pytest.mark.slow
async def test_a_worker_without_this_package_is_named_with_what_to_install(dask: StartDask) -> None:
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(60):
        await d.add_worker(before="import sys; sys.modules['papermill_mcp'] = None")
        with pytest.raises(KernelStartFailedError) as raised:
            await cluster.run(d.task("a", "1"))
        message = str(raised.value)
        assert f"jupyter-papermill-mcp-server {__version__}" in message
        assert "papermill_mcp" in message
        assert "tcp://127.0.0.1:" in message


def packages_without(directory: Path, *left_out: str) -> Path:
    """Links to the packages of this environment, but for some."""
    directory.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("_editable_impl", "jupyter_papermill_mcp", *left_out)):
            (directory / package.name).symlink_to(package)
    return directory


def bare_python(version: str | None = None) -> str:
    """An interpreter without packages: that of this environment, or of another version."""
    if version is None:
        return str(Path(sys.base_prefix) / "bin" / "python3")
    for found in Discovery().environments():
        if (found.version or "").startswith(f"{version}."):
            return str(found.python)
    pytest.skip(f"no Python {version} is installed here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatched versions")
@pytest.mark.parametrize("version", [None, "3.12" if sys.version_info[:2] != (3, 12) else "3.11"])
async def test_a_batch_is_refused_where_no_worker_has_this_package(
    version: str | None, dask: StartDask, client: Connect, workspace: Path, tmp_path: Path
) -> None:
    """Not even the Python need be the same."""
    python = bare_python(version)
    _batch_notebook(workspace)
    packages = packages_without(tmp_path / "packages")
    async with dask(workers=0) as d, asyncio.timeout(90):
        await d.add_worker(python=python, packages=packages)
        await d.ready()
        async with client(dask_scheduler=d.address) as c:
            message = await refused(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1, 2]})
            again = await refused(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1, 2]})
            listed = await call(c, "list_executions")

    assert message.startswith("KERNEL_START_FAILED: no worker of the Dask cluster can do the run: tcp://127.0.0.1:")
    assert f": Python {version or sys.version.partition(' ')[0].rpartition('.')[0]}." in message
    assert "has no module 'papermill_mcp'" in message
    assert f"Install jupyter-papermill-mcp-server {__version__} in the environment of all workers" in message
    assert again == message, "the outputs are not taken by a batch that never began"
    assert listed["executions"] == []
    assert not (workspace / "outputs" / "in-batch").exists() or not any((workspace / "outputs" / "in-batch").iterdir())


@pytest.mark.slow
async def test_an_interpreter_that_no_worker_has_is_named_before_any_run(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    """The project's environment is on the server's machine only. Here the worker looks after it was removed."""
    _batch_notebook(workspace)
    gone = workspace / "gone" / "bin" / "python"
    environment = Environment("venv", gone, gone.parent.parent, "3.11.7")
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        with pytest.raises(KernelStartFailedError) as checked:
            await cluster.check([d.task("a", _BEGIN), d.task("b", _BEGIN, environment=environment)])
        with pytest.raises(KernelStartFailedError) as raised:
            await cluster.run(d.task("b", _BEGIN, environment=environment))
        assert (await cluster.run(d.task("a", _BEGIN))).status == "ok"
    for error in (checked, raised):
        assert "tcp://127.0.0.1:" in str(error.value)
        assert f"no interpreter {str(gone)!r}. Nothing was run." in str(error.value)
        assert "name by python one that the workers have" in str(error.value)


@pytest.mark.slow
async def test_a_package_that_runs_need_is_named(dask: StartDask, tmp_path: Path) -> None:
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(60):
        await d.add_worker(before="import sys; sys.modules['papermill'] = None")
        await d.ready()
        with pytest.raises(KernelStartFailedError, match="has no module 'papermill'"):
            await cluster.check([d.task("a", "1")])


@pytest.mark.slow
async def test_a_worker_whose_version_has_other_runs_is_named(dask: StartDask) -> None:
    other = (
        "import papermill_mcp; papermill_mcp.__version__ = '0.0.1'\n"
        "import dataclasses; from papermill_mcp.core.cluster import worker\n"
        "del worker.ClusterTask.__dataclass_fields__['denied_env']"
    )
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(60):
        await d.add_worker(before=other)
        await d.ready()
        with pytest.raises(KernelStartFailedError, match=r"version 0\.0\.1 of this package has other runs"):
            await cluster.check([d.task("a", "1")])


@pytest.mark.slow
async def test_only_the_workers_that_lack_nothing_get_runs(
    dask: StartDask, client: Connect, workspace: Path, tmp_path: Path
) -> None:
    _batch_notebook(workspace)
    packages = packages_without(tmp_path / "packages")
    async with dask(workers=1) as d, asyncio.timeout(90):
        await d.add_worker(python=bare_python(), packages=packages)
        await d.ready()
        async with client(dask_scheduler=d.address) as c:
            facts = await call(
                c,
                "execute_notebook_batch",
                seconds=60,
                input_path="in.ipynb",
                grid={"n": [0, 1, 2], "hold": [9]},
                wait=50,
            )

    assert facts["status"] == "ok", facts
    assert {_ran(workspace, n)[0][1] for n in range(3)} == {d.workers[0].pid}
    note = next(note for note in facts["notes"] if "left out" in note)
    assert "a Dask cluster, 1 at a time; some workers are left out: tcp://127.0.0.1:" in note
    assert "has no module 'papermill_mcp'" in note


@pytest.mark.slow
async def test_a_worker_that_comes_late_is_checked_when_it_gets_a_run(dask: StartDask, tmp_path: Path) -> None:
    """Its run ends with the reason. The next run goes to a worker that can do it."""
    packages = packages_without(tmp_path / "packages")
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(90):
        assert await cluster.check([d.task("a", _BEGIN)]) is None
        early = asyncio.create_task(cluster.run(d.task("a", _BEGIN)))
        await until(lambda: any(sent.future for sent in cluster._sent.values()), seconds=10)
        await d.add_worker(python=bare_python(), packages=packages)
        with pytest.raises(KernelStartFailedError, match="has no module 'papermill_mcp'"):
            await early
        await d.add_worker()
        await d.ready()
        outcome = await cluster.run(d.task("b", _BEGIN))
        assert outcome.status == "ok"
        assert d.begun("b")[0][1] == d.workers[1].pid


@pytest.mark.slow
async def test_a_run_that_came_to_an_unfit_worker_goes_on_to_a_fit_one(
    dask: StartDask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker joined between the look at the workers and the start of the run. The other one has work of others."""
    packages = packages_without(tmp_path / "packages")
    async with (
        dask(workers=1) as d,
        d.connect() as cluster,
        Client(d.address, asynchronous=True, set_as_default=False) as others,
        asyncio.timeout(60),
    ):
        busy = others.submit(time.sleep, 4, pure=False)
        await d.add_worker(python=bare_python(), packages=packages)
        await d.ready()
        looks: list[Any] = []
        look = cluster._checks.look

        async def late(tasks: Any) -> None:
            looks.append(tasks)
            if len(looks) > 1:
                await look(tasks)

        monkeypatch.setattr(cluster._checks, "look", late)
        outcome = await cluster.run(d.task("a", _BEGIN))
        await busy

        assert outcome.status == "ok"
        assert len(looks) >= 2, "the run came to the fit worker at once"
        assert d.begun("a")[0][1] == d.workers[0].pid


@pytest.mark.slow
async def test_a_run_whose_only_fit_worker_is_lost_goes_to_a_new_one_or_ends(dask: StartDask, tmp_path: Path) -> None:
    packages = packages_without(tmp_path / "packages")
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(90):
        await d.add_worker(python=bare_python(), packages=packages)
        await d.ready()
        run = asyncio.create_task(cluster.run(d.task("a", _BEGIN, _UNTIL_GO)))
        await d.until_begun("a")
        await d.add_worker()
        await d.ready()
        os.kill(d.begun("a")[0][1], signal.SIGKILL)
        await d.until_begun("a", times=2)
        assert d.begun("a")[1][1] == d.workers[2].pid

        os.kill(d.begun("a")[1][1], signal.SIGKILL)
        with pytest.raises(KernelStartFailedError, match="has no module 'papermill_mcp'"):
            await run


@pytest.mark.slow
async def test_a_worker_with_another_version_does_the_run_and_is_noted(dask: StartDask) -> None:
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(60):
        await d.add_worker(before="import papermill_mcp; papermill_mcp.__version__ = '0.0.1'")
        outcome = await cluster.run(d.task("a", "1"))
        assert outcome.status == "ok"
        assert any("version 0.0.1" in note for note in outcome.notes)


# The cell that runs


async def test_the_worker_reports_which_cell_runs(dask: StartDask, workspace: Path) -> None:
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        cells: list[str] = []
        running = asyncio.create_task(
            cluster.run(d.task("a", "# Load", _BEGIN + _UNTIL_GO, "1"), on_progress=cells.append)
        )
        await d.until_begun("a")
        await until(lambda: any(place.startswith("cell 3 (4 of 5)") for place in cells), seconds=10, what=str(cells))
        (workspace / "go").touch()
        assert (await running).status == "ok"


async def test_reports_of_cells_are_few(dask: StartDask) -> None:
    """The scheduler keeps each one: many short cells make one a second."""
    async with dask(workers=1) as d, d.connect() as cluster, asyncio.timeout(60):
        cells: list[str] = []
        began = time.monotonic()
        outcome = await cluster.run(d.task("a", *["1"] * 150), on_progress=cells.append)
        assert outcome.status == "ok"
        assert 1 <= len(cells) <= time.monotonic() - began + 1


async def test_a_worker_that_reports_no_cells_is_no_fault(dask: StartDask) -> None:
    """As those of earlier versions."""
    async with dask(workers=0) as d, d.connect() as cluster, asyncio.timeout(60):
        await d.add_worker(before="import papermill_mcp.core.cluster.worker as w; w.CellReports.note = lambda *_: None")
        cells: list[str] = []
        assert (await cluster.run(d.task("a", "1"), on_progress=cells.append)).status == "ok"
        assert cells == []


async def test_batch_shows_the_cell_of_each_run(dask: StartDask, client: Connect, workspace: Path) -> None:
    write_notebook(
        workspace / "in.ipynb",
        [cell("n = 0\nname = ''", tags=["parameters"]), "n", "# Wait\n" + _BEGIN + _UNTIL_GO, "print(n)"],
    )
    async with dask(workers=2) as d, client(dask_scheduler=d.address) as mcp, asyncio.timeout(40):
        sets = [{"n": n, "name": str(n)} for n in (1, 2)]
        view = await call(mcp, "execute_notebook_batch", input_path="in.ipynb", parameters=sets, wait=0)
        await d.until_begun("1", "2")

        async def rows() -> list[Json]:
            state = await call(mcp, "get_execution", execution_id=view["execution_id"], runs="running")
            found: list[Json] = state["runs"]
            return found

        while not all('cell 3 (4 of 5) · "Wait" · ' in row.get("progress", "") for row in await rows()):
            await asyncio.sleep(0.05)
        (workspace / "go").touch()
        view = await call(mcp, "get_execution", seconds=60, execution_id=view["execution_id"], wait=50)
        assert view["status"] == "ok"
        assert not any("progress" in row for row in view["runs"])
        table = workspace / "outputs" / "in-batch" / "results.jsonl"
        for row in map(json.loads, table.read_text().splitlines()):
            assert row["revision"] == revision_of(Path(row["output"]).read_bytes())


# Batches, through a client of the server


_COUNTED = (
    "import os, pathlib, time\n"
    "with open(f'ran-{n}', 'a') as log:\n"
    "    log.write(f'{os.getpid()} {os.getppid()}\\n')\n"
    "while n >= hold and not pathlib.Path('go').exists():\n"
    "    time.sleep(0.01)"
)
_RECORD = "display({'application/papermill.record+json': {'square': n * n}}, raw=True)"


def _batch_notebook(workspace: Path) -> None:
    parameters = cell("n = 0\nhold = 0", tags=["parameters"])
    write_notebook(workspace / "in.ipynb", [parameters, _COUNTED, _RECORD, "assert n != 3"])


def _ran(workspace: Path, n: int) -> list[list[int]]:
    file = workspace / f"ran-{n}"
    return [[int(pid) for pid in line.split()] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
async def test_a_batch_loses_no_run_and_counts_none_twice_when_a_worker_is_killed(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    _batch_notebook(workspace)
    async with dask() as d, client(dask_scheduler=d.address) as c, asyncio.timeout(90):
        grid = {"n": list(range(6)), "hold": [0]}
        # Two at a time: else any two of the six may be the first.
        begun = await call(c, "execute_notebook_batch", input_path="in.ipynb", grid=grid, max_parallel=2, wait=0)
        await until(lambda: bool(_ran(workspace, 0) and _ran(workspace, 1)), seconds=20, what="two runs")
        kernel, worker = _ran(workspace, 0)[0]
        os.kill(worker, signal.SIGKILL)
        assert await wait_gone([kernel], seconds=_GONE) == []
        (workspace / "go").touch()
        facts = await call(c, "get_execution", seconds=70, execution_id=begun["execution_id"], wait=60)
        again = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid=grid, wait=60)

    rows = {row["parameters"]["n"]: row for row in facts["runs"]}
    assert (facts["status"], facts["runs_done"], facts["runs_failed"]) == ("error", 6, 1)
    assert {n: row["status"] for n, row in rows.items()} == {n: "error" if n == 3 else "ok" for n in range(6)}
    assert rows[5]["result"] == [{"name": "square", "value": 25}]
    assert rows[3]["error"].startswith("AssertionError")
    failed = read_json(workspace / rows[3]["output_path"])
    assert joined(failed["cells"][rows[3]["failed_cell"]]["source"]) == "assert n != 3"
    assert any("started again" in note for note in rows[0]["notes"])
    assert len(list((workspace / "outputs" / "in-batch").glob("*.ipynb"))) == 6
    assert [row["parameters"]["n"] for row in again["runs"] if not row.get("kept")] == [3]
    assert [len(_ran(workspace, n)) for n in range(6)] == [2, 1, 1, 2, 1, 1]
    table = (workspace / facts["results"]).with_suffix(".jsonl").read_text().splitlines()
    assert all(json.loads(line)["worker"].startswith("tcp://127.0.0.1:") for line in table[:6])
    assert all(json.loads(line)["peak_memory"] > 20e6 for line in table[:6])
    assert [json.loads(line)["attempts"] for line in table] == [2, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.slow
async def test_a_batch_that_stops_begins_no_run_that_waits_for_a_worker(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    """The first run to begin holds its worker, and goes on to its end. All others fail."""
    code = (
        "import pathlib, time\npathlib.Path(f'begun-{n}').touch()\n"
        "try: pathlib.Path('first').touch(exist_ok=False)\n"
        "except FileExistsError: raise ValueError('not the first')\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)"
    )
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), code])
    async with dask() as d, client(dask_scheduler=d.address) as c, asyncio.timeout(60):
        request = {"input_path": "in.ipynb", "grid": {"n": [*range(9)]}, "stop_after_failures": 1}
        begun = await call(c, "execute_notebook_batch", wait=0, timeout=0, **request)
        while True:
            page = await call(c, "get_execution", execution_id=begun["execution_id"], runs="0-9", wait=0.1)
            if any(row["status"] == "not_run" for row in page["runs"]):
                break
        (workspace / "go").touch()
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=30)
        page = await call(c, "get_execution", execution_id=begun["execution_id"], runs="0-9")

    statuses = [row["status"] for row in page["runs"]]
    assert facts["status"] == "error"
    assert statuses.count("ok") == 1
    # The worker of the failed run may have begun the next one before the failure was known here.
    assert set(statuses) <= {"ok", "error", "not_run", "interrupted"}
    ran = [row["run"] for row in page["runs"] if row["status"] != "not_run"]
    assert [n for n in range(9) if (workspace / f"begun-{n}").exists()] == ran
    assert facts["runs_done"] == len(ran)


@pytest.mark.slow
async def test_runs_take_the_resources_that_a_worker_offers_and_others_are_refused(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    """One worker has a GPU, so two runs of one each go one after the other."""
    code = "import time\nbegan = time.time(); time.sleep(0.3)\nprint(began, time.time())"
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), code])
    async with dask("--resources", "GPU=1", workers=1) as d, asyncio.timeout(60):
        await d.add_worker()
        async with client(dask_scheduler=d.address) as c:
            arguments = {"input_path": "in.ipynb", "grid": {"n": [1, 2]}, "wait": 50}
            more = await refused(c, "execute_notebook_batch", resources={"GPU": 2}, **arguments)
            other = await refused(c, "execute_notebook_batch", resources={"TPU": 1}, **arguments)
            facts = await call(c, "execute_notebook_batch", seconds=55, resources={"GPU": 1}, **arguments)

    assert "a worker offers GPU=1" in more
    assert "TPU=1" in other
    table = (workspace / facts["results"]).with_suffix(".jsonl").read_text().splitlines()
    found = [json.loads(line) for line in table]
    assert [row["status"] for row in found] == ["ok", "ok"]
    assert len({row["worker"] for row in found}) == 1
    first, second = sorted([float(part) for part in row["text"].split()] for row in found)
    assert first[1] <= second[0]


@pytest.mark.slow
async def test_the_wait_for_a_worker_is_in_no_duration(
    dask: StartDask, client: Connect, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows, log and metrics have the time of each run on its worker. Meanwhile a run is queued for a worker."""
    caplog.set_level(logging.INFO)
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), "import time; time.sleep(1)"])
    async with dask(workers=1) as d, client(dask_scheduler=d.address) as c, asyncio.timeout(90):
        facts = await call(
            c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", grid={"n": [1, 2, 3]}, wait=60
        )

    assert facts["status"] == "ok"
    records: list[Any] = [record for record in caplog.records if record.getMessage() == "execution ended"]
    logged = sorted(record.duration for record in records if record.operation == "execute_notebook_papermill")
    rows = sorted(row["duration"] for row in facts["runs"])
    assert logged == pytest.approx(rows, abs=0.01)
    assert rows[0] >= 1
    assert sum(rows) <= facts["duration"]


@pytest.mark.slow
async def test_cancelling_a_batch_reaches_the_workers_and_the_same_request_goes_on(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    """What was put out before is on disk, nothing goes on anywhere, and complete runs are kept."""
    _batch_notebook(workspace)
    async with dask() as d, client(dask_scheduler=d.address) as c, asyncio.timeout(90):
        request = {"input_path": "in.ipynb", "grid": {"n": [1, 2, 4, 5], "hold": [2]}, "timeout": 0, "max_parallel": 2}
        begun = await call(c, "execute_notebook_batch", wait=0, **request)
        await until(lambda: bool(_ran(workspace, 2) and _ran(workspace, 4)), seconds=40, what="two runs that hold")
        while not (await call(c, "get_execution", execution_id=begun["execution_id"], wait=1))["runs_done"]:
            await asyncio.sleep(0.01)  # its result may still be on its way from the worker
        cancelled = await call(c, "cancel_execution", execution_id=begun["execution_id"])
        facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=10)
        assert await wait_gone([_ran(workspace, n)[0][0] for n in (2, 4)], seconds=_GONE) == []
        (workspace / "go").touch()
        again = await call(c, "execute_notebook_batch", seconds=70, wait=60, **request)

    assert cancelled["status"] == "interrupted"
    assert {row["parameters"]["n"]: row["status"] for row in facts["runs"]} == {
        1: "ok",
        2: "interrupted",
        4: "interrupted",
        5: "aborted",
    }
    assert again["status"] == "ok"
    assert [row["parameters"]["n"] for row in again["runs"] if row.get("kept")] == [1]
    assert not _ran(workspace, 5)[1:]


async def test_a_batch_without_its_scheduler_is_refused_and_nothing_runs(client: Connect, workspace: Path) -> None:
    _batch_notebook(workspace)
    async with client(dask_scheduler="tcp://127.0.0.1:9", jupyter_timeout=1) as c:
        message = await refused(c, "execute_notebook_batch", input_path="in.ipynb", grid={"n": [1]})
        again = await refused(c, "execute_notebook_batch", input_path="in.ipynb", grid={"n": [1]})

    assert message.startswith("SERVER_NOT_RUNNING: no Dask scheduler answers at tcp://127.0.0.1:9")
    assert again.startswith("SERVER_NOT_RUNNING: "), "the outputs are not taken by a batch that never began"
    assert not _ran(workspace, 1)


@pytest.mark.slow
@pytest.mark.case("R01", "R08")
async def test_an_output_that_was_changed_meanwhile_stays_and_a_large_one_is_cut(
    dask: StartDask, client: Connect, workspace: Path
) -> None:
    """The earlier output of a run failed. Somebody writes into it while the run goes on again on a worker."""
    code = "import pathlib as p, time\np.Path('began').touch()\nwhile not p.Path('go').exists(): time.sleep(0.01)"
    large = "print(('y' * 99 + '\\n') * 9_000)"
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), code, large, "print('end')"])
    directory = workspace / "out"
    directory.mkdir()
    async with (
        dask(workers=1) as d,
        client(dask_scheduler=d.address, max_notebook_bytes=500_000) as c,
        asyncio.timeout(90),
    ):
        request: Json = {"input_path": "in.ipynb", "grid": {"n": [1]}, "output_directory": "out"}
        (workspace / "go").touch()
        done = await call(c, "execute_notebook_batch", seconds=60, wait=60, **request)
        output = workspace / done["runs"][0]["output_path"]
        assert done["status"] == "ok"
        assert "were not saved" in output.read_text()
        assert "end\\n" in output.read_text()

        (workspace / "go").unlink()
        (workspace / "began").unlink()
        begun = await call(c, "execute_notebook_batch", wait=0, resume=False, **request)
        await until((workspace / "began").exists, seconds=40, what="the run has begun")
        mine = output.read_text().replace("print('end')", "# mine")
        output.write_text(mine)
        (workspace / "go").touch()
        facts = await call(c, "get_execution", seconds=60, execution_id=begun["execution_id"], wait=60)

    assert facts["status"] == "error"
    assert output.read_text() == mine
    assert any("kept in" in note for note in facts["runs"][0]["notes"])
    assert len(list(directory.glob("*-results-*.ipynb"))) == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_cluster_that_can_grow_does(client: Connect, workspace: Path) -> None:
    """It sees runs in line. Runs in line are `queued`, and only those that a worker has begun are `running`."""
    write_notebook(workspace / "in.ipynb", [cell("n = 0", tags=["parameters"]), "import time; time.sleep(4)"])
    seen: list[tuple[int, int]] = []
    async with LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, asynchronous=True, dashboard_address=None, host="127.0.0.1"
    ) as local:
        local.adapt(minimum=0, maximum=4, interval="500ms", wait_count=20)
        async with client(dask_scheduler=local.scheduler_address) as c:
            begun = await call(c, "execute_notebook_batch", input_path="in.ipynb", grid={"n": list(range(8))}, wait=0)
            while True:
                facts = await call(c, "get_execution", execution_id=begun["execution_id"], wait=0.2)
                running = sum(row["status"] == "running" for row in facts.get("runs") or [])
                seen.append((running, len(local.scheduler.workers)))
                if facts["status"] not in ("queued", "running"):
                    break
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # Dask starts workers by multiprocessing
    assert facts["status"] == "ok"
    assert max(workers for _, workers in seen) >= 4  # one that leaves may still be counted
    assert max(running for running, _ in seen) >= 4
