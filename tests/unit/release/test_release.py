"""The files for registries: they follow the rules of the registries, and agree with the project."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from conftest import MakeConfig
from helpers import REPOSITORY

import papermill_mcp
from dev import release
from papermill_mcp import __version__
from papermill_mcp.config import load_config
from papermill_mcp.server.app import build_server
from papermill_mcp.tools import execution_tools, kernel_tools, notebook_tools, server_tools

_ADDRESS = "example-owner/example-name"
_URL = f"https://github.com/{_ADDRESS}"
_TEXT = {"type": "string", "minLength": 1}
_HTTPS = {"type": "string", "pattern": r"^https://\S+$"}
_VERSION = {"type": "string", "pattern": r"^\d+\.\d+\.\d+[a-z0-9.-]*$"}


def _object(needed: str, /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": needed.split(),
        "properties": properties,
        "additionalProperties": False,
    }


#: The rules of the MCP registry of 2025-12-11, for the fields that are used here.
_SERVER_RULES = _object(
    "$schema name description version packages",
    **{"$schema": {"const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"}},
    name={"type": "string", "minLength": 3, "maxLength": 200, "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"},
    title=_TEXT | {"maxLength": 100},
    description=_TEXT | {"maxLength": 100},
    version=_VERSION | {"maxLength": 255},
    websiteUrl=_HTTPS,
    repository=_object("url source", url=_HTTPS, source=_TEXT, id=_TEXT, subfolder=_TEXT),
    packages={
        "type": "array",
        "minItems": 1,
        "items": _object(
            "registryType identifier transport",
            registryType={"enum": ["npm", "pypi", "oci", "nuget", "mcpb"]},
            registryBaseUrl=_HTTPS,
            identifier=_TEXT,
            version=_VERSION,
            fileSha256={"type": "string", "pattern": "^[a-f0-9]{64}$"},
            runtimeHint=_TEXT,
            transport=_object("type", type={"const": "stdio"}),
            packageArguments={
                "type": "array",
                "items": _object(
                    "type name",
                    type={"const": "named"},
                    name=_TEXT,
                    description=_TEXT,
                    format={"enum": ["string", "number", "boolean", "filepath"]},
                    isRequired={"type": "boolean"},
                    isRepeated={"type": "boolean"},
                ),
            },
        ),
    },
)

#: The rules of MCPB 0.4, for the fields that are used here.
_MANIFEST_RULES = _object(
    "manifest_version name version description author server",
    manifest_version={"const": "0.4"},
    name=_TEXT,
    display_name=_TEXT,
    version=_VERSION,
    description=_TEXT,
    author=_object("name", name=_TEXT),
    license=_TEXT,
    keywords={"type": "array", "items": _TEXT},
    homepage=_HTTPS,
    support=_HTTPS,
    repository=_object("type url", type=_TEXT, url=_HTTPS),
    server=_object(
        "type entry_point mcp_config",
        type={"const": "uv"},
        entry_point=_TEXT,
        mcp_config=_object("command args", command=_TEXT, args={"type": "array", "items": _TEXT}),
    ),
    tools={"type": "array", "minItems": 1, "items": _object("name description", name=_TEXT, description=_TEXT)},
    compatibility=_object(
        "platforms runtimes",
        platforms={"type": "array", "items": {"enum": ["darwin", "linux", "win32"]}},
        runtimes=_object("python", python=_TEXT),
    ),
    user_config={
        "type": "object",
        "additionalProperties": _object(
            "type title description",
            type={"enum": ["string", "number", "boolean", "directory", "file"]},
            title=_TEXT,
            description=_TEXT,
            required={"type": "boolean"},
        ),
    },
)


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the repository with its address."""
    source = tmp_path / "source"
    release.copy_sources(source)
    release.write_address(source, _ADDRESS)
    return source


# The MCP registry


