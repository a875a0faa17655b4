"""The state of runs as frozen values: all that replies, records, metrics and the log read of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from papermill_mcp.core.kernels.outputs import Output
from papermill_mcp.core.kernels.request import CellError, RunStatus
from papermill_mcp.errors import InvalidArgumentError


@dataclass(frozen=True)
class Cursor:
    """How much a client has seen: ended cells or runs, outputs of the next cell, characters of the last of them."""

    cells: int = 0
    outputs: int = 0
    chars: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The cursor of an earlier reply; the beginning without one.

        Raises:
            InvalidArgumentError: `text` is not a cursor.
        """
        if not text:
            return cls()
        parts = text.split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
            raise InvalidArgumentError(
                f"since {text[:60]!r} is not a cursor", allowed="pass the `cursor` of an earlier reply, or leave it out"
            )
        return cls(*(int(part) for part in parts))

    @classmethod
    def at(cls, cells: int, outputs: Sequence[Output]) -> Self:
        """The cursor after these outputs of the cell behind `cells` ended ones."""
        return cls(cells, len(outputs), len(_stream_text(outputs[-1])) if outputs else 0)

    def __str__(self) -> str:
        return f"{self.cells}.{self.outputs}.{self.chars}"

    def before(self, outputs: Sequence[Output]) -> tuple[int, int]:
        """How many outputs `new_of` leaves out, and how many characters of the first one that it returns."""
        left_out = len(outputs) - len(self.new_of(outputs))
        return left_out, self.chars if self.outputs and left_out == self.outputs - 1 else 0

    def new_of(self, outputs: Sequence[Output]) -> list[Output]:
        """The outputs behind the cursor. Of a stream that has grown, the new text."""
        if not self.outputs or len(outputs) < self.outputs:
            return list(outputs)  # nothing was seen yet, or the outputs were cleared since
        last = outputs[self.outputs - 1]
        text = _stream_text(last)
        grown = [{**last, "text": text[self.chars :]}] if len(text) > self.chars else []
        return [*grown, *outputs[self.outputs :]]


#: Everything was seen: a snapshot since here has totals and no rows.
END = Cursor(cells=10**9)


@dataclass(frozen=True)
class CellState:
    """One cell.

    Attributes:
        index: its place in the notebook; None for code without a notebook.
        duration: seconds; None before it began.
        outputs: those behind the cursor.
        outputs_before: how many are not behind it.
        chars_before: characters of the first of `outputs` that are not behind it.
        pages: help texts that front ends show in a pager.
        dropped_chars, omitted_outputs: output over the limits, which was not kept.
    """

    status: RunStatus
    index: int | None = None
    cell_id: str | None = None
    source: str = ""
    execution_count: int | None = None
    duration: float | None = None
    outputs: Sequence[Output] = ()
    error: CellError | None = None
    outputs_before: int = 0
    chars_before: int = 0
    pages: Sequence[str] = ()
    dropped_chars: int = 0
    omitted_outputs: int = 0


