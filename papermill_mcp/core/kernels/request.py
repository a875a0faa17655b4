"""One request to run code in a kernel, from the queue to its end. It outlives the call that made it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from sys import getsizeof
from typing import Any

from papermill_mcp.core.kernels.forms import count_of, error_of, member_of, plain_text
from papermill_mcp.core.kernels.outputs import MAX_CELL_BYTES, Output, OutputCollector, is_clean_exit
from papermill_mcp.core.kernels.widgets import Widgets

logger = logging.getLogger(__name__)

#: Characters of the help texts that one execution keeps.
_MAX_PAGE_CHARS = 1_000_000

#: Characters of a time in a message.
_MAX_DATE_CHARS = 64

#: The advice after a failure of the server itself.
SERVER_FAILED = "the log of the server has the details. Try again; if it happens again, restart the kernel"


class RunStatus(StrEnum):
    """The status of a cell, a run, a row of a batch or a record. All but the first two are final.

    Only a cell is `skipped`: its tag says so. Only a row is `not_run`: its batch has stopped before.
    """

    QUEUED = "queued"
    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    ABORTED = "aborted"
    DIED = "died"
    SKIPPED = "skipped"
    NOT_RUN = "not_run"

    @property
    def final(self) -> bool:
        """Whether the status cannot change any more."""
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING)


#: The error of code to which the kernel gave no answer. ipykernel gives none where flushing sys.stdout fails.
_NO_ANSWER = (
    "the kernel went on without an answer to this code, so it may have run, in part, or not at all. Code that replaces "
    "sys.stdout or sys.stderr by None, a closed file or an object without flush() has this effect: put them back with "
    "sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__, or restart the kernel"
)


@dataclass(frozen=True)
class CellError:
    """An exception of the code, or the reason for its end, as an `error` output has it."""

    ename: str
    evalue: str
    traceback: list[str]

    def output(self) -> Output:
        """The same as an nbformat `error` output."""
        return {"output_type": "error", "ename": self.ename, "evalue": self.evalue, "traceback": list(self.traceback)}


class CellExecution:
    """One `execute_request`.

    Two things can be waited for. `settled` is set when the result for the caller is known. `released` is set when the
    kernel is done with the code: later than `settled` when the kernel ignores interrupts, otherwise together with it.

    Args:
        timeout_seconds: how long the code may run, from the moment the kernel gets it; None for no limit.
        stop_on_error: whether the kernel drops its queue behind this code when it raises.
        owner: the id of the run, under which clients know it.
        max_bytes: bytes of output that it may keep.

    Attributes:
        widgets: those of the kernel that runs it.
    """

    def __init__(
        self,
        code: str,
        widgets: Widgets,
        *,
        timeout_seconds: float | None,
        store_history: bool = True,
        stop_on_error: bool = True,
        owner: str | None = None,
        max_bytes: int = MAX_CELL_BYTES,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.code = code
        self.owner = owner
        self.timeout_seconds = timeout_seconds
        self.store_history = store_history
        self.stop_on_error = stop_on_error
        self.msg_id = uuid.uuid4().hex
        self._status = RunStatus.QUEUED
        self.widgets = widgets
        self.collector = OutputCollector(widgets.displays, max_bytes=max_bytes)
        self.execution_count: int | None = None
        self._error: CellError | None = None
        self.timing: dict[str, str] = {}  # the keys that nbclient writes to a cell's `execution` metadata
        self.settled = asyncio.Event()
        self.released = asyncio.Event()
        self.output_incomplete = False
        self.pages: list[str] = []
        self._on_change = on_change
        self._started_clock: float | None = None
        self._ended_clock: float | None = None
        self._reply: dict[str, Any] | None = None
        self._reply_error: CellError | None = None
        self._idle = False
        self._overtaken = False
        self._ending: RunStatus | None = None  # why we interrupted it: INTERRUPTED or TIMEOUT

    @property
    def status(self) -> RunStatus:
        """Where the request stands. An `error` output makes it an error, even if the kernel replied `ok`.

        IPython replies so when `%run` fails or code shows a traceback itself, perhaps after the cell's end. A clean
        exit is `ok`, unless there is an error besides.
        """
        if self._status == RunStatus.OK or self._left:
            return RunStatus.OK if self.collector.failure is None else RunStatus.ERROR
        return self._status

    @property
    def _left(self) -> bool:
        """Whether the code ended by `sys.exit()` or `sys.exit(0)`, which is no failure."""
        return self._status == RunStatus.ERROR and self._error is not None and is_clean_exit(self._error.output())

    @property
    def raised(self) -> bool:
        """Whether the kernel itself called the cell failed: it replied `error`, also at a clean exit."""
        return self._status.final and self._status != RunStatus.OK

    @property
    def error(self) -> CellError | None:
        """The exception that the cell raised or showed, or the reason that it was ended from outside."""
        failure = self.collector.failure if self._status == RunStatus.OK or self._left else None
        if failure is None:
            return self._error
        return CellError(failure["ename"], failure["evalue"], failure["traceback"])

    @property
    def began(self) -> float | None:
        """When the kernel got the code, by `time.monotonic`; None while it waits."""
        return self._started_clock

    @property
    def duration(self) -> float:
        """Seconds the code has run; 0 before it starts."""
        if self._started_clock is None:
            return 0.0
        return (self._ended_clock or time.monotonic()) - self._started_clock

    @property
    def replied(self) -> bool:
        """Whether the kernel has answered, though `idle` may be outstanding."""
        return self._reply is not None

    @property
    def still_running(self) -> bool:
        """Whether the caller has its result but the kernel goes on and ignores interrupts."""
        return self.settled.is_set() and not self.released.is_set()

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt was sent for it."""
        return self._ending is not None

    @property
    def outputs(self) -> list[Output]:
        """The outputs so far, in nbformat's form."""
        return self.collector.outputs()

    def begin(self) -> None:
        """The kernel gets the code now."""
        self._status = RunStatus.RUNNING
        self._started_clock = time.monotonic()
        self._changed()

    def expect_end(self, status: RunStatus) -> None:
        """An interrupt was sent, so the next answer of the kernel means `status`. The first reason stands."""
        if self._ending is None:
            self._ending = status

    def take_output(self, msg_type: str, content: dict[str, Any]) -> None:
        """Apply one iopub message."""
        if msg_type == "execute_input":
            self.execution_count = count_of(content.get("execution_count"))
        elif not self.collector.take(msg_type, content):
            return
        self._changed()

    def take_reply(self, content: dict[str, Any]) -> None:
        """The kernel's `execute_reply` is here."""
        self._reply_error = _error_of(content)
        self._reply = content
        self._take_pages(content.get("payload"))
        count = count_of(content.get("execution_count"))
        self.execution_count = self.execution_count if count is None else count
        self._finish_if_complete()

    def _take_pages(self, payload: Any) -> None:
        """Keep the help of `len?`, which front ends show in a pager."""
        for item in payload if isinstance(payload, list) else []:
            if isinstance(item, dict) and item.get("source") == "page":
                room = _MAX_PAGE_CHARS - sum(map(len, self.pages))
                self.pages.append(plain_text(member_of(item, "data").get("text/plain"))[:room])

    def note_time(self, key: str, date: str) -> None:
        """Keep the time of a message. Args: `key`: as nbclient names it in a cell's `execution` metadata."""
        self.timing[key] = plain_text(date)[:_MAX_DATE_CHARS]

    def take_idle(self) -> None:
        """The kernel has said that everything of this request is out."""
        self._idle = True
        self._finish_if_complete()

    def take_later_reply(self) -> None:
        """The kernel has answered a request that was sent after this one, so no reply to this one is outstanding.

        Seen with ipykernel 7.4: interrupted right after `execute_input`, it says `idle` and never replies.
        """
        self._overtaken = True
        self._finish_if_complete()

    def give_up_on_idle(self) -> None:
        """The reply is here and `idle` is lost: finish without it."""
        if not self.released.is_set() and self._reply is not None:
            self.output_incomplete = True
            self._idle = True
            self._finish_if_complete()

    def give_up_on_both(self) -> None:
        """The kernel is done with the code, and neither the reply nor `idle` came: finish without them."""
        if not self.released.is_set():
            self.output_incomplete = True
            self._idle = self._overtaken = True
            self._finish_if_complete()

    def _finish_if_complete(self) -> None:
        if self._reply is None and self._overtaken and self._idle:
            self._reply = self._reply_from_outputs()
            self._reply_error = _error_of(self._reply)
        if self._reply is None or not self._idle or self.released.is_set():
            return
        said = self._reply.get("status")
        if self._reply_error is not None:
            self._error = self._reply_error
        if self._ending is not None:
            status = self._ending
        elif said == "ok":
            status = RunStatus.OK
        elif said == "error":
            status = RunStatus.ERROR
        else:  # `abort` or `aborted`: the answer of several kernels to an interrupt
            status = RunStatus.INTERRUPTED
        self._end(status)
        self.released.set()

    def _reply_from_outputs(self) -> dict[str, Any]:
        """The content of the reply that never came. It is never `ok`: only the kernel knows that."""
        if self._ending is not None:
            return {"status": "abort"}
        self.output_incomplete = True
        errors = [output for output in self.collector if output["output_type"] == "error"]
        unknown = {"ename": "KernelUnresponsive", "evalue": _NO_ANSWER, "traceback": []}
        return {"status": "error", **(errors[-1] if errors else unknown)}

    def give_up_on_interrupt(self) -> None:
        """The kernel ignores interrupts: give the caller its result, though the code goes on."""
        if not self.settled.is_set():
            self._status = self._ending or RunStatus.INTERRUPTED
            self.settled.set()
            self._changed()

    def abort(self, evalue: str) -> None:
        """It was called off: it never ran, or its kernel was ended on purpose."""
        self._error = CellError("Aborted", evalue, [])
        self._end(RunStatus.ABORTED)
        self.released.set()

    def die(self, evalue: str) -> None:
        """The kernel process ended under it."""
        self._error = CellError("KernelDied", evalue, [])
        self._end(RunStatus.DIED)
        self.released.set()

    @property
    def held(self) -> int:
        """Bytes of the code, the outputs and the help texts in memory."""
        return getsizeof(self.code) + self.collector.held + sum(map(getsizeof, self.pages))

    def forget_outputs(self) -> None:
        """Give up the outputs of code that has ended, and the code. Status, error and count stay."""
        self.collector.forget()
        self.pages.clear()
        self.code = ""
        self.widgets = Widgets()
        if self._error is not None:
            self._error = CellError(self._error.ename, self._error.evalue, [])

    def lose_touch(self, evalue: str) -> None:
        """The kernel lives and can no longer report on the code: the caller has its result."""
        self.fail("KernelUnresponsive", evalue)

    def fail(self, ename: str, evalue: str) -> None:
        """It cannot be run, or not be followed to its end, for a reason that is not in the kernel."""
        self._error = CellError(ename, evalue, [])
        self._end(RunStatus.ERROR)
        self.released.set()

    def _end(self, status: RunStatus) -> None:
        if self._started_clock is not None:
            self._ended_clock = time.monotonic()
        if not self.settled.is_set():
            self._status = status
            self.settled.set()
        self._changed()

    def _changed(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change()
        except Exception:  # the execution goes on, and ends, without the listener
            logger.exception("the listener of an execution failed", extra={"execution_id": self.owner})


def log_fields(kernel_id: str, execution: CellExecution | None) -> dict[str, Any]:
    """The structured fields of a log record about an execution in a kernel."""
    fields = {"kernel_id": kernel_id}
    return fields if execution is None else fields | {"execution_id": execution.owner}


def _error_of(reply: dict[str, Any]) -> CellError | None:
    """The exception in an `execute_reply`, if any."""
    if reply.get("status") != "error":
        return None
    error = error_of(reply)
    return CellError(error["ename"], error["evalue"], error["traceback"])
