"""The names that a cell of Python reads and writes, by its syntax alone. Where that cannot tell, more are named.

Assignment to an attribute or an item, a call of a method, and a value given to a call count as possible writes. Code in
functions counts where it is called, so each name carries the names that code behind it may use later.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from papermill_mcp.core.staleness.loads import first_loads

#: Characters of a source that is read. A longer one may use any name.
_MAX_CHARS = 100_000

_BUILTINS = frozenset(dir(builtins))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Calls that change none of their arguments.
_PURE = _words(
    """print len sum min max abs round sorted str int float bool repr type isinstance issubclass range id hash ord chr
    format any all divmod pow bin hex oct callable display hasattr complex bytes ascii"""
)
#: Calls whose value shares nothing with their arguments.
_FRESH = _words("len str int float bool repr round abs range type id hash ord chr format any all isinstance")

#: Methods that change nothing, of the types of Python and of tables and arrays.
_READING = _words(
    """head tail describe info mean sum std var min max median count size nunique unique value_counts corr quantile plot
    hist copy groupby merge join format split strip lower upper title startswith endswith replace items keys values get
    index astype reshape transpose round abs cumsum sort_values reset_index to_numpy to_dict tolist isna notna dot ravel
    flatten union intersection difference strftime isoformat encode decode rstrip lstrip splitlines agg apply query
    sample assign drop_duplicates to_list total_seconds date time as_posix exists is_file is_dir read_text
    bit_length hex zfill iterrows itertuples pivot pivot_table melt stack unstack rolling
    resample expanding rename drop dropna fillna set_index nlargest nsmallest idxmax idxmin isin between map transform
    filter cumprod diff shift pct_change rank clip abs add sub mul div predict predict_proba score transform savefig"""
)

#: Modules whose functions change none of their arguments, and their functions that do.
PURE_MODULES = _words("math statistics json re numpy pandas matplotlib seaborn os pathlib datetime time")
CHANGING = _words("fill_diagonal put place copyto shuffle")

#: Functions of modules that change how others work.
_SETTINGS = re.compile(
    r"set_\w+|set[a-z]+|use|seed|simplefilter|filterwarnings|basicConfig|getcontext|rc|update|register\w*"
)

#: Of these, those that give back what was set before.
_TELLING = _words("seterr setlocale setdefault set_state")

#: Stand for the state of chance, and for the settings of modules, as if they were names.
RANDOM, MODULES = "<random>", "<modules>"

#: Methods that may draw from the state of chance that all share.
_USES_CHANCE = _words(
    "fit fit_transform fit_predict partial_fit train permutation choice bootstrap simulate draw generate"
)

#: Builtins that take all of an iterator.
_TAKES_ALL = _words("sum min max sorted any all")

#: Names that IPython sets.
_OF_IPYTHON = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_[io]h|In|Out")

#: Calls that may use any name.
_ANYTHING = _words("exec eval globals locals vars setattr delattr compile __import__ get_ipython input")

_MAGIC_LINE = re.compile(r"^(\s*)(%|!|\?)")
_ASSIGNED_MAGIC = re.compile(r"^\s*[\w, ]+=\s*[%!]")
_PLAIN_MAGICS = re.compile(r"%{1,2}(matplotlib|time|timeit|load_ext|autoreload|pip|conda|capture|pwd|who|whos|ls)\b")


Method = tuple[str, tuple[str, ...], frozenset[str]]


@dataclass(frozen=True)
class Setting:
    """A call that gives settings of a module constant values, if its first name is a module.

    Attributes:
        call: it, as any method.
        key, value: what is set, and to what. The same once more leaves the same state.
    """

    call: Method
    key: str
    value: str


@dataclass(frozen=True)
class Names:
    """The names of a cell.

    Attributes:
        reads: names whose values it uses, or may leave in part.
        writes: names that have another value afterwards, or may have.
        changes: of `writes`, those whose object may be changed in place, so that other names of it change, too.
        bound: of `writes`, those bound anew, each with the names whose objects it may share.
        later_reads, later_writes: names that functions made here use when they are called.
        later_binds: of `later_writes`, those that may be bound anew.
        calls: names that are called.
        fresh: of `writes`, those bound before any other use of them here.
        methods: calls by attributes: the first name, the attributes, and the names that it may change.
        later_methods: the same in functions made here.
        iterated: names whose values may be used up, if they are iterators.
        solid: of `writes`, those that are none.
        modules: of `writes`, modules and what was imported of them, each with its module.
        plain: of `writes`, functions, classes and modules that keep nothing of a call.
        settings: calls of functions that may belong to modules, in their order.
        used: of the names that it loads, those that it uses for more than settings.
        unknown: it may use any name.
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    bound: tuple[tuple[str, frozenset[str]], ...] = ()
    later_reads: frozenset[str] = frozenset()
    later_writes: frozenset[str] = frozenset()
    later_binds: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    fresh: frozenset[str] = frozenset()
    methods: frozenset[Method] = frozenset()
    later_methods: frozenset[Method] = frozenset()
    iterated: frozenset[str] = frozenset()
    solid: frozenset[str] = frozenset()
    modules: tuple[tuple[str, str], ...] = ()
    plain: frozenset[str] = frozenset()
    settings: tuple[Setting, ...] = ()
    used: frozenset[str] = frozenset()
    unknown: bool = False


