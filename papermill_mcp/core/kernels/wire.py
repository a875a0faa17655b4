"""The sockets of one kernel process, and the messages on them (Jupyter messaging protocol 5.x).

A `Wire` has three sockets: `shell` and `control` for requests, `iopub` for broadcasts of the kernel. Each is
read whenever there is something, so the kernel never blocks on us and nothing is dropped. A wire belongs
to one incarnation of a kernel: after a restart there is a new one, with new ports and a new key, because a request left
in an old socket would otherwise run in the new process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import zmq
import zmq.asyncio
from jupyter_client.session import DELIM, Session

from papermill_mcp.core.kernels.forms import shallow

logger = logging.getLogger(__name__)

Channel = Literal["shell", "control", "iopub"]

#: A content frame over this many bytes is not decoded; it is counted and reported instead.
MAX_CONTENT_BYTES = 64 * 1024 * 1024

#: Bytes of a content frame that is searched for values which Python cannot read.
_MAX_MENDED_BYTES = 1024 * 1024

#: A reader that always finds a message must still let the rest of the server run.
_TURN_SECONDS = 0.02


class Message:
    """One message as it came: header and parent decoded, content only on demand.

    Attributes:
        buffers: binary values that belong to the content.
    """

    __slots__ = ("_content", "buffers", "channel", "content_frame", "header", "parent_id")

    def __init__(
        self,
        channel: Channel,
        header: dict[str, Any],
        parent: dict[str, Any],
        content_frame: bytes,
        buffers: Sequence[bytes] = (),
    ) -> None:
        self.channel = channel
        self.header = header
        self.parent_id = str(parent.get("msg_id") or "")
        self.content_frame = content_frame
        self.buffers = buffers
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
        return len(self.content_frame) + sum(map(len, self.buffers)) > MAX_CONTENT_BYTES

    @property
    def content(self) -> dict[str, Any]:
        """The content, decoded once."""
        if self._content is None:
            decoded = _decoded(self.content_frame)
            self._content = decoded if isinstance(decoded, dict) else {}
        return self._content


def _decoded(frame: bytes) -> Any:
    """The JSON of a frame, without the values that Python cannot read: very deep ones, and very long numbers."""
    try:
        return json.loads(frame)
    except UnicodeDecodeError:
        frame = frame.decode("utf-8", "replace").encode()
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):
        if len(frame) > _MAX_MENDED_BYTES:
            raise
    return json.loads(shallow(frame.decode("utf-8", "surrogatepass")))


class Wire:
    """Sends requests to one kernel process and hands every message that arrives to `on_message`.

    The sockets are plain ones, read from the event loop by their descriptor: pyzmq's asyncio sockets cost a tenth of a
    round trip. Such a descriptor becomes readable once per change of state, not per message, and a send may use the
    change up. So each wake-up reads until nothing is left, and each send is followed by a look of its own.

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
        self._loop = asyncio.get_running_loop()
        self._closed = False
        plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        self._sockets: dict[Channel, zmq.Socket[bytes]] = {
            "shell": self._socket(plain, zmq.DEALER, ports["ip"], ports["shell_port"]),
            "control": self._socket(plain, zmq.DEALER, ports["ip"], ports["control_port"]),
            "iopub": self._socket(plain, zmq.SUB, ports["ip"], ports["iopub_port"]),
        }
        for channel, socket in self._sockets.items():
            self._loop.add_reader(socket.fileno(), self._read, channel)
            self._loop.call_soon(self._read, channel)

    def _socket(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, ip: str, port: int) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)  # the default, 100 ms, is a quarter of a kernel's start
        # The default limit of 1000 messages drops output, and even `idle`, while the reader is away.
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDHWM, 0)  # a send never blocks
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        else:
            socket.setsockopt(zmq.IDENTITY, self._session.bsession)
        socket.connect(f"tcp://{ip}:{port}")
        return socket

    def send(
        self,
        channel: Literal["shell", "control"],
        msg_type: str,
        content: dict[str, Any],
        *,
        msg_id: str | None = None,
        subshell_id: str | None = None,
    ) -> str:
        """Send a request. Returns its message id, which its replies carry as parent. After `close`, nothing is sent."""
        message = self._session.msg(msg_type, content)
        if msg_id is not None:
            message["header"]["msg_id"] = message["msg_id"] = msg_id
        if subshell_id is not None:
            message["header"]["subshell_id"] = subshell_id
        if not self._closed:
            self._sockets[channel].send_multipart(self._session.serialize(message), zmq.NOBLOCK)
            self._loop.call_soon(self._read, channel)
        return str(message["header"]["msg_id"])

    def _read(self, channel: Channel) -> None:
        """Take every message that is there. After a while the rest of the server gets its turn first."""
        socket = self._sockets[channel]
        turn_ends = time.monotonic() + _TURN_SECONDS
        while not self._closed:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                logger.warning("a socket of a kernel failed: %s", error)
                return
            try:
                message = self._parse(channel, frames)
                if message is not None:
                    self._on_message(message)
            except Exception:
                logger.exception("a message on %s could not be handled", channel)
            if time.monotonic() >= turn_ends:
                self._loop.call_soon(self._read, channel)
                return

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
        buffers = frames[start + 5 :]
        return Message(channel, json.loads(header.decode()), json.loads(parent.decode()), content, buffers)

    def close(self) -> None:
        """Stop reading and close the sockets. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.fileno())
            socket.close(linger=0)
