"""A power cut after any step of a save, with whatever the disk has and has not written by then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dev.power_cut import NEW, OLD, states
from papermill_mcp.utils import file_utils


@pytest.mark.case("F06")
@pytest.mark.parametrize("exists", [True, False], ids=["replace", "create"])
@pytest.mark.parametrize("durable", [True, False], ids=["edit", "run"])
def test_a_power_cut_after_any_step_leaves_the_old_or_the_new_version(
    tmp_path: Path, exists: bool, durable: bool
) -> None:
    """An edit that was acknowledged is there. A save in the middle of a run may be lost, as a whole."""
    found = states(tmp_path, exists=exists, durable=durable)
    old = OLD if exists else None

    assert len(found) > 5
    assert set().union(*found) == {old, NEW}
    assert found[0] == {old}
    assert found[-1] == ({NEW} if durable else {old, NEW})


@pytest.mark.case("F06")
def test_a_save_that_does_not_flush_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    real = file_utils._flushed

    def without_flush(*arguments: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            return real(*arguments, **options)

    monkeypatch.setattr(file_utils, "_flushed", without_flush)

    assert set().union(*states(tmp_path, exists=True, durable=True)) > {OLD, NEW}
