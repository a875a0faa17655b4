"""One version of a file in git, read as it was committed. Nothing that a repository configures is run.

No filter, no conversion and no hook has a part in it, and nothing is fetched. The settings of the user and of the
system are left out, so a repository of another owner is refused.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from papermill_mcp.core.processes.program import MAX_INPUT, Program
from papermill_mcp.errors import (
    InvalidArgumentError,
    NotANotebookError,
    NotFoundError,
    PermissionDeniedError,
    SearchTimeoutError,
    TooLargeError,
)
from papermill_mcp.utils.text_utils import one_line

#: Seconds for each call of git.
GIT_SECONDS = 10.0

_NOTHING_READ = "Nothing was read"
_REVISION = re.compile(r"(?!-)[\w./@{}^~+-]{1,200}", re.ASCII)
_LFS = b"version https://git-lfs.github.com/spec/"

#: Since this version each git knows `GIT_NO_LAZY_FETCH`.
_NO_LAZY_FETCH = (2, 45)


class MakeProgram(Protocol):
    """Makes a program that ends with this server."""

    def __call__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        keep: int = ...,
        text: bytes | None = ...,
        errors: bool = ...,
    ) -> Program: ...


async def read_revision(file: Path, revision: str, *, display_path: str, max_bytes: int, program: MakeProgram) -> bytes:
    """The bytes that a file has in a revision of its repository, such as `HEAD~1`.

    Args:
        file: its real path. There need not be a file.
        display_path: its name in messages.
        program: makes the processes of git.

    Raises:
        InvalidArgumentError: this can be no revision.
        NotFoundError: there is no git, no repository, no such revision, or the file is not in it.
        NotANotebookError: the file is a pointer of LFS there, or no file.
        TooLargeError: it has more bytes than `max_bytes`.
        PermissionDeniedError: git refuses, or could fetch the file only.
        SearchTimeoutError: git takes too long.
    """
    if not _REVISION.fullmatch(revision):
        raise InvalidArgumentError(
            f"{revision[:60]!r} can be no revision of git",
            allowed="a branch, a tag, a commit, or one such as HEAD~1",
            state=_NOTHING_READ,
        )
    found = shutil.which("git")
    if found is None:
        raise NotFoundError("there is no program git", state=_NOTHING_READ, advice="install git, or compare two files")
    git = _Git(found, await asyncio.to_thread(_directory, file.parent), program)
    prefix = await git.prefix(display_path)
    await git.refuse_promises(display_path)
    below = file.relative_to(git.directory).as_posix()
    name = f"{revision}:{prefix}{below}"
    request = os.fsencode(f"{revision}^{{commit}}\n{name}\n")
    if "\n" in prefix + below or len(request) > MAX_INPUT:
        raise InvalidArgumentError(f"git cannot be asked for {display_path}", state=_NOTHING_READ)
    commit, _, entry = (await git.run("cat-file", "--batch-check", text=request)).rstrip(b"\n").partition(b"\n")
    if b" commit " not in commit:
        raise NotFoundError(
            f"the repository of {display_path} has no revision {revision!r}",
            state=_NOTHING_READ,
            advice="name a branch, a tag or a commit that is there",
        )
    if entry.endswith((b" missing", b" ambiguous")) or not entry:
        raise NotFoundError(f"{display_path} is not in revision {revision!r}", state=_NOTHING_READ)
    _, kind, size = entry.rsplit(b" ", 2)
    if kind != b"blob":
        raise NotANotebookError(f"{display_path} is no file in revision {revision!r}", state=_NOTHING_READ)
    if int(size) > max_bytes:
        raise TooLargeError(
            f"{display_path} has {int(size):,} bytes in revision {revision!r}",
            allowed=f"The limit is {max_bytes:,} bytes (max_notebook_bytes)",
            state=_NOTHING_READ,
        )
    request = os.fsencode(f"{name}\n")
    output = await git.run("cat-file", "--batch", text=request, keep=int(size) + 2 * MAX_INPUT)
    head, _, rest = output.partition(b"\n")
    if not head.endswith(b" blob " + size) or len(rest) < int(size):
        raise NotFoundError(f"{display_path} could not be read in revision {revision!r}", state=_NOTHING_READ)
    data = rest[: int(size)]
    if data.startswith(_LFS):
        raise NotANotebookError(
            f"revision {revision!r} has only a pointer of Git LFS for {display_path}",
            state=_NOTHING_READ,
            advice="check that revision out beside it, and compare the two files",
        )
    return data


class _Git:
    """The program in a directory."""

    def __init__(self, git: str, directory: Path, program: MakeProgram) -> None:
        self.directory = directory
        self._program = program
        self._command = [git, "-C", str(directory), "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
        self._variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }

    async def prefix(self, display_path: str) -> str:
        """The path of the directory in its repository, with a slash at its end; empty at the top.

        Raises:
            NotFoundError: there is no repository with a working tree.
            PermissionDeniedError: git refuses it.
        """
        code, output = await self._ask("rev-parse", "--is-inside-work-tree", "--show-prefix")
        lines = output.decode("utf-8", "surrogateescape").split("\n")
        if code == 0 and lines[0] == "true":
            return lines[1]
        text = one_line(output.decode("utf-8", "replace"), 300)
        if code == 0 or "not a git repository" in text or "must be run in a work tree" in text:
            kind = "is in a bare repository" if code == 0 else "is in no repository of git"
            raise NotFoundError(
                f"{display_path} {kind}", allowed="a file in the working tree of a repository", state=_NOTHING_READ
            )
        raise PermissionDeniedError(f"git refuses the repository of {display_path}: {text}", state=_NOTHING_READ)

    async def refuse_promises(self, display_path: str) -> None:
        """Refuse a partial clone where git is too old to be kept from fetching.

        Raises:
            PermissionDeniedError: it is one.
        """
        _, output = await self._ask("version")
        numbers = re.search(rb"(\d+)\.(\d+)", output)
        if numbers is not None and (int(numbers[1]), int(numbers[2])) >= _NO_LAZY_FETCH:
            return
        code, _ = await self._ask("config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$")
        if code == 0:
            raise PermissionDeniedError(
                f"the repository of {display_path} is a partial clone, and this git could fetch from its remote",
                allowed=f"git {'.'.join(map(str, _NO_LAZY_FETCH))} or newer reads it without",
                state=_NOTHING_READ,
            )

    async def run(self, *arguments: str, text: bytes, keep: int = 65_536) -> bytes:
        """The standard output of a command.

        Raises:
            ServerError: it fails, or takes too long.
        """
        code, output = await self._ask(*arguments, text=text, keep=keep, errors=False)
        if code:
            raise NotFoundError(f"git {arguments[0]} failed with exit code {code}", state=_NOTHING_READ)
        return output

    async def _ask(
        self, *arguments: str, text: bytes | None = None, keep: int = 65_536, errors: bool = True
    ) -> tuple[int, bytes]:
        program = self._program([*self._command, *arguments], self._variables, keep=keep, text=text, errors=errors)
        try:
            async with asyncio.timeout(GIT_SECONDS):
                code = await program.run()
        except TimeoutError:
            raise SearchTimeoutError(
                f"git {arguments[0]} took longer than {GIT_SECONDS:g} s", state="it was stopped"
            ) from None
        except OSError as error:
            raise PermissionDeniedError(
                f"git could not be started: {error.strerror or error}", state=_NOTHING_READ
            ) from error
        return code, program.output


def _directory(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path
