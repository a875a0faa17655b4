"""Writing JSON values as code: the common part of all languages. The languages are in `languages`."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from papermill_mcp.errors import InvalidParametersError

#: Digits of an integer that Python still reads and writes.
_MAX_DIGITS = 4300

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def shown(value: Any) -> str:
    """A value in a message: short, however large or deep it is."""
    try:
        return _repr.repr(value)[:160]
    except ValueError:
        return "an integer of too many digits"


class UnwritableError(Exception):
    """The language has no literal for a value."""


class Writer:
    """Writes JSON values as code. The defaults are those of languages that look like C."""

    language: str
    name: ClassVar[re.Pattern[str]] = re.compile(r"[^\W\d]\w*\Z")
    name_rule: ClassVar[str] = "a name has letters, digits and _, and begins with no digit"
    reserved: ClassVar[frozenset[str]] = frozenset()
    comment: ClassVar[str] = "# Parameters"
    null: ClassVar[str] = "null"
    false_true: ClassVar[tuple[str, str]] = ("false", "true")
    hex_escapes_below: ClassVar[int] = 0  # up to which number `\\x` and two digits are a character
    # Lists and objects in each other: R's parser keeps 50 brackets, Scala's compiler overflows at twice as many.
    max_depth: ClassVar[int] = 45

    def code(self, values: Mapping[str, Any]) -> str:
        """The source of the cell that sets the parameters.

        Raises:
            InvalidParametersError: a name or a value cannot be written in this language.
        """
        return "\n".join([self.comment, *(self._line(name, value) for name, value in values.items()), ""])

    def check(self, values: Mapping[str, Any]) -> None:
        """Check that the source can be written.

        Raises:
            InvalidParametersError: see `code`.
        """
        self.code(values)

    def _line(self, name: str, value: Any) -> str:
        self.check_name(name)
        try:
            _check(value, self.max_depth)
            return self.assignment(name, value)
        except UnwritableError as error:
            raise InvalidParametersError(
                f"parameter {name[:100]!r} cannot be written in {self.language}: {error}; got {shown(value)}",
                state="nothing was run",
            ) from None

    def check_name(self, name: str) -> None:
        """Refuse text that is no name of a variable: it would be pasted into code.

        Raises:
            InvalidParametersError: see above.
        """
        if self.is_reserved(name) or not self.is_name(name):
            raise InvalidParametersError(
                f"{name[:100]!r} cannot be the name of a {self.language} variable",
                allowed="the language uses this word itself" if self.is_reserved(name) else self.name_rule,
                state="nothing was run",
            )

    def is_name(self, name: str) -> bool:
        """Whether a name has the form of one."""
        return self.name.match(name) is not None

    def is_reserved(self, name: str) -> bool:
        """Whether the language means something else by a name."""
        return name in self.reserved

    def assignment(self, name: str, value: Any) -> str:
        """The line that gives a variable its value."""
        return f"{name} = {self.value(value)}"

    def value(self, value: Any) -> str:
        """A value as an expression."""
        if value is None:
            return self.null
        if isinstance(value, bool):
            return self.false_true[value]
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, float):
            return repr(value)
        if isinstance(value, str):
            return self.text(value)
        return self.array(value) if isinstance(value, list) else self.table(value)

    def integer(self, value: int) -> str:
        """An integer."""
        return str(value)

    def text(self, value: str) -> str:
        """A string in double quotes."""
        return '"' + "".join(map(self.char, value)) + '"'

    def char(self, char: str) -> str:
        """A character in a string."""
        if char in _ESCAPES:
            return _ESCAPES[char]
        return char if " " <= char <= "~" else self.unicode(char)

    def unicode(self, char: str) -> str:
        """A character that is not printable ASCII, in a string."""
        number = ord(char)
        if number < self.hex_escapes_below:
            return f"\\x{number:02x}"
        return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

    def array(self, values: Sequence[Any]) -> str:
        """A list."""
        raise NotImplementedError

    def table(self, values: Mapping[str, Any]) -> str:
        """An object."""
        raise NotImplementedError

    def joined(self, values: Sequence[Any], separator: str = ", ") -> str:
        """The elements of a list."""
        return separator.join(map(self.value, values))


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _check(value: Any, depth: int) -> None:
    """Refuse values that are not JSON, and values that are too deep."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UnwritableError("JSON has neither NaN nor infinities, and so a notebook cannot record them")
    if isinstance(value, int) and value.bit_length() > _MAX_DIGITS * math.log2(10):
        raise UnwritableError(f"it has more than {_MAX_DIGITS} digits")
    if isinstance(value, list | dict):
        if depth == 0:
            raise UnwritableError("its lists and objects are nested too deeply")
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise UnwritableError("the keys of an object are strings")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, depth - 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UnwritableError(f"{type(value).__name__} is no type of JSON")


def refuse_surrogates(value: str) -> None:
    """Refuse a string that cannot be encoded."""
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UnwritableError("a string has half a character (a lone surrogate)")


def utf16(char: str) -> Iterator[int]:
    """The one or two 16-bit units of a character; a lone surrogate is one."""
    data = char.encode("utf-16-be", "surrogatepass")
    yield from (int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def words(text: str) -> frozenset[str]:
    """The words of a text, for lists of them."""
    return frozenset(text.split())
