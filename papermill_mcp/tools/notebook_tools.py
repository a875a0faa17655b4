"""Tools that read and edit notebook files. None of them runs code."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from papermill_mcp.services.notebook_service import AddedCell, CreatedNotebook, NewCell, NotebookView
from papermill_mcp.tools.toolset import ADDS, EDITS, READS, IfRevision, Kernels, NotebookPath, Notebooks, Tags, Toolset

toolset = Toolset("notebook")

CellType = Annotated[Literal["code", "markdown", "raw"], Field(description='"code", "markdown" or "raw".')]


class CellToMake(TypedDict):
    """A cell of a new notebook."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    cell_type: CellType
    source: str
    tags: NotRequired[list[str]]


@toolset.tool("Create a notebook", EDITS)
async def create_notebook(
    path: NotebookPath,
    notebooks: Notebooks,
    kernels: Kernels,
    kernel: Annotated[str, Field(description='Kernel name, as list_kernels shows it. Default "python3".')] = "python3",
    cells: Annotated[
        list[CellToMake] | None,
        Field(description="Cells in order: {cell_type, source, tags?}. Default: none."),
    ] = None,
    overwrite: Annotated[bool, Field(description="Replace a notebook that is there. Default false.")] = False,
) -> CreatedNotebook:
    """Make a notebook, with cells if given. Does not run it.

    Tag the cell that sets the defaults with "parameters" to run the notebook with other values later.
    """
    spec = await kernels.installed(kernel)
    made = [NewCell(cell["cell_type"], cell["source"], cell.get("tags", ())) for cell in cells or []]
    return await notebooks.create(
        path,
        kernel_name=spec.name,
        language=spec.language,
        display_name=spec.display_name,
        cells=made,
        overwrite=overwrite,
    )


@toolset.tool("Add a cell", ADDS)
async def add_cell(
    path: NotebookPath,
    cell_type: CellType,
    source: Annotated[str, Field(description="The text of the cell.")],
    notebooks: Notebooks,
    index: Annotated[
        int | None,
        Field(description="Where the cell will stand, 0-based; negative counts from the end. Default: last."),
    ] = None,
    after_cell_id: Annotated[
        str | None, Field(description="Put it behind the cell with this id, instead of index.")
    ] = None,
    tags: Tags = None,
    metadata: Annotated[dict[str, Any] | None, Field(description="Further cell metadata.")] = None,
    if_revision: IfRevision = None,
) -> AddedCell:
    """Insert one cell and save. Does not run it. All other bytes of the file stay as they are."""
    return await notebooks.add_cell(
        path,
        NewCell(cell_type, source, tags or (), metadata),
        index=index,
        after_cell_id=after_cell_id,
        if_revision=if_revision,
    )


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
        Field(description='"none", "summary" (a line each) or "full" (with images). Default "summary".'),
    ] = "summary",
    max_chars: Annotated[
        int | None,
        Field(
            ge=100, le=1_000_000, description="Characters shown, 100 to 1000000. Default: as the server is set (10000)."
        ),
    ] = None,
) -> NotebookView:
    """Show a notebook: cells with id, index and source, and their outputs.

    A long one comes in pages: pass the next_cells of a reply as cells. Cell ids stay, indexes change with edits.
    """
    return await notebooks.read(path, cells=cells, outputs=outputs, max_chars=max_chars)
