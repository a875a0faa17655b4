"""The notebook tools as a client sees them: texts, structured content, errors, and one round over stdio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, ConnectStdio
from helpers import call, cell, digest, facts_of, images_of, read_json, refused, text_of, write_notebook

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

MIMEBUNDLES = Path(__file__).parents[2] / "mimebundles"


@pytest.fixture
def path(workspace: Path) -> Path:
    shown = cell("show()", cell_id="show") | {
        "execution_count": 7,
        "outputs": [
            {"name": "stdout", "output_type": "stream", "text": ["printed\n"]},
            {"data": {"image/png": PIXEL, "text/plain": "<Figure>"}, "metadata": {}, "output_type": "display_data"},
        ],
    }
    return write_notebook(workspace / "n.ipynb", [cell("# Title\nWords", "markdown", cell_id="title"), shown, "last"])


async def test_a_notebook_is_read_changed_and_read_again(client: Connect, path: Path) -> None:
    async with client() as connected:
        view = await call(connected, "read_notebook", path="n.ipynb")
        changed = await call(
            connected,
            "update_cell",
            path="n.ipynb",
            cell_id="title",
            old_text="Words",
            new_text="More words",
            if_revision=view["revision"],
        )
        stale = await refused(connected, "remove_cell", path="n.ipynb", index=0, if_revision=view["revision"])
        again = await call(connected, "read_notebook", path="n.ipynb", cells="title")

    assert stale.startswith("CONFLICT: ")
    assert changed["revision"] == again["revision"]
    assert again["cells"][0]["source"] == "# Title\nMore words"
    assert changed["cell"]["id"] == "title"


_LONG = "\n".join(f"line_{number} = {number}" for number in range(200))


async def test_a_source_that_was_sent_whole_is_not_sent_back(client: Connect, path: Path) -> None:
    async with client() as connected:
        texts, facts = [], []
        for tool, arguments in (
            ("add_cell", {"source": _LONG, "index": 1}),
            ("update_cell", {"cell_id": "show", "source": _LONG, "tags": ["t"]}),
            ("edit_notebook", {"operations": [{"op": "add", "source": _LONG}] * 3}),
            ("edit_notebook", {"operations": [{"op": "update", "index": n, "source": f"{_LONG}#"} for n in (0, 1, 2)]}),
        ):
            result = await connected.call_tool(tool, {"path": "n.ipynb", **arguments})
            texts.append(text_of(result))
            facts.append(facts_of(result))

    added, updated, several, changed = texts
    assert "cell 1 [" in added
    assert "added (code, 200 lines)" in added
    assert "- 0 [title] · markdown · # Title" in added
    assert "cell 2 [show] · code · tags t · 2 outputs dropped · tags none -> t · lines +200 -1" in updated
    assert "around it" not in updated
    assert "cell 4 [" in several
    assert "cell 0 [title]: lines +200 -2" in changed
    assert not any("line_100" in text for text in texts)
    assert max(map(len, texts)) < 700
    assert max(len(json.dumps(one)) for one in facts) < 8000, "bounded for clients that read the structured content"
    assert "+line_1 = 1" in facts[1]["diff"]


async def test_a_replaced_text_is_shown_in_its_line(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", [_LONG, "x = 1", "x = 2"])
    async with client() as connected:
        one = await connected.call_tool(
            "update_cell", {"path": "n.ipynb", "index": 0, "old_text": "= 100", "new_text": "= 0"}
        )
        steps = [{"op": "replace_text", "index": n, "old_text": "x", "new_text": "y"} for n in (1, 2)]
        two = await connected.call_tool("edit_notebook", {"path": "n.ipynb", "operations": steps})

    text = text_of(one)
    assert " line_99 = 99\n-line_100 = 100\n+line_100 = 0\n line_101 = 101\n" in text
    assert "line_98 " not in text
    assert facts_of(one)["diff"].partition("\n")[2] in text
    assert facts_of(two)["diff"] == "cell 1 [c1]\n-x = 1\n+y = 1\ncell 2 [c2]\n-x = 2\n+y = 2"
    assert facts_of(two)["diff"] in text_of(two)
    assert not any(head in text_of(result) for result in (one, two) for head in ("---", "+++", "around it"))


async def test_a_name_is_changed_everywhere_with_one_call(stdio_client: ConnectStdio, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", [f"df{n} = df.head({n})" for n in range(40)])
    step = {"op": "replace_text", "old_text": "df", "new_text": "frame", "all": "true", "word": True}
    async with stdio_client() as connected:
        result = await connected.call_tool("edit_notebook", {"path": "n.ipynb", "operations": [step]})

    text = text_of(result)
    assert "40 places replaced in 40 cells: 0 [c0] 1, 1 [c1] 1" in text
    assert len(text) < 700
    assert ["".join(one["source"]) for one in read_json(path)["cells"]] == [
        f"df{n} = frame.head({n})" for n in range(40)
    ]


async def test_the_cells_of_a_new_notebook_are_named(stdio_client: ConnectStdio, workspace: Path) -> None:
    async with stdio_client() as connected:
        cells = [{"source": "x"}, {"source": "# T", "cell_type": "markdown", "cell_id": "title"}]
        few = await connected.call_tool("create_notebook", {"path": "few.ipynb", "cells": cells})
        many = await connected.call_tool("create_notebook", {"path": "many.ipynb", "cells": [{"source": ""}] * 300})
        none = await connected.call_tool("create_notebook", {"path": "none.ipynb"})

    first, second = facts_of(few)["ids"]
    assert f"ids: 0 {first}, 1 title" in text_of(few)
    assert second == "title"
    assert [one["id"] for one in read_json(workspace / "few.ipynb")["cells"]] == [first, second]
    assert len(facts_of(many)["ids"]) == 100
    assert "and 200 more: read_notebook with outline=true" in text_of(many)
    assert len(text_of(many)) < 1700
    assert "ids" not in text_of(none)


async def test_a_change_that_changes_nothing_says_so(client: Connect, path: Path) -> None:
    before = path.stat().st_mtime_ns
    async with client() as connected:
        result = await connected.call_tool("update_cell", {"path": "n.ipynb", "index": -1, "source": "last"})

    assert "the file was not touched" in text_of(result)
    assert facts_of(result)["changed"] is False
    assert path.stat().st_mtime_ns == before


async def test_a_removed_cell_is_shown_whole(client: Connect, path: Path) -> None:
    async with client() as connected:
        result = await connected.call_tool("remove_cell", {"path": "n.ipynb", "cell_id": "title"})

    assert "removed cell 0 [title] · markdown" in text_of(result)
    assert "# Title\nWords" in text_of(result)
    assert facts_of(result)["cell"]["source"] == "# Title\nWords"


async def test_many_changes_are_one_call(client: Connect, path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"op": "add", "cell_type": "code", "source": "new", "after_cell_id": "title", "tags": ["x"]},
        {"op": "move", "index": -1, "to": 0},
        {"op": "set_type", "cell_id": "title", "cell_type": "raw"},
    ]
    async with client() as connected:
        edited = await call(connected, "edit_notebook", path="n.ipynb", operations=steps)
        bad = await refused(
            connected, "edit_notebook", path="n.ipynb", operations=[*steps, {"op": "remove", "cell_id": "nope"}]
        )
        unknown = await refused(connected, "edit_notebook", path="n.ipynb", operations=[{"op": "delete", "index": 0}])
        field = await refused(connected, "edit_notebook", path="n.ipynb", operations=[{"op": "remove", "indx": 0}])

    assert edited["changed"]
    assert [row["id"] for row in edited["outline"]][:2] == ["c2", "title"]
    assert bad.startswith("CELL_NOT_FOUND: operations[3]: ") or bad.startswith("CELL_NOT_FOUND: operations[0]: ")
    assert "operations[0].op" in unknown
    assert "operations[0].indx" in field


@pytest.mark.case("B17")
async def test_a_bad_step_names_itself_and_nothing_is_written(client: Connect, path: Path) -> None:
    before = digest(path)
    steps = [{"op": "set_tags", "index": n % 3, "tags": [f"t{n}"]} for n in range(10)]
    steps[7] = {"op": "set_tags", "index": 70, "tags": []}
    async with client() as connected:
        message = await refused(connected, "edit_notebook", path="n.ipynb", operations=steps)

    assert message.startswith("CELL_NOT_FOUND: operations[7]: ")
    assert digest(path) == before


@pytest.mark.case("B18")
async def test_a_whole_notebook_is_written_and_read_back(client: Connect, workspace: Path, path: Path) -> None:
    content = read_json(path)
    async with client() as connected:
        written = await call(connected, "write_notebook", path="copy.ipynb", content=content)
        exists = await refused(connected, "write_notebook", path="copy.ipynb", content=content)
        text = await call(connected, "write_notebook", path="text.ipynb", content=json.dumps(content))
        broken = await refused(connected, "write_notebook", path="o.ipynb", content={"cells": [{"cell_type": "code"}]})

    assert written["created"] is True
    assert read_json(workspace / "copy.ipynb")["cells"][0]["id"] == "title"
    assert exists.startswith("ALREADY_EXISTS: ")
    assert text["revision"] == written["revision"]
    assert "cells[0]: it lacks 'source'" in broken
    assert not (workspace / "o.ipynb").exists()


async def test_images_come_as_images_and_never_as_text(client: Connect, path: Path) -> None:
    async with client() as connected:
        full = await connected.call_tool("read_notebook", {"path": "n.ipynb", "outputs": "full"})
        summary = await connected.call_tool("read_notebook", {"path": "n.ipynb"})

    assert len(images_of(full)) == 1
    assert full.structured_content is None
    assert PIXEL not in text_of(full) + text_of(summary)
    assert "printed" in text_of(full)


async def test_an_outline_shows_every_cell_in_a_line(client: Connect, path: Path) -> None:
    async with client() as connected:
        text = text_of(await connected.call_tool("read_notebook", {"path": "n.ipynb", "outline": True}))

    assert "- 1 [show] · code, 1 line, 2 outputs · show()" in text
    assert "cells: 3 of 3" in text


async def test_a_page_says_what_is_left_and_how_to_get_it(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "long.ipynb", ["x" * 90] * 50)
    async with client() as connected:
        result = await connected.call_tool("read_notebook", {"path": "long.ipynb", "max_chars": 1000})
        facts = facts_of(result)
        rest = await call(connected, "read_notebook", path="long.ipynb", cells=facts["next_cells"], max_chars=100_000)

    left = 50 - len(facts["cells"])
    assert f"next_cells: {facts['next_cells']} (the page is full; {left} cells left" in text_of(result)
    assert len(rest["cells"]) == left


async def test_notebooks_are_listed_searched_and_described(client: Connect, workspace: Path, path: Path) -> None:
    (workspace / "broken.ipynb").write_text("<<<<<<< HEAD\n")
    async with client() as connected:
        listed = await connected.call_tool("list_notebook_files", {})
        found = await connected.call_tool("search_notebooks", {"query": "PRINTED", "in": "both"})
        info = await connected.call_tool("get_notebook_info", {"path": "n.ipynb"})
        broken = await refused(connected, "get_notebook_info", path="broken.ipynb")

    assert facts_of(listed)["count"] == 2
    assert "- n.ipynb · " in text_of(listed)
    assert "problem: INVALID_NOTEBOOK" in text_of(listed) or "problem: NOT_A_NOTEBOOK" in text_of(listed)
    match = facts_of(found)["matches"][0]
    assert (match["path"], match["id"], match["output"], match["line"]) == ("n.ipynb", "show", 0, 1)
    assert "- 1 [show] · code · output 0 line 1: printed" in text_of(found)
    assert "- 0 [title] Title" in text_of(info)
    assert facts_of(info)["cells_by_type"] == {"code": 2, "markdown": 1}
    assert "merge conflict" in broken


async def test_a_hostile_regular_expression_is_an_error_and_the_server_goes_on(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papermill_mcp.services.catalogue._REGEX_SECONDS", 0.5)
    write_notebook(workspace / "n.ipynb", ["a" * 60 + "!"])
    async with client() as connected:
        message = await refused(connected, "search_notebooks", query="(a+)+$", regex=True)
        assert message.startswith("TIMEOUT: ")
        assert (await call(connected, "search_notebooks", query="a+!", regex=True))["total"] == 1


async def test_a_server_that_may_not_write_still_finds_and_reads(client: Connect, path: Path) -> None:
    async with client(read_only=True) as connected:
        names = {tool.name for tool in (await connected.list_tools()).tools}

    reading = {"read_notebook", "get_notebook_info", "list_notebook_files", "search_notebooks"}
    assert reading <= names
    assert not names & {"write_notebook", "create_notebook", "add_cell", "remove_cell", "update_cell", "edit_notebook"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_work_over_stdio(stdio_client: ConnectStdio, workspace: Path, mode: Any) -> None:
    async with stdio_client(mode=mode) as connected:
        await call(connected, "write_notebook", path="n.ipynb", content={"cells": [cell("x = 1"), cell("y", "raw")]})
        await call(connected, "edit_notebook", path="n.ipynb", operations=[{"op": "move", "index": 0, "to": 1}])
        await call(connected, "update_cell", path="n.ipynb", index=1, source="x = '😀 \u2028'")
        removed = await call(connected, "remove_cell", path="n.ipynb", index=0)
        found = await call(connected, "search_notebooks", query=r"^x\b", regex=True)
        listed = await call(connected, "list_notebook_files")
        info = await call(connected, "get_notebook_info", path="n.ipynb")

    assert removed["cell"]["source"] == "y"
    assert found["total"] == 1
    assert listed["notebooks"][0]["cell_count"] == 1
    assert info["problems"] == []
    assert read_json(workspace / "n.ipynb")["cells"][0]["source"] == ["x = '😀 \u2028", "'"]


async def test_a_lone_surrogate_is_stored_or_refused_and_never_breaks_the_answer(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", ["old"])
    path.write_text(path.read_text().replace("old", "\\ud800 old"))
    async with stdio_client() as connected:
        view = await call(connected, "read_notebook", path="n.ipynb")
        await call(connected, "update_cell", path="n.ipynb", index=0, old_text="old", new_text="new")
        found = await call(connected, "search_notebooks", query=r"new$", regex=True)

    assert view["cells"][0]["source"].endswith(" old")
    assert found["total"] == 1
    assert b"\\ud800 new" in path.read_bytes()


async def test_charts_and_tables_are_read_and_found(client: Connect, workspace: Path) -> None:
    """The displays of real libraries, through the tools that show and search outputs."""
    cells = []
    for name in ("plotly_bars", "pandas_styler", "altair_html"):
        bundles = json.loads((MIMEBUNDLES / f"{name}.json").read_text(encoding="utf-8"))
        outputs = [{"output_type": "display_data", "data": data, "metadata": {}} for data in bundles]
        cells.append(cell("show()", cell_id=name) | {"outputs": outputs})
    write_notebook(workspace / "charts.ipynb", cells)
    async with client() as connected:
        full = text_of(await connected.call_tool("read_notebook", {"path": "charts.ipynb", "outputs": "full"}))
        summary = text_of(await connected.call_tool("read_notebook", {"path": "charts.ipynb"}))
        found = await call(
            connected, "search_notebooks", query="Rain by month", directory="charts.ipynb", **{"in": "outputs"}
        )

    assert full.count("Rain by month") == 3
    assert full.count("Jul") == 3
    assert summary.count("Rain by month") == 3
    assert "text/html" not in full + summary
    assert [match["index"] for match in found["matches"]] == [0, 1, 2]


async def test_headings_beyond_those_shown_are_counted_with_the_way_to_them(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    cells = [cell(f"# Part {number}\nWords\n## Section", "markdown") for number in range(120)]
    write_notebook(workspace / "n.ipynb", cells)
    async with stdio_client() as connected:
        result = await connected.call_tool("get_notebook_info", {"path": "n.ipynb"})
        rest = await call(connected, "read_notebook", path="n.ipynb", outline=True, cells="49-")
        write_notebook(workspace / "few.ipynb", cells[:50])
        few = await connected.call_tool("get_notebook_info", {"path": "few.ipynb"})

    assert 'headings: 100 of 240 (140 more: read_notebook with outline=true and cells="49-")' in text_of(result)
    assert len(facts_of(result)["outline"]) == 100
    assert [row["first_line"] for row in rest["outline"]][:2] == ["# Part 49", "# Part 50"]
    assert "headings: 100 of 100\n" in text_of(few)


async def test_a_notebook_over_the_limit_is_looked_at_and_made_smaller(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    shown = [{"name": "stdout", "output_type": "stream", "text": "needle\n" * 20_000}]
    cells = [cell("# Part", "markdown"), cell("needle = 1", tags=["parameters"]) | {"outputs": shown}, cell("2")]
    path = write_notebook(workspace / "large.ipynb", cells)
    size = path.stat().st_size
    async with stdio_client("--max-notebook-bytes", "100000") as connected:
        refusals = [
            await refused(connected, "read_notebook", path="large.ipynb"),
            await refused(connected, "update_cell", path="large.ipynb", index=0, source="# Other"),
            await refused(connected, "execute_notebook", path="large.ipynb"),
        ]
        outline = await connected.call_tool("read_notebook", {"path": "large.ipynb", "outline": True})
        info = await call(connected, "get_notebook_info", path="large.ipynb")
        found = await call(connected, "search_notebooks", query="needle")
        both = await call(connected, "search_notebooks", query="needle", **{"in": "both"})
        cleared = await connected.call_tool(
            "edit_notebook", {"path": "large.ipynb", "operations": [{"op": "clear_outputs"}]}
        )
        after = await call(connected, "read_notebook", path="large.ipynb")

    for message in refusals:
        assert message.startswith("TOO_LARGE: ")
        assert 'edit_notebook with operations=[{"op": "clear_outputs"}]' in message
    assert "1 [c1] · code, 1 line, 1 output · needle = 1" in text_of(outline)
    assert (info["size"], info["headings"], info["parameters"][0]["name"]) == (size, 1, "needle")
    assert "clear_outputs" in info["problems"][-1]
    assert [match["line"] for match in found["matches"]] == [1]
    assert found["searched"] == 1
    assert "the outputs of 1 notebook over max_notebook_bytes are not searched" in both["notes"]
    assert f"1 output of 1 cell dropped; the file had {size:,} bytes" in text_of(cleared)
    assert [one["source"] for one in after["cells"]] == ["# Part", "needle = 1", "2"]
    assert path.stat().st_size < 2000
