"""Resources, prompts and completions: all that a client uses without calling a tool.

A resource is one function here, found by its URI template (RFC 6570). It gives a list of contents, each text or bytes
with a MIME type. Text of notebooks and outputs is data here, too: it is cleaned as in the replies of tools.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    Completion,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ResourceTemplate,
)
from pydantic import BaseModel

from papermill_mcp.config import Config
from papermill_mcp.errors import InvalidArgumentError, ServerError, listed
from papermill_mcp.services import Services
from papermill_mcp.tools.replies import render
from papermill_mcp.tools.toolset import ToolsetName, text_content
from papermill_mcp.utils.text_utils import safe_utf8

Read = Callable[..., Awaitable[list[ReadResourceContents]]]

#: Characters of one resource that is shown as a reply would be.
_MAX_CHARS = 1_000_000

#: The limit of the protocol for one answer.
_MAX_COMPLETIONS = 100
_MAX_LISTED = 1_000

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

    async def no_progress(*_: Any) -> None:
        """A resource is read at once: there is no progress to report."""

    return _shown(await services.executions.look(execution_id, progress=no_progress))


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


# Prompts


@dataclass(frozen=True)
class _PromptEntry:
    function: Callable[..., str]
    needs: Sequence[str]
    listing: Prompt


def _prompt(title: str, needs: Sequence[str], **descriptions: str) -> Callable[[Callable[..., str]], _PromptEntry]:
    """Make a function a prompt, with a description for each of its arguments.

    Args:
        needs: the tools that it names; without them it is not offered.
    """

    def entry(function: Callable[..., str]) -> _PromptEntry:
        parameters = inspect.signature(function).parameters
        arguments = [
            PromptArgument(name=name, description=text, required=parameters[name].default is inspect.Parameter.empty)
            for name, text in descriptions.items()
        ]
        listing = Prompt(name=function.__name__, title=title, description=inspect.getdoc(function), arguments=arguments)
        return _PromptEntry(function, needs, listing)

    return entry


@_prompt(
    "Run a notebook with parameters",
    needs=("get_notebook_info", "execute_notebook_papermill", "get_execution"),
    path="Notebook to run.",
    parameters="Values, such as `year=1950, station=Aswan`. Default: its own.",
    kernel_name="Kernel to run it in. Default: its own.",
)
def run_notebook(path: str, parameters: str = "", kernel_name: str = "") -> str:
    """Run a notebook with parameters, and report the results."""
    wish = f"Use these values: {parameters}." if parameters else "Use its own values unless they make no sense."
    wish += f" Run it in the kernel {kernel_name}." if kernel_name else ""
    return (
        f"Run the notebook {path} with Papermill. First look at its parameters with get_notebook_info: names, types "
        f"and defaults. {wish} Then call execute_notebook_papermill, with an output_path that says which values were "
        "used. If it answers `running`, follow it with get_execution. Report the values you used, the results "
        "that the notebook recorded or printed at its end, and where the output is. If a cell fails, show its source "
        "and error, and stop there."
    )


@_prompt(
    "Explain a failed run",
    needs=("get_execution", "read_notebook", "inspect_variables"),
    execution_id="Execution that failed.",
)
def explain_failed_run(execution_id: str) -> str:
    """Find the cause of a failed run, and the fix."""
    return (
        f"The execution {execution_id} failed. Look at it with get_execution, and read the failed cell and those "
        "before it with read_notebook. If its kernel was kept, look at the variables with inspect_variables. Tell me "
        "what went wrong, since which cell the cause was there, and the smallest change that fixes it. Change nothing "
        "yet. If the kernel is still there, say how the run can go on from the failed cell instead of from the start."
    )


@_prompt("Tidy a notebook for review", needs=("edit_notebook", "execute_notebook"), path="Notebook to tidy.")
def tidy_notebook(path: str) -> str:
    """Make a notebook ready for review, without changing its results."""
    return (
        f"Make the notebook {path} ready for review. Read its outline first, then its cells. Propose, and after my yes "
        "make with edit_notebook, in one step: a heading and a sentence before each part, imports in the first code "
        "cell, values that a reader may want to change in one cell with the tag `parameters`, no cells that are empty "
        "or do nothing, outputs of failed attempts cleared. Do not change the results. Then run it from top to "
        "bottom with execute_notebook in a new kernel, and tell me whether results differ from those that were there."
    )


_PROMPTS = {entry.listing.name: entry for entry in (run_notebook, explain_failed_run, tidy_notebook)}


def prompts(tools: Collection[str]) -> list[Prompt]:
    """The prompts for which there are tools."""
    return [entry.listing for entry in _PROMPTS.values() if set(entry.needs) <= set(tools)]


def prompt(name: str, arguments: Mapping[str, Any], tools: Collection[str]) -> GetPromptResult:
    """A prompt with its arguments filled in.

    Raises:
        InvalidArgumentError: no such prompt, or an argument is missing or unknown.
    """
    offered = [known.name for known in prompts(tools)]
    if name not in offered:
        raise InvalidArgumentError(
            f"there is no prompt {name[:100]!r}", allowed=f"the prompts: {listed(offered, limit=20)}"
        )
    entry = _PROMPTS[name]
    described = {argument.name: argument for argument in entry.listing.arguments or []}
    missing = [known for known, argument in described.items() if argument.required and not arguments.get(known)]
    unknown = [given for given in arguments if given not in described]
    if missing or unknown:
        wrong = f"needs the argument {missing[0]!r}" if missing else f"has no argument {unknown[0][:100]!r}"
        raise InvalidArgumentError(f"{name} {wrong}", allowed=f"its arguments: {listed(described, limit=20)}")
    text = entry.function(**{given: str(value) for given, value in arguments.items()})
    return GetPromptResult(
        description=entry.listing.description,
        messages=[PromptMessage(role="user", content=text_content(text))],
    )


# Completions


async def complete(
    argument: str, begun: str, known: Mapping[str, str], services: Services, config: Config
) -> Completion:
    """Values for an argument of a resource or a prompt that fit the typed beginning.

    Args:
        known: arguments that have a value already; the cells of a notebook need its path.
    """
    try:
        values = await _candidates(argument, known, services, config.toolsets)
    except ServerError:  # of a half-typed path, for one
        values = []
    fitting = [value for value in values if begun.lower() in value.lower()]
    fitting.sort(key=lambda value: not value.startswith(begun))  # values with this beginning come first
    shown = fitting[:_MAX_COMPLETIONS]
    return Completion(values=shown, total=len(fitting), has_more=len(fitting) > len(shown))


async def _candidates(
    argument: str, known: Mapping[str, str], services: Services, toolsets: Collection[str]
) -> list[str]:
    """All values of an argument. Those of a toolset that is off are left out."""
    match argument:
        case "path" if "notebook" in toolsets:
            return list(await services.catalogue.paths(limit=_MAX_LISTED))
        case "cell_id" if "notebook" in toolsets and known.get("path"):
            view = await services.notebooks.read(known["path"], outline=True, max_chars=_MAX_CHARS)
            return [row.id for row in view.outline or [] if row.id]
        case "kernel_name" if "kernel" in toolsets:
            return [spec.name for spec in (await services.kernels.overview()).available]
        case "kernel_id" if "kernel" in toolsets:
            return [one.kernel_id for one in (await services.kernels.overview()).active]
        case "execution_id" if "execution" in toolsets:
            return [row.execution_id for row in (await services.executions.overview(limit=100)).executions]
    return []
