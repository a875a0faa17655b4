"""The models of widgets: how they follow comm messages, how much they take, and which of them a notebook keeps."""

from __future__ import annotations

from typing import Any

import pytest

from papermill_mcp.core.kernels.outputs import OutputCollector
from papermill_mcp.core.kernels.widgets import MAX_OUTPUT_WIDGET_BYTES, MAX_WIDGET_BYTES, Widgets
from papermill_mcp.core.widget_state import STATE_TYPE, VIEW_TYPE, merged, text_of, with_text


@pytest.fixture
def widgets() -> Widgets:
    return Widgets()


def opened(widgets: Widgets, comm_id: str, name: str = "IntSliderModel", **state: Any) -> None:
    state = {"_model_name": name, "_model_module": "m", "_model_module_version": "1.0", **state}
    widgets.take("comm_open", {"comm_id": comm_id, "target_name": "jupyter.widget", "data": {"state": state}})


def updated(widgets: Widgets, comm_id: str, **state: Any) -> None:
    widgets.take("comm_msg", {"comm_id": comm_id, "data": {"method": "update", "state": state}})


def printed(widgets: Widgets, request: str, text: str) -> bool:
    return widgets.capture(request, "stream", lambda: {"name": "stdout", "text": text})


def state_of(widgets: Widgets, comm_id: str) -> dict[str, Any]:
    state: dict[str, Any] = widgets.models()[comm_id]["state"]
    return state


def view(model_id: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "X()", VIEW_TYPE: {"model_id": model_id}}}


# Following the kernel


def test_a_model_has_its_last_values_in_the_form_that_nbclient_saves(widgets: Widgets) -> None:
    opened(widgets, "a", value=1, min=0)
    updated(widgets, "a", value=2)
    widgets.take("comm_msg", {"comm_id": "a", "data": {"method": "echo_update", "state": {"value": 9}}})
    widgets.take("comm_msg", {"comm_id": "a", "data": {"method": "custom", "content": {}}})

    assert widgets.models()["a"] == {
        "model_name": "IntSliderModel",
        "model_module": "m",
        "model_module_version": "1.0",
        "state": {
            "_model_name": "IntSliderModel",
            "_model_module": "m",
            "_model_module_version": "1.0",
            "value": 2,
            "min": 0,
        },
    }


def test_binary_values_are_kept_until_they_are_replaced(widgets: Widgets) -> None:
    opened(widgets, "a", "ImageModel")
    data = {"method": "update", "state": {"list": [None]}, "buffer_paths": [["value"], ["list", 0]]}
    widgets.take("comm_msg", {"comm_id": "a", "data": data}, [b"abc", b"de"])
    first = widgets.models()["a"]["buffers"]
    updated(widgets, "a", list=[])

    assert [(buffer["path"], buffer["data"]) for buffer in first] == [(["list", 0], "ZGU="), (["value"], "YWJj")]
    assert [buffer["path"] for buffer in widgets.models()["a"]["buffers"]] == [["value"]]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"comm_id": 5, "data": {"state": {"_model_name": "X"}}},
        {"comm_id": "\ud800", "target_name": "jupyter.widget", "data": {"state": {"_model_name": "X"}}},
        {"comm_id": "a", "target_name": "other", "data": {"state": {"_model_name": "X"}}},
        {"comm_id": "a", "target_name": "jupyter.widget", "data": None},
        {"comm_id": "a", "target_name": "jupyter.widget", "data": {"state": [1]}},
        {"comm_id": "a", "target_name": "jupyter.widget", "data": {"state": {"_model_name": 5}}},
    ],
)
@pytest.mark.parametrize("msg_type", ["comm_open", "comm_msg", "comm_close"])
def test_other_comms_and_malformed_messages_are_ignored(msg_type: str, content: Any, widgets: Widgets) -> None:
    widgets.take(msg_type, content)

    assert widgets.models() == {}


