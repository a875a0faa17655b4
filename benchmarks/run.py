"""Benchmarks as ratios: what we measure against a floor that is measured in the same run, turn by turn.

    python benchmarks/run.py [name ...] [--rounds N] [--slow]

Prints a table in markdown. Each round measures the floor and ours one after the other, and the order changes from round
to round, so that another load on the machine meets both. All processes share an environment and an empty bytecode
cache, which the warm-up fills: what is compared does not depend on how the packages were installed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import csv
import hashlib
import hmac
import itertools
import json
import logging
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psutil
import zmq

BARE = [str(Path(__file__).with_name("bare_server.py"))]
OURS = ["-m", "papermill_mcp.main"]
PROTOCOL = "2025-06-18"
LIBRARIES = (
    "mcp",
    "pydantic",
    "anyio",
    "jupyter_client",
    "ipykernel",
    "pyzmq",
    "papermill",
    "nbclient",
    "nbformat",
    "distributed",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a quantity, its floor and ours in the same unit."""

    name: str
    floor: float
    ours: float
    ratio: float
    ratio_of_minima: float | None
    aim: float | None
    unit: str = "ms"
    rounds: int = 0

    def cells(self) -> list[str]:
        """The row as text."""
        minima = f"{self.ratio_of_minima:.2f}" if self.ratio_of_minima is not None else ""
        aim = f"≤ {self.aim:.2f}" if self.aim is not None else ""
        met = ("yes" if self.ratio <= self.aim else "**no**") if self.aim is not None else ""
        floor, ours = (f"{value:.1f} {self.unit}" for value in (self.floor, self.ours))
        return [self.name, str(self.rounds), floor, ours, f"{self.ratio:.2f}", minima, aim, met]


# What is measured with


class Bench:
    """Scratch directory and environment of one run of this program."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.workspace = scratch / "workspace"
        self.workspace.mkdir()
        self.env = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("JUPYTER_MCP_")
        }
        self.env |= {
            "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),
            "IPYTHONDIR": str(scratch / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "XDG_CONFIG_HOME": str(scratch / "config"),
            "DASK_TEMPORARY_DIRECTORY": str(scratch),
        }

    def bare(self) -> Server:
        """A bare server, not yet spoken to."""
        return Server(BARE, self)

    def ours(self, *flags: str) -> Server:
        """Our server, not yet spoken to."""
        state = str(self.scratch / "state")
        return Server([*OURS, "--roots", str(self.workspace), "--state-directory", state, *flags], self)

    def kernel(self) -> RawKernel:
        """A raw kernel that has just been started."""
        return RawKernel(self)

    def notebook(self, cells: int) -> Path:
        """A notebook of trivial cells."""
        path = self.workspace / f"trivial-{cells}.ipynb"
        empty: dict[str, Any] = {"metadata": {}, "outputs": [], "execution_count": None}
        code = [{"cell_type": "code", "id": f"c{n}", "source": f"{n} + 1", **empty} for n in range(cells)]
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        whole = {"cells": code, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
        path.write_text(json.dumps(whole, indent=1))
        return path


class Server:
    """An MCP server over pipes, spoken to in plain JSON-RPC. The client costs next to nothing."""

    def __init__(self, arguments: Sequence[str], bench: Bench) -> None:
        self._log = bench.scratch / "server.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=bench.env,
                cwd=bench.workspace,
            )
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its result."""
        assert self.process.stdout is not None
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while line := self.process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == self._number:
                if "result" not in message:
                    raise RuntimeError(f"{method}: {message}")
                result: dict[str, Any] = message["result"]
                return result
        said = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the server ended before it answered {method}:\n{said}")

    def handshake(self) -> list[str]:
        """Initialize and list the tools."""
        client = {"name": "benchmark", "version": "0"}
        self.request("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client})
        self._send({"method": "notifications/initialized"})
        return [tool["name"] for tool in self.request("tools/list", {})["tools"]]

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(f"{tool}: {result}")
        structured: dict[str, Any] = result.get("structuredContent") or {}
        return structured

    def call_beside(
        self, long: tuple[str, dict[str, Any]], short: tuple[str, dict[str, Any]]
    ) -> tuple[dict[str, Any], list[float]]:
        """Call a tool, and another one again and again until the first has answered.

        Returns:
            The structured content of the first, and the milliseconds that each call of the other took.
        """
        assert self.process.stdout is not None
        self._number += 1
        first = self._number
        self._send({"id": first, "method": "tools/call", "params": {"name": long[0], "arguments": long[1]}})
        waits: list[float] = []
        reply: dict[str, Any] | None = None
        while reply is None:
            self._number += 1
            began = time.perf_counter()
            self._send(
                {"id": self._number, "method": "tools/call", "params": {"name": short[0], "arguments": short[1]}}
            )
            while line := self.process.stdout.readline():
                message = json.loads(line)
                if message.get("id") == first:
                    reply = message["result"].get("structuredContent") or {}
                elif message.get("id") == self._number:
                    break
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)
        return reply, waits

    def start_kernel(self) -> str:
        """Start a kernel. Returns its id."""
        return str(self.call("start_kernel")["kernel_id"])

    def one_plus_one(self, kernel_id: str) -> None:
        """Run `1+1`, and see that it was run."""
        reply = self.call("execute_cell", kernel_id=kernel_id, code="1+1")
        if reply["status"] != "ok":
            raise RuntimeError(f"execute_cell: {reply}")


