"""Outputs as a reply shows them: safe, within the budget, and honest about what is missing."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from helpers import shown
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from papermill_mcp.core.pictures import images as core_images
from papermill_mcp.services import outputs as output_view
from papermill_mcp.services.outputs import (
    OutputBudget,
    OutputLimits,
    show_error,
    summarise_outputs,
    whole_output,
)


def budget_of(
    *, chars: int = 10_000, images: int = 5, pixels: int = 1568, error_chars: int = 1000, brief: bool = False
) -> OutputBudget:
    error_type: Literal["full", "brief"] = "brief" if brief else "full"
    return OutputBudget(chars=chars, images=images, image_pixels=pixels, error_chars=error_chars, error_type=error_type)


def stream(text: str | list[str], name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: Any) -> dict[str, Any]:
    """A display of `text_plain=…`, `image_png=…` and so on; bytes are encoded."""
    bundle = {
        key.replace("_", "/", 1): base64.encodebytes(value).decode() if isinstance(value, bytes) else value
        for key, value in data.items()
    }
    return {"output_type": "display_data", "data": bundle, "metadata": {}}


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))


def png_claiming(width: int, height: int) -> bytes:
    return png_header(width, height) + png_chunk(b"IDAT", zlib.compress(b""))


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP; its bytes after the header are those of another image."""
    data = bytearray(picture(3, 3, "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9
    data[start : start + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_budget_comes_from_the_settings() -> None:
    settings = SimpleNamespace(
        max_output_chars=10, max_images=2, max_image_pixels=100, max_error_output=50, error_output_type="brief"
    )
    limits = cast(OutputLimits, settings)

    assert OutputBudget.of(limits) == budget_of(chars=10, images=2, pixels=100, error_chars=50, brief=True)
    assert OutputBudget.of(limits, chars=7).chars == 7
    assert OutputBudget.of(limits, chars=50_000).error_chars == 50_000
    assert OutputBudget.of(limits, chars=50_000).whole_tables


def test_consecutive_streams_of_one_name_are_shown_as_one() -> None:
    outputs = [stream("a\n"), stream(["b", "\n"]), stream("oops\n", "stderr"), stream("c\n")]
    views, _ = shown(outputs, budget_of())

    assert [(view.index, view.name, view.text) for view in views] == [
        (0, "stdout", "a\nb\n"),
        (2, "stderr", "oops\n"),
        (3, "stdout", "c\n"),
    ]


@pytest.mark.case("N21")
def test_text_is_cleaned_and_the_output_itself_is_not_changed() -> None:
    output = stream("\x1b]52;c;cm0=\x07\x1b[31mred\x1b[0m\u202e")
    views, _ = shown([output], budget_of())

    assert views[0].text == "red⟨U+202E⟩"
    assert output == stream("\x1b]52;c;cm0=\x07\x1b[31mred\x1b[0m\u202e")


def test_a_table_is_shown_as_plain_text_and_its_html_is_named() -> None:
    views, _ = shown([display(text_plain="   a\n0  1", text_html="<table><script>x()</script>")], budget_of())

    assert views[0].model_dump(exclude_none=True) == {
        "output_type": "display_data",
        "index": 0,
        "text": "   a\n0  1",
    }


@pytest.mark.case("N21")
@pytest.mark.parametrize("mime", ["text/html", "image/svg+xml", "application/javascript"])
def test_markup_and_scripts_are_named_and_never_shown(mime: str) -> None:
    plain = "<IPython.core.display.HTML object>"
    views, images = shown(
        [{"output_type": "display_data", "data": {mime: "<evil>", "text/plain": plain}}], budget_of()
    )

    assert images == []
    assert views[0].text is None
    assert views[0].note == f"Not shown: {mime}, 6 B."


def test_markdown_is_shown_where_the_plain_text_says_nothing() -> None:
    output = display(text_plain="<IPython.core.display.Markdown object>", text_markdown="# Title")

    assert shown([output], budget_of())[0][0].text == "# Title"


def test_json_is_shown_compact() -> None:
    output = {"output_type": "display_data", "data": {"application/json": {"a": [1, "é"]}}}

    assert shown([output], budget_of())[0][0].text == '{"a":[1,"é"]}'


def test_base64_inside_text_is_left_out() -> None:
    uri = "data:image/png;base64," + "A" * 5000
    views, _ = shown([display(text_markdown=f"![x]({uri})")], budget_of())

    assert views[0].text == "![x](⟨data URI of 5022 characters⟩)"


def test_the_text_budget_is_shared_and_what_is_missing_is_counted() -> None:
    budget = budget_of(chars=100)
    first, _ = shown([stream("a" * 60)], budget)
    second, _ = shown([stream("b" * 70), display(text_plain="c" * 30)], budget)

    assert first[0].omitted_chars is None
    assert second[0].omitted_chars == 30
    assert (second[1].text, second[1].omitted_chars) == (None, 30)
    assert second[1].note is not None
    assert "budget" in second[1].note
    assert budget.chars == 0


def test_a_flood_of_outputs_is_counted_not_listed() -> None:
    outputs = [display(text_plain="xx") for _ in range(10_000)]
    views, _ = shown(outputs, budget_of())

    assert len(views) == output_view.MAX_VIEWS + 1
    assert views[-1].output_type == "omitted"
    assert views[-1].omitted_chars == 2 * (10_000 - output_view.MAX_VIEWS)
    assert views[-1].note is not None
    assert views[-1].note.startswith("9900 more outputs of this cell not listed: 9900 display_data.")


@given(st.lists(st.text(st.sampled_from("ab\n\x1b[m\u200b"), max_size=40), max_size=8), st.integers(0, 120))
def test_shown_and_omitted_characters_add_up(texts: list[str], chars: int) -> None:
    budget = budget_of(chars=chars)
    views, _ = shown([display(text_plain=text) for text in texts], budget)
    every, _ = shown([display(text_plain=text) for text in texts], budget_of())

    total = sum(len(view.text or "") for view in every)
    assert total == (chars - budget.chars) + sum(view.omitted_chars or 0 for view in views)
    assert budget.chars >= -(chars // 10)  # a text that is nearly whole is not cut


def test_a_plot_is_sent_as_it_is_without_the_repr_of_its_figure() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    output = display(text_plain="<Figure size 640x480 with 1 Axes>", image_png=buffer.getvalue())
    views, images = shown([stream("x"), output], budget := budget_of(), label="cell 3")

    assert [(image.mime_type, image.label) for image in images] == [
        ("image/png", "cell 3 · output 1 · image/png 640x480")
    ]
    assert images[0].data == buffer.getvalue()
    assert views[1].text is None
    assert views[1].note == "Image attached: image/png 640x480."
    assert budget.pictures.left == 4


def test_text_beside_an_image_stays_if_it_says_more_than_the_figure() -> None:
    views, images = shown([display(text_plain="accuracy 0.93", image_png=picture(4, 4))], budget_of())

    assert views[0].text == "accuracy 0.93"
    assert len(images) == 1


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("PNG", "I;16"),
        ("PNG", "LA"),
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
    ],
)
def test_a_large_image_is_scaled_and_keeps_its_type(kind: str, mode: str) -> None:
    mime = f"image/{kind.lower()}"
    data = picture(3000, 2000, kind, mode)
    _, images = shown([display(**{mime.replace("/", "_"): data})], budget_of(pixels=1500))

    assert images[0].label == f"output 0 · {mime} 1500x1000 (scaled from 3000x2000)"
    assert images[0].mime_type == mime
    assert (opened(images[0].data).size, opened(images[0].data).format) == ((1500, 1000), kind)


def test_sixteen_bit_grey_keeps_its_brightness_when_scaled() -> None:
    buffer = io.BytesIO()
    Image.new("I;16", (200, 100), 0x8000).save(buffer, format="PNG")
    _, images = shown([display(image_png=buffer.getvalue())], budget_of(pixels=100))

    assert opened(images[0].data).getpixel((5, 5)) == 0x80


def test_transparency_survives_scaling() -> None:
    buffer = io.BytesIO()
    Image.new("P", (200, 100), 0).save(buffer, format="PNG", transparency=0)
    _, images = shown([display(image_png=buffer.getvalue())], budget_of(pixels=100))

    assert opened(images[0].data).getpixel((5, 5)) == (0, 0, 0, 0)


def test_a_photo_stays_upright_when_scaled() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (400, 200)).save(buffer, format="JPEG", exif=exif)
    _, images = shown([display(image_jpeg=buffer.getvalue())], budget_of(pixels=100))

    assert opened(images[0].data).size == (50, 100)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_other_image_types_are_converted(kind: str) -> None:
    mime = f"image/{kind.lower()}"
    _, images = shown([display(**{mime.replace("/", "_"): picture(30, 20, kind)})], budget_of())

    assert images[0].label == f"output 0 · image/png 30x20 (converted from {mime})"
    assert opened(images[0].data).format == "PNG"


def test_an_image_too_heavy_to_send_is_scaled_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_images, "MAX_SENT_BYTES", 20_000)
    noise = io.BytesIO()
    Image.effect_noise((300, 300), 100).save(noise, format="PNG")
    _, images = shown([display(image_png=noise.getvalue())], budget_of())

    assert len(images[0].data) <= 20_000
    assert "scaled from 300x300" in images[0].label


