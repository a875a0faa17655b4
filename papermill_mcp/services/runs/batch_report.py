"""The report of a batch: a page with its table, failures and plots, beside its outputs."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.pictures.images import WithheldError
from papermill_mcp.core.reports.model import (
    Cell,
    Column,
    Fact,
    Failure,
    Link,
    Picture,
    PictureGroup,
    Report,
    Row,
    Table,
    address_of,
    place_of,
)
from papermill_mcp.core.runs.snapshot import BatchSnapshot, RowState
from papermill_mcp.errors import ServerError
from papermill_mcp.services.outputs import OutputBudget, show_error
from papermill_mcp.services.runs.batch_summary import failure_groups, is_number, number_spans, order_of, varying
from papermill_mcp.services.runs.run_pictures import RunPictures, labels_of, short_text
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.text_utils import cell_name, count_noun, human_size, iso_time, one_line

if TYPE_CHECKING:
    from papermill_mcp.core.pictures import contact_sheet as sheets
    from papermill_mcp.core.pictures import drawing, last_picture
    from papermill_mcp.core.reports import file as files
else:
    drawing = lazy("papermill_mcp.core.pictures.drawing")
    files = lazy("papermill_mcp.core.reports.file")
    last_picture = lazy("papermill_mcp.core.pictures.last_picture")
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")

#: Pictures of a report, pixels of a side, bytes of all of them, and seconds for the reading of outputs.
MAX_PICTURES = 200
PICTURE_SIDE = 480
MAX_PICTURE_BYTES = 8_000_000
SECONDS = 20.0

#: Columns of parameters that vary and of recorded values. Characters of a text in a cell and of a traceback.
_MAX_COLUMNS = 30
_TEXT_CHARS = 200
_TRACEBACK_CHARS = 4_000

#: Notebooks in the head, and groups of pictures by the value of a parameter.
_MAX_NOTEBOOKS = 10
_MAX_GROUPS = 20


@dataclass
class _Seen:
    """Pictures and errors in the outputs of a batch, by the number of the run."""

    pictures: dict[int, last_picture.SmallPicture] = field(default_factory=dict)
    errors: dict[int, tuple[str, str]] = field(default_factory=dict)
    bytes: int = 0
    unseen: Counter[str] = field(default_factory=Counter)


class BatchReports:
    """Writes the reports of batches."""

    def __init__(self, config: Config, pictures: RunPictures) -> None:
        self._pictures = pictures
        self._budget = OutputBudget.of(config)
        self._budget.error_chars, self._budget.error_type = _TRACEBACK_CHARS, "full"

    async def write(self, batch: BatchSnapshot, rows: Sequence[RowState], directory: Path) -> Path:
        """Write the report of a batch into the directory of its table. Returns its path.

        Args:
            rows: the runs that are over.

        Raises:
            ServerError, OSError: it could not be written.
        """
        errors = {row.number: row.error or str(row.status) for row in rows if row.failed}
        seen = await self._seen(rows, {group.runs[0] for group in failure_groups(errors.items())})

        def write() -> Path:
            return files.write_report(_report(batch, rows, errors, seen, directory), directory)

        return await asyncio.to_thread(write)

    async def _seen(self, rows: Sequence[RowState], explained: set[int]) -> _Seen:
        """The pictures of at most `MAX_PICTURES` runs, failed ones first, and the errors of some runs."""
        await imported(sheets, drawing, last_picture, files)
        seen, end = _Seen(), time.monotonic() + SECONDS
        places = sheets.spread(len(rows), MAX_PICTURES, first=[place for place, row in enumerate(rows) if row.failed])
        chosen = {rows[place].number: rows[place] for place in places}
        seen.unseen["have no room"] = len(rows) - len(chosen)
        others = {row.number: row for row in rows if row.number in explained and row.number not in chosen}
        drawer = drawing.Drawer()
        try:
            for row in [*chosen.values(), *others.values()]:
                if seen.bytes > MAX_PICTURE_BYTES:
                    reason = f"have no room, since pictures take {human_size(MAX_PICTURE_BYTES)}"
                elif time.monotonic() > end:
                    reason = f"were not read within {SECONDS:g} s"
                else:
                    await self._look(row, seen, drawer, picture=row.number in chosen)
                    continue
                seen.unseen[reason] += row.number in chosen
        finally:
            await asyncio.to_thread(drawer.close)
        return seen

    async def _look(self, row: RowState, seen: _Seen, drawer: drawing.Drawer, *, picture: bool) -> None:
        def look(document: NotebookDocument) -> None:
            if row.failed and (error := self._last_error(document)) is not None:
                seen.errors[row.number] = error
            if picture and (display := last_picture.last_display(document)) is not None:
                small = last_picture.for_page(display, PICTURE_SIDE, drawer)
                seen.pictures[row.number] = small
                seen.bytes += len(small.data)

        try:
            await self._pictures.look(row.output_file, look)
        except WithheldError:
            seen.unseen["have one that cannot be shown"] += 1
        except ServerError:
            seen.unseen["have an output that cannot be read"] += 1

    def _last_error(self, document: NotebookDocument) -> tuple[str, str] | None:
        """The cell of the last error of a notebook, and its traceback."""
        for index in reversed(range(len(document.cells))):
            cell = document.cells[index]
            if cell.cell_type != "code" or not cell.output_count:
                continue
            for output in reversed(cell.read_outputs()):
                if output.get("output_type") == "error":
                    return cell_name(index, cell.cell_id), show_error(output, self._budget).traceback
        return None


def _report(
    batch: BatchSnapshot, rows: Sequence[RowState], errors: Mapping[int, str], seen: _Seen, directory: Path
) -> Report:
    notes = [f"of the runs without a picture, {number} {reason}" for reason, number in seen.unseen.items() if number]
    table, left_out = _table(rows, errors, directory)
    if left_out:
        notes.append(f"{count_noun(left_out, 'more column')} of parameters and recorded values: the table has them")
    if len(rows) < (batch.total or 0):
        notes.append(f"{(batch.total or 0) - len(rows)} of {count_noun(batch.total or 0, 'run')} did not begin")
    named = sorted({row.file for row in rows} or {batch.file or directory})
    title = named[0].stem if len(named) == 1 else f"{named[0].stem} and {count_noun(len(named) - 1, 'more notebook')}"
    return Report(
        title=f"Batch of {one_line(title, 100)}",
        identity=batch.execution_id,
        noun="run",
        facts=_facts(batch, rows, named, directory),
        tables=[one for one in (_numbers(rows), table) if one is not None],
        failures=_failures(rows, errors, seen),
        pictures=_groups(rows, seen, directory),
        notes=notes,
    )


def _facts(batch: BatchSnapshot, rows: Sequence[RowState], named: Sequence[Path], directory: Path) -> list[Fact]:
    counts = ", ".join(f"{number} {status}" for status, number in Counter(row.status for row in rows).most_common())
    kept = sum(row.kept for row in rows)
    varies = set(varying([row.parameters for row in rows]))
    same = [
        f"{name} = {short_text(value, _TEXT_CHARS)}"
        for name, value in (rows[0].parameters.items() if rows else ())
        if name not in varies
    ]
    near = batch.table_url is None  # beside a report in an object store there is no notebook
    notebooks: list[str | Link] = [
        Link(os.path.relpath(path, directory), address_of(path, directory)) if near else path.name
        for path in named[:_MAX_NOTEBOOKS]
    ]
    if len(named) > _MAX_NOTEBOOKS:
        notebooks.append(f"and {len(named) - _MAX_NOTEBOOKS} more")
    tables: list[str | Link] = []
    if batch.output_file is not None:
        tables = [
            Link(path.name, address_of(path, directory))
            for path in (batch.output_file, batch.output_file.with_suffix(".jsonl"), batch.typed_table)
            if path is not None
        ]
    facts: list[tuple[str, Sequence[str | Link]]] = [
        ("Notebook" if len(named) == 1 else "Notebooks", notebooks),
        ("Runs", [f"{len(rows)}: {counts}" + (f"; {kept} kept from an earlier batch" if kept else "")]),
        ("Started", [iso_time(batch.started_at)]),
        ("Duration", [f"{batch.seconds:.1f} s"]),
        ("Kernel", [one_line(batch.kernel_name, 100)] if batch.kernel_name else []),
        ("Python", [one_line(batch.python, 300)] if batch.python else []),
        ("Same in all runs", same[:_MAX_COLUMNS]),
        ("Table of results", tables),
        ("Batch", [batch.execution_id]),
    ]
    return [Fact(name, values) for name, values in facts if values]


def _numbers(rows: Sequence[RowState]) -> Table | None:
    """Each recorded number over all runs."""
    spans = number_spans((row.number, row.recorded or {}) for row in rows)
    if not spans:
        return None
    names = ("runs", "minimum", "median", "maximum")
    return Table(
        "Recorded numbers",
        [Column("number"), *(Column(name, numbers=True) for name in names)],
        [
            Row(
                [
                    Cell(one_line(span.name, _TEXT_CHARS)),
                    _number_cell(span.count),
                    _number_cell(span.min, run=span.min_run),
                    _number_cell(span.median),
                    _number_cell(span.max, run=span.max_run),
                ]
            )
            for span in spans
        ],
    )


def _table(rows: Sequence[RowState], errors: Mapping[int, str], directory: Path) -> tuple[Table, int]:
    """The runs with their parameters and recorded values, and how many columns have no room."""
    names = varying([row.parameters for row in rows])
    recorded = [*dict.fromkeys(name for row in rows for name in row.recorded or {})]
    columns: list[tuple[Column, list[Any]]] = []
    if len({row.file for row in rows}) > 1:
        columns.append((Column("notebook"), [row.file.stem for row in rows]))
    columns += [_column(name, [row.parameters.get(name) for row in rows]) for name in names[:_MAX_COLUMNS]]
    columns += [_column(name, [(row.recorded or {}).get(name) for row in rows]) for name in recorded[:_MAX_COLUMNS]]
    headings = [
        Column("run", numbers=True),
        Column("status"),
        *(column for column, _ in columns),
        Column("seconds", numbers=True),
        Column("output"),
        *([Column("error")] if errors else []),
    ]
    made = []
    for place, row in enumerate(rows):
        cells = [_number_cell(row.number), Cell(f"{row.status}, kept" if row.kept else str(row.status))]
        cells += [_cell(values[place]) for _, values in columns]
        cells.append(Cell("") if row.duration is None else Cell(f"{row.duration:.2f}", row.duration))
        there = not row.failed or row.output_file.exists()
        cells.append(Cell(row.output_file.name, address=address_of(row.output_file, directory) if there else None))
        if errors:
            error = errors.get(row.number, "")
            where = f"cell {row.failed_cell}: " if error and row.failed_cell is not None else ""
            cells.append(Cell(where + one_line(error, _TEXT_CHARS) if error else ""))
        made.append(Row(cells, key=_key(row.number), failed=row.failed))
    left_out = max(len(names) - _MAX_COLUMNS, 0) + max(len(recorded) - _MAX_COLUMNS, 0)
    return Table("Runs", headings, made, main=True), left_out


def _failures(rows: Sequence[RowState], errors: Mapping[int, str], seen: _Seen) -> list[Failure]:
    failures = []
    for group in failure_groups(errors.items()):
        explained = next((number for number in group.runs if number in seen.errors), None)
        cell, traceback = seen.errors[explained] if explained is not None else ("", "")
        failures.append(
            Failure(
                error=one_line(group.error, 2 * _TEXT_CHARS),
                count=group.count,
                rows=[Link(f"run {number}", place_of(_key(number))) for number in group.runs],
                place=f"run {explained}, cell {cell}" if traceback else "",
                traceback=traceback,
            )
        )
    return failures


def _groups(rows: Sequence[RowState], seen: _Seen, directory: Path) -> list[PictureGroup]:
    """The pictures in the order of the parameters that vary, grouped by the first of several."""
    names = varying([row.parameters for row in rows])
    labels = labels_of(rows)
    pictured = [row for row in rows if row.number in seen.pictures]

    def picture(row: RowState) -> Picture:
        return Picture(
            image=seen.pictures[row.number],
            caption=labels[row.number],
            alt=f"Last picture of {labels[row.number]}",
            address=address_of(row.output_file, directory),
            key=_key(row.number),
        )

    def title(row: RowState) -> str:
        if len(names) < 2:
            return ""
        return f"{one_line(names[0], 60)} = {short_text(row.parameters.get(names[0]))}"

    pictured.sort(key=lambda row: [str(row.file), *(order_of(row.parameters.get(name)) for name in names)])
    groups: dict[str, list[Picture]] = {}
    if len({title(row) for row in pictured}) > _MAX_GROUPS:
        groups[""] = [picture(row) for row in pictured]
    else:
        for row in pictured:
            groups.setdefault(title(row), []).append(picture(row))
    return [PictureGroup(name, pictures) for name, pictures in groups.items()]


def _column(name: str, values: Sequence[Any]) -> tuple[Column, list[Any]]:
    numbers = all(value is None or is_number(value) for value in values)
    return Column(one_line(name, 60), numbers=numbers), list(values)


def _cell(value: Any) -> Cell:
    if is_number(value):
        return _number_cell(value)
    return Cell("" if value is None else short_text(value, _TEXT_CHARS))


def _number_cell(value: float | None, *, run: int | None = None) -> Cell:
    if value is None:
        return Cell("")
    order = float(value) if abs(value) < 1e308 else None  # NaN and infinities have no order
    text = str(value) if isinstance(value, int) else f"{value:.6g}"
    return Cell(text, order) if run is None else Cell(f"{text} (run {run})", order, place_of(_key(run)))


def _key(number: int) -> str:
    return f"run-{number}"
