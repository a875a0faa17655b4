"""How a reply reads: short lines for a model with a budget, never a dump of JSON.

Header lines are `key: value`; then come cells or rows. Text of notebooks and outputs is data: it is cleaned of terminal
codes and invisible characters, and stands in fences that it cannot close.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import singledispatch
from typing import Any

from pydantic import BaseModel

from papermill_mcp.services.execution_service import CellResult, ExecutionList, ExecutionView
from papermill_mcp.services.kernel_service import KernelList, StoppedKernels, VariableList
from papermill_mcp.services.notebook_service import AddedCell, CellView, NotebookView, OutlineRow, SourceView
from papermill_mcp.services.output_view import ErrorView, OutputView
from papermill_mcp.utils.text_utils import clean_text, one_line


@singledispatch
def render(reply: BaseModel) -> str:
    """The text of a reply. Models without a form of their own are shown as `key: value` lines."""
    return "\n".join(_header(reply.model_dump(exclude_none=True)))


@render.register
def _(reply: KernelList) -> str:
    lines = ["installed:"]
    for spec in reply.available:
        problem = f" · cannot be used: {spec.problem}" if spec.problem else ""
        lines.append(f"- {spec.name} · {spec.display_name} · {spec.language}{problem}")
    lines.append("active:" if reply.active else "active: none")
    for kernel in reply.active:
        bound = f" · notebook {kernel.notebook}" if kernel.notebook else ""
        lines.append(
            f"- {kernel.kernel_id} · {kernel.kernel_name} · {kernel.state} · started {kernel.started_at} · last active "
            f"{kernel.last_activity} · In [{kernel.execution_count}]{bound}"
        )
    return "\n".join(lines)


@render.register
def _(reply: StoppedKernels) -> str:
    lines = [f"stopped: {reply.stopped_count}", *(f"- {kernel_id}" for kernel_id in reply.stopped)]
    lines.append(f"failed: {reply.failed_count}")
    return "\n".join([*lines, *(f"- {failure.kernel_id}: {clean_text(failure.reason)}" for failure in reply.failed)])


@render.register
def _(reply: VariableList) -> str:
    lines = [f"kernel_id: {reply.kernel_id}", f"variables: {len(reply.variables)} of {reply.count}"]
    for row in reply.variables:
        extent = f" {row.shape}" if row.shape is not None else f" ({row.size})" if row.size is not None else ""
        lines.append(f"- {one_line(row.name, 100)}: {one_line(row.type, 60)}{extent} = {one_line(row.preview, 200)}")
    return "\n".join(lines)


@render.register
def _(reply: ExecutionList) -> str:
    lines = [f"executions: {len(reply.executions)}"]
    for row in reply.executions:
        facts = [row.kind, "cut off" if row.cut_off else row.status, row.started_at, f"{row.duration:.1f} s"]
        if row.cells_total is not None:
            facts.append(f"{row.cells_done} of {row.cells_total} cells")
        if row.at_cell is not None:
            facts.append(f"at cell {row.at_cell}")
        facts += [one_line(path, 200) for path in (row.path, row.output_path) if path]
        lines.append(f"- {row.execution_id} · " + " · ".join(facts))
    return "\n".join(lines)


@render.register
def _(reply: NotebookView) -> str:
    header = _header(reply.model_dump(exclude_none=True, include={"path", "revision", "kernel_name", "language"}))
    header.append(f"nbformat: {reply.nbformat}.{reply.nbformat_minor}")
    if reply.metadata:
        header.append(f"metadata: {_inline(reply.metadata)}")
    header.append(f"cells: {len(reply.cells)} of {reply.cell_count}")
    blocks = ["\n".join(header)]
    blocks += [_cell(cell) for cell in reply.cells]
    if reply.next_cells:
        blocks.append(
            f'next_cells: {reply.next_cells} (the page is full; pass cells="{reply.next_cells}" for the rest)'
        )
    return "\n\n".join(blocks)


@render.register
def _(reply: AddedCell) -> str:
    lines = _header({"path": reply.path, "revision": reply.revision})
    lines += [f"cell {_name(reply.cell.index, reply.cell.id)} · {_facts(reply.cell)}", *_fenced(reply.cell.source)]
    lines.append("around it:")
    return "\n".join([*lines, *_outline(reply.outline, marked=reply.cell.index)])


@render.register
def _(reply: ExecutionView) -> str:
    facts = reply.model_dump(
        exclude_none=True,
        include={"execution_id", "status", "kernel_id", "path", "input_path", "output_path", "revision"},
    )
    lines = _header(facts)
    if reply.execution_count is not None:
        lines.append(f"execution_count: {reply.execution_count}")
    lines.append(f"duration: {reply.duration:.2f} s")
    if reply.cells_total is not None:
        lines.append(f"cells: {reply.cells_done} of {reply.cells_total} done, {reply.cells_failed} failed")
    if reply.parameters is not None:
        lines.append(f"parameters: {_inline(reply.parameters)}")
    for value in reply.result or []:
        lines.append(f"recorded {value.name}: {_inline(value.value)}")
    if reply.status == "running":
        lines.append(f"progress: {clean_text(reply.progress or '')}")
        lines.append(
            f'next: get_execution with execution_id="{reply.execution_id}" and since="{reply.cursor}", '
            "or cancel_execution"
        )
    lines += [f"note: {clean_text(note)}" for note in reply.notes or []]
    lines += _outputs(reply.outputs)
    if reply.error is not None:
        lines += _error(reply.error)
    failed = reply.failed_cell
    lines += _results(reply.results, failed.index if failed else None)
    if failed is not None:
        lines.append(f"failed cell: {_name(failed.index, failed.id)}")
        lines += _fenced(failed.source, "source")
        if failed.error is not None:
            lines += _error(failed.error)
    return "\n".join(lines)


def _results(results: list[CellResult] | None, failed: int | None) -> list[str]:
    """Cells that ended well and showed nothing are told in one line. The failed one is told at the end."""
    lines: list[str] = []
    silent: list[str] = []

    def flush() -> None:
        if silent:
            lines.append(f"cell{'s' if len(silent) > 1 else ''} {', '.join(silent)}: ok, no output")
            silent.clear()

    for row in results or []:
        if row.status == "ok" and not row.outputs:
            silent.append(str(row.index))
            continue
        flush()
        count = f" In [{row.execution_count}]" if row.execution_count is not None else ""
        lines.append(f"cell {_name(row.index, row.id)}{count}: {row.status} · {row.duration or 0:.2f} s")
        lines += _outputs(row.outputs)
        if row.error is not None and row.index != failed:
            lines.append(f"error: {_error_line(row.error)}")
    flush()
    return lines


def _cell(cell: CellView) -> str:
    facts = _facts(cell)
    if cell.execution_count is not None:
        facts += f" · In [{cell.execution_count}]"
    if cell.truncated:
        facts += " · cut: pass this cell alone with a larger max_chars for the whole"
    lines = [f"cell {_name(cell.index, cell.id)} · {facts}"]
    lines += _fenced(cell.source)
    return "\n".join(lines + _outputs(cell.outputs))


def _facts(cell: CellView | SourceView) -> str:
    facts = [cell.cell_type or "unknown type"]
    if cell.tags:
        facts.append("tags " + ", ".join(one_line(tag, 60) for tag in cell.tags))
    return " · ".join(facts)


def _outline(rows: Iterable[OutlineRow], *, marked: int | None = None) -> list[str]:
    return [
        f"{'>' if row.index == marked else '-'} {_name(row.index, row.id)} · {row.cell_type} · {row.first_line}"
        for row in rows
    ]


def _outputs(outputs: list[OutputView] | None) -> list[str]:
    lines = []
    for output in outputs or []:
        facts = [output.name or output.output_type]
        if output.mime_types:
            facts.append("also " + ", ".join(one_line(mime, 80) for mime in output.mime_types))
        if output.omitted_chars:
            facts.append(f"{output.omitted_chars} characters left out")
        if output.note:
            facts.append(clean_text(output.note))
        label = " · ".join(facts)
        lines += _fenced(output.text, label) if output.text else [f"[{label}]"]
    return lines


def _error(error: ErrorView) -> list[str]:
    return [f"error: {_error_line(error)}", *(_fenced(error.traceback, "traceback") if error.traceback else [])]


def _error_line(error: ErrorView) -> str:
    return one_line(f"{error.ename}: {error.evalue}" if error.evalue else error.ename, 500)


def _fenced(text: str, label: str = "") -> list[str]:
    """Text in a fence longer than any run of backticks in it."""
    cleaned = clean_text(text)
    longest = max((len(run) for run in re.findall(r"`{3,}", cleaned)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}{label}", cleaned.rstrip("\n"), fence]


def _name(index: int, cell_id: str | None) -> str:
    return f"{index} [{one_line(cell_id, 64)}]" if cell_id else f"{index}"


def _header(facts: dict[str, Any]) -> list[str]:
    return [f"{key}: {_inline(value)}" for key, value in facts.items()]


def _inline(value: Any) -> str:
    if isinstance(value, str):
        return clean_text(value).replace("\n", " ")
    text = json.dumps(value, ensure_ascii=False, default=str)
    return clean_text(text if len(text) <= 2000 else text[:2000] + "…")
