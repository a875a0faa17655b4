"""Faults at every system call of a save, and what they cost.

    python -m dev.fault_report

Edits a notebook through `NotebookService` again and again. The n-th system call of an edit fails (once, or from then
on), writes one byte only, or is the last one of the process, for n = 0, 1, 2 … until an edit gets by without meeting
the fault. After each edit the file must be the old or the new version: the new one when the edit was acknowledged, the
old one when it was refused and said so. A model of a disk adds power cuts, a small file system a full disk.

Prints a table in markdown and ends with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from papermill_mcp import __version__
from papermill_mcp.config import Config
from papermill_mcp.errors import ServerError
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import CellRef, Update
from papermill_mcp.services.workspace import Workspace

#: What the file layer and the locks ask the system for, by the names of `os`.
CALLS = (
    "access",
    "close",
    "fchmod",
    "fchown",
    "fstat",
    "fsync",
    "link",
    "lseek",
    "lstat",
    "mkdir",
    "open",
    "read",
    "readlink",
    "replace",
    "stat",
    "unlink",
    "write",
)
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EINTR", "EROFS", "EDQUOT")}
_MOST_CALLS = 400
_IN_PLACE = "is in place"

#: System calls for strace: they occur in a save and hardly ever in the start of the interpreter.
TRACED = ("fsync", "fchmod", "renameat", "renameat2", "rename", "linkat", "unlinkat", "flock")

Act = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class Outcome:
    """What became of one edit."""

    kind: str
    number: int
    met: bool = True
    """The fault was reached."""
    acknowledged: bool = False
    lost: str = ""
    left: int = 0
    """Temporary files."""


def make_notebook(directory: Path, *, size: int = 3000) -> Path:
    """A notebook with two cells, one of them of some size."""
    path = directory / "n.ipynb"
    cells = [
        {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": ["start"]},
        {"cell_type": "raw", "id": "b", "metadata": {}, "source": ["x" * size]},
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1))
    return path


def service_of(path: Path, state: Path | None) -> NotebookService:
    """The service of a server in the directory of the notebook."""
    return NotebookService(Config(roots=[path.parent]), Workspace([path.parent]), state)


def edit(path: Path, source: str, state: Path | None) -> None:
    """One edit, as a server does it."""
    run_edit(service_of(path, state), path, source)


def run_edit(service: NotebookService, path: Path, source: str) -> None:
    """One edit by a service that is there already."""
    asyncio.run(service.update_cell(path.name, Update(CellRef(cell_id="a"), source=source)))


def source_of(data: bytes) -> str:
    """The source of the cell that is edited. Fails unless the notebook is whole."""
    notebook = json.loads(data)
    assert len(notebook["cells"]) == 2
    assert len(notebook["cells"][1]["source"][0]) >= 1000
    return "".join(notebook["cells"][0]["source"])


@contextlib.contextmanager
def injected(number: int, act: Act, *, from_then_on: bool = False, names: Sequence[str] = CALLS) -> Iterator[list[str]]:
    """Let the n-th call of `names` in `os` be `act`. Gives the list of the calls that met it."""
    count = itertools.count()
    met: list[str] = []
    originals = {name: getattr(os, name) for name in names if hasattr(os, name)}

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            at = next(count)
            if at == number or (from_then_on and at > number):
                met.append(name)
                return act(name, original, arguments, options)
            return original(*arguments, **options)

        return call

    for name, original in originals.items():
        setattr(os, name, wrapped(name, original))
    try:
        yield met
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def failing(code: int) -> Act:
    """The call fails. Closing a file closes it all the same, as in Linux."""

    def act(name: str, original: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name == "close":
            original(*arguments, **options)
        raise OSError(code, os.strerror(code))

    return act


def short(name: str, original: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A write takes one byte only, and a read gives one only."""
    if name == "write":
        return original(arguments[0], bytes(arguments[1][:1]))
    if name == "read":
        return original(arguments[0], min(arguments[1], 1))
    return original(*arguments, **options)


def judge(outcome: Outcome, path: Path, old: str, new: str, error: Exception | None) -> Outcome:
    """Compare the file with what the edit said."""
    outcome.left = len([file for file in path.parent.iterdir() if file.name.endswith(".tmp")])
    try:
        found = source_of(path.read_bytes())
    except (AssertionError, ValueError, OSError, LookupError) as problem:
        outcome.lost = f"the file is broken: {problem!r}"
        return outcome
    outcome.acknowledged = error is None
    if found not in (old, new):
        outcome.lost = f"the file holds {found!r}"
    elif error is not None and not isinstance(error, ServerError):
        outcome.lost = f"a bare exception: {error!r}"
    elif error is None and found != new:
        outcome.lost = "an acknowledged edit is not there"
    elif error is not None and found == new and _IN_PLACE not in str(error):
        outcome.lost = f"refused, and done all the same: {error}"
    return outcome


