"""JSON with comments: its reader agrees with the standard parser, and its edits keep all other text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.commands.edit_error import EditError
from papermill_mcp.commands.jsonc import find, parse, put, remove, trivia

_KEYS = st.sampled_from(["a", "b", "mcpServers", "jupyter", "é", 'q"', "//", "/* */", ""])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)
_SPACES = st.text(" \t\n", max_size=3)
_COMMENTS = st.sampled_from(
    ["// {\n", '/* "a": 1, */', "//\n", "/**/", "// caf\u00e9 \U0001f600 \u2028\n", "/* \n } */"]
)


@st.composite
def _gap(draw: st.DrawFn) -> str:
    return draw(_SPACES) + "".join(draw(_COMMENTS) + draw(_SPACES) for _ in range(draw(st.integers(0, 1))))


@st.composite
def _written(draw: st.DrawFn, value: Any, *, gaps: bool = True) -> str:
    """A value as text, with spaces, comments and trailing commas in all places."""

    def gap() -> str:
        return draw(_gap()) if gaps else ""

    if isinstance(value, dict | list):
        members = (
            [
                json.dumps(key, ensure_ascii=draw(st.booleans())) + gap() + ":" + gap() + draw(_written(one, gaps=gaps))
                for key, one in value.items()
            ]
            if isinstance(value, dict)
            else [draw(_written(one, gaps=gaps)) for one in value]
        )
        text = gap() + (gap() + "," + gap()).join(members) + gap()
        if members and gaps and draw(st.booleans()):
            text += "," + gap()
        return "{" + text + "}" if isinstance(value, dict) else "[" + text + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


_DOCUMENTS = st.dictionaries(_KEYS, _VALUES, max_size=4)


@st.composite
def _documents(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    value = draw(_DOCUMENTS)
    if draw(st.booleans()):
        value["mcpServers"] = draw(st.dictionaries(_KEYS, _VALUES, max_size=3))
    else:
        value.pop("mcpServers", None)
    if draw(st.booleans()):
        text = json.dumps(value, indent=draw(st.sampled_from([None, 1, 2, 4, "\t"])), ensure_ascii=False)
    else:
        text = draw(_gap()) + draw(_written(value)) + draw(_gap())
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return json.loads(json.dumps(value)), text


_ENTRY = {"command": "/bin/server", "args": ["--roots", "/a b"]}
_PATH = ("mcpServers", "jupyter")


def _is_subsequence(part: str, whole: str) -> bool:
    characters = iter(whole)
    return all(character in characters for character in part)


def _comments(text: str) -> list[str]:
    """All comments, in order."""
    found, position = [], 0
    while position < len(text):
        string = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, position)
        if string:
            position = string.end()
            continue
        end = position
        for kind, stop in trivia(text, position):
            if kind != "space":
                found.append(text[end:stop].rstrip())  # a space before a comma can come to stand behind one
            end = stop
        position = max(end, position + 1)
    return found


@given(_documents())
def test_the_reader_sees_the_values_that_were_written(document: tuple[dict[str, Any], str]) -> None:
    value, text = document
    node = parse(text)
    assert node is not None
    assert node.value == value


@given(_documents())
def test_a_new_member_is_added_and_no_character_is_taken_away(document: tuple[dict[str, Any], str]) -> None:
    value, text = document
    new = "new-name"
    changed = put(text, ("mcpServers", new), _ENTRY)

    node = parse(changed)
    assert node is not None
    assert node.value == value | {"mcpServers": value.get("mcpServers", {}) | {new: _ENTRY}}
    assert list(node.value["mcpServers"]) == [*value.get("mcpServers", {}), new]
    assert _is_subsequence(text, changed)
    assert _comments(changed) == _comments(text)


@given(_documents())
def test_a_member_is_replaced_and_all_text_around_it_stays(document: tuple[dict[str, Any], str]) -> None:
    _, text = document
    once = put(text, _PATH, {"old": [1]})
    node = parse(once)
    assert node is not None
    servers = node.member("mcpServers")
    assert servers is not None
    old = servers.node.member("jupyter")
    assert old is not None

    changed = put(once, _PATH, _ENTRY)

    assert changed.startswith(once[: old.node.start])
    assert changed.endswith(once[old.node.end :])
    assert find(changed, _PATH) == _ENTRY


@given(_documents())
def test_a_member_that_was_added_can_be_removed_without_a_trace(document: tuple[dict[str, Any], str]) -> None:
    value, text = document
    if "mcpServers" not in value:
        text = put(text, ("mcpServers", "other"), {})
    else:
        text = put(text, ("mcpServers", "zz"), {}) if not value["mcpServers"] else text

    assert remove(put(text, ("mcpServers", "new-name"), _ENTRY), ("mcpServers", "new-name")) == text


@given(_documents(), st.data())
def test_any_member_can_be_removed_and_no_comment_is_lost(
    document: tuple[dict[str, Any], str], data: st.DataObject
) -> None:
    value, text = document
    if not value.get("mcpServers"):
        return
    key = data.draw(st.sampled_from(sorted(value["mcpServers"])))
    node = parse(text)
    assert node is not None
    servers = node.member("mcpServers")
    assert servers is not None
    gone = servers.node.member(key)
    assert gone is not None

    changed = remove(text, ("mcpServers", key))

    left = parse(changed)
    assert left is not None
    assert left.value == value | {"mcpServers": {k: v for k, v in value["mcpServers"].items() if k != key}}
    assert _comments(changed) == _comments(text[: gone.start] + "1" + text[gone.node.end :])
    assert _is_subsequence(changed, text)


@pytest.mark.parametrize("text", ["", " \n", "\r\n\t"])
def test_a_text_without_a_value_becomes_a_file_with_the_member_alone(text: str) -> None:
    assert json.loads(put(text, _PATH, _ENTRY)) == {"mcpServers": {"jupyter": _ENTRY}}


def test_comments_alone_stay_before_the_new_value() -> None:
    changed = put("// my servers\n", _PATH, 1)
    assert changed == '// my servers\n{\n  "mcpServers": {\n    "jupyter": 1\n  }\n}\n'


_EXAMPLES = {
    "an empty object": ("{}", '{\n  "mcpServers": {\n    "jupyter": 1\n  }\n}'),
    "one line": ('{"a": 1}', '{"a": 1, "mcpServers": {"jupyter": 1}}'),
    "small": ('{"a":1}', '{"a":1,"mcpServers": {"jupyter": 1}}'),
    "tabs": ('{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n\t"mcpServers": {\n\t\t"jupyter": 1\n\t}\n}\n'),
    "a comment behind": (
        '{\n  "a": 1 // one\n  // end\n}',
        '{\n  "a": 1, // one\n  "mcpServers": {\n    "jupyter": 1\n  }\n  // end\n}',
    ),
    "a trailing comma": ('{\n  "a": 1,\n}', '{\n  "a": 1,\n  "mcpServers": {\n    "jupyter": 1\n  },\n}'),
    "an empty container": (
        '{\n    "mcpServers": {}\n}',
        '{\n    "mcpServers": {\n        "jupyter": 1\n    }\n}',
    ),
    "a container with a comment": (
        '{\n  "mcpServers": {\n    // none yet\n  }\n}',
        '{\n  "mcpServers": {\n    "jupyter": 1\n    // none yet\n  }\n}',
    ),
    "line ends of Windows": (
        '{\r\n  "a": 1\r\n}',
        '{\r\n  "a": 1,\r\n  "mcpServers": {\r\n    "jupyter": 1\r\n  }\r\n}',
    ),
}


@pytest.mark.parametrize(("before", "after"), _EXAMPLES.values(), ids=_EXAMPLES)
def test_a_new_member_takes_the_style_of_the_file(before: str, after: str) -> None:
    assert put(before, _PATH, 1) == after


def test_members_of_one_name_are_removed_together() -> None:
    text = '{"mcpServers": {"jupyter": 1, "b": 2, "jupyter": 3}}'
    assert remove(text, _PATH) == '{"mcpServers": {"b": 2}}'


def test_the_last_of_two_members_of_one_name_is_replaced() -> None:
    text = '{"mcpServers": {"jupyter": 1, "jupyter": 3}}'
    assert put(text, _PATH, 4) == '{"mcpServers": {"jupyter": 1, "jupyter": 4}}'


_BROKEN = {
    '{\n  "a": 1\n  "b": 2\n}': (3, 3),
    '{"a": }': (1, 7),
    '{"a": 1': (1, 8),
    "{'a': 1}": (1, 2),
    '{"a": "x\n"}': (1, 7),
    '{"a": NaN}': (1, 7),
    '{"a": 1} x': (1, 10),
    '{"a" 1}': (1, 6),
    "/* x": (1, 1),
    '{"a": tru}': (1, 7),
    '{"a": "\\x"}': (1, 7),
    "[" * 5000: (1, 101),
    "{\r\n\r\n  ,}": (3, 3),
}


@pytest.mark.parametrize("text", _BROKEN, ids=range(len(_BROKEN)))
def test_a_text_that_cannot_be_read_is_refused_with_line_and_column(text: str) -> None:
    with pytest.raises(EditError) as caught:
        put(text, _PATH, 1)
    assert (caught.value.line, caught.value.column) == _BROKEN[text]


@given(st.text('{}[]",:/*\\ \n1at', max_size=12))
def test_no_text_is_read_that_the_standard_parser_reads_otherwise(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        return
    node = parse(text)
    assert node is not None
    assert node.value == expected


@pytest.mark.parametrize("text", ['{"mcpServers": []}', '{"mcpServers": ""}', "[]", "1"])
def test_a_container_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(EditError, match="is not an object"):
        put(text, _PATH, 1)
    assert remove(text, _PATH) == text


_REMOVED = {
    "alone": ('{"mcpServers": {"jupyter": 1}}', '{"mcpServers": {}}'),
    "alone in lines": ('{\n  "mcpServers": {\n    "jupyter": 1\n  }\n}', '{\n  "mcpServers": {}\n}'),
    "alone with a comment": (
        '{"mcpServers": {\n  // mine\n  "jupyter": 1\n}}',
        '{"mcpServers": {\n  // mine\n}}',
    ),
    "first": ('{"mcpServers": {"jupyter": 1, "b": 2}}', '{"mcpServers": {"b": 2}}'),
    "first in lines": (
        '{"mcpServers": {\n  "jupyter": 1,\n  "b": 2\n}}',
        '{"mcpServers": {\n  "b": 2\n}}',
    ),
    "first behind a comment": (
        '{"mcpServers": { // mine\n  "jupyter": 1, "b": 2}}',
        '{"mcpServers": { // mine\n   "b": 2}}',
    ),
    "last behind a comment": (
        '{"mcpServers": {"a": 1, // mine\n  "jupyter": 2 }}',
        '{"mcpServers": {"a": 1 // mine\n   }}',
    ),
    "last behind a comma": ('{"mcpServers": {"a": 1, "jupyter": 2,}}', '{"mcpServers": {"a": 1,}}'),
    "between comments": (
        '{"mcpServers": {\n  "a": 1, // one\n  "jupyter": 2, // two\n  "b": 3 // three\n}}',
        '{"mcpServers": {\n  "a": 1, // one\n   // two\n  "b": 3 // three\n}}',
    ),
}


@pytest.mark.parametrize(("before", "after"), _REMOVED.values(), ids=_REMOVED)
def test_a_member_goes_with_its_spaces(before: str, after: str) -> None:
    assert remove(before, _PATH) == after
    assert find(after, _PATH) is None


def test_a_block_comment_needs_no_new_line() -> None:
    assert put('{"a": 1 /* x */}', ("b",), 2) == '{"a": 1, /* x */ "b": 2}'
