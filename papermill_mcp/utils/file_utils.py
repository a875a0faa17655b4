"""Files: bounded reads of regular files, and saves that leave the old or the new version, never half of one.

The only module that opens files. Paths given to it are real: absolute, with every symbolic link resolved. Where the
platform can, each directory on the way is opened by descriptor without following links, so a directory that is swapped
for a link after the check cannot redirect a read or a write.

Every failure is one of ours. A failure of the operating system without a code of ours, an I/O error for one, becomes
`PermissionDeniedError`: the system refused, and its own words are in the message. Errors show the name the client
uses, never the absolute path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import math
import os
import re
import secrets
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from papermill_mcp.errors import (
    AlreadyExistsError,
    ConflictError,
    DiskFullError,
    LimitReachedError,
    NotFoundError,
    PathNotAllowedError,
    PermissionDeniedError,
    ServerError,
    TooLargeError,
)
from papermill_mcp.utils.digests import Digest, Digests, revision_of
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import ctypes
else:
    ctypes = lazy("ctypes")

SETTLED_NS = 2_000_000_000
"""A file looked at this soon after a change may change again within one tick of its clock, and look the same."""

_PIECE = 1 << 20  # bytes of a file that is read piece by piece
_NAMES_AT_ONCE = 256  # of a directory, between two looks at the clock

_TEMPORARY = re.compile(r"\.papermill-mcp-[0-9a-f]{16}\.tmp")
_ABANDONED_SECONDS = 3600  # no save takes that long
_LOOKED_AT = 1_000  # names in a directory

_UNCHANGED = "The file is unchanged"
_NOT_READ = "Nothing was read"

_O_PATH = getattr(os, "O_PATH", 0)
_O_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_O_NOFOLLOW_ANY = getattr(os, "O_NOFOLLOW_ANY", 0)  # macOS: no link in any part
_O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_O_BINARY = getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _O_CLOEXEC | _O_NOFOLLOW | _O_BINARY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_CLOEXEC | _O_NOFOLLOW | _O_BINARY
_APPEND = os.O_WRONLY | os.O_APPEND | _O_CLOEXEC | _O_NOFOLLOW | _O_BINARY
_LIST = os.O_RDONLY | _O_DIRECTORY | _O_CLOEXEC
_DESCEND = (_O_PATH or os.O_RDONLY) | _O_DIRECTORY | _O_NOFOLLOW | _O_CLOEXEC

_BY_DESCRIPTOR = bool(_O_DIRECTORY) and {os.open, os.stat, os.unlink, os.rename, os.mkdir} <= os.supports_dir_fd
_LINK_BY_DESCRIPTOR = os.link in os.supports_dir_fd if hasattr(os, "link") else False
_ACCESS_BY_DESCRIPTOR = os.access in os.supports_dir_fd
_ACCESS_EFFECTIVE = os.access in os.supports_effective_ids
_LINKS_UNSUPPORTED = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EMLINK,
    errno.EXDEV,
}
_RENAME_NOREPLACE = 1
_FLAG_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_ACLS = {"system.posix_acl_access", "system.nfs4_acl"}
_ATTRIBUTE_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA}
_SYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}


@dataclass(frozen=True)
class FileStamp:
    """The result of a cheap look at a file. Equal stamps, the first one settled, mean the same bytes."""

    mtime_ns: int
    size: int
    inode: int
    device: int
    ctime_ns: int = 0  # moves even when the modification time is set back
    settled: bool = field(default=False, compare=False)  # a later change cannot hide in the same tick

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        return cls(
            status.st_mtime_ns,
            status.st_size,
            status.st_ino,
            status.st_dev,
            status.st_ctime_ns,
            settled=time.time_ns() - changed > SETTLED_NS,
        )


@dataclass(frozen=True)
class FileContent:
    """One version of a file."""

    data: bytes
    stamp: FileStamp
    digest: Digest = field(compare=False, repr=False)

    @property
    def revision(self) -> str:
        """The digest that names the bytes."""
        return self.digest.value()

    def released(self) -> FileContent:
        """The same version without its bytes. The revision is known."""
        _ = self.revision
        return replace(self, data=b"")


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:16]


def stamp_of(path: Path) -> FileStamp | None:
    """The stamp of the file itself, no link followed. None when there is none, or none that we may see."""
    try:
        with _Parent.of(path.parent, path.name, _NOT_READ) as parent:
            return FileStamp.of(os.stat(parent.at(path.name), dir_fd=parent.descriptor, follow_symlinks=False))
    except (OSError, ValueError, ServerError):
        return None


def read_file(path: Path, *, max_bytes: int, display_path: str, digests: Digests | None = None) -> FileContent:
    """The bytes of a regular file, never more than `max_bytes`.

    Args:
        digests: those of versions that were read before. Without them the digest is made when it is asked for.

    Raises:
        NotFoundError, PermissionDeniedError: as the system says.
        PathNotAllowedError: not a regular file, or reached through a link.
        TooLargeError: larger than `max_bytes`.
    """
    with _Parent.of(path.parent, display_path, _NOT_READ) as parent, _reported(display_path, "read", _NOT_READ):
        data, stamp = _read(parent, path.name, max_bytes, display_path)
    if digests is None:
        return FileContent(data, stamp, Digest(data))
    if stamp.settled:
        return FileContent(data, stamp, digests.of(path, data, stamp, stamp.device))
    digest = Digest(data)
    digest.begin()
    return FileContent(data, stamp, digest)


def read_in_pieces(
    path: Path, *, max_bytes: int, display_path: str, begin: Callable[[], Callable[[bytes], None]]
) -> FileContent:
    """Read a regular file piece by piece, and return its version without bytes. The revision is known.

    Args:
        begin: makes the function that takes the pieces. It is called again when another program changes the file
            meanwhile, and the pieces begin anew.

    Raises:
        ServerError: as for `read_file`.
    """
    with _Parent.of(path.parent, display_path, _NOT_READ) as parent, _reported(display_path, "read", _NOT_READ):
        for _ in range(3):
            digest = hashlib.sha256()
            take = begin()

            def hear(piece: bytes, digest: hashlib._Hash = digest, take: Callable[[bytes], None] = take) -> None:
                digest.update(piece)
                take(piece)

            before, after = _pieces(parent, path.name, max_bytes, display_path, hear)
            if before == after:
                break
    return FileContent(b"", before, Digest(b"", _short(digest)))


def _pieces(
    parent: _Parent, name: str, max_bytes: int | None, display_path: str, take: Callable[[bytes], None]
) -> tuple[FileStamp, FileStamp]:
    """Hand on the pieces of a file. Returns its stamps before and after."""
    if _status(parent, name, display_path) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptor = os.open(parent.at(name), _READ, dir_fd=parent.descriptor)
    try:
        before = os.fstat(descriptor)
        _check_regular(before.st_mode, display_path)
        got = 0
        _check_size(before.st_size, max_bytes, display_path)
        while piece := os.read(descriptor, _PIECE):
            got += len(piece)
            _check_size(got, max_bytes, display_path)
            take(piece)
        return FileStamp.of(before), FileStamp.of(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def write_file(
    path: Path,
    data: bytes,
    *,
    expected: FileContent | None,
    display_path: str,
    max_bytes: int | None = None,
    overwrite: bool = False,
    durable: bool = True,
    flush: bool = True,
) -> FileContent:
    """Save `data` so that the file holds the old or the new bytes at every instant.

    Args:
        expected: the version that the new one replaces; None for a file that must not exist.
        max_bytes: refuse more than this before anything is touched.
        overwrite: with `expected=None`, replace any version.
        durable: wait until the disk has it for good. Otherwise a power cut may bring the old version back, whole.
        flush: False for what may be lost: a power cut may leave an empty file.

    Bytes that equal the expected ones are not written: not even the modification time changes.

    Raises:
        ConflictError: the file is no longer `expected`.
        AlreadyExistsError: there is a file, and none was expected.
        TooLargeError, DiskFullError, PermissionDeniedError, NotFoundError, PathNotAllowedError: nothing was written.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise TooLargeError(
            f"{display_path} would be {len(data):,} bytes",
            allowed=f"The limit is {max_bytes:,} bytes",
            state=_UNCHANGED,
            advice="Remove large outputs or split the notebook",
        )
    with _Parent.of(path.parent, display_path, _UNCHANGED) as parent:
        with _reported(display_path, "check the file", _UNCHANGED):
            status = _status(parent, path.name, display_path)
            _check_target(parent, path.name, status, display_path, expected=expected, overwrite=overwrite)
            if expected is not None and data == expected.data and status is not None:
                return FileContent(data, FileStamp.of(status), expected.digest)
        like = None if status is None else _Model(parent, path.name, status)
        return _save(
            parent,
            path.name,
            data,
            like,
            display_path,
            expected=expected,
            overwrite=overwrite,
            durable=durable and flush,
            flush=flush,
        )


