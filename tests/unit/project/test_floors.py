"""The lowest versions that the project claims."""

from __future__ import annotations

import pytest

from dev.floors import PROJECT, floors

_TABLE = """
[project]
name = "it"
dependencies = ["a>=1", "b-c >= 2.3.1, <3"]
[project.optional-dependencies]
more = ["d_e.f>=4.0rc1"]
all = ["it[more]"]
dev = ["it[all]", "tool>=9", "free"]
"""


def test_each_dependency_of_a_user_is_held_at_its_lowest_version() -> None:
    assert list(floors(_TABLE)) == ["a==1", "b-c==2.3.1", "d_e.f==4.0rc1"]


@pytest.mark.parametrize("line", ["g", "g<3", "g==1", "g>=1; python_version < '3.12'"])
def test_a_dependency_without_a_lowest_version_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="lowest version"):
        list(floors(_TABLE.replace("a>=1", line)))


def test_every_dependency_of_the_project_has_a_lowest_version() -> None:
    found = list(floors(PROJECT.read_text(encoding="utf-8")))

    assert len(found) == len(set(found)) > 15
    assert any(line.startswith("mcp==") for line in found)
    assert any(line.startswith("distributed==") for line in found)
