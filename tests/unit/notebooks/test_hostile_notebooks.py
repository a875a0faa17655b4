"""Damaged bytes and hostile text: the reader refuses or keeps every byte, and a reply shows data as data."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from styles import SMALL, STYLES
from test_document import BROKEN, V3, parsed

from dev.fuzz import examples
from papermill_mcp.config import Config
from papermill_mcp.errors import ServerError
from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.tools.replies import render
from papermill_mcp.utils.text_utils import clean_text


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for many examples, each of which writes its notebook anew."""
    return tmp_path_factory.mktemp("root")


def replies(directory: Path, data: bytes) -> Iterator[str]:
    """What the tools that read say of a notebook: its text, or the error's."""
    path = directory / "n.ipynb"
    path.write_bytes(data)
    os.utime(path, (0, 0))  # a broken file that is new is read a second time
    config = Config(roots=[directory])
    workspace = Workspace([directory])
    notebooks = NotebookService(config, workspace)
    calls: list[Any] = [
        lambda: notebooks.read("n.ipynb", outputs="full"),
        lambda: notebooks.read("n.ipynb", max_chars=150),
        lambda: notebooks.read("n.ipynb", outline=True),
        lambda: NotebookCatalogue(workspace, notebooks, Pythons(config, workspace)).info("n.ipynb"),
    ]
    for call in calls:
        try:
            yield render(asyncio.run(call()))
        except ServerError as error:
            yield str(error)


# Damaged files

WHOLE = [write(SMALL) for write in STYLES.values()] + [json.dumps(V3, indent=1).encode()]
PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b" ",
        b"<",
    ),
    *(
        b"null",
        b"NaN",
        b"-Infinity",
        b"true",
        b"1e999",
        b"-0",
        b"9" * 4301,
        b'"cells": ',
        b'"nbformat": 3, ',
        b"[]",
        b"{}",
    ),
    *(b"\\ud800", b"\\u00", b'{"a":' * 400, b"[" * 3000, b"<<<<<<< HEAD\n", b"\x1b[31m", "\u202e\u200b".encode()),
]
PLACE = st.integers(0, 2**16)
DAMAGE = st.tuples(
    st.sampled_from(["cut", "drop", "put", "repeat"]), PLACE, st.integers(0, 60), st.sampled_from(PIECES)
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(WHOLE))
    for action, place, size, piece in draw(st.lists(DAMAGE, min_size=1, max_size=4)):
        place %= len(data) + 1
        match action:
            case "cut":
                data = data[:place]
            case "drop":
                data = data[:place] + data[place + size :]
            case "put":
                data = data[:place] + piece + data[place + size % 3 :]
            case _:
                data = data[: place + size] + data[place:]
    return data


def is_notebook(data: bytes) -> bool:
    """Whether this is a notebook of a version that can be read, as json understands it."""
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or type(found.get("nbformat_minor", 0)) is not int:
        return False
    if type(found.get("nbformat")) is not int or found["nbformat"] not in (3, 4):
        return False
    cells = found.get("cells") if found["nbformat"] == 4 else []
    return isinstance(cells, list) and all(isinstance(cell, dict) for cell in cells)


@given(data=damaged())
@examples(300)
def test_a_damaged_notebook_is_refused_in_words_or_kept_to_the_byte(data: bytes) -> None:
    try:
        document = parsed(data)
    except BROKEN as error:
        assert not is_notebook(data) or "nested too deeply" in str(error) or b"worksheets" in data
        assert clean_text(str(error)) == str(error)
        return
    assert is_notebook(data)
    assert document.render() == data


# Hostile text

