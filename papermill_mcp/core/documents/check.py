"""Problems of a notebook by the rules of its format, in words; and the conversion of version 3.

nbformat knows the rules. Its own messages quote the schema and the notebook at length, so they are not passed on.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.quick_check import without_right_outputs
from papermill_mcp.core.documents.reading import CELL_ID, quoted, shown_id
from papermill_mcp.errors import InvalidNotebookError, listed
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import JSON_KINDS, cell_name, json_kind

if TYPE_CHECKING:
    import nbformat
    from nbformat import validator as nbformat_validator
else:
    nbformat = lazy("nbformat")
    nbformat_validator = lazy("nbformat.validator")

_CHUNK = 200  # cells checked at a time
_MOST = 50  # problems listed
_TYPES: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
}
_CELL_TYPES = ("code", "markdown", "raw")
_OUTPUT_TYPES = ("execute_result", "display_data", "stream", "error")


class _Unchecked(Exception):
    """The time is over."""


def find_problems(document: NotebookDocument, *, seconds: float) -> list[str]:
    """The problems of a notebook, at most 50.

    Takes at most about `seconds`, and says which cells were not looked at.
    """
    if document.nbformat < 4:
        return [f"it is of nbformat {document.nbformat}: it can be read, and edited after the operation `convert`"]
    problems: list[str] = []
    deadline = time.monotonic() + seconds
    checked = 0
    try:
        problems += _ids(document)
        problems += _outer(document)
        for start in range(0, len(document.cells), _CHUNK):
            if time.monotonic() > deadline:
                raise _Unchecked
            for index, problem in _cells(document, start, deadline):
                problems.append(f"cell {_name(document, index)}: {problem}")
            checked = start + _CHUNK
            if len(problems) > _MOST:
                break
    except _Unchecked:
        problems.append(f"cells {checked} to {len(document.cells) - 1} were not checked: it took too long")
    except RecursionError:
        problems.append(f"from cell {checked} on, a value is nested too deeply to be checked")
    if len(problems) > _MOST:
        problems[_MOST:] = ["there are more problems"]
    return problems


def content_problems(content: Mapping[str, Any]) -> list[str]:
    """The problems of a whole notebook of nbformat 4 that is to be written."""
    found = [*_schema_problems({**content, "cells": []})]
    for index, cell in enumerate(content["cells"]):
        found += [f"cells[{index}]: {problem}" for problem in _cell_problems(cell, content)]
        if len(found) >= _MOST:
            break
    return found


def is_valid(content: Mapping[str, Any]) -> bool:
    """Whether a whole notebook of nbformat 4 is as its format wants it. Fast."""
    minor = content.get("nbformat_minor")
    return type(minor) is int and _fast_valid(content, minor)


def upgraded(document: NotebookDocument, *, display_path: str) -> NotebookDocument:
    """A notebook of version 3 as one of version 4.5, by nbformat's conversion.

    Raises:
        InvalidNotebookError: nbformat cannot convert it.
    """
    try:
        node = nbformat.reads(document.render().decode("utf-8-sig"), as_version=4)
    except Exception as error:  # it raises nearly anything on broken notebooks
        raise InvalidNotebookError(
            f"{display_path} cannot be converted: {type(error).__name__}: {str(error)[:300]}",
            state="The file is unchanged",
            advice="Open it in JupyterLab and save it there",
        ) from error
    return NotebookDocument.from_node(node, final_newline=True, display_path=display_path)


def _ids(document: NotebookDocument) -> Iterator[str]:
    if not document.supports_ids:
        return
    without = [index for index, cell in enumerate(document.cells) if cell.cell_id is None]
    if without:
        yield (
            f"{len(without)} of {len(document.cells)} cells have no id (index {listed(map(str, without), limit=8)}); "
            "name them by index, or give them ids with the operation `add_ids`"
        )
    counts = Counter(cell.cell_id for cell in document.cells if cell.cell_id is not None)
    for cell_id, number in counts.items():
        if number > 1:
            places = [str(index) for index, cell in enumerate(document.cells) if cell.cell_id == cell_id]
            yield (
                f"the id {quoted(cell_id)} is that of {number} cells (index {listed(places, limit=8)}); the operation "
                "`add_ids` renames all but the first"
            )


def _outer(document: NotebookDocument) -> Iterator[str]:
    yield from _schema_problems({**document.outer_members(), "cells": []})


def _cells(document: NotebookDocument, start: int, deadline: float) -> Iterator[tuple[int, str]]:
    chunk = document.cells[start : start + _CHUNK]
    known: list[dict[str, Any]] = []
    for offset, cell in enumerate(chunk):
        if time.monotonic() > deadline:
            raise _Unchecked
        right = without_right_outputs(cell.raw)
        data, problems = (right, []) if right is not None else _read(cell)
        known.append(_with_id(data, document))
        for problem in problems:
            yield start + offset, problem
    whole = {"metadata": {}, "nbformat": 4, "nbformat_minor": document.nbformat_minor}
    if _fast_valid({**whole, "cells": known}, document.nbformat_minor):
        return
    for offset, (cell, data) in enumerate(zip(chunk, known, strict=True)):
        if time.monotonic() > deadline:
            raise _Unchecked
        if not _fast_valid({**whole, "cells": [data]}, document.nbformat_minor):
            for problem in _cell_problems(_with_id(cell.read(), document), whole):
                yield start + offset, problem


def _with_id(data: dict[str, Any], document: NotebookDocument) -> dict[str, Any]:
    """A cell with an id where it lacks one: missing ids are listed by themselves."""
    return {**data, "id": "x"} if document.supports_ids and "id" not in data else data


def _read(cell: NotebookCell) -> tuple[dict[str, Any], list[str]]:
    """A cell, and where JSON readers differ about it: keys that stand twice, and numbers that JSON does not have."""
    problems: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            problems.extend(
                f"the key {quoted(key)} stands there {number} times; the last one counts"
                for key, number in counts.items()
                if number > 1
            )
        return made

    def constant(name: str) -> float:
        problems.append(f"{name} is no JSON; other programs may refuse the notebook")
        return float(name)

    try:
        data = json.loads(bytes(cell.raw), object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError):
        return cell.read(), []
    return data, list(dict.fromkeys(problems))[:5]


def _fast_valid(content: Any, minor: int) -> bool:
    validator = _validator(minor, "fastjsonschema")
    if validator is None:
        return False
    try:
        validator.validate(content)
    except RecursionError:
        raise
    except Exception:  # its own exceptions, and those of its generated code on odd values
        return False
    return True


def _validator(minor: int, name: str) -> Any:
    return nbformat_validator.get_validator(4, minor, name=name)


def _cell_problems(cell: Any, whole: Mapping[str, Any]) -> list[str]:
    minor = whole.get("nbformat_minor", 0)
    outer = {"metadata": {}, "nbformat": 4, "nbformat_minor": minor}
    if _fast_valid({**outer, "cells": [cell]}, minor):
        return []
    if not isinstance(cell, dict):
        return ["it is not an object"]
    kind = cell.get("cell_type")
    if kind not in _CELL_TYPES:
        return [
            f"it has the cell_type {quoted(kind)}; known are {', '.join(_CELL_TYPES)}"
            if kind
            else "it has no cell_type"
        ]
    problems: list[str] = []
    if "id" in cell and not (isinstance(cell["id"], str) and CELL_ID.fullmatch(cell["id"])) and minor >= 5:
        problems.append(f"the id {quoted(cell['id'])} is none: ids have 1 to 64 letters, digits, - or _")
    validator = _validator(minor, "jsonschema")
    if validator is None:
        return [*problems, "its format is not known"]
    definitions = validator._schema["definitions"]
    rest = {key: value for key, value in cell.items() if key != "outputs" and not (key == "id" and problems)}
    if problems:
        rest["id"] = "x"
    if isinstance(cell.get("outputs"), list):
        rest["outputs"] = []
        for number, output in enumerate(cell["outputs"]):
            problems += [
                f"outputs[{number}]: {problem}" for problem in _output_problems(output, definitions, validator)
            ]
            if len(problems) > 5:
                break
    elif "outputs" in cell:
        rest["outputs"] = cell["outputs"]
    problems += _explained(validator, rest, {"$ref": f"#/definitions/{kind}_cell", "definitions": definitions})
    return problems[:5] or ["it does not fit the format"]


def _output_problems(output: Any, definitions: Any, validator: Any) -> list[str]:
    if not isinstance(output, dict):
        return ["it is not an object"]
    kind = output.get("output_type")
    if kind not in _OUTPUT_TYPES:
        known = ", ".join(_OUTPUT_TYPES)
        return [f"it has the output_type {quoted(kind)}; known are {known}" if kind else "it has no output_type"]
    return _explained(validator, output, {"$ref": f"#/definitions/{kind}", "definitions": definitions})


def _schema_problems(content: Mapping[str, Any]) -> list[str]:
    minor = content.get("nbformat_minor", 0)
    if not isinstance(minor, int) or isinstance(minor, bool) or minor < 0:
        return [f"nbformat_minor is {quoted(minor)}, not a whole number"]
    if _fast_valid(content, minor):
        return []
    validator = _validator(minor, "jsonschema")
    if validator is None:
        return [f"nbformat 4.{minor} is not known"]
    return _explained(validator, content, validator._schema)


def _explained(validator: Any, data: Any, schema: Any) -> list[str]:
    found = []
    for error in validator.iter_errors(data, schema):
        found.append(_explanation(error))
        if len(found) == 5:
            break
    return found


def _explanation(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{shown_id(str(part))}" for part in error.path).lstrip(
        "."
    )
    subject = place or "it"
    match error.validator:
        case "required":
            lacking = [key for key in error.validator_value if key not in error.instance]
            return f"{subject} lacks {listed(map(quoted, lacking))}"
        case "additionalProperties":
            known = error.schema.get("properties", {})
            extra = [key for key in error.instance if key not in known]
            return f"{subject} has {listed(map(quoted, extra), limit=5)}, which the format does not know"
        case "type":
            return f"{subject} must be {_kinds(error.validator_value)}, and is {json_kind(error.instance)}"
        case "enum":
            return f"{subject} is {quoted(error.instance)}; allowed: {listed(map(str, error.validator_value))}"
        case "oneOf" | "anyOf":
            wanted = [choice.get("type") for choice in error.validator_value if isinstance(choice, dict)]
            if all(wanted):
                return f"{subject} must be {_kinds(wanted)}, and is {json_kind(error.instance)}"
            return f"{subject} has none of the forms that the format allows"
        case "minimum":
            return f"{subject} is {quoted(error.instance)}, less than {error.validator_value}"
        case "uniqueItems":
            return f"{subject} holds a value twice"
        case _:
            return f"{subject} is {quoted(error.instance)}, against the rule {error.validator} of the format"


def _kinds(kinds: str | Iterable[Any]) -> str:
    flat = (
        [kinds]
        if isinstance(kinds, str)
        else [k for kind in kinds for k in ([kind] if isinstance(kind, str) else kind)]
    )
    return " or ".join(dict.fromkeys(JSON_KINDS[_TYPES[kind]] if kind in _TYPES else str(kind) for kind in flat))


def _name(document: NotebookDocument, index: int) -> str:
    return cell_name(index, document.cells[index].cell_id)