def test_outputs_go_to_the_widget_that_asked_last_until_it_lets_go(widgets: Widgets) -> None:
    for name in ("outer", "inner"):
        opened(widgets, name, "OutputModel", outputs=[], msg_id="")
        updated(widgets, name, msg_id="request")
    assert printed(widgets, "request", "2")
    assert not printed(widgets, "another request", "x")
    updated(widgets, "inner", msg_id="")
    assert printed(widgets, "request", "3")
    updated(widgets, "outer", msg_id="")
    assert not printed(widgets, "request", "4")

    assert [state_of(widgets, name)["outputs"][0]["text"] for name in ("inner", "outer")] == ["2", "3"]
    assert state_of(widgets, "outer")["msg_id"] == ""


def test_a_closed_widget_takes_no_more_outputs_and_stays(widgets: Widgets) -> None:
    opened(widgets, "a", "OutputModel", outputs=[], msg_id="request")
    widgets.take("comm_close", {"comm_id": "a", "data": {}})

    assert not printed(widgets, "request", "x")
    assert "a" in widgets.models()


def test_clearing_inside_of_a_widget_leaves_the_cell(widgets: Widgets) -> None:
    cell = OutputCollector(widgets.displays)
    cell.take("stream", {"name": "stdout", "text": "of the cell"})
    opened(widgets, "a", "OutputModel", outputs=[], msg_id="request")
    printed(widgets, "request", "old")
    widgets.capture("request", "clear_output", lambda: {"wait": True})
    printed(widgets, "request", "new")

    assert [output["text"] for output in state_of(widgets, "a")["outputs"]] == ["new"]
    assert cell.text() == "of the cell"


def test_the_kernel_is_told_each_change_of_captured_outputs_once(widgets: Widgets) -> None:
    opened(widgets, "a", "OutputModel", outputs=[], msg_id="request")
    printed(widgets, "request", "x")

    assert [(comm_id, outputs[0]["text"]) for comm_id, outputs in widgets.unsynced()] == [("a", "x")]
    assert widgets.unsynced() == []


