"""The memory of a real server while many requests read large notebooks."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import StartRaw
from helpers import Json, RawServer, cell, write_notebook

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "darwin", reason="freed memory stays with the process there"),
]

#: Requests that are in flight together, and the most that they may add to the memory.
_READS = 30
_GROWTH_BYTES = 600e6

_REQUESTS: dict[str, tuple[str, Json]] = {
    "reads": ("tools/call", {"name": "read_notebook", "arguments": {"path": "big.ipynb", "cells": "0"}}),
    "facts": ("tools/call", {"name": "get_notebook_info", "arguments": {"path": "big.ipynb"}}),
    "lists": ("tools/call", {"name": "list_notebook_files", "arguments": {}}),
    "searches": ("tools/call", {"name": "search_notebooks", "arguments": {"query": "x", "path": "big.ipynb"}}),
    "resources": ("resources/read", {"uri": "notebook://big.ipynb/cells/c0"}),
    "edits": (
        "tools/call",
        {"name": "update_cell", "arguments": {"path": "big.ipynb", "cell_id": "c0", "tags": ["a"]}},
    ),
}


@pytest.fixture
def big(workspace: Path) -> Path:
    """A notebook of 57 MiB with text outputs of many lines."""
    output = {"output_type": "stream", "name": "stdout", "text": [f"line {number}\n" for number in range(60_000)]}
    cells = [{**cell("x"), "outputs": [output]} for _ in range(46)]
    path = write_notebook(workspace / "big.ipynb", [cell("# Title", "markdown"), *cells])
    assert path.stat().st_size > 55 * 2**20
    return path


async def peak_growth(server: RawServer, method: str, params: Json) -> tuple[int, list[Json]]:
    """The growth of the resident memory at its peak while the same request is in flight many times, and the answers."""
    process = psutil.Process(server.pid)
    base = peak = process.memory_info().rss
    answers = asyncio.gather(*[(await server.send(method, params))[1] for _ in range(_READS)])
    async with asyncio.timeout(110):
        while not answers.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)
    return peak - base, answers.result()


@pytest.mark.case("L13")
@pytest.mark.parametrize("kind", _REQUESTS)
@pytest.mark.usefixtures("big")
async def test_parallel_requests_for_a_large_notebook_share_a_budget(kind: str, raw_server: StartRaw) -> None:
    async with raw_server() as server:
        growth, answers = await peak_growth(server, *_REQUESTS[kind])

    failed = [json.dumps(answer) for answer in answers if "error" in answer or answer["result"].get("isError")]
    # An edit waits ten seconds for its turn.
    assert [text[:300] for text in failed if not (kind == "edits" and "BUSY" in text)] == []
    assert growth < _GROWTH_BYTES


@pytest.mark.case("L13")
@pytest.mark.kernel
async def test_a_batch_keeps_no_outputs_of_its_notebooks(big: Path, raw_server: StartRaw, workspace: Path) -> None:
    for number in range(8):
        shutil.copy(big, workspace / f"copy{number}.ipynb")
    names = [f"copy{number}.ipynb" for number in range(8)]
    arguments = {"input_paths": names, "output_directory": "out", "wait": 100}
    async with raw_server() as server:
        process = psutil.Process(server.pid)
        base = peak = process.memory_info().rss
        _, answer = await server.send("tools/call", {"name": "execute_notebook_batch", "arguments": arguments})
        async with asyncio.timeout(110):
            while not answer.done():
                peak = max(peak, process.memory_info().rss)
                await asyncio.sleep(0.02)
        assert len(list((workspace / "out").glob("*.ipynb"))) == len(names)

    assert "runs: 8 of 8 done" in answer.result()["result"]["content"][0]["text"]
    assert peak - base < _GROWTH_BYTES


@pytest.mark.case("L13")
@pytest.mark.usefixtures("big")
async def test_a_small_notebook_does_not_wait_for_large_ones(raw_server: StartRaw, workspace: Path) -> None:
    write_notebook(workspace / "small.ipynb", ["1"])
    async with raw_server() as server:
        method, params = _REQUESTS["reads"]
        large = [(await server.send(method, params))[1] for _ in range(_READS)]
        began = time.monotonic()
        await server.request("tools/call", {"name": "read_notebook", "arguments": {"path": "small.ipynb"}})
        seconds = time.monotonic() - began
        assert not all(answer.done() for answer in large)
        for answer in large[5:]:
            answer.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*large[:5])

    assert seconds < 5
