"""The parts of the SDK that it does not document and that are used here. An update of the SDK is looked at here.

Beside these, `tools/toolset.py` overrides `FuncMetadata.pre_parse_json` and `Tool.run`, which are public.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    DiscoverResult,
    EmptyResult,
    ListResourcesResult,
    PaginatedRequestParams,
    RequestId,
    RequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

__all__ = ["SdkServer", "coerce_request_id", "registered_tools"]

_T = TypeVar("_T")

Complete = Callable[[ServerRequestContext[_T, Any], CompleteRequestParams], Awaitable[CompleteResult]]
#: Gets the method and the parameters of a request.
Check = Callable[[str, Any], Awaitable[BaseModel | None]]
ListResources = Callable[[ServerRequestContext[_T, Any], PaginatedRequestParams], Awaitable[ListResourcesResult]]


class SubscriptionHandlers(Protocol[_T]):
    """The handlers of subscriptions: the first two until 2025-11-25, the third since 2026-07-28."""

    async def subscribe(self, ctx: ServerRequestContext[_T, Any], params: SubscribeRequestParams) -> EmptyResult: ...

    async def unsubscribe(
        self, ctx: ServerRequestContext[_T, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult: ...

    async def listen(
        self, ctx: ServerRequestContext[_T, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult: ...


class SdkServer(MCPServer[_T]):
    """The SDK's server, with a way to its low-level server: streams of messages, and completions with a context."""

    def answer_completions(self, complete: Complete[_T]) -> None:
        """Let `complete` answer completions. The SDK's own way gives it no context, and so no services."""
        self._lowlevel_server.add_request_handler("completion/complete", CompleteRequestParams, complete)

    def answer_resource_list(self, resources: ListResources[_T]) -> None:
        """Let `resources` answer the list of resources. The SDK's own way gives it no context, and so no services."""
        self._lowlevel_server.add_request_handler("resources/list", PaginatedRequestParams, resources)

    def answer_subscriptions(self, handlers: SubscriptionHandlers[_T]) -> None:
        """Offer subscriptions to resources. The lists of tools and prompts never change, so theirs are not offered."""
        server = self._lowlevel_server
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, handlers.subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, handlers.unsubscribe)
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, handlers.listen)

        async def discover(ctx: ServerRequestContext[_T, Any], params: RequestParams) -> DiscoverResult:
            found = await server._handle_discover(ctx, params)
            for fixed in (found.capabilities.tools, found.capabilities.prompts):
                if fixed is not None:
                    fixed.list_changed = False
            return found

        server.add_request_handler("server/discover", RequestParams, discover)

    def methods(self) -> set[str]:
        """The methods of requests that the server answers, but for the handshake."""
        return set(self._lowlevel_server._request_handlers)

    def check_first(self, methods: Iterable[str], check: Check) -> None:
        """Let `check` see each request of these methods first. An answer of its own takes the place of the handler."""
        server = self._lowlevel_server

        def checked(method: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def handle(ctx: ServerRequestContext[_T, Any], params: Any) -> Any:
                answer = await check(method, params)
                return await handler(ctx, params) if answer is None else answer

            return handle

        for method in methods:
            if (entry := server.get_request_handler(method)) is not None:
                server.add_request_handler(method, entry.params_type, checked(method, entry.handler))

    async def run_streams(
        self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]
    ) -> None:
        """Serve one client over streams of messages, until the first of them ends."""
        server = self._lowlevel_server
        await server.run(from_client, to_client, server.create_initialization_options())


def registered_tools(server: MCPServer[Any]) -> list[Tool]:
    """The tools of a server, with the schemas that clients get."""
    return server._tool_manager.list_tools()


def cancelled_request(params: Mapping[str, Any] | None) -> RequestId | None:
    """The request that a `notifications/cancelled` names, with the type of its id; None if it names none."""
    return cancelled_request_id_from_params(params)
