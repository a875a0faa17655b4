"""A live kernel: its queue, its state, and the ways to interrupt, restart and end it.

One execution is in flight at a time. Our own queue stands in front of the kernel's, which would drop requests
behind an error, and not in every kernel alike. All messages of the kernel pass through `_route`, which knows each
execution by the id of its request; late messages still find it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec

from papermill_mcp.core.documents.names import undefined_name
from papermill_mcp.core.environments.reading import Environment, python_of_kernel
from papermill_mcp.core.environments.starting import variables_of
from papermill_mcp.core.kernels.forms import count_of, language_info_of
from papermill_mcp.core.kernels.interrupts import Interrupts
from papermill_mcp.core.kernels.liveness import IOPUB_LOST, Liveness, Probes
from papermill_mcp.core.kernels.outputs import MAX_CELL_BYTES, OutputCollector
from papermill_mcp.core.kernels.process import KernelProcess
from papermill_mcp.core.kernels.request import SERVER_FAILED, CellExecution, RunStatus, log_fields
from papermill_mcp.core.kernels.widgets import Widgets
from papermill_mcp.core.kernels.wire import Message, Wire
from papermill_mcp.core.processes.watchdog import Watchdog
from papermill_mcp.errors import (
    BusyError,
    KernelDiedError,
    KernelNotFoundError,
    KernelStartFailedError,
    KernelUnresponsiveError,
    LimitReachedError,
    Remedy,
)
from papermill_mcp.utils.background import Background
from papermill_mcp.utils.signal import Signal
from papermill_mcp.utils.text_utils import safe_utf8

logger = logging.getLogger(__name__)

#: Seconds between the questions that find out whether a new kernel is ready.
_READY_INTERVAL = 0.1

#: Seconds an idle kernel gets to shut down by itself.
_SHUTDOWN_GRACE = 1.0

#: Executions that may wait for one kernel.
MAX_QUEUED = 64

#: Ended runs whose code is kept until it is asked for.
MAX_RUNS_KEPT = 1_000

#: Seconds to wait for output that a kernel sends behind the end of code.
_LATE_SECONDS = 0.5


class KernelState(StrEnum):
    """The state of a kernel for clients."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"
    STOPPED = "stopped"


class EndedRun(NamedTuple):
    """Code that a kernel has run, and how it ended. `missed`: the name for whose lack it ended."""

    code: str
    status: RunStatus
    msg_id: str
    missed: str | None = None


