"""Notebook files against the speed of the disk and of `json`, measured in the same run.

    python benchmarks/notebook_files.py [--cells 2000] [--megabytes 20] [--rounds 7] [--only large,many,parallel]

Prints tables in markdown. Our rows are whole requests through the services, with the path rule, the locks, the digest,
the comparison with what is on disk and the flush to it.

- `large`: one notebook, against `json.load` of it. The floor of a save is a durable write of its bytes. Memory is the
  peak of the process during the request, less what it had before, in multiples of the file. Linux only.
- `many`: 500 notebooks, against `grep -rliF` and a walk.
- `parallel`: 30 reads of a 57 MB notebook at once, against one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from mcp import Client

from papermill_mcp.config import Config
from papermill_mcp.server.app import build_server
from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import CellRef, Update
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.tools.replies import render
from papermill_mcp.utils.memory import return_large_blocks

_SETTLED_SECONDS = 2.2  # the file layer compares bytes while a file is younger than this
_NOTEBOOKS = 500
_FILE_SECONDS = 0.0002  # that a list may take for each file


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
        """An edit that does not keep the bytes."""
        with self.path.open(encoding="utf-8") as file:
            data = json.load(file)
        with self.copy.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        return ""

    async def write(self) -> str:
        """The floor of a save: the bytes alone, until the disk has them."""
        data = self.path.read_bytes()
        began = time.perf_counter()
        with self.copy.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return f"{time.perf_counter() - began}"

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


async def with_peak(action: Callable[[], Awaitable[Any]]) -> int:
    """Bytes by which the resident memory of this process rose at most."""
    before = forget_peak()
    await action()
    return peak() - before


def forget_peak() -> int:
    """Begin a new peak of resident memory, with free memory given back. Returns the present bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The peak of resident memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


