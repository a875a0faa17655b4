"""Files of other programs are saved whole or not at all, with a copy of the old version."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.commands.config_files import ConfigFileError, read_config


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_that_another_program_has_changed_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    file = read_config(path)
    path.write_text('{"by": "another program"}')

    with pytest.raises(ConfigFileError, match=r"a\.json was changed by another program"):
        file.save("[]")

    assert path.read_text() == '{"by": "another program"}'
    assert _names(tmp_path) == ["a.json"]


def test_a_file_that_has_come_into_being_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    file = read_config(path)
    path.parent.mkdir()
    path.write_text("{}")

    with pytest.raises(ConfigFileError, match="already exists"):
        file.save("[]")

    assert path.read_text() == "{}"


@pytest.mark.parametrize("call", ["replace", "fsync", "write"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    file = read_config(path)

    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ConfigFileError, match=r"a\.json"):
        file.save("[]")
    monkeypatch.undo()

    assert path.read_text() == "{}"
    assert _names(tmp_path) == ["a.json"]


def test_copies_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("0")
    copies = set()
    for number in range(1, 6):
        copy = read_config(path).save(str(number))
        assert copy is not None
        assert copy.read_text() == str(number - 1)
        copies.add(copy)
    assert len(copies) == 5


def test_a_copy_is_for_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"token": "x"}')
    path.chmod(0o644)
    copy = read_config(path).save("{}")
    assert copy is not None
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_link_to_a_file_that_is_not_there_makes_its_target(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.symlink_to(tmp_path / "dotfiles" / "b.json")

    assert read_config(path).save("{}") is None

    assert path.is_symlink()
    assert (tmp_path / "dotfiles" / "b.json").read_text() == "{}"


def test_a_link_to_a_directory_on_the_way_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    read_config(tmp_path / "link" / "a.json").save("{}")
    assert (tmp_path / "real" / "a.json").read_text() == "{}"


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigFileError, match="file"):
        read_config(tmp_path / "file" / "a.json").save("{}")
