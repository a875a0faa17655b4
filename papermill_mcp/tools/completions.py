"""Values that a client offers while its user types an argument of a resource or a prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import unquote

from mcp_types import Completion

from papermill_mcp.config import Config
from papermill_mcp.errors import ServerError
from papermill_mcp.services import Services
from papermill_mcp.tools.resources import in_uri as path_in_uri
from papermill_mcp.utils.text_utils import safe_utf8

#: The most that the protocol allows in one answer.
_MAX_COMPLETIONS = 100
_MAX_LISTED = 1_000

#: Characters of the outline in which cell ids are looked up.
_OUTLINE_CHARS = 1_000_000


async def complete(
    argument: str, begun: str, known: Mapping[str, str], services: Services, config: Config, *, in_uri: bool
) -> Completion:
    """Values for an argument of a resource or a prompt that fit the typed beginning.

    Args:
        known: arguments that have a value already; the cells of a notebook need its path.
        in_uri: the value goes into a URI, where reserved characters are encoded.
    """
    if in_uri and "path" in known:
        known = {**known, "path": services.notebooks.located(unquote(known["path"]))}
    try:
        values = await _candidates(argument, known, services, config.groups)
    except ServerError:  # of a half-typed path, for one
        values = []
    # A file name that is not UTF-8 cannot be sent, and must not take the others with it.
    typed = {begun, unquote(begun)} if in_uri else {begun}
    fitting = [
        value for value in values if any(text.lower() in value.lower() for text in typed) and value == safe_utf8(value)
    ]
    fitting.sort(key=lambda value: not value.startswith(tuple(typed)))  # values with this beginning come first
    shown = fitting[:_MAX_COMPLETIONS]
    if in_uri and argument == "path":
        shown = [path_in_uri(value.removeprefix("/")) for value in shown]
    return Completion(values=shown, total=len(fitting), has_more=len(fitting) > len(shown))


async def _candidates(
    argument: str, known: Mapping[str, str], services: Services, toolsets: Collection[str]
) -> list[str]:
    """All values of an argument. Those of a toolset that is off are left out."""
    match argument:
        case "path" if "notebook" in toolsets:
            return list(await services.catalogue.paths(limit=_MAX_LISTED))
        case "cell_id" if "notebook" in toolsets and known.get("path"):
            view = await services.notebooks.read(known["path"], outline=True, max_chars=_OUTLINE_CHARS)
            return [row.id for row in view.outline or [] if row.id]
        case "kernel_name" if "kernel" in toolsets:
            return [spec.name for spec in (await services.kernels.overview()).available]
        case "kernel_id" if "kernel" in toolsets:
            return [one.kernel_id for one in (await services.kernels.overview()).active]
        case "execution_id" if "execution" in toolsets:
            return [row.execution_id for row in (await services.executions.overview(limit=100)).executions]
    return []
