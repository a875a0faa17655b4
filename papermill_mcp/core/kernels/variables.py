"""Asking a kernel for its variables, without leaving a trace in it."""

from __future__ import annotations

import ast
import json
from typing import Any

from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.errors import InvalidArgumentError, KernelUnresponsiveError, Remedy

#: Seconds a kernel may take to describe its variables.
_PATIENCE = 5.0

# Runs in the kernel, in a namespace of its own. It must work on every Python that ipykernel supports.
_PYTHON = """
import fnmatch, json, reprlib, types

short = reprlib.Repr()
short.maxstring = short.maxother = short.maxlong = 160
short.maxlist = short.maxtuple = short.maxset = short.maxdict = 8

def describe(name, value):
    row = {"name": name, "type": type(value).__name__}
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            row["shape"] = [int(side) for side in shape]
        elif hasattr(type(value), "__len__"):
            row["size"] = len(value)
    except Exception:
        pass
    try:
        row["preview"] = " ".join(short.repr(value).split())[:200]
    except Exception as error:
        row["preview"] = "(its repr raised " + type(error).__name__ + ")"
    return row

def look(space, hidden, pattern, limit):
    names = sorted(
        name for name, value in list(space.items())
        if not name.startswith("_") and name not in hidden and not isinstance(value, types.ModuleType)
        and fnmatch.fnmatchcase(name, pattern)
    )
    return json.dumps({"count": len(names), "rows": [describe(name, space[name]) for name in names[:limit]]})
"""


async def python_variables(kernel: Kernel, *, pattern: str, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Name, type, shape or size, and a preview of each variable that the user made. Modules are left out.

    Works while a cell runs, where the kernel has subshells. Returns the first `limit` rows and how many there are.

    Raises:
        InvalidArgumentError: the kernel does not speak Python.
        BusyError, KernelUnresponsiveError, KernelDiedError, KernelNotFoundError: it cannot be asked now.
    """
    if kernel.language != "python":
        raise InvalidArgumentError(
            f"kernel {kernel.kernel_id} speaks {kernel.language}, and only Python kernels can be asked for variables",
            advice=Remedy.LIST_IN_CODE,
        )
    hidden = "set(getattr(get_ipython(), 'user_ns_hidden', ())) | {'In', 'Out', 'exit', 'quit', 'get_ipython', 'open'}"
    expression = (
        f"(lambda own: (exec({_PYTHON!r}, own), "
        f"own['look'](get_ipython().user_ns, {hidden}, {pattern!r}, {limit}))[1])({{}})"
    )
    text = await kernel.evaluate(expression, timeout_seconds=_PATIENCE)
    try:
        found = json.loads(ast.literal_eval(text))
    except (ValueError, SyntaxError) as error:
        raise KernelUnresponsiveError(f"kernel {kernel.kernel_id} gave an answer that cannot be read") from error
    return found["rows"], found["count"]
