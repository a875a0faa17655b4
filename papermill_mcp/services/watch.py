"""Looks at things that a client follows, such as notebook files, and reports those that changed. Polls, within bounds.

Polling needs no watch of the system for each directory, finds changes on every file system, and one change a second
becomes one report. Nothing runs while nothing is followed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

from papermill_mcp.errors import LimitReachedError

logger = logging.getLogger(__name__)

#: Seconds between two looks, and the largest share of the time that the looks at one thing may take.
WATCH_SECONDS = 0.5
_WATCH_SHARE = 0.05

#: Things that one client may follow.
MAX_FOLLOWED = 1_000

#: The state of a thing. Called in a thread, and must not raise.
Look = Callable[[], Hashable]
Report = Callable[[], Awaitable[None]]


@dataclass
class _Followed:
    look: Look
    report: Report
    state: Hashable
    due: float


class Watch:
    """The things that one client follows, by keys that the caller makes."""

    def __init__(self) -> None:
        self._followed: dict[Hashable, _Followed] = {}
        self._task: asyncio.Task[None] | None = None

    async def follow(self, key: Hashable, look: Look, report: Report) -> None:
        """Report each change from now on. A key that is followed already starts anew.

        Raises:
            LimitReachedError: the client follows too much.
        """
        if len(self._followed) >= MAX_FOLLOWED and key not in self._followed:
            raise LimitReachedError(
                f"{MAX_FOLLOWED:,} subscriptions are the most that there may be",
                state="this one was not begun",
                advice="end one of them first",
            )
        state = await asyncio.to_thread(look)
        self._followed[key] = _Followed(look, report, state, time.monotonic())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="watch subscriptions")

    def leave(self, key: Hashable) -> None:
        """Report changes of it no more. An unknown key is ignored."""
        self._followed.pop(key, None)

    @property
    def followed(self) -> int:
        """How many things are followed."""
        return len(self._followed)

    async def _run(self) -> None:
        while self._followed:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            due = [one for one in self._followed.items() if one[1].due <= now]
            for key, one in await asyncio.to_thread(_changed, due):
                if self._followed.get(key) is one:
                    try:
                        await one.report()
                    except Exception:
                        logger.warning("a subscription was ended, since its client cannot be reached", exc_info=True)
                        self.leave(key)
        self._task = None

    async def aclose(self) -> None:
        """End all of it."""
        self._followed.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _changed(due: Sequence[tuple[Hashable, _Followed]]) -> list[tuple[Hashable, _Followed]]:
    changed = []
    for key, one in due:
        began = time.monotonic()
        state = one.look()
        took = time.monotonic() - began
        one.due = began + took / _WATCH_SHARE
        if state != one.state:
            one.state = state
            changed.append((key, one))
    return changed
