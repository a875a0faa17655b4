"""The reply of a batch stays short, however much its runs record."""

from __future__ import annotations

import json

from papermill_mcp.services.runs.view import BatchRunView, RecordedValue, RunRow
from papermill_mcp.tools.replies import render


def _view(rows: int, values: int, chars: int, parameter: str = "x") -> BatchRunView:
    return BatchRunView(
        execution_id="e",
        kind="batch",
        status="ok",
        duration=1.0,
        cursor="0.0.0",
        runs_total=rows,
        runs_done=rows,
        runs_failed=0,
        runs=[
            RunRow(
                run=number,
                status="ok",
                parameters={"n": number, "text": parameter},
                output_path=f"out/n={number}.ipynb",
                result=[RecordedValue(name=f"value{place}", value="v" * chars) for place in range(values)],
            )
            for number in range(rows)
        ],
    )


def test_values_beyond_the_room_are_left_out_and_counted() -> None:
    view = _view(10, 30, 990)
    view.fit(10_000)

    kept = sum(len(row.result or []) for row in view.runs or [])
    assert 0 < kept <= 10
    assert len(render(view)) < 15_000
    assert len(json.dumps(view.model_dump())) < 20_000
    assert f"{300 - kept} recorded values" in (view.notes or [""])[0]
    assert [row.parameters["n"] for row in view.runs or []] == [*range(10)], "short parameters stay"


def test_long_parameters_are_cut_once_there_is_no_room() -> None:
    view = _view(40, 1, 3, parameter="p" * 2_000)
    view.fit(10_000)

    shown = [row.parameters["text"] for row in view.runs or []]
    assert shown[0] == "p" * 2_000
    assert shown[-1].startswith('"ppp') and shown[-1].endswith("(2002 characters)")
    assert len(render(view)) < 20_000


def test_a_short_reply_stays_as_it_is() -> None:
    view, same = _view(5, 4, 20), _view(5, 4, 20)
    view.fit(10_000)

    assert view == same
