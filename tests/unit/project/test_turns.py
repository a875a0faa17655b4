"""Tests with the marker `alone` run alone, also when there are several workers."""

from __future__ import annotations

import pytest
from helpers import TESTS

_SUITE = """
import pathlib
import time

import pytest

def run(name):
    for step in ("begin", "end"):
        with open("log", "a") as log:
            log.write(f"{step} {name}\\n")
        time.sleep(0.02)

@pytest.mark.alone
@pytest.mark.parametrize("number", range(5))
def test_alone(number):
    run(f"alone-{number}")

@pytest.mark.parametrize("number", range(10))
def test_other(number):
    run(f"other-{number}")

@pytest.mark.timeout(300)
def test_long():
    run("long")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite of its own, with the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    pytester.makeini("[pytest]\nmarkers =\n alone\n timeout")
    pytester.makeconftest(
        "import turns\ndef pytest_configure(config):\n config.pluginmanager.register(turns.plugin(config))"
    )
    pytester.makepyfile(_SUITE)
    return pytester


def log_of(suite: pytest.Pytester) -> list[list[str]]:
    return [line.split() for line in (suite.path / "log").read_text().splitlines()]


def test_no_test_runs_beside_one_that_is_alone(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess("-p", "xdist", "-n", "2", "--dist", "worksteal").assert_outcomes(passed=16)

    log = log_of(suite)
    assert len(log) == 32
    for number, (step, name) in enumerate(log):
        if step == "begin" and name.startswith("alone"):
            assert log[number + 1] == ["end", name]


def test_long_tests_come_first_and_those_that_are_alone_last(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess().assert_outcomes(passed=16)

    order = [name.partition("-")[0] for step, name in log_of(suite) if step == "begin"]
    assert order == ["long"] + ["other"] * 10 + ["alone"] * 5
