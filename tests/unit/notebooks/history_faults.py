"""Keeps versions while the n-th system call of one kind fails, or is the last one of the process, for n = 1, 2, 3 …

strace counts the calls of each process by itself. A process for each n makes calls of its own first, so that the call
with the fixed number is the n-th one of the store.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from papermill_mcp.core.history.cause import Cause
from papermill_mcp.core.history.store import HistoryStore, HistoryUnavailableError
from papermill_mcp.utils.digests import revision_of

PATH = Path("/work/n.ipynb")
AT = 60  # the call that fails, counted in its process
ENOUGH = 5  # calls in a row that were not met, or did no harm
CAUSE = Cause("edit", "update_cell", "1 cell changed")


def version(number: int) -> bytes:
    return (f"version {number} " * 2000).encode()


def keep(history: HistoryStore, number: int) -> int:
    data = version(number)
    return history.keep(PATH, data, CAUSE, revision_of(data)).version


def child(directory: Path, call: str, number: int, nth: int) -> int:
    """Keep a version. Returns 0 if it was kept, 3 if it was refused."""
    history = HistoryStore(directory, versions=500, max_bytes=2**30)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    for _ in range(AT - nth):
        if call == "pwrite64":
            os.pwrite(descriptor, b"x", 0)
        else:
            try:
                os.fdatasync(descriptor)
            except OSError:
                pass
    try:
        keep(history, number)
        history.tidy()
    except HistoryUnavailableError:
        return 3
    return 0


def checked(directory: Path, kept: int, acknowledged: bool) -> int:
    """Check all versions. If the last one was refused, keep it now."""
    history = HistoryStore(directory, versions=500, max_bytes=2**30)
    latest = history.latest(PATH)
    last = 0 if latest is None else latest.version
    assert last in (kept, kept + 1), f"there are {last} versions, and {kept} were kept"
    assert last == kept + 1 or not acknowledged, f"version {kept + 1} was lost"
    for number in range(1, last + 1):
        assert history.read(PATH, number) == version(number), f"version {number} is another one"
    if last == kept:
        assert keep(history, last + 1) == last + 1, "it does not go on"
    history.close()
    return 0


def in_process(work: Callable[[], int]) -> int:
    """The status of a process of its own, whose calls are counted anew."""
    process = os.fork()
    if not process:
        try:
            os._exit(work())
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(99)
    return os.waitpid(process, 0)[1]


def main(call: str, directory: Path) -> None:
    kept = met = calm = 0
    while calm < ENOUGH and kept < AT - 1:
        status = in_process(partial(child, directory, call, kept + 1, kept + 1))
        acknowledged = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        assert acknowledged or os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 3, f"call {kept + 1}: {status}"
        met += not acknowledged
        calm = calm + 1 if acknowledged else 0
        assert in_process(partial(checked, directory, kept, acknowledged)) == 0, f"call {kept + 1}"
        kept += 1
    sys.stdout.write(f"{kept} {met}\n")


def keep_many(directory: Path, name: str) -> None:
    """Keep 60 versions, and print their numbers and revisions."""
    history = HistoryStore(directory, versions=500, max_bytes=2**30)
    for number in range(60):
        data = f"{name} {number} ".encode() * 3000
        kept = history.keep(PATH, data, CAUSE, revision_of(data))
        sys.stdout.write(f"{kept.version} {kept.revision}\n")
    history.close()


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep_many(Path(sys.argv[2]), sys.argv[3])
        sys.exit()
    if len(sys.argv) == 3:
        fault, directory = sys.argv[1:]
        call, _, action = fault.partition(":")
        trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:{action}:when={AT}"]
        sys.exit(subprocess.call([*trace, *inject, sys.executable, __file__, fault, directory, "traced"]))
    main(sys.argv[1].partition(":")[0], Path(sys.argv[2]))
