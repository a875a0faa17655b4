"""Random histories: whatever others do to a notebook during a run, their changes and all results are there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers import Json, call, cell, joined
from histories import FILES, History, Ran, Step, World, check_end, encoded, histories, operations, token
from hypothesis import HealthCheck, example, given, settings
from mcp import Client

from dev.fuzz import examples
from papermill_mcp.config import Config
from papermill_mcp.core.kernels.request import CellExecution, RunStatus
from papermill_mcp.core.kernels.widgets import Widgets
from papermill_mcp.core.runs import run_file as run_files
from papermill_mcp.core.runs.notebook_run import RunCell
from papermill_mcp.core.runs.run_file import RunFile
from papermill_mcp.core.runs.snapshot import END
from papermill_mcp.core.runs.store import ExecutionStore
from papermill_mcp.errors import DiskFullError, KernelDiedError, ServerError
from papermill_mcp.server.app import build_server
from papermill_mcp.services.kernel_service import KernelService
from papermill_mcp.services.notebook_service import NotebookService, OpenNotebook
from papermill_mcp.services.pythons import PythonChoice
from papermill_mcp.services.runs.claims import Claims
from papermill_mcp.services.runs.in_place_run import InPlaceRun
from papermill_mcp.services.runs.papermill_run import Bench, PapermillRun
from papermill_mcp.services.runs.remote_outputs import RemoteOutputs
from papermill_mcp.services.runs.requests import NotebookCellRequest, NotebookRequest, PapermillRequest
from papermill_mcp.services.runs.starter import RunStarter
from papermill_mcp.services.staleness import Staleness
from papermill_mcp.services.workspace import Workspace

#: nbformat gives doubled ids new names, and warns.
pytestmark = pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")

Run = InPlaceRun | PapermillRun


def first(history: History) -> Json:
    """The notebook before the run."""
    notebook = history.notebook()
    if history.kind == "resumed":  # the output of an earlier run that failed
        run = {"status": "pending", "exception": None, "start_time": None, "end_time": None, "duration": None}
        for one in notebook["cells"]:
            one["metadata"]["papermill"] = dict(run)
        marker = cell("An exception was encountered", "markdown", tags=["papermill-error-cell-tag"])
        if notebook["nbformat_minor"] >= 5:
            marker["id"] = "marker"
        notebook["cells"].insert(0, marker)
        notebook["metadata"]["papermill"] = {"start_time": "2026-01-01T00:00:00", "parameters": {}}
    return notebook


class Kernel:
    """A kernel whose code does as the history says. It has the parts that a run uses."""

    kernel_id, kernel_name, info = "k", "python3", {"language_info": {"name": "python", "version": "3"}}
    language, incarnation = "scripted", "1"
    python = pid = None
    unused = False

    def __init__(self) -> None:
        self.running: CellExecution | None = None
        self.executions: list[CellExecution] = []
        self.outcomes: dict[int, str] = {}
        self.tokens: list[list[str]] = []
        self.alive = True
        self.widgets = Widgets()

    def submit(self, code: str, **options: Any) -> CellExecution:
        if not self.alive:
            raise KernelDiedError("the kernel has died")
        execution = CellExecution(code, self.widgets, **options)
        asyncio.get_running_loop().call_soon(self._begin, execution)
        return execution

    def _begin(self, execution: CellExecution) -> None:
        self.running = execution
        self.executions.append(execution)
        self.tokens.append([])
        execution.begin()
        self.put()

    def put(self) -> None:
        """The code that runs puts a token out."""
        if self.running is not None:
            word = token(sum(map(len, self.tokens)))
            self.tokens[-1].append(word)
            self.running.take_output("stream", {"name": "stdout", "text": f"{word}\n"})

    def finish(self, outcome: str) -> None:
        """The code that runs ends so."""
        execution, self.running = self.running, None
        if execution is None:
            return
        self.outcomes[len(self.executions) - 1] = outcome
        error = {"ename": "ValueError", "evalue": "no", "traceback": ["no"]}
        match outcome:
            case "die":
                self.alive = False
                execution.die("signal 9")
                return
            case "exit":
                error = {"ename": "SystemExit", "evalue": "0", "traceback": []}
        if outcome in ("error", "show", "exit"):
            execution.take_output("error", error)
        reply = {"status": "ok"} if outcome in ("ok", "show") else {"status": "error", **error}
        execution.take_reply(reply | {"execution_count": len(self.executions)})
        execution.take_idle()

    async def hear_out(self) -> None:
        """All output is there at the end of the code."""

    async def interrupt(self, execution: CellExecution) -> bool:
        self.running = None
        self.outcomes[len(self.executions) - 1] = "interrupted"
        execution.expect_end(RunStatus.INTERRUPTED)
        execution.take_reply({"status": "aborted"})
        execution.take_idle()
        return True


class Kernels:
    """The one kernel, for every run."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def for_notebook(self, *_: object, **__: object) -> tuple[Kernel, list[str], bool]:
        return self._kernel, [], False

    async def choose(self, *_: object, **__: object) -> PythonChoice:
        return PythonChoice("python3")

    async def module_notes(self, *_: object) -> list[str]:
        return []

    async def installed(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, display_name="Python 3", language="python")

    async def launch(self, *_: object, **__: object) -> Kernel:
        return self._kernel

    @contextlib.asynccontextmanager
    async def slot(self, **_: object) -> AsyncIterator[list[str]]:
        yield []

    async def end(self, *_: object) -> None: ...

    def bind(self, *_: object) -> None: ...


