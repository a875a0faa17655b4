"""The log line and the metrics of each run that is over."""

from __future__ import annotations

import logging

from papermill_mcp.core.runs.snapshot import NotebookSnapshot, PapermillSnapshot, RunSnapshot
from papermill_mcp.observability import Metrics
from papermill_mcp.services.workspace import Workspace

logger = logging.getLogger(__name__)


class Journal:
    """Counts and logs runs. Their durations have no time in a queue."""

    def __init__(self, workspace: Workspace, metrics: Metrics) -> None:
        self._workspace = workspace
        self._metrics = metrics

    def ended(self, run: RunSnapshot) -> None:
        """A run is over, also one in a batch."""
        self._metrics.execution_ended(run.operation, run.kernel_name, run.status, run.seconds)
        if isinstance(run, NotebookSnapshot | PapermillSnapshot):
            self._metrics.notebook_ended(run.operation, run.kernel_name, run.status)
        logger.info(
            "execution ended",
            extra={
                "operation": run.operation,
                **({"path": self._workspace.display_path(run.file)} if run.file else {}),
                "duration": round(run.seconds, 4),
                "outcome": str(run.status),
                "execution_id": run.execution_id,
            },
        )