class Dask:
    """A Dask scheduler and workers with one thread each, as processes of their own on loopback."""

    def __init__(self, bench: Bench, workers: int) -> None:
        from distributed import Client

        self._log = (bench.scratch / "dask.log").open("wb")
        self._bench = bench
        file = bench.scratch / "scheduler.json"
        found = ["--scheduler-file", str(file)]
        self._processes = [self._start("scheduler", "--host", "127.0.0.1", "--port", "0", *found)]
        while not (file.exists() and file.read_text().endswith("}")):
            if self._processes[0].poll() is not None:
                raise RuntimeError("the Dask scheduler ended at its start")
            time.sleep(0.05)
        self.address: str = json.loads(file.read_text())["address"]
        alone = ["--nthreads", "1", "--no-nanny", "--local-directory", str(bench.scratch)]
        self._processes += [self._start("worker", self.address, *alone) for _ in range(workers)]
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def _start(self, role: str, *flags: str) -> subprocess.Popen[bytes]:
        code = f"from distributed.cli.dask_{role} import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "--no-dashboard", *flags],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._bench.env,
            cwd=self._bench.workspace,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


class RawKernel:
    """The floor of the engine: an ipykernel started by hand and spoken to over plain, blocking sockets."""

    def __init__(self, bench: Bench) -> None:
        self._key = uuid.uuid4().hex.encode()
        self._session = uuid.uuid4().hex
        file = bench.scratch / f"kernel-{self._session}.json"
        ports = _free_ports(5)
        names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
        address = {"ip": "127.0.0.1", "transport": "tcp", "signature_scheme": "hmac-sha256", "key": self._key.decode()}
        file.write_text(json.dumps({**address, **dict(zip(names, ports, strict=True))}))
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(file), "--HistoryManager.hist_file=:memory:"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=bench.env,
            cwd=bench.workspace,
            start_new_session=True,
        )
        self._context = zmq.Context()
        self._shell = self._connect(zmq.DEALER, ports[0])
        self._iopub = self._connect(zmq.SUB, ports[1])
        self._poller = zmq.Poller()
        self._poller.register(self._shell, zmq.POLLIN)
        self._poller.register(self._iopub, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._shell.close()
        self._iopub.close()
        self._context.term()

    def _connect(self, kind: int, port: int) -> zmq.Socket[bytes]:
        one = self._context.socket(kind)
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.RECONNECT_IVL, 10)
        if kind == zmq.SUB:
            one.setsockopt(zmq.SUBSCRIBE, b"")
        one.connect(f"tcp://127.0.0.1:{port}")
        return one

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": kind, "session": self._session, "username": "", "version": "5.3"}
        header["date"] = datetime.now(UTC).isoformat()  # the protocol wants it, and the kernel parses it
        frames = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        signature = hmac.new(self._key, b"".join(frames), hashlib.sha256).hexdigest().encode()
        self._shell.send_multipart([b"<IDS|MSG>", signature, *frames])
        return msg_id

    def _receive(self, timeout_ms: int) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """What has arrived: channel, parent id, type and content."""
        for ready, _ in self._poller.poll(timeout_ms):
            frames = ready.recv_multipart()
            at = frames.index(b"<IDS|MSG>")
            header, parent, _, content = (json.loads(frame) for frame in frames[at + 2 : at + 6])
            channel = "shell" if ready is self._shell else "iopub"
            yield channel, parent.get("msg_id", ""), header["msg_type"], content

    def until_ready(self) -> None:
        """Wait until the kernel has answered and its broadcasts arrive."""
        asked = {self._send("kernel_info_request", {})}
        replied = heard = False
        deadline = time.monotonic() + 60
        while not (replied and heard):
            if time.monotonic() > deadline:
                raise RuntimeError("the raw kernel did not answer")
            arrived = False
            for channel, parent, _, _ in self._receive(10 if replied else 100):
                arrived = True
                replied |= channel == "shell" and parent in asked
                heard |= channel == "iopub" and parent in asked
            if replied and not heard and not arrived:
                asked.add(self._send("kernel_info_request", {}))

    def execute(self, code: str) -> None:
        """Run code, until both the reply and `idle` have come."""
        msg_id = self._send("execute_request", {"code": code, "silent": False, "store_history": True})
        replied = idle = False
        while not (replied and idle):
            for _, parent, kind, content in self._receive(60_000):
                if parent != msg_id:
                    continue
                replied |= kind == "execute_reply"
                idle |= kind == "status" and content["execution_state"] == "idle"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append((time.perf_counter() - began) * 1000)


