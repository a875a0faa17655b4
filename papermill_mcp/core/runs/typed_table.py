"""The table of a batch as Parquet, whose columns have types, where pyarrow is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import safe_utf8

if TYPE_CHECKING:
    import datetime

    import pyarrow
    from pyarrow import parquet
else:
    datetime = lazy("datetime")
    parquet = lazy("pyarrow.parquet")
    pyarrow = lazy("pyarrow")

#: The columns of every table whose type does not come from their values. The other ones are texts.
_WHOLE_NUMBERS = ("run", "attempts", "peak_memory", "failed_cell")
_NUMBERS = ("duration", "wait", "processor_time")
_TIMES = ("started",)

_MOST = 2**63

#: The texts in a `.jsonl` that stand for numbers which JSON does not have.
_NO_JSON = {
    **{"nan": math.nan, "inf": math.inf, "-inf": -math.inf},
    **{"infinity": math.inf, "-infinity": -math.inf},
}


def available() -> bool:
    """Whether pyarrow is installed. Does not import it."""
    return importlib.util.find_spec("pyarrow") is not None


def as_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Rows as Parquet. Imports pyarrow at first use, so call it in a worker thread.

    A column of booleans, integers, numbers or texts keeps that type. Any other column has its values as JSON.

    Args:
        columns: those that the table has in any case, by the names of `ResultsTable`.
    """
    names = dict.fromkeys((*columns, *(name for row in rows for name in row)))
    fields = {safe_utf8(name): _column(name, [row.get(name) for row in rows], name in columns) for name in names}
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(fields), sink)
    return bytes(sink.getvalue())


def _column(name: str, values: Sequence[Any], known: bool) -> Any:
    if known and name in _WHOLE_NUMBERS:
        return pyarrow.array(values, pyarrow.int64())
    if known and name in _NUMBERS:
        return pyarrow.array(values, pyarrow.float64())
    if known and name in _TIMES:
        times = [datetime.datetime.fromisoformat(value) if value is not None else None for value in values]
        return pyarrow.array(times, pyarrow.timestamp("s", tz="UTC"))
    if known:
        return _texts(values)
    return _of_any(values)


def _of_any(values: Sequence[Any]) -> Any:
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pyarrow.array(values, pyarrow.bool_())
    if kinds == {int} and all(-_MOST <= value < _MOST for value in present):
        return pyarrow.array(values, pyarrow.int64())
    numbers = [_NO_JSON.get(value.lower(), value) if isinstance(value, str) else value for value in values]
    if kinds & {int, float} and all(value is None or _is_number(value) for value in numbers):
        return pyarrow.array([None if value is None else float(value) for value in numbers], pyarrow.float64())
    if kinds <= {str}:
        return _texts(values)
    return _texts([None if value is None else json.dumps(value, ensure_ascii=False) for value in values])


def _is_number(value: object) -> bool:
    """A float, or an integer that a float has exactly."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= 2**53)


def _texts(values: Sequence[Any]) -> Any:
    return pyarrow.array([None if value is None else safe_utf8(str(value)) for value in values], pyarrow.string())
