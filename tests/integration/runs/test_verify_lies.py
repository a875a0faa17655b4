"""Honest cells of many kinds, none of which may be accused, and a lie in each of them, none of which may be missed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import Json, call, cell, read_json, text_of, write_notebook

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

_SETUP = """
import datetime, os, random, sys, tempfile, time, uuid, warnings, logging
import matplotlib, numpy as np, pandas as pd
import matplotlib.pyplot as plt
from tqdm import tqdm
rng = np.random.default_rng(7)
df = pd.DataFrame({"city": ["Oslo", "Rome", "Lima"], "t": [3.25, 17.5, 19.125], "n": [10, 200, 3000]})
started = time.time()
"""

#: The source of an honest cell, and a lie: a pattern of its saved outputs and the text in its place.
CELLS: dict[str, tuple[str, str, str]] = {
    "number": ("print(rng.normal())", r"0\.0012", "0.0013"),
    "off by a thousandth": ("print(f'accuracy {0.918:.3f}')", "0.918", "0.919"),
    "value": ("df.t.mean()", r"13\.29\d+", "13.292"),
    "object": ("print(object(), len(df))", "> 3", "> 4"),
    "moment": ("print('run at', datetime.datetime.now(), 'rows', len(df))", "rows 3", "rows 2"),
    "today": ("print(datetime.date.today().isoformat(), 'count', 41 + 1)", "count 42", "count 43"),
    "day of data": ("print(pd.Timestamp('2020-02-03') + pd.Timedelta(days=1))", "2020-02-04", "2020-02-05"),
    "duration": (
        "time.sleep(0.01); print(f'took {time.time() - started:.3f} s for {6 * 7} rows')",
        "42 rows",
        "43 rows",
    ),
    "timer alone": ("print(time.perf_counter() - started > -1e12, 'done')", "True", "False"),
    "wall time": ("%%time\nprint(sum(range(1000)))", "499500", "499501"),
    "temporary": (
        "f = tempfile.NamedTemporaryFile(); print(f.name, os.path.basename(__import__('json').__file__)); f.close()",
        "__init__",
        "__main__",
    ),
    "uuid": ("print(uuid.uuid4(), 'version', uuid.uuid4().version)", "version 4", "version 1"),
    "process": ("print('pid', os.getpid(), 'cpus', 2 ** 3)", "cpus 8", "cpus 4"),
    "directory": ("print(os.getcwd(), len('abc'))", " 3", " 4"),
    "bar": ("for _ in tqdm(range(5), file=sys.stdout): pass\nprint('end', 5)", "end 5", "end 6"),
    "bar on stderr": ("for _ in tqdm(range(4)): time.sleep(0.001)\nprint('n', 4)", "n 4", "n 5"),
    "warning": ("warnings.warn('be careful with 3 rows')", "3 rows", "4 rows"),
    "log": (
        "logging.basicConfig(format='%(asctime)s %(message)s')\nlogging.warning('loss %s', 0.25)",
        r"0\.25",
        "0.26",
    ),
    "table": ("df", r"19\.125", "19.126"),
    "lost row": ("df.sort_values('n', ascending=False)", r"<tr>\\n\s+<th>1</th>.*?</tr>", "<!-- -->"),
    "memory": ("df.info()", "3 non-null", "2 non-null"),
    "description": ("df.describe().round(3)", "1070.0", "1071.0"),
    "plot": ("plt.plot([1, 4, 9], color='tab:blue'); plt.show()", r'"image/png": "[^"]+"', ""),
    "bars": ("df.plot.bar(x='city', y='t'); plt.show()", r'"image/png": "[^"]+"', ""),
    "scatter": ("plt.scatter(df.t, df.n, s=9); plt.show()", r'"image/png": "[^"]+"', ""),
    "set": ("print({'red', 'green', 'blue'})", "red", "rot"),
    "seed": ("random.seed(3); print(random.random(), np.random.default_rng(1).integers(9))", "0.23796", "0.23797"),
    "error": ("int('12x')", "12x", "13x"),
    "dictionary": ("{'a': 1, 'b': [1, 2, {'c': 3}]}", "'c': 3", "'c': 4"),
    "address in a repr": ("print([lambda: 0][0], 'n', 9)", "n 9", "n 8"),
    "stderr": ("print('attention 5', file=sys.stderr)", "attention 5", "attention 6"),
    "function": ("def area(r):\n    return 3.0 * r ** 2\narea(2.0)", r"12\.0", "12.5"),
}


def _with_lie(data: Json, index: int, pattern: str, text: str, other: str) -> None:
    """Replace a part of the saved outputs of a cell. Pictures are replaced by another one."""
    outputs = json.dumps(data["cells"][index]["outputs"])
    made = re.sub(pattern, text or f'"image/png": "{other}"', outputs, count=1, flags=re.DOTALL)
    assert made != outputs, (index, pattern, outputs[:500])
    data["cells"][index]["outputs"] = json.loads(made)


def _verdicts(facts: Json) -> dict[int, str]:
    return {row["index"]: row["verdict"] for row in facts.get("cells") or []}


@pytest.mark.timeout(180)
async def test_no_honest_cell_is_accused_and_no_lie_is_missed(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    sources = [_SETUP, *(source for source, _, _ in CELLS.values())]
    tags: dict[int, Any] = {list(CELLS).index("error") + 1: ["raises-exception"]}
    write_notebook(path, [cell(one, cell_id=f"c{at}", tags=tags.get(at, ())) for at, one in enumerate(sources)])
    async with client(max_output_chars=100_000, max_images=0) as connected:
        run = text_of(await connected.call_tool("execute_notebook", {"path": "a.ipynb", "wait": 120}))
        assert "status: ok" in run, run
        before = path.read_bytes()

        honest = await call(connected, "verify_notebook", path="a.ipynb", wait=120)
        assert _verdicts(honest) == {}, honest["cells"]
        assert path.read_bytes() == before

        data = read_json(path)
        pictures = re.findall(r'"image/png": "([^"]+)"', json.dumps(data))
        for index, (_, pattern, text) in enumerate(CELLS.values(), 1):
            own = json.dumps(data["cells"][index]["outputs"])
            other = next((one for one in pictures if one not in own), "")
            _with_lie(data, index, pattern, text, other)
        path.write_text(json.dumps(data))
        lies = await call(connected, "verify_notebook", path="a.ipynb", wait=120)

    missed = [name for index, name in enumerate(CELLS, 1) if _verdicts(lies).get(index) != "differs"]
    assert missed == []
