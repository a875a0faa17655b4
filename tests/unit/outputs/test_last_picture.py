"""The last picture of a notebook, and its small forms."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.pictures.drawing import Drawer
from papermill_mcp.core.pictures.images import WithheldError
from papermill_mcp.core.pictures.last_picture import as_display, for_page, last_display


def _png(colour: str, size: tuple[int, int] = (40, 30)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _shown(data: object) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": data}


def _document(*cells: list[dict[str, Any]]) -> NotebookDocument:
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {"cell_type": "code", "id": str(n), "metadata": {}, "source": "", "execution_count": 1, "outputs": outputs}
            for n, outputs in enumerate(cells)
        ],
    }
    return NotebookDocument.parse(json.dumps(notebook).encode(), display_path="n.ipynb")


def test_it_is_the_last_one_that_can_be_shown() -> None:
    first, second = _shown({"image/png": _png("red")}), _shown({"text/plain": "x", "image/png": _png("blue")})
    text, stream = _shown({"text/html": "<b>"}), {"output_type": "stream", "name": "stdout", "text": "image/png"}
    broken: list[dict[str, Any]] = [_shown(None), _shown(["image/png"]), {"output_type": "display_data"}]
    assert last_display(_document([first], [second, text], [stream, *broken], [])) == second["data"]
    assert last_display(_document([text], [stream])) is None
    assert last_display(_document()) is None


@pytest.mark.parametrize("size", [(4000, 1000), (1000, 4000), (30, 20)])
def test_small_forms_keep_within_their_side(size: tuple[int, int]) -> None:
    display = {"image/png": _png("green", size)}
    drawer = Drawer()
    again = as_display(display, 640, drawer)
    with Image.open(io.BytesIO(base64.b64decode(again["image/png"]))) as tile:
        assert max(tile.size) == min(640, max(size))
    page = for_page(display, 480, drawer)
    with Image.open(io.BytesIO(page.data)) as picture:
        assert (picture.width, picture.height) == (page.width, page.height)
        assert max(picture.size) == min(480, max(size))
        red, green, blue = picture.convert("RGB").getpixel((3, 3))  # type: ignore[misc]
        assert abs(green - 128) < 8 and red < 8 and blue < 8


def test_a_photograph_is_smaller_as_a_jpeg() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((900, 700), 90) for _ in range(3)])
    buffer = io.BytesIO()
    noise.save(buffer, format="PNG")
    page = for_page({"image/png": base64.b64encode(buffer.getvalue()).decode()}, 480, Drawer())
    assert page.mime_type == "image/jpeg"
    assert page.data[:2] == b"\xff\xd8"


def test_a_broken_picture_is_said() -> None:
    with pytest.raises(WithheldError):
        for_page({"image/png": "AAAA"}, 480, Drawer())
