"""TOML: edits keep comments, order and form of all else, and undo each other."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from papermill_mcp.commands.edit_error import EditError
from papermill_mcp.commands.toml_text import find, put, remove, snippet

_PATH = ("mcp_servers", "jupyter")
_ENTRY: dict[str, Any] = {"command": "/bin/server", "args": ["--roots", 'C:\\a "b"']}

_TEXTS = {
    "empty": "",
    "plain": '# mine\nmodel = "x"  # c\n\n[mcp_servers.other]\ncommand = "a"  # keep\nargs = [\n  "x", # y\n]\n\n'
    '[mcp_servers.other.env]\nA = "1"\n\n# the screen\n[tui]\nnotifications = true\n',
    "no line end": 'model = "x"\n[mcp_servers.other]\ncommand = "a"',
    "a comment alone": "# nothing yet",
    "dotted": 'mcp_servers.other.command = "a"\n[x]\na = 1\n',
    "header alone": "[mcp_servers]\n# none\n\n[x]\na = 1\n",
    "Windows": 'model = "x"\r\n\r\n[mcp_servers.other]\r\ncommand = "a"\r\n\r\n[x]\r\na = 1\r\n',
    "out of order": '[mcp_servers.a]\ncommand = "a"\n[x]\na = 1\n[mcp_servers.b]\ncommand = "b"\n',
    "header in a text": 'note = """\n[mcp_servers.jupyter]\n"""\n[mcp_servers."a.b"]\ncommand = "c"\n',
    "many empty lines": "a = 1\n\n\n\n",
}
_INLINE = 'mcp_servers = { other = { command = "a" } } # c\n'


def _with(text: str, entry: Any) -> dict[str, Any]:
    values = tomllib.loads(text)
    values.setdefault("mcp_servers", {})["jupyter"] = entry
    return values


@pytest.mark.parametrize("text", _TEXTS.values(), ids=_TEXTS)
def test_a_table_goes_to_the_end_and_all_else_stays(text: str) -> None:
    changed = put(text, _PATH, _ENTRY)

    assert changed.startswith(text)
    assert tomllib.loads(changed) == _with(text, _ENTRY)
    assert find(changed, _PATH) == _ENTRY
    assert ("\r\n" in text) == ("\r\n" in changed)
    assert changed.count("\n") == changed.count("\r\n") or "\r\n" not in text


@pytest.mark.parametrize("text", _TEXTS.values(), ids=_TEXTS)
def test_a_table_that_was_added_is_removed_without_a_trace(text: str) -> None:
    assert remove(put(text, _PATH, _ENTRY), _PATH) == text


def test_a_table_is_removed_with_its_own_tables_and_comments_before_the_next_stay() -> None:
    text = (
        '[a]\nx = 1\n\n[mcp_servers.jupyter] # mine\n# inner\ncommand = "c"\n\n[mcp_servers.jupyter.env]\nA = "1"\n\n'
        "# the screen\n[tui]\ny = 2\n"
    )
    assert remove(text, _PATH) == "[a]\nx = 1\n\n# the screen\n[tui]\ny = 2\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('mcp_servers.a.command = "x"\nmcp_servers.jupyter.command = "y" # c\n# d\n', {"a": {"command": "x"}}),
        ('[mcp_servers]\na.command = "x"\njupyter = { command = "y" }\n# d\n', {"a": {"command": "x"}}),
        ('mcp_servers = { a = { command = "x" }, jupyter = { command = "y" } } # d\n', {"a": {"command": "x"}}),
    ],
)
def test_an_entry_of_another_form_is_removed_too(text: str, left: dict[str, Any]) -> None:
    changed = remove(text, _PATH)
    assert tomllib.loads(changed) == {"mcp_servers": left}
    assert "# d" in changed


def test_an_inline_table_gets_the_entry_and_stays_one_line() -> None:
    changed = put(_INLINE, _PATH, _ENTRY)
    assert tomllib.loads(changed) == _with(_INLINE, _ENTRY)
    assert changed.count("\n") == 1
    assert changed.endswith("# c\n")


@pytest.mark.parametrize(
    "text",
    [
        '# a\n[mcp_servers.jupyter]\ncommand = "old" # mine\n# b\nstartup_timeout_sec = 9\n\n# c\n[tui]\nx = 1\n',
        'mcp_servers.jupyter.command = "old" # a\n# b\n# c\n# mine\n',
        '[mcp_servers]\njupyter = { command = "old" } # a # b # c # mine\n',
    ],
)
def test_a_key_is_replaced_and_comments_stay(text: str) -> None:
    changed = put(text, (*_PATH, "command"), "new")
    assert find(changed, _PATH) == find(text, _PATH) | {"command": "new"}
    assert all(mark in changed for mark in ("# a", "# b", "# c", "# mine"))


_BROKEN = {
    "a = ": (1, 4),
    "x = 1\na\n= 1": (2, 2),
    "a = 1\r\na = 2\r\n": (2, 6),
    "[a": (1, 3),
    'x = "a': (1, 7),
}


@pytest.mark.parametrize("text", _BROKEN)
def test_a_text_that_cannot_be_read_is_refused_with_line_and_column(text: str) -> None:
    for new in (True, False):
        with pytest.raises(EditError) as caught:
            put(text, _PATH, _ENTRY) if new else remove(text, _PATH)
        assert (caught.value.line, caught.value.column) == _BROKEN[text]
        assert "(at" not in caught.value.reason


@pytest.mark.parametrize("text", ["mcp_servers = 1\n", "mcp_servers = []\n", "[[mcp_servers]]\na = 1\n"])
def test_a_container_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(EditError, match="is not a table"):
        put(text, _PATH, _ENTRY)
    assert remove(text, _PATH) == text


def test_the_snippet_alone_is_a_whole_file() -> None:
    assert tomllib.loads(snippet(_PATH, _ENTRY)) == {"mcp_servers": {"jupyter": _ENTRY}}
