"""How much a process and its children use, at a time and at most, and whether one still lives."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from papermill_mcp.utils.file_utils import read_beginning
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy("psutil")

#: Seconds over which processor use is measured.
_SAMPLE = 0.1

#: The control group of a container, version 2, as it is seen inside.
_CONTROL_GROUP = Path("/sys/fs/cgroup")

#: Bytes that are read of a file of the kernel of the system. Ids of children take at most eight each.
_PROC_BYTES = 65_536


def usage(pid: int) -> tuple[float, int] | None:
    """Processor use in percent of one core, and resident memory in bytes, of a process and its descendants.

    Blocks for a tenth of a second. None when the process is gone.
    """
    try:
        leader = psutil.Process(pid)
        processes = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None

    def spent() -> tuple[float, int]:
        seconds, memory = 0.0, 0
        for process in processes:
            try:
                times = process.cpu_times()
                seconds += times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue
        return seconds, memory

    began = time.monotonic()
    before, _ = spent()
    time.sleep(_SAMPLE)
    after, memory = spent()
    return round(100 * max(0.0, after - before) / (time.monotonic() - began), 1), memory


class Used(NamedTuple):
    """What a process and its descendants use.

    Attributes:
        memory: resident bytes. Memory that they share counts for each.
        processor: seconds since the start of each. Those of descendants that are gone count where a process waited
            for them.
    """

    memory: int
    processor: float


def used(pid: int) -> Used | None:
    """What a process and its descendants use; None when it is gone.

    On Linux it reads a few small files for each process. Elsewhere it looks at all processes of the system.
    """
    proc = Path("/proc")
    if not (proc / str(pid) / "task" / str(pid) / "children").exists():
        return _used_by_scan(pid)
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    found, ticks, left = 0, 0, [pid]
    for one in left:
        text = read_beginning(proc / str(one) / "stat", 2000)
        if text is None:
            continue
        facts = text[text.rindex(")") + 2 :].split()  # the name before it may have spaces; see proc(5)
        found += int(facts[21]) * page
        ticks += sum(map(int, facts[11:15]))
        try:
            threads = list((proc / str(one) / "task").iterdir())
        except OSError:
            continue
        children = (read_beginning(thread / "children", _PROC_BYTES) for thread in threads)
        left += [int(child) for text in children if text for child in text.split()]
    return Used(found, ticks / tick) if found else None


def _used_by_scan(pid: int) -> Used | None:
    found, seconds = 0, 0.0
    try:
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            found += process.memory_info().rss
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        pass
    return Used(found, seconds) if found else None


def peak_memory(pid: int) -> int | None:
    """The most resident bytes that a living process itself has ever had, as Linux counts them; None elsewhere."""
    text = read_beginning(Path(f"/proc/{pid}/status"), _PROC_BYTES)
    line = next((line for line in (text or "").splitlines() if line.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def available_memory() -> int:
    """Bytes that new processes can have without swapping, within the limit of the control group on Linux."""
    found = int(psutil.virtual_memory().available)
    most, used = (read_beginning(_CONTROL_GROUP / name, 100) for name in ("memory.max", "memory.current"))
    if most is not None and used is not None and most.strip().isdigit():
        found = min(found, max(0, int(most) - int(used)))
    return found


def usable_processors() -> int:
    """Processors that this process may use, within the quota of the control group on Linux."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = (read_beginning(_CONTROL_GROUP / "cpu.max", 100) or "").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]):
        number = min(number, max(1, int(quota[0]) // int(quota[1])))
    return number


def lives(pid: int, *, before: float) -> bool:
    """Whether the process `pid` that existed at the time `before`, in seconds since the epoch, still runs.

    A process that began later has only inherited the number. A minute is allowed for clocks that were set meanwhile.
    """
    try:
        process = psutil.Process(pid)
        return process.create_time() < before + 60 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
