"""Papermill's part of a run: parameters, and an output notebook that is as papermill writes it.

Papermill contributes its own functions for inspection, translation, injection, metadata and error markers. It neither
opens files nor runs code here: notebooks go in and out as nodes, the cells run on our kernel engine. So there is no
change of the working directory, no path that is taken for a URL, and no save of the whole notebook at every cell.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.document import NotebookDocument
from papermill_mcp.core.execution import CellStatus
from papermill_mcp.core.nbformat_lazy import without_uri_grammar
from papermill_mcp.core.notebook_run import RunCell
from papermill_mcp.core.run_file import RunFile
from papermill_mcp.errors import InvalidNotebookError, InvalidParametersError, listed, nearest

with without_uri_grammar():
    import nbformat
    from nbformat.validator import normalize  # noqa: F401 - imports jsonschema while the grammar is kept away
    from papermill.engines import NotebookExecutionManager
    from papermill.exceptions import PapermillException, PapermillExecutionError
    from papermill.execute import prepare_notebook_metadata, raise_for_execution_errors, remove_error_markers
    from papermill.inspection import _infer_parameters
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    from papermill.translators import papermill_translators

_node: Any = nbformat.from_dict  # untyped upstream

_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9_.]*\Z")

#: What a value must be for each annotated type. Booleans are not integers here, and integers are floats.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "tuple": (list,),
    "set": (list,),
    "none": (type(None),),
    "nonetype": (type(None),),
}
_JSON_NAMES = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook, as papermill's inspection finds it.

    Attributes:
        default: the default as source text of the notebook's language.
        type_name: the annotated type, or None.
    """

    name: str
    default: str
    type_name: str | None
    help: str


@dataclass
class PreparedRun:
    """A notebook ready to run: parameters injected, earlier results gone."""

    node: Any
    manager: NotebookExecutionManager
    document: NotebookDocument
    parameters: dict[str, Any]


def inspect_parameters(document: NotebookDocument, kernel_name: str, language: str) -> tuple[list[Parameter], bool]:
    """The parameters of a notebook, and whether papermill can inspect its language at all.

    An empty list with True means that the notebook has no cell tagged `parameters`, or an empty one.
    """
    cell = next((cell for cell in document.cells if "parameters" in cell.tags), None)
    if cell is None:
        return [], True
    tagged = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": cell.source}
    node = _node({"cells": [tagged], "metadata": {}})
    try:
        found = _infer_parameters(node, name=kernel_name, language=language)
        papermill_translators.find_translator(kernel_name, language).inspect(node.cells[0])
    except (PapermillException, NotImplementedError):
        return [], False
    parameters = [
        Parameter(p.name, p.default, None if p.inferred_type_name == "None" else p.inferred_type_name, p.help)
        for p in found
    ]
    if language == "python":
        seen = {parameter.name for parameter in parameters}
        parameters += [parameter for parameter in _assigned(cell.source) if parameter.name not in seen]
    return parameters, True


def _assigned(source: str) -> list[Parameter]:
    """Names that Python code assigns at its top level.

    Papermill's inspection goes by lines and misses some, such as `x: int | None = 1` or `a = b = 1`.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    found = []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.append(Parameter(node.target.id, ast.unparse(node.value), ast.unparse(node.annotation), ""))
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found += [Parameter(name, ast.unparse(node.value), None, "") for name in names]
    return found


def check_parameters(
    values: Mapping[str, Any], document: NotebookDocument, *, kernel_name: str, language: str, strict: bool
) -> list[str]:
    """Check parameters against the notebook. Returns warnings.

    A name is pasted into code by papermill as it is, so it must be a plain name, strict or not.

    Raises:
        InvalidParametersError: a name is unknown (strict), no name at all, or a value does not fit (strict).
    """
    for name in values:
        if not _NAME.match(name) or (language == "python" and (keyword.iskeyword(name) or "." in name)):
            raise InvalidParametersError(
                f"{name[:100]!r} cannot be the name of a {language} variable",
                allowed="a parameter name has letters, digits and underscores",
                state="nothing was run",
            )
    if not values:
        return []
    known, inspected = inspect_parameters(document, kernel_name, language)
    if not inspected or (not known and language not in ("python",)):
        return [f"papermill cannot inspect {language} parameters, so the names and types were not checked"]
    warnings = []
    by_name = {parameter.name: parameter for parameter in known}
    tagged = any("parameters" in cell.tags for cell in document.cells)
    for name, value in values.items():
        parameter = by_name.get(name)
        problem = _unknown(name, by_name, tagged) if parameter is None else _misfit(parameter, value)
        if problem is None:
            continue
        if strict:
            raise InvalidParametersError(
                problem,
                allowed=f"its parameters: {listed(_described(p) for p in known)}" if tagged else "",
                state="nothing was run",
                advice="correct it, or pass strict_parameters=false to inject it all the same"
                if tagged
                else "tag the cell that sets the defaults with `parameters`, or pass strict_parameters=false to inject "
                "the values at the top",
            )
        warnings.append(problem)
    return warnings


def _unknown(name: str, known: Mapping[str, Parameter], tagged: bool) -> str:
    if not tagged:
        return "the notebook has no cell tagged `parameters`"
    near = nearest(name, known)
    return f"the notebook has no parameter {name!r}" + (f"; did you mean {near!r}?" if near else "")


def _described(parameter: Parameter) -> str:
    kind = f": {parameter.type_name}" if parameter.type_name else ""
    return f"{parameter.name}{kind} = {parameter.default}"


def _misfit(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with a value for a parameter, or None. What cannot be judged is right."""
    allowed = _allowed_types(parameter)
    if allowed is None:
        return None
    if isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
        return None
    wanted = " or ".join(
        _JSON_NAMES.get(kind, "null") for kind in dict.fromkeys(allowed) if kind is not int or len(allowed) == 1
    )
    return (
        f"parameter {parameter.name!r} must be {wanted or 'a number'}, as its "
        f"{'annotation ' + parameter.type_name if parameter.type_name else 'default ' + parameter.default} says; "
        f"got {value!r:.80}"
    )


