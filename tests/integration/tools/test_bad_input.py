"""Bad input through the protocol, for each tool: one clear error, files as they were, nothing left running."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import AddKernelspec, Connect
from helpers import call, cell, facts_of, refused, text_of, write_notebook
from mcp import Client
from mcp_types import Tool

from papermill_mcp.config import Config
from papermill_mcp.errors import ErrorCode
from papermill_mcp.server.app import build_server
from papermill_mcp.server.sdk import registered_tools

pytestmark = pytest.mark.kernel

_TOOLS = {
    tool.name: Tool(name=tool.name, input_schema=tool.parameters) for tool in registered_tools(build_server(Config()))
}
_PATHS = ("path", "input_path", "output_path", "cwd", "directory", "root_directory", "output_directory")
_WRITES = ("create_notebook", "write_notebook")

#: Each tool that takes the path of something, with the name of that argument.
_PATH_ARGUMENTS = [
    (name, argument)
    for name, tool in _TOOLS.items()
    for argument in _PATHS
    if argument in tool.input_schema.get("properties", {})
]
_ASKING = ["get_kernel_status", "inspect_variables", "interrupt_kernel", "restart_kernel", "stop_kernel"]
_KERNEL_TOOLS = ["execute_cell", *_ASKING]
_OF_HISTORY = ("notebook_history", "restore_notebook")  # they take a file in any state
_NOTEBOOK_ARGUMENTS = [
    (name, argument)
    for name, argument in _PATH_ARGUMENTS
    if argument in ("path", "input_path") and name not in (*_WRITES, *_ASKING, *_OF_HISTORY, "search_notebooks")
]
_EXECUTION_TOOLS = [name for name, tool in _TOOLS.items() if "execution_id" in tool.input_schema.get("required", [])]

#: Arguments that make a call complete, for those that a tool may need.
_COMPLETE: dict[str, Any] = {
    "path": "good.ipynb",
    "input_path": "good.ipynb",
    "cell_type": "code",
    "source": "x",
    "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
    "operations": [{"op": "remove", "index": 0}],
    "with": "good.ipynb",
    "query": "x",
    "code": "1",
    "packages": ["nothing-like-it"],
    "kernel_id": "0" * 24,
    "execution_id": "0" * 24,
    "index": 0,
    "parameters": {},
}


def arguments(tool: str, **given: Any) -> dict[str, Any]:
    """Arguments of a call that would succeed, with those given in place of the good ones."""
    schema = _TOOLS[tool].input_schema
    chosen = {name: _COMPLETE[name] for name in schema.get("required", [])}
    if tool in ("remove_cell", "update_cell", "execute_notebook_cell"):
        chosen["index"] = 0
    if tool == "update_cell":
        chosen["source"] = "y"
    if tool == "execute_notebook_batch":
        chosen |= {"input_path": "good.ipynb", "parameters": [{}]}
    return chosen | given


def content_of(directory: Path) -> dict[str, str]:
    """A hash of each file below a directory, links and special files by what they are."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "other"
    return found


@pytest.fixture(autouse=True)
def good(workspace: Path) -> Path:
    """A notebook that nothing is wrong with."""
    return write_notebook(workspace / "good.ipynb", [cell("x = 1", tags=["parameters"]), "print(x)"])


