"""The types of the arguments of tools: services, which the SDK resolves, and arguments that several tools take."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from papermill_mcp.services import Services
from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.comparing import ComparisonService
from papermill_mcp.services.history_service import HistoryService
from papermill_mcp.services.jupyter_server_service import JupyterServerService
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.results import Progress
from papermill_mcp.services.runs.batches import BatchStarter
from papermill_mcp.services.runs.edit_run import EditRunner
from papermill_mcp.services.runs.registry import RunRegistry
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.runs.verifications import VerifyStarter


# How services arrive. `async`, since the SDK would give a plain function a worker thread.
async def _notebooks(ctx: Context[Services]) -> NotebookService:
    return ctx.request_context.lifespan_context.notebooks


async def _catalogue(ctx: Context[Services]) -> NotebookCatalogue:
    return ctx.request_context.lifespan_context.catalogue


async def _histories(ctx: Context[Services]) -> HistoryService:
    return ctx.request_context.lifespan_context.histories


async def _comparisons(ctx: Context[Services]) -> ComparisonService:
    return ctx.request_context.lifespan_context.comparisons


async def _kernels(ctx: Context[Services]) -> KernelService:
    return ctx.request_context.lifespan_context.kernels


async def _executions(ctx: Context[Services]) -> RunRegistry:
    return ctx.request_context.lifespan_context.executions


async def _runs(ctx: Context[Services]) -> RunStarter:
    return ctx.request_context.lifespan_context.runs


async def _edit_runner(ctx: Context[Services]) -> EditRunner:
    services = ctx.request_context.lifespan_context
    return EditRunner(services.runs, services.executions, ctx.report_progress)


async def _batches(ctx: Context[Services]) -> BatchStarter:
    return ctx.request_context.lifespan_context.batches


async def _verifier(ctx: Context[Services]) -> VerifyStarter:
    return ctx.request_context.lifespan_context.verifier


async def _jupyter_server(ctx: Context[Services]) -> JupyterServerService:
    return ctx.request_context.lifespan_context.jupyter_server


async def _progress(ctx: Context[Services]) -> Progress:
    return ctx.report_progress


Notebooks = Annotated[NotebookService, Resolve(_notebooks)]
Catalogue = Annotated[NotebookCatalogue, Resolve(_catalogue)]
Histories = Annotated[HistoryService, Resolve(_histories)]
Comparisons = Annotated[ComparisonService, Resolve(_comparisons)]
Kernels = Annotated[KernelService, Resolve(_kernels)]
Executions = Annotated[RunRegistry, Resolve(_executions)]
Runs = Annotated[RunStarter, Resolve(_runs)]
Batches = Annotated[BatchStarter, Resolve(_batches)]
Verifier = Annotated[VerifyStarter, Resolve(_verifier)]
JupyterServer = Annotated[JupyterServerService, Resolve(_jupyter_server)]
EditRuns = Annotated[EditRunner, Resolve(_edit_runner)]
ReportProgress = Annotated[Progress, Resolve(_progress)]

ExecutionId = Annotated[str, Field(description="An execution_id from an earlier reply.")]
IfRevision = Annotated[
    str | None,
    Field(description="Write only if the file has this revision, else CONFLICT."),
]
Tags = Annotated[list[str] | None, Field(description='Cell tags, such as "parameters".')]
# A `$name` in a description is the setting of that name; `_described` puts its value in.
Wait = Annotated[
    float | None,
    Field(
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds until the answer is `running`, 0 to 3600. Default: as set ($response_wait).",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Field(description="Your key: a request repeated with it runs once.", min_length=1, max_length=200),
]

CellType = Annotated[Literal["code", "markdown", "raw"], Field(description='"code", "markdown" or "raw".')]
NewCellType = Annotated[
    Literal["code", "markdown", "raw"], Field(description='"code", "markdown" or "raw". Default "code".')
]
CellId = Annotated[str | None, Field(description="Id of the cell. Give this or index.")]
CellIndex = Annotated[int | None, Field(description="Index of the cell, 0-based; negative counts from the end.")]
RunIt = Annotated[bool, Field(description="Run it at once, as execute_notebook_cell. Default false.")]
Overwrite = Annotated[bool, Field(description="Replace a notebook that is there. Default false.")]
Directory = Annotated[str, Field(description='Directory, as for path. Default ".", the workspace.')]


class CellToMake(TypedDict):
    """A cell of a new notebook."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    source: str
    cell_type: NotRequired[CellType]
    tags: NotRequired[list[str]]
    metadata: NotRequired[dict[str, Any]]
    cell_id: NotRequired[str]


class EditOperation(TypedDict):
    """`op` and its fields."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    op: Literal[
        "add",
        "update",
        "replace_text",
        "remove",
        "move",
        "set_type",
        "set_tags",
        "clear_outputs",
        "set_metadata",
        "add_ids",
        "convert",
        "rename",
        "copy",
    ]
    cell_id: NotRequired[str]
    index: NotRequired[int]
    after_cell_id: NotRequired[str]
    to: NotRequired[int | str]
    cell_type: NotRequired[Literal["code", "markdown", "raw"]]
    source: NotRequired[str]
    old_text: NotRequired[str]
    new_text: NotRequired[str]
    all: NotRequired[bool]
    word: NotRequired[bool]
    tags: NotRequired[list[str]]
    metadata: NotRequired[dict[str, Any]]
