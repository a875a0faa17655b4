"""Arguments are read by their schema: strict about meaning, forgiving about form, at every depth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from papermill_mcp.config import Config
from papermill_mcp.errors import InvalidArgumentError, ServerError
from papermill_mcp.server.app import build_server
from papermill_mcp.server.sdk import registered_tools
from papermill_mcp.tools.argument_errors import argument_error
from papermill_mcp.tools.names import OTHER_NAMES
from papermill_mcp.tools.reading import read_arguments
from papermill_mcp.utils.json_text import MAX_DEPTH, read_json

_TOOLS = {tool.name: tool for tool in registered_tools(build_server(Config()))}
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-3, 3).map(lambda x: round(x, 2))
    | st.sampled_from("ab1"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["op", "x"]), inner, max_size=2),
    max_leaves=4,
)


def read(tool: str, **arguments: Any) -> dict[str, Any]:
    return read_arguments(tool, _TOOLS[tool].parameters, arguments)


def outcome(tool: str, arguments: dict[str, Any]) -> object:
    """The validated arguments, or the message of the refusal."""
    schema = _TOOLS[tool].parameters
    try:
        arguments = read_arguments(tool, schema, arguments)
        return _TOOLS[tool].fn_metadata.validate_arguments(arguments)
    except ValidationError as error:
        return str(argument_error(tool, error, schema, arguments))
    except ServerError as error:
        return str(error)


# The plain form and the form of text


def _valid(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, within its bounds or a little outside."""
    match schema.get("type"):
        case "integer":
            return st.integers(schema.get("minimum", -3) - 1, schema.get("maximum", 3) + 1)
        case "number":
            return st.floats(schema.get("minimum", 0) - 1, schema.get("maximum", 3) + 1)
        case "boolean":
            return st.booleans()
        case "string":
            return st.sampled_from(schema.get("enum", ["a", "3", "true", "[1]", "code"]))
        case "array":
            return st.lists(_valid(schema.get("items", {})), max_size=2)
        case "object" if "properties" in schema:
            members = {name: _valid(member) for name, member in schema["properties"].items()}
            required = {name: members.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=members)
        case "object" if isinstance(values := schema.get("additionalProperties"), dict):
            return st.dictionaries(st.sampled_from("pq"), _valid(values), max_size=2)
        case "object":
            return st.dictionaries(st.sampled_from("pq"), _JSON, max_size=2)
        case _:
            return _JSON


def _as_text(draw: st.DrawFn, value: Any, schema: dict[str, Any], *, here: bool = False) -> Any:
    """The value with some of its parts as JSON text, wherever the schema takes no text; with `here` the whole."""
    kind = schema.get("type")
    if kind in (None, "string") or isinstance(value, str):
        return value
    if isinstance(value, list) and kind == "array":
        value = [_as_text(draw, item, schema.get("items", {})) for item in value]
    elif isinstance(value, dict) and kind == "object":
        known = schema.get("properties", {})
        others = schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        value = {name: _as_text(draw, item, known.get(name, others)) for name, item in value.items()}
    return json.dumps(value) if here or (value is not None and draw(st.booleans())) else value


_TYPED = [
    (tool.name, name)
    for tool in _TOOLS.values()
    for name, schema in tool.parameters["properties"].items()
    if schema.get("type") != "string"
]


@pytest.mark.case("B15")
@pytest.mark.parametrize(("tool", "name"), _TYPED, ids=[".".join(one) for one in _TYPED])
def test_json_text_has_the_result_or_the_error_of_the_plain_form(tool: str, name: str) -> None:
    """For values of the type, values out of bounds and values of other types."""
    schema = _TOOLS[tool].parameters["properties"][name]
    required = dict.fromkeys(_TOOLS[tool].parameters.get("required", ()), "x")

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        value = data.draw(_valid(schema) | _JSON.filter(lambda one: not isinstance(one, str)))
        text = data.draw(st.composite(_as_text)(value, schema, here=value is not None))
        assert outcome(tool, required | {name: text}) == outcome(tool, required | {name: value})

    check()


@pytest.mark.case("B15")
@pytest.mark.parametrize("text", ["3", "true", "null", "[1]", '{"a": 1}', '"x"', ""])
@pytest.mark.parametrize(
    ("tool", "name"),
    [("execute_cell", "code"), ("add_cell", "source"), ("update_cell", "new_text"), ("search_notebooks", "query")],
)
def test_free_text_stays_as_it_is(tool: str, name: str, text: str) -> None:
    assert read(tool, **{name: text}) == {name: text}


