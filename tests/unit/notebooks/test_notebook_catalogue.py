"""Lists, searches and facts: bounded, complete in what they count, and calm about broken files."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import MakeConfig
from helpers import cell, digest, read_json, write_notebook

from papermill_mcp.core.documents.check import find_problems
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import InvalidArgumentError, NotFoundError, PathNotAllowedError, SearchTimeoutError
from papermill_mcp.services import catalogue as notebook_catalogue
from papermill_mcp.services import notebook_service
from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks import walk as notebook_walk
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.tools.replies import render
from papermill_mcp.utils import digests, file_utils
from papermill_mcp.utils.file_utils import FileContent


@pytest.fixture
def catalogue(config: MakeConfig, workspace: Path, state_directory: Path) -> NotebookCatalogue:
    settings = config()
    places = Workspace([workspace], private=[state_directory])
    return NotebookCatalogue(places, NotebookService(settings, places, state_directory), Pythons(settings, places))


def tree(workspace: Path) -> None:
    for name in ("b.ipynb", "a.ipynb", "sub/c.ipynb", "sub/deep/d.ipynb", "sub.ipynb"):
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_notebook(path, ["x = 1", cell("# T", "markdown")])


# Lists


async def test_a_list_tells_kernel_language_and_cells(catalogue: NotebookCatalogue, workspace: Path) -> None:
    tree(workspace)
    found = await catalogue.list()

    assert [row.path for row in found.notebooks] == ["a.ipynb", "b.ipynb", "sub.ipynb"]
    row = found.notebooks[0]
    assert (row.name, row.kernel_name, row.language, row.cell_count) == ("a.ipynb", "python3", "python", 2)
    assert row.size == (workspace / "a.ipynb").stat().st_size
    assert row.problem is None
    assert (found.count, found.next_cursor, found.notes) == (3, None, None)


async def test_a_list_reads_a_file_again_only_if_it_was_changed(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_utils, "SETTLED_NS", 0)
    monkeypatch.setattr(digests, "is_local", lambda device: True)
    read: list[str] = []
    content_of = NotebookService.content_of

    def counted(self: NotebookService, file: Path, display_path: str) -> FileContent:
        read.append(display_path)
        return content_of(self, file, display_path)

    monkeypatch.setattr(NotebookService, "content_of", counted)
    tree(workspace)
    first = await catalogue.list()
    again = await catalogue.list()
    assert again == first
    assert read == ["a.ipynb", "b.ipynb", "sub.ipynb"]

    status = (workspace / "a.ipynb").stat()
    text = (workspace / "a.ipynb").read_text().replace("python", "pythno")  # as many bytes
    (workspace / "a.ipynb").write_text(text)
    os.utime(workspace / "a.ipynb", ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = await catalogue.list()
    assert read[3:] == ["a.ipynb"]
    assert changed.notebooks[0].language == "pythno"

    monkeypatch.setattr(file_utils, "SETTLED_NS", 10**15)
    (workspace / "b.ipynb").touch()
    await catalogue.list()
    await catalogue.list()
    assert read[4:] == ["b.ipynb", "b.ipynb"]  # a young file may change again and look the same


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_list_every_notebook_once_in_order(
    catalogue: NotebookCatalogue, workspace: Path, limit: int
) -> None:
    tree(workspace)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        page = await catalogue.list(recursive=True, limit=limit, cursor=cursor)
        seen += [row.path for row in page.notebooks]
        assert page.count == 5
        cursor = page.next_cursor
        if cursor is None:
            break
        (workspace / seen[-1]).unlink(missing_ok=True)  # a cursor does not depend on what it names
        write_notebook(workspace / seen[-1], [])
    assert sorted(seen) == sorted(["a.ipynb", "b.ipynb", "sub/c.ipynb", "sub/deep/d.ipynb", "sub.ipynb"])


async def test_a_pattern_chooses_names(catalogue: NotebookCatalogue, workspace: Path) -> None:
    tree(workspace)
    (workspace / "notes.txt").write_text("x")

    assert [row.path for row in (await catalogue.list(pattern="[ab]*")).notebooks] == ["a.ipynb", "b.ipynb"]
    assert (await catalogue.list(pattern="*.txt")).notebooks == []


BROKEN = {
    "empty": (b"", "NOT_A_NOTEBOOK"),
    "truncated": (b'{"cells": [{"cell_type": "co', "INVALID_NOTEBOOK"),
    "merge": (b'{\n<<<<<<< HEAD\n"cells": []\n=======\n>>>>>>> x\n}', "INVALID_NOTEBOOK"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "NOT_A_NOTEBOOK"),
    "utf16": ('{"cells": []}'.encode("utf-16"), "NOT_A_NOTEBOOK"),
    "nul": (b"\0" * 300, "NOT_A_NOTEBOOK"),
    "list": (b"[]", "NOT_A_NOTEBOOK"),
    "null": (b"null", "NOT_A_NOTEBOOK"),
    "deep": (b'{"cells": ' + b"[" * 100_000, "INVALID_NOTEBOOK"),
    "number": (b'{"cells": [], "x": ' + b"9" * 5000 + b"}", "INVALID_NOTEBOOK"),
    "new": (b'{"cells": [], "nbformat": 99}', "INVALID_NOTEBOOK"),
}


@pytest.mark.case("N01", "N02", "N04", "N06", "N07", "N08", "N09", "N10", "N11", "N12")
async def test_broken_files_are_listed_with_their_problem(catalogue: NotebookCatalogue, workspace: Path) -> None:
    for name, (data, _) in BROKEN.items():
        (workspace / f"{name}.ipynb").write_bytes(data)
    before = {path: digest(path) for path in workspace.iterdir()}

    rows = {row.name: row for row in (await catalogue.list()).notebooks}
    for name, (_, code) in BROKEN.items():
        problem = rows[f"{name}.ipynb"].problem
        assert problem is not None, name
        assert problem.startswith(f"{code}: "), name
        assert rows[f"{name}.ipynb"].cell_count is None
    assert {path: digest(path) for path in workspace.iterdir()} == before


async def test_hidden_places_are_skipped_and_counted(catalogue: NotebookCatalogue, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [])
    for name in (".ipynb_checkpoints", ".git"):
        (workspace / name).mkdir()
        write_notebook(workspace / name / "a.ipynb", [])
    write_notebook(workspace / ".hidden.ipynb", [])

    found = await catalogue.list(recursive=True)
    assert [row.path for row in found.notebooks] == ["a.ipynb"]
    assert sorted(found.notes or ()) == ["hidden directories: 2 skipped", "hidden notebooks: 1 skipped"]


async def test_an_empty_list_says_that_there_are_directories_below(
    catalogue: NotebookCatalogue, workspace: Path
) -> None:
    assert (await catalogue.list()).notes is None
    (workspace / ".hidden").mkdir()
    (workspace / "below").mkdir()
    write_notebook(workspace / "below" / "n.ipynb", ["1"])

    assert (await catalogue.list()).notes == ["sub-directories: 1 not looked into; recursive=true looks there"]
    assert (await catalogue.list(recursive=True)).count == 1
    write_notebook(workspace / "here.ipynb", ["1"])
    assert (await catalogue.list()).notes is None


@pytest.mark.case("P11", "P22")
async def test_links_are_never_a_way_out(catalogue: NotebookCatalogue, workspace: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_notebook(outside / "secret.ipynb", ["SECRET = 1"])
    write_notebook(workspace / "real.ipynb", ["y"])
    (workspace / "dir").symlink_to(outside)
    (workspace / "loop").symlink_to(workspace)
    (workspace / "file.ipynb").symlink_to(outside / "secret.ipynb")
    (workspace / "inside.ipynb").symlink_to("real.ipynb")
    (workspace / "dangling.ipynb").symlink_to("gone.ipynb")

    found = await catalogue.list(recursive=True)
    assert [row.path for row in found.notebooks] == ["inside.ipynb", "real.ipynb"]
    assert sorted(found.notes or ()) == [
        "links out of the roots, and special files: 2 skipped",
        "links that may be directories: 2 skipped",
    ]
    assert (await catalogue.search("SECRET")).total == 0
    with pytest.raises(PathNotAllowedError):
        await catalogue.list("dir")
    with pytest.raises(PathNotAllowedError):
        await catalogue.search("x", "dir/secret.ipynb")


async def test_special_files_and_names_that_are_no_text_do_no_harm(
    catalogue: NotebookCatalogue, workspace: Path
) -> None:
    os.mkfifo(workspace / "pipe.ipynb")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(workspace / "socket.ipynb"))
    (workspace / "directory.ipynb").mkdir()
    odd = os.fsencode(workspace) + b"/caf\xe9.ipynb"
    with open(odd, "wb") as file:
        file.write(b"{}")

    async with asyncio.timeout(3):
        found = await catalogue.list(recursive=True)
    assert len(found.notebooks) == 1
    assert "PATH_NOT_ALLOWED" in (found.notebooks[0].problem or "")
    assert found.notes == ["links out of the roots, and special files: 2 skipped"]


@pytest.mark.case("P22")
async def test_a_walk_is_bounded_in_depth_entries_and_time(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspace
    for _ in range(60):
        path = path / "d"
    path.mkdir(parents=True)
    write_notebook(path / "deep.ipynb", [])
    for number in range(300):
        (workspace / f"{number}.ipynb").write_text("{}")

    deep = await catalogue.list(recursive=True)
    assert "deeper than 40 levels" in str(deep.notes)
    monkeypatch.setattr(notebook_walk, "MAX_ENTRIES", 100)
    cut = await catalogue.list(recursive=True)
    assert cut.count <= 100
    assert "ended at 100 entries" in str(cut.notes)
    monkeypatch.setattr(notebook_walk, "WALK_SECONDS", 0.0)
    assert "ended after 0 s" in str((await catalogue.list(recursive=True)).notes)


@pytest.mark.case("P22")
@pytest.mark.slow
async def test_a_directory_with_very_many_files_is_answered_in_time(
    catalogue: NotebookCatalogue, workspace: Path
) -> None:
    for number in range(200_000):
        os.mknod(workspace / f"{number}.ipynb")
    began = time.monotonic()
    found = await catalogue.list(limit=1000)
    assert time.monotonic() - began < 5
    assert found.count == 200_000
    assert found.next_cursor is not None


async def test_a_page_ends_early_rather_than_take_long(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(workspace)
    monkeypatch.setattr(notebook_catalogue, "_LIST_SECONDS", 0.0)
    found = await catalogue.list()

    assert [row.path for row in found.notebooks] == ["a.ipynb"]
    assert found.next_cursor == "a.ipynb"


# Searches


@pytest.fixture
def searched(workspace: Path) -> Path:
    output = cell("print(values)\nSum = sum(values)", cell_id="code")
    output["outputs"] = [
        {"name": "stdout", "output_type": "stream", "text": ["first\n", "the \x1b[31mSUM\x1b[0m is 3\n"]},
        {"data": {"text/plain": "sum\nSUM", "image/png": "c3Vt"}, "metadata": {}, "output_type": "display_data"},
        {"ename": "E", "evalue": "sum", "output_type": "error", "traceback": ["a", "sum of it"]},
    ]
    (workspace / "sub").mkdir()
    write_notebook(workspace / "sub" / "n.ipynb", [cell("Ein\nStraßensumme\nEnde", "markdown", cell_id="text"), output])
    write_notebook(workspace / "m.ipynb", [cell("nothing", cell_id="none")])
    return workspace


async def test_a_text_is_found_in_whatever_case_with_its_place(catalogue: NotebookCatalogue, searched: Path) -> None:
    found = await catalogue.search("SUM")

    places = [(one.path, one.index, one.id, one.cell_type, one.line) for one in found.matches]
    assert places == [
        ("sub/n.ipynb", 0, "text", "markdown", 2),
        ("sub/n.ipynb", 1, "code", "code", 2),
    ]
    assert found.matches[0].text == "Straßensumme"
    assert found.matches[0].context == ["Ein", "Ende"]
    assert (found.total, found.searched, found.truncated) == (2, 2, False)
    assert (await catalogue.search("STRASSENSUMME")).total == 1


async def test_outputs_are_searched_as_they_are_shown(catalogue: NotebookCatalogue, searched: Path) -> None:
    found = await catalogue.search("sum", where="outputs")

    assert [(one.output, one.line) for one in found.matches] == [(0, 2), (1, 1), (1, 2), (2, 2)]
    assert found.matches[0].text == "the SUM is 3"
    both = await catalogue.search("sum", where="both")
    assert both.total == 6


@pytest.mark.parametrize("regex", [False, True])
async def test_a_chatty_output_leaves_room_for_the_others(
    catalogue: NotebookCatalogue, workspace: Path, regex: bool
) -> None:
    """Three lines of an output are shown, each once, with the number of the others."""
    chatty, last = cell("log()", cell_id="chatty"), cell("# gross\n# gross\n# gross\n# gross", cell_id="last")
    chatty["outputs"] = [
        {"name": "stdout", "output_type": "stream", "text": [f"gross {number}\n" for number in range(100)]},
        {"name": "stderr", "output_type": "stream", "text": "gross\n"},
    ]
    write_notebook(workspace / "n.ipynb", [chatty, last])
    found = await catalogue.search("gross", where="both", regex=regex)

    assert [(one.id, one.output, one.more) for one in found.matches] == [
        *[("chatty", 0, None)] * 2,
        ("chatty", 0, 97),
        ("chatty", 1, None),
        *[("last", None, None)] * 4,
    ]
    assert (found.total, found.truncated) == (105, False)
    text = render(found)
    assert "    and 97 more in this output" in text
    assert [text.count(f"gross {number}") for number in range(5)] == [1, 1, 1, 1, 0]
    assert text.count("# gross") == 4


@pytest.mark.parametrize(
    ("source", "query"),
    [
        ('"The Needle"', "the needle"),
        ('"the_\\u006eeedle"', "the_needle"),
        ('["the_", "nee", "dle"]', "the_needle"),
        ('["a\\n", "the_", 1, "needle"]', "the_needle"),
        ('"say \\"hi\\" \\\\ a\\/b"', 'say "hi" \\ A/B'),
        ('"Stra\u00dfe"', "STRASSE"),
        ('"\\u212alein"', "klein"),
        ('"a\\tb"', "a\tb"),
        ('"\\ud800 needle"', "needle"),
        ('"x", "v": NaN, "source": "needle"', "needle"),
        ('"x", "v": "\\ud83d\\ude00", "source": "\U0001f600"', "\U0001f600"),
    ],
)
async def test_a_text_is_found_in_whatever_form_it_is_written(
    catalogue: NotebookCatalogue, workspace: Path, source: str, query: str
) -> None:
    """A file is left out early only if none of its sources has the text."""
    found = f'{{"cells": [{{"cell_type": "code", "metadata": {{}}, "outputs": [], "source": {source}}}], '
    other = '{"cells": [{"cell_type": "raw", "metadata": {}, "source": "other"}], '
    end = '"metadata": {}, "nbformat": 4, "nbformat_minor": 4}'
    (workspace / "found.ipynb").write_text(found + end, encoding="utf-8")
    (workspace / "other.ipynb").write_text(other + end, encoding="utf-8")

    result = await catalogue.search(query)
    assert [match.path for match in result.matches] == ["found.ipynb"]
    assert (result.searched, result.notes) == (2, None)


async def test_cell_types_and_directories_narrow_a_search(catalogue: NotebookCatalogue, searched: Path) -> None:
    assert (await catalogue.search("sum", cell_types=["code"])).total == 1
    assert (await catalogue.search("sum", "sub")).searched == 1
    assert (await catalogue.search("sum", "m.ipynb")).total == 0
    with pytest.raises(NotFoundError):
        await catalogue.search("sum", "gone")


async def test_a_limit_cuts_the_rows_and_not_the_count(catalogue: NotebookCatalogue, searched: Path) -> None:
    for regex in (False, True):
        found = await catalogue.search("(?i)sum" if regex else "sum", where="both", limit=3, regex=regex)
        assert (len(found.matches), found.total, found.truncated) == (3, 6, True)


async def test_a_regular_expression_matches_line_by_line(catalogue: NotebookCatalogue, searched: Path) -> None:
    found = await catalogue.search(r"^print\((\w+)\)$", regex=True)
    assert [(one.line, one.text) for one in found.matches] == [(1, "print(values)")]


@pytest.mark.parametrize("pattern", ["(", "*a", "(?P<x", "a{99999999999999999999}", "\\"])
async def test_what_is_no_regular_expression_is_explained(
    catalogue: NotebookCatalogue, searched: Path, pattern: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="no regular expression"):
        await catalogue.search(pattern, regex=True)


@pytest.mark.parametrize("query", ["", "a\nb"])
async def test_a_query_is_one_line(catalogue: NotebookCatalogue, query: str) -> None:
    with pytest.raises(InvalidArgumentError, match="query"):
        await catalogue.search(query)


@pytest.mark.alone
async def test_a_hostile_pattern_is_stopped_and_holds_nobody_up(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`re` holds the interpreter lock, so it must run elsewhere: the event loop goes on all the time."""
    write_notebook(workspace / "n.ipynb", ["a" * 60 + "!"])
    monkeypatch.setattr(notebook_catalogue, "_REGEX_SECONDS", 1.0)
    longest = 0.0
    ended = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not ended.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)

    watching = asyncio.create_task(watch())
    began = time.monotonic()
    with pytest.raises(SearchTimeoutError, match=r"n\.ipynb.*1 s"):
        await catalogue.search("(a+)+$", regex=True)
    ended.set()
    await watching

    assert time.monotonic() - began < 3
    assert longest < 0.25  # 0.1 on a quiet machine
    assert not [child for child in psutil.Process().children() if "regex_worker" in " ".join(child.cmdline())]


