"""Sets of parameters in a file: a table (`.csv`), or a list of objects (`.json`, `.yaml`).

A value in a table is text. It becomes a value of the type that the parameter of the notebook has (`typed`).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.papermill.parameters import NotebookParameters, Parameter, misfit
from papermill_mcp.errors import InvalidArgumentError, listed
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.memory import collector_paused
from papermill_mcp.utils.text_utils import json_kind

if TYPE_CHECKING:
    import yaml
else:
    yaml = lazy("yaml")

#: The kinds of files, by suffix.
SUFFIXES = (".csv", ".json", ".yaml", ".yml")

_DELIMITERS = ",;\t"
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*)(?:\.0*)?", re.ASCII)
#: A post code, or the number of a customer: a number would lose its zeros.
_LEADING_ZEROS = re.compile(r"[+-]?0\d+", re.ASCII)
_STATE = "nothing was run"


class TextSet(dict[str, str]):
    """A set of parameters from a table: values are text, and have their types yet to come.

    Attributes:
        columns: all names of the table.
        line: that of the set in the file, from 1.
    """

    def __init__(self, values: Mapping[str, str], columns: Sequence[str] = (), line: int = 0) -> None:
        super().__init__(values)
        self.columns = columns
        self.line = line


def sets_in(data: bytes, suffix: str, name: str) -> Sequence[dict[str, Any]]:
    """The sets of parameters in a file.

    Args:
        suffix: one of `SUFFIXES`.
        name: the file, for messages.

    Raises:
        InvalidArgumentError: the file has another form.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(f"{name} is not UTF-8, from byte {error.start} on", "save it as UTF-8") from None
    if suffix == ".csv":
        with collector_paused():
            return [*_table(text, name)]
    try:
        value = json.loads(text, object_pairs_hook=_each_once) if suffix == ".json" else _from_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if suffix == ".json" else "YAML"
        raise _fault(f"{name} is no {kind}: {' '.join(str(error).split())[:300]}", "correct the file") from None
    return listed_sets([value] if isinstance(value, dict) else value, name)


def listed_sets(value: Any, name: str) -> Sequence[dict[str, Any]]:
    """A list of objects, as sets of parameters.

    Raises:
        InvalidArgumentError: it is none.
    """
    if not isinstance(value, list):
        raise _fault(f"{name} is {json_kind(value)}", "give a list of objects, each with the parameters of one run")
    for number, one in enumerate(value):
        if not isinstance(one, dict):
            raise _fault(f"run {number} of {name} is {json_kind(one)}", "give an object, with names as keys")
        if wrong := [key for key in one if not isinstance(key, str)]:
            raise _fault(f"run {number} of {name} has the name {wrong[0]!r:.60}, which is no text", "put it in quotes")
    return value


def typed(values: Mapping[str, str], parameters: NotebookParameters) -> dict[str, Any]:
    """Text values as values of the types that the parameters of the notebook have.

    Text that fits no type stays text; the check of parameters refuses it.
    """
    found: dict[str, Any] = {}
    for name, text in values.items():
        parameter = parameters.by_name.get(name)
        fractions = parameter is not None and _has_fractions(parameter)
        fits = [one for one in _readings(text, fractions) if parameter is None or misfit(parameter, one) is None]
        as_text = _LEADING_ZEROS.fullmatch(text.strip()) is not None and text in fits
        found[name] = text if as_text or not fits else fits[0]
    return found


def _has_fractions(parameter: Parameter) -> bool:
    """Whether a parameter is a number with fractions, by its type or its default."""
    default = parameter.default_expression
    is_fraction = isinstance(default, ast.Constant) and isinstance(default.value, float)
    return misfit(parameter, 0.5) is None and (parameter.annotation is not None or is_fraction)


def unknown_columns(columns: Sequence[str], parameters: NotebookParameters) -> dict[str, str]:
    """The columns of a table that no parameter of the notebook has, each with an empty text."""
    return {column: "" for column in columns if parameters.inspected and column not in parameters.by_name}


def _readings(text: str, fractions: bool) -> Iterator[Any]:
    """The values that a text may stand for, the most special first.

    Args:
        fractions: the parameter may have them, so `1.0` is no integer.
    """
    stripped = text.strip()
    if stripped.lower() in _WORDS:
        yield _WORDS[stripped.lower()]
    if _NUMBER.fullmatch(stripped) and not (fractions and "." in stripped):
        yield int(stripped.partition(".")[0])  # spreadsheets write 3.0 where a column has an empty cell
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(stripped)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, int | float | list | dict) and value == value and not isinstance(value, bool):
            yield value
    yield text


def _table(text: str, name: str) -> Iterator[TextSet]:
    """The rows of a table below its header. An empty cell is not given."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)  # of equal ones the comma
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    columns: list[str] = []
    try:
        for row in reader:
            if not "".join(row).strip() and (header is None or len(row) < 2):
                continue  # an empty line; one of empty cells is a run with the defaults
            if header is None:
                header = _header(row, name)
                columns = [column for column in header if column]
                continue
            if any(cell.strip() for cell in row[len(header) :]):
                raise _fault(
                    f"line {reader.line_num} of {name} has {len(row)} cells, and its header {len(header)}",
                    "put cells with the delimiter in quotes",
                )
            cells = zip(header, row, strict=False)
            given = {column: cell for column, cell in cells if column and cell.strip()}
            yield TextSet(given, columns, reader.line_num)
    except csv.Error as error:
        raise _fault(f"line {reader.line_num} of {name} is no line of a table: {error}", "correct the file") from None


def _header(row: Sequence[str], name: str) -> list[str]:
    header = [cell.strip() for cell in row]
    named = [cell for cell in header if cell]
    twice = sorted({cell for cell in named if named.count(cell) > 1})
    if not named or twice:
        fault = f"has the column {listed(map(repr, twice))} twice" if twice else "has no header"
        raise _fault(f"{name} {fault}", "its first line names the parameters, each once")
    return header


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members.

    Raises:
        ValueError: a name stands there twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)[:100]!r} stands there twice")
    return made


def _from_yaml(text: str) -> Any:
    """YAML with the types of JSON: dates stay text. References are refused: a few of them make gigabytes."""

    class Loader(yaml.SafeLoader):
        """Reads no dates, and no key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            _each_once([(key, None) for key in keys])
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise ValueError("it has references (*name), which are not read")
    return yaml.load(text, Loader=Loader)


def _fault(problem: str, advice: str) -> InvalidArgumentError:
    return InvalidArgumentError(problem, state=_STATE, advice=advice)
