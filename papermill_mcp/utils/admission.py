"""Admission of work by its size, so that the memory of all work together stays bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class Work:
    """Work that was admitted. It holds its share until its threads have ended, also if its caller is cancelled."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._threads: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, function: Callable[[], _T]) -> _T:
        """The result of a function, called in a thread."""
        thread = asyncio.create_task(asyncio.to_thread(function))
        self._threads.add(thread)
        thread.add_done_callback(self._ended)
        return await asyncio.shield(thread)

    def _ended(self, thread: asyncio.Task[Any]) -> None:
        self._threads.discard(thread)
        if not thread.cancelled():
            thread.exception()  # seen, also if the caller is gone
        self._settle()

    def close(self) -> None:
        """The caller needs the work no more."""
        self._closed = True
        self._settle()

    def _settle(self) -> None:
        if self._closed and not self._threads:
            self._give_back()


class Admission:
    """Lets work begin while the sizes of all that goes on stay within a limit. First come, first served.

    Work that is larger than the limit goes on alone. Small work has a limit of its own, so it never waits for large
    work. Belongs to one event loop.

    Args:
        limit: bytes of large work at a time.
        small: bytes up to which work is small.
        small_limit: bytes of small work at a time.
    """

    def __init__(self, limit: int, *, small: int, small_limit: int) -> None:
        self._small = small
        self._lanes = (_Lane(small_limit), _Lane(limit))

    @asynccontextmanager
    async def admit(self, size: int) -> AsyncIterator[Work]:
        """Wait for the turn of work that holds `size` bytes, then hold its share."""
        lane = self._lanes[size > self._small]
        share = min(size, lane.limit)
        await lane.take(share)
        work = Work(lambda: lane.give_back(share))
        try:
            yield work
        finally:
            work.close()

    @property
    def used(self) -> int:
        """Bytes of the work that goes on."""
        return sum(lane.used for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """How much work waits for its turn."""
        return sum(len(lane.waiting) for lane in self._lanes)


class _Lane:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, share: int) -> None:
        if not self.waiting and self.used + share <= self.limit:
            self.used += share
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((share, turn))
        try:
            await turn
        except BaseException:
            if not turn.cancelled():  # admitted, and cancelled before it could begin
                self.give_back(share)
            elif (share, turn) in self.waiting:
                self.waiting.remove((share, turn))
                self._hand_on()
            raise

    def give_back(self, share: int) -> None:
        self.used -= share
        self._hand_on()

    def _hand_on(self) -> None:
        while self.waiting and self.used + self.waiting[0][0] <= self.limit:
            share, turn = self.waiting.popleft()
            if not turn.done():
                self.used += share
                turn.set_result(None)
