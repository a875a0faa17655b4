"""How replies about notebooks read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from papermill_mcp.services.catalogue import Match, NotebookInfo, NotebookList, SearchResult
from papermill_mcp.services.comparing import NotebookComparison
from papermill_mcp.services.history_service import NotebookVersions, RestoredNotebook
from papermill_mcp.services.notebook_service import DIFF_CHARS, CreatedNotebook, EditedNotebook, RemovedCell
from papermill_mcp.services.notebooks.view import CellView, NotebookView, OutlineRow, SourceView
from papermill_mcp.tools.replies.outputs import output_blocks
from papermill_mcp.tools.replies.text import fenced, header_lines, inline, type_name
from papermill_mcp.utils.text_utils import cell_name, count_noun, one_line


def notebook_view(reply: NotebookView) -> str:
    """A notebook: its header, then its outline or its cells."""
    header = header_lines(reply.model_dump(exclude_none=True, include={"path", "revision", "kernel_name", "language"}))
    header.append(f"nbformat: {reply.nbformat}.{reply.nbformat_minor}")
    if reply.metadata:
        header.append(f"metadata: {inline(reply.metadata)}")
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


def created_notebook(reply: CreatedNotebook) -> str:
    """A new notebook and the ids of its cells."""
    lines = header_lines(reply.model_dump(exclude={"ids"}))
    if reply.ids:
        ids = ", ".join(f"{index} {cell_id}" for index, cell_id in enumerate(reply.ids))
        rest = reply.cell_count - len(reply.ids)
        lines.append(f"ids: {ids}" + (f" and {rest} more: read_notebook with outline=true" if rest else ""))
    return "\n".join([*lines, *(f"note: {inline(note)}" for note in reply.notes)])


def edited_notebook(reply: EditedNotebook) -> str:
    """An edit: the cell or the changes in short, and the outline around cells that moved."""
    lines = header_lines({"path": reply.path, "revision": reply.revision})
    cell: SourceView | None = getattr(reply, "cell", None)
    if not reply.changed:
        lines.append("changed: nothing; the file was not touched")
    lines += [f"note: {inline(note)}" for note in reply.notes or []]
    rows = reply.outline
    if isinstance(reply, RemovedCell):
        outputs = f" · {count_noun(reply.outputs_dropped, 'output')} dropped" if reply.outputs_dropped else ""
        lines.append(f"removed cell {cell_name(reply.cell.index, reply.cell.id)} · {_facts(reply.cell)}{outputs}")
        if reply.cell.metadata:
            lines.append(f"metadata: {inline(reply.cell.metadata)}")
        if reply.cell.omitted_chars:
            lines.append(f"source: its first characters; {reply.cell.omitted_chars:,} are left out")
        lines += fenced(reply.cell.source)
    elif cell is not None:
        changes = reply.summary
        notes = [note for change in changes for note in change.notes]
        lines.append(" · ".join([f"cell {cell_name(cell.index, cell.id)}", _facts(cell), *map(inline, notes)]))
        if changed := [line for change in changes for line in change.lines]:
            lines += _diff(changed)
        rows = [row for row in rows if row.index != cell.index]
    elif any(change.lines for change in reply.summary):
        lines += _diff([line for change in reply.summary for line in (change.head(), *change.lines)])
    else:
        lines += _cut([inline(change.head()) for change in reply.summary])
    if rows:
        lines += ["around it:", *_outline(rows)]
    return "\n".join(lines)


def notebook_versions(reply: NotebookVersions) -> str:
    """Versions, a line each."""
    lines = header_lines({"path": reply.path, "revision": reply.revision or "none"})
    lines.append(f"versions: {len(reply.versions)} of {reply.count}")
    for row in reply.versions:
        made = "outside" if row.kind == "outside" else f"{row.kind} by {row.by}"
        facts = [row.time.replace("T", " "), made, *filter(None, [row.summary]), row.revision]
        lines.append(f"- {row.version} · " + " · ".join(map(inline, facts)))
    return "\n".join([*lines, *([f"note: {inline(reply.note)}"] if reply.note else [])])


def restored_notebook(reply: RestoredNotebook) -> str:
    """A version that was put back, and the changes that this made."""
    lines = header_lines({"path": reply.path, "revision": reply.revision, "version": reply.version})
    lines += [f"note: {inline(note)}" for note in reply.notes or []]
    if not reply.changes:
        return "\n".join([*lines, "changed: nothing; the file was not touched"])
    return "\n".join([*lines, *_diff([line for one in reply.changes for line in (one.head(), *one.lines)])])


def notebook_comparison(reply: NotebookComparison) -> str:
    """The cells that differ, and their diffs."""
    lines = header_lines({"path": reply.path, "revision": reply.revision, "before": reply.before, "after": reply.after})
    numbers = [f"{number} {kind}" for kind, number in reply.summary.items() if number]
    lines.append(f"cells: {', '.join(numbers) or 'none'}")
    if reply.notebook:
        lines.append(f"notebook: {inline(reply.notebook)}")
    if not reply.cells and reply.notebook is None:
        lines.append("no differences")
    for cell in reply.cells:
        index = cell.index_before if cell.index_after is None else cell.index_after
        from_place = f" (was {cell.index_before})" if cell.index_before not in (None, index) else ""
        lines.append(f"cell {cell_name(index or 0, cell.id)} · {cell.change}{from_place}")
        if cell.diff:
            lines += fenced(cell.diff, "diff")
    if reply.note:
        lines.append(f"note: {inline(reply.note)}")
    if reply.next is not None:
        lines.append(f"next: {reply.next} (pass it as start)")
    return "\n".join(lines)


def _diff(lines: Sequence[str]) -> list[str]:
    return fenced("\n".join(_cut(lines)), "diff")


def _cut(lines: Sequence[str]) -> list[str]:
    """Lines of about `DIFF_CHARS` characters at most. The others are counted."""
    room = DIFF_CHARS
    for number, line in enumerate(lines):
        if room <= 0:
            rest = count_noun(len(lines) - number, "line")
            return [*lines[:number], f"… {rest} left out: read the cells to see them"]
        room -= len(line) + 1
    return list(lines)


def edit_head(reply: EditedNotebook) -> list[str]:
    """An edit in short, before its run."""
    lines = header_lines({"path": reply.path, "revision": reply.revision})
    cell: SourceView | None = getattr(reply, "cell", None)
    if cell is not None:
        lines.append(f"cell {cell_name(cell.index, cell.id)} · {_facts(cell)}")
    if not reply.changed:
        lines.append("changed: nothing; the file was not touched")
    return lines + [f"note: {inline(note)}" for note in reply.notes or []]


def notebook_list(reply: NotebookList) -> str:
    """Notebooks of a directory, a line each."""
    lines = [f"directory: {inline(reply.directory)}", f"notebooks: {len(reply.notebooks)} of {reply.count}"]
    for row in reply.notebooks:
        facts = [inline(row.path), f"{row.size:,} bytes", row.modified]
        if row.problem is None:
            facts += [count_noun(row.cell_count or 0, "cell"), one_line(row.kernel_name or "no kernel", 60)]
            if row.language:
                facts.append(one_line(row.language, 40))
        else:
            facts.append(f"problem: {inline(row.problem)}")
        lines.append("- " + " · ".join(facts))
    lines += [f"note: {inline(note)}" for note in reply.notes or []]
    if reply.next_cursor is not None:
        lines.append(f"next_cursor: {inline(reply.next_cursor)}")
    return "\n".join(lines)


def search_result(reply: SearchResult) -> str:
    """Lines that match, by notebook."""
    lines = [f"query: {inline(reply.query)}", f"matches: {len(reply.matches)} of {reply.total} lines"]
    lines.append(f"searched: {count_noun(reply.searched, 'notebook')}")
    path = None
    for place, match in enumerate(reply.matches):
        if match.path != path:
            path = match.path
            lines.append(f"{inline(path)}:")
        beside = reply.matches[max(place - 1, 0) : place] + reply.matches[place + 1 : place + 2]
        lines += _match(match, {one.line for one in beside if _of_one_text(one, match)})
    if reply.truncated:
        lines.append("truncated: raise limit, or search a part: one notebook, a cell type, a longer query")
    return "\n".join([*lines, *(f"note: {inline(note)}" for note in reply.notes or [])])


def notebook_info(reply: NotebookInfo) -> str:
    """A description of a notebook without its cells."""
    plain = {"path", "revision", "size", "modified", "kernel_name", "language", "python", "declares"}
    lines = header_lines(reply.model_dump(exclude_none=True, include=plain))
    lines.append(f"nbformat: {reply.nbformat}.{reply.nbformat_minor}")
    if reply.metadata:
        lines.append(f"metadata: {inline(reply.metadata)}")
    kinds = ", ".join(f"{number} {type_name(kind)}" for kind, number in reply.cells_by_type.items())
    lines.append(f"cells: {reply.cell_count}" + (f" ({kinds})" if kinds else ""))
    if reply.outline:
        rest = reply.headings - len(reply.outline)
        way = f'read_notebook with outline=true and cells="{reply.outline[-1].index}-"'
        lines.append(f"headings: {len(reply.outline)} of {reply.headings}" + (f" ({rest} more: {way})" if rest else ""))
    lines += [f"{'  ' * (row.level - 1)}- {cell_name(row.index, row.id)} {row.text}" for row in reply.outline]
    lines.append("parameters:" if reply.parameters else "parameters: none")
    for parameter in reply.parameters:
        kind = f": {one_line(parameter.type, 80)}" if parameter.type else ""
        described = f" · {one_line(parameter.help, 200)}" if parameter.help else ""
        lines.append(f"- {one_line(parameter.name, 100)}{kind} = {one_line(parameter.default, 200)}{described}")
    if reply.papermill is not None:
        facts = reply.papermill.model_dump(exclude_none=True)
        lines.append("last papermill run: " + " · ".join(f"{key} {inline(value)}" for key, value in facts.items()))
    lines.append("problems:" if reply.problems else "problems: none")
    return "\n".join([*lines, *(f"- {inline(problem)}" for problem in reply.problems)])


def _of_one_text(one: Match, other: Match) -> bool:
    return (one.path, one.index, one.output) == (other.path, other.index, other.output)


def _match(match: Match, others: Collection[int]) -> list[str]:
    """A match between its neighbours, which are not repeated.

    Args:
        others: the lines of the matches before and after this one, in the same text.
    """
    where = f"output {match.output} line" if match.output is not None else "line"
    name = f"{cell_name(match.index, match.id)} · {type_name(match.cell_type)} · {where} {match.line}"
    before, after = match.context or ("", "")
    lines = [f"- {name}: {match.text}"]
    if before and not {match.line - 1, match.line - 2} & set(others):
        lines.insert(0, f"    | {before}")
    if after and match.line + 1 not in others:
        lines.append(f"    | {after}")
    return lines + ([f"    and {match.more} more in this output"] if match.more else [])


def _cell(cell: CellView) -> str:
    facts = _facts(cell)
    if cell.execution_count is not None:
        facts += f" · In [{cell.execution_count}]"
    if cell.truncated:
        left = f"{cell.omitted_chars} characters of the source left out" if cell.omitted_chars else "cut"
        facts += f" · {left}: pass this cell alone with a larger max_chars for the whole"
    lines = [f"cell {cell_name(cell.index, cell.id)} · {facts}"]
    lines += fenced(cell.source)
    return "\n".join(lines + output_blocks(cell.outputs))


def _facts(cell: CellView | SourceView) -> str:
    facts = [type_name(cell.cell_type)]
    if cell.tags:
        facts.append("tags " + ", ".join(one_line(tag, 60) for tag in cell.tags))
    if isinstance(cell, CellView) and cell.stale is not None:
        facts.append(inline(cell.stale))
    return " · ".join(facts)


def _outline(rows: Iterable[OutlineRow]) -> list[str]:
    return [f"- {cell_name(row.index, row.id)} · {_kind(row)} · {row.first_line}" for row in rows]


def _kind(row: OutlineRow) -> str:
    facts = [type_name(row.cell_type)]
    if row.lines is not None:
        facts.append(count_noun(row.lines, "line"))
    if row.outputs:
        facts.append(count_noun(row.outputs, "output"))
    if row.stale is not None:
        facts.append(inline(row.stale))
    return ", ".join(facts)
