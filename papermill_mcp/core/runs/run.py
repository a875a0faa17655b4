"""The one idea of a run: its status, its life, and how others follow it.

A run is a cell, a notebook in place, a notebook with parameters, a batch of those, or an installation of packages. The
parts that remember, show, record and count runs know only the protocol here and the snapshots that it gives.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.errors import ServerError
from papermill_mcp.utils.signal import Signal

if TYPE_CHECKING:
    from papermill_mcp.core.runs.snapshot import Cursor, RunSnapshot

logger = logging.getLogger(__name__)

_OUTPUTS_FORGOTTEN = (
    "its outputs are no longer kept here, since newer executions have taken the room; those of a notebook are in the "
    "notebook"
)


class Run(Protocol):
    """Anything that runs code for a client.

    Attributes:
        execution_id: the name of the run for clients.
        changed: emitted at each change of the run.
    """

    execution_id: str
    changed: Signal

    @property
    def finished(self) -> bool:
        """Whether the run is over."""

    def start(self) -> None:
        """Begin. Returns at once."""

    async def wait(self) -> None:
        """Wait for the end."""

    async def cancel(self) -> None:
        """Interrupt the code and start no more. Returns when the kernel has obeyed, or ignored it for 5 s."""

    def stop(self) -> asyncio.Task[None] | None:
        """End the run now, since the server ends. Returns the task that saves the results, None if there is none."""

    @property
    def held(self) -> int:
        """Bytes of the outputs in memory."""

    def forget_outputs(self) -> None:
        """Give up the outputs of a run that is over. Its state and its errors stay."""

    def snapshot(self, since: Cursor) -> RunSnapshot:
        """The state of the run, with the outputs that are new since the cursor."""


def new_execution_id() -> str:
    """An id for a run, which cannot be guessed: 24 hex digits."""
    return secrets.token_hex(12)


class BaseRun:
    """The life that all runs share. A subclass does its work in `_work` and sets `_status` at its end.

    Attributes:
        notes: sentences for the client about this run.
        cancelled: whether a client or the end of the server has ended it early.
    """

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        self.changed = Signal()
        self.started_at = datetime.now(UTC)
        self.notes: list[str] = []
        self.cancelled = False
        self._status = RunStatus.RUNNING
        self._began: float | None = None
        self._ended: float | None = None
        self._finished = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self._finished.is_set()

    @property
    def seconds(self) -> float:
        """Seconds since the run began. Time in a queue before that does not count."""
        if self._began is None:
            return 0.0
        return (self._ended if self._ended is not None else time.monotonic()) - self._began

    def start(self) -> None:
        """Begin. Returns at once."""
        self._task = asyncio.create_task(self.perform(), name=f"run {self.execution_id}")

    async def wait(self) -> None:
        """Wait for the end."""
        await self._finished.wait()

    def stop(self) -> asyncio.Task[None] | None:
        """End the run now, since the server ends. Returns the task that saves the results, None if there is none."""
        if self._task is None or self._task.done():
            return None
        self.cancelled = True
        self._task.cancel()
        return self._task

    @property
    def held(self) -> int:
        """Bytes of the outputs in memory."""
        return 0

    def forget_outputs(self) -> None:
        """Give up the outputs of a run that is over. Its state and its errors stay."""
        self.notes.append(_OUTPUTS_FORGOTTEN)

    async def perform(self) -> None:
        """Do the work, in the task of the caller. A failure of the server ends the run as an error, with a note."""
        status = RunStatus.ERROR
        try:
            status = await self._work()
        except ServerError as error:
            self.notes.append(str(error))
        except asyncio.CancelledError:
            status = RunStatus.INTERRUPTED
            raise
        except Exception:
            logger.exception("a run failed in the server", extra={"execution_id": self.execution_id})
            self.notes.append("the server failed during this run; its log has the details")
        finally:
            self._finish(status)

    async def _work(self) -> RunStatus:
        raise NotImplementedError

    def _begin(self) -> None:
        """The clock of the run starts now, unless it runs already."""
        if self._began is None:
            self._began = time.monotonic()

    def _finish(self, status: RunStatus) -> None:
        if not self.finished:
            self._status = status
            self._ended = time.monotonic()
            self._release()
            self._finished.set()
            self.changed()

    def _release(self) -> None:
        """Let go of all that only the work needed, such as the document."""
