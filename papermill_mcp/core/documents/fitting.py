"""Cutting outputs, so that a notebook fits into the limit of its size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.documents.reading import joined

#: Characters that stay at each end of a stream that is cut.
_END_CHARS = 16_384

#: Bytes up to which an output is not cut by itself, and a form of it stays.
_SMALL_BYTES = 3 * _END_CHARS

_WHY = "the notebook would be over its limit of size"


def fit(document: NotebookDocument, max_bytes: int, places: Iterable[int]) -> dict[int, int]:
    """Cut outputs of these cells, the largest first, until the document has at most `max_bytes`, or none is left.

    Of a stream both ends stay, of other outputs the small forms. If that is not enough, all outputs of a cell make room
    for one line. Each cut leaves words that say so.

    Returns:
        The bytes that were cut, by the index of the cell; empty if the document fits.
    """
    cut: Counter[int] = Counter()
    cells = [place for place in places if document.cells[place].cell_type == "code"]
    for outputs_of in (_shortened, _replaced):
        excess = len(document.render()) - max_bytes
        if excess <= 0:
            break
        for place, outputs, gain in outputs_of(document, cells, excess):
            document.update(place, {"outputs": outputs})
            cut[place] += gain
    return dict(cut)


def _shortened(
    document: NotebookDocument, cells: list[int], excess: int
) -> Iterable[tuple[int, list[dict[str, Any]], int]]:
    """New outputs of cells, with their largest ones cut: cell, outputs, bytes gained."""
    outputs = {place: [dict(output) for output in document.cells[place].outputs] for place in cells}
    sizes = [(_size(output), place, number) for place, row in outputs.items() for number, output in enumerate(row)]
    gains: Counter[int] = Counter()
    for size, place, number in sorted(sizes, reverse=True):
        if excess <= 0 or size <= _SMALL_BYTES:
            break
        outputs[place][number] = _short(outputs[place][number], size)
        gain = size - _size(outputs[place][number])
        gains[place] += gain
        excess -= gain
    return [(place, outputs[place], gain) for place, gain in gains.items()]


def _replaced(
    document: NotebookDocument, cells: list[int], excess: int
) -> Iterable[tuple[int, list[dict[str, Any]], int]]:
    """One line for all outputs of the cells with the most of them: cell, outputs, bytes gained."""
    sizes = {place: sum(map(_size, document.cells[place].outputs)) for place in cells}
    found = []
    for place in sorted(sizes, key=lambda place: -sizes[place]):
        if excess <= 0 or not sizes[place]:
            break
        count = len(document.cells[place].outputs)
        found.append(
            (place, [_line(f"{count:,} outputs of {sizes[place]:,} bytes were not saved: {_WHY}")], sizes[place])
        )
        excess -= sizes[place]
    return found


def _short(output: Mapping[str, Any], size: int) -> dict[str, Any]:
    """An output without its large parts."""
    kind = output.get("output_type")
    if kind == "stream":
        text = joined(output.get("text"))
        left_out = f"\n[… {len(text) - 2 * _END_CHARS:,} characters were not saved: {_WHY} …]\n"
        return {**output, "text": text[:_END_CHARS] + left_out + text[-_END_CHARS:]}
    if kind == "error":
        evalue = str(output.get("evalue", ""))[:_END_CHARS]
        return {**output, "evalue": evalue, "traceback": [f"[the traceback was not saved: {_WHY}]"]}
    forms = output.get("data")
    small = {
        name: value
        for name, value in (forms.items() if isinstance(forms, dict) else ())
        if len(json.dumps(value)) <= _END_CHARS
    }
    names = ", ".join(name for name in (forms or {}) if name not in small)[:200]
    left_out = f"[{names or 'an output'} of {size:,} bytes was not saved: {_WHY}]"
    return {**output, "data": {"text/plain": left_out, **small}, "metadata": {}} if small else _line(left_out[1:-1])


def _line(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stderr", "text": f"[{text}]\n"}


def _size(output: Mapping[str, Any]) -> int:
    return len(json.dumps(output))
