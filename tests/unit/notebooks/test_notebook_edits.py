"""Edits through the notebook service: what changes, what is told, and what is refused with nothing done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import MakeConfig
from helpers import cell, digest, read_json, write_notebook
from hypothesis import example, given
from hypothesis import strategies as st

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import (
    AlreadyExistsError,
    BusyError,
    CellNotFoundError,
    ConflictError,
    InvalidArgumentError,
    InvalidNotebookError,
    NotANotebookError,
    ServerError,
    TooLargeError,
)
from papermill_mcp.services import notebook_service
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import (
    Add,
    CellRef,
    NewCell,
    NotebookEdit,
    ReplaceText,
    Update,
    replaced,
)
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils import file_utils
from papermill_mcp.utils.diff_text import unified_diff
from papermill_mcp.utils.lock_files import LockFiles

validate: Any = nbformat.validate


@pytest.fixture
def service(config: MakeConfig, workspace: Path, state_directory: Path) -> NotebookService:
    return NotebookService(config(), Workspace([workspace]), state_directory)


@pytest.fixture
def path(workspace: Path) -> Path:
    """Cells: title (markdown), load (code with outputs), plot (code), end (raw)."""
    load = cell("a = 1\nb = 2\nprint(a)\n", cell_id="load", tags=["parameters"])
    load |= {"execution_count": 4, "outputs": [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]}
    cells = [
        cell("# Title\nWords", "markdown", cell_id="title"),
        load,
        cell("plot(a)", cell_id="plot"),
        cell("x", "raw", cell_id="end"),
    ]
    return write_notebook(workspace / "n.ipynb", cells)


def sources(path: Path) -> list[str]:
    return ["".join(one["source"]) for one in read_json(path)["cells"]]


def ids(path: Path) -> list[str | None]:
    return [one.get("id") for one in read_json(path)["cells"]]


# One cell


async def test_replacing_a_text_changes_the_cell_and_no_other_byte(service: NotebookService, path: Path) -> None:
    before = path.read_bytes()
    edited = await service.update_cell("n.ipynb", Update(CellRef(cell_id="plot"), old_text="(a)", new_text="(b)"))

    assert path.read_bytes() == before.replace(b"plot(a)", b"plot(b)")
    assert edited.changed
    assert edited.diff == "cell 2 [plot]\n@@ -1 +1 @@\n-plot(a)\n+plot(b)"
    assert (edited.cell.index, edited.cell.id, edited.cell.source) == (2, "plot", "plot(b)")
    assert edited.outline == [], "nothing moved"


async def test_a_new_source_drops_the_outputs_and_says_so(service: NotebookService, path: Path) -> None:
    edited = await service.update_cell("n.ipynb", Update(CellRef(index=1), source="a = 2"))

    changed = read_json(path)["cells"][1]
    assert (changed["outputs"], changed["execution_count"]) == ([], None)
    assert changed["metadata"] == {"tags": ["parameters"]}
    assert "1 output dropped" in edited.diff


@pytest.mark.parametrize(
    "change",
    [
        {"source": "plot(a)"},
        {"old_text": "plot", "new_text": "plot"},
        {"cell_type": "code"},
        {"tags": []},
        {"metadata": {"gone": None}},
    ],
)
async def test_a_change_that_changes_nothing_leaves_the_file_untouched(
    service: NotebookService, path: Path, change: dict[str, Any]
) -> None:
    before, status = path.read_bytes(), path.stat()
    edited = await service.update_cell("n.ipynb", Update(CellRef(cell_id="plot"), **change))

    assert not edited.changed
    assert edited.diff == ""
    assert path.read_bytes() == before
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (status.st_mtime_ns, status.st_ino)


async def test_tags_and_metadata_keep_what_they_do_not_name(service: NotebookService, path: Path) -> None:
    await service.update_cell(
        "n.ipynb", Update(CellRef(cell_id="load"), metadata={"k": {"deep": [1]}, "collapsed": True})
    )
    edited = await service.update_cell(
        "n.ipynb", Update(CellRef(cell_id="load"), tags=["x"], metadata={"collapsed": None})
    )

    changed = read_json(path)["cells"][1]
    assert changed["metadata"] == {"k": {"deep": [1]}, "tags": ["x"]}
    assert changed["outputs"], "outputs belong to the source, which has not changed"
    assert "tags parameters -> x" in edited.diff
    assert "metadata -collapsed" in edited.diff


async def test_a_code_cell_that_becomes_text_loses_what_only_code_has(service: NotebookService, path: Path) -> None:
    await service.update_cell("n.ipynb", Update(CellRef(cell_id="load"), cell_type="markdown"))
    await service.update_cell("n.ipynb", Update(CellRef(cell_id="title"), cell_type="code"))

    title, load, *_ = read_json(path)["cells"]
    assert load.keys() == {"cell_type", "id", "metadata", "source"}
    assert (title["outputs"], title["execution_count"]) == ([], None)
    validate(read_json(path))


async def test_attachments_are_not_thrown_away_by_a_change_of_type(service: NotebookService, workspace: Path) -> None:
    picture = cell("![x](attachment:x.png)", "markdown") | {"attachments": {"x.png": {"image/png": "aGk="}}}
    path = write_notebook(workspace / "p.ipynb", [picture])
    before = digest(path)

    with pytest.raises(InvalidArgumentError, match="attachments"):
        await service.update_cell("p.ipynb", Update(CellRef(index=0), cell_type="code"))
    assert digest(path) == before


@pytest.mark.parametrize("names", [{}, {"index": 0, "cell_id": "title"}])
async def test_a_cell_is_named_by_exactly_one_of_id_and_index(
    service: NotebookService, path: Path, names: dict[str, Any]
) -> None:
    for call in (
        service.remove_cell("n.ipynb", CellRef(**names)),
        service.update_cell("n.ipynb", Update(CellRef(**names), source="x")),
        service.edit("n.ipynb", [{"op": "remove", **names}]),
    ):
        with pytest.raises(InvalidArgumentError, match="exactly one"):
            await call


async def test_an_update_that_asks_for_nothing_is_refused(service: NotebookService, path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no change"):
        await service.update_cell("n.ipynb", Update(CellRef(index=0)))
    with pytest.raises(InvalidArgumentError, match="belong together"):
        await service.update_cell("n.ipynb", Update(CellRef(index=0), old_text="x"))
    with pytest.raises(InvalidArgumentError, match="both given"):
        await service.update_cell("n.ipynb", Update(CellRef(index=0), source="x", old_text="x", new_text="y"))


async def test_an_unknown_id_is_answered_with_the_ids_there_are(service: NotebookService, path: Path) -> None:
    with pytest.raises(CellNotFoundError, match=r"title, load, plot, end.*Did you mean 'load'"):
        await service.remove_cell("n.ipynb", CellRef(cell_id="laod"))


@pytest.mark.parametrize("index", [4, -5, 10**30, -(10**30)])
async def test_an_index_out_of_range_is_answered_with_the_range(
    service: NotebookService, path: Path, index: int
) -> None:
    before = digest(path)
    with pytest.raises(CellNotFoundError, match="4 cells: index 0 to 3"):
        await service.remove_cell("n.ipynb", CellRef(index=index))
    assert digest(path) == before


async def test_a_removed_cell_can_be_put_back_from_the_reply(service: NotebookService, path: Path) -> None:
    before = path.read_bytes()
    removed = await service.remove_cell("n.ipynb", CellRef(cell_id="plot"))
    assert ids(path) == ["title", "load", "end"]

    gone = removed.cell
    await service.edit(
        "n.ipynb",
        [
            {
                "op": "add",
                "index": gone.index,
                "cell_id": gone.id,
                "cell_type": gone.cell_type,
                "source": gone.source,
            }
        ],
    )
    assert json.loads(path.read_bytes()) == json.loads(before)


async def test_the_reply_of_a_removal_counts_the_outputs_that_went(service: NotebookService, path: Path) -> None:
    removed = await service.remove_cell("n.ipynb", CellRef(index=1))

    assert removed.outputs_dropped == 1
    assert removed.cell.tags == ["parameters"]
    assert [row.id for row in removed.outline] == ["title", "plot", "end"]


# Texts that do not match once


def test_a_text_that_does_not_stand_there_is_answered_with_the_nearest_line() -> None:
    with pytest.raises(InvalidArgumentError, match=r"nearest line is 2: 'total = sum\(values\)'"):
        replaced("values = []\ntotal = sum(values)\nprint(total)", "total  = sum(value)", "", "the cell")


def test_a_text_that_stands_there_twice_is_answered_with_count_and_lines() -> None:
    with pytest.raises(InvalidArgumentError, match="3 times in the cell, at line 1, 1, 2"):
        replaced("xx xx\nxx", "xx", "b", "the cell")


def test_overlapping_matches_count_as_more_than_one() -> None:
    with pytest.raises(InvalidArgumentError, match="2 times"):
        replaced("aaa", "aa", "b", "the cell")


@pytest.mark.parametrize(("source", "old"), [("", "x"), ("\n \n", "x"), ("x", ""), ("é" * 300_000, "e" * 300_000)])
def test_odd_texts_are_refused_in_words(source: str, old: str) -> None:
    with pytest.raises(InvalidArgumentError, match="old_text") as raised:
        replaced(source, old, "", "the cell")
    assert len(str(raised.value)) < 1000


# Several changes


async def test_several_changes_are_one_save_and_one_diff(service: NotebookService, path: Path) -> None:
    edited = await service.edit(
        "n.ipynb",
        [
            {"op": "add", "cell_type": "markdown", "source": "## New", "index": 1},
            {"op": "move", "cell_id": "end", "to": 0},
            {"op": "replace_text", "cell_id": "load", "old_text": "b = 2\n", "new_text": ""},
            {"op": "set_tags", "cell_id": "plot", "tags": ["slow"]},
            {"op": "set_metadata", "metadata": {"title": "T"}},
            {"op": "set_metadata", "cell_id": "plot", "metadata": {"k": 1}},
            {"op": "remove", "cell_id": "title"},
        ],
    )

    assert sources(path) == ["x", "## New", "a = 1\nprint(a)\n", "plot(a)"]
    made = read_json(path)
    assert made["metadata"]["title"] == "T"
    assert made["cells"][3]["metadata"] == {"k": 1, "tags": ["slow"]}
    validate(made)
    for reported in (
        "cell 0 [end]: moved from 3",
        "cell 0 [title]: removed (markdown, 2 lines)",
        "added (markdown, 1 line)",
        "-b = 2",
        "tags none -> slow",
        "notebook: metadata +title",
    ):
        assert reported in edited.diff
    assert [row.index for row in edited.outline] == [0, 1, 2, 3]


BAD: list[dict[str, Any]] = [
    {"op": "remove", "cell_id": "nope"},
    {"op": "remove", "index": 99},
    {"op": "remove", "index": 0, "tags": []},
    {"op": "move", "index": 0},
    {"op": "move", "index": 0, "to": 99},
    {"op": "move", "cell_id": "load", "after_cell_id": "load"},
    {"op": "set_type", "index": 0},
    {"op": "set_tags", "index": 0, "tags": ["a,b"]},
    {"op": "set_tags", "index": 0, "tags": ["a", "a"]},
    {"op": "replace_text", "index": 0, "old_text": "absent", "new_text": ""},
    {"op": "replace_text", "index": 0, "old_text": "x"},
    {"op": "add", "cell_type": "code"},
    {"op": "add", "cell_type": "code", "source": "x", "tags": "t"},
    {"op": "add", "source": "x", "metadata": {"tags": [1]}},
    {"op": "add", "cell_type": "code", "source": "x", "cell_id": "load"},
    {"op": "add", "cell_type": "code", "source": "x", "cell_id": "not an id"},
    {"op": "add", "cell_type": "code", "source": "x", "index": 0, "after_cell_id": "load"},
    {"op": "clear_outputs", "cell_id": "title"},
    {"op": "add_ids", "index": 0},
    {"op": "set_metadata", "cell_id": "nope", "metadata": {}},
]


@pytest.mark.parametrize("bad", BAD, ids=[json.dumps(one) for one in BAD])
@pytest.mark.parametrize("position", [0, 3])
async def test_one_bad_operation_stops_all_and_is_named(
    service: NotebookService, path: Path, bad: dict[str, Any], position: int
) -> None:
    before = path.read_bytes()
    good: list[Mapping[str, Any]] = [{"op": "set_tags", "cell_id": "plot", "tags": [f"t{n}"]} for n in range(5)]
    good[position] = bad

    with pytest.raises(ServerError, match=rf"^\w+: operations\[{position}\]: .*No operation was applied\."):
        await service.edit("n.ipynb", good)
    assert path.read_bytes() == before


async def test_no_operations_is_an_error(service: NotebookService, path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="empty"):
        await service.edit("n.ipynb", [])


@pytest.mark.case("N24")
async def test_changes_that_undo_each_other_leave_the_file_untouched(service: NotebookService, path: Path) -> None:
    before = path.stat()
    edited = await service.edit(
        "n.ipynb",
        [
            {"op": "move", "index": 0, "to": 2},
            {"op": "add", "cell_type": "code", "source": "x", "index": 0},
            {"op": "move", "cell_id": "title", "to": 1},
            {"op": "remove", "index": 0},
        ],
    )

    assert not edited.changed
    assert path.stat().st_mtime_ns == before.st_mtime_ns


async def test_outputs_are_cleared_of_one_cell_or_of_all(service: NotebookService, path: Path) -> None:
    first = await service.edit("n.ipynb", [{"op": "clear_outputs"}])
    again = await service.edit("n.ipynb", [{"op": "clear_outputs", "cell_id": "load"}])

    load = read_json(path)["cells"][1]
    assert (load["outputs"], load["execution_count"]) == ([], None)
    assert "1 output dropped" in first.diff
    assert (first.changed, again.changed) == (True, False)


# Ids and versions


def without_ids(path: Path, *, minor: int) -> None:
    notebook = read_json(path)
    notebook["nbformat_minor"] = minor
    for one in notebook["cells"]:
        del one["id"]
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


async def test_missing_ids_are_not_made_by_an_edit_of_another_cell(service: NotebookService, path: Path) -> None:
    without_ids(path, minor=5)
    await service.update_cell("n.ipynb", Update(CellRef(index=2), source="new"))

    assert ids(path) == [None] * 4


async def test_ids_are_added_when_asked_for_and_doubled_ones_renamed(service: NotebookService, path: Path) -> None:
    notebook = read_json(path)
    notebook["cells"][2]["id"] = "load"
    del notebook["cells"][3]["id"]
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")

    with pytest.raises(CellNotFoundError, match=r"2 cells with the id 'load'.*index 1, 2"):
        await service.remove_cell("n.ipynb", CellRef(cell_id="load"))
    edited = await service.edit("n.ipynb", [{"op": "add_ids"}])

    found = ids(path)
    assert found[:2] == ["title", "load"]
    assert len(set(found)) == 4
    assert None not in found
    assert "new ids for 2 cells: 2-3" in edited.diff
    assert not (await service.edit("n.ipynb", [{"op": "add_ids"}])).changed


async def test_ids_lift_an_older_notebook_to_the_version_that_has_them(service: NotebookService, path: Path) -> None:
    without_ids(path, minor=2)
    edited = await service.edit("n.ipynb", [{"op": "add_ids"}])

    assert "nbformat 4.2 -> 4.5" in edited.diff
    assert None not in ids(path)
    validate(read_json(path))


OLD = {
    "nbformat": 3,
    "nbformat_minor": 0,
    "metadata": {"name": "old"},
    "worksheets": [
        {
            "cells": [
                {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Old"]},
                {"cell_type": "code", "collapsed": False, "input": ["1+1"], "language": "python", "outputs": []},
            ]
        }
    ],
}


@pytest.mark.case("N12")
async def test_version_3_is_read_refused_for_edits_and_converted_on_request(
    service: NotebookService, workspace: Path
) -> None:
    path = workspace / "old.ipynb"
    path.write_text(json.dumps(OLD), encoding="utf-8")
    before = path.read_bytes()

    view = await service.read("old.ipynb")
    assert [one.source for one in view.cells] == ["## Old", "1+1"]
    assert view.note is not None
    with pytest.raises(InvalidNotebookError, match="convert"):
        await service.update_cell("old.ipynb", Update(CellRef(index=1), source="2"))
    assert path.read_bytes() == before

    edited = await service.edit("old.ipynb", [{"op": "convert"}, {"op": "set_tags", "index": 1, "tags": ["t"]}])
    assert "nbformat 3.0 -> 4.5" in edited.diff
    validate(read_json(path))
    assert sources(path) == ["## Old", "1+1"]


async def test_a_version_3_that_cannot_be_converted_stays(service: NotebookService, workspace: Path) -> None:
    path = workspace / "old.ipynb"
    path.write_text(json.dumps({**OLD, "worksheets": [{"cells": [{"cell_type": "code"}]}]}), encoding="utf-8")
    before = path.read_bytes()

    with pytest.raises(InvalidNotebookError, match="cannot be converted"):
        await service.edit("old.ipynb", [{"op": "convert"}])
    assert path.read_bytes() == before


# Whole notebooks


WHOLE: dict[str, Any] = {
    "cells": [
        {"cell_type": "code", "source": "1"},
        {"cell_type": "markdown", "id": "kept", "metadata": {}, "source": ["a\n", "b"]},
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


async def test_a_whole_notebook_keeps_its_ids_and_gets_the_missing_ones(
    service: NotebookService, workspace: Path
) -> None:
    content = json.loads(json.dumps(WHOLE))
    written = await service.write("w.ipynb", content)

    path = workspace / "w.ipynb"
    assert (written.created, written.cell_count, written.size) == (True, 2, path.stat().st_size)
    assert ids(path)[1] == "kept"
    assert ids(path)[0]
    assert content == WHOLE, "the arguments were changed"
    validate(read_json(path))


async def test_an_older_minor_version_is_written_as_it_is(service: NotebookService, workspace: Path) -> None:
    content = {"cells": [{"cell_type": "raw", "source": "x"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}
    await service.write("w.ipynb", content)

    assert read_json(workspace / "w.ipynb")["nbformat_minor"] == 2
    assert ids(workspace / "w.ipynb") == [None]


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ({}, "no list of cells"),
        ({"cells": 3}, "no list of cells"),
        ({"cells": [], "nbformat": 3}, "nbformat 3"),
        ({"cells": [3]}, r"cells\[0\]: it is not an object"),
        ({"cells": [{"cell_type": "code"}]}, r"cells\[0\]: it lacks 'source'"),
        ({"cells": [{"cell_type": "evil", "source": ""}]}, "'evil'; known are code, markdown, raw"),
        ({"cells": [{"cell_type": "raw", "source": 3}]}, "source must be a string or a list, and is an integer"),
        ({"cells": [{"cell_type": "raw", "source": "", "x": 1}]}, "'x', which the format does not know"),
        ({"cells": [{"cell_type": "raw", "source": "", "id": "a b"}]}, "id 'a b' is none"),
        ({"cells": [{"cell_type": "raw", "source": "", "id": "a"}] * 2}, "more than one cell with the id 'a'"),
        (
            {"cells": [{"cell_type": "code", "source": "", "outputs": [{"output_type": "stream", "name": "x"}]}]},
            r"outputs\[0\]: it lacks 'text'",
        ),
        ({"cells": [], "metadata": 3}, "metadata must be an object"),
        ({"cells": [], "nbformat": 4, "nbformat_minor": "5"}, "nbformat_minor"),
    ],
)
async def test_content_that_is_no_notebook_is_explained(
    service: NotebookService, workspace: Path, content: dict[str, Any], reported: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reported) as raised:
        await service.write("w.ipynb", content)
    assert "Nothing was written" in str(raised.value)
    assert not (workspace / "w.ipynb").exists()


@pytest.mark.case("B20")
async def test_content_nested_too_deeply_is_refused(service: NotebookService, workspace: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(InvalidArgumentError, match="too deeply"):
        await service.write("w.ipynb", {"cells": [], "metadata": deep})
    while deep:  # freeing it all at once would overflow the stack of the interpreter
        deep = deep.pop("x")
    assert not (workspace / "w.ipynb").exists()


@pytest.mark.case("B18")
async def test_nothing_is_replaced_unasked_and_never_what_is_no_notebook(
    service: NotebookService, workspace: Path, path: Path
) -> None:
    other = workspace / "other.ipynb"
    other.write_text("not a notebook", encoding="utf-8")
    before = digest(path), digest(other)

    with pytest.raises(AlreadyExistsError):
        await service.write("n.ipynb", WHOLE)
    with pytest.raises(NotANotebookError):
        await service.write("other.ipynb", WHOLE, overwrite=True)
    with pytest.raises(ConflictError):
        await service.write("n.ipynb", WHOLE, overwrite=True, if_revision="0" * 16)
    with pytest.raises(ConflictError):
        await service.write("missing.ipynb", WHOLE, if_revision="0" * 16)
    assert (digest(path), digest(other)) == before

    written = await service.write("n.ipynb", WHOLE, overwrite=True)
    assert not written.created
    assert sources(path) == ["1", "a\nb"]


async def test_a_notebook_over_the_limit_is_refused(config: MakeConfig, workspace: Path) -> None:
    service = NotebookService(config(max_notebook_bytes=2000), Workspace([workspace]))
    path = write_notebook(workspace / "n.ipynb", ["x"])
    before = digest(path)

    with pytest.raises(TooLargeError):
        await service.write("w.ipynb", {**WHOLE, "metadata": {"x": "y" * 3000}})
    with pytest.raises(TooLargeError):
        await service.update_cell("n.ipynb", Update(CellRef(index=0), source="y" * 3000))
    assert digest(path) == before


# Others who edit


@pytest.mark.case("F09")
async def test_another_revision_is_a_conflict_for_every_edit(service: NotebookService, path: Path) -> None:
    before = digest(path)
    stale = "0123456789abcdef"
    for call in (
        service.add_cell("n.ipynb", Add(NewCell("code", "x")), if_revision=stale),
        service.update_cell("n.ipynb", Update(CellRef(index=0), source="x"), if_revision=stale),
        service.remove_cell("n.ipynb", CellRef(index=0), if_revision=stale),
        service.edit("n.ipynb", [{"op": "remove", "index": 0}], if_revision=stale),
    ):
        with pytest.raises(ConflictError, match=stale):
            await call
    assert digest(path) == before


async def test_a_revision_of_a_reply_is_good_for_the_next_edit(service: NotebookService, path: Path) -> None:
    revision = (await service.read("n.ipynb")).revision
    for number in range(3):
        edited = await service.update_cell(
            "n.ipynb", Update(CellRef(index=0), source=f"{number}"), if_revision=revision
        )
        revision = edited.revision
    assert sources(path)[0] == "2"


@pytest.mark.case("F09")
async def test_a_change_between_our_read_and_our_write_is_noticed(
    service: NotebookService, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size and, as far as utime goes, same times."""
    real = file_utils.write_file
    status = path.stat()

    def write(*arguments: Any, **options: Any) -> Any:
        import os

        path.write_bytes(path.read_bytes().replace(b"plot(a)", b"plot(z)"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return real(*arguments, **options)

    monkeypatch.setattr(notebook_service, "write_file", write)
    with pytest.raises(ConflictError):
        await service.update_cell("n.ipynb", Update(CellRef(index=0), source="ours"))
    assert sources(path)[0] == "# Title\nWords"
    assert sources(path)[2] == "plot(z)"


async def test_edits_that_arrive_together_are_all_there(service: NotebookService, path: Path) -> None:
    async with asyncio.timeout(20):
        await asyncio.gather(*(service.add_cell("n.ipynb", Add(NewCell("code", f"n{n}"))) for n in range(20)))

    assert sorted(sources(path)[4:]) == sorted(f"n{n}" for n in range(20))


async def test_a_lock_that_another_server_holds_is_waited_for_and_then_told(
    service: NotebookService, path: Path, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook_service, "_LOCK_SECONDS", 0.2)
    held = LockFiles(state_directory / "locks").try_acquire(path)
    assert held is not None
    before = digest(path)
    with pytest.raises(BusyError, match="another server"):
        await service.remove_cell("n.ipynb", CellRef(index=0))
    assert digest(path) == before

    held.release()
    await service.remove_cell("n.ipynb", CellRef(index=0))
    assert ids(path) == ["load", "plot", "end"]


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_lock(
    service: NotebookService, path: Path, state_directory: Path
) -> None:
    held = LockFiles(state_directory / "locks").try_acquire(path)
    assert held is not None
    waiting = asyncio.create_task(service.remove_cell("n.ipynb", CellRef(index=0)))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.release()

    async with asyncio.timeout(2):
        await service.remove_cell("n.ipynb", CellRef(index=0))


async def test_without_a_state_directory_edits_go_on_and_the_log_says_so_once(
    config: MakeConfig, workspace: Path, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x")
    service = NotebookService(config(), Workspace([workspace]), in_the_way)

    for number in range(2):
        await service.update_cell("n.ipynb", Update(CellRef(index=0), source=f"{number}"))

    assert sources(path)[0] == "1"
    assert len([record for record in caplog.records if "no locks" in record.message]) == 1


def test_the_number_of_lock_files_is_bounded(tmp_path: Path) -> None:
    locks = LockFiles(tmp_path)
    for number in range(200):
        held = locks.try_acquire(Path(f"/somewhere/{number}.ipynb"))
        assert held is not None
        held.release()

    assert {len(file.stem) for file in tmp_path.iterdir()} == {3}


# Pages


async def test_an_outline_names_every_cell_in_a_line(service: NotebookService, path: Path) -> None:
    view = await service.read("n.ipynb", outline=True)

    assert view.cells == []
    assert view.outline is not None
    assert [(row.index, row.id, row.lines, row.outputs) for row in view.outline] == [
        (0, "title", 2, None),
        (1, "load", 4, 1),
        (2, "plot", 1, 0),
        (3, "end", 1, None),
    ]


@pytest.mark.parametrize("outline", [False, True])
async def test_pages_show_every_cell_once_and_count_what_is_left(
    service: NotebookService, workspace: Path, outline: bool
) -> None:
    write_notebook(workspace / "long.ipynb", [f"x = {n}\n" * (n % 30 + 1) for n in range(300)])
    seen: list[int] = []
    cells: str | None = None
    for _ in range(300):
        view = await service.read("long.ipynb", cells=cells, outline=outline, max_chars=1500)
        rows: list[Any] = view.outline if view.outline is not None else list(view.cells)
        assert rows
        seen += [row.index for row in rows]
        assert (view.cells_left or 0) == 300 - len(seen)
        if view.next_cells is None:
            break
        cells = view.next_cells
    assert seen == list(range(300))


async def test_a_source_larger_than_a_page_says_how_much_is_missing(service: NotebookService, workspace: Path) -> None:
    write_notebook(workspace / "long.ipynb", ["x" * 5000])
    cut = (await service.read("long.ipynb", max_chars=100)).cells[0]
    whole = (await service.read("long.ipynb", max_chars=6000)).cells[0]

    assert (len(cut.source), cut.omitted_chars, cut.truncated) == (100, 4900, True)
    assert (len(whole.source), whole.omitted_chars, whole.truncated) == (5000, None, False)


async def test_empty_cells_fill_a_page_too(service: NotebookService, workspace: Path) -> None:
    write_notebook(workspace / "long.ipynb", [""] * 3000)
    view = await service.read("long.ipynb")

    assert 0 < len(view.cells) < 300


# Diffs


def applied(before: str, diff: list[str]) -> str:
    """The text that a unified diff makes of another one."""
    lines = before.split("\n") if before else []
    made: list[str] = []
    at = 0
    for line in diff[2:]:
        if line.startswith("@@"):
            span = line.split()[1][1:].split(",")
            start = int(span[0]) - (0 if len(span) > 1 and span[1] == "0" else 1)
            made += lines[at:start]
            at = start
        elif line.startswith("+"):
            made.append(line[1:])
        else:
            assert lines[at] == line[1:]
            at += 1
            if line.startswith(" "):
                made.append(line[1:])
    return "\n".join(made + lines[at:])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "a"),
        ("a", ""),
        ("a\nb\nc", "a\nc"),
        ("\n".join("abcdefghijklmnop"), "\n".join("abXdefghijklmnoYp")),
        ("a\n", "a"),
        ("a", "a\n"),
        ("\n".join(map(str, range(3000))), "\n".join(map(str, range(3000, 0, -1)))),
        ("x\n" * 50, "x\n" * 53),
    ],
)
def test_a_diff_makes_the_new_text_of_the_old_one(before: str, after: str) -> None:
    assert applied(before, [*unified_diff(before, after, old="a", new="b")]) == after


