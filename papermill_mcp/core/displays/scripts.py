"""Charts and maps that a page brings as a script. Nothing is run: their JSON is found and read."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from papermill_mcp.core.displays.bokeh import bokeh_text
from papermill_mcp.core.displays.json_parts import object_of
from papermill_mcp.core.displays.markup import read_page
from papermill_mcp.core.displays.plotly import plotly_text
from papermill_mcp.core.displays.series import Allowance
from papermill_mcp.core.displays.vega import vega_text

_MAX_TRIALS = 20
_MAX_MARKERS = 20
_MAX_PARTS = 10_000  # markers and their texts that are counted

_PLOTLY = re.compile(r"Plotly\.(?:newPlot|react)\(\s*(?:\"[^\"\n]{1,200}\"|'[^'\n]{1,200}')\s*,\s*(?=\[)")
_VEGA = re.compile(r"(?:\)\(\s*|vegaEmbed\(\s*[\"'][^\"'\n]{1,200}[\"']\s*,\s*|\bspec\s*=\s*)(?=\{)")
_BOKEH = re.compile(r"docs_json\s*=\s*(?=\{)")
_COMMA = re.compile(r"\s*,\s*(?=\{)")

_PLACE = r"\[\s*(-?[\d.]{1,30})\s*,\s*(-?[\d.]{1,30})\s*\]"
_CENTRE = re.compile(rf"\bcenter\s*:\s*{_PLACE}")
_LEAFLET = re.compile(
    rf"\bL\.([a-zA-Z]{{1,40}})\(\s*{_PLACE}|(?:\$\(|bindTooltip\(\s*|bindPopup\(\s*)`([^`]{{1,5000}})`"
)
_DECODER = json.JSONDecoder()


def script_text(script: str, allowance: Allowance) -> str:
    """The text of the charts or the map in one script; empty where there are none."""
    found: list[str] = []
    for match in islice(_PLOTLY.finditer(script), _MAX_TRIALS):
        data, end = _json_at(script, match.end(), allowance)
        comma = _COMMA.match(script, end)
        layout = _json_at(script, comma.end(), allowance)[0] if comma else None
        found.append(plotly_text({"data": data, "layout": layout}, allowance))
    for match in islice(_VEGA.finditer(script), _MAX_TRIALS):
        spec = object_of(_json_at(script, match.end(), allowance)[0])
        if "/vega" in str(spec.get("$schema"))[:200]:
            found.append(vega_text(spec, allowance))
    documents = [_json_at(script, match.end(), allowance)[0] for match in islice(_BOKEH.finditer(script), _MAX_TRIALS)]
    if script[:200].lstrip().startswith("{") and '"roots"' in script[:10_000]:
        documents.append(_json_at(script.lstrip(), 0, allowance)[0])
    found += [bokeh_text(document, allowance) for document in documents]
    if "L.map(" in script:
        found.append(_map(script))
    return "\n".join(text for text in dict.fromkeys(found) if text)


def _json_at(text: str, at: int, allowance: Allowance) -> tuple[Any, int]:
    """The JSON value at a place and its end; null where there is none."""
    if allowance.script_chars <= 0:
        return None, at
    value, end = None, at
    try:
        value, end = _DECODER.raw_decode(text, at)
        allowance.script_chars -= end - at
    except json.JSONDecodeError as error:
        allowance.script_chars -= error.pos - at
    except (ValueError, RecursionError):  # a number of 5,000 digits, or very deep
        allowance.script_chars -= len(text) - at
    return value, end


def _map(script: str) -> str:
    """A map of Leaflet, as folium makes it: its centre, and its markers with their texts."""
    lines = ["map"]
    if centre := _CENTRE.search(script):
        lines = [f"map around {centre[1]}, {centre[2]} (latitude, longitude)"]
    number = 0
    for match in islice(_LEAFLET.finditer(script), _MAX_PARTS):
        if match[1]:
            number += 1
            if number <= _MAX_MARKERS:
                lines.append(f"{match[1]} at {match[2]}, {match[3]}")
        elif 0 < number <= _MAX_MARKERS:
            text = " ".join(read_page(match[4]).text.split())[:200]
            lines[-1] += f": {text}" if ": " not in lines[-1] else f"; {text}"
    if number > _MAX_MARKERS:
        lines.append(f"{number - _MAX_MARKERS} more")
    return "\n".join(lines)
