"""`install` and `uninstall` on real files, for each client and each state of its file."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCommand

from papermill_mcp.commands import command_line, jsonc
from papermill_mcp.commands.clients import CLIENTS, Client, Machine, Scope
from papermill_mcp.config import load_config

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.key)

pytestmark = pytest.mark.usefixtures("home")


def _file(client: Client, scope: Scope = "user") -> Path:
    file = client.file(scope, Machine.this())
    assert file is not None
    return file


def _servers(client: Client, text: str) -> dict[str, Any]:
    node = None if client.toml else jsonc.parse(text)
    value = tomllib.loads(text) if client.toml else None if node is None else node.value
    for key in client.container:
        value = (value or {}).get(key)
    return value or {}


def _wanted(client: Client, root: Path, *more: str) -> dict[str, Any]:
    """The entry of this installation, as a client gets it."""
    script = Path(sys.executable).parent / "jupyter-papermill-mcp"
    entry: dict[str, Any] = {"command": str(script), "args": ["--roots", json.dumps([str(root)]), *more]}
    return {"type": "stdio", **entry} if client.typed else entry


def _other(client: Client) -> str:
    """A file with another server, a comment, odd spaces and a key of its own."""
    if client.toml:
        servers = '[mcp_servers.other]\ncommand = "o"  # keep\n'
        return f'# my settings\nmodel  =  "x"   # odd\n\n{servers}\n# end\n[tui]\na = 1\n'
    name = client.container[0]
    return (
        "// my settings\n{\n"
        '   "zebra" : [ 1,2 ],  /* odd */\n'
        f'   "{name}": {{\n'
        '      "other": { "command": "o", "env": {"TOKEN": "s3cret"} }, // keep\n'
        "   },\n"
        '   "apple": null\n}\n'
    )


def _copies(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.name}.*.bak"))


# States of the file


@each_client
def test_a_missing_file_is_made_with_its_directories(client: Client, run: RunCommand, project: Path) -> None:
    code, out, err = run("install", client.key)

    assert (code, err) == (0, "")
    text = _file(client).read_text()
    assert _servers(client, text) == {"jupyter": _wanted(client, project)}
    assert text.endswith("\n")
    assert str(_file(client)) in out
    assert _copies(_file(client)) == []


@each_client
def test_the_server_takes_the_arguments_of_the_entry(client: Client, run: RunCommand, project: Path) -> None:
    (project / "sub").mkdir()
    assert run("install", client.key, "--roots", ".", "sub", "--", "--max-kernels", "3")[0] == 0

    args = _servers(client, _file(client).read_text())["jupyter"]["args"]

    config = load_config(args)
    assert config.roots == [project, project / "sub"]
    assert config.max_kernels == 3


@each_client
@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_gets_the_entry(client: Client, text: str, run: RunCommand, project: Path) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)

    assert run("install", client.key)[0] == 0
    assert _servers(client, file.read_text()) == {"jupyter": _wanted(client, project)}


@each_client
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_all_other_bytes_stay_and_come_back(
    client: Client, newline: str, mark: bytes, run: RunCommand, project: Path
) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    before = mark + _other(client).replace("\n", newline).encode()
    file.write_bytes(before)

    code, out, _ = run("install", client.key)
    changed = file.read_bytes()

    assert code == 0
    servers = _servers(client, changed.removeprefix(mark).decode())
    assert list(servers) == ["other", "jupyter"]
    assert servers["jupyter"] == _wanted(client, project)
    assert re.sub(rb"\s", b"", before) == re.sub(rb"\s", b"", _without_entry(client, changed))
    (copy,) = _copies(file)
    assert copy.read_bytes() == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert str(copy) in out

    assert run("uninstall", client.key)[0] == 0
    assert file.read_bytes() == before
    assert {copy.read_bytes() for copy in _copies(file)} == {before, changed}


def _without_entry(client: Client, data: bytes) -> bytes:
    """The bytes without the lines of the entry. Checks the edit without the code that makes it."""
    text = data.decode("utf-8", "surrogateescape")
    pattern = r"\n*\[mcp_servers\.jupyter\][^\[]*\[.*" if client.toml else r'\s*"jupyter": \{[^{}]*\},?'
    return re.sub(pattern, "", text).encode("utf-8", "surrogateescape")


@each_client
def test_a_file_that_cannot_be_read_stays_and_the_entry_is_printed(
    client: Client, run: RunCommand, project: Path
) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "a = 1\nb = = 2\n" if client.toml else '{\n  "a": 1\n  "b": 2\n}\n'
    file.write_text(text)

    for command in (("install", client.key), ("uninstall", client.key), ("install", client.key, "--dry-run")):
        code, out, err = run(*command)
        assert code == 1
        assert file.read_text() == text
        assert ("line 2, column 5" if client.toml else "line 3, column 3") in err
        assert "unchanged" in err
        if command[0] == "install":
            assert _servers(client, out) == {"jupyter": _wanted(client, project)}
    assert _copies(file) == []


@each_client
@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b'{"a": "\xe9"}', b"\x00"])
def test_a_file_in_another_encoding_stays(client: Client, data: bytes, run: RunCommand) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)

    code, _, err = run("install", client.key)

    assert code == 1
    assert str(file) in err
    assert file.read_bytes() == data


@each_client
def test_a_table_of_servers_of_another_kind_is_refused(client: Client, run: RunCommand) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "mcp_servers = 1\n" if client.toml else json.dumps({client.container[0]: [1]})
    file.write_text(text)

    code, _, err = run("install", client.key)

    assert code == 1
    assert client.container[0] in err
    assert file.read_text() == text


@each_client
def test_a_symbolic_link_stays_and_its_target_changes(client: Client, run: RunCommand, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "settings"
    target.parent.mkdir()
    target.write_text(_other(client))
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(os.path.relpath(target, file.parent))

    assert run("install", client.key)[0] == 0

    assert file.is_symlink()
    assert "jupyter" in _servers(client, target.read_text())
    assert len(_copies(file)) == 1
    assert run("uninstall", client.key)[0] == 0
    assert target.read_text() == _other(client)
    assert file.is_symlink()


@each_client
def test_a_read_only_file_stays(client: Client, run: RunCommand) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_other(client))
    file.chmod(0o444)

    code, _, err = run("install", client.key)

    assert code == 1
    assert f"{file} is read-only" in err
    assert file.read_text() == _other(client)
    assert _copies(file) == []


@each_client
def test_a_directory_in_the_place_of_the_file_is_refused(client: Client, run: RunCommand) -> None:
    _file(client).mkdir(parents=True)
    code, _, err = run("install", client.key)
    assert code == 1
    assert str(_file(client)) in err


def test_a_circle_of_links_is_refused(run: RunCommand) -> None:
    file = _file(CLIENTS[0])
    file.symlink_to(file.name)
    code, _, err = run("install", CLIENTS[0].key)
    assert (code, file.is_symlink()) == (1, True)
    assert str(file) in err


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_rights_of_the_file_stay(mode: int, run: RunCommand) -> None:
    client = CLIENTS[0]
    _file(client).write_text("{}")
    _file(client).chmod(mode)

    assert run("install", client.key)[0] == 0
    assert stat.S_IMODE(_file(client).stat().st_mode) == mode


# Entries


@each_client
def test_the_same_entry_again_changes_nothing(client: Client, run: RunCommand) -> None:
    run("install", client.key)
    before = _file(client).stat()

    code, out, _ = run("install", client.key)

    assert code == 0
    assert "up to date" in out
    assert _file(client).stat().st_mtime_ns == before.st_mtime_ns
    assert _copies(_file(client)) == []


@each_client
def test_an_entry_that_differs_is_replaced_and_its_further_keys_stay(
    client: Client, run: RunCommand, project: Path
) -> None:
    run("install", client.key, "--name", "other", "--", "--max-kernels", "3")
    run("install", client.key, "--", "--max-kernels", "3")
    file = _file(client)
    text = file.read_text()
    if client.toml:
        text += 'env = { A = "secret" }  # mine\n'
    else:
        text = re.sub(r'("jupyter": \{\s*)', r'\1"env": {"A": "secret"}, // mine\n', text)
    file.write_text(text)

    code, out, _ = run("install", client.key)

    assert code == 0
    assert "replaced (args)" in out
    assert "secret" not in out
    servers = _servers(client, file.read_text())
    assert servers["jupyter"] == _wanted(client, project) | {"env": {"A": "secret"}}
    assert servers["other"] == _wanted(client, project, "--max-kernels", "3")
    assert "mine" in file.read_text()
    assert file.read_text() != text
    assert text in [copy.read_text() for copy in _copies(file)]


@each_client
def test_an_entry_of_a_remote_server_is_replaced_as_a_whole(client: Client, run: RunCommand, project: Path) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    old = {"url": "https://example.org/mcp"}
    file.write_text(
        f'[mcp_servers.jupyter]\nurl = "{old["url"]}"\n'
        if client.toml
        else json.dumps({client.container[0]: {"jupyter": old}})
    )

    code, out, _ = run("install", client.key)

    assert (code, "replaced" in out) == (0, True)
    assert _servers(client, file.read_text()) == {"jupyter": _wanted(client, project)}
    assert len(_copies(file)) == 1


@each_client
def test_an_entry_of_another_server_is_not_removed(client: Client, run: RunCommand) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_other(client))

    code, _, err = run("uninstall", client.key, "--name", "other")

    assert code == 1
    assert "does not start this server" in err
    assert file.read_text() == _other(client)


@each_client
def test_an_entry_that_is_not_there_needs_no_removal(client: Client, run: RunCommand) -> None:
    code, out, _ = run("uninstall", client.key)
    assert (code, "there is no 'jupyter'" in out, _file(client).exists()) == (0, True, False)


@each_client
def test_another_name_leaves_the_first_entry(client: Client, run: RunCommand) -> None:
    run("install", client.key)
    run("install", client.key, "--name", "second_1")
    assert [*_servers(client, _file(client).read_text())] == ["jupyter", "second_1"]
    run("uninstall", client.key)
    assert [*_servers(client, _file(client).read_text())] == ["second_1"]


@each_client
def test_a_project_has_a_file_of_its_own_if_the_client_knows_one(
    client: Client, run: RunCommand, project: Path
) -> None:
    code, out, err = run("install", client.key, "--scope", "project")

    if client.project is None:
        assert (code, "no settings for a project" in err) == (2, True)
        return
    assert code == 0
    assert _servers(client, (project / client.project).read_text()) == {"jupyter": _wanted(client, project)}
    assert not _file(client).exists()
    assert "trust" in out


# What is shown


@each_client
def test_a_dry_run_shows_the_change_and_makes_none(client: Client, run: RunCommand, tmp_path: Path) -> None:
    file = _file(client)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_other(client))
    before = sorted(tmp_path.rglob("*"))

    code, out, _ = run("install", client.key, "--dry-run")

    assert code == 0
    assert file.read_text() == _other(client)
    assert sorted(tmp_path.rglob("*")) == before
    added = [line[1:] for line in out.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert any("jupyter-papermill-mcp" in line for line in added)
    assert not [line for line in out.splitlines() if line.startswith("-") and not line.startswith("---")]

    run("install", client.key)
    changed = file.read_text()
    code, out, _ = run("uninstall", client.key, "--dry-run")
    assert (code, file.read_text()) == (0, changed)
    assert any(line.startswith("-") and "jupyter-papermill-mcp" in line for line in out.splitlines())


@each_client
def test_print_shows_a_whole_file_and_makes_none(
    client: Client, run: RunCommand, project: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))

    code, out, err = run("install", client.key, "--print")

    assert code == 0
    assert _servers(client, out) == {"jupyter": _wanted(client, project)}
    assert str(_file(client)) in err
    assert sorted(tmp_path.rglob("*")) == before


# Arguments

_WRONG = {
    "no client": ([], "required: CLIENT"),
    "unknown client": (["cursr"], "did you mean cursor?"),
    "far from any client": (["zzzz"], "claude-desktop"),
    "unknown flag": (["zed", "--max-kernels", "3"], "--max-kernels"),
    "name with a dot": (["zed", "--name", "a.b"], "'a.b'"),
    "empty name": (["zed", "--name", ""], "''"),
    "unknown scope": (["zed", "--scope", "machine"], "machine"),
}


@pytest.mark.parametrize("command", ["install", "uninstall"])
@pytest.mark.parametrize(("arguments", "text"), _WRONG.values(), ids=_WRONG)
def test_wrong_arguments_are_named(command: str, arguments: list[str], text: str, run: RunCommand, home: Path) -> None:
    code, out, err = run(command, *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert list(home.iterdir()) == []


_WRONG_SETTINGS = {
    "missing root": (["--roots", "nowhere"], "nowhere"),
    "unknown setting": (["--", "--max-kernel", "3"], "did you mean --max-kernels?"),
    "wrong value": (["--", "--max-kernels", "many"], "many"),
    "roots behind": (["--", "--roots", "."], "--roots goes before"),
    "whole file system": (["--roots", "/"], "--i-know"),
}


@pytest.mark.parametrize(("arguments", "text"), _WRONG_SETTINGS.values(), ids=_WRONG_SETTINGS)
def test_settings_with_which_the_server_would_not_start_are_refused(
    arguments: list[str], text: str, run: RunCommand, home: Path
) -> None:
    code, _, err = run("install", "zed", *arguments)
    assert code == 2
    assert text in err
    assert list(home.iterdir()) == []


def test_paths_of_settings_become_absolute(run: RunCommand, project: Path) -> None:
    (project / "mine.json").write_text("{}")
    code, out, _ = run("install", "cursor", "--print", "--", "--config", "mine.json", "--state-directory=state")
    assert code == 0
    args = json.loads(out)["mcpServers"]["jupyter"]["args"]
    assert args[2:] == ["--config", f"{project}/mine.json", f"--state-directory={project}/state"]


def test_the_home_of_a_user_is_found_in_a_root(run: RunCommand, home: Path) -> None:
    (home / "work").mkdir()
    code, out, _ = run("install", "cursor", "--print", "--roots", "~/work")
    assert code == 0
    assert json.loads(out)["mcpServers"]["jupyter"]["args"] == ["--roots", str(home / "work")]


# The command


def test_an_environment_in_a_cache_is_started_again_by_uvx(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvx = tmp_path / "bin" / "uvx"
    uvx.parent.mkdir()
    uvx.write_text("#!/bin/sh\n")
    uvx.chmod(0o755)
    monkeypatch.setenv("PATH", str(uvx.parent))
    monkeypatch.setattr(command_line, "in_cache", lambda _: True)

    code, out, _ = run("install", "codex", "--print")

    assert code == 0
    entry = tomllib.loads(out)["mcp_servers"]["jupyter"]
    assert entry["command"] == str(uvx)
    assert entry["args"][0] == "--from"
    assert entry["args"][2:4] == ["jupyter-papermill-mcp", "--roots"]
    assert entry["startup_timeout_sec"] == 60


def test_without_uvx_an_environment_in_a_cache_is_refused(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setattr(command_line, "in_cache", lambda _: True)

    code, _, err = run("install", "codex")

    assert code == 1
    assert "uv tool install jupyter-papermill-mcp-server" in err


@pytest.mark.parametrize(
    ("marked", "environment", "expected"),
    [
        ("uv", "uv/archive-v0/x", True),
        ("uv/archive-v0/x", "uv/archive-v0/x", False),
        ("other", "uv/tools/x", False),
        (None, "pipx/.cache/1a2b", True),
        (None, "pipx/venvs/x", False),
    ],
)
def test_a_cache_is_known_by_its_mark(tmp_path: Path, marked: str | None, environment: str, expected: bool) -> None:
    (tmp_path / environment).mkdir(parents=True)
    if marked is not None:
        (tmp_path / marked).mkdir(parents=True, exist_ok=True)
        (tmp_path / marked / "CACHEDIR.TAG").write_text("")
    assert command_line.in_cache(tmp_path / environment) is expected


@pytest.mark.slow
def test_the_command_of_a_new_entry_starts(home: Path, project: Path) -> None:
    """The script itself, from another directory, without PATH: as a client with a window starts it."""
    script = Path(sys.executable).parent / "jupyter-papermill-mcp"
    done = subprocess.run([script, "install", "cursor"], cwd=project, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entry = json.loads((home / ".cursor/mcp.json").read_text())["mcpServers"]["jupyter"]

    started = subprocess.run(
        [entry["command"], *entry["args"]],
        cwd="/",
        env={"HOME": str(home)},
        stdin=subprocess.DEVNULL,
        timeout=60,
        capture_output=True,
        text=True,
    )

    assert started.returncode == 0
    assert "serving" in started.stderr


def test_null_is_an_empty_table_of_servers(run: RunCommand, home: Path) -> None:
    file = home / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text('{\n  // mine\n  "mcpServers": null,\n  "other": null\n}\n')

    code, _, _ = run("install", "cursor")

    assert code == 0
    written = file.read_text()
    assert written.startswith('{\n  // mine\n  "mcpServers": {\n    "jupyter": {\n')
    assert written.endswith('  },\n  "other": null\n}\n')


def test_a_disabled_entry_stays_so_and_the_command_says_it(run: RunCommand, home: Path) -> None:
    assert run("install", "zed")[0] == 0
    file = home / ".config" / "zed" / "settings.json"
    file.write_text(file.read_text().replace('"command"', '"enabled": false, "command"'))

    code, _, err = run("install", "zed", "--roots", str(home))

    assert code == 0
    assert "is disabled in" in err
    assert '"enabled": false' in file.read_text()
