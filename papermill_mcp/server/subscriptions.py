"""Subscriptions of a client to resources, in both forms of the protocol.

Until 2025-11-25 a client subscribes to one resource at a time, and the connection carries the notifications. Since
2026-07-28 the answer to `subscriptions/listen` is a stream of them. A stream also reports changes of the list of
resources; the earlier form cannot ask for these, so they are not offered there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from papermill_mcp.config import Config
from papermill_mcp.errors import LimitReachedError, ServerError
from papermill_mcp.services import Services
from papermill_mcp.tools import resources
from papermill_mcp.tools.remedies import CALLS
from papermill_mcp.utils.text_utils import safe_utf8

_Context = ServerRequestContext[Services, Any]


class Subscriptions:
    """The handlers of the requests that begin and end subscriptions."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def subscribe(self, ctx: _Context, params: SubscribeRequestParams) -> EmptyResult:
        """Follow one resource, until the client unsubscribes or leaves."""
        uri, watch, session = str(params.uri), ctx.lifespan_context.watch, ctx.session
        try:
            look = resources.look(uri, ctx.lifespan_context, self._config)
            await watch.follow(uri, look, lambda: session.send_resource_updated(uri))
        except ServerError as error:
            raise MCPError(INVALID_PARAMS, safe_utf8(error.message(CALLS)), {"uri": safe_utf8(uri[:1000])}) from None
        return EmptyResult()

    async def unsubscribe(self, ctx: _Context, params: UnsubscribeRequestParams) -> EmptyResult:
        """Follow a resource no more."""
        ctx.lifespan_context.watch.leave(str(params.uri))
        return EmptyResult()

    async def listen(self, ctx: _Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Send a stream of changes until the client ends it. The acknowledgement names those that are followed."""
        services, wanted = ctx.lifespan_context, params.notifications
        watch, bus, stream = services.watch, InMemorySubscriptionBus(), object()
        followed: list[str] = []
        try:
            for uri in dict.fromkeys(wanted.resource_subscriptions or ()):
                try:
                    look = resources.look(uri, services, self._config)
                    await watch.follow((stream, uri), look, partial(bus.publish, ResourceUpdated(uri)))
                    followed.append(uri)
                except LimitReachedError:
                    break
                except ServerError:
                    continue
            if wanted.resources_list_changed:
                look = resources.look_at_list(services)
                await watch.follow((stream, None), look, partial(bus.publish, ResourcesListChanged()))
            honored = SubscriptionFilter(
                resources_list_changed=wanted.resources_list_changed, resource_subscriptions=followed or None
            )
            return await ListenHandler(bus)(ctx, params.model_copy(update={"notifications": honored}))
        finally:
            for key in (*followed, None):
                watch.leave((stream, key))
