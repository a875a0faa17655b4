"""What the text of a reply about a run says, and what it leaves out since the caller knows it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.config import Config
from papermill_mcp.core.kernels.request import CellError, RunStatus
from papermill_mcp.core.runs.snapshot import CellSnapshot, CellsState, CellState, Cursor, NotebookSnapshot
from papermill_mcp.services.outputs import OutputBudget
from papermill_mcp.services.runs.view import RunViewer
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.tools.replies import render

ID = "e" * 24
_START = Cursor()


def _code(status: RunStatus = RunStatus.OK, *, cursor: Cursor = _START, **more: Any) -> CellSnapshot:
    result = {"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}, "execution_count": 4}
    cell = CellState(status, execution_count=4, duration=0.011, outputs=[result])
    return CellSnapshot(
        execution_id=ID,
        operation="execute_cell",
        status=status,
        started_at=datetime.now(UTC),
        seconds=0.011,
        kernel_id="k" * 24,
        kernel_name="python3",
        python=".venv (3.11.7), the server's own",
        cursor=cursor,
        cell=cell,
        **more,
    )


def _text(run: Any, tmp_path: Path, *, later: bool = False, wait: float = 25) -> str:
    viewer = RunViewer(Workspace([tmp_path]), OutputBudget.of(Config()), wait=wait, later=later)
    return render(viewer.show(run))


def test_a_sum_costs_fifteen_tokens(tmp_path: Path) -> None:
    text = _text(_code(new_kernel=False), tmp_path)
    assert "2" in text.splitlines()
    assert len(text) / 4 <= 15, text


def test_a_kernel_is_named_with_its_first_run(tmp_path: Path) -> None:
    assert "k" * 24 in _text(_code(), tmp_path)
    assert "the server's own" in _text(_code(), tmp_path)
    assert "k" * 24 not in _text(_code(new_kernel=False), tmp_path)
    assert "k" * 24 not in _text(_code(), tmp_path, later=True)


@pytest.mark.parametrize("status", [status for status in RunStatus if status.final])
def test_only_a_run_that_ended_well_has_no_id(status: RunStatus, tmp_path: Path) -> None:
    text = _text(_code(status), tmp_path)
    assert (ID in text) is (status != RunStatus.OK)
    assert text.startswith(f"status: {status} · ")


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RUNNING])
def test_the_next_call_is_complete(status: RunStatus, tmp_path: Path) -> None:
    first = _text(_code(status, progress="running"), tmp_path)
    later = _text(_code(status, cursor=Cursor(0, 1, 7)), tmp_path, later=True, wait=8.5)
    assert f'get_execution(execution_id="{ID}", wait=25)' in first
    assert f'get_execution(execution_id="{ID}", since="0.1.7", wait=8.5)' in later


def _failed(source: str, traceback: list[str]) -> NotebookSnapshot:
    error = CellError("KeyError", "'b'", traceback)
    failed = CellState(RunStatus.ERROR, 0, "c0", source, 1, 0.1, error=error)
    return NotebookSnapshot(
        execution_id=ID,
        operation="execute_notebook",
        status=RunStatus.ERROR,
        started_at=datetime.now(UTC),
        seconds=0.1,
        cells=CellsState(1, 1, 1, {"error": 1}, [failed], failed_cell=failed),
        revision="r" * 16,
    )


def test_a_failure_is_said_once(tmp_path: Path) -> None:
    headline = "KeyError" + " " * 34 + "Traceback (most recent call last)"
    frame = "Cell In[1], line 2\n      1 rates = {}\n----> 2 rates['b']"
    text = _text(_failed("rates = {}\nrates['b']", ["-" * 75, headline, frame, "KeyError: 'b'"]), tmp_path)
    assert text.count("KeyError: 'b'") == 1
    assert text.count("rates = {}") == 2, "in the source, which is to be mended, and in the frame"
    assert headline not in text
    assert "----> 2 rates['b']" in text


def test_an_error_without_frames_keeps_its_line(tmp_path: Path) -> None:
    text = _text(_failed("1", []), tmp_path)
    assert "error: KeyError: 'b'" in text
    assert "```traceback" not in text


def test_a_message_of_several_lines_stays_whole(tmp_path: Path) -> None:
    error = CellError("ValueError", "first\nsecond", ["ValueError: first\nsecond"])
    run = _code(RunStatus.ERROR)
    cell = CellState(RunStatus.ERROR, execution_count=1, error=error)
    text = _text(CellSnapshot(**{**vars(run), "cell": cell}), tmp_path)
    assert "first\nsecond" in text
