"""The command that starts this installation of the server, for clients that run it later from anywhere."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from papermill_mcp.config import PROGRAM

PACKAGE = "jupyter-papermill-mcp-server"

#: The file with which programs mark a directory as a cache (https://bford.info/cachedir/).
_CACHE_MARK = "CACHEDIR.TAG"


class NoLastingCommandError(Exception):
    """The program runs from a cache, and no program is found that could start it from there again."""


@dataclass(frozen=True)
class Command:
    """A command with absolute paths.

    Attributes:
        words: the program and its arguments.
        through_uvx: uvx starts the server, and may have to install it first.
    """

    words: list[str]
    through_uvx: bool = False


def lasting_command() -> Command:
    """The command of this installation.

    From an environment that stays it is the script of the environment, else its Python with the module. An environment
    in a cache may vanish at any time, so uvx starts the same version again.

    Raises:
        NoLastingCommandError: it runs from a cache, and uvx is not found.
    """
    if in_cache(Path(sys.prefix)):
        uvx = _uvx()
        if uvx is None:
            raise NoLastingCommandError(
                f"this program runs from a cache that may be emptied, and uvx is not found. Install it first: "
                f"uv tool install {PACKAGE}, or pip install {PACKAGE}."
            )
        return Command([str(uvx), "--from", _source(), PROGRAM], through_uvx=True)
    script = _script()
    if script is not None:
        return Command([str(script)])
    return Command([_absolute(sys.executable), "-P", "-m", "papermill_mcp.main"])


def in_cache(environment: Path) -> bool:
    """Whether an environment is in a directory that is marked as a cache. Its own mark does not count."""
    parents = environment.absolute().parents
    pipx_run = parents[0].name == ".cache" and "pipx" in parents[0].parent.name.lower() if len(parents) > 1 else False
    return pipx_run or any((parent / _CACHE_MARK).is_file() for parent in parents)


def _script() -> Path | None:
    """The script of this environment or, for an installation for one user, of the user."""
    name = f"{PROGRAM}.exe" if sys.platform == "win32" else PROGRAM
    schemes = [sysconfig.get_default_scheme()]
    if sys.prefix == sys.base_prefix:
        schemes.append(sysconfig.get_preferred_scheme("user"))
    for scheme in schemes:
        script = Path(sysconfig.get_path("scripts", scheme)) / name
        if script.is_file():
            return Path(_absolute(script))
    return None


def _uvx() -> Path | None:
    found = shutil.which("uvx")
    if found is None and (uv := os.environ.get("UV")):  # uv names itself to the programs that it runs
        found = shutil.which("uvx", path=str(Path(uv).parent))
    return None if found is None else Path(_absolute(found))


def _absolute(path: str | Path) -> str:
    """An absolute path. Links stay: the one named by the user lasts longer than its target."""
    return os.path.abspath(path)  # noqa: PTH100 - pathlib keeps `..`


def _source() -> str:
    """Where uvx gets the package that runs now."""
    distribution = importlib.metadata.distribution(PACKAGE)
    origin: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = str(origin.get("url", ""))
    if not url:
        return f"{PACKAGE}=={distribution.version}"
    if "vcs_info" in origin:
        version = origin["vcs_info"]
        return f"{PACKAGE} @ {version['vcs']}+{url}@{version['commit_id']}"
    if url.startswith("file:"):
        return url2pathname(urlsplit(url).path)
    return f"{PACKAGE} @ {url}"
