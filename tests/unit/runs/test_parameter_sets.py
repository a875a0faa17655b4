"""Sets of parameters of a batch: samples are sets of the grid, each once, and the same for a seed."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.papermill.parameter_sets import ParameterSets, parameter_sets
from papermill_mcp.errors import InvalidArgumentError


def _sets(
    parameters: list[dict[str, Any]] | None = None,
    grid: dict[str, list[Any]] | None = None,
    *,
    sample: int | None = None,
    seed: int | None = None,
    most: int = 1000,
) -> ParameterSets:
    return parameter_sets(parameters, grid, sample=sample, seed=seed, most=most)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    sample=st.integers(1, 700),
    seed=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
)
def test_a_sample_has_so_many_combinations_of_the_grid_each_once(
    sizes: list[int], sample: int, seed: int | None
) -> None:
    grid = {f"p{number}": [f"{number}-{value}" for value in range(size)] for number, size in enumerate(sizes)}
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    drawn = _sets(grid=grid, sample=sample, seed=seed)

    assert _sets(grid=grid).sets == every
    places = [every.index(one) for one in drawn.sets]
    assert places == sorted(set(places)), "in the order of the grid"
    assert len(places) == min(sample, len(every))
    assert (drawn.seed is None) == (len(every) <= sample)
    assert drawn == _sets(grid=grid, sample=sample, seed=drawn.seed if drawn.seed is not None else seed)
    assert drawn.sets == _sets(every, sample=sample, seed=drawn.seed).sets, "a list is drawn from as a grid is"


def test_a_grid_of_any_size_is_sampled_at_once() -> None:
    grid = {f"p{number}": list(range(1000)) for number in range(12)}  # 10 to the power of 36
    began = time.monotonic()
    drawn = _sets(grid=grid, sample=1000, seed=7)
    assert time.monotonic() - began < 1
    assert len({tuple(one.values()) for one in drawn.sets}) == 1000
    assert drawn.total == 10**36
    assert "with seed=7" in (drawn.note or "")
    assert len({one["p0"] for one in drawn.sets} | {one["p11"] for one in drawn.sets}) > 500, "it spreads"


def test_a_seed_draws_the_same_sets_with_every_version() -> None:
    """The numbers are those of this release: a later one must not draw others."""
    assert [one["n"] for one in _sets(grid={"n": list(range(1000))}, sample=3, seed=1).sets] == [109, 197, 955]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parameters": [{}], "grid": {"n": [1]}}, "not both"),
        ({"parameters": []}, "empty list"),
        ({"grid": {"n": []}}, "no value for 'n'"),
        ({"grid": {"n": [1] * 1001}}, "grid has 1,001 combinations"),
        ({"parameters": [{}] * 1001}, "parameters has 1,001 sets"),
        ({"grid": {"n": [*range(5000)]}, "sample": 1001}, "sample is 1,001"),
        ({"parameters": [{}], "seed": 3}, "seed is for a sample"),
    ],
)
def test_sets_that_make_no_batch_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        _sets(**arguments)
