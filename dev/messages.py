"""Every sentence for clients in one file: `python -m dev.messages` compares, `--update` writes it anew.

The sentences are read from the code: errors of the server with their code, remedies with their calls, and notes in
replies. An expression inside a sentence stands as `{…}`. A change of wording is thus seen in one place, and tests
elsewhere assert codes and facts.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from papermill_mcp import errors
from papermill_mcp.tools.remedies import CALLS

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "messages.txt"

_PARTS = ("allowed", "state", "advice")
_NOTES = {"append", "add_note", "_add_note"}
_CODES = {
    name: str(kind.code)
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ServerError) and kind is not errors.ServerError
}


def text_of(node: ast.expr) -> str:
    """A string expression as a template. Parts that only the run knows stand as `{…}`."""
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("\n", "\\n")
        case ast.JoinedStr(values=values):
            return "".join(text_of(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{{{text_of(body)}|{text_of(orelse)}}}"
        case ast.Attribute(value=ast.Name(id="Remedy"), attr=name):
            return f"<{name}>"
        case _:
            return "{…}"


def messages_of(module: Path) -> Iterator[str]:
    """The sentences of one module, in the order of the code."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _CODES and node.args:
            parts = [f"{_CODES[name]}: {text_of(node.args[0])}"]
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            parts += [f"  {part}: {text_of(given[part])}" for part in _PARTS if part in given]
            found.append((node.lineno, "\n".join(parts)))
        elif name in _NOTES and node.args:
            text = text_of(node.args[-1])
            if len(text.split()) >= 4 and "note" in ast.unparse(node.func):
                found.append((node.lineno, f"note: {text}"))
    yield from (text for _, text in sorted(found))


def collected() -> str:
    """All sentences, by module."""
    blocks = ["# Written by `python -m dev.messages --update`. Read a change here as a client would."]
    blocks.append("\n".join(["## remedies", *(f"<{remedy.name}>: {call}" for remedy, call in CALLS.items())]))
    for module in sorted((ROOT / "papermill_mcp").rglob("*.py")):
        found = list(messages_of(module))
        if found:
            blocks.append("\n".join([f"## {module.relative_to(ROOT).as_posix()}", *found]))
    return "\n\n".join(blocks) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Compare with the golden file, or write it. Returns 1 if they differ."""
    parser = argparse.ArgumentParser(prog="python -m dev.messages", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the file anew")
    now = collected()
    if parser.parse_args(argv).update:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(now, encoding="utf-8")
        return 0
    then = GOLDEN.read_text(encoding="utf-8") if GOLDEN.is_file() else ""
    changes = list(difflib.unified_diff(then.splitlines(), now.splitlines(), "golden", "code", lineterm="", n=1))
    sys.stdout.writelines(f"{line}\n" for line in changes)
    return int(bool(changes))


if __name__ == "__main__":
    sys.exit(main())
