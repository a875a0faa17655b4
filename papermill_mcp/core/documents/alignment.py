"""Which cell of a notebook is which in a later version of it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from papermill_mcp.core.documents.document import NotebookCell

#: Pairs of cells that a comparison may look at. Larger changes are aligned from both ends only.
_MOST_PAIRS = 4_000_000

#: Pairs of changed cells between two unchanged ones that may be compared, and words of a source that are.
_MOST_LIKENESSES = 10_000
_MOST_WORDS = 2_000

#: Pairs of words that may be compared in their order; of further sources the words count alone.
_MOST_WORD_PAIRS = 2_000_000

#: The share of words that two sources must have in common to be one cell, and that of the only cell at its place.
_ALIKE = 0.5
_ALIKE_ALONE = 0.35

#: Signs count in code. In Markdown any two headings would share one.
_WORDS = {"code": re.compile(r"\w+|[^\w\s]"), "markdown": re.compile(r"\w+")}


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


def corresponding(old: Sequence[NotebookCell], new: Sequence[NotebookCell]) -> dict[int, int]:
    """The new index of each old cell, for a person: a cell may have another id, or no id and another source.

    Use `aligned` where outputs follow their cells. Beyond it, a cell is found by its source under another id. Where
    the notebooks share no id, cells between the same neighbours are one cell if their sources are alike.
    """
    found = aligned(old, new)
    for before, after in _gaps(found, len(old), len(new)):
        pairs = _matches([_text(old[index]) for index in before], [_text(new[index]) for index in after])
        found |= {before[one]: after[other] for one, other in pairs}
    found |= _elsewhere(old, new, found)
    if not by_id(old).keys() & by_id(new).keys():
        for before, after in _gaps(found, len(old), len(new)):
            pairs = _alike([old[index] for index in before], [new[index] for index in after])
            found |= {before[one]: after[other] for one, other in pairs}
    return found


def in_order(found: Mapping[int, int]) -> set[int]:
    """Most old cells whose new places stand in the same order. The others were moved."""
    ends: list[int] = []  # the last place of the best row of each length
    rows: list[int] = []  # the cell at that place
    previous: dict[int, int | None] = {}
    for origin in sorted(found):
        length = bisect_left(ends, found[origin])
        previous[origin] = rows[length - 1] if length else None
        ends[length : length + 1] = [found[origin]]
        rows[length : length + 1] = [origin]
    kept: set[int] = set()
    one = rows[-1] if rows else None
    while one is not None:
        kept.add(one)
        one = previous[one]
    return kept


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


def _text(cell: NotebookCell) -> tuple[str, str]:
    return cell.cell_type, cell.source


def _gaps(found: Mapping[int, int], olds: int, news: int) -> Iterator[tuple[list[int], list[int]]]:
    """The cells without a counterpart between two neighbours that have one: old and new indexes, neither empty."""
    taken = set(found.values())
    start, new_start = 0, 0
    for origin, place in [*((one, found[one]) for one in sorted(in_order(found))), (olds, news)]:
        before = [index for index in range(start, origin) if index not in found]
        after = [index for index in range(new_start, place) if index not in taken]
        if before and after:
            yield before, after
        start, new_start = origin + 1, place + 1


def _elsewhere(
    old: Sequence[NotebookCell], new: Sequence[NotebookCell], found: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Cells at another place, of a text that one old and one new cell has."""
    taken = set(found.values())
    olds = [(index, _text(cell)) for index, cell in enumerate(old) if index not in found and cell.source.strip()]
    news = {_text(cell): index for index, cell in enumerate(new) if index not in taken}
    counts = Counter(text for _, text in olds)
    new_counts = Counter(_text(cell) for index, cell in enumerate(new) if index not in taken)
    yield from ((index, news[text]) for index, text in olds if counts[text] == new_counts[text] == 1)


def _alike(old: Sequence[NotebookCell], new: Sequence[NotebookCell]) -> list[tuple[int, int]]:
    """Pairs in order whose sources have most in common."""
    if len(old) * len(new) > _MOST_LIKENESSES:
        return []
    alone = len(old) == len(new) == 1
    likeness = _Likeness(_ALIKE_ALONE if alone else _ALIKE)
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for one in reversed(range(len(old))):
        for other in reversed(range(len(new))):
            both = likeness.of(old[one], new[other])
            best[one][other] = max(
                best[one + 1][other], best[one][other + 1], both + best[one + 1][other + 1] if both else 0
            )
    pairs, one, other = [], 0, 0
    while one < len(old) and other < len(new):
        if best[one][other] == best[one + 1][other]:
            one += 1
        elif best[one][other] == best[one][other + 1]:
            other += 1
        else:
            pairs.append((one, other))
            one, other = one + 1, other + 1
    return pairs


class _Likeness:
    """How alike sources are, from 0 to 1; 0 below a least value."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._left = _MOST_WORD_PAIRS
        self._words: dict[str, tuple[list[str], Counter[str]]] = {}

    def of(self, one: NotebookCell, other: NotebookCell) -> float:
        if one.source == other.source:
            return 1.0  # under another type
        if one.cell_type != other.cell_type:
            return 0.0
        (words, counts), (others, other_counts) = self._of(one), self._of(other)
        size = len(words) + len(others)
        ratio = 2 * (counts & other_counts).total() / size if size else 0.0
        self._left -= len(words) * len(others)
        if ratio >= self._least and self._left > 0:
            ratio = SequenceMatcher(None, words, others, autojunk=False).ratio()
        return ratio if ratio >= self._least else 0.0

    def _of(self, cell: NotebookCell) -> tuple[list[str], Counter[str]]:
        if cell.source not in self._words:
            words = _WORDS.get(cell.cell_type, _WORDS["markdown"]).findall(cell.source)[:_MOST_WORDS]
            self._words[cell.source] = words, Counter(words)
        return self._words[cell.source]
