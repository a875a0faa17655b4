"""SVG and charts as pictures: those of real libraries, and hostile ones."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import shown
from PIL import Image

from papermill_mcp.core.pictures import drawing
from papermill_mcp.core.pictures.drawing import Drawer, DrawingError
from papermill_mcp.services.outputs import OutputBudget

BUNDLES = Path(__file__).parents[2] / "mimebundles"
SVG = "image/svg+xml"
VEGA_LITE = "application/vnd.vegalite.v5+json"
VEGA = "application/vnd.vega.v5+json"
BLACK = (0, 0, 0, 255)


@pytest.fixture
def drawer() -> Iterator[Drawer]:
    drawer = Drawer(seconds=10, total_seconds=60)
    yield drawer
    drawer.close()


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a server to which nothing may connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        with pytest.raises(BlockingIOError):
            server.accept()


def budget() -> OutputBudget:
    return OutputBudget(chars=10_000, images=5, image_pixels=1568, error_chars=1000, error_type="full")


def svg(body: str, attributes: str = 'width="100" height="80"', before: str = "") -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{before}<svg {names} {attributes}>{body}</svg>"


def chart(data: Any, **more: Any) -> dict[str, Any]:
    encoding = {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}}
    return {"data": data, "mark": "bar", "encoding": encoding, **more}


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image.convert("RGBA")


def ink(image: Image.Image) -> int:
    """How many pixels are dark."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return sum(white.convert("L").histogram()[:128])


def bundle(name: str, pattern: str) -> dict[str, Any]:
    data: dict[str, Any]
    for data in json.loads((BUNDLES / f"{name}.json").read_text(encoding="utf-8")):
        if any(pattern in mime for mime in data):
            return {mime: value for mime, value in data.items() if not mime.startswith("image/png")}
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "form"),
    [("matplotlib_svg", "svg"), ("graphviz_graph", "svg"), ("altair_bars", "vegalite"), ("altair_layers", "vegalite")],
)
def test_the_drawings_of_real_libraries_are_shown(name: str, form: str) -> None:
    data = bundle(name, form)
    (view,), (image,) = shown([{"output_type": "display_data", "data": data}], budget())

    assert image.mime_type == "image/png"
    assert ink(opened(image.data)) > 300
    assert max(opened(image.data).size) >= 200
    assert (view.note or "").startswith("Image attached: image/png ")
    assert f"drawn from {next(mime for mime in data if form in mime)}" in image.label


@pytest.mark.parametrize("name", ["graphviz_graph", "altair_bars"])
def test_without_the_extra_a_drawing_is_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [{"output_type": "display_data", "data": bundle(name, "v")}]
    (with_picture,), _ = shown(outputs, budget())
    monkeypatch.setattr(drawing, "_LIBRARY", "no_such_library")
    (view,), images = shown(outputs, budget())

    assert images == []
    assert (view.text, view.note) == (with_picture.text, None)
    assert view.text


def test_vega_is_drawn(drawer: Drawer) -> None:
    mark = {"type": "rect", "encode": {"enter": {"x": {"value": 0}, "y": {"value": 0}, "width": {"value": 50},
            "height": {"value": 40}, "fill": {"value": "black"}}}}
    assert ink(opened(drawer.png(VEGA, {"width": 100, "height": 80, "marks": [mark]}, 1000))) > 1000


@pytest.mark.parametrize(
    "attributes",
    [
        'font-family="Times,serif"',
        "font-family='No Such'",
        'style="font-family: Nope"',
        "style=\"font: 20px 'DejaVu Sans', sans-serif\"",
        'style="font-family: &quot;Nope&quot;, Nope2; fill: black"',
        "",
    ],
)
def test_text_is_there_whatever_its_font(attributes: str, drawer: Drawer) -> None:
    assert ink(opened(drawer.png(SVG, svg(f'<text y="50" {attributes}>Hello</text>'), 1000))) > 100


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="1000" height="500"', (1000, 500)),
        ('width="4000" height="2000"', (1000, 500)),
        ('width="1e9" height="1e9"', (1000, 1000)),
        ('width="2000in" height="1000in"', (1000, 500)),
        ('viewBox="0 0 3000 1500"', (1000, 500)),
        ('width="100%" height="100%" viewBox="0,0,3000,1500"', (1000, 500)),
        ('width="300pt" height="150pt"', (800, 400)),
        ('width="100" height="50"', (200, 100)),
    ],
)
def test_a_drawing_has_a_size_that_can_be_read_and_sent(
    attributes: str, size: tuple[int, int], drawer: Drawer
) -> None:
    found = opened(drawer.png(SVG, svg('<rect width="9" height="9"/>', attributes), 1000)).size

    assert found == pytest.approx(size, abs=2)


def references(target: str) -> list[tuple[str, Any]]:
    """Drawings that show a black square only if `target` is read."""
    square = 'width="50" height="50"'
    data = {"values": [{"a": 1, "b": 2}]}
    image = {"type": "image", "url": target, "width": 50, "height": 50}
    field = {"values": [{"u": target}]}
    return [
        (SVG, svg(f'<image href="{target}" {square}/>')),
        (SVG, svg(f'<image xlink:href="{target}" {square}/>')),
        (SVG, svg(f'<use href="{target}#a"/>')),
        (SVG, svg(f'<style>@import url("{target}");</style>')),
        (SVG, svg(f'<rect {square} fill="white" style="mask: url({target}); filter: url({target}#f)"/>')),
        (SVG, svg("<text>&a;</text>", before=f'<!DOCTYPE svg [<!ENTITY a SYSTEM "{target}">]>')),
        (SVG, svg("", before=f'<?xml-stylesheet href="{target}"?><!DOCTYPE svg SYSTEM "{target}">')),
        (VEGA_LITE, chart({"url": target})),
        (VEGA_LITE, chart(data, mark=image)),
        (VEGA_LITE, {"data": field, "mark": {"type": "image", "width": 50, "height": 50},
                     "encoding": {"url": {"field": "u", "type": "nominal"}}}),
        (VEGA_LITE, chart(data, transform=[{"lookup": "a", "from": {"data": {"url": target}, "key": "a"}}])),
        (VEGA, {"width": 9, "height": 9, "data": [{"name": "d", "url": target}]}),
        (VEGA, {"width": 9, "height": 9, "signals": [{"name": "s", "update": f"open('{target}')"}],
                "data": [{"name": "d", "url": {"signal": f"'{target}'"}}]}),
    ]


