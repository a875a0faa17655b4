"""Stale cells against fresh runs of generated programs: a cell without a mark shows the outputs of a fresh run."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from stale_programs import FORMS

from papermill_mcp.core.staleness.names import first_uses, names_of
from papermill_mcp.core.staleness.state import KernelState, expected


class _Program:
    """A notebook that is edited and run in parts, as a kernel and its memory see it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.cells = [self._cell() for _ in range(self._random.randrange(5, 14))]
        self._values: dict[str, Any] = {}
        self._state = KernelState()
        self.failed: set[str] = set()
        self.outputs: dict[int, str] = {}
        self.records: dict[int, tuple[str, str]] = {}

    def _cell(self) -> str:
        choose = self._random.choice
        return choose(FORMS).format(v=choose("abcdef"), w=choose("abcdef"), u=choose("abcdef"), n=choose("01234"))

    def play(self) -> None:
        """Run it from the top, and then a few edits and runs of parts."""
        _forget_attributes()
        for place in range(len(self.cells)):
            self._run(place)
        for _ in range(self._random.randrange(6)):
            place, act = self._random.randrange(len(self.cells)), self._random.random()
            if act < 0.4:
                self.cells[place] = self._cell()
                continue
            for one in range(place, len(self.cells) if act > 0.8 else place + 1):
                self._run(one)

    def _run(self, place: int) -> None:
        self.outputs[place] = run_code(self.cells[place], self._values)
        failed = "Error" in self.outputs[place]
        named = re.search(r"NameError name '(\w+)' is not defined Error\n$", self.outputs[place])
        missing = named[1] if named else None
        inputs = self._state.run(self.cells[place], failed=lambda _: failed, missed=lambda _, name: name == missing)
        if failed:
            self.failed.add(inputs.signature)
        self.records[place] = (self.cells[place], inputs.signature)

    def marked(self) -> Iterator[tuple[int, bool, bool]]:
        """Each cell: whether it has a mark, and whether it shows what a fresh run shows."""
        fresh: dict[str, Any] = {}
        _forget_attributes()
        shown = [run_code(source, fresh) for source in self.cells]
        for place, wanted in enumerate(expected(self.cells, self.failed.__contains__)):
            assert wanted is not None
            same_source = self.records[place][0] == self.cells[place]
            mark = not same_source or self.records[place][1] != wanted.signature
            yield place, mark, same_source and self.outputs[place] == shown[place]


def _forget_attributes() -> None:
    """Modules outlive the programs of this process."""
    for module in (math, random):
        vars(module).pop("x", None)
    random.seed(0)
    np.set_printoptions(precision=8)


