"""Texts of two runs: parts that differ in each run are equal, and everything else is a difference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.verification.texts import NAMES_PROCESS, Difference, Rules, difference

_NOW = datetime(2026, 3, 7, 18, 46, 31, 250_000, tzinfo=UTC)
_TIMED = "started = time.time()"

HONEST = {
    "address": ("<A object at 0x7f1234567890>", "<A object at 0x7f9994567890>", ""),
    "moment": ("2024-03-01 10:11:12.123456", "2026-03-07 18:46:30.001000", ""),
    "moment of another zone": ("Ran at 10:11:12", "Ran at 07:31:30", ""),
    "day": ("Report of 2024-03-01", "Report of 2026-03-07", ""),
    "day in words": ("March 1, 2024", "March 7, 2026", ""),
    "ctime": ("Fri Mar  1 10:11:12 2024", "Sat Mar  7 18:46:30 2026", ""),
    "repr of a moment": ("datetime.datetime(2024, 3, 1, 10, 11, 12)", "datetime.datetime(2026, 3, 7, 18, 46, 30)", ""),
    "epoch": ("1700000000.123", f"{_NOW.timestamp():.3f}", ""),
    "name with a time": ("out_20240301_101112.csv", "out_20260307_184630.csv", ""),
    "wall time": ("Wall time: 1.2 s", "Wall time: 3 min 4 s", ""),
    "cpu times": ("CPU times: user 1.2 ms, sys: 0 ns, total: 1.2 ms", "CPU times: user 4 s, sys: 1 ns, total: 4 s", ""),
    "timeit": ("1.23 ms ± 4 µs per loop (mean of 7 runs)", "2.3 ms ± 14 µs per loop (mean of 7 runs)", ""),
    "took": ("took 0.5 s", "took 2 min 3 s", ""),
    "timer alone": ("0.123", "0.456", "print(time.time() - started)"),
    "timer with words": ("time: 0.12", "time: 0.45", _TIMED),
    "bar": ("10%|█  | 1/10\r100%|███| 10/10 [00:01<00:00, 9.1it/s]", "100%|█████| 10/10 [00:02<00:00, 4.1it/s]", ""),
    "temporary file": ("file /tmp/tmpabc/x.csv", "file /tmp/tmpdef/y.csv", ""),
    "process": ("pid 1234", "pid 999", ""),
    "path of the project": ("/home/other/proj/data.csv", "/home/me/proj/data.csv", ""),
    "warning": (
        "/usr/lib/python3.9/site-packages/foo/bar.py:12: UserWarning: hi\n  warn(1)",
        "/x/lib/python3.11/site-packages/foo/bar.py:14: UserWarning: hi\n  warn(1)",
        "",
    ),
    "set": ("{'a', 'b', 'c'}", "{'c', 'a', 'b'}", ""),
    "memory": ("memory usage: 1.2+ KB", "memory usage: 1.4+ KB", ""),
    "id": ("id 140234567890123", "id 139999567890123", ""),
    "uuid": ("550e8400-e29b-41d4-a716-446655440000", "650e8400-e29b-41d4-a716-446655440000", ""),
    "columns": ("a  1\nb 10", "a   1\nb  10", ""),
    "colours": ("\x1b[31mred\x1b[0m", "red", ""),
    "prompt": ("Cell In[3], line 1", "Cell In[17], line 1", ""),
    "trailing space": ("a \nb\n\n", "a\nb", ""),
}

LIES = {
    "number": ("0.123", "0.124", ""),
    "small number": ("1e-3", "1e-4", ""),
    "sign": ("-1", "1", ""),
    "count": ("rows: 1,234", "rows: 1,235", ""),
    "day of data": ("2020-01-01", "2020-01-02", ""),
    "time of data": ("12:00:00", "13:30:20", ""),
    "near lost digit": ("x 1.001", "x 1.002", "t = time.time()"),
    "result in seconds": ("period 3.5 s", "period 3.6 s", ""),
    "result beside a timer": ("loss 0.51 acc 0.9", "loss 0.52 acc 0.9", _TIMED),
    "key": ("{'a': 1}", "{'a': 2}", ""),
    "member of a set": ("{'a', 'b'}", "{'a', 'c'}", ""),
    "file": ("/data/a.csv", "/data/b.csv", ""),
    "hexadecimal": ("0xff", "0xfe", ""),
    "larger hexadecimal": ("0x12345678", "0x12345679", ""),
    "lost line": ("a\nb", "a", ""),
    "new line": ("a\nc", "a\nb\nc", ""),
    "word": ("abc", "abd", ""),
    "order": ("[1, 2, 3]", "[1, 3, 2]", ""),
    "size": ("size 3 MB", "size 4 MB", ""),
    "version": ("pandas 2.1.0", "pandas 2.2.0", ""),
    "year": ("2019", "2020", ""),
    "case": ("True", "true", ""),
    "nothing left": ("result", "", ""),
}


def _difference(old: str, new: str, source: str = "", *, relative: float | None = None) -> Difference | None:
    rules = Rules(_NOW - timedelta(seconds=3), _NOW, relative, ["/home/me/proj"], timed_notebook=_TIMED in source)
    return difference(old, new, rules.of_cell(source))


@pytest.mark.parametrize("pair", HONEST.values(), ids=HONEST.keys())
def test_a_part_that_differs_in_each_run_is_no_difference(pair: tuple[str, str, str]) -> None:
    assert _difference(*pair) is None


@pytest.mark.parametrize("pair", LIES.values(), ids=LIES.keys())
def test_anything_else_is_a_difference(pair: tuple[str, str, str]) -> None:
    found = _difference(*pair)

    assert found is not None
    assert found.diff


def test_numbers_within_the_tolerance_are_equal_and_others_are_named() -> None:
    assert _difference("a 1.0001 b 2", "a 1.00010001 b 2", relative=1e-5) is None

    found = _difference("a 1.0001 b 2", "a 1.0011 b 2", relative=1e-5)

    assert found is not None
    assert found.values == (("1.0001", "1.0011"),)
    assert found.numbers_only


def test_a_moment_of_the_saved_run_in_the_fresh_text_is_a_difference() -> None:
    """Only the fresh moment shows that the code asked for the time."""
    assert _difference("2026-03-07 18:46:30", "2024-03-01 10:11:12") is not None


def test_a_difference_shows_the_lines_and_no_part_that_counts_as_equal() -> None:
    found = _difference("at 0x7f1234567890\nx = 1\nend", "at 0x7f9994567890\nx = 2\nend")

    assert found is not None
    assert found.diff.splitlines() == ["@@ -1,3 +1,3 @@", " at 0x7f1234567890", "-x = 1", "+x = 2", " end"]


@given(st.text(max_size=200))
def test_a_text_is_equal_to_itself(text: str) -> None:
    assert _difference(text, text) is None


@given(st.text(alphabet="ab1. /:-x0\n\r{}'", max_size=60), st.text(alphabet="ab1. /:-x0\n\r{}'", max_size=60))
def test_any_two_texts_are_compared_without_an_error(old: str, new: str) -> None:
    _difference(old, new)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from(["x = {}", "{}", "a {} b", "[{}]"]))
def test_two_numbers_in_a_plain_line_are_equal_only_if_they_are(one: int, other: int, line: str) -> None:
    assert (_difference(line.format(one), line.format(other)) is None) == (one == other)


RESULTS = {
    "duration": ("mean duration: 15.4 s", "mean duration: 15.8 s", _TIMED + "; print('mean duration:', 15.8, 's')"),
    "count": ("converged; took 12 iterations", "converged; took 15 iterations", _TIMED),
    "memory": ("RAM of the phones: 8 GB", "RAM of the phones: 4 GB", ""),
    "bytes of memory": ("peak memory 81000", "peak memory 82000", ""),
    "temporary name": ("/tmp/patients_2019.csv", "/tmp/patients_2020.csv", ""),
    "customer": ("customer 550e8400-e29b-41d4-a716-446655440000", "customer 650e8400-e29b-41d4-a716-446655440000", ""),
    "process": ("product pid 1234", "product pid 1235", ""),
    "process without a word": ("1234", "1235", "import os\nos.getpid()"),
    "process of a log": ("1234 INFO", "1235 INFO", "logging.basicConfig(format='%(process)d %(levelname)s')"),
    "hexadecimal": ("0x10000000018", "0x10000000028", ""),
    "time of day": ("flight time 18:45:00", "flight time 18:46:31", ""),
}


@pytest.mark.parametrize("pair", RESULTS.values(), ids=RESULTS.keys())
def test_a_part_that_may_be_a_result_counts_if_another_fresh_run_has_it_too(pair: tuple[str, str, str]) -> None:
    old, new, source = pair
    names_process = bool(NAMES_PROCESS.search(source))
    rules = Rules(_NOW, _NOW, timed_notebook=_TIMED in source, names_process=names_process).of_cell(source)

    assert difference(old, new, rules) is None
    assert rules.doubtful
    assert difference(old, new, rules, again=new) is not None
    assert difference(old, new, rules, again=new.translate(str.maketrans("0123456789", "1234567890"))) is None


def test_a_rounded_time_may_be_the_same_in_two_runs() -> None:
    rules = Rules(_NOW, _NOW, timed_notebook=True).of_cell(_TIMED)

    assert difference("took 0.054 s", "took 0.047 s", rules, again="took 0.047 s") is None


def test_a_part_of_a_number_of_the_source_says_nothing_of_a_measured_one() -> None:
    """The 10 of 1000 is not the 10 of 10 μs."""
    rules = Rules(_NOW, _NOW, timed_notebook=True).of_cell("%time sum(range(1000))")

    assert difference("user 11 μs", "user 10 μs", rules, again="user 10 μs") is None
    assert difference("user 11 μs", "user 1000 μs", rules, again="user 1000 μs") is not None


@pytest.mark.parametrize(
    ("again", "chance", "same"),
    [
        ("A: 0.71\n3 rows", False, True),
        ("A: 0.52\n3 rows", False, False),  # another fresh run has the same number
        ("A: 0.71\n3 rows", True, False),  # it may be drawn by chance
    ],
)
def test_a_number_that_changes_is_measured_where_nothing_is_drawn_by_chance(
    again: str, chance: bool, same: bool
) -> None:
    rules = Rules(_NOW, _NOW, timed_notebook=True, only_timed=not chance)

    assert (difference("A: 0.33\n3 rows", "A: 0.52\n3 rows", rules, again=again) is None) == same
    assert difference("A: 0.33\n4 rows", "A: 0.52\n3 rows", rules, again=again) is not None


def test_ids_that_are_made_by_chance_change_in_each_run() -> None:
    rules = Rules(_NOW, _NOW, makes_ids=True)
    ids = ("run 5a3f09c2 of 3", "run 77d1e0b4 of 3", "run 0f9e8d7c of 3")

    assert difference(*ids[:2], rules, again=ids[2]) is None
    assert difference(*ids[:2], rules, again=ids[1]) is not None
    assert difference(ids[0], "run 77d1e0b4 of 4", rules, again="run 0f9e8d7c of 4") is not None
    assert difference(*ids[:2], Rules(_NOW, _NOW), again=ids[2]) is not None
