"""What notebooks declare: blocks of PEP 723 and nteract's metadata, good and bad, and how packages are recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.environments.declared import BlockError, block_in, declared_by
from papermill_mcp.core.environments.recording import new_block, recorded
from papermill_mcp.core.environments.requirements import merged


def notebook(*sources: str, metadata: dict[str, Any] | None = None) -> NotebookDocument:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "source": one, "metadata": {}, "outputs": [], "execution_count": None, "id": f"c{number}"}
        for number, one in enumerate(sources)
    ]
    return NotebookDocument.from_node({"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5})


BLOCK = """\
# /// script
# requires-python = ">=3.11"  # as on the cluster
# dependencies = [
#   "pandas>=2",  # tables
#   "rich",
# ]
#
# [tool.uv]
# exclude-newer = "2026-01-01T00:00:00Z"
# ///
import pandas"""


def test_the_first_block_counts() -> None:
    found = declared_by(notebook("print('# /// script')", BLOCK, BLOCK.replace("rich", "other")))
    assert found is not None
    assert (found.place, found.packages, found.requires_python) == ("cell 1", ("pandas>=2", "rich"), ">=3.11")
    assert found.options == (("exclude-newer", "2026-01-01T00:00:00Z"),)
    assert str(found) == "Python >=3.11, pandas>=2, rich (cell 1)"
    assert declared_by(notebook("import pandas")) is None
    assert declared_by(notebook(BLOCK.replace("script", "other"))) is None


def test_equal_needs_have_one_digest() -> None:
    first, second, third = (
        declared_by(notebook(text))
        for text in (BLOCK, BLOCK.replace('"pandas>=2",  # tables\n#   "rich"', '"rich","pandas >= 2"'), BLOCK + "\n#")
    )
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.digest == second.digest == third.digest
    assert first.with_packages(["Rich>1"]).packages == ("pandas>=2", "Rich>1")
    assert first.with_packages(["new"]).digest != first.digest


def test_the_metadata_of_nteract_counts_where_no_cell_has_a_block() -> None:
    uv = {"dependencies": ["pandas"], "requires-python": ">=3.10", "prerelease": "allow"}
    found = declared_by(notebook("import pandas", metadata={"uv": uv}))
    assert found is not None
    assert (found.place, found.packages, found.requires_python) == ("metadata.uv", ("pandas",), ">=3.10")
    assert found.options == (("prerelease", "allow"),)
    with_block = declared_by(notebook(BLOCK, metadata={"uv": uv}))
    assert with_block is not None
    assert with_block.place == "cell 0"
    assert declared_by(notebook(metadata={"uv": {"dependencies": []}})) is None


@pytest.mark.case("V21")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        (BLOCK + "\n\n" + BLOCK, "has two"),
        (BLOCK.replace("# ///\nimport", "import"), "no line '# ///' ends it"),
        (BLOCK.replace("dependencies = [", "dependencies = "), "cannot be read"),
        (BLOCK.replace('"rich"', "7"), "no list of texts"),
        (BLOCK.replace('"rich"', '"../here"'), "'../here' in dependencies is no requirement"),
        (BLOCK.replace('"rich"', '"rich @ https://example.org/rich.whl"'), "names an address"),
        (BLOCK.replace('"rich"', '"--index-url=x"'), "is an option"),
        (BLOCK.replace('">=3.11"', '"3 or so"'), "requires-python '3 or so'"),
        (BLOCK.replace('">=3.11"', "3"), "requires-python '3'"),
        (BLOCK.replace("exclude-newer", "index-url"), "the option 'index-url' of uv is not supported"),
        (BLOCK.replace("2026-01-01T00:00:00Z", "--cache-dir"), "exclude-newer '--cache-dir'"),
        (BLOCK.replace("# [tool.uv]\n# exclude-newer", "# [tool]\n# uv"), "no table"),
        ("# /// script\n" + "# x\n" * 30_000 + "# ///", "more than 50,000 characters"),
        ("# /// script\n# dependencies = [" + '"a",' * 101 + "]\n# ///", "101 entries"),
        ("# /// script\n# dependencies = " + "[" * 5000 + "\n# ///", "cannot be read"),
    ],
)
def test_a_block_that_cannot_be_used_says_why(source: str, words: str) -> None:
    found = declared_by(notebook("1", source))
    assert found is not None
    assert found.problem is not None
    assert words in found.problem
    assert found.place == "cell 1"


@pytest.mark.parametrize("value", [3, [], "x", {"dependencies": "pandas"}, {"dependencies": ["-x"]}, {"other": 1}])
def test_metadata_that_cannot_be_used_says_why(value: Any) -> None:
    found = declared_by(notebook(metadata={"uv": value}))
    assert found is not None
    assert found.problem


def test_a_block_is_found_as_its_standard_finds_it() -> None:
    """The regular expression of PEP 723 is the measure."""
    standard = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
    lines = st.sampled_from(["# /// script", "# ///", "# x = 1", "#", "x = 1", "", "#x", "# /// other"])

    @given(st.lists(lines, max_size=12))
    def check(chosen: list[str]) -> None:
        source = "\n".join(chosen)
        matches = [match for match in standard.finditer(source) if match["type"] == "script"]
        try:
            found = block_in(source)
        except BlockError:
            return  # told to the user, where the standard finds nothing or two
        if found is not None and not found.text:
            return  # an empty block is none in the standard
        content = [None] if not matches else ["\n".join(line[2:] for line in matches[0]["content"].splitlines())]
        assert [None if found is None else found.text] == content

    check()


@pytest.mark.timeout(20)
def test_a_cell_of_nothing_but_beginnings_is_read_in_one_pass() -> None:
    assert block_in("# /// other\n" * 300_000) is None


def test_packages_are_recorded_in_the_block_and_the_rest_stays() -> None:
    found = recorded(notebook("1", BLOCK).cells, ["Rich>=13", "new[extra]"])
    assert found is not None
    index, source = found
    assert index == 1
    assert "# as on the cluster" in source
    assert "# tables" in source
    assert source.endswith("# ///\nimport pandas")
    assert 'exclude-newer = "2026-01-01T00:00:00Z"' in source
    again = declared_by(notebook(source))
    assert again is not None
    assert again.packages == ("pandas>=2", "Rich>=13", "new[extra]")
    assert recorded(notebook("1").cells, ["x"]) is None


def test_a_new_block_is_one_that_is_read() -> None:
    for packages, python in ((["a>=1", "b"], ">=3.12"), (["a"], None)):
        found = declared_by(notebook(new_block(packages, python)))
        assert found is not None
        assert (found.problem, list(found.packages), found.requires_python) == (None, packages, python)


@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        (["a", "b>1", 3], ["B>2", "c"], ["a", "B>2", 3, "c"]),
        (["six==1.16.0", "requests[socks]>=2"], ["six", "requests"], ["six==1.16.0", "requests[socks]>=2"]),
        ([], ["requests[socks]>=2", "Requests"], ["requests[socks]>=2"]),
        ([], ["Requests", "requests[socks]>=2"], ["requests[socks]>=2"]),
        (["requests[socks]>=2"], ["requests>=3"], ["requests[socks]>=3"]),
        (["a>=1"], ["a[x]"], ["a[x]>=1"]),
        (["a>=1; python_version > '3'"], ["a>=2"], ['a>=2; python_version > "3"']),
    ],
)
def test_a_requirement_takes_nothing_from_an_earlier_one(old: list[Any], new: list[str], both: list[Any]) -> None:
    """A bare name changes nothing; extras stay; the newer versions count."""
    assert merged(old, new) == both


@given(st.lists(st.sampled_from(["a", "b>=1", "c[x]", "d<2"]), min_size=1, unique=True))
def test_what_is_recorded_can_be_read_again(packages: list[str]) -> None:
    block = new_block(["z"], None)
    found = recorded(notebook(block).cells, packages)
    assert found is not None
    again = declared_by(notebook(found[1]))
    assert again is not None
    assert list(again.packages) == ["z", *packages]
    assert tomlkit.parse(str(block_in(found[1]).text))  # type: ignore[union-attr]
