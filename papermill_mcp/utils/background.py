"""Tasks that go on by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Background:
    """Keeps tasks from being collected, and logs their failures."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[None]:
        """Run a coroutine to its end without a caller that waits for it."""
        task = asyncio.create_task(self._guarded(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Exception:
            logger.exception("background work failed")

    async def wait(self) -> None:
        """Wait for the tasks that go on now."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def in_time(work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """The result of `work`, None if it fails or does not end in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return None
    except Exception as error:
        logger.warning("no answer: %s", error)
        return None


async def completed(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that a cancellation of the caller does not stop. The cancellation has no effect then."""
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()
