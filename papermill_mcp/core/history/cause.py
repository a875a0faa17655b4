"""How a version of a notebook came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["edit", "run", "outside"]


@dataclass(frozen=True)
class Cause:
    """How a version came about.

    Attributes:
        by: the name of the writer.
        summary: the change, in a few words.
    """

    kind: Kind
    by: str
    summary: str
