"""Long work that several calls may want, such as the making of an environment. It goes on when a call stops waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class GoesOnError(Exception):
    """The work is not done yet, and goes on."""


class SharedWork(Generic[_T]):
    """Work by key: each is done once at a time, for all calls that want it.

    Args:
        patience: seconds that a call waits.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._tasks: dict[str, asyncio.Task[_T]] = {}
        self._waiting: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    async def result(self, key: str, begin: Callable[[], Coroutine[Any, Any, _T]], *, to_its_end: bool = False) -> _T:
        """The result of the work, which is begun unless it goes on already. An error is told to one call.

        Args:
            to_its_end: wait as long as it takes.

        Raises:
            GoesOnError: it takes longer than a call waits.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(begin())
            task.add_done_callback(_retrieve)
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            await asyncio.wait([task], timeout=None if to_its_end else self._patience)
        finally:
            self._waiting[key] -= 1
        if not task.done():
            raise GoesOnError
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.cancelled():
            raise asyncio.InvalidStateError("the work was given up")
        return task.result()

    async def give_up(self, key: str) -> None:
        """End the work, unless another call waits for it."""
        task = self._tasks.get(key)
        if task is not None and self._waiting.get(key, 0) <= 1:
            task.cancel()
            await asyncio.wait([task])

    async def aclose(self) -> None:
        """End all work."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Have no warning about a failure for which no call has waited."""
    if not task.cancelled():
        task.exception()
