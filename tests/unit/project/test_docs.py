"""The documents agree with the code, and their links, commands and snippets work."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dev import docs
from dev.docs import REPOSITORY, generated, pages, stale
from papermill_mcp.config import load_config

_PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")

#: Folders whose paths in the documents are those of this repository.
_FOLDERS = ("papermill_mcp/", "dev/", "docs/", "tests/", "benchmarks/", "examples/", ".ci/", ".github/")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    kind: str
    text: str


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _blocks() -> Iterator[Block]:
    for page in pages():
        for _, kind, text in _FENCE.findall(page.read_text(encoding="utf-8")):
            yield Block(_name(page), kind, text)


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _pieces() -> Iterator[tuple[str, str]]:
    """The code spans, and the lines of shell and text blocks, with their page."""
    for page in pages():
        yield from ((_name(page), span) for span in _CODE.findall(_prose(page)))
    for block in _blocks():
        if block.kind in ("sh", "text", ""):
            yield from ((block.page, line.partition("  #")[0].strip()) for line in block.text.splitlines())


each_page = pytest.mark.parametrize("page", pages(), ids=_name)


# Tables


def test_no_table_is_stale() -> None:
    """After a change of the code: python -m dev.docs."""
    assert [_name(page) for page, _, _ in stale()] == []


@pytest.mark.parametrize("name", docs._BLOCKS)
def test_every_table_is_in_a_page(name: str) -> None:
    assert any(f"<!-- generated: {name} -->" in page.read_text(encoding="utf-8") for page in pages())


def test_a_table_of_other_values_is_replaced_and_the_text_around_it_stays() -> None:
    page = "before\n<!-- generated: errors -->\n| old |\n<!-- end -->\nafter\n"
    now = generated(page)

    assert now.startswith("before\n<!-- generated: errors -->\n| code |")
    assert now.endswith("|\n<!-- end -->\nafter\n")
    assert "| old |" not in now
    assert generated(now) == now


def test_a_table_without_a_source_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        generated("<!-- generated: nothing -->\n<!-- end -->")


def test_the_check_names_a_stale_page_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    old = "<!-- generated: protocol-errors -->\n| old |\n<!-- end -->\n"
    page.write_text(old)
    monkeypatch.setattr(docs, "REPOSITORY", tmp_path)
    monkeypatch.setattr(docs, "pages", lambda: [page])

    assert docs.main(["--check"]) == 1
    assert page.read_text() == old
    assert "page.md is stale\n" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert page.read_text() != old
    assert docs.main(["--check"]) == 0


# Text


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_the_readme_has_one_command_for_the_tour_and_one_for_the_tests() -> None:
    """CI takes the line of the tests from the README."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install -e "

    assert [line for line in lines if ".[examples]" in line] == [
        f'{start}".[examples]" && .venv/bin/python examples/quickstart.py'
    ]
    assert [line for line in lines if ".[dev]" in line] == [f'{start}".[dev]" && .venv/bin/python -m pytest']


@each_page
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_prose(page)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            broken.append(target)

    assert broken == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = REPOSITORY / "README.md"
    linked = {(readme.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(_prose(readme))}

    assert {_name(page) for page in pages() if page not in {*linked, readme}} == set()


# Commands and snippets


def test_modules_in_commands_exist() -> None:
    named = {name for _, piece in _pieces() for name in re.findall(r"-m ((?:dev|papermill_mcp)(?:\.\w+)*)", piece)}

    assert {"dev.docs", "dev.proof", "papermill_mcp.main"} <= named
    assert {name for name in named if importlib.util.find_spec(name) is None} == set()


def test_paths_of_the_repository_exist() -> None:
    words = {word.rstrip(":") for _, piece in _pieces() for word in re.split(r"[\s\"'=]+", piece)}
    named = {word for word in words if word.startswith(_FOLDERS)}

    assert "tests/unit" in named
    made = ("examples/output",)
    assert {word for word in named if not word.startswith(made) and not (REPOSITORY / word).exists()} == set()


def test_modules_in_the_architecture_exist() -> None:
    spans = _CODE.findall(_prose(REPOSITORY / "ARCHITECTURE.md"))
    layers = ("server/", "tools/", "services/", "core/", "utils/")
    named = {span for span in spans if span.startswith(layers) and " " not in span}

    assert "server/transport.py" in named
    assert {name for name in named if not [*(REPOSITORY / "papermill_mcp").glob(name)]} == set()


def test_extras_in_commands_exist() -> None:
    found = {
        extra for _, piece in _pieces() for names in re.findall(r"\.\[([\w,]+)\]", piece) for extra in names.split(",")
    }

    assert {"dev", "examples"} <= found <= _PROJECT["optional-dependencies"].keys()


def test_scripts_in_commands_exist() -> None:
    named = {
        name for _, piece in _pieces() for name in re.findall(r"(?<![\w/.-])(jupyter-papermill-mcp)(?![\w-])", piece)
    }

    assert named < _PROJECT["scripts"].keys()
    assert {*_PROJECT["scripts"]} - named == {_PROJECT["name"]}, "`uvx <package>` needs a script of this name"


def test_recipes_in_commands_exist() -> None:
    named = {name for _, piece in _pieces() for name in re.findall(r"^just (\w+)", piece)}
    recipes = set(re.findall(r"^(\w+)(?: \*arguments)?:$", (REPOSITORY / "justfile").read_text(), re.MULTILINE))

    assert named == recipes - {"default"}


def test_just_can_read_the_justfile() -> None:
    just = shutil.which("just") or shutil.which("just", path=str(Path(sys.executable).parent))
    assert just, "it comes with the extra dev"
    done = subprocess.run([just, "--summary"], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)

    assert done.stdout.split() == sorted(["fmt", "lint", "types", "test", "slow", "docs", "proof", "bench"])


def _snippets() -> Iterator[tuple[str, list[str]]]:
    """The commands with which clients start the server, with their page."""
    for block in _blocks():
        if block.kind == "json" and ("mcpServers" in block.text or '"servers"' in block.text):
            (servers,) = json.loads(block.text).values()
            yield from ((block.page, [one["command"], *one["args"]]) for one in servers.values())
        elif block.kind == "toml":
            servers = tomllib.loads(block.text)["mcp_servers"]
            yield from ((block.page, [one["command"], *one["args"]]) for one in servers.values())
        else:
            for line in block.text.splitlines():
                if "--roots /path" in line:
                    yield block.page, line.rpartition(" -- ")[2].split()


def test_readme_and_install_page_have_snippets_for_clients() -> None:
    found = [page for page, _ in _snippets()]

    assert found.count("README.md") >= 6
    assert found.count("docs/install.md") >= 6


@pytest.mark.parametrize(("page", "command"), [*_snippets()])
def test_a_snippet_has_absolute_paths_and_arguments_that_the_server_takes(
    page: str, command: list[str], tmp_path: Path
) -> None:
    program, *arguments = command
    assert program.startswith("/")
    if "-m" in arguments:
        assert arguments[: arguments.index("-m") + 2] == ["-P", "-m", "papermill_mcp.main"]
        arguments = arguments[3:]
    if Path(program).name == "uvx":
        arguments = arguments[arguments.index("jupyter-papermill-mcp") + 1 :]
    root = arguments[arguments.index("--roots") + 1]

    assert root in ("/path/to/notebooks", "${workspaceFolder}")
    assert load_config([str(tmp_path) if word == root else word for word in arguments]).roots == [tmp_path]
