"""Markdown: the parts that a notebook server needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from papermill_mcp.utils.text_utils import one_line

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(?=\S)")


def headings(source: str) -> Iterator[tuple[int, str]]:
    """The headings of a source in order, as level (1 to 6) and text. Lines in fenced code are no headings."""
    fence = ""
    for line in source.split("\n"):
        mark = _FENCE.match(line)
        if mark:
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        heading = None if fence else _HEADING.match(line)
        if heading:
            yield len(heading[1]), one_line(line[heading.end() : heading.end() + 1000], 120).rstrip("#").rstrip()
