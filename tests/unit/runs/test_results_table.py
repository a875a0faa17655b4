"""The table of a batch: exact for programs, harmless in a spreadsheet, and never over the work of somebody else."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.runs.table import COLUMNS, ResultsTable, as_csv, as_lines, rows_of
from papermill_mcp.utils.file_utils import write_file


def _row(batch: str, run: int, **values: Any) -> dict[str, Any]:
    return {"batch": batch, "run": run, "status": "ok", **values}


def _shown(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_has_each_run_and_opens_in_pandas(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    rows = [_row("a", n, **{"param.n": n, "param.name": 'x,\n"y"', "result.loss": n / 4}) for n in range(3)]
    table.write(rows, durable=True)
    frame = pandas.read_csv(table.path)
    assert list(frame.columns) == [*COLUMNS, "param.n", "param.name", "result.loss"]
    assert frame["result.loss"].tolist() == [0.0, 0.25, 0.5]
    assert frame["param.name"].tolist() == ['x,\n"y"'] * 3
    assert pandas.read_json(table.exact_path, lines=True)["param.n"].tolist() == [0, 1, 2]
    assert rows_of(table.exact_path, "a") == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.jsonl"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_text_is_no_formula_in_a_spreadsheet_and_exact_for_programs(text: str, tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    table.write([_row("a", 0, **{"param.x": text, "param.number": -1, "=name": text})])
    (shown,) = _shown(table.path)
    assert shown["param.x"] == f"'{text}".replace("\r", "\n")
    assert shown["param.number"] == "-1"
    assert "'=name" in shown
    assert rows_of(table.exact_path, "a")[0]["param.x"] == text


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), _VALUES, max_size=5))
def test_what_programs_read_is_what_was_written(values: dict[str, Any]) -> None:
    row = _row("a", 0, **{f"param.{name}": value for name, value in values.items()})
    assert [json.loads(line) for line in as_lines([row]).splitlines()] == [row]
    shown = list(csv.reader(io.StringIO(as_csv([row]).decode(), newline="")))
    assert len(shown) == 2
    assert len(shown[0]) == len(shown[1]) == len(COLUMNS) + len(values)
    assert not any(cell.startswith(("=", "@")) for line in shown for cell in line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), [float("nan")], {"a": [float("inf")]}])
def test_numbers_that_json_lacks_are_texts(value: Any, tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    table.write([_row("a", 0, **{"result.x": value})])
    assert "NaN" not in table.exact_path.read_text()
    assert json.loads(table.exact_path.read_text())["result.x"]


def test_earlier_batches_stay_and_the_own_rows_are_replaced(tmp_path: Path) -> None:
    first, second = ResultsTable(tmp_path, "a"), ResultsTable(tmp_path, "b")
    first.write([_row("a", 0, **{"param.n": 1})])
    second.write([_row("b", 0, **{"result.m": 2})])
    second.write([_row("b", 0, **{"result.m": 3}), _row("b", 1)])
    first.write([_row("a", 0, **{"param.n": 1}), _row("a", 1)])
    assert [(row["batch"], row["run"], row["result.m"]) for row in _shown(first.path)] == [
        ("b", "0", "3"),
        ("b", "1", ""),
        ("a", "0", ""),
        ("a", "1", ""),
    ]
    assert second.path == first.path


def _typed_in(table: ResultsTable) -> None:
    table.path.write_text(table.path.read_text() + "my note,,,\n")


def _without_a_row(table: ResultsTable) -> None:
    table.path.write_text("".join(table.path.read_text().splitlines(keepends=True)[:-1]))


def _other_lines(table: ResultsTable) -> None:
    table.exact_path.write_text('{"something": "else"}\n')


def _no_json(table: ResultsTable) -> None:
    table.exact_path.write_bytes(b"\xff\x00 not JSON")


def _lone_csv(table: ResultsTable) -> None:
    table.exact_path.unlink()


@pytest.mark.parametrize("change", [_typed_in, _without_a_row, _other_lines, _no_json, _lone_csv])
@pytest.mark.parametrize("same_batch", [True, False])
def test_a_file_that_somebody_changed_is_not_touched(change: Any, same_batch: bool, tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    table.write([_row("a", 0), _row("a", 1)])
    change(table)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    after = table if same_batch else ResultsTable(tmp_path, "b")
    name = "a" if same_batch else "b"
    after.write([_row(name, 0)])
    after.write([_row(name, 0), _row(name, 1)])
    assert {path: (tmp_path / path).read_bytes() for path in before} == before
    assert after.path.name == "results-2.csv"
    assert [row["run"] for row in _shown(after.path)] == ["0", "1"]


def test_a_table_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    table.write([_row("a", 0)])
    table.path.unlink()
    table.write([_row("a", 0), _row("a", 1)])
    assert len(_shown(table.path)) == 2
    for path in tmp_path.iterdir():
        path.unlink()
    table.write([_row("a", 0), _row("a", 1)])
    assert len(_shown(table.path)) == 2


def test_batches_that_write_one_table_at_once_lose_nothing(tmp_path: Path) -> None:
    tables = [ResultsTable(tmp_path, f"batch-{n}") for n in range(8)]

    def fill(number: int) -> None:
        for count in range(1, 6):
            tables[number].write([_row(f"batch-{number}", run) for run in range(count)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(8)))
    assert {table.path for table in tables} == {tmp_path / "results.csv"}
    assert len(_shown(tables[0].path)) == 40
    assert all(len(rows_of(table.exact_path, f"batch-{n}")) == 5 for n, table in enumerate(tables))


@pytest.mark.parametrize("text", [None, "", "no json", "[]\n", '{"run": 0}\n', '{"batch": "a", "run": "0"}\n'])
def test_a_file_of_another_form_has_no_rows(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    if text is not None:
        path.write_text(text)
    assert rows_of(path, "a") == []


def test_writing_takes_a_small_part_of_the_time(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a")
    assert table.due
    table.write([_row("a", 0)])
    assert not table.due, "at most once a second"


@pytest.mark.parametrize("died_before", ["exact", "shown"])
def test_a_kill_between_the_two_files_leaves_a_table_that_goes_on(
    died_before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, memory = tmp_path / "out", tmp_path / "memory"
    directory.mkdir()
    table = ResultsTable(directory, "a", memory)
    table.write([_row("a", 0)])

    def write(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == (".jsonl" if died_before == "exact" else ".csv"):
            raise KeyboardInterrupt
        return write_file(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("papermill_mcp.core.runs.table.write_file", write)
        table.write([_row("a", 0), _row("a", 1, **{"param.new": 1})])
    after = ResultsTable(directory, "b", memory)
    after.write([_row("b", 0)])
    assert after.path == table.path
    assert {row["batch"] for row in _shown(after.path)} == {"a", "b"}
    assert len(rows_of(after.exact_path, "a")) == (1 if died_before == "exact" else 2)
