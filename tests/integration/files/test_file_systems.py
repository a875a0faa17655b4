"""Cases of paths and file systems that need real disks, real limits or other processes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from conftest import Connect, MakeConfig, StartRaw
from helpers import Json, RawServer, call, digest, read_json, refused, stdout_in, text_of, until, write_notebook

from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import CellRef, Update
from papermill_mcp.services.workspace import Workspace

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs file systems and limits of Linux")


async def failed(server: RawServer, tool: str, /, *, seconds: float = 30, **arguments: Any) -> str:
    """Call a tool that must fail. Returns the error message."""
    result = await server.request("tools/call", {"name": tool, "arguments": arguments}, seconds=seconds)
    assert result.get("isError"), result
    return str(result["content"][0]["text"])


def temporary_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*.tmp")]


# Races

#: Exchanges two names for as long as its standard input is open, then says how often.
_FLIPPER = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
flips = 0
while not ended.is_set():
    assert libc.renameat2(-100, os.fsencode(sys.argv[1]), -100, os.fsencode(sys.argv[2]), 2) == 0
    flips += 1
print(flips)
"""


def can_exchange(directory: Path) -> bool:
    """Whether the file system can exchange two names in one step."""
    names = [directory / "exchange-a", directory / "exchange-b"]
    for name in names:
        name.touch()
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    done = function is not None and function(-100, os.fsencode(names[0]), -100, os.fsencode(names[1]), 2) == 0
    for name in names:
        name.unlink()
    return done


