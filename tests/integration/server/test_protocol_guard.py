"""What the server does with bytes that no client should send, and with answers that no tool should give."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import StartRaw
from helpers import (
    LEGACY_VERSION,
    MODERN_VERSION,
    TESTS,
    Json,
    RawServer,
    envelope_of,
    line_of,
    server_command,
    until,
    write_notebook,
)

from papermill_mcp.server.json_rpc import MAX_LINE_BYTES, read_line
from papermill_mcp.server.transport import MAX_IN_FLIGHT, TOO_MANY_REQUESTS

FAILING = TESTS / "failing_server.py"
SECRET = "CANARY-4711"

each_era = pytest.mark.parametrize("era", [LEGACY_VERSION, MODERN_VERSION])

#: For what hardly depends on the era.
one_era = pytest.mark.parametrize("era", [LEGACY_VERSION, pytest.param(MODERN_VERSION, marks=pytest.mark.slow)])

LIST = {"name": "list_kernels", "arguments": {}}


async def still_serves(server: RawServer) -> None:
    """The server answers a tool call, and everything it wrote was JSON-RPC."""
    result = await server.request("tools/call", LIST)
    assert not result.get("isError"), result
    assert server.impure == []


async def answer_of(server: RawServer, tool: str, /, *, seconds: float = 10, **arguments: Any) -> Json:
    """The whole answer to a tool call."""
    _, future = await server.send("tools/call", {"name": tool, "arguments": arguments})
    async with asyncio.timeout(seconds):
        return await future


def codes(answers: list[Json]) -> list[tuple[Any, int]]:
    """Id and code of error answers."""
    return [(answer["id"], answer["error"]["code"]) for answer in answers]


# Lines that are refused


@each_era
@pytest.mark.case("J01", "J03", "J06")
async def test_J01_J03_J06_lines_that_are_no_message_are_answered_without_an_id(era: str, raw_server: StartRaw) -> None:
    deep = b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    async with raw_server(era=era) as server:
        for line, code, words in (
            (b"hello", -32700, "not JSON"),
            (b'{"jsonrpc": "2.0", "id": 1, "met', -32700, "not JSON"),
            (b"17", -32700, "not a JSON object"),
            (b'"text"', -32700, "not a JSON object"),
            (b"null", -32700, "not a JSON object"),
            (b"\xef\xbb\xbf" + line_of(1, "ping").strip(), -32700, "byte order mark"),
            (line_of(1, "ping").strip().decode().encode("utf-16"), -32700, "not UTF-8"),
            (b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}', -32700, "not UTF-8"),
            (b"Content-Length: 52\r", -32700, "Content-Length"),
            (b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}', -32600, "must be an integer or a string"),
            (deep, -32700, "nested"),
            (b"[" + line_of(1, "ping").strip() + b"]", -32600, "batching is not supported"),
            (b"[]", -32600, "batching is not supported"),
        ):
            (answer,) = await server.answers_to(line)
            assert codes([answer]) == [(None, code)], line[:80]
            assert words in answer["error"]["message"]
            assert len(answer["error"]["message"]) < 300
        for number, words in (
            (b"NaN", "NaN"),
            (b"-Infinity", "Infinity"),
            (b"1e999", "large"),
            (b"7" * 5000, "digits"),
        ):
            (answer,) = await server.answers_to(
                b'{"jsonrpc": "2.0", "id": 77, "method": "ping", "params": {"a": ' + number + b"}}"
            )
            assert codes([answer]) == [(77, -32600)], "it is answered with its id"
            assert words in answer["error"]["message"]
        assert await server.answers_to(b"", b"  ", b"\r", b"\t") == []
        await still_serves(server)

        before = len(server.answers)
        await server.write(b'{"jsonrpc": "2.0", "id": 9, "meth')
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0
        await asyncio.gather(*server._readers)
        assert codes(server.answers[before:]) == [(None, -32700)]


_CANCELLED: list[Any] = [None, 10**9, [1], {"a": 1}, "1"]
#: What no answer is given to.
_HARMLESS: list[Json] = [
    {"id": 1, "result": {}},
    {"id": 1, "result": 3},
    {"id": None, "result": {}},
    {"id": "x", "error": {"code": 1, "message": "m"}},
    {"id": 2, "error": "text"},
    {"error": {}},
    {"method": "notifications/unknown"},
    {"method": "notifications/unknown", "params": [1]},
    {"method": "notifications/initialized", "params": {"a": "\ud800"}},
    {"method": "notifications/progress", "params": {"progressToken": 1, "progress": "x"}},
    {"method": "x" * 10_000},
    *(
        {"method": "notifications/cancelled", "params": params}
        for params in ({}, [], *({"requestId": cancelled} for cancelled in _CANCELLED))
    ),
]


@one_era
@pytest.mark.case("J02", "J08", "J09")
async def test_J02_J08_J09_what_is_no_request_is_answered_with_its_id_unless_it_wants_no_answer(
    era: str, raw_server: StartRaw
) -> None:
    def request(**members: Any) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "ping"} | members).encode()

    big = json.dumps({"source": "x" * 100_000})
    async with raw_server(era=era) as server:
        for line, answer_id, code, words in (
            (b'{"id": 7, "method": "ping"}', 7, -32600, "jsonrpc"),
            (request(jsonrpc="1.0"), 7, -32600, "jsonrpc"),
            (request(id=None), None, -32600, '"id"'),
            (request(id=1.0), None, -32600, '"id"'),
            (request(id=True), None, -32600, '"id"'),
            (request(id={"a": 1}), None, -32600, '"id"'),
            (request(id=[7]), None, -32600, '"id"'),
            (request(id="x" * 5000), None, -32600, '"id"'),
            (b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}', None, -32600, '"id"'),
            (request(id="seven", params=[1]), "seven", -32602, '"params"'),
            (request(params="text"), 7, -32602, '"params"'),
            (request(params=1), 7, -32602, '"params"'),
            (request(method=3), 7, -32600, '"method"'),
            (b'{"jsonrpc": "2.0", "id": 7}', 7, -32600, "neither"),
            (request(method="x" * 1_000_000), 7, -32601, "1000000"),
            (b'{"jsonrpc": "2.0", "id": 7, "id": 8, "method": "ping"}', None, -32600, '"id"'),
            (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "method": "x"}', 7, -32600, "'method'"),
            (
                b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "list_kernels", '
                b'"arguments": {"a": {"b": 1, "b": 2}, "c": ' + big.encode() + b"}}}",
                7,
                -32600,
                "'b'",
            ),
            (request(params={"a": "\ud800"}), 7, -32600, "surrogate"),
            (
                b'{"jsonrpc": "2.0", "id": 7, "method": "p", "params": ' + b'{"a":' * 300 + b"1" + b"}" * 301,
                7,
                -32600,
                "nested",
            ),
        ):
            (answer,) = await server.answers_to(line)
            assert codes([answer]) == [(answer_id, code)], line[:80]
            assert words in answer["error"]["message"]
            assert len(answer["error"]["message"]) < 300
        wrong: list[Any] = [[], "text", 3]
        for arguments in wrong:
            _, future = await server.send("tools/call", {"name": "list_kernels", "arguments": arguments})
            assert codes([await future])[0][1] == -32602

        lines = [json.dumps({"jsonrpc": "2.0", **message}).encode() for message in _HARMLESS]
        assert await server.answers_to(*lines) == []
        await still_serves(server)


@pytest.mark.case("J01")
async def test_J01_a_line_that_is_too_long_is_skipped_and_not_kept(raw_server: StartRaw) -> None:
    """The client is told as soon as the line is too long, whenever it ends. One of 10 MB is not too long."""
    async with raw_server() as server:
        process = psutil.Process(server.pid)
        await still_serves(server)
        before = process.memory_info().rss
        answered = len(server.answers)
        chunk = b"x" * 1_000_000
        for _ in range(MAX_LINE_BYTES // len(chunk) + 1):
            await server.write(chunk)
        await until(lambda: len(server.answers) > answered, what="the line is refused before it ends")
        for _ in range(30):
            await server.write(chunk)
        assert process.memory_info().rss - before < 30_000_000
        assert await server.answers_to(b"") == []
        answer = server.answers[answered]
        assert codes([answer]) == [(None, -32700)]
        assert str(MAX_LINE_BYTES) in answer["error"]["message"]
        await still_serves(server)

        cells = [{"cell_type": "raw", "id": f"c{n}", "metadata": {}, "source": "x" * 10_000} for n in range(1000)]
        content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        made = await server.call("write_notebook", path="a.ipynb", content=content)
        assert made["cell_count"] == 1000
        await still_serves(server)


# The eras


@pytest.mark.case("J09")
async def test_J09_requests_before_the_handshake_and_a_second_handshake(raw_server: StartRaw) -> None:
    hello = {"protocolVersion": "1999-01-01", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    async with raw_server(era=None) as server:
        assert codes(await server.answers_to(b"junk")) == [(None, -32700)]
        _, early = await server.send("tools/list")
        assert codes([await early])[0][1] == -32602
        assert (await server.request("initialize", hello))["protocolVersion"] == LEGACY_VERSION
        assert (await server.request("initialize", hello))["protocolVersion"] == LEGACY_VERSION
        _, unknown = await server.send("no/such/method")
        assert codes([await unknown])[0][1] == -32601
        await server.notify("notifications/initialized")
        await still_serves(server)


@pytest.mark.case("J09")
async def test_J09_the_later_era_needs_no_handshake_and_refuses_one(raw_server: StartRaw) -> None:
    async with raw_server(era=None) as server:
        await server.write(b"junk\n")
        server.envelope = envelope_of(MODERN_VERSION)
        await still_serves(server)
        assert codes(server.answers[:1]) == [(None, -32700)]
        hello = {"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
        _, refused = await server.send("initialize", hello)
        assert codes([await refused])[0][1] == -32022
        old = line_of("old", "tools/list", {"_meta": envelope_of("1999-01-01")}).strip()
        assert codes(await server.answers_to(old)) == [("old", -32022)]


# Requests in flight


async def _seconds(work: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


@one_era
async def test_an_id_in_flight_and_more_than_the_most_requests_are_refused_at_once(
    era: str, raw_server: StartRaw
) -> None:
    async with raw_server(script=FAILING, era=era) as server:
        await still_serves(server)  # what the first call imports is not measured
        hold = {"name": "hold", "arguments": {}}
        held = [await server.send("tools/call", hold) for _ in range(MAX_IN_FLIGHT - 1)]
        assert min([await _seconds(still_serves(server)) for _ in range(3)]) < 0.1
        held.append(await server.send("tools/call", hold))

        assert min([await _seconds(answer_of(server, "list_kernels")) for _ in range(3)]) < 0.1
        refused = await answer_of(server, "list_kernels")
        assert refused["error"]["code"] == TOO_MANY_REQUESTS
        assert "Send it again" in refused["error"]["message"]

        # Also in its other spelling: both are one id to the SDK, which would cancel the one for the other.
        first, _ = held[0]
        params = server.enveloped(hold)
        server._waiting[None] = server._waiting.pop(first)  # the refusal carries the same id
        for again in (first, str(first)):
            (refusal,) = await server.answers_to(line_of(again, "tools/call", params).strip())
            assert codes([refusal]) == [(again, -32600)]
            assert "in flight" in refusal["error"]["message"]
        server._waiting[first] = server._waiting.pop(None)

        # A cancelled request leaves its place, though it has no answer.
        cancelled, _ = held.pop()
        await server.notify("notifications/cancelled", {"requestId": cancelled})
        async with asyncio.timeout(2):
            while "error" in await answer_of(server, "release"):
                pass
        async with asyncio.timeout(5):
            results = await asyncio.gather(*(future for _, future in held))
        assert all("result" in result for result in results)
        assert [answer for answer in server.answers if answer["id"] == cancelled] == []
        assert [count for count in Counter(answer["id"] for answer in server.answers).values() if count > 1] == [2]

        # The id is free again.
        answers = await server.answers_to(line_of(first, "tools/list", server.enveloped({})).strip())
        assert [answer["id"] for answer in answers] == [first]
        await still_serves(server)


@one_era
@pytest.mark.case("J10", "J11")
async def test_J10_J11_a_cancellation_stops_its_request_and_nothing_else(era: str, raw_server: StartRaw) -> None:
    async with raw_server(script=FAILING, era=era) as server:
        hold = {"name": "hold", "arguments": {}}
        (one, _), (two, kept) = [await server.send("tools/call", hold) for _ in range(2)]
        for cancelled in (one, one, 10**6, str(10**6), -1, None, [two], {"id": two}, True):
            await server.notify("notifications/cancelled", {"requestId": cancelled})
        await server.request("tools/call", {"name": "release", "arguments": {}})
        async with asyncio.timeout(5):
            assert "result" in await kept
        await server.notify("notifications/cancelled", {"requestId": two})
        await still_serves(server)
        assert [answer for answer in server.answers if answer["id"] == one] == []

        flood = b"".join(
            b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": %d}}\n' % number
            for number in range(10**6, 10**6 + 10_000)
        )
        began = time.perf_counter()
        await server.write(flood)
        await still_serves(server)
        assert time.perf_counter() - began < 3


# What tools do


@one_era
@pytest.mark.case("J18", "J19")
async def test_J18_J19_whatever_a_handler_raises_or_returns_has_one_answer(era: str, raw_server: StartRaw) -> None:
    unsendable = [
        "a lone surrogate",
        "a lone surrogate, structured",
        "a lone surrogate as a key",
        "bytes",
        "a cycle",
        "an object",
        "100,000 levels",
        "too large",
    ]
    raised = (
        "RuntimeError",
        "SystemExit",
        "KeyboardInterrupt",
        "MemoryError",
        "RecursionError",
        "CancelledError",
        "BaseException",
    )
    async with raw_server(script=FAILING, era=era) as server:
        calls = [("fail", kind) for kind in raised]
        calls += [("fail_inside", "a cancelled future"), ("fail_inside", "a thread that exits")]
        for tool, kind in calls:
            answer = await answer_of(server, tool, kind=kind)
            assert "error" in answer or answer["result"]["isError"], kind
            assert "error" not in answer or answer["error"]["code"] == -32603
            text = json.dumps(answer)
            assert SECRET not in text
            assert "Traceback" not in text
            assert ".py" not in text

        for kind in unsendable:
            answer = await answer_of(server, "give", kind=kind)
            assert answer.get("error", {}).get("code") == -32603, (kind, str(answer)[:300])
            assert SECRET not in json.dumps(answer)
        for kind in ("NaN", "Infinity"):  # null, by the models of the SDK
            answer = await answer_of(server, "give", kind=kind)
            assert answer["result"]["structuredContent"]["value"] in (None, [None])
        await still_serves(server)
        assert max(Counter(answer["id"] for answer in server.answers).values()) == 1


# A client that leaves, or does not read


@pytest.mark.case("J12")
async def test_J12_a_client_that_does_not_read_any_more_ends_the_server(raw_server: StartRaw) -> None:
    async with raw_server() as server:
        await still_serves(server)
        server.close_stdout()
        began = time.monotonic()
        await server.write(line_of(99, "tools/call", LIST))
        assert await server.exit_code(seconds=3) == 0
        assert time.monotonic() - began < 2
        assert "Traceback" not in server.errors


@pytest.mark.case("J12")
async def test_J12_a_client_that_leaves_with_unread_answers_does_not_hold_up_the_end(raw_server: StartRaw) -> None:
    async with raw_server(script=FAILING) as server:
        server.stop_reading()
        for number in range(30):
            await server.write(line_of(f"n{number}", "tools/list"))
        await server.write(line_of("held", "tools/call", {"name": "hold", "arguments": {}}))
        server.close_stdin()
        # Not `exit_code`, which waits for the end of the output, too.
        await until(lambda: server.process.returncode is not None, seconds=2, what="the server ends")
        assert server.process.returncode == 0
        server.go_on_reading()


@pytest.mark.kernel
async def test_a_client_that_reads_slowly_holds_up_no_run(raw_server: StartRaw, workspace: Path) -> None:
    wait = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)"
    last = "import pathlib; pathlib.Path('done').touch()"
    write_notebook(workspace / "a.ipynb", ["import pathlib; pathlib.Path('runs').touch()", wait, "print(1)", last])
    async with raw_server() as server:
        _, run = await server.send("tools/call", {"name": "execute_notebook", "arguments": {"path": "a.ipynb"}})
        await until((workspace / "runs").exists, seconds=20, what="the notebook runs")
        server.stop_reading()
        asked = [await server.send("tools/list") for _ in range(40)]  # far more than a pipe takes
        (workspace / "go").touch()
        await until((workspace / "done").exists, seconds=10, what="the notebook goes on")
        server.go_on_reading()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(run, *(future for _, future in asked))
        assert all("result" in answer for answer in answers)
        await still_serves(server)
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0


def test_a_server_without_standard_input_does_not_start(workspace: Path, state_directory: Path) -> None:
    command = [sys.executable, *server_command(workspace, state_directory)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True, timeout=20)

    assert done.returncode == 2
    assert "standard input" in done.stderr
    assert "Traceback" not in done.stderr


# Load


@pytest.mark.slow
@pytest.mark.case("L01")
async def test_L01_five_thousand_calls_one_after_the_other(raw_server: StartRaw) -> None:
    async with raw_server("--log-level", "WARNING") as server:
        await still_serves(server)
        taken = []
        began = time.perf_counter()
        for _ in range(5000):
            sent = time.perf_counter()
            await server.request("tools/call", LIST)
            taken.append(time.perf_counter() - sent)
        _judge("sequential", taken, time.perf_counter() - began)
        assert max(Counter(answer["id"] for answer in server.answers).values()) == 1
        assert server.impure == []


@pytest.mark.slow
@pytest.mark.case("L01")
async def test_L01_five_thousand_calls_with_as_many_in_flight_as_there_may_be(raw_server: StartRaw) -> None:
    async with raw_server("--log-level", "WARNING") as server:
        await still_serves(server)
        places = asyncio.Semaphore(MAX_IN_FLIGHT)
        taken: list[float] = []

        async def one() -> None:
            async with places:
                sent = time.perf_counter()
                await server.request("tools/call", LIST, seconds=60)
                taken.append(time.perf_counter() - sent)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(5000)))
        _judge("pipelined", taken, time.perf_counter() - began, p99=2)
        assert max(Counter(answer["id"] for answer in server.answers).values()) == 1
        assert server.impure == []


@pytest.mark.slow
@pytest.mark.case("L01")
async def test_L01_what_is_too_much_is_refused_and_can_be_sent_again(raw_server: StartRaw) -> None:
    """All lines are written before one answer is read: the server neither blocks nor loses one."""
    async with raw_server("--log-level", "WARNING") as server:
        await still_serves(server)
        waiting = {f"n{number}" for number in range(5000)}
        server.stop_reading()
        rounds = 0
        while waiting:
            rounds += 1
            before = len(server.answers)
            async with asyncio.timeout(30):
                await server.write(b"".join(line_of(name, "tools/call", LIST) for name in sorted(waiting)))
            server.go_on_reading()
            await until(lambda: len(server.answers) - before >= len(waiting), seconds=30, what="all are answered")  # noqa: B023
            answers = server.answers[before:]
            assert Counter(answer["id"] for answer in answers) == Counter(waiting)
            refused = {answer["id"] for answer in answers if "error" in answer}
            assert all(answer["error"]["code"] == TOO_MANY_REQUESTS for answer in answers if "error" in answer)
            assert len(refused) < len(waiting)
            waiting = refused
        print(f"5,000 calls without a bound: {rounds} rounds")
        assert server.impure == []


def _judge(name: str, taken: list[float], seconds: float, *, p99: float = 0.25) -> None:
    """Print the numbers. The bounds leave room for other load on the machine."""
    high = statistics.quantiles(taken, n=100)[-1]
    median = statistics.median(taken)
    print(f"{name}: {len(taken) / seconds:.0f} calls/s, p50 {median * 1000:.1f} ms, p99 {high * 1000:.1f} ms")
    assert len(taken) / seconds > 100
    assert high < p99


# Fuzz


def _valid_message(rng: random.Random, number: str) -> bytes:
    kinds: list[tuple[str, Json]] = [
        ("tools/call", LIST),
        ("tools/call", {"name": "list_notebook_files", "arguments": {"recursive": True, "limit": 5}}),
        ("tools/call", {"name": "read_notebook", "arguments": {"path": rng.choice(["a.ipynb", "../x", "é\u2028"])}}),
        ("tools/call", {"name": "get_execution", "arguments": {"execution_id": "x", "wait": 0.0}}),
        ("ping", {}),
        ("resources/list", {}),
        ("prompts/get", {"name": "x"}),
        ("no/such", {"a": [1, {"b": None}]}),
        ("notifications/cancelled", {"requestId": "never used"}),
    ]
    method, params = rng.choice(kinds)
    if method.startswith("notifications/"):
        return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()
    return line_of(number, method, params).strip()


def _mutated(rng: random.Random, line: bytes) -> bytes:
    data = bytearray(line)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(5)
        if change == 0:
            data[at : at + rng.choice([1, 1, 10])] = b""
        elif change == 1:
            data[at:at] = rng.randbytes(rng.choice([1, 1, 4]))
        elif change == 2:
            data[at : at + 1] = rng.choice([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"0", b"null", b"\\ud800"])
        elif change == 3:
            piece = data[at : at + 20]
            data[at:at] = piece
        else:
            del data[at:]
    return bytes(data).replace(b"\n", b" ")


def _expected(lines: list[bytes]) -> Counter[Any]:
    """How many answers each id gets."""
    expected: Counter[Any] = Counter()
    for line in lines:
        message = read_line(line)
        if isinstance(message, dict):
            if "method" in message and "id" in message:
                expected[message["id"]] += 1
        elif message is not None:
            expected[message.id] += 1
    return expected


@pytest.mark.slow
@each_era
@pytest.mark.case("J22")
async def test_J22_whatever_comes_each_request_is_answered_once(
    era: str, raw_server: StartRaw, workspace: Path
) -> None:
    """With FUZZ_SECONDS and FUZZ_SEED in the environment, for longer and from another seed."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "20"))
    seed = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"FUZZ_SEED={seed}")
    rng = random.Random(seed)
    write_notebook(workspace / "a.ipynb", ["1 + 1"])
    sent = 0
    async with raw_server("--log-level", "ERROR", era=era) as server:
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            lines = []
            for _ in range(rng.randint(1, 60)):
                sent += 1
                line = _valid_message(rng, f"f{sent}")
                choice = rng.random()
                if choice > 0.9:
                    line = rng.randbytes(rng.randint(0, 200)).replace(b"\n", b" ")
                elif choice > 0.3:
                    line = _mutated(rng, line)
                lines.append(line)
            before = len(server.answers)
            expected = _expected(lines)
            whole = b"".join(line + b"\n" for line in lines)
            cut = rng.randint(0, len(whole))
            await server.write(whole[:cut])
            await server.write(whole[cut:])
            await until(lambda: len(server.answers) - before >= expected.total(), what=f"answers, seed {seed}")  # noqa: B023
            assert await server.answers_to(b"") == [], seed
            assert Counter(answer["id"] for answer in server.answers[before:-1]) == expected, seed
        print(f"{sent} lines, {len(server.answers)} answers")
        await still_serves(server)
        server.close_stdin()
        assert await server.exit_code(seconds=3) == 0
