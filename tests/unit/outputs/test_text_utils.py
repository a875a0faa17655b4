"""Text for display: nothing in it drives a terminal or hides, and what is cut is counted."""

from __future__ import annotations

import json
import re
import time
import unicodedata

import pytest
from helpers import IGNORABLE
from hypothesis import example, given
from hypothesis import strategies as st

from papermill_mcp.utils.text_utils import (
    cell_name,
    clean_text,
    count_noun,
    head_and_tail,
    json_kind,
    one_line,
    rough_duration,
    safe_utf8,
)

# fmt: off
HOSTILE_PARTS = [
    "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x9b", "\x9d", "\x9c", "\x07", "\\", "31m", "m", "a", "1", "é", " ",
    "\n", "\r", "\t", "\u200b", "\u200d", "\ufe0f", "\u20e3", "👩", "💻", "❤", "葛", "\U000e0100", "\u202e",
    "\u2066", "\ufeff", "\xad", "\ud83d", "\ude00", "\U000e0041", "\x00", "\u2028",
]
# fmt: on
hostile = st.one_of(
    st.text(st.characters(), max_size=60),
    st.lists(st.sampled_from(HOSTILE_PARTS), max_size=25).map("".join),
)
MARKER = re.compile(r"… (\d+) characters? \((\d+) lines?\) left out …")


@pytest.mark.case("N21")
@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[31m",
        "\x1b[38;2;255;0;0m",
        "\x1b[?25l",
        "\x1b[2 q",
        "\x9b1;31m",
        "\x1b]0;title\x07",
        "\x1b]8;;http://example.com\x1b\\",
        "\x1b]52;c;cm0gLXJmIC8=\x07",
        "\x9d52;c;cm0=\x9c",
        "\x1bPq#0;2;0;0;0\n-\x1b\\",
        "\x90tmux\x9c",
        "\x1b^private\x1b\\",
        "\x1b_application\x1b\\",
        "\x1bXstart of string\x1b\\",
        "\x1b(B",
        "\x1bc",
        "\x1b=",
        "\x1b",
        "\x85",
        "\x08",
        "\x00",
        "\x7f",
    ],
)
def test_terminal_controls_are_removed_and_the_text_around_them_stays(sequence: str) -> None:
    assert clean_text(f"before{sequence}\nafter é") == "before\nafter é"


def test_the_text_of_a_link_stays() -> None:
    assert clean_text("\x1b]8;;http://example.com\x1b\\docs\x1b]8;;\x1b\\!") == "docs!"


def test_an_unfinished_string_sequence_hides_nothing() -> None:
    assert clean_text("\x1b]0;all of this\nand this") == "0;all of this\nand this"


def test_removing_a_sequence_does_not_make_another() -> None:
    assert clean_text("\x1b\x1b[0m[31mred") == "[31mred"


def test_line_ends_become_newlines() -> None:
    assert clean_text("a\r\nb\rc\r\r\nd\te\n") == "a\nb\nc\nd\te\n"


@pytest.mark.case("N21")
@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\ufeffa", "⟨U+FEFF⟩a"),
        ("a\u202eb\u2069", "a⟨U+202E⟩b⟨U+2069⟩"),
        ("a\u2028b\u2029", "a⟨U+2028⟩b⟨U+2029⟩"),
        ("a\xadb", "a⟨U+00AD⟩b"),
        ("a\U000e0041", "a⟨U+E0041⟩"),
        ("a\ud800b", "a⟨U+D800⟩b"),
        ("a\u200db", "a⟨U+200D⟩b"),
        ("a\ufe0f", "a⟨U+FE0F⟩"),
        ("❤\ufe0f\ufe0f", "❤\ufe0f⟨U+FE0F⟩"),
        ("👩\u200d", "👩⟨U+200D⟩"),
        ("😀\U000e0101\U000e0102", "😀⟨U+E0101⟩⟨U+E0102⟩"),
    ],
)
def test_invisible_characters_are_made_visible(raw: str, shown: str) -> None:
    assert clean_text(raw) == shown


@pytest.mark.parametrize(("first", "last"), [*IGNORABLE, (0x2028, 0x2029), (0xFFF9, 0xFFFB), (0x13430, 0x1343F)])
def test_every_character_without_a_shape_is_made_visible(first: int, last: int) -> None:
    for code in range(first, last + 1):
        assert clean_text(f"a{chr(code)}b") == f"a⟨U+{code:04X}⟩b"
    for code in (first - 1, last + 1):
        if unicodedata.category(chr(code))[0] in "LNPS" and not any(low <= code <= high for low, high in IGNORABLE):
            assert clean_text(f"a{chr(code)}b") == f"a{chr(code)}b"