@pytest.mark.case("P13")
@pytest.mark.slow
@linux_only
async def test_a_directory_exchanged_for_a_link_10_000_times_leads_nowhere(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    """At every instant `d` is a directory inside the roots or a link out of them; every tool goes through it."""
    if not can_exchange(tmp_path):
        pytest.skip("the file system cannot exchange names")
    outside = tmp_path / "outside"
    outside.mkdir()
    write_notebook(outside / "n.ipynb", ["CANARY = 1", "#" * 7000])
    write_notebook(outside / "only.ipynb", ["CANARY = 2", "#" * 9000])
    (workspace / "d").mkdir()
    write_notebook(workspace / "d" / "n.ipynb", ["inside = 1"])
    (workspace / "hidden.txt").symlink_to(outside)
    (workspace / "link.ipynb").symlink_to("d/only.ipynb")
    before = {path.name: (digest(path), path.stat().st_mtime_ns) for path in outside.iterdir()}
    sizes = {f"{path.stat().st_size:,}" for path in outside.iterdir()}
    command = [sys.executable, "-c", _FLIPPER, str(workspace / "d"), str(workspace / "hidden.txt")]
    flipper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    calls: list[tuple[str, Json]] = [
        ("read_notebook", {"path": "d/n.ipynb"}),
        ("read_notebook", {"path": "link.ipynb"}),
        ("get_notebook_info", {"path": "d/only.ipynb"}),
        ("list_notebook_files", {"directory": "d"}),
        ("list_notebook_files", {"recursive": True}),
        ("search_notebooks", {"query": "CANARY"}),
        ("search_notebooks", {"query": "CANARY", "path": "d/only.ipynb"}),
        ("add_cell", {"path": "d/n.ipynb", "cell_type": "raw", "source": "x"}),
        ("remove_cell", {"path": "d/n.ipynb", "index": -1}),
        ("write_notebook", {"path": "d/n.ipynb", "overwrite": True, "content": {"cells": []}}),
        ("create_notebook", {"path": "d/new.ipynb", "overwrite": True}),
    ]
    done = {True: 0, False: 0}
    try:
        async with client() as connected, asyncio.timeout(100):
            end = time.monotonic() + 15
            while time.monotonic() < end:
                for tool, arguments in calls:
                    result = await connected.call_tool(tool, arguments)
                    done[result.is_error] += 1
                    text = text_of(result).replace("query: CANARY", "")
                    assert "CANARY" not in text
                    assert not any(size in text for size in sizes), text
    finally:
        flips = int(flipper.communicate("", timeout=10)[0])
    assert flips > 10_000
    assert min(done.values()) > 20, done
    assert {path.name: (digest(path), path.stat().st_mtime_ns) for path in outside.iterdir()} == before


# Many files


@pytest.mark.case("P22")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_tree_of_very_many_files_is_answered_in_time_with_what_was_left_out(
    client: Connect, workspace: Path
) -> None:
    """200,000 files, 1,000 levels, and links that lead round in circles."""
    try:
        descriptor = os.open(workspace, os.O_RDONLY)
        for number in range(1000):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            if number % 100 == 0:
                os.symlink(workspace, "loop", dir_fd=descriptor)
        os.close(descriptor)
        (workspace / "many").mkdir()
        for number in range(200_000):
            os.mknod(workspace / "many" / f"{number}.ipynb")
        write_notebook(workspace / "many" / "0.ipynb", ["findme"])
        async with client() as connected:
            calls: list[tuple[str, Json, str, float]] = [
                ("list_notebook_files", {"recursive": True}, "levels|ended", 5),
                ("list_notebook_files", {"directory": "many"}, "of 200000|ended", 5),
                ("search_notebooks", {"query": "findme"}, "not searched|could not be read", 20),
            ]
            for tool, arguments, reported, limit in calls:
                began, used = time.monotonic(), time.process_time()
                result = await connected.call_tool(tool, arguments)
                # On a machine that is busy with something else, the work counts and not the waiting.
                took = min(time.monotonic() - began, time.process_time() - used)
                assert not result.is_error, text_of(result)
                assert re.search(reported, text_of(result)), text_of(result)[-600:]
                assert took < limit, (tool, arguments, took)
    finally:
        subprocess.run(["rm", "-rf", str(workspace / "d"), str(workspace / "many")], check=True)  # too deep for pytest


# Rights


@pytest.fixture
def ruled_server(workspace: Path, state_directory: Path, tmp_path: Path) -> Callable[[], Any]:
    """A server that the modes of files bind, also where the tests run as root."""

    def start() -> AbstractAsyncContextManager[RawServer]:
        if os.geteuid() != 0:
            return RawServer.running(workspace, state_directory)
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        python = tmp_path / "python-without-override"
        bounding = "-dac_override,-dac_read_search,-fowner"
        python.write_text(f'#!/bin/sh\nexec setpriv --bounding-set={bounding} {sys.executable} "$@"\n')
        python.chmod(0o755)
        return RawServer.running(workspace, state_directory, python=str(python))

    return start


@pytest.mark.case("P24", "F08")
async def test_what_may_not_be_read_or_written_is_named_as_the_client_names_it(
    ruled_server: Callable[[], AbstractAsyncContextManager[RawServer]], workspace: Path
) -> None:
    """Through the protocol: files and directories without rights. Nothing falls back to writing in place."""
    modes = {"secret.ipynb": 0o000, "readonly.ipynb": 0o444, "open.ipynb": 0o644}
    directories = {"closed": 0o000, "unlisted": 0o111, "fixed": 0o555}
    for name in modes:
        write_notebook(workspace / name, ["x"])
    for name in directories:
        (workspace / name).mkdir()
        write_notebook(workspace / name / "n.ipynb", ["findme"])
    before = {path: (digest(path), path.stat().st_ino) for path in workspace.rglob("*.ipynb")}
    for name, mode in (modes | directories).items():
        (workspace / name).chmod(mode)
    change: Json = {"index": 0, "source": "changed"}
    try:
        async with ruled_server() as server:
            cases: list[tuple[str, str, Json]] = [
                ("read_notebook", "secret.ipynb", {}),
                ("get_notebook_info", "secret.ipynb", {}),
                ("update_cell", "secret.ipynb", change),
                ("read_notebook", "closed/n.ipynb", {}),
                ("create_notebook", "closed/new.ipynb", {}),
                ("update_cell", "readonly.ipynb", change),
                ("update_cell", "fixed/n.ipynb", change),
                ("create_notebook", "fixed/new.ipynb", {}),
                ("execute_notebook_papermill", "fixed/out.ipynb", {"input_path": "open.ipynb"}),
            ]
            for tool, path, arguments in cases:
                named = {"output_path" if "input_path" in arguments else "path": path}
                message = await failed(server, tool, **(arguments | named))
                assert message.startswith("PERMISSION_DENIED: "), message
                assert path in message, message
                assert str(workspace) not in message, message
            message = await failed(server, "list_notebook_files", directory="closed")
            assert message.startswith("PERMISSION_DENIED: "), message
            await server.call("read_notebook", path="unlisted/n.ipynb")
            listed = await server.call("list_notebook_files", recursive=True)
            assert "unreadable directories: 2 skipped" in listed["notes"]
            problems = {row["path"]: row.get("problem", "") for row in listed["notebooks"]}
            assert problems["secret.ipynb"].startswith("PERMISSION_DENIED: ")
            found = await server.call("search_notebooks", query="findme")
            assert [match["path"] for match in found["matches"]] == ["fixed/n.ipynb"]
            await server.call("update_cell", path="open.ipynb", index=0, source="x")
        assert server.impure == []
    finally:
        for name in modes | directories:
            (workspace / name).chmod(0o755)
    assert {path: (digest(path), path.stat().st_ino) for path in workspace.rglob("*.ipynb")} == before
    assert temporary_files(workspace) == []


@pytest.mark.case("P20")
async def test_a_directory_for_outputs_that_may_not_be_written_ends_in_an_error_of_ours(
    ruled_server: Callable[[], AbstractAsyncContextManager[RawServer]], workspace: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", ["1"])
    before = digest(path)
    (workspace / "outputs").mkdir(mode=0o555)
    (workspace / "above").mkdir(mode=0o555)
    async with ruled_server() as server:
        chosen: list[Json] = [{}, {"output_path": "outputs/o.ipynb"}]
        for arguments in chosen:
            message = await failed(server, "execute_notebook_papermill", input_path="n.ipynb", **arguments)
            assert message.startswith("PERMISSION_DENIED: "), message
        message = await failed(
            server, "execute_notebook_batch", input_path="n.ipynb", parameters=[{}], output_directory="above/new"
        )
        assert message.startswith("PERMISSION_DENIED: "), message
        assert (await server.call("list_kernels"))["active"] == []
    assert digest(path) == before
    assert [path.name for path in (workspace / "outputs").iterdir()] == []


# Small disks


class SmallDisk(Protocol):
    """Starts a server for which a directory is a small file system of its own, seen by nobody else."""

    def __call__(self, directory: Path, options: str, *flags: str) -> AbstractAsyncContextManager[RawServer]: ...


@pytest.fixture
def small_disk(workspace: Path, state_directory: Path, tmp_path: Path) -> SmallDisk:
    probe = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs tmpfs "$0"', str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")

    @asynccontextmanager
    async def start(directory: Path, options: str, *flags: str) -> AsyncIterator[RawServer]:
        directory.mkdir(exist_ok=True)
        python = tmp_path / "python-with-disk"
        python.write_text(
            "#!/bin/sh\n"
            f'export DISK="{directory}" OPTIONS="{options}" PYTHON="{sys.executable}"\n'
            """exec unshare -Urm sh -c 'mount -t tmpfs -o "$OPTIONS" tmpfs "$DISK" && exec "$PYTHON" "$@"' sh "$@"\n"""
        )
        python.chmod(0o755)
        async with RawServer.running(workspace, state_directory, *flags, python=str(python)) as server:
            yield server

    return start


def seen_by(server: RawServer, path: Path) -> Path:
    """A path as the server sees it, with the file systems that only it has."""
    return Path(f"/proc/{server.pid}/root{path}")


def fill(path: Path) -> None:
    """Take up all that is left of a file system."""
    with path.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass


@pytest.mark.case("F01")
@pytest.mark.slow
@pytest.mark.kernel
@linux_only
async def test_a_disk_that_is_really_full_costs_nothing_but_the_new_version(
    small_disk: SmallDisk, workspace: Path
) -> None:
    """An edit, a new notebook, an output and the saves of a run; and all of them once there is space again."""
    async with small_disk(workspace, "size=512k") as server:
        inside = seen_by(server, workspace)
        source = "print('x' * 100_000)"
        await server.call("create_notebook", path="n.ipynb", cells=[{"cell_type": "code", "source": source}])
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        before = digest(inside / "n.ipynb")
        fill(inside / "ballast")
        for tool, arguments in (
            ("update_cell", {"path": "n.ipynb", "index": 0, "source": "y" * 5000}),
            ("create_notebook", {"path": "new.ipynb"}),
            ("write_notebook", {"path": "n.ipynb", "overwrite": True, "content": {"cells": []}}),
            ("execute_notebook_papermill", {"input_path": "n.ipynb", "output_path": "out.ipynb"}),
        ):
            message = await failed(server, tool, **arguments)
            assert message.startswith("DISK_FULL: "), message
            assert "is unchanged" in message, message
            assert sorted(path.name for path in inside.iterdir()) == ["ballast", "n.ipynb"]
        run = await server.call("execute_notebook", path="n.ipynb", kernel_id=kernel_id)
        assert run["status"] == "error"
        assert "the last save failed" in " ".join(run["notes"])
        assert "DISK_FULL" in " ".join(run["notes"])
        assert digest(inside / "n.ipynb") == before

        (inside / "ballast").unlink()
        run = await server.call("execute_notebook", path="n.ipynb", kernel_id=kernel_id)
        assert not run.get("notes")
        assert stdout_in(read_json(inside / "n.ipynb")["cells"][0]) == "x" * 100_000 + "\n"
        await server.call("update_cell", path="n.ipynb", index=0, source="y" * 5000)
        await server.call("create_notebook", path="new.ipynb")
        assert temporary_files(inside) == []
    assert server.impure == []


@pytest.mark.case("F08")
@linux_only
async def test_a_read_only_file_system_is_told_and_read_all_the_same(small_disk: SmallDisk, workspace: Path) -> None:
    async with small_disk(workspace, "size=512k") as server:
        await server.call("create_notebook", path="n.ipynb")
        before = digest(seen_by(server, workspace / "n.ipynb"))
        remount = ["nsenter", f"--user=/proc/{server.pid}/ns/user", f"--mount=/proc/{server.pid}/ns/mnt"]
        remount += ["--preserve-credentials", "mount", "-o", "remount,ro", str(workspace)]
        if subprocess.run(remount, capture_output=True, check=False).returncode:
            pytest.skip("the file system of another process may not be changed here")
        calls: list[tuple[str, Json]] = [
            ("add_cell", {"path": "n.ipynb", "cell_type": "raw", "source": "x"}),
            ("create_notebook", {"path": "new.ipynb"}),
        ]
        for tool, arguments in calls:
            message = await failed(server, tool, **arguments)
            assert message.startswith("PERMISSION_DENIED: "), message
            assert re.search("(?i)read-only", message), message
        await server.call("read_notebook", path="n.ipynb")
        assert digest(seen_by(server, workspace / "n.ipynb")) == before


@pytest.mark.case("F08")
@linux_only
async def test_a_file_that_is_made_immutable_is_told_and_stays(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "n.ipynb", ["x"])
    before = digest(path)
    if not shutil.which("chattr") or subprocess.run(["chattr", "+i", str(path)], capture_output=True).returncode:
        pytest.skip("no file may be made immutable here")
    try:
        async with client() as connected:
            message = await refused(connected, "update_cell", path="n.ipynb", index=0, source="y")
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)
    assert message.startswith("PERMISSION_DENIED: "), message
    assert digest(path) == before
    assert temporary_files(workspace) == []


# The state directory


async def edits_are_safe(server: RawServer) -> None:
    """Edits go on, and conflicts are noticed."""
    made = await server.call("create_notebook", path="safe.ipynb")
    added = await server.call("add_cell", path="safe.ipynb", cell_type="code", source="print('ran')")
    old = made["revision"]
    message = await failed(server, "add_cell", path="safe.ipynb", cell_type="raw", source="y", if_revision=old)
    assert message.startswith("CONFLICT: ")
    assert (await server.call("read_notebook", path="safe.ipynb"))["revision"] == added["revision"]
    await server.call("list_executions")


@pytest.mark.case("F16", "F21", "W06")
@pytest.mark.slow
@pytest.mark.kernel
@linux_only
@pytest.mark.parametrize("options", ["size=4k", "ro,size=1m", "nr_inodes=2,size=64k"])
async def test_a_state_directory_that_is_full_or_read_only_costs_only_what_is_kept_there(
    options: str, small_disk: SmallDisk, state_directory: Path, workspace: Path
) -> None:
    """Edits and runs go on as ever, and the log says what is missing."""
    async with small_disk(state_directory, options) as server:
        if not options.startswith("ro"):
            with contextlib.suppress(OSError):
                fill(seen_by(server, state_directory / "ballast"))
        await edits_are_safe(server)
        run = await server.call("execute_notebook", path="safe.ipynb", idempotency_key="k")
        assert run["status"] == "ok"
        assert any("idempotency_key is known to this server only" in note for note in run["notes"])
        again = await server.call("execute_notebook", path="safe.ipynb", idempotency_key="k")
        assert again["execution_id"] == run["execution_id"]
        assert stdout_in(read_json(workspace / "safe.ipynb")["cells"][0]) == "ran\n"
        await edit_and_leave(server, workspace)
    assert "state directory cannot be used" in server.errors, server.errors
    assert "Traceback" not in server.errors, server.errors


async def edit_and_leave(server: RawServer, workspace: Path) -> None:
    """The server lives, and ends as it should."""
    await server.call("update_cell", path="safe.ipynb", index=0, source="edited")
    assert "edited" in (workspace / "safe.ipynb").read_text()
    assert temporary_files(workspace) == []
    server.close_stdin()
    assert await server.exit_code(seconds=5) == 0


@pytest.mark.case("F16")
@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("broken", ["missing", "garbage", "truncated", "directories", "file"])
async def test_a_state_directory_that_is_missing_or_broken_keeps_nobody_from_working(
    broken: str, raw_server: StartRaw, state_directory: Path, workspace: Path
) -> None:
    if broken == "file":
        state_directory.write_text("in the way")
    elif broken != "missing":
        async with raw_server() as server:
            await edits_are_safe(server)
            await server.call("execute_notebook", path="safe.ipynb")
            server.close_stdin()
            await server.exit_code(seconds=5)
        (workspace / "safe.ipynb").unlink()
        for file in [path for path in state_directory.rglob("*") if path.is_file()]:
            if broken == "garbage":
                file.write_bytes(random.Random(file.name).randbytes(5000))
            elif broken == "truncated":
                os.truncate(file, file.stat().st_size // 2)
            else:
                file.unlink()
                file.mkdir()
    async with raw_server() as server:
        await edits_are_safe(server)
        assert (await server.call("execute_notebook", path="safe.ipynb"))["status"] == "ok"
        await edit_and_leave(server, workspace)
    assert broken != "file" or "state directory cannot be used" in server.errors, server.errors
    assert "Traceback" not in server.errors, server.errors


# Limits and delays


@pytest.mark.case("F18")
@pytest.mark.slow
@linux_only
async def test_a_notebook_for_which_there_is_no_memory_ends_in_an_error_and_not_the_server(
    raw_server: StartRaw, workspace: Path
) -> None:
    path = write_notebook(workspace / "large.ipynb", ["x" * 50_000_000])
    write_notebook(workspace / "small.ipynb", ["x"])
    before = digest(path)
    async with raw_server() as server:
        await server.call("update_cell", path="small.ipynb", index=0, source="y")
        await server.call("get_notebook_info", path="small.ipynb")
        used = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.prlimit(server.pid, resource.RLIMIT_AS)
        resource.prlimit(server.pid, resource.RLIMIT_AS, (used + 60_000_000, most))
        calls: list[tuple[str, Json]] = [
            ("read_notebook", {}),
            ("get_notebook_info", {}),
            ("update_cell", {"index": 0, "source": "y"}),
        ]
        for tool, arguments in calls:
            message = await failed(server, tool, path="large.ipynb", **arguments)
            assert "Traceback" not in message
            await server.call("read_notebook", path="small.ipynb")
        await server.call("update_cell", path="small.ipynb", index=0, source="z")
        resource.prlimit(server.pid, resource.RLIMIT_AS, (most, most))
        await server.call("read_notebook", path="large.ipynb")
    assert server.impure == []
    assert digest(path) == before
    assert temporary_files(workspace) == []


@pytest.mark.alone
@pytest.mark.case("F19", "J10")
@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_disk_that_takes_5_s_to_flush_holds_up_nobody_else(
    cancelled: bool, client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered at once, and a save that is cancelled leaves the old version, then the new one, whole."""
    path = write_notebook(workspace / "n.ipynb", ["old"])
    write_notebook(workspace / "other.ipynb", ["other"])
    real = os.fsync
    slow: list[int] = []

    def fsync(descriptor: int) -> None:
        if not slow:
            slow.append(descriptor)
            time.sleep(5)
        real(descriptor)

    async with client() as connected:
        await call(connected, "update_cell", path="other.ipynb", index=0, source="warm")
        monkeypatch.setattr(os, "fsync", fsync)
        began = time.monotonic()
        saving = asyncio.create_task(call(connected, "update_cell", path="n.ipynb", index=0, source="new"))
        await until(lambda: bool(slow))
        took = []
        while time.monotonic() < began + 4:
            asked = time.monotonic()
            await call(connected, "read_notebook", path="other.ipynb")
            took.append(time.monotonic() - asked)
            assert "".join(read_json(path)["cells"][0]["source"]) == "old"
            if cancelled and len(took) == 3:
                saving.cancel()
            await asyncio.sleep(0.05)
        assert sorted(took)[len(took) // 2] < 0.1, took
        assert len([seconds for seconds in took if seconds > 0.1]) <= 2, took
        if cancelled:
            with pytest.raises(asyncio.CancelledError):
                await saving
            await until(lambda: "".join(read_json(path)["cells"][0]["source"]) == "new", seconds=10)
        else:
            assert (await saving)["changed"]
        await call(connected, "update_cell", path="n.ipynb", index=0, source="newer")
    assert "".join(read_json(path)["cells"][0]["source"]) == "newer"
    assert temporary_files(workspace) == []


# Clocks


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the clock of the wall jump by seconds."""
    now, now_ns = time.time, time.time_ns

    def jumped(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(seconds * 1e9))

    return jumped


@pytest.mark.case("F20")
@pytest.mark.parametrize("seconds", [-3600.0, 3600.0, -86_400.0 * 400])
async def test_a_clock_that_jumps_hides_no_edit_of_somebody_else(
    seconds: float, config: MakeConfig, workspace: Path, state_directory: Path, jump: Callable[[float], None]
) -> None:
    """Also when size and time of the file stay the same, or the time lies in the future."""
    path = write_notebook(workspace / "n.ipynb", ["mine = 1"])
    service = NotebookService(config(), Workspace([workspace]), state_directory)
    for step in range(3):
        if step == 2:
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + int(seconds * 1e9)))
        opened = await service.open("n.ipynb")
        jump(seconds * (step + 1))
        status = path.stat()
        theirs = path.read_bytes().replace(*((b"mine", b"hers") if step != 1 else (b"hers", b"mine")))
        path.write_bytes(theirs)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(Exception, match="CONFLICT: "):
            await service.save(opened, opened.document.render() + b"\n")
        assert path.read_bytes() == theirs
        edited = await service.update_cell("n.ipynb", Update(CellRef(index=0), metadata={"step": step}))
        assert edited.changed
        assert edited.revision == (await service.open("n.ipynb")).revision


@pytest.mark.case("F20")
@pytest.mark.kernel
@pytest.mark.slow
async def test_a_clock_that_jumps_ends_no_kernel_and_no_limit_of_time(
    client: Connect, jump: Callable[[float], None]
) -> None:
    async with client(kernel_idle_timeout=60, cleanup_interval=1) as connected:
        kernel_id = (await call(connected, "start_kernel"))["kernel_id"]
        for seconds in (3600.0, -3600.0):
            jump(seconds)
            began = time.monotonic()
            run = await call(connected, "execute_cell", kernel_id=kernel_id, code="while True: pass", timeout=1.5)
            assert run["status"] == "timeout"
            assert 1.4 < time.monotonic() - began < 5
            assert 1.4 < run["duration"] < 5
        status = await call(connected, "get_kernel_status", kernel_id=kernel_id)
        assert status["state"] == "idle"
        assert 0 <= status["idle_seconds"] < 30


# Kills


@pytest.mark.case("F07")
@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.timeout(300)
@linux_only
@pytest.mark.parametrize("seed", range(3))
async def test_a_server_that_is_killed_while_a_run_saves_loses_nothing_that_it_acknowledged(
    seed: int, workspace: Path, state_directory: Path
) -> None:
    """30 kills in all, at random moments of runs that save while edits are saved, too."""
    chance = random.Random(seed)
    path = workspace / "n.ipynb"
    saved = 0
    for number in range(10):
        code = "import time\ntime.sleep(0.05)\nprint('x' * 2000)"
        write_notebook(path, [f"{code}  # {n}" for n in range(60)])
        acknowledged: list[str] = []
        async with RawServer.running(workspace, state_directory) as server:
            kernel_id = (await server.call("start_kernel"))["kernel_id"]
            run = await server.call("execute_notebook", path="n.ipynb", kernel_id=kernel_id, wait=0)
            assert run["status"] == "running"

            async def edit(server: RawServer = server, acknowledged: list[str] = acknowledged) -> None:
                while True:
                    source = f"edit {len(acknowledged)}"
                    await server.call("add_cell", path="n.ipynb", cell_type="raw", source=source)
                    acknowledged.append(source)
                    await asyncio.sleep(0.02)

            editing = asyncio.create_task(edit())
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            seen = outputs_in(path)
            server.process.kill()
            await server.process.wait()
            editing.cancel()
            await asyncio.wait([editing])
        found = read_json(path)
        sources = ["".join(cell["source"]) for cell in found["cells"]]
        assert [source for source in acknowledged if source not in sources] == [], (seed, number)
        assert outputs_in(path) >= seen
        saved += outputs_in(path) > 0
        for file in workspace.glob(".*.tmp"):  # nobody was left to remove it
            file.unlink()
    assert saved > 0, "no run was killed after it had saved"


def outputs_in(path: Path) -> int:
    """How many cells have outputs. Fails unless the notebook is whole."""
    return len([cell for cell in json.loads(path.read_bytes())["cells"] if cell.get("outputs")])
