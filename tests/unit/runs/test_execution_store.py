"""The memory of executions across server processes: a small SQLite file that nothing depends on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.core.processes.guard import start_time
from papermill_mcp.core.runs import store as store_module
from papermill_mcp.core.runs.store import MAX_RECORDS, ExecutionRecord, ExecutionStore


def record(execution_id: str = "e1", *, started_at: float | None = None, **changes: object) -> ExecutionRecord:
    """A record of this process."""
    made = ExecutionRecord(
        execution_id=execution_id,
        kind="notebook",
        status="running",
        path="/x/a.ipynb",
        output_path=None,
        kernel_name="python3",
        started_at=time.time() if started_at is None else started_at,
        duration=1.5,
        cells_total=3,
        cells_done=1,
        failed_cell=None,
        server_pid=os.getpid(),
        server_started=start_time(os.getpid()),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    """Some clients start a server and leave again at once."""
    store = ExecutionStore(tmp_path / "state")
    assert store.records(limit=10) == []
    assert store.record("e1") is None
    store.close()
    assert not (tmp_path / "state").exists()


def test_the_newest_record_comes_first_and_a_later_one_replaces_it(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("old", started_at=time.time() - 10))
    store.put(record("new"))
    store.put(record("new", status="ok", cells_done=3))
    assert [(r.execution_id, r.status, r.cells_done) for r in store.records(limit=10)] == [
        ("new", "ok", 3),
        ("old", "running", 1),
    ]
    assert [r.execution_id for r in store.records(limit=1)] == ["new"]
    store.close()


def test_a_row_that_sqlite_cannot_hold_is_left_out_and_the_others_are_kept(tmp_path: Path) -> None:
    """A path whose bytes are not UTF-8."""
    store = ExecutionStore(tmp_path)
    store.put(record("before"))
    store.put(record("odd", path=os.fsdecode(b"/x/\xff.ipynb")))
    store.put(record("behind"))
    assert {r.execution_id for r in store.records(limit=10)} == {"before", "behind"}
    store.put(record("later"))
    assert store.record("later") is not None
    assert store.timings(os.fsdecode(b"/x/\xff.ipynb")) == {}
    store.close()


def test_another_process_reads_what_was_written_before_the_close(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record())
    store.put_timings("/x/a.ipynb", {"abc": 1.25})
    store.close()
    other = ExecutionStore(tmp_path)
    assert other.record("e1") == replace(record(), started_at=other.records(limit=1)[0].started_at)
    assert other.timings("/x/a.ipynb") == {"abc": 1.25}
    assert other.timings("/x/b.ipynb") == {}


def test_a_server_is_alive_only_if_it_is_the_same_process(tmp_path: Path) -> None:
    """A pid that was given to somebody else is not our server."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = record(server_pid=child.pid, server_started=start_time(child.pid))
        assert living.server_alive
        assert not replace(living, server_started=living.server_started + 1).server_alive
    finally:
        child.communicate(b"\n", timeout=5)
    assert not living.server_alive


def test_old_records_and_those_beyond_the_limit_are_dropped_at_the_next_start(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    now = time.time()
    store.put(record("ancient", started_at=now - 31 * 86_400))
    for number in range(MAX_RECORDS + 5):
        store.put(record(f"e{number}", started_at=now - number))
    store.close()
    later = ExecutionStore(tmp_path)
    later.put(record("newest"))
    ids = [r.execution_id for r in later.records(limit=5000)]
    assert len(ids) == MAX_RECORDS + 1
    assert ids[0] == "newest"
    assert "ancient" not in ids
    assert f"e{MAX_RECORDS + 4}" not in ids
    later.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
def test_a_damaged_file_costs_the_memory_and_nothing_else(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "executions.sqlite").write_bytes(damage)
    store = ExecutionStore(tmp_path)
    store.put(record())
    found = store.records(limit=10)
    assert [r.execution_id for r in found] == ([] if damage else ["e1"])
    assert store.timings("/x") == {}
    store.close()
    assert bool(caplog.records) == bool(damage)


def test_a_file_of_an_earlier_form_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An update of the server must not cost it its memory for good."""
    connection = sqlite3.connect(tmp_path / "executions.sqlite")
    connection.executescript("CREATE TABLE executions (execution_id TEXT); PRAGMA user_version = 1;")
    connection.close()
    store = ExecutionStore(tmp_path)
    assert store.records(limit=5) == []
    store.put(record())
    assert [r.execution_id for r in store.records(limit=5)] == ["e1"]
    store.close()
    assert caplog.records == []


def test_the_file_holds_no_code_output_or_parameter(tmp_path: Path) -> None:
    """Its columns are what the docstring says, and no more."""
    store = ExecutionStore(tmp_path)
    store.put(record())
    store.close()
    connection = sqlite3.connect(tmp_path / "executions.sqlite")
    columns = {row[1] for row in connection.execute("PRAGMA table_info(executions)")}
    connection.close()
    assert columns == set(ExecutionRecord.__dataclass_fields__)
    assert not columns & {"code", "source", "outputs", "parameters", "error"}


def test_several_records_of_an_execution_are_written_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write_rows = ExecutionStore._write_rows

    def counted(self: ExecutionStore, connection: sqlite3.Connection, pending: Any) -> None:
        written.append(len(pending))
        write_rows(self, connection, pending)

    monkeypatch.setattr(ExecutionStore, "_write_rows", counted)
    monkeypatch.setattr(store_module, "_COLLECT_SECONDS", 3600)
    store = ExecutionStore(tmp_path)
    for status in ("queued", "running", "ok"):
        store.put(record("a", status=status))
    store.put(record("b"))

    assert {row.execution_id: row.status for row in store.records(limit=5)}["a"] == "ok"
    assert written == [2]
    store.close()


def test_records_are_written_without_a_reader_after_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_COLLECT_SECONDS", 0.01)
    written = threading.Event()
    write_rows = ExecutionStore._write_rows

    def noted(self: ExecutionStore, connection: sqlite3.Connection, pending: Any) -> None:
        write_rows(self, connection, pending)
        written.set()

    monkeypatch.setattr(ExecutionStore, "_write_rows", noted)
    store = ExecutionStore(tmp_path)
    store.put(record("a"))

    assert written.wait(10)
    assert ExecutionStore(tmp_path).record("a") is not None
    store.close()


def test_neither_a_record_nor_the_close_waits_for_a_file_that_is_locked(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("a"))
    assert store.record("a") is not None
    other = sqlite3.connect(tmp_path / "executions.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the writer waits 5 s for it
    began = time.monotonic()
    store.put(record("b"))
    store.close()
    taken = time.monotonic() - began
    other.execute("ROLLBACK")
    other.close()
    store._writer.shutdown(wait=True)

    assert taken < 3
    assert ExecutionStore(tmp_path).record("b") is not None


def test_a_second_close_and_a_record_after_it_do_nothing(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("a"))
    store.close()
    store.close()
    store.put(record("b"))

    assert [row.execution_id for row in store.records(limit=5)] == ["a"]
