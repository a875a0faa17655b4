"""Outputs that came, or were updated, after the last save of their run: of a thread, or of a display shown before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.documents.alignment import by_id
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.runs.traces import Result, result_of
from papermill_mcp.errors import ServerError


@dataclass(frozen=True)
class LateOutputs:
    """The outputs of a cell as they are now.

    Attributes:
        result: the one that the run saved. Only that is replaced.
        saved: called in the event loop when they are in the file, with the new result.
    """

    cell_id: str
    source: str
    result: Result
    outputs: list[dict[str, Any]]
    saved: Callable[[Result], None]


def put_late(document: NotebookDocument, late: Iterable[LateOutputs]) -> list[Callable[[], None]]:
    """Put outputs into the cells that still have what their run saved. Returns a function to call after the save."""
    places = by_id(document.cells)
    done: list[Callable[[], None]] = []
    for one in late:
        found = places.get(one.cell_id, [])
        cell = document.cells[found[0]] if len(found) == 1 else None
        if cell is None or (cell.cell_type, cell.source) != ("code", one.source) or result_of(cell) != one.result:
            continue
        try:
            document.update(found[0], {"outputs": one.outputs})
        except ServerError:  # they cannot be stored
            continue
        result = result_of(document.cells[found[0]])
        done.append(lambda one=one, result=result: one.saved(result))  # type: ignore[misc]
    return done
