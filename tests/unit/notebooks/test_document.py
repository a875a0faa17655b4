"""Every byte that an edit does not mean stays, and what is written is what nbformat would write."""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.iorw import write_ipynb
from styles import SMALL, STYLES

from dev.fuzz import examples
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument, split_lines_for_file
from papermill_mcp.core.documents.json_text import Style, same
from papermill_mcp.errors import (
    CellNotFoundError,
    InvalidArgumentError,
    InvalidNotebookError,
    NotANotebookError,
    ServerError,
)

v4: Any = nbformat.v4  # untyped
writes: Any = nbformat.writes

BROKEN = (InvalidNotebookError, NotANotebookError)

each_style = pytest.mark.parametrize("write", STYLES.values(), ids=STYLES.keys())


def parsed(data: bytes | str | dict[str, Any]) -> NotebookDocument:
    if isinstance(data, dict):
        data = STYLES["nbformat"](data)
    return NotebookDocument.parse(data.encode() if isinstance(data, str) else data, display_path="n.ipynb")


def loaded(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"))


def plain(cell: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(split_lines_for_file(cell)))


# What stays


@each_style
def test_a_notebook_that_is_not_edited_renders_to_its_own_bytes(write: Callable[[Any], bytes]) -> None:
    data = write(SMALL)
    document = parsed(data)

    assert document.render() == data
    assert [cell.data for cell in document.cells] == SMALL["cells"]
    assert document.metadata == SMALL["metadata"]


@pytest.mark.case("N13")
@pytest.mark.parametrize(
    "text",
    [
        '{"cells":[],"nbformat":4}',
        '{ "nbformat" : 4 , "cells" : [ \n ] , "metadata" : { } }  ',
        '{"cells":[{ } , {"a":1.0e3,"b":NaN,"c":-Infinity,"d":"\\u00e9\\/\\ud83d\\ude00\\ud800"}],"nbformat":4}',
        '{"x":1,"x":2,"cells":[{"source":"a","source":"b"}],"nbformat":4,"nbformat_minor":4}',
        '{"cells":[{"a":1}],"nbformat":4,"cells" : [{"b":2} ,{"c":3}]}',
        '{"metadata":{"cells":[1]},"nbformat":4,"nbformat_minor":2,"cells":[{"cell_type":"odd","outputs":null}]}',
        '{"cells":[{"n":123456789012345678901234567890,"m":1E400,"z":-0.0}],"nbformat":4}',
    ],
)
def test_odd_but_valid_json_renders_to_its_own_bytes(text: str) -> None:
    document = parsed(text)

    assert document.render() == text.encode()
    assert same([cell.data for cell in document.cells], loaded(text.encode())["cells"])


@pytest.mark.case("N15")
@each_style
def test_an_edit_of_one_source_changes_no_other_byte(write: Callable[[Any], bytes]) -> None:
    """What is written looks as the program that wrote the file would have written it."""
    document = parsed(write(SMALL))
    document.update(1, {"source": "y = 2\nz = 'ü'"})
    expected = copy.deepcopy(SMALL)
    expected["cells"][1]["source"] = ["y = 2\n", "z = 'ü'"]

    assert document.render() == write(expected)


@each_style
def test_outputs_and_count_are_set_in_the_style_of_the_file(write: Callable[[Any], bytes]) -> None:
    document = parsed(write(SMALL))
    outputs = [{"name": "stdout", "output_type": "stream", "text": "ä\nb"}]
    document.update(1, {"outputs": outputs, "execution_count": 4})
    expected = copy.deepcopy(SMALL)
    expected["cells"][1] |= {"outputs": [{**outputs[0], "text": ["ä\n", "b"]}], "execution_count": 4}

    assert document.render() == write(expected)


@pytest.mark.parametrize(
    "write", [pytest.param(write, id=name) for name, write in STYLES.items() if name != "unsorted"]
)
def test_new_members_and_cells_are_written_in_the_style_of_the_file(write: Callable[[Any], bytes]) -> None:
    document = parsed(write(SMALL))
    document.update(0, {"attachments": {}, "zoo": [1]}, drop=["metadata"])
    document.insert(1, {"source": "a\nb", "metadata": {}, "id": "new", "cell_type": "raw"})
    document.insert(4, {"source": "", "metadata": {}, "id": "end", "cell_type": "raw"})
    document.insert(0, {"source": "", "metadata": {}, "id": "start", "cell_type": "raw"})
    document.move(1, 4)
    document.set_member("metadata", {"b": [], "a": {"c": 1}})
    document.set_member("extra", None)
    cells = copy.deepcopy(SMALL["cells"])
    cells[0] |= {"attachments": {}, "zoo": [1]}
    del cells[0]["metadata"]
    cells.insert(1, {"cell_type": "raw", "id": "new", "metadata": {}, "source": ["a\n", "b"]})
    cells.append({"cell_type": "raw", "id": "end", "metadata": {}, "source": []})
    cells.insert(0, {"cell_type": "raw", "id": "start", "metadata": {}, "source": []})
    cells.insert(4, cells.pop(1))

    expected = SMALL | {"cells": cells, "metadata": {"b": [], "a": {"c": 1}}, "extra": None}
    assert document.render() == write(expected)


@each_style
def test_removing_and_inserting_every_cell_gives_the_same_bytes(write: Callable[[Any], bytes]) -> None:
    data = write(SMALL)
    document = parsed(data)
    removed = [document.remove(0) for _ in SMALL["cells"]]
    assert loaded(document.render())["cells"] == []
    for cell in reversed(removed):
        document.insert(0, cell)

    assert document.render() == data


@each_style
def test_equal_values_change_no_byte(write: Callable[[Any], bytes]) -> None:
    data = write(SMALL)
    document = parsed(data)
    for index, cell in enumerate(document.cells):
        document.update(index, cell.data, drop=["none"])
        document.update(
            index, {"source": cell.source, "outputs": cell.outputs} if cell.outputs else {"id": cell.cell_id}
        )
    document.update(1, {"outputs": v4.reads(json.dumps(SMALL)).cells[1].outputs})  # texts joined, as nbformat reads
    document.set_member("metadata", copy.deepcopy(SMALL["metadata"]))
    document.move(1, 1)

    assert document.render() == data


def test_a_true_in_place_of_a_one_is_a_change() -> None:
    document = parsed('{"cells":[{"execution_count":1,"x":1.0}],"nbformat":4}')
    document.update(0, {"execution_count": True, "x": 1})

    assert document.render() == b'{"cells":[{"execution_count":true,"x":1}],"nbformat":4}'


def test_members_that_are_not_named_keep_their_text() -> None:
    cell = '{"weird" :  1.0e3,"a":NaN,"a":"\\u0041", "source":"x",\n"outputs":[ ] }'
    document = parsed(f'{{"cells":[{cell}],"nbformat":4}}')
    document.update(0, {"source": "y"})
    assert (
        document.render().decode()
        == f'{{"cells":[{cell.replace(chr(34) + "x" + chr(34), chr(34) + "y" + chr(34))}],"nbformat":4}}'
    )

    document.update(0, {}, drop=["a"])
    assert document.render().decode() == '{"cells":[{"weird" :  1.0e3, "source":"y",\n"outputs":[ ] }],"nbformat":4}'


def test_a_source_is_written_as_its_cell_writes_it() -> None:
    document = parsed(
        {**SMALL, "cells": [{"cell_type": "raw", "source": "a\nb"}, {"cell_type": "raw", "source": ["a"]}]}
    )
    document.update(0, {"source": "c\nd"})
    document.update(1, {"source": "c\nd"})

    assert document.cells[0].data["source"] == "c\nd"
    assert document.cells[1].data["source"] == ["c\n", "d"]


def test_a_new_cell_follows_a_file_that_writes_sources_as_strings() -> None:
    document = parsed({**SMALL, "cells": [{"cell_type": "raw", "source": "a\nb"}]})
    document.insert(1, {"cell_type": "raw", "source": "c\nd"})

    assert document.cells[1].data["source"] == "c\nd"


def test_lines_cut_elsewhere_are_not_a_change() -> None:
    document = parsed({**SMALL, "cells": [{"cell_type": "raw", "source": ["a\nb", "", "\nc"]}]})
    before = document.render()
    document.update(0, {"source": "a\nb\nc"})

    assert document.render() == before


def test_a_new_cell_follows_the_key_order_of_a_file_that_does_not_sort() -> None:
    text = '{"nbformat":4,"metadata":{},"cells":[{"cell_type":"code","source":"a","metadata":{},"outputs":[]}]}'
    document = parsed(text)
    document.insert(1, {"metadata": {"z": 1, "a": 2}, "outputs": [], "cell_type": "code", "source": "b"})

    assert list(document.cells[1].data) == ["cell_type", "source", "metadata", "outputs"]
    assert (
        document.render().decode().startswith(text[:-2] + ',{"cell_type":"code","source":"b","metadata":{"z":1,"a":2}')
    )


def test_escapes_are_kept_where_the_file_escapes() -> None:
    lone = parsed({**SMALL, "cells": [{"cell_type": "raw", "source": ["\\u00e9 is no escape", "\x1b"]}]})
    lone.insert(0, {"cell_type": "raw", "source": "é"})
    assert "é" in lone.render().decode()

    escaped = parsed(json.dumps(SMALL))
    escaped.update(2, {"source": "é😀"})
    assert rb"\u00e9\ud83d\ude00" in escaped.render()


# What is written


def notebooks() -> dict[str, Any]:
    code = v4.new_code_cell("x\u2028y\x0c\nz\r\n", id="a", execution_count=1)
    code.metadata.update({"trusted": True, "tags": ["b", "a"], "é": {"z": 1, "a": [[], {}, [[]], -0.0, 1e22, 10**30]}})
    code.outputs = [
        v4.new_output("stream", text="a\n\nb\n"),
        v4.new_output("stream", text=""),
        v4.new_output("display_data", data={"text/html": "<b>\n</b>", "image/png": "aa\nbb", "image/svg+xml": "<s>\n"}),
        v4.new_output("execute_result", data={"application/javascript": "a\nb", "application/json": {"t": "a\nb"}}),
        v4.new_output("error", ename="E", evalue="a\nb", traceback=["\x1b[31mT\n", "b"]),
    ]
    markdown = v4.new_markdown_cell(
        "![](attachment:a)", id="m", attachments={"a": {"text/plain": "x\ny", "image/png": "q"}}
    )
    full = v4.new_notebook(cells=[code, markdown, v4.new_raw_cell("", id="r")], metadata={"signature": "s", "a": {}})
    full.metadata.orig_nbformat = 3
    old = v4.new_notebook(cells=[v4.new_code_cell("1")])
    old.nbformat_minor = 4
    del old.cells[0]["id"]
    numbers = v4.new_notebook(
        metadata={"f": [float("nan"), float("inf"), -float("inf"), 0.1, 1.0], "k": {"1": None, "": 0}}
    )
    control = v4.new_notebook(cells=[v4.new_markdown_cell("\0\x01\x7f\u2029\ufeff\"\\/'😀", id="c")])
    return {"full": full, "empty": v4.new_notebook(), "4.4": old, "numbers": numbers, "control": control}


@pytest.mark.parametrize("name", notebooks())
def test_a_document_made_of_a_node_is_what_nbformat_writes(name: str) -> None:
    node = notebooks()[name]
    untouched = copy.deepcopy(node)
    written = writes(node)

    assert NotebookDocument.from_node(node).render().decode() == written
    assert NotebookDocument.from_node(node, final_newline=True).render().decode() == written + "\n"
    assert parsed(written).render().decode() == written
    assert same(node, untouched)


def test_papermill_ends_its_files_as_a_document_made_of_a_node_does(tmp_path: Any) -> None:
    node = notebooks()["full"]
    write_ipynb(node, str(tmp_path / "n.ipynb"))

    assert NotebookDocument.from_node(node).render() == (tmp_path / "n.ipynb").read_bytes()


def test_a_new_notebook_grows_as_nbformat_would_write_it() -> None:
    document = NotebookDocument.new({"kernelspec": {"name": "python3", "language": "python", "display_name": "P"}})
    node = v4.new_notebook(metadata=document.metadata)
    assert document.render().decode() == writes(node) + "\n"
    for cell in notebooks()["full"].cells[1:]:
        document.insert(0, cell)
        node.cells.insert(0, cell)
        assert document.render().decode() == writes(node) + "\n"
    assert document.language == "python"
    assert document.kernel_name == "python3"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5).map(lambda s: s.encode("utf-8", "replace").decode()), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(JSON)
