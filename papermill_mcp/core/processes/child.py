"""The common part of kernels and the Jupyter server as child processes: output, end, directory."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import tempfile
from collections import deque
from pathlib import Path

from papermill_mcp.utils.file_utils import create_private_file
from papermill_mcp.utils.private import make_private_directory
from papermill_mcp.utils.text_utils import clean_text

logger = logging.getLogger(__name__)

#: Bytes kept of the text on a child's standard streams. The end counts.
TAIL_BYTES = 64 * 1024

#: More than a connection file or a token takes.
_PROBE_BYTES = 4096


class OutputTail:
    """A pipe for the standard streams of a child. It is read all the time, so that the child never blocks on it.

    Args:
        keep: bytes kept of the text.

    Attributes:
        write_fd: the end that the child gets. Ours is closed by `close_write` when the child has its own.
        lines: how many lines the child has written.
    """

    def __init__(self, keep: int = TAIL_BYTES) -> None:
        self._keep = keep
        read_fd, self.write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        self._read_fd: int | None = read_fd
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self.lines = 0
        asyncio.get_running_loop().add_reader(read_fd, self.drain)

    def close_write(self) -> None:
        """Close our copy of the child's end. To be called once, after the child was started or could not be."""
        os.close(self.write_fd)

    def drain(self) -> None:
        """Take the available bytes."""
        if self._read_fd is None:
            return
        try:
            data = os.read(self._read_fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._chunks.append(data)
        self._bytes += len(data)
        self.lines += data.count(b"\n")
        while self._bytes - len(self._chunks[0]) >= self._keep:
            self._bytes -= len(self._chunks.popleft())

    def close(self) -> None:
        """Stop reading. The text so far stays."""
        if self._read_fd is not None:
            asyncio.get_running_loop().remove_reader(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = None

    @property
    def data(self) -> bytes:
        """The end of the text, as it was written."""
        return b"".join(self._chunks)

    def text(self, limit: int) -> str:
        """The end of the text, cleaned, at most `limit` characters."""
        text = clean_text(self.data.decode("utf-8", "replace")).strip()
        return text if len(text) <= limit else "…" + text[-limit:]

    def forget(self) -> None:
        """Drop the kept text."""
        self._chunks.clear()
        self._bytes = 0


def describe_exit(code: int) -> str:
    """How a process ended, in words: `exit code 1` or `signal 9 (SIGKILL)`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def private_directory(state_directory: Path) -> Path:
    """A new directory of mode 0700 below the state directory, for files that hold keys and tokens."""
    made = None
    try:
        make_private_directory(state_directory)
        made = Path(tempfile.mkdtemp(prefix="runtime-", dir=state_directory))
        probe = made / "probe"  # a full disk may still have room for a directory
        try:
            create_private_file(probe, b"\0" * _PROBE_BYTES)
        finally:
            probe.unlink(missing_ok=True)
        return made
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        logger.warning("the state directory cannot be used, so a temporary one is: %s", error)
        return Path(tempfile.mkdtemp(prefix="jupyter-papermill-mcp-"))
