"""The widgets of one kernel, followed by their comm messages as nbclient follows them.

The kernel has the widgets; a front end has their models. Without a front end the models are kept here, so that a saved
notebook can show them. An `Output` widget takes the output messages of a request while its state names the request.
"""

from __future__ import annotations

import base64
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from papermill_mcp.core.kernels.forms import Cleaner, UnfitError, member_of
from papermill_mcp.core.kernels.outputs import OUTPUT_MESSAGES, Displays, OutputCollector
from papermill_mcp.core.widget_state import Models

#: Bytes of the states of all widgets of a kernel, as they are in memory.
MAX_WIDGET_BYTES = 64 * 1024 * 1024

#: Bytes of the outputs in one `Output` widget.
MAX_OUTPUT_WIDGET_BYTES = 4 * 1024 * 1024

#: The target of the comms that carry widgets (jupyter-widgets protocol 2).
_TARGET = "jupyter.widget"

#: Characters of the id of a comm; ids are hexadecimal numbers of 32 digits.
_MAX_ID_CHARS = 200

#: Bytes that a model takes besides its state.
_OVERHEAD = 1_000


@dataclass(frozen=True)
class WidgetStates:
    """The models of a kernel at one moment, as a notebook keeps them.

    Attributes:
        models: by id.
        opened: the number of each model in the order in which the kernel made them.
    """

    models: Models
    opened: Mapping[str, int]

    def since(self, number: int) -> list[str]:
        """The ids of the models that were made after the first `number` ones."""
        return [model_id for model_id, opened in self.opened.items() if opened >= number]


class _Model:
    """One widget. An `Output` widget has a collector for its outputs."""

    def __init__(self, comm_id: str, opened: int, outputs: OutputCollector | None) -> None:
        self.comm_id = comm_id
        self.opened = opened
        self.outputs = outputs
        self.captures: str | None = None  # the request whose outputs it takes
        self.unsynced = False
        self.counted = 0  # its bytes in the total of the kernel
        self._size = _OVERHEAD
        self._state: dict[str, Any] = {}
        self._buffers: dict[str, list[dict[str, Any]]] = {}
        self._saved: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._size + (self.outputs.used if self.outputs is not None else 0)

    def update(self, state: Mapping[str, Any], buffers: Mapping[str, list[dict[str, Any]]]) -> None:
        """Take new values.

        Raises:
            UnfitError: one of them cannot be kept.
        """
        for name in {**state, **buffers}:  # a value that is all binary is among the buffers only
            key = intern(Cleaner().text(name))  # the members of all widgets of a kind have the same names
            kept = Cleaner().value(state.get(name))
            if key == "outputs" and self.outputs is not None:
                self.outputs.replace(kept if isinstance(kept, list) else [])
                continue
            self._forget(key)
            if name in state:
                self._state[key] = kept
            if name in buffers:
                self._buffers[key] = buffers[name]
            self._size += self._bytes_of(key)
        self._saved = None

    def _forget(self, key: str) -> None:
        self._size -= self._bytes_of(key)
        self._state.pop(key, None)
        self._buffers.pop(key, None)

    def _bytes_of(self, key: str) -> int:
        cleaner = Cleaner()
        if key in self._state:
            cleaner.value(self._state[key])
        return cleaner.size + sum(len(buffer["data"]) for buffer in self._buffers.get(key, []))

    def saved(self) -> dict[str, Any]:
        """The model as nbclient saves it (`NotebookClient.set_widgets_metadata`)."""
        if self._saved is None or self.outputs is not None:  # a display may have changed in the outputs
            state = dict(self._state)
            if self.outputs is not None:
                state["outputs"] = self.outputs.outputs()
            self._saved = {
                "model_name": state.get("_model_name"),
                "model_module": state.get("_model_module"),
                "model_module_version": state.get("_model_module_version"),
                "state": state,
            }
            buffers = [buffer for of_member in self._buffers.values() for buffer in of_member]
            if buffers:
                self._saved["buffers"] = buffers
        return self._saved


