"""A notebook is read without its outputs. The ratios have bounds that only another way of reading would break."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.places import survey

_ROUNDS = 7


@pytest.fixture(scope="module")
def large() -> bytes:
    """200 cells with 40 kB of output each."""
    text = [f"{number} 0.123456789 some text of an output\n" for number in range(1000)]
    output = {"name": "stdout", "output_type": "stream", "text": text}
    cells = [
        {
            "cell_type": "code",
            "execution_count": number,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [output],
            "source": [f"x_{number} = 1\n", "print(x)"],
        }
        for number in range(200)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def parsed(data: bytes) -> NotebookDocument:
    return NotebookDocument.parse(data, display_path="n.ipynb")


def outlined(data: bytes) -> list[tuple[str, int]]:
    return [(cell.source, cell.output_count) for cell in parsed(data).cells]


def updated(data: bytes) -> bytes:
    document = parsed(data)
    document.update(document.find(cell_id="cell-7", display_path="n.ipynb"), {"source": "y = 2"})
    return document.render()


ACTIONS: dict[str, tuple[Callable[[bytes], Any], float]] = {
    "parse": (parsed, 0.6),
    "survey": (survey, 0.6),
    "outline": (outlined, 1.3),
    "update": (updated, 1.3),
}


@pytest.mark.parametrize(("action", "bound"), ACTIONS.values(), ids=ACTIONS.keys())
def test_an_action_takes_less_than_json_for_the_whole(
    large: bytes, action: Callable[[bytes], Any], bound: float
) -> None:
    """The best of a few rounds: other work of the machine only adds to a time."""

    def best(function: Callable[[bytes], Any]) -> float:
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            function(large)
            times.append(time.perf_counter() - began)
        return min(times)

    assert action(large)
    assert best(action) < bound * best(json.loads)


def test_outputs_are_not_read_for_an_outline_or_an_edit(large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = NotebookCell.read

    def counted(cell: NotebookCell) -> dict[str, Any]:
        read.append(len(cell.raw))
        return whole(cell)

    monkeypatch.setattr(NotebookCell, "read", counted)
    outlined(large)
    assert read == []
    updated(large)
    assert len(read) <= 51  # the sample that shows the style of the file, and the cell itself
