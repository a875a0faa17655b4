"""Writes the tables of the documents from the code.

    python -m dev.docs            write them
    python -m dev.docs --check    write nothing; end with 1 if a page is stale

A table stands in a page between `<!-- generated: NAME -->` and `<!-- end -->`. The text around it is written by hand.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mcp.server.mcpserver.tools import Tool
from pydantic.fields import FieldInfo

from dev.limits import tables as limit_tables
from dev.proof import Contract
from papermill_mcp.config import ENV_PREFIX, Config
from papermill_mcp.errors import ErrorCode, ServerError
from papermill_mcp.server import json_rpc
from papermill_mcp.server.transport import TOO_MANY_REQUESTS
from papermill_mcp.services.notebooks.edits import _CELL, _FIELDS
from papermill_mcp.tools import execution_tools, kernel_tools, notebook_tools, prompts, resources, server_tools

REPOSITORY = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CASES = re.compile(r"mark\.case\(([^)]*)\)")

_TOOLSETS = {
    "Notebooks": notebook_tools.toolset,
    "Kernels": kernel_tools.toolset,
    "Executions": execution_tools.toolset,
    "Server": server_tools.toolset,
}

_PROTOCOL_ERRORS = {
    json_rpc.PARSE_ERROR: "the line is not JSON, is too long, or is nested too deeply",
    json_rpc.INVALID_REQUEST: "the message is no request, or repeats an id or a key",
    json_rpc.METHOD_NOT_FOUND: "the server has no such method",
    json_rpc.INVALID_PARAMS: "the parameters do not fit; for resources and prompts the text begins with a code below",
    json_rpc.INTERNAL_ERROR: "the server failed, or could not encode the answer; its log has the details",
    TOO_MANY_REQUESTS: "too many requests are in flight; send this one again later",
}

_UNITS = ("seconds", "characters", "bytes", "pixels")


def pages() -> list[Path]:
    """The documents of the project."""
    folders = (REPOSITORY, REPOSITORY / "docs", REPOSITORY / "benchmarks", REPOSITORY / "examples" / "data")
    return [page for folder in folders for page in sorted(folder.glob("*.md"))]


def generated(page: str) -> str:
    """The text of a page with its tables made anew.

    Raises:
        KeyError: a marker has a name that is not known.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}{_BLOCKS[block[2]]()}\n{block[3]}", page)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    return "\n".join([_row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows)])


