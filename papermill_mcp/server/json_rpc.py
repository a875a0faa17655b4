"""JSON-RPC messages as lines: how a line of input is read, which flaws it may have, and how a message is written.

Knows the framing and the envelope, and nothing inside `params` and `result`. A line is refused here for
flaws that later code could not handle: JSON that means different things to different readers (repeated keys, NaN, half
of a surrogate pair) and JSON without measure (nesting, length).
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

logger = logging.getLogger(__name__)

Json = dict[str, Any]
RequestId = str | int

#: Keys that occur more than once, with the object they are in.
_Repeated = list[tuple[Json, str]]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

#: Bytes of a line of input. Longer ones are skipped and never held.
MAX_LINE_BYTES = 16 * 1024 * 1024
#: Bytes of a message that we send. No reply within the default limits comes near it.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: Objects and arrays inside each other.
MAX_DEPTH = 200
#: Characters of an id and of the name of a method, which answers repeat.
MAX_ID_CHARS = 1000
MAX_METHOD_CHARS = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer to a line that is not passed on. `id` is None where it could not be read."""

    code: int
    message: str
    id: RequestId | None = None

    def encoded(self) -> bytes:
        """The answer as a line."""
        error = {"code": self.code, "message": self.message}
        return encode({"jsonrpc": "2.0", "id": self.id, "error": error}) + b"\n"


LINE_TOO_LONG = Refusal(
    PARSE_ERROR,
    f"Parse error: the line is longer than {MAX_LINE_BYTES} bytes, the most that is read. It was skipped and nothing "
    "was done. Send less at once; the next line is read as usual.",
)


class NotEncodableError(ValueError):
    """A message that cannot be sent. Its text says why, without any of its content."""


class LineSplitter:
    """Cuts bytes into lines, and holds at most one line of the greatest length."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that end in `data`, without their ends. None stands for one that is too long, once it is."""
        lines: list[bytes | None] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part, lines)
            lines += self.end()
        self._add(rest, lines)
        return lines

    def end(self) -> list[bytes]:
        """The line that the input ended in, if it has not been refused, and begin a new one."""
        line = [b"".join(self._parts)] if self._size <= self._limit else []
        self._parts.clear()
        self._size = 0
        return line

    def _add(self, part: bytes, lines: list[bytes | None]) -> None:
        before = self._size
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
        elif before <= self._limit:
            self._parts.clear()
            lines.append(None)


def read_line(line: bytes) -> Json | Refusal | None:
    """The message in a line of input: a request, a notification or a response, with a valid envelope.

    Returns:
        None for a line that is neither passed on nor answered: empty lines, malformed notifications and responses.
    """
    line = line.strip(b" \t\r\n")
    if not line:
        return None
    try:
        text = line.decode()
        message, repeated, numbers = _parsed(text)
    except (ValueError, RecursionError, MemoryError) as error:
        return Refusal(PARSE_ERROR, f"Parse error: {_why_not_json(line, error)}. Send one JSON-RPC message a line.")
    if isinstance(message, list):
        return Refusal(INVALID_REQUEST, "Invalid request: batching is not supported. Send one message a line.")
    if not isinstance(message, dict):
        return Refusal(PARSE_ERROR, "Parse error: the line is not a JSON object. Send one JSON-RPC message a line.")

    ambiguous = any(owner is message and key == "id" for owner, key in repeated)
    known_id = None if ambiguous else _id_of(message)
    flaw = _flaw_of_envelope(message, known_id)
    if flaw is None and (content := _flaw_of_content(text, message, repeated, numbers)):
        flaw = INVALID_REQUEST, f"Invalid request: {content}"
    if flaw is None:
        return message
    code, reason = flaw
    if _expects_an_answer(message):
        return Refusal(code, f"{reason}. Nothing was done.", known_id)
    logger.debug("a malformed notification or response was ignored: %s", reason)
    return None


def encode(message: Json) -> bytes:
    """A message as JSON in UTF-8, without a line end.

    Raises:
        NotEncodableError: something in it is not JSON, or it is larger than `MAX_MESSAGE_BYTES`.
    """
    try:
        data = to_json(message, inf_nan_mode="constants")
    except Exception as error:  # of any object in it: its reader must be answered
        logger.debug("not encodable: %s", error)
        raise NotEncodableError(
            "something in it is not JSON in UTF-8: half of a surrogate pair, bytes, a cycle or an unknown object"
        ) from None
    # The words may be in a string, too. The other mode writes null for the numbers, and nothing else differently.
    if (b"NaN" in data or b"Infinity" in data) and data != to_json(message, inf_nan_mode="null"):
        raise NotEncodableError("a number in it is NaN or infinite")
    if len(data) > MAX_MESSAGE_BYTES:
        raise NotEncodableError(f"it has {len(data)} bytes, and {MAX_MESSAGE_BYTES} is the most")
    return data