#: Builtins that code may give another meaning.
SHADOWABLE = _BUILTINS


def is_setting(path: Sequence[str]) -> bool:
    """Whether a function of a module, by its attributes, changes how others work."""
    return bool(path) and _SETTINGS.fullmatch(path[-1]) is not None


@lru_cache(maxsize=4096)
def names_of(source: str) -> Names:
    """The names of a cell of Python with this source."""
    tree = _tree_of(source)
    return Names(unknown=True) if tree is None else _names_in(tree, len(tree.body))


@lru_cache(maxsize=4096)
def names_of_beginning(source: str, statements: int) -> Names:
    """The names of the first statements of a cell."""
    tree = _tree_of(source)
    return Names(unknown=True) if tree is None else _names_in(tree, statements)


@lru_cache(maxsize=4096)
def first_uses(source: str) -> tuple[tuple[str, ...], ...]:
    """For each statement of a cell, the names that it loads before anything else can happen, in their order.

    Where one of them is not set, the statement ends with a `NameError` and has done nothing.
    """
    tree = _tree_of(source)
    if tree is None:
        return ()
    found: list[tuple[str, ...]] = []
    for statement in tree.body:
        names: list[str] = []
        try:
            first_loads(statement, names)
        except RecursionError:
            return ()
        found.append(tuple(names))
    return tuple(found)


def _names_in(tree: ast.Module, statements: int) -> Names:
    walk = _Walk()
    try:
        if any(isinstance(node, ast.Constant) and node.value == "__main__" for node in ast.walk(tree)):
            return Names(unknown=True)
        for statement in tree.body[:statements]:
            walk.statement(statement)
            if isinstance(statement, ast.Raise):
                break  # nothing behind it runs
    except RecursionError:
        return Names(unknown=True)
    return walk.names()


def _tree_of(source: str) -> ast.Module | None:
    """The syntax of a cell; None if it may use any name."""
    plain = _without_magics(source) if len(source) <= _MAX_CHARS else None
    if plain is None:
        return None
    try:
        return ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _without_magics(source: str) -> str | None:
    """The source as plain Python; None if a magic of it may do anything."""
    lines = source.split("\n")
    if source.lstrip().startswith("%%"):
        first = next(at for at, line in enumerate(lines) if line.strip())
        if not _PLAIN_MAGICS.match(lines[first].strip()) or "capture" in lines[first].split(" ")[0]:
            return None
        lines[: first + 1] = [""] * (first + 1)
    for at, line in enumerate(lines):
        if _ASSIGNED_MAGIC.match(line):
            return None
        found = _MAGIC_LINE.match(line)
        if not found:
            continue
        text = line.strip()
        if "{" in text or "$" in text:
            return None
        if text.startswith("%") and not _PLAIN_MAGICS.match(text):
            return None
        if re.match(r"%(time|timeit)\b", text):
            lines[at] = found[1] + re.sub(r"^%\w+(\s+-\w+\s*\d*)*\s*", "", text)
        else:
            lines[at] = found[1] + "pass"
    return "\n".join(lines)


