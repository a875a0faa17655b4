"""The names that a statement of Python loads before it can do anything else: call, convert, bind or change a value."""

from __future__ import annotations

import ast
from collections.abc import Iterable


def first_loads(node: ast.stmt, found: list[str]) -> None:
    """Add the names in the order of their evaluation (Python language reference, 6.16)."""
    match node:
        case ast.Expr() | ast.For() | ast.If() | ast.While() | ast.Assert() | ast.Match() | ast.With():
            _load(_head(node), found)
        case ast.Assign():
            if _load(node.value, found):
                _load_target(node.targets[0], found)
        case ast.AnnAssign() if node.value is not None:
            _load(node.value, found)
        case ast.AugAssign(target=ast.Name(id=name)):
            found.append(name)
            _load(node.value, found)
        case ast.AugAssign():
            _load_target(node.target, found)
        case ast.Delete(targets=[ast.Name(id=name), *_]):
            found.append(name)
        case ast.Delete():
            _load_target(node.targets[0], found)
        case ast.Raise():
            _load_all((one for one in (node.exc, node.cause) if one is not None), found)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            _load_all([*node.decorator_list, *_defaults(node.args)], found)
        case ast.ClassDef():
            _load_class(node, found)


def _head(node: ast.stmt) -> ast.expr:
    """The expression that a statement evaluates first."""
    match node:
        case ast.Expr():
            return node.value
        case ast.For():
            return node.iter
        case ast.If() | ast.While() | ast.Assert():
            return node.test
        case ast.Match():
            return node.subject
        case ast.With():
            return node.items[0].context_expr
    raise TypeError(type(node))


def _load_class(node: ast.ClassDef, found: list[str]) -> None:
    heads = [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]
    if not _load_all(heads, found) or node.bases or node.keywords:
        return  # a metaclass may do anything before the body
    own: set[str] = set()
    for statement in node.body:
        names: list[str] = []
        goes_on = False
        match statement:
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                goes_on = True
            case ast.FunctionDef(name=name, decorator_list=[]):
                goes_on = _load_all(_defaults(statement.args), names)
                bound = name
            case ast.Assign(targets=[ast.Name(id=name)]):
                goes_on = _load(statement.value, names)
                bound = name
            case _:
                first_loads(statement, names)
        found += [name for name in names if name not in own]
        if not goes_on:
            return
        if not isinstance(statement, ast.Expr | ast.Pass):
            own.add(bound)


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *(one for one in arguments.kw_defaults if one is not None)]


def _load_target(node: ast.expr, found: list[str]) -> None:
    """The names that the target of an assignment loads."""
    match node:
        case ast.Attribute():
            _load(node.value, found)
        case ast.Subscript():
            _load_all([node.value, node.slice], found)


def _load_all(nodes: Iterable[ast.expr], found: list[str]) -> bool:
    return all(_load(node, found) for node in nodes)


def _load(node: ast.expr, found: list[str]) -> bool:
    """Add the names of an expression. Returns whether nothing but loads happens in it."""
    match node:
        case ast.Constant():
            return True
        case ast.Name():
            found.append(node.id)
            return True
        case ast.Lambda():
            return _load_all(_defaults(node.args), found)
        case ast.Tuple() | ast.List():
            return _load_all(node.elts, found)
        case ast.Attribute(value=ast.Constant() | ast.List() as value):
            return _load(value, found)  # a method of a type of Python
        case ast.Slice():
            return _load_all((one for one in (node.lower, node.upper, node.step) if one is not None), found)
        case _:
            _load_all(_operands(node), found)
            return False


def _operands(node: ast.expr) -> list[ast.expr]:
    """The expressions that are evaluated before an operation, in their order; the first ones, where that depends."""
    match node:
        case ast.Call():
            return [node.func, *node.args, *(keyword.value for keyword in node.keywords)]
        case ast.Attribute() | ast.Starred() | ast.Await() | ast.NamedExpr() | ast.FormattedValue():
            return [node.value]
        case ast.Subscript():
            return [node.value, node.slice]
        case ast.BinOp():
            return [node.left, node.right]
        case ast.UnaryOp():
            return [node.operand]
        case ast.Compare():
            return [node.left, node.comparators[0]]
        case ast.BoolOp():
            return node.values[:1]
        case ast.JoinedStr():
            return [one for one in node.values if not isinstance(one, ast.Constant)][:1]
        case ast.IfExp():
            return [node.test]
        case ast.Set():
            return node.elts
        case ast.Dict():
            pairs = [*zip(node.keys, node.values, strict=True)]
            unpacked = next((at for at, (key, _) in enumerate(pairs) if key is None), len(pairs))
            before = [one for key, value in pairs[:unpacked] if key is not None for one in (key, value)]
            return [*before, *(value for _, value in pairs[unpacked : unpacked + 1])]
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return [node.generators[0].iter]
    return []