@dataclass(frozen=True)
class CellsState:
    """The cells of a run.

    Attributes:
        done: ended cells, skipped ones included.
        counts: how many cells there are of each outcome (`RunCell.outcome`).
        rows: ended cells behind the cursor, and the running one.
        left_out: older cells behind the cursor that are not among `rows`.
        failed_cell: the last one that failed.
        at: index of the running or failed cell.
        recorded: values that the notebook recorded, by name.
        only: the single cell of a run of one cell.
    """

    total: int
    done: int
    failed: int
    counts: Mapping[str, int] = field(default_factory=dict)
    rows: Sequence[CellState] = ()
    left_out: int = 0
    failed_cell: CellState | None = None
    at: int | None = None
    recorded: Mapping[str, Any] | None = None
    only: CellState | None = None

    def of_one(self, cell: CellState) -> Self:
        """The same for a run of one cell, shown by itself."""
        return replace(self, only=cell, rows=(), failed_cell=None, recorded=None)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The fields of every run.

    Attributes:
        operation: the name of the request, such as `execute_cell`.
        seconds: since the run began, without its time in a queue.
        kernel_id: of a kernel that clients can use; None for a kernel that ends with the run.
        python: the Python and whose choice it was, in a few words; None where it is not known.
        new_kernel: whether nothing had run in its kernel before.
        file, output_file: real paths of the notebook (the first of several) and of the output.
        done, total: cells or runs; None as total when there is nothing to count.
        at: index of the running or failed cell.
        progress: one line for a person.
        cell_limit: seconds that a cell may run; None without a limit.
    """

    kind: ClassVar[str]

    execution_id: str
    operation: str
    status: RunStatus
    started_at: datetime
    seconds: float
    notes: tuple[str, ...] = ()
    kernel_id: str | None = None
    kernel_name: str | None = None
    python: str | None = None
    new_kernel: bool = True
    file: Path | None = None
    output_file: Path | None = None
    done: int | None = None
    total: int | None = None
    at: int | None = None
    progress: str = ""
    cell_limit: float | None = None
    cursor: Cursor = Cursor()

    @property
    def part_done(self) -> float:
        """The `done` of a progress notification: ended parts of the run."""
        return float(self.done or 0)

    @property
    def parts(self) -> float | None:
        """The `total` of a progress notification."""
        return None if self.total is None else float(self.total)


@dataclass(frozen=True, kw_only=True)
class CellSnapshot(Snapshot):
    """Code in a kernel."""

    kind: ClassVar[str] = "cell"

    cell: CellState

    @property
    def part_done(self) -> float:
        """1 when the code is over."""
        return float(self.status.final)

    @property
    def parts(self) -> float | None:
        """1, unless the code waits for the kernel."""
        return None if self.status == RunStatus.QUEUED else 1.0


@dataclass(frozen=True, kw_only=True)
class NotebookSnapshot(Snapshot):
    """A notebook in place. `revision` is that of the last save."""

    kind: ClassVar[str] = "notebook"

    cells: CellsState
    revision: str


@dataclass(frozen=True, kw_only=True)
class PapermillSnapshot(Snapshot):
    """A notebook with parameters. `parameters` are those injected, defaults included.

    Attributes:
        output_url: the output in an object store, once it is there. `output_file` is a copy then.
    """

    kind: ClassVar[str] = "papermill"

    cells: CellsState | None = None
    parameters: Mapping[str, Any]
    revision: str | None = None
    output_url: str | None = None


@dataclass(frozen=True)
class RowState:
    """One run of a batch.

    Attributes:
        duration: seconds without the time in a queue; None before the run began.
        kept: an earlier batch had completed it.
        failed: whether it began and ended badly.
        failed_cell: an index in the output.
        recorded: values that the notebook recorded, large ones cut.
        output_url: the output in an object store, once it is there. `output_file` is a copy then.
    """

    number: int
    status: RunStatus
    kernel_name: str
    parameters: Mapping[str, Any]
    file: Path
    output_file: Path
    duration: float | None = None
    kept: bool = False
    failed: bool = False
    progress: str | None = None
    failed_cell: int | None = None
    error: str | None = None
    recorded: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    output_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSnapshot(Snapshot):
    """A batch. `rows` are the runs that ended behind the cursor, and those under way. `kernel_name`: of all runs, if
    they share it.

    Attributes:
        failed: runs that began and ended badly.
        left_out: ended runs behind the cursor that are not among `rows`.
        several_notebooks: whether the runs differ in their notebook.
        errors: number and error of each run that began and ended badly.
        numbers: number and recorded values of each run that recorded some.
        over: the runs that are over and have an output, where the client is to see all of them.
        table: real path that the table of results has, or gets with the first run that is over.
        report: real path of the report; None before it is written.
        typed_table: real path of the table as Parquet; None without one.
        table_url, report_url: table and report in an object store, once they are there. The files are copies then.
        more_rows: what selects the runs behind `rows`, where a selection has more.
    """

    kind: ClassVar[str] = "batch"

    failed: int
    rows: Sequence[RowState] = ()
    left_out: int = 0
    several_notebooks: bool = False
    errors: Sequence[tuple[int, str]] = ()
    numbers: Sequence[tuple[int, Mapping[str, Any]]] = ()
    over: Sequence[RowState] = ()
    table: Path | None = None
    report: Path | None = None
    typed_table: Path | None = None
    table_url: str | None = None
    report_url: str | None = None
    more_rows: str | None = None


@dataclass(frozen=True)
class PackageState:
    """A package before and after an installation. None: it was not, or is not, there."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class InstallSnapshot(Snapshot):
    """An installation of packages.

    Attributes:
        environment: name and version, for a person. `python` is the path of its interpreter.
        packages: those asked for, and others that changed.
        must_restart: whether a live kernel may still have an earlier version; None before the end.
        lines: how many lines the installer has written.
    """

    kind: ClassVar[str] = "install"

    environment: str
    packages: Sequence[PackageState] = ()
    must_restart: bool | None = None
    error: CellError | None = None
    lines: int = 0

    @property
    def part_done(self) -> float:
        """Lines of the installer, so that each is reported."""
        return float(self.lines)


@dataclass(frozen=True)
class DifferenceState:
    """A difference of outputs: the output, a diff or a sentence, pairs of numbers, and two pictures in base64."""

    what: str
    text: str
    values: Sequence[tuple[str, str]] = ()
    pictures: tuple[tuple[str, str], tuple[str, str]] | None = None


@dataclass(frozen=True)
class VerdictState:
    """The verdict on a cell."""

    index: int
    cell_id: str | None
    verdict: str
    differences: Sequence[DifferenceState] = ()

    @property
    def held(self) -> int:
        """Bytes of the differences in memory."""
        return sum(len(one.text) + sum(len(data) for _, data in one.pictures or ()) for one in self.differences)


@dataclass(frozen=True)
class NotebookVerdict:
    """The verdict on a notebook of a directory.

    Attributes:
        path: as clients name it.
        counts: cells by their verdict.
        text: the first difference, or the reason why it could not be run.
    """

    path: str
    verdict: str
    counts: Mapping[str, int]
    seconds: float
    text: str | None = None
    cells: Sequence[VerdictState] = ()
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class VerifySnapshot(Snapshot):
    """A verification of a notebook, or of those of a directory.

    Attributes:
        against: the outputs that the fresh ones are compared with, for a person.
        verdict: that on the notebook, or the worst one; None before the end.
        counts: cells, or notebooks, by their verdict.
        notebooks: those of a directory that were verified. Their table is `output_file`.
        numeric: whether numbers are compared by their distance.
        revision: of the notebook.
    """

    kind: ClassVar[str] = "verify"

    against: str
    verdict: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    verdicts: Sequence[VerdictState] = ()
    notebooks: Sequence[NotebookVerdict] | None = None
    report_file: Path | None = None
    numeric: bool = False
    revision: str


RunSnapshot = CellSnapshot | NotebookSnapshot | PapermillSnapshot | BatchSnapshot | InstallSnapshot | VerifySnapshot


def _stream_text(output: Output) -> str:
    return str(output.get("text", ""))
