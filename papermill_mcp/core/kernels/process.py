"""One kernel process: how it is started, watched and ended.

The process gets a session and standard streams of its own: its writes to file descriptors must never reach
ours, which carry the protocol. Its death is seen at once, through a pidfd where the system has them.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session

from papermill_mcp.core.processes import guard
from papermill_mcp.core.processes.child import OutputTail, describe_exit
from papermill_mcp.core.processes.watchdog import Watchdog
from papermill_mcp.errors import KernelStartFailedError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


class _OneSpec(KernelSpecManager):
    """Hands out one kernelspec under every name. Used for an interpreter that has no installed spec."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self._spec = spec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self._spec


class KernelProcess:
    """One incarnation of a kernel: process, ports and key. It is never reused after its end.

    Attributes:
        exited: completes with the exit code (negative: the signal) when the process is gone.
    """

    def __init__(
        self, kernel_name: str, spec: KernelSpec, *, context: zmq.asyncio.Context, runtime: Path, watchdog: Watchdog
    ) -> None:
        self.spec = spec
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.pid: int | None = None
        self._watchdog = watchdog
        self._started = 0
        self._connection_file = str(runtime / f"kernel-{uuid.uuid4().hex}.json")
        self._manager = AsyncKernelManager(
            kernel_name=kernel_name,
            kernel_spec_manager=_OneSpec(spec),
            connection_file=self._connection_file,
            context=context,
            transport="tcp",
            ip="127.0.0.1",
        )
        self._output: OutputTail | None = None
        self._pidfd: int | None = None
        self._poller: asyncio.Task[None] | None = None
        self._closed = False
        self._launch: asyncio.Future[None] | None = None

    @property
    def session(self) -> Session:
        """Signs messages with the key of this incarnation."""
        session: Session = self._manager.session
        return session

    @property
    def ports(self) -> dict[str, Any]:
        """Address and ports, as in a connection file."""
        return dict(self._manager.get_connection_info())

    async def start(self, *, cwd: Path, env: dict[str, str]) -> None:
        """Start the process. It is not ready yet when this returns.

        Raises:
            KernelStartFailedError: the kernelspec's command cannot be executed.
        """
        self._output = output = OutputTail()
        extra = []
        if self.spec.language == "python" and any("ipykernel" in part for part in self.spec.argv):
            # History of an agent's cells does not belong into the user's history file.
            extra.append("--HistoryManager.hist_file=:memory:")
        self._launch = asyncio.ensure_future(
            self._manager.start_kernel(
                cwd=str(cwd),
                env={**env, guard.KERNEL_VARIABLE: self._connection_file},
                extra_arguments=extra,
                stdin=subprocess.DEVNULL,
                stdout=output.write_fd,
                stderr=output.write_fd,
            )
        )
        self._launch.add_done_callback(lambda _: output.close_write())
        try:
            await asyncio.shield(self._launch)  # half a launch could not be cleaned up; `aclose` waits for the whole
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            shown = itertools.takewhile(lambda part: part != "-c", self.spec.argv[:3])  # no script
            command = f"check the command of its kernelspec: {' '.join(shown)}"
            raise KernelStartFailedError(
                f"kernel {self._manager.kernel_name!r} could not be started: {error}",
                state="nothing was started",
                advice="free some space where the state directory is" if full else command,
            ) from error
        self._watch()

    def _watch(self) -> None:
        process = getattr(self._manager.provisioner, "process", None)
        self.pid = getattr(self._manager.provisioner, "pid", None)
        if self.pid is not None:
            self._started = self._watchdog.guard(self.pid)
        if process is not None and sys.platform == "linux":
            try:
                self._pidfd = os.pidfd_open(process.pid)
                asyncio.get_running_loop().add_reader(self._pidfd, self._on_pidfd, process)
                return
            except OSError:
                pass
        self._poller = asyncio.create_task(self._poll(), name="watch kernel process")

    def _on_pidfd(self, process: Any) -> None:
        code = process.poll()
        if code is None:
            return
        self._close_pidfd()
        self._on_exit(code)

    async def _poll(self) -> None:
        provisioner = self._manager.provisioner
        while provisioner is not None:
            try:
                code = await provisioner.poll()
            except Exception:  # its end must be seen all the same
                logger.exception("a kernel process could not be looked at", extra={"pid": self.pid})
                code = None
            if code is not None:
                self._on_exit(code)
                return
            await asyncio.sleep(_POLL_SECONDS)

    def _on_exit(self, code: int) -> None:
        if self._output:
            self._output.drain()
        if not self.exited.done():
            self.exited.set_result(code)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def output_tail(self, limit: int = 2000) -> str:
        """The end of the text on the standard streams of the process, cleaned, at most `limit` characters."""
        return self._output.text(limit) if self._output else ""

    def forget_output(self) -> None:
        """Drop the kept text: messages of a start do not explain a later death."""
        if self._output:
            self._output.forget()

    def exit_description(self) -> str:
        """How the process ended, in words: `exit code 1` or `signal 9 (SIGKILL)`."""
        return describe_exit(self.exited.result()) if self.exited.done() else "still running"

    async def interrupt(self) -> None:
        """Send SIGINT to the process group. For kernelspecs whose interrupt mode is `message`, the caller sends it."""
        if not self.exited.done() and self._manager.provisioner is not None:
            await self._manager.provisioner.send_signal(signal.SIGINT)

    async def wait_exit(self, seconds: float) -> bool:
        """Wait until the process is gone, at most `seconds`. Returns whether it is."""
        if not self.exited.done():
            await asyncio.wait([self.exited], timeout=seconds)
        return self.exited.done()

    async def kill(self) -> list[int]:
        """End the process, its group and its descendants. Returns the pids of survivors, none if all
        is well."""
        if self.pid is not None:
            for _ in range(5):  # processes may fork while they are looked for
                if not await asyncio.to_thread(self._kill_all, self.pid):
                    break
                await asyncio.sleep(0.02)
        elif self._manager.provisioner is not None and self._manager.has_kernel:
            await self._manager.provisioner.kill()
        else:
            return []  # there never was a process
        await self.wait_exit(2)
        if self.pid is None:
            return []
        return await asyncio.to_thread(self._survivors, self.pid)

    def _kill_all(self, pid: int) -> bool:
        tree = guard.kill_tree(pid, self._started)
        return bool(guard.kill_code(self._connection_file) or tree)

    def _survivors(self, pid: int) -> list[int]:
        tree = guard.tree_of(pid, self._started)
        return sorted({row.pid for row in [*tree, *guard.code_of(self._connection_file)]})

    async def aclose(self) -> None:
        """End the process tree and release ports, files and descriptors. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._launch is not None and self.pid is None:
            await asyncio.wait([self._launch])
            if self._launch.exception() is None:
                self._watch()
        survivors = await self.kill()
        if survivors:
            logger.error("processes of a kernel survived their end", extra={"pids": survivors})
        elif self.pid is not None:
            self._watchdog.release(self.pid)
        process = getattr(self._manager.provisioner, "process", None)
        if process is not None and process.returncode is None:
            # Its end was not seen: wait for it here, or it stays in the process table.
            try:
                self._on_exit(await asyncio.to_thread(process.wait, 2))
            except subprocess.TimeoutExpired:
                logger.error("a kernel process did not end", extra={"pid": self.pid})
        if self._poller is not None:
            self._poller.cancel()
        self._close_pidfd()
        if self._output:
            self._output.drain()
            self._output.close()
        try:
            if self._manager.provisioner is not None:
                await self._manager.cleanup_resources()
            else:
                self._manager.cleanup_connection_file()
        except Exception:
            logger.exception("a kernel's files could not be removed")
