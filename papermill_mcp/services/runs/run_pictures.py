"""The pictures of the runs of a batch: the last one of each output, as tiles of one contact sheet.

Outputs are read one at a time, as far as they are needed. Each picture is scaled down before the next one is read.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.pictures.images import WithheldError
from papermill_mcp.core.runs.snapshot import RowState
from papermill_mcp.errors import NotFoundError, ServerError, TooLargeError
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.runs.batch_summary import varying
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.text_utils import count_noun, human_size, one_line

if TYPE_CHECKING:
    from papermill_mcp.core.pictures import contact_sheet as sheets
    from papermill_mcp.core.pictures import drawing, last_picture
else:
    drawing = lazy("papermill_mcp.core.pictures.drawing")
    last_picture = lazy("papermill_mcp.core.pictures.last_picture")
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")

#: Bytes of an output that is read for its picture, and seconds for the pictures of one reply.
MAX_OUTPUT_BYTES = 20_000_000
_SECONDS = 8.0

#: Pixels of a side of a picture that waits for its tile, and characters of a value in a label.
_TILE_SIDE = 640
_VALUE_CHARS = 40

_T = TypeVar("_T")


@dataclass
class _Found:
    """The pictures of some runs, by number, and the runs that have none, by reason."""

    displays: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def miss(self, reason: str) -> None:
        self.missing[reason] = self.missing.get(reason, 0) + 1


class RunPictures:
    """Reads the outputs of runs for the parts that are shown."""

    def __init__(self, config: Config, notebooks: NotebookService) -> None:
        self._config = config
        self._notebooks = notebooks

    async def look(self, output: Path, look: Callable[[NotebookDocument], _T]) -> _T:
        """The result of a function of an output notebook, called in a thread.

        Raises:
            ServerError: it cannot be read, or is larger than `MAX_OUTPUT_BYTES`.
        """
        path = self._notebooks.display_path(output)
        stamp = await asyncio.to_thread(self._notebooks.stamp, path)
        if stamp is not None and stamp.size > MAX_OUTPUT_BYTES:
            raise TooLargeError(
                f"{path} is {stamp.size:,} bytes",
                allowed=f"an output of up to {MAX_OUTPUT_BYTES:,} bytes is read for its picture",
            )
        async with self._notebooks.opened(path) as (notebook, work):
            return await work.run(partial(look, notebook.document))

    async def sheet(self, rows: Sequence[RowState]) -> tuple[ShownImage | None, str | None]:
        """The contact sheet of runs that are over, failed ones first, and a sentence about the runs without a tile."""
        if self._config.max_images <= 0 or not rows:
            return None, None
        await imported(sheets, drawing, last_picture)
        first, others = [row for row in rows if row.failed], [row for row in rows if not row.failed]
        end = time.monotonic() + _SECONDS
        found = _Found()
        drawer = drawing.Drawer()
        try:
            for group in (first, others):
                places = sheets.spread(len(group), sheets.MAX_TILES - len(found.displays))
                for place in places:
                    await self._find(group[place], found, drawer, end)
            return await asyncio.to_thread(self._made, rows, found, drawer)
        finally:
            await asyncio.to_thread(drawer.close)

    async def _find(self, row: RowState, found: _Found, drawer: drawing.Drawer, end: float) -> None:
        """Put the picture of a run among those that were found."""

        def picture(document: NotebookDocument) -> Mapping[str, Any] | None:
            display = last_picture.last_display(document)
            return display and last_picture.as_display(display, _TILE_SIDE, drawer)

        if time.monotonic() > end:
            return found.miss("have none, since the time for pictures was over")
        try:
            display = await self.look(row.output_file, picture)
        except WithheldError:
            return found.miss("have one that cannot be shown")
        except TooLargeError:
            return found.miss(f"have an output over {human_size(MAX_OUTPUT_BYTES)}")
        except NotFoundError:
            return found.miss("have no output any more")
        except ServerError:
            return found.miss("have an output that cannot be read")
        if display is None:
            return found.miss("have no picture")
        found.displays[row.number] = display
        return None

    def _made(
        self, rows: Sequence[RowState], found: _Found, drawer: drawing.Drawer
    ) -> tuple[ShownImage | None, str | None]:
        chosen = sorted(
            (row for row in rows if row.number in found.displays), key=lambda row: (not row.failed, row.number)
        )
        labels = labels_of(rows)
        tiles = [sheets.Tile(labels[row.number], found.displays[row.number]) for row in chosen]
        sheet = sheets.contact_sheet(
            tiles,
            self._config.max_image_pixels,
            drawer=drawer,
            first=[place for place, row in enumerate(chosen) if row.failed],
        )
        if sheet is None:
            return None, None
        shown = len(sheet.tiles)
        unseen = len(rows) - shown - sum(found.missing.values())
        facts = [f"{number} {reason}" for reason, number in found.missing.items()]
        if unseen:
            facts.append(f"{unseen} have no room")
        label = f"contact sheet · the last picture of {shown} of {count_noun(len(rows), 'run')}, each above its label"
        note = f"of the runs without a picture here, {', '.join(facts)}" if facts else None
        return ShownImage("image/png", sheet.data, f"{label} · image/png {sheet.width}x{sheet.height}"), note


def labels_of(rows: Sequence[RowState]) -> dict[int, str]:
    """A short name for each run, by number: its place, and the parameters by which the runs differ."""
    names = varying([row.parameters for row in rows])
    several = len({row.file for row in rows}) > 1
    labels = {}
    for row in rows:
        parts = [f"run {row.number}{' failed' if row.failed else ''}"]
        if several:
            parts.append(one_line(row.file.stem, _VALUE_CHARS))
        parts += [
            f"{one_line(name, _VALUE_CHARS)}={short_text(row.parameters[name])}"
            for name in names
            if name in row.parameters
        ]
        labels[row.number] = " · ".join(parts)
    return labels


def short_text(value: Any, limit: int = _VALUE_CHARS) -> str:
    """A value in one line: a text as it is, anything else as JSON."""
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), limit)
