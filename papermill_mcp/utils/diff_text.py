"""Unified diffs with a bound on time: `difflib` takes seconds for thousands of lines that are all different."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

_CONTEXT = 3
_MOST_PAIRS = 400_000
_LINE_CHARS = 400


def unified_diff(before: str, after: str, *, old: str, new: str) -> Iterator[str]:
    """The lines of a unified diff of two texts, without line ends. Long lines are cut, and say so."""
    yield f"--- {old}"
    yield f"+++ {new}"
    yield from hunks(before, after)


def hunks(before: str, after: str, *, context: int = _CONTEXT) -> Iterator[str]:
    """The lines of a unified diff without its two head lines.

    Where a change is too large to be compared line by line, all old lines stand before all new ones.

    Args:
        context: equal lines shown beside a change.
    """
    a, b = before.split("\n") if before else [], after.split("\n") if after else []
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    first, last_a, last_b = max(0, start - context), len(a) - end, len(b) - end
    if (last_a - start) * (last_b - start) > _MOST_PAIRS:
        tail = min(context, end)
        yield _hunk(first, last_a + tail, first, last_b + tail)
        yield from (_cut(" ", line) for line in a[first:start])
        yield from (_cut("-", line) for line in a[start:last_a])
        yield from (_cut("+", line) for line in b[start:last_b])
        yield from (_cut(" ", line) for line in a[last_a : last_a + tail])
        return
    # Only the difference, with its surroundings: equal ends would be compared for nothing.
    stop_a, stop_b = min(len(a), last_a + context), min(len(b), last_b + context)
    matcher = difflib.SequenceMatcher(None, a[first:stop_a], b[first:stop_b], autojunk=False)
    for group in matcher.get_grouped_opcodes(context):
        yield _hunk(group[0][1] + first, group[-1][2] + first, group[0][3] + first, group[-1][4] + first)
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                yield from (_cut(" ", line) for line in a[first + i1 : first + i2])
                continue
            yield from (_cut("-", line) for line in a[first + i1 : first + i2])
            yield from (_cut("+", line) for line in b[first + j1 : first + j2])


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    shorter = min(len(a), len(b))
    return next((place for place in range(shorter) if a[place] != b[place]), shorter)


def _hunk(a1: int, a2: int, b1: int, b2: int) -> str:
    return f"@@ -{_span(a1, a2)} +{_span(b1, b2)} @@"


def _span(start: int, stop: int) -> str:
    length = stop - start
    return f"{start + 1 if length else start},{length}" if length != 1 else f"{start + 1}"


def _cut(mark: str, line: str) -> str:
    if len(line) <= _LINE_CHARS:
        return mark + line
    return f"{mark}{line[:_LINE_CHARS]}… ({len(line) - _LINE_CHARS} more characters)"
