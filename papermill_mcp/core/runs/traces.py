"""Which results in the file of a run are its own, and which are the work of others.

A run knows the result that stood in each of its cells at first, and each that it saved there itself.
Any other result in a cell that has ended was written by another program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from papermill_mcp.core.documents.document import NotebookCell
from papermill_mcp.core.documents.reading import joined

Result = tuple[object, bytes]
"""The execution count of a cell, and a digest of its outputs."""


class Theirs(StrEnum):
    """Changes of others to the result of a cell that had ended."""

    OTHER = "other"
    """They wrote another one."""
    CLEARED = "cleared"
    """They took it out on purpose."""


@dataclass
class _Trace:
    """The results of one cell.

    Attributes:
        before: those that stood there at first.
        ours: those that the run saved.
        cell: the cell as it was saved last; `last` is its result.
        saved: the number of the save that brought the end of the cell; 0 before that.
    """

    before: set[Result] = field(default_factory=set)
    ours: set[Result] = field(default_factory=set)
    cell: NotebookCell | None = None
    last: Result | None = None
    saved: int = 0

    def knows(self, result: Result) -> bool:
        """Whether the result is not the work of others. A program may have dropped the count."""
        count, outputs = result
        return any(outputs == digest and count in (None, known) for known, digest in self.before | self.ours)


class Traces:
    """The results of all cells of a run."""

    def __init__(self) -> None:
        self._of: dict[int, _Trace] = {}
        self._saves = 0

    def stood(self, index: int, cell: NotebookCell) -> None:
        """This result stood in a cell at first. Later ones are ours, or the work of others."""
        if index not in self._of:
            self._of[index] = _Trace({result_of(cell)})

    def saved(self, cells: Mapping[int, NotebookCell], ended: Iterable[int]) -> None:
        """The run has saved these cells; those in `ended` with their last results."""
        self._saves += 1
        for index, cell in cells.items():
            trace = self._of.setdefault(index, _Trace())
            if trace.cell is not cell:
                trace.cell = cell
                trace.last = result_of(cell)
                trace.ours.add(trace.last)
        for index in cells.keys() & set(ended):
            trace = self._of[index]
            trace.saved = trace.saved or self._saves

    def has_saved(self, index: int) -> bool:
        """Whether the last results of a cell have been in the file."""
        return index in self._of and self._of[index].saved > 0

    def last(self, index: int) -> Result | None:
        """The result that was saved last."""
        return self._of[index].last if index in self._of else None

    def replaced(self, index: int, result: Result) -> None:
        """Another save has put this result of ours in."""
        self._of[index].last = result

    def release(self) -> None:
        """Forget all but the last results, after the run."""
        self._of = {index: _Trace(last=trace.last) for index, trace in self._of.items()}

    def judge(
        self, cells: Mapping[int, NotebookCell], timings: Mapping[int, Any], cleared: Iterable[int]
    ) -> dict[int, Theirs]:
        """The cells whose results are the work of others, in a version of the file that another program wrote.

        A result is cleared on purpose if the version comes from one that had it. An older copy never had it.

        Args:
            cells: the cells that have ended, by the indexes of the run.
            timings: what the run recorded as `execution` in their metadata.
            cleared: cells that were cleared in the version before.
        """
        results = {index: result_of(cell) for index, cell in cells.items()}
        age = 0  # the last of our saves that the version comes from
        for index, result in results.items():
            trace = self._of.get(index)
            if trace is not None and (
                (result in trace.ours and result != NOTHING and result not in trace.before)
                or _has_timing(cells[index], timings.get(index))
            ):
                age = max(age, trace.saved)
        found = {}
        for index, result in results.items():
            trace = self._of.setdefault(index, _Trace())
            if result == NOTHING:
                if trace.saved and (index in cleared or trace.saved <= age):
                    found[index] = Theirs.CLEARED
            elif not trace.knows(result):
                found[index] = Theirs.OTHER
        return found


def result_of(cell: NotebookCell) -> Result:
    """The result that stands in a cell."""
    count = cell.member("execution_count")
    return count if isinstance(count, int) else None, digest_of(cell.outputs)


def digest_of(outputs: Iterable[Mapping[str, Any]]) -> bytes:
    """A digest of outputs: the same for each form in which programs save them."""
    plain: list[list[Any]] = []
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            name, text = output.get("name"), joined(output.get("text"))
            if plain and plain[-1][:2] == ["stream", name]:
                plain[-1][2] += text
            else:
                plain.append([kind, name, text])
        elif kind == "error":
            plain.append([kind, output.get("ename"), output.get("evalue"), joined(output.get("traceback"))])
        else:
            data = output.get("data")
            forms = {name: _form(value) for name, value in data.items()} if isinstance(data, Mapping) else None
            plain.append([kind, forms])
    try:
        text = json.dumps(plain, sort_keys=True)
    except (RecursionError, TypeError, ValueError):
        text = "an output that cannot be stored"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


#: The result of a cell that has none.
NOTHING: Result = (None, digest_of([]))


def _form(value: object) -> object:
    """One form of an output. Texts may be lists of lines, with or without a last line end."""
    if isinstance(value, list) and not all(isinstance(line, str) for line in value):
        return value
    return joined(value).rstrip() if isinstance(value, str | list) else value


def _has_timing(cell: NotebookCell, timing: object) -> bool:
    return bool(timing) and cell.metadata.get("execution") == timing
