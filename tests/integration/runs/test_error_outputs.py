"""Errors that a cell shows without raising: every tool shows them, and they make the run an error, as in papermill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from by_papermill import all_by_papermill
from conftest import Connect
from helpers import Json, call, cell, read_json, text_of, write_notebook

pytestmark = pytest.mark.kernel

_SHOWN = "try:\n    1/0\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()"

#: Code by name. IPython replies `ok` to each of them.
_SOFT = {
    "script": "%run failing.py",
    "script that exits": "%run leaving.py",
    "traceback": _SHOWN,
    "nested cell": "get_ipython().run_cell('1/0')",
    "syntax": "get_ipython().run_cell('def')",
    "quiet": "get_ipython().showtraceback((ValueError, ValueError('by hand'), None))",
    "message": (
        "get_ipython().kernel.send_response(get_ipython().kernel.iopub_socket, 'error', "
        "{'ename': 'Own', 'evalue': 'by message', 'traceback': []})"
    ),
    "two": _SHOWN + "\nget_ipython().showtraceback((ValueError, ValueError('by hand'), None))",
}

#: Code that ends well, though an error was on its way.
_GOOD = {
    "clean exit": "%run done.py",
    "cleared": _SHOWN + "\nfrom IPython.display import clear_output\nclear_output()",
    "printed": "import traceback\ntry:\n    1/0\nexcept ZeroDivisionError:\n    traceback.print_exc()",
}


def _scripts(workspace: Path) -> None:
    (workspace / "failing.py").write_text("print('start')\nraise ValueError('the script failed')\n")
    (workspace / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    (workspace / "done.py").write_text("import sys\nsys.exit(0)\n")


def _markers(notebook: Json) -> list[int]:
    tagged = [entry["metadata"].get("tags", []) for entry in notebook["cells"]]
    return [number for number, tags in enumerate(tagged) if "papermill-error-cell-tag" in tags]


@pytest.mark.case("R05")
@pytest.mark.slow
async def test_the_verdict_of_a_run_is_that_of_papermill(client: Connect, workspace: Path) -> None:
    """Verdict, error markers and statuses of cells agree, for code that IPython calls `ok`."""
    _scripts(workspace)
    names = []
    for number, code in enumerate([*_SOFT.values(), *_GOOD.values()]):
        names.append(f"{number}.ipynb")
        write_notebook(workspace / names[-1], ["print('before')", code, "print('after')"])
    jobs = [(workspace / name, workspace / f"papermill-{name}") for name in names]
    verdicts = await all_by_papermill(jobs, kernel_name="python3")
    assert verdicts == ["error"] * len(_SOFT) + ["ok"] * len(_GOOD)

    async with client() as connected:
        for name, verdict in zip(names, verdicts, strict=True):
            facts = await call(
                connected, "execute_notebook_papermill", input_path=name, output_path=f"ours-{name}", seconds=60
            )
            ours, theirs = read_json(workspace / f"ours-{name}"), read_json(workspace / f"papermill-{name}")
            assert facts["status"] == verdict, name
            assert _markers(ours) == _markers(theirs), name
            for mine, other in zip(ours["cells"], theirs["cells"], strict=True):
                of_mine, of_other = (entry["metadata"].get("papermill", {}) for entry in (mine, other))
                assert (of_mine.get("status"), of_mine.get("exception")) == (
                    of_other.get("status"),
                    of_other.get("exception"),
                ), name
            assert "after" in json.dumps(ours), name
            info = await call(connected, "get_notebook_info", path=f"ours-{name}")
            assert info["papermill"]["status"] == {"ok": "completed", "error": "failed"}[facts["status"]], name


@pytest.mark.case("R05")
@pytest.mark.parametrize("name", ["script", "two"])
async def test_every_tool_shows_an_error_output_and_counts_it(name: str, client: Connect, workspace: Path) -> None:
    _scripts(workspace)
    message = {"script": "the script failed", "two": "by hand"}[name]
    first = {"script": "start", "two": "ZeroDivisionError"}[name]
    write_notebook(workspace / "a.ipynb", [_SOFT[name], "print('next')"])
    async with client() as connected:
        kernel = await call(connected, "start_kernel")
        ran = await connected.call_tool("execute_cell", {"kernel_id": kernel["kernel_id"], "code": _SOFT[name]})
        in_place = await call(connected, "execute_notebook", path="a.ipynb")
        one = await call(connected, "execute_notebook_cell", path="a.ipynb", index=0)
        batch = await call(connected, "execute_notebook_batch", input_path="a.ipynb", parameters=[{}], seconds=60)
        again = await call(connected, "execute_notebook_batch", input_path="a.ipynb", parameters=[{}], seconds=60)

    assert ran.structured_content is not None
    for facts in (ran.structured_content, in_place, one):
        assert facts["status"] == "error"
        assert message in json.dumps(facts)
        assert first in json.dumps(facts)
    assert message in text_of(ran)
    assert first in text_of(ran)
    assert (in_place["cells_done"], in_place["cells_failed"]) == (2, 1)
    assert in_place["failed_cell"]["index"] == 0
    assert in_place["results"][1]["status"] == "ok"
    assert (batch["status"], batch["runs_failed"]) == ("error", 1)
    assert message in batch["runs"][0]["error"]
    assert "kept" not in again["runs"][0]
    assert again["runs_failed"] == 1


@pytest.mark.case("R05")
async def test_an_error_that_comes_after_the_end_of_its_cell_counts(client: Connect, workspace: Path) -> None:
    """A task that outlives its cell shows a traceback while the next cell runs."""
    late = (
        "import asyncio\nasync def fail():\n    await asyncio.sleep(0.2)\n    get_ipython().showtraceback("
        "(ValueError, ValueError('came late'), None))\ntask = asyncio.create_task(fail())"
    )
    write_notebook(workspace / "a.ipynb", [late, "await task\nawait asyncio.sleep(0.2)\nprint('end')"])
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="a.ipynb")
        output = await call(connected, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb")

    for one, file in ((facts, "a.ipynb"), (output, "out.ipynb")):
        assert one["status"] == "error"
        assert "came late" in json.dumps(one)
        assert "came late" in (workspace / file).read_text()


async def test_an_error_output_is_allowed_where_the_tag_allows_it(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [cell(_SHOWN, tags=["raises-exception"]), "print('next')"])
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="a.ipynb")

    assert (facts["status"], facts["cells_failed"]) == ("ok", 0)
    assert "ZeroDivisionError" in json.dumps(facts["results"][0])


async def test_all_errors_of_a_cell_are_shown_when_the_last_one_is_raised(client: Connect) -> None:
    async with client() as connected:
        kernel = await call(connected, "start_kernel")
        code = _SHOWN + "\nraise KeyError('raised')"
        facts = await call(connected, "execute_cell", kernel_id=kernel["kernel_id"], code=code)

    assert facts["error"]["ename"] == "KeyError"
    shown = [output for output in facts["outputs"] if output["output_type"] == "error"]
    assert len(shown) == 1
    assert "ZeroDivisionError" in shown[0]["text"]


_EXITS = {
    "exit": ("import sys; sys.exit()", "ok"),
    "exit 0": ("import sys; sys.exit(0)", "ok"),
    "exit 3": ("import sys; sys.exit(3)", "error"),
    "shown, then exit": (_SHOWN + "\nimport sys; sys.exit(0)", "error"),
}


@pytest.mark.case("R05")
@pytest.mark.parametrize("name", _EXITS)
async def test_every_tool_judges_an_exit_alike(name: str, client: Connect, workspace: Path) -> None:
    """A clean exit is no failure and ends the run there. An error besides makes it one."""
    code, status = _EXITS[name]
    write_notebook(workspace / "a.ipynb", [code, "print('never')"])
    async with client() as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        alone = await call(connected, "execute_cell", kernel_id=kernel_id, code=code)
        in_place = await call(connected, "execute_notebook", path="a.ipynb")
        output = await call(connected, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb")
        batch = await call(connected, "execute_notebook_batch", input_path="a.ipynb", seconds=60)
        info = await call(connected, "get_notebook_info", path="out.ipynb")

    assert {facts["status"] for facts in (alone, in_place, output, batch)} == {status}
    assert {facts["cells_failed"] for facts in (in_place, output)} == {int(status == "error")}
    assert info["papermill"]["status"] == {"ok": "completed", "error": "failed"}[status]
    assert bool(_markers(read_json(workspace / "out.ipynb"))) == (status == "error")
    assert "never" not in str([entry.get("outputs") for entry in read_json(workspace / "a.ipynb")["cells"]])
    assert any("left by sys.exit()" in note for note in in_place.get("notes", [])) == (status == "ok")
