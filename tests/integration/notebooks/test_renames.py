"""Where notebooks are put: directories that are made for them, renames and copies."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, ConnectStdio
from helpers import call, facts_of, read_json, refused, stdout_in, stdout_of, text_of, waiting_code, write_notebook
from mcp import Client


async def place(client: Client, path: str, op: str, to: Any, **arguments: Any) -> Mapping[str, Any]:
    """Rename or copy a notebook."""
    return await call(client, "edit_notebook", path=path, operations=[{"op": op, "to": to}], **arguments)


async def kept(client: Client, path: str, op: str, to: Any, **arguments: Any) -> str:
    """The refusal of a rename or a copy."""
    return await refused(client, "edit_notebook", path=path, operations=[{"op": op, "to": to}], **arguments)


def notebooks(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.ipynb"))


@pytest.mark.kernel
async def test_missing_directories_are_made_for_every_file_that_is_written(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    write_notebook(workspace / "n.ipynb", ["1"])
    async with stdio_client() as client:
        await call(client, "create_notebook", path="a/b/new.ipynb")
        await call(client, "write_notebook", path="c/d/new.ipynb", content={"cells": []})
        await call(client, "execute_notebook_papermill", input_path="n.ipynb", output_path="e/f/out.ipynb")
        await call(client, "execute_notebook_batch", input_path="n.ipynb", output_directory="g/h")

    made = {path.parent.relative_to(workspace).as_posix() for path in workspace.rglob("*.ipynb")}
    assert made == {".", "a/b", "c/d", "e/f", "g/h"}


async def test_no_directory_is_made_outside_of_the_roots(stdio_client: ConnectStdio, workspace: Path) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    (workspace / "link").symlink_to(outside)
    (workspace / "gone").symlink_to("nowhere")
    write_notebook(workspace / "n.ipynb", ["1"])
    before = sorted(workspace.rglob("*"))
    async with stdio_client() as client:
        for directory in ("../outside/new", "link/new", str(outside / "new"), "gone", ".hidden/new", "n.ipynb/new"):
            path = f"{directory}/x.ipynb"
            for tool, arguments in (
                ("create_notebook", {"path": path}),
                ("execute_notebook_papermill", {"input_path": "n.ipynb", "output_path": path}),
                ("execute_notebook_batch", {"input_path": "n.ipynb", "output_directory": directory}),
            ):
                if (tool, directory) != ("execute_notebook_batch", "gone"):
                    message = await refused(client, tool, **arguments)
                    assert message.startswith(("PATH_NOT_ALLOWED: ", "NOT_FOUND: ")), message

    assert sorted(workspace.rglob("*")) == before
    assert not [*outside.iterdir()]


async def test_a_notebook_is_renamed_and_copied(stdio_client: ConnectStdio, workspace: Path) -> None:
    data = write_notebook(workspace / "a.ipynb", ["1"]).read_bytes()
    async with stdio_client() as client:
        before = await call(client, "get_notebook_info", path="a.ipynb")
        copied = await place(client, "a.ipynb", "copy", "new/copy.ipynb", if_revision=before["revision"])
        step = {"op": "rename", "to": "other/place/b.ipynb"}
        result = await client.call_tool(
            "edit_notebook", {"path": "a.ipynb", "operations": [step], "if_revision": before["revision"]}
        )
        gone = await refused(client, "read_notebook", path="a.ipynb")
        found = await call(client, "search_notebooks", query="1")

    renamed = facts_of(result)
    assert (copied["path"], renamed["path"]) == ("new/copy.ipynb", "other/place/b.ipynb")
    assert copied["revision"] == renamed["revision"] == before["revision"]
    assert "renamed from a.ipynb" in text_of(result)
    assert gone.startswith("NOT_FOUND: ")
    assert notebooks(workspace) == ["new/copy.ipynb", "other/place/b.ipynb"]
    assert {(workspace / path).read_bytes() for path in notebooks(workspace)} == {data}
    assert found["searched"] == 2


async def test_a_rename_or_copy_that_is_not_clear_or_not_allowed_is_refused(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    (workspace / "out").symlink_to(outside)
    write_notebook(workspace / "a.ipynb", ["1"])
    write_notebook(workspace / "b.ipynb", ["2"])
    (workspace / "link.ipynb").symlink_to("a.ipynb")
    (workspace / "gone.ipynb").symlink_to("c.ipynb")
    before = {path: path.read_bytes() for path in workspace.glob("[ab].ipynb")}
    wrong = [
        ("b.ipynb", "ALREADY_EXISTS"),
        ("link.ipynb", "INVALID_ARGUMENT"),
        ("gone.ipynb", "ALREADY_EXISTS"),
        ("a.ipynb", "INVALID_ARGUMENT"),
        ("./x/../a.ipynb", "INVALID_ARGUMENT"),
        ("a.txt", "PATH_NOT_ALLOWED"),
        ("new/", "PATH_NOT_ALLOWED"),
        ("../outside/x.ipynb", "PATH_NOT_ALLOWED"),
        ("out/x.ipynb", "PATH_NOT_ALLOWED"),
        (".hidden/x.ipynb", "PATH_NOT_ALLOWED"),
        ("b.ipynb/x.ipynb", "NOT_FOUND"),
        (3, "INVALID_ARGUMENT"),
    ]
    async with stdio_client() as client:
        for op in ("rename", "copy"):
            for to, code in wrong:
                message = await kept(client, "a.ipynb", op, to)
                assert message.startswith(f"{code}: "), (op, to, message)
            assert (await kept(client, "none.ipynb", op, "c.ipynb")).startswith("NOT_FOUND: ")
            assert (await kept(client, "a.ipynb", op, "c.ipynb", if_revision="0" * 16)).startswith("CONFLICT: ")
            steps = [{"op": "add_ids"}, {"op": op, "to": "c.ipynb"}]
            message = await refused(client, "edit_notebook", path="a.ipynb", operations=steps)
            assert "operations[1]" in message
            assert "only operation" in message
            assert "needs the field 'to'" in await refused(
                client, "edit_notebook", path="a.ipynb", operations=[{"op": op}]
            )
        assert "symbolic link" in await kept(client, "link.ipynb", "rename", "c.ipynb")
        moved = await call(client, "edit_notebook", path="a.ipynb", operations=[{"op": "move", "index": 0, "to": "0"}])

    assert not moved["changed"], "text for an index is read as one"
    assert {path: path.read_bytes() for path in workspace.glob("[abc].ipynb")} == before
    assert not [*outside.iterdir()]


async def test_a_server_that_only_reads_renames_nothing(stdio_client: ConnectStdio, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with stdio_client("--read-only") as client:
        for op in ("rename", "copy"):
            result = await client.call_tool(
                "edit_notebook", {"path": "a.ipynb", "operations": [{"op": op, "to": "b.ipynb"}]}
            )
            assert result.is_error
    assert notebooks(workspace) == ["a.ipynb"]


async def test_renames_at_once_keep_every_notebook(client: Connect, workspace: Path) -> None:
    data = write_notebook(workspace / "a.ipynb", ["1"]).read_bytes()
    write_notebook(workspace / "b.ipynb", ["2"])
    async with client() as one, client() as other:
        moves = [("a.ipynb", f"to{number}.ipynb") for number in range(3)]
        moves += [("b.ipynb", "to0.ipynb"), ("a.ipynb", "b.ipynb"), ("b.ipynb", "a.ipynb")]
        async with asyncio.timeout(30):
            results = await asyncio.gather(
                *(
                    (one, other)[number % 2].call_tool(
                        "edit_notebook", {"path": path, "operations": [{"op": "rename", "to": to}]}
                    )
                    for number, (path, to) in enumerate(moves)
                )
            )

    assert any(not result.is_error for result in results)
    for result in results:
        assert not result.is_error or text_of(result).startswith(("NOT_FOUND: ", "ALREADY_EXISTS: "))
    assert len(notebooks(workspace)) == 2
    assert [(workspace / path).read_bytes() for path in notebooks(workspace)].count(data) == 1


async def test_a_notebook_goes_from_root_to_root_on_another_file_system(client: Connect, workspace: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == workspace.stat().st_dev:
        pytest.skip("there is no other file system")
    data = write_notebook(workspace / "a.ipynb", ["1"]).read_bytes()
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        other = Path(directory).resolve()
        async with client(roots=[workspace, other]) as connected:
            there = await place(connected, "a.ipynb", "rename", f"{other}/new/b.ipynb")
            copied = await place(connected, there["path"], "copy", "c.ipynb")
            back = await kept(connected, there["path"], "rename", "c.ipynb")

        assert back.startswith("ALREADY_EXISTS: ")
        assert there["revision"] == copied["revision"]
        assert notebooks(other) == ["new/b.ipynb"]
        assert notebooks(workspace) == ["c.ipynb"]
        assert (other / "new" / "b.ipynb").read_bytes() == (workspace / "c.ipynb").read_bytes() == data


@pytest.mark.kernel
async def test_the_kernel_of_a_notebook_follows_its_new_name(stdio_client: ConnectStdio, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["x = 41", "print(x + 1)"])
    async with stdio_client() as client:
        first = await call(client, "execute_notebook_cell", path="a.ipynb", index=0)
        renamed = await place(client, "a.ipynb", "rename", "sub/b.ipynb")
        second = await call(client, "execute_notebook_cell", path="sub/b.ipynb", index=1)
        kernel = await call(client, "get_kernel_status", path="sub/b.ipynb")
        copied = await place(client, "sub/b.ipynb", "copy", "c.ipynb")
        of_copy = await refused(client, "get_kernel_status", path="c.ipynb")

    assert stdout_of(second) == "42\n"
    assert first["kernel_id"] == second["kernel_id"] == kernel["kernel_id"]
    (note,) = renamed["notes"]
    assert first["kernel_id"] in note
    assert "working directory is still ." in note
    assert "notes" not in copied
    assert of_copy.startswith("KERNEL_NOT_FOUND: ")


@pytest.mark.kernel
async def test_a_notebook_that_runs_is_not_renamed_and_may_be_copied(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [waiting_code(workspace), "2"])
    write_notebook(workspace / "b.ipynb", ["1"])
    async with client() as one, client() as other:
        run = await call(one, "execute_notebook", path="a.ipynb", wait=0)
        for connected in (one, other):
            message = await kept(connected, "a.ipynb", "rename", "c.ipynb")
            assert message.startswith("BUSY: ")
            assert run["execution_id"] in message
        copied = await place(one, "a.ipynb", "copy", "d.ipynb")
        (workspace / "go").touch()
        ended = await call(one, "get_execution", execution_id=run["execution_id"], wait=30)
        renamed = await place(other, "a.ipynb", "rename", "c.ipynb")

    assert ended["status"] == "ok"
    assert copied["changed"]
    assert renamed["path"] == "c.ipynb"
    assert read_json(workspace / "c.ipynb")["cells"][1]["execution_count"] == 2


async def test_an_undone_edit_is_told_after_a_rename(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["1"])
    before = path.read_bytes()
    async with client() as connected:
        await call(connected, "update_cell", path="a.ipynb", index=0, source="2")
        await place(connected, "a.ipynb", "rename", "b.ipynb")
        (workspace / "b.ipynb").write_bytes(before)
        view = await call(connected, "read_notebook", path="b.ipynb")

    assert "cell c0 has its earlier source" in view["note"]


@pytest.mark.kernel
async def test_output_after_the_end_of_a_run_is_saved_under_the_new_name(client: Connect, workspace: Path) -> None:
    code = (
        "import pathlib, threading, time\ndef late():\n    while not pathlib.Path('go').exists():\n"
        "        time.sleep(0.01)\n    print('late', flush=True)\nthreading.Thread(target=late).start()"
    )
    write_notebook(workspace / "a.ipynb", [code, "2"])
    async with client() as connected:
        begun = await call(connected, "execute_notebook_cell", path="a.ipynb", index=0)
        await place(connected, "a.ipynb", "rename", "b.ipynb")
        (workspace / "go").touch()
        async with asyncio.timeout(20):
            while "notes" not in await call(connected, "get_execution", execution_id=begun["execution_id"]):
                await asyncio.sleep(0.02)
        await call(connected, "update_cell", path="b.ipynb", index=1, source="3")

    assert stdout_in(read_json(workspace / "b.ipynb")["cells"][0]) == "late\n"
    assert notebooks(workspace) == ["b.ipynb"]


async def test_a_large_notebook_is_left_where_it_is(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["x" * 5000])
    async with client(max_notebook_bytes=4000) as connected:
        for op in ("rename", "copy"):
            assert (await kept(connected, "a.ipynb", op, "b.ipynb")).startswith("TOO_LARGE: ")
    assert notebooks(workspace) == ["a.ipynb"]
