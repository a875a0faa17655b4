"""What is promised, and by which tests it is shown.

    python -m dev.proof

Lists promise, rule, case, test and the last result of the test. Ends with 1 if a promise has no test, a case neither a
test nor a reason to have none, if a marker names an unknown case, or if a test failed when it was run last. Promises,
rules and cases are in `proof.toml`. Tests are collected, not run; results are those that pytest has cached.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = "proof/results"
"""Where in pytest's cache `conftest` keeps the last result of each test that carries a case."""

Results = Mapping[str, Mapping[str, str]]
"""Outcome, date and version of Python, by the id of the test."""


@dataclass(frozen=True)
class Rule:
    text: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Promise:
    number: int
    text: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Contract:
    """What `proof.toml` says.

    Attributes:
        cases: what each case is about, by its id.
        not_covered: why no test carries a case.
        partly: what the tests of a case leave out.
    """

    promises: tuple[Promise, ...]
    cases: Mapping[str, str]
    not_covered: Mapping[str, str]
    partly: Mapping[str, str]

    @classmethod
    def load(cls) -> Contract:
        data = tomllib.loads(Path(__file__).with_name("proof.toml").read_text(encoding="utf-8"))
        return cls(
            tuple(
                Promise(number, one["text"], tuple(Rule(rule["text"], tuple(rule["cases"])) for rule in one["rules"]))
                for number, one in enumerate(data["promises"], 1)
            ),
            data["cases"],
            data["not_covered"],
            data["partly"],
        )

    def problems(self) -> Iterator[str]:
        """What is wrong with the page itself."""
        named = {case for promise in self.promises for rule in promise.rules for case in rule.cases}
        yield from (f"{case} is under a rule, and is no case" for case in sorted(named - self.cases.keys()))
        yield from (f"{case} is under no rule" for case in sorted(self.cases.keys() - named))
        for name in ("not_covered", "partly"):
            yield from (f"{case} is in {name}, and is no case" for case in getattr(self, name).keys() - self.cases)


@dataclass
class Proof:
    """The contract and the tests.

    Attributes:
        tests: the tests of each case, by their ids without parameters.
        ids: the ids with parameters, by those without.
    """

    contract: Contract
    results: Results = field(default_factory=dict)
    tests: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)

    def add(self, node_id: str, cases: Sequence[str]) -> None:
        """Take up a test that carries cases."""
        test = test_of(node_id)
        for case in cases:
            tests = self.tests.setdefault(case, [])
            if test not in tests:
                tests.append(test)
        self.ids.setdefault(test, []).append(node_id)

    def problems(self, *, groups: str = "BPNFKJLS") -> list[str]:
        """What is missing or wrong.

        Args:
            groups: letters of the cases that must have tests.
        """
        contract = self.contract
        found = [*contract.problems()]
        for promise in contract.promises:
            cases = {case for rule in promise.rules for case in rule.cases if case[0] in groups}
            if cases and not cases & self.tests.keys():
                found.append(f"promise {promise.number} has no test")
        for case in contract.cases:
            if case in self.tests and case in contract.not_covered:
                found.append(f"{case} is carried by {self.tests[case][0]}, and listed as not covered")
            elif case not in self.tests and case not in contract.not_covered and case[0] in groups:
                found.append(f"{case} has no test, and no reason to have none: {contract.cases[case]}")
        found += [f"{test} {self.last(test)}" for test in self.carrying() if self.last(test).startswith("failed")]
        return found

    def carrying(self) -> list[str]:
        """The tests that carry cases."""
        return sorted({test for tests in self.tests.values() for test in tests})

    def last(self, test: str) -> str:
        """The last result of a test, the worst one of its parameters, in words."""
        results = [self.results[one] for one in self.ids[test] if one in self.results]
        for outcome in ("failed", "passed", "skipped"):
            if chosen := [one["date"] for one in results if one["outcome"] == outcome]:
                missing = len(self.ids[test]) - len(results)
                return f"{outcome} {max(chosen)}" + (f", {missing} of {len(self.ids[test])} not run" if missing else "")
        return "not run"

    def summary(self) -> str:
        """One line with the numbers."""
        cases, tests = self.contract.cases, self.carrying()
        rules = sum(len(promise.rules) for promise in self.contract.promises)
        results = Counter(self.last(test).partition(" 2")[0].partition(",")[0] for test in tests)
        reported = ", ".join(f"{results[name]} {name}" for name in ("passed", "failed", "skipped", "not run"))
        versions = sorted({one["python"] for test in tests for i in self.ids[test] if (one := self.results.get(i))})
        return (
            f"{len(self.contract.promises)} promises, {rules} rules, {len(cases)} cases: "
            f"{len(cases.keys() & self.tests.keys())} carried by {len(tests)} tests, "
            f"{len(self.contract.not_covered)} not covered. Last results: {reported}"
            + (f" (Python {', '.join(versions)})." if versions else ".")
        )