def test_images_over_the_budget_are_withheld_and_named_where_no_sheet_fits() -> None:
    budget = budget_of(images=1, pixels=200)
    views, images = shown([display(image_png=picture(8, 6)), display(image_png=picture(9, 7))], budget)

    assert len(images) == 1
    assert views[1].note is not None
    assert views[1].note.startswith("image/png 9x7, ")
    assert "withheld: the image budget of this reply is used up" in views[1].note
    assert "first_output=1" in views[1].note


@pytest.mark.case("N23")
@pytest.mark.parametrize(
    ("mime", "value", "reason"),
    [
        (
            "image/png",
            encoded(png_claiming(50_000, 50_000)),
            "image/png 50000x50000 withheld: more than 50 million pixels.",
        ),
        ("image/png", "!!! not base64 !!!", "image/png withheld: its data is not valid base64."),
        ("image/png", "iVBORé", "image/png withheld: its data is not valid base64."),
        ("image/png", encoded(b"<html>"), "image/png withheld: its data (6 B) has no valid image header."),
        ("image/png", encoded(b"\x89PNG\r\n\x1a\n"), "image/png withheld: its data (8 B) has no valid image header."),
        ("image/png", encoded(png_header(0, 5)), "image/png withheld: its data (33 B) has no valid image header."),
        ("image/png", encoded(png_claiming(0, 5)), "image/png withheld: its data (53 B) has no valid image header."),
        ("image/png", encoded(png_header(5, 5)), "image/png withheld: its data (33 B) has no valid image header."),
        (
            "image/jpeg",
            encoded(picture(100, 100, "JPEG")[:400]),
            "image/jpeg withheld: its data (400 B) has no valid image header.",
        ),
        (
            "image/webp",
            encoded(webp_claiming(8_000, 8_000)),
            "image/webp 8000x8000 withheld: more than 50 million pixels.",
        ),
        ("image/png", encoded(picture(3, 3, "JPEG")), "image/png withheld: its data is image/jpeg."),
        ("image/jpeg", encoded(picture(3, 3)), "image/jpeg withheld: its data is image/png."),
        ("image/png", {"not": "text"}, "image/png withheld: its data (0 B) has no valid image header."),
        ("image/png", "A" * 40_000_000, "image/png withheld: 30.0 MB is over the limit of 25.0 MB."),
    ],
    ids=[
        "bomb",
        "base64",
        "not-ascii",
        "html",
        "short",
        "zero",
        "zero-with-data",
        "header-alone",
        "part-of-a-header",
        "webp-bomb",
        "jpeg-as-png",
        "png-as-jpeg",
        "dict",
        "heavy",
    ],
)
def test_a_bad_image_is_withheld_with_the_reason(mime: str, value: object, reason: str) -> None:
    output = {"output_type": "display_data", "data": {mime: value, "text/plain": "<Figure size 1x1 with 0 Axes>"}}
    views, images = shown([output], budget := budget_of())

    assert images == []
    assert budget.pictures.left == 5
    assert views[0].note == reason


