"""Subscriptions to resources over stdio, in both forms of the protocol."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from conftest import StartRaw
from helpers import LEGACY_VERSION, MODERN_VERSION, Json, RawServer, cell, line_of, until, write_notebook

UPDATED = "notifications/resources/updated"
LIST_CHANGED = "notifications/resources/list_changed"

both_eras = pytest.mark.parametrize("era", [LEGACY_VERSION, MODERN_VERSION])


class Subscriber:
    """A client with subscriptions, in either form."""

    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.stream: int | None = None

    async def subscribe(self, *uris: str, lists: bool = False) -> list[str]:
        """Subscribe to URIs. Returns those that the server follows."""
        server = self.server
        if server.envelope is None:
            for uri in uris:
                await server.request("resources/subscribe", {"uri": uri})
            return list(uris)
        wanted: Json = {"resourceSubscriptions": list(uris), "resourcesListChanged": lists}
        before = len(server.notifications)
        self.stream, _ = await server.send("subscriptions/listen", {"notifications": wanted})
        await until(lambda: len(server.notifications) > before)
        acknowledged = server.notifications[before]
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        honored: list[str] = acknowledged["params"]["notifications"].get("resourceSubscriptions", [])
        return honored

    async def leave(self, uri: str) -> None:
        """End the subscription."""
        if self.stream is None:
            await self.server.request("resources/unsubscribe", {"uri": uri})
        else:
            await self.server.notify("notifications/cancelled", {"requestId": self.stream})

    def heard(self, method: str = UPDATED) -> list[str]:
        """The URIs of the notifications so far."""
        found = [message for message in self.server.notifications if message["method"] == method]
        return [message.get("params", {}).get("uri", "") for message in found]

    async def hears(
        self, change: Callable[[], Awaitable[object]], *, method: str = UPDATED, count: int = 1
    ) -> list[str]:
        """The notifications that follow a change, at least `count`."""
        before = len(self.heard(method))
        await change()
        await until(lambda: len(self.heard(method)) >= before + count, seconds=10)
        return self.heard(method)[before:]


def capabilities_of(answer: Json) -> tuple[Json, Json, Json]:
    found = answer["capabilities"]
    return found["resources"], found["tools"], found["prompts"]


@pytest.mark.case("U02")
async def test_a_client_is_offered_what_it_can_have(raw_server: StartRaw, workspace: Path) -> None:
    """The earlier form cannot ask for changes of the list, and lists of tools and prompts never change."""
    async with raw_server(era=None) as server:
        hello = {
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "tests", "version": "0"},
        }
        resources, tools, prompts = capabilities_of(await server.request("initialize", hello))
        assert resources == {"subscribe": True, "listChanged": False}
        assert not tools.get("listChanged")
        assert not prompts.get("listChanged")
    async with raw_server(era=MODERN_VERSION) as server:
        resources, tools, prompts = capabilities_of(await server.request("server/discover"))
        assert resources == {"subscribe": True, "listChanged": True}
        assert not tools.get("listChanged")
        assert not prompts.get("listChanged")
    async with raw_server("--toolsets", "kernel") as server:
        _, answer = await server.send("resources/subscribe", {"uri": "notebook:///a.ipynb"})
        assert (await asyncio.wait_for(answer, 10))["error"]["code"] == -32601


@pytest.mark.slow
@pytest.mark.case("U02")
@both_eras
async def test_every_change_of_a_notebook_is_heard(era: str, raw_server: StartRaw, workspace: Path) -> None:
    """The URI of a notification is that of the subscription, also for a part of a notebook and in the earlier form."""
    path = write_notebook(workspace / "a b.ipynb", ["1"])
    write_notebook(workspace / "other.ipynb", ["1"])
    uris = ["notebook:///a%20b.ipynb", "notebook://a%20b.ipynb/cells/c0"]

    async def edit() -> None:
        await server.call("add_cell", path="a b.ipynb", cell_type="code", source="3")

    async def outside() -> None:
        write_notebook(workspace / "a.new", ["2"]).replace(path)  # in one step, so that it is one change

    async def in_place() -> None:
        await asyncio.to_thread(os.utime, path)

    async def removed() -> None:
        await asyncio.to_thread(path.unlink)

    async def renamed() -> None:
        await asyncio.to_thread(shutil.move, workspace / "other.ipynb", path)

    async with raw_server(era=era) as server:
        client = Subscriber(server)
        assert await client.subscribe(*uris) == uris
        for change in (edit, outside, in_place, removed, renamed):
            assert sorted(await client.hears(change, count=2)) == sorted(uris)

        await client.leave(uris[0])
        await client.leave(uris[1])
        heard = len(client.heard())
        await edit()
        await asyncio.sleep(1.2)  # two looks
        assert len(client.heard()) == heard


@pytest.mark.case("U02")
@pytest.mark.kernel
@both_eras
async def test_runs_and_batches_are_heard(era: str, raw_server: StartRaw, workspace: Path) -> None:
    """The output of a run need not be there when a client subscribes. Many saves between two looks are one event."""
    write_notebook(workspace / "in.ipynb", [cell("x = 1", tags=["parameters"]), *(["print(x)"] * 20)])
    uris = ["notebook:///in.ipynb", "notebook:///out.ipynb"]
    async with raw_server(era=era) as server:
        client = Subscriber(server)
        await client.subscribe(*uris)

        async def run(tool: str, **arguments: str) -> None:
            parameters: Json = {"name": tool, "arguments": arguments}
            assert not (await server.request("tools/call", parameters, seconds=60)).get("isError")

        heard = await client.hears(lambda: run("execute_notebook", path="in.ipynb"))
        assert set(heard) == {uris[0]}
        await run("execute_notebook_papermill", input_path="in.ipynb", output_path="out.ipynb")
        await until(lambda: uris[1] in client.heard(), seconds=10)
        assert len(client.heard()) < 20


@pytest.mark.slow
@pytest.mark.case("U02")
async def test_the_list_of_resources_is_followed_by_a_stream(raw_server: StartRaw, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with raw_server(era=MODERN_VERSION) as server:
        client = Subscriber(server)
        await client.subscribe(lists=True)

        async def renamed() -> None:
            await asyncio.to_thread(shutil.move, workspace / "a.ipynb", workspace / "b.ipynb")

        for change in (lambda: server.call("create_notebook", path="new.ipynb"), renamed):
            assert await client.hears(change, method=LIST_CHANGED) == [""]
        await server.call("add_cell", path="b.ipynb", cell_type="code", source="the list is the same")
        await asyncio.sleep(1.2)  # two looks
        assert len(client.heard(LIST_CHANGED)) == 2
        assert client.heard() == []


@pytest.mark.case("U02")
@both_eras
@pytest.mark.parametrize(
    "uri", ["notebook:///../a.ipynb", "notebook:///a.txt", "kernel://x", "file:///etc/passwd", "nothing"]
)
async def test_what_cannot_be_followed_is_not_promised(era: str, uri: str, raw_server: StartRaw) -> None:
    async with raw_server(era=era) as server:
        if era == MODERN_VERSION:
            assert await Subscriber(server).subscribe(uri, "notebook:///good.ipynb") == ["notebook:///good.ipynb"]
            return
        _, answer = await server.send("resources/subscribe", {"uri": uri})
        assert (await asyncio.wait_for(answer, 10))["error"]["code"] == -32602


@pytest.mark.slow
@pytest.mark.case("U02")
@both_eras
async def test_a_client_that_does_not_read_holds_nothing_up(era: str, raw_server: StartRaw, workspace: Path) -> None:
    """Edits go on, and the server ends when its input does."""
    path = write_notebook(workspace / "a.ipynb", ["1"])
    uris = [f"notebook:///a.ipynb/cells/{'x' * 40}{number}" for number in range(900)]
    async with raw_server(era=era) as server:
        await Subscriber(server).subscribe(*uris)
        server.stop_reading()
        for number in range(6):  # far more than the pipe holds
            write_notebook(path, [str(number)])
            await asyncio.sleep(0.6)
        await server.write(
            line_of(
                "edit",
                "tools/call",
                server.enveloped(
                    {"name": "add_cell", "arguments": {"path": "a.ipynb", "cell_type": "code", "source": "late"}}
                ),
            )
        )
        await until(lambda: "late" in path.read_text(), seconds=10)
        server.close_stdin()
        # Not `exit_code`, which waits for the end of the output, too.
        await until(lambda: server.process.returncode is not None, seconds=5, what="the server ends")
        assert server.process.returncode == 0
        server.go_on_reading()


@pytest.mark.slow
@pytest.mark.case("U02")
@pytest.mark.alone
async def test_nothing_runs_while_nothing_is_followed(raw_server: StartRaw, workspace: Path) -> None:
    """After the last subscription has ended, the server is as idle as before the first one."""
    write_notebook(workspace / "a.ipynb", ["1"])
    async with raw_server() as server:
        client, process = Subscriber(server), psutil.Process(server.pid)
        await server.call("list_kernels")  # imports the engine, which is done later otherwise
        await client.subscribe("notebook:///a.ipynb")
        await client.leave("notebook:///a.ipynb")
        await asyncio.sleep(1)
        before, began = process.num_ctx_switches().voluntary, time.monotonic()
        await asyncio.sleep(2)
        assert process.num_ctx_switches().voluntary - before <= 2 * (time.monotonic() - began)
