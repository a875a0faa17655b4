"""The last edit of each notebook, so that the next one can say that another program has undone it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from papermill_mcp.core.documents.document import NotebookCell

#: Notebooks whose last edit is remembered.
_REMEMBERED = 200

Change = tuple[str | None, str | None]
"""The source of a cell before and after an edit. None: there was no such cell."""


@dataclass(frozen=True)
class _Edit:
    revision: str
    changes: Sequence[tuple[bytes | None, bytes | None]]  # digests of sources


class LastEdits:
    """Remembers digests of the sources that edits changed, for the newest notebooks."""

    def __init__(self) -> None:
        self._edits: OrderedDict[Path, _Edit] = OrderedDict()

    def remember(self, path: Path, revision: str, changes: Iterable[Change]) -> None:
        """An edit of a notebook was saved."""
        digests = [(_digest(before), _digest(after)) for before, after in changes]
        self._edits.pop(path, None)
        self._edits[path] = _Edit(revision, digests)
        while len(self._edits) > _REMEMBERED:
            self._edits.popitem(last=False)

    def undone(self, path: Path, revision: str, cells: Sequence[NotebookCell]) -> bool:
        """Whether the last edit is gone from the notebook: a cell that it changed is again as it was before."""
        last = self._edits.get(path)
        if last is None or last.revision == revision:
            return False
        present = {_digest(cell.source) for cell in cells}
        return any(before in present and after not in present for before, after in last.changes if before is not None)


def _digest(source: str | None) -> bytes | None:
    return None if source is None else hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=16).digest()
