"""A whole release is built, and its bundle starts where it is unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dev import release
from papermill_mcp import __version__


def _unpacked(directory: Path) -> Path:
    source, bundle = directory / "source", directory / "x.mcpb"
    release.copy_sources(source)
    release.write_bundle(bundle, source)
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(directory / "unpacked")
    return directory / "unpacked"


def _command(unpacked: Path, root: Path) -> list[str]:
    """The command of the manifest, as a client fills it in."""
    config = json.loads((unpacked / "manifest.json").read_text())["server"]["mcp_config"]
    values = {"${__dirname}": str(unpacked), "${user_config.root}": str(root)}
    return [config["command"], *(values.get(word, word) for word in config["args"])]


def test_the_entry_point_of_the_bundle_starts_its_own_modules(tmp_path: Path) -> None:
    unpacked = _unpacked(tmp_path)
    (unpacked / "papermill_mcp/__init__.py").write_text('__version__ = "of the bundle"\n')
    arguments = _command(unpacked, tmp_path)

    done = subprocess.run(
        [sys.executable, unpacked / arguments[arguments.index(str(unpacked)) + 1], "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout == "jupyter-papermill-mcp of the bundle\n", done.stderr


@pytest.mark.slow
def test_the_bundle_serves_over_stdio(tmp_path: Path) -> None:
    """With uv if it is there and the packages are in its cache, as a client runs it; otherwise with this Python."""
    unpacked = _unpacked(tmp_path)
    command = _command(unpacked, tmp_path)
    if shutil.which("uv") is None or not os.environ.get("TEST_BUNDLE_WITH_UV"):
        command = [sys.executable, str(unpacked / command[command.index(str(unpacked)) + 1]), "--roots", str(tmp_path)]
    facts = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": facts}

    done = subprocess.run(
        command, cwd=tmp_path, input=json.dumps(request) + "\n", capture_output=True, text=True, timeout=100
    )

    answer = json.loads(done.stdout.splitlines()[0])
    assert answer["result"]["serverInfo"]["version"] == __version__


@pytest.mark.slow
def test_one_command_builds_and_checks_all_files(tmp_path: Path) -> None:
    files = release.build(tmp_path / "dist", repository="example-owner/example-name", tag=f"v{__version__}")

    assert sorted(file.name for file in files) == [
        f"jupyter-papermill-mcp-server-{__version__}.mcpb",
        f"jupyter-papermill-mcp-server-plugin-{__version__}.zip",
        f"jupyter_papermill_mcp_server-{__version__}-py3-none-any.whl",
        f"jupyter_papermill_mcp_server-{__version__}.tar.gz",
        "server.json",
    ]
    with zipfile.ZipFile(files[2]) as wheel:
        parts = {name.rpartition("/")[2] for name in wheel.namelist() if "/core/reports/" in name}
        metadata = wheel.read(f"jupyter_papermill_mcp_server-{__version__}.dist-info/METADATA").decode()
    assert {"page.html.j2", "page.css", "page.js"} <= parts
    assert "<!-- mcp-name: io.github.example-owner/example-name -->" in metadata
    assert "Project-URL: Repository, https://github.com/example-owner/example-name" in metadata


@pytest.mark.slow
def test_without_an_address_there_is_no_entry_for_the_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = release.build(tmp_path / "dist", repository=None)
    assert "server.json" not in [file.name for file in files]
    assert "--repository" in capsys.readouterr().err
