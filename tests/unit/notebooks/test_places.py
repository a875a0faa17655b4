"""The places of cells are those that `json` finds, and a file that the two read differently is left to `json`."""

from __future__ import annotations

import importlib.metadata
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from styles import SMALL, STYLES, dumped

from dev.fuzz import examples
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.documents.places import Survey, find_places, survey
from papermill_mcp.errors import ServerError

#: Pieces that make one JSON text into another, or into none.
PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"\n", b"\r\n", b"\t", b"\x0b", b"\x00", b"\x1f", b"\x7f"),
    *(b"NaN", b"-Infinity", b"null", b"true", b"1e999", b"-0", b"01", b"1.", b"9" * 5000, b"0." + b"1" * 5000),
    *(
        b"\\u0041",
        b"\\ud800",
        b"\\ud83d\\ude00",
        b"\\u00",
        b"\\q",
        b"\\/",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xe2\x82",
    ),
    *(b"\xef\xbb\xbf", "\u2028é😀".encode(), b'"cells": [{}],', b'"cells": 1,', b'"c\\u0065lls": [],', b'"id": "a",'),
    *(b'"nbformat": 3,', b'"outputs": 1,', b'"source": null,', b"[" * 60 + b"]" * 60, b"{},", b"<<<<<<< a\n"),
]

Read = tuple[Any, ...]


def facts(document: NotebookDocument) -> Read:
    """All that a document says of its file, cell by cell, before and after all of a cell is read."""
    cells = [
        (cell.cell_type, cell.cell_id, cell.source, cell.tags, cell.output_count, cell.member("execution_count"))
        for cell in document.cells
    ]
    texts = [(bytes(cell.raw), cell.before, cell.after, repr(cell.read()), list(cell.data)) for cell in document.cells]
    again = [
        (cell.cell_type, cell.cell_id, cell.source, cell.tags, len(cell.outputs), cell.member("execution_count"))
        for cell in document.cells
    ]
    assert cells == again
    return cells, texts, repr(document.outer_members()), document.render()


def read(data: bytes) -> Read:
    try:
        return facts(NotebookDocument.parse(data, display_path="n.ipynb"))
    except ServerError as error:
        return type(error), str(error)


def read_by_json(data: bytes) -> Read:
    with mock.patch("papermill_mcp.core.documents.document.find_places", lambda data: None):
        return read(data)


def check_survey(data: bytes) -> Survey | None:
    """A survey says what the document says, or leaves the file to it."""
    found = survey(data)
    if found is not None:
        with mock.patch("papermill_mcp.core.documents.document.find_places", lambda data: None):
            document = NotebookDocument.parse(data, display_path="n.ipynb")
        assert found.sources == [cell.source for cell in document.cells]
        assert repr(found.metadata) == repr(document.metadata)
    return found


def edited(data: bytes, index: int) -> bytes:
    document = NotebookDocument.parse(data, display_path="n.ipynb")
    document.update(index, {"source": "new = 1\nä", "metadata": {"tags": ["x"]}})
    document.insert(index, {"cell_type": "markdown", "metadata": {}, "source": "a\nb"})
    document.move(index, len(document.cells) - 1)
    document.set_member("metadata", document.metadata | {"x": 1})
    return document.render()


def shipped_notebooks() -> Iterator[Path]:
    """The notebooks of installed packages, and those of the tests."""
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            if file.suffix == ".ipynb":
                yield Path(str(distribution.locate_file(file)))
    yield from (Path(__file__).parents[2]).rglob("*.ipynb")


def test_notebooks_of_packages_read_the_same() -> None:
    found = sorted({path for path in shipped_notebooks() if path.is_file()})

    if len(found) < 20:
        pytest.skip("the packages of this environment have few notebooks")
    for path in found:
        data = path.read_bytes()
        assert read(data) == read_by_json(data), path
        check_survey(data)


