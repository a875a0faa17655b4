"""Where settings come from, which source wins, and what a person is told about a bad one."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import (
    REPOSITORY,
    server_environment,
)
from platformdirs import user_config_path
from pydantic import ValidationError

from papermill_mcp import __version__
from papermill_mcp.config import (
    PROGRAM,
    Config,
    ConfigError,
    MissingRootError,
    build_parser,
    foreign_variables,
    load_config,
    read_config,
)
from papermill_mcp.server.app import state_directory


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the start directory nor the user's configuration directory has a file."""
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def settings_file(content: object, path: Path | str | None = None) -> str:
    """Write a settings file, by default the user's own, and return its path."""
    file = Path(path) if path else user_config_path(PROGRAM, appauthor=False) / "config.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def load(*argv: str, environ: dict[str, str] | None = None) -> Config:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environ or {}).items():
            patch.setenv(name, value)
        return load_config(argv)


def problem(*argv: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        load(*argv, environ=environ)
    return str(raised.value)


def run(*argv: str, environ: dict[str, str] | None = None, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Start the server by hand: its standard input is a terminal."""
    terminal, stdin = pty.openpty()
    try:
        os.write(terminal, b"\4")  # the end of the input
        return subprocess.run(
            [sys.executable, "-P", "-m", "papermill_mcp.main", *argv],
            env=server_environment() | (environ or {}),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=cwd,
        )
    finally:
        os.close(stdin)
        os.close(terminal)


# Which source wins


def test_without_any_source_the_defaults_hold() -> None:
    config = load()

    assert config == Config()
    assert config.execution_timeout == 0.0
    assert config.response_wait == 25.0
    assert config.max_notebook_bytes == 64 * 1024 * 1024


def test_a_flag_is_stronger_than_the_environment_and_that_than_the_file() -> None:
    settings_file({"max_kernels": 1, "max_images": 1, "max_output_chars": 1000})
    environ = {"JUPYTER_MCP_MAX_KERNELS": "2", "JUPYTER_MCP_MAX_IMAGES": "2"}

    config = load("--max-kernels", "3", environ=environ)

    assert (config.max_kernels, config.max_images, config.max_output_chars) == (3, 2, 1000)
    assert config.max_error_output == Config().max_error_output


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_named_file_is_read_in_place_of_the_users_own(how: str) -> None:
    settings_file({"max_kernels": 1})
    other = settings_file({"max_kernels": 7}, "other.json")

    config = load("--config", other) if how == "flag" else load(environ={"JUPYTER_MCP_CONFIG": other})

    assert config.max_kernels == 7


def test_the_file_of_the_flag_is_stronger_than_the_file_of_the_environment() -> None:
    first, second = settings_file({"max_kernels": 1}, "a.json"), settings_file({"max_kernels": 2}, "b.json")

    assert load("--config", first, environ={"JUPYTER_MCP_CONFIG": second}).max_kernels == 1


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        load().max_kernels = 3  # type: ignore[misc]


def test_a_setting_made_directly_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_MCP_MAX_KERNELS", "4")

    assert Config().max_kernels == 10


# The start directory


@pytest.mark.parametrize("content", [{"max_kernels": 3}, {"model_type": "bert"}, [1, 2], "{"])
def test_a_config_json_in_the_start_directory_is_not_read(content: object) -> None:
    """It belongs to the project, and neither configures nor stops the server."""
    settings_file(content, "config.json")

    assert load() == Config()


def test_a_project_cannot_add_roots_or_a_scheduler() -> None:
    """Each file here is one that some program reads from its working directory."""
    wide = {"roots": ["/"], "i_know": True, "dask_scheduler": "tcp://127.0.0.1:1"}
    for name in ("config.json", "jupyter-papermill-mcp.json", ".jupyter-papermill-mcp/config.json"):
        settings_file(wide, name)
    for name in (".config/jupyter-papermill-mcp/config.json", "~/.config/jupyter-papermill-mcp/config.json"):
        settings_file(wide, name)
    settings_file("JUPYTER_MCP_ROOTS=/\nJUPYTER_MCP_I_KNOW=true\n", ".env")
    settings_file("true", "JUPYTER_MCP_I_KNOW")
    settings_file('[tool.pydantic-settings]\nroots = ["/"]\ni_know = true\n', "pyproject.toml")

    assert load() == Config()


@pytest.mark.parametrize(
    "variables", [{"XDG_CONFIG_HOME": "here"}, {"XDG_CONFIG_HOME": "", "HOME": "here"}], ids=["xdg", "home"]
)
def test_a_relative_configuration_directory_is_not_one(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be inside the start directory."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for base in ("here", "here/.config"):
        settings_file({"max_kernels": 3}, f"{base}/{PROGRAM}/config.json")

    assert load() == Config()


def test_a_relative_path_that_the_user_names_is_read() -> None:
    settings_file({"max_kernels": 3}, "config.json")
    settings_file({"max_kernels": 4}, "~/config.json")

    assert load("--config", "config.json").max_kernels == 3
    assert load("--config", "./~/config.json").max_kernels == 4
    assert load(environ={"JUPYTER_MCP_CONFIG": "config.json"}).max_kernels == 3


def test_settings_and_state_have_the_same_name_on_the_platform() -> None:
    assert state_directory(Config()).name == user_config_path(PROGRAM, appauthor=False).name


def test_help_shows_the_path_of_the_users_own_file() -> None:
    assert settings_file({}) in build_parser().format_help()


# Unknown names


def test_an_unknown_key_of_the_file_stops_the_start_and_names_the_nearest() -> None:
    file = settings_file({"max_kernel": 3}, "mine.json")

    message = problem("--config", file)

    assert "max_kernel" in message
    assert "did you mean max_kernels?" in message
    assert "mine.json" in message


def test_an_unknown_flag_stops_the_start_and_names_the_nearest() -> None:
    message = problem("--max-kernel=3")

    assert "unknown flag --max-kernel;" in message
    assert "did you mean --max-kernels?" in message


def test_an_abbreviated_flag_is_unknown() -> None:
    assert "--read" in problem("--read")


def test_a_misspelt_variable_stops_the_start_and_names_the_nearest() -> None:
    message = problem(environ={"JUPYTER_MCP_MAX_KERNEL": "3"})

    assert "JUPYTER_MCP_MAX_KERNEL;" in message
    assert "did you mean JUPYTER_MCP_MAX_KERNELS?" in message


@pytest.mark.parametrize("name", ["PORT", "TOKEN", "OFFLINE", "OUTPUT_DIR", "URL", "XYZZY"])
def test_a_variable_of_another_server_is_named_and_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"JUPYTER_MCP_{name}", "3")

    assert load_config([]) == Config()
    assert foreign_variables() == [f"JUPYTER_MCP_{name}"]


def test_a_name_that_is_like_no_other_is_answered_with_all_there_are() -> None:
    message = problem("--xyzzy")

    assert "--roots" in message
    assert "--config" in message


@pytest.mark.parametrize(
    ("argv", "roots"),
    [
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        (["--roots", "a", "b"], ["a", "b"]),
        (["a", "--roots", "b"], ["a", "b"]),
        (["--max-kernels", "3", "a"], ["a"]),
        (["--read-only", "./a"], ["a"]),
        (["--", "a"], ["a"]),
        (["a,b"], ["a,b"]),
    ],
)
def test_a_path_without_a_flag_is_a_root(argv: list[str], roots: list[str]) -> None:
    for name in ("a", "b", "a,b"):
        Path(name).mkdir()

    config = load(*argv)

    assert config.roots == [Path(root) for root in roots]
    assert config.read_only is ("--read-only" in argv)


@pytest.mark.parametrize("flags", [[], ["--roots"]], ids=["bare", "flag"])
def test_a_notebook_in_place_of_a_root_is_answered_with_the_directory_to_type(flags: list[str]) -> None:
    Path("a.ipynb").touch()

    message = problem(*flags, "a.ipynb")

    assert "'a.ipynb' is a notebook" in message
    assert f"--roots {str(Path.cwd())!r}" in message


# The home directory


@pytest.mark.parametrize("how", ["flag", "bare", "environment", "file"])
def test_a_tilde_is_the_home_directory_in_every_path(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"roots": "~/work", "output_directory": "~/work/out", "state_directory": "~/state"}
    (tmp_path / "work").mkdir()
    flags = [part for name, path in paths.items() for part in ("--" + name.replace("_", "-"), path)]
    settings_file({**paths, "roots": ["~/work"]}, tmp_path / "mine.json")

    match how:
        case "flag":
            config = load(*flags)
        case "bare":
            config = load("~/work", *flags[2:])
        case "environment":
            config = load(environ={f"JUPYTER_MCP_{name.upper()}": path for name, path in paths.items()})
        case _:
            config = load("--config", "~/mine.json")
            assert load(environ={"JUPYTER_MCP_CONFIG": "~/mine.json"}) == config

    assert config.roots == [tmp_path / "work"]
    assert config.output_directory == tmp_path / "work" / "out"
    assert config.state_directory == tmp_path / "state"


def test_a_directory_that_is_named_like_the_home_directory_is_given_with_a_dot() -> None:
    Path("~").mkdir()

    assert load("--roots", "./~").roots == [Path("~")]


@pytest.mark.parametrize("flag", ["--roots", "--state-directory", "--config"])
def test_a_home_directory_that_is_not_known_is_a_fault(flag: str) -> None:
    """The path would be one of the start directory."""
    assert "'~no-such-user' is not known" in problem(flag, "~no-such-user/x")


def test_other_variables_do_not_matter() -> None:
    assert load(environ={"JUPYTER_TOKEN": "x", "MAX_KERNELS": "3"}).max_kernels == 10


# The file


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_settings_file_that_is_missing_is_named(how: str) -> None:
    message = (
        problem("--config", "nowhere.json")
        if how == "flag"
        else problem(environ={"JUPYTER_MCP_CONFIG": "nowhere.json"})
    )

    assert "nowhere.json" in message
    assert "does not exist" in message


def test_a_settings_file_that_is_no_file_is_described_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "is a directory; name a file in it" in problem("--config", str(tmp_path))
    assert "is not a regular file" in problem("--config", str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        "max_kernels = 3",
        "\ufeff{}x",
        '["max_kernels"]',
        "[]",
        "",
    ],
)
def test_a_file_that_is_no_json_object_is_named(content: str) -> None:
    settings_file(content)

    assert "config.json" in problem()


def test_keys_that_begin_with_slashes_are_comments() -> None:
    settings_file({"// kernels": "at once", "max_kernels": 3})

    assert load().max_kernels == 3


@pytest.mark.parametrize("key", ["config", "MAX_KERNELS", "max-kernels", "_settings", "env_file"])
def test_only_the_exact_names_of_settings_are_keys(key: str) -> None:
    settings_file({key: "x.json"})

    assert f"unknown key {key};" in problem()


# Values


@pytest.mark.parametrize(
    ("argv", "environ", "source"),
    [
        (["--max-kernels", "many"], {}, "--max-kernels"),
        (["--max-kernels", "0"], {}, "--max-kernels"),
        ([], {"JUPYTER_MCP_MAX_KERNELS": "1e3"}, "JUPYTER_MCP_MAX_KERNELS"),
        (["--log-level", "LOUD"], {}, "--log-level"),
        (["--execution-timeout=-1"], {}, "--execution-timeout"),
        (["--toolsets", "notebook,kernels"], {}, "--toolsets"),
        (["--read-only", "perhaps"], {}, "--read-only"),
    ],
)
def test_a_bad_value_is_told_with_where_it_stood(argv: list[str], environ: dict[str, str], source: str) -> None:
    message = problem(*argv, environ=environ)

    assert source in message
    assert "got " in message


def test_a_bad_value_in_the_file_is_told_with_the_name_of_the_file() -> None:
    settings_file({"max_kernels": "many"})

    message = problem()

    assert "max_kernels" in message
    assert "config.json" in message


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    assert "--execution-timeout" in problem("--execution-timeout", value)


@pytest.mark.parametrize(
    ("flags", "expected"), [(["--read-only"], True), (["--read-only", "true"], True), (["--read-only=false"], False)]
)
def test_a_switch_may_stand_alone(flags: list[str], expected: bool) -> None:
    assert load(*flags).read_only is expected


@pytest.mark.parametrize(
    "flags",
    [
        ["--roots", "a", "--roots", "b"],
        ["--roots", f"a{os.pathsep}b"],
        ["--roots", "a,b"],
        ["--roots", '["a", "b"]'],
        ["--roots", " a , b "],
    ],
)
def test_a_list_may_be_repeated_separated_or_json(flags: list[str]) -> None:
    Path("a").mkdir()
    Path("b").mkdir()

    assert load(*flags).roots == [Path("a"), Path("b")]


@pytest.mark.parametrize("text", ['["a", "b"]', "a,b", f"a{os.pathsep}b"])
def test_a_list_in_the_environment_reads_as_one_of_the_flags(text: str) -> None:
    Path("a").mkdir()
    Path("b").mkdir()

    assert load(environ={"JUPYTER_MCP_ROOTS": text}).roots == [Path("a"), Path("b")]


def test_a_list_that_begins_like_json_and_is_none_names_its_source() -> None:
    for message, source in (
        (problem("--roots", '["a", b]'), "--roots"),
        (problem(environ={"JUPYTER_MCP_ROOTS": '["a", b]'}), "JUPYTER_MCP_ROOTS"),
    ):
        assert source in message
        assert "JSON" in message


def test_a_repeated_flag_may_mix_the_forms_of_a_list() -> None:
    for name in ("a", "b", "c:d", "e"):
        Path(name).mkdir()

    config = load("--roots", "a,b", "--roots", '["c:d"]', "--roots", "e")

    assert config.roots == [Path("a"), Path("b"), Path("c:d"), Path("e")]


def test_help_and_the_documents_agree_about_lists() -> None:
    shown = re.sub(r"\s+", " ", build_parser().format_help())

    page = re.sub(r"\s+", " ", (REPOSITORY / "docs/settings.md").read_text())
    assert "separate the items by ':', or by ',' if there is no ':', or give JSON" in shown
    assert "separate the items by `:` (`a:b`), or by `,` if there is no `:` (`a,b`), or give JSON" in page
    assert load(environ={"JUPYTER_MCP_KERNEL_ENV_DENY": f"a,b{os.pathsep}c"}).kernel_env_deny == ["a,b", "c"]


def test_an_empty_list_of_roots_is_refused() -> None:
    assert "--roots" in problem("--roots", "[]")


# Roots


def test_a_root_that_is_missing_is_named() -> None:
    assert "'nowhere' is not a directory that exists" in problem("--roots", "nowhere")


@pytest.mark.parametrize("variable", ["${workspaceFolder}", "$HOME", "%USERPROFILE%"])
def test_a_variable_that_the_client_did_not_replace_is_named(variable: str) -> None:
    message = problem("--roots", f"/work/{variable}/notebooks")

    assert f"the client did not put in a value for {variable!r}" in message
    assert "--roots /path/to/notebooks" in message
    assert "exists" not in message


def test_a_directory_with_the_name_of_a_variable_is_a_root() -> None:
    Path("${mine}").mkdir()
    assert load("--roots", "${mine}").roots == [Path("${mine}")]


@pytest.mark.case("P25")
def test_a_root_that_is_a_file_is_named() -> None:
    Path("file").touch()

    assert "'file' is not a directory" in problem("--roots", "file")


@pytest.mark.case("P25")
@pytest.mark.parametrize("root", ["/", "//", "/usr/.."])
def test_the_whole_file_system_as_a_root_needs_to_be_meant(root: str) -> None:
    assert "--i-know" in problem("--roots", root)
    assert load("--roots", root, "--i-know").roots == [Path(root)]


def test_a_link_to_the_whole_file_system_is_the_whole_file_system() -> None:
    Path("link").symlink_to("/")

    assert "--i-know" in problem("--roots", "link")


@pytest.mark.parametrize("i_know", [(), ("--i-know",)])
def test_the_directory_of_the_start_may_be_the_whole_file_system_only_if_that_is_meant(
    i_know: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients with windows start servers."""
    monkeypatch.chdir("/")

    if i_know:
        assert load(*i_know).roots == [Path()]
    else:
        assert "--roots DIR" in problem()


def test_only_missing_roots_are_a_fault_that_may_pass(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(MissingRootError, match="missing"):
        load("--roots", missing, "--roots", str(tmp_path))
    for flags in (["--max-kernels", "x"], ["--roots", "/"], ["--output-directory", "/"], ["--xyzzy"]):
        _, fault = read_config(["--roots", missing, *flags])
        assert type(fault) is ConfigError, flags


def test_every_fault_is_named_and_the_other_settings_are_read() -> None:
    file = settings_file({"max_kernel": 3, "max_images": "3", "max_output_chars": 500}, "mine.json")
    argv = ["--config", file, "--max-kernels", "x", "--read-only", "--no-such-flag", "--toolsets", "notebook"]

    config, fault = read_config(argv)

    assert (config.max_output_chars, config.read_only, config.toolsets) == (500, True, ["notebook"])
    assert (config.max_kernels, config.max_images) == (Config().max_kernels, Config().max_images)
    for named in ("--max-kernels", "--no-such-flag", "max_images", "max_kernel;"):
        assert named in str(fault)


def test_many_faults_are_counted() -> None:
    settings_file({f"unknown_{number}": 1 for number in range(1000)})
    message = problem()

    assert "unknown_0" in message
    assert "and 990 more" in message
    assert len(message) < 20_000


# Extras


def test_a_scheduler_without_the_packages_for_it_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command that mends it."""
    monkeypatch.setitem(sys.modules, "distributed", None)

    message = problem("--dask-scheduler", "tcp://127.0.0.1:8786")

    assert 'pip install "jupyter-papermill-mcp-server[cluster]"' in message
    assert load().dask_scheduler is None


def test_an_address_of_a_scheduler_may_be_of_any_protocol() -> None:
    assert load("--dask-scheduler", "tls://host:8786").dask_scheduler == "tls://host:8786"
    assert "--dask-scheduler" in problem("--dask-scheduler", "")


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("S3://Bucket/a/", "s3://Bucket/a"),
        ("s3://bucket", "s3://bucket"),
        ("gs://bucket/a b/c", "gs://bucket/a b/c"),
        ("abfs://files@account.dfs.core.windows.net/a", "abfs://files@account.dfs.core.windows.net/a"),
        ("az://container/a", "az://container/a"),
    ],
)
def test_urls_for_outputs_have_one_form(given: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # each client of a store is installed
    assert load("--remote-outputs", given).remote_outputs == [form]
    both = load(environ={"JUPYTER_MCP_REMOTE_OUTPUTS": f"{given},s3://other"})
    assert both.remote_outputs == [form, "s3://other"]


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket/a",
        "bucket",
        "s3:/bucket",
        "s3://",
        "s3://bucket/../secret-word",
        "s3://bucket//secret-word",
        "s3://key:secret-word@bucket",
        "s3://bucket/a?secret-word",
        "s3://bucket/a#secret-word",
        "abfs://u:secret-word@account",
        "memory://secret-word",
    ],
)
def test_a_url_that_is_no_place_for_outputs_is_a_fault_and_not_repeated(url: str) -> None:
    message = problem("--remote-outputs", json.dumps([url]))

    assert message.startswith("remote_outputs")
    assert "secret-word" not in message


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs"), ("az", "adlfs")])
def test_urls_without_the_package_for_them_are_a_fault(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    message = problem("--remote-outputs", f"{scheme}://bucket/a")

    assert package in message
    assert 'pip install "jupyter-papermill-mcp-server[remote]"' in message
    assert load().remote_outputs == []


# The command line


def test_help_names_every_setting_with_its_default() -> None:
    shown = re.sub(r"\s+", " ", build_parser().format_help())

    for name, field in Config.model_fields.items():
        flag = "--" + name.replace("_", "-")
        assert flag in shown
        default = field.get_default(call_default_factory=True)
        reported = (", ".join(map(str, default)) or "none") if isinstance(default, list) else str(default)
        reported = reported.lower() if isinstance(default, bool) else reported
        description = re.sub(r"\s+", " ", str(field.description))
        # A setting without a default of its own tells in its description what holds then.
        expected = description if default is None else f"{description} (default: {reported})"
        # argparse breaks lines at hyphens too, so spaces do not count here.
        assert expected.replace(" ", "") in shown.replace(" ", ""), name
    for name in ("--config", "--version"):
        assert name in shown


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for name, field in Config.model_fields.items():
        assert field.description, name
        if field.annotation in (int, float):
            assert field.metadata, f"{name} has no bound"


def test_asking_for_help_prints_it_and_ends_well() -> None:
    done = run("--help")

    assert done.returncode == 0
    assert "--max-kernels" in done.stdout
    assert done.stderr == ""


def test_the_version_is_printed_before_anything_heavy_is_imported() -> None:
    script = (
        "import sys; from papermill_mcp.main import main; code = main(['--version']); "
        "heavy = sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'mcp', 'mcp_types', 'pydantic', 'anyio', 'nbformat', 'papermill', 'jupyter_client', 'zmq', 'jsonschema'}); "
        "sys.stderr.write(','.join(heavy)); sys.exit(code)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert done.returncode == 0
    assert __version__ in done.stdout
    assert done.stderr == ""


@pytest.mark.case("P25")
@pytest.mark.parametrize(
    ("argv", "environ", "reported"),
    [
        (["--max-kernel", "3"], {}, "did you mean --max-kernels?"),
        (["--max-kernels", "x"], {}, "--max-kernels"),
        ([], {"JUPYTER_MCP_ROOT": "."}, "did you mean JUPYTER_MCP_ROOTS?"),
        (["--config", "nowhere.json"], {}, "nowhere.json"),
        (["--roots", "nowhere"], {}, "nowhere"),
        (["--roots", "/"], {}, "--i-know"),
        (["--roots", "nowhere", "--roots", "."], {}, "nowhere"),
        (["--metrics-port", "-1"], {}, "--metrics-port"),
    ],
)
def test_in_a_terminal_settings_that_cannot_be_used_end_the_start_with_code_2(
    argv: list[str], environ: dict[str, str], reported: str
) -> None:
    done = run(*argv, environ=environ)

    assert done.returncode == 2
    assert done.stdout == ""
    assert reported in done.stderr
    assert "Traceback" not in done.stderr


def test_a_person_in_a_terminal_reads_that_the_server_waits_and_how_to_register_it(tmp_path: Path) -> None:
    done = run("--roots", str(tmp_path), "--state-directory", str(tmp_path / "state"), "--log-level", "ERROR")

    assert done.returncode == 0
    waits, register = done.stderr.splitlines()
    assert "waits for a client" in waits
    assert register.endswith(f"-P -m papermill_mcp --roots {tmp_path}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_kernels", "4"),
        ("max_kernels", True),
        ("response_wait", "3"),
        ("metrics_port", "0"),
        ("read_only", "true"),
        ("read_only", 1),
        ("roots", "."),
    ],
)
def test_the_types_of_a_file_are_strict(name: str, value: object) -> None:
    """JSON has numbers, truth values and lists. Flags and variables are text."""
    file = settings_file({name: value}, "mine.json")

    message = problem("--config", file)

    assert message.startswith(f"{name} from {Path(file).absolute()}")
    assert str(value).lower() in message.lower()


def test_the_example_of_a_settings_file_has_every_setting_at_its_default() -> None:
    file = REPOSITORY / "config.json"
    keys = {key for key in json.loads(file.read_text()) if not key.startswith("//")}

    assert keys == Config.model_fields.keys()
    assert load("--config", str(file)).model_dump() == Config().model_dump()


@pytest.mark.parametrize("text", ["", "a\0b", "half of a pair: \ud800"])
@pytest.mark.parametrize("name", ["roots", "state_directory", "output_directory", "kernel_env_deny", "dask_scheduler"])
def test_text_that_no_name_can_be_is_a_fault_of_its_setting(name: str, text: str, tmp_path: Path) -> None:
    """A settings file holds any text, and an empty path would be the directory of the start."""
    value = [text] if name in ("roots", "kernel_env_deny") else text
    file = settings_file({"roots": [str(tmp_path)], name: value})
    message = problem("--config", file)

    assert message.startswith(name)
    assert file in message
    done = run("--config", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_an_empty_path_is_no_path_in_flags_and_variables() -> None:
    assert problem("--roots", '[""]').startswith("roots")
    assert problem("--state-directory", "").startswith("state_directory")
    assert problem(environ={"JUPYTER_MCP_STATE_DIRECTORY": ""}).startswith("state_directory")
    assert problem("--roots", "[" * 100_000).startswith("--roots")


def test_a_root_whose_name_is_not_utf8_can_be_used(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    assert load("--roots", str(root)).roots == [root]
