"""Whatever a kernel sends, the outputs are such that nbformat accepts them."""

from __future__ import annotations

import json
import math
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.displays.made_text import made_text
from papermill_mcp.core.kernels.forms import (
    MAX_ERROR_BYTES,
    MAX_JSON_DEPTH,
    Bundle,
    Cleaner,
    UnfitError,
    error_of,
    language_info_of,
    shallow,
)
from papermill_mcp.core.kernels.outputs import OUTPUT_MESSAGES, Displays, OutputCollector

_TEXTS = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud800\udc00é"))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)
_MIMES = st.sampled_from(["text/plain", "text/html", "image/png", "application/json", "application/x+json"]) | _TEXTS
_MEMBERS = {
    name: _VALUES
    for name in ("name", "text", "metadata", "ename", "evalue", "traceback", "execution_count", "transient", "wait")
}
_CONTENTS = st.fixed_dictionaries(
    {}, optional=_MEMBERS | {"data": _VALUES | st.dictionaries(_MIMES, _VALUES, max_size=4)}
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.case("O01")
@given(messages=st.lists(st.tuples(st.sampled_from([*OUTPUT_MESSAGES, "update_display_data"]), _CONTENTS), max_size=6))
def test_outputs_are_valid_for_every_content(messages: list[tuple[str, dict[str, Any]]]) -> None:
    collector = OutputCollector(Displays())
    for msg_type, content in messages:
        collector.take(msg_type, content)

    cell = nbformat.v4.new_code_cell()
    cell["outputs"] = nbformat.from_dict(collector.outputs())
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbformat.validate(notebook)
    written = json.dumps(notebook, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(written) == notebook


@pytest.mark.parametrize("value", [None, {"a": 1}, [1], True])
@pytest.mark.parametrize("mime", ["text/plain", "text/html", "image/png"])
def test_a_form_of_a_wrong_type_costs_itself_only(mime: str, value: Any) -> None:
    other = "text/markdown"
    bundle = Bundle.of({"data": {mime: value, other: "stays"}})

    assert bundle.data[other] == "stays"
    assert any("not kept" in text for name, text in bundle.data.items() if name != other)
    assert bundle.data.get("image/png") is None
    assert mime in bundle.faults[0]


@pytest.mark.parametrize("data", [None, 5, "text", [1]])
def test_data_that_is_no_object_becomes_a_marker(data: Any) -> None:
    bundle = Bundle.of({"data": data})

    assert "not kept" in bundle.data["text/plain"]
    assert bundle.faults


def test_a_form_that_is_too_deep_costs_itself_only() -> None:
    deep, fitting = nested(MAX_JSON_DEPTH + 1), nested(MAX_JSON_DEPTH)
    bundle = Bundle.of({"data": {"application/json": deep, "application/x+json": fitting, "text/plain": "a tree"}})

    assert bundle.data["text/plain"] == "a tree"
    assert bundle.data["application/x+json"] == fitting
    assert "not kept" in bundle.data["application/json"]


def test_metadata_that_cannot_be_kept_leave_the_data() -> None:
    for metadata in ([1], "text", nested(MAX_JSON_DEPTH + 1)):
        bundle = Bundle.of({"data": {"text/plain": "a"}, "metadata": metadata})

        assert (bundle.data, bundle.metadata) == ({"text/plain": "a"}, {})
        assert "metadata" in bundle.faults[0]


def test_numbers_and_text_without_a_json_form_are_replaced() -> None:
    value = {"a": [1.5, math.nan, 2], "b": math.inf, "c\ud800": "half \udc00", "d": [None, -math.inf, "x"]}

    assert Cleaner().value(value) == {"a": [1.5, None, 2], "b": None, "c\ufffd": "half \ufffd", "d": [None, None, "x"]}


def test_a_value_counts_as_many_bytes_as_it_has() -> None:
    cleaner = Cleaner()
    cleaner.value({"numbers": [float(number) for number in range(10_000)], "text": "x" * 50_000, "wide": "é€😀" * 1_000})

    assert 10_000 * 32 + 50_000 + 12_000 <= cleaner.size < 400_000


def test_a_value_that_is_too_deep_is_unfit() -> None:
    with pytest.raises(UnfitError):
        Cleaner().value(nested(5_000))


def test_of_a_long_traceback_the_end_stays() -> None:
    error = error_of({"ename": "E", "evalue": "v" * 10**7, "traceback": [f"frame {n} " + "x" * 1_000 for n in range(5_000)]})

    assert error["traceback"][-1].startswith("frame 4999 ")
    assert "not kept" in error["traceback"][0]
    assert "not kept" in error["evalue"]
    assert sum(map(len, [error["evalue"], *error["traceback"]])) < MAX_ERROR_BYTES + 100_000


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"language_info": {"name": "x", "version": "1"}}, {"name": "x", "version": "1"}),
        ({"language_info": {"name": "x", "mimetype": 5, "codemirror_mode": {"name": "y"}}}, {"name": "x", "codemirror_mode": {"name": "y"}}),
        ({"language_info": {"name": None}}, {}),
        ({"language_info": [1]}, {}),
        ({}, {}),
    ],
)
def test_a_language_without_a_name_is_none(info: dict[str, Any], kept: dict[str, Any]) -> None:
    assert language_info_of(info) == kept


def test_json_that_python_cannot_read_loses_the_unreadable_values_only() -> None:
    deep = "[" * 50_000 + "]" * 50_000
    text = '{"data": {"application/json": %s, "text/plain": "a [ \\" tree"}, "n": %s, "m": [-12]}' % (deep, "7" * 6_000)
    found = json.loads(shallow(text))

    assert found["data"]["text/plain"] == 'a [ " tree'
    assert found["n"] is None
    assert found["m"] == [-12]
    with pytest.raises(UnfitError):
        Cleaner().value(found["data"]["application/json"])


def test_an_altair_chart_is_kept_as_text_that_a_notebook_may_hold() -> None:
    chart = {"application/vnd.vegalite.v6.json": {"mark": "bar", "title": "Rain"}}
    bundle = Bundle.of({"data": chart})

    assert bundle.faults == []
    assert bundle.data == {"application/vnd.vegalite.v6.json": '{"mark": "bar", "title": "Rain"}'}
    assert made_text(bundle.data)[1].splitlines()[0] == "Vega-Lite chart: Rain"
