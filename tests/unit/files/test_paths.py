"""Every path parameter of every tool, found by walking the schemas, against every way out of the roots."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import call, digest, read_json, refused, text_of, write_notebook
from mcp import Client

from papermill_mcp.config import Config
from papermill_mcp.errors import ServerError
from papermill_mcp.server.app import build_server
from papermill_mcp.server.sdk import registered_tools
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import read_file, write_file

#: What else a call needs to get as far as the path.
_OTHER: dict[str, dict[str, Any]] = {
    "add_cell": {"cell_type": "code", "source": "x"},
    "compare_notebooks": {"path": "n.ipynb", "with": "n.ipynb"},
    "edit_notebook": {"operations": [{"op": "add", "cell_type": "code", "source": "x"}]},
    "execute_cell": {"code": "1"},
    "execute_notebook_batch": {"input_path": "n.ipynb", "parameters": [{}]},
    "execute_notebook_cell": {"index": 0},
    "execute_notebook_papermill": {"input_path": "n.ipynb"},
    "install_packages": {"packages": ["nothing-like-it"]},
    "remove_cell": {"index": 0},
    "search_notebooks": {"query": "x"},
    "update_cell": {"index": 0, "source": "changed"},
    "verify_notebook": {"update": True},
    "write_notebook": {
        "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
        "overwrite": True,
    },
}
_PATHS = re.compile(r"(^|_)(paths?|directory)$|^cwd$|^with$")
_ONLY_READS = {"read_notebook", "get_notebook_info", "list_notebook_files", "search_notebooks", "install_packages"}
_OF_KERNELS = {"get_kernel_status", "inspect_variables", "interrupt_kernel", "restart_kernel", "stop_kernel"}
_ONLY_READS |= _OF_KERNELS | {"execute_cell", "notebook_history", "compare_notebooks"}


def _parameters() -> list[tuple[str, str]]:
    tools = registered_tools(build_server(Config()))
    return [(tool.name, name) for tool in tools for name in tool.parameters["properties"] if _PATHS.search(name)]


PARAMETERS = _parameters()
MAKES = {"create_notebook", "write_notebook"}
#: May be a directory as well.
_SEARCHED = ("search_notebooks", "path")
NOTEBOOKS = [one for one in PARAMETERS if one[1] in ("path", "with", "input_path", "input_paths") and one != _SEARCHED]
WRITTEN = [(tool, name) for tool, name in NOTEBOOKS if name == "path" and tool not in _ONLY_READS]
each_parameter = pytest.mark.parametrize(("tool", "name"), PARAMETERS, ids=[".".join(one) for one in PARAMETERS])
each_notebook = pytest.mark.parametrize(("tool", "name"), NOTEBOOKS, ids=[".".join(one) for one in NOTEBOOKS])
each_written = pytest.mark.parametrize(("tool", "name"), WRITTEN, ids=[tool for tool, _ in WRITTEN])


def _file(name: str) -> bool:
    return not (name.endswith("directory") or name == "cwd")


def _arguments(tool: str, name: str, path: str) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(_OTHER.get(tool, {}))
    if name.endswith("paths"):
        arguments.pop(name[:-1], None)  # the one instead of the other
        return arguments | {name: [path]}
    return arguments | {name: path}


async def _refused(client: Client, tool: str, name: str, path: str) -> str:
    """The message of a refusal. It starts no kernel."""
    message = await refused(client, tool, seconds=5, **_arguments(tool, name, path))
    if tool.startswith(("start_", "execute_")):
        assert "active: none" in text_of(await client.call_tool("list_kernels", {}))
    return message


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the root whose content must neither be shown nor change."""
    directory = tmp_path / "outside"
    directory.mkdir()
    write_notebook(directory / "secret.ipynb", ["CANARY = 1"])
    before = _tree(directory)
    yield directory
    assert _tree(directory) == before


