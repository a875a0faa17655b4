"""The sockets of one kernel process, and the messages on them (Jupyter messaging protocol 5.x).

A `Wire` has three sockets: `shell` and `control` for requests, `iopub` for what the kernel broadcasts. Each has a
reader task of its own that never stops reading, so the kernel never blocks on us and nothing is dropped. A wire belongs
to one incarnation of a kernel: after a restart there is a new one, with new ports and a new key, because a request left
in an old socket would otherwise run in the new process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import zmq
import zmq.asyncio
from jupyter_client.session import DELIM, Session

logger = logging.getLogger(__name__)

Channel = Literal["shell", "control", "iopub"]

#: A content frame over this many bytes is not decoded; it is counted and reported instead.
MAX_CONTENT_BYTES = 64 * 1024 * 1024

#: A reader that always finds a message must still let the rest of the server run.
_TURN_SECONDS = 0.02


class Message:
    """One message as it came: header and parent decoded, content only when somebody asks for it."""

    __slots__ = ("_content", "channel", "content_frame", "header", "parent_id")

    def __init__(self, channel: Channel, header: dict[str, Any], parent: dict[str, Any], content_frame: bytes) -> None:
        self.channel = channel
        self.header = header
        self.parent_id = str(parent.get("msg_id") or "")
        self.content_frame = content_frame
        self._content: dict[str, Any] | None = None

    @property
    def msg_type(self) -> str:
        """The message type, such as `stream` or `execute_reply`."""
        return str(self.header.get("msg_type", ""))

    @property
    def date(self) -> str:
        """When the kernel sent it, ISO 8601 as the kernel wrote it."""
        return str(self.header.get("date", ""))

    @property
    def too_large(self) -> bool:
        """Whether the content is over the limit and is not to be decoded."""
        return len(self.content_frame) > MAX_CONTENT_BYTES

    @property
    def content(self) -> dict[str, Any]:
        """The content, decoded once."""
        if self._content is None:
            decoded = json.loads(self.content_frame)
            self._content = decoded if isinstance(decoded, dict) else {}
        return self._content


class Wire:
    """Sends requests to one kernel process and hands every message that arrives to `on_message`.

    Args:
        ports: `shell_port`, `control_port` and `iopub_port`, with `ip`, of a connection file.
        session: signs messages with the key of this incarnation.
        on_message: called in the event loop for each message; must not block.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        ports: dict[str, Any],
        session: Session,
        on_message: Callable[[Message], None],
    ) -> None:
        self._session = session
        self._on_message = on_message
        self._sockets: dict[Channel, zmq.asyncio.Socket] = {
            "shell": self._socket(context, zmq.DEALER, ports["ip"], ports["shell_port"]),
            "control": self._socket(context, zmq.DEALER, ports["ip"], ports["control_port"]),
            "iopub": self._socket(context, zmq.SUB, ports["ip"], ports["iopub_port"]),
        }
        self._readers = [asyncio.create_task(self._read(channel), name=f"read {channel}") for channel in self._sockets]

    def _socket(self, context: zmq.asyncio.Context, kind: int, ip: str, port: int) -> zmq.asyncio.Socket:
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)  # the default, 100 ms, is a quarter of a kernel's start
        # The default limit of 1000 messages drops output, and even `idle`, while the reader is away.
        socket.setsockopt(zmq.RCVHWM, 0)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        else:
            socket.setsockopt(zmq.IDENTITY, self._session.bsession)
        socket.connect(f"tcp://{ip}:{port}")
        return socket

    async def send(
        self,
        channel: Literal["shell", "control"],
        msg_type: str,
        content: dict[str, Any],
        *,
        msg_id: str | None = None,
        subshell_id: str | None = None,
    ) -> str:
        """Send a request. Returns its message id, which its replies carry as parent.

        Not `Session.send`: it writes behind the back of pyzmq's asyncio socket, which then misses the wake-up for a
        reply that is there already, and hangs.
        """
        message = self._session.msg(msg_type, content)
        if msg_id is not None:
            message["header"]["msg_id"] = message["msg_id"] = msg_id
        if subshell_id is not None:
            message["header"]["subshell_id"] = subshell_id
        await self._sockets[channel].send_multipart(self._session.serialize(message))
        return str(message["header"]["msg_id"])

    async def _read(self, channel: Channel) -> None:
        socket = self._sockets[channel]
        turn_ends = time.monotonic() + _TURN_SECONDS
        while True:
            try:
                frames = await socket.recv_multipart()
            except zmq.ZMQError:
                return  # the socket was closed under us
            try:
                message = self._parse(channel, frames)
                if message is not None:
                    self._on_message(message)
            except Exception:
                logger.exception("a message on %s could not be handled", channel)
            now = time.monotonic()
            if now >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_SECONDS

    def _parse(self, channel: Channel, frames: list[bytes]) -> Message | None:
        try:
            start = frames.index(DELIM) + 1
        except ValueError:
            logger.debug("dropped a message without delimiter on %s", channel)
            return None
        if len(frames) < start + 5:
            logger.debug("dropped a message of %d frames on %s", len(frames), channel)
            return None
        signature, header, parent, metadata, content = frames[start : start + 5]
        if self._session.auth is not None:
            expected = self._session.sign([header, parent, metadata, content])
            if not hmac.compare_digest(signature, expected):
                logger.warning("dropped a message with a wrong signature on %s", channel)
                return None
        return Message(channel, json.loads(header), json.loads(parent), content)

    def close(self) -> None:
        """Stop reading and close the sockets. A second call does nothing."""
        for reader in self._readers:
            reader.cancel()
        for socket in self._sockets.values():
            socket.close(linger=0)
