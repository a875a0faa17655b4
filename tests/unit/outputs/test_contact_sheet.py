"""Contact sheets: many pictures as one, and which pictures of a reply are on it."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import shown
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from papermill_mcp.core.pictures import contact_sheet as sheets
from papermill_mcp.core.pictures.contact_sheet import MAX_TILES, MIN_TILE, Sheet, Tile, contact_sheet, spread
from papermill_mcp.core.pictures.drawing import Drawer
from papermill_mcp.core.pictures.images import MAX_SENT_BYTES
from papermill_mcp.services.outputs import OutputBudget, OutputView
from papermill_mcp.services.pictures import ShownImage

Json = dict[str, Any]

#: Colours that differ from paper, ink and each other.
RED, GREEN, BLUE = (200, 0, 0), (0, 150, 0), (0, 0, 200)


@pytest.fixture
def drawer() -> Iterator[Drawer]:
    drawer = Drawer()
    yield drawer
    drawer.close()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def plain(colour: Any = RED, size: tuple[int, int] = (400, 300), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def png(colour: Any = RED, size: tuple[int, int] = (400, 300), mode: str = "RGB") -> Json:
    return {"image/png": encoded(plain(colour, size, mode))}


def tiles_of(count: int, data: Json | None = None) -> list[Tile]:
    return [Tile(f"cell {number}", data or png()) for number in range(count)]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def made(tiles: list[Tile], drawer: Drawer, side: int = 1568, **options: Any) -> Sheet:
    sheet = contact_sheet(tiles, side, drawer=drawer, **options)
    assert sheet is not None
    return sheet


def area_of(colour: tuple[int, int, int], image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of the pixels of about this colour."""
    near = image.point([255 if abs(value - want) < 40 else 0 for want in colour for value in range(256)])
    red, green, blue = near.split()
    both = Image.composite(red, Image.new("L", red.size), green)
    return Image.composite(both, Image.new("L", red.size), blue).getbbox()


# The sheet