@examples(200)
def test_the_default_style_writes_what_json_writes(value: Any) -> None:
    expected = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, separators=(",", ": "))

    assert Style().dump(value, "\n") == expected
    assert Style(unit=None).dump(value, "") == json.dumps(value, sort_keys=True, ensure_ascii=False)
    assert Style(unit="\t", ascii_only=True).dump(value, "\n") == json.dumps(value, indent="\t", sort_keys=True)
    assert same(json.loads(expected), value)


def test_lone_surrogates_are_written_as_escapes() -> None:
    document = parsed(SMALL)
    document.update(0, {"source": "a\ud83d", "metadata": {"\udc00": ["\ud83d", "\ude00"]}})
    document.insert(0, {"cell_type": "raw", "source": "\ud83d\ude00"})
    document.set_member("metadata", {"x": "\udfff"})
    again = parsed(document.render())

    assert again.cells[1].source == "a\ud83d"
    assert again.cells[0].source == "😀"
    assert again.metadata == {"x": "\udfff"}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [object(), {1, 2}, deep(100_000), 10**5000, {"a": b"\xff"}, {"1": 1, 1: 2}], ids=type)
def test_what_is_no_json_is_refused_and_nothing_changes(value: object) -> None:
    document = parsed(SMALL)
    before = document.render()
    edits: list[Callable[[], object]] = [
        lambda: document.update(0, {"metadata": {"x": value}}),
        lambda: document.insert(0, {"cell_type": "raw", "source": "", "metadata": {"x": value}}),
        lambda: document.set_member("metadata", {"x": value}),
    ]
    for edit in edits:
        with pytest.raises(InvalidArgumentError, match="cannot be stored"):
            edit()
        assert document.render() == before


