"""Regular expressions of others, matched in a process that is killed when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("regex_worker.py")
_LONGEST_ANSWER = 64 << 20
_SENT_AT_ONCE = 1 << 18


class BadPatternError(Exception):
    """The pattern is no regular expression. The message says why."""


class RegexTimeoutError(Exception):
    """Matching took too long, or too much memory."""


class RegexSearch:
    """One pattern and the process that matches it."""

    def __init__(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    @classmethod
    @asynccontextmanager
    async def opened(cls, pattern: str, *, seconds: float, total_seconds: float) -> AsyncIterator[RegexSearch]:
        """A search whose answers take at most `seconds` each. Leaving it ends the process.

        Args:
            total_seconds: after which the process ends by itself.

        Raises:
            BadPatternError: the pattern cannot be compiled.
            RegexTimeoutError: compiling it took too long.
        """
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
        search = cls(process, seconds)
        try:
            answer = await search._ask({"pattern": pattern, "seconds": total_seconds}, b"")
            if "error" in answer:
                raise BadPatternError(str(answer["error"]))
            yield search
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # A caller that is cancelled leaves at once; the process is dead, and asyncio reaps it.
            await asyncio.shield(process.wait())

    async def lines(
        self, texts: Sequence[str], *, keep: int, each: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """The first `keep` lines that match, as numbers of text and line from 0, and how many of each text match.

        Args:
            each: how many lines of each text are kept, at most.

        Raises:
            RegexTimeoutError: the time is over.
        """

        def encode() -> tuple[list[int], bytes]:
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            return [len(text) for text in encoded], b"".join(encoded)

        sizes, data = await asyncio.to_thread(encode)
        found, numbers = await self._ask([keep, list(each), sizes], data)
        return [(text, line) for text, line in found], numbers

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
