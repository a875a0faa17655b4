"""What a cell keeps of what it puts out."""

from __future__ import annotations

import gc
import json
import re
import tracemalloc
import weakref
from typing import Any

import pytest

from papermill_mcp.core.kernels import outputs as outputs_module
from papermill_mcp.core.kernels.forms import Bundle
from papermill_mcp.core.kernels.outputs import MAX_CELL_BYTES, MAX_CELL_OUTPUTS, Displays, OutputCollector
from papermill_mcp.core.kernels.streams import STREAM_TAIL_CHARS


@pytest.fixture
def collector() -> OutputCollector:
    return OutputCollector(Displays())


def write(collector: OutputCollector, *texts: str, name: str = "stdout") -> None:
    for text in texts:
        assert collector.take("stream", {"name": name, "text": text})


def display(collector: OutputCollector, text: str, display_id: str | None = None, **content: Any) -> None:
    transient = {"display_id": display_id} if display_id else {}
    data = {"data": {"text/plain": text}, "metadata": {}, "transient": transient, **content}
    assert collector.take("display_data", data)


def update(collector: OutputCollector, text: str, display_id: str | None) -> None:
    data = {"data": {"text/plain": text}, "metadata": {"new": True}, "transient": {"display_id": display_id}}
    assert collector.take("update_display_data", data)


def clear(collector: OutputCollector, *, wait: bool = False) -> None:
    assert collector.take("clear_output", {"wait": wait})


def texts(collector: OutputCollector) -> list[str]:
    """The text of each output."""
    return [
        output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"] for output in collector
    ]


def only_text(collector: OutputCollector) -> str:
    (text,) = texts(collector)
    return text


# Kinds of outputs


def test_each_kind_of_output_is_kept_as_nbformat_has_it(collector: OutputCollector) -> None:
    write(collector, "a")
    display(collector, "b", metadata={"width": 3})
    collector.take("execute_result", {"execution_count": 7, "data": {"text/plain": "c"}, "metadata": {}})
    collector.take("error", {"ename": "E", "evalue": "v", "traceback": ["t"], "execution_count": 7})

    assert collector.outputs() == [
        {"output_type": "stream", "name": "stdout", "text": "a"},
        {"output_type": "display_data", "data": {"text/plain": "b"}, "metadata": {"width": 3}},
        {"output_type": "execute_result", "data": {"text/plain": "c"}, "metadata": {}, "execution_count": 7},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t"]},
    ]


@pytest.mark.parametrize("msg_type", ["status", "execute_input", "comm_open", "comm_msg", "iopub_welcome", "x"])
def test_other_messages_are_no_outputs(msg_type: str, collector: OutputCollector) -> None:
    before = collector.version

    assert not collector.take(msg_type, {"text": "a", "data": {}})
    assert collector.outputs() == []
    assert collector.version == before


@pytest.mark.parametrize("msg_type", ["stream", "display_data", "execute_result", "update_display_data", "error"])
def test_a_message_without_its_members_does_no_harm(msg_type: str, collector: OutputCollector) -> None:
    assert collector.take(msg_type, {})


def test_what_is_new_changes_the_version(collector: OutputCollector) -> None:
    versions = []
    for text in ("a", "b"):
        write(collector, text)
        versions.append(collector.version)
    clear(collector)
    versions.append(collector.version)

    assert versions == sorted(set(versions))


# Streams


def test_a_stream_that_goes_on_is_one_output(collector: OutputCollector) -> None:
    write(collector, "a", "b\nc", "", "d")

    assert only_text(collector) == "ab\ncd"


def test_two_streams_are_merged_only_with_their_own_kind(collector: OutputCollector) -> None:
    write(collector, "a")
    write(collector, "b", name="stderr")
    write(collector, "c")

    assert [(output["name"], output["text"]) for output in collector] == [
        ("stdout", "a"),
        ("stderr", "b"),
        ("stdout", "c"),
    ]


