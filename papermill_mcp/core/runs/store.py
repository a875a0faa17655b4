"""The record of executions, also of other server processes, and of the time that cells took.

A small SQLite file in the state directory. It holds no code, no output and no parameters. Writing goes through a thread
of its own, and no call waits for the file for longer than `BUSY_SECONDS`. If the file cannot be used, the server does
without it and logs the reason. A damaged file is moved aside; one of a newer version or of another program is left
alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.processes.guard import start_time, still_runs
from papermill_mcp.utils.database import Database, DatabaseUnavailableError, transaction

logger = logging.getLogger(__name__)

#: Records older than this many days, or beyond this many, are dropped.
MAX_AGE_DAYS = 30
MAX_RECORDS = 1_000

#: Seconds that a look at the file waits for another process that has locked it. A call takes two looks at most.
BUSY_SECONDS = 0.08

#: Seconds for which the file is not tried again after a failure.
_PAUSE_SECONDS = 1.0

#: Seconds for which records are collected before they are written, and until the next try after a failure.
_COLLECT_SECONDS = 0.5
_RETRY_SECONDS = 2.0

#: Milliseconds that the last try at the end of the server may take.
_LAST_TRY_MS = 1000

#: Records that wait for a file that cannot be used, at most.
_MAX_PENDING = 2 * MAX_RECORDS

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, path TEXT, output_path TEXT,
    kernel_name TEXT, started_at REAL NOT NULL, duration REAL NOT NULL, cells_total INTEGER, cells_done INTEGER,
    failed_cell INTEGER, server_pid INTEGER NOT NULL, server_started INTEGER NOT NULL, workspace TEXT,
    idempotency_key TEXT, request_digest TEXT
)""",
    "CREATE TABLE IF NOT EXISTS timings (path TEXT PRIMARY KEY, seconds TEXT NOT NULL, updated REAL NOT NULL)",
)

#: The form of the tables. Form 3 had no workspace; older forms are emptied.
_VERSION = 4

_T = TypeVar("_T")


@dataclass(frozen=True)
class ExecutionRecord:
    """One execution in short.

    Attributes:
        path: the notebook, or the input of a papermill run; None for a piece of code.
        started_at: seconds since the epoch.
        failed_cell: index of the cell that ended it badly.
        workspace: the roots of its server, as text.
    """

    execution_id: str
    kind: str
    status: str
    path: str | None
    output_path: str | None
    kernel_name: str | None
    started_at: float
    duration: float
    cells_total: int | None
    cells_done: int | None
    failed_cell: int | None
    server_pid: int
    server_started: int
    workspace: str | None = None
    idempotency_key: str | None = None
    request_digest: str | None = None

    @property
    def server_alive(self) -> bool:
        """Whether the server process that ran it still lives."""
        return still_runs(self.server_pid, self.server_started)

    @property
    def goes_on(self) -> bool:
        """Whether a living server runs it."""
        return not RunStatus(self.status).final and self.server_alive

    @property
    def cut_off(self) -> bool:
        """Whether its server process ended while it ran."""
        return not RunStatus(self.status).final and not self.server_alive


class StoreUnavailableError(Exception):
    """The file cannot be used now. The message is the reason, without the path."""


_COLUMNS = ", ".join(field.name for field in fields(ExecutionRecord))
_MARKS = ", ".join(f":{field.name}" for field in fields(ExecutionRecord))
_INSERT = {
    "executions": f"INSERT OR REPLACE INTO executions ({_COLUMNS}) VALUES ({_MARKS})",
    "timings": "INSERT OR REPLACE INTO timings (path, seconds, updated) VALUES (:path, :seconds, :updated)",
}
_DELETE = "DELETE FROM executions WHERE execution_id = ?"

#: A row that waits to be written, by table and key. None: it is to be deleted.
_Pending = dict[tuple[str, str], dict[str, Any] | None]


