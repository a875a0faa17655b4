"""Commands beside the server: registering it with clients, a look at an installation, and checks of notebooks.

`main` gives the arguments here when the first one is the name of a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from papermill_mcp.commands import doctor, install, verify
else:
    doctor = lazy("papermill_mcp.commands.doctor")
    install = lazy("papermill_mcp.commands.install")
    verify = lazy("papermill_mcp.commands.verify")


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command. Returns the exit code: 0 for success, 1 for a fault, 2 for arguments that cannot be used."""
    if name == "doctor":
        return doctor.doctor(arguments)
    if name == "verify":
        return verify.verify(arguments)
    try:
        return install.install(arguments) if name == "install" else install.uninstall(arguments)
    except install.UsageError as error:
        sys.stderr.write(f"jupyter-papermill-mcp {name}: {error}\nSee jupyter-papermill-mcp {name} --help.\n")
        return 2