def test_a_display_between_parts_a_stream(collector: OutputCollector) -> None:
    write(collector, "a")
    display(collector, "x")
    write(collector, "b")

    assert texts(collector) == ["a", "x", "b"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["10%\r20%"], "20%"),
        (["10%", "\r", "20%"], "20%"),
        (["100%\r5%"], "5%0%"),
        (["a\r\nb"], "a\nb"),
        (["a\r", "\nb"], "a\nb"),
        (["a\rb\nc\rd"], "b\nd"),
        (["one\ntwo\rTWO\n"], "one\nTWO\n"),
        (["abc\r"], "abc"),
        (["abc\r", "x"], "xbc"),
        (["\r\r\rabc"], "abc"),
        (["abc\x08d"], "abd"),
        (["abc\x08\x08\x08\x08x"], "xbc"),
        (["a\n\x08b"], "a\nb"),
        (["abc\x08"], "abc"),
        (["abc\rxy\x08z"], "xzc"),
        (["äö\rü"], "üö"),
    ],
)
def test_carriage_returns_and_backspaces_write_over_the_line(
    parts: list[str], expected: str, collector: OutputCollector
) -> None:
    write(collector, *parts)

    assert only_text(collector) == expected


def test_a_carriage_return_does_not_reach_behind_another_output(collector: OutputCollector) -> None:
    write(collector, "abc")
    display(collector, "x")
    write(collector, "\rd")

    assert texts(collector) == ["abc", "x", "d"]


def test_a_progress_bar_of_many_steps_is_one_line(collector: OutputCollector) -> None:
    for step in range(10_000):
        write(collector, f"\r{step:5} of 10000")

    assert only_text(collector) == " 9999 of 10000"


def test_the_last_line_is_there_before_it_ends(collector: OutputCollector) -> None:
    write(collector, "one\ntwo")
    assert collector.last_line() == "two"
    write(collector, "\n")
    assert collector.last_line() == "two"
    display(collector, "x")
    assert collector.last_line() == "two"


def test_without_text_there_is_no_last_line(collector: OutputCollector) -> None:
    display(collector, "x")

    assert collector.last_line() == ""


# clear_output


def test_clearing_drops_what_there_is(collector: OutputCollector) -> None:
    write(collector, "a")
    display(collector, "b")
    clear(collector)

    assert collector.outputs() == []


def test_clearing_with_wait_drops_it_only_when_something_new_comes(collector: OutputCollector) -> None:
    write(collector, "a")
    clear(collector, wait=True)
    assert texts(collector) == ["a"]

    write(collector, "b")
    assert texts(collector) == ["b"]


@pytest.mark.parametrize("kind", ["stream", "display", "result", "error"])
def test_every_kind_of_output_ends_the_wait(kind: str, collector: OutputCollector) -> None:
    write(collector, "old")
    clear(collector, wait=True)
    match kind:
        case "stream":
            write(collector, "new")
        case "display":
            display(collector, "new")
        case "result":
            collector.take("execute_result", {"data": {"text/plain": "new"}, "metadata": {}, "execution_count": 1})
        case "error":
            collector.take("error", {"ename": "new", "evalue": "", "traceback": []})

    assert len(collector.outputs()) == 1
    assert "new" in str(collector.outputs())


def test_a_wait_ends_once(collector: OutputCollector) -> None:
    clear(collector, wait=True)
    write(collector, "a")
    display(collector, "b")

    assert texts(collector) == ["a", "b"]


def test_clearing_again_and_again_leaves_the_last_state(collector: OutputCollector) -> None:
    for step in range(5000):
        clear(collector, wait=True)
        display(collector, str(step))

    assert texts(collector) == ["4999"]
    assert collector.omitted_outputs == 0


def test_clearing_gives_the_room_back(collector: OutputCollector) -> None:
    write(collector, "x" * 79 + "\n")
    display(collector, "y" * MAX_CELL_BYTES)
    assert "not kept" in texts(collector)[1]
    clear(collector)
    display(collector, "y" * (MAX_CELL_BYTES - 2_000))

    assert len(only_text(collector)) == MAX_CELL_BYTES - 2_000


# Display updates


def test_an_update_changes_the_display_of_its_id(collector: OutputCollector) -> None:
    display(collector, "a", "one")
    display(collector, "b", "two")
    display(collector, "c")
    update(collector, "A", "one")

    assert texts(collector) == ["A", "b", "c"]
    assert collector.outputs()[0]["metadata"] == {"new": True}


def test_an_update_changes_every_display_of_its_id() -> None:
    shared = Displays()
    first, second = OutputCollector(shared), OutputCollector(shared)
    display(first, "a", "one")
    display(first, "a", "one")
    display(second, "a", "one")
    update(second, "b", "one")

    assert texts(first) == ["b", "b"]
    assert texts(second) == ["b"]


