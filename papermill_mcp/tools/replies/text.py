"""The parts of a reply: header lines, names of cells, fences."""

from __future__ import annotations

import json
import re
from typing import Any

from papermill_mcp.utils.text_utils import clean_text, one_line


def fenced(text: str, label: str = "") -> list[str]:
    """Text in a fence longer than any run of backticks in it."""
    cleaned = clean_text(text)
    longest = max((len(run) for run in re.findall(r"`{3,}", cleaned)), default=2)
    fence = "`" * (longest + 1)
    safe = label.replace("`", "'")  # a line with a backtick after the fence would open none
    return [f"{fence}{safe}", cleaned.rstrip("\n"), fence]


def code_span(text: str) -> str:
    """Text within a line, in more backticks than it has in a row, so that it cannot end them (CommonMark 6.1)."""
    cleaned = inline(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", cleaned)), default=0))
    space = " " if "`" in cleaned else ""
    return f"{ticks}{space}{cleaned}{space}{ticks}"


def type_name(cell_type: str) -> str:
    """The type of a cell; a file may say anything there."""
    return one_line(cell_type, 40) or "unknown type"


def header_lines(facts: dict[str, Any]) -> list[str]:
    """Facts as lines of `key: value`."""
    return [f"{key}: {inline(value)}" for key, value in facts.items()]


def inline(value: Any) -> str:
    """A value within a line: text without line ends, anything else as JSON."""
    if isinstance(value, str):
        return clean_text(value).replace("\n", " ")
    text = json.dumps(value, ensure_ascii=False, default=str)
    return clean_text(text if len(text) <= 2000 else text[:2000] + "…")
