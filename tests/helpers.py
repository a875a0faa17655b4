"""What several tests need: calls through a client, servers over stdio, and a look at processes."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
from mcp import Client, StdioServerParameters
from mcp.client.client import ConnectMode
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    CallToolResult,
    ImageContent,
    TextContent,
)

from papermill_mcp.services.outputs import OutputBudget, OutputView, show_outputs
from papermill_mcp.services.pictures import ShownImage

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent

#: Every process that a test starts inherits this variable, and is found by its value.
MARKER = "PAPERMILL_MCP_TEST"

LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"

Json = dict[str, Any]

#: Code points that have no shape of their own (Default_Ignorable_Code_Point in DerivedCoreProperties of Unicode), from
#: and to, but for variation selectors, which stay where they have something to choose from.
IGNORABLE = [
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0)),
    *((0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE00FF), (0xE01F0, 0xE0FFF)),
]


# Replies


def text_of(result: CallToolResult) -> str:
    """All text of a reply."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def shown(
    outputs: Sequence[Mapping[str, Any]], budget: OutputBudget, *, label: str = ""
) -> tuple[list[OutputView], list[ShownImage]]:
    """The outputs of a reply that shows one cell, and its images."""
    with budget.pictures as pictures:
        views = show_outputs(outputs, budget, label=label)
        return views, pictures.images()


def images_of(result: CallToolResult) -> list[ImageContent]:
    """All images of a reply."""
    return [part for part in result.content if isinstance(part, ImageContent)]


def facts_of(result: CallToolResult) -> Json:
    """The structured content of a reply that must have one."""
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None, text_of(result)
    facts: Json = result.structured_content
    return facts


def stdout_of(facts: Mapping[str, Any]) -> str:
    """What a cell wrote to its standard output, of the structured content of an execution."""
    return "".join(output["text"] for output in facts.get("outputs") or [] if output.get("name") == "stdout")


async def call(client: Client, tool: str, /, *, seconds: Any = 30, **arguments: Any) -> Json:
    """Call a tool that must succeed, in bounded time. Returns its structured content."""
    async with asyncio.timeout(seconds):
        return facts_of(await client.call_tool(tool, arguments))


async def refused(client: Client, tool: str, /, *, seconds: Any = 30, **arguments: Any) -> str:
    """Call a tool that must fail, in bounded time. Returns the error message."""
    async with asyncio.timeout(seconds):
        result = await client.call_tool(tool, arguments)
    assert result.is_error, text_of(result)
    return text_of(result)


async def until(condition: Callable[[], bool], *, seconds: float = 5, what: str = "") -> None:
    """Wait for something that sends no event, such as a file of another process."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not happen within {seconds} s: {what or condition}") from None


# Notebooks


def cell(source: str, cell_type: str = "code", *, tags: Sequence[str] = (), cell_id: str | None = None) -> Json:
    """A cell of nbformat 4.5."""
    metadata: Json = {"tags": list(tags)} if tags else {}
    data: Json = {"cell_type": cell_type, "metadata": metadata, "source": source}
    if cell_type == "code":
        data |= {"execution_count": None, "outputs": []}
    if cell_id is not None:
        data["id"] = cell_id
    return data


def write_notebook(
    path: Path, cells: Iterable[Json | str], *, kernel: str = "python3", language: str = "python"
) -> Path:
    """Write a notebook of nbformat 4.5. A string is a code cell. Cells without id are named c0, c1, …"""
    made = [cell(entry) if isinstance(entry, str) else dict(entry) for entry in cells]
    for number, data in enumerate(made):
        data.setdefault("id", f"c{number}")
    notebook = {
        "cells": made,
        "metadata": {
            "kernelspec": {"display_name": kernel, "language": language, "name": kernel},
            "language_info": {"name": language},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")
    return path


def remove_cut_off_saves(workspace: Path) -> None:
    """Remove that which servers remove after an hour or later: temporary files, directories without a ledger."""
    for left in workspace.glob(".papermill-mcp-*.tmp"):
        left.unlink()
    for directory in (workspace.parent / "state").glob("runtime-*"):
        if not (directory / "ledger").exists():
            directory.rmdir()


def waiting_code(directory: Path | str = ".") -> str:
    """Code that says `waiting`, makes a file of this name, and waits for a file named `go`, both in the directory."""
    return (
        f"import pathlib, time\nprint('waiting', flush=True)\npathlib.Path({str(directory)!r}, 'waiting').touch()\n"
        f"while not pathlib.Path({str(directory)!r}, 'go').exists():\n    time.sleep(0.01)\n"
    )


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def joined(text: str | Sequence[str]) -> str:
    """A multi-line string of nbformat."""
    return text if isinstance(text, str) else "".join(text)


def stdout_in(cell_data: Mapping[str, Any]) -> str:
    """What a cell in a file has as its standard output."""
    return "".join(
        joined(o["text"]) for o in cell_data["outputs"] if o["output_type"] == "stream" and o["name"] == "stdout"
    )


def digest(path: Path) -> str:
    """A hash of the bytes of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Processes


