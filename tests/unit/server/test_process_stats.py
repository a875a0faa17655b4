"""What a process and its children use: memory, at a time and at most, and processor time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from papermill_mcp.utils import process_stats
from papermill_mcp.utils.process_stats import Used, _used_by_scan, peak_memory, used

_SIZE = 60_000_000
_CHILD = f"import os, time\nx = b'1' * {_SIZE}\nprint('ready', flush=True)\ntime.sleep(60)"
_PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {_CHILD!r}])"
_SPEND = "import time\nwhile time.process_time() < 0.4: pass"
_SPEND_AND_STAY = f"{_SPEND}\nprint('ready', flush=True)\ntime.sleep(60)"
_BUSY = (
    f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {_SPEND!r}])\n"
    f"subprocess.run([sys.executable, '-c', {_SPEND_AND_STAY!r}])"
)
_FREED = f"x = b'1' * {_SIZE}\ndel x\nprint('ready', flush=True)\nimport time\ntime.sleep(60)"

_Look = Callable[[int], Used | None]


def _look_at(code: str, look: _Look) -> tuple[Used, int]:
    """What a process uses once it says that it is ready, and its id. It and its children are killed."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = look(process.pid)
        finally:
            os.killpg(process.pid, 9)
    assert found is not None
    return found, process.pid


@pytest.mark.timeout(30)
@pytest.mark.parametrize("look", [used, _used_by_scan])
def test_the_memory_of_children_counts(look: _Look) -> None:
    found, pid = _look_at(_PARENT, look)
    assert _SIZE < found.memory < 3 * _SIZE
    assert look(pid) is None, "it is gone"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("look", [used, _used_by_scan])
def test_the_processor_time_of_children_counts(look: _Look) -> None:
    found, _ = _look_at(_BUSY, look)
    assert 0.7 < found.processor < 5, "0.4 s of a child that is gone, and of one that lives"


@pytest.mark.timeout(30)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    with subprocess.Popen([sys.executable, "-c", _FREED], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            peak, now = peak_memory(process.pid), used(process.pid)
        finally:
            process.kill()
    assert peak is not None
    assert now is not None
    assert peak > _SIZE > now.memory
    assert peak_memory(process.pid) is None


@pytest.mark.parametrize(
    ("files", "processors", "free"),
    [
        ({}, 99, None),
        ({"cpu.max": "max 100000", "memory.max": "max", "memory.current": "5"}, 99, None),
        ({"cpu.max": "250000 100000", "memory.max": "1000", "memory.current": "400"}, 2, 600),
        ({"cpu.max": "50000 100000", "memory.max": "1000", "memory.current": "1200"}, 1, 0),
    ],
)
def test_the_limits_of_a_container_hold(
    files: dict[str, str], processors: int, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(process_stats, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(99), raising=False)

    assert process_stats.usable_processors() == processors
    assert process_stats.available_memory() > 1_000_000 if free is None else process_stats.available_memory() == free