@contextmanager
def _quiet() -> Iterator[None]:
    """Kernels that papermill starts inherit our standard error, and it is kept out of the table."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _turns(rounds: int, floor: Callable[[], float], ours: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Both by turns, the one that goes first changing."""
    floors: list[float] = []
    own: list[float] = []
    for number in range(rounds):
        if number % 2:
            own.append(ours())
            floors.append(floor())
        else:
            floors.append(floor())
            own.append(ours())
    return floors, own


def _row(name: str, floors: Sequence[float], ours: Sequence[float], aim: float | None, unit: str = "ms") -> Row:
    """Medians, the median of the ratios of the rounds, and the ratio of the best of each."""
    ratios = [own / floor for floor, own in zip(floors, ours, strict=True)]
    return Row(
        name,
        statistics.median(floors),
        statistics.median(ours),
        statistics.median(ratios),
        min(ours) / min(floors),
        aim,
        unit,
        len(ratios),
    )


def _seconds(row: Row) -> Row:
    return Row(row.name, row.floor / 1000, row.ours / 1000, row.ratio, row.ratio_of_minima, row.aim, "s", row.rounds)


# The benchmarks


def cold_start(bench: Bench, rounds: int | None) -> list[Row]:
    """From the start of the process to the answers to `initialize` and `tools/list`."""

    def start(server: Callable[[], Server]) -> float:
        taken: list[float] = []
        with ExitStack() as stack, _timed(taken):  # leaving, the clock stops first
            tools = stack.enter_context(server()).handshake()
        assert tools
        return taken[0]

    for _ in range(2):
        start(bench.bare)
        start(bench.ours)
    floors, ours = _turns(rounds or 20, lambda: start(bench.bare), lambda: start(bench.ours))
    return [_row("cold_start", floors, ours, 1.3)]


def first_call(bench: Bench, rounds: int | None) -> list[Row]:
    """The first call right after the handshake, of tools that list or read, against a no-op as the first call."""
    path = bench.notebook(20)
    content = json.loads(path.read_text())
    content["cells"][0] |= {"source": "year = 1871", "metadata": {"tags": ["parameters"]}}
    path.write_text(json.dumps(content))
    notebook = path.name
    calls: dict[str, dict[str, Any]] = {
        "list_notebook_files": {},
        "read_notebook": {"path": notebook},
        "get_notebook_info": {"path": notebook},
        "list_kernels": {},
    }

    def first(server: Callable[[], Server], tool: str, arguments: dict[str, Any]) -> float:
        taken: list[float] = []
        with server() as one:
            one.handshake()
            with _timed(taken):
                one.call(tool, **arguments)
        return taken[0]

    rows: list[Row] = []
    for tool, arguments in calls.items():
        nothing, ours = partial(first, bench.bare, "nothing", {}), partial(first, bench.ours, tool, arguments)
        ours()
        rows.append(_row(f"first_call, {tool}", *_turns(rounds or 10, nothing, ours), None))
    return rows