def test_an_update_reaches_a_display_of_an_earlier_cell() -> None:
    shared = Displays()
    first, second = OutputCollector(shared), OutputCollector(shared)
    display(first, "a", "one")
    update(second, "b", "one")

    assert texts(first) == ["b"]
    assert second.outputs() == []


def test_an_update_by_another_cell_is_news_of_the_cell_that_displayed() -> None:
    """Its outputs in the file must be saved again."""
    shared = Displays()
    first, second = OutputCollector(shared), OutputCollector(shared)
    display(first, "a", "one")
    before = first.version
    update(second, "b", "one")

    assert first.version > before


def test_an_update_of_an_unknown_id_shows_nothing(collector: OutputCollector) -> None:
    display(collector, "a")
    update(collector, "b", "one")
    update(collector, "b", None)

    assert texts(collector) == ["a"]


def test_many_updates_are_one_output(collector: OutputCollector) -> None:
    display(collector, "start", "one")
    for step in range(5000):
        update(collector, str(step), "one")

    assert texts(collector) == ["4999"]
    assert collector.omitted_outputs == 0


def test_an_update_cannot_outgrow_the_room_of_a_cell(collector: OutputCollector) -> None:
    display(collector, "a", "one")
    update(collector, "b" * (MAX_CELL_BYTES + 1), "one")

    assert "not kept" in only_text(collector)
    assert collector.faults


# Limits


def test_outputs_over_the_limit_are_counted_exactly(collector: OutputCollector) -> None:
    for number in range(MAX_CELL_OUTPUTS + 123):
        display(collector, str(number))

    shown = collector.outputs()
    assert len(shown) == MAX_CELL_OUTPUTS + 1
    assert shown[-2]["data"]["text/plain"] == str(MAX_CELL_OUTPUTS - 1)
    assert shown[-1]["name"] == "stderr"
    assert "[123 further outputs not kept" in shown[-1]["text"]


def test_as_many_outputs_as_may_be_kept_come_without_a_notice(collector: OutputCollector) -> None:
    for number in range(MAX_CELL_OUTPUTS):
        display(collector, str(number))

    assert len(collector.outputs()) == MAX_CELL_OUTPUTS


def test_a_form_that_does_not_fit_costs_itself_only(collector: OutputCollector) -> None:
    display(collector, "", data={"text/html": "x" * (MAX_CELL_BYTES + 1), "text/plain": "a table"})
    display(collector, "small")

    assert texts(collector) == ["a table", "small"]
    assert "not kept" in collector.outputs()[0]["data"]["text/html"]
    assert "text/html" in collector.faults[0]


