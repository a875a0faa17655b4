"""Environments that notebooks declare: made by uv from a directory of wheels, without a network, and used in runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Connect
from environments import make_index, make_venv
from helpers import Json, call, read_json, until, write_notebook
from helpers import refused as refused_with_text
from mcp import Client

from papermill_mcp.core.environments import making, starting
from papermill_mcp.core.environments.starting import find_uv

pytestmark = [pytest.mark.kernel]

_USE = "import sys, alone\nprint(alone.VERSION, sys.prefix)"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_index(tmp_path, monkeypatch)


def block(*packages: str, python: str | None = None, rest: str = "") -> str:
    """The source of a cell that declares packages."""
    lines = ["# /// script", f"# dependencies = {json.dumps(list(packages))}"]
    lines += [f'# requires-python = "{python}"'] if python else []
    return "\n".join([*lines, *rest.splitlines(), "# ///"])


def made_in(state: Path) -> list[str]:
    """The names of complete environments, and of what is left of others."""
    directory = state / "environments"
    return sorted(path.name for path in directory.iterdir() if path.name != ".locks") if directory.is_dir() else []


def printed(facts: Json) -> str:
    return str(facts["results"][-1]["outputs"][0]["text"])


async def refused(client: Client, code: str, tool: str, /, **arguments: Any) -> str:
    """The message of a call that must fail with this code."""
    text = await refused_with_text(client, tool, seconds=60, **arguments)
    assert text.startswith(code), text
    return text


@pytest.fixture
def state(state_directory: Path) -> Path:
    return state_directory


@pytest.mark.case("V21")
async def test_a_notebook_gets_what_it_declares(client: Connect, workspace: Path, index: Path, state: Path) -> None:
    """In place, by Papermill and in a batch; two notebooks with two versions of a package live at once."""
    make_venv(workspace / ".venv")
    write_notebook(workspace / "a.ipynb", [block("alone<2"), _USE])
    declared = read_json(write_notebook(workspace / "b.ipynb", ["x = 1", _USE]))
    declared["metadata"]["uv"] = {"dependencies": ["alone>=2"]}
    (workspace / "b.ipynb").write_text(json.dumps(declared))
    async with client(notebook_environments="auto") as c:
        info = await call(c, "get_notebook_info", path="a.ipynb")
        first = await call(c, "execute_notebook", path="a.ipynb", seconds=60)
        second = await call(c, "execute_notebook", path="b.ipynb", seconds=60)
        again = await call(c, "execute_notebook", path="a.ipynb")
        run = await call(c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb")
        batch = await call(c, "execute_notebook_batch", input_paths=["a.ipynb", "b.ipynb"], seconds=60)

    assert (first["status"], second["status"], again["status"], run["status"]) == ("ok",) * 4
    assert printed(first).startswith("1.0 ")
    assert printed(second).startswith("2.0 ")
    assert first["python"] == run["python"]
    assert first["python"].startswith("notebook (3.")
    assert first["python"].endswith(", declared by the notebook")
    assert batch["status"] == "ok"
    recorded = read_json(workspace / "out.ipynb")["metadata"]["papermill"]["environment"]
    assert recorded["packages"] == {"alone": "1.0"}
    assert len(made_in(state)) == 2
    assert "declaration in cell 0" in info["python"]
    nbformat.validate(nbformat.from_dict(read_json(workspace / "out.ipynb")))


@pytest.mark.case("V21")
async def test_a_declaration_is_reported_and_used_when_it_is_asked_for(
    client: Connect, workspace: Path, index: Path, state: Path
) -> None:
    write_notebook(workspace / "a.ipynb", [block("alone<2", python=">=3.9"), _USE])
    write_notebook(workspace / "plain.ipynb", ["1"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="a.ipynb")
        bound = await refused(c, "INVALID_ARGUMENT", "execute_notebook", path="a.ipynb", python="notebook")
        await call(c, "stop_kernel", kernel_id=run["kernel_id"])
        asked = await call(c, "execute_notebook", path="a.ipynb", python="notebook", seconds=60)
        output = await call(c, "execute_notebook_papermill", input_path="a.ipynb", python="notebook")
        nothing = await refused(c, "INVALID_ARGUMENT", "execute_notebook", path="plain.ipynb", python="notebook")
        no_notebook = await refused(c, "INVALID_ARGUMENT", "start_kernel", python="notebook")
        info = await call(c, "get_notebook_info", path="a.ipynb")

    assert run["status"] == "error"
    assert any("alone<2 (cell 0)" in note and 'python="notebook"' in note for note in run["notes"])
    assert "fresh=true" in bound
    assert (asked["status"], output["status"]) == ("ok", "ok")
    assert printed(asked).startswith("1.0 ")
    assert "declares no packages" in nothing
    assert "names no notebook" in no_notebook
    assert info["declares"] == "Python >=3.9, alone<2 (cell 0)"


@pytest.mark.case("V21")
async def test_the_setting_off_hides_and_forbids(client: Connect, workspace: Path, index: Path) -> None:
    write_notebook(workspace / "a.ipynb", [block("alone"), "1"])
    async with client(notebook_environments="off") as c:
        run = await call(c, "execute_notebook", path="a.ipynb")
        error = await refused(
            c, "INVALID_ARGUMENT", "execute_notebook_papermill", input_path="a.ipynb", python="notebook"
        )
    assert run["status"] == "ok"
    assert not run.get("notes")
    assert "notebook_environments is off" in error


@pytest.mark.case("V21")
@pytest.mark.case("V22")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        (block("alone") + "\n\n" + block("alone"), ["cell 0", "has two"]),
        (block("alone").replace("[", ""), ["cell 0", "cannot be read"]),
        (block("nothing-like-it"), ["nothing-like-it", "could not be made"]),
        (block("alone", python=">=7"), ["Python >=7", "could not be made"]),
        (block("alone==9"), ["alone==9", "could not be made"]),
        (block("../alone"), ["'../alone'", "no requirement"]),
    ],
)
async def test_what_cannot_be_made_says_why_and_leaves_nothing(
    client: Connect, workspace: Path, index: Path, state: Path, source: str, words: list[str]
) -> None:
    write_notebook(workspace / "a.ipynb", [source, "1"])
    async with client(notebook_environments="auto") as c:
        error = await refused(c, "ENVIRONMENT_FAILED", "execute_notebook", path="a.ipynb")
        other = await call(c, "execute_notebook", path="a.ipynb", python=sys.prefix)
        info = await call(c, "get_notebook_info", path="a.ipynb")
    for word in words:
        assert word in error
    assert "nothing was run" in error
    assert "python" in error
    assert other["status"] == "ok"
    assert info["declares"]
    assert made_in(state) == []


@pytest.mark.case("V22")
async def test_without_uv_the_way_out_is_told(
    client: Connect, workspace: Path, index: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "find_uv", lambda: None)
    write_notebook(workspace / "a.ipynb", [block("alone"), "1"])
    async with client() as c:
        error = await refused(c, "ENVIRONMENT_FAILED", "execute_notebook", path="a.ipynb", python="notebook")
    assert "uv, which is not installed" in error
    assert made_in(state) == []


@pytest.mark.case("V22")
async def test_a_full_disk_leaves_no_half_environment(
    client: Connect, workspace: Path, index: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installer fails in the middle, as on a full disk: its last lines are shown, and nothing is left."""
    uv = tmp_path / "uv"
    uv.write_text(
        "#!/bin/sh\nif [ $1 = venv ]; then for last; do :; done; mkdir -p $last/bin; exit 0; fi\n"
        "echo 'error: No space left on device (os error 28)' >&2; exit 2\n"
    )
    uv.chmod(0o755)
    monkeypatch.setattr(making, "find_uv", lambda: str(uv))
    write_notebook(workspace / "a.ipynb", [block("alone"), "1"])
    async with client() as c:
        error = await refused(c, "ENVIRONMENT_FAILED", "execute_notebook", path="a.ipynb", python="notebook")
    assert "No space left on device" in error
    assert made_in(state) == []


