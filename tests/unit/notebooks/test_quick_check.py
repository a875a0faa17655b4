"""The quick look at a cell never takes for right what the rules of the format find wrong."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.fuzz import examples
from papermill_mcp.core.documents.check import find_problems
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.documents.quick_check import without_right_outputs

PNG = "iVBORw0KGgo="
OUTPUTS: list[dict[str, Any]] = [
    {"name": "stdout", "output_type": "stream", "text": ["a: 1\n", ": b"]},
    {"name": "stderr", "output_type": "stream", "text": 'in a text: {"a": 1}'},
    {
        "data": {"text/plain": "1", "image/png": PNG},
        "metadata": {"image/png": {"width": 1}},
        "output_type": "display_data",
    },
    {"data": {"application/json": "x"}, "execution_count": 3, "metadata": {}, "output_type": "execute_result"},
    {"ename": "E", "evalue": "", "output_type": "error", "traceback": ["a", "b"]},
]
CELLS: list[dict[str, Any]] = [
    {
        "cell_type": "code",
        "execution_count": 3,
        "id": "a",
        "metadata": {"tags": ["x"], "jupyter": {"outputs_hidden": True}},
        "outputs": OUTPUTS,
        "source": ["x = 1\n", "x"],
    },
    {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "# A"},
    {"cell_type": "raw", "id": "c", "metadata": {"format": "x"}, "source": []},
]
#: Values and members that make a right cell into a wrong one, or into another right one.
VALUES = [
    "1",
    "-1",
    "1.0",
    "true",
    "null",
    '"x"',
    '":"',
    "[]",
    "{}",
    '["a", 1]',
    '["a"]',
    '{"a": {"a": 1}}',
    "NaN",
    "1e999",
]
MEMBERS = [
    *('"name": "x"', '"text" : "x"', '"text":\t[]', '"output_type": "stream"', '"data": {}', '"metadata": {}'),
    *('"metadata": {"a": 1, "a": 2}', '"text/plain": 1', '"text/plain": "x"', '"a\\\\": 1', '"a\\"": 1', '"": ""'),
    *('"n\\u0061me": "x"', '"id": "a"', '"outputs": []', '"execution_count": 1', '"evalue": "\\ud800"', '"x":1'),
]
_VALUE = re.compile(r'(?<=: )("[^"]*"|\d+|true|\{\}|\[\])|(?<=[\[ ])("[^"]*")(?=[,\n\]])')


def with_cells(cells: list[str], minor: int = 5) -> bytes:
    return f'{{"cells": [{", ".join(cells)}], "metadata": {{}}, "nbformat": 4, "nbformat_minor": {minor}}}'.encode()


def changed(text: str, chance: random.Random) -> str:
    """The text of a cell with another value, a member more, or one less."""
    match chance.randrange(3):
        case 0:
            found = chance.choice([*_VALUE.finditer(text)])
            return text[: found.start()] + chance.choice(VALUES) + text[found.end() :]
        case 1:
            at = chance.choice([place.end() for place in re.finditer(r"\{", text)])
            comma = "" if text[at:].lstrip().startswith("}") else ","
            return f"{text[:at]}{chance.choice(MEMBERS)}{comma}{text[at:]}"
        case _:
            members = [*re.finditer(r'\n *"[^"]*": ("[^"]*"|\d+|\{\}),', text)]
            member = chance.choice(members) if members else None
            return text[: member.start()] + text[member.end() :] if member else text


def problems(data: bytes) -> list[str]:
    return find_problems(NotebookDocument.parse(data, display_path="n.ipynb"), seconds=60)


def problems_by_json(data: bytes) -> list[str]:
    with mock.patch("papermill_mcp.core.documents.check.without_right_outputs", lambda raw: None):
        return problems(data)


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.sampled_from([0, 4, 5]))
@examples(800)
def test_changed_cells_have_the_same_problems(chance: random.Random, changes: int, minor: int) -> None:
    texts = [json.dumps(cell, indent=1) for cell in CELLS]
    for _ in range(changes):
        at = chance.choice([0, 0, 0, 1, 2])
        texts[at] = changed(texts[at], chance)
    data = with_cells(texts, minor)
    try:
        found = problems_by_json(data)
    except Exception as error:
        with pytest.raises(type(error)):
            problems(data)
        return

    assert problems(data) == found


@pytest.mark.parametrize("write", [json.dumps, lambda cell: json.dumps(cell, indent=1)], ids=["one line", "indented"])
def test_right_cells_are_not_left_to_json(write: Callable[[Any], str]) -> None:
    """Else the quick look would be of no use."""
    assert without_right_outputs(write(CELLS[1]).encode()) == CELLS[1]
    plain = CELLS[0] | {"outputs": [OUTPUTS[2], OUTPUTS[3], OUTPUTS[4], {**OUTPUTS[0], "text": "a: 1"}]}
    assert without_right_outputs(write(plain).encode()) == CELLS[0] | {"outputs": []}


@pytest.mark.parametrize(
    "text",
    [
        '{"cell_type": "code", "cell_type": "code", "metadata": {}, "source": ""}',
        '{"cell_type": "code", "metadata": {"a": 1, "a" : 1}, "source": ""}',
        '{"cell_type": "code", "metadata": {"a\\\\": 1, "a\\\\" : 1}, "source": ""}',
        '{"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"output_type": "stream", "name": "a", '
        '"name": "a", "text": ""}]}',
        '{"cell_type": "code", "metadata": {}, "source": [1]}',
        '{"cell_type": "code", "metadata": {}, "source": "", "attachments": {}}',
        '{"cell_type": "code", "metadata": {}, "source": "", "execution_count": -1}',
    ],
)
def test_cells_that_may_be_wrong_are_left_to_json(text: str) -> None:
    assert without_right_outputs(text.encode()) is None
