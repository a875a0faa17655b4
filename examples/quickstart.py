"""A tour of the server, seen from a client: python examples/quickstart.py

It starts the server in a workspace below examples/output, as any MCP client would, calls its tools and prints each
reply as a model gets it. Images are saved as files. The workspace stays there to look at.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp_types import ImageContent, TextContent

EXAMPLES = Path(__file__).resolve().parent

PARAMETERS = """\
count: int = 200  # how many steps
seed: int = 7  # start of the random numbers"""

WALK = """\
import numpy as np
import pandas as pd

steps = np.random.default_rng(seed).choice([-1, 1], size=count)
walk = pd.Series(steps).cumsum()
walk.describe().round(1).to_frame("position")"""

PLOT = """\
import matplotlib.pyplot as plt

walk.plot(figsize=(6, 3), title=f"A random walk of {count} steps")
plt.show()"""


class UnexpectedReplyError(Exception):
    """A tool did not answer as it should."""


class Tour:
    """Calls tools and prints what comes back."""

    def __init__(self, client: Client, workspace: Path) -> None:
        self.client = client
        self.workspace = workspace
        self.images = 0

    async def call(self, tool: str, *, fails: bool = False, **arguments: Any) -> dict[str, Any]:
        """Call one tool and print its reply. Returns the structured content, which replies with images lack.

        Args:
            fails: whether the reply must be an error. Anything else than what is expected ends the tour.
        """
        print(f"\n> {tool}({', '.join(f'{name}={short(value)}' for name, value in arguments.items())})")
        result = await self.client.call_tool(tool, arguments, progress_callback=self.progress)
        for item in result.content:
            if isinstance(item, TextContent):
                print(textwrap.indent(item.text, "    "))
            elif isinstance(item, ImageContent):
                self.save(item)
        texts = [item.text for item in result.content if isinstance(item, TextContent)]
        status = next((line for line in texts[0].splitlines() if line.startswith("status: ")), "status: ok")
        if result.is_error != fails or not f"{status} ".startswith("status: ok "):
            raise UnexpectedReplyError(f"{tool} did not answer as expected: see its reply above")
        return result.structured_content or {}

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Print a progress notification."""
        print(f"    ... {message}")

    def save(self, image: ImageContent) -> None:
        """Write an image of a reply to a file in the workspace."""
        self.images += 1
        data = b64decode(image.data)
        file = self.workspace / f"image-{self.images}.{image.mime_type.rpartition('/')[2]}"
        file.write_bytes(data)
        print(f"    [{image.mime_type}, {len(data) / 1000:.0f} kB] saved as {shown(file)}")


def short(value: object) -> str:
    """The value as Python would write it, cut to the beginning when long."""
    text = repr(value)
    return text if len(text) <= 70 else text[:66] + " ..."


def shown(path: Path) -> str:
    """The path as a person in the current directory would type it."""
    return os.path.relpath(path)


def make_workspace() -> Path:
    """A fresh directory with the Nile notebook and its data in it."""
    workspace = EXAMPLES / "output" / datetime.now().strftime("%Y%m%d-%H%M%S")
    shutil.copytree(EXAMPLES / "data", workspace / "data")
    shutil.copy(EXAMPLES / "nile_flow.ipynb", workspace)
    return workspace


async def take(tour: Tour) -> None:
    print("\n1. Make a notebook, and add a cell to it")
    cells = [
        {"cell_type": "markdown", "source": "# A random walk"},
        {"cell_type": "code", "source": PARAMETERS, "tags": ["parameters"]},
        {"cell_type": "code", "source": WALK},
    ]
    await tour.call("create_notebook", path="walk.ipynb", cells=cells)
    await tour.call("add_cell", path="walk.ipynb", cell_type="code", source=PLOT)

    print("\n2. Run it in a kernel, then look at what it has left there")
    kernel_id = (await tour.call("start_kernel"))["kernel_id"]
    await tour.call("execute_notebook", path="walk.ipynb", kernel_id=kernel_id)
    await tour.call("execute_cell", kernel_id=kernel_id, code="walk.tail(3)")
    await tour.call("stop_kernel", kernel_id=kernel_id)

    print("\n3. Run a notebook with other parameters: with a wrong name first")
    run, notebook, output = "execute_notebook_papermill", "nile_flow.ipynb", "nile_flow-to-1940.ipynb"
    await tour.call(run, fails=True, input_path=notebook, parameters={"brake_year": 1910})
    await tour.call(run, input_path=notebook, output_path=output, parameters={"last_year": 1940, "window": 9})
    print(f"\nThe output notebook is {shown(tour.workspace / output)}")

    print("\n4. Run it with several values at once")
    grid = {"break_year": [1890, 1898, 1910], "window": [5]}
    await tour.call("execute_notebook_batch", input_path=notebook, grid=grid)


async def main() -> str | None:
    """Start the server and take the tour. Returns what went wrong, None if nothing did."""
    workspace = make_workspace()
    server = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "papermill_mcp.main", "--roots", ".", "--log-level", "WARNING"],
        cwd=workspace,  # so the root "." is the workspace
    )
    async with Client(server) as client:
        if info := client.server_info:
            print(f"server: {info.name} {info.version}")
        print("tools: " + ", ".join(tool.name for tool in (await client.list_tools()).tools))
        try:
            await take(Tour(client, workspace))
        except UnexpectedReplyError as error:
            return str(error)
    return None


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
