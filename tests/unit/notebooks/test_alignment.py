"""Cells are found again in a later version of their notebook."""

from __future__ import annotations

import json
import time
from typing import Any

from helpers import cell
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.documents.alignment import aligned, corresponding
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


def plain(*sources: str, cell_type: str = "code") -> list[NotebookCell]:
    """Cells of a notebook of nbformat 4.4, which have no ids."""
    made = [{key: value for key, value in cell(source, cell_type).items() if key != "id"} for source in sources]
    content = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    return NotebookDocument.parse(json.dumps(content).encode(), display_path="n.ipynb").cells


def test_without_ids_an_edited_cell_is_the_one_with_most_words_in_common() -> None:
    old = plain("import a", "x = load(path)\ny = x + 1", "plot(x, y)", "show()")
    new = plain("import a", "first = 5", "x = load(path, 3)\ny = x + 1", "plot(x, y, z)", "show()")

    assert aligned(old, new) == {0: 0, 3: 4}
    assert corresponding(old, new) == {0: 0, 1: 2, 2: 3, 3: 4}


def test_a_replaced_cell_and_headings_are_no_edits() -> None:
    old, new = plain("import a", "x = 1", "show()"), plain("import a", "def f(n): ...", "show()")
    assert corresponding(old, new) == {0: 0, 2: 2}

    old, new = plain("# Data", "# Plots", cell_type="markdown"), plain("# Exercises", "# Ends", cell_type="markdown")
    assert corresponding(old, new) == {}


def test_a_cell_without_an_id_is_found_at_another_place_if_its_text_is_its_own() -> None:
    old = plain("a = 1", "b = 2", "c = 3", "a = 0", "d = 4")
    new = plain("b = 2", "c = 3", "d = 4", "a = 1")

    assert corresponding(old, new) == {0: 3, 1: 0, 2: 1, 4: 2}


def test_new_ids_for_old_cells_make_no_new_cells() -> None:
    old = cells_of([cell("a = 1", cell_id="a"), cell("b = f(1, 2)", cell_id="b"), cell("c", cell_id="c")])
    new = cells_of([cell("a = 1", cell_id="x"), cell("b = f(1, 3)", cell_id="y"), cell("c", cell_id="z")])

    assert corresponding(old, new) == {0: 0, 1: 1, 2: 2}


def test_where_ids_stay_a_cell_with_another_id_and_source_is_another_cell() -> None:
    old = cells_of([cell("a = 1", cell_id="a"), cell("b = f(1, 2)", cell_id="b")])
    new = cells_of([cell("a = 1", cell_id="a"), cell("b = f(1, 3)", cell_id="y")])

    assert corresponding(old, new) == {0: 0}


def test_many_long_cells_that_are_alike_are_quick() -> None:
    old = plain(*(f"x{number} = f(x, y, z)\n" * 200 for number in range(90)))
    new = plain(*(f"y{number} = f(x, y, z)\n" * 200 for number in range(90)))
    began = time.perf_counter()

    assert len(corresponding(old, new)) == 90
    assert time.perf_counter() - began < 10


@given(st.lists(st.sampled_from(["", "a = 1", "a = 2", "f(a, b, c)", "f(a, b)"]), max_size=9), st.data())
def test_any_two_notebooks_give_each_cell_one_counterpart(sources: list[str], data: st.DataObject) -> None:
    others = data.draw(st.permutations([*sources, "new"]))
    found = corresponding(plain(*sources), plain(*others))

    assert len(set(found.values())) == len(found)
    assert all(0 <= one < len(sources) and 0 <= other < len(others) for one, other in found.items())