class Notebooks(NotebookService):
    """The notebook service, whose runs save when the history says so."""

    file: RunFile

    def run_file(self, notebook: OpenNotebook, owner: str, *, in_place: bool = True) -> RunFile:
        self.file = super().run_file(notebook, owner, in_place=in_place)
        self.file.start = lambda: None  # type: ignore[method-assign]
        return self.file


class Scripted:
    """Plays a history on a scripted kernel."""

    def __init__(self, history: History, root: Path) -> None:
        self._history = history
        self.root = root / "root"
        self.root.mkdir()
        state = root / "state"
        config = Config(roots=[self.root], state_directory=state)
        workspace = Workspace([self.root])
        self._tools = Notebooks(config, workspace, state)
        self._second = NotebookService(config, workspace, state)
        self._kernel = Kernel()
        bench = Bench(
            cast(KernelService, Kernels(self._kernel)),
            self._tools,
            Claims(workspace),
            ExecutionStore(state / "none"),
            Staleness(None),
            RemoteOutputs(workspace, config.max_notebook_bytes),
        )
        bench.store.put_timings = lambda *_: None  # type: ignore[method-assign]
        bench.store.timings = lambda _: {}  # type: ignore[method-assign, assignment]
        self._starter = RunStarter(config, workspace, bench)
        self._before_write: Callable[[], None] | None = None
        self._edited = b""  # the file after the last edit by a tool
        self._sources: dict[str, tuple[str, str]] = {}  # the source of cells before and after their last such edit

    async def play(self) -> None:
        """Play it and check everything."""
        history = self._history
        source = self.root / "a.ipynb"
        source.write_bytes(encoded(first(history)))
        run = await self._begin()
        path = source if history.kind != "papermill" else self.root / "b.ipynb"
        world = World(path, lambda: self._ended(run))
        with self._hooked_writes():
            run.start()
            await self._settle(run)
            for step in history.steps:
                if run.finished:  # others may do as they like now
                    break
                await self._step(step, world, run)
                await self._settle(run)
                world.check()
            self._before_write = None
            while history.end in ("complete", "stop at the last save") and self._kernel.running is not None:
                self._kernel.finish("ok")
                await self._settle(run, to_the_end=history.end == "complete")
            killed = history.end == "kill" and not run.finished
            notes: tuple[str, ...] = ()
            if killed:
                check_end(world, self._ran(run), killed=True, status="", notes=(), ids=history.ids)
            if history.end == "cancel":
                await run.cancel()
            elif history.end != "complete" and (task := run.stop()) is not None:
                await asyncio.wait([task], timeout=10)
            async with asyncio.timeout(10):
                await run.wait()
        if not killed:
            state = run.snapshot(END)
            notes = state.notes
            check_end(world, self._ran(run), killed=False, status=state.status, notes=notes, ids=history.ids)

    async def _begin(self) -> Run:
        history, path = self._history, "a.ipynb"
        match history.kind:
            case "papermill":
                return await self._starter.papermill(
                    PapermillRequest(input_path=path, output_path="b.ipynb", continue_on_error=history.continues)
                )
            case "one cell":
                index = next(at for at, (kind, _) in enumerate(history.cells) if kind == "code")
                return await self._starter.notebook_cell(NotebookCellRequest(path=path, index=index))
        return await self._starter.notebook(NotebookRequest(path=path, continue_on_error=history.continues))

    async def _step(self, step: Step, world: World, run: Run) -> None:
        match step.what:
            case "output":
                self._kernel.put()
                if self._kernel.running is not None:
                    run.run.record_late_output() if isinstance(run, InPlaceRun) else None
            case "finish":
                self._kernel.finish(step.name)
            case "save" if not run.finished:
                with contextlib.suppress(ServerError):
                    await self._tools.file.save(durable=False)
            case "change" if step.writer in ("tool", "second server") and world.notebook is not None:
                wanted = operations(world.notebook, step, world.number + 1)
                if wanted:
                    world.number += 1
                    service = self._tools if step.writer == "tool" else self._second
                    before, data = world.notebook, world.path.read_bytes()
                    edited = await service.edit(world.path.name, wanted)
                    world.look(step, before)
                    if service is self._tools:
                        told = any("undone" in note for note in edited.notes or [])
                        self._check_told(told, step, before, world, same=data == self._edited)
                        self._edited = world.path.read_bytes()
                elif not wanted and step.name not in ("source", "tags", "metadata", "move", "type", "clear"):
                    world.apply(step)
            case "change":
                world.apply(step)
            case "race" if not run.finished:
                self._before_write = lambda: world.apply(step)
            case "fault" if not run.finished:
                self._before_write = _full

    def _check_told(self, told: bool, step: Step, before: Json, world: World, *, same: bool) -> None:
        """An edit says that an earlier one is undone: that a source is again as before it. It gives no false alarm."""
        assert not (told and same), "nobody has undone an edit"
        if self._history.ids != "unique":
            return
        sources = {one["id"]: joined(one["source"]) for one in before["cells"]}
        undone = [name for name, (old, _) in self._sources.items() if sources.get(name) == old]
        assert told or not undone, "an edit is undone, and the next one does not say so"
        self._sources = {name: pair for name, pair in self._sources.items() if sources.get(name) == pair[1]}
        after = {one["id"]: joined(one["source"]) for one in (world.notebook or {"cells": []})["cells"]}
        self._sources = {name: pair for name, pair in self._sources.items() if after.get(name) == pair[1]}
        if step.name == "source":
            name = before["cells"][step.at % len(before["cells"])]["id"]
            self._sources[name] = (sources[name], after[name])

    @contextlib.contextmanager
    def _hooked_writes(self) -> Iterator[None]:
        files: Any = run_files
        real = files.write_file

        def hooked(*arguments: Any, **options: Any) -> Any:
            act, self._before_write = self._before_write, None
            if act is not None:
                act()
            return real(*arguments, **options)

        files.write_file = hooked
        try:
            yield
        finally:
            files.write_file = real

    async def _settle(self, run: Run, *, to_the_end: bool = True) -> None:
        """Wait until the next cell runs, or the run is over. So a history is the same each time."""
        for _ in range(12):
            await asyncio.sleep(0)
        if self._kernel.running is None and to_the_end:
            async with asyncio.timeout(10):
                await run.wait()

    def _ended(self, run: Run) -> list[str | None]:
        begun = self._kernel.executions
        return [one.cell_id for one in _cells(run) if one.execution in begun and one.status.final]

    def _ran(self, run: Run) -> list[Ran]:
        cells = _cells(run)
        begun = [one for one in cells if one.execution in self._kernel.executions]
        return [
            Ran(
                one.cell_id,
                joined(one.source),
                self._kernel.tokens[number],
                self._kernel.outcomes.get(number),
                one.index,
            )
            for number, one in enumerate(begun)
        ]


