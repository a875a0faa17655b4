"""Verifications with real kernels: the verdict on notebooks, what is written, and the command for CI."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Connect
from helpers import (
    Json,
    call,
    cell,
    digest,
    images_of,
    read_json,
    refused,
    text_of,
    until,
    waiting_code,
    write_notebook,
)
from mcp import Client

pytestmark = pytest.mark.kernel

_PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, {0}]);"
_SOURCES = ["x = 1.5", "print(x)", "print(object())", "x * 2"]


async def _run_in_place(client: Client, path: Path, sources: list[str]) -> None:
    write_notebook(path, [cell(source, cell_id=f"c{number}") for number, source in enumerate(sources)])
    assert "status: ok" in text_of(await client.call_tool("execute_notebook", {"path": path.name}))


def _verdicts(facts: Json) -> dict[int, str]:
    return {row["index"]: row["verdict"] for row in facts.get("cells") or []}


def _replace_output(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


async def test_an_honest_notebook_is_the_same_and_is_not_touched(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    async with client() as connected:
        await _run_in_place(connected, path, _SOURCES)
        before = (digest(path), path.stat().st_mtime_ns, sorted(workspace.iterdir()))

        facts = await call(connected, "verify_notebook", path="a.ipynb")

        assert (facts["status"], facts["verdict"], facts["counts"]) == ("ok", "same", {"same": 4})
        assert (digest(path), path.stat().st_mtime_ns, sorted(workspace.iterdir())) == before


async def test_each_lie_is_found_with_its_cell_and_update_puts_it_right(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    async with client() as connected:
        await _run_in_place(connected, path, [*_SOURCES, "1 / 1", "print('new')"])
        _replace_output(path, '"1.5\\n"', '"1.501\\n"')
        data = read_json(path)
        data["cells"][5] |= {"outputs": [], "execution_count": None}
        data["cells"][4]["source"] = "1 / 0"
        path.write_text(json.dumps(data))

        fails = await call(connected, "verify_notebook", path="a.ipynb", update=True)

        assert (fails["status"], fails["verdict"]) == ("error", "fails")
        assert _verdicts(fails) == {1: "differs", 4: "new_error", 5: "not_run"}
        assert "ZeroDivisionError" in next(row["diff"] for row in fails["cells"] if row["index"] == 4)
        assert any("nothing was written" in note for note in fails["notes"])

        data["cells"][4]["source"] = "1 / 1"
        path.write_text(json.dumps(data))
        numeric = await call(connected, "verify_notebook", path="a.ipynb", compare="numeric", rtol=0.01)
        assert _verdicts(numeric) == {5: "never_run"}
        differs = await call(connected, "verify_notebook", path="a.ipynb", compare="numeric")
        assert _verdicts(differs) == {1: "differs", 5: "never_run"}
        [pair] = differs["cells"][0]["values"]
        assert (pair["before"], pair["after"], round(pair["distance"], 6)) == ("1.501", "1.5", -0.001)

        message = await refused(connected, "verify_notebook", path="a.ipynb", update=True, if_revision="0" * 16)
        assert message.startswith("CONFLICT: ")
        updated = await call(connected, "verify_notebook", path="a.ipynb", update=True, if_revision=differs["revision"])
        assert updated["revision"] != differs["revision"]
        assert (await call(connected, "verify_notebook", path="a.ipynb"))["verdict"] == "same"


async def test_another_plot_is_shown_beside_the_saved_one(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    async with client() as connected:
        await _run_in_place(connected, path, [_PLOT.format(3)])
        plot = read_json(path)["cells"][0]["outputs"]
        await _run_in_place(connected, path, [_PLOT.format(9)])
        data = read_json(path)
        data["cells"][0]["outputs"] = plot
        path.write_text(json.dumps(data))

        result = await connected.call_tool("verify_notebook", {"path": "a.ipynb"})

        assert "(image attached: before | after)" in text_of(result)
        assert len(images_of(result)) == 1


async def test_repeated_runs_find_a_flaky_cell_and_ignore_hides_it(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    async with client() as connected:
        await _run_in_place(connected, path, ["import random\nprint('roll', random.random())", "print('fixed')"])

        flaky = await call(connected, "verify_notebook", path="a.ipynb", repeat=2)
        hidden = await call(connected, "verify_notebook", path="a.ipynb", ignore=[r"roll \S+"])

        assert _verdicts(flaky) == {0: "flaky"}
        assert hidden["verdict"] == "same"
        for pattern, code in (("(", "INVALID_ARGUMENT: "), ("[a", "INVALID_ARGUMENT: ")):
            assert (await refused(connected, "verify_notebook", path="a.ipynb", ignore=[pattern])).startswith(code)


async def test_parameters_and_another_notebook(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        write_notebook(
            workspace / "in.ipynb", [cell("n = 1", tags=["parameters"], cell_id="p"), cell("n * 2", cell_id="q")]
        )
        out = await call(
            connected, "execute_notebook_papermill", input_path="in.ipynb", output_path="out.ipynb", parameters={"n": 4}
        )
        assert out["status"] == "ok"

        same = await call(connected, "verify_notebook", path="in.ipynb", parameters={"n": 4}, against="out.ipynb")
        other = await call(connected, "verify_notebook", path="in.ipynb", parameters={"n": 5}, against="out.ipynb")
        again = await call(connected, "verify_notebook", path="out.ipynb")

        assert same["verdict"] == "same"
        assert _verdicts(other) == {1: "differs"}
        assert again["verdict"] == "same"
        assert (await refused(connected, "verify_notebook", path="in.ipynb", parameters={"m": 1})).startswith("INVALID")
        assert (await refused(connected, "verify_notebook", path="in.ipynb", against="/etc/x.ipynb")).startswith(
            "PATH_NOT"
        )


async def test_the_reference_may_be_a_version_in_git_or_in_the_history(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    async with client() as connected:
        await _run_in_place(connected, path, ["x = 1", "print(x)"])
        for words in (
            ["init", "-q"],
            ["add", "a.ipynb"],
            ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
        ):
            await asyncio.to_thread(subprocess.run, ["git", *words], cwd=workspace, check=True)
        await call(connected, "update_cell", path="a.ipynb", cell_id="c0", source="x = 2")

        by_git = await call(connected, "verify_notebook", path="a.ipynb", against="git:HEAD")
        history = await call(connected, "notebook_history", path="a.ipynb")
        number = history["versions"][-1]["version"]
        by_version = await call(connected, "verify_notebook", path="a.ipynb", against=f"version:{number}")

        assert by_git["against"] == "a.ipynb in git:HEAD"
        assert _verdicts(by_git)[1] == "differs"
        assert by_version["verdict"] in ("differs", "never_run")
        assert (await refused(connected, "verify_notebook", path="a.ipynb", against="git:--help")).startswith("INVALID")


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import sys\nsys.exit()", "cell 1 left by sys.exit(); the run ended there"),
        ("import sys\nsys.exit('bad')", "cell 1 ended the run with SystemExit; cell 2 behind it did not run"),
    ],
)
async def test_cells_behind_an_exit_have_not_run_and_the_verdict_says_so(
    client: Connect, workspace: Path, code: str, note: str
) -> None:
    """They are as they should be, unless they have outputs, which the notebook cannot make."""
    path = write_notebook(workspace / "a.ipynb", [cell(one, cell_id=one[:1]) for one in ("1", code, "2")])
    async with client() as connected:
        await call(connected, "execute_notebook", path="a.ipynb")
        same = await call(connected, "verify_notebook", path="a.ipynb")
        data = read_json(path)
        data["cells"][2] |= {
            "execution_count": 3,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "2"}],
        }
        path.write_text(json.dumps(data))
        other = await call(connected, "verify_notebook", path="a.ipynb")

    assert (same["verdict"], _verdicts(same), same["notes"]) == ("same", {2: "not_run"}, [note])
    assert (other["verdict"], _verdicts(other)) == ("fails", {2: "not_run"})


async def test_what_this_tool_has_not_got_is_not_advised(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [cell("n = 1", tags=["parameters"]), cell("n")])
    write_notebook(workspace / "b.ipynb", [cell("n = 1")])
    async with client() as connected:
        tagged = await refused(connected, "verify_notebook", path="a.ipynb", parameters={"m": 1})
        untagged = await refused(connected, "verify_notebook", path="b.ipynb", parameters={"m": 1})

    assert tagged.endswith("Its parameters: n = 1. Nothing was run. Correct it.")
    assert untagged.endswith("Nothing was run. Tag the cell that sets the defaults with `parameters`.")


async def test_a_verification_can_be_cancelled_and_leaves_no_kernel(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [cell("open('begun', 'w').close()\n" + waiting_code(), cell_id="c")])
    async with client() as connected:
        running = await call(connected, "verify_notebook", path="a.ipynb", wait=0)
        await until((workspace / "begun").exists, seconds=20)

        ended = await call(connected, "cancel_execution", execution_id=running["execution_id"])

        assert ended["status"] == "interrupted"
        assert ended.get("verdict") is None
        assert "active: none" in text_of(await connected.call_tool("list_kernels", {}))


async def test_a_directory_is_a_row_for_each_notebook(client: Connect, workspace: Path) -> None:
    (workspace / "d").mkdir()
    async with client() as connected:
        await _run_in_place(connected, workspace / "a.ipynb", ["print('a')"])
        (workspace / "a.ipynb").rename(workspace / "d" / "a.ipynb")
        write_notebook(workspace / "d" / "b.ipynb", ["1 / 0"])
        (workspace / "d" / "c.ipynb").write_text("no notebook")

        facts = await call(connected, "verify_notebook", path="d")

        assert (facts["status"], facts["verdict"]) == ("error", "refused")
        assert facts["counts"] == {"same": 1, "fails": 1, "refused": 1}
        assert {row["path"]: row["verdict"] for row in facts["notebooks"]} == {
            "d/b.ipynb": "fails",
            "d/c.ipynb": "refused",
        }
        assert len((workspace / facts["results"]).read_text().splitlines()) == 4
        page = (workspace / facts["report"]).read_text()
        assert "Verification of d" in page
        assert "ZeroDivisionError" in page
        assert (await refused(connected, "verify_notebook", path="none")).startswith("NOT_FOUND")


async def test_a_server_that_may_not_write_verifies_and_does_not_update(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [cell("1", cell_id="c")])
    async with client(read_only=True) as connected:
        assert (await refused(connected, "verify_notebook", path="a.ipynb", update=True)).startswith("INVALID_ARGUMENT")
        assert (await call(connected, "verify_notebook", path="a.ipynb", compare="run"))["verdict"] == "same"


async def _verify(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill_mcp.main", "verify", *arguments]
    run: Any = subprocess.run
    return await asyncio.to_thread(run, command, cwd=directory, capture_output=True, text=True, timeout=60)


async def test_the_command_reports_for_ci(client: Connect, workspace: Path) -> None:
    async with client() as connected:
        await _run_in_place(connected, workspace / "a.ipynb", ["print('made at', hex(2**46), 'by tool', 1 + 2)"])
    (workspace / "s.cfg").write_text("[tool]\nregex: tool \\d\nreplace: TOOL\n")
    _replace_output(workspace / "a.ipynb", "by tool 3", "by tool 4")

    differs = await _verify(workspace, "a.ipynb", "--junit", "r.xml")
    same = await _verify(workspace, ".", "--sanitize-with", "s.cfg")
    unknown = await _verify(workspace, "none.ipynb")

    assert (differs.returncode, same.returncode, unknown.returncode) == (1, 0, 2), (differs, same, unknown)
    suite = ElementTree.fromstring((workspace / "r.xml").read_text())[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    assert "-made at" in "".join(suite.itertext())
    assert "does not exist" in unknown.stderr
