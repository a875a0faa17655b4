"""Object stores, such as S3: whole objects are read and written, and none is written over unseen.

This is the only part that knows fsspec. Credentials come from where the store's own tools find them: the environment,
the user's files, the machine. The work goes on in the event loop that fsspec has in a thread of its own.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mimetypes
import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from papermill_mcp.config import REMOTE_SCHEMES
from papermill_mcp.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    ServerNotRunningError,
)
from papermill_mcp.utils.lazy import lazy, load

if TYPE_CHECKING:
    from fsspec import core as fsspec
else:
    fsspec = lazy("fsspec.core")

#: Seconds for a question, for a transfer, and the bytes a second that a transfer has at least.
ASK_SECONDS = 45.0
TRANSFER_SECONDS = 60.0
TRANSFER_RATE = 250_000

_LOGGERS = ("aiobotocore", "botocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "fsspec")

#: Facts of an object that change with its content, the best first.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5")

#: Parts of a message of a library that may have credentials.
_SECRET = re.compile(r"\?\S*|(?<=://)[^/\s]*@")
_MESSAGE_CHARS = 300

#: Words of a store for an object that another program has changed.
_CONFLICTS = ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict", "conflicting conditional")

_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read. `version` changes with the content."""

    data: bytes
    version: str


class ObjectStores:
    """The object stores that URLs name. Each is connected at its first use."""

    def __init__(self) -> None:
        self._systems: dict[str, Any] = {}

    async def version(self, url: str) -> str | None:
        """The version of an object; None if there is none.

        Raises:
            NotFoundError: there is no such bucket.
            PermissionDeniedError: the credentials are missing, or are not enough.
            ServerNotRunningError: the store does not answer.
        """
        system, path = await self._system(url)
        try:
            return await self._ask(url, self._version(system, path))
        except NotFoundError:
            await self._require_bucket(url)
            return None

    async def read(self, url: str) -> StoredObject | None:
        """An object; None if there is none.

        Raises:
            ServerError: as for `version`.
        """
        system, path = await self._system(url)
        try:
            version = await self._ask(url, self._version(system, path))
            data = await self._ask(url, system._cat_file(path), seconds=TRANSFER_SECONDS * 5)
        except NotFoundError:
            return None
        return StoredObject(data, version) if version is not None else None

    async def names(self, url: str) -> dict[str, str]:
        """The objects directly below a URL: their names, and the version of each. None are there without the place.

        Raises:
            ServerError: as for `version`.
        """
        system, path = await self._system(url)

        async def look() -> list[dict[str, Any]]:
            system.invalidate_cache()
            return list(await system._ls(path, detail=True))

        try:
            found: Sequence[dict[str, Any]] = await self._ask(url, look())
        except NotFoundError:
            await self._require_bucket(url)
            return {}
        files = [one for one in found if one.get("type") == "file"]
        return {str(one["name"]).rstrip("/").rpartition("/")[2]: _version_of(one) for one in files}

    async def write(self, url: str, data: bytes, *, replaces: str | None) -> str:
        """Write an object as a whole. Returns its version.

        Args:
            replaces: the version that is written over; None for no object.

        Raises:
            ConflictError: the object has another version. It stays as it is.
            ServerError: as for `version`. The object is the old or the new one, never a part of it.
        """
        found = await self.version(url)
        if found == replaces:
            try:
                await self._put(url, data, replaces)
            except ConflictError:
                pass
            else:
                try:
                    return await self.version(url) or ""
                except ServerError:
                    return ""  # it is written; a further write will look first
        # A request that is sent again after a lost answer finds the object that it has written itself.
        written = await self.read(url)
        if written is not None and written.data == data:
            return written.version
        raise ConflictError(
            f"{url} was changed by another program" if written is not None else f"{url} was removed meanwhile",
            state="it stays as it is",
        )

    async def _put(self, url: str, data: bytes, replaces: str | None) -> None:
        system, path = await self._system(url)
        seconds = TRANSFER_SECONDS + len(data) / TRANSFER_RATE
        try:
            await self._ask(url, system._pipe_file(path, data, **_options(url, replaces)), seconds=seconds)
        except ServerNotRunningError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSYS:  # as s3fs reads `NotImplemented`
                raise
            # Some stores that are compatible with S3 know no conditions.
            await self._ask(url, system._pipe_file(path, data), seconds=seconds)

    async def _require_bucket(self, url: str) -> None:
        """Raise if the bucket of a URL does not exist. Those who may not ask may still write."""
        system, path = await self._system(url)
        bucket = path.partition("/")[0]
        for question in (system._info, system._ls):  # the first one finds no empty bucket in older versions of s3fs
            try:
                await self._ask(url, question(bucket))
            except PermissionDeniedError:
                return
            except NotFoundError:
                continue
            return
        raise NotFoundError(f"the bucket of {url} does not exist", advice="correct the URL, or make the bucket")

    async def _version(self, system: Any, path: str) -> str | None:
        system.invalidate_cache()  # others write there, too
        found = await system._info(path)
        return _version_of(found) if found.get("type") == "file" else None

    async def _system(self, url: str) -> tuple[Any, str]:
        """The file system of fsspec for a URL, and the path there."""
        scheme, _, rest = url.partition("://")
        place = f"{scheme}://{rest.partition('/')[0]}"
        if place not in self._systems:
            try:
                self._systems[place] = await asyncio.to_thread(_connected, scheme, place)
            except (ImportError, ValueError, OSError) as error:
                raise _failure(url, error) from error
        system = self._systems[place]
        return system, str(system._strip_protocol(url))

    async def _ask(self, url: str, work: Coroutine[Any, Any, _T], *, seconds: float = ASK_SECONDS) -> _T:
        """The result of work in the loop of fsspec. If the caller is cancelled, the work is, too."""
        system, _ = await self._system(url)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, system.loop))
        except TimeoutError as error:
            raise ServerNotRunningError(
                f"the object store of {url} does not answer within {seconds:.0f} s",
                advice="check its address, the credentials and the network",
            ) from error
        except Exception as error:
            raise _failure(url, error) from error


