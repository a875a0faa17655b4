"""Compares two texts that code put out, an older and a fresh one. Parts that differ in each run count as equal.

Such parts are compared in pairs, never taken out of a text by itself: a date counts as the time of a run only where the
fresh date is that of the fresh run. So another value in its place is still a difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher

from papermill_mcp.core.verification.hash_order import Seeds, with_known_order
from papermill_mcp.utils.diff_text import hunks
from papermill_mcp.utils.text_utils import clean_text

#: Characters of a text that are compared. Of a longer one the rest must be the same, character by character.
MAX_CHARS = 2_000_000

#: Differing numbers that are named.
MAX_VALUES = 20

_MAX_LINES_ALIGNED = 4_000
_MAX_LINE = 20_000

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

#: Dates and times as programs write them.
MOMENT = (
    r"datetime\(\d{4}(?:, \d{1,6}){2,6}|date\(\d{4}, \d{1,2}, \d{1,2}"
    r"|\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]+\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d{1,2} \d{2}:\d{2}:\d{2} (?:[A-Z]{2,5} )?\d{4}"
    r"|(?:[A-Z][a-z]{2,8}, )?\d{1,2} [A-Z][a-z]{2,8} \d{4}(?: \d{2}:\d{2}(?::\d{2})?)?"
    r"|(?:[A-Z][a-z]{2,8}, )?[A-Z][a-z]{2,8} \d{1,2}, \d{4}(?:,? \d{1,2}:\d{2}(?::\d{2})?)?"
    r"|\d{1,2}[./]\d{1,2}[./]\d{4}(?: \d{2}:\d{2}(?::\d{2})?)?"
    r"|(?<!\d)20\d{6}(?:[_T-]?\d{4,6})?(?!\d)"
    r"|(?<![\d:])\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,9})?(?![\d:])"
)

_TOKEN = re.compile(
    r"(?P<progress>\[\d[\d:?]*<[^\]\n]{0,80}\]"  # of tqdm: [00:01<00:02, 3.2it/s]
    r"|(?<=total time=) *\d+\.\d(?:s|min)(?!\w))"  # of scikit-learn
    r"|(?P<uuid>(?<![0-9A-Za-z])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![0-9A-Za-z]))"
    r"|(?P<address>(?<![0-9A-Za-z])0x[0-9a-fA-F]{6,16}(?![0-9A-Za-z]))"
    r"|(?P<path>(?<![\w/.:])(?:/[\w.+@~-]+){2,}/?|(?<![\w/.])[A-Za-z]:(?:[\\/][\w.+@~ -]+){1,})"
    rf"|(?P<moment>{MOMENT})"
    r"|(?P<duration>(?:(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?\s?"
    r"(?:ns|µs|μs|us|ms|s|secs?|seconds?|mins?|minutes?|h|hours?|it/s|s/it|[mu]?s/step)(?![\w/])[ ,:]{0,2})+)"
    r"|(?P<size>(?<![\w.])\d+(?:\.\d+)?\+?\s?(?:[kKMGT]i?B|[Bb]ytes|B)(?!\w))"
    r"|(?P<number>(?<![\w.])[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w])|(?<!\w)-?(?:nan|inf)(?!\w))"
    r"|(?P<word>\w(?:(?!(?<!\d)20\d{6})\w)*)"
    r"|(?P<space>[ \t]+)"
    r"|(?P<other>[^\w \t])"
)

_PROMPT = re.compile(r"(?:Cell )?In ?\[\d+\]|<ipython-input-\d+-[0-9a-f]+>|/ipykernel_\d+/\d+\.py")
_WARNING_PLACE = re.compile(r"^\S.{0,400}?:\d+: (?=\w*(?:Warning|Error)\b)")
_NOT_ALWAYS = re.compile(r"The slowest run took .*")
_BAR = re.compile(r"(?<=%)\|[^|\n]{0,200}\|")

#: Words that make a number beside them a time that was measured; and weaker ones, beside code that measures.
_MEASURED = re.compile(
    r"\b(?:wall time|cpu times?|elapsed|took|eta|per loop|it/s|s/it|ms/step|runtime|ran in|finished in|completed in"
    r"|done in|processing time|execution time|training time)\b|± ",
    re.IGNORECASE,
)
_MAYBE_MEASURED = re.compile(
    r"\b(?:time[sd]?|duration|seconds?|secs?|ms|latency|speed|faster|slower|throughput|"
    r"in \d[\d.]* ?(?:s|ms|seconds))\b",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"\b(?:memory|mem|rss|ram|peak|heap|footprint|cache[ds]?)\b", re.IGNORECASE)
_PROCESS = re.compile(
    r"\b(?:pid|process(?: id)?|thread(?: id)?|ident|port|localhost|127\.0\.0\.1)\b\W{0,3}$", re.IGNORECASE
)
_IDENTITY = re.compile(r"\b(?:id|identity|hash)\b\W{0,3}$", re.IGNORECASE)
_TEMPORARY = re.compile(
    r"^(?:/tmp/|/var/tmp/|/private/var/folders/|/var/folders/|/private/tmp/|/dev/shm/|[A-Za-z]:.*[\\/]Temp[\\/])"
)

#: Code that measures time.
TIMERS = re.compile(
    r"%%?time|\btimeit\b|\b(?:time|perf_counter|perf_counter_ns|monotonic|process_time|time_ns)\(\)"
    r"|\bnow\(|\butcnow\(|\btoday\(|\bproc\.time\(|\bSys\.time\(|@time\b|@elapsed\b"
)
_PRINTED_TIMER = re.compile(r"(?:time|perf_counter|monotonic|process_time)\(\)\s*-|\btimeit\(")

#: Code that asks for numbers that each process has anew.
NAMES_PROCESS = re.compile(
    r"\b(?:getp?pid|get_ident|get_native_id|current_thread|main_thread|id)\(|\b(?:pid|ident|native_id)\b"
    r"|%\((?:process|thread)\)|\{(?:process|thread)\b"
)

#: Code that makes ids by chance, which have no seed.
MAKES_IDS = re.compile(r"\buuid[14]?\b|\bsecrets\b|\btoken_(?:hex|urlsafe|bytes)\b|\bnanoid\b|\bulid\b")
_MADE_ID = re.compile(r"[0-9A-Za-z_]{6,64}")

#: Code that may draw numbers by chance. Where it has no seed, its results are not to be believed.
BY_CHANCE = re.compile(
    r"random|rng\b|\bsample\(|shuffle|\bchoices?\(|sklearn|torch|tensorflow|keras|jax|xgboost|lightgbm|statsmodels"
    r"|scipy|faker|urandom|SystemRandom|thread|Thread|concurrent|multiprocess|asyncio|set\(|hash\("
)


@dataclass(frozen=True)
class Difference:
    """Two texts that differ. `diff` is a unified diff without head lines.

    Attributes:
        values: pairs of numbers that differ, in their order, at most 20.
        numbers_only: whether the texts differ in nothing but numbers.
    """

    diff: str
    values: Sequence[tuple[str, str]] = ()
    numbers_only: bool = False


@dataclass(frozen=True)
class Rules:
    """How texts of one cell are compared.

    Some parts may be measured, or made anew by each process, or may be results: durations, sizes of memory, ids,
    temporary names. They count as equal only if a second fresh run has others again; without one, `doubtful` has them.

    Attributes:
        began, ended: the time of the fresh run.
        relative: numbers that are nearer to each other count as equal; None for the same text only.
        directories: places of the fresh run, such as that of the notebook: paths below them are compared by name.
        timed_cell, timed_notebook: whether this cell, or any cell, measures time.
        prints_timer: whether the cell shows a measured time without words.
        source: of the cell.
        names_process: whether any cell asks for ids of processes, threads or objects.
        makes_ids: whether any cell makes ids by chance.
        only_timed: cells measure time, and none may draw numbers by chance.
        doubtful: parts that may be results, and were taken as equal: the saved and the fresh text.
    """

    began: datetime
    ended: datetime
    relative: float | None = None
    directories: Sequence[str] = ()
    timed_cell: bool = False
    timed_notebook: bool = False
    prints_timer: bool = False
    names_process: bool = False
    makes_ids: bool = False
    only_timed: bool = False
    source: str = ""
    doubtful: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def of_cell(self, source: str) -> Rules:
        """The rules for a cell with this source."""
        return replace(
            self,
            timed_cell=bool(TIMERS.search(source)),
            prints_timer=bool(_PRINTED_TIMER.search(source)),
            source=source,
        )


def difference(
    old: str, new: str, rules: Rules, *, again: str | None = None, seeds: Seeds | None = None
) -> Difference | None:
    """The difference of two texts; None if they are the same by the rules.

    Args:
        again: the same text of another fresh run.
        seeds: the same text of runs with other hash seeds.
    """
    if old == new:
        return None
    if len(old) > MAX_CHARS or len(new) > MAX_CHARS:
        return Difference(f"- {len(old):,} characters\n+ {len(new):,} characters")
    before, after = plain_lines(old), plain_lines(new)
    if before == after:
        return None
    if seeds is not None:
        plain = replace(
            seeds,
            others=[_plain(other) for other in seeds.others],
            same=None if seeds.same is None else (_plain(seeds.same[0]), _plain(seeds.same[1])),
        )
        before = with_known_order(before, after, plain)
    comparer = _Comparer(rules, _changing(after, None if again is None else plain_lines(again)))
    shown = comparer.with_equal_lines(before, after)
    if shown == before:
        return None
    diff = "\n".join(hunks("\n".join(before), "\n".join(shown), context=1))
    return Difference(diff, tuple(comparer.values[:MAX_VALUES]), numbers_only=comparer.numbers_only)


def _plain(text: str) -> str:
    return "\n".join(plain_lines(text))


def plain_lines(text: str) -> list[str]:
    """The lines of a text as a terminal shows them at its end, without escapes, prompts and trailing space."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        last = line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line
        plain = clean_text(last)
        plain = _WARNING_PLACE.sub("", _PROMPT.sub("In", plain))
        if not _NOT_ALWAYS.match(plain):  # %timeit says it in some runs
            lines.append(_BAR.sub("|", plain).rstrip())
    while lines and not lines[-1]:
        lines.pop()
    return lines


