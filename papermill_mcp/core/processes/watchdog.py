"""The link to the watchdog process, which outlives this server by a moment to end its children.

The watchdog sits in a session of its own, so a signal to the server's process group does not reach it. It learns of the
server's end, however that came about, when its standard input closes.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from papermill_mcp.core.processes import guard
from papermill_mcp.core.processes.ledger import Ledger

logger = logging.getLogger(__name__)


class Watchdog:
    """Registers process trees and directories with the watchdog process, which it starts at first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._trees: dict[int, int] = {}
        self._directories: list[str] = []
        self._ledger: Ledger | None = None
        self._closed = False

    def guard_directory(self, directory: Path) -> None:
        """Have `directory` removed after this server's end."""
        self._directories.append(str(directory))
        self._tell(["directory", str(directory)])

    def guard_runtime(self, directory: Path) -> None:
        """As `guard_directory`, for a runtime directory: the ledger of guarded processes is kept in it."""
        self._ledger = Ledger(directory)
        for pid, started in self._trees.items():  # of an earlier directory that is gone
            self._ledger.add(["start", pid, started])
        self.guard_directory(directory)

    def guard(self, pid: int) -> int:
        """Have the tree of `pid` ended with this server. Returns the start time that identifies the process."""
        started = guard.start_time(pid)
        self._trees[pid] = started
        self._tell_of_process(["start", pid, started])
        return started

    def release(self, pid: int) -> None:
        """The tree of `pid` is gone, or is no longer this server's to end."""
        if self._trees.pop(pid, None) is not None:
            self._tell_of_process(["gone", pid])

    def close(self) -> None:
        """Let the watchdog finish and go. It gets a second for that."""
        self._closed = True
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            try:
                process.stdin.close()
            except OSError:
                pass
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            logger.warning("the watchdog process %d did not end by itself", process.pid)
            process.kill()
            process.wait(1)

    def _tell_of_process(self, command: list[object]) -> None:
        if self._ledger is not None:
            self._ledger.add(command)
        self._tell(command)

    def _tell(self, command: list[object]) -> None:
        if self._closed:
            return  # a caller that still starts a process is being cancelled, and ends it itself
        if self._process is None or self._process.poll() is not None:
            self._start()
            return  # the start has sent everything, this included
        self._write([command])

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/" if sys.platform != "win32" else None,  # it must not keep a user's directory in use
        )
        commands: list[list[object]] = [["start", pid, started] for pid, started in self._trees.items()]
        commands += [["directory", directory] for directory in self._directories]
        self._write(commands)

    def _write(self, commands: list[list[object]]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("".join(json.dumps(command) + "\n" for command in commands).encode())
            self._process.stdin.flush()
        except OSError as error:
            logger.warning("the watchdog process does not listen: %s", error)