@pytest.mark.case("N23")
@pytest.mark.parametrize("data", [png_claiming(10, 10), picture(100, 100)[:-30], picture(100, 100, "JPEG")[:-30]])
def test_an_image_that_breaks_off_is_withheld(data: bytes) -> None:
    mime = "image_jpeg" if data[:1] == b"\xff" else "image_png"
    views, images = shown([display(**{mime: data})], budget_of())

    assert images == []
    assert views[0].note is not None
    assert "withheld: it cannot be decoded (" in views[0].note


@pytest.mark.case("N23")
def test_a_webp_of_the_largest_size_is_withheld() -> None:
    """Pillow itself may refuse it before it shows the size."""
    views, images = shown([display(image_webp=webp_claiming(16_384, 16_384))], budget_of())

    assert images == []
    assert views[0].note is not None
    assert "more than 50 million pixels" in views[0].note


@pytest.mark.case("N23")
def test_a_gif_whose_frame_is_larger_than_its_header_says_is_withheld() -> None:
    data = bytearray(picture(2, 2, "GIF"))
    frame = data.index(b"\x2c")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65_535, 65_535)
    views, images = shown([display(image_gif=bytes(data))], budget_of())

    assert images == []
    assert views[0].note is not None
    assert "withheld" in views[0].note


