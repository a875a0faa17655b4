"""The table of a batch: a row for each run, beside the outputs, as `.csv` for people and `.jsonl` for programs.

The `.jsonl` is exact. The `.csv` has the same rows for a spreadsheet: a text that would be a formula there begins with
an apostrophe. Rows of earlier batches stay. A file that another program has changed is not touched: the table gets a
new name.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.errors import AlreadyExistsError, ConflictError, NotFoundError, ServerError
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.file_utils import FileContent, read_beginning, read_file, stamp_of, write_file
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.lock_files import lock_name
from papermill_mcp.utils.private import replace_private_file
from papermill_mcp.utils.text_utils import safe_utf8

if TYPE_CHECKING:
    from papermill_mcp.core.runs import typed_table
else:
    typed_table = lazy("papermill_mcp.core.runs.typed_table")

#: Columns that every table has, in this order. Those of parameters and of recorded values follow.
COLUMNS = (
    "batch",
    "run",
    "status",
    "attempts",
    "started",
    "duration",
    "wait",
    "peak_memory",
    "processor_time",
    "worker",
    "python",
    "input",
    "output",
    "failed_cell",
    "error",
    "message",
    "text",
)
#: The column with the digest of each output as its run left it. Tables of earlier versions have none.
REVISION = "revision"

PARAMETER = "param."
RESULT = "result."

#: Bytes of a table, at most; one that is larger is not ours.
_MAX_BYTES = 500_000_000

#: Seconds between two writes, and the most of the time that writing may take.
_INTERVAL = 1.0
_SHARE = 0.02

#: How often a table is read anew after another program has changed it meanwhile.
_TRIES = 5

_LINE_END = re.compile("\r\n?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = Mapping[str, Any]

#: Two batches of this process may write one table.
_LOCK = threading.Lock()


class ResultsTable:
    """The table of one batch. Its methods block: call them in a worker thread.

    Args:
        directory: that of the outputs; it exists.
        batch: the id of the batch.
        memory: a private directory that remembers which `.csv` was about to be written, for the case that the process
            is killed between the two files. Without it, such a table counts as changed. So does a `.parquet` file.
    """

    def __init__(self, directory: Path, batch: str, memory: Path | None = None) -> None:
        self._directory = directory
        self._batch = batch
        self._memory = memory
        self._number = 1
        self._next = 0.0

    @property
    def path(self) -> Path:
        """The `.csv`."""
        return self._directory / f"{self._name}.csv"

    @property
    def exact_path(self) -> Path:
        """The `.jsonl`."""
        return self.path.with_suffix(".jsonl")

    @property
    def _name(self) -> str:
        return _name_of(self._number)

    @property
    def taken(self) -> str | None:
        """The name of a table that another program has changed, so that this one has another name."""
        return "results.csv" if self._number > 1 else None

    @property
    def due(self) -> bool:
        """Whether enough time has gone since the last write."""
        return time.monotonic() >= self._next

    def write(self, rows: Sequence[Row], *, durable: bool = False) -> None:
        """Put the rows of this batch in place of its earlier ones.

        Args:
            durable: wait until the disk has them for good.

        Raises:
            ServerError: the table could not be written. The last one is whole.
        """
        began = time.monotonic()
        try:
            with _LOCK:
                for _ in range(_TRIES - 1):
                    try:
                        return self._write(rows, durable)
                    except (ConflictError, AlreadyExistsError):  # another batch has written meanwhile
                        continue
                self._write(rows, durable)
        finally:
            took = time.monotonic() - began
            self._next = began + max(_INTERVAL, took / _SHARE)

    def _write(self, rows: Sequence[Row], durable: bool) -> None:
        exact, shown = _content(self.exact_path), _content(self.path)
        while (before := _rows(exact, shown, self._remembered(self.path))) is None:
            self._number += 1
            exact, shown = _content(self.exact_path), _content(self.path)
        whole = [row for row in before if row["batch"] != self._batch] + [dict(row) for row in rows]
        table = as_csv(whole)
        self._remember(self.path, table, shown)
        for path, data, expected in (
            (self.exact_path, as_lines(whole), exact),
            (self.path, table, shown),
        ):
            write_file(path, data, expected=expected, display_path=path.name, durable=durable)

    def write_typed(self) -> Path | None:
        """Write the rows of the table as Parquet beside it, those of earlier batches included.

        Returns:
            Its path, a new one beside a file that another program has changed; None where pyarrow is not installed.

        Raises:
            ServerError: it could not be written. The last one is whole.
        """
        if not typed_table.available():
            return None
        with _LOCK:
            exact = _content(self.exact_path)
            data = typed_table.as_parquet(_rows(exact, None, []) or [], COLUMNS)
            for number in itertools.count(self._number):
                path = self._directory / f"{_name_of(number)}.parquet"
                present = _content(path)
                if present is None or present.revision in self._remembered(path):
                    self._remember(path, data, present)
                    write_file(path, data, expected=present, display_path=path.name)
                    return path
        return None

    def _remembered(self, path: Path) -> list[str]:
        """The digests of a file before and after the last write that was begun."""
        text = read_beginning(self._memory / lock_name(path), 100) if self._memory is not None else None
        return (text or "").split()

    def _remember(self, path: Path, data: bytes, before: FileContent | None) -> None:
        if self._memory is None:
            return
        digests = [revision_of(data), *([before.revision] if before is not None else [])]
        try:
            replace_private_file(self._memory / lock_name(path), " ".join(digests).encode())
        except (OSError, ServerError):
            pass  # it only helps after a kill


def _name_of(number: int) -> str:
    return "results" if number == 1 else f"results-{number}"


def rows_of(path: Path, batch: str) -> list[dict[str, Any]]:
    """The rows of a batch in a `.jsonl`, by run. None are there if it is gone or has another form."""
    rows = _rows(_content(path), None, []) or []
    return sorted((row for row in rows if row["batch"] == batch), key=lambda row: row["run"])


def replace_together(files: Mapping[Path, bytes]) -> None:
    """Put files in place of tables, while no table of this process is written: it would see half of a pair. Blocks.

    Raises:
        ServerError: one could not be read or written.
    """
    with _LOCK:
        for path, data in files.items():
            present = _content(path)
            if present is None or present.data != data:
                write_file(path, data, expected=present, display_path=path.name)


def revisions_in(directory: Path, lines: Iterable[bytes] = ()) -> dict[str, set[str]]:
    """The revisions that runs have left, by the name of the output, in all tables of a directory. Blocks.

    Args:
        lines: the content of further `.jsonl` files.
    """
    files = [_content(path) for path in sorted(directory.glob("results*.jsonl"))]
    contents = [file.data for file in files if file is not None]
    found: dict[str, set[str]] = {}
    for data in [*contents, *lines]:
        for row in _parsed(data) or ():
            if isinstance(output := row.get("output"), str) and isinstance(revision := row.get(REVISION), str):
                found.setdefault(output.replace("\\", "/").rpartition("/")[2], set()).add(revision)
    return found


def as_lines(rows: Iterable[Row]) -> bytes:
    """Rows as JSON, a line each. NaN and infinities are texts, since JSON has none."""
    return b"".join(_line(row) for row in rows)


def as_csv(rows: Sequence[Row]) -> bytes:
    """Rows as a table in UTF-8 that pandas and spreadsheets open."""
    names = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    values = sorted(names, key=lambda name: not name.startswith(PARAMETER))  # stable: by first appearance
    columns = [*COLUMNS, *values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return safe_utf8(text.getvalue()).encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = _LINE_END.sub("\n", value).replace("\0", "")  # several readers stop at a bare CR and at NUL
        return f"'{text}" if value.startswith(_FORMULA) else text
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, bool) else str(value)


def _line(row: Row) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(row), ensure_ascii=False)
    return safe_utf8(text).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _content(path: Path) -> FileContent | None:
    if stamp_of(path) is None:
        return None
    try:
        return read_file(path, max_bytes=_MAX_BYTES, display_path=path.name)
    except NotFoundError:
        return None


def _rows(exact: FileContent | None, shown: FileContent | None, known: Sequence[str]) -> list[dict[str, Any]] | None:
    """The rows of a table; None if it is not one that was written here and is unchanged since.

    Args:
        known: digests of a `.csv` that was written here, with any rows.
    """
    if exact is None:
        return [] if shown is None else None
    rows = _parsed(exact.data)
    if rows is None:
        return None
    return rows if shown is None or shown.data == as_csv(rows) or shown.revision in known else None


def _parsed(data: bytes) -> list[dict[str, Any]] | None:
    """The rows of a `.jsonl`; None if it is none that was written here."""
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError):
        return None
    whole = all(isinstance(row, dict) and isinstance(row.get("run"), int) and "batch" in row for row in rows)
    return rows if whole else None