@pytest.mark.parametrize("write", STYLES.values(), ids=STYLES.keys())
def test_each_style_reads_and_is_edited_the_same(write: Callable[[Any], bytes]) -> None:
    data = write(SMALL)

    assert read(data) == read_by_json(data)
    with mock.patch("secrets.token_hex", lambda size: "0" * 2 * size):
        fast = [edited(data, index) for index in range(3)]
        with mock.patch("papermill_mcp.core.documents.document.find_places", lambda data: None):
            assert [edited(data, index) for index in range(3)] == fast


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"byte order mark", "byte order mark and ascii only"}))
def test_plain_notebooks_are_not_left_to_json(style: str) -> None:
    places = find_places(STYLES[style](SMALL))

    assert places is not None
    assert len(places.cells) == 3
    assert check_survey(STYLES[style](SMALL)) is not None


LEFT = {
    "a byte order mark": b"\xef\xbb\xbf" + dumped(SMALL).encode(),
    "NaN": dumped({**SMALL, "x": float("nan")}).encode(),
    "a lone surrogate": dumped({**SMALL, "x": "\ud800"}, ensure_ascii=True).encode(),
    "a surrogate as bytes": dumped(SMALL).encode().replace(b'"text"', b'"\xed\xa0\x80"'),
    "other bytes in an output": dumped(SMALL).encode().replace(b'"a\\n"', b'"\xff"'),
    "a long number": dumped(SMALL).encode().replace(b"2.5", b"9" * 4301),
    "cells twice": dumped(SMALL).encode()[:-1] + b', "cells": []}',
    "cells twice, once escaped": b'{"c\\u0065lls": [{}], ' + dumped(SMALL).encode()[1:],
    "deep values": dumped(SMALL).encode().replace(b"2.5", b"[" * 200_000 + b"]" * 200_000),
    "no object as a cell": dumped({**SMALL, "cells": [{}, None]}).encode(),
    "no cells": dumped({**SMALL, "cells": []}).encode(),
    "an object as cells": dumped({**SMALL, "cells": {"a": 1}}).encode(),
    "cut off": dumped(SMALL).encode()[:-1],
    "more text behind": dumped(SMALL).encode() + b"x",
}


@pytest.mark.parametrize("data", LEFT.values(), ids=LEFT.keys())
def test_other_files_are_left_to_json(data: bytes) -> None:
    assert find_places(data) is None
    assert read(data) == read_by_json(data)
    check_survey(data)


@pytest.mark.parametrize("depth", [*range(700, 1000, 20), *range(980, 1000)])
def test_values_near_the_limit_of_depth_read_the_same(depth: int) -> None:
    """No cell is taken whose values cannot be made later."""
    data = dumped(SMALL).encode().replace(b"2.5", b"[" * depth + b"]" * depth)

    def outcome(reader: Callable[[bytes], Read]) -> object:
        found = reader(data)
        return found[1] if isinstance(found[0], type) else found[-1]

    with mock.patch(
        f"{__name__}.facts", lambda document: (0, [cell.data for cell in document.cells], document.render())
    ):
        fast = outcome(read)
        slow = outcome(read_by_json)
    assert fast == slow


@pytest.mark.parametrize("digits", [4299, 4300, 4301, 4302, 8600, 8602])
@pytest.mark.parametrize("shift", [0, 1, 1000, 2149, 2150])
def test_a_number_of_any_length_at_any_place_reads_the_same(digits: int, shift: int) -> None:
    assert sys.get_int_max_str_digits() == 4300
    data = dumped(SMALL).encode().replace(b'"text"', b'"' + b"t" * shift + b'"').replace(b"2.5", b"7" * digits)

    assert read(data) == read_by_json(data)
    assert (find_places(data) is None) >= (digits > 4300)


def test_a_member_before_the_cells_may_be_larger_than_the_first_look() -> None:
    data = dumped({"metadata": {"a": "é" * 70_000}, **SMALL}, sort_keys=False).encode()

    assert find_places(data) is not None
    assert read(data) == read_by_json(data)


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(STYLES)), st.integers(1, 3))
@examples(1500)
def test_changed_notebooks_read_the_same(chance: random.Random, style: str, changes: int) -> None:
    data = bytearray(STYLES[style](SMALL))
    for _ in range(changes):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.choice([0, 0, 1, 1, 2, 20])] = chance.choice([b"", *PIECES])

    assert read(bytes(data)) == read_by_json(bytes(data))
    check_survey(bytes(data))
