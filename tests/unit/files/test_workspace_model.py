"""The path resolver among random links, held against a model of directories in memory.

The model knows no rule of ours but one: whoever follows a path step by step may only be inside the root or at a
directory above it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dev.fuzz import examples
from papermill_mcp.errors import NotFoundError, PathNotAllowedError, ServerError
from papermill_mcp.services.workspace import MAX_LINKS, Workspace

Place = tuple[str, ...]
ROOT: Place = ("root",)
OUTSIDE: Place = ("outside",)


class Kind(Enum):
    DIRECTORY = auto()
    FILE = auto()


#: Places below a directory of the test's own, and what is there: a directory, a file, or a link and its target.
Tree = dict[Place, Kind | str]

FIXED: Tree = {
    (): Kind.DIRECTORY,
    ROOT: Kind.DIRECTORY,
    (*ROOT, "a"): Kind.DIRECTORY,
    (*ROOT, "a", "b"): Kind.DIRECTORY,
    (*ROOT, "n.ipynb"): Kind.FILE,
    OUTSIDE: Kind.DIRECTORY,
    (*OUTSIDE, "n.ipynb"): Kind.FILE,
    (*OUTSIDE, "back"): "../root",
}
NAMES = ("a", "b", "l", "m", "n.ipynb", "x.ipynb", "X.IPYNB")
PARTS = st.sampled_from(("..", "..", ".", "", *NAMES, "root", "outside", "back"))
BASES = st.sampled_from(("", "", "", "BASE/", "BASE/root/", "BASE/outside/", "/"))
ENDS = st.sampled_from(("", "n.ipynb", "./n.ipynb", "x.ipynb"))
SPELLINGS = st.tuples(BASES, st.lists(PARTS.map("{}/".format), max_size=5).map("".join), ENDS).map("".join)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree = dict(FIXED)
    for _ in range(draw(st.integers(0, 6))):
        directories = [place for place, kind in tree.items() if kind is Kind.DIRECTORY and place[:1] == ROOT]
        place = (*draw(st.sampled_from(directories)), draw(st.sampled_from(NAMES)))
        if place not in tree:
            tree[place] = draw(st.sampled_from(Kind) | SPELLINGS.filter(bool))
    return tree


def built(tree: Tree, base: Path) -> None:
    for place, kind in tree.items():
        path = base.joinpath(*place)
        if kind is Kind.DIRECTORY:
            path.mkdir(exist_ok=True)
        elif kind is Kind.FILE:
            path.write_text("{}")
        else:
            path.symlink_to(kind.replace("BASE", str(base)))


@dataclass
class Way:
    """Where a path leads in the model, or why it leads nowhere."""

    place: Place = ()
    above: bool = False
    """The way went through a directory above the root."""
    refused: str = ""


def followed(tree: Tree, spelling: str) -> Way:
    way = Way(ROOT)
    pending = _steps(spelling, way)
    links = 0
    while pending:
        part = pending.pop(0)
        if part in ("", "."):
            continue
        way.place = way.place[:-1] if part == ".." else (*way.place, part)
        if not _inside(way.place):
            way.above = True
            if ROOT[: len(way.place)] != way.place:
                way.refused = "leads out"
                return way
            continue
        kind = tree.get(way.place)
        if isinstance(kind, str):
            links += 1
            if links > MAX_LINKS:
                way.refused = "loop"
                return way
            way.place = way.place[:-1]
            way.above |= kind.startswith("BASE")  # from the top of everything
            pending = [*_steps(kind, way), *pending]
        elif kind is Kind.FILE and any(part not in ("", ".") for part in pending):
            way.refused = "no directory"
            return way
    if not _inside(way.place):
        way.refused = "leads out"
    return way


def _steps(spelling: str, way: Way) -> list[str]:
    """The parts of a path. One that starts at the top of everything begins beside or in the directory of the test."""
    if spelling.startswith("BASE"):
        way.place = ()
        return spelling.split("/")[1:]
    if spelling.startswith("/"):
        way.place = ("elsewhere",)
    return spelling.split("/")


def _inside(place: Sequence[str]) -> bool:
    return tuple(place[:1]) == ROOT


@given(trees(), SPELLINGS, st.booleans())
@examples(250)
def test_the_resolver_agrees_with_a_model_of_links(tree: Tree, spelling: str, writing: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        built(tree, base)
        root = base.joinpath(*ROOT)
        expected = followed(tree, spelling)
        place, found = base.joinpath(*expected.place), tree.get(expected.place)
        try:
            got = Workspace([root]).notebook(spelling.replace("BASE", str(base)), writing=writing)
        except ServerError as error:
            answer = str(error)
            assert isinstance(error, PathNotAllowedError | NotFoundError)
            if expected.above and "leads out" in answer:
                return  # nobody needs to leave the root to get back: refused where text alone does not show the way
            match expected.refused:
                case "leads out" | "loop":
                    assert expected.refused in answer
                case "no directory":
                    assert isinstance(error, NotFoundError)
                case _ if spelling.rstrip("/").lower().endswith(".ipynb") and place.name.lower().endswith(".ipynb"):
                    missing = found is None and (not writing or tree.get(expected.place[:-1]) is not Kind.DIRECTORY)
                    assert isinstance(error, NotFoundError) == missing
                    assert missing or found is Kind.DIRECTORY
                case _:
                    assert spelling == "" or "does not end in .ipynb" in answer
            return

        assert not expected.refused
        assert got == place
        assert got.is_relative_to(root)
        assert found is Kind.FILE or (writing and found is None)
