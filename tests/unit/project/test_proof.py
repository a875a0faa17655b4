"""The list of promises, rules, cases and tests is whole."""

from __future__ import annotations

import pytest
from conftest import RECORDER
from helpers import TESTS

from dev.proof import Contract, Promise, Proof, Rule


def test_every_case_is_under_a_rule_and_every_reason_belongs_to_a_case() -> None:
    contract = Contract.load()

    assert len(contract.promises) == 22
    assert [*contract.problems()] == []


def test_every_promise_and_every_case_has_a_test(request: pytest.FixtureRequest) -> None:
    recorder = request.config.stash[RECORDER]
    if recorder.files < {*TESTS.rglob("test_*.py")}:
        pytest.skip("only some of the tests were collected")

    assert recorder.proof.problems() == []


def small(**members: object) -> Proof:
    parts = {"cases": {"P01": "a", "P02": "b"}, "not_covered": {}, "partly": {}} | members
    return Proof(Contract((Promise(1, "p", (Rule("r", ("P01", "P02")),)),), **parts))  # type: ignore[arg-type]


def test_what_is_missing_is_told() -> None:
    proof = small()
    assert len(proof.problems()) == 3
    assert "promise 1 has no test" in proof.problems()

    proof.add("a.py::t[1]", ["P01"])
    assert [line[:3] for line in proof.problems()] == ["P02"]
    assert proof.problems(groups="K") == []

    proof.add("a.py::t[2]", ["P02"])
    assert proof.problems() == []
    assert proof.tests == {"P01": ["a.py::t"], "P02": ["a.py::t"]}


def test_a_reason_is_no_test_and_a_test_needs_no_reason() -> None:
    proof = small(not_covered={"P01": "no", "P02": "no"})
    assert proof.problems() == ["promise 1 has no test"]

    proof.add("a.py::t", ["P01"])
    assert proof.problems() == ["P01 is carried by a.py::t, and listed as not covered"]


def test_a_case_that_is_nowhere_is_told() -> None:
    assert "P02 is under a rule, and is no case" in small(cases={"P01": "a"}).problems()
    assert "P03 is under no rule" in small(cases={"P01": "a", "P02": "b", "P03": "c"}).problems()
    assert "P09 is in partly, and is no case" in small(partly={"P09": "x"}).problems()


def test_the_worst_of_the_last_results_counts() -> None:
    proof = small(not_covered={"P02": "no"})
    for number in range(3):
        proof.add(f"a.py::t[{number}]", ["P01"])
    assert proof.last("a.py::t") == "not run"

    made = {"date": "2026-01-02", "python": "3.11.7"}
    proof.results = {f"a.py::t[{n}]": {"outcome": "passed", **made} for n in range(2)}
    assert proof.last("a.py::t") == "passed 2026-01-02, 1 of 3 not run"
    assert proof.problems() == []

    proof.results = {**proof.results, "a.py::t[2]": {"outcome": "failed", **made}}
    assert proof.problems() == ["a.py::t failed 2026-01-02"]
    assert "1 carried by 1 tests, 1 not covered. Last results: 0 passed, 1 failed" in proof.summary()


def test_results_are_kept_from_run_to_run_and_unknown_cases_stop_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of pytest of its own, with the plugin alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers = case")
    pytester.makeconftest(
        "from dev.proof import Recorder\ndef pytest_configure(config):\n config.pluginmanager.register(Recorder())"
    )
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.case('P01')\ndef test_good(): pass\n"
        "@pytest.mark.case('P03')\ndef test_bad(): assert 0\n"
        "@pytest.mark.case('P04')\ndef test_left(): pytest.skip('x')\n"
        "@pytest.fixture\ndef broken():\n yield\n assert 0\n"
        "@pytest.mark.case('P05')\ndef test_teardown(broken): pass\n"
        "def test_other(): pass\n"
    )
    pytester.runpytest_inprocess("-k", "good or left")
    pytester.runpytest_inprocess("-k", "bad or teardown or other")
    config = pytester.parseconfigure()
    assert config.cache is not None
    kept = {
        test.partition("::")[2]: result["outcome"] for test, result in config.cache.get("proof/results", {}).items()
    }
    assert kept == {"test_good": "passed", "test_left": "skipped", "test_bad": "failed", "test_teardown": "failed"}

    pytester.makepyfile(test_new="import pytest\n@pytest.mark.case('P02')\ndef test_x(): pass")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "P02: not in proof.toml" in str(result.stderr)
