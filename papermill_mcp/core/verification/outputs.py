"""Compares the outputs of one cell: streams, displays of every form, and errors."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from papermill_mcp.core.displays.made_text import made_text
from papermill_mcp.core.documents.reading import joined
from papermill_mcp.core.runs.snapshot import DifferenceState
from papermill_mcp.core.verification import hash_order
from papermill_mcp.core.verification.hash_order import Seeds
from papermill_mcp.core.verification.pictures import picture_difference
from papermill_mcp.core.verification.texts import Difference, Rules, difference, plain_lines
from papermill_mcp.utils.text_utils import count_noun, one_line

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_WIDGET = "application/vnd.jupyter.widget-view+json"

#: Forms without a result of their own: they load scripts, or stand for something that another form has.
_LOADERS = re.compile(r"application/vnd\.(bokehjs|holoviews)_(load|exec)\.v\d+\+json|application/javascript")

_SVG_IDS = re.compile(r"""\b(?:id|xlink:href|href|clip-path|style)="[^"]*"|<metadata>.*?</metadata>|<!--.*?-->""", re.S)
_HTML_IDS = re.compile(
    r"""\s(?:id|class|for|data-[\w-]+)=(?:"[^"]*"|'[^']*')|<style.*?</style>|<script.*?</script>""", re.S
)


@dataclass
class Outputs:
    """The outputs of a cell by their kind."""

    streams: dict[str, str] = field(default_factory=dict)
    displays: list[Mapping[str, Any]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, outputs: Sequence[Mapping[str, Any]]) -> Outputs:
        """The outputs of a cell, as a notebook or a kernel has them. Streams of one name are joined."""
        found = cls()
        for output in outputs:
            kind = output.get("output_type")
            if kind == "stream":
                name = str(output.get("name", "stdout"))
                found.streams[name] = found.streams.get(name, "") + joined(output.get("text"))
            elif kind == "error":
                found.errors.append((str(output.get("ename", "")), joined(output.get("evalue"))))
            elif isinstance(data := output.get("data"), Mapping) and not all(map(_LOADERS.fullmatch, data)):
                found.displays.append(data)
        return found


@dataclass(frozen=True)
class Others:
    """The outputs of a cell in further fresh runs.

    Attributes:
        again: of another run.
        seeds: of runs that had a hash seed each.
        same: of two runs that had the same one.
        source: the code of the notebook.
        found: gets an entry for each part that hashes decide, and that was taken as equal.
    """

    again: Outputs | None = None
    seeds: Sequence[Outputs] = ()
    same: tuple[Outputs, Outputs] | None = None
    source: str = ""
    found: list[str] = field(default_factory=list, compare=False)

    def texts(self, text_of: Callable[[Outputs], str]) -> tuple[str | None, Seeds | None]:
        """One text of the outputs: of the other run, and of the runs with hash seeds."""
        again = None if self.again is None else text_of(self.again)
        if not self.seeds:
            return again, None
        same = None if self.same is None else (text_of(self.same[0]), text_of(self.same[1]))
        return again, Seeds([text_of(one) for one in self.seeds], same, self.source, self.found)


NO_OTHERS = Others()


def output_differences(
    old: Outputs, new: Outputs, rules: Rules, *, others: Others = NO_OTHERS
) -> list[DifferenceState]:
    """The differences of the outputs of a cell; none if they are the same by the rules.

    Args:
        others: those of further fresh runs.
    """
    return [*_differences(old, new, rules, others)]


def in_another_order(old: Outputs, new: Outputs) -> bool:
    """Whether the outputs of a cell have the same words in another order."""
    if len(old.displays) != len(new.displays) or old.streams.keys() != new.streams.keys():
        return False
    pairs = [(old.streams[name], new.streams[name]) for name in old.streams]
    for one, other in zip(old.displays, new.displays, strict=True):
        pairs += [(joined(one[mime]), joined(other[mime])) for mime in one if mime in other and mime == "text/plain"]
    return all(a == b or hash_order.in_another_order(plain_lines(a), plain_lines(b)) for a, b in pairs)


