"""Tables as lines of text: the first and the last rows and columns, and counts of the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from papermill_mcp.utils.text_utils import count_noun

MAX_ROWS = 20
MAX_COLUMNS = 12

#: The end of the line that tells the size of a table of which a part is missing.
LEFT_OUT = " left out"

_LAST_ROWS = 7
_LAST_COLUMNS = 2
_FIRST_ROWS = MAX_ROWS - _LAST_ROWS
_COUNTED_ROWS = 5
"""A table with more rows than this ends with its size."""
_CELL_CHARS = 120
_KEPT_COLUMNS = 1_000


class Table:
    """A table that is given row by row. It keeps only the rows that it shows; all of them if it is `whole`."""

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._heads = 0
        self._first: list[list[str]] = []
        self._last: deque[list[str]] = deque(maxlen=_LAST_ROWS)
        self._rows = 0
        self._width = 0

    def add(self, row: Sequence[str], *, head: bool = False) -> None:
        """Add the next row. The first one holds the names of the columns, and so do further ones with `head`."""
        self._rows += 1
        self._heads += head or self._rows == 1
        self._width = max(self._width, len(row))
        kept = [_cell(text) for text in row[:_KEPT_COLUMNS]]
        if self._whole or len(self._first) < self._heads + _FIRST_ROWS:
            self._first.append(kept)
        else:
            self._last.append(kept)

    def skip(self, number: int) -> None:
        """Count rows that are not shown."""
        self._rows += number

    def lines(self) -> list[str]:
        """The table with `|` between its columns. A table of one column is plain lines."""
        rows = [*self._first, *self._last]
        left_out = self._rows - len(rows)
        if self._width <= 1:
            lines = [cell for row in rows for cell in row if cell]
            return [*lines, f"… {count_noun(left_out, 'row')} left out …"] if left_out else lines
        lines = [self._line(row) for row in rows]
        if left_out:
            lines.insert(len(self._first), f"| … {count_noun(left_out, 'row')} left out … |")
        if lines:
            lines.insert(1, self._line(["---"] * self._width))
        return [*lines, *self._size(left_out)]

    def _line(self, row: list[str]) -> str:
        cells = [*row, *[""] * (min(self._width, _KEPT_COLUMNS) - len(row))]
        if self._width > MAX_COLUMNS and not self._whole:
            cells = [*cells[: MAX_COLUMNS - _LAST_COLUMNS], "…", *cells[-_LAST_COLUMNS:]]
        return f"| {' | '.join(cells)} |"

    def _size(self, left_out: int) -> list[str]:
        hidden = [count_noun(left_out, "row")] if left_out else []
        if self._width > MAX_COLUMNS:
            hidden.append(count_noun(self._width - MAX_COLUMNS, "column"))
        number = self._rows - self._heads
        if self._whole or (not hidden and number <= _COUNTED_ROWS):
            return []
        size = f"{count_noun(number, 'row')} × {count_noun(self._width, 'column')}"
        return [f"{size}, {' and '.join(hidden)}{LEFT_OUT}" if hidden else size]


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose first row holds the names of the columns."""
    table = Table()
    for row in rows:
        table.add(row)
    return table.lines()


def records_lines(head: Sequence[str], number: int, row_at: Callable[[int], Sequence[str]]) -> list[str]:
    """The same for `number` rows, of which only the shown ones are made."""
    table = Table()
    table.add(head)
    last = max(number - _LAST_ROWS, min(number, _FIRST_ROWS))
    for place in range(min(number, _FIRST_ROWS)):
        table.add(row_at(place))
    table.skip(last - min(number, _FIRST_ROWS))
    for place in range(last, number):
        table.add(row_at(place))
    return table.lines()


def _cell(text: str) -> str:
    words = " ".join(text[: 4 * _CELL_CHARS].split())
    if len(words) > _CELL_CHARS:
        words = f"{words[: _CELL_CHARS - 1]}…"
    return words.replace("|", "\\|")
