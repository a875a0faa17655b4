"""The first minutes of a user: the wheel is installed alone, as by `uvx`, and started in a project without settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from environments import make_venv, make_wheel
from helpers import REPOSITORY, call, cell, read_json, refused, server_environment, stdout_in, write_notebook
from mcp import Client, StdioServerParameters

from papermill_mcp.core.environments.starting import find_uv

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

_CODE = "import alone, sys\nprint(alone.VERSION * factor, sys.prefix)"


def _done(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of the wheel, in an environment that has what the wheel asks for and nothing else."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is not installed")
    directory = tmp_path_factory.mktemp("tool")
    _done(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, REPOSITORY)
    _done(uv, "venv", "--python", sys.executable, directory / "tool")
    python = directory / "tool" / "bin" / "python"
    _done(uv, "pip", "install", "--python", python, *directory.glob("*.whl"))
    return python.with_name("jupyter-papermill-mcp")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose environment has a package that the server lacks, and has no ipykernel and no pip."""
    uv = find_uv()
    assert uv is not None
    directory = tmp_path / "project"
    environment = make_venv(directory / ".venv")
    wheel = make_wheel(tmp_path / "wheels", "alone", "1.0", "VERSION = 21\n")
    _done(uv, "pip", "install", "--offline", "--no-index", "--python", environment / "bin" / "python", wheel)
    write_notebook(directory / "n.ipynb", [cell("factor = 1", tags=["parameters"]), _CODE])
    return directory


@asynccontextmanager
async def _started(script: Path, cwd: Path, home: Path) -> AsyncIterator[Client]:
    """A client of the installed server, which has no argument and no setting."""
    home.mkdir(exist_ok=True)
    env = {name: value for name, value in server_environment().items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    env |= {"HOME": str(home), "PATH": os.pathsep.join([str(script.parent), os.defpath])}
    async with Client(StdioServerParameters(command=str(script), args=[], env=env, cwd=cwd)) as client:
        yield client


async def test_a_notebook_runs_in_its_project_without_a_setting(script: Path, project: Path, tmp_path: Path) -> None:
    async with _started(script, project, tmp_path / "home") as c:
        listed = await call(c, "list_notebook_files", seconds=30)
        read = await call(c, "read_notebook", seconds=30, path="n.ipynb")
        in_place = await call(c, "execute_notebook", seconds=60, path="n.ipynb", wait=50)
        run = await call(
            c,
            "execute_notebook_papermill",
            seconds=60,
            input_path="n.ipynb",
            output_path="out.ipynb",
            parameters={"factor": 2},
            wait=50,
        )

    assert "n.ipynb" in str(listed)
    assert "alone" in str(read)
    for facts in (in_place, run):
        assert facts["status"] == "ok", facts
        assert facts["python"].startswith(".venv (3.")
        assert facts["python"].endswith(", the project's")
    for name, value in (("n.ipynb", 21), ("out.ipynb", 42)):
        assert stdout_in(read_json(project / name)["cells"][-1]) == f"{value} {project}/.venv\n"


async def test_the_root_of_the_file_system_is_no_project(script: Path, tmp_path: Path) -> None:
    """As a client without a directory of its own starts the server."""
    async with _started(script, Path("/"), tmp_path / "home") as c:
        instructions = c.instructions
        message = await refused(c, "list_notebook_files", seconds=30)

    assert message.startswith("NOT_CONFIGURED: ")
    assert "--roots DIR" in message
    assert "--roots DIR" in (instructions or "")
