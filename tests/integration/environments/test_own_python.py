"""The user's own Python runs the notebook: the project's environment, without ipykernel, in every tool."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import AddKernelspec, Connect, StartRaw
from environments import make_conda, make_venv, put_modules
from helpers import Json, call, cell, read_json, refused, stdout_in, write_notebook

from papermill_mcp.core import jupyter_manager
from papermill_mcp.core.environments import starting

pytestmark = [pytest.mark.kernel]

_WHERE = "import onlyhere, sys\nprint(onlyhere.VALUE, sys.prefix)"
_SHELL = "import os, shutil\nprint(os.path.dirname(shutil.which('python')), os.environ.get('VIRTUAL_ENV'))"


def project(directory: Path, value: int) -> Path:
    """A project with an environment that has a module of its own."""
    directory.mkdir(exist_ok=True)
    make_venv(directory / ".venv", modules={"onlyhere": f"VALUE = {value}"})
    return directory


@pytest.mark.case("V01")
async def test_every_tool_runs_a_notebook_in_the_environment_of_its_project(client: Connect, workspace: Path) -> None:
    """Two projects at once, with two versions of one module. The environments are not changed."""
    roots = [project(workspace / name, value) for name, value in (("one", 1), ("two", 2))]
    before = [sorted(path.name for path in (root / ".venv").rglob("*.dist-info")) for root in roots]
    for root in roots:
        write_notebook(root / "n.ipynb", [cell("a = 0", tags=["parameters"]), _WHERE, _SHELL])
    async with client() as c:
        for value, root in enumerate(roots, 1):
            venv = root / ".venv"
            info = await call(c, "get_notebook_info", path=f"{root.name}/n.ipynb")
            in_place = await call(c, "execute_notebook", path=f"{root.name}/n.ipynb")
            one = await call(c, "execute_notebook_cell", path=f"{root.name}/n.ipynb", index=1)
            output = f"{root.name}/out.ipynb"
            run = await call(c, "execute_notebook_papermill", input_path=f"{root.name}/n.ipynb", output_path=output)
            batch = await call(
                c, "execute_notebook_batch", seconds=60, wait=50, input_path=f"{root.name}/n.ipynb", grid={"a": [1]}
            )
            started = await call(c, "start_kernel", cwd=root.name)
            code = await call(c, "execute_cell", kernel_id=started["kernel_id"], code=_WHERE)

            expected = [f"{value} {venv}\n", f"{venv}/bin {venv}\n"]
            for file in (root / "n.ipynb", workspace / output, workspace / batch["runs"][0]["output_path"]):
                outputs = [stdout_in(one) for one in read_json(file)["cells"] if one["cell_type"] == "code"]
                assert outputs[-2:] == expected, file
            assert one["outputs"][0]["text"] == expected[0]
            assert code["outputs"][0]["text"] == expected[0]
            for facts in (info, in_place, one, run, batch):
                assert facts["python"].endswith(", the project's"), facts
                assert facts["python"].startswith(".venv (3."), facts
            assert started["python"] == info["python"]
            metadata = read_json(workspace / output)["metadata"]
            assert metadata["kernelspec"]["display_name"] == info["python"].partition(",")[0]
            assert metadata["papermill"]["environment"]["name"] == ".venv"
    assert [sorted(path.name for path in (root / ".venv").rglob("*.dist-info")) for root in roots] == before


@pytest.mark.case("V01")
async def test_a_call_may_name_the_python_and_a_bound_kernel_is_not_exchanged(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    project(workspace / "one", 1)
    other = project(tmp_path / "two", 2)
    write_notebook(workspace / "one" / "n.ipynb", [_WHERE])
    async with client() as c:
        first = await call(c, "execute_notebook", path="one/n.ipynb", python=str(other))
        again = await call(c, "execute_notebook", path="one/n.ipynb")
        same = await call(c, "execute_notebook", path="one/n.ipynb", python=str(other / ".venv" / "bin" / "python"))
        message = await refused(c, "execute_notebook", path="one/n.ipynb", python=sys.executable)
        both = await refused(
            c, "execute_notebook_papermill", input_path="one/n.ipynb", python=str(other), kernel_name="python3"
        )
        await call(c, "stop_kernel", kernel_id=first["kernel_id"])
        after = await call(c, "execute_notebook", path="one/n.ipynb")

    assert first["python"].endswith("named by the call")
    assert first["kernel_id"] == again["kernel_id"] == same["kernel_id"]
    assert message.startswith("INVALID_ARGUMENT: ")
    assert first["kernel_id"] in message
    assert "fresh=true" in message
    assert both.startswith("INVALID_ARGUMENT: ")
    assert after["python"].endswith("the project's")
    assert stdout_in(read_json(workspace / "one" / "n.ipynb")["cells"][0]).startswith("1 ")


@pytest.mark.case("V01")
async def test_a_setting_names_the_python_for_what_nothing_else_decides(
    client: Connect, workspace: Path, tmp_path: Path
) -> None:
    other = project(tmp_path / "two", 2)
    write_notebook(workspace / "n.ipynb", [_WHERE])
    async with client(python=str(other)) as c:
        done = await call(c, "execute_notebook", path="n.ipynb")
    assert done["status"] == "ok"
    assert done["python"].endswith("as the setting python says")


async def test_a_missing_module_is_told_with_the_python_that_has_it(client: Connect, workspace: Path) -> None:
    project(workspace, 1)
    make_venv(workspace / "env", modules={"elsewhere": ""})
    write_notebook(workspace / "n.ipynb", ["import elsewhere"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
        papermill = await call(c, "execute_notebook_papermill", input_path="n.ipynb")
        code = await call(c, "execute_cell", kernel_id=run["kernel_id"], code="import elsewhere.deep")
        other = await call(c, "execute_notebook_papermill", input_path="n.ipynb", python="env")
    for facts in (run, papermill, code):
        assert facts["status"] == "error"
        assert any(".venv (" in note and f'python="{workspace}/env"' in note for note in facts["notes"]), facts
    assert other["status"] == "ok"


@pytest.mark.case("V04")
async def test_packages_of_the_environment_come_before_those_of_the_layer(client: Connect, workspace: Path) -> None:
    """A project that pins an older `packaging` and `traitlets` gets these, beside an ipykernel that it has not."""
    import traitlets

    project(workspace, 1)
    site = next((workspace / ".venv").glob("lib/python*/site-packages"))
    (site / "packaging").mkdir()
    (site / "packaging" / "__init__.py").write_text("__version__ = '1.0'")
    (site / "packaging" / "version.py").write_text("class Version:\n    def __init__(self, text): pass")
    source = Path(traitlets.__file__).parent
    (site / "traitlets").symlink_to(source)
    write_notebook(
        workspace / "n.ipynb",
        [
            "import packaging, traitlets, ipykernel\nprint(packaging.__version__)\nprint(traitlets.__file__)",
            "try:\n    import pydantic\nexcept ImportError as error:\n    print(error)",
        ],
    )
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
    first, second = (stdout_in(one) for one in read_json(workspace / "n.ipynb")["cells"])
    assert run["status"] == "ok"
    assert first == f"1.0\n{site}/traitlets/__init__.py\n"
    assert second == "No module named 'pydantic'\n", "packages of the server are not the notebook's"


@pytest.mark.case("V04")
async def test_modules_of_the_directory_do_not_stand_in_for_those_of_the_kernel(
    client: Connect, workspace: Path
) -> None:
    project(workspace, 1)
    for name in ("json", "ipykernel", "runpy", "os"):
        (workspace / f"{name}.py").write_text("raise SystemExit('not this one')")
    (workspace / "mine.py").write_text("VALUE = 7")
    write_notebook(workspace / "n.ipynb", ["import mine\nprint(mine.VALUE)"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
    assert run["status"] == "ok", run
    assert stdout_in(read_json(workspace / "n.ipynb")["cells"][0]) == "7\n"


async def test_a_conda_environment_is_active_in_its_kernels(client: Connect, workspace: Path) -> None:
    conda = make_conda(workspace / ".conda", modules={"onlyhere": "VALUE = 3"})
    scripts = conda / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "data.sh").write_text("export MY_DATA=$CONDA_PREFIX/data\necho noise\n")
    (conda / "conda-meta" / "state").write_text(json.dumps({"env_vars": {"KEPT": "yes", "GONE": "***unset***"}}))
    names = ["CONDA_PREFIX", "CONDA_DEFAULT_ENV", "MY_DATA", "KEPT", "GONE", "VIRTUAL_ENV"]
    write_notebook(
        workspace / "n.ipynb",
        [f"import os, shutil\nprint([os.environ.get(n) for n in {names}])\nprint(shutil.which('python'))"],
    )
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
    printed = stdout_in(read_json(workspace / "n.ipynb")["cells"][0]).splitlines()
    assert run["status"] == "ok", run
    assert printed[0] == str([str(conda), ".conda", f"{conda}/data", "yes", None, None])
    assert printed[1] == f"{conda}/bin/python"


async def test_a_notebook_of_another_language_does_not_run_as_python(client: Connect, workspace: Path) -> None:
    """Its outputs stay. The kernelspec counts where only the language of an earlier kernel is left."""
    file = write_notebook(workspace / "n.ipynb", ["x <- 1"], language="R")
    before = file.read_bytes()
    async with client() as c:
        messages = [
            await refused(c, "execute_notebook", path="n.ipynb"),
            await refused(c, "execute_notebook_papermill", input_path="n.ipynb"),
        ]
        assert file.read_bytes() == before
        named = await call(c, "execute_notebook", path="n.ipynb", python=sys.executable)
        notebook = read_json(write_notebook(workspace / "m.ipynb", ["1"], language="R"))
        notebook["metadata"]["kernelspec"] |= {"language": "python"}
        notebook["metadata"]["language_info"] = {"name": "R"}
        (workspace / "m.ipynb").write_text(json.dumps(notebook))
        changed = await call(c, "execute_notebook", path="m.ipynb")
    for message in messages:
        assert message.startswith("KERNELSPEC_NOT_FOUND: the notebook is in R and names kernel 'python3'"), message
        assert "kernel_id" in message
    assert named["status"] == "error"
    assert changed["status"] == "ok"


async def test_the_rest_of_a_removed_ipykernel_is_none(client: Connect, workspace: Path) -> None:
    venv = project(workspace, 1) / ".venv"
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "ipykernel" / "__pycache__").mkdir(parents=True)
    async with client() as c:
        started = await call(c, "start_kernel")
    assert started["python"].endswith("the project's")


async def test_an_answer_is_found_in_what_an_interpreter_prints(
    client: Connect, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `sitecustomize` prints before and after it. A dump of it by uv is cut."""
    noise = "import atexit\nprint('x' * 9000, end='')\natexit.register(lambda: print('\\n' + 'y' * 9000))"
    put_modules(project(workspace, 1) / ".venv", {"sitecustomize": noise})
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho error: invalid response\necho {'z' * 9000}\nexit 2\n")
    uv.chmod(0o755)
    monkeypatch.setattr(starting, "own_layer", lambda layers: None)
    monkeypatch.setattr(starting, "find_uv", lambda: str(uv))
    async with client() as c:
        message = await refused(c, "start_kernel")
    assert "has no ipykernel, and uv could not provide ipykernel: error: invalid response" in message
    assert len(message) < 1500


