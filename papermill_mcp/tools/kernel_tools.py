"""Tools for live kernels, and for running a piece of code in one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from papermill_mcp.services.execution_service import ExecutionView
from papermill_mcp.services.kernel_service import KernelList, StartedKernel, StoppedKernel
from papermill_mcp.tools.toolset import (
    READS,
    RUNS_CODE,
    STARTS,
    STOPS,
    Executions,
    KernelId,
    Kernels,
    ReportProgress,
    Timeout,
    Toolset,
    Wait,
)

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
        Field(description="Path of an interpreter or virtual environment with ipykernel, instead of kernel_name."),
    ] = None,
    env: Annotated[dict[str, str] | None, Field(description="Environment variables on top of the server's.")] = None,
) -> StartedKernel:
    """Start a kernel and wait until it is ready. It keeps its variables until it is stopped.

    execute_notebook starts a notebook's kernel by itself; this is for code of your own.
    """
    return await kernels.start(kernel_name, cwd=cwd, python=python, env=env)


@toolset.tool("Stop a kernel", STOPS)
async def stop_kernel(kernel_id: KernelId, kernels: Kernels) -> StoppedKernel:
    """End a kernel and the processes it started. Its variables are lost."""
    return await kernels.stop(kernel_id)


@toolset.tool("Run code", RUNS_CODE, images=True)
async def execute_cell(
    kernel_id: KernelId,
    code: Annotated[str, Field(description="Code in the kernel's language.")],
    executions: Executions,
    progress: ReportProgress,
    timeout: Timeout = None,
    wait: Wait = None,
    store_history: Annotated[
        bool, Field(description="Count it as In [n] and keep it in the kernel's history. Default true.")
    ] = True,
) -> ExecutionView:
    """Run code in a kernel and show what it puts out, plots as images. No notebook is touched.

    Code that raises has status "error". Code that takes longer than wait has status "running": see get_execution.
    """
    return await executions.execute_cell(
        kernel_id, code, timeout=timeout, wait=wait, store_history=store_history, progress=progress
    )
