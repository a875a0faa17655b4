"""The structure that ARCHITECTURE.md describes, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import papermill_mcp

PACKAGE = Path(papermill_mcp.__file__).parent
LAYERS = {
    "utils": {"utils"},
    "core": {"utils", "core"},
    "services": {"utils", "core", "services"},
    "tools": {"utils", "services", "tools"},
}
LEAVES = {"config", "errors"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _parsed(module: Path) -> ast.AST:
    return ast.parse(module.read_text(encoding="utf-8"))


def test_imports_point_down() -> None:
    """A layer imports itself, the layers below it and the leaves, and nothing above."""
    wrong = []
    for module in MODULES:
        layer = module.relative_to(PACKAGE).parts[0]
        if layer not in LAYERS:
            continue
        for name in _imports(_parsed(module)):
            parts = name.split(".")
            if parts[0] == "papermill_mcp" and len(parts) > 1 and parts[1] not in LAYERS[layer] | LEAVES:
                wrong.append(f"{module.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_the_tools_and_the_entry_point_know_the_protocol_sdk() -> None:
    """Services and core can be used, and tested, without MCP."""
    for module in MODULES:
        relative = module.relative_to(PACKAGE)
        if relative.parts[0] in ("utils", "core", "services") or relative.stem in LEAVES:
            assert not [name for name in _imports(_parsed(module)) if name.split(".")[0] in ("mcp", "mcp_types")]


def test_utils_know_no_jupyter() -> None:
    """What is plain Python stays plain Python."""
    jupyter = {"jupyter_client", "nbformat", "papermill", "zmq", "nbclient"}
    for module in (PACKAGE / "utils").glob("*.py"):
        assert not jupyter & {name.split(".")[0] for name in _imports(_parsed(module))}


def test_files_are_written_by_the_file_layer_only() -> None:
    """No other module opens a file for writing, in whatever spelling."""
    writers = {"write_text", "write_bytes", "open", "touch", "fdopen", "NamedTemporaryFile"}
    found = []
    for module in MODULES:
        if module.name in ("file_utils.py", "process_guard.py"):
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
    belongs_to_the_process = {("gc_pause.py", "_pauses"), ("kernel.py", "_tasks")}
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
