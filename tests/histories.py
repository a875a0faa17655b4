"""Random histories of a notebook under a run and other writers, and the checks that hold for each of them.

A history is data: a notebook, a kind of run, steps and an end. It is played on a scripted kernel in this process, or
on a real server with a real kernel. Hypothesis makes histories and shrinks those that fail.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from helpers import Json, joined
from hypothesis import strategies as st

#: Sources of code cells. There are few, so that cells are alike.
SOURCES = ("from step import step\nstep()", "from step import step\nstep()  # again", "import step\nstep.step()")
TEXTS = ("# Title", "words")

#: How a cell may end. `show`: it puts an error out, and the kernel says that it went well.
OUTCOMES = ("ok", "error", "show", "exit", "die")
ENDS = ("complete", "complete", "cancel", "stop", "stop at the last save", "kill")
KINDS = ("in place", "one cell", "papermill", "resumed")
CHANGES = ("insert", "copy", "remove", "source", "tags", "metadata", "move", "type", "notebook", "clear", "rerun")
FILES = ("old copy", "delete", "rename", "break", "mend")
WRITERS = ("tool", "second server", "in place", "replace", "checkout")

_MARKER_TAG = "papermill-error-cell-tag"
_KEPT = re.compile(r"kept in (\S+\.ipynb)")
_CLEARED = re.compile(r"others have cleared cells? ([\d, ]+), which")
_TOKEN = re.compile(r"<R\d+>")
_WORD = re.compile(r"<W\d+>")

#: A time in the metadata of a cell that is there once the result of its end is saved.
_REPLY = "shell.execute_reply"


@dataclass(frozen=True)
class Step:
    """One step: `what` is `output`, `finish`, `save`, `change`, `race` (a change within the next write) or `fault`."""

    what: str
    name: str = ""
    writer: str = ""
    at: int = 0
    to: int = 0


@dataclass(frozen=True)
class History:
    """A notebook, a run of it, and all that happens meanwhile.

    Attributes:
        ids: `unique`, `none` (nbformat 4.4), or `doubled`.
        cells: the type and the number of the source of each cell.
    """

    cells: tuple[tuple[str, int], ...]
    ids: str
    kind: str
    continues: bool
    steps: tuple[Step, ...]
    end: str

    def notebook(self) -> Json:
        """The notebook before the run."""
        made = []
        for number, (cell_type, source) in enumerate(self.cells):
            one: Json = {"cell_type": cell_type, "metadata": {}}
            if cell_type == "code":
                one |= {"source": SOURCES[source % len(SOURCES)], "outputs": [], "execution_count": None}
            else:
                one["source"] = TEXTS[source % len(TEXTS)]
            if self.ids != "none":
                one["id"] = f"c{number}" if self.ids == "unique" else f"c{number % 2}"
            made.append(one)
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "mine": 1}
        return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4 if self.ids == "none" else 5}


_STEPS = st.one_of(
    st.builds(Step, st.just("output")),
    st.builds(Step, st.just("finish"), st.sampled_from(("ok", "ok", "ok", *OUTCOMES))),
    st.builds(Step, st.just("save")),
    st.builds(
        Step,
        st.just("change"),
        st.sampled_from((*CHANGES, *CHANGES, *FILES)),
        st.sampled_from(WRITERS),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    st.builds(
        Step,
        st.just("race"),
        st.sampled_from((*CHANGES, "delete", "old copy")),
        st.sampled_from(("in place", "replace")),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    st.builds(Step, st.just("fault")),
)


def histories(*, scripted: bool = True) -> st.SearchStrategy[History]:
    """All histories, or those that a real kernel can play in reasonable time."""
    code = st.tuples(st.just("code"), st.integers(0, 2))
    text = st.tuples(st.sampled_from(("markdown", "raw")), st.integers(0, 1))
    return st.builds(
        History,
        cells=st.lists(st.one_of(code, code, code, text), min_size=1, max_size=6)
        .filter(lambda cells: any(kind == "code" for kind, _ in cells))
        .map(tuple),
        ids=st.sampled_from(("unique", "none", "doubled")),
        kind=st.sampled_from(KINDS),
        continues=st.booleans(),
        steps=st.lists(_STEPS, max_size=14 if scripted else 8).map(tuple),
        end=st.sampled_from(ENDS),
    )


# Other writers


def changed(notebook: Json, step: Step, number: int) -> Json:
    """The notebook after a change by another writer. Each change leaves words of its own."""
    notebook = deepcopy(notebook)
    cells = notebook["cells"]
    at = step.at % len(cells) if cells else 0
    words = f"note {number}"
    match step.name:
        case "insert":
            new: Json = {"cell_type": "markdown", "metadata": {}, "source": words}
            if notebook["nbformat_minor"] >= 5:
                new["id"] = f"new{number}"
            cells.insert(at, new)
        case "copy" if cells:  # as somebody duplicates a cell, without its outputs
            new = deepcopy(cells[at])
            if new["cell_type"] == "code":
                new |= {"outputs": [], "execution_count": None}
            if "id" in new:
                new["id"] = f"new{number}"
            cells.insert(step.to % (len(cells) + 1), new)
        case "remove" if cells:
            del cells[at]
        case "source" if cells:
            cells[at]["source"] = words
        case "tags" if cells:
            cells[at]["metadata"]["tags"] = [words]
        case "metadata" if cells:
            cells[at]["metadata"]["mine"] = words
        case "move" if cells:
            cells.insert(step.to % len(cells), cells.pop(at))
        case "type" if cells:
            for name in ("outputs", "execution_count"):
                cells[at].pop(name, None)
            cells[at]["cell_type"] = "raw"
        case "notebook":
            notebook["metadata"]["mine"] = words
        case "clear" if cells and cells[at]["cell_type"] == "code":
            cells[at] |= {"outputs": [], "execution_count": None}
        case "rerun" if cells and cells[at]["cell_type"] == "code":  # a person runs a cell again
            output = {"output_type": "stream", "name": "stdout", "text": [f"<W{number}>\n"]}
            cells[at] |= {"outputs": [output], "execution_count": 1000 + number}
    return notebook


def operations(notebook: Json, step: Step, number: int) -> list[Json]:
    """The same change for the tools; empty if they have none for it."""
    cells = notebook["cells"]
    at = step.at % len(cells) if cells else 0
    words = f"note {number}"
    if step.name == "insert":
        return [{"op": "add", "cell_type": "markdown", "source": words, "index": at}]
    if step.name == "notebook":
        return [{"op": "set_metadata", "metadata": {"mine": words}}]
    if not cells:
        return []
    match step.name:
        case "copy":
            source = joined(cells[at]["source"])
            new: Json = {"op": "add", "cell_type": cells[at]["cell_type"], "source": source}
            return [new | {"index": step.to % (len(cells) + 1)}]
        case "remove":
            return [{"op": "remove", "index": at}]
        case "source":
            return [{"op": "update", "index": at, "source": words}]
        case "tags":
            return [{"op": "set_tags", "index": at, "tags": [words]}]
        case "metadata":
            return [{"op": "set_metadata", "index": at, "metadata": {"mine": words}}]
        case "move":
            return [{"op": "move", "index": at, "to": step.to % len(cells)}]
        case "type":
            return [{"op": "set_type", "index": at, "cell_type": "raw"}]
        case "clear" if cells[at]["cell_type"] == "code":
            return [{"op": "clear_outputs", "index": at}]
    return []


def write(path: Path, data: bytes, writer: str) -> None:
    """Write a file as other programs do."""
    match writer:
        case "replace":
            beside = path.with_name(".beside")
            beside.write_bytes(data)
            os.replace(beside, path)
        case "checkout":
            path.unlink(missing_ok=True)
            path.write_bytes(data)
        case _:
            path.write_bytes(data)


def encoded(notebook: Json) -> bytes:
    """A notebook as Jupyter writes it."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


