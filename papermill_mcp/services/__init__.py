"""What a request means, and whether it is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from papermill_mcp.services.batch_service import BatchService
from papermill_mcp.services.execution_service import ExecutionService
from papermill_mcp.services.jupyter_server_service import JupyterServerService
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_catalogue import NotebookCatalogue
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.run_service import RunService


@dataclass(frozen=True)
class Services:
    """The services of one server, as its lifespan holds them."""

    notebooks: NotebookService
    kernels: KernelService
    executions: ExecutionService
    runs: RunService
    batches: BatchService
    catalogue: NotebookCatalogue
    jupyter: JupyterServerService
