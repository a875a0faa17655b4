"""Requests of our own to a kernel, and the searches for a lost end that they serve.

A kernel may lose its reply, its `idle`, or all that it broadcasts. A harmless request behind the code shows which.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Literal

from papermill_mcp.core.kernels.request import SERVER_FAILED, CellExecution, log_fields
from papermill_mcp.core.kernels.wire import Wire

logger = logging.getLogger(__name__)

#: Seconds a kernel may take to say `idle` after its reply before it is asked again, and then before we go on without.
_IDLE_GRACE = 2.0

#: Seconds for which a request of our own is known, so that its broadcasts are not taken for output.
_PROBE_SECONDS = 60.0

#: Seconds that a cell runs before a request is put behind it.
_CHECK_SECONDS = 2.0

#: Seconds after a reply in which the kernel must have broadcast the end of the request.
_IOPUB_SECONDS = 10.0

#: The fault of a kernel that answers and broadcasts nothing.
IOPUB_LOST = (
    "can no longer send the outputs of code; ipykernel fails so after text that has no UTF-8 form, "
    "such as half of a surrogate pair ('\\ud800')"
)

Channel = Literal["shell", "control"]


class Probes:
    """The requests of our own that are under way, by message id.

    Args:
        wire: the connection to the process now, None while there is none.
    """

    def __init__(self, wire: Callable[[], Wire | None]) -> None:
        self._wire = wire
        self._heard: dict[str, asyncio.Future[None]] = {}  # done when an iopub status of the request came
        self._idles: set[str] = set()  # requests whose `idle` came
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def __contains__(self, msg_id: str) -> bool:
        """Whether a message belongs to a request of our own."""
        return msg_id in self._heard

    @property
    def connected(self) -> bool:
        """Whether there is a process to ask."""
        return self._wire() is not None

    def register(self, msg_id: str, reply: asyncio.Future[dict[str, Any]], heard: asyncio.Future[None]) -> None:
        """Wait for the reply to a request and for an iopub status of it."""
        self._replies[msg_id] = reply
        self._heard[msg_id] = heard

    def send(
        self,
        heard: asyncio.Future[None] | None = None,
        *,
        channel: Channel = "shell",
        msg_id: str | None = None,
        expires: bool = True,
    ) -> asyncio.Future[dict[str, Any]]:
        """Send a harmless request. Returns its reply; `heard` is completed when an iopub status of it is here.

        Args:
            expires: forget the request after a while; otherwise some time after its reply, whenever that comes.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[dict[str, Any]] = loop.create_future()
        wire = self._wire()
        if wire is not None:
            msg_id = wire.send(channel, "kernel_info_request", {}, msg_id=msg_id)
            self.register(msg_id, reply, heard or loop.create_future())
            if expires:
                loop.call_later(_PROBE_SECONDS, self.forget, msg_id)
            else:
                reply.add_done_callback(lambda _: loop.call_later(_PROBE_SECONDS, self.forget, msg_id))
        return reply

    async def ask(
        self,
        wire: Wire,
        channel: Channel,
        msg_type: str,
        content: dict[str, Any],
        *,
        timeout_seconds: float,
        subshell_id: str | None = None,
    ) -> dict[str, Any]:
        """Send a request and wait for the content of its reply. Its broadcasts are no output.

        Raises:
            TimeoutError: no reply came in time.
            zmq.ZMQError: it could not be sent.
        """
        loop = asyncio.get_running_loop()
        msg_id = secrets.token_hex(16)
        reply: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.register(msg_id, reply, loop.create_future())
        try:
            wire.send(channel, msg_type, content, msg_id=msg_id, subshell_id=subshell_id)
            async with asyncio.timeout(timeout_seconds):
                return await reply
        finally:
            self._replies.pop(msg_id, None)
            loop.call_later(_PROBE_SECONDS, self.forget, msg_id)

    def awaits_reply(self, msg_id: str) -> bool:
        """Whether the reply to a request of our own is outstanding."""
        return msg_id in self._replies

    def take_reply(self, msg_id: str, content: Callable[[], dict[str, Any]]) -> None:
        """Complete the request that a reply belongs to.

        Args:
            content: decodes the content, which may fail.
        """
        reply = self._replies.pop(msg_id)
        if not reply.done():
            reply.set_result(content())

    def take_status(self, msg_id: str, state: object) -> None:
        """An iopub status came, perhaps of a request of our own."""
        heard = self._heard.get(msg_id)
        if heard is None:
            return
        if not heard.done():
            heard.set_result(None)
        if state == "idle":
            self._idles.add(msg_id)

    def ended(self, msg_id: str) -> bool:
        """Whether the kernel has broadcast the end of the request."""
        return msg_id in self._idles

    def forget(self, msg_id: str) -> None:
        """Take later messages of the request for those of others."""
        self._heard.pop(msg_id, None)
        self._replies.pop(msg_id, None)
        self._idles.discard(msg_id)


