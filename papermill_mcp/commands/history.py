"""`history`: shows how much the history of notebooks holds, and removes versions for good."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.commands.usage import Parser, UsageError
from papermill_mcp.config import PROGRAM, ConfigError, load_config
from papermill_mcp.core.history.store import HistoryStore, HistoryUnavailableError
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import count_noun

if TYPE_CHECKING:
    from papermill_mcp.server import app
else:
    app = lazy("papermill_mcp.server.app")

_HELP = f"""\
usage: {PROGRAM} history [--state-directory DIR]
       {PROGRAM} history clear [PATH] [--state-directory DIR]

Show how many versions of notebooks are kept, or remove those of the notebook
PATH, or of all notebooks. Nothing of them is left in the files: use it for a
secret that a notebook once had. Give the state directory if the client sets it.
Exit code: 0 done, 1 the history cannot be used, 2 wrong arguments.
"""


def history(arguments: Sequence[str]) -> int:
    """Show the size of the history, or clear it. Returns the exit code, as the help has it.

    Raises:
        UsageError: the arguments cannot be used.
    """
    words = list(arguments)
    if "--help" in words or "-h" in words:
        sys.stdout.write(_HELP)
        return 0
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("action", nargs="?", choices=["clear"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--state-directory")
    options = parser.parse_args(words)
    flags = [] if options.state_directory is None else ["--state-directory", options.state_directory]
    try:
        config = load_config(flags)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    store = HistoryStore(app.state_directory(config), versions=1, max_bytes=config.history_bytes)
    try:
        if options.action is None:
            usage = store.usage()
            versions, notebooks = count_noun(usage.versions, "version"), count_noun(usage.notebooks, "notebook")
            sys.stdout.write(f"{versions} of {notebooks}, {usage.bytes:,} bytes\n")
            return 0
        removed = store.clear(None if options.path is None else options.path.resolve())
    except HistoryUnavailableError as error:
        sys.stderr.write(f"{PROGRAM} history: the history cannot be used: {error}\n")
        return 1
    finally:
        store.close()
    sys.stdout.write(f"{count_noun(removed, 'version')} removed.\n")
    return 0
