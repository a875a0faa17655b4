"""Locks between processes, as files in a directory of our own.

A lock is named after its file, so servers that share the directory agree without a file beside the user's. The
system releases a lock when its process ends, however that happens. The number of lock files is bounded: names are
digests cut short. Two things that share one wait for each other now and then, which costs a moment and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.private import make_private_directory

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy("filelock")

_NAME_DIGITS = 3


class LocksUnavailableError(Exception):
    """The directory cannot be used, or its file system knows no locks."""


class HeldLock:
    """A lock that is ours until `release`."""

    def __init__(self, lock: filelock.BaseFileLock) -> None:
        self._lock = lock

    def release(self) -> None:
        """Give the lock up. It never fails: the system releases the lock at the latest when the process ends."""
        with contextlib.suppress(OSError):
            self._lock.release()


class LockFiles:
    """The locks of one directory, which is made at first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def try_acquire(self, path: Path) -> HeldLock | None:
        """The lock for `path`, or None when another process has it. Does not wait.

        Raises:
            LocksUnavailableError: there can be no locks here.
        """
        name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:_NAME_DIGITS]
        try:
            make_private_directory(self._directory.parent)
            make_private_directory(self._directory)
            # Taken in one worker thread and released in another.
            lock = filelock.FileLock(self._directory / f"{name}.lock", thread_local=False, mode=0o600)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            raise LocksUnavailableError(str(error)) from error
        return HeldLock(lock)
