"""The versions of notebooks, in a private SQLite file of the state directory.

A version is a list of chunks. Each chunk of a notebook is there once, whichever versions have it. A version is read
back byte for byte, and checked by its revision. A kill at any instant leaves all versions or one more.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from papermill_mcp.core.history.cause import Cause
from papermill_mcp.core.history.chunks import Chunk, cut, digest_of, digests_in
from papermill_mcp.errors import ServerError
from papermill_mcp.utils.database import Database, DatabaseUnavailableError, free_pages, rewrite, transaction
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.file_utils import read_in_pieces

logger = logging.getLogger(__name__)

#: Bytes of all versions of one notebook, and days after which a version is dropped.
NOTEBOOK_BYTES = 200 * 2**20
MAX_AGE_DAYS = 30

#: Seconds that a call waits for another one, or for another server.
BUSY_SECONDS = 2.0

#: Seconds for which nothing is tried after such a wait was in vain.
PAUSE_SECONDS = 30.0

#: Bytes of new chunks that are compressed at once. More of them are compressed later.
_COMPRESSED_AT_ONCE = 65_536

#: Seconds without a large version after which they are, and versions after which the file is tidied in any case.
QUIET_SECONDS = 5.0
_VERSIONS_BETWEEN = 16

#: Seconds that a job leaves to the reply of the call it comes from, so that the two do not share the interpreter.
BEHIND_REPLY_SECONDS = 0.3

#: Bytes that one step of the later work compresses. Between two steps others may use the file.
_STEP_BYTES = 2**20
_PAUSE_SECONDS = 0.001

_LEVEL = 3  # of the compression
_WORTH = 0.95  # a chunk that stays larger than this is kept as it is

#: Forms of a chunk: as it is and not looked at yet, compressed, and as it is for good.
_FRESH, _COMPRESSED, _PLAIN = 0, 1, 2

#: Missing files that are looked at for the earlier name of a notebook.
_CANDIDATES = 20

#: Notebooks that are looked at for those without a file.
_GONE_LOOKED_AT = 500

#: Notebooks without versions whose numbers are remembered.
_REMEMBERED = 10_000

_SCHEMA = (
    """CREATE TABLE notebooks (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL, next INTEGER NOT NULL, used REAL NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0, retired INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE UNIQUE INDEX notebook_paths ON notebooks (path) WHERE retired = 0",
    """CREATE TABLE versions (
    notebook INTEGER NOT NULL, version INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL, by TEXT NOT NULL,
    summary TEXT NOT NULL, revision TEXT NOT NULL, size INTEGER NOT NULL, manifest BLOB NOT NULL,
    PRIMARY KEY (notebook, version)
)""",
    "CREATE INDEX version_revisions ON versions (revision)",
    """CREATE TABLE chunks (
    notebook INTEGER NOT NULL, digest BLOB NOT NULL, form INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (notebook, digest)
)""",
    f"CREATE INDEX fresh_chunks ON chunks (form) WHERE form = {_FRESH}",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)
_FORM = 1  # of the tables

_T = TypeVar("_T")

_FreshChunk = tuple[int, bytes, bytes]
"""Notebook, digest and data of a chunk that was not looked at yet."""


@dataclass(frozen=True)
class Version:
    """One version of a notebook, without its bytes.

    Attributes:
        version: its number, which no other version of the notebook ever has.
        time: when it was kept, in seconds since the epoch.
        size: bytes of the notebook.
    """

    version: int
    time: float
    cause: Cause
    revision: str
    size: int


@dataclass(frozen=True)
class Usage:
    """How much the history holds. `bytes` are those of the files in the state directory."""

    notebooks: int
    versions: int
    bytes: int


class HistoryUnavailableError(Exception):
    """A version could not be kept or read. The message is the reason."""


def _never(_: Path) -> bool:
    return False


