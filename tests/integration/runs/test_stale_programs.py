"""Generated notebooks, edited and run in parts in a real kernel: a cell without a mark shows what a fresh run shows."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from conftest import Connect
from helpers import Json, call, cell, read_json, write_notebook
from mcp import Client
from stale_programs import FORMS

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(240)]

_PROGRAMS = 50


class _Program:
    """A notebook, and what is done with it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cells = [self.cell() for _ in range(self.random.randrange(5, 14))]

    def cell(self) -> str:
        choose = self.random.choice
        names = {name: choose("abcdef") for name in "vwu"}
        return choose(FORMS).format(**names, n=choose("01234"))

    async def play(self, client: Client) -> None:
        """Run it from the top, and then a few edits and runs of parts."""
        await _run(client, fresh=True)
        for _ in range(self.random.randrange(1, 5)):
            place, act = self.random.randrange(len(self.cells)), self.random.random()
            if act < 0.5:
                self.cells[place] = self.cell()
                await call(client, "update_cell", path="a.ipynb", index=place, source=self.cells[place])
            else:
                await _run(client, cells=f"{place}-" if act > 0.8 else str(place))


async def _run(client: Client, path: str = "a.ipynb", **arguments: object) -> None:
    await call(client, "execute_notebook", path=path, continue_on_error=True, wait=60, seconds=90, **arguments)


def _shown(one: Json) -> str:
    """The outputs of a cell, without places in memory and counts."""
    outputs = [
        {name: value for name, value in output.items() if name != "execution_count"} for output in one["outputs"]
    ]
    text = re.sub(r"0x[0-9a-f]+|\\u001b\[[\d;]*m", "", json.dumps(outputs))
    return re.sub(r"Cell In\s*\[\d+\]", "Cell", text)


async def test_a_cell_without_a_mark_shows_what_a_fresh_kernel_shows(client: Connect, workspace: Path) -> None:
    clean = 0
    async with client() as connected:
        for seed in range(_PROGRAMS):
            program = _Program(seed)
            path = write_notebook(
                workspace / "a.ipynb", [cell(one, cell_id=f"s{seed}-{at}") for at, one in enumerate(program.cells)]
            )
            await program.play(connected)
            rows = (await call(connected, "read_notebook", path="a.ipynb", outline=True))["outline"]
            marked = {row["index"] for row in rows if row.get("stale")}
            saved = read_json(path)["cells"]

            fresh = write_notebook(
                workspace / "b.ipynb", [cell(one, cell_id=f"c{at}") for at, one in enumerate(program.cells)]
            )
            await _run(connected, "b.ipynb", fresh=True)
            for at, wanted in enumerate(read_json(fresh)["cells"]):
                if at not in marked:
                    clean += 1
                    assert _shown(saved[at]) == _shown(wanted), (seed, at, program.cells)
    assert clean > 2 * _PROGRAMS
