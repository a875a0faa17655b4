"""One late import at a time.

Jupyter's packages import each other in circles. Two threads that enter a circle at different places wait for each
other; Python notices, and lets one of them fail with a deadlock error. So code that imports such packages in a thread
holds this lock from its outermost import on.
"""

from __future__ import annotations

import threading

IMPORTING = threading.RLock()