@dataclass
class _Comparer:
    """Compares lines. `changing`: by line, the places of parts that another fresh run has otherwise; None: unknown."""

    rules: Rules
    changing: Mapping[str, frozenset[int] | None] | None = None
    values: list[tuple[str, str]] = field(default_factory=list)
    numbers_only: bool = True

    def with_equal_lines(self, old: list[str], new: list[str]) -> list[str]:
        """The new lines, with the old one in place of each that is equal to it."""
        if len(old) == len(new):
            return [self._line(a, b) for a, b in zip(old, new, strict=True)]
        if max(len(old), len(new)) > _MAX_LINES_ALIGNED:
            self.numbers_only = False
            return new
        masks = [[_mask(line) for line in lines] for lines in (old, new)]
        made: list[str] = []
        self.numbers_only = False
        for tag, a1, a2, b1, b2 in SequenceMatcher(None, masks[0], masks[1], autojunk=False).get_opcodes():
            if tag == "equal" or a2 - a1 == b2 - b1:
                made += [self._line(a, b) for a, b in zip(old[a1:a2], new[b1:b2], strict=True)]
            else:
                made += new[b1:b2]
        return made

    def _line(self, old: str, new: str) -> str:
        if old == new:
            return old
        if max(len(old), len(new)) > _MAX_LINE:
            self.numbers_only = False
            return new
        one, other = [*_tokens(old)], [*_tokens(new)]
        if len(one) != len(other):
            one, other = [[token for token in tokens if token[0] != "space"] for tokens in (one, other)]
        if len(one) != len(other):
            self.numbers_only = False
            return new
        same = True
        values: list[tuple[str, str]] = []
        for a, b in zip(one, other, strict=True):
            if a[1] == b[1] or self._same(a, b, old, new):
                continue
            same = False
            if a[0] == b[0] == "number":
                values.append((a[1], b[1]))
            elif not a[0] == b[0] == "space":
                self.numbers_only = False
        if not same and _same_set(one, other):
            return old
        self.values += values
        return old if same else new

    def _same(self, a: _Token, b: _Token, old: str, new: str) -> bool:
        kind = a[0]
        if kind == "space" and b[0] == "space":
            return True  # columns move with the width of a number; another value differs by itself
        if self.rules.makes_ids and _are_made_ids(a, b) and self._changes(a, b, new):
            return True
        if kind == "number" and b[0] == "number":
            return self._same_number(a, b, old, new) or (self.rules.only_timed and self._changes(a, b, new, each=True))
        if {kind, b[0]} <= {"duration", "number"}:
            return self._is_measured(old, new) and self._changes(a, b, new)
        if kind != b[0]:
            return False
        match kind:
            case "uuid":
                return self._changes(a, b, new)
            case "progress":
                return True
            case "address":
                if _is_named_pointer(old[: a[2]]) and _is_named_pointer(new[: b[2]]):
                    return True
                return _may_be_pointer(a[1]) and _may_be_pointer(b[1]) and self._changes(a, b, new)
            case "moment":
                if not self._is_now(b[1]) or _shape(a[1]) != _shape(b[1]):
                    return False
                return _moment(b[1])[0] is not None or self._changes(a, b, new)  # many a time of day is near now
            case "duration":
                return self._is_measured(old, new) and self._changes(a, b, new)
            case "size" if "memory usage:" in old and "memory usage:" in new:
                return True  # of a table, which is that of the version of pandas
            case "size":
                return bool(_MEMORY.search(old) and _MEMORY.search(new)) and self._changes(a, b, new)
            case "path":
                if _TEMPORARY.match(a[1]) and _TEMPORARY.match(b[1]):
                    return self._changes(a, b, new)
                return self._same_path(a[1], b[1])
        return False

    def _changes(self, a: _Token, b: _Token, new: str, *, each: bool = False) -> bool:
        """Whether a part is another one in each fresh run. Without another run it may be.

        Args:
            each: it has to be seen to change, even if the time is rounded.
        """
        if self.changing is None:
            self.rules.doubtful.append((a[1], b[1]))
            return True
        places = self.changing.get(new)
        if (places is None and not each) or (places is not None and b[2] in places):
            return True
        if each:
            return False
        # Two runs may take the same time, as it is rounded. A number of the source is not measured.
        number = re.match(r"[\d.]+", b[1])
        rounded = b[0] == "duration" or "." in b[1]
        if not self.rules.timed_cell or not rounded or number is None:
            return False
        return number[0] not in re.findall(r"\d+\.?\d*|\.\d+", self.rules.source)

    def _same_number(self, a: _Token, b: _Token, old: str, new: str) -> bool:
        one, other = (token[1].replace(",", "") for token in (a, b))
        try:
            x, y = float(one), float(other)
        except ValueError:
            return False
        if (x == y or (math.isnan(x) and math.isnan(y))) and one.lstrip("+") == other.lstrip("+"):
            return True
        relative = self.rules.relative
        if relative is not None and (
            math.isclose(x, y, rel_tol=relative, abs_tol=1e-12) or (math.isnan(x) and math.isnan(y))
        ):
            return True
        before, now = old[: a[2]], new[: b[2]]
        if self._is_epoch(x) and self._is_epoch(y, now=True):
            return True
        may_change = (
            (_PROCESS.search(before) and _PROCESS.search(now))
            or (min(abs(x), abs(y)) > 1e10 and _IDENTITY.search(before) and _IDENTITY.search(now))
            or (_MEMORY.search(before) and _is_measured_memory(old))
            or (self.rules.names_process and _is_long(one) and _is_long(other))
            or self._is_bare_time(before, now, new)
        )
        return bool(may_change) and self._changes(a, b, new)

    def _is_measured(self, old: str, new: str) -> bool:
        """Whether a time with a unit in a line was measured."""
        rules = self.rules
        if _MEASURED.search(old) and _MEASURED.search(new):
            return True
        if not rules.timed_notebook:
            return False
        return rules.timed_cell or bool(_MAYBE_MEASURED.search(old) and _MAYBE_MEASURED.search(new))

    def _is_bare_time(self, before: str, now: str, new: str) -> bool:
        """Whether a number without a unit is a measured time: right behind a word for it, or alone in its line.

        Args:
            before, now: the texts before the number, saved and fresh.
        """
        rules = self.rules
        if rules.timed_notebook and _ends_with(_MEASURED, before) and _ends_with(_MEASURED, now):
            return True
        if not rules.timed_cell:
            return False
        if _ends_with(_MAYBE_MEASURED, before) and _ends_with(_MAYBE_MEASURED, now):
            return True
        alone = len([token for token in _tokens(new) if token[0] in ("number", "duration", "word")]) == 1
        return alone and rules.prints_timer

    def _is_epoch(self, value: float, *, now: bool = False) -> bool:
        seconds = next((value / unit for unit in (1, 1e3, 1e6, 1e9) if 1e9 < value / unit < 4e9), None)
        if seconds is None or not now:
            return seconds is not None
        return self.rules.began.timestamp() - 86_400 < seconds < self.rules.ended.timestamp() + 86_400

    def _is_now(self, text: str) -> bool:
        """Whether a moment in the fresh text is one of the fresh run, in any time zone."""
        day, time_of_day = _moment(text)
        began, ended = self.rules.began.astimezone(UTC), self.rules.ended.astimezone(UTC)
        if day is not None:
            near = timedelta(days=1)
            if not (began - near).date() <= day.date() <= (ended + near).date():
                return False
            if time_of_day is None or time_of_day % 3600 == 0:
                return True
        if time_of_day is None:
            return False
        # Time zones differ from UTC by quarters of an hour.
        quarter = 900.0
        start = (began.minute * 60 + began.second + began.microsecond / 1e6) - 61
        length = (ended - began).total_seconds() + 122
        return length >= quarter or (time_of_day - start) % quarter <= length

    def _same_path(self, old: str, new: str) -> bool:
        one, other = (re.split(r"[\\/]", path.rstrip("\\/"))[-1] for path in (old, new))
        below = any(new == place or new.startswith(place.rstrip("/\\") + "/") for place in self.rules.directories)
        if below or "site-packages" in new or re.search(r"/lib/python3", new):
            return one == other or new.rstrip("/") in self.rules.directories
        return False


