"""TOML: reads it, and edits its text so that comments, order and form of all else stay.

A new table goes to the end of the text, and a table is removed by its lines. tomlkit does the rest. After each edit the
result is read again: it must have the values that were meant, or the edit is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from papermill_mcp.commands.edit_error import EditError
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import tomlkit
else:
    tomlkit = lazy("tomlkit")

_PLACE = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$")
_HEADER = re.compile(r"\[([^\[\]]+)\][ \t]*(?:#.*)?")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_QUOTES = re.compile("\"\"\"|'''")
_IDLE = re.compile(r"[ \t]*(?:#.*)?")


def find(text: str, path: Sequence[str]) -> Any:
    """The value at a path of names. None if there is none.

    Raises:
        EditError: the text cannot be read.
    """
    value: Any = _read(text)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def snippet(path: Sequence[str], value: dict[str, Any]) -> str:
    """A file that has nothing but a table at a path of names."""
    lines = [f"[{'.'.join(_key(key) for key in path)}]"]
    lines += [f"{_key(key)} = {tomlkit.item(one).as_string()}" for key, one in value.items()]
    return "\n".join(lines) + "\n"


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with a value at a path of names. Missing tables on the way are made.

    Raises:
        EditError: the text cannot be read, or something on the way is not a table, or the edit would change more.
    """
    values = _read(text)
    holder: Any = values
    for depth, key in enumerate(path[:-1]):
        holder = holder.setdefault(key, {})
        if not isinstance(holder, dict):
            raise EditError(f"{'.'.join(path[: depth + 1])} is not a table", text, 0)
    is_new = path[-1] not in holder
    holder[path[-1]] = value
    if is_new and isinstance(value, dict):
        changed = _appended(text, snippet(path, value))
        if _means(changed, values):
            return changed
    return _checked(text, _assigned(text, path, value), values)


def remove(text: str, path: Sequence[str]) -> str:
    """The text without the value at a path of names. It is the same if there is no such value.

    Raises:
        EditError: the text cannot be read, or the edit would change more.
    """
    if find(text, path) is None:
        return text
    values = _read(text)
    holder: Any = values
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    without_lines = _without_tables(text, path)
    if _means(without_lines, values) or _means(without_lines, _without_empty(values, path)):
        return without_lines
    document: Any = tomlkit.parse(text)
    table = document
    for key in path[:-1]:
        table = table[key]
    del table[path[-1]]
    return _checked(text, tomlkit.dumps(document), values)


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        place = _PLACE.search(str(error))
        position = len(text.rstrip())
        if place is not None and place[1]:
            lines = text.replace("\r\n", "\n").split("\n")
            position = sum(len(line) + 1 for line in lines[: int(place[1]) - 1]) + int(place[2]) - 1
        raise EditError(_PLACE.sub("", str(error)), text.replace("\r\n", "\n"), position) from error


def _means(text: str, values: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == values
    except ValueError:
        return False


def _checked(text: str, changed: str, values: dict[str, Any]) -> str:
    if not _means(changed, values):
        raise EditError("this form of the table cannot be edited safely", text, 0)
    return changed


def _without_empty(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The values without the tables on the path that are empty now: only a longer header had made them."""
    if len(path) < 2:
        return values
    inner = values[path[0]]
    left = _without_empty(inner, path[1:]) if isinstance(inner, dict) else inner
    return values | {path[0]: left} if left else {key: one for key, one in values.items() if key != path[0]}


def _appended(text: str, block: str) -> str:
    """The text with a table behind it. A file that ends without a line end stays such a file."""
    if "\r\n" in text:
        block = block.replace("\n", "\r\n")
    newline = "\r\n" if "\r\n" in text else "\n"
    if not text:
        return block
    if text.endswith("\n"):
        return text + newline + block
    return text + newline + newline + block.removesuffix(newline)


def _assigned(text: str, path: Sequence[str], value: Any) -> str:
    document: Any = tomlkit.parse(text)
    holder = document
    for key in path[:-1]:
        if key not in holder:
            holder[key] = tomlkit.table(is_super_table=True)
        holder = holder[key]
    if isinstance(value, dict) and isinstance(holder, tomlkit.items.InlineTable):
        inline = tomlkit.inline_table()
        inline.update(value)
        value = inline
    holder[path[-1]] = value
    return tomlkit.dumps(document)


def _without_tables(text: str, path: Sequence[str]) -> str:
    """The text without the lines of a table and of the tables in it. Comments before the next table stay."""
    lines = _LINES.findall(text)
    kept: list[str] = []
    block: list[str] | None = None
    in_text = False  # of several lines
    for line in [*lines, None]:
        header = None if line is None or in_text else _HEADER.fullmatch(line.rstrip("\r\n"))
        if line is not None and not _IDLE.fullmatch(line.rstrip("\r\n")):
            in_text ^= len(_QUOTES.findall(line)) % 2 == 1
        if line is not None and header is None:
            (kept if block is None else block).append(line)
            continue
        if block is not None:
            idle = len(block)
            while idle and _IDLE.fullmatch(block[idle - 1].rstrip("\r\n")):
                idle -= 1
            _join(kept, block[idle:], ended=idle == 0 or block[idle - 1].endswith("\n"))
            block = None
        if line is not None and header is not None and _names(header[1], path):
            block = [line]
        elif line is not None:
            kept.append(line)
    return "".join(kept)


def _join(kept: list[str], rest: list[str], *, ended: bool) -> None:
    """Put the lines behind a removed table to those before it. One empty line between them goes with the table."""
    if kept and not kept[-1].strip():
        kept.pop()
    if not ended and kept:  # the table was the end of a file without a line end
        kept[-1] = kept[-1].rstrip("\r\n")
    kept.extend(rest)


def _names(header: str, path: Sequence[str]) -> bool:
    """Whether a header is that of the table at a path, or of one in it."""
    try:
        value: Any = tomllib.loads(f"[{header}]")
    except ValueError:
        return False
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _key(key: str) -> str:
    return tomlkit.key(key).as_string()