def _cells(run: Run) -> list[RunCell]:
    return run.run.cells if isinstance(run, InPlaceRun) else run._recipe.run.cells  # type: ignore[union-attr]


def _full() -> None:
    raise DiskFullError("the disk is full", state="nothing was written")


#: The module that cells call. Its steps wait for a word, which is the way in which the cell ends.
_STEP = """
import os, pathlib, sys, time
_here = pathlib.Path(__file__).parent
_count = 0

def step():
    global _count
    number, _count = _count, _count + 1
    print(f"<R{number}>", flush=True)
    (_here / f"began-{number}").touch()
    while not (_here / f"go-{number}").exists():
        time.sleep(0.005)
    word = (_here / f"go-{number}").read_text()
    if word == "show":
        from IPython import get_ipython
        try:
            1 / 0
        except ZeroDivisionError:
            get_ipython().showtraceback()
    elif word == "error":
        raise ValueError("no")
    elif word == "exit":
        sys.exit()
    elif word == "die":
        time.sleep(0.1)  # ZeroMQ sends the token
        os._exit(9)
"""


class Real:
    """Plays a history on two servers in this process and real kernels."""

    def __init__(self, history: History, root: Path) -> None:
        self._history = history
        self._root = root / "root"
        (self._root / "step").mkdir(parents=True)
        (self._root / "step" / "__init__.py").write_text(_STEP)
        self._config = Config(roots=[self._root], state_directory=root / "state", log_level="ERROR")
        self._begun = 0

    async def play(self) -> None:
        """Play it and check everything."""
        history = self._history
        path = self._root / "a.ipynb"
        path.write_bytes(encoded(first(history)))
        async with Client(build_server(self._config)) as tools, Client(build_server(self._config)) as second:
            tool, arguments = self._request()
            begun = await call(tools, tool, wait=0, timeout=0, **arguments)
            if history.kind == "papermill":
                path = self._root / "b.ipynb"
            world = World(path, lambda: [one.get("id") for one in self._code()[: self._begun - 1]])
            name: Json = {"execution_id": begun["execution_id"]}
            over = not await self._next(tools, name)
            outcomes: list[str] = []
            for step in history.steps:
                if over:
                    break
                if step.what == "finish":
                    outcomes.append(step.name)
                    over = not await self._go(tools, name, step.name)
                elif step.what in ("change", "race"):
                    await self._change(step, world, tools if step.writer == "tool" else second)
                    world.check()
            while history.end == "complete" and not over:
                outcomes.append("ok")
                over = not await self._go(tools, name, "ok")
            killed = history.end in ("stop", "stop at the last save", "kill") and not over
            if history.end == "cancel":
                await call(tools, "cancel_execution", **name)
            facts = await call(tools, "get_execution", wait=0 if killed else 20, **name)
        ran = [
            Ran(one.get("id"), one["source"], [token(number)], outcome, first(history)["cells"].index(one))
            for number, (one, outcome) in enumerate(zip_longest(self._code()[: self._begun], outcomes))
            if one is not None
        ]
        notes = facts.get("notes", [])
        check_end(world, ran, killed=killed, status=facts["status"], notes=notes, ids=history.ids)

    def _code(self) -> list[Json]:
        """The cells that run, in order."""
        code = [one for one in first(self._history)["cells"] if one["cell_type"] == "code"]
        return code[:1] if self._history.kind == "one cell" else code

    def _request(self) -> tuple[str, Json]:
        match self._history.kind:
            case "papermill":
                tool, request = "execute_notebook_papermill", {"input_path": "a.ipynb", "output_path": "b.ipynb"}
            case "one cell":
                index = next(at for at, (kind, _) in enumerate(self._history.cells) if kind == "code")
                return "execute_notebook_cell", {"path": "a.ipynb", "index": index}
            case _:
                tool, request = "execute_notebook", {"path": "a.ipynb"}
        return tool, request | {"continue_on_error": self._history.continues}

    async def _go(self, tools: Client, name: Json, word: str) -> bool:
        """Let the cell that runs end so. Returns whether another one runs then."""
        beside = self._root / "word"
        beside.write_text(word)
        beside.rename(self._root / "step" / f"go-{self._begun - 1}")
        return await self._next(tools, name)

    async def _next(self, tools: Client, name: Json) -> bool:
        """Wait until the next cell runs or the run is over. Returns whether one runs."""
        async with asyncio.timeout(40):
            while not (self._root / "step" / f"began-{self._begun}").exists():
                if (await call(tools, "get_execution", wait=0.02, **name))["status"] not in ("running", "queued"):
                    return False
        self._begun += 1
        return True

    async def _change(self, step: Step, world: World, client: Client) -> None:
        notebook = world.notebook
        wanted = operations(notebook, step, world.number + 1) if notebook is not None else []
        if step.what == "race" or step.writer not in ("tool", "second server") or step.name in FILES:
            world.apply(step)
        elif wanted:
            world.number += 1
            await call(client, "edit_notebook", path=world.path.name, operations=wanted)
            assert notebook is not None
            world.look(step, notebook)