class Kernel:
    """One kernel under one id, through all its restarts.

    Started by `JupyterManager.start_kernel`; its owner closes it with `aclose`.

    Args:
        runtime: gives the directory for connection files, at each start of a process.

    Attributes:
        widgets: the widgets and displays of the present process.
        late: output that belongs to no execution we know, such as a thread's.
        died: emitted when the process has ended by itself.
        python: its Python and whose choice that was, in a few words; None for other languages.
        environment: the Python that it was started in, in place of a kernelspec.
        extra_env: the variables that the caller gave for it.
    """

    def __init__(
        self,
        kernel_name: str,
        spec: KernelSpec,
        *,
        cwd: Path,
        env: dict[str, str],
        context: zmq.asyncio.Context,
        runtime: Callable[[], Path],
        watchdog: Watchdog,
    ) -> None:
        self.kernel_id = secrets.token_hex(12)
        self.kernel_name = kernel_name
        self.spec = spec
        self.python: str | None = None
        self.environment: Environment | None = None
        self.extra_env: dict[str, str] | None = None
        self.cwd = cwd
        self.started_at = datetime.now(UTC)
        self.last_activity = datetime.now(UTC)
        self.execution_count = 0
        self.last_failed = False
        self.info: dict[str, Any] = {}
        self.widgets = Widgets()
        self.late = OutputCollector(self.widgets.displays)
        self.incarnation = secrets.token_hex(8)
        self._runs: deque[EndedRun] = deque()
        self._runs_forgotten = 0
        self.died = Signal()
        self._env = env
        self._context = context
        self._runtime = runtime
        self._watchdog = watchdog
        self._state = KernelState.STARTING
        self._idle_since = time.monotonic()
        self._process: KernelProcess | None = None
        self._wire: Wire | None = None
        self._queue: deque[CellExecution] = deque()
        self._queued = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._killed_for: str | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._running: CellExecution | None = None
        self._known: WeakValueDictionary[str, CellExecution] = WeakValueDictionary()
        self._restarting = asyncio.Lock()
        self._background = Background()
        self._probes = Probes(lambda: self._wire)
        self._liveness = Liveness(self.kernel_id, self._probes)
        self._interrupts = Interrupts(self.kernel_id, self._probes, self._send_interrupt)
        self._subshell: str | None = None

    # Facts

    @property
    def state(self) -> KernelState:
        """The present state of the kernel."""
        if self._state == KernelState.IDLE and (self._running is not None or self._queue):
            return KernelState.BUSY
        return self._state

    @property
    def interpreter(self) -> Path | None:
        """The interpreter that the kernel was started with; None if its command is no interpreter."""
        return python_of_kernel(self.spec.language, self.spec.argv)

    @property
    def alive(self) -> bool:
        """Whether there is a process that could run code."""
        return self._state not in (KernelState.DEAD, KernelState.STOPPED)

    @property
    def pid(self) -> int | None:
        """The process id, where the kernel runs on this machine."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> CellExecution | None:
        """The execution that the kernel is working on."""
        return self._running

    def has_ahead_of(self, execution: CellExecution | None) -> bool:
        """Whether other code runs, or waits in front of an execution. None stands for one that is still to come."""
        first = self._queue[0] if self._queue else execution
        return self._running not in (None, execution) or (first is not execution and self._running is None)

    @property
    def unused(self) -> bool:
        """Whether nothing has run in this incarnation, or waits to run."""
        return not self.execution_count and self._running is None and not self._queue

    @property
    def queue_length(self) -> int:
        """Executions that wait for their turn."""
        return len(self._queue)

    @property
    def idle_seconds(self) -> float:
        """How long the kernel has had nothing to do."""
        return 0.0 if self.state == KernelState.BUSY else time.monotonic() - self._idle_since

    @property
    def language(self) -> str:
        """The language the kernel speaks, as it says itself, else as its kernelspec says."""
        return str(self.info.get("language_info", {}).get("name") or self.spec.language)

    @property
    def exit_description(self) -> str:
        """How the process ended, in words."""
        return self._process.exit_description() if self._process else "not started"

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: the signal), None while the process lives."""
        if self._process is None or not self._process.exited.done():
            return None
        return self._process.exited.result()

    def output_tail(self) -> str:
        """The end of the text on the standard streams of the process."""
        return self._process.output_tail() if self._process else ""

    # Start

    async def start(self, *, timeout_seconds: float) -> None:
        """Start the process and wait until it answers. On failure nothing is left behind.

        Raises:
            KernelStartFailedError: it cannot be executed, dies, or does not answer in time.
        """
        await self._bring_up(timeout_seconds, KernelState.STOPPED)

    async def restart(self, *, timeout_seconds: float, recipe: tuple[KernelSpec, dict[str, str]] | None = None) -> None:
        """End the process, busy or not, and start a new one under the same id. Queued code ends as aborted.

        Args:
            recipe: the command and the variables that the kernel has from now on.

        Raises:
            KernelNotFoundError: the kernel was stopped.
            KernelStartFailedError: the new process did not come up; the kernel is dead then; try again.
        """
        async with self._restarting:
            self._require_not_stopped()
            polite = self._quiet
            self._state = KernelState.STARTING
            self._abort_executions("the kernel was restarted")
            await self._end_process(polite=polite)
            if recipe is not None:
                self.spec, self._env = recipe
                self.kernel_name = self.spec.display_name
            self.widgets = Widgets()
            self.late = OutputCollector(self.widgets.displays)
            self._known.clear()
            self.incarnation = secrets.token_hex(8)
            self._runs.clear()
            self._runs_forgotten = 0
            self.execution_count = 0
            self._subshell = None
            self._liveness.iopub_lost = False
            await self._bring_up(timeout_seconds, KernelState.DEAD)
            self.started_at = datetime.now(UTC)

    async def _bring_up(self, timeout_seconds: float, state_on_failure: KernelState) -> None:
        deadline = time.monotonic() + timeout_seconds
        try:
            try:
                await self._start_once(deadline)
            except KernelStartFailedError as error:
                if "ddress already in use" not in str(error):
                    raise
                # Between the choice of the ports and their use another program took one. Once more, with new ones.
                await self._discard_incarnation()
                await self._start_once(deadline)
        except BaseException:  # a cancelled caller too: the process may already exist
            if self._state != KernelState.STOPPED:
                self._state = state_on_failure
            self._abort_executions("the kernel did not start")
            await asyncio.shield(self._discard_incarnation())
            raise
        self._state = KernelState.IDLE
        self._touch()
        self._worker = asyncio.create_task(self._work(), name=f"kernel {self.kernel_id}")

    async def _start_once(self, deadline: float) -> None:
        self._require_not_stopped()
        process = KernelProcess(
            self.kernel_name, self.spec, context=self._context, runtime=self._runtime(), watchdog=self._watchdog
        )
        self._process = process
        await process.start(cwd=self.cwd, env=self._env)
        self._wire = Wire(self._context, process.ports, process.session, self._route)
        await self._until_ready(process, self._wire, deadline)
        process.forget_output()
        self._reaper = asyncio.create_task(self._reap(process), name=f"reap {self.kernel_id}")

    def _require_not_stopped(self) -> None:
        """A stop may come while the kernel starts. It does not wait for the start, so the start must give way."""
        if self._state == KernelState.STOPPED:
            self.require_alive()

    async def _until_ready(self, process: KernelProcess, wire: Wire, deadline: float) -> None:
        """Ready means: the kernel answers, and a status with one of our requests as parent has come over iopub.

        Before that, output could be lost. `iopub_welcome` says the same, but few kernels send it.
        """
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        reply: asyncio.Future[dict[str, Any]] = loop.create_future()
        asked: list[str] = []
        try:
            while outstanding := [future for future in (reply, heard) if not future.done()]:
                self._require_not_stopped()
                try:
                    msg_id = wire.send("shell", "kernel_info_request", {})
                except zmq.Again as error:  # ZeroMQ gives a connection up when something else answers there
                    raise KernelStartFailedError(
                        f"kernel {self.kernel_name!r} did not get its ports: address already in use",
                        state="no kernel was started",
                        advice="try again",
                    ) from error
                asked.append(msg_id)
                self._probes.register(msg_id, reply, heard)
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait([*outstanding, process.exited], timeout=_READY_INTERVAL, return_when=first)
                if process.exited.done():
                    raise KernelStartFailedError(
                        f"kernel {self.kernel_name!r} ended at its start: {process.exit_description()}",
                        allowed=_tail(process),
                        state="no kernel was started",
                        advice=Remedy.CHOOSE_KERNEL,
                    )
                if time.monotonic() > deadline and not (reply.done() and heard.done()):
                    raise KernelStartFailedError(
                        f"kernel {self.kernel_name!r} did not answer in the time it was given",
                        allowed=_tail(process),
                        state="it was stopped",
                        advice="try again, or raise the setting jupyter_timeout",
                    )
            self._require_not_stopped()
            info = reply.result()
            self.info = info | {"language_info": language_info_of(info)}
        finally:
            for msg_id in asked:
                self._probes.forget(msg_id)

    # Run code

    def submit(
        self,
        code: str,
        *,
        timeout_seconds: float | None,
        store_history: bool = True,
        stop_on_error: bool = True,
        owner: str | None = None,
        max_bytes: int = MAX_CELL_BYTES,
        on_change: Callable[[], None] | None = None,
    ) -> CellExecution:
        """Queue code. It runs after the code that was queued before it.

        Raises:
            ServerError: as `enqueue`.
        """
        execution = CellExecution(
            code,
            self.widgets,
            timeout_seconds=timeout_seconds,
            store_history=store_history,
            stop_on_error=stop_on_error,
            owner=owner,
            max_bytes=max_bytes,
            on_change=on_change,
        )
        self.enqueue(execution)
        return execution

    def request(
        self,
        code: str,
        *,
        timeout_seconds: float | None,
        store_history: bool,
        owner: str,
        on_change: Callable[[], None],
    ) -> CellExecution:
        """Code for `enqueue`, with the displays of this kernel."""
        return CellExecution(
            code,
            self.widgets,
            timeout_seconds=timeout_seconds,
            store_history=store_history,
            owner=owner,
            on_change=on_change,
        )

    def enqueue(self, execution: CellExecution) -> None:
        """Queue code that was made for this kernel.

        Raises:
            KernelNotFoundError, KernelDiedError: there is no process to run it.
            KernelUnresponsiveError: the kernel can no longer send the outputs of code.
            LimitReachedError: too much waits already.
        """
        self.require_alive()
        if self._liveness.iopub_lost:
            raise KernelUnresponsiveError(
                f"kernel {self.kernel_id} {IOPUB_LOST}",
                state="nothing was run; its variables stand until it is restarted",
                advice=Remedy.RESTART_KERNEL,
            )
        if len(self._queue) >= MAX_QUEUED:
            raise LimitReachedError(
                f"kernel {self.kernel_id} has {len(self._queue)} executions waiting, and no more may wait",
                state="this one was not taken; queued code stays",
                advice=Remedy.WAIT_FOR_QUEUE,
            )
        self._queue.append(execution)
        self._queued.set()

    def require_alive(self) -> None:
        """Raise if there is no process that could run code.

        Raises:
            KernelNotFoundError: the kernel was stopped.
            KernelDiedError: its process ended by itself.
        """
        if self._state == KernelState.STOPPED:
            raise KernelNotFoundError(f"kernel {self.kernel_id} was stopped", advice=Remedy.START_KERNEL)
        if self._state == KernelState.DEAD:
            raise KernelDiedError(
                f"kernel {self.kernel_id} died: {self.exit_description}",
                allowed=_tail(self._process) if self._process else "",
                state="its variables are lost",
                advice=Remedy.RESTART_KERNEL,
            )

    async def _work(self) -> None:
        """Run the queued code, one after the other, until the process is gone. A failure ends one execution only."""
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            execution = self._queue.popleft()
            if execution.released.is_set():
                continue
            try:
                await self._run(execution)
            except Exception as error:
                logger.exception("code could not be run", extra=log_fields(self.kernel_id, execution))
                why = f"the server failed to have it run: {type(error).__name__}: {error}; {SERVER_FAILED}"
                execution.fail("ServerFailure", safe_utf8(why))

    async def _run(self, execution: CellExecution) -> None:
        self._running = execution
        timer = None
        try:
            execution.begin()
            unsendable = _surrogate_in(execution.code)
            if unsendable is not None:
                execution.fail("UnicodeEncodeError", unsendable)
                return
            self._known[execution.msg_id] = execution  # late output finds it as long as its run is remembered
            if execution.timeout_seconds is not None:
                timer = asyncio.get_running_loop().call_later(execution.timeout_seconds, self._on_timeout, execution)
            self._require_wire().send(
                "shell",
                "execute_request",
                {
                    "code": execution.code,
                    "silent": False,
                    "store_history": execution.store_history,
                    "user_expressions": {},
                    "allow_stdin": False,
                    "stop_on_error": execution.stop_on_error,
                },
                msg_id=execution.msg_id,
            )
            check = asyncio.create_task(
                self._liveness.check(execution, self.info), name=f"check liveness of {self.kernel_id}"
            )
            try:
                await execution.released.wait()
            finally:
                check.cancel()
        finally:
            if timer is not None:
                timer.cancel()
            self._running = None
            self._touch()
            self._runs.append(EndedRun(execution.code, execution.status, execution.msg_id, _missed(execution)))
            if len(self._runs) > MAX_RUNS_KEPT:
                self._runs.popleft()
                self._runs_forgotten += 1

    def runs_since(self, number: int) -> list[EndedRun]:
        """The code that has run in this incarnation, behind the first `number` runs, in its order.

        Of code that nobody has asked for, the oldest is forgotten. An empty run of status `aborted` stands for it.
        """
        lost = max(0, self._runs_forgotten - number)
        runs = list(self._runs)[max(0, number - self._runs_forgotten) :]
        return [*([EndedRun("%forgotten", RunStatus.ABORTED, "")] * lost), *runs]

    def forget_runs(self, number: int) -> None:
        """Forget the code of the first `number` runs."""
        while self._runs and self._runs_forgotten < number:
            self._runs.popleft()
            self._runs_forgotten += 1

    def _touch(self) -> None:
        self.last_activity = datetime.now(UTC)
        self._idle_since = time.monotonic()

    # Messages

    def _route(self, message: Message) -> None:
        """Hand a message to the execution or the request it belongs to. One that cannot be read harms no other."""
        execution = self._known.get(message.parent_id)
        try:
            self._deliver(message, execution)
        except Exception as error:
            fields = log_fields(self.kernel_id, execution) | {"msg_type": message.msg_type}
            logger.exception("a message of a kernel could not be read", extra=fields)
            if execution is None:
                return
            if message.channel == "iopub" and message.msg_type != "status":
                execution.collector.note_unreadable(message.msg_type, len(message.content_frame), error)
            elif message.msg_type == "execute_reply" and not execution.released.is_set():
                # The kernel is done with the code, and no other message says how it ended. Outputs may still come.
                why = f"the kernel's {message.msg_type} could not be read ({type(error).__name__}); {SERVER_FAILED}"
                self._take_reply(execution, {"status": "error", "ename": "UnreadableReply", "evalue": why})

    def _deliver(self, message: Message, execution: CellExecution | None) -> None:
        parent = message.parent_id
        if message.channel == "iopub":
            self._route_iopub(message, execution)
        elif self._probes.awaits_reply(parent):
            self._probes.take_reply(parent, lambda: message.content)
        elif execution is not None and message.msg_type == "execute_reply":
            execution.note_time("shell.execute_reply", message.date)
            self._take_reply(execution, message.content)

    def _take_reply(self, execution: CellExecution, content: dict[str, Any]) -> None:
        execution.take_reply(content)
        self.last_failed = content.get("status") == "error"
        if execution.execution_count is not None:
            self.execution_count = execution.execution_count
        if not execution.released.is_set():
            self._liveness.after_reply(execution)

    def _route_iopub(self, message: Message, execution: CellExecution | None) -> None:
        if message.msg_type == "status":
            state = message.content.get("execution_state")
            self._probes.take_status(message.parent_id, state)
            if execution is not None and state in ("busy", "idle"):
                execution.note_time(f"iopub.status.{state}", message.date)
                if state == "idle":
                    execution.take_idle()
                    self._sync_widgets()
                    if not execution.replied:
                        self._liveness.after_idle(execution)
            return
        if message.too_large:
            if execution is not None:
                execution.collector.note_too_large(message.msg_type, len(message.content_frame))
            return
        if message.msg_type.startswith("comm_"):
            self.widgets.take(message.msg_type, message.content, message.buffers)
            return
        if self.widgets.capture(message.parent_id, message.msg_type, lambda: message.content):
            return
        if execution is None:
            if message.parent_id not in self._probes:
                self.late.take(message.msg_type, message.content)
            return
        if message.msg_type == "execute_input":
            execution.note_time("iopub.execute_input", message.date)
            self.execution_count = count_of(message.content.get("execution_count")) or self.execution_count
        execution.take_output(message.msg_type, message.content)

    def _sync_widgets(self) -> None:
        """Tell the kernel which outputs its `Output` widgets have, before it gets the next code, as nbclient does."""
        for comm_id, outputs in self.widgets.unsynced():
            data = {"method": "update", "state": {"outputs": outputs}, "buffer_paths": []}
            self._require_wire().send("shell", "comm_msg", {"comm_id": comm_id, "data": data})

    async def hear_out(self) -> None:
        """Wait for output that the kernel sends behind the end of code, as Deno does with results now and then.

        It has come when the kernel broadcasts the status of a later request. ipykernel keeps the order by itself.
        """
        if self.info.get("implementation") == "ipython" or not self.alive or self._wire is None:
            return
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probes.send(heard)
        await asyncio.wait([heard], timeout=_LATE_SECONDS)

    # Look inside

    async def evaluate(self, expression: str, *, timeout_seconds: float) -> str:
        """Evaluate an expression in the user's namespace without a trace: no history, no count, no new name.

        Works beside a running cell where the kernel has subshells (JEP 91). Returns the `text/plain` of the value.

        Raises:
            KernelNotFoundError, KernelDiedError: there is no process.
            BusyError: the kernel runs code and has no subshells.
            KernelUnresponsiveError: it did not answer in time, or the expression raised.
        """
        self.require_alive()
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "user_expressions": {"value": expression},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        subshell = None
        if self._running is not None:
            subshell = await self._open_subshell(timeout_seconds)
        reply = await self._ask("shell", "execute_request", content, timeout_seconds, subshell_id=subshell)
        value = reply.get("user_expressions", {}).get("value", {})
        if value.get("status") != "ok":
            raise KernelUnresponsiveError(
                f"kernel {self.kernel_id} could not evaluate the question: {value.get('ename')}: {value.get('evalue')}"
            )
        return str(value.get("data", {}).get("text/plain", ""))

    async def _open_subshell(self, timeout_seconds: float) -> str:
        if self._subshell is None:
            if "kernel subshells" not in (self.info.get("supported_features") or []):
                raise BusyError(
                    f"kernel {self.kernel_id} is running code and cannot be asked anything meanwhile",
                    allowed=f"{self.kernel_name} kernels have no subshells",
                    state="the code goes on",
                    advice=Remedy.WAIT_FOR_CODE,
                )
            reply = await self._ask("control", "create_subshell_request", {}, timeout_seconds)
            self._subshell = str(reply.get("subshell_id"))
        return self._subshell

    async def _ask(
        self,
        channel: Literal["shell", "control"],
        msg_type: str,
        content: dict[str, Any],
        timeout_seconds: float,
        *,
        subshell_id: str | None = None,
    ) -> dict[str, Any]:
        """Send a request of our own and wait for its reply; its broadcasts are not shown."""
        wire = self._require_wire()
        try:
            return await self._probes.ask(
                wire, channel, msg_type, content, timeout_seconds=timeout_seconds, subshell_id=subshell_id
            )
        except TimeoutError:
            raise KernelUnresponsiveError(
                f"kernel {self.kernel_id} did not answer within {timeout_seconds:g} s",
                state="it may be in code that does not let go, such as a long computation in C",
                advice=Remedy.TRY_OR_INTERRUPT,
            ) from None
        except zmq.ZMQError as error:
            raise KernelUnresponsiveError(
                f"kernel {self.kernel_id} could not be asked: {error}", advice=Remedy.TRY_OR_RESTART
            ) from error

    def _require_wire(self) -> Wire:
        """The connection to the process.

        Raises:
            KernelNotFoundError, KernelDiedError: there is no process.
            KernelUnresponsiveError: it is being started.
        """
        self.require_alive()
        if self._wire is None:
            raise KernelUnresponsiveError(f"kernel {self.kernel_id} is being started", advice="try again in a moment")
        return self._wire

    async def move_to(self, cwd: Path, variables: dict[str, str]) -> None:
        """Change the working directory of a Python kernel that was started ahead of time, and set variables of its
        environment.
        """
        code = f"(__import__('os').chdir({str(cwd)!r}), __import__('os').environ.update({variables!r}))"
        await self.evaluate(code, timeout_seconds=10)
        self.cwd = cwd

    # Interrupt

    def _on_timeout(self, execution: CellExecution) -> None:
        if not execution.released.is_set():
            self._background.start(self.interrupt(execution, RunStatus.TIMEOUT), name=f"time out {self.kernel_id}")

    async def interrupt(
        self, execution: CellExecution | None = None, reason: RunStatus = RunStatus.INTERRUPTED
    ) -> bool:
        """Interrupt `execution`, by default the running one. Returns whether it has ended, at the latest after 5 s.

        An execution that still waits in the queue ends as aborted and never reaches the kernel. One that ignores
        interrupts is `still_running` afterwards, and its caller has a result all the same.
        """
        if execution is not None and execution.status == RunStatus.QUEUED:
            execution.abort("it was cancelled before it began")
            return True
        target = execution or self._running
        if target is None or target.released.is_set():
            return True
        if target is not self._running:
            return False
        return await self._interrupts.end(target, reason)

    async def _send_interrupt(self) -> None:
        if self._process is None or self._wire is None:
            return
        if self.spec.interrupt_mode == "message":
            self._wire.send("control", "interrupt_request", {})
        else:
            await self._process.interrupt()

    # End

    async def _reap(self, process: KernelProcess) -> None:
        """Wait for the death of the process and end all executions that wait for it."""
        await process.exited
        if process is not self._process or not self.alive:
            return
        await asyncio.sleep(0.05)  # the last messages may still be on their way through the sockets
        self._state = KernelState.DEAD
        why = f"the kernel died ({process.exit_description()})"
        if self._killed_for is not None:
            why = f"the kernel was killed: {self._killed_for}"
        if self._running is not None and self._running.interrupted:
            why += " of the interrupt it was sent"  # Deno's does, for one
        logger.warning("kernel died", extra={"kernel_id": self.kernel_id, "exit": process.exit_description()})
        if self._worker is not None:
            self._worker.cancel()
        if self._running is not None and not self._running.released.is_set():
            self._running.die(why)
        self._abort_executions(why)
        self._touch()
        try:
            self._close_wire()
            self.died()
            await process.aclose()  # the children of the kernel go, too
        except Exception:
            logger.exception("leftovers of a dead kernel could not be removed", extra={"kernel_id": self.kernel_id})

    def _abort_executions(self, why: str) -> None:
        if self._running is not None and not self._running.released.is_set():
            self._running.abort(why)
        while self._queue:
            self._queue.popleft().abort(why)

    def _close_wire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    async def _discard_incarnation(self) -> None:
        """End the process and everything that belongs to this incarnation."""
        if self._reaper is not None:
            self._reaper.cancel()
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        try:
            self._close_wire()  # before anything is awaited: the context cannot be closed while a socket is open
        finally:
            if self._process is not None:
                await self._process.aclose()

    @property
    def _quiet(self) -> bool:
        """Whether the kernel has nothing to do, and so may be asked to shut down by itself."""
        return self._state == KernelState.IDLE and self._running is None

    async def _end_process(self, *, polite: bool) -> None:
        if self._reaper is not None:
            self._reaper.cancel()  # this end is no death
        try:
            if polite and self._wire is not None and self._process is not None:
                self._wire.send("control", "shutdown_request", {"restart": False})
                await self._process.wait_exit(_SHUTDOWN_GRACE)
        except Exception:  # it is killed instead
            logger.exception("a kernel could not be asked to shut down", extra={"kernel_id": self.kernel_id})
        finally:
            await self._discard_incarnation()

    async def kill(self, reason: str) -> None:
        """Kill the process, with its children. Code that runs dies of the reason, a clause for a person."""
        self._killed_for = reason
        if self._process is not None:
            await self._process.kill()

    async def aclose(self) -> None:
        """Stop the kernel. An idle one may shut down by itself for a second; then, or if busy, it is killed.

        A second call does nothing.
        """
        if self._state == KernelState.STOPPED:
            return
        polite, self._state = self._quiet, KernelState.STOPPED
        self._abort_executions("the kernel was stopped")
        await self._end_process(polite=polite)