def _allowed_types(parameter: Parameter) -> tuple[type, ...] | None:
    if parameter.type_name:
        return _annotated(parameter.type_name)
    try:
        default = ast.literal_eval(parameter.default)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if default is None:
        return None  # a default of None says nothing about what may come instead
    kind = list if isinstance(default, tuple | set) else type(default)
    if kind not in _JSON_NAMES:
        return None
    # A default of 1 is often written where 1.5 is meant as well.
    return (int, float) if kind in (int, float) else (kind,)


def _annotated(annotation: str) -> tuple[type, ...] | None:
    """The JSON types that fit an annotation, None when that cannot be judged."""
    try:
        return _types_of(ast.parse(annotation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _types_of(node: ast.expr) -> tuple[type, ...] | None:
    match node:
        case ast.Constant(value=None):
            return (type(None),)
        case ast.Constant(value=str() as quoted):
            return _annotated(quoted)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _TYPES.get(name.lower())
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union([left, right])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Optional":
                return _union([*parts, ast.Constant(None)])
            return _union(parts) if name == "Union" else _TYPES.get(name.lower())
    return None


def _union(nodes: list[ast.expr]) -> tuple[type, ...] | None:
    found: list[type] = []
    for node in nodes:
        kinds = _types_of(node)
        if kinds is None:
            return None
        found.extend(kinds)
    return tuple(found)


def prepare(
    document: NotebookDocument,
    values: Mapping[str, Any],
    *,
    kernel_name: str,
    language: str,
    input_path: str,
    output_path: str,
    report_mode: bool,
    shown: str,
) -> PreparedRun:
    """Make the output notebook of a run, as `papermill.execute_notebook` has it before the first cell.

    Raises:
        InvalidNotebookError: nbformat cannot read or upgrade the notebook.
        InvalidParametersError: papermill has no translator for the language, or none for a value.
    """
    node = _as_node(document, shown)
    if values:
        try:
            node = parameterize_notebook(node, dict(values), report_mode, kernel_name=kernel_name, language=language)
        except (PapermillException, NotImplementedError) as error:
            raise InvalidParametersError(
                f"papermill cannot write these parameters in {language}: {error}",
                state="nothing was run",
                advice="a translator can be registered with papermill.translators.papermill_translators.register",
            ) from error
    node = prepare_notebook_metadata(node, input_path, output_path, report_mode)
    node = remove_error_markers(node)
    manager = NotebookExecutionManager(node, progress_bar=False, autosave_cell_every=0)
    manager.notebook_start()
    known, _ = inspect_parameters(document, kernel_name, language)
    injected = _literal_defaults(known) | dict(values)
    return PreparedRun(node, manager, NotebookDocument.from_node(node), injected)


def _literal_defaults(parameters: list[Parameter]) -> dict[str, Any]:
    """The defaults that are plain values. What an expression such as `5 * 2` gives, only the kernel knows."""
    defaults = {}
    for parameter in parameters:
        try:
            value = ast.literal_eval(parameter.default)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, str | int | float | bool | list | dict | None):
            defaults[parameter.name] = value
    return defaults


def _as_node(document: NotebookDocument, shown: str) -> Any:
    """The notebook as papermill's loader gives it: upgraded to the newest 4.x, with the metadata papermill needs.

    Outputs are left behind, since a run begins without them, and large ones take long to convert.
    """
    cells = []
    for cell in document.cells:
        data = dict(cell.data)
        if cell.cell_type == "code":
            data |= {"outputs": [], "execution_count": None}
        cells.append(data)
    whole = {
        "cells": cells,
        "metadata": document.metadata,
        "nbformat": document.nbformat,
        "nbformat_minor": document.nbformat_minor,
    }
    try:
        node = _node(whole)
        for cell in node.cells:
            if isinstance(cell.get("source"), list):
                cell["source"] = "".join(cell["source"])
            cell.setdefault("metadata", _node({}))
        return load_notebook_node(node)
    except Exception as error:
        raise InvalidNotebookError(
            f"{shown} cannot be run, since nbformat does not accept it: {type(error).__name__}: {error}",
            state="nothing was run",
            advice="mend the notebook first; get_notebook_info lists what is wrong with it",
        ) from error


class PapermillObserver:
    """Keeps papermill's metadata up to date and records every change in the output file."""

    def __init__(self, prepared: PreparedRun, file: RunFile) -> None:
        self._node = prepared.node
        self._file = file
        self._manager = prepared.manager
        self._passed = 0  # cells up to here have been told to papermill

    def cell_started(self, cell: RunCell) -> None:
        """Cells before it that do not run are complete, as papermill counts them."""
        self._pass_over(cell.index)
        self._manager.cell_start(self._node.cells[cell.index], cell.index)
        self._record(cell.index)

    def cell_progressed(self, cell: RunCell) -> None:
        """Keep what a long cell has put out so far."""
        self._take(cell)
        self._record(cell.index)

    def cell_finished(self, cell: RunCell) -> None:
        """Keep everything, and what papermill says of the end."""
        self._take(cell)
        node = self._node.cells[cell.index]
        if cell.failed:
            self._manager.cell_exception(node, cell.index)
        self._manager.cell_complete(node, cell.index)
        self._passed = cell.index + 1
        self._record(cell.index)
        self._record_notebook()

    def finish(
        self, language_info: dict[str, Any] | None, *, complete: bool, mark_error: bool
    ) -> NotebookDocument | None:
        """Close the metadata. Returns a whole new document when error markers were put in.

        Args:
            complete: every cell was run.
            mark_error: put papermill's error markers in, as it does when a cell raised and the run stopped there.
        """
        if complete:
            self._pass_over(len(self._node.cells))
        if language_info:
            self._node.metadata["language_info"] = _node(language_info)
        statuses = [cell.metadata.papermill["status"] for cell in self._node.cells]
        self._manager.notebook_complete()
        if not complete:
            # papermill calls cells that never ran completed, unless one failed before them.
            for cell, status in zip(self._node.cells, statuses, strict=True):
                cell.metadata.papermill["status"] = status
        for index in range(len(self._node.cells)):
            self._record(index)
        self._record_notebook()
        if mark_error:
            try:
                raise_for_execution_errors(self._node, None)
            except PapermillExecutionError:
                return NotebookDocument.from_node(self._node)
        return None

    def _pass_over(self, index: int) -> None:
        for number in range(self._passed, index):
            cell = self._node.cells[number]
            if cell.metadata.papermill["status"] == NotebookExecutionManager.PENDING:
                self._manager.cell_start(cell, number)
                self._manager.cell_complete(cell, number)
                self._record(number)
        self._passed = max(self._passed, index)

    def _take(self, cell: RunCell) -> None:
        node = self._node.cells[cell.index]
        if cell.execution is None:
            return
        node.outputs = [_node(output) for output in cell.outputs]
        node.execution_count = cell.execution.execution_count
        node.metadata["execution"] = _node(dict(cell.execution.timing))

    def _record(self, index: int) -> None:
        cell = self._node.cells[index]
        # The metadata goes on changing while a save reads it in another thread, so it gets a copy.
        metadata = dict(cell.metadata)
        metadata["papermill"] = dict(cell.metadata.papermill)
        members: dict[str, Any] = {"metadata": metadata}
        if cell.cell_type == "code":
            members |= {"outputs": cell.outputs, "execution_count": cell.execution_count}
        self._file.record(index, members)

    def _record_notebook(self) -> None:
        metadata = {key: value for key, value in self._node.metadata.items() if key in ("papermill", "language_info")}
        metadata["papermill"] = dict(metadata["papermill"])
        self._file.record_metadata(metadata)


def completed_run(document: NotebookDocument) -> dict[str, Any] | None:
    """The parameters of the papermill run that a notebook is the output of, if that run ended well; else None."""
    metadata = document.metadata.get("papermill")
    if not isinstance(metadata, dict) or not metadata.get("end_time"):
        return None
    for cell in document.cells:
        of_cell = (cell.data.get("metadata") or {}).get("papermill")
        if not isinstance(of_cell, dict):
            return None
        if any(_is_clean_exit(output.get("ename"), output.get("evalue")) for output in cell.outputs):
            break  # what comes behind it never runs
        if of_cell.get("status") != NotebookExecutionManager.COMPLETED:
            return None
    parameters = metadata.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def exit_is_clean(cell: RunCell) -> bool:
    """Whether a cell left by `sys.exit()` or `sys.exit(0)`, which papermill does not count as a failure."""
    error = cell.execution.error if cell.execution else None
    return cell.status == CellStatus.ERROR and error is not None and _is_clean_exit(error.ename, error.evalue)


def _is_clean_exit(ename: object, evalue: object) -> bool:
    return ename == "SystemExit" and evalue in ("", "0")
