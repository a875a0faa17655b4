"""Environments of Python, read from their files. No program is run.

A virtual environment has `pyvenv.cfg` (PEP 405), a conda environment has `conda-meta`. The rest of a directory is not
looked at. Sizes are bounded, since the files may come from anywhere.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from papermill_mcp.utils.file_utils import read_beginning

Kind = Literal["venv", "conda", "interpreter"]

#: Directories of a project that may be its environment, the usual one first.
PROJECT_NAMES = (".venv", "venv", "env", ".conda", ".pixi/envs/default")

#: The key of the metadata of a notebook in which nteract declares its packages.
METADATA_KEY = "uv"

#: Bytes read of `pyvenv.cfg`.
_CONFIG_BYTES = 16_384

_VERSION = re.compile(r"\d{1,3}(\.\d{1,4}){1,2}")
_EXECUTABLE = re.compile(r"python(\d+(\.\d+)?)?t?(\.exe)?", re.IGNORECASE)

#: The files of packages by which installed versions are known.
_DISTRIBUTION = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-(?P<version>[^-]+)\.(dist-info|egg-info)")


@dataclass(frozen=True)
class Environment:
    """An interpreter and the directory that its packages are in.

    Attributes:
        python: the interpreter, as it is started. A link stays one, since it decides about the packages.
        prefix: the directory of the environment; None for an interpreter that stands for itself.
        version: as in `3.12.3`; None if no file tells it.
    """

    kind: Kind
    python: Path
    prefix: Path | None
    version: str | None = None

    @property
    def name(self) -> str:
        """The name as users say it: that of the directory, for `.pixi/envs/default` that of the project."""
        if self.prefix is None:
            return str(self.python)
        if self.prefix.parts[-3:-1] == (".pixi", "envs"):
            return f".pixi:{self.prefix.name}"
        return self.prefix.name or str(self.prefix)

    @property
    def label(self) -> str:
        """Name and version, as VS Code writes it for a kernel: `.venv (3.12.3)`."""
        if self.prefix is None:
            return f"Python {self.version} at {self.python}" if self.version else f"Python at {self.python}"
        return f"{self.name} ({self.version})" if self.version else self.name

    @property
    def place(self) -> Path:
        """The real path that two environments share only if they are one. Reads links."""
        return Path(os.path.realpath(self.prefix or self.python))

    @property
    def bin(self) -> Path:
        """The directory of the programs of the environment."""
        return self.python.parent

    def packages(self) -> dict[str, str]:
        """Installed packages and their versions, by the names of their metadata. Packages elsewhere do not count."""
        found: dict[str, str] = {}
        for directory in self.site_packages():
            for entry in names_in(directory):
                match = _DISTRIBUTION.fullmatch(entry)
                if match is not None:
                    found.setdefault(match["name"].replace("_", "-").lower(), match["version"])
        return dict(sorted(found.items()))

    def record(self) -> dict[str, Any]:
        """The environment for the metadata of a notebook: its name, the version of Python, and its packages."""
        return {"name": self.name, "python": self.version, "packages": self.packages()}

    def site_packages(self) -> list[Path]:
        """The directories of installed packages, where the layout is that of Python itself."""
        prefix = self.prefix or Path(os.path.realpath(self.python)).parent.parent
        if sys.platform == "win32":
            return [prefix / "Lib" / "site-packages"]
        return [
            packages
            for library in (prefix / "lib", prefix / "lib64")
            if not library.is_symlink()
            for name in names_in(library)
            if _EXECUTABLE.fullmatch(name)
            if self.prefix is not None or _of_version(name, self.version)
            if (packages := library / name / "site-packages").is_dir()
        ]

    def has_package(self, module: str) -> bool:
        """Whether a top-level module or package of that name is installed."""
        return any(
            _has_modules(directory / module) or (directory / f"{module}.py").is_file()
            for directory in self.site_packages()
        )


def environment_at(directory: Path) -> Environment | None:
    """The environment that a directory is; None if it is none, or has no interpreter."""
    config = read_beginning(directory / "pyvenv.cfg", _CONFIG_BYTES)
    if config is None and not os.path.isdir(directory / "conda-meta"):  # noqa: PTH112 - false where Path.is_dir raises
        return None
    python = _python_in(directory)
    if python is None:
        return None
    if config is not None:
        return Environment("venv", python, directory, _version_of(config))
    return Environment("conda", python, directory, _conda_version(directory))


def environment_of(python: Path) -> Environment:
    """The environment that an interpreter belongs to, by the directory it is named in."""
    parent = python.parent
    for prefix in (parent.parent, parent) if parent.name.lower() in ("bin", "scripts") else (parent,):
        found = environment_at(prefix)
        if found is not None:
            return Environment(found.kind, python, prefix, found.version)
    # As pyenv names the directories of its interpreters, and as interpreters are named in the PATH.
    named = _VERSION.fullmatch(parent.parent.name) or _VERSION.search(python.name)
    named = named or _VERSION.search(Path(os.path.realpath(python)).name)
    return Environment("interpreter", python, None, named[0] if named else None)


def seen_again(environment: Environment) -> Environment | None:
    """An environment as it is now, since it may have been remade; None if it is gone."""
    if os.path.isfile(environment.python):  # noqa: PTH113 - as above
        return environment_of(environment.python)
    return None if environment.prefix is None else environment_at(environment.prefix)


def broken_in(project: Path) -> list[str]:
    """The reasons why directories of a project are no environments, though they have the names of some.

    They are asked for where `environments_in` finds none.
    """
    found = []
    for name in PROJECT_NAMES:
        directory = project / name
        if not os.path.isdir(directory):  # noqa: PTH112 - as above
            continue
        for python in (directory / "bin" / "python", directory / "bin" / "python3"):
            if os.path.islink(python) and not os.path.exists(python):  # noqa: PTH110, PTH114 - as above
                found.append(f"the interpreter of {directory} is a link to {os.path.realpath(python)}, which is gone")
                break
        else:
            if os.path.isfile(directory / "pyvenv.cfg"):  # noqa: PTH113 - as above
                found.append(f"{directory} has no interpreter")
            elif name == ".venv":
                found.append(f"{directory} is no environment: it has no pyvenv.cfg")
    return found


def environments_in(project: Path) -> list[Environment]:
    """The environments that stand in the directory of a project, the usual one first."""
    found = (environment_at(project / name) for name in PROJECT_NAMES)
    return [environment for environment in found if environment is not None]


def own_environment() -> Environment:
    """The environment that this server runs in."""
    version = ".".join(map(str, sys.version_info[:3]))
    python = Path(sys.executable)
    prefix = Path(sys.prefix)
    if (prefix / "conda-meta").is_dir():
        return Environment("conda", python, prefix, version)
    if sys.prefix != sys.base_prefix:
        return Environment("venv", python, prefix, version)
    return Environment("interpreter", python, None, version)


def install_command(environment: Environment, packages: list[str]) -> str:
    """The command that installs packages into an environment, for a person to type."""
    python, names = shlex.quote(str(environment.python)), shlex.join(packages)
    if environment.kind == "conda":
        return f"conda install --prefix {shlex.quote(str(environment.prefix))} {names}"
    if environment.prefix is None or environment.has_package("pip"):
        return f"{python} -m pip install {names}"
    return f"uv pip install --python {python} {names}"


def python_of_kernel(language: str, command: Sequence[str]) -> Path | None:
    """The interpreter that a kernelspec starts; None for another language or program.

    Without a directory it is that of this server, as in jupyter_client.
    """
    program = Path(command[0])
    if language != "python" or not _EXECUTABLE.fullmatch(program.name):
        return None
    return program if program.is_absolute() else Path(sys.executable)


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none where it cannot be read."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def _has_modules(directory: Path) -> bool:
    """Whether a directory is a package, and not only the rest of one that was removed."""
    return any(
        name.endswith((".py", ".so", ".pyd")) or (directory / name / "__init__.py").is_file()
        for name in names_in(directory)
    )


def _of_version(name: str, version: str | None) -> bool:
    """Whether a directory `python3.12` is that of a version, where the version is known."""
    return version is None or name.removeprefix("python") == ".".join(version.split(".")[:2])


def _python_in(directory: Path) -> Path | None:
    names = ("python.exe", "Scripts/python.exe") if sys.platform == "win32" else ("bin/python", "bin/python3")
    for name in names:
        python = directory / name
        if os.path.isfile(python):  # noqa: PTH113 - false where Path.is_file raises, such as a closed directory
            return python
    return None


def _version_of(config: str) -> str | None:
    for line in config.splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() in ("version", "version_info"):
            match = _VERSION.match(value.strip())
            return match[0] if match else None
    return None


def _conda_version(directory: Path) -> str | None:
    for name in names_in(directory / "conda-meta"):
        match = re.fullmatch(r"python-(\d[\d.]*\d)-[^-]+\.json", name)
        if match is not None:
            return match[1]
    return None
