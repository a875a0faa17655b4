"""A notebook run from top to bottom in a fresh kernel, and its outputs compared with saved ones."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import Cursor, DifferenceState, VerdictState, VerifySnapshot
from papermill_mcp.errors import ServerError
from papermill_mcp.services.notebook_service import OpenNotebook
from papermill_mcp.services.pythons import PythonChoice
from papermill_mcp.services.runs.notes import errors_of, run_notes
from papermill_mcp.services.runs.papermill_run import Bench, PapermillPlan
from papermill_mcp.services.runs.requests import VerifyRequest
from papermill_mcp.utils.lazy import imported, lazy
from papermill_mcp.utils.text_utils import cells_named

if TYPE_CHECKING:
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.papermill.code import languages
    from papermill_mcp.core.runs import notebook_run
    from papermill_mcp.core.runs.notebook_run import NotebookRun, RunCell
    from papermill_mcp.core.verification import blanking, cells, hash_order, outputs, texts
    from papermill_mcp.core.verification.blanking import Blank, OutputsOfCells
else:
    blanking = lazy("papermill_mcp.core.verification.blanking")
    cells = lazy("papermill_mcp.core.verification.cells")
    hash_order = lazy("papermill_mcp.core.verification.hash_order")
    languages = lazy("papermill_mcp.core.papermill.code.languages")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")
    outputs = lazy("papermill_mcp.core.verification.outputs")
    texts = lazy("papermill_mcp.core.verification.texts")

#: Seconds up to which a notebook is run again by itself, and doubts that are named otherwise.
_SETTLE_SECONDS = 120.0

#: Hash seeds of the further runs. Small sets have the same order under some of them.
_SEEDS = ("1", "2", "3", "4")

#: Seconds between the beginnings of two runs.
_APART = 1.5

#: Further runs that all show the same as the first one: hashes have no part in it.
_CONVINCING = 3
_SHOWN_DOUBTS = 5

_FRESH = "was stopped at the end of the verification it was started for"

#: The place of the cell with the parameters of the call, which the notebook has not got.
_OF_CALL = -1


@dataclass(frozen=True)
class Reference:
    """The outputs that those of the fresh run are compared with.

    Attributes:
        name: for a person, such as `its saved outputs`.
        cells: by the index of the cell in the notebook that is run, where it has a counterpart.
        document: the whole notebook that has them.
    """

    name: str
    cells: Mapping[int, NotebookCell]
    document: NotebookDocument


@dataclass(frozen=True)
class _Further:
    """Runs that settle doubts.

    Attributes:
        seeds: runs with hash seeds of their own, if that matters.
        control: a run with the seed of the first one.
    """

    seeds: Sequence[Mapping[int, RunCell]]
    control: Mapping[int, RunCell] | None = None

    @property
    def all(self) -> list[Mapping[int, RunCell]]:
        """All of them, the control run at the end."""
        return [*self.seeds, *([self.control] if self.control is not None else [])]


class VerifyRun(BaseRun):
    """One verification. The server writes nothing, but for `update`.

    Args:
        notebook: as it was read, with its outputs.
        plan: how it is run.
        blanks: expressions whose matches do not count.
    """

    def __init__(
        self,
        request: VerifyRequest,
        notebook: OpenNotebook,
        reference: Reference,
        plan: PapermillPlan,
        bench: Bench,
        *,
        blanks: Sequence[Blank] = (),
    ) -> None:
        super().__init__(request.execution_id)
        self._request = request
        self._notebook = notebook
        self._reference = reference
        self._plan = plan
        self._bench = bench
        self._blanks = blanks
        self._kernel: Kernel | None = None
        self._run: NotebookRun | None = None
        self._code: str | None = None
        self._turn = 0
        self._done = (0, 0)  # of the last run, when it is over
        self._doubtful: list[tuple[str, str]] = []
        self._last_began = 0.0
        self._behind: frozenset[int] = frozenset()  # cells behind an exit that the saved run had, too
        self._by_hashes: list[int] = []  # cells with parts that were taken as equal for it
        self._uses_hashes: bool | None = None
        self._verdict: str | None = None
        self._verdicts: list[VerdictState] = []
        self._revision = notebook.revision
        self.notes += plan.warnings

    async def prepare(self) -> None:
        """Start the first kernel.

        Raises:
            BusyError: another run writes to the notebook, which `update` needs.
            KernelStartFailedError, LimitReachedError: there is no kernel for it.
        """
        await imported(notebook_run)
        for module in (cells, hash_order, outputs, texts, blanking, languages):
            await imported(module)
        task = self._plan.task
        if task.parameters:
            writer = languages.writer_for(task.kernel_name, task.language)
            self._code = await asyncio.to_thread(writer.code, dict(task.parameters))
        await blanking.checked(self._blanks)
        if self._request.update:
            await self._bench.claims.take([self._notebook.path], self.execution_id)
        try:
            self._kernel = await self._start(wait=False)
        except BaseException:
            self._release_claims()
            raise

    async def _start(self, *, wait: bool, seed: str | None = None) -> Kernel:
        task, kernels = self._plan.task, self._bench.kernels
        choice = PythonChoice(task.kernel_name, task.environment, task.python)
        async with AsyncExitStack() as stack:
            self.notes += await stack.enter_async_context(kernels.slot(queue=(lambda _: None) if wait else None))
            env = None if seed is None else {"PYTHONHASHSEED": seed}
            return await kernels.launch(choice, cwd=self._notebook.path.parent, env=env, patient=wait)

    async def _work(self) -> RunStatus:
        self._begin()
        request = self._request
        began = datetime.now(UTC)
        fresh: list[dict[int, RunCell]] = []
        status = RunStatus.OK
        try:
            for turn in range(request.repeat):
                self._turn = turn
                run = await self._one()
                status = run.status
                fresh.append({cell.index: cell for cell in run.cells})
                if status != RunStatus.OK or self.cancelled:
                    break
            if self.cancelled:
                return RunStatus.INTERRUPTED
            self._verdicts = await self._compare(fresh, began)
            if len(fresh) == 1 and (status == RunStatus.OK or self._behind) and not self.cancelled:
                await self._settle(fresh, began, status)
        finally:
            if self._kernel is not None:
                await self._bench.kernels.end(self._kernel, _FRESH)
        self._verdict = cells.whole([one.verdict for one in self._verdicts if one.index not in self._behind])
        document = self._reference.document
        self.notes += cells.order_notes(document.cells)
        if request.update:
            await self._update(fresh[0])
        await self._look_again()
        return RunStatus.ERROR if self._verdict == cells.Verdict.FAILS else RunStatus.OK

    async def _settle(self, fresh: Sequence[Mapping[int, RunCell]], began: datetime, status: RunStatus) -> None:
        """Run again, if that does not take long, until each doubt is settled.

        A part that may be measured is, if it is another one in a further run. A part that hashes of strings may decide
        is, if it differs under another hash seed, and is the same in two runs under one.
        """
        hashes = self._may_be_hashes(fresh[0])
        if not self._doubtful and not hashes:
            return
        shown = ", ".join(f"{old.strip()} → {new.strip()}" for old, new in self._doubtful[:_SHOWN_DOUBTS])
        if self._doubtful and self.seconds > _SETTLE_SECONDS:
            self.notes.append(f"taken as measured, or as made anew by each run; repeat=2 settles it: {shown}")
            return
        more: list[Mapping[int, RunCell]] = []
        hashes = hashes or bool(self._uses_hashes)
        for seed in _SEEDS if hashes else (None,):
            run = await self._further(seed, status)
            if run is None:
                break
            more.append(run)
            self._verdicts = await self._compare(fresh, began, _Further(more), hashes=hashes)
            if not self._may_be_hashes(fresh[0], more):
                break
        if not self._by_hashes:
            return
        control = await self._further(_SEEDS[0], status)
        further = _Further(more, control) if control is not None else _Further(more[:1])
        self._verdicts = await self._compare(fresh, began, further, hashes=control is not None)
        if self._by_hashes:
            self.notes.append(
                f"{cells_named(self._by_hashes)} differ in what hashes of strings decide; each process has other ones"
            )

    def _may_be_hashes(self, fresh: Mapping[int, RunCell], more: Sequence[Mapping[int, RunCell]] = ()) -> bool:
        """Whether hashes of strings may be why a cell differs. Runs that all show the same speak against it."""
        if self._plan.task.language.lower() != "python" or self._request.compare == "run":
            return False
        for one in self._verdicts:
            if one.verdict != cells.Verdict.DIFFERS:
                continue
            now = outputs.Outputs.of(fresh[one.index].outputs)
            others = [outputs.Outputs.of(run[one.index].outputs) for run in more if one.index in run]
            if len(others) >= _CONVINCING and all(other == now for other in others):
                continue
            if self._uses_hashes or outputs.in_another_order(outputs.Outputs.of(self._saved_outputs(one.index)), now):
                return True
        return False

    async def _further(self, seed: str | None, status: RunStatus) -> Mapping[int, RunCell] | None:
        """The cells of one more run, under a hash seed; None if it ends otherwise, or there is no time."""
        if self.cancelled or self.seconds > _SETTLE_SECONDS:
            return None
        self._turn += 1
        # A clock that shows seconds must have gone on.
        await asyncio.sleep(max(0.0, self._last_began + _APART - time.monotonic()))
        run = await self._one(seed)
        return {cell.index: cell for cell in run.cells} if run.status == status and not self.cancelled else None

    async def _one(self, seed: str | None = None) -> NotebookRun:
        """Run the notebook once, in a kernel of its own.

        Args:
            seed: that of hashes of strings, in Python.
        """
        kernel = self._kernel or await self._start(wait=True, seed=seed)
        self._kernel = kernel
        bench, task = self._bench, self._plan.task
        timings = await asyncio.to_thread(bench.store.timings, str(self._notebook.path))
        run = self._run = notebook_run.NotebookRun(
            self._cells(timings),
            notebook_run.InPlaceObserver(None),
            timeout_seconds=task.timeout_seconds,
            continue_on_error=False,
            owner=self.execution_id,
            changed=self.changed,
        )
        self.changed()
        if self.cancelled:
            await run.cancel()
        self._last_began = time.monotonic()
        try:
            await run.run(kernel)
            await run.hear_out()
            self.notes += [note for note in run_notes(run, kernel_stays=False) if note not in self.notes]
            self.notes += await bench.kernels.module_notes(kernel, errors_of(run))
        finally:
            self._kernel = None
            await bench.kernels.end(kernel, _FRESH)
            bench.store.put_timings(str(self._notebook.path), run.timings())
        return run

    def _cells(self, timings: Mapping[str, float]) -> list[RunCell]:
        """The cells of a run, with the parameters of the call in place of those that an earlier run put in."""
        found = self._notebook.document.cells
        made = notebook_run.run_cells(found, timings=timings)
        for cell in made:
            marks = cells.Marks.of(found[cell.index])
            cell.skip = cell.skip or marks.skipped
            saved = self._reference.cells.get(cell.index)
            fails = saved is not None and any(
                one.get("output_type") == "error" and not _is_exit(one) for one in saved.outputs
            )
            cell.allow_error = cell.allow_error or marks.raises or fails
        code = self._code
        if code is None:
            return made
        injected = next((cell for cell in made if "injected-parameters" in found[cell.index].tags), None)
        if injected is not None:
            injected.source = code
            return made
        place = next((at for at, cell in enumerate(made) if "parameters" in found[cell.index].tags), None)
        made.insert(0 if place is None else place + 1, notebook_run.RunCell(_OF_CALL, None, code, "parameters"))
        return made

    async def _compare(
        self,
        fresh: Sequence[Mapping[int, RunCell]],
        began: datetime,
        further: _Further | None = None,
        *,
        hashes: bool = True,
    ) -> list[VerdictState]:
        """The verdicts.

        Args:
            fresh: the runs that were asked for.
            further: those that settle doubts.
            hashes: take parts as equal that hashes decide, as `further` shows.
        """
        document = self._notebook.document
        sources = [cell.source for cell in document.cells if cell.cell_type == "code"]
        whole_source = "\n".join(sources)
        if self._uses_hashes is None:
            self._uses_hashes = await asyncio.to_thread(hash_order.uses_hashes, sources)
        request = self._request
        rules = texts.Rules(
            began,
            datetime.now(UTC),
            relative=request.rtol if request.compare == "numeric" else None,
            directories=(str(self._notebook.path.parent), str(Path.home())),
            timed_notebook=bool(texts.TIMERS.search(whole_source)),
            names_process=bool(texts.NAMES_PROCESS.search(whole_source)),
            makes_ids=bool(texts.MAKES_IDS.search(whole_source)),
            only_timed=bool(texts.TIMERS.search(whole_source)) and not texts.BY_CHANCE.search(whole_source),
        )
        runs: list[OutputsOfCells] = [{index: self._saved_outputs(index) for index in fresh[0] if index != _OF_CALL}]
        more = further.all if further is not None else []
        runs += [{index: cell.outputs for index, cell in run.items() if index != _OF_CALL} for run in [*fresh, *more]]
        if self._blanks:
            runs = await blanking.blanked(runs, self._blanks)
        new, settling = runs[1 : len(fresh) + 1], runs[len(fresh) + 1 :]
        has_control = further is not None and further.control is not None

        def others(index: int, found: list[str]) -> outputs.Others:
            """The outputs of a cell in the other runs."""
            again = [outputs.Outputs.of(run.get(index, ())) for run in [*new[1:], *settling]]
            seeds = again[len(new) - 1 :][: len(again) - has_control] if hashes else []
            same = (seeds[0], again[-1]) if has_control and seeds else None
            return outputs.Others(again[0] if again else None, seeds, same, whole_source, found)

        self._by_hashes, self._behind = [], frozenset()
        verdicts = await asyncio.to_thread(self._judged, fresh, runs[0], new, rules, others)
        self._doubtful = rules.doubtful
        return verdicts

    def _saved_outputs(self, index: int) -> Sequence[Mapping[str, Any]]:
        saved = self._reference.cells.get(index)
        return [] if saved is None else saved.outputs

    def _judged(
        self,
        fresh: Sequence[Mapping[int, RunCell]],
        old: OutputsOfCells,
        new: Sequence[OutputsOfCells],
        rules: texts.Rules,
        others: Callable[[int, list[str]], outputs.Others],
    ) -> list[VerdictState]:
        Verdict, found = cells.Verdict, []
        of_call = fresh[0].get(_OF_CALL)
        if of_call is not None and of_call.failed:
            error = of_call.execution.error if of_call.execution is not None else None
            self.notes.append(f"the parameters could not be set: {error.evalue if error is not None else ''}")
        only_run = self._request.compare == "run"
        for index in sorted(old):
            run_cell = fresh[0][index]
            cell = self._notebook.document.cells[index]
            saved = self._reference.cells.get(index)
            differences: list[Any] = []
            if run_cell.passed:
                verdict = Verdict.IGNORED
            elif run_cell.execution is None or run_cell.execution.began is None:
                verdict = Verdict.NOT_RUN
            elif run_cell.failed and run_cell.status != RunStatus.ERROR:
                verdict = Verdict.NEW_ERROR
                error = run_cell.execution.error
                text = f"{error.ename}: {error.evalue}" if error is not None else str(run_cell.status)
                differences = [DifferenceState("error", text)]
            elif saved is None and not only_run and not new[0][index]:
                verdict = Verdict.SAME
            else:
                judged = saved if saved is not None else cell
                parts: list[str] = []
                verdict, differences = cells.judge(
                    judged, old[index], new[0][index], rules, only_run=only_run, others=others(index, parts)
                )
                if parts and verdict == Verdict.SAME:
                    self._by_hashes.append(index)
                if verdict in (Verdict.SAME, Verdict.DIFFERS, Verdict.NEVER_RUN) and not only_run:
                    for other in new[1:]:
                        unlike = cells.unlike(cell, new[0][index], other.get(index, ()), rules)
                        if unlike:
                            verdict, differences = Verdict.FLAKY, unlike
                            break
            found.append(VerdictState(index, cell.cell_id, str(verdict), differences))
        self._look_for_exit(found, fresh[0])
        return found

    def _look_for_exit(self, found: Sequence[VerdictState], fresh: Mapping[int, RunCell]) -> None:
        """Note a cell that ended the run by an exit. Cells behind it that have never run are as they should be."""
        behind = [one.index for one in found if one.verdict == cells.Verdict.NOT_RUN]
        ran = [one for one in found if one.index in fresh and fresh[one.index].execution is not None]
        last = next((one for one in reversed(ran) if one.verdict != cells.Verdict.NOT_RUN), None)
        if not behind or last is None or not any(map(_is_exit, fresh[last.index].outputs)):
            return
        note = f"cell {last.index} ended the run with SystemExit; {cells_named(behind)} behind it did not run"
        told = self._run is not None and self._run.left_at is not None
        if note not in self.notes and not told:
            self.notes.append(note)
        if last.verdict == cells.Verdict.SAME:
            self._behind = frozenset(index for index in behind if self._never_ran(index))

    def _never_ran(self, index: int) -> bool:
        saved = self._reference.cells.get(index)
        return saved is None or (not saved.outputs and saved.member("execution_count") is None)

    async def _update(self, fresh: Mapping[int, RunCell]) -> None:
        """Write the fresh outputs of the cells that differ. A changed file stays as it is, and a note says so."""
        Verdict = cells.Verdict
        wanted = (Verdict.DIFFERS, Verdict.GONE_ERROR, Verdict.NEVER_RUN, Verdict.FLAKY)
        results = {
            one.index: {
                "outputs": fresh[one.index].outputs,
                "execution_count": execution.execution_count,
            }
            for one in self._verdicts
            if one.verdict in wanted and (execution := fresh[one.index].execution) is not None
        }
        if not results:
            self.notes.append("nothing was written: no cell differs")
            return
        if self._verdict == Verdict.FAILS:
            self.notes.append("nothing was written: a cell fails")
            return
        try:
            self._revision = await self._bench.notebooks.put_outputs(
                self._notebook.path, results, replaces=self._notebook.revision
            )
        except ServerError as error:
            self.notes.append(f"the fresh outputs were not written: {error}")
        else:
            self.notes.append(f"wrote the fresh outputs of cells {', '.join(map(str, results))}")

    async def _look_again(self) -> None:
        """A note if the notebook was changed while it was verified."""
        try:
            now = await self._bench.notebooks.revision_of(self._notebook.path)
        except ServerError:
            now = ""
        if now != self._revision:
            self.notes.append(
                f"the notebook was changed meanwhile; the verdict is that of revision {self._notebook.revision}"
            )

    def _release_claims(self) -> None:
        if self._request.update:
            self._bench.claims.release(self.execution_id)

    def _release(self) -> None:
        self._release_claims()
        self._notebook = self._notebook.released()
        self._plan = self._plan.released()
        self._reference = replace(self._reference, cells={}, document=NotebookDocument.new({}))
        self._done = (self._run.done, len(self._run.cells)) if self._run is not None else (0, 0)
        self._run = None

    @property
    def verdict(self) -> str | None:
        """That on the notebook; None before the end."""
        return self._verdict

    @property
    def verdicts(self) -> Sequence[VerdictState]:
        """Those on its cells."""
        return self._verdicts

    @property
    def held(self) -> int:
        """Bytes of differences in memory."""
        return sum(one.held for one in self._verdicts)

    def forget_outputs(self) -> None:
        """Give up the differences. The verdicts stay."""
        super().forget_outputs()
        self._verdicts = [replace(one, differences=()) for one in self._verdicts]

    async def cancel(self) -> None:
        """Interrupt the cell that runs and start no more."""
        if not self.finished:
            self.cancelled = True
            if self._run is not None:
                await self._run.cancel()

    def snapshot(self, since: Cursor) -> VerifySnapshot:
        """The state of the verification."""
        run, request = self._run, self._request
        done, total = (run.done, len(run.cells)) if run is not None else self._done
        progress = run.progress(self.seconds) if run is not None else "starting"
        if request.repeat > 1 or self._turn:
            progress = f"run {self._turn + 1} of {max(request.repeat, self._turn + 1)} · {progress}"
        return VerifySnapshot(
            execution_id=self.execution_id,
            operation=self._request.operation,
            status=self._status,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=tuple(self.notes),
            kernel_name=self._plan.task.kernel_name,
            python=self._plan.task.python,
            file=self._notebook.path,
            done=done,
            total=total or None,
            progress=progress,
            cell_limit=self._plan.task.timeout_seconds,
            cursor=since,
            against=self._reference.name,
            verdict=self._verdict,
            numeric=request.compare == "numeric",
            counts=Counter(str(one.verdict) for one in self._verdicts),
            verdicts=tuple(self._verdicts),
            revision=self._revision,
        )


def _is_exit(output: Mapping[str, Any]) -> bool:
    """Whether an output is that of `sys.exit()`, with which a run ends."""
    return output.get("output_type") == "error" and output.get("ename") == "SystemExit"
