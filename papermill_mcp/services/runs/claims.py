"""Which run writes to which notebook or environment: two runs never write to one, in whichever server they are."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import anyio
import anyio.to_thread

from papermill_mcp.errors import BusyError
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lock_files import ClaimedError, ClaimFiles, LocksUnavailableError

logger = logging.getLogger(__name__)

_NOT_STARTED = "nothing was started"


class Claims:
    """One table from real path to the run that writes there, and claim files for other servers.

    Args:
        state: the directory for the claim files; without it, only runs of this server exclude each other.
    """

    def __init__(self, workspace: Workspace, state: Path | None = None) -> None:
        self._workspace = workspace
        self._owners: dict[str, str] = {}  # by real path, as text: a batch may have thousands
        self._files = ClaimFiles(state / "claims") if state is not None else None
        self._warned = False

    async def take(self, paths: Iterable[Path], owner: str, *, doing: str = "run", state: str = _NOT_STARTED) -> None:
        """Claim files for a run: all of them or none. A run may claim a file again.

        The table of this server has them before anything is awaited.

        Args:
            doing: a word for the work of their owners, for messages.
            state: the state of things in the message of an error.

        Raises:
            BusyError: another run has one of them.
        """
        wanted = {name: path for path in paths if self._owners.get(name := str(path)) != owner}
        for name, path in wanted.items():
            if (holder := self._owners.get(name)) is not None:
                raise self._busy(
                    path,
                    (doing, state),
                    f"execution {holder}",
                    "wait for it with get_execution, or end it with cancel_execution",
                )
        self._owners |= dict.fromkeys(wanted, owner)
        try:
            await self._take_files(list(wanted.values()), owner, (doing, state))
        except BaseException:
            for name in wanted:
                self._owners.pop(name, None)
            raise

    async def _take_files(self, paths: list[Path], owner: str, words: tuple[str, str]) -> None:
        if self._files is None or not paths:
            return
        try:
            # Shielded, so that a claim taken for a request that is cancelled meanwhile is not lost.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._files.take, paths, owner)
        except ClaimedError as error:
            raise self._busy(
                error.path,
                words,
                f"execution {error.holder} of another server (process {error.pid})",
                "get_execution shows how far it is; only that server can cancel it",
            ) from None
        except LocksUnavailableError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "runs of other servers are not seen: the state directory cannot be used",
                    extra={"error": str(error)},
                )

    def _busy(self, path: Path, words: tuple[str, str], holder: str, advice: str) -> BusyError:
        doing, state = words
        return BusyError(
            f"{self.display_path(path)} is being {doing} by {holder}",
            state=state,
            advice=advice,
        )

    def display_path(self, path: Path) -> str:
        """The name of a claimed path for clients."""
        # The claim of an output in an object store is its URL as a path, which has lost a slash.
        return self._workspace.display_path(path) if path.is_absolute() else path.as_posix().replace(":/", "://", 1)

    def release(self, owner: str) -> None:
        """Give up all files of a run."""
        self._owners = {path: other for path, other in self._owners.items() if other != owner}
        if self._files is not None:
            self._files.release(owner)

    async def release_many(self, owner: str) -> None:
        """The same for a run with many files: those of its claims are removed in a thread."""
        self._owners = {path: other for path, other in self._owners.items() if other != owner}
        if self._files is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._files.release, owner)

    def __contains__(self, path: Path) -> bool:
        """Whether a run has the file, in this server or another."""
        return str(path) in self._owners or (self._files is not None and self._files.has(path))
