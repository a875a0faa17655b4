"""A run of text on stdout or stderr, with carriage returns and backspaces applied, in bounded memory."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from sys import getsizeof
from typing import Any

from papermill_mcp.core.kernels.forms import width_of

#: Characters at the end of a stream that are kept when there is no room for all of it.
STREAM_TAIL_CHARS = 1024 * 1024

#: Bytes that a stream takes besides its text.
_OVERHEAD = 500

_CONTROL = re.compile(r"[\r\x08]")


class Stream:
    """Text of one name. Only its last line can still change, until the next output closes it.

    Args:
        limit: the bytes that a cell keeps, for the line about the text that was not kept.
        room: asks for bytes; returns the number that is granted.
    """

    def __init__(self, name: str, limit: int, room: Callable[[int], int]) -> None:
        self.name = name
        self._limit = limit
        self._room = room
        self._head: list[str] = []
        self._head_chars = 0
        self._width = 1
        self._tail: deque[str] = deque()
        self.tail_chars = 0
        self._dropped = 0
        self._full = False
        self._line = ""
        self._column: int | None = None  # where the next character goes; None: at the end of the line
        room(_OVERHEAD)

    def write(self, text: str) -> None:
        """Add text."""
        if self._column is None and not _CONTROL.search(text):
            end = text.rfind("\n") + 1
            if end:
                self._commit(self._line + text[:end])
                self._line = text[end:]
            else:
                self._line += text
            if len(self._line) > STREAM_TAIL_CHARS:  # no line end in sight: no program rewrites a line of this length
                self._commit(self._line)
                self._line = ""
            return
        self._write_folding(text)

    def _write_folding(self, text: str) -> None:
        lines = text.split("\n")
        for number, piece in enumerate(lines):
            for part in re.split(r"([\r\x08])", piece):
                if part == "\r":
                    self._column = 0
                elif part == "\x08":
                    column = len(self._line) if self._column is None else self._column
                    self._column = max(0, column - 1)
                elif part:
                    self._overwrite(part)
            if number < len(lines) - 1:
                self._commit(self._line + "\n")
                self._line, self._column = "", None
        if self._column is not None and self._column >= len(self._line):
            self._column = None

    def _overwrite(self, part: str) -> None:
        if self._column is None:
            self._line += part
            return
        end = self._column + len(part)
        self._line = self._line[: self._column] + part + self._line[end:]
        self._column = end

    def close(self) -> None:
        """Another output follows: the last line can no longer change, and counts."""
        if self._line:
            self._commit(self._line)
            self._line, self._column = "", None

    def _commit(self, text: str) -> None:
        if not self._full:
            granted = self._granted(text)
            self._head.append(text[:granted])
            self._head_chars += granted
            text = text[granted:]
            self._full = bool(text)
        if text:
            if len(text) > STREAM_TAIL_CHARS:  # one message may hold a hundred megabytes
                self._dropped += len(text) - STREAM_TAIL_CHARS
                text = text[-STREAM_TAIL_CHARS:]
            self._tail.append(text)
            self.tail_chars += len(text)
            while self.tail_chars - len(self._tail[0]) >= STREAM_TAIL_CHARS:
                gone = self._tail.popleft()
                self.tail_chars -= len(gone)
                self._dropped += len(gone)

    def _granted(self, text: str) -> int:
        """The characters of `text` that there is room for. One wide character widens all that is joined with it."""
        width = max(self._width, width_of(text))
        widening = (width - self._width) * self._head_chars
        granted = self._room(widening + len(text) * width)
        chars = max(0, granted - widening) // width
        if chars:
            self._width = width
        return chars

    def drop_tail(self) -> None:
        """Give up the end of a stream that other streams follow."""
        self._dropped += self.tail_chars
        self._tail.clear()
        self.tail_chars = 0

    @property
    def dropped(self) -> int:
        """Characters between head and tail that are not kept."""
        return self._dropped + max(0, self.tail_chars - STREAM_TAIL_CHARS)

    @property
    def rest(self) -> int:
        """Bytes of the parts for which no room was asked: the tail and the last line."""
        return getsizeof(self._line) + sum(map(getsizeof, self._tail))

    @property
    def last_line(self) -> str:
        """The end of the text: its last line that is not empty, at most 2,000 characters."""
        text = self._line
        for part in [*reversed(self._tail), *reversed(self._head)]:
            if text.strip():
                break
            text = part[-2000:] + text
        return text[-2000:].rstrip().rpartition("\n")[2]

    def output(self) -> dict[str, Any]:
        """The stream as nbformat has it."""
        if len(self._head) > 1:
            self._head = ["".join(self._head)]
        text = "".join(self._head)
        if self._full:
            tail = "".join(self._tail)
            tail = tail[-STREAM_TAIL_CHARS:]
            dropped = self.dropped
            if dropped:
                text += f"\n[… {dropped:,} characters not kept: a cell keeps {self._limit:,} bytes …]\n"
            text += tail
        return {"output_type": "stream", "name": self.name, "text": text + self._line}
