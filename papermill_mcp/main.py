"""The entry point: reads the settings and serves over stdio.

`--version` and `--help` answer before the SDK is imported. The end of standard input, a standard output without
a reader, and SIGTERM, SIGINT and SIGHUP all lead the same way out: the SDK sees the end of its input, running
requests are cancelled, and the lifespan stops every kernel and the Jupyter server.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from papermill_mcp import __version__
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import anyio

    from papermill_mcp import config as settings
    from papermill_mcp import observability
    from papermill_mcp.server import app
    from papermill_mcp.utils import memory, stderr_relay
else:
    anyio = lazy("anyio")
    settings = lazy("papermill_mcp.config")
    observability = lazy("papermill_mcp.observability")
    app = lazy("papermill_mcp.server.app")
    memory = lazy("papermill_mcp.utils.memory")
    stderr_relay = lazy("papermill_mcp.utils.stderr_relay")

logger = logging.getLogger("papermill_mcp")

if sys.platform != "win32":
    _END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until its client leaves. Returns the exit code: 0, or 2 for settings that cannot be used."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--version" in arguments:
        sys.stdout.write(f"jupyter-papermill-mcp {__version__}\n")
        return 0
    try:
        config = settings.load_config(arguments)
        metrics = observability.PrometheusMetrics(config.metrics_port) if config.metrics_port is not None else None
    except settings.ConfigError as error:
        sys.stderr.write(f"jupyter-papermill-mcp: {error}\nSee jupyter-papermill-mcp --help.\n")
        return 2
    if sys.stdin is None or sys.stdout is None:  # closed when we were started, and their numbers may be taken since
        sys.stderr.write("jupyter-papermill-mcp: standard input and output must be open: the client speaks there.\n")
        return 2
    serve(config, metrics)
    return 0


def serve(config: settings.Config, metrics: observability.Metrics | None = None) -> None:
    """Serve over stdio until standard input ends or a signal asks for the end."""
    gc.disable()  # imports make many objects and no garbage; a collector that looks through them costs a tenth
    close_stderr = stderr_relay.relay_stderr()
    memory.return_large_blocks()
    if sys.platform != "win32":
        for number in _END_SIGNALS:
            signal.signal(number, lambda *_: os._exit(0))  # so far, nothing has begun
    observability.configure_logging(config.log_level, config.log_format)
    server = app.build_server(config, metrics)
    observability.configure_logging(config.log_level, config.log_format)  # the SDK has put its own handler there
    for variable in settings.foreign_variables():
        logger.warning("an environment variable is no setting of this server", extra={"variable": variable})
    logger.info("serving", extra={"version": __version__, "roots": [str(root) for root in config.roots]})
    if metrics is not None:
        logger.info("metrics are served", extra={"url": metrics.url})
    try:
        anyio.run(app.run, server)
    except KeyboardInterrupt:
        pass
    logging.shutdown()
    close_stderr()
    if sys.platform != "win32":
        os._exit(0)  # a worker thread may still be in a slow system call; everything of ours is closed


if __name__ == "__main__":
    sys.exit(main())
