"""The base of all tools: registration, strict arguments, replies and errors.

A tool is one function in a toolset. From it come its name, description, schemas and hints; here it gets strict
arguments, the form of its replies, the mapping of errors, and its log line. Nothing else lists tools by hand.
"""

from __future__ import annotations

import base64
import functools
import inspect
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from string import Template
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import (
    CallToolResult,
    ImageContent,
    TextContent,
    ToolAnnotations,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from papermill_mcp.config import Config, GroupName
from papermill_mcp.errors import InvalidArgumentError, ServerError
from papermill_mcp.services.notebooks.history import called_by
from papermill_mcp.services.results import Request
from papermill_mcp.tools.argument_errors import argument_error
from papermill_mcp.tools.finding import CORE, hints_of
from papermill_mcp.tools.reading import read_arguments
from papermill_mcp.tools.remedies import CALLS
from papermill_mcp.tools.replies import render
from papermill_mcp.utils.file_utils import EXHAUSTED, exhausted
from papermill_mcp.utils.text_utils import safe_utf8

logger = logging.getLogger("papermill_mcp.tools")

_LONG_TEXT = 100_000

_F = TypeVar("_F", bound=Callable[..., Awaitable[BaseModel]])


@dataclass(frozen=True)
class Hints:
    """The effects of a tool, as hints for the client and as reasons not to register it.

    Attributes:
        without_run: those of the same tool without the argument `run`, which it lacks where no code may run.
    """

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    writes_files: bool = False
    runs_code: bool = False
    without_run: Hints | None = None

    def annotations(self) -> ToolAnnotations:
        """The same as MCP tool annotations, without those that say what their absence says.

        The defaults are those of `ToolAnnotations` in the protocol. Two mean nothing for a tool that only reads.
        """
        writes = not self.read_only
        return ToolAnnotations(
            read_only_hint=self.read_only or None,
            destructive_hint=False if writes and not self.destructive else None,
            idempotent_hint=True if writes and self.idempotent else None,
            open_world_hint=None if self.open_world else False,
        )


#: Looks, changes nothing.
READS = Hints(read_only=True, idempotent=True)
#: Looks into a kernel, which calls the `repr` of the user's values.
LOOKS_INSIDE = Hints(read_only=True, idempotent=True, runs_code=True)
#: Adds to a notebook; its content stays.
ADDS = Hints(writes_files=True)
#: May replace a notebook or a part of one.
EDITS = Hints(destructive=True, writes_files=True)
#: The same, and with the argument `run` the cells are run.
ADDS_AND_RUNS = Hints(destructive=True, open_world=True, writes_files=True, without_run=ADDS)
EDITS_AND_RUNS = Hints(destructive=True, open_world=True, writes_files=True, without_run=EDITS)
#: Makes a kernel, which is a process.
STARTS = Hints(runs_code=True)
#: Makes a process unless it is there already.
STARTS_ONCE = Hints(idempotent=True, runs_code=True)
#: Ends a kernel or its code: variables are lost, files are not.
STOPS = Hints(destructive=True, runs_code=True)
#: Runs code, which may do anything its user may.
RUNS_CODE = Hints(destructive=True, open_world=True, runs_code=True)
#: Runs code and writes notebooks.
RUNS_NOTEBOOKS = Hints(destructive=True, open_world=True, runs_code=True, writes_files=True)

#: Changes an environment: fetches packages and may run their code.
INSTALLS = Hints(destructive=True, open_world=True, runs_code=True, writes_files=True)


class _StrictMetadata(FuncMetadata):
    """Arguments that are validated as they are: `read_arguments` has read them."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        return data


class ServiceTool(Tool):
    """A tool whose failures have the words of `errors.py`, and which is logged."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        """Run the tool. A failure that was foreseen is a result with `is_error`; a bug rises to the SDK."""
        began = time.perf_counter()
        outcome = "failed"
        try:
            arguments = await self._read(arguments)
            with called_by(self.name):
                reply = await super().run(arguments, context, convert_result=False)
            outcome = str(getattr(reply, "status", "ok"))
            return _result(reply, images_possible=self.output_schema is None)
        except InvalidArgumentError as error:
            outcome = str(error.code)
            return _refusal(error)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                cause = argument_error(self.name, cause, self.parameters, arguments)
            elif isinstance(cause, OSError) and cause.errno in EXHAUSTED:
                logger.warning("the system is exhausted: %s", cause)
                cause = exhausted(cause)
            if not isinstance(cause, ServerError):
                raise
            outcome = str(cause.code)
            return _refusal(cause)
        finally:
            path = arguments.get("path") or arguments.get("input_path")
            logger.info(
                "tool call",
                extra={
                    "operation": self.name,
                    **({"path": path[:300]} if isinstance(path, str) else {}),
                    "duration": round(time.perf_counter() - began, 4),
                    "outcome": outcome,
                },
            )

    async def _read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        read = functools.partial(read_arguments, self.name, self.parameters, arguments)
        if any(isinstance(value, str) and len(value) > _LONG_TEXT for value in arguments.values()):
            return await anyio.to_thread.run_sync(read)  # JSON of megabytes takes a second to read
        return read()


def _refusal(error: ServerError) -> CallToolResult:
    return CallToolResult(content=[text_content(error.message(CALLS))], is_error=True)


@dataclass(frozen=True)
class _Entry:
    function: Callable[..., Awaitable[BaseModel]]
    title: str
    hints: Hints
    images: bool


class Toolset:
    """A group of tools that is registered, or not, as a whole."""

    def __init__(self, name: GroupName) -> None:
        self.name = name
        self._entries: list[_Entry] = []

    def tool(self, title: str, hints: Hints, *, images: bool = False) -> Callable[[_F], _F]:
        """Make a function a tool.

        Args:
            images: its replies may hold images, so it declares no output schema: several clients drop the images of a
                tool that has one.
        """

        def register(function: _F) -> _F:
            self._entries.append(_Entry(function, title, hints, images))
            return function

        return register

    def tools(self, config: Config) -> list[Tool]:
        """The tools of this set that the settings allow."""
        entries = [
            entry
            for entry in self._entries
            if self.name in config.toolsets or ("core" in config.toolsets and entry.function.__name__ in CORE)
        ]
        return [
            _described(_build(entry, may_run=not config.no_execute), config)
            for entry in entries
            if not (config.read_only and entry.hints.writes_files) and not (config.no_execute and entry.hints.runs_code)
        ]


def _described(tool: Tool, config: Config) -> Tool:
    """The tool with the values of settings in its descriptions."""
    settings = {name: _plain(getattr(config, name)) for name in Config.model_fields}
    properties = {
        name: {**schema, "description": Template(schema["description"]).substitute(settings)}
        for name, schema in tool.parameters["properties"].items()
        if "description" in schema
    }
    return tool.model_copy(
        update={"parameters": {**tool.parameters, "properties": tool.parameters["properties"] | properties}}
    )


def _plain(value: object) -> str:
    """The value of a setting as JSON would have it, without needless zeros."""
    if isinstance(value, bool):
        return str(value).lower()
    return format(value, ".12g") if isinstance(value, float) else str(value)


@functools.cache  # the same in every server of a process but for the settings, and takes milliseconds to make
def _build(entry: _Entry, *, may_run: bool) -> Tool:
    function, hints = _flattened(entry.function), entry.hints
    if hints.without_run is not None and not may_run:
        function, hints = _without_run(function), hints.without_run
    tool = ServiceTool.from_function(
        function,
        title=entry.title,
        description=inspect.getdoc(entry.function),
        annotations=hints.annotations(),
        structured_output=not entry.images,
        meta=hints_of(entry.function.__name__, images=entry.images) or None,
    )
    loose = tool.fn_metadata
    arg_model: Any = loose.arg_model

    class Strict(arg_model):  # type: ignore[misc]
        model_config = ConfigDict(extra="forbid", strict=True)

    tool.fn_metadata = _StrictMetadata(
        arg_model=Strict,
        output_model=loose.output_model,
        output_schema=_portable(loose.output_schema, terse=True) if loose.output_schema else None,
    )
    tool.parameters = _portable(Strict.model_json_schema(by_alias=True))
    return tool


def _flattened(function: Callable[..., Awaitable[BaseModel]]) -> Callable[..., Awaitable[BaseModel]]:
    """A function whose arguments are the fields of its `Request`, if it takes one, and its other arguments."""
    signature = inspect.signature(function, eval_str=True)
    name, request = next(
        ((name, one.annotation) for name, one in signature.parameters.items() if _is_request(one.annotation)),
        (None, None),
    )
    if name is None or request is None:
        return function
    fields = request.model_fields
    parameters = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if info.is_required() else info.default,
            annotation=Annotated[info.annotation, info],
        )
        for field, info in fields.items()
    ]
    parameters += [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values() if one.name != name
    ]

    @functools.wraps(function)
    async def call(**arguments: Any) -> BaseModel:
        # Validated as arguments already; `model_validate` would convert where the tool is strict.
        made = request.model_construct(**{field: arguments.pop(field) for field in fields})
        return await function(**{name: made}, **arguments)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": signature.return_annotation}
    return call


def _without_run(function: Callable[..., Awaitable[BaseModel]]) -> Callable[..., Awaitable[BaseModel]]:
    """A function that has no argument `run`."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [one for one in signature.parameters.values() if one.name != "run"]

    @functools.wraps(function)
    async def call(**arguments: Any) -> BaseModel:
        return await function(**arguments)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": signature.return_annotation}
    return call


def _is_request(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Request)


#: Keys of the schema of a plain text.
_TEXT = dict.fromkeys(("type", "title", "description", "default"))


def _portable(schema: dict[str, Any], *, terse: bool = False) -> dict[str, Any]:
    """A schema that every client understands: no `$ref`, no titles, no `null` beside a type that may be left out.

    Args:
        terse: leave out descriptions, defaults, and the types of texts and of rows, too, as in output schemas, where
            they only cost tokens.
    """
    definitions = schema.get("$defs", {})
    dropped = {"title", "$defs", *(("description", "default") if terse else ())}

    def walk(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if names:  # the keys are names of properties, even if they look like keywords
            return {key: walk(value) for key, value in node.items()}
        if "$ref" in node:
            target = definitions[node["$ref"].rpartition("/")[2]]
            return walk({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        if "anyOf" in node:
            kinds = [kind for kind in node["anyOf"] if kind.get("type") != "null"]
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            if rest.get("default", 0) is None:
                del rest["default"]
            if len(kinds) == 1:
                return walk({**kinds[0], **rest})
            if len(kinds) < len(node["anyOf"]):
                return walk({"anyOf": kinds, **rest})
        if terse and node.keys() <= _TEXT.keys() and node.get("type") == "string":
            return {}
        rest = {key: value for key, value in node.items() if not (terse and key == "items")}
        return {key: walk(value, names=key == "properties") for key, value in rest.items() if key not in dropped}

    portable: dict[str, Any] = walk(schema)
    return portable


def _result(reply: BaseModel, *, images_possible: bool) -> CallToolResult:
    """A reply as text, images and structured content.

    A reply with images has no structured content: clients that find it show it instead of the images.
    """
    images: Sequence[Any] = getattr(reply, "_images", ())
    content: list[Any] = [text_content(render(reply))]
    for image in images:
        data = base64.b64encode(image.data).decode("ascii")
        content.append(text_content(image.label))
        content.append(ImageContent(type="image", data=data, mime_type=image.mime_type))
    if images and images_possible:
        return CallToolResult(content=content)
    return CallToolResult(
        content=content, structured_content=_encodable(reply.model_dump(mode="json", exclude_none=True))
    )


def _encodable(data: dict[str, Any]) -> dict[str, Any]:
    """The same data with nothing in it that cannot be sent as JSON in UTF-8, such as a lone surrogate or NaN."""
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (UnicodeEncodeError, ValueError):
        cleaned: dict[str, Any] = _cleaned(data)
        return cleaned
    return data


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return safe_utf8(value)
    if isinstance(value, dict):
        return {safe_utf8(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def text_content(text: str) -> TextContent:
    """Text for the client, with nothing in it that cannot be sent."""
    return TextContent(type="text", text=safe_utf8(text))
