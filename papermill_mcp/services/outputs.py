"""How much of an output is shown, and in which form.

Outputs come from files and kernels of others: fields may be missing or of any type, text may drive a terminal, image
data may be broken or made to exhaust memory. Nothing here raises because of them; an output that cannot be shown is
named instead, with the reason. The outputs themselves are never changed.

Outputs are numbered by their place in the cell, from 0, as the `outputs/{n}` resources are.
"""

from __future__ import annotations

import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.images import (
    IMAGE_TYPES,
    WithheldError,
    decoded,
    measured,
    open_image,
    ready,
    too_large,
    type_of,
)
from papermill_mcp.utils.text_utils import clean_text, count_noun, head_and_tail, human_size, one_line

MAX_VIEWS = 100  # outputs of one cell that are listed one by one; the others are counted
SUMMARY_CHARS = 200
MESSAGE_CHARS = 500  # of an `evalue`

_TEXT_TYPES = ("text/plain", "text/markdown", "text/latex", "application/json")
_LISTED_TYPES = 20

# Forms of text/plain that carry no information.
_PLACEHOLDER = re.compile(r"<IPython\.core\.display\.\w+ object>|<Figure size [^<>\n]{1,60}>")
_DATA_URI = re.compile(r"data:[\w/+.\-]{1,80};base64,[A-Za-z0-9+/=]{64,}+")


class OutputView(BaseModel):
    """One output as shown. Compact: dump it with `exclude_none=True`."""

    output_type: str
    index: int | None = None
    """Place of the (first) output in its cell."""
    name: str | None = None
    text: str | None = None
    mime_types: list[str] | None = None
    """The other forms in the bundle."""
    omitted_chars: int | None = None
    """Counted after cleaning."""
    note: str | None = None


class ErrorView(BaseModel):
    """An exception that code in a cell raised."""

    ename: str
    evalue: str
    traceback: str


@dataclass(frozen=True)
class ShownImage:
    """A PNG or JPEG that is ready to be sent."""

    mime_type: str
    data: bytes
    label: str


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


@dataclass
class OutputBudget:
    """The rest of the budget of one reply, shared by all its cells. Shown outputs use up `chars` and `images`."""

    chars: int
    images: int
    image_pixels: int
    """On the long side."""
    error_chars: int
    """Of each traceback."""
    error_type: Literal["full", "brief"]

    @classmethod
    def of(cls, limits: OutputLimits, *, chars: int | None = None, images: int | None = None) -> OutputBudget:
        """The whole budget of a reply; `chars` and `images` in place of the configured numbers."""
        return cls(
            chars=limits.max_output_chars if chars is None else chars,
            images=limits.max_images if images is None else images,
            image_pixels=limits.max_image_pixels,
            error_chars=limits.max_error_output,
            error_type=limits.error_output_type,
        )


def show_outputs(
    outputs: Sequence[Mapping[str, Any]], budget: OutputBudget, *, label: str = ""
) -> tuple[list[OutputView], list[ShownImage]]:
    """The outputs of one cell within `budget`, and the images among them.

    Scales images, so call it in a worker thread.

    Args:
        label: names the cell in the labels of its images, such as `cell 3`.
    """
    views: list[OutputView] = []
    images: list[ShownImage] = []
    rest = _Rest()
    for index, output_type, output in _merged(outputs):
        if len(views) >= MAX_VIEWS:
            rest.add(index, output_type, len(_all_text(output_type, output)))
        elif output_type == "error":
            views.append(_show_error_output(index, output, budget))
        elif output_type == "stream":
            view = OutputView(output_type="stream", index=index, name=_stream_name(output))
            _spend(view, clean_text(joined(output.get("text"))), budget)
            views.append(view)
        else:
            view, image = _show_bundle(index, output_type, output, budget, label)
            views.append(view)
            if image:
                images.append(image)
    views.extend(rest.views())
    return views, images


