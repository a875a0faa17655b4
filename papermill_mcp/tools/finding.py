"""How clients find the tools: those that are always loaded, words to search the others by, and the core of them.

A client that defers tools sends the model their names only, but for those with the first hint. The keys are those of
Claude Code. Other clients do not read them.
"""

from __future__ import annotations

from typing import Any

#: The tools that do nearly all work: the toolset `core`.
CORE = frozenset(
    {
        *("read_notebook", "create_notebook", "edit_notebook", "search_notebooks", "get_notebook_info"),
        *("list_notebook_files", "execute_cell", "execute_notebook", "execute_notebook_papermill"),
        *("execute_notebook_batch", "get_execution", "cancel_execution", "inspect_variables", "install_packages"),
        "verify_notebook",
    }
)

#: Tools that a client should load at once.
_ALWAYS = frozenset(
    {
        *("read_notebook", "create_notebook", "edit_notebook", "search_notebooks", "get_notebook_info"),
        *("execute_cell", "execute_notebook", "execute_notebook_papermill", "get_execution"),
    }
)

#: Words by which the other tools are searched.
_WORDS = {
    "add_cell": "jupyter ipynb insert append new cell",
    "cancel_execution": "jupyter ipynb stop abort running cell notebook batch",
    "cleanup_all_kernels": "jupyter stop end all kernels free memory",
    "compare_notebooks": "jupyter ipynb diff git versions outputs",
    "execute_notebook_batch": "jupyter ipynb papermill sweep grid many parameters parallel dask",
    "execute_notebook_cell": "jupyter ipynb run one cell save output",
    "get_kernel_status": "jupyter kernel alive busy idle dead memory",
    "inspect_variables": "jupyter kernel variables dataframe columns dtypes locals debug",
    "install_packages": "jupyter pip uv conda install missing module environment PEP 723",
    "interrupt_kernel": "jupyter kernel stop code KeyboardInterrupt",
    "notebook_history": "jupyter ipynb versions undo backup changes",
    "restore_notebook": "jupyter ipynb undo revert version deleted cell",
    "list_executions": "jupyter runs history earlier notebook results",
    "list_kernels": "jupyter kernelspecs pythons environments venv conda",
    "list_notebook_files": "jupyter find ipynb files directory",
    "remove_cell": "jupyter ipynb delete cell",
    "restart_kernel": "jupyter kernel restart fresh clear variables",
    "start_kernel": "jupyter python kernel start repl session",
    "stop_kernel": "jupyter kernel end shut down",
    "update_cell": "jupyter ipynb change replace cell source text",
    "verify_notebook": "jupyter ipynb reproducible check outputs nbval test flaky stale",
    "write_notebook": "jupyter ipynb write whole file json",
}

#: Characters of a reply that a client should show whole. Larger ones are asked for by `max_chars`.
_REPLY_CHARS = 100_000


def hints_of(name: str, *, images: bool) -> dict[str, Any]:
    """The `_meta` of a tool.

    Args:
        images: its replies hold outputs, and may be long.
    """
    hints: dict[str, Any] = {"anthropic/alwaysLoad": True} if name in _ALWAYS else {}
    if name in _WORDS:
        hints["anthropic/searchHint"] = _WORDS[name]
    if images:
        hints["anthropic/maxResultSizeChars"] = _REPLY_CHARS
    return hints
