"""The pictures of one reply: which ones are shown alone, and which ones as tiles of a contact sheet.

A reply has `limit` images. If it has more pictures, the last image is a contact sheet with all that have no image of
their own. A note beside each output says where its picture is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.pictures.images import IMAGE_TYPES, ReadyImage, WithheldError, measured, ready, ready_data
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import count_noun, one_line

if TYPE_CHECKING:
    from papermill_mcp.core.pictures import contact_sheet as sheets
    from papermill_mcp.core.pictures import drawing
else:
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")
    drawing = lazy("papermill_mcp.core.pictures.drawing")


@dataclass(frozen=True)
class ShownImage:
    """A PNG or JPEG that is ready to be sent."""

    mime_type: str
    data: bytes
    label: str


class Noted(Protocol):
    """An output as shown, which has a note."""

    note: str | None


@dataclass
class _Waiting:
    """A picture without an image of its own, so far. `cell` counts the cells of the reply."""

    view: Noted
    data: Mapping[str, Any]
    label: str
    place: int
    cell: int
    way: str


class Pictures:
    """Collects the pictures of one reply. Leaving it ends the process that drew some of them.

    Args:
        limit: images of the reply.
        long_side: pixels of an image, at most.
        sheet: whether a contact sheet may be made.
    """

    def __init__(self, limit: int, long_side: int, *, sheet: bool = True) -> None:
        self._limit = limit
        self._long_side = long_side
        self._sheet = sheet
        self._alone: list[ShownImage] = []
        self._last: _Waiting | None = None
        self._attached = ""
        self._waiting: list[_Waiting] = []
        self._cell = 0
        self._way: Callable[[int, int | None], str] = lambda place, shown: ""
        self._named_cells: set[int] = set()
        self._drawer: drawing.Drawer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawer is not None:
            self._drawer.close()

    @property
    def long_side(self) -> int:
        """Pixels of an image, at most."""
        return self._long_side

    def add_ready(self, image: ShownImage) -> None:
        """Take an image that is ready. The caller has looked whether one is left."""
        self._alone.append(image)

    @property
    def left(self) -> int:
        """How many images are left of the limit."""
        return self._limit - len(self._alone)

    def next_cell(self, way: Callable[[int, int | None], str]) -> None:
        """The pictures that follow are those of another cell.

        Args:
            way: names the call that shows one of them by itself, by its place and None.
        """
        self._cell += 1
        self._way = way

    def add(self, view: Noted, data: Mapping[str, Any], label: str, place: int) -> Literal["alone", "waiting"] | None:
        """Take the picture of an output, if it has one. `alone`: it has an image of its own, so far.

        Args:
            data: the forms of the output.
            label: names the cell, such as `cell 3 [load]`.
            place: of the output in its cell.
        """
        types = [mime for mime in IMAGE_TYPES if mime in data]
        drawn = [] if types else drawing.drawable(data)
        if not types and (not drawn or self._limit <= 0):
            return None
        picture = _Waiting(
            view, data, " · ".join(filter(None, [label, f"output {place}"])), place, self._cell, self._way(place, None)
        )
        if self.left <= 0:
            self._waiting.append(picture)
            return "waiting"
        try:
            image = self._ready(data, types) if types else self._drawn(data, drawn)
        except WithheldError as error:
            if types:
                _add_note(view, str(error))
            return None
        except drawing.DrawingError:  # it is shown as text
            return None
        self._alone.append(ShownImage(image.mime_type, image.data, f"{picture.label} · {image.facts}"))
        self._last = picture
        view.note = self._attached = f"Image attached: {image.facts}."
        return "alone"

    def images(self) -> list[ShownImage]:
        """The images of the reply, now that it has all its outputs. Says in the notes where the others are."""
        if self._waiting and self._last is not None and self._sheet and (sheet := self._contact_sheet(self._last)):
            return [*self._alone[:-1], sheet]
        self._note_all(self._waiting, " withheld: the image budget of this reply is used up", " withheld, too")
        return self._alone

    def _contact_sheet(self, last: _Waiting) -> ShownImage | None:
        pictures = [last, *self._waiting]
        sheet = sheets.contact_sheet(
            [sheets.Tile(one.label, one.data) for one in pictures], self._long_side, drawer=self._drawing()
        )
        if sheet is None or len(sheet.tiles) - len(sheet.problems) < 2:
            return None
        last.view.note = (last.view.note or "").removeprefix(self._attached).strip() or None
        tiles = [one for place, one in enumerate(pictures) if place in sheet.tiles and place not in sheet.problems]
        self._note_all(tiles, ": a tile of the contact sheet")
        for place, problem in sheet.problems.items():
            _add_note(pictures[place].view, problem)
        missing = [one for place, one in enumerate(pictures) if place not in sheet.tiles]
        self._note_all(missing, ": not in the contact sheet, which is full")
        size = f"image/png {sheet.width}x{sheet.height}"
        more = f" ({len(missing)} more have no room)" if missing else ""
        count = count_noun(len(sheet.tiles), "picture")
        return ShownImage("image/png", sheet.data, f"contact sheet · {count}, each above its label{more} · {size}")

    def _note_all(self, pictures: list[_Waiting], where: str, again: str = "") -> None:
        """Say of each picture where it is, and once for a cell how to see the picture itself.

        Args:
            again: the words in place of `where` after the first picture of a cell.
        """
        for picture in pictures:
            mime = next(mime for mime in [*IMAGE_TYPES, *drawing.drawable(picture.data)] if mime in picture.data)
            measure = measured(mime, joined(picture.data[mime])) if mime in IMAGE_TYPES else one_line(mime, 100)
            if self._limit <= 0:  # no call shows it
                note = f"{where}."
            elif picture.cell in self._named_cells:
                note = f"{again or where}."
            else:
                note = f"{where}. To see it, {picture.way}."
            self._named_cells.add(picture.cell)
            _add_note(picture.view, measure + note)

    def _ready(self, data: Mapping[str, Any], types: list[str]) -> ReadyImage:
        """The first form of a picture that can be shown.

        Raises:
            WithheldError: none can.
        """
        problems = []
        for mime in types:
            try:
                return ready(mime, joined(data[mime]), self._long_side)
            except WithheldError as error:
                problems.append(str(error))
        raise WithheldError(" ".join(problems))

    def _drawing(self) -> drawing.Drawer:
        if self._drawer is None:
            self._drawer = drawing.Drawer()
        return self._drawer

    def _drawn(self, data: Mapping[str, Any], types: list[str]) -> ReadyImage:
        image = ready_data("image/png", self._drawing().png(types[0], data[types[0]], self._long_side), self._long_side)
        return image._replace(facts=f"{image.facts} (drawn from {one_line(types[0], 100)})")


def _add_note(view: Noted, note: str) -> None:
    view.note = f"{view.note} {note}" if view.note else note