_WAITING_UV = """\
#!/bin/sh
[ "$1" = pip ] && { echo begun >> "$MARKS"; echo "Downloading slow" >&2; while [ ! -e "$GO" ]; do sleep 0.05; done; }
exec "$REAL" "$@"
"""


@pytest.fixture
def waiting_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A uv whose installations wait for a file `go`. Each writes a line into `marks`. Returns the directory of both."""
    directory = tmp_path / "waiting"
    directory.mkdir()
    real = find_uv()
    assert real is not None
    (directory / "uv").write_text(_WAITING_UV)
    (directory / "uv").chmod(0o755)
    for name, value in {"MARKS": directory / "marks", "GO": directory / "go", "REAL": real}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(making, "find_uv", lambda: str(directory / "uv"))
    return directory


@pytest.mark.case("V22")
async def test_a_call_does_not_wait_for_ever(
    client: Connect, workspace: Path, index: Path, state: Path, waiting_uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is going on, and the same call works when the environment is there."""
    monkeypatch.setattr(making, "PATIENCE", 0.5)
    write_notebook(workspace / "a.ipynb", [block("alone"), _USE])
    async with client() as c:
        busy = await refused(c, "BUSY", "execute_notebook", path="a.ipynb", python="notebook")
        await until(lambda: (waiting_uv / "marks").exists())
        still = await refused(c, "BUSY", "execute_notebook_papermill", input_path="a.ipynb", python="notebook")
        (waiting_uv / "go").touch()
        await until(lambda: bool(made_in(state)) and not made_in(state)[0].startswith("."), seconds=30)
        run = await call(c, "execute_notebook", path="a.ipynb", python="notebook", seconds=60)
    assert "is being made" in busy
    assert "Downloading slow" in still
    assert run["status"] == "ok"
    assert (waiting_uv / "marks").read_text().split() == ["begun"]


