"""Standard error that nobody reads holds nobody up, and one that is read loses nothing."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from papermill_mcp.utils import stderr_relay
from papermill_mcp.utils.stderr_relay import StderrRelay

_START = "from papermill_mcp.utils.stderr_relay import relay_stderr\nclose = relay_stderr()\n"

#: Writes to standard error without the GIL and in Python, and ends as the code that is put behind it says.
_EVERY_WAY = (
    "import logging, os, subprocess, sys, warnings\n"
    "print('printed', file=sys.stderr)\n"
    "os.write(2, b'by descriptor\\n')\n"
    "subprocess.run(['sh', '-c', 'echo by a child >&2'])\n"
    "logging.error('logged')\n"
    "warnings.warn('warned')\n"
)


def run(code: str, *options: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", _START + code]
    return subprocess.run(command, stderr=stderr, stdin=subprocess.DEVNULL, text=True, timeout=20, check=False)


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that takes nothing more, and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.fixture
def pipes() -> Iterator[tuple[StderrRelay, int, int]]:
    """A relay, the end to write to, and the end to read from."""
    source, to_write = os.pipe()
    to_read, sink = os.pipe()
    ends = [source, to_read, sink]
    relay = StderrRelay(source, sink)
    yield relay, to_write, to_read
    for end in ends:
        os.close(end)


def read_until(descriptor: int, into: bytearray, last: bytes) -> None:
    while not into.endswith(last):
        into += os.read(descriptor, 65536)


def test_whoever_writes_is_never_held_up_and_every_line_comes_or_is_counted(
    pipes: tuple[StderrRelay, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stderr_relay, "MAX_WAITING", 200_000)
    counted: list[int] = []
    noticed = threading.Event()

    class Notices(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            counted.append(record.dropped)  # type: ignore[attr-defined]
            noticed.set()

    notices = Notices()
    stderr_relay.logger.addHandler(notices)
    relay, to_write, to_read = pipes
    relay.start()
    sent = 10_000
    for number in range(sent):  # a megabyte, into a pipe that nobody reads
        os.write(to_write, f"{number:05} {'x' * 94}\n".encode())
    received = bytearray()
    reader = threading.Thread(target=read_until, args=(to_read, received, b"behind\n"), daemon=True)
    try:
        reader.start()
        assert noticed.wait(10)
        os.write(to_write, b"behind\n")
    finally:
        os.close(to_write)
        stderr_relay.logger.removeHandler(notices)
    assert relay.wait(10)
    reader.join(10)

    lines = received.decode().splitlines()
    assert lines.pop() == "behind"
    assert sum(counted) > 0
    assert len(lines) + sum(counted) == sent
    assert [len(line) for line in lines] == [100] * len(lines)
    assert lines[0].startswith("00000 ")
    assert lines == sorted(lines)


def test_text_that_ends_without_a_line_end_comes_at_the_end(pipes: tuple[StderrRelay, int, int]) -> None:
    relay, to_write, to_read = pipes
    relay.start()
    os.write(to_write, b"whole\nhalf")
    os.close(to_write)
    assert relay.wait(10)
    assert os.read(to_read, 100) == b"whole\nhalf"


@pytest.mark.parametrize("end", ["close(); os._exit(3)", "sys.exit(3)", "raise ValueError('uncaught')"])
def test_everything_that_was_written_is_there_at_the_end(end: str) -> None:
    done = run(_EVERY_WAY + end)

    assert done.returncode == (1 if "uncaught" in end else 3)
    expected = ["printed", "by descriptor", "by a child", "ERROR:root:logged"]
    assert done.stderr.splitlines()[:4] == expected
    assert "UserWarning: warned" in done.stderr
    assert ("ValueError: uncaught" in done.stderr) == ("uncaught" in end)


@pytest.mark.parametrize("end", ["close(); os._exit(3)", "sys.exit(3)", "raise ValueError('uncaught')"])
def test_a_process_ends_though_nobody_reads(end: str) -> None:
    with full_pipe() as writer:
        done = run(f"{_EVERY_WAY}for _ in range(3000): os.write(2, b'x' * 999 + b'\\n')\n{end}", stderr=writer)

    assert done.returncode == (1 if "uncaught" in end else 3)


def test_the_last_words_of_a_crash_are_written() -> None:
    done = run("import os; os.kill(os.getpid(), 11)", "-X", "faulthandler")

    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_crash_ends_though_nobody_reads() -> None:
    with full_pipe() as writer:
        done = run("import os; os.kill(os.getpid(), 11)", "-X", "faulthandler", stderr=writer)

    assert done.returncode == -signal.SIGSEGV


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(f"{_EVERY_WAY}sys.exit(3)", stderr=writer).returncode == 3
    finally:
        os.close(writer)


def test_a_process_without_standard_error_is_left_as_it_is() -> None:
    code = f"{_START}import os, sys\ntry: os.fstat(2)\nexcept OSError: sys.exit(3)"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]

    assert subprocess.run(command, timeout=20, check=False).returncode == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe cannot be chosen")
def test_c_code_that_holds_the_gil_is_not_held_up() -> None:
    """It would wait for the thread that empties the pipe, which would wait for the GIL."""
    reader, writer = os.pipe()
    large = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.close(reader)
    os.close(writer)
    code = f"import ctypes\nctypes.PyDLL(None).write(2, b'x' * {large} + b'y' * {large} + b'\\n', {2 * large + 1})"
    done = run(code)

    assert done.returncode == 0
    assert len(done.stderr) == 2 * large + 1
