"""Environments are read from files, and nothing that is found is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeConfig
from environments import make_conda, make_venv, put_modules

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.environments.discovery import Discovery
from papermill_mcp.core.environments.reading import (
    PROJECT_NAMES,
    Environment,
    environment_at,
    environment_of,
    environments_in,
    own_environment,
)
from papermill_mcp.errors import InvalidArgumentError
from papermill_mcp.services.pythons import Pythons, _wanted_name
from papermill_mcp.services.workspace import Workspace

VERSION = ".".join(map(str, sys.version_info[:3]))


def fake_venv(directory: Path, *, version: str = "3.12.3", key: str = "version") -> Path:
    """The files of a virtual environment. Its interpreter leaves a mark when it is run."""
    (directory / "bin").mkdir(parents=True)
    (directory / "pyvenv.cfg").write_text(f"home = /usr/bin\n{key} = {version}\n")
    python = directory / "bin" / "python"
    python.write_text(f"#!/bin/sh\ntouch {directory}/was-run\n")
    python.chmod(0o755)
    (directory / "lib" / "python3.12" / "site-packages" / "numpy-2.1.0.dist-info").mkdir(parents=True)
    (directory / "lib" / "python3.12" / "site-packages" / "numpy").mkdir()
    (directory / "lib" / "python3.12" / "site-packages" / "numpy" / "__init__.py").touch()
    return directory


def document(name: str | None = None, display: str | None = None, language: str | None = "python") -> NotebookDocument:
    spec = {"name": name, "display_name": display, "language": language}
    metadata = {"kernelspec": {key: value for key, value in spec.items() if value is not None}}
    return NotebookDocument.new(metadata)


@pytest.fixture
def pythons(config: MakeConfig, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pythons:
    """Of a server with an empty home directory, in no active environment."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYENV_ROOT", "CONDA_EXE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    return Pythons(config(), Workspace([workspace]))


@pytest.mark.parametrize("key", ["version", "version_info", "Version"])
def test_a_virtual_environment_is_known_by_its_file(tmp_path: Path, key: str) -> None:
    found = environment_at(fake_venv(tmp_path / ".venv", version="3.12.3.final.0", key=key))

    assert found is not None
    assert (found.label, found.kind, found.version) == (".venv (3.12.3)", "venv", "3.12.3")
    assert found.packages() == {"numpy": "2.1.0"}
    assert found.has_package("numpy")
    assert not found.has_package("pandas")


def test_a_real_virtual_environment_and_a_conda_one_are_known(tmp_path: Path) -> None:
    venv = environment_at(make_venv(tmp_path / "venv", modules={"one": ""}))
    conda = environment_at(make_conda(tmp_path / "science", modules={"two": ""}))

    assert venv is not None
    assert conda is not None
    assert (venv.label, conda.label) == (f"venv ({VERSION})", f"science ({VERSION})")
    assert venv.has_package("one")
    assert conda.has_package("two")
    assert environment_of(venv.python) == venv
    assert environment_of(conda.python).prefix == conda.prefix
    done = subprocess.run([str(conda.python), "-c", "import two"], check=False, timeout=30)
    assert done.returncode == 0


@pytest.mark.case("V03")
@pytest.mark.parametrize("broken", ["no interpreter", "fifo", "directory", "binary", "closed", "loop", "huge"])
def test_an_environment_that_is_broken_neither_fails_nor_waits(tmp_path: Path, broken: str) -> None:
    directory = fake_venv(tmp_path / ".venv")
    config = directory / "pyvenv.cfg"
    if broken == "no interpreter":
        (directory / "bin" / "python").unlink()
        (directory / "bin" / "python").symlink_to("/nowhere/python3")
    elif broken == "closed":
        directory.chmod(0)
    else:
        config.unlink()
    if broken == "fifo":
        os.mkfifo(config)
    elif broken == "directory":
        config.mkdir()
    elif broken == "binary":
        config.write_bytes(b"\xff\xfe\0version = x\n")
    elif broken == "loop":
        config.symlink_to(config)
    elif broken == "huge":
        config.write_text("x" * 10_000_000 + "\nversion = 3.12.3\n")
    try:
        found = environment_at(directory)
    finally:
        directory.chmod(0o755)
    assert found is None or found.version is None or os.geteuid() == 0


@pytest.mark.case("V03")
def test_looking_never_runs_what_it_finds(pythons: Pythons, workspace: Path) -> None:
    directories = [fake_venv(workspace / name) for name in PROJECT_NAMES if name != ".conda"]
    notebook = document("python3", ".venv (3.12.3)")

    assert [found.name for found in environments_in(workspace)] == [".venv", "venv", "env", ".pixi:default"]
    assert pythons.glance(workspace, notebook) == ".venv (3.12.3), the project's"
    assert len(pythons.known(workspace)) >= 4
    pythons.module_note("numpy", directories[0] / "bin" / "python", workspace)
    for directory in directories:
        assert not (directory / "was-run").exists()


