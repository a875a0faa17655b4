"""A watch on the memory of a kernel: the most that it and its processes ever had."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.utils.process_stats import memory, peak_memory

logger = logging.getLogger(__name__)

#: Seconds between two looks.
_INTERVAL = 1.0


class MemoryWatch:
    """Looks at the memory of a kernel once a second, as a context manager around its work.

    Attributes:
        peak: the most resident bytes that were seen of the kernel and its processes together, or that the kernel alone
            ever had, where the system counts that; None if nothing was seen.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pid = kernel.pid
        self._task: asyncio.Task[None] | None = None
        self.peak: int | None = None

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
            await asyncio.sleep(_INTERVAL)
            try:
                self._note(await asyncio.to_thread(memory, pid))
            except Exception:
                logger.exception("the memory of a kernel could not be seen")
                return

    def _note(self, found: int | None) -> None:
        if found is not None:
            self.peak = max(found, self.peak or 0)


def _last_look(pid: int) -> int | None:
    return max(memory(pid) or 0, peak_memory(pid) or 0) or None
