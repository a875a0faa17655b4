"""Notebooks that say what their code shows, and notebooks that do not: the proof of `verify_notebook`.

Each has its sources. A lying one has also the change that makes its saved outputs, or its cells, untrue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cells = list[dict[str, Any]]
"""The code cells of a notebook with their saved outputs, as JSON."""

_TABLE = """
import pandas as pd
df = pd.DataFrame({"city": ["Oslo", "Rome", "Lima"], "t": [3.25, 17.5, 19.125], "n": [10, 200, 3000]})
"""
_PLOT = "import matplotlib.pyplot as plt\n"
_WORDS = "words = ['pear', 'plum', 'fig', 'kiwi', 'lime', 'date', 'nut']\n"


@dataclass(frozen=True)
class Honest:
    """A notebook whose outputs are those of its code.

    Attributes:
        elsewhere: expressions, and the text that another machine or day had in their place.
    """

    cells: Sequence[str]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    raises: Sequence[int] = ()


@dataclass(frozen=True)
class Lie:
    """A notebook that its code does not make.

    Attributes:
        tell: changes the saved cells.
        accused: the cells that must be accused, by their index after the change. The others must not be.
        ends: its code ends with an error now.
    """

    cells: Sequence[str]
    tell: Callable[[Cells], object]
    accused: Sequence[int]
    raises: Sequence[int] = ()
    ends: bool = False


def put(index: int, old: str, new: str) -> Callable[[Cells], object]:
    """Replace an expression in all saved outputs of a cell, once in each form."""

    def tell(cells: Cells) -> None:
        text = json.dumps(cells[index]["outputs"], ensure_ascii=False)
        made = re.sub(old, new, text)
        assert made != text, text
        cells[index]["outputs"] = json.loads(made)

    return tell


def _as_it_is(_: Cells) -> None:
    """The code itself is not to be believed."""


def _source(index: int, old: str, new: str) -> Callable[[Cells], object]:
    """Edit the source of a cell and keep its outputs."""

    def tell(cells: Cells) -> None:
        source = "".join(cells[index]["source"])
        assert old in source
        cells[index]["source"] = source.replace(old, new)

    return tell


def _swap(one: int, other: int) -> Callable[[Cells], object]:
    """Exchange the outputs of two cells."""

    def tell(cells: Cells) -> None:
        cells[one]["outputs"], cells[other]["outputs"] = cells[other]["outputs"], cells[one]["outputs"]

    return tell


def _reorder(*places: int) -> Callable[[Cells], object]:
    def tell(cells: Cells) -> None:
        cells[:] = [cells[place] for place in places]

    return tell


def _outputs(index: int, change: Callable[[Cells], list[Any]]) -> Callable[[Cells], object]:
    def tell(cells: Cells) -> None:
        before = json.dumps(cells[index]["outputs"])
        cells[index]["outputs"] = change(cells[index]["outputs"])
        assert json.dumps(cells[index]["outputs"]) != before

    return tell


def _form(index: int, mime: str, old: str, new: str) -> Callable[[Cells], object]:
    """Replace an expression in one form of the displays of a cell."""

    def tell(cells: Cells) -> None:
        changed = 0
        for output in cells[index]["outputs"]:
            if mime in output.get("data", {}):
                text = "".join(output["data"][mime])
                output["data"][mime] = re.sub(old, new, text)
                changed += output["data"][mime] != text
        assert changed

    return tell


def _on_stderr(outputs: Cells) -> Cells:
    return [output | {"name": "stderr"} for output in outputs]


LIES: dict[str, Lie] = {
    # Numbers.
    "a number off by a thousandth": Lie(
        ["accuracy = 0.918\nprint(f'accuracy: {accuracy}')"], put(0, "0.918", "0.919"), [0]
    ),
    "the last digit": Lie(["2 ** 0.5"], put(0, r"1\.4142135623730951", "1.4142135623730949"), [0]),
    "a number with fewer digits": Lie(["0.1 + 0.2"], put(0, "0.30000000000000004", "0.3"), [0]),
    "a sign": Lie(["print('gain', 5 - 7)"], put(0, "-2", "2"), [0]),
    "an exponent": Lie(["print(1.5e-8)"], put(0, "1.5e-08", "1.5e-07"), [0]),
    "not a number": Lie(["float('nan')"], put(0, "nan", "0.0"), [0]),
    "a count in words": Lie(["rows = list(range(41))\nprint(len(rows), 'rows kept')"], put(0, "41", "42"), [0]),
    "a truth value": Lie(["import os\nos.path.exists('nothing.csv')"], put(0, "False", "True"), [0]),
    "a number beside a time": Lie(
        ["import time\nt = time.time()\nloss = 0.25\nprint(f'loss {loss} in {time.time() - t:.4f} s')"],
        put(0, "0.25", "0.24"),
        [0],
    ),
    "a duration that is a result": Lie(
        ["import datetime\nprint('flight time', datetime.timedelta(minutes=95))"], put(0, "1:35", "1:36"), [0]
    ),
    "seconds that are a result": Lie(["print('period: %.2f s' % (2 * 3.14159))"], put(0, "6.28", "6.29"), [0]),
    "a size that is a result": Lie(["print('file size:', 1024 * 3, 'bytes')"], put(0, "3072", "3073"), [0]),
    "a date that is a result": Lie(
        ["import datetime\nprint(datetime.date(2024, 2, 28) + datetime.timedelta(days=2))"],
        put(0, "03-01", "03-02"),
        [0],
    ),
    "a checksum": Lie(["import hashlib\nhashlib.md5(b'data').hexdigest()"], put(0, "8d777f38", "8d777f39"), [0]),
    "an id that is a result": Lie(
        ["import uuid\nprint(uuid.uuid5(uuid.NAMESPACE_DNS, 'a'))"], put(0, r"\w{8}-", "12345678-"), [0]
    ),
    "a hexadecimal result": Lie(["print(hex(2 ** 40 + 24))"], put(0, "18", "28"), [0]),
    "a number beside an address": Lie(["print(object(), 'of', 7)"], put(0, "of 7", "of 8"), [0]),
    "a number beside a process": Lie(
        ["import os\nprint(os.getpid(), 'workers', 4)"], put(0, "workers 4", "workers 8"), [0]
    ),
    "no seed": Lie(["import numpy as np\nprint(np.random.default_rng().normal(size=3))"], _as_it_is, [0]),
    "no seed beside a hash": Lie(
        [_WORDS + "import random\nprint(list(set(words)))\nprint('score', random.random())"], _as_it_is, [0]
    ),
    "another seed": Lie(
        ["import random\nrandom.seed(1)", "print(random.randint(0, 10 ** 6))"], _source(0, "seed(1)", "seed(2)"), [1]
    ),
    # Cells.
    "a deleted cell that is missed": Lie(["x = 5", "print(x)"], _reorder(1), [0], ends=True),
    "a deleted cell that changed a value": Lie(["x = 5", "x = x * 2", "print(x)"], _reorder(0, 2), [1]),
    "another order": Lie(["x = 1", "x += 1", "print(x)"], _reorder(0, 2, 1), [1]),
    "an edited source": Lie([_TABLE, "df[df.n > 100]", "print('done')"], _source(1, "> 100", "> 5"), [1]),
    "an edited source far above": Lie(
        ["limit = 3", "print('a')", "[n for n in range(9) if n > limit]"], _source(0, "3", "4"), [2]
    ),
    "outputs of another cell": Lie(["print('train', 0.9)", "print('test', 0.7)"], _swap(0, 1), [0, 1]),
    "a cell run twice": Lie(["n = 0", "n += 1\nn"], put(1, '"1"', '"2"'), [1]),
    # Texts.
    "another word": Lie(["print('The model converged.')"], put(0, "converged", "diverged"), [0]),
    "a truncated stream": Lie(["for n in range(20): print('epoch', n)"], put(0, r"epoch 1[5-9]\\n", ""), [0]),
    "a line more": Lie(["print('a')\nprint('b')"], put(0, r"b\\n", r"b\\nc\\n"), [0]),
    "no output at all": Lie(["print('warning: 3 rows lost')", "print(1)"], _outputs(0, lambda _: []), [0]),
    "no result beside a stream": Lie(["print('fit')\n0.7"], _outputs(0, lambda outputs: outputs[:1]), [0]),
    "a result that nothing shows": Lie(
        ["x = 3", "x"], _outputs(0, lambda _: [{"output_type": "stream", "name": "stdout", "text": "ok\n"}]), [0]
    ),
    "stderr as stdout": Lie(
        ["import sys\nprint('failed 3 times', file=sys.stderr)"],
        _outputs(0, lambda outputs: [one | {"name": "stdout"} for one in outputs]),
        [0],
    ),
    "stdout as stderr": Lie(["print('all tests passed')"], _outputs(0, _on_stderr), [0]),
    "a hidden warning": Lie(
        ["import warnings\nwarnings.warn('did not converge')\nprint('ok')"],
        _outputs(0, lambda outputs: [one for one in outputs if one["name"] == "stdout"]),
        [0],
    ),
    "a sorted list": Lie(
        ["['pear', 'fig', 'kiwi', 'plum']"],
        put(0, r"'pear', 'fig', 'kiwi', 'plum'", "'fig', 'kiwi', 'pear', 'plum'"),
        [0],
    ),
    "an unsorted list of a set": Lie(
        [_WORDS + "print(sorted(set(words)))"], put(0, "'date', 'fig'", "'fig', 'date'"), [0]
    ),
    "a sorted list beside a set": Lie(
        [_WORDS + "print(list(set(words)), ['b', 'a', 'c'])"], put(0, r"\['b', 'a', 'c'\]", "['a', 'b', 'c']"), [0]
    ),
    "a member of a set": Lie(["print({'red', 'green'})"], put(0, "green", "blue"), [0]),
    "a member of a list of a set": Lie([_WORDS + "print(list(set(words)))"], put(0, "'fig'", "'figs'"), [0]),
    "a member twice": Lie([_WORDS + "print(list(set(words)))"], put(0, "'fig'", "'kiwi'"), [0]),
    "lines of a set with one fewer": Lie(
        [_WORDS + "for w in set(words): print(w)\nprint(7)"], put(0, r"kiwi\\n", ""), [0]
    ),
    "a heading below lines of a set": Lie(
        [_WORDS + "print('FRUITS')\nfor w in set(words): print(w)"], put(0, r"FRUITS\\n(\w+\\n)", r"\1FRUITS\\n"), [0]
    ),
    "a count beside a set": Lie([_WORDS + "print(len(words), list(set(words)))"], put(0, r"7 \[", "8 ["), [0]),
    "the order of a dictionary": Lie(["{'b': 1, 'a': 2}"], put(0, "'b': 1, 'a': 2", "'a': 2, 'b': 1"), [0]),
    "a changed repr": Lie(
        ["from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    y: int\nPoint(1, 2)"],
        put(0, r"Point\(x=1, y=2\)", "Point(x=1, y=3)"),
        [0],
    ),
    "another class": Lie(["class A: pass\nclass B: pass\nA()"], put(0, "main__.A", "main__.B"), [0]),
    "another version of a library": Lie(
        ["import numpy as np\nnp.__version__"], put(0, r"\d+\.\d+\.\d+", "1.21.6"), [0]
    ),
    "a repr of an older library": Lie(
        ["import numpy as np\nnp.float64(2.5)"], put(0, r"np\.float64\(2\.5\)", "2.5"), [0]
    ),
    "a count in a progress bar": Lie(
        ["import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(50), file=sys.stdout): pass"],
        put(0, "50/50", "60/60"),
        [0],
    ),
    "a bar that did not end": Lie(
        ["import sys\nfor n in range(5): print(f'\\r{n + 1}/5 done', end='')"], put(0, "5/5", "4/5"), [0]
    ),
    "a level of a log": Lie(
        [
            "import logging, sys\n"
            "logging.basicConfig(stream=sys.stdout, format='%(asctime)s %(levelname)s %(message)s', force=True)\n"
            "logging.warning('disk')",
        ],
        put(0, "WARNING", "ERROR"),
        [0],
    ),
    "a name of a file": Lie(["print('/tmp/patients_2020.csv')"], put(0, "2020", "2021"), [0]),
    # Errors.
    "a hidden error": Lie(
        ["x = {}", "print('start')\nx['a']"], _outputs(1, lambda outputs: outputs[:1]), [1], raises=[1], ends=True
    ),
    "another error": Lie(["int('a')"], put(0, "ValueError", "TypeError"), [0], raises=[0]),
    "another message": Lie(["raise ValueError('3 rows')"], put(0, "3 rows", "4 rows"), [0], raises=[0]),
    "an error that is gone": Lie(["x = 0", "1 / x"], _source(0, "0", "2"), [1], raises=[1]),
    # Tables.
    "a value of a table": Lie([_TABLE, "df"], put(1, r"17\.500", "17.501"), [1]),
    "a value of the plain form alone": Lie([_TABLE, "df"], _form(1, "text/plain", "3000", "3001"), [1]),
    "a value of the rich form alone": Lie([_TABLE, "df"], _form(1, "text/html", "3000", "3001"), [1]),
    "a stale table": Lie([_TABLE, "df.sort_values('t')"], _source(1, "'t'", "'t', ascending=False"), [1]),
    "a column": Lie([_TABLE, "df.rename(columns={'n': 'count'})"], put(1, "count", "total"), [1]),
    "a count of rows": Lie(
        ["import pandas as pd\npd.DataFrame({'a': range(100)})"], put(0, "100 rows", "101 rows"), [0]
    ),
    "a type of a column": Lie([_TABLE, "df.dtypes"], put(1, "float64", "float32"), [1]),
    "a type of a series": Lie([_TABLE, "print(df.n)"], put(1, "int64", "int32"), [1]),
    "missing values": Lie([_TABLE, "df.info()"], put(1, "3 non-null", "2 non-null"), [1]),
    "a row of a table of a set": Lie(
        [_TABLE + _WORDS, "pd.DataFrame({'w': list(set(words)), 'k': 1})"], put(1, r"kiwi", "lemon"), [1]
    ),
    # Pictures and other forms.
    "swapped plots": Lie([_PLOT + "plt.plot([1, 2, 3]);", "plt.plot([3, 1, 2]);"], _swap(0, 1), [0, 1]),
    "a plot of other data": Lie([_PLOT + "y = [1, 4, 9]", "plt.plot(y);"], _source(0, "9", "8"), [1]),
    "a wrong legend": Lie(
        [_PLOT + "plt.plot([1, 2], label='train'); plt.legend();"], _source(0, "train", "tests"), [0]
    ),
    "a digit in a title": Lie([_PLOT + "plt.plot([1, 2]); plt.title('n = 3');"], _source(0, "n = 3", "n = 8"), [0]),
    "another colour": Lie([_PLOT + "plt.bar([1, 2], [3, 4], color='tab:blue');"], _source(0, "blue", "orange"), [0]),
    "a lost plot": Lie(
        [_PLOT + "plt.plot([1, 2]);plt.show()\nprint('shown')"],
        _outputs(0, lambda outputs: [one for one in outputs if one["output_type"] == "stream"]),
        [0],
    ),
    "a formula": Lie(
        ["from IPython.display import Math, display\ndisplay(Math('x^2 + 1'))"], put(0, r"x\^2", "x^3"), [0]
    ),
    "a Markdown result": Lie(
        ["from IPython.display import Markdown\nMarkdown('**mean** 3.5')"], put(0, "3.5", "3.6"), [0]
    ),
    "a number of a JSON result": Lie(
        ["from IPython.display import JSON\nJSON({'auc': 0.91})"], put(0, r"0\.91", "0.92"), [0]
    ),
    "a rich form": Lie(
        [
            "class Card:\n    def _repr_html_(self): return '<b>total</b> <i>17</i>'\n"
            "    def __repr__(self): return 'Card'\nCard()"
        ],
        put(0, "<i>17</i>", "<i>71</i>"),
        [0],
    ),
    "a display more": Lie(
        ["from IPython.display import display\ndisplay(1); display(2)"],
        _outputs(0, lambda outputs: [*outputs, outputs[-1]]),
        [0],
    ),
}

_DAY = {r"20\d\d-\d\d-\d\d": "2024-03-05"}

HONEST: dict[str, Honest] = {
    "plain values": Honest(["x = 3", "print(x)\nx * 2", "[x, 'a', None, 2.5]", "{'b': 1, 'a': [2]}"]),
    "moments": Honest(
        [
            "import datetime, time\nprint(datetime.datetime.now())",
            "datetime.datetime.now().isoformat()",
            "datetime.date.today()",
            "print(datetime.datetime.now(datetime.timezone.utc))",
        ],
        _DAY | {r"date\(\d+, \d+, \d+\)": "date(2023, 12, 24)"},
    ),
    "moments in words": Honest(
        [
            "import datetime, time\nnow = datetime.datetime.now()\nprint(now.strftime('%d.%m.%Y %H:%M'))",
            "print(now.strftime('%A, %d %B %Y'))",
            "print(time.ctime())\ntime.strftime('%b %d, %Y')",
            "now",
        ]
    ),
    "seconds since 1970": Honest(["import time\nprint(time.time())", "int(time.time())", "time.time_ns()"]),
    "pandas knows the time": Honest(["import pandas as pd\npd.Timestamp.now()", "pd.Timestamp('today').normalize()"]),
    "ids by chance": Honest(
        [
            "import uuid, secrets\nprint(uuid.uuid4().hex)\nprint('run id:', uuid.uuid4().hex[:8])",
            "uuid.uuid4().int",
            "print('key', secrets.token_hex(8))",
        ]
    ),
    "addresses": Honest(
        [
            "print(object(), lambda: 0)",
            "def f(): yield 1\nf()",
            "class A:\n    def m(self): pass\nA()",
            "A().m",
            "map(str, [1]), iter([1]), zip('a'), (n for n in 'a')",
            "print([A(), A()])",
        ],
        {"0x7": "0x5"},
    ),
    "identities": Honest(["a = object()\nprint('id', id(a))", "id(a)", "print(id(a), id(A) if 'A' in dir() else 0)"]),
    "hashes of strings": Honest(
        ["hash('pear')", "print(hash('a'), hash(('b', 2)))", "print({w: hash(w) % 97 for w in 'abcde'})"]
    ),
    "a list of a set": Honest([_WORDS + "print(list(set(words)))", "list(set(words))", "print(*set(words))"]),
    "texts joined from a set": Honest(
        [_WORDS + "print(', '.join(set(words)))", "' '.join({w.upper() for w in words})"]
    ),
    "lines of a set": Honest([_WORDS + "print('FRUITS')\nfor w in set(words): print('-', w)\nprint(7)"]),
    "sets": Honest([_WORDS + "set(words)", "frozenset(words)", "print({'a': set(words)}, 5)"]),
    "a dictionary made of a set": Honest([_WORDS + "{w: len(w) for w in set(words)}", "dict.fromkeys(set(words), 0)"]),
    "a part of a set": Honest([_WORDS + "print('first', next(iter(set(words))))", "list(set(words))[:2]"]),
    "a table of a set": Honest(
        [
            "import pandas as pd\n" + _WORDS + "pd.DataFrame({'w': list(set(words)), 'k': 1})",
            "pd.Series(1, index=list(set(words)))",
        ]
    ),
    "words with spaces in a set": Honest(
        [
            "names = {'New York', 'Rome', 'Los Angeles', 'Oslo', 'Rio de Janeiro'}\nfor n in names: print(n)",
            "print(list(names))",
        ]
    ),
    "universal ids": Honest(["import uuid\nuuid.uuid4()", "print('run', uuid.uuid1())", "str(uuid.uuid4())"]),
    "temporary files": Honest(
        [
            "import tempfile, os\nf = tempfile.NamedTemporaryFile(suffix='.csv')\nprint(f.name)\nf.close()",
            "made = tempfile.mkdtemp()\nos.rmdir(made)\nmade",
            "print(os.path.exists(f.name))",
        ]
    ),
    "processes and threads": Honest(
        [
            "import os, threading\nos.getpid()",
            "print(f'pid={os.getpid()} parent={os.getppid()}')",
            "threading.get_ident()",
            "print(threading.current_thread())",
        ]
    ),
    "a progress bar": Honest(
        [
            "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(20)): time.sleep(0.001)",
            "import sys\nfor _ in tqdm(range(9), desc='fit', file=sys.stdout): pass\nprint('end')",
        ]
    ),
    "a bar of its own": Honest(
        ["import time\nfor n in range(5):\n    time.sleep(0.002)\n    print(f'\\r{n + 1}/5 done', end='', flush=True)"]
    ),
    "measured times": Honest(
        [
            "import time\nt = time.time()\nsum(range(10 ** 5))\nprint(f'took {time.time() - t:.3f} s')",
            "%time sum(range(1000))",
            "%%time\nprint('body')",
            "print('elapsed:', time.perf_counter() - t > 0)",
        ]
    ),
    "timeit": Honest(
        ["%timeit -n 10 -r 3 sum(range(100))", "import timeit\nprint(timeit.timeit('1 + 1', number=1000))"]
    ),
    "memory": Honest(
        [
            "import pandas as pd\npd.DataFrame({'a': range(9)}).info()",
            "import psutil\nprint('peak memory:', psutil.Process().memory_info().rss)",
            "import sys\nsys.getsizeof([0] * 10)",
        ]
    ),
    "logs": Honest(
        [
            "import logging, sys\nlogging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True,"
            "format='%(asctime)s %(process)d %(levelname)s %(message)s')",
            "logging.info('epoch %d', 3)\nlogging.warning('slow')",
        ],
        _DAY,
    ),
    "warnings": Honest(
        ["import warnings\nwarnings.warn('careful with 3 rows')", "warnings.warn('old', DeprecationWarning)"]
    ),
    "paths": Honest(
        [
            "import os, sys\nprint(os.path.join(os.getcwd(), 'data.csv'))",
            "print(sys.executable)",
            "import json\njson.__file__",
        ],
        {r"/[^\"' ]*(?=/data\.csv)": "/home/ann/project"},
    ),
    "the host": Honest(["import socket, platform\nprint(socket.gethostname())", "platform.machine()"]),
    "random numbers with a seed": Honest(
        [
            "import random\nimport numpy as np\nrandom.seed(4)\nrng = np.random.default_rng(4)",
            "rng.normal(size=(2, 3))",
            "print(random.random(), rng.integers(9))",
        ]
    ),
    "arrays": Honest(
        ["import numpy as np\nnp.arange(12).reshape(3, 4) / 7", "np.float64(2.5), np.array([True]), np.int8(3)"]
    ),
    "tables": Honest([_TABLE, "df", "df.describe()", "df.groupby('city')", "df.groupby('city').t.mean()", "df.style"]),
    "plots": Honest(
        [
            _PLOT + "plt.plot([1, 4, 9])",
            "fig, ax = plt.subplots()\nax.hist([1, 2, 2, 3])\nax.set_title('h')",
            "plt.scatter([1, 2], [3, 4], label='a'); plt.legend(); plt.show()",
            "fig",
        ]
    ),
    "errors": Honest(["x = {}", "x['a']", "raise ValueError(f'at {object()}')"], raises=[1, 2]),
    "forms": Honest(
        [
            "from IPython.display import HTML, JSON, Latex, Markdown, display\ndisplay(HTML('<p>a <b>b</b></p>'))",
            "JSON({'a': [1, 2]})",
            "display(Markdown('# a'), Latex('$x$'))",
        ]
    ),
    "streams": Honest(["import sys\nprint('a'); print('b', file=sys.stderr); print('c')", "!echo shell"]),
    "state of an earlier cell": Honest(["n = 0", "n += 1\nn", "n += 1\nn", "print(_)"]),
}
