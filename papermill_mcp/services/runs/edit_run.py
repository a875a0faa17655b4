"""An edit of a notebook and the run of its cells, as one reply. The save comes first, and stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

from papermill_mcp.errors import ServerError
from papermill_mcp.services.notebook_service import EditedNotebook
from papermill_mcp.services.pictures import ShownImage
from papermill_mcp.services.results import Progress
from papermill_mcp.services.runs.registry import RunRegistry
from papermill_mcp.services.runs.requests import NotebookCellRequest, NotebookRequest, RunRequest
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.runs.view import RunView

#: The fields of an edit, and of its cell, that a reply about its run repeats.
_OF_EDIT = ("path", "revision", "changed", "notes")
_OF_CELL = ("index", "id")


class EditRun(BaseModel):
    """An edit, and the run that followed, or the reason why none did."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    edit: EditedNotebook
    run: RunView | None = None
    refusal: ServerError | None = None

    @property
    def status(self) -> str:
        """That of the run."""
        return "failed" if self.run is None else self.run.status

    @property
    def revision(self) -> str:
        """That of the last save."""
        return getattr(self.run, "revision", None) or self.edit.revision

    @property
    def _images(self) -> list[ShownImage]:
        return [] if self.run is None else self.run._images

    @model_serializer
    def _data(self) -> dict[str, Any]:
        if self.run is not None:
            execution = self.run.model_dump(mode="json", exclude_none=True)
        else:
            assert self.refusal is not None
            execution = {"error": {"code": self.refusal.code, "message": str(self.refusal)}}
        edit = self.edit.model_dump(mode="json", exclude_none=True)
        cell = {"cell": {name: edit["cell"].get(name) for name in _OF_CELL}} if "cell" in edit else {}
        return {
            **{name: edit[name] for name in _OF_EDIT if name in edit},
            **cell,
            "revision": self.revision,
            "execution": execution,
        }


@dataclass(frozen=True)
class EditRunner:
    """Runs the cells of edits."""

    runs: RunStarter
    executions: RunRegistry
    progress: Progress

    async def run(self, edit: EditedNotebook, path: str) -> EditedNotebook | EditRun:
        """Run the code cells of an edit, in order. The first one that fails ends the run.

        Args:
            path: of the notebook, as the caller gave it.
        """
        cells = edit.code_cells
        if not cells:
            edit.notes = [*(edit.notes or []), "nothing was run: the edit has no code cell"]
            return edit
        named = [cell_id if cell_id is not None else str(index) for index, cell_id in cells]
        request: RunRequest
        if len(cells) == 1:
            index, cell_id = cells[0]
            one = NotebookCellRequest(path=path, index=index if cell_id is None else None, cell_id=cell_id)
            request, begin = one, lambda: self.runs.notebook_cell(one)
        else:
            several = NotebookRequest(path=path, cells=",".join(named))
            request, begin = several, lambda: self.runs.notebook(several)
        try:
            return EditRun(edit=edit, run=await self.executions.follow(request, begin, progress=self.progress))
        except ServerError as error:
            return EditRun(edit=edit, refusal=error)