async def test_a_search_that_is_cancelled_leaves_no_process(catalogue: NotebookCatalogue, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["a" * 60 + "!"])
    task = asyncio.create_task(catalogue.search("(a+)+$", regex=True))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [child for child in psutil.Process().children() if "regex_worker" in " ".join(child.cmdline())]


async def test_a_search_counts_what_it_could_not_read(catalogue: NotebookCatalogue, searched: Path) -> None:
    (searched / "broken.ipynb").write_text("{")
    found = await catalogue.search("sum")

    assert found.searched == 2
    assert "1 notebook" in str(found.notes)


async def test_a_search_ends_in_time_and_says_what_is_left(
    catalogue: NotebookCatalogue, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook_catalogue, "_SEARCH_SECONDS", -1.0)
    found = await catalogue.search("sum")

    assert found.searched == 0
    assert "2 notebooks not searched" in str(found.notes)


async def test_lines_of_many_megabytes_are_searched_whole(catalogue: NotebookCatalogue, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", ["x" * 999_998 + "NEEDLE" + "x" * 2_000_000 + "É"])

    assert (await catalogue.search("needle")).total == 1
    assert (await catalogue.search("é")).total == 1
    assert (await catalogue.search("needles")).total == 0


# Facts


async def test_facts_of_a_notebook(catalogue: NotebookCatalogue, workspace: Path) -> None:
    path = write_notebook(
        workspace / "n.ipynb",
        [
            cell("# One\n```\n# no heading\n```\ntext\n### Three ##", "markdown"),
            cell("alpha: float = 0.5  # the rate\nnames = ['a']\n", tags=["parameters"]),
            "x",
            cell("", "raw"),
        ],
    )
    info = await catalogue.info("n.ipynb")

    assert (info.size, info.cell_count) == (path.stat().st_size, 4)
    assert info.cells_by_type == {"code": 2, "markdown": 1, "raw": 1}
    assert [(row.index, row.level, row.text) for row in info.outline] == [(0, 1, "One"), (0, 3, "Three")]
    assert [(one.name, one.default, one.type, one.help) for one in info.parameters] == [
        ("alpha", "0.5", "float", "the rate"),
        ("names", "['a']", None, None),
    ]
    assert info.problems == []
    assert info.papermill is None


async def test_a_version_is_checked_once(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_utils, "SETTLED_NS", 0)
    monkeypatch.setattr(digests, "is_local", lambda device: True)
    checks: list[float] = []

    def counted(document: NotebookDocument, *, seconds: float) -> list[str]:
        checks.append(seconds)
        return find_problems(document, seconds=seconds)

    monkeypatch.setattr(notebook_catalogue, "find_problems", counted)
    write_notebook(workspace / "n.ipynb", ["x = 1", {"cell_type": "odd", "id": "b", "metadata": {}, "source": ""}])
    first = await catalogue.info("n.ipynb")
    again = await catalogue.info("n.ipynb")
    assert "cell_type" in first.problems[0]
    assert again == first
    assert len(checks) == 1

    write_notebook(workspace / "n.ipynb", ["x = 1"])
    assert (await catalogue.info("n.ipynb")).problems == []
    monkeypatch.setattr(notebook_catalogue, "_CHECK_SECONDS", 0.0)  # a check that did not end is not kept
    write_notebook(workspace / "n.ipynb", ["x = 2"])
    await catalogue.info("n.ipynb")
    await catalogue.info("n.ipynb")
    assert len(checks) == 4


async def test_the_last_run_is_told(catalogue: NotebookCatalogue, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", ["a", "b"])
    notebook = read_json(path)
    run = {"start_time": "2026-01-01T00:00:00", "end_time": "2026-01-01T00:00:09", "duration": 9.5, "exception": True}
    notebook["metadata"]["papermill"] = run | {"parameters": {"alpha": 1}}
    notebook["cells"][1]["metadata"]["papermill"] = {"exception": True, "status": "failed"}
    path.write_text(json.dumps(notebook))

    last = (await catalogue.info("n.ipynb")).papermill
    assert last is not None
    assert (last.status, last.duration, last.failed_cell, last.parameters) == ("failed", 9.5, 1, {"alpha": 1})


async def test_a_language_that_papermill_cannot_inspect_is_said(catalogue: NotebookCatalogue, workspace: Path) -> None:
    write_notebook(workspace / "n.ipynb", [cell("x = 1", tags=["parameters"])], kernel="deno", language="typescript")
    info = await catalogue.info("n.ipynb")

    assert info.parameters == []
    assert "cannot tell the parameters of typescript" in str(info.problems)


@pytest.mark.parametrize("language", ["R", "scala", "julia", "bash", "C#", "typescript"])
async def test_parameters_that_cannot_be_told_are_no_empty_list_without_a_word(
    language: str, catalogue: NotebookCatalogue, workspace: Path
) -> None:
    write_notebook(workspace / "n.ipynb", [cell("alpha = 1", tags=["parameters"])], kernel="k", language=language)
    write_notebook(workspace / "none.ipynb", ["alpha = 1"], kernel="k", language=language)

    info = await catalogue.info("n.ipynb")
    assert info.parameters == []
    assert info.problems == [f"papermill cannot tell the parameters of {language}"]
    assert (await catalogue.info("none.ipynb")).problems == []


async def test_parameters_are_told_where_only_the_kernel_is_named(
    catalogue: NotebookCatalogue, workspace: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", [cell("alpha = 1", tags=["parameters"])])
    notebook = json.loads(path.read_text())
    for metadata in ({}, {"kernelspec": {"name": "python3", "display_name": "Python 3"}}):
        path.write_text(json.dumps(notebook | {"metadata": metadata}))
        assert [one.name for one in (await catalogue.info("n.ipynb")).parameters] == ["alpha"]


async def test_parameters_in_a_cell_made_to_take_long_are_not_inspected(
    catalogue: NotebookCatalogue, workspace: Path
) -> None:
    write_notebook(workspace / "n.ipynb", [cell("x = " + " " * 100_000 + "1", tags=["parameters"])])
    async with asyncio.timeout(5):
        info = await catalogue.info("n.ipynb")
    assert "too long" in str(info.problems)


def notebook_with(*cells: Any, **members: Any) -> str:
    return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | members)


CODE: dict[str, Any] = {
    "cell_type": "code",
    "id": "a",
    "metadata": {},
    "source": "",
    "outputs": [],
    "execution_count": None,
}
RAW: dict[str, Any] = {"cell_type": "raw", "id": "a", "metadata": {}, "source": ""}


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (notebook_with({**RAW, "id": 5}), "1 of 1 cells have no id"),
        (notebook_with({k: v for k, v in RAW.items() if k != "id"}), "1 of 1 cells have no id (index 0)"),
        (notebook_with(RAW, RAW), "the id 'a' is that of 2 cells (index 0, 1)"),
        (notebook_with({**RAW, "id": "a b"}), "cell 0 [a b]: the id 'a b' is none"),
        (notebook_with({**RAW, "cell_type": "odd"}), "cell 0 [a]: it has the cell_type 'odd'"),
        (notebook_with({**RAW, "source": None}), "cell 0 [a]: source must be a string or a list, and is null"),
        (notebook_with({**CODE, "outputs": None}), "cell 0 [a]: outputs must be a list, and is null"),
        (notebook_with({**CODE, "outputs": [{"output_type": "x"}]}), "outputs[0]: it has the output_type 'x'"),
        (notebook_with({**CODE, "outputs": [3]}), "outputs[0]: it is not an object"),
        (notebook_with({**CODE, "execution_count": "3"}), "execution_count must be an integer or null"),
        (notebook_with({k: v for k, v in CODE.items() if k != "metadata"}), "cell 0 [a]: it lacks 'metadata'"),
        (notebook_with({**RAW, "extra": 1}), "has 'extra', which the format does not know"),
        (notebook_with({**RAW, "metadata": {"tags": ["a", "a"]}}), "metadata.tags"),
        (notebook_with(metadata=[]), "metadata must be an object, and is a list"),
        (notebook_with({**RAW}, nbformat_minor=4), "has 'id', which the format does not know"),
        ('{"cells":[{"a":NaN,"a":1}],"metadata":{},"nbformat":4,"nbformat_minor":5}', "NaN is no JSON"),
        (
            '{"cells":[{"a":NaN,"a":1}],"metadata":{},"nbformat":4,"nbformat_minor":5}',
            "the key 'a' stands there 2 times",
        ),
        ('{"nbformat":3,"nbformat_minor":0,"metadata":{},"worksheets":[]}', "it is of nbformat 3"),
    ],
)
async def test_what_is_wrong_with_a_notebook_is_told_in_words(
    catalogue: NotebookCatalogue, workspace: Path, text: str, reported: str
) -> None:
    path = workspace / "n.ipynb"
    path.write_text(text)
    before = digest(path)
    info = await catalogue.info("n.ipynb")

    assert any(reported in problem for problem in info.problems), info.problems
    assert digest(path) == before