def _prose(text: str) -> str:
    """Text from the code, with nothing in it that Markdown would take for markup."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _code(value: object) -> str:
    return f"`{value}`"


# Tools


def _tool_names() -> str:
    """The tools of each toolset, by name."""
    tools = ((title, [_code(tool.name) for tool in toolset.tools(Config())]) for title, toolset in _TOOLSETS.items())
    return "\n".join(f"- **{title}**: {', '.join(names)}" for title, names in tools)


def _hints() -> str:
    """The hints of each tool, and the settings that leave it out."""
    without: dict[str, list[str]] = {}
    every = [tool for toolset in _TOOLSETS.values() for tool in toolset.tools(Config())]
    for setting in ("read_only", "no_execute"):
        left = {tool.name for toolset in _TOOLSETS.values() for tool in toolset.tools(Config(**{setting: True}))}
        for tool in every:
            if tool.name not in left:
                without.setdefault(tool.name, []).append(_code(setting))
    head = ("tool", "title", "reads only", "destructive", "idempotent", "open world", "images", "left out by")
    return _table(head, (_hint_row(tool, without.get(tool.name, [])) for tool in every))


def _hint_row(tool: Tool, left_out_by: Sequence[str]) -> list[str]:
    hints = tool.annotations
    assert hints is not None
    reads = bool(hints.read_only_hint)
    # As a client takes a hint that is absent.
    destructive = hints.destructive_hint is not False and not reads
    flags = (reads, destructive, bool(hints.idempotent_hint), hints.open_world_hint is not False)
    marks = ["yes" if flag else "" for flag in (*flags, tool.output_schema is None)]
    return [f"[{_code(tool.name)}](#{tool.name})", tool.title or "", *marks, ", ".join(left_out_by)]


def _tools() -> str:
    """Each tool with its description and its arguments."""
    lines = []
    for title, toolset in _TOOLSETS.items():
        lines += ["", f"## {title}: the toolset `{toolset.name}`"]
        for tool in toolset.tools(Config()):
            lines += ["", f"### {tool.name}", "", *_prose(tool.description or "").splitlines()]
            lines += ["", _arguments(tool.parameters) if tool.parameters["properties"] else "It takes no arguments."]
    return "\n".join(lines).lstrip("\n")


def _arguments(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    head = ("argument", "type", "default", "bounds", "meaning")
    return _table(
        head,
        (
            (_code(name), _type(one), _default(name, one, required), _bounds(one), _prose(one.get("description", "")))
            for name, one in schema["properties"].items()
        ),
    )


def _default(name: str, schema: Mapping[str, Any], required: Sequence[str]) -> str:
    if name in required:
        return "**required**"
    default = schema.get("default")
    return "" if default is None else _code(str(default).lower() if isinstance(default, bool) else default)


def _bounds(schema: Mapping[str, Any]) -> str:
    found = []
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        bounds = [format(schema[key], ",.12g") if key in schema else "" for key in (low, high)]
        if any(bounds):
            found.append(" to ".join(bounds).removeprefix(" to ").strip() + unit if bounds[1] else f"from {bounds[0]}")
            if not bounds[0]:
                found[-1] = f"at most {found[-1]}"
    return ", ".join(found)


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and schema.get("properties"):
        required = schema.get("required", [])
        return "{" + ", ".join(name + ("" if name in required else "?") for name in schema["properties"]) + "}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def _operations() -> str:
    """The steps of `edit_notebook`, and the fields that they take."""

    def names(fields: set[str]) -> str:
        return ", ".join(_code(name) for name in sorted(fields))

    return _table(
        ("op", "needs", "takes", "a cell"),
        (
            (
                _code(op),
                names(needed),
                names(taken - needed - _CELL),
                "by `cell_id` or `index`" if taken & _CELL else "",
            )
            for op, (taken, needed) in _FIELDS.items()
        ),
    )


# Settings


def _settings() -> str:
    """Each setting with its three names."""
    return _table(
        ("key, flag, variable", "unit or values", "default", "bounds", "meaning"),
        (_setting(name, field) for name, field in Config.model_fields.items()),
    )


def _setting(name: str, field: FieldInfo) -> tuple[str, str, str, str, str]:
    names = f"`{name}`<br>`--{name.replace('_', '-')}`<br>`{ENV_PREFIX}{name.upper()}`"
    schema = Config.model_json_schema()["properties"][name]
    schema |= next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), {})
    low = f"more than {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
    rest = _bounds({key: value for key, value in schema.items() if key in ("minimum", "maximum")})
    bounds = ", ".join(part for part in (low, rest) if part)
    return names, _values_of(field), _shown_default(field.default), bounds, _prose(str(field.description))


def _values_of(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is list:
        inner = get_args(kind)[0]
        return "list of " + (_one_of(inner) if get_origin(inner) is Literal else "paths" if inner is Path else "names")
    if get_origin(kind) is Literal:
        return _one_of(kind)
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        first = str(field.description).partition(" ")[0].rstrip(";,")
        return first if first in _UNITS else "number"
    return "path" if kind is Path else "text"


def _one_of(kind: Any) -> str:
    return ", ".join(_code(value) for value in get_args(kind))


def _shown_default(default: object) -> str:
    if isinstance(default, list):
        return ", ".join(_code(one) for one in default) or "none"
    if isinstance(default, bool) or default is None:
        return {None: "none", False: "`false`", True: "`true`"}[default]
    return _code(format(default, ".12g") if isinstance(default, float) else default)


# Errors, resources, prompts, promises


def _errors() -> str:
    """Each code, its class and its meaning."""
    by_code = {one.code: one for one in ServerError.__subclasses__()}
    return _table(
        ("code", "class", "meaning"),
        (
            (_code(code), _code(by_code[code].__name__), _prose(inspect.getdoc(by_code[code]) or ""))
            for code in ErrorCode
        ),
    )


def _protocol_errors() -> str:
    return _table(("code", "meaning"), ((_code(code), meaning) for code, meaning in _PROTOCOL_ERRORS.items()))


def _resources() -> str:
    return _table(
        ("URI", "title", "toolset", "contents"),
        (
            (
                _code(one.listing.uri_template.replace("{+", "{")),
                one.listing.title or "",
                _code(one.toolset),
                _prose(one.listing.description or ""),
            )
            for one in resources._RESOURCES
        ),
    )


def _prompts() -> str:
    return _table(
        ("prompt", "arguments", "purpose", "tools that it needs"),
        (
            (
                _code(name),
                ", ".join(_code(one.name + ("" if one.required else "?")) for one in entry.listing.arguments or ()),
                entry.listing.description or "",
                ", ".join(map(_code, entry.needs)),
            )
            for name, entry in prompts._PROMPTS.items()
        ),
    )


def _modules() -> str:
    """Each module of the package with the first sentence of its docstring, by folder."""
    package = REPOSITORY / "papermill_mcp"
    rows: list[tuple[str, str]] = []
    for folder in sorted(
        {file.parent for file in package.rglob("*.py")}, key=lambda one: one.relative_to(package).parts
    ):
        name = str(folder.relative_to(package))
        rows.append((f"**{'papermill_mcp' if name == '.' else name}/**", f"**{_subject(folder / '__init__.py')}**"))
        rows += [(_code(file.stem), _subject(file)) for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return _table(("module", "subject"), iter(rows))


def _subject(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return _prose(docstring.partition("\n\n")[0].removesuffix("."))


def _promises() -> str:
    """Each promise with its rules, and the files of the tests that carry their cases."""
    files: dict[str, set[str]] = {}
    for file in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for marker in _CASES.findall(file.read_text(encoding="utf-8")):
            for case in re.findall(r'"(\w+)"', marker):
                files.setdefault(case, set()).add(str(file.relative_to(REPOSITORY)))
    return _table(
        ("promise", "rules", "shown by"),
        (
            (
                f"{promise.number}. {promise.text}",
                "<br>".join(f"{rule.text} ({', '.join(rule.cases)})" for rule in promise.rules),
                "<br>".join(_code(f) for f in sorted({f for r in promise.rules for c in r.cases for f in files[c]})),
            )
            for promise in Contract.load().promises
        ),
    )


_BLOCKS: dict[str, Callable[[], str]] = {
    "tool-names": _tool_names,
    "hints": _hints,
    "tools": _tools,
    "operations": _operations,
    "settings": _settings,
    "errors": _errors,
    "protocol-errors": _protocol_errors,
    "limits": lambda: "\n".join(limit_tables()).lstrip("\n"),
    "resources": _resources,
    "prompts": _prompts,
    "promises": _promises,
    "modules": _modules,
}


def stale() -> Iterator[tuple[Path, str, str]]:
    """The pages whose tables are not those of the code, as they are and as they must be."""
    for page in pages():
        now = page.read_text(encoding="utf-8")
        wanted = generated(now)
        if now != wanted:
            yield page, now, wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Write the stale pages, or list them."""
    parser = argparse.ArgumentParser(description="Write the tables of the documents from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a page is stale")
    check = parser.parse_args(argv).check
    found = [*stale()]
    for page, now, wanted in found:
        print(page.relative_to(REPOSITORY), "is stale" if check else "is written")
        if check:
            print("\n".join(difflib.unified_diff(now.splitlines(), wanted.splitlines(), lineterm="", n=0)))
        else:
            page.write_text(wanted, encoding="utf-8")
    if check and found:
        print("python -m dev.docs writes them")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