def traceback_of(frames: int) -> list[str]:
    header = ["-" * 75, "\x1b[31mValueError\x1b[0m    Traceback (most recent call last)"]
    bodies = [f"File /usr/lib/python3.11/lib{n}.py:{n}, in call\n      1 before\n----> 2 step{n}()" for n in range(frames)]
    return [*header, *bodies, "\x1b[31mValueError\x1b[0m: bad value"]


def failure(traceback: object, evalue: str = "bad value") -> dict[str, Any]:
    return {"output_type": "error", "ename": "ValueError", "evalue": evalue, "traceback": traceback}


def test_a_short_traceback_is_shown_whole_and_clean() -> None:
    error = show_error(failure(traceback_of(1)), budget_of())

    assert (error.ename, error.evalue) == ("ValueError", "bad value")
    assert error.traceback.splitlines()[0] == "ValueError    Traceback (most recent call last)"
    assert error.traceback.endswith("----> 2 step0()\nValueError: bad value")


def test_a_long_traceback_keeps_its_last_frames_and_the_message() -> None:
    whole = show_error(failure(traceback_of(50)), budget_of(error_chars=10**6)).traceback
    trimmed = show_error(failure(traceback_of(50)), budget_of(error_chars=200)).traceback
    first, _, rest = trimmed.partition("\n")

    assert rest.startswith("File /usr/lib/python3.11/lib")
    assert rest.endswith("step48()\nFile /usr/lib/python3.11/lib49.py:49, in call\n      1 before\n----> 2 step49()\nValueError: bad value")
    assert len(rest) <= 200
    assert first.startswith(f"… {len(whole) - len(rest)} characters (")


def test_a_trimmed_traceback_keeps_the_frames_of_own_code() -> None:
    library = [f"File /opt/venv/lib/python3.12/site-packages/pandas/f{n}.py:{n}, in get\n{'x' * 300}" for n in range(9)]
    own = ["Cell In[3], line 4\n----> 4 load('no')", "File ~/project/load.py:7, in load(name)\n----> 7 table[name]"]
    error = show_error(failure([*own, *library, "KeyError: 'no'"]), budget_of(error_chars=500))

    lines = error.traceback.splitlines()
    assert lines[:4] == [line for frame in own for line in frame.splitlines()]
    assert lines[4] == "… 2944 characters (16 lines) left out …"
    assert lines[5].startswith("File /opt/venv/lib/python3.12/site-packages/pandas/f8.py")
    assert lines[-1] == "KeyError: 'no'"


def test_own_frames_have_a_limit_and_repeated_ones_count_once() -> None:
    frames = [f"Cell In[3], line {n}\n{'x' * 190}" for n in range(100)]
    trimmed = show_error(failure([*frames, "E"]), budget_of(error_chars=500)).traceback
    repeated = show_error(failure([*[frames[0]] * 100, "E"]), budget_of(error_chars=500)).traceback

    assert trimmed.startswith("Cell In[3], line 0\n")
    assert len(trimmed) < 5 * 500 + 200
    assert repeated == f"{frames[0]}\n… this frame 100 times …\nE"


