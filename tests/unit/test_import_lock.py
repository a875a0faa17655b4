"""Late imports take turns."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys, threading
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.nbformat_lazy import nbformat_module
from papermill_mcp.services import jupyter_server_service, kernel_service
from papermill_mcp.services import catalogue as notebook_catalogue
from papermill_mcp.services.runs import starter
from papermill_mcp.utils.import_lock import IMPORTING
from papermill_mcp.utils.lazy import load

document = NotebookDocument.new({})
document.insert(0, {"cell_type": "code", "source": "x = 1", "metadata": {"tags": ["parameters"]}})
ways = [
    kernel_service._import_engine,
    lambda: load(starter.papermill_output),
    lambda: load(starter.notebook_run),
    jupyter_server_service._import_lab,
    nbformat_module,
    lambda: notebook_catalogue._parameters(document, []),
]
done, failed = [], []

def go(way):
    try:
        way()
        done.append(way)
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=go, args=(way,)) for way in ways]
with IMPORTING:
    for thread in threads:
        thread.start()
        thread.join(0.02)
    early = sorted({name.partition(".")[0] for name in sys.modules} & {"jupyter_client", "nbformat", "papermill"})
for thread in threads:
    thread.join(60)
print(early, len(done) == len(ways), failed)
"""


def test_two_threads_never_import_at_once() -> None:
    """They would meet in the circles of Jupyter's packages, and one would fail with a deadlock error."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=90)

    assert done.stdout.strip() == "[] True []", done.stderr
