"""Members of JSON values that may be of any type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def object_of(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []
