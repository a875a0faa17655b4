"""The text of a notebook file as it is read: bytes to text, the top-level object, and the diagnosis of a broken one.

Each refusal names the place where there is one, the likely cause, and the next step.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from papermill_mcp.core.documents.json_text import Element, after_whitespace, read_elements, read_members, read_value
from papermill_mcp.errors import InvalidNotebookError, NotANotebookError, ServerError, listed
from papermill_mcp.utils.text_utils import json_kind

BOM = b"\xef\xbb\xbf"
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NOTHING_DONE = "The file is unchanged"
_SHOWN_CHARACTERS = 64  # of an id or a value in a message
_MERGE_MARKER = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?= |\r?$)", re.MULTILINE)


@dataclass
class TopLevel:
    """The members of the notebook object, and where its array of cells stands."""

    members: dict[str, Any]
    elements: list[Element]
    cells_start: int = -1
    cells_end: int = -1

    @classmethod
    def read(cls, text: str) -> TopLevel | None:
        """Read the whole text. None when it is JSON, but no object."""
        top = cls({}, [])

        def read(key: str, text: str, start: int) -> tuple[Any, int]:
            if key != "cells" or text[start : start + 1] != "[":
                return read_value(text, start)
            top.elements, end = read_elements(text, start)  # of two `cells`, the last counts, as for json
            top.cells_start, top.cells_end = start, end
            return top.elements, end

        start = after_whitespace(text, 0)
        is_object = text[start : start + 1] == "{"
        if is_object:
            members, end = read_members(text, start, read)
            top.members = {member.key: member.value for member in members}
        else:
            _, end = read_value(text, start)
        end = after_whitespace(text, end)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return top if is_object else None


def decoded(data: bytes, display_path: str) -> str:
    if not data.strip():
        raise NotANotebookError(
            f"{display_path} is empty ({len(data)} bytes)",
            state=NOTHING_DONE,
            advice="Restore it from a backup, or delete it and make a new notebook",
        )
    if not any(data[:4]):
        raise NotANotebookError(
            f"{display_path} starts with NUL bytes",
            allowed="A crash or a full disk may have left it so",
            state=NOTHING_DONE,
            advice="Restore it from a backup",
        )
    encoding = json.detect_encoding(data)
    if not encoding.startswith("utf-8"):
        raise NotANotebookError(
            f"{display_path} is {encoding.upper()} text, from line 1 column 1 on",
            allowed="Notebooks are UTF-8",
            state=NOTHING_DONE,
            advice=f"Convert it: iconv -f {encoding.upper()} -t UTF-8",
        )
    body = memoryview(data)[len(BOM) :] if data.startswith(BOM) else data
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(data) - len(body)
        line = data.count(b"\n", 0, offset) + 1
        column = offset - data.rfind(b"\n", 0, offset)
        raise InvalidNotebookError(
            f"{display_path} is not UTF-8: byte 0x{data[offset]:02x} at offset {offset} (line {line}, column {column})",
            allowed="It may be Latin-1 or another old encoding, or damaged",
            state=NOTHING_DONE,
            advice="Save it as UTF-8 with the program that made it",
        ) from None


def diagnosis(error: Exception, text: str, display_path: str) -> ServerError:
    """The probable cause of a text that is not JSON."""
    if text.startswith("version https://git-lfs"):
        return NotANotebookError(
            f"{display_path} is a Git LFS pointer, not the notebook itself (line 1, column 1)",
            state=NOTHING_DONE,
            advice="Fetch the content: git lfs pull",
        )
    if marker := _MERGE_MARKER.search(text):
        return InvalidNotebookError(
            f"{display_path} has merge conflict markers, the first at {_place(text, marker.start())}",
            state=NOTHING_DONE,
            advice="Resolve the conflict, for example with nbdime, and try again",
        )
    if (nul := text.find("\0")) >= 0:
        return NotANotebookError(
            f"{display_path} has {text.count(chr(0))} NUL characters, the first at {_place(text, nul)}",
            allowed="A crash or a full disk may have left it so",
            state=NOTHING_DONE,
            advice="Restore it from a backup",
        )
    if isinstance(error, RecursionError):
        return InvalidNotebookError(
            f"{display_path} is nested too deeply to be read, at {_place(text, _deepest(text))}",
            state=NOTHING_DONE,
            advice="No program makes such notebooks: restore it from a backup",
        )
    if not isinstance(error, json.JSONDecodeError):
        limit = max(sys.get_int_max_str_digits(), 1)
        number = re.search(rf"(?<![\d.])\d{{{limit + 1},}}", text)
        place = _place(text, number.start() if number else 0)
        return InvalidNotebookError(
            f"{display_path} has a whole number of more than {limit} digits, at {place}",
            state=NOTHING_DONE,
            advice="Write it as a string",
        )
    if text.lstrip()[:1] == "<":
        return NotANotebookError(
            f"{display_path} is HTML or XML, not JSON (line 1, column 1)",
            allowed="A web page may have been saved in place of the notebook",
            state=NOTHING_DONE,
            advice="Download the raw file",
        )
    if text.lstrip()[:1] not in {"{", "["}:
        return NotANotebookError(
            f"{display_path} is not JSON: {error.msg} at {_place(text, error.pos)}",
            state=NOTHING_DONE,
            advice="Check that this is the right file",
        )
    cut_off = _is_cut_off(error, text)
    return InvalidNotebookError(
        f"{display_path} is not valid JSON: {error.msg} at {_place(text, error.pos)}",
        allowed="The file ends too early: a save was cut short, or is still going on"
        if cut_off
        else "It may have been edited by hand",
        state=NOTHING_DONE,
        advice="Try again, or restore it from a backup" if cut_off else "Repair that line, or restore a backup",
    )


def _is_cut_off(error: json.JSONDecodeError, text: str) -> bool:
    rest = text[error.pos :].rstrip()
    if not rest or error.msg.startswith("Unterminated string"):
        return True
    if "escape" in error.msg:
        return len(rest) < len("\\uXXXX")
    return any(word.startswith(rest) for word in ("true", "false", "null", "NaN", "-Infinity", "Infinity"))


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}"


def _deepest(text: str) -> int:
    """Where brackets are nested 200 deep, those in strings counted too: close enough to look there."""
    depth = 0
    for found in re.finditer(r"[\[\]{}]", text):
        depth += 1 if found[0] in "[{" else -1
        if depth == 200:
            return found.start()
    return 0


def version_of(top: TopLevel, display_path: str) -> int:
    """3 or 4, after a look at whether this is a notebook at all."""
    members = top.members
    if "nbformat" not in members:
        raise NotANotebookError(
            f"{display_path} is JSON, but has no nbformat: it is not a notebook",
            allowed=f"Its members: {listed(map(shown_id, members))}",
            state=NOTHING_DONE,
        )
    major, minor = members["nbformat"], members.get("nbformat_minor", 0)
    if type(major) is not int or type(minor) is not int:
        raise InvalidNotebookError(
            f"{display_path} has the nbformat {quoted(major)}.{quoted(minor)}",
            allowed="Both numbers are whole numbers, as in 4 and 5",
            state=NOTHING_DONE,
        )
    if major not in {3, 4}:
        newer = "It was made by a newer program" if major > 4 else "It was made by an old IPython"
        raise InvalidNotebookError(
            f"{display_path} is a notebook of nbformat {quoted(major)}",
            allowed=f"Formats 3 and 4 can be read. {newer}",
            state=NOTHING_DONE,
            advice="Convert it: jupyter nbconvert --to notebook --nbformat 4",
        )
    if major == 4 and "cells" not in members:
        raise NotANotebookError(
            f"{display_path} is JSON with an nbformat, but has no cells: it is not a notebook",
            allowed=f"Its members: {listed(map(shown_id, members))}",
            state=NOTHING_DONE,
        )
    if major == 4 and (top.cells_start < 0 or members["cells"] is not top.elements):
        raise InvalidNotebookError(
            f"{display_path} has cells that are not a list but {json_kind(members['cells'])}", state=NOTHING_DONE
        )
    return int(major)


def check_cell(index: int, value: object, display_path: str, text: str = "", start: int = 0) -> None:
    if not isinstance(value, dict):
        place = f" ({_place(text, start)})" if text else ""
        raise InvalidNotebookError(
            f"{display_path} has at index {index}{place} {json_kind(value)} where a cell should be",
            allowed="A cell is an object",
            state=NOTHING_DONE,
            advice="Repair that line, or restore a backup",
        )


def language_of(metadata: Mapping[str, Any]) -> str | None:
    """The language of the code, from the metadata of a notebook."""
    for section, key in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(section)
        if isinstance(found, dict) and isinstance(found.get(key), str) and found[key]:
            return str(found[key])
    return None


def kernel_name_of(metadata: Mapping[str, Any]) -> str | None:
    """The name of the kernel, from the metadata of a notebook."""
    spec = metadata.get("kernelspec")
    name = spec.get("name") if isinstance(spec, dict) else None
    return name if isinstance(name, str) and name else None


def joined(text: object) -> str:
    """The text of a multi-line string of nbformat, which is a string or a list of strings; empty for anything else."""
    if isinstance(text, list | tuple):
        return "".join(line for line in text if isinstance(line, str))
    return text if isinstance(text, str) else ""


def quoted(value: object) -> str:
    return repr(_cut_text(value)) if isinstance(value, str) else _cut_text(repr(value))


def shown_id(value: str) -> str:
    return _cut_text(value) if CELL_ID.fullmatch(value) else quoted(value)


def _cut_text(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


_MIMES_OF_VERSION_3 = {
    "text": "text/plain",
    "html": "text/html",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
    "pdf": "application/pdf",
}


def cell_of_version_3(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of nbformat 3 in the words of 4, for reading."""
    kind = cell.get("cell_type")
    made: dict[str, Any] = {"cell_type": kind, "metadata": cell.get("metadata", {}), "source": cell.get("source", "")}
    if kind == "code":
        outputs = cell.get("outputs")
        made["source"] = cell.get("input", "")
        made["execution_count"] = cell.get("prompt_number")
        made["outputs"] = [
            _output_of_version_3(output)
            for output in (outputs if isinstance(outputs, list) else [])
            if isinstance(output, dict)
        ]
    elif kind == "heading":
        level = cell.get("level")
        made["cell_type"] = "markdown"
        made["source"] = "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " " + joined(made["source"])
    elif kind == "html":
        made["cell_type"] = "markdown"
    return made


def _output_of_version_3(output: Mapping[str, Any]) -> dict[str, Any]:
    kind = output.get("output_type")
    if kind == "stream":
        return {"output_type": "stream", "name": output.get("stream", "stdout"), "text": output.get("text", "")}
    if kind == "pyerr":
        return {"output_type": "error"} | {
            key: output[key] for key in ("ename", "evalue", "traceback") if key in output
        }
    data = {mime: output[key] for key, mime in _MIMES_OF_VERSION_3.items() if key in output}
    made = {"output_type": kind, "data": data, "metadata": output.get("metadata", {})}
    if kind == "pyout":
        made |= {"output_type": "execute_result", "execution_count": output.get("prompt_number")}
    return made
