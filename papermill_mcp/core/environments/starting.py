"""The start of a kernel in an environment, also where ipykernel is not installed.

The kernel starts by a few lines of Python that import ipykernel. Where the environment has none, they add a layer
behind the environment's packages: a directory with ipykernel and the packages that it needs. The environment is not
changed, and its packages come first. A layer is for one version of Python. For that of this server it is made of links
to the server's own packages. For others it is made by uv.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jupyter_client.kernelspec import KernelSpec
from packaging.requirements import Requirement

from papermill_mcp.core.environments.reading import Environment, install_command, own_environment
from papermill_mcp.core.environments.requirements import normal_name
from papermill_mcp.core.processes.child import TAIL_BYTES
from papermill_mcp.core.processes.program import Program
from papermill_mcp.errors import KernelStartFailedError, Remedy
from papermill_mcp.utils.file_utils import create_private_file, read_beginning
from papermill_mcp.utils.private import make_private_directory

logger = logging.getLogger(__name__)


class MakeProgram(Protocol):
    """Makes a program that ends with this server, from a command and variables."""

    def __call__(self, command: Sequence[str], variables: Mapping[str, str], *, keep: int = ...) -> Program: ...


#: Started in the environment, also in old versions of Python. The first directory of the path is the working directory:
#: its modules are the user's, and must not stand in for those of the kernel before ipykernel puts it back.
_BOOTSTRAP = """\
import sys
sys.path[:1] = [] if sys.path[:1] in ([""], [None]) else sys.path[:1]
layers = sys.argv.pop(1)
try:
    import ipykernel
    if not getattr(ipykernel, "__file__", None):
        del sys.modules["ipykernel"]
        raise ImportError("No module named ipykernel")
except ImportError:
    import os
    tag = getattr(getattr(sys, "implementation", None), "cache_tag", "")
    tag = "%s%s-%s" % (tag, getattr(sys, "abiflags", ""), sys.maxsize > 2**32)
    layer = os.path.join(layers, tag)
    if not os.path.isdir(layer):
        raise
    sys.path.append(layer)
from ipykernel import kernelapp
kernelapp.launch_new_instance()
"""

#: Asked of an interpreter that could not start a kernel.
_QUESTION = """\
import sys
print("papermill-mcp %s.%s %s%s-%s" % (sys.version_info[0], sys.version_info[1],
    getattr(getattr(sys, "implementation", None), "cache_tag", ""), getattr(sys, "abiflags", ""), sys.maxsize > 2**32))
import ipykernel
if not getattr(ipykernel, "__file__", None):
    raise ImportError("No module named ipykernel")
"""
_ANSWER = re.compile(r"papermill-mcp (\d+\.\d+) (\S+)")

#: Seconds for an answer, and for uv to make a layer.
_ANSWER_SECONDS = 30.0
_MAKE_SECONDS = 180.0

#: The file in a layer that says of which packages it was made.
_STAMP = ".made-of"

#: Days after which a layer that was not used is removed.
_KEPT_DAYS = 30

#: Lines of a program that are quoted, and characters of each.
_LAST_LINES = 5
_LINE_CHARS = 300

#: Bytes of the variables after activation.
_VARIABLE_BYTES = 10**6

#: Variables that decide which Python another one is. Those of this server must not reach a kernel.
_OWN_VARIABLES = (
    *("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "__PYVENV_LAUNCHER__"),
    *("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER"),
)

#: Seconds for the scripts that conda packages run when their environment is activated.
_ACTIVATION_SECONDS = 15.0


def spec_of(environment: Environment, layers: Path) -> KernelSpec:
    """The kernelspec of an environment.

    Args:
        layers: the directory of the layers.
    """
    argv = [str(environment.python), "-c", _BOOTSTRAP, str(layers), "-f", "{connection_file}"]
    return KernelSpec(argv=argv, display_name=environment.label, language="python")


def variables_of(environment: Environment, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a kernel, so that `!python` and `!pip` are those of its environment.

    Args:
        given: the variables of this server. The directory of its own environment goes from the PATH.
    """
    variables = without_own(given)
    own = own_environment()
    programs = [environment.bin]
    if sys.platform == "win32" and environment.prefix is not None:
        programs += [environment.prefix / "Scripts", environment.prefix / "Library" / "bin"]
    first = list(dict.fromkeys(map(str, programs)))
    gone = {*first, str(own.bin)} if own.prefix is not None else set(first)
    parts = [part for part in given.get("PATH", os.defpath).split(os.pathsep) if part and part not in gone]
    variables["PATH"] = os.pathsep.join([*first, *parts])
    if environment.kind == "venv":
        variables["VIRTUAL_ENV"] = str(environment.prefix)
    elif environment.kind == "conda":
        assert environment.prefix is not None
        variables |= {
            "CONDA_PREFIX": str(environment.prefix),
            "CONDA_DEFAULT_ENV": environment.prefix.name,
            "CONDA_SHLVL": "1",
        }
    return variables


