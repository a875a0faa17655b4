"""Where notebooks are put: directories that are made for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ConnectStdio
from helpers import call, refused, write_notebook


@pytest.mark.kernel
async def test_missing_directories_are_made_for_every_file_that_is_written(
    stdio_client: ConnectStdio, workspace: Path
) -> None:
    write_notebook(workspace / "n.ipynb", ["1"])
    async with stdio_client() as client:
        await call(client, "create_notebook", path="a/b/new.ipynb")
        await call(client, "write_notebook", path="c/d/new.ipynb", content={"cells": []})
        await call(client, "execute_notebook_papermill", input_path="n.ipynb", output_path="e/f/out.ipynb")
        await call(client, "execute_notebook_batch", input_path="n.ipynb", output_directory="g/h")

    made = {path.parent.relative_to(workspace).as_posix() for path in workspace.rglob("*.ipynb")}
    assert made == {".", "a/b", "c/d", "e/f", "g/h"}


async def test_no_directory_is_made_outside_of_the_roots(stdio_client: ConnectStdio, workspace: Path) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    (workspace / "link").symlink_to(outside)
    (workspace / "gone").symlink_to("nowhere")
    write_notebook(workspace / "n.ipynb", ["1"])
    before = sorted(workspace.rglob("*"))
    async with stdio_client() as client:
        for directory in ("../outside/new", "link/new", str(outside / "new"), "gone", ".hidden/new", "n.ipynb/new"):
            path = f"{directory}/x.ipynb"
            for tool, arguments in (
                ("create_notebook", {"path": path}),
                ("execute_notebook_papermill", {"input_path": "n.ipynb", "output_path": path}),
                ("execute_notebook_batch", {"input_path": "n.ipynb", "output_directory": directory}),
            ):
                if (tool, directory) != ("execute_notebook_batch", "gone"):
                    message = await refused(client, tool, **arguments)
                    assert message.startswith(("PATH_NOT_ALLOWED: ", "NOT_FOUND: ")), message

    assert sorted(workspace.rglob("*")) == before
    assert not [*outside.iterdir()]
