"""Builds all files of a release into `dist/` and checks them: `python -m dev.release`.

    wheel and sdist     for PyPI; checked by twine and check-wheel-contents
    .mcpb               a bundle for clients that install it with uv
    plugin .zip         the plugin for Claude Code
    server.json         the entry for the MCP registry

The public address of the repository stands in no file of the repository. It comes from `--repository OWNER/NAME`, from
the variable GITHUB_REPOSITORY, as in GitHub Actions, or from `[project.urls]`. A release is built from a copy of the
repository, into which it writes the address. Without an address there is no server.json, since its name needs one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from papermill_mcp import __version__
from papermill_mcp.config import Config
from papermill_mcp.tools import execution_tools, kernel_tools, notebook_tools, server_tools

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "jupyter-papermill-mcp-server"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"

_TITLE = "Jupyter and Papermill"
_ROOTS = "Directory with notebooks. The file tools touch nothing outside it."
_AUTHOR = re.compile(r"^Copyright \(c\) \d{4} (.+)$", re.MULTILINE)
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")

#: The first file of a bundle that the client runs.
_ENTRY_POINT = "server.py"
_ENTRY = '''"""Starts the server of this bundle."""

import sys

from papermill_mcp.main import main

if __name__ == "__main__":
    sys.exit(main())
'''

#: The date of all files in archives, so that the same sources give the same bytes.
_DATE = (2020, 1, 1, 0, 0, 0)


class ReleaseError(Exception):
    """The release cannot be built."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--repository", metavar="OWNER/NAME", help="the address on GitHub")
    parser.add_argument("--tag", help="the tag of the release; it must be that of the version")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", help="default: dist/")
    options = parser.parse_args(arguments)
    try:
        for file in build(options.output, repository=options.repository or address(), tag=options.tag):
            print(file)
    except ReleaseError as error:
        print(f"dev.release: {error}", file=sys.stderr)
        return 1
    return 0


def build(output: Path, *, repository: str | None, tag: str | None = None) -> list[Path]:
    """Build all files of a release. Files of an earlier build in `output` go."""
    if tag is not None and tag != f"v{__version__}":
        raise ReleaseError(f"the tag {tag} is not that of the version: v{__version__}")
    if repository is not None and not _ADDRESS.fullmatch(repository):
        raise ReleaseError(f"{repository!r} is not OWNER/NAME")
    output = output.absolute()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        copy_sources(source)
        if repository is not None:
            write_address(source, repository)
        _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source))
        distributions = sorted(str(file) for file in output.iterdir())
        _run(sys.executable, "-m", "twine", "check", "--strict", *distributions)
        _run(sys.executable, "-m", "check_wheel_contents", *(name for name in distributions if name.endswith(".whl")))
        bundle = output / f"{PACKAGE}-{__version__}.mcpb"
        write_bundle(bundle, source)
        write_archive(output / f"{PACKAGE}-plugin-{__version__}.zip", dict(_files(source / "plugin")))
    if repository is None:
        print("The repository has no public address, so there is no server.json. See --repository.", file=sys.stderr)
    else:
        (output / "server.json").write_text(_json(server_json(repository, bundle)))
    return sorted(output.iterdir())


def address() -> str | None:
    """OWNER/NAME of the repository on GitHub, as far as it is known."""
    if os.environ.get("GITHUB_REPOSITORY"):
        return os.environ["GITHUB_REPOSITORY"]
    urls: dict[str, str] = _project().get("urls", {})
    for url in urls.values():
        if found := re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?", url):
            return found[1]
    return None


def registry_name(repository: str) -> str:
    """The name in the MCP registry. PyPI proves it by a comment in the README."""
    owner, _, name = repository.partition("/")
    return f"io.github.{owner}/{name}"


