"""How much of an output is shown, and in which form.

Outputs come from files and kernels of others: fields may be missing or of any type, text may drive a terminal, image
data may be broken or made to exhaust memory. Nothing here raises because of them; an output that cannot be shown is
named instead, with the reason. The outputs themselves are never changed.

Outputs are numbered by their place in the cell, from 0, as the `outputs/{n}` resources are.
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from papermill_mcp.core.displays.tables import LEFT_OUT
from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.pictures.images import IMAGE_TYPES, decoded, measured, open_image, too_large, type_of
from papermill_mcp.services.output_text import WRITTEN, json_text, text_of
from papermill_mcp.services.pictures import Pictures
from papermill_mcp.services.tracebacks import folded, trimmed
from papermill_mcp.utils.text_utils import clean_text, count_noun, head_and_tail, human_size, one_line

MAX_VIEWS = 100  # outputs of one cell that are listed one by one; the others are counted
SUMMARY_CHARS = 200
_NEARLY_WHOLE = 1.5  # a text of so many times the limit is not cut
MESSAGE_CHARS = 500  # of an `evalue`

_LISTED_TYPES = 20


class OutputView(BaseModel):
    """One output as shown. Compact: dump it with `exclude_none=True`."""

    output_type: str
    index: int | None = None
    """Place of the (first) output in its cell."""
    name: str | None = None
    text: str | None = None
    omitted_chars: int | None = None
    """Counted after cleaning."""
    note: str | None = None


class ErrorView(BaseModel):
    """An exception that code in a cell raised."""

    ename: str
    evalue: str
    traceback: str


class OutputLimits(Protocol):
    """The settings that an `OutputBudget` is made of."""

    @property
    def max_output_chars(self) -> int: ...
    @property
    def max_images(self) -> int: ...
    @property
    def max_image_pixels(self) -> int: ...
    @property
    def max_error_output(self) -> int: ...
    @property
    def error_output_type(self) -> Literal["full", "brief"]: ...


#: Names the call that shows the rest of an output: its place in the cell, and how many characters of it are shown; None
#: for a picture.
Way = Callable[[int, int | None], str]


def _read_alone(place: int, shown: int | None) -> str:
    larger = "" if shown is None else " and a larger max_chars"
    return f"read this cell alone with first_output={place}{larger}"


@dataclass
class OutputBudget:
    """The rest of the budget of one reply, shared by all its cells. Shown outputs use up `chars` and `pictures`."""

    chars: int
    images: int
    image_pixels: int
    """On the long side."""
    error_chars: int
    """Of each traceback."""
    error_type: Literal["full", "brief"]
    whole_tables: bool = False
    """Whether tables of pages are shown with all their rows, as far as `chars` reaches."""
    sheet: bool = True
    """Whether pictures beyond `images` are shown as a contact sheet."""
    way: Way = field(default=_read_alone, compare=False)
    """The call that shows the rest of an output of the present cell."""
    pages: bool = False
    """Whether the caller reads on from a place, so that a long text is cut at its end."""
    way_told: bool = field(default=False, compare=False)
    """Whether that call was named for the present cell."""
    pictures: Pictures = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.pictures = Pictures(self.images, self.image_pixels, sheet=self.sheet)

    @classmethod
    def of(
        cls,
        limits: OutputLimits,
        *,
        chars: int | None = None,
        images: int | None = None,
        first_output: int | None = None,
    ) -> OutputBudget:
        """The whole budget of a reply; `chars` and `images` in place of the configured numbers.

        Args:
            first_output: an output to be seen. It is seen itself if the reply has but one image.
        """
        return cls(
            chars=limits.max_output_chars if chars is None else chars,
            images=limits.max_images if images is None else images,
            image_pixels=limits.max_image_pixels,
            error_chars=max(limits.max_error_output, chars or 0),
            error_type=limits.error_output_type,
            whole_tables=chars is not None and chars > limits.max_output_chars,
            sheet=first_output is None or (limits.max_images if images is None else images) > 1,
        )


def show_outputs(
    outputs: Sequence[Mapping[str, Any]], budget: OutputBudget, *, label: str = "", first: int = 0
) -> list[OutputView]:
    """The outputs of one cell within `budget`. Their pictures go to `budget.pictures`.

    Scales images, so call it in a worker thread.

    Args:
        label: names the cell in the labels of its images, such as `cell 3`.
        first: the place of the first output to show.
    """
    views: list[OutputView] = []
    rest = _Rest()
    budget.pictures.next_cell(budget.way)
    budget.way_told = False
    for index, output_type, output in _merged(outputs):
        if index < first:
            continue
        if len(views) >= MAX_VIEWS:
            rest.add(index, output_type, len(_all_text(output_type, output, make=False)))
        elif output_type == "error":
            views.append(_show_error_output(index, output, budget))
        elif output_type == "stream":
            view = OutputView(output_type="stream", index=index, name=_stream_name(output))
            _spend(view, clean_text(joined(output.get("text"))), budget)
            views.append(view)
        else:
            views.append(_show_bundle(index, output_type, output, budget, label))
    views.extend(rest.views(budget))
    return views


def show_error(error: Mapping[str, Any], budget: OutputBudget) -> ErrorView:
    """The exception of a cell, its traceback cut to `budget.error_chars`: the last frames and the message stay.

    Does not use the budget up: the error of a run is shown however much it printed before.
    """
    ename, evalue, entries = _error_parts(error)
    limit = 0 if _is_brief(ename, budget) else max(budget.error_chars, 0)
    return ErrorView(
        ename=ename, evalue=head_and_tail(evalue, MESSAGE_CHARS)[0], traceback=trimmed(folded(entries), limit)[0]
    )


def summarise_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[OutputView]:
    """A line or two for each output: its type, its forms and sizes, and the beginning of its text."""
    views: list[OutputView] = []
    rest = _Rest()
    for index, output_type, output in _merged(outputs):
        if len(views) >= MAX_VIEWS:
            rest.add(index, output_type, len(_all_text(output_type, output, make=False)))
            continue
        text = _all_text(output_type, output)
        view = OutputView(output_type=output_type, index=index)
        if output_type == "stream":
            view.name = _stream_name(output)
        elif output_type != "error":
            data = _mapping(output.get("data"))
            pictures = {mime: value for mime, value in data.items() if mime in IMAGE_TYPES}
            view.note = "; ".join(_measures(pictures if text else data)) or None
        if text:
            limit = len(text) if len(text) <= _NEARLY_WHOLE * SUMMARY_CHARS else SUMMARY_CHARS
            view.text, omitted = head_and_tail(text, limit)
            view.omitted_chars = omitted or None
        views.append(view)
    views.extend(rest.views(None))
    return views


def whole_output(outputs: Sequence[Mapping[str, Any]], index: int) -> list[tuple[str, str | bytes]]:
    """The output at this place, complete, in every form it has: MIME types, with cleaned text or the bytes of an image.

    A stream comes with those of its name beside it, as it is shown. An image whose header is not that of its type, or
    that would need very much memory, comes as bytes of no type, so that no client shows it unasked.
    """
    *_, (_, output_type, output) = (merged for merged in _merged(outputs) if merged[0] <= index)
    if output_type == "stream":
        return [("text/plain", clean_text(joined(output.get("text"))))]
    if output_type == "error":
        ename, evalue, entries = _error_parts(output)
        return [("text/plain", "\n".join(entries) or _error_line(ename, evalue))]
    return [_whole_form(mime, value) for mime, value in _mapping(output.get("data")).items()]


def _whole_form(mime: str, value: object) -> tuple[str, str | bytes]:
    name = one_line(mime, 100)
    if not isinstance(value, str | list | tuple) or name == "application/json":
        return name, clean_text(json_text(value))
    text = joined(value)
    if mime not in IMAGE_TYPES:
        return name, clean_text(text)
    try:
        data = decoded(text)
    except (binascii.Error, ValueError):
        return "text/plain", f"{name}: its data is not valid base64."
    try:
        image = open_image(data)
    except ValueError:
        return "application/octet-stream", data
    return "application/octet-stream" if type_of(image) != mime or too_large(image) else name, data


class _Rest:
    """Outputs past `MAX_VIEWS`: counted, not listed."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._types: Counter[str] = Counter()
        self._chars = 0

    def add(self, index: int, output_type: str, chars: int) -> None:
        self._first = index if self._first is None else self._first
        self._types[output_type] += 1
        self._chars += chars

    def views(self, budget: OutputBudget | None) -> list[OutputView]:
        if self._first is None:
            return []
        kinds = ", ".join(f"{number} {kind}" for kind, number in self._types.most_common(_LISTED_TYPES))
        way = (budget.way if budget is not None else _read_alone)(self._first, 0)
        note = f"{count_noun(self._types.total(), 'more output')} of this cell not listed: {kinds}. To see them, {way}."
        return [OutputView(output_type="omitted", index=self._first, omitted_chars=self._chars, note=note)]


