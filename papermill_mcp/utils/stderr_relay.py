"""Standard error that never holds the server up.

A client may give the server a pipe for standard error and not read it. A write to a full pipe waits, in the event loop
and at the exit alike. So descriptor 2 becomes a pipe of our own, which a thread always empties, and another thread
writes it to the former standard error. Text that does not fit into the memory between the two is dropped and
counted. This holds for every writer to descriptor 2: the log, warnings, tracebacks, C code, child processes.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable

from papermill_mcp.utils.file_utils import open_special, write_all

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

#: Bytes that wait for the reader of standard error, at most.
MAX_WAITING = 1024 * 1024

#: Seconds that the last lines get to be written.
CLOSE_SECONDS = 0.2

_READ_BYTES = 65_536
#: Seconds in which lines gather before they are read: a read for each line makes a short call slower by a tenth.
_GATHER_SECONDS = 0.02
#: The size of our own pipe, where it can be chosen. C code may write while it holds the GIL, and must not wait then.
_PIPE_BYTES = 1024 * 1024


class StderrRelay:
    """Reads from one descriptor and passes the bytes on to another.

    Args:
        source: the end of a pipe to read from. Its other end is closed by its owner.
        sink: where the lines go. A write to it may block.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()  # whole lines
        self._waiting = 0
        self._dropped = 0
        self._ended = False
        self._hurry = threading.Event()
        self._done = threading.Event()

    def start(self) -> None:
        """Begin to pass on. The threads do not keep the process alive."""
        for work in (self._read, self._write):
            threading.Thread(target=work, name="standard error", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until the source has ended and everything is written, at most so long. Returns whether it is."""
        self._hurry.set()
        return self._done.wait(seconds)

    def _read(self) -> None:
        """Take all bytes, also those that cannot be written."""
        rest = b""
        while True:
            try:
                data = os.read(self._source, _READ_BYTES)
            except OSError:
                data = b""
            lines, newline, rest = (rest + data).rpartition(b"\n")
            if not data or len(rest) > MAX_WAITING:
                lines, newline, rest = lines + newline + rest, b"", b""
            self._take(lines + newline)
            if not data:
                break
            if len(data) < _READ_BYTES:
                self._hurry.wait(_GATHER_SECONDS)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, lines: bytes) -> None:
        if not lines:
            return
        with self._changed:
            if self._waiting + len(lines) > MAX_WAITING:
                self._dropped += max(1, lines.count(b"\n"))
                return
            self._chunks.append(lines)
            self._waiting += len(lines)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._chunks and not self._ended:
                    self._changed.wait()
                if not self._chunks:
                    break
                data = self._chunks.popleft()
            try:
                write_all(self._sink, data)
            except OSError:
                pass  # there is no reader any more, so nothing is lost
            with self._changed:
                self._waiting -= len(data)
                dropped = self._dropped if self._waiting < MAX_WAITING // 2 else 0
                self._dropped -= dropped
            if dropped:
                logger.warning("standard error was not read, so lines were dropped", extra={"dropped": dropped})
        self._done.set()


def relay_stderr() -> Callable[[], None]:
    """Put a relay behind descriptor 2, for the rest of the process. Does nothing without a standard error.

    Returns a function for the end of the process, which is also called at its orderly exit: in bounded time, it writes
    the bytes so far. Later bytes go nowhere.
    """
    if sys.platform == "win32" or sys.stderr is None:
        return lambda: None
    try:
        sink = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return lambda: None
    source, ours = os.pipe()
    if sys.platform == "linux":
        try:
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass
    relay = StderrRelay(source, sink)
    relay.start()
    os.dup2(ours, 2)
    os.close(ours)
    if faulthandler.is_enabled():
        _keep_last_words(sink)
    close = functools.partial(_close, relay)
    atexit.register(close)
    return close


def _close(relay: StderrRelay) -> None:
    nowhere = open_special(os.devnull, os.O_WRONLY)
    pipe = os.fstat(2)
    for descriptor in (1, 2):  # a stray `print` goes to standard error, see `take_stdio`
        if os.path.samestat(os.fstat(descriptor), pipe):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)
    relay.wait(CLOSE_SECONDS)


def _keep_last_words(sink: int) -> None:
    """Let `faulthandler` write to the sink itself: in a crash, no thread of ours runs any more.

    It needs a file description of its own, since it must not wait, and others share the one we were given.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
    try:
        faulthandler.enable(file=open_special(f"/proc/self/fd/{sink}", flags))
    except OSError:
        pass  # a socket, or a system without /proc: its last words are lost
