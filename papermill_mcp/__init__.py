"""An MCP server for Jupyter notebooks: edit them, run their cells, run them whole with Papermill."""

import os
import sys

__version__ = "0.1.0"

#: The public address. A release writes it here.
__website__ = ""

# `python -m` puts the directory of the start first on the path. Its modules must not run in the server.
if sys.argv[:1] == ["-m"]:
    try:
        if sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - pathlib takes long to import
            del sys.path[0]
    except OSError:  # the directory is gone, and so are its modules
        pass

# PYTHONPATH is for the user's code: a json.py or another pydantic there must not run in the server. Its directories go
# behind all others; this package itself may be in one. Kernels still have the variable. Modules that Python and the
# script import before this line cannot be helped.
if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0] if sys.argv else "").startswith("jupyter-papermill-mcp"):  # noqa: PTH119
    _users = {os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part}  # noqa: PTH100
    sys.path.sort(key=_users.__contains__)
    del _users
