"""An MCP server for Jupyter notebooks: edit them, run their cells, run them whole with Papermill."""

__version__ = "0.1.0"
