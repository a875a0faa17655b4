"""The differences between two notebooks, cell by cell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from papermill_mcp.core.documents.alignment import corresponding, in_order
from papermill_mcp.core.documents.document import NotebookCell, NotebookDocument
from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.verification.texts import MOMENT
from papermill_mcp.utils.diff_text import hunks
from papermill_mcp.utils.text_utils import clean_text, one_line

#: Metadata that each run sets anew.
_OF_RUNS = frozenset(("execution", "papermill"))

#: Characters of the text of one output that are compared line by line.
_TEXT_CHARS = 200_000

#: Numbers of one output that are shown side by side.
_NUMBERS = 20

# Possessive, so that a long run of digits is looked at once. Parts of 2024-01-31, 10:30 and 1,000 are no numbers.
_NUMBER = re.compile(r"(?<![\w.])(?<!\d[-/:,])[-+]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+(?!\w|\.\w|[-/:,]\d)")
_MOMENT = re.compile(MOMENT)


@dataclass(frozen=True)
class Difference:
    """The difference of one cell.

    Attributes:
        before, after: the index of the cell in the older and in the newer notebook; None where it is not there.
        changes: `added`, `removed`, or some of `moved`, `id`, `type`, `source`, `outputs` and `metadata`.
        lines: of a unified diff.
        images: pairs of the images that differ: the MIME bundles before and after.
    """

    before: int | None
    after: int | None
    cell_id: str | None
    changes: tuple[str, ...]
    lines: list[str] = field(default_factory=list)
    images: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)


def differences(
    old: NotebookDocument, new: NotebookDocument, *, source: bool = True, outputs: bool = True, context: int = 1
) -> Iterator[Difference]:
    """The cells that differ, in the order of the newer notebook. A removed cell comes where it stood.

    Times and counts of runs make no difference.

    Args:
        source: compare types, sources, metadata and places.
        outputs: compare outputs.
        context: equal lines shown beside a change.
    """
    found = corresponding(old.cells, new.cells)
    moved = found.keys() - in_order(found)
    origins = {place: origin for origin, place in found.items()}
    removed = [origin for origin in range(len(old.cells)) if origin not in found]
    gone = iter([*removed, len(old.cells)] if source else [len(old.cells)])
    next_gone = next(gone)
    for place, cell in enumerate(new.cells):
        before = origins.get(place)
        while before is not None and before not in moved and next_gone < before:
            yield _removed(old.cells[next_gone], next_gone)
            next_gone = next(gone)
        if before is None:
            if source:
                yield Difference(None, place, cell.cell_id, ("added",), [*hunks("", cell.source)][1:])
            continue
        one = _changed(
            old.cells[before],
            cell,
            before,
            place,
            moved=source and before in moved,
            parts=(source, outputs),
            context=context,
        )
        if one is not None:
            yield one
    while next_gone < len(old.cells):
        yield _removed(old.cells[next_gone], next_gone)
        next_gone = next(gone)


def metadata_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of metadata that differ, with `+`, `-` or `~` before them. Those that each run sets do not count."""
    keys = [key for key in {**old, **new} if key not in _OF_RUNS and old.get(key) != new.get(key)]
    return [f"{'+' if key not in old else '-' if key not in new else '~'}{one_line(key, 60)}" for key in keys]


def _removed(cell: NotebookCell, index: int) -> Difference:
    return Difference(index, None, cell.cell_id, ("removed",), [*hunks(cell.source, "")][1:])


def _changed(
    old: NotebookCell,
    new: NotebookCell,
    before: int,
    after: int,
    *,
    moved: bool,
    parts: tuple[bool, bool],
    context: int,
) -> Difference | None:
    changes = ["moved"] if moved else []
    lines: list[str] = []
    images: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    if old.raw != new.raw:
        source, outputs = parts
        if source and old.cell_id != new.cell_id and None not in (old.cell_id, new.cell_id):
            changes.append("id")
            lines.append(f"id {one_line(old.cell_id or '', 64)} -> {one_line(new.cell_id or '', 64)}")
        if source and old.cell_type != new.cell_type:
            changes.append("type")
            lines.append(f"type {one_line(old.cell_type, 40)} -> {one_line(new.cell_type, 40)}")
        if source and old.source != new.source:
            changes.append("source")
            lines += hunks(old.source, new.source, context=context)
        if outputs:
            shown = _outputs(old.read_outputs(), new.read_outputs(), context, images)
            if shown:
                changes.append("outputs")
                lines += shown
        if source and (keys := metadata_changes(old.metadata, new.metadata)):
            changes.append("metadata")
            lines.append(f"metadata {' '.join(keys[:20])}")
    return Difference(before, after, new.cell_id, tuple(changes), lines, images) if changes else None


