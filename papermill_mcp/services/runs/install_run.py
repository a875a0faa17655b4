"""The installation of packages into an environment, as a run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.core.kernels.request import CellError, RunStatus
from papermill_mcp.core.runs.run import BaseRun
from papermill_mcp.core.runs.snapshot import Cursor, InstallSnapshot, PackageState
from papermill_mcp.errors import EnvironmentFailedError, ServerError
from papermill_mcp.services.runs.claims import Claims
from papermill_mcp.services.runs.requests import InstallRequest
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    from papermill_mcp.core.environments import installing, requirements
    from papermill_mcp.core.environments.declared import Declaration
    from papermill_mcp.core.environments.installing import Installation
    from papermill_mcp.core.environments.making import EnvironmentMaker
    from papermill_mcp.core.environments.reading import Environment
    from papermill_mcp.services.kernel_service import KernelService
    from papermill_mcp.services.notebook_service import NotebookService
else:
    installing = lazy("papermill_mcp.core.environments.installing")
    requirements = lazy("papermill_mcp.core.environments.requirements")

_INTERRUPTED = (
    "the installer was ended early, so the environment may have a part of the packages; the same call completes it"
)


@dataclass(frozen=True)
class Recording:
    """Has packages written into the declaration of a notebook, when they are there.

    Attributes:
        path: the notebook.
        declaration: that of the notebook afterwards, where its environment is made of that. No installer is run.
        earlier: the environment that was made of its declaration so far.
        used: runs of the notebook use that environment by themselves.
    """

    notebooks: NotebookService
    path: str
    declaration: Declaration | None = None
    earlier: Environment | None = None
    used: bool = False


class InstallRun(BaseRun):
    """One run of an installer. It holds a claim on its environment from `prepare` to its end.

    Args:
        packages: checked requirements.
        file: the notebook whose environment it is.
        recording: where the packages are written down afterwards.
    """

    def __init__(
        self,
        request: InstallRequest,
        environment: Environment,
        packages: Sequence[str],
        *,
        kernels: KernelService,
        claims: Claims,
        file: Path | None = None,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(request.execution_id)
        self._operation = request.operation
        self._kernel_id = request.kernel_id
        self._upgrade = request.upgrade
        self._environment = environment
        self._packages = list(packages)
        self._kernels = kernels
        self._claims = claims
        self._file = file
        self._recording = recording
        self._maker: EnvironmentMaker | None = None
        self._installation: Installation | None = None
        self._rows: list[PackageState] = []
        self._must_restart: bool | None = None
        self._error: CellError | None = None

    async def prepare(self) -> None:
        """Claim the environment, and find an installer.

        Raises:
            BusyError: another execution installs there.
            EnvironmentFailedError: there is no installer.
        """
        await self._claims.take([self._environment.place], self.execution_id, doing="changed")
        try:
            if self._declaration is not None:
                self._maker = await self._kernels.maker()
            else:
                self._installation = await self._kernels.installation(
                    self._environment, self._packages, upgrade=self._upgrade
                )
        except BaseException:
            self._claims.release(self.execution_id)
            raise

    @property
    def _declaration(self) -> Declaration | None:
        """The declaration of which an environment is made, where it is."""
        return None if self._recording is None else self._recording.declaration

    async def _work(self) -> RunStatus:
        self._begin()
        earlier = self._recording.earlier if self._recording is not None and self._declaration else self._environment
        before = {} if earlier is None else await asyncio.to_thread(earlier.packages)
        if self.cancelled:
            return RunStatus.INTERRUPTED
        try:
            code = await (self._make() if self._declaration is not None else self._install())
        except EnvironmentFailedError as error:
            if self.cancelled:
                return RunStatus.INTERRUPTED
            self._error = CellError(error.code, str(error).removeprefix(f"{error.code}: "), [])
            return RunStatus.ERROR
        await self._kernels.renew_spares(self._environment)
        after = await asyncio.to_thread(self._environment.packages)
        if self._environment.site_packages():
            self._rows = rows_of(self._packages, before, after)
        self._note_kernels(earlier)
        if self.cancelled:
            self.notes.append(_INTERRUPTED)
            return RunStatus.INTERRUPTED
        if code == 0:
            if not self._rows:
                self.notes.append("the versions of this Python cannot be read from its files")
            return await self._record()
        assert self._installation is not None
        output = self._installation.last_lines()
        self._error = CellError(EnvironmentFailedError.code, output or f"the installer ended with code {code}", [])
        advice = installing.externally_managed_advice(self._environment, output)
        if advice is not None:
            self.notes.append(advice)
        return RunStatus.ERROR

    async def _install(self) -> int:
        assert self._installation is not None
        return await self._installation.run()

    async def _make(self) -> int:
        assert self._maker is not None and self._declaration is not None
        self._environment = await self._maker.environment(self._declaration, to_its_end=True)
        return 0

    async def _record(self) -> RunStatus:
        """Write the packages into the declaration. A failure does not undo the installation."""
        if self._recording is None:
            return RunStatus.OK
        version = self._environment.version
        minimum = f">={'.'.join(version.split('.')[:2])}" if version is not None else None
        try:
            where = await self._recording.notebooks.record_packages(self._recording.path, self._packages, minimum)
        except ServerError as error:
            text = str(error).removeprefix(f"{error.code}: ")
            self._error = CellError(error.code, f"the packages are installed, but not recorded: {text}", [])
            return RunStatus.ERROR
        self.notes.append(f"recorded in the notebook, {where}")
        if self._declaration is not None and not self._recording.used:
            self.notes.append('python="notebook" runs the notebook in this environment')
        return RunStatus.OK

    def _note_kernels(self, earlier: Environment | None) -> None:
        if self._declaration is not None:
            old = self._kernels.kernels_in(earlier) if earlier not in (None, self._environment) else []
            self._must_restart = bool(old)
            if old:
                self.notes.append(
                    f"a live kernel ({', '.join(old[:5])}) has the earlier environment, also after restart_kernel; "
                    "execute_notebook with fresh=true starts one in the new environment"
                    + ("" if self._recording is not None and self._recording.used else ', with python="notebook"')
                )
            return
        using = self._kernels.kernels_in(self._environment)
        self._must_restart = bool(using) and any(row.before not in (None, row.after) for row in self._rows)
        if self._must_restart:
            self.notes.append(
                f"a version changed under a live kernel ({', '.join(using[:5])}): what it has imported stays the old "
                "one until restart_kernel"
            )

    def _release(self) -> None:
        self._claims.release(self.execution_id)

    async def cancel(self) -> None:
        """End the installer."""
        if not self.finished:
            self.cancelled = True
            if self._installation is not None:
                await self._installation.interrupt()
            if self._maker is not None and self._declaration is not None:
                await self._maker.give_up(self._declaration)

    def snapshot(self, since: Cursor) -> InstallSnapshot:
        """The state of the installation. Nothing of it grows but the last line."""
        lines = self._installation.lines if self._installation is not None else 0
        return InstallSnapshot(
            execution_id=self.execution_id,
            operation=self._operation,
            status=self._status,
            started_at=self.started_at,
            seconds=self.seconds,
            notes=tuple(self.notes),
            kernel_id=self._kernel_id,
            python=str(self._environment.python),
            file=self._file,
            progress="" if self.finished else self._progress(),
            environment=self._environment.label,
            packages=tuple(self._rows),
            must_restart=self._must_restart,
            error=self._error,
            lines=lines,
        )

    def _progress(self) -> str:
        line = self._installation.last_lines(1)[-200:] if self._installation is not None else ""
        if self._maker is not None and self._declaration is not None:
            line = self._maker.progress(self._declaration)
        return f"installing · {self.seconds:.0f} s" + (f" · {line}" if line else "")


def rows_of(packages: Sequence[str], before: Mapping[str, str], after: Mapping[str, str]) -> list[PackageState]:
    """The packages that were asked for, then the others that changed, with their versions before and after."""
    old, new = ({requirements.normal_name(name): version for name, version in one.items()} for one in (before, after))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    names = dict.fromkeys([*map(requirements.name_of, packages), *changed])
    return [PackageState(name, old.get(name), new.get(name)) for name in names]
