"""What every tool owes its callers: descriptions, hints, strict arguments, portable schemas, and few tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, MakeConfig, StartRaw
from helpers import (
    REPOSITORY,
    refused,
)
from mcp_types import Tool

from papermill_mcp.config import Config
from papermill_mcp.errors import ErrorCode
from papermill_mcp.server.app import build_server
from papermill_mcp.server.sdk import registered_tools
from papermill_mcp.tools import finding

_SNAPSHOTS = REPOSITORY / "tests" / "snapshots"
_MAX_TOKENS = 9500
_MAX_CORE_TOKENS = 5500

#: Tools that may return images, and so declare no output schema.
_IMAGE_TOOLS = {
    "compare_notebooks",
    "add_cell",
    "cancel_execution",
    "edit_notebook",
    "execute_cell",
    "execute_notebook",
    "execute_notebook_batch",
    "execute_notebook_cell",
    "execute_notebook_papermill",
    "get_execution",
    "read_notebook",
    "update_cell",
    "verify_notebook",
}
_WRITING = {
    "write_notebook",
    "create_notebook",
    "add_cell",
    "remove_cell",
    "update_cell",
    "edit_notebook",
    "restore_notebook",
    "execute_notebook",
    "execute_notebook_cell",
    "execute_notebook_papermill",
    "execute_notebook_batch",
    "install_packages",
}
#: Runs code of the user's, the `repr` of values, though it changes nothing.
_LOOKING = {"inspect_variables"}
_EXECUTING = _LOOKING | {
    "start_kernel",
    "stop_kernel",
    "interrupt_kernel",
    "restart_kernel",
    "cleanup_all_kernels",
    "execute_cell",
    "execute_notebook",
    "execute_notebook_cell",
    "execute_notebook_papermill",
    "execute_notebook_batch",
    "cancel_execution",
    "install_packages",
    "start_jupyter_server",
    "stop_jupyter_server",
    "verify_notebook",
}
_NOTEBOOK = {
    "read_notebook",
    "write_notebook",
    "create_notebook",
    "add_cell",
    "remove_cell",
    "update_cell",
    "edit_notebook",
    "search_notebooks",
    "list_notebook_files",
    "get_notebook_info",
    "notebook_history",
    "restore_notebook",
    "compare_notebooks",
}
_KERNEL = {
    "list_kernels",
    "start_kernel",
    "stop_kernel",
    "interrupt_kernel",
    "restart_kernel",
    "get_kernel_status",
    "cleanup_all_kernels",
    "inspect_variables",
    "execute_cell",
    "install_packages",
}
_SERVER = {"start_jupyter_server", "stop_jupyter_server", "debug_list_runtime_dir"}


def _listed(config: Config) -> list[Tool]:
    """The tools as `tools/list` sends them."""
    return [
        Tool(
            name=tool.name,
            title=tool.title,
            description=tool.description,
            input_schema=tool.parameters,
            output_schema=tool.output_schema,
            annotations=tool.annotations,
            _meta=tool.meta,
        )
        for tool in registered_tools(build_server(config))
    ]


_TOOLS = _listed(Config())
_NAMES = [tool.name for tool in _TOOLS]


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item)


def _bounds(schema: dict[str, Any]) -> list[str]:
    return [format(schema[key], ".12g") for key in ("minimum", "maximum") if key in schema]


each_tool = pytest.mark.parametrize("tool", _TOOLS, ids=_NAMES)


# Listing


async def test_the_client_is_sent_the_tools_that_these_tests_look_at(client: Connect) -> None:
    async with client() as connected:
        sent = (await connected.list_tools()).tools

    assert [tool.model_dump(exclude={"meta"}) for tool in sent] == [
        tool.model_dump(exclude={"meta"}) for tool in _TOOLS
    ]


async def test_all_tools_together_cost_no_more_than_they_may(client: Connect) -> None:
    async with client() as connected:
        listing = await connected.list_tools()

    assert _tokens(listing.tools) <= _MAX_TOKENS


def _tokens(tools: Sequence[Tool]) -> float:
    """The tokens of a list of tools, a fourth of its bytes. `_meta` is for the client."""
    rows = [tool.model_dump(by_alias=True, exclude_none=True, exclude={"meta"}) for tool in tools]
    return len(json.dumps(rows, separators=(",", ":")).encode()) / 4


# Descriptions


@each_tool
def test_a_tool_is_described_and_has_a_title(tool: Tool) -> None:
    assert tool.title
    assert tool.description
    assert tool.description.strip() == tool.description
    assert "\n " not in tool.description, "the indentation of the docstring is sent"


def _hints(tool: Tool) -> dict[str, bool]:
    """The hints as a client takes them. The protocol says what absence means."""
    assert tool.annotations is not None
    absent = {"read_only_hint": False, "destructive_hint": True, "idempotent_hint": False, "open_world_hint": True}
    return absent | tool.annotations.model_dump(exclude_none=True)


@each_tool
def test_a_tool_says_no_hint_that_its_absence_says(tool: Tool) -> None:
    assert tool.annotations is not None
    said = tool.annotations.model_dump(exclude_none=True)
    absent = {"read_only_hint": False, "destructive_hint": True, "idempotent_hint": False, "open_world_hint": True}
    assert not said.items() & absent.items()
    if said.get("read_only_hint"):
        assert not {"destructive_hint", "idempotent_hint"} & said.keys(), "they mean nothing here"


@each_tool
def test_the_hints_of_a_tool_are_true(tool: Tool) -> None:
    hints = _hints(tool)
    assert hints["read_only_hint"] is (tool.name not in _WRITING | _EXECUTING - _LOOKING)
    if tool.name in ("remove_cell", "update_cell", "edit_notebook", "write_notebook", "stop_kernel", "execute_cell"):
        assert hints["destructive_hint"]
    if tool.name in ("start_kernel", "start_jupyter_server"):
        assert not hints["destructive_hint"]
    if tool.name.startswith("execute_"):
        assert hints["open_world_hint"]
    if tool.name.startswith(("list_", "search_", "read_", "get_")):
        assert not hints["open_world_hint"]


@each_tool
def test_every_parameter_is_described_with_its_bounds_and_default(tool: Tool) -> None:
    """Some clients show the model only the description."""
    for name, schema in tool.input_schema.get("properties", {}).items():
        description = schema.get("description", "")
        assert description, name
        plain = description.replace(",", "").replace("_", "")
        for bound in _bounds(schema):
            assert re.search(rf"(?<![\d.]){re.escape(bound)}(?![\d.]\d)", plain), f"{name}: {bound} is not told"
        if "enum" in schema:
            assert all(str(value) in description for value in schema["enum"]), name
        default = schema.get("default")
        if isinstance(default, str | bool) or (default is not None and not isinstance(default, list | dict)):
            reported = json.dumps(default).strip('"')
            assert reported in description, f"{name}: the default {reported} is not told"


@each_tool
def test_the_schemas_of_a_tool_are_portable(tool: Tool) -> None:
    for schema in (tool.input_schema, tool.output_schema or {"type": "object"}):
        assert schema["type"] == "object"
        assert not {"anyOf", "oneOf", "allOf"} & schema.keys()
        for node in _walk(schema):
            assert "$ref" not in node
            assert "$defs" not in node
            assert node.get("items") != {}  # some clients refuse a list of anything
    assert tool.input_schema["additionalProperties"] is False
    json.dumps(tool.input_schema, allow_nan=False)


@each_tool
def test_a_tool_declares_an_output_schema_unless_it_may_return_images(tool: Tool) -> None:
    assert (tool.output_schema is None) is (tool.name in _IMAGE_TOOLS)


@each_tool
def test_a_tool_is_in_the_readme_and_has_a_section_in_its_reference(tool: Tool) -> None:
    assert f"`{tool.name}`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"\n### {tool.name}\n" in (REPOSITORY / "docs" / "tools.md").read_text(encoding="utf-8")


@pytest.mark.case("J23")
@each_tool
def test_the_schemas_of_a_tool_change_only_on_purpose(tool: Tool, request: pytest.FixtureRequest) -> None:
    """After a change that is meant: pytest --update-snapshots tests/unit/tools/test_tools_contract.py."""
    now = json.dumps(tool.model_dump(by_alias=True, exclude_none=True), indent=1, sort_keys=True) + "\n"
    file = _SNAPSHOTS / f"{tool.name}.json"
    if request.config.getoption("--update-snapshots"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")

    assert file.exists(), f"{file.name} is missing; write it with --update-snapshots"
    assert now == file.read_text(encoding="utf-8")


def test_no_snapshot_is_of_a_tool_that_is_gone() -> None:
    assert {file.stem for file in _SNAPSHOTS.glob("*.json")} <= set(_NAMES)


async def test_descriptions_state_the_defaults_in_force(raw_server: StartRaw) -> None:
    flags = "--execution-timeout 300 --response-wait 0.5 --max-output-chars 2000 --continue-on-error true"
    async with raw_server(*flags.split(), "--max-kernels", "3") as server:
        tools = (await server.request("tools/list"))["tools"]

    stated = {
        (name, schema["description"].partition("Default: ")[2])
        for tool in tools
        for name, schema in tool["inputSchema"]["properties"].items()
        if name in ("timeout", "wait", "max_chars", "continue_on_error", "max_parallel")
        and tool["name"] != "get_execution"  # its wait has a default of its own
    }
    assert stated == {
        ("timeout", "as set (300)."),
        ("wait", "as set (0.5)."),
        ("max_chars", "as the server is set (2000)."),
        ("continue_on_error", "as set (true)."),
        ("max_parallel", "as the machine bears, at most 3; all on a cluster."),
    }


@each_tool
def test_no_description_has_an_open_place(tool: Tool) -> None:
    assert "$" not in json.dumps(tool.model_dump(by_alias=True, exclude_none=True))


def test_servers_in_one_process_state_their_own_defaults() -> None:
    def timeout_of(tools: list[Tool]) -> str:
        (schema,) = [tool.input_schema for tool in tools if tool.name == "execute_cell"]
        return str(schema["properties"]["timeout"]["description"])

    assert "(7)" in timeout_of(_listed(Config(execution_timeout=7)))
    assert timeout_of(_listed(Config())) == timeout_of(_TOOLS)


# Strict arguments

_VALUES: dict[str, Any] = {
    "string": "x",
    "integer": 3,
    "number": 3.5,
    "boolean": True,
    "array": [],
    "object": {},
}
_WRONG: dict[str, list[Any]] = {
    "string": [3, 1.5, True, ["x"], {"a": 1}],
    "selection": [1.5, True, [True], [1.5], [], {"a": 1}],
    "integer": ["three", "1.5", "true", "0x3", "3 4", 1.5, True, [3], {"a": 1}],
    "number": ["three", "NaN", "1e999", "[3]", True, [3.0], {"a": 1}],
    "boolean": [0, 1, "1", "yes", []],
    "array": ["a", "{}", "[1", 3, True, {"a": 1}],
    "array or string": [3, 1.5, True, {"a": 1}, [1]],
    "object": ["[]", '{"a": 1, "a": 2}', '{"a": NaN}', "a: 1", 3, True, [1]],
}


def _kind(schema: dict[str, Any]) -> str:
    """The type of a schema. A list may also be a text that names a file."""
    return str(schema["type"]) if "type" in schema else " or ".join(kind["type"] for kind in schema["anyOf"])


def _valid(schema: dict[str, Any]) -> Any:
    return schema["enum"][0] if "enum" in schema else _VALUES[_kind(schema)]


def _required(tool: Tool) -> dict[str, Any]:
    """Arguments that the signature accepts."""
    properties = tool.input_schema.get("properties", {})
    return {name: _valid(properties[name]) for name in tool.input_schema.get("required", [])}


@pytest.mark.case("B01")
@each_tool
async def test_an_unknown_argument_is_answered_with_the_nearest_name(tool: Tool, client: Connect) -> None:
    names = list(tool.input_schema.get("properties", {}))
    almost = f"{names[0][:-1]}x" if names else "path"

    async with client() as connected:
        message = await refused(connected, tool.name, **_required(tool), **{almost: "x"})

    assert message.startswith("UNKNOWN_ARGUMENT: ")
    assert repr(almost) in message
    assert "Nothing was done." in message
    for name in names:
        assert name in message
    if names:
        assert f"did you mean {names[0]!r}?" in message


@pytest.mark.case("B02")
@each_tool
async def test_a_required_argument_that_is_missing_is_named(tool: Tool, client: Connect) -> None:
    arguments = _required(tool)
    async with client() as connected:
        for name in arguments:
            rest = {key: value for key, value in arguments.items() if key != name}
            message = await refused(connected, tool.name, **rest)
            assert message.startswith("INVALID_ARGUMENT: ")
            assert repr(name) in message
            assert "pydantic" not in message


@pytest.mark.case("B03")
@each_tool
async def test_null_for_a_required_argument_is_refused(tool: Tool, client: Connect) -> None:
    arguments = _required(tool)
    async with client() as connected:
        for name in arguments:
            message = await refused(connected, tool.name, **arguments | {name: None})
            assert message.startswith("INVALID_ARGUMENT: ")
            assert repr(name) in message


@pytest.mark.case("B03", "B15")
@each_tool
async def test_a_value_of_another_type_is_refused_and_not_converted(tool: Tool, client: Connect) -> None:
    properties = tool.input_schema.get("properties", {})
    async with client() as connected:
        for name, schema in properties.items():
            for value in _WRONG["selection" if name == "cells" and schema["type"] == "string" else _kind(schema)]:
                message = await refused(connected, tool.name, **_required(tool) | {name: value})
                assert message.startswith("INVALID_ARGUMENT: "), f"{name}={value!r}: {message}"
                assert f"{name!r}" in message or f"'{name}." in message or f"'{name}[" in message
                assert "must be " in message
                assert "pydantic" not in message


@pytest.mark.case("B09", "B15")
@each_tool
async def test_a_value_out_of_bounds_is_refused_with_the_bounds(tool: Tool, client: Connect) -> None:
    async with client() as connected:
        for name, schema in tool.input_schema.get("properties", {}).items():
            outside = [schema[key] + step for key, step in (("minimum", -1), ("maximum", 1)) if key in schema]
            if "enum" in schema:
                outside += ["evil", schema["enum"][0].upper(), "x" * 200]
            for value in outside:
                message = await refused(connected, tool.name, **_required(tool) | {name: value})
                assert message.startswith("INVALID_ARGUMENT: ")
                assert repr(name) in message
                assert len(message) < 1000
                for allowed in [*_bounds(schema), *schema.get("enum", [])]:
                    assert allowed in message.replace(",", "").replace("_", ""), message


@pytest.mark.case("B01", "B02", "B03", "B09")
async def test_an_item_of_a_list_is_as_strict_as_an_argument(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        unknown = await refused(
            connected, "create_notebook", path="a.ipynb", cells=[{"cell_type": "code", "source": "", "tag": []}]
        )
        kind = await refused(connected, "create_notebook", path="a.ipynb", cells=[{"cell_type": "Code", "source": ""}])
        missing = await refused(connected, "create_notebook", path="a.ipynb", cells=[{"cell_type": "code"}])
        text = await refused(connected, "create_notebook", path="a.ipynb", cells=[{"cell_type": "code", "source": 3}])

    assert unknown.startswith("UNKNOWN_ARGUMENT: ")
    assert "cells[0].tag" in unknown
    for message, place in ((kind, "cells[0].cell_type"), (missing, "cells[0].source"), (text, "cells[0].source")):
        assert message.startswith("INVALID_ARGUMENT: ")
        assert place in message
    assert list(workspace.iterdir()) == []


@pytest.mark.case("B16")
async def test_an_unknown_tool_is_an_error(client: Connect) -> None:
    async with client() as connected:
        for name in ("read_notebok", "Read_Notebook"):
            assert name in await refused(connected, name, path="a.ipynb")


@pytest.mark.case("B16")
async def test_the_answer_to_an_unknown_tool_does_not_repeat_much_of_its_name(client: Connect) -> None:
    async with client() as connected:
        message = await refused(connected, "x" * 1_000_000)

    assert len(message) < 1000
    assert "x" * 201 not in message


def test_the_codes_of_errors_are_the_published_ones() -> None:
    published = (
        "UNKNOWN_ARGUMENT, INVALID_ARGUMENT, PATH_NOT_ALLOWED, NOT_FOUND, ALREADY_EXISTS, NOT_A_NOTEBOOK, "
        "INVALID_NOTEBOOK, TOO_LARGE, CONFLICT, BUSY, CELL_NOT_FOUND, KERNEL_NOT_FOUND, KERNELSPEC_NOT_FOUND, "
        "KERNEL_START_FAILED, KERNEL_DIED, KERNEL_UNRESPONSIVE, LIMIT_REACHED, TIMEOUT, INVALID_PARAMETERS, "
        "EXECUTION_NOT_FOUND, SERVER_START_FAILED, SERVER_NOT_RUNNING, PERMISSION_DENIED, DISK_FULL, NOT_CONFIGURED, "
        "ENVIRONMENT_FAILED"
    )

    assert [str(code) for code in ErrorCode] == published.split(", ")


# Which tools there are


def names(config: Config) -> set[str]:
    return {tool.name for tool in _listed(config)}


def test_a_server_that_may_not_write_has_no_tool_that_does(config: MakeConfig) -> None:
    assert names(config(read_only=True)) == set(_NAMES) - _WRITING


def test_a_server_that_may_not_run_code_has_no_tool_that_does(config: MakeConfig) -> None:
    assert names(config(no_execute=True)) == set(_NAMES) - _EXECUTING


def test_a_server_that_may_not_run_code_does_not_look_at_variables_either(config: MakeConfig) -> None:
    assert "inspect_variables" in _NAMES
    assert "inspect_variables" not in names(config(no_execute=True))


def test_both_limits_hold_together(config: MakeConfig) -> None:
    left = names(config(read_only=True, no_execute=True))

    assert left == set(_NAMES) - _WRITING - _EXECUTING
    assert "read_notebook" in left


@pytest.mark.parametrize(("toolset", "expected"), [("notebook", _NOTEBOOK), ("kernel", _KERNEL), ("server", _SERVER)])
def test_a_toolset_holds_its_own_tools_and_no_others(toolset: str, expected: set[str], config: MakeConfig) -> None:
    chosen = names(config(toolsets=[toolset]))

    assert chosen
    assert chosen == set(_NAMES) & expected


def test_the_toolsets_together_hold_every_tool_once(config: MakeConfig) -> None:
    found = [
        tool.name for one in ("notebook", "kernel", "execution", "server") for tool in _listed(config(toolsets=[one]))
    ]

    assert sorted(found) == sorted(_NAMES)


def test_the_core_has_the_tools_for_nearly_all_work(config: MakeConfig) -> None:
    core = _listed(config(toolsets=["core"]))

    assert {tool.name for tool in core} == finding.CORE
    assert _tokens(core) <= _MAX_CORE_TOKENS
    assert names(config(toolsets=["core", "server"])) == finding.CORE | _SERVER
    assert config(toolsets=["core"]).groups == {"notebook", "kernel", "execution", "server"}


def test_clients_that_defer_tools_find_them(config: MakeConfig) -> None:
    """Nine at most are always loaded, and each of the others has words to search by."""
    metas = {tool.name: tool.meta or {} for tool in _listed(config())}
    always = {name for name, meta in metas.items() if meta.get("anthropic/alwaysLoad")}

    assert len(always) == 9
    assert always <= finding.CORE
    for name, meta in metas.items():
        words = str(meta.get("anthropic/searchHint"))
        assert (name in always) or name in _SERVER or ("jupyter" in words and len(words) <= 100)
        assert (meta.get("anthropic/maxResultSizeChars") is not None) is (name in _IMAGE_TOOLS)


def test_the_instructions_are_short(config: MakeConfig) -> None:
    instructions = build_server(config()).instructions
    assert instructions is not None
    assert len(instructions.split()) <= 160


async def test_a_tool_that_is_left_out_cannot_be_called_either(client: Connect, workspace: Path) -> None:
    async with client(read_only=True) as connected:
        assert "create_notebook" in await refused(connected, "create_notebook", path="a.ipynb")

    assert not (workspace / "a.ipynb").exists()
