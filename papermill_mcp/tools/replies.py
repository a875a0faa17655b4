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

from papermill_mcp.services.catalogue import Match, NotebookInfo, NotebookList, SearchResult
from papermill_mcp.services.kernel_service import KernelList, StoppedKernels, VariableList
from papermill_mcp.services.notebook_service import EditedNotebook, RemovedCell
from papermill_mcp.services.notebooks.view import CellView, NotebookView, OutlineRow, SourceView, ranges
from papermill_mcp.services.outputs import ErrorView, OutputView
from papermill_mcp.services.runs.view import (
    BatchRunView,
    BatchView,
    CellResult,
    CellsView,
    CodeView,
    EarlierView,
    ExecutionList,
    PapermillRunView,
    RunView,
)
from papermill_mcp.services.runtime_files import RuntimeDirectory
from papermill_mcp.utils.text_utils import clean_text, count_noun, one_line


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
            facts.append(f"{row.cells_done} of {row.cells_total} {'runs' if row.kind == 'batch' else 'cells'}")
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
    header.append(f"cells: {len(reply.cells or reply.outline or ())} of {reply.cell_count}")
    if reply.note:
        header.append(f"note: {reply.note}")
    blocks = ["\n".join(header)]
    if reply.outline is not None:
        blocks.append("\n".join(_outline(reply.outline)))
    blocks += [_cell(cell) for cell in reply.cells]
    if reply.next_cells:
        left = count_noun(reply.cells_left or 0, "cell")
        blocks.append(f"next_cells: {reply.next_cells} (the page is full; {left} left: pass this as cells)")
    return "\n\n".join(blocks)


@render.register
def _(reply: EditedNotebook) -> str:
    lines = _header({"path": reply.path, "revision": reply.revision})
    cell: SourceView | None = getattr(reply, "cell", None)
    marked = None
    if not reply.changed:
        lines.append("changed: nothing; the file was not touched")
    if isinstance(reply, RemovedCell):
        outputs = f" · {count_noun(reply.outputs_dropped, 'output')} dropped" if reply.outputs_dropped else ""
        lines.append(f"removed cell {_name(reply.cell.index, reply.cell.id)} · {_facts(reply.cell)}{outputs}")
        if reply.cell.metadata:
            lines.append(f"metadata: {_inline(reply.cell.metadata)}")
        lines += _fenced(reply.cell.source)
    else:
        if cell is not None:
            marked = cell.index
            lines.append(f"cell {_name(cell.index, cell.id)} · {_facts(cell)}")
        if reply.diff:
            lines += _fenced(reply.diff, "diff")
    if reply.outline:
        lines += ["around it:", *_outline(reply.outline, marked=marked)]
    return "\n".join(lines)


@render.register
def _(reply: NotebookList) -> str:
    lines = [f"directory: {_inline(reply.directory)}", f"notebooks: {len(reply.notebooks)} of {reply.count}"]
    for row in reply.notebooks:
        facts = [_inline(row.path), f"{row.size:,} bytes", row.modified]
        if row.problem is None:
            facts += [f"{row.cell_count} cells", one_line(row.kernel_name or "no kernel", 60)]
            if row.language:
                facts.append(one_line(row.language, 40))
        else:
            facts.append(f"problem: {_inline(row.problem)}")
        lines.append("- " + " · ".join(facts))
    lines += [f"note: {_inline(note)}" for note in reply.notes or []]
    if reply.next_cursor is not None:
        lines.append(f"next_cursor: {_inline(reply.next_cursor)}")
    return "\n".join(lines)


@render.register
def _(reply: SearchResult) -> str:
    lines = [f"query: {_inline(reply.query)}", f"matches: {len(reply.matches)} of {reply.total} lines"]
    lines.append(f"searched: {count_noun(reply.searched, 'notebook')}")
    path = None
    for match in reply.matches:
        if match.path != path:
            path = match.path
            lines.append(f"{_inline(path)}:")
        lines += _match(match)
    if reply.truncated:
        lines.append("truncated: raise limit, or search a part: one notebook, a cell type, a longer query")
    return "\n".join([*lines, *(f"note: {_inline(note)}" for note in reply.notes or [])])


@render.register
def _(reply: RuntimeDirectory) -> str:
    if not reply.exists:
        return "\n".join(_header(reply.model_dump(include={"runtime_dir", "exists"})))
    lines = [f"runtime_dir: {_inline(reply.runtime_dir)}", f"files: {len(reply.files)} of {reply.count}, newest first"]
    for row in reply.files:
        facts = [_inline(row.name), row.kind]
        if row.size is not None:
            facts += [f"{row.size:,} bytes", row.modified or ""]
        if row.owner_alive is not None:
            facts.append("owner alive" if row.owner_alive else "owner gone")
        lines.append("- " + " · ".join(facts))
    return "\n".join(lines)


