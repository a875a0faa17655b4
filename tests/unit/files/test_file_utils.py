"""Bounded reads and saves that leave the old or the new version."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from papermill_mcp.errors import (
    AlreadyExistsError,
    ConflictError,
    DiskFullError,
    NotFoundError,
    PathNotAllowedError,
    PermissionDeniedError,
    ServerError,
    TooLargeError,
)
from papermill_mcp.utils import file_utils
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.file_utils import (
    SETTLED_NS,
    FileContent,
    append_to_private_file,
    create_private_file,
    list_directory,
    make_directory,
    read_file,
    stamp_of,
    write_file,
)

MEGABYTE = 1_000_000
FAILING = ["open", "write", "fsync", "fchmod", "fstat", "stat", "replace", "link", "close", "read"]


def read(path: Path) -> FileContent:
    return read_file(path, max_bytes=MEGABYTE, display_path=path.name)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "n.ipynb"
    path.write_bytes(b"old")
    return path


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A directory of an unprivileged user, and the rights of that user where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(directory, 65534, 65534)
            os.setegid(65534)
            os.seteuid(65534)
        try:
            yield directory
        finally:
            if is_root:
                os.seteuid(0)
                os.setegid(0)


def test_a_read_gives_bytes_stamp_and_revision(old: Path) -> None:
    content = read(old)

    assert content.data == b"old"
    assert content.revision == revision_of(b"old") == "cba06b5736faf67e"
    assert content.stamp == stamp_of(old)


def test_a_missing_file_is_named_as_the_client_names_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as raised:
        read_file(tmp_path / "x.ipynb", max_bytes=1, display_path="sub/x.ipynb")

    assert "sub/x.ipynb" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert stamp_of(tmp_path / "x.ipynb") is None


def test_a_file_over_the_limit_is_refused_with_both_sizes(old: Path) -> None:
    with pytest.raises(TooLargeError, match=r"3 bytes.*limit is 2 bytes"):
        read_file(old, max_bytes=2, display_path="n.ipynb")


def test_a_file_at_the_limit_is_read(old: Path) -> None:
    assert read_file(old, max_bytes=3, display_path="n.ipynb").data == b"old"


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "link"])
def test_only_regular_files_are_read_or_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.ipynb"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "directory":
        path.mkdir()
    else:
        (tmp_path / "target").write_bytes(b"target")
        path.symlink_to("target")

    with pytest.raises(PathNotAllowedError):
        read(path)
    with pytest.raises(PathNotAllowedError):
        write_file(path, b"new", expected=None, display_path="x.ipynb", overwrite=True)
    assert kind != "link" or (tmp_path / "target").read_bytes() == b"target"


@pytest.mark.case("P13")
@pytest.mark.skipif(not file_utils._BY_DESCRIPTOR, reason="there are no descriptors of directories")
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_file_that_is_swapped_between_the_look_and_the_read_is_not_read(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link is not followed, and a named pipe without a writer does not hold the call up."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"CANARY")
    real = os.open

    def swapping(path: Any, *arguments: Any, **named: Any) -> int:
        if path == old.name:
            old.unlink()
            if kind == "link":
                old.symlink_to(secret)
            elif kind == "pipe":
                os.mkfifo(old)
            else:
                old.mkdir()
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(PathNotAllowedError, match="link" if kind == "link" else kind):
        read(old)


def test_a_directory_swapped_for_a_link_redirects_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.ipynb").write_bytes(b"secret")
    (tmp_path / "inside").symlink_to(outside)

    with pytest.raises(PathNotAllowedError):
        read(tmp_path / "inside" / "x.ipynb")
    with pytest.raises(PathNotAllowedError):
        write_file(tmp_path / "inside" / "y.ipynb", b"new", expected=None, display_path="y.ipynb")
    assert [path.name for path in outside.iterdir()] == ["x.ipynb"]


def test_a_read_prefers_a_version_that_stood_still(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read = os.read
    changed: list[bool] = []

    def read_while_written(descriptor: int, size: int) -> bytes:
        piece = real_read(descriptor, size)
        if not changed:
            changed.append(True)
            old.write_bytes(b"new and longer")
        return piece

    monkeypatch.setattr(os, "read", read_while_written)

    assert read(old).data == b"new and longer"


def test_a_save_replaces_the_expected_version(old: Path) -> None:
    saved = write_file(old, b"new", expected=read(old), display_path="n.ipynb")

    assert old.read_bytes() == b"new"
    assert saved == read(old)
    assert [path.name for path in old.parent.iterdir()] == ["n.ipynb"]


def test_one_save_can_follow_another(old: Path) -> None:
    content = read(old)
    for number in range(20):
        content = write_file(old, f"{number}".encode(), expected=content, display_path="n.ipynb", durable=False)

    assert old.read_bytes() == b"19"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_a_save_keeps_the_mode(old: Path, mode: int) -> None:
    old.chmod(mode)
    write_file(old, b"new", expected=read(old), display_path="n.ipynb")

    assert stat.S_IMODE(old.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_save_keeps_the_owner_and_the_group(old: Path) -> None:
    os.chown(old, 65534, 65533)
    old.chmod(0o4750)  # the owner is set first, since that takes the set-user-id bit away
    write_file(old, b"new", expected=read(old), display_path="n.ipynb")

    status = old.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o4750)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_an_owner_that_may_not_be_given_does_not_stop_a_save(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(old, 65534, 65533)
    expected = read(old)
    monkeypatch.setattr(os, "fchown", failing(os.fchown, 1, errno.EPERM, once=False))
    write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"new"
    assert old.stat().st_uid == 0


@pytest.mark.parametrize(
    ("number", "tolerated"),
    [
        (errno.EINVAL, True),
        (errno.ENOTSUP, True),
        (errno.EOPNOTSUPP, True),
        (errno.ENOSYS, True),
        (errno.EBADF, True),
        (errno.EIO, False),
        (errno.ENOSPC, False),
    ],
)
def test_a_directory_that_cannot_be_flushed_is_told_from_one_that_fails(
    old: Path, monkeypatch: pytest.MonkeyPatch, number: int, tolerated: bool
) -> None:
    """Some file systems refuse to flush directories, and then there is nothing to flush; a failed one is said."""
    expected = read(old)
    real = os.fsync
    flushed: list[bool] = []

    def fsync(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if flushed[-1]:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if tolerated:
        write_file(old, b"new", expected=expected, display_path="n.ipynb")
    else:
        with pytest.raises(ServerError, match="in place, but may not survive a power cut"):
            write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert flushed == [False, True]
    assert old.read_bytes() == b"new"


def test_a_new_file_gets_the_mode_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    before = os.umask(0o027)
    try:
        write_file(path, b"new", expected=None, display_path="n.ipynb")
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_nlink == 1


def test_equal_bytes_are_not_written(old: Path) -> None:
    before = stamp_of(old)
    known = read(old)
    same = write_file(old, b"old", expected=known, display_path="n.ipynb")

    assert stamp_of(old) == before == same.stamp
    assert same.revision == known.revision


def test_a_file_that_must_not_exist_is_not_overwritten(old: Path) -> None:
    with pytest.raises(AlreadyExistsError):
        write_file(old, b"new", expected=None, display_path="n.ipynb")
    assert old.read_bytes() == b"old"

    write_file(old, b"new", expected=None, display_path="n.ipynb", overwrite=True)
    assert old.read_bytes() == b"new"


def test_bytes_over_the_limit_are_refused_before_anything_is_touched(old: Path) -> None:
    with pytest.raises(TooLargeError, match="4 bytes"):
        write_file(old, b"long", expected=read(old), display_path="n.ipynb", max_bytes=3)


def outside_edit(old: Path) -> None:
    """The same size, written in place, and the old modification time put back."""
    status = old.stat()
    with old.open("r+b") as file:
        file.write(b"OLD")
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.case("F09")
@pytest.mark.parametrize("age", [0, 3600])
def test_somebody_elses_edit_is_a_conflict_even_with_size_and_time_kept(old: Path, age: int) -> None:
    status = old.stat()
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns - age * 10**9))
    expected = read(old)
    outside_edit(old)

    with pytest.raises(ConflictError) as raised:
        write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"OLD"
    assert revision_of(b"old") in str(raised.value)
    assert revision_of(b"OLD") in str(raised.value)


@pytest.mark.case("F09")
def test_an_edit_while_the_new_version_is_written_is_a_conflict(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(old)
    real = os.fsync

    def edited_meanwhile(descriptor: int) -> None:
        outside_edit(old)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", edited_meanwhile)
    with pytest.raises(ConflictError):
        write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"OLD"
    assert len(list(old.parent.iterdir())) == 1


def test_a_version_that_stood_still_is_compared_by_its_stamp_and_read_only_if_that_moved(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() + 10 * SETTLED_NS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, "time", SimpleNamespace(time_ns=lambda: later))
        settled = read(old)
    assert settled.stamp.settled
    reads: list[int] = []
    real = os.read

    def read_and_note(descriptor: int, size: int) -> bytes:
        reads.append(size)
        return real(descriptor, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "read", read_and_note)
        write_file(old, b"new", expected=settled, display_path="n.ipynb", durable=False)
    assert reads == []
    assert old.read_bytes() == b"new"

    with pytest.raises(ConflictError, match="changed by another program"):
        write_file(old, b"newer", expected=settled, display_path="n.ipynb", durable=False)
    assert old.read_bytes() == b"new"


def test_a_file_touched_but_not_changed_is_no_conflict(old: Path) -> None:
    expected = read(old)
    os.utime(old)
    write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"new"


def test_a_file_that_is_gone_is_a_conflict(old: Path) -> None:
    expected = read(old)
    old.unlink()

    with pytest.raises(ConflictError, match="gone"):
        write_file(old, b"new", expected=expected, display_path="n.ipynb")
    assert list(old.parent.iterdir()) == []


def test_of_many_who_make_one_file_exactly_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    won: list[int] = []
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait(10)
        try:
            write_file(path, str(number).encode(), expected=None, display_path="n.ipynb", durable=False)
        except AlreadyExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(won) == 1
    assert path.read_bytes() == str(won[0]).encode()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", ["EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EMLINK", "EXDEV"])
def test_a_file_system_without_links_still_takes_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr(os, "link", failing(os.link, 1, getattr(errno, number), once=False))
    path = tmp_path / "n.ipynb"
    write_file(path, b"new", expected=None, display_path="n.ipynb")

    assert path.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_directory_is_not_made_by_a_save(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="directory"):
        write_file(tmp_path / "sub" / "n.ipynb", b"new", expected=None, display_path="sub/n.ipynb")
    assert list(tmp_path.iterdir()) == []


def failing(real: Callable[..., Any], call: int, number: int, *, once: bool) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call or (calls > call and not once):
            if real.__name__ == "close":
                real(*arguments, **named)  # a descriptor is gone even when close reports an error
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    wrapped.__name__ = real.__name__
    return wrapped


@pytest.mark.case("F03")
@pytest.mark.parametrize("exists", [True, False], ids=["replace", "create"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize("name", [name for name in FAILING if name != "close"])
def test_whatever_call_fails_the_file_is_old_or_new_and_nothing_is_left(
    tmp_path: Path, name: str, number: int, exists: bool
) -> None:
    """Each system call of a save fails once, then from some call on."""
    failures = 0
    for once in (True, False):
        for call in range(1, 40):
            directory = tmp_path / f"{once}{call}"
            directory.mkdir()
            path = directory / "n.ipynb"
            if exists:
                path.write_bytes(b"old")
            expected = read(path) if exists else None
            error: ServerError | None = None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, name, failing(getattr(os, name), call, number, once=once))
                try:
                    write_file(path, b"new", expected=expected, display_path="n.ipynb")
                except ServerError as raised:
                    error = raised
            left = {file.name: file.read_bytes() for file in directory.iterdir()}
            if error is None or "new version is in place" in str(error):
                assert left == {"n.ipynb": b"new"}
            else:
                failures += 1
                assert left == ({"n.ipynb": b"old"} if exists else {})
                assert "unchanged" in str(error)
                assert isinstance(error, DiskFullError if number == errno.ENOSPC else PermissionDeniedError)
    reached = not (name == "link" and (exists or number == errno.EACCES))  # EACCES: perhaps links are unsupported
    reached = reached and not (name in {"fchmod", "read"} and not exists)
    reached = reached and not (name == "replace" and not exists)
    assert (failures > 0) == reached


def test_a_disk_that_tells_only_at_close_that_it_is_full_is_believed(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(old)
    writing: list[int] = []
    real_write, real_close = os.write, os.close

    def write(descriptor: int, data: bytes) -> int:
        writing.append(descriptor)
        return real_write(descriptor, data)

    def close(descriptor: int) -> None:
        real_close(descriptor)
        if descriptor in writing:
            writing.clear()
            raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "close", close)
    with pytest.raises(DiskFullError):
        write_file(old, b"new", expected=expected, display_path="n.ipynb", durable=False)

    assert old.read_bytes() == b"old"
    assert len(list(old.parent.iterdir())) == 1


def test_a_failed_removal_of_the_temporary_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "unlink", failing(os.unlink, 1, errno.EIO, once=True))
    write_file(tmp_path / "n.ipynb", b"new", expected=None, display_path="n.ipynb")

    assert [path.name for path in tmp_path.iterdir()] == ["n.ipynb"]


@pytest.mark.case("F04")
def test_short_writes_still_give_the_whole_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(old)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:1]))
    write_file(old, b"a longer text", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"a longer text"


def test_an_interrupted_save_leaves_the_old_version(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(old)

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(old, b"new", expected=expected, display_path="n.ipynb")

    assert old.read_bytes() == b"old"
    assert len(list(old.parent.iterdir())) == 1


def test_a_save_leaves_no_descriptor_open(old: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    content = read(old)
    for number in range(5):
        content = write_file(old, str(number).encode(), expected=content, display_path="n.ipynb", durable=False)
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0

    assert after == before


@pytest.mark.case("F08")
def test_a_read_only_file_is_refused_although_its_directory_could_replace_it() -> None:
    with as_nobody() as directory:
        path = directory / "n.ipynb"
        path.write_bytes(b"old")
        path.chmod(0o444)

        with pytest.raises(PermissionDeniedError, match="read-only"):
            write_file(path, b"new", expected=read(path), display_path="n.ipynb")
        assert path.read_bytes() == b"old"
        assert len(list(directory.iterdir())) == 1


@pytest.mark.case("F08")
def test_a_writable_file_in_a_read_only_directory_is_not_written_in_place() -> None:
    with as_nobody() as directory:
        path = directory / "n.ipynb"
        path.write_bytes(b"old")
        directory.chmod(0o555)

        with pytest.raises(PermissionDeniedError, match="unchanged"):
            write_file(path, b"new", expected=read(path), display_path="n.ipynb")
        assert path.read_bytes() == b"old"
        directory.chmod(0o755)


@pytest.mark.case("P24")
def test_an_unreadable_file_is_told_apart_from_a_missing_one() -> None:
    with as_nobody() as directory:
        path = directory / "n.ipynb"
        path.write_bytes(b"old")
        path.chmod(0)

        with pytest.raises(PermissionDeniedError, match=r"n\.ipynb") as raised:
            read(path)
        assert str(directory) not in str(raised.value)


def test_directories_are_made_with_the_missing_ones_above(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b" / "c", display_path="a/b/c")
    make_directory(tmp_path / "a" / "b" / "c", display_path="a/b/c")

    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_no_directory_is_made_below_a_file_or_through_a_link(old: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    for path in (old / "sub", tmp_path / "link" / "sub"):
        with pytest.raises(PathNotAllowedError):
            make_directory(path, display_path="sub")
    assert not (tmp_path / "sub").exists()


def test_the_fallback_without_descriptors_saves_and_refuses_alike(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    for name in ("_BY_DESCRIPTOR", "_LINK_BY_DESCRIPTOR", "_ACCESS_BY_DESCRIPTOR"):
        monkeypatch.setattr(file_utils, name, False)

    write_file(old, b"new", expected=read(old), display_path="n.ipynb")
    write_file(tmp_path / "m.ipynb", b"made", expected=None, display_path="m.ipynb")
    make_directory(tmp_path / "a" / "b", display_path="a/b")

    assert read(old).data == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "m.ipynb", "n.ipynb"]
    with pytest.raises(AlreadyExistsError):
        write_file(old, b"newer", expected=None, display_path="n.ipynb")
    with pytest.raises(NotFoundError):
        read(tmp_path / "none" / "n.ipynb")


def test_what_a_save_left_that_a_crash_cut_off_goes_with_a_later_save_and_nothing_else_does(
    old: Path, tmp_path: Path
) -> None:
    """Only a file of exactly our names, of this user, and only when it is too old to belong to a save that goes on."""
    name = ".papermill-mcp-{:016x}.tmp".format
    outside = tmp_path / "outside"
    outside.write_text("kept")
    for other in (".0123456789abcdef.tmp", name(1) + "x", "x" + name(1), ".papermill-mcp-1.tmp", name(2)):
        (tmp_path / other).touch()
    (tmp_path / name(3)).symlink_to(outside)
    (tmp_path / name(4)).mkdir()
    (tmp_path / name(5)).touch()
    foreign = os.geteuid() == 0
    if foreign:
        (tmp_path / name(6)).touch()
        os.chown(tmp_path / name(6), 65534, 65534)
    kept = {path.name for path in tmp_path.iterdir()} - {name(5)}
    for path in tmp_path.iterdir():
        if path.name != name(2):
            os.utime(path, (1, 1), follow_symlinks=False)
    write_file(old, b"new", expected=read(old), display_path="n.ipynb", durable=False)
    assert (tmp_path / name(5)).exists(), "a save in the middle of a run looks for nothing"
    write_file(old, b"newer", expected=read(old), display_path="n.ipynb")

    assert {path.name for path in tmp_path.iterdir()} == kept
    assert outside.read_text() == "kept"


def test_a_save_whose_temporary_file_was_removed_tells_it_and_changes_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an hour in which the process was halted, with a save of another one meanwhile."""
    replace = os.replace

    def late(source: str, *arguments: Any, **options: Any) -> None:
        (tmp_path / source).unlink()
        replace(source, *arguments, **options)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(ServerError, match="unchanged"):
        write_file(old, b"new", expected=read(old), display_path="n.ipynb")

    assert old.read_bytes() == b"old"


