"""The children of a server process, in a file that outlives it; and the end of children that such files still name.

The watchdog ends the leftovers of a server. If it is killed as well, the runtime directory stays, and the ledger in
it lists the leftovers for the next server. Its first line names the server; the others are the watchdog's commands.

Pids mean something only under the same boot and in the same pid namespace, so both are in the ledger: a state directory
may be shared by machines and containers. Where the system does not tell them (only Linux does), nothing is ended.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from papermill_mcp.core.processes import guard
from papermill_mcp.errors import ServerError
from papermill_mcp.utils.file_utils import append_to_private_file, create_private_file, read_file

logger = logging.getLogger(__name__)

_FILE = "ledger"
_MAX_BYTES = 16 * 1024 * 1024

#: Seconds after which a directory goes if it is unknown whether its server lives.
_KEPT_SECONDS = 30 * 86_400


class Ledger:
    """The ledger in a runtime directory of this process. If it cannot be written, that is logged once."""

    def __init__(self, directory: Path) -> None:
        self._file: Path | None = directory / _FILE
        pid = os.getpid()
        self._write(["server", pid, guard.start_time(pid), _place()], new=True)

    def add(self, command: Sequence[object]) -> None:
        """Note a command to the watchdog about a process."""
        self._write(command)

    def _write(self, command: Sequence[object], *, new: bool = False) -> None:
        if self._file is None:
            return
        write = create_private_file if new else append_to_private_file
        try:
            write(self._file, json.dumps(command).encode() + b"\n")
        except FileNotFoundError:
            pass  # the directory is gone: this process is ending
        except OSError as error:
            logger.warning(
                "the ledger cannot be written, so the next server could not end leftovers of this one: %s", error
            )
            self._file = None


class _Entries(NamedTuple):
    """The content of a ledger: its server, and the process trees (pid and start time) were not over."""

    server: int
    started: int
    place: str
    trees: dict[int, int]


def reap(state_directory: Path) -> None:
    """End leftovers of servers that are gone, and remove their runtime directories. Blocks: call it in a thread.

    A process is touched only if it is one that was noted (its pid, start time, boot and pid namespace fit), or if its
    command or environment names the runtime directory. Children of living servers are left alone. It never fails;
    an unreadable ledger is logged.
    """
    here = _place()
    for directory in sorted(state_directory.glob("runtime-*")):
        try:
            if here and _is_own(directory):
                _reap(directory, here)
        except (OSError, ServerError) as error:
            logger.warning("the ledger in %s cannot be read: %s", directory, error)


def _is_own(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _reap(directory: Path, here: str) -> None:
    try:
        # The parts above may be links, which `read_file` does not follow.
        data = read_file(directory.resolve() / _FILE, max_bytes=_MAX_BYTES, display_path=_FILE).data
        entries = _parse(data)
    except ServerError:
        if not _is_old(directory):
            raise
        entries = None
    if entries is None or entries.place != here:
        if _is_old(directory):
            shutil.rmtree(directory, ignore_errors=True)
        return
    if guard.still_runs(entries.server, entries.started):
        return
    # The number of a leader that is gone may have been given to another process meanwhile. That one may be gone, too,
    # with children in a session of that number. So a process that outlived its leader is known by its environment only.
    leaders = {pid: started for pid, started in entries.trees.items() if guard.process_info(pid)}
    guard.end(leaders, [str(directory)])
    logger.warning(
        "an earlier server was killed: its leftovers were ended",
        extra={"server_pid": entries.server, "pids": sorted(leaders)},
    )


def _is_old(directory: Path) -> bool:
    return time.time() - directory.stat().st_mtime > _KEPT_SECONDS


def _parse(data: bytes) -> _Entries | None:
    """The entries, without lines that make no sense. None when it does not name its server."""
    owner: tuple[int, int, str] | None = None
    trees: dict[int, int] = {}
    for line in data.splitlines():
        match _json(line):
            case ["server", int(pid), int(started), str(place)] if owner is None:
                owner = pid, started, place
            case ["start", int(pid), int(started)] if pid > 1 and started > 0:
                trees[pid] = started
            case ["gone", int(pid)]:
                trees.pop(pid, None)
    return _Entries(*owner, trees) if owner else None


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _place() -> str:
    """The scope of pids: the boot and the pid namespace. Empty where the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
