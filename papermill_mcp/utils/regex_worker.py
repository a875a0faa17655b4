"""Matches a regular expression line by line, as a process of its own. Run as a script by `regex_search`.

`re` holds the interpreter lock while it matches, and a hostile pattern matches for years. So it does that here, where
it can be killed. A timer of the system ends this process even if its parent is gone.

Standard input: a line of JSON with `pattern` and `seconds`; then for each request a line `[keep, each, sizes]` and the
texts of so many bytes. Standard output: a line of JSON for each, `{}` or `{"error": …}` for the first, then `[matches,
numbers]` with at most `keep` matches `[text, line]`, both counted from 0, of one text at most as many as `each` says.
`numbers` has the lines of each text that match.

With `patterns`, a list of `[pattern, replacement]`, in place of `pattern`, a request is `[sizes]`, and the answer has
the texts with a replacement for each match.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import Any

if sys.platform != "win32":
    import resource

_MEMORY = 2 << 30


def _limit(seconds: float) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, inside a match too
        signal.setitimer(signal.ITIMER_REAL, seconds)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, AttributeError, OSError, ValueError):
        pass  # the parent kills us


def _answer(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _replace(patterns: list[tuple[re.Pattern[str], str]]) -> None:
    stdin = sys.stdin.buffer
    while request := stdin.readline():
        made = []
        for size in json.loads(request)[0]:
            text = stdin.read(size).decode("utf-8", "surrogatepass")
            for pattern, replacement in patterns:
                text = pattern.sub(replacement, text)
            made.append(text)
        _answer(made)


def main() -> None:
    """Serve requests until standard input ends."""
    stdin = sys.stdin.buffer
    first = json.loads(stdin.readline())
    _limit(first["seconds"])
    try:
        patterns = [(re.compile(pattern), text) for pattern, text in first.get("patterns", ())]
        for pattern, text in patterns:
            pattern.sub(text, "")  # the replacement may name a group that is not there
        search = re.compile(first.get("pattern", "")).search
    except (re.error, IndexError, OverflowError, RecursionError, MemoryError) as error:
        _answer({"error": str(error) or type(error).__name__})
        return
    _answer({})
    if patterns:
        _replace(patterns)
        return
    while request := stdin.readline():
        keep, each, sizes = json.loads(request)
        found: list[list[int]] = []
        numbers: list[int] = []
        for place, size in enumerate(sizes):
            number = 0
            text = stdin.read(size).decode("utf-8", "surrogatepass")
            for line, content in enumerate(text.split("\n")):
                if search(content):
                    number += 1
                    if len(found) < keep and number <= each[place]:
                        found.append([place, line])
            numbers.append(number)
        _answer([found, numbers])


if __name__ == "__main__":
    main()
