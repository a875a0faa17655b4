"""Rules of the code that no linter knows. The contracts of imports are checked by lint-imports."""

from __future__ import annotations

import ast
from pathlib import Path

import papermill_mcp

PACKAGE = Path(papermill_mcp.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def _parsed(module: Path) -> ast.AST:
    return ast.parse(module.read_text(encoding="utf-8"))


def test_files_are_written_by_the_file_layer_only() -> None:
    """No other module opens a file for writing, in whatever spelling."""
    writers = {"write_text", "write_bytes", "open", "touch", "fdopen", "NamedTemporaryFile"}
    found = []
    for module in MODULES:
        if module.name in ("file_utils.py", "guard.py"):
            continue
        for node in ast.walk(_parsed(module)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            owner = getattr(getattr(called, "value", None), "id", "")
            # Not files: the notebook service has a method `open` of its own.
            other = owner == "self" or "notebooks" in ast.dump(called)
            if name in writers and not (name == "open" and other):
                found.append(f"{module.name}:{node.lineno} {name}")
    assert found == []


def test_modules_have_no_state() -> None:
    """State has an owner with a lifetime. Containers that are filled once, where they are defined, are constants."""
    belongs_to_the_process = {("memory.py", "_pauses")}
    makers = {"set", "dict", "list", "deque", "Counter", "defaultdict", "OrderedDict", "WeakSet", "WeakValueDictionary"}
    found = set()
    for module in MODULES:
        tree = _parsed(module)
        assert isinstance(tree, ast.Module)
        for node in tree.body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            called = value.func if isinstance(value, ast.Call) else None
            maker = getattr(called, "id", getattr(called, "attr", ""))
            empty = (isinstance(value, ast.List) and not value.elts) or (isinstance(value, ast.Dict) and not value.keys)
            if empty or (isinstance(value, ast.Call) and maker in makers and not value.args):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                found |= {(module.name, target.id) for target in targets if isinstance(target, ast.Name)}
        for inner in ast.walk(tree):
            if isinstance(inner, ast.Global):
                found |= {(module.name, name) for name in inner.names}
    assert found <= belongs_to_the_process


def test_every_module_says_what_it_is_responsible_for() -> None:
    """Each module begins with a docstring."""
    for module in MODULES:
        tree = _parsed(module)
        assert isinstance(tree, ast.Module)
        assert ast.get_docstring(tree), module