async def test_valid_notebooks_of_all_versions_have_no_problems(catalogue: NotebookCatalogue, workspace: Path) -> None:
    older = {key: value for key, value in CODE.items() if key != "id"}
    for minor in range(5):
        (workspace / "n.ipynb").write_text(notebook_with(older, nbformat_minor=minor))
        assert (await catalogue.info("n.ipynb")).problems == []
    future = notebook_with({**CODE, "new": 1}, nbformat_minor=9)
    (workspace / "n.ipynb").write_text(future)
    assert (await catalogue.info("n.ipynb")).problems == []


async def test_a_check_that_takes_long_says_where_it_stopped(
    catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook(workspace / "n.ipynb", ["x"] * 500)
    monkeypatch.setattr(notebook_catalogue, "_CHECK_SECONDS", -1.0)
    info = await catalogue.info("n.ipynb")
    assert info.problems == ["cells 0 to 499 were not checked: it took too long"]


async def test_many_problems_are_cut(catalogue: NotebookCatalogue, workspace: Path) -> None:
    (workspace / "n.ipynb").write_text(notebook_with(*({**RAW, "id": f"i{n}", "x": 1} for n in range(500))))
    info = await catalogue.info("n.ipynb")
    assert len(info.problems) == 51
    assert info.problems[-1] == "there are more problems"


@pytest.mark.parametrize("half", [b"", b'{"cells": [', b'{"cells": [{"cell_type": "code", "sour'])
@pytest.mark.parametrize("looks", ["list", "search", "pattern", "outputs", "info"])
async def test_a_notebook_that_is_being_saved_in_place_is_waited_for(
    half: bytes, looks: str, catalogue: NotebookCatalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half comes while the reader waits. Other files are not waited for."""
    whole = write_notebook(workspace / "a.ipynb", ["found = 1"]).read_bytes()
    (workspace / "a.ipynb").write_bytes(half)
    (workspace / "old.ipynb").write_bytes(b"")
    os.utime(workspace / "old.ipynb", (1, 1))
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        (workspace / "a.ipynb").write_bytes(whole)

    monkeypatch.setattr(notebook_service, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    if looks == "list":
        rows = {row.name: row for row in (await catalogue.list()).notebooks}
        assert rows["a.ipynb"].problem is None
        assert rows["a.ipynb"].cell_count == 1
        assert rows["old.ipynb"].problem
        assert "delete it" in rows["old.ipynb"].problem
    elif looks == "info":
        assert (await catalogue.info("a.ipynb")).cell_count == 1
    else:
        found = await catalogue.search(
            "found", regex=looks == "pattern", where="both" if looks == "outputs" else "source"
        )
        assert [match.path for match in found.matches] == ["a.ipynb"]
    assert len(waits) == 1


async def test_a_file_that_stays_half_saved_is_not_to_be_deleted(catalogue: NotebookCatalogue, workspace: Path) -> None:
    (workspace / "a.ipynb").write_bytes(b"")
    (row,) = (await catalogue.list()).notebooks
    assert row.problem is not None
    assert "another program may be saving it" in row.problem
    assert "delete" not in row.problem
