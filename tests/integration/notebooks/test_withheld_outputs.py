"""Outputs that a reply has no room for are one call away, and the reply names that call."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from conftest import Connect
from helpers import Json, call, cell, images_of, refused, text_of, write_notebook
from PIL import Image


def picture(shade: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, shade, 255)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def plots(number: int) -> Json:
    made = cell("plots()")
    made["outputs"] = [
        {"output_type": "display_data", "data": {"image/png": picture(3 * shade)}, "metadata": {}}
        for shade in range(number)
    ]
    return made


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("number", [8, 12, 70])
async def test_every_picture_of_a_cell_can_be_seen(client: Connect, workspace: Path, number: int, limit: int) -> None:
    """Each reply but the last names one call. Contact sheets do not count."""
    write_notebook(workspace / "a.ipynb", ["1", plots(number)])
    seen = []
    arguments: Json = {"path": "a.ipynb", "cells": "1", "outputs": "full"}
    async with client(max_images=limit) as c:
        while True:
            reply = await c.call_tool("read_notebook", arguments)
            images = images_of(reply)
            assert len(images) <= limit
            seen += [image.data for image in (images[:-1] if "contact sheet · " in text_of(reply) else images)]
            ways = re.findall(r"first_output=(\d+)", text_of(reply))
            assert len(ways) <= 1
            if not ways:
                break
            arguments = {"path": "a.ipynb", "cells": "1", "first_output": int(ways[0])}
    assert len(seen) == len(set(seen)) == number


async def test_first_output_is_for_one_cell(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [plots(2), plots(2)])
    async with client() as c:
        several = await refused(c, "read_notebook", path="a.ipynb", first_output=1)
        beyond = await call(c, "read_notebook", path="a.ipynb", cells="0", first_output=7)
    assert several.startswith("INVALID_ARGUMENT")
    assert "2 cells would be shown" in several
    assert beyond["cells"][0].get("outputs") is None
