"""A save keeps the rights and the attributes of a file, and never grants more than the old version did."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.errors import ConflictError
from papermill_mcp.utils import file_utils
from papermill_mcp.utils.file_utils import read_file, write_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs attributes of Linux")

ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
ANY = 0xFFFFFFFF

OWNER, USER, GROUP, MASK, OTHER = 1, 2, 4, 16, 32


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as Linux keeps it: tag, permissions and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


#: The user 1234 may write; the group may not even read.
OF_A_USER = acl((OWNER, 6, ANY), (USER, 6, 1234), (GROUP, 0, ANY), (MASK, 6, ANY), (OTHER, 0, ANY))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def save(path: Path) -> None:
    content = read_file(path, max_bytes=1000, display_path=path.name)
    write_file(path, content.data + b"x", expected=content, display_path=path.name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with an extended attribute; the test is skipped where there are none."""
    path = tmp_path / "n.ipynb"
    path.write_bytes(b"old")
    try:
        os.setxattr(path, "user.note", b"mine")
        os.setxattr(path, ACL, OF_A_USER)
    except OSError as error:
        pytest.skip(f"no extended attributes or ACL here: {error}")
    os.removexattr(path, ACL)
    path.chmod(0o640)
    return path


@pytest.mark.case("W07")
def test_extended_attributes_and_the_acl_stay(file: Path) -> None:
    os.setxattr(file, ACL, OF_A_USER)
    before = mode(file)
    save(file)

    assert os.getxattr(file, "user.note") == b"mine"
    assert os.getxattr(file, ACL) == OF_A_USER
    assert mode(file) == before


@pytest.mark.case("W07")
def test_a_default_acl_of_the_directory_grants_nothing_to_a_file_that_had_none(file: Path) -> None:
    """A new file inherits it; a mode that is set afterwards would put it in force."""
    os.setxattr(file.parent, DEFAULT_ACL, OF_A_USER)
    save(file)

    assert ACL not in os.listxattr(file)
    assert mode(file) == 0o640


@pytest.mark.case("W07")
def test_an_acl_that_cannot_be_kept_does_not_leave_its_mask_as_rights_of_the_group(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.setxattr(file, ACL, OF_A_USER)
    real = os.setxattr

    def refused(target: Any, name: str, value: bytes) -> None:
        if name == ACL:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(target, name, value)

    monkeypatch.setattr(os, "setxattr", refused)
    save(file)

    assert mode(file) == 0o600


@pytest.mark.case("W07")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_no_mode_grants_more_when_the_owner_and_group_cannot_be_kept(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each class of users: its bits in the new file are some of those it had in the old one."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refused)
    for group, other in itertools.product(range(8), range(8)):
        file.write_bytes(b"old")
        os.chown(file, 1234, 4321)
        file.chmod(0o6600 | group << 3 | other)
        save(file)

        new = mode(file)
        members_of_old, members_of_new = new & 0o7, new >> 3 & 0o7
        assert members_of_old & ~(group & other) == 0
        assert members_of_new & ~(group & other) == 0
        assert new & 0o6000 == 0
        assert new & 0o600 == 0o600


@pytest.mark.case("W07")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_group_is_kept_when_only_the_owner_cannot_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member of the group edits the file of another user."""
    real = os.fchown

    def only_the_group(descriptor: int, user: int, group: int) -> None:
        if user != -1:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(descriptor, user, group)

    os.chown(file, 1234, 4321)
    file.chmod(0o660)
    monkeypatch.setattr(os, "fchown", only_the_group)
    save(file)

    assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (0, 4321, 0o660)


@pytest.mark.case("W07")
def test_rights_that_are_taken_away_during_a_save_are_not_given_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = file_utils._flushed

    def meanwhile(*arguments: Any) -> Any:
        file.chmod(0o600)
        return real(*arguments)

    monkeypatch.setattr(file_utils, "_flushed", meanwhile)
    with pytest.raises(ConflictError):
        save(file)

    assert (file.read_bytes(), mode(file)) == (b"old", 0o600)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_another_hard_link_keeps_the_old_version(file: Path) -> None:
    """A save replaces the file under the name that it was given. The guarantees say so."""
    other = file.with_name("other.ipynb")
    os.link(file, other)
    save(file)

    assert (file.read_bytes(), other.read_bytes()) == (b"oldx", b"old")
