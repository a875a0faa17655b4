"""Memory of the process: a collector that keeps away from large parses, and large blocks that go back to the system."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import ctypes
else:
    ctypes = lazy("ctypes")

# glibc raises the size from which it maps a block of its own each time such a block is freed, up to 32 MB. After one
# large output the next ones come from the heap, and stay part of the process: 100 MB of prints left it 130 MB larger.
# A size that was set is not raised (mallopt(3), M_MMAP_THRESHOLD).
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**20

#: Bytes of a text in memory for each of its bytes in UTF-8, at most.
_TEXT_FACTOR = 4

#: Bytes of JSON whose texts are taken to have room.
_SMALL_BYTES = 2**18

# The collector belongs to the whole process, and so does the number of its pauses.
_lock = threading.Lock()
_pauses = 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector inside this block, unless it is off anyway. Threads may overlap.

    Parsing 50,000 small cells takes twice as long with it: it looks at all of them again and again, although none can
    be garbage yet. Its longest looks hold up every other thread.
    """
    global _pauses
    with _lock:
        if _pauses or gc.isenabled():
            gc.disable()
            _pauses += 1
            counted = True
        else:
            counted = False
    try:
        yield
    finally:
        if counted:
            with _lock:
                _pauses -= 1
                if not _pauses:
                    gc.enable()


def return_large_blocks() -> bool:
    """Map each block of a megabyte or more by itself. Returns whether the C library knows how."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))


def has_room_for_texts(size: int) -> bool:
    """Whether the texts in so many bytes of JSON can surely be made now.

    msgspec ends the process where a text gets no memory (0.22), so this is asked first. No page is used for it.
    """
    if size < _SMALL_BYTES:
        return True
    try:
        bytes(_TEXT_FACTOR * size)
    except MemoryError:
        return False
    return True