@pytest.mark.case("B15")
def test_any_json_is_not_read() -> None:
    """A value of a parameter, of metadata or of a grid is the value that was sent."""
    values = {"a": "3", "b": "[1]", "c": "null", "d": "", "e": None, "cellIndex": "true"}

    assert read("execute_notebook_papermill", parameters=values) == {"parameters": values}
    assert read("execute_notebook_batch", parameters=[values]) == {"parameters": [values]}
    assert read("execute_notebook_batch", grid={"x": ["3", "[1]"]}) == {"grid": {"x": ["3", "[1]"]}}
    assert read("update_cell", metadata=values) == {"metadata": values}
    operation = {"op": "set_metadata", "metadata": values}
    assert read("edit_notebook", operations=[operation]) == {"operations": [operation]}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [(1, "1"), (-1, "-1"), (1.0, "1"), ([0, "c2", 3.0], "0,c2,3"), ("[0, 1]", "0,1"), ("0-9", "0-9"), ("3", "3")],
)
def test_a_selection_takes_an_index_and_a_list(cells: Any, expected: str) -> None:
    assert read("read_notebook", cells=cells) == {"cells": expected}
    assert read("execute_notebook", cells=cells) == {"cells": expected}


def test_json_text_has_the_limits_of_the_protocol() -> None:
    for text in ('{"a": 1, "a": 2}', "NaN", "[Infinity]", "1e999", '"\\ud800"', "9" * 5000, "[" * 300 + "]" * 300):
        with pytest.raises(ValueError, match=r"."):
            read_json(text)
    assert read_json(' {"a": "\\ud83d\\ude00"} ') == {"a": "😀"}
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


# Empty values


@pytest.mark.parametrize("empty", [None, "", "null"])
def test_an_empty_optional_argument_is_not_given(empty: str | None) -> None:
    for tool in _TOOLS.values():
        names = tool.parameters["properties"].keys() - set(tool.parameters.get("required", ()))
        names -= {"source", "old_text", "new_text"}
        assert read_arguments(tool.name, tool.parameters, dict.fromkeys(names, empty)) == {}
    operation = {"op": "move", "cell_id": empty, "index": "2", "to": 0, "tags": empty}
    assert read("edit_notebook", operations=[operation]) == {"operations": [{"op": "move", "index": 2, "to": 0}]}


def test_empty_lists_objects_and_sources_are_values() -> None:
    values: list[dict[str, Any]] = [{"tags": []}, {"metadata": {}}, {"source": ""}, {"new_text": ""}]
    for arguments in values:
        assert read("update_cell", **arguments) == arguments


# Names