def show_error(error: Mapping[str, Any], budget: OutputBudget) -> ErrorView:
    """The exception of a cell, its traceback cut to `budget.error_chars`: the last frames and the message stay.

    Does not use the budget up: the error of a run is shown however much it printed before.
    """
    ename, evalue, entries = _error_parts(error)
    limit = 0 if budget.error_type == "brief" else max(budget.error_chars, 0)
    return ErrorView(ename=ename, evalue=head_and_tail(evalue, MESSAGE_CHARS)[0], traceback=_trim(entries, limit)[0])


def summarise_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[OutputView]:
    """A line or two for each output: its type, its forms and sizes, and the beginning of its text."""
    views: list[OutputView] = []
    rest = _Rest()
    for index, output_type, output in _merged(outputs):
        text = _all_text(output_type, output)
        if len(views) >= MAX_VIEWS:
            rest.add(index, output_type, len(text))
            continue
        view = OutputView(output_type=output_type, index=index)
        if output_type == "stream":
            view.name = _stream_name(output)
        elif output_type != "error":
            data = _mapping(output.get("data"))
            chosen, _ = _choose_text(data)
            view.mime_types = _mime_names(data, shown={chosen} if chosen else set())
            sizes = [_measure(mime, value) for mime, value in data.items() if mime != chosen]
            view.note = "; ".join(sizes[:_LISTED_TYPES]) or None
        if text:
            view.text = text[:SUMMARY_CHARS]
            view.omitted_chars = len(text) - len(view.text) or None
        views.append(view)
    views.extend(rest.views())
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
        return name, clean_text(_json_text(value))
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

    def views(self) -> list[OutputView]:
        if self._first is None:
            return []
        kinds = ", ".join(f"{number} {kind}" for kind, number in self._types.most_common(_LISTED_TYPES))
        note = (
            f"{count_noun(self._types.total(), 'more output')} of this cell not listed: {kinds}. {_whole(self._first)}"
        )
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
        _add_note(view, f"Text not shown: the text budget of this reply is used up. {_whole(view.index)}")
        return
    view.text, omitted = head_and_tail(text, budget.chars)
    view.omitted_chars = omitted or None
    budget.chars -= len(text) - omitted


def _add_note(view: OutputView, note: str) -> None:
    view.note = f"{view.note} {note}" if view.note else note


def _whole(index: int | None) -> str:
    return f"For the whole of output {index}, read this cell alone with a larger max_chars."


def _all_text(output_type: str, output: Mapping[str, Any]) -> str:
    """All text that the output could show, cleaned."""
    if output_type == "stream":
        return clean_text(joined(output.get("text")))
    if output_type == "error":
        ename, evalue, _ = _error_parts(output)
        return _error_line(ename, evalue)
    return _choose_text(_mapping(output.get("data")))[1]


def _show_error_output(index: int, output: Mapping[str, Any], budget: OutputBudget) -> OutputView:
    """An error among the outputs. Its one-line message is shown even when the text budget is used up."""
    ename, evalue, entries = _error_parts(output)
    view = OutputView(output_type="error", index=index)
    limit = 0 if budget.error_type == "brief" else max(min(budget.error_chars, budget.chars), 0)
    view.text, omitted = _trim(entries, limit)
    if not view.text:
        line = _error_line(ename, evalue)
        view.text, left_out = head_and_tail(line, MESSAGE_CHARS)
        budget.chars = max(budget.chars - len(line) + left_out, 0)
        omitted += left_out
        if omitted and budget.error_type == "full" and limit < budget.error_chars:
            _add_note(view, f"Traceback not shown: the text budget of this reply is used up. {_whole(index)}")
    else:
        budget.chars -= sum(map(len, entries)) + len(entries) - 1 - omitted
    view.omitted_chars = omitted or None
    return view


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


