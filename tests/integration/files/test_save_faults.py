"""Saves under faults: full disks, failing system calls, kills, and two servers at once.

`python -m dev.fault_report` injects more of the same, and prints how many faults there were and what was lost.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from helpers import call, read_json, stdio_client_of, text_of, write_notebook
from mcp import Client

from dev import fault_report
from dev.fault_report import Outcome
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import CellRef, Update
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils import file_utils
from papermill_mcp.utils.lock_files import LockFiles

SCRIPT = Path(fault_report.__file__)


def losses(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [asdict(outcome) for outcome in outcomes if outcome.lost]


@pytest.mark.case("F03", "F04")
def test_no_failing_system_call_of_a_save_loses_anything(tmp_path: Path) -> None:
    """The n-th call fails, or transfers one byte, for every n."""
    outcomes = [*fault_report.inject_errors(tmp_path, {"ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES})]

    assert len(outcomes) > 150
    assert losses(outcomes) == []
    assert any(outcome.acknowledged for outcome in outcomes), "no fault was survived"
    assert any(not outcome.acknowledged for outcome in outcomes), "no fault was told"


@pytest.mark.case("F03")
def test_a_save_that_is_killed_leaves_the_old_or_the_new_version(tmp_path: Path) -> None:
    """SIGKILL at the n-th system call, for every n."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kill", str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
    )
    outcomes = [Outcome(**outcome) for outcome in json.loads(done.stdout)]

    assert len(outcomes) > 30
    assert losses(outcomes) == []


def test_the_faults_would_be_seen_in_a_save_that_writes_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""

    def in_place(parent: Any, name: str, data: bytes, *_: Any, **__: Any) -> Any:
        with file_utils._reported("n.ipynb", "write", "The file is unchanged"):
            descriptor = os.open(str(parent.path / name), os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        return file_utils.read_file(parent.path / name, max_bytes=10**6, display_path=name)

    monkeypatch.setattr(file_utils, "_save", in_place)
    with pytest.raises((AssertionError, ValueError)):
        found = [*fault_report.inject_errors(tmp_path, {"ENOSPC": errno.ENOSPC})]
        assert losses(found) == []


@pytest.mark.case("F03")
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_real_system_calls_that_fail_or_kill_lose_nothing(tmp_path: Path) -> None:
    outcomes = [*fault_report.trace_kills(tmp_path, calls=("fsync", "renameat"), most=1)]
    if not outcomes:
        pytest.skip("strace may not trace here")

    assert losses(outcomes) == []


@pytest.mark.case("F01")
def test_on_a_disk_that_is_full_the_old_version_stays_and_edits_go_on_later(tmp_path: Path) -> None:
    outcomes = fault_report.full_disk(tmp_path)
    if outcomes is None:
        pytest.skip("no file system may be mounted here")

    assert len(outcomes) == 4
    assert losses(outcomes) == []


@pytest.mark.case("F12")
@pytest.mark.parametrize("edits", [50, pytest.param(200, marks=pytest.mark.slow)])
async def test_two_servers_lose_no_edit_of_each_other(edits: int, workspace: Path, state_directory: Path) -> None:
    """Edits at the same time, on one notebook. Every one that was acknowledged is there."""
    path = write_notebook(workspace / "n.ipynb", ["start"])

    async def work(client: Client, name: str) -> list[str]:
        acknowledged = []
        for number in range(edits):
            source = f"{name} {number}"
            result = await client.call_tool("add_cell", {"path": "n.ipynb", "cell_type": "code", "source": source})
            if result.is_error:
                assert text_of(result).startswith(("CONFLICT: ", "BUSY: "))
            else:
                acknowledged.append(source)
        return acknowledged

    async with (
        stdio_client_of(workspace, state_directory) as one,
        stdio_client_of(workspace, state_directory) as two,
        asyncio.timeout(60),
    ):
        first, second = await asyncio.gather(work(one, "one"), work(two, "two"))

    found = ["".join(cell["source"]) for cell in read_json(path)["cells"]][1:]
    assert sorted(found) == sorted(first + second)
    assert len(found) >= 1.8 * edits, "the lock between servers does not make them take turns"
    ids = [cell["id"] for cell in read_json(path)["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.case("F14")
async def test_the_lock_of_a_server_that_was_killed_holds_nobody_up(
    config: MakeConfig, workspace: Path, state_directory: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", ["start"])
    code = (
        "import sys, time; from pathlib import Path; from papermill_mcp.utils.lock_files import LockFiles\n"
        "held = LockFiles(Path(sys.argv[1])).try_acquire(Path(sys.argv[2])); print(held is not None, flush=True)\n"
        "time.sleep(60)"
    )
    locks = state_directory / "locks"
    holder = subprocess.Popen([sys.executable, "-c", code, str(locks), str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert LockFiles(locks).try_acquire(path) is None
    holder.send_signal(signal.SIGKILL)
    holder.wait(5)
    holder.stdout.close()

    service = NotebookService(config(), Workspace([workspace]), state_directory)
    began = time.monotonic()
    await service.update_cell("n.ipynb", Update(CellRef(index=0), source="next"))
    assert time.monotonic() - began < 2


@pytest.mark.alone
async def test_a_slow_disk_holds_up_nobody_else(
    client: Callable[..., Any], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that takes a second: other calls are answered, and a save that is cancelled is carried through."""
    path = write_notebook(workspace / "n.ipynb", ["start"])
    write_notebook(workspace / "other.ipynb", ["other"])
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(1)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    async with client() as connected:
        saving = asyncio.create_task(call(connected, "update_cell", path="n.ipynb", index=0, source="slow"))
        await asyncio.sleep(0.2)
        longest = 0.0
        for _ in range(5):
            began = time.monotonic()
            await call(connected, "read_notebook", path="other.ipynb")
            longest = max(longest, time.monotonic() - began)
        assert longest < 0.5
        assert not saving.done()
        changed = await saving
    assert changed["changed"]
    assert "".join(read_json(path)["cells"][0]["source"]) == "slow"