def test_every_control_character_is_removed_but_those_of_layout() -> None:
    for code in [*range(0x20), 0x7F]:
        expected = {"\t": "a\tb", "\n": "a\nb", "\r": "a\nb", "\x1b": "a"}.get(chr(code), "ab")
        assert clean_text(f"a{chr(code)}b") == expected  # ESC b is a sequence
        assert clean_text(f"a{chr(code)}bé") == f"{expected}é"


@pytest.mark.parametrize("ended", ["\x18", "\x1a", "\x1bc"])
@pytest.mark.parametrize("start", ["\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_"])
def test_a_string_sequence_that_is_broken_off_hides_nothing(start: str, ended: str) -> None:
    assert clean_text(f"{start}text{ended}more\x1b\\.") == "textmore."


@pytest.mark.parametrize("symbol", "©®‼⁉™➿⤴⬅⭕〰〽㊗㊙🀄🫸")
def test_a_symbol_may_be_shown_in_colour(symbol: str) -> None:
    assert clean_text(f"{symbol}\ufe0f") == f"{symbol}\ufe0f"
    assert clean_text(f"{symbol}\u200d{symbol}\ufe0f") == f"{symbol}\u200d{symbol}\ufe0f"
    assert clean_text(f"{symbol}\ufe0f\u200d{symbol}") == f"{symbol}\ufe0f\u200d{symbol}"


