"""The entry point: reads the settings and serves over stdio.

`--version` and `--help` answer before the SDK is imported. The end of standard input, a standard output without
a reader, and SIGTERM, SIGINT and SIGHUP all lead the same way out: the SDK sees the end of its input, running
requests are cancelled, and the lifespan stops every kernel and the Jupyter server.
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from papermill_mcp import __version__
from papermill_mcp.utils.lazy import lazy

if TYPE_CHECKING:
    import anyio

    from papermill_mcp import commands, observability
    from papermill_mcp import config as settings
    from papermill_mcp.server import app
    from papermill_mcp.utils import memory, stderr_relay
else:
    anyio = lazy("anyio")
    commands = lazy("papermill_mcp.commands")
    settings = lazy("papermill_mcp.config")
    observability = lazy("papermill_mcp.observability")
    app = lazy("papermill_mcp.server.app")
    memory = lazy("papermill_mcp.utils.memory")
    stderr_relay = lazy("papermill_mcp.utils.stderr_relay")

logger = logging.getLogger("papermill_mcp")

#: For a person who starts the server in a terminal.
_HINT = """\
jupyter-papermill-mcp {version} serves MCP over standard input and waits for a client. Ctrl-C ends it.
To register it with a client: jupyter-papermill-mcp install CLIENT. By hand, its command is: {command}
"""

_COMMANDS = ("install", "uninstall", "doctor", "history", "diff", "verify")

if sys.platform != "win32":
    _END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until its client leaves, or a command. Returns the exit code.

    It is 1 if a command found a fault. Settings that cannot be used are an exit code of 2 for commands and in a
    terminal. A client gets the fault as an answer instead: few clients show the standard error of a server that ends.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in _COMMANDS:
        return commands.run(arguments[0], arguments[1:])
    if "--version" in arguments:
        sys.stdout.write(f"jupyter-papermill-mcp {__version__}\n")
        return 0
    config, fault = settings.read_config(arguments)
    metrics = None
    if config.metrics_port is not None and (fault is None or isinstance(fault, settings.MissingRootError)):
        try:
            metrics = observability.PrometheusMetrics(config.metrics_port)
        except settings.ConfigError as error:
            fault = error
    by_hand = sys.stdin is not None and sys.stdin.isatty()
    if fault is not None and (by_hand or sys.stdin is None or sys.stdout is None):
        sys.stderr.write(f"jupyter-papermill-mcp: {fault}\nSee jupyter-papermill-mcp --help.\n")
        return 2
    if sys.stdin is None or sys.stdout is None:  # closed when we were started, and their numbers may be taken since
        sys.stderr.write("jupyter-papermill-mcp: standard input and output must be open: the client speaks there.\n")
        return 2
    if by_hand:
        sys.stderr.write(_HINT.format(version=__version__, command=_command(config)))
    serve(config, metrics, fault)
    return 0


def _command(config: settings.Config) -> str:
    """The command line of a client for this program and these roots."""
    roots = [part for root in config.roots for part in ("--roots", os.path.abspath(root))]  # noqa: PTH100
    program = Path(sys.argv[0])
    start = [sys.executable, "-P", "-m", "papermill_mcp"] if program.suffix == ".py" else [os.path.abspath(program)]  # noqa: PTH100
    return shlex.join([*start, *roots])


def serve(
    config: settings.Config,
    metrics: observability.Metrics | None = None,
    fault: settings.ConfigError | None = None,
) -> None:
    """Serve over stdio until standard input ends or a signal asks for the end.

    Args:
        fault: a fault of the settings, which the client gets as the answer to its requests.
    """
    gc.disable()  # imports make many objects and no garbage; a collector that looks through them costs a tenth
    if fault is not None:  # before the relay, so that the line is written before anything is answered
        observability.configure_logging(config.log_level, config.log_format)
        level = logging.WARNING if isinstance(fault, settings.MissingRootError) else logging.ERROR
        logger.log(level, "the settings have a fault", extra={"problem": str(fault)})
    close_stderr = stderr_relay.relay_stderr()
    memory.return_large_blocks()
    if sys.platform != "win32":
        for number in _END_SIGNALS:
            signal.signal(number, lambda *_: os._exit(0))  # so far, nothing has begun
    observability.configure_logging(config.log_level, config.log_format)
    server = app.build_server(config, metrics, fault)
    observability.configure_logging(config.log_level, config.log_format)  # the SDK has put its own handler there
    for variable in settings.foreign_variables():
        logger.warning("an environment variable is no setting of this server", extra={"variable": variable})
    may_work = fault is None or isinstance(fault, settings.MissingRootError)
    roots = [str(root) for root in config.roots] if may_work else []
    logger.info("serving", extra={"version": __version__, "roots": roots})
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
