"""Gives the memory of large buffers back to the system at once.

glibc raises the size from which it maps a block of its own each time such a block is freed, up to 32 MB. After one
large output the next ones come from the heap, and stay part of the process: a hundred megabytes of prints left it
130 MB larger. A size that was set is not raised (mallopt(3), M_MMAP_THRESHOLD).
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**20


def return_large_blocks() -> bool:
    """Map each block of a megabyte or more by itself. Returns whether the C library knows how."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
