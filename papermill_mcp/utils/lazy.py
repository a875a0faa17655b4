"""Modules that are imported at their first use, typed as if they were imported at the top.

    if TYPE_CHECKING:
        from papermill_mcp.core.papermill import output as papermill_output
    else:
        papermill_output = lazy("papermill_mcp.core.papermill.output")

The type checker reads the first branch, so a misspelt name or argument is an error. The engine takes a quarter of a
second to import and papermill half of one, so both wait until the handshake is answered.

Jupyter's packages import each other in circles. Two threads that enter a circle at different places wait for each
other, and Python lets one of them fail with a deadlock error. So late imports take turns.
"""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import Any

from papermill_mcp.utils.import_lock import IMPORTING


class _LazyModule(ModuleType):
    """Stands for a module until an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load(self), name)


def lazy(name: str) -> Any:
    """A stand-in for the module `name`. Any use of it imports the module, in the thread that uses it."""
    return _LazyModule(name)


def load(module: ModuleType) -> ModuleType:
    """Import the module behind a stand-in now. Blocks, for up to two seconds.

    Raises:
        ImportError: a package that only this module needs is not installed.
    """
    with IMPORTING:
        return importlib.import_module(module.__name__)


async def imported(*modules: ModuleType) -> None:
    """Import the modules behind stand-ins in a worker thread, unless that has been done."""
    await asyncio.to_thread(lambda: [load(module) for module in modules])
