"""What the files of the project say about it must agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPOSITORY

_PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_the_files_agree_about_the_versions_of_python() -> None:
    classifiers = " ".join(_PROJECT["project"]["classifiers"])
    supported = re.findall(r"Python :: (3\.\d+)", classifiers)
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["suite"]["strategy"]["matrix"]
    unproved = {entry["python"] for entry in matrix["include"] if entry["unproved"]}
    readme = (REPOSITORY / "README.md").read_text()

    assert _PROJECT["project"]["requires-python"] == f">={supported[0]}"
    assert matrix["python"] == supported
    assert f"Python {supported[0]} to {supported[-1]}," in readme
    assert unproved.isdisjoint(supported)
    for version in unproved:
        assert f"{version} is not proved" in readme


def test_the_hooks_name_no_environment() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())

    for repository in hooks["repos"]:
        assert repository["repo"] == "local" or re.fullmatch(r"v\d+\.\d+\.\d+", repository["rev"])
        for hook in repository["hooks"]:
            assert "/" not in hook.get("entry", "")


@pytest.mark.slow
def test_coverage_also_measures_the_servers_that_tests_start(tmp_path: Path) -> None:
    """The test that is run here starts a server as a process, and serves nowhere else."""
    report = tmp_path / "coverage.json"
    test = "tests/integration/server/test_stdio.py::test_a_session_of_a_client[legacy]"

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test, "--cov=papermill_mcp", f"--cov-report=json:{report}"],
        cwd=REPOSITORY,
        env=os.environ | {"COVERAGE_FILE": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    files = json.loads(report.read_text())["files"]
    assert files["papermill_mcp/main.py"]["functions"]["serve"]["summary"]["covered_lines"] > 10
    build = files["papermill_mcp/server/app.py"]["functions"]["open_services"]
    assert build["summary"]["covered_lines"] > 10