def _parsed(text: str) -> tuple[Any, _Repeated, list[str]]:
    """The value of a line, its repeated keys, and its numbers that are none. Those are read as None.

    So a request with such a number can be answered with its id.
    """
    repeated: _Repeated = []
    numbers: list[str] = []

    def integer(digits: str) -> int | None:
        try:
            return int(digits)
        except ValueError:
            numbers.append(f"a number has {len(digits)} digits")
            return None

    def finite(digits: str) -> float | None:
        value = float(digits)
        if not math.isinf(value):
            return value
        numbers.append("a number is too large")
        return None

    def constant(name: str) -> None:
        numbers.append(f"{name} is not JSON")

    def made_of(pairs: list[tuple[str, Any]]) -> Json:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    repeated.append((made, key))
                seen.add(key)
        return made

    # The hooks are Python functions also because other threads get their turn in them: without, a list of a million
    # numbers is read in one go.
    decoder = json.JSONDecoder(
        object_pairs_hook=made_of, parse_int=integer, parse_float=finite, parse_constant=constant
    )
    return decoder.decode(text), repeated, numbers


def _why_not_json(line: bytes, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"the line is nested deeper than {MAX_DEPTH} levels"
    if isinstance(error, UnicodeDecodeError):
        return f"the line is not UTF-8 (byte {error.start + 1})"
    if line.startswith(b"\xef\xbb\xbf"):
        return "the line begins with a byte order mark"
    if line[:15].lower() == b"content-length:":
        return "messages are separated by newlines, not by Content-Length headers"
    if isinstance(error, json.JSONDecodeError):
        return f"the line is not JSON ({error.msg}, at character {error.pos + 1})"
    return f"the line cannot be read ({str(error) or type(error).__name__})"


def _id_of(message: Json) -> RequestId | None:
    value = message.get("id")
    if not isinstance(value, str | int) or isinstance(value, bool) or len(str(value)) > MAX_ID_CHARS:
        return None
    return value if isinstance(value, int) or _is_text(value) else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expects_an_answer(message: Json) -> bool:
    """Whether a malformed message is answered: not if it is recognisably a response or a notification."""
    if "method" not in message:
        return "result" not in message and "error" not in message
    return "id" in message or message.get("jsonrpc") != "2.0" or not isinstance(message["method"], str)


def _flaw_of_envelope(message: Json, known_id: RequestId | None) -> tuple[int, str] | None:
    if message.get("jsonrpc") != "2.0":
        return INVALID_REQUEST, 'Invalid request: "jsonrpc" must be "2.0"'
    if "method" not in message:
        if "result" in message or "error" in message:
            return None
        return INVALID_REQUEST, 'Invalid request: there is neither "method" nor "result" nor "error"'
    method = message["method"]
    if not isinstance(method, str):
        return INVALID_REQUEST, 'Invalid request: "method" must be a string'
    if "id" in message and known_id is None:
        what = f'"id" must be an integer or a string of at most {MAX_ID_CHARS} characters, given once'
        return INVALID_REQUEST, f"Invalid request: {what}"
    if not isinstance(message.get("params", {}), dict | None):
        return INVALID_PARAMS, 'Invalid params: "params" must be an object'
    if len(method) > MAX_METHOD_CHARS:
        return METHOD_NOT_FOUND, f"Method not found: its name has {len(method)} characters"
    return None


def _flaw_of_content(text: str, message: Json, repeated: _Repeated, numbers: list[str]) -> str | None:
    if numbers:
        return numbers[0]
    if repeated:
        return f"the key {repeated[0][1][:100]!r} occurs more than once in one object"
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(message):
        return f"it is nested deeper than {MAX_DEPTH} levels"
    # Escapes are the only way: a surrogate that is written as bytes is not UTF-8.
    if ("\\ud" in text or "\\uD" in text) and not _is_text(json.dumps(message, ensure_ascii=False)):
        return "a string in it holds half of a surrogate pair, which is not text"
    return None


def _is_deep(message: Json) -> bool:
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