def execute(bench: Bench, rounds: int | None) -> list[Row]:
    """`execute_cell` of `1+1` against a raw round trip plus a tool call that does nothing."""
    raw: list[float] = []
    nothing: list[float] = []
    ours: list[float] = []
    with bench.kernel() as kernel, bench.bare() as bare, bench.ours() as server:
        kernel.until_ready()
        bare.handshake()
        server.handshake()
        kernel_id = server.start_kernel()

        def measure_raw() -> None:
            with _timed(raw):
                kernel.execute("1+1")

        def measure_nothing() -> None:
            with _timed(nothing):
                bare.call("nothing")

        def measure_ours() -> None:
            with _timed(ours):
                server.one_plus_one(kernel_id)

        order = [measure_raw, measure_nothing, measure_ours]
        warm_up, measured = 30, rounds or 400
        for number in range(warm_up + measured):
            for step in range(3):
                order[(number + step) % 3]()
        del raw[:warm_up], nothing[:warm_up], ours[:warm_up]
    floors = [a + b for a, b in zip(raw, nothing, strict=True)]
    p50 = _row("execute, p50", floors, ours, 1.15)
    high_floor, high_ours = (statistics.quantiles(values, n=20)[-1] for values in (floors, ours))
    p95 = Row("execute, p95", high_floor, high_ours, high_ours / high_floor, None, None, "ms", measured)
    parts = Row(
        "– of the floor: raw kernel, no-op call",
        statistics.median(raw),
        statistics.median(nothing),
        statistics.median(nothing) / statistics.median(raw),
        None,
        None,
        "ms",
        measured,
    )
    return [p50, p95, parts]


def _notebook(bench: Bench, cells: int, rounds: int, *, saving: bool, aim: float | None) -> Row:
    # Papermill runs in this process: it cannot be given an environment, so its kernels get this one's.
    os.environ.update({name: bench.env[name] for name in ("PYTHONPYCACHEPREFIX", "IPYTHONDIR")})
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    path = bench.notebook(cells)
    small = bench.notebook(1)
    output = bench.workspace / "output.ipynb"

    def with_papermill(source: Path) -> float:
        taken: list[float] = []
        output.unlink(missing_ok=True)
        with _quiet(), _timed(taken):
            papermill.execute_notebook(
                str(source),
                str(output),
                progress_bar=False,
                request_save_on_cell_execute=saving,
                cwd=str(bench.workspace),
            )
        return taken[0]

    with bench.ours() as server:
        server.handshake()

        def with_ours(source: Path) -> float:
            taken: list[float] = []
            output.unlink(missing_ok=True)
            with _timed(taken):
                reply = server.call(
                    "execute_notebook_papermill", input_path=source.name, output_path=output.name, wait=3600
                )
            if reply["status"] != "ok":
                raise RuntimeError(f"execute_notebook_papermill: {reply}")
            return taken[0]

        with_papermill(small)
        with_ours(small)
        floors, ours = _turns(rounds, lambda: with_papermill(path), lambda: with_ours(path))
    how = "default" if saving else "without saves"
    return _seconds(_row(f"notebook_{cells}, papermill {how}", floors, ours, aim))


def notebook_100(bench: Bench, rounds: int | None) -> list[Row]:
    """100 trivial cells, start and end of the kernel included, against papermill without and with its saves."""
    return [
        _notebook(bench, 100, rounds or 9, saving=False, aim=1.1),
        _notebook(bench, 100, rounds or 5, saving=True, aim=None),
    ]


def notebook_400(bench: Bench, rounds: int | None) -> list[Row]:
    """400 trivial cells against papermill without its saves."""
    return [_notebook(bench, 400, rounds or 5, saving=False, aim=None)]


def notebook_400_saves(bench: Bench, rounds: int | None) -> list[Row]:
    """400 trivial cells against papermill as it is by default, which takes minutes."""
    return [_notebook(bench, 400, rounds or 1, saving=True, aim=None)]


