"""Reading and editing one large notebook, against what `json` takes for the same file in the same run.

    python benchmarks/notebook_files.py [--cells 2000] [--megabytes 20] [--rounds 7]

Prints a table in markdown. The floors are `json.load` of the file, and `json.load` and `json.dump` of it, which is the
least that a program does that edits a notebook without keeping its bytes. Our rows are whole requests through the
services, with the path rule, the locks, the digest, the comparison with what is on disk and the flush to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from papermill_mcp.config import Config
from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import CellRef, Update
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.tools.replies import render

_SETTLED_SECONDS = 2.2  # the file layer compares bytes while a file is younger than this


def make_notebook(path: Path, *, cells: int, megabytes: float) -> None:
    """A notebook with a text output in most cells and an image in each hundredth."""
    image = "iVBORw0KGgo" + "A" * 100_000
    images = cells // 100
    text_bytes = max(int((megabytes * 1e6 - images * len(image)) / cells) - 600, 50)
    made: list[dict[str, Any]] = []
    for number in range(cells):
        common: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}}
        if number % 10 == 0:
            made.append(common | {"cell_type": "markdown", "source": [f"# Part {number}\n", "Some words about it."]})
            continue
        lines = [f"{number} {at} 0.123456789 some text of an output\n" for at in range(text_bytes // 45)]
        outputs: list[dict[str, Any]] = [{"name": "stdout", "output_type": "stream", "text": lines}]
        if number % 100 == 1:
            outputs.append({"data": {"image/png": image}, "metadata": {}, "output_type": "display_data"})
        source = [f"x_{number} = compute({number})\n", f"print(x_{number})"]
        made.append(common | {"cell_type": "code", "execution_count": number, "outputs": outputs, "source": source})
    notebook = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


class Bench:
    """One notebook and the services that work on it."""

    def __init__(self, directory: Path, path: Path) -> None:
        config = Config(roots=[directory])
        workspace = Workspace([directory])
        self.path = path
        self.copy = directory / "copy.json"
        self.notebooks = NotebookService(config, workspace, directory / ".state")
        self.catalogue = NotebookCatalogue(workspace, self.notebooks, Pythons(config, workspace))
        self._turn = 0

    async def load(self) -> str:
        """The floor of reading."""
        with self.path.open(encoding="utf-8") as file:
            json.load(file)
        return ""

    async def load_and_dump(self) -> str:
        """The floor of editing."""
        with self.path.open(encoding="utf-8") as file:
            data = json.load(file)
        with self.copy.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        return ""

    async def outline(self) -> str:
        """An overview, first page."""
        return render(await self.notebooks.read(self.path.name, outline=True))

    async def page(self) -> str:
        """A page in the middle, with summaries of outputs."""
        return render(await self.notebooks.read(self.path.name, cells="1000-"))

    async def one_cell(self) -> str:
        """One cell and its whole output."""
        return render(await self.notebooks.read(self.path.name, cells="cell-1234", outputs="full"))

    async def info(self) -> str:
        """Headings, parameters and validation."""
        return render(await self.catalogue.info(self.path.name))

    async def search(self) -> str:
        """A text that stands in one cell, in sources and outputs."""
        return render(await self.catalogue.search("x_1234 = ", self.path.name, where="both"))

    async def edit(self) -> str:
        """One source, saved."""
        self._turn += 1
        at = CellRef(cell_id="cell-1234")
        return render(await self.notebooks.update_cell(self.path.name, Update(at, source=f"x = {self._turn}")))


async def timed(action: Callable[[], Awaitable[str]]) -> tuple[float, str]:
    """Milliseconds of one call, and its reply."""
    began = time.perf_counter()
    reply = await action()
    return (time.perf_counter() - began) * 1000, reply


async def measure(cells: int, megabytes: float, rounds: int) -> None:
    """Run everything and print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bench = Bench(directory, directory / "large.ipynb")
        make_notebook(bench.path, cells=cells, megabytes=megabytes)
        size = bench.path.stat().st_size
        rows: dict[str, tuple[Callable[[], Awaitable[str]], str]] = {
            "json.load": (bench.load, "json.load"),
            "json.load + json.dump": (bench.load_and_dump, "json.load"),
            "read_notebook, outline": (bench.outline, "json.load"),
            "read_notebook, one page": (bench.page, "json.load"),
            "read_notebook, one cell in full": (bench.one_cell, "json.load"),
            "get_notebook_info": (bench.info, "json.load"),
            "search_notebooks, text": (bench.search, "json.load"),
            "update_cell": (bench.edit, "json.load + json.dump"),
        }
        times: dict[str, list[float]] = {name: [] for name in rows}
        replies: dict[str, str] = {}
        for action, _ in rows.values():  # imports, bytecode and the page cache
            await action()
        memory = psutil.Process().memory_info().rss
        for _ in range(rounds):
            for name, (action, _) in rows.items():
                if name == "update_cell":
                    time.sleep(_SETTLED_SECONDS)  # noqa: ASYNC251 - nothing else runs
                milliseconds, replies[name] = await timed(action)
                times[name].append(milliseconds)
        growth = psutil.Process().memory_info().rss - memory
        young, _ = await timed(bench.edit)
        tracemalloc.start()
        await bench.edit()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"{cells} cells, {size / 1e6:.1f} MB, {rounds} rounds, median\n")
        print("| request | ms | x json.load | x json.load + json.dump | bytes of the reply |")
        print("|---|---:|---:|---:|---:|")
        for name, value in medians.items():
            reply = f"{len(replies[name].encode()):,}" if replies[name] else ""
            load, both = medians["json.load"], medians["json.load + json.dump"]
            print(f"| {name} | {value:.0f} | {value / load:.2f} | {value / both:.2f} | {reply} |")
        load, both = medians["json.load"], medians["json.load + json.dump"]
        print(f"| update_cell, file saved a moment ago | {young:.0f} | {young / load:.2f} | {young / both:.2f} | |")
        print(f"\nResident memory after {rounds} rounds of all: {growth / 1e6:+.1f} MB.")
        print(f"Python memory at the peak of one edit: {peak / size:.1f} x the file.")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.cells, arguments.megabytes, arguments.rounds))


if __name__ == "__main__":
    main()