def _merged(outputs: object) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Outputs with their index and type; consecutive streams of one name as one output."""
    pending: tuple[int, str, list[str]] | None = None
    for index, item in enumerate(outputs if isinstance(outputs, list | tuple) else ()):
        output = _mapping(item)
        raw_type = output.get("output_type")
        output_type = (one_line(raw_type, 40) if isinstance(raw_type, str) else "") or "unknown"
        name = _stream_name(output) if output_type == "stream" else None
        if pending and name == pending[1]:
            pending[2].append(joined(output.get("text")))
            continue
        if pending:
            yield _one_stream(pending)
            pending = None
        if name is None:
            yield index, output_type, output
        else:
            pending = (index, name, [joined(output.get("text"))])
    if pending:
        yield _one_stream(pending)


def _one_stream(streams: tuple[int, str, list[str]]) -> tuple[int, str, Mapping[str, Any]]:
    index, name, texts = streams
    return index, "stream", {"name": name, "text": "".join(texts)}


def _stream_name(output: Mapping[str, Any]) -> str:
    return one_line(joined(output.get("name")), 40) or "stdout"


def _mapping(value: object) -> Mapping[str, Any]:
    """`value` with its text keys, if it is a mapping at all."""
    return {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, Mapping) else {}


def _spend(view: OutputView, text: str, budget: OutputBudget) -> None:
    """Show as much of `text` as the budget still allows."""
    if text and budget.chars <= 0:
        view.omitted_chars = len(text)
        _add_note(view, f"Text not shown: the text budget of this reply is used up.{_rest_of(view.index, budget)}")
        return
    nearly_whole = len(text) <= budget.chars + budget.chars // 10
    if budget.pages and not nearly_whole:  # the end was shown by the reply before
        end = text.rfind("\n", 0, budget.chars) + 1 or budget.chars
        view.text, omitted = text[:end], len(text) - end
    else:
        view.text, omitted = (text, 0) if nearly_whole else head_and_tail(text, budget.chars)
    view.omitted_chars = omitted or None
    budget.chars -= len(text) - omitted
    if omitted:
        shown = len(view.text.partition("\n… ")[0]) if view.output_type == "stream" else 0
        _add_note(view, _rest_of(view.index, budget, shown).strip())


def _add_note(view: OutputView, note: str) -> None:
    view.note = f"{view.note} {note}" if view.note and note else view.note or note or None


def _rest_of(index: int | None, budget: OutputBudget, shown: int = 0) -> str:
    """The call that shows the rest of an output and those after it, once for a cell."""
    if budget.way_told:
        return ""
    budget.way_told = True
    return f" For the rest, {budget.way(index or 0, shown)}."


def _all_text(output_type: str, output: Mapping[str, Any], *, make: bool = True) -> str:
    """All text that the output could show, cleaned."""
    if output_type == "stream":
        return clean_text(joined(output.get("text")))
    if output_type == "error":
        ename, evalue, _ = _error_parts(output)
        return _error_line(ename, evalue)
    return text_of(_mapping(output.get("data")), make=make)[1]


def _show_error_output(index: int, output: Mapping[str, Any], budget: OutputBudget) -> OutputView:
    """An error among the outputs. Its one-line message is shown even when the text budget is used up."""
    ename, evalue, entries = _error_parts(output)
    entries = folded(entries)
    view = OutputView(output_type="error", index=index)
    limit = 0 if _is_brief(ename, budget) else max(min(budget.error_chars, budget.chars), 0)
    view.text, omitted = trimmed(entries, limit)
    if not view.text:
        line = _error_line(ename, evalue)
        view.text, left_out = head_and_tail(line, MESSAGE_CHARS)
        budget.chars = max(budget.chars - len(line) + left_out, 0)
        omitted += left_out
        if omitted and not _is_brief(ename, budget) and limit < budget.error_chars:
            _add_note(view, f"Traceback not shown: the text budget of this reply is used up.{_rest_of(index, budget)}")
    else:
        budget.chars -= sum(map(len, entries)) + len(entries) - 1 - omitted
    view.omitted_chars = omitted or None
    return view


def _is_brief(ename: str, budget: OutputBudget) -> bool:
    """Whether the traceback is left out. Of an interrupt it only says where the code happened to be."""
    return budget.error_type == "brief" or ename == "KeyboardInterrupt"


def _error_parts(error: object) -> tuple[str, str, list[str]]:
    """Name, message and the entries of the traceback, all cleaned."""
    fields = _mapping(error)
    ename = one_line(joined(fields.get("ename")), 200) or "Error"
    evalue = clean_text(joined(fields.get("evalue")))
    traceback = fields.get("traceback")
    lines = [traceback] if isinstance(traceback, str) else traceback if isinstance(traceback, list | tuple) else []
    entries = [clean_text(line).removesuffix("\n") for line in lines if isinstance(line, str)]
    # IPython begins with a rule and a line of its own for the header; neither tells anything.
    return ename, evalue, [entry for entry in entries if entry.strip("-") or not entry]


def _error_line(ename: str, evalue: str) -> str:
    return f"{ename}: {evalue}" if evalue else ename


def _show_bundle(
    index: int, output_type: str, output: Mapping[str, Any], budget: OutputBudget, label: str
) -> OutputView:
    view = OutputView(output_type=output_type, index=index)
    data = _mapping(output.get("data"))
    picture = budget.pictures.add(view, data, label, index)
    # A picture that was drawn from a text does not replace it: the text is exact.
    has_image = picture == "alone" and any(mime in IMAGE_TYPES for mime in data)
    form, text = text_of(data, make=not has_image and budget.chars > 0, whole=budget.whole_tables)
    if text and (not has_image or form in WRITTEN):
        _spend(view, text, budget)
        if label and form not in WRITTEN and LEFT_OUT in text and not budget.whole_tables:
            _add_note(view, _rest_of(index, budget).strip())
    elif picture is None and not view.note:
        sizes = _measures(data)
        _add_note(view, f"Not shown: {'; '.join(sizes)}." if sizes else "No data.")
        if sizes and budget.chars <= 0:
            _add_note(view, f"The text budget of this reply is used up.{_rest_of(index, budget)}")
    return view


def _measures(data: Mapping[str, Any]) -> list[str]:
    """The forms of a display with their sizes. Plain text that stands for another form does not count."""
    return [_measure(mime, value) for mime, value in data.items() if mime != "text/plain"][:_LISTED_TYPES]


def _measure(mime: str, value: object) -> str:
    """One entry of a bundle in a few words: `image/png 640x480, 23 kB`."""
    name = one_line(mime, 100)
    if mime in IMAGE_TYPES:
        return measured(name, joined(value))
    if isinstance(value, str | list | tuple):
        text = joined(value)
        size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return f"{name}, {human_size(size_bytes)}"
    return name
