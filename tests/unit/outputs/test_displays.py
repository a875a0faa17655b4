"""Outputs that a model can read: the displays of real libraries, and hostile ones."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import shown
from hypothesis import given, settings
from hypothesis import strategies as st

from papermill_mcp.core.displays.made_text import made_text
from papermill_mcp.core.displays.markup import read_page
from papermill_mcp.services.output_text import searched_texts, text_of
from papermill_mcp.services.outputs import OutputBudget, summarise_outputs

BUNDLES = Path(__file__).parents[2] / "mimebundles"
QUESTIONS: dict[str, dict[str, list[str]]] = json.loads((BUNDLES / "questions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def no_surprises() -> Iterator[None]:
    """An exception that no maker foresaw fails the test here. A server logs it and goes on."""

    def fail(message: str, *_: object) -> None:
        raise AssertionError(message) from sys.exception()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("papermill_mcp.core.displays.made_text.logger.exception", fail)
        yield


def outputs_of(name: str) -> list[dict[str, Any]]:
    bundles = json.loads((BUNDLES / f"{name}.json").read_text(encoding="utf-8"))
    return [{"output_type": "display_data", "data": data, "metadata": {}} for data in bundles]


def budget() -> OutputBudget:
    return OutputBudget(chars=10_000, images=5, image_pixels=1000, error_chars=1000, error_type="full")


def page(markup: str) -> str:
    return text_of({"text/plain": "<IPython.core.display.HTML object>", "text/html": markup})[1]


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_the_answer_to_each_question_stands_in_the_reply(name: str) -> None:
    views, _ = shown(outputs_of(name), budget())
    text = "\n".join(view.text or "" for view in views)

    for answers in QUESTIONS[name].values():
        assert [answer for answer in answers if answer not in text] == []


def test_every_stored_display_has_a_question() -> None:
    assert {path.stem for path in BUNDLES.glob("*.json")} - {"questions"} == set(QUESTIONS)


def test_text_for_models_comes_first() -> None:
    assert text_of({"text/plain": "a", "text/llm+plain": "b", "text/html": "c"}) == ("text/llm+plain", "b")


def test_a_page_is_not_read_where_the_plain_text_says_something() -> None:
    assert text_of({"text/plain": "x = 1", "text/html": "<b>other</b>"}) == ("text/plain", "x = 1")


def test_a_search_finds_the_rows_that_are_not_shown() -> None:
    rows = "".join(f"<tr><td>{number}</td><td>value {number}</td></tr>" for number in range(1000))
    data = {"text/html": f"<table><tr><th>n</th><th>v</th></tr>{rows}</table>"}

    assert "value 500" not in text_of(data)[1]
    assert any("value 500" in text for text in searched_texts(data))


def test_a_larger_budget_shows_all_rows_of_a_table() -> None:
    outputs = outputs_of("pandas_html_long")
    (cut,), _ = shown(outputs, budget(), label="cell 1")
    (alone,), _ = shown(outputs, budget())
    (whole,), _ = shown(outputs, replace(budget(), chars=50_000, whole_tables=True), label="cell 1")

    assert cut.note == "For the rest, read this cell alone with first_output=0 and a larger max_chars."
    assert (alone.note, whole.note) == (None, None)
    assert "| 75 | 75 | 150 |" in (whole.text or "")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>one<p>two &amp; <b>three</b>", "one\ntwo & three"),
        ("a<br>b<!-- no --><style>p{}</style><script>no()</script>", "a\nb"),
        ("<div style='display: none'>no<div>no</div></div><div hidden>no</div>yes", "yes"),
        ("<pre>a\n  b</pre>", "a\n  b"),
        ("<ul><li>a<li>b</ul>", "- a\n- b"),
        ("<img alt='a plot' src='x.png'>", "[image: a plot]"),
        ("1 < 2 and <b>3 > 2</b>", "1 < 2 and 3 > 2"),
        ("<iframe srcdoc='&lt;p style=display:none&gt; hidden &lt;/p&gt;inside'></iframe>", "inside"),
        ("<table><tr><td>a|b</td><td>c</td></tr></table>", "| a\\|b | c |\n| --- | --- |"),
        ("<table><tr><td>a<table><tr><td>b</td><td>c</td></tr></table></td></tr></table>", "a; b c"),
        ("<table><caption>Title</caption><tr><th>a</th><th>b</th></tr><tr><td colspan=2>all</td></tr></table>", None),
        ("<p>cut <a href='x", "cut"),
    ],
)
def test_the_visible_text_of_a_page(markup: str, text: str | None) -> None:
    assert page(markup) == (text if text is not None else "Title\n| a | b |\n| --- | --- |\nall")


HOSTILE = {
    "nested": "<div>" * 100_000 + "deep" + "</div>" * 100_000,
    "nested-tables": "<table><tr><td>" * 100_000 + "deep",
    "formatting": "".join(f"<b a={number}>" for number in range(50_000)) + "<p>x" * 50_000,
    "comments": "<!--" * 500_000,
    "open-tags": "<a '" * 500_000,
    "quotes": "<a \"'" * 300_000 + ">",
    "entities": "&amp;&#99999999999;&lol9;" * 100_000,
    "doctype": "<!DOCTYPE lolz [" + '<!ENTITY lol "lol">' * 50_000 + "]>" + "&lol;" * 50_000,
    "spans": "<table>" + "<tr>" + "<td colspan=99999 rowspan=99999>x</td>" * 5_000 + "</tr>" * 5_000,
    "cells": "<table>" + ("<tr>" + "<td>x</td>" * 200 + "</tr>") * 2_000,
    "scripts": "<script>" * 300_000,
    "plotly-calls": "<script>" + "Plotly.newPlot('a', [" * 100_000 + "</script>",
    "vega-calls": "<script>" + ")({" * 500_000 + "</script>",
    "spaces": "<script>" + "spec = " + " " * 1_000_000 + "x" + "</script>" + "<p" + " " * 1_000_000,
    "ticks": "<script>L.map(" + "$(`" * 300_000 + "</script>",
    "overlapping-json": "<script>" + ')({"a":"' * 300_000 + "</script>",
    "popups": "<script>L.map(" + "$(`<b>x</b>`)" * 100_000 + "</script>",
    "attributes": "<td span " + "a=" * 500_000 + ">",
    "long": "<p>word</p>" * 900_000,
    "fifty-megabytes": "<b>x</b>" * 6_250_000,
}


@pytest.mark.alone
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_page_takes_a_bounded_time_and_has_a_bounded_text(name: str) -> None:
    output = {"output_type": "display_data", "data": {"text/html": HOSTILE[name]}, "metadata": {}}
    started = time.monotonic()
    (view,), _ = shown([output], budget())

    assert time.monotonic() - started < 2
    assert len(view.text or view.note or "") < 11_000


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"layer": [value], "id": "x", "attributes": {}, "mark": "bar"}
    return value


HOSTILE_FORMS: dict[str, dict[str, Any]] = {
    "many-points": {"data": [{"y": list(range(2_000_000)), "x": ["a"] * 2_000_000}] * 50},
    "many-traces": {"data": [{"y": [1]}] * 100_000},
    "many-titles": {"data": [], "layout": {f"xaxis{n}": {"title": str(n)} for n in range(100_000)}, "title": "t" * 10**6},
    "huge-numbers": {"data": [{"y": [10**5000, math.nan, math.inf, -math.inf, "1", None, [], {}] * 10}]},
    "bad-arrays": {"data": [{"y": {"dtype": "f8", "bdata": "%%%"}}, {"z": {"dtype": "i1", "bdata": "AAAA", "shape": "0, 9"}}]},
    "deep": {"data": [{"z": [[[[[[[]]]]]]]}], **deep(5_000)},
    "many-rows": {"mark": "bar", "encoding": {"x": {"field": "a"}}, "data": {"values": [{"a": 1}] * 1_000_000}},
    "many-layers": {"layer": [{"mark": "bar", "encoding": {"x": {"field": "a"}}}] * 100_000},
    "odd-rows": {"mark": 3, "encoding": {"x": {"field": 1, "aggregate": []}, "y": 1}, "data": {"values": [1, "a", None]}},
    "many-channels": {"encoding": {f"c{n}": {"field": "a"} for n in range(50_000)}, "layer": [{"mark": "bar"}] * 50_000},
    "many-named-views": {"hconcat": [{"title": "t" * 100, "mark": "bar"}] * 100_000},
    "narrow-matrix": {"data": [{"z": {"dtype": "i1", "bdata": "AAAA" * 3_000_000, "shape": "9000000, 1"}}]},
    "coordinates": {"type": "LineString", "coordinates": [[1, 2]] * 1_000_000},
}  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("mime", ["plotly.v1+json", "vegalite.v5+json", "vega.v5+json", "bokehjs_exec.v0+json", "geo"])
@pytest.mark.parametrize("name", sorted(HOSTILE_FORMS))
def test_a_hostile_form_takes_a_bounded_time_and_has_a_bounded_text(name: str, mime: str) -> None:
    full = "application/geo+json" if mime == "geo" else f"application/vnd.{mime}"
    started = time.monotonic()
    _, text = made_text({full: HOSTILE_FORMS[name]})

    assert time.monotonic() - started < 2
    assert len(text) < 50_000


NAMES = st.sampled_from(
    "data layout title text x y z type name mark encoding field aggregate values layer spec datasets features geometry"
    " coordinates properties bdata dtype shape id attributes entries glyph roots header cells dimensions color link".split()
)
WORDS = st.sampled_from(["bar", "table", "sankey", "heatmap", "f8", "AAAA", "mean", "count", "FeatureCollection", "Point", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=40,
)
MIMES = st.sampled_from(
    ["application/vnd.plotly.v1+json", "application/vnd.vegalite.v5+json", "application/vnd.vega.v5+json"]
    + ["application/geo+json", "application/vnd.dataresource+json", "application/vnd.bokehjs_exec.v0+json", "text/html"]
    + ["image/svg+xml", "application/javascript", "text/llm+plain", "text/plain", "text/csv", "application/json"]
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(MIMES, JSON | st.dictionaries(NAMES, JSON, max_size=8), max_size=3))
def test_no_json_makes_it_raise(data: dict[str, Any]) -> None:
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    shown([output], budget())
    summarise_outputs([output])
    list(searched_texts(data))


TAGS = "table tr td th caption thead p pre br li div script style svg text iframe img b x".split()
PIECES = st.one_of(
    st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS]),
    st.sampled_from(["<", ">", "<!--", "-->", "<td colspan=3 rowspan='2'>", "<img alt=a>", "<p hidden>", "&lt;", "<![CDATA["]),
    st.text(max_size=5),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_no_markup_makes_it_raise(pieces: list[str]) -> None:
    markup = "".join(pieces)
    read_page(markup)
    page(markup)