def copy_file(source: Path, target: Path, content: FileContent, *, display_path: str) -> FileContent:
    """Save bytes of `source` as the new file `target`, with the rights of `source`. It appears whole or not at all.

    Args:
        content: the version of `source` that was read.
        display_path: of `target`.

    Raises:
        AlreadyExistsError: the name is taken.
        DiskFullError, PermissionDeniedError, NotFoundError, PathNotAllowedError: there is no new file.
    """
    with (
        _Parent.of(source.parent, display_path, _UNCHANGED) as parent,
        _Parent.of(target.parent, display_path, _UNCHANGED) as other,
    ):
        with _reported(display_path, "check the file", _UNCHANGED):
            status = _status(parent, source.name, display_path)
            _check_target(
                other,
                target.name,
                _status(other, target.name, display_path),
                display_path,
                expected=None,
                overwrite=False,
            )
        like = None if status is None else _Model(parent, source.name, status)
        return _save(other, target.name, content.data, like, display_path, expected=None, overwrite=False, durable=True)


def move_file(source: Path, target: Path, content: FileContent, *, display_path: str, target_path: str) -> FileContent:
    """Give a file another name, unless that is taken. At every instant one of the names, or each, has the whole file.

    On another file system the file is copied, and then removed at its old place if it is still the same version.

    Args:
        content: the version of `source` that was read.
        display_path, target_path: of `source` and `target`.

    Raises:
        AlreadyExistsError: the name is taken.
        ConflictError: the file is no longer `content`.
        DiskFullError, PermissionDeniedError, NotFoundError, PathNotAllowedError: the file is where it was.
    """
    with (
        _Parent.of(source.parent, display_path, _UNCHANGED) as parent,
        _Parent.of(target.parent, target_path, _UNCHANGED) as other,
    ):
        with _reported(display_path, "check the file", _UNCHANGED):
            status = _status(parent, source.name, display_path)
            _check_target(parent, source.name, status, display_path, expected=content, overwrite=False)
        with _reported(target_path, "move the file", _UNCHANGED):
            try:
                moved = _moved(parent, source.name, other, target.name)
            except FileExistsError:
                raise AlreadyExistsError(
                    f"{target_path} already exists", state=_UNCHANGED, advice="Choose another name"
                ) from None
        if not moved:
            copy = copy_file(source, target, content, display_path=target_path)
            try:
                _remove_version(parent, source.name, content, display_path)
            except BaseException:
                with contextlib.suppress(ServerError):  # unless another program has changed the copy already
                    _remove_version(other, target.name, copy, target_path)
                raise
        with _reported(target_path, "flush the directory", "The file is moved, but a power cut may bring it back"):
            _sync_directory(other)
            _sync_directory(parent)
        now = _stamp_of_saved(other, target.name, content.stamp)
    return replace(content, stamp=now) if moved else copy