def kernel_environment(
    spec: KernelSpec, own: Environment | None, extra: dict[str, str] | None, denied: list[str]
) -> dict[str, str]:
    """The variables of a new kernel: ours, without the denied ones, then the kernelspec's, then `extra`.

    Args:
        own: the Python of the kernel, whose programs come first in the PATH.
    """
    env = {name: value for name, value in os.environ.items() if name not in denied}
    if own is not None:
        env = variables_of(own, env)
    # debugpy warns about frozen modules on every start of a Python kernel; no debugger is used here.
    env.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    env.update(spec.env or {})
    env.update(extra or {})
    return env


def _missed(execution: CellExecution) -> str | None:
    """The name that the kernel missed, if its code ended for that."""
    error = execution.error if execution.raised else None
    return None if error is None else undefined_name(error.ename, error.evalue)


def _surrogate_in(code: str) -> str | None:
    """Why code cannot be sent to a kernel, in words; None if it can.

    Not left to `jupyter_client`, which sends some surrogates as bytes that are not UTF-8.
    """
    try:
        code.encode()
    except UnicodeEncodeError as error:
        line = code.count("\n", 0, error.start) + 1
        return (
            f"line {line} has half of a surrogate pair, U+{ord(code[error.start]):04X}. It has no UTF-8 form, so no "
            "kernel can be sent this code. Nothing of it was run. Remove that character, or write it as an escape"
        )
    return None


def _tail(process: KernelProcess) -> str:
    tail = process.output_tail()
    return f"It wrote:\n```\n{tail}\n```" if tail else ""
