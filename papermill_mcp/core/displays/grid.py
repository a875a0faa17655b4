"""A table of a page while it is read."""

from __future__ import annotations

from papermill_mcp.core.displays.tables import Table
from papermill_mcp.core.displays.tags import BLOCK, Part, attributes_of

_MAX_SPAN = 1_000
_MAX_CELLS = 200_000


class Grid:
    """A table of a page while it is read. A table within a cell is text of that cell."""

    def __init__(self, whole: bool) -> None:
        self._table = Table(whole=whole)
        self._head = False
        self._above: list[str] = []
        self._below: list[str] = []
        self._row: list[str] | None = None
        self._cell: list[str] | None = None
        self._spans = (1, 1)
        self._caption: list[str] | None = None
        self._held: dict[int, tuple[int, str]] = {}
        """By column: rows that a cell from above still covers, and its text."""
        self._rows = 0
        self._cells = 0

    def text(self, text: str) -> None:
        target = self._cell if self._cell is not None else self._caption
        if target is not None:
            target.append(text)

    def tag(self, part: Part, *, nested: bool) -> None:
        name = part.tag
        if nested:
            self.text({"tr": "; ", "td": " ", "th": " "}.get(name, " ") if not part.closes else " ")
        elif name == "caption":
            self._end_caption()
            self._caption = None if part.closes else []
        elif name in ("td", "th"):
            self._end_cell()
            if not part.closes:
                self._row = [] if self._row is None else self._row
                self._cell = []
                attributes = attributes_of(part.attributes) if "span" in part.attributes else {}
                spans = _span(attributes.get("colspan")), _span(attributes.get("rowspan"))
                self._spans = spans if self._cells <= _MAX_CELLS else (1, 1)
        elif name in ("tr", "thead", "tbody", "tfoot"):
            self._end_row()
            if name != "tr":
                self._head = name == "thead" and not part.closes
        elif BLOCK.fullmatch(name) or name == "br":
            self.text(" ")

    def lines(self) -> list[str]:
        """The lines of the table, with its caption above."""
        self._end_row()
        self._end_caption()
        return [*self._above, *self._table.lines(), *self._below]

    def _end_caption(self) -> None:
        if self._caption and (text := " ".join("".join(self._caption).split())):
            self._above.insert(0, text[:500])
        self._caption = None

    def _end_cell(self) -> None:
        if self._cell is None or self._row is None:
            return
        text = "".join(self._cell)
        self._cell = None
        self._fill_held()
        columns, rows = self._spans
        for _ in range(columns):
            if rows > 1:
                self._held[len(self._row)] = (rows - 1, text)
            self._append(self._row, text)

    def _append(self, row: list[str], text: str) -> None:
        row.append(text)
        self._cells += 1
        if self._cells > _MAX_CELLS:  # a few cells that claim to cover millions
            self._held.clear()
            self._spans = (1, 1)

    def _fill_held(self) -> None:
        while self._row is not None and len(self._row) in self._held:
            rows, text = self._held.pop(len(self._row))
            if rows > 1:
                self._held[len(self._row)] = (rows - 1, text)
            self._append(self._row, text)

    def _end_row(self) -> None:
        self._end_cell()
        if self._row is None:
            return
        self._fill_held()
        row, self._row = self._row, None
        spans_all = len(row) > 1 and self._spans[0] == len(row)
        if spans_all:  # a title above, or a note below
            (self._below if self._rows else self._above).append(" ".join(row[0].split())[:500])
        elif any(text.strip() for text in row):
            self._rows += 1
            self._table.add(row, head=self._head)


def _span(text: str | None) -> int:
    """Columns or rows that a cell covers."""
    return max(1, min(int(text), _MAX_SPAN)) if text and text.isdecimal() and len(text) < 6 else 1