def _moved(parent: _Parent, name: str, other: _Parent, new: str) -> bool:
    """Rename a file, unless the new name is taken. False where this takes a copy: on another file system, or on one
    without links.

    Raises:
        FileExistsError: the new name is taken.
    """
    try:
        if _renamed_by_linux(parent, name, other, new):
            return True
        if sys.platform == "win32":
            os.rename(parent.at(name), other.at(new))  # noqa: PTH104 - here it refuses a name that is taken
            return True
        os.link(
            parent.at(name),
            other.at(new),
            src_dir_fd=parent.descriptor,
            dst_dir_fd=other.descriptor,
            follow_symlinks=False,
        )
    except FileExistsError:
        if not _is_one_name(parent, name, other, new):
            raise
        os.rename(parent.at(name), other.at(new), src_dir_fd=parent.descriptor, dst_dir_fd=other.descriptor)
        return True
    except OSError as error:
        if error.errno in _LINKS_UNSUPPORTED:
            return False
        raise
    os.unlink(parent.at(name), dir_fd=parent.descriptor)
    return True


def _renamed_by_linux(parent: _Parent, name: str, other: _Parent, new: str) -> bool:
    """Rename in one step that never replaces a file. False where the system or the file system cannot."""
    if sys.platform != "linux" or parent.descriptor is None or other.descriptor is None:
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(parent.descriptor, os.fsencode(name), other.descriptor, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _FLAG_UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def _is_one_name(parent: _Parent, name: str, other: _Parent, new: str) -> bool:
    """Whether two names that differ by case are one, on a file system that does not tell them apart."""
    if name == new or name.casefold() != new.casefold():
        return False
    try:
        old, taken = (
            os.stat(directory.at(one), dir_fd=directory.descriptor, follow_symlinks=False)
            for directory, one in ((parent, name), (other, new))
        )
        return os.path.samestat(old, taken) and new not in _names(other)
    except OSError:
        return False


def _names(parent: _Parent) -> list[str]:
    own = None if parent.descriptor is None else os.open(".", _LIST, dir_fd=parent.descriptor)
    try:
        with os.scandir(parent.path if own is None else own) as entries:
            return [entry.name for entry in entries]
    finally:
        if own is not None:
            os.close(own)


def _remove_version(parent: _Parent, name: str, content: FileContent, display_path: str) -> None:
    """Remove a file that is still a version that was read."""
    with _reported(display_path, "remove the file", _UNCHANGED):
        status = _status(parent, name, display_path)
        _check_target(parent, name, status, display_path, expected=content, overwrite=False)
        os.unlink(parent.at(name), dir_fd=parent.descriptor)


def make_directory(path: Path, *, display_path: str) -> None:
    """Make a directory and the missing ones above it. One that exists is fine."""
    with _Parent.of(path, display_path, "Nothing was written", create=True):
        pass


def open_special(path: str, flags: int) -> int:
    """Open something that is no file of a user: a device, or the file of another descriptor. Returns a descriptor."""
    return os.open(path, flags)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a pipe or socket. Waits for room, also if the descriptor does not block."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll()


def read_beginning(path: Path, most: int) -> str | None:
    """The first `most` bytes of a regular file as text; None where there is none that can be read. Never waits."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, most).decode("utf-8", "replace") if regular else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def create_private_file(path: Path, data: bytes) -> None:
    """Make a small file of our own that only its user can read, in a directory that is ours.

    Raises:
        OSError: as the system says.
    """
    _write_small(os.open(path, _CREATE, 0o600), data)


def append_to_private_file(path: Path, data: bytes) -> None:
    """Add to a file that `create_private_file` has made.

    Raises:
        OSError: as the system says.
    """
    _write_small(os.open(path, _APPEND), data)


def _write_small(descriptor: int, data: bytes) -> None:
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Entry:
    """The directory entry of one name. Links are not followed."""

    name: str
    kind: Literal["file", "directory", "link", "other"]
    size: int = 0
    mtime_ns: int = 0


def list_directory(
    path: Path, *, display_path: str, suffix: str, limit: int, deadline: float = math.inf
) -> tuple[list[Entry], bool]:
    """The directories, links and files with `suffix` in a directory, by name, and whether there may be more.

    Looks at `limit` names at most, and at none after `deadline`, a time of `time.monotonic`. Other files are left out,
    and so are files that go away meanwhile.

    Raises:
        NotFoundError, PermissionDeniedError, PathNotAllowedError: as the system says.
    """
    found: list[Entry] = []
    with _Parent.of(path, display_path, _NOT_READ) as parent, _reported(display_path, "open the directory", _NOT_READ):
        # A descriptor made with O_PATH cannot be listed.
        own = None if parent.descriptor is None else os.open(".", _LIST, dir_fd=parent.descriptor)
        try:
            with os.scandir(path if own is None else own) as entries:
                for number, entry in enumerate(entries):
                    if number >= limit or (number % _NAMES_AT_ONCE == 0 and time.monotonic() >= deadline):
                        return sorted(found, key=lambda entry: entry.name), True
                    if entry.is_symlink():
                        found.append(Entry(entry.name, "link"))
                    elif entry.is_dir(follow_symlinks=False):
                        found.append(Entry(entry.name, "directory"))
                    elif entry.name.lower().endswith(suffix):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            kind: Literal["file", "other"] = "file" if stat.S_ISREG(status.st_mode) else "other"
                            found.append(Entry(entry.name, kind, status.st_size, status.st_mtime_ns))
        finally:
            if own is not None:
                os.close(own)
    return sorted(found, key=lambda entry: entry.name), False


class _Parent:
    """A directory held by descriptor where the platform can, by path where it cannot."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    @contextlib.contextmanager
    def of(cls, path: Path, display_path: str, state: str, *, create: bool = False) -> Iterator[_Parent]:
        path = path.absolute()
        with _reported(display_path, "make the directory" if create else "open the directory of the file", state):
            descriptor = _open_directory(path, create=create)
        try:
            yield cls(path, descriptor)
        finally:
            if descriptor is not None:
                with contextlib.suppress(OSError):  # nothing was written through it, so nothing can be lost
                    os.close(descriptor)

    def at(self, name: str) -> str | Path:
        return name if self.descriptor is not None else self.path / name


class _Model(NamedTuple):
    """A file whose rights a new one gets."""

    parent: _Parent
    name: str
    status: os.stat_result


def _open_directory(path: Path, *, create: bool) -> int | None:
    if not _BY_DESCRIPTOR:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return None
    if not _O_PATH:  # descending would need the right to list every directory above
        if create:
            path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | _O_DIRECTORY | _O_CLOEXEC | (_O_NOFOLLOW_ANY or _O_NOFOLLOW))
    descriptor = os.open(path.anchor, _DESCEND)
    for part in path.parts[1:]:
        try:
            below = _descend(part, descriptor, create=create)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _descend(part: str, above: int, *, create: bool) -> int:
    try:
        return os.open(part, _DESCEND, dir_fd=above)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, dir_fd=above)
    return os.open(part, _DESCEND, dir_fd=above)


