"""Replies as a model reads them, in some forty situations.

The replies stand in `tests/snapshots/replies`, a file for each group, to be read as a whole. After a change that is
meant: pytest --update-snapshots -m slow tests/integration/tools/test_golden_replies.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Connect
from helpers import Json, cell, images_of, text_of, write_notebook
from mcp import Client
from mcp_types import CallToolResult

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SNAPSHOTS = Path(__file__).parents[2] / "snapshots" / "replies"
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_PICTURE = f"from IPython.display import Image, display\nimport base64\ndisplay(Image(base64.b64decode('{_PIXEL}')))"
_RECORD = "display({'application/papermill.record+json': {'square': n * n}}, raw=True)"


class Situation(NamedTuple):
    """A call, and what it is an example of. Arguments may be made of the reply before."""

    title: str
    tool: str
    arguments: Json | Callable[[str], Json]


def _of(text: str, name: str) -> str:
    found = re.search(rf'{name}(?:: |="| )([0-9a-f]{{24}})', text)
    assert found, text
    return found[1]


def _follow(text: str) -> Json:
    """The arguments of the call that a reply advises."""
    call = text.partition("get_execution(")[2].partition(")")[0]
    return {name: json.loads(value) for name, _, value in (part.partition("=") for part in call.split(", "))}


def _notebooks(workspace: Path) -> None:
    """The notebooks that the situations are about."""
    write_notebook(
        workspace / "small.ipynb",
        [cell("# Report\n\nOf the year.", "markdown"), "x = 2\nprint('x is', x)", "x * 21", _PICTURE],
    )
    write_notebook(workspace / "fails.ipynb", ["a = {'k': 1}", "def get(name):\n    return a[name]", "get('z')", "1"])
    write_notebook(workspace / "dies.ipynb", ["1", "import os; os._exit(3)"])
    write_notebook(workspace / "slow.ipynb", ["print('one', flush=True)\nimport time; time.sleep(60)"])
    write_notebook(
        workspace / "with_parameters.ipynb",
        [cell("n = 1  # how many", tags=["parameters"]), "from IPython.display import display", _RECORD],
    )
    write_notebook(workspace / "large.ipynb", [f"step_{n} = {n}" for n in range(120)])
    (workspace / "broken.ipynb").write_text("<html></html>")


EDITS = [
    Situation("a new notebook", "create_notebook", {"path": "new.ipynb", "cells": [{"source": "x = 1"}]}),
    Situation("a cell put at the end", "add_cell", {"path": "new.ipynb", "source": "y = 2\nz = 3"}),
    Situation("a cell put between others", "add_cell", {"path": "large.ipynb", "source": "here = 1", "index": 7}),
    Situation("a new source", "update_cell", {"path": "large.ipynb", "index": 7, "source": "there = 1\nhere = 2"}),
    Situation(
        "a part of a source", "update_cell", {"path": "large.ipynb", "index": 3, "old_text": "3", "new_text": "33"}
    ),
    Situation(
        "the same once more", "update_cell", {"path": "large.ipynb", "index": 3, "old_text": "= 3", "new_text": "= 3"}
    ),
    Situation("a cell removed", "remove_cell", {"path": "large.ipynb", "index": 7}),
    Situation(
        "several operations",
        "edit_notebook",
        {
            "path": "large.ipynb",
            "operations": [
                {"op": "add", "source": "# End", "cell_type": "markdown"},
                {"op": "move", "index": 0, "to_index": 5},
                {"op": "set_tags", "index": 2, "tags": ["parameters"]},
                {"op": "update", "index": 9, "source": "step = 9"},
            ],
        },
    ),
    Situation(
        "a name replaced everywhere",
        "edit_notebook",
        {
            "path": "small.ipynb",
            "operations": [{"op": "replace_text", "old_text": "x", "new_text": "y", "all": True, "word": True}],
        },
    ),
    Situation("an edit on an old revision", "add_cell", {"path": "new.ipynb", "source": "1", "if_revision": "0" * 16}),
]

READS = [
    Situation("a small notebook", "read_notebook", {"path": "small.ipynb"}),
    Situation("an outline", "read_notebook", {"path": "small.ipynb", "outline": True}),
    Situation("more cells than a page", "read_notebook", {"path": "large.ipynb", "cells": "0-119", "max_chars": 1000}),
    Situation("a description", "get_notebook_info", {"path": "with_parameters.ipynb"}),
    Situation("a search in a notebook", "search_notebooks", {"query": "step_11", "path": "large.ipynb"}),
    Situation("a search without a match", "search_notebooks", {"query": "nowhere"}),
    Situation("a list", "list_notebook_files", {}),
    Situation("a file that is no notebook", "read_notebook", {"path": "broken.ipynb"}),
    Situation("a name that is nearly right", "read_notebook", {"path": "smal.ipynb"}),
    Situation("an index out of bounds", "read_notebook", {"path": "small.ipynb", "cells": "9"}),
]

RUNS = [
    Situation("a notebook in place", "execute_notebook", {"path": "small.ipynb"}),
    Situation("the same, read with outputs", "read_notebook", {"path": "small.ipynb", "outputs": "full"}),
    Situation("one expression", "execute_cell", {"path": "small.ipynb", "code": "1+1"}),
    Situation("a cell added and run", "add_cell", {"path": "small.ipynb", "source": "print(x)", "run": True}),
    Situation("code that fails", "execute_cell", {"path": "small.ipynb", "code": "int('no')"}),
    Situation("code with much output", "execute_cell", {"path": "small.ipynb", "code": "print('line\\n' * 9000)"}),
    Situation("variables", "inspect_variables", {"path": "small.ipynb"}),
    Situation("a notebook that fails", "execute_notebook", {"path": "fails.ipynb"}),
    Situation("the rest after a failure", "execute_notebook", {"path": "fails.ipynb", "cells": "3-"}),
    Situation("a kernel that dies", "execute_notebook", {"path": "dies.ipynb"}),
    Situation("a long cell", "execute_notebook", {"path": "slow.ipynb", "wait": 1.5}),
    Situation("a second look at it", "get_execution", lambda text: {**_follow(text), "wait": 0}),
    Situation("a second run of it", "execute_notebook", {"path": "slow.ipynb"}),
    Situation("it is cancelled", "cancel_execution", lambda text: {"execution_id": _of(text, "execution")}),
    Situation("runs in a fresh kernel", "execute_notebook", {"path": "small.ipynb", "cells": "1-2", "fresh": True}),
]

PARAMETERS = [
    Situation(
        "a run with parameters",
        "execute_notebook_papermill",
        {"input_path": "with_parameters.ipynb", "output_path": "out/first.ipynb", "parameters": {"n": 7}},
    ),
    Situation(
        "an output that exists",
        "execute_notebook_papermill",
        {"input_path": "with_parameters.ipynb", "output_path": "out/first.ipynb", "parameters": {"n": 8}},
    ),
    Situation(
        "a parameter with a wrong name",
        "execute_notebook_papermill",
        {"input_path": "with_parameters.ipynb", "output_path": "out/second.ipynb", "parameters": {"m": 7}},
    ),
    Situation(
        "a run that fails",
        "execute_notebook_papermill",
        {"input_path": "fails.ipynb", "output_path": "out/fails.ipynb"},
    ),
    Situation("its output, read", "read_notebook", {"path": "out/fails.ipynb"}),
    Situation("a description of it", "get_notebook_info", {"path": "out/fails.ipynb"}),
    Situation(
        "a batch",
        "execute_notebook_batch",
        {"input_path": "with_parameters.ipynb", "output_directory": "out", "grid": {"n": [2, 3, "four"]}},
    ),
]

KERNELS = [
    Situation("a kernel", "start_kernel", {}),
    Situation("its state", "get_kernel_status", lambda text: {"kernel_id": _of(text, "kernel_id")}),
    Situation("it is stopped", "stop_kernel", lambda text: {"kernel_id": _of(text, "kernel_id")}),
    Situation("no kernel for a notebook", "get_kernel_status", {"path": "small.ipynb"}),
    Situation("an argument of another name", "execute_cell", {"notebook": "small.ipynb", "cell": 3}),
    Situation("an execution that is unknown", "get_execution", {"execution_id": "0" * 24}),
]

_GROUPS = {"edits": EDITS, "reads": READS, "runs": RUNS, "parameters": PARAMETERS, "kernels": KERNELS}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("group", list(_GROUPS))
async def test_replies_read_as_they_did(
    group: str, client: Connect, workspace: Path, request: pytest.FixtureRequest
) -> None:
    _notebooks(workspace)
    async with client() as c:
        text = await _replies(c, _GROUPS[group])
    file = SNAPSHOTS / f"{group}.md"
    if request.config.getoption("--update-snapshots"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


async def _replies(client: Client, situations: Sequence[Situation]) -> str:
    parts, before = [], ""
    for title, tool, arguments in situations:
        given = arguments(before) if callable(arguments) else arguments
        reply = await client.call_tool(tool, given)
        before = text_of(reply)
        call = _plain(f"{tool}({', '.join(f'{name}={json.dumps(value)}' for name, value in given.items())})")
        parts.append(f"## {title}\n\n{call}\n\n{_shown(reply)}\n")
    return "\n".join(parts)


def _shown(reply: CallToolResult) -> str:
    pictures = len(images_of(reply))
    return _plain(text_of(reply)) + (f"\n({pictures} pictures)" if pictures else "")


#: What differs from run to run, and what it is replaced by.
_CHANGING: tuple[tuple[str, str], ...] = (
    (r"\b[0-9a-f]{24}\b", "<24 hex>"),
    (r"\b[0-9a-f]{16}\b", "<revision>"),
    (r"\[[0-9a-f]{8}\]", "[<id>]"),
    (r"(?<=^ids: 0 )[0-9a-f]{8}", "<id>"),
    (r"(?<=size: )\d{5,}", "<n>"),
    (r" In \[\d+\](?=: died)", ""),  # a kernel may die before it tells the count
    (r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "<time>"),
    (r"(?<=-)[0-9a-f]{12}(?=\.ipynb)", "<digest>"),
    (r"\d{4}-\d\d-\d\dT[\d:]+Z", "<time>"),
    (r"\d+\.\d+ s\b", "<n> s"),
    (r"(?<=· )\d+ s\b", "<n> s"),
    (r"(?<=pid: )\d+", "<pid>"),
    (r"\S+ \(3\.\d+\.\d+\)", "<environment>"),
    (r"(?<=duration )\d+\.\d+", "<n>"),
    (r"(?<=memory_bytes: )\d+", "<n>"),
    (r"(?<=cpu_percent: )[\d.]+", "<n>"),
    (r"(?<=idle_seconds: )[\d.]+", "<n>"),
)


def _plain(text: Any) -> str:
    """A text without what differs from run to run."""
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return re.sub(r"(?m)^(.*\n)\1{9,}", r"\1<the same line again and again>\n", str(text))