def _outputs(
    old: Sequence[Mapping[str, Any]],
    new: Sequence[Mapping[str, Any]],
    context: int,
    images: list[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[str]:
    """The lines about outputs that differ; none if they are the same."""
    lines: list[str] = []
    for number, (one, other) in enumerate(itertools.zip_longest(_merged(old), _merged(new))):
        if one is None or other is None:
            there = one or other or {}
            lines.append(f"output {number} {'added' if one is None else 'removed'}: {_kind(there)}")
            mark = "+" if one is None else "-"
            text = _text(there)
            lines += [mark + one_line(line, 200) for line in text.split("\n")[:20] if text]
        elif _essence(one) != _essence(other):
            lines += _output(number, one, other, context, images)
    return lines


def _merged(outputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The outputs, with neighbouring pieces of one stream as one: a kernel cuts them at any place."""
    merged: list[Mapping[str, Any]] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.get("output_type") == "stream" and (last.get("output_type"), last.get("name")) == (
            "stream",
            output.get("name"),
        ):
            merged[-1] = {**last, "text": joined(last.get("text")) + joined(output.get("text"))}
        else:
            merged.append(output)
    return merged


def _output(
    number: int,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    context: int,
    images: list[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[str]:
    lines = []
    before, after = _text(old), _text(new)
    if before != after:
        numbers = _numbers(before, after)
        if numbers is not None:
            lines.append(f"output {number}, numbers: {numbers}")
        else:
            lines.append(f"output {number}:")
            lines += hunks(before, after, context=context)
    bundles = [data if isinstance(data := one.get("data"), dict) else {} for one in (old, new)]
    kinds = [kind for kind in {**bundles[0], **bundles[1]} if kind != "text/plain"]
    differing = [kind for kind in kinds if bundles[0].get(kind) != bundles[1].get(kind)]
    if differing:
        lines.append(f"output {number}: {', '.join(one_line(kind, 60) for kind in differing[:10])} differs")
        if any(kind.startswith("image/") for kind in differing):
            images.append((old, new))
    return lines or [f"output {number}: {_kind(old)} -> {_kind(new)}"]


def _numbers(before: str, after: str) -> str | None:
    """The numbers that differ side by side, with their difference; None if more than numbers differ."""
    if _NUMBER.sub("#", before).split() != _NUMBER.sub("#", after).split():
        return None
    if [one[0] for one in _MOMENT.finditer(before)] != [one[0] for one in _MOMENT.finditer(after)]:
        return None
    pairs = [(a, b) for a, b in zip(_NUMBER.findall(before), _NUMBER.findall(after), strict=True) if a != b]
    shown = []
    for a, b in pairs[:_NUMBERS]:
        try:
            change = f" ({Decimal(b) - Decimal(a):+})" if max(len(a), len(b)) <= 40 else ""
        except (InvalidOperation, OverflowError):
            change = ""
        shown.append(f"{a[:60]} -> {b[:60]}{change}")
    rest = f" and {len(pairs) - _NUMBERS} more" if len(pairs) > _NUMBERS else ""
    return ", ".join(shown) + rest if shown else None


def _essence(output: Mapping[str, Any]) -> dict[str, Any]:
    """An output without the count of its run, and with its texts as one string each."""
    made: dict[str, Any] = {key: value for key, value in output.items() if key != "execution_count"}
    if "text" in made:
        made["text"] = joined(made["text"])
    if isinstance(data := made.get("data"), dict):
        made["data"] = {kind: joined(value) if _is_lines(value) else value for kind, value in data.items()}
    return made


def _is_lines(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _kind(output: Mapping[str, Any]) -> str:
    kind = one_line(str(output.get("output_type", "no type")), 40)
    data = output.get("data")
    kinds = [one_line(kind, 60) for kind in data][:5] if isinstance(data, dict) else []
    return f"{kind} ({', '.join(kinds)})" if kinds else kind


def _text(output: Mapping[str, Any]) -> str:
    """The text of an output: a stream, the plain text, or name and message of an error."""
    match output.get("output_type"):
        case "stream":
            text = joined(output.get("text"))
        case "error":
            text = f"{output.get('ename')}: {output.get('evalue')}"
        case _:
            data = output.get("data")
            text = joined(data.get("text/plain")) if isinstance(data, dict) else ""
    return clean_text(text[:_TEXT_CHARS])
