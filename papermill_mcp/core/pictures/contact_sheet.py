"""A contact sheet: many pictures as one PNG of small, labelled tiles in reading order.

The pictures come from files and kernels of others. They are decoded one at a time, and within a limit of time. A tile
whose picture cannot be shown says why.
"""

from __future__ import annotations

import io
import math
import time
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.pictures.drawing import Drawer, DrawingError, drawable
from papermill_mcp.core.pictures.images import IMAGE_TYPES, MAX_SENT_BYTES, WithheldError, thumbnail
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import one_line

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont
    from PIL.Image import Image as PillowImage
else:
    Image = lazy("PIL.Image")
    ImageDraw = lazy("PIL.ImageDraw")
    ImageFont = lazy("PIL.ImageFont")

MAX_TILES = 48
#: Pixels of a side of a tile: the least, and the most.
MIN_TILE = 160
_MAX_TILE = 640
#: Pixels of a side of a sheet, at most. So many in 256 colours can always be sent.
_MAX_SIDE = 1900
_SECONDS = 10.0

_FONT_PIXELS = 15
_LINE_PIXELS = 18
_LABEL_LINES = 2
_LABEL_PIXELS = _LABEL_LINES * _LINE_PIXELS
_MARGIN = 3
_MAX_LABEL_CHARS = 300

_INK, _FAINT, _EDGE, _PAPER = "#000000", "#555555", "#999999", "#ffffff"


class Tile(NamedTuple):
    """A picture of a sheet: its label, and the forms of its display by MIME type, as in an output of a notebook."""

    label: str
    data: Mapping[str, Any]


class Sheet(NamedTuple):
    """A contact sheet as PNG, `width` by `height` pixels.

    `tiles` are the places of the pictures that have a tile, in the order of the tiles. `problems` says of such a place
    why its picture is not shown.
    """

    data: bytes
    width: int
    height: int
    tiles: list[int]
    problems: dict[int, str]


