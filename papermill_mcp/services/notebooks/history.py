"""Keeps the versions of notebooks around each write: the one before it, and the one that it made.

A version that cannot be kept never stops a write. The reply says so in a line.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.core.documents.alignment import corresponding
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument, split_lines_for_file
from papermill_mcp.core.documents.json_text import same
from papermill_mcp.core.history.cause import Cause
from papermill_mcp.errors import ServerError
from papermill_mcp.services.notebooks.edits import Change
from papermill_mcp.utils.file_utils import FileContent
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import count_noun

if TYPE_CHECKING:
    from papermill_mcp.core.history import store as versions
    from papermill_mcp.core.history.store import HistoryStore
else:
    versions = lazy("papermill_mcp.core.history.store")

logger = logging.getLogger(__name__)

#: Bytes up to which a version that a write has made is kept before the reply. Larger ones are kept behind it.
AT_ONCE = 2**20

#: Bytes up to which the change between two versions is counted.
_COUNTED_BYTES = 2**20

OUTSIDE = "outside"

#: The name of the tool whose call goes on. It belongs to the context of the call, and its tasks and threads get it.
_caller: ContextVar[str] = ContextVar("caller", default="server")


@contextlib.contextmanager
def called_by(name: str) -> Iterator[None]:
    """In this block, and in all that it starts, versions are made by this tool."""
    token = _caller.set(name)
    try:
        yield
    finally:
        _caller.reset(token)


def cause_of_edit(summary: str) -> Cause:
    """The cause of a version that the present call makes by an edit."""
    return Cause("edit", _caller.get(), summary)


def cause_of_run(summary: str) -> Cause:
    """The cause of a version that the present call makes by a run."""
    return Cause("run", _caller.get(), summary)


def counted(changes: Iterable[Change]) -> str:
    """The changes of an edit as numbers of cells."""
    kinds = {"added": 0, "removed": 0, "changed": 0}
    others = []
    for change in changes:
        first = change.notes[0].partition(" ")[0] if change.notes else ""
        if change.name.startswith("cell "):
            kinds[first if first in kinds else "changed"] += 1
        else:
            others.append("metadata" if change.name == "notebook" else change.name)
    return _numbers(kinds, others)


def _numbers(kinds: dict[str, int], others: Iterable[str] = ()) -> str:
    numbers = [f"{count_noun(number, 'cell')} {kind}" for kind, number in kinds.items() if number]
    return ", ".join([*numbers, *others])


class History:
    """The history of the notebooks of a server.

    Args:
        make: makes the store of the versions; None where none are kept.
        holds: whether a path is inside the roots.
    """

    def __init__(self, make: Callable[[], HistoryStore] | None, holds: Callable[[Path], bool]) -> None:
        self._make = make
        self._made_store: HistoryStore | None = None
        self._holds = holds
        self._lock = threading.Lock()  # of the two below, which the thread of the store also uses
        self._made: dict[Path, tuple[str, Cause]] = {}  # the last version that we made, while it is not kept yet
        self._unsaid: dict[Path, str] = {}

    @property
    def kept(self) -> bool:
        """Whether versions are kept at all."""
        return self._make is not None

    @property
    def store(self) -> HistoryStore | None:
        """The store, made at first use; None where no versions are kept. To be called in a thread."""
        with self._lock:
            if self._made_store is None and self._make is not None:
                self._made_store = self._make()
            return self._made_store

    def close(self) -> None:
        """Keep the versions that wait for it. Blocks."""
        if self._made_store is not None:
            self._made_store.close()

    def before(self, path: Path, content: FileContent | None, *, cause: Cause | None = None) -> list[str]:
        """Keep the version that a write is about to replace. Blocks. Returns a note if it could not be kept.

        Args:
            content: the version; None for no file.
            cause: how it came about, where that is known.
        """
        store = self.store
        if store is None or content is None:
            return []
        with self._lock:
            unsaid = self._unsaid.pop(path, None)
        notes = [] if unsaid is None else [f"the version that the last change made is not in the history: {unsaid}"]
        try:
            if content.stamp.size and not content.data:
                latest = store.latest(path, revision=content.revision, adopt=self._holds)
                summary = "as it was found" if latest is None else "changed outside"
                store.keep_large(path, cause or Cause("outside", OUTSIDE, summary), content.revision)
            else:
                self._keep_present(store, path, content.data, content.revision, cause)
        except versions.HistoryUnavailableError as error:
            notes.append(f"the version before this change is not in the history: {error}")
        return notes

    def meet(self, path: Path, data: bytes, revision: str) -> bool:
        """Keep the version that the file has now, if others made it. Blocks. Returns whether they did.

        Raises:
            HistoryUnavailableError: it could not be kept.
        """
        store = self.store
        return store is not None and self._keep_present(store, path, data, revision, None)

    def _keep_present(self, store: HistoryStore, path: Path, data: bytes, revision: str, cause: Cause | None) -> bool:
        latest = store.latest(path, revision=revision, adopt=self._holds)
        if latest is not None and latest.revision == revision:
            return False
        with self._lock:
            made = self._made.get(path)
        if made is not None and made[0] == revision:
            cause = made[1]
        if cause is not None:
            store.keep(path, data, cause, revision)
            return False
        summary = "as it was found"
        if latest is not None:
            summary = "changed outside"
            if max(len(data), latest.size) <= _COUNTED_BYTES:
                summary = _difference(store.read(path, latest.version), data) or summary
        store.keep(path, data, Cause("outside", OUTSIDE, summary), revision)
        return True

    def after(self, path: Path, content: FileContent, cause: Cause) -> list[str]:
        """Keep the version that a write has made. Blocks for small ones only. Returns a note if it was not kept."""
        store = self.store
        if store is None:
            return []
        data, revision = content.data, content.revision

        def keep() -> str | None:
            try:
                store.keep(path, data, cause, revision)
            except versions.HistoryUnavailableError as error:
                return str(error)
            with self._lock:
                if self._made.get(path) == (revision, cause):
                    del self._made[path]
            return None

        def keep_later() -> None:
            failure = keep()
            if failure is not None:
                with self._lock:
                    self._unsaid[path] = failure

        with self._lock:
            self._made[path] = (revision, cause)
        if len(data) > AT_ONCE:
            store.later(keep_later)
            return []
        failure = keep()
        return [] if failure is None else [f"the version that this change made is not in the history: {failure}"]

    def moved(self, old: Path, new: Path) -> list[str]:
        """A notebook has another name from now on. Blocks.

        Returns:
            A note if the history could not follow it, or if an earlier notebook had the new name.
        """
        store = self.store
        if store is None:
            return []
        try:
            aside = store.moved(old, new)
        except versions.HistoryUnavailableError as error:
            return [f"the history of the notebook stays with its old name: {error}"]
        if aside is None:
            return []
        return [
            f"versions of an earlier {new.name}, which is gone, have the name {aside.name} in the same directory now: "
            "restore_notebook with that path brings it back"
        ]


class RunKeeper:
    """Keeps the versions around a run: the one before its first save, those of others, and the one that it leaves.

    Args:
        result: also keep the version that the run leaves.
    """

    def __init__(self, history: History, path: Path, *, result: bool) -> None:
        self._history = history
        self._path = path
        self._result = result
        self._by = _caller.get()
        self.notes: list[str] = []

    def before(self, content: FileContent) -> None:
        """Others made this version, and the run is about to replace it. Blocks."""
        self._add(self._history.before(self._path, content))

    def after(self, content: FileContent, cells: int) -> None:
        """The run has ended. Blocks.

        Args:
            cells: the number of cells that ended.
        """
        if self._result:
            self._add(self._history.after(self._path, content, self.cause(cells)))

    def cause(self, cells: int) -> Cause:
        """The cause of a version of the run."""
        return Cause("run", self._by, f"{count_noun(cells, 'cell')} run")

    def _add(self, notes: Iterable[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]


def _difference(old: bytes | None, new: bytes) -> str:
    """The change between two versions as numbers of cells; empty if they cannot be compared."""
    try:
        before, after = (NotebookDocument.parse(data or b"", display_path="").cells for data in (old, new))
    except ServerError:
        return ""
    found = corresponding(before, after)
    changed = sum(not _same(before[one], after[other]) for one, other in found.items())
    kinds = {"changed": changed, "added": len(after) - len(found), "removed": len(before) - len(found)}
    return _numbers(kinds)


def _same(one: NotebookCell, other: NotebookCell) -> bool:
    """Whether two cells have the same content. Other programs may write its lines as one text."""
    lines = split_lines_for_file
    return one.raw == other.raw or same(lines(one.read()), lines(other.read()))
