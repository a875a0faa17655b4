"""Edits with `run=true`: saved first, then run, and one reply says both."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Connect
from helpers import call, cell, images_of, read_json, refused, stdout_in, text_of, write_notebook

pytestmark = pytest.mark.kernel


async def test_a_cell_is_added_and_changed_and_run_in_one_call(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["x = 1"])
    async with client() as c:
        added = await call(c, "add_cell", path="a.ipynb", source="x = 2\nprint(x)", cell_type="code", run=True)
        changed = await call(c, "update_cell", path="a.ipynb", index=1, old_text="2", new_text="3", run=True)
        again = await call(c, "update_cell", path="a.ipynb", index=1, tags=["t"], run=True)
        reply = await c.call_tool("update_cell", {"path": "a.ipynb", "index": 1, "source": "print('new')", "run": True})

    for facts, text in ((added, "2"), (changed, "3"), (again, "3")):
        assert facts["execution"]["status"] == "ok"
        assert facts["execution"]["outputs"][0]["text"].strip() == text
        assert facts["cell"]["index"] == 1
        assert not {"diff", "outline"} & facts.keys()
    notebook = read_json(workspace / "a.ipynb")
    assert stdout_in(notebook["cells"][1]) == "new\n"
    assert notebook["cells"][1]["metadata"]["tags"] == ["t"]
    text = text_of(reply)
    assert "```diff" not in text
    assert "print('new')" not in text
    assert "status: ok" in text
    assert len(text) < 600


async def test_the_cells_of_an_edit_run_in_order_until_one_fails(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["print('not this')", "x = 1", cell("text", "markdown")])
    async with client() as c:
        edited = await call(
            c,
            "edit_notebook",
            path="a.ipynb",
            operations=[
                {"op": "add", "cell_type": "code", "source": "print(x)\n1 / 0"},
                {"op": "add", "cell_type": "code", "source": "print('never')"},
                {"op": "update", "index": 1, "source": "x = 5"},
                {"op": "update", "index": 2, "source": "more text"},
                {"op": "set_tags", "index": 0, "tags": ["kept"]},
            ],
            run=True,
        )
    run = edited["execution"]
    assert run["status"] == "error"
    assert [row["index"] for row in run["results"] if row["status"] != "not_run"] == [1, 3]
    assert run["failed_cell"]["index"] == 3
    notebook = read_json(workspace / "a.ipynb")
    assert stdout_in(notebook["cells"][3]) == "5\n"
    assert notebook["cells"][0]["outputs"] == notebook["cells"][4]["outputs"] == []
    assert edited["revision"] == run["revision"]


async def test_the_save_stands_where_the_run_cannot_begin(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["1"], kernel="no-such-kernel", language="other")
    async with client() as c:
        added = await call(c, "add_cell", path="a.ipynb", source="2", cell_type="code", run=True)
        wrong = await refused(c, "update_cell", path="a.ipynb", index=7, source="3", run=True)
        text = await call(c, "add_cell", path="a.ipynb", source="*text*", cell_type="markdown", run=True)
    assert added["execution"]["error"]["code"] == "KERNELSPEC_NOT_FOUND"
    assert "no-such-kernel" in added["execution"]["error"]["message"]
    assert wrong.startswith("CELL_NOT_FOUND")
    assert any("nothing was run" in note for note in text["notes"])
    assert [entry["source"] for entry in read_json(path)["cells"]] == ["1", "2", "*text*"]


async def test_the_plots_of_a_run_are_in_the_reply(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [])
    picture = (
        "from IPython.display import Image, display\nimport base64\n"
        "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
        "RU5ErkJggg==')))"
    )
    async with client() as c:
        reply = await c.call_tool("add_cell", {"path": "a.ipynb", "source": picture, "cell_type": "code", "run": True})
    assert len(images_of(reply)) == 1


async def test_a_server_that_runs_nothing_has_no_such_argument(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with client(no_execute=True) as c:
        tools = {tool.name: tool for tool in (await c.list_tools()).tools}
        added = await call(c, "add_cell", path="a.ipynb", source="2", cell_type="code")
        error = await refused(c, "add_cell", path="a.ipynb", source="2", cell_type="code", run=True)
    for name in ("add_cell", "update_cell", "edit_notebook"):
        assert "run" not in tools[name].input_schema["properties"]
        annotations = tools[name].annotations
        assert annotations is not None
        assert annotations.open_world_hint is False
    assert added["changed"]
    assert error.startswith("UNKNOWN_ARGUMENT")
