"""Which run writes to which notebook: two runs never write to one file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from papermill_mcp.errors import BusyError
from papermill_mcp.services.workspace import Workspace


class Claims:
    """One table from real path to the run that writes there."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._owners: dict[Path, str] = {}

    def take(self, paths: Iterable[Path], owner: str) -> None:
        """Claim files for a run: all of them or none. A run may claim a file again.

        Raises:
            BusyError: another run has one of them.
        """
        wanted = list(paths)
        for path in wanted:
            other = self._owners.get(path, owner)
            if other != owner:
                raise BusyError(
                    f"{self._workspace.display_path(path)} is being run by execution {other}",
                    state="nothing was started",
                    advice="wait for it with get_execution, or end it with cancel_execution",
                )
        self._owners |= dict.fromkeys(wanted, owner)

    def release(self, owner: str) -> None:
        """Give up all files of a run."""
        self._owners = {path: other for path, other in self._owners.items() if other != owner}

    def __contains__(self, path: Path) -> bool:
        return path in self._owners
