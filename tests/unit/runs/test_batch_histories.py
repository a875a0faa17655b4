"""Random histories of batches: however runs end, none is lost, none is counted twice, and table and outputs agree."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.papermill.output import PapermillTask
from papermill_mcp.core.papermill.parameters import NotebookParameters
from papermill_mcp.core.papermill_executor import Outcome
from papermill_mcp.core.runs.notebook_run import RunSummary
from papermill_mcp.core.runs.snapshot import END, Cursor, Snapshot
from papermill_mcp.core.runs.table import ResultsTable
from papermill_mcp.errors import KernelStartFailedError, ServerNotRunningError
from papermill_mcp.services.runs import batch as batches
from papermill_mcp.services.runs.batch import BatchRow, BatchRun
from papermill_mcp.services.runs.batch_report import BatchReports
from papermill_mcp.services.runs.claims import Claims
from papermill_mcp.services.runs.journal import Journal
from papermill_mcp.services.runs.papermill_run import RunInput, RunTemplate
from papermill_mcp.services.runs.requests import RETRY_ON, AttemptEnd, BatchRequest, PapermillRequest
from papermill_mcp.services.workspace import Workspace

#: The ends of an attempt, with the kind of failure that each one is.
_KINDS: dict[str, AttemptEnd | None] = {
    "ok": None,
    "error": "error",
    "timeout": "timeout",
    "died": "died",
    "lost": "lost_worker",
    "start": "error",
    "gone": None,
    "interrupted": None,
}


@dataclass(frozen=True)
class _History:
    """A batch, and the end of each attempt of each run. Behind the last one, an attempt ends well.

    Attributes:
        lost: workers that Dask loses before each end, by run.
        changes: attempts after whose end another program changes the output.
        cancel: the number of attempts after which the batch is cancelled.
    """

    ends: Sequence[Sequence[str]]
    lost: Sequence[int]
    changes: frozenset[tuple[int, int]] = frozenset()
    retries: int = 0
    retry_on: Sequence[AttemptEnd] | None = None
    parallel: int = 1
    cancel: int | None = None
    stop: int | None = None


class _Place:
    """A backend that does as the history says. An attempt writes its number into the output."""

    full = False

    def __init__(self, history: _History) -> None:
        self._history = history
        self.begun: Counter[int] = Counter()
        self.handed: Counter[int] = Counter()
        self.too_late: list[int] = []
        self.at_once = 0
        self._going = 0
        self._ended = 0
        self._held = self._cancelled = False
        self.batch: BatchRun

    def room(self, wanted: int | None) -> int:
        return wanted or 1

    def note(self) -> str | None:
        return None

    async def revision(self, row: BatchRow) -> str | None:
        text = row.output.read_text() if row.output.exists() else ""
        if (row.number, self.handed[row.number]) in self._history.changes:
            row.output.write_text("of a person")
        return text

    async def run(self, row: BatchRow, owner: str) -> Outcome:
        history, number = self._history, row.number
        if self._held:
            self.too_late.append(number)
        self.handed[number] += 1
        self._going += 1
        self.at_once = max(self.at_once, self._going)
        try:
            ends = history.ends[number]
            end = ends[self.handed[number] - 1] if self.handed[number] <= len(ends) else "ok"
            if end == "start":
                raise KernelStartFailedError("no kernel")
            row.waits_for = "a place"
            await asyncio.sleep(0)
            if self._held:
                self.handed[number] -= 1  # it has not begun
                return _outcome("aborted", number)
            for _ in range(1 + history.lost[number]):
                row.begin()
                self.begun[number] += 1
                await asyncio.sleep(0)
            if end == "gone":
                raise ServerNotRunningError("the scheduler is gone")
            if self._cancelled:
                end = "interrupted"
            row.output.write_text(f"{number} {self.begun[number]} {end}")
            return _outcome(end, number)
        finally:
            self._going -= 1
            self._ended += 1
            if self._ended == history.cancel:
                await self.batch.cancel()

    async def hold(self) -> None:
        self._held = True

    async def cancel(self) -> None:
        self._held = self._cancelled = True

    async def aclose(self) -> None: ...


def _outcome(end: str, number: int) -> Outcome:
    if end == "aborted":
        return Outcome(RunStatus.ABORTED, 0.0, RunSummary(0, 0, None, None, {}), [])
    status = RunStatus.DIED if end == "lost" else RunStatus(end)
    error = None if end == "ok" else f"{end} of {number}"
    return Outcome(status, 1.0, RunSummary(1, 1, None, error, {}, None, end), [], lost_worker=end == "lost")


class _Journal:
    """Counts the runs that it is given."""

    def __init__(self) -> None:
        self.ended_runs: list[Snapshot] = []

    def ended(self, run: Snapshot) -> None:
        self.ended_runs.append(run)


def _rows(number: int, directory: Path) -> list[BatchRow]:
    source = directory / "in.ipynb"
    task = PapermillTask(
        parameters={},
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language="python",
        input_path=str(source),
        output_path="",
        display_path="in.ipynb",
        timeout_seconds=None,
        continue_on_error=False,
        report_mode=False,
    )
    notebook = RunInput(source, "in.ipynb", "r", NotebookDocument.new({}))
    known = NotebookParameters(notebook.document, kernel_name="python3", language="python")
    template = RunTemplate(PapermillRequest(input_path="in.ipynb"), notebook, task, known, [])
    rows = [BatchRow(n, template, {"n": n}, directory, f"digest {n}") for n in range(number)]
    for row in rows:
        row.name = f"{row.number}.ipynb"
    return rows


class _NoReports:
    """Has nothing to look at: the outputs of these runs are not made."""

    async def write(self, *_: object) -> Path:
        return Path("report.html")


async def _played(history: _History, directory: Path) -> tuple[BatchRun, _Place, _Journal]:
    """A batch that is over."""
    request = BatchRequest(
        input_path="in.ipynb",
        max_parallel=history.parallel,
        retries=history.retries,
        stop_after_failures=history.stop,
        retry_on=None if history.retry_on is None else list(history.retry_on),
    )
    place, journal, rows = _Place(history), _Journal(), _rows(len(history.ends), directory)
    run = BatchRun(
        request,
        rows,
        place,
        Claims(Workspace([directory])),
        cast(Journal, journal),
        table=ResultsTable(directory, request.execution_id),
        reports=cast(BatchReports, _NoReports()),
    )
    place.batch = run
    run.start()
    async with asyncio.timeout(20):
        await run.wait()
    return run, place, journal


async def _play(history: _History, directory: Path) -> None:
    run, place, journal = await _played(history, directory)
    rows = run.rows
    state = run.snapshot(Cursor())
    table = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    by_number = {row.number: row for row in run.page("0-199").rows}

    assert [row["run"] for row in table] == [*range(len(rows))], "no run is lost, none is there twice"
    assert sorted(by_number) == [*range(len(rows))]
    assert place.at_once <= history.parallel
    assert not place.too_late, "a batch that is cancelled or has stopped begins nothing"
    assert state.failed == len([row for row in table if _failed(row)]) == len(state.errors)
    assert state.done == len([row for row in table if row["attempts"] or row["status"] not in ("aborted", "not_run")])
    logged = Counter(one.output_file for one in journal.ended_runs)
    assert set(logged.values()) <= {1}, "a run is logged once"
    statuses = Counter(row["status"] for row in table)
    if not run.cancelled:
        stopped = history.stop is not None and state.failed >= history.stop
        assert statuses["aborted"] == 0
        assert stopped or not statuses["not_run"]
        assert state.failed <= (history.stop or len(rows)) + history.parallel - 1, "nothing begins after the last"
        assert bool(statuses["not_run"]) == any("did not begin" in note for note in state.notes)
    for row in table:
        _check_row(row, history, place, by_number[row["run"]].notes)
    assert str(state.status) == ("interrupted" if run.cancelled else "error" if state.failed else "ok")


def _check_row(row: dict[str, Any], history: _History, place: _Place, notes: Sequence[str]) -> None:
    """A row against its output, and against the attempts that its run had."""
    number = row["run"]
    ends, handed = history.ends[number], place.handed[number]
    assert row["attempts"] == place.begun[number]
    output = Path(row["output"])
    text = output.read_text() if output.exists() else ""
    changed = text == "of a person"
    if row["text"] is not None and not changed:
        assert text == f"{number} {place.begun[number]} {row['text']}", "the table is of the output that is there"
    kinds = [_KINDS[end] for end in ends[: max(0, handed - 1)]]
    wanted = history.retry_on if history.retry_on is not None else RETRY_ON
    assert all(kind in wanted for kind in kinds), "only such failures are repeated"
    assert handed <= history.retries + 1
    earlier = row.get("earlier_errors", "").split("; ") if "earlier_errors" in row else []
    assert len(earlier) == max(0, handed - 1), "each earlier attempt is named"
    assert [note for note in notes if note.startswith("attempt ")] == earlier
    for end, said in zip(ends, earlier, strict=False):
        assert (end if end != "start" else "no kernel") in said
    last = ends[handed - 1] if 0 < handed <= len(ends) else "ok"
    stopped = history.stop is not None and place.batch.snapshot(END).failed >= history.stop
    over = place.batch.cancelled or stopped or changed or max(handed, place.begun[number]) > history.retries
    assert handed == 0 or over or _KINDS[last] not in wanted, "a failure that is worth an attempt gets it"


def _failed(row: dict[str, Any]) -> bool:
    return row["status"] != "ok" and bool(row["error"])


@st.composite
def _histories(draw: st.DrawFn) -> _History:
    number = draw(st.integers(1, 8))
    ends = [draw(st.lists(st.sampled_from([*_KINDS]), max_size=5)) for _ in range(number)]
    kinds: Any = st.sampled_from([kind for kind in dict.fromkeys(_KINDS.values()) if kind])
    return _History(
        ends=ends,
        lost=[draw(st.sampled_from([0, 0, 0, 1, 3])) for _ in ends],
        changes=draw(st.frozensets(st.tuples(st.integers(0, number - 1), st.integers(1, 3)), max_size=2)),
        retries=draw(st.integers(0, 4)),
        retry_on=draw(st.one_of(st.none(), st.lists(kinds, unique=True))),
        parallel=draw(st.integers(1, 4)),
        cancel=draw(st.one_of(st.none(), st.integers(1, 8))),
        stop=draw(st.one_of(st.none(), st.integers(1, 3))),
    )


@pytest.mark.timeout(120)
@given(_histories())
@example(_History(ends=[["died", "ok"], ["error"], ["lost", "lost"]], lost=[0, 0, 1], retries=3))
@example(_History(ends=[["died"], []], lost=[0, 0], retries=2, cancel=1))
@example(_History(ends=[["error"], ["died"], ["died"], []], lost=[0] * 4, retries=1, stop=2, parallel=2))
@example(_History(ends=[["timeout", "timeout"]], lost=[0], retries=2, changes=frozenset([(0, 1)])))
def test_no_run_is_lost_and_none_is_counted_twice(history: _History) -> None:
    pause = batches._PAUSE
    batches._PAUSE = 0.0
    try:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(_play(history, Path(directory)))
    finally:
        batches._PAUSE = pause


async def test_each_failed_run_of_a_large_batch_is_within_reach(tmp_path: Path) -> None:
    """A page has at most 200 runs, and says what selects the others."""
    failed = [number for number in range(1_200) if number % 3 == 1]
    history = _History([["error"] if number % 3 == 1 else [] for number in range(1_200)], [0] * 1_200, parallel=8)
    run, _, _ = await _played(history, tmp_path)

    first = run.page("failed")
    found = [row.number for row in first.rows]
    more = first.more_rows
    while more is not None:
        page = run.page(more)
        found += [row.number for row in page.rows if row.failed]
        more = page.more_rows
    state = run.snapshot(Cursor())
    assert found == failed
    assert (state.total, state.done, state.failed) == (1_200, 1_200, 400)
    assert {number for number, _ in state.errors} == {*failed}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1_200
