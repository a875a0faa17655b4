"""Requests to run something: one frozen object from the tool to the run, and the identity of a repeated request.

The fields are the arguments of the tools, with their descriptions. A `$name` in a description is the setting of that
name; the tools put its value in.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from papermill_mcp.core.runs.run import new_execution_id
from papermill_mcp.core.runs.snapshot import (
    BatchSnapshot,
    CellSnapshot,
    InstallSnapshot,
    NotebookSnapshot,
    PapermillSnapshot,
    VerifySnapshot,
)
from papermill_mcp.services.results import Request
from papermill_mcp.services.workspace import Workspace

NotebookPath = Annotated[str, Field(description="Notebook (.ipynb), relative to the workspace or absolute.")]
KernelId = Annotated[str | None, Field(description="A kernel_id from start_kernel or list_kernels; or give path.")]
KernelPath = Annotated[str | None, Field(description="The notebook whose kernel is meant, instead of kernel_id.")]
OwnKernel = Annotated[
    str | None, Field(description="Kernel to run in. Default: the notebook's own, started if needed.")
]
Timeout = Annotated[
    float | None,
    Field(
        ge=0,
        le=604_800,
        allow_inf_nan=False,
        description="Seconds per cell, 0 to 604800; 0 = no limit. Default: as set ($execution_timeout).",
    ),
]
PythonName = Annotated[
    str | None,
    Field(
        description="Interpreter, virtual or conda environment (a path or a conda name), or project that has one; "
        "\"notebook\": what the notebook declares (PEP 723). Default: the notebook's kernel, else the project's."
    ),
]
SamePython = Annotated[str | None, Field(description="As for execute_notebook.")]
ContinueOnError = Annotated[
    bool | None, Field(description="Go on after an error. Default: as set ($continue_on_error).")
]
KernelName = Annotated[str | None, Field(description="Installed kernel, instead of python. Default: the notebook's.")]
ParameterLanguage = Annotated[str | None, Field(description="Language of the parameters. Default: the notebook's.")]
ReportMode = Annotated[bool, Field(description="Hide the code in the output. Default false.")]
StrictParameters = Annotated[bool, Field(description="Refuse unknown names and other types. Default true.")]


#: The ways in which an attempt of a run in a batch fails, and those that are worth another attempt by default.
AttemptEnd = Literal["died", "timeout", "lost_worker", "error"]
RETRY_ON: tuple[AttemptEnd, ...] = ("died", "timeout", "lost_worker")


#: The arguments that may be URLs in an object store.
_OUTPUTS = frozenset(("output_path", "output_directory"))


class RunRequest(Request):
    """A request of a client to run something, without the time it waits for the answer.

    It has the id of its run, so a record can name the run before the run is made.
    """

    #: The tool of the request; the log and the metrics call the run so.
    operation: ClassVar[str]

    #: The kind of its run, as in snapshots.
    kind: ClassVar[str]

    #: The arguments that are paths, or lists of paths. The first that is given is the notebook.
    paths: ClassVar[tuple[str, ...]] = ()

    _execution_id: str = PrivateAttr(default_factory=new_execution_id)

    @property
    def execution_id(self) -> str:
        """The id of the run."""
        return self._execution_id

    def real_paths(self, workspace: Workspace) -> dict[str, str | list[str]]:
        """The real paths of the arguments that are given, by name. Relative, absolute or through a link: the same path.

        An output in an object store has its URL.

        Raises:
            PathNotAllowedError: one leaves the roots.
        """
        given = {name: value for name in self.paths if (value := getattr(self, name))}
        return {name: _real(workspace, name, value) for name, value in given.items()}

    def identity(self, workspace: Workspace) -> str:
        """A digest of the roots, the tool and every argument. Two requests with one identity ask for the same thing.

        Raises:
            PathNotAllowedError: a path leaves the roots.
        """
        arguments = self.model_dump(mode="json") | self.real_paths(workspace)
        facts = json.dumps([workspace.name, self.operation, arguments], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _real(workspace: Workspace, name: str, value: str | list[str]) -> str | list[str]:
    if not isinstance(value, str):
        return [str(workspace.real_path(path)) for path in value]
    url = workspace.remote(value, directory=name == "output_directory") if name in _OUTPUTS else None
    return url or str(workspace.real_path(value))


class CodeRequest(RunRequest):
    """Run code in a kernel."""

    operation: ClassVar[str] = "execute_cell"
    kind: ClassVar[str] = CellSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("path",)

    code: Annotated[str, Field(description="Code in the kernel's language.")]
    kernel_id: KernelId = None
    path: Annotated[
        str | None, Field(description="The notebook whose kernel is meant, instead of kernel_id. Started if needed.")
    ] = None
    python: Annotated[str | None, Field(description="With path: as for execute_notebook.")] = None
    timeout: Timeout = None
    store_history: Annotated[
        bool, Field(description="Count it as In [n] and keep it in the kernel's history. Default true.")
    ] = True


class NotebookRequest(RunRequest):
    """Run cells of a notebook in place."""

    operation: ClassVar[str] = "execute_notebook"
    kind: ClassVar[str] = NotebookSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("path",)

    path: NotebookPath
    kernel_id: OwnKernel = None
    python: PythonName = None
    cells: Annotated[
        str | None, Field(description='Cells to run: "0-9", "3,5,-1", "12-", cell ids or "stale". Default: all.')
    ] = None
    fresh: Annotated[bool, Field(description="Restart the kernel first. Default false.")] = False
    timeout: Timeout = None
    continue_on_error: ContinueOnError = None
    save: Annotated[bool, Field(description="Save outputs into the notebook as the run goes on. Default true.")] = True


class NotebookCellRequest(RunRequest):
    """Run one cell of a notebook in place."""

    operation: ClassVar[str] = "execute_notebook_cell"
    kind: ClassVar[str] = NotebookSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("path",)

    path: NotebookPath
    index: Annotated[int | None, Field(description="0-based; negative counts from the end.")] = None
    cell_id: Annotated[str | None, Field(description="The cell's id, instead of index.")] = None
    kernel_id: OwnKernel = None
    python: SamePython = None
    timeout: Timeout = None


class PapermillRequest(RunRequest):
    """Run a notebook with parameters into an output."""

    operation: ClassVar[str] = "execute_notebook_papermill"
    kind: ClassVar[str] = PapermillSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("input_path", "output_path")

    input_path: NotebookPath
    output_path: Annotated[
        str | None, Field(description="Output notebook (.ipynb). Default: <output_directory>/<name>-<time>.ipynb.")
    ] = None
    parameters: Annotated[
        dict[str, Any] | None, Field(description="Values for the notebook's parameters, by name.")
    ] = None
    kernel_name: KernelName = None
    python: SamePython = None
    language: ParameterLanguage = None
    timeout: Timeout = None
    continue_on_error: ContinueOnError = None
    strict_parameters: StrictParameters = True
    keep_kernel: Annotated[
        bool, Field(description="After a failure leave the kernel alive, to look at variables. Default false.")
    ] = False
    report_mode: ReportMode = False
    overwrite: Annotated[bool, Field(description="Replace an output that is there. Default false.")] = False


class BatchRequest(RunRequest):
    """Run notebooks with many sets of parameters."""

    operation: ClassVar[str] = "execute_notebook_batch"
    kind: ClassVar[str] = BatchSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("input_path", "input_paths", "output_directory")

    input_path: Annotated[str | None, Field(description="The notebook to run.")] = None
    input_paths: Annotated[list[str] | None, Field(description="Several notebooks instead.")] = None
    parameters: Annotated[
        list[dict[str, Any]] | str | None,
        Field(description="Parameters of each run, or a file: .csv with header, .json, .yaml."),
    ] = None
    grid: Annotated[
        dict[str, list[Annotated[Any, Field(description="Any JSON value.")]]] | None,
        Field(description="Instead: values by name; every combination is a run."),
    ] = None
    sample: Annotated[int | None, Field(ge=1, description="Random sample of so many, from 1. Default: all.")] = None
    seed: Annotated[int | None, Field(ge=0, description="Of the sample, from 0. Default: by the request.")] = None
    kernel_name: KernelName = None
    python: SamePython = None
    language: ParameterLanguage = None
    output_directory: Annotated[str | None, Field(description="Default: <output_directory>/<name>-batch.")] = None
    max_parallel: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="Runs at once, 1 to 1000. Default: as the machine bears, at most $max_kernels; all on "
            "a cluster.",
        ),
    ] = None
    memory_limit: Annotated[int | None, Field(ge=1, description="Bytes a kernel may have, from 1. Default: any.")] = (
        None
    )
    resources: Annotated[dict[str, float] | None, Field(description='Dask resources, as {"GPU": 1}.')] = None
    timeout: Timeout = None
    continue_on_error: ContinueOnError = None
    strict_parameters: StrictParameters = True
    report_mode: ReportMode = False
    retries: Annotated[int, Field(ge=0, le=10, description="Attempts after a failure, 0 to 10. Default 0.")] = 0
    retry_on: Annotated[list[AttemptEnd] | None, Field(description="Default: all but error.")] = None
    stop_after_failures: Annotated[
        int | None, Field(ge=1, description="Stop after so many failed runs, from 1. Default: never.")
    ] = None
    dry_run: Annotated[bool, Field(description="Only plan and estimate. Default false.")] = False
    resume: Annotated[bool, Field(description="Keep complete outputs. Default true.")] = True


class InstallRequest(RunRequest):
    """Install packages into the environment of a kernel or a notebook."""

    operation: ClassVar[str] = "install_packages"
    kind: ClassVar[str] = InstallSnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("path",)

    packages: Annotated[
        list[str],
        Field(
            description='What to install, 1 to 100 names with versions, such as "pandas>=2"; no addresses, no options.'
        ),
    ]
    kernel_id: Annotated[str | None, Field(description="Into the environment of this kernel.")] = None
    path: Annotated[str | None, Field(description="Or of this notebook (.ipynb).")] = None
    python: Annotated[
        str | None, Field(description="Or of this interpreter, environment (a path or a conda name) or project.")
    ] = None
    upgrade: Annotated[bool, Field(description="Take the newest versions. Default false.")] = False
    record: Annotated[
        bool,
        Field(
            description="With path: add them to the packages that the notebook declares (PEP 723), too. Default false."
        ),
    ] = False


class VerifyRequest(RunRequest):
    """Run a notebook in a fresh kernel and compare its outputs."""

    operation: ClassVar[str] = "verify_notebook"
    kind: ClassVar[str] = VerifySnapshot.kind
    paths: ClassVar[tuple[str, ...]] = ("path",)

    path: Annotated[str, Field(description="Notebook (.ipynb), or a directory of them.")]
    against: Annotated[str, Field(description='"saved" (default), a notebook, "git:HEAD" or "version:3".')] = "saved"
    parameters: Annotated[dict[str, Any] | None, Field(description="As for execute_notebook_papermill.")] = None
    python: SamePython = None
    kernel_name: KernelName = None
    compare: Annotated[
        Literal["strict", "numeric", "run"],
        Field(description='"strict" (default), "numeric": within rtol, or "run": only whether it runs.'),
    ] = "strict"
    rtol: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="Relative tolerance, 0 to 1. Default 1e-05.")
    ] = 1e-5
    ignore: Annotated[
        list[str] | None, Field(max_length=50, description="Up to 50 regular expressions of text that does not count.")
    ] = None
    repeat: Annotated[int, Field(ge=1, le=5, description="Fresh runs, 1 to 5. Default 1.")] = 1
    update: Annotated[bool, Field(description="Write the fresh outputs of cells that differ. Default false.")] = False
    if_revision: Annotated[str | None, Field(description="As for edit_notebook, with update.")] = None
    timeout: Timeout = None
