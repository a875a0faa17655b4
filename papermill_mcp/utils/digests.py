"""Digests of file versions: made beside other work, and kept as long as a look at the file shows the same version."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

#: Bytes up to which a digest is made at once. It takes less time than the start of a thread.
AT_ONCE = 1_000_000

#: Files whose digests are kept.
_KEPT = 200

#: File systems whose times move with each change. Those of a network or of FUSE may show an older state.
_LOCAL = frozenset(("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"))

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


class Digests:
    """The digests of the large files that were read last, by path and version.

    Used by threads that read files. A version is any value that differs whenever the bytes do.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[Path, tuple[Hashable, Digest]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path, data: bytes, version: Hashable, device: int) -> Digest:
        """The digest of a version of a file, the kept one if there is one. Else it is begun.

        Args:
            device: that of the file, as `os.stat` has it.
        """
        if len(data) < AT_ONCE:
            return Digest(data)
        with self._lock:
            known, digest = self._of.get(path, (None, None))
        if digest is not None and known == version:
            return Digest(data, digest.value())
        digest = Digest(data)
        digest.begin()
        if is_local(device):
            with self._lock:
                self._of.pop(path, None)
                self._of[path] = (version, digest)
                while len(self._of) > _KEPT:
                    self._of.popitem(last=False)
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
