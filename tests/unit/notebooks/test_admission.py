"""Work is admitted by its size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from papermill_mcp.utils.admission import Admission

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def admission() -> AsyncIterator[Admission]:
    """A limit of 100 bytes for large work, and of 10 for work of up to 5. All shares are back at the end."""
    made = Admission(100, small=5, small_limit=10)
    yield made
    assert (made.used, made.waiting) == (0, 0)


class Job:
    """Work that goes on until it is told to end."""

    def __init__(self, admission: Admission, size: int) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._do(admission, size))

    async def _do(self, admission: Admission, size: int) -> None:
        async with admission.admit(size):
            self.begun.set()
            await self.end.wait()

    async def stop(self) -> None:
        self.end.set()
        await self.task


async def settled() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_waits_until_there_is_room_in_the_order_of_its_arrival(admission: Admission) -> None:
    first, second, third, fourth = (Job(admission, size) for size in (60, 40, 90, 10))
    await settled()
    assert [job.begun.is_set() for job in (first, second, third, fourth)] == [True, True, False, False]

    await second.stop()
    await settled()
    assert not third.begun.is_set()
    assert not fourth.begun.is_set()  # it would fit, but came later

    await first.stop()
    await settled()
    assert third.begun.is_set()
    assert fourth.begun.is_set()
    for job in (third, fourth):
        await job.stop()


async def test_work_over_the_limit_goes_on_alone(admission: Admission) -> None:
    first, huge, last = (Job(admission, size) for size in (10, 10**9, 10))
    await settled()
    assert not huge.begun.is_set()

    await first.stop()
    await settled()
    assert (huge.begun.is_set(), last.begun.is_set()) == (True, False)
    await huge.stop()
    await last.stop()


async def test_small_work_does_not_wait_for_large_work(admission: Admission) -> None:
    large = [Job(admission, 100) for _ in range(20)]
    small = Job(admission, 5)
    await settled()

    assert small.begun.is_set()
    assert sum(job.begun.is_set() for job in large) == 1
    await small.stop()
    for job in large:
        await job.stop()


async def test_a_waiter_that_is_cancelled_leaves_nothing(admission: Admission) -> None:
    first, second, third = (Job(admission, size) for size in (60, 100, 40))
    await settled()
    second.task.cancel()
    await settled()
    assert third.begun.is_set()  # the first in line is gone

    fourth = Job(admission, 100)
    await settled()
    await first.stop()
    third.end.set()
    fourth.task.cancel()  # in the moment of its admission, or right before it
    await asyncio.wait([third.task, fourth.task])


async def test_a_thread_holds_its_share_when_the_caller_is_gone(admission: Admission) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        raise ValueError("not seen by a caller")

    async def call() -> None:
        async with admission.admit(100) as admitted:
            await admitted.run(work)

    task = asyncio.create_task(call())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert admission.used == 100

    go_on.set()
    other = Job(admission, 100)
    await other.begun.wait()
    await other.stop()


async def test_a_failure_gives_the_share_back(admission: Admission) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with admission.admit(100) as admitted:
            await admitted.run(fail)
