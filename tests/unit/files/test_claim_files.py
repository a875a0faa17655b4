"""Claims on files between processes: one holder each, all or none, and void when the holder has gone."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.fault_report import failing, injected
from papermill_mcp.utils.lock_files import ClaimedError, ClaimFiles, LockFiles, LocksUnavailableError

#: Takes claims, writes a line, and holds them until its input ends.
_HOLDER = """
import sys
from pathlib import Path
from papermill_mcp.utils.lock_files import ClaimedError, ClaimFiles
claims = ClaimFiles(Path(sys.argv[1]))
try:
    claims.take([Path(path) for path in sys.argv[3:]], sys.argv[2])
    print("taken", flush=True)
except ClaimedError:
    print("busy", flush=True)
sys.stdin.read()
"""


def holder(directory: Path, name: str, *paths: str) -> tuple[subprocess.Popen[str], str]:
    """A process with claims, and whether it got them."""
    command = [sys.executable, "-c", _HOLDER, str(directory), name, *paths]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


def test_a_claim_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    first, second = ClaimFiles(tmp_path), ClaimFiles(tmp_path)
    a, b = Path("/x/a.ipynb"), Path("/x/b.ipynb")
    first.take([a], "one")

    with pytest.raises(ClaimedError) as claimed:
        second.take([b, a], "two")
    assert (claimed.value.path, claimed.value.holder, claimed.value.pid) == (a, "one", os.getpid())
    first.take([b], "one")  # all or none: the second left nothing
    first.release("one")
    second.take([b, a], "two")
    second.release("two")

    assert list(tmp_path.iterdir()) == []


def test_no_two_files_share_a_claim(tmp_path: Path) -> None:
    """Short digests would make unrelated files busy."""
    claims = ClaimFiles(tmp_path)
    for number in range(3000):
        claims.take([Path(f"/x/{number}.ipynb")], f"holder{number % 4}")

    assert sum(path.suffix == ".lock" for path in tmp_path.iterdir()) == 4  # one descriptor for each holder
    for number in range(4):
        claims.release(f"holder{number}")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_can_be_claimed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(b"/x/caf\xe9.ipynb"))
    claims = ClaimFiles(tmp_path)  # a claim ends with the one who has it
    claims.take([path], "one")
    assert ClaimFiles(tmp_path).has(path)


@pytest.mark.case("W01")
def test_a_look_sees_claims_of_living_processes_only(tmp_path: Path) -> None:
    process, got = holder(tmp_path, "other", "/x/a")
    look = ClaimFiles(tmp_path)
    try:
        assert got == "taken"
        assert look.has(Path("/x/a"))
        assert not look.has(Path("/x/b"))
    finally:
        end(process)

    assert not look.has(Path("/x/a"))
    assert list(tmp_path.iterdir()) == [], "the look has cleared the claim away"


@pytest.mark.case("W01")
def test_the_claims_of_a_killed_process_are_void(tmp_path: Path) -> None:
    process, got = holder(tmp_path, "dead", "/x/a", "/x/b")
    try:
        assert got == "taken"
        with pytest.raises(ClaimedError):
            ClaimFiles(tmp_path).take([Path("/x/b")], "later")
    finally:
        end(process)

    later = ClaimFiles(tmp_path)
    later.take([Path("/x/b")], "later")
    assert not later.has(Path("/x/a"))
    later.release("later")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.case("W01")
def test_one_of_several_processes_takes_over_void_claims(tmp_path: Path) -> None:
    """All of them find the claims of a killed process at the same time, many times over."""
    process, _ = holder(tmp_path, "dead0", "/x/a", "/x/b")
    end(process)
    order = random.Random(4)
    for number in range(12):
        found: list[tuple[subprocess.Popen[str], str]] = []

        def start(name: str, found: list[tuple[subprocess.Popen[str], str]] = found) -> None:
            found.append(holder(tmp_path, name, *order.sample(["/x/a", "/x/b"], 2)))

        threads = [threading.Thread(target=start, args=(f"p{number}x{one}",)) for one in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        taken = [got for _, got in found]
        for process, _ in found:
            end(process)
        assert taken.count("taken") <= 1
        assert set(taken) <= {"taken", "busy"}


def test_only_its_user_can_read_a_claim(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        claims = ClaimFiles(tmp_path / "state" / "claims")
        claims.take([Path("/x/a")], "one")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "state").rglob("*.lock")}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state" / "claims").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_used_is_an_error_of_its_own(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x")
    with pytest.raises(LocksUnavailableError):
        ClaimFiles(in_the_way / "claims").take([Path("/x/a")], "one")

    claims = ClaimFiles(tmp_path / "claims")
    claims.take([Path("/x/a")], "one")
    link = next(path for path in (tmp_path / "claims").iterdir() if path.is_symlink())
    claims.release("one")
    link.write_text("of another program")
    with pytest.raises(LocksUnavailableError):
        claims.take([Path("/x/a")], "one")
    assert not claims.has(Path("/x/a")), "none can be made there"


@pytest.mark.case("F16", "W01")
@pytest.mark.parametrize("name", ["file", "closed", "garbage"])
def test_a_look_at_a_directory_that_cannot_be_used_finds_nothing(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "claims"
    claims = ClaimFiles(directory)
    claims.take([Path("/x/a")], "one")
    link = next(path for path in directory.iterdir() if path.is_symlink())
    claims.release("one")
    if name == "file":
        directory.rmdir()
        directory.write_text("in the way")
    elif name == "garbage":
        link.write_bytes(b"\x00garbage")
    else:
        directory.rmdir()
        directory.symlink_to(directory)  # no user can follow it

    assert not claims.has(Path("/x/a"))


def _uses(directory: Path) -> dict[str, Callable[[], object]]:
    """Everything that a server does with locks and claims."""
    claims, locks = ClaimFiles(directory), LockFiles(directory)

    def take() -> None:
        claims.take([Path("/x/a"), Path("/x/b")], "one")

    def lock() -> None:
        held = locks.try_acquire(Path("/x/a"))
        assert held is not None
        held.release()

    return {"take": take, "has": lambda: claims.has(Path("/x/a")), "lock": lock}


@pytest.mark.case("F03", "F16")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # older filelocks close once more
@pytest.mark.parametrize("use", ["take", "has", "lock"])
def test_no_failing_system_call_keeps_a_lock_or_raises_a_bare_error(tmp_path: Path, use: str) -> None:
    """The n-th call fails, for every n. What is kept then would hold up the next request for good."""
    errors: list[Exception] = []  # an error that is kept keeps the locals of its frames
    for number in range(200):
        directory = tmp_path / str(number)
        process, _ = holder(directory, "dead", "/x/a")
        end(process)
        os.chmod(next(directory.glob("*.lock")), 0o644)
        with injected(number, failing(errno.EIO)) as met:
            try:
                _uses(directory)[use]()
            except LocksUnavailableError as error:
                errors.append(error)
        if not met:
            break
        other = ClaimFiles(directory)
        other.take([Path("/x/a")], "other")
        other.release("other")
        _uses(directory)["lock"]()
    assert number > 3
    assert number < 199
