"""Outputs in an object store: checked before a run, and written whole when it is over.

During a run the output is a file in the workspace, which all tools can read. It stays there as a copy.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.errors import AlreadyExistsError, ConflictError, NotFoundError, ServerError
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.file_utils import read_file
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core import object_store
    from papermill_mcp.core.object_store import ObjectStores
    from papermill_mcp.core.runs import table as tables
else:
    tables = lazy("papermill_mcp.core.runs.table")
    object_store = lazy("papermill_mcp.core.object_store")

logger = logging.getLogger(__name__)

#: Uploads and downloads at a time. Each holds its bytes in memory.
_TRANSFERS = 4

#: Bytes of a table or a report, at most.
_MAX_TABLE = 500_000_000

_TABLES = re.compile(r"results(-\d+)?\.(csv|jsonl)|report(-\d+)?\.html")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass
class RemoteOutput:
    """The place of an output in an object store.

    Attributes:
        replaces: the version of the object that the output replaces; None for a new object.
        published: whether the object is there as the run left it.
        taken: another program has written an object there meanwhile, which stays.
    """

    url: str
    replaces: str | None = None
    published: bool = False
    taken: bool = False

    @property
    def claim(self) -> Path:
        """Its name among claimed paths. No file has it, since it is relative."""
        return Path(self.url)


class RemoteOutputs:
    """Checks and writes outputs in object stores.

    Args:
        max_bytes: of an output, at most.
    """

    def __init__(self, workspace: Workspace, max_bytes: int) -> None:
        self._workspace = workspace
        self._max_bytes = max_bytes
        self._stores: ObjectStores | None = None
        self._transfers = asyncio.Semaphore(_TRANSFERS)

    async def stores(self) -> ObjectStores:
        """The object stores."""
        await imported(object_store)
        if self._stores is None:
            self._stores = object_store.ObjectStores()
        return self._stores

    async def planned(self, url: str, *, overwrite: bool) -> RemoteOutput:
        """The place of one output, before its run.

        Raises:
            AlreadyExistsError: there is an object and `overwrite` is false.
            NotFoundError, PermissionDeniedError, ServerNotRunningError: the place cannot be used.
        """
        stores = await self.stores()
        try:
            version = await stores.version(url)
        except ServerError as error:
            raise error.within("the output", state="nothing was run") from error
        if version is not None and not overwrite:
            raise AlreadyExistsError(
                f"{url} exists",
                state="nothing was run",
                advice="give another output_path, leave it out for a file, or pass overwrite=true",
            )
        return RemoteOutput(url, version)

    async def publish(self, output: RemoteOutput, file: Path) -> str | None:
        """Write the file of a run that is over into the store. Returns the reason if that fails.

        A cancellation ends it. The object is then the old or the new one.
        """
        shown = self._workspace.display_path(file)
        try:
            async with self._transfers:
                content = await asyncio.to_thread(read_file, file, max_bytes=self._max_bytes, display_path=shown)
                output.replaces = await (await self.stores()).write(output.url, content.data, replaces=output.replaces)
        except ServerError as error:
            output.taken = isinstance(error, ConflictError)
            return str(error)
        except Exception:
            logger.exception("an output could not be written to an object store", extra={"path": str(file)})
            return "the log of the server has the details"
        output.published = True
        return None

    async def directory(self, url: str, copy: Path) -> RemoteDirectory:
        """The place of the outputs of a batch.

        Args:
            copy: the directory of the copies.

        Raises:
            NotFoundError, PermissionDeniedError, ServerNotRunningError: the place cannot be used.
        """
        stores = await self.stores()
        try:
            versions = await stores.names(url)
        except ServerError as error:
            raise error.within("the output directory", state="nothing was run") from error
        return RemoteDirectory(url, copy, versions, stores, self)


class RemoteDirectory:
    """A place in an object store for the outputs of a batch, and a directory with copies of them.

    Attributes:
        versions: of the objects there, by name, as they were last seen.
    """

    def __init__(
        self, url: str, copy: Path, versions: dict[str, str], stores: ObjectStores, remotes: RemoteOutputs
    ) -> None:
        self.url = url
        self.copy = copy
        self.versions = versions
        self._stores = stores
        self._remotes = remotes
        self._turns = asyncio.Semaphore(_TRANSFERS)

    def output(self, name: str, *, published: bool) -> RemoteOutput:
        """The place of an output. Args: `published`: it is there, and stays."""
        return RemoteOutput(f"{self.url}/{name}", self.versions.get(name), published)

    async def read(self, name: str, notebooks: NotebookService) -> NotebookDocument:
        """A notebook there.

        Raises:
            ServerError: it cannot be read, or is none.
        """
        async with self._turns:
            found = await self._stores.read(f"{self.url}/{name}")
            if found is None:
                raise NotFoundError(f"{self.url}/{name} does not exist")
            self.versions[name] = found.version
            return await notebooks.parse(found.data, display_path=name)

    async def tables(self) -> list[bytes]:
        """The `.jsonl` tables there.

        Raises:
            ServerError: they cannot be read.
        """
        names = [name for name in self.versions if _TABLES.fullmatch(name) and name.endswith(".jsonl")]
        found = [await self._stores.read(f"{self.url}/{name}") for name in names]
        return [one.data for one in found if one is not None]

    async def publish(self, output: RemoteOutput, file: Path) -> str | None:
        """Write the output of a run that is over. Returns the reason if that fails."""
        return await self._remotes.publish(output, file)

    async def fetch_tables(self) -> None:
        """Take the tables and reports there in place of the copies, since other servers write them as well.

        Raises:
            ServerError: they cannot be read or kept.
        """
        self.versions = await self._stores.names(self.url)
        files: dict[Path, bytes] = {}
        for name in filter(_TABLES.fullmatch, list(self.versions)):
            found = await self._stores.read(f"{self.url}/{name}")
            if found is not None:
                self.versions[name] = found.version
                files[self.copy / name] = found.data
        await asyncio.to_thread(tables.replace_together, files)

    async def put(self, file: Path) -> str:
        """Write a file there as it is. Returns its URL.

        Raises:
            ConflictError: another server has written it since it was fetched.
            ServerError: it cannot be written.
        """
        name, url = file.name, f"{self.url}/{file.name}"
        content = await asyncio.to_thread(read_file, file, max_bytes=_MAX_TABLE, display_path=name)
        self.versions[name] = await self._stores.write(url, content.data, replaces=self.versions.get(name))
        return url


def copy_name(url: str) -> str:
    """The name of the directory with copies of the outputs at a URL. It is the same each time."""
    name = _UNSAFE.sub("-", url.rpartition("/")[2])[:60].strip("-._")
    return f"{name or 'outputs'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