@pytest.mark.case("V02")
def test_the_nearest_project_counts_and_none_above_the_root(pythons: Pythons, workspace: Path) -> None:
    deep = workspace / "a" / "b"
    deep.mkdir(parents=True)
    fake_venv(workspace.parent / ".venv")
    notebook = document()
    own = f"{own_environment().label}, the server's own"
    assert pythons.glance(deep, notebook) == own
    fake_venv(workspace / ".venv", version="3.10.1")
    assert pythons.glance(deep, notebook) == ".venv (3.10.1), the project's"
    fake_venv(workspace / "a" / "env", version="3.13.0")
    assert pythons.glance(deep, notebook) == "env (3.13.0), the project's"
    assert pythons.glance(workspace, notebook) == ".venv (3.10.1), the project's"


#: Names of kernels as editors and tools write them, and the environment that is meant.
_NAMES = {
    ("python3", "venv (3.12.3)"): "venv",
    ("python3", "venv (Python 3.12.3)"): "venv",
    ("python3", "venv"): "venv",
    ("python3", ".venv (3.12.3)"): ".venv",
    ("python3", "Python 3 (ipykernel)"): ".venv",
    ("python3", "Python 3"): ".venv",
    ("python3", "Python 3.12.3"): ".venv",
    (None, None): ".venv",
    ("python3", "science (Python 3.11.5)"): "science",
    ("python3", "science"): "science",
    ("conda-env-science-py", "Python [conda env:science]"): "science",
    ("conda-env-science-py", "Python [conda env:science] *"): "science",
    ("science", "science (3.11.5)"): "science",
    ("python3", "Python 3.9.6 ('venv': venv)"): "venv",
    ("python3", "Python 3.8.7 64-bit ('venv')"): "venv",
    ("python3", "Python 3.8.1rc2 64-bit ('science': conda)"): "science",
    ("python385jvsc74a57bd031f2aee4", "Python 3.8.5 64-bit ('science': conda)"): "science",
    ("gone", "gone (3.9.1)"): ".venv",
    ("python3", "/etc/passwd (3.9)"): ".venv",
    ("python3", "../science (3.9)"): ".venv",
}


@pytest.mark.case("V02")
@pytest.mark.parametrize(
    ("display", "wanted"),
    {
        ".venv": ".venv",
        "base": "base",
        "Python 3.9.6 ('venv': venv)": "venv",
        "Python 3.9.6 ('.venv': poetry)": ".venv",
        "Python 3.11.5 64-bit ('./venv': venv)": "venv",
        "Python 3.8.5 64-bit ('base': conda)": "base",
        "Python 3.8.5 64-bit ('3.8.5')": "3.8.5",
        "Python 3.8.8 64-bit ('my env': conda)": "my env",
        "Python 3.10.4 64-bit": None,
        "Python 3.8.5 32-bit": None,
        "Python 3.13.0rc1": None,
        "Python 3.7.12 64-bit (conda)": None,
        "Python 3.11.0 64-bit (microsoft store)": None,
        "Python 3.9.6 ('../venv': venv)": None,
        "Python 3.9.6 ('/etc/venv': venv)": None,
        "Python 3.9.6 ('a' or 'b')": None,
    }.items(),
)
def test_the_name_in_a_display_name(display: str, wanted: str | None) -> None:
    """As VS Code writes it now, and as it wrote it before 2022."""
    assert _wanted_name("python3", display) == wanted


@pytest.mark.case("V02")
def test_a_lost_environment_of_an_old_display_name_is_noted(pythons: Pythons, workspace: Path) -> None:
    fake_venv(workspace / ".venv")
    lost = pythons._found(workspace, "python3", "Python 3.8.5 64-bit ('lost': conda)")
    plain = pythons._found(workspace, "python3", "Python 3.8.5 64-bit")

    assert [choice.environment.name for choice in (lost, plain) if choice.environment] == [".venv"] * 2
    assert "'lost'" in lost.notes[0]
    assert plain.notes == ()


@pytest.mark.case("V02")
@pytest.mark.parametrize(("name", "display"), _NAMES)
def test_the_kernel_that_a_notebook_names_decides_among_environments(
    pythons: Pythons, workspace: Path, tmp_path: Path, name: str | None, display: str | None
) -> None:
    fake_venv(workspace / ".venv")
    fake_venv(workspace / "venv")
    make_conda(tmp_path / "home" / "miniconda3" / "envs" / "science")

    choice = pythons._found(workspace, name, display)

    assert choice.environment is not None
    assert choice.environment.name == _NAMES[name, display]
    lost = "gone" in (name, display) or "(3.9)" in (display or "")
    assert bool(choice.notes) == lost or not choice.notes


