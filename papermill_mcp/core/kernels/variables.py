"""Asking a kernel for its variables, without leaving a trace in it."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.kernels.kernel import Kernel
from papermill_mcp.errors import InvalidArgumentError, KernelUnresponsiveError, Remedy, listed, nearest

#: Seconds a kernel may take to describe its variables.
_PATIENCE = 5.0

# Runs in the kernel, in a namespace of its own. It must work on every Python that ipykernel supports.
_PYTHON = r"""
import fnmatch, json, reprlib, sys, types

# How much of a value is shown: in a list of variables, and of one variable.
LIMITS = {False: (160, 8, 200, 12), True: (1000, 30, 3000, 60)}

def preview(value, deep):
    chars, items, most, _ = LIMITS[deep]
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = chars
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = short.maxdeque = items
    return " ".join(short.repr(value).split())[:most]

def cell(value):
    text = " ".join(str(value).split())
    return (text if len(text) <= 40 else text[:39] + "\u2026").replace("|", "/")

def table(value, deep):
    names, most = list(value.columns), LIMITS[deep][3]
    columns, heads = [], []
    for place, name in enumerate(names[:most]):
        pandas = hasattr(value, "iloc")
        column = value.iloc[:, place] if pandas else value.to_series(place)
        text = cell(name) + " " + str(column.dtype)
        missing = (int(column.isna().sum()) if pandas else column.null_count()) if len(value) <= 10**6 else 0
        columns.append(text + (" (%d missing)" % missing if missing else ""))
        if place < 12:
            heads.append([cell(name)] + [cell(one) for one in column.head(5 if deep else 1)])
    lines = ["; ".join(columns) + ("; %d more columns" % (len(names) - most) if len(names) > most else "")]
    if deep:
        rows = ["| " + " | ".join(row) + " |" for row in zip(*heads)]
        lines += rows[:1] + ["|" + "---|" * len(heads)] * bool(rows) + rows[1:]
    elif heads and len(heads[0]) > 1:
        lines.append("first row: " + ", ".join(head[1] for head in heads))
    return (chr(10) if deep else ". ").join(lines)

def is_table(value):
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] in ("pandas", "polars")

def describe(name, value, deep=False):
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
        row["preview"] = table(value, deep) if is_table(value) else preview(value, deep)
    except Exception as error:
        row["preview"] = "(its repr raised " + type(error).__name__ + ")"
    return row

def imported(value):
    if isinstance(value, types.ModuleType):
        return True
    kinds = (type, types.FunctionType, types.BuiltinFunctionType)
    return isinstance(value, kinds) and getattr(value, "__module__", None) != "__main__"

def frames():
    # The frames of the last failure, the innermost first, from the first one that is the user's.
    trace, found = getattr(sys, "last_traceback", None), []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    own = [place for place, (frame, _) in enumerate(found) if frame.f_globals.get("__name__") == "__main__"]
    return found[own[0] if own else 0:][::-1]

def look(shell, hidden, pattern, limit, name, number):
    space, answer = shell.user_ns, {}
    if number is not None:
        found = frames()
        answer["frames"] = len(found)
        if not 0 <= number < len(found):
            return json.dumps(answer)
        frame, line = found[number]
        answer["frame"] = "%s, line %d of %s" % (frame.f_code.co_name, line, frame.f_code.co_filename)
        space = frame.f_locals
        if space is shell.user_ns or frame.f_globals is space:
            space = shell.user_ns
    every = {
        one: value for one, value in list(space.items())
        if not one.startswith("_") and (one not in hidden or space is not shell.user_ns) and not imported(value)
    }
    if name is not None:
        rows = [describe(name, space[name], True)] if name in space else []
        return json.dumps(dict(answer, count=len(rows), rows=rows, names=sorted(every)[:1000]))
    names = sorted(one for one in every if fnmatch.fnmatchcase(one, pattern))
    return json.dumps(dict(answer, count=len(names), rows=[describe(one, every[one]) for one in names[:limit]]))
"""


@dataclass(frozen=True)
class Variables:
    """Variables of a kernel.

    Attributes:
        rows: name, type, shape or size, and a preview of each.
        count: how many there are.
        frame: the function and line of the failure that they belong to.
    """

    rows: list[dict[str, Any]]
    count: int
    frame: str | None = None


async def python_variables(
    kernel: Kernel, *, pattern: str = "*", limit: int = 50, name: str | None = None, frame: int | None = None
) -> Variables:
    """The variables that the user made. Modules, and imported classes and functions, are left out.

    Works while a cell runs, where the kernel has subshells.

    Args:
        limit: rows, at most.
        name: one variable, which is shown in depth.
        frame: of the last failure, 0 for the innermost one: its local variables instead.

    Raises:
        InvalidArgumentError: the kernel does not speak Python, or has no such variable or frame.
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
        f"own['look'](get_ipython(), {hidden}, {pattern!r}, {limit}, {name!r}, {frame!r}))[1])({{}})"
    )
    text = await kernel.evaluate(expression, timeout_seconds=_PATIENCE)
    try:
        found = json.loads(ast.literal_eval(text))
    except (ValueError, SyntaxError) as error:
        raise KernelUnresponsiveError(f"kernel {kernel.kernel_id} gave an answer that cannot be read") from error
    if "rows" not in found:
        frames = found["frames"]
        raise InvalidArgumentError(
            f"the last failure in kernel {kernel.kernel_id} has no frame {frame}"
            if frames
            else f"no code has failed in kernel {kernel.kernel_id}",
            allowed=f"0 (the innermost) to {frames - 1}" if frames else "",
            advice="leave frame out to see the variables of the kernel",
        )
    if name is not None and not found["rows"]:
        near = nearest(name, found["names"])
        raise InvalidArgumentError(
            f"there is no variable {name[:100]!r}" + (f"; did you mean {near!r}?" if near else ""),
            allowed=f"there are: {listed(found['names'])}",
        )
    return Variables(found["rows"], found["count"], found.get("frame"))
