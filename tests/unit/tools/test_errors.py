"""How an error reads, and that the family of errors is complete."""

from __future__ import annotations

import pickle

import pytest

from papermill_mcp.errors import (
    ErrorCode,
    NotFoundError,
    Remedy,
    ServerError,
    listed,
    nearest,
    sentence,
)


def family(root: type[ServerError] = ServerError) -> list[type[ServerError]]:
    return [found for child in root.__subclasses__() for found in (child, *family(child))]


def test_a_message_is_the_code_and_four_sentences_in_order() -> None:
    error = NotFoundError("a.ipynb is gone", allowed="others are b, c", state="nothing was read", advice="read b")

    assert str(error) == "NOT_FOUND: a.ipynb is gone. Others are b, c. Nothing was read. Read b."


def test_parts_that_say_nothing_leave_no_trace() -> None:
    assert str(NotFoundError("a.ipynb is gone")) == "NOT_FOUND: a.ipynb is gone."
    assert str(NotFoundError("gone", advice="read b")) == "NOT_FOUND: gone. Read b."


def test_the_call_of_a_remedy_has_the_given_values() -> None:
    error = NotFoundError("gone", advice=Remedy.INSTALL_IPYKERNEL, given={"python": "/$x/python"})
    calls = {Remedy.INSTALL_IPYKERNEL: 'call(python="$python")'}

    for one in (error, error.within("run 3")):
        assert one.message(calls).endswith(' Call(python="/$x/python").')
    assert str(error) == "NOT_FOUND: gone. Install ipykernel there."


@pytest.mark.parametrize("end", [".", "!", "?"])
def test_a_sentence_that_has_an_end_gets_no_second_one(end: str) -> None:
    assert str(NotFoundError(f"is it gone{end}", advice=f"look{end}")) == f"NOT_FOUND: is it gone{end} Look{end}"


def test_what_happened_keeps_its_first_letter() -> None:
    """It often begins with the name of a file."""
    assert str(NotFoundError("a.ipynb")) == "NOT_FOUND: a.ipynb."


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("  ", ""), (" a ", "a."), ("a.", "a."), ("a…", "a….")])
def test_a_sentence_is_trimmed_and_ends(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_every_code_has_one_class_and_every_class_one_code() -> None:
    codes = [error.code for error in family()]

    assert sorted(codes) == sorted(ErrorCode)


def test_a_code_is_spelled_as_it_is_named() -> None:
    for code in ErrorCode:
        assert code.name == code.value == str(code)


def test_an_error_can_be_caught_as_one_of_ours() -> None:
    for kind in family():
        with pytest.raises(ServerError, match=rf"^{kind.code}: x\.$"):
            raise kind("x")


def test_an_error_comes_from_another_process_as_it_was() -> None:
    for kind in family():
        error = kind("x", allowed="y", state="z")
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (kind, f"{kind.code}: x. Y. Z.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("outpu_path", "output_path"), ("path", "path"), ("output", "output_path"), ("xyz", None), ("", None)],
)
def test_the_nearest_name_is_one_that_was_probably_meant(name: str, expected: str | None) -> None:
    assert nearest(name, ["path", "output_path", "kernel_name"]) == expected


def test_a_long_list_is_cut_with_the_exact_number_left_out() -> None:
    assert listed("abc") == "a, b, c"
    assert listed("abcde", limit=3) == "a, b, c and 2 more"
    assert listed("abc", limit=3) == "a, b, c"


def test_an_empty_list_is_told_in_words() -> None:
    assert listed([]) == "none"
    assert listed([], none="nothing") == "nothing"
