"""A batch in a few lines: its failures by error, and the span of each number that its runs recorded."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from papermill_mcp.errors import InvalidArgumentError
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import statistics
else:
    statistics = lazy("statistics")

#: Groups of failures and recorded numbers in a summary, and the runs that are named of one group.
_MAX_GROUPS = 20
_MAX_NUMBERS = 20
_MAX_NAMED = 10


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
            # NaN has no place in an order.
            if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
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