def inject_errors(directory: Path, errors: Mapping[str, int] = MappingProxyType(ERRORS)) -> Iterator[Outcome]:
    """Errors and short transfers, in this process."""
    path = make_notebook(directory)
    state = directory / ".state"
    edit(path, "warm", state)
    kinds: list[tuple[str, Act, bool, Sequence[str]]] = [
        (f"{name} {'from then on' if on else 'once'}", failing(code), on, CALLS)
        for name, code in errors.items()
        for on in (False, True)
    ]
    kinds.append(("one byte at a time, once", short, False, ("read", "write")))
    kinds.append(("one byte at a time, from then on", short, True, ("read", "write")))
    serial = itertools.count()
    for kind, act, on, names in kinds:
        for number in range(_MOST_CALLS):
            old, new = source_of(path.read_bytes()), f"edit {next(serial)}"
            error: Exception | None = None
            service = service_of(path, state)
            with injected(number, act, from_then_on=on, names=names) as met:
                try:
                    run_edit(service, path, new)
                except Exception as raised:  # what is none of ours is a bug, and counts as a loss
                    error = raised
            if not met:
                break
            outcome = judge(Outcome(kind, number), path, old, new, error)
            # With every call failing, the temporary file cannot be removed either. Nothing but it may stay.
            if outcome.left and not on:
                outcome.lost = outcome.lost or "a temporary file stays"
            for file in directory.glob(".*.tmp"):
                file.unlink()
            yield outcome
        else:
            raise AssertionError("an edit never got by without the fault")


def inject_kills(directory: Path) -> Iterator[Outcome]:
    """SIGKILL at the n-th call, each time in a child process of this one, which has no threads."""
    path = make_notebook(directory)
    state = directory / ".state"
    for number in range(_MOST_CALLS):
        old, new = source_of(path.read_bytes()), f"kill {number}"
        sys.stdout.flush()
        service = service_of(path, state)
        child = os.fork()
        if child == 0:

            def kill(*_: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            with contextlib.suppress(BaseException), injected(number, kill):
                run_edit(service, path, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        found = source_of(path.read_bytes())
        outcome = Outcome("SIGKILL", number, met=killed, acknowledged=not killed)
        outcome.left = len([*directory.glob(".*.tmp")])
        if found not in (old, new) or (not killed and found != new):
            outcome.lost = f"the file holds {found!r}"
        for file in directory.glob(".*.tmp"):
            file.unlink()
        if not killed:
            break
        yield outcome


def trace_kills(directory: Path, *, calls: Sequence[str] = TRACED, most: int = 3) -> Iterator[Outcome]:
    """The same by strace, at real system calls. Nothing when strace is missing or not permitted."""
    path = make_notebook(directory)
    for call, what in itertools.product(calls, ("signal=SIGKILL", "error=ENOSPC", "error=EIO")):
        for number in range(1, most + 1):
            old, new = source_of(path.read_bytes()), f"{call} {what} {number}"
            log = directory / "trace"
            command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}"]
            command += ["-e", f"inject={call}:{what}:when={number}"]
            command += [sys.executable, __file__, "--edit", str(path), new]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if not log.exists():
                return
            met = "INJECTED" in log.read_text() or "SIGKILL" in log.read_text()
            if not met:
                break
            found = source_of(path.read_bytes())
            outcome = Outcome(f"strace {what}", number, acknowledged=done.returncode == 0)
            refused = done.returncode == 3 and _IN_PLACE not in done.stdout
            if found not in (old, new) or (outcome.acknowledged and found != new) or (refused and found == new):
                outcome.lost = f"{call}: exit code {done.returncode}, the file holds {found!r}: {done.stdout}"
            outcome.left = len([*directory.glob(".*.tmp")])
            for file in directory.glob(".*.tmp"):
                file.unlink()
            yield outcome


def cut_power(directory: Path) -> Iterator[Outcome]:
    """A power cut after each step of a save, with all that the disk may have by then; see `power_cut`."""
    from dev.power_cut import NEW, OLD, states  # it needs pytest, and the children of this script do not

    for exists, durable in itertools.product((True, False), repeat=2):
        place = directory / f"{exists}-{durable}"
        place.mkdir()
        found = states(place, exists=exists, durable=durable)
        for number, there in enumerate(found):
            last = number == len(found) - 1
            old = OLD if exists else None
            allowed = {NEW} if durable and last else {old, NEW}
            outcome = Outcome("power cut, by a model", number, acknowledged=there == {NEW})
            if there - allowed:
                outcome.lost = f"{len(there - allowed)} states of the disk hold neither version, or a lost edit"
            yield outcome


def fill_disk(directory: Path) -> list[Outcome]:
    """Edits on a disk that is really full. `directory` is a small file system of its own."""
    path = make_notebook(directory)
    outcomes: list[Outcome] = []
    ballast = directory / "ballast"
    for number, free in enumerate((0, 1, 4096, 8192)):
        old, new = source_of(path.read_bytes()), "y" * 20_000 + str(number)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096) == 4096:
                pass
        os.truncate(ballast, max(ballast.stat().st_size - free, 0))
        error: ServerError | None = None
        try:
            edit(path, new, None)
        except ServerError as raised:
            error = raised
        outcome = judge(Outcome("full disk", number), path, old, new, error)
        if error is None or not str(error).startswith("DISK_FULL: "):
            outcome.lost = outcome.lost or f"not told as DISK_FULL: {error}"
        if outcome.left:
            outcome.lost = outcome.lost or "a temporary file stays"
        ballast.unlink()
        edit(path, new, None)
        if source_of(path.read_bytes()) != new:
            outcome.lost = outcome.lost or "no edit is possible after space was freed"
        outcomes.append(outcome)
        edit(path, "small", None)
    return outcomes