def black_pixels(mime: str, value: Any, drawer: Drawer) -> int:
    try:
        image = opened(drawer.png(mime, value, 1000))
    except DrawingError:
        return 0
    return sum(number for number, colour in image.getcolors(1 << 24) or () if colour == BLACK)


@pytest.mark.case("N21")
@pytest.mark.parametrize("number", range(13))
def test_a_drawing_fetches_nothing_and_reads_no_file(
    number: int, address: str, tmp_path: Path, drawer: Drawer
) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (50, 50), "black").save(black)

    for target in (address, str(black), black.as_uri(), "/etc/passwd"):
        mime, value = references(target)[number]
        assert black_pixels(mime, value, drawer) < 50


def test_a_picture_within_a_drawing_is_shown(drawer: Drawer) -> None:
    """The check above can fail: the same square is black where the drawing brings it along."""
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50), "black").save(buffer, format="PNG")
    target = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    assert black_pixels(*references(target)[0], drawer) > 2000
    assert black_pixels(*references(target)[8], drawer) > 2000


def _entities() -> str:
    def reference(level: int) -> str:
        return f"&a{level};"

    names = ['<!ENTITY a0 "aaaaaaaaaa">']
    names += [f'<!ENTITY a{level} "{10 * reference(level - 1)}">' for level in range(1, 10)]
    return svg("<text>&a9;</text>", before="<!DOCTYPE svg [" + "".join(names) + "]>")


def _deep() -> dict[str, Any]:
    chart: dict[str, Any] = {}
    for _ in range(100_000):
        chart = {"layer": [chart]}
    return chart


def _uses() -> str:
    groups = ['<rect id="u0" width="1" height="1"/>']
    for level in range(1, 10):
        use = f'<use href="#u{level - 1}"/>'
        groups.append(f'<g id="u{level}">{use * 10}</g>')
    return svg("<defs>" + "".join(groups) + '</defs><use href="#u9"/>')


BOMBS: dict[str, tuple[str, Any]] = {
    "entities": (SVG, _entities()),
    "uses": (SVG, _uses()),
    "depth": (SVG, svg("<g>" * 200_000 + "</g>" * 200_000)),
    "a false size": (SVG, '<!-- <svg width="1" height="1"> -->' + svg("", 'width="200000" height="200000"')),
    "a filter": (
        SVG,
        svg('<filter id="f"><feGaussianBlur stdDeviation="900"/></filter>'
            + '<rect filter="url(#f)" width="9000" height="9000"/>' * 300),
    ),
    "rows without end": (VEGA_LITE, chart({"sequence": {"start": 0, "stop": 10**12, "as": "a"}})),
    "many rows": (VEGA_LITE, chart({"sequence": {"start": 0, "stop": 10**8, "as": "a"}})),
    "no drawing": (SVG, "hello"),
    "an odd value": (SVG, {"a": [1]}),
    "no chart": (VEGA_LITE, [1, 2]),
    "a deep chart": (VEGA_LITE, json.loads("[" * 500 + "]" * 500)),
    "a chart of great depth": (VEGA_LITE, _deep()),
    "a bad length": (SVG, svg("", 'width="9" height="1e9"')),
    "a lone surrogate": (VEGA_LITE, "\ud800"),
}


@pytest.mark.case("N23")
@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_drawing_takes_a_bounded_time_and_spoils_nothing(name: str) -> None:
    drawer = Drawer(seconds=4, total_seconds=60)
    try:
        started = time.monotonic()
        try:
            assert max(opened(drawer.png(*BOMBS[name], 500)).size) <= 500
        except DrawingError:
            pass
        assert time.monotonic() - started < 20  # some of it is the start of the process, on a busy machine

        assert ink(opened(drawer.png(SVG, svg('<rect width="50" height="50"/>'), 500))) > 1000
    finally:
        drawer.close()


def test_time_for_all_drawings_of_a_reply_is_limited() -> None:
    drawer = Drawer(total_seconds=0.05)
    try:
        for _ in range(2):
            with pytest.raises(DrawingError):
                drawer.png(*BOMBS["a filter"], 500)
        with pytest.raises(DrawingError, match="is over"):
            drawer.png(SVG, svg(""), 500)
    finally:
        drawer.close()


def test_closing_ends_the_process_and_lets_others_draw() -> None:
    for _ in range(4):  # more than may draw at a time
        drawer = Drawer()
        drawer.png(SVG, svg(""), 100)
        process = drawer._process
        assert process is not None
        drawer.close()
        drawer.close()
        assert process.returncode is not None


def test_a_worker_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """Killed while it waits for the worker, the parent can end nothing any more."""
    code = (
        "import sys, os, threading\n"
        "from papermill_mcp.core.pictures.drawing import Drawer\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "drawer = Drawer(seconds=3)\n"
        "def tell():\n"
        "    while drawer._process is None: pass\n"
        "    print(drawer._process.pid, flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        f"drawer.png({SVG!r}, sys.stdin.read(), 500)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(BOMBS["a filter"][1].encode())
        parent.stdin.close()
        worker = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)

    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()
