"""Resources: all that a client reads without calling a tool.

A resource is one function here, found by its URI template (RFC 6570). It gives a list of contents, each text or bytes
with a MIME type. Text of notebooks and outputs is data here, too: it is cleaned as in the replies of tools.

The path of a notebook is the path of its URI, never the host: `notebook:///sub/a.ipynb`. Clients write a host in lower
case, and it may hold no space (RFC 3986). The earlier form `notebook://sub/a.ipynb` is still read.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.uri_template import UriTemplate
from mcp_types import Annotations, Resource, ResourceTemplate
from pydantic import BaseModel

from papermill_mcp.config import Config, GroupName
from papermill_mcp.errors import InvalidArgumentError, listed
from papermill_mcp.services import Services
from papermill_mcp.tools.replies import render
from papermill_mcp.utils.text_utils import safe_utf8

Read = Callable[..., Awaitable[list[ReadResourceContents]]]

#: Characters of one resource that is shown as a reply would be.
_MAX_CHARS = 1_000_000

#: Notebooks in the list of resources: the newest ones.
MAX_LISTED = 100

_SCHEME = "notebook:///"

#: `notebook:/path` is the same by RFC 3986, and some clients write it so.
_ANY_FORM = re.compile(r"notebook:/{1,3}(.*)", re.DOTALL)

#: Characters that the path of a URI may hold as they are, but for letters, digits and `-._~` (RFC 3986).
_PATH_CHARACTERS = "/!$&'()*+,;=:@"

#: Cell ids as nbformat 4.5 has them. Other characters after `cells/` belong to a path.
_CELL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class _Entry:
    template: UriTemplate
    toolset: GroupName
    listing: ResourceTemplate
    read: Read


def _resource(template: str, title: str, toolset: GroupName, mime_type: str | None = None) -> Callable[[Read], _Entry]:
    """Make a function a resource."""

    def entry(function: Read) -> _Entry:
        listing = ResourceTemplate(
            uri_template=template,
            name=function.__name__,
            title=title,
            description=" ".join((function.__doc__ or "").split()),
            mime_type=mime_type,
        )
        return _Entry(UriTemplate.parse(template), toolset, listing, function)

    return entry


def _shown(reply: BaseModel) -> list[ReadResourceContents]:
    """The reply of a tool: its text, and its images as blobs."""
    images = getattr(reply, "_images", ())
    text = ReadResourceContents(safe_utf8(render(reply)), "text/plain")
    return [text, *(ReadResourceContents(image.data, image.mime_type) for image in images)]


@_resource("notebook:///{+path}/cells/{cell_id}/outputs/{n}", "Output of a cell", "notebook")
async def output(services: Services, path: str, cell_id: str, n: str) -> list[ReadResourceContents]:
    """One output, complete, in every form it has: text as text, images as blobs in their full size. n counts from 0."""
    if not n.isascii() or not n.isdigit() or len(n) > 9:
        raise InvalidArgumentError(f"an output is named by its place in the cell, counted from 0, not {n[:40]!r}")
    forms = await services.notebooks.output(path, cell_id, int(n))
    return [
        ReadResourceContents(content if isinstance(content, bytes) else safe_utf8(content), mime_type)
        for mime_type, content in forms
    ]


@_resource("notebook:///{+path}/cells/{cell_id}", "Cell", "notebook")
async def cell(services: Services, path: str, cell_id: str) -> list[ReadResourceContents]:
    """One cell with its outputs; images as blobs, scaled down if too large."""
    return _shown(await services.notebooks.read(path, cell_id=cell_id, outputs="full", max_chars=_MAX_CHARS))


@_resource("notebook:///{+path}", "Notebook", "notebook", "text/plain")
async def notebook(services: Services, path: str) -> list[ReadResourceContents]:
    """A whole notebook as text: cells with id, index, source and outputs, without images."""
    return _shown(await services.notebooks.read(path, outputs="full", max_chars=_MAX_CHARS, max_images=0))


@_resource("execution://{execution_id}", "Execution", "execution")
async def execution(services: Services, execution_id: str) -> list[ReadResourceContents]:
    """An execution as it stands, or as it ended."""

    async def nobody(*_: Any) -> None:
        """A resource is read at once: there is no progress to report."""

    return _shown(await services.executions.look(execution_id, progress=nobody))


@_resource("kernel://{kernel_id}", "Kernel", "kernel", "text/plain")
async def kernel(services: Services, kernel_id: str) -> list[ReadResourceContents]:
    """The state of a kernel."""
    return _shown(await services.kernels.status(kernel_id))


#: The first template that fits a URI decides, so the longest stand first.
_RESOURCES = (output, cell, notebook, execution, kernel)


def templates(config: Config) -> list[ResourceTemplate]:
    """The URI templates that the settings allow."""
    return [entry.listing for entry in _RESOURCES if entry.toolset in config.groups]


async def read(uri: str, services: Services, config: Config) -> list[ReadResourceContents]:
    """The contents of a resource.

    Raises:
        ServerError: there is no such resource, or it may not be read.
    """
    entry, found = _match(uri, config)
    if "path" in found:
        found["path"] = services.notebooks.located(found["path"])
    return await entry.read(services, **found)


async def recent(services: Services, config: Config) -> list[Resource]:
    """The notebooks that were modified last, the newest first."""
    if "notebook" not in config.groups:
        return []
    return [
        Resource(
            uri=uri_of(one.display_path),
            name=one.display_path,
            mime_type="text/plain",
            annotations=Annotations(last_modified=one.modified),
        )
        for one in await services.catalogue.recent(MAX_LISTED)
        if one.display_path == safe_utf8(one.display_path)  # others cannot be sent
    ]


def uri_of(path: str) -> str:
    """The URI of a notebook, by its path as replies show it."""
    return _SCHEME + in_uri(path.removeprefix("/"))


def in_uri(path: str) -> str:
    """A path as the URI templates take it. Reserved characters such as `#` would not be encoded there."""
    return quote(path, safe=_PATH_CHARACTERS, errors="surrogatepass")


def look(uri: str, services: Services, config: Config) -> Callable[[], Hashable]:
    """A look at the state of a resource that a client subscribes to: the file of a notebook, whichever part it is.

    Raises:
        InvalidArgumentError: it is no notebook or a part of one.
        PathNotAllowedError: the notebook may not be read. It need not be there yet.
    """
    _, found = _match(uri, config)
    if "path" not in found:
        raise InvalidArgumentError(
            f"{uri[:200]!r} is a resource without subscriptions",
            allowed="notebooks and their cells and outputs have them",
            state="nothing was begun",
        )
    notebooks, path = services.notebooks, found["path"]
    notebooks.check_allowed(path)
    return lambda: notebooks.stamp(path)


def look_at_list(services: Services) -> Callable[[], Hashable]:
    """A look at the list of resources, in any order."""
    return lambda: frozenset(one.display_path for one in services.catalogue.find_recent(MAX_LISTED))


def check_template(template: str, config: Config) -> None:
    """Check that there is such a template. The earlier form, and simple variables, are known, too.

    Raises:
        InvalidArgumentError: there is none.
    """
    known = [str(one.uri_template) for one in templates(config)]
    if _plain(template) not in map(_plain, known):
        raise InvalidArgumentError(f"there is no resource template {template[:200]!r}", allowed=f"{listed(known)}")


def _plain(template: str) -> str:
    return template.replace("{+", "{").replace(":///", "://")


def _match(uri: str, config: Config) -> tuple[_Entry, dict[str, str]]:
    """The resource that a URI names, and its variables.

    Raises:
        InvalidArgumentError: there is none.
    """
    canonical = uri
    if (notebook := _ANY_FORM.fullmatch(uri)) is not None:
        # There is no query and no fragment, so these characters can only belong to a name.
        canonical = _SCHEME + notebook[1].replace("#", "%23").replace("?", "%3F")
    for entry in _RESOURCES:
        found = entry.template.match(canonical) if entry.toolset in config.groups else None
        if found is None or ("cell_id" in found and not _CELL_ID.fullmatch(str(found["cell_id"]))):
            continue
        return entry, {name: str(value) for name, value in found.items()}
    raise InvalidArgumentError(
        f"there is no resource {uri[:200]!r}",
        allowed=f"resources: {listed((str(known.uri_template) for known in templates(config)), limit=10)}",
        state="nothing was read",
    )
