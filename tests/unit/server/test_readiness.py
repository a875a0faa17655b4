"""The one decision whether a server can work, and the looks for missing roots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from papermill_mcp.config import Config, ConfigError, MissingRootError, real_root
from papermill_mcp.errors import NotConfiguredError
from papermill_mcp.server import readiness
from papermill_mcp.server.readiness import Readiness


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A file system that answers only once the event is set."""
    event = threading.Event()
    event.set()

    def wait(root: Path, *, i_know: bool) -> Path:
        assert event.wait(30)
        return real_root(root, i_know=i_know)

    monkeypatch.setattr(readiness, "real_root", wait)
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.01)
    yield event
    event.set()


def made(tmp_path: Path, *roots: str, **settings: bool) -> Readiness:
    return Readiness(Config(roots=[tmp_path / root for root in roots], **settings), tmp_path / "state")


async def test_a_file_system_that_does_not_answer_holds_up_no_request_for_long(
    tmp_path: Path, answering: threading.Event
) -> None:
    (tmp_path / "there").mkdir()
    some, none = made(tmp_path, "there", "late"), made(tmp_path, "late")
    answering.clear()
    with anyio.fail_after(20):
        for _ in range(50):  # more than there are threads
            await some.check()
            with pytest.raises(NotConfiguredError, match="late"):
                await none.check()
    answering.set()
    (tmp_path / "late").mkdir()
    with anyio.fail_after(20):
        while len(some.workspace.roots) < 2:
            await some.check()

    assert some.workspace.roots == (tmp_path / "there", tmp_path / "late")


async def test_a_root_that_comes_late_does_not_move_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    found = made(tmp_path, "first", "second")
    name = found.workspace.name
    (tmp_path / "first").mkdir()
    await found.check()

    assert found.workspace.roots == (tmp_path / "second", tmp_path / "first")
    assert found.workspace.name == name == made(tmp_path, "first", "second").workspace.name
    assert found.notice is None


async def test_with_i_know_a_missing_root_may_become_a_link(tmp_path: Path) -> None:
    for i_know in (False, True):
        found = made(tmp_path, f"late-{i_know}", i_know=i_know)
        (tmp_path / f"late-{i_know}").symlink_to("/")
        if i_know:
            await found.check()
            assert found.workspace.roots == (Path("/"),)
        else:
            with pytest.raises(NotConfiguredError, match="--i-know"):
                await found.check()
            assert found.workspace.roots == ()


async def test_a_fault_of_the_settings_does_not_pass(tmp_path: Path) -> None:
    """A directory that appears mends a missing root only."""
    config = Config(roots=[tmp_path / "late"])
    broken = Readiness(config, tmp_path / "state", ConfigError("broken"))
    missing = Readiness(config, tmp_path / "state", MissingRootError("missing"))
    (tmp_path / "late").mkdir()
    await missing.check()
    for _ in range(2):
        with pytest.raises(NotConfiguredError, match="broken"):
            await broken.check()

    assert broken.workspace.roots == ()
    assert not broken.workspace.usable.is_set()


async def test_the_whole_file_system_needs_to_be_meant_without_settings_from_outside(tmp_path: Path) -> None:
    found = Readiness(Config(roots=[tmp_path, Path("/")]), tmp_path / "state")

    assert found.workspace.roots == ()
    with pytest.raises(NotConfiguredError, match="--i-know"):
        await found.check()