@contextmanager
def about(what: str) -> Iterator[None]:
    """Name what a failure is about, where one test looks at many things."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {what}")
        raise


@contextmanager
def unchanged(workspace: Path) -> Iterator[None]:
    """Nothing in the workspace or beside it changes."""
    before = content_of(workspace.parent)
    state = {name for name in before if name.startswith("state")}
    yield
    after = {name: value for name, value in content_of(workspace.parent).items() if not name.startswith("state")}
    assert after == {name: value for name, value in before.items() if name not in state}


def check_form(message: str, *codes: str) -> None:
    """An error has a published code and reads like a sentence, not like a traceback."""
    code = message.partition(":")[0]
    assert code in {str(known) for known in ErrorCode}
    assert code in codes, message
    assert message.endswith((".", "!", "?")), message
    assert "Traceback" not in message
    assert len(message) < 3000


async def no_kernels(client: Client) -> None:
    """The server lives, and no kernel was started."""
    assert "active: none" in text_of(await client.call_tool("list_kernels", {}))


# Contents

_BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "NOT_A_NOTEBOOK"),
    "list": (b"[]", "NOT_A_NOTEBOOK"),
    "number": (b"3", "NOT_A_NOTEBOOK"),
    "null": (b"null", "NOT_A_NOTEBOOK"),
    "text": (b"my diary", "NOT_A_NOTEBOOK"),
    "object": (b'{"a": 1}', "NOT_A_NOTEBOOK"),
    "no cells": (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "NOT_A_NOTEBOOK"),
    "UTF-16": ('{"cells": []}'.encode("utf-16"), "NOT_A_NOTEBOOK"),
    "latin-1": (b'{"nbformat": 4, "cells": [], "metadata": {"a": "\xe9"}}', "INVALID_NOTEBOOK"),
    "NULs": (b"\0" * 100, "NOT_A_NOTEBOOK"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "NOT_A_NOTEBOOK"),
    "merge markers": (b'{\n<<<<<<< HEAD\n "a": 1,\n=======\n>>>>>>> x\n}', "INVALID_NOTEBOOK"),
    "cut off": (b'{"cells": [{"cell_type": "code", "sour', "INVALID_NOTEBOOK"),
    "deep": (b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "INVALID_NOTEBOOK"),
    "version 99": (b'{"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 0}', "INVALID_NOTEBOOK"),
    "long number": (b'{"cells": [], "metadata": {"a": ' + b"9" * 5000 + b'}, "nbformat": 4}', "INVALID_NOTEBOOK"),
    "cells an object": (b'{"cells": {}, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "INVALID_NOTEBOOK"),
    "cell a number": (b'{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "INVALID_NOTEBOOK"),
}


@pytest.mark.case("N01", "N02", "N04", "N05", "N06", "N07", "N08", "N09", "N10", "N11", "N12")
async def test_a_broken_notebook_is_told_with_what_is_wrong(client: Connect, workspace: Path) -> None:
    for name, (data, _) in _BROKEN.items():
        file = workspace / f"{name}.ipynb"
        file.write_bytes(data)
        os.utime(file, (1, 1))  # a young file is read twice
    async with client() as connected:
        for tool, argument in _NOTEBOOK_ARGUMENTS:
            with about(f"{tool} {argument}"), unchanged(workspace):
                for name, (_, code) in _BROKEN.items():
                    result = await connected.call_tool(tool, arguments(tool, **{argument: f"{name}.ipynb"}))
                    if not result.is_error:
                        # A tool that describes notebooks may name what is wrong in a reply.
                        assert facts_of(result).get("problems"), (name, text_of(result))
                        continue
                    check_form(text_of(result), code)
                    assert name in text_of(result)
                    assert "AttributeError" not in text_of(result)
                    assert "RecursionError" not in text_of(result)
        await no_kernels(connected)


async def test_a_notebook_over_the_limit_is_refused_with_the_limit(
    client: Connect, workspace: Path, good: Path
) -> None:
    write_notebook(workspace / "large.ipynb", ["x" * 5000])
    async with client(max_notebook_bytes=4096) as connected:
        with unchanged(workspace):
            for tool, argument in _NOTEBOOK_ARGUMENTS:
                message = await refused(connected, tool, **arguments(tool, **{argument: "large.ipynb"}))
                check_form(message, "TOO_LARGE")
                assert "4,096" in message or "4096" in message
        await no_kernels(connected)


# Kernels and executions


@pytest.mark.case("B13")
@pytest.mark.parametrize(
    "name", ["python4", "../../x", "-c", "..", "python3;id", "x" * 300, "Python3 ", "none/python3"]
)
async def test_a_kernel_that_is_not_installed_is_answered_with_those_that_are(
    name: str, client: Connect, workspace: Path
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("start_kernel", {"kernel_name": name}),
        ("create_notebook", {"path": "new.ipynb", "kernel": name}),
        ("execute_notebook_papermill", {"input_path": "good.ipynb", "kernel_name": name}),
    ]
    async with client() as connected:
        with unchanged(workspace):
            for tool, given in calls:
                message = await refused(connected, tool, **given)
                check_form(message, "KERNELSPEC_NOT_FOUND")
                assert "python3" in message
                assert len(message) < 1000
        await no_kernels(connected)


async def test_a_notebook_of_a_kernel_that_is_not_installed_is_not_run(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "other.ipynb", ["1"], kernel="cobol", language="cobol")
    async with client() as connected:
        with unchanged(workspace):
            for tool, argument in (("execute_notebook", "path"), ("execute_notebook_papermill", "input_path")):
                message = await refused(connected, tool, **{argument: "other.ipynb"})
                check_form(message, "KERNELSPEC_NOT_FOUND")
                assert "'cobol'" in message
        await no_kernels(connected)


@pytest.mark.case("N22")
async def test_metadata_of_a_notebook_cannot_define_a_command(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "evil.ipynb", ["print('ran')"])
    notebook = json.loads(path.read_text())
    notebook["metadata"]["kernelspec"] |= {
        "argv": ["touch", str(workspace / "pwned")],
        "env": {"PYTHONSTARTUP": "/pwned"},
        "language": "python\nimport os",
    }
    path.write_text(json.dumps(notebook))
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="evil.ipynb")

    assert facts["status"] == "ok"
    assert not (workspace / "pwned").exists()


@pytest.mark.case("K07")
async def test_a_kernel_that_cannot_start_is_told_and_the_notebook_stays(
    client: Connect, workspace: Path, kernelspec: AddKernelspec
) -> None:
    kernelspec("broken", ["/nowhere/interpreter", "{connection_file}"])
    write_notebook(workspace / "other.ipynb", ["1"], kernel="broken")
    async with client() as connected:
        with unchanged(workspace):
            for tool, given in (
                ("start_kernel", {"kernel_name": "broken"}),
                ("execute_notebook", {"path": "other.ipynb"}),
                ("execute_notebook_papermill", {"input_path": "other.ipynb", "output_path": "out.ipynb"}),
            ):
                check_form(await refused(connected, tool, **given), "KERNEL_START_FAILED")
        await no_kernels(connected)


@pytest.mark.case("B14")
@pytest.mark.parametrize("tool", _KERNEL_TOOLS)
async def test_an_unknown_kernel_is_not_found(tool: str, client: Connect) -> None:
    async with client() as connected:
        for kernel_id in ("x", "0" * 24, "../x", "a" * 5000, "python3"):
            message = await refused(connected, tool, **arguments(tool, kernel_id=kernel_id))
            check_form(message, "KERNEL_NOT_FOUND")
            assert "start_kernel" in message
            assert len(message) < 1000


@pytest.mark.case("B14")
@pytest.mark.parametrize("tool", _EXECUTION_TOOLS)
async def test_an_unknown_execution_is_not_found(tool: str, client: Connect) -> None:
    async with client() as connected:
        for execution_id in ("", "x", "0" * 24, "../x", "a" * 5000):
            message = await refused(connected, tool, execution_id=execution_id)
            check_form(message, "EXECUTION_NOT_FOUND")
            assert len(message) < 1000


async def test_a_cursor_that_is_none_is_told(client: Connect) -> None:
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        facts = await call(connected, "execute_cell", kernel_id=kernel_id, code="1")
        for cursor in ("x", "1", "1.2", "1.2.3.4", "-1.0.0", "1.0.0; drop", "9" * 100 + ".0.0", "\u0660.\u0660.\u0660"):
            message = await refused(connected, "get_execution", execution_id=facts["execution_id"], since=cursor)
            check_form(message, "INVALID_ARGUMENT")


@pytest.mark.case("B14", "K13")
async def test_a_kernel_that_was_stopped_is_not_found_and_the_answer_says_why(client: Connect) -> None:
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        await call(connected, "stop_kernel", kernel_id=kernel_id)
        for tool in _KERNEL_TOOLS:
            message = await refused(connected, tool, **arguments(tool, kernel_id=kernel_id))
            check_form(message, "KERNEL_NOT_FOUND")
            assert "was stopped" in message


@pytest.mark.case("B14")
async def test_ids_cannot_be_guessed(client: Connect) -> None:
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        ids = [(await call(connected, "execute_cell", kernel_id=kernel_id, code="1"))["execution_id"] for _ in range(3)]
        for identifier in ids:
            for step in (-1, 1):
                near = format(int(identifier, 16) + step, "024x")
                check_form(await refused(connected, "get_execution", execution_id=near), "EXECUTION_NOT_FOUND")

    for identifier in [kernel_id, *ids]:
        assert re.fullmatch(r"[0-9a-f]{24,}", identifier)
    assert len(set(ids)) == 3


# Cells and sources


@pytest.mark.parametrize("cells", ["9", "-9", "0-9", "5-2", "x", "", "1,,2", ",", "0;1", "1.5", "a" * 5000])
async def test_a_selection_that_names_no_cells_is_told(cells: str, client: Connect, workspace: Path) -> None:
    async with client() as connected:
        with unchanged(workspace):
            for tool in ("read_notebook", "execute_notebook"):
                if not cells:
                    continue  # an empty selection is none, which means all
                message = await refused(connected, tool, path="good.ipynb", cells=cells)
                check_form(message, "CELL_NOT_FOUND", "INVALID_ARGUMENT")
                assert len(message) < 1000
        await no_kernels(connected)


@pytest.mark.case("B04")
@pytest.mark.parametrize(
    "place",
    [
        {"index": 3},
        {"index": -3},
        {"index": 10**30},
        {"index": -(10**30)},
        {"after_cell_id": "c9"},
    ],
)
async def test_a_place_that_is_not_there_is_told_with_those_that_are(
    place: dict[str, Any], client: Connect, workspace: Path
) -> None:
    async with client() as connected:
        with unchanged(workspace):
            message = await refused(connected, "add_cell", path="good.ipynb", cell_type="code", source="x", **place)
    check_form(message, "CELL_NOT_FOUND", "INVALID_ARGUMENT")
    assert "2" in message or "c1" in message


async def test_two_places_at_once_are_refused(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        with unchanged(workspace):
            message = await refused(
                connected, "add_cell", path="good.ipynb", cell_type="code", source="x", index=0, after_cell_id="c0"
            )
    check_form(message, "INVALID_ARGUMENT")


async def test_an_edit_of_another_revision_is_a_conflict(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        with unchanged(workspace):
            message = await refused(
                connected, "add_cell", path="good.ipynb", cell_type="code", source="x", if_revision="0" * 16
            )
    check_form(message, "CONFLICT")


@pytest.mark.case("B07", "B08")
async def test_source_of_any_kind_is_stored_as_it_is(client: Connect, workspace: Path) -> None:
    source = "\x00\x1b[31m\u2028\r\n\t\u202eevil é 😀 \u0301\x7fשלום مرحبا" + "x" * 1_000_000
    async with client() as connected:
        await call(connected, "add_cell", path="good.ipynb", cell_type="markdown", source=source)
        shown = text_of(await connected.call_tool("read_notebook", {"path": "good.ipynb", "cells": "-1"}))

    stored = json.loads((workspace / "good.ipynb").read_text(encoding="utf-8"))["cells"][-1]["source"]
    assert (stored if isinstance(stored, str) else "".join(stored)) == source
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "⟨U+202E⟩" in shown


async def test_the_server_answers_after_all_of_it(client: Connect, workspace: Path) -> None:
    """Errors of one call do not reach the next."""
    async with client() as connected:
        for tool, argument in _PATH_ARGUMENTS:
            await refused(connected, tool, **arguments(tool, **{argument: "/etc/passwd"}))
        facts = await call(connected, "execute_notebook_papermill", input_path="good.ipynb", parameters={"x": 2})

    assert facts["status"] == "ok"