def full_disk(scratch: Path) -> list[Outcome] | None:
    """`fill_disk` in a small file system. None where that is not permitted."""
    mount = scratch / "disk"
    mount.mkdir()
    script = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" "$3" --fill "$1"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(mount), sys.executable, __file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return None
    if done.returncode:
        assert "Traceback" not in done.stderr, done.stderr
        return None
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]


def report(outcomes: Sequence[Outcome]) -> str:
    """The table, and one line with the sum."""
    lines = [
        "| fault | injected | refused or cut off | saved all the same | temporary files left | losses |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    kinds = Counter(outcome.kind for outcome in outcomes)
    for kind, number in kinds.items():
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        saved = sum(outcome.acknowledged for outcome in own)
        lost = sum(bool(outcome.lost) for outcome in own)
        left = sum(outcome.left for outcome in own)
        lines.append(f"| {kind} | {number} | {number - saved} | {saved} | {left} | {lost} |")
    losses = [outcome for outcome in outcomes if outcome.lost]
    versions = f"Python {platform.python_version()} on {platform.system()} {platform.release().partition('-')[0]}"
    lines += ["", f"{len(outcomes)} faults of {len(kinds)} kinds injected, {len(losses)} losses."]
    lines += [f"{date.today().isoformat()}, jupyter-papermill-mcp-server {__version__}, {versions}."]
    lines += [f"- {outcome.kind} at call {outcome.number}: {outcome.lost}" for outcome in losses[:20]]
    return "\n".join(lines)


def main() -> int:
    """Inject everything and print the report."""
    parser = argparse.ArgumentParser(description="Faults at every system call of a save.")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--edit", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.edit:
        try:
            edit(Path(arguments.edit[0]), arguments.edit[1], None)
        except ServerError as error:
            print(error)
            return 3
        return 0
    if arguments.fill or arguments.kill:
        found = fill_disk(arguments.fill) if arguments.fill else [*inject_kills(arguments.kill)]
        print(json.dumps([asdict(outcome) for outcome in found]))
        return 0
    logging.disable()
    began = time.monotonic()
    outcomes: list[Outcome] = []
    scratch = Path(tempfile.mkdtemp()).resolve()
    try:
        for name, inject in (
            ("kills", inject_kills),
            ("errors", inject_errors),
            ("traced", trace_kills),
            ("power", cut_power),
        ):
            if name == "traced" and not shutil.which("strace"):
                continue
            directory = scratch / name
            directory.mkdir()
            outcomes += inject(directory)
        outcomes += full_disk(scratch) or []
    finally:
        shutil.rmtree(scratch)
    print(report(outcomes))
    print(f"{time.monotonic() - began:.0f} s")
    return any(outcome.lost for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
