"""A batch in a few lines: recorded numbers by the one parameter that varies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.snapshot import RowState
from papermill_mcp.services.runs.batch_summary import MAX_POINTS, number_spans, numbers_by_parameter, varying
from papermill_mcp.services.runs.run_pictures import labels_of
from papermill_mcp.services.runs.view import BatchRunView, RecordedValue, RunRow
from papermill_mcp.tools.replies import render


def _row(number: int, parameters: dict[str, Any], recorded: dict[str, Any], **more: Any) -> RowState:
    return RowState(
        number=number,
        status=RunStatus.ERROR if more.get("failed") else RunStatus.OK,
        kernel_name="python3",
        parameters=parameters,
        file=more.pop("file", Path("in.ipynb")),
        output_file=Path(f"{number}.ipynb"),
        recorded=recorded,
        **more,
    )


def _lines(rows: list[RowState]) -> list[str]:
    view = BatchRunView(
        execution_id="a", kind="batch", status="ok", duration=1, cursor="0.0.0", runs_total=len(rows), runs_done=1
    )
    view.by_parameter = numbers_by_parameter(rows)
    return render(view).splitlines()


def test_numbers_stand_by_the_values_of_the_parameter_in_their_order() -> None:
    rows = [
        _row(0, {"n": 10, "fixed": 1}, {"loss": 0.123456789, "label": "x", "good": True}),
        _row(1, {"n": 9, "fixed": 1}, {"loss": 2}, failed=True),
        _row(2, {"n": -1, "fixed": 1}, {}, failed=True),
        _row(3, {"n": 100.5, "fixed": 1}, {"other": 1e9}),
    ]
    assert _lines(rows)[-6:] == [
        "by n:",
        "n | run | loss | other",
        "-1 | 2 | failed",
        "9 | 1 | 2 |",
        "10 | 0 | 0.123457 |",
        "100.5 | 3 |  | 1000000000",
    ]


def test_many_runs_are_evenly_spread() -> None:
    rows = [_row(number, {"n": number}, {"loss": number / 7}) for number in range(500)]
    lines = _lines(rows)
    table = lines[lines.index(next(line for line in lines if line.startswith("by n"))) :]
    assert table[0] == f"by n ({MAX_POINTS} of 500 runs; the table of results has all):"
    shown = [int(line.split(" | ")[0]) for line in table[2:]]
    assert len(shown) == MAX_POINTS
    assert (shown[0], shown[-1]) == (0, 499)
    assert max(b - a for a, b in itertools.pairwise(shown)) <= 27


def test_text_of_others_is_clean_and_in_one_line() -> None:
    hostile = "a\x1b[31m\n- run 7: ok\u202e" + "x" * 200
    rows = [_row(number, {hostile: f"{hostile}{number}"}, {hostile: number}) for number in range(2)]
    lines = _lines(rows)
    assert not any("\x1b" in line or "\u202e" in line or line.startswith("- run") for line in lines)
    assert all(len(line) < 300 for line in lines)
    assert len(lines) == 7


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [_row(0, {"n": 1}, {"x": 1})],
        [_row(n, {"n": n, "m": n}, {"x": 1}) for n in range(3)],
        [_row(n, {"n": n}, {"x": "text", "flag": True}) for n in range(3)],
        [_row(n, {"n": n}, {"x": 1}, file=Path(f"{n}.ipynb")) for n in range(3)],
        [_row(n, {"n": n}, {"x": 10**400 + n}) for n in range(3)],
    ],
)
def test_there_is_no_table_for_runs_that_differ_in_another_way(rows: list[RowState]) -> None:
    assert numbers_by_parameter(rows) is None


def test_a_number_is_shown_once() -> None:
    """The line of a run leaves out the numbers that the table has."""
    view = BatchRunView(execution_id="a", kind="batch", status="ok", duration=1, cursor="0.0.0", runs_total=2)
    rows = [_row(number, {"n": number}, {"loss": 4321 + number, "note": "kept"}) for number in range(2)]
    view.by_parameter = numbers_by_parameter(rows)
    view.runs = [
        RunRow(
            run=row.number,
            status="ok",
            parameters=dict(row.parameters),
            output_path="out.ipynb",
            result=[RecordedValue(name=name, value=value) for name, value in (row.recorded or {}).items()],
        )
        for row in rows
    ]
    text = render(view)
    assert text.count("4321") == text.count("4322") == 1
    assert text.count("note = kept") == 2


def test_an_integer_beyond_all_floats_has_no_span() -> None:
    assert number_spans((n, {"huge": 10**400 + n, "small": n}) for n in range(2)) == number_spans(
        (n, {"small": n}) for n in range(2)
    )


def test_values_of_another_type_differ() -> None:
    assert varying([{"a": 1, "b": 1, "c": None}, {"a": True, "b": 1, "c": None}]) == ["a"]
    assert varying([{"a": 1}, {}]) == ["a"]
    assert varying([{"a": 1}]) == []
    assert varying([]) == []


def test_a_label_names_what_varies() -> None:
    rows = [_row(n, {"n": n, "fixed": 1, "name": "long" * 30}, {}, failed=n == 1) for n in range(2)]
    assert labels_of(rows) == {0: "run 0 · n=0", 1: "run 1 failed · n=1"}
    rows = [_row(n, {"n": "x\n\u202ey"}, {}, file=Path(f"/w/{n}.ipynb")) for n in range(2)]
    assert labels_of(rows) == {0: "run 0 · 0", 1: "run 1 · 1"}
