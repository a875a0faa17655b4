"""Environments that notebooks declare, made by uv.

Each stands in a directory under the digest of a declaration, so notebooks with equal needs share it. It is
made beside that, and renamed when it is complete. A lock makes a second server wait for it. It is made in the
background: a call waits for a moment, and a later one finds it ready. The kernel gets ipykernel from a layer, as in any
other environment without it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from papermill_mcp.core.environments.background import GoesOnError, SharedWork
from papermill_mcp.core.environments.declared import Declaration
from papermill_mcp.core.environments.reading import Environment, environment_at
from papermill_mcp.core.environments.starting import MakeProgram, find_uv, without_own
from papermill_mcp.core.processes.program import Program
from papermill_mcp.errors import BusyError, EnvironmentFailedError
from papermill_mcp.utils.file_utils import create_private_file
from papermill_mcp.utils.lock_files import HeldLock, LockFiles, LocksUnavailableError
from papermill_mcp.utils.private import make_private_directory

logger = logging.getLogger(__name__)

#: The directory of the environment itself, below the digest. So this is its name for users.
NAME = "notebook"

#: The file beside it with the facts it was made of.
_FACTS = "made-of.json"

#: Seconds that a call waits for an environment, that making one may take, and between two looks at a lock.
PATIENCE = 25.0
_MAKE_SECONDS = 1800.0
_LOCK_SECONDS = 0.2

#: Days without use after which an environment is removed, and a rest of one that was not completed.
_KEPT_DAYS = 30
_REST_DAYS = 1

_QUOTED_LINES = 8
_QUOTED_CHARS = 2000

_STATE = "no environment was made, and nothing was run"


class EnvironmentMaker:
    """Makes and finds the environments of one state directory.

    Args:
        directory: where they stand.
        make: makes a guarded program.
        guard: has a directory removed if this server ends before it is done.
        denied: names of this server's variables that installers must not see.
        in_use: the interpreters of living kernels; their environments stay.
        known: the environments of this machine, for the version of Python that a notebook needs.
        patience: seconds that a call waits, if they are fewer than usual.
    """

    def __init__(
        self,
        directory: Path,
        make: MakeProgram,
        guard: Callable[[Path], None],
        *,
        denied: Sequence[str] = (),
        in_use: Callable[[], Iterable[Path]] = tuple,
        known: Callable[[], Iterable[Environment]] = tuple,
        patience: float = PATIENCE,
    ) -> None:
        self._directory = directory
        self._make = make
        self._guard = guard
        self._denied = denied
        self._in_use = in_use
        self._known = known
        self._locks = LockFiles(directory / ".locks")
        self._work = SharedWork[Environment](min(PATIENCE, patience))
        self._programs: dict[str, Program] = {}

    def found(self, declaration: Declaration) -> Environment | None:
        """The environment of a declaration, if it is there. Reads files."""
        return environment_at(self._directory / declaration.digest / NAME)

    def planned(self, declaration: Declaration) -> Environment:
        """The environment of a declaration, there or not. Reads files."""
        prefix = self._directory / declaration.digest / NAME
        name = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
        return self.found(declaration) or Environment("venv", prefix.joinpath(*name), prefix)

    def holds(self, environment: Environment) -> bool:
        """Whether an environment is one of these."""
        return environment.prefix is not None and environment.prefix.parent.parent == self._directory

    async def environment(self, declaration: Declaration, *, to_its_end: bool = False) -> Environment:
        """The environment of a declaration, made if need be.

        Args:
            to_its_end: wait as long as it takes, not for a moment only.

        Raises:
            BusyError: it is still being made. That goes on.
            EnvironmentFailedError: it cannot be made; the message has the last lines of uv.
        """
        if declaration.problem is not None:
            raise EnvironmentFailedError(
                f"the declaration of the notebook in {declaration.place} cannot be used: {declaration.problem}",
                state=_STATE,
                advice="mend it there, or name another Python by python",
            )
        digest = declaration.digest
        if digest not in self._work:
            found = await asyncio.to_thread(self._used, declaration)
            if found is not None:
                return found
        try:
            return await self._work.result(digest, lambda: self._made(declaration), to_its_end=to_its_end)
        except GoesOnError:
            raise BusyError(
                f"the environment that the notebook declares ({declaration}) is being made. "
                f"{self.progress(declaration)}",
                state="nothing was run; the environment is made all the same",
                advice="send the same call again in a while, or name another Python by python",
            ) from None
        except asyncio.InvalidStateError as error:
            raise EnvironmentFailedError(
                "the environment was given up", state=_STATE, advice="send the call again"
            ) from error

    def progress(self, declaration: Declaration) -> str:
        """The last line of uv."""
        program = self._programs.get(declaration.digest)
        line = _last_lines(program, 1)[-200:] if program is not None else ""
        return f"uv says: {line}" if line else "uv has said nothing yet"

    async def give_up(self, declaration: Declaration) -> None:
        """End the making of an environment, unless another call waits for it."""
        await self._work.give_up(declaration.digest)

    async def aclose(self) -> None:
        """End all that is being made."""
        await self._work.aclose()

    def _used(self, declaration: Declaration) -> Environment | None:
        """The environment, if it is there. It counts as used now."""
        found = self.found(declaration)
        if found is not None:
            try:
                os.utime(self._directory / declaration.digest)
            except OSError as error:
                logger.warning("the use of an environment cannot be noted: %s", error)
        return found

    async def _made(self, declaration: Declaration) -> Environment:
        try:
            async with asyncio.timeout(_MAKE_SECONDS):
                lock = await self._lock(declaration)
                try:
                    return await asyncio.to_thread(self._used, declaration) or await self._make_one(declaration)
                finally:
                    if lock is not None:
                        lock.release()
        except TimeoutError as error:
            raise _failed(declaration, f"it took longer than {_MAKE_SECONDS / 60:.0f} min") from error
        except OSError as error:
            raise EnvironmentFailedError(
                "the environment that the notebook declares could not be made: "
                f"{str(self._directory)!r} cannot be used: {error.strerror or error}",
                state=_STATE,
                advice="let a person set state_directory to a directory that can be written",
            ) from error

    async def _lock(self, declaration: Declaration) -> HeldLock | None:
        """The lock of an environment. Without locks two servers may make it twice, and one of the two is kept."""
        await asyncio.to_thread(self._begin)
        while True:
            try:
                lock = await asyncio.to_thread(self._locks.try_acquire, self._directory / declaration.digest)
            except LocksUnavailableError:
                return None
            if lock is not None:
                return lock
            await asyncio.sleep(_LOCK_SECONDS)

    def _begin(self) -> None:
        make_private_directory(self._directory.parent)
        make_private_directory(self._directory)
        self._clear_old()

    async def _make_one(self, declaration: Declaration) -> Environment:
        uv = find_uv()
        if uv is None:
            raise EnvironmentFailedError(
                f"the environment that the notebook declares ({declaration}) needs uv, which is not installed",
                state=_STATE,
                advice="let a person install uv, or name another Python by python",
            )
        making = self._directory / f".{uuid.uuid4().hex}"
        try:
            self._guard(making)
            await asyncio.to_thread(making.mkdir, mode=0o700)
            python = making / NAME
            # Without a known one, uv fetches a Python of that version.
            base = await asyncio.to_thread(lambda: _fitting(declaration.requires_python, self._known()))
            wanted = base or str(declaration.requires_python)
            command = [uv, "venv", "--relocatable", "--no-project", "--python", wanted, str(python)]
            await self._run(declaration, command)
            if declaration.packages:
                options = [part for name, value in declaration.options for part in (f"--{name}", value)]
                command = [uv, "pip", "install", "--python", str(python), *options, "--", *declaration.packages]
                await self._run(declaration, command)
            await asyncio.to_thread(self._put, making, declaration)
        finally:
            self._programs.pop(declaration.digest, None)
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, making, True))
        made = self.found(declaration)
        if made is None:
            raise _failed(declaration, "it is not there")
        return made

    async def _run(self, declaration: Declaration, command: list[str]) -> None:
        variables = {name: value for name, value in without_own(os.environ).items() if name not in self._denied}
        program = self._make(command, variables | {"NO_COLOR": "1"})
        self._programs[declaration.digest] = program
        if await program.run() != 0:
            raise _failed(declaration, _last_lines(program, _QUOTED_LINES))

    def _put(self, making: Path, declaration: Declaration) -> None:
        made = environment_at(making / NAME)
        facts = {
            "packages": declaration.packages,
            "requires_python": declaration.requires_python,
            "options": declaration.options,
            "made": made.record() if made is not None else None,
        }
        create_private_file(making / _FACTS, json.dumps(facts, indent=1).encode())
        try:
            making.rename(self._directory / declaration.digest)
        except OSError:
            if self.found(declaration) is None:
                raise

    def _clear_old(self) -> None:
        """Remove environments without use for long, and rests of ends in the middle."""
        used = {path.parent.parent.parent for path in self._in_use()}
        for entry in self._directory.iterdir():
            days = _REST_DAYS if entry.name.startswith(".") else _KEPT_DAYS
            if entry.name == ".locks" or entry in used or entry.lstat().st_mtime > time.time() - days * 86_400:
                continue
            gone = self._directory / f".{uuid.uuid4().hex}"
            try:
                entry.rename(gone)
            except OSError:
                continue
            shutil.rmtree(gone, ignore_errors=True)


def _fitting(wanted: str | None, known: Iterable[Environment]) -> str | None:
    """The interpreter for a version: that of this server where it fits, else the newest that is known. Reads files."""
    versions = SpecifierSet(wanted or "")
    if versions.contains(".".join(map(str, sys.version_info[:3])), prereleases=True):
        return getattr(sys, "_base_executable", None) or sys.executable
    fitting = [
        (Version(one.version), one.python)
        for one in known
        if one.kind == "interpreter" and one.version is not None and one.version.count(".") == 2
        if versions.contains(one.version)
    ]
    return str(max(fitting)[1]) if fitting else None


def _failed(declaration: Declaration, reason: str) -> EnvironmentFailedError:
    reason = re.sub(r"\n\s*\n", "\n", reason.strip())
    return EnvironmentFailedError(
        f"the environment that the notebook declares ({declaration}) could not be made: {reason}",
        state=_STATE,
        advice="mend the declaration, or name another Python by python",
    )


def _last_lines(program: Program, number: int) -> str:
    lines = [line for line in program.text(_QUOTED_CHARS).splitlines() if not line.startswith("Using Python")]
    return "\n".join(lines[-number:])