def server_json(repository: str, bundle: Path | None = None) -> dict[str, Any]:
    """The entry for the MCP registry."""
    url = f"https://github.com/{repository}"
    root = {"type": "named", "name": "--roots", "description": _ROOTS, "format": "filepath", "isRequired": True}
    packages: list[dict[str, Any]] = [
        {
            "registryType": "pypi",
            "registryBaseUrl": "https://pypi.org",
            "identifier": PACKAGE,
            "version": __version__,
            "runtimeHint": "uvx",
            "transport": {"type": "stdio"},
            "packageArguments": [root | {"isRepeated": True}],
        }
    ]
    if bundle is not None:
        packages.append(
            {
                "registryType": "mcpb",
                "identifier": f"{url}/releases/download/v{__version__}/{bundle.name}",
                "version": __version__,
                "fileSha256": hashlib.sha256(bundle.read_bytes()).hexdigest(),
                "transport": {"type": "stdio"},
            }
        )
    return {
        "$schema": SCHEMA,
        "name": registry_name(repository),
        "title": _TITLE,
        "description": _project()["description"],
        "version": __version__,
        "websiteUrl": url,
        "repository": {"url": url, "source": "github"},
        "packages": packages,
    }


def manifest(repository: str | None = None) -> dict[str, Any]:
    """The manifest of the bundle. The client runs it with uv, which installs Python and the packages."""
    project = _project()
    author = _AUTHOR.search((REPOSITORY / "LICENSE").read_text())
    assert author is not None
    toolsets = (notebook_tools.toolset, kernel_tools.toolset, execution_tools.toolset, server_tools.toolset)
    tools = [
        {"name": tool.name, "description": tool.description.partition("\n\n")[0].replace("\n", " ")}
        for toolset in toolsets
        for tool in toolset.tools(Config.model_construct())
    ]
    facts: dict[str, Any] = {
        "manifest_version": "0.4",
        "name": PACKAGE,
        "display_name": _TITLE,
        "version": __version__,
        "description": project["description"],
        "author": {"name": author[1]},
        "license": project["license"],
        "keywords": project["keywords"],
        "server": {
            "type": "uv",
            "entry_point": _ENTRY_POINT,
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", _ENTRY_POINT, "--roots", "${user_config.root}"],
            },
        },
        "tools": tools,
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": f"{project['requires-python']},<3.14"},
        },
        "user_config": {
            "root": {"type": "directory", "title": "Notebooks", "description": _ROOTS, "required": True},
        },
    }
    if repository is not None:
        url = f"https://github.com/{repository}"
        facts |= {"repository": {"type": "git", "url": f"{url}.git"}, "homepage": url, "support": f"{url}/issues"}
    return facts


def write_bundle(bundle: Path, source: Path) -> None:
    """Write the bundle: manifest, sources and project file. It has no packages; uv installs them."""
    files = {f"papermill_mcp/{name}": data for name, data in _files(source / "papermill_mcp")}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        files[name] = (source / name).read_bytes()
    urls = tomllib.loads(files["pyproject.toml"].decode())["project"].get("urls", {})
    repository = str(urls.get("Repository", "")).removeprefix("https://github.com/") or None
    files["manifest.json"] = _json(manifest(repository)).encode()
    files[_ENTRY_POINT] = _ENTRY.encode()
    write_archive(bundle, files)


def write_archive(archive: Path, files: dict[str, bytes]) -> None:
    """Write a zip archive. The same files give the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            writer.writestr(info, files[name])


def copy_sources(target: Path) -> None:
    """Copy the files that git knows, or may know: those that are not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"this is no working copy of git: {done.stderr.decode().strip()}")
    for name in filter(None, done.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)


def write_address(source: Path, repository: str) -> None:
    """Write the address into a copy of the repository: README, project file, package, plugin."""
    url = f"https://github.com/{repository}"
    package = source / "papermill_mcp" / "__init__.py"
    package.write_text(package.read_text().replace('__website__ = ""', f'__website__ = "{url}"'))
    readme = source / "README.md"
    readme.write_text(readme.read_text() + f"\n<!-- mcp-name: {registry_name(repository)} -->\n")
    project = source / "pyproject.toml"
    document: Any = tomlkit.parse(project.read_text())
    urls = tomlkit.table()
    urls.update({"Repository": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/v{__version__}/CHANGELOG.md"})
    document["project"]["urls"] = urls
    project.write_text(tomlkit.dumps(document))
    plugin = source / "plugin" / ".claude-plugin" / "plugin.json"
    plugin.write_text(_json(json.loads(plugin.read_text()) | {"homepage": url, "repository": url}))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(directory.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file.relative_to(directory).as_posix(), file.read_bytes()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(command[1:4])} failed:\n{done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
