"""Cases of arguments that are out of range, of any length, or hold what is meant for something else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import Json, call, cell, digest, read_json, text_of, write_notebook

from papermill_mcp.config import Config
from papermill_mcp.errors import ErrorCode
from papermill_mcp.server.app import build_server
from papermill_mcp.server.sdk import registered_tools

CODES = {str(code) for code in ErrorCode}
TOOLS = {tool.name: tool.parameters for tool in registered_tools(build_server(Config()))}

#: Arguments with which a call gets as far as it can without running anything.
_OTHERS: dict[str, Json] = {
    "add_cell": {"path": "n.ipynb", "cell_type": "raw", "source": "x"},
    "cancel_execution": {"execution_id": "x"},
    "create_notebook": {"path": "new.ipynb"},
    "edit_notebook": {"path": "n.ipynb", "operations": [{"op": "remove", "index": 9}]},
    "execute_cell": {"kernel_id": "x", "code": "x"},
    "execute_notebook": {"path": "missing.ipynb"},
    "execute_notebook_batch": {"input_path": "missing.ipynb", "parameters": [{}]},
    "execute_notebook_cell": {"path": "missing.ipynb", "index": 0},
    "execute_notebook_papermill": {"input_path": "missing.ipynb"},
    "get_execution": {"execution_id": "x"},
    "get_notebook_info": {"path": "n.ipynb"},
    "inspect_variables": {"kernel_id": "x"},
    "read_notebook": {"path": "n.ipynb"},
    "remove_cell": {"path": "n.ipynb", "cell_id": "none"},
    "search_notebooks": {"query": "x"},
    "start_jupyter_server": {"root_directory": "missing"},
    "start_kernel": {"kernel_name": "none"},
    "update_cell": {"path": "n.ipynb", "cell_id": "c0", "source": "x"},
    "write_notebook": {"path": "new.ipynb", "content": {"cells": []}},
}
_TEXTS = [
    (tool, name)
    for tool, schema in TOOLS.items()
    for name, member in schema["properties"].items()
    if member.get("type") == "string" and "enum" not in member
]


@pytest.fixture(autouse=True)
def notebook(workspace: Path) -> Path:
    return write_notebook(workspace / "n.ipynb", ["one", "two", cell("three", "markdown")])


@pytest.mark.case("B05")
@pytest.mark.slow
@pytest.mark.parametrize(("tool", "name"), _TEXTS, ids=[".".join(one) for one in _TEXTS])
async def test_a_text_of_any_length_gets_a_short_answer_at_once(tool: str, name: str, client: Connect) -> None:
    """Empty, one character, and 4 MB, for every text that any tool takes."""
    async with client() as connected:
        for text in ("", "x", "x" * 4_000_000, "é\u202e😀" * 1_000_000):
            began = time.monotonic()
            result = await connected.call_tool(tool, _OTHERS.get(tool, {}) | {name: text})
            assert time.monotonic() - began < 5
            assert len(text_of(result)) < 100_000
            if result.is_error:
                assert text_of(result).partition(":")[0] in CODES, text_of(result)[:300]
                assert len(text_of(result)) < 3000
        await call(connected, "read_notebook", path="n.ipynb", outline=True)


@pytest.mark.case("B04")
@pytest.mark.parametrize("index", [3, 4, -4, 10**9, 10**30, -(10**30), 2**63, -(2**63)])
@pytest.mark.parametrize("tool", ["update_cell", "remove_cell", "execute_notebook_cell", "edit_notebook"])
async def test_an_index_out_of_range_is_told_with_the_range(
    tool: str, index: int, client: Connect, notebook: Path
) -> None:
    """Negative ones count from the end."""
    before = digest(notebook)
    given: Json = {"index": index} | ({"source": "x"} if tool == "update_cell" else {})
    if tool == "edit_notebook":
        given = {"operations": [{"op": "update", "index": index, "source": "x"}]}
    async with client() as connected:
        result = await connected.call_tool(tool, {"path": "n.ipynb"} | given)
        message = text_of(result)
    assert result.is_error
    assert message.startswith(("CELL_NOT_FOUND: ", "INVALID_ARGUMENT: ")), message
    assert "3 cells" in message or "must be" in message, message
    assert len(message) < 1000
    assert digest(notebook) == before


@pytest.mark.case("B04")
@pytest.mark.parametrize("index", [-3, -1, 0, 2])
async def test_an_index_in_range_names_its_cell(index: int, client: Connect, notebook: Path) -> None:
    async with client() as connected:
        changed = await call(connected, "update_cell", path="n.ipynb", index=index, source="changed")
    assert changed["cell"]["index"] == index % 3
    assert "".join(read_json(notebook)["cells"][index]["source"]) == "changed"


# What an argument must not make the server do

_watched: list[tuple[str, str]] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event in ("open", "socket.connect", "socket.getaddrinfo"):
        _watched.append((event, str(arguments[:2])))


@pytest.fixture
def watched() -> Iterator[list[tuple[str, str]]]:
    """The files that this process opens and the hosts that it looks for."""
    global _watched
    if _hook not in _installed:
        sys.addaudithook(_hook)  # there is no way to take one away again
        _installed.append(_hook)
    seen: list[tuple[str, str]] = []
    _watched = seen
    yield seen
    _watched = None


_installed: list[object] = []


@pytest.mark.case("B12")
async def test_parameters_are_no_address_and_no_file_outside_the_workspace(
    client: Connect, workspace: Path, watched: list[tuple[str, str]]
) -> None:
    (workspace / "parameters.yaml").write_text("CANARY: 1")
    watched.clear()
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]"
    texts = ["/etc/hostname", "parameters.yaml", "http://canary.invalid/p.yaml", "s3://canary.invalid/p", bomb, "3"]
    async with client() as connected:
        for value in (*texts, ["x"], 3, True):
            for tool in ("execute_notebook_papermill", "execute_notebook_batch"):
                wrong: Any = value if tool.endswith("papermill") or not isinstance(value, list) else [*texts]
                result = await connected.call_tool(tool, {"input_path": "n.ipynb", "parameters": wrong})
                # A batch takes a file of parameters in the workspace; there it reads a mapping as one set.
                codes = ("INVALID_ARGUMENT: ", *(("PATH_NOT_ALLOWED: ",) if tool.endswith("batch") else ()))
                if (tool, value) != ("execute_notebook_batch", "parameters.yaml"):
                    assert text_of(result).startswith(codes), text_of(result)
                    assert "parameters" in text_of(result) or str(value) in text_of(result)
                    assert "CANARY" not in text_of(result)
    assert [seen for seen in watched if "canary" in seen[1] or "/etc/hostname" in seen[1]] == []
    assert [seen for seen in watched if seen[0] != "open" and "127.0.0.1" not in seen[1]] == []


def nested(depth: int) -> Any:
    """The client of these tests sends no more than some 200 levels."""
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.case("B20")
@pytest.mark.parametrize(
    "metadata",
    [{f"key {n}": n for n in range(100_000)}, nested(100), {"__proto__": {"x": 1}, "constructor": 1}, {"n": 10**4000}],
    ids=["keys", "depth", "prototype", "digits"],
)
@pytest.mark.parametrize("tool", ["update_cell", "add_cell", "edit_notebook", "write_notebook"])
async def test_metadata_of_any_size_are_stored_as_they_are_or_refused(
    tool: str, metadata: Json, client: Connect, workspace: Path, notebook: Path
) -> None:
    before = read_json(notebook)
    given: dict[str, Json] = {
        "update_cell": {"index": 2, "metadata": metadata},
        "add_cell": {"cell_type": "markdown", "source": "x", "metadata": metadata},
        "edit_notebook": {"operations": [{"op": "set_metadata", "index": 2, "metadata": metadata}]},
        "write_notebook": {"overwrite": True, "content": {"cells": [{**before["cells"][2], "metadata": metadata}]}},
    }
    async with client() as connected:
        result = await connected.call_tool(tool, {"path": "n.ipynb"} | given[tool])
        assert len(text_of(result)) < 100_000
        if result.is_error:
            assert text_of(result).partition(":")[0] in CODES, text_of(result)[:300]
            assert read_json(notebook) == before
        else:
            assert read_json(notebook)["cells"][-1]["metadata"] == metadata
        await call(connected, "read_notebook", path="n.ipynb", outline=True)
