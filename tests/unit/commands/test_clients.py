"""The places and forms of the settings of each client."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from papermill_mcp.commands.clients import CLIENTS, Machine, client_of, command_of, starts_this_server

_HOME = Path("/home/me")

_LINUX = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "vscode": ".config/Code/User/mcp.json",
    "cursor": ".cursor/mcp.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
    "zed": ".config/zed/settings.json",
}
_MAC = _LINUX | {
    "claude-desktop": "Library/Application Support/Claude/claude_desktop_config.json",
    "vscode": "Library/Application Support/Code/User/mcp.json",
}
_WINDOWS = _LINUX | {
    "claude-desktop": "AppData/Roaming/Claude/claude_desktop_config.json",
    "vscode": "AppData/Roaming/Code/User/mcp.json",
    "zed": "AppData/Roaming/Zed/settings.json",
}
_PROJECT = {
    "claude-code": ".mcp.json",
    "vscode": ".vscode/mcp.json",
    "cursor": ".cursor/mcp.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
    "zed": ".zed/settings.json",
}


def _machine(platform: str, **environ: str) -> Machine:
    return Machine(platform, _HOME, environ, Path("/work/project"))


def _user(machine: Machine) -> dict[str, Path | None]:
    return {client.key: client.file("user", machine) for client in CLIENTS}


@pytest.mark.parametrize(("platform", "places"), [("linux", _LINUX), ("darwin", _MAC), ("win32", _WINDOWS)])
def test_the_file_of_the_user_is_where_the_platform_has_it(platform: str, places: dict[str, str]) -> None:
    assert _user(_machine(platform)) == {key: _HOME / place for key, place in places.items()}


def test_the_file_of_a_project_is_below_the_current_directory() -> None:
    found = {client.key: client.file("project", _machine("linux")) for client in CLIENTS}

    assert {key: path for key, path in found.items() if path} == {
        key: Path("/work/project") / place for key, place in _PROJECT.items()
    }


_MOVED = [
    ("claude-code", "linux", "CLAUDE_CONFIG_DIR", ".claude.json"),
    ("codex", "linux", "CODEX_HOME", "config.toml"),
    ("gemini", "linux", "GEMINI_CLI_HOME", ".gemini/settings.json"),
    ("claude-desktop", "linux", "XDG_CONFIG_HOME", "Claude/claude_desktop_config.json"),
    ("vscode", "linux", "XDG_CONFIG_HOME", "Code/User/mcp.json"),
    ("zed", "linux", "XDG_CONFIG_HOME", "zed/settings.json"),
    ("zed", "linux", "FLATPAK_XDG_CONFIG_HOME", "zed/settings.json"),
    ("vscode", "win32", "APPDATA", "Code/User/mcp.json"),
    ("zed", "win32", "APPDATA", "Zed/settings.json"),
]


@pytest.mark.parametrize(("key", "platform", "variable", "place"), _MOVED)
def test_a_variable_of_the_client_moves_its_file(key: str, platform: str, variable: str, place: str) -> None:
    client = client_of(key)
    assert client is not None
    assert client.file("user", _machine(platform, **{variable: "/moved"})) == Path("/moved") / place
    relative = client.file("user", _machine(platform, **{variable: "moved"}))
    assert relative == client.file("user", _machine(platform))


@pytest.mark.parametrize("folder", ["Packages/Claude_x1/LocalCache/Roaming/Claude", "Claude-Data/claude_x1"])
def test_claude_desktop_from_the_store_reads_a_file_of_its_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    client = client_of("claude-desktop")
    assert client is not None

    found = client.file("user", _machine("win32", LOCALAPPDATA=str(tmp_path)))

    assert found == tmp_path / folder / "claude_desktop_config.json"


@pytest.mark.parametrize(
    ("name", "key"),
    [("Claude Code", "claude-code"), ("claude", "claude-code"), ("VS Code", "vscode"), ("ZED", "zed"), ("x", None)],
)
def test_a_client_is_found_by_the_name_that_people_write(name: str, key: str | None) -> None:
    client = client_of(name)
    assert (client and client.key) == key


_ENTRIES: dict[str, tuple[Any, list[str] | None, bool]] = {
    "script": ({"command": "/v/bin/jupyter-papermill-mcp", "args": ["--roots", "/a"]}, None, True),
    "windows": ({"command": r"C:\v\Scripts\jupyter-papermill-mcp.exe"}, None, True),
    "module": ({"command": "python", "args": ["-P", "-m", "papermill_mcp.main"]}, None, True),
    "uvx": ({"command": "uvx", "args": ["--from", "/x", "jupyter-papermill-mcp"]}, None, True),
    "pin": ({"command": "uvx", "args": ["jupyter-papermill-mcp-server==0.1.0"]}, None, True),
    "old Zed": (
        {"command": {"path": "uvx", "args": ["jupyter-papermill-mcp"]}},
        ["uvx", "jupyter-papermill-mcp"],
        True,
    ),
    "other": ({"command": "npx", "args": ["jupyter-mcp"]}, ["npx", "jupyter-mcp"], False),
    "below its name": ({"command": "/opt/jupyter-papermill-mcp/other"}, ["/opt/jupyter-papermill-mcp/other"], False),
    "remote": ({"url": "https://example.org/jupyter-papermill-mcp"}, None, False),
    "no table": ("jupyter-papermill-mcp", None, False),
    "nothing": (None, None, False),
    "broken": ({"command": 1, "args": "x"}, None, False),
}


@pytest.mark.parametrize(("entry", "words", "ours"), _ENTRIES.values(), ids=_ENTRIES)
def test_an_entry_of_this_server_is_known_by_its_command(entry: Any, words: list[str] | None, ours: bool) -> None:
    assert starts_this_server(entry) is ours
    if words is not None or not ours:
        assert command_of(entry) == words


def test_every_project_file_is_relative() -> None:
    assert all(not PurePosixPath(client.project).is_absolute() for client in CLIENTS if client.project)
