"""A file cut into chunks, so that versions of a notebook share the parts that are the same.

A cut depends on the cells beside it and on nothing before them. So an edit changes the chunk of its cell, and cells
that move keep theirs.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple

from papermill_mcp.core.documents.places import find_places

#: Bytes of a digest of a chunk.
DIGEST_BYTES = 20

#: Bytes of a chunk that joins small cells: about the least, and the most. Larger cells are chunks of their own.
_LEAST = 4_096
_MOST = 65_536

#: Of the small cells one in this many ends its chunk, by its content.
_ENDS = 4

#: Chunks of a file, about. Those of a larger file are larger.
_NUMBER = 2_048


class Chunk(NamedTuple):
    """A part of a file, and the digest that names it."""

    digest: bytes
    data: memoryview


def cut(data: bytes) -> list[Chunk]:
    """The chunks of a file, in order. Joined they are the file.

    A file that is no notebook of version 4 is one chunk.
    """
    view = memoryview(data)
    return [Chunk(digest_of(view[start:end]), view[start:end]) for start, end in _bounds(data)]


def digest_of(data: bytes | memoryview) -> bytes:
    """The digest of a chunk."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests_in(manifest: bytes) -> list[bytes]:
    """The digests of the chunks of a version, in order."""
    return [manifest[at : at + DIGEST_BYTES] for at in range(0, len(manifest), DIGEST_BYTES)]


def _bounds(data: bytes) -> list[tuple[int, int]]:
    if len(data) <= _LEAST:
        return [(0, len(data))]
    found = find_places(data)
    if found is None:
        return [(0, len(data))]
    least = _LEAST
    while least * _NUMBER < len(data):
        least *= 2
    most = least * (_MOST // _LEAST)
    ends = [place.end for place in found.cells]
    bounds: list[tuple[int, int]] = []
    start, last = 0, found.cells[0].start  # the head of the file is a part of its own
    if last >= least:
        bounds.append((start, last))
        start = last
    for end in ends:
        if end - last >= least:  # a large cell, with the comma before it
            if last > start:
                bounds.append((start, last))
            bounds.append((last, end))
            start = end
        elif end - start >= most or (end - start >= least and zlib.crc32(data[last:end]) % _ENDS == 0):
            bounds.append((start, end))
            start = end
        last = end
    if start < len(data):
        bounds.append((start, len(data)))
    return bounds
