"""Regular expressions of others, matched in a process that is killed when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

_WORKER = Path(__file__).with_name("regex_worker.py")
_LONGEST_ANSWER = 64 << 20
_SENT_AT_ONCE = 1 << 18


class BadPatternError(Exception):
    """The pattern is no regular expression. The message says why."""


class RegexTimeoutError(Exception):
    """Matching took too long, or too much memory."""


class _Worker:
    """The process that matches."""

    def __init__(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    @classmethod
    @asynccontextmanager
    async def _opened(cls, request: dict[str, Any], seconds: float, total_seconds: float) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LONGEST_ANSWER,
        )
        worker = cls(process, seconds)
        try:
            answer = await worker._ask(request | {"seconds": total_seconds}, b"")
            if "error" in answer:
                raise BadPatternError(str(answer["error"]))
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # A caller that is cancelled leaves at once; the process is dead, and asyncio reaps it.
            await asyncio.shield(process.wait())

    async def _ask(self, request: Any, data: bytes) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._seconds):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                for start in range(0, len(data), _SENT_AT_ONCE):
                    self._process.stdin.write(data[start : start + _SENT_AT_ONCE])
                    await self._process.stdin.drain()
                answer = await self._process.stdout.readline()
        except (TimeoutError, ConnectionError):
            raise RegexTimeoutError from None
        if not answer:  # its own timer, or its limit of memory
            raise RegexTimeoutError
        return json.loads(answer)


class RegexSearch(_Worker):
    """One pattern that is searched for."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, pattern: str, *, seconds: float, total_seconds: float) -> AsyncIterator[Self]:
        """A search whose answers take at most `seconds` each. Leaving it ends the process.

        Args:
            total_seconds: after which the process ends by itself.

        Raises:
            BadPatternError: the pattern cannot be compiled.
            RegexTimeoutError: compiling it took too long.
        """
        async with cls._opened({"pattern": pattern}, seconds, total_seconds) as search:
            yield search

    async def lines(
        self, texts: Sequence[str], *, keep: int, each: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """The first `keep` lines that match, as numbers of text and line from 0, and how many of each text match.

        Args:
            each: how many lines of each text are kept, at most.

        Raises:
            RegexTimeoutError: the time is over.
        """

        sizes, data = await asyncio.to_thread(_encoded, texts)
        found, numbers = await self._ask([keep, list(each), sizes], data)
        return [(text, line) for text, line in found], numbers


class RegexReplacer(_Worker):
    """Patterns whose matches are replaced, one pattern after the other."""

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, patterns: Sequence[tuple[str, str]], *, seconds: float, total_seconds: float
    ) -> AsyncIterator[Self]:
        """A replacer of patterns, each with its replacement. Bounds and errors as for `RegexSearch.opened`."""
        async with cls._opened({"patterns": list(patterns)}, seconds, total_seconds) as replacer:
            yield replacer

    async def replaced(self, texts: Sequence[str]) -> list[str]:
        """The texts with a replacement for each match.

        Raises:
            RegexTimeoutError: the time is over.
        """
        if not texts:
            return []
        sizes, data = await asyncio.to_thread(_encoded, texts)
        found: list[str] = await self._ask([sizes], data)
        return found


def _encoded(texts: Sequence[str]) -> tuple[list[int], bytes]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return [len(text) for text in encoded], b"".join(encoded)
