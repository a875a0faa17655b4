"""Two pictures as one, the older on the left."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from papermill_mcp.core.pictures.images import thumbnail
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = lazy("PIL.Image")

_GAP = 8


def side_by_side(old: tuple[str, str], new: tuple[str, str], long_side: int) -> tuple[bytes, int, int]:
    """A PNG with both pictures, and its width and height in pixels.

    Decodes images, so call it in a worker thread.

    Args:
        old, new: MIME type and base64.
        long_side: pixels of a side of the whole, at most.

    Raises:
        WithheldError: one of them is too large, broken, or of another type.
    """
    half = max((long_side - _GAP) // 2, 1)
    left, right = (thumbnail(mime, data, (half, long_side)) for mime, data in (old, new))
    width, height = left.width + _GAP + right.width, max(left.height, right.height)
    whole = Image.new("RGB", (width, height), "#cccccc")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width + _GAP, 0))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), width, height
