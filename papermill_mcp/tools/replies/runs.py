"""How replies about runs read."""

from __future__ import annotations

from papermill_mcp.services.notebooks.view import ranges
from papermill_mcp.services.runs.batch_summary import NumbersByParameter
from papermill_mcp.services.runs.verify_view import VerifyView
from papermill_mcp.services.runs.view import (
    BatchRunView,
    CellResult,
    CellsView,
    CodeView,
    EarlierView,
    ExecutionList,
    InstallView,
    PapermillRunView,
    RunView,
)
from papermill_mcp.tools.replies.outputs import error_block, error_line, output_blocks
from papermill_mcp.tools.replies.text import fenced, header_lines, inline
from papermill_mcp.utils.text_utils import cell_name, clean_text, count_noun, one_line


def execution_list(reply: ExecutionList) -> str:
    """Executions, a line each."""
    lines = [f"executions: {len(reply.executions)}"]
    for row in reply.executions:
        facts = [row.kind, "cut off" if row.cut_off else row.status, row.started_at, f"{row.duration:.1f} s"]
        if row.cells_total is not None:
            facts.append(f"{row.cells_done} of {row.cells_total} {'runs' if row.kind == 'batch' else 'cells'}")
        if row.at_cell is not None:
            facts.append(f"at cell {row.at_cell}")
        if row.server_pid is not None:
            facts.append(f"in another server (process {row.server_pid})")
        facts += [one_line(path, 200) for path in (row.path, row.output_path) if path]
        lines.append(f"- {row.execution_id} · " + " · ".join(facts))
    return "\n".join([*lines, *([f"note: {clean_text(reply.note)}"] if reply.note else [])])


def code_run(reply: CodeView) -> str:
    """A run of code, with its outputs."""
    count = f"In [{reply.execution_count}]" if reply.execution_count is not None else ""
    lines = _run_head(reply, count)
    if reply.index is not None:
        lines.append(f"cell: {cell_name(reply.index, reply.id)}")
    lines += [*_next_steps(reply), *output_blocks(reply.outputs)]
    return "\n".join([*lines, *(error_block(reply.error) if reply.error is not None else [])])


def cells_run(reply: CellsView) -> str:
    """A run of cells of a notebook."""
    lines = _run_head(reply, _counts(reply) if reply.cells_total is not None else "")
    parameters = reply.parameters if isinstance(reply, PapermillRunView) else None
    if parameters is not None:
        lines.append(f"parameters: {inline(parameters)}")
    lines += [f"recorded {one_line(value.name, 100)}: {inline(value.value)}" for value in reply.result or []]
    lines += _next_steps(reply)
    failed = reply.failed_cell
    lines += _results(reply.results, failed.index if failed else None)
    if failed is not None:
        lines.append(f"failed cell: {cell_name(failed.index, failed.id)}")
        lines += fenced(failed.source, "source")
        if failed.error is not None:
            lines += error_block(failed.error)
    return "\n".join(lines)


def batch(reply: BatchRunView) -> str:
    """A batch, a line for each run."""
    return "\n".join([*_run_head(reply), *_next_steps(reply), *_runs(reply)])


def earlier_run(reply: EarlierView) -> str:
    """The record of an earlier run."""
    lines = _run_head(reply)
    if reply.cells_total is not None:
        lines.append(f"cells: {reply.cells_done} of {reply.cells_total} done")
    lines += _next_steps(reply)
    if reply.runs_total is not None:
        lines.append(f"runs: {reply.runs_done} of {reply.runs_total} done")
    return "\n".join(lines)


def installation(reply: InstallView) -> str:
    """An installation, a line for each package."""
    lines = _run_head(reply)
    if reply.kernel_must_restart is not None:
        lines.append(f"kernel_must_restart: {str(reply.kernel_must_restart).lower()}")
    lines += _next_steps(reply)
    for package in reply.installed or []:
        name, before, after = (
            inline(part or "not installed") for part in (package.name, package.before, package.after)
        )
        lines.append(f"- {name}: " + (f"{after}, unchanged" if before == after else f"{before} → {after}"))
    if reply.error is not None:
        lines += [f"error: {one_line(reply.error.ename, 100)}", *fenced(reply.error.evalue, "installer")]
    return "\n".join(lines)


