"""The settings: one frozen model, and where its values come from.

Strongest first: command-line flags, `JUPYTER_MCP_*` environment variables, a JSON file, defaults. An unknown flag, an
unknown key and a misspelt variable are faults, with the nearest known name. Other variables belong to other servers.

A fault leaves the other settings as they are. `read_config` gives these and the fault, `load_config` raises it.

The file is the one that the user names, else `config.json` in the user's configuration directory of this server. The
directory in which the server starts is never searched: its files may come from anywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, JsonConfigSettingsSource, SettingsConfigDict

from papermill_mcp.errors import listed, nearest

#: The command, and the name of the user's directories for settings and for state.
PROGRAM = "jupyter-papermill-mcp"

ENV_PREFIX = "JUPYTER_MCP_"

#: How alike a variable must be to the name of a setting to count as a misspelling of it, from 0 to 1.
_MISSPELT = 0.85

#: The groups in which tools are registered.
GroupName = Literal["notebook", "kernel", "execution", "server"]
ToolsetName = Literal[GroupName, "core"]


#: Settings that are paths. A `~` at their beginning stands for the home directory, except in `Path` objects.
_PATHS = ("roots", "output_directory", "state_directory")

#: The schemes of object stores that may keep outputs, and the package that each needs.
REMOTE_SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

_REMOTE_URL = re.compile(r"([A-Za-z0-9]+)://([^/]*)((?:/[^/]+)*)/?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTAINER = re.compile(r"[a-z0-9-]+(@[a-z0-9-]+(\.[a-z0-9-]+)+)?")

#: Characters of a bad value that a message shows.
_SHOWN = 200

#: Faults that one message names. All of them reach the client with each answer.
_MOST_FAULTS = 10


class ConfigError(Exception):
    """The settings cannot be used. The message is for the person who starts the server."""


#: A variable that a client should have replaced, such as `${workspaceFolder}`.
_UNEXPANDED = re.compile(r"\$\{[^{}]*\}?|\$[A-Za-z_]\w*|%[A-Za-z_]\w*%")


class MissingRootError(ConfigError):
    """Roots are no directories now. Nothing else is wrong, so the server can work once they are there."""


class Config(BaseModel):
    """All settings. Units are in the descriptions, which `--help` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roots: list[Path] = Field(
        [Path()], min_length=1, description="directories that the file tools may touch; the first is the workspace"
    )
    jupyter_timeout: float = Field(
        300, gt=0, le=3600, description="seconds to wait for a kernel or a Jupyter server to start or answer"
    )
    execution_timeout: float = Field(
        0.0, ge=0, le=604_800, description="seconds a cell may run unless the call says otherwise; 0 = no limit"
    )
    response_wait: float = Field(
        25.0, ge=0, le=3600, description="seconds a call waits for running code before it answers `running`"
    )
    python: str | None = Field(
        None, min_length=1, description="interpreter or environment for kernels that nothing else decides"
    )
    notebook_environments: Literal["off", "report", "auto"] = Field(
        "report",
        description="effect of packages that a notebook declares (PEP 723): `off` none, `report` they are named in "
        "replies, `auto` an environment with them is made by uv and used",
    )
    continue_on_error: bool = Field(False, description="go on after a cell that raised")
    output_directory: Path = Field(
        Path("outputs"), description="where papermill outputs go by default, relative to the workspace"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="lowest level that is logged, to stderr"
    )
    log_format: Literal["text", "json"] = Field("text", description="`json` gives one object a line")
    max_kernels: int = Field(10, ge=1, le=1000, description="kernels alive at once")
    kernel_idle_timeout: float = Field(
        3600, ge=0, description="seconds of idleness after which a kernel is stopped; 0 = never"
    )
    cleanup_interval: float = Field(300, gt=0, description="seconds between looks for idle kernels")
    kernel_env_deny: list[str] = Field(
        [], description="names of this server's environment variables that kernels must not see"
    )
    error_output_type: Literal["full", "brief"] = Field(
        "full", description="`full` shows tracebacks, `brief` only name and message"
    )
    max_error_output: int = Field(1000, ge=0, le=1_000_000, description="characters of a traceback shown in a reply")
    max_output_chars: int = Field(
        10_000, ge=100, le=10_000_000, description="characters of output text shown in a reply"
    )
    max_images: int = Field(
        5, ge=0, le=100, description="images shown in a reply; with more pictures the last is a contact sheet"
    )
    max_image_pixels: int = Field(1568, ge=16, le=8192, description="pixels on the long side of an image in a reply")
    max_notebook_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="bytes; larger notebooks are refused")
    history_versions: int = Field(
        50, ge=0, le=1000, description="versions of each notebook kept in the state directory; 0 = none"
    )
    history_bytes: int = Field(
        2_000_000_000, ge=1_000_000, description="bytes of all these versions together; the least used go first"
    )
    prewarm_kernels: int = Field(
        0, ge=0, le=10, description="spare Python kernels kept ready, from the first use of a kernel on"
    )
    read_only: bool = Field(False, description="register no tool that writes files")
    no_execute: bool = Field(False, description="register no tool that runs code")
    toolsets: list[ToolsetName] = Field(
        [*get_args(GroupName)],
        min_length=1,
        description="which groups of tools to register; `core` are the few that do nearly all work",
    )
    state_directory: Path | None = Field(
        None, description="for connection files and other state; default: the user state directory of the platform"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port on 127.0.0.1 for Prometheus, 0 takes a free one; extra `monitoring`"
    )
    dask_scheduler: str | None = Field(
        None,
        min_length=1,
        description="Dask scheduler for batches: an address, tcp://host:port or tls://host:port, or the path of its "
        "scheduler file (extra `cluster`)",
    )
    remote_outputs: list[str] = Field(
        [],
        description="URL prefixes (s3://, gs://, abfs://, az://) that outputs of batches and Papermill runs may have "
        "(extra `remote`)",
    )
    i_know: bool = Field(False, description="allow the whole file system (/) as a root")

    @property
    def groups(self) -> set[str]:
        """The groups of which tools are registered. The core has some of each."""
        return set(get_args(GroupName)) if "core" in self.toolsets else set(self.toolsets)

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse text that no file name and no variable can be. Expand `~` in paths."""
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text:
                raise ValueError("it is empty")
            if isinstance(text, str) and "\0" in text:
                raise ValueError("it has a NUL character")
            if isinstance(text, str):
                try:
                    os.fsencode(text)
                except UnicodeEncodeError:
                    raise ValueError("it has a character that the system cannot encode") from None
        if info.field_name in _PATHS:
            return [_expanded(one) for one in value] if isinstance(value, list) else _expanded(value)
        return value

    @field_validator("remote_outputs")
    @classmethod
    def _check_remote(cls, value: list[str]) -> list[str]:
        return [remote_url(prefix) for prefix in value]


def remote_url(text: str) -> str:
    """A URL in an object store in its one form: the scheme in lower case, no slash at the end.

    Raises:
        ValueError: it is none, or has credentials, a query, or a part that could lead elsewhere. The message has no
            part of it.
    """
    found = _REMOTE_URL.fullmatch(text)
    if found is None or found[1].lower() not in REMOTE_SCHEMES:
        raise ValueError(f"it must be a URL that begins with one of {', '.join(f'{one}://' for one in REMOTE_SCHEMES)}")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if (_CONTAINER if scheme == "abfs" else _BUCKET).fullmatch(authority) is None:
        raise ValueError("a bucket must follow ://, without credentials, a port or a query")
    if any(character in path for character in "?#\\") or any(part in (".", "..") for part in path.split("/")):
        raise ValueError("its path must have no part `.` or `..`, no ?, # or backslash")
    return f"{scheme}://{authority}{path}"


class _Settings(Config, BaseSettings):
    """The settings, and the file that they may stand in, for the sources of pydantic-settings.

    `read_config` asks each source by itself, so that it can name the source of a fault and keep the other values.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX)

    config: Path | None = Field(None, description="read settings from this JSON file")


