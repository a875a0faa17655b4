"""A failure inside the server ends the one thing it is about: not a queue, not a loop, not the requests behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, MakeConfig
from helpers import call, cell, read_json, stdout_in, stdout_of, until, write_notebook

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.jupyter_manager import JupyterManager
from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.core.processes import ledger
from papermill_mcp.core.runs import run_file as run_file_module
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.services import kernel_service as kernel_service_module
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import read_file


@pytest.mark.kernel
async def test_a_cell_that_cannot_be_sent_ends_its_run_and_nothing_else(client: Connect, workspace: Path) -> None:
    """Half of a surrogate pair in a code cell: JSON has it, UTF-8 has not."""
    write_notebook(workspace / "a.ipynb", ["print('before')", "x = '\ud800'", "print('never')"])
    async with client() as c:
        kernel = (await call(c, "start_kernel"))["kernel_id"]
        facts = await call(c, "execute_notebook", path="a.ipynb", kernel_id=kernel, timeout=10)
        assert facts["status"] == "error"
        assert facts["failed_cell"]["index"] == 1
        assert "U+D800" in json.dumps(facts)
        on = await call(c, "execute_notebook", path="a.ipynb", kernel_id=kernel, continue_on_error=True)
        assert on["status"] == "error"
        assert stdout_of(await call(c, "execute_cell", kernel_id=kernel, code="print(1)")) == "1\n"
        assert (await call(c, "get_kernel_status", kernel_id=kernel))["state"] == "idle"

        made = await call(c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb")
        assert made["status"] == "error"

    before, broken, after = read_json(workspace / "a.ipynb")["cells"]
    assert (stdout_in(before), stdout_in(after)) == ("before\n", "never\n")
    assert broken["source"] in ("x = '\ud800'", ["x = '\ud800'"])
    assert broken["outputs"][0]["ename"] == "UnicodeEncodeError"
    errors = [o for entry in read_json(workspace / "out.ipynb")["cells"] for o in entry.get("outputs", [])]
    assert "UnicodeEncodeError" in [output.get("ename") for output in errors]


@pytest.mark.kernel
async def test_a_parameter_that_cannot_be_sent_ends_its_run(client: Connect, workspace: Path) -> None:
    """In a default, where no writer of parameters has looked at it."""
    tagged = cell("name = '\udc80'", tags=["parameters"])
    write_notebook(workspace / "a.ipynb", [tagged, "print(name)"])
    async with client() as c:
        arguments = {"input_path": "a.ipynb", "output_path": "out.ipynb", "parameters": {"name": "new"}}
        facts = await call(c, "execute_notebook_papermill", **arguments)

    assert facts["status"] == "error"
    assert "U+DC80" in json.dumps(facts)


@pytest.mark.kernel
async def test_an_idle_kernel_that_cannot_be_stopped_does_not_save_the_others(
    client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = JupyterManager.stop_kernel
    failed: list[str] = []

    async def failing(manager: JupyterManager, kernel: Kernel) -> None:
        if not failed:
            failed.append(kernel.kernel_id)
            raise RuntimeError("planted")
        await stop(manager, kernel)

    monkeypatch.setattr(JupyterManager, "stop_kernel", failing)
    async with client(kernel_idle_timeout=0.5, cleanup_interval=0.1) as c:
        await asyncio.gather(call(c, "start_kernel"), call(c, "start_kernel"))
        async with asyncio.timeout(20):
            while (await call(c, "list_kernels"))["active"]:
                await asyncio.sleep(0.05)

    assert len(failed) == 1


@pytest.mark.kernel
async def test_a_spare_kernel_that_fails_is_neither_used_nor_the_end_of_spares(
    client: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(_: Kernel, __: Path) -> None:
        raise RuntimeError("planted")

    starts: list[bool] = []
    start = JupyterManager.start_kernel

    async def fails_once(manager: JupyterManager, *arguments: Any, **options: Any) -> Kernel:
        starts.append(True)
        if len(starts) == 1:
            raise RuntimeError("planted")
        return await start(manager, *arguments, **options)

    monkeypatch.setattr(JupyterManager, "start_kernel", fails_once)
    monkeypatch.setattr(kernel_service_module, "_SPARE_DELAY", 0.0)
    async with client(prewarm_kernels=1) as c:
        await call(c, "list_kernels")
        await until(lambda: len(starts) == 1, what="the spare has failed")
        first = await call(c, "start_kernel")
        monkeypatch.setattr(Kernel, "move_to", failing)
        second = await call(c, "start_kernel")
        for kernel in (first, second):
            facts = await call(c, "execute_cell", kernel_id=kernel["kernel_id"], code="print(1)")
            assert stdout_of(facts) == "1\n"


async def test_the_engine_that_cannot_be_warmed_up_does_not_hold_the_service_up(
    config: MakeConfig, workspace: Path, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: Path) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(ledger, "reap", failing)
    monkeypatch.setattr(kernel_service_module, "_WARM_UP_DELAY", 0.0)
    async with KernelService(config(), Workspace([workspace]), state_directory) as service:
        done, _ = await asyncio.wait(service._tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [task.exception() for task in done] == [None]


@contextlib.asynccontextmanager
async def run_file(path: Path) -> AsyncIterator[RunFile]:
    """A notebook of two cells under a run."""
    write_notebook(path, ["1", "2"])
    content = read_file(path, max_bytes=10**6, display_path=path.name)
    document = NotebookDocument.parse(content.data, display_path=path.name)
    lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with lock:
            yield

    file = RunFile(path, document, content, display_path=path.name, max_bytes=10**6, lock=locked)
    file.start()
    yield file
    await file.close()


async def test_a_save_that_fails_for_whatever_reason_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def failing(*_: Any, **__: Any) -> Any:
        loop.call_soon_threadsafe(failed.set)
        raise RuntimeError("planted")

    path = tmp_path / "a.ipynb"
    monkeypatch.setattr(run_file_module, "SAVE_INTERVAL", 0.05)
    monkeypatch.setattr(run_file_module, "SAVE_SHARE", 1.0)
    async with run_file(path) as file:
        with monkeypatch.context() as planted:
            planted.setattr(run_file_module, "write_file", failing)
            file.record(0, {"execution_count": 7})
            async with asyncio.timeout(5):
                await failed.wait()
        file.record(1, {"execution_count": 8})
        await until(lambda: read_json(path)["cells"][1]["execution_count"] == 8, what="the next save")
        assert read_json(path)["cells"][0]["execution_count"] == 7

        monkeypatch.setattr(run_file_module, "write_file", failing)
        notes = await file.close()
    assert "the last save failed" in notes[0]
    assert "RuntimeError" in notes[0]