@pytest.mark.parametrize("count", [2, 3, 7, 48, 60, 500])
@pytest.mark.parametrize("side", [400, 1568, 8192])
def test_a_sheet_keeps_within_its_side_and_its_tiles_are_large_enough(count: int, side: int, drawer: Drawer) -> None:
    data = png(size=(40, 30)) if side > 2000 else png()
    sheet = made(tiles_of(count, data), drawer, side)
    image = opened(sheet.data)

    assert image.size == (sheet.width, sheet.height)
    assert max(image.size) <= side
    assert len(sheet.tiles) == min(count, MAX_TILES, (side // MIN_TILE) ** 2)
    columns = next(number for number in range(1, 49) if number * number >= len(sheet.tiles))
    assert sheet.width >= min(columns, side // MIN_TILE) * MIN_TILE
    assert sheet.height >= MIN_TILE
    assert sheet.problems == {}


def test_tiles_are_in_reading_order(drawer: Drawer) -> None:
    image = opened(made([Tile("a", png(RED)), Tile("b", png(GREEN)), Tile("c", png(BLUE))], drawer).data)
    boxes = [area_of(colour, image) for colour in (RED, GREEN, BLUE)]

    first, second, third = (box for box in boxes if box is not None)
    assert first[0] < second[0] and abs(first[1] - second[1]) < 3
    assert third[1] > first[3] and abs(third[0] - first[0]) < 3


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (1000, 700)])
def test_a_picture_keeps_its_shape(size: tuple[int, int], drawer: Drawer) -> None:
    box = area_of(RED, opened(made([Tile("a", png(size=size)), Tile("b", png(BLUE))], drawer, 700).data))

    assert box is not None
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(size[0] / size[1], rel=0.05)


def turned() -> str:
    """A JPEG of 300 by 100 that its camera turned: it is 100 by 300."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(plain(size=(300, 100)), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("mime", "data", "colour"),
    [
        ("image/jpeg", encoded(plain(size=(3000, 2000)), "JPEG"), RED),
        ("image/jpeg", encoded(plain(100, mode="L"), "JPEG"), (100, 100, 100)),
        ("image/jpeg", encoded(Image.new("CMYK", (300, 200), (0, 255, 255, 50)), "JPEG"), RED),
        ("image/webp", encoded(plain(), "WEBP"), RED),
        ("image/gif", encoded(plain(), "GIF", save_all=True, append_images=[plain(BLUE)]), RED),
        ("image/png", encoded(Image.new("RGBA", (300, 200), (*RED, 255))), RED),
        ("image/png", encoded(plain().quantize(4)), RED),
        ("image/png", encoded(Image.new("I;16", (300, 200), 0x6464)), (100, 100, 100)),
        ("image/svg+xml", '<svg width="90" height="60"><rect width="90" height="60" fill="#c80000"/></svg>', RED),
    ],
)
def test_every_kind_of_picture_has_a_tile(
    mime: str, data: str, colour: tuple[int, int, int], drawer: Drawer
) -> None:
    data = data.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    sheet = made([Tile("one", {mime: data}), Tile("other", png(GREEN))], drawer)

    assert sheet.problems == {}
    box = area_of(colour, opened(sheet.data))
    assert box is not None
    assert box[2] - box[0] > 150


def test_a_turned_photo_is_upright(drawer: Drawer) -> None:
    box = area_of(RED, opened(made([Tile("one", {"image/jpeg": turned()}), Tile("other", png(GREEN))], drawer).data))

    assert box is not None
    assert box[3] - box[1] > 2 * (box[2] - box[0])


def test_a_transparent_picture_is_on_white(drawer: Drawer) -> None:
    image = Image.new("RGBA", (400, 300), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((100, 100, 300, 200), fill=(*RED, 255))
    sheet = opened(made([Tile("", {"image/png": encoded(image)}), Tile("", png(GREEN))], drawer).data)
    box = area_of(RED, sheet)

    assert box is not None
    assert sheet.getpixel((box[0] - 10, box[1] - 10)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"image/png": "!!!"}, "not valid base64"),
        ({"image/png": encoded(plain())[:300]}, "cannot be decoded"),
        ({"image/jpeg": encoded(plain())}, "its data is image/png"),
        ({"image/png": "A" * 40_000_000}, "over the limit"),
        ({"image/svg+xml": "no drawing"}, "cannot be drawn"),
        ({"text/plain": "no picture"}, "no picture"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_named_and_hides_no_other(data: Json, problem: str, drawer: Drawer) -> None:
    sheet = made([Tile("bad", data), Tile("good", png())], drawer)
    image = opened(sheet.data)

    assert sheet.tiles == [0, 1]
    assert problem in sheet.problems[0]
    assert area_of(RED, image) is not None
    words = image.crop((0, 0, image.width // 2, image.height // 2)).convert("L")
    assert words.crop((4, 4, words.width - 4, words.height)).getextrema() != (255, 255)
    assert contact_sheet([Tile("bad", data)] * 3, 1568, drawer=drawer) is None


def test_another_form_of_a_broken_picture_is_shown(drawer: Drawer) -> None:
    data = {"image/png": "!!!", "image/jpeg": encoded(plain(), "JPEG")}

    assert made([Tile("", data), Tile("", png(GREEN))], drawer).problems == {}


def test_a_sheet_of_noise_is_small_enough_to_be_sent(drawer: Drawer) -> None:
    colours = [Image.effect_noise((600, 450), 100) for _ in range(3)]
    noise = {"image/png": encoded(Image.merge("RGB", colours))}
    sheet = made(tiles_of(48, noise), drawer, 8192)

    assert len(sheet.data) <= MAX_SENT_BYTES
    assert opened(sheet.data).size == (sheet.width, sheet.height)


def test_time_for_a_sheet_is_limited(drawer: Drawer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pictures are shown; the others say why they are not."""
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    sheet = made(tiles_of(12), drawer, seconds=4.5)

    assert sorted(sheet.problems) == list(range(4, 12))
    assert "the time for the contact sheet is over" in sheet.problems[11]


def test_no_sheet_without_room_or_pictures(drawer: Drawer) -> None:
    assert contact_sheet(tiles_of(5), MIN_TILE + 10, drawer=drawer) is None
    assert contact_sheet([], 1568, drawer=drawer) is None


@pytest.mark.parametrize("label", ["", "x" * 5000, "alpha=0.1, " * 100, "région=北京 \u202e\x1b[2J\n", "\ud800", "שלום"])
def test_any_label_is_drawn_within_its_tile(label: str, drawer: Drawer) -> None:
    """Nothing of a label reaches into the tile beside it."""
    alone = opened(made([Tile("", png()), Tile("", png(GREEN))], drawer).data)
    labelled = opened(made([Tile(label, png()), Tile("", png(GREEN))], drawer).data)

    assert labelled.size == alone.size
    half = alone.width // 2
    right = (half, 0, *alone.size)
    assert labelled.crop(right).tobytes() == alone.crop(right).tobytes()
    assert (labelled.tobytes() != alone.tobytes()) == bool(label)


def test_letters_that_the_font_lacks_are_replaced() -> None:
    font = ImageFont.load_default(15)

    assert sheets._drawable_text("café · ẹ 北京", font) == "cafe · e ??"


# Which pictures have a tile


@given(st.integers(0, 200), st.integers(0, 60), st.sets(st.integers(0, 220)))
def test_the_first_ones_come_first_and_the_others_are_spread(count: int, limit: int, first: set[int]) -> None:
    places = spread(count, limit, first)
    ahead = sorted(first & set(range(count)))
    others = [place for place in places if place not in first]

    assert len(places) == len(set(places)) == min(count, limit)
    assert others == sorted(others)
    if len(ahead) <= limit:
        assert places[: len(ahead)] == ahead
    else:
        assert set(places) <= set(ahead)
    if len(others) > 1 and not first:
        gaps = [after - before for before, after in zip(others, others[1:], strict=False)]
        assert (others[0], others[-1]) == (0, count - 1)
        assert max(gaps) - min(gaps) <= 1


def budget_of(images: int, pixels: int = 1568, *, sheet: bool = True) -> OutputBudget:
    return OutputBudget(
        chars=10_000, images=images, image_pixels=pixels, error_chars=1000, error_type="full", sheet=sheet
    )


def display(data: Json) -> Json:
    return {"output_type": "display_data", "data": data, "metadata": {}}


def reply_of(count: int, images: int, **options: Any) -> tuple[list[OutputView], list[ShownImage]]:
    return shown([display(png())] * count, budget_of(images, **options), label="cell 3 [plots]")


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 30])
def test_a_reply_has_at_most_its_number_of_images_and_the_last_is_a_sheet_if_it_has_more(
    limit: int, count: int
) -> None:
    views, images = reply_of(count, limit)
    notes = [view.note or "" for view in views if view.output_type == "display_data"]
    alone = min(count, limit if count <= limit else limit - 1) if limit else 0
    has_sheet = 0 < limit < count

    assert len(images) == (min(count, limit) if limit else 0)
    assert [image.label.startswith("contact sheet") for image in images] == [False] * alone + [True] * has_sheet
    assert [note.startswith("Image attached") for note in notes] == [place < alone for place in range(len(notes))]
    for place, note in enumerate(notes[alone:], alone):
        assert note.startswith("image/png 400x300, ")
        assert ("contact sheet" in note) == has_sheet
        assert (f"first_output={place}." in note) == (place == alone and limit > 0), "with a limit of 0 no call shows it"