# Which cell is meant


def test_cells_are_found_by_id_and_by_index() -> None:
    document = parsed(SMALL)

    assert document.find(cell_id="load", display_path="n.ipynb") == 1
    assert document.find(index=0, display_path="n.ipynb") == 0
    assert document.find(index=-1, display_path="n.ipynb") == 2


def test_an_unknown_id_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CellNotFoundError) as raised:
        parsed(SMALL).find(cell_id="laod", display_path="n.ipynb")

    assert "n.ipynb has no cell 'laod'. Its cells: intro, load, last." in str(raised.value)
    assert "Did you mean 'load'?" in str(raised.value)


@pytest.mark.parametrize("wrong", ["z" * 10_000, "1" * 300, "12" * 149])
def test_the_answer_to_an_unknown_id_is_bounded(wrong: str) -> None:
    document = parsed({**SMALL, "cells": [{"cell_type": "raw", "id": f"{n}" * 300} for n in range(10, 500)]})
    with pytest.raises(CellNotFoundError, match="490 ids") as raised:
        document.find(cell_id=wrong, display_path="n.ipynb")

    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(("wrong", "near"), [("trian-0037", "train-0037"), ("train-003", "train-0030"), ("a0", None)])
def test_an_unknown_id_of_a_large_notebook_is_answered_with_the_nearest_ones(wrong: str, near: str | None) -> None:
    cells = [{"cell_type": "raw", "id": f"train-{n:04}"} for n in range(300)]
    with pytest.raises(CellNotFoundError) as raised:
        parsed({**SMALL, "cells": cells}).find(cell_id=wrong, display_path="n.ipynb")

    message = str(raised.value)
    assert message.count("train-0") <= 7, "the wrong one, five near ones and the likeliest"
    assert (f"Did you mean {near!r}?" in message) == (near is not None)
    assert "outline" in message or near is not None


