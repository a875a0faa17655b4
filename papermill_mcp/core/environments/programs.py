"""The programs `pip` and `pip3` of kernels whose environment has none of its own.

Without them the shell would find another pip in the PATH, which installs elsewhere.
"""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

from papermill_mcp.core.environments.reading import Environment
from papermill_mcp.utils.file_utils import create_private_file, read_beginning
from papermill_mcp.utils.private import make_private_directory

logger = logging.getLogger(__name__)

#: An environment may have the module without the program. `python` is its own, since its programs come first.
_SCRIPT = """\
#!/bin/sh
python=$(command -v python || command -v python3)
"$python" -c 'import pip' 2>/dev/null && exec "$python" -m pip "$@"
echo "The environment of $python has no pip, so nothing was done. Use the tool install_packages, or:" >&2
echo "uv pip install --python $python PACKAGE" >&2
exit 1
"""


def with_pip(environment: Environment, variables: dict[str, str], layers: Path) -> dict[str, str]:
    """Variables of a kernel in whose PATH these programs follow those of its environment. Writes small files.

    Args:
        layers: the directory of the layers, in which they are kept.
    """
    first, _, rest = variables.get("PATH", "").partition(os.pathsep)
    if os.name != "posix" or environment.prefix is None or first != str(environment.bin):  # a PATH of the caller
        return variables
    try:
        directory = _made(layers)
    except OSError as error:
        logger.warning("a program pip for environments without one cannot be made: %s", error)
        return variables
    return variables | {"PATH": os.pathsep.join(filter(None, [first, str(directory), rest]))}


def _made(layers: Path) -> Path:
    directory = layers / "pip"
    make_private_directory(layers.parent)
    make_private_directory(layers)
    make_private_directory(directory)
    for name in ("pip", "pip3"):
        if read_beginning(directory / name, 2 * len(_SCRIPT)) != _SCRIPT:
            making = layers / f".{uuid.uuid4().hex}"
            create_private_file(making, _SCRIPT.encode())
            making.chmod(0o700)
            making.replace(directory / name)
    os.utime(directory)  # it is in use, so it is not cleared as an old layer
    return directory