def kernel_start(bench: Bench, rounds: int | None) -> list[Row]:
    """From `start_kernel` to the first result, against a raw start."""

    def start_raw() -> float:
        taken: list[float] = []
        with ExitStack() as stack, _timed(taken):  # leaving, the clock stops first
            kernel = stack.enter_context(bench.kernel())
            kernel.until_ready()
            kernel.execute("1+1")
        return taken[0]

    with bench.ours() as server:
        server.handshake()

        def start_ours() -> float:
            taken: list[float] = []
            with _timed(taken):
                kernel_id = server.start_kernel()
                server.one_plus_one(kernel_id)
            server.call("stop_kernel", kernel_id=kernel_id)
            return taken[0]

        for _ in range(2):
            start_raw()
            start_ours()
        floors, ours = _turns(rounds or 20, start_raw, start_ours)
    return [_row("kernel_start", floors, ours, 1.1)]


def project_python(bench: Bench, rounds: int | None) -> list[Row]:
    """`start_kernel` and `1+1` in the environment of a project, against the server's own Python.

    The environment sees the packages of the server, so the kernels are the same and only the choice of the Python
    differs. The second row has an environment without ipykernel, which starts with a layer.
    """
    rows: list[Row] = []
    for name, option in (("its choice", "--system-site-packages"), ("with a layer", "--without-pip")):
        project = bench.workspace / option.strip("-")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", option, str(project / ".venv")], check=True)
        if option != "--without-pip":  # the environment of the server is one itself, and not the base of another
            site = next(project.glob(".venv/lib/python*/site-packages"))
            (site / "server.pth").write_text(sysconfig.get_path("purelib"))
        with bench.ours() as server:
            server.handshake()

            def start(cwd: str, server: Server = server) -> float:
                taken: list[float] = []
                with _timed(taken):
                    kernel_id = server.call("start_kernel", cwd=cwd)["kernel_id"]
                    server.one_plus_one(kernel_id)
                server.call("stop_kernel", kernel_id=kernel_id)
                return taken[0]

            for cwd in (".", project.name) * 2:
                start(cwd)
            floors, ours = _turns(rounds or 15, partial(start, "."), partial(start, project.name))
        rows.append(_row(f"project_python, {name}", floors, ours, 1.15 if not rows else None))
    return rows


def spare_kernel(bench: Bench, rounds: int | None) -> list[Row]:
    """From `start_kernel` to the first result with a spare kernel, against the same without one."""
    with bench.ours() as cold, bench.ours("--prewarm-kernels", "1") as warm:
        for server in (cold, warm):
            server.handshake()
            server.call("list_kernels")

        def first_result(server: Server) -> float:
            taken: list[float] = []
            with _timed(taken):
                kernel_id = server.start_kernel()
                server.one_plus_one(kernel_id)
            server.call("stop_kernel", kernel_id=kernel_id)
            return taken[0]

        def with_spare() -> float:
            time.sleep(4)  # the next spare is started 2 s after the last was used
            return first_result(warm)

        first_result(cold)
        with_spare()
        floors, ours = _turns(rounds or 7, lambda: first_result(cold), with_spare)
    return [_row("spare_kernel, of a cold start", floors, ours, 0.1)]


def in_place_20mb(bench: Bench, rounds: int | None) -> list[Row]:
    """A notebook whose 100 cells put out 20 MB, run in place with saving, against the same without."""
    path = bench.workspace / "large.ipynb"
    source = "print('x' * 200_000); import time; time.sleep(0.02)"
    empty: dict[str, Any] = {"metadata": {}, "outputs": [], "execution_count": None}
    cells = [{"cell_type": "code", "id": f"c{n}", "source": source, **empty} for n in range(100)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}))
    with bench.ours() as server:
        server.handshake()

        def run(save: bool) -> float:
            taken: list[float] = []
            with _timed(taken):
                reply = server.call("execute_notebook", path=path.name, save=save, wait=600)
            if reply["status"] != "ok":
                raise RuntimeError(f"execute_notebook: {reply}")
            return taken[0]

        run(True)
        floors, ours = _turns(rounds or 5, lambda: run(False), lambda: run(True))
    return [_seconds(_row("in_place_20mb, saving on", floors, ours, 1.3))]


