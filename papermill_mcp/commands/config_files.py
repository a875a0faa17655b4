"""Files of other programs: read whole, saved atomically, with a copy of the old version beside them."""

from __future__ import annotations

import codecs
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from papermill_mcp.errors import ServerError
from papermill_mcp.utils.file_utils import FileContent, create_private_file, make_directory, read_file, write_file

_MAX_BYTES = 64 * 1024 * 1024

#: Copies of one second that get names of their own.
_COPIES = 100


class ConfigFileError(Exception):
    """The file cannot be read or written. It is unchanged, and the message says why."""


@dataclass(frozen=True)
class ConfigFile:
    """One version of a file.

    Attributes:
        path: as the client names it.
        real: the same without symbolic links.
        text: without the byte order mark that a file may begin with.
        content: the bytes; None if there is no file.
    """

    path: Path
    real: Path
    text: str
    content: FileContent | None

    def save(self, text: str) -> Path | None:
        """Save a new text. Rights, owner and symbolic links stay. Returns the path of the copy, if there was a file.

        Raises:
            ConfigFileError: the file is read-only, has changed meanwhile, or the system refuses.
        """
        data = text.encode("utf-8")
        try:
            if self.content is None:
                make_directory(self.real.parent, display_path=str(self.path.parent))
                write_file(self.real, data, expected=None, display_path=str(self.path))
                return None
            if not stat.S_IMODE(self.real.stat().st_mode) & 0o222:
                raise ConfigFileError(f"{self.path} is read-only")
            copy = self._copy(self.content.data)
            try:
                marked = self.content.data.startswith(codecs.BOM_UTF8)
                data = codecs.BOM_UTF8 + data if marked else data
                write_file(self.real, data, expected=self.content, display_path=str(self.path))
            except BaseException:
                copy.unlink(missing_ok=True)
                raise
        except ServerError as error:
            raise ConfigFileError(_words(error)) from error
        except OSError as error:
            raise ConfigFileError(f"{self.path} could not be saved: {error.strerror or error}") from error
        return copy

    def _copy(self, data: bytes) -> Path:
        """A copy that only the user can read, since such files hold tokens."""
        time = datetime.now().strftime("%Y%m%d-%H%M%S")
        for number in range(_COPIES):
            copy = self.path.with_name(f"{self.path.name}.{time}{f'-{number}' if number else ''}.bak")
            try:
                create_private_file(copy, data)
            except FileExistsError:
                continue
            except OSError:
                copy.unlink(missing_ok=True)
                raise
            return copy
        raise ConfigFileError(f"{self.path} has too many copies of this second")


def read_config(path: Path) -> ConfigFile:
    """Read a file. One that does not exist has an empty text.

    Raises:
        ConfigFileError: it cannot be read, or is not a text in UTF-8.
    """
    try:
        real = Path(os.path.realpath(path))
        if not os.path.lexists(real):
            return ConfigFile(path, real, "", None)
        content = read_file(real, max_bytes=_MAX_BYTES, display_path=str(path))
        return ConfigFile(path, real, content.data.removeprefix(codecs.BOM_UTF8).decode("utf-8"), content)
    except ServerError as error:
        raise ConfigFileError(_words(error)) from error
    except OSError as error:
        raise ConfigFileError(f"{path} could not be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{path} is not a text in UTF-8: byte {error.start} is none") from error


def _words(error: ServerError) -> str:
    """The message without its code, which is for models."""
    return str(error).removeprefix(f"{error.code}: ")