class HistoryStore:
    """The versions of all notebooks. Methods block: call them in a thread. No file is made before the first version.

    Args:
        versions: of one notebook, at most.
        max_bytes: of all notebooks.
    """

    def __init__(self, state_directory: Path, *, versions: int, max_bytes: int) -> None:
        self._database = Database(
            state_directory / "history.sqlite",
            subject="the history of notebooks",
            schema=_SCHEMA,
            version=_FORM,
            locks=state_directory / "locks",
            busy_seconds=BUSY_SECONDS,
            deferred=True,
        )
        self._versions = versions
        self._max_bytes = max_bytes
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._jobs = 0  # of the thread, beside tidying
        self._ends = threading.Event()  # what waits is done at once
        self._tidied = False
        self._paused_until, self._reason = 0.0, ""
        self._closed = False

    def latest(self, path: Path, *, revision: str = "", adopt: Callable[[Path], bool] = _never) -> Version | None:
        """The newest version of a notebook; None if there is none.

        Args:
            revision: of the file now. If the notebook has no versions, those of a missing file that had this revision
                become its versions: it was renamed.
            adopt: whether the versions of such a file may be taken.

        Raises:
            HistoryUnavailableError: the history cannot be read.
        """

        def look(connection: sqlite3.Connection) -> Version | None:
            notebook = _find(connection, path)
            if notebook is None and revision:
                with transaction(connection):
                    notebook = _find(connection, path) or _adopted(connection, path, revision, adopt)
            return None if notebook is None else _latest(connection, notebook)

        return self._look(look, None)

    def keep(self, path: Path, data: bytes, cause: Cause, revision: str) -> Version:
        """Keep a version, unless the newest one is the same. Returns the newest one then.

        Args:
            revision: of the data.

        Raises:
            HistoryUnavailableError: it could not be kept. All others are as they were.
        """
        if len(data) > NOTEBOOK_BYTES:
            raise HistoryUnavailableError(f"it has {len(data):,} bytes, over the limit of {NOTEBOOK_BYTES:,}")
        known = self.latest(path)
        if known is not None and known.revision == revision:
            return known
        chunks = cut(data)
        pending = False

        def put(connection: sqlite3.Connection) -> Version:
            nonlocal pending
            with transaction(connection):
                notebook = _find(connection, path) or _new(connection, path)
                found = _latest(connection, notebook)
                if found is not None and found.revision == revision:  # another server was quicker
                    return found
                added, pending = _put_chunks(connection, notebook, chunks)
                version = _put_version(connection, notebook, chunks, cause, revision, len(data), added)
                self._prune(connection, notebook)
            return version

        kept = self._change(put)
        if pending or kept.version % _VERSIONS_BETWEEN == 0 or not self._tidied:  # a killed server may have left work
            self._tidied = True
            self.tidy_later()
        return kept

    def keep_large(self, path: Path, cause: Cause, revision: str) -> Version:
        """Keep a version that is too large to be held: its file is read piece by piece.

        Args:
            revision: of the file.

        Raises:
            HistoryUnavailableError: it could not be kept. All others are as they were.
        """
        known = self.latest(path)
        if known is not None and known.revision == revision:
            return known

        def put(connection: sqlite3.Connection) -> Version:
            with transaction(connection):
                notebook = _find(connection, path) or _new(connection, path)
                chunks: list[Chunk] = []
                size = added = 0

                def begin() -> Callable[[bytes], None]:
                    if chunks:
                        raise HistoryUnavailableError("another program changes it")
                    return take

                def take(piece: bytes) -> None:
                    nonlocal size, added
                    chunk = Chunk(digest_of(piece), memoryview(piece))
                    added += _put_chunks(connection, notebook, [chunk])[0]
                    chunks.append(chunk._replace(data=memoryview(b"")))
                    size += len(piece)

                content = read_in_pieces(path, max_bytes=NOTEBOOK_BYTES, display_path="it", begin=begin)
                if content.revision != revision:
                    raise HistoryUnavailableError("another program changes it")
                version = _put_version(connection, notebook, chunks, cause, revision, size, added)
                self._prune(connection, notebook)
            return version

        try:
            kept = self._change(put)
        except ServerError as error:
            raise HistoryUnavailableError(error.problem) from error
        self.tidy_later()
        return kept

    def versions(self, path: Path, limit: int) -> list[Version]:
        """The versions of a notebook, the newest first.

        Raises:
            HistoryUnavailableError: they cannot be read.
        """

        def look(connection: sqlite3.Connection) -> list[Version]:
            notebook = _find(connection, path)
            query = f"SELECT {_COLUMNS} FROM versions WHERE notebook = ? ORDER BY version DESC LIMIT ?"
            rows = connection.execute(query, (notebook, limit)).fetchall() if notebook is not None else []
            return [_version(row) for row in rows]

        return self._look(look, [])

    def read(self, path: Path, version: int) -> bytes | None:
        """The bytes of a version; None if there is no such version.

        Raises:
            HistoryUnavailableError: it cannot be read, or is damaged.
        """

        def look(connection: sqlite3.Connection) -> tuple[str, list[tuple[int, bytes]]] | None:
            notebook = _find(connection, path)
            query = "SELECT revision, manifest FROM versions WHERE notebook = ? AND version = ?"
            row = connection.execute(query, (notebook, version)).fetchone()
            if row is None:
                return None
            parts = []
            for digest in digests_in(row[1]):
                query = "SELECT form, data FROM chunks WHERE notebook = ? AND digest = ?"
                part = connection.execute(query, (notebook, digest)).fetchone()
                if part is None:
                    raise HistoryUnavailableError(f"a part of version {version} is missing")
                parts.append(part)
            return str(row[0]), parts

        found = self._look(look, None)
        if found is None:
            return None
        revision, parts = found
        try:
            data = b"".join(zlib.decompress(part) if form == _COMPRESSED else part for form, part in parts)
        except (zlib.error, TypeError) as error:
            raise HistoryUnavailableError(f"version {version} is damaged") from error
        if revision_of(data) != revision:
            raise HistoryUnavailableError(f"version {version} is damaged")
        return data

    def gone(self, holds: Callable[[Path], bool]) -> list[Path]:
        """Notebooks that have versions and no file, those that were used last first.

        Args:
            holds: whether a path may be named.

        Raises:
            HistoryUnavailableError: the history cannot be read.
        """
        query = (
            "SELECT path FROM notebooks WHERE retired = 0 AND EXISTS (SELECT 1 FROM versions WHERE notebook = id) "
            "ORDER BY used DESC LIMIT ?"
        )
        none: list[tuple[bytes]] = []
        rows = self._look(lambda connection: connection.execute(query, (_GONE_LOOKED_AT,)).fetchall(), none)
        paths = [Path(os.fsdecode(name)) for (name,) in rows]
        return [path for path in paths if holds(path) and not os.path.lexists(path)]

    def moved(self, old: Path, new: Path) -> Path | None:
        """A notebook has another name from now on. An earlier notebook of that name, which is gone, gets a new one.

        Returns:
            The new name of the earlier notebook, under which it can be restored; None if there is none.

        Raises:
            HistoryUnavailableError: the history keeps the old name.
        """

        def move(connection: sqlite3.Connection) -> Path | None:
            with transaction(connection):
                notebook = _find(connection, old)
                return None if notebook is None else _rename(connection, notebook, new)

        return self._look(move, None)

    def clear(self, path: Path | None = None) -> int:
        """Remove the versions of a notebook, or all, so that nothing of them is left in the file. Returns how many.

        Raises:
            HistoryUnavailableError: they could not be removed for good.
        """

        def clear(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                if path is None:
                    _remember_numbers(connection, 0)
                    removed = connection.execute("DELETE FROM versions").rowcount
                    connection.execute("DELETE FROM chunks")
                    connection.execute("DELETE FROM notebooks")
                else:
                    query = "SELECT id FROM notebooks WHERE path = ?"
                    removed = 0
                    for (notebook,) in connection.execute(query, (os.fsencode(path),)).fetchall():
                        removed += connection.execute("DELETE FROM versions WHERE notebook = ?", (notebook,)).rowcount
                        connection.execute("DELETE FROM chunks WHERE notebook = ?", (notebook,))
                        connection.execute("UPDATE notebooks SET bytes = 0 WHERE id = ?", (notebook,))
            rewrite(connection)
            return removed

        removed = self._look(clear, 0)
        for file in self._database.files:
            if ".damaged" in file.name:
                file.unlink(missing_ok=True)
        return removed

    def usage(self) -> Usage:
        """How much there is.

        Raises:
            HistoryUnavailableError: it cannot be read.
        """
        count = "SELECT (SELECT count(DISTINCT notebook) FROM versions), (SELECT count(*) FROM versions)"
        notebooks, versions = self._look(lambda connection: connection.execute(count).fetchone(), (0, 0))
        sizes = [file.stat().st_size for file in self._database.files if file.exists()]
        return Usage(notebooks, versions, sum(sizes))

    def later(self, action: Callable[[], None]) -> None:
        """Do something in the thread of the history, after all that it has to do already, and behind the reply."""
        due = time.monotonic() + BEHIND_REPLY_SECONDS

        def act() -> None:
            try:
                self._ends.wait(max(0.0, due - time.monotonic()))
                action()
            finally:
                with self._lock:
                    self._jobs -= 1

        with self._lock:
            self._jobs += 1
            if not self._closed:
                self._worker.submit(act)
                return
        act()

    def tidy_later(self) -> None:
        """Have the history tidied in its thread, once no large version was kept for some seconds."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if not self._closed:
                self._timer = threading.Timer(QUIET_SECONDS, self._begin_to_tidy)
                self._timer.daemon = True
                self._timer.start()

    def _begin_to_tidy(self) -> None:
        with self._lock:
            if not self._closed:
                self._worker.submit(self._tidy_quietly)

    def _tidy_quietly(self) -> None:
        try:
            self.tidy()
        except HistoryUnavailableError as error:
            logger.warning("the history of notebooks was not tidied: %s", error)

    def tidy(self) -> None:
        """Compress new chunks, drop what is old or too much, and give the room back. A version that waits goes first.

        Raises:
            HistoryUnavailableError: the history cannot be written.
        """
        while not self._closed:
            none: list[_FreshChunk] = []
            fresh = self._look(_fresh, none)
            if not fresh:
                break
            done = [(notebook, digest, *_compressed(data), len(data)) for notebook, digest, data in fresh]
            self._change(partial(_put_compressed, rows=done))
            if self._jobs:
                self.tidy_later()
                return
            time.sleep(_PAUSE_SECONDS)  # a call that waits for the file goes first
        self._look(self._drop_old, None)
        self._database.checkpoint()
        while not self._closed and self._look(free_pages, False):
            time.sleep(_PAUSE_SECONDS)
        self._database.checkpoint()

    def close(self) -> None:
        """End the thread, after the versions that wait for it. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ends.set()
            if self._timer is not None:
                self._timer.cancel()
            last = self._worker.submit(self._database.close)
        wait([last], timeout=1.0)
        self._worker.shutdown(wait=False)

    def _look(self, action: Callable[[sqlite3.Connection], _T], missing: _T) -> _T:
        """Do something with the file. Where there is none, none is made, and the result is `missing`."""
        return self._change(action) if os.path.lexists(self._database.file) else missing

    def _change(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do something with the file, which is made if need be."""
        if time.monotonic() < self._paused_until:
            raise HistoryUnavailableError(f"{self._reason}; it is tried again in half a minute")
        began = time.monotonic()
        try:
            return self._database.use(action)
        except DatabaseUnavailableError as error:
            if "locked" in str(error) and time.monotonic() - began > BUSY_SECONDS / 2:  # no call after this one waits
                self._paused_until, self._reason = time.monotonic() + PAUSE_SECONDS, str(error)
            raise HistoryUnavailableError(str(error)) from error

    def _prune(self, connection: sqlite3.Connection, notebook: int) -> None:
        """Drop the oldest versions of a notebook beyond the limits. The newest one stays."""
        query = "SELECT version FROM versions WHERE notebook = ? ORDER BY version DESC"
        versions = [version for (version,) in connection.execute(query, (notebook,))]
        _drop(connection, notebook, versions[self._versions :])
        versions = versions[: self._versions]
        while len(versions) > 1 and _bytes(connection, notebook) > NOTEBOOK_BYTES:
            _drop(connection, notebook, [versions.pop()])

    def _drop_old(self, connection: sqlite3.Connection) -> None:
        """Drop versions that are too old, then those of the notebooks that were used least recently, if need be."""
        oldest = time.time() - MAX_AGE_DAYS * 86_400
        with transaction(connection):
            query = "SELECT DISTINCT notebook FROM versions WHERE time < ?"
            for (notebook,) in connection.execute(query, (oldest,)).fetchall():
                query = "SELECT version FROM versions WHERE notebook = ? AND time < ?"
                _drop(connection, notebook, [one for (one,) in connection.execute(query, (notebook, oldest))])
            _remember_numbers(connection, _REMEMBERED)
        while self._drop_least_used(connection):
            pass

    def _drop_least_used(self, connection: sqlite3.Connection) -> bool:
        """Drop the oldest versions of one notebook if all together are too large. False if they are not."""
        total = connection.execute("SELECT coalesce(sum(bytes), 0) FROM notebooks").fetchone()[0]
        if total <= self._max_bytes:
            return False
        with transaction(connection):
            query = "SELECT id, bytes FROM notebooks WHERE bytes > 0 ORDER BY used LIMIT 1"
            notebook, size = connection.execute(query).fetchone()
            query = "SELECT version FROM versions WHERE notebook = ? ORDER BY version"
            versions = [version for (version,) in connection.execute(query, (notebook,))]
            while versions and total - size + _bytes(connection, notebook) > self._max_bytes:
                _drop(connection, notebook, [versions.pop(0)])
            if not versions:
                connection.execute("DELETE FROM chunks WHERE notebook = ?", (notebook,))
                connection.execute("UPDATE notebooks SET bytes = 0 WHERE id = ?", (notebook,))
        return True


_COLUMNS = "version, time, kind, by, summary, revision, size"


def _version(row: tuple[Any, ...]) -> Version:
    version, kept, kind, by, summary, revision, size = row
    return Version(version, kept, Cause(kind, by, summary), revision, size)


def _find(connection: sqlite3.Connection, path: Path) -> int | None:
    query = "SELECT id FROM notebooks WHERE path = ? AND retired = 0"
    row = connection.execute(query, (os.fsencode(path),)).fetchone()
    return None if row is None else int(row[0])


def _new(connection: sqlite3.Connection, path: Path) -> int:
    row = connection.execute("SELECT value FROM facts WHERE name = 'next'").fetchone()
    cursor = connection.execute(
        "INSERT INTO notebooks (path, next, used) VALUES (?, ?, ?)",
        (os.fsencode(path), 1 if row is None else row[0], time.time()),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _latest(connection: sqlite3.Connection, notebook: int) -> Version | None:
    query = f"SELECT {_COLUMNS} FROM versions WHERE notebook = ? ORDER BY version DESC LIMIT 1"
    row = connection.execute(query, (notebook,)).fetchone()
    return None if row is None else _version(row)


def _adopted(connection: sqlite3.Connection, path: Path, revision: str, adopt: Callable[[Path], bool]) -> int | None:
    """A notebook whose file is gone and that had this revision, under its new name."""
    query = (
        "SELECT DISTINCT id, path FROM versions JOIN notebooks ON id = notebook WHERE revision = ? AND retired = 0 "
        "ORDER BY used DESC LIMIT ?"
    )
    for notebook, name in connection.execute(query, (revision, _CANDIDATES)).fetchall():
        old = Path(os.fsdecode(name))
        if adopt(old) and not os.path.lexists(old):
            _rename(connection, int(notebook), path)
            return int(notebook)
    return None


def _rename(connection: sqlite3.Connection, notebook: int, new: Path) -> Path | None:
    """Give a notebook a name. Returns the new name of an earlier notebook of that name, if it has versions."""
    name, aside = os.fsencode(new), None
    earlier = _find(connection, new)
    if earlier is not None and earlier != notebook:
        if _latest(connection, earlier) is not None:
            aside = _free_name(connection, new)
            connection.execute("UPDATE notebooks SET path = ? WHERE id = ?", (os.fsencode(aside), earlier))
        else:
            connection.execute("UPDATE notebooks SET retired = 1 WHERE id = ?", (earlier,))
    connection.execute("UPDATE notebooks SET path = ? WHERE id = ?", (name, notebook))
    return aside


def _free_name(connection: sqlite3.Connection, path: Path) -> Path:
    """A name beside `path` that no file and no notebook of the history has."""
    for number in itertools.count(1):
        found = path.with_name(f"{path.stem[:200]}-earlier-{number}{path.suffix}")
        if not os.path.lexists(found) and _find(connection, found) is None:
            return found
    raise AssertionError  # there is no last number


def _put_chunks(connection: sqlite3.Connection, notebook: int, chunks: Sequence[Chunk]) -> tuple[int, bool]:
    """Put new chunks in. Returns their bytes, and whether they are to be compressed later."""
    fresh = {chunk.digest: chunk.data for chunk in chunks}
    query = "SELECT 1 FROM chunks WHERE notebook = ? AND digest = ?"
    for digest in list(fresh):
        if connection.execute(query, (notebook, digest)).fetchone() is not None:
            del fresh[digest]
    at_once = sum(map(len, fresh.values())) <= _COMPRESSED_AT_ONCE
    added = 0
    for digest, data in fresh.items():
        form, kept = _compressed(data) if at_once else (_FRESH, data)
        connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (notebook, digest, form, kept))
        added += len(kept)
    return added, not at_once


def _compressed(data: bytes | memoryview) -> tuple[int, bytes | memoryview]:
    packed = zlib.compress(data, _LEVEL)
    return (_COMPRESSED, packed) if len(packed) < _WORTH * len(data) else (_PLAIN, data)


def _put_version(
    connection: sqlite3.Connection,
    notebook: int,
    chunks: Sequence[Chunk],
    cause: Cause,
    revision: str,
    size: int,
    added: int,
) -> Version:
    number = int(connection.execute("SELECT next FROM notebooks WHERE id = ?", (notebook,)).fetchone()[0])
    version = Version(number, time.time(), cause, revision, size)
    manifest = b"".join(chunk.digest for chunk in chunks)
    connection.execute(
        f"INSERT INTO versions (notebook, {_COLUMNS}, manifest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (notebook, number, version.time, cause.kind, cause.by, cause.summary, revision, size, manifest),
    )
    connection.execute(
        "UPDATE notebooks SET next = ?, used = ?, bytes = bytes + ? WHERE id = ?",
        (number + 1, version.time, added, notebook),
    )
    return version


def _bytes(connection: sqlite3.Connection, notebook: int) -> int:
    return int(connection.execute("SELECT bytes FROM notebooks WHERE id = ?", (notebook,)).fetchone()[0])


def _drop(connection: sqlite3.Connection, notebook: int, versions: Sequence[int]) -> None:
    """Drop versions, and the chunks that no other version of the notebook has."""
    if not versions:
        return
    gone: set[bytes] = set()
    for version in versions:
        query = "SELECT manifest FROM versions WHERE notebook = ? AND version = ?"
        gone.update(digests_in(connection.execute(query, (notebook, version)).fetchone()[0]))
        connection.execute("DELETE FROM versions WHERE notebook = ? AND version = ?", (notebook, version))
    for (manifest,) in connection.execute("SELECT manifest FROM versions WHERE notebook = ?", (notebook,)):
        gone.difference_update(digests_in(manifest))
    freed = 0
    for digest in gone:
        key = (notebook, digest)
        query = "SELECT length(data) FROM chunks WHERE notebook = ? AND digest = ?"
        freed += (connection.execute(query, key).fetchone() or (0,))[0]
        connection.execute("DELETE FROM chunks WHERE notebook = ? AND digest = ?", key)
    connection.execute("UPDATE notebooks SET bytes = bytes - ? WHERE id = ?", (freed, notebook))


def _remember_numbers(connection: sqlite3.Connection, most: int) -> None:
    """Forget all but some notebooks without versions. A new notebook begins with a number that none of them had."""
    chosen = "1"
    values: tuple[int, ...] = ()
    if most:
        empty = (
            "SELECT id FROM notebooks WHERE NOT EXISTS (SELECT 1 FROM versions WHERE notebook = id) "
            "ORDER BY used DESC LIMIT -1 OFFSET ?"
        )
        chosen, values = f"id IN ({empty})", (most,)
    highest = connection.execute(f"SELECT max(next) FROM notebooks WHERE {chosen}", values).fetchone()[0]
    if highest is not None:
        connection.execute(
            "INSERT INTO facts VALUES ('next', ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            (highest,),
        )
        if most:
            connection.execute(f"DELETE FROM notebooks WHERE {chosen}", values)


def _fresh(connection: sqlite3.Connection) -> list[_FreshChunk]:
    rows: list[_FreshChunk] = []
    query = f"SELECT notebook, digest FROM chunks WHERE form = {_FRESH} LIMIT 64"
    for notebook, digest in connection.execute(query).fetchall():
        query = "SELECT data FROM chunks WHERE notebook = ? AND digest = ?"
        rows.append((notebook, digest, connection.execute(query, (notebook, digest)).fetchone()[0]))
        if sum(len(data) for _, _, data in rows) >= _STEP_BYTES:
            break
    return rows


def _put_compressed(
    connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes, int, bytes | memoryview, int]]
) -> None:
    """Put compressed chunks in place: notebook, digest, form, data, and the bytes before."""
    with transaction(connection):
        for notebook, digest, form, data, size in rows:
            query = "UPDATE chunks SET form = ?, data = ? WHERE notebook = ? AND digest = ? AND form = ?"
            if form == _PLAIN:
                query = "UPDATE chunks SET form = ? WHERE notebook = ? AND digest = ? AND form = ?"
                connection.execute(query, (form, notebook, digest, _FRESH))
            elif connection.execute(query, (form, data, notebook, digest, _FRESH)).rowcount:
                connection.execute("UPDATE notebooks SET bytes = bytes - ? WHERE id = ?", (size - len(data), notebook))