def test_an_unknown_id_of_a_small_notebook_is_answered_with_all() -> None:
    cells = [{"cell_type": "raw", "id": f"c{n:02}"} for n in range(20)]
    with pytest.raises(CellNotFoundError) as raised:
        parsed({**SMALL, "cells": cells}).find(cell_id="other", display_path="n.ipynb")

    assert all(one["id"] in str(raised.value) for one in cells)


@pytest.mark.case("B04")
@pytest.mark.parametrize("index", [3, -4, 10**30, -(10**30), 10**5000], ids=range(5))
def test_an_index_out_of_range_is_answered_with_the_range(index: int) -> None:
    with pytest.raises(CellNotFoundError, match=r"3 cells: index 0 to 2, or -3 to -1") as raised:
        parsed(SMALL).find(index=index, display_path="n.ipynb")

    assert len(str(raised.value)) < 300


def test_a_doubled_id_must_be_told_apart_by_index() -> None:
    document = parsed({**SMALL, "cells": [{"id": "a"}, {"id": "b"}, {"id": "a"}]})
    with pytest.raises(CellNotFoundError, match=r"index 0, 2.*by its index"):
        document.find(cell_id="a", display_path="n.ipynb")


@pytest.mark.parametrize("names", [{}, {"index": 0, "cell_id": "load"}])
def test_a_cell_has_exactly_one_name(names: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="exactly one"):
        parsed(SMALL).find(**names, display_path="n.ipynb")


