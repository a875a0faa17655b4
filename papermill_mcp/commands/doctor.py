"""`doctor`: looks at an installation from all sides, and starts a kernel.

Each look gives checks: fine, a note, or a fault with the way out. Values of the environment, and entries of other
servers, are never shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from papermill_mcp import __version__
from papermill_mcp.commands import jsonc, toml_text
from papermill_mcp.commands.clients import CLIENTS, Client, Machine, Scope, command_of, is_disabled, starts_this_server
from papermill_mcp.commands.config_files import ConfigFileError, read_config
from papermill_mcp.commands.edit_error import EditError
from papermill_mcp.config import ENV_PREFIX, PROGRAM, Config, ConfigError, build_parser, load_config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.history.store import HistoryStore, HistoryUnavailableError
from papermill_mcp.core.pictures import drawing
from papermill_mcp.errors import ServerError, listed
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.lock_files import LockFiles, LocksUnavailableError
from papermill_mcp.utils.private import make_private_directory
from papermill_mcp.utils.text_utils import count_noun

if TYPE_CHECKING:
    from papermill_mcp.core import jupyter_manager
    from papermill_mcp.core.environments import starting
    from papermill_mcp.server import app
else:
    app = lazy("papermill_mcp.server.app")
    jupyter_manager = lazy("papermill_mcp.core.jupyter_manager")
    starting = lazy("papermill_mcp.core.environments.starting")

Status = Literal["ok", "note", "fault"]

#: Packages that notebooks need, beside the server.
_PACKAGES = ("mcp", "papermill", "jupyter_client", "nbclient", "nbformat", "ipykernel")

#: Environments that are listed, at most.
_SHOWN_ENVIRONMENTS = 20

_START_SECONDS = 60.0
_RUN_SECONDS = 20.0
_PROGRAM_SECONDS = 10.0

_HELP = f"""\
usage: {PROGRAM} doctor [--json] [settings of the server]

Check this installation: versions, settings, directories, kernels and the
entries of clients. It starts a kernel, runs 1+1 and stops it.

  --json  print one JSON object

Give the settings with which the client starts the server, such as --roots.
Exit code: 0 all is well, 1 a fault, 2 the settings cannot be used.
"""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        about: the subject, in a word.
        status: whether it is fine.
        text: the finding.
        advice: the way out of a fault.
    """

    about: str
    status: Status
    text: str
    advice: str = ""


