"""Comparisons of notebooks: with another file, with git, and with an earlier version."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, RunCommand
from helpers import Json, call, cell, images_of, refused, text_of, write_notebook
from PIL import Image

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.git import _Git
from papermill_mcp.services.notebooks.differences import differences

pytestmark = pytest.mark.timeout(60)


def with_output(source: str, cell_id: str, text: str = "", *, data: Mapping[str, Any] | None = None) -> Json:
    made = cell(source, cell_id=cell_id)
    if text:
        made["outputs"].append({"output_type": "stream", "name": "stdout", "text": text})
    if data:
        made["outputs"].append({"output_type": "display_data", "metadata": {}, "data": dict(data)})
    return made


def png(colour: str) -> str:
    buffer = BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def git(directory: Path, *arguments: str) -> str:
    """Run git in a repository of the test."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false"]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(workspace: Path) -> Path:
    """The workspace as a repository with a notebook in two revisions, and a third state of it."""
    git(workspace, "init", "-q")
    for source in ("first", "second"):
        write_notebook(workspace / "n.ipynb", [cell(source, cell_id="a")])
        git(workspace, "add", ".")
        git(workspace, "commit", "-qm", source)
    write_notebook(workspace / "n.ipynb", [cell("third", cell_id="a")])
    return workspace


async def test_cells_are_compared_by_their_identity(client: Connect, workspace: Path) -> None:
    old = [
        cell("import", cell_id="i"),
        cell("gone", cell_id="g"),
        cell("x = 1\ny = 1", cell_id="x"),
        cell("m", cell_id="m"),
    ]
    new = [
        cell("m", cell_id="m"),
        cell("import", cell_id="i"),
        cell("new", cell_id="n"),
        cell("x = 2\ny = 1", cell_id="x"),
    ]
    write_notebook(workspace / "a.ipynb", old)
    write_notebook(workspace / "b.ipynb", new)
    async with client() as c:
        found = await call(c, "compare_notebooks", path="a.ipynb", **{"with": "b.ipynb"})
        text = text_of(await c.call_tool("compare_notebooks", {"path": "a.ipynb", "with": "b.ipynb"}))

    rows = {row.get("id"): (row.get("index_before"), row.get("index_after"), row["change"]) for row in found["cells"]}
    assert rows == {
        "m": (3, 0, "moved"),
        "g": (1, None, "removed"),
        "n": (None, 2, "added"),
        "x": (2, 3, "source"),
    }
    assert found["summary"] == {"moved": 1, "removed": 1, "added": 1, "source": 1, "same": 1}
    assert "before: a.ipynb\nafter: b.ipynb\n" in text
    assert "cell 3 [x] · source (was 2)\n```diff\n@@ -1,2 +1,2 @@\n-x = 1\n+x = 2\n y = 1\n```" in text


async def test_numbers_of_outputs_stand_side_by_side(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [with_output("fit()", "f", "accuracy 0.91, loss 1.5e-3\n")])
    write_notebook(workspace / "b.ipynb", [with_output("fit()", "f", "accuracy 0.93, loss 1.5e-3\n")])
    async with client() as c:
        found = await call(c, "compare_notebooks", path="a.ipynb", **{"with": "b.ipynb"})
        without = await call(c, "compare_notebooks", path="a.ipynb", what="source", **{"with": "b.ipynb"})

    assert found["cells"][0]["diff"] == "output 0, numbers: 0.91 -> 0.93 (+0.02)"
    assert without["cells"] == [] and without["summary"] == {"same": 1}


