"""Contact sheets and drawings in the replies of a server process."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ConnectStdio
from helpers import Json, cell, images_of, read_json, text_of, write_notebook
from mcp_types import CallToolResult
from PIL import Image

#: Twelve colours that a sheet shows apart.
COLOURS = [(250 - 90 * (n % 3), 70 * (n // 3 % 2) + 90, 30 + 200 * (n // 6)) for n in range(12)]

PLOT = (
    "import base64, io, zlib, struct\n"
    "from IPython.display import display, Image\n"
    "def chunk(kind, data):\n"
    "    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))\n"
    "def plot(red, green, blue):\n"
    "    rows = (b'\\0' + bytes([red, green, blue] * 300)) * 200\n"
    "    head = struct.pack('>IIBBBBB', 300, 200, 8, 2, 0, 0, 0)\n"
    "    parts = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')\n"
    "    display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + parts))\n"
)


def display(colour: tuple[int, int, int]) -> Json:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(buffer, format="PNG")
    data = {
        "image/png": base64.b64encode(buffer.getvalue()).decode(),
        "text/plain": "<Figure size 300x200 with 1 Axes>",
    }
    return {"output_type": "display_data", "data": data, "metadata": {}}


def plotted(number: int, *outputs: Json) -> Json:
    shown: Json = cell(f"plot({number})", cell_id=f"plot{number}")
    shown["outputs"] = list(outputs) or [display(COLOURS[number])]
    return shown


def sheet_of(result: CallToolResult) -> Image.Image:
    """The last image of a reply, which is a contact sheet by its label."""
    labels = [part.text for part in result.content if part.type == "text"]
    assert labels[-1].startswith("contact sheet · ")
    image = Image.open(io.BytesIO(base64.b64decode(images_of(result)[-1].data)))
    assert image.format == "PNG"
    assert f"image/png {image.width}x{image.height}" in labels[-1]
    return image.convert("RGB")


def colours_in(sheet: Image.Image) -> set[int]:
    """Numbers of the colours that have a tile of a picture's size."""
    counts = {colour: number for number, colour in sheet.getcolors(1 << 24) or ()}
    return {number for number, colour in enumerate(COLOURS) if counts.get(colour, 0) > 20_000}


async def call(client: Any, tool: str, **arguments: Any) -> CallToolResult:
    result: CallToolResult = await client.call_tool(tool, arguments, read_timeout_seconds=60)
    assert not result.is_error, text_of(result)
    return result


async def test_twelve_plots_are_four_images_and_a_sheet(stdio_client: ConnectStdio, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", list(map(plotted, range(12))))
    async with stdio_client() as client:
        result = await call(client, "read_notebook", path="a.ipynb", outputs="full")
        again = await call(client, "read_notebook", path="a.ipynb", cells="9", first_output=0)
    sheet = sheet_of(result)
    text = text_of(result)

    assert len(images_of(result)) == 5
    assert 480 <= max(sheet.size) <= 1568
    assert colours_in(sheet) == set(range(4, 12))
    assert text.count("Image attached: image/png 300x200.") == 4
    assert text.count("a tile of the contact sheet") == 8
    assert "8 pictures, each above its label" in text
    assert "cell 0 [plot0] · output 0 · image/png 300x200" in text
    assert result.structured_content is None
    (alone,) = images_of(again)
    assert Image.open(io.BytesIO(base64.b64decode(alone.data))).convert("RGB").getpixel((9, 9)) == COLOURS[9]


@pytest.mark.parametrize(("limit", "images"), [(0, 0), (1, 1), (3, 3), (12, 12)])
async def test_the_setting_counts_the_sheet(
    limit: int, images: int, stdio_client: ConnectStdio, workspace: Path
) -> None:
    write_notebook(workspace / "a.ipynb", list(map(plotted, range(12))))
    async with stdio_client("--max-images", str(limit)) as client:
        result = await call(client, "read_notebook", path="a.ipynb", outputs="full")

    assert len(images_of(result)) == images
    if limit in (1, 3):
        assert colours_in(sheet_of(result)) == set(range(limit - 1, 12))
    else:
        assert "contact sheet" not in text_of(result)


@pytest.mark.kernel
async def test_runs_and_edits_with_many_plots_have_a_sheet(stdio_client: ConnectStdio, workspace: Path) -> None:
    cells = [cell(f"plot{colour}", cell_id=f"plot{number}") for number, colour in enumerate(COLOURS)]
    write_notebook(workspace / "a.ipynb", [cell(PLOT, cell_id="setup"), *cells])
    eight = "\n".join(f"plot{colour}" for colour in COLOURS[:8])
    async with stdio_client() as client:
        run = await call(client, "execute_notebook", path="a.ipynb")
        run_id = re.search(r"- ([0-9a-f]{24})", text_of(await call(client, "list_executions")))
        assert run_id
        replies = {
            "run": run,
            "look": await call(client, "get_execution", execution_id=run_id[1]),
            "papermill": await call(
                client, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb"
            ),
        }
        for result in replies.values():
            assert len(images_of(result)) == 5
            assert colours_in(sheet_of(result)) == set(range(4, 12))
            assert "a tile of the contact sheet" in text_of(result)
            assert "cell 1 [plot0] · output 0" in text_of(result)
        one_cell = {
            "add": await call(client, "add_cell", path="a.ipynb", source=eight, run=True),
            "cell": await call(client, "execute_notebook_cell", path="a.ipynb", index=-1),
            "update": await call(client, "update_cell", path="a.ipynb", index=-1, source=eight + "\n", run=True),
        }
        for result in one_cell.values():
            assert len(images_of(result)) == 5
            assert colours_in(sheet_of(result)) == set(range(4, 8))
    assert len(read_json(workspace / "a.ipynb")["cells"][-1]["outputs"]) == 8


async def test_drawings_are_pictures_and_keep_their_text(stdio_client: ConnectStdio, workspace: Path) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200"><text y="99">loss 0.2</text>{}</svg>'
    outputs = [
        {
            "output_type": "display_data",
            "data": {"image/svg+xml": svg.format(f'<rect x="{n}" width="99" height="60"/>')},
            "metadata": {},
        }
        for n in range(7)
    ]
    write_notebook(workspace / "a.ipynb", [plotted(0, *outputs)])
    async with stdio_client() as client:
        result = await call(client, "read_notebook", path="a.ipynb", outputs="full")
    text = text_of(result)

    assert len(images_of(result)) == 5
    assert text.count("loss 0.2") == 7
    assert "Image attached: image/png 600x400 (drawn from image/svg+xml)." in text
    assert "image/svg+xml: a tile of the contact sheet" in text
    assert sum(sheet_of(result).convert("L").histogram()[:50]) > 3 * 60 * 99
