"""What counts as a mutant, and that each is a module that can be read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import papermill_mcp
from dev.mutation import TARGETS, mutants

_SOURCE = '''
"""Says: 1 < 2."""
import re
É = re.compile(
    r"é\\u200b"
    r"|b"
)


def f(a: int = 1) -> int:
    if a < 2 and not É:
        raise ValueError(f"{a == 1}")
    return a | 4
'''


def test_each_mutant_is_one_change() -> None:
    source = _SOURCE.encode()

    assert [mutant.shown(source).partition(": ")[2] for mutant in mutants(source)] == [
        r'r"é\u200b"  ->  ""',
        r"\u200b  ->  (nothing)",
        'r"|b"  ->  ""',
        "1  ->  (2)",
        "a < 2  ->  (a <= 2)",
        "a < 2 and not É  ->  (False)",
        "a < 2 and not É  ->  (True)",
        "a < 2 and not É  ->  (a < 2 or not É)",
        "a < 2 and not É  ->  (a < 2)",
        "a < 2 and not É  ->  (not É)",
        "2  ->  (3)",
        "not É  ->  (É)",
        'raise ValueError(f"{a == 1}")  ->  pass',
        "a | 4  ->  (None)",
        "a | 4  ->  (a)",
        "4  ->  (5)",
    ]


@pytest.mark.parametrize("module", TARGETS)
def test_mutants_of_the_modules_are_python(module: str) -> None:
    source = (Path(papermill_mcp.__file__).parent / module).read_bytes()
    for mutant in mutants(source)[::20]:
        ast.parse(mutant.applied(source))
