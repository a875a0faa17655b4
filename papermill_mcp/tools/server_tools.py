"""Tools for a Jupyter server beside this one, to see a notebook in a browser."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from papermill_mcp.services.jupyter_server_service import StartedServer, StoppedServer
from papermill_mcp.services.runtime_files import RuntimeDirectory, list_runtime_directory
from papermill_mcp.tools.arguments import JupyterServer, ReportProgress
from papermill_mcp.tools.toolset import READS, STARTS_ONCE, STOPS, Toolset

toolset = Toolset("server")


@toolset.tool("Start JupyterLab", STARTS_ONCE)
async def start_jupyter_server(
    jupyter_server: JupyterServer,
    progress: ReportProgress,
    root_directory: Annotated[str, Field(description="Inside a root. Default: the workspace.")] = ".",
    port: Annotated[int, Field(ge=0, le=65535, description="0 to 65535. Default 0: a free one.")] = 0,
) -> StartedServer:
    """Start JupyterLab for the user's browser, ready when this returns. Tell the user token_hint."""
    return await jupyter_server.start(root_directory, port=port, progress=progress)


@toolset.tool("Stop JupyterLab", STOPS)
async def stop_jupyter_server(jupyter_server: JupyterServer) -> StoppedServer:
    """Stop our JupyterLab and its kernels."""
    return await jupyter_server.stop()


@toolset.tool("List runtime files", READS)
async def debug_list_runtime_dir() -> RuntimeDirectory:
    """List Jupyter's runtime directory. No contents."""
    return await list_runtime_directory()
