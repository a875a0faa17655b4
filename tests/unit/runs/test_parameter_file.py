"""Sets of parameters in files: tables, JSON and YAML, and the types that values of a table get."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from helpers import cell
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.papermill.parameter_file import TextSet, sets_in, typed
from papermill_mcp.core.papermill.parameters import NotebookParameters
from papermill_mcp.errors import InvalidArgumentError


def _sets(text: str | bytes, suffix: str = ".csv") -> list[dict[str, Any]]:
    return [*sets_in(text if isinstance(text, bytes) else text.encode(), suffix, "values" + suffix)]


def _refused(text: str | bytes, suffix: str = ".csv") -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        _sets(text, suffix)
    return str(caught.value)


def _typed(source: str, **values: str) -> dict[str, Any]:
    whole = {"cells": [cell(source, tags=["parameters"])], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    document = NotebookDocument.parse(json.dumps(whole).encode(), display_path="a.ipynb")
    return typed(values, NotebookParameters(document, kernel_name="python3", language="python"))


@pytest.mark.parametrize(
    "text",
    [
        "n,name\n1,x\n2,\n",
        "\ufeffn,name\r\n1,x\r\n2,\r\n",
        "n;name\n1;x\n2;\n",
        "n\tname\n1\tx\n2\t\n",
        "\n n , name \n1,x\n\n2,   \n\n",
        'n,name\n1,"x"\n2,""\n',
        "n,name,\n1,x,\n2,,\n",
    ],
)
def test_a_table_has_a_set_in_each_line_and_an_empty_cell_is_not_given(text: str) -> None:
    found = _sets(text)
    assert found == [{"n": "1", "name": "x"}, {"n": "2"}]
    assert all(isinstance(one, TextSet) for one in found)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(min_size=1), min_size=1), min_size=1))
def test_a_table_of_the_csv_module_is_read_as_it_was_written(rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["a", "b", "c"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    try:
        data = text.getvalue().encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is in no file
    assert _sets(data) == [{name: value for name, value in row.items() if value.strip()} for row in rows]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no header"),
        ("\n\n", "no header"),
        ("n,n\n1,2\n", "'n' twice"),
        ("n\n1,2\n", "line 2"),
        ('n\n"1\n', "line"),
        (b"n\n\xff\n", "UTF-8"),
    ],
)
def test_a_table_of_another_form_is_refused_by_its_line(text: str | bytes, named: str) -> None:
    if named == "no header":
        assert _sets(text) == []
    else:
        assert named in _refused(text)


@pytest.mark.parametrize(("suffix", "dump"), [(".json", json.dumps), (".yaml", json.dumps), (".yml", json.dumps)])
def test_a_list_of_objects_is_read_and_one_object_is_one_set(suffix: str, dump: Any) -> None:
    rows = [{"n": 1, "name": "x", "deep": {"a": [1.5, None, True]}}, {}]
    assert _sets(dump(rows), suffix) == rows
    assert _sets(dump(rows[0]), suffix) == rows[:1]


def test_yaml_has_the_types_of_json() -> None:
    text = "- day: 2026-01-31\n  time: 2026-01-31 10:00:00\n  n: 1_000\n  flag: yes\n  x: .5\n  none: ~\n"
    assert _sets(text, ".yaml") == [
        {"day": "2026-01-31", "time": "2026-01-31 10:00:00", "n": 1000, "flag": True, "x": 0.5, "none": None}
    ]
    assert "True, which is no text" in _refused("- on: 1\n", ".yaml")


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("[1, 2]", ".json"),
        ("1", ".json"),
        ("{", ".json"),
        ("[[", ".json"),
        ("[" * 100_000, ".json"),
        ("a: [", ".yaml"),
        ("- !!python/object/apply:os.system ['true']", ".yaml"),
        ("a: &a [1, 2]\nb: [*a, *a]", ".yaml"),
        ("- {1: 2}", ".yaml"),
        ("just text", ".yaml"),
        ('[{"region": "a", "region": "b"}]', ".json"),
        ('[{"x": {"a": 1, "a": 2}}]', ".json"),
        ("- region: a\n  region: b\n", ".yaml"),
        ("", ".yaml"),
    ],
)
def test_another_form_is_refused_with_the_name_of_the_file(text: str, suffix: str) -> None:
    assert f"values{suffix}" in _refused(text, suffix)


_SOURCE = (
    "i = 1\nf = 0.5\ns = 'x'\nb = True\nl = [1]\nd = {}\nnone = None\n"
    "ai: int = 3\naf: float = 1\nas_: str = ''\nao: int | None = None\nal: list[int] = []"
)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("i", "7", 7),
        ("i", " 7 ", 7),
        ("i", "3.0", 3),
        ("i", "2.5", 2.5),
        ("i", "1e3", 1000.0),
        ("i", "seven", "seven"),
        ("f", "-0.25", -0.25),
        ("f", "nan", "nan"),
        ("s", "007", "007"),
        ("s", "true", "true"),
        ("s", " x ", " x "),
        ("s", "2026-01-31", "2026-01-31"),
        ("b", "TRUE", True),
        ("b", "false", False),
        ("b", "1", "1"),
        ("l", "[1, 2]", [1, 2]),
        ("l", "['a']", ["a"]),
        ("d", '{"a": 1}', {"a": 1}),
        ("none", "5", 5),
        ("none", "text", "text"),
        ("none", "none", None),
        ("ai", "4", 4),
        ("ai", "4.0", 4),
        ("ai", "4.5", "4.5"),
        ("af", "4", 4),
        ("af", "4.0", 4.0),
        ("f", "1.0", 1.0),
        ("as_", "4", "4"),
        ("ao", "", ""),
        ("ao", "null", None),
        ("al", "[1]", [1]),
        ("al", '["a"]', '["a"]'),
        ("unknown", "5", 5),
        ("i", "007", 7),
        ("none", "007", "007"),
        ("unknown", "-01", "-01"),
        ("unknown", "0", 0),
        ("none", "0.5", 0.5),
    ],
)
def test_a_text_gets_the_type_of_its_parameter_or_stays_text(name: str, text: str, value: Any) -> None:
    found = _typed(_SOURCE, **{name: text})[name]
    assert found == value
    assert type(found) is type(value)
