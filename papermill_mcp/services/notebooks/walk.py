"""Which notebooks there are below a directory: bounded, and without leaving it."""

from __future__ import annotations

import fnmatch
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from papermill_mcp.errors import ServerError
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import Entry, list_directory, stamp_of

_SUFFIX = ".ipynb"
MAX_ENTRIES = 300_000
MAX_DEPTH = 40
WALK_SECONDS = 3.0


@dataclass(slots=True)
class FoundNotebook:
    """A notebook as its directory shows it. Cheap to make: a directory may hold 100,000 of them."""

    parent: Path
    name: str
    display_path: str
    size: int = 0
    mtime_ns: int = 0
    linked: bool = False
    """Whether the name is that of a link. Otherwise the path is real."""

    @property
    def path(self) -> Path:
        return self.parent / self.name


@dataclass
class Walk:
    """The found notebooks in the order of their paths, and the skipped places."""

    found: list[FoundNotebook] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    cut: str | None = None
    """Why it ended early."""
    directories: int = 0
    """Directories that were not looked into, since the walk was not recursive. Hidden ones do not count."""

    def notes(self) -> list[str]:
        """The skipped places in words, with exact numbers."""
        notes = [f"{what}: {number} skipped" for what, number in self.skipped.items()]
        if self.directories and not self.found:
            notes.append(f"sub-directories: {self.directories} not looked into; recursive=true looks there")
        return [*notes, self.cut] if self.cut else notes


def walk(directory: Path, workspace: Workspace, *, recursive: bool, pattern: str = "*") -> Walk:
    """The notebooks below a real directory.

    Links to directories are not followed, and hidden directories and files are not looked at; both are counted. A link
    to a notebook counts when it stays inside the roots.
    """
    result = Walk()
    matches = re.compile(fnmatch.translate(pattern)).match
    deadline = time.monotonic() + WALK_SECONDS
    late = f"the search ended after {WALK_SECONDS:g} s: choose a directory further down"
    left = MAX_ENTRIES
    pending: list[tuple[Path, str, Iterator[Entry]]] = []

    def enter(path: Path) -> None:
        nonlocal left
        display_path = workspace.display_path(path)
        try:
            entries, more = list_directory(
                path, display_path=display_path, suffix=_SUFFIX, limit=left, deadline=deadline
            )
        except ServerError:
            if not pending:
                raise
            result.skipped["unreadable directories"] += 1
            return
        left -= len(entries)
        if more and time.monotonic() >= deadline:
            result.cut = late
        elif more or left <= 0:
            left = 0
            result.cut = f"the search ended at {MAX_ENTRIES:,} entries: choose a directory further down"
        pending.append((path, "" if display_path == "." else f"{display_path.rstrip('/')}/", iter(entries)))

    enter(directory)
    while pending:
        parent, prefix, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            continue
        if entry.kind == "directory":
            if not recursive:
                result.directories += not entry.name.startswith(".")
                continue
            path = parent / entry.name
            if entry.name.startswith(".") or workspace.is_private(path):
                result.skipped["hidden directories"] += 1
            elif len(pending) >= MAX_DEPTH:
                result.skipped[f"directories deeper than {MAX_DEPTH} levels"] += 1
            elif time.monotonic() >= deadline:  # the entries listed so far still count
                result.skipped["directories"] += 1
                result.cut = late
            elif left > 0:
                enter(path)
            else:
                result.skipped["directories"] += 1
            continue
        named = entry.name.lower().endswith(_SUFFIX) and len(entry.name) > len(_SUFFIX)
        if named and entry.name.startswith("."):
            result.skipped["hidden notebooks"] += 1
        elif named and matches(entry.name):
            if entry.kind == "file":
                display_path = prefix + entry.name
                result.found.append(FoundNotebook(parent, entry.name, display_path, entry.size, entry.mtime_ns))
            elif time.monotonic() >= deadline:
                result.skipped["links"] += 1
                result.cut = late
            elif found := _linked(parent, entry, prefix + entry.name, workspace):
                result.found.append(found)
            else:
                result.skipped["links out of the roots, and special files"] += 1
        elif entry.kind == "link" and not named and recursive:
            result.skipped["links that may be directories"] += 1
    return result


def _linked(parent: Path, entry: Entry, display_path: str, workspace: Workspace) -> FoundNotebook | None:
    if entry.kind != "link":
        return None
    try:
        stamp = stamp_of(workspace.notebook(display_path))
    except ServerError:
        return None
    if stamp is None:
        return None
    return FoundNotebook(parent, entry.name, display_path, stamp.size, stamp.mtime_ns, linked=True)
