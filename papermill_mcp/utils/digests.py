"""Facts about versions of files, such as their digests, kept as long as a look at the file shows the same version."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Bytes up to which a digest is made at once. It takes less time than the start of a thread.
AT_ONCE = 1_000_000

#: Files whose digests are kept.
_KEPT = 200

#: File systems whose times move with each change. Those of a network or of FUSE may show an older state.
_LOCAL = frozenset(("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"))

#: Seconds for which the kind of a file system is known. Another one may be mounted in its place.
_LOCAL_SECONDS = 2.0

_MOUNTS = Path("/proc/self/mountinfo")


def revision_of(data: bytes) -> str:
    """The digest that names these bytes: 16 hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]


class Digest:
    """The digest of some bytes. It is made when it is asked for, or before that in a thread of its own."""

    def __init__(self, data: bytes, made: str = "") -> None:
        self._data: bytes | None = data
        self._made = made
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to make it beside other work: for a large file it takes as long as reading it."""
        if self._made or self._thread is not None or len(self._data or b"") < AT_ONCE:
            return
        thread = threading.Thread(target=self._make, name="digest", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._make()
        else:
            self._thread = thread

    def value(self) -> str:
        """The 16 hex digits."""
        if self._thread is not None:
            self._thread.join()
        self._make()
        return self._made

    def _make(self) -> None:
        data = self._data
        if not self._made and data is not None:  # two threads may come here, and make the same
            self._made = revision_of(data)
        self._data = None


class Versions(Generic[_T]):
    """Facts about the versions of the files that were read last.

    Used by threads that read files. A version is any value that differs whenever the bytes do. On file systems whose
    times cannot be trusted nothing is kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: OrderedDict[Path, tuple[Hashable, _T]] = OrderedDict()
        self._lock = threading.Lock()
        self._local: tuple[int, float, bool] = (-1, 0.0, False)

    def of(self, path: Path, version: Hashable) -> _T | None:
        """The fact about this version of a file; None if there is none."""
        with self._lock:
            known, fact = self._of.get(path, (None, None))
        return fact if known == version else None

    def keep(self, path: Path, version: Hashable, fact: _T, device: int) -> None:
        """Keep a fact about a version of a file.

        Args:
            device: that of the file, as `os.stat` has it.
        """
        if not self._is_local(device):
            return
        with self._lock:
            self._of.pop(path, None)
            self._of[path] = (version, fact)
            while len(self._of) > self._most:
                self._of.popitem(last=False)

    def _is_local(self, device: int) -> bool:
        known, since, local = self._local
        if known != device or time.monotonic() - since > _LOCAL_SECONDS:
            local = is_local(device)
            self._local = (device, time.monotonic(), local)
        return local


class Digests:
    """The digests of the large files that were read last."""

    def __init__(self) -> None:
        self._versions = Versions[Digest](_KEPT)

    def of(self, path: Path, data: bytes, version: Hashable, device: int) -> Digest:
        """The digest of a version of a file, the kept one if there is one. Else it is begun.

        Args:
            device: that of the file, as `os.stat` has it.
        """
        if len(data) < AT_ONCE:
            return Digest(data)
        known = self._versions.of(path, version)
        if known is not None:
            return Digest(data, known.value())
        digest = Digest(data)
        digest.begin()
        self._versions.keep(path, version, digest, device)
        return digest


def is_local(device: int) -> bool:
    """Whether the times of files on a device can be trusted. False where the system does not say."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ", 3)[2:3] == [wanted]}
    return bool(kinds) and kinds <= _LOCAL
