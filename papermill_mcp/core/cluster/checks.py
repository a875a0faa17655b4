"""The check of workers before runs: has each of them this package, and the kernel or interpreter of the runs?

A worker may have another Python, another version of this package, or none. So the question travels as text, and as
functions of the standard library. Workers that do not answer in time count as fit.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from papermill_mcp import __version__
from papermill_mcp.core.cluster.worker import ClusterTask, Lack
from papermill_mcp.errors import KernelSpecNotFoundError, KernelStartFailedError, ServerError, listed
from papermill_mcp.utils.background import in_time

#: Needs of the environment of each worker.
REQUIREMENT = f"jupyter-papermill-mcp-server {__version__}"

#: Seconds for the scheduler to name its workers, and for a worker to import this package and to look around.
_LIST_SECONDS = 5.0
_ANSWER_SECONDS = 20.0

_ADVICE = {
    "package": f"install {REQUIREMENT} in the environment of all workers and start them again",
    "python": "make the environment there at the same path, or name by python one that the workers have",
    "kernelspec": "install the kernel there, or name a kernel that the workers have",
}

#: Run by each worker, in a thread. Its version of Python may be another one.
_QUESTION = """\
import platform

def answer(payload):
    version = None
    try:
        from papermill_mcp import __version__ as version
        from papermill_mcp.core.cluster.worker import lacks
        found = [lack and (lack.kind, lack.reason) for lack in lacks(payload)]
        return {"lacks": found}
    except Exception as error:
        python = "Python %s" % platform.python_version()
        missing = isinstance(error, ModuleNotFoundError) and error.name or ""
        if missing == "papermill_mcp" or missing and not missing.startswith(("papermill_mcp.", "pathlib.")):
            return {"problem": "%s has no module %r" % (python, missing.partition(".")[0])}
        return {"problem": "%s with version %s of this package cannot read the runs: %s: %s"
            % (python, version, type(error).__name__, error)}
"""
_CALL = "(exec(question, space), space['answer'](payload))[1]"


@dataclass(frozen=True)
class _Need:
    """The things a run needs on its worker."""

    kernel_name: str
    python: Path | None

    @classmethod
    def of(cls, task: ClusterTask) -> _Need:
        environment = task.run.environment
        return cls(task.run.kernel_name, environment.python if environment is not None else None)


class WorkerChecks:
    """Asks each worker once for each need, and keeps the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._threads: dict[str, int] = {}
        self._lacks: dict[str, dict[_Need, Lack | None]] = {}
        self._turn = asyncio.Lock()

    async def look(self, tasks: Collection[ClusterTask]) -> None:
        """Ask the workers of this moment that were not asked yet."""
        needs = {_Need.of(task): task for task in tasks}
        async with self._turn:
            self._threads = dict(await in_time(self._client.nthreads(), _LIST_SECONDS) or {})
            unasked = {
                worker: {need: task for need, task in needs.items() if need not in self._lacks.get(worker, {})}
                for worker in self._threads
            }
            await asyncio.gather(*(self._ask(worker, some) for worker, some in unasked.items() if some))

    async def _ask(self, worker: str, needs: Mapping[_Need, ClusterTask]) -> None:
        runs = [replace(task, notebook=b"", run=replace(task.run, parameters={})) for task in needs.values()]
        names = {"question": _QUESTION, "space": {}, "payload": await asyncio.to_thread(pickle.dumps, runs)}
        asking = self._client.run(asyncio.to_thread, eval, _CALL, names, workers=[worker], on_error="return")
        answers = await in_time(asking, _ANSWER_SECONDS)
        answer = answers.get(worker) if isinstance(answers, dict) else None
        self._lacks.setdefault(worker, {}).update(zip(needs, _lacks_in(answer, len(runs)), strict=True))

    def fit(self, task: ClusterTask) -> set[str] | None:
        """The workers that can do a run; None if all can, and if there are no workers yet.

        Raises:
            KernelSpecNotFoundError: no worker has the kernel.
            KernelStartFailedError: each worker lacks something.
        """
        lacking = self._lacking(_Need.of(task))
        if not lacking:
            return None
        fit = self._threads.keys() - lacking.keys()
        if not fit:
            raise _unfit(lacking)
        return fit

    def left_out(self) -> str | None:
        """A sentence about the workers that lack something for a run."""
        lacking = {worker: lack for need in self._needs() for worker, lack in self._lacking(need).items()}
        return f"some workers are left out: {_reasons(lacking)}" if lacking else None

    @property
    def unfit_threads(self) -> int:
        """Threads of the workers that can do none of the runs."""
        every = [self._lacking(need).keys() for need in self._needs()]
        return sum(self._threads[worker] for worker in set.intersection(*map(set, every))) if every else 0

    def _needs(self) -> set[_Need]:
        return {need for lacks in self._lacks.values() for need in lacks}

    def _lacking(self, need: _Need) -> dict[str, Lack]:
        found = {worker: self._lacks.get(worker, {}).get(need) for worker in sorted(self._threads)}
        return {worker: lack for worker, lack in found.items() if lack is not None}


def _lacks_in(answer: Any, number: int) -> list[Lack | None]:
    """The things that a worker lacks, for each of some needs."""
    if not isinstance(answer, dict):
        return [None] * number
    if "problem" in answer:
        return [Lack("package", str(answer["problem"]))] * number
    return [None if lack is None else Lack(*lack) for lack in answer["lacks"]]


def _unfit(lacking: Mapping[str, Lack]) -> ServerError:
    kinds = {lack.kind: None for lack in lacking.values()}
    error = KernelSpecNotFoundError if list(kinds) == ["kernelspec"] else KernelStartFailedError
    return error(
        f"no worker of the Dask cluster can do the run: {_reasons(lacking)}",
        state="nothing was run",
        advice="; ".join(_ADVICE[kind] for kind in kinds),
    )


def _reasons(lacking: Mapping[str, Lack]) -> str:
    """The workers by their reasons: `tcp://10.0.0.1:4000, tcp://10.0.0.2:4000: no interpreter '/x/bin/python'`."""
    workers: dict[str, list[str]] = {}
    for worker, lack in lacking.items():
        workers.setdefault(lack.reason, []).append(worker)
    return "; ".join(f"{listed(some, limit=5)}: {reason}" for reason, some in workers.items())