def contact_sheet(
    tiles: Sequence[Tile], long_side: int, *, drawer: Drawer, first: Collection[int] = (), seconds: float = _SECONDS
) -> Sheet | None:
    """A sheet of at most 48 of these pictures; None if none of them can be shown, or fewer than two tiles fit.

    Decodes images, so call it in a worker thread.

    Args:
        long_side: pixels of the sheet, at most.
        drawer: draws those that are SVG or charts.
        first: places of pictures that have a tile before all others, such as those of runs that failed.
        seconds: after which no further picture is decoded.
    """
    long_side = min(long_side, _MAX_SIDE)
    across = long_side // MIN_TILE
    capacity = min(across * (long_side // _height(MIN_TILE)), MAX_TILES)
    if capacity < 2 or not tiles:
        return None
    places = spread(len(tiles), capacity, first)
    columns = min(math.ceil(math.sqrt(len(places))), across)
    rows = math.ceil(len(places) / columns)
    width = min(long_side // columns, _MAX_TILE)
    while rows * _height(width) > long_side:
        width -= 1
    end = time.monotonic() + seconds
    pictures: dict[int, PillowImage] = {}
    problems: dict[int, str] = {}
    for place in places:
        try:
            if time.monotonic() > end:
                raise WithheldError("withheld: the time for the contact sheet is over.")
            pictures[place] = small(tiles[place].data, _room(width), drawer)
        except WithheldError as error:
            problems[place] = str(error)
    if not pictures:
        return None
    least = max(MIN_TILE, *(max(picture.width, picture.height * 4 // 3) for picture in pictures.values()))
    width = min(width, least + 2 * _MARGIN)
    sheet = Image.new("RGB", (columns * width, rows * _height(width)), _PAPER)
    font = ImageFont.load_default(_FONT_PIXELS)
    draw = ImageDraw.Draw(sheet)
    for number, place in enumerate(places):
        corner = (number % columns * width, number // columns * _height(width))
        draw.rectangle((*corner, corner[0] + width - 1, corner[1] + _height(width) - 1), outline=_EDGE)
        room = _room(width)
        picture = pictures.get(place)
        if picture is not None:
            at = corner[0] + (width - picture.width) // 2, corner[1] + _MARGIN + (room[1] - picture.height) // 2
            sheet.paste(picture, at)
        else:
            height = room[1] // _LINE_PIXELS
            text = _lines(f"not shown: {problems[place]}", room[0], height, font)
            _write(draw, text, (corner[0] + _MARGIN, corner[1] + _MARGIN), font, _FAINT)
        label = _lines(tiles[place].label, room[0], _LABEL_LINES, font)
        _write(draw, label, (corner[0] + _MARGIN, corner[1] + _height(width) - _LABEL_PIXELS - _MARGIN), font, _INK)
    return Sheet(_encoded(sheet), sheet.width, sheet.height, places, problems)


def spread(count: int, limit: int, first: Collection[int] = ()) -> list[int]:
    """At most `limit` of the places 0 to `count` - 1: those in `first`, then some evenly spread over the others."""
    ahead = sorted(place for place in set(first) if 0 <= place < count)
    others = [place for place in range(count) if place not in set(ahead)]
    kept = _evenly(ahead, limit)
    return kept + _evenly(others, limit - len(kept))


def _evenly(places: Sequence[int], limit: int) -> list[int]:
    """The first, the last, and those between at equal distances."""
    if len(places) <= limit:
        return list(places)
    if limit <= 1:
        return list(places[: max(limit, 0)])
    return [places[number * (len(places) - 1) // (limit - 1)] for number in range(limit)]


def small(data: Mapping[str, Any], box: tuple[int, int], drawer: Drawer) -> PillowImage:
    """The picture of a display in its first form that can be shown, scaled down to fit into `box` pixels.

    Args:
        data: the forms of the display by MIME type, as in an output of a notebook.

    Raises:
        WithheldError: it has none.
    """
    problem = WithheldError("withheld: it has no picture.")
    for mime in IMAGE_TYPES:
        if mime in data:
            try:
                return thumbnail(mime, joined(data[mime]), box)
            except WithheldError as error:
                problem = error
    for mime in drawable(data):
        try:
            return thumbnail("image/png", drawer.png(mime, data[mime], max(box)), box)
        except DrawingError:
            problem = WithheldError(f"{one_line(mime, 100)} withheld: it cannot be drawn.")
    raise problem


def _height(width: int) -> int:
    """Of a tile: a picture of 4 by 3 and its label, but at least the least."""
    return max((width - 2 * _MARGIN) * 3 // 4 + 3 * _MARGIN + _LABEL_PIXELS, MIN_TILE)


def _room(width: int) -> tuple[int, int]:
    return width - 2 * _MARGIN, _height(width) - 3 * _MARGIN - _LABEL_PIXELS


def _encoded(sheet: PillowImage) -> bytes:
    """The sheet as a PNG that can be sent: of 256 colours where all of them would be too much."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    if buffer.tell() > MAX_SENT_BYTES:
        buffer = io.BytesIO()
        sheet.quantize(256).save(buffer, format="PNG")
    return buffer.getvalue()


def _lines(text: str, width: int, count: int, font: Any) -> list[str]:
    """A text in at most `count` lines of `width` pixels, the last one cut."""
    rest = _drawable_text(one_line(text, _MAX_LABEL_CHARS), font)
    lines: list[str] = []
    while rest and len(lines) < count:
        if font.getlength(rest) <= width:
            return [*lines, rest]
        fits = next(size for size in range(len(rest), 0, -1) if size == 1 or font.getlength(rest[:size]) <= width)
        space = rest.rfind(" ", 1, fits + 1)
        end = space if space > 0 else fits
        if len(lines) == count - 1:
            end = fits
            while end > 1 and font.getlength(rest[:end] + "…") > width:
                end -= 1
            return [*lines, rest[:end].rstrip() + "…"]
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _drawable_text(text: str, font: Any) -> str:
    """The text with the letters that the font has. Others lose their accents, or become a question mark."""
    if text.isascii():
        return text
    none = bytes(font.getmask("\U0010fffd"))

    def has(letter: str) -> bool:
        return letter.isascii() or bytes(font.getmask(letter)) != none

    def shown(letter: str) -> str:
        if has(letter):
            return letter
        plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
        return plain if plain.isascii() and plain else "?"

    return "".join(map(shown, text))


def _write(draw: Any, lines: Sequence[str], at: tuple[int, int], font: Any, colour: str) -> None:
    for number, line in enumerate(lines):
        draw.text((at[0], at[1] + number * _LINE_PIXELS), line, font=font, fill=colour)