# Directories, and files of our own


def test_a_listing_ends_at_its_limit_and_at_its_deadline(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.ipynb").touch()

    assert list_directory(tmp_path, display_path=".", suffix=".ipynb", limit=5)[1] is False
    found, more = list_directory(tmp_path, display_path=".", suffix=".ipynb", limit=4)
    assert (len(found), more) == (4, True)
    assert list_directory(tmp_path, display_path=".", suffix=".ipynb", limit=5, deadline=time.monotonic()) == ([], True)


def test_a_directory_is_listed_by_name_with_what_each_entry_is(tmp_path: Path) -> None:
    (tmp_path / "b.IPYNB").write_bytes(b"12")
    (tmp_path / "a.ipynb").symlink_to("b.IPYNB")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "c.ipynb")
    (tmp_path / "text.txt").write_bytes(b"")

    found, more = list_directory(tmp_path, display_path=".", suffix=".ipynb", limit=5)

    assert [(entry.name, entry.kind, entry.size) for entry in found] == [
        ("a.ipynb", "link", 0),
        ("b.IPYNB", "file", 2),
        ("c.ipynb", "other", 0),
        ("d", "directory", 0),
    ]
    assert not more
    found, more = list_directory(tmp_path, display_path=".", suffix=".ipynb", limit=4)
    assert more
    assert len(found) <= 4


def test_a_private_file_is_whole_new_and_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    create_private_file(path, b"secret")

    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_private_file(path, b"other")
    assert path.read_bytes() == b"secret"

    append_to_private_file(path, b" and more")
    assert path.read_bytes() == b"secret and more"
    with pytest.raises(FileNotFoundError):
        append_to_private_file(tmp_path / "none", b"x")


def test_the_revision_of_a_large_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    data = b"x" * 16 * MEGABYTE
    path.write_bytes(data)

    content = read_file(path, max_bytes=len(data), display_path="n.ipynb")
    assert content.revision == revision_of(data)
