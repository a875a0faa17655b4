"""What hashes of strings decide is told from results by runs with other hash seeds, and by two runs with one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.verification.hash_order import Seeds, in_another_order, uses_hashes
from papermill_mcp.core.verification.texts import Rules, difference

_RULES = Rules(datetime.now(UTC), datetime.now(UTC))
_SOURCE = "words = ['fig', 'kiwi', 'plum']"

HONEST = {
    "list": ("['kiwi', 'plum', 'fig']", "['fig', 'kiwi', 'plum']", ["['plum', 'fig', 'kiwi']"]),
    "words": ("kiwi plum fig", "fig kiwi plum", ["plum fig kiwi"]),
    "one text": ("'KIWI FIG'", "'FIG KIWI'", ["'KIWI FIG'"]),
    "lines": ("kiwi\nplum\nfig\nend", "fig\nkiwi\nplum\nend", ["plum\nfig\nkiwi\nend"]),
    "lines of several words": ("New York\nRome\nOslo", "Rome\nOslo\nNew York", ["Oslo\nNew York\nRome"]),
    "a dictionary": ("{'fig': 3, 'kiwi': 4}", "{'kiwi': 4, 'fig': 3}", ["{'fig': 3, 'kiwi': 4}"]),
    "a first one": ("first plum", "first fig", ["first kiwi"]),
    "three runs": (
        "['kiwi', 'plum', 'fig']",
        "['fig', 'kiwi', 'plum']",
        ["['fig', 'plum', 'kiwi']", "['plum', 'fig', 'kiwi']"],
    ),
    "beside an address": (
        "<A at 0x7f0000000010>\n['kiwi', 'fig']",
        "<A at 0x7f1111111110>\n['fig', 'kiwi']",
        ["<A at 0x7f2222222220>\n['kiwi', 'fig']"],
    ),
}

LIES = {
    "all runs agree": ("['fig', 'kiwi']", "['kiwi', 'fig']", ["['kiwi', 'fig']"]),
    "a part that all runs show alike": (
        "['kiwi', 'fig'] ['a', 'b']",
        "['fig', 'kiwi'] ['b', 'a']",
        ["['kiwi', 'fig'] ['b', 'a']"],
    ),
    "another member": ("['kiwi', 'pear']", "['fig', 'kiwi']", ["['kiwi', 'fig']"]),
    "a member twice": ("['kiwi', 'kiwi']", "['fig', 'kiwi']", ["['kiwi', 'fig']"]),
    "an item of another value": ("{'fig': 3, 'kiwi': 3}", "{'kiwi': 4, 'fig': 3}", ["{'fig': 3, 'kiwi': 4}"]),
    "members exchanged between two lists": (
        "['fig', 'a'] ['kiwi', 'b']",
        "['fig', 'kiwi'] ['a', 'b']",
        ["['kiwi', 'fig'] ['b', 'a']"],
    ),
    "a line twice": ("fig\nfig\nkiwi", "kiwi\nplum\nfig", ["plum\nfig\nkiwi"]),
    "a heading below": ("fig\nHEAD\nkiwi", "HEAD\nfig\nkiwi", ["HEAD\nkiwi\nfig"]),
    "a line fewer": ("fig\nkiwi", "fig\nkiwi\nplum", ["plum\nfig\nkiwi"]),
    "a number that no run shows": ("first 5", "first 3", ["first 4"]),
    "a word that nothing shows": ("first pear", "first fig", ["first kiwi"]),
}


def _differs(old: str, new: str, others: list[str], *, same: bool = True, source: str = _SOURCE) -> bool:
    seeds = Seeds(others, (others[0], others[0] if same else new), source)
    return difference(old, new, _RULES, seeds=seeds) is not None


@pytest.mark.parametrize(("old", "new", "others"), HONEST.values(), ids=HONEST.keys())
def test_a_part_that_other_seeds_show_otherwise_is_no_difference(old: str, new: str, others: list[str]) -> None:
    assert not _differs(old, new, others)
    assert difference(old, new, _RULES) is not None


@pytest.mark.parametrize(("old", "new", "others"), LIES.values(), ids=LIES.keys())
def test_anything_else_is_a_difference(old: str, new: str, others: list[str]) -> None:
    assert _differs(old, new, others)


def test_a_part_that_one_seed_shows_in_two_ways_is_chance_and_no_order() -> None:
    assert _differs("kiwi plum fig", "fig kiwi plum", ["plum fig kiwi"], same=False)


def test_numbers_of_hashes_count_only_where_the_code_asks_for_hashes() -> None:
    assert _differs("-82 5", "17 5", ["99 5"])
    assert not _differs("-82 5", "17 5", ["99 5"], source="print(hash('a'), 5)")
    assert _differs("-82 6", "17 5", ["99 5"], source="print(hash('a'), 5)")


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("{'a', 'b'}", True),
        ("{n for n in 'a'}", True),
        ("set(x)", True),
        ("hash('a')", True),
        ("%time len(set(x))", False),
        ("{'a': 1}", False),
        ("f'{x}'", False),
        ("x = (", False),
    ],
)
def test_code_that_makes_sets_or_shows_hashes_is_known(source: str, uses: bool) -> None:
    assert uses_hashes([source]) is uses


def test_texts_with_the_same_pieces_are_in_another_order() -> None:
    assert in_another_order(["a b", "c"], ["c", "b a"])
    assert not in_another_order(["a b"], ["a c"])


@given(st.permutations("abcde"), st.permutations("abcde"), st.lists(st.permutations("abcde"), min_size=1, max_size=3))
def test_a_permutation_counts_as_equal_only_where_each_place_that_differs_has_changed(
    old: list[str], new: list[str], others: list[list[str]]
) -> None:
    changed = [len({one[place] for one in [new, *others]}) > 1 for place in range(5)]
    explained = all(changed[place] for place in range(5) if old[place] != new[place])

    assert _differs(" ".join(old), " ".join(new), [" ".join(one) for one in others]) is not explained


@given(*(st.text(alphabet="ab1 ,:'\n{}[]-.", max_size=40) for _ in range(3)))
def test_any_texts_are_compared_without_an_error(old: str, new: str, other: str) -> None:
    _differs(old, new, [other])
