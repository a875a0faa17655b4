"""The content of a report, apart from its form: facts, tables, failures and pictures side by side.

Texts are as notebooks have them. The page cleans and escapes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from papermill_mcp.core.pictures.last_picture import SmallPicture


@dataclass(frozen=True)
class Link:
    """A text that leads to an address, which `address_of` or `place_of` made."""

    text: str
    address: str


@dataclass(frozen=True)
class Fact:
    """A line of the head of a report."""

    name: str
    values: Sequence[str | Link]


@dataclass(frozen=True)
class Column:
    """A column of a table. `numbers`: its cells are numbers, so they stand to the right."""

    name: str
    numbers: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        order: the number by which it is sorted; None to sort it by its text.
        address: a link, which `address_of` or `place_of` made.
    """

    text: str
    order: float | None = None
    address: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table. Its first cell is its name.

    Attributes:
        key: by which links and pictures find it; only letters, digits and `-`. Empty for none.
        failed: whether it is marked as failed.
    """

    cells: Sequence[Cell]
    key: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Table:
    """A table. `main`: the one that readers filter."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    main: bool = False


@dataclass(frozen=True)
class Failure:
    """Rows that failed alike, with the traceback of one of them.

    Attributes:
        rows: links to the first of them. `count` has all.
        place: where the traceback is from; empty without one.
        traceback: several lines; empty if there is none.
    """

    error: str
    count: int
    rows: Sequence[Link]
    place: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Attributes:
        alt: words in its place.
        address: of the file that it is from, which `address_of` made.
        key: of its row.
    """

    image: SmallPicture
    caption: str
    alt: str
    address: str
    key: str


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that stand side by side. The title of the only group may be empty."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Report:
    """A report. Empty parts are left out of the page.

    Attributes:
        identity: the id of the run that it is about.
        noun: the word for a row of the main table, such as `run`.
        notes: sentences about parts that the report leaves out.
    """

    title: str
    identity: str
    noun: str
    facts: Sequence[Fact]
    tables: Sequence[Table]
    failures: Sequence[Failure] = ()
    pictures: Sequence[PictureGroup] = ()
    notes: Sequence[str] = ()


def address_of(path: Path, directory: Path) -> str:
    """The relative address of a file for a page in a directory. No name of a file makes it another kind of address."""
    relative = os.path.relpath(path, directory)
    return "./" + quote(os.fsencode(relative))


def place_of(key: str) -> str:
    """The address of a row in the page itself."""
    return f"#{key}"