async def test_a_kernel_tells_the_version_where_no_file_does(client: Connect, workspace: Path) -> None:
    venv = project(workspace, 1) / ".venv"
    (venv / "pyvenv.cfg").write_text((venv / "pyvenv.cfg").read_text().replace("version", "other"))
    write_notebook(workspace / "n.ipynb", ["1"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="n.ipynb")
        restarted = await call(c, "restart_kernel", kernel_id=first["kernel_id"])
        again = await call(c, "execute_notebook", path="n.ipynb")
    version = ".".join(map(str, sys.version_info[:3]))
    assert first["python"] == restarted["python"] == f".venv ({version}), the project's"
    assert not again.get("notes")


async def test_the_command_of_a_kernelspec_is_quoted_without_its_script(
    client: Connect, kernelspec: AddKernelspec
) -> None:
    kernelspec("gone", ["/nowhere/python", "-c", "import sys; print(1)", "{connection_file}"])
    async with client() as c:
        message = await refused(c, "start_kernel", kernel_name="gone")
    assert "its kernelspec: /nowhere/python" in message
    assert "import sys" not in message


async def test_pip_of_a_shell_is_never_that_of_another_environment(
    client: Connect, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `pip` of the PATH would install elsewhere. One that is only a module of the environment serves."""
    venv = project(workspace, 1) / ".venv"
    for name in ("pip", "pip3"):
        (tmp_path / name).write_text("#!/bin/sh\necho elsewhere\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    write_notebook(workspace / "n.ipynb", ["!pip install x\n!pip3 install x\nprint(_exit_code)"])
    async with client() as c:
        await call(c, "execute_notebook", path="n.ipynb")
        without = stdout_in(read_json(workspace / "n.ipynb")["cells"][0])
        put_modules(venv, {"pip": "import sys\nprint(sys.prefix, sys.argv[1:]) if __name__ == '__main__' else None"})
        await call(c, "execute_notebook", path="n.ipynb")
        module = stdout_in(read_json(workspace / "n.ipynb")["cells"][0])
        put_modules(venv, {"pip": "raise SystemExit"})
        (venv / "bin" / "pip").write_text("#!/bin/sh\necho its own\n")
        (venv / "bin" / "pip").chmod(0o755)
        await call(c, "execute_notebook", path="n.ipynb")
        own = stdout_in(read_json(workspace / "n.ipynb")["cells"][0])
    assert without.count(f"uv pip install --python {venv}/bin/python") == 2
    assert without.count("install_packages") == 2
    assert without.endswith("1\n")
    assert "elsewhere" not in without
    assert module == f"{venv} ['install', 'x']\n" * 2 + "0\n"
    assert own.startswith("its own\n")


#: Interpreters that are none, with a word of the error.
_BAD: dict[str, tuple[str, str]] = {
    "python 2": ("#!/bin/sh\necho \"  File '<string>', line 3: SyntaxError\" >&2; exit 1\n", "SyntaxError"),
    "junk": ("#!/bin/sh\nhead -c 100000 /dev/urandom; exit 0\n", "not a Python interpreter"),
    "another architecture": ("\x7fELF\x02\x01\x01" + "\0" * 100, "not a Python interpreter"),
    "text": ("hello", "not a Python interpreter"),
    "fails": ("#!/bin/sh\necho 'cannot load libpython' >&2; exit 127\n", "cannot load libpython"),
    "missing program": ("#!/nowhere/python\n", "not a Python interpreter"),
}


@pytest.mark.case("V05")
@pytest.mark.parametrize("bad", _BAD)
async def test_an_interpreter_that_is_none_is_named_with_its_last_lines(
    client: Connect, workspace: Path, bad: str
) -> None:
    content, words = _BAD[bad]
    venv = project(workspace, 1) / ".venv"
    python = venv / "bin" / "python"
    python.unlink()
    python.write_text(content)
    python.chmod(0o755)
    write_notebook(workspace / "n.ipynb", ["1"])
    async with client() as c:
        for tool, arguments in _CALLS.items():
            message = await refused(c, tool, **arguments)
            assert message.startswith("KERNEL_START_FAILED: "), message
            assert words in message, message
            assert str(python) in message
            assert f"emake the environment '{venv}'" in message
            assert "import sys" not in message
        assert (await call(c, "list_kernels"))["active"] == []
    assert read_json(workspace / "n.ipynb")["cells"][0]["outputs"] == []


async def test_the_call_that_installs_a_missing_ipykernel_is_named(
    client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own layer is none for this interpreter, and there is no uv that could make one."""
    venv = project(workspace, 1) / ".venv"
    monkeypatch.setattr(starting, "own_layer", lambda layers: None)
    monkeypatch.setattr(starting, "find_uv", lambda: None)
    async with client() as c:
        message = await refused(c, "start_kernel", python=".venv")
    assert message.startswith("KERNEL_START_FAILED: ")
    assert f'install_packages(python="{venv}/bin/python", packages=["ipykernel"])' in message
    assert f"uv pip install --python {venv}/bin/python ipykernel" in message


#: Interpreters that never end: one waits, one waits for another process, one writes without end.
_HANGING = {"waits": "exec sleep 1000", "child": "sleep 1000", "writes": "yes"}


@pytest.mark.case("V05")
@pytest.mark.parametrize("kind", _HANGING)
async def test_an_interpreter_that_hangs_is_given_up(
    kind: str,
    client: Connect,
    workspace: Path,
    process_check: Callable[[], list[psutil.Process]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network mount that is gone, or a wrapper that waits for a licence. Its output takes no memory."""
    monkeypatch.setattr(jupyter_manager, "_PATIENCE", 0.5)
    monkeypatch.setattr(starting, "_ANSWER_SECONDS", 0.5)
    python = project(workspace, 1) / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f"#!/bin/sh\n{_HANGING[kind]}\n")
    python.chmod(0o755)
    write_notebook(workspace / "n.ipynb", ["1"])
    async with client() as c:
        await call(c, "list_kernels")
        before = psutil.Process().memory_info().rss
        message = await refused(c, "execute_notebook", path="n.ipynb")
        assert psutil.Process().memory_info().rss - before < 100 * 2**20
        assert (await call(c, "list_kernels"))["active"] == []
    assert message.startswith("KERNEL_START_FAILED: ")
    assert "did not answer" in message
    assert not [process for process in process_check() if process.name() in ("sleep", "yes")]


#: Environments that cannot be used, with the words of the note.
_BROKEN = {"dangling": "which is gone", "no interpreter": "has no interpreter", "no file": "no environment"}


@pytest.mark.case("V03")
@pytest.mark.parametrize("broken", _BROKEN)
async def test_an_environment_that_cannot_be_used_is_named(client: Connect, workspace: Path, broken: str) -> None:
    venv = project(workspace, 1) / ".venv"
    if broken == "no file":
        (venv / "pyvenv.cfg").unlink()
    else:
        for python in (venv / "bin").glob("python*"):
            python.unlink()
    if broken == "dangling":
        (venv / "bin" / "python").symlink_to("/nowhere/python3")
    write_notebook(workspace / "n.ipynb", ["1"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
    assert any(str(venv) in note and _BROKEN[broken] in note for note in run["notes"]), run


_CALLS: dict[str, Json] = {
    "execute_notebook": {"path": "n.ipynb"},
    "execute_notebook_papermill": {"input_path": "n.ipynb"},
    "start_kernel": {"python": ".venv"},
}


async def test_an_environment_that_is_deleted_while_its_kernel_lives_leaves_the_results(
    client: Connect, workspace: Path
) -> None:
    project(workspace, 1)
    write_notebook(workspace / "n.ipynb", [_WHERE, "x = 1", "print(x + 1)"])
    async with client() as c:
        await call(c, "execute_notebook", path="n.ipynb", cells="0-1")
        shutil.rmtree(workspace / ".venv")
        rest = await call(c, "execute_notebook", path="n.ipynb", cells="2")
        restarted = await refused(c, "restart_kernel", kernel_id=rest["kernel_id"])
        fresh = await call(c, "execute_notebook_papermill", input_path="n.ipynb")
    assert rest["status"] == "ok"
    assert restarted.startswith("KERNEL_START_FAILED: ")
    assert f"{workspace}/.venv/bin/python, is gone" in restarted
    assert "kernel was left as it is" in restarted
    assert "restart_kernel" in restarted
    assert stdout_in(read_json(workspace / "n.ipynb")["cells"][2]) == "2\n"
    assert fresh["python"].endswith("the server's own")


async def test_a_restart_looks_at_an_environment_again_that_was_remade(client: Connect, workspace: Path) -> None:
    """With another version, and by another tool: the label, the variables and the command are those of now."""
    venv = project(workspace, 1) / ".venv"
    write_notebook(workspace / "n.ipynb", ["import os\nprint(os.environ.get('CONDA_PREFIX'), os.environ.get('MINE'))"])
    async with client() as c:
        kernel = (await call(c, "start_kernel", env={"MINE": "kept"}))["kernel_id"]
        await call(c, "execute_notebook", path="n.ipynb", kernel_id=kernel)
        shutil.rmtree(venv)
        make_conda(venv)
        (venv / "conda-meta" / next(iter(os.listdir(venv / "conda-meta")))).rename(
            venv / "conda-meta" / "python-3.99.1-h0_0_cpython.json"
        )
        restarted = await call(c, "restart_kernel", kernel_id=kernel)
        status = await call(c, "get_kernel_status", kernel_id=kernel)
        again = await call(c, "execute_notebook", path="n.ipynb")
    assert restarted["python"] == status["python"] == again["python"] == ".venv (3.99.1), the project's"
    assert restarted["kernel_name"] == ".venv (3.99.1)"
    assert stdout_in(read_json(workspace / "n.ipynb")["cells"][0]) == f"{venv} kept\n"


async def test_a_live_kernel_decides_and_a_note_says_once_what_the_project_has_now(
    client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "n.ipynb", ["1"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="n.ipynb")
        project(workspace, 1)
        info = await call(c, "get_notebook_info", path="n.ipynb")
        run = await call(c, "execute_notebook", path="n.ipynb")
        again = await call(c, "execute_notebook", path="n.ipynb")
        await call(c, "stop_kernel", kernel_id=first["kernel_id"])
        after = await call(c, "execute_notebook", path="n.ipynb")
        (workspace / ".venv" / "pyvenv.cfg").write_text("version = 3.99.1")
        remade = await call(c, "execute_notebook", path="n.ipynb")
        await call(c, "restart_kernel", kernel_id=after["kernel_id"])
        restarted = await call(c, "execute_notebook", path="n.ipynb")
    assert info["python"] == f"{first['python']}; kernel {first['kernel_id']} runs in it"
    assert run["kernel_id"] == first["kernel_id"]
    note = next(note for note in run["notes"] if ".venv (" in note)
    assert first["python"] in note
    assert "stop_kernel" in note
    assert not any(".venv (" in note for note in again.get("notes") or [])
    assert after["python"].endswith("the project's")
    assert any("restart_kernel changes" in note for note in remade["notes"])
    assert restarted["python"] == ".venv (3.99.1), the project's"
    assert not restarted.get("notes")


@pytest.mark.case("V04")
async def test_an_interpreter_that_finds_no_packages_is_served_by_the_layer(client: Connect, workspace: Path) -> None:
    python = project(workspace, 1) / ".venv" / "bin" / "python"
    real = os.path.realpath(python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {real} -S "$@"\n')
    python.chmod(0o755)
    write_notebook(workspace / "n.ipynb", ["import ipykernel\nprint(ipykernel.__file__)"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="n.ipynb")
    assert run["status"] == "ok"
    assert "/layers/" in stdout_in(read_json(workspace / "n.ipynb")["cells"][0])


@pytest.mark.slow
async def test_a_server_without_a_path_gives_kernels_their_own_programs(
    raw_server: StartRaw, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client with windows starts it."""
    monkeypatch.setenv("PATH", os.defpath)
    put_modules(project(workspace, 1) / ".venv", {"more": ""})
    async with raw_server() as server:
        calls: list[tuple[Json, Path]] = [
            ({}, workspace / ".venv" / "bin"),
            ({"python": sys.executable}, Path(sys.executable).parent),
        ]
        for arguments, directory in calls:
            kernel = (await server.call("start_kernel", **arguments))["kernel_id"]
            run = await server.call("execute_cell", kernel_id=kernel, code=_SHELL)
            found = run["outputs"][0]["text"].split()[0]
            assert Path(found) == directory


@pytest.mark.case("V02")
async def test_a_kernel_that_an_editor_made_for_another_machine_is_replaced(client: Connect, workspace: Path) -> None:
    """An older VS Code gave each interpreter a name. It means nothing elsewhere, so the usual order decides."""
    notebook = read_json(write_notebook(workspace / "a.ipynb", ["import sys\nprint(sys.prefix)"]))
    name = "python385jvsc74a57bd0" + "0123456789abcdef" * 4
    notebook["metadata"]["kernelspec"] = {"name": name, "display_name": "Python 3.8.5 64-bit", "language": "python"}
    (workspace / "a.ipynb").write_text(json.dumps(notebook))
    async with client() as c:
        run = await call(c, "execute_notebook", path="a.ipynb")
        output = await call(c, "execute_notebook_papermill", input_path="a.ipynb")
    assert run["status"] == output["status"] == "ok"
    assert any("Python 3.8.5 64-bit" in note for note in run["notes"])
