"""Packages are installed by the tool: from a directory of wheels, without a network, into real environments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from conftest import AddKernelspec, Connect, StartRaw
from environments import make_index, make_venv, make_wheel
from helpers import Json, call, facts_of, refused, stdout_of, text_of, until, write_notebook

from papermill_mcp.core.environments import installing

pytestmark = [pytest.mark.kernel]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_index(tmp_path, monkeypatch)


@pytest.fixture
def project(workspace: Path) -> Path:
    """The environment of the workspace."""
    return make_venv(workspace / ".venv")


class SlowIndex:
    """An index that takes requests and never answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Installers ask this index meanwhile."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple"
        for name, value in {"UV_INDEX_URL": url, "PIP_INDEX_URL": url, "NO_PROXY": "127.0.0.1"}.items():
            self._monkeypatch.setenv(name, value)
        for name in ("UV_OFFLINE", "PIP_NO_INDEX", "UV_FIND_LINKS", "PIP_FIND_LINKS"):
            self._monkeypatch.delenv(name)
        async with server:
            yield

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readline()
            self.asked.set()
            await reader.read()
        finally:
            writer.close()


@pytest.fixture
def slow_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> SlowIndex:
    return SlowIndex(monkeypatch)


def versions(facts: Json) -> dict[str, tuple[str | None, str | None]]:
    """The installed packages of a reply: name, before and after."""
    return {row["name"]: (row.get("before"), row.get("after")) for row in facts.get("installed", [])}


@pytest.mark.case("V14")
async def test_a_kernel_imports_a_new_package_at_once(client: Connect, workspace: Path, index: Path) -> None:
    make_venv(workspace / ".venv")
    async with client() as c:
        kernel = (await call(c, "start_kernel"))["kernel_id"]
        before = await call(c, "execute_cell", kernel_id=kernel, code="import alone")
        done = await call(c, "install_packages", kernel_id=kernel, packages=["alone==1.0", "alone==1.0"])
        after = await call(c, "execute_cell", kernel_id=kernel, code="import alone\nprint(alone.VERSION)")
        same = await call(c, "install_packages", kernel_id=kernel, packages=["Alone", "other"])
        newer = await call(c, "install_packages", kernel_id=kernel, packages=["alone"], upgrade=True)
        listed = await call(c, "list_executions")
        again = await call(c, "get_execution", execution_id=newer["execution_id"])

    assert before["error"]["ename"] == "ModuleNotFoundError"
    assert any('install_packages(python="' in note and '"alone"' in note for note in before["notes"])
    assert done["status"] == "ok", done
    assert versions(done) == {"alone": (None, "1.0")}
    assert done["kernel_must_restart"] is False
    assert done["environment"].startswith(".venv (3.")
    assert done["python"] == f"{workspace}/.venv/bin/python"
    assert done["kernel_id"] == kernel
    assert stdout_of(after) == "1.0\n"
    assert versions(same) == {"alone": ("1.0", "1.0"), "other": (None, "1.0")}
    assert same["kernel_must_restart"] is False
    assert versions(newer) == {"alone": ("1.0", "2.0")}
    assert newer["kernel_must_restart"] is True
    assert any(kernel in note and "restart_kernel" in note for note in newer["notes"])
    assert [row["kind"] for row in listed["executions"]].count("install") == 3
    assert again["installed"] == newer["installed"]


