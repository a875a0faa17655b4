"""The ledger of a server that is gone: what it names is ended, and nothing else is ever touched."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import wait_gone

from papermill_mcp.core.processes.guard import KERNEL_VARIABLE, start_time
from papermill_mcp.core.processes.ledger import Ledger, reap
from papermill_mcp.core.processes.watchdog import Watchdog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the ledger needs")

_DAY = 86_400


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes with a session of their own that sleep, and ends them after the test."""
    made: list[subprocess.Popen[bytes]] = []

    def start(command: str = "exec sleep 3600", **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["sh", "-c", command], start_new_session=True, env=os.environ | env, stdout=subprocess.PIPE
        )
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.communicate()


def ended_server() -> tuple[int, int]:
    """Pid and start time of a process that is gone."""
    with subprocess.Popen(["sleep", "60"]) as process:
        started = start_time(process.pid)
        process.kill()
    return process.pid, started


@pytest.fixture
def left(tmp_path: Path) -> Callable[..., Path]:
    """Makes a runtime directory with a ledger: of a server that is gone, unless something else is asked for."""

    def make(*lines: object, server: tuple[int, int] | None = None, place: str | None = None) -> Path:
        directory = tmp_path / f"runtime-{len(list(tmp_path.glob('runtime-*')))}"
        directory.mkdir()
        Ledger(directory)
        own = json.loads((directory / "ledger").read_text())
        first = ["server", *(server or ended_server()), own[3] if place is None else place]
        (directory / "ledger").write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))
        return directory

    return make


