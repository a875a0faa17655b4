"""Late imports: they take turns, wait for their first use, and hide nothing from the type checker."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Json, cell

import papermill_mcp
from papermill_mcp.utils.lazy import lazy, load

PACKAGE = Path(papermill_mcp.__file__).parent

HEAVY = {
    "IPython",
    "PIL",
    "dask",
    "distributed",
    "filelock",
    "ipykernel",
    "jsonschema",
    "jupyter_client",
    "jupyter_core",
    "matplotlib",
    "nbformat",
    "numpy",
    "pandas",
    "papermill",
    "prometheus_client",
    "psutil",
    "zmq",
}

_TURNS = """
import sys, threading
from papermill_mcp.core.documents import check
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.services import catalogue, jupyter_server_service, kernel_service
from papermill_mcp.services.runs import starter
from papermill_mcp.utils import lazy

document = NotebookDocument.new({})
document.insert(0, {"cell_type": "code", "source": "x = 1", "metadata": {"tags": ["parameters"]}})
ways = [
    lambda: kernel_service.jupyter_manager.JupyterManager,
    lambda: lazy.load(starter.papermill_output),
    lambda: lazy.load(starter.notebook_run),
    lambda: jupyter_server_service.jupyter_server.JupyterServer,
    lambda: check.nbformat.reads,
    lambda: catalogue._parameters(document, []),
]
done, failed = [], []

def go(way):
    try:
        way()
        done.append(way)
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=go, args=(way,)) for way in ways]
with lazy._lock:
    for thread in threads:
        thread.start()
        thread.join(0.02)
    early = sorted({name.partition(".")[0] for name in sys.modules} & {"jupyter_client", "nbformat", "papermill"})
for thread in threads:
    thread.join(60)
print(early, len(done) == len(ways), failed, "rfc3987_syntax" in sys.modules)
"""

_FIRST_CALLS = """
import asyncio, json, sys
from pathlib import Path
from mcp.client import Client
from papermill_mcp.config import Config
from papermill_mcp.server.app import build_server
from papermill_mcp.services import kernel_service

kernel_service._WARM_UP_DELAY = 3600
root, imported = Path(sys.argv[1]), {}

def note(moment):
    imported[moment] = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2].split(",")))

async def session():
    note("client")
    async with Client(build_server(Config(roots=[root], state_directory=root / "state"))) as client:
        await client.list_tools()
        note("handshake")
        for tool, arguments in [
            ("list_notebook_files", {}), ("read_notebook", {"path": "a.ipynb"}), ("list_executions", {})
        ]:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer
            note(tool)
        answer = await client.call_tool("get_notebook_info", {"path": "a.ipynb"})
        assert answer.structured_content["parameters"], answer
        note("get_notebook_info")
        answer = await client.call_tool("list_kernels", {})
        assert not answer.is_error, answer
        note("list_kernels")

asyncio.run(session())
print(json.dumps(imported))
"""


def test_two_threads_never_import_at_once() -> None:
    """They would meet in the circles of Jupyter's packages, and one would fail with a deadlock error."""
    done = subprocess.run([sys.executable, "-c", _TURNS], capture_output=True, text=True, timeout=90)

    assert done.stdout.strip() == "[] True [] False", done.stderr


def test_papermill_imports_no_client_of_a_store() -> None:
    """It would import each one that is installed, which takes a second. They are there by their own names."""
    code = (
        "import sys\nfrom papermill_mcp.utils.lazy import lazy, load\n"
        "load(lazy('papermill_mcp.core.papermill.output'))\n"
        "print('papermill' in sys.modules, sorted({'gcsfs', 'boto3', 'azure'} & sys.modules.keys()))\n"
        "load(lazy('boto3'))\nprint(sys.modules['boto3'].Session.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True []\nSession\n", done.stderr


def test_heavy_packages_wait_for_the_first_call_that_needs_them(tmp_path: Path) -> None:
    notebook: Json = {"cells": [cell("x = 1", tags=["parameters"])], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    notebook["cells"][0]["id"] = "c0"
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))

    done = subprocess.run(
        [sys.executable, "-c", _FIRST_CALLS, str(tmp_path), ",".join(HEAVY)], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    # The client of this test needs packages for itself: it checks answers with jsonschema.
    own = {*imported.pop("client"), "jsonschema"}
    assert not own & {"jupyter_client", "nbformat", "papermill", "zmq"}
    engine = set(imported.pop("list_kernels"))
    assert engine >= {"jupyter_client", "zmq"}
    assert set(imported.pop("get_notebook_info")) - own == {"nbformat"}
    assert {moment: set(names) - own for moment, names in imported.items()} == {key: set() for key in imported}


def test_a_stand_in_serves_like_the_module() -> None:
    fractions = lazy("fractions")

    assert lazy("fractions") is fractions
    assert isinstance(load(fractions).Fraction(1, 2), fractions.Fraction)
    with pytest.raises(AttributeError, match="Fractoin"):
        _ = fractions.Fractoin


def test_a_missing_package_is_an_import_error_at_its_first_use() -> None:
    absent = lazy("papermill_mcp_absent")

    with pytest.raises(ModuleNotFoundError, match="papermill_mcp_absent"):
        _ = absent.anything


def test_no_function_has_an_import_of_its_own() -> None:
    found = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}"
        for module in sorted(PACKAGE.rglob("*.py"))
        for function in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert found == []


def test_each_late_import_is_typed_as_the_module_that_it_imports() -> None:
    """The two branches name the same modules, so the type checker reads the code that runs."""
    differences = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and node.orelse):
                continue
            typed = {
                alias.asname or alias.name: f"{item.module}.{alias.name}"
                if isinstance(item, ast.ImportFrom)
                else alias.name
                for item in node.body
                if isinstance(item, ast.Import | ast.ImportFrom)
                for alias in item.names
            }
            for item in node.orelse:
                assert isinstance(item, ast.Assign), path
                name, value = ast.unparse(item.targets[0]), item.value
                assert isinstance(value, ast.Call), path
                if typed.get(name) != ast.literal_eval(value.args[0]):
                    differences.append(f"{path.relative_to(PACKAGE)}: {name}")

    assert differences == []


@pytest.mark.slow
def test_the_type_checker_sees_late_imports(tmp_path: Path) -> None:
    """Planted in copies of two services: a misspelt keyword argument, and a function that does not exist."""
    plants = {
        "services/kernel_service.py": (
            "self.get(kernel_id), pattern=pattern, limit=limit, name=name, frame=frame",
            "self.get(kernel_id), patern=pattern, limit=limit, name=name, frame=frame",
            'Unexpected keyword argument "patern" for "python_variables"',
        ),
        "services/catalogue.py": (
            "papermill_parameters.inspect_parameters(",
            "papermill_parameters.inspect_paramters(",
            'Module has no attribute "inspect_paramters"',
        ),
    }
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    for place, (right, wrong, _) in plants.items():
        source = (PACKAGE / place).read_text(encoding="utf-8")
        assert source.count(right) == 1
        copy = tmp_path / Path(place).name
        copy.write_text(source.replace(right, wrong), encoding="utf-8")
        command += ["--shadow-file", str(PACKAGE / place), str(copy)]

    done = subprocess.run(
        [*command, *(str(PACKAGE / place) for place in plants)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=110,
    )

    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(plants), done.stdout + done.stderr
    for place, (_, _, message) in plants.items():
        assert any(place in error and message in error for error in errors), done.stdout
