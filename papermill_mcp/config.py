"""The settings: one frozen model, and where its values come from.

Strongest first: command-line flags, `JUPYTER_MCP_*` environment variables, a JSON file, defaults. An unknown flag, an
unknown key and a misspelt variable are rejected, with the nearest known name. Other variables belong to other servers.

The file is the one that the user names, else `config.json` in the user's configuration directory of this server. The
directory in which the server starts is never searched: its files may come from anywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from papermill_mcp.errors import listed, nearest

#: The command, and the name of the user's directories for settings and for state.
PROGRAM = "jupyter-papermill-mcp"

ENV_PREFIX = "JUPYTER_MCP_"

#: How alike a variable must be to the name of a setting to count as a misspelling of it, from 0 to 1.
_MISSPELT = 0.85

#: The groups in which tools are registered.
ToolsetName = Literal["notebook", "kernel", "execution", "server"]


class ConfigError(Exception):
    """The settings cannot be used. The message is for the person who starts the server."""


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
    max_images: int = Field(5, ge=0, le=100, description="images shown in a reply")
    max_image_pixels: int = Field(1568, ge=16, le=8192, description="pixels on the long side of an image in a reply")
    max_notebook_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="bytes; larger notebooks are refused")
    prewarm_kernels: int = Field(
        0, ge=0, le=10, description="spare Python kernels kept ready, from the first use of a kernel on"
    )
    read_only: bool = Field(False, description="register no tool that writes files")
    no_execute: bool = Field(False, description="register no tool that runs code")
    toolsets: list[ToolsetName] = Field(
        [*get_args(ToolsetName)], min_length=1, description="which groups of tools to register"
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
        description="address of a Dask scheduler for batches, tcp://host:port (extra `cluster`)",
    )
    i_know: bool = Field(False, description="allow the whole file system (/) as a root")

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Refuse text that no file name and no variable can be."""
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
        return value


class _Environment(EnvSettingsSource):
    """Reads lists as `a:b` (the platform's path separator, or commas) as well as JSON."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> list[str]:
        return _split(value, _variable(field_name))


class _File(JsonConfigSettingsSource):
    """Reads a JSON object without its comments."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            values = json.loads(file_path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds something else")
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the settings file {str(file_path)!r} cannot be read as a JSON object: {error}"
            ) from error
        values = {key: value for key, value in values.items() if not key.startswith("//")}
        for key in values:
            if key not in Config.model_fields:
                raise ConfigError(_unknown("key", key, Config.model_fields) + f" (in {str(file_path)!r})")
        return values


class _Settings(Config, BaseSettings):
    """`Config` as read from its sources."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX)

    config: Path | None = Field(None, description="read settings from this JSON file")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment and file, strongest first. `load_config` passes the flags and the path of the file."""
        file = _File(settings_cls, json_file=init_settings()["config"])
        return init_settings, _Environment(settings_cls), file


def _split(text: str, source: str) -> list[str]:
    text = text.strip()
    if text.startswith("["):
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}: {text[:100]!r} begins like a JSON list but is none: {error}") from error
        return decoded if isinstance(decoded, list) else [decoded]
    separator = os.pathsep if os.pathsep in text else ","
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
Every flag is also an environment variable (--max-kernels is
JUPYTER_MCP_MAX_KERNELS) and a key of a JSON file (max_kernels). Strongest
first: flags, environment, file, defaults. Lists: repeat the flag, or separate
by {separator!r}, or give JSON.

The file is the one named by --config or {variable}, else your own:
{user_file}
Keys that begin with // are comments. The directory in which the server starts
is not searched for settings."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that every bad setting is reported in one way."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def build_parser() -> argparse.ArgumentParser:
    """The command line: a flag for each setting, with its unit and default.

    CliSettingsSource reads no switch that stands alone or has a value, and no list separated by `:`. So argparse it is.
    """
    parser = _Parser(
        prog=PROGRAM,
        description="MCP server for Jupyter notebooks, over stdio. An MCP client starts it; see README.md for how to\n"
        "register it with yours.",
        epilog=_EPILOG.format(
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
        ConfigError: something is unknown, malformed or missing; the message names it and its source.
    """
    flags = _read_flags(argv)
    _check_variables()
    file = _settings_file(flags.pop("config", None) or os.environ.get(_variable("config")))
    try:
        settings = _Settings(**flags, config=file)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = _variable(name)
        in_environment = variable in map(str.upper, os.environ)
        source = _flag(name) if name in flags else variable if in_environment else file or "the defaults"
        where = "".join(f"[{part}]" for part in first["loc"][1:])
        raise ConfigError(f"{name}{where} from {source}: {first['msg']}, got {first['input']!r}") from error
    config = Config(**settings.model_dump(exclude={"config"}))
    _check_roots(config)
    _check_extras(config)
    return config


def _read_flags(argv: Sequence[str]) -> dict[str, Any]:
    parsed, unknown = build_parser().parse_known_args(list(argv))
    if unknown:
        raise ConfigError(_unknown("flag", unknown[0].partition("=")[0], map(_flag, _Settings.model_fields)))
    return vars(parsed)


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
    file = Path(named) if named else _user_file()
    # Unlike Path.is_file, os.path.isfile is false below a directory of another user.
    if file is None or not os.path.isfile(file):  # noqa: PTH113
        if named:
            raise ConfigError(f"the settings file {named!r} does not exist")
        return None
    return file.absolute()  # pydantic-settings would expand a directory that is named ~


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


def _check_roots(config: Config) -> None:
    for root in config.roots:
        if not root.is_dir():
            raise ConfigError(f"the root {str(root)!r} is not a directory that exists")
        resolved = root.resolve()
        if resolved == Path(resolved.anchor) and not config.i_know:
            raise ConfigError(f"the root {str(root)!r} is the whole file system; add --i-know if you mean it")
    roots = [root.resolve() for root in config.roots]
    output = (roots[0] / config.output_directory).resolve()
    if not any(output.is_relative_to(root) for root in roots):
        raise ConfigError(f"output_directory {str(config.output_directory)!r} is not inside a root")


def _check_extras(config: Config) -> None:
    """Packages that only some settings need."""
    if config.dask_scheduler is not None and importlib.util.find_spec("distributed") is None:
        raise ConfigError(
            "dask_scheduler is set, but Dask is not installed; install it with: "
            'pip install "jupyter-papermill-mcp-server[cluster]"'
        )