def history_60mb(bench: Bench, rounds: int | None) -> list[Row]:
    """An edit of a cell in a notebook of 60 MB with its history kept, against the same without one, from the second on.

    Half a second before each edit nothing happens, as between two calls of a model. The second row has no pauses.
    """
    empty: dict[str, Any] = {"metadata": {}, "execution_count": 1}

    def output(number: int) -> dict[str, Any]:
        picture = base64.b64encode(random.Random(number).randbytes(150_000)).decode()
        return {"output_type": "display_data", "data": {"image/png": picture, "text/plain": "Figure"}, "metadata": {}}

    cells = [
        {"cell_type": "code", "id": f"c{n}", "source": f"plot({n})", "outputs": [output(n)], **empty}
        for n in range(300)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    text = json.dumps({"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
    rows: list[Row] = []
    for name, pause in (("edits with pauses", 0.5), ("edits without pauses", 0.0)):
        with bench.ours("--history-versions", "0") as without, bench.ours() as kept:
            edits = []
            for which, server in enumerate((without, kept)):
                path = bench.workspace / f"large-{len(rows)}-{which}.ipynb"
                path.write_text(text)
                server.handshake()
                edits.append(partial(_edit, server, path.name, itertools.count(), pause))
            for edit in edits * 3:
                edit()
            floors, ours = _turns(rounds or 40, *edits)
        rows.append(_row(f"history_60mb, {name}", floors, ours, None if rows else 1.05))
    return rows


def _edit(server: Server, path: str, numbers: Iterator[int], pause: float) -> float:
    """The milliseconds of an edit of one cell, after a pause."""
    number = next(numbers)
    time.sleep(pause)
    taken: list[float] = []
    with _timed(taken):
        server.call("update_cell", path=path, cell_id=f"c{number * 37 % 300}", source=f"plot({number}, again=True)")
    return taken[0]


def batch_cluster(bench: Bench, rounds: int | None) -> list[Row]:
    """40 notebooks, whose one cell takes a second, on two Dask workers, against the time of all runs by two.

    The time of a run is what its worker measures, from the start of its kernel to its end.
    """
    from papermill_mcp.core.cluster.client import Cluster, ClusterTask
    from papermill_mcp.core.papermill.output import PapermillTask

    count, workers = 40, 2
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    empty: dict[str, Any] = {"metadata": {}, "outputs": [], "execution_count": None}
    cell = {"cell_type": "code", "id": "c0", "source": "import time; time.sleep(1)", **empty}
    notebook = json.dumps({"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5})

    def task(number: int) -> ClusterTask:
        return ClusterTask(
            run=PapermillTask(
                parameters={"number": number},
                kernelspec={"name": "python3", "display_name": "python3", "language": "python"},
                language="python",
                input_path=str(bench.workspace / "in.ipynb"),
                output_path=str(bench.workspace / f"{number}.ipynb"),
                display_path="in.ipynb",
                timeout_seconds=None,
                continue_on_error=False,
                report_mode=False,
            ),
            notebook=notebook.encode(),
            start_timeout_seconds=60,
            denied_env=(),
        )

    async def measure(address: str) -> tuple[list[float], list[float]]:
        cluster = await Cluster.connect(address, timeout_seconds=30)
        try:
            floors: list[float] = []
            taken: list[float] = []
            await asyncio.gather(*(cluster.run(task(number)) for number in range(2 * workers)))
            for _ in range(rounds or 3):
                with _timed(taken):
                    outcomes = await asyncio.gather(*(cluster.run(task(number)) for number in range(count)))
                if {outcome.status for outcome in outcomes} != {"ok"}:
                    raise RuntimeError(f"runs on the cluster: {outcomes}")
                floors.append(sum(outcome.seconds for outcome in outcomes) / workers * 1000)
            return floors, taken
        finally:
            await cluster.aclose()

    with Dask(bench, workers) as dask:
        floors, ours = asyncio.run(measure(dask.address))
    return [_seconds(_row("batch_cluster, of all runs by two", floors, ours, None))]


def batch_plan(bench: Bench, rounds: int | None) -> list[Row]:
    """The plan of a batch with 10,000 rows of a CSV over a notebook of 30 cells, by `dry_run`.

    The floor reads the same rows, makes values of their texts, and makes a digest of each row. The floor of memory is
    the values. Meanwhile the server answers other calls: the slowest of these against the slowest without a plan.
    """
    count = 10_000
    source = "number = 1\nname: str = 'x'\nrate = 0.5"
    path = bench.notebook(30)
    notebook = json.loads(path.read_text())
    notebook["cells"][0] |= {"source": source, "metadata": {"tags": ["parameters"]}}
    path.write_text(json.dumps(notebook))
    table = bench.workspace / "rows.csv"
    table.write_text("number,name,rate\n" + "".join(f"{n},name {n},{n / 7}\n" for n in range(count)))

    def read() -> list[dict[str, Any]]:
        with table.open(newline="") as file:
            rows: list[dict[str, Any]] = [
                {"number": int(row["number"]), "name": row["name"], "rate": float(row["rate"])}
                for row in csv.DictReader(file)
            ]
        digests = {hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest() for row in rows}
        assert len(digests) == count
        return rows

    def floor() -> float:
        taken: list[float] = []
        with _timed(taken):
            read()
        return taken[0]

    tracemalloc.start()
    rows = read()
    values = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    del rows
    idle: list[float] = []
    busy: list[float] = []
    with bench.ours("--dask-scheduler", "tcp://127.0.0.1:9") as server:
        server.handshake()

        def plan() -> float:
            taken: list[float] = []
            with _timed(taken):
                reply, waits = server.call_beside(
                    ("execute_notebook_batch", {"input_path": path.name, "parameters": table.name, "dry_run": True}),
                    ("list_executions", {"limit": 1}),
                )
            if reply["runs_total"] != count:
                raise RuntimeError(f"execute_notebook_batch: {reply}")
            busy.append(max(waits))
            return taken[0]

        server.call("execute_notebook_batch", input_path=path.name, parameters=[{"number": 0}], dry_run=True)
        time.sleep(2)
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        for _ in range(100):
            with _timed(idle):
                server.call("list_executions", limit=1)
        floors, ours = _turns(rounds or 5, floor, plan)
        status = Path(f"/proc/{process.pid}/status")
        peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 if status.exists() else before
    return [
        _row("batch_plan, 10,000 rows", floors, ours, None),
        _row("batch_plan, slowest other call meanwhile", [max(idle)] * len(busy), busy, None),
        _row("batch_plan, peak of memory", [values], [(peak - before) / 2**20], None, "MB"),
    ]


def memory(bench: Bench, rounds: int | None) -> list[Row]:
    """Resident memory of the server, right after the handshake and once it has come to rest."""

    def resident(server: Callable[[], Server]) -> tuple[float, float]:
        with server() as one:
            one.handshake()
            process = psutil.Process(one.process.pid)
            first = process.memory_info().rss / 2**20
            time.sleep(3)
            family = [process, *process.children(recursive=True)]
            return first, sum(member.memory_info().rss for member in family) / 2**20

    resident(bench.bare)
    resident(bench.ours)
    floors, ours = [], []
    for _ in range(rounds or 3):
        floors.append(resident(bench.bare))
        ours.append(resident(bench.ours))
    first, rest = (([pair[which] for pair in floors], [pair[which] for pair in ours]) for which in (0, 1))
    return [_row("memory, after the handshake", *first, None, "MB"), _row("memory, 3 s later", *rest, None, "MB")]


_ALL = (
    cold_start,
    first_call,
    execute,
    notebook_100,
    notebook_400,
    in_place_20mb,
    history_60mb,
    kernel_start,
    project_python,
    spare_kernel,
    batch_plan,
    memory,
)
BENCHMARKS = {one.__name__: one for one in _ALL}
SLOW = {one.__name__: one for one in (notebook_400_saves, batch_cluster)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, or all, and print the table."""
    parser = argparse.ArgumentParser(description="Measure against a floor, and print a table in markdown.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join([*BENCHMARKS, *SLOW])}; default: all")
    parser.add_argument("--rounds", type=int, help="how often each is measured; default: enough for each")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes")
    arguments = parser.parse_args(argv)
    known = {**BENCHMARKS, **SLOW}
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    names = arguments.names or [*BENCHMARKS, *(SLOW if arguments.slow else ())]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {libraries}\n")
    print("| benchmark | rounds | floor | ours | ratio | ratio of minima | aim | met |")
    print("|---|---:|---:|---:|---:|---:|---:|---|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            for row in known[name](Bench(Path(scratch)), arguments.rounds):
                print("| " + " | ".join(row.cells()) + " |", flush=True)
    print(f"\nLoad of the machine in the last 1, 5, 15 min: {', '.join(f'{x:.1f}' for x in os.getloadavg())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
