"""The state of a kernel as signatures: a short digest for each name, of all code that its value may come from.

Two values with one signature come from the same code on the same values, so they are the same, but for files, the
network, time and chance. A cell whose inputs have the signatures of a run from the top gives the outputs of such a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from papermill_mcp.core.staleness.names import (
    CHANGING,
    MODULES,
    PURE_MODULES,
    RANDOM,
    SHADOWABLE,
    Method,
    Names,
    is_setting,
    names_of,
)

_CHARS = 16

#: Stands for all names, where a cell may use any.
ANY = "*"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:_CHARS]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one run of a cell: the signature of all, and that of each name."""

    signature: str
    names: Mapping[str, str]


@dataclass
class KernelState:
    """The names of a kernel that ran some code. It begins as a fresh one."""

    _base: str = "fresh"
    _runs: str = ""
    _names: dict[str, str] = field(default_factory=dict)
    _shared: dict[str, frozenset[str]] = field(default_factory=dict)
    _later_reads: dict[str, frozenset[str]] = field(default_factory=dict)
    _later_writes: dict[str, frozenset[str]] = field(default_factory=dict)
    _later_methods: dict[str, frozenset[Method]] = field(default_factory=dict)
    _plain: set[str] = field(default_factory=set)
    _solid: set[str] = field(default_factory=set)
    _modules: dict[str, str] = field(default_factory=dict)
    writers: dict[str, int] = field(default_factory=dict)
    """The cell that changed a name last, where the caller numbers them."""

    def run(
        self, source: str, *, cell: int = -1, certain: bool = True, failed: Callable[[str], bool] = lambda _: False
    ) -> Inputs:
        """Take a run of a cell into account. Returns its inputs.

        Args:
            cell: a number for `writers`.
            certain: the code ran to its end, or to an error of its own. Otherwise any part of it may have run.
            failed: whether code with inputs of this signature ends with an error, so that names may keep their values.
        """
        names = names_of(source)
        reads = self._all_reads(names)
        unknown = names.unknown or any(name in SHADOWABLE and name in self._names for name in reads)
        methods = names.methods.union(*(self._later_methods.get(name, frozenset()) for name in reads))
        changed = self._all_changes(names, reads, methods)
        reads |= changed - names.fresh
        found = {name: self._of(name) for name in sorted(reads)}
        if unknown:
            found[ANY] = _digest(self._base, self._runs, *sorted(self._names.items()))
        signature = _digest(_digest(source), self._base, *(f"{name}={value}" for name, value in found.items()))
        self._runs = _digest(self._runs, signature)
        inputs = Inputs(signature, found)
        mark = signature if certain else _digest(signature, "a part", len(self.writers), id(inputs))
        if unknown:
            self._base, self._names = mark, {}
            for known in (self._later_reads, self._later_writes, self._later_methods, self._modules, self._shared):
                known.clear()
            self._plain, self._solid = set(), set()
            self.writers = {ANY: cell}
            return inputs
        partly = not certain or failed(signature)
        for name in changed | names.writes:
            kept = partly or name not in names.fresh  # a part of the value before
            self._names[name] = _digest(mark, name, self._of(name) if kept else "")
            self.writers[name] = cell
        self._bind(names, reads, partly=partly)
        return inputs

    def copy(self) -> KernelState:
        """A state that goes its own way."""
        return KernelState(
            self._base,
            self._runs,
            dict(self._names),
            dict(self._shared),
            dict(self._later_reads),
            dict(self._later_writes),
            dict(self._later_methods),
            set(self._plain),
            set(self._solid),
            dict(self._modules),
            dict(self.writers),
        )

    def _of(self, name: str) -> str:
        return self._names.get(name) or _digest(self._base, name)

    def _all_reads(self, names: Names) -> set[str]:
        reads = self._closure(names.reads, self._later_reads)
        imported = self._modules.keys() | {name for name, _ in names.modules}
        if imported & (reads | names.calls | {root for root, _, _ in names.methods}):
            reads |= {MODULES, RANDOM} if imported & names.calls else {MODULES}
        return reads - {name for name in (MODULES, RANDOM) if name in names.fresh}

    def _all_changes(self, names: Names, reads: Iterable[str], methods: Iterable[Method]) -> set[str]:
        """Names whose objects may be changed in place, by any of their names."""
        modules = self._modules | dict(names.modules)
        calls = names.calls - self._plain - names.plain
        changed = set(names.changes | calls | (names.iterated - self._solid - names.solid))
        if any("random" in modules.get(name, "") for name in calls):
            changed.add(RANDOM)
        for root, path, objects in methods:
            package = modules.get(root, "").partition(".")[0]
            if is_setting(path) and root in modules:
                changed.add(MODULES)
            if package not in PURE_MODULES or CHANGING & set(path):
                changed |= {root} | objects
        for name in reads:
            changed |= self._later_writes.get(name, frozenset())
        if any(name in modules for name in names.changes):
            changed.add(MODULES)
        changed = {name for name in changed if name not in SHADOWABLE or name in self._names or name in names.writes}
        shared = dict(names.bound)
        for name in list(changed):
            if name not in names.fresh:
                changed |= self._shared.get(name, frozenset())
            for other in shared.get(name, frozenset()):
                if other not in modules:  # what a module makes is no part of it
                    changed |= {other} | self._shared.get(other, frozenset())
        return changed

    def _bind(self, names: Names, reads: set[str], *, partly: bool) -> None:
        later_reads, later_writes = set(names.later_reads), set(names.later_writes)
        for name in reads:
            later_reads |= self._later_reads.get(name, frozenset())
            later_writes |= self._later_writes.get(name, frozenset())
        for name, sources in names.bound:
            if name not in sources and not partly:  # bound anew: it shares nothing of before
                for other in self._shared.pop(name, frozenset()):
                    self._shared[other] = self._shared.get(other, frozenset()) - {name}
            group = {name}
            for one in sources:
                if one in self._modules:
                    continue
                group |= {one} | self._shared.get(one, frozenset())
            if len(group) > 1:
                for one in group:
                    self._shared[one] = self._shared.get(one, frozenset()) | (group - {one})
        self._plain = (self._plain - names.writes) | (set() if partly else names.plain)
        self._solid = (self._solid - names.writes) | (set() if partly else names.solid)
        for name in names.writes:
            self._modules.pop(name, None)
        self._modules |= dict(names.modules)
        later_methods = names.later_methods.union(*(self._later_methods.get(name, frozenset()) for name in reads))
        for name in names.writes:
            kept = partly or name not in names.fresh
            for known, later in ((self._later_reads, later_reads), (self._later_writes, later_writes)):
                known[name] = frozenset(later) | (known.get(name, frozenset()) if kept else frozenset())
            before = self._later_methods.get(name, frozenset()) if kept else frozenset()
            self._later_methods[name] = later_methods | before

    @staticmethod
    def _closure(names: Iterable[str], more: Mapping[str, frozenset[str]]) -> set[str]:
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += more.get(name, ())
        return found


@dataclass(frozen=True)
class Expected:
    """A cell as a run from the top would have it: its inputs, and the cell that wrote each of them last."""

    inputs: Inputs
    writers: Mapping[str, int]


def expected(sources: Sequence[str | None], failed: Callable[[str], bool] = lambda _: False) -> list[Expected | None]:
    """The inputs of each cell in a run from the top; None for cells that are not run.

    Args:
        sources: of all cells; None for those that are no code.
        failed: whether code with inputs of this signature is known to end with an error.
    """
    state = KernelState()
    found: list[Expected | None] = []
    for index, source in enumerate(sources):
        if source is None or not source.strip():
            found.append(None)
            continue
        before = dict(state.writers)
        inputs = state.run(source, cell=index, failed=failed)
        found.append(Expected(inputs, {name: before[name] for name in inputs.names if name in before}))
    return found
