"""The files of Jupyter's runtime directory: names and directory entries, never contents.

The files hold keys and tokens. None is opened, and no link is followed.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel

from papermill_mcp.errors import NotFoundError
from papermill_mcp.services.results import ROWS, Result
from papermill_mcp.utils.file_utils import Entry, list_directory
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.process_stats import lives
from papermill_mcp.utils.text_utils import iso_time

if TYPE_CHECKING:
    from jupyter_core import paths as jupyter_paths
else:
    jupyter_paths = lazy("jupyter_core.paths")

#: Names that are looked at, and files that are shown.
_LOOKED_AT = 50_000
_SHOWN = 100

_SERVER_FILE = re.compile(r"(?:jp|nb)server-(\d{1,10})(-open\.html|\.json)")


class RuntimeFile(BaseModel):
    """A name in the runtime directory. `owner_alive` is known only where the name has the id of a process.

    `kind` is `server` (the file of a Jupyter server), `page` (its page for the browser), `kernel` (a connection file),
    `secret`, `file`, `directory`, `link` or `other`. Links and directories are named only.
    """

    name: str
    kind: str
    size: int | None = None
    modified: str | None = None
    owner_alive: bool | None = None


class RuntimeDirectory(Result):
    """The runtime directory: its newest files, and how many names there are."""

    runtime_dir: str
    exists: bool
    files: Annotated[list[RuntimeFile], ROWS]
    count: int


async def list_runtime_directory() -> RuntimeDirectory:
    """The newest names in the directory where Jupyter programs of this user keep connection files.

    Raises:
        PermissionDeniedError: it may not be listed.
    """
    return await asyncio.to_thread(_list)


def _list() -> RuntimeDirectory:
    directory = Path(jupyter_paths.jupyter_runtime_dir()).resolve()
    try:
        entries, _ = list_directory(directory, display_path=str(directory), suffix="", limit=_LOOKED_AT)
    except NotFoundError:
        return RuntimeDirectory(runtime_dir=str(directory), exists=False, files=[], count=0)
    newest = sorted(entries, key=lambda entry: -entry.mtime_ns)[:_SHOWN]
    return RuntimeDirectory(
        runtime_dir=str(directory), exists=True, files=[_described(entry) for entry in newest], count=len(entries)
    )


def _described(entry: Entry) -> RuntimeFile:
    if entry.kind != "file":
        return RuntimeFile(name=entry.name, kind=entry.kind)
    server = _SERVER_FILE.fullmatch(entry.name)
    kind = "file"
    if server:
        kind = "server" if server[2] == ".json" else "page"
    elif entry.name.startswith("kernel-") and entry.name.endswith(".json"):
        kind = "kernel"
    elif entry.name.endswith("cookie_secret"):
        kind = "secret"
    written = entry.mtime_ns / 1e9
    return RuntimeFile(
        name=entry.name,
        kind=kind,
        size=entry.size,
        modified=iso_time(datetime.fromtimestamp(written, UTC)),
        owner_alive=lives(int(server[1]), before=written) if server else None,
    )
