"""Arguments that do not fit their tool, as errors that name the place, the allowed values and the likely meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from papermill_mcp.errors import InvalidArgumentError, ServerError, UnknownArgumentError, listed, nearest
from papermill_mcp.services.notebooks.edits import fields_of
from papermill_mcp.tools.names import meant
from papermill_mcp.utils.text_utils import json_kind

#: How pydantic names a member of a union in the place of a fault.
_KIND = re.compile(r"(list|dict)\[.*\]|str|int|float|bool|list|dict|none", re.DOTALL)


def argument_error(
    tool: str, error: ValidationError, schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> ServerError:
    """The first fault of the arguments as one of our errors, since the others often follow from it."""
    problems = error.errors()
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    place = [str(part) for part in _without_kinds(first["loc"], arguments)]
    name = place[0] + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place[1:])
    if first["type"] == "extra_forbidden":
        known = _known(first["loc"][:-1], schema, arguments)
        unknown = [str(problem["loc"][0]) for problem in problems if problem["type"] == "extra_forbidden"]
        near = next(iter(meant(tool, place[-1], known)), None) or nearest(place[-1], known)
        return UnknownArgumentError(
            f"{tool} has no argument {name[:200]!r}" + (f"; did you mean {near!r}?" if near else ""),
            allowed=f"its {'arguments' if len(place) == 1 else 'fields'}: {listed(known, limit=40)}",
            state="nothing was done",
            advice=_other_tool(tool, unknown),
        )
    if first["type"] in ("missing", "missing_argument"):
        return InvalidArgumentError(
            f"{tool} needs the argument {name!r}",
            allowed=_about(place[0], schema),
            state="nothing was done",
            advice=_other_tool(tool, place),
        )
    rule = re.sub(r"^\w+ should", "must", first["msg"])
    near = nearest(str(first["input"])[:100].lower(), _schema_at(first["loc"], schema).get("enum", ()))
    return InvalidArgumentError(
        f"argument {name!r} {rule}, got {_kind(first['input'])}" + (f"; did you mean {near!r}?" if near else ""),
        allowed=_about(place[0], schema),
        state="nothing was done",
    )


def _without_kinds(place: Sequence[str | int], arguments: Mapping[str, Any]) -> list[str | int]:
    """The place of a fault in the arguments, without the member of a union that was tried."""
    value: Any = arguments
    found: list[str | int] = []
    for part in place:
        there = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if not there and isinstance(part, str) and _KIND.fullmatch(part):
            continue
        found.append(part)
        if isinstance(value, Mapping):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    return found


def _schema_at(place: Sequence[str | int], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    for part in place:
        schema = schema.get("items", {}) if isinstance(part, int) else schema.get("properties", {}).get(part, {})
    return schema


def _known(place: Sequence[str | int], schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """The members that an object of the arguments takes."""
    value: Any = arguments
    for part in place:
        value = value[part]
    fields = fields_of(value.get("op")) if isinstance(value, dict) else None
    return [name for name in _schema_at(place, schema).get("properties", {}) if fields is None or name in fields]


def _other_tool(tool: str, faults: Sequence[str]) -> str:
    if tool == "execute_cell" and any(meant(tool, name, ("index", "cell_id", "cells", "code")) for name in faults):
        return "execute_notebook_cell runs a cell of a notebook"
    return ""


def _about(name: str, schema: Mapping[str, Any]) -> str:
    description = schema["properties"].get(name, {}).get("description", "")
    return f"about {name}: {description}" if description else ""


def _kind(value: Any) -> str:
    noun = json_kind(value).partition(" ")[2]
    shown = json.dumps(value, ensure_ascii=True, default=str)
    shown = shown if len(shown) <= 80 else shown[:80] + "…"
    return f"the {noun} {shown}" if noun else shown