class Widgets:
    """The models of the widgets that a kernel process has made, the oldest first.

    Closed models stay, as in nbclient, since an output may show them; over the limit they are the first to go.

    Attributes:
        displays: the displays of the kernel, which may be shown in an `Output` widget, too.
        opened: how many models the kernel has made.
        left_out: open models that were given up because of `MAX_WIDGET_BYTES`.
    """

    def __init__(self) -> None:
        self.displays = Displays()
        self.opened = 0
        self.left_out = 0
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._used = 0
        self._hooks: defaultdict[str, list[_Model]] = defaultdict(list)

    def take(self, msg_type: str, content: Mapping[str, Any], buffers: Sequence[bytes] = ()) -> None:
        """Apply a comm message. Those that carry no widget are ignored."""
        comm_id, data = content.get("comm_id"), member_of(content, "data")
        if not isinstance(comm_id, str) or not comm_id.isascii() or len(comm_id) > _MAX_ID_CHARS:
            return
        state = member_of(data, "state")
        if msg_type == "comm_open":
            if content.get("target_name") == _TARGET and isinstance(state.get("_model_name"), str):
                self._open(comm_id, state["_model_name"] == "OutputModel")
            else:
                return
        model = self._models.get(comm_id)
        if model is None:
            return
        if msg_type == "comm_close":
            self._hook(model, None)
            self._closed[comm_id] = None
        elif data.get("method") != "echo_update":  # the echo of our own message
            try:
                model.update(state, _buffers_of(data.get("buffer_paths"), buffers))
            except UnfitError:  # a model without one of its values would be another widget
                self._give_up(comm_id)
                return
            if "msg_id" in state and model.outputs is not None:
                self._hook(model, str(state["msg_id"] or "") or None)
            self._count(model)

    def _open(self, comm_id: str, is_output: bool) -> None:
        self._forget(comm_id)
        outputs = OutputCollector(self.displays, max_bytes=MAX_OUTPUT_WIDGET_BYTES) if is_output else None
        self._models[comm_id] = _Model(comm_id, self.opened, outputs)
        self.opened += 1

    def _hook(self, model: _Model, msg_id: str | None) -> None:
        """Let an `Output` widget take the outputs of a request, or of none. The last one that asked for them has them.

        The widget inside of another one asks last, and ends first.
        """
        if model.captures is not None:
            hooks = self._hooks[model.captures]
            if model in hooks:
                hooks.remove(model)
            if not hooks:
                del self._hooks[model.captures]
        model.captures = msg_id
        if msg_id is not None:
            self._hooks[msg_id].append(model)

    def capture(self, msg_id: str, msg_type: str, content: Callable[[], Mapping[str, Any]]) -> bool:
        """Give an output message to the `Output` widget that takes the outputs of the request, if there is one.

        Args:
            content: decodes the content.
        """
        if msg_id not in self._hooks or msg_type not in OUTPUT_MESSAGES:
            return False
        model = self._hooks[msg_id][-1]
        assert model.outputs is not None
        model.outputs.take(msg_type, content())
        model.unsynced = True
        self._count(model)
        return True

    def unsynced(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """The outputs of `Output` widgets that the kernel does not know yet, by comm id. Each is given once."""
        found = []
        for comm_id, model in self._models.items():
            if model.unsynced and model.outputs is not None:
                model.unsynced = False
                found.append((comm_id, model.outputs.outputs()))
        return found

    def states(self) -> WidgetStates:
        """All models at this moment."""
        models = {comm_id: model.saved() for comm_id, model in self._models.items()}
        return WidgetStates(models, {comm_id: model.opened for comm_id, model in self._models.items()})

    @property
    def held(self) -> int:
        """Bytes of all states in memory."""
        return self._used

    def models(self) -> Models:
        """All models at this moment, as a notebook keeps them."""
        return self.states().models

    def _count(self, model: _Model) -> None:
        """Count the bytes of a model. If there are too many, it goes if it is very large, else closed and old ones."""
        size = model.size
        self._used += size - model.counted
        model.counted = size
        if size > MAX_WIDGET_BYTES // 2:
            self._give_up(model.comm_id)
        while self._used > MAX_WIDGET_BYTES:
            self._give_up(next(iter(self._closed or self._models)))

    def _give_up(self, comm_id: str) -> None:
        self.left_out += comm_id not in self._closed
        self._forget(comm_id)

    def _forget(self, comm_id: str) -> None:
        model = self._models.pop(comm_id, None)
        self._closed.pop(comm_id, None)
        if model is not None:
            self._hook(model, None)
            self._used -= model.counted


def _buffers_of(paths: Any, buffers: Sequence[bytes]) -> dict[str, list[dict[str, Any]]]:
    """Binary values as nbclient saves them, by the member of the state that they are in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, buffer in zip(paths if isinstance(paths, list) else [], buffers, strict=False):
        if isinstance(path, list) and path and isinstance(path[0], str):
            data = base64.b64encode(buffer).decode()
            kept = Cleaner().value(path)
            found.setdefault(path[0], []).append({"data": data, "encoding": "base64", "path": kept})
    return found
