"""Random notebooks under random edits, outside edits, full disks and crashes, held against a list of cells.

After each step the file is the model or the step was answered with CONFLICT or DISK_FULL and the file is the one from
before; cells that a step did not name have the bytes they had; no temporary file stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from styles import STYLES

from dev.fuzz import examples
from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import ConflictError, DiskFullError, PermissionDeniedError
from papermill_mcp.services import notebook_service
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.notebooks.edits import Add, CellRef, NewCell, Update
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils import file_utils

Json = dict[str, Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SOURCE = st.one_of(
    TEXT, st.lists(st.sampled_from(["x = 1", "", "é\u2028", "\ttab", '"q\\']), max_size=5).map("\n".join)
)
KIND = st.sampled_from(["code", "markdown", "raw"])
PLACE = st.integers(0, 2**16)
JSON_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
METADATA = st.dictionaries(TEXT.filter(lambda key: key != "tags"), JSON_VALUE, max_size=3)
OUTPUT = st.fixed_dictionaries(
    {"name": st.just("stdout"), "output_type": st.just("stream"), "text": st.lists(TEXT, max_size=3)}
)


@st.composite
def cells(draw: st.DrawFn) -> list[Json]:
    made: list[Json] = []
    for number in range(draw(st.integers(0, 6))):
        source = draw(SOURCE)
        one: Json = {
            "cell_type": draw(KIND),
            "id": f"id{number}",
            "metadata": draw(METADATA),
            "source": draw(st.sampled_from([source, source.splitlines(True)])),
        }
        if one["cell_type"] == "code":
            one |= {
                "execution_count": draw(st.none() | st.integers(0, 99)),
                "outputs": draw(st.lists(OUTPUT, max_size=2)),
            }
        elif draw(st.booleans()):
            one["unknown"] = draw(JSON_VALUE)
        made.append(one)
    return made


def joined(source: Any) -> str:
    return "".join(source) if isinstance(source, list) else source


class Crash(BaseException):
    """The process ends here: nothing of ours runs any more."""


FAILING = ("open", "write", "fsync", "fchmod", "replace", "link", "close", "stat", "fstat")


@contextlib.contextmanager
def failing(number: int, act: Callable[[], None]) -> Iterator[None]:
    """The n-th system call of a save, counted from 0, does something else instead."""
    count = itertools.count()
    originals = {name: getattr(os, name) for name in FAILING}

    def wrapped(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == number:
                act()
            return originals[name](*arguments, **options)

        return call

    for name in FAILING:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


class Notebooks(RuleBasedStateMachine):
    """One file, its model and its service."""

    @initialize(made=cells(), style=st.sampled_from([name for name in STYLES if "ascii" not in name]))
    def begin(self, made: list[Json], style: str) -> None:
        self.directory = Path(tempfile.mkdtemp()).resolve()
        self.path = self.directory / "n.ipynb"
        self.model = made
        self.metadata: Json = {"language_info": {"name": "python"}}
        notebook = {"cells": made, "metadata": self.metadata, "nbformat": 4, "nbformat_minor": 5}
        self.path.write_bytes(STYLES[style](notebook))
        self.service = NotebookService(Config(roots=[self.directory]), Workspace([self.directory]))
        self.pieces = self._pieces()
        self.outcome = "begun"

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    # What is done

    @rule(place=PLACE, kind=KIND, source=SOURCE, metadata=METADATA)
    def add(self, place: int, kind: Any, source: str, metadata: Json) -> None:
        place %= len(self.model) + 1
        added = self._run(self.service.add_cell("n.ipynb", Add(NewCell(kind, source, (), metadata), index=place)))
        one: Json = {"cell_type": kind, "id": added.cell.id, "metadata": metadata, "source": source}
        if kind == "code":
            one |= {"execution_count": None, "outputs": []}
        self.model.insert(place, one)
        self._check(changed={added.cell.id})

    @precondition(lambda self: self.model)
    @rule(place=PLACE, source=SOURCE, by_id=st.booleans())
    def update(self, place: int, source: str, by_id: bool) -> None:
        place %= len(self.model)
        self._run(self.service.update_cell("n.ipynb", Update(self._ref(place, by_id), source=source)))
        self._set_source(place, source)
        self._check(changed={self.model[place]["id"]})

    @precondition(lambda self: self.model)
    @rule(place=PLACE, by_id=st.booleans())
    def remove(self, place: int, by_id: bool) -> None:
        place %= len(self.model)
        self._run(self.service.remove_cell("n.ipynb", self._ref(place, by_id)))
        del self.model[place]
        self._check(changed=set())

    @precondition(lambda self: self.model)
    @rule(place=PLACE, to=PLACE, metadata=METADATA, source=SOURCE)
    def several(self, place: int, to: int, metadata: Json, source: str) -> None:
        place, to = place % len(self.model), to % len(self.model)
        cell_id = self.model[place]["id"]
        steps: list[Json] = [
            {"op": "move", "cell_id": cell_id, "to": to},
            {"op": "update", "index": to, "source": source},
            {"op": "set_metadata", "metadata": metadata},
            {"op": "set_tags", "index": -1, "tags": ["last"]},
        ]
        self._run(self.service.edit("n.ipynb", steps))
        self.model.insert(to, self.model.pop(place))
        self._set_source(to, source)
        self.metadata = self.metadata | metadata
        last = self.model[-1]
        last["metadata"] = last["metadata"] | {"tags": ["last"]}
        self._check(changed={cell_id, last["id"]})

    @precondition(lambda self: self.model)
    @rule(place=PLACE, kind=KIND)
    def set_type(self, place: int, kind: Any) -> None:
        place %= len(self.model)
        one = self.model[place]
        self._run(self.service.update_cell("n.ipynb", Update(CellRef(index=place), cell_type=kind)))
        if one["cell_type"] != kind:
            if kind == "code":
                one |= {"execution_count": None, "outputs": []}
            elif one["cell_type"] == "code":
                del one["execution_count"], one["outputs"]
            one["cell_type"] = kind
        self._check(changed={one["id"]})

    @precondition(lambda self: self.model)
    @rule(place=PLACE)
    def nothing(self, place: int) -> None:
        place %= len(self.model)
        before = self.path.stat()
        source = joined(self.model[place]["source"])
        edited = self._run(self.service.update_cell("n.ipynb", Update(CellRef(index=place), source=source)))
        assert not edited.changed
        assert self.path.stat().st_mtime_ns == before.st_mtime_ns
        self._check(changed=set())

    @precondition(lambda self: self.model)
    @rule(place=PLACE, source=SOURCE)
    def bad_step(self, place: int, source: str) -> None:
        before = self.path.read_bytes()
        steps: list[Json] = [{"op": "update", "index": place % len(self.model), "source": source + "!"}]
        with contextlib.suppress(Exception):
            self._run(self.service.edit("n.ipynb", [*steps, {"op": "remove", "index": 999}]))
            raise AssertionError("a bad operation was accepted")
        assert self.path.read_bytes() == before

    # What goes wrong

    @precondition(lambda self: self.model)
    @rule(place=PLACE, source=SOURCE, size=st.sampled_from(["same", "other"]))
    def outside_edit(self, place: int, source: str, size: str) -> None:
        """Somebody else saves between our read and our write, keeping size and times if they can."""
        real = file_utils.write_file
        status = self.path.stat()
        theirs = self.path.read_bytes()
        name = self.metadata["language_info"]["name"]
        if size == "same":  # the last in the file: cells may hold the same word
            before, _, after = theirs.rpartition(name.encode())
            theirs = before + name.swapcase().encode() + after
        else:
            theirs += b"\n"

        def write(*arguments: Any, **options: Any) -> Any:
            self.path.write_bytes(theirs)
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))
            return real(*arguments, **options)

        patch = pytest.MonkeyPatch()
        patch.setattr(notebook_service, "write_file", write)
        try:
            self._run(
                self.service.update_cell("n.ipynb", Update(CellRef(index=place % len(self.model)), source=source + "?"))
            )
            raise AssertionError("an outside edit was overwritten")
        except ConflictError:
            assert self.path.read_bytes() == theirs
        finally:
            patch.undo()
        if size == "same":
            self.metadata = self.metadata | {"language_info": {"name": name.swapcase()}}
        self.pieces = self._pieces()
        self._check(changed=set())

    @precondition(lambda self: self.model)
    @rule(place=PLACE, source=SOURCE, number=st.integers(0, 25), code=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def disk_error(self, place: int, source: str, number: int, code: int) -> None:
        def fail() -> None:
            raise OSError(code, os.strerror(code))

        self._faulty_update(place % len(self.model), source, number, fail, crash=False)

    @precondition(lambda self: self.model)
    @rule(place=PLACE, source=SOURCE, number=st.integers(0, 25))
    def crash(self, place: int, source: str, number: int) -> None:
        def end() -> None:
            raise Crash

        self._faulty_update(place % len(self.model), source, number, end, crash=True)

    def _faulty_update(self, place: int, source: str, number: int, act: Callable[[], None], *, crash: bool) -> None:
        """The file is the old or the new version whatever happens on the way."""
        before = self.path.read_bytes()
        document = NotebookDocument.parse(before, display_path="n.ipynb")
        cell_id = self.model[place]["id"]
        update: Json = {"source": source}
        if self.model[place]["cell_type"] == "code" and source != joined(self.model[place]["source"]):
            update |= {"outputs": [], "execution_count": None}
        document.update(place, update)
        after = document.render()
        try:
            with failing(number, act):
                self._run(self.service.update_cell("n.ipynb", Update(CellRef(index=place), source=source)))
            done = True
        except (DiskFullError, PermissionDeniedError, Crash):
            done = False
        now = self.path.read_bytes()
        assert now in (before, after)
        if done:
            assert now == after
        if now == after:
            self._set_source(place, source)
        if crash:  # whoever starts next finds at most a hidden file that nothing reads
            for left in self.directory.glob(".*.tmp"):
                left.unlink()
            self.service = NotebookService(Config(roots=[self.directory]), Workspace([self.directory]))
        self._check(changed={cell_id})

    # What must hold

    @invariant()
    def no_temporary_file_stays(self) -> None:
        if hasattr(self, "directory"):
            assert [file.name for file in self.directory.iterdir()] == ["n.ipynb"]

    def _check(self, changed: set[str | None]) -> None:
        document = NotebookDocument.parse(self.path.read_bytes(), display_path="n.ipynb")
        found = [one.data for one in document.cells]
        assert [plain(one) for one in found] == [plain(one) for one in self.model]
        assert document.metadata == self.metadata
        now = self._pieces()
        for cell_id, piece in now.items():
            if cell_id not in changed and cell_id in self.pieces:
                assert piece == self.pieces[cell_id], "a cell that was not named has other bytes"
        self.pieces = now

    def _pieces(self) -> dict[str | None, bytes]:
        document = NotebookDocument.parse(self.path.read_bytes(), display_path="n.ipynb")
        return {one.cell_id: bytes(one.raw) for one in document.cells}

    def _set_source(self, place: int, source: str) -> None:
        one = self.model[place]
        if joined(one["source"]) == source:
            return
        one["source"] = source
        if one["cell_type"] == "code":
            one |= {"execution_count": None, "outputs": []}

    def _ref(self, place: int, by_id: bool) -> CellRef:
        return CellRef(cell_id=self.model[place]["id"]) if by_id else CellRef(index=place - len(self.model))

    def _run(self, call: Any) -> Any:
        return asyncio.run(call)


def plain(one: Json) -> Json:
    """A cell whose texts are strings, in whatever form the file has them."""
    made = deepcopy(one)
    made["source"] = joined(made["source"])
    for output in made.get("outputs", ()):
        output["text"] = joined(output["text"])
    return made


TestNotebooks = pytest.mark.timeout(300)(pytest.mark.case("B07", "B08", "F09", "N24")(Notebooks.TestCase))
TestNotebooks.settings = settings(examples(40), stateful_step_count=20, suppress_health_check=list(HealthCheck))