class Liveness:
    """Finds the end of code whose kernel fails to send it.

    Attributes:
        iopub_lost: the kernel can no longer broadcast. Only a restart mends that.
    """

    def __init__(self, kernel_id: str, probes: Probes) -> None:
        self._kernel_id = kernel_id
        self._probes = probes
        self.iopub_lost = False

    def after_reply(self, execution: CellExecution) -> None:
        """The reply came. Look for a lost `idle` in a moment."""
        asyncio.get_running_loop().call_later(_IDLE_GRACE, self._ask_for_idle, execution)

    def after_idle(self, execution: CellExecution) -> None:
        """`idle` came before the reply. Look for a lost reply in a moment."""
        asyncio.get_running_loop().call_later(_IDLE_GRACE, self._ask_for_reply, execution)

    def _ask_for_idle(self, execution: CellExecution) -> None:
        """A status of a later request shows that `idle` is lost."""
        if execution.released.is_set() or not self._probes.connected:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(_IDLE_GRACE, execution.give_up_on_idle)
        heard: asyncio.Future[None] = loop.create_future()
        heard.add_done_callback(lambda done: None if done.cancelled() else execution.give_up_on_idle())
        self._probes.send(heard)

    def _ask_for_reply(self, execution: CellExecution) -> None:
        """The reply to a later request shows that the reply is lost: the kernel may have failed to send it."""
        if execution.replied or execution.released.is_set():
            return
        try:
            reply = self._probes.send()
        except Exception as error:
            logger.exception("a kernel could not be asked", extra=log_fields(self._kernel_id, execution))
            why = f"its reply is missing, and the kernel could not be asked ({type(error).__name__}); {SERVER_FAILED}"
            execution.lose_touch(why)
            return
        reply.add_done_callback(lambda done: None if done.cancelled() else execution.take_later_reply())

    async def check(self, execution: CellExecution, info: dict[str, Any]) -> None:
        """Detect a finished cell or a broken iopub thread behind a long-running cell.

        A failure here does not end the cell: its kernel may well go on.

        Args:
            info: the kernel's own description of itself.
        """
        try:
            await self._find_lost_end(execution, info)
        except Exception:
            logger.exception("a kernel could not be asked", extra=log_fields(self._kernel_id, execution))

    async def _find_lost_end(self, execution: CellExecution, info: dict[str, Any]) -> None:
        """An ipykernel that fails to write an output, such as a lone surrogate, may send neither the reply nor `idle`.

        A request behind the cell shows that it is over, for an ipykernel takes them one after the other; other kernels
        may answer before. If writing fails twice at a time, its thread for broadcasts is never woken again (ZMQStream
        does not look for further messages after an exception). Then each flush takes 10 s, and nothing that the kernel
        sends arrives. Its control thread answers all the same, but of that, too, there is no broadcast.
        """
        await asyncio.sleep(_CHECK_SECONDS)
        if info.get("implementation") != "ipython":
            return
        over = self._probes.send(expires=False)
        # The messages of the cell may come over another channel than this reply, and a little later.
        later = asyncio.get_running_loop().call_later
        over.add_done_callback(lambda done: done.cancelled() or later(_IDLE_GRACE, execution.give_up_on_both))
        unheard = 0
        while unheard < 2:
            msg_id = secrets.token_hex(16)
            await self._probes.send(channel="control", msg_id=msg_id, expires=False)
            await asyncio.sleep(_IOPUB_SECONDS)
            # One that is not heard may still wake the thread that broadcasts, for that one message.
            unheard = 0 if self._probes.ended(msg_id) else unheard + 1
        self.iopub_lost = True
        logger.warning("kernel cannot broadcast", extra={"kernel_id": self._kernel_id})
        if not execution.released.is_set():
            execution.lose_touch(f"the kernel {IOPUB_LOST}; its variables stand until the kernel is restarted")
