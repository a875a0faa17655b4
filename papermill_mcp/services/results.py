"""The base of result models: output schemas that say little, since each client pays for them with every session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, WithJsonSchema


class Result(BaseModel):
    """A result whose output schema costs few tokens: it names the possible fields, not the required ones."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None) and None)


class Request(BaseModel):
    """Arguments of a tool as one frozen object. Its fields are arguments of the tool, with their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: Schemas that say no more than this: the shape of a row would cost every client more than it tells.
ROWS = WithJsonSchema({"type": "array", "items": {"type": "object"}})
OBJECT = WithJsonSchema({"type": "object"})

#: Reports how far a request is: parts done, parts in all, and a line for a person.
Progress = Callable[[float, float | None, str | None], Awaitable[None]]
