"""`doctor`: a whole installation is well, each fault is found and named, and no secret is shown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import RunCommand

from papermill_mcp.utils.lock_files import LockFiles, LocksUnavailableError

pytestmark = pytest.mark.usefixtures("home")

_SCRIPT = str(Path(sys.executable).parent / "jupyter-papermill-mcp")


@pytest.fixture
def checks(run: RunCommand) -> Callable[..., tuple[int, list[dict[str, str]]]]:
    """Runs `doctor --json` without a kernel. Returns the exit code and the checks."""

    def checks(*arguments: str) -> tuple[int, list[dict[str, str]]]:
        code, out, _ = run("doctor", "--json", "--no-execute", *arguments)
        report = json.loads(out)
        found: list[dict[str, str]] = report["checks"]
        faults = [check for check in found if check["status"] == "fault"]
        assert report["status"] == ("fault" if faults else "ok")
        return code, found

    return checks


Checks = Callable[..., tuple[int, list[dict[str, str]]]]


def _of(found: list[dict[str, str]], about: str) -> list[dict[str, str]]:
    return [check for check in found if check["about"] == about]


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))


# A whole installation


@pytest.mark.kernel
def test_a_whole_installation_is_well_and_no_process_is_left(run: RunCommand, project: Path, home: Path) -> None:
    run("install", "zed")

    code, out, err = run("doctor", "--roots", json.dumps([str(project)]))

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "All is well."
    for about in ("server", "python", "mcp", "papermill", "jupyter_client", "nbclient", "settings", "root", "state"):
        assert any(line.split()[:2] == ["ok", about] for line in lines), about
    assert any("the server's own started in" in line and "ran 1+1" in line for line in lines)
    assert any(line.startswith("ok     Zed (user)") for line in lines)
    assert psutil.Process().children(recursive=True) == []
    assert [*(home / ".state").rglob("*.json")] == []


def test_the_report_for_machines_has_the_same_checks(run: RunCommand, checks: Checks) -> None:
    code, found = checks()
    _, out, _ = run("doctor", "--no-execute")

    assert code == 0
    assert {check["about"] for check in found} >= {
        "server",
        "settings",
        "root",
        "state",
        "kernelspec",
        "jupyterlab",
        "render",
        "uv",
    }
    assert [check["status"] for check in _of(found, "kernel")] == ["note"]
    for check in found:
        assert check.keys() == {"about", "status", "text", "advice"}
        assert check["text"] in out


def test_help_names_the_exit_codes(run: RunCommand) -> None:
    code, out, _ = run("doctor", "--help")
    assert code == 0
    assert all(f"{number} " in out for number in (0, 1, 2))


# Faults of settings


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--roots", "nowhere"], "'nowhere' is not a directory"),
        (["--max-kernel", "3"], "did you mean --max-kernels?"),
        (["--jsn"], "unknown flag --jsn"),
        (["CLIENT"], "CLIENT"),
    ],
)
def test_settings_that_cannot_be_used_are_named(checks: Checks, arguments: list[str], text: str) -> None:
    code, found = checks(*arguments)

    assert code == 2
    (check,) = _of(found, "settings")
    assert check["status"] == "fault"
    assert text in check["text"]
    assert _of(found, "kernelspec")


def test_values_of_the_environment_are_not_shown(run: RunCommand, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("JUPYTER_MCP_MAX_KERNELS", "s3cret")
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    code, out, err = run("doctor", "--no-execute")
    assert code == 2
    assert "JUPYTER_MCP_MAX_KERNELS" in out
    assert "s3cret" not in out + err

    monkeypatch.setenv("JUPYTER_MCP_MAX_KERNELS", "3")
    monkeypatch.setenv("JUPYTER_MCP_KERNEL_ENV_DENY", "S3CRET")
    code, out, err = run("doctor", "--no-execute")
    assert code == 0
    assert "max_kernels, kernel_env_deny" in out
    assert "S3CRET" not in out + err


# Faults of the machine


@pytest.mark.parametrize(("right", "text"), [(os.R_OK, "cannot be read"), (os.W_OK, "cannot be written")])
def test_a_root_without_rights_is_a_fault(
    checks: Checks, monkeypatch: pytest.MonkeyPatch, project: Path, right: int, text: str
) -> None:
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode, **more: not (Path(path) == project and mode & right) and access(path, mode, **more),
    )

    code, found = checks()

    assert code == 1
    (check,) = _of(found, "root")
    assert (check["status"], check["text"]) == ("fault", f"{project} {text}")
    assert check["advice"]
    if right == os.W_OK:
        assert checks("--read-only")[0] == 0


def test_a_state_directory_that_is_a_file_is_a_fault(checks: Checks, project: Path) -> None:
    (project / "state").write_text("")
    code, found = checks("--state-directory", "state")
    assert code == 1
    assert [check["status"] for check in _of(found, "state")] == ["fault"]


def test_a_state_directory_without_locks_is_a_fault(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LockFiles, path: Path) -> None:
        raise LocksUnavailableError("no locks here")

    monkeypatch.setattr(LockFiles, "try_acquire", refuse)
    code, found = checks()
    assert code == 1
    assert "no locks here" in _of(found, "state")[0]["text"]


@pytest.mark.parametrize("package", ["papermill", "nbclient", "jupyterlab"])
def test_a_package_that_is_missing_is_named(checks: Checks, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    code, found = checks()

    (check,) = _of(found, package)
    assert (code, check["status"]) == ((0, "note") if package == "jupyterlab" else (1, "fault"))
    assert "not installed" in check["text"]


def _kernelspec(directory: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    spec = {"argv": argv, "display_name": "x", "language": "python"}
    _write(directory / "kernels/python3/kernel.json", spec)
    monkeypatch.setenv("JUPYTER_PATH", str(directory))


@pytest.mark.parametrize(
    "argv",
    [["/no/such/python"], [sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", "input()"]],
    ids=["missing", "ends at once", "ends without an answer"],
)
def test_a_kernel_that_does_not_start_is_a_fault(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    _kernelspec(tmp_path / "jupyter", monkeypatch, argv)

    code, out, _ = run("doctor", "--json")

    assert code == 1
    (check,) = _of(json.loads(out)["checks"], "kernel")
    assert check["status"] == "fault"
    assert check["advice"]
    assert psutil.Process().children(recursive=True) == []


def test_a_kernel_that_never_answers_costs_limited_time(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = "import time\nwhile True: time.sleep(9)"
    _kernelspec(tmp_path / "jupyter", monkeypatch, [sys.executable, "-c", forever])

    code, out, _ = run("doctor", "--json", "--jupyter-timeout", "0.5")

    assert code == 1
    assert _of(json.loads(out)["checks"], "kernel")[0]["status"] == "fault"
    assert psutil.Process().children(recursive=True) == []


# Entries of clients


def test_entries_of_this_server_are_listed_and_secrets_are_not(
    checks: Checks, run: RunCommand, home: Path, project: Path
) -> None:
    env = {"TOKEN": "s3cret"}
    ours = {"command": _SCRIPT, "args": ["--roots", str(home), "--dask-scheduler", "tcp://s3cret"], "env": env}
    other = {"command": "s3cret-command", "args": ["s3cret"], "env": env}
    _write(home / ".cursor/mcp.json", {"mcpServers": {"mine": ours, "s3cret-server": other}})
    _write(project / ".vscode/mcp.json", {"servers": {"here": ours}})
    local = {"mcpServers": {"local": ours}}
    _write(home / ".claude.json", {"projects": {str(project): local, "/elsewhere": {"mcpServers": {"far": ours}}}})
    _write(home / ".codex/config.toml", f'[mcp_servers.cx]\ncommand = "{_SCRIPT}"\n')

    code, found = checks()
    _, out, err = run("doctor", "--no-execute")

    assert code == 0
    assert "s3cret" not in json.dumps(found) + out + err
    texts = {check["about"]: check["text"] for check in found}
    assert texts["Cursor (user)"].startswith("'mine' in ")
    assert texts["VS Code (project)"].startswith("'here' in ")
    assert texts["Claude Code (user)"].startswith("'local' in ")
    assert texts["Codex (user)"].startswith("'cx' in ")
    assert "far" not in json.dumps(found)


_ENTRIES = {
    "command is gone": ({"command": "/gone/jupyter-papermill-mcp"}, "fault", "cannot be run"),
    "command is a directory": ({"command": "/", "args": ["-m", "papermill_mcp.main"]}, "fault", "cannot be run"),
    "command is not found": ({"command": "gone", "args": ["jupyter-papermill-mcp"]}, "fault", "is not found"),
    "command without a path": ({"command": "sh", "args": ["jupyter-papermill-mcp"]}, "note", "is not absolute"),
    "root is gone": ({"command": _SCRIPT, "args": ["--roots", "/gone"]}, "fault", "these roots do not exist: /gone"),
    "one of two roots": ({"command": _SCRIPT, "args": ["--roots=/gone", "--roots", "/"]}, "fault", "/gone"),
    "root with a comma": ({"command": _SCRIPT, "args": ["--roots", '["/go,ne"]']}, "fault", "/go,ne"),
    "variable": ({"command": _SCRIPT, "args": ["--roots", "${workspaceFolder}"]}, "ok", ""),
    "unknown flag": ({"command": _SCRIPT, "args": ["--roots", "/", "--new"]}, "ok", ""),
}


@pytest.mark.parametrize(("entry", "status", "text"), _ENTRIES.values(), ids=_ENTRIES)
def test_an_entry_that_cannot_start_is_a_fault(
    checks: Checks, home: Path, entry: dict[str, Any], status: str, text: str
) -> None:
    _write(home / ".cursor/mcp.json", {"mcpServers": {"mine": entry}})

    code, found = checks()

    (check,) = _of(found, "Cursor (user)")
    assert check["status"] == status
    assert text in check["text"]
    assert code == (1 if status == "fault" else 0)


@pytest.mark.parametrize(
    ("file", "data"),
    [(".cursor/mcp.json", b'{"mcpServers": '), (".codex/config.toml", b"a = "), (".cursor/mcp.json", b"\xff")],
)
def test_settings_of_a_client_that_cannot_be_read_are_a_note(
    checks: Checks, home: Path, file: str, data: bytes
) -> None:
    (home / file).parent.mkdir()
    (home / file).write_bytes(data)

    code, found = checks()

    assert code == 0
    (check,) = [check for check in found if str(home / file) in check["text"]]
    assert check["status"] == "note"


def test_without_an_entry_the_command_that_writes_one_is_named(checks: Checks) -> None:
    _, found = checks()
    (check,) = _of(found, "clients")
    assert "install CLIENT" in check["text"]


def test_without_a_home_directory_the_other_checks_go_on(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    code, found = checks()
    assert code == 1
    assert _of(found, "clients")[0]["status"] == "fault"
    assert _of(found, "kernelspec")


def test_a_disabled_entry_is_a_note(checks: Checks, home: Path, run: RunCommand) -> None:
    assert run("install", "zed")[0] == 0
    file = home / ".config" / "zed" / "settings.json"
    file.write_text(file.read_text().replace('"command"', '"enabled": false, "command"'))

    _, found = checks()

    (check,) = _of(found, "Zed (user)")
    assert check["status"] == "note"
    assert "is disabled" in check["text"]