@pytest.mark.case("V22")
async def test_two_servers_make_it_once(
    client: Connect, workspace: Path, index: Path, state: Path, waiting_uv: Path
) -> None:
    write_notebook(workspace / "a.ipynb", [block("alone"), _USE])
    write_notebook(workspace / "b.ipynb", [block("alone"), _USE])
    async with client(notebook_environments="auto") as one, client(notebook_environments="auto") as two:
        runs = [
            asyncio.create_task(call(one, "execute_notebook", path="a.ipynb", seconds=60)),
            asyncio.create_task(call(two, "execute_notebook", path="b.ipynb", seconds=60)),
            asyncio.create_task(call(two, "execute_notebook_papermill", input_path="b.ipynb", seconds=60)),
        ]
        await until(lambda: (waiting_uv / "marks").exists(), seconds=30)
        (waiting_uv / "go").touch()
        ended = await asyncio.gather(*runs)
    assert [run["status"] for run in ended] == ["ok"] * 3
    assert (waiting_uv / "marks").read_text().split() == ["begun"]
    assert len(made_in(state)) == 1


@pytest.mark.case("V22")
async def test_the_end_of_the_server_in_the_middle_leaves_nothing(
    client: Connect, workspace: Path, index: Path, state: Path, waiting_uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "PATIENCE", 0.5)
    write_notebook(workspace / "a.ipynb", [block("alone"), _USE])
    async with client() as c:
        await refused(c, "BUSY", "execute_notebook", path="a.ipynb", python="notebook")
        await until(lambda: (waiting_uv / "marks").exists())
    assert made_in(state) == []  # that no process is left is checked after every test


@pytest.mark.case("V22")
async def test_environments_that_nobody_uses_are_removed(
    client: Connect, workspace: Path, index: Path, state: Path
) -> None:
    for name, package in {"a": "alone<2", "b": "alone>=2", "c": "other"}.items():
        write_notebook(workspace / f"{name}.ipynb", [block(package), "1"])
    async with client(notebook_environments="auto") as c:
        await call(c, "execute_notebook", path="a.ipynb", seconds=60)
        old = made_in(state)
        await call(c, "execute_notebook_papermill", input_path="b.ipynb", seconds=60)
    month_ago = time.time() - 31 * 86_400
    for name in made_in(state):
        os.utime(state / "environments" / name, (month_ago, month_ago))
    (state / "environments" / ".rest").mkdir()
    os.utime(state / "environments" / ".rest", (month_ago, month_ago))
    async with client(notebook_environments="auto") as c:
        await call(c, "execute_notebook", path="a.ipynb", seconds=60)  # its use counts
        await call(c, "execute_notebook", path="c.ipynb", seconds=60)
    assert set(old) < set(made_in(state))
    assert len(made_in(state)) == 2