def play(history: History, player: type[Scripted | Real] = Scripted) -> None:
    """Play a history in a directory of its own."""
    directory = tempfile.mkdtemp(prefix="history-")
    try:
        asyncio.run(player(history, Path(directory)).play())
    finally:
        shutil.rmtree(directory)


_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


#: A cell is removed, and a program that has an old copy open brings it back.
_BACK = History(
    cells=(("code", 0),),
    ids="unique",
    kind="in place",
    continues=False,
    steps=(Step("change", "remove", "tool"), Step("race", "old copy", "in place"), Step("save")),
    end="complete",
)

#: An edit is undone by an older copy, another edit follows.
_UNDONE = History(
    cells=(("code", 0), ("markdown", 0)),
    ids="unique",
    kind="in place",
    continues=False,
    steps=(
        Step("change", "source", "tool", at=1),
        Step("change", "insert", "tool"),
        Step("change", "old copy", "in place"),
        Step("change", "notebook", "tool"),
    ),
    end="complete",
)


def _after_the_end(step: Step, kind: str = "in place") -> History:
    """The first cell has ended and is saved. Then another writer changes it, and the run goes on."""
    steps = (Step("finish", "ok"), Step("save"), step, Step("save"))
    return History((("code", 0), ("code", 1)), "unique", kind, continues=False, steps=steps, end="complete")


@pytest.mark.case("R01")
@examples(60)
@example(_BACK)
@example(_after_the_end(Step("change", "rerun", "in place")))
@example(_after_the_end(Step("race", "rerun", "replace")))
@example(_after_the_end(Step("change", "clear", "tool")))
@example(_after_the_end(Step("change", "clear", "second server")))
@example(_after_the_end(Step("change", "old copy", "in place")))
@example(_after_the_end(Step("change", "rerun", "in place"), "papermill"))
@example(_after_the_end(Step("change", "clear", "tool"), "papermill"))
@example(_UNDONE)
@given(histories())
def test_others_lose_nothing_by_a_run_and_no_result_is_lost(history: History) -> None:
    play(history)


@pytest.mark.case("R01")
@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=int(os.environ.get("HISTORIES", "500")), deadline=None, suppress_health_check=_CHECKS)
@given(histories())
def test_hundreds_of_histories_lose_nothing(history: History) -> None:
    play(history)


@pytest.mark.case("R01")
@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=30, deadline=None, suppress_health_check=_CHECKS)
@given(histories(scripted=False))
def test_histories_with_real_kernels_lose_nothing(history: History) -> None:
    play(history, Real)
