"""A digest is made once for a version of a file, and never kept where the same look may mean other bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from papermill_mcp.utils import digests, file_utils
from papermill_mcp.utils.digests import Digest, Digests, is_local, revision_of
from papermill_mcp.utils.file_utils import FileContent, read_file

LARGE = digests.AT_ONCE


class Made:
    """Counts the digests that are made."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, data: bytes) -> str:
        self.number += 1
        return revision_of(data)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    counted = Made()
    monkeypatch.setattr(digests, "revision_of", counted)
    monkeypatch.setattr(file_utils, "SETTLED_NS", 0)
    monkeypatch.setattr(digests, "is_local", lambda device: True)
    return counted


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "large.ipynb"
    file.write_bytes(b"a" * LARGE)
    yield file


def read(path: Path, known: Digests) -> FileContent:
    content = read_file(path, max_bytes=10 * LARGE, display_path=path.name, digests=known)
    assert content.revision == revision_of(content.data)
    return content


def test_a_version_is_digested_once(path: Path, made: Made) -> None:
    known = Digests()
    first = read(path, known)

    assert read(path, known).revision == first.revision
    assert made.number == 1


def test_another_version_is_digested_again_however_like_it_looks(path: Path, made: Made) -> None:
    """Size and modification time may be the same. The time of change, or the inode, then differs."""
    known = Digests()
    status = path.stat()
    read(path, known)
    path.write_bytes(b"b" * LARGE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read(path, known)
    other = path.with_name("other")
    other.write_bytes(b"c" * LARGE)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    read(path, known)

    assert made.number == 3


def test_the_digest_of_a_young_file_is_not_kept(path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_utils, "SETTLED_NS", 10**15)
    known = Digests()
    read(path, known)
    read(path, known)

    assert made.number == 2


def test_on_other_file_systems_no_digest_is_kept(path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "is_local", lambda device: False)
    known = Digests()
    read(path, known)
    read(path, known)

    assert made.number == 2


@pytest.mark.parametrize(
    ("kind", "local"),
    [
        ("ext4", True),
        ("xfs", True),
        ("tmpfs", True),
        ("nfs4", False),
        ("cifs", False),
        ("fuse.sshfs", False),
        ("9p", False),
    ],
)
def test_the_table_of_mounts_says_which_file_systems_are_local(
    kind: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = os.makedev(259, 7)
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n"
        f"36 35 259:7 / /a\\040b rw,noatime master:1 shared:2 - {kind} /dev/root rw,errors=continue\n"
        "37 35 259:71 / /c rw - nfs x rw\n"
    )
    monkeypatch.setattr(digests, "_MOUNTS", table)

    assert is_local(device) is local
    assert not is_local(os.makedev(8, 1))


def test_without_a_table_of_mounts_nothing_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MOUNTS", tmp_path / "absent")

    assert not is_local(tmp_path.stat().st_dev)


def test_only_the_last_files_are_remembered_and_none_of_their_bytes(tmp_path: Path, made: Made) -> None:
    known = Digests()
    paths = [tmp_path / f"{number}" for number in range(digests._KEPT + 1)]
    for number, path in enumerate(paths):
        data = bytes([number % 250]) * LARGE
        known.of(path, data, number, 0).value()

    kept = known._versions._of
    assert all(digest._data is None for _, digest in kept.values())
    assert set(kept) == set(paths[1:])


@pytest.mark.parametrize("begin", [True, False])
def test_many_threads_get_the_same_digest(begin: bool) -> None:
    data = b"x" * 5 * LARGE
    digest = Digest(data)
    if begin:
        digest.begin()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest.value())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == [revision_of(data)] * 8
