"""The SDK's server, joined with ours: tools, resources, prompts, completions, and the words of failures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    GetPromptResult,
    InputRequiredResult,
    ListResourcesResult,
    PaginatedRequestParams,
    Prompt,
    ResourceTemplate,
    ResourceTemplateReference,
)
from pydantic import BaseModel, ValidationError

from papermill_mcp.config import Config
from papermill_mcp.errors import InvalidArgumentError, NotConfiguredError, ServerError, listed, nearest
from papermill_mcp.server.sdk import SdkServer
from papermill_mcp.server.subscriptions import Subscriptions
from papermill_mcp.services import Services
from papermill_mcp.tools import resources
from papermill_mcp.tools.completions import complete
from papermill_mcp.tools.prompts import check_prompt, filled_prompt, offered_prompts
from papermill_mcp.tools.remedies import CALLS
from papermill_mcp.tools.toolset import text_content
from papermill_mcp.utils.text_utils import safe_utf8

logger = logging.getLogger("papermill_mcp.tools")


#: Requests that need roots and services. The others tell about the server, and are always answered.
NEED_SETTINGS = (
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "subscriptions/listen",
    "prompts/get",
    "completion/complete",
)


class NotebookServer(SdkServer[Services]):
    """The SDK's server, with answers of ours where the SDK has none or says too much.

    Args:
        check: raises `NotConfiguredError` while the server cannot work.
    """

    def __init__(
        self, name: str, *, tools: list[Tool], config: Config, check: Callable[[], Awaitable[None]], **options: Any
    ) -> None:
        super().__init__(name, tools=tools, middleware=[_contain], subscriptions=False, **options)
        self._names = [tool.name for tool in tools]
        self._config = config
        self.answer_completions(self._complete)
        self.answer_resource_list(self._list_resources)
        if "notebook" in config.groups:
            self.answer_subscriptions(Subscriptions(config))
        self._check = check
        self.check_first(NEED_SETTINGS, self._refusal)

    async def _refusal(self, method: str, params: Any) -> BaseModel | None:
        """The answer to a request while the server cannot work, or None. An error would end some clients' start."""
        try:
            await self._check()
        except NotConfiguredError as error:
            operation = getattr(params, "name", "")[:100] if method == "tools/call" else method
            logger.info("request refused", extra={"operation": operation, "outcome": str(error.code)})
            if method == "tools/call":
                return CallToolResult(content=[text_content(error.message(CALLS))], is_error=True)
            if method == "resources/list":
                return ListResourcesResult(resources=[])
            raise MCPError(INVALID_PARAMS, safe_utf8(error.message(CALLS))) from None
        return None

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Services, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool by name. The SDK would repeat the name of one that is not there, however long it is."""
        if name in self._names:
            return await super().call_tool(name, arguments, context)
        known = self._names
        near = nearest(name[:100], known)
        error = InvalidArgumentError(
            f"there is no tool {name[:100]!r}" + (f"; did you mean {near!r}?" if near else ""),
            allowed=f"the tools: {listed(known, limit=60)}",
            state="nothing was done",
        )
        return CallToolResult(content=[text_content(error.message(CALLS))], is_error=True)

    async def _list_resources(
        self, ctx: ServerRequestContext[Services, Any], params: PaginatedRequestParams
    ) -> ListResourcesResult:
        return ListResourcesResult(resources=await resources.recent(ctx.lifespan_context, self._config))

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """The templates of resources."""
        return resources.templates(self._config)

    async def read_resource(
        self, uri: Any, context: Context[Services, Any] | None = None
    ) -> list[ReadResourceContents] | InputRequiredResult:
        """Read a resource. A failure that was foreseen becomes an error answer in our words."""
        assert context is not None
        began = time.perf_counter()
        outcome = "failed"
        try:
            contents = await resources.read(str(uri), context.request_context.lifespan_context, self._config)
            outcome = "ok"
            return contents
        except ServerError as error:
            outcome = str(error.code)
            raise MCPError(
                INVALID_PARAMS, safe_utf8(error.message(CALLS)), {"uri": safe_utf8(str(uri)[:1000])}
            ) from None
        finally:
            facts = {"operation": "read_resource", "path": str(uri)[:300], "outcome": outcome}
            logger.info("resource read", extra={**facts, "duration": round(time.perf_counter() - began, 4)})

    async def list_prompts(self) -> list[Prompt]:
        """The prompts there are."""
        return offered_prompts(self._names)

    async def get_prompt(
        self, name: str, arguments: Mapping[str, Any] | None = None, context: Context[Services, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """A prompt with its arguments filled in."""
        try:
            return filled_prompt(name, arguments or {}, self._names)
        except ServerError as error:
            raise MCPError(INVALID_PARAMS, safe_utf8(str(error))) from None

    async def _complete(
        self, ctx: ServerRequestContext[Services, Any], params: CompleteRequestParams
    ) -> CompleteResult:
        known = (params.context.arguments if params.context else None) or {}
        argument, services = params.argument, ctx.lifespan_context
        of_resource = isinstance(params.ref, ResourceTemplateReference)
        try:
            if isinstance(params.ref, ResourceTemplateReference):
                resources.check_template(params.ref.uri, self._config)
            else:
                check_prompt(params.ref.name, self._names)
        except ServerError as error:
            raise MCPError(INVALID_PARAMS, safe_utf8(error.message(CALLS))) from None
        found = await complete(argument.name, argument.value, known, services, self._config, in_uri=of_resource)
        return CompleteResult(completion=found)


async def _contain(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Let no failure of a handler end the server or say more than its kind: each becomes one error answer.

    The SDK does so for the exceptions of tools. It lets `SystemExit` and its like through to the event loop, takes a
    `CancelledError` of the handler's own for the end of the server, and repeats the text of any other exception.
    """
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError, GeneratorExit):
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        logger.exception("%s failed", ctx.method)
        raise MCPError(INTERNAL_ERROR, f"Internal error: the request failed by {type(error).__name__}") from None
