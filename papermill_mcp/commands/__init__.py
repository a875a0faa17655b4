"""Commands beside the server: registering it with clients, a look at an installation, and the history, the differences
and the checks of notebooks.

`main` gives the arguments here when the first one is the name of a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from papermill_mcp.commands.usage import UsageError
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from papermill_mcp.commands import diff, doctor, history, install, verify
else:
    diff = lazy("papermill_mcp.commands.diff")
    doctor = lazy("papermill_mcp.commands.doctor")
    history = lazy("papermill_mcp.commands.history")
    install = lazy("papermill_mcp.commands.install")
    verify = lazy("papermill_mcp.commands.verify")


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command. Returns the exit code: 0 for success, 1 for a fault, 2 for arguments that cannot be used."""
    try:
        match name:
            case "diff":
                return diff.diff(arguments)
            case "doctor":
                return doctor.doctor(arguments)
            case "history":
                return history.history(arguments)
            case "verify":
                return verify.verify(arguments)
            case "install":
                return install.install(arguments)
            case _:
                return install.uninstall(arguments)
    except UsageError as error:
        sys.stderr.write(f"jupyter-papermill-mcp {name}: {error}\nSee jupyter-papermill-mcp {name} --help.\n")
        return 2
