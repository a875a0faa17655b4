"""A long session of everything at once, with faults at random: nothing is lost, nothing is left, nothing grows.

It takes 50 s, or as many seconds as the environment variable SOAK_SECONDS says. The seed is printed; SOAK_SEED sets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import StartRaw, leftovers
from helpers import Json, RawServer, read_json, wait_gone, write_notebook

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

_SECONDS = float(os.environ.get("SOAK_SECONDS", "50"))
_SEED = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))

#: How many things are done at the same time.
_WORKERS = 5

#: The longest that any answer may take: a run is waited for 3 s, and what ignores an interrupt is given up after 5 s.
_ANSWER_SECONDS = 30

#: Errors that are answers to what the soak does on purpose.
_EXPECTED = {
    "ALREADY_EXISTS",
    "BUSY",
    "CELL_NOT_FOUND",
    "CONFLICT",
    "EXECUTION_NOT_FOUND",
    "KERNEL_DIED",
    "KERNEL_NOT_FOUND",
    "KERNEL_START_FAILED",
    "LIMIT_REACHED",
    "NOT_FOUND",
}

_CODE = [
    "x = globals().get('x', 0) + 1; print(x)",
    "1/0",
    "for n in range(2000): print(n, flush=True)",
    "print('x' * 3_000_000)",
    "for n in range(300): display(n)",
    "import time; time.sleep(1)",
    "import time\nwhile True: time.sleep(0.05)",
    "import os, subprocess; subprocess.Popen(['sleep', '600']); os._exit(3)",
    "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "input()",
]


class Soak:
    """One session: what is done, what became of it, and what must hold."""

    def __init__(self, server: RawServer, workspace: Path, seed: int) -> None:
        self.server = server
        self.workspace = workspace
        self.chance = random.Random(seed)
        self.ends_at = time.monotonic() + _SECONDS
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.sent = 0
        self.cancelled = 0
        self.kernels: dict[str, int] = {}
        self.executions: list[str] = []
        self.samples: list[tuple[float, int, int, int]] = []

    async def ask(self, tool: str, **arguments: Any) -> Json | None:
        """Call a tool. Returns the structured content, or None for an error that was to be expected."""
        self.done[tool] += 1
        self.sent += 1
        _, answer = await self.server.send("tools/call", {"name": tool, "arguments": arguments})
        async with asyncio.timeout(_ANSWER_SECONDS):
            result = (await answer)["result"]
        if result.get("isError"):
            text = result["content"][0]["text"]
            code = text.partition(":")[0]
            assert code in _EXPECTED, f"{tool} {arguments}: {text}"
            self.errors[code] += 1
            return None
        content: Json = result.get("structuredContent") or {}
        if "execution_id" in content:
            self.executions = [*self.executions[-30:], content["execution_id"]]
        if "kernel_id" in content and content.get("pid"):
            self.kernels[content["kernel_id"]] = content["pid"]
        return content

    def notebook(self) -> str:
        return f"n{self.chance.randrange(5)}.ipynb"

    def kernel(self) -> str:
        return self.chance.choice([*self.kernels, "none"])

    async def work(self) -> None:
        """Do one thing after the other until the time is over."""
        kinds: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (5, self.read),
            (8, self.edit),
            (4, self.start_or_stop),
            (8, self.execute),
            (3, self.run),
            (1, self.batch),
            (3, self.follow),
            (3, self.cancel_request),
            (3, self.kill_kernel),
            (3, self.edit_outside),
        ]
        weights = [weight for weight, _ in kinds]
        while time.monotonic() < self.ends_at:
            ((_, act),) = self.chance.choices(kinds, weights)
            await act()

    async def read(self) -> None:
        tool = self.chance.choice(["read_notebook", "get_notebook_info", "list_kernels", "list_executions"])
        await self.ask(tool, **({"path": self.notebook()} if "notebook" in tool else {}))

    async def edit(self) -> None:
        path = self.notebook()
        source = f"print({self.chance.random()})"
        match self.chance.randrange(4):
            case 0:
                await self.ask("add_cell", path=path, cell_type="code", source=source)
            case 1:
                await self.ask("remove_cell", path=path, index=self.chance.randrange(2, 9))
            case 2:
                seen = await self.ask("read_notebook", path=path)
                if seen is not None:
                    await self.ask("update_cell", path=path, index=0, source=source, if_revision=seen["revision"])
            case _:
                await self.ask("update_cell", path=path, index=self.chance.randrange(6), source=source)

    async def start_or_stop(self) -> None:
        tool = self.chance.choice(["start_kernel", "start_kernel", "stop_kernel", "restart_kernel", "interrupt_kernel"])
        if tool == "start_kernel":
            await self.ask(tool)
            return
        kernel = self.kernel()
        await self.ask(tool, kernel_id=kernel)
        if tool == "stop_kernel":
            self.kernels.pop(kernel, None)

    async def execute(self) -> None:
        await self.ask(
            "execute_cell",
            kernel_id=self.kernel(),
            code=self.chance.choice(_CODE),
            timeout=self.chance.choice([0.5, 2, 5]),
            wait=self.chance.choice([0, 1, 3]),
        )

    async def run(self) -> None:
        path = self.notebook()
        if self.chance.random() < 0.5:
            await self.ask("execute_notebook", path=path, timeout=2, wait=3, continue_on_error=True)
        else:
            output = f"out-{self.chance.randrange(3)}.ipynb"
            await self.ask(
                "execute_notebook_papermill", input_path=path, output_path=output, overwrite=True, timeout=2, wait=3
            )

    async def batch(self) -> None:
        await self.ask(
            "execute_notebook_batch",
            input_path="p.ipynb",
            grid={"n": [1, 2]},
            output_directory=f"batch-{self.chance.randrange(2)}",
            wait=2,
        )

    async def follow(self) -> None:
        execution = self.chance.choice([*self.executions, "none"])
        tool = self.chance.choice(["get_execution", "cancel_execution"])
        await self.ask(tool, execution_id=execution)

    async def cancel_request(self) -> None:
        """Send a request, and take it back a moment later. It is answered at most once."""
        code = self.chance.choice(_CODE)
        arguments = {"kernel_id": self.kernel(), "code": code, "timeout": 3}
        number, answer = await self.server.send("tools/call", {"name": "execute_cell", "arguments": arguments})
        await asyncio.sleep(self.chance.random() * 0.5)
        await self.server.notify("notifications/cancelled", {"requestId": number})
        self.cancelled += 1
        answer.cancel()

    async def kill_kernel(self) -> None:
        """Kill a kernel from outside. Only what this session has started: its pid may be somebody else's by now."""
        own = {child.pid for child in psutil.Process(self.server.pid).children()}
        pids = [pid for pid in self.kernels.values() if pid in own]
        if pids:
            self.done["SIGKILL"] += 1
            with contextlib.suppress(ProcessLookupError):  # another fault was quicker
                os.kill(self.chance.choice(pids), self.chance.choice([signal.SIGKILL, signal.SIGSEGV]))
        await asyncio.sleep(0.2)

    async def edit_outside(self) -> None:
        """Change a notebook as another program does: by replacing the file."""
        self.done["edit from outside"] += 1
        path = self.workspace / self.notebook()
        notebook = read_json(path)
        notebook["metadata"]["outside"] = self.chance.random()
        other = path.with_suffix(".new")
        other.write_text(json.dumps(notebook, indent=1))
        other.replace(path)
        await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """See that every notebook can be parsed at any moment, and what the server uses."""
        process = psutil.Process(self.server.pid)
        while True:
            for path in self.workspace.rglob("*.ipynb"):
                assert read_json(path)["nbformat"] == 4, path
            self.samples.append((time.monotonic(), process.memory_info().rss, process.num_fds(), process.num_threads()))
            await asyncio.sleep(0.25)

    async def settle(self) -> tuple[int, int]:
        """Stop all kernels and runs. Returns resident memory and descriptors of the server that has nothing to do."""
        for execution in self.executions:
            await self.ask("cancel_execution", execution_id=execution)
        await self.ask("cleanup_all_kernels")
        self.kernels.clear()
        await asyncio.sleep(0.5)
        process = psutil.Process(self.server.pid)
        return process.memory_info().rss, process.num_fds()


