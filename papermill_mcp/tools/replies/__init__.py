"""How a reply reads: short lines for a model with a budget, never a dump of JSON.

Header lines are `key: value`; then come cells or rows. Text of notebooks and outputs is data: it is cleaned of terminal
codes and invisible characters, and stands in fences that it cannot close. A form is a function of the module of its
subject; here it is registered for its model.
"""

from __future__ import annotations

from functools import singledispatch

from pydantic import BaseModel

from papermill_mcp.services.runs.edit_run import EditRun
from papermill_mcp.tools.replies import kernels, notebooks, runs
from papermill_mcp.tools.replies.text import header_lines


@singledispatch
def render(reply: BaseModel) -> str:
    """The text of a reply. Models without a form of their own are shown as `key: value` lines."""
    return "\n".join(header_lines(reply.model_dump(exclude_none=True)))


@render.register
def edit_run(reply: EditRun) -> str:
    """An edit in short, and its run."""
    if reply.run is None:
        return "\n".join([*notebooks.edit_head(reply.edit), f"not run: {reply.refusal}"])
    edit = reply.edit.model_copy(update={"revision": reply.revision})
    run = reply.run.model_copy(update={"path": None, "index": None, "revision": None})
    return "\n".join([*notebooks.edit_head(edit), render(run)])


render.register(kernels.kernel_list)
render.register(kernels.stopped_kernels)
render.register(kernels.variable_list)
render.register(kernels.runtime_directory)
render.register(notebooks.notebook_view)
render.register(notebooks.created_notebook)
render.register(notebooks.edited_notebook)
render.register(notebooks.notebook_versions)
render.register(notebooks.restored_notebook)
render.register(notebooks.notebook_comparison)
render.register(notebooks.notebook_list)
render.register(notebooks.search_result)
render.register(notebooks.notebook_info)
render.register(runs.execution_list)
render.register(runs.code_run)
render.register(runs.cells_run)
render.register(runs.batch)
render.register(runs.installation)
render.register(runs.verification)
render.register(runs.earlier_run)
