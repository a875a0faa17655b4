"""How replies about kernels read."""

from __future__ import annotations

from papermill_mcp.services.kernel_service import KernelList, StoppedKernels, VariableList
from papermill_mcp.services.runtime_files import RuntimeDirectory
from papermill_mcp.tools.replies.text import fenced, header_lines, inline
from papermill_mcp.utils.text_utils import clean_text, one_line

#: Characters of a value that is shown in its line.
_PREVIEW_CHARS = 200


def kernel_list(reply: KernelList) -> str:
    """Installed kernelspecs and live kernels."""
    lines = ["installed:"]
    for spec in reply.available:
        problem = f" · cannot be used: {spec.problem}" if spec.problem else ""
        lines.append(f"- {spec.name} · {spec.display_name} · {spec.language}{problem}")
    if reply.environments:
        lines.append(f"environments, for python=: {len(reply.environments)} of {reply.environment_count}")
        lines += [
            f"- {inline(one.label)}" + ("" if one.python in one.label else f" · {inline(one.python)}")
            for one in reply.environments
        ]
    lines.append("active:" if reply.active else "active: none")
    for kernel in reply.active:
        bound = f" · notebook {kernel.notebook}" if kernel.notebook else ""
        lines.append(
            f"- {kernel.kernel_id} · {kernel.kernel_name} · {kernel.state} · started {kernel.started_at} · last active "
            f"{kernel.last_activity} · In [{kernel.execution_count}]{bound}"
        )
    return "\n".join(lines)


def stopped_kernels(reply: StoppedKernels) -> str:
    """The kernels that were stopped, and those that could not be."""
    lines = [f"stopped: {reply.stopped_count}", *(f"- {kernel_id}" for kernel_id in reply.stopped)]
    lines.append(f"failed: {reply.failed_count}")
    return "\n".join([*lines, *(f"- {failure.kernel_id}: {clean_text(failure.reason)}" for failure in reply.failed)])


def variable_list(reply: VariableList) -> str:
    """Variables, a line each."""
    lines = [f"kernel_id: {reply.kernel_id}", f"variables: {len(reply.variables)} of {reply.count}"]
    if reply.frame is not None:
        lines.append(f"frame: {inline(reply.frame)}")
    for row in reply.variables:
        extent = f" {row.shape}" if row.shape is not None else f" ({row.size})" if row.size is not None else ""
        head = f"- {one_line(row.name, 100)}: {one_line(row.type, 60)}{extent}"
        if "\n" in row.preview or len(row.preview) > _PREVIEW_CHARS:
            lines += [head, *fenced(row.preview)]
        else:
            lines.append(f"{head} = {one_line(row.preview, _PREVIEW_CHARS)}")
    return "\n".join(lines)


def runtime_directory(reply: RuntimeDirectory) -> str:
    """Files of the runtime directory, a line each."""
    if not reply.exists:
        return "\n".join(header_lines(reply.model_dump(include={"runtime_dir", "exists"})))
    lines = [f"runtime_dir: {inline(reply.runtime_dir)}", f"files: {len(reply.files)} of {reply.count}, newest first"]
    for row in reply.files:
        facts = [inline(row.name), row.kind]
        if row.size is not None:
            facts += [f"{row.size:,} bytes", row.modified or ""]
        if row.owner_alive is not None:
            facts.append("owner alive" if row.owner_alive else "owner gone")
        lines.append("- " + " · ".join(facts))
    return "\n".join(lines)
