"""Cells that no longer show what a run from the top would show: the marks in replies, and the run of just these."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Connect
from helpers import Json, call, cell, read_json, refused, stdout_in, write_notebook
from mcp import Client

pytestmark = pytest.mark.kernel

_SOURCES = ["x = 1", "y = x + 1", "print(y)", "print('free')"]


def _notebook(workspace: Path) -> Path:
    return write_notebook(workspace / "a.ipynb", [cell(one, cell_id=f"c{at}") for at, one in enumerate(_SOURCES)])


async def _marks(client: Client, path: str = "a.ipynb") -> dict[int, str]:
    rows: list[Json] = (await call(client, "read_notebook", path=path, outline=True))["outline"]
    return {row["index"]: row["stale"] for row in rows if row.get("stale")}


async def _ran(client: Client, **arguments: object) -> list[int]:
    facts = await call(client, "execute_notebook", path="a.ipynb", **arguments)
    assert facts["status"] == "ok"
    return [row["index"] for row in facts.get("results") or []]


async def test_an_edit_says_which_cells_are_stale_and_these_alone_are_run(client: Connect, workspace: Path) -> None:
    path = _notebook(workspace)
    async with client() as connected:
        await _ran(connected)
        assert await _marks(connected) == {}

        edited = await call(connected, "update_cell", path="a.ipynb", cell_id="c0", source="x = 5")

        assert "stale now: cells 1, 2" in edited["notes"][0]
        assert await _marks(connected) == {
            0: "edited since it ran",
            1: "stale: x changed in cell 0",
            2: "stale: y changed in cell 1",
        }
        info = await call(connected, "get_notebook_info", path="a.ipynb")
        assert "cell 2 [c2]: stale: y changed in cell 1" in info["problems"]
        assert (await call(connected, "read_notebook", path="a.ipynb", cells="3"))["cells"][0].get("stale") is None

        assert await _ran(connected, cells="stale") == [0, 1, 2]
        assert stdout_in(read_json(path)["cells"][2]) == "6\n"
        nothing = await call(connected, "execute_notebook", path="a.ipynb", cells="stale")
        assert (nothing["status"], nothing["notes"]) == ("ok", ["nothing is stale"])


async def test_values_that_other_code_has_overwritten_are_made_again(client: Connect, workspace: Path) -> None:
    path = _notebook(workspace)
    async with client() as connected:
        await _ran(connected)
        await call(connected, "execute_cell", path="a.ipynb", code="y = 77")
        await _ran(connected, cells="2")
        assert stdout_in(read_json(path)["cells"][2]) == "77\n"

        assert await _marks(connected) == {2: "stale: y had another value when it ran"}
        assert await _ran(connected, cells="stale") == [1, 2]
        assert stdout_in(read_json(path)["cells"][2]) == "2\n"


async def test_marks_that_stale_cells_cannot_settle_name_the_way_that_does(client: Connect, workspace: Path) -> None:
    sources = ["import sys", "sys.x = 1", "y = 2\nprint(y)"]
    write_notebook(workspace / "a.ipynb", [cell(one, cell_id=f"c{at}") for at, one in enumerate(sources)])
    async with client() as connected:
        await _ran(connected)
        await _ran(connected, cells="1")
        marks = await _marks(connected)
        again = await call(connected, "execute_notebook", path="a.ipynb", cells="stale")
        fresh = await call(connected, "execute_notebook", path="a.ipynb", fresh=True)

        assert marks
        assert all("<" not in mark for mark in marks.values())
        assert any("fresh=true" in note for note in again["notes"])
        assert not any("may still differ" in note for note in fresh.get("notes") or [])
        assert await _marks(connected) == {}


async def test_the_memory_outlives_the_server_and_follows_the_notebook(client: Connect, workspace: Path) -> None:
    _notebook(workspace)
    async with client() as connected:
        await _ran(connected)
        await call(connected, "update_cell", path="a.ipynb", cell_id="c1", source="y = x + 2")
        marks = await _marks(connected)
    async with client() as connected:
        assert await _marks(connected) == marks == {1: "edited since it ran", 2: "stale: y changed in cell 1"}
        await call(connected, "edit_notebook", path="a.ipynb", operations=[{"op": "rename", "to": "b.ipynb"}])
        assert await _marks(connected, "b.ipynb") == marks
        await call(connected, "edit_notebook", path="b.ipynb", operations=[{"op": "rename", "to": "a.ipynb"}])
        assert await _ran(connected, cells="stale") == [0, 1, 2, 3], "none of them has run in the new kernel"
        assert await _marks(connected) == {}


async def test_of_cells_that_another_program_has_run_only_that_is_said(client: Connect, workspace: Path) -> None:
    path = _notebook(workspace)
    async with client() as connected:
        assert await _marks(connected) == {}, "no run is known"
        await _ran(connected)
        path.write_text(path.read_text().replace('"execution_count": 3', '"execution_count": 30'))

        await call(connected, "update_cell", path="a.ipynb", cell_id="c0", source="x = 5")

        assert (await _marks(connected))[2] == "its outputs are not those of its last run here"


async def test_outputs_of_another_run_are_named_as_such(client: Connect, workspace: Path) -> None:
    """A restored version has outputs of an older run. Only that they are not those of the last one is known."""
    _notebook(workspace)
    async with client() as connected:
        await _ran(connected)
        await call(connected, "execute_notebook_cell", path="a.ipynb", index=2)
        assert await _marks(connected) == {}

        await call(connected, "restore_notebook", path="a.ipynb")

        assert await _marks(connected) == {2: "its outputs are not those of its last run here"}
        assert await _ran(connected, cells="stale") == [2]
        assert await _marks(connected) == {}


async def test_stale_beside_other_cells_is_refused_by_name(client: Connect, workspace: Path) -> None:
    _notebook(workspace)
    async with client() as connected:
        message = await refused(connected, "execute_notebook", path="a.ipynb", cells="stale, 0")
        write_notebook(workspace / "a.ipynb", [cell("1", cell_id="stale"), cell("2", cell_id="b")])
        assert await _ran(connected, cells="stale,1") == [0, 1]

    assert message.startswith("INVALID_ARGUMENT: the selection 'stale, 0' has stale beside other cells.")