def doctor(arguments: Sequence[str]) -> int:
    """Look at this installation and print the findings. Returns the exit code, as the help has it."""
    words = list(arguments)
    if "--help" in words or "-h" in words:
        sys.stdout.write(_HELP)
        return 0
    as_json = "--json" in words
    config: Config | None = None
    checks = [*_versions()]
    try:
        config = load_config([word for word in words if word != "--json"])
        checks.append(Check("settings", "ok", _settings(config)))
    except ConfigError as error:
        advice = f"Correct it. {PROGRAM} --help lists all settings."
        checks.append(Check("settings", "fault", _without_value(str(error)), advice))
    if config is not None:
        checks += [*_roots(config), *_guarded("state", _state, config), *_guarded("python", _environments, config)]
    checks += [*_guarded("clients", _clients), *_extras()]
    checks += _guarded("kernel", lambda: iter(asyncio.run(_kernels(config))))
    faults = sum(check.status == "fault" for check in checks)
    if as_json:
        report = {"status": "fault" if faults else "ok", "checks": [asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(_table(checks))
        sys.stdout.write(f"\n{count_noun(faults, 'fault')}.\n" if faults else "\nAll is well.\n")
    return 2 if config is None else 1 if faults else 0


def _guarded(about: str, look: Callable[..., Iterator[Check]], *arguments: Any) -> Iterator[Check]:
    """A look that fails is a finding, too: the others go on."""
    try:
        yield from look(*arguments)
    except (OSError, RuntimeError, ServerError) as error:  # RuntimeError: there is no home directory
        yield Check(about, "fault", f"the check failed: {error}")


def _table(checks: list[Check]) -> str:
    width = max(len(check.about) for check in checks)
    lines = []
    for check in checks:
        status = "FAULT" if check.status == "fault" else check.status
        lines.append(f"{status:5}  {check.about:{width}}  {check.text}")
        if check.advice:
            lines.append(f"{'':5}  {'':{width}}  -> {check.advice}")
    return "\n".join(lines) + "\n"


def _versions() -> Iterator[Check]:
    yield Check("server", "ok", f"{PROGRAM} {__version__}")
    yield Check("python", "ok", f"{platform.python_version()}, {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Check(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            advice = f"Install it: {sys.executable} -m pip install {package}"
            yield Check(package, "fault", "not installed", advice)


def _settings(config: Config) -> str:
    """The names of the settings that are set. No values: they may be secret."""
    names = [name for name, field in Config.model_fields.items() if getattr(config, name) != field.default]
    return f"set: {listed(names)}" if names else "all have their defaults"


def _without_value(message: str) -> str:
    """The message without the value of an environment variable."""
    return re.sub(r"(?s), got .*", "", message) if ENV_PREFIX in message else message


def _roots(config: Config) -> Iterator[Check]:
    for root in config.roots:
        path = root.resolve()
        if not os.access(path, os.R_OK | os.X_OK):
            yield Check("root", "fault", f"{path} cannot be read", "Change its permissions, or name another directory.")
        elif config.read_only or os.access(path, os.W_OK):
            yield Check("root", "ok", f"{path}, {'read-only by setting' if config.read_only else 'can be written'}")
        else:
            advice = "Change its permissions, or start the server with --read-only."
            yield Check("root", "fault", f"{path} cannot be written", advice)


def _state(config: Config) -> Iterator[Check]:
    directory = app.state_directory(config)
    advice = "Change its permissions, or name another directory with --state-directory."
    try:
        make_private_directory(directory)
        lock = LockFiles(directory / "locks").try_acquire(directory / "doctor")
    except LocksUnavailableError as error:
        yield Check("state", "fault", f"{directory} has no locks: {error}", advice)
        return
    except OSError as error:
        yield Check("state", "fault", f"{directory} cannot be used: {error.strerror or error}", advice)
        return
    if lock is not None:
        lock.release()
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield Check("state", "fault", f"{directory} cannot be written", advice)
    else:
        yield Check("state", "ok", f"{directory}, locks work")
        yield _history(config, directory)


def _history(config: Config, directory: Path) -> Check:
    """The size of the history of notebooks."""
    store = HistoryStore(directory, versions=max(config.history_versions, 1), max_bytes=config.history_bytes)
    try:
        usage = store.usage()
    except HistoryUnavailableError as error:
        return Check("history", "fault", f"the versions of notebooks cannot be used: {error}", "Move the file away.")
    finally:
        store.close()
    text = (
        f"{count_noun(usage.versions, 'version')} of {count_noun(usage.notebooks, 'notebook')}, {usage.bytes:,} bytes"
    )
    return Check("history", "ok", text if config.history_versions else f"{text}; none are kept by setting")


def _environments(config: Config) -> Iterator[Check]:
    pythons = _pythons(config)
    if pythons is None:
        return
    workspace, found = pythons
    if config.python is not None:
        try:
            found.named(config.python)
        except ServerError as error:
            yield Check("notebooks", "fault", str(error), "Change the setting python.")
    chosen = found.glance(workspace.roots[0], NotebookDocument.new({}))
    yield Check("notebooks", "ok", f"a notebook in {workspace.roots[0]} gets {chosen}")
    known = found.known(workspace.roots[0])
    for environment in known[:_SHOWN_ENVIRONMENTS]:
        place = "" if environment.prefix is None else f": {environment.prefix}"
        yield Check("python", "ok", f"{environment.label}{place}")
    if len(known) > _SHOWN_ENVIRONMENTS:
        yield Check("python", "note", f"and {len(known) - _SHOWN_ENVIRONMENTS} more")


def _pythons(config: Config) -> tuple[Workspace, Pythons] | None:
    """The roots that are there, and the Pythons for them; None without a root."""
    roots = [root for root in config.roots if os.path.isdir(root)]  # noqa: PTH112 - Path.is_dir may raise
    if not roots:
        return None
    workspace = Workspace(roots)
    return workspace, Pythons(config, workspace)


def _extras() -> Iterator[Check]:
    try:
        yield Check("jupyterlab", "ok", importlib.metadata.version("jupyterlab"))
    except importlib.metadata.PackageNotFoundError:
        yield Check("jupyterlab", "note", "not installed; start_jupyter_server needs it, from the extra `lab`")
    if drawing.available():
        yield Check("render", "ok", "SVG and charts of Vega-Lite are shown as pictures")
    else:
        yield Check("render", "note", "not installed; SVG and charts are shown as text without the extra `render`")
    uv = starting.find_uv()
    if uv is None:
        yield Check("uv", "note", "not found; entries with uvx need it, and Pythons without ipykernel")
        return
    try:
        done = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=_PROGRAM_SECONDS)
        yield Check("uv", "ok", f"{done.stdout.strip()} at {uv}")
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        yield Check("uv", "note", f"{uv} cannot be run: {type(error).__name__}")


def _clients() -> Iterator[Check]:
    """The entries of this server in the settings of all clients."""
    machine = Machine.this()
    found = False
    for client in CLIENTS:
        for scope in get_args(Scope):
            path = client.file(scope, machine)
            if path is None or not path.exists():
                continue
            about = f"{client.title} ({scope})"
            try:
                servers = _servers(client, read_config(path).text, machine)
            except ConfigFileError as error:
                yield Check(about, "note", str(error))
                continue
            except EditError as error:
                yield Check(about, "note", f"{path} cannot be read: {error}")
                continue
            for name, entry in servers:
                if starts_this_server(entry):
                    found = True
                    yield _entry(about, f"{name!r} in {path}", entry)
    if not found:
        yield Check("clients", "note", f"no client has an entry; write one with: {PROGRAM} install CLIENT")


def _servers(client: Client, text: str, machine: Machine) -> list[tuple[str, Any]]:
    """The names and entries in a file. Claude Code has further ones for each project."""
    find = toml_text.find if client.toml else jsonc.find
    tables = [find(text, client.container)]
    if client.key == "claude-code":
        tables.append(find(text, ("projects", str(machine.directory), *client.container)))
    return [item for table in tables if isinstance(table, dict) for item in table.items()]


def _entry(about: str, place: str, entry: Any) -> Check:
    command, *arguments = command_of(entry) or [""]
    if is_disabled(entry):
        return Check(about, "note", f"{place} is disabled, so the client does not start it")
    again = f"Write it anew with: {PROGRAM} install"
    if not Path(command).is_absolute():
        if shutil.which(command) is None:
            return Check(about, "fault", f"{place}: its command {command!r} is not found", again)
        return Check(about, "note", f"{place}: its command {command!r} is not absolute, so a client may not find it")
    if not os.access(command, os.X_OK) or Path(command).is_dir():
        return Check(about, "fault", f"{place}: its command {command!r} cannot be run", again)
    missing = [root for root in _roots_of(arguments) if "${" not in root and not Path(root).expanduser().is_dir()]
    if missing:
        return Check(about, "fault", f"{place}: these roots do not exist: {listed(missing)}", again)
    return Check(about, "ok", place)


def _roots_of(arguments: list[str]) -> list[str]:
    """The roots in the arguments of an entry."""
    first = next((number for number, word in enumerate(arguments) if word.startswith("--roots")), len(arguments))
    with contextlib.suppress(ConfigError):
        options, _ = build_parser().parse_known_args(arguments[first:])
        return [str(root) for root in getattr(options, "roots", [])]
    return []


async def _kernels(config: Config | None) -> list[Check]:
    """The kernelspecs, and a kernel that is really started."""
    config = config or Config.model_construct()
    manager = jupyter_manager.JupyterManager(app.state_directory(config))
    try:
        checks = []
        installed = await manager.installed()
        for kernel in installed:
            if kernel.problem is None:
                checks.append(Check("kernelspec", "ok", f"{kernel.name} ({kernel.language})"))
            else:
                checks.append(Check("kernelspec", "note", f"{kernel.name}: {kernel.problem}"))
        if config.no_execute:
            return [*checks, Check("kernel", "note", "not started, since no_execute is set")]
        return [*checks, await _run(manager, config)]
    finally:
        await manager.aclose()


async def _run(manager: jupyter_manager.JupyterManager, config: Config) -> Check:
    """Start a kernel, run `1+1` in it, and stop it."""
    advice = (
        f"See the kernels with `jupyter kernelspec list`, or install one: {sys.executable} -m pip install ipykernel"
    )
    pythons = _pythons(config)
    if pythons is None:
        return Check("kernel", "note", "not started, since there is no root")

    workspace, found = pythons
    began = time.monotonic()
    try:
        choice = await found.choose(workspace.roots[0], manager.found)
        kernel = await manager.start_kernel(
            choice.kernel_name,
            environment=choice.environment,
            cwd=workspace.roots[0],
            timeout_seconds=min(config.jupyter_timeout, _START_SECONDS),
            denied_env=config.kernel_env_deny,
            patient=True,
        )
        started = time.monotonic() - began
        execution = kernel.submit("1+1", timeout_seconds=_RUN_SECONDS)
        async with asyncio.timeout(_RUN_SECONDS + 5):
            await execution.settled.wait()
        texts = [str(output.get("data", {}).get("text/plain", "")) for output in execution.outputs]
        await manager.stop_kernel(kernel)
    except (ServerError, OSError) as error:
        return Check("kernel", "fault", f"a kernel does not work: {error}", advice)
    name = choice.label or choice.kernel_name
    if "2" not in texts:
        return Check("kernel", "fault", f"{name} started, but 1+1 ended as {execution.status}", advice)
    return Check("kernel", "ok", f"{name} started in {started:.1f} s and ran 1+1")
