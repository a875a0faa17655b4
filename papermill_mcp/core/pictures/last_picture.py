"""The last picture of a notebook, scaled down: the one that stands for its run beside those of other runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.pictures.drawing import Drawer, drawable
from papermill_mcp.core.pictures.images import IMAGE_TYPES
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from PIL import Image

    from papermill_mcp.core.pictures import contact_sheet as sheets
else:
    Image = lazy("PIL.Image")
    sheets = lazy("papermill_mcp.core.pictures.contact_sheet")

_JPEG_QUALITY = 82


class SmallPicture(NamedTuple):
    """A PNG or JPEG of `width` by `height` pixels."""

    mime_type: str
    data: bytes
    width: int
    height: int


def last_display(document: NotebookDocument) -> Mapping[str, Any] | None:
    """The forms of the last output that can be shown as a picture, by MIME type; None if there is none.

    Cells are read from the end, one at a time.
    """
    for cell in reversed(document.cells):
        if cell.cell_type != "code" or not cell.output_count:
            continue
        for output in reversed(cell.read_outputs()):
            data = output.get("data")
            if isinstance(data, Mapping) and (any(mime in data for mime in IMAGE_TYPES) or drawable(data)):
                return data
    return None


def as_display(data: Mapping[str, Any], side: int, drawer: Drawer) -> Mapping[str, Any]:
    """A picture of at most `side` by `side` pixels, again as a display, so that many can be held.

    Decodes images, so call it in a worker thread.

    Raises:
        WithheldError: it cannot be shown.
    """
    picture = sheets.small(data, (side, side), drawer)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii")}


def for_page(data: Mapping[str, Any], side: int, drawer: Drawer) -> SmallPicture:
    """A picture of at most `side` by `side` pixels in few bytes: a PNG of 256 colours, or a JPEG where that is smaller.

    Decodes images, so call it in a worker thread.

    Raises:
        WithheldError: it cannot be shown.
    """
    picture = sheets.small(data, (side, side), drawer)
    png, jpeg = io.BytesIO(), io.BytesIO()
    # The other methods take ten times as long, and the plots of a batch are many.
    few = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(png, format="PNG")
    picture.save(jpeg, format="JPEG", quality=_JPEG_QUALITY)
    mime_type, best = ("image/png", png) if png.tell() <= jpeg.tell() else ("image/jpeg", jpeg)
    return SmallPicture(mime_type, best.getvalue(), picture.width, picture.height)
