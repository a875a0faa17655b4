"""The table of a batch as Parquet: exact, with types, and never over the work of somebody else."""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.runs import typed_table
from papermill_mcp.core.runs.table import COLUMNS, ResultsTable

pytestmark = pytest.mark.skipif(find_spec("pyarrow") is None, reason="there is no pyarrow")


def _row(run: int, **values: Any) -> dict[str, Any]:
    return {"batch": "a", "run": run, "status": "ok", **values}


def _read(source: Any) -> Any:
    from pyarrow import parquet

    return parquet.read_table(source)


def test_types_are_kept(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path, "a", tmp_path / "memory")
    values: dict[str, list[Any]] = {
        "param.n": [1, 2, None],
        "param.rate": [1, 0.5, math.nan],
        "result.loss": [1, "NaN", "-Infinity"],
        "param.flag": [True, None, False],
        "param.name": ["007", "", None],
        "param.any": [1, "1", [1, None]],
        "param.huge": [2**70, 1, 2],
        "result.none": [None, None, None],
        "result.tree": [{"a": 1}, None, {"b": [2]}],
    }
    rows = [
        _row(n, started="2026-01-31T12:00:00Z", duration=n / 2, failed_cell=None if n else 3)
        | {name: column[n] for name, column in values.items()}
        for n in range(3)
    ]
    table.write(rows)
    path = table.write_typed()
    assert path == tmp_path / "results.parquet"
    read = _read(path)
    assert read.column_names == [*COLUMNS, *values]
    kinds = {name: str(read.schema.field(name).type) for name in read.column_names}
    assert kinds["run"] == kinds["failed_cell"] == kinds["param.n"] == "int64"
    assert kinds["duration"] == kinds["param.rate"] == kinds["result.loss"] == "double"
    assert kinds["started"].startswith("timestamp[") and "UTC" in kinds["started"]
    assert kinds["param.flag"] == "bool"
    assert kinds["param.name"] == kinds["worker"] == kinds["result.none"] == "string"
    columns = read.to_pydict()
    assert columns["param.n"] == [1, 2, None]
    assert columns["param.rate"][:2] == [1.0, 0.5] and math.isnan(columns["param.rate"][2])
    assert columns["param.flag"] == [True, None, False]
    assert columns["param.name"] == ["007", "", None]
    assert columns["param.any"] == ["1", '"1"', "[1, null]"]
    assert columns["param.huge"] == [str(2**70), "1", "2"]
    assert columns["result.tree"] == ['{"a": 1}', None, '{"b": [2]}']
    assert columns["started"][0].isoformat() == "2026-01-31T12:00:00+00:00"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)


@given(st.lists(_VALUES, max_size=6))
def test_any_values_have_a_column(values: list[Any]) -> None:
    rows = [_row(n, **{"param.x": value}) for n, value in enumerate(values)]
    read = _read(io.BytesIO(typed_table.as_parquet(rows, COLUMNS))).to_pydict()
    assert len(read["run"]) == len(values)
    missing = [value is None for value in read.get("param.x", [])]
    assert missing == [value is None for value in values]


def test_a_file_that_was_changed_stays(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    table = ResultsTable(tmp_path, "a", memory)
    table.write([_row(0)])
    assert table.write_typed() == tmp_path / "results.parquet"
    later = ResultsTable(tmp_path, "b", memory)
    later.write([_row(0, batch="b")])
    assert later.write_typed() == tmp_path / "results.parquet"
    assert _read(tmp_path / "results.parquet").to_pydict()["batch"] == ["a", "b"]
    (tmp_path / "results.parquet").write_bytes(b"mine")
    assert later.write_typed() == tmp_path / "results-2.parquet"
    assert later.write_typed() == tmp_path / "results-2.parquet"
    assert (tmp_path / "results.parquet").read_bytes() == b"mine"


def test_nothing_is_written_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_table, "available", lambda: False)
    table = ResultsTable(tmp_path, "a")
    table.write([_row(0)])
    assert table.write_typed() is None
    assert not [*tmp_path.glob("*.parquet")]