class World:
    """A notebook file with its other writers, and the state that they have given it.

    The results in cells that had ended are the last writer's: what somebody put there stays, and a cell whose last
    result was saved and then cleared stays cleared. An older copy does not clear: it never had the result.

    Attributes:
        view: all of the file that a run must leave as it is; None when there is no file.
        ended: gives the ids of the cells that have ended.
        words: those that others put into cells that had ended.
        cleared: the ids of cells that were cleared and must stay so.
        clears: the ids of all cells that were ever cleared.
        left: tokens that writers left in a cell when they changed its source, as editors do.
        text: the exact bytes of a file that is no notebook.
        renamed: the files that were moved away, with their bytes.
    """

    def __init__(self, path: Path, ended: Callable[[], Collection[str | None]] = tuple) -> None:
        self.path = path
        self.ended = ended
        self.words: set[str] = set()
        self.cleared: set[str] = set()
        self.clears: set[str] = set()
        self.left: set[str] = set()
        self.first = path.read_bytes()
        self.number = 0
        self.view: Any = foreign_view(json.loads(self.first))
        self.text: bytes | None = None
        self.before_break: bytes | None = None
        self.renamed: dict[Path, bytes] = {}

    @property
    def notebook(self) -> Json | None:
        """The notebook on the disk; None if there is none."""
        if self.view is None or self.text is not None:
            return None
        return json.loads(self.path.read_bytes())  # type: ignore[no-any-return]

    def apply(self, step: Step) -> None:
        """Let another program change the file."""
        self.number += 1
        writer = step.writer if step.writer in ("in place", "replace", "checkout") else "replace"
        match step.name:
            case "old copy":  # a program that has the first version open saves it
                self.cleared.clear()
                notebook = json.loads(self.first)
                notebook["cells"].append({"cell_type": "raw", "metadata": {}, "source": f"note {self.number}"})
                if notebook["nbformat_minor"] >= 5:
                    notebook["cells"][-1]["id"] = f"new{self.number}"
                self._write(encoded(notebook), writer)
            case "delete":
                self.path.unlink(missing_ok=True)
                self.view = self.text = None
            case "rename" if self.path.exists():
                away = self.path.with_name(f"away{self.number}.ipynb")
                self.renamed[away] = self.path.read_bytes()
                os.rename(self.path, away)
                self.view = self.text = None
            case "break" if self.notebook is not None:
                self.before_break = self.path.read_bytes()
                self.text = b'{"cells": ['
                self.path.write_bytes(self.text)
            case "mend" if self.text is not None:
                assert self.before_break is not None
                self.text = None
                self._write(self.before_break, writer)
            case _ if (notebook := self.notebook) is not None:
                after = changed(notebook, step, self.number)
                self._write(encoded(after), writer)
                self._note(step, notebook, after)

    def _write(self, data: bytes, writer: str) -> None:
        write(self.path, data, writer)
        self.text = None
        self._take(json.loads(data))

    def _take(self, notebook: Json) -> None:
        self.view = foreign_view(notebook)
        self.words &= set(_WORD.findall(json.dumps(notebook)))
        found = {one.get("id"): one for one in notebook["cells"]}
        self.cleared = {name for name in self.cleared if name in found and not _has_result(found[name])}

    def _note(self, step: Step, before: Json, after: Json) -> None:
        """A writer has put results into a cell, or taken them out."""
        if step.name not in ("rerun", "clear", "source") or not before["cells"]:
            return
        at = step.at % len(before["cells"])
        old, new = before["cells"][at], after["cells"][at]
        if step.name == "source":
            self.left |= set(_TOKEN.findall(json.dumps(new.get("outputs", []))))
            return
        name, ids = old.get("id"), [one.get("id") for one in before["cells"]]
        if name is None or ids.count(name) > 1 or old["cell_type"] != "code":
            self.clears.add("")
            return
        if step.name == "clear":
            self.clears.add(name)
            if name in self.ended() and _REPLY in old["metadata"].get("execution", {}) and _has_result(old):
                self.cleared.add(name)
        else:
            self.cleared.discard(name)
            if name in self.ended():
                self.words |= set(_WORD.findall(json.dumps(new)))

    def look(self, step: Step, before: Json) -> None:
        """A tool has changed the file, and others hold to it from now on."""
        after = json.loads(self.path.read_bytes())
        self._take(after)
        self._note(step, before, after)

    def check(self) -> None:
        """A run has changed nothing but its own."""
        for away, data in self.renamed.items():
            assert away.read_bytes() == data, "a file that was moved away was changed"
        if self.view is None:
            assert not self.path.exists(), "a file that was deleted is back"
        elif self.text is not None:
            assert self.path.read_bytes() == self.text, "a broken file was replaced"
        else:
            notebook = json.loads(self.path.read_bytes())
            assert foreign_view(notebook) == self.view, "a change of another writer is gone"
            assert self.words <= set(_WORD.findall(json.dumps(notebook))), "a newer output of another writer is gone"
            for cell in notebook["cells"]:
                assert cell.get("id") not in self.cleared or not _has_result(cell), "a cleared cell is filled again"