async def test_packages_are_recorded_in_the_notebook(
    client: Connect, workspace: Path, index: Path, state: Path
) -> None:
    """Without `auto` they are installed into the environment of the project, and the notebook declares them."""
    project = make_venv(workspace / ".venv")
    write_notebook(workspace / "a.ipynb", ["import alone\nprint(alone.VERSION)"])
    async with client() as c:
        first = await call(c, "install_packages", path="a.ipynb", packages=["alone<2"], record=True)
        second = await call(c, "install_packages", path="a.ipynb", packages=["Alone", "other"], record=True)
        run = await call(c, "execute_notebook", path="a.ipynb")
        info = await call(c, "get_notebook_info", path="a.ipynb")
        no_path = await refused(
            c, "INVALID_ARGUMENT", "install_packages", python=str(project), packages=["other"], record=True
        )
        failed = await call(c, "install_packages", path="a.ipynb", packages=["nothing-like-it"], record=True)

    assert first["status"] == second["status"] == run["status"] == "ok"
    assert any("recorded in the notebook, the new cell 0" in note for note in first["notes"])
    assert any("recorded in the notebook, cell 0" in note for note in second["notes"])
    assert first["python"] == f"{project}/bin/python"
    assert info["declares"] == f"Python >={sys.version_info[0]}.{sys.version_info[1]}, alone<2, other (cell 0)"
    assert "needs path" in no_path
    assert failed["status"] == "error"
    notebook = read_json(workspace / "a.ipynb")
    assert len(notebook["cells"]) == 2
    assert "nothing-like-it" not in json.dumps(notebook)


@pytest.mark.case("V22")
async def test_a_declared_environment_changes_by_what_is_declared(
    client: Connect, workspace: Path, index: Path, state: Path
) -> None:
    """It is shared, so nothing is installed into it: the notebook gets another one."""
    for name in ("a", "b"):
        write_notebook(workspace / f"{name}.ipynb", [block("alone<2"), _USE, "import other"])
    async with client(notebook_environments="auto") as c:
        before = await call(c, "execute_notebook", path="a.ipynb", seconds=60)
        into = await refused(c, "INVALID_ARGUMENT", "install_packages", path="a.ipynb", packages=["other"])
        done = await call(c, "install_packages", path="a.ipynb", packages=["other"], record=True, seconds=60)
        bad = await call(c, "install_packages", path="a.ipynb", packages=["alone==9"], record=True, seconds=60)
        same = await call(c, "execute_notebook", path="a.ipynb", seconds=60)
        after = await call(c, "execute_notebook", path="a.ipynb", fresh=True, seconds=60)
        untouched = await call(c, "execute_notebook", path="b.ipynb", seconds=60)

    assert before["status"] == same["status"] == untouched["status"] == "error"
    assert any("record=true" in note and "python=" not in note for note in before["notes"])
    assert any("a new one would run in" in note or "other packages now" in note for note in same["notes"])
    assert "record=true" in into
    assert done["status"] == "ok"
    assert {row["name"]: (row.get("before"), row.get("after")) for row in done["installed"]} == {"other": (None, "1.0")}
    assert done["kernel_must_restart"] is True
    assert any("fresh=true" in note for note in done["notes"])
    assert bad["status"] == "error"
    assert "alone==9" in bad["error"]["evalue"]
    assert after["status"] == "ok"
    assert len(made_in(state)) == 2


