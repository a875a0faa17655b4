"""Runs in a fresh kernel: `fresh=true` restarts the notebook's kernel, or starts one of the Python that is wanted."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from conftest import AddKernelspec, Connect
from environments import make_venv
from helpers import call, refused, until, waiting_code, write_notebook

pytestmark = pytest.mark.kernel

_COUNT = "n = globals().get('n', 0) + 1\nprint(n)"


async def test_a_fresh_run_has_no_variables_of_earlier_ones(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [_COUNT, _COUNT])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb", fresh=True)
        second = await call(c, "execute_notebook", path="a.ipynb")
        fresh = await call(c, "execute_notebook", path="a.ipynb", fresh=True)
        selected = await call(c, "execute_notebook", path="a.ipynb", fresh=True, cells="1")
        named = await call(c, "execute_notebook", path="a.ipynb", fresh=True, kernel_id=first["kernel_id"])

    printed = [run["results"][-1]["outputs"][0]["text"].strip() for run in (first, second, fresh, selected, named)]
    assert printed == ["2", "4", "2", "1", "2"]
    assert {run["kernel_id"] for run in (first, second, fresh, selected, named)} == {first["kernel_id"]}
    assert not first.get("notes")
    for run in (fresh, selected, named):
        assert any("was restarted" in note and "variables are lost" in note for note in run["notes"])
    assert any("cells above it have not run: 0" in note for note in selected["notes"])


async def test_a_kernel_that_runs_code_is_not_restarted(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with client() as c:
        kernel_id = (await call(c, "execute_notebook", path="a.ipynb"))["kernel_id"]
        await call(c, "execute_cell", kernel_id=kernel_id, code=f"import os\nopen('on', 'w')\n{waiting_code()}", wait=0)
        await until(lambda: (workspace / "on").exists())
        for given in ({}, {"kernel_id": kernel_id}):
            message = await refused(c, "execute_notebook", path="a.ipynb", fresh=True, **given)
            assert message.startswith("BUSY: ")
            assert "cancel_execution" in message
        (workspace / "go").touch()
        async with asyncio.timeout(20):
            while (await call(c, "get_kernel_status", kernel_id=kernel_id))["state"] != "idle":
                await asyncio.sleep(0.05)
        assert (await call(c, "execute_notebook", path="a.ipynb", fresh=True))["status"] == "ok"


async def test_a_fresh_run_changes_to_the_python_that_is_wanted(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    """The one that the call names, or the one that the project has meanwhile. A wrong name leaves the kernel."""
    named = make_venv(tmp_path / "named")
    write_notebook(workspace / "a.ipynb", ["import sys\nprint(sys.prefix)"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb")
        no_python = await refused(c, "execute_notebook", path="a.ipynb", python="nothing", fresh=True)
        status = await call(c, "get_kernel_status", kernel_id=first["kernel_id"])
        project = make_venv(workspace / ".venv")
        second = await call(c, "execute_notebook", path="a.ipynb", fresh=True)
        other = await refused(c, "execute_notebook", path="a.ipynb", python=str(named))
        third = await call(c, "execute_notebook", path="a.ipynb", python=str(named), fresh=True)
        kernels = await call(c, "list_kernels")

    assert "'nothing' does not exist" in no_python
    assert status["state"] == "idle"
    assert "fresh=true" in other
    assert second["results"][0]["outputs"][0]["text"].strip() == str(project)
    assert third["results"][0]["outputs"][0]["text"].strip() == str(named)
    assert len({first["kernel_id"], second["kernel_id"], third["kernel_id"]}) == 3
    assert any("variables are lost" in note for note in third["notes"])
    assert [kernel["kernel_id"] for kernel in kernels["active"]] == [third["kernel_id"]]


async def test_a_kernel_whose_python_is_not_known_is_no_named_one(
    client: Connect, workspace: Path, tmp_path: Path, kernelspec: AddKernelspec
) -> None:
    """The kernelspec `python3` may start a program that starts Python. A named Python is another one."""
    command = ["env", sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernelspec("python3", command, language="python")
    named = make_venv(tmp_path / "named")
    write_notebook(workspace / "a.ipynb", ["import sys\nprint(sys.prefix)"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb")
        other = await refused(c, "execute_notebook", path="a.ipynb", python=str(named))
        fresh = await call(c, "execute_notebook", path="a.ipynb", fresh=True)
        changed = await call(c, "execute_notebook", path="a.ipynb", python=str(named), fresh=True)

    assert first["kernel_id"] == fresh["kernel_id"]
    assert other.startswith("INVALID_ARGUMENT")
    assert changed["results"][0]["outputs"][0]["text"].strip() == str(named)
