"""The golden file of messages: the one place where a change of wording is seen."""

from __future__ import annotations

import ast

from dev import messages
from papermill_mcp.errors import Remedy
from papermill_mcp.tools.remedies import CALLS


def test_the_messages_are_those_of_the_golden_file() -> None:
    """After a change that is meant: python -m dev.messages --update."""
    assert messages.collected() == messages.GOLDEN.read_text(encoding="utf-8")


def test_a_message_is_a_template_of_its_parts() -> None:
    expression = ast.parse('f\'{a} is {"one" if b else "two"}, see \' + Remedy.START_KERNEL', mode="eval").body

    assert messages.text_of(expression) == "{…} is {…}, see <START_KERNEL>"
    choice = ast.parse("'one' if b else f'two {c}'", mode="eval").body
    assert messages.text_of(choice) == "{one|two {…}}"


def test_every_remedy_has_its_call() -> None:
    assert set(CALLS) == set(Remedy)