async def test_a_call_waits_no_longer_than_the_client_may(
    client: Connect, workspace: Path, index: Path, state: Path, waiting_uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while ipykernel is fetched for an environment; a later call has the result."""
    monkeypatch.setattr(starting, "find_uv", lambda: str(waiting_uv / "uv"))
    monkeypatch.setattr(starting, "own_layer", lambda layers: layers.mkdir(parents=True, exist_ok=True))
    make_venv(workspace / ".venv")
    write_notebook(workspace / "a.ipynb", [block("alone"), "1"])
    async with client(response_wait=0.3) as c:
        busy = [
            await refused(c, "BUSY", "execute_notebook", path="a.ipynb", wait=60),
            await refused(c, "BUSY", "execute_notebook_papermill", input_path="a.ipynb"),
            await refused(c, "BUSY", "start_kernel"),
            await refused(c, "BUSY", "execute_notebook", path="a.ipynb", python="notebook"),
        ]
        (waiting_uv / "go").touch()
        await until(lambda: len((waiting_uv / "marks").read_text().split()) == 2, seconds=20)
        async with asyncio.timeout(30):
            while (text := await refused_with_text(c, "start_kernel")).startswith("BUSY"):
                await asyncio.sleep(0.05)
    assert all("same call again" in message for message in busy)
    assert "fetching" in busy[0]
    assert "uv could not provide ipykernel" in text


async def test_the_python_of_a_declaration_is_one_that_is_known(
    client: Connect, workspace: Path, index: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv is named the interpreter, so it fetches none. The newest that fits is taken."""
    versions = tmp_path / "pyenv" / "versions"
    for version in ("3.95.1", "3.95.10", "3.94.2"):
        (versions / version / "bin").mkdir(parents=True)
        (versions / version / "bin" / "python3").write_text("")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "error: called with $*" >&2\nexit 2\n')
    uv.chmod(0o755)
    monkeypatch.setattr(making, "find_uv", lambda: str(uv))
    write_notebook(workspace / "a.ipynb", [block("alone", python="==3.95.*"), "1"])
    async with client() as c:
        error = await refused(c, "ENVIRONMENT_FAILED", "execute_notebook", path="a.ipynb", python="notebook")
    assert f"--python {versions}/3.95.10/bin/python3" in error


async def test_a_notebook_of_another_language_has_no_python(
    client: Connect, workspace: Path, index: Path, tmp_path: Path
) -> None:
    path = write_notebook(workspace / "r.ipynb", [block("alone"), "x <- 3"], kernel="ir", language="R")
    before = path.read_bytes()
    async with client() as c:
        for python in ("notebook", sys.prefix):
            for tool, given in (
                ("execute_notebook", {"path": "r.ipynb"}),
                ("execute_notebook_papermill", {"input_path": "r.ipynb"}),
            ):
                error = await refused(c, "INVALID_ARGUMENT", tool, python=python, **given)
                assert "the notebook is in R (kernel 'ir')" in error
    assert path.read_bytes() == before


async def test_a_notebook_without_any_environment_gets_one_of_its_own(
    client: Connect, workspace: Path, index: Path, state: Path
) -> None:
    """The server's own environment is never changed, so recording makes one for the notebook."""
    write_notebook(workspace / "a.ipynb", [_USE])
    async with client() as c:
        done = await call(c, "install_packages", path="a.ipynb", packages=["alone<2"], record=True, seconds=60)
        run = await call(c, "execute_notebook", path="a.ipynb", python="notebook", seconds=60)
    assert done["status"] == "ok"
    assert any('python="notebook"' in note for note in done["notes"])
    assert run["status"] == "ok"
    assert printed(run).startswith("1.0 ")
    assert len(made_in(state)) == 1


@pytest.mark.parametrize("kind", ["a file", "no rights"])
async def test_a_state_directory_that_cannot_be_used_is_named(
    client: Connect, workspace: Path, index: Path, tmp_path: Path, kind: str
) -> None:
    broken = tmp_path / "broken"
    if kind == "a file":
        broken.write_text("")
    else:
        broken = Path("/proc/no-such-directory")
    make_venv(workspace / ".venv")
    write_notebook(workspace / "a.ipynb", [block("alone"), "1"])
    async with client(state_directory=broken) as c:
        layer = await refused(c, "KERNEL_START_FAILED", "execute_notebook", path="a.ipynb")
        made = await refused(c, "ENVIRONMENT_FAILED", "execute_notebook", path="a.ipynb", python="notebook")
    for message in (layer, made):
        assert str(broken) in message
        assert "state_directory" in message