def _expanded(path: Any) -> Any:
    """Text with the home directory in place of a `~` at its beginning. `./~` is a directory of that name."""
    if not isinstance(path, str) or not path.startswith("~"):
        return path
    found = os.path.expanduser(path)  # noqa: PTH111 - Path("./~") has lost its dot
    if not Path(found).is_absolute():
        raise ValueError(f"the home directory of {path.partition('/')[0]!r} is not known; write the whole path")
    return found


def _split(text: str, source: str) -> list[str]:
    text = text.strip()
    if text.startswith("["):
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}: {text[:100]!r} begins like a JSON list but is none: {error}") from error
        return decoded if isinstance(decoded, list) else [decoded]
    separator = os.pathsep if os.pathsep in text and "://" not in text else ","
    return [part.strip() for part in text.split(separator) if part.strip()]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _options(name: str, field: FieldInfo) -> dict[str, Any]:
    """How the command line reads a setting of this type."""
    kind = field.annotation
    if kind is bool:
        return {"nargs": "?", "const": "true", "metavar": "true|false"}
    if get_origin(kind) is list:
        return {"action": "extend", "type": partial(_split, source=_flag(name)), "metavar": "LIST"}
    if get_origin(kind) is Literal:
        return {"metavar": "|".join(get_args(kind))}
    if kind in (int, float, int | None):
        unit = str(field.description).partition(" ")[0].rstrip(";,").upper()
        return {"metavar": unit if unit in ("SECONDS", "CHARACTERS", "BYTES", "PIXELS") else "NUMBER"}
    return {"metavar": "ADDRESS" if kind == str | None else "PATH"}