@render.register
def _(reply: NotebookInfo) -> str:
    plain = {"path", "revision", "size", "modified", "kernel_name", "language"}
    lines = _header(reply.model_dump(exclude_none=True, include=plain))
    lines.append(f"nbformat: {reply.nbformat}.{reply.nbformat_minor}")
    if reply.metadata:
        lines.append(f"metadata: {_inline(reply.metadata)}")
    kinds = ", ".join(f"{number} {_type(kind)}" for kind, number in reply.cells_by_type.items())
    lines.append(f"cells: {reply.cell_count}" + (f" ({kinds})" if kinds else ""))
    if reply.outline:
        lines.append(f"headings: {len(reply.outline)} of {reply.headings}")
    lines += [f"{'  ' * (row.level - 1)}- {_name(row.index, row.id)} {row.text}" for row in reply.outline]
    lines.append("parameters:" if reply.parameters else "parameters: none")
    for parameter in reply.parameters:
        kind = f": {one_line(parameter.type, 80)}" if parameter.type else ""
        comment = f" · {one_line(parameter.help, 200)}" if parameter.help else ""
        lines.append(f"- {one_line(parameter.name, 100)}{kind} = {one_line(parameter.default, 200)}{comment}")
    if reply.papermill is not None:
        facts = reply.papermill.model_dump(exclude_none=True)
        lines.append("last papermill run: " + " · ".join(f"{key} {_inline(value)}" for key, value in facts.items()))
    lines.append("problems:" if reply.problems else "problems: none")
    return "\n".join([*lines, *(f"- {_inline(problem)}" for problem in reply.problems)])


def _match(match: Match) -> list[str]:
    where = f"output {match.output} line" if match.output is not None else "line"
    name = f"{_name(match.index, match.id)} · {_type(match.cell_type)} · {where} {match.line}"
    before, after = match.context or ("", "")
    beside = [f"    | {line}" for line in (before, after)]
    shown = [f"- {name}: {match.text}"]
    return [*([beside[0]] if before else []), *shown, *([beside[1]] if after else [])]


@render.register
def _(reply: CodeView) -> str:
    lines = _run_head(reply)
    if reply.index is not None:
        lines.append(f"cell: {_name(reply.index, reply.id)}")
    if reply.execution_count is not None:
        lines.append(f"execution_count: {reply.execution_count}")
    lines += [_duration(reply), *_next_steps(reply), *_outputs(reply.outputs)]
    return "\n".join([*lines, *(_error(reply.error) if reply.error is not None else [])])


@render.register
def _(reply: CellsView) -> str:
    lines = [*_run_head(reply), _duration(reply)]
    if reply.cells_total is not None:
        lines.append(f"cells: {reply.cells_done} of {reply.cells_total} done, {reply.cells_failed} failed")
    parameters = reply.parameters if isinstance(reply, PapermillRunView) else None
    if parameters is not None:
        lines.append(f"parameters: {_inline(parameters)}")
    lines += [f"recorded {one_line(value.name, 100)}: {_inline(value.value)}" for value in reply.result or []]
    lines += _next_steps(reply)
    failed = reply.failed_cell
    lines += _results(reply.results, failed.index if failed else None)
    if failed is not None:
        lines.append(f"failed cell: {_name(failed.index, failed.id)}")
        lines += _fenced(failed.source, "source")
        if failed.error is not None:
            lines += _error(failed.error)
    return "\n".join(lines)


@render.register
def _(reply: BatchRunView | BatchView) -> str:
    return "\n".join([*_run_head(reply), _duration(reply), *_next_steps(reply), *_runs(reply)])


@render.register
def _(reply: EarlierView) -> str:
    lines = [*_run_head(reply), _duration(reply)]
    if reply.cells_total is not None:
        lines.append(f"cells: {reply.cells_done} of {reply.cells_total} done")
    lines += _next_steps(reply)
    if reply.runs_total is not None:
        lines.append(f"runs: {reply.runs_done} of {reply.runs_total} done")
    return "\n".join(lines)


#: The header lines of a run, in this order.
_RUN_HEAD = ("execution_id", "status", "kernel_id", "path", "input_path", "output_path", "revision")


def _run_head(reply: RunView | BatchView) -> list[str]:
    facts = reply.model_dump(exclude_none=True, include=set(_RUN_HEAD))
    return _header({name: facts[name] for name in _RUN_HEAD if name in facts})