def test_displays_for_which_there_is_no_room_at_all_are_counted(collector: OutputCollector) -> None:
    write(collector, ("x" * 99 + "\n") * (MAX_CELL_BYTES // 100 + 10))
    display(collector, "x")
    display(collector, "y")

    assert collector.omitted_outputs == 2


@pytest.mark.case("O03")
def test_what_is_kept_counts_as_many_bytes_as_it_has() -> None:
    contents: list[tuple[str, dict[str, Any]]] = [
        ("stream", {"name": "stdout", "text": "é€😀" * 100_000}),
        ("stream", {"name": "stderr", "text": "no end of the line" * 10_000}),
        ("display_data", {"data": {"application/json": [{"a": number / 3} for number in range(10_000)]}}),
        ("display_data", {"data": {"text/plain": ""}, "metadata": {"a": ["x" * 1_000] * 500}}),
        ("error", {"ename": "E", "evalue": "", "traceback": ["x" * 100_000] * 5}),
    ]
    for msg_type, content in contents:
        collector = OutputCollector(Displays())
        message = json.loads(json.dumps(content))
        gc.collect()
        tracemalloc.start()
        collector.take(msg_type, json.loads(json.dumps(message)))
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert 0.7 * taken < collector.held < 1.6 * taken, msg_type


def test_streams_that_take_turns_keep_one_tail(collector: OutputCollector) -> None:
    for number in range(200):
        write(collector, "x" * 1_000_000, name="stdout" if number % 2 else "stderr")

    assert collector.held < MAX_CELL_BYTES + 3 * STREAM_TAIL_CHARS
    assert collector.dropped_chars > 180_000_000


def test_errors_without_end_are_kept_in_short_and_then_counted(collector: OutputCollector) -> None:
    for number in range(100):
        collector.take("error", {"ename": f"E{number}", "evalue": "", "traceback": ["x" * 500_000]})

    assert collector.held < MAX_CELL_BYTES + 100_000
    assert collector.omitted_outputs > 50
    assert collector.failure is not None
    assert collector.failure["ename"] == "E99"


@pytest.mark.case("O03")
def test_displays_keep_no_output_alive() -> None:
    shared = Displays()
    collector = OutputCollector(shared)
    display(collector, "a", "one")
    item = weakref.ref(collector._items[0])
    clear(collector, wait=True)
    display(collector, "b", "one")

    assert item() is None
    first = weakref.ref(collector)
    del collector
    assert first() is None
    shared.update("one", Bundle.of({"data": {"text/plain": "c"}}))


def test_outputs_that_are_given_up_leave_the_error(collector: OutputCollector) -> None:
    display(collector, "x" * 10_000)
    collector.take("error", {"ename": "E", "evalue": "v", "traceback": ["x" * 10_000]})
    collector.forget()

    assert (collector.outputs(), collector.forgotten) == ([], True)
    assert collector.held < 1_000
    assert collector.failure == {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []}


def test_an_error_is_kept_however_full_the_cell_is(collector: OutputCollector) -> None:
    write(collector, ("x" * 99 + "\n") * (MAX_CELL_BYTES // 100 + 10))
    collector.take("error", {"ename": "E", "evalue": "", "traceback": []})

    assert collector.outputs()[1]["ename"] == "E"


def test_a_stream_of_the_size_that_is_kept_is_whole(collector: OutputCollector) -> None:
    line = "x" * 1023 + "\n"
    for _ in range(MAX_CELL_BYTES // 1024):
        write(collector, line)

    assert only_text(collector) == line * (MAX_CELL_BYTES // 1024)


def test_of_a_longer_stream_the_beginning_and_the_end_are_kept_with_the_exact_number_between(
    collector: OutputCollector,
) -> None:
    lines = [f"{number:07}\n" for number in range(3_000_000)]  # 24 MB
    whole = "".join(lines)
    for start in range(0, len(whole), 100_000):
        write(collector, whole[start : start + 100_000])

    text = only_text(collector)
    head, notice, _ = re.split(r"\n(\[… .* …\])\n", text)
    tail = text[-STREAM_TAIL_CHARS:]
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert 0 <= MAX_CELL_BYTES - len(head) < 1_000  # the stream itself takes a little
    dropped = len(whole) - len(head) - STREAM_TAIL_CHARS
    assert f"{dropped:,} characters not kept" in notice


def test_one_line_without_an_end_is_bounded_too(collector: OutputCollector) -> None:
    for _ in range(50):
        write(collector, "x" * 1_000_000)

    text = only_text(collector)
    assert len(text) <= MAX_CELL_BYTES + 2 * STREAM_TAIL_CHARS + 200
    kept = text.count("x")
    assert f"{50_000_000 - kept:,} characters not kept" in text


def test_a_line_that_is_written_over_again_and_again_takes_no_room(collector: OutputCollector) -> None:
    for _ in range(200):
        write(collector, "x" * 100_000 + "\r")
    display(collector, "y" * (MAX_CELL_BYTES - 100_000))

    assert collector.omitted_outputs == 0


def test_a_message_too_large_to_decode_is_told_with_its_limit(collector: OutputCollector) -> None:
    write(collector, "a")
    collector.note_too_large("display_data", 70_000_000)

    reported = str(collector.outputs())
    assert "70,000,000 bytes (display_data)" in reported
    assert "64 MiB" in reported
    assert "further outputs" not in reported  # said once, with the limit that it is over


def test_reading_the_outputs_does_not_change_them(collector: OutputCollector) -> None:
    write(collector, "a\nb\rc")
    first = collector.outputs()
    write(collector, "d")

    assert first[0]["text"] == "a\nc"
    assert only_text(collector) == "a\ncd"


def test_the_limits_are_the_published_ones() -> None:
    assert outputs_module.MAX_CELL_BYTES == 10 * 1024 * 1024
    assert outputs_module.MAX_CELL_OUTPUTS == 5000
