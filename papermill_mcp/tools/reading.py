"""Arguments as a client sent them, read by the schema of their tool: strict about meaning, forgiving about form.

A form is taken where the schema leaves one reading. All else stays as it is, and the signature of the tool refuses it.
A value whose schema names no type is any JSON, and is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from papermill_mcp.errors import InvalidArgumentError
from papermill_mcp.services.notebooks.edits import fields_of
from papermill_mcp.tools.names import OTHER_NAMES, meant
from papermill_mcp.utils.json_text import read_json

Json = dict[str, Any]
Schema = Mapping[str, Any]

#: Arguments of free text: an empty one is a value, as is "null".
_FREE_TEXT = {"source", "code", "query", "old_text", "new_text"}
_EMPTY = ("", "null")
#: A selection of cells is a text, but an index or a list is as clear.
_SELECTION = "cells"
#: Members of a cell that ran. A new cell has not run.
_RUN_MEMBERS = ("outputs", "execution_count")

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def read_arguments(tool: str, schema: Schema, arguments: Mapping[str, Any]) -> Json:
    """The arguments by their names in the schema, with values of its types where they have that one reading.

    Raises:
        InvalidArgumentError: two names of one argument have different values.
    """
    return _Reader(tool).members(dict(arguments), schema, "")


class _Reader:
    def __init__(self, tool: str) -> None:
        self._tool = tool

    def members(self, given: Json, schema: Schema, place: str) -> Json:
        """The members of an object that has names of its own."""
        properties = schema["properties"]
        cell = place != "" and _is_cell(given, properties)
        if cell:
            given = _with_cell(given, place)
        made: Json = {}
        for name in sorted(given, key=lambda name: name not in properties):  # names of the schema first
            self._take(name, given[name], made, schema, place)
        if cell and isinstance(made.get("source"), list):
            made["source"] = _joined(made["source"], f"{place}.source")
        return made

    def _take(self, name: str, value: Any, made: Json, schema: Schema, place: str) -> None:
        """Add one member to those that were read, under the name that it has in the schema."""
        properties, required = schema["properties"], schema.get("required", ())
        ours = name if name in properties else self._ours(name, value, made, properties)
        if ours is None:
            if value is not None:
                made[name] = value
            return
        if ours not in required and _is_empty(ours, value, properties[ours]):
            return
        where = f"{place}.{ours}" if place else ours
        read = self._value(ours, value, properties[ours], where)
        if ours in made and made[ours] != read:
            raise InvalidArgumentError(
                f"{where!r} and {name[:100]!r} are one argument with two values",
                allowed="give one of them",
                state="nothing was done",
            )
        made[ours] = read

    def _ours(self, name: str, value: Any, made: Json, properties: Schema) -> str | None:
        """The argument that another name stands for, or None."""
        known = properties.keys() & (fields_of(made["op"]) or properties.keys()) if "op" in made else properties
        found = meant(self._tool, name, known)
        fitting = [ours for ours in found if _fits(self._value(ours, value, properties[ours], ours), properties[ours])]
        left = [ours for ours in found if ours not in made]
        return next(iter([*fitting, *left, *found]), None)

    def _value(self, name: str, value: Any, schema: Schema, place: str) -> Any:
        schema = _chosen(value, schema)
        value = _of_type(value, schema)
        if name == _SELECTION and schema.get("type") == "string":
            return _selection(value)
        if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
            return [self._value("", item, items, f"{place}[{position}]") for position, item in enumerate(value)]
        if isinstance(value, dict):
            if "properties" in schema:
                return self.members(value, schema, place)
            if isinstance(values := schema.get("additionalProperties"), Mapping):
                return {key: self._value("", item, values, f"{place}.{key}") for key, item in value.items()}
        return value


def _is_empty(name: str, value: Any, schema: Schema) -> bool:
    """Whether an optional argument was sent without a value."""
    typed = "type" in schema or "anyOf" in schema
    return value is None or (isinstance(value, str) and typed and name not in _FREE_TEXT and value in _EMPTY)


def _chosen(value: Any, schema: Schema) -> Schema:
    """Of several schemas, the one that the form of the value chooses. JSON text of a list or an object has its form."""
    if "anyOf" not in schema:
        return schema
    form = {"[": "array", "{": "object"}.get(value.lstrip()[:1], "string") if isinstance(value, str) else ""
    fitting = [one for one in schema["anyOf"] if one.get("type") == form or _is_of(value, one.get("type", ""))]
    return next(iter(fitting), {})


def _of_type(value: Any, schema: Schema) -> Any:
    """The value itself, or the one that its JSON text stands for, if the schema takes no text."""
    kind = schema.get("type", "string")
    if isinstance(value, str) and kind != "string":
        try:
            decoded = read_json(value)
        except ValueError:
            return value
        value = value if isinstance(decoded, str) else decoded
    return _whole(value) if kind == "integer" else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))


def _fits(value: Any, schema: Schema) -> bool:
    if "type" not in schema:
        return True
    return _is_of(value, schema["type"]) and ("enum" not in schema or value in schema["enum"])


def _selection(value: Any) -> Any:
    """An index, or a list of indexes and ids, as the text of a selection."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _of_type(value, {"type": "array"})
    parts = [_whole(part) for part in (value if isinstance(value, list) else [value])]
    if not parts or not all(isinstance(part, int | str) and not isinstance(part, bool) for part in parts):
        return value
    return ",".join(str(part) for part in parts)


def _is_cell(given: Json, properties: Schema) -> bool:
    """Whether an object describes a cell to be made: on its own, or by the operation `add`."""
    if "op" in properties:
        return "add" in (given.get(name) for name in ("op", *OTHER_NAMES["op"].split()))
    return {"cell_type", "source"} <= properties.keys()


def _with_cell(given: Json, place: str) -> Json:
    """The members of a cell of nbformat, on their own or as `cell`, without those of a run."""
    cell = _of_type(given.get("cell"), {"type": "object"})
    if isinstance(cell, dict):
        rest = {name: value for name, value in given.items() if name != "cell"}
        if twice := sorted(name for name in rest.keys() & cell.keys() if rest[name] != cell[name]):
            raise InvalidArgumentError(
                f"'{place}.{twice[0]}' and '{place}.cell.{twice[0]}' differ",
                allowed="give one of them",
                state="nothing was done",
            )
        given = rest | cell
    dropped = {*_RUN_MEMBERS, *(() if given.get("attachments") else ("attachments",))}
    return {name: value for name, value in given.items() if name not in dropped}


def _joined(lines: list[Any], place: str) -> Any:
    """Lines of a source as nbformat has them: each but the last with its end."""
    if not all(isinstance(line, str) for line in lines):
        return lines
    if not all(line.endswith("\n") for line in lines[:-1]):
        raise InvalidArgumentError(
            f"argument {place!r} is a list whose lines have no ends",
            allowed=r'a text, or lines that each end with "\n"',
            state="nothing was done",
        )
    return "".join(lines)
