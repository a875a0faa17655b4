"""A notebook file without its outputs, made piece by piece: a large file is never held as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

#: Bytes of a key that may be `cells` or `outputs`, with each character escaped.
_KEY_BYTES = 100

#: Up to the next byte that has a meaning outside of strings.
_PLAIN = re.compile(rb'[^"\[\]{},:]*+')
#: The rest of a string, without its end. An escape that is cut off is left.
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
#: All of an output up to a bracket, or to a string that is cut off.
_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)

_OPENING, _CLOSING = b"[{", b"]}"


class OutputStripper:
    """Takes the bytes of a notebook of nbformat 4 in pieces, and keeps them without the outputs of cells.

    `outputs` of such a cell becomes `[]`; every other byte stays. It checks no syntax: bytes that are no JSON come out
    as bytes that are none.

    Args:
        drop: whether the outputs of the cell at an index are dropped.
        most: bytes that are kept. Beyond it they are only counted.

    Attributes:
        kept: the number of bytes that were to be kept.
        outputs: the number of dropped outputs of each cell, by index. Cells without any are left out.
    """

    def __init__(self, *, most: int, drop: Callable[[int], bool] = lambda _: True) -> None:
        self._most = most
        self._drop = drop
        self.kept = 0
        self.outputs: dict[int, int] = {}
        self._pieces: list[bytes] = []
        self._rest = b""  # not looked at yet
        self._open = bytearray()  # the brackets around this place
        self._in_string = False
        self._key: bytearray | None = None  # of a key that is being read
        self._last_key = b""
        self._names: list[str] = []  # the key before each bracket
        self._expects_key = False
        self._cell = -1
        self._depth = 0  # of brackets inside outputs that are dropped

    @property
    def data(self) -> bytes:
        """The bytes that were kept."""
        return b"".join(self._pieces)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the file."""
        data = self._rest + piece if self._rest else piece
        self._rest = b""
        at = 0
        kept_from: int | None = None if self._depth else 0
        while at < len(data):
            start = at
            if self._in_string:
                at = self._string(data, at)
                if at == start:  # an escape is cut off
                    break
            elif self._depth:
                at = self._inside(data, at)
                if not self._depth:
                    kept_from = at - 1  # the bracket that ends the outputs
            else:
                at = self._plain(data, at)
                if self._depth:
                    self._keep(data[kept_from:at])
                    kept_from = None
        if kept_from is not None:
            self._keep(data[kept_from:at])
        self._rest = data[at:]

    def close(self) -> None:
        """The file has ended."""
        if self._rest and not self._depth:
            self._keep(self._rest)
        self._rest = b""

    def _keep(self, piece: bytes) -> None:
        self.kept += len(piece)
        if self.kept <= self._most:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _string(self, data: bytes, at: int) -> int:
        """Go on in a string, up to its end or to that of the data."""
        end, byte = _next(_STRING, data, at)
        if self._key is not None and len(self._key) <= _KEY_BYTES:
            self._key += data[at : min(end, at + _KEY_BYTES + 1)]
        if byte != b'"':
            return end
        self._in_string = False
        if self._key is not None:
            self._last_key, self._key = bytes(self._key), None
        return end + 1

    def _inside(self, data: bytes, at: int) -> int:
        """Go on in outputs that are dropped, up to a bracket or a string that is cut off."""
        end, byte = _next(_INSIDE, data, at)
        if not byte:
            return end
        if byte == b'"':
            self._in_string = True
        elif byte in _OPENING:
            if self._depth == 1:
                self.outputs[self._cell] = self.outputs.get(self._cell, 0) + 1
            self._depth += 1
        else:
            self._depth -= 1
            if not self._depth:
                self._expects_key = False
                self._open.pop()
                self._names.pop()
        return end + 1

    def _plain(self, data: bytes, at: int) -> int:
        """Go on up to the next byte with a meaning, and past it."""
        end, byte = _next(_PLAIN, data, at)
        if not byte:
            return end
        if byte == b'"':
            self._in_string = True
            self._key = bytearray() if self._expects_key else None
        elif byte == b":":
            self._expects_key = False
        elif byte == b",":
            self._expects_key = self._open[-1:] == b"{"
        elif byte in _OPENING:
            self._begin(byte)
        elif self._open:
            self._open.pop()
            self._names.pop()
            self._expects_key = False
        return end + 1

    def _begin(self, bracket: bytes) -> None:
        of_object = self._open[-1:] == b"{"
        name = _text(self._last_key) if of_object and len(self._open) in (1, 3) else ""
        self._open += bracket
        self._names.append(name)
        self._expects_key = bracket == b"{"
        if self._open == b"{[" and name == "cells":
            self._cell, self.outputs = -1, {}  # of two `cells` the last counts
        elif self._names[1:2] == ["cells"] and self._open == b"{[{":
            self._cell += 1
        elif self._names[1:2] == ["cells"] and self._open == b"{[{[" and name == "outputs" and self._drop(self._cell):
            self._depth = 1
            self.outputs.pop(self._cell, None)


def _next(skipped: re.Pattern[bytes], data: bytes, at: int) -> tuple[int, bytes]:
    """The place behind the skipped bytes, and the byte there; no byte at the end of the data."""
    found = skipped.match(data, at)
    assert found is not None
    end = found.end()
    return end, data[end : end + 1]


def _text(key: bytes) -> str:
    try:
        return str(json.loads(b'"%b"' % key))
    except ValueError:
        return ""
