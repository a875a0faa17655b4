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