async def test_a_huge_diff_is_cut_with_the_number_of_lines(service: NotebookService, path: Path) -> None:
    edited = await service.update_cell("n.ipynb", Update(CellRef(index=0), source="line\n" * 50_000))

    assert len(edited.diff) < 4500
    last = edited.diff.splitlines()[-1]
    reported = int("".join(filter(str.isdigit, last.split("line")[0])))
    assert reported + len(edited.diff.splitlines()) - 1 == 50_001 + 2 + 2, "name, hunk, old and new lines"
    assert edited.summary[0].notes == ["lines +50001 -2"]


async def test_the_reply_of_a_removal_among_other_changes_is_bounded(service: NotebookService, workspace: Path) -> None:
    write_notebook(workspace / "long.ipynb", ["x" * 1_000_000, "first\nsecond", ""])
    edited = await service.edit("long.ipynb", [{"op": "remove", "index": 0}] * 3)

    assert [change.lines for change in edited.summary[1:]] == [["-first", "-second"], []]
    assert sum(len(line) for change in edited.summary for line in change.lines) < 1000


# One text in many cells


def naive(source: str, old: str, new: str, *, word: bool) -> tuple[str, int]:
    """`source` with all matches replaced, character by character; and their number."""
    made, at, number = "", 0, 0
    while at < len(source):
        end = at + len(old)
        inside = source[at:end] == old
        if inside and word:
            before, after = source[max(at - 1, 0) : at], source[end : end + 1]
            inside = not any(
                beside and f"_{beside}".isidentifier() and f"_{edge}".isidentifier()
                for beside, edge in ((before, old[0]), (after, old[-1]))
            )
        made += new if inside else source[at]
        at = end if inside else at + 1
        number += inside
    return made, number


