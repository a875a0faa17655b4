"""The state of a kernel as signatures: a short digest for each name, of all code that its value may come from.

Two values with one signature come from the same code on the same values, so they are the same, but for files, the
network, time and chance. A cell whose inputs have the signatures of a run from the top gives the outputs of such a run.
"""

from __future__ import annotations

import copy
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
    first_uses,
    is_setting,
    names_of,
    names_of_beginning,
)

_CHARS = 16

#: A kernel that ran no unknown code.
_FRESH = "fresh"

#: Names that the signature of a cell has, at most. One that uses more counts as using all.
_MOST_READS = 300

#: Stands for all names, where a cell may use any.
ANY = "*"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:_CHARS]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one run of a cell.

    Attributes:
        signature: of all inputs.
        names: the signature of each name.
        writers: the cell that changed each name last, where one has.
    """

    signature: str
    names: Mapping[str, str]
    writers: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Group:
    """Names that may stand for the same object, and the changes of it: a mark and the cell of each."""

    members: set[str] = field(default_factory=set)
    changes: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class KernelState:
    """The names of a kernel that ran some code. It begins as a fresh one."""

    preset: set[str] = field(default_factory=set)
    """Names that the kernel was found to begin with, such as those of a startup file of IPython."""
    _base: str = _FRESH
    _runs: str = ""
    _names: dict[str, str] = field(default_factory=dict)
    _set: set[str] = field(default_factory=set)
    """Names that may have a value, but for builtins. In a kernel that ran no unknown code, all others have none."""
    _groups: dict[str, _Group] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    """How many changes of its group the signature of a name has."""
    _later_reads: dict[str, frozenset[str]] = field(default_factory=dict)
    _later_writes: dict[str, frozenset[str]] = field(default_factory=dict)
    _later_methods: dict[str, frozenset[Method]] = field(default_factory=dict)
    _plain: set[str] = field(default_factory=set)
    _solid: set[str] = field(default_factory=set)
    _modules: dict[str, str] = field(default_factory=dict)
    _settings: dict[str, str] = field(default_factory=dict)
    """Settings of modules by what they set, the latest last."""
    _writers: dict[str, int] = field(default_factory=dict)

    def run(
        self,
        source: str,
        *,
        cell: int = -1,
        certain: bool = True,
        failed: Callable[[str], bool] = lambda _: False,
        missed: Callable[[str, str], bool] | None = None,
    ) -> Inputs:
        """Take a run of a cell into account. Returns its inputs.

        Args:
            cell: a number for `Inputs.writers`.
            certain: the code ran to its end, or to an error of its own. Otherwise any part of it may have run.
            failed: whether code with inputs of this signature ends with an error, so that names may keep their values.
            missed: whether code with inputs of this signature ends since this name is not set. By default, as `failed`.
        """
        while certain and (stop := self._stop(source)) is not None:
            names, loaded = stop
            reads = self._all_reads(names)
            changed = self._all_changes(names, reads)
            found = {name: self._of(name) for name in sorted(reads | (changed - names.fresh) | set(loaded))}
            signature = _digest("stops", _digest(source), self._base, *(f"{one}={of}" for one, of in found.items()))
            if failed(signature) if missed is None else missed(signature, loaded[-1]):
                return self._take(Inputs(signature, found, self._writers_of(found)), names, reads, changed, cell)
            if missed is None or failed(signature):
                break
            self.preset.add(loaded[-1])  # the code has run, so the kernel began with that name
            self._set.add(loaded[-1])
        return self._run(source, cell, certain=certain, failed=failed)

    def _run(self, source: str, cell: int, *, certain: bool, failed: Callable[[str], bool]) -> Inputs:
        names = names_of(source)
        reads = self._all_reads(names)
        unknown = names.unknown or any(name in SHADOWABLE and name in self._names for name in reads)
        changed = self._all_changes(names, reads)
        reads |= changed - names.fresh
        if unknown or len(reads) > _MOST_READS:
            found = {ANY: _digest(self._base, self._runs)}
        else:
            found = {name: self._of(name) for name in sorted(reads)}
        signature = _digest(_digest(source), self._base, *(f"{name}={value}" for name, value in found.items()))
        inputs = Inputs(signature, found, self._writers_of(found))
        if unknown:
            self._runs = _digest(self._runs, signature)
            self._forget(signature if certain else _digest(signature, "a part", cell, id(inputs)), cell)
            return inputs
        mark = signature if certain else _digest(signature, "a part", cell, id(inputs))
        return self._take(inputs, names, reads, changed, cell, mark=mark, partly=not certain or failed(signature))

    def _take(
        self,
        inputs: Inputs,
        names: Names,
        reads: set[str],
        changed: set[str],
        cell: int,
        *,
        mark: str = "",
        partly: bool = True,
    ) -> Inputs:
        """Take the writes of a run into account.

        Args:
            mark: the signature of what it writes; by default that of its inputs.
            partly: names may keep their values.
        """
        mark = mark or inputs.signature
        self._runs = _digest(self._runs, inputs.signature)
        self._set_modules(names, mark, cell, partly=partly)
        self._change(names, changed, mark, cell, partly=partly)
        self._bind(names, reads, partly=partly)
        self._change_groups([name for name in changed if name in names.fresh], changed, mark, cell)
        self._set.update(names.later_binds, (name for name, _ in names.bound))
        return inputs

    def _stop(self, source: str) -> tuple[Names, tuple[str, ...]] | None:
        """The part of a cell that runs before it needs a name that is not set, and the names that it loads then.

        The last of these is not set. None if there may be no such name.
        """
        if self._base != _FRESH:
            return None
        for count, loaded in enumerate(first_uses(source)):
            if not any(self._is_unset(name) for name in loaded):
                continue
            before = names_of_beginning(source, count)
            if before.unknown or any(name in SHADOWABLE and name in self._names for name in (*before.reads, *loaded)):
                return None
            for place, name in enumerate(loaded):
                if self._stays_unset(name, before):
                    return before, loaded[: place + 1]
        return None

    def _is_unset(self, name: str) -> bool:
        return name not in self._set and name not in SHADOWABLE and not name.startswith(("_", "<"))

    def _writers_of(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self._writers[name] for name in names if name in self._writers}

    def copy(self) -> KernelState:
        """A state that goes its own way."""
        return copy.deepcopy(self)

    def _forget(self, mark: str, cell: int) -> None:
        """Any name may have any value."""
        fresh = KernelState(self.preset, _base=mark, _runs=self._runs, _writers={ANY: cell})
        self.__dict__.update(fresh.__dict__)

    def _of(self, name: str) -> str:
        """The signature of a name, with the changes of its object by other names."""
        value = self._names.get(name) or _digest(self._base, name)
        if name == MODULES and self._settings:
            return _digest(value, *(f"{key}={of}" for key, of in self._settings.items()))
        group = self._groups.get(name)
        if group is None or self._seen[name] == len(group.changes):
            return value
        missed = group.changes[self._seen[name] :]
        self._names[name] = value = _digest(value, *(mark for mark, _ in missed))
        self._seen[name], self._writers[name] = len(group.changes), missed[-1][1]
        return value

    def _change(self, names: Names, changed: set[str], mark: str, cell: int, *, partly: bool) -> None:
        """Give new signatures to the names that a cell writes, and to those that share an object with one."""
        for name in sorted(changed.union(one for one in names.writes if not self._stays_unset(one, names))):
            kept = partly or name not in names.fresh  # a part of the value before
            self._names[name] = _digest(mark, name, self._of(name) if kept else "")
            self._writers[name] = cell
        self._change_groups([name for name in changed if partly or name not in names.fresh], changed, mark, cell)

    def _set_modules(self, names: Names, mark: str, cell: int, *, partly: bool) -> None:
        """Take the settings of modules into account, which do not depend on those before."""
        modules = self._modules | dict(names.modules)
        for setting in names.settings:
            root = setting.call[0]
            if root not in modules:
                continue
            self._writers[MODULES] = cell
            key = f"{modules[root]} {setting.key}"
            self._settings.pop(key, None)  # the latest is the last
            self._settings[key] = _digest(setting.value, mark if partly else "")

    def _change_groups(self, of: Iterable[str], changed: set[str], mark: str, cell: int) -> None:
        """The objects of some names were changed. The names in `changed` have that in their signatures."""
        groups = {id(group): group for name in sorted(of) if (group := self._groups.get(name)) is not None}
        for group in groups.values():
            group.changes.append((mark, cell))
            for name in changed & group.members:
                self._seen[name] = len(group.changes)

    def _leave(self, name: str) -> None:
        """A name stands for another object from now on."""
        group = self._groups.pop(name, None)
        if group is not None:
            group.members.discard(name)
            del self._seen[name]

    def _join(self, names: set[str]) -> None:
        """Names may stand for one object from now on."""
        groups = {id(group): group for name in names if (group := self._groups.get(name)) is not None}
        largest = max(groups.values(), key=lambda group: len(group.members), default=None)
        largest = largest or _Group()
        joining = set(names).union(*(group.members for group in groups.values())) - largest.members
        for name in joining:
            self._of(name)
        for name in joining:
            self._groups[name], self._seen[name] = largest, len(largest.changes)
        largest.members |= joining

    def _all_reads(self, names: Names) -> set[str]:
        reads = self._closure(names.reads, self._later_reads)
        modules = self._modules | dict(names.modules)
        roots = {root for root, _, _ in names.methods}
        roots |= {one.call[0] for one in names.settings if one.call[0] not in modules}
        used = modules.keys() & (self._closure(names.used, self._later_reads) | names.calls | roots)
        if used or (names.used and (MODULES in self._names or self._settings)):  # each value may be shown by them
            reads.add(MODULES)
        if modules.keys() & names.calls or any("random" in modules.get(root, "") for root in roots):
            reads.add(RANDOM)
        return reads - {name for name in (MODULES, RANDOM) if name in names.fresh}

    def _all_changes(self, names: Names, reads: Iterable[str]) -> set[str]:
        """Names whose objects may be changed in place, or which functions that are called may bind."""
        methods = names.methods.union(*(self._later_methods.get(name, frozenset()) for name in reads))
        modules = self._modules | dict(names.modules)
        methods |= {one.call for one in names.settings if one.call[0] not in modules}
        calls = names.calls - self._plain - names.plain
        changed = set(names.changes | calls | (names.iterated - self._solid - names.solid))
        if any("random" in modules.get(name, "") for name in calls):
            changed.add(RANDOM)
        for root, path, objects in methods:
            package = modules.get(root, "").partition(".")[0]
            if is_setting(path) and root in modules:
                changed.add(MODULES)
            if "random" in modules.get(root, ""):
                changed.add(RANDOM)
            if package not in PURE_MODULES or CHANGING & set(path):
                changed |= {root} | objects
        for name in reads:
            changed |= self._later_writes.get(name, frozenset())
        if any(name in modules for name in names.changes):
            changed.add(MODULES)
        found = {name for name in changed if name not in SHADOWABLE or name in self._names or name in names.writes}
        return {name for name in found if not self._stays_unset(name, names)}

    def _stays_unset(self, name: str, names: Names) -> bool:
        """Whether a name has no value, and code with these names cannot bind it. Then nothing can change its object."""
        if self._base != _FRESH or not self._is_unset(name) or name in names.later_binds:
            return False
        return all(name != bound for bound, _ in names.bound)

    def _bind(self, names: Names, reads: set[str], *, partly: bool) -> None:
        later_reads, later_writes = set(names.later_reads), set(names.later_writes)
        for name in reads:
            later_reads |= self._later_reads.get(name, frozenset())
            later_writes |= self._later_writes.get(name, frozenset())
        for name, sources in names.bound:
            if name not in sources and not partly:  # bound anew: it shares nothing of before
                self._leave(name)
            group = {name, *(one for one in sources if one not in self._modules)}
            if len(group) > 1:
                self._join(group)
        self._plain = (self._plain - names.writes) | (set() if partly else names.plain)
        self._solid = (self._solid - names.writes) | (set() if partly else names.solid)
        for name, sources in names.bound:
            if name not in sources:  # else only a part of it is new, such as an attribute
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


def expected(
    sources: Sequence[str | None], failed: Callable[[str], bool] = lambda _: False, preset: Iterable[str] = ()
) -> list[Inputs | None]:
    """The inputs of each cell in a run from the top; None for cells that are not run.

    Args:
        sources: of all cells; None for those that are no code.
        failed: whether code with inputs of this signature is known to end with an error.
        preset: names that a kernel begins with.
    """
    state = KernelState({*preset}, _set={*preset})
    return [
        state.run(source, cell=index, failed=failed) if source is not None and source.strip() else None
        for index, source in enumerate(sources)
    ]
