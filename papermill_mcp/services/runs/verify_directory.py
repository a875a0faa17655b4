"""The notebooks of a directory, verified one after the other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import END, Cursor, NotebookVerdict, VerifySnapshot
from papermill_mcp.errors import ServerError
from papermill_mcp.services.runs.requests import VerifyRequest
from papermill_mcp.services.runs.verify_run import VerifyRun
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from papermill_mcp.services.runs import verify_report
else:
    verify_report = lazy("papermill_mcp.services.runs.verify_report")

#: The verdict on a notebook that could not be run.
REFUSED = "refused"

_BAD = ("fails", REFUSED)


class VerifyDirectoryRun(BaseRun):
    """Verifies each notebook of a directory. A notebook that cannot be run does not stop the others.

    Args:
        paths: the notebooks, as clients name them.
        begin: prepares the verification of one of them.
        results: makes a directory for the table and the report; None if nothing is written.
        memory: a private directory for the table.

    Attributes:
        on_row: called with the verdict on each notebook.
    """

    def __init__(
        self,
        request: VerifyRequest,
        directory: Path,
        paths: Sequence[str],
        begin: Callable[[VerifyRequest], Awaitable[VerifyRun]],
        *,
        results: Callable[[], Path] | None = None,
        memory: Path | None = None,
    ) -> None:
        super().__init__(request.execution_id)
        self._request = request
        self._directory = directory
        self._paths = list(paths)
        self._open = begin
        self._rows: list[NotebookVerdict] = []
        self._current: VerifyRun | None = None
        self._results = results
        self._memory = memory
        self._table: Path | None = None
        self._report: Path | None = None
        self.on_row: Callable[[NotebookVerdict], None] = lambda _: None

    async def _work(self) -> RunStatus:
        self._begin()
        for path in self._paths:
            if self.cancelled:
                return RunStatus.INTERRUPTED
            self._rows.append(await self._one(path))
            self.on_row(self._rows[-1])
            self.changed()
        await self._write()
        if self.cancelled:
            return RunStatus.INTERRUPTED
        return RunStatus.ERROR if any(row.verdict in _BAD for row in self._rows) else RunStatus.OK

    async def _write(self) -> None:
        """Write the table and the report. A failure is a note: the verdicts stand."""
        results = self._results
        if results is None or not self._rows:
            return

        def write() -> tuple[Path, Path]:
            return verify_report.write_results(
                self._rows,
                results(),
                about=self._directory,
                identity=self.execution_id,
                started=self.started_at,
                memory=self._memory,
            )

        try:
            self._table, self._report = await asyncio.to_thread(write)
        except (ServerError, OSError) as error:
            self.notes.append(f"the table and the report could not be written: {error}")

    async def _one(self, path: str) -> NotebookVerdict:
        began = time.monotonic()
        try:
            run = await self._open(self._request.model_copy(update={"path": path}))
        except ServerError as error:
            return NotebookVerdict(path, REFUSED, {}, time.monotonic() - began, str(error), file=self._file(path))
        self._current = run
        run.changed.connect(self.changed)
        try:
            if self.cancelled:
                await run.cancel()
            await run.perform()
        finally:
            self._current = None
        state = run.snapshot(END)
        first = next((one for one in state.verdicts if one.differences), None)
        found = first.differences[0] if first is not None else None
        text = f"cell {first.index}: {found.what}: {found.text}" if first is not None and found is not None else None
        verdict = state.verdict or REFUSED
        if text is None and verdict == REFUSED:
            text = "; ".join(state.notes)
        seconds = time.monotonic() - began
        return NotebookVerdict(path, verdict, state.counts, seconds, text, state.verdicts, state.file)

    def _file(self, path: str) -> Path:
        """The place of a notebook that could not be read, which is only named."""
        return self._directory.joinpath(*Path(path).parts[-1:])

    @property
    def rows(self) -> Sequence[NotebookVerdict]:
        """The notebooks that were verified so far."""
        return self._rows

    @property
    def held(self) -> int:
        """Bytes of differences in memory."""
        return sum(cell.held for row in self._rows for cell in row.cells)

    def forget_outputs(self) -> None:
        """Give up the differences. The verdicts stay."""
        super().forget_outputs()
        self._rows = [replace(row, cells=()) for row in self._rows]

    async def cancel(self) -> None:
        """Interrupt the notebook that runs and start no more."""
        if not self.finished:
            self.cancelled = True
            if self._current is not None:
                await self._current.cancel()

    def snapshot(self, since: Cursor) -> VerifySnapshot:
        """The state of the verification."""
        counts = Counter(row.verdict for row in self._rows)
        order = (REFUSED, "fails", "differs", "never_run", "same")
        now = self._current.snapshot(since) if self._current is not None else None
        place = f"notebook {len(self._rows) + 1} of {len(self._paths)}"
        return VerifySnapshot(
            execution_id=self.execution_id,
            operation=self._request.operation,
            status=self._status,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=tuple(self.notes),
            file=self._directory,
            output_file=self._table,
            report_file=self._report,
            done=len(self._rows),
            total=len(self._paths),
            progress=f"{place} · {now.progress}" if now is not None else place,
            cursor=since,
            against=self._request.against,
            numeric=self._request.compare == "numeric",
            verdict=next((one for one in order if counts[one]), "same") if self.finished else None,
            counts=counts,
            notebooks=tuple(self._rows),
            revision="",
        )
