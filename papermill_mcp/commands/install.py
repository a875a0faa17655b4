"""`install CLIENT` and `uninstall CLIENT`: write the entry of this server into the settings of a client, or remove it.

Only the entry changes. Each change leaves a copy of the old file beside it. A file that cannot be read stays as it is,
and the entry is printed for pasting.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from papermill_mcp.commands import jsonc, toml_text
from papermill_mcp.commands.clients import (
    CLIENTS,
    Client,
    Machine,
    Scope,
    client_of,
    command_of,
    is_disabled,
    starts_this_server,
)
from papermill_mcp.commands.command_line import NoLastingCommandError, lasting_command
from papermill_mcp.commands.config_files import ConfigFile, ConfigFileError, read_config
from papermill_mcp.commands.edit_error import EditError
from papermill_mcp.commands.usage import Parser, UsageError
from papermill_mcp.config import PROGRAM, ConfigError, load_config
from papermill_mcp.errors import listed, nearest
from papermill_mcp.utils.diff_text import unified_diff

DEFAULT_NAME = "jupyter"

#: Names that all clients take.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Settings with the path of a file or a directory. A client starts the server in another directory.
_PATH_FLAGS = ("--config", "--state-directory")

_EPILOG = """\
Clients: {clients}.

Settings of the server follow after `--`: {program} install cursor -- --max-kernels 3"""


@dataclass(frozen=True)
class _Target:
    """The place of one entry."""

    client: Client
    scope: Scope
    name: str
    path: Path

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that lead to the entry."""
        return (*self.client.container, self.name)

    @property
    def editor(self) -> ModuleType:
        """The functions for the form of the file."""
        return toml_text if self.client.toml else jsonc


def install(arguments: Sequence[str]) -> int:
    """Write the entry of this server. Returns the exit code: 0, 1 if it could not be written, 2 for bad arguments."""
    words, extra = _divided(arguments)
    parser = _parser("install", "Add this server to the settings of a client, or bring its entry up to date.")
    parser.add_argument(
        "--roots",
        nargs="+",
        action="extend",
        type=Path,
        metavar="DIR",
        help="directories that the file tools may touch (default: the current one)",
    )
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the entry and change nothing")
    options = parser.parse_args(words)
    target = _target(options)
    flags = _flags(options.roots or [Path()], extra)
    try:
        load_config(flags)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    try:
        command = lasting_command()
    except NoLastingCommandError as error:
        return _fail(str(error))
    entry = target.client.entry([*command.words, *flags], slow_start=command.through_uvx)
    if options.only_print:
        _say(target.editor.snippet(target.keys, entry), end="")
        sys.stderr.write(f"{target.client.title} reads it from {target.path}\n")
        return 0
    if command.through_uvx:
        sys.stderr.write("This program runs from a cache that may be emptied, so the entry starts it with uvx.\n")
    try:
        file = read_config(target.path)
        old = target.editor.find(file.text, target.keys)
        text = _merged(target, file.text, old, entry)
    except EditError as error:
        code = _fail(f"{target.path} cannot be edited: {error}. It is unchanged. Add this entry by hand:")
        _say(target.editor.snippet(target.keys, entry), end="")
        return code
    except ConfigFileError as error:
        code = _fail(f"{error}. Nothing was changed. Add this entry by hand:")
        _say(target.editor.snippet(target.keys, entry), end="")
        return code
    if is_disabled(old):
        sys.stderr.write(f"{target.name!r} is disabled in {target.path}, and stays so. Enable it there.\n")
    if text == file.text:
        _say(f"{target.client.title}: {target.name!r} is up to date in {target.path}")
        return 0
    done = "added" if old is None else f"replaced ({_difference(old, entry)})"
    return _save(target, file, text, done, dry_run=options.dry_run)


