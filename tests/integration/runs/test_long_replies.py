"""Replies about runs of many cells: bounded as a whole, and the rest is one call away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Connect
from helpers import call, facts_of, text_of, write_notebook

pytestmark = pytest.mark.kernel

_LIMIT = 20_000
_MANY = "for n in range(90): display({'application/x-none': {'n': n}}, raw=True)"


@pytest.mark.parametrize(
    ("source", "number", "options"),
    [
        ("raise ValueError('the reason ' * 60)", 120, {"continue_on_error": True}),
        (_MANY, 12, {}),
        ("print('x' * 400)\n1 / 0", 120, {"continue_on_error": True}),
    ],
)
async def test_a_reply_has_a_limit_and_names_the_rest(
    client: Connect, workspace: Path, source: str, number: int, options: dict[str, bool]
) -> None:
    write_notebook(workspace / "a.ipynb", [*[source] * number, "print('silent end')"])
    async with client() as c:
        reply = await c.call_tool("execute_notebook", {"path": "a.ipynb", "wait": 60, **options})
        facts = facts_of(reply)
        again = await c.call_tool("get_execution", {"execution_id": facts["execution_id"]})
        note = next(note for note in facts["notes"] if "not listed here" in note)
        which = re.search(r'path=(\S+), cells="([\d,-]+)"', note)
        assert which is not None
        shown = await call(c, "read_notebook", path=which[1], cells=which[2], outputs="full", max_chars=1_000_000)

    for text in (text_of(reply), text_of(again)):
        assert len(text) < _LIMIT
    assert facts["cells_total"] == number + 1
    listed = {row["index"] for row in facts["results"]}
    unlisted = {row["index"] for row in shown["cells"]}
    assert listed
    assert listed | unlisted == set(range(number + 1))
    assert not listed & unlisted


async def test_calls_that_replies_advise_show_all_of_a_long_output(client: Connect, workspace: Path) -> None:
    """Each one goes on where the one before was cut."""
    code = "print('head'); display('shown')\nfor n in range(6000): print('line', n)\ndisplay('end')"
    write_notebook(workspace / "a.ipynb", [])
    seen: set[str] = set()
    calls = 0
    async with client() as c:
        text = text_of(await c.call_tool("execute_cell", {"path": "a.ipynb", "code": code}))
        while True:
            seen.update(text.splitlines())
            way = re.search(r'get_execution\(execution_id="(\w+)", since="([\d.]+)"\)', text)
            if way is None:
                break
            calls += 1
            assert calls < 20
            text = text_of(await c.call_tool("get_execution", {"execution_id": way[1], "since": way[2]}))
    assert {f"line {n}" for n in range(6000)} <= seen
    assert calls > 3


async def test_the_call_for_the_rest_of_a_saved_output_works(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "b c.ipynb", ["display('first')\nfor n in range(3000): print('line', n)"])
    async with client() as c:
        text = text_of(await c.call_tool("execute_notebook", {"path": "b c.ipynb"}))
        way = re.search(r'read_notebook\(path="([^"]+)", cells="(\d+)", first_output=(\d+), max_chars=(\d+)\)', text)
        assert way is not None, text
        arguments = {"path": way[1], "cells": way[2], "first_output": int(way[3]), "max_chars": int(way[4])}
        whole = text_of(await c.call_tool("read_notebook", arguments))
    assert {f"line {n}" for n in range(3000)} <= set(whole.splitlines())
