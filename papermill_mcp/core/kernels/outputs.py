"""The outputs of one cell so far, in the form that nbformat 4.5 keeps.

Streams are merged, carriage returns and backspaces applied, `clear_output` and display updates obeyed, as Jupyter's own
front ends do. Memory is bounded: over the limits, output is counted instead of kept, and the reading goes on.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from papermill_mcp.core.kernels.forms import Bundle, Cleaner, count_of, error_of, member_of, plain_text
from papermill_mcp.core.kernels.streams import STREAM_TAIL_CHARS, Stream

Output = dict[str, Any]

#: Bytes of output that one cell may keep, as they are in memory. The end of a longer stream stays, too.
MAX_CELL_BYTES = 10 * 1024 * 1024

#: Outputs one cell may keep.
MAX_CELL_OUTPUTS = 5_000

#: Display ids of one kernel that may still be updated, and the characters of one.
MAX_DISPLAYS = 1_000
_MAX_DISPLAY_ID = 1_000

#: Exceptions of a cell that are kept without their traceback when there is no room for them.
_MAX_BRIEF_ERRORS = 20

#: Parts of outputs that were not kept and are named one by one.
_MAX_FAULTS = 5

#: Tag of a cell that may raise, as nbclient knows it.
RAISES_TAG = "raises-exception"

#: Mime types of recorded values: papermill before version 1, and scrapbook, where the encoder follows.
_RECORD_TYPE = "application/papermill.record+json"
_SCRAP_TYPE = "application/scrapbook.scrap."

#: Messages that an `OutputCollector` takes as output of its own.
OUTPUT_MESSAGES = frozenset({"stream", "display_data", "execute_result", "error", "clear_output"})


class _Item:
    """One output that is no stream. Its dictionary is replaced, never changed."""

    __slots__ = ("__weakref__", "output", "owner", "size")

    def __init__(self, output: Output, size: int, owner: OutputCollector) -> None:
        self.output = output
        self.size = size
        self.owner = weakref.ref(owner)  # no circle, so that cleared outputs go at once


class Displays:
    """The outputs of a kernel that carry a `display_id`, shared by all its cells.

    So one cell may update the display of an earlier one (messaging protocol 5.1). It keeps no output alive: cleared
    ones, and those of forgotten cells, are gone. The oldest ids are forgotten beyond a limit.
    """

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, weakref.WeakSet[_Item]] = OrderedDict()

    def add(self, display_id: str, item: _Item) -> None:
        """The output carries this id."""
        self._by_id.setdefault(display_id, weakref.WeakSet()).add(item)
        self._by_id.move_to_end(display_id)
        while len(self._by_id) > MAX_DISPLAYS:
            self._by_id.popitem(last=False)

    def update(self, display_id: str, bundle: Bundle) -> None:
        """Replace the data of every output with this id."""
        for item in list(self._by_id.get(display_id, ())):
            owner = item.owner()
            if owner is not None:
                owner.replace_display(item, bundle)


class OutputCollector:
    """Takes the iopub messages of one cell and keeps its outputs.

    Args:
        max_bytes: bytes that it may keep, as they are in memory.

    Attributes:
        version: grows with every change, also when another cell updates one of our displays.
        used: bytes of the outputs. The end of a stream over the limit comes to it.
        faults: parts of outputs that could not be kept, each with the reason; the first ones.
        forgotten: the outputs were given up after the end of the cell.
    """

    def __init__(self, displays: Displays, *, max_bytes: int = MAX_CELL_BYTES) -> None:
        self._displays = displays
        self._max_bytes = max_bytes
        self._items: list[Stream | _Item] = []
        self._clear_next = False
        self._failure: Output | None = None
        self._brief_errors = 0
        self.omitted_outputs = 0
        self.used = 0
        self.version = 0
        self.faults: list[str] = []
        self.forgotten = False

    def take(self, msg_type: str, content: Mapping[str, Any]) -> bool:
        """Apply one message. Returns whether it was an output message."""
        match msg_type:
            case "stream":
                self._apply_clear()
                self._stream(plain_text(content.get("name")) or "stdout", plain_text(content.get("text")))
            case "display_data" | "execute_result":
                self._apply_clear()
                self._display(msg_type, content)
            case "update_display_data":
                self._update(content)
            case "error":
                self._apply_clear()
                self._error(error_of(content))
            case "clear_output":
                self._clear_next = True
                if not content.get("wait", False):
                    self._apply_clear()
            case _:
                return False
        self.version += 1
        return True

    def replace(self, outputs: Sequence[Any]) -> None:
        """Take these outputs, in nbformat's form, in place of all others."""
        self._drop()
        for output in outputs:
            if isinstance(output, dict) and output.get("output_type") in OUTPUT_MESSAGES:
                self.take(output["output_type"], output)
        self.version += 1

    def forget(self) -> None:
        """Give the outputs up. The last exception stays, without its traceback."""
        failure = self._failure
        self.forgotten = self.forgotten or bool(self._items)
        self._drop()
        self._failure = failure and failure | {"traceback": []}

    def note_too_large(self, msg_type: str, size: int) -> None:
        """An output message was too large to be decoded. It is counted, and a line says so."""
        limit = "64 MiB, the limit of one message; save it to a file, or make it smaller"
        self._note_lost(msg_type, size, f"it is over {limit}")

    def note_unreadable(self, msg_type: str, size: int, error: Exception) -> None:
        """The server could not read an output message. A line says so."""
        self._note_lost(msg_type, size, f"the server could not read it ({type(error).__name__})")

    def _note_lost(self, msg_type: str, size: int, why: str) -> None:
        self._stream("stderr", f"[an output of {size:,} bytes ({msg_type}) was not kept: {why}]\n")
        self.version += 1

    def outputs(self) -> list[Output]:
        """The outputs as nbformat has them. The dictionaries of displays are shared: do not change them."""
        shown = [item.output() if isinstance(item, Stream) else item.output for item in self._items]
        if self.omitted_outputs:
            limits = f"{MAX_CELL_OUTPUTS:,} outputs and {self._max_bytes:,} bytes"
            notice = f"[{self.omitted_outputs:,} further outputs not kept: a cell keeps {limits}]\n"
            shown.append({"output_type": "stream", "name": "stderr", "text": notice})
        return shown

    def __iter__(self) -> Iterator[Output]:
        return iter(self.outputs())

    @property
    def failure(self) -> Output | None:
        """The last `error` output, as papermill looks for one (`raise_for_execution_errors`); None without a failure.

        A clean exit of a script is no failure.
        """
        return self._failure

    @property
    def dropped_chars(self) -> int:
        """Characters of streams that were put out and are not kept."""
        return sum(item.dropped for item in self._items if isinstance(item, Stream))

    @property
    def held(self) -> int:
        """Bytes in memory, with the ends of streams."""
        return self.used + sum(item.rest for item in self._items if isinstance(item, Stream))

    def text(self) -> str:
        """All text on stdout and stderr."""
        return "".join(str(item.output()["text"]) for item in self._items if isinstance(item, Stream))

    def last_line(self) -> str:
        """The last line of text the cell wrote, for progress messages; empty when there is none."""
        return next((item.last_line for item in reversed(self._items) if isinstance(item, Stream)), "")

    def _stream(self, name: str, text: str) -> None:
        last = self._items[-1] if self._items else None
        if isinstance(last, Stream) and last.name == name:
            last.write(text)
            return
        if len(self._items) >= MAX_CELL_OUTPUTS:
            self.omitted_outputs += 1
            return
        self._close_stream()
        stream = Stream(name, self._max_bytes, self._grant)
        stream.write(text)
        self._items.append(stream)

    def _close_stream(self) -> None:
        """Another output follows. All streams together keep one tail."""
        if not self._items or not isinstance(self._items[-1], Stream):
            return
        self._items[-1].close()
        room = STREAM_TAIL_CHARS
        if self._items[-1].tail_chars:
            for item in reversed(self._items):
                if isinstance(item, Stream) and item.tail_chars:
                    room -= item.tail_chars
                    if room < 0:
                        item.drop_tail()

    def _display(self, msg_type: str, content: Mapping[str, Any]) -> None:
        bundle = self._fitted(Bundle.of(content), self._free)
        output: Output = {"output_type": msg_type, "metadata": bundle.metadata, "data": bundle.data}
        if msg_type == "execute_result":
            output["execution_count"] = count_of(content.get("execution_count"))
        if bundle.size > self._free or len(self._items) >= MAX_CELL_OUTPUTS:
            self.omitted_outputs += 1
            return
        item = self._append(output, bundle.size)
        display_id = _display_id(content)
        if display_id is not None:
            self._displays.add(display_id, item)

    def _fitted(self, bundle: Bundle, room: int) -> Bundle:
        bundle = bundle.within(room)
        self.note_faults(bundle.faults)
        return bundle

    def note_faults(self, faults: Sequence[str]) -> None:
        """Remember parts of outputs that were not kept, the first ones."""
        self.faults += [fault for fault in faults if fault not in self.faults][: _MAX_FAULTS - len(self.faults)]

    def _error(self, error: Output) -> None:
        if not is_clean_exit(error):
            self._failure = error
        cleaner = Cleaner()
        cleaner.value(error)
        size = cleaner.size
        if size > self._free:
            self._brief_errors += 1
            error, size = error | {"traceback": ["[traceback not kept: the cell has no room for it]"]}, 0
        if len(self._items) >= MAX_CELL_OUTPUTS or self._brief_errors > _MAX_BRIEF_ERRORS:
            self.omitted_outputs += 1
        else:
            self._append(error, size)

    def _update(self, content: Mapping[str, Any]) -> None:
        display_id = _display_id(content)
        if display_id is not None:
            self._displays.update(display_id, Bundle.of(content))

    def replace_display(self, item: _Item, bundle: Bundle) -> None:
        """Give one of our displays other data, if there is room for it."""
        bundle = self._fitted(bundle, self._free + item.size)
        grown = bundle.size - item.size
        if grown > self._free:
            self.omitted_outputs += 1
        else:
            self.used += grown
            item.output, item.size = item.output | {"data": bundle.data, "metadata": bundle.metadata}, bundle.size
        self.version += 1

    def _append(self, output: Output, size: int) -> _Item:
        self._close_stream()
        item = _Item(output, size, self)
        self.used += size
        self._items.append(item)
        return item

    @property
    def _free(self) -> int:
        return self._max_bytes - self.used

    def _apply_clear(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._drop()

    def _drop(self) -> None:
        self._items.clear()
        self._failure = None
        self._brief_errors = 0
        self.used = 0
        self.omitted_outputs = 0

    def _grant(self, wanted: int) -> int:
        granted = max(0, min(wanted, self._free))
        self.used += granted
        return granted


def _display_id(content: Mapping[str, Any]) -> str | None:
    found = member_of(content, "transient").get("display_id")
    return found if isinstance(found, str) and len(found) <= _MAX_DISPLAY_ID else None


def is_clean_exit(output: Mapping[str, Any]) -> bool:
    """Whether an `error` output comes from `sys.exit()` or `sys.exit(0)`, which papermill counts as no failure."""
    return output.get("ename") == "SystemExit" and output.get("evalue") in ("", "0")


def shows_failure(outputs: Sequence[Mapping[str, Any]], tags: Sequence[str]) -> bool:
    """Whether a saved cell with these outputs makes its run a failure."""
    errors = [output for output in outputs if output.get("output_type") == "error"]
    return RAISES_TAG not in tags and not all(map(is_clean_exit, errors))


def is_error(output: Mapping[str, Any], ename: str, evalue: str) -> bool:
    """Whether an output is the `error` output of this exception."""
    return output["output_type"] == "error" and output.get("ename") == ename and output.get("evalue") == evalue


def recorded_values(outputs: Sequence[Output]) -> dict[str, Any]:
    """The values that papermill's former `record` and scrapbook's `glue` have put into outputs, by name.

    Scrapbook's payload says how it is encoded. A value that is neither JSON nor text, such as a data frame,
    is only named.
    """
    values: dict[str, Any] = {}
    for output in outputs:
        for mime_type, payload in (output.get("data") or {}).items():
            if not isinstance(payload, dict):
                continue
            if mime_type == _RECORD_TYPE:
                values |= {str(name): value for name, value in payload.items()}
            elif mime_type.startswith(_SCRAP_TYPE) and "name" in payload:
                encoder = str(payload.get("encoder", "json"))
                plain = encoder in ("json", "text", "display")
                values[str(payload["name"])] = payload.get("data") if plain else f"({encoder} data)"
    return values


def only_records(output: Output) -> bool:
    """Whether an output is there for its recorded values alone, with nothing for a person to look at."""
    data = output.get("data") or {}
    return bool(data) and all(mime == _RECORD_TYPE or mime.startswith(_SCRAP_TYPE) for mime in data)
