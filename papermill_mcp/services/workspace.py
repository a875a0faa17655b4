"""The one path resolver: which files the tools may touch, and their names for clients.

A path from a client is text until it has passed here. It is looked at as text first, then resolved with every symbolic
link, and the result must lie inside a root, component by component. Nothing is opened. A path that leaves the roots
gets the same answer whether or not there is something at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from papermill_mcp.config import remote_url
from papermill_mcp.errors import (
    NotFoundError,
    PathNotAllowedError,
    PermissionDeniedError,
    ServerError,
    alike,
    listed,
)
from papermill_mcp.utils.file_utils import kind_of_file, list_directory, make_directory

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 4096
MAX_PARTS = 256
MAX_LINKS = 40  # as Linux
_NOT_TOUCHED = "Nothing was read or written"
_SUFFIX = ".ipynb"

#: Names that are looked at for a path that is not found, for how long, and how many are shown.
_NEAR_NAMES = 2000
_NEAR_SECONDS = 0.3
_NEAR_SHOWN = 3

_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/{2}")
_SECRET = re.compile(r"(?<=://)[^/]*@|[?#].*", re.DOTALL)
"""Parts of a URL that may have credentials: a user and its password, a query."""
_SEPARATORS = re.compile(r"[/\\]" if os.sep == "\\" else "/")
_BAD_ENDS = " .\"'`"
_INVISIBLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0}
"""Characters without a shape that Unicode does not count as format characters, or that no name needs."""
_SHOWN_PATH = 200  # characters of a path in a message


class Workspace:
    """The directories that the file tools may use.

    Args:
        roots: existing directories. The first is the workspace: relative paths start there.
        private: directories inside the roots that no tool may touch, such as the state directory.
        awaited: real paths of all roots, if some are not there yet. They make the name. Without any root, no path may
            be resolved before `add`.
        remote: URLs below which outputs may be, in their one form.

    Attributes:
        usable: set as soon as there is a root.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        private: Sequence[Path] = (),
        awaited: Sequence[Path] | None = None,
        remote: Sequence[str] = (),
    ) -> None:
        if not roots and awaited is None:
            raise ValueError("a workspace needs at least one root")
        self.usable = asyncio.Event()
        self._roots = tuple(dict.fromkeys(root.resolve(strict=True) for root in roots))
        for root in self._roots:
            if not root.is_dir():
                raise NotADirectoryError(f"{root} is not a directory")
        # /tmp is a link on some systems: a root may also be named as the settings name it.
        self._spellings = [(spelled, root.resolve()) for root in roots for spelled in (root.absolute(), root.resolve())]
        self._private = tuple(directory.resolve() for directory in private)
        self._remote = tuple(remote)
        self._name = json.dumps([str(root) for root in (self._roots if awaited is None else dict.fromkeys(awaited))])
        if self._roots:
            self.usable.set()

    def add(self, root: Path) -> None:
        """Take one more root, by its real path. Relative paths still start at the first one."""
        if root not in self._roots:
            self._spellings = [*self._spellings, (root, root)]
            self._roots = (*self._roots, root)
        self.usable.set()

    @property
    def roots(self) -> tuple[Path, ...]:
        """The real paths of the roots."""
        return self._roots

    @property
    def name(self) -> str:
        """The real paths of the roots as text. Servers with the same roots share executions and keys."""
        return self._name

    def holds(self, path: Path) -> bool:
        """Whether a real path is inside a root."""
        return self._inside(path)

    def real_path(self, path: str) -> Path:
        """The real path of any name inside the roots, whether or not there is a file.

        Raises:
            PathNotAllowedError: it leaves the roots.
        """
        return self._resolve(_understood(path))

    def notebook(self, path: str, *, writing: bool = False) -> Path:
        """The real path of a notebook, which exists unless it is to be written.

        A notebook to be written may be in a directory that is not there yet: `make_directory_of` makes it.

        Raises:
            PathNotAllowedError: it leaves the roots, is no `.ipynb`, or is not a regular file.
            NotFoundError: there is no such file; when writing, a part before the last is no directory.
        """
        path = _understood(path)
        real = self._resolve(path)
        for named in ((_parts(path) or [""])[-1], real.name):  # a link must not dress up another kind of file
            if not named.lower().endswith(_SUFFIX) or len(named) == len(_SUFFIX):
                self._refuse(
                    f"{_quoted(path)} is not a notebook: its name does not end in {_SUFFIX}"
                    + ("" if writing else _meant(self._near(real, path))),
                    roots=False,
                )
        status = self._status(real, path)
        if status is None:
            if not writing:
                raise self.not_found(real, path)
            self._check_missing(real, path)
        elif not stat.S_ISREG(status.st_mode):
            self._refuse(f"{_quoted(path)} is {kind_of_file(status.st_mode)}, not a regular file", roots=False)
        if writing:
            self._check_not_hidden(real, path)
        return real

    def remote(self, path: str, *, directory: bool = False) -> str | None:
        """The URL of an output in an object store, in its one form; None for the path of a file.

        Nothing is connected.

        Args:
            directory: it is the place of several outputs, else a notebook.

        Raises:
            PathNotAllowedError: it is below none of the URLs for outputs, or is no name of a notebook.
        """
        if not _URL.match(path) or path.partition("://")[0].lower() == "file":
            return None
        if len(path) > MAX_PATH_BYTES // 4 or any(map(_is_suspect, path)):
            self._refuse("The URL is too long, or has an invisible character", remote=True)
        try:
            url = remote_url(path)
        except ValueError as error:
            if not self._remote:
                self.check_text(path)
            self._refuse(f"{_quoted(path)} is no URL for an output: {error}", remote=True)
        if not any(url == one or url.startswith(f"{one}/") for one in self._remote):
            self._refuse(f"{_quoted(path)} is not below a URL of the setting remote_outputs", remote=True)
        if not directory:
            name = url.rpartition("/")[2]
            if "/" not in url.partition("://")[2] or not name.lower().endswith(_SUFFIX) or len(name) == len(_SUFFIX):
                self._refuse(f"{_quoted(path)} is not a notebook: its name does not end in {_SUFFIX}", remote=True)
        return url

    def is_link(self, path: str) -> bool:
        """Whether the last part of a path is a symbolic link.

        Raises:
            PathNotAllowedError: its directory leaves the roots.
        """
        given = Path(path)
        real = self._resolve(str(given.parent)) / given.name
        status = self._status(real, path)
        return status is not None and stat.S_ISLNK(status.st_mode)

    def not_found(self, real: Path, path: str) -> NotFoundError:
        """The error about a notebook that is not there, with the nearest names."""
        return NotFoundError(
            f"{_quoted(path)} does not exist{_meant(self._near(real, path))}",
            state=_NOT_TOUCHED,
            advice="List the notebooks there are",
        )

    def _near(self, real: Path, path: str) -> list[str]:
        """Names of notebooks that a path may have meant: in its directory, in the workspace and one level below."""
        deadline = time.monotonic() + _NEAR_SECONDS
        found: dict[str, None] = {}

        def look(place: Path) -> list[Path]:
            try:
                entries, _ = list_directory(
                    place, display_path=path, suffix=_SUFFIX, limit=_NEAR_NAMES - len(found), deadline=deadline
                )
            except ServerError:
                return []
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            found.update((self.display_path(place / entry.name), None) for entry in visible if entry.kind == "file")
            return [place / entry.name for entry in visible if entry.kind == "directory"]

        below = look(self._roots[0])
        for place in dict.fromkeys([real.parent, *below]):
            if self._inside(place) and not self.is_private(place) and len(found) < _NEAR_NAMES:
                look(place)
        asked = self.display_path(real).removesuffix(_SUFFIX)
        name = real.name.lower()
        same = [one for one in found if one.rpartition("/")[2].lower() in (name, name + _SUFFIX)]
        stems = {one[: -len(_SUFFIX)]: one for one in found}  # the suffix that all have makes none alike
        return [*dict.fromkeys([*same, *(stems[stem] for stem in alike(asked, [*stems]))])][:_NEAR_SHOWN]

    def directory(self, path: str, *, create: bool = False, make: bool = True) -> Path:
        """The real path of a directory; with `create`, one that may be written to and is made if missing.

        Args:
            make: with `create`, make it now; otherwise it may stay missing.

        Raises:
            PathNotAllowedError: it leaves the roots, or is no directory.
            NotFoundError: there is no such directory.
        """
        path = _understood(path)
        real = self._resolve(path)
        if create:
            self._check_not_hidden(real, path)
        status = self._status(real, path)
        if status is None:
            if not create:
                raise NotFoundError(f"The directory {_quoted(path)} does not exist", state=_NOT_TOUCHED)
            if make:
                make_directory(real, display_path=_quoted(path))
        elif not stat.S_ISDIR(status.st_mode):
            self._refuse(f"{_quoted(path)} is not a directory", roots=False)
        return real

    def make_directory_of(self, file: Path) -> None:
        """Make the missing directories of a file to be written, by its real path. A root itself is not made.

        Raises:
            NotFoundError: the root is gone.
            ServerError: a directory cannot be made.
        """
        root = max((root for root in self._roots if file.is_relative_to(root)), key=lambda root: len(root.parts))
        if not root.is_dir():
            self._missing_directory(self.display_path(file))
        make_directory(file.parent, display_path=self.display_path(file.parent))

    def require_unmoved(self, path: Path) -> None:
        """Raise if a real path is none any more: a directory on the way was replaced by a symbolic link.

        File tools open each directory by descriptor and need no such check. It is for programs that are started there.

        Raises:
            PathNotAllowedError: it was.
        """
        try:
            real = os.path.realpath(path)
        except OSError:  # the file of a moment ago is gone
            real = ""
        if Path(real) != path:
            self._refuse(
                f"A directory of {_quoted(str(path))} was replaced by a symbolic link since it was checked", roots=False
            )

    def display_path(self, path: Path) -> str:
        """The name of a path for clients: relative to the workspace when inside it, else absolute."""
        try:
            return path.relative_to(self._roots[0]).as_posix()
        except ValueError:
            return path.as_posix()

    def is_private(self, path: Path) -> bool:
        """Whether a real path belongs to this server alone."""
        return any(path.is_relative_to(directory) for directory in self._private)

    def same_file(self, a: Path, b: Path) -> bool:
        """Whether both names lead to one file: device and inode, so links and spellings do not matter."""
        if a == b:
            return True
        try:
            return os.path.samestat(os.stat(a), os.stat(b))  # noqa: PTH116 - samestat takes no result of a Path method
        except OSError:
            return False

    def _resolve(self, path: str) -> Path:
        self.check_text(path)
        real = self._followed(path)
        if self.is_private(real):
            self._refuse(f"{_quoted(path)} is inside a directory that belongs to this server", roots=False)
        return real

    def check_text(self, path: str) -> None:
        """Refuse text that cannot be a path, before any system call.

        Raises:
            PathNotAllowedError: it cannot.
        """
        if not path:
            self._refuse("The path is empty")
        if len(path) > MAX_PATH_BYTES:
            self._refuse(f"The path has {len(path):,} characters; {MAX_PATH_BYTES:,} bytes are the limit", roots=False)
        for character in path:
            if _is_suspect(character):
                self._refuse(f"The path {_quoted(path)} has the character {_code_point(character)}", roots=False)
        if _URL.match(path):
            self._refuse(
                f"{_quoted(path)} is a URL, and only files are read or written"
                + (", but for outputs of Papermill runs and batches" if self._remote else "")
            )
        if len(path.encode()) > MAX_PATH_BYTES:
            self._refuse(f"The path has {len(path.encode()):,} bytes; {MAX_PATH_BYTES:,} are the limit", roots=False)
        if os.name == "nt" and ":" in os.path.splitdrive(path)[1]:
            self._refuse(f"{_quoted(path)} has a colon, which names a stream of a file", roots=False)
        parts = _parts(path)
        if len(parts) > MAX_PARTS:
            self._refuse(f"The path has {len(parts):,} parts; {MAX_PARTS} are the limit", roots=False)
        for part in parts:
            if len(part.encode()) > MAX_PART_BYTES:
                self._refuse(
                    f"A part of the path has {len(part.encode()):,} bytes; {MAX_PART_BYTES} are the limit", roots=False
                )
            if part.startswith("-"):
                self._refuse(f"The part {_quoted(part)} starts with -, which programs take for an option", roots=False)
            if part not in {".", ".."} and (part[-1] in _BAD_ENDS or part[-1].isspace()):
                self._refuse(f"The part {_quoted(part)} ends with {_code_point(part[-1])}", roots=False)

    def _followed(self, path: str) -> Path:
        """The real path, followed link by link inside the roots only: nothing outside is ever looked at."""
        given = Path(path)
        current = self._roots[0]
        pending = list(reversed(given.parts))
        if given.is_absolute() or given.drive:
            for spelled, real in self._spellings:
                if given.is_relative_to(spelled):
                    current = real
                    pending = list(reversed(given.parts[len(spelled.parts) :]))
                    break
            else:
                self._outside(path)
        self.require_unmoved(current)
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                current = current.parent
                self._check_on_the_way(current, pending, path)
                continue
            current = current / part
            self._check_on_the_way(current, pending, path)
            status = self._status(current, path)
            if status is None:
                # Nothing is there, so nothing below it can be a link. `..` takes the last part away again.
                continue
            if not stat.S_ISLNK(status.st_mode):
                if pending and not stat.S_ISDIR(status.st_mode):
                    self._missing_directory(path)
                continue
            links += 1
            if links > MAX_LINKS:
                self._refuse(
                    f"{_quoted(path)} leads through a loop of symbolic links, or through too many", roots=False
                )
            target = Path(self._link(current, path))
            if target.is_absolute():
                current = Path(target.anchor)
                pending += reversed(target.parts[1:])
            else:
                current = current.parent
                pending += reversed(target.parts)
        if not self._inside(current):
            self._outside(path)
        self.require_unmoved(current)
        return current

    def _check_on_the_way(self, current: Path, pending: Sequence[str], path: str) -> None:
        """Let a path go on inside a root, or towards one. Directories above a root are real: they are not looked at."""
        if self._inside(current):
            return
        rest = Path(current, *reversed(pending))
        if not any(root.is_relative_to(current) for root in self._roots) or not self._inside(_lexical(rest)):
            self._outside(path)

    def _inside(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)

    def _status(self, real: Path, path: str) -> os.stat_result | None:
        if not self._inside(real):
            return None
        try:
            return os.lstat(real)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            self._missing_directory(path)
        except PermissionError:
            raise PermissionDeniedError(
                f"{_quoted(path)} is in a directory that may not be entered", state=_NOT_TOUCHED
            ) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._refuse(f"{_quoted(path)} cannot be looked at: {reason}", roots=False)

    def _link(self, real: Path, path: str) -> str:
        try:
            return os.readlink(real)  # noqa: PTH115 - Path.readlink would drop trailing parts such as "."
        except OSError:
            self._refuse(f"{_quoted(path)} changed while it was looked at", roots=False)

    def _check_missing(self, real: Path, path: str) -> None:
        """Refuse directories that would be made where a symbolic link leads, and not where the path says."""
        missing = [real.name]
        for directory in real.parents:
            if self._status(directory, path) is not None or not self._inside(directory):
                break
            missing.insert(0, directory.name)
        if len(missing) > 1 and list(_lexical(Path(path)).parts[-len(missing) :]) != missing:
            self._missing_directory(path)

    def _check_not_hidden(self, real: Path, path: str) -> None:
        # Of nested roots the inner one counts: a root that is itself hidden was chosen on purpose.
        root = max((root for root in self._roots if real.is_relative_to(root)), key=lambda root: len(root.parts))
        hidden = next((part for part in real.relative_to(root).parts if part.startswith(".")), None)
        if hidden is not None:
            self._refuse(f"{_quoted(path)} is hidden: {_quoted(hidden)} starts with a dot", roots=False)

    def _missing_directory(self, path: str) -> NoReturn:
        raise NotFoundError(
            f"The directory of {_quoted(path)} does not exist, or is none",
            state=_NOT_TOUCHED,
            advice="Choose another one",
        )

    def _outside(self, path: str) -> NoReturn:
        self._refuse(f"{_quoted(path)} leads out of the roots")

    def _refuse(self, what: str, *, roots: bool = True, remote: bool = False) -> NoReturn:
        if remote:
            places = (
                f"may be below: {listed(self._remote)}" if self._remote else "are files, as remote_outputs is empty"
            )
            advice = "Give a path inside a root, or have the person who runs the server add a URL to remote_outputs"
            raise PathNotAllowedError(what, allowed=f"Outputs {places}", state=_NOT_TOUCHED, advice=advice)
        allowed = f"Paths are relative to the first root, or absolute inside one of: {listed(map(str, self._roots))}"
        raise PathNotAllowedError(
            what,
            allowed=allowed,
            state=_NOT_TOUCHED,
            advice="Give a path inside a root" if roots else "Use another path",
        )