def without_own(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of this server without those that tell which Python it is."""
    return {name: value for name, value in given.items() if name not in _OWN_VARIABLES}


async def activated(environment: Environment, variables: dict[str, str], make: MakeProgram) -> dict[str, str]:
    """The variables after the activation scripts of a conda environment, if it has any (conda's `activate.d`)."""
    if environment.kind != "conda" or environment.prefix is None or sys.platform == "win32":
        return variables
    kept = await asyncio.to_thread(_kept_variables, environment.prefix)
    scripts = await asyncio.to_thread(_scripts, environment.prefix)
    shell = shutil.which("bash") if scripts else None
    variables = variables | kept
    if shell is None:
        return variables
    code = 'for script in "$@"; do . "$script"; done >/dev/null 2>&1; env -0'
    program = make([shell, "-c", code, shell, *scripts], variables, keep=_VARIABLE_BYTES)
    try:
        await _code_of(program, _ACTIVATION_SECONDS)
    except (OSError, TimeoutError) as error:
        logger.warning("the activation scripts of %s did not work: %s", environment.prefix, error)
        return variables
    out = program.output.decode("utf-8", "surrogateescape")
    found = dict(part.split("=", 1) for part in out.split("\0") if "=" in part)
    for name in ("_", "SHLVL", "PWD", "OLDPWD"):
        found.pop(name, None)
    return found or variables


def _kept_variables(prefix: Path) -> dict[str, str]:
    """The variables that `conda env config vars set` has stored."""
    try:
        stored = json.loads(read_beginning(prefix / "conda-meta" / "state", 100_000) or "{}")["env_vars"]
        return {str(name): str(value) for name, value in stored.items() if value != "***unset***"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _scripts(prefix: Path) -> list[str]:
    return sorted(map(str, (prefix / "etc" / "conda" / "activate.d").glob("*.sh")))


#: Has a layer made for an environment: its tag. Returns the reason why it was not, None if it is there.
MakeLayer = Callable[[Environment, str], Awaitable[str | None]]


async def mend(environment: Environment, layers: Path, make: MakeProgram, make_layer: MakeLayer) -> bool:
    """Find out why a kernel did not start in an environment. Where ipykernel is missing, make a layer with it.

    Returns:
        Whether the start should be tried again. False: nothing is wrong with the interpreter.

    Raises:
        KernelStartFailedError: the reason, and the way out.
    """
    python = str(environment.python)
    program = make([python, "-c", _QUESTION], os.environ)
    try:
        code = await _code_of(program, _ANSWER_SECONDS)
    except TimeoutError as problem:
        raise _no_interpreter(environment, f"it did not answer within {_ANSWER_SECONDS:g} s") from problem
    except OSError as problem:
        raise _no_interpreter(environment, problem.strerror or str(problem)) from problem
    said = program.text(TAIL_BYTES)
    answer = _ANSWER.search(said)
    if answer is None:
        raise _no_interpreter(environment, f"it ended with code {code}. {_last_lines(program)}")
    if code == 0:
        return False
    missing = "ModuleNotFoundError: No module named 'ipykernel'" in said or "No module named ipykernel" in said
    reason: str | None = "that of the server does not work there"
    if missing and not (layers / answer[2]).is_dir():
        reason = await make_layer(environment, answer[2])
        if reason is None:
            return True
    raise KernelStartFailedError(
        f"{python!r} (Python {answer[1]}) "
        + (f"has no ipykernel, and {reason}" if missing else f"has an ipykernel that fails: {_last_lines(program, 1)}"),
        allowed=f"by hand it is installed with: {install_command(environment, ['ipykernel'])}",
        state=_STATE,
        advice=Remedy.INSTALL_IPYKERNEL,
        given={"python": python},
    )


_STATE = "no kernel was started"


def _no_interpreter(environment: Environment, reason: str) -> KernelStartFailedError:
    place = environment.prefix
    return KernelStartFailedError(
        f"{str(environment.python)!r} is not a Python interpreter that can be started: {reason}",
        state=_STATE,
        advice=(f"remake the environment {str(place)!r}, or name" if place else "name") + " another one by python",
    )


# Layers


def own_layer(layers: Path) -> None:
    """Make the layer for this server's version of Python, if it is not there. Blocks for some milliseconds.

    Raises:
        OSError: the state directory cannot be used.
    """
    tag = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}-{sys.maxsize > 2**32}"
    layer, stamp = layers / tag, _own_stamp()
    if _stamp(layer) == stamp:
        return
    make_private_directory(layers.parent)
    make_private_directory(layers)
    making = layers / f".{uuid.uuid4().hex}"
    making.mkdir(mode=0o700)
    try:
        for source in _own_files():
            target = making / source.name
            if sys.platform == "win32":
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
            else:
                target.symlink_to(source)
        create_private_file(making / _STAMP, stamp.encode())
        _put(making, layer)
    finally:
        shutil.rmtree(making, ignore_errors=True)


async def made_layer(
    environment: Environment, layers: Path, tag: str, make: MakeProgram, guard: Callable[[Path], None]
) -> str | None:
    """Have uv make a layer for another version of Python.

    Args:
        guard: has a directory removed if this server ends before it is done.

    Returns:
        None if the layer is there now, else the reason, for a person.
    """
    uv = find_uv()
    if uv is None:
        return "uv, which could provide it beside the environment, is not installed (extra environments)"
    await asyncio.to_thread(_clear_old, layers)
    making = layers / f".{uuid.uuid4().hex}"
    try:
        guard(making)
        await asyncio.to_thread(making.mkdir, mode=0o700)
        command = [uv, "pip", "install", "--quiet", "--python", str(environment.python)]
        program = make([*command, "--target", str(making), "ipykernel"], os.environ)
        if await _code_of(program, _MAKE_SECONDS) != 0:
            return f"uv could not provide ipykernel: {_last_lines(program)}"
        await asyncio.to_thread(_put, making, layers / tag)
    except (OSError, TimeoutError) as problem:
        return f"uv could not provide ipykernel: {problem or 'it took too long'}"
    finally:
        await asyncio.to_thread(shutil.rmtree, making, True)
    return None


def find_uv() -> str | None:
    """The program uv: of this server's environment, else of the PATH."""
    name = "uv.exe" if sys.platform == "win32" else "uv"
    own = Path(sys.executable).parent / name
    return str(own) if own.is_file() else shutil.which("uv")


def _put(making: Path, layer: Path) -> None:
    """Give a complete layer its name. One of the same packages that another server has put there meanwhile stays.

    For a moment there is none, but only where it replaces one of other packages: a directory with files cannot be
    replaced in one step.
    """
    try:
        making.rename(layer)
        return
    except OSError:
        if not layer.is_dir():
            raise
    if _stamp(layer) == _stamp(making):
        return
    old = layer.with_name(f".{uuid.uuid4().hex}")
    try:
        layer.replace(old)
        making.rename(layer)
    except OSError:
        if not layer.is_dir():
            raise
    shutil.rmtree(old, ignore_errors=True)


def _stamp(layer: Path) -> str | None:
    return read_beginning(layer / _STAMP, 100)


def _clear_old(layers: Path) -> None:
    oldest = time.time() - _KEPT_DAYS * 86_400
    for layer in layers.iterdir():
        if layer.lstat().st_mtime < oldest:
            shutil.rmtree(layer, ignore_errors=True)


@functools.cache
def _own_stamp() -> str:
    facts = [sys.prefix, *(f"{d.name} {d.version}" for d in _own_distributions())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _own_distributions() -> Iterator[importlib.metadata.Distribution]:
    """ipykernel and all that it needs here, each once."""
    todo, seen = ["ipykernel"], set()
    while todo:
        name = normal_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield distribution
        needed = map(Requirement, distribution.requires or [])
        todo += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _own_files() -> Iterator[Path]:
    """The files and directories of these packages, below `site-packages`."""
    for distribution in _own_distributions():
        root = Path(str(distribution.locate_file("")))
        names = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__", "."}
        yield from (path for name in sorted(names) if (path := root / name).exists())


async def _code_of(program: Program, seconds: float) -> int:
    """The exit code of a program that gets some time.

    Raises:
        OSError: it cannot be started.
        TimeoutError: it took too long, and was ended.
    """
    async with asyncio.timeout(seconds):
        return await program.run()


def _last_lines(program: Program, number: int = _LAST_LINES) -> str:
    """The end of its output. A long line, such as a dump, is cut."""
    lines = program.text(TAIL_BYTES).splitlines()[-number:]
    return "\n".join(line if len(line) <= _LINE_CHARS else line[:_LINE_CHARS] + "…" for line in lines)