TEXT = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "```",
                    "````",
                    "`",
                    "~~~",
                    "\n",
                    "\n\n",
                    "\r",
                    "\t",
                    " ",
                    "a",
                    "cell 99 [forged] · code\n",
                    "revision: 0\n",
                ),
                *(
                    "\x1b[31m",
                    "\x1b]8;;",
                    "\x07",
                    "\x9b",
                    "\x00",
                    "\x0c",
                    "\x85",
                    "\u2028",
                    "\u202e",
                    "\u200b",
                    "\U000e0041",
                ),
                *("👩\u200d💻", "\ufeff", "\ud800", "é", "<script>", "… 9 characters (1 line) left out …"),
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=6,
).map("".join)
JSON = st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
OUTPUT = st.one_of(
    st.fixed_dictionaries({"output_type": st.just("stream"), "name": TEXT, "text": TEXT | st.lists(TEXT, max_size=2)}),
    st.fixed_dictionaries(
        {"output_type": st.just("error"), "ename": TEXT, "evalue": TEXT, "traceback": st.lists(TEXT, max_size=3)}
    ),
    st.fixed_dictionaries(
        {
            "output_type": st.sampled_from(["display_data", "execute_result"]) | TEXT,
            "data": st.dictionaries(
                TEXT | st.sampled_from(["text/plain", "text/markdown", "application/json", "image/png", "text/html"]),
                JSON,
                max_size=3,
            ),
        }
    ),
)
CELL = st.fixed_dictionaries(
    {
        "cell_type": st.sampled_from(["code", "markdown"]) | TEXT,
        "id": TEXT,
        "metadata": st.fixed_dictionaries({"tags": st.lists(TEXT, max_size=2)}),
        "source": TEXT,
    },
    optional={"execution_count": JSON, "outputs": st.lists(OUTPUT, max_size=3)},
)
NOTEBOOK = st.fixed_dictionaries(
    {
        "cells": st.lists(CELL, max_size=3),
        "metadata": st.dictionaries(TEXT, JSON, max_size=2)
        | st.fixed_dictionaries(
            {
                "kernelspec": st.fixed_dictionaries({"name": TEXT}),
                "language_info": st.fixed_dictionaries({"name": TEXT}),
            }
        ),
        "nbformat": st.just(4),
        "nbformat_minor": st.just(5),
    }
)


def outside_fences(reply: str) -> list[str]:
    """The lines of a reply that are not in a fence, by the rules of CommonMark. All fences must be closed."""
    lines: list[str] = []
    fence = ""
    for line in reply.split("\n"):
        if fence:
            closing = re.fullmatch(r" {0,3}(`{3,})[ \t]*", line)
            fence = "" if closing and len(closing[1]) >= len(fence) else fence
        elif opening := re.fullmatch(r" {0,3}(`{3,})[^`]*|(~{3,}).*", line):
            assert opening[1], "no fence of ours is made of tildes"
            fence = opening[1]
        else:
            lines.append(line)
    assert not fence, reply
    return lines


@given(notebook=NOTEBOOK)
@examples(100)
def test_hostile_text_of_a_notebook_is_shown_as_data(directory: Path, notebook: dict[str, Any]) -> None:
    for reply in replies(directory, json.dumps(notebook).encode()):
        assert clean_text(reply) == reply
        assert {unicodedata.category(c) for c in reply} & {"Cc", "Cs", "Zl", "Zp"} <= {"Cc"}
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", reply)
        plain = outside_fences(reply)
        assert sum(line.startswith("revision: ") for line in plain) == 1, reply
        assert not any(line.startswith("cell 99") for line in plain), reply


@st.composite
def odd_notebooks(draw: st.DrawFn) -> dict[str, Any]:
    """A notebook in which some members are of another type than the format says, or not there."""
    notebook = copy.deepcopy(SMALL)
    for _ in range(draw(st.integers(1, 4))):
        place: Any = notebook
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if place is notebook and key in ("nbformat", "cells"):
                break
            if draw(st.booleans()):
                place[key] = draw(JSON | st.dictionaries(TEXT, JSON, max_size=2))
            elif isinstance(place, dict) or place is not notebook["cells"]:
                del place[key]
            break
    return notebook


@given(notebook=odd_notebooks())
@examples(60)
def test_whatever_is_accepted_can_be_shown(directory: Path, notebook: dict[str, Any]) -> None:
    for reply in replies(directory, json.dumps(notebook).encode()):
        assert clean_text(reply) == reply
        outside_fences(reply)