@pytest.mark.case("V14")
async def test_a_spare_kernel_with_the_old_version_is_not_used(
    client: Connect,
    workspace: Path,
    tmp_path: Path,
    index: Path,
    kernelspec: AddKernelspec,
    process_check: Callable[[], list[psutil.Process]],
) -> None:
    """The spare one imports the package as it starts, as some packages do by a file `.pth`."""
    environment = make_venv(tmp_path / "venv", modules={"sitecustomize": "import alone"})
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(environment / "bin" / "python")
    kernelspec("python3", [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    def ready() -> set[int]:
        kernels = [one for one in process_check() if "ipykernel_launcher" in " ".join(one.cmdline())]
        return {one.pid for one in kernels if len(one.net_connections()) >= 5}

    async with client() as c:
        await call(c, "install_packages", python=str(environment), packages=["alone<2"])
    async with client(prewarm_kernels=1) as c:
        await call(c, "list_kernels")
        await until(lambda: bool(ready()), seconds=20, what="a spare kernel")
        before = ready()
        done = await call(c, "install_packages", python=str(environment), packages=["alone"], upgrade=True)
        started = await call(c, "start_kernel")
        shown = await call(c, "execute_cell", kernel_id=started["kernel_id"], code="import alone; print(alone.VERSION)")
        left = ready() & before

    assert versions(done) == {"alone": ("1.0", "2.0")}
    assert done["kernel_must_restart"] is False
    assert stdout_of(shown) == "2.0\n"
    assert left == set()


async def test_the_environment_of_a_notebook_is_that_of_its_kernel_or_of_its_project(
    client: Connect, workspace: Path, tmp_path: Path, index: Path, project: Path
) -> None:
    other = make_venv(tmp_path / "named")
    write_notebook(workspace / "n.ipynb", ["import alone\nprint(alone.VERSION)"])
    async with client() as c:
        first = await call(c, "install_packages", path="n.ipynb", packages=["alone<2"])
        run = await call(c, "execute_notebook", path="n.ipynb", python=str(other))
        bound = await call(c, "install_packages", path="n.ipynb", packages=["alone"])
        second = await call(c, "execute_notebook", path="n.ipynb")
        named = await call(c, "install_packages", python=str(other), packages=["other"])

    assert first["python"] == f"{project}/bin/python"
    assert first["path"] == "n.ipynb"
    assert run["status"] == "error"
    assert bound["python"] == named["python"] == f"{other}/bin/python"
    assert versions(bound) == {"alone": (None, "2.0")}
    assert second["status"] == "ok"


def contents(environment: Path) -> dict[str, int]:
    """The programs and packages of an environment, and the times of their last changes."""
    found = [*environment.glob("bin/*"), *environment.glob("lib/python*/site-packages/*")]
    return {str(path): path.lstat().st_mtime_ns for path in found if path.name != "__pycache__"}


@pytest.mark.case("V11")
async def test_no_other_environment_is_changed(
    client: Connect, workspace: Path, tmp_path: Path, index: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the others is active, one is that of the server."""
    active = make_venv(tmp_path / "active")
    monkeypatch.setenv("VIRTUAL_ENV", str(active))
    others = [active, Path(sys.prefix)]
    before = [contents(one) for one in others]
    async with client() as c:
        done = await call(c, "install_packages", python=".", packages=["alone", "other"])
    assert done["status"] == "ok"
    assert versions(done) == {"alone": (None, "2.0"), "other": (None, "1.0")}
    assert any("alone-2.0" in path for path in contents(project))
    assert [contents(one) for one in others] == before
    assert all(before)


@pytest.mark.slow
async def test_pip_of_the_environment_serves_without_uv(
    client: Connect, workspace: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "venv", str(workspace / ".venv")], check=True, timeout=60
    )
    monkeypatch.setattr(installing, "find_uv", lambda: None)
    async with client() as c:
        done = await call(c, "install_packages", seconds=60, python=".", packages=["alone<2"], wait=50)
        newer = await call(c, "install_packages", seconds=60, python=".", packages=["alone"], upgrade=True, wait=50)
        failed = await call(c, "install_packages", seconds=60, python=".", packages=["nothing-like-it"], wait=50)

    assert versions(done) == {"alone": (None, "1.0")}
    assert versions(newer) == {"alone": ("1.0", "2.0")}
    assert "kernel_must_restart" in done
    assert done["kernel_must_restart"] is newer["kernel_must_restart"] is False
    assert failed["status"] == "error"
    assert "nothing-like-it" in failed["error"]["evalue"]


async def test_without_uv_and_pip_there_is_no_execution(
    client: Connect, project: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "find_uv", lambda: None)
    async with client() as c:
        message = await refused(c, "install_packages", python=".", packages=["alone"])
        again = await refused(c, "install_packages", python=".", packages=["alone"])
        listed = await call(c, "list_executions")
    assert message.startswith("ENVIRONMENT_FAILED: ")
    assert "-m pip install alone" in message
    assert again == message, "the claim is given up"
    assert listed["executions"] == []


async def test_an_unknown_package_is_told_in_the_words_of_the_installer(
    client: Connect, project: Path, index: Path
) -> None:
    async with client() as c:
        result = await c.call_tool("install_packages", {"python": ".", "packages": ["nothing-like-it", "alone"]})
    facts = facts_of(result)
    assert facts["status"] == "error"
    assert facts["error"]["ename"] == "ENVIRONMENT_FAILED"
    assert "nothing-like-it" in facts["error"]["evalue"]
    assert versions(facts) == {"nothing-like-it": (None, None), "alone": (None, None)}
    assert "nothing-like-it" in text_of(result).partition("```")[2]


def fake_python(workspace: Path, script: str) -> str:
    """An interpreter that stands for itself, and whose pip is this shell script."""
    python = workspace / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "find_uv", lambda: None)


async def test_a_python_that_its_system_manages_is_left_to_the_installer_to_refuse(
    client: Connect, workspace: Path, no_uv: None
) -> None:
    """The fake answers as pip does there."""
    python = fake_python(workspace, "echo 'error: externally-managed-environment' >&2\nexit 1")
    async with client() as c:
        facts = await call(c, "install_packages", python=python, packages=["alone"])
    assert facts["status"] == "error"
    assert "externally-managed-environment" in facts["error"]["evalue"]
    assert any("-m venv .venv" in note for note in facts["notes"])


@pytest.mark.skipif(
    not (Path("/usr/bin/python3").exists() and [*Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED")]),
    reason="no Python here is managed by its system",
)
async def test_the_refusal_of_a_real_system_is_passed_on(
    client: Connect, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_BREAK_SYSTEM_PACKAGES", "PIP_BREAK_SYSTEM_PACKAGES"):
        monkeypatch.delenv(name, raising=False)
    async with client() as c:
        facts = await call(c, "install_packages", python="/usr/bin/python3", packages=["alone"])
    assert facts["status"] == "error"
    assert "externally" in facts["error"]["evalue"]
    assert any("-m venv .venv" in note for note in facts["notes"])


async def test_the_lines_of_the_installer_are_its_progress(client: Connect, workspace: Path, no_uv: None) -> None:
    pipe = workspace / "pipe"
    os.mkfifo(pipe)
    python = fake_python(workspace, f"echo Collecting alone\nread go < {pipe}\necho Done")
    seen = asyncio.Event()

    async def look(progress: float, total: float | None, message: str | None) -> None:
        if message is not None and message.endswith("Collecting alone"):
            seen.set()

    async with client() as c:
        arguments = {"python": python, "packages": ["alone"]}
        request = asyncio.create_task(c.call_tool("install_packages", arguments, progress_callback=look))
        async with asyncio.timeout(20):
            await seen.wait()
            await asyncio.to_thread(pipe.write_text, "go\n")
            facts = facts_of(await request)
    assert facts["status"] == "ok"


async def test_only_the_end_of_a_long_output_is_kept(client: Connect, workspace: Path, no_uv: None) -> None:
    noise = f'{sys.executable} -c \'print("x" * 5_000_000); print("y\\n" * 1_000_000)\''
    python = fake_python(workspace, f"{noise}\necho the reason >&2\nexit 3")
    async with client() as c:
        facts = await call(c, "install_packages", python=python, packages=["alone"])
    assert facts["status"] == "error"
    assert facts["error"]["evalue"].endswith("the reason")
    assert len(facts["error"]["evalue"]) <= 2001


@pytest.mark.case("V12")
async def test_an_installer_that_ignores_the_interrupt_is_killed_with_its_children(
    client: Connect, workspace: Path, no_uv: None, process_check: Callable[[], list[psutil.Process]]
) -> None:
    pipe = workspace / "pipe"
    os.mkfifo(pipe)
    python = fake_python(workspace, f"trap '' INT\n(setsid sleep 600; true) &\necho go > {pipe}\nsleep 600")
    async with client() as c:
        begun = await call(c, "install_packages", python=python, packages=["alone"], wait=0)
        await asyncio.wait_for(asyncio.to_thread(pipe.read_text), 20)
        ended = await call(c, "cancel_execution", execution_id=begun["execution_id"])
        left = [" ".join(process.cmdline()) for process in process_check()]
    assert ended["status"] == "interrupted"
    assert not any("sleep" in command for command in left)


@pytest.mark.case("V11", "V13")
async def test_the_environment_of_the_server_and_other_languages_are_refused(
    client: Connect, workspace: Path, index: Path, kernelspec: AddKernelspec
) -> None:
    kernelspec("shell", ["/bin/sh", "-c", "exit 1"], language="bash")
    write_notebook(workspace / "own.ipynb", ["1"])
    write_notebook(workspace / "shell.ipynb", ["1"], kernel="shell", language="bash")
    async with client() as c:
        own = await refused(c, "install_packages", path="own.ipynb", packages=["alone"])
        shell = await refused(c, "install_packages", path="shell.ipynb", packages=["alone"])
        none = await refused(c, "install_packages", packages=["alone"])
        two = await refused(c, "install_packages", path="own.ipynb", python=".", packages=["alone"])
        bad = await refused(c, "install_packages", path="own.ipynb", packages=["alone", "-r x"])
        gone = await refused(c, "install_packages", kernel_id="x", packages=["alone"])
        absent = await refused(c, "install_packages", path="absent.ipynb", packages=["alone"])
        outside = await refused(c, "install_packages", path="/etc/n.ipynb", packages=["alone"])
        listed = await call(c, "list_executions")
    assert listed["executions"] == []
    assert [message.partition(":")[0] for message in (own, shell, none, two, bad)] == ["INVALID_ARGUMENT"] * 5
    assert sys.prefix in own
    assert "'shell'" in shell
    assert "'-r x'" in bad
    assert gone.startswith("KERNEL_NOT_FOUND: ")
    assert absent.startswith("NOT_FOUND: ")
    assert outside.startswith("PATH_NOT_ALLOWED: ")


async def test_no_file_of_a_project_configures_the_installer(
    client: Connect, workspace: Path, tmp_path: Path, index: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state directory is in the project, and so is the working directory of the server."""
    foreign = tmp_path / "foreign"
    make_wheel(foreign, "alone", "9.0", "VERSION = '9.0'\n")
    (workspace / "uv.toml").write_text(f'[pip]\nfind-links = ["{foreign}"]\n')
    (workspace / "pip.conf").write_text(f"[global]\nfind-links = {foreign}\n")
    monkeypatch.chdir(workspace)
    async with client(state_directory=workspace / "state") as c:
        done = await call(c, "install_packages", python=".", packages=["alone"])
    assert versions(done) == {"alone": (None, "2.0")}


async def test_a_repeated_request_with_its_key_installs_once(client: Connect, project: Path, index: Path) -> None:
    arguments = {"python": ".", "packages": ["alone<2"], "idempotency_key": "k"}
    async with client() as c:
        first = await call(c, "install_packages", **arguments)
        second = await call(c, "install_packages", **arguments)
        other = await refused(c, "install_packages", **arguments | {"packages": ["other"]})
    async with client() as c:
        later = await call(c, "install_packages", **arguments)
    assert first["execution_id"] == second["execution_id"] == later["execution_id"]
    assert second["installed"] == first["installed"]
    assert later["status"] == "ok"
    assert other.startswith("INVALID_ARGUMENT: ")


@pytest.mark.case("V12")
async def test_a_cancelled_installation_ends_and_leaves_no_process(
    client: Connect, project: Path, slow_index: SlowIndex, process_check: Callable[[], list[psutil.Process]]
) -> None:
    async with slow_index.serving(), client() as c:
        begun = await call(c, "install_packages", python=".", packages=["alone"], wait=0)
        async with asyncio.timeout(20):
            await slow_index.asked.wait()
        before = installers(process_check())
        ended = await call(c, "cancel_execution", execution_id=begun["execution_id"])
        after = installers(process_check())
        # The environment is free again.
        again = await call(c, "install_packages", python=".", packages=["alone"], wait=0)
        await call(c, "cancel_execution", execution_id=again["execution_id"])
    assert begun["status"] == "running"
    assert before
    assert ended["status"] == "interrupted"
    assert ended["ended"] is True
    assert after == []


async def test_two_servers_do_not_install_into_one_environment_at_once(
    client: Connect, workspace: Path, project: Path, slow_index: SlowIndex
) -> None:
    (workspace / "link").symlink_to(project)
    async with slow_index.serving(), client() as one, client() as two:
        begun = await call(one, "install_packages", python=".", packages=["alone"], wait=0)
        same = await refused(one, "install_packages", python=".", packages=["other"])
        other = await refused(two, "install_packages", python="link", packages=["other"])
        await call(one, "cancel_execution", execution_id=begun["execution_id"])
    for message in (same, other):
        assert message.startswith("BUSY: ")
        assert begun["execution_id"] in message


@pytest.mark.case("V12")
async def test_the_end_of_the_server_ends_the_installer(
    client: Connect, project: Path, slow_index: SlowIndex, process_check: Callable[[], list[psutil.Process]]
) -> None:
    async with slow_index.serving():
        async with client() as c:
            await call(c, "install_packages", python=".", packages=["alone"], wait=0)
            async with asyncio.timeout(20):
                await slow_index.asked.wait()
        assert installers(process_check()) == []


@pytest.mark.case("V12")
async def test_a_killed_server_leaves_no_installer(
    raw_server: StartRaw, project: Path, slow_index: SlowIndex, process_check: Callable[[], list[psutil.Process]]
) -> None:
    async with slow_index.serving(), raw_server() as server:
        await server.call("install_packages", python=".", packages=["alone"], wait=0)
        async with asyncio.timeout(20):
            await slow_index.asked.wait()
        assert installers(process_check())
        server.process.kill()
        await until(lambda: not process_check(), seconds=10, what="no process is left")


def installers(processes: list[psutil.Process]) -> list[list[str]]:
    """The commands of the installers among processes."""
    found = []
    for process in processes:
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "install" in command:
            found.append(command)
    return found


async def test_a_request_for_the_environment_of_a_notebook_uses_up_no_note_about_it(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "n.ipynb", ["x = 1"])
    old = path.read_bytes()
    async with client() as c:
        await call(c, "update_cell", path="n.ipynb", index=0, source="x = 2")
        path.write_bytes(old)
        message = await refused(c, "install_packages", path="n.ipynb", packages=["some-package"])
        read = await call(c, "read_notebook", path="n.ipynb")
    assert "the environment of the server itself" in message
    assert "undone" in read["note"]
