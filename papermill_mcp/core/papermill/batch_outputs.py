"""Outputs of batches: the name of one, and whether a file is the complete output of a run, as the run left it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.outputs import recorded_values
from papermill_mcp.core.papermill.code.languages import writer_for
from papermill_mcp.core.papermill.metadata import COMPLETED, ERROR_MARKER_TAG, completed_run, of_cell
from papermill_mcp.core.papermill.output import INJECTED_TAG, PapermillTask, prepare
from papermill_mcp.core.runs.notebook_run import SKIP_TAG, RunSummary, last_text

#: Metadata of cells that runs write, or front ends with them.
_OF_RUNS = frozenset(("papermill", "execution", "collapsed", "scrolled", "ExecuteTime"))

#: Characters of the digest in the name of an output.
_DIGEST_CHARS = 12

_Made = tuple[str | None, str, dict[str, Any]]


class OutputsOf:
    """The outputs of the runs of one notebook that differ in their parameters only.

    Args:
        task: of the runs, without parameters.
        revision: that of the notebook.
    """

    def __init__(self, document: NotebookDocument, task: PapermillTask, revision: str) -> None:
        self._document = document
        self._task = task
        facts = [task.display_path, revision, None, task.kernel_name, task.language]
        if task.environment is not None:
            facts.append(str(task.environment.python))
        if task.report_mode:
            facts.append("report")
        self._facts = facts
        self._made: dict[bool, tuple[list[_Made], int | None]] = {}

    def digest(self, values: Mapping[str, Any]) -> str:
        """A digest that is the same for the same notebook, parameters and kernel, and for nothing else."""
        facts = [*self._facts[:2], values, *self._facts[3:]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]

    def look(self, found: NotebookDocument, values: Mapping[str, Any]) -> tuple[bool, RunSummary | None]:
        """Whether the cells of an output are others than its run made, and its summary if it is complete.

        Cells of text that were added do not make it incomplete.
        """
        wanted = self._wanted(values)
        made = [_as_made(cell) for cell in found.cells if ERROR_MARKER_TAG not in cell.tags]
        code, wanted_code = ([cell for cell in cells if cell[0] == "code"] for cells in (made, wanted))
        return made != wanted, _completed(found, values) if code == wanted_code else None

    def _wanted(self, values: Mapping[str, Any]) -> list[_Made]:
        """The cells that a run makes. Those of two runs differ in the cell with the parameters only."""
        given = bool(values)
        if given not in self._made:
            task = replace(self._task, parameters=dict(values))
            cells = prepare(self._document, task).document.cells
            place = next((at for at, cell in enumerate(cells) if INJECTED_TAG in cell.tags), None) if given else None
            self._made[given] = [_as_made(cell) for cell in cells], place
        made, place = self._made[given]
        if place is None:
            return made
        kind, _, metadata = made[place]
        code = writer_for(self._task.kernel_name, self._task.language).code(values)
        return [*made[:place], (kind, code, metadata), *made[place + 1 :]]


def _as_made(cell: NotebookCell) -> _Made:
    """A cell as a run leaves it, without the run's own traces."""
    metadata = {name: value for name, value in cell.metadata.items() if name not in _OF_RUNS}
    return cell.cell_type, cell.source, metadata


def _completed(document: NotebookDocument, values: Mapping[str, Any]) -> RunSummary | None:
    if completed_run(document) != values or any(map(_is_cleared, document.cells)):
        return None
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = last_text(reversed(outputs))
    return RunSummary(len(cells), len(cells), None, None, recorded_values(outputs), text=text)


def _is_cleared(cell: NotebookCell) -> bool:
    """Whether a cell that ran has lost its result since."""
    ran = cell.cell_type == "code" and bool(cell.source.strip()) and of_cell(cell).get("status") == COMPLETED
    return ran and cell.member("execution_count") is None and SKIP_TAG not in cell.tags
