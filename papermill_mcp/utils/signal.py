"""An event with callbacks."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Calls back whenever something changed. One signal serves an object and everything inside it."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def connect(self, callback: Callable[[], None]) -> None:
        """Call `callback` at each change from now on. It must not block."""
        self._callbacks.append(callback)

    def __call__(self) -> None:
        for callback in self._callbacks:
            callback()