def test_pictures_for_which_a_sheet_has_no_room_are_named() -> None:
    views, images = reply_of(70, 5)
    missing = [view.note or "" for view in views if "not in the contact sheet, which is full" in (view.note or "")]

    assert len(missing) == 70 - 4 - 48
    assert f"contact sheet · 48 pictures, each above its label ({len(missing)} more have no room)" in images[4].label
    assert sum("read this cell alone with first_output=4." in (view.note or "") for view in views) == 1


def test_each_cell_says_once_how_to_see_its_pictures() -> None:
    budget = budget_of(2)
    first, _ = shown([display(png())] * 3, budget, label="cell 1")
    assert [("first_output=1" in (view.note or "")) for view in first] == [False, True, False]


def test_every_picture_can_be_reached_where_a_reply_has_one_image() -> None:
    """With a place to begin, the image is that picture and no sheet."""
    _, whole = reply_of(5, 1)
    _, one = reply_of(5, 1, sheet=False)

    assert [image.label.partition(" · ")[0] for image in whole] == ["contact sheet"]
    assert [image.label for image in one] == ["cell 3 [plots] · output 0 · image/png 400x300"]


def test_one_picture_beyond_broken_ones_is_shown_alone() -> None:
    """A sheet with one picture would show less than the picture."""
    outputs = [display(png()), display({"image/png": "!!!"})]
    views, images = shown(outputs, budget_of(1))

    assert [image.label for image in images] == ["output 0 · image/png 400x300"]
    assert "withheld" in (views[1].note or "")


def test_text_beside_a_picture_that_moves_to_the_sheet_stays() -> None:
    outputs = [display(png() | {"text/plain": "accuracy 0.93"}), display(png())]
    views, _ = shown(outputs, budget_of(1))

    assert views[0].text == "accuracy 0.93"
    assert (views[0].note or "").startswith("image/png 400x300, ")
