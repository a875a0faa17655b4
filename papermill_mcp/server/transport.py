"""Stands between the SDK and the wire: lines of bytes on one side, messages on the other.

In place of the SDK's stdio transport, which drops malformed lines, reads lines of any length, runs a request twice when
its id is used twice, and dies of an answer that it cannot encode. The end of the input, a signal and a client that
does not read any more all lead the same way out: the SDK sees the end of its input.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from papermill_mcp.server.json_rpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LINE_TOO_LONG,
    Json,
    LineSplitter,
    NotEncodableError,
    Refusal,
    encode,
    read_line,
)
from papermill_mcp.server.sdk import cancelled_request, coerce_request_id
from papermill_mcp.utils.file_utils import write_all
from papermill_mcp.utils.memory import collector_paused

logger = logging.getLogger(__name__)

#: Requests that are worked on at once. More are refused, not queued: a client that waits must know that it does.
MAX_IN_FLIGHT = 64
#: The code of that refusal, of the range that JSON-RPC leaves to servers and the SDK does not use.
TOO_MANY_REQUESTS = -32005
#: Messages that wait for the client to read. Beyond it, a sender waits, and no more input is read.
MAX_UNREAD = 10_000
#: Seconds that the last answers get to be written.
DRAIN_SECONDS = 0.5

_READ_BYTES = 65_536
#: Longer lines are parsed in a thread.
_LONG_LINE_BYTES = 262_144

_FromClient = SessionMessage | Exception
_ToClient = SessionMessage | Refusal
Serve = Callable[[MemoryObjectReceiveStream[_FromClient], MemoryObjectSendStream[_ToClient]], Awaitable[None]]


class ProtocolGuard:
    """One client, over two descriptors. Serves once."""

    def __init__(self, source: int, sink: int, on_end: Callable[[], None] = lambda: None) -> None:
        """Read from `source` and write to `sink`, which stay open. `on_end` is called once, when the end begins."""
        self._source = source
        self._sink = sink
        self._on_end = on_end
        self._in_flight: dict[RequestId, RequestId] = {}  # the id as the SDK knows it, and as it was sent
        self._ending = False
        self._reading: anyio.CancelScope | None = None
        self._writable = select.poll()
        self._writable.register(sink, select.POLLOUT)

    async def serve(self, run: Serve) -> None:
        """Let `run` serve the client. Returns when it does, after the last answers are written or given up."""
        to_server, from_client = anyio.create_memory_object_stream[_FromClient]()
        to_client, from_server = anyio.create_memory_object_stream[_ToClient](MAX_UNREAD)
        written = anyio.Event()

        async def send() -> None:
            # A thread of its own: all the common ones may be busy with files.
            thread = anyio.CapacityLimiter(1)
            async with from_server:
                async for item in from_server:
                    data = item.encoded() if isinstance(item, Refusal) else self._encoded(item.message)
                    await self._write(data, thread)
            written.set()

        async with anyio.create_task_group() as group:
            group.start_soon(self._receive, to_server, to_client.clone())
            group.start_soon(send)
            async with from_client, to_client:
                await run(from_client, to_client)
            self.end()
            with anyio.move_on_after(DRAIN_SECONDS):
                await written.wait()
            group.cancel_scope.cancel()

    def end(self) -> None:
        """Let the server see the end of its input. May be called before it serves, and again."""
        if self._ending:
            return
        self._ending = True
        if self._reading is not None:
            self._reading.cancel()
        self._on_end()

    # From the client

    async def _receive(
        self, to_server: MemoryObjectSendStream[_FromClient], to_client: MemoryObjectSendStream[_ToClient]
    ) -> None:
        async with to_server, to_client:
            with anyio.CancelScope() as self._reading:
                if self._ending:
                    return
                splitter = LineSplitter()
                try:
                    while data := await self._read():
                        for line in splitter.feed(data):
                            await self._take(line, to_server, to_client)
                    for line in splitter.end():
                        await self._take(line, to_server, to_client)
                except anyio.BrokenResourceError:
                    pass  # the server is gone
            self.end()

    async def _read(self) -> bytes:
        while True:
            try:
                await anyio.wait_readable(self._source)
            except PermissionError:  # a file or a null device, which need not be waited for
                await anyio.lowlevel.checkpoint()
            try:
                return os.read(self._source, _READ_BYTES)
            except BlockingIOError:  # another holder of the descriptor was faster
                continue
            except OSError as error:
                logger.info("the input cannot be read any more: %s", error)
                return b""

    async def _take(
        self,
        line: bytes | None,
        to_server: MemoryObjectSendStream[_FromClient],
        to_client: MemoryObjectSendStream[_ToClient],
    ) -> None:
        """Pass a line on, or refuse it."""
        message: Json | Refusal | SessionMessage | None
        if line is None:
            message = LINE_TOO_LONG
        elif len(line) > _LONG_LINE_BYTES:
            message = await anyio.to_thread.run_sync(_read_long_line, line, abandon_on_cancel=True)
        else:
            message = read_line(line)
        if isinstance(message, dict):
            message = self._admitted(message)
        if isinstance(message, Refusal):
            logger.debug("a line was refused: %s", message.message)
            await to_client.send(message)
        elif message is not None:
            await to_server.send(message)

    def _admitted(self, message: Json) -> SessionMessage | Refusal | None:
        if "method" not in message:
            try:
                return SessionMessage(jsonrpc_message_adapter.validate_python(message, by_name=False))
            except ValidationError:
                logger.debug("a malformed response was ignored")
                return None
        if "id" not in message:
            if message["method"] == "notifications/cancelled" and not self._cancels_anything(message.get("params")):
                return None  # of a request that is over or never was: a flood of them must cost little
            return SessionMessage(JSONRPCNotification.model_validate(message))
        request = JSONRPCRequest.model_validate(message)
        key = coerce_request_id(request.id)  # as the SDK knows it, to which "7" and 7 are one
        if key in self._in_flight:
            return Refusal(
                INVALID_REQUEST,
                "Invalid request: another request with this id is in flight. That one goes on, this one was not begun. "
                "Give each request an id of its own.",
                request.id,
            )
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return Refusal(
                TOO_MANY_REQUESTS,
                f"Too many requests: {MAX_IN_FLIGHT} are in flight, the most there may be. This one was not begun. "
                "Send it again when one of them has been answered.",
                request.id,
            )
        self._in_flight[key] = request.id
        return SessionMessage(request, ServerMessageMetadata(on_request_unanswered=partial(self._settled, key)))

    def _cancels_anything(self, cancellation: Json | None) -> bool:
        """Whether a cancellation names a request in flight. In JSON-RPC "7" and 7 are two ids, to the SDK one."""
        cancelled = cancelled_request(cancellation)
        if cancelled is None:
            return False
        sent = self._in_flight.get(coerce_request_id(cancelled))
        return type(sent) is type(cancelled) and sent == cancelled

    async def _settled(self, key: RequestId) -> None:
        """A request was cancelled by the client: it gets no answer."""
        self._in_flight.pop(key, None)

    # To the client

    def _encoded(self, message: JSONRPCMessage) -> bytes:
        """A message of the server as a line; an error answer in place of one that cannot be sent."""
        answered = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        if answered is not None:
            # Before it is written: a client may use the id, or the free place, as soon as it has the answer.
            self._in_flight.pop(coerce_request_id(answered), None)
        try:
            return encode(_members(message)) + b"\n"
        except NotEncodableError as error:
            logger.error("a message cannot be sent: %s", error)
            if answered is None:
                return b""
            return Refusal(
                INTERNAL_ERROR,
                f"Internal error: the result cannot be sent, since {error}. The request was carried out.",
                answered,
            ).encoded()

    async def _write(self, data: bytes, thread: anyio.CapacityLimiter) -> None:
        """Write a line, in a thread unless it surely does not block. Does nothing once the client is gone."""
        try:
            # So much fits in a pipe that is ready, and a socket has more room.
            if len(data) <= select.PIPE_BUF and self._writable.poll(0):
                data = data[os.write(self._sink, data) :]
            if data:
                await anyio.to_thread.run_sync(write_all, self._sink, data, abandon_on_cancel=True, limiter=thread)
        except OSError as error:
            if not self._ending or error.errno != errno.EPIPE:
                logger.info("the client does not read any more: %s", error)
            self.end()


def take_stdio() -> tuple[int, int]:
    """Keep standard input and output for the protocol alone. Returns their new descriptors.

    From then on, a read of descriptor 0 finds its end, and a write to descriptor 1 goes to standard error:
    neither a stray `print` nor a child process can touch the wire.
    """
    source, sink = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in (0, 1))
    empty, other_end = os.pipe()
    os.close(other_end)
    os.dup2(empty, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error: a stray `print` fails
        os.dup2(empty, 1)
    os.close(empty)
    return source, sink


def _read_long_line(line: bytes) -> Json | Refusal | None:
    with collector_paused():
        return read_line(line)


def _members(message: JSONRPCMessage) -> Json:
    members = {name: getattr(message, name) for name in type(message).model_fields if name in message.model_fields_set}
    if isinstance(message, JSONRPCError):
        members["error"] = message.error.model_dump(exclude_unset=True)
    return members
