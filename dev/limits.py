"""The published limits, as docs/limits.md lists them. The numbers come from the code.

A new limit is one more line here. `python -m dev.docs` writes the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from papermill_mcp.config import _MOST_FAULTS, Config
from papermill_mcp.core.documents.check import _MOST as PROBLEMS
from papermill_mcp.core.environments.requirements import MAX_PACKAGES
from papermill_mcp.core.history.store import BUSY_SECONDS as HISTORY_SECONDS
from papermill_mcp.core.history.store import MAX_AGE_DAYS as HISTORY_DAYS
from papermill_mcp.core.history.store import NOTEBOOK_BYTES
from papermill_mcp.core.kernels.forms import MAX_ERROR_BYTES, MAX_JSON_DEPTH
from papermill_mcp.core.kernels.interrupts import INTERRUPT_PATIENCE
from papermill_mcp.core.kernels.kernel import MAX_QUEUED
from papermill_mcp.core.kernels.outputs import MAX_CELL_BYTES, MAX_CELL_OUTPUTS, MAX_DISPLAYS
from papermill_mcp.core.kernels.streams import STREAM_TAIL_CHARS
from papermill_mcp.core.kernels.widgets import MAX_OUTPUT_WIDGET_BYTES, MAX_WIDGET_BYTES
from papermill_mcp.core.kernels.wire import MAX_CONTENT_BYTES
from papermill_mcp.core.object_store import ASK_SECONDS as STORE_SECONDS
from papermill_mcp.core.object_store import TRANSFER_RATE, TRANSFER_SECONDS
from papermill_mcp.core.pictures.contact_sheet import MAX_TILES
from papermill_mcp.core.pictures.images import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_SENT_BYTES
from papermill_mcp.core.runs.notebook_run import _MAX_ROWS as CELL_ROWS
from papermill_mcp.core.runs.notebook_run import MAX_RUN_BYTES, MIN_CELL_BYTES
from papermill_mcp.core.runs.run_file import SAVE_INTERVAL, SAVE_SHARE
from papermill_mcp.core.runs.store import MAX_AGE_DAYS, MAX_RECORDS
from papermill_mcp.server.app import EXIT_SECONDS
from papermill_mcp.server.json_rpc import (
    MAX_DEPTH,
    MAX_ID_CHARS,
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_METHOD_CHARS,
    PARSE_ERROR,
)
from papermill_mcp.server.readiness import LOOK_SECONDS
from papermill_mcp.server.transport import MAX_IN_FLIGHT, MAX_UNREAD, TOO_MANY_REQUESTS
from papermill_mcp.services.catalogue import (
    _CHECK_SECONDS,
    _HEADINGS,
    _LIST_SECONDS,
    _REGEX_SECONDS,
    _SEARCH_SECONDS,
)
from papermill_mcp.services.notebook_service import (
    _CHANGED_CHARS,
    _IDS,
    _LOCK_SECONDS,
    DIFF_CHARS,
    LARGE_FACTOR,
    PARSED_BYTES,
    SMALL_BYTES,
    SMALL_PARSED_BYTES,
)
from papermill_mcp.services.notebooks.view import SOURCE_CHARS
from papermill_mcp.services.notebooks.walk import MAX_DEPTH as WALK_DEPTH
from papermill_mcp.services.notebooks.walk import MAX_ENTRIES, WALK_SECONDS
from papermill_mcp.services.outputs import MAX_VIEWS, SUMMARY_CHARS
from papermill_mcp.services.runs.batch import _MAX_ROWS as BATCH_ROWS
from papermill_mcp.services.runs.batch_report import MAX_PICTURE_BYTES, MAX_PICTURES, PICTURE_SIDE
from papermill_mcp.services.runs.batch_summary import MAX_POINTS
from papermill_mcp.services.runs.batches import MAX_CLUSTER_RUNS, MAX_FILE_BYTES, MAX_RUNS, PLANNED_ROWS
from papermill_mcp.services.runs.registry import _REMEMBERED as KEPT_EXECUTIONS
from papermill_mcp.services.runs.registry import MAX_KEPT_BYTES
from papermill_mcp.services.runs.run_pictures import MAX_OUTPUT_BYTES
from papermill_mcp.services.runs.view import _CELL_CHARS, _VALUE_CHARS
from papermill_mcp.services.runs.view import _PACKAGES as PACKAGE_ROWS
from papermill_mcp.services.runtime_files import _LOOKED_AT, _SHOWN
from papermill_mcp.services.watch import MAX_FOLLOWED, WATCH_SECONDS
from papermill_mcp.services.workspace import MAX_LINKS, MAX_PART_BYTES, MAX_PARTS, MAX_PATH_BYTES
from papermill_mcp.tools.completions import _MAX_COMPLETIONS
from papermill_mcp.tools.resources import _MAX_CHARS as RESOURCE_CHARS
from papermill_mcp.tools.resources import MAX_LISTED
from papermill_mcp.utils.stderr_relay import MAX_WAITING


@dataclass(frozen=True)
class Limit:
    """One row of the table.

    Attributes:
        item: the thing with the limit.
        value: the limit, with its unit.
        beyond: the answer of the server when the limit is reached.
    """

    item: str
    value: str
    beyond: str


def size(number: int) -> str:
    """A number of bytes in the unit that it was chosen in."""
    mebibytes, rest = divmod(number, 2**20)
    return (
        f"{mebibytes:,} MiB" if mebibytes and not rest else f"{number / 1e6:g} MB" if number >= 1e6 else f"{number:,} B"
    )


def count(number: float, unit: str) -> str:
    """A number with its unit."""
    return f"{number:,} {unit}" if isinstance(number, int) else f"{number:g} {unit}"


def setting(name: str, unit: str = "") -> str:
    """The name of a setting and its default."""
    default = Config.model_fields[name].default
    shown = size(default) if unit == "bytes" else count(default, unit).strip()
    return f"`{name}` ({shown})"


_COUNTED = "the others are counted"
_CUT = "cut; the number of characters left out is shown"

LIMITS: dict[str, list[Limit]] = {
    "The protocol": [
        Limit("a line from the client", size(MAX_LINE_BYTES), f"the line is skipped and answered with {PARSE_ERROR}"),
        Limit("nesting of a message", count(MAX_DEPTH, "levels"), "the message is refused"),
        Limit(
            "a request id; a method name", f"{MAX_ID_CHARS:,}; {MAX_METHOD_CHARS} characters", "the message is refused"
        ),
        Limit(
            "requests in flight", count(MAX_IN_FLIGHT, "requests"), f"{TOO_MANY_REQUESTS}: send the request again later"
        ),
        Limit(
            "subscriptions of a client", count(MAX_FOLLOWED, "URIs"), "an error; a stream does not name it as followed"
        ),
        Limit("time between two looks at what is followed", count(WATCH_SECONDS, "s"), "changes in it are one event"),
        Limit("an answer", size(MAX_MESSAGE_BYTES), "an error answer takes its place"),
        Limit(
            "unread answers of a slow client",
            count(MAX_UNREAD, "messages"),
            "the server stops reading from this client",
        ),
        Limit("unread log of a client that ignores standard error", size(MAX_WAITING), "lines are dropped and counted"),
        Limit("time to look for missing roots before a request", count(LOOK_SECONDS, "s"), "they stay missing"),
        Limit("faults of the settings in one message", count(_MOST_FAULTS, "faults"), "the message counts the others"),
        Limit("time to exit", count(EXIT_SECONDS, "s"), "the process ends; the watchdog ends its kernels"),
    ],
    "Paths and files": [
        Limit("a path", count(MAX_PATH_BYTES, "bytes"), "`PATH_NOT_ALLOWED`"),
        Limit("a part of a path", count(MAX_PART_BYTES, "bytes"), "`PATH_NOT_ALLOWED`"),
        Limit("parts of a path", count(MAX_PARTS, "parts"), "`PATH_NOT_ALLOWED`"),
        Limit("symbolic links in a path", count(MAX_LINKS, "links"), "`PATH_NOT_ALLOWED`"),
        Limit(
            "a notebook file",
            setting("max_notebook_bytes", "bytes"),
            "its outputs are left out where they are not needed, else `TOO_LARGE`",
        ),
        Limit("a notebook file whose outputs are left out", f"{LARGE_FACTOR} times that", "`TOO_LARGE`"),
        Limit(
            "notebook files that are parsed at a time",
            f"{size(PARSED_BYTES)}; {size(SMALL_PARSED_BYTES)} more for files up to {size(SMALL_BYTES)}",
            "the request waits, first come, first served; a larger file is parsed alone",
        ),
        Limit("versions of a notebook", setting("history_versions"), "the oldest go"),
        Limit(
            "versions of a notebook, in bytes; age of a version",
            f"{size(NOTEBOOK_BYTES)}; {count(HISTORY_DAYS, 'days')}",
            "the oldest go; a larger notebook has none, and the reply says so",
        ),
        Limit("all versions", setting("history_bytes", "bytes"), "those of the notebooks used least recently go"),
        Limit("wait for the history", count(HISTORY_SECONDS, "s"), "the version is not kept, and the reply says so"),
        Limit(
            "wait of an edit for another edit of the file, also by another server", count(_LOCK_SECONDS, "s"), "`BUSY`"
        ),
        Limit(
            "directory entries of one listing or search", count(MAX_ENTRIES, "entries"), "the reply says where it ended"
        ),
        Limit("depth of directories", count(WALK_DEPTH, "levels"), "skipped and counted"),
        Limit("time to walk the directories", count(WALK_SECONDS, "s"), "the reply says where it ended"),
        Limit("time to open the files of one page of a listing", count(_LIST_SECONDS, "s"), "the page ends early"),
        Limit("time of a search", count(_SEARCH_SECONDS, "s"), "the reply counts the notebooks not searched"),
        Limit("time of a regular expression in one notebook", count(_REGEX_SECONDS, "s"), "`TIMEOUT`"),
        Limit("time to validate one notebook", count(_CHECK_SECONDS, "s"), "the reply names the cells not checked"),
        Limit("files in `debug_list_runtime_dir`", f"the newest {_SHOWN} of the first {_LOOKED_AT:,}", _COUNTED),
    ],
    "Kernels and runs": [
        Limit(
            "kernels alive at once",
            setting("max_kernels"),
            "a kernel that was idle longest is stopped, else `LIMIT_REACHED`; a run of a batch is `queued`",
        ),
        Limit("time without activity of a kernel", setting("kernel_idle_timeout", "s"), "the kernel is stopped"),
        Limit("executions that wait for one kernel", count(MAX_QUEUED, "executions"), "`LIMIT_REACHED`"),
        Limit(
            "time for a kernel to obey an interrupt", count(INTERRUPT_PATIENCE, "s"), "the reply says `still_running`"
        ),
        Limit("one output message of a kernel", size(MAX_CONTENT_BYTES), "a note takes its place"),
        Limit("output that a cell keeps, in memory", size(MAX_CELL_BYTES), "dropped and counted"),
        Limit(
            "the end of a stream that is kept beyond that",
            count(STREAM_TAIL_CHARS, "characters"),
            "dropped and counted",
        ),
        Limit("an exception", size(MAX_ERROR_BYTES), "the end of its traceback stays"),
        Limit("a JSON value in an output", count(MAX_JSON_DEPTH, "levels"), "a marker takes its place"),
        Limit("outputs that a cell keeps", count(MAX_CELL_OUTPUTS, "outputs"), "dropped and counted"),
        Limit("display ids that a kernel can update", count(MAX_DISPLAYS, "ids"), "the oldest no longer change"),
        Limit("states of the widgets of a kernel, in memory", size(MAX_WIDGET_BYTES), "closed ones and the oldest go"),
        Limit("outputs in an `Output` widget, in memory", size(MAX_OUTPUT_WIDGET_BYTES), "dropped and counted"),
        Limit(
            "output that a run keeps, in memory",
            size(MAX_RUN_BYTES),
            f"each further cell keeps {size(MIN_CELL_BYTES)}",
        ),
        Limit(
            "saves during a run", f"one in {SAVE_INTERVAL:g} s, {SAVE_SHARE:.0%} of its time", "the next save is later"
        ),
        Limit(
            "answer of an object store; a transfer",
            f"{STORE_SECONDS:g} s; {TRANSFER_SECONDS:g} s, and 1 s for each {TRANSFER_RATE // 1000} kB",
            "an error; after a run its output is kept here",
        ),
        Limit("runs of a batch", f"{MAX_RUNS:,}; {MAX_CLUSTER_RUNS:,} on a cluster", "`INVALID_ARGUMENT`"),
        Limit("a file of parameters", size(MAX_FILE_BYTES), "`TOO_LARGE`"),
        Limit(
            "executions that keep their outputs after the end", f"the last {KEPT_EXECUTIONS}", "`EXECUTION_NOT_FOUND`"
        ),
        Limit(
            "outputs of executions that are over, in memory, but for the last one",
            size(MAX_KEPT_BYTES),
            "the outputs of the oldest go; the reply says so",
        ),
        Limit(
            "executions that `list_executions` knows", f"the last {MAX_RECORDS:,} of {MAX_AGE_DAYS} days", "forgotten"
        ),
        Limit("packages of one installation", count(MAX_PACKAGES, "packages"), "`INVALID_ARGUMENT`"),
        Limit("installations into one environment at once", "1", "`BUSY`"),
        Limit("Jupyter servers at once", "1", "`LIMIT_REACHED` for another directory or port"),
    ],
    "Replies": [
        Limit("output text", setting("max_output_chars", "characters"), _CUT),
        Limit("output text of one cell in the reply of a run", count(_CELL_CHARS, "characters"), _CUT),
        Limit('an output with `outputs="summary"`', count(SUMMARY_CHARS, "characters"), _CUT),
        Limit("the source of a removed cell", count(SOURCE_CHARS, "characters"), _CUT),
        Limit("the source of a changed cell in `structuredContent`", count(_CHANGED_CHARS, "characters"), _CUT),
        Limit("ids of a new notebook", count(_IDS, "ids"), "the others are counted"),
        Limit("a traceback", setting("max_error_output", "characters"), _CUT),
        Limit("a diff", count(DIFF_CHARS, "characters"), "the lines left out are counted"),
        Limit("outputs of one cell", count(MAX_VIEWS, "outputs"), _COUNTED),
        Limit("cells in the reply of a run", f"the last {CELL_ROWS}", _COUNTED),
        Limit("runs in the reply of a batch", f"{BATCH_ROWS}, failed ones first", _COUNTED),
        Limit(
            "the contact sheet of a batch",
            f"{MAX_TILES} runs, failed ones first; outputs of up to {MAX_OUTPUT_BYTES // 1_000_000} MB",
            _COUNTED,
        ),
        Limit(
            "pictures in the report of a batch",
            f"{MAX_PICTURES} runs, failed ones first; {PICTURE_SIDE} pixels each, {MAX_PICTURE_BYTES // 1_000_000} MB "
            "together",
            _COUNTED,
        ),
        Limit("recorded numbers by the parameter that varies", f"{MAX_POINTS} runs, evenly spread", _COUNTED),
        Limit("runs in the preview of a batch", count(PLANNED_ROWS, "runs"), _COUNTED),
        Limit("packages in the reply of an installation", count(PACKAGE_ROWS, "packages"), _COUNTED),
        Limit("a recorded value", count(_VALUE_CHARS, "characters"), "its length is shown"),
        Limit("headings; problems of a notebook", f"{_HEADINGS}; {PROBLEMS}", "the reply says that there are more"),
        Limit("images", setting("max_images"), "the last one is a contact sheet of the others, at most 48"),
        Limit("the long side of an image", setting("max_image_pixels", "pixels"), "scaled down"),
        Limit("data of an image that is sent", size(MAX_SENT_BYTES), "scaled down"),
        Limit(
            "image data that is decoded", f"{size(MAX_IMAGE_BYTES)}, {MAX_PIXELS:,} pixels", "withheld, with the reason"
        ),
        Limit("text of the resource of a notebook or a cell", count(RESOURCE_CHARS, "characters"), _CUT),
        Limit("notebooks in `resources/list`", f"the newest {MAX_LISTED}", "`list_notebook_files` lists all"),
        Limit("completions of an argument", count(_MAX_COMPLETIONS, "values"), _COUNTED),
    ],
}


def tables() -> Iterator[str]:
    """The lines of the tables, one table a subject."""
    for subject, limits in LIMITS.items():
        yield from ("", f"### {subject}", "", "| item | limit | beyond the limit |", "|---|---|---|")
        yield from (f"| {limit.item} | {limit.value} | {limit.beyond} |" for limit in limits)
