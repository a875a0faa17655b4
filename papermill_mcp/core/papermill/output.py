"""Papermill's part of a run: parameters, and an output notebook that is as papermill writes it.

Papermill contributes its own functions for injection, metadata and error markers. It neither opens files nor runs code
here: notebooks go in and out as nodes, the cells run on our kernel engine. So there is no change of the working
directory, no path that is taken for a URL, and no save of the whole notebook at every cell.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import nbformat
from papermill.engines import NotebookExecutionManager
from papermill.execute import (
    ERROR_ANCHOR_MSG,
    ERROR_MESSAGE_TEMPLATE,
    prepare_notebook_metadata,
    remove_error_markers,
)
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.utils import find_first_tagged_cell_index

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.environments.reading import Environment
from papermill_mcp.core.papermill.code.languages import writer_for
from papermill_mcp.core.papermill.metadata import PENDING, marker_cell
from papermill_mcp.core.papermill.parameters import Parameter, inspect_parameters
from papermill_mcp.core.runs.notebook_run import RunCell, WidgetRecorder
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.errors import InvalidNotebookError, Remedy

_node: Any = nbformat.from_dict  # untyped upstream

#: The tag of the cell with the parameters of a run (`papermill.parameterize`).
INJECTED_TAG = "injected-parameters"


@dataclass(frozen=True)
class PapermillTask:
    """One run with parameters, as it can also be sent to another process.

    Args:
        kernelspec: the kernel as notebooks name it: `name`, `display_name` and `language`.
        environment: the Python in place of an installed kernelspec.
        python: the Python and whose choice it is, for a person.
        packages_in: the environment whose packages the output records.
        language: of the parameters.
        input_path: absolute, as papermill's metadata has it. Its directory is the kernel's working directory.
        output_path: absolute, for papermill's metadata.
        display_path: the name of the notebook in messages.
        timeout_seconds: the longest time of a cell, None for no limit.
        memory_limit: bytes of the kernel with its processes, None for no limit.
        digest: of all that the output is made of; the output records it.
    """

    parameters: dict[str, Any]
    kernelspec: dict[str, str]
    language: str
    input_path: str
    output_path: str
    display_path: str
    timeout_seconds: float | None
    continue_on_error: bool
    report_mode: bool
    environment: Environment | None = None
    python: str | None = None
    packages_in: Environment | None = None
    memory_limit: int | None = None
    digest: str | None = None

    @property
    def kernel_name(self) -> str:
        """The name of the kernelspec."""
        return self.kernelspec["name"]

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the kernel for the code of the notebook, as `papermill --inject-paths` names them."""
        return {"PAPERMILL_INPUT_PATH": self.input_path, "PAPERMILL_OUTPUT_PATH": self.output_path}


@dataclass
class PreparedRun:
    """A notebook ready to run: parameters injected, earlier results gone."""

    node: Any
    manager: NotebookExecutionManager
    document: NotebookDocument
    parameters: dict[str, Any]


def prepare(document: NotebookDocument, task: PapermillTask) -> PreparedRun:
    """Make the output notebook of a run, as `papermill.execute_notebook` has it before the first cell.

    Raises:
        InvalidNotebookError: nbformat cannot read or upgrade the notebook.
        InvalidParametersError: the language has no such names, no such values, or no translator.
    """
    values, kernel_name, language = task.parameters, task.kernel_name, task.language
    node = _as_node(document, task.display_path)
    # The output is resumed in the kernel that ran, not in that of the input.
    if document.kernel_name != kernel_name or task.environment is not None:
        node.metadata["kernelspec"] = _node(task.kernelspec)
    if values:
        node = _with_parameters(node, dict(values), writer_for(kernel_name, language).code(values), task.report_mode)
    node = prepare_notebook_metadata(node, task.input_path, task.output_path, task.report_mode)
    if task.packages_in is not None:
        node.metadata.papermill["environment"] = _node(task.packages_in.record())
    if task.digest is not None:
        node.metadata.papermill["digest"] = task.digest
    node = remove_error_markers(node)
    manager = NotebookExecutionManager(node, progress_bar=False, autosave_cell_every=0)
    manager.notebook_start()
    known, _ = inspect_parameters(document, kernel_name, language)
    injected = _literal_defaults(known) | dict(values)
    return PreparedRun(node, manager, NotebookDocument.from_node(node), injected)


def _with_parameters(node: Any, values: dict[str, Any], code: str, report_mode: bool) -> Any:
    """The notebook with a cell that sets the parameters, put where papermill puts it.

    Papermill makes the cell, without parameters, as its translators are not used: see `code.languages`.
    """
    node = parameterize_notebook(node, {}, report_mode, kernel_name="python", language="python")
    node.cells[find_first_tagged_cell_index(node, INJECTED_TAG)].source = code
    node.metadata.papermill["parameters"] = values
    return node


def _literal_defaults(parameters: list[Parameter]) -> dict[str, Any]:
    """The defaults that are plain values. Only the kernel knows the value of an expression such as `5 * 2`."""
    defaults = {}
    for parameter in parameters:
        try:
            value = ast.literal_eval(parameter.default)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, str | int | float | bool | list | dict | None):
            defaults[parameter.name] = value
    return defaults


