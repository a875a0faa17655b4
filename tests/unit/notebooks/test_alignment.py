"""Cells are found again in a later version of their notebook."""

from __future__ import annotations

import json
from typing import Any

from helpers import cell
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.documents.alignment import aligned
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument


def cells_of(cells: list[dict[str, Any]]) -> list[NotebookCell]:
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return NotebookDocument.parse(json.dumps(content).encode(), display_path="n.ipynb").cells


def with_output(source: str, text: str) -> dict[str, Any]:
    return cell(source) | {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}]}


def test_cells_with_ids_are_found_wherever_they_stand() -> None:
    old = cells_of([cell("same", cell_id=name) for name in "abc"])
    new = cells_of([cell("new", cell_id="x"), *(cell("edited", cell_id=name) for name in "cab")])

    assert aligned(old, new) == {0: 2, 1: 3, 2: 1}


def test_a_removed_cell_with_an_id_is_nowhere() -> None:
    old = cells_of([cell("same", cell_id="a"), cell("same", cell_id="b")])
    new = cells_of([cell("same", cell_id="b"), cell("same", cell_id="c")])

    assert aligned(old, new) == {1: 0}


def test_a_copy_without_outputs_is_not_the_cell_that_ran() -> None:
    old = cells_of([with_output("same", "1"), with_output("same", "2"), cell("same")])
    new = cells_of([cell("same"), with_output("same", "1"), with_output("same", "2"), cell("same")])

    assert aligned(old, new) == {0: 1, 1: 2, 2: 3}


def test_a_cell_whose_metadata_changed_is_found_by_its_source() -> None:
    old = cells_of([cell("a"), cell("b"), cell("c")])
    new = cells_of([cell("a"), cell("new"), cell("b", tags=["mine"]), cell("c")])

    assert aligned(old, new) == {0: 0, 1: 2, 2: 3}


def test_cells_that_share_an_id_are_found_by_their_content() -> None:
    old = cells_of([cell("a", cell_id="x"), cell("b", cell_id="x")])
    new = cells_of([cell("new", cell_id="y"), cell("a", cell_id="x"), cell("b", cell_id="x")])

    assert aligned(old, new) == {0: 1, 1: 2}


def test_a_great_change_of_many_equal_cells_is_quick() -> None:
    """The comparison is bounded: 3,000 equal cells against 3,000 others of which each second one is new."""
    old = cells_of([cell("same")] * 3_000)
    new = cells_of([cell(f"new {n}" if n % 2 else "same") for n in range(3_000)])

    found = aligned(old, new)

    assert found[0] == 0
    assert len(set(found.values())) == len(found)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), st.data())
def test_insertions_and_removals_move_the_cells_of_no_id_in_order(sources: list[str], data: st.DataObject) -> None:
    """Each kept cell is found, or none is put in its place; never is one cell two."""
    old = cells_of([with_output(source, str(number)) for number, source in enumerate(sources)])
    kept = [number for number in range(len(old)) if data.draw(st.booleans())]
    made: list[tuple[int | None, dict[str, Any]]] = []
    for number in kept:
        if data.draw(st.booleans()):
            made.append((None, cell(data.draw(st.sampled_from(["a", "b", "c"])))))
        made.append((number, with_output(sources[number], str(number))))

    found = aligned(old, cells_of([content for _, content in made]))

    for index, place in found.items():
        assert made[place][0] in (index, None)
    assert {index for index in kept if index in found and made[found[index]][0] == index} == set(kept)
