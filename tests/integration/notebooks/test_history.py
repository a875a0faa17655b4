"""The history of notebooks: every change can be had back, whoever made it, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from pathlib import Path

import pytest
from conftest import Connect, ConnectStdio, MakeConfig, RunCommand
from helpers import call, cell, read_json, refused, text_of, write_notebook

from papermill_mcp.core.history import store
from papermill_mcp.services.history_service import HistoryService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import Add, CellRef, NewCell, Update
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.digests import revision_of

pytestmark = pytest.mark.timeout(60)


def sources(path: Path) -> list[str]:
    return ["".join(one["source"]) for one in read_json(path)["cells"]]


async def kinds(client: object, path: str = "n.ipynb") -> list[tuple[int, str, str]]:
    found = await call(client, "notebook_history", path=path)  # type: ignore[arg-type]
    return [(row["version"], row["kind"], row["by"]) for row in found["versions"]]


@pytest.mark.case("H01")
@pytest.mark.kernel
async def test_edits_runs_and_changes_from_outside_are_had_back_over_stdio(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    """An edit, a change from outside, a run, and the way back through all of them."""
    path = write_notebook(workspace / "n.ipynb", [cell("x = 1", cell_id="one"), cell("x + 1", cell_id="two")])
    states = [path.read_bytes()]
    async with stdio_client() as client:
        await call(client, "update_cell", path="n.ipynb", cell_id="one", source="x = 2")
        states.append(path.read_bytes())
        path.write_bytes(path.read_bytes().replace(b"x + 1", b"x + 10"))
        states.append(path.read_bytes())
        assert (await call(client, "execute_notebook", path="n.ipynb", wait=30))["status"] == "ok"
        states.append(path.read_bytes())

        assert await kinds(client) == [
            (4, "run", "execute_notebook"),
            (3, "outside", "outside"),
            (2, "edit", "update_cell"),
            (1, "outside", "outside"),
        ]
        reply = await client.call_tool("notebook_history", {"path": "n.ipynb", "limit": 2})
        assert re.search(r"^- 4 · .* · run by execute_notebook · 2 cells run · [0-9a-f]{16}$", text_of(reply), re.M)
        assert "versions: 2 of 4" in text_of(reply)

        for steps, state in ((1, states[2]), (2, states[1])):  # the second call goes back past the first one
            restored = await call(client, "restore_notebook", path="n.ipynb", version=4 - steps)
            assert path.read_bytes() == state
            assert restored["version"] == 4 - steps
        await call(client, "restore_notebook", path="n.ipynb")
        assert path.read_bytes() == states[2], "a restore is undone like an edit"
        await call(client, "restore_notebook", path="n.ipynb", version=4, cells="two")
        assert read_json(path)["cells"][1]["outputs"][0]["data"]["text/plain"] == "12"
        assert read_json(path)["cells"][0]["execution_count"] is None

        await call(client, "remove_cell", path="n.ipynb", cell_id="one")
        await call(client, "restore_notebook", path="n.ipynb", cells="one")
        assert sources(path) == ["x = 2", "x + 10"]

        await call(client, "edit_notebook", path="n.ipynb", operations=[{"op": "rename", "to": "m.ipynb"}])
        await call(client, "restore_notebook", path="m.ipynb", version=1)
        assert (workspace / "m.ipynb").read_bytes() == states[0]
        shutil.move(workspace / "m.ipynb", workspace / "k.ipynb")
        await call(client, "restore_notebook", path="k.ipynb", version=4)
        (workspace / "k.ipynb").unlink()
        found = await call(client, "notebook_history", path="k.ipynb")
        assert found["revision"] == "" and "the file is gone" in found["note"]
        await call(client, "restore_notebook", path="k.ipynb")
        assert (workspace / "k.ipynb").read_bytes() == states[3]


async def test_a_step_back_names_the_version_before(client: Connect, workspace: Path) -> None:
    """A second step back undoes the first one, since that is the last change."""
    path = write_notebook(workspace / "n.ipynb", [cell("x = 1", cell_id="a")])
    async with client() as c:
        for number in (2, 3):
            await call(c, "update_cell", path="n.ipynb", cell_id="a", source=f"x = {number}")
        back = await call(c, "restore_notebook", path="n.ipynb")
        forth = await call(c, "restore_notebook", path="n.ipynb")
        assert sources(path) == ["x = 3"]
        further = await call(c, "restore_notebook", path="n.ipynb", version=1)
        assert sources(path) == ["x = 1"]

    assert back["notes"] == [
        "the next call without version undoes this step; version=1 goes further back, and notebook_history lists all"
    ]
    assert "version=2 goes further back" in forth["notes"][0]
    assert further.get("notes") is None


async def test_a_step_back_to_the_oldest_version_says_so(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["x = 1"])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="x = 2")
        back = await call(c, "restore_notebook", path="n.ipynb")

    assert back["notes"] == ["version 1 is the oldest kept; the next call without version undoes this step"]


@pytest.mark.case("H03")
async def test_an_edit_that_another_program_overwrites_is_had_back(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", ["old"])
    before = path.read_bytes()
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="ours")
        ours = path.read_bytes()
        path.write_bytes(before)
        await call(c, "restore_notebook", path="n.ipynb", version=2, if_revision=revision_of(before))

    assert path.read_bytes() == ours


@pytest.mark.case("H03")
async def test_a_change_from_outside_is_never_replaced_unseen(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", [cell("a", cell_id="a"), cell("bee", cell_id="b")])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", cell_id="a", source="ours")
        path.write_bytes(path.read_bytes().replace(b"bee", b"theirs"))
        theirs = path.read_bytes()
        assert b"theirs" in theirs

        message = await refused(c, "restore_notebook", path="n.ipynb")
        assert message.startswith("CONFLICT: another program has changed n.ipynb since version 2.")
        assert path.read_bytes() == theirs
        assert (await kinds(c))[0] == (3, "outside", "outside")


async def test_cells_are_restored_beside_a_change_from_outside(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", [cell("a", cell_id="a"), cell("bee", cell_id="b")])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", cell_id="a", source="ours")
        path.write_bytes(path.read_bytes().replace(b"bee", b"theirs"))

        assert (await refused(c, "restore_notebook", path="n.ipynb", version=1, cells="b")).startswith("CONFLICT: ")
        path.write_bytes(path.read_bytes().replace(b"theirs", b"again"))
        await call(c, "restore_notebook", path="n.ipynb", version=1, cells="a")
    assert sources(path) == ["a", "again"]


async def test_a_file_that_another_program_broke_is_restored(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", ["a"])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="ours")
        ours = path.read_bytes()
        for broken in (b"", ours[: len(ours) // 2], b"\xff\xfe"):
            path.write_bytes(broken)
            await call(c, "notebook_history", path="n.ipynb")
            await call(c, "restore_notebook", path="n.ipynb")
            assert path.read_bytes() == ours


async def test_errors_name_the_versions_and_the_steps(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["a"])
    async with client() as c:
        assert "no version is kept yet" not in (await call(c, "notebook_history", path="n.ipynb")).get("note", "")
        assert (await refused(c, "restore_notebook", path="n.ipynb", version=7)).startswith(
            "NOT_FOUND: n.ipynb has no version 7. Its versions: 1."
        )
        assert "Its history has 0 steps" in await refused(c, "restore_notebook", path="n.ipynb", steps=3)
        assert (await refused(c, "restore_notebook", path="n.ipynb", version=1, steps=1)).startswith("INVALID_ARG")
        assert "steps is 0. 1 or more" in await refused(c, "restore_notebook", path="n.ipynb", steps=0)
        assert "limit is 0. 1 or more" in await refused(c, "notebook_history", path="n.ipynb", limit=0)
        assert (await refused(c, "restore_notebook", path="n.ipynb", version=1, cells="no")).startswith("CELL_NOT")
        assert (await refused(c, "restore_notebook", path="n.ipynb", if_revision="0" * 16)).startswith("CONFLICT: ")
        assert (await refused(c, "notebook_history", path="../n.ipynb")).startswith("PATH_NOT_ALLOWED: ")
        assert (await refused(c, "notebook_history", path="gone.ipynb")).startswith("NOT_FOUND: ")


async def test_deleted_notebooks_are_named_where_a_path_is_not_found(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    """Those of other workspaces are not."""
    (tmp_path / "other").mkdir()
    for directory in (workspace, tmp_path / "other"):
        async with client(roots=[directory]) as c:
            for name in ("a.ipynb", "b.ipynb"):
                await call(c, "create_notebook", path=name)
            (directory / "a.ipynb").unlink()
    async with client() as c:
        message = await refused(c, "notebook_history", path="c.ipynb")
    assert message.startswith(
        "NOT_FOUND: c.ipynb does not exist, and has no version. Versions without a file: a.ipynb."
    )


async def test_an_edit_during_a_run_keeps_the_state_of_the_run(
    config: MakeConfig, workspace: Path, state_directory: Path
) -> None:
    """It is no change from outside."""
    path = write_notebook(workspace / "n.ipynb", ["a", "b"])
    notebooks = NotebookService(config(), Workspace([workspace]), state_directory)
    histories = HistoryService(config(), Workspace([workspace]), notebooks)
    file = notebooks.run_file(await notebooks.open("n.ipynb"), "run1")
    file.expect([0, 1])
    output = {"output_type": "stream", "name": "stdout", "text": "half\n"}
    file.record(0, {"outputs": [output], "execution_count": 1}, final=True)
    await file.save(durable=False)
    half = path.read_bytes()
    await notebooks.update_cell("n.ipynb", Update(CellRef(index=1), source="c"))
    assert await file.close() == []
    found = await histories.versions("n.ipynb", limit=10)

    assert [(row.kind, row.summary) for row in found.versions][::-1][:3] == [
        ("outside", "as it was found"),
        ("run", "1 cell run"),
        ("edit", "1 cell changed"),
    ]
    assert (await histories.version("n.ipynb", 2))[1] == half
    await notebooks.aclose()


async def test_a_cell_that_another_program_only_writes_otherwise_is_not_counted(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", [cell("a = 1\nb = 2", cell_id="one"), cell("c", cell_id="two")])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=1, source="d")
        notebook = read_json(path)
        for one in notebook["cells"]:
            one["source"] = "".join(one["source"]).splitlines(True)
        notebook["cells"].append(cell("e", cell_id="three"))
        path.write_text(json.dumps(notebook, indent=3))
        rows = (await call(c, "notebook_history", path="n.ipynb"))["versions"]
    assert rows[0]["summary"] == "1 cell added"


async def test_without_versions_in_the_settings_nothing_is_kept(
    client: Connect, workspace: Path, state_directory: Path
) -> None:
    write_notebook(workspace / "n.ipynb", ["a"])
    async with client(history_versions=0) as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="b")
        assert "history_versions is 0" in await refused(c, "notebook_history", path="n.ipynb")
    assert not list(state_directory.glob("history*"))


async def test_a_server_that_only_reads_shows_the_history(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["a"])
    async with client(read_only=True) as c:
        assert "restore_notebook" not in {tool.name for tool in (await c.list_tools()).tools}
        assert await kinds(c) == [(1, "outside", "outside")]


@pytest.mark.case("H02")
@pytest.mark.parametrize("fault", ["full", "foreign"])
async def test_a_write_goes_on_where_no_version_can_be_kept(
    client: Connect, workspace: Path, state_directory: Path, fault: str
) -> None:
    """The reply says so in a line."""
    path = write_notebook(workspace / "n.ipynb", ["a"])
    async with client() as c:
        if fault == "foreign":
            state_directory.mkdir(exist_ok=True)
            (state_directory / "history.sqlite").mkdir()
        else:
            await call(c, "update_cell", path="n.ipynb", index=0, source="b")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "NOTEBOOK_BYTES", 10)
                edited = await call(c, "update_cell", path="n.ipynb", index=0, source="c")
        if fault == "foreign":
            edited = await call(c, "update_cell", path="n.ipynb", index=0, source="c")
        assert sources(path) == ["c"]
        assert [note for note in edited["notes"] if "is not in the history: it" in note]


@pytest.mark.kernel
async def test_an_output_is_no_version_but_the_notebook_that_it_replaces_is(
    client: Connect, workspace: Path, state_directory: Path
) -> None:
    """Runs with parameters can be made again. A batch of thousands would push the versions of notebooks out."""
    write_notebook(workspace / "n.ipynb", ["1 + 1"])
    states = []
    async with client() as c:
        for overwrite in (False, True):
            given = {"input_path": "n.ipynb", "output_path": "m.ipynb", "overwrite": overwrite, "wait": 30}
            assert (await call(c, "execute_notebook_papermill", **given))["status"] == "ok"
            assert (state_directory / "history.sqlite").exists() == overwrite
            states.append((workspace / "m.ipynb").read_bytes())
        found = await call(c, "notebook_history", path="m.ipynb")
        assert [row["kind"] for row in found["versions"]] == ["outside", "outside"]
        await call(c, "restore_notebook", path="m.ipynb")
    assert (workspace / "m.ipynb").read_bytes() == states[0]


@pytest.mark.case("H01")
@pytest.mark.parametrize("number_of_changes", [150, pytest.param(999, marks=pytest.mark.slow)])
async def test_random_changes_are_had_back_step_by_step(
    config: MakeConfig, workspace: Path, state_directory: Path, number_of_changes: int
) -> None:
    """Edits, saves of runs and changes from outside, through the services. Then each version, byte for byte."""
    chance = random.Random(7)
    made = config(history_versions=1000)  # the most, and one for the beginning
    space = Workspace([workspace])
    notebooks = NotebookService(made, space, state_directory)
    histories = HistoryService(made, space, notebooks)
    path = write_notebook(workspace / "n.ipynb", [cell(f"x = {number}", cell_id=f"c{number}") for number in range(12)])
    states = [path.read_bytes()]
    for step in range(number_of_changes):
        number = len(read_json(path)["cells"])
        place = chance.randrange(number)
        match chance.randrange(5):
            case 0:
                await notebooks.add_cell("n.ipynb", Add(NewCell("code", f"new {step}"), index=place))
            case 1 if number > 5:
                await notebooks.remove_cell("n.ipynb", CellRef(index=place))
            case 2:
                content = path.read_bytes().replace(b'"x = ', f'"y{step} = '.encode(), 1)
                path.write_bytes(content + b"\n")
                await histories.versions("n.ipynb", limit=1)  # or the next change from outside would be met with it
            case 3:
                notebook = await notebooks.open("n.ipynb")
                file = notebooks.run_file(notebook, f"run{step}")
                file.expect([place])
                output = {"output_type": "stream", "name": "stdout", "text": f"{step}\n"}
                file.record(place, {"outputs": [output], "execution_count": step}, final=True)
                await file.save(durable=False)
                assert not [note for note in await file.close() if "history" in note]
            case _:
                source = f"changed {step} " * chance.choice([1, 2000])
                await notebooks.update_cell("n.ipynb", Update(CellRef(index=place), source=source))
        if path.read_bytes() != states[-1]:
            states.append(path.read_bytes())
    found = await histories.versions("n.ipynb", limit=1000)

    revisions = [revision_of(state) for state in states]
    assert [row.revision for row in reversed(found.versions)] == revisions
    assert len(states) > 0.9 * number_of_changes
    for version, state in zip(reversed(found.versions), states, strict=True):
        assert (await histories.version("n.ipynb", version.version))[1] == state
    for step in range(1, 40):
        await histories.restore("n.ipynb", version=len(states) - step)
        assert path.read_bytes() == states[-1 - step]
    await notebooks.aclose()


@pytest.mark.usefixtures("home")
async def test_a_command_shows_and_clears_the_history(
    client: Connect, workspace: Path, state_directory: Path, run: RunCommand
) -> None:
    """Also while a server uses it. The server goes on with numbers that were never used."""
    write_notebook(workspace / "n.ipynb", ["a"])
    write_notebook(workspace / "m.ipynb", ["a"])
    state = f"--state-directory={state_directory}"
    async with client() as c:
        for name in ("n.ipynb", "m.ipynb"):
            await call(c, "update_cell", path=name, index=0, source="secret = 'hunter2'")
            await call(c, "update_cell", path=name, index=0, source="b")
        assert run("history", state)[1].startswith("6 versions of 2 notebooks, ")
        _, out, _ = await asyncio.to_thread(run, "doctor", "--json", "--no-execute", state)
        assert "6 versions of 2 notebooks" in out

        assert run("history", "clear", str(workspace / "n.ipynb"), state)[:2] == (0, "3 versions removed.\n")
        assert run("history", "clear", state)[:2] == (0, "3 versions removed.\n")
        for file in state_directory.glob("history*"):
            assert b"hunter2" not in file.read_bytes()
        assert await kinds(c) == [(4, "outside", "outside")]
    assert run("history", "wipe")[0] == 2
    assert "clear [PATH]" in run("history", "--help")[1]
