"""Locks and claims between processes, as files in directories of our own.

Both are named after the file that they are about, so servers that share the directory agree without a file beside the
user's. The system releases a lock when its process ends, however that happens.

- A lock (`LockFiles`) is held for a moment. The number of its files is bounded: names are digests cut short. Two files
  that share one wait for each other now and then, which costs a moment and nothing else.
- A claim (`ClaimFiles`) is held for long and names its holder. Its name is a whole digest: no two files share one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.private import make_private_directory, take_rights_of_others

if TYPE_CHECKING:
    import filelock
else:
    filelock = lazy("filelock")

_NAME_DIGITS = 3

#: The lock file of a holder of claims: its name and the pid of its process.
_HOLDER = re.compile(r"([0-9a-z]{1,64})-(\d{1,10})\.lock")

#: Tries to take a claim while another process clears void ones away, and the seconds between two of them.
_TRIES = 5
_PAUSE_SECONDS = 0.01

#: Seconds after which a lock file that no process holds is certainly void: it is not just being made.
_VOID_SECONDS = 60.0


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
        try:
            _make(self._directory)
            return _locked(self._directory / f"{lock_name(path)}.lock")
        except (OSError, NotImplementedError) as error:
            raise LocksUnavailableError(str(error)) from error


def lock_name(path: Path) -> str:
    """The name of the lock of a file. A few files may share one."""
    return _digest(path)[:_NAME_DIGITS]


class ClaimedError(Exception):
    """Another process has a claim.

    Attributes:
        path: the claimed file.
        holder: the name of the holder.
        pid: its process.
    """

    def __init__(self, path: Path, holder: str, pid: int) -> None:
        super().__init__(f"{path} is claimed by {holder} of process {pid}")
        self.path, self.holder, self.pid = path, holder, pid


class ClaimFiles:
    """The claims of one directory, which is made at first use.

    A claim is a symbolic link, named after the claimed file, to the lock file of its holder. So a holder of many claims
    has one lock. A claim is void when no process holds that lock; only a process that holds it may remove the claim.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks: dict[str, HeldLock] = {}
        self._links: dict[str, list[str]] = {}  # names: a batch may have thousands
        self._swept = False

    def take(self, paths: Iterable[Path], holder: str) -> None:
        """Claim files for a holder: all of them or none. Blocks: call it in a thread.

        Args:
            holder: lower-case letters and digits, unique among all processes.

        Raises:
            ClaimedError: another holder has one of them.
            LocksUnavailableError: there can be no claims here.
        """
        links: list[str] = []
        try:
            _make(self._directory)
            if not self._swept:
                self._swept = True
                self._sweep()
            if holder not in self._locks:
                self._locks[holder] = self._own_lock(holder)
            for path in paths:
                self._claim(path, self._file_of(holder))
                links.append(_digest(path))
        except BaseException as error:
            self._remove(self._directory / link for link in links)
            if holder not in self._links:
                self.release(holder)
            if isinstance(error, (OSError, NotImplementedError)):
                raise LocksUnavailableError(str(error)) from error
            raise
        self._links.setdefault(holder, []).extend(links)

    def release(self, holder: str) -> None:
        """Give up all claims of a holder. It never fails."""
        self._remove(self._directory / link for link in self._links.pop(holder, []))
        lock = self._locks.pop(holder, None)
        if lock is not None:
            self._remove([self._file_of(holder)])
            lock.release()

    def has(self, path: Path) -> bool:
        """Whether a living process has a claim on a file. One that cannot be checked counts.

        Where no claim can be read, none can be made either: the directory is a file, or closed to this user.
        """
        try:
            name = _target(self._link_of(path))
        except OSError:
            return False
        if name is None:
            return False
        if not _HOLDER.fullmatch(name):
            return True
        try:
            void = _locked(self._directory / name)
            if void is not None:
                self._clear(name, void)
        except (OSError, NotImplementedError):
            return True
        return void is None

    def _claim(self, path: Path, own: Path) -> None:
        link = self._link_of(path)
        tries = _TRIES
        while True:
            try:
                link.symlink_to(own.name)
            except FileExistsError:
                pass
            else:
                return
            name = _target(link)
            if name is None:
                continue  # it has just been given up
            holder = _HOLDER.fullmatch(name)
            if holder is None:
                raise LocksUnavailableError(f"{link} was not made by this program")
            void = _locked(self._directory / name)
            if void is not None:
                self._clear(name, void)
                continue
            tries -= 1  # its holder lives, or another process clears its claims away
            if not tries:
                raise ClaimedError(path, holder[1], int(holder[2]))
            time.sleep(_PAUSE_SECONDS)

    def _own_lock(self, holder: str) -> HeldLock:
        for _ in range(_TRIES):
            lock = _locked(self._file_of(holder))
            if lock is not None and self._file_of(holder).exists():
                return lock
            if lock is not None:
                lock.release()  # of a file that another process has just removed
            time.sleep(_PAUSE_SECONDS)
        raise LocksUnavailableError(f"{self._file_of(holder)} cannot be locked")

    def _sweep(self) -> None:
        """Clear away all that killed processes left."""
        oldest = time.time() - _VOID_SECONDS
        for file in self._directory.glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):
                if file.lstat().st_mtime < oldest and (void := _locked(file)) is not None:
                    self._clear(file.name, void)

    def _clear(self, name: str, void: HeldLock) -> None:
        """Remove the claims of a holder that is gone, then its lock file, and release the lock."""
        try:
            links = [path for path in self._directory.iterdir() if path.is_symlink() and _target(path) == name]
            self._remove([*links, self._directory / name])  # none else may remove them while the lock is ours
        finally:
            void.release()

    def _remove(self, files: Iterable[Path]) -> None:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink()

    def _link_of(self, path: Path) -> Path:
        return self._directory / _digest(path)

    def _file_of(self, holder: str) -> Path:
        return self._directory / f"{holder}-{os.getpid()}.lock"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _target(link: Path) -> str | None:
    """The target of a link as it is written; None if there is no link."""
    try:
        return os.readlink(link)  # noqa: PTH115 - the text as it stands
    except FileNotFoundError:
        return None


def _make(directory: Path) -> None:
    make_private_directory(directory.parent)
    make_private_directory(directory)


def _locked(file: Path) -> HeldLock | None:
    # Taken in one worker thread and released in another.
    lock = filelock.FileLock(file, thread_local=False, mode=0o600)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    held = HeldLock(lock)
    try:
        take_rights_of_others(file)
    except BaseException:
        held.release()  # nothing else knows of it: the next one would wait in vain
        raise
    return held