def uninstall(arguments: Sequence[str]) -> int:
    """Remove the entry of this server. Returns the exit code: 0, 1 if it could not be removed, 2 for bad arguments."""
    options = _parser("uninstall", "Remove this server from the settings of a client.").parse_args(list(arguments))
    target = _target(options)
    try:
        file = read_config(target.path)
        old = target.editor.find(file.text, target.keys)
        text: str = target.editor.remove(file.text, target.keys)
    except EditError as error:
        return _fail(f"{target.path} cannot be edited: {error}. It is unchanged. Remove the entry by hand.")
    except ConfigFileError as error:
        return _fail(f"{error}. Nothing was changed.")
    if old is None:
        _say(f"{target.client.title}: there is no {target.name!r} in {target.path}")
        return 0
    if not starts_this_server(old):
        return _fail(
            f"{target.name!r} in {target.path} does not start this server. It is unchanged. Remove it by hand, or give "
            "the name of the entry with --name."
        )
    return _save(target, file, text, "removed", dry_run=options.dry_run)


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after the first `--`."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    clients = ", ".join(client.key for client in CLIENTS)
    parser = Parser(
        prog=f"{PROGRAM} {command}",
        description=description,
        epilog=_EPILOG.format(clients=clients, program=PROGRAM) if command == "install" else f"Clients: {clients}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("client", metavar="CLIENT", help="the client, see below")
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"name of the entry (default: {DEFAULT_NAME})")
    parser.add_argument(
        "--scope",
        choices=get_args(Scope),
        default="user",
        help="for all projects of the user, or for the current directory (default: user)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the change and make none")
    return parser


def _target(options: argparse.Namespace) -> _Target:
    client = client_of(options.client)
    known = [client.key for client in CLIENTS]
    if client is None:
        near = nearest(options.client.lower(), known)
        hint = f"did you mean {near}?" if near else f"known are: {listed(known)}"
        raise UsageError(f"unknown client {options.client!r}; {hint}")
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"the name {options.name!r} has other characters than letters, digits, - and _")
    try:
        path = client.file(options.scope, Machine.this())
    except RuntimeError as error:
        raise UsageError("there is no home directory") from error
    if path is None:
        raise UsageError(f"{client.title} has no settings for a project; leave --scope out")
    return _Target(client, options.scope, options.name, path)


def _flags(roots: list[Path], extra: list[str]) -> list[str]:
    """The flags of the entry, with absolute paths."""
    if any(word.partition("=")[0] == "--roots" for word in extra):
        raise UsageError("--roots goes before `--`")
    flags = [word for root in roots for word in ("--roots", _list_item(_absolute(root)))]
    previous = ""
    for word in extra:
        flag, equals, value = word.partition("=")
        if equals and flag in _PATH_FLAGS:
            word = f"{flag}={_absolute(Path(value))}"
        elif previous in _PATH_FLAGS:
            word = _absolute(Path(word))
        flags.append(word)
        previous = word
    return flags


def _absolute(path: Path) -> str:
    return os.path.abspath(path.expanduser())  # noqa: PTH100 - pathlib keeps `..`, and links shall stay


def _list_item(path: str) -> str:
    """A path as the server reads it in a list: one that looks like a list itself becomes JSON."""
    if path.startswith("[") or "," in path or os.pathsep in path or path != path.strip():
        return json.dumps([path], ensure_ascii=False)
    return path


def _merged(target: _Target, text: str, old: Any, entry: dict[str, Any]) -> str:
    """The text with the entry. Further keys of an entry for a local program stay, such as `env`."""
    put = target.editor.put
    if command_of(old) is None:
        return str(put(text, target.keys, entry)) if old != entry else text
    for key, value in entry.items():
        if old.get(key) != value:
            text = put(text, (*target.keys, key), value)
    return text


def _difference(old: Any, entry: dict[str, Any]) -> str:
    """The keys in which two entries differ. No values: they may be secret."""
    if command_of(old) is None:
        return "it started no local program"
    return ", ".join(key for key, value in entry.items() if old.get(key) != value)


def _save(target: _Target, file: ConfigFile, text: str, done: str, *, dry_run: bool) -> int:
    if dry_run:
        for line in unified_diff(file.text, text, old=str(target.path), new=str(target.path)):
            _say(line.rstrip("\r"))
        return 0
    try:
        copy = file.save(text)
    except ConfigFileError as error:
        return _fail(f"{error}. Nothing was changed.")
    _say(f"{target.client.title}: {target.name!r} {done} in {target.path}")
    if copy is not None:
        _say(f"The old version is {copy}")
    if done != "removed":
        _say(target.client.starts)
        if target.scope == "project":
            _say("Many clients use it only after you trust the settings of the project.")
    return 0


def _say(text: str, *, end: str = "\n") -> None:
    sys.stdout.write(text + end)


def _fail(message: str) -> int:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return 1
