"""The icon that clients show beside the name of the server: a notebook page with a cell."""

from __future__ import annotations

from urllib.parse import quote

from mcp_types import Icon

_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="5" y="2" width="22" height="28" rx="3" '
    'fill="#fff" stroke="#555" stroke-width="2"/><path d="M9 9h14M9 25h14" stroke="#999" stroke-width="2"/><rect x="9" '
    'y="13" width="14" height="8" rx="1" fill="#f37726"/><path d="m14 14.5 5 2.5-5 2.5z" fill="#fff"/></svg>'
)

ICON = Icon(src=f"data:image/svg+xml,{quote(_PICTURE)}", mime_type="image/svg+xml", sizes=["any"])
