"""Environments that are known on this machine: conda, pyenv, uv, poetry, pipenv, virtualenvwrapper and the PATH.

Each tool keeps its environments, or a list of them, in a known place. Only names and small files are read, so a look
is cheap; it is kept as long as the directories have the same time of change.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from papermill_mcp.core.environments.reading import Environment, environment_at, environment_of, names_in
from papermill_mcp.utils.file_utils import read_beginning

#: Environments of one place, at most, and all together.
_MOST_IN_PLACE = 100
_MOST = 200

#: Bytes read of a list of environments.
_LIST_BYTES = 100_000

#: Names of the directories in which conda and its relatives are installed, below the home directory or /opt.
_CONDAS = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", "conda", ".conda", ".local/share/mamba")

#: A version of Python with two or three parts, or the program of one.
_VERSIONED = re.compile(r"(?:python)?(\d{1,3}(?:\.\d{1,4}){1,2})")

_PYTHON = re.compile(r"python3(\.\d+)?(\.exe)?")


class Discovery:
    """Finds environments, and remembers them until a place has changed."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._found: list[Environment] = []

    def environments(self) -> list[Environment]:
        """All known environments, each once; those of tools first, the interpreters of the PATH last. Reads files."""
        places = [*_places()]
        key = tuple((place, _time(place)) for place in [*places, *_lists(), *_path()])
        if key != self._key:
            self._found = [*_unique(_found(places))]
            self._key = key
        return self._found

    def named(self, name: str) -> list[Environment]:
        """The environments of a name: that of their directory, without case."""
        return [
            environment
            for environment in self.environments()
            if environment.prefix is not None and environment.prefix.name.casefold() == name.casefold()
        ]

    def interpreter(self, name: str) -> Environment | None:
        """The interpreter of a version (`3.10`, `python3.10`), the newest of several, or of a program in the PATH."""
        match = _VERSIONED.fullmatch(name)
        if match is None:
            found = shutil.which(name) if name in ("python", "python3") else None
            return environment_of(Path(found)) if found and Path(found).is_absolute() else None
        wanted = _parts(match[1])
        fitting = [
            one
            for one in self.environments()
            if one.kind == "interpreter" and _parts(one.version or "")[: len(wanted)] == wanted
        ]
        return max(fitting, key=lambda one: _parts(one.version or ""), default=None)


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _variable(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value and Path(value).is_absolute() else None


def _places() -> Iterator[Path]:
    """Directories whose directories are environments."""
    home = _home()
    data = _variable("XDG_DATA_HOME") or (home / ".local" / "share" if home else None)
    cache = _variable("XDG_CACHE_HOME") or (home / ".cache" if home else None)
    for place in (
        *(_variable("CONDA_ENVS_PATH"), _variable("CONDA_ENVS_DIRS")),
        *((root / "envs") for root in _conda_roots()),
        (pyenv / "versions" if (pyenv := _variable("PYENV_ROOT") or (home / ".pyenv" if home else None)) else None),
        _variable("UV_PYTHON_INSTALL_DIR") or (data / "uv" / "python" if data else None),
        (cache / "pypoetry" / "virtualenvs" if cache else None),
        (home / "Library" / "Caches" / "pypoetry" / "virtualenvs" if home and sys.platform == "darwin" else None),
        _variable("WORKON_HOME") or (home / ".virtualenvs" if home else None),
        (data / "virtualenvs" if data else None),
        (data / "hatch" / "env" / "virtual" if data else None),
    ):
        if place is not None:
            yield place


def _conda_roots() -> Iterator[Path]:
    root = _variable("CONDA_ROOT") or _variable("MAMBA_ROOT_PREFIX")
    if root is not None:
        yield root
    executable = _variable("CONDA_EXE")
    if executable is not None:
        yield executable.parent.parent
    for base in filter(None, (_home(), Path("/opt"))):
        yield from (base / name for name in _CONDAS)


def _lists() -> Iterator[Path]:
    """Files with the path of an environment in each line, as conda keeps one."""
    home = _home()
    if home is not None:
        yield home / ".conda" / "environments.txt"


def _path() -> list[Path]:
    return [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part and Path(part).is_absolute()]


def _found(places: list[Path]) -> Iterator[Environment]:
    for file in _lists():
        lines = (read_beginning(file, _LIST_BYTES) or "").splitlines()[-_MOST_IN_PLACE:]
        yield from filter(
            None, (environment_at(Path(line.strip())) for line in lines if Path(line.strip()).is_absolute())
        )
    for root in _conda_roots():
        base = environment_at(root)
        if base is not None:
            yield base
    for place in places:
        for name in names_in(place)[:_MOST_IN_PLACE]:
            directory = place / name
            found = environment_at(directory)
            if found is not None:
                yield found
            elif (python := _plain_python(directory)) is not None:
                yield environment_of(python)
    for place in _path():
        if place.name == "shims":
            continue  # scripts of pyenv; its interpreters are found above
        for name in names_in(place):
            if _PYTHON.fullmatch(name):
                yield environment_of(place / name)


def _plain_python(directory: Path) -> Path | None:
    """The interpreter of an installation of Python itself, as pyenv and uv have them."""
    name = "python.exe" if sys.platform == "win32" else "bin/python3"
    python = directory / name
    return python if os.path.isfile(python) else None  # noqa: PTH113 - false where Path.is_file raises


def _unique(environments: Iterator[Environment]) -> Iterator[Environment]:
    seen: set[str] = set()
    for environment in environments:
        # Two names of one interpreter that stands for itself are the same; two environments may share one.
        key = str(environment.prefix) if environment.prefix else os.path.realpath(environment.python)
        if key not in seen:
            seen.add(key)
            yield environment
        if len(seen) >= _MOST:
            return


def _time(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
