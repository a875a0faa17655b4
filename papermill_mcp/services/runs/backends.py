"""The two places where the runs of a batch go on: kernels of this server, and workers of a Dask cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from papermill_mcp.config import Config
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.errors import AlreadyExistsError, ServerError
from papermill_mcp.services.runs.batch import BatchRow
from papermill_mcp.services.runs.papermill_run import Bench, PapermillRun
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.process_stats import available_memory, usable_processors

if TYPE_CHECKING:
    from papermill_mcp.core import papermill_executor as recipes
    from papermill_mcp.core.cluster import client as clusters
    from papermill_mcp.core.cluster.client import Cluster, ClusterTask
    from papermill_mcp.core.papermill_executor import Outcome
    from papermill_mcp.core.runs import notebook_run
else:
    clusters = lazy("papermill_mcp.core.cluster.client")
    recipes = lazy("papermill_mcp.core.papermill_executor")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")

#: Bytes that a kernel is taken to need, where no limit is given.
_KERNEL_BYTES = 200_000_000

#: Seconds a Dask scheduler gets to answer.
_CONNECT_SECONDS = 10.0


class LocalBackend:
    """Kernels of this server. A run waits in line where as many kernels live as may.

    Args:
        memory_limit: bytes of each kernel.
    """

    def __init__(self, config: Config, bench: Bench, *, memory_limit: int | None = None) -> None:
        self._config = config
        self._bench = bench
        self._kernel_bytes = memory_limit or _KERNEL_BYTES
        self._preparing: dict[PapermillRun, asyncio.Task[None]] = {}
        self._performing: set[PapermillRun] = set()
        self._cancelled = False
        self._held = False

    def room(self, wanted: int | None) -> int:
        """As many runs as the client said, else as many as processors and the memory at the beginning bear."""
        return wanted or self._bearable

    @cached_property
    def _bearable(self) -> int:
        by_memory = available_memory() // self._kernel_bytes
        return max(1, min(usable_processors(), self._config.max_kernels, by_memory))

    @property
    def full(self) -> bool:
        """Whether as many kernels live as may."""
        return self._bench.kernels.full

    def note(self) -> str | None:
        """The client knows this place."""
        return None

    async def run(self, row: BatchRow, owner: str) -> Outcome:
        """Run it in a kernel of its own.

        Raises:
            ServerError: the run could not be prepared.
        """
        child = PapermillRun(
            row.template.request_of(row.values, overwrite=row.overwrites),
            row.plan,
            row.output,
            self._bench,
            owner=owner,
        )
        child.changed.connect(lambda: row.follow(child))
        row.child = child
        preparing = self._preparing[child] = asyncio.create_task(child.prepare(queue=True))
        try:
            await preparing
        except asyncio.CancelledError:
            if self._held and not child.begun:
                return _aborted()
            raise
        finally:
            del self._preparing[child]
        child.cancelled = child.cancelled or self._cancelled
        self._performing.add(child)
        try:
            await child.perform()
        finally:
            self._performing.discard(child)
        return child.outcome

    async def revision(self, row: BatchRow) -> str | None:
        """The version of the output as it is now; None if it is not as the run has made it."""
        return await _revision(self._bench, row)

    async def hold(self) -> None:
        """Runs that wait for a kernel never begin; the others end as they would."""
        self._held = True
        for child, preparing in self._preparing.items():
            if not child.begun:
                preparing.cancel()

    async def cancel(self) -> None:
        """Runs that wait for a kernel never begin; the others are interrupted."""
        self._cancelled = True
        await self.hold()
        await asyncio.gather(*(child.cancel() for child in [*self._performing]))

    async def aclose(self) -> None:
        """Each run has given back its kernel."""


class DaskBackend:
    """Workers of a Dask cluster. Each starts the kernel beside itself and sends the output back."""

    def __init__(
        self, config: Config, bench: Bench, cluster: Cluster, resources: Mapping[str, float] | None = None
    ) -> None:
        self._resources = dict(resources or {})
        self._config = config
        self._bench = bench
        self._cluster = cluster
        self._left_out: str | None = None

    @classmethod
    async def connect(cls, config: Config, bench: Bench, resources: Mapping[str, float] | None = None) -> DaskBackend:
        """Connect to the scheduler of the settings.

        Args:
            resources: the Dask resources that each run takes.

        Raises:
            ServerNotRunningError: no scheduler answers there.
        """
        assert config.dask_scheduler is not None
        await imported(clusters)
        seconds = min(config.jupyter_timeout, _CONNECT_SECONDS)
        cluster = await clusters.Cluster.connect(config.dask_scheduler, timeout_seconds=seconds)
        return cls(config, bench, cluster, resources)

    def room(self, wanted: int | None) -> int:
        """By default as many as the cluster has room for, and some that wait there."""
        return wanted or self._cluster.capacity

    @property
    def full(self) -> bool:
        """Each run waits for its worker."""
        return True

    def note(self) -> str | None:
        """The place, and how many runs it takes."""
        if self._cluster.workers:
            place = f"the runs are on a Dask cluster, {self._cluster.workers} at a time"
            return f"{place}; {self._left_out}" if self._left_out else place
        return "the Dask cluster has no workers yet; the runs begin when one comes"

    async def check(self, rows: Iterable[BatchRow]) -> None:
        """Ask the workers whether they meet the needs of the runs, before the first one begins.

        Args:
            rows: one for each template is enough.

        Raises:
            ServerError: every worker lacks something.
        """
        self._left_out = await self._cluster.check([self._task(row, b"") for row in rows])

    def _task(self, row: BatchRow, notebook: bytes) -> ClusterTask:
        return clusters.ClusterTask(
            run=row.plan.into(row.output),
            notebook=notebook,
            start_timeout_seconds=self._config.jupyter_timeout,
            denied_env=tuple(self._config.kernel_env_deny),
            resources=self._resources,
        )

    async def run(self, row: BatchRow, owner: str) -> Outcome:
        """Run it on a worker, and put the output in place.

        Raises:
            ServerError: the run could not be done.
        """
        row.waits_for = "waiting for a Dask worker"
        notebooks = self._bench.notebooks
        before = await notebooks.revision_of(row.output)
        if before and not row.overwrites:
            raise AlreadyExistsError(
                f"{notebooks.display_path(row.output)} exists since the batch was planned",
                state="it stays as it is",
                advice="send the request again: the run gets another output",
            )
        outcome = await self._cluster.run(
            self._task(row, await asyncio.to_thread(lambda: row.template.rendered)),
            on_begin=row.begin,
            on_progress=row.report,
        )
        if not row.begun:
            return _aborted()
        if outcome.output is not None:
            display_path = notebooks.display_path(row.output)
            document = await notebooks.parse(outcome.output, display_path=display_path)
            # The run is over. Its result must not be lost because the batch is cancelled now.
            note = await asyncio.shield(notebooks.put_result(row.output, document, replaces=before))
            if note is not None:
                status = RunStatus.ERROR if outcome.status == RunStatus.OK else outcome.status
                outcome = replace(outcome, status=status, notes=[*outcome.notes, note])
            else:
                revision = await asyncio.to_thread(lambda: revision_of(document.render()))
                outcome = replace(outcome, revision=revision)
        return replace(outcome, output=None)

    async def revision(self, row: BatchRow) -> str | None:
        """The version of the output as it is now; None if it is not as the run has made it."""
        return await _revision(self._bench, row)

    async def hold(self) -> None:
        """Queued runs never begin; those that workers have begun end as they would."""
        await self._cluster.hold()

    async def cancel(self) -> None:
        """Running runs are interrupted on their workers; queued runs never begin."""
        await self._cluster.cancel()

    async def aclose(self) -> None:
        """Disconnect."""
        await self._cluster.aclose()


async def _revision(bench: Bench, row: BatchRow) -> str | None:
    output, outputs = row.output, row.template.outputs
    try:
        if outputs is None or not await asyncio.to_thread(output.exists):
            return ""
        async with bench.notebooks.opened(bench.notebooks.display_path(output)) as (notebook, work):
            found = await work.run(partial(outputs.look, notebook.document, row.values))
            return None if found.changed else notebook.revision
    except ServerError:
        return None


def _aborted() -> Outcome:
    """The outcome of a run that never began."""
    return recipes.Outcome(RunStatus.ABORTED, 0.0, notebook_run.RunSummary(0, 0, None, None, {}), [])
