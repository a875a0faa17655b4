"""Tools for live kernels, and for running a piece of code in one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from papermill_mcp.services.kernel_service import (
    InterruptedKernel,
    KernelList,
    KernelStatus,
    RestartedKernel,
    StartedKernel,
    StoppedKernel,
    StoppedKernels,
    VariableList,
)
from papermill_mcp.services.runs.requests import CodeRequest, InstallRequest, KernelId, KernelPath
from papermill_mcp.services.runs.view import InstallView, RunView
from papermill_mcp.tools.arguments import Executions, IdempotencyKey, Kernels, ReportProgress, Runs, Wait
from papermill_mcp.tools.toolset import INSTALLS, LOOKS_INSIDE, READS, RUNS_CODE, STARTS, STOPS, Toolset

toolset = Toolset("kernel")


@toolset.tool("List kernels", READS)
async def list_kernels(kernels: Kernels) -> KernelList:
    """List the kernels that are installed and those that this server has started."""
    return await kernels.overview()


@toolset.tool("Start a kernel", STARTS)
async def start_kernel(
    kernels: Kernels,
    kernel_name: Annotated[str, Field(description='Which installed kernel. Default "python3".')] = "python3",
    cwd: Annotated[
        str | None, Field(description="Its working directory, inside a root. Default: the workspace.")
    ] = None,
    python: Annotated[
        str | None,
        Field(
            description="Interpreter, virtual or conda environment (a path or a conda name), or project that has one, "
            "instead of kernel_name. Default: that of the project in cwd, else the server's."
        ),
    ] = None,
    env: Annotated[dict[str, str] | None, Field(description="Environment variables on top of the server's.")] = None,
) -> StartedKernel:
    """Start a kernel and wait until it is ready. It keeps its variables until it is stopped.

    execute_notebook starts a notebook's kernel by itself; this is for code of your own.
    """
    return await kernels.start(kernel_name, cwd=cwd, python=python, env=env)


@toolset.tool("Stop a kernel", STOPS)
async def stop_kernel(kernels: Kernels, kernel_id: KernelId = None, path: KernelPath = None) -> StoppedKernel:
    """End a kernel and the processes it started. Its variables are lost."""
    return await kernels.stop(kernels.named(kernel_id, path))


@toolset.tool("Interrupt a kernel", STOPS)
async def interrupt_kernel(kernels: Kernels, kernel_id: KernelId = None, path: KernelPath = None) -> InterruptedKernel:
    """Interrupt the code that runs in a kernel; variables stay. Tells within 5 s what really happened."""
    return await kernels.interrupt(kernels.named(kernel_id, path))


@toolset.tool("Restart a kernel", STOPS)
async def restart_kernel(kernels: Kernels, kernel_id: KernelId = None, path: KernelPath = None) -> RestartedKernel:
    """Give a kernel, busy or dead, a new process under the same id. Variables are lost; what runs ends as aborted."""
    return await kernels.restart(kernels.named(kernel_id, path))


@toolset.tool("Look at a kernel", READS)
async def get_kernel_status(kernels: Kernels, kernel_id: KernelId = None, path: KernelPath = None) -> KernelStatus:
    """Show what a kernel is doing, what it uses, how it ended if it is dead, and output that came late."""
    return await kernels.status(kernels.named(kernel_id, path))


@toolset.tool("Stop all kernels", STOPS)
async def cleanup_all_kernels(kernels: Kernels) -> StoppedKernels:
    """Stop every kernel that this server started, and no other."""
    return await kernels.stop_all()


@toolset.tool("Look at variables", LOOKS_INSIDE)
async def inspect_variables(
    kernels: Kernels,
    kernel_id: KernelId = None,
    path: KernelPath = None,
    pattern: Annotated[str, Field(description='Names, with * and ?. Default "*".', max_length=200)] = "*",
    limit: Annotated[int, Field(ge=1, le=500, description="Variables shown, 1 to 500. Default 50.")] = 50,
    name: Annotated[str | None, Field(description="One variable in depth.", max_length=200)] = None,
    frame: Annotated[
        int | None, Field(ge=0, description="Local variables of the last failure instead: 0 is its innermost frame.")
    ] = None,
) -> VariableList:
    """List the variables in a Python kernel: type, shape or size, preview, columns of tables. Also while it runs."""
    named = kernels.named(kernel_id, path)
    return await kernels.variables(named, pattern=pattern, limit=limit, name=name, frame=frame)


@toolset.tool("Run code", RUNS_CODE, images=True)
async def execute_cell(
    request: CodeRequest,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Run code in a kernel and show what it puts out, plots as images. No notebook is touched.

    Code that raises has status "error". Code that takes longer than wait has status "running": see get_execution.
    """
    return await executions.follow(
        request, lambda: runs.code(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )


@toolset.tool("Install packages", INSTALLS)
async def install_packages(
    request: InstallRequest,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> InstallView:
    """Install Python packages into the environment of a kernel, a notebook or a name, by uv or pip.

    Give exactly one of kernel_id, path and python. A live kernel can import new packages at once.
    """
    view = await executions.follow(
        request, lambda: runs.install(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )
    return InstallView.of(view)
