"""A Plotly figure as text: its title, its axes, and its traces with their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from papermill_mcp.core.displays.json_parts import list_of, object_of
from papermill_mcp.core.displays.series import (
    Allowance,
    Values,
    matrix_lines,
    series_lines,
    value_text,
    values_of,
)
from papermill_mcp.core.displays.tables import records_lines
from papermill_mcp.utils.text_utils import count_noun, one_line

_MAX_TRACES = 20
_MAX_NOTES = 10
_TITLE_CHARS = 200

#: Members of a trace that hold a value for each point, those that tell its position first.
_POSITIONS = ("x", "labels", "locations", "theta", "lon", "lat", "a", "b", "c")
_VALUES = (
    "y", "z", "r", "values", "parents", "open", "high", "low", "close", "u", "v", "w", "value", "q1", "median", "q3",
    "mean", "text",
)  # fmt: skip
_BREAK = re.compile(r"<br ?/?>")
_MARK = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")


def plotly_text(figure: Any, allowance: Allowance) -> str:
    """The lines about a figure; empty where it is none."""
    figure = object_of(figure)
    traces = [object_of(trace) for trace in list_of(figure.get("data"))]
    layout = object_of(figure.get("layout"))
    title = _title(layout.get("title"))
    if not traces and not title:
        return ""
    lines = [f"Plotly figure: {title}" if title else "Plotly figure"]
    if axes := _axes(layout):
        lines.append(f"axes: {axes}")
    notes = [_plain(object_of(note).get("text")) for note in list_of(layout.get("annotations"))[:_MAX_NOTES]]
    if notes := [note for note in notes if note]:
        lines.append(f"notes: {'; '.join(notes)}")
    for trace in traces[:_MAX_TRACES]:
        lines += _trace(trace, allowance)
    if len(traces) > _MAX_TRACES:
        lines.append(f"{count_noun(len(traces) - _MAX_TRACES, 'more trace')}")
    if frames := len(list_of(figure.get("frames"))):
        lines.append(f"{count_noun(frames, 'frame')} of an animation")
    return "\n".join(lines)


def _axes(layout: Mapping[str, Any]) -> str:
    """The titles of all axes, such as `x: month; y: mm`."""
    found: dict[str, str] = {}
    places = [layout, *(object_of(layout[name]) for name in layout if re.fullmatch(r"(scene|polar|ternary)\d*", name))]
    for place in places:
        for name, axis in place.items():
            match = re.fullmatch(r"([xyz]|radial|angular|color)axis(\d*)", name)
            title = _title(object_of(axis).get("title")) or _title(
                object_of(object_of(axis).get("colorbar")).get("title")
            )
            if match and title and title not in found.values():
                found[match[1] + match[2]] = title
    return "; ".join(f"{name}: {title}" for name, title in list(found.items())[:_MAX_TRACES])


def _trace(trace: Mapping[str, Any], allowance: Allowance) -> list[str]:
    kind = one_line(_word(trace.get("type")) or "scatter", 40)
    name = _plain(trace.get("name"))
    head = f'{kind} "{name}"' if name else kind
    if kind == "table":
        return [head, *_table(trace)]
    if kind == "sankey":
        return [head, *_sankey(trace, allowance)]
    columns = _columns(trace)
    matrix = columns.pop("z", None)
    if matrix is not None and any(values_of(row) is not None or not _is_scalar(row) for row in matrix[:1]):
        rows = [values_of(row) if isinstance(row, dict) else row for row in matrix]
        return [head, *matrix_lines(rows, columns.get("x"), columns.get("y"), allowance)]
    if matrix is not None:
        columns["z"] = matrix
    number = max((len(values) for values in columns.values()), default=0)
    facts = [head] if not number else [f"{head}: {count_noun(number, 'point')}"]
    return ["".join(facts + _scalars(trace)), *series_lines(columns, allowance)]


def _columns(trace: Mapping[str, Any]) -> dict[str, Values]:
    names = [*_POSITIONS, *_VALUES]
    if trace.get("orientation") == "h":
        names = ["y", *(name for name in names if name != "y")]
    columns = {name: values for name in names if (values := values_of(trace.get(name))) is not None}
    for number, dimension in enumerate(list_of(trace.get("dimensions"))[:_MAX_TRACES]):
        values = values_of(object_of(dimension).get("values"))
        if values is not None:
            columns[_plain(object_of(dimension).get("label")) or f"dimension {number}"] = values
    text = columns.get("text")
    if text is not None and not any(isinstance(item, str) and item for item in text[:100]):
        del columns["text"]
    return columns


def _scalars(trace: Mapping[str, Any]) -> list[str]:
    """The values of an indicator, and those that stand for a whole row, such as the start and the step of x."""
    names = ("value", "x0", "dx", "y0", "dy")
    found = [f" · {name} {value_text(trace[name])}" for name in names if name in trace and _is_scalar(trace[name])]
    delta = object_of(trace.get("delta")).get("reference")
    title = _title(trace.get("title"))
    return [
        *([f" · {title}"] if title else []),
        *found,
        *([f" · compared with {value_text(delta)}"] if delta is not None else []),
    ]


def _table(trace: Mapping[str, Any]) -> list[str]:
    header = values_of(object_of(trace.get("header")).get("values")) or []
    columns = [values_of(column) or [] for column in list_of(object_of(trace.get("cells")).get("values"))[:1000]]
    rows = max(map(len, columns), default=0)
    head = [_plain(name) if isinstance(name, str) else value_text(name) for name in header[:1000]]
    return records_lines(
        head, rows, lambda place: [value_text(column[place]) if place < len(column) else "" for column in columns]
    )


def _sankey(trace: Mapping[str, Any], allowance: Allowance) -> list[str]:
    labels = values_of(object_of(trace.get("node")).get("label")) or []
    link = object_of(trace.get("link"))
    columns = {name: values for name in ("source", "target", "value") if (values := values_of(link.get(name)))}
    for name in ("source", "target"):
        if name in columns:
            read = allowance.take(len(columns[name]))
            columns[name] = [_labelled(place, labels) for place in columns[name][:read]]
    return series_lines(columns, allowance)


def _labelled(place: Any, labels: Values) -> Any:
    return labels[place] if isinstance(place, int) and 0 <= place < len(labels) else place


def _title(value: Any) -> str:
    return _plain(value.get("text") if isinstance(value, dict) else value)


def _plain(value: Any) -> str:
    """Text without the marks that Plotly allows in it."""
    text = _word(value)[:1_000]
    return one_line(_MARK.sub("", _BREAK.sub(" ", text)), _TITLE_CHARS) if text else ""


def _word(value: Any) -> str:
    return value if isinstance(value, str) else value_text(value) if isinstance(value, int | float) else ""


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)
