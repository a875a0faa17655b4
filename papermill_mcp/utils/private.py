"""Directories and files of the server itself, which are for its user alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from papermill_mcp.utils.file_utils import create_private_file, write_file

#: Names that this server makes in its state directory. A directory with others is not ours alone.
_OWN_NAMES = ("executions.sqlite", "history.sqlite", "locks", "claims", "layers", "tables", "stale", "runtime-")

#: Directories of this server in the state directory that hold nothing but files of this server.
_OWN_DIRECTORIES = ("locks", "claims", "layers", "tables", "stale")


def make_private_directory(path: Path) -> None:
    """Make a directory of mode 0700, missing parents included. One that is ours alone loses the rights of others.

    Raises:
        OSError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    facts = path.stat()
    if stat.S_IMODE(facts.st_mode) & 0o077 and _is_own(path, facts):
        path.chmod(0o700)


def make_private_file(path: Path) -> None:
    """Make an empty file of mode 0600, or take the rights of others from one that is there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        create_private_file(path, b"")
    except FileExistsError:
        take_rights_of_others(path)


def replace_private_file(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Give a file of mode 0600 other content, or make it. Its directory is made, too. A power cut may undo it.

    Args:
        flush: False for what may be lost: a power cut may leave an empty file. It saves the wait for the disk.

    Raises:
        OSError, ServerError: it cannot be written. What was there before is whole.
    """
    make_private_directory(path.parent)
    make_private_file(path)
    write_file(path, data, expected=None, overwrite=True, display_path=path.name, durable=False, flush=flush)


def take_rights_of_others(path: Path) -> None:
    """Give a file of our own the mode 0600. A file of another user stays as it is, and so does no file.

    Raises:
        OSError: the system refuses.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _is_own(path: Path, facts: os.stat_result) -> bool:
    """Whether the directory belongs to our user and holds nothing but files of this server."""
    if hasattr(os, "geteuid") and facts.st_uid != os.geteuid():
        return False
    return all(entry.name.startswith(_OWN_NAMES) for entry in path.iterdir()) or path.name in _OWN_DIRECTORIES
