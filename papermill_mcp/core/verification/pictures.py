"""Compares two pictures: pixel by pixel, or as an eye does, to which shifts of one pixel do not count.

One program makes the same picture twice, pixel by pixel. A digit in a plot is a few pixels that move by one.
"""

from __future__ import annotations

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

#: Steps of 256 by which a colour may differ: from that at the same place, and from those around it.
_ROUNDED = 2
_FAINT = 32

#: Pixels that may differ, and the share of all pixels that may.
_FEW = 12
_SHARE = 0.0001

#: Pixels of a side by which sizes may differ: layouts round.
_SIZE = 2


class PictureDifference(NamedTuple):
    """How two pictures differ, for a person."""

    text: str


def picture_difference(old: bytes, new: bytes, *, tolerant: bool = False) -> PictureDifference | None:
    """The difference of two PNG, JPEG, GIF or WebP images; None if there is none.

    A picture that cannot be read is compared by its bytes.

    Args:
        tolerant: shifts of one pixel, and a few other pixels, do not count.
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
        if not tolerant:
            return PictureDifference(f"the picture has {after.width}x{after.height} pixels, and not as many as before")
        after = after.resize(before.size)
    total = before.width * before.height
    moved = max(_outside(before, after), _outside(after, before))
    if tolerant:
        return (
            PictureDifference(f"{moved / total:.2%} of the pixels differ")
            if moved > max(_FEW, _SHARE * total)
            else None
        )
    changed = _changed(before, after)
    if not changed:
        return None
    faint = "; faintly, or by one pixel" if moved <= _FEW else ""
    return PictureDifference(f"{changed / total:.2%} of the pixels differ{faint}")


def _pixels(data: bytes) -> PillowImage:
    image = open_image(data)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    image.load()
    colours = image.convert("RGBA")
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=colours.getchannel("A"))
    return white


def _changed(one: PillowImage, other: PillowImage) -> int:
    """Pixels that have another colour."""
    return _over(ImageChops.difference(one, other), _ROUNDED)


def _outside(one: PillowImage, other: PillowImage) -> int:
    """Pixels of `one` whose colour lies outside of those within one pixel of the same place in `other`."""
    least = other.filter(ImageFilter.MinFilter(3))
    most = other.filter(ImageFilter.MaxFilter(3))
    return _over(ImageChops.lighter(ImageChops.subtract(one, most), ImageChops.subtract(least, one)), _FAINT)


def _over(beyond: PillowImage, limit: int) -> int:
    """Pixels in which a colour is over a limit."""
    bands = beyond.split()
    strongest = bands[0]
    for band in bands[1:]:
        strongest = ImageChops.lighter(strongest, band)
    return sum(strongest.histogram()[limit + 1 :])