def _as_node(document: NotebookDocument, display_path: str) -> Any:
    """The notebook as papermill's loader gives it: upgraded to the newest 4.x, with the metadata papermill needs.

    Outputs are left behind, since a run begins without them, and large ones take long to convert.
    """
    cells = []
    for cell in document.cells:
        data = dict(cell.data)
        if cell.cell_type == "code":
            data |= {"outputs": [], "execution_count": None}
        cells.append(data)
    whole = {
        "cells": cells,
        "metadata": document.metadata,
        "nbformat": document.nbformat,
        "nbformat_minor": document.nbformat_minor,
    }
    try:
        node = _node(whole)
        for cell in node.cells:
            if isinstance(cell.get("source"), list):
                cell["source"] = "".join(cell["source"])
            cell.setdefault("metadata", _node({}))
        return load_notebook_node(node)
    except Exception as error:
        raise InvalidNotebookError(
            f"{display_path} cannot be run, since nbformat does not accept it: {type(error).__name__}: {error}",
            state="nothing was run",
            advice=Remedy.CHECK_NOTEBOOK,
        ) from error


class PapermillObserver:
    """Keeps papermill's metadata up to date and records every change in the output file."""

    def __init__(self, prepared: PreparedRun, file: RunFile) -> None:
        self._node = prepared.node
        self._file = file
        self._manager = prepared.manager
        self._widgets = WidgetRecorder(file)
        self._passed = 0  # papermill's manager knows the cells up to here

    def cell_started(self, cell: RunCell) -> None:
        """Cells before it that do not run are complete, as papermill counts them."""
        self._pass_over(cell.index)
        self._manager.cell_start(self._node.cells[cell.index], cell.index)
        if cell.execution is not None:
            self._widgets.record(cell.execution)
        self._record(cell.index, results=True)

    def cell_progressed(self, cell: RunCell) -> None:
        """Keep the outputs of a long cell so far."""
        self._take(cell)
        self._record(cell.index, results=True)

    def cell_finished(self, cell: RunCell) -> None:
        """Keep all outputs, and papermill's status of the end."""
        self._take(cell)
        node = self._node.cells[cell.index]
        if cell.stops:
            self._manager.cell_exception(node, cell.index)
        self._manager.cell_complete(node, cell.index)
        self._passed = cell.index + 1
        self._record(cell.index, results=True, final=True)
        self._record_notebook()

    def finish(self, language_info: dict[str, Any] | None, *, complete: bool) -> None:
        """Close papermill's metadata of the cells and of the notebook.

        Args:
            complete: every cell was run.
        """
        if complete:
            self._pass_over(len(self._node.cells))
        if language_info:
            self._node.metadata["language_info"] = _node(language_info)
        statuses = [cell.metadata.papermill["status"] for cell in self._node.cells]
        self._manager.notebook_complete()
        if not complete:
            # papermill calls cells that never ran completed, unless one failed before them.
            for cell, status in zip(self._node.cells, statuses, strict=True):
                cell.metadata.papermill["status"] = status
        for index in range(len(self._node.cells)):
            self._record(index)
        self._record_notebook()
        del self._node, self._manager  # they have all outputs, and the run is remembered for long

    def mark_error(self, failed: RunCell, document: NotebookDocument) -> None:
        """Put papermill's error markers into the output: at its top, and before the failed cell if it is still there.

        The document may be a version that another program wrote, so nothing but the two cells is changed.
        """
        count = failed.execution.execution_count if failed.execution else None
        place = self._file.locate(failed.index)
        if place is not None:
            document.insert(place, marker_cell(ERROR_ANCHOR_MSG))
        document.insert(0, marker_cell(ERROR_MESSAGE_TEMPLATE % count))

    def _pass_over(self, index: int) -> None:
        for number in range(self._passed, index):
            cell = self._node.cells[number]
            if cell.metadata.papermill["status"] == PENDING:
                self._manager.cell_start(cell, number)
                self._manager.cell_complete(cell, number)
                self._record(number)
        self._passed = max(self._passed, index)

    def _take(self, cell: RunCell) -> None:
        node = self._node.cells[cell.index]
        if cell.execution is None:
            return
        node.outputs = cell.outputs  # plain values: papermill's manager does not read them
        node.execution_count = cell.execution.execution_count
        node.metadata["execution"] = _node(dict(cell.execution.timing))
        self._widgets.record(cell.execution)

    def _record(self, index: int, *, results: bool = False, final: bool = False) -> None:
        cell = self._node.cells[index]
        # The metadata goes on changing while a save reads it in another thread, so it gets a copy.
        metadata = {key: dict(cell.metadata[key]) for key in ("papermill", "execution") if key in cell.metadata}
        members: dict[str, Any] = {"metadata": metadata}
        if results:  # cells that did not run keep the results that others put there
            members |= {"outputs": cell.outputs, "execution_count": cell.execution_count}
        self._file.record(index, members, final=final)

    def _record_notebook(self) -> None:
        metadata = {key: value for key, value in self._node.metadata.items() if key in ("papermill", "language_info")}
        metadata["papermill"] = dict(metadata["papermill"])
        self._file.record_metadata(metadata)
