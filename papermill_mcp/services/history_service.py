"""The history of notebooks for clients: which versions there are, and the way back to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, PrivateAttr

from papermill_mcp.config import Config
from papermill_mcp.core.documents.alignment import aligned
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import (
    BusyError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ServerError,
    listed,
)
from papermill_mcp.services.notebook_service import DIFF_CHARS, NotebookService, OpenNotebook
from papermill_mcp.services.notebooks.edits import Change, diff_text
from papermill_mcp.services.notebooks.history import cause_of_edit
from papermill_mcp.services.notebooks.view import select
from papermill_mcp.services.results import ROWS, Result
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import FileContent
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import cell_name, cells_named, count_noun, iso_time

if TYPE_CHECKING:
    from papermill_mcp.core.history import store as kept_versions
    from papermill_mcp.core.history.store import HistoryStore, Version
    from papermill_mcp.services.notebooks import differences
else:
    kept_versions = lazy("papermill_mcp.core.history.store")
    differences = lazy("papermill_mcp.services.notebooks.differences")

_T = TypeVar("_T")

#: Deleted notebooks that an error names.
_GONE = 10

_NOTHING_WRITTEN = "nothing was written"


class VersionRow(BaseModel):
    """One version. `by` is the tool that made it, or `outside`."""

    version: int
    time: str
    kind: str
    by: str
    summary: str
    revision: str


class NotebookVersions(Result):
    """The versions of a notebook, the newest first."""

    path: str
    revision: str
    """Of the file now; empty if there is none."""
    versions: Annotated[list[VersionRow], ROWS]
    note: str | None = None
    _count: int = PrivateAttr(0)

    @property
    def count(self) -> int:
        """How many versions there are."""
        return self._count


class RestoredNotebook(Result):
    """A notebook, or some of its cells, as in an earlier version."""

    path: str
    revision: str
    version: int
    """The one that was restored."""
    diff: str
    notes: list[str] | None = None
    _changes: list[Change] = PrivateAttr(default_factory=list)

    @property
    def changes(self) -> list[Change]:
        """The changes of the file; none if it was so already."""
        return self._changes


@dataclass(frozen=True)
class _Present:
    """The file as it is now, whose version is in the history.

    Attributes:
        content: None if there is no file.
        base: the version before a change of others that was met just now; None if there was no such change.
    """

    file: Path
    content: FileContent | None
    base: Version | None


class HistoryService:
    """Lists and restores versions. Every path passes through the workspace first."""

    def __init__(self, config: Config, workspace: Workspace, notebooks: NotebookService) -> None:
        self._config = config
        self._workspace = workspace
        self._notebooks = notebooks

    async def versions(self, path: str, *, limit: int) -> NotebookVersions:
        """The versions of a notebook, also of one that is gone. A change of others is kept as a version first.

        Args:
            limit: versions, at most.

        Raises:
            InvalidArgumentError: `limit` is less than 1.
            NotFoundError: there is neither a file nor a version.
        """
        _check_positive("limit", limit, "nothing was read")
        file = self._located(path)
        store = await self._store()
        async with self._notebooks.lock(file):
            present = await self._present(store, file)
            rows = await self._history(partial(store.versions, file, self._config.history_versions))
        if not rows and present.content is None:
            raise await self._not_found(store, file)
        notes = []
        if present.content is None:
            notes.append("the file is gone; restore_notebook brings its newest version back")
        elif rows and rows[0].revision != present.content.revision:
            notes.append("the file has changes that are not kept yet, since a run goes on or the file is too large")
        elif not rows:
            notes.append("no version is kept yet; the next edit or run keeps one")
        shown = NotebookVersions(
            path=self._workspace.display_path(file),
            revision="" if present.content is None else present.content.revision,
            versions=[_row(version) for version in rows[:limit]],
            note="; ".join(notes) or None,
        )
        shown._count = len(rows)
        return shown

    async def version(self, path: str, number: int) -> tuple[Version, bytes]:
        """One version of a notebook and its bytes.

        Raises:
            NotFoundError: there is no such version.
        """
        store = await self._store()
        file = self._located(path)
        rows = await self._history(partial(store.versions, file, self._config.history_versions))
        return await self._read(store, file, self._numbered(file, rows, number))

    async def restore(
        self,
        path: str,
        *,
        version: int | None = None,
        steps: int | None = None,
        cells: str | None = None,
        if_revision: str | None = None,
    ) -> RestoredNotebook:
        """Put a version back, as one more edit that can be undone in the same way.

        Args:
            version: its number.
            steps: in place of it, how many changes to go back. The default is 1. A deleted file counts as a change.
            cells: a selection among the cells of the version: only these are put back.
            if_revision: the revision that the file must have. With it a change of others may be replaced.

        Raises:
            InvalidArgumentError: both `version` and `steps` are given, or `steps` is less than 1.
            NotFoundError: there is no such version.
            ConflictError: others have changed what would be replaced, and the history has not shown it yet.
        """
        if version is not None and steps is not None:
            raise InvalidArgumentError(
                "version and steps are both given", allowed="one of them, or none for one step", state=_NOTHING_WRITTEN
            )
        if steps is not None:
            _check_positive("steps", steps, _NOTHING_WRITTEN)
        file = self._located(path, writing=True)
        store = await self._store()
        async with self._notebooks.lock(file):
            present = await self._present(store, file)
            notebook = OpenNotebook(file, self._workspace.display_path(file), present.content, NotebookDocument.new({}))
            self._notebooks.require_revision(notebook, if_revision)
            rows = await self._history(partial(store.versions, file, self._config.history_versions))
            if version is not None:
                wanted = self._numbered(file, rows, version)
            else:
                kept = present.content is not None and bool(rows) and rows[0].revision == notebook.revision
                wanted = self._back(file, rows, steps or 1, kept=kept)
            if cells is None and present.base is not None and if_revision is None:
                raise self._changed_outside(notebook, present.base, wanted, rows)
            found, data = await self._read(store, file, wanted)
            size = len(data) + (0 if present.content is None else len(present.content.data))
            async with self._notebooks.admitted(size) as work:
                old = await work.run(partial(self._parsed, present))
                summary = f"version {found.version} restored"
                if cells is not None:
                    base = None
                    if present.base is not None and if_revision is None:
                        base = (await self._read(store, file, present.base))[1]
                    data, summary = await work.run(partial(self._with_cells, notebook, old, data, cells, base, found))
                new = await work.run(partial(_parse, data, notebook.display_path))
                changes = await work.run(partial(_changes, old, new))
            changed = present.content is None or data != present.content.data
            restored = RestoredNotebook(
                path=notebook.display_path,
                revision=notebook.revision,
                version=found.version,
                diff=diff_text(changes, DIFF_CHARS) if changed else "",
            )
            if changed:
                restored._changes = changes
                notes = self._notebooks.run_notes(file, old, new)
                restored.revision = await self._notebooks.save_version(notebook, data, cause_of_edit(summary))
                if version is None and steps is None and cells is None and present.content is not None:
                    notes.append(_way_on(found, rows))
                restored.notes = [*notes, *notebook.notes] or None
        return restored

    # Versions

    async def _store(self) -> HistoryStore:
        store = await asyncio.to_thread(lambda: self._notebooks.history.store)
        if store is None:
            raise NotFoundError(
                "no versions of notebooks are kept", state="history_versions is 0 in the settings of this server"
            )
        return store

    async def _history(self, look: Callable[[], _T]) -> _T:
        try:
            return await asyncio.to_thread(look)
        except kept_versions.HistoryUnavailableError as error:
            raise BusyError(
                f"the history cannot be used now: {error}",
                state=_NOTHING_WRITTEN,
                advice="try again, or look at the state directory with `jupyter-papermill-mcp doctor`",
            ) from error

    async def _read(self, store: HistoryStore, file: Path, version: Version) -> tuple[Version, bytes]:
        data = await self._history(partial(store.read, file, version.version))
        if data is None:
            raise NotFoundError(f"version {version.version} has just been dropped", state=_NOTHING_WRITTEN)
        return version, data

    async def _not_found(self, store: HistoryStore, file: Path) -> NotFoundError:
        gone = await self._history(partial(store.gone, self._workspace.holds))
        names = listed(map(self._workspace.display_path, gone), limit=_GONE)
        return NotFoundError(
            f"{self._workspace.display_path(file)} does not exist, and has no version",
            allowed=f"Versions without a file: {names}",
            state="nothing was read",
            advice="list the notebooks there are, or name one of these to restore it" if gone else "",
        )

    def _numbered(self, file: Path, rows: Sequence[Version], number: int) -> Version:
        for row in rows:
            if row.version == number:
                return row
        raise NotFoundError(
            f"{self._workspace.display_path(file)} has no version {number}",
            allowed=f"Its versions: {listed((str(row.version) for row in rows), limit=20)}",
            state=_NOTHING_WRITTEN,
        )

    def _back(self, file: Path, rows: Sequence[Version], steps: int, *, kept: bool) -> Version:
        """The version so many changes back. `kept`: the newest version is the present state of the file."""
        place = steps if kept else steps - 1
        if place < len(rows):
            return rows[place]
        possible = len(rows) - kept
        raise NotFoundError(
            f"{self._workspace.display_path(file)} cannot go back {count_noun(steps, 'step')}",
            allowed=f"Its history has {count_noun(possible, 'step')}",
            state=_NOTHING_WRITTEN,
        )

    def _changed_outside(
        self, notebook: OpenNotebook, base: Version, wanted: Version, rows: Sequence[Version]
    ) -> ConflictError:
        return ConflictError(
            f"another program has changed {notebook.display_path} since version {base.version}",
            state=f"that change is version {rows[0].version} now, of revision {notebook.revision}; {_NOTHING_WRITTEN}",
            advice=f"to replace it, too, give version={wanted.version} and if_revision={notebook.revision!r}; "
            "cells puts single cells back",
        )

    # Files

    def _located(self, path: str, *, writing: bool = False) -> Path:
        """The real path of a notebook, which may be gone."""
        try:
            return self._workspace.notebook(path, writing=writing)
        except NotFoundError:
            return self._workspace.real_path(path)

    async def _present(self, store: HistoryStore, file: Path) -> _Present:
        """The file as it is now. A change of others gets into the history, unless a run is about to save."""
        if not await asyncio.to_thread(file.is_file):
            return _Present(file, None, None)
        content = await self._notebooks.bytes_of(file)
        if self._notebooks.is_written_by_run(file) or len(content.data) != content.stamp.size:
            return _Present(file, content, None)

        def meet() -> Version | None:
            latest = store.latest(file)
            met = self._notebooks.history.meet(file, content.data, content.revision)
            return latest if met else None

        return _Present(file, content, await self._history(meet))

    def _parsed(self, present: _Present) -> NotebookDocument | None:
        return None if present.content is None else _parse(present.content.data, "")

    def _with_cells(
        self,
        notebook: OpenNotebook,
        present: NotebookDocument | None,
        data: bytes,
        cells: str,
        base: bytes | None,
        version: Version,
    ) -> tuple[bytes, str]:
        """The present notebook with some cells of a version, and a summary.

        Args:
            base: the last version of ours, if others have changed the notebook since.
        """
        path = notebook.display_path
        if present is None or notebook.content is None:
            raise InvalidArgumentError(
                f"{path} is gone, or is no notebook now, so it can take no single cells",
                state=_NOTHING_WRITTEN,
                advice="leave cells out to restore the whole version",
            )
        old = NotebookDocument.parse(data, display_path=f"version {version.version} of {path}")
        chosen = sorted(select(old, cells, f"version {version.version} of {path}"))
        document = NotebookDocument.parse(notebook.content.data, display_path=path)
        document.require_editable()
        places = aligned(old.cells, document.cells)
        if base is not None:
            self._check_base(path, base, document, {places[one] for one in chosen if one in places})
        added = 0
        for one in chosen:
            members = old.cells[one].data
            place = places.get(one)
            if place is not None:
                gone = document.cells[place].data.keys() - members.keys()
                document.update(
                    place, {key: value for key, value in members.items() if key != "id"}, drop=gone - {"id"}
                )
                continue
            place = next((places[above] + 1 for above in range(one - 1, -1, -1) if above in places), 0)
            document.insert(place, members)
            places = {index: at + (at >= place) for index, at in places.items()} | {one: place}
            added += 1
        return document.render(), f"{count_noun(len(chosen), 'cell')} of version {version.version} restored"

    def _check_base(self, path: str, base: bytes, document: NotebookDocument, places: set[int]) -> None:
        """Raise if others have changed one of these cells since the last version of ours."""
        before = _parse(base, path)
        if before is None:
            return
        origins = {place: origin for origin, place in aligned(before.cells, document.cells).items()}
        changed = [
            place
            for place in places
            if place in origins and before.cells[origins[place]].raw != document.cells[place].raw
        ]
        if changed:
            raise ConflictError(
                f"another program has changed {cells_named(changed)} of {path} since the last version",
                state=f"that change is in the history; {_NOTHING_WRITTEN}",
                advice="give if_revision to replace it",
            )


def _way_on(restored: Version, rows: Sequence[Version]) -> str:
    """The way further back, after a step that the next one would only undo."""
    older = (row for row in rows if row.version < restored.version and row.revision != restored.revision)
    before = next(older, None)
    if before is None:
        return f"version {restored.version} is the oldest kept; the next call without version undoes this step"
    return (
        f"the next call without version undoes this step; version={before.version} goes further back, "
        "and notebook_history lists all"
    )


def _check_positive(name: str, number: int, state: str) -> None:
    if number < 1:
        raise InvalidArgumentError(f"{name} is {number}", allowed="1 or more", state=state)


def _parse(data: bytes, display_path: str) -> NotebookDocument | None:
    try:
        return NotebookDocument.parse(data, display_path=display_path)
    except ServerError:
        return None


def _changes(old: NotebookDocument | None, new: NotebookDocument | None) -> list[Change]:
    """The changes of a notebook, for a reply."""
    if old is None or new is None:
        return [Change("notebook", ["restored as a whole"])]
    changes = []
    if keys := differences.metadata_changes(old.metadata, new.metadata):
        changes.append(Change("notebook", [f"metadata {' '.join(keys[:20])}"]))
    for one in differences.differences(old, new, context=0):
        index = one.before if one.after is None else one.after
        lines = [line for line in one.lines if not line.startswith("@@")]
        changes.append(Change(f"cell {cell_name(index or 0, one.cell_id)}", [", ".join(one.changes)], lines))
    return changes or [Change("notebook", ["only times and counts of runs, or the form of the file"])]


def _row(version: Version) -> VersionRow:
    cause = version.cause
    return VersionRow(
        version=version.version,
        time=iso_time(datetime.fromtimestamp(version.time, UTC)),
        kind=cause.kind,
        by=cause.by,
        summary=cause.summary,
        revision=version.revision,
    )
