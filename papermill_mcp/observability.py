"""The operator's view: log lines on stderr, and counters for a Prometheus scraper with the extra `monitoring`.

A log record is one line with its structured fields. Without `metrics_port` nothing is counted. Labels are bounded:
names of installed kernelspecs, of tools, and of states. No path ever is one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from papermill_mcp.config import ConfigError
from papermill_mcp.errors import KernelSpecNotFoundError
from papermill_mcp.utils.lazy import lazy, load
from papermill_mcp.utils.text_utils import clean_text, safe_utf8

if TYPE_CHECKING:
    import prometheus_client
    from prometheus_client import core as prometheus_core
else:
    prometheus_client = lazy("prometheus_client")
    prometheus_core = lazy("prometheus_client.core")

#: A Host header that names this machine.
_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)

#: Upper ends of the buckets of durations, in seconds: from a print to a night.
_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 28800)

#: Names of kernelspecs. Kernels that are started from an interpreter have a name with its path.
_KERNELSPEC = re.compile(r"[A-Za-z0-9._-]+")

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the fields of the event, `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": safe_utf8(record.getMessage()),
            **_fields(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`, with line ends in values escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; a traceback follows on lines of its own."""
        when = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds")
        fields = "".join(f" {key}={_plain(value)!r}" for key, value in _fields(record).items())
        message = clean_text(record.getMessage()).replace("\n", "\\n")
        line = f"{when} {record.levelname} {record.name}: {message}{fields}"
        return safe_utf8(line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""))


def configure_logging(level: str, form: Literal["text", "json"]) -> None:
    """Send all log records and warnings to stderr, in one form. Replaces the earlier configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    for noisy in ("asyncio", "papermill", "httpx2", "mcp"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class Metrics:
    """The events that services report. This class counts nothing."""

    url: str | None = None

    def execution_ended(self, tool: str, kernel_name: str | None, status: str, seconds: float) -> None:
        """Code, a notebook or a batch was run."""

    def notebook_ended(self, tool: str, kernel_name: str | None, status: str) -> None:
        """A notebook was run, alone or in a batch."""

    @contextmanager
    def kernel_start(self, kernel_name: str) -> Iterator[None]:
        """Around the start of a kernel."""
        yield

    def watch_kernels(self, kernels: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Where the living kernels are, by name and state. Called in another thread."""


class PrometheusMetrics(Metrics):
    """Counts, and serves the counters on 127.0.0.1 by a daemon thread.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """

    def __init__(self, port: int) -> None:
        try:
            load(prometheus_client)
        except ImportError:
            raise ConfigError(
                "metrics_port needs the package prometheus-client, which the extra `monitoring` has; "
                "install it with: pip install prometheus-client"
            ) from None
        registry = prometheus_client.CollectorRegistry()  # not the one that all of the process shares
        self._notebooks = prometheus_client.Counter(
            "notebook_executions", "Runs of notebooks", ["tool", "kernel", "status"], registry=registry
        )
        self._starts = prometheus_client.Counter(
            "kernel_starts", "Starts and restarts of kernels", ["kernel", "status"], registry=registry
        )
        self._durations = prometheus_client.Histogram(
            "execution_duration_seconds",
            "How long executions took",
            ["tool", "kernel", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._kernels: Callable[[], Iterable[tuple[str, str]]] = tuple
        registry.register(self)
        try:
            server, _ = prometheus_client.start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise ConfigError(f"metrics_port {port} cannot be used: {error.strerror}; 0 takes a free port") from None
        server.set_app(_for_local_hosts(server.get_app()))
        self.url = f"http://127.0.0.1:{server.server_port}/metrics"

    def execution_ended(self, tool: str, kernel_name: str | None, status: str, seconds: float) -> None:
        """A duration."""
        self._durations.labels(tool, _label(kernel_name), status).observe(seconds)

    def notebook_ended(self, tool: str, kernel_name: str | None, status: str) -> None:
        """One more."""
        self._notebooks.labels(tool, _label(kernel_name), status).inc()

    @contextmanager
    def kernel_start(self, kernel_name: str) -> Iterator[None]:
        """One more, whether it succeeds or fails. A kernel that is not installed is none."""
        try:
            yield
        except KernelSpecNotFoundError:
            raise
        except Exception:
            self._starts.labels(_label(kernel_name), "failed").inc()
            raise
        self._starts.labels(_label(kernel_name), "ok").inc()

    def watch_kernels(self, kernels: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Asked at every scrape."""
        self._kernels = kernels

    def collect(self) -> Iterator[Any]:
        """The kernels that live now, for the registry."""
        gauge = prometheus_core.GaugeMetricFamily(
            "active_kernels_gauge", "Kernels that live now", labels=["kernel", "status"]
        )
        counts: dict[tuple[str, str], int] = {}
        for name, state in self._kernels():
            labels = (_label(name), state)
            counts[labels] = counts.get(labels, 0) + 1
        for labels, count in counts.items():
            gauge.add_metric(labels, count)
        yield gauge


def _for_local_hosts(app: Any) -> Any:
    """A WSGI application that answers requests to this machine only.

    A page of another site can reach the port under a name of its own that leads here (DNS rebinding).
    """

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if not _LOCAL_HOST.fullmatch(environ.get("HTTP_HOST", "")):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"the Host header does not name this machine\n"]
        return app(environ, start_response)

    return checked


def _label(kernel_name: str | None) -> str:
    if kernel_name is None:
        return "none"
    return kernel_name if _KERNELSPEC.fullmatch(kernel_name) else "interpreter"
