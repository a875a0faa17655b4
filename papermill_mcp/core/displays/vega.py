"""A Vega-Lite or Vega chart as text: its titles, marks, encodings, and the values of its encoded fields."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from papermill_mcp.core.displays.json_parts import list_of, object_of
from papermill_mcp.core.displays.series import Allowance, is_number, series_lines, value_text
from papermill_mcp.utils.text_utils import count_noun, one_line

_MAX_VIEWS = 20
_MAX_DEPTH = 20
_MAX_GROUPS = 10
_MAX_FIELDS = 8
_MAX_LINES = 300
_MAX_CHANNELS = 30
_TITLE_CHARS = 200
_MAX_CHARS = 10_000_000

_POSITIONS = ("x", "longitude", "theta", "y", "latitude")
_GROUPS = ("color", "detail", "shape", "strokeDash", "row", "column", "facet", "xOffset", "yOffset")
_COMPOSITIONS = ("layer", "hconcat", "vconcat", "concat")
_SUMMARIES = {
    "mean": statistics.fmean,
    "average": statistics.fmean,
    "median": statistics.median,
    "sum": sum,
    "min": min,
    "max": max,
    "count": len,
}

_Rows = Sequence[Mapping[str, Any]]


@dataclass
class _Chart:
    """The lines about a chart, while they are made."""

    datasets: Mapping[str, Any]
    allowance: Allowance
    lines: list[str] = field(default_factory=list)
    views: int = 0
    shown: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """Data and fields that stand in the lines already."""


@dataclass(frozen=True)
class _Inherited:
    """The data and the encoding that a view takes from the views around it."""

    data: Any
    encoding: Mapping[str, Any]


def vega_text(spec: Any, allowance: Allowance) -> str:
    """The lines about a chart; empty where it is none."""
    spec = object_of(json.loads(spec) if isinstance(spec, str) and len(spec) < _MAX_CHARS else spec)
    if not spec:
        return ""
    title = _title(spec.get("title"))
    chart = _Chart(object_of(spec.get("datasets")), allowance)
    if isinstance(spec.get("marks"), list):
        _vega(chart, spec)
    else:
        _view(chart, {name: value for name, value in spec.items() if name != "title"}, _Inherited(None, {}), 0)
    if not chart.lines and not title:
        return ""
    name = "Vega chart" if isinstance(spec.get("marks"), list) else "Vega-Lite chart"
    more = chart.views - _MAX_VIEWS
    end = [count_noun(more, "more view")] if more > 0 else []
    return "\n".join([f"{name}: {title}" if title else name, *chart.lines, *end])


def _view(chart: _Chart, spec: Mapping[str, Any], above: _Inherited, depth: int) -> None:
    """Add a view, or the views that it is composed of."""
    if depth > _MAX_DEPTH or len(chart.lines) > _MAX_LINES:
        return
    if title := _title(spec.get("title")):
        chart.lines.append(f"title: {title}")
    own = islice(object_of(spec.get("encoding")).items(), _MAX_CHANNELS)
    here = _Inherited(spec.get("data") or above.data, {**above.encoding, **dict(own)})
    parts = [part for name in _COMPOSITIONS for part in list_of(spec.get(name))]
    if isinstance(spec.get("spec"), dict):
        parts.append(spec["spec"])
        facet = object_of(spec.get("facet"))
        channels = {"facet": facet} if "field" in facet else dict(islice(facet.items(), _MAX_CHANNELS))
        here = _Inherited(here.data, {**here.encoding, **channels})
    for part in parts:
        _view(chart, object_of(part), here, depth + 1)
    if "mark" in spec and not parts:
        chart.views += 1
        if chart.views <= _MAX_VIEWS:
            _unit(chart, spec["mark"], here)


def _unit(chart: _Chart, mark: Any, view: _Inherited) -> None:
    """Add one mark with its encodings and the values that it draws."""
    kind = object_of(mark).get("type") if isinstance(mark, dict) else mark
    channels = {name: channel for name, channel in view.encoding.items() if isinstance(channel, dict)}
    encodings = "; ".join(
        f"{one_line(name, 40)}: {text}" for name, channel in channels.items() if (text := _channel(channel))
    )
    source, rows = _rows(chart, view.data)
    head = f"{one_line(kind, 40) if isinstance(kind, str) else 'mark'}: {encodings}"
    chart.lines.append(f"{head} · {source}" if source else head)
    names = [name for name in (*_POSITIONS, *channels) if "field" in channels.get(name, {})]
    fields = tuple(dict.fromkeys(_field(channels[name]) for name in names if name not in ("tooltip", "order")))
    if not rows or not fields or (id(rows), fields) in chart.shown:
        return
    chart.shown.append((id(rows), fields))
    kept = rows[: chart.allowance.take(len(rows) * len(fields)) // len(fields)]
    group = next((_field(channels[name]) for name in _GROUPS if "field" in channels.get(name, {})), "")
    chart.lines += _grouped(kept, fields[:_MAX_FIELDS], group, chart.allowance)
    chart.lines += _summary(kept, channels)


def _channel(channel: Mapping[str, Any]) -> str:
    """The field of an encoding and the way in which it is drawn, such as `mean of mm, "Rain"`."""
    text = _field(channel)
    for name in ("timeUnit", "aggregate"):
        if isinstance(channel.get(name), str):
            text = f"{one_line(channel[name], 40)} of {text}" if text else one_line(channel[name], 40)
    if channel.get("bin"):
        text = f"{text} in bins"
    titles = [
        channel.get("title"),
        object_of(channel.get("axis")).get("title"),
        object_of(channel.get("legend")).get("title"),
    ]
    title = next((found for found in map(_title, titles) if found), "")
    return f'{text} "{title}"' if title and title != text else text


def _field(channel: Mapping[str, Any]) -> str:
    name = channel.get("field")
    return name.replace("\\", "")[:_TITLE_CHARS] if isinstance(name, str) else ""


def _rows(chart: _Chart, data: Any) -> tuple[str, _Rows]:
    """The rows of inline data, or the name of data that stands elsewhere."""
    data = object_of(data)
    values = data.get("values")
    if values is None and isinstance(data.get("name"), str):
        values = chart.datasets.get(data["name"])
    if isinstance(values, list):
        rows = (
            values if all(isinstance(row, dict) for row in values[:1000]) else [{"data": row} for row in values[:1000]]
        )
        return count_noun(len(values), "row"), rows
    if isinstance(values, str):
        return f"inline text of {len(values)} characters", ()
    return (f"data from {one_line(data['url'], _TITLE_CHARS)}" if isinstance(data.get("url"), str) else ""), ()


def _grouped(rows: _Rows, fields: Sequence[str], group: str, allowance: Allowance) -> list[str]:
    """The values by the field that colours them, or all together."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        row = object_of(row)
        groups[value_text(row.get(group)) if group else ""].append(row)
        if len(groups) > _MAX_GROUPS:
            break
    others = [name for name in fields if name != group]
    if not group or not others or not 1 < len(groups) <= _MAX_GROUPS:
        return series_lines({name: [object_of(row).get(name) for row in rows] for name in fields}, allowance)
    lines: list[str] = []
    for value, members in groups.items():
        lines.append(f'  {one_line(group, 60)} "{value}": {count_noun(len(members), "row")}')
        lines += [
            f"  {line}"
            for line in series_lines({name: [row.get(name) for row in members] for name in others}, allowance)
        ]
    return lines