def _status(parent: _Parent, name: str, display_path: str) -> os.stat_result | None:
    """The status of a regular file, or None when nothing is there."""
    try:
        status = os.stat(parent.at(name), dir_fd=parent.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _check_regular(status.st_mode, display_path)
    return status


def _check_regular(mode: int, display_path: str) -> None:
    if not stat.S_ISREG(mode):
        raise PathNotAllowedError(
            f"{display_path} is {kind_of_file(mode)}",
            allowed="Only regular files are read or written",
            state="Nothing was read or written",
        )


def kind_of_file(mode: int) -> str:
    """The kind of a file by its mode: `a directory`."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _read(parent: _Parent, name: str, max_bytes: int | None, display_path: str) -> tuple[bytes, FileStamp]:
    if _status(parent, name, display_path) is None:  # looked at first: to open a device can already do something
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptor = os.open(parent.at(name), _READ, dir_fd=parent.descriptor)
    try:
        for _ in range(3):  # another program may be writing in place: prefer a version that stood still
            before = os.fstat(descriptor)
            _check_regular(before.st_mode, display_path)
            _check_size(before.st_size, max_bytes, display_path)
            data = _read_all(descriptor, before.st_size, max_bytes)
            _check_size(len(data), max_bytes, display_path)
            stamp = FileStamp.of(before)
            if stamp == FileStamp.of(os.fstat(descriptor)):
                break
            os.lseek(descriptor, 0, os.SEEK_SET)
    finally:
        os.close(descriptor)
    return data, stamp


def _check_size(size: int, max_bytes: int | None, display_path: str) -> None:
    if max_bytes is not None and size > max_bytes:
        raise TooLargeError(
            f"{display_path} is {size:,} bytes or more",
            allowed=f"The limit is {max_bytes:,} bytes",
            state=_NOT_READ,
            advice="Raise the limit in the settings, or clear its outputs",
        )


def _read_all(descriptor: int, size: int, max_bytes: int | None) -> bytes:
    pieces: list[bytes] = []
    got = 0
    while max_bytes is None or got <= max_bytes:
        piece = os.read(descriptor, min(max(size - got, 0) + 65_536, 1 << 30))
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def _check_target(
    parent: _Parent,
    name: str,
    status: os.stat_result | None,
    display_path: str,
    *,
    expected: FileContent | None,
    overwrite: bool,
) -> None:
    """Refuse when the target is not the version that the caller read, or may not be written."""
    if expected is None:
        if status is not None and not overwrite:
            raise AlreadyExistsError(f"{display_path} already exists", state=_UNCHANGED, advice="Choose another name")
    elif status is None:
        raise ConflictError(
            f"{display_path} is gone: revision {expected.revision} was expected, now there is no file",
            state="Nothing was written",
            advice="Look whether it was moved or deleted before saving again",
        )
    elif (current := _revision_unless_same(parent, name, status, expected, display_path)) is not None:
        raise ConflictError(
            f"{display_path} was changed by another program: revision {expected.revision} was expected, "
            f"the file has {current}",
            state="Nothing was written; their version stays",
            advice="Read it again and repeat the change",
        )
    if status is not None and not _writable(parent, name):
        raise PermissionDeniedError(
            f"{display_path} is read-only", state=_UNCHANGED, advice="Make it writable, or save under another name"
        )


def _revision_unless_same(
    parent: _Parent, name: str, status: os.stat_result, expected: FileContent, display_path: str
) -> str | None:
    """The revision of a file that has other bytes than expected; None if it has the same."""
    if FileStamp.of(status) == expected.stamp and expected.stamp.settled:
        return None
    if expected.data or not expected.stamp.size:
        current, _ = _read(parent, name, None, display_path)
        return None if current == expected.data else revision_of(current)
    digest = hashlib.sha256()  # the bytes are not held
    _pieces(parent, name, None, display_path, digest.update)
    return None if _short(digest) == expected.revision else _short(digest)


def _check_rights(before: os.stat_result | None, now: os.stat_result | None, display_path: str) -> None:
    """Refuse when another program has changed the rights of the file since the new version got the old ones."""
    if before is None or now is None:
        return
    if (before.st_mode, before.st_uid, before.st_gid) != (now.st_mode, now.st_uid, now.st_gid):
        raise ConflictError(
            f"the rights of {display_path} were changed by another program meanwhile",
            state="Nothing was written",
            advice="Repeat the change",
        )


def _writable(parent: _Parent, name: str) -> bool:
    descriptor = parent.descriptor if _ACCESS_BY_DESCRIPTOR else None
    place = parent.at(name) if _ACCESS_BY_DESCRIPTOR else parent.path / name
    return os.access(place, os.W_OK, dir_fd=descriptor, effective_ids=_ACCESS_EFFECTIVE)


def _save(
    parent: _Parent,
    name: str,
    data: bytes,
    like: _Model | None,
    display_path: str,
    *,
    expected: FileContent | None,
    overwrite: bool,
    durable: bool,
    flush: bool = True,
) -> FileContent:
    temporary = f".papermill-mcp-{secrets.token_hex(8)}.tmp"
    digest = Digest(data)
    digest.begin()
    exists = False  # the temporary file
    try:
        with _reported(display_path, "make a temporary file", _UNCHANGED):
            # A new file gets its mode from the umask, which cannot be read without changing it for every thread.
            mode = 0o666 if like is None else 0o600
            descriptor = os.open(parent.at(temporary), _CREATE, mode, dir_fd=parent.descriptor)
            exists = True
        try:
            _fill(descriptor, data, display_path)
            if like is not None:
                with _reported(display_path, "keep the rights of the file", _UNCHANGED):
                    _keep_rights(like.parent, like.name, descriptor, like.status)
            written = _flushed(descriptor, display_path) if flush else FileStamp.of(os.fstat(descriptor))
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        with _reported(
            display_path, "close the new version", _UNCHANGED
        ):  # where network disks tell that they are full
            os.close(descriptor)
        with _reported(display_path, "check the file", _UNCHANGED):
            current = _status(parent, name, display_path)
            _check_target(parent, name, current, display_path, expected=expected, overwrite=overwrite)
            _check_rights(None if like is None else like.status, current, display_path)
        with _reported(display_path, "put the new version in place", _UNCHANGED):
            if current is None and not overwrite and _linked(parent, temporary, name, display_path):
                pass  # the temporary name is removed below
            else:
                os.replace(
                    parent.at(temporary),
                    parent.at(name),
                    src_dir_fd=parent.descriptor,
                    dst_dir_fd=parent.descriptor,
                )
                exists = False
    finally:
        if exists:
            _remove(parent, temporary)
    if durable:
        in_place = "The new version is in place, but may not survive a power cut"
        with _reported(display_path, "flush the directory", in_place):
            _sync_directory(parent)
        _remove_abandoned(parent)
    return FileContent(data, _stamp_of_saved(parent, name, written), digest)


def _stamp_of_saved(parent: _Parent, name: str, written: FileStamp) -> FileStamp:
    """The stamp of our save. When another program was quicker, one that fits no file, so that bytes get compared."""
    try:
        seen = FileStamp.of(os.stat(parent.at(name), dir_fd=parent.descriptor, follow_symlinks=False))
    except OSError:
        return written
    return seen if replace(seen, ctime_ns=written.ctime_ns) == written else written  # a rename moves ctime


def _fill(descriptor: int, data: bytes, display_path: str) -> None:
    with _reported(display_path, "write the new version", _UNCHANGED):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest[: 1 << 30]) :]


def _flushed(descriptor: int, display_path: str) -> FileStamp:
    with _reported(display_path, "flush the new version", _UNCHANGED):
        os.fsync(descriptor)  # else the name could reach the disk before the bytes, and a power cut leave neither
        return FileStamp.of(os.fstat(descriptor))


def _keep_rights(parent: _Parent, name: str, descriptor: int, old: os.stat_result) -> None:
    """Give the new version the owner, group, mode, ACL and extended attributes of the old one.

    A right that cannot be kept as it is is dropped: the new version never grants more than the old one.
    """
    if not hasattr(os, "fchmod"):
        return
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        for owner in (old.st_uid, -1):  # only root may give files away; a member may still keep the group
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner, old.st_gid)
                break
        new = os.fstat(descriptor)
    same_group = new.st_gid == old.st_gid
    mode = stat.S_IMODE(old.st_mode)
    if new.st_uid != old.st_uid:
        mode &= ~stat.S_ISUID
    if not same_group:
        shared = (mode >> 3) & mode & 0o7  # members of the old and of the new group trade places with others
        mode = (mode & 0o700) | shared << 3 | shared
    if not _keep_attributes(parent, name, descriptor, with_acl=same_group):
        mode &= ~0o070  # with an ACL these bits are its mask, and grant more without it
    os.fchmod(descriptor, mode)


def _keep_attributes(parent: _Parent, name: str, descriptor: int, *, with_acl: bool) -> bool:
    """Copy the extended attributes of the old version. False if it has an ACL that the new one has not got."""
    if sys.platform != "linux":
        return True
    source = os.open(parent.at(name), _READ, dir_fd=parent.descriptor)
    try:
        names = os.listxattr(source)
        kept = True
        for attribute in names:
            if attribute in _ACLS and not with_acl:
                kept = False
                continue
            try:
                os.setxattr(descriptor, attribute, os.getxattr(source, attribute))
            except OSError as error:
                if error.errno not in _ATTRIBUTE_REFUSED:
                    raise
                kept = kept and attribute not in _ACLS
    except OSError as error:
        if error.errno not in _ATTRIBUTE_REFUSED:
            raise
        return True  # the file system has no extended attributes
    finally:
        os.close(source)
    for attribute in _ACLS - {*names} if with_acl else _ACLS:  # the directory may have passed one on
        with contextlib.suppress(OSError):
            os.removexattr(descriptor, attribute)
    return kept


def _linked(parent: _Parent, temporary: str, name: str, display_path: str) -> bool:
    """Give the temporary file its name unless the name is taken. False when the file system knows no links."""
    if not _LINK_BY_DESCRIPTOR:
        return False
    try:
        os.link(temporary, name, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor, follow_symlinks=False)
    except FileExistsError:
        raise AlreadyExistsError(
            f"{display_path} came into being meanwhile",
            state="It is unchanged",
            advice="Read it, or choose another name",
        ) from None
    except OSError as error:
        if error.errno in _LINKS_UNSUPPORTED:
            return False
        raise
    return True


def _remove(parent: _Parent, temporary: str) -> None:
    for _ in range(2):  # one refusal may pass; a second one we cannot help
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(parent.at(temporary), dir_fd=parent.descriptor)
            return


def _remove_abandoned(parent: _Parent) -> None:
    """Remove leftovers of saves that a crash cut off. A save that takes longer fails, and changes nothing."""
    if parent.descriptor is None:
        return
    with contextlib.suppress(OSError):
        own = os.open(".", _LIST, dir_fd=parent.descriptor)
        try:
            with os.scandir(own) as entries:
                for entry in itertools.islice(entries, _LOOKED_AT):
                    if _TEMPORARY.fullmatch(entry.name) and _is_abandoned(entry.stat(follow_symlinks=False)):
                        os.unlink(entry.name, dir_fd=own)
        finally:
            os.close(own)


def _is_abandoned(status: os.stat_result) -> bool:
    old = time.time() - status.st_mtime > _ABANDONED_SECONDS
    return old and stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _sync_directory(parent: _Parent) -> None:
    if parent.descriptor is None:
        return
    try:
        # A descriptor made with O_PATH cannot be flushed.
        descriptor = os.open(".", os.O_RDONLY | _O_DIRECTORY | _O_CLOEXEC, dir_fd=parent.descriptor)
    except PermissionError:  # a directory that may be entered but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reported(display_path: str, step: str, state: str) -> Iterator[None]:
    """Turn an error of the system into one of ours, naming the step."""
    try:
        yield
    except OSError as error:
        raise _error_for(error, display_path, step, state) from error


def exhausted(error: OSError, *, state: str = "") -> LimitReachedError:
    """The error for a client where the system has no more descriptors, processes or memory to give."""
    return LimitReachedError(
        f"the system gives this server no more of something it needs: {os.strerror(error.errno or 0)}",
        state=state,
        advice="stop kernels and executions that are not needed, or raise the limits of the server (ulimit)",
    )


#: Errors of the system for which `exhausted` stands.
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))


def _error_for(error: OSError, display_path: str, step: str, state: str) -> ServerError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    text = (
        f"{display_path}: could not {step}: {reason}"
        if step != "read"
        else f"{display_path} could not be read: {reason}"
    )
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return DiskFullError(text, state=state, advice="Free some space and try again")
        case errno.ENOENT:
            if state == _NOT_READ:
                notebook = display_path.lower().endswith(".ipynb")
                advice = "List the notebooks there are" if notebook else "Check the name of the file"
                return NotFoundError(f"{display_path} does not exist", state=state, advice=advice)
            if "directory" in step and "flush" not in step:
                return NotFoundError(
                    f"The directory of {display_path} does not exist", state=state, advice="Make it first"
                )
            return NotFoundError(text, state=state)
        case errno.ELOOP | errno.ENOTDIR:
            return PathNotAllowedError(
                f"{display_path} leads through something that is not a directory, or through a symbolic link",
                state=state,
                advice="Name it by its real path",
            )
        case errno.EEXIST:
            return AlreadyExistsError(text, state=state)
        case number if number in EXHAUSTED:
            return exhausted(error, state=state)
        case errno.ENAMETOOLONG:
            return PathNotAllowedError(text, state=state, advice="Choose a shorter name")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return PermissionDeniedError(text, state=state, advice="Change the permissions, or use another directory")
        case _:
            return PermissionDeniedError(text, state=state, advice="Check the disk, then try again")