def marked_processes(marker: str) -> list[psutil.Process]:
    """Living processes, other than this one, that carry the marker in their environment."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def zombies() -> set[int]:
    """Dead children of this process that nobody has waited for."""
    found = set()
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


async def wait_gone(pids: Iterable[int], *, seconds: float) -> list[int]:
    """Wait for processes to end, at most `seconds` for all. Returns those that live on."""
    return await asyncio.to_thread(gone_in_time, list(pids), seconds)


def gone_in_time(pids: Iterable[int], seconds: float) -> list[int]:
    """The same, and blocks meanwhile."""
    deadline = time.monotonic() + seconds
    living = []
    for pid in pids:
        try:
            living.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    # Not psutil.wait_procs, which also waits until somebody has taken note of the end.
    while (living := [process for process in living if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [process.pid for process in living]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Jupyter servers


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    token: str | None = None,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One HTTP request to a Jupyter server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            method,
            path,
            body=None if body is None else json.dumps(body),
            headers={**({"Authorization": f"token {token}"} if token else {}), **(headers or {})},
        )
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


class Lab(NamedTuple):
    """A Jupyter server that was started, as its user sees it: with what the reply says and the files it names."""

    port: int
    pid: int
    page: Path
    token_file: Path

    @classmethod
    def of(cls, facts: Json) -> Lab:
        page, token_file = re.findall(r"(?<= )/\S+?(?=[.]? |[.]$)", facts["token_hint"])
        return cls(facts["port"], facts["pid"], Path(page), Path(token_file))

    @property
    def token(self) -> str:
        return self.token_file.read_text()

    @property
    def directory(self) -> Path:
        return self.token_file.parent

    async def ask(self, path: str, *, method: str = "GET", body: Any = None) -> Answer:
        """Ask with the token."""
        return await asyncio.to_thread(ask, self.port, path, method=method, token=self.token, body=body)

    async def start_kernel(self) -> Path:
        """Start a kernel as a browser does. Returns its connection file."""
        answer = await self.ask("/api/kernels", method="POST", body={"name": "python3"})
        assert answer.status == 201, answer
        return self.directory / f"kernel-{answer.json['id']}.json"


# Servers over stdio


def server_command(workspace: Path, state: Path, *flags: str) -> list[str]:
    """The command line of a server, without the interpreter."""
    return ["-m", "papermill_mcp.main", "--roots", str(workspace), "--state-directory", str(state), *flags]


def server_environment() -> dict[str, str]:
    """The environment of a server: that of this process, without settings of a developer's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_MCP_")}


@asynccontextmanager
async def stdio_client_of(
    workspace: Path, state: Path, *flags: str, mode: ConnectMode = "auto"
) -> AsyncIterator[Client]:
    """A client of a server process of its own. Enter and leave it in the same task: it holds cancel scopes."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=server_command(workspace, state, *flags),
        env=server_environment(),
        cwd=workspace,
    )
    async with Client(parameters, mode=mode) as client:
        yield client


def line_of(number: int | str, method: str, params: Json | None = None) -> bytes:
    """A request as a line."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}).encode() + b"\n"


def envelope_of(version: str) -> Json:
    """The `_meta` of each request of a protocol without a handshake."""
    return {
        PROTOCOL_VERSION_META_KEY: version,
        CLIENT_INFO_META_KEY: {"name": "tests", "version": "0"},
        CLIENT_CAPABILITIES_META_KEY: {},
    }


