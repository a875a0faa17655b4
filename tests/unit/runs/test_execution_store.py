"""The memory of executions across server processes: a small SQLite file that nothing depends on."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.core.processes.guard import start_time
from papermill_mcp.core.runs import store as store_module
from papermill_mcp.core.runs.store import MAX_RECORDS, ExecutionRecord, ExecutionStore, StoreUnavailableError


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


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every store of a test is closed at its end: a read opens the file, too."""
    made: list[ExecutionStore] = []
    begin = ExecutionStore.__init__

    def begun(store: ExecutionStore, directory: Path) -> None:
        begin(store, directory)
        made.append(store)

    monkeypatch.setattr(ExecutionStore, "__init__", begun)
    yield
    for store in made:
        store.close()


def read(store: ExecutionStore) -> list[ExecutionRecord]:
    """The records; none if they cannot be read."""
    try:
        return store.records()
    except StoreUnavailableError:
        return []


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    """Some clients start a server and leave again at once."""
    store = ExecutionStore(tmp_path / "state")
    assert store.records() == []
    assert store.record("e1") is None
    store.close()
    assert not (tmp_path / "state").exists()


def test_the_newest_record_comes_first_and_a_later_one_replaces_it(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("old", started_at=time.time() - 10))
    store.put(record("new"))
    store.put(record("new", status="ok", cells_done=3))
    assert [(r.execution_id, r.status, r.cells_done) for r in store.records()] == [
        ("new", "ok", 3),
        ("old", "running", 1),
    ]
    store.close()


def test_a_path_whose_bytes_are_not_utf8_is_kept_as_it_is(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("before"))
    store.put(record("odd", path=os.fsdecode(b"/x/\xff.ipynb")))
    store.put(record("behind"))
    assert {r.execution_id for r in store.records()} == {"before", "odd", "behind"}
    store.put_timings(os.fsdecode(b"/x/\xff.ipynb"), {"abc": 1.0})
    store.close()

    later = ExecutionStore(tmp_path)
    found = later.record("odd")
    assert found is not None
    assert found.path == os.fsdecode(b"/x/\xff.ipynb")
    assert later.timings(os.fsdecode(b"/x/\xff.ipynb")) == {"abc": 1.0}
    later.close()


def test_another_process_reads_what_was_written_before_the_close(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record())
    store.put_timings("/x/a.ipynb", {"abc": 1.25})
    store.close()
    other = ExecutionStore(tmp_path)
    assert other.record("e1") == replace(record(), started_at=other.records()[0].started_at)
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
    later.close()
    ids = [r.execution_id for r in ExecutionStore(tmp_path).records()]
    assert len(ids) == MAX_RECORDS + 1
    assert ids[0] == "newest"
    assert "ancient" not in ids
    assert f"e{MAX_RECORDS + 4}" not in ids


@pytest.mark.case("W06")
@pytest.mark.parametrize("damage", ["other bytes", "a damaged page", "empty"])
def test_a_damaged_file_is_moved_aside_and_begun_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "executions.sqlite"
    if damage == "a damaged page":
        store = ExecutionStore(tmp_path)
        for number in range(300):
            store.put(record(f"e{number}", path="/x/" + "a" * 200))
        store.close()
        data = bytearray(file.read_bytes())
        data[4096 * 3 : 4096 * 8] = b"\xaa" * 4096 * 5
        file.write_bytes(data)
    else:
        file.write_bytes(b"not a database at all" * 100 if damage == "other bytes" else b"")
    file.chmod(0o644)
    before = file.read_bytes()

    store = ExecutionStore(tmp_path)
    assert store.records() == []
    store.put(record("new"))
    store.close()

    assert [r.execution_id for r in ExecutionStore(tmp_path).records()] == ["new"]
    aside = tmp_path / "executions.sqlite.damaged"
    if damage == "empty":
        assert not aside.exists()
        assert caplog.records == []
    else:
        assert aside.read_bytes() == before
        assert str(aside) in caplog.text
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("executions.sqlite*")}
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.case("W06")
def test_a_damaged_file_that_another_server_has_replaced_stays(tmp_path: Path) -> None:
    """Both found the same damage: the second must not move the new file aside."""
    (tmp_path / "executions.sqlite").write_bytes(b"not a database at all" * 100)
    first, second = ExecutionStore(tmp_path), ExecutionStore(tmp_path)
    for store, name in ((first, "a"), (second, "b")):
        assert store.reserve(record(name, idempotency_key=name)) is None
    second._database._move_aside()

    assert {r.execution_id for r in ExecutionStore(tmp_path).records()} == {"a", "b"}


