"""The content of the report of a batch: complete, in order, and bounded. Outputs are files, no kernel runs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from helpers import cell, write_notebook
from PIL import Image

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.snapshot import BatchSnapshot, RowState
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.runs import batch_report
from papermill_mcp.services.runs.batch_report import BatchReports
from papermill_mcp.services.runs.run_pictures import RunPictures
from papermill_mcp.services.workspace import Workspace


@pytest.fixture
def reports(config: MakeConfig, workspace: Path, state_directory: Path) -> BatchReports:
    settings = config()
    notebooks = NotebookService(settings, Workspace([workspace]), state_directory)
    return BatchReports(settings, RunPictures(settings, notebooks))


def _output(path: Path, *, error: str = "", picture: bool = True) -> Path:
    outputs: list[dict[str, Any]] = []
    if picture:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(buffer, format="PNG")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    if error:
        traceback = ["---", f"Cell In[1], line 1\n----> 1 {error}()", f"ValueError: {error}"]
        outputs.append({"output_type": "error", "ename": "ValueError", "evalue": error, "traceback": traceback})
    return write_notebook(path, [cell("1", cell_id="work") | {"outputs": outputs}])


def _row(number: int, output: Path, parameters: Mapping[str, Any], error: str = "", **more: Any) -> RowState:
    return RowState(
        number=number,
        status=RunStatus.ERROR if error else RunStatus.OK,
        kernel_name="python3",
        parameters=parameters,
        file=more.pop("file", output.parent / "in.ipynb"),
        output_file=output,
        duration=1.5,
        failed=bool(error),
        failed_cell=0 if error else None,
        error=f"ValueError: {error}" if error else None,
        **more,
    )


async def _page(reports: BatchReports, rows: list[RowState], directory: Path) -> str:
    batch = BatchSnapshot(
        execution_id="a" * 24,
        operation="execute_notebook_batch",
        status=RunStatus.OK,
        started_at=datetime.now(UTC),
        seconds=12.34,
        total=len(rows),
        failed=sum(row.failed for row in rows),
        output_file=directory / "results.csv",
    )
    return (await reports.write(batch, rows, directory)).read_text()


def _pictured(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'<figure data-row="run-(\d+)">', page)]


async def test_pictures_stand_in_the_order_of_the_parameters(reports: BatchReports, workspace: Path) -> None:
    output = _output(workspace / "out.ipynb")
    sets = [{"a": a, "b": b, "same": 7} for a in ("y", "x") for b in (10, 9, 100)]
    page = await _page(reports, [_row(n, output, one) for n, one in enumerate(sets)], workspace)
    assert _pictured(page) == [4, 3, 5, 1, 0, 2]
    assert re.findall(r"<h3>(.*)</h3>", page) == ["a = x", "a = y"]
    assert "same = 7" in page
    headings = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    assert headings == ["run", "status", "a", "b", "seconds", "output"]


async def test_failed_runs_have_their_picture_and_a_traceback_for_each_error(
    reports: BatchReports, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_report, "MAX_PICTURES", 5)
    good, bad = _output(workspace / "good.ipynb"), _output(workspace / "bad.ipynb", error="one")
    worse = _output(workspace / "worse.ipynb", error="two", picture=False)
    rows = [_row(n, good, {"n": n}) for n in range(60)]
    for number in (20, 40):
        rows[number] = _row(number, bad, {"n": number}, "one")
    rows[41] = _row(41, worse, {"n": 41}, "two")
    rows[42] = _row(42, workspace / "gone.ipynb", {"n": 42}, "three")
    page = await _page(reports, rows, workspace)
    assert set(_pictured(page)) >= {20, 40}
    assert len(_pictured(page)) <= 5
    assert "of the runs without a picture, 55 have no room" in page
    assert "of the runs without a picture, 1 have an output that cannot be read" in page
    assert page.count("<article>") == 3
    assert "2 runs: ValueError: one" in page
    assert "Traceback of run 20, cell 0 [work]" in page
    assert "Traceback of run 41, cell 0 [work]" in page
    assert "----&gt; 1 two()" in page
    assert "1 run: ValueError: three" in page
    assert page.count('class="failed"') == 4
    assert page.count('<tr id="run-') == 60


async def test_a_traceback_needs_no_picture(
    reports: BatchReports, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_report, "MAX_PICTURES", 0)
    bad = _output(workspace / "bad.ipynb", error="one")
    page = await _page(reports, [_row(0, bad, {}, "one")], workspace)
    assert "Traceback of run 0, cell 0 [work]" in page
    assert "<figure" not in page


@pytest.mark.parametrize(("limit", "value"), [("MAX_PICTURE_BYTES", 300), ("SECONDS", -1.0)])
async def test_bytes_and_time_are_bounded(
    limit: str, value: float, reports: BatchReports, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_report, limit, value)
    output = _output(workspace / "out.ipynb")
    page = await _page(reports, [_row(n, output, {"n": n}) for n in range(30)], workspace)
    left_out = 30 - len(_pictured(page))
    assert left_out > 20
    assert f"of the runs without a picture, {left_out} " in page
    assert page.count('<tr id="run-') == 30


async def test_many_and_strange_values_have_bounded_cells(reports: BatchReports, workspace: Path) -> None:
    output = _output(workspace / "out.ipynb", picture=False)
    rows = [
        _row(
            n,
            output,
            {f"p{k}": [n, {"deep": "x" * 5_000}] for k in range(50)} | {"flag": n > 0, "none": None},
            recorded={"nan": float("nan"), "huge": 10**400 + n, "inf": float("inf"), "text": "line\nline" * 100},
        )
        for n in range(3)
    ]
    page = await _page(reports, rows, workspace)
    assert "21 more columns of parameters and recorded values" in page
    assert len(page) < 80_000
    assert not re.search(r'data-order="(nan|inf|-inf)"', page)


async def test_a_hostile_name_of_a_notebook_is_a_name(reports: BatchReports, workspace: Path) -> None:
    names = ["<b>bold", 'quote"', "javascript:alert(1)"]
    rows = [
        _row(n, _output(workspace / f"{name}-out.ipynb"), {}, file=workspace / f"{name}.ipynb")
        for n, name in enumerate(names)
    ]
    page = await _page(reports, rows, workspace)
    assert "<b>" not in page
    assert all(re.match(r"\./|#", address) for address in re.findall(r'href="([^"]*)"', page))
    assert "&lt;b&gt;bold" in page
