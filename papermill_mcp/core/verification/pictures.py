"""Compares two pictures as an eye does: shifts of one pixel and faint differences do not count."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from papermill_mcp.core.pictures.images import MAX_PIXELS, open_image
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from PIL import Image, ImageChops, ImageFilter
    from PIL.Image import Image as PillowImage
else:
    Image = lazy("PIL.Image")
    ImageChops = lazy("PIL.ImageChops")
    ImageFilter = lazy("PIL.ImageFilter")

#: Steps of 256 by which a colour may differ from those around the same place.
_FAINT = 32

#: Pixels that may differ, and the share of all pixels that may.
_FEW = 12
_SHARE = 0.0001

#: Pixels of a side by which sizes may differ: layouts round.
_SIZE = 2


class PictureDifference(NamedTuple):
    """How two pictures differ, for a person."""

    text: str


def picture_difference(old: bytes, new: bytes) -> PictureDifference | None:
    """The difference of two PNG, JPEG, GIF or WebP images; None if an eye sees none.

    A picture that cannot be read is compared by its bytes.
    """
    if old == new:
        return None
    try:
        before, after = _pixels(old), _pixels(new)
    except (ValueError, OSError, SyntaxError, MemoryError, Image.DecompressionBombError):
        return PictureDifference("the pictures have other bytes, and cannot be compared as pictures")
    if before.size != after.size:
        if max(abs(a - b) for a, b in zip(before.size, after.size, strict=True)) > _SIZE:
            sizes = [f"{one.width}x{one.height}" for one in (before, after)]
            return PictureDifference(f"the picture has {sizes[1]} pixels in place of {sizes[0]}")
        after = after.resize(before.size)
    changed = max(_outside(before, after), _outside(after, before))
    total = before.width * before.height
    if changed <= max(_FEW, _SHARE * total):
        return None
    return PictureDifference(f"{changed / total:.2%} of the pixels differ")


def _pixels(data: bytes) -> PillowImage:
    image = open_image(data)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    image.load()
    colours = image.convert("RGBA")
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=colours.getchannel("A"))
    return white


def _outside(one: PillowImage, other: PillowImage) -> int:
    """Pixels of `one` whose colour lies outside of those within one pixel of the same place in `other`."""
    least = other.filter(ImageFilter.MinFilter(3))
    most = other.filter(ImageFilter.MaxFilter(3))
    beyond = ImageChops.lighter(ImageChops.subtract(one, most), ImageChops.subtract(least, one))
    bands = beyond.split()
    strongest = bands[0]
    for band in bands[1:]:
        strongest = ImageChops.lighter(strongest, band)
    return sum(strongest.histogram()[_FAINT + 1 :])


def is_readable(data: bytes) -> bool:
    """Whether a picture can be decoded."""
    try:
        _pixels(data)
    except (ValueError, OSError, SyntaxError, MemoryError, Image.DecompressionBombError):
        return False
    return bool(io.BytesIO(data).getbuffer().nbytes)