def runs(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


@pytest.mark.case("J16", "K12")
async def test_what_a_server_that_is_gone_has_started_is_ended_with_its_children(
    tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    kernel = sleeper("sleep 3600 & setsid sleep 3600 & echo; wait")
    assert kernel.stdout is not None
    kernel.stdout.readline()
    stopped = sleeper()
    children = [child.pid for child in psutil.Process(kernel.pid).children()]
    assert len(children) == 2
    directory = left(["start", kernel.pid, start_time(kernel.pid)], ["start", stopped.pid, start_time(stopped.pid)])
    (directory / "kernel-x.json").write_text("{}")
    psutil.Process(stopped.pid).suspend()
    reap(tmp_path)

    assert not runs(kernel)
    assert not runs(stopped)
    assert await wait_gone(children, seconds=0.5) == []
    assert not directory.exists()


def test_a_pid_that_was_given_to_another_process_is_not_touched(
    tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    stranger = sleeper()
    left(["start", stranger.pid, start_time(stranger.pid) - 1], ["start", stranger.pid, 0])
    reap(tmp_path)

    assert runs(stranger)
    assert list(tmp_path.glob("runtime-*")) == []


@pytest.mark.parametrize("mine", [True, False], ids=["of the server's kernel", "of somebody else"])
async def test_what_outlived_its_kernel_is_ended_only_if_its_environment_says_whose_it_is(
    mine: bool, tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The number of the kernel, and so of the session, could be that of a later process."""
    directory = left()
    leader = sleeper(
        "sleep 3600 & echo $!; setsid sleep 3600 & echo $!",
        **{KERNEL_VARIABLE: str(directory / "kernel-1.json") if mine else f"{directory}x/kernel-1.json"},
    )
    assert leader.stdout is not None
    with (directory / "ledger").open("a") as ledger:
        ledger.write(json.dumps(["start", leader.pid, start_time(leader.pid)]) + "\n")
    children = [int(leader.stdout.readline()) for _ in range(2)]
    leader.wait()
    try:
        reap(tmp_path)

        assert sorted(await wait_gone(children, seconds=0.5)) == ([] if mine else sorted(children))
    finally:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("place", ["another-boot pid:[4026531836]", ""])
def test_what_another_boot_or_machine_left_is_not_touched(
    place: str, tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Its pids mean nothing here, and its server may live elsewhere. The files go after a month."""
    process = sleeper()
    directory = left(["start", process.pid, start_time(process.pid)], place=place)
    reap(tmp_path)
    assert directory.exists()

    month_ago = time.time() - 31 * _DAY
    os.utime(directory, (month_ago, month_ago))
    reap(tmp_path)
    assert not directory.exists()
    assert runs(process)


def test_what_a_living_server_has_started_is_not_touched(
    tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    server, kernel = sleeper(), sleeper()
    owner = server.pid, start_time(server.pid)
    directory = left(["start", kernel.pid, start_time(kernel.pid)], server=owner)
    reap(tmp_path)
    psutil.Process(server.pid).suspend()  # one that is only halted lives
    reap(tmp_path)
    assert runs(kernel)
    assert directory.exists()

    server.kill()
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # over, but nobody has waited for it
    reap(tmp_path)
    assert not runs(kernel)
    assert not directory.exists()


@pytest.mark.case("F16")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff garbage",
        b"[" * 100_000,
        b'["server"]\n',
        b'["server", "1", 2, "3"]\n["start", 1, 1]\n',
        b"9" * 5_000,
    ],
)
def test_a_damaged_ledger_ends_nothing_and_holds_nobody_up(
    content: bytes, tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    kernel = sleeper()
    (tmp_path / "runtime-damaged").mkdir()
    (tmp_path / "runtime-damaged" / "ledger").write_bytes(content)
    (tmp_path / "runtime-empty").mkdir()
    (tmp_path / "runtime-file").touch()
    (tmp_path / "runtime-link").symlink_to(tmp_path / "runtime-empty")
    behind = left(["start", kernel.pid, start_time(kernel.pid)])
    reap(tmp_path)

    assert not runs(kernel), "a damaged ledger hides the next one"
    assert not behind.exists()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.case("F16")
def test_lines_that_make_no_sense_are_passed_over(
    tmp_path: Path, left: Callable[..., Path], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Not one of them may lead to a signal for everybody, as pid 0 or -1 would."""
    kernel, bystander = sleeper(), sleeper()
    lines: list[Any] = [
        None,
        [],
        {},
        "start",
        ["start"],
        ["start", -1, 5],
        ["start", 0, 1],
        ["start", 1, 1],
        ["gone", None],
    ]
    entry = ["start", bystander.pid, start_time(bystander.pid)]
    left(*lines, entry, ["gone", bystander.pid], ["directory", "/"], ["start", kernel.pid, start_time(kernel.pid)])
    reap(tmp_path)

    assert not runs(kernel)
    assert runs(bystander)


@pytest.mark.case("F16")
def test_a_ledger_that_cannot_be_written_is_told_once_and_the_watchdog_still_guards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    directory = tmp_path / "runtime-x"
    directory.mkdir()
    (directory / "ledger").symlink_to("/dev/full")  # stands for anything that cannot be made there
    process = sleeper()
    watchdog = Watchdog()
    with caplog.at_level(logging.WARNING):
        watchdog.guard_runtime(directory)
        watchdog.guard(process.pid)
    watchdog.close()

    assert [record.message.split(",")[0] for record in caplog.records] == ["the ledger cannot be written"]
    process.wait(2)
    assert not directory.exists()


@pytest.mark.case("F16")
def test_a_ledger_that_cannot_grow_costs_the_ledger_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    size = (tmp_path / "ledger").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))  # a short write, then an error, as of a full disk
    try:
        with caplog.at_level(logging.WARNING):
            ledger.add(["start", 5, 5])
            ledger.add(["gone", 5])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [record.message.split(",")[0] for record in caplog.records] == ["the ledger cannot be written"]


def test_a_ledger_is_private_and_names_this_process(tmp_path: Path) -> None:
    Ledger(tmp_path).add(["start", 5, 6])
    first, second = map(json.loads, (tmp_path / "ledger").read_text().splitlines())

    assert (tmp_path / "ledger").stat().st_mode & 0o077 == 0
    assert first[:3] == ["server", os.getpid(), start_time(os.getpid())]
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in first[3]
    assert second == ["start", 5, 6]
