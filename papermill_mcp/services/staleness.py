"""Which cells of a notebook no longer show what a run from the top would show, by what this server has run itself.

For each cell that ran in place, the digest of its source and the signatures of its inputs are kept in the state
directory, never in the notebook. Nothing is claimed of cells that another program has run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.kernels.request import RunStatus
from papermill_mcp.errors import ServerError
from papermill_mcp.utils.file_utils import read_beginning
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.private import replace_private_file

if TYPE_CHECKING:
    from papermill_mcp.core.kernels.kernel import Kernel
    from papermill_mcp.core.runs import notebook_run
    from papermill_mcp.core.runs.notebook_run import RunCell
    from papermill_mcp.core.staleness import state as names
    from papermill_mcp.core.staleness.state import Inputs, KernelState
else:
    names = lazy("papermill_mcp.core.staleness.state")
    notebook_run = lazy("papermill_mcp.core.runs.notebook_run")

logger = logging.getLogger(__name__)

#: Cells of a notebook whose runs are kept, names of one, and notebooks in memory. Bytes and days of a file.
_MOST_CELLS = 5_000
_MOST_NAMES = 60
_IN_MEMORY = 50
_MAX_BYTES = 20_000_000
_DAYS = 90

#: Runs of one kernel whose inputs are known.
_KNOWN_RUNS = 10_000

STALE = "stale: "

#: Words for what is no name of the code.
_SHOWN = {"*": "a name", "<modules>": "a setting of a module", "<random>": "the state of chance"}
EDITED = "edited since it ran"
NEVER_RUN = "never run"
OTHER_RUN = "its outputs are not those of its last run here"


@dataclass
class _Ran:
    """The last run of a cell.

    Attributes:
        count: its execution count, by which another run is told from it.
        names: the signatures of its inputs; not all of a cell with very many.
    """

    digest: str
    signature: str
    count: int | None
    incarnation: str
    order: int
    names: dict[str, str]


@dataclass
class _Memory:
    """The runs of a notebook, by the id of the cell.

    Attributes:
        failed: signatures of runs that ended with an error.
        preset: names that its kernels began with.
        answer: the last answer, with the revision and the incarnation that it is about.
    """

    cells: dict[str, _Ran] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    preset: set[str] = field(default_factory=set)
    answer: tuple[tuple[str, str | None], StaleCells] | None = None


@dataclass
class _Live:
    """A kernel, as far as its runs were looked at."""

    incarnation: str
    state: KernelState
    inputs: OrderedDict[str, tuple[Inputs, int]] = field(default_factory=OrderedDict)
    failed: set[str] = field(default_factory=set)
    seen: int = 0


@dataclass(frozen=True)
class StaleCells:
    """The cells that are not as a run from the top would have them.

    Attributes:
        marks: a few words for each, by index.
        elsewhere: indexes of cells that have not run in the present kernel.
        known: whether anything is known of the notebook.
    """

    marks: Mapping[int, str]
    elsewhere: frozenset[int] = frozenset()
    known: bool = True


class Staleness:
    """Remembers runs of cells. Its methods read and write files: call them in a worker thread.

    Args:
        directory: a private directory. Without it, nothing outlives the process.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._memories: OrderedDict[Path, _Memory] = OrderedDict()
        self._live: WeakKeyDictionary[Kernel, _Live] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def ran(self, kernel: Kernel, path: Path, cells: Sequence[RunCell]) -> None:
        """Remember the cells of a run in place that is over."""
        with self._lock:
            live = self._look_at(kernel)
            if live is None:
                return
            memory = self._memory(path)
            for cell in cells:
                execution, cell_id = cell.execution, cell.cell_id
                known = live.inputs.get(execution.msg_id) if execution is not None else None
                if execution is None or cell_id is None or known is None:
                    continue
                inputs, order = known
                kept = dict(list(inputs.names.items())[:_MOST_NAMES])
                digest = notebook_run.source_digest(cell.source)
                count = execution.execution_count
                memory.cells.pop(cell_id, None)
                memory.cells[cell_id] = _Ran(digest, inputs.signature, count, live.incarnation, order, kept)
            memory.failed, memory.answer = {*memory.failed, *live.failed}, None
            memory.preset |= live.state.preset
            for cell_id in list(memory.cells)[: max(0, len(memory.cells) - _MOST_CELLS)]:
                del memory.cells[cell_id]
            self._save(path, memory)

    def stale(
        self,
        path: Path,
        document: NotebookDocument,
        kernel: Kernel | None = None,
        *,
        revision: Callable[[], str] | None = None,
    ) -> StaleCells:
        """The cells of a notebook that are not as a run from the top would have them. None where nothing is known.

        Args:
            kernel: the present one of the notebook.
            revision: that of the document, if it is as the file has it. Then the last answer may do.
        """
        if document.nbformat < 4 or (document.language or "python") not in ("python", "ipython"):
            return StaleCells({}, known=False)
        with self._lock:
            memory = self._memory(path)
            if not memory.cells:
                return StaleCells({}, known=False)
            incarnation = kernel.incarnation if kernel is not None and kernel.alive else None
            asked = None if revision is None else (revision(), incarnation)
            if asked is not None and memory.answer is not None and memory.answer[0] == asked:
                return memory.answer[1]
            document.read_ahead()
            found = self._compared(document.cells, memory, incarnation)
            if asked is not None:
                memory.answer = asked, found
            return found

    def to_run(self, path: Path, document: NotebookDocument, kernel: Kernel | None) -> list[int] | None:
        """The cells that have to run so that each is as after a run from the top. None: nothing is known.

        Besides the stale ones and those that have not run in the kernel, these are cells whose values were overwritten
        there.

        Args:
            kernel: in which they will run; None for a new one.
        """
        found = self.stale(path, document, kernel)
        if not found.known:
            return None
        chosen = set(found.marks) | found.elsewhere
        if kernel is None or not chosen:
            return sorted(chosen)
        with self._lock:
            live = self._look_at(kernel)
            memory = self._memory(path)
            if live is None:
                return sorted(chosen)
            sources = [cell.source if cell.cell_type == "code" else None for cell in document.cells]
            failed = {*memory.failed, *live.failed}.__contains__
            wanted = names.expected(sources, failed, memory.preset | live.state.preset)
            while more := _lacking(chosen, sources, wanted, live.state.copy(), failed) - chosen:
                chosen |= more
        return sorted(chosen)

    def follow(self, old: Path, new: Path) -> list[str]:
        """Take the memory of a notebook to its new place."""
        with self._lock:
            memory = self._memory(old)
            self._memories.pop(old, None)
            if memory.cells:
                self._memories[new] = memory
                self._save(new, memory)
        return []

    def _look_at(self, kernel: Kernel) -> _Live | None:
        """Take the runs of a kernel into account that ended since the last look. None where its state is not known."""
        if kernel.language != "python":
            return None
        live = self._live.get(kernel)
        if live is None or live.incarnation != kernel.incarnation:
            live = self._live[kernel] = _Live(kernel.incarnation, names.KernelState())
        for run in kernel.runs_since(live.seen):
            live.seen += 1
            failed = run.status == RunStatus.ERROR
            inputs = live.state.run(
                run.code,
                certain=failed or run.status == RunStatus.OK,
                failed=lambda _: failed,  # noqa: B023
                missed=lambda _, name: name == run.missed,  # noqa: B023
            )
            if failed:
                live.failed.add(inputs.signature)
            live.inputs[run.msg_id] = (inputs, live.seen)
            if len(live.inputs) > _KNOWN_RUNS:
                live.inputs.popitem(last=False)
        kernel.forget_runs(live.seen)
        return live

    def _compared(self, cells: Sequence[NotebookCell], memory: _Memory, incarnation: str | None) -> StaleCells:
        sources = [cell.source if cell.cell_type == "code" else None for cell in cells]
        wanted = names.expected(sources, memory.failed.__contains__, memory.preset)
        known = {index: ran for index, cell in enumerate(cells) if (ran := memory.cells.get(cell.cell_id or ""))}
        marks: dict[int, str] = {}
        elsewhere: set[int] = set()
        for index, one in enumerate(wanted):
            if one is None:
                continue
            ran, cell = known.get(index), cells[index]
            count = cell.member("execution_count")
            if ran is None:  # another program has run it, if any
                elsewhere.add(index)
                if count is None and not cell.output_count:
                    marks[index] = NEVER_RUN
                continue
            if count is not None and count != ran.count:  # of another program, or of an older version
                elsewhere.add(index)
                marks[index] = OTHER_RUN
                continue
            if ran.incarnation != incarnation:
                elsewhere.add(index)
            if ran.digest != notebook_run.source_digest(cell.source):
                marks[index] = EDITED
            elif ran.signature != one.signature:
                marks[index] = self._reason(index, one, ran, known, marks)
        return StaleCells(marks, frozenset(elsewhere))

    @staticmethod
    def _reason(index: int, one: Inputs, ran: _Ran, known: Mapping[int, _Ran], marks: Mapping[int, str]) -> str:
        """Why a cell is stale: the first name with another value, and the cell that has to do with it."""
        changed = [name for name, value in one.names.items() if ran.names.get(name) != value]
        for name in changed:
            writer = one.writers.get(name)
            if writer is None:
                continue
            shown = _SHOWN.get(name, name)
            other = known.get(writer)
            if other is None:
                return f"{STALE}{shown} comes from cell {writer}, which has not run"
            if writer in marks:
                return f"{STALE}{shown} changed in cell {writer}"
            if other.incarnation == ran.incarnation and other.order > ran.order:
                return f"{STALE}ran before cell {writer}, which sets {shown}"
        if changed and changed[0] != names.ANY:
            return f"{STALE}{_SHOWN.get(changed[0], changed[0])} had another value when it ran"
        return f"{STALE}it ran in another order"

    def _memory(self, path: Path) -> _Memory:
        memory = self._memories.pop(path, None)
        if memory is None:
            memory = self._loaded(path)
        self._memories[path] = memory
        while len(self._memories) > _IN_MEMORY:
            self._memories.popitem(last=False)
        return memory

    def _file(self, path: Path) -> Path | None:
        if self._directory is None:
            return None
        return self._directory / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"

    def _loaded(self, path: Path) -> _Memory:
        file = self._file(path)
        text = read_beginning(file, _MAX_BYTES) if file is not None else None
        try:
            found: Any = json.loads(text) if text else {}
            cells = {str(cell_id): _Ran(**ran) for cell_id, ran in found.get("cells", {}).items()}
            failed, preset = (set(map(str, found.get(key, ()))) for key in ("failed", "preset"))
            return _Memory(cells, failed, preset) if found.get("path") == str(path) else _Memory()
        except (ValueError, TypeError, AttributeError):
            return _Memory()

    def _save(self, path: Path, memory: _Memory) -> None:
        file = self._file(path)
        if file is None or self._directory is None:
            return
        used = {ran.signature for ran in memory.cells.values()}
        failed = sorted(memory.failed & used) + sorted(memory.failed - used)[:_MOST_CELLS]
        whole = {
            "path": str(path),
            "cells": {cell_id: asdict(ran) for cell_id, ran in memory.cells.items()},
            "failed": failed,
            "preset": sorted(memory.preset)[:_MOST_CELLS],
        }
        try:
            if not file.exists():
                self._tidy()
            # The reply to a run of a cell waits for this. After a power cut less is known, and nothing wrong.
            replace_private_file(file, json.dumps(whole, ensure_ascii=True).encode(), flush=False)
        except (OSError, ServerError) as error:
            logger.warning("runs of cells are not remembered", extra={"error": str(error)})

    def _tidy(self) -> None:
        """Remove what was not used for a long time."""
        assert self._directory is not None
        oldest = time.time() - _DAYS * 86_400
        for file in self._directory.glob("*.json"):
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)


def _lacking(
    chosen: Set[int],
    sources: Sequence[str | None],
    wanted: Sequence[Inputs | None],
    state: KernelState,
    failed: Callable[[str], bool],
) -> set[int]:
    """The cells whose values the chosen ones need, and would not find in this state."""
    lacking: set[int] = set()
    for index in sorted(chosen):
        source, one = sources[index], wanted[index]
        if source is None or one is None:
            continue
        inputs = state.run(source, failed=failed)
        for name, value in one.names.items():
            if inputs.names.get(name) != value and (writer := one.writers.get(name)) is not None:
                lacking.add(writer)
    return lacking
