"""GeoJSON and tables of data as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from papermill_mcp.core.displays.json_parts import list_of, object_of
from papermill_mcp.core.displays.series import Allowance, is_number, value_text
from papermill_mcp.core.displays.tables import records_lines
from papermill_mcp.utils.text_utils import one_line

_MAX_NAMES = 20
_LOOKED_AT = 1_000


def geojson_text(value: Any, allowance: Allowance) -> str:
    """Kinds of the features, their bounds, and their properties as a table; empty where it is no GeoJSON."""
    found = object_of(value)
    features = list_of(found.get("features")) if found.get("type") == "FeatureCollection" else [found]
    shapes = [object_of(object_of(feature).get("geometry") or feature) for feature in features]
    kinds = Counter(one_line(kind, 40) for shape in shapes if isinstance(kind := shape.get("type"), str))
    if not kinds:
        return ""
    lines = ["GeoJSON: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(_MAX_NAMES))]
    if bounds := _bounds(shapes, allowance):
        lines.append(bounds)
    properties = [object_of(object_of(feature).get("properties")) for feature in features]
    return "\n".join([*lines, *_records(properties)])


def resource_text(value: Any) -> str:
    """A table of data, as pandas sends it for data explorers (Tabular Data Resource)."""
    rows = [object_of(row) for row in list_of(object_of(value).get("data"))]
    return "\n".join(_records(rows))


def _records(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows[:_LOOKED_AT] for name in list(row)[:_LOOKED_AT]))[:_LOOKED_AT]
    if not names:
        return []
    return records_lines(names, len(rows), lambda place: [value_text(rows[place].get(name, "")) for name in names])


def _bounds(shapes: Sequence[Mapping[str, Any]], allowance: Allowance) -> str:
    """The smallest and the largest longitude and latitude."""
    waiting: list[Any] = [shape.get("coordinates") or shape.get("geometries") for shape in reversed(shapes)]
    east: list[Any] = []
    north: list[Any] = []
    while waiting and allowance.take(1):
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.append(value.get("coordinates"))
        elif isinstance(value, list) and len(value) >= 2 and is_number(value[0]) and is_number(value[1]):
            east.append(value[0])
            north.append(value[1])
        elif isinstance(value, list):
            waiting += reversed(value)
    if not east:
        return ""
    part = " of a part of it" if waiting else ""
    ends = [value_text(end) for end in (min(east), max(east), min(north), max(north))]
    return f"bounds{part}: longitude {ends[0]} to {ends[1]}, latitude {ends[2]} to {ends[3]}"
