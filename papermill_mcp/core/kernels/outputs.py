"""The outputs of one cell so far, in the form that nbformat 4.5 keeps.

Streams are merged, carriage returns and backspaces applied, `clear_output` and display updates obeyed, as Jupyter's own
front ends do. Memory is bounded: over the limits, output is counted instead of kept, and the reading goes on.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Output = dict[str, Any]

#: Characters of output one cell may keep. Of a longer stream the beginning and the last `STREAM_TAIL_CHARS` stay.
MAX_CELL_CHARS = 10 * 1024 * 1024
STREAM_TAIL_CHARS = 1024 * 1024

#: Outputs one cell may keep.
MAX_CELL_OUTPUTS = 5_000

#: Display ids of one kernel that may still be updated.
MAX_DISPLAYS = 1_000

#: Tag of a cell that may raise, as nbclient knows it.
RAISES_TAG = "raises-exception"

#: Mime types of recorded values: papermill before version 1, and scrapbook, where the encoder follows.
_RECORD_TYPE = "application/papermill.record+json"
_SCRAP_TYPE = "application/scrapbook.scrap."

_CONTROL = re.compile(r"[\r\x08]")


class Displays:
    """The outputs of a kernel that carry a `display_id`, shared by all its cells.

    So one cell may update the display of an earlier one (messaging protocol 5.1). The oldest ids are forgotten beyond
    a limit.
    """

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, list[tuple[OutputCollector, Output]]] = OrderedDict()

    def add(self, display_id: str, owner: OutputCollector, output: Output) -> None:
        """`output` of `owner` carries this id."""
        self._by_id.setdefault(display_id, []).append((owner, output))
        self._by_id.move_to_end(display_id)
        while len(self._by_id) > MAX_DISPLAYS:
            self._by_id.popitem(last=False)

    def update(self, display_id: str, content: dict[str, Any]) -> None:
        """Replace the data of every output with this id."""
        for owner, output in self._by_id.get(display_id, []):
            owner.replace_display(output, content)


class _Stream:
    """A run of text on stdout or stderr. Only its last line can still change."""

    def __init__(self, name: str, room: Callable[[int], int]) -> None:
        self.name = name
        self._room = room  # asks for space; returns how many characters are granted
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._tail_chars = 0
        self._dropped = 0
        self._full = False
        self._line = ""
        self._column: int | None = None  # where the next character goes; None: at the end of the line

    def write(self, text: str) -> None:
        if self._column is None and not _CONTROL.search(text):
            end = text.rfind("\n") + 1
            if end:
                self._commit(self._line + text[:end])
                self._line = text[end:]
            else:
                self._line += text
            if len(self._line) > STREAM_TAIL_CHARS:  # no line end in sight: no program rewrites a line of this length
                self._commit(self._line)
                self._line = ""
            return
        self._write_folding(text)

    def _write_folding(self, text: str) -> None:
        lines = text.split("\n")
        for number, piece in enumerate(lines):
            for part in re.split(r"([\r\x08])", piece):
                if part == "\r":
                    self._column = 0
                elif part == "\x08":
                    column = len(self._line) if self._column is None else self._column
                    self._column = max(0, column - 1)
                elif part:
                    self._overwrite(part)
            if number < len(lines) - 1:
                self._commit(self._line + "\n")
                self._line, self._column = "", None
        if self._column is not None and self._column >= len(self._line):
            self._column = None

    def _overwrite(self, part: str) -> None:
        if self._column is None:
            self._line += part
            return
        end = self._column + len(part)
        self._line = self._line[: self._column] + part + self._line[end:]
        self._column = end

    def _commit(self, text: str) -> None:
        if not self._full:
            granted = self._room(len(text))
            self._head.append(text[:granted])
            text = text[granted:]
            self._full = bool(text)
        if text:
            if len(text) > STREAM_TAIL_CHARS:  # one message may hold a hundred megabytes
                self._dropped += len(text) - STREAM_TAIL_CHARS
                text = text[-STREAM_TAIL_CHARS:]
            self._tail.append(text)
            self._tail_chars += len(text)
            while self._tail_chars - len(self._tail[0]) >= STREAM_TAIL_CHARS:
                gone = self._tail.popleft()
                self._tail_chars -= len(gone)
                self._dropped += len(gone)

    @property
    def dropped(self) -> int:
        """Characters between head and tail that are not kept."""
        return self._dropped + max(0, self._tail_chars - STREAM_TAIL_CHARS)

    def output(self) -> Output:
        if len(self._head) > 1:
            self._head = ["".join(self._head)]
        text = "".join(self._head)
        if self._full:
            tail = "".join(self._tail)
            tail = tail[-STREAM_TAIL_CHARS:]
            dropped = self.dropped
            if dropped:
                text += f"\n[… {dropped:,} characters not kept: a cell keeps {MAX_CELL_CHARS:,} characters …]\n"
            text += tail
        return {"output_type": "stream", "name": self.name, "text": text + self._line}


class OutputCollector:
    """Takes the iopub messages of one cell and keeps its outputs.

    Attributes:
        version: grows with every change, also when another cell updates one of our displays.
    """

    def __init__(self, displays: Displays) -> None:
        self._displays = displays
        self._items: list[_Stream | Output] = []
        self._clear_next = False
        self._chars = 0
        self._errors: list[Output] = []
        self.omitted_outputs = 0
        self.version = 0

    def take(self, msg_type: str, content: dict[str, Any]) -> bool:
        """Apply one message. Returns whether it was an output message."""
        match msg_type:
            case "stream":
                self._apply_clear()
                self._stream(str(content.get("name", "stdout")), str(content.get("text", "")))
            case "display_data" | "execute_result":
                self._apply_clear()
                self._display(msg_type, content)
            case "update_display_data":
                self._update(content)
            case "error":
                self._apply_clear()
                error = {
                    "output_type": "error",
                    "ename": str(content.get("ename", "")),
                    "evalue": str(content.get("evalue", "")),
                    "traceback": [str(line) for line in content.get("traceback") or []],
                }
                self._append(error)
                self._errors.append(error)
            case "clear_output":
                self._clear_next = True
                if not content.get("wait", False):
                    self._apply_clear()
            case _:
                return False
        self.version += 1
        return True

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
        shown = [item.output() if isinstance(item, _Stream) else item for item in self._items]
        if self.omitted_outputs:
            limits = f"{MAX_CELL_OUTPUTS:,} outputs and {MAX_CELL_CHARS:,} characters"
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
        return next((error for error in reversed(self._errors) if not is_clean_exit(error)), None)

    @property
    def dropped_chars(self) -> int:
        """Characters of streams that were put out and are not kept."""
        return sum(item.dropped for item in self._items if isinstance(item, _Stream))

    def text(self) -> str:
        """All text on stdout and stderr."""
        return "".join(str(item.output()["text"]) for item in self._items if isinstance(item, _Stream))

    def last_line(self) -> str:
        """The last line of text the cell wrote, for progress messages; empty when there is none."""
        for item in reversed(self._items):
            if isinstance(item, _Stream):
                text = str(item.output()["text"])[-2000:].rstrip()
                return text.rpartition("\n")[2]
        return ""

    def _stream(self, name: str, text: str) -> None:
        last = self._items[-1] if self._items else None
        if isinstance(last, _Stream) and last.name == name:
            last.write(text)
            return
        if len(self._items) >= MAX_CELL_OUTPUTS:
            self.omitted_outputs += 1
            return
        stream = _Stream(name, self._grant)
        stream.write(text)
        self._items.append(stream)

    def _display(self, msg_type: str, content: dict[str, Any]) -> None:
        output: Output = {
            "output_type": msg_type,
            "data": content.get("data") or {},
            "metadata": content.get("metadata") or {},
        }
        if msg_type == "execute_result":
            output["execution_count"] = content.get("execution_count")
        if self._append(output):
            display_id = (content.get("transient") or {}).get("display_id")
            if display_id is not None:
                self._displays.add(str(display_id), self, output)

    def _update(self, content: dict[str, Any]) -> None:
        display_id = (content.get("transient") or {}).get("display_id")
        if display_id is not None:
            self._displays.update(str(display_id), content)

    def replace_display(self, output: Output, content: dict[str, Any]) -> None:
        """Give one of our displays other data, if there is room for it."""
        new = {"data": content.get("data") or {}, "metadata": content.get("metadata") or {}}
        grown = _size(new) - _size(output)
        if grown > MAX_CELL_CHARS - self._chars:
            self.omitted_outputs += 1
        else:
            self._chars += grown
            output.update(new)
        self.version += 1

    def _append(self, output: Output) -> bool:
        size = _size(output)
        fits = size <= MAX_CELL_CHARS - self._chars or output["output_type"] == "error"
        if len(self._items) >= MAX_CELL_OUTPUTS or not fits:
            self.omitted_outputs += 1
            return False
        self._chars += size
        self._items.append(output)
        return True

    def _apply_clear(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._items.clear()
            self._errors.clear()
            self._chars = 0
            self.omitted_outputs = 0

    def _grant(self, wanted: int) -> int:
        granted = max(0, min(wanted, MAX_CELL_CHARS - self._chars))
        self._chars += granted
        return granted


def _size(output: Output) -> int:
    return sum(len(value) if isinstance(value, str) else 1000 for value in (output.get("data") or {}).values())


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
