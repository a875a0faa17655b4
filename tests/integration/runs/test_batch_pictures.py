"""The pictures of a batch: one contact sheet with the last plot of each run, shown once."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import pytest
from conftest import Connect, MakeConfig
from helpers import call, cell, images_of, text_of, write_notebook
from PIL import Image

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.snapshot import RowState
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.runs import run_pictures
from papermill_mcp.services.runs.run_pictures import RunPictures
from papermill_mcp.services.workspace import Workspace

#: A picture of one colour, without the seconds that a plotting library takes.
_PICTURE = """import base64, io
from PIL import Image
from IPython.display import display
buffer = io.BytesIO()
Image.new("RGB", (64, 48), (200, 0, 0) if n == 1 else (0, 0, 200)).save(buffer, format="PNG")
display({"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "picture"}, raw=True)"""


def _colours(data: str) -> set[tuple[int, int, int]]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as sheet:
        pixels = sheet.convert("RGB")
        found = pixels.getcolors(sheet.width * sheet.height) or []
    return {colour for count, colour in found if count > 1000}  # type: ignore[misc]


@pytest.mark.kernel
async def test_a_batch_shows_the_last_picture_of_each_run_once(client: Connect, workspace: Path) -> None:
    write_notebook(
        workspace / "in.ipynb",
        [cell("n = 0", tags=["parameters"]), _PICTURE, "assert n != 1, 'one'", "print('the end')"],
    )
    arguments = {"input_path": "in.ipynb", "grid": {"n": [0, 1, 2]}, "wait": 60}
    async with asyncio.timeout(90), client() as c:
        reply = await c.call_tool("execute_notebook_batch", arguments)
        (image,) = images_of(reply)
        assert _colours(image.data) >= {(200, 0, 0), (0, 0, 200)}
        text = text_of(reply)
        assert "contact sheet · the last picture of 3 of 3 runs" in text
        identifier = next(line for line in text.splitlines() if line.startswith("execution_id")).split(": ")[1]

        async def look(**more: object) -> list[str]:
            again = await c.call_tool("get_execution", {"execution_id": identifier, **more})
            return [image.data for image in images_of(again)]

        assert len(await look()) == 1
        assert await look(since="3.1.0") == [], "this state was seen"
        assert len(await look(since="3.0.0")) == 1, "its end was not seen"
        (failed,) = await look(runs="failed")
        assert (0, 0, 200) not in _colours(failed)
        rows = await call(c, "get_execution", execution_id=identifier, since="3.1.0")
        assert rows["cursor"] == "3.1.0"
    # The next server reads them from the outputs that the table names.
    (workspace / "outputs" / "in-batch" / next((workspace / "outputs" / "in-batch").glob("*.ipynb")).name).unlink()
    async with asyncio.timeout(60), client() as c:
        reply = await c.call_tool("get_execution", {"execution_id": identifier})
        assert len(images_of(reply)) == 1
        assert "1 have no output any more" in text_of(reply)
        assert len((await c.call_tool("get_execution", {"execution_id": identifier, "runs": "0-1"})).content) > 1
        assert images_of(await c.call_tool("get_execution", {"execution_id": identifier, "since": "3.1.0"})) == []


def _row(number: int, output: Path, *, failed: bool = False) -> RowState:
    return RowState(
        number=number,
        status=RunStatus.ERROR if failed else RunStatus.OK,
        kernel_name="python3",
        parameters={"n": number},
        file=output.parent / "in.ipynb",
        output_file=output,
        failed=failed,
    )


@pytest.fixture
def pictures(config: MakeConfig, workspace: Path, state_directory: Path) -> RunPictures:
    settings = config()
    return RunPictures(settings, NotebookService(settings, Workspace([workspace]), state_directory))


def _output(path: Path, colour: str | None) -> Path:
    outputs = []
    if colour is not None:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), colour).save(buffer, format="PNG")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return write_notebook(path, [cell("1") | {"outputs": outputs}])


async def test_failed_runs_come_first_and_what_is_missing_is_said(
    pictures: RunPictures, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    red, blue, none = (_output(workspace / f"{colour}.ipynb", colour) for colour in ("red", "blue", None))
    large = _output(workspace / "large.ipynb", "blue")
    large.write_text(large.read_text() + " " * 30_000)
    monkeypatch.setattr(run_pictures, "MAX_OUTPUT_BYTES", 20_000)
    outside = _output(workspace.parent / "outside.ipynb", "blue")
    rows = [_row(number, blue) for number in range(300)]
    for number in (7, 250):
        rows[number] = _row(number, red, failed=True)
    rows[9] = _row(9, none, failed=True)
    rows[0] = _row(0, large)
    rows[299] = _row(299, outside)
    image, note = await pictures.sheet(rows)
    assert image is not None
    with Image.open(io.BytesIO(image.data)) as sheet:
        first_tile = sheet.convert("RGB").crop((10, 10, sheet.width // 7 - 10, sheet.height // 7 - 60))
        assert (255, 0, 0) in {colour for _, colour in first_tile.getcolors(100_000) or []}
    assert image.label.startswith("contact sheet · the last picture of 46 of 300 runs")
    assert note == (
        "of the runs without a picture here, 1 have no picture, 1 have an output over 20 kB, "
        "1 have an output that cannot be read, 251 have no room"
    )


async def test_runs_without_pictures_have_no_sheet(
    pictures: RunPictures, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _output(workspace / "plain.ipynb", None)
    blue = _output(workspace / "blue.ipynb", "blue")
    assert await pictures.sheet([_row(n, plain) for n in range(3)]) == (None, None)
    assert await pictures.sheet([]) == (None, None)
    monkeypatch.setattr(run_pictures, "_SECONDS", -1.0)
    assert await pictures.sheet([_row(n, blue) for n in range(3)]) == (None, None)


async def test_a_client_without_images_gets_no_sheet(
    config: MakeConfig, workspace: Path, state_directory: Path
) -> None:
    settings = config(max_images=0)
    pictures = RunPictures(settings, NotebookService(settings, Workspace([workspace]), state_directory))
    assert await pictures.sheet([_row(0, _output(workspace / "blue.ipynb", "blue"))]) == (None, None)
