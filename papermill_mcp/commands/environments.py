"""The Pythons that notebooks can get here."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from papermill_mcp.config import Config


@dataclass(frozen=True)
class Environment:
    """A Python with which kernels can start.

    Attributes:
        python: its interpreter.
        version: such as `3.12.4`.
        source: where it was found.
        chosen: notebooks in the workspace get it, unless they ask for another.
    """

    python: Path
    version: str
    source: str
    chosen: bool


def find_environments(config: Config) -> list[Environment]:
    """The environments that are found for the workspace, with the one that its notebooks get."""
    return [Environment(Path(sys.executable), platform.python_version(), "the Python of the server", chosen=True)]