_EPILOG = """\
PATH alone is a root, as in: {program} ~/project

Every flag is also an environment variable (--max-kernels is
JUPYTER_MCP_MAX_KERNELS) and a key of a JSON file (max_kernels). Strongest
first: flags, environment, file, defaults.

Lists: repeat the flag, or separate the items by {separator!r}, or by ',' if there is
no {separator!r}, or give JSON. In paths, ~ stands for your home directory.

The file is the one named by --config or {variable}, else your own:
{user_file}
Keys that begin with // are comments. The directory in which the server starts
is not searched for settings."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that every bad setting is reported in one way."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def build_parser() -> argparse.ArgumentParser:
    """The command line: a flag for each setting, with its unit and default."""
    parser = _Parser(
        prog=PROGRAM,
        description="MCP server for Jupyter notebooks, over stdio. An MCP client starts it.\n\n"
        "commands:\n"
        "  install CLIENT    write the entry of this server into the settings of a client\n"
        "  uninstall CLIENT  remove it\n"
        "  doctor            check this installation, and run code in a kernel\n"
        "  diff A B          show the cells of two notebooks that differ\n"
        "  history           show or clear the versions of notebooks that are kept",
        usage=f"{PROGRAM} [--flag VALUE ...] [PATH ...]",
        epilog=_EPILOG.format(
            program=PROGRAM,
            variable=_variable("config"),
            user_file=_user_file() or "none, without a home directory",
            separator=os.pathsep,
        ),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help="print the version and exit")
    for name, field in _Settings.model_fields.items():
        default = field.default
        shown = ", ".join(map(str, default)) or "none" if isinstance(default, list) else default
        note = "" if default is None else f" (default: {str(shown).lower() if default is False else shown})"
        text = f"{field.description}{note}".replace("%", "%%")
        parser.add_argument(_flag(name), dest=name, default=argparse.SUPPRESS, help=text, **_options(name, field))
    return parser


def load_config(argv: Sequence[str] = ()) -> Config:
    """Read the settings from flags, environment, file and defaults.

    Raises:
        MissingRootError: a root is no directory, and nothing else is wrong.
        ConfigError: something is unknown, malformed or missing; the message names it and its source.
    """
    config, fault = read_config(argv)
    if fault is not None:
        raise fault
    return config


def read_config(argv: Sequence[str] = ()) -> tuple[Config, ConfigError | None]:
    """The settings as far as they can be read, and their faults as one error.

    A setting that cannot be read has the value of the next source, or its default.
    """
    faults: list[ConfigError] = []
    flags = _read_flags(argv, faults)
    variables = _Variables(faults)()
    with _noting(faults):
        _check_variables()
    file: Path | None = None
    with _noting(faults):
        file = _settings_file(flags.pop("config", None) or variables.pop("config", None))
    variables.pop("config", None)
    sources: dict[str, tuple[str, Any]] = {}  # where the value of a setting stands, and the value
    sources |= {name: (str(file), value) for name, value in _File(file, faults)().items()}
    sources |= {name: (_variable(name), value) for name, value in variables.items() if value is not None}
    sources |= {name: (_flag(name), value) for name, value in flags.items()}
    config = _validated(sources, faults)
    if not faults:
        _check_roots(config, faults)
    with _noting(faults):
        _check_extras(config)
    return config, _as_one(faults)


@contextmanager
def _noting(faults: list[ConfigError]) -> Iterator[None]:
    """Keep a fault for later, and go on behind the block."""
    try:
        yield
    except ConfigError as fault:
        faults.append(fault)


def _as_one(faults: Sequence[ConfigError]) -> ConfigError | None:
    if len(faults) < 2:
        return faults[0] if faults else None
    kind = MissingRootError if all(isinstance(fault, MissingRootError) for fault in faults) else ConfigError
    more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
    return kind(". Also: ".join([*(str(fault).removesuffix(".") for fault in faults[:_MOST_FAULTS]), *more]))


def _validated(sources: dict[str, tuple[str, Any]], faults: list[ConfigError]) -> Config:
    """The settings. A value that does not fit is a fault, and left out."""
    try:
        return Config(**{name: value for name, (_, value) in sources.items()})
    except ValidationError as error:
        problems = {str(problem["loc"][0]): problem for problem in reversed(error.errors())}
    for name, problem in problems.items():
        where = "".join(f"[{part}]" for part in problem["loc"][1:])
        got = "a URL that is not shown" if name == "remote_outputs" else repr(problem["input"])  # it may be a secret
        got = got if len(got) <= _SHOWN else f"{got[:_SHOWN]}…"
        faults.append(ConfigError(f"{name}{where} from {sources[name][0]}: {problem['msg']}, got {got}"))
    return _validated({name: source for name, source in sources.items() if name not in problems}, faults)


def _read_flags(argv: Sequence[str], faults: list[ConfigError]) -> dict[str, Any]:
    found = argparse.Namespace()
    rest: list[str] = []
    with _noting(faults):  # the flags before the fault are in `found` all the same
        _, rest = build_parser().parse_known_args(_with_values(argv), found)
    flags = vars(found)
    if unknown := [argument for argument in rest if argument.startswith("-") and argument != "--"]:
        name = unknown[0].partition("=")[0][:_SHOWN]
        faults.append(ConfigError(_unknown("flag", name, map(_flag, _Settings.model_fields))))
    elif bare := [argument for argument in rest if argument != "--"]:
        named = flags.get("roots", [])
        flags["roots"] = [*bare, *named] if bare[0] == argv[0] else [*named, *bare]
    return flags


def _with_values(argv: Sequence[str]) -> list[str]:
    """The arguments, with a value for each switch that a path follows: the path is a root."""
    switches = {_flag(name) for name, field in Config.model_fields.items() if field.annotation is bool}
    return [
        f"{argument}=true" if argument in switches and _is_path(behind) else argument
        for argument, behind in zip(argv, [*argv[1:], ""], strict=False)
    ]


def _is_path(argument: str) -> bool:
    return argument.startswith(("~", ".")) or os.sep in argument


class _Variables(EnvSettingsSource):
    """The environment: lists as `a:b` (the platform's path separator, or commas) as well as JSON."""

    def __init__(self, faults: list[ConfigError]) -> None:
        super().__init__(_Settings)
        self._faults = faults

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> list[str] | None:
        with _noting(self._faults):
            return _split(value, _variable(field_name))
        return None


class _File(JsonConfigSettingsSource):
    """The JSON object in the settings file, without its comments."""

    def __init__(self, file: Path | None, faults: list[ConfigError]) -> None:
        self._faults = faults
        super().__init__(_Settings, json_file=file)

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            content = json.loads(file_path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds something else")
        except (OSError, ValueError, RecursionError) as error:
            fault = f"the settings file {str(file_path)!r} cannot be read as a JSON object: {error}"
            self._faults.append(ConfigError(fault))
            return {}
        values = {}
        for name, value in content.items():
            if name.startswith("//"):
                continue
            with _noting(self._faults):
                _check_key(name, value, file_path)
                values[name] = value
        return values


def _check_key(name: str, value: Any, file: Path) -> None:
    """Refuse a key that is no setting, and text in place of a number or of a truth value."""
    if name not in Config.model_fields:
        raise ConfigError(_unknown("key", name[:_SHOWN], Config.model_fields) + f" (in {str(file)!r})")
    kind = Config.model_fields[name].annotation
    wanted: Mapping[Any, str] = {bool: "true or false", int: "a number", float: "a number", int | None: "a number"}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and kind in wanted and not (isinstance(value, bool) if kind is bool else number):
        shown = json.dumps(value)[:_SHOWN]
        raise ConfigError(f"{name} from {file}: it must be {wanted[kind]}, without quotes, got {shown}")


def foreign_variables() -> list[str]:
    """Environment variables with our prefix that are no settings. Other servers use the prefix, too."""
    names = (variable.removeprefix(ENV_PREFIX) for variable in os.environ if variable.startswith(ENV_PREFIX))
    return [ENV_PREFIX + name for name in sorted(names) if name.lower() not in _Settings.model_fields]


def _check_variables() -> None:
    """Refuse a variable whose name is all but that of a setting."""
    for variable in foreign_variables():
        # The prefix that all share would make every name look near.
        name, names = variable.removeprefix(ENV_PREFIX), [known.upper() for known in _Settings.model_fields]
        if nearest(name, names, cutoff=_MISSPELT) is not None:
            raise ConfigError(_unknown("environment variable", name, names, prefix=ENV_PREFIX))


def _settings_file(named: str | None) -> Path | None:
    """The file that the user has named, else the user's own if there is one."""
    try:
        file = Path(_expanded(named)) if named else _user_file()
    except ValueError as error:
        raise ConfigError(f"the settings file {named!r} cannot be read: {error}") from None
    # Unlike Path.is_file, os.path.isfile is false below a directory of another user.
    if file is None or not os.path.isfile(file):  # noqa: PTH113
        if named:
            kind = "does not exist" if file is None else _not_a_file(file)
            raise ConfigError(f"the settings file {named!r} {kind}")
        return None
    return file.absolute()


def _not_a_file(path: Path) -> str:
    """The reason why a path is no file. It is not opened: a pipe could wait for ever."""
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return f"is a directory; name a file in it, such as {str(path / 'config.json')!r}"
    return "is not a regular file" if os.path.exists(path) else "does not exist"  # noqa: PTH110 - as above


def _user_file() -> Path | None:
    """The settings file in the user's configuration directory, if the platform knows that directory."""
    try:
        file = user_config_path(PROGRAM, appauthor=False) / "config.json"
    except RuntimeError:  # no home directory
        return None
    # Older platformdirs return a relative path without a home directory or with a relative XDG_CONFIG_HOME.
    return file if file.is_absolute() else None


def _unknown(kind: str, name: str, known: Iterable[str], *, prefix: str = "") -> str:
    known = sorted(known)
    near = nearest(name, known)
    every = listed([prefix + one for one in known], limit=60)
    return f"unknown {kind} {prefix}{name}; " + (f"did you mean {prefix}{near}?" if near else f"known are: {every}")


def real_root(root: Path, *, i_know: bool) -> Path:
    """The real path of a root. `i_know` allows the whole file system.

    Raises:
        MissingRootError: it is no directory now.
        ConfigError: it is the whole file system, a notebook, relative to a directory that is gone, or has a variable.
    """
    try:
        start = Path.cwd() if not root.is_absolute() else root
    except OSError:
        raise ConfigError(
            f"the root {str(root)!r} is relative, and the directory of the start is gone; give --roots a whole path"
        ) from None
    try:
        real = root.resolve(strict=True)
        status = real.stat()
    except PermissionError:
        raise MissingRootError(f"the root {str(root)!r} may not be looked at: permission denied") from None
    except (OSError, RuntimeError):  # a loop of symbolic links
        status = None
    if status is None or not stat.S_ISDIR(status.st_mode):
        if root.suffix == ".ipynb":
            directory = str(Path(os.path.abspath(root)).parent)  # noqa: PTH100 - needs no directory to be there
            raise ConfigError(f"the root {str(root)!r} is a notebook, not a directory; give --roots {directory!r}")
        variable = _UNEXPANDED.search(str(root))
        if variable is not None:
            raise ConfigError(
                f"the client did not put in a value for {variable[0]!r} of the root {str(root)!r}; write the whole "
                "path of the directory there, such as --roots /path/to/notebooks"
            )
        place = "" if root.is_absolute() else f" in {str(start)!r}"
        raise MissingRootError(f"the root {str(root)!r} is not a directory that exists{place}")
    if real == Path(real.anchor) and not i_know:
        place = f"{str(root)!r} is" if root != Path() else f"is the directory of the start, {str(real)!r}:"
        raise ConfigError(
            f"the root {place} the whole file system; name a directory with --roots DIR, "
            "or add --i-know to allow every file"
        )
    return real


def _check_roots(config: Config, faults: list[ConfigError]) -> None:
    roots = []
    for root in config.roots:
        with _noting(faults):
            roots.append(real_root(root, i_know=config.i_know))
    if any(not isinstance(fault, MissingRootError) for fault in faults):
        return
    workspace = roots[0] if roots else config.roots[0].resolve()
    output = (workspace / config.output_directory).resolve()
    if not any(output.is_relative_to(root) for root in [*roots, *(root.resolve() for root in config.roots)]):
        faults.insert(0, ConfigError(f"output_directory {str(config.output_directory)!r} is not inside a root"))


def _check_extras(config: Config) -> None:
    """Packages that only some settings need."""
    if config.dask_scheduler is not None and importlib.util.find_spec("distributed") is None:
        raise ConfigError(
            "dask_scheduler is set, but Dask is not installed; install it with: "
            'pip install "jupyter-papermill-mcp-server[cluster]"'
        )
    schemes = [prefix.partition("://")[0] for prefix in config.remote_outputs]
    for scheme in dict.fromkeys(schemes):
        if importlib.util.find_spec(REMOTE_SCHEMES[scheme]) is None:
            raise ConfigError(
                f"remote_outputs has {scheme}:// prefixes, but {REMOTE_SCHEMES[scheme]} is not installed; install it "
                'with: pip install "jupyter-papermill-mcp-server[remote]"'
            )
