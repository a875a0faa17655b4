"""Keeps the cyclic garbage collector out of the way while very many objects are made at once.

The collector looks at all of them again and again although none can be garbage yet: parsing 50,000 small cells takes
twice as long with it, and its longest looks hold up every other thread.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The collector belongs to the whole process, and so does the number of those who have asked it to pause.
_lock = threading.Lock()
_pauses = 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector inside this block, unless it is off anyway. Threads may overlap."""
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
