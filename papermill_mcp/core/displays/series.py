"""Columns of values as a few lines: how many, the smallest and the largest, and at most some of the points."""

from __future__ import annotations

import array
import base64
import binascii
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.displays.tables import MAX_COLUMNS, MAX_ROWS, table_lines
from papermill_mcp.utils.text_utils import one_line

Values = Sequence[Any]

#: Points that are shown of a longer series, and the length up to which a series is shown whole.
MAX_POINTS = 10
_WHOLE = 15

_MAX_NAMES = 8
_VALUE_CHARS = 60
_MAX_SHAPED = 10_000  # rows of a matrix
_MAX_ENCODED = 48_000_000

#: Type codes of `array` by the names of numpy and of plotly.
_CODES = {
    "float64": "d", "f8": "d", "float32": "f", "f4": "f", "int8": "b", "i1": "b", "uint8": "B", "u1": "B",
    "uint8c": "B", "bool": "B", "int16": "h", "i2": "h", "uint16": "H", "u2": "H", "int32": "i", "i4": "i",
    "uint32": "I", "u4": "I", "int64": "q", "i8": "q", "uint64": "Q", "u8": "Q",
}  # fmt: skip


@dataclass
class Allowance:
    """Values that may still be read for one display, so that its text takes a bounded time."""

    values: int = 400_000
    script_chars: int = 20_000_000
    """Characters of scripts that may still be read as JSON."""
    whole_tables: bool = False
    """Whether tables of pages keep all their rows."""

    def take(self, number: int) -> int:
        """Use up `number` values, or as many as are left. Returns how many."""
        number = min(number, self.values)
        self.values -= number
        return number


def values_of(raw: Any) -> Values | None:
    """The values of a JSON list, or of an array that plotly or bokeh packs in base64. None for anything else."""
    if isinstance(raw, list):
        return raw
    if not isinstance(raw, dict):
        return None
    encoded = raw.get("bdata")
    if encoded is None and isinstance(inner := raw.get("array"), dict):
        encoded = inner.get("data")
    elif encoded is None and isinstance(raw.get("array"), list):
        return values_of(raw["array"])
    code = _CODES.get(str(raw.get("dtype"))[:20].lstrip("<>|="))
    if not isinstance(encoded, str) or not code or len(encoded) > _MAX_ENCODED:
        return None
    values = array.array(code)
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return None
    values.frombytes(data[: len(data) // values.itemsize * values.itemsize])
    if (raw.get("order") or "little") != sys.byteorder:
        values.byteswap()
    return _shaped(values, raw.get("shape"))


def _shaped(values: Values, shape: Any) -> Values:
    sizes = shape if isinstance(shape, list) else str(shape or "").split(",")
    width = str(sizes[1]).strip() if len(sizes) == 2 else ""
    if not width.isdecimal() or len(width) > 9 or not 0 < int(width) <= len(values) <= _MAX_SHAPED * int(width):
        return values
    return [values[at : at + int(width)] for at in range(0, len(values), int(width))]


def value_text(value: Any) -> str:
    """One value in a few characters."""
    if isinstance(value, str):
        return one_line(value, _VALUE_CHARS)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if value.bit_length() < 100 else "a huge number"
    if isinstance(value, dict | list):
        return "[…]" if isinstance(value, list) else "{…}"
    return json.dumps(value, default=lambda _: "…")[:_VALUE_CHARS]


def is_number(value: Any) -> bool:
    """A number that can be compared. JSON has no other ones, but Python reads NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1_000


def series_lines(columns: Mapping[str, Values], allowance: Allowance) -> list[str]:
    """Columns of equal meaning for each point, the one with the positions first."""
    columns = {name: values for name, values in list(columns.items())[:_MAX_NAMES] if len(values)}
    if not columns:
        return []
    number = max(len(values) for values in columns.values())
    names = ", ".join(one_line(name, _VALUE_CHARS) for name in columns)
    if number <= _WHOLE:
        return [f"  {names}: {_points(columns, range(number))}"]
    position = next(iter(columns.values()))
    facts = [
        f"  {one_line(name, _VALUE_CHARS)}: {extremes}"
        for name, values in columns.items()
        if (extremes := _extremes(values, None if values is position else position, allowance))
    ]
    step = (number - 1) / (MAX_POINTS - 1)
    chosen = [round(place * step) for place in range(MAX_POINTS)]
    return [
        *facts,
        f"  {MAX_POINTS} of the points ({names}), the first and the last among them: {_points(columns, chosen)}",
    ]


def _points(columns: Mapping[str, Values], places: Sequence[int]) -> str:
    if len(columns) == 1:
        (values,) = columns.values()
        return ", ".join(value_text(values[place]) for place in places)
    rows = (
        ", ".join(value_text(values[place]) if place < len(values) else "–" for values in columns.values())
        for place in places
    )
    return " ".join(f"({row})" for row in rows)


def _extremes(values: Values, position: Values | None, allowance: Allowance) -> str:
    read = allowance.take(len(values))
    places = [place for place in range(read) if is_number(values[place])]
    if not places:
        return ""
    least, most = min(places, key=values.__getitem__), max(places, key=values.__getitem__)

    def at(place: int) -> str:
        return f" at {value_text(position[place])}" if position is not None and place < len(position) else ""

    text = f"min {value_text(values[least])}{at(least)}, max {value_text(values[most])}{at(most)}"
    missing = read - len(places)
    if missing:
        text += f", {missing} not numbers"
    return text if read == len(values) else f"{text} (of the first {read} values)"


def matrix_lines(rows: Values, names: Values | None, labels: Values | None, allowance: Allowance) -> list[str]:
    """A matrix with the names of its columns and the labels of its rows."""
    width = max((len(row) for row in rows if isinstance(row, Sequence) and not isinstance(row, str)), default=0)

    def label(of: Values | None, place: int) -> str:
        return value_text(of[place]) if of is not None and place < len(of) else str(place)

    if len(rows) <= MAX_ROWS and width < MAX_COLUMNS:
        head = ["", *(label(names, place) for place in range(width))]
        body = [[label(labels, place), *map(value_text, _row(row))] for place, row in enumerate(rows)]
        return table_lines([head, *body])
    found: list[tuple[Any, int, int]] = []
    for down, row in enumerate(rows):
        row = _row(row)
        read = allowance.take(len(row))
        numbers = [(row[across], down, across) for across in range(read) if is_number(row[across])]
        if numbers:
            found += min(numbers), max(numbers)
        if read < len(row):
            break
    text = f"  {len(rows)} × {width} values"
    if found:
        ends = [(name, end) for name, end in (("min", min(found)), ("max", max(found)))]
        text += "".join(
            f", {name} {value_text(value)} at ({label(names, across)}, {label(labels, down)})"
            for name, (value, down, across) in ends
        )
    return [text if allowance.values else f"{text}, of the first values"]


def _row(row: Any) -> Values:
    return row if isinstance(row, Sequence) and not isinstance(row, str) else [row]
