"""The meaning of requests, and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from papermill_mcp.services.catalogue import NotebookCatalogue
from papermill_mcp.services.comparing import ComparisonService
from papermill_mcp.services.history_service import HistoryService
from papermill_mcp.services.jupyter_server_service import JupyterServerService
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.runs.batches import BatchStarter
from papermill_mcp.services.runs.registry import RunRegistry
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.runs.verifications import VerifyStarter
from papermill_mcp.services.watch import Watch


@dataclass(frozen=True)
class Services:
    """The services of one server, as its lifespan holds them."""

    notebooks: NotebookService
    kernels: KernelService
    executions: RunRegistry
    runs: RunStarter
    batches: BatchStarter
    catalogue: NotebookCatalogue
    jupyter_server: JupyterServerService
    watch: Watch
    verifier: VerifyStarter
    histories: HistoryService
    comparisons: ComparisonService