_Token = tuple[str, str, int]
"""Kind, text, and place in the line."""


def _are_made_ids(a: _Token, b: _Token) -> bool:
    """Whether two parts may be ids that were made by chance: words or numbers of some length, with digits."""
    kinds = {"word", "number"}
    return {a[0], b[0]} <= kinds and all(
        _MADE_ID.fullmatch(text) is not None and any(map(str.isdigit, text)) for text in (a[1], b[1])
    )


def _tokens(line: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(line):
        yield found.lastgroup or "other", found[0], found.start()


def _changing(lines: Sequence[str], again: Sequence[str] | None) -> dict[str, frozenset[int] | None] | None:
    """For each line, the places of its parts that the same line of another run has otherwise; None for other lines."""
    if again is None:
        return None
    found: dict[str, frozenset[int] | None] = {}
    if len(lines) != len(again):
        return dict.fromkeys(lines)
    for line, other in zip(lines, again, strict=True):
        one, two = ([token for token in _tokens(text) if token[0] != "space"] for text in (line, other))
        if len(one) != len(two):
            found[line] = None
            continue
        found[line] = frozenset(a[2] for a, b in zip(one, two, strict=True) if a[1] != b[1])
    return found


def _ends_with(words: re.Pattern[str], text: str) -> bool:
    """Whether a text ends with one of some words, and no other word or number behind it but a short one."""
    *_, found = [None, *words.finditer(text)]
    return (
        found is not None
        and re.fullmatch(r"\W{0,12}(?:(?:is|was|of|in|for|taken|total|s)\W{1,6}){0,2}", text[found.end() :]) is not None
    )


def _mask(line: str) -> str:
    """A line with a mark for each part that may differ."""
    return "".join(
        text if kind in ("word", "other") else " " if kind == "space" else f"⟦{kind}⟧"
        for kind, text, _ in _tokens(line[:_MAX_LINE])
    )


def _is_named_pointer(before: str) -> bool:
    """Whether the text before a hexadecimal number makes it the place of an object in memory."""
    return before.endswith(("at ", "id=", "ptr=", "object "))


def _may_be_pointer(text: str) -> bool:
    return len(text) >= 11 and text[-1] in "08"


def _same_set(one: Sequence[_Token], other: Sequence[_Token]) -> bool:
    """Whether two lines differ only in the order of sets of Python, which is another one in each process."""
    texts, others = [token[1] for token in one], [token[1] for token in other]
    if len(texts) != len(others):
        return False
    place = 0
    while place < len(texts):
        if texts[place] != others[place]:
            return False
        if texts[place] == "{":
            end = next((at for at in range(place, len(texts)) if texts[at] == "}"), None)
            if end is None or others[end] != "}":
                return False
            inside = texts[place:end], others[place:end]
            is_set = ":" not in inside[0] and any(text in "'\"" for text in inside[0])
            if inside[0] != inside[1] and not (is_set and sorted(inside[0]) == sorted(inside[1])):
                return False
            place = end
        place += 1
    return True


def _is_long(text: str) -> bool:
    """Whether a number may be that of a process, a thread or an object."""
    return text.isdecimal() and len(text) >= 2


def _is_measured_memory(line: str) -> bool:
    return bool(re.search(r"\b(?:memory|rss|peak)\b", line, re.IGNORECASE))


def _shape(text: str) -> str:
    """A moment with a 9 for each digit and an a for each word; fractions of seconds may be absent or shorter."""
    text = re.sub(r"[.,]\d{1,9}(?=Z|[+-]|$)", "", text)
    text = re.sub(r"(?<=\d\d:\d\d:\d\d)[.,]\d+", "", text)
    if "(" in text:
        return text.partition("(")[0]
    return re.sub(r"\s+", " ", re.sub(r"[A-Za-z]{2,}", "a", re.sub(r"\d+", "9", text)))


def _moment(text: str) -> tuple[datetime | None, float | None]:
    """The day of a moment and its seconds since midnight; None for a part that it has not got, or that is none."""
    seconds: float | None = None
    clock = re.search(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?", text)
    if clock:
        seconds = int(clock[1]) * 3600.0 + int(clock[2]) * 60 + int(clock[3] or 0)
        text = text[: clock.start()] + " " + text[clock.end() :]
    numbers = [int(part) for part in re.findall(r"\d+", text)[:6]]
    names = [part.lower()[:3] for part in re.findall(r"[A-Za-z]{3,}", text)]
    month = next((_MONTHS.index(name) + 1 for name in names if name in _MONTHS), None)
    compact = re.fullmatch(r"(20\d\d)(\d\d)(\d\d)[_T-]?(?:(\d\d)(\d\d)(\d\d)?)?", text.strip())
    try:
        if "datetime(" in text or "date(" in text:
            if len(numbers) > 4:
                seconds = numbers[3] * 3600.0 + numbers[4] * 60 + (numbers[5] if len(numbers) > 5 else 0)
            return datetime(numbers[0], numbers[1], numbers[2], tzinfo=UTC), seconds
        if compact:
            if compact[4]:
                seconds = int(compact[4]) * 3600.0 + int(compact[5]) * 60 + int(compact[6] or 0)
            return datetime(int(compact[1]), int(compact[2]), int(compact[3]), tzinfo=UTC), seconds
        if month is not None:
            year = next(number for number in numbers if number > 1000)
            day = next(number for number in numbers if number <= 31)
            return datetime(year, month, day, tzinfo=UTC), seconds
        if len(numbers) >= 3:
            if numbers[0] > 1000:
                return datetime(numbers[0], numbers[1], numbers[2], tzinfo=UTC), seconds
            day, month_number = (numbers[1], numbers[0]) if numbers[1] > 12 or "/" in text else numbers[:2]
            return datetime(numbers[2], month_number, day, tzinfo=UTC), seconds
    except (ValueError, StopIteration):
        return None, None
    return None, seconds
