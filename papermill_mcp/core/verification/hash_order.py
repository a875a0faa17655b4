"""Parts of texts that hashes of strings decide, which are others in each process of Python.

A set has another order in each process, and so has whatever is made of it: a list, a text, lines, a table. The proof is
an experiment. Fresh runs with other hash seeds show such a part otherwise, and two runs with one seed show the same.
A part that the fresh runs all show alike is no such part, whatever the saved text has in its place.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_SCALAR = r"(?:'[^'\n]*'|\"[^\"\n]*\"|(?<![\w.)])-?\d[\w.]*|[\w.]+)"

#: An item of a dictionary, a quoted text, a number, a word, or a sign.
_PIECE = re.compile(rf"{_SCALAR}: {_SCALAR}(?=[,}}\]])|{_SCALAR}|[^\w\s]")
_NUMBER = re.compile(r"-?\d[\d.]*")
_OPEN, _CLOSE = "([{", ")]}"

#: Code that shows hashes themselves.
_HASHES = re.compile(r"\bhash\(|__hash__")

#: Code that makes sets without a display of one.
_SETS = re.compile(r"\b(?:frozen)?set\b|\.(?:keys|items)\(\)\s*[&|^-]|\.(?:union|intersection|difference)\(")

_MAX_LINES = 20_000


@dataclass(frozen=True)
class Seeds:
    """Texts of fresh runs with different hash seeds, and of two runs with the same one.

    Attributes:
        others: the text of each run but the first one, under seeds of their own.
        same: the texts of two runs under one seed; None before there are two.
        source: the code of the notebook.
        found: gets an entry for each part that was taken as equal.
    """

    others: Sequence[str]
    same: tuple[str, str] | None
    source: str
    found: list[str] = field(default_factory=list, compare=False)


def uses_hashes(sources: Sequence[str]) -> bool:
    """Whether code of Python makes sets, or shows hashes."""
    for source in sources:
        code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
        try:
            nodes = [*ast.walk(ast.parse(code))]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            nodes = []
        sets = any(isinstance(node, ast.Set | ast.SetComp) for node in nodes)
        if sets or _SETS.search(code) or _HASHES.search(code):
            return True
    return False


def in_another_order(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether two texts have the same pieces, by their lines."""
    return len(old) == len(new) and _counted(old) == _counted(new)


def with_known_order(old: Sequence[str], new: Sequence[str], seeds: Seeds) -> list[str]:
    """The old lines, with the new one in place of each that differs by hashes alone."""
    runs = [list(new), *(other.split("\n") for other in seeds.others)]
    same = [text.split("\n") for text in seeds.same] if seeds.same is not None else []
    before = list(old)
    if len(old) > _MAX_LINES or any(len(lines) != len(old) for lines in [*runs, *same]):
        return before
    table = _Table(before, runs, same, seeds.source)
    lines = [at for at, line in enumerate(before) if line != new[at]]
    explained = [at for at in lines if table.explains(at)]
    if not explained or not table.has_members(explained):
        return before
    seeds.found.extend(before[at] for at in explained)
    for at in explained:
        before[at] = new[at]
    return before


class _Table:
    """The lines of all runs, beside each other.

    Args:
        runs: the lines of fresh runs under different seeds.
        same: those of two runs under one seed.
    """

    def __init__(
        self, old: Sequence[str], runs: Sequence[Sequence[str]], same: Sequence[Sequence[str]], source: str
    ) -> None:
        self._old, self._runs, self._same = old, runs, same
        self._hashes = bool(_HASHES.search(source))
        self._source = source
        self._words = set(re.findall(r"\w+", source))
        self._seen = {piece for lines in runs for line in lines for piece in _PIECE.findall(line)}
        self._lines = {line.strip() for lines in runs for line in lines}

    def explains(self, at: int) -> bool:
        """Whether each part of a line that differs is one that hashes decide."""
        units = self._units(at)
        old, fresh, same = units
        if any(len(one) != len(old) for one in [*fresh, *same]):
            return False
        for place, part in enumerate(old):
            values = [one[place] for one in fresh]
            if part == values[0]:
                continue
            if len(set(values)) == 1 or len({one[place] for one in same}) > 1:
                return False
            if not self._is_known(part) and not (" " in part and self._is_exchange(*_words(part, values))):
                return False
        return all(
            self._is_exchange([old[place] for place in places], [[one[place] for place in places] for one in fresh])
            for places in _groups(fresh[0])
        )

    def has_members(self, explained: Sequence[int]) -> bool:
        """Whether the lines that hashes decide have the same members as those of each fresh run, if these agree."""
        varied = {at for at in range(len(self._old)) if len({lines[at] for lines in self._runs}) > 1}
        places = sorted(varied.union(explained))
        whole = [[lines[at].strip() for at in places] for lines in [self._old, *self._runs]]
        pieces = [[piece for line in lines for piece in _PIECE.findall(line)] for lines in whole]
        return all(self._is_exchange(kind[0], kind[1:]) for kind in (whole, pieces))

    def _units(self, at: int) -> tuple[list[str], list[list[str]], list[list[str]]]:
        """The parts of a line: its pieces if all runs have equally many, else the line itself."""
        lines = [self._old[at], *(one[at] for one in self._runs), *(one[at] for one in self._same)]
        parts = [_PIECE.findall(line) for line in lines]
        if len({len(one) for one in parts}) > 1:
            parts = [[line.strip()] for line in lines]
        return parts[0], parts[1 : len(self._runs) + 1], parts[len(self._runs) + 1 :]

    def _is_known(self, part: str) -> bool:
        """Whether a saved part may be made by the code: a fresh run shows it, or the source has it."""
        if part in self._seen or part in self._lines:
            return True
        if _NUMBER.fullmatch(part):
            return self._hashes
        if " " in part:
            return part.strip("'\"") in self._source or self._is_known_item(part)
        return part.strip("'\"") in self._words

    def _is_known_item(self, part: str) -> bool:
        key, colon, value = part.partition(": ")
        return bool(colon) and " " not in value and self._is_known(key) and self._is_known(value)

    def _is_exchange(self, old: Sequence[Hashable], fresh: Sequence[Sequence[Hashable]]) -> bool:
        """Whether the saved parts are those of the fresh runs in another order, if these are so among themselves."""
        counts = [Counter(one) for one in fresh]
        return any(one != counts[0] for one in counts) or Counter(old) == counts[0]


def _words(part: str, values: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The words of a text, and those of others. A text without any is itself one."""
    found = [re.findall(r"[\w.]+", one) for one in [part, *values]]
    return found[0], found[1:] if found[0] and all(len(one) == len(found[0]) for one in found) else [[""]]


def _groups(pieces: Sequence[str]) -> Iterator[list[int]]:
    """The places between each pair of brackets, and those of the whole line."""
    yield [*range(len(pieces))]
    opened: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if piece in _CLOSE and opened:
            yield opened.pop()
        for group in opened[-1:]:
            group.append(place)
        if piece in _OPEN:
            opened.append([])


def _counted(lines: Sequence[str]) -> Mapping[str, int]:
    return Counter(piece for line in lines for piece in _PIECE.findall(line))
