"""A private SQLite file that several processes use: opened at first use, and begun anew if it is damaged."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from papermill_mcp.utils.lock_files import LockFiles, LocksUnavailableError
from papermill_mcp.utils.private import make_private_directory, make_private_file, take_rights_of_others

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: The ends of the names of the files of SQLite beside the database.
COMPANIONS = ("-wal", "-shm", "-journal")

_DAMAGED = ".damaged"

#: Bytes that the log of changes keeps after they are in the file itself.
_LOG_BYTES = 4 * 2**20

#: Pages that are given back to the system at a time.
_PAGES = 1000

#: Seconds between two tries to begin a file that another process begins, too.
_PAUSE_SECONDS = 0.005


class DatabaseUnavailableError(Exception):
    """The file cannot be used now. The message is the reason, without the path."""


class Database:
    """A file with tables of one form. One thread uses it at a time.

    Args:
        subject: the content, for the log.
        schema: the statements that make the tables.
        version: of the form of the tables. A file of a newer form is left alone.
        locks: a directory for the lock of a damaged file.
        busy_seconds: how long a call waits for another thread, and for another process.
        upgrade: changes tables of an older form, whose version it gets, before the schema is applied.
        deferred: SQLite leaves changes in its log until `checkpoint`.
    """

    def __init__(
        self,
        file: Path,
        *,
        subject: str,
        schema: Sequence[str],
        version: int,
        locks: Path,
        busy_seconds: float,
        upgrade: Callable[[sqlite3.Connection, int], None] | None = None,
        deferred: bool = False,
    ) -> None:
        self.file = file
        self._subject = subject
        self._schema = schema
        self._version = version
        self._locks = LockFiles(locks)
        self._busy_seconds = busy_seconds
        self._upgrade = upgrade
        self._deferred = deferred
        self._access = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode of the open file

    @property
    def files(self) -> list[Path]:
        """The names of the file, of its companions, and of a damaged one that was moved aside."""
        stems = (self.file.name, self.file.name + _DAMAGED)
        return [self.file.with_name(stem + end) for stem in stems for end in ("", *COMPANIONS)]

    def use(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do something with the connection. A damaged file is moved aside, and a new one begun.

        Raises:
            DatabaseUnavailableError: the file cannot be used.
        """
        if not self._access.acquire(timeout=self._busy_seconds):
            raise DatabaseUnavailableError("it is in use")
        try:
            try:
                return action(self._connected())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._move_aside()
                return action(self._connected())
        except (OSError, sqlite3.Error, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DatabaseUnavailableError(reason) from error
        finally:
            self._access.release()

    def checkpoint(self) -> None:
        """Write all changes into the file itself, while others go on. Without success the next one does it."""
        with contextlib.suppress(sqlite3.Error):
            name = f"{self.file.absolute().as_uri()}?mode=rw"  # where there is no file, none is made
            connection = sqlite3.connect(name, timeout=self._busy_seconds, isolation_level=None, uri=True)
            with contextlib.closing(connection):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._access:
            self._disconnect()

    def _connected(self) -> sqlite3.Connection:
        """The connection to the file that has the name now: another process may have moved a damaged one aside."""
        with contextlib.suppress(FileNotFoundError):
            facts = self.file.stat()
            if self._connection is not None and self._opened == (facts.st_dev, facts.st_ino):
                return self._connection
            if not stat.S_ISREG(facts.st_mode):
                raise DatabaseUnavailableError("it is not a regular file")
        self._disconnect()
        make_private_directory(self.file.parent)
        make_private_file(self.file)
        for end in COMPANIONS:
            take_rights_of_others(self.file.with_name(self.file.name + end))
        facts = self.file.stat()
        connection = sqlite3.connect(
            self.file, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened = connection, (facts.st_dev, facts.st_ino)
        weakref.finalize(self, connection.close).atexit = False  # where nothing closes it
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables.

        Raises:
            DatabaseUnavailableError: there are others, of a newer version or of another program.
        """
        connection.execute("PRAGMA synchronous = NORMAL")
        if self._deferred:
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # `checkpoint` does it, when no call waits
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        if _version(connection) == self._version:
            return
        deadline = time.monotonic() + self._busy_seconds
        while True:
            self._check_own(connection)
            try:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:  # SQLite does not wait for another process that does the same
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
        with transaction(connection):
            if (version := _version(connection)) != self._version:  # else another process was quicker
                self._check_own(connection)
                if self._upgrade is not None and version:
                    self._upgrade(connection, version)
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")

    def _check_own(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version > self._version:
            raise DatabaseUnavailableError(f"it has form {version}, of a newer version of this server")
        if not version and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise DatabaseUnavailableError("it is a database of another program")

    def _disconnect(self) -> None:
        connection, self._connection, self._opened = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _move_aside(self) -> None:
        """Rename a damaged file and its companions, unless another process has done so.

        Raises:
            DatabaseUnavailableError: another process does so now, or it cannot be done.
        """
        self._disconnect()
        try:
            lock = self._locks.try_acquire(self.file)
        except LocksUnavailableError as error:
            raise DatabaseUnavailableError(f"it is damaged, and cannot be moved aside: {error}") from error
        if lock is None:
            raise DatabaseUnavailableError("another process moves the damaged file aside")
        try:
            if _is_damaged(self.file, self._busy_seconds):
                for end in ("", *COMPANIONS):
                    file = self.file.with_name(self.file.name + end)
                    with contextlib.suppress(FileNotFoundError):
                        file.replace(self.file.with_name(self.file.name + _DAMAGED + end))
                aside = self.file.with_name(self.file.name + _DAMAGED)
                logger.warning("%s was damaged; it is kept as %s", self._subject, aside)
        finally:
            lock.release()


def free_pages(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the system. False if there are no more."""
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0]) > 0


def rewrite(connection: sqlite3.Connection) -> None:
    """Write the whole file anew, so that it and its log have nothing that was deleted. Others wait."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All changes of the block, or none of them. Other processes wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_damaged(file: Path, busy_seconds: float) -> bool:
    """Whether the file with that name now is damaged.

    Raises:
        sqlite3.Error: it cannot be checked.
    """
    with contextlib.closing(sqlite3.connect(file, timeout=busy_seconds)) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            return True