def _duration(reply: RunView | BatchView) -> str:
    return f"duration: {reply.duration:.2f} s"


def _next_steps(reply: RunView | BatchView) -> list[str]:
    """The progress of a run, the next call, and its notes."""
    lines = []
    if reply.status in ("queued", "running"):
        lines.append(f"progress: {clean_text(reply.progress or '')}")
        lines.append(
            f'next: get_execution with execution_id="{reply.execution_id}" and since="{reply.cursor}", '
            "or cancel_execution"
        )
    return lines + [f"note: {clean_text(note)}" for note in reply.notes or []]


def _runs(reply: BatchRunView | BatchView) -> list[str]:
    """The runs of a batch, a line each."""
    if reply.runs_total is None:
        return []
    failed = f", {reply.runs_failed} failed" if reply.runs_failed is not None else ""
    lines = [f"runs: {reply.runs_done} of {reply.runs_total} done{failed}"]
    rows = reply.runs or []
    places = {row.output_path.rpartition("/")[0] for row in rows}
    shared = places.pop() + "/" if len(places) == 1 and len(rows) > 1 else ""  # once instead of in each line
    if shared:
        lines.append(f"outputs in: {_inline(shared)}")
    for row in rows:
        facts = [f"{row.status}, kept" if row.kept else row.status]
        if row.duration is not None:
            facts.append(f"{row.duration:.2f} s")
        if row.input_path is not None:
            facts.append(_inline(row.input_path))
        facts += [_inline(row.parameters), _inline(row.output_path.removeprefix(shared))]
        facts += [f"{one_line(value.name, 100)} = {_inline(value.value)}" for value in row.result or []]
        if row.progress is not None:
            facts.append(clean_text(row.progress))
        if row.error is not None:
            place = f"cell {row.failed_cell}: " if row.failed_cell is not None else ""
            facts.append(place + _inline(row.error))
        lines.append(f"- run {row.run}: " + " · ".join([*facts, *map(_inline, row.notes or [])]))
    return lines


def _results(results: list[CellResult] | None, failed: int | None) -> list[str]:
    """Cells that ended well and showed nothing share one line. The failed one comes at the end."""
    lines: list[str] = []
    silent: list[int] = []

    def flush() -> None:
        if silent:
            lines.append(f"cell{'s' if len(silent) > 1 else ''} {ranges(silent)}: ok, no output")
            silent.clear()

    for row in results or []:
        if row.status == "ok" and not row.outputs:
            silent.append(row.index)
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
        left = f"{cell.omitted_chars} characters of the source left out" if cell.omitted_chars else "cut"
        facts += f" · {left}: pass this cell alone with a larger max_chars for the whole"
    lines = [f"cell {_name(cell.index, cell.id)} · {facts}"]
    lines += _fenced(cell.source)
    return "\n".join(lines + _outputs(cell.outputs))


def _facts(cell: CellView | SourceView) -> str:
    facts = [_type(cell.cell_type)]
    if cell.tags:
        facts.append("tags " + ", ".join(one_line(tag, 60) for tag in cell.tags))
    return " · ".join(facts)


def _type(cell_type: str) -> str:
    """The type of a cell; a file may say anything there."""
    return one_line(cell_type, 40) or "unknown type"


def _outline(rows: Iterable[OutlineRow], *, marked: int | None = None) -> list[str]:
    return [
        f"{'>' if row.index == marked else '-'} {_name(row.index, row.id)} · {_kind(row)} · {row.first_line}"
        for row in rows
    ]


def _kind(row: OutlineRow) -> str:
    facts = [_type(row.cell_type)]
    if row.lines is not None:
        facts.append(count_noun(row.lines, "line"))
    if row.outputs:
        facts.append(count_noun(row.outputs, "output"))
    return ", ".join(facts)


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
    info = label.replace("`", "'")  # a line with a backtick after the fence would open none
    return [f"{fence}{info}", cleaned.rstrip("\n"), fence]


def _name(index: int, cell_id: str | None) -> str:
    return f"{index} [{one_line(cell_id, 64)}]" if cell_id else f"{index}"


def _header(facts: dict[str, Any]) -> list[str]:
    return [f"{key}: {_inline(value)}" for key, value in facts.items()]


def _inline(value: Any) -> str:
    if isinstance(value, str):
        return clean_text(value).replace("\n", " ")
    text = json.dumps(value, ensure_ascii=False, default=str)
    return clean_text(text if len(text) <= 2000 else text[:2000] + "…")
