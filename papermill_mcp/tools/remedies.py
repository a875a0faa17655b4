"""The call behind each remedy: only the tools know the names of tools."""

from __future__ import annotations

from papermill_mcp.errors import Remedy

CALLS = {
    Remedy.RESTART_KERNEL: "restart_kernel gives the same kernel_id a new process",
    Remedy.START_KERNEL: "start another one with start_kernel",
    Remedy.CHOOSE_KERNEL: "fix the error shown above; list_kernels shows the other installed kernels",
    Remedy.WAIT_FOR_QUEUE: "wait for some of them with get_execution, or use another kernel",
    Remedy.WAIT_FOR_CODE: "wait for it with get_execution, or interrupt it",
    Remedy.TRY_OR_INTERRUPT: "try again later, or interrupt_kernel",
    Remedy.TRY_OR_RESTART: "try again, or restart_kernel",
    Remedy.LIST_IN_CODE: "use execute_cell with code that lists them",
    Remedy.CONVERT_NOTEBOOK: "convert it first, with the operation `convert` of edit_notebook",
    Remedy.INSTALL_IPYKERNEL: 'install_packages(python="$python", packages=["ipykernel"]) installs it',
    Remedy.CHECK_NOTEBOOK: "fix the notebook first; get_notebook_info lists its problems",
    Remedy.CLEAR_OUTPUTS: 'read_notebook with outline=true or outputs="none" shows it; '
    'edit_notebook with operations=[{"op": "clear_outputs"}] makes it smaller',
    Remedy.SHOW_CELLS: "read_notebook with outline=true shows the cells",
}
