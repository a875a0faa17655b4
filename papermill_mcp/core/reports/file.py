"""The file of a report: replaced in one piece, and never over a page that another program has changed."""

from __future__ import annotations

import threading
from pathlib import Path

from papermill_mcp.core.reports.model import Report
from papermill_mcp.core.reports.page import identity_line, is_sealed, page_of
from papermill_mcp.errors import AlreadyExistsError, ConflictError, LimitReachedError, NotFoundError, ServerError
from papermill_mcp.utils.file_utils import FileContent, read_beginning, read_file, stamp_of, write_file

#: Bytes of a page, at most; one that is larger is not ours.
_MAX_BYTES = 100_000_000

#: Names that are tried, and how often one is read anew after another program has changed it meanwhile.
_MOST = 100
_TRIES = 5

#: Two batches of this process may write one report.
_LOCK = threading.Lock()

#: Bytes in which the line of the run stands.
_HEAD_BYTES = 2_000


def write_report(report: Report, directory: Path) -> Path:
    """Write the page of a report into a directory. Blocks.

    Returns:
        Its path: `report.html`, or `report-2.html` and so on beside pages that another program has changed.

    Raises:
        ServerError: it could not be written. What was there before is whole.
    """
    page = page_of(report)
    with _LOCK:
        for _ in range(_TRIES - 1):
            try:
                return _write(page, directory)
            except (ConflictError, AlreadyExistsError):  # another server has written meanwhile
                continue
        return _write(page, directory)


def _write(page: bytes, directory: Path) -> Path:
    for path in _names(directory):
        replaces, ours = _present(path)
        if ours:
            write_file(path, page, expected=replaces, display_path=path.name)
            return path
    raise LimitReachedError(
        f"{_MOST} reports in {directory.name} were changed by other programs",
        state="no report was written",
        advice="move them elsewhere",
    )


def report_of(directory: Path, identity: str) -> Path | None:
    """The report of a run in a directory; None if there is none any more. Blocks."""
    for path in _names(directory):
        if stamp_of(path) is None:
            return None
        if identity_line(identity) in (read_beginning(path, _HEAD_BYTES) or ""):
            return path
    return None


def _names(directory: Path) -> list[Path]:
    return [directory / ("report.html" if number == 1 else f"report-{number}.html") for number in range(1, _MOST + 1)]


def _present(path: Path) -> tuple[FileContent | None, bool]:
    """The version of a report that may be replaced, and whether the name can be used."""
    if stamp_of(path) is None:
        return None, True
    try:
        content = read_file(path, max_bytes=_MAX_BYTES, display_path=path.name)
    except NotFoundError:
        return None, True
    except ServerError:
        return None, False
    return content, is_sealed(content.data)
