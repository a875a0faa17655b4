"""Tools that find, read and edit notebook files. Edits run the cells if the call asks for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from papermill_mcp.services.catalogue import NotebookInfo, NotebookList, SearchResult
from papermill_mcp.services.comparing import NotebookComparison
from papermill_mcp.services.history_service import NotebookVersions, RestoredNotebook
from papermill_mcp.services.notebook_service import (
    CreatedNotebook,
    EditedNotebook,
    RemovedCell,
    WrittenNotebook,
)
from papermill_mcp.services.notebooks.edits import Add, CellRef, NewCell, Update, new_cell
from papermill_mcp.services.notebooks.view import NotebookView
from papermill_mcp.services.results import Request
from papermill_mcp.services.runs.edit_run import EditRun
from papermill_mcp.services.runs.requests import NotebookPath
from papermill_mcp.tools.arguments import (
    Catalogue,
    CellId,
    CellIndex,
    CellToMake,
    CellType,
    Comparisons,
    Directory,
    EditOperation,
    EditRuns,
    Histories,
    IfRevision,
    Kernels,
    NewCellType,
    Notebooks,
    Overwrite,
    RunIt,
    Tags,
)
from papermill_mcp.tools.toolset import ADDS_AND_RUNS, EDITS, EDITS_AND_RUNS, READS, Toolset

toolset = Toolset("notebook")


@toolset.tool("Create a notebook", EDITS)
async def create_notebook(
    path: NotebookPath,
    notebooks: Notebooks,
    kernels: Kernels,
    kernel: Annotated[str, Field(description='Kernel name, as list_kernels shows it. Default "python3".')] = "python3",
    cells: Annotated[
        list[CellToMake] | None,
        Field(description="Cells in order: {cell_type, source, tags?}. cell_type: code if absent. Default: none."),
    ] = None,
    overwrite: Overwrite = False,
) -> CreatedNotebook:
    """Make a notebook, with cells if given. Does not run it.

    Tag the cell that sets the defaults with "parameters" to run the notebook with other values later.
    """
    spec = await kernels.installed(kernel)
    made = [new_cell(cell) for cell in cells or []]
    return await notebooks.create(
        path,
        kernel_name=spec.name,
        language=spec.language,
        display_name=spec.display_name,
        cells=made,
        overwrite=overwrite,
    )


@toolset.tool("Write a notebook", EDITS)
async def write_notebook(
    path: NotebookPath,
    content: Annotated[
        dict[str, Any], Field(description="A notebook of nbformat 4: {cells, metadata, nbformat, nbformat_minor}.")
    ],
    notebooks: Notebooks,
    overwrite: Overwrite = False,
    if_revision: IfRevision = None,
) -> WrittenNotebook:
    """Write a whole notebook. Cell ids are kept, missing ones made. To change cells, use the edit tools instead."""
    return await notebooks.write(path, content, overwrite=overwrite, if_revision=if_revision)


class CellAddition(Request):
    """A cell to be added, and its place."""

    path: NotebookPath
    source: Annotated[str, Field(description="The text of the cell.")]
    cell_type: NewCellType = "code"
    index: Annotated[
        int | None,
        Field(description="Where the cell will stand, 0-based; negative counts from the end. Default: last."),
    ] = None
    after_cell_id: Annotated[
        str | None, Field(description="Put it behind the cell with this id, instead of index.")
    ] = None
    tags: Tags = None
    metadata: Annotated[dict[str, Any] | None, Field(description="Further cell metadata.")] = None


@toolset.tool("Add a cell", ADDS_AND_RUNS, images=True)
async def add_cell(
    request: CellAddition,
    notebooks: Notebooks,
    runner: EditRuns,
    run: RunIt = False,
    if_revision: IfRevision = None,
) -> EditedNotebook | EditRun:
    """Insert one cell, save, and run it if asked. All other bytes of the file stay as they are."""
    cell = NewCell(request.cell_type, request.source, request.tags or (), request.metadata)
    addition = Add(cell, request.index, request.after_cell_id)
    added = await notebooks.add_cell(request.path, addition, if_revision=if_revision)
    return await runner.run(added, request.path) if run else added


class CellChange(Request):
    """A cell, and the parts of it to be changed."""

    path: NotebookPath
    cell_id: CellId = None
    index: CellIndex = None
    source: Annotated[str | None, Field(description="The whole new source; or give old_text and new_text.")] = None
    old_text: Annotated[str | None, Field(description="Part of the source, found exactly once.")] = None
    new_text: Annotated[str | None, Field(description="What replaces old_text.")] = None
    cell_type: CellType | None = None
    tags: Annotated[list[str] | None, Field(description="All tags from now on; [] for none.")] = None
    metadata: Annotated[dict[str, Any] | None, Field(description="Metadata keys to set; null removes one.")] = None


@toolset.tool("Update a cell", EDITS_AND_RUNS, images=True)
async def update_cell(
    request: CellChange,
    notebooks: Notebooks,
    runner: EditRuns,
    run: RunIt = False,
    if_revision: IfRevision = None,
) -> EditedNotebook | EditRun:
    """Change one cell, save, and run it if asked. A code cell whose source changes loses its outputs."""
    change = Update(
        CellRef(request.index, request.cell_id),
        request.source,
        request.old_text,
        request.new_text,
        request.cell_type,
        request.tags,
        request.metadata,
    )
    updated = await notebooks.update_cell(request.path, change, if_revision=if_revision)
    return await runner.run(updated, request.path) if run else updated


@toolset.tool("Remove a cell", EDITS)
async def remove_cell(
    path: NotebookPath,
    notebooks: Notebooks,
    cell_id: CellId = None,
    index: CellIndex = None,
    if_revision: IfRevision = None,
) -> RemovedCell:
    """Take one cell out and save. The reply shows it, so that it can be put back."""
    return await notebooks.remove_cell(path, CellRef(index, cell_id), if_revision=if_revision)


@toolset.tool("Edit a notebook", EDITS_AND_RUNS, images=True)
async def edit_notebook(
    path: NotebookPath,
    operations: Annotated[
        list[EditOperation],
        Field(
            max_length=1000,
            description="1 to 1000 steps {op, …} in order; indexes count after the steps before. Most take cell_id or "
            "index. add: source, cell_type (code), index | after_cell_id, cell_id (its new id). update: source, "
            "cell_type, tags, metadata. replace_text: old_text (found once, or all=true), new_text, word=true (whole "
            "words). move: to (index) | after_cell_id. set_metadata (null removes a key), clear_outputs, replace_text "
            "with all: without a cell, of the notebook. add_ids: where missing or doubled. convert: version 3 to 4.5. "
            "Alone: rename, copy: to (new path).",
        ),
    ],
    notebooks: Notebooks,
    runner: EditRuns,
    run: Annotated[bool, Field(description="Run the code cells that are new or changed. Default false.")] = False,
    if_revision: IfRevision = None,
) -> EditedNotebook | EditRun:
    """Make several changes, all or none, with one save, and run the cells if asked."""
    edited = await notebooks.edit(path, operations, if_revision=if_revision)
    return await runner.run(edited, path) if run else edited


# The paths of these tools are the same as elsewhere. Each word of a schema costs every client, so they say less.
_Notebook = Annotated[str, Field(description="Notebook.")]


@toolset.tool("Notebook history", READS)
async def notebook_history(
    path: _Notebook,
    histories: Histories,
    limit: Annotated[int, Field(description="Newest versions. Default 20.")] = 20,
) -> NotebookVersions:
    """List versions of a notebook, kept at each edit and run, also of a deleted one."""
    return await histories.versions(path, limit=limit)


@toolset.tool("Restore a notebook", EDITS)
async def restore_notebook(
    path: _Notebook,
    histories: Histories,
    version: Annotated[int | None, Field(description="Or give steps.")] = None,
    steps: Annotated[int | None, Field(description="Changes to undo. Default 1.")] = None,
    cells: Annotated[str | None, Field(description="Only these cells of it, ids or indexes.")] = None,
    if_revision: Annotated[str | None, Field(description="As in edit_notebook.")] = None,
) -> RestoredNotebook:
    """Put back a version of notebook_history, or cells of it, as one more edit."""
    return await histories.restore(path, version=version, steps=steps, cells=cells, if_revision=if_revision)


@toolset.tool("Compare notebooks", READS, images=True)
async def compare_notebooks(
    path: _Notebook,
    other: Annotated[
        str, Field(validation_alias="with", description='A newer notebook, or older: "git:REV", "version:N".')
    ],
    comparisons: Comparisons,
    what: Annotated[
        Literal["source", "outputs", "both"], Field(description='"source", "outputs", "both". Default "both".')
    ] = "both",
    start: Annotated[int, Field(description="next of a reply. Default 0.")] = 0,
) -> NotebookComparison:
    """Show the cells that differ: diffs, numbers, pictures."""
    return await comparisons.compare(path, other, part=what, start=start)


@toolset.tool("Read a notebook", READS, images=True)
async def read_notebook(
    path: NotebookPath,
    notebooks: Notebooks,
    cells: Annotated[
        str | None,
        Field(description='Cells to show: "0-9", "3,5,-1", "12-" or cell ids. Default: all.'),
    ] = None,
    outputs: Annotated[
        Literal["none", "summary", "full"],
        Field(description='"none", "summary" (200 characters each) or "full" (with images). Default "summary".'),
    ] = "summary",
    first_output: Annotated[
        int | None, Field(ge=0, description="Of one cell: outputs from this one on (0 is the first), in full.")
    ] = None,
    outline: Annotated[bool, Field(description="One line per cell, for an overview. Default false.")] = False,
    max_chars: Annotated[
        int | None,
        Field(
            ge=100,
            le=1_000_000,
            description="Characters shown, 100 to 1000000. Default: as the server is set ($max_output_chars).",
        ),
    ] = None,
) -> NotebookView:
    """Show a notebook: cells with id, index and source, and their outputs.

    A long one comes in pages: pass the next_cells of a reply as cells. Cell ids stay, indexes change with edits.
    """
    return await notebooks.read(
        path, cells=cells, outputs=outputs, outline=outline, max_chars=max_chars, first_output=first_output
    )


@toolset.tool("Notebook facts", READS)
async def get_notebook_info(path: NotebookPath, catalogue: Catalogue) -> NotebookInfo:
    """Headings, parameters, last papermill run and validation problems of a notebook, without its cells."""
    return await catalogue.info(path)


@toolset.tool("List notebooks", READS)
async def list_notebook_files(
    catalogue: Catalogue,
    directory: Directory = ".",
    recursive: Annotated[bool, Field(description="Look below the directory too. Default false.")] = False,
    pattern: Annotated[str, Field(max_length=200, description='Of the names. Default "*.ipynb".')] = "*.ipynb",
    limit: Annotated[int, Field(ge=1, le=1000, description="Rows, 1 to 1000. Default 100.")] = 100,
    cursor: Annotated[
        str | None, Field(max_length=5000, description="next_cursor of the reply before, for the next page.")
    ] = None,
) -> NotebookList:
    """List notebooks with kernel, cell count and, for broken ones, the problem."""
    return await catalogue.list(directory, recursive=recursive, pattern=pattern, limit=limit, cursor=cursor)


@toolset.tool("Search notebooks", READS)
async def search_notebooks(
    query: Annotated[str, Field(max_length=1000, description="Text, in any case; or a regular expression.")],
    catalogue: Catalogue,
    path: Annotated[str, Field(description='Directory, searched with all below; or a notebook. Default ".".')] = ".",
    regex: Annotated[bool, Field(description="Read query as a Python regular expression. Default false.")] = False,
    cell_types: Annotated[list[Literal["code", "markdown", "raw"]] | None, Field(description="Default: all.")] = None,
    where: Annotated[
        Literal["source", "outputs", "both"],
        Field(validation_alias="in", description='"source", "outputs" or "both". Default "source".'),
    ] = "source",
    limit: Annotated[int, Field(ge=1, le=500, description="Matches shown, 1 to 500. Default 50.")] = 50,
) -> SearchResult:
    """Find lines in the cells of notebooks, with the lines beside them. All matches are counted."""
    return await catalogue.search(query, path, regex=regex, cell_types=cell_types, where=where, limit=limit)