def test_an_edit_out_of_range_is_refused() -> None:
    document = parsed(SMALL)
    edits: list[Callable[[], object]] = [
        lambda: document.update(3, {"source": ""}),
        lambda: document.remove(-4),
        lambda: document.move(0, 3),
        lambda: document.insert(4, {}),
        lambda: document.insert(-1, {}),
    ]
    for edit in edits:
        with pytest.raises(CellNotFoundError):
            edit()


# Ids


def test_ids_are_neither_invented_nor_renamed_by_the_edit_of_another_cell() -> None:
    cells = [
        {"cell_type": "raw", "id": "a", "source": "1"},
        {"cell_type": "raw", "id": "a", "source": "2"},
        {"source": "3"},
    ]
    document = parsed({**SMALL, "cells": cells})
    document.update(0, {"source": "x"})
    document.move(0, 2)
    document.insert(1, {"cell_type": "raw", "source": "new"})

    assert [cell.cell_id for cell in document.cells][::2] == ["a", None][:2]
    assert re.fullmatch("[0-9a-f]{8}", document.cells[1].cell_id or "")


def test_notebooks_before_4_5_get_no_ids() -> None:
    document = parsed({**SMALL, "nbformat_minor": 4, "cells": []})
    document.insert(0, {"cell_type": "raw", "id": "x", "source": ""})

    assert not document.supports_ids
    assert document.cells[0].cell_id is None
    document.set_member("nbformat_minor", 5)
    assert document.supports_ids


@pytest.mark.parametrize("cell_id", ["load", "", "a b", "x" * 65, 3])
def test_a_bad_or_taken_id_is_refused(cell_id: object) -> None:
    document = parsed(SMALL)
    with pytest.raises(InvalidArgumentError):
        document.insert(0, {"cell_type": "raw", "id": cell_id, "source": ""})
    with pytest.raises(InvalidArgumentError):
        document.update(0, {"id": cell_id})


# What a cell says


def test_cells_tell_what_they_hold() -> None:
    cell = parsed(SMALL).cells[1]

    assert (cell.cell_type, cell.cell_id, cell.tags) == ("code", "load", ["parameters"])
    assert cell.source == "x = 1\nprint('\"\\\\é')"
    assert cell.outputs[0]["text"] == ["a\n", "b"]


