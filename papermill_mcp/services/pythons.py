"""The Python of a notebook or kernel: the call's, the settings', the notebook's own, the project's, the server's."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp.config import Config
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.environments.discovery import Discovery
from papermill_mcp.core.environments.reading import (
    Environment,
    broken_in,
    environment_at,
    environment_of,
    environments_in,
    install_command,
    own_environment,
    python_of_kernel,
    seen_again,
)
from papermill_mcp.errors import InvalidArgumentError, KernelSpecNotFoundError, KernelStartFailedError, listed
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import one_line

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpec

    from papermill_mcp.core.environments import declared
    from papermill_mcp.core.environments.declared import Declaration
else:
    declared = lazy("papermill_mcp.core.environments.declared")

#: The kernelspec that every installation of ipykernel has. It names no particular Python.
GENERIC_KERNEL = "python3"

#: The argument `python` for the declaration of the notebook itself.
NOTEBOOK_PYTHON = "notebook"

_STATE = "nothing was run"
_PYTHON_NAMES = ("python", "ipython", "python3")
_ALLOWED = (
    "an interpreter, a virtual or conda environment, a project directory that has one, the name of a conda "
    "environment, or the version of an interpreter that is known; paths are relative to the workspace or absolute"
)

#: Names of environments in the display names of kernels: VS Code's `.venv (3.12.3)` and `base (Python 3.11.5)`,
#: before 2022 `Python 3.8.5 64-bit ('base': conda)`, nb_conda's `Python [conda env:base] *`, and nothing but the name.
_DISPLAY_NAME = re.compile(
    r"(?:Python \[(?:conda env|conda root|env):)?(?P<name>[\w.+-][\w.+ -]*?)"
    r"(?:\](?: \*)?| \((?:Python )?\d+(\.\d+)*\))?"
    r"|Python \d[\w.]*(?: \d+-bit)? \('(?:\./)?(?P<quoted>[\w.+-][\w.+ -]*)'(?:: \w+)?\)"
)

#: A display name with a version, which an environment has.
_VERSIONED = re.compile(r"\] ?\*?$| \((?:Python )?\d+(\.\d+)+\)$|'(?:: \w+)?\)$")

#: The names of kernelspecs that an older VS Code made for one machine. They are installed nowhere else.
_EDITORS = re.compile(r"python\d+jvsc74a57bd0[0-9a-f]{64}$")

#: A display name with nothing but the version of Python.
_NAMELESS = re.compile(r"python *(\d[\w.]*)?( \d+-bit)?", re.IGNORECASE)

#: Environments as replies name them: `.venv (3.12.3)`, `Python 3.12.1 at /usr/bin/python3`.
_SHOWN_NAME = re.compile(r"(?P<name>\S.*?) \((?:Python )?\d+(?:\.\d+)+\)|Python(?: \d[\d.]*)? at (?P<path>/.*)")

#: The packages of modules that have another name.
_PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

#: nb_conda's names of kernelspecs.
_CONDA_KERNEL = re.compile(r"conda-(?:env-(?P<name>.+)-py|root-py)")


@dataclass(frozen=True)
class PythonChoice:
    """The kernelspec or the environment for a kernel.

    Attributes:
        kernel_name: the kernelspec that is started, where `environment` is None.
        label: the Python and whose choice it is: `.venv (3.12.3), the project's`. None where it is not known.
        packages_in: the environment of that Python.
        notes: sentences for the client.
        declaration: that of the notebook, where an environment is made of it before the kernel starts.
    """

    kernel_name: str
    environment: Environment | None = None
    label: str | None = None
    packages_in: Environment | None = None
    notes: tuple[str, ...] = ()
    declaration: Declaration | None = None

    def made(self, environment: Environment) -> PythonChoice:
        """The choice with the environment that was made of the declaration."""
        return _chosen(environment, "declared by the notebook", self.notes)

    def kernelspec(self) -> dict[str, str] | None:
        """The kernel as notebooks name it, as VS Code writes it; None for an installed kernelspec."""
        if self.environment is None:
            return None
        return {"name": self.kernel_name, "display_name": self.environment.label, "language": "python"}


#: Finds an installed kernelspec by its name; None if there is none that works.
FindSpec = Callable[[str], Awaitable["KernelSpec | None"]]


class Pythons:
    """Chooses the Python for kernels. It reads files and runs no program."""

    def __init__(self, config: Config, workspace: Workspace) -> None:
        self._config = config
        self._workspace = workspace
        self._discovery = Discovery()
        self._own = own_environment()

    def named(self, python: str) -> Environment:
        """The environment that an argument `python` names. Reads files.

        Raises:
            InvalidArgumentError: it names none; the message lists those that are known.
        """
        if not python.strip() or any(ord(char) < 32 for char in python) or "://" in python:
            raise InvalidArgumentError(f"python {python[:100]!r} is not a path", allowed=_ALLOWED, state=_STATE)
        shown = _SHOWN_NAME.fullmatch(python)
        python = python if shown is None else shown["path"] or shown["name"]
        path = (self._workspace.roots[0] / os.path.expanduser(python)).absolute()  # noqa: PTH111 - no error
        try:
            if path.is_file():
                return environment_of(path)
            if path.is_dir():
                found = environment_at(path) or next(iter(environments_in(path)), None)
                if found is not None:
                    return found
                raise InvalidArgumentError(
                    f"python {python[:200]!r} is a directory without an environment", allowed=_ALLOWED, state=_STATE
                )
        except (OSError, RuntimeError):  # a name that is too long, or a directory of another user
            pass
        named = self._discovery.named(python) if Path(python).name == python else []
        if named:
            return named[0]
        interpreter = self._discovery.interpreter(python)
        if interpreter is not None:
            return interpreter
        raise InvalidArgumentError(
            f"python {python[:200]!r} does not exist",
            allowed=f"{_ALLOWED}; known: {listed(self.known_names(), limit=20)}",
            state=_STATE,
            advice="list_kernels shows them with their paths",
        )

    def _set(self) -> Environment:
        """The environment that the settings name.

        Raises:
            InvalidArgumentError: there is none.
        """
        try:
            return self.named(str(self._config.python))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"the setting python is wrong: {str(error).removeprefix(f'{error.code}: ')}",
                state=_STATE,
                advice="let a person correct the setting, or name a Python by python",
            ) from error

    def at(self, interpreter: Path) -> Environment:
        """The environment of an interpreter that a kernel has. Reads files."""
        return self._own if interpreter == self._own.python else environment_of(interpreter)

    def again(self, environment: Environment) -> Environment:
        """The environment of a kernel as it is now, for another start. Reads files.

        Raises:
            KernelStartFailedError: it is gone.
        """
        found = self._own if environment.python == self._own.python else seen_again(environment)
        if found is None:
            raise KernelStartFailedError(
                f"the Python of the kernel, {environment.label} at {environment.python}, is gone",
                state="the kernel was left as it is",
                advice="make that environment again and call restart_kernel, or call stop_kernel: the next run chooses "
                "another Python",
            )
        return found

    def is_own(self, environment: Environment) -> bool:
        """Whether it is the environment of this server. Reads files."""
        return environment.place == self._own.place

    def known_names(self) -> list[str]:
        """The names of the environments that discovery finds, and the versions of interpreters. Reads files."""
        names = [one.prefix.name if one.prefix else one.version for one in self._discovery.environments()]
        return [*dict.fromkeys(filter(None, names))]

    def everywhere(self) -> list[Environment]:
        """The environments and interpreters that discovery finds. Reads files."""
        return self._discovery.environments()

    def of_projects(self, directory: Path) -> tuple[list[Environment], list[str]]:
        """The environments of the nearest directory that has some, from this one up to its root. Reads files.

        Returns:
            The environments; and the reasons why nearer ones cannot be used.
        """
        broken: list[str] = []
        for project in (directory, *directory.parents):
            if not self._workspace.holds(project):
                break
            found = environments_in(project)
            if found:
                return found, broken
            broken += broken_in(project)
        return [], broken

    def known(self, directory: Path) -> list[Environment]:
        """Environments that a kernel in this directory could use, the nearest first, each once. Reads files."""
        found = [*self.of_projects(directory)[0], *self._active(), self._own, *self._discovery.environments()]
        return [*{str(one.prefix or one.python): one for one in reversed(found)}.values()][::-1]

    def declared(self, document: NotebookDocument) -> Declaration | None:
        """The declaration of a notebook, unless the settings say that it does not count."""
        if self._config.notebook_environments == "off" or not _in_python(document):
            return None
        return declared.declared_by(document)

    def glance(self, directory: Path, document: NotebookDocument) -> str | None:
        """The Python that a notebook would get, as far as files tell; None where kernelspecs decide. Reads files."""
        named = document.kernel_name
        if not _in_python(document):
            return None
        if self._config.notebook_environments == "auto" and self._config.python is None:
            declaration = self.declared(document)
            if declaration is not None:
                problem = f", which cannot be used: {declaration.problem}" if declaration.problem else ""
                return f"an environment made of the declaration in {declaration.place}{problem}"
        if named not in (None, GENERIC_KERNEL):
            return None
        if self._config.python is not None:
            try:
                return f"{self._set().label}, as the setting python says"
            except InvalidArgumentError as error:
                return f"none: {error}"
        return self._found(directory, named, _display_name(document)).label or f"{self._own.label}, the server's own"

    def module_note(self, module: str, interpreter: Path, directory: Path, *, declared: bool = False) -> str:
        """Where a missing module could come from. Reads files.

        Args:
            interpreter: of the kernel that did not find it.
            directory: of the kernel.
            declared: the environment was made of a notebook's declaration, so nothing is installed into it.
        """
        own = interpreter == self._own.python
        here = self.at(interpreter)
        note = (
            f"the code ran in {here.label}" + (", the server's own" if own else "") + f". It has no module {module!r}"
        )
        package = _PACKAGES.get(module, module)
        if declared:
            return (
                f"{note}; the notebook does not declare it: install_packages with path and record=true, "
                f'packages=["{package}"]'
            )
        for other in self.known(directory):
            if other.python != here.python and other.has_package(module):
                return f'{note}; {other.label} has it: python="{other.prefix}" uses that'
        if own:
            return f"{note}; make an environment with {package} in the project (.venv), or name one by python"
        command = install_command(here, [package])
        if self._config.read_only or "kernel" not in self._config.groups:
            return f"{note}; install it there: {command}"
        call = f'install_packages(python="{here.prefix or here.python}", packages=["{package}"])'
        return f"{note}; install it there: {call}, or by hand: {command}"

    async def choose(
        self,
        directory: Path,
        find: FindSpec,
        *,
        document: NotebookDocument | None = None,
        python: str | None = None,
        kernel_name: str | None = None,
    ) -> PythonChoice:
        """The Python for a kernel that starts in a directory.

        Args:
            document: the notebook that it is for.
            python, kernel_name: as the call names them.

        Raises:
            InvalidArgumentError: both are given, or `python` names no environment.
            KernelSpecNotFoundError: the notebook is in another language, and names no kernel of that.
        """
        if python is not None and kernel_name is not None:
            raise InvalidArgumentError("give python or kernel_name, not both", state=_STATE)
        if python is not None and document is not None:
            _require_python(document, python)
        if python == NOTEBOOK_PYTHON:
            return PythonChoice(GENERIC_KERNEL, declaration=self._declared(document))
        if python is not None:
            return _chosen(await asyncio.to_thread(self.named, python), "named by the call")
        if kernel_name is not None:
            return self._installed(kernel_name, await find(kernel_name), "named by the call")
        if document is not None and not _in_python(document):
            named = document.kernel_name
            if named is None or named == GENERIC_KERNEL:
                raise _another_language(document)
            return PythonChoice(named)
        mode = self._config.notebook_environments
        declaration = None if document is None else await asyncio.to_thread(self.declared, document)
        if declaration is not None and mode == "auto" and self._config.python is None:
            return PythonChoice(GENERIC_KERNEL, declaration=declaration)
        choice = await self._undeclared(directory, find, document)
        if declaration is None:
            return choice
        return replace(choice, notes=(*choice.notes, _report(declaration)))

    def _declared(self, document: NotebookDocument | None) -> Declaration:
        """The declaration of a notebook, for a call that asks for it.

        Raises:
            InvalidArgumentError: there is no notebook, it declares nothing, or the settings forbid it.
        """
        if document is None:
            raise InvalidArgumentError(
                f'python="{NOTEBOOK_PYTHON}" stands for the declaration of a notebook, and this call names no notebook',
                allowed=f'a directory of that name is "./{NOTEBOOK_PYTHON}"',
                state=_STATE,
            )
        if self._config.notebook_environments == "off":
            raise InvalidArgumentError(
                f'python="{NOTEBOOK_PYTHON}" is not possible here: the setting notebook_environments is off',
                state=_STATE,
                advice="name another Python, or let a person change the setting",
            )
        found = declared.declared_by(document)
        if found is None:
            raise InvalidArgumentError(
                "the notebook declares no packages, in a block (PEP 723) or in metadata.uv",
                state=_STATE,
                advice="leave python out; or declare some: install_packages with path and record=true writes the block",
            )
        return found

    async def _undeclared(self, directory: Path, find: FindSpec, document: NotebookDocument | None) -> PythonChoice:
        """The Python of a notebook that declares nothing."""
        named = document.kernel_name if document is not None else None
        if self._config.python is not None:
            return _chosen(await asyncio.to_thread(self._set), "as the setting python says")
        if named is not None and named != GENERIC_KERNEL:
            spec = await find(named)
            if spec is not None:
                return self._installed(named, spec, "named by the notebook")
        choice = await asyncio.to_thread(self._found, directory, named, _display_name(document))
        if choice.environment is not None and choice.environment.prefix != self._own.prefix:
            return choice
        if named is not None and named != GENERIC_KERNEL and choice.environment is None and not _EDITORS.match(named):
            return choice  # its error says which there are
        # An installed kernelspec of the same Python is the same, and a spare kernel may be ready.
        spec = await find(GENERIC_KERNEL)
        own = spec is not None and python_of_kernel(spec.language, spec.argv) == self._own.python
        if choice.environment is None:
            reason = "the server's own" if own else "of the kernelspec python3"
            return replace(self._installed(GENERIC_KERNEL, spec, reason), notes=choice.notes)
        return replace(choice, environment=None) if own else choice

    def _found(self, directory: Path, named: str | None, display: str | None) -> PythonChoice:
        """An environment of the project, one that the notebook names, or an active one; the generic kernel if none."""
        wanted = _wanted_name(named, display)
        project, broken = self.of_projects(directory)
        for environment in project:
            if environment.name == wanted:
                return _chosen(environment, "the project's")
        known = self._discovery.named(wanted) if wanted is not None else []
        if known:
            return _chosen(known[0], "named by the notebook")
        notes = tuple(f"{reason}, so it was not used; remake it" for reason in broken[:1])
        if (named or GENERIC_KERNEL) != GENERIC_KERNEL or (wanted is not None and _VERSIONED.search(display or "")):
            name = display or named or ""
            notes += (
                f"the notebook was made with the kernel {name[:100]!r}, which is not installed and in no environment "
                "that was found; python names another one",
            )
        for environment in project:
            return _chosen(environment, "the project's", notes)
        for environment in self._active():
            return _chosen(environment, "active when the server started", notes)
        return PythonChoice(named or GENERIC_KERNEL, notes=notes)

    def _installed(self, name: str, spec: KernelSpec | None, reason: str) -> PythonChoice:
        """An installed kernelspec. Its Python is known if it is named by its path."""
        python = None if spec is None else python_of_kernel(spec.language, spec.argv)
        if python is None:
            return PythonChoice(name)
        environment = self.at(python)
        return PythonChoice(name, None, f"{environment.label}, {reason}", environment)

    def _active(self) -> list[Environment]:
        return [one for one in map(environment_at, _active_prefixes()) if one is not None]


def _chosen(environment: Environment, reason: str, notes: tuple[str, ...] = ()) -> PythonChoice:
    return PythonChoice(GENERIC_KERNEL, environment, f"{environment.label}, {reason}", environment, notes)


def _require_python(document: NotebookDocument, python: str) -> None:
    """Refuse a Python for a notebook whose kernel is that of another language.

    Raises:
        InvalidArgumentError: it is such a notebook. Without a kernel of another language, `python` decides.
    """
    named = document.kernel_name
    if _in_python(document) or (named in (None, GENERIC_KERNEL) and python != NOTEBOOK_PYTHON):
        return
    raise InvalidArgumentError(
        f"the notebook is in {one_line(document.language or 'another language', 40)} (kernel "
        f"{one_line(named or 'none', 60)!r}), so it does not run in a Python",
        state=_STATE,
        advice="leave python out; or change the kernel of the notebook, if its code is Python",
    )


def _report(declaration: Declaration) -> str:
    if declaration.problem is not None:
        return (
            f"the declaration of the notebook in {declaration.place} is not used, and cannot be: {declaration.problem}"
        )
    return (
        f'the notebook declares its packages: {declaration}; python="{NOTEBOOK_PYTHON}" makes that environment and '
        "uses it, this run does not"
    )


def relabelled(label: str, environment: Environment) -> str:
    """The label of an earlier choice, for its environment as it is now. Only the reason is kept, which has no comma."""
    return f"{environment.label}, {label.rpartition(', ')[2]}"


def _active_prefixes() -> list[Path]:
    prefixes = [Path(value) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if (value := os.environ.get(name))]
    return [prefix for prefix in prefixes if prefix.is_absolute() and prefix.resolve() != Path(sys.prefix).resolve()]


def _in_python(document: NotebookDocument) -> bool:
    """Whether one of the two places that name the language says so. A change of the kernel may leave one behind."""
    spec = document.metadata.get("kernelspec")
    generic = document.kernel_name in (None, GENERIC_KERNEL)
    if generic and isinstance(spec, dict) and str(spec.get("language", "")).lower() in _PYTHON_NAMES:
        return True
    language = document.language
    return language.lower() in _PYTHON_NAMES if language else generic


def _another_language(document: NotebookDocument) -> KernelSpecNotFoundError:
    named = "kernel 'python3', which runs Python" if document.kernel_name else "no kernel"
    return KernelSpecNotFoundError(
        f"the notebook is in {one_line(document.language or '', 40)} and names {named}",
        state=_STATE,
        advice="start a kernel of that language with start_kernel and pass its kernel_id, or name one by kernel_name; "
        "list_kernels shows those that are installed. If the code is Python, name the environment by python",
    )


def _display_name(document: NotebookDocument | None) -> str | None:
    spec = document.metadata.get("kernelspec") if document is not None else None
    name = spec.get("display_name") if isinstance(spec, dict) else None
    return name if isinstance(name, str) and name else None


def _wanted_name(named: str | None, display: str | None) -> str | None:
    """The name of an environment in the metadata of a notebook; None for a kernelspec that names none."""
    conda = _CONDA_KERNEL.fullmatch(named or "")
    if conda is not None:
        return conda["name"] or "base"
    match = _DISPLAY_NAME.fullmatch(display or "")
    name = None if match is None else match["quoted"] or match["name"]
    return None if name is None or _NAMELESS.fullmatch(name) else str(name)