def _trim(entries: list[str], limit: int) -> tuple[str, int]:
    """The end of a traceback in `limit` characters, and how many are left out.

    IPython sends an entry for each frame and the message as the last one. A long message is cut in its middle and
    gets at most half of the room; whole frames are preferred to parts.
    """
    whole = "\n".join(entries)
    if len(whole) <= limit:
        return whole, 0
    if limit <= 0:
        return "", len(whole)
    *frames, message = entries if len(entries) > 1 else whole.rsplit("\n", 1)
    last, cut = head_and_tail(message, max(limit // 2, 1) if frames else limit)
    room = limit - (len(message) - cut)
    above = "".join([f"{frame}\n" for frame in frames])
    start = len(above)
    for frame in reversed(frames):
        if len(above) - start + len(frame) + 1 > room:
            break
        start -= len(frame) + 1
    if start == len(above):  # not one whole frame: its last lines
        start = above.find("\n", max(len(above) - room - 1, 0)) + 1
    if start == 0:
        return above + last, cut
    left_out = f"… {count_noun(start, 'character')} ({count_noun(above.count(chr(10), 0, start), 'line')}) left out …"
    return f"{left_out}\n{above[start:]}{last}", start + cut


def _show_bundle(
    index: int, output_type: str, output: Mapping[str, Any], budget: OutputBudget, label: str
) -> tuple[OutputView, ShownImage | None]:
    view = OutputView(output_type=output_type, index=index)
    data = _mapping(output.get("data"))
    chosen, text = _choose_text(data)
    shown = {chosen} if chosen else set()
    image: ShownImage | None = None
    withheld: list[str] = []
    for mime in [mime for mime in IMAGE_TYPES if mime in data]:
        if budget.images <= 0:
            measure = _measure(mime, data[mime])
            withheld.append(f"{measure} withheld: the image budget of this reply is used up. {_whole(index)}")
            continue
        try:
            result = ready(mime, joined(data[mime]), budget.image_pixels)
        except WithheldError as error:
            withheld.append(str(error))
            continue
        budget.images -= 1
        shown.add(mime)
        caption = " · ".join(part for part in (label, f"output {index}", result.facts) if part)
        image = ShownImage(mime_type=result.mime_type, data=result.data, label=caption)
        withheld.clear()  # the same picture in another type
        view.note = f"Image attached: {result.facts}."
        break
    for reason in withheld:
        _add_note(view, reason)
    if text:
        _spend(view, text, budget)
    view.mime_types = _mime_names(data, shown)
    if not text and not image and not withheld:
        sizes = [_measure(mime, value) for mime, value in data.items() if mime != chosen][:_LISTED_TYPES]
        if sizes:
            _add_note(view, f"Not shown: {'; '.join(sizes)}.")
        else:
            _add_note(view, "No data.")
    return view, image


def _choose_text(data: Mapping[str, Any]) -> tuple[str | None, str]:
    """The mime type that is shown as text, and that text, cleaned. No text if it only stands for another type."""
    placeholder: str | None = None
    placeholder_text = ""
    for mime in _TEXT_TYPES:
        if mime not in data:
            continue
        text = _json_text(data[mime]) if mime == "application/json" else joined(data[mime])
        if mime == "text/plain" and len(text) < 200 and _PLACEHOLDER.fullmatch(text.strip()):
            placeholder = mime
            placeholder_text = clean_text(text) if len(data) == 1 else ""
        elif text:
            return mime, _without_data_uris(clean_text(text))
    return placeholder, placeholder_text


def _json_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # an integer of 5,000 digits, a depth of 100,000
        return ""


def _without_data_uris(text: str) -> str:
    """Never base64 inside text: it costs thousands of tokens and says nothing."""
    if ";base64," not in text:
        return text
    return _DATA_URI.sub(lambda match: f"⟨data URI of {len(match[0])} characters⟩", text)


def _mime_names(data: Mapping[str, Any], shown: set[str]) -> list[str] | None:
    names = [one_line(mime, 100) for mime in data if mime not in shown]
    if len(names) > _LISTED_TYPES:
        names[_LISTED_TYPES:] = [f"… {len(names) - _LISTED_TYPES} more"]
    return names or None


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
