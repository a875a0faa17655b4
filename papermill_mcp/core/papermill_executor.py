"""The recipe of a run with parameters: prepare, start a kernel, put the output in place, run the cells, close.

The recipe is the same in this server and on a Dask worker. The two differ in their `Place`: where kernels come from and
where the output is kept.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.kernels.usage_watch import UsageWatch
from papermill_mcp.core.papermill.output import PapermillObserver, PapermillTask, prepare
from papermill_mcp.core.runs.notebook_run import NotebookRun, RunCell, RunSummary, run_cells
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.utils.background import completed


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        seconds: from the start of the kernel to its end, without any queue.
        output: the whole output notebook where it is kept elsewhere; None if there is none, or it is in place.
        notes: sentences for the client.
        peak_memory: the most resident bytes of the kernel and its processes; None if it is not known.
        processor_seconds: of the kernel and its processes, with its start; None if they are not known.
        worker: the address of the Dask worker that did the run.
        lost_worker: the run was given up, since it lost one worker after the other.
        revision: of the output in place, as the run left it; None if it is not known.
    """

    status: RunStatus
    seconds: float
    summary: RunSummary
    notes: list[str]
    output: bytes | None = None
    peak_memory: int | None = None
    processor_seconds: float | None = None
    worker: str | None = None
    lost_worker: bool = False
    revision: str | None = None


class Place(Protocol):
    """Where a run gets its kernel and keeps its output."""

    async def start_kernel(self, task: PapermillTask) -> Kernel:
        """Start the kernel of the run."""

    async def put_output(self, task: PapermillTask, document: NotebookDocument) -> RunFile:
        """Write the prepared notebook."""

    async def end_kernel(self, kernel: Kernel) -> None:
        """End the kernel of a run that did not begin."""


class PapermillRecipe:
    """One run, from its preparation to its last save.

    Args:
        timings: seconds that cells took last time, by the digest of their source.
        owner: the id under which clients know the run.
        changed: called at each change.

    Attributes:
        parameters: as injected, with the notebook's defaults.
        status: how the run ended; `interrupted` until then.
        notes: sentences for the client.
    """

    def __init__(
        self,
        task: PapermillTask,
        *,
        timings: Mapping[str, float] | None = None,
        owner: str | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._task = task
        self._timings = timings
        self._owner = owner
        self._changed = changed
        self._usage: UsageWatch | None = None
        self.parameters: dict[str, Any] = {}
        self.status = RunStatus.INTERRUPTED
        self.notes: list[str] = []

    async def begin(self, document: NotebookDocument, place: Place) -> None:
        """Inject the parameters, start the kernel and put the output in place. A failure leaves no kernel behind.

        Raises:
            ServerError: the notebook or the parameters cannot be used, no kernel starts, or the output cannot be kept.
        """
        task = self._task
        prepared = await asyncio.to_thread(prepare, document, task)
        self.parameters = prepared.parameters
        self.kernel = await place.start_kernel(task)
        try:
            self.file = await place.put_output(task, prepared.document)
        except BaseException:
            await asyncio.shield(place.end_kernel(self.kernel))
            raise
        self._observer = PapermillObserver(prepared, self.file)
        cells = run_cells(prepared.document.cells, timings=self._timings)
        self.file.expect(cell.index for cell in cells if not cell.skip)
        self.run = NotebookRun(
            cells,
            self._observer,
            timeout_seconds=task.timeout_seconds,
            continue_on_error=task.continue_on_error,
            owner=self._owner,
            changed=self._changed,
        )

    async def perform(self) -> None:
        """Run the cells, saving as they end. If the task is cancelled, the results so far are saved.

        The message of the cancellation, if any, becomes the reason that the cell in the middle is marked with.
        """
        complete = False
        try:
            self.file.start()
            async with UsageWatch(self.kernel, self._task.memory_limit) as self._usage:
                await self.run.run(self.kernel)
                await self.run.hear_out()
            self.status = self.run.status
            complete = self.run.complete
        except asyncio.CancelledError as cancelled:
            self.run.cut_off(str(cancelled) or "the server was closed")
        finally:
            self.notes += filter(None, [self._usage.note if self._usage is not None else None])
            self._observer.finish(self.kernel.info.get("language_info"), complete=complete)
            mark = None
            if self._marked and self._failed is not None:
                mark = functools.partial(self._observer.mark_error, self._failed)
            self.notes += await completed(self.file.close(change=mark))
            if self.status == RunStatus.OK and not self.file.complete:
                self.status = RunStatus.ERROR

    @property
    def peak_memory(self) -> int | None:
        """The most resident bytes that the kernel and its processes had; None if it is not known."""
        return self._usage.peak if self._usage is not None else None

    @property
    def processor_seconds(self) -> float | None:
        """Processor time of the kernel and its processes, with its start; None if it is not known."""
        return self._usage.processor_seconds if self._usage is not None else None

    @property
    def _failed(self) -> RunCell | None:
        """The last failed cell."""
        return self.run.failed_cells[-1] if self.run.failed_cells else None

    @property
    def _marked(self) -> bool:
        """Whether the output gets papermill's error markers: a cell failed, and the run does not continue on errors."""
        return self.status == RunStatus.ERROR and not self.run.continues

    @property
    def summary(self) -> RunSummary:
        """The run in short. The index of the failed cell is its index in the output."""
        summary = replace(self.run.summary(), failed_index=self.place_of_failure)
        return summary if self.status != RunStatus.OK else replace(summary, error=None)

    @property
    def place_of_failure(self) -> int | None:
        """The index of the failed cell in the output, error markers counted; None if the cell is gone."""
        failed = self._failed
        return None if failed is None or self.status == RunStatus.OK else self.file.locate(failed.index)
