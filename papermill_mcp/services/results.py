"""What result models share: output schemas that say little, since each client pays for them with every session."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, WithJsonSchema


class Result(BaseModel):
    """A result whose output schema costs few tokens: it names what there may be, not what there must be."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None) and None)


#: Schemas that say no more than this: the shape of a row would cost every client more than it tells.
ROWS = WithJsonSchema({"type": "array", "items": {"type": "object"}})
OBJECT = WithJsonSchema({"type": "object"})
