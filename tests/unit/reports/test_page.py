"""The page of a report: complete without its script, harmless with any text, and never over the work of somebody."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from papermill_mcp.core.pictures.last_picture import SmallPicture
from papermill_mcp.core.reports.file import report_of, write_report
from papermill_mcp.core.reports.model import (
    Cell,
    Column,
    Fact,
    Failure,
    Link,
    Picture,
    PictureGroup,
    Report,
    Row,
    Table,
    address_of,
    place_of,
)
from papermill_mcp.core.reports.page import is_sealed, page_of
from papermill_mcp.errors import ServerError
from papermill_mcp.utils.text_utils import safe_utf8

HOSTILE = [
    "<script>document.title='gone'</script>",
    "</title><script>document.title='gone'</script>",
    "</style></script><img src=x onerror=\"document.title='gone'\">",
    "\"' onmouseover=document.title='gone' x=\"",
    "javascript:document.title='gone'",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;&#60;b&#62;",
    "--><script>document.title='gone'</script><!--",
    "\x00\x01\x1b[31mred\x1b[0m\x7f\x85\r\n",
    "lone \ud800 surrogate",
    "right to left \u202e\u2066 mark",
    "עברית",
]


def _picture(colour: str = "red") -> SmallPicture:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 36), colour).save(buffer, format="PNG")
    return SmallPicture("image/png", buffer.getvalue(), 48, 36)


def report_with(text: str, identity: str = "a" * 24) -> Report:
    """A report that has a text wherever one can stand."""
    path = Path("/work/out") / (safe_utf8(text).replace("/", "").replace("\0", "") or "x")
    address = address_of(path, Path("/work/out"))
    return Report(
        title=text,
        identity=identity,
        noun="run",
        facts=[Fact(text, [text, Link(text, address)])],
        tables=[
            Table(text, [Column(text)], [Row([Cell(text)])]),
            Table(
                "Runs",
                [Column("run", numbers=True), Column(text), Column("seconds", numbers=True)],
                [
                    Row([Cell(str(n), n), Cell(text, address=address), Cell(f"{n / 3:.1f}", n / 3)], f"run-{n}", n == 1)
                    for n in range(3)
                ],
                main=True,
            ),
        ],
        failures=[Failure(text, 3, [Link("run 1", place_of("run-1"))], text, f"line one\n{text}")],
        pictures=[PictureGroup(text, [Picture(_picture(), text, text, address, f"run-{n}") for n in range(3)])],
        notes=[text],
    )


class _Reader(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw: dict[str, str] = {}
        self._inside = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("style", "script"):
            self.raw[self._inside] = data
        else:
            self.text.append(data)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


_PLAIN = _Reader(page_of(report_with("plain")))


def _check_harmless(page: bytes) -> None:
    reader = _Reader(page)
    assert reader.tags() == _PLAIN.tags(), "a text has become an element"
    for tag, attributes in reader.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("href", "src"):
            value = attributes.get(name)
            assert value is None or re.match(r"\./|#|data:image/(png|jpeg);base64,", value), value
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.decode())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_a_text(text: str) -> None:
    page = page_of(report_with(text))
    _check_harmless(page)
    if text.isprintable():
        shown = "".join(_Reader(page).text)
        assert shown.count(text) >= 8


@given(st.text(min_size=1, max_size=60))
def test_any_text_stays_a_text(text: str) -> None:
    _check_harmless(page_of(report_with(text)))


def test_the_policy_allows_the_style_and_the_script_of_the_page_only() -> None:
    policy = next(str(a["content"]) for tag, a in _PLAIN.elements if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed.pop("img-src") == "data:"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(_PLAIN.raw[tag].encode()).digest()).decode()
        assert allowed.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert allowed == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    assert "url(" not in _PLAIN.raw["style"] and "@import" not in _PLAIN.raw["style"]
    for word in ("innerHTML", "eval", "fetch", "http", "insertAdjacent", "document.write"):
        assert word not in _PLAIN.raw["script"]


def test_it_is_accessible() -> None:
    elements = _PLAIN.elements
    assert ("html", {"lang": "en"}) in elements
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in elements if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    places = {
        str(attributes["href"])[1:] for tag, attributes in elements if str(attributes.get("href")).startswith("#")
    }
    assert places <= set(identifiers)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/w/out/a.ipynb", "./a.ipynb"),
        ("/w/in.ipynb", "./../in.ipynb"),
        ("/w/out/javascript:alert(1).ipynb", "./javascript%3Aalert%281%29.ipynb"),
        ("/w/out/a b#c?d%.ipynb", "./a%20b%23c%3Fd%25.ipynb"),
        ('/w/out/é\udcff".ipynb', "./%C3%A9%FF%22.ipynb"),
        ("//evil/x", "./../../evil/x"),
    ],
)
def test_addresses_are_relative(path: str, address: str) -> None:
    assert address_of(Path(path), Path("/w/out")) == address


def test_a_page_that_was_changed_stays(tmp_path: Path) -> None:
    first = write_report(report_with("one", "1" * 24), tmp_path)
    assert first.name == "report.html"
    assert is_sealed(first.read_bytes())
    again = write_report(report_with("two", "2" * 24), tmp_path)
    assert again == first
    assert b"two" in first.read_bytes()
    first.write_bytes(first.read_bytes().replace(b"two", b"2.0"))
    mine = first.read_bytes()
    assert write_report(report_with("three", "3" * 24), tmp_path).name == "report-2.html"
    assert write_report(report_with("four", "4" * 24), tmp_path).name == "report-2.html"
    assert first.read_bytes() == mine
    assert report_of(tmp_path, "4" * 24) == tmp_path / "report-2.html"
    assert report_of(tmp_path, "3" * 24) is None
    assert report_of(tmp_path / "none", "3" * 24) is None


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    (path.parent / "elsewhere.html").write_bytes(page_of(report_with("elsewhere")))
    path.symlink_to("elsewhere.html")


def _empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("make", [_directory, _link, _empty])
def test_something_else_of_that_name_stays(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "report.html")
    before = (tmp_path / "report.html").lstat()
    assert write_report(report_with("x"), tmp_path).name == "report-2.html"
    assert (tmp_path / "report.html").lstat() == before


def test_two_batches_at_once_leave_one_whole_page(tmp_path: Path) -> None:
    reports = [report_with(f"text {n}", f"{n}" * 24) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        written = {path.name for path in threads.map(lambda report: write_report(report, tmp_path), reports)}
    assert written == {"report.html"}
    assert is_sealed((tmp_path / "report.html").read_bytes())


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError):
        write_report(report_with("x"), tmp_path / "none")
