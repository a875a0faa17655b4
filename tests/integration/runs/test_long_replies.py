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