def verification(reply: VerifyView) -> str:
    """A verification: the verdict, and each cell that is not the same."""
    counts = ", ".join(f"{number} {name}" for name, number in (reply.counts or {}).items())
    noun = "cells" if reply.revision is not None else "notebooks"
    lines = _run_head(reply, f"{noun}: {counts}" if counts else "")
    if reply.verdict is not None:
        lines.insert(0, f"verdict: {reply.verdict}, against {inline(reply.against or '')}")
    lines += _next_steps(reply)
    lines += header_lines({name: path for name in ("results", "report") if (path := getattr(reply, name)) is not None})
    for one in reply.notebooks or []:
        cells = ", ".join(f"{number} {name}" for name, number in (one.counts or {}).items())
        lines.append(" · ".join([f"- {inline(one.path)}: {one.verdict}", *filter(None, [cells, one.first])]))
    for row in reply.cells or []:
        lines.append(f"cell {cell_name(row.index, row.id)}: {row.verdict}")
        if row.diff is not None:
            lines += fenced(row.diff, "diff") if "\n" in row.diff else [inline(row.diff)]
        for pair in row.values or []:
            distance = f" ({pair.distance:+.6g})" if pair.distance is not None else ""
            lines.append(f"  {pair.before} → {pair.after}{distance}")
    return "\n".join(lines)


def _counts(reply: CellsView) -> str:
    """The cells of a run by their outcome: `7 cells ok, 1 failed, 2 not run`."""
    counts = dict(reply.counts or {})
    if reply.status in ("queued", "running"):
        skipped = f", {counts['skipped']} skipped" if "skipped" in counts else ""
        return f"cells {reply.cells_done} of {reply.cells_total} done, {reply.cells_failed} failed{skipped}"
    ends = ("skipped", "not_run")
    order = ["ok", *(name for name in counts if name not in ("ok", *ends)), *ends]
    words = {"error": "failed", "not_run": "not run"}
    listed = ", ".join(f"{counts[name]} {words.get(name, name)}" for name in order if counts.get(name))
    return f"cells: {listed or 'none'}"


#: The header lines of a run, in this order, after those that `_run_head` makes.
_RUN_HEAD = ("environment", "path", "input_path", "output_path", "revision")


def _run_head(reply: RunView, outcome: str = "") -> list[str]:
    """The outcome in one line, and the facts that the next call may need.

    A run that ended well needs no id. The kernel is named once, with its first run.
    """
    facts = reply.model_dump(exclude_none=True, include={*_RUN_HEAD, "ended", "kernel_id", "kernel_name", "python"})
    over = f"ended: {str(facts['ended']).lower()}" if "ended" in facts else ""
    lines = ["status: " + " · ".join(filter(None, [reply.status, f"{reply.duration:.2f} s", outcome, over]))]
    live = not isinstance(reply, BatchRunView | EarlierView)
    if not (live and reply.status == "ok") and reply.next is None and reply.execution_id:
        lines.append(f"execution_id: {reply.execution_id}")
    if getattr(reply, "_later", False):
        shown: tuple[str, ...] = ("output_path", "revision") if reply.next is None else ()
        return lines + header_lines({name: facts[name] for name in shown if name in facts})
    kernel = {name: facts[name] for name in ("kernel_id", "kernel_name", "python") if name in facts}
    if kernel and getattr(reply, "_new_kernel", True):
        lines.append(f"{next(iter(kernel)).removesuffix('_name')}: " + " · ".join(map(inline, kernel.values())))
    return lines + header_lines({name: facts[name] for name in _RUN_HEAD if name in facts})


def _next_steps(reply: RunView) -> list[str]:
    """The progress of a run, the next call, and its notes."""
    lines = []
    if reply.status in ("queued", "running"):
        lines.append(f"progress: {clean_text(reply.progress or '')}")
    if reply.next is not None:
        lines.append(f"next: {reply.next}, or cancel_execution")
    return lines + [f"note: {clean_text(note)}" for note in reply.notes or []]


