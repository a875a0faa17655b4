"""A batch in a few lines: its failures by error, the span of each number that its runs recorded, and these numbers by
the parameter that varies.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import BaseModel

from papermill_mcp.core.runs.snapshot import RowState
from papermill_mcp.errors import InvalidArgumentError
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import statistics

    from papermill_mcp.core.pictures import contact_sheet as sheets
else:
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")
    statistics = lazy("statistics")

#: Groups of failures and recorded numbers in a summary, and the runs that are named of one group.
_MAX_GROUPS = 20
_MAX_NUMBERS = 20
_MAX_NAMED = 10

#: Runs and recorded numbers in a table by the parameter that varies.
MAX_POINTS = 20
_MAX_COLUMNS = 6

#: A selection of runs by their place, such as `0-99`.
_POSITIONS = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)
_NAMES = ("failed", "running", "queued")


class FailureGroup(BaseModel):
    """Runs that failed alike: how many there are, and the first of them."""

    error: str
    count: int
    runs: list[int]


class NumberSpan(BaseModel):
    """A recorded number over the runs that have it, with the run of the least and of the greatest."""

    name: str
    count: int
    min: float
    min_run: int
    median: float
    max: float
    max_run: int


class Point(BaseModel):
    """The recorded numbers of one run, in the order of the names; None for one that it did not record."""

    value: Any
    run: int
    failed: bool = False
    numbers: list[float | None]


class NumbersByParameter(BaseModel):
    """Recorded numbers of runs that differ in one parameter, by its value. `runs_total`: of which `points` are some."""

    parameter: str
    names: list[str]
    points: list[Point]
    runs_total: int


def failure_groups(errors: Iterable[tuple[int, str]]) -> list[FailureGroup]:
    """The groups of failed runs, the largest first.

    Args:
        errors: number and error of each failed run.
    """
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for number, error in errors:
        runs[error].append(number)
    groups = sorted(runs.items(), key=lambda group: (-len(group[1]), min(group[1])))
    return [
        FailureGroup(error=error, count=len(numbers), runs=sorted(numbers)[:_MAX_NAMED])
        for error, numbers in groups[:_MAX_GROUPS]
    ]


def number_spans(recorded: Iterable[tuple[int, Mapping[str, Any]]]) -> list[NumberSpan]:
    """The spans of the numbers that at least two runs recorded.

    Args:
        recorded: number and recorded values of each run.
    """
    values: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for number, one in recorded:
        for name, value in one.items():
            if is_number(value) and value == value:  # NaN has no place in an order
                values[name].append((value, number))
    spans = []
    for name, found in [*values.items()][:_MAX_NUMBERS]:
        if len(found) > 1:
            (least, least_run), (greatest, greatest_run) = min(found), max(found, key=lambda pair: (pair[0], -pair[1]))
            spans.append(
                NumberSpan(
                    name=name,
                    count=len(found),
                    min=least,
                    min_run=least_run,
                    median=statistics.median(value for value, _ in found),
                    max=greatest,
                    max_run=greatest_run,
                )
            )
    return spans


def numbers_by_parameter(rows: Sequence[RowState]) -> NumbersByParameter | None:
    """The recorded numbers of runs by the one parameter in which they differ, at most `MAX_POINTS`, evenly spread.

    None if they differ in another way, or recorded no numbers.
    """
    names = varying([row.parameters for row in rows])
    numbers = dict.fromkeys(name for row in rows for name, value in (row.recorded or {}).items() if is_number(value))
    if len(names) != 1 or not numbers or len({row.file for row in rows}) > 1:
        return None
    columns = [*numbers][:_MAX_COLUMNS]
    ordered = sorted(rows, key=lambda row: order_of(row.parameters.get(names[0])))
    shown = [ordered[place] for place in sheets.spread(len(ordered), MAX_POINTS)]
    return NumbersByParameter(
        parameter=names[0],
        names=columns,
        points=[
            Point(
                value=row.parameters.get(names[0]),
                run=row.number,
                failed=row.failed,
                numbers=[_number((row.recorded or {}).get(name)) for name in columns],
            )
            for row in shown
        ],
        runs_total=len(rows),
    )


def order_of(value: Any) -> tuple[int, float, str]:
    """A key that sorts values of any type: numbers by size, then texts, then the rest."""
    if is_number(value) and value == value:
        return 0, value, ""
    return (1, 0.0, value) if isinstance(value, str) else (2, 0.0, json.dumps(value, sort_keys=True, default=str))


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a recorded value is a number that a float can hold, NaN and infinities included."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


def _number(value: object) -> float | None:
    return value if is_number(value) else None


def varying(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values differ among sets of parameters, in the order of their appearance."""
    names = dict.fromkeys(name for one in sets for name in one)
    return [name for name in names if len({_identity(one, name) for one in sets}) > 1]


def _identity(values: Mapping[str, Any], name: str) -> str | None:
    """A text that is the same for equal values of one type only; None without a value."""
    return json.dumps(values[name], sort_keys=True, default=str) if name in values else None


def positions(selection: str) -> range | None:
    """The runs of a selection by place; None for a selection by name.

    Raises:
        InvalidArgumentError: it is neither.
    """
    span = _POSITIONS.fullmatch(selection)
    if span is None and selection not in _NAMES:
        raise InvalidArgumentError(
            f"there are no runs {selection[:60]!r}",
            allowed='runs is "failed", "running", "queued", or places such as "0-99"',
        )
    return None if span is None else range(int(span[1]), int(span[2] or span[1]) + 1)
