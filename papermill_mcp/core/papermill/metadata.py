"""Papermill's metadata in a notebook: the one place that reads its shape. Papermill itself is not imported.

A run stands in the notebook's metadata (`start_time`, `end_time`, `duration`, `exception`, `parameters`) and in that of
each cell (`status`, `exception`). Papermill 2.7 counts an `error` output as a failure, too, also where it marks the
cell as completed; and it counts a clean exit as none, though it marks the cell as failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.outputs import is_clean_exit, shows_failure

#: The tag of the two cells that mark a failure (`papermill.execute`).
ERROR_MARKER_TAG = "papermill-error-cell-tag"

#: Statuses of a cell (`papermill.engines.NotebookExecutionManager`).
PENDING, RUNNING, COMPLETED, FAILED = "pending", "running", "completed", "failed"


@dataclass(frozen=True)
class LastRun:
    """The last run of a notebook, as its metadata and outputs record it.

    Attributes:
        duration: seconds.
        failed_cell: index of the first cell that failed.
    """

    status: Literal["completed", "failed", "unfinished"]
    started: str | None
    duration: float | None
    failed_cell: int | None
    parameters: dict[str, Any] | None


def of_notebook(document: NotebookDocument) -> dict[str, Any]:
    """Papermill's part of the notebook's metadata; empty without one."""
    run = document.metadata.get("papermill")
    return run if isinstance(run, dict) else {}


def of_cell(cell: NotebookCell) -> dict[str, Any]:
    """Papermill's part of a cell's metadata; empty without one."""
    metadata = cell.data.get("metadata")
    run = metadata.get("papermill") if isinstance(metadata, dict) else None
    return run if isinstance(run, dict) else {}


def is_output(document: NotebookDocument) -> bool:
    """Whether papermill, or this server in its way, has made the notebook by a run."""
    return bool(of_notebook(document).get("start_time"))


def has_failed(cell: NotebookCell) -> bool:
    """Whether the cell makes its run a failure: by its outputs, or by its status, unless it was a clean exit."""
    if shows_failure(cell.outputs, cell.tags):
        return True
    run = of_cell(cell)
    marked = run.get("exception") is True or run.get("status") == FAILED
    return marked and not _left_cleanly(cell)


def last_run(document: NotebookDocument) -> LastRun | None:
    """The last run; None for a notebook that papermill has not run."""
    run = of_notebook(document)
    if not (run.get("start_time") or run.get("duration")):
        return None
    failed = next((index for index, cell in enumerate(document.cells) if has_failed(cell)), None)
    status: Literal["completed", "failed", "unfinished"]
    status = "completed" if isinstance(run.get("end_time"), str) else "unfinished"
    if failed is not None or (run.get("exception") and not any(map(_left_cleanly, document.cells))):
        status = "failed"
    duration, parameters, started = (run.get(key) for key in ("duration", "parameters", "start_time"))
    return LastRun(
        status=status,
        started=started[:40] if isinstance(started, str) else None,
        duration=float(duration) if isinstance(duration, int | float) else None,
        failed_cell=failed,
        parameters=parameters if isinstance(parameters, dict) and parameters else None,
    )


def completed_run(document: NotebookDocument) -> dict[str, Any] | None:
    """The parameters of a run that ended well; None for an output that is not complete, and for other notebooks."""
    run = of_notebook(document)
    if not run.get("end_time"):
        return None
    for cell in document.cells:
        record = of_cell(cell)
        if not record and cell.cell_type != "code":
            continue  # it was added since
        if not record:
            return None
        if record.get("exception") and _left_cleanly(cell):
            break  # the cells behind it never ran
        if record.get("status") != COMPLETED or shows_failure(cell.outputs, cell.tags):
            return None
    parameters = run.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def marker_cell(source: str) -> dict[str, Any]:
    """A Markdown cell that papermill, and a later run of the output, knows as an error marker."""
    return {"cell_type": "markdown", "metadata": {"tags": [ERROR_MARKER_TAG]}, "source": source}


def _left_cleanly(cell: NotebookCell) -> bool:
    return any(map(is_clean_exit, cell.outputs))
