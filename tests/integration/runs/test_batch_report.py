"""The report of a batch: a page beside the outputs, and what a person sees of it in a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Connect, ConnectStdio
from helpers import REPOSITORY, Json, call, cell, images_of, text_of, write_notebook

from papermill_mcp.core.reports.page import is_sealed
from papermill_mcp.core.runs import typed_table
from papermill_mcp.services.runs.batch_report import BatchReports

pytestmark = pytest.mark.kernel

_PICTURE = """import base64, io
from PIL import Image
from IPython.display import display
buffer = io.BytesIO()
Image.new("RGB", (64, 48), (n * 60, 0, 200)).save(buffer, format="PNG")
display({"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "picture"}, raw=True)
display({"application/papermill.record+json": {"half": n / 2, "label": name}}, raw=True)"""

#: Texts that a page could take for something else.
_HOSTILE = [
    "<script>document.title='gone'</script>",
    "\"' onmouseover=document.title='gone' x=\"",
    "</script></style><img src=x onerror=\"document.title='gone'\">",
    "javascript:document.title='gone'",
]


def _cells(check: str = "assert n != 2, name") -> list[Json | str]:
    return [cell("n = 1\nname = 'x'", tags=["parameters"]), _PICTURE, check]


async def test_a_batch_has_a_report_that_is_never_written_over_the_work_of_others(
    client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "in.ipynb", _cells())
    request: Json = {"input_path": "in.ipynb", "output_directory": "out"}
    hostile = [{"n": n, "name": name} for n, name in enumerate(_HOSTILE)]
    async with asyncio.timeout(100), client() as c:
        first = text_of(await c.call_tool("execute_notebook_batch", {**request, "parameters": hostile, "wait": 60}))
        assert "report: out/report.html" in first.splitlines()
        page = (workspace / "out" / "report.html").read_text()
        assert is_sealed(page.encode())
        for name in _HOSTILE:
            assert name not in page
        assert page.count("<figure") == 4
        assert "4: 3 ok, 1 error" in page
        assert "Traceback of run 2, cell" in page
        assert re.search(r'<a href="\./\.\./in\.ipynb">', page)
        outputs = {path.name for path in (workspace / "out").glob("in-*.ipynb")}
        assert set(re.findall(r'<td dir="auto"><a href="\./([^"]*)"', page)) == outputs
        assert page.count("<script>") == 1
        # The same request runs the failed run again, and its report has all runs.
        await c.call_tool("execute_notebook_batch", {**request, "parameters": hostile, "wait": 60})
        again = (workspace / "out" / "report.html").read_text()
        assert "3 kept from an earlier batch" in again
        assert again.count("<figure") == 4
        mine = again.replace("<h1>", "<h1>My own: ")
        (workspace / "out" / "report.html").write_text(mine)
        third = text_of(await c.call_tool("execute_notebook_batch", {**request, "parameters": hostile[:2], "wait": 60}))
        assert "report: out/report-2.html" in third
        assert "report.html was changed by another program" in third
        assert (workspace / "out" / "report.html").read_text() == mine
        listed = await call(c, "list_executions", limit=1)
    async with client() as c:
        identifier = listed["executions"][0]["execution_id"]
        assert "report: out/report-2.html" in text_of(await c.call_tool("get_execution", {"execution_id": identifier}))


async def test_runs_stand_where_the_report_cannot_be_written(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["1"])
    directory = workspace / "outputs" / "in-batch"
    for name in ("report.html", *(f"report-{number}.html" for number in range(2, 101))):
        (directory / name).mkdir(parents=True)
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", wait=60)
    assert facts["status"] == "ok"
    assert "report" not in facts
    assert any(note.startswith("the report could not be written: ") for note in facts["notes"])


async def test_runs_stand_where_the_parquet_library_is_broken(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> bytes:
        raise ImportError("libarrow.so")

    monkeypatch.setattr(typed_table, "available", lambda: True)
    monkeypatch.setattr(typed_table, "as_parquet", broken)
    write_notebook(workspace / "in.ipynb", ["1"])
    async with client() as c:
        facts = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", wait=60)
    assert facts["status"] == "ok"
    assert facts["report"] == "outputs/in-batch/report.html"
    assert any("results.parquet could not be written" in note for note in facts["notes"])


async def test_the_end_of_the_server_does_not_wait_for_a_report(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs are over, and so is the batch. The same request writes the report."""
    begun = asyncio.Event()

    async def write(*_: Any) -> Path:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("it was not cancelled")

    write_notebook(workspace / "in.ipynb", ["1"])
    report = workspace / "outputs" / "in-batch" / "report.html"
    async with asyncio.timeout(60):
        with monkeypatch.context() as patch:
            patch.setattr(BatchReports, "write", write)
            async with client() as c:
                facts = await call(c, "execute_notebook_batch", input_path="in.ipynb", wait=0)
                await begun.wait()
                now = await call(c, "get_execution", execution_id=facts["execution_id"])
                assert now["status"] == "running"
                assert "writing the report" in now["progress"]
        async with client() as c:
            after = await call(c, "get_execution", execution_id=facts["execution_id"])
            assert (after["status"], after["runs_done"], after.get("report")) == ("ok", 1, None)
            assert not report.exists()
            again = await call(c, "execute_notebook_batch", seconds=60, input_path="in.ipynb", wait=60)
    assert again["runs"][0]["kept"] is True
    assert again["report"] == "outputs/in-batch/report.html"
    assert report.exists()


_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


class _Browser:
    """Opens pages and collects what they should not do."""

    def __init__(self, browser: Any, stack: AsyncExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.faults: list[str] = []
        self.requests: list[str] = []

    async def open(self, path: Path, **options: Any) -> Any:
        context = await self._browser.new_context(**options)
        self._stack.push_async_callback(context.close)
        page = await context.new_page()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        await page.goto(path.as_uri())
        return page


@pytest.mark.slow
@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.skipif(find_spec("playwright") is None, reason="there is no playwright")
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="there is no matplotlib")
async def test_a_person_reads_the_report_of_a_real_batch(
    stdio_client: ConnectStdio,
    workspace: Path,
    artifacts: Path,
    process_check: Callable[[], list[psutil.Process]],
) -> None:
    """Plots of the example notebook, over stdio; then the page in Chromium, and one with hostile texts."""
    shutil.copy(REPOSITORY / "examples" / "nile_flow.ipynb", workspace)
    shutil.copytree(REPOSITORY / "examples" / "data", workspace / "data")
    hostile = workspace / "hostile"
    hostile.mkdir()
    write_notebook(hostile / "in.ipynb", _cells("raise ValueError(name)"))
    years = [1969, 1890, 1975, 1898]
    async with asyncio.timeout(110):
        async with stdio_client() as c:
            reply = await c.call_tool(
                "execute_notebook_batch",
                {"input_path": "nile_flow.ipynb", "grid": {"break_year": years}, "output_directory": "out", "wait": 90},
            )
            await c.call_tool(
                "execute_notebook_batch",
                {
                    "input_path": "hostile/in.ipynb",
                    "parameters": [{"name": name} for name in _HOSTILE],
                    "output_directory": "hostile",
                    "wait": 60,
                },
            )
        (sheet,) = images_of(reply)
        assert len(sheet.data) > 20_000
        text = text_of(reply)
        assert "the last picture of 3 of 4 runs" in text
        assert "1975 | 2 | failed" in text
        await _read_in_a_browser(workspace / "out" / "report.html", hostile / "report.html", artifacts)
    assert not [process for process in process_check() if "chrom" in process.name()]


async def _read_in_a_browser(report: Path, hostile: Path, artifacts: Path) -> None:
    from playwright import async_api

    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_api.async_playwright())
        chromium = await playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        stack.push_async_callback(chromium.close)
        browser = _Browser(chromium, stack)

        page = await browser.open(report, viewport={"width": 1000, "height": 800})
        await page.screenshot(path=artifacts / "batch-report.png", full_page=True)
        column = page.locator("table.main tbody tr:visible td:nth-child(3)")
        assert await column.all_inner_texts() == ["1969", "1890", "1975", "1898"]
        heading = page.get_by_role("columnheader", name="break_year")
        await heading.get_by_role("button").click()
        assert await column.all_inner_texts() == ["1890", "1898", "1969", "1975"]
        assert await heading.get_attribute("aria-sort") == "ascending"
        await heading.get_by_role("button").press("Enter")
        assert await column.all_inner_texts() == ["1975", "1969", "1898", "1890"]
        await page.get_by_label("Filter").fill("OK -247.8")
        assert await column.all_inner_texts() == ["1898"]
        assert await page.get_by_role("status").inner_text() == "1 of 4 runs"
        assert await page.locator("figure:visible").count() == 1
        await page.get_by_label("Filter").fill("")
        await page.get_by_label("failed only").check()
        assert await column.all_inner_texts() == ["1975"]
        assert await page.locator("figure:visible").count() == 0
        await page.get_by_label("failed only").uncheck()
        wide = "[...document.images].every(image => image.complete && image.naturalWidth > 300)"
        assert await page.locator("img").count() == 3
        assert await page.evaluate(wide)

        # Without scripts it is complete, also on a narrow screen.
        plain = await browser.open(report, java_script_enabled=False, viewport={"width": 360, "height": 700})
        assert await plain.locator("table.main tbody tr:visible").count() == 4
        assert await plain.locator("img:visible").count() == 3
        assert await plain.locator("pre:visible").count() == 1
        assert await plain.locator("button, input").count() == 0
        dark = await browser.open(report, color_scheme="dark", viewport={"width": 360, "height": 700})
        assert await dark.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await dark.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"

        strange = await browser.open(hostile)
        await strange.evaluate(
            "document.querySelectorAll('*').forEach(e => e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})))"
        )
        assert await strange.title() == "Batch of in"
        assert await strange.locator("script").count() == 1
        assert await strange.locator("table.main tbody tr").count() == len(_HOSTILE)
        assert _HOSTILE[0] in await strange.locator("table.main").inner_text()
        # The policy of the page forbids code that gets into it all the same.
        await strange.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = `gone`'}))"
        )
        assert await strange.title() == "Batch of in"
        assert [fault for fault in browser.faults if "Content Security Policy" not in fault] == []
        assert len(browser.faults) == 1
        files = {report.as_uri(), hostile.as_uri()}
        assert {url for url in browser.requests if not url.startswith("data:")} == files
