"""What a person sees: a notebook that was run here, opened in JupyterLab with a real browser."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Connect
from helpers import Lab, call, cell, text_of, write_notebook

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium"),
    *(
        pytest.mark.skipif(find_spec(name) is None, reason=f"there is no {name}")
        for name in ("jupyterlab", "matplotlib", "playwright")
    ),
]

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_PLOT = """import matplotlib.pyplot as plt
years = list(range(first, 1971))
plt.figure(figsize=(6, 3))
plt.plot(years, [(year * 37) % 101 for year in years])
plt.title("From the run")
plt.show()"""


@asynccontextmanager
async def browser_page() -> AsyncIterator[Any]:
    """A page in a headless Chromium."""
    from playwright import async_api  # it takes more than a second, which most runs of the tests need not spend

    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        try:
            yield await browser.new_page(viewport={"width": 1280, "height": 900})
        finally:
            await browser.close()


async def test_a_person_sees_the_run_in_jupyterlab_and_is_told_of_later_changes(
    client: Connect,
    workspace: Path,
    artifacts: Path,
    process_check: Callable[[], list[psutil.Process]],
) -> None:
    write_notebook(
        workspace / "nile.ipynb",
        [
            cell("# The level of the Nile", "markdown"),
            cell("first = 1871", tags=["parameters"]),
            cell("print(f'begins in {first}')"),
            cell(_PLOT),
        ],
    )
    async with asyncio.timeout(100), client() as connected:
        run = await connected.call_tool(
            "execute_notebook_papermill",
            {"input_path": "nile.ipynb", "output_path": "run.ipynb", "parameters": {"first": 1900}},
        )
        assert "status: ok" in text_of(run)
        lab = Lab.of(await call(connected, "start_jupyter_server", seconds=60))

        async with browser_page() as page:
            await page.goto(lab.page.as_uri())  # as token_hint says
            await page.wait_for_url(f"http://127.0.0.1:{lab.port}/lab**")
            await page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/run.ipynb")
            notebook = page.locator(".jp-NotebookPanel")
            await notebook.get_by_text("begins in 1900").wait_for(timeout=60_000)
            plot = notebook.locator(".jp-OutputArea-output img")
            await plot.wait_for()
            assert await plot.evaluate("image => image.complete && image.naturalWidth > 300")
            assert await notebook.get_by_text("Parameters", exact=False).count() >= 1
            await page.screenshot(path=artifacts / "jupyterlab-run.png")
            assert lab.token not in page.url

            # The notebook is changed here while it is open there, and then saved there.
            changed = await call(connected, "add_cell", path="run.ipynb", cell_type="markdown", source="Written here")
            last = notebook.locator(".jp-CodeCell .cm-content").last
            await last.click()
            await page.keyboard.type("# typed in the browser\n")
            await page.keyboard.press("Control+s")
            dialog = page.locator(".jp-Dialog").filter(has_text="changed on disk")
            await dialog.wait_for()
            await page.screenshot(path=artifacts / "jupyterlab-changed-on-disk.png")
            now = await call(connected, "read_notebook", path="run.ipynb", outputs="none")
            assert now["revision"] == changed["revision"], "it was saved over the change"

        await call(connected, "stop_jupyter_server")
        assert not [process for process in process_check() if "chrom" in process.name()]
