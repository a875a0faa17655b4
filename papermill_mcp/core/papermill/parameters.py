"""Which parameters a notebook takes, and whether values fit them.

For Python the code of the cell is read as Python reads it: papermill's inspection goes by lines, and takes a `#` in a
string for a comment and an argument of a call for a parameter. Other languages are left to papermill.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.papermill.code.writer import shown
from papermill_mcp.errors import InvalidParametersError, listed, nearest
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import JSON_KINDS, cell_name

if TYPE_CHECKING:
    import nbformat
    from papermill import exceptions, translators

    from papermill_mcp.core.papermill.code import languages
    from papermill_mcp.core.papermill.code.writer import Writer
else:
    # The parameters of a Python notebook need none of these, and papermill takes a quarter of a second.
    nbformat = lazy("nbformat")
    exceptions = lazy("papermill.exceptions")
    translators = lazy("papermill.translators")
    languages = lazy("papermill_mcp.core.papermill.code.languages")

#: Names of kernels that decide the language, before the notebook's own word for it.
_OTHER_KERNELS = frozenset(
    [
        "r",
        "scala",
        "julia",
        "matlab",
        "octave",
        "csharp",
        "fsharp",
        "powershell",
        "pwsh",
        "bash",
        "c#",
        "f#",
        ".net-csharp",
        ".net-fsharp",
        ".net-powershell",
        "sparkkernel",
        "sparkrkernel",
    ]
)

#: Values that fit a type. Booleans are not integers here, integers are floats, and JSON has only lists.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "complex": (float, int),
    "str": (str,),
    "bool": (bool,),
    "none": (type(None),),
    "nonetype": (type(None),),
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "sequence", "mutablesequence", "abstractset"), (list,)),
    **dict.fromkeys(("dict", "mapping", "mutablemapping", "ordereddict", "defaultdict"), (dict,)),
}

# `# type: dict[str, int] what it is for`, as papermill has it, with brackets.
_COMMENT = re.compile(r"#\s*(?:type:\s*(?P<type>(?:\[[^\]]*\]+|[^\s\[])+)\s*)?(?P<help>.*)\Z")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook.

    Attributes:
        default: the default as source text of the notebook's language.
        type_name: the annotated type, or None.
    """

    name: str
    default: str
    type_name: str | None
    help: str

    @cached_property
    def default_expression(self) -> ast.expr | None:
        """The default as Python reads it; None if it does not."""
        return _expression(self.default)

    @cached_property
    def annotation(self) -> ast.expr | None:
        """The annotated type as Python reads it; None without one."""
        return _expression(self.type_name or "")


def inspect_parameters(document: NotebookDocument, kernel_name: str, language: str) -> tuple[list[Parameter], bool]:
    """The parameters of a notebook, and whether the language has any.

    An empty list with True means that the notebook has no cell tagged `parameters`, or an empty one.
    """
    cell = next((cell for cell in document.cells if "parameters" in cell.tags), None)
    if cell is None:
        return [], True
    try:
        if is_python(kernel_name, language) and (found := _assigned(cell.source)) is not None:
            return found, True
        node: Any = nbformat.from_dict  # untyped upstream
        translator = translators.papermill_translators.find_translator(kernel_name, language)
        inspected = translator.inspect(node({"source": cell.source}))
    except (InvalidParametersError, exceptions.PapermillException, NotImplementedError):
        return [], False
    return [
        Parameter(p.name, p.default, None if p.inferred_type_name == "None" else p.inferred_type_name, p.help)
        for p in inspected
    ], True


def is_python(kernel_name: str, language: str) -> bool:
    """Whether the parameters are Python code. Mostly the names show it, else papermill is asked."""
    if language == "python" and kernel_name.lower() not in _OTHER_KERNELS:
        return True
    return isinstance(languages.writer_for(kernel_name, language), languages.Python)


def ignored_cells(document: NotebookDocument) -> str | None:
    """A sentence about further cells tagged `parameters`: papermill takes the first one. None if there are none."""
    names = [cell_name(at, cell.cell_id) for at, cell in enumerate(document.cells) if "parameters" in cell.tags]
    if len(names) < 2:
        return None
    return f"papermill takes only the first cell tagged `parameters`, {names[0]}; tagged as well: {listed(names[1:])}"


