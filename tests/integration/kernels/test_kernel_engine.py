"""Kernels as the engine has them: real ones, one of another language, and fake ones that break the rules."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import AddKernelspec
from helpers import (
    TESTS,
    until,
    wait_gone,
)

from papermill_mcp.core.environments.reading import environment_of
from papermill_mcp.core.jupyter_manager import JupyterManager
from papermill_mcp.core.kernels import interrupts
from papermill_mcp.core.kernels.kernel import Kernel, KernelState
from papermill_mcp.core.kernels.process import KernelProcess
from papermill_mcp.core.kernels.request import CellExecution, RunStatus
from papermill_mcp.core.kernels.wire import Wire
from papermill_mcp.errors import (
    KernelDiedError,
    KernelNotFoundError,
    KernelSpecNotFoundError,
    KernelStartFailedError,
)
from papermill_mcp.utils.text_utils import clean_text

pytestmark = pytest.mark.kernel

_FAKE = TESTS / "fake_kernel.py"

#: Says that it runs, then would run for an hour.
_LONG = "print('running', flush=True)\nimport time; time.sleep(3600)"


@pytest.fixture
async def manager(state_directory: Path) -> AsyncIterator[JupyterManager]:
    manager = JupyterManager(state_directory)
    yield manager
    await manager.aclose()


Start = Callable[..., Coroutine[Any, Any, Kernel]]


@pytest.fixture
def start(manager: JupyterManager, workspace: Path) -> Start:
    async def start(name: str = "python3", *, timeout: float = 30, **options: Any) -> Kernel:
        return await manager.start_kernel(name, cwd=workspace, timeout_seconds=timeout, **options)

    return start


@pytest.fixture
async def kernel(start: Start) -> Kernel:
    return await start()


@pytest.fixture
def fake(start: Start, kernelspec: AddKernelspec) -> Callable[[str], Awaitable[Kernel]]:
    async def fake(behaviour: str) -> Kernel:
        return await start(kernelspec("fake", [sys.executable, str(_FAKE), "{connection_file}", behaviour]))

    return fake


async def settled(execution: CellExecution, *, seconds: float = 20) -> CellExecution:
    async with asyncio.timeout(seconds):
        await execution.settled.wait()
    return execution


async def run(kernel: Kernel, code: str, *, timeout: float | None = None, seconds: float = 20) -> CellExecution:
    return await settled(kernel.submit(code, timeout_seconds=timeout), seconds=seconds)


async def running(kernel: Kernel, code: str = _LONG, **options: Any) -> CellExecution:
    """Submit code that says `running`, and wait until it has."""
    options.setdefault("timeout_seconds", None)
    execution = kernel.submit(code, **options)
    await until(lambda: "running" in stdout(execution), seconds=20, what="the code runs")
    return execution


def stdout(execution: CellExecution) -> str:
    return "".join(o["text"] for o in execution.outputs if o["output_type"] == "stream" and o["name"] == "stdout")


def began_to_run(execution: CellExecution) -> bool:
    return execution.status == RunStatus.RUNNING


def error_name(execution: CellExecution) -> str:
    assert execution.error is not None
    return execution.error.ename


def connection_files(state: Path) -> list[Path]:
    return list(state.rglob("kernel-*.json"))


# Start, run, stop


async def test_a_kernel_starts_runs_code_and_stops(manager: JupyterManager, kernel: Kernel) -> None:
    assert str(kernel.state) == "idle"
    assert kernel.language == "python"
    assert kernel.pid is not None

    execution = await run(kernel, "x = 20\nprint('hello')\nx + 1")

    assert execution.status == RunStatus.OK
    assert execution.execution_count == kernel.execution_count == 1
    assert execution.outputs == [
        {"output_type": "stream", "name": "stdout", "text": "hello\n"},
        {"output_type": "execute_result", "data": {"text/plain": "21"}, "metadata": {}, "execution_count": 1},
    ]
    assert set(execution.timing) == {
        "iopub.execute_input",
        "iopub.status.busy",
        "iopub.status.idle",
        "shell.execute_reply",
    }

    await manager.stop_kernel(kernel)

    assert kernel.state == KernelState.STOPPED
    assert await wait_gone([kernel.pid], seconds=1) == []
    with pytest.raises(KernelNotFoundError):
        kernel.submit("1", timeout_seconds=None)


async def test_a_kernel_runs_in_its_directory_and_environment(start: Start, workspace: Path) -> None:
    kernel = await start(env={"CANARY": "sings"})

    execution = await run(kernel, "import os\nprint(os.getcwd(), os.environ['CANARY'])")

    assert stdout(execution) == f"{workspace} sings\n"


@pytest.mark.case("K19")
async def test_a_variable_that_is_denied_does_not_reach_the_kernel(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X_API_KEY", "CANARY")
    kernel = await start(denied_env=["X_API_KEY"])

    assert stdout(await run(kernel, "import os\nprint(os.environ.get('X_API_KEY'))")) == "None\n"


async def test_a_connection_file_is_private_and_goes_with_its_kernel(
    manager: JupyterManager, start: Start, state_directory: Path
) -> None:
    kernel = await start()
    (file,) = connection_files(state_directory)

    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    assert state_directory.stat().st_mode & 0o077 == 0

    await manager.stop_kernel(kernel)
    assert connection_files(state_directory) == []


async def test_two_kernels_share_neither_ports_nor_key_nor_variables(start: Start, state_directory: Path) -> None:
    one, two = await asyncio.gather(start(), start())
    first, second = await asyncio.gather(run(one, "x = 1\nprint(x)"), run(two, "x"))

    assert stdout(first) == "1\n"
    assert error_name(second) == "NameError"
    contents = {file.read_text() for file in connection_files(state_directory)}
    assert len(contents) == 2


@pytest.mark.slow
async def test_a_kernel_of_an_interpreter_runs_in_that_interpreter(start: Start) -> None:
    kernel = await start("mine", environment=environment_of(Path(sys.executable)))

    assert stdout(await run(kernel, "import sys\nprint(sys.executable)")).strip() == sys.executable


async def cancelled_start(start: Start, when: Callable[[], bool], state: Path) -> float:
    """Cancel a start as soon as `when` holds. Returns how long the cancelling took."""
    task = asyncio.create_task(start())
    await until(when, what="a kernel is on its way")
    began = time.monotonic()
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert connection_files(state) == []
    return time.monotonic() - began


def reaped_late() -> list[int]:
    """Wait for dead children that nobody has waited for. Returns their pids."""
    objects = [entry for entry in gc.get_objects() if isinstance(entry, subprocess.Popen) and entry.returncode is None]
    return [entry.pid for entry in objects if entry.poll() is not None]


@pytest.mark.case("K13")
async def test_a_start_that_is_cancelled_while_the_kernel_gets_ready_leaves_nothing(
    start: Start, manager: JupyterManager, state_directory: Path
) -> None:
    made: list[Kernel] = []

    def launched() -> bool:
        made.extend(kernel for kernel in manager._kernels if kernel.pid is not None)
        return bool(made)

    took = await cancelled_start(start, launched, state_directory)

    assert took < 1.5
    assert await wait_gone([made[0].pid or 0], seconds=0.2) == []


@pytest.mark.case("K13")
async def test_a_start_that_is_cancelled_while_the_process_is_made_leaves_nothing(
    start: Start, state_directory: Path
) -> None:
    took = await cancelled_start(start, lambda: bool(connection_files(state_directory)), state_directory)

    assert reaped_late() == []
    assert took < 1.5


@pytest.mark.case("K13")
async def test_stopping_twice_does_nothing_more(manager: JupyterManager, kernel: Kernel) -> None:
    await asyncio.gather(manager.stop_kernel(kernel), manager.stop_kernel(kernel))
    await manager.stop_kernel(kernel)

    assert kernel.state == KernelState.STOPPED


async def test_closing_ends_every_kernel_in_two_seconds_idle_or_busy(start: Start, manager: JupyterManager) -> None:
    kernels = await asyncio.gather(*(start() for _ in range(3)))
    await running(kernels[0])
    began = time.monotonic()
    await manager.aclose()

    assert time.monotonic() - began < 2
    assert await wait_gone([kernel.pid or 0 for kernel in kernels], seconds=0.5) == []


@pytest.mark.slow
async def test_the_history_of_a_kernel_is_not_written_to_the_users_file(kernel: Kernel) -> None:
    execution = await run(kernel, "print(get_ipython().history_manager.hist_file)")

    assert stdout(execution) == ":memory:\n"


# Output


async def test_the_two_streams_come_in_order_and_merged(kernel: Kernel) -> None:
    code = (
        "import sys\nfor i in range(3):\n    print(i, flush=True)\n"
        "print('e', file=sys.stderr, flush=True)\nprint('end')"
    )
    execution = await run(kernel, code)

    assert [(output["name"], output["text"]) for output in execution.outputs] == [
        ("stdout", "0\n1\n2\n"),
        ("stderr", "e\n"),
        ("stdout", "end\n"),
    ]


async def test_an_exception_is_an_error_with_its_traceback(kernel: Kernel) -> None:
    execution = await run(kernel, "print('before')\n1/0")

    assert execution.status == RunStatus.ERROR
    assert execution.error is not None
    assert (execution.error.ename, execution.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert "----> 2 1/0" in clean_text("\n".join(execution.error.traceback))
    assert [output["output_type"] for output in execution.outputs] == ["stream", "error"]
    assert (await run(kernel, "2")).status == RunStatus.OK


@pytest.mark.slow
async def test_twenty_thousand_flushed_prints_lose_nothing(kernel: Kernel) -> None:
    execution = await run(kernel, "for i in range(20000):\n    print(i, flush=True)", seconds=60)

    assert stdout(execution) == "".join(f"{i}\n" for i in range(20_000))
    assert len(execution.outputs) == 1


async def test_outputs_are_whole_though_the_reader_is_away(kernel: Kernel) -> None:
    """A bounded queue of messages would drop some, and perhaps the end of the execution."""
    execution = await running(
        kernel, "print('running', flush=True)\nfor i in range(3000):\n    display(i)\nopen('done', 'w').close()"
    )
    done = kernel.cwd / "done"
    deadline = time.monotonic() + 20
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # on purpose: the event loop stands still
    await settled(execution)

    shown = [output["data"]["text/plain"] for output in execution.outputs[1:]]
    assert shown == [str(i) for i in range(3000)]
    assert not execution.output_incomplete


async def test_an_output_of_ten_megabytes_arrives(kernel: Kernel) -> None:
    execution = await run(kernel, "print(('x' * 1023 + '\\n') * 10_000, end='')")

    assert len(stdout(execution)) == 10_240_000


async def test_a_display_is_updated_by_a_later_cell(kernel: Kernel) -> None:
    first = await run(kernel, "handle = display('a', display_id=True)")
    await run(kernel, "handle.update('b')")

    assert first.outputs[0]["data"]["text/plain"] == "'b'"


async def test_output_that_comes_late_reaches_the_execution_it_belongs_to(kernel: Kernel) -> None:
    code = (
        "import asyncio, pathlib\n"
        "async def later():\n"
        "    while not pathlib.Path('go').exists():\n"
        "        await asyncio.sleep(0.01)\n"
        "    print('late')\n"
        "task = asyncio.ensure_future(later())"
    )
    first = await run(kernel, code)
    second = await run(kernel, "print('second')")
    (kernel.cwd / "go").touch()
    await until(lambda: "late" in stdout(first), what="late output")

    assert stdout(first) == "late\n"
    assert stdout(second) == "second\n"


@pytest.mark.case("K06")
async def test_asking_for_input_fails_at_once(kernel: Kernel) -> None:
    for code in ("input()", "import getpass; getpass.getpass()"):
        execution = await run(kernel, code, seconds=5)
        assert execution.status == RunStatus.ERROR
        assert error_name(execution) == "StdinNotImplementedError"


@pytest.mark.slow
async def test_code_without_history_is_not_counted(kernel: Kernel) -> None:
    await run(kernel, "1")
    execution = await settled(kernel.submit("print('quiet')", timeout_seconds=None, store_history=False))

    assert stdout(execution) == "quiet\n"
    assert (await run(kernel, "2")).execution_count == 2


# Queue


@pytest.mark.case("K14")
async def test_what_is_submitted_at_once_runs_in_order_and_is_not_mixed(kernel: Kernel) -> None:
    executions = [
        kernel.submit(f"for _ in range(3):\n    print({number}, flush=True)", timeout_seconds=None)
        for number in range(30)
    ]
    assert kernel.state == KernelState.BUSY
    ends: list[int] = []

    async def wait(number: int) -> None:
        await settled(executions[number])
        ends.append(number)

    await asyncio.gather(*(wait(number) for number in range(30)))

    assert [stdout(execution) for execution in executions] == [f"{number}\n" * 3 for number in range(30)]
    assert [execution.execution_count for execution in executions] == list(range(1, 31))
    assert ends == sorted(ends)


async def test_what_waits_behind_an_error_runs_all_the_same(kernel: Kernel) -> None:
    executions = [kernel.submit(code, timeout_seconds=None) for code in ("1/0", "print('after')")]
    for execution in executions:
        await settled(execution)

    assert [execution.status for execution in executions] == [RunStatus.ERROR, RunStatus.OK]


async def test_an_execution_that_waits_can_be_cancelled_alone(kernel: Kernel) -> None:
    first = await running(kernel, "print('running', flush=True)\nimport time; time.sleep(1)\nprint('done')")
    waiting = kernel.submit("print('never')", timeout_seconds=None)
    last = kernel.submit("print('last')", timeout_seconds=None)

    assert await kernel.interrupt(waiting)
    await settled(last)

    assert waiting.status == RunStatus.ABORTED
    assert waiting.outputs == []
    assert (first.status, last.status) == (RunStatus.OK, RunStatus.OK)
    assert "done" in stdout(first)


# Interrupt and timeout


@pytest.mark.parametrize(
    "code",
    [
        "print('running', flush=True)\nwhile True: pass",
        "print('running', flush=True)\nimport time; time.sleep(3600)",
        "print('running', flush=True)\nimport asyncio; await asyncio.sleep(3600)",
        pytest.param(
            "print('running', flush=True)\nimport subprocess; subprocess.run(['sleep', '3600'])", marks=pytest.mark.slow
        ),
        pytest.param(
            "print('running', flush=True)\nimport threading; threading.Event().wait()", marks=pytest.mark.slow
        ),
    ],
    ids=["busy loop", "sleep", "await", "subprocess", "lock"],
)
async def test_an_interrupt_ends_the_code_and_the_kernel_stays_usable(code: str, kernel: Kernel) -> None:
    await run(kernel, "x = 5")
    execution = await running(kernel, code)
    began = time.monotonic()
    assert await kernel.interrupt(execution)

    assert time.monotonic() - began < 3
    assert execution.status == RunStatus.INTERRUPTED
    assert not execution.still_running
    assert stdout(await run(kernel, "print(x)", seconds=5)) == "5\n"


async def test_an_interrupt_right_after_the_request_is_not_lost(kernel: Kernel) -> None:
    for _ in range(3):
        execution = kernel.submit("import time; time.sleep(3600)", timeout_seconds=None)
        await until(partial(began_to_run, execution), what="it was sent")
        began = time.monotonic()
        assert await kernel.interrupt(execution)
        assert time.monotonic() - began < 3
        assert execution.status == RunStatus.INTERRUPTED

    assert (await run(kernel, "1", seconds=5)).status == RunStatus.OK


async def test_interrupting_an_idle_kernel_does_nothing(kernel: Kernel) -> None:
    assert await kernel.interrupt()

    assert (await run(kernel, "1")).status == RunStatus.OK


async def test_an_execution_that_is_over_stays_as_it_is(kernel: Kernel) -> None:
    execution = await run(kernel, "1")

    assert await kernel.interrupt(execution)
    assert execution.status == RunStatus.OK


@pytest.mark.slow
async def test_two_interrupts_at_once_are_one(kernel: Kernel) -> None:
    execution = await running(kernel)

    assert all(await asyncio.gather(kernel.interrupt(execution), kernel.interrupt(execution)))
    assert execution.status == RunStatus.INTERRUPTED


async def test_a_caller_that_is_cancelled_does_not_stop_an_interrupt(kernel: Kernel) -> None:
    execution = await running(kernel)
    task = asyncio.create_task(kernel.interrupt(execution))
    await asyncio.sleep(0)
    task.cancel()

    assert (await settled(execution, seconds=5)).status == RunStatus.INTERRUPTED


async def test_an_interrupt_leaves_what_waits_behind_it(kernel: Kernel) -> None:
    execution = await running(kernel)
    behind = kernel.submit("print('behind')", timeout_seconds=None)
    await kernel.interrupt(execution)
    await settled(behind)

    assert stdout(behind) == "behind\n"


@pytest.mark.case("K03")
async def test_code_that_runs_too_long_is_interrupted_with_its_output_kept(kernel: Kernel) -> None:
    began = time.monotonic()
    execution = await run(kernel, "print('so far', flush=True)\nwhile True: pass", timeout=0.5, seconds=5)

    assert time.monotonic() - began < 1.5
    assert execution.status == RunStatus.TIMEOUT
    assert stdout(execution) == "so far\n"
    assert error_name(execution) == "KeyboardInterrupt"
    assert (await run(kernel, "1", seconds=5)).status == RunStatus.OK


async def test_the_time_in_the_queue_does_not_count(kernel: Kernel) -> None:
    kernel.submit("import time; time.sleep(1)", timeout_seconds=None)

    assert (await run(kernel, "1", timeout=0.9)).status == RunStatus.OK


@pytest.mark.slow
async def test_a_kernel_that_ignores_interrupts_is_reported_and_usable_once_it_is_done(
    manager: JupyterManager, start: Start
) -> None:
    kernel = await start()
    code = (
        "import signal, time, pathlib\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('running', flush=True)\n"
        "while not pathlib.Path('go').exists():\n"
        "    time.sleep(0.05)\n"
        "print('done')"
    )
    execution = await running(kernel, code)
    began = time.monotonic()
    assert not await kernel.interrupt(execution)

    assert 4.5 < time.monotonic() - began < 6
    assert execution.status == RunStatus.INTERRUPTED
    assert execution.still_running
    assert kernel.state == KernelState.BUSY

    behind = kernel.submit("print('behind')", timeout_seconds=None)
    (kernel.cwd / "go").touch()
    await settled(behind)

    assert stdout(behind) == "behind\n"
    assert not execution.still_running
    assert execution.status == RunStatus.INTERRUPTED  # what the caller was told stands


async def test_a_kernel_that_ignores_interrupts_can_be_stopped(manager: JupyterManager, start: Start) -> None:
    kernel = await start()
    execution = await running(
        kernel,
        "print('running', flush=True)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
    )
    began = time.monotonic()
    await manager.stop_kernel(kernel)

    assert time.monotonic() - began < 2
    assert execution.status == RunStatus.ABORTED


# Death


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import os; os._exit(0)", "exit code 0"),
        pytest.param("import os; os._exit(7)", "exit code 7", marks=pytest.mark.slow),
        pytest.param("import os; os.abort()", "signal 6", marks=pytest.mark.slow),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
    ],
    ids=["kill", "exit 0", "exit 7", "abort", "segfault"],
)
@pytest.mark.case("K01")
async def test_a_kernel_that_dies_is_seen_at_once_with_the_reason_and_the_output_so_far(
    code: str, how: str, kernel: Kernel
) -> None:
    go = kernel.cwd / "go"
    wait = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n"
    execution = await running(kernel, f"print('running', flush=True)\n{wait}{code}")
    waiting = kernel.submit("print('never')", timeout_seconds=None)
    began = time.monotonic()
    go.touch()
    await settled(execution, seconds=10)

    assert time.monotonic() - began < 2
    assert execution.status == RunStatus.DIED
    assert execution.error is not None
    assert how in execution.error.evalue
    assert stdout(execution) == "running\n"
    assert waiting.status == RunStatus.ABORTED
    assert waiting.outputs == []
    assert kernel.state == KernelState.DEAD
    assert how in kernel.exit_description
    with pytest.raises(KernelDiedError, match=how):
        kernel.submit("1", timeout_seconds=None)


@pytest.mark.slow
async def test_a_kernel_killed_while_idle_is_seen_too(kernel: Kernel) -> None:
    assert kernel.pid is not None
    os.kill(kernel.pid, signal.SIGKILL)
    await until(lambda: kernel.state == KernelState.DEAD, seconds=2, what="the death is seen")

    assert kernel.exit_code == -signal.SIGKILL


async def test_a_cell_that_leaves_the_kernel_is_not_left_waiting(kernel: Kernel) -> None:
    """`exit()` is answered with ok, and the process ends a moment later."""
    execution = await run(kernel, "exit()", seconds=5)

    assert execution.status in (RunStatus.OK, RunStatus.DIED)
    await until(lambda: kernel.state == KernelState.DEAD, what="the death is seen")


async def test_a_start_that_fails_leaves_no_complaint_of_the_event_loop(
    start: Start, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
    name = kernelspec("broken", [sys.executable, str(_FAKE), "{connection_file}", "dies"])
    await failure(start, name, state_directory)
    await asyncio.sleep(0)
    gc.collect()

    assert complaints == []


@pytest.mark.slow
async def test_other_kernels_live_on(start: Start) -> None:
    one, two = await asyncio.gather(start(), start())
    await run(one, "import os; os._exit(1)")

    assert (await run(two, "1")).status == RunStatus.OK


async def test_the_children_of_a_kernel_go_when_it_is_stopped(manager: JupyterManager, kernel: Kernel) -> None:
    code = (
        "import subprocess\n"
        "children = [subprocess.Popen(['sleep', '3600']), "
        "subprocess.Popen(['sleep', '3600'], start_new_session=True), "
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM INT HUP; sleep 3600; :'])]\n"
        "print(*[child.pid for child in children])"
    )
    pids = [int(pid) for pid in stdout(await run(kernel, code)).split()]
    assert len(pids) == 3
    await manager.stop_kernel(kernel)

    assert await wait_gone(pids, seconds=0.5) == []


async def test_the_children_of_a_kernel_go_when_it_dies(kernel: Kernel) -> None:
    """Also one in a session of its own, and one that has left the kernel's tree altogether."""
    code = (
        "import subprocess, os\n"
        "print(subprocess.Popen(['sleep', '3600']).pid, "
        "subprocess.Popen(['sleep', '3600'], start_new_session=True).pid, "
        "subprocess.check_output(['sh', '-c', 'setsid sleep 3600 > /dev/null & echo $!'], text=True), flush=True)"
    )
    pids = [int(pid) for pid in stdout(await run(kernel, code)).split()]
    assert len(pids) == 3
    await run(kernel, "os._exit(1)")

    assert await wait_gone(pids, seconds=2) == []