def _tree(directory: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def notebook(workspace: Path) -> Path:
    return write_notebook(workspace / "n.ipynb", ["x"])


def test_the_walk_finds_the_parameters_there_are() -> None:
    assert ("read_notebook", "path") in PARAMETERS
    assert ("list_notebook_files", "directory") in PARAMETERS
    assert ("start_kernel", "cwd") in PARAMETERS
    assert ("execute_notebook_papermill", "output_path") in PARAMETERS


@pytest.mark.case("P01")
@each_parameter
async def test_p01_no_spelling_leads_out_of_the_roots(
    tool: str, name: str, client: Connect, workspace: Path, outside: Path
) -> None:
    paths = [
        "../outside/secret.ipynb",
        "a/../../outside/secret.ipynb",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        str(outside / "secret.ipynb"),
        f"{workspace}x/secret.ipynb",
        f"{workspace}/../outside/secret.ipynb",
        "../outside/missing.ipynb",
    ]
    before = _tree(workspace)
    async with client() as connected:
        for path in paths:
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: "), path
            assert str(workspace) in message, path
            assert "Nothing was read" in message, path
            assert "CANARY" not in message
        there = await _refused(connected, tool, name, "../outside/secret.ipynb")
        missing = await _refused(connected, tool, name, "../outside/absents.ipynb")
    assert there.replace("secret", "absents") == missing, "the answer tells whether the target exists"
    assert _tree(workspace) == before


@pytest.mark.case("P04")
@each_parameter
async def test_p04_characters_that_deceive_are_named(tool: str, name: str, client: Connect) -> None:
    odd = {
        "a\0.ipynb": "U+0000",
        "a\n.ipynb": "U+000A",
        "a\x1b[0m.ipynb": "U+001B",
        "a\u202eb.ipynb": "U+202E",
        "a\u200b.ipynb": "U+200B",
        "a\U000e0041.ipynb": "U+E0041",
        "a.ipynb ": "U+0020",
        "a.ipynb'": "U+0027",
        'a.ipynb"': "U+0022",
        "a.ipynb.": "U+002E",
    }
    async with client() as connected:
        for path, code in odd.items():
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: "), path
            assert code in message, path


@pytest.mark.case("P05")
@each_parameter
async def test_p05_paths_that_are_too_long_are_refused_with_the_limit(tool: str, name: str, client: Connect) -> None:
    async with client() as connected:
        for path in (
            "x" * 5000 + ".ipynb",
            "x" * 300 + ".ipynb",
            *(f"{'a/' * n}x.ipynb" for n in (300, 3000)),
            f"{'é' * 200}.ipynb",
        ):
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: ")
            assert re.search(r"4,096|255|256", message), path[:20]
            assert len(message) < 1500


@pytest.mark.case("P06")
@each_parameter
async def test_p06_urls_are_refused_and_nothing_connects(tool: str, name: str, client: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.setblocking(False)
        host = f"127.0.0.1:{canary.getsockname()[1]}"
        urls = [f"http://{host}/x.ipynb", f"HTTP://{host}/x.ipynb", f" s3://{host}/x.ipynb", f"gs://{host}/x.ipynb"]
        urls += ["file:///etc/x.ipynb", "hdfs://h/x.ipynb", "adl://h/x.ipynb", "abs://h/x.ipynb"]
        urls += [f"https://github.com@{host}/x.ipynb"]
        async with client() as connected:
            for url in urls:
                message = await _refused(connected, tool, name, url)
                assert message.startswith("PATH_NOT_ALLOWED: "), url
        with pytest.raises(BlockingIOError):
            canary.accept()


@pytest.mark.case("P09", "P10")
@each_parameter
async def test_p09_and_p10_text_is_taken_literally(
    tool: str, name: str, client: Connect, monkeypatch: pytest.MonkeyPatch, outside: Path
) -> None:
    """JSON is no notebook, and nothing expands but `~`, which is outside here."""
    if tool in MAKES or name in ("output_path", "output_directory"):
        pytest.skip("missing directories are made: see the next tests")
    monkeypatch.setenv("HOME", str(outside))
    paths = ["$HOME/secret.ipynb", "${HOME}.ipynb", "%2e%2e/outside/secret.ipynb"]
    paths += ['{"cells": [], "nbformat": 4}.ipynb', "{path}.ipynb", "*.ipynb", "none.ipynb", "none/none.ipynb"]
    async with client() as connected:
        for path in paths:
            message = await _refused(connected, tool, name, path)
            assert message.startswith("NOT_FOUND: "), message
        for path in ("~/secret.ipynb", f"file://{outside}/secret.ipynb", "file:///%2e%2e/x.ipynb", "~root/x.ipynb"):
            message = await _refused(connected, tool, name, path)
            assert message.startswith(("PATH_NOT_ALLOWED: ", "NOT_FOUND: ") if "root" in path else "PATH_NOT_ALLOWED: ")


@pytest.mark.case("P10")
@pytest.mark.parametrize("tool", sorted(MAKES))
async def test_p10_a_directory_of_a_new_notebook_is_made_under_its_literal_name(
    tool: str, client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch, outside: Path
) -> None:
    monkeypatch.setenv("HOME", str(outside))
    async with client() as connected:
        for name in ("$HOME/x.ipynb", "%2e%2e/x.ipynb", "{path}/${HOME}/x.ipynb"):
            result = await connected.call_tool(tool, _arguments(tool, "path", name))
            assert not result.is_error, result
            assert (workspace / name).is_file()


@pytest.mark.case("P10")
@pytest.mark.kernel
async def test_p10_a_directory_for_outputs_is_made_under_its_literal_name(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch, outside: Path
) -> None:
    monkeypatch.setenv("HOME", str(outside))
    write_notebook(workspace / "n.ipynb", ["1"])
    names = ["~a", "$HOME/a", "%2e%2e/b", "{path}"]
    async with client() as connected:
        for name in names:
            arguments = {"input_path": "n.ipynb", "output_directory": name}
            result = await connected.call_tool("execute_notebook_batch", arguments)
            assert not result.is_error, result

    assert all(len(list((workspace / name).glob("*.ipynb"))) == 1 for name in names)


@pytest.mark.case("P11")
@each_parameter
async def test_p11_links_are_followed_inside_the_roots_only(
    tool: str, name: str, client: Connect, workspace: Path, outside: Path
) -> None:
    links: dict[str, str | Path] = {
        "file.ipynb": outside / "secret.ipynb",
        "dir": outside,
        "one.ipynb": "two.ipynb",
        "two.ipynb": "three.ipynb",
        "three.ipynb": outside / "secret.ipynb",
        "loop.ipynb": "loop.ipynb",
        "above": "..",
    }
    for link, target in links.items():
        (workspace / link).symlink_to(target)
    before = _tree(workspace)
    async with client() as connected:
        for path in ("file.ipynb", "dir/secret.ipynb", "dir", "one.ipynb", "loop.ipynb", "above/outside/secret.ipynb"):
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: "), message
            assert "CANARY" not in message
    assert _tree(workspace) == before


@pytest.mark.case("P11")
@each_notebook
async def test_p11_a_dangling_link_is_not_found_and_makes_no_file_elsewhere(
    tool: str, name: str, client: Connect, workspace: Path
) -> None:
    (workspace / "gone.ipynb").symlink_to("nowhere/missing.ipynb")
    async with client() as connected:
        message = await _refused(connected, tool, name, "gone.ipynb")
    assert message.startswith("NOT_FOUND: ")
    assert not (workspace / "nowhere").exists()


@pytest.mark.case("P15")
@each_notebook
async def test_p15_what_is_no_regular_file_is_refused_at_once(
    tool: str, name: str, client: Connect, workspace: Path
) -> None:
    os.mkfifo(workspace / "pipe.ipynb")
    (workspace / "zero.ipynb").symlink_to("/dev/zero")
    (workspace / "directory.ipynb").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        os.fchdir(os.open(workspace, os.O_RDONLY))
        try:
            server.bind("socket.ipynb")
        finally:
            os.fchdir(here)
            os.close(here)
        async with client() as connected:
            for path in ("pipe.ipynb", "zero.ipynb", "directory.ipynb", "socket.ipynb"):
                began = time.monotonic()
                message = await _refused(connected, tool, name, path)
                assert message.startswith("PATH_NOT_ALLOWED: "), path
                assert time.monotonic() - began < 1


@pytest.mark.case("P16", "P18")
@each_notebook
async def test_p16_only_notebooks_are_read_or_written(tool: str, name: str, client: Connect, workspace: Path) -> None:
    paths = ("a.txt", "a.py", "a", "a.ipynb.bak", ".ipynb", "ipynb", "kernel.json")
    for path in paths:
        (workspace / path).write_bytes((workspace / "n.ipynb").read_bytes())
    before = _tree(workspace)
    async with client() as connected:
        for path in paths:
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: "), path
            assert ".ipynb" in message
    assert _tree(workspace) == before


@pytest.mark.case("P17")
@each_written
async def test_p17_nothing_is_written_to_hidden_places(tool: str, name: str, client: Connect, workspace: Path) -> None:
    for hidden in (".git", ".ipynb_checkpoints", ".jupyter"):
        (workspace / hidden).mkdir()
        write_notebook(workspace / hidden / "x.ipynb", ["x"])
    before = _tree(workspace)
    async with client() as connected:
        for path in (".git/x.ipynb", ".ipynb_checkpoints/x.ipynb", ".jupyter/x.ipynb", ".x.ipynb"):
            message = await _refused(connected, tool, name, path)
            assert message.startswith("PATH_NOT_ALLOWED: ")
            assert "hidden" in message
    assert _tree(workspace) == before


@pytest.mark.case("P17")
@each_parameter
async def test_p17_the_state_directory_is_ours_alone(tool: str, name: str, client: Connect, workspace: Path) -> None:
    state = workspace / "state"
    state.mkdir()
    write_notebook(state / "x.ipynb", ["x"])
    async with client(state_directory=state) as connected:
        message = await _refused(connected, tool, name, "state/x.ipynb" if _file(name) else "state")
    assert message.startswith("PATH_NOT_ALLOWED: ")


@pytest.mark.case("P03", "P11", "P16")
async def test_p03_p11_p16_ways_that_stay_inside_work(client: Connect, workspace: Path) -> None:
    (workspace / "a").mkdir()
    (workspace / "link.ipynb").symlink_to("n.ipynb")
    (workspace / "b").symlink_to("a")
    write_notebook(workspace / "a" / "m.ipynb", ["m"])
    write_notebook(workspace / "UPPER.IPYNB", ["u"])
    async with client() as connected:
        for path in ("a/../n.ipynb", "./n.ipynb", str(workspace / "n.ipynb"), "link.ipynb", "b/m.ipynb", "UPPER.IPYNB"):
            result = await connected.call_tool("update_cell", {"path": path, "index": 0, "source": path})
            assert not result.is_error, text_of(result)
    assert (workspace / "link.ipynb").is_symlink(), "a save replaced a link"
    assert "".join(read_json(workspace / "n.ipynb")["cells"][0]["source"]) == "link.ipynb"


@pytest.mark.case("P13")
async def test_p13_a_directory_that_is_swapped_for_a_link_leads_nowhere(
    client: Connect, workspace: Path, tmp_path: Path, outside: Path
) -> None:
    """While a thread flips a directory and a link to the outside, nothing out there is read or touched."""
    real, swapped = workspace / "real", workspace / "d"
    real.mkdir()
    write_notebook(real / "secret.ipynb", ["inside"])
    end = threading.Event()
    flips = 0

    def flip() -> None:
        nonlocal flips
        while not end.is_set():
            os.rename(real, swapped)
            os.rename(swapped, real)
            os.symlink(outside, swapped)
            os.unlink(swapped)
            flips += 1

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        async with client() as connected, asyncio.timeout(20):
            until = time.monotonic() + 1
            while time.monotonic() < until:
                read = await connected.call_tool("read_notebook", {"path": "d/secret.ipynb"})
                await connected.call_tool("add_cell", {"path": "d/secret.ipynb", "cell_type": "raw", "source": "x"})
                found = await connected.call_tool("search_notebooks", {"query": "CANARY", "path": "."})
                assert "CANARY = 1" not in text_of(read) + text_of(found)
    finally:
        end.set()
        thread.join()
    assert flips > 100


@pytest.mark.case("P19")
async def test_p19_a_run_does_not_write_over_its_input(client: Connect, workspace: Path) -> None:
    (workspace / "link.ipynb").symlink_to("n.ipynb")
    os.link(workspace / "n.ipynb", workspace / "hard.ipynb")
    before = digest(workspace / "n.ipynb")
    async with client() as connected:
        for output in ("n.ipynb", "./n.ipynb", "link.ipynb", "hard.ipynb", str(workspace / "n.ipynb")):
            arguments = {"input_path": "n.ipynb", "output_path": output, "overwrite": True}
            message = await refused(connected, "execute_notebook_papermill", **arguments)
            assert "input" in message, message
    assert digest(workspace / "n.ipynb") == before


@pytest.mark.case("P20")
@pytest.mark.parametrize("directory", ["../outside", "file", "missing/../../outside"])
async def test_p20_an_output_directory_is_inside_and_a_directory(
    client: Connect, workspace: Path, outside: Path, directory: str
) -> None:
    (workspace / "file").write_text("x")
    before = digest(workspace / "n.ipynb")
    async with client(output_directory=workspace / directory) as connected:
        message = await refused(connected, "execute_notebook_papermill", input_path="n.ipynb")
    assert message.startswith(("PATH_NOT_ALLOWED: ", "NOT_FOUND: "))
    assert digest(workspace / "n.ipynb") == before


@pytest.mark.case("P13")
def test_a_directory_that_is_swapped_for_a_link_while_calls_run_leads_nowhere(tmp_path: Path) -> None:
    """P13: whatever the moment of the swap, nothing outside the root is read or written."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "x.ipynb").write_bytes(b"inside")
    (outside / "x.ipynb").write_bytes(b"canary")
    resolver = Workspace([root])
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        # Waits of random length let the swap meet every step of a call. Without them a slow machine sees the link only.
        nonlocal swaps
        chance = random.Random(13)
        while not stop.wait(chance.random() / 500):
            (root / "d").rename(root / "aside")
            (root / "d").symlink_to(outside)
            swaps += 1
            stop.wait(chance.random() / 2000)
            (root / "d").unlink()
            (root / "aside").rename(root / "d")

    swapper = threading.Thread(target=swap)
    swapper.start()
    read: set[bytes] = set()
    refused = 0
    try:
        began = time.monotonic()
        while (gone := time.monotonic() - began) < 1 or (gone < 40 and not (read and refused and swaps > 20)):
            for writing in (False, True):
                try:
                    path = resolver.notebook("d/x.ipynb", writing=writing)
                    if writing:
                        write_file(
                            path, b"inside", expected=None, overwrite=True, display_path="d/x.ipynb", durable=False
                        )
                    else:
                        read.add(read_file(path, max_bytes=1000, display_path="d/x.ipynb").data)
                except ServerError:
                    refused += 1
    finally:
        stop.set()
        swapper.join()

    assert swaps > 20
    assert refused > 0
    assert read == {b"inside"}
    assert [path.name for path in outside.iterdir()] == ["x.ipynb"]
    assert (outside / "x.ipynb").read_bytes() == b"canary"


@pytest.mark.parametrize(
    "form", ["~/in home/a b.ipynb", "file://{}/in%20home/a%20b.ipynb", "FILE://localhost{}/in home/a b.ipynb"]
)
async def test_home_and_file_uris_are_understood(
    form: str, client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    name = form.format(workspace)
    async with client() as connected:
        made = await call(connected, "create_notebook", path=name)
        read = await call(connected, "read_notebook", path=name)
        listed = await call(connected, "list_notebook_files", directory=name.rpartition("/")[0])
    assert made["path"] == read["path"] == "in home/a b.ipynb"
    assert listed["count"] == 1
    assert (workspace / "in home" / "a b.ipynb").is_file()


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("sale.ipynb", "sales.ipynb"),
        ("Sales.ipynb", "sales.ipynb"),
        ("data/modle.ipynb", "data/model.ipynb"),
        ("model.ipynb", "data/model.ipynb"),
        ("date/model.ipynb", "data/model.ipynb"),
        ("sales", "sales.ipynb"),
        ("zzz.ipynb", ""),
    ],
)
async def test_a_path_that_is_not_found_is_answered_with_the_nearest_names(
    asked: str, near: str, client: Connect, workspace: Path
) -> None:
    (workspace / "data").mkdir()
    write_notebook(workspace / "sales.ipynb", ["1"])
    write_notebook(workspace / "data" / "model.ipynb", ["1"])
    async with client() as connected:
        message = await refused(connected, "read_notebook", path=asked)
    assert (f"'{near}'" in message) is bool(near), message
    assert not near or "id you mean" in message
