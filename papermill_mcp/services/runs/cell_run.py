"""Code that runs in a kernel without a notebook."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import CellSnapshot, CellState, Cursor
from papermill_mcp.core.widget_state import with_text
from papermill_mcp.services.runs.notes import cell_notes
from papermill_mcp.services.runs.requests import CodeRequest

if TYPE_CHECKING:
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.services.kernel_service import KernelService


class CellRun(BaseRun):
    """One piece of code. `start` queues it in its kernel."""

    def __init__(
        self, request: CodeRequest, kernel: Kernel, kernels: KernelService, *, timeout_seconds: float | None
    ) -> None:
        super().__init__(request.execution_id)
        self._kernels = kernels
        self._operation = request.operation
        self._kernel = kernel
        self._new_kernel = kernel.unused
        self._queued_at = time.monotonic()
        self._cell = kernel.request(
            request.code,
            timeout_seconds=timeout_seconds,
            store_history=request.store_history,
            owner=self.execution_id,
            on_change=self.changed,
        )

    def start(self) -> None:
        """Queue the code.

        Raises:
            KernelNotFoundError, KernelDiedError, KernelUnresponsiveError: the kernel cannot run it.
            LimitReachedError: the queue of the kernel is full.
        """
        self._kernel.enqueue(self._cell)
        super().start()

    async def _work(self) -> RunStatus:
        await self._cell.settled.wait()
        if self._cell.released.is_set():
            await self._kernel.hear_out()
        self.notes += cell_notes(self._cell, "the code", kernel_stays=True)
        self.notes += await self._kernels.module_notes(self._kernel, [self._cell.error])
        return self._cell.status

    @property
    def held(self) -> int:
        """Bytes of the code and its outputs, and of the widgets of a kernel that has ended."""
        return self._cell.held + (0 if self._kernel.alive else self._cell.widgets.held)

    def forget_outputs(self) -> None:
        """Give up the outputs."""
        super().forget_outputs()
        self._cell.forget_outputs()

    async def cancel(self) -> None:
        """Interrupt the code."""
        if not self.finished:
            self.cancelled = True
            await self._kernel.interrupt(self._cell)

    @property
    def status(self) -> RunStatus:
        """`queued` while the kernel runs other code."""
        if self.finished:
            return self._cell.status if self._status == RunStatus.OK else self._status
        waits = self._cell.status == RunStatus.QUEUED and self._kernel.has_ahead_of(self._cell)
        return RunStatus.QUEUED if waits else RunStatus.RUNNING

    def snapshot(self, since: Cursor) -> CellSnapshot:
        """The state of the code, with new outputs."""
        cell, outputs = self._cell, self._cell.outputs
        outputs_before, chars_before = since.before(outputs)
        return CellSnapshot(
            execution_id=self.execution_id,
            operation=self._operation,
            status=self.status,
            started_at=self.started_at,
            seconds=cell.duration,
            notes=tuple(self.notes),
            kernel_id=self._kernel.kernel_id,
            kernel_name=self._kernel.kernel_name,
            python=self._kernel.python,
            new_kernel=self._new_kernel,
            progress=self._progress(),
            cell_limit=cell.timeout_seconds,
            cursor=Cursor.at(0, outputs),
            cell=CellState(
                status=self.status,
                execution_count=cell.execution_count,
                duration=cell.duration,
                outputs=with_text(since.new_of(outputs), cell.widgets.models),
                outputs_before=outputs_before,
                chars_before=chars_before,
                error=cell.error,
                pages=tuple(cell.pages),
                dropped_chars=cell.collector.dropped_chars,
                omitted_outputs=cell.collector.omitted_outputs,
            ),
        )

    def _progress(self) -> str:
        if self._cell.began is None:
            return f"waiting for the kernel · {time.monotonic() - self._queued_at:.0f} s"
        line = self._cell.collector.last_line()[-100:]
        return f"running · {self._cell.duration:.0f} s" + (f" · {line}" if line else "")
