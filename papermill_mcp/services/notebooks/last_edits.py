"""The last edits of each notebook as facts, so that a later call can say which of them another program has undone."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from papermill_mcp.core.documents.alignment import by_id
from papermill_mcp.core.documents.document import NotebookCell
from papermill_mcp.core.runs.traces import result_of
from papermill_mcp.utils.text_utils import one_line

#: Notebooks whose last edits are remembered, and facts about each.
_REMEMBERED = 200
_FACTS = 200

#: Facts that one note names.
_NAMED = 5

Key = tuple[str, str, str]
"""What a fact is about: `source`, `tags`, `metadata`, `outputs` or `place` with the id of a cell, `notebook` with a
key of the metadata, or `text` with the digests of a cell without an id before and after the edit."""

_WORDS = {
    "source": "cell {} has its earlier source",
    "tags": "cell {} has its earlier tags",
    "metadata": "cell {} has its earlier metadata",
    "outputs": "cell {} has the outputs that were cleared",
    "place": "cell {} is at its earlier place",
    "notebook": "{} of the metadata of the notebook is as before",
    "text": "a cell has its earlier source",
}


class Version:
    """A notebook at one moment, as facts are about it."""

    def __init__(self, cells: Sequence[NotebookCell], metadata: Mapping[str, Any]) -> None:
        self.cells = cells
        self.metadata = metadata
        self.places = {cell_id: places[0] for cell_id, places in by_id(cells).items() if len(places) == 1}
        self._texts: set[str] | None = None

    def state(self, key: Key) -> str | None:
        """What a fact is about, as it is now; None if it is not there."""
        kind, name, other = key
        if kind == "notebook":
            return _digest(self.metadata[name]) if name in self.metadata else None
        if kind == "text":
            if self._texts is None:
                self._texts = {_text(cell) for cell in self.cells}
            return "old" if name in self._texts and other not in self._texts else "new"
        place = self.places.get(name)
        if place is None:
            return None
        cell = self.cells[place]
        match kind:
            case "source":
                return _text(cell)
            case "tags":
                return _digest(cell.tags)
            case "metadata":
                others = ("tags", "execution", "papermill")
                return _digest({name: value for name, value in cell.metadata.items() if name not in others})
            case "outputs":
                return repr(result_of(cell))
        return (self.cells[place - 1].cell_id or "?") if place else ""


@dataclass(frozen=True)
class _Fact:
    before: frozenset[str | None]  # the states that edits have changed
    after: str | None


@dataclass(frozen=True)
class Facts:
    """The results of edits of a notebook, the latest last.

    Attributes:
        revision: the last one that is known to have all of it.
    """

    revision: str = ""
    facts: Mapping[Key, _Fact] = field(default_factory=dict)

    def after(self, before: Version, after: Version, moved: Iterable[str]) -> Mapping[Key, _Fact]:
        """The facts after one more edit. Those that it changes itself, or that did not hold before it, are dropped."""
        held = {key: fact for key, fact in self.facts.items() if before.state(key) == fact.after}
        fresh = {}
        for key in _touched(before, after, moved):
            old, new = before.state(key), after.state(key)
            if old != new:
                states = (held[key].before if key in held else frozenset()) | {old}
                fresh[key] = _Fact(states - {new}, new)
        kept = {key: fact for key, fact in held.items() if key not in fresh and after.state(key) == fact.after}
        return dict([*kept.items(), *fresh.items()][-_FACTS:])

    def undone(self, now: Version, *, outputs: bool = True) -> list[Key]:
        """The facts that are again as before the edits. A third state is somebody's new work."""
        keys = [key for key in self.facts if outputs or key[0] != "outputs"]
        return [key for key in keys if now.state(key) in self.facts[key].before]

    def note(self, undone: Sequence[Key]) -> str:
        """A sentence about facts that hold no longer."""
        named = [self._words(key) for key in undone[:_NAMED]]
        if len(undone) > _NAMED:
            named.append(f"and {len(undone) - _NAMED} more")
        return f"edits of this server are undone in the file, since another program saved it: {'; '.join(named)}"

    def _words(self, key: Key) -> str:
        kind, name, _ = key
        fact = self.facts[key]
        words = _WORDS[kind]
        if kind == "source" and fact.after is None:
            words = "cell {} is back"
        elif kind == "source" and None in fact.before:
            words = "cell {} is gone, or has its earlier source" if len(fact.before) > 1 else "cell {} is gone"
        return words.format(one_line(name, 64))


class LastEdits:
    """Remembers facts about the newest notebooks."""

    def __init__(self) -> None:
        self._of: OrderedDict[Path, Facts] = OrderedDict()

    def facts(self, path: Path) -> Facts:
        """The facts about a notebook."""
        return self._of.get(path, Facts())

    def remember(self, path: Path, facts: Facts) -> None:
        """These facts hold from now on."""
        self._of.pop(path, None)
        if facts.facts:
            self._of[path] = facts
        while len(self._of) > _REMEMBERED:
            self._of.popitem(last=False)

    def seen(self, path: Path, known: Facts, revision: str, undone: Sequence[Key]) -> None:
        """A version was compared with these facts. A fact that was shown is forgotten."""
        if self._of.get(path) is known:
            facts = {key: fact for key, fact in known.facts.items() if key not in undone}
            self.remember(path, Facts(revision, facts))

    def forget_outputs(self, path: Path) -> None:
        """A run is about to change outputs."""
        known = self.facts(path)
        self.remember(path, Facts(known.revision, {k: fact for k, fact in known.facts.items() if k[0] != "outputs"}))


def _touched(before: Version, after: Version, moved: Iterable[str]) -> list[Key]:
    keys: list[Key] = [("place", cell_id, "") for cell_id in moved]
    for name in {**before.places, **after.places}:
        old, new = (
            version.cells[version.places[name]] if name in version.places else None for version in (before, after)
        )
        if old is new:
            continue
        keys.append(("source", name, ""))
        if old is not None and new is not None:
            keys += [("tags", name, ""), ("metadata", name, "")]
            if old.output_count and not new.output_count and _text(old) == _text(new):
                keys.append(("outputs", name, ""))
    if not (before.places or after.places) and len(before.cells) == len(after.cells):
        pairs = zip(before.cells, after.cells, strict=True)
        keys += [("text", _text(old), _text(new)) for old, new in pairs if old is not new and _text(old) != _text(new)]
    keys += [("notebook", name, "") for name in {**before.metadata, **after.metadata}]
    return keys


def _text(cell: NotebookCell) -> str:
    return _digest([cell.cell_type, cell.source])


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
