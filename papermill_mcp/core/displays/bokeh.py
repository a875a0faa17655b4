"""A Bokeh document as text: its titles, its axes, and the columns that its glyphs draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from papermill_mcp.core.displays.json_parts import list_of, object_of
from papermill_mcp.core.displays.series import Allowance, Values, series_lines, values_of
from papermill_mcp.utils.text_utils import count_noun, one_line

_MAX_GLYPHS = 20
_CHARS = 200


def bokeh_text(documents: Any, allowance: Allowance) -> str:
    """The lines about the documents of an embedded plot; empty where there is none."""
    models = {_identity(model): model for model in _models(documents, allowance)}
    if not any("attributes" in model for model in models.values()):
        return ""
    titles = [_text(attributes.get("text")) for name, attributes in map(_parts, models.values()) if name == "Title"]
    titles = [title for title in titles if title][:_MAX_GLYPHS]
    lines = [f"Bokeh plot: {'; '.join(titles)}" if titles else "Bokeh plot"]
    if axes := list(dict.fromkeys(_axes(models))):
        lines.append(f"axes: {'; '.join(axes[:_MAX_GLYPHS])}")
    labels = [
        _text(attributes.get("label")) for name, attributes in map(_parts, models.values()) if name == "LegendItem"
    ]
    if labels := [label for label in labels if label]:
        lines.append(f"legend: {'; '.join(labels[:_MAX_GLYPHS])}")
    glyphs = [attributes for name, attributes in map(_parts, models.values()) if name == "GlyphRenderer"]
    for glyph in glyphs[:_MAX_GLYPHS]:
        lines += _glyph(glyph, models, allowance)
    if len(glyphs) > _MAX_GLYPHS:
        lines.append(count_noun(len(glyphs) - _MAX_GLYPHS, "more glyph"))
    return "\n".join(lines) if titles or glyphs else ""


def _models(documents: Any, allowance: Allowance) -> Iterator[Mapping[str, Any]]:
    """The objects of a document that have an id, in their order."""
    waiting = [documents]
    while waiting and allowance.take(1):
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("id"), str) and "attributes" in value:
                yield value
            waiting += reversed(value.values())
        elif isinstance(value, list) and not (value and isinstance(value[0], int | float)):
            waiting += reversed(value)


def _axes(models: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The labels of the axes, by the side of the plot where they stand."""
    for _, attributes in map(_parts, models.values()):
        for side, name in (("below", "x"), ("above", "x"), ("left", "y"), ("right", "y")):
            for axis in list_of(attributes.get(side))[:_MAX_GLYPHS]:
                if label := _text(_parts(_model(axis, models))[1].get("axis_label")):
                    yield f"{name}: {label}"


def _glyph(glyph: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]], allowance: Allowance) -> list[str]:
    kind, _ = _parts(_model(glyph.get("glyph"), models))
    _, source = _parts(_model(glyph.get("data_source"), models))
    data = object_of(source.get("data"))
    entries = list_of(data.get("entries")) or [[name, values] for name, values in data.items()]
    columns: dict[str, Values] = {}
    for entry in entries[:_MAX_GLYPHS]:
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
            values = values_of(entry[1])
            if values is not None:
                columns[entry[0]] = values
    number = max(map(len, columns.values()), default=0)
    return [f"{kind or 'glyph'}: {count_noun(number, 'point')}", *series_lines(columns, allowance)]


def _model(value: Any, models: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A model, which may stand at another place with the same id."""
    found = object_of(value)
    return found if "attributes" in found else models.get(_identity(found), found)


def _identity(model: Mapping[str, Any]) -> str:
    found = model.get("id")
    return found if isinstance(found, str) else ""


def _parts(model: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The name of a model's class, and its attributes. Bokeh 2 has the name as `type`."""
    name = model.get("name") if model.get("type") == "object" else model.get("type")
    return (one_line(name, 60) if isinstance(name, str) else ""), object_of(model.get("attributes"))


def _text(value: Any) -> str:
    found = value.get("value") if isinstance(value, dict) else value
    return one_line(found, _CHARS) if isinstance(found, str) else ""