def test_an_interrupt_has_no_traceback() -> None:
    error = {**failure(traceback_of(3)), "ename": "KeyboardInterrupt", "evalue": ""}
    (view,), _ = shown([error], budget_of())

    assert show_error(error, budget_of()).traceback == ""
    assert (view.text, view.note) == ("KeyboardInterrupt", None)


def test_a_summary_does_not_cut_an_output_that_is_nearly_whole() -> None:
    whole, cut = summarise_outputs([stream("x" * 300), stream("y" * 301, "stderr")])

    assert (whole.text, whole.omitted_chars) == ("x" * 300, None)
    assert cut.omitted_chars == 101


def test_a_traceback_in_one_piece_keeps_its_last_lines() -> None:
    text = "\n".join(f"at line {n}" for n in range(100)) + "\nError: no"
    trimmed = show_error(failure(text), budget_of(error_chars=40)).traceback

    assert trimmed.endswith("at line 98\nat line 99\nError: no")
    assert len(trimmed.partition("\n")[2]) <= 40


def test_an_endless_message_leaves_room_for_the_frames() -> None:
    traceback = [*traceback_of(3)[:-1], "ValueError: " + "x" * 10_000_000]
    error = show_error(failure(traceback, "x" * 10_000_000), budget_of(error_chars=400))

    assert "step2()" in error.traceback
    assert len(error.traceback) < 600
    assert len(error.evalue) < 600


def test_a_brief_error_has_no_traceback() -> None:
    error = show_error(failure(traceback_of(3)), budget_of(brief=True))

    assert error.model_dump() == {"ename": "ValueError", "evalue": "bad value", "traceback": ""}


def test_an_error_is_named_even_when_the_text_budget_is_used_up() -> None:
    views, _ = shown([stream("x" * 20), failure(traceback_of(3))], budget_of(chars=10))

    assert views[1].text == "ValueError: bad value"
    assert views[1].omitted_chars
    assert views[1].note is not None
    assert "Traceback not shown" in views[1].note


def test_an_error_among_the_outputs_uses_the_text_budget() -> None:
    budget = budget_of(chars=500)
    views, _ = shown([failure(traceback_of(1))], budget)

    assert budget.chars == 500 - len(views[0].text or "")


@given(st.lists(st.text(max_size=30), max_size=6), st.integers(0, 60))
def test_a_trimmed_traceback_stays_within_its_limit(traceback: list[str], limit: int) -> None:
    whole = show_error(failure(traceback), budget_of(error_chars=10_000)).traceback
    trimmed = show_error(failure(traceback), budget_of(error_chars=limit)).traceback

    kept = "\n".join(line for line in trimmed.split("\n") if "left out …" not in line)
    assert len(kept) <= limit + 2  # the line ends around the marks
    assert whole == trimmed or len(whole) > limit


def test_where_no_room_is_left_for_a_traceback_the_message_stays() -> None:
    assert show_error(failure(["frame", "E: no"]), budget_of(error_chars=0)).traceback == ""
    for budget in (budget_of(chars=0), budget_of(error_chars=0), budget_of(brief=True)):
        (view,), _ = shown([failure(["frame", "E: no"])], budget)
        assert view.text
        assert "frame" not in view.text
        assert budget.chars in (0, 10_000 - len(view.text))


def test_a_summary_says_what_there_is_and_how_large() -> None:
    data = picture(640, 480) + bytes(20_000)
    outputs = [stream("x" * 1000), display(text_plain="<Figure size 1x1 with 0 Axes>", image_png=data), failure(["tb"])]
    views = summarise_outputs(outputs)

    assert (views[0].name, views[0].omitted_chars) == ("stdout", 800)
    assert views[0].text == f"{'x' * 134}\n… 800 characters (1 line) left out …\n{'x' * 66}"
    assert views[1].note == f"image/png 640x480, {round(len(data) / 1000)} kB"
    assert views[2].text == "ValueError: bad value"


