"""Tools that run notebooks, and those that follow and end what runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from papermill_mcp.services.execution_view import BatchView, CancelledExecution, ExecutionList, ExecutionView
from papermill_mcp.tools.toolset import (
    READS,
    RUNS_NOTEBOOKS,
    STOPS,
    Batches,
    ContinueOnError,
    ExecutionId,
    Executions,
    IdempotencyKey,
    NotebookPath,
    ReportProgress,
    Runs,
    StrictParameters,
    Timeout,
    Toolset,
    Wait,
)

toolset = Toolset("execution")


@toolset.tool("Run a notebook in place", RUNS_NOTEBOOKS, images=True)
async def execute_notebook(
    path: NotebookPath,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    kernel_id: Annotated[
        str | None,
        Field(description="Kernel to run in. Default: the notebook's own, started if needed."),
    ] = None,
    cells: Annotated[
        str | None,
        Field(description='Cells to run: "0-9", "3,5,-1", "12-" or cell ids. Default: all.'),
    ] = None,
    timeout: Timeout = None,
    continue_on_error: ContinueOnError = None,
    save: Annotated[bool, Field(description="Save outputs into the notebook as the run goes on. Default true.")] = True,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> ExecutionView:
    """Run the code cells of a notebook in its kernel and save outputs, counts and timings into it.

    The kernel stays alive with its variables, so after a failure the cell can be mended and the run taken up from
    there: cells="7-". For a run with parameters into a new file, use execute_notebook_papermill.
    """
    return await executions.follow(
        "notebook",
        lambda: runs.execute_notebook(
            path, kernel_id=kernel_id, cells=cells, timeout=timeout, continue_on_error=continue_on_error, save=save
        ),
        request=(path, kernel_id, cells, save),
        idempotency_key=idempotency_key,
        wait=wait,
        progress=progress,
    )


@toolset.tool("Run one cell of a notebook", RUNS_NOTEBOOKS, images=True)
async def execute_notebook_cell(
    path: NotebookPath,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    index: Annotated[int | None, Field(description="0-based; negative counts from the end.")] = None,
    cell_id: Annotated[str | None, Field(description="The cell's id, instead of index.")] = None,
    kernel_id: Annotated[
        str | None, Field(description="Kernel to run in. Default: the notebook's own, started if needed.")
    ] = None,
    timeout: Timeout = None,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> ExecutionView:
    """Run one code cell of a notebook in its kernel and save its outputs into it."""
    return await executions.follow(
        "notebook",
        lambda: runs.execute_notebook_cell(path, index=index, cell_id=cell_id, kernel_id=kernel_id, timeout=timeout),
        request=(path, index, cell_id, kernel_id),
        idempotency_key=idempotency_key,
        wait=wait,
        progress=progress,
    )


@toolset.tool("Run a notebook with parameters", RUNS_NOTEBOOKS, images=True)
async def execute_notebook_papermill(
    input_path: NotebookPath,
    runs: Runs,
    executions: Executions,
    progress: ReportProgress,
    output_path: Annotated[
        str | None,
        Field(description="Output notebook (.ipynb). Default: <output_directory>/<name>-<time>.ipynb."),
    ] = None,
    parameters: Annotated[
        dict[str, Any] | None, Field(description="Values for the notebook's parameters, by name.")
    ] = None,
    kernel_name: Annotated[str | None, Field(description="Kernel to use. Default: the one the notebook names.")] = None,
    language: Annotated[
        str | None, Field(description="Language to write parameters in. Default: the notebook's.")
    ] = None,
    timeout: Timeout = None,
    continue_on_error: ContinueOnError = None,
    strict_parameters: StrictParameters = True,
    keep_kernel: Annotated[
        bool, Field(description="After a failure leave the kernel alive, to look at variables. Default false.")
    ] = False,
    report_mode: Annotated[bool, Field(description="Hide the code in the output. Default false.")] = False,
    overwrite: Annotated[bool, Field(description="Replace an output that is there. Default false.")] = False,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> ExecutionView:
    """Run a notebook with parameters by Papermill: a fresh kernel, a new output notebook; the input stays as it is.

    The output is saved as the run goes on, and kept when it fails.
    """
    return await executions.follow(
        "papermill",
        lambda: runs.execute_papermill(
            input_path,
            output_path=output_path,
            parameters=parameters,
            kernel_name=kernel_name,
            language=language,
            timeout=timeout,
            continue_on_error=continue_on_error,
            strict_parameters=strict_parameters,
            keep_kernel=keep_kernel,
            report_mode=report_mode,
            overwrite=overwrite,
        ),
        request=(input_path, output_path, parameters, kernel_name, language),
        idempotency_key=idempotency_key,
        wait=wait,
        progress=progress,
    )


@toolset.tool("Run a batch of notebooks", RUNS_NOTEBOOKS)
async def execute_notebook_batch(
    batches: Batches,
    executions: Executions,
    progress: ReportProgress,
    input_path: Annotated[str | None, Field(description="The notebook to run.")] = None,
    input_paths: Annotated[list[str] | None, Field(description="Several notebooks instead.")] = None,
    parameters: Annotated[list[dict[str, Any]] | None, Field(description="Parameters of each run.")] = None,
    grid: Annotated[
        dict[str, list[Any]] | None, Field(description="Instead: values by name; every combination is a run.")
    ] = None,
    output_directory: Annotated[str | None, Field(description="Default: <output_directory>/<name>-batch.")] = None,
    max_parallel: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="Runs at once, 1 to 1000. Default: one per processor, at most $max_kernels; all on a cluster.",
        ),
    ] = None,
    timeout: Timeout = None,
    continue_on_error: ContinueOnError = None,
    strict_parameters: StrictParameters = True,
    resume: Annotated[bool, Field(description="Keep complete outputs of the same batch. Default true.")] = True,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> BatchView:
    """Run notebooks with many sets of parameters by Papermill, each into its own output; a failed run stops no other.

    Called again with the same arguments, it runs only what is not complete.
    """
    view = await executions.follow(
        "batch",
        lambda: batches.execute(
            input_path,
            input_paths=input_paths,
            parameters=parameters,
            grid=grid,
            output_directory=output_directory,
            max_parallel=max_parallel,
            timeout=timeout,
            continue_on_error=continue_on_error,
            strict_parameters=strict_parameters,
            resume=resume,
        ),
        request=(input_path, input_paths, parameters, grid, output_directory),
        idempotency_key=idempotency_key,
        wait=wait,
        progress=progress,
    )
    return BatchView.of(view)


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
) -> ExecutionView:
    """Show how far an execution is, or how it ended, and what it put out."""
    return await executions.look(execution_id, wait=wait, since=since, progress=progress)


@toolset.tool("List executions", READS)
async def list_executions(
    executions: Executions,
    status: Annotated[
        Literal["running", "ok", "error", "timeout", "interrupted", "aborted", "died"] | None,
        Field(
            description='Only "running", "ok", "error", "timeout", "interrupted", "aborted" or "died". Default: all.'
        ),
    ] = None,
    limit: Annotated[int, Field(ge=1, le=500, description="How many, 1 to 500. Default 20.")] = 20,
) -> ExecutionList:
    """List executions, newest first, those of earlier server processes included.

    cut_off: the server process ended while it ran.
    """
    return await executions.overview(status=status, limit=limit)


@toolset.tool("Cancel an execution", STOPS)
async def cancel_execution(execution_id: ExecutionId, executions: Executions) -> CancelledExecution:
    """Interrupt an execution and wait until it has ended. The kernel and its variables stay.

    If the kernel ignores the interrupt, a note says so. One that is over stays as it is.
    """
    return await executions.cancel(execution_id)
