"""Runs by papermill itself, in a process of its own: the measure of runs by the server.

On a busy machine papermill waits for ever once in a few dozen runs, seen with `Output` widgets. So a run that takes too
long is ended and tried again.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SCRIPT = """
import json, sys, papermill
from papermill.exceptions import PapermillExecutionError
source, output, options = sys.argv[1:]
verdict = "ok"
try:
    papermill.execute_notebook(source, output, progress_bar=False, **json.loads(options))
except PapermillExecutionError:
    verdict = "error"
print(verdict)
"""

#: A run of a small notebook takes three seconds, on two cores that others use as well perhaps ten.
_SECONDS = 45
_TRIES = 3


async def run_by_papermill(source: Path, output: Path, **options: Any) -> str:
    """The verdict of papermill about a notebook: `ok` or `error`.

    Args:
        options: of `papermill.execute_notebook`. The kernel's directory is that of the source.
    """
    options = {"cwd": str(source.parent), **options}
    command = [sys.executable, "-c", _SCRIPT, str(source), str(output), json.dumps(options)]
    for left in reversed(range(_TRIES)):
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            async with asyncio.timeout(_SECONDS):
                out, errors = await process.communicate()
        except TimeoutError:
            process.kill()  # its kernel ends by itself: it asks each second whether its parent lives
            await process.communicate()
            assert left, "papermill does not end"
            continue
        assert process.returncode == 0, errors.decode()
        break
    return out.decode().split()[-1]


async def all_by_papermill(jobs: Sequence[tuple[Path, Path]], **options: Any) -> list[str]:
    """The verdicts of papermill about several notebooks, one after another."""
    return [await run_by_papermill(source, output, **options) for source, output in jobs]