def _connected(scheme: str, place: str) -> Any:
    """The file system of fsspec for a bucket. Called in a worker thread: it imports the client of the store."""
    for name in _LOGGERS:  # they log each request, and each way in which they look for credentials
        logging.getLogger(name).setLevel(max(logging.ERROR, logging.getLogger().level))
    load(lazy(REMOTE_SCHEMES[scheme]))
    system, _ = fsspec.url_to_fs(place, skip_instance_cache=True)
    return system


def _version_of(facts: dict[str, Any]) -> str:
    found = next((str(facts[name]) for name in _VERSIONS if facts.get(name)), "")
    return found.strip('"') or f"{facts.get('size')} {facts.get('mtime') or facts.get('last_modified') or ''}"


def _options(url: str, replaces: str | None) -> dict[str, Any]:
    """Options of a write that only some stores have: the condition, and the type of the content."""
    kind = "application/x-ipynb+json" if url.endswith(".ipynb") else mimetypes.guess_type(url)[0]
    if url.startswith("s3://"):
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": f'"{replaces}"'}
        return {**condition, **({"ContentType": kind} if kind else {})}
    condition = {"mode": "create"} if replaces is None else {}
    return {**condition, **({"content_type": kind} if kind and url.startswith("gs://") else {})}


def _failure(url: str, error: Exception) -> ServerError:
    """A failure of a library as an error of ours, without credentials."""
    text = _SECRET.sub("…", " ".join(str(error).split()))[:_MESSAGE_CHARS]
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{url} does not exist")
    if isinstance(error, FileExistsError) or any(one in text for one in _CONFLICTS):
        return ConflictError(f"{url} was changed by another program", state="it stays as it is")
    if isinstance(error, PermissionError) or "Credential" in name or "Authentication" in name:
        return PermissionDeniedError(
            f"the object store refuses {url}: {text or name}", advice="give the server credentials that may write there"
        )
    return ServerNotRunningError(
        f"the object store of {url} cannot be used: {name}: {text}", advice="check its address and the network"
    )