_WORDS = st.text("ad_.( \n9éßµ́名", max_size=12)


@given(st.lists(_WORDS, min_size=1, max_size=5), st.text("ad_.9é", min_size=1, max_size=3), _WORDS, st.booleans())
@example(["df df2 my_df df.x (df) adf"], "df", "frame", True)
@example(["aaaa", "a.a"], "aa", "a", False)
@example(["_a.a.a"], "a.a", "d", True)
@example(["df.x"], "df.", "f.", True)
def test_all_matches_are_replaced_as_character_by_character(sources: list[str], old: str, new: str, word: bool) -> None:
    document = NotebookDocument.new({})
    for source in sources:
        document.insert(len(document.cells), cell(source))
    expected = [naive(source, old, new, word=word) for source in sources]
    edit = NotebookEdit(document, "n.ipynb")
    one = ReplaceText(CellRef(), old, new, all=True, word=word)
    if not any(number for _, number in expected):
        with pytest.raises(InvalidArgumentError, match="stands in no cell"):
            edit.apply(one)
    else:
        edit.apply(one)

    assert [made.source for made in document.cells] == [source for source, _ in expected]


@pytest.fixture
def frames(workspace: Path) -> Path:
    """Forty code cells with outputs that name `df`, and as many that only seem to."""
    shown = {"outputs": [{"name": "stdout", "output_type": "stream", "text": "1"}], "execution_count": 1}
    cells = [cell(f"df2 = my_df\ndf.x[{n}] = df" if n % 2 else f"df2 = {n}") | shown for n in range(80)]
    return write_notebook(workspace / "n.ipynb", cells)


