"""Modules that are imported at their first use, typed as if they were imported at the top.

    if TYPE_CHECKING:
        from papermill_mcp.core.papermill import metadata
    else:
        metadata = lazy("papermill_mcp.core.papermill.metadata")

The type checker reads the first branch, so a misspelt name or argument is an error. The engine takes a quarter of a
second to import and papermill half of one, so both wait until the handshake is answered. No function has an import
statement of its own.

A stand-in serves wherever the module does, `isinstance(x, metadata.PapermillTask)` and `except metadata.Error`
included. A base class or a decorator is needed at import time and cannot wait.

Three rules hold for each late import:

- Late imports take turns. Jupyter's packages import each other in circles. Two threads that enter a circle at
  different places wait for each other, and Python lets one of them fail with a deadlock error.
- `jsonschema` finds no `rfc3987_syntax`. With it, as in an environment with JupyterLab, it builds a grammar of URIs
  at import. This takes two seconds, and notebooks do not need it.
- `papermill` finds no client of an object store, of which it would import each one. This takes a second. Outputs go
  there by another way, whose clients are imported by their own names.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

_lock = threading.RLock()

#: Packages that other ones import if they are there, and need not. The second ones are those that papermill imports.
_NEVER = ("rfc3987_syntax",)
_CLIENTS = ("gcsfs", "boto3", "azure")


class _LazyModule(ModuleType):
    """Stands for a module until one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__.get("_loaded") or load(self), name)


@functools.cache
def lazy(name: str) -> ModuleType:
    """The stand-in for the module `name`. Its first use imports the module, in the thread of the caller."""
    return _LazyModule(name)


def load(module: ModuleType) -> ModuleType:
    """Import the module behind a stand-in now. Blocks, for up to two seconds.

    Raises:
        ImportError: the module, or a package that it needs, is not installed.
    """
    with _lock, _hidden(module.__name__.partition(".")[0]):
        loaded = importlib.import_module(module.__name__)
    module.__dict__["_loaded"] = loaded
    return loaded


async def imported(*modules: ModuleType) -> None:
    """Import the modules behind stand-ins in a worker thread, unless that has been done."""
    await asyncio.to_thread(lambda: [load(module) for module in modules])


@contextmanager
def _hidden(wanted: str) -> Iterator[None]:
    """Let some packages not be found. Args: `wanted`: the package that is imported."""
    names = (*_NEVER, *_CLIENTS) if wanted in ("papermill", __name__.partition(".")[0]) else _NEVER
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy("asyncio")  # `--version` does not wait for it
