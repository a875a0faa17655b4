"""Object stores without one: the words of failures, and the options of each kind of store."""

from __future__ import annotations

import pytest

from papermill_mcp.core.object_store import _failure, _options, _version_of
from papermill_mcp.errors import ErrorCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("x"), ErrorCode.NOT_FOUND),
        (PermissionError("denied"), ErrorCode.PERMISSION_DENIED),
        (FileExistsError("x"), ErrorCode.CONFLICT),
        (OSError("An error occurred (PreconditionFailed) when calling PutObject"), ErrorCode.CONFLICT),
        (OSError("An error occurred (ConditionalRequestConflict) when calling PutObject"), ErrorCode.CONFLICT),
        (ConnectionError("refused"), ErrorCode.SERVER_NOT_RUNNING),
        (ValueError("odd"), ErrorCode.SERVER_NOT_RUNNING),
    ],
)
def test_failures_of_libraries_have_codes(error: Exception, code: ErrorCode) -> None:
    assert _failure("s3://bucket/x", error).code == code


@pytest.mark.parametrize(
    "text",
    [
        "cannot get https://account.blob.core.windows.net/c/x?sv=1&sig=secret-word now",
        "cannot connect to http://user:secret-word@host:80/bucket",
        "x" * 5000 + "secret-word",
    ],
)
def test_failures_repeat_no_credentials_and_are_short(text: str) -> None:
    message = str(_failure("s3://bucket/x", OSError(text)))
    assert "secret-word" not in message and len(message) < 600


def test_new_objects_are_never_written_over_others() -> None:
    assert _options("s3://b/x.ipynb", None)["IfNoneMatch"] == "*"
    assert _options("s3://b/x.ipynb", "abc")["IfMatch"] == '"abc"'
    for url in ("gs://b/x.ipynb", "az://b/x.ipynb", "abfs://b@a.dfs.core.windows.net/x.ipynb"):
        assert _options(url, None)["mode"] == "create" and "mode" not in _options(url, "abc")


def test_a_version_changes_with_the_content() -> None:
    assert _version_of({"ETag": '"a"', "size": 1}) == "a"
    assert _version_of({"etag": "b", "generation": "7"}) == "b"
    assert _version_of({"size": 1, "last_modified": "t"}) != _version_of({"size": 1, "last_modified": "u"})
