"""The arguments of commands, and the fault of arguments that cannot be used."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """The arguments cannot be used."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)
