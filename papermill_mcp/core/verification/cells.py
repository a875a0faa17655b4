"""The verdict on each cell of a notebook, and on the whole."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from papermill_mcp.core.documents.document import NotebookCell
from papermill_mcp.core.runs.snapshot import DifferenceState
from papermill_mcp.core.verification.outputs import NO_OTHERS, Others, Outputs, output_differences
from papermill_mcp.core.verification.texts import Rules


class Verdict(StrEnum):
    """The result of a comparison, of a cell or of a notebook."""

    SAME = "same"
    DIFFERS = "differs"
    NEW_ERROR = "new_error"
    GONE_ERROR = "gone_error"
    NEVER_RUN = "never_run"
    FLAKY = "flaky"
    IGNORED = "ignored"
    NOT_RUN = "not_run"
    """Cells behind the one that ended the fresh run."""
    FAILS = "fails"
    """Of a notebook: a cell fails that did not fail before."""


#: Markers of nbval: tags, and comments in capitals with underscores.
_IGNORES = ("nbval-ignore-output", "pytest-validate-ignore-output")
_SKIPS = ("nbval-skip",)
_CHECKS = ("nbval-check-output",)
_RAISES = ("nbval-raises-exception", "raises-exception")


@dataclass(frozen=True)
class Marks:
    """The wishes of a cell about its comparison, by nbval's tags and comments (nbval 0.11, `plugin.py`)."""

    ignored: bool = False
    skipped: bool = False
    raises: bool = False

    @classmethod
    def of(cls, cell: NotebookCell) -> Marks:
        """The marks of a cell. The last one counts where two differ, and a comment before a tag."""
        comments = [
            line.strip().lstrip("#").strip() for line in cell.source.splitlines() if line.strip().startswith("#")
        ]
        named = [text.lower().replace("_", "-") for text in comments if text.isupper()]
        names = [*cell.tags, *(name for name in named if name in (*_IGNORES, *_SKIPS, *_CHECKS, _RAISES[0]))]
        ignored = False
        for name in names:
            ignored = name in _IGNORES or (ignored and name not in _CHECKS)
        return cls(ignored, any(name in _SKIPS for name in names), any(name in _RAISES for name in names))


def judge(
    cell: NotebookCell,
    old: Sequence[Mapping[str, Any]],
    new: Sequence[Mapping[str, Any]],
    rules: Rules,
    *,
    only_run: bool,
    others: Others = NO_OTHERS,
) -> tuple[Verdict, list[DifferenceState]]:
    """The verdict on a cell that ran.

    Args:
        old, new: its saved and its fresh outputs.
        only_run: errors count, other outputs do not.
        others: its outputs in further fresh runs.
    """
    marks = Marks.of(cell)
    before, now = Outputs.of(old), Outputs.of(new)
    if now.errors and not (marks.raises if only_run else before.errors):
        ename, evalue = now.errors[0]
        return Verdict.NEW_ERROR, [DifferenceState("error", f"{ename}: {evalue}")]
    if only_run:
        return Verdict.SAME, []
    if marks.ignored:
        return Verdict.IGNORED, []
    if not old and cell.member("execution_count") is None:
        return Verdict.NEVER_RUN, []
    if before.errors and not now.errors:
        ename, evalue = before.errors[0]
        return Verdict.GONE_ERROR, [DifferenceState("error", f"is gone: {ename}: {evalue}")]
    found = output_differences(before, now, rules.of_cell(cell.source), others=others)
    return (Verdict.DIFFERS, found) if found else (Verdict.SAME, [])


def unlike(
    cell: NotebookCell, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], rules: Rules
) -> list[DifferenceState]:
    """The differences of two fresh runs of a cell."""
    return output_differences(Outputs.of(one), Outputs.of(other), rules.of_cell(cell.source))


def whole(verdicts: Sequence[str]) -> Verdict:
    """The verdict on a notebook: the worst of its cells."""
    counts = Counter(verdicts)
    if counts[Verdict.NEW_ERROR] or counts[Verdict.NOT_RUN]:
        return Verdict.FAILS
    if counts[Verdict.DIFFERS] or counts[Verdict.GONE_ERROR] or counts[Verdict.FLAKY]:
        return Verdict.DIFFERS
    return Verdict.NEVER_RUN if counts[Verdict.NEVER_RUN] else Verdict.SAME


def order_notes(cells: Sequence[NotebookCell]) -> list[str]:
    """What the saved execution counts prove, without a run: an order that is not that of the notebook, and sessions."""
    counted = [
        (index, count)
        for index, cell in enumerate(cells)
        if cell.cell_type == "code" and type(count := cell.member("execution_count")) is int
    ]
    notes = []
    later = [(index, before) for (before, one), (index, count) in itertools.pairwise(counted) if count < one]
    if later:
        named = ", ".join(f"{index} before {before}" for index, before in later[:5])
        notes.append(f"out_of_order: by their counts these cells ran in another order: {named}")
    numbers = Counter(count for _, count in counted)
    doubled = [[index for index, count in counted if count == number] for number, times in numbers.items() if times > 1]
    if doubled:
        named = "; ".join(" and ".join(map(str, indexes[:4])) for indexes in doubled[:3])
        notes.append(f"stale_block: cells of more than one session are saved together: {named} have the same count")
    return notes
