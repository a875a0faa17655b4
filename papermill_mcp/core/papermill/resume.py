"""Going on with a papermill run in its own output: cells are run in place, and papermill's metadata stay true.

After a failure the output says which cells ran, which one failed, and has papermill's error markers. When cells of it
are run again, their part is brought up to date, and when no cell is left that failed or did not run, so is the whole:
the notebook is then as a run without a failure would have left it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from papermill.execute import ERROR_ANCHOR_MSG, ERROR_MESSAGE_TEMPLATE

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.papermill import metadata
from papermill_mcp.core.papermill.metadata import COMPLETED, ERROR_MARKER_TAG, FAILED, PENDING, RUNNING, marker_cell
from papermill_mcp.core.runs.notebook_run import SKIP_TAG, InPlaceObserver, NotebookRun, RunCell
from papermill_mcp.core.runs.run_file import RunFile


class ResumedObserver(InPlaceObserver):
    """Records results in the output of an earlier papermill run, with papermill's metadata for each cell."""

    def __init__(self, file: RunFile) -> None:
        super().__init__(file)
        self._began = time.monotonic()
        self._begun: dict[int, str] = {}
        self.notes: list[str] = []

    def _metadata(self, cell: RunCell) -> dict[str, Any]:
        assert cell.execution is not None
        began = self._begun.setdefault(cell.index, _now())
        over = cell.status.final
        status = RUNNING if not over else FAILED if cell.stops else COMPLETED
        return super()._metadata(cell) | {
            "papermill": {
                "duration": cell.execution.duration if over else None,
                "end_time": _now() if over else None,
                "exception": cell.stops,
                "start_time": began,
                "status": status,
            }
        }

    def finish(self, run: NotebookRun, document: NotebookDocument) -> None:
        """Bring a document that has the results up to date as a whole: error markers, and the notebook's metadata."""
        failed = run.failed_cells[-1] if run.failed_cells else None
        at = None if failed is None or self._file is None else self._file.locate(failed.index)
        marked = [number for number, cell in enumerate(document.cells) if ERROR_MARKER_TAG in cell.tags]
        for number in reversed(marked):
            document.remove(number)
        if marked:
            self.notes = ["papermill's error markers were removed, so the cells behind them have other indexes now"]
        papermill = dict(metadata.of_notebook(document))
        papermill["end_time"] = _now()
        papermill["duration"] = (papermill.get("duration") or 0.0) + time.monotonic() - self._began
        left = [cell for cell in document.cells if _runs(cell) and _status(cell) != COMPLETED]
        papermill["exception"] = True if any(_status(cell) == FAILED for cell in left) else None
        if not left:
            for number, cell in enumerate(document.cells):
                if _status(cell) == PENDING:  # text between cells that did not run is complete with them
                    of_cell = cell.data["metadata"]["papermill"] | {"status": COMPLETED, "exception": False}
                    document.update(number, {"metadata": cell.data["metadata"] | {"papermill": of_cell}})
        if failed is not None and at is not None and run.status == "error" and not run.continues:
            place = at - sum(number < at for number in marked)
            count = failed.execution.execution_count if failed.execution else None
            document.insert(place, marker_cell(ERROR_ANCHOR_MSG))
            document.insert(0, marker_cell(ERROR_MESSAGE_TEMPLATE % (count or "")))
            self.notes = [
                f"papermill's error markers are at cell 0 and before the failed cell, which is {place + 2} now"
            ]
        document.set_member("metadata", document.metadata | {"papermill": papermill})


def _runs(cell: NotebookCell) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip()) and SKIP_TAG not in cell.tags


def _status(cell: NotebookCell) -> object:
    return metadata.of_cell(cell).get("status")


def _now() -> str:
    return datetime.now(UTC).isoformat()
