"""What an agent pays: calls and tokens for nine pieces of work, each by a short sequence of calls.

    python benchmarks/agent.py [name ...] [--show]

The notebooks are made here, the server and its kernels are real. Each sequence ends with checks that the replies hold
the answer, so a reply that grows shorter by leaving it out is no gain. Prints a table in Markdown. `--show` prints the
calls and the replies, too.

Tokens of text are characters / 4. Those of a picture are width × height / 750, as models with vision count them, and
stand in a column of their own. `sent` is what the arguments cost.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run import Bench, Server

MAX_CALLS = 24
MAX_TOKENS = 6000


@dataclass
class Costs:
    """Calls, and tokens of arguments, texts and pictures."""

    calls: int = 0
    sent: float = 0
    text: float = 0
    pictures: float = 0

    def add(self, other: Costs) -> None:
        """Add the costs of another piece of work."""
        self.calls += other.calls
        self.sent += other.sent
        self.text += other.text
        self.pictures += other.pictures

    def row(self, name: str) -> str:
        """A row of the table."""
        return f"| {name} | {self.calls} | {self.sent:.0f} | {self.text:.0f} | {self.pictures:.0f} |"


class Agent:
    """Calls tools as an agent does, counts what it costs, and keeps the replies."""

    def __init__(self, server: Server, workspace: Path, *, show: bool = False) -> None:
        self._server = server
        self._show = show
        self.workspace = workspace
        self.costs = Costs()

    def call(self, tool: str, /, *, fails: bool = False, **arguments: Any) -> str:
        """Call a tool. Returns the text of its reply."""
        reply = self._server.request("tools/call", {"name": tool, "arguments": arguments})
        texts = [part["text"] for part in reply["content"] if part["type"] == "text"]
        pictures = [part["data"] for part in reply["content"] if part["type"] == "image"]
        text = "\n".join(texts)
        self.costs.add(Costs(1, len(json.dumps(arguments)) / 4, len(text) / 4, sum(map(_tokens, pictures))))
        if self._show:
            print(f"\n> {tool} {json.dumps(arguments, ensure_ascii=False)}\n{text}\n({len(pictures)} pictures)")
        if bool(reply.get("isError")) is not fails:
            raise RuntimeError(f"{tool}: {text}")
        return text + "\n⟨picture⟩" * len(pictures)

    def prepare(self, tool: str, /, **arguments: Any) -> None:
        """Call a tool for the state that the work begins with. It is not counted."""
        self._server.call(tool, **arguments)

    def notebook(self, name: str, cells: Sequence[str], *, tags: dict[int, str] | None = None) -> None:
        """Write a notebook of code cells. A text that begins with `#` and a space is a Markdown cell."""
        made: list[dict[str, Any]] = []
        for number, source in enumerate(cells):
            kind = "markdown" if source.startswith("# ") else "code"
            metadata = {"tags": [tags[number]]} if tags and number in tags else {}
            one: dict[str, Any] = {"cell_type": kind, "id": f"c{number}", "metadata": metadata, "source": source}
            made.append(one | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        whole = {"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
        (self.workspace / name).write_text(json.dumps(whole, indent=1))


def _tokens(picture: str) -> float:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return image.width * image.height / 750


def _require(text: str, *parts: str) -> None:
    for part in parts:
        if part not in text:
            raise AssertionError(f"the replies do not hold {part!r}:\n{text}")


# The pieces of work


def make_run_plot(agent: Agent) -> None:
    """A new notebook, run, and its plot seen."""
    sources = [
        "import matplotlib.pyplot as plt\nimport pandas as pd\n\n"
        "sales = pd.DataFrame({'month': range(1, 13), 'units': [m * 7 % 23 for m in range(1, 13)]})",
        "sales.groupby(sales.month // 4).units.sum()",
        "plt.plot(sales.month, sales.units)\nplt.title('Units');",
    ]
    cells = [{"cell_type": "markdown", "source": "# Sales by month"}, *({"source": source} for source in sources)]
    agent.call("create_notebook", path="sales.ipynb", cells=cells)
    text = agent.call("execute_notebook", path="sales.ipynb")
    _require(text, "ok", "⟨picture⟩", "39")


def large_notebook(agent: Agent) -> None:
    """One setting found and changed in a notebook of 2,000 cells."""
    cells = [f"# Part {n // 50}" if n % 50 == 0 else f"step_{n} = {n}\nprint(step_{n})" for n in range(2000)]
    cells[1317] = "THRESHOLD = 0.75  # the limit for outliers"
    agent.notebook("large.ipynb", cells)
    _require(agent.call("search_notebooks", path="large.ipynb", query="THRESHOLD"), "1317", "0.75", "c1317")
    agent.call("update_cell", path="large.ipynb", cell_id="c1317", old_text="0.75", new_text="0.8")
    _require((agent.workspace / "large.ipynb").read_text(), "THRESHOLD = 0.8 ")


def three_values(agent: Agent) -> None:
    """A notebook run with three values of a parameter, and the best of them."""
    record = "{'application/papermill.record+json': {'error': error}}"
    cells = [
        "# Error by window",
        "window = 3",
        "from IPython.display import display\n\nerror = (window - 7) ** 2 / 10",
        f"display({record}, raw=True)",
    ]
    agent.notebook("error.ipynb", cells, tags={1: "parameters"})
    _require(agent.call("get_notebook_info", path="error.ipynb"), "window")
    text = agent.call("execute_notebook_batch", input_path="error.ipynb", grid={"window": [5, 7, 9]})
    _require(text, "3 of 3", "window | run | error", "5 | 0 | 0.4", "7 | 1 | 0")


def failure(agent: Agent) -> None:
    """A run that fails in cell 7, the cell mended, and the rest run."""
    cells = [f"x{n} = {n}" for n in range(7)]
    cells += ["rates = {'a': 1.5}\nprint(rates['b'])", "print('eight')", "print('the sum is', sum([x1, x2, x6]))"]
    agent.notebook("fails.ipynb", cells)
    _require(agent.call("execute_notebook", path="fails.ipynb"), "KeyError", "cell 7", "rates['b']")
    agent.call("update_cell", path="fails.ipynb", index=7, old_text="['b']", new_text="['a']", run=True)
    _require(agent.call("execute_notebook", path="fails.ipynb", cells="8-"), "the sum is 9")


def long_cell(agent: Agent) -> None:
    """A long cell, watched and cancelled."""
    source = "import time\nfor step in range(600):\n    print('step', step, flush=True)\n    time.sleep(0.1)"
    agent.notebook("long.ipynb", ["print('ready')", source])
    begun = agent.call("execute_notebook", path="long.ipynb", wait=2.5)
    _require(begun, "running", "step", "get_execution(")
    call = begun.partition("get_execution(")[2].partition(")")[0]
    named = dict(part.split("=") for part in call.split(", "))
    execution_id = json.loads(named["execution_id"])
    _require(agent.call("get_execution", execution_id=execution_id, since=json.loads(named["since"]), wait=1), "step")
    _require(agent.call("cancel_execution", execution_id=execution_id), "interrupted", "ended: true")


def refactoring(agent: Agent) -> None:
    """A variable renamed in the twelve cells that use it, and the notebook run anew."""
    cells = ["import pandas as pd\n\ndf = pd.DataFrame({'a': range(10)})\ndf_max = 3"]
    cells += [f"df['b{n}'] = df.a * {n}" for n in range(11)] + ["print(df.shape, df_max)"]
    agent.notebook("names.ipynb", cells)
    rename = {"op": "replace_text", "old_text": "df", "new_text": "frame", "all": True, "word": True}
    agent.call("edit_notebook", path="names.ipynb", operations=[rename])
    _require(agent.call("execute_notebook", path="names.ipynb", fresh=True), "(10, 12) 3", "13 ok")
    _require((agent.workspace / "names.ipynb").read_text(), "frame['b10'] = frame.a * 10", "df_max = 3")


def finished(agent: Agent) -> None:
    """A finished notebook read: its table, its last number and its plot."""
    cells = [
        "# Population of towns",
        "import matplotlib.pyplot as plt\nimport pandas as pd\n\n"
        "towns = pd.DataFrame({'town': [f'town {n}' for n in range(40)], 'people': [n * n for n in range(40)]})\ntowns",
        "# Largest towns first",
        "towns.sort_values('people', ascending=False).head(5)",
        "plt.barh(towns.town[-9:], towns.people[-9:])\nplt.xlabel('people');",
        "print(f'{towns.people.sum():,} people live there')",
    ]
    agent.notebook("towns.ipynb", cells)
    agent.prepare("execute_notebook", path="towns.ipynb")
    text = agent.call("read_notebook", path="towns.ipynb", outputs="full")
    _require(text, "20,540 people live there", "town 39", "1521", "⟨picture⟩")


def stale_state(agent: Agent) -> None:
    """A notebook whose outputs do not come from its cells: the run in a fresh kernel shows it."""
    agent.notebook("stale.ipynb", ["base = 10", "total = base * 2\ntotal", "total + 1"])
    agent.prepare("execute_notebook", path="stale.ipynb")
    agent.prepare("update_cell", path="stale.ipynb", index=0, source="basis = 11")
    agent.prepare("execute_notebook_cell", path="stale.ipynb", index=2)
    read = agent.call("read_notebook", path="stale.ipynb")
    _require(read, "basis = 11", "21")
    _require(agent.call("execute_notebook", path="stale.ipynb", fresh=True), "NameError", "base")


def step_by_step(agent: Agent) -> None:
    """A notebook built cell by cell, each run at once, with a look at the variables."""
    agent.call("create_notebook", path="steps.ipynb", cells=[{"cell_type": "markdown", "source": "# Steps"}])
    first = "import pandas as pd\n\ntable = pd.DataFrame({'n': range(100), 'square': [n * n for n in range(100)]})"
    agent.call("add_cell", path="steps.ipynb", source=first, run=True)
    _require(agent.call("inspect_variables", path="steps.ipynb", name="table"), "square", "100")
    text = agent.call("add_cell", path="steps.ipynb", source="table.square.describe()", run=True)
    _require(text, "3283.5")
    text = agent.call("add_cell", path="steps.ipynb", source="int(table.square.median())", run=True)
    _require(text, "2450")


WORK: tuple[Callable[[Agent], None], ...] = (
    make_run_plot,
    large_notebook,
    three_values,
    failure,
    long_cell,
    refactoring,
    finished,
    stale_state,
    step_by_step,
)


def measure(server: Server, workspace: Path, names: Sequence[str] = (), *, show: bool = False) -> dict[str, Costs]:
    """Do the pieces of work. Returns what each cost, by name."""
    costs = {}
    for work in WORK:
        if not names or work.__name__ in names:
            agent = Agent(server, workspace, show=show)
            work(agent)
            costs[work.__name__] = agent.costs
    return costs


def total(costs: dict[str, Costs]) -> Costs:
    """The sum of all."""
    whole = Costs()
    for one in costs.values():
        whole.add(one)
    return whole


def main() -> int:
    """Measure and print. Returns 1 if the aims are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="pieces of work; default: all")
    parser.add_argument("--show", action="store_true", help="print calls and replies")
    options = parser.parse_args()
    if unknown := set(options.names) - {work.__name__ for work in WORK}:
        parser.error(f"no such work: {', '.join(sorted(unknown))}; there is {', '.join(w.__name__ for w in WORK)}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        with bench.ours() as server:
            server.handshake()
            costs = measure(server, bench.workspace, options.names, show=options.show)
    whole = total(costs)
    print("\n| work | calls | sent | text | pictures |\n|---|---:|---:|---:|---:|")
    print("\n".join([one.row(name) for name, one in costs.items()] + [whole.row("all")]))
    return int(whole.calls > MAX_CALLS or whole.text > MAX_TOKENS)


if __name__ == "__main__":
    sys.exit(main())