async def measure_large(cells: int, megabytes: float, rounds: int) -> None:
    """Requests for one large notebook."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bench = Bench(directory, directory / "large.ipynb")
        make_notebook(bench.path, cells=cells, megabytes=megabytes)
        size = bench.path.stat().st_size
        ran = directory / "ran.ipynb"  # of its own: the version that another server has written is kept before a save
        config = Config(roots=[directory], state_directory=directory / ".state2")
        async with Client(build_server(config)) as client:

            async def run() -> str:
                """A run of one cell in a kernel that lives, saved."""
                reply = await client.call_tool("execute_notebook_cell", {"path": ran.name, "index": 1235})
                assert not reply.is_error, reply
                return ""

            rows: dict[str, Callable[[], Awaitable[str]]] = {
                "json.load": bench.load,
                "json.load + json.dump": bench.load_and_dump,
                "durable write": bench.write,
                "read_notebook, outline": bench.outline,
                "read_notebook, one page": bench.page,
                "read_notebook, one cell in full": bench.one_cell,
                "get_notebook_info": bench.info,
                "search_notebooks, text": bench.search,
                "update_cell": bench.edit,
                "a run of one cell, saved": run,
            }
            changing = ("update_cell", "a run of one cell, saved")
            first: dict[str, list[float]] = {name: [] for name in rows}
            again: dict[str, list[float]] = {name: [] for name in rows}
            peaks = dict.fromkeys(rows, 0)
            replies: dict[str, str] = {}
            text = bench.path.read_text(encoding="utf-8")
            text = text.replace(json.dumps("x_1235 = compute(1235)\n"), json.dumps("pass\n"))
            ran.write_text(text.replace(json.dumps("print(x_1235)"), json.dumps("pass")), encoding="utf-8")
            del text
            for action in rows.values():  # imports, bytecode, the kernel and the page cache
                await action()
            for turn in range(rounds + 1):
                for name, action in rows.items():
                    for path in (bench.path, ran):
                        os.utime(path)  # another version, as far as a look at the file tells
                    await asyncio.sleep(_SETTLED_SECONDS)  # the server may end its work in the background
                    if turn == rounds:
                        peaks[name] = await with_peak(action)
                        continue
                    milliseconds, replies[name] = await timed(action)
                    first[name].append(float(replies[name]) * 1000 if name == "durable write" else milliseconds)
                    if name not in changing:
                        milliseconds, replies[name] = await timed(action)
                        again[name].append(float(replies[name]) * 1000 if name == "durable write" else milliseconds)

        load = statistics.median(first["json.load"] + again["json.load"])
        print(f"{cells} cells, {size / 1e6:.1f} MB, {rounds} rounds, medians, ratios to `json.load`\n")
        print("| request | ms | ratio | again | memory, x the file |")
        print("|---|---:|---:|---:|---:|")
        for name, values in first.items():
            value = statistics.median(values)
            later = f"{statistics.median(again[name]) / load:.2f}" if again[name] else ""
            print(f"| {name} | {value:.0f} | {value / load:.2f} | {later} | {peaks[name] / size:.1f} |")
        print()


def make_notebooks(directory: Path) -> int:
    """500 notebooks in 20 directories; five of them have a text that the others have not. Returns their bytes."""
    for number in range(_NOTEBOOKS):
        below = directory / f"part-{number % 20}"
        below.mkdir(exist_ok=True)
        path = below / f"n{number}.ipynb"
        make_notebook(path, cells=20, megabytes=0.092)
        if number % 100 == 7:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("compute(3)", "the_needle(3)"), encoding="utf-8")
    return sum(path.stat().st_size for path in directory.rglob("*.ipynb"))


def look_at_all(directory: Path) -> None:
    """A walk that looks at each file."""
    for top, _, names in os.walk(directory):
        for name in names:
            Path(top, name).stat()


async def measure_many(rounds: int) -> None:
    """A search and a list over many notebooks."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        size = make_notebooks(directory)
        await asyncio.sleep(_SETTLED_SECONDS)

        async def grep() -> str:
            found = subprocess.run(  # noqa: ASYNC221 - nothing else runs
                ["grep", "-rliF", "the_needle", str(directory)], capture_output=True, text=True, check=True
            )
            return str(len(found.stdout.splitlines()))

        async def walk() -> str:
            look_at_all(directory)
            return ""

        taken: dict[str, list[float]] = {}
        for _ in range(rounds):
            bench = Bench(directory, directory / "part-0" / "n0.ipynb")  # has not seen any of the files

            async def search(bench: Bench = bench) -> str:
                return str(len((await bench.catalogue.search("the_needle")).matches))

            async def listed(bench: Bench = bench) -> str:
                return str(len((await bench.catalogue.list(recursive=True, limit=1000)).notebooks))

            for name, action, reply in (
                ("grep -rliF", grep, "5"),
                ("search_notebooks", search, "5"),
                ("walk", walk, ""),
                ("list_notebook_files, first time", listed, str(_NOTEBOOKS)),
                ("list_notebook_files, again", listed, str(_NOTEBOOKS)),
            ):
                milliseconds, got = await timed(action)
                assert got == reply, (name, got)
                taken.setdefault(name, []).append(milliseconds)
        print(f"{_NOTEBOOKS} notebooks, {size / 1e6:.1f} MB, {rounds} rounds, medians\n")
        print("| request | ms | floor | ratio |")
        print("|---|---:|---|---:|")
        medians = {name: statistics.median(values) for name, values in taken.items()}
        grep_ms, list_ms = medians["grep -rliF"], medians["walk"] + _NOTEBOOKS * _FILE_SECONDS * 1000
        for name, value in medians.items():
            floor, text = (grep_ms, "grep") if "search" in name else (list_ms, "walk + 0.2 ms a file")
            of_ours = "notebook" in name
            print(f"| {name} | {value:.0f} | {text if of_ours else ''} | {f'{value / floor:.2f}' if of_ours else ''} |")
        print()


async def measure_parallel() -> None:
    """Many reads of a very large notebook at once. Its memory, and the longest wait of the event loop."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bench = Bench(directory, directory / "large.ipynb")
        make_notebook(bench.path, cells=5700, megabytes=57)
        await asyncio.sleep(_SETTLED_SECONDS)
        await bench.one_cell()
        waits: list[float] = []

        async def look() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                waits.append(time.perf_counter() - began - 0.001)

        async def at_once() -> None:
            await asyncio.gather(*(bench.one_cell() for _ in range(30)))

        began = time.perf_counter()
        for _ in range(30):
            await bench.one_cell()
        in_turn = time.perf_counter() - began
        looking = asyncio.create_task(look())
        began = time.perf_counter()
        memory = await with_peak(at_once)
        together = time.perf_counter() - began
        looking.cancel()
        print("30 reads of one cell of a 57 MB notebook\n")
        print("| at once, s | one after another, s | ratio | memory, MB | wait of the event loop, p99, ms |")
        print("|---:|---:|---:|---:|---:|")
        p99 = statistics.quantiles(waits, n=100)[98] * 1000
        print(f"| {together:.2f} | {in_turn:.2f} | {together / in_turn:.2f} | {memory / 1e6:.0f} | {p99:.0f} |")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="large,many,parallel")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    return_large_blocks()  # as the server does
    if "large" in only:
        asyncio.run(measure_large(arguments.cells, arguments.megabytes, arguments.rounds))
    if "many" in only:
        asyncio.run(measure_many(arguments.rounds))
    if "parallel" in only:
        asyncio.run(measure_parallel())


if __name__ == "__main__":
    main()