async def test_a_name_is_changed_in_all_cells_with_one_operation(service: NotebookService, frames: Path) -> None:
    before = sources(frames)
    step = {"op": "replace_text", "old_text": "df", "new_text": "frame", "all": True, "word": True}
    edited = await service.edit("n.ipynb", [step])

    assert sources(frames) == [text.replace("df.x", "frame.x").replace("= df", "= frame") for text in before]
    kept = [bool(one["outputs"]) for one in read_json(frames)["cells"]]
    assert kept == [True, False] * 40, "outputs stay where the source stays"
    (line,) = edited.summary
    assert line.head().startswith("80 places replaced in 40 cells: 1 [c1] 2, 3 [c3] 2, ")
    assert line.head().endswith("79 [c79] 2, outputs of 40 of them dropped")
    assert len(line.head()) < 700
    assert [index for index, _ in edited.code_cells] == list(range(1, 80, 2))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"old_text": "df", "new_text": "x", "index": 1}, "4 times .*all=true"),
        ({"old_text": "df", "new_text": "x", "index": 1, "word": True}, "2 times .*all=true"),
        ({"old_text": "df", "new_text": "x"}, "names no cell.*all=true"),
        ({"old_text": "absent", "new_text": "x", "all": True}, "stands in no cell"),
        ({"old_text": "absent", "new_text": "x", "all": True, "index": 1}, "does not stand in cell 1.*nearest line"),
        ({"old_text": "d", "new_text": "x", "all": True, "word": True}, "80 cells have it inside longer words"),
        ({"old_text": "df", "new_text": "x", "index": 0, "word": True}, "inside longer words"),
        ({"old_text": "", "new_text": "x", "all": True}, "old_text is empty"),
    ],
)
async def test_a_text_to_replace_that_is_not_clear_is_refused(
    service: NotebookService, frames: Path, step: dict[str, Any], message: str
) -> None:
    before = digest(frames)
    with pytest.raises(InvalidArgumentError, match=message):
        await service.edit("n.ipynb", [{"op": "replace_text", **step}])
    assert digest(frames) == before