def _has_result(cell: Json) -> bool:
    return bool(cell.get("outputs")) or cell.get("execution_count") is not None


def foreign_view(notebook: Json) -> Any:
    """All of a notebook that a run does not own."""
    own = ("outputs", "execution_count")
    cells = []
    for cell in notebook["cells"]:
        if _MARKER_TAG in cell["metadata"].get("tags", []):
            continue
        rest = {name: value for name, value in cell.items() if name not in own}
        rest["source"] = joined(cell["source"])
        rest["metadata"] = {k: v for k, v in cell["metadata"].items() if k not in ("execution", "papermill")}
        cells.append(rest)
    metadata = {
        name: value
        for name, value in notebook["metadata"].items()
        if name not in ("papermill", "language_info", "kernelspec", "widgets")
    }
    return cells, metadata, notebook["nbformat"], notebook["nbformat_minor"]


# The end


@dataclass
class Ran:
    """A cell that the kernel got: its id and source as the run had them, its tokens, and how it ended."""

    cell_id: str | None
    source: str
    tokens: list[str]
    outcome: str | None = None
    index: int = -1


def token(number: int) -> str:
    """A word that stands in no more than one output."""
    return f"<R{number}>"


def check_end(world: World, ran: Sequence[Ran], *, killed: bool, status: str, notes: Iterable[str], ids: str) -> None:
    """Every result is in its cell, or kept aside and named; and the status claims no more than that."""
    world.check()
    notes = list(notes)
    kept = [json.loads((world.path.parent / name).read_bytes()) for note in notes for name in _KEPT.findall(note)]
    for notebook in kept:
        nbformat.validate(notebook)
    final = world.notebook
    if final is not None and ids != "doubled":
        nbformat.validate(final)
    cells = final["cells"] if final is not None else []
    places: dict[str, list[Json]] = {}
    for cell in cells:
        for word in _TOKEN.findall(json.dumps(cell.get("outputs", []))):
            places.setdefault(word, []).append(cell)
    aside = set(_TOKEN.findall(json.dumps(kept)))
    present = {cell.get("id"): cell for cell in cells}
    told = {int(number) for note in notes for found in _CLEARED.findall(note) for number in found.split(",")}
    failed_save = any("last save failed" in note for note in notes)
    for one in ran:
        for word in one.tokens:
            found = places.get(word, [])
            assert len({id(cell) for cell in found}) <= 1, f"{word} is in several cells"
            for cell in found:
                assert cell["cell_type"] == "code"
                assert joined(cell["source"]) == one.source or word in world.left, (
                    f"{word} is in a cell that did not run"
                )
                assert ids != "unique" or cell["id"] == one.cell_id, f"{word} is in another cell"
            if killed:
                continue
            cleared = one.index in told and bool(world.clears & {one.cell_id, ""})
            assert found or word in aside or cleared, f"{word} is lost: {notes}"
            own = present.get(one.cell_id) if ids == "unique" else None
            unchanged = own is not None and own["cell_type"] == "code" and joined(own["source"]) == one.source
            others = cleared or (own is not None and bool(_WORD.search(json.dumps(own.get("outputs", [])))))
            assert found or failed_save or others or not unchanged, f"{word} is not in its cell, which is unchanged"
    if killed:
        return
    if status == "ok":
        assert all(one.outcome in ("ok", "exit") for one in ran), "ok, and a cell failed"
        assert not failed_save, "ok, and the last save failed"
