"""nbformat, imported when it is first needed and without its slow parts.

`jsonschema`, which nbformat uses, builds a grammar for URIs at import when JupyterLab is in the same environment. It
costs two seconds, and notebooks need none of it. Call these functions in a worker thread: the first import takes some
tenths of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from papermill_mcp.utils.import_lock import IMPORTING


@contextmanager
def without_uri_grammar() -> Iterator[None]:
    """Keep `jsonschema` from building its grammar while it is imported inside this block."""
    with IMPORTING:
        absent = "rfc3987_syntax" not in sys.modules
        if absent:
            sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            if absent:
                del sys.modules["rfc3987_syntax"]


def nbformat_module() -> Any:
    """The package `nbformat`, its validator included."""
    with without_uri_grammar():
        import nbformat  # noqa: PLC0415 - half a second: not before it is needed
        import nbformat.validator  # noqa: PLC0415
    return nbformat
