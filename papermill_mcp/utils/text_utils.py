"""Text made fit to be shown: cleaned, cut with exact counts, and always encodable.

Everything here is for display. Text for a file never passes through these functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

_ESC = "\x1b"
_ZWJ = "\u200d"

# Deleting these bytes from an ASCII text leaves nothing exactly when there is nothing to clean.
_PLAIN_BYTES = bytes([0x09, 0x0A, *range(0x20, 0x7F)])

_C1 = re.compile(r"[\x80-\x9f]")

# Each alternative is possessive and stops at the next ESC, so that a text full of unfinished sequences stays linear.
# An unfinished string loses its introducer only: hiding all text up to its end would be worse.
_ESCAPE = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*+[ -/]*+[@-~]?"  # CSI: colours, cursor
    r"|\](?:[^\x07\x18\x1a\x1b\n]*+(?:\x07|\x1b\\))?"  # OSC: titles, links (8), clipboard (52)
    r"|[PX^_](?:[^\x18\x1a\x1b]*+\x1b\\)?"  # DCS, SOS, PM, APC
    r"|[ -/]*+[0-~]?"  # all shorter ones
    r")"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")
_RETURNS = re.compile(r"\r+\n?")

# Shown wherever they stand: format and bidirectional controls, fillers, separators, tags, surrogates.
_ALWAYS_SHOWN = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_VARIATION = r"\ufe00-\ufe0f"
_IDEOGRAPHIC_VARIATION = r"\U000e0100-\U000e01ef"
_SYMBOL = r"\xa9\xae\u203c\u2049\u2100-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_IDEOGRAPH = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

_SPECIAL = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_ALWAYS_SHOWN}{_ZWJ}{_VARIATION}{_IDEOGRAPHIC_VARIATION}]")
_INVISIBLE = re.compile(
    rf"[{_ALWAYS_SHOWN}]+"
    # Joiners stay inside an emoji sequence only.
    rf"|(?<![{_SYMBOL}])(?<![{_SYMBOL}]\ufe0f){_ZWJ}"
    rf"|{_ZWJ}(?![{_SYMBOL}])"
    # One selector stays after a character that has variants; `1\ufe0f\u20e3` is a keycap.
    rf"|(?<![{_SYMBOL}{_IDEOGRAPH}])(?!(?<=[0-9#*])\ufe0f\u20e3)[{_VARIATION}]+"
    rf"|(?<![{_IDEOGRAPH}])[{_IDEOGRAPHIC_VARIATION}]+"
)
_GLUE = frozenset([_ZWJ, *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))])


def clean_text(text: str) -> str:
    """`text` without terminal escapes and control characters, and with invisible characters made visible.

    Newlines and tabs stay; `\\r\\n` and `\\r` become newlines. Invisible and bidirectional characters, and lone
    surrogates, are shown as `⟨U+200B⟩`. Emoji sequences stay as they are. Cleaning twice changes nothing more.
    """
    ascii_only = text.isascii()
    if ascii_only:
        if not text.encode("ascii").translate(None, _PLAIN_BYTES):
            return text
    elif not _SPECIAL.search(text):
        return text
    else:
        # An 8-bit control is, by definition (ECMA-35), the short form of ESC and a letter.
        if _C1.search(text):
            for code in range(0x80, 0xA0):
                text = text.replace(chr(code), _ESC + chr(code - 0x40))
    if _ESC in text:
        text = _ESCAPE.sub("", text)
    text = _CONTROLS.sub("", text)
    if "\r" in text:
        text = _RETURNS.sub("\n", text)
    return text if ascii_only else _INVISIBLE.sub(_shown, text)


def head_and_tail(text: str, limit: int) -> tuple[str, int]:
    """`text` cut to `limit` characters, two thirds of them from its head, and the number of characters left out.

    Cuts at line ends where one is near. The line about the missing part comes on top of `limit`; its line count
    includes lines of which only a part is missing.
    """
    size, limit = len(text), max(limit, 0)
    if size <= limit:
        return text, 0
    tail_room = limit // 3
    head_room = limit - tail_room

    end = head_room
    newline = text.rfind("\n", head_room // 2, head_room)
    if newline >= 0:
        end = newline + 1
    while end and text[end - 1] == _ZWJ:
        end -= 1

    start = size - tail_room
    newline = text.find("\n", start - 1, start + tail_room // 2) if tail_room else -1
    if newline >= 0:
        start = newline + 1
    while start < size and text[start] in _GLUE:  # would be invisible at the start of a line
        start += 1

    head, tail = text[:end], text[start:]
    lines = text.count("\n", end, start) + (text[start - 1] != "\n")
    marker = f"… {count_noun(start - end, 'character')} ({count_noun(lines, 'line')}) left out …"
    shown = "".join((head, "" if not head or head.endswith("\n") else "\n", marker, "\n" if tail else "", tail))
    return shown, start - end


def one_line(text: str, limit: int) -> str:
    """The first line of `text` that holds anything: cleaned, whitespace collapsed, at most `limit` characters.

    A line that is cut ends in `…`, which is one of the `limit` characters.
    """
    limit = max(limit, 1)
    # No title needs more than this, and the text may be 10 MB.
    cleaned = clean_text(text.lstrip()[: 4096 + 8 * limit])
    line = " ".join(cleaned.lstrip().partition("\n")[0].split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def safe_utf8(text: str) -> str:
    """`text` such that encoding it to UTF-8 cannot fail: surrogate pairs joined, lone ones replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def rough_duration(seconds: float) -> str:
    """A time that is only estimated, in a unit that fits: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def iso_time(moment: datetime) -> str:
    """A time in UTC as `2026-01-31T12:00:00Z`."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def human_size(size: int) -> str:
    """A number of bytes as `512 B`, `23 kB` or `1.4 MB`."""
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1_000:.0f} kB" if size < 999_500 else f"{size / 1_000_000:.1f} MB"


def cell_name(index: int, cell_id: str | None) -> str:
    """The name of a cell in messages and replies: `3 [load]`, or its index alone."""
    return f"{index} [{one_line(cell_id, 64)}]" if cell_id else str(index)


def cells_named(indexes: Iterable[int]) -> str:
    """Cells by their indexes: `cell 3`, or `cells 3, 5`."""
    found = sorted(indexes)
    return f"cell{'' if len(found) == 1 else 's'} {', '.join(map(str, found))}"


#: The names of the types of JSON, by the types that Python reads them as.
JSON_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def json_kind(value: object) -> str:
    """The type of a JSON value: `an object`."""
    return JSON_KINDS.get(type(value), "a number")


def count_noun(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`. For nouns that only take an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shown(match: re.Match[str]) -> str:
    run = match[0]
    names = {character: f"⟨U+{ord(character):04X}⟩" for character in set(run)}
    return "".join([names[character] for character in run])