def _runs(reply: BatchRunView) -> list[str]:
    """The runs of a batch, a line each."""
    if reply.runs_total is None:
        return []
    failed = f", {reply.runs_failed} failed" if reply.runs_failed is not None else ""
    lines = [f"runs: {reply.runs_done} of {reply.runs_total} done{failed}"]
    if reply.results is not None:
        lines.append(f"results: {inline(reply.results)}")
    if reply.report is not None:
        lines.append(f"report: {inline(reply.report)}")
    for group in reply.failures or []:
        which = ", ".join(map(str, group.runs)) + (", …" if group.count > len(group.runs) else "")
        lines.append(f"failed: {count_noun(group.count, 'run')} ({which}) · {inline(group.error)}")
    lines += [
        f"recorded {one_line(span.name, 100)}: {_number(span.min)} (run {span.min_run}) to {_number(span.max)} "
        f"(run {span.max_run}), median {_number(span.median)}, of {count_noun(span.count, 'run')}"
        for span in reply.numbers or []
    ]
    by_value, tabled = reply.by_parameter, set[int]()
    if by_value is not None:
        lines += _numbers(by_value)
        tabled = {point.run for point in by_value.points}
    rows = reply.runs or []
    places = {row.output_path.rpartition("/")[0] for row in rows}
    shared = places.pop() + "/" if len(places) == 1 and len(rows) > 1 else ""  # once instead of in each line
    if shared:
        lines.append(f"outputs in: {inline(shared)}")
    for row in rows:
        facts = [f"{row.status}, kept" if row.kept else row.status]
        if row.duration is not None:
            facts.append(f"{row.duration:.2f} s")
        if row.kernel_name is not None:
            facts.append(inline(row.kernel_name))
        if row.input_path is not None:
            facts.append(inline(row.input_path))
        facts += [inline(row.parameters), inline(row.output_path.removeprefix(shared))]
        facts += [
            f"{one_line(value.name, 100)} = {inline(value.value)}"
            for value in row.result or []
            if by_value is None or row.run not in tabled or value.name not in by_value.names
        ]
        if row.progress is not None:
            facts.append(clean_text(row.progress))
        if row.error is not None:
            place = f"cell {row.failed_cell}: " if row.failed_cell is not None else ""
            facts.append(place + inline(row.error))
        lines.append(f"- run {row.run}: " + " · ".join([*facts, *map(inline, row.notes or [])]))
    return lines


def _numbers(reply: NumbersByParameter) -> list[str]:
    """Recorded numbers by the value of a parameter, a line for each run."""
    shown, name = len(reply.points), one_line(reply.parameter, 60)
    part = f" ({shown} of {reply.runs_total} runs; the table of results has all)" if shown < reply.runs_total else ""
    lines = [f"by {name}{part}:", " | ".join([name, "run", *(one_line(one, 60) for one in reply.names)])]
    for point in reply.points:
        numbers = ["" if number is None else _number(number) for number in point.numbers]
        facts = ["failed"] if point.failed and not any(numbers) else numbers
        lines.append(" | ".join([one_line(inline(point.value), 60), str(point.run), *facts]).rstrip())
    return lines


def _number(value: float) -> str:
    """Six digits; all of those of a whole number that a float has exactly."""
    return str(int(value)) if abs(value) < 2**53 and value == int(value) else f"{value:.6g}"


def _name(row: CellResult) -> str:
    return cell_name(row.index, row.id)


def _results(results: list[CellResult] | None, failed: int | None) -> list[str]:
    """Cells that ended well and showed nothing share one line. The failed one comes at the end."""
    lines: list[str] = []
    silent: list[CellResult] = []

    def flush() -> None:
        if silent:
            named = f"s {ranges([row.index for row in silent])}" if len(silent) > 1 else f" {_name(silent[0])}"
            lines.append(f"cell{named}: ok, no output")
            silent.clear()

    for row in results or []:
        if row.status == "skipped":
            flush()
            lines.append(f"cell {cell_name(row.index, row.id)}: skipped, since its tag says so")
            continue
        if row.status == "ok" and not row.outputs:
            silent.append(row)
            continue
        flush()
        count = f" In [{row.execution_count}]" if row.execution_count is not None else ""
        lines.append(f"cell {cell_name(row.index, row.id)}{count}: {row.status} · {row.duration or 0:.2f} s")
        lines += output_blocks(row.outputs)
        if row.error is not None and row.index != failed:
            lines.append(f"error: {error_line(row.error)}")
    flush()
    return lines
