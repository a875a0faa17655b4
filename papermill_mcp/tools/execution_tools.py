"""Tools that run notebooks, and tools that follow and end runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from papermill_mcp.services.runs.requests import (
    BatchRequest,
    NotebookCellRequest,
    NotebookRequest,
    PapermillRequest,
    VerifyRequest,
)
from papermill_mcp.services.runs.view import ExecutionList, RunView
from papermill_mcp.tools.arguments import (
    Batches,
    ExecutionId,
    Executions,
    IdempotencyKey,
    ReportProgress,
    Runs,
    Verifier,
    Wait,
)
from papermill_mcp.tools.toolset import READS, RUNS_CODE, RUNS_NOTEBOOKS, STOPS, Toolset

toolset = Toolset("execution")


@toolset.tool("Run a notebook in place", RUNS_NOTEBOOKS, images=True)
async def execute_notebook(
    request: NotebookRequest,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Run the code cells of a notebook in its kernel and save outputs, counts and timings into it.

    The kernel stays alive with its variables, so after a failure the cell can be mended and the run taken up from
    there: cells="7-". For a run with parameters into a new file, use execute_notebook_papermill.
    """
    return await executions.follow(
        request, lambda: runs.notebook(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )


@toolset.tool("Run one cell of a notebook", RUNS_NOTEBOOKS, images=True)
async def execute_notebook_cell(
    request: NotebookCellRequest,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Run one code cell of a notebook in its kernel and save its outputs into it."""
    return await executions.follow(
        request, lambda: runs.notebook_cell(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )


@toolset.tool("Run a notebook with parameters", RUNS_NOTEBOOKS, images=True)
async def execute_notebook_papermill(
    request: PapermillRequest,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Run a notebook with parameters by Papermill: a fresh kernel, a new output notebook; the input stays as it is.

    The output is saved as the run goes on, and kept when it fails.
    """
    return await executions.follow(
        request, lambda: runs.papermill(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )


@toolset.tool("Run a batch of notebooks", RUNS_NOTEBOOKS, images=True)
async def execute_notebook_batch(
    request: BatchRequest,
    batches: Batches,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Run notebooks with many sets of parameters by Papermill, each into its own output; a failed run stops no other.

    It shows the last plots on one sheet, and writes results.csv and report.html for the user. Called again with the
    same arguments, it runs only what is not complete.
    """
    if request.dry_run:
        return await batches.preview(request)
    return await executions.follow(
        request, lambda: batches.batch(request), idempotency_key=idempotency_key, wait=wait, progress=progress
    )


@toolset.tool("Verify a notebook", RUNS_CODE, images=True)
async def verify_notebook(
    request: VerifyRequest,
    verifier: Verifier,
    executions: Executions,
    progress: ReportProgress,
    wait: Wait = None,
) -> RunView:
    """Tell whether a notebook can be believed: run it in a fresh kernel and compare its outputs.

    Times, addresses, progress bars and the like do not count.
    """
    return await executions.follow(request, lambda: verifier.verify(request), wait=wait, progress=progress)


@toolset.tool("Look at an execution", READS, images=True)
async def get_execution(
    execution_id: ExecutionId,
    executions: Executions,
    progress: ReportProgress,
    wait: Annotated[
        float | None,
        Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds to wait for its end, 0 to 3600. Default 0."),
    ] = 0,
    since: Annotated[
        str | None,
        Field(description="The cursor of an earlier reply: show only what is new since then."),
    ] = None,
    runs: Annotated[
        str | None,
        Field(description='Of a batch only: "failed", "running", "queued", or places such as "0-99".'),
    ] = None,
) -> RunView:
    """Show how far an execution is, or how it ended, and what it put out."""
    return await executions.look(execution_id, wait=wait, since=since, runs=runs, progress=progress)


@toolset.tool("List executions", READS)
async def list_executions(
    executions: Executions,
    status: Annotated[
        Literal["queued", "running", "ok", "error", "timeout", "interrupted", "aborted", "died"] | None,
        Field(
            description='Only "queued", "running", "ok", "error", "timeout", "interrupted", "aborted" or "died". '
            "Default: all."
        ),
    ] = None,
    limit: Annotated[int, Field(ge=1, le=500, description="How many, 1 to 500. Default 20.")] = 20,
) -> ExecutionList:
    """List executions, newest first, those of other servers of this workspace included.

    cut_off: the server process ended while it ran. server_pid: another server runs it.
    """
    return await executions.overview(status=status, limit=limit)


@toolset.tool("Cancel an execution", STOPS, images=True)
async def cancel_execution(execution_id: ExecutionId, executions: Executions) -> RunView:
    """Interrupt an execution and wait until it has ended. The kernel and its variables stay.

    If the kernel ignores the interrupt, a note says so. One that is over stays as it is.
    """
    return await executions.cancel(execution_id)