@pytest.mark.parametrize("value", [None, 3, {}, [1, None], "x"])
def test_cells_with_members_of_any_type_still_answer(value: Any) -> None:
    names = ("cell_type", "id", "source", "outputs", "metadata")
    cell = parsed({**SMALL, "cells": [dict.fromkeys(names, value)]}).cells[0]

    assert isinstance(cell.cell_type, str)
    assert cell.cell_id in {None, "x"}
    assert isinstance(cell.source, str)
    assert (cell.tags, cell.outputs) == ([], [])
    assert NotebookCell({"metadata": {"tags": value}}).tags == []


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": None, "language_info": 3}, {"kernelspec": {"name": 3}}])
def test_metadata_without_a_kernel_give_none(metadata: dict[str, Any]) -> None:
    document = parsed({**SMALL, "metadata": metadata})

    assert (document.language, document.kernel_name) == (None, None)


# Broken files

GOOD = STYLES["nbformat"](SMALL)
CASES: dict[str, tuple[bytes, type[ServerError], str]] = {
    "empty": (b"", NotANotebookError, "empty"),
    "blank": (b" \n\n", NotANotebookError, "empty"),
    "list": (b"[]", NotANotebookError, "not an object"),
    "number": (b"3", NotANotebookError, "not an object"),
    "null": (b"null", NotANotebookError, "not an object"),
    "other object": (b'{"a": 1}', NotANotebookError, "no nbformat"),
    "no cells": (b'{"nbformat": 4, "metadata": {}}', NotANotebookError, "no cells"),
    "cells no list": (b'{"nbformat": 4, "cells": {}}', InvalidNotebookError, "not a list but an object"),
    "cells null": (b'{"nbformat": 4, "cells": null}', InvalidNotebookError, "not a list but null"),
    "cells twice": (b'{"nbformat": 4, "cells": [], "cells": 1}', InvalidNotebookError, "not a list but an integer"),
    "cell no object": (
        b'{"nbformat": 4, "cells": [{},\n  3]}',
        InvalidNotebookError,
        "index 1 .line 2, column 3. an integer",
    ),
    "truncated": (GOOD[:300], InvalidNotebookError, r"line \d+, column \d+.*ends too early"),
    "cut in a string": (GOOD[: GOOD.index(b"print") + 2], InvalidNotebookError, "ends too early"),
    "trailing comma": (
        b'{"nbformat": 4,\n "cells": [{},]}',
        InvalidNotebookError,
        r"line 2, column 1[45].*edited by hand",
    ),
    "extra data": (GOOD + b"{}", InvalidNotebookError, "Extra data"),
    "merge conflict": (
        GOOD.replace(b'  {\n   "cell_type": "code"', b'<<<<<<< HEAD\n  {\n   "cell_type": "code"'),
        InvalidNotebookError,
        "merge conflict markers, the first at line 12, column 1",
    ),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", NotANotebookError, "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html>", NotANotebookError, "raw file"),
    "text": (b"hello", NotANotebookError, "line 1, column 1"),
    "utf-16": (GOOD.decode().encode("utf-16"), NotANotebookError, "UTF-16"),
    "utf-16-be": (GOOD.decode().encode("utf-16-be"), NotANotebookError, "UTF-16-BE"),
    "utf-32": (GOOD.decode().encode("utf-32"), NotANotebookError, "UTF-32"),
    "nuls": (b"\0" * 4096, NotANotebookError, "NUL"),
    "nul inside": (GOOD.replace(b"print", b"pr\0nt"), NotANotebookError, "1 NUL"),
    "nul tail": (GOOD + b"\0" * 50, NotANotebookError, "50 NUL"),
    "latin-1": (b'{"nbformat": 4,\n "x": "\xe9"}', InvalidNotebookError, r"0xe9 at offset 23 \(line 2, column 8\)"),
    "deep": (b'{"nbformat": 4, "cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", InvalidNotebookError, "too deeply"),
    "deep objects": (b'{"cells": [' + b'{"a":' * 100_000, InvalidNotebookError, "too deeply"),
    "long number": (
        b'{"nbformat": 4,\n"cells": [{"x": ' + b"9" * 5000 + b"}]}",
        InvalidNotebookError,
        "line 2, column 17",
    ),
    "v99": (b'{"nbformat": 99, "cells": []}', InvalidNotebookError, "nbformat 99"),
    "v2": (b'{"nbformat": 2, "worksheets": []}', InvalidNotebookError, "nbformat 2"),
    "version as text": (b'{"nbformat": "4", "cells": []}', InvalidNotebookError, "whole numbers"),
    "version true": (b'{"nbformat": true, "cells": []}', InvalidNotebookError, "whole numbers"),
    "minor as text": (b'{"nbformat": 4, "nbformat_minor": null, "cells": []}', InvalidNotebookError, "whole numbers"),
}


@pytest.mark.case("N01", "N02", "N04", "N05", "N06", "N07", "N08", "N09", "N10", "N11", "N12")
@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_told_with_place_and_cause(name: str) -> None:
    data, kind, words = CASES[name]
    with pytest.raises(ServerError, match=f"(?s){words}") as raised:
        parsed(data)

    assert type(raised.value) is kind
    assert "n.ipynb" in str(raised.value)
    assert "The file is unchanged" in str(raised.value)
    assert len(str(raised.value)) < 600


def test_every_cut_of_a_file_is_an_error_of_ours() -> None:
    for end in range(len(GOOD) - 1):
        with pytest.raises(BROKEN):
            parsed(GOOD[:end]) if end < len(GOOD) - 2 else parsed(b"")


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@examples(300)
def test_bytes_of_any_kind_get_an_answer_of_ours(data: bytes) -> None:
    for candidate in (data, b'{"nbformat": 4, "cells": [' + data + b"]}", b'{"nbformat": 4, "cells": [], "x": ' + data):
        try:
            document = parsed(candidate)
        except BROKEN:
            continue
        assert document.render() == candidate


def test_a_big_number_within_the_limit_of_the_interpreter_is_kept() -> None:
    digits = "9" * (sys.get_int_max_str_digits() or 4300)
    document = parsed('{"nbformat": 4, "cells": [{"x": %s, "source": "a"}]}' % digits)  # noqa: UP031 - too long for f
    document.update(0, {"source": "b"})

    assert digits in document.render().decode()


V3: dict[str, Any] = {
    "metadata": {"name": "old"},
    "nbformat": 3,
    "nbformat_minor": 0,
    "worksheets": [
        {
            "cells": [
                {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Title"]},
                {
                    "cell_type": "code",
                    "collapsed": False,
                    "input": ["1 +\n", "1"],
                    "language": "python",
                    "outputs": [
                        {"output_type": "pyout", "prompt_number": 1, "text": ["2"], "png": "aGk=", "metadata": {}},
                        {"output_type": "stream", "stream": "stderr", "text": "w"},
                        {"output_type": "pyerr", "ename": "E", "evalue": "v", "traceback": ["t"]},
                    ],
                    "prompt_number": 1,
                },
            ]
        }
    ],
}


def test_a_copy_without_outputs_has_all_the_rest() -> None:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": "a", "metadata": {"tags": ["x"]}, "source": ["1\n", "2"], "mine": 1}
        | {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["y" * 1000]}]},
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "text", "attachments": {"i": {"a/b": "c"}}},
        {"cell_type": "code", "metadata": {}, "source": []},
    ]
    node = {"cells": cells, "metadata": {"kernelspec": {"name": "k"}}, "nbformat": 4, "nbformat_minor": 4, "more": [1]}
    document = parsed(json.dumps(node))
    before = document.render()
    light = document.without_outputs()

    for cell in (cells[0], cells[2]):
        cell |= {"outputs": [], "execution_count": None}
    cells[1]["source"] = ["text"]
    assert json.loads(light.render()) == node
    assert document.render() == before