def _differences(old: Outputs, new: Outputs, rules: Rules, others: Others) -> Iterator[DifferenceState]:
    for name in dict.fromkeys((*old.streams, *new.streams)):
        again, seeds = others.texts(lambda one, name=name: one.streams.get(name, ""))  # type: ignore[misc]
        found = difference(old.streams.get(name, ""), new.streams.get(name, ""), rules, again=again, seeds=seeds)
        if found is not None:
            yield _of_text(one_line(name, 40), found)
    for place in range(max(len(old.displays), len(new.displays))):
        what = f"output {place}"
        if place >= len(new.displays):
            yield DifferenceState(what, f"is gone: {_in_short(old.displays[place])}")
        elif place >= len(old.displays):
            yield DifferenceState(what, f"is new: {_in_short(new.displays[place])}")
        else:
            yield from _of_display(place, old.displays[place], new.displays[place], rules, others)
    for (ename, evalue), (new_ename, new_evalue) in zip(old.errors, new.errors, strict=False):
        found = difference(f"{ename}: {evalue}", f"{new_ename}: {new_evalue}", rules)
        if found is not None:
            yield _of_text("error", found)
    if len(old.errors) != len(new.errors) and old.errors and new.errors:
        yield DifferenceState("error", f"{count_noun(len(new.errors), 'error')} in place of {len(old.errors)}")


def _of_text(what: str, found: Difference) -> DifferenceState:
    return DifferenceState(what, found.diff, found.values)


def _of_display(
    place: int, old: Mapping[str, Any], new: Mapping[str, Any], rules: Rules, others: Others
) -> Iterator[DifferenceState]:
    what = f"output {place}"
    shared = [mime for mime in old if mime in new and not _LOADERS.fullmatch(mime)]
    if not shared:
        yield DifferenceState(what, f"has the form {_in_short(new)} in place of {_in_short(old)}")
        return
    # Jupyter shows a formula by its LaTeX: a picture beside it is that of the library that drew it.
    images = [mime for mime in _IMAGES if mime in shared and "text/latex" not in shared]
    for mime in images[:1]:
        found = _of_picture(mime, old[mime], new[mime], tolerant=rules.relative is not None)
        if found is not None:
            yield DifferenceState(what, found, pictures=((mime, joined(old[mime])), (mime, joined(new[mime]))))
    structured = [mime for mime in shared if mime.endswith("json") and mime != _WIDGET]
    richest = structured or [
        mime for mime in ("image/svg+xml", "text/html", "text/latex", "text/markdown") if mime in shared
    ]
    if images and not richest:
        return
    plain = [mime for mime in ("text/plain",) if mime in shared]
    for mime in [*richest[:1], *(plain or [mime for mime in shared if mime != _WIDGET and not richest][:1])]:
        again, seeds = others.texts(lambda one, mime=mime: _text_at(one, place, mime))  # type: ignore[misc]
        changed = difference(_text_of(mime, old[mime]), _text_of(mime, new[mime]), rules, again=again, seeds=seeds)
        if changed is not None:
            yield _of_text(what, changed)
            return


def _of_picture(mime: str, old: Any, new: Any, *, tolerant: bool) -> str | None:
    one, other = "".join(joined(old).split()), "".join(joined(new).split())
    if one == other:
        return None
    try:
        found = picture_difference(base64.b64decode(one), base64.b64decode(other), tolerant=tolerant)
    except (binascii.Error, ValueError):
        return f"{mime} is no valid base64"
    return found.text if found is not None else None


def _text_at(outputs: Outputs, place: int, mime: str) -> str:
    data = outputs.displays[place] if place < len(outputs.displays) else {}
    return _text_of(mime, data[mime]) if mime in data else ""


def _text_of(mime: str, value: Any) -> str:
    """A form as text that shows each part of its content."""
    if mime.endswith("json"):
        return json.dumps(_without_ids(value), indent=0, sort_keys=True, ensure_ascii=False, default=str)
    text = joined(value)
    if mime == "text/html":
        _, shown = made_text({mime: text}, whole=True)
        return shown or _HTML_IDS.sub("", text)
    if mime == "image/svg+xml":
        return re.sub(r">\s*<", ">\n<", _SVG_IDS.sub("", text))
    return text


def _without_ids(value: Any) -> Any:
    if isinstance(value, Mapping):
        hidden = ("uid", "uuid", "model_id", "id", "name_id")
        return {key: _without_ids(item) for key, item in value.items() if key not in hidden}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _in_short(data: Mapping[str, Any]) -> str:
    text = joined(data.get("text/plain"))
    forms = ", ".join(list(data)[:3])
    return f"{forms} ({one_line(text, 80)})" if text else forms
