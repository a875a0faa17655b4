"""`diff`: the cells of two notebooks that differ, as text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.commands.usage import Parser, UsageError
from papermill_mcp.config import PROGRAM, Config, ConfigError, load_config
from papermill_mcp.errors import ServerError
from papermill_mcp.services.comparing import ComparisonService, NotebookComparison, Part
from papermill_mcp.services.history_service import HistoryService
from papermill_mcp.services.notebook_service import NotebookService
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import imported, lazy

if TYPE_CHECKING:
    from papermill_mcp.core import jupyter_manager
    from papermill_mcp.core.git import MakeProgram
    from papermill_mcp.server import app
    from papermill_mcp.tools import replies
else:
    app = lazy("papermill_mcp.server.app")
    jupyter_manager = lazy("papermill_mcp.core.jupyter_manager")
    replies = lazy("papermill_mcp.tools.replies")

_HELP = f"""\
usage: {PROGRAM} diff A B [--what source|outputs|both] [--state-directory DIR]

Show the cells that differ between the notebooks A and B. A is the older one.
B may also be an older state of A: git:REV, such as git:HEAD, or version:N, a
version that the history keeps. Times and counts of runs make no difference.
Exit code: 0 nothing differs, 1 something does, 2 they cannot be compared.
"""

#: Characters of one page. All pages are printed.
_PAGE_CHARS = 100_000


def diff(arguments: Sequence[str]) -> int:
    """Print the differences of two notebooks. Returns the exit code, as the help has it.

    Raises:
        UsageError: the arguments cannot be used.
    """
    words = list(arguments)
    if "--help" in words or "-h" in words:
        sys.stdout.write(_HELP)
        return 0
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("path")
    parser.add_argument("other")
    parser.add_argument("--what", choices=["source", "outputs", "both"], default="both")
    parser.add_argument("--state-directory")
    options = parser.parse_args(words)
    sides = [Path(options.path)]
    if not options.other.startswith(("git:", "version:")):
        sides.append(Path(options.other))
    roots = list(dict.fromkeys(side.absolute().parent for side in sides))
    if missing := [root for root in roots if not root.is_dir()]:
        raise UsageError(f"there is no directory {missing[0]}")
    flags = [] if options.state_directory is None else ["--state-directory", options.state_directory]
    try:
        config = load_config(flags).model_copy(
            update={"roots": roots, "max_images": 0, "max_output_chars": _PAGE_CHARS}
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    other = options.other if len(sides) == 1 else str(sides[1].absolute())
    try:
        pages = asyncio.run(_pages(config, str(sides[0].absolute()), other, options.what))
    except ServerError as error:
        sys.stderr.write(f"{PROGRAM} diff: {error}\n")
        return 2
    for page in pages:
        sys.stdout.write(replies.render(page.model_copy(update={"next": None})) + "\n")
    return 1 if pages[0].cells or pages[0].notebook else 0


async def _pages(config: Config, path: str, other: str, part: Part) -> list[NotebookComparison]:
    state = app.state_directory(config)
    workspace = Workspace(config.roots)
    notebooks = NotebookService(config, workspace, state)
    histories = HistoryService(config, workspace, notebooks)
    await imported(jupyter_manager)
    manager = jupyter_manager.JupyterManager(state)

    async def programs() -> MakeProgram:
        return manager.program

    comparisons = ComparisonService(config, workspace, notebooks, histories, programs)
    try:
        pages = [await comparisons.compare(path, other, part=part)]
        while (following := pages[-1].next) is not None:
            pages.append(await comparisons.compare(path, other, part=part, start=following))
        return pages
    finally:
        await manager.aclose()
        await notebooks.aclose()
