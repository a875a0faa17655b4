"""The record of executions, also of earlier server processes, and of the time that cells took.

A small SQLite file in the state directory. It holds no code, no output and no parameters. Writing goes through a thread
of its own, so no request waits for the disk; if the file cannot be used, the server does without it and says so once.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from papermill_mcp.core.processes.guard import start_time, still_runs
from papermill_mcp.utils.private import make_private_directory, make_private_file

logger = logging.getLogger(__name__)

#: Records older than this many days, or beyond this many, are dropped.
MAX_AGE_DAYS = 30
MAX_RECORDS = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, path TEXT, output_path TEXT,
    kernel_name TEXT, started_at REAL NOT NULL, duration REAL NOT NULL, cells_total INTEGER, cells_done INTEGER,
    failed_cell INTEGER, server_pid INTEGER NOT NULL, server_started INTEGER NOT NULL, idempotency_key TEXT,
    request_digest TEXT
);
CREATE TABLE IF NOT EXISTS timings (path TEXT PRIMARY KEY, seconds TEXT NOT NULL, updated REAL NOT NULL);
"""

#: The form of the tables. A file of another form is emptied: its content is a convenience.
_VERSION = 3


@dataclass(frozen=True)
class ExecutionRecord:
    """One execution in short.

    Attributes:
        path: the notebook, or the input of a papermill run; None for a piece of code.
        started_at: seconds since the epoch.
        failed_cell: index of the cell that ended it badly.
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
    idempotency_key: str | None = None
    request_digest: str | None = None

    @property
    def server_alive(self) -> bool:
        """Whether the server process that ran it still lives."""
        return still_runs(self.server_pid, self.server_started)


#: Seconds for which records are collected before they are written.
_COLLECT_SECONDS = 0.5

#: Seconds that a read waits for outstanding rows to be written.
_READ_WAITS = 2.0

_COLUMNS = ", ".join(field.name for field in fields(ExecutionRecord))
_MARKS = ", ".join(f":{field.name}" for field in fields(ExecutionRecord))
_INSERT = {
    "executions": f"INSERT OR REPLACE INTO executions ({_COLUMNS}) VALUES ({_MARKS})",
    "timings": "INSERT OR REPLACE INTO timings (path, seconds, updated) VALUES (:path, :seconds, :updated)",
}


class ExecutionStore:
    """Remembers executions across server processes. Nothing is opened before the first record."""

    def __init__(self, state_directory: Path) -> None:
        self._file = state_directory / "executions.sqlite"
        self._pending: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()  # of the rows, the timer and the two flags
        self._timer: threading.Timer | None = None
        self._used = self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="execution store")
        # These belong to the writer.
        self._connection: sqlite3.Connection | None = None
        self._opened = False
        self.pid = os.getpid()
        self.server_started = start_time(self.pid)

    def put(self, record: ExecutionRecord) -> None:
        """Keep a record, replacing the one of the same execution. Returns at once."""
        self._enqueue("executions", record.execution_id, vars(record))

    def flush(self) -> None:
        """Write the collected records now. Blocks for two seconds at the most: call it in a thread."""
        writing = self._submit() if self._used else None
        if writing is not None:
            wait([writing], timeout=_READ_WAITS)

    def put_timings(self, path: str, seconds: dict[str, float]) -> None:
        """Keep how long the cells of a notebook took, by a digest of their source. Returns at once."""
        if not seconds:
            return
        row = {"path": path, "seconds": json.dumps(seconds), "updated": time.time()}
        self._enqueue("timings", path, row)

    def records(self, *, limit: int) -> list[ExecutionRecord]:
        """The newest records. Blocks: call it in a thread."""
        rows = self._read(f"SELECT {_COLUMNS} FROM executions ORDER BY started_at DESC LIMIT ?", (limit,))
        return [ExecutionRecord(*row) for row in rows]

    def record(self, execution_id: str) -> ExecutionRecord | None:
        """The record of one execution. Blocks: call it in a thread."""
        rows = self._read(f"SELECT {_COLUMNS} FROM executions WHERE execution_id = ?", (execution_id,))
        return ExecutionRecord(*rows[0]) if rows else None

    def record_with_key(self, key: str) -> ExecutionRecord | None:
        """The newest record with that idempotency key. Blocks: call it in a thread."""
        query = f"SELECT {_COLUMNS} FROM executions WHERE idempotency_key = ? ORDER BY started_at DESC LIMIT 1"
        rows = self._read(query, (key,))
        return ExecutionRecord(*rows[0]) if rows else None

    def timings(self, path: str) -> dict[str, float]:
        """How long the cells of a notebook took last time, by a digest of their source. Blocks."""
        rows = self._read("SELECT seconds FROM timings WHERE path = ?", (path,))
        try:
            return {str(key): float(value) for key, value in json.loads(rows[0][0]).items()} if rows else {}
        except (ValueError, TypeError, AttributeError):
            return {}

    def close(self) -> None:
        """Write pending records. Waits at most half a second. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._used:
            wait([self._writer.submit(self._end)], timeout=0.5)
        self._writer.shutdown(wait=False)

    def _enqueue(self, table: str, key: str, row: dict[str, Any]) -> None:
        with self._lock:
            if self._closed:
                return
            self._used = True
            self._pending[table, key] = row
            if self._timer is None:  # several records of one execution become one
                self._timer = threading.Timer(_COLLECT_SECONDS, self._submit)
                self._timer.daemon = True
                self._timer.start()

    def _submit(self) -> Future[None] | None:
        """Have the collected rows written soon. None after the store is closed: then they are written, or lost."""
        try:
            return self._writer.submit(self._write)
        except RuntimeError:
            return None

    def _write(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if not pending:
            return
        if not self._opened:
            self._opened = True
            try:
                self._connection = self._connect()
            except Exception:
                logger.exception("executions are not remembered")
        if self._connection is not None:
            try:
                self._write_rows(self._connection, pending)
            except Exception as error:  # later ones may be recorded
                logger.warning("executions could not be recorded: %s", error)

    def _end(self) -> None:
        self._write()
        if self._connection is not None:
            self._connection.close()

    def _write_rows(self, connection: sqlite3.Connection, pending: dict[tuple[str, str], dict[str, Any]]) -> None:
        with connection:
            connection.execute("BEGIN")
            for (table, _), row in pending.items():
                try:
                    connection.execute(_INSERT[table], row)
                except (ValueError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
                    # SQLite has no such value: a path that is not UTF-8, for one. The other rows are kept.
                    logger.warning("an execution could not be recorded: %s", error)

    def _connect(self) -> sqlite3.Connection | None:
        connection = None
        try:
            make_private_directory(self._file.parent)
            make_private_file(self._file)  # its companions get the same mode
            connection = sqlite3.connect(self._file, timeout=5, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if _version(connection) != _VERSION:
                connection.executescript("DROP TABLE IF EXISTS executions; DROP TABLE IF EXISTS timings;")
            connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
            oldest = time.time() - MAX_AGE_DAYS * 86_400
            connection.execute("DELETE FROM executions WHERE started_at < ?", (oldest,))
            connection.execute("DELETE FROM timings WHERE updated < ?", (oldest,))
            connection.execute(
                "DELETE FROM executions WHERE execution_id NOT IN "
                "(SELECT execution_id FROM executions ORDER BY started_at DESC LIMIT ?)",
                (MAX_RECORDS,),
            )
        except (OSError, sqlite3.Error) as error:
            logger.warning("executions are not remembered, since %s cannot be used: %s", self._file, error)
            if connection is not None:
                connection.close()
            return None
        return connection

    def _read(self, query: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self.flush()
        if not self._file.exists():
            return []
        try:
            connection = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=2)
            try:
                if _version(connection) != _VERSION:
                    return []
                return connection.execute(query, parameters).fetchall()
            finally:
                connection.close()
        except (sqlite3.Error, ValueError) as error:
            logger.warning("earlier executions cannot be read: %s", error)
            return []


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
