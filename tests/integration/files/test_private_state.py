"""The state directory is for its user alone, whichever tool comes first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StartRaw
from helpers import Json, write_notebook

from papermill_mcp.utils.private import make_private_directory, make_private_file


def modes(directory: Path) -> dict[str, int]:
    """The mode of the directory and of all below it, by name."""
    found = {".": stat.S_IMODE(directory.stat().st_mode)}
    return found | {
        path.relative_to(directory).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")
    }


@pytest.fixture
def open_mask() -> Iterator[None]:
    """Files would be readable by all, unless their maker says otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.kernel
@pytest.mark.usefixtures("open_mask")
@pytest.mark.parametrize("first", ["create_notebook", "execute_notebook", "start_kernel"])
async def test_no_other_user_can_read_the_state(
    first: str, raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    """Also the parents that the server made, and a directory of an earlier version that was open."""
    write_notebook(workspace / "a.ipynb", ["1"])
    arguments: dict[str, Json] = {
        "create_notebook": {"path": "new.ipynb"},
        "execute_notebook": {"path": "a.ipynb"},
        "start_kernel": {},
    }
    async with raw_server() as server:
        await server.call(first, **arguments[first])
        await server.call("execute_notebook", path="a.ipynb")
        await server.call("list_executions")
        found = modes(state_directory)

    assert found["."] == 0o700
    assert {name for name, mode in found.items() if mode & 0o077} == set()
    assert any(name.startswith("executions.sqlite") for name in found)


@pytest.mark.usefixtures("open_mask")
def test_a_directory_with_nothing_but_our_files_is_closed(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    make_private_directory(state)
    assert modes(tmp_path / "deep") == {".": 0o700, "state": 0o700}

    state.chmod(0o755)
    (state / "executions.sqlite").write_bytes(b"")
    make_private_directory(state)
    make_private_file(state / "executions.sqlite")

    assert modes(state) == {".": 0o700, "executions.sqlite": 0o600}


@pytest.mark.usefixtures("open_mask")
def test_a_directory_of_others_keeps_its_rights(tmp_path: Path) -> None:
    """A user may name any directory as the state directory, such as one that is shared."""
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")

    make_private_directory(tmp_path)
    make_private_file(tmp_path / "executions.sqlite")

    assert modes(tmp_path) == {".": 0o755, "notes.txt": 0o644, "executions.sqlite": 0o600}