class RawServer:
    """A server process that is driven line by line. Every line it writes to stdout is checked to be JSON-RPC."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.envelope: Json | None = None
        self.impure: list[bytes] = []
        self.notifications: list[Json] = []
        self.answers: list[Json] = []
        self._waiting: dict[Any, asyncio.Future[Json]] = {}
        self._next_id = 0
        self._errors = bytearray()
        self._readers = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        workspace: Path,
        state: Path,
        *flags: str,
        python: str = sys.executable,
        module: str = "papermill_mcp.main",
        script: Path | None = None,
        era: str | None = LEGACY_VERSION,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> AsyncIterator[Self]:
        """A server that has been spoken to in this era, or not at all. It is killed at the end if it still lives.

        Args:
            module: started by `python -m`.
            script: takes the place of the module.
            stderr: a descriptor that takes the place of a pipe that is read.
        """
        command = server_command(workspace, state, *flags)
        command[1] = module
        if script is not None:
            command[:2] = [str(script)]
        process = await asyncio.create_subprocess_exec(
            python,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=server_environment(),
            cwd=workspace,
            limit=64 * 1024 * 1024,
            start_new_session=True,
        )
        server = cls(process)
        try:
            if era == LEGACY_VERSION:
                await server.handshake()
            elif era is not None:
                server.envelope = envelope_of(era)
                await server.request("server/discover")
            yield server
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await asyncio.wait(server._readers, timeout=5)
            for reader in server._readers:
                reader.cancel()
            if process.stdin is not None:
                process.stdin.close()
            process._transport.close()  # type: ignore[attr-defined]  # a child of the server may hold the pipe

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def errors(self) -> str:
        """What the server wrote to stderr so far."""
        return self._errors.decode("utf-8", "replace")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                self.impure.append(line)
            elif "method" in message:
                self.notifications.append(message)
            else:
                self.answers.append(message)
                waiting = self._waiting.pop(message.get("id"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.cancel()

    async def _read_errors(self) -> None:
        while self.process.stderr is not None and (data := await self.process.stderr.read(65536)):
            self._errors += data

    async def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def send(self, method: str, params: Json | None = None) -> tuple[int, asyncio.Future[Json]]:
        """Send a request. Returns its id and a future of the answer."""
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        await self.write(line_of(number, method, self.enveloped(params)))
        return number, future

    def enveloped(self, params: Json | None) -> Json:
        """Parameters as the era of this server wants them."""
        return (params or {}) | ({"_meta": self.envelope} if self.envelope else {})

    async def answers_to(self, *lines: bytes, seconds: float = 30) -> list[Json]:
        """Send lines that are refused or cheap. Returns all answers that come before that to a ping behind them."""
        before = len(self.answers)
        await self.write(b"".join(line + b"\n" for line in lines))
        number, ping = await self.send("ping")
        async with asyncio.timeout(seconds):
            await ping
        return [answer for answer in self.answers[before:] if answer["id"] != number]

    async def notify(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        await self.write(json.dumps(message).encode() + b"\n")

    async def request(self, method: str, params: Json | None = None, *, seconds: float = 30) -> Json:
        """Send a request and wait for the answer. Returns its result."""
        _, future = await self.send(method, params)
        async with asyncio.timeout(seconds):
            answer = await future
        assert "result" in answer, answer
        result: Json = answer["result"]
        return result

    async def call(self, tool: str, /, *, seconds: float = 30, **arguments: Any) -> Json:
        """Call a tool that must succeed. Returns its structured content."""
        result = await self.request("tools/call", {"name": tool, "arguments": arguments}, seconds=seconds)
        assert not result.get("isError"), result
        content: Json = result["structuredContent"]
        return content

    async def handshake(self) -> None:
        """Say hello, as clients before the 2026 revision do."""
        await self.request(
            "initialize",
            {
                "protocolVersion": LEGACY_VERSION,
                "capabilities": {},
                "clientInfo": {"name": "tests", "version": "0"},
            },
        )
        await self.notify("notifications/initialized")

    def _stdout(self) -> Any:
        return self.process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]

    def stop_reading(self) -> None:
        """Read nothing of what the server writes, for now."""
        self._stdout().pause_reading()

    def go_on_reading(self) -> None:
        """Read again."""
        self._stdout().resume_reading()

    def close_stdout(self) -> None:
        """Read nothing of what the server writes, ever again."""
        self._stdout().close()

    def close_stdin(self) -> None:
        """Leave, as a client does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server alone."""
        self.process.send_signal(number)

    async def exit_code(self, *, seconds: float) -> int:
        """Wait for the end of the process, at most `seconds`."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()
