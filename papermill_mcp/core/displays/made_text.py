"""Text made from the richest form of a display that is neither text nor a picture.

Forms come from files and kernels of others. For any content this takes a bounded time and never raises.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from papermill_mcp.core.displays.bokeh import bokeh_text
from papermill_mcp.core.displays.geo import geojson_text, resource_text
from papermill_mcp.core.displays.markup import read_page
from papermill_mcp.core.displays.plotly import plotly_text
from papermill_mcp.core.displays.scripts import script_text
from papermill_mcp.core.displays.series import Allowance
from papermill_mcp.core.displays.vega import vega_text
from papermill_mcp.core.documents.reading import joined

logger = logging.getLogger(__name__)

#: Characters of a page or a script that are read. One that brings plotly.js along has five million.
MAX_CHARS = 10_000_000

_MAX_FRAMES = 5

#: The words that folium puts below each map, for a notebook that is not trusted.
_FOLIUM = "Make this Notebook Trusted to load map: File -> Trust Notebook"


def made_text(data: Mapping[str, Any], *, whole: bool = False) -> tuple[str | None, str]:
    """The form that a text was made from, and that text; None and no text where there is none.

    Args:
        whole: with all rows of the tables of a page, for a search.
    """
    allowance = Allowance(whole_tables=whole)
    for pattern, make in _MAKERS:
        for mime in data:
            if not pattern.fullmatch(mime):
                continue
            try:
                text = make(data[mime], allowance)
            except (ValueError, RecursionError):  # it is no JSON, or too deep
                continue
            except Exception:  # a form of a kind that no maker foresaw must not hide the other outputs
                logger.exception("No text could be made of a display in the form %r", mime[:100])
                continue
            if text:
                return mime, text
    return None, ""


def _page_text(value: Any, allowance: Allowance) -> str:
    return _read(joined(value), allowance, frames=True)


def _read(markup: str, allowance: Allowance, *, frames: bool) -> str:
    if len(markup) > MAX_CHARS:
        return ""
    page = read_page(markup, whole=allowance.whole_tables)
    texts = [page.text.replace(_FOLIUM, "").strip("\n"), *(script_text(script, allowance) for script in page.scripts)]
    if frames:
        texts += [_read(frame, allowance, frames=False) for frame in page.frames[:_MAX_FRAMES]]
    return "\n".join(text for text in texts if text)


def _script_text(value: Any, allowance: Allowance) -> str:
    script = joined(value)
    return script_text(script, allowance) if len(script) <= MAX_CHARS else ""


def _svg_text(value: Any, allowance: Allowance) -> str:
    return _read(joined(value), allowance, frames=False)


_MAKERS: tuple[tuple[re.Pattern[str], Callable[[Any, Allowance], str]], ...] = (
    (re.compile(r"application/vnd\.plotly\.v\d+\+json"), plotly_text),
    (re.compile(r"application/vnd\.vega(lite)?\.v[\d.]{1,10}[.+]json"), vega_text),
    (re.compile(r"application/geo\+json"), geojson_text),
    (re.compile(r"application/vnd\.dataresource\+json"), lambda value, _: resource_text(value)),
    (re.compile(r"text/html"), _page_text),
    (re.compile(r"image/svg\+xml"), _svg_text),
    (re.compile(r"application/javascript"), _script_text),
    (re.compile(r"application/vnd\.bokeh.*json"), bokeh_text),
)