def test_outputs_that_the_kernel_sets_itself_take_the_place_of_others(widgets: Widgets) -> None:
    opened(widgets, "a", "OutputModel", outputs=[], msg_id="")
    updated(widgets, "a", outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}, 5, {"output_type": "?"}])

    assert state_of(widgets, "a")["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "x"}]


# Memory


@pytest.mark.case("O03")
def test_closed_models_go_first_and_then_the_oldest(widgets: Widgets) -> None:
    opened(widgets, "first", value="x" * 1_000_000)
    opened(widgets, "closed", value="x" * 1_000_000)
    widgets.take("comm_close", {"comm_id": "closed"})
    for number in range(MAX_WIDGET_BYTES // 1_000_000):
        opened(widgets, f"later {number}", value="x" * 1_000_000)

    assert widgets.held <= MAX_WIDGET_BYTES
    assert "closed" not in widgets.models()
    assert "first" not in widgets.models()
    assert "later 0" in widgets.models()
    assert widgets.left_out == 1  # an open one


@pytest.mark.case("O03")
def test_a_very_large_model_costs_itself_only(widgets: Widgets) -> None:
    opened(widgets, "small")
    opened(widgets, "large", value=[0.5] * (MAX_WIDGET_BYTES // 8))

    assert list(widgets.models()) == ["small"]
    assert widgets.left_out == 1


@pytest.mark.case("O03")
def test_outputs_in_widgets_count(widgets: Widgets) -> None:
    for number in range(MAX_WIDGET_BYTES // MAX_OUTPUT_WIDGET_BYTES + 2):
        opened(widgets, str(number), "OutputModel", outputs=[], msg_id=f"request {number}")
        for _ in range(30):
            printed(widgets, f"request {number}", ("x" * 99 + "\n") * 2_000)

    assert widgets.held <= MAX_WIDGET_BYTES
    assert len(str(state_of(widgets, "9"))) <= MAX_OUTPUT_WIDGET_BYTES + 2**21
    assert "0" not in widgets.models()


def test_a_widget_that_is_updated_for_ever_takes_no_more_room(widgets: Widgets) -> None:
    opened(widgets, "a", value=0)
    before = widgets.held
    for number in range(10_000):
        updated(widgets, "a", value=number % 200)

    assert widgets.held <= before + 8


# In a notebook


def model(**state: Any) -> dict[str, Any]:
    return {"model_name": "X", "model_module": "m", "model_module_version": "1", "state": state}


def kept(metadata: dict[str, Any], **arguments: Any) -> set[str]:
    whole = merged(metadata, **{"live": {}, "fresh": [], "outputs": [], **arguments})
    return set(whole.get(STATE_TYPE, {}).get("state", {}))


def stored(**models: Any) -> dict[str, Any]:
    return {"widgets": {STATE_TYPE: {"state": models, "version_major": 2, "version_minor": 0}}}


def test_models_that_no_output_shows_are_stale() -> None:
    assert kept(stored(old=model(), shown=model()), outputs=[view("shown")]) == {"shown"}
    assert merged(stored(old=model()), {}, [], []) == {}


def test_a_model_that_the_run_made_stays_without_an_output() -> None:
    assert kept({}, live={"new": model(), "before": model()}, fresh=["new"]) == {"new"}


def test_models_that_are_connected_with_a_shown_one_stay() -> None:
    live = {
        "box": model(children=["IPY_MODEL_slider", "IPY_MODEL_out"]),
        "slider": model(layout="IPY_MODEL_layout"),
        "layout": model(),
        "link": model(source=["IPY_MODEL_slider", "value"]),
        "out": model(outputs=[view("inner")]),
        "inner": model(),
        "other": model(),
    }

    assert kept({}, live=live, outputs=[view("box")]) == set(live) - {"other"}


def test_the_kernel_knows_a_model_better_than_the_file() -> None:
    whole = merged(stored(a=model(value=1)), {"a": model(value=2)}, [], [view("a")])

    assert whole[STATE_TYPE]["state"]["a"]["state"] == {"value": 2}


def test_other_members_of_the_widgets_stay() -> None:
    metadata = {"widgets": {"application/x+json": {"a": 1}, STATE_TYPE: {"state": {"old": model()}}}}

    assert merged(metadata, {}, [], []) == {"application/x+json": {"a": 1}}


@pytest.mark.parametrize("widgets", [None, 5, [], {STATE_TYPE: None}, {STATE_TYPE: {"state": [1]}}, {STATE_TYPE: {"state": {"a": 5}}}])
def test_malformed_states_in_a_file_do_no_harm(widgets: Any) -> None:
    assert kept({"widgets": widgets}, live={"new": model()}, fresh=["new"], outputs=[view("new"), 5, {}]) == {"new"}


# As text


@pytest.mark.parametrize(
    ("name", "state", "text"),
    [
        ("IntSliderModel", {"value": 3, "description": "x"}, "(IntSlider: x = 3)"),
        ("ButtonModel", {"description": "go"}, "(Button: go)"),
        ("FloatProgressModel", {"min": 0, "max": 10, "value": 5}, "|█████     | 5/10"),
        ("FloatProgressModel", {"min": 0, "max": 0, "value": 0}, ""),
        ("HTMLModel", {"value": "<b>5</b> &lt; 6"}, "5 < 6"),
        ("OutputModel", {"outputs": [{"output_type": "stream", "text": "a\n"}, view("b")]}, "a\nX()\n"),
        ("OutputModel", {"outputs": [{"output_type": "error", "ename": "E", "evalue": "v"}, 5]}, "E: v\n"),
        ("OutputModel", {"outputs": 5}, ""),
        ("VBoxModel", {"children": ["IPY_MODEL_none", 5]}, ""),
        ("OtherModel", {"value": {"a": 1}}, "(Other)"),
    ],
)
def test_a_widget_as_text(name: str, state: dict[str, Any], text: str) -> None:
    assert text_of("a", {"a": {"model_name": name, "state": state}}) == text


def test_a_box_that_is_inside_of_itself_has_an_end() -> None:
    models = {"a": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_a"] * 3}}}

    assert len(text_of("a", models)) <= 10_000


def test_the_text_of_an_output_is_that_of_the_widget_now() -> None:
    models = {"a": {"model_name": "IntSliderModel", "state": {"value": 7}}}
    shown, unknown = with_text([view("a"), view("b")], lambda: models)

    assert shown["data"]["text/plain"] == "(IntSlider = 7)"
    assert unknown["data"]["text/plain"] == "X()"
