"""Outputs of batches: their names, and whether a file is the complete output of a run, as the run left it.

A name says the parameters that vary where they are few, short and safe on every file system: `nile-year=1890.ipynb`.
Else it has a digest of all that the run is made of. The output records that digest, so a name need not be unique.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.outputs import recorded_values
from papermill_mcp.core.papermill.code.languages import writer_for
from papermill_mcp.core.papermill.metadata import COMPLETED, ERROR_MARKER_TAG, completed_run, of_cell, of_notebook
from papermill_mcp.core.papermill.output import INJECTED_TAG, PapermillTask, prepare
from papermill_mcp.core.runs.notebook_run import SKIP_TAG, RunSummary, last_text

#: Metadata of cells that runs write, or front ends with them.
_OF_RUNS = frozenset(("papermill", "execution", "collapsed", "scrolled", "ExecuteTime"))

#: Characters of a digest, and of its beginning in the name of an output.
_DIGEST_CHARS = 32
_NAME_DIGITS = 12

#: Parameters in a name, and characters of the whole name.
_MAX_NAMED = 4
_MAX_NAME = 80

_SAFE = re.compile(r"[A-Za-z0-9._=+-]+")

#: Names that Windows keeps for devices, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\Z", re.IGNORECASE)

_Made = tuple[str | None, str, dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """A file in the place of an output.

    Attributes:
        digest: the one that it records; None without one.
        changed: its cells are others than those that the run makes.
        summary: that of the run, if it is complete.
    """

    digest: str | None
    changed: bool
    summary: RunSummary | None


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
        """A digest of the notebook, the parameters and the kernel, 32 hex digits. It is the same for nothing else."""
        facts = [*self._facts[:2], values, *self._facts[3:]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]

    def look(self, found: NotebookDocument, values: Mapping[str, Any]) -> Found:
        """Compare a file with the output that a run makes. Cells of text that were added do not make it incomplete."""
        wanted = self._wanted(values)
        made = [_as_made(cell) for cell in found.cells if ERROR_MARKER_TAG not in cell.tags]
        code, wanted_code = ([cell for cell in cells if cell[0] == "code"] for cells in (made, wanted))
        digest = of_notebook(found).get("digest")
        return Found(
            digest=digest if isinstance(digest, str) else None,
            changed=made != wanted,
            summary=_completed(found, values) if code == wanted_code else None,
        )

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


def digest_name(stem: str, digest: str, number: int = 1) -> str:
    """The name of an output after its digest. Args: `number`: the others before it are taken."""
    return f"{stem}-{digest[:_NAME_DIGITS]}{f'-{number}' if number > 1 else ''}.ipynb"


def speaking_names(stem: str, sets: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The names of the outputs of a notebook that say their parameters, the best first; none where they are no names.

    First those with the parameters that vary among the sets, then with all that are given, as a batch of one run has.
    """
    varying = _varying(sets)
    return [
        [*dict.fromkeys(filter(None, (_speaking(stem, values, names) for names in (varying, values))))]
        for values in sets
    ]


def _varying(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the parameters that are not the same in all sets; all of a single set."""
    if len(sets) == 1:
        return list(sets[0])
    first: dict[str, str] = {}
    seen: dict[str, int] = {}
    varying: dict[str, None] = {}
    for values in sets:
        for name, value in values.items():
            seen[name] = seen.get(name, 0) + 1
            if name not in varying:
                text = json.dumps(value, sort_keys=True)
                if first.setdefault(name, text) != text:
                    varying[name] = None
    return [name for name in first if name in varying or seen[name] < len(sets)]


def _speaking(stem: str, values: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]) -> str | None:
    given = [name for name in names if name in values]
    if not given or len(given) > _MAX_NAMED:
        return None
    parts = [f"{name}={text}" for name in given if name and (text := _text(values[name]))]
    name = "-".join([stem, *parts]) + ".ipynb"
    safe = len(parts) == len(given) and all(map(_SAFE.fullmatch, parts))
    return name if safe and len(name) <= _MAX_NAME and not _RESERVED.match(name.partition(".")[0]) else None


def _text(value: Any) -> str | None:
    """A value in a name; None for one that has no short text."""
    if isinstance(value, str):
        return value or None
    return json.dumps(value) if value is None or isinstance(value, bool | int | float) else None
