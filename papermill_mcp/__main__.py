"""`python -m papermill_mcp` starts the server."""

from __future__ import annotations

import sys

from papermill_mcp.main import main

if __name__ == "__main__":
    sys.exit(main())
