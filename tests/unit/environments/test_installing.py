"""Which packages may be asked for, and how an installer is started for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import make_conda, make_venv

from papermill_mcp.core.environments import installing
from papermill_mcp.core.environments.installing import (
    externally_managed_advice,
    installer_command,
    installer_variables,
)
from papermill_mcp.core.environments.reading import Environment, environment_at
from papermill_mcp.core.environments.requirements import MAX_PACKAGES, name_of, requirements_of
from papermill_mcp.errors import EnvironmentFailedError, InvalidArgumentError
from papermill_mcp.services.runs.install_run import rows_of


def found(directory: Path) -> Environment:
    environment = environment_at(directory)
    assert environment is not None
    return environment


def _uv(monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    monkeypatch.setattr(installing, "find_uv", lambda: program)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("pandas", "pandas"),
        (" pandas >= 2, < 3 ", "pandas<3,>=2"),
        ("Scikit_Learn", "Scikit_Learn"),
        ("dask[complete]==2026.1", "dask[complete]==2026.1"),
        ("web.py", "web.py"),
        ('tomli; python_version < "3.11"', 'tomli; python_version < "3.11"'),
    ],
)
def test_a_name_with_versions_is_a_requirement(text: str, normal: str) -> None:
    assert requirements_of([text]) == [normal]


@pytest.mark.case("V13")
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-r requirements.txt",
        "--index-url=https://evil.example",
        "-e .",
        " -r x",
        ".",
        "./package",
        "/tmp/package",
        "../package-1.0-py3-none-any.whl",
        "package-1.0-py3-none-any.whl",
        "package.whl",
        "package.tar.gz",
        "package.ZIP",
        "https://example.org/package.whl",
        "git+https://example.org/package.git",
        "package @ https://example.org/package.whl",
        "package @ file:///tmp/package",
        "package@git+ssh://git@example.org/package",
        "pandas numpy",
        "pandas\n--index-url https://evil.example",
        "pandas\n",
        "pandas\0",
        "pandas; rm -rf /",
        "$(touch x)",
        "ä" * 10,
        "p" * 1000,
        "pandas>=",
    ],
)
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        requirements_of(["numpy", text])
    assert "packages[1]" in str(caught.value)
    assert "Nothing was installed." in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_number_of_packages_has_bounds() -> None:
    assert len(requirements_of([f"p{number}" for number in range(MAX_PACKAGES)])) == MAX_PACKAGES
    for packages in ([], [f"p{number}" for number in range(MAX_PACKAGES + 1)]):
        with pytest.raises(InvalidArgumentError):
            requirements_of(packages)


def test_a_requirement_that_is_given_twice_is_one() -> None:
    assert requirements_of(["a>=1", "b", "a >=1", "a<3"]) == ["a>=1", "b", "a<3"]
    assert {name_of("Some_Package.x>=1"), name_of("some-package-x")} == {"some-package-x"}


def test_uv_installs_into_the_interpreter_and_upgrades_only_the_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _uv(monkeypatch, "/opt/uv")
    for environment in (found(make_venv(tmp_path / "v")), found(make_conda(tmp_path / "c"))):
        command = installer_command(environment, ["A_b>=1"], upgrade=False)
        assert command == ["/opt/uv", "pip", "install", "--python", str(environment.python), "--", "A_b>=1"]
        upgrade = installer_command(environment, ["A_b>=1"], upgrade=True)
        assert upgrade[5:] == ["--upgrade-package", "a-b", "--", "A_b>=1"]


def test_pip_of_the_environment_installs_where_there_is_no_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _uv(monkeypatch, None)
    environment = found(make_venv(tmp_path / "v", modules={"pip": ""}))
    command = installer_command(environment, ["a"], upgrade=True)
    assert command[:4] == [str(environment.python), "-m", "pip", "install"]
    assert command[-3:] == ["--upgrade", "--", "a"]
    assert "--no-input" in command


def test_without_uv_and_pip_the_command_for_a_person_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _uv(monkeypatch, None)
    environment = found(make_venv(tmp_path / "a b"))
    with pytest.raises(EnvironmentFailedError) as caught:
        installer_command(environment, ["a>=1"], upgrade=False)
    assert f"'{environment.python}' -m pip install 'a>=1'" in str(caught.value)
    assert "Nothing was installed." in str(caught.value)


def test_the_installer_sees_the_variables_of_the_user_and_not_the_environment_of_the_server(tmp_path: Path) -> None:
    environment = found(make_venv(tmp_path / "v"))
    given = {
        "VIRTUAL_ENV": "/server",
        "CONDA_PREFIX": "/server",
        "PYTHONHOME": "/server",
        "HTTPS_PROXY": "http://proxy",
        "UV_INDEX_URL": "https://index",
        "PIP_CERT": "/cert",
        "SECRET": "x",
        "PATH": "/usr/bin",
    }
    variables = installer_variables(environment, given, ["SECRET"])
    assert variables.keys() & {"CONDA_PREFIX", "PYTHONHOME", "SECRET"} == set()
    assert variables["VIRTUAL_ENV"] == str(tmp_path / "v")
    assert variables.items() >= {name: given[name] for name in ("HTTPS_PROXY", "UV_INDEX_URL", "PIP_CERT")}.items()


@pytest.mark.parametrize(
    ("output", "advised"),
    [
        ("error: externally-managed-environment\n\n× This environment is externally managed", True),
        ("The interpreter at /usr is externally managed, and indicates the following:", True),
        ("No solution found when resolving dependencies", False),
    ],
)
def test_the_way_out_of_the_python_of_the_system(output: str, advised: bool) -> None:
    environment = Environment("interpreter", Path("/usr/bin/python3"), None)
    advice = externally_managed_advice(environment, output)
    assert (advice is not None) is advised
    assert advice is None or "/usr/bin/python3 -m venv .venv" in advice


def test_the_rows_are_those_asked_for_and_those_that_changed() -> None:
    before = {"a": "1", "b-c": "1", "d": "1", "gone": "1"}
    after = {"a": "1", "b.c": "2", "d": "1", "new": "1"}
    rows = [(row.name, row.before, row.after) for row in rows_of(["New", "A>=1", "absent"], before, after)]
    assert rows == [
        ("new", None, "1"),
        ("a", "1", "1"),
        ("absent", None, None),
        ("b-c", "1", "2"),
        ("gone", "1", None),
    ]
