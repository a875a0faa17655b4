"""Ends process trees that this server started, and nothing else.

Imported by the server, it finds and kills the processes of a kernel: its process group, its session and its
descendants. Run as a script (`python -I -S guard.py`), it is the watchdog: it reads registrations from standard
input and, when the server goes away in any manner, ends every registered tree and removes the runtime directory.
It uses only the standard library, so the script starts in some 20 ms and imports nothing of the environment.

A process is identified by its pid and its start time, since a pid alone may belong to another process by now.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

#: A variable in the environment of kernels, and so of all that their code starts: the path of the connection file.
KERNEL_VARIABLE = "PAPERMILL_MCP_KERNEL"

_PROC = "/proc"


class ProcessInfo(NamedTuple):
    """One row of the process table, as `/proc/<pid>/stat` has it."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    state: str


def process_info(pid: int) -> ProcessInfo | None:
    """The system's facts about `pid`, or None when there is no such process (or no /proc)."""
    stat = _read(pid, "stat")
    if not stat:
        return None
    # The command name is in parentheses and may hold anything, parentheses included.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return ProcessInfo(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0].decode())


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 where the system does not tell."""
    info = process_info(pid)
    return info.started if info else 0


def still_runs(pid: int, started: int) -> bool:
    """Whether the process `pid` that started then has not ended. A zombie counts as ended."""
    info = process_info(pid)
    return info is not None and info.state not in "ZX" and (not started or info.started == started)


def _table() -> dict[int, ProcessInfo]:
    try:
        names = os.listdir(_PROC)  # noqa: PTH208 - stdlib-only script
    except OSError:
        return {}
    rows = (process_info(int(name)) for name in names if name.isdigit())
    return {row.pid: row for row in rows if row}


def tree_of(leader: int, started: int) -> list[ProcessInfo]:
    """Living processes that belong to the tree of `leader`: its group, its session and its descendants.

    Empty when another process has that pid now. The leader itself may be gone already: the rest of its group and
    session is still found, since the system does not give out a pid that is in use as a group or session id.
    """
    table = _table()
    info = table.get(leader)
    if info is not None and started and info.started != started:
        return []
    found = {pid for pid, row in table.items() if pid == leader or leader in (row.group, row.session)}
    grown = True
    while grown:
        children = {pid for pid, row in table.items() if row.parent in found and pid not in found}
        found |= children
        grown = bool(children)
    found.discard(os.getpid())
    return [table[pid] for pid in found if table[pid].state != "Z"]


def kernels_of(directory: str) -> list[ProcessInfo]:
    """Living processes whose command line names a connection file of a kernel in `directory`.

    Other files there do not count: the user may have the page that opens JupyterLab in a browser.
    """
    path = os.path.join(directory, "kernel-")  # noqa: PTH118 - stdlib-only script
    return [row for row in _others() if os.fsencode(path) in _read(row.pid, "cmdline")]


def code_of(connection_files: str) -> list[ProcessInfo]:
    """Living kernels whose connection files begin with this path, and the children of their code.

    Their environment says so. A child that has left the kernel's tree, or outlived the kernel, is found as well.
    """
    begin = os.fsencode(f"{KERNEL_VARIABLE}={connection_files}")
    return [
        row for row in _others() if any(entry.startswith(begin) for entry in _read(row.pid, "environ").split(b"\0"))
    ]


def _others() -> list[ProcessInfo]:
    return [row for row in _table().values() if row.pid != os.getpid()]


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"{_PROC}/{pid}/{name}", "rb") as file:  # noqa: PTH123 - stdlib-only script, not a user's file
            return file.read()
    except OSError:
        return b""


def kill_tree(leader: int, started: int) -> list[ProcessInfo]:
    """Send SIGKILL to every process of the tree of `leader`. Returns their pids."""
    doomed = tree_of(leader, started)
    _kill(doomed)
    if not doomed and not os.path.isdir(_PROC):  # noqa: PTH112 - stdlib-only script
        try:
            os.killpg(leader, signal.SIGKILL)  # no process table to consult, as on macOS
        except (OSError, AttributeError):
            pass
    return doomed


def kill_code(connection_files: str) -> list[ProcessInfo]:
    """Send SIGKILL to the processes that `code_of` finds. Returns their pids."""
    doomed = code_of(connection_files)
    _kill(doomed)
    return doomed


def _kill(doomed: Sequence[ProcessInfo]) -> None:
    for row in doomed:
        info = process_info(row.pid)
        if info is not None and info.started == row.started:
            _signal(row.pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def watch(commands: TextIO) -> None:
    """Follow the registrations in `commands` until it ends; then end every process that is still registered.

    Each line is a JSON list: `["start", pid, start_time]`, `["gone", pid]` or `["directory", path]`.
    """
    trees: dict[int, int] = {}
    directories: list[str] = []
    for line in commands:
        try:
            command = json.loads(line)
        except ValueError:
            continue
        if command[0] == "start":
            trees[command[1]] = command[2]
        elif command[0] == "gone":
            trees.pop(command[1], None)
        elif command[0] == "directory":
            directories.append(command[1])
    end(trees, directories)


def end(trees: Mapping[int, int], directories: Sequence[str]) -> None:
    """End process trees, given as pid and start time, and the kernels of directories. Remove the directories."""
    for _ in range(5):  # a tree may have forked while it was read, or put a file back
        signalled = [kill_tree(pid, started) for pid, started in trees.items()]
        for directory in directories:
            # A kernel that had just been started is not registered yet, but has a file there in its command. So has a
            # kernel that the Jupyter server started, which is in no tree of ours when the Jupyter server is gone.
            signalled += [kill_tree(row.pid, row.started) for row in kernels_of(directory)]
            signalled.append(kill_code(os.path.join(directory, "")))  # noqa: PTH118 - stdlib-only script
            shutil.rmtree(directory, ignore_errors=True)
        if not any(signalled) and not any(os.path.exists(directory) for directory in directories):  # noqa: PTH110
            break
        time.sleep(0.05)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)
    watch(sys.stdin)