@dataclass
class _Walk:
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    bound: dict[str, set[str]] = field(default_factory=dict)
    later_reads: set[str] = field(default_factory=set)
    later_writes: set[str] = field(default_factory=set)
    later_binds: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    modules: dict[str, str] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    definite: set[str] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)
    methods: set[Method] = field(default_factory=set)
    later_methods: set[Method] = field(default_factory=set)
    iterated: set[str] = field(default_factory=set)
    solid: set[str] = field(default_factory=set)
    settings: list[Setting] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    unknown: bool = False
    depth: int = 0

    def names(self) -> Names:
        if self.functions & self.loaded:  # a function made here is used here
            self.reads |= self.later_reads - self.fresh
            self.writes |= self.later_writes
            self.changes |= self.later_writes
            self.methods |= self.later_methods
        hidden = {name for name in _BUILTINS if name not in self.writes}
        unknown = self.unknown or any(map(_OF_IPYTHON.fullmatch, self.reads))
        return Names(
            frozenset(self.reads),
            frozenset(self.writes),
            frozenset(self.changes - hidden),
            tuple((name, frozenset(shared - hidden)) for name, shared in sorted(self.bound.items())),
            frozenset(self.later_reads),
            frozenset(self.later_writes),
            frozenset(self.later_binds),
            calls=frozenset(self.calls - hidden),
            fresh=frozenset(self.fresh),
            methods=frozenset(self.methods),
            later_methods=frozenset(self.later_methods),
            iterated=frozenset(self.iterated),
            solid=frozenset(self.solid),
            modules=tuple(sorted(self.modules.items())),
            plain=frozenset(self.plain),
            settings=tuple(self.settings),
            used=frozenset(self.used),
            unknown=unknown,
        )

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ClassDef():
                self._class(node)
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Assign():
                self.expression(node.value)
                for target in node.targets:
                    self._bind(target, _shared(node.value))
                    if isinstance(target, ast.Name) and not self.depth and _is_solid(node.value):
                        self.solid.add(target.id)
                    if isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Name):
                        self.iterated.add(node.value.id)
            case ast.AnnAssign():
                if node.value is not None:
                    self.expression(node.value)
                    self._bind(node.target, _shared(node.value))
            case ast.AugAssign():
                self.expression(node.value)
                self._change(node.target)
            case ast.Delete():
                for target in node.targets:
                    self.reads |= _objects(target)
                    self._bind(target, set())
            case ast.Global() | ast.Nonlocal() | ast.Pass() | ast.Break() | ast.Continue():
                pass
            case ast.Expr(value=ast.Call() as call) if not self.depth and (setting := _setting(call)) is not None:
                self._read(setting.call[0], used=False)
                self.settings.append(setting)
            case _:
                self._compound(node)

    def _compound(self, node: ast.stmt) -> None:
        """A statement with others in it, which may run never or often."""
        nested = any(
            isinstance(child, ast.stmt | ast.excepthandler | ast.match_case) for child in ast.iter_child_nodes(node)
        )
        self.depth += nested
        if isinstance(node, ast.For | ast.AsyncFor):
            self._loop(node)
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                self._child(item)
            targets = [item.optional_vars for item in node.items if item.optional_vars is not None]
            self._with_bound(targets, node.body)
        else:
            for child in ast.iter_child_nodes(node):
                self._child(child)
        self.depth -= nested

    def _loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.expression(node.iter)
        if isinstance(node.iter, ast.Name):
            self.iterated.add(node.iter.id)
        self._bind(node.target, _shared(node.iter))
        self._with_bound([node.target], node.body)
        for statement in node.orelse:
            self.statement(statement)

    def _with_bound(self, targets: Iterable[ast.expr], body: Iterable[ast.stmt]) -> None:
        """Statements that run only when some targets are bound."""
        inside = _stored(targets) - self.definite
        self.definite |= inside
        for statement in body:
            self.statement(statement)
        self.definite -= inside

    def _child(self, child: ast.AST) -> None:
        if isinstance(child, ast.stmt):
            self.statement(child)
        elif isinstance(child, ast.expr):
            if not isinstance(getattr(child, "ctx", None), ast.Store):
                self.expression(child)
        elif isinstance(child, ast.withitem):
            self.expression(child.context_expr)
            if child.optional_vars is not None:
                self._bind(child.optional_vars, _shared(child.context_expr))
        elif isinstance(child, ast.excepthandler | ast.match_case):
            name = getattr(child, "name", None)
            if name:
                self._write(name, set())
            for inner in ast.walk(child):
                if isinstance(inner, ast.MatchAs | ast.MatchStar) and inner.name:
                    self._write(inner.name, set())
            for inner in ast.iter_child_nodes(child):
                self._child(inner)

    def expression(self, node: ast.expr) -> None:
        """An expression that is evaluated now."""
        for inner in _evaluated(node):
            match inner:
                case ast.Name():
                    if isinstance(inner.ctx, ast.Load):
                        self._read(inner.id)
                case ast.NamedExpr():
                    self.depth += 1
                    self._bind(inner.target, _shared(inner.value))
                    self.depth -= 1
                case ast.Call():
                    self._call(inner)
                case ast.Lambda() | ast.GeneratorExp():
                    self._later(inner)
                case ast.ListComp() | ast.SetComp() | ast.DictComp():
                    self.iterated |= {one.iter.id for one in inner.generators if isinstance(one.iter, ast.Name)}
                case ast.Compare():
                    pairs = zip(inner.ops, inner.comparators, strict=True)
                    contained = [one for op, one in pairs if isinstance(op, ast.In | ast.NotIn)]
                    self.iterated |= {one.id for one in contained if isinstance(one, ast.Name)}
                case ast.Starred():
                    if isinstance(inner.value, ast.Name):
                        self.iterated.add(inner.value.id)

    def _read(self, name: str, *, used: bool = True) -> None:
        self.loaded.add(name)
        if used:
            self.used.add(name)
        if name not in self.definite:
            self.reads.add(name)

    def _call(self, node: ast.Call) -> None:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        function = node.func
        changed: set[str] = set().union(*map(_objects, arguments))
        if isinstance(function, ast.Name):
            if function.id in _ANYTHING:
                self.unknown = True
            if function.id in _PURE and function.id not in self.writes:
                if function.id in _TAKES_ALL:
                    self.iterated |= {one.id for one in arguments if isinstance(one, ast.Name)}
                return
            self.calls.add(function.id)
        elif isinstance(function, ast.Attribute):
            root, path = _root(function)
            if "random" in path[:-1] or root == "random":
                self._chance(path)
                return
            if function.attr in ("query", "eval"):
                self._query(node)
            if function.attr == "sample" and not any(one.arg == "random_state" for one in node.keywords):
                self._chance(path)
            if function.attr in _READING and not any(one.arg in ("inplace", "out") for one in node.keywords):
                return
            if function.attr in _USES_CHANCE:
                self._read(RANDOM)
            if root is not None:
                self.methods.add((root, tuple(path), frozenset(changed)))
                return
            changed |= _objects(function.value)
        for name in changed:
            self._mark_changed(name)

    def _chance(self, path: list[str]) -> None:
        """A number is drawn, or the state of chance is set."""
        if path[-1] == "seed" and not self.depth:
            self._write(RANDOM, set())
        else:
            self._mark_changed(RANDOM)

    def _query(self, node: ast.Call) -> None:
        """An expression of pandas, which may name variables."""
        for one in node.args:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                for name in re.findall(r"@(\w+)", one.value):
                    self._read(name)
            else:
                self.unknown = True

    def _mark_changed(self, name: str) -> None:
        if name in _BUILTINS and name not in self.writes:
            return
        self._read(name)
        self.writes.add(name)
        self.changes.add(name)
        self.solid.discard(name)

    def _bind(self, target: ast.expr, shared: set[str]) -> None:
        match target:
            case ast.Name():
                self._write(target.id, shared)
            case ast.Tuple() | ast.List():
                for one in target.elts:
                    self._bind(one, shared)
            case ast.Starred():
                self._bind(target.value, shared)
            case ast.Attribute() | ast.Subscript():
                self._change(target)
                for name in _objects(target):  # the object holds the value from now on
                    self.bound.setdefault(name, set()).update(shared | {name})

    def _change(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._mark_changed(target.id)
            return
        if isinstance(target, ast.Subscript):
            self.expression(target.slice)
        if isinstance(target, ast.Attribute | ast.Subscript):
            self.expression(target.value)
        for name in _objects(target):
            self._mark_changed(name)

    def _write(self, name: str, shared: set[str]) -> None:
        if name in self.definite:
            self.bound.setdefault(name, set()).update(shared)
        elif self.depth:  # it may keep its value
            self.bound.setdefault(name, {name}).update(shared)
        else:
            if name not in self.writes and name not in self.reads:
                self.fresh.add(name)
                self.bound[name] = set(shared)
            else:
                self.bound.setdefault(name, set()).update(shared)
            self.definite.add(name)
        self.writes.add(name)
        self.plain.discard(name)
        self.solid.discard(name)
        self.modules.pop(name, None)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.unknown = True
                continue
            name = alias.asname or alias.name.partition(".")[0]
            of = alias.name if isinstance(node, ast.Import) else node.module or ""
            self._write(name, set())
            self.modules[name] = of if isinstance(node, ast.Import) else f"from {of}.{alias.name}"
            if isinstance(node, ast.Import) or "random" not in of:
                self.plain.add(name)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator)
        for default in (*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)):
            self.expression(default)
        self._later(node)
        self.functions.add(node.name)
        if node.decorator_list:
            self.reads |= self.later_reads - self.fresh
            self.methods |= self.later_methods
        self._write(node.name, {name for one in node.args.defaults for name in _shared(one)})
        defaults = (*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None))
        keeps = any(
            isinstance(
                leaf, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Yield | ast.YieldFrom | ast.Nonlocal
            )
            for statement in node.body
            for leaf in ast.walk(statement)
        )
        if not (node.decorator_list or keeps or self.depth) and all(isinstance(one, ast.Constant) for one in defaults):
            self.plain.add(node.name)

    def _class(self, node: ast.ClassDef) -> None:
        for one in (*node.bases, *(keyword.value for keyword in node.keywords), *node.decorator_list):
            self.expression(one)
        inner = _Walk(modules=dict(self.modules))
        for statement in node.body:
            inner.statement(statement)
        own = inner.writes
        for name in inner.reads - own:
            self._read(name)
        for name in inner.changes - own:
            self._mark_changed(name)
        self.methods |= inner.methods
        self.settings += inner.settings
        self.used |= inner.used
        self.iterated |= inner.iterated - own
        self.calls |= inner.calls - own
        self.later_methods |= inner.later_methods
        self.later_reads |= inner.later_reads
        self.later_writes |= inner.later_writes
        self.later_binds |= inner.later_binds
        self.unknown |= inner.unknown or any(isinstance(one, ast.Global) for one in node.body)
        self.functions.add(node.name)
        self._write(node.name, {name for base in node.bases for name in _shared(base)})
        if not (node.bases or node.keywords or node.decorator_list or self.depth) and inner.writes == inner.plain:
            self.plain.add(node.name)

    def _later(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.GeneratorExp) -> None:
        """Code that runs when it is called: its global names."""
        inner = _Walk(modules=dict(self.modules), depth=1)
        local: set[str] = set()
        globals_: set[str] = set()
        if isinstance(node, ast.GeneratorExp):
            for one in node.generators:
                local |= {leaf.id for leaf in ast.walk(one.target) if isinstance(leaf, ast.Name)}
            for child in ast.iter_child_nodes(node):
                for leaf in ast.walk(child):
                    if isinstance(leaf, ast.expr):
                        inner.expression(leaf)
        else:
            arguments = node.args
            every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
            local |= {one.arg for one in every if one is not None}
            body = node.body if isinstance(node.body, list) else [ast.Expr(node.body)]
            for statement in body:
                for leaf in ast.walk(statement):
                    if isinstance(leaf, ast.Global):
                        globals_ |= set(leaf.names)
                inner.statement(statement)
            local |= {name for name, _ in inner.bound.items() if name in _stored(body)}
        local -= globals_
        used = (inner.reads | inner.later_reads) - local
        changed = (inner.changes | inner.later_writes | (inner.writes & globals_)) - local
        changed |= (inner.iterated | inner.calls) - local - _BUILTINS - inner.plain
        methods = {
            (root, path, names - local)
            for root, path, names in inner.methods | inner.later_methods
            if root not in local
        }
        changed |= {name for root, _, names in inner.methods if root in local for name in names - local}
        self.later_reads |= used
        self.later_writes |= changed
        self.later_binds |= inner.later_binds | (inner.writes & globals_)
        self.later_methods |= methods
        self.unknown |= inner.unknown
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # a lambda is often called at once
            for name in used:
                self._read(name)
            for name in changed:
                self._mark_changed(name)
            self.methods |= methods


