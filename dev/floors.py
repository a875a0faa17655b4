"""Prints the lowest versions that pyproject.toml claims, as constraints for pip.

    .venv/bin/python -m dev.floors > constraints.txt
    python3.11 -m venv .venv-floors
    .venv-floors/bin/pip install -e ".[dev]" -c constraints.txt
    .venv-floors/bin/python -m pytest -W ignore::DeprecationWarning

Old libraries call what the newer ones below them have deprecated, so those warnings are no errors there. The tools of
the extra `dev` are left to pip: no user needs them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_FLOOR = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*>=\s*([0-9][0-9A-Za-z.]*)(?:\s*,[^;]*)?")


def floors(project: str) -> Iterator[str]:
    """`name==version` for each dependency in the text of a pyproject.toml, those of the extras for users included.

    Raises:
        ValueError: a dependency has no lowest version, or one that this cannot read.
    """
    table = tomllib.loads(project)["project"]
    wanted = list(table["dependencies"])
    for extra, lines in table["optional-dependencies"].items():
        if extra != "dev":
            wanted += [line for line in lines if not line.startswith(f"{table['name']}[")]
    for line in wanted:
        found = _FLOOR.fullmatch(line)
        if found is None:
            raise ValueError(f"{line!r} has no lowest version")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(floors(PROJECT.read_text(encoding="utf-8"))))
