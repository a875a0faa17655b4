"""Makes the page of a report: one HTML file that needs no network and shows everything without its script.

The texts come from notebooks of others. They are cleaned of control characters and escaped, all of them in one place.
The page forbids everything but its own style and script (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papermill_mcp.core.reports.model import Report
from papermill_mcp.utils.digests import revision_of
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import clean_text, count_noun, safe_utf8

if TYPE_CHECKING:
    import jinja2
else:
    jinja2 = lazy("jinja2")

_HERE = Path(__file__).parent

#: The last line of a page has the digest of all before it.
_SEAL = "<!-- {} -->\n"
_SEAL_BYTES = len(_SEAL.format("0" * 16))


def page_of(report: Report) -> bytes:
    """The page of a report, in UTF-8 with a seal. Takes up to a second, so call it in a worker thread."""
    style, script = _part("page.css"), _part("page.js")
    text = _template().render(
        report=report,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )
    data = safe_utf8(text).encode()
    return data + _SEAL.format(revision_of(data)).encode()


def is_sealed(page: bytes) -> bool:
    """Whether bytes are a page that was made here and is unchanged since."""
    data, seal = page[:-_SEAL_BYTES], page[-_SEAL_BYTES:]
    return seal == _SEAL.format(revision_of(data)).encode()


def identity_line(identity: str) -> str:
    """The line near the beginning of a page that says which run it is about."""
    return f'<meta name="execution" content="{html.escape(identity)}">'


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"base64": _base64, "counted": count_noun, "identity_line": identity_line}
    return environment.from_string(_part("page.html.j2"))


def _clean(value: Any) -> Any:
    """Every value of the page but the parts of it that are markup."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else clean_text(value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@functools.cache
def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
