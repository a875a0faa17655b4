"""The sets of parameters of a batch: a list, every combination of a grid, or a random sample of either.

A sample of a grid is drawn by number: the combinations are never listed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from papermill_mcp.errors import InvalidArgumentError

_STATE = "nothing was run"


@dataclass(frozen=True)
class ParameterSets:
    """Sets of parameters in their order.

    Attributes:
        total: how many there are to draw from.
        seed: that of the sample; None if all are there.
    """

    sets: list[dict[str, Any]]
    total: int
    seed: int | None = None

    @property
    def note(self) -> str | None:
        """A sentence about the sample."""
        if self.seed is None:
            return None
        return f"a sample of {len(self.sets):,} of {self.total:,} sets of parameters, with seed={self.seed}"


def parameter_sets(
    parameters: Sequence[dict[str, Any]] | None,
    grid: Mapping[str, Sequence[Any]] | None,
    *,
    sample: int | None,
    seed: int | None,
    most: int,
) -> ParameterSets:
    """The sets of a batch. Without parameters, one empty set.

    Args:
        sample: draw so many; all if there are no more.
        seed: of the sample. By default it is made of the arguments, so the same request draws the same sample.
        most: the largest number of sets.

    Raises:
        InvalidArgumentError: the arguments exclude each other, give no set, or give too many.
    """
    if parameters is not None and grid is not None:
        raise InvalidArgumentError("give parameters or grid, not both", state=_STATE)
    if seed is not None and sample is None:
        raise InvalidArgumentError("seed is for a sample, and there is none", state=_STATE, advice="give sample, too")
    if parameters is not None and not parameters:
        raise InvalidArgumentError("parameters is an empty list, so there is nothing to run", state=_STATE)
    names = list(grid or {})
    lists = list((grid or {}).values())
    if (empty := next((name for name in names if not (grid or {})[name]), None)) is not None:
        raise InvalidArgumentError(f"grid has no value for {empty[:100]!r}", state=_STATE)
    total = math.prod(map(len, lists)) if grid is not None else len(parameters or [{}])
    drawn = sample is not None and sample < total
    if (number := sample if drawn and sample is not None else total) > most:
        subject = f"sample is {number:,}" if drawn else f"grid has {total:,} combinations"
        if not drawn and grid is None:
            subject = f"parameters has {total:,} sets"
        raise InvalidArgumentError(
            subject,
            allowed=f"a batch has at most {most:,} runs",
            state=_STATE,
            advice="make several batches of it, or draw a sample",
        )
    if drawn and seed is None:
        facts = json.dumps([parameters, grid, sample], sort_keys=True, default=str)
        seed = int(hashlib.sha256(facts.encode()).hexdigest()[:8], 16)
    chosen: Sequence[int] = _draw(total, number, seed or 0) if drawn else range(total)
    if grid is not None:
        sets = list(_combinations(names, lists, chosen if drawn else None))
    else:
        given = parameters or [{}]
        sets = [given[place] for place in chosen]
    return ParameterSets(sets, total, seed if drawn else None)


def _draw(total: int, number: int, seed: int) -> list[int]:
    """Numbers below `total`, each once, in order. The same with every version of Python."""
    found: set[int] = set()
    for count in itertools.count():
        digest = hashlib.sha256(f"{seed}:{count}".encode()).digest()
        found.add(int.from_bytes(digest) % total)
        if len(found) == number:
            return sorted(found)
    raise AssertionError("unreachable")


def _combinations(
    names: Sequence[str], lists: Sequence[Sequence[Any]], places: Sequence[int] | None
) -> Iterator[dict[str, Any]]:
    """Combinations of a grid, the last name first to change: all, or those at some places."""
    if places is None:
        yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*lists))
        return
    for place in places:
        chosen: list[Any] = []
        for values in reversed(lists):
            place, at = divmod(place, len(values))
            chosen.append(values[at])
        yield dict(zip(names, reversed(chosen), strict=True))
