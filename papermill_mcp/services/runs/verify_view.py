"""How verifications are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from papermill_mcp.core.pictures.images import WithheldError
from papermill_mcp.core.runs.snapshot import DifferenceState, NotebookVerdict, VerdictState, VerifySnapshot
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.runs.view import RunView, RunViewer, view_of
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import cell_name, clean_text, count_noun, head_and_tail, one_line

if TYPE_CHECKING:
    from papermill_mcp.core.pictures import side_by_side as pairs
else:
    pairs = lazy("papermill_mcp.core.pictures.side_by_side")

#: Characters of the differences of one cell.
_CELL_CHARS = 1500

#: Numbers that are named of one cell.
_VALUES = 5

_QUIET = ("same", "ignored")

#: Notebooks of a directory in a reply, and the verdicts that stand first.
_NOTEBOOKS = 100
_WORST = ("refused", "fails")


class ValuePair(BaseModel):
    """A number that differs: saved, fresh, and their distance."""

    before: str
    after: str
    distance: float | None = None


class VerdictRow(BaseModel):
    """The verdict on a cell. `diff`: unified, or a sentence, for each output that differs."""

    index: int
    id: str | None = None
    verdict: str
    diff: str | None = None
    values: list[ValuePair] | None = None


class NotebookRow(BaseModel):
    """The verdict on a notebook of a directory."""

    path: str
    verdict: str
    counts: dict[str, int] | None = None
    duration: float
    first: str | None = None


class VerifyView(RunView):
    """A verification. `cells` are those that are not `same`; `counts` are of all, by verdict.

    Of a directory, `notebooks` are those that are not `same`, and `counts` are of notebooks.
    """

    path: str
    revision: str | None = None
    against: str | None = None
    verdict: str | None = None
    counts: dict[str, int] | None = None
    cells: list[VerdictRow] | None = None
    notebooks: list[NotebookRow] | None = None
    results: str | None = None
    report: str | None = None


@view_of.register
def show_verification(run: VerifySnapshot, viewer: RunViewer) -> VerifyView:
    """The view of a verification: the cells with differences first, in full as far as the budget goes."""
    view = VerifyView(**viewer.head(run), path=viewer.path(run.file))
    view.revision, view.against = run.revision, run.against
    view.verdict, view.counts = run.verdict, dict(run.counts) or None
    if run.notebooks is not None:
        _fill_directory(view, run.notebooks, viewer)
        view.results, view.report = viewer.path(run.output_file) or None, viewer.path(run.report_file) or None
        return view
    rows, left = [], 0
    told = [one for one in run.verdicts if one.verdict not in _QUIET]
    for one in sorted(told, key=lambda one: not one.differences):
        if viewer.budget.chars <= 0:
            left += 1
            continue
        rows.append(_row(one, viewer, numeric=run.numeric))
    view.cells = rows or None
    if left:
        view.add_note(f"{count_noun(left, 'more cell')} that differ are not shown; max_output_chars limits a reply")
    return view


def _fill_directory(view: VerifyView, rows: Sequence[NotebookVerdict], viewer: RunViewer) -> None:
    view.revision = None
    bad = sorted((row for row in rows if row.verdict != "same"), key=lambda row: row.verdict not in _WORST)
    view.notebooks = [
        NotebookRow(
            path=row.path,
            verdict=row.verdict,
            counts=dict(row.counts) or None,
            duration=round(row.seconds, 2),
            first=one_line(row.text.replace("\n", " "), 200) if row.text is not None else None,
        )
        for row in bad[:_NOTEBOOKS]
    ] or None
    if len(bad) > _NOTEBOOKS:
        view.add_note(f"{count_noun(len(bad) - _NOTEBOOKS, 'more notebook')} that differ are not shown")
    if bad and view.status not in ("queued", "running"):
        view.add_note(f'verify_notebook(path="{bad[0].path}") shows the differences of one notebook')


def _row(one: VerdictState, viewer: RunViewer, *, numeric: bool) -> VerdictRow:
    parts, pairs_found = [], []
    label = f"cell {cell_name(one.index, one.cell_id)}"
    for found in one.differences:
        if found.pictures is not None:
            parts.append(f"{found.what}: {found.text}{_attached(found, label, viewer)}")
        elif "\n" in found.text:
            parts.append(f"{found.what}:\n{clean_text(found.text)}")
        else:
            parts.append(f"{found.what}: {clean_text(found.text)}")
        pairs_found += [_pair(*pair) for pair in found.values] if numeric else []
    text, _ = head_and_tail("\n".join(parts), min(_CELL_CHARS, max(viewer.budget.chars, 200)))
    viewer.budget.chars -= len(text)
    return VerdictRow(
        index=one.index, id=one.cell_id, verdict=one.verdict, diff=text or None, values=pairs_found[:_VALUES] or None
    )


def _attached(found: DifferenceState, label: str, viewer: RunViewer) -> str:
    """Attach both pictures as one, if there is room. Returns the words about it."""
    pictures = viewer.budget.pictures
    if found.pictures is None or pictures.left <= 0:
        return ""
    try:
        data, width, height = pairs.side_by_side(*found.pictures, pictures.long_side)
    except WithheldError as error:
        return f"; {error}"
    facts = f"image/png {width}x{height}"
    pictures.add_ready(ShownImage("image/png", data, f"{label} · {found.what} · before | after · {facts}"))
    return " (image attached: before | after)"


def _pair(before: str, after: str) -> ValuePair:
    try:
        distance = float(after.replace(",", "")) - float(before.replace(",", ""))
    except ValueError:
        return ValuePair(before=before, after=after)
    return ValuePair(before=before, after=after, distance=distance if math.isfinite(distance) else None)
