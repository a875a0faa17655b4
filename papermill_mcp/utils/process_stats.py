"""How much a process and its children use, and whether one still lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazy("psutil")

#: Seconds over which processor use is measured.
_SAMPLE = 0.1


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


def lives(pid: int, *, before: float) -> bool:
    """Whether the process `pid` that existed at the time `before`, in seconds since the epoch, still runs.

    A process that began later has only inherited the number. A minute is allowed for clocks that were set meanwhile.
    """
    try:
        process = psutil.Process(pid)
        return process.create_time() < before + 60 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
