"""Names of the outputs of batches: they say the parameters, and are safe on every file system."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.papermill.batch_outputs import digest_name, speaking_names

_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.lists(st.integers())
)


@pytest.mark.parametrize(
    ("sets", "names"),
    [
        ([{"n": 1, "w": 5}, {"n": 2, "w": 5}], ["in-n=1.ipynb", "in-n=2.ipynb"]),
        ([{"n": 1, "w": 5}], ["in-n=1-w=5.ipynb"]),
        ([{"a": 0.1, "b": True}, {"a": -2, "b": None}], ["in-a=0.1-b=true.ipynb", "in-a=-2-b=null.ipynb"]),
        ([{"n": 1}, {}, {"n": 2}], ["in-n=1.ipynb", None, "in-n=2.ipynb"]),
        ([{"a": 1}, {"b": 1}], ["in-a=1.ipynb", "in-b=1.ipynb"]),
        ([{"n": [1]}, {"n": 2}], [None, "in-n=2.ipynb"]),
        ([{"n": "x/y"}, {"n": "../z"}, {"n": "é"}, {"n": ""}, {"n": "a b"}], [None] * 5),
        ([{"n": "x" * 80}, {"n": "y"}], [None, "in-n=y.ipynb"]),
        ([{f"p{n}": row for n in range(5)} for row in range(2)], [None, None]),
        ([{}], [None]),
    ],
)
def test_a_name_has_the_parameters_that_vary(sets: list[dict[str, Any]], names: list[str | None]) -> None:
    assert [next(iter(found), None) for found in speaking_names("in", sets)] == names


def test_a_name_with_all_parameters_is_found_too() -> None:
    """A smaller batch names its outputs so."""
    assert speaking_names("in", [{"n": 1, "w": 5}, {"n": 2, "w": 5}])[0] == ["in-n=1.ipynb", "in-n=1-w=5.ipynb"]


@pytest.mark.parametrize("stem", ["CON.b", "nul.x", "Com1.a"])
def test_a_name_of_a_device_is_none(stem: str) -> None:
    assert speaking_names(stem, [{"n": 1}]) == [[]]
    assert speaking_names("console", [{"n": 1}]) == [["console-n=1.ipynb"]]


@given(st.lists(st.dictionaries(st.text(max_size=6), _VALUES, max_size=5), min_size=1, max_size=5))
def test_a_name_is_safe_on_every_file_system(sets: list[dict[str, Any]]) -> None:
    names = [name for found in speaking_names("in", sets) for name in found]
    assert all(re.fullmatch(r"in-[A-Za-z0-9._=+-]+\.ipynb", name) and len(name) <= 80 for name in names)


def test_a_digest_is_cut_and_numbered() -> None:
    assert digest_name("in", "0123456789abcdef") == "in-0123456789ab.ipynb"
    assert digest_name("in", "0123456789abcdef", 2) == "in-0123456789ab-2.ipynb"
