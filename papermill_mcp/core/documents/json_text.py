"""JSON as text: where its values stand, how it is written, and how to change one member and no other byte.

Reading uses the C scanner of `json` value by value, so that every value is known together with its place in the text.
Writing in the default `Style` is byte-identical with
`json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, separators=(",", ": "))`, and faster: the C encoder of
`json` is off when an indent is set.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in typeshed
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, NamedTuple, Protocol, TypeVar

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KEY_SEPARATOR = re.compile(r'"([ \t]*:[ \t]*)$')
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # not in typeshed


class Member(NamedTuple):
    """One member of an object and where its parts stand in the text."""

    key: str
    key_start: int
    value_start: int
    value_end: int
    value: Any


class Element(NamedTuple):
    """One element of an array and where it stands in the text."""

    value: Any
    start: int
    end: int


ReadMember = Callable[[str, str, int], tuple[Any, int]]
"""Reads the value of a member: key, text, start → value, end."""


def after_whitespace(text: str, at: int) -> int:
    """The position of the first character from `at` that is not JSON whitespace."""
    found = _WHITESPACE.match(text, at)
    return at if found is None else found.end()


def read_value(text: str, at: int) -> tuple[Any, int]:
    """The value that starts at `at`, and its end.

    Raises:
        json.JSONDecodeError: there is none. RecursionError and ValueError: too deep, or an integer too long.
    """
    try:
        value, end = _scan(text, at)
    except StopIteration as stop:
        raise json.JSONDecodeError("Expecting value", text, int(stop.value)) from None
    return value, end


def read_members(text: str, at: int, read: ReadMember | None = None) -> tuple[list[Member], int]:
    """The members of the object that opens at `at`, and its end. `read` may take over the reading of the values."""
    members: list[Member] = []
    at = after_whitespace(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        key, colon = scanstring(text, at + 1, True)
        colon = after_whitespace(text, colon)
        if text[colon : colon + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, colon)
        start = after_whitespace(text, colon + 1)
        value, end = read_value(text, start) if read is None else read(key, text, start)
        members.append(Member(key, at, start, end, value))
        at = after_whitespace(text, end)
        mark = text[at : at + 1]
        if mark == "}":
            return members, at + 1
        if mark != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = after_whitespace(text, at + 1)


def read_elements(text: str, at: int) -> tuple[list[Element], int]:
    """The elements of the array that opens at `at`, and its end."""
    elements: list[Element] = []
    at = after_whitespace(text, at + 1)
    if text[at : at + 1] == "]":
        return elements, at + 1
    while True:
        value, end = read_value(text, at)
        elements.append(Element(value, at, end))
        at = after_whitespace(text, end)
        mark = text[at : at + 1]
        if mark == "]":
            return elements, at + 1
        if mark != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = after_whitespace(text, at + 1)


def same(a: Any, b: Any) -> bool:
    """Whether both are the same JSON: 1, 1.0 and true are three values, and NaN equals itself."""
    if a is b:
        return True
    if isinstance(a, bytes):
        a = a.decode("ascii")
    if isinstance(b, bytes):
        b = b.decode("ascii")
    if a is None or b is None or isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and _same_members(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return isinstance(b, float) and float.__repr__(a) == float.__repr__(b)
    return isinstance(a, int) and isinstance(b, int) and a == b


def _same_members(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    if a.keys() != b.keys():  # keys that are not strings are written as strings
        texts_a, texts_b = ({_key_text(key): value for key, value in m.items()} for m in (a, b))
        if len(texts_a) != len(a) or len(texts_b) != len(b) or texts_a.keys() != texts_b.keys():
            return False
        a, b = texts_a, texts_b
    return all(same(value, b[key]) for key, value in a.items())


def line_of(whitespace: str) -> str:
    """The last line break in `whitespace` and the indent after it; empty when there is no line break."""
    at = whitespace.rfind("\n")
    if at < 0:
        return ""
    return whitespace[at - 1 :] if at and whitespace[at - 1] == "\r" else whitespace[at:]


class Placed(Protocol):
    """A text with whitespace around it, in a list where commas stand between."""

    before: str
    after: str


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True)
class Gaps:
    """Whitespace of a list: before the first item, before the others, after the last."""

    first: str
    between: str
    last: str


def put(items: list[P], index: int, item: P, gaps: Gaps) -> None:
    """Insert an item. Whitespace belongs to the places; `gaps` has the rest."""
    if not items:
        item.before, item.after = gaps.first, gaps.last
    else:
        between = items[1].before if len(items) > 1 else gaps.between
        item.after = ""
        if index == 0:
            item.before, items[0].before = items[0].before, between
        else:
            item.before = items[index].before if index < len(items) else between
        if index == len(items):
            item.after = items[-1].after
            items[-1].after = items[-2].after if len(items) > 1 else ""
    items.insert(index, item)


def take(items: list[P], index: int) -> P:
    """Remove and return an item. Its neighbours take over the whitespace of the first and the last place."""
    taken = items.pop(index)
    if items and index == 0:
        items[0].before = taken.before
    if items and index == len(items):
        items[-1].after = taken.after
    return taken


@dataclass(frozen=True)
class Style:
    """How JSON is written. The default is that of nbformat."""

    unit: str | None = " "  # one level of indent; None: all on one line
    comma: str = ", "  # between values on one line
    colon: str = ": "
    ascii_only: bool = False
    sort_keys: bool = True

    def dump(self, value: Any, line: str) -> str:
        """`value` as text. `line` is the line break and indent of the line it starts in.

        Lone surrogates are written as escapes, so that the text can always be encoded.

        Raises:
            TypeError, ValueError, RecursionError: it is no JSON, has an integer that is too long, or is too deep.
        """
        pieces: list[str] = []
        _Writer(self, encode_basestring_ascii if self.ascii_only else encode_basestring, pieces.append).write(
            value, line if self.unit is not None else ""
        )
        return _encodable("".join(pieces))

    def on_one_line(self) -> Style:
        return replace(self, unit=None)


class _Writer:
    def __init__(self, style: Style, quote: Callable[[str], str], out: Callable[[str], object]) -> None:
        self.unit = style.unit
        self.comma = style.comma
        self.colon = style.colon
        self.sort_keys = style.sort_keys
        self.quote = quote
        self.out = out

    def write(self, value: Any, line: str) -> None:
        if isinstance(value, str):
            self.out(self.quote(value))
        elif isinstance(value, Mapping):
            self.write_object(value, line)
        elif isinstance(value, list | tuple):
            self.write_array(value, line)
        elif isinstance(value, bytes):  # base64, as nbformat does
            self.out(self.quote(value.decode("ascii")))
        else:
            self.out(_scalar_text(value))

    def write_array(self, values: list[Any] | tuple[Any, ...], line: str) -> None:
        if not values:
            self.out("[]")
            return
        inner = "" if self.unit is None else line + self.unit
        comma = self.comma if self.unit is None else f",{inner}"
        if set(map(type, values)) == {str}:
            self.out(f"[{inner}{comma.join(map(self.quote, values))}{line}]")
            return
        mark = f"[{inner}"
        for value in values:
            self.out(mark)
            self.write(value, inner)
            mark = comma
        self.out(f"{line}]")

    def write_object(self, members: Mapping[Any, Any], line: str) -> None:
        if not members:
            self.out("{}")
            return
        inner = "" if self.unit is None else line + self.unit
        comma = self.comma if self.unit is None else f",{inner}"
        mark = f"{{{inner}"
        for key in sorted(members) if self.sort_keys else members:
            self.out(f"{mark}{self.quote(key if isinstance(key, str) else _key_text(key))}{self.colon}")
            self.write(members[key], inner)
            mark = comma
        self.out(f"{line}}}")


def _scalar_text(value: object) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "Infinity" if value > 0 else "-Infinity"
        return float.__repr__(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _key_text(key: object) -> str:
    return key if isinstance(key, str) else _scalar_text(key)


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text


@dataclass
class _Entry:
    key: str
    body: str
    before: str = ""
    after: str = ""


def style_of_object(text: str, at: int, members: list[Member], end: int, like: Style) -> tuple[Style, str]:
    """How the object at `at` is written, and the line its end stands in. `like` has the rest."""
    if not members:
        return like, ""
    first = members[0]
    found = _KEY_SEPARATOR.search(text[first.key_start : first.value_start].rstrip("\r\n"))
    colon = found[1] if found and "\n" not in text[first.key_start : first.value_start] else like.colon
    keys = [member.key for member in members]
    style = replace(like, colon=colon, sort_keys=keys == sorted(keys))
    opening = line_of(text[at + 1 : first.key_start])
    last = members[-1].value_end
    closing = line_of(text[last : end - 1])
    if opening:
        unit = opening.removeprefix(closing) if closing and opening.startswith(closing) else opening.lstrip("\r\n")
        return replace(style, unit=unit), closing
    if len(members) > 1:
        comma = text[after_whitespace(text, first.value_end) + 1 : members[1].key_start]
        if "\n" in comma:
            return style, closing
        style = replace(style, comma=f",{comma}")
    return style.on_one_line(), ""


def spliced(text: str, changed: Mapping[str, Any], dropped: Collection[str], style: Style, line: str) -> str:
    """The text of an object with some members set and some dropped, every other byte as it was.

    New members stand where the order of the keys wants them, or at the end. `line` is the line break and indent of
    the line the object starts in.
    """
    at = after_whitespace(text, 0)
    members, end = read_members(text, at)
    own, closing = style_of_object(text, at, members, end, style)
    own = replace(own, sort_keys=style.sort_keys)
    keys = [member.key for member in members]
    in_order = keys == sorted(keys)
    usual = next(filter(None, (line_of(text[_gap_start(text, m, at) : m.key_start]) for m in members)), "")
    entries: list[_Entry] = []
    start = at + 1
    last_of = {key: position for position, key in enumerate(keys)}
    for position, member in enumerate(members):
        comma = after_whitespace(text, member.value_end)
        entry = _Entry(
            member.key,
            text[member.key_start : member.value_end],
            text[start : member.key_start],
            text[member.value_end : comma],
        )
        if member.key in changed and last_of[member.key] == position:
            old = text[member.value_start : member.value_end]
            line_here = line_of(entry.before) or usual
            written = _rewritten(old, member.value, changed[member.key], _member_style(own, usual), line_here)
            entry.body = text[member.key_start : member.value_start] + written
        entries.append(entry)
        start = comma + 1
    for position in reversed(range(len(entries))):
        if entries[position].key in dropped:
            take(entries, position)
    if entries or own.unit is None or not (line or closing):
        gaps = Gaps("", usual or own.comma[1:], "")
    else:
        gaps = Gaps((line or closing) + own.unit, (line or closing) + own.unit, line or closing)
    for key in sorted(changed.keys() - last_of.keys()) if style.sort_keys else changed.keys():
        if key in last_of:
            continue
        value = _member_style(own, usual or gaps.first).dump(changed[key], usual or gaps.first)
        entry = _Entry(key, own.dump(key, "") + own.colon + value)
        place = bisect.bisect([e.key for e in entries], key) if in_order else len(entries)
        put(entries, place, entry, gaps)
    body = ",".join(f"{entry.before}{entry.body}{entry.after}" for entry in entries)
    return f"{text[: at + 1]}{body}{text[end - 1 :]}"


def _rewritten(text: str, old: object, new: Any, style: Style, line: str) -> str:
    """A value in the place of another. Of an object that stays an object, only changed members are rewritten."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or not old.keys() & new.keys():
        return style.dump(new, line)
    changed = {key: value for key, value in new.items() if key not in old or not same(old[key], value)}
    return spliced(text, changed, old.keys() - new.keys(), style, line)


def _gap_start(text: str, member: Member, at: int) -> int:
    start = member.key_start
    while start > at + 1 and text[start - 1] in " \t\r\n":
        start -= 1
    return start


def _member_style(style: Style, line: str) -> Style:
    return style if line else style.on_one_line()