def _summary(rows: _Rows, channels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The aggregated values of a chart that draws one for each value of the other axis."""
    for by, name in (("x", "y"), ("y", "x"), ("color", "theta"), ("color", "y")):
        channel, key = channels.get(name, {}), channels.get(by, {})
        aggregate = channel.get("aggregate")
        plain = "field" in key and not any(key.get(part) for part in ("bin", "timeUnit", "aggregate"))
        if not isinstance(aggregate, str) or aggregate not in _SUMMARIES or not plain:
            continue
        found: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            value = object_of(row).get(_field(channel))
            if aggregate == "count" or is_number(value):
                found[value_text(object_of(row).get(_field(key)))].append(value)
        values = [_SUMMARIES[aggregate](numbers) for numbers in found.values()]  # type: ignore[operator]
        what = f"{aggregate} of {_field(channel)}" if _field(channel) else aggregate
        return ["  as drawn:", *series_lines({_field(key): list(found), what: values}, Allowance())]
    return []


def _vega(chart: _Chart, spec: Mapping[str, Any]) -> None:
    """A chart in the language below Vega-Lite: the types of its marks, its axes and its data."""
    marks = [object_of(mark).get("type") for mark in list_of(spec.get("marks"))[:_MAX_VIEWS]]
    chart.lines.append(f"marks: {', '.join(one_line(mark, 40) for mark in marks if isinstance(mark, str))}")
    axes = [_title(object_of(axis).get("title")) for axis in list_of(spec.get("axes"))[:_MAX_VIEWS]]
    if axes := [axis for axis in axes if axis]:
        chart.lines.append(f"axes: {'; '.join(axes)}")
    for data in list_of(spec.get("data"))[:_MAX_VIEWS]:
        source, rows = _rows(chart, {name: object_of(data).get(name) for name in ("values", "url")})
        if source:
            chart.lines.append(f"{one_line(str(object_of(data).get('name', 'data'))[:99], 60)}: {source}")
        first = list(object_of(rows[0]) if rows else ())[:_MAX_FIELDS]
        kept = rows[: chart.allowance.take(len(rows) * len(first)) // max(len(first), 1)]
        chart.lines += series_lines(
            {name: [object_of(row).get(name) for row in kept] for name in first}, chart.allowance
        )


def _title(value: Any) -> str:
    if isinstance(value, dict):
        text, below = _title(value.get("text")), _title(value.get("subtitle"))
        return f"{text} – {below}" if text and below else text or below
    if isinstance(value, list):
        return one_line(" ".join(line for line in value[:10] if isinstance(line, str)), _TITLE_CHARS)
    return one_line(value, _TITLE_CHARS) if isinstance(value, str) else ""