@pytest.mark.parametrize("ideograph", "㐀一豈𠀀")
def test_an_ideograph_may_have_a_variant(ideograph: str) -> None:
    for selector in "\ufe00\U000e0100\U000e01ef":
        assert clean_text(f"{ideograph}{selector}") == f"{ideograph}{selector}"


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d💻",
        "❤\ufe0f",
        "👩🏽\u200d❤\ufe0f\u200d👨🏽",
        "1\ufe0f\u20e3",
        "葛\U000e0100",
        "é e\u0301 שלום مرحبا",
        "a\u00a0b",
        "├── ⣿⡇ 100 %|██|",
    ],
)
def test_readable_text_of_all_scripts_stays(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.case("N21")
@given(hostile)
@example("\r\x00\n")
@example("👩\u200d\u200d👩")
def test_cleaned_text_holds_nothing_that_acts_or_hides(text: str) -> None:
    cleaned = clean_text(text)
    # Visible although Unicode calls them format characters: Arabic number signs and their like.
    allowed = "\n\t\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"

    assert [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in allowed] == []
    assert clean_text(cleaned) == cleaned
    cleaned.encode()


@pytest.mark.parametrize(
    "piece",
    [
        "plain text and more of it\n",
        "\x1b[31mx\x1b[0m",
        "\x1b]",
        "\x1b]8;;",
        "\x1bP",
        "\x9d",
        "\r",
        "\x00",
        "\x1b[0",
        "👩\u200d",
    ],
)
def test_cleaning_is_linear_whatever_is_repeated(piece: str) -> None:
    """2 MB in well under a second; a quadratic pattern would take hours."""
    text = piece * (2_000_000 // len(piece))
    started = time.perf_counter()
    clean_text(text)
    clean_text("\x1b]" + text)

    assert time.perf_counter() - started < 10


def test_text_within_the_limit_is_shown_whole() -> None:
    assert head_and_tail("abc", 3) == ("abc", 0)
    assert head_and_tail("", 0) == ("", 0)


def test_long_text_is_cut_at_line_ends_and_says_how_much_is_missing() -> None:
    text = "".join(f"line {number:03d}\n" for number in range(100))

    assert head_and_tail(text, 60) == (
        "line 000\nline 001\nline 002\nline 003\n… 846 characters (94 lines) left out …\nline 098\nline 099\n",
        846,
    )


def test_a_single_long_line_is_cut_within() -> None:
    assert head_and_tail("a" * 90, 9) == ("aaaaaa\n… 81 characters (1 line) left out …\naaa", 81)


def test_a_limit_of_nothing_leaves_the_count() -> None:
    assert head_and_tail("ab\ncd", 0) == ("… 5 characters (2 lines) left out …", 5)
    assert head_and_tail("ab", -3) == ("… 2 characters (1 line) left out …", 2)


@pytest.mark.parametrize("glue", "\u200d\ufe00\ufe0f\U000e0100\U000e01ef")
def test_what_joins_with_the_character_before_is_not_left_alone_at_a_cut(glue: str) -> None:
    assert head_and_tail(f"{'a' * 87}{glue}bc", 9) == ("aaaaaa\n… 82 characters (1 line) left out …\nbc", 82)


@pytest.mark.parametrize("other", "\u200c\ufe10\U000e00ff\U000e01f0b")
def test_other_characters_stay_at_a_cut(other: str) -> None:
    assert head_and_tail(f"{'a' * 87}{other}bc", 9)[0].endswith(f"\n{other}bc")


def test_a_tail_that_begins_with_a_line_stays_whole() -> None:
    assert head_and_tail("a" * 90 + "\n" + "1\n3456789\n", 30)[0].endswith("…\n1\n3456789\n")
    assert head_and_tail("a" * 90 + "\n" + "x1\n456789\n", 27)[0].endswith("…\n456789\n")


def test_a_line_end_that_is_not_near_is_no_place_to_cut() -> None:
    assert head_and_tail("a" * 90 + "1234567\n9.", 30)[0].endswith("…\n1234567\n9.")
    assert head_and_tail("a\n" + "b" * 90, 30)[0].startswith("a\n" + "b" * 18 + "\n…")


@given(st.text(st.sampled_from("ab\n👩\u200d\ufe0f"), max_size=200), st.integers(0, 220))
def test_counts_of_what_is_left_out_are_exact(text: str, limit: int) -> None:
    shown, omitted = head_and_tail(text, limit)
    if omitted == 0:
        assert shown == text
        return
    found = MARKER.search(shown)
    assert found
    head, tail = shown[: found.start()], shown[found.end() :].removeprefix("\n")
    kept = len(text) - omitted
    head = head if len(head) + len(tail) == kept else head.removesuffix("\n")

    assert kept <= limit
    assert len(head) + len(tail) == kept
    assert text.startswith(head)
    assert text.endswith(tail)
    missing = text[len(head) : len(text) - len(tail)]
    assert (int(found[1]), int(found[2])) == (omitted, len(missing.splitlines()))


def test_a_title_is_the_first_line_that_holds_anything() -> None:
    assert one_line("\n\n  # Train\t the \x1b[1mmodel\x1b[0m \nmore", 80) == "# Train the model"
    assert one_line(" \n ", 10) == ""


@given(hostile, st.integers(1, 30))
def test_a_title_is_one_line_within_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)

    assert len(line) <= limit
    assert "\n" not in line


def test_a_long_title_ends_in_an_ellipsis() -> None:
    assert one_line("a title", 7) == "a title"
    assert one_line("a long title", 7) == "a long…"
    assert one_line("\x1b[0m" * 2000 + "x" * 700, 600) == "x" * 599 + "…"
    assert one_line("x" * 10_000_000, 5) == "xxxx…"


@given(st.text(st.characters()))
def test_safe_text_always_encodes(text: str) -> None:
    safe = safe_utf8(text)

    safe.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert safe == text


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    assert safe_utf8("a\ud800b\udc80") == "a\ufffdb\ufffd"
    assert safe_utf8("\ud83d\ude00") == "😀"


def test_nouns_are_counted() -> None:
    assert [count_noun(n, "cell") for n in (0, 1, 3)] == ["0 cells", "1 cell", "3 cells"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (90_000, "25.0 h")],
)
def test_an_estimated_time_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text


@pytest.mark.parametrize(
    ("index", "cell_id", "name"),
    [
        (3, "load", "3 [load]"),
        (3, None, "3"),
        (3, "", "3"),
        (0, "a\x1b[2J\nb", "0 [a]"),
        (1, "x" * 99, f"1 [{'x' * 63}…]"),
    ],
)
def test_a_cell_is_named_by_its_index_and_id_in_one_line(index: int, cell_id: str | None, name: str) -> None:
    assert cell_name(index, cell_id) == name


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", "an object"),
        ("[]", "a list"),
        ('"a"', "a string"),
        ("1", "an integer"),
        ("1.0", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
    ],
)
def test_values_of_json_are_named_by_the_words_of_json(text: str, kind: str) -> None:
    assert json_kind(json.loads(text)) == kind
