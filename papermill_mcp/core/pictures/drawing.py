"""SVG, Vega and Vega-Lite drawn as PNG, where the extra `render` is installed.

A native library draws, in a process that is killed when it takes too long (`drawing_worker.py`). It can open no file
and no connection. Calls block, so they belong in a worker thread.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from papermill_mcp.core.documents.reading import joined

_WORKER = Path(__file__).with_name("drawing_worker.py")
_NO_FONTS = Path(__file__).with_name("no_fonts.conf")
_LIBRARY = "vl_convert"

MAX_CHARS = 5_000_000
SECONDS = 5.0
TOTAL_SECONDS = 15.0
_MAX_PNG_BYTES = 100_000_000

_FORMS = (
    (re.compile(r"image/svg\+xml"), "svg"),
    (re.compile(r"application/vnd\.vegalite\.v[\d.]{1,10}[.+]json"), "vegalite"),
    (re.compile(r"application/vnd\.vega\.v[\d.]{1,10}[.+]json"), "vega"),
)

# Of all replies that are made at a time: each worker may take a gigabyte.
_workers = threading.BoundedSemaphore(2)


class DrawingError(Exception):
    """The drawing could not be drawn: it is broken, too large, or took too long."""


def drawable(data: Iterable[str]) -> list[str]:
    """The MIME types among `data` that can be drawn here, the best first. None without the extra `render`."""
    found = [mime for pattern, _ in _FORMS for mime in data if pattern.fullmatch(mime)]
    return found if found and available() else []


def available() -> bool:
    """Whether the extra `render` is installed, on a system that can confine a process."""
    return sys.platform != "win32" and importlib.util.find_spec(_LIBRARY) is not None


class Drawer:
    """Draws the drawings of one reply. Its process starts with the first one. Leaving it ends the process.

    Args:
        seconds: for one drawing.
        total_seconds: for all of them. When they are over, nothing more is drawn.
    """

    def __init__(self, *, seconds: float = SECONDS, total_seconds: float = TOTAL_SECONDS) -> None:
        self._seconds = seconds
        self._left = total_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_for: set[str] = set()

    def png(self, mime: str, value: object, side: int) -> bytes:
        """A PNG of at most `side` pixels on its long side, about.

        Raises:
            DrawingError: it could not be drawn.
        """
        form = next(form for pattern, form in _FORMS if pattern.fullmatch(mime))
        try:
            text = json.dumps(value) if isinstance(value, Mapping) else joined(value)
        except (TypeError, ValueError, RecursionError):  # a depth of 100,000
            raise DrawingError("it is no JSON") from None
        if len(text) > MAX_CHARS:
            raise DrawingError(f"it has more than {MAX_CHARS:,} characters")
        if self._left <= 0:
            raise DrawingError("the time for drawings of this reply is over")
        started = time.monotonic()
        try:
            return self._drawn(form, text.encode("utf-8", "replace"), side, min(self._seconds, self._left))
        finally:
            self._left -= time.monotonic() - started

    def close(self) -> None:
        """End the process. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # of bytes that it has not read
                        pipe.close()
        finally:
            _workers.release()

    def _drawn(self, form: str, data: bytes, side: int, seconds: float) -> bytes:
        if self._process is not None and form not in {"svg", *self._ready_for}:
            self.close()  # it has given up the right to load the scripts
        limit = time.monotonic() + seconds
        process = self._process or self._start(form, seconds)
        timer = threading.Timer(max(limit - time.monotonic(), 0.01), process.kill)
        timer.start()
        try:
            answer, png = _ask(process, {"form": form, "side": side, "seconds": seconds, "size": len(data)}, data)
        except (OSError, ValueError):  # it is gone: its time or its memory is over
            self.close()
            raise DrawingError("it took too much time or memory") from None
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        if "error" in answer:
            raise DrawingError(str(answer["error"]))
        return png

    def _start(self, form: str, seconds: float) -> subprocess.Popen[bytes]:
        if form != "svg":
            self._ready_for.add(form)
        if not _workers.acquire(timeout=seconds):
            raise DrawingError("other drawings take the time")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER), *sorted(self._ready_for)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "FONTCONFIG_FILE": str(_NO_FONTS)},
            )
        except BaseException as error:
            _workers.release()
            if isinstance(error, OSError):
                raise DrawingError("its process did not start") from None
            raise
        return self._process


def _ask(process: subprocess.Popen[bytes], request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The answer of a worker, and the bytes after it.

    Raises:
        OSError: the worker is gone.
        ValueError: its answer is none.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.write(data)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline(10_000))
    size = min(int(answer.get("size", 0)), _MAX_PNG_BYTES)
    png = process.stdout.read(size)
    if len(png) < size:
        raise OSError("the worker ended")
    return answer, png
