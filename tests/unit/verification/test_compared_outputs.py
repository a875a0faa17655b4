"""Outputs of a cell in every form, and the verdict on cells and notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from PIL import Image, ImageDraw

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.runs.snapshot import DifferenceState
from papermill_mcp.core.verification.blanking import sanitizers
from papermill_mcp.core.verification.cells import Marks, Verdict, judge, order_notes, whole
from papermill_mcp.core.verification.outputs import Outputs, output_differences
from papermill_mcp.core.verification.texts import Rules
from papermill_mcp.errors import InvalidArgumentError

_RULES = Rules(datetime.now(UTC), datetime.now(UTC))
_TABLE = "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>{}</td></tr></tbody></table>"


def _display(**data: Any) -> dict[str, Any]:
    return {
        "output_type": "display_data",
        "data": {mime.replace("_", "/", 1): value for mime, value in data.items()},
        "metadata": {},
    }


def _stream(text: str | list[str], name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def _error(ename: str, evalue: str) -> dict[str, Any]:
    return {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": [f"at line {len(evalue)}"]}


def _picture(draw: Callable[[ImageDraw.ImageDraw], object], size: tuple[int, int] = (300, 200)) -> str:
    image = Image.new("RGB", size, "white")
    draw(ImageDraw.Draw(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _line(shift: int = 0, colour: str = "blue") -> str:
    return _picture(lambda draw: draw.line([(10, 20 + shift), (290, 180 + shift)], fill=colour, width=2))


def _differences(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[DifferenceState]:
    return output_differences(Outputs.of(old), Outputs.of(new), _RULES)


SAME = {
    "split streams": ([_stream("a\n"), _stream(["b\n", "c"])], [_stream("a\nb\nc")]),
    "order of streams": ([_stream("a"), _stream("w", "stderr")], [_stream("w", "stderr"), _stream("a")]),
    "lines or a text": ([_display(text_plain=["a\n", "b"])], [_display(text_plain="a\nb")]),
    "table": (
        [_display(text_html=_TABLE.format(2))],
        [_display(text_html=_TABLE.format(2).replace("<td>", '<td id="x">'))],
    ),
    "wrapped base64": ([_display(image_png=_line())], [_display(image_png=_line()[:80] + "\n" + _line()[80:])]),
    "widget": (
        [
            _display(
                **{"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text_plain": "IntSlider(value=3)"}
            )
        ],
        [
            _display(
                **{"application/vnd.jupyter.widget-view+json": {"model_id": "2"}, "text_plain": "IntSlider(value=3)"}
            )
        ],
    ),
    "traceback": ([_error("ValueError", "bad")], [_error("ValueError", "bad") | {"traceback": ["other"]}]),
    "picture of a formula": (
        [_display(text_latex="$x^2$", image_png=_line())],
        [_display(text_latex="$x^2$", image_png=_line(3))],
    ),
    "words beside a picture": (
        [_display(text_plain="<Figure size 1x1>", image_png=_line())],
        [_display(text_plain="<Figure size 2x2>", image_png=_line())],
    ),
    "one form more": ([_display(text_plain="1")], [_display(text_plain="1", text_markdown="**1**")]),
}

OTHER = {
    "picture moved by a pixel": ([_display(image_png=_line())], [_display(image_png=_line(1))]),
    "stream": ([_stream("a")], [_stream("b")]),
    "lost stream": ([_stream("a")], []),
    "new warning": ([], [_stream("careful", "stderr")]),
    "table": ([_display(text_html=_TABLE.format(2))], [_display(text_html=_TABLE.format(3))]),
    "curve": ([_display(image_png=_line())], [_display(image_png=_line(30))]),
    "colour": ([_display(image_png=_line())], [_display(image_png=_line(0, "red"))]),
    "small point": (
        [_display(image_png=_picture(lambda draw: draw.ellipse([50, 50, 56, 56], fill="black")))],
        [_display(image_png=_picture(lambda draw: draw.ellipse([90, 50, 96, 56], fill="black")))],
    ),
    "size": ([_display(image_png=_line())], [_display(image_png=_picture(lambda _: None, (100, 90)))]),
    "json": ([_display(application_json={"a": [1, 2]})], [_display(application_json={"a": [1, 3]})]),
    "lost display": ([_display(text_plain="1"), _display(text_plain="2")], [_display(text_plain="1")]),
    "form": ([_display(image_png=_line())], [_display(text_plain="<Figure>")]),
    "formula beside a picture": (
        [_display(text_latex="$x^2$", image_png=_line())],
        [_display(text_latex="$x^3$", image_png=_line())],
    ),
    "table beside a picture": (
        [_display(text_html=_TABLE.format(2), image_png=_line())],
        [_display(text_html=_TABLE.format(3), image_png=_line())],
    ),
    "message": ([_error("ValueError", "bad 1")], [_error("ValueError", "bad 2")]),
    "kind of error": ([_error("ValueError", "bad")], [_error("KeyError", "bad")]),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME.keys())
def test_outputs_that_show_the_same_are_the_same(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    assert _differences(old, new) == []


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER.keys())
def test_outputs_that_show_something_else_differ(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    assert _differences(old, new)


def test_a_comparison_of_numbers_takes_a_shift_of_a_pixel_as_equal_and_another_curve_not() -> None:
    rules = replace(_RULES, relative=1e-5)
    first, *others = (Outputs.of([_display(image_png=_line(shift))]) for shift in (0, 1, 30))

    assert [bool(output_differences(first, other, rules)) for other in others] == [False, True]


def _write(digit: str, draw: ImageDraw.ImageDraw) -> None:
    draw.text((90, 60), f"n = {digit}", fill="black")


def test_a_digit_in_a_plot_is_a_difference() -> None:
    three, eight = (_picture(partial(_write, digit)) for digit in "38")

    assert _differences([_display(image_png=three)], [_display(image_png=eight)])


def test_a_difference_of_pictures_has_both() -> None:
    [found] = _differences([_display(image_png=_line())], [_display(image_png=_line(30))])

    assert found.pictures == (("image/png", _line()), ("image/png", _line(30)))


def _cell(source: str = "x", count: int | None = 1, tags: list[str] | None = None, **more: Any) -> NotebookCell:
    metadata = {"tags": tags} if tags else {}
    node: dict[str, Any] = {
        "cell_type": "code",
        "id": "a",
        "source": source,
        "execution_count": count,
        "outputs": [],
        "metadata": metadata,
    }
    whole_node = {"cells": [node | more], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return NotebookDocument.from_node(whole_node).cells[0]


@pytest.mark.parametrize(
    ("cell", "old", "new", "verdict"),
    [
        (_cell(), [_stream("a")], [_stream("a")], Verdict.SAME),
        (_cell(), [_stream("a")], [_stream("b")], Verdict.DIFFERS),
        (_cell(), [_stream("a")], [_error("E", "e")], Verdict.NEW_ERROR),
        (_cell(), [_error("E", "e")], [_stream("a")], Verdict.GONE_ERROR),
        (_cell(), [_error("E", "e")], [_error("E", "e")], Verdict.SAME),
        (_cell(count=None), [], [_stream("a")], Verdict.NEVER_RUN),
        (_cell(count=None), [_stream("a")], [_stream("b")], Verdict.DIFFERS),
        (_cell(tags=["nbval-ignore-output"]), [_stream("a")], [_stream("b")], Verdict.IGNORED),
        (_cell("# NBVAL_IGNORE_OUTPUT\nx"), [_stream("a")], [_stream("b")], Verdict.IGNORED),
        (
            _cell("# NBVAL_CHECK_OUTPUT\nx", tags=["nbval-ignore-output"]),
            [_stream("a")],
            [_stream("b")],
            Verdict.DIFFERS,
        ),
        (_cell(tags=["nbval-ignore-output"]), [_stream("a")], [_error("E", "e")], Verdict.NEW_ERROR),
    ],
)
def test_the_verdict_on_a_cell(
    cell: NotebookCell, old: list[dict[str, Any]], new: list[dict[str, Any]], verdict: Verdict
) -> None:
    assert judge(cell, old, new, _RULES, only_run=False)[0] == verdict


@pytest.mark.parametrize(
    ("cell", "verdict"), [(_cell(), Verdict.NEW_ERROR), (_cell(tags=["raises-exception"]), Verdict.SAME)]
)
def test_where_only_the_run_counts_an_error_counts_unless_it_is_wanted(cell: NotebookCell, verdict: Verdict) -> None:
    assert judge(cell, [_error("E", "e")], [_error("E", "e")], _RULES, only_run=True)[0] == verdict


def test_the_marks_of_nbval_are_read() -> None:
    assert Marks.of(_cell("# NBVAL_SKIP\nx")).skipped
    assert Marks.of(_cell(tags=["nbval-skip"])).skipped
    assert Marks.of(_cell(tags=["nbval-raises-exception"])).raises
    assert Marks.of(_cell("x  # nbval_skip")) == Marks()


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], "same"),
        (["same", "ignored"], "same"),
        (["same", "never_run"], "never_run"),
        (["never_run", "flaky"], "differs"),
        (["differs", "new_error", "not_run"], "fails"),
    ],
)
def test_the_verdict_on_a_notebook_is_the_worst(verdicts: list[str], verdict: str) -> None:
    assert whole([Verdict(one) for one in verdicts]) == verdict


def test_counts_tell_another_order_and_several_sessions() -> None:
    assert order_notes([_cell(count=1), _cell(count=2), _cell(count=None)]) == []
    assert order_notes([_cell(count=2), _cell(count=1)])[0].startswith("out_of_order: ")
    assert order_notes([_cell(count=2), _cell(count=2)])[0].startswith("stale_block: ")


def test_a_sanitiser_file_is_read_as_nbval_reads_it() -> None:
    text = "[Times]\nregex: \\d\\d:\\d\\d\nreplace: TIME\n\nregex: a=(.)\nreplace: a=\\1\n[x]\nother: 1\n"

    assert sanitizers(text, "s.cfg") == [(r"\d\d:\d\d", "TIME"), ("a=(.)", r"a=\1")]
    with pytest.raises(InvalidArgumentError, match="is no sanitiser file"):
        sanitizers("[x]\ny: 1\n", "s.cfg")
