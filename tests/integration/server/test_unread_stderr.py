"""A client that gives the server a pipe for standard error and never reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from conftest import StartRaw
from helpers import stdout_of

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe cannot be chosen"),
]


@contextlib.contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that a few lines fill."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def waiting(reader: int) -> int:
    """Bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("how", ["EOF", "SIGTERM"])
async def test_a_server_whose_log_nobody_reads_answers_and_ends(how: str, raw_server: StartRaw) -> None:
    with small_pipe() as (reader, writer):
        async with raw_server("--log-level", "DEBUG", stderr=writer) as server:
            kernel_id = (await server.call("start_kernel"))["kernel_id"]
            for _ in range(500):
                await server.call("list_kernels")
            before = waiting(reader)
            for _ in range(50):
                await server.call("list_kernels")
            assert waiting(reader) == before > 0, "the pipe has room for the log"
            facts = await server.call("execute_cell", kernel_id=kernel_id, code="print(1)")
            assert stdout_of(facts) == "1\n"

            began = time.monotonic()
            if how == "EOF":
                server.close_stdin()
            else:
                server.signal(signal.SIGTERM)
            assert await server.exit_code(seconds=4) == 0
            assert time.monotonic() - began < 2


async def test_what_was_logged_until_the_end_is_there(raw_server: StartRaw) -> None:
    async with raw_server("--log-level", "DEBUG") as server:
        for _ in range(50):
            await server.call("list_kernels")
        server.close_stdin()
        assert await server.exit_code(seconds=4) == 0

    assert server.errors.count("operation='list_kernels'") == 50