def test_a_summary_of_a_large_image_reads_its_header_only() -> None:
    value = base64.b64encode(picture(640, 480) + bytes(3_000_000)).decode()
    views = summarise_outputs([{"output_type": "display_data", "data": {"image/png": value}}])

    assert views[0].note == "image/png 640x480, 3.0 MB"


keys = st.sampled_from(
    [
        "output_type",
        "name",
        "text",
        "data",
        "metadata",
        "ename",
        "evalue",
        "traceback",
        "text/plain",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "application/json",
        "text/html",
        "stream",
        "error",
        "display_data",
        "\x1b[31m",
        "\ud800",
    ]
)
images = st.sampled_from([picture(3, 2, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")])
broken_images = st.tuples(images, st.integers(0, 60), st.binary(max_size=8)).map(
    lambda parts: base64.b64encode(parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]).decode()
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    keys,
    st.binary(max_size=5),
    broken_images,
)
junk = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(keys, st.integers()), inner, max_size=5)
    ),
    max_leaves=20,
)
outputs_like = st.fixed_dictionaries(
    {},
    optional={
        "output_type": st.one_of(st.sampled_from(["stream", "error", "display_data", "execute_result"]), junk),
        "name": junk,
        "text": junk,
        "data": st.one_of(st.dictionaries(keys, st.one_of(broken_images, junk), max_size=4), junk),
        "ename": junk,
        "evalue": junk,
        "traceback": junk,
    },
)


@given(st.one_of(st.lists(st.one_of(outputs_like, junk), max_size=5), junk), st.integers(0, 100))
def test_junk_is_shown_without_raising(outputs: Any, chars: int) -> None:
    views, images = shown(outputs, budget_of(chars=chars))
    summary = summarise_outputs(outputs)

    for view in [*views, *summary]:
        assert "\x1b" not in view.model_dump_json()
    for image in images:
        opened(image.data).load()
    if isinstance(outputs, dict):
        show_error(outputs, budget_of())


@given(st.lists(st.one_of(outputs_like, junk), min_size=1, max_size=5), st.integers(0, 4))
def test_the_whole_of_junk_is_text_without_escapes_or_bytes(outputs: Any, index: int) -> None:
    for mime_type, content in whole_output(outputs, min(index, len(outputs) - 1)):
        assert mime_type == mime_type.strip()
        assert "\n" not in mime_type
        if isinstance(content, str):
            assert "\x1b" not in content


def test_the_whole_of_a_stream_comes_with_its_neighbours_and_of_a_bundle_in_every_form() -> None:
    plot = picture(3, 2)
    outputs: list[dict[str, Any]] = [
        stream(["a\n", "b\n"]),
        stream("c\n"),
        stream("other", "stderr"),
        failure(["frame", "E: no"]),
        display(text_plain="x\u200by", application_json={"k": [1]}, image_png=plot),
        display(image_png=png_claiming(7072, 7071)),
        display(image_png=png_claiming(7071, 7071)),
        display(image_jpeg=plot),
    ]

    assert whole_output(outputs, 0) == whole_output(outputs, 1) == [("text/plain", "a\nb\nc\n")]
    assert whole_output(outputs, 2) == [("text/plain", "other")]
    assert whole_output(outputs, 3) == [("text/plain", "frame\nE: no")]
    assert whole_output(outputs, 4) == [
        ("text/plain", "x⟨U+200B⟩y"),
        ("application/json", '{"k":[1]}'),
        ("image/png", plot),
    ]
    assert whole_output(outputs, 5)[0][0] == "application/octet-stream"  # over 50 million pixels
    assert whole_output(outputs, 6)[0][0] == "image/png"
    assert whole_output(outputs, 7) == [("application/octet-stream", plot)]  # a PNG that says it is a JPEG


def test_json_that_cannot_be_written_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    outputs = [
        {"output_type": "display_data", "data": {"application/json": value}}
        for value in (deep, 10**5000, {1j: 2}, {"a": {3}})
    ]
    views, _ = shown(outputs, budget_of())

    assert [view.text for view in views] == [None] * 4
    assert {view.note for view in views} == {"Not shown: application/json.", "Not shown: application/json, 0 B."}