class ExecutionStore:
    """Remembers executions across server processes. Nothing is opened before the first record."""

    def __init__(self, state_directory: Path) -> None:
        self._file = state_directory / "executions.sqlite"
        self._database = Database(
            self._file,
            subject="the record of executions",
            schema=_SCHEMA,
            version=_VERSION,
            locks=state_directory / "locks",
            busy_seconds=BUSY_SECONDS,
            upgrade=_upgrade,
        )
        self._pending: _Pending = {}
        self._lock = threading.Lock()  # of the rows, the timer and the flag
        self._timer: threading.Timer | None = None
        self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="execution store")
        self._pruned = False
        self._failures: dict[bool, tuple[str, float]] = {}  # reason and end of the pause, of reads and of writes
        self._logged = ""
        self.pid = os.getpid()
        self.server_started = start_time(self.pid)

    def put(self, record: ExecutionRecord) -> None:
        """Keep a record, replacing the one of the same execution. Returns at once."""
        self._enqueue("executions", record.execution_id, vars(record))

    def flush(self) -> None:
        """Write the collected records now, if that is quick. Blocks: call it in a thread."""
        writing = self._submit() if self._pending else None
        if writing is not None:
            wait([writing], timeout=BUSY_SECONDS)

    def put_timings(self, path: str, seconds: dict[str, float]) -> None:
        """Keep how long the cells of a notebook took, by a digest of their source. Returns at once."""
        if seconds:
            self._enqueue("timings", path, {"path": path, "seconds": json.dumps(seconds), "updated": time.time()})

    def reserve(self, record: ExecutionRecord) -> ExecutionRecord | None:
        """Write a record, unless its workspace has one with its key: then return that. Blocks: call it in a thread.

        Of several processes that reserve one key at the same time, one gets it.

        Raises:
            StoreUnavailableError: the key can be neither kept nor looked up.
        """
        query = (
            f"SELECT {_COLUMNS} FROM executions WHERE workspace = ? AND idempotency_key = ? ORDER BY started_at DESC"
        )

        def reserve(connection: sqlite3.Connection) -> ExecutionRecord | None:
            with transaction(connection):
                rows = connection.execute(query, (record.workspace, record.idempotency_key)).fetchall()
                for found in map(_record, rows):
                    if self._pending.get(("executions", found.execution_id), {}) is not None:
                        return found
                connection.execute(_INSERT["executions"], _encoded(vars(record)))
            return None

        return self._use(reserve)

    def forget(self, execution_id: str) -> None:
        """Remove the record of a request that began nothing. Blocks: call it in a thread."""
        try:
            self._use(lambda connection: connection.execute(_DELETE, (execution_id,)))
        except StoreUnavailableError:
            self._enqueue("executions", execution_id, None)

    def records(self) -> list[ExecutionRecord]:
        """All records, the newest first. Blocks: call it in a thread.

        Raises:
            StoreUnavailableError: they cannot be read.
        """
        found = {
            record.execution_id: record for record in map(_record, self._rows(f"SELECT {_COLUMNS} FROM executions"))
        }
        with self._lock:
            for (table, key), row in self._pending.items():
                if table == "executions":
                    found.pop(key, None)
                    if row is not None:
                        found[key] = ExecutionRecord(**row)
        return sorted(found.values(), key=lambda record: record.started_at, reverse=True)

    def record(self, execution_id: str) -> ExecutionRecord | None:
        """The record of one execution. Blocks: call it in a thread."""
        with self._lock:
            row = self._pending.get(("executions", execution_id))
        if row is not None:
            return ExecutionRecord(**row)
        try:
            rows = self._rows(f"SELECT {_COLUMNS} FROM executions WHERE execution_id = ?", execution_id)
        except StoreUnavailableError:
            return None
        return _record(rows[0]) if rows else None

    def timings(self, path: str) -> dict[str, float]:
        """How long the cells of a notebook took last time, by a digest of their source. Blocks."""
        with self._lock:
            pending = self._pending.get(("timings", path))
        try:
            rows = (
                [(pending["seconds"],)] if pending else self._rows("SELECT seconds FROM timings WHERE path = ?", path)
            )
            return {str(key): float(value) for key, value in json.loads(rows[0][0]).items()} if rows else {}
        except (StoreUnavailableError, ValueError, TypeError, AttributeError):
            return {}

    def close(self) -> None:
        """Write pending records. Waits at most half a second. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        wait([self._writer.submit(self._end)], timeout=0.5)
        self._writer.shutdown(wait=False)

    def _enqueue(self, table: str, key: str, row: dict[str, Any] | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._pending[table, key] = row
            self._schedule(_COLLECT_SECONDS)

    def _schedule(self, seconds: float) -> None:
        """Have the collected rows written soon: several records of one execution become one."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._submit)
            self._timer.daemon = True
            self._timer.start()

    def _submit(self) -> Future[None] | None:
        try:
            return self._writer.submit(self._write)
        except RuntimeError:  # the store is closed: the rows are written, or lost
            return None

    def _write(self) -> None:
        with self._lock:
            timer, self._timer = self._timer, None
            pending = dict(self._pending)
        if timer is not None:
            timer.cancel()
        if not pending:
            return
        try:
            self._use(lambda connection: self._write_rows(connection, pending))
        except StoreUnavailableError:
            with self._lock:
                for key in itertools.islice([*self._pending], max(0, len(self._pending) - _MAX_PENDING)):
                    del self._pending[key]
                if not self._closed:
                    self._schedule(_RETRY_SECONDS)
            return
        with self._lock:
            for key, row in pending.items():
                if self._pending.get(key) is row:  # not replaced meanwhile
                    self._pending.pop(key, None)

    def _end(self) -> None:
        self._failures.clear()
        if self._pending:
            with contextlib.suppress(DatabaseUnavailableError):  # no call waits for this last try
                self._database.use(lambda connection: connection.execute(f"PRAGMA busy_timeout = {_LAST_TRY_MS}"))
        self._write()
        self._database.close()

    def _write_rows(self, connection: sqlite3.Connection, pending: _Pending) -> None:
        with transaction(connection):
            if not self._pruned:
                _prune(connection)
                self._pruned = True
            for (table, key), row in pending.items():
                if row is None:
                    connection.execute(_DELETE, (key,))
                else:
                    connection.execute(_INSERT[table], _encoded(row))

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows of a query. A file that is not there is not made to be read."""
        if not os.path.lexists(self._file):
            return []
        parameters = [*map(_text, values)]
        return self._use(lambda connection: connection.execute(query, parameters).fetchall(), writing=False)

    def _use(self, action: Callable[[sqlite3.Connection], _T], *, writing: bool = True) -> _T:
        """Do something with the connection. A damaged file is moved aside, and a new one begun.

        Raises:
            StoreUnavailableError: the file cannot be used.
        """
        reason, paused_until = self._failures.get(writing, ("", 0.0))
        if time.monotonic() < paused_until:
            raise StoreUnavailableError(reason)
        try:
            result = self._database.use(action)
        except DatabaseUnavailableError as error:
            self._pause(str(error), writing)
            raise StoreUnavailableError(str(error)) from error
        self._failures.pop(writing, None)
        if not self._failures:
            self._logged = ""
        return result

    def _pause(self, reason: str, writing: bool) -> None:
        """Do not try again for a moment. A file that can be read may still not be written."""
        if reason != self._logged:
            self._logged = reason
            logger.warning("the record of executions %s cannot be used: %s", self._file, reason)
        until = time.monotonic() + _PAUSE_SECONDS
        for kind in {True, writing}:
            self._failures[kind] = reason, until


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    if version == 3:
        connection.execute("ALTER TABLE executions ADD COLUMN workspace TEXT")
    elif version < 3:
        connection.execute("DROP TABLE IF EXISTS executions")
        connection.execute("DROP TABLE IF EXISTS timings")


def _prune(connection: sqlite3.Connection) -> None:
    oldest = time.time() - MAX_AGE_DAYS * 86_400
    connection.execute("DELETE FROM executions WHERE started_at < ?", (oldest,))
    connection.execute("DELETE FROM timings WHERE updated < ?", (oldest,))
    connection.execute(
        "DELETE FROM executions WHERE execution_id NOT IN "
        "(SELECT execution_id FROM executions ORDER BY started_at DESC LIMIT ?)",
        (MAX_RECORDS,),
    )


def _text(value: Any) -> Any:
    """A value for SQLite, whose text is UTF-8: other file names are kept as bytes."""
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def _encoded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _text(value) for name, value in row.items()}


def _record(row: tuple[Any, ...]) -> ExecutionRecord:
    values: list[Any] = [value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value for value in row]
    return ExecutionRecord(*values)