def run_code(source: str, values: dict[str, Any]) -> str:
    """The printed text of code, with its error, without places in memory."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(source, "<cell>", "exec"), values)
        except Exception as error:
            print(type(error).__name__, str(error)[:80], "Error")
    return re.sub(r"0x[0-9a-f]+", "", printed.getvalue())


def _check(seeds: range) -> None:
    clean = 0
    for seed in seeds:
        program = _Program(seed)
        program.play()
        for place, mark, same in program.marked():
            clean += not mark
            assert mark or same, (seed, place, program.cells)
    assert clean > 3 * len(seeds)


@pytest.mark.filterwarnings("ignore")
def test_a_cell_without_a_mark_gives_the_outputs_of_a_run_from_the_top() -> None:
    _check(range(300))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cell_without_a_mark_gives_the_outputs_of_a_run_from_the_top_in_many_programs() -> None:
    _check(range(10_000, 13_000))


@pytest.mark.parametrize(
    ("source", "reads", "writes"),
    [
        ("x = 1", "", "x"),
        ("y = x + 1", "x", "y"),
        ("x += 1", "x", "x"),
        ("l.append(x)", "l x", ""),  # whether it is a module is known only with the cells before
        ("print(x)", "x", ""),
        ("df.head()", "df", ""),
        ("df['a'] = 1", "df", "df"),
        ("import numpy as np\nnp.mean(x)", "x", "np"),
        ("for i in range(3):\n    t = i", "", "i t"),
        ("if c:\n    x = 1", "c", "x"),
        ("def f():\n    return g", "", "f"),
        ("def f():\n    return g\nf()", "g", "f"),
        ("[y for y in xs]", "xs y", ""),
        ("%matplotlib inline\nx = 1", "", "x"),
        ("%time x = y", "y", "x"),
        ("!ls\nx = 1", "", "x"),
        ("# only words", "", ""),
        ("del x", "x", "x"),
    ],
)
def test_the_names_of_a_cell(source: str, reads: str, writes: str) -> None:
    found = names_of(source)

    names = {name for name in found.reads if not hasattr(builtins, name) and not name.startswith("<")}
    assert not found.unknown
    assert names == set(reads.split())
    assert {name for name in found.writes if not name.startswith("<")} == set(writes.split())


_STATEMENTS = (
    *(form.format(v="v", w="w", u="u", n="3") for form in FORMS),
    "a.b = c[d]",
    "a[b] = c",
    "a += b",
    "del a[b], c",
    "f(a, *b, c)",
    "f(a, k=b)(c)",
    "[a, (b, c)]",
    "{a: b, **c, d: e}",
    "{a, b}",
    "x = a if b else c",
    "a < b < c",
    "1 or a",
    "a and b",
    "'{}'.format(a)",
    "f'{a}{b}'",
    "lambda x=a: b",
    "[x for x in a if b]",
    "x = y = a",
    "x: a = b",
    "@a\ndef f(x=b): return c",
    "@a\nclass C:\n    'text'\n    y = 1\n    z = y\n    t = b",
    "class C(a, m=b):\n    y = c",
    "with a as x, b: pass",
    "while a: b",
    "for x in a[b:c]: pass",
    "match a:\n    case 1: b",
    "raise a from b",
    "assert a, b",
    "(x := a) + b",
    "-a",
    "try: a\nfinally: b",
    "import nothing_of_this_name\na",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", _STATEMENTS)
def test_python_misses_each_of_the_names_that_a_statement_loads_first(source: str) -> None:
    """With the names before it set to things that allow nothing."""
    found = first_uses(source)
    names = [name for name in dict.fromkeys(found[0]) if not hasattr(builtins, name)] if found else []
    for place, name in enumerate(names):
        values: dict[str, Any] = {before: object() for before in names[:place]}
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(NameError) as caught:
            exec(compile(source, "<cell>", "exec"), values)
        assert caught.value.name == name


@pytest.mark.parametrize(
    ("source", "loads"),
    [
        ("f(a, b)", "f a b"),
        ("f(a).go(b)", "f a"),
        ("a.go(b)", "a"),
        ("', '.join(a)", "a"),
        ("x = a\ny = b", "a|b"),
        ("1 or a", ""),
        ("if a: b", "a"),
        ("try: a\nexcept Exception: b", ""),
        ("%time a", "a"),
        ("exec(a)\n!ls", "exec a|"),
        ("x = (", None),
    ],
)
def test_the_names_that_each_statement_loads_first(source: str, loads: str | None) -> None:
    assert first_uses(source) == (() if loads is None else tuple(tuple(one.split()) for one in loads.split("|")))


def test_a_cell_that_ends_for_a_name_that_is_not_set_changes_nothing() -> None:
    state = KernelState()
    cells = ["x = 1", "y = x + nothing", "print(x, y)"]
    found = [
        state.run(source, missed=lambda _, name, missing=missing: name == missing)  # type: ignore[misc]
        for source, missing in zip(cells, [None, "nothing", "y"], strict=True)
    ]
    state.run(cells[1], missed=lambda _, name: name == "nothing")

    assert found[1].names.keys() == {"nothing", "x"}
    again = state.run(cells[2], missed=lambda _, name: name == "y")
    assert again.signature == found[2].signature
    assert state.run("y = 2").signature and state.run(cells[2]).signature != found[2].signature


def test_a_name_that_a_kernel_begins_with_is_known_by_code_that_uses_it() -> None:
    """A startup file of IPython may set names. They can be changed like any other."""
    cells = ["settings.update(a=1)", "print(settings)"]
    state = KernelState()
    first = [state.run(source, missed=lambda *_: False).signature for source in cells]
    state.run("settings.update(a=2)", missed=lambda *_: False)

    assert state.preset == {"settings"}
    assert [one.signature for one in expected(cells, preset=state.preset) if one is not None] == first
    assert state.run(cells[1], missed=lambda *_: False).signature != first[1]


def test_a_function_that_binds_a_global_name_may_set_it() -> None:
    cells = ["def f():\n    global x\n    x = 1", "f()", "print(x)"]
    edited = "def f():\n    global x\n    x = 2"

    assert 2 in _run(list(cells), edited={0: edited})


@pytest.mark.parametrize(
    "source",
    [
        "exec(code)",
        "%run other.py",
        "%%bash\nls",
        "x = !ls",
        "from os import *",
        "x = (",
        "globals()['x'] = 1",
        "x" * 200_000,
    ],
)
def test_code_that_may_use_any_name_is_unknown(source: str) -> None:
    assert names_of(source).unknown


def _run(cells: list[str], again: Iterable[int] = (), edited: dict[int, str] | None = None) -> list[int]:
    """The marked cells after a run of all, runs of some again, and edits of cells that were run then."""
    state = KernelState()
    found = [state.run(source).signature for source in cells]
    for place in again:
        found[place] = state.run(cells[place]).signature
    for place, source in (edited or {}).items():
        cells[place] = source
        found[place] = state.run(source).signature
    wanted = expected(cells)
    return [place for place, one in enumerate(wanted) if one is not None and one.signature != found[place]]


EVERYDAY = (
    "import random\nimport numpy as np, pandas as pd\nimport matplotlib.pyplot as plt",
    "df = pd.DataFrame({'a': [1, 2]})",
    "df['b'] = df.a * 2\ndf.head()",
    "fig, ax = plt.subplots()\nax.plot([1, 2])\nplt.show()",
    "total = 0\nfor i in range(3):\n    total += i",
    "random.seed(1)\nprint(random.random())",
    "def f(d):\n    return d\nz = f(3)",
    "for name, row in df.iterrows():\n    print(row.a)",
    "x = np.arange(3)",
    "y = x.sum()\nprint(y)",
)


def test_a_second_run_from_the_top_in_the_same_kernel_leaves_no_mark() -> None:
    assert _run(list(EVERYDAY), range(len(EVERYDAY))) == []


@pytest.mark.parametrize("place", [0, 3, 4, 6, 7, 8, 9])
def test_a_cell_that_makes_its_values_anew_may_run_again_alone(place: int) -> None:
    assert _run(list(EVERYDAY), [place]) == []


_SETTINGS = (
    "import pandas as pd\nimport numpy as np\nimport warnings\nwarnings.filterwarnings('ignore')",
    "pd.set_option('display.precision', 2)\nnp.set_printoptions(precision=2)",
    "df = pd.DataFrame({'a': [1.23456]})",
    "df",
    "print(df)",
)


@pytest.mark.parametrize("again", [[0], [1], [0, 1], range(5), [3], [1, 1]])
def test_settings_that_are_set_once_more_leave_no_mark(again: Iterable[int]) -> None:
    assert _run(list(_SETTINGS), again) == []


def test_a_setting_that_is_edited_makes_what_shows_values_stale_until_it_runs() -> None:
    cells = [*_SETTINGS, "pd.set_option('display.precision', 4)", "df"]
    edit = "pd.set_option('display.precision', 3)"

    assert 6 in _run(cells, edited={5: edit})
    assert 6 not in _run(cells, [6], edited={}), "it shows what a run from the top shows"


_SETS = "import matplotlib as mpl\nmpl.rcParams['x'] = {}"
_WARNS = "import warnings\nwarnings.simplefilter('{}')"
_HIDDEN = "import sys\nsys.modules['__main__'].x = {}"


@pytest.mark.parametrize(
    ("first", "second", "edit"),
    [
        ("sum = 5", "print(sum * 2)", "sum = 6"),
        ("len = lambda o: 7", "print(len([1]))", "len = lambda o: 8"),
        ("x = 1", "!echo {x}", "x = 2"),
        ("%precision 2", "3.14159", "%precision 3"),
        ("x = 2", "df.query('a > @x')", "x = 3"),
        ("5", "Out[1]", "6"),
        ("5", "_", "6"),
        (_SETS.format(1), "mpl.plot([1])", _SETS.format(2)),
        (_WARNS.format("ignore"), "import m\nm.f()", _WARNS.format("error")),
        (_HIDDEN.format(1), "print(x)", _HIDDEN.format(2)),
        ("import numpy as np\nnp.random.seed(0)", "df.sample(3)", "import numpy as np\nnp.random.seed(1)"),
        ("import random\nrandom.seed(0)", "from random import random\nrandom()", "import random\nrandom.seed(1)"),
        (
            "import pandas as pd\npd.set_option('display.precision', 2)",
            "df",
            "import pandas as pd\npd.set_option('display.precision', 3)",
        ),
        (
            "import logging\nlogging.basicConfig(format='a')",
            "log.info('x')",
            "import logging\nlogging.basicConfig(format='b', force=True)",
        ),
        ("import random as rd\nrd.seed(1)", "print(rd.random())", "import random as rd\nrd.seed(2)"),
        ("from numpy import random as r\nr.seed(1)", "print(r.rand())", "from numpy import random as r\nr.seed(2)"),
        ("import math\nimport math as m\nm.x = 1", "print(math.x)", "import math\nimport math as m\nm.x = 2"),
    ],
)
def test_what_a_cell_uses_without_a_name_of_its_own_makes_it_stale(first: str, second: str, edit: str) -> None:
    assert 1 in _run([first, second], edited={0: edit})


@pytest.mark.parametrize("use", ["[i for i in g]", "1 in g", "a, *b = g", "sum(g)", "for i in g: pass", "print(*g)"])
def test_what_uses_up_an_iterator_is_stale_when_it_runs_again(use: str) -> None:
    assert 1 in _run(["g = (i for i in [1, 2])", use], [1])


def test_code_that_may_use_any_name_makes_all_that_follows_stale_when_it_runs_again() -> None:
    state = KernelState()
    sources = ["x = 1", "exec(code)", "print(x)"]
    first = [state.run(source).signature for source in sources]

    assert [one.signature for one in expected(sources) if one is not None] == first
    state.run("exec(code)")
    assert state.run("print(x)").signature != first[2]


def test_a_run_that_was_cut_off_leaves_no_known_value() -> None:
    state = KernelState()
    state.run("x = slow()", certain=False)

    [_, wanted] = expected(["x = slow()", "print(x)"])
    assert wanted is not None
    assert state.run("print(x)").signature != wanted.signature