async def test_a_picture_before_and_after_is_one_picture(client: Connect, workspace: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        write_notebook(workspace / f"{name}.ipynb", [with_output("plot()", "p", data={"image/png": png(colour)})])
    async with client() as c:
        result = await c.call_tool("compare_notebooks", {"path": "a.ipynb", "with": "b.ipynb"})

    (image,) = images_of(result)
    colours = {
        colour for _, colour in Image.open(BytesIO(base64.b64decode(image.data))).convert("RGB").getcolors(9999) or []
    }
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    assert "cell 0 [p] · before and after" in text_of(result)


async def test_pictures_beyond_the_limit_are_counted(client: Connect, workspace: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        cells = [with_output("plot()", f"p{number}", data={"image/png": png(colour)}) for number in range(3)]
        write_notebook(workspace / f"{name}.ipynb", cells)
    async with client(max_images=2) as c:
        result = await c.call_tool("compare_notebooks", {"path": "a.ipynb", "with": "b.ipynb"})

    assert len(images_of(result)) == 2
    assert "note: 1 pair of pictures that differ not shown (max_images)" in text_of(result)


async def test_pages_show_every_difference_once(client: Connect, workspace: Path) -> None:
    for name in "ab":
        sources = [f"{name} {number}\n" + f"line {name}\n" * 30 for number in range(40)]
        write_notebook(workspace / f"{name}.ipynb", sources)
    seen: list[int] = []
    start: int | None = 0
    async with client(max_output_chars=2000) as c:
        while start is not None:
            page = await call(c, "compare_notebooks", path="a.ipynb", start=start, **{"with": "b.ipynb"})
            seen += [row["index_after"] for row in page["cells"]]
            assert page["summary"] == {"source": 40, "same": 0}
            start = page.get("next")
        assert "0 to 39" in await refused(c, "compare_notebooks", path="a.ipynb", start=40, **{"with": "b.ipynb"})
    assert seen == list(range(40))


async def test_a_revision_of_git_is_the_older_side(client: Connect, repository: Path) -> None:
    async with client() as c:
        for revision, source in (
            ("HEAD", "second"),
            ("HEAD~1", "first"),
            (git(repository, "rev-parse", "HEAD"), "second"),
        ):
            found = await call(c, "compare_notebooks", path="n.ipynb", **{"with": f"git:{revision}"})
            assert found["cells"][0]["diff"] == f"@@ -1 +1 @@\n-{source}\n+third"
            assert found["before"] == f"n.ipynb in git:{revision}"


async def test_a_version_of_the_history_is_the_older_side(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["old"])
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="new")
        found = await call(c, "compare_notebooks", path="n.ipynb", **{"with": "version:1"})
        assert "has no version 9" in await refused(c, "compare_notebooks", path="n.ipynb", **{"with": "version:9"})
        assert (await refused(c, "compare_notebooks", path="n.ipynb", **{"with": "version:x"})).startswith("INVALID_A")
    assert found["cells"][0]["diff"] == "@@ -1 +1 @@\n-old\n+new"


async def test_a_repository_may_begin_above_the_root(client: Connect, tmp_path: Path, workspace: Path) -> None:
    git(tmp_path, "init", "-q")
    write_notebook(workspace / "n.ipynb", ["old"])
    git(tmp_path, "add", "workspace")
    git(tmp_path, "commit", "-qm", "one")
    write_notebook(workspace / "n.ipynb", ["new"])
    async with client() as c:
        assert (await call(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"}))["summary"]["source"] == 1


async def test_bad_requests_for_git_are_named(
    client: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    for name, content in (("lfs.ipynb", pointer), ("text.ipynb", "no notebook")):
        (repository / name).write_text(content)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "odd")
    for name in ("lfs.ipynb", "text.ipynb", "fresh.ipynb"):
        write_notebook(repository / name, ["x"])

    async def message(path: str, other: str) -> str:
        return await refused(c, "compare_notebooks", path=path, **{"with": other})

    async with client() as c:
        assert (await message("n.ipynb", "git:--output=x")).startswith(
            "INVALID_ARGUMENT: '--output=x' can be no revision"
        )
        assert (await message("n.ipynb", "git:HEAD:other")).startswith("INVALID_ARGUMENT: ")
        assert "has no revision 'nothing'" in await message("n.ipynb", "git:nothing")
        assert (await message("fresh.ipynb", "git:HEAD")).startswith("NOT_FOUND: fresh.ipynb is not in revision 'HEAD'")
        assert "only a pointer of Git LFS" in await message("lfs.ipynb", "git:HEAD")
        assert (await message("text.ipynb", "git:HEAD")).startswith("NOT_A_NOTEBOOK: ")
        assert (await message("n.ipynb", "../n.ipynb")).startswith("PATH_NOT_ALLOWED: ")
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        assert (await message("n.ipynb", "git:HEAD")).startswith("NOT_FOUND: there is no program git")


async def test_a_directory_without_a_repository_is_named(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["x"])
    async with client() as c:
        message = await refused(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"})
    assert message.startswith("NOT_FOUND: n.ipynb is in no repository of git")


@pytest.mark.case("H04")
async def test_nothing_that_a_repository_configures_is_run(client: Connect, repository: Path, tmp_path: Path) -> None:
    """Filters, conversions, monitors and hooks of a hostile repository."""
    trap = tmp_path / "trap"
    program = f"touch {trap}; cat"
    for key in (
        "core.fsmonitor",
        "diff.x.textconv",
        "filter.x.smudge",
        "filter.x.clean",
        "core.pager",
        "core.sshCommand",
    ):
        git(repository, "config", key, program)
    git(repository, "config", "core.hooksPath", str(repository))
    (repository / ".gitattributes").write_text("*.ipynb diff=x filter=x\n")
    async with client() as c:
        found = await call(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"})
    assert found["summary"] == {"source": 1, "same": 0}
    assert not trap.exists()


@pytest.mark.case("H04")
async def test_a_partial_clone_is_refused_where_git_could_fetch(
    client: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "remote.origin.url", "https://example.invalid/x")
    monkeypatch.setattr("papermill_mcp.core.git._NO_LAZY_FETCH", (99, 0))
    async with client() as c:
        message = await refused(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"})
        assert message.startswith("PERMISSION_DENIED: the repository of n.ipynb is a partial clone")
        monkeypatch.setattr("papermill_mcp.core.git._NO_LAZY_FETCH", (2, 0))
        assert (await call(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"}))["summary"]["source"] == 1


async def test_a_git_that_hangs_is_ended(
    client: Connect, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nsleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(slow))
    monkeypatch.setattr("papermill_mcp.core.git.GIT_SECONDS", 0.2)
    async with client() as c:
        assert (await refused(c, "compare_notebooks", path="n.ipynb", **{"with": "git:HEAD"})).startswith(
            "TIMEOUT: git"
        )


@pytest.mark.usefixtures("home")
def test_a_command_prints_the_differences(repository: Path, tmp_path: Path, run: RunCommand) -> None:
    other = write_notebook(tmp_path / "other.ipynb", [cell("other", cell_id="a")])
    state = f"--state-directory={tmp_path / 'state'}"

    code, out, _ = run("diff", str(repository / "n.ipynb"), str(other), state)
    assert code == 1
    assert "-third\n+other" in out
    code, out, _ = run("diff", str(repository / "n.ipynb"), "git:HEAD", state)
    assert code == 1
    assert "-second\n+third" in out
    assert run("diff", str(other), str(other), state)[0] == 0
    code, _, err = run("diff", str(repository / "n.ipynb"), "git:nothing", state)
    assert code == 2
    assert "has no revision 'nothing'" in err
    assert run("diff", str(other))[0] == 2
    assert "git:REV" in run("diff", "--help")[1]


def test_the_variables_of_git_have_nothing_of_the_user() -> None:
    variables = _Git("git", Path("/"), None)._variables  # type: ignore[arg-type]

    assert {key for key in variables if not key.startswith("GIT_")} == {"PATH", "LC_ALL"}
    assert variables["GIT_ALLOW_PROTOCOL"] == ""


def document(cells: list[Json]) -> NotebookDocument:
    made = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return NotebookDocument.from_node(made)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("a\n", "a\n", []),
        ("0.1", "0.2", ["output 0, numbers: 0.1 -> 0.2 (+0.1)"]),
        ("n = 5 of -3", "n = 7 of -3", ["output 0, numbers: 5 -> 7 (+2)"]),
        ("v1.2.3", "v1.2.4", ["output 0:", "@@ -1 +1 @@", "-v1.2.3", "+v1.2.4"]),
        (
            "took 10ms, 5 of them",
            "took 11ms, 5 of them",
            ["output 0:", "@@ -1 +1 @@", "-took 10ms, 5 of them", "+took 11ms, 5 of them"],
        ),
        ("is 5.", "is 6.5e3", ["output 0, numbers: 5. -> 6.5e3 (+6495)"]),
        ("2024-01-31 n 1", "2024-02-01 n 1", ["output 0:", "@@ -1 +1 @@", "-2024-01-31 n 1", "+2024-02-01 n 1"]),
        ("at 10:31:01", "at 10:32:01", ["output 0:", "@@ -1 +1 @@", "-at 10:31:01", "+at 10:32:01"]),
        ("March 1, 2024", "March 7, 2024", ["output 0:", "@@ -1 +1 @@", "-March 1, 2024", "+March 7, 2024"]),
        ("1,999 rows", "2,001 rows", ["output 0:", "@@ -1 +1 @@", "-1,999 rows", "+2,001 rows"]),
        ("2024-01-31 0.1", "2024-01-31 0.2", ["output 0, numbers: 0.1 -> 0.2 (+0.1)"]),
        ("[1, 2]", "[1, 3]", ["output 0, numbers: 2 -> 3 (+1)"]),
        ("", "1", ["output 0 added: stream", "+1"]),
        ("1", "", ["output 0 removed: stream", "-1"]),
    ],
)
def test_the_lines_about_an_output(old: str, new: str, lines: list[str]) -> None:
    before, after = (document([with_output("x", "x", text)]) for text in (old, new))
    found = [*differences(before, after)]
    assert (found[0].lines if found else []) == lines


@pytest.mark.parametrize("text", ["1" * 150_000 + "a", "1." * 70_000 + "x", "-+" * 70_000, "1e" * 70_000])
def test_a_text_like_numbers_takes_no_long_time(text: str) -> None:
    before, after = document([with_output("x", "x", text)]), document([with_output("x", "x", text + " 2")])
    began = time.perf_counter()
    assert [*differences(before, after)]
    assert time.perf_counter() - began < 2


def test_pieces_and_counts_of_a_run_make_no_difference() -> None:
    one, other = with_output("x", "x", "a\nb\n"), with_output("x", "x", "a\n")
    other["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["b\n"]})
    other |= {"execution_count": 7, "metadata": {"execution": {"iopub.status.busy": "2026"}}}
    result = {"output_type": "execute_result", "metadata": {}, "data": {"text/plain": "1"}}
    one["outputs"].append(result | {"execution_count": 1})
    other["outputs"].append(result | {"execution_count": 7})

    assert [*differences(document([one]), document([other]))] == []


def test_another_id_of_a_cell_is_named() -> None:
    """Programs that make notebooks give new ids each time."""
    before = document([cell("x = 1", cell_id="a"), cell("y = f(x, 1)", cell_id="b")])
    after = document([cell("x = 1", cell_id="c"), cell("y = f(x, 2)", cell_id="d")])

    assert [(one.before, one.after, one.changes) for one in differences(before, after)] == [
        (0, 0, ("id",)),
        (1, 1, ("id", "source")),
    ]