@pytest.mark.case("W06")
def test_a_file_of_an_earlier_form_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An update of the server must not cost it its memory for good."""
    connection = sqlite3.connect(tmp_path / "executions.sqlite")
    connection.executescript("CREATE TABLE executions (execution_id TEXT); PRAGMA user_version = 1;")
    connection.close()
    store = ExecutionStore(tmp_path)
    assert store.records() == []
    store.put(record())
    assert [r.execution_id for r in store.records()] == ["e1"]
    store.close()
    assert caplog.records == []


@pytest.mark.case("W06")
def test_records_of_the_last_form_are_kept(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record())
    store.close()
    connection = sqlite3.connect(tmp_path / "executions.sqlite")
    connection.executescript("ALTER TABLE executions DROP COLUMN workspace; PRAGMA user_version = 3;")
    connection.close()

    store = ExecutionStore(tmp_path)
    assert store.reserve(record("e2", workspace="w", idempotency_key="k")) is None
    assert {r.execution_id for r in store.records()} == {"e1", "e2"}
    store.close()


@pytest.mark.case("W06")
@pytest.mark.parametrize("kind", ["newer", "foreign", "directory", "fifo"])
def test_a_file_that_is_not_ours_is_left_alone(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "executions.sqlite"
    if kind == "directory":
        (file / "of another program").mkdir(parents=True)
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        connection = sqlite3.connect(file)
        version = 99 if kind == "newer" else 0
        connection.executescript(f"CREATE TABLE t (x); INSERT INTO t VALUES (1); PRAGMA user_version = {version};")
        connection.close()
    before = file.read_bytes() if file.is_file() else b""

    store = ExecutionStore(tmp_path)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            store.reserve(record(idempotency_key="k"))
    store.put(record())
    assert store.record("e1") is not None  # this process knows it
    store.close()
    assert time.monotonic() - began < 0.5

    assert (file.read_bytes() if file.is_file() else b"") == before
    assert len(caplog.records) == 1


@pytest.mark.case("W06")
@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE"])
def test_no_call_waits_for_a_file_that_is_locked(lock: str, tmp_path: Path) -> None:
    """Records are written once it is free."""
    store = ExecutionStore(tmp_path)
    store.put(record("a"))
    store.close()
    other = sqlite3.connect(tmp_path / "executions.sqlite", isolation_level=None)
    if lock.startswith("PRAGMA"):
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute(lock)
        other.execute("BEGIN EXCLUSIVE")
    else:
        other.execute(lock)

    store = ExecutionStore(tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: store.put(record("b")),
        lambda: store.put_timings("/x", {"abc": 1.0}),
        lambda: store.timings("/x"),
        lambda: read(store),
        lambda: store.record("b"),
        lambda: store.forget("c"),
    ]
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.reserve(record("k", workspace="w", idempotency_key="k"))
    for call in calls:
        call()
    assert time.monotonic() - began < 0.2 + 0.1  # all of them together, on a machine that has other work
    assert store.record("b") is not None
    other.execute("ROLLBACK")
    other.close()
    store._failures.clear()
    store._write()

    assert {r.execution_id for r in ExecutionStore(tmp_path).records()} == {"a", "b"}
    store.close()


@pytest.mark.case("W03")
def test_one_of_many_gets_a_key(tmp_path: Path) -> None:
    """Each has a connection of its own, as servers have."""
    stores = [ExecutionStore(tmp_path) for _ in range(8)]
    got: list[ExecutionRecord | None] = []

    def reserve(number: int) -> None:
        wanted = record(f"e{number}", workspace="w", idempotency_key="k")
        for _ in range(50):  # busy is an answer of its own
            try:
                got.append(stores[number].reserve(wanted))
                return
            except StoreUnavailableError:
                stores[number]._failures.clear()

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)

    assert got.count(None) == 1
    assert len({found.execution_id for found in got if found is not None}) == 1
    assert stores[0].reserve(record("other", workspace="v", idempotency_key="k")) is None
    for store in stores:
        store.close()


def test_a_key_whose_request_began_nothing_is_free_again(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    assert store.reserve(record("a", workspace="w", idempotency_key="k")) is None
    store.forget("a")
    assert store.reserve(record("b", workspace="w", idempotency_key="k")) is None
    store.close()


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

    assert {row.execution_id: row.status for row in store.records()}["a"] == "ok"
    store.close()
    assert written == [2]


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
    store._write()
    other = sqlite3.connect(tmp_path / "executions.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    store.put(record("b"))
    store.close()
    taken = time.monotonic() - began
    other.execute("ROLLBACK")
    other.close()
    store._writer.shutdown(wait=True)

    assert taken < 1
    assert ExecutionStore(tmp_path).record("b") is not None


def test_a_second_close_and_a_record_after_it_do_nothing(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    store.put(record("a"))
    store.close()
    store.close()
    store.put(record("b"))

    assert [row.execution_id for row in ExecutionStore(tmp_path).records()] == ["a"]