def _setting(call: ast.Call) -> Setting | None:
    """What a call sets, if it has the name of a setting and only constant arguments."""
    root, path = _root(call.func)
    if root is None or not is_setting(path) or path[-1] in _TELLING or "random" in (root, *path):
        return None
    if not all(_is_constant(one) for one in (*call.args, *(one.value for one in call.keywords))):
        return None
    name = ".".join(path)
    if path[-1].startswith("set") and not (call.args and isinstance(call.args[0], ast.Dict)):
        # Another value of the same replaces the one before.
        first = ast.unparse(call.args[0]) if len(call.args) > 1 else ""
        names = ",".join(sorted(str(one.arg) for one in call.keywords))
        key = f"{name} {first} {names}"
    else:
        key = f"{name} {ast.unparse(call)}"
    return Setting((root, tuple(path), frozenset(_objects(call) - {root})), key, ast.unparse(call))


def _is_constant(value: ast.expr) -> bool:
    """Whether a value is written out, or an attribute such as `logging.INFO`."""
    match value:
        case ast.Constant():
            return True
        case ast.UnaryOp():
            return _is_constant(value.operand)
        case ast.Tuple() | ast.List():
            return all(map(_is_constant, value.elts))
        case ast.Dict():
            return all(key is not None and _is_constant(key) for key in value.keys) and all(
                map(_is_constant, value.values)
            )
        case ast.Attribute(value=ast.Name(), attr=attr):
            return attr.isupper()
    return False


