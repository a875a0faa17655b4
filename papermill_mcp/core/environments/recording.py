"""Packages are written into the declaration of a notebook: its block (PEP 723), or `metadata.uv`.

Comments and order stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from papermill_mcp.core.documents.document import NotebookCell
from papermill_mcp.core.environments.declared import END, START, BlockError, block_in
from papermill_mcp.core.environments.requirements import merged


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
    before = [str(one) for one in array]
    after = merged(before, packages)
    for place, one in enumerate(after):
        if place >= len(before):
            array.append(one)
        elif one != before[place]:
            array[place] = one
    if len(array) > 1:
        array.multiline(True)
    return tomlkit.dumps(content)