def _assigned(source: str) -> list[Parameter] | None:
    """Names that Python code assigns outside of functions and classes, or None if it cannot be read.

    Of a name that is assigned twice, the last.
    """
    found: dict[str, Parameter] = {}
    try:
        tree = _parsed(source)
        comments = _comments(source)
        lines = [line.encode() for line in re.split(r"\r\n|\r|\n", source)]
        for node in _statements(tree.body):
            comment = _COMMENT.match(comments.get(node.end_lineno or 0, "#"))
            assert comment is not None
            for name, value in _targets(node):
                kind = _text(node.annotation, lines) if isinstance(node, ast.AnnAssign) else comment["type"]
                found[name] = Parameter(name, _text(value, lines), kind and kind.strip("'\""), comment["help"].strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return list(found.values())


def _parsed(source: str) -> ast.Module:
    """The code of a cell, if need be without the lines that are IPython's."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(re.sub(r"(?m)^[%!?].*$|^.*\?$", "", source))


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the cell does, those in branches and loops included."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for inner in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, inner, []))
            for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                yield from _statements(part.body)


def _targets(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Each name that a statement assigns, with its value."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        pairs: Iterable[tuple[ast.expr, ast.expr]] = [(node.target, node.value)]
    elif isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    else:
        return
    for target, value in pairs:
        if isinstance(target, ast.Name):
            yield target.id, value
        elif (
            isinstance(target, ast.Tuple | ast.List)
            and isinstance(value, ast.Tuple | ast.List)
            and len(target.elts) == len(value.elts)
        ):
            yield from ((t.id, v) for t, v in zip(target.elts, value.elts, strict=True) if isinstance(t, ast.Name))


def _text(value: ast.expr, lines: Sequence[bytes]) -> str:
    """An expression as it is written, on one line."""
    if value.lineno == value.end_lineno:
        return lines[value.lineno - 1][value.col_offset : value.end_col_offset].decode()
    return ast.unparse(value)


def _comments(source: str) -> dict[int, str]:
    """The comment of each line that has one."""
    found = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string
    except (tokenize.TokenError, SyntaxError):
        pass  # of a line that is IPython's; the lines before it are known
    return found


class NotebookParameters:
    """The parameters of a notebook in a language, inspected once for any number of checks.

    Attributes:
        inspected: whether the language has any. Without them, names and types are not checked.
        by_name: the parameters that the notebook has.
    """

    def __init__(self, document: NotebookDocument, *, kernel_name: str, language: str) -> None:
        known, self.inspected = inspect_parameters(document, kernel_name, language)
        self.by_name = {parameter.name: parameter for parameter in known}
        self._kernel_name, self._language = kernel_name, language
        self._ignored = ignored_cells(document)
        self._tagged = any("parameters" in cell.tags for cell in document.cells)

    @cached_property
    def _writer(self) -> Writer:
        return languages.writer_for(self._kernel_name, self._language)

    def check(self, values: Mapping[str, Any], *, strict: bool) -> list[str]:
        """Check values against the notebook and its language. Returns warnings.

        Args:
            strict: refuse unknown names and values that do not fit; otherwise they are warnings.

        Raises:
            InvalidParametersError: a name is unknown, or a value does not fit (strict); a name is none in the
                language, or the language cannot hold a value (strict or not).
        """
        if not values:
            return []
        self._writer.check(values)
        if not self.inspected:
            return [f"papermill cannot inspect {self._language} parameters, so the names and types were not checked"]
        warnings = [] if self._ignored is None else [self._ignored]
        for name, value in values.items():
            parameter = self.by_name.get(name)
            problem = _unknown(name, self.by_name, self._tagged) if parameter is None else misfit(parameter, value)
            if problem is None:
                continue
            if strict:
                raise InvalidParametersError(
                    "; ".join([problem, *warnings]),
                    allowed=f"its parameters: {listed(map(_described, self.by_name.values()))}" if self._tagged else "",
                    state="nothing was run",
                    advice="correct it, or pass strict_parameters=false to inject it all the same"
                    if self._tagged
                    else "tag the cell that sets the defaults with `parameters`, or pass strict_parameters=false to "
                    "inject the values at the top",
                )
            warnings.append(problem)
        return warnings


def _unknown(name: str, known: Mapping[str, Parameter], tagged: bool) -> str:
    if not tagged:
        return "the notebook has no cell tagged `parameters`"
    near = nearest(name, known)
    return f"the notebook has no parameter {name[:100]!r}" + (f"; did you mean {near!r}?" if near else "")


def _described(parameter: Parameter) -> str:
    kind = f": {parameter.type_name}" if parameter.type_name else ""
    return f"{parameter.name}{kind} = {parameter.default:.60}"


def misfit(parameter: Parameter, value: Any) -> str | None:
    """The fault of a value for a parameter, or None. A value that cannot be judged is right."""
    default, annotation = parameter.default_expression, parameter.annotation
    default_is_none = isinstance(default, ast.Constant) and default.value is None
    if annotation is None and (value is None or default_is_none):
        return None  # null often means "not given", and a default of None fits every value
    if value is None and default_is_none:
        return None
    if annotation is not None:
        wrong, reason = _compare(annotation, value), f"annotation {parameter.type_name}"
    else:
        wrong, reason = _one_of(value, _kinds_of_default(default), ""), f"default {parameter.default:.60}"
    if wrong is None:
        return None
    subject = f"parameter {parameter.name[:100]!r}" + (f" at {wrong.place}" if wrong.place else "")
    return f"{subject} must be {wrong.wanted}, as its {reason} says; got {shown(wrong.value)}"


@dataclass(frozen=True)
class _Wrong:
    """A value, or a part of one at `place`, of the wrong type."""

    place: str
    value: Any
    wanted: str


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _is_one_of(value: Any, kinds: Sequence[type]) -> bool:
    return isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool))


def _named(kinds: Sequence[type]) -> str:
    """`a number or null`, for types."""
    names = [JSON_KINDS[kind] for kind in kinds if not (kind is int and float in kinds)]
    return " or ".join(dict.fromkeys(names))


def _kinds_of_default(default: ast.expr | None) -> tuple[type, ...] | None:
    """The types that fit a default without an annotation; None when that cannot be judged."""
    match default:
        case ast.Constant(value=bool()):
            return (bool,)
        case ast.Constant(value=int() | float()):
            return (float, int)  # 1 is often written where 1.5 is meant as well
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _kinds_of_default(operand)
        case ast.Constant(value=str()) | ast.JoinedStr():
            return (str,)
        case ast.List() | ast.Tuple() | ast.Set() | ast.ListComp() | ast.SetComp():
            return (list,)
        case ast.Dict() | ast.DictComp():
            return (dict,)
        case ast.Call(func=ast.Name(id="int" | "float")):
            return (float, int)
        case ast.Call(func=ast.Name(id="str" | "bool" | "list" | "tuple" | "set" | "frozenset" | "dict" as name)):
            return _TYPES[name]
    return None


def _compare(annotation: ast.expr, value: Any, place: str = "") -> _Wrong | None:
    """The innermost part that does not fit an annotation, or None. Unknown types fit everything."""
    match annotation:
        case ast.Constant(value=None):
            return _one_of(value, (type(None),), place)
        case ast.Constant(value=str() as quoted):
            inner = _expression(quoted)
            return None if inner is None else _compare(inner, value, place)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _one_of(value, _TYPES.get(name.lower()), place)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _any_of([left, right], value, place)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _compare_generic(name, inner.elts if isinstance(inner, ast.Tuple) else [inner], value, place)
    return None


def _one_of(value: Any, kinds: tuple[type, ...] | None, place: str) -> _Wrong | None:
    return None if kinds is None or _is_one_of(value, kinds) else _Wrong(place, value, _named(kinds))


def _any_of(choices: Sequence[ast.expr], value: Any, place: str) -> _Wrong | None:
    wrongs = []
    for choice in choices:
        wrong = _compare(choice, value, place)
        if wrong is None:
            return None
        wrongs.append(wrong)
    inner = [wrong for wrong in wrongs if wrong.place != place]  # the right kind, with something wrong in it
    return inner[0] if inner else _Wrong(place, value, " or ".join(dict.fromkeys(wrong.wanted for wrong in wrongs)))


def _compare_generic(name: str, parts: Sequence[ast.expr], value: Any, place: str) -> _Wrong | None:
    if name == "Optional":
        return _any_of([*parts, ast.Constant(None)], value, place)
    if name == "Union":
        return _any_of(parts, value, place)
    if name in ("Annotated", "Final", "ClassVar"):
        return _compare(parts[0], value, place)
    if name == "Literal":
        return _compare_literal(parts, value, place)
    kinds = _TYPES.get(name.lower())
    if (wrong := _one_of(value, kinds, place)) is not None:
        return wrong
    if isinstance(value, list) and kinds == (list,):
        if name.lower() == "tuple" and not (len(parts) == 2 and _is_ellipsis(parts[1])):
            if len(value) != len(parts):
                return _Wrong(place, value, f"a list of {len(parts)}")
        else:
            parts = [parts[0]] * len(value)
        pairs = zip(parts, value, strict=True)
        return _first(_compare(part, item, f"{place}[{number}]") for number, (part, item) in enumerate(pairs))
    if isinstance(value, dict) and kinds == (dict,) and len(parts) == 2:
        return _first(_compare(parts[1], item, f"{place}[{key[:40]!r}]") for key, item in value.items())
    return None


def _compare_literal(parts: Sequence[ast.expr], value: Any, place: str) -> _Wrong | None:
    try:
        choices = [ast.literal_eval(part) for part in parts]
    except (ValueError, TypeError):
        return None  # of an enumeration
    if any(type(choice) is type(value) and choice == value for choice in choices):
        return None
    return _Wrong(place, value, f"one of {listed(map(repr, choices))}")


def _first(wrongs: Iterable[_Wrong | None]) -> _Wrong | None:
    return next((wrong for wrong in wrongs if wrong is not None), None)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
