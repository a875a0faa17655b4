"""Cells of a notebook that run in its kernel, with results saved into the notebook."""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from typing import TYPE_CHECKING

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.late import LateOutputs
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import Cursor, NotebookSnapshot
from papermill_mcp.errors import ServerError
from papermill_mcp.services.runs.notes import errors_of, run_notes
from papermill_mcp.services.runs.requests import RunRequest
from papermill_mcp.services.staleness import STALE
from papermill_mcp.utils.background import completed
from papermill_mcp.utils.text_utils import cells_named

if TYPE_CHECKING:
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.papermill.resume import ResumedObserver
    from papermill_mcp.core.runs.notebook_run import NotebookRun, RunCell
    from papermill_mcp.core.runs.run_file import RunFile
    from papermill_mcp.core.runs.traces import Result
    from papermill_mcp.services.notebook_service import OpenNotebook
    from papermill_mcp.services.runs.papermill_run import Bench

#: Cells that a note names.
_NAMED = 20


class InPlaceRun(BaseRun):
    """A run in place. `prepare` gives it its kernel and cells; then it can be started.

    Args:
        one_cell: the run is of one cell, and is shown so.
        of_stale: it is to leave no stale cell.
    """

    def __init__(
        self,
        request: RunRequest,
        notebook: OpenNotebook,
        bench: Bench,
        *,
        one_cell: bool,
        of_stale: bool = False,
    ) -> None:
        super().__init__(request.execution_id)
        self._operation = request.operation
        self._notebook = notebook
        self._kernels = bench.kernels
        self._claims = bench.claims
        self._store = bench.store
        self._staleness = bench.staleness
        self._notebooks = bench.notebooks
        self._of_stale = of_stale
        self._one_cell = one_cell
        self._created = time.monotonic()

    def prepare(self, kernel: Kernel, run: NotebookRun, file: RunFile | None, resumed: ResumedObserver | None) -> None:
        """Take the kernel, the cells and the file of the run.

        Args:
            file: where results are saved; None if they are not saved.
            resumed: keeps papermill's metadata true in the output of an earlier papermill run.
        """
        self._kernel = kernel
        self._new_kernel = kernel.unused
        self.run = run
        self._file = file
        self._resumed = resumed
        if file is not None:
            late = weakref.WeakMethod(self._late)
            file.late = lambda: [] if (found := late()) is None else found()

    async def _work(self) -> RunStatus:
        status = RunStatus.INTERRUPTED
        file, resumed = self._file, self._resumed
        try:
            if file is not None:
                file.start()
            await self.run.run(self._kernel)
            await self.run.hear_out()
            status = self.run.status
        except asyncio.CancelledError:
            self.run.cut_off("the server was closed")
        finally:
            if file is not None:
                language_info = self._kernel.info.get("language_info")
                if language_info and status != RunStatus.INTERRUPTED:
                    file.record_metadata({"language_info": language_info})
                change = None if resumed is None else functools.partial(resumed.finish, self.run)
                self.notes += await completed(file.close(change=change))
                await completed(file.save_late())
                await completed(
                    asyncio.to_thread(self._staleness.ran, self._kernel, self._notebook.path, self.run.cells)
                )
                if self._of_stale and status == RunStatus.OK:
                    self.notes += await completed(self._still_stale())
                if status == RunStatus.OK and not file.complete:
                    status = RunStatus.ERROR
                if resumed is not None:
                    self.notes += resumed.notes
            self.notes += run_notes(self.run, kernel_stays=True, document=self._notebook.document)
            self._claims.release(self.execution_id)
            self._store.put_timings(str(self._notebook.path), self.run.timings())
        self.notes += await self._kernels.module_notes(self._kernel, errors_of(self.run))
        return status

    async def _still_stale(self) -> list[str]:
        """A note about cells that are stale all the same: the kernel keeps what earlier runs left in it."""
        try:
            async with self._notebooks.opened(str(self._notebook.path)) as (notebook, work):
                marks = await work.run(lambda: self._notebooks.stale_cells(notebook))
        except ServerError:
            return []
        left = [index for index, mark in marks.items() if mark.startswith(STALE)]
        if not left:
            return []
        return [
            f"{cells_named(left[:_NAMED])} may still differ from a run from the top, since the kernel keeps what "
            "earlier runs left; all cells with fresh=true settle it, and the stale ones once more do not"
        ]

    def _late(self) -> list[LateOutputs]:
        """Outputs that came after the last save, for the next save of the notebook."""
        file, found = self._file, []
        for cell in self.run.late_cells() if file is not None and self.finished else []:
            result = file.last_result(cell.index) if file is not None else None
            if cell.cell_id is not None and cell.execution is not None and result is not None:
                saved = functools.partial(self._late_is_saved, cell, cell.execution.collector.version)
                found.append(LateOutputs(cell.cell_id, cell.source, result, cell.outputs, saved))
        return found

    def _late_is_saved(self, cell: RunCell, version: int, result: Result) -> None:
        if self._file is not None:
            self._file.replaced(cell.index, result)
        self.run.late_is_recorded(cell, version)

    def _late_notes(self) -> tuple[str, ...]:
        late = self.run.late_cells() if self._file is not None and self.finished else []
        if not late:
            return ()
        which = cells_named(cell.index for cell in late)
        rest = "; the next run or edit of the notebook saves it, if the cell is as this run left it"
        if not all(cell.cell_id for cell in late):
            rest = ""
        return (f"output of {which} came or changed after the last save of this run, so it is not in the file{rest}",)

    def _release(self) -> None:
        self._notebook, self._resumed = self._notebook.released(), None
        if self._file is not None:
            self._file.release()

    @property
    def held(self) -> int:
        """Bytes of sources and outputs in memory."""
        return self.run.held

    def forget_outputs(self) -> None:
        """Give up the outputs."""
        super().forget_outputs()
        self.run.forget_outputs()

    async def cancel(self) -> None:
        """Interrupt the cell that runs and start no more."""
        if not self.finished:
            self.cancelled = True
            await self.run.cancel()

    @property
    def seconds(self) -> float:
        """Seconds since the kernel got the first cell."""
        began = self.run.began
        if began is None:
            return 0.0
        return (self._ended if self._ended is not None else time.monotonic()) - began

    def snapshot(self, since: Cursor) -> NotebookSnapshot:
        """The state of the run, with new outputs."""
        cells, cursor = self.run.state(since)
        not_begun = self.run.kernel is None and self._kernel.has_ahead_of(None)
        waits = not self.finished and (self.run.waits or not_begun)
        if self._one_cell:
            only = self.run.cells[0]
            outputs = only.outputs
            cursor = Cursor.at(0, outputs)
            cells = cells.of_one(only.state(since.new_of(outputs)))
        return NotebookSnapshot(
            execution_id=self.execution_id,
            operation=self._operation,
            status=self._status if self.finished else RunStatus.QUEUED if waits else RunStatus.RUNNING,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=(*self.notes, *self._late_notes()),
            kernel_id=self._kernel.kernel_id,
            kernel_name=self._kernel.kernel_name,
            python=self._kernel.python,
            new_kernel=self._new_kernel,
            file=self._notebook.path,
            done=cells.done,
            total=cells.total,
            at=cells.at,
            progress=f"waiting for the kernel · {time.monotonic() - self._created:.0f} s"
            if waits
            else self.run.progress(self.seconds),
            cell_limit=self.run.timeout_seconds,
            cursor=cursor,
            cells=cells,
            revision=self._file.revision if self._file else self._notebook.revision,
        )
