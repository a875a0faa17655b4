"""How a notebook is shown: pages of cells, outlines, and the selections that name cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.widget_state import models_in, with_text
from papermill_mcp.errors import CellNotFoundError, InvalidArgumentError
from papermill_mcp.services.outputs import OutputBudget, OutputView, show_outputs, summarise_outputs
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.results import ROWS
from papermill_mcp.utils.markdown import headings
from papermill_mcp.utils.text_utils import cell_name, one_line

_SELECTION_CHARS = 20_000
_TITLE_CHARS = 80


#: Characters of a source that the reply to an edit shows.
SOURCE_CHARS = 50_000


class OutlineRow(BaseModel):
    """One cell in a line."""

    index: int
    id: str | None = None
    cell_type: str
    first_line: str
    lines: int | None = None
    outputs: int | None = None
    stale: str | None = None


Outline = Annotated[list[OutlineRow], ROWS]


class CellView(BaseModel):
    """One cell as it is shown."""

    index: int
    id: str | None = None
    cell_type: str
    source: str
    execution_count: int | None = None
    tags: list[str] | None = None
    outputs: list[OutputView] | None = None
    truncated: bool = False
    omitted_chars: int | None = None
    """Of the source, when it alone is larger than a page."""
    stale: str | None = None
    """Why it is not as a run from the top would have it, if so."""


class NotebookView(BaseModel):
    """A notebook, or a page of it: cells, or rows of an outline."""

    path: str
    revision: str
    nbformat: int
    nbformat_minor: int
    kernel_name: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    cell_count: int
    cells: list[CellView]
    outline: list[OutlineRow] | None = None
    next_cells: str | None = None
    cells_left: int | None = None
    note: str | None = None
    _images: list[ShownImage] = PrivateAttr(default_factory=list)


class SourceView(BaseModel):
    """A cell without its outputs."""

    index: int
    id: str | None = None
    cell_type: str
    source: str
    omitted_chars: int | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None


def page(
    document: NotebookDocument, chosen: Sequence[int], outputs: str, budget: OutputBudget, *, first_output: int = 0
) -> tuple[list[CellView], list[int]]:
    """Cells until the budget ends, and the indexes that did not fit. Pictures go to `budget.pictures`.

    Sources are shown whole, but for a first cell that is larger than the budget: a page that shows nothing would repeat
    itself for ever.

    Args:
        first_output: the place of the first output to show of each cell.
    """
    shown: list[CellView] = []
    for number, index in enumerate(chosen):
        cell = document.cells[index]
        if shown and (budget.chars <= 0 or len(cell.source) > budget.chars):
            return shown, list(chosen[number:])
        view = cell_view(cell, index)
        if len(view.source) > budget.chars:
            view.omitted_chars = len(view.source) - budget.chars
            view.source = view.source[: budget.chars]
            view.truncated = True
        budget.chars -= len(view.source)
        found_outputs = with_text(cell.outputs, lambda: models_in(document.metadata)) if outputs != "none" else []
        if outputs == "summary":
            view.outputs = summarise_outputs(found_outputs) or None
            budget.chars = max(0, budget.chars - sum(len(o.text or "") + len(o.note or "") for o in view.outputs or []))
        elif outputs == "full":
            label = f"cell {cell_name(index, cell.cell_id)}"
            views = show_outputs(found_outputs, budget, label=label, first=first_output)
            view.outputs = views or None
            view.truncated = view.truncated or any(output.omitted_chars for output in views)
        budget.chars = max(0, budget.chars - _CELL_HEADER_CHARS)
        shown.append(view)
    return shown, []


#: Approximate characters of the line above a cell. Without it, 20,000 empty cells would fit into any page.
_CELL_HEADER_CHARS = 40


def outline_page(
    document: NotebookDocument, chosen: Sequence[int], max_chars: int
) -> tuple[list[OutlineRow], list[int]]:
    """Rows until the budget of characters ends, and the indexes that did not fit."""
    rows: list[OutlineRow] = []
    for number, index in enumerate(chosen):
        row = outline_row(document.cells[index], index, sizes=True)
        max_chars -= len(row.first_line) + _CELL_HEADER_CHARS
        if rows and max_chars < 0:
            return rows, list(chosen[number:])
        rows.append(row)
    return rows, []


def cell_view(cell: NotebookCell, index: int) -> CellView:
    """A cell without its outputs."""
    count = cell.member("execution_count")
    return CellView(
        index=index,
        id=cell.cell_id,
        cell_type=cell.cell_type,
        source=cell.source,
        execution_count=count if isinstance(count, int) else None,
        tags=cell.tags or None,
    )


def source_view(cell: NotebookCell, index: int, *, metadata: bool = False, max_chars: int = SOURCE_CHARS) -> SourceView:
    """A cell as an edit shows it, with at most `max_chars` characters of its source."""
    view = SourceView(
        index=index,
        id=cell.cell_id,
        cell_type=cell.cell_type,
        source=cell.source[:max_chars],
        omitted_chars=max(0, len(cell.source) - max_chars) or None,
        tags=cell.tags or None,
    )
    if metadata:
        view.metadata = {key: value for key, value in cell.metadata.items() if key != "tags"} or None
    return view


def outline_row(cell: NotebookCell, index: int, *, sizes: bool = False) -> OutlineRow:
    """A cell in a line; with `sizes`, the number of its lines and outputs too."""
    source = cell.source
    row = OutlineRow(index=index, id=cell.cell_id, cell_type=cell.cell_type, first_line=one_line(source, _TITLE_CHARS))
    if sizes:
        row.lines = source.count("\n") + 1 if source else 0
        row.outputs = cell.output_count if cell.cell_type == "code" else None
    return row


def outline_around(
    document: NotebookDocument, places: Iterable[int], *, reach: int = 1, limit: int = 12
) -> list[OutlineRow]:
    """A line for each cell near one of `places`, at most `limit`."""
    near = {at for place in places for at in range(place - reach, place + reach + 1) if 0 <= at < len(document.cells)}
    return [outline_row(document.cells[at], at) for at in sorted(near)[:limit]]


def insertion_point(index: int | None, count: int, display_path: str) -> int:
    """Where a new cell goes. Negative indexes count from the end, so -1 is before the last cell.

    Raises:
        CellNotFoundError: there is no such place.
    """
    if index is None:
        return count
    place = index if index >= 0 else count + index
    if not 0 <= place <= count:
        raise CellNotFoundError(
            f"{display_path} has no place {str(index)[:40]} for a cell",
            allowed=f"it has {count} cells, so an index from {-count} to {count}",
            state="nothing was changed",
        )
    return place


def select(document: NotebookDocument, selection: str | None, display_path: str) -> list[int]:
    """The indexes that a selection such as `0-9`, `3,5,-1` or `intro,plot` names, in its order, each once.

    Raises:
        InvalidArgumentError: it cannot be read.
        CellNotFoundError: it names a cell that is not there.
    """
    count = len(document.cells)
    if selection is None:
        return list(range(count))
    if not selection.strip():
        raise InvalidArgumentError("the selection of cells is empty", advice="leave `cells` out for all cells")
    if len(selection) > _SELECTION_CHARS:
        raise InvalidArgumentError(
            f"the selection has {len(selection):,} characters",
            allowed=f"at most {_SELECTION_CHARS:,}; ranges such as 0-99 are shorter",
        )
    ids = set(document.ids())
    found: dict[int, None] = {}
    for part in (part.strip() for part in selection.split(",")):
        span = re.fullmatch(r"(-?\d{1,9})\s*-\s*(-?\d{1,9})?", part)
        if not part:
            raise InvalidArgumentError(
                f"the selection {selection[:100]!r} has an empty part",
                allowed='a selection reads like "0-9", "3,5,-1", "12-" or cell ids',
            )
        if part in ids:
            found[document.find(cell_id=part, display_path=display_path)] = None
        elif re.fullmatch(r"-?\d{1,4000}", part):  # as many digits as Python reads
            found[document.find(index=int(part), display_path=display_path)] = None
        elif span:
            first = document.find(index=int(span.group(1)), display_path=display_path)
            last = document.find(index=int(span.group(2)), display_path=display_path) if span.group(2) else count - 1
            if last < first:
                raise InvalidArgumentError(f"the selection {part!r} ends before it begins")
            if len(found) < count:
                found.update(dict.fromkeys(range(first, last + 1)))
        else:
            document.find(cell_id=part, display_path=display_path)
    return list(found)


def ranges(indexes: Sequence[int]) -> str:
    """Indexes as a selection: `3-9,12`."""
    spans: list[list[int]] = []
    for index in indexes:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def short_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Notebook metadata without the members of the header and without very long ones."""
    short = {}
    for key, value in metadata.items():
        if key in ("kernelspec", "language_info"):
            continue
        text = str(value)
        short[key] = value if len(text) <= 500 else f"({len(text)} characters)"
    return short


def outline_headings(document: NotebookDocument, *, limit: int) -> tuple[list[tuple[int, str | None, int, str]], int]:
    """The Markdown headings as index, id, level and text, at most `limit`, and how many there are in all."""
    found = [
        (index, cell.cell_id, level, text)
        for index, cell in enumerate(document.cells)
        if cell.cell_type == "markdown"
        for level, text in headings(cell.source)
    ]
    return found[:limit], len(found)


Outputs = Literal["none", "summary", "full"]
