"""Resources: all that a client reads without calling a tool.

A resource is one function here, found by its URI template (RFC 6570). It gives a list of contents, each text or bytes
with a MIME type. Text of notebooks and outputs is data here, too: it is cleaned as in the replies of tools.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    ResourceTemplate,
)
from pydantic import BaseModel

from papermill_mcp.config import Config, ToolsetName
from papermill_mcp.errors import InvalidArgumentError, listed
from papermill_mcp.services import Services
from papermill_mcp.tools.replies import render
from papermill_mcp.utils.text_utils import safe_utf8

Read = Callable[..., Awaitable[list[ReadResourceContents]]]

#: Characters of one resource that is shown as a reply would be.
_MAX_CHARS = 1_000_000

#: Cell ids as nbformat 4.5 has them. Other characters after `cells/` belong to a path.
_CELL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class _Entry:
    template: UriTemplate
    toolset: ToolsetName
    listing: ResourceTemplate
    read: Read


def _resource(
    template: str, title: str, toolset: ToolsetName, mime_type: str | None = None
) -> Callable[[Read], _Entry]:
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


@_resource("notebook://{+path}/cells/{cell_id}/outputs/{n}", "Output of a cell", "notebook")
async def output(services: Services, path: str, cell_id: str, n: str) -> list[ReadResourceContents]:
    """One output, complete, in every form it has: text as text, images as blobs in their full size. n counts from 0."""
    if not n.isascii() or not n.isdigit() or len(n) > 9:
        raise InvalidArgumentError(f"an output is named by its place in the cell, counted from 0, not {n[:40]!r}")
    forms = await services.notebooks.output(path, cell_id, int(n))
    return [
        ReadResourceContents(content if isinstance(content, bytes) else safe_utf8(content), mime_type)
        for mime_type, content in forms
    ]


@_resource("notebook://{+path}/cells/{cell_id}", "Cell", "notebook")
async def cell(services: Services, path: str, cell_id: str) -> list[ReadResourceContents]:
    """One cell with its outputs; images as blobs, scaled down if too large."""
    return _shown(await services.notebooks.read(path, cell_id=cell_id, outputs="full", max_chars=_MAX_CHARS))


@_resource("notebook://{+path}", "Notebook", "notebook", "text/plain")
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
    return [entry.listing for entry in _RESOURCES if entry.toolset in config.toolsets]


async def read(uri: str, services: Services, config: Config) -> list[ReadResourceContents]:
    """The contents of a resource.

    Raises:
        ServerError: there is no such resource, or it may not be read.
    """
    for entry in _RESOURCES:
        found = entry.template.match(uri) if entry.toolset in config.toolsets else None
        if found is None or ("cell_id" in found and not _CELL_ID.fullmatch(str(found["cell_id"]))):
            continue
        return await entry.read(services, **found)
    raise InvalidArgumentError(
        f"there is no resource {uri[:200]!r}",
        allowed=f"resources: {listed((str(known.uri_template) for known in templates(config)), limit=10)}",
        state="nothing was read",
    )
