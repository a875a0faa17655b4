"""The guard between bytes and messages: its pure part, and the whole of it over pipes of this process."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from helpers import Json
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from papermill_mcp.server import json_rpc
from papermill_mcp.server.json_rpc import (
    LINE_TOO_LONG,
    MAX_DEPTH,
    LineSplitter,
    NotEncodableError,
    Refusal,
    encode,
    read_line,
)
from papermill_mcp.server.transport import MAX_IN_FLIGHT, ProtocolGuard

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
any_text = st.text(max_size=20)  # halves of surrogate pairs, too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
ids = st.integers() | text
requests = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": ids, "method": text},
    optional={"params": st.dictionaries(text, values, max_size=4), "extra": values},
)


def line(message: Any, *, ascii_only: bool = True) -> bytes:
    return json.dumps(message, ensure_ascii=ascii_only).encode()


# Lines


@given(st.lists(st.binary(max_size=12).map(lambda part: part.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(lines)
    splitter = LineSplitter(limit=8)
    found: list[bytes | None] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += splitter.feed(whole[:size])
        whole = whole[size:]
    found += splitter.end()

    assert found == [part if len(part) <= 8 else None for part in lines or [b""]]


def test_a_line_without_end_is_not_kept() -> None:
    splitter = LineSplitter(limit=1000)
    found = [splitter.feed(b"x" * 100) for _ in range(1000)]

    assert [lines for lines in found if lines] == [[None]]
    assert splitter._parts == []
    assert splitter.feed(b"x\nnext\n") == [b"next"]


@given(st.binary(max_size=200))
def test_any_bytes_have_at_most_one_answer(data: bytes) -> None:
    outcome = read_line(data.replace(b"\n", b""))

    if isinstance(outcome, Refusal):
        answer = outcome.encoded()
        assert answer.count(b"\n") == 1
        assert json.loads(answer)["error"]["code"] < 0


@given(requests, st.booleans())
def test_a_well_formed_request_is_read_as_it_is(message: Json, ascii_only: bool) -> None:
    assert read_line(line(message, ascii_only=ascii_only)) == message


@given(requests, st.data())
def test_a_damaged_request_is_read_as_json_reads_it_or_refused(message: Json, data: st.DataObject) -> None:
    damaged = bytearray(line(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        cut = data.draw(st.integers(0, 3))
        damaged[at : at + cut] = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b"\\", b"1"]))
    outcome = read_line(bytes(damaged).replace(b"\n", b""))

    if isinstance(outcome, dict):
        assert outcome == json.loads(bytes(damaged).replace(b"\n", b"").decode())
        assert outcome["jsonrpc"] == "2.0"
    elif isinstance(outcome, Refusal) and outcome.id is not None:
        assert outcome.id == json.loads(damaged.replace(b"\n", b"").decode())["id"]


def test_nesting_is_bounded_and_a_long_list_is_not_nesting() -> None:
    def nested(depth: int) -> bytes:
        inner = b"[" * (depth - 2) + b"]" * (depth - 2)
        return b'{"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"a": %s}}' % inner

    assert isinstance(read_line(nested(MAX_DEPTH)), dict)
    refused = read_line(nested(MAX_DEPTH + 1))
    assert isinstance(refused, Refusal)
    assert (refused.id, refused.code) == (1, -32600)
    refused = read_line(nested(100_000))
    assert isinstance(refused, Refusal)
    assert refused.code == -32700
    wide = {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"a": [[]] * 10_000, "b": "[" * 1000}}
    assert read_line(line(wide)) == wide


def test_an_id_is_recovered_where_it_is_not_in_doubt() -> None:
    def id_of_refusal(text: str) -> Any:
        refused = read_line(text.encode())
        assert isinstance(refused, Refusal), text
        return refused.id

    assert id_of_refusal('{"jsonrpc": "2.0", "id": 5, "method": "m", "params": {"id": 1, "id": 2}}') == 5
    assert id_of_refusal('{"jsonrpc": "2.0", "id": 5, "method": "m", "params": {"a": 1, "a": 2}}') == 5
    assert id_of_refusal('{"jsonrpc": "2.0", "id": 5, "id": 5, "method": "m"}') is None
    assert id_of_refusal('{"jsonrpc": "2.0", "id": 5.0, "method": "m"}') is None
    assert id_of_refusal('{"jsonrpc": "2.0", "id": "\\udc00", "method": "m"}') is None


@pytest.mark.parametrize("escape", ["\\ud83d\\ude00", "\\\\ud800", "\\uD83D\\uDE00"])
def test_escapes_that_are_text_are_let_through(escape: str) -> None:
    message = f'{{"jsonrpc": "2.0", "id": 1, "method": "m", "params": {{"a": "{escape}"}}}}'
    assert read_line(message.encode()) == json.loads(message)


_OK = '"jsonrpc": "2.0"'


@pytest.mark.parametrize(
    ("text", "code", "known_id", "words"),
    [
        ("{", -32700, None, "not JSON (Expecting property name"),
        ("17", -32700, None, "not a JSON object"),
        ("\ufeff{}", -32700, None, "byte order mark"),
        ("Content-Length: 20", -32700, None, "not by Content-Length"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": NaN}}}}', -32600, 1, "NaN is not JSON"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": 1e999}}}}', -32600, 1, "too large"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": {"9" * 5000}}}}}', -32600, 1, "5000 digits"),
        ("[]", -32600, None, "batching is not supported"),
        ('{"id": 1, "method": "m"}', -32600, 1, '"jsonrpc" must be "2.0"'),
        ('{"jsonrpc": "1.0", "method": "m"}', -32600, None, '"jsonrpc" must be "2.0"'),
        (f'{{{_OK}, "id": 7}}', -32600, 7, "neither"),
        (f'{{{_OK}, "id": "a", "method": 3}}', -32600, "a", '"method" must be a string'),
        (f'{{{_OK}, "id": true, "method": "m"}}', -32600, None, '"id" must be'),
        (f'{{{_OK}, "id": null, "method": "m"}}', -32600, None, '"id" must be'),
        (f'{{{_OK}, "id": "{"x" * 1001}", "method": "m"}}', -32600, None, '"id" must be'),
        (f'{{{_OK}, "id": 1, "method": "m", "params": [1]}}', -32602, 1, '"params" must be an object'),
        (f'{{{_OK}, "id": 1, "method": "{"m" * 201}"}}', -32601, 1, "201 characters"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": 1, "a": 1}}}}', -32600, 1, "more than once"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": "\\ud800"}}}}', -32600, 1, "half of a surrogate"),
        (f'{{{_OK}, "id": 1, "method": "m", "params": {{"a": "\\uD800"}}}}', -32600, 1, "half of a surrogate"),
    ],
)
def test_each_flaw_has_its_code_its_id_and_its_words(text: str, code: int, known_id: Any, words: str) -> None:
    refused = read_line(text.encode())

    assert isinstance(refused, Refusal)
    assert (refused.code, refused.id) == (code, known_id)
    assert words in refused.message


def test_bytes_that_are_not_utf8_are_named_by_their_place() -> None:
    refused = read_line(b'{"a": "\xff"}')
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.id) == (-32700, None)
    assert "not UTF-8 (byte 8)" in refused.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \r",
        f'{{{_OK}, "method": "m", "params": [1]}}',  # a notification
        '{"result": 1, "id": 1}',  # a response
        '{"error": {}, "id": 1}',
    ],
)
def test_what_wants_no_answer_gets_none_though_it_is_malformed(text: str) -> None:
    assert read_line(text.encode()) is None


@pytest.mark.parametrize("text", [f'{{{_OK}, "id": 1, "result": {{}}}}', f'{{{_OK}, "id": 1, "error": {{"code": 1}}}}'])
def test_responses_are_passed_on(text: str) -> None:
    assert read_line(text.encode()) == json.loads(text)


def test_a_message_of_the_greatest_size_is_sent_and_no_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(encode({"a": "x" * 100}))
    monkeypatch.setattr(json_rpc, "MAX_MESSAGE_BYTES", size)
    assert len(encode({"a": "x" * 100})) == size
    with pytest.raises(NotEncodableError, match=f"{size + 1} bytes"):
        encode({"a": "x" * 101})


# Messages that are sent

odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=4) | st.just(object()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


@given(odd_values)
def test_whatever_is_encoded_is_json(value: Any) -> None:
    def constant(name: str) -> None:
        raise AssertionError(name)

    try:
        data = encode({"value": value})
    except NotEncodableError:
        return
    json.loads(data.decode(), parse_constant=constant)
    assert b"\n" not in data


@pytest.mark.parametrize("value", [float("nan"), [float("-inf")], "\ud800", {"\ud800": 1}, b"\xff", object()])
def test_what_is_not_json_is_not_encoded(value: Any) -> None:
    with pytest.raises(NotEncodableError):
        encode({"value": value, "text": "NaN"})


def test_words_for_numbers_that_are_not_json_may_be_text() -> None:
    assert json.loads(encode({"a": "NaN", "b": "Infinity"})) == {"a": "NaN", "b": "Infinity"}


# The whole guard, with a server that answers each request with its parameters


class Echo:
    """What reached the server, and what it is to answer with."""

    def __init__(self) -> None:
        self.requests: list[JSONRPCRequest] = []
        self.others: list[Any] = []
        self.held: list[JSONRPCRequest] = []

    async def serve(self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]) -> None:
        async for item in from_client:
            message = item.message
            if not isinstance(message, JSONRPCRequest):
                self.others.append(message)
                continue
            self.requests.append(message)
            if message.method == "hold":
                self.held.append(message)
            else:
                await to_client.send(SessionMessage(answer_to(message)))


def answer_to(request: JSONRPCRequest) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=request.id, result=request.params or {})


async def through_guard(data: bytes, echo: Echo, *, blocking: bool = True) -> list[Json]:
    """All answers to an input."""
    (source, to_source), (from_sink, sink) = os.pipe(), os.pipe()
    for descriptor in (source, sink):
        os.set_blocking(descriptor, blocking)
    written = asyncio.create_task(asyncio.to_thread(_write_and_close, to_source, data))
    read = asyncio.create_task(asyncio.to_thread(_read_all, from_sink))
    async with asyncio.timeout(20):
        await ProtocolGuard(source, sink).serve(echo.serve)
        os.close(sink)
        os.close(source)
        await written
        return [json.loads(answer) for answer in (await read).splitlines()]


def _write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        requests.map(line)
        | st.binary(max_size=60).map(lambda part: part.replace(b"\n", b""))
        | requests.map(lambda message: line(message)[:-5])
        | requests.map(lambda message: line(message | {"params": [1]}))
        | requests.map(lambda message: line({key: value for key, value in message.items() if key != "id"})),
        max_size=10,
    )
)
def test_each_line_has_at_most_one_answer_and_each_request_reaches_the_server_once(lines: list[bytes]) -> None:
    echo = Echo()
    answers = asyncio.run(through_guard(b"\n".join(lines), echo))

    outcomes = [read_line(one) for one in lines]
    passed = [message for message in outcomes if isinstance(message, dict) and "id" in message and "method" in message]
    refused = [outcome.id for outcome in outcomes if isinstance(outcome, Refusal)]
    # The same id twice may meet in flight: then the second is refused, which is one answer, too.
    assert Counter(answer["id"] for answer in answers) == Counter([message["id"] for message in passed] + refused)
    reached = Counter(request.id for request in echo.requests)
    keys = Counter(coerce_request_id(message["id"]) for message in passed)
    for message in passed:
        if keys[coerce_request_id(message["id"])] == 1:
            assert reached[message["id"]] == 1
    assert reached.keys() <= {message["id"] for message in passed}


async def test_descriptors_that_do_not_block_are_waited_for() -> None:
    """Some clients hand such descriptors on. A message may be larger than what a pipe takes at once."""
    big = {"text": "x" * 1_000_000}
    messages = [{"jsonrpc": "2.0", "id": number, "method": "m", "params": big} for number in range(3)]
    answers = await through_guard(b"\n".join(map(line, messages)), Echo(), blocking=False)

    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert all(answer["result"] == big for answer in answers)


async def test_input_and_output_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(line({"jsonrpc": "2.0", "id": 1, "method": "m"}) + b"\njunk")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        await ProtocolGuard(source.fileno(), sink.fileno()).serve(Echo().serve)

    answers = [json.loads(answer) for answer in (tmp_path / "out").read_text().splitlines()]
    assert {answer["id"] for answer in answers} == {1, None}


async def test_requests_in_flight_are_counted_until_they_are_answered_or_given_up() -> None:
    echo = Echo()
    held = [line({"jsonrpc": "2.0", "id": number, "method": "hold"}) for number in range(MAX_IN_FLIGHT)]
    more = [line({"jsonrpc": "2.0", "id": name, "method": "m"}) for name in ("one", "two")]
    again = [held[3], line({"jsonrpc": "2.0", "id": "3", "method": "m"})]
    answers = await through_guard(b"\n".join([*held, *more, *again, b""]), echo)

    assert len(echo.requests) == MAX_IN_FLIGHT
    found = [(answer["id"], answer["error"]["code"]) for answer in answers]
    assert found == [("one", -32005), ("two", -32005), (3, -32600), ("3", -32600)]


async def test_an_answer_that_cannot_be_sent_is_replaced_and_other_messages_are_dropped() -> None:
    async def serve(from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]) -> None:
        async for item in from_client:
            nan = {"value": float("nan"), "secret": "CANARY"}
            note = JSONRPCNotification(jsonrpc="2.0", method="n", params=nan)
            await to_client.send(SessionMessage(note))
            await to_client.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=item.message.id, result=nan)))

    echo = Echo()
    echo.serve = serve  # type: ignore[method-assign]
    (answer,) = await through_guard(line({"jsonrpc": "2.0", "id": 1, "method": "m"}), echo)

    assert (answer["id"], answer["error"]["code"]) == (1, -32603)
    assert "NaN" in answer["error"]["message"]
    assert "CANARY" not in json.dumps(answer)


class FailingEcho(Echo):
    """Answers each request with an error."""

    async def serve(self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]) -> None:
        async for item in from_client:
            error = {"code": -1, "message": "m"}
            answer = {"jsonrpc": "2.0", "id": item.message.id, "error": error}
            await to_client.send(SessionMessage(JSONRPCError.model_validate(answer)))


async def test_error_answers_are_sent_without_what_was_not_set() -> None:
    answers = await through_guard(line({"jsonrpc": "2.0", "id": 1, "method": "m"}), FailingEcho())

    assert answers == [{"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "m"}}]


async def test_the_end_may_be_asked_for_before_and_while_the_server_serves() -> None:
    ended: list[str] = []
    source, to_source = os.pipe()
    from_sink, sink = os.pipe()
    for early in (True, False):
        guard = ProtocolGuard(source, sink, on_end=lambda: ended.append("ended"))
        async with asyncio.timeout(5), anyio.create_task_group() as group:
            if early:
                guard.end()
            group.start_soon(guard.serve, Echo().serve)
            await anyio.wait_all_tasks_blocked()
            guard.end()
    for descriptor in (source, to_source, from_sink, sink):
        os.close(descriptor)

    assert ended == ["ended", "ended"]


class Conversation:
    """A guard that is spoken to line by line."""

    def __init__(self, echo: Echo) -> None:
        self.ended = 0
        self.echo = echo
        self._source, self._to_source = os.pipe()
        self._from_sink, self._sink = os.pipe()
        self._guard = ProtocolGuard(self._source, self._sink, on_end=self._note_end)

    def _note_end(self) -> None:
        self.ended += 1

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[Self]:
        """Serve inside this block, then end the input and wait for the guard to return."""
        try:
            async with asyncio.timeout(20), anyio.create_task_group() as group:
                group.start_soon(self._guard.serve, self.echo.serve)
                yield self
                self.end_input()
            assert self.ended == 1
        finally:
            for descriptor in (self._source, self._sink, self._from_sink):
                os.close(descriptor)

    def end_input(self) -> None:
        if self._to_source >= 0:
            os.close(self._to_source)
            self._to_source = -1

    def say(self, **message: Any) -> None:
        os.write(self._to_source, line({"jsonrpc": "2.0", **message}) + b"\n")

    async def hear(self) -> Json:
        """The next answer."""
        async with asyncio.timeout(5):
            data = b""
            while not data.endswith(b"\n"):
                await anyio.wait_readable(self._from_sink)
                data += os.read(self._from_sink, 1)
        answer: Json = json.loads(data)
        return answer

    async def heard_by_the_server(self) -> None:
        """Wait until all that was said is with the server."""
        count = len(self.echo.requests)
        self.say(id=f"ping {count}", method="ping")
        assert (await self.hear())["id"] == f"ping {count}"


@pytest.mark.parametrize("echo", [Echo(), FailingEcho()], ids=["result", "error"])
async def test_an_id_may_be_used_again_once_it_is_answered(echo: Echo) -> None:
    async with Conversation(echo).going_on() as talk:
        for _ in range(3):
            talk.say(id=7, method="m")
            answer = await talk.hear()
            assert answer["id"] == 7
            assert answer.get("error", {}).get("code") in (None, -1)


async def test_only_cancellations_of_what_is_in_flight_reach_the_server() -> None:
    async with Conversation(Echo()).going_on() as talk:
        talk.say(id=1, method="hold")
        talk.say(method="notifications/cancelled", params={"requestId": 2})
        talk.say(method="notifications/cancelled", params={})
        talk.say(method="notifications/cancelled")
        talk.say(method="notifications/initialized")
        talk.say(method="notifications/initialized", params={"requestId": 1})
        talk.say(method="notifications/cancelled", params={"requestId": "1"})  # another id, though not to the SDK
        talk.say(method="notifications/cancelled", params={"requestId": True})
        talk.say(method="notifications/cancelled", params={"requestId": 1.0})
        talk.say(method="notifications/cancelled", params={"requestId": 1})
        await talk.heard_by_the_server()

    seen = [(message.method, message.params) for message in talk.echo.others]
    assert seen == [
        ("notifications/initialized", None),
        ("notifications/initialized", {"requestId": 1}),
        ("notifications/cancelled", {"requestId": 1}),
    ]


async def test_a_request_that_gets_no_answer_frees_its_id() -> None:
    """The SDK calls what came with a request when the client has cancelled it."""
    settled: list[Any] = []

    class Cancelling(Echo):
        async def serve(
            self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]
        ) -> None:
            async for item in from_client:
                if item.message.method == "hold":
                    await item.metadata.on_request_unanswered()
                    settled.append(item.message.id)
                else:
                    await to_client.send(SessionMessage(answer_to(item.message)))

    async with Conversation(Cancelling()).going_on() as talk:
        for _ in range(2):
            talk.say(id=1, method="hold")
            await talk.heard_by_the_server()

    assert settled == [1, 1]


async def test_answers_of_the_client_reach_the_server_unless_they_are_malformed() -> None:
    async with Conversation(Echo()).going_on() as talk:
        talk.say(id=5, result={"a": 1})
        talk.say(id=6, error={"code": "no number"})
        talk.say(id=7, error={"code": 1, "message": "m"})
        await talk.heard_by_the_server()

    assert [message.id for message in talk.echo.others] == [5, 7]


async def test_the_end_of_the_input_is_told_while_the_server_still_works() -> None:
    reported = asyncio.Event()

    class Late(Echo):
        async def serve(
            self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]
        ) -> None:
            async for _ in from_client:
                pass
            await reported.wait()

    (source, to_source), (from_sink, sink) = os.pipe(), os.pipe()
    os.close(to_source)
    async with asyncio.timeout(5):
        await ProtocolGuard(source, sink, on_end=reported.set).serve(Late().serve)
    for descriptor in (source, sink, from_sink):
        os.close(descriptor)


async def test_a_server_that_leaves_first_ends_the_guard_though_nobody_reads_its_last_words() -> None:
    class Leaving(Echo):
        async def serve(
            self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]
        ) -> None:
            request = (await from_client.receive()).message
            big = JSONRPCResponse(jsonrpc="2.0", id=request.id, result={"text": "x" * 1_000_000})
            await to_client.send(SessionMessage(big))

    ended: list[bool] = []
    (source, to_source), (from_sink, sink) = os.pipe(), os.pipe()
    os.write(to_source, line({"jsonrpc": "2.0", "id": 1, "method": "m"}) + b"\n")
    async with asyncio.timeout(5):
        await ProtocolGuard(source, sink, on_end=lambda: ended.append(True)).serve(Leaving().serve)
    os.close(from_sink)  # the thread that still writes sees it
    for descriptor in (source, to_source, sink):
        os.close(descriptor)

    assert ended == [True]


@pytest.mark.parametrize("size", [1, 100_000], ids=["short", "long"])
async def test_a_client_that_reads_no_more_is_the_end_though_it_goes_on_writing(size: int) -> None:
    ended: list[bool] = []
    (source, to_source), (from_sink, sink) = os.pipe(), os.pipe()
    os.close(from_sink)
    os.write(to_source, line({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"text": "x"}}) + b"\n")

    class Talking(Echo):
        async def serve(
            self, from_client: MemoryObjectReceiveStream[Any], to_client: MemoryObjectSendStream[Any]
        ) -> None:
            async for item in from_client:
                result = {"text": "x" * size}
                await to_client.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=item.message.id, result=result)))

    async with asyncio.timeout(5):
        await ProtocolGuard(source, sink, on_end=lambda: ended.append(True)).serve(Talking().serve)
    for descriptor in (source, to_source, sink):
        os.close(descriptor)

    assert ended == [True]


async def test_a_line_over_the_limit_is_skipped_and_the_next_one_is_answered(tmp_path: Path) -> None:
    request = line({"jsonrpc": "2.0", "id": 1, "method": "m"})
    (tmp_path / "in").write_bytes(b"x" * (json_rpc.MAX_LINE_BYTES + 1) + b"\n" + request + b"\n")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        await ProtocolGuard(source.fileno(), sink.fileno()).serve(Echo().serve)

    answers = [json.loads(answer) for answer in (tmp_path / "out").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [None, 1]
    assert "longer than" in answers[0]["error"]["message"]


def test_a_line_that_is_too_long_names_the_limit() -> None:
    assert str(16 * 1024 * 1024) in json.loads(LINE_TOO_LONG.encoded())["error"]["message"]
