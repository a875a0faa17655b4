"""JSON with comments and trailing commas: reads it, and edits its text in place.

An edit adds, replaces or removes one member. All other text stays byte for byte. The values are those of the standard
parser; only positions come from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from papermill_mcp.commands.edit_error import EditError

_SPACE = " \t\r\n"
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\.)*+"')
_WORD = re.compile(r"[^\s,:\[\]{}\"/]+")

#: Objects and lists within each other. More would exhaust the stack.
_MAX_DEPTH = 100

_DEFAULT_INDENT = "  "


@dataclass
class Node:
    """A value with its place in the text."""

    start: int
    end: int
    value: Any
    members: list[Member] | None = None  # of an object

    def member(self, key: str) -> Member | None:
        """The member that counts: the last one of that name."""
        return next((member for member in reversed(self.members or []) if member.key == key), None)


@dataclass
class Member:
    """A member of an object."""

    key: str
    start: int
    node: Node
    comma: int | None = None  # the place of the comma behind it


@dataclass
class _Reader:
    """A parser over one text."""

    text: str
    at: int = 0
    depth: int = 0

    def fail(self, reason: str, position: int | None = None) -> EditError:
        return EditError(reason, self.text, self.at if position is None else position)

    def skip(self) -> None:
        """Go over spaces and comments."""
        for _, end in trivia(self.text, self.at):
            self.at = end
        if self.text.startswith("/*", self.at):
            raise self.fail("a comment has no end")

    def document(self) -> Node | None:
        self.skip()
        if self.at == len(self.text):
            return None
        node = self.node()
        self.skip()
        if self.at < len(self.text):
            raise self.fail("there is text behind the value")
        return node

    def node(self) -> Node:
        character = self.text[self.at : self.at + 1]
        if character == "{":
            return self.object()
        if character == "[":
            return self.list()
        if character == '"':
            start, value = self.at, self.string()
            return Node(start, self.at, value)
        return self.word()

    def string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self.fail("a string has no end, or a character that needs an escape")
        try:
            value: str = json.loads(found[0])
        except ValueError as error:
            raise self.fail("a string has a wrong escape") from error
        self.at = found.end()
        return value

    def word(self) -> Node:
        found = _WORD.match(self.text, self.at)
        if found is None:
            raise self.fail("a value is missing" if self.at < len(self.text) else "the text ends too early")
        try:
            value = json.loads(found[0], parse_constant=_refuse)
        except ValueError as error:
            raise self.fail(f"{found[0][:40]!r} is no value of JSON") from error
        start, self.at = self.at, found.end()
        return Node(start, self.at, value)

    def object(self) -> Node:
        start = self.open()
        members: list[Member] = []
        value: dict[str, Any] = {}
        while not self.closed("}"):
            if members and members[-1].comma is None:
                raise self.fail("a comma is missing")
            if self.text[self.at : self.at + 1] != '"':
                raise self.fail("a name in double quotes is missing")
            begin = self.at
            key = self.string()
            self.skip()
            if self.text[self.at : self.at + 1] != ":":
                raise self.fail("a colon is missing")
            self.at += 1
            self.skip()
            member = Member(key, begin, self.node())
            members.append(member)
            value[key] = member.node.value
            member.comma = self.comma()
        return Node(start, self.close(), value, members)

    def list(self) -> Node:
        start = self.open()
        value: list[Any] = []
        comma: int | None = 0
        while not self.closed("]"):
            if comma is None:
                raise self.fail("a comma is missing")
            value.append(self.node().value)
            comma = self.comma()
        return Node(start, self.close(), value)

    def open(self) -> int:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fail("too many objects and lists are within each other")
        start = self.at
        self.at += 1
        return start

    def closed(self, character: str) -> bool:
        self.skip()
        if self.at == len(self.text):
            raise self.fail(f"the text ends before {character!r}")
        return self.text[self.at] == character

    def close(self) -> int:
        self.depth -= 1
        self.at += 1
        return self.at

    def comma(self) -> int | None:
        self.skip()
        if self.text[self.at : self.at + 1] != ",":
            return None
        self.at += 1
        return self.at - 1


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are not JSON


def trivia(text: str, position: int) -> Iterator[tuple[str, int]]:
    """Spaces and comments from a position on: `space`, `line` or `block`, each with its end."""
    while True:
        start = position
        while position < len(text) and text[position] in _SPACE:
            position += 1
        if position > start:
            yield "space", position
        if text.startswith("//", position):
            found = text.find("\n", position)
            position = len(text) if found < 0 else found
            if text[position - 1 : position] == "\r" and found >= 0:
                position -= 1
            yield "line", position
        elif text.startswith("/*", position):
            found = text.find("*/", position + 2)
            if found < 0:
                return
            position = found + 2
            yield "block", position
        elif position == start:
            return


def parse(text: str) -> Node | None:
    """The value of a text, with the places of its parts. None if there is no value, only comments or nothing.

    Raises:
        EditError: it is no JSON with comments.
    """
    return _Reader(text).document()


def find(text: str, path: Sequence[str]) -> Any:
    """The value at a path of names. None if there is none.

    Raises:
        EditError: the text cannot be read.
    """
    node = parse(text)
    for key in path:
        member = node.member(key) if node is not None else None
        node = None if member is None else member.node
    return None if node is None else node.value


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with a value at a path of names. Missing objects on the way are made, also in place of `null`.

    Raises:
        EditError: the text cannot be read, or something on the way is not an object.
    """
    node = parse(text)
    style = _Style.of(text, node)
    if node is None:
        before = text if text.strip() else ""
        gap = style.newline if before and not before.endswith("\n") else ""
        return before + gap + style.shown(_nested(path, value), "") + style.newline
    for depth, key in enumerate(path):
        if node.value is None:
            new = style.shown(_nested(path[depth:], value), _indent_at(text, node.start))
            return text[: node.start] + new + text[node.end :]
        if node.members is None:
            place = ".".join(path[:depth]) or "the outermost value"
            raise EditError(f"{place} is not an object", text, node.start)
        member = node.member(key)
        if member is None:
            return _insert(text, node, key, _nested(path[depth + 1 :], value), style)
        node = member.node
    return text[: node.start] + style.shown(value, _indent_at(text, node.start)) + text[node.end :]


