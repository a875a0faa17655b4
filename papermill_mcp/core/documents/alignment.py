"""Which cell of a notebook is which in a later version of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from difflib import SequenceMatcher

from papermill_mcp.core.documents.document import NotebookCell

#: Pairs of cells that a comparison may look at. Larger changes are aligned from both ends only.
_MOST_PAIRS = 4_000_000


def aligned(old: Sequence[NotebookCell], new: Sequence[NotebookCell]) -> dict[int, int]:
    """The new index of each old cell that is still there.

    A cell with an id of its own is found by it. Other cells are found by their whole text in the order of the
    notebook, so an inserted copy of a cell without outputs is not taken for one that has them; then by their source.
    """
    before, after = by_id(old), by_id(new)
    found = {
        places[0]: after[cell_id][0]
        for cell_id, places in before.items()
        if len(places) == 1 and len(after.get(cell_id, ())) == 1
    }
    keys: tuple[Callable[[NotebookCell], Hashable], ...] = (
        lambda cell: bytes(cell.raw),
        lambda cell: (cell.cell_type, cell.source),
    )
    for key in keys:
        taken = set(found.values())
        olds = [index for index in range(len(old)) if index not in found and _shared(old[index], before, after)]
        news = [index for index in range(len(new)) if index not in taken]
        pairs = _matches([key(old[index]) for index in olds], [key(new[index]) for index in news])
        found |= {olds[one]: news[other] for one, other in pairs}
    return found


def by_id(cells: Sequence[NotebookCell]) -> dict[str, list[int]]:
    """The indexes of the cells with each id."""
    places: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        if cell.cell_id:
            places.setdefault(cell.cell_id, []).append(index)
    return places


def _shared(cell: NotebookCell, before: dict[str, list[int]], after: dict[str, list[int]]) -> bool:
    """Whether no id names the cell: it has none, or several cells have it, or the new cells have no ids at all.

    Else a cell whose own id is gone was removed.
    """
    return not after or not cell.cell_id or len(before[cell.cell_id]) > 1 or len(after.get(cell.cell_id, ())) > 1


def _matches(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of equal items in order, common beginnings and ends first."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    pairs = [(index, index) for index in range(start)]
    pairs += [(len(old) - 1 - index, len(new) - 1 - index) for index in range(end)]
    middle_old, middle_new = old[start : len(old) - end], new[start : len(new) - end]
    if middle_old and middle_new and len(middle_old) * len(middle_new) <= _MOST_PAIRS:
        blocks = SequenceMatcher(None, middle_old, middle_new, autojunk=False).get_matching_blocks()
        pairs += [(start + a + step, start + b + step) for a, b, size in blocks for step in range(size)]
    return pairs
