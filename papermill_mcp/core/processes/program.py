"""One run of a program, such as an installer or an interpreter that is asked something.

It has a session of its own, no input but a short text, and starts in the root of the file system: no project there
configures it. Its output is bounded, and nothing of it is left after its end or that of this server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from papermill_mcp.core.processes import guard
from papermill_mcp.core.processes.child import TAIL_BYTES, OutputTail
from papermill_mcp.core.processes.watchdog import Watchdog

#: Seconds that an interrupted program gets to put things in order.
_PATIENCE = 2.0

#: Bytes of input, at most. A pipe takes so many at once.
MAX_INPUT = 4096


class Program:
    """One process, with all that it starts.

    Args:
        mark: a path below the directory that the watchdog guards. The processes are found by it.
        keep: bytes kept of its output. The end counts.
        text: its standard input, at most `MAX_INPUT` bytes; None for none.
        errors: whether its standard error is a part of the output. Else it is dropped.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        watchdog: Watchdog,
        mark: Path,
        keep: int = TAIL_BYTES,
        text: bytes | None = None,
        errors: bool = True,
    ) -> None:
        if text is not None and len(text) > MAX_INPUT:
            raise ValueError(f"{len(text)} bytes of input are too many")
        self._text = text
        self._errors = errors
        self.command = list(command)
        self._variables = dict(variables) | {guard.KERNEL_VARIABLE: str(mark)}
        self._watchdog = watchdog
        self._keep = keep
        self._tail: OutputTail | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._started = 0
        self._interrupted = False

    @property
    def lines(self) -> int:
        """How many lines it has written."""
        return self._tail.lines if self._tail is not None else 0

    @property
    def output(self) -> bytes:
        """The end of its output, as it was written."""
        return self._tail.data if self._tail is not None else b""

    def text(self, limit: int) -> str:
        """The end of its output, cleaned, at most `limit` characters."""
        return self._tail.text(limit) if self._tail is not None else ""

    async def run(self) -> int:
        """Run to the end. Returns the exit code. Nothing of it is left, also when the caller is cancelled.

        Raises:
            OSError: it cannot be started.
        """
        self._tail = tail = OutputTail(self._keep)
        given = asyncio.subprocess.DEVNULL if self._text is None else _pipe_with(self._text)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=given,
                stdout=tail.write_fd,
                stderr=tail.write_fd if self._errors else asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env=self._variables,
                cwd=os.sep,
            )
        except OSError:
            tail.close()
            raise
        finally:
            tail.close_write()
            if self._text is not None:
                os.close(given)
        self._started = self._watchdog.guard(process.pid)
        try:
            if self._interrupted:  # while it was being started
                self._kill()
            code = await process.wait()
            await asyncio.to_thread(self._kill)
            return code
        finally:
            if process.returncode is None:
                self._kill()
                await process.wait()
            self._watchdog.release(process.pid)
            tail.drain()
            tail.close()

    async def interrupt(self) -> None:
        """End it. It gets a moment to undo its work, then everything of it is killed."""
        self._interrupted = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if sys.platform != "win32":
            try:
                os.killpg(process.pid, signal.SIGINT)
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
            except (TimeoutError, OSError):
                pass
        await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        assert self._process is not None
        guard.kill_tree(self._process.pid, self._started)


def _pipe_with(text: bytes) -> int:
    """The end of a pipe from which a child reads this text."""
    read, write = os.pipe()
    try:
        os.write(write, text)
    finally:
        os.close(write)
    return read
