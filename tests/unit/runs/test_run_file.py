"""The file of a run, without a kernel."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from helpers import joined, read_json, write_notebook

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.runs import run_file
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.utils.file_utils import FileContent, read_file, write_file


async def test_an_output_that_cannot_be_stored_costs_itself_only(tmp_path: Path) -> None:
    """What kernels send is checked before. This is the border of the file itself."""
    path = write_notebook(tmp_path / "a.ipynb", ["1", "2"])
    content = read_file(path, max_bytes=10**6, display_path="a.ipynb")
    document = NotebookDocument.parse(content.data, display_path="a.ipynb")
    file = RunFile(path, document, content, display_path="a.ipynb", max_bytes=10**6, lock=contextlib.nullcontext)
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"a": deep}
    good = {"output_type": "stream", "name": "stdout", "text": "kept\n"}
    bad = {"output_type": "display_data", "data": {"application/json": deep}, "metadata": {}}
    file.record(0, {"outputs": [good, bad], "execution_count": 1, "metadata": {}})
    file.record(1, {"outputs": [good], "execution_count": 2, "metadata": {}})

    assert await file.close() == []
    first, second = read_json(path)["cells"]
    assert file.complete
    assert (first["execution_count"], second["execution_count"]) == (1, 2)
    assert [joined(one["outputs"][0]["text"]) for one in (first, second)] == ["kept\n", "kept\n"]
    assert "was not saved" in str(first["outputs"][1])


async def test_a_run_that_ends_soon_is_saved_once_and_a_longer_one_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_notebook(tmp_path / "a.ipynb", ["1"])
    saves: list[bool] = []
    saved = asyncio.Event()
    turns = asyncio.Lock()
    loop = asyncio.get_running_loop()

    def counted(*arguments: Any, durable: bool, **others: Any) -> FileContent:
        saves.append(durable)
        loop.call_soon_threadsafe(saved.set)
        return write_file(*arguments, durable=durable, **others)

    monkeypatch.setattr(run_file, "write_file", counted)
    for waits in (False, True):
        content = read_file(path, max_bytes=10**6, display_path="a.ipynb")
        document = NotebookDocument.parse(content.data, display_path="a.ipynb")
        file = RunFile(path, document, content, display_path="a.ipynb", max_bytes=10**6, lock=lambda: turns)
        file.start()
        file.record(0, {"outputs": [], "execution_count": 1 + waits})
        saves.clear()
        if waits:
            saved.clear()
            async with asyncio.timeout(20):
                await saved.wait()
        assert await file.close() == []
        assert saves == ([False, True] if waits else [True])
