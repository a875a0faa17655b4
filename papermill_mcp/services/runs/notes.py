"""Sentences for the client about the ways in which code may end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from papermill_mcp.core.documents.names import cells_that_set, undefined_name
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.kernels.widgets import MAX_WIDGET_BYTES
from papermill_mcp.utils.text_utils import cells_named, count_noun, human_size

if TYPE_CHECKING:
    from papermill_mcp.core.documents.document import NotebookDocument
    from papermill_mcp.core.kernels.request import CellError, CellExecution
    from papermill_mcp.core.runs.notebook_run import NotebookRun, RunCell

_DEAF = (
    "the kernel ignores interrupts: the code still runs in it, and queued code waits. restart_kernel ends it; "
    "its variables are lost then"
)


def cell_notes(cell: CellExecution, name: str, *, kernel_stays: bool) -> list[str]:
    """Notes about the end of one cell.

    Args:
        name: names the cell in the notes.
        kernel_stays: whether clients can use the kernel after the run.
    """
    notes = []
    if cell.status == RunStatus.TIMEOUT:
        notes.append(
            f"{name} ran longer than its timeout of {cell.timeout_seconds:g} s and was interrupted; pass a larger "
            "timeout, or 0 for none"
        )
    if cell.status == RunStatus.DIED and kernel_stays:
        notes.append("restart_kernel gives the kernel a new process under the same id; variables are lost")
    if cell.error is not None and cell.error.ename == "StdinNotImplementedError":
        notes.append("input() has no answer here; set the value in the code, or pass it as a parameter")
    if cell.still_running:
        notes.append(_DEAF)
    if cell.collector.faults:
        notes.append(f"parts of the outputs of {name} were not kept: {'; '.join(cell.collector.faults)}")
    if cell.output_incomplete:
        notes.append(f"the kernel never said that {name} was over, so output may be missing")
    return notes


def run_notes(run: NotebookRun, *, kernel_stays: bool, document: NotebookDocument | None = None) -> list[str]:
    """Notes about the end of a run and of each of its cells.

    Args:
        document: the notebook that was run in place.
    """
    notes = [] if run.problem is None else [str(run.problem)]
    if run.left_at is not None:
        notes.append(f"cell {run.left_at.index} left by sys.exit(); the run ended there")
    for cell in run.cells:
        if cell.execution is not None:
            notes += cell_notes(cell.execution, f"cell {cell.index}", kernel_stays=kernel_stays)
        if cell.failed and document is not None:
            notes += _missing_name(cell, document)
    if run.widgets_left_out:
        notes.append(
            f"the states of {count_noun(run.widgets_left_out, 'widget')} were not kept, since a kernel keeps "
            f"{human_size(MAX_WIDGET_BYTES)} of them"
        )
    return notes


def errors_of(run: NotebookRun) -> list[CellError | None]:
    """The error of each cell that failed."""
    return [cell.execution.error for cell in run.cells if cell.failed and cell.execution is not None]


def _missing_name(cell: RunCell, document: NotebookDocument) -> list[str]:
    """A note about the cells that set the name which a cell did not find."""
    error = cell.execution.error if cell.execution is not None else None
    name = undefined_name(error.ename, error.evalue) if error is not None else None
    places = [index for index in cells_that_set(name, document.cells) if index != cell.index] if name else []
    if not places:
        return []
    return [f"{name!r}, which cell {cell.index} did not find, is set in {cells_named(places[:5])}"]
