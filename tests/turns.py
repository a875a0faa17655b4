"""The marker `alone`: no other test runs while such a test does, however many workers pytest-xdist has.

Each worker has a lock file and holds it while it runs a test. A test with the marker takes the lock files of all
workers. A further lock, the door, is held while others are taken. So a test that waits for all of them runs next. The
time limit of a test starts when it has its locks.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

_KEY = "turns"
_POLL_SECONDS = 0.002


class Directory:
    """The plugin of the main process: makes the directory of the lock files, and tells each worker its name."""

    def __init__(self) -> None:
        self._path = tempfile.mkdtemp(prefix="pytest-turns-")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_KEY] = self._path

    def pytest_unconfigure(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


class Turns:
    """The plugin of a worker, and of a run without workers."""

    def __init__(self, locks: Sequence[FileLock], own: FileLock | None, door: FileLock | None) -> None:
        self._locks, self._own, self._door = locks, own, door

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put tests with a long time limit first and those with the marker last, so that no worker waits long."""
        items.sort(key=lambda item: (_is_alone(item), -_limit(item)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            if self._own is not None and self._door is not None:
                with self._door.acquire(poll_interval=_POLL_SECONDS):
                    for lock in self._locks if _is_alone(item) else [self._own]:
                        held.enter_context(lock.acquire(poll_interval=_POLL_SECONDS))
            return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _limit(item: pytest.Item) -> float:
    """The seconds of a time limit of its own, or 0."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else 0


def plugin(config: pytest.Config) -> Directory | Turns:
    """The plugin for this process."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is not None:
        directory = Path(given[_KEY])
        locks = [FileLock(directory / f"gw{n}") for n in range(given["workercount"])]
        own = next(lock for lock in locks if Path(lock.lock_file).name == given["workerid"])
        return Turns(locks, own, FileLock(directory / "door"))
    return Directory() if config.getoption("numprocesses", None) else Turns([], None, None)
