"""The server with tools beside its own that fail in every way. Run in place of `papermill_mcp.main`.

    python tests/failing_server.py --roots DIRECTORY

Everything else is as it is: the settings, the server class, the way it is served.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Callable
from typing import Any

from mcp_types import CallToolResult, TextContent

from papermill_mcp import main
from papermill_mcp.config import Config, ConfigError
from papermill_mcp.observability import Metrics
from papermill_mcp.server import app
from papermill_mcp.server.json_rpc import MAX_MESSAGE_BYTES
from papermill_mcp.server.mcp_server import NotebookServer

SECRET = "CANARY-4711"

_released = asyncio.Event()


async def fail(kind: str) -> str:
    """Raise an exception of the builtins, or CancelledError."""
    if kind == "RecursionError":
        return await fail(kind)
    raise asyncio.CancelledError(SECRET) if kind == "CancelledError" else getattr(builtins, kind)(SECRET)


async def fail_inside(kind: str) -> str:
    """Wait for something that is cancelled by itself, or that exits in a thread."""
    if kind == "a thread that exits":
        return await asyncio.to_thread(sys.exit, SECRET)
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.cancel(SECRET)
    return await future


async def give(kind: str) -> CallToolResult:
    """Return something that cannot be sent."""
    return _RESULTS[kind]()


async def hold() -> str:
    """Wait until `release` is called."""
    await _released.wait()
    return "released"


async def release() -> str:
    """Let all who wait go on."""
    _released.set()
    return "done"


def _structured(value: Any) -> CallToolResult:
    return CallToolResult(content=[], structured_content={"value": value, "secret": SECRET})


def _text(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])


def _cycle() -> CallToolResult:
    cycle: list[Any] = [SECRET]
    cycle.append(cycle)
    return _structured(cycle)


def _nested(depth: int) -> CallToolResult:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return _structured(value)


class _Unknown:
    def __repr__(self) -> str:
        return SECRET


_RESULTS: dict[str, Callable[[], CallToolResult]] = {
    "a lone surrogate": lambda: _text(f"{SECRET} \ud800"),
    "a lone surrogate, structured": lambda: _structured("\udfff"),
    "a lone surrogate as a key": lambda: _structured({"\udfff": 1}),
    "NaN": lambda: _structured(float("nan")),
    "Infinity": lambda: _structured([float("-inf")]),
    "bytes": lambda: _structured(b"\xff"),
    "a cycle": _cycle,
    "an object": lambda: _structured(_Unknown()),
    "100,000 levels": lambda: _nested(100_000),
    "too large": lambda: _text("x" * (MAX_MESSAGE_BYTES + 1)),
}


_build = app.build_server


def _with_failures(config: Config, metrics: Metrics | None = None, fault: ConfigError | None = None) -> NotebookServer:
    server = _build(config, metrics, fault)
    for tool in (fail, fail_inside, give, hold, release):
        server.add_tool(tool, structured_output=False)
        server._names.append(tool.__name__)
    return server


if __name__ == "__main__":
    app.build_server = _with_failures
    sys.exit(main.main())
