"""Notebooks over the limit: read, searched and made smaller without ever being held as a whole."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from helpers import Json, cell, read_json, write_notebook
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.documents.stripping import OutputStripper
from papermill_mcp.errors import CellNotFoundError, ConflictError, InvalidNotebookError, TooLargeError
from papermill_mcp.services.notebook_service import LARGE_FACTOR, NotebookService
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils import file_utils

_LIMIT = 20_000

# Bytes without outputs


def stripped(data: bytes, size: int, *, drop: Callable[[int], bool] = lambda _: True) -> OutputStripper:
    """The result for pieces of `size` bytes."""
    stripper = OutputStripper(most=10**6, drop=drop)
    for start in range(0, len(data), size):
        stripper.feed(data[start : start + size])
    stripper.close()
    return stripper


_TEXT = st.text('ab"\\\\[]{},:\n é\ud83d', max_size=8).map(lambda text: text.encode("utf-8", "replace").decode())
_KEYS = st.sampled_from(["outputs", "cells", "source", "metadata", "", 'out"puts', "x" * 300])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=10,
)
_CELLS = st.lists(
    st.dictionaries(_KEYS, _VALUES | st.lists(st.dictionaries(_KEYS, _VALUES, max_size=2), max_size=3), max_size=4)
    | _VALUES,
    max_size=4,
)


@given(
    cells=_CELLS,
    others=st.dictionaries(_KEYS, _VALUES, max_size=3),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    size=st.integers(1, 40),
    only=st.none() | st.integers(0, 3),
)
def test_outputs_of_cells_go_and_every_other_value_stays(
    cells: list[Any], others: Json, indent: int | None, ascii_only: bool, size: int, only: int | None
) -> None:
    """The measure is json: parsed, emptied, and compared."""
    notebook = {**others, "cells": cells, "metadata": {}}
    data = json.dumps(notebook, indent=indent, ensure_ascii=ascii_only).encode()
    objects = [one for one in cells if isinstance(one, dict)]
    expected = json.loads(data)
    numbers = {}
    for index, one in enumerate(one for one in expected["cells"] if isinstance(one, dict)):
        if isinstance(one.get("outputs"), list) and only in (None, index):
            numbers[index] = sum(isinstance(output, dict | list) for output in one["outputs"])
            one["outputs"] = []
    assert len(objects) >= len(numbers)
    found = stripped(data, size, drop=lambda index: only in (None, index))

    assert json.loads(found.data) == expected
    assert found.kept == len(found.data)
    assert found.outputs == {index: number for index, number in numbers.items() if number}


@given(st.binary(max_size=200), st.integers(1, 20))
def test_bytes_of_any_kind_come_to_an_end(data: bytes, size: int) -> None:
    assert stripped(data, size).kept <= len(data)


def test_every_byte_stays_where_there_are_no_outputs() -> None:
    data = b' { "cells" : [ {"outputs":[ ] , "source":"\\u0022[" } ],\r\n"metadata":{"outputs":[1]} }\n\n'
    assert stripped(data, 3).data == data.replace(b"[ ]", b"[]")


def test_of_two_lists_of_cells_the_last_one_counts() -> None:
    data = b'{"cells": [{"outputs": [{}]}, {"outputs": [{}]}], "cells": [{"outputs": [{}, {}]}]}'
    assert stripped(data, 4).outputs == {0: 2}


def test_a_key_with_escapes_is_the_same_key() -> None:
    assert stripped(rb'{"c\u0065lls": [{"outp\u0075ts": [{}, {}]}]}', 5).outputs == {0: 2}


# Notebooks over the limit


@pytest.fixture
def service(config: MakeConfig, workspace: Path, state_directory: Path) -> NotebookService:
    return NotebookService(config(max_notebook_bytes=_LIMIT), Workspace([workspace]), state_directory)


@pytest.fixture
def path(workspace: Path) -> Path:
    """Over the limit by the outputs of cells 1 and 3."""
    shown = [{"name": "stdout", "output_type": "stream", "text": ["x" * 79 + "\\n"] * 100} for _ in range(2)]
    few = [{"name": "stdout", "output_type": "stream", "text": "few"}]
    cells = [
        cell("# Title", "markdown", cell_id="title"),
        cell("a = 1", cell_id="first") | {"outputs": shown, "execution_count": 1},
        cell("b = 2", cell_id="few") | {"outputs": few, "execution_count": 2},
        cell("c = 3", cell_id="last") | {"outputs": shown, "execution_count": 3},
    ]
    return write_notebook(workspace / "large.ipynb", cells)


async def test_outputs_of_a_large_notebook_are_cleared(service: NotebookService, path: Path) -> None:
    before, size = read_json(path), path.stat().st_size
    edited = await service.edit("large.ipynb", [{"op": "clear_outputs"}])

    for one in before["cells"][1:]:
        one["outputs"], one["execution_count"] = [], None
    assert read_json(path) == before
    assert edited.notes == [
        f"5 outputs of 3 cells dropped; the file had {size:,} bytes and has {path.stat().st_size:,}"
    ]
    assert (await service.read("large.ipynb")).revision == edited.revision


async def test_the_outputs_of_one_cell_are_cleared_where_the_rest_fits(service: NotebookService, path: Path) -> None:
    before = read_json(path)
    with pytest.raises(TooLargeError, match="all cells"):
        await service.edit("large.ipynb", [{"op": "clear_outputs", "cell_id": "few"}])
    assert read_json(path) == before
    await service.edit("large.ipynb", [{"op": "clear_outputs", "cell_id": "first"}])

    before["cells"][1] |= {"outputs": [], "execution_count": None}
    assert read_json(path) == before


async def test_an_edit_goes_on_after_all_outputs_are_cleared(service: NotebookService, path: Path) -> None:
    steps = [{"op": "clear_outputs"}, {"op": "update", "cell_id": "few", "source": "b = 3"}]
    edited = await service.edit("large.ipynb", steps)

    assert [one["source"] for one in read_json(path)["cells"]][2] == "b = 3"
    assert edited.code_cells == [(2, "few")]


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "update", "cell_id": "few", "source": "b = 3"}],
        [{"op": "update", "cell_id": "few", "source": "b = 3"}, {"op": "clear_outputs"}],
        [{"op": "clear_outputs", "cell_id": "first"}, {"op": "remove", "cell_id": "few"}],
        [{"op": "add_ids"}],
    ],
)
async def test_other_edits_of_a_large_notebook_keep_its_outputs(
    service: NotebookService, path: Path, steps: list[Json]
) -> None:
    before = path.read_bytes()
    with pytest.raises(TooLargeError, match="max_notebook_bytes"):
        await service.edit("large.ipynb", steps)
    assert path.read_bytes() == before


async def test_clearing_refuses_what_other_edits_refuse(service: NotebookService, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConflictError):
        await service.edit("large.ipynb", [{"op": "clear_outputs"}], if_revision="0" * 16)
    with pytest.raises(CellNotFoundError):
        await service.edit("large.ipynb", [{"op": "clear_outputs", "cell_id": "nope"}])
    assert path.read_bytes() == before


@pytest.mark.parametrize("same_stamp", [False, True])
async def test_a_change_while_a_large_notebook_is_read_is_not_overwritten(
    service: NotebookService, path: Path, monkeypatch: pytest.MonkeyPatch, same_stamp: bool
) -> None:
    """The other version has the same size."""
    write = file_utils.write_file
    theirs = path.read_bytes().replace(b"a = 1", b"a = 9")

    def late(file: Path, data: bytes, **options: Any) -> file_utils.FileContent:
        if not same_stamp:
            path.write_bytes(theirs)
        return write(file, data, **options)

    monkeypatch.setattr("papermill_mcp.services.notebook_service.write_file", late)
    if same_stamp:  # touched, and the bytes are as they were
        path.touch()
        assert (await service.edit("large.ipynb", [{"op": "clear_outputs"}])).changed
        return
    with pytest.raises(ConflictError):
        await service.edit("large.ipynb", [{"op": "clear_outputs"}])
    assert path.read_bytes() == theirs


async def test_a_notebook_that_breaks_off_is_not_taken_for_a_whole_one(service: NotebookService, path: Path) -> None:
    data = path.read_bytes()
    for end in (len(data) - 3, len(data) // 2, _LIMIT + 100):
        path.write_bytes(data[:end])
        with pytest.raises(InvalidNotebookError):
            await service.edit("large.ipynb", [{"op": "clear_outputs"}])
        assert path.read_bytes() == data[:end]


async def test_there_is_still_a_limit(service: NotebookService, workspace: Path) -> None:
    write_notebook(workspace / "source.ipynb", ["x" * (_LIMIT + 1)])
    with pytest.raises(TooLargeError, match="without these outputs"):
        await service.edit("source.ipynb", [{"op": "clear_outputs"}])
    shown = [{"name": "stdout", "output_type": "stream", "text": "x" * _LIMIT * LARGE_FACTOR}]
    write_notebook(workspace / "huge.ipynb", [cell("1") | {"outputs": shown}])
    with pytest.raises(TooLargeError, match=f"{_LIMIT * LARGE_FACTOR:,}"):
        await service.read("huge.ipynb", outline=True)


async def test_a_large_notebook_is_shown_without_outputs(service: NotebookService, path: Path) -> None:
    view = await service.read("large.ipynb", outline=True)
    sources = await service.read("large.ipynb", outputs="none", cells="last")

    assert [row.outputs for row in view.outline or ()] == [None, 2, 1, 2]
    assert sources.cells[0].source == "c = 3"
    assert view.note is not None
    assert "clear_outputs" in view.note
    for arguments in ({}, {"outputs": "full"}, {"outputs": "none", "first_output": 0, "cells": "1"}):
        with pytest.raises(TooLargeError):
            await service.read("large.ipynb", **arguments)


async def test_a_large_notebook_is_never_held(config: MakeConfig, workspace: Path, state_directory: Path) -> None:
    limit = 1_000_000
    service = NotebookService(config(max_notebook_bytes=limit), Workspace([workspace]), state_directory)
    shown = [{"data": {"image/png": "A" * 900_000}, "metadata": {}, "output_type": "display_data"} for _ in range(15)]
    lines = [{"name": "stdout", "output_type": "stream", "text": ["x" * 79 + "\\n"] * 100_000}]
    path = write_notebook(workspace / "large.ipynb", [cell("1") | {"outputs": shown + lines}, "2"])
    del shown, lines
    assert path.stat().st_size > 20 * limit
    await service.read("large.ipynb", outline=True)  # what is imported late does not count
    tracemalloc.start()
    try:
        await service.read("large.ipynb", outline=True)
        await service.edit("large.ipynb", [{"op": "clear_outputs"}])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8_000_000
    assert path.stat().st_size < 2000