@pytest.mark.case("L06")
@pytest.mark.timeout(_SECONDS + 200)
async def test_a_session_of_everything_with_faults_at_random(
    raw_server: StartRaw,
    workspace: Path,
    state_directory: Path,
    process_check: Callable[[], list[psutil.Process]],
    record_property: Callable[[str, object], None],
) -> None:
    print(f"SOAK_SEED={_SEED} SOAK_SECONDS={_SECONDS:g}")
    for number in range(5):
        write_notebook(workspace / f"n{number}.ipynb", ["x = 1", "print('x' * 1000)", "y", "x + 1", "print(x)", "3"])
    parameters = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "n = 0", "outputs": []}
    write_notebook(workspace / "p.ipynb", [{**parameters, "execution_count": None}, "print(n)"])
    async with raw_server("--max-kernels", "6") as server:
        soak = Soak(server, workspace, _SEED)
        await soak.ask("start_kernel")
        watching = asyncio.create_task(soak.watch())
        # What a server learns in its first minute is not yet growth.
        whole, soak.ends_at = soak.ends_at, soak.ends_at - _SECONDS * 0.6
        await asyncio.gather(*(soak.work() for _ in range(_WORKERS)))
        memory, descriptors = await soak.settle()
        soak.ends_at = whole
        await asyncio.gather(*(soak.work() for _ in range(_WORKERS)))
        memory_after, descriptors_after = await soak.settle()
        assert not watching.done(), watching.exception()
        watching.cancel()

        # Every request was answered once, those that were taken back at most once.
        await server.request("tools/list")
        answered = Counter(answer["id"] for answer in server.answers)
        assert set(answered.values()) == {1}
        assert soak.sent + 2 <= len(answered) <= soak.sent + soak.cancelled + 2
        assert server.impure == []
        family = [process.pid for process in process_check()]
        assert len(family) == 2, "the server and its watchdog"
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0

    peak = max(rss for _, rss, _, _ in soak.samples)
    record_property("seed", _SEED)
    record_property("done", dict(soak.done))
    record_property("errors", dict(soak.errors))
    record_property("requests", soak.sent + soak.cancelled)
    record_property("rss_mb", [round(value / 2**20) for value in (memory, memory_after, peak)])
    record_property("descriptors", [descriptors, descriptors_after])
    assert await wait_gone(family, seconds=1) == []
    assert leftovers(state_directory) == []
    assert not [path for path in workspace.rglob(".*") if path.is_file()]
    assert "Traceback" not in server.errors, server.errors[-3000:]
    assert descriptors_after <= descriptors + 4
    assert memory_after < memory + 60 * 2**20
    assert peak < 500 * 2**20
