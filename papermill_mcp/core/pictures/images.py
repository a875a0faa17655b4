"""Images of outputs: measured by their header, checked before they are decoded, and scaled to a size.

Image data comes from files and kernels of others: it may be broken or made to exhaust memory. Pillow is imported at the
first image, since few replies hold one.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import human_size, one_line

if TYPE_CHECKING:
    from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
    from PIL.Image import Image as PillowImage
    from PIL.ImageFile import ImageFile
else:
    GifImagePlugin = lazy("PIL.GifImagePlugin")
    Image = lazy("PIL.Image")
    ImageOps = lazy("PIL.ImageOps")
    JpegImagePlugin = lazy("PIL.JpegImagePlugin")
    PngImagePlugin = lazy("PIL.PngImagePlugin")
    WebPImagePlugin = lazy("PIL.WebPImagePlugin")

MAX_PIXELS = 50_000_000
MAX_IMAGE_BYTES = 25_000_000
MAX_SENT_BYTES = 3_750_000  # 5 MB as base64, where several model interfaces stop

IMAGE_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
_HEADER_CHARS = 100_000  # of the base64 of an image that is only measured


class WithheldError(Exception):
    """The image is not shown. The message gives its type and the reason."""


class ReadyImage(NamedTuple):
    """An image for a client, as PNG or JPEG. `facts` are its type and size, and the changes made to it."""

    mime_type: str
    data: bytes
    facts: str


def measured(mime: str, encoded: str) -> str:
    """An image in base64 in a few words: `image/png 640x480, 23 kB`."""
    size = human_size(_decoded_size(encoded))
    start = "".join(encoded[:_HEADER_CHARS].split())
    try:
        header = decoded(start[: len(start) // 4 * 4])
    except (binascii.Error, ValueError):
        return f"{mime}, invalid base64"
    try:
        image = open_image(header)
    except ValueError:
        return f"{mime}, {size}"
    return f"{mime} {image.width}x{image.height}, {size}"


def ready(mime: str, encoded: str, long_side: int) -> ReadyImage:
    """An image in base64, checked, and scaled to `long_side` pixels on its long side.

    Raises:
        WithheldError: it is too large, broken, or of another type.
    """
    return ready_data(mime, _checked_data(mime, encoded), long_side)


def ready_data(mime: str, data: bytes, long_side: int) -> ReadyImage:
    """As `ready`, for the bytes of an image."""
    image = _checked_image(mime, data)
    with _decoding(mime, image):
        return _checked_and_scaled(image, data, max(long_side, 1))


def thumbnail(mime: str, data: str | bytes, box: tuple[int, int]) -> PillowImage:
    """An image in base64 or bytes, checked, on white, and scaled down to fit into `box` (width, height) in pixels.

    The first picture of an animation. Memory is that of one decoded image; a JPEG is decoded in a smaller size.

    Raises:
        WithheldError: it is too large, broken, or of another type.
    """
    image = _checked_image(mime, _checked_data(mime, data) if isinstance(data, str) else data)
    with _decoding(mime, image):
        image.draft("RGB", (box[0] * 2, box[1] * 2))
        image.load()
        small: PillowImage = _in_plain_mode(image, "PNG")
        small.thumbnail((max(box), max(box)), reducing_gap=2.0)
        small = ImageOps.exif_transpose(small)
        small.thumbnail(box)
        if small.mode in ("LA", "RGBA"):
            colours = small.convert("RGBA")
            small = Image.new("RGB", small.size, "white")
            small.paste(colours, mask=colours.getchannel("A"))
        return small.convert("RGB")


def _checked_data(mime: str, encoded: str) -> bytes:
    size = _decoded_size(encoded)
    if size > MAX_IMAGE_BYTES:
        raise WithheldError(f"{mime} withheld: {human_size(size)} is over the limit of {human_size(MAX_IMAGE_BYTES)}.")
    try:
        return decoded(encoded)
    except (binascii.Error, ValueError):
        raise WithheldError(f"{mime} withheld: its data is not valid base64.") from None


def _checked_image(mime: str, data: bytes) -> ImageFile:
    try:
        image = open_image(data)
    except ValueError as error:
        raise WithheldError(f"{mime} withheld: its data ({human_size(len(data))}) {error}.") from error
    if type_of(image) != mime:
        raise WithheldError(f"{mime} withheld: its data is {type_of(image)}.")
    if too_large(image):
        named = f"{mime} {image.width}x{image.height}"
        raise WithheldError(f"{named} withheld: more than {MAX_PIXELS // 1_000_000} million pixels.")
    return image


@contextmanager
def _decoding(mime: str, image: ImageFile) -> Iterator[None]:
    named = f"{mime} {image.width}x{image.height}"
    try:
        yield
    # Pillow's decoders raise nearly anything on broken data. A broken image must not reach the client: some can not
    # continue a conversation that holds one.
    except Exception as error:
        reason = one_line(str(error), 100) or type(error).__name__
        raise WithheldError(f"{named} withheld: it cannot be decoded ({reason}).") from error


def _checked_and_scaled(opened: ImageFile, data: bytes, long_side: int) -> ReadyImage:
    opened.load()  # the whole data, to know that it is sound
    original, (width, height) = type_of(opened), opened.size
    kind = "JPEG" if original == "image/jpeg" else "PNG"
    mime_type = "image/jpeg" if kind == "JPEG" else "image/png"
    converted = "" if mime_type == original else f"converted from {original}"
    side = min(max(opened.size), long_side)
    if side == max(opened.size) and not converted and len(data) <= MAX_SENT_BYTES:
        return ReadyImage(mime_type, data, f"{mime_type} {width}x{height}")
    source: PillowImage = _in_plain_mode(ImageOps.exif_transpose(opened), kind)
    image = source
    while True:
        if side < max(source.size):
            factor = side / max(source.size)
            size = (max(round(source.width * factor), 1), max(round(source.height * factor), 1))
            image = source.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, format=kind)
        if buffer.tell() <= MAX_SENT_BYTES or side <= 1:
            break
        side = max(side * 7 // 10, 1)
    scaled = f"scaled from {width}x{height}" if image is not source else ""
    how = ", ".join(part for part in (converted, scaled) if part)
    return ReadyImage(
        mime_type, buffer.getvalue(), f"{mime_type} {image.width}x{image.height}{f' ({how})' if how else ''}"
    )


def _in_plain_mode(image: PillowImage, kind: str) -> PillowImage:
    """The image in a mode that can be scaled smoothly and saved as `kind`."""
    if kind == "JPEG":
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip instead of scale
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image.convert("L" if image.mode == "1" else "RGB")


def _decoded_size(encoded: str) -> int:
    """Bytes that base64 text stands for, without decoding it."""
    length = len(encoded) - sum(encoded.count(space) for space in " \t\r\n")
    padding = encoded[-8:].count("=")
    return max(length * 3 // 4 - padding, 0)


def decoded(encoded: str) -> bytes:
    """The bytes of base64 text, which may have white space.

    Raises:
        ValueError: it is not valid.
    """
    return base64.b64decode("".join(encoded.split()), validate=True)


def open_image(data: bytes) -> ImageFile:
    """The image with its header read and nothing decoded. Its format is one of `IMAGE_TYPES`, independent of the claim.

    Raises:
        ValueError: the data is no such image; the message says why.
    """
    # Not Image.open: it raises for large images before it shows their size, and returns other formats, such as MPO.
    for reader in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        GifImagePlugin.GifImageFile,
        WebPImagePlugin.WebPImageFile,
    ):
        try:
            return reader(io.BytesIO(data))
        except SyntaxError:  # not of this type, or the header is broken
            continue
        except Image.DecompressionBombError:
            raise ValueError(f"is an image of more than {MAX_PIXELS // 1_000_000} million pixels") from None
        except Exception:  # Pillow raises nearly anything on broken data
            break
    raise ValueError("has no valid image header")


def type_of(image: ImageFile) -> str:
    """The mime type of an opened image."""
    return next(mime for mime, name in IMAGE_TYPES.items() if name == image.format)


def too_large(image: ImageFile) -> bool:
    """Whether an opened image has too many pixels to be decoded."""
    return image.width * image.height > MAX_PIXELS