@pytest.mark.case("N12")
def test_version_3_is_read_and_not_edited() -> None:
    data = json.dumps(V3, indent=1).encode()
    document = parsed(data)

    assert (document.nbformat, document.render()) == (3, data)
    assert [(cell.cell_type, cell.source) for cell in document.cells] == [("markdown", "## Title"), ("code", "1 +\n1")]
    assert [output["output_type"] for output in document.cells[1].outputs] == ["execute_result", "stream", "error"]
    assert document.cells[1].outputs[0]["data"] == {"text/plain": ["2"], "image/png": "aGk="}
    assert document.cells[1].outputs[1]["name"] == "stderr"
    edits: list[Callable[[], object]] = [
        lambda: document.insert(0, {}),
        lambda: document.remove(0),
        lambda: document.move(0, 1),
        lambda: document.update(0, {"source": ""}),
        lambda: document.set_member("metadata", {}),
    ]
    for edit in edits:
        with pytest.raises(InvalidNotebookError, match="Convert it first"):
            edit()
    assert document.render() == data


# A model


def random_cell(chance: random.Random) -> dict[str, Any]:
    text = "".join(
        chance.choice(["a", "\n", "é", '"', "\\", "\u2028", "😀", "{", "]"]) for _ in range(chance.randint(0, 8))
    )
    kind = chance.choice(["code", "markdown", "raw"])
    cell: dict[str, Any] = {"cell_type": kind, "metadata": chance.choice([{}, {"tags": ["a"], "n": 1.5}])}
    cell["source"] = text if chance.random() < 0.3 else text.splitlines(True)
    if kind == "code":
        cell["execution_count"] = chance.choice([None, 1])
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": [text]}] * chance.randint(0, 2)
    return cell