def test_the_entry_for_the_registry_follows_its_rules(tmp_path: Path) -> None:
    bundle = tmp_path / "x.mcpb"
    bundle.write_bytes(b"x")
    for facts in (release.server_json(_ADDRESS), release.server_json(_ADDRESS, bundle)):
        jsonschema.validate(facts, _SERVER_RULES)
        assert {package["version"] for package in facts["packages"]} == {facts["version"]} == {__version__}
        assert facts["packages"][0]["identifier"] == _project()["name"]
        assert facts["repository"]["url"] == _URL


def test_the_rules_refuse_a_wrong_entry() -> None:
    facts = release.server_json(_ADDRESS)
    faults: list[dict[str, Any]] = [{"name": "plain"}, {"description": "x" * 101}, {"packages": []}, {"titel": "x"}]
    for wrong in faults:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(facts | wrong, _SERVER_RULES)


def test_the_registry_passes_arguments_that_the_server_takes(tmp_path: Path) -> None:
    arguments = release.server_json(_ADDRESS)["packages"][0]["packageArguments"]
    flags = [f"{argument['name']}={tmp_path}" for argument in arguments]
    assert load_config(flags).roots == [tmp_path]


def test_the_readme_of_a_release_has_the_name_of_the_registry(source: Path) -> None:
    name = release.server_json(_ADDRESS)["name"]
    assert f"<!-- mcp-name: {name} -->" in (source / "README.md").read_text()
    urls = tomllib.loads((source / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Repository"] == _URL
    assert f'__website__ = "{_URL}"' in (source / "papermill_mcp/__init__.py").read_text()


def test_the_address_changes_nothing_else_in_the_project_file(source: Path) -> None:
    before = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    after = tomllib.loads((source / "pyproject.toml").read_text())
    after["project"]["urls"] = before["project"].get("urls")
    before["project"].setdefault("urls", None)
    assert after == before


@pytest.mark.parametrize(
    ("environ", "expected"), [("a/b", "a/b"), ("", None if "urls" not in _project() else release.address())]
)
def test_the_address_comes_from_the_place_that_releases(
    environ: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", environ)
    assert release.address() == expected


@pytest.mark.parametrize(("repository", "tag"), [("no-slash", None), ("a b/c", None), (None, "v99.0.0")])
def test_a_wrong_address_or_tag_is_refused(repository: str | None, tag: str | None, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(release.ReleaseError):
        release.build(tmp_path, repository=repository, tag=tag)
    assert (tmp_path / "kept").exists()


# The bundle


@pytest.mark.parametrize("repository", [None, _ADDRESS])
def test_the_manifest_of_the_bundle_follows_the_rules(repository: str | None) -> None:
    facts = release.manifest(repository)
    jsonschema.validate(facts, _MANIFEST_RULES)
    assert facts["version"] == __version__
    toolsets = (notebook_tools.toolset, kernel_tools.toolset, execution_tools.toolset, server_tools.toolset)
    names = {tool.name for toolset in toolsets for tool in toolset.tools(load_config([]))}
    assert {tool["name"] for tool in facts["tools"]} == names


def test_the_bundle_has_all_modules_and_nothing_of_this_machine(source: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "x.mcpb"
    release.write_bundle(bundle, source)

    with zipfile.ZipFile(bundle) as archive:
        names = set(archive.namelist())
        facts = json.loads(archive.read("manifest.json"))

    package = REPOSITORY / "papermill_mcp"
    assert {f"papermill_mcp/{module.relative_to(package)}" for module in package.rglob("*.py")} <= names
    assert {"manifest.json", "pyproject.toml", "README.md", "LICENSE", facts["server"]["entry_point"]} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".", "/", "tests", "dev"))]
    assert facts["homepage"] == _URL
    again = tmp_path / "y.mcpb"
    release.write_bundle(again, source)
    assert again.read_bytes() == bundle.read_bytes()


# The plugin


def _skill() -> str:
    return (REPOSITORY / "plugin/skills/jupyter-notebooks/SKILL.md").read_text()


def test_the_plugin_has_the_version_of_the_package() -> None:
    facts = json.loads((REPOSITORY / "plugin/.claude-plugin/plugin.json").read_text())
    servers = json.loads((REPOSITORY / "plugin/.mcp.json").read_text())["mcpServers"]

    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", facts["name"])
    assert facts["version"] == __version__
    assert facts["license"] == _project()["license"]
    assert servers["jupyter"]["args"][0] == f"{_project()['name']}=={__version__}"
    assert _project()["name"] in _project()["scripts"]


def test_the_skill_has_a_name_and_says_when_to_use_it() -> None:
    _, header, text = _skill().split("---\n", 2)
    facts = yaml.safe_load(header)

    assert facts.keys() == {"name", "description"}
    assert facts["name"] == "jupyter-notebooks"
    assert len(facts["description"]) <= 1024
    assert len(text.splitlines()) < 500


def test_the_skill_names_tools_and_arguments_that_exist() -> None:
    toolsets = (notebook_tools.toolset, kernel_tools.toolset, execution_tools.toolset, server_tools.toolset)
    tools = {tool.name: tool for toolset in toolsets for tool in toolset.tools(load_config([]))}
    arguments = {name for tool in tools.values() for name in tool.parameters["properties"]}
    other = {"running", "parameters", "jupyter", "revision", ".ipynb", "CONFLICT", '"12-"'}

    spans = {span.partition("=")[0] for span in re.findall(r"`([^`\n]+)`", _skill())}

    assert spans - other <= tools.keys() | arguments
    assert {"read_notebook", "edit_notebook", "execute_notebook_papermill", "get_execution"} <= spans


# The image


def _instructions() -> list[tuple[str, str]]:
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, rest in lines]


def test_the_image_runs_the_server_without_rights_of_root() -> None:
    instructions = _instructions()
    words = [word for word, _ in instructions]
    last = len(words) - 1 - words[::-1].index("FROM")
    final = dict(instructions[last:])

    assert set(words) <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT"}
    assert final["USER"] not in ("root", "0")
    assert f"useradd --create-home --uid 1000 {final['USER']}" in final["RUN"]
    assert json.loads(final["VOLUME"]) == ["/work", "/state"]
    assert words.index("USER") < words.index("ENTRYPOINT")
    program, *arguments = json.loads(final["ENTRYPOINT"])
    assert program.rpartition("/")[2] in _project()["scripts"]
    assert arguments == ["--roots", "/work"]
    assert final["STOPSIGNAL"] == "SIGTERM"


def test_the_image_has_a_python_that_is_supported() -> None:
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(_project()["classifiers"]))
    assert {*bases} <= {f"python:{version}-slim" for version in versions}


def test_the_files_of_the_image_exist_and_are_not_ignored() -> None:
    copied = [
        name for word, rest in _instructions() if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]
    ]
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert {*copied} == kept
    assert all((REPOSITORY / name).exists() for name in copied)


# The workflow


def test_the_workflow_uses_versions_and_no_secrets() -> None:
    text = (REPOSITORY / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]

    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", name) for name in used)
    assert "secrets." not in text
    assert workflow["permissions"] == {"contents": "read"}
    assert {name for name, job in workflow["jobs"].items() if "id-token" in job.get("permissions", {})} == {
        "pypi",
        "registry",
    }
    assert set(workflow["jobs"]["registry"]["needs"]) == {"pypi", "github"}
    assert all(job["timeout-minutes"] <= 15 for job in workflow["jobs"].values())


# The server


def test_the_server_shows_an_icon_that_is_a_picture(config: MakeConfig) -> None:
    server = build_server(config())
    (icon,) = server.icons or []
    kind, _, data = icon.src.partition(",")

    assert kind == "data:image/svg+xml"
    assert ElementTree.fromstring(unquote(data)).tag == "{http://www.w3.org/2000/svg}svg"
    assert server.website_url == (papermill_mcp.__website__ or None)
