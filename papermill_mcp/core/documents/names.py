"""The names that the Python code of cells sets."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from papermill_mcp.core.documents.document import NotebookCell

_UNDEFINED = re.compile(r"name '(\w+)' is not defined")
_NO_MODULE = re.compile(r"No module named '(\w+)")


def undefined_name(ename: str, evalue: str) -> str | None:
    """The name that a NameError is about; None for other errors."""
    found = _UNDEFINED.match(evalue) if ename == "NameError" else None
    return found[1] if found else None


def missing_module(ename: str, evalue: str) -> str | None:
    """The top-level module that a ModuleNotFoundError is about; None for other errors."""
    found = _NO_MODULE.match(evalue) if ename == "ModuleNotFoundError" else None
    return found[1] if found else None


def cells_that_set(name: str, cells: Sequence[NotebookCell]) -> list[int]:
    """Indexes of the code cells that set a name at their top level: by assignment, import, definition or loop."""
    return [
        index
        for index, cell in enumerate(cells)
        if cell.cell_type == "code" and name in cell.source and name in _names_set_by(cell.source)
    ]


def _names_set_by(source: str) -> set[str]:
    """Names that code sets, without those inside functions and classes; none if it is not Python."""
    lines = ("pass" if line.startswith(("%", "!")) else line for line in source.splitlines())
    try:
        tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
                continue
            case ast.Lambda():
                continue
            case ast.alias():
                names.add((node.asname or node.name).partition(".")[0])
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
        pending += ast.iter_child_nodes(node)
    return names