@pytest.mark.case("N24")
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(STYLES)), st.integers(0, 5), st.integers(1, 8))
@examples(300)
def test_edits_agree_with_a_list_and_leave_the_other_cells_byte_equal(
    chance: random.Random, style: str, cells: int, edits: int
) -> None:
    model: list[dict[str, Any]] = [{**random_cell(chance), "id": f"c{number}"} for number in range(cells)]
    start = STYLES[style]({**SMALL, "cells": model})
    document = parsed(start)
    texts = [bytes(cell.raw) for cell in document.cells]
    for number in range(edits):
        action = chance.choice(["insert", "remove", "move", "update", "drop", "metadata"])
        at = chance.randrange(len(model)) if model else 0
        if action == "insert":
            at = chance.randint(0, len(model))
            new = {**random_cell(chance), "id": f"n{number}"}
            document.insert(at, new)
            model.insert(at, new)
            texts.insert(at, bytes(document.cells[at].raw))
        elif action == "metadata":
            document.set_member("metadata", {"edit": number})
        elif not model:
            continue
        elif action == "remove":
            removed = document.remove(at)
            assert plain(removed) == plain(model.pop(at))
            texts.pop(at)
        elif action == "move":
            to = chance.randrange(len(model))
            document.move(at, to)
            model.insert(to, model.pop(at))
            texts.insert(to, texts.pop(at))
        elif action == "update":
            other = random_cell(chance)
            changed = {"source": other["source"], "metadata": other["metadata"], "new": number}
            document.update(at, changed)
            model[at] = model[at] | changed
            texts[at] = bytes(document.cells[at].raw)
        else:
            document.update(at, {}, drop=["metadata", "execution_count"])
            model[at] = {k: v for k, v in model[at].items() if k not in {"metadata", "execution_count"}}
            texts[at] = bytes(document.cells[at].raw)

        assert [bytes(cell.raw) for cell in document.cells] == texts
        rendered = loaded(document.render())
        for written, wanted, cell in zip(rendered["cells"], model, document.cells, strict=True):
            assert written == cell.data
            assert "".join(written["source"]) == "".join(wanted["source"])
            assert plain({**written, "source": ""}) == plain({**wanted, "source": ""})
        again = parsed(document.render())
        assert [bytes(cell.raw) for cell in again.cells] == texts
        assert {k: v for k, v in rendered.items() if k not in {"cells", "metadata"}} == {
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    assert document.render().startswith(b"\xef\xbb\xbf") == start.startswith(b"\xef\xbb\xbf")
