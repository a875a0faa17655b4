"""The fault of a file that cannot be edited, with its place."""

from __future__ import annotations


class EditError(ValueError):
    """A text has another form than the edit needs.

    Attributes:
        reason: the fault in words.
        line: its line, from 1.
        column: its column, from 1.
    """

    def __init__(self, reason: str, text: str, position: int) -> None:
        self.line = text.count("\n", 0, position) + 1
        self.column = position - (text.rfind("\n", 0, position) + 1) + 1
        self.reason = reason
        super().__init__(f"line {self.line}, column {self.column}: {reason}")
