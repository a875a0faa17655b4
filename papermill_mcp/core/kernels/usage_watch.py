"""A watch on what a kernel uses: the most memory of it and its processes, their processor time, and a limit.

A limit of the system on the address space is none: a healthy kernel reserves many times the memory that it uses.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.utils.process_stats import Used, peak_memory, used
from papermill_mcp.utils.text_utils import human_size

logger = logging.getLogger(__name__)

#: Seconds between two looks, without and with a limit.
_INTERVAL = 1.0
_LIMIT_INTERVAL = 0.2


class UsageWatch:
    """Looks at what a kernel uses from time to time, as a context manager around its work.

    Args:
        limit: bytes; a kernel that has more, with its processes, is killed.

    Attributes:
        peak: the most resident bytes that were seen of the kernel and its processes together, or that the kernel alone
            ever had, where the system counts that; None if nothing was seen.
        processor_seconds: of the kernel and its processes, from its start on; None if nothing was seen.
    """

    def __init__(self, kernel: Kernel, limit: int | None = None) -> None:
        self._kernel = kernel
        self._limit = limit
        self._pid = kernel.pid
        self._task: asyncio.Task[None] | None = None
        self.peak: int | None = None
        self._killed = False
        self.processor_seconds: float | None = None

    async def __aenter__(self) -> Self:
        if self._pid is not None:
            self._task = asyncio.create_task(self._watch(self._pid))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None or self._pid is None:
            return
        self._task.cancel()
        if self._kernel.alive:
            self._note(await asyncio.shield(asyncio.to_thread(_last_look, self._pid)))

    async def _watch(self, pid: int) -> None:
        while self._kernel.alive:
            await asyncio.sleep(_INTERVAL if self._limit is None else _LIMIT_INTERVAL)
            try:
                found = await asyncio.to_thread(used, pid)
                self._note(found)
                if self._limit is not None and found is not None and found.memory > self._limit:
                    reason = f"with its processes it had {human_size(found.memory)}, over memory_limit={self._limit}"
                    self._killed = True
                    return await asyncio.shield(self._kernel.kill(reason))
            except Exception:
                logger.exception("the usage of a kernel could not be watched")
                return None
        return None

    @property
    def note(self) -> str | None:
        """A sentence if the kernel was over its limit for so short a time that nothing ended it."""
        if self._limit is None or self.peak is None or self.peak <= self._limit or self._killed:
            return None
        return (
            f"its kernel had up to {human_size(self.peak)}, over memory_limit={self._limit}, between two looks "
            f"{_LIMIT_INTERVAL:g} s apart"
        )

    def _note(self, found: Used | None) -> None:
        if found is not None:
            self.peak = max(found.memory, self.peak or 0)
            self.processor_seconds = max(found.processor, self.processor_seconds or 0.0)


def _last_look(pid: int) -> Used | None:
    found = used(pid)
    return None if found is None else found._replace(memory=max(found.memory, peak_memory(pid) or 0))