def test_conda_pyenv_uv_poetry_and_the_path_are_found_once(
    pythons: Pythons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    other = make_conda(tmp_path / "elsewhere" / "lab")
    (home / ".conda").mkdir()
    (home / ".conda" / "environments.txt").write_text(f"{other}\n{other}\nrelative\n\0bad\n/nowhere\n")
    make_conda(home / "miniforge3" / "envs" / "geo")
    fake_venv(home / ".cache" / "pypoetry" / "virtualenvs" / "shop-x1-py3.12")
    for version in ("3.12.1", "2.7.18"):
        (home / ".pyenv" / "versions" / version / "bin").mkdir(parents=True)
    (home / ".pyenv" / "versions" / "3.12.1" / "bin" / "python3").touch()
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    (bin_directory / "python3.10").touch()
    monkeypatch.setenv("PATH", f"{bin_directory}:{bin_directory}:relative")
    monkeypatch.setattr("papermill_mcp.core.environments.discovery._CONDAS", ("miniforge3", ".conda"))

    discovery = Discovery()
    found = [one.prefix.name if one.prefix else one.version for one in discovery.environments()]
    assert found == ["lab", "geo", "3.12.1", "shop-x1-py3.12", "3.10"]
    assert [one.prefix for one in discovery.named("GEO")] == [home / "miniforge3" / "envs" / "geo"]
    make_conda(home / "miniforge3" / "envs" / "new")
    assert discovery.named("new"), "a look notices a change"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("", "is not a path"),
        ("http://x/python", "is not a path"),
        ("nope", "does not exist"),
        ("/nowhere/python", "does not exist"),
        (".", "without an environment"),
        ("x" * 5000, "does not exist"),
        ("~nobody-here/venv", "does not exist"),
    ],
)
def test_a_python_that_is_none_is_named_with_the_ones_there_are(pythons: Pythons, python: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as raised:
        pythons.named(python)
    assert "virtual or conda environment" in str(raised.value)


def test_python_takes_an_interpreter_an_environment_a_project_and_a_conda_name(
    pythons: Pythons, workspace: Path, tmp_path: Path
) -> None:
    venv = fake_venv(workspace / "project" / ".venv")
    geo = make_conda(tmp_path / "home" / "miniconda3" / "envs" / "geo")
    for python in ("project", "project/.venv", "project/.venv/bin/python", str(venv)):
        assert pythons.named(python).prefix == venv, python
    assert pythons.named("geo").prefix == geo
    assert pythons.named(sys.executable).python == Path(sys.executable)


def test_the_note_about_a_missing_module_names_the_next_step(pythons: Pythons, workspace: Path, tmp_path: Path) -> None:
    venv = fake_venv(workspace / ".venv")
    python = venv / "bin" / "python"
    note = pythons.module_note("cv2", python, workspace)
    assert ".venv (3.12.3)" in note
    assert f"uv pip install --python {python} opencv-python" in note
    other = make_conda(tmp_path / "home" / "miniconda3" / "envs" / "geo")
    put_modules(other, {"cv2": ""})
    assert f'python="{other}"' in pythons.module_note("cv2", python, workspace)
    own = pythons.module_note("cv3", Path(sys.executable), workspace)
    assert "pip install" not in own, "the environment of the server is not for packages of users"


def test_an_environment_that_was_active_at_the_start_is_taken_last(
    pythons: Pythons, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = fake_venv(tmp_path / "active")
    monkeypatch.setenv("VIRTUAL_ENV", str(active))
    assert pythons.glance(workspace, document()) == "active (3.12.3), active when the server started"
    fake_venv(workspace / ".venv")
    assert pythons.glance(workspace, document()) == ".venv (3.12.3), the project's"
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert isinstance(own_environment(), Environment)


def test_a_notebook_of_another_language_gets_no_python(pythons: Pythons, workspace: Path) -> None:
    fake_venv(workspace / ".venv")
    assert pythons.glance(workspace, document("ir", "R", "R")) is None


def test_a_setting_that_names_no_python_is_shown_as_the_fault(config: MakeConfig, workspace: Path) -> None:
    pythons = Pythons(config(python="nowhere"), Workspace([workspace]))
    assert "the setting python is wrong" in str(pythons.glance(workspace, document()))


def test_a_version_names_the_newest_known_interpreter_of_it(
    pythons: Pythons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts count, so 3.1 is not 3.10. Environments have names of their own."""
    for version in ("3.10.2", "3.10.13", "3.1.9"):
        python = tmp_path / "home" / ".pyenv" / "versions" / version / "bin" / "python3"
        python.parent.mkdir(parents=True)
        python.write_text("")
    fake_venv(tmp_path / "home" / ".virtualenvs" / "geo", version="3.10.99")
    usual = tmp_path / "usual"
    usual.mkdir()
    (usual / "python3.9").write_text("")
    (usual / "python3.9").chmod(0o755)
    (usual / "python3").symlink_to("python3.9")
    monkeypatch.setenv("PATH", str(usual))

    assert pythons.named("3.10").version == pythons.named("python3.10").version == "3.10.13"
    assert pythons.named("3.10.2").version == "3.10.2"
    assert pythons.named("3.1").version == "3.1.9"
    assert pythons.named("python3").python == usual / "python3"
    assert pythons.named("3.9").label == f"Python 3.9 at {usual}/python3"
    for unknown in ("3.8", "3", "python", "python2"):
        with pytest.raises(InvalidArgumentError, match="does not exist"):
            pythons.named(unknown)
