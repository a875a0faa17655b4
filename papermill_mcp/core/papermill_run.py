"""One papermill run, from its first cell to its last save: in the kernel, the output file, and papermill's metadata."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from papermill_mcp.core.kernel import Kernel
from papermill_mcp.core.notebook_run import NotebookRun, RunCell, RunSummary, run_cells
from papermill_mcp.core.papermill_executor import PapermillObserver, PreparedRun, exit_is_clean
from papermill_mcp.core.run_file import RunFile


class PapermillRun:
    """A run over the cells of a prepared notebook.

    Args:
        file: the output, which holds the prepared notebook already.
        timings: seconds that cells took last time, by the digest of their source.

    Attributes:
        cells: the run of the cells, to look at while it goes on, and to cancel.
        status: how it ended; `interrupted` until then.
        notes: what a caller should know besides.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        file: RunFile,
        *,
        timeout_seconds: float | None,
        continue_on_error: bool,
        timings: Mapping[str, float] | None = None,
        owner: str | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._file = file
        self._observer = PapermillObserver(prepared, file)
        self.cells = NotebookRun(
            run_cells(prepared.document.cells, timings=timings),
            self._observer,
            timeout_seconds=timeout_seconds,
            continue_on_error=continue_on_error,
            owner=owner,
            on_change=on_change,
        )
        self.status = "interrupted"
        self.notes: list[str] = []

    async def run(self, kernel: Kernel) -> None:
        """Run the cells in `kernel`, saving as they end. If the task is cancelled, what there is so far is saved.

        The message of the cancellation, if any, becomes the reason that the cell in the middle is marked with.
        """
        complete = False
        try:
            self._file.start()
            await self.cells.run(kernel)
            self.cells.record_late_output()
            self.status = str(self.cells.status)
            complete = self.cells.complete
            if self._marked and exit_is_clean(self.cells.failed_cells[-1]):
                self.notes.append(f"cell {self.cells.failed_cells[-1].index} left by sys.exit(); the run ended there")
                if self._failed is None:
                    self.status = "ok"
        except asyncio.CancelledError as cancelled:
            self.cells.cut_off(str(cancelled) or "the server was closed")
        finally:
            self._observer.finish(kernel.info.get("language_info"), complete=complete)
            mark = None
            if self._marked and self._failed is not None:
                mark = functools.partial(self._observer.mark_error, self._failed)
            self.notes += await self._file.close(change=mark)

    @property
    def _failed(self) -> RunCell | None:
        """The last failed cell. One that was left by a clean exit does not count."""
        return next((cell for cell in reversed(self.cells.failed_cells) if not exit_is_clean(cell)), None)

    @property
    def _marked(self) -> bool:
        """Whether the output gets papermill's error markers: a cell failed, and the run does not continue on errors."""
        return self.status == "error" and not self.cells.continues

    def summary(self) -> RunSummary:
        """The run in short. The index of the failed cell is its index in the output."""
        summary = replace(self.cells.summary(), failed_index=self.place_of_failure)
        return summary if self.status != "ok" else replace(summary, error=None)

    @property
    def place_of_failure(self) -> int | None:
        """The index of the failed cell in the output, error markers counted; None if the cell is gone."""
        failed = self._failed
        return None if failed is None or self.status == "ok" else self._file.locate(failed.index)
