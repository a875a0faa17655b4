"""The prose of the package is plain: few words of a private dialect."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev import house

_DIALECT = '"""What nobody told us."""\n# whatever `what` means\nx = "who waits for that"\n'


def test_the_dialect_stays_below_its_limit() -> None:
    """`python -m dev.house --places` lists the places."""
    assert house.dialect_rate() <= house.LIMIT, house.report()


def test_a_word_of_the_dialect_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text(_DIALECT)
    monkeypatch.setattr(house, "PACKAGE", tmp_path)

    total, counted = house.prose_rates()

    assert total == 10
    assert counted == {"what": 1, "nobody": 1, "told": 1, "whatever": 1, "who": 1}


def test_siblings_that_import_each_other_are_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "papermill_mcp"
    package.mkdir()
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (package / f"{name}.py").write_text(f"from papermill_mcp import {other}\n")
    monkeypatch.setattr(house, "PACKAGE", package)

    assert house.circles() == [["papermill_mcp.a", "papermill_mcp.b", "papermill_mcp.c"]]