def _meant(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(map(_quoted, names))}?" if names else ""


def _understood(path: str) -> str:
    """A path as it is meant: `~` stands for the home directory, and a `file://` URI of this machine for its path."""
    if path == "~" or path.startswith("~/"):
        return f"{Path.home()}{path[1:]}"
    scheme, _, rest = path.partition("://")
    host, slash, below = rest.partition("/")
    if scheme.lower() == "file" and slash and host.lower() in ("", "localhost"):
        return unquote(f"/{below}")
    return path


def _parts(path: str) -> list[str]:
    return [part for part in _SEPARATORS.split(path) if part]


def _lexical(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _is_suspect(character: str) -> bool:
    # Cc control, Cf format (bidi, zero-width, tags), Cs surrogates, Zl and Zp line breaks.
    if character.isascii():
        return not character.isprintable()
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} or _is_filler(ord(character))


def _is_filler(code: int) -> bool:
    return code in _INVISIBLE or 0xE0000 <= code <= 0xE0FFF or 0x180B <= code <= 0x180F or 0xFFF0 <= code <= 0xFFF8


def _code_point(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X} ({name})" if name else f"U+{ord(character):04X}"


def _quoted(path: str) -> str:
    if _URL.match(path):
        path = _SECRET.sub("…", path)
    text = "".join(f"⟨U+{ord(c):04X}⟩" if _is_suspect(c) else c for c in path[:_SHOWN_PATH])
    return f"'{text}'" if len(path) <= _SHOWN_PATH else f"'{text}…'"


def short_stem(path: Path) -> str:
    """The name of a file without its ending, cut so that a name made from it fits into a directory entry."""
    return os.fsencode(path.stem)[: MAX_PART_BYTES - 55].decode("utf-8", "ignore")