def _is_solid(value: ast.expr) -> bool:
    """Whether a value is surely no iterator."""
    match value:
        case ast.Constant() | ast.JoinedStr() | ast.List() | ast.Tuple() | ast.Dict() | ast.Set() | ast.Compare():
            return True
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.BinOp() | ast.UnaryOp():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in _FRESH or name in ("list", "tuple", "dict", "set", "frozenset", "sorted", "sum")
        case ast.Call(func=ast.Attribute() as function):
            return _root(function)[0] in ("np", "pd", "numpy", "pandas")
    return False


def _stored(body: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind."""
    found: set[str] = set()
    for statement in body:
        for leaf in ast.walk(statement):
            if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store | ast.Del):
                found.add(leaf.id)
            elif isinstance(leaf, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(leaf.name)
            elif isinstance(leaf, ast.alias):
                found.add(leaf.asname or leaf.name.partition(".")[0])
            elif isinstance(leaf, ast.ExceptHandler) and leaf.name:
                found.add(leaf.name)
    return found


def _evaluated(node: ast.expr) -> Iterable[ast.AST]:
    """The expressions that are evaluated with an expression, and functions and generators without their bodies."""
    yield node
    if isinstance(node, ast.Lambda):
        for default in (*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)):
            yield from _evaluated(default)
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _evaluated(child)
        elif isinstance(child, ast.comprehension):
            yield from _evaluated(child.iter)
            for test in child.ifs:
                yield from _evaluated(test)
        elif isinstance(child, ast.keyword | ast.FormattedValue):
            yield from _evaluated(child.value)


def _root(node: ast.expr) -> tuple[str | None, list[str]]:
    """The name that a chain of attributes begins with, and its attributes."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else None), path


def _objects(node: ast.expr) -> set[str]:
    """Names whose objects, or parts of them, an expression may be."""
    match node:
        case ast.Name():
            return {node.id}
        case ast.Constant() | ast.Compare() | ast.JoinedStr():
            return set()
        case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.Await():
            return _objects(node.value)
        case ast.Call():
            function = node.func
            if isinstance(function, ast.Name) and function.id in _FRESH:
                return set()
            inside = _objects(function.value) if isinstance(function, ast.Attribute) else _objects(function)
            return inside.union(
                *(_objects(one) for one in node.args), *(_objects(keyword.value) for keyword in node.keywords)
            )
        case ast.Lambda():
            return set()
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            found |= _objects(child)
        elif isinstance(child, ast.comprehension):
            found |= _objects(child.iter)
    return found


def _shared(value: ast.expr) -> set[str]:
    """Names whose objects the value of an expression may share."""
    return _objects(value)
