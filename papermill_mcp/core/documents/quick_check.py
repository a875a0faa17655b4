"""A quick look at a cell: whether its outputs are surely as the format wants them.

msgspec reads the outputs into types that are those of the schema (nbformat 4.0 to 4.5 agree about outputs). This takes
a third of the time that `json` and the schema take. A cell that is not surely right is left to these.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Annotated, Any

from papermill_mcp.core.documents.places import decoded_texts
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import msgspec
else:
    msgspec = lazy("msgspec")

#: The end of a key, and of a text in a text that looks like one.
_KEY_END = re.compile(rb'"[ \t\r\n]*:')


def without_right_outputs(raw: bytes | memoryview) -> dict[str, Any] | None:
    """The members of a cell, with no outputs in place of those that are as the format wants them.

    None if that is not sure: an output is not as it should be, the cell has members that no cell has, attachments,
    a number that JSON does not have, or perhaps a key that stands twice.

    Args:
        raw: the text of the cell, UTF-8.
    """
    cell = decoded_texts(_decoder(), raw)
    if cell is None:
        return None
    unset = _unset()
    data = {key: value for key in cell.__struct_fields__ if (value := getattr(cell, key)) is not unset}
    outputs = data.pop("outputs", None)
    # Each key ends in a quotation mark and a colon, and so may a text. So if as many places look like the end of a key
    # as there are members, no key stands twice.
    members = _members(data)
    if outputs is not None:
        members += 1 + sum(map(_members_of_output, outputs))
        data["outputs"] = []
    return data if len(_KEY_END.findall(raw)) == members else None


def _members(value: object) -> int:
    """How many members an object has, with those of the objects in it."""
    if isinstance(value, dict):
        return len(value) + sum(_members(one) for one in value.values() if isinstance(one, dict | list))
    return sum(_members(one) for one in value if isinstance(one, dict | list)) if isinstance(value, list) else 0


def _members_of_output(output: Any) -> int:
    kind = output.__struct_config__.tag
    own = len(output.__struct_fields__) + 1
    if kind in ("stream", "error"):
        return own
    return own + len(output.data) + _members(output.metadata)


@functools.cache
def _unset() -> object:
    return msgspec.UNSET


@functools.cache  # of types, not of content
def _decoder() -> msgspec.json.Decoder[Any]:
    text = str | list[str]
    count = Annotated[int, msgspec.Meta(ge=0)] | None

    def output(kind: str, *fields: tuple[str, Any]) -> Any:
        return msgspec.defstruct(kind, fields, tag=kind, tag_field="output_type", forbid_unknown_fields=True)

    shown = (("data", dict[str, text]), ("metadata", dict[str, Any]))
    outputs = (
        output("stream", ("name", str), ("text", text))
        | output("error", ("ename", str), ("evalue", str), ("traceback", list[str]))
        | output("display_data", *shown)
        | output("execute_result", *shown, ("execution_count", count))
    )
    of_cell: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("cell_type", str),
        ("metadata", dict[str, Any]),
        ("source", text),
        ("id", Any, msgspec.UNSET),
        ("execution_count", count | msgspec.UnsetType, msgspec.UNSET),
        ("outputs", list[outputs] | msgspec.UnsetType, msgspec.UNSET),  # type: ignore[valid-type]
    ]
    cell: Any = msgspec.defstruct("Cell", of_cell, forbid_unknown_fields=True)
    return msgspec.json.Decoder(cell)
