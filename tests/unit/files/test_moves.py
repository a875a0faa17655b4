"""Files that get another name or are copied: nothing is replaced, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.errors import AlreadyExistsError, ConflictError, NotFoundError, PathNotAllowedError, ServerError
from papermill_mcp.utils import file_utils
from papermill_mcp.utils.file_utils import FileContent, copy_file, move_file, read_file

_DATA = b'{"cells": []}'

#: How a file can be moved here: in one step, by links, or by a copy where there are none.
_WAYS = ("step", "link", "copy")


@pytest.fixture(params=_WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take away the better ways."""
    way: str = request.param
    if way != "step":
        monkeypatch.setattr(file_utils, "_renamed_by_linux", lambda *_: False)
    if way == "copy":
        link = os.link

        def no_link(source: Any, *args: Any, **options: Any) -> None:
            moves = options.get("src_dir_fd") is not None and not str(source).endswith(".tmp")
            if moves:  # a save may still link its temporary file
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            link(source, *args, **options)

        monkeypatch.setattr(os, "link", no_link)
    return way


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.ipynb"
    path.write_bytes(_DATA)
    path.chmod(0o640)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        yield Path(directory)


def read(path: Path) -> FileContent:
    return read_file(path, max_bytes=1000, display_path=path.name)


def move(source: Path, target: Path, content: FileContent | None = None) -> FileContent:
    return move_file(source, target, content or read(source), display_path=source.name, target_path=target.name)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_gets_another_name_with_its_bytes_and_rights(way: str, source: Path) -> None:
    before = source.stat()
    moved = move(source, source.with_name("b.ipynb"))

    assert names(source.parent) == ["b.ipynb"]
    after = (source.parent / "b.ipynb").stat()
    assert moved == read(source.parent / "b.ipynb")
    assert after.st_mode == before.st_mode
    assert (after.st_ino == before.st_ino) == (way != "copy")


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory", "hard link"])
def test_a_name_that_is_taken_is_never_replaced(way: str, source: Path, kind: str) -> None:
    target = source.with_name("b.ipynb")
    match kind:
        case "file":
            target.write_text("theirs")
        case "link":
            target.symlink_to(source)
        case "dangling":
            target.symlink_to("nothing")
        case "directory":
            target.mkdir()
        case "hard link":
            target.hardlink_to(source)
    before = target.lstat()
    with pytest.raises((AlreadyExistsError, PathNotAllowedError)):
        move(source, target)
    with pytest.raises((AlreadyExistsError, PathNotAllowedError)):
        copy_file(source, target, read(source), display_path="b.ipynb")

    assert names(source.parent) == ["a.ipynb", "b.ipynb"]
    assert source.read_bytes() == _DATA
    assert (target.lstat().st_ino, target.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert kind != "file" or target.read_text() == "theirs"


def test_a_name_that_differs_by_case_is_another_one(way: str, source: Path) -> None:
    move(source, source.with_name("A.ipynb"))
    assert names(source.parent) == ["A.ipynb"]


def test_names_that_differ_by_case_may_be_two_links(way: str, source: Path) -> None:
    source.with_name("A.ipynb").hardlink_to(source)
    with pytest.raises(AlreadyExistsError):
        move(source, source.with_name("A.ipynb"))
    assert names(source.parent) == ["A.ipynb", "a.ipynb"]


def test_case_is_changed_where_the_file_system_takes_both_for_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file system says that the new name is taken, by the same file, and lists the old name alone."""
    target = source.with_name("A.ipynb")

    def taken(*_: object) -> bool:
        target.hardlink_to(source)
        monkeypatch.setattr(file_utils, "_names", lambda _: ["a.ipynb"])
        raise FileExistsError

    renamed: list[Any] = []
    monkeypatch.setattr(file_utils, "_renamed_by_linux", taken)
    monkeypatch.setattr(os, "rename", lambda *args, **_: renamed.append(args))
    move(source, target)
    assert renamed == [("a.ipynb", "A.ipynb")]


def test_another_version_is_not_moved(way: str, source: Path) -> None:
    content = read(source)
    source.write_bytes(b"theirs")
    with pytest.raises(ConflictError):
        move(source, source.with_name("b.ipynb"), content)
    assert names(source.parent) == ["a.ipynb"]


def test_a_change_during_the_copy_keeps_their_version_and_no_copy(
    source: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = file_utils.copy_file

    def slow(*args: Any, **options: Any) -> FileContent:
        made = copied(*args, **options)
        source.write_bytes(b"theirs")
        return made

    monkeypatch.setattr(file_utils, "copy_file", slow)
    with pytest.raises(ConflictError):
        move(source, elsewhere / "b.ipynb")
    assert source.read_bytes() == b"theirs"
    assert names(elsewhere) == []


def test_a_file_goes_to_another_file_system(source: Path, elsewhere: Path) -> None:
    moved = move(source, elsewhere / "b.ipynb")

    assert names(source.parent) == []
    assert names(elsewhere) == ["b.ipynb"]
    assert moved == read(elsewhere / "b.ipynb")
    assert (elsewhere / "b.ipynb").stat().st_mode & 0o777 == 0o640


def test_a_hard_linked_file_keeps_its_other_names(way: str, source: Path) -> None:
    source.with_name("other.ipynb").hardlink_to(source)
    move(source, source.with_name("b.ipynb"))

    assert names(source.parent) == ["b.ipynb", "other.ipynb"]
    assert {path.read_bytes() for path in source.parent.iterdir()} == {_DATA}


def test_of_many_moves_at_once_one_succeeds(way: str, source: Path) -> None:
    content = read(source)
    outcomes: list[str | None] = []
    begin = threading.Barrier(8)

    def attempt(number: int) -> None:
        begin.wait(10)
        try:
            move(source, source.with_name("b.ipynb" if number % 2 else f"b{number}.ipynb"), content)
        except ServerError as error:
            outcomes.append(error.code)
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(outcomes) == 8
    left = [path for path in source.parent.iterdir() if path.suffix == ".ipynb"]
    assert left
    assert all(path.read_bytes() == _DATA for path in left)
    if way == "step":
        assert outcomes.count(None) == 1
        assert len(left) == 1


_KILLED = """
import os, sys
from pathlib import Path
from papermill_mcp.utils import file_utils

source, target, way, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if way == "link":
    file_utils._renamed_by_linux = lambda *_: False
content = file_utils.read_file(source, max_bytes=1000, display_path="a")
calls = 0

def ending(function):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == step:
            os._exit(9)
        return function(*args, **options)
    return call

for name in ("open", "link", "unlink", "write", "fsync", "close", "replace", "rename", "fchmod"):
    setattr(os, name, ending(getattr(os, name)))
file_utils.move_file(source, target, content, display_path="a", target_path="b")
"""


@pytest.mark.parametrize("way", ["step", "link", "elsewhere"])
def test_a_kill_at_any_step_leaves_a_whole_file(way: str, source: Path, elsewhere: Path) -> None:
    directory = elsewhere if way == "elsewhere" else source.parent
    target = directory / "b.ipynb"
    for step in range(1, 200):
        for path in (source, target):
            path.unlink(missing_ok=True)
        source.write_bytes(_DATA)
        arguments = [str(source), str(target), way, str(step)]
        ended = subprocess.run([sys.executable, "-c", _KILLED, *arguments], timeout=30, check=False)
        whole = [path for path in (source, target) if path.exists()]
        assert whole, step
        assert all(path.read_bytes() == _DATA for path in whole), step
        if ended.returncode == 0:
            break
        assert ended.returncode == 9
    assert ended.returncode == 0
    assert step > 3
    assert whole == [target]


def test_a_copy_has_the_bytes_and_rights_and_is_a_file_of_its_own(source: Path) -> None:
    copied = copy_file(source, source.with_name("b.ipynb"), read(source), display_path="b.ipynb")

    assert names(source.parent) == ["a.ipynb", "b.ipynb"]
    target = source.parent / "b.ipynb"
    assert copied.revision == read(source).revision
    assert target.stat().st_mode == source.stat().st_mode
    assert target.stat().st_ino != source.stat().st_ino


def test_a_file_that_is_gone_is_not_moved(way: str, source: Path) -> None:
    content = read(source)
    source.unlink()
    with pytest.raises((ConflictError, NotFoundError)):
        move(source, source.with_name("b.ipynb"), content)
    assert names(source.parent) == []