def test_of(node_id: str) -> str:
    """The id of a test without its parameters."""
    return node_id.partition("[")[0]


class Recorder:
    """A plugin of pytest: knows the tests that were collected, and keeps the results of those that carry cases.

    Attributes:
        files: the test files of which tests were collected.
    """

    def __init__(self) -> None:
        self.proof = Proof(Contract.load())
        self.files: set[Path] = set()
        self._seen: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)  # before any are left out
    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self.files.add(item.path)
            cases = [case for marker in item.iter_markers("case") for case in marker.args]
            if unknown := set(cases) - self.proof.contract.cases.keys():
                raise pytest.UsageError(f"{item.nodeid} carries {', '.join(sorted(unknown))}: not in proof.toml")
            if cases:
                self.proof.add(item.nodeid, cases)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test has up to three reports. What is wrong in one of them is wrong with the test. Markers are
        # read from the report: the main process of pytest-xdist collects no tests.
        tells = report.outcome != "passed" or report.when == "call"
        if tells and self._seen.get(report.nodeid) != "failed" and "case" in report.keywords:
            self._seen[report.nodeid] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # With `-p no:cacheprovider` there is no cache. Of several processes only the main one has all results.
        if not self._seen or hasattr(session.config, "workerinput") or getattr(session.config, "cache", None) is None:
            return
        made = {"date": date.today().isoformat(), "python": platform.python_version()}
        assert session.config.cache is not None
        before = session.config.cache.get(RESULTS, {})
        now = {test: {"outcome": outcome, **made} for test, outcome in self._seen.items()}
        session.config.cache.set(RESULTS, before | now)


def collect() -> Proof:
    """All tests, slow ones too, with their last results. Nothing is run.

    Raises:
        RuntimeError: the tests cannot be collected.
    """

    class Results:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            assert session.config.cache is not None
            recorder.proof.results = session.config.cache.get(RESULTS, {})

    recorder = Recorder()
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main(
            ["--collect-only", "-q", "-n", "0", "-m", "slow or not slow", "--rootdir", str(ROOT), str(ROOT / "tests")],
            plugins=[recorder, Results()],
        )
    if code:
        raise RuntimeError(f"the tests cannot be collected:\n{output.getvalue()[-3000:]}")
    return recorder.proof


def as_text(proof: Proof) -> Iterator[str]:
    """The list, indented."""
    for promise in proof.contract.promises:
        yield f"{promise.number}. {promise.text}"
        for rule in promise.rules:
            yield f"  - {rule.text}"
            for case in rule.cases:
                yield f"    {case} {proof.contract.cases.get(case, '?')}"
                yield from (f"        {test}: {proof.last(test)}" for test in proof.tests.get(case, ()))


def as_markdown(proof: Proof) -> Iterator[str]:
    """The list as a table."""
    yield "| promise | rule | case | test | last result |"
    yield "|---|---|---|---|---|"
    for promise in proof.contract.promises:
        for rule in promise.rules:
            for case in rule.cases:
                for test in proof.tests.get(case) or [""]:
                    last = proof.last(test) if test else ""
                    row = [f"{promise.number}. {promise.text}", rule.text, f"{case}: {proof.contract.cases.get(case)}"]
                    yield f"| {' | '.join(row)} | {f'`{test}`' if test else ''} | {last} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list and what is wrong with it."""
    parser = argparse.ArgumentParser(description="Promises, rules, cases, tests, and their last results.")
    parser.add_argument("--markdown", action="store_true", help="as a table")
    arguments = parser.parse_args(argv)
    try:
        proof = collect()
    except RuntimeError as error:
        print(error)
        return 1
    contract, problems = proof.contract, proof.problems()
    print(*(as_markdown if arguments.markdown else as_text)(proof), sep="\n")
    print("\nNot covered:")
    print(*(f"- {case} {contract.cases[case]}: {why}" for case, why in contract.not_covered.items()), sep="\n")
    print(*(f"- {case}, in part: {what}" for case, what in contract.partly.items()), sep="\n")
    print(f"\n{proof.summary()}")
    if problems:
        print(f"\n{len(problems)} problems:")
        print(*(f"- {problem}" for problem in problems), sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
