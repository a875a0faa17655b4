"""Parts of outputs that do not count: regular expressions of the caller, and sanitiser files of nbval."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from papermill_mcp.core.documents.reading import joined
from papermill_mcp.errors import InvalidArgumentError, SearchTimeoutError
from papermill_mcp.utils.regex_search import BadPatternError, RegexReplacer, RegexTimeoutError

#: Put in place of each match of an expression without a replacement of its own.
IGNORED = "⟨ignored⟩"

_SANITIZER = re.compile(r"^regex: (.*)$\n^replace: (.*)$", re.MULTILINE)

_SECONDS = 5.0
_TOTAL_SECONDS = 60.0

#: Characters of texts that are sent at a time.
_AT_ONCE = 1_000_000

OutputsOfCells = Mapping[int, Sequence[Mapping[str, Any]]]


class Blank(NamedTuple):
    """A regular expression and the text in place of its matches."""

    pattern: str
    replacement: str = IGNORED


def sanitizers(text: str, name: str) -> list[Blank]:
    """The expressions of a sanitiser file of nbval: a line `regex: …`, and below it a line `replace: …`.

    nbval takes nothing else of it, and a section may have several (nbval 0.11, `get_sanitize_patterns`).

    Raises:
        InvalidArgumentError: there is none.
    """
    found = _SANITIZER.findall(text.replace("\r\n", "\n"))
    if not found:
        raise InvalidArgumentError(
            f"{name} is no sanitiser file",
            allowed="lines `regex: …`, each with a line `replace: …` below it, as nbval reads them",
            state="nothing was run",
        )
    return [Blank(pattern, replacement) for pattern, replacement in found]


async def checked(blanks: Sequence[Blank]) -> None:
    """Check that each expression can be used.

    Raises:
        InvalidArgumentError: one is no regular expression.
    """
    if not blanks:
        return
    try:
        async with RegexReplacer.opened([*blanks], seconds=_SECONDS, total_seconds=_TOTAL_SECONDS):
            return
    except BadPatternError as error:
        raise InvalidArgumentError(
            f"ignore has no regular expression: {error}", allowed="expressions of Python's re", state="nothing was run"
        ) from error
    except RegexTimeoutError:
        raise _too_long() from None


async def blanked(runs: Sequence[OutputsOfCells], blanks: Sequence[Blank]) -> list[OutputsOfCells]:
    """The same outputs with a replacement for each match in their texts. The given ones stay.

    Raises:
        SearchTimeoutError: matching took too long.
    """
    texts = [text for outputs in runs for text in _texts(outputs)]
    replaced: list[str] = []
    try:
        async with RegexReplacer.opened([*blanks], seconds=_SECONDS, total_seconds=_TOTAL_SECONDS) as replacer:
            batch: list[str] = []
            for text in texts:
                batch.append(text)
                if sum(map(len, batch)) > _AT_ONCE:
                    replaced += await replacer.replaced(batch)
                    batch = []
            replaced += await replacer.replaced(batch)
    except RegexTimeoutError:
        raise _too_long() from None
    rest = iter(replaced)
    return [{index: [_with_texts(one, rest) for one in outputs] for index, outputs in run.items()} for run in runs]


def _too_long() -> SearchTimeoutError:
    return SearchTimeoutError(
        "a regular expression of ignore took too long",
        state="the notebook was run, and its outputs were not compared",
        advice="make it simpler",
    )


def _texts(run: OutputsOfCells) -> Iterator[str]:
    for outputs in run.values():
        for output in outputs:
            yield from (text for _, text in _named_texts(output))


def _named_texts(output: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("text", "evalue"):
        if isinstance(output.get(name), str | list):
            yield name, joined(output[name])
    if isinstance(data := output.get("data"), Mapping):
        for mime, value in data.items():
            if mime.startswith("text/") or mime == "image/svg+xml":
                yield mime, joined(value)


def _with_texts(output: Mapping[str, Any], rest: Iterator[str]) -> Mapping[str, Any]:
    made = dict(output)
    data = dict(output["data"]) if isinstance(output.get("data"), Mapping) else None
    for name, _ in _named_texts(output):
        if name in ("text", "evalue"):
            made[name] = next(rest)
        elif data is not None:
            data[name] = next(rest)
    if data is not None:
        made["data"] = data
    return made
