"""The table and the report of a verified directory: a row for each notebook, the differences, and pictures in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.pictures.images import WithheldError
from papermill_mcp.core.runs.snapshot import NotebookVerdict
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import count_noun, iso_time

if TYPE_CHECKING:
    from papermill_mcp.core.pictures import last_picture
    from papermill_mcp.core.pictures import side_by_side as pairs
    from papermill_mcp.core.reports import file as files
    from papermill_mcp.core.reports import model
    from papermill_mcp.core.runs import table as tables
else:
    files = lazy("papermill_mcp.core.reports.file")
    last_picture = lazy("papermill_mcp.core.pictures.last_picture")
    model = lazy("papermill_mcp.core.reports.model")
    pairs = lazy("papermill_mcp.core.pictures.side_by_side")
    tables = lazy("papermill_mcp.core.runs.table")

#: Pairs of pictures of a report, pixels of a side of a pair, and bytes of all of them.
_MAX_PAIRS = 100
_PAIR_SIDE = 900
_MAX_BYTES = 8_000_000

#: Characters of the differences of one notebook.
_CHARS = 8_000

_BAD = ("refused", "fails")


def write_results(
    rows: Sequence[NotebookVerdict],
    directory: Path,
    *,
    about: Path,
    identity: str,
    started: datetime,
    memory: Path | None,
) -> tuple[Path, Path]:
    """Write the table and the report. Blocks.

    Args:
        directory: for both; it exists.
        about: the directory that was verified.
        memory: a private directory for `ResultsTable`.

    Returns:
        The path of the table, and that of the report.

    Raises:
        ServerError, OSError: one could not be written.
    """
    table = tables.ResultsTable(directory, identity, memory)
    table.write([_row(number, row, identity, started) for number, row in enumerate(rows)], durable=True)
    report = _report(rows, directory, about=about, identity=identity, started=started, table=table.path)
    return table.path, files.write_report(report, directory)


def _row(number: int, row: NotebookVerdict, identity: str, started: datetime) -> dict[str, Any]:
    counts = {f"result.{name}": value for name, value in row.counts.items()}
    return {
        "batch": identity,
        "run": number,
        "status": row.verdict,
        "started": iso_time(started),
        "duration": round(row.seconds, 3),
        "input": row.path,
        "message": row.text,
    } | counts


def _report(
    rows: Sequence[NotebookVerdict], directory: Path, *, about: Path, identity: str, started: datetime, table: Path
) -> model.Report:
    counts = Counter(row.verdict for row in rows)
    names = [*dict.fromkeys(name for row in rows for name in row.counts)]
    groups, left_out = _pictures(rows, directory, about)
    columns = [model.Column("notebook"), model.Column("verdict"), model.Column("seconds", numbers=True)]
    main = model.Table(
        "Notebooks",
        [*columns, *(model.Column(name, numbers=True) for name in names)],
        [
            model.Row(
                [
                    model.Cell(row.path, address=model.address_of(_file(row, about), directory)),
                    model.Cell(row.verdict),
                    model.Cell(f"{row.seconds:.1f}", order=row.seconds),
                    *(model.Cell(str(row.counts.get(name, "")), order=row.counts.get(name, 0)) for name in names),
                ],
                key=f"notebook-{number}",
                failed=row.verdict in _BAD,
            )
            for number, row in enumerate(rows)
        ],
        main=True,
    )
    facts = [
        model.Fact("Directory", [str(about.name)]),
        model.Fact("Notebooks", [f"{len(rows)}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common())]),
        model.Fact("Started", [iso_time(started)]),
        model.Fact("Table of results", [model.Link(table.name, model.address_of(table, directory))]),
    ]
    return model.Report(
        title=f"Verification of {about.name}",
        identity=identity,
        noun="notebook",
        facts=facts,
        tables=[main],
        failures=[
            model.Failure(
                error=f"{row.path}: {row.verdict}",
                count=1,
                rows=[model.Link(row.path, model.place_of(f"notebook-{number}"))],
                place="differences",
                traceback=_differences(row),
            )
            for number, row in enumerate(rows)
            if row.verdict != "same"
        ],
        pictures=groups,
        notes=[f"{count_noun(left_out, 'pair')} of pictures have no room"] if left_out else [],
    )


def _file(row: NotebookVerdict, about: Path) -> Path:
    """The place of a notebook, whose path is as clients name it."""
    return row.file if row.file is not None else about / row.path


def _differences(row: NotebookVerdict) -> str:
    lines = [] if row.cells else [row.text or ""]
    for cell in row.cells:
        if cell.verdict in ("same", "ignored"):
            continue
        lines.append(f"cell {cell.index}: {cell.verdict}")
        lines += [f"{found.what}: {found.text}" for found in cell.differences]
    return "\n".join(lines)[:_CHARS]


def _pictures(
    rows: Sequence[NotebookVerdict], directory: Path, about: Path
) -> tuple[Sequence[model.PictureGroup], int]:
    """The pictures that differ, before and after, and how many pairs are left out."""
    groups, size, number, left_out = [], 0, 0, 0
    for place, row in enumerate(rows):
        pictures = []
        for cell in row.cells:
            for found in cell.differences:
                if found.pictures is None:
                    continue
                if number >= _MAX_PAIRS or size > _MAX_BYTES:
                    left_out += 1
                    continue
                try:
                    data, width, height = pairs.side_by_side(*found.pictures, _PAIR_SIDE)
                except WithheldError:
                    left_out += 1
                    continue
                number, size = number + 1, size + len(data)
                caption = f"cell {cell.index}: {found.text} (before | after)"
                image = last_picture.SmallPicture("image/png", data, width, height)
                address = model.address_of(_file(row, about), directory)
                pictures.append(model.Picture(image, caption, caption, address, f"notebook-{place}"))
        if pictures:
            groups.append(model.PictureGroup(row.path, pictures))
    return groups, left_out