# Failures at start


async def failure(start: Start, name: str, state: Path, *, timeout: float = 10) -> str:
    with pytest.raises(KernelStartFailedError) as raised:
        await start(name, timeout=timeout)
    assert connection_files(state) == []
    return str(raised.value)


async def test_an_unknown_kernel_is_answered_with_those_there_are(start: Start) -> None:
    with pytest.raises(KernelSpecNotFoundError) as raised:
        await start("python4")

    assert "did you mean 'python3'?" in str(raised.value)


@pytest.mark.parametrize("name", ["../../x", "-c", "..", "python3;id", "x" * 300, "", "python3\n", "a/b", "\x00"])
async def test_a_name_that_no_kernel_can_have_is_one_that_is_not_there(name: str, start: Start) -> None:
    with pytest.raises(KernelSpecNotFoundError) as raised:
        await start(name)

    assert "python3" in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.case("K08")
async def test_a_command_that_is_missing_is_named_at_once(
    start: Start, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    name = kernelspec("broken", ["/nowhere/interpreter", "{connection_file}"])
    began = time.monotonic()

    assert "/nowhere/interpreter" in await failure(start, name, state_directory)
    assert time.monotonic() - began < 1


@pytest.mark.case("K08")
async def test_a_command_that_is_not_executable_is_named(
    start: Start, kernelspec: AddKernelspec, state_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "interpreter").write_text("")
    name = kernelspec("broken", [str(tmp_path / "interpreter"), "{connection_file}"])

    assert "interpreter" in await failure(start, name, state_directory)


@pytest.mark.case("K07")
async def test_a_kernel_that_ends_at_its_start_is_told_with_what_it_said(
    start: Start, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    name = kernelspec("broken", [sys.executable, str(_FAKE), "{connection_file}", "dies"])
    began = time.monotonic()
    message = await failure(start, name, state_directory)

    assert time.monotonic() - began < 5
    assert "no module named moon" in message
    assert "exit code 3" in message


@pytest.mark.parametrize(
    "argv",
    [
        ["sleep", "600"],
        pytest.param([sys.executable, str(_FAKE), "{connection_file}", "unbound"], marks=pytest.mark.slow),
        pytest.param([sys.executable, str(_FAKE), "{connection_file}", "silent"], marks=pytest.mark.slow),
    ],
    ids=["sleep", "unbound", "silent"],
)
@pytest.mark.case("K07")
async def test_a_kernel_that_is_never_ready_is_given_up_in_time(
    argv: list[str], start: Start, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    name = kernelspec("broken", argv)
    began = time.monotonic()
    message = await failure(start, name, state_directory, timeout=1)

    assert time.monotonic() - began < 3
    assert "did not answer" in message
    assert "jupyter_timeout" in message


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "",
        "[]",
        "3",
        '{"display_name": "x", "language": "x"}',
        '{"argv": [], "display_name": "x", "language": "x"}',
        '{"argv": [3], "display_name": "x", "language": "x"}',
    ],
)
@pytest.mark.case("K08")
async def test_a_kernelspec_that_is_broken_is_told(
    content: str, start: Start, kernelspec: AddKernelspec, state_directory: Path
) -> None:
    name = kernelspec("broken", content)

    message = await failure(start, name, state_directory)

    assert "'broken' is broken" in message
    assert "kernel.json" in message


@pytest.mark.case("K08")
async def test_a_broken_kernelspec_is_listed_with_its_problem_and_does_not_hide_the_others(
    manager: JupyterManager, kernelspec: AddKernelspec
) -> None:
    kernelspec("broken", "{")
    kernelspec("missing", ["/nowhere/interpreter"])
    kernelspec("empty", '{"display_name": "x", "language": "x"}')

    found = {kernel.name: kernel for kernel in await manager.installed()}

    assert found["python3"].problem is None
    assert "kernel.json" in (found["broken"].problem or "")
    assert "/nowhere/interpreter" in (found["missing"].problem or "")
    assert "argv" in (found["empty"].problem or "")


# Kernels of other languages, and kernels that break the rules


async def test_a_bash_kernel_starts_runs_and_is_interrupted(start: Start, bash_kernelspec: str) -> None:
    kernel = await start(bash_kernelspec)
    assert kernel.language == "bash"

    assert stdout(await run(kernel, "x=5; echo hello $x")) == "hello 5\n"
    assert (await run(kernel, "false")).status == RunStatus.ERROR
    execution = await running(kernel, "echo running; sleep 3600")
    began = time.monotonic()
    assert await kernel.interrupt(execution)
    assert time.monotonic() - began < 3
    assert execution.status == RunStatus.INTERRUPTED
    assert "5" in stdout(await run(kernel, "echo $x", seconds=5))


@pytest.mark.parametrize("behaviour", ["plain", "idle-first", "reply-first", "wrong-parent", "forged"])
async def test_messages_in_any_order_and_of_strangers_do_not_disturb_an_execution(
    behaviour: str, fake: Callable[[str], Awaitable[Kernel]]
) -> None:
    kernel = await fake(behaviour)
    for number in range(1, 3):
        execution = await run(kernel, f"code {number}", seconds=5)

        assert execution.status == RunStatus.OK
        assert execution.execution_count == number
        assert stdout(execution) == f"code {number}"
        assert not execution.output_incomplete


async def test_an_execution_that_ends_twice_ends_once(fake: Callable[[str], Awaitable[Kernel]]) -> None:
    kernel = await fake("twice")
    first = await run(kernel, "one")
    second = await run(kernel, "two")

    assert (first.status, second.status) == (RunStatus.OK, RunStatus.OK)
    await until(lambda: stdout(second) == "twotwo", what="the second output")
    assert stdout(first) == "oneone"


@pytest.mark.parametrize("behaviour", ["no-idle", pytest.param("never-idle", marks=pytest.mark.slow)])
async def test_an_execution_without_idle_ends_and_says_that_output_may_be_missing(
    behaviour: str, fake: Callable[[str], Awaitable[Kernel]]
) -> None:
    kernel = await fake(behaviour)
    execution = await run(kernel, "code", seconds=6)

    assert execution.status == RunStatus.OK
    assert execution.output_incomplete
    assert stdout(execution) == "code"


async def test_an_interrupted_execution_without_reply_ends_with_idle(
    fake: Callable[[str], Awaitable[Kernel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ipykernel loses the reply when the interrupt arrives just before or after the code runs."""
    monkeypatch.setattr(interrupts, "INTERRUPT_PATIENCE", 1.0)
    kernel = await fake("no-reply")
    execution = kernel.submit("code", timeout_seconds=None)
    await until(lambda: "code" in stdout(execution), what="it runs")
    assert await kernel.interrupt(execution)

    assert execution.status == RunStatus.INTERRUPTED
    assert not execution.still_running
    assert kernel.state == KernelState.IDLE


async def test_a_kernel_that_drops_a_request_has_not_run_it(fake: Callable[[str], Awaitable[Kernel]]) -> None:
    kernel = await fake("aborts")

    assert (await run(kernel, "code", seconds=5)).status != RunStatus.OK


async def test_a_kernel_that_stops_answering_can_be_stopped(
    manager: JupyterManager, fake: Callable[[str], Awaitable[Kernel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "INTERRUPT_PATIENCE", 1.0)
    kernel = await fake("stops")
    execution = kernel.submit("code", timeout_seconds=0.2)
    await settled(execution, seconds=7)

    assert execution.status == RunStatus.TIMEOUT
    assert execution.still_running
    began = time.monotonic()
    await manager.stop_kernel(kernel)
    assert time.monotonic() - began < 2


_LOSES_ITS_END = """
import time
kernel = get_ipython().kernel
send, mine = kernel.session.send, kernel.get_parent()["header"]["msg_id"]
def lossy(stream, kind, content=None, parent=None, *rest, **options):
    of = parent["header"]["msg_id"] if parent else None
    if of == mine and (kind == "execute_reply" or (kind == "status" and content["execution_state"] == "idle")):
        return None
    return send(stream, kind, content, parent, *rest, **options)
kernel.session.send = lossy
print("done")
"""


async def test_a_cell_whose_end_the_kernel_never_tells_is_over_all_the_same(kernel: Kernel) -> None:
    """Neither the reply nor `idle` comes: seen when a kernel cannot write what a cell put out."""
    lost = kernel.submit(_LOSES_ITS_END, timeout_seconds=None)
    async with asyncio.timeout(10):
        await lost.settled.wait()
    after = kernel.submit("1 + 1", timeout_seconds=10)
    async with asyncio.timeout(10):
        await after.settled.wait()

    assert (lost.status, error_name(lost), lost.output_incomplete) == (RunStatus.ERROR, "KernelUnresponsive", True)
    assert lost.outputs[0]["text"] == "done\n"
    assert after.status == RunStatus.OK


#: Code after which ipykernel gives no answers, since it cannot flush the streams. Nothing puts them back.
_BREAKS_STREAMS = {
    "none": "import sys; sys.stdout = None",
    "no stderr": "import sys; sys.stderr = None",
    "closed": "import sys\nwith open('log.txt', 'w') as f:\n    sys.stdout = f\n    print('hi')",
    "tee": "import sys\nclass Tee:\n    def write(self, text): sys.__stdout__.write(text)\nsys.stdout = Tee()",
}


@pytest.mark.case("R05")
@pytest.mark.parametrize(
    "kind", ["none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*_BREAKS_STREAMS][1:])]
)
async def test_code_without_an_answer_is_never_called_ok(kind: str, kernel: Kernel, workspace: Path) -> None:
    """The code may have raised, or not have run at all."""
    executions = [
        await run(kernel, code)
        for code in (_BREAKS_STREAMS[kind], "open('ran', 'w').close()", "1/0", "open('ran', 'w').close()")
    ]

    statuses = [execution.status for execution in executions]
    assert set(statuses) <= {RunStatus.OK, RunStatus.ERROR}
    assert statuses[1:] == [RunStatus.ERROR] * 3 or (workspace / "ran").exists()
    assert statuses[2] == RunStatus.ERROR
    assert error_name(executions[2]) in ("KernelUnresponsive", "ZeroDivisionError")


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import time; time.sleep(7)", "import asyncio; await asyncio.sleep(7)"])
async def test_a_cell_that_takes_long_is_not_taken_for_over(code: str, kernel: Kernel) -> None:
    execution = kernel.submit(f"{code}\nprint('end')", timeout_seconds=None)
    async with asyncio.timeout(20):
        await execution.settled.wait()

    assert (execution.status, execution.output_incomplete) == (RunStatus.OK, False)
    assert execution.duration > 6.5
    assert execution.outputs[0]["text"] == "end\n"


async def test_a_kernel_whose_port_another_program_took_starts_with_new_ports(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ gives up a connection to something that is no kernel; then a send fails at once."""
    send, ports = Wire.send, []

    def first_fails(wire: Wire, *arguments: Any, **options: Any) -> str:
        if wire not in ports:
            ports.append(wire)
            if len(ports) == 1:
                raise zmq.Again
        return send(wire, *arguments, **options)

    monkeypatch.setattr(Wire, "send", first_fails)
    kernel = await start()

    assert len(ports) == 2
    assert (await settled(kernel.submit("1", timeout_seconds=10))).status == RunStatus.OK


# Failures of the engine itself


@pytest.mark.parametrize("code", ["x = '\ud800'", "# first line\nx = '\udcff'"], ids=["high", "as bytes"])
async def test_code_that_cannot_be_sent_ends_with_an_error_and_the_next_runs(code: str, kernel: Kernel) -> None:
    """`jupyter_client` refuses half of a surrogate pair, or sends another character in its place."""
    refused = kernel.submit(code, timeout_seconds=10)
    behind = kernel.submit("print('behind')", timeout_seconds=10)
    await settled(refused)
    await settled(behind)

    assert refused.status == RunStatus.ERROR
    assert not refused.still_running
    assert refused.error is not None
    assert refused.error.ename == "UnicodeEncodeError"
    assert f"U+{ord(code[-2]):04X}" in refused.error.evalue
    assert f"line {code.count(chr(10)) + 1} " in refused.error.evalue
    assert refused.error.evalue.isascii()
    assert (behind.execution_count, stdout(behind)) == (1, "behind\n")
    await until(lambda: kernel.state == KernelState.IDLE, what="the kernel is idle")


async def test_a_send_that_fails_ends_one_execution_and_is_logged(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send, failures = Wire.send, [RuntimeError("planted"), zmq.ZMQError(zmq.EHOSTUNREACH)]

    def failing(wire: Wire, channel: Any, msg_type: str, *rest: Any, **options: Any) -> str:
        if msg_type == "execute_request" and failures:
            raise failures.pop(0)
        return send(wire, channel, msg_type, *rest, **options)

    monkeypatch.setattr(Wire, "send", failing)
    first, second, third = (kernel.submit("print('ran')", timeout_seconds=10) for _ in range(3))
    for execution in (first, second, third):
        await settled(execution)

    assert [first.status, second.status, third.status] == [RunStatus.ERROR, RunStatus.ERROR, RunStatus.OK]
    assert first.error is not None
    assert "RuntimeError: planted" in first.error.evalue
    assert "restart the kernel" in first.error.evalue
    assert stdout(third) == "ran\n"
    assert [record.exc_info is not None for record in caplog.records if "could not be run" in record.message] == [
        True,
        True,
    ]
    await until(lambda: kernel.state == KernelState.IDLE, what="the kernel is idle")


async def test_a_listener_that_fails_does_not_hold_an_execution_up(kernel: Kernel) -> None:
    def listener() -> None:
        raise RuntimeError("planted")

    heard = kernel.submit("print('ran')", timeout_seconds=10, on_change=listener)
    await settled(heard)

    assert (heard.status, stdout(heard)) == (RunStatus.OK, "ran\n")
    assert (await run(kernel, "1", seconds=5)).status == RunStatus.OK


async def test_interrupts_that_cannot_be_sent_leave_the_caller_with_a_result(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forbidden(_: KernelProcess) -> None:
        raise PermissionError("planted")

    monkeypatch.setattr(interrupts, "INTERRUPT_PATIENCE", 1.0)
    execution = await running(kernel)
    with monkeypatch.context() as planted:
        planted.setattr(KernelProcess, "interrupt", forbidden)
        assert not await kernel.interrupt(execution)
        assert (execution.status, execution.still_running) == (RunStatus.INTERRUPTED, True)
    assert await kernel.interrupt(execution)

    assert (await run(kernel, "1", seconds=5)).status == RunStatus.OK


async def test_a_kernel_that_cannot_be_asked_for_a_lost_reply_does_not_hold_its_queue_up(
    fake: Callable[[str], Awaitable[Kernel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = await fake("no-reply")
    execution = kernel.submit("code", timeout_seconds=None)
    await until(lambda: "code" in stdout(execution), what="it runs")

    def failing(*_: Any, **__: Any) -> str:
        raise zmq.Again

    monkeypatch.setattr(Wire, "send", failing)
    await settled(execution, seconds=6)

    assert execution.status == RunStatus.ERROR
    assert error_name(execution) == "KernelUnresponsive"
    assert not execution.still_running


async def test_a_kernel_that_cannot_be_asked_to_shut_down_is_ended(
    manager: JupyterManager, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> str:
        raise RuntimeError("planted")

    pid = kernel.pid
    assert pid is not None
    monkeypatch.setattr(Wire, "send", failing)
    await manager.stop_kernel(kernel)

    assert kernel.state == KernelState.STOPPED
    assert await wait_gone([pid], seconds=2) == []


@pytest.mark.parametrize("behaviour", ["broken-output", "broken-reply", "idle-then-broken-reply", "reply-not-json"])
async def test_messages_that_cannot_be_read_harm_no_other(
    behaviour: str, fake: Callable[[str], Awaitable[Kernel]]
) -> None:
    kernel = await fake(behaviour)
    for _ in range(2):
        execution = await run(kernel, "code", seconds=8)

        assert not execution.still_running
        assert stdout(execution) == "code"
        assert execution.status == RunStatus.ERROR
        assert error_name(execution) == ("UnreadableReply" if behaviour == "reply-not-json" else "E")
        lost = "".join(o["text"] for o in execution.outputs if o.get("name") == "stderr")
        assert lost.count("could not read it") == (behaviour == "broken-output")
    await until(lambda: kernel.state == KernelState.IDLE, what="the kernel is idle")


async def test_text_that_is_not_utf_8_is_shown_as_far_as_it_can_be(
    fake: Callable[[str], Awaitable[Kernel]],
) -> None:
    kernel = await fake("not-utf-8")
    execution = await run(kernel, "code", seconds=5)

    assert execution.status == RunStatus.OK
    assert stdout(execution) == "caf\ufffd"
