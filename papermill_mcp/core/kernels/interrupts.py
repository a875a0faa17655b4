"""Interrupts of running code: several of them, at growing distances, and an end to the caller's wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from papermill_mcp.core.kernels.liveness import Probes
from papermill_mcp.core.kernels.request import CellExecution, RunStatus, log_fields

logger = logging.getLogger(__name__)

#: When interrupts are sent, in seconds after the first. One that comes right after the request is lost, since the
#: kernel ignores SIGINT until it runs the code, so young code gets several. Code that has run for a while gets a second
#: one late: it may be saving its work, and a further interrupt would end that, too.
_INTERRUPTS_YOUNG = (0.0, 0.3, 1.0, 2.0)
_INTERRUPTS = (0.0, 2.0)
_YOUNG_SECONDS = 1.0

#: Seconds after the first interrupt at which the kernel counts as deaf to it.
INTERRUPT_PATIENCE = 5.0


class Interrupts:
    """The interrupts of one kernel. One series is under way at a time.

    Args:
        send: sends one interrupt to the kernel, in the way that its kernelspec asks for.
    """

    def __init__(self, kernel_id: str, probes: Probes, send: Callable[[], Awaitable[None]]) -> None:
        self._kernel_id = kernel_id
        self._probes = probes
        self._send = send
        self._interrupt_task: asyncio.Task[bool] | None = None

    async def end(self, execution: CellExecution, reason: RunStatus) -> bool:
        """Interrupt the execution that runs. Returns whether it has ended, at the latest after 5 s."""
        if self._interrupt_task is None or self._interrupt_task.done():
            execution.expect_end(reason)
            self._interrupt_task = asyncio.create_task(self._insist(execution), name=f"interrupt {self._kernel_id}")
        return await asyncio.shield(self._interrupt_task)

    async def _insist(self, execution: CellExecution) -> bool:
        began = time.monotonic()
        for at in _INTERRUPTS_YOUNG if execution.duration < _YOUNG_SECONDS else _INTERRUPTS:
            if await _set_within(execution.released, began + at - time.monotonic()):
                return True
            try:
                await self._send()
                # An ipykernel whose `await` was interrupted answers only when another request comes.
                reply = self._probes.send()
                reply.add_done_callback(lambda done: None if done.cancelled() else execution.take_later_reply())
            except Exception:  # the next one may succeed; if none does, the caller has its result all the same
                fields = log_fields(self._kernel_id, execution)
                logger.exception("an interrupt could not be sent", extra=fields)
        if await _set_within(execution.released, began + INTERRUPT_PATIENCE - time.monotonic()):
            return True
        execution.give_up_on_interrupt()
        return False


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event` at most `seconds`. Returns whether it is set."""
    if not event.is_set() and seconds > 0:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
    return event.is_set()