@pytest.mark.parametrize(
    ("tool", "sent", "expected"),
    [
        ("read_notebook", {"notebook_path": "a", "cell_index": 1}, {"path": "a", "cells": "1"}),
        ("read_notebook", {"filePath": "a", "cellId": "c1", "index": ""}, {"path": "a", "cells": "c1"}),
        ("update_cell", {"cell_index": "1", "content": "x", "type": "raw"},
         {"index": 1, "source": "x", "cell_type": "raw"}),
        ("update_cell", {"old_string": "a", "newString": "b"}, {"old_text": "a", "new_text": "b"}),
        ("execute_cell", {"kernelId": "k", "source": "1"}, {"kernel_id": "k", "code": "1"}),
        ("execute_notebook_papermill", {"path": "a", "params": "{}"}, {"input_path": "a", "parameters": {}}),
        ("search_notebooks", {"query": "x", "directory": "d", "where": "both"},
         {"query": "x", "path": "d", "in": "both"}),
        ("list_notebook_files", {"path": "d"}, {"directory": "d"}),
        ("write_notebook", {"path": "a", "notebook": '{"cells": []}'}, {"path": "a", "content": {"cells": []}}),
        ("write_notebook", {"notebook": "a", "content": {}}, {"path": "a", "content": {}}),
        ("create_notebook", {"kernel_name": "ir"}, {"kernel": "ir"}),
        ("start_kernel", {"kernel": "ir"}, {"kernel_name": "ir"}),
        ("get_execution", {"id": "e"}, {"execution_id": "e"}),
    ],
)  # fmt: skip
def test_a_well_known_other_name_is_taken(tool: str, sent: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(tool, **sent) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"op": "move", "id": "c", "to_index": "0"}, {"op": "move", "cell_id": "c", "to": "0"}),
        ({"op": "move", "cell_index": 1, "position": 0}, {"op": "move", "index": 1, "to": 0}),
        ({"op": "add", "position": 0, "code": "x"}, {"op": "add", "index": 0, "source": "x"}),
        ({"type": "add", "content": "x"}, {"op": "add", "source": "x"}),
        ({"op": "add", "type": "raw", "text": "x"}, {"op": "add", "cell_type": "raw", "source": "x"}),
        ({"action": "remove", "cellId": "c"}, {"op": "remove", "cell_id": "c"}),
    ],
)
def test_names_inside_operations_are_as_free(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read("edit_notebook", operations=[sent]) == {"operations": [expected]}


def test_no_other_name_stands_in_a_schema_for_another_argument() -> None:
    """A name of ours always means itself."""
    for tool in _TOOLS.values():
        names = list(tool.parameters["properties"])
        sent = dict.fromkeys(names, "x")
        try:
            assert read_arguments(tool.name, tool.parameters, sent).keys() == set(names)
        except InvalidArgumentError as error:
            pytest.fail(f"{tool.name}: {error}")
    assert not [name for name, others in OTHER_NAMES.items() if name in others.split()]


def test_two_names_of_one_argument_must_agree() -> None:
    assert read("update_cell", index=1, cell_index="1") == {"index": 1}
    assert read("update_cell", index=1, cell_index="") == {"index": 1}
    with pytest.raises(InvalidArgumentError, match="'index' and 'cell_index' are one argument with two values"):
        read("update_cell", index=1, cell_index=2)
    with pytest.raises(InvalidArgumentError, match=r"'operations\[0\].to' and 'to_index'"):
        read("edit_notebook", operations=[{"op": "move", "to": 1, "to_index": 2}])


# Whole cells of nbformat

_CELL = {
    "cell_type": "code",
    "id": "me",
    "metadata": {"tags": ["t"], "k": None},
    "execution_count": 3,
    "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}],
    "source": ["a\n", "b"],
}
_READ = {"cell_type": "code", "cell_id": "me", "metadata": {"tags": ["t"], "k": None}, "source": "a\nb"}


def test_a_whole_cell_of_nbformat_is_taken_without_its_run() -> None:
    assert read("create_notebook", cells=[_CELL]) == {"cells": [_READ]}
    assert read("create_notebook", cells=json.dumps([_CELL])) == {"cells": [_READ]}
    added = {"operations": [{"op": "add", "index": 0} | _READ]}
    assert read("edit_notebook", operations=[{"op": "add", "index": 0} | _CELL]) == added
    assert read("edit_notebook", operations=[{"op": "add", "index": 0, "cell": _CELL}]) == added


def test_lines_without_ends_have_two_readings() -> None:
    with pytest.raises(InvalidArgumentError, match=r"cells\[0\].source"):
        read("create_notebook", cells=[{"source": ["a", "b"]}])


# Errors


@pytest.mark.parametrize(
    ("tool", "sent", "parts"),
    [
        ("edit_notebook", {"path": "a", "operations": [{"op": "move", "frm": 1}]},
         ["'operations[0].frm'", "Its fields: op, cell_id, index, after_cell_id, to."]),
        ("edit_notebook", {"path": "a", "operations": [{"op": "move", "indx": 1}]}, ["did you mean 'index'?"]),
        ("edit_notebook", {"path": "a", "operations": [{"op": "mvoe"}]}, ["operations[0].op", "did you mean 'move'?"]),
        ("create_notebook", {"path": "a", "cells": [{"source": "", "cell_tpe": "x"}]},
         ["'cells[0].cell_tpe'", "did you mean 'cell_type'?", "Its fields: source, cell_type"]),
        ("create_notebook", {"path": "a", "cells": [{"source": "", "cell_type": "Markdown"}]},
         ["did you mean 'markdown'?"]),
        ("execute_cell", {"path": "a", "cell_index": 1}, ["execute_notebook_cell runs a cell of a notebook"]),
        ("search_notebooks", {"query": "x", "cell_types": ["Code"]}, ["'cell_types[0]'", "did you mean 'code'?"]),
        ("execute_cell", {"path": "a"}, ["'code'", "execute_notebook_cell runs a cell of a notebook"]),
        ("update_cell", {"path": "a", "cell_index": "one"}, ["argument 'index' must be", 'the string "one"']),
        ("execute_notebook_batch", {"input_path": "a", "parameters": {"x": 5}}, ["argument 'parameters' must be"]),
        ("execute_notebook_batch", {"input_path": "a", "parameters": [{"x": 5}, 3]}, ["argument 'parameters[1]' must"]),
    ],
)  # fmt: skip
def test_an_error_at_any_depth_lists_the_fields_and_guesses(tool: str, sent: dict[str, Any], parts: list[str]) -> None:
    message = outcome(tool, sent)

    assert isinstance(message, str)
    for part in parts:
        assert part in message
