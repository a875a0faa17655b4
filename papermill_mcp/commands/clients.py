"""The clients that can be set up: where each keeps its servers, and the form of an entry.

The places and forms are those of the public documents of the clients. Nothing here reads or writes a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Scope = Literal["user", "project"]


@dataclass(frozen=True)
class Machine:
    """The facts on which the places depend."""

    platform: str
    home: Path
    environ: Mapping[str, str]
    directory: Path

    @classmethod
    def this(cls) -> Machine:
        """The machine and the directory in which the command runs.

        Raises:
            RuntimeError: there is no home directory.
        """
        return cls(sys.platform, Path.home(), os.environ, Path.cwd())

    def named(self, variable: str, default: Path) -> Path:
        """The absolute directory that a variable names, else the default."""
        path = Path(self.environ.get(variable, ""))
        return path if path.is_absolute() else default

    @property
    def config(self) -> Path:
        """Where applications keep the settings of a user."""
        if self.platform == "win32":
            return self.named("APPDATA", self.home / "AppData" / "Roaming")
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.named("XDG_CONFIG_HOME", self.home / ".config")


@dataclass(frozen=True)
class Client:
    """A client, and the form of its settings.

    Args:
        key: its name on the command line.
        title: its name in messages.
        container: the names that lead to the table of servers.
        user: the file for all projects of a user.
        project: the file below the directory of a project, if the client has one.
        typed: an entry says that it is a local program.
        starts: how the client begins to use a new entry.
        waits: the key for a longer start, in seconds, where the client waits only a few.
        toml: the file is TOML, otherwise JSON with comments.
    """

    key: str
    title: str
    container: tuple[str, ...]
    user: Callable[[Machine], Path]
    project: str | None
    typed: bool = False
    starts: str = "Restart it to use the entry."
    waits: str | None = None
    toml: bool = False

    def file(self, scope: Scope, machine: Machine) -> Path | None:
        """The file for a scope. None if the client has no such scope."""
        if scope == "user":
            return self.user(machine)
        return None if self.project is None else machine.directory / self.project

    def entry(self, command: list[str], *, slow_start: bool = False) -> dict[str, Any]:
        """The entry that starts a command."""
        entry: dict[str, Any] = {"type": "stdio"} if self.typed else {}
        entry |= {"command": command[0], "args": command[1:]}
        if slow_start and self.waits is not None:
            entry[self.waits] = 60
        return entry


def _claude_code(machine: Machine) -> Path:
    return machine.named("CLAUDE_CONFIG_DIR", machine.home) / ".claude.json"


def _claude_desktop(machine: Machine) -> Path:
    name = "claude_desktop_config.json"
    if machine.platform == "win32":  # an application from the store sees files of its own
        local = machine.named("LOCALAPPDATA", machine.home / "AppData" / "Local")
        places = (("Claude-Data", "claude*", ""), ("Packages", "Claude_*", "LocalCache/Roaming/Claude"))
        for folder, pattern, inner in places:
            for found in sorted((local / folder).glob(pattern)):
                if (found / inner).is_dir():
                    return found / inner / name
    return machine.config / "Claude" / name


def _vscode(machine: Machine) -> Path:
    return machine.config / "Code" / "User" / "mcp.json"


def _zed(machine: Machine) -> Path:
    if machine.platform == "win32":
        return machine.config / "Zed" / "settings.json"
    config = machine.config if machine.platform == "linux" else machine.home / ".config"
    return machine.named("FLATPAK_XDG_CONFIG_HOME", config) / "zed" / "settings.json"


CLIENTS = (
    Client(
        "claude-code",
        "Claude Code",
        ("mcpServers",),
        _claude_code,
        ".mcp.json",
        typed=True,
        starts="New sessions have it; /mcp shows its state.",
    ),
    Client("claude-desktop", "Claude Desktop", ("mcpServers",), _claude_desktop, None),
    Client(
        "vscode",
        "VS Code",
        ("servers",),
        _vscode,
        ".vscode/mcp.json",
        typed=True,
        starts='The command "MCP: List Servers" starts it.',
    ),
    Client(
        "cursor",
        "Cursor",
        ("mcpServers",),
        lambda machine: machine.home / ".cursor" / "mcp.json",
        ".cursor/mcp.json",
        typed=True,
    ),
    Client(
        "codex",
        "Codex",
        ("mcp_servers",),
        lambda machine: machine.named("CODEX_HOME", machine.home / ".codex") / "config.toml",
        ".codex/config.toml",
        starts="New sessions have it; /mcp shows its state.",
        waits="startup_timeout_sec",
        toml=True,
    ),
    Client(
        "gemini",
        "Gemini CLI",
        ("mcpServers",),
        lambda machine: machine.named("GEMINI_CLI_HOME", machine.home) / ".gemini" / "settings.json",
        ".gemini/settings.json",
        starts="New sessions have it; /mcp shows its state.",
    ),
    Client(
        "windsurf",
        "Windsurf",
        ("mcpServers",),
        lambda machine: machine.home / ".codeium" / "windsurf" / "mcp_config.json",
        None,
        starts="Refresh the list of servers in Cascade to use the entry.",
    ),
    Client(
        "zed",
        "Zed",
        ("context_servers",),
        _zed,
        ".zed/settings.json",
        starts="Zed starts it when the file changes.",
    ),
)

_OTHER_NAMES = {
    "claude": "claude-code",
    "code": "vscode",
    "vs-code": "vscode",
    "visual-studio-code": "vscode",
    "codex-cli": "codex",
    "gemini-cli": "gemini",
}


def client_of(name: str) -> Client | None:
    """The client of a name, in upper or lower case, with spaces or hyphens."""
    key = "-".join(name.lower().replace("_", " ").split())
    key = _OTHER_NAMES.get(key, key)
    return next((client for client in CLIENTS if client.key == key), None)


def command_of(entry: Any) -> list[str] | None:
    """The command and the arguments of an entry. None if it starts no local program."""
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("command"), dict):  # an earlier form of Zed
        entry = {"command": entry["command"].get("path"), "args": entry["command"].get("args")}
    command, arguments = entry.get("command"), entry.get("args")
    if not isinstance(command, str):
        return None
    return [command, *(str(argument) for argument in (arguments if isinstance(arguments, list) else []))]


def is_disabled(entry: Any) -> bool:
    """Whether the client is told not to start an entry, as Zed, Codex and Windsurf write it."""
    return isinstance(entry, dict) and (entry.get("enabled") is False or entry.get("disabled") is True)


def starts_this_server(entry: Any) -> bool:
    """Whether an entry starts this server, from whatever installation."""
    for word in command_of(entry) or []:
        name = word.replace("\\", "/").rpartition("/")[2].lower()
        if name.startswith(("jupyter-papermill-mcp", "papermill_mcp")):
            return True
    return False
