"""A batch as it stands: one row for each of its runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.services.execution_view import short_values
from papermill_mcp.services.run_service import PapermillPlan
from papermill_mcp.utils.text_utils import count_noun, rough_duration

if TYPE_CHECKING:
    from papermill_mcp.core.cluster import Cluster
    from papermill_mcp.core.notebook_run import RunSummary
    from papermill_mcp.services.execution_service import Execution


@dataclass(eq=False)
class BatchRun:
    """One run of a batch.

    Attributes:
        number: its place in the batch, from 0.
        status: `waiting`, `running`, or how it ended.
        failed_index: the cell that failed, as the output has it.
        recorded: values that the notebook recorded, large ones cut.
        kept: an earlier batch had completed it, so it was not run again.
        execution: the run while it goes on in this process.
    """

    number: int
    plan: PapermillPlan
    output: Path
    output_shown: str
    status: str = "waiting"
    kept: bool = False
    began: float | None = None
    ended: float | None = None
    execution: Execution | None = None
    failed_index: int | None = None
    recorded: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    def take(self, summary: RunSummary, notes: Sequence[str]) -> None:
        """Keep what is to be told of it. The summary itself may be large."""
        self.failed_index, self.error = summary.failed_index, summary.error
        self.recorded = short_values(summary.recorded)
        self.notes = list(notes)

    @property
    def over(self) -> bool:
        """Whether nothing further will happen."""
        return self.status not in ("waiting", "running")

    @property
    def duration(self) -> float | None:
        """Seconds from the start of its kernel on; None before that."""
        return None if self.began is None else (self.ended or time.monotonic()) - self.began


class Batch:
    """The runs of a batch, and in which order they ended.

    Attributes:
        cluster: where the runs go on, if not in this process.
        several_notebooks: whether the runs differ in their notebook.
    """

    def __init__(self, runs: Sequence[BatchRun]) -> None:
        self.runs = list(runs)
        self.ended: list[BatchRun] = []
        self.cancelled = False
        self.cluster: Cluster | None = None
        self.several_notebooks = len({run.plan.notebook.path for run in runs}) > 1

    def begin(self, run: BatchRun) -> None:
        """A run has its turn."""
        run.status, run.began = "running", time.monotonic()

    def end(self, run: BatchRun, status: str) -> None:
        """A run is over."""
        run.status, run.execution = status, None
        if run.began is not None:
            run.ended = time.monotonic()
        self.ended.append(run)

    @property
    def over(self) -> bool:
        """Whether every run is."""
        return len(self.ended) == len(self.runs)

    @property
    def running(self) -> list[BatchRun]:
        """The runs that go on now."""
        return [run for run in self.runs if run.status == "running"]

    @property
    def done(self) -> int:
        """How many runs are over that did begin, or need not."""
        return sum(run.status != "aborted" for run in self.ended)

    @property
    def failed(self) -> list[BatchRun]:
        """The runs that began and ended badly."""
        return [run for run in self.ended if run.status not in ("ok", "aborted")]

    @property
    def status(self) -> str:
        """How the batch as a whole ended."""
        if self.cancelled:
            return "interrupted"
        return "error" if self.failed else "ok"

    def progress(self, seconds: float) -> str:
        """What a person reads while it goes on: `7 of 40 runs · 2 running · 1 failed · 42 s · about 3 min left`."""
        facts = [f"{self.done} of {count_noun(len(self.runs), 'run')}", f"{len(self.running)} running"]
        if self.failed:
            facts.append(f"{len(self.failed)} failed")
        facts.append(f"{seconds:.0f} s")
        left = self._seconds_left()
        if left is not None:
            facts.append(f"about {rough_duration(left)} left")
        return " · ".join(facts)

    def _seconds_left(self) -> float | None:
        """An estimate from the runs that are over; None while there are none."""
        took = [run.duration for run in self.ended if run.duration is not None]
        running = self.running
        if not took or not running:
            return None
        each = sum(took) / len(took)
        waiting = sum(run.status == "waiting" for run in self.runs)
        return (each * waiting + sum(max(0.0, each - (run.duration or 0.0)) for run in running)) / len(running)

    async def cancel(self) -> None:
        """Interrupt what runs and let nothing further begin."""
        self.cancelled = True
        if self.cluster is not None:
            await self.cluster.cancel()
        going = [run.execution.run for run in self.running if run.execution and run.execution.run]
        await asyncio.gather(*(run.cancel() for run in going))

    def settle(self) -> None:
        """Nothing further will begin: what waits now is over."""
        for run in self.runs:
            if not run.over:
                self.end(run, "aborted")
