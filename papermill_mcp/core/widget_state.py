"""The state of Jupyter widgets as a notebook keeps it, and the text that stands for a widget.

A notebook has the models of its widgets in `metadata.widgets` (@jupyter-widgets/schema, version 2). An output only
names the model that it shows. Models refer to each other by id.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

VIEW_TYPE = "application/vnd.jupyter.widget-view+json"
STATE_TYPE = "application/vnd.jupyter.widget-state+json"

#: The mark of a reference in the state of a model, before the id of the other model.
_REFERENCE = "IPY_MODEL_"

#: Widgets inside of each other that are shown as text, and the characters of all of them.
_TEXT_DEPTH = 6
_TEXT_CHARS = 10_000

#: Steps of a progress bar as text.
_BAR_STEPS = 10

_TAG = re.compile(r"<[^<>]*>")

Models = Mapping[str, Mapping[str, Any]]


def models_in(metadata: object) -> dict[str, Any]:
    """The models that the metadata of a notebook have, by id."""
    state: object = metadata
    for key in ("widgets", STATE_TYPE, "state"):
        state = state.get(key) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        return {}
    return {key: model for key, model in state.items() if isinstance(model, dict)}


def shown_in(outputs: Iterable[Any]) -> set[str]:
    """The ids of the models that outputs show."""
    found = set()
    for output in outputs:
        data = output.get("data") if isinstance(output, dict) else None
        model_id = _view_of(data)
        if model_id is not None:
            found.add(model_id)
    return found


def merged(metadata: Mapping[str, Any], live: Models, fresh: Iterable[str], outputs: Iterable[Any]) -> dict[str, Any]:
    """The member `widgets` of a notebook's metadata after a run. Empty when the notebook needs none.

    It has every model that a run made, and every other one, of the kernel or of the file, that is connected with a
    model which an output shows. Other models are stale.

    Args:
        metadata: the notebook's metadata as they are.
        live: the models of the kernel.
        fresh: the ids of those that the run made.
        outputs: the outputs of all cells.
    """
    found = metadata.get("widgets")
    others = {key: value for key, value in found.items() if key != STATE_TYPE} if isinstance(found, dict) else {}
    models = models_in(metadata) | dict(live)
    if not models:
        return others
    kept = _connected(models, {*fresh, *shown_in(outputs)})
    state = {model_id: model for model_id, model in models.items() if model_id in kept}
    if not state:
        return others
    return others | {STATE_TYPE: {"state": state, "version_major": 2, "version_minor": 0}}


def _connected(models: Models, start: Iterable[str]) -> set[str]:
    """The models that are connected with those of `start` by references, in either direction."""
    neighbours: defaultdict[str, set[str]] = defaultdict(set)
    for model_id, model in models.items():
        for other in _references(model.get("state")):
            neighbours[model_id].add(other)
            neighbours[other].add(model_id)
    found: set[str] = set()
    waiting = [model_id for model_id in start if model_id in models]
    while waiting:
        model_id = waiting.pop()
        if model_id not in found:
            found.add(model_id)
            waiting += neighbours[model_id]
    return found & models.keys()


def _references(state: object) -> Iterator[str]:
    """The ids of the models that a state names, also in the outputs of an `Output` widget."""
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if value.startswith(_REFERENCE):
                yield value.removeprefix(_REFERENCE)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            model_id = _view_of(value)
            if model_id is not None:
                yield model_id
            waiting += value.values()


def _view_of(data: object) -> str | None:
    view = data.get(VIEW_TYPE) if isinstance(data, dict) else None
    model_id = view.get("model_id") if isinstance(view, dict) else None
    return model_id if isinstance(model_id, str) else None


def with_text(outputs: Sequence[dict[str, Any]], models: Callable[[], Models]) -> Sequence[dict[str, Any]]:
    """Outputs for a reader: the plain text of a widget is its present state, not the one that it was displayed with.

    Args:
        models: gives the models, if an output shows one.
    """
    if not shown_in(outputs):
        return outputs
    found = models()
    return [_with_text(output, found) for output in outputs]


def _with_text(output: dict[str, Any], models: Models) -> dict[str, Any]:
    model_id = _view_of(output.get("data"))
    text = text_of(model_id, models) if model_id in models else ""
    return output | {"data": output["data"] | {"text/plain": text}} if text else output


def text_of(model_id: object, models: Models, depth: int = _TEXT_DEPTH) -> str:
    """A widget as text: its value, the parts of a box, the outputs of an `Output`; the name of any other."""
    model = models.get(model_id) if isinstance(model_id, str) else None
    if model is None:
        return ""
    state = model.get("state")
    name = str(model.get("model_name", "")).removesuffix("Model")
    if not isinstance(state, dict) or depth == 0:
        return f"({name})"
    if name == "Output":
        return "".join(map(_output_text, _list(state.get("outputs"))))[:_TEXT_CHARS]
    if isinstance(state.get("children"), list):
        parts = [_child_text(child, models, depth - 1) for child in state["children"]]
        return (" " if name == "HBox" else "\n").join(filter(None, parts))[:_TEXT_CHARS]
    label = _plain(state.get("description"))
    if name.endswith("Progress"):
        return f"{label} {_bar(state, with_numbers=depth == _TEXT_DEPTH)}".strip()
    if name in ("HTML", "HTMLMath", "Label"):
        return f"{label} {_plain(state.get('value'))}".strip()[:_TEXT_CHARS]
    value = state.get("value")
    shown = f" = {_plain(value)}" if isinstance(value, str | int | float) else ""
    return f"({name}{': ' if label else ''}{label}{shown})"[:_TEXT_CHARS]


def _child_text(child: object, models: Models, depth: int) -> str:
    return text_of(child.removeprefix(_REFERENCE), models, depth) if isinstance(child, str) else ""


def _output_text(output: object) -> str:
    if not isinstance(output, dict):
        return ""
    if output.get("output_type") == "error":
        return f"{output.get('ename')}: {output.get('evalue')}\n"
    data = output.get("data")
    text = data.get("text/plain", f"({', '.join(data)})") if isinstance(data, dict) else output.get("text", "")
    text = "".join(map(str, text)) if isinstance(text, list) else str(text)
    return text if text.endswith("\n") or "data" not in output else f"{text}\n"


def _bar(state: Mapping[str, Any], *, with_numbers: bool) -> str:
    low, value, high = (state.get(key) for key in ("min", "value", "max"))
    numbers = [number for number in (low, value, high) if isinstance(number, int | float)]
    if len(numbers) < 3 or numbers[2] <= numbers[0]:
        return ""
    done = round(_BAR_STEPS * (min(max(numbers[1], numbers[0]), numbers[2]) - numbers[0]) / (numbers[2] - numbers[0]))
    bar = f"|{'█' * done}{' ' * (_BAR_STEPS - done)}|"
    return f"{bar} {numbers[1]:g}/{numbers[2]:g}" if with_numbers else bar  # a box has them in a text of its own


def _plain(value: object) -> str:
    """Text without the tags of HTML."""
    return "" if value is None else html.unescape(_TAG.sub("", str(value)[: 2 * _TEXT_CHARS])).strip()


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
