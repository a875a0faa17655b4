"""Content of kernel messages in a form that nbformat 4.5 accepts, with its size in memory.

A kernel may send anything. A value that has no place in a notebook becomes a marker of a few words, and everything
beside it stays. So all that comes from a kernel and may reach a file passes through here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from papermill_mcp.utils.text_utils import count_noun, json_kind, one_line, safe_utf8

#: Levels of a JSON value in an output. Readers of notebooks walk through values by recursion.
MAX_JSON_DEPTH = 100

#: Bytes of one value in an output, as they are in memory. Larger ones are not looked through.
MAX_VALUE_BYTES = 10 * 1024 * 1024

#: Bytes of an exception: its message and the entries of its traceback.
MAX_ERROR_BYTES = 1024 * 1024

#: Bytes of the message of an exception.
_MAX_MESSAGE_BYTES = 64 * 1024

#: MIME types whose values may be any JSON (nbformat 4.5, `mimebundle`).
_JSON_TYPE = re.compile(r"application/(.*\+)?json")

#: Characters of a MIME type in a marker.
_NAME_CHARS = 60

#: The members of `language_info` with a type of their own (nbformat 4.5, `metadata`).
_LANGUAGE_INFO = {
    "codemirror_mode": (str, dict),
    "file_extension": (str,),
    "mimetype": (str,),
    "pygments_lexer": (str,),
}


class UnfitError(ValueError):
    """A value cannot be kept in a notebook. The message is the reason, in a few words."""


@dataclass
class Cleaner:
    """Makes JSON values fit for a notebook, and counts their bytes in memory.

    Attributes:
        size: bytes of all values so far.
    """

    size: int = 0

    def value(self, value: Any, depth: int = MAX_JSON_DEPTH) -> Any:
        """The value with sound text, and with null for NaN and infinity, as in JavaScript's JSON.

        Raises:
            UnfitError: it is nested too deeply, or too large.
        """
        if isinstance(value, str):
            return self.text(value)
        self.size += getsizeof(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if not isinstance(value, dict | list):
            return value
        if depth == 0:
            raise UnfitError(f"nested over {MAX_JSON_DEPTH} levels")
        if self.size > MAX_VALUE_BYTES:
            raise UnfitError(f"over {MAX_VALUE_BYTES:,} bytes in memory")
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item, depth - 1) for key, item in value.items()}
        kinds = {*map(type, value)}
        if kinds <= {int, float}:  # the coordinates of a plot, perhaps millions
            self.size += sum(map(getsizeof, value))
            return [item if item - item == 0 else None for item in value] if float in kinds else value
        return [self.value(item, depth - 1) for item in value]

    def text(self, text: str) -> str:
        """Text that has a UTF-8 form."""
        text = text if text.isascii() else safe_utf8(text)
        self.size += getsizeof(text)
        return text

    def lines(self, value: Any) -> str:
        """The text of a value that nbformat keeps as text: a string or a list of strings. A number is written out.

        Raises:
            UnfitError: it is none of these.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return self.text("".join(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.text(str(value))
        raise UnfitError(f"{json_kind(value)} is no text")


#: Bytes of the dictionaries of an output, without their content.
_OVERHEAD = 500


@dataclass(frozen=True)
class Bundle:
    """The data and metadata of a display, as nbformat keeps them.

    Attributes:
        sizes: bytes in memory of each form in `data`.
        rest: bytes of everything else.
        faults: the parts that were not kept, each with the reason.
    """

    data: dict[str, Any]
    metadata: dict[str, Any]
    sizes: dict[str, int]
    rest: int
    faults: list[str]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.rest + sum(self.sizes.values())

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Bundle:
        """The bundle of a `display_data`, `execute_result` or `update_display_data`."""
        data: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        faults: list[str] = []
        forms = content.get("data", {})
        if not isinstance(forms, dict):
            forms = {}
            _replace(data, "text/plain", f"its data is {json_kind(content['data'])}", faults)
        for name, value in forms.items():
            cleaner = Cleaner()
            mime = cleaner.text(str(name))
            try:
                data[mime] = _form(mime, value, cleaner)
                sizes[mime] = cleaner.size
            except UnfitError as error:
                _replace(data, mime, str(error), faults)
        cleaner = Cleaner()
        metadata = content.get("metadata") or {}
        try:
            if not isinstance(metadata, dict):
                raise UnfitError(f"{json_kind(metadata)} is no object")
            metadata = cleaner.value(metadata)
        except UnfitError as error:
            metadata, cleaner = {}, Cleaner()
            faults.append(f"metadata ({error})")
        return cls(data, metadata, sizes, _OVERHEAD + cleaner.size, faults)

    def within(self, room: int) -> Bundle:
        """The same in `room` bytes, if it can be: markers take the place of the largest forms."""
        data, sizes, faults = dict(self.data), dict(self.sizes), list(self.faults)
        while sizes and self.rest + sum(sizes.values()) > room:
            mime = max(sizes, key=lambda name: sizes[name])
            reason = f"{sizes.pop(mime):,} bytes in memory, for which the cell has no room"
            del data[mime]
            _replace(data, mime, reason, faults)
        return Bundle(data, self.metadata, sizes, self.rest, faults)


def _form(mime: str, value: Any, cleaner: Cleaner) -> Any:
    """One form of a display. Altair 6 sends `application/vnd.vegalite.v6.json`, which nbformat keeps as text."""
    if _JSON_TYPE.fullmatch(mime):
        return cleaner.value(value)
    if mime.endswith(".json") and isinstance(value, dict):
        return cleaner.text(json.dumps(cleaner.value(value), ensure_ascii=False))
    return cleaner.lines(value)


def _replace(data: dict[str, Any], mime: str, reason: str, faults: list[str]) -> None:
    """Put a marker in the place of a form. A form that is no text, such as an image, has its marker as plain text."""
    name = one_line(mime, _NAME_CHARS)
    faults.append(f"{name} ({reason})")
    marker = f"[{name} not kept: {reason}]"
    if mime.startswith("text/") or mime == "application/json":
        data[mime] = marker
    else:
        data.setdefault("text/plain", marker)


def error_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The `error` output of an exception, cut to `MAX_ERROR_BYTES`."""
    traceback = content.get("traceback") or []
    entries = [plain_text(entry) for entry in (traceback if isinstance(traceback, list) else [traceback])]
    kept = _last_entries(entries)
    if len(kept) < len(entries):
        kept.insert(0, f"[the first {count_noun(len(entries) - len(kept), 'part')} of the traceback not kept]")
    return {
        "output_type": "error",
        "ename": _cut(plain_text(content.get("ename")), 1000),
        "evalue": _cut(plain_text(content.get("evalue")), _MAX_MESSAGE_BYTES),
        "traceback": kept,
    }


def _last_entries(entries: Sequence[str]) -> list[str]:
    kept: list[str] = []
    room = MAX_ERROR_BYTES
    for entry in reversed(entries):
        room -= getsizeof(entry) + 8
        if room < 0:
            return kept or [_cut(entry, MAX_ERROR_BYTES)]
        kept.insert(0, entry)
    return kept


def _cut(text: str, limit: int) -> str:
    """The text with at most about `limit` bytes in memory."""
    if getsizeof(text) <= limit + 100:
        return text
    chars = limit // width_of(text)
    return f"{text[:chars]}[… {count_noun(len(text) - chars, 'character')} not kept]"


def plain_text(value: Any) -> str:
    """The text of a member that must be text. Nothing for null; a marker for an object or a list."""
    if value is None:
        return ""
    try:
        return Cleaner().lines(value)
    except UnfitError as error:
        return f"[not kept: {error}]"


def count_of(value: Any) -> int | None:
    """An execution count; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def member_of(content: Any, name: str) -> dict[str, Any]:
    """A member that must be an object; empty for anything else."""
    found = content.get(name) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def language_info_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """The `language_info` of a kernel's description of itself, as a notebook keeps it; empty without a name."""
    found = member_of(info, "language_info")
    try:
        language: dict[str, Any] = Cleaner().value(found)
    except UnfitError:
        return {}
    if not isinstance(language.get("name"), str):
        return {}
    return {
        key: value
        for key, value in language.items()
        if key not in _LANGUAGE_INFO or isinstance(value, _LANGUAGE_INFO[key])
    }


def width_of(text: str) -> int:
    """Bytes in memory of each character: 1, 2 or 4."""
    if text.isascii():
        return 1
    return min(4, (getsizeof(text) - getsizeof("")) // len(text))


#: Parts of JSON that open or close a level, with strings and numbers, which may hold brackets or be very long.
_PART = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|-?\d{4000,}')


def shallow(text: str) -> str:
    """JSON that can be parsed: levels far below `MAX_JSON_DEPTH` are left out, and numbers of 4,000 digits are null.

    A value that is left out here is too deep for a notebook anyway, and its form is replaced as a whole.
    """
    kept: list[str] = []
    depth, copied, limit = 0, 0, 2 * MAX_JSON_DEPTH
    for part in _PART.finditer(text):
        mark = part[0]
        if mark in "[{":
            depth += 1
            if depth == limit:
                kept.append(text[copied : part.start()])
        elif mark in "]}":
            depth -= 1
            if depth == limit - 1:
                kept.append("null")
                copied = part.end()
        elif mark[0] != '"' and depth < limit:
            kept += text[copied : part.start()], "null"
            copied = part.end()
    return "".join([*kept, text[copied:]])
