"""Log records as lines: one event, one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from enum import StrEnum
from typing import Any

import pytest

from papermill_mcp.observability import JsonFormatter, TextFormatter

_NASTY = "a\nb\r\x1b[31m\u2028\u202e\x00\ud800\u00e9"


def record(message: str, *args: Any, **fields: Any) -> logging.LogRecord:
    return logging.getLogger("tests").makeRecord("tests", logging.INFO, "f", 1, message, args, None, extra=fields)


def test_an_event_in_json_is_one_line_of_ascii_that_keeps_its_fields() -> None:
    line = JsonFormatter().format(
        record("about %s", _NASTY, operation="read", path=_NASTY, duration=0.5, many=[1, None])
    )

    assert line.isascii()
    assert line.isprintable()
    event = json.loads(line)
    assert event["level"] == "INFO"
    assert event["logger"] == "tests"
    assert (event["operation"], event["duration"], event["many"]) == ("read", 0.5, [1, None])
    assert event["path"] == _NASTY


def test_a_value_that_json_has_not_is_its_text() -> None:
    assert json.loads(JsonFormatter().format(record("x", what=ValueError("bad"))))["what"] == "bad"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_is_told(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        event = record("failed")
        event.exc_info = sys.exc_info()
    line = formatter.format(event)

    assert "ValueError" in line
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in line
        assert "bad\nvalue" in json.loads(line)["exception"]


def test_an_event_in_text_is_one_line_without_control_characters() -> None:
    line = TextFormatter().format(record("about %s", _NASTY, path=_NASTY))

    assert len(line.splitlines()) == 1
    assert line.isprintable()
    line.encode()


class _Outcome(StrEnum):
    OK = "ok"


@pytest.mark.parametrize("value", [_Outcome.OK, "ok"])
def test_a_member_of_an_enumeration_is_its_value(value: str) -> None:
    assert TextFormatter().format(record("x", outcome=value)).endswith("x outcome='ok'")
    assert json.loads(JsonFormatter().format(record("x", outcome=value)))["outcome"] == "ok"


def test_warnings_of_python_are_events_too() -> None:
    code = (
        "import logging, warnings\nfrom papermill_mcp.observability import configure_logging\n"
        "configure_logging('INFO', 'json')\nwarnings.warn('careful\\nnow')\nlogging.getLogger('a').info('x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    first, second = map(json.loads, done.stderr.splitlines())
    assert (first["logger"], first["level"]) == ("py.warnings", "WARNING")
    assert "careful\nnow" in first["message"]
    assert second["message"] == "x"
