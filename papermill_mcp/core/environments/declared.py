"""The packages that a notebook declares for itself: a block in a cell (PEP 723), or `metadata.uv` as nteract has it.

A block counts if it is the first one, in the order of the code cells. It is only read here; `making` makes the
environment. As in `install_packages`, a package is a name with versions, and no path or address.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.environments.reading import METADATA_KEY
from papermill_mcp.core.environments.requirements import MAX_PACKAGES, checked, fault_of, merged

START, END = "# /// script", "# ///"

#: The first line of a block of any type.
_BEGIN = re.compile(r"# /// ([a-zA-Z0-9-]+)")

#: Characters of a block, at most.
_MAX_CHARS = 50_000

#: Characters of a declaration that are shown.
_SHOWN_CHARS = 200

#: The options of uv that count, and their values.
_OPTIONS = {
    "exclude-newer": re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.]+(Z|[+-]\d\d:\d\d)?)?"),
    "prerelease": re.compile(r"disallow|allow|if-necessary|explicit|if-necessary-or-explicit"),
}


@dataclass(frozen=True)
class Declaration:
    """The needs of a notebook.

    Attributes:
        place: where it says so: `cell 2` or `metadata.uv`.
        packages: checked requirements, in their order.
        requires_python: versions, such as `>=3.12`.
        options: of uv, by name.
        problem: why no environment can be made of it.
    """

    place: str
    packages: tuple[str, ...] = ()
    requires_python: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    problem: str | None = None

    def __str__(self) -> str:
        python = [f"Python {self.requires_python}"] if self.requires_python else []
        needs = ", ".join([*python, *self.packages]) or "no packages"
        return f"{needs if len(needs) <= _SHOWN_CHARS else needs[:_SHOWN_CHARS] + '…'} ({self.place})"

    @property
    def digest(self) -> str:
        """A name that is the same for equal needs, and for nothing else."""
        facts = [sorted(self.packages), self.requires_python, sorted(self.options)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]

    def with_packages(self, packages: Sequence[str]) -> Declaration:
        """The same with more packages: see `requirements.merged`."""
        return replace(self, packages=tuple(merged(self.packages, packages)))


@dataclass(frozen=True)
class Block:
    """The place of a block in a source: numbers of its first line and of the line behind it, and its TOML."""

    first: int
    behind: int
    text: str


def declared_by(document: NotebookDocument) -> Declaration | None:
    """The declaration of a notebook; None if it has none."""
    for index, cell in enumerate(document.cells):
        if cell.cell_type == "code" and START in cell.source:
            place = f"cell {index}"
            try:
                block = block_in(cell.source)
                if block is None:
                    continue
                content = tomllib.loads(block.text)
            except (BlockError, tomllib.TOMLDecodeError, RecursionError) as error:
                return Declaration(place, problem=f"its block (PEP 723) cannot be read: {error}")
            tool = content.get("tool")
            return _checked(place, content, tool.get("uv", {}) if isinstance(tool, dict) else {})
    found = document.metadata.get(METADATA_KEY)
    if found is None or found == {"dependencies": []}:
        return None
    place = f"metadata.{METADATA_KEY}"
    if not isinstance(found, dict):
        return Declaration(place, problem="it is no object")
    rest = {key: value for key, value in found.items() if key not in ("dependencies", "requires-python")}
    return _checked(place, found, rest)


class BlockError(ValueError):
    """A block that has no end, or is not the only one of its cell."""


def block_in(source: str) -> Block | None:
    """The block of a cell. It ends with the last line `# ///` of the comment that it stands in (PEP 723).

    Raises:
        BlockError: it has no end, is too long, or there are two.
    """
    lines = [line.rstrip("\r") for line in source.split("\n")]
    found: list[Block] = []
    at = behind = last = 0
    while at < len(lines):
        begin, first = _BEGIN.fullmatch(lines[at]), at
        at += 1
        if begin is None:
            continue
        if first >= behind:  # else it stands in the same comment as the one before
            behind = at
            while behind < len(lines) and (lines[behind] == "#" or lines[behind].startswith("# ")):
                behind += 1
            last = next((number for number in range(behind - 1, first, -1) if lines[number] == END), first)
        end = last if last > first else None
        if end is not None:
            at = end + 1
        if begin[1] != "script":
            continue
        if end is None:
            raise BlockError(f"line {first + 1} begins it, and no line {END!r} ends it")
        found.append(Block(first, at, "\n".join(line[2:] for line in lines[first + 1 : end])))
    if len(found) > 1:
        raise BlockError("the cell has two, and there may be one")
    if found and len(found[0].text) > _MAX_CHARS:
        raise BlockError(f"it has more than {_MAX_CHARS:,} characters")
    return found[0] if found else None


def _checked(place: str, content: Mapping[str, Any], options: Any) -> Declaration:
    """A declaration, or the first thing in it that cannot be taken."""

    def refused(problem: str) -> Declaration:
        return Declaration(place, problem=problem)

    packages = content.get("dependencies", [])
    if not isinstance(packages, list) or not all(isinstance(one, str) for one in packages):
        return refused("dependencies is no list of texts")
    if len(packages) > MAX_PACKAGES:
        return refused(f"dependencies has {len(packages)} entries; at most {MAX_PACKAGES} are taken")
    for one in packages:
        if (fault := fault_of(one)) is not None:
            return refused(f"{one[:100]!r} in dependencies {fault}")
    python = content.get("requires-python")
    if python is not None:
        try:
            python = str(SpecifierSet(python))
        except (InvalidSpecifier, TypeError, AttributeError):
            return refused(f"requires-python {str(python)[:100]!r} names no versions, as '>=3.12' does")
    if not isinstance(options, dict):
        return refused("the options of uv are no table")
    taken = []
    for name, value in options.items():
        pattern = _OPTIONS.get(name)
        if pattern is None:
            return refused(f"the option {name[:100]!r} of uv is not supported here, only {', '.join(_OPTIONS)}")
        if not pattern.fullmatch(str(value)):
            return refused(f"{name} {str(value)[:100]!r} is no value that uv takes")
        taken.append((name, str(value)))
    return Declaration(place, tuple(dict.fromkeys(map(checked, packages))), python or None, tuple(taken))
