"""Packages are written into the declaration of a notebook: its block (PEP 723), or `metadata.uv`.

Comments and order stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from papermill_mcp.core.documents.document import NotebookCell
from papermill_mcp.core.environments.declared import END, START, BlockError, block_in
from papermill_mcp.core.environments.requirements import fault_of, name_of


def recorded(cells: Sequence[NotebookCell], packages: Sequence[str]) -> tuple[int, str] | None:
    """The block of a notebook with more packages.

    Returns:
        The index of its cell, and the new source; None if no cell has a block.
    """
    for index, cell in enumerate(cells):
        block = block_in(cell.source) if cell.cell_type == "code" and START in cell.source else None
        if block is not None:
            lines = cell.source.split("\n")
            lines[block.first : block.behind] = _lines(_with_packages(block.text, packages))
            return index, "\n".join(lines)
    return None


def new_block(packages: Sequence[str], requires_python: str | None) -> str:
    """A block of PEP 723, as the source of a cell."""
    content = tomlkit.document()
    if requires_python is not None:
        content["requires-python"] = requires_python
    content["dependencies"] = tomlkit.array()
    return "\n".join(_lines(_with_packages(tomlkit.dumps(content), packages)))


def replaced(packages: Sequence[Any], new: Sequence[str]) -> list[Any]:
    """A list of requirements with more of them. One of the same name stands where the earlier one stood."""
    found, left = list(packages), {name_of(one): one for one in new}
    for place, one in enumerate(found):
        if isinstance(one, str) and fault_of(one) is None and name_of(one) in left:
            found[place] = left.pop(name_of(one))
    return [*found, *left.values()]


def _lines(text: str) -> list[str]:
    return [START, *(f"# {line}" if line else "#" for line in text.strip("\n").split("\n")), END]


def _with_packages(text: str, packages: Sequence[str]) -> str:
    """TOML with more packages. Comments and order stay.

    Raises:
        ValueError: it is no TOML.
    """
    try:
        content = tomlkit.parse(text)
    except TOMLKitError as error:
        raise BlockError(str(error)) from error
    array = content.get("dependencies")
    if not isinstance(array, Array):
        content["dependencies"] = array = tomlkit.array()
    left = {name_of(one): one for one in packages}
    for place, one in enumerate(list(array)):
        name = name_of(str(one)) if fault_of(str(one)) is None else None
        if name in left:
            array[place] = left.pop(name)
    for one in left.values():
        array.append(one)
    if len(array) > 1:
        array.multiline(True)
    return tomlkit.dumps(content)