async def test_all_matches_of_one_cell_are_shown_as_changed_lines(service: NotebookService, frames: Path) -> None:
    step = {"op": "replace_text", "old_text": "df", "new_text": "f", "index": 1, "all": True}
    edited = await service.edit("n.ipynb", [step])

    (change,) = edited.summary
    assert change.notes == ["4 places replaced", "1 output dropped"]
    assert [line for line in change.lines if line[0] == "+"] == ["+f2 = my_f", "+f.x[1] = f"]


@pytest.mark.case("R04")
async def test_an_edit_that_another_program_has_undone_is_told(service: NotebookService, path: Path) -> None:
    """Another program has an old copy open and saves it."""
    old = path.read_bytes()
    index = 1
    await service.update_cell(str(path), Update(CellRef(index=index), source="changed = 1"))
    path.write_bytes(old.replace(b"Title", b"Their title"))
    told = await service.update_cell(str(path), Update(CellRef(index=0), source="# Mine"))
    again = await service.update_cell(str(path), Update(CellRef(index=0), source="# Mine, too"))

    assert told.notes
    assert again.notes is None


@pytest.mark.case("R04")
@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "add", "cell_type": "code", "source": "new"}],
        [{"op": "remove", "index": 1}],
        [{"op": "move", "index": 0, "to": 2}],
        [{"op": "set_tags", "index": 1, "tags": ["mine"]}],
        [{"op": "set_metadata", "index": 1, "metadata": {"mine": 1}}],
        [{"op": "set_metadata", "metadata": {"mine": 1}}],
        [{"op": "clear_outputs"}],
    ],
    ids=lambda operations: operations[0]["op"],
)
async def test_each_kind_of_edit_that_is_undone_is_told_once(
    operations: list[dict[str, object]], service: NotebookService, path: Path
) -> None:
    notebook = read_json(path)
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "out"}]
    path.write_text(json.dumps(notebook))
    await service.edit(str(path), operations)
    assert (await service.edit(str(path), [{"op": "update", "index": 0, "source": "# Mine"}])).notes is None
    path.write_text(json.dumps(notebook, indent=2))
    told = await service.read(str(path))
    again = await service.edit(str(path), [{"op": "update", "index": 0, "source": "# Mine"}])

    assert told.note is not None
    assert "undone" in told.note
    assert again.notes is None


@pytest.mark.case("R04")
async def test_a_cell_that_was_changed_twice_and_is_as_at_first_is_told(service: NotebookService, path: Path) -> None:
    old = path.read_bytes()
    for source in ("changed = 1", "changed = 2"):
        await service.update_cell(str(path), Update(CellRef(index=1), source=source))
    await service.update_cell(str(path), Update(CellRef(index=0), source="# Mine"))
    path.write_bytes(old)

    assert (await service.read(str(path))).note is not None


async def test_another_edit_of_the_same_cell_is_no_undoing(service: NotebookService, path: Path) -> None:
    await service.update_cell(str(path), Update(CellRef(index=1), source="changed = 1"))
    path.write_bytes(path.read_bytes().replace(b"changed = 1", b"changed = 2"))
    edited = await service.update_cell(str(path), Update(CellRef(index=0), source="# Mine"))

    assert edited.notes is None