def snippet(path: Sequence[str], value: Any) -> str:
    """A file that has nothing but a value at a path of names."""
    return json.dumps(_nested(path, value), ensure_ascii=False, indent=_DEFAULT_INDENT) + "\n"


def remove(text: str, path: Sequence[str]) -> str:
    """The text without the member at a path of names. It is the same if there is no such member.

    Members of the same name go together, since an earlier one would count afterwards. Comments around them stay.

    Raises:
        EditError: the text cannot be read.
    """
    while True:
        node = parse(text)
        for key in path[:-1]:
            member = node.member(key) if node is not None else None
            node = None if member is None else member.node
        found = node.member(path[-1]) if node is not None else None
        if node is None or found is None:
            return text
        text = _without(text, node, found)


@dataclass
class _Style:
    """How the file is written."""

    newline: str
    unit: str | None  # of indentation; None for a file of one line

    @classmethod
    def of(cls, text: str, node: Node | None) -> _Style:
        newline = "\r\n" if "\r\n" in text else "\n"
        if node is None or not node.members:
            return cls(newline, _DEFAULT_INDENT)
        first = node.members[0].start
        if _begins_line(text, first):
            return cls(newline, _indent_at(text, first) or _DEFAULT_INDENT)
        return cls(newline, _DEFAULT_INDENT if "\n" in text[node.start : node.end] else None)

    def shown(self, value: Any, indent: str) -> str:
        """A value whose first line stands in a line with this indentation."""
        text = json.dumps(value, ensure_ascii=False, indent=self.unit)
        return text.replace("\n", self.newline + indent)


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _indent_at(text: str, position: int) -> str:
    """The spaces at the beginning of the line of a position."""
    start = text.rfind("\n", 0, position) + 1
    end = start
    while end < len(text) and text[end] in " \t":
        end += 1
    return text[start:end]


def _begins_line(text: str, position: int) -> bool:
    start = text.rfind("\n", 0, position) + 1
    return start > 0 and not text[start:position].strip()


def _behind_line(text: str, position: int) -> tuple[int, bool]:
    """The end of the comments that begin in a line, and whether the last one is a line comment."""
    end, line = position, False
    for kind, stop in trivia(text, position):
        if kind == "space":
            if "\n" in text[end:stop]:
                break
        else:
            end, line = stop, kind == "line"
    return end, line


def _insert(text: str, node: Node, key: str, value: Any, style: _Style) -> str:
    """The text with a new last member of an object. Nothing is taken away."""
    members = node.members or []
    outer = _indent_at(text, node.start)
    if not members:
        place, _ = _behind_line(text, node.start + 1)
        indent = outer + (style.unit or _DEFAULT_INDENT)
        lined = _Style(style.newline, style.unit or _DEFAULT_INDENT)
        closing = style.newline + outer if text[place] == "}" else ""
        return text[:place] + style.newline + indent + _member(key, lined.shown(value, indent)) + closing + text[place:]
    last = members[-1]
    comma = "" if last.comma is not None else ","
    place, after_line_comment = _behind_line(text, last.node.end if last.comma is None else last.comma + 1)
    if after_line_comment or _begins_line(text, last.start) or _begins_line(text, node.end - 1):
        indent = _indent_at(text, last.start) if _begins_line(text, last.start) else outer + (style.unit or "")
        lined = _Style(style.newline, style.unit or _DEFAULT_INDENT)
        member = style.newline + indent + _member(key, lined.shown(value, indent))
    else:
        space = " " if text[last.node.start - 1] in _SPACE else ""
        member = space + _member(key, json.dumps(value, ensure_ascii=False))
    member += "" if comma else ","
    return text[: last.node.end] + comma + text[last.node.end : place] + member + text[place:]


def _member(key: str, shown: str) -> str:
    return f"{json.dumps(key, ensure_ascii=False)}: {shown}"


def _without(text: str, node: Node, member: Member) -> str:
    """The text without a member of an object."""
    members = node.members or []
    index = members.index(member)
    before = members[index - 1] if index else None
    begin = node.start + 1 if before is None or before.comma is None else before.comma + 1
    start, line = begin, False  # behind the last comment before the member
    for kind, stop in trivia(text, begin):
        if stop > member.start:
            break
        if kind != "space":
            start, line = stop, kind == "line"
    behind = text[member.node.end :] if member.comma is None else _cut(text, member.node.end, member.comma)
    rest = behind.lstrip(_SPACE)
    if line and "\n" not in behind[: len(behind) - len(rest)]:
        start = member.start  # else the rest would be a part of the line comment
    elif start == node.start + 1 and (rest.startswith("}") or "\n" not in text[start : member.start]):
        behind = rest if rest.startswith("}") or "\n" not in behind[: len(behind) - len(rest)] else behind
    if before is not None and before.comma is not None and index == len(members) - 1 and member.comma is None:
        return text[: before.comma] + text[before.comma + 1 : start] + behind
    return text[:start] + behind


def _cut(text: str, begin: int, comma: int) -> str:
    """The text from a position on, without a comma."""
    return text[begin:comma] + text[comma + 1 :]
