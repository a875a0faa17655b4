"""Every honest notebook of the proof is believed, and every lying one is accused, in the cells that lie."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from believed import HONEST, LIES, Cells, Honest, Lie
from conftest import Connect
from helpers import Json, call, cell, read_json, write_notebook
from mcp import Client

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(180)]

_NEW_STATE = "%reset -f"

#: Kinds of sources by what they have. Lies of a kind are verified together, so nothing excuses those of another kind.
_KINDS = {"hash(": "hashes", "set(": "sets", "{'red": "sets", "id(": "time", "time": "time", "now": "time"}
_QUIET_KINDS = {"seed": "chance", "random": "chance", "pandas": "tables", "pyplot": "plots"}


def _family(one: Honest | Lie, name: str) -> str:
    """The name of the notebook that this one is a part of."""
    source = "\n".join(one.cells)
    if isinstance(one, Honest):
        return "changing" if any(word in source for word in (*_KINDS, "{'New")) else "quiet"
    if one.ends:
        return name
    return next((kind for word, kind in (_KINDS | _QUIET_KINDS).items() if word in source), "")


async def _made(client: Client, workspace: Path, notebooks: Mapping[str, Honest | Lie]) -> dict[str, Cells]:
    """The cells of each notebook with their outputs. All run one after the other, in one kernel."""
    cells: list[Json] = []
    for one in notebooks.values():
        cells.append(cell(_NEW_STATE))
        cells += [
            cell(source, tags=["raises-exception"] if at in one.raises else []) for at, source in enumerate(one.cells)
        ]
    cells.insert(0, cell("import matplotlib.pyplot"))
    write_notebook(workspace / "all.ipynb", cells)
    facts = await call(client, "execute_notebook", path="all.ipynb", wait=100, seconds=110)
    assert facts["status"] == "ok", facts
    found: list[Cells] = []
    for one in read_json(workspace / "all.ipynb")["cells"][1:]:
        if "".join(one["source"]) == _NEW_STATE:
            found.append([])
        else:
            found[-1].append(one | {"metadata": {}})
    return dict(zip(notebooks, found, strict=True))


async def _accused(client: Client, path: Path, notebooks: Mapping[str, Cells]) -> dict[str, list[int]]:
    """The cells of each notebook that are accused. All are verified as one."""
    cells: list[Json] = []
    places: list[tuple[str, int]] = []
    for name, own in notebooks.items():
        cells += [cell(_NEW_STATE), *own]
        places += [(name, at) for at in range(-1, len(own))]
    for at, one in enumerate(cells):
        one |= {"id": f"c{at}", "execution_count": at + 1}
    write_notebook(path, cells)
    facts = await call(client, "verify_notebook", path=path.name, wait=150, seconds=160)
    found: dict[str, list[int]] = {name: [] for name in notebooks}
    for row in facts.get("cells") or []:
        assert row["verdict"] in ("differs", "new_error", "gone_error", "flaky", "not_run"), row
        name, at = places[row["index"]]
        found[name].append(at)
    return found


def _elsewhere(cells: Cells, one: Honest) -> Cells:
    text = json.dumps([made["outputs"] for made in cells], ensure_ascii=False)
    for pattern, replacement in one.elsewhere.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return [made | {"outputs": outputs} for made, outputs in zip(cells, json.loads(text), strict=True)]


async def _verdicts(client: Client, workspace: Path, notebooks: Mapping[str, Honest | Lie]) -> dict[str, list[int]]:
    made = await _made(client, workspace, notebooks)
    for name, one in notebooks.items():
        if isinstance(one, Lie):
            one.tell(made[name])
        else:
            made[name] = _elsewhere(made[name], one)
    families: dict[str, dict[str, Cells]] = {}
    for name, cells in made.items():
        families.setdefault(_family(notebooks[name], name), {})[name] = cells
    found: dict[str, list[int]] = {}
    waiting = list(enumerate(families.values()))

    async def work() -> None:
        while waiting:
            number, own = waiting.pop()
            found.update(await _accused(client, workspace / f"n{number}.ipynb", own))

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(work())
    return found


async def test_no_honest_notebook_is_accused(client: Connect, workspace: Path) -> None:
    assert len(HONEST) >= 30
    async with client(max_output_chars=1_000_000, max_images=0) as connected:
        found = await _verdicts(connected, workspace, HONEST)

    assert {name: cells for name, cells in found.items() if cells} == {}


async def test_every_lie_is_found_in_its_cell_and_nothing_beside_it(client: Connect, workspace: Path) -> None:
    assert len(LIES) >= 30
    async with client(max_output_chars=1_000_000, max_images=0) as connected:
        found = await _verdicts(connected, workspace, LIES)

    assert {name: cells for name, cells in found.items() if cells != list(LIES[name].accused)} == {}
