"""Outputs in an object store: a real S3 server in a process of its own, and each way in which a write may fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from distributed import LocalCluster
from helpers import (
    MARKER,
    Json,
    call,
    cell,
    digest,
    marked_processes,
    read_json,
    refused,
    stdio_client_of,
    stdout_in,
    until,
    wait_gone,
    waiting_code,
    write_notebook,
)
from mcp import Client
from object_stores import CREDENTIALS, S3Server

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(120),
    # A request that is cancelled leaves its connection to the collector: aiohttp closes it a moment later.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PREFIX = "s3://bucket/runs"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.clear()


@pytest.fixture
def remote(s3: S3Server, client: Connect, workspace: Path) -> Callable[..., Any]:
    """Connects to a server whose outputs may be below `PREFIX`. There is a notebook with a parameter."""
    write_notebook(
        workspace / "in.ipynb",
        [cell("n = 1", tags=["parameters"]), cell("print('n is', n)"), cell("assert n < 100")],
    )

    @asynccontextmanager
    async def connect(*prefixes: str) -> AsyncIterator[Client]:
        async with client(remote_outputs=[*(prefixes or (PREFIX,))]) as connected:
            yield connected

    return connect


async def run(client: Client, output: str = f"{PREFIX}/out.ipynb", **arguments: Any) -> Json:
    return await call(
        client, "execute_notebook_papermill", seconds=60, input_path="in.ipynb", output_path=output, **arguments
    )


def notes(view: Json) -> str:
    return " | ".join(view.get("notes") or [])


async def test_output_is_written_whole_when_the_run_is_over(
    remote: Callable[..., Any], s3: S3Server, workspace: Path
) -> None:
    async with remote() as client:
        view = await run(client, parameters={"n": 7})
        assert (view["status"], view["output_path"]) == ("ok", f"{PREFIX}/out.ipynb")
        output = json.loads(s3.get("runs/out.ipynb"))
        assert "n is 7\n" in [stdout_in(one) for one in output["cells"]]
        assert output["metadata"]["papermill"]["parameters"] == {"n": 7}
        [copy] = (workspace / "outputs").glob("*.ipynb")
        assert copy.read_bytes() == s3.get("runs/out.ipynb")
        assert f"outputs/{copy.name}" in notes(view)
        assert "n is 7" in str(await call(client, "read_notebook", path=f"outputs/{copy.name}"))
        again = await call(client, "get_execution", execution_id=view["execution_id"])
        assert again["output_path"] == f"{PREFIX}/out.ipynb"


async def test_run_that_fails_is_written_too(remote: Callable[..., Any], s3: S3Server) -> None:
    async with remote() as client:
        view = await run(client, parameters={"n": 100})
        assert (view["status"], view["output_path"]) == ("error", f"{PREFIX}/out.ipynb")
        assert "AssertionError" in s3.get("runs/out.ipynb").decode()


async def test_existing_object_is_replaced_only_if_asked_for(remote: Callable[..., Any], s3: S3Server) -> None:
    s3.put("runs/out.ipynb", b"theirs")
    async with remote() as client:
        message = await refused(
            client, "execute_notebook_papermill", input_path="in.ipynb", output_path=f"{PREFIX}/out.ipynb"
        )
        assert message.startswith("ALREADY_EXISTS:") and "nothing was run" in message.lower()
        assert s3.get("runs/out.ipynb") == b"theirs"
        assert (await run(client, overwrite=True))["status"] == "ok"
        assert b"n is 1" in s3.get("runs/out.ipynb")


async def test_while_it_runs_the_output_is_a_file(remote: Callable[..., Any], s3: S3Server, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("print('first')"), cell(waiting_code())])
    async with remote() as client:
        view = await run(client, wait=2)
        assert view["status"] == "running"
        assert view["output_path"].startswith("outputs/out-") and f"goes to {PREFIX}/out.ipynb" in notes(view)
        assert s3.keys() == []
        busy = await refused(
            client, "execute_notebook_papermill", input_path="in.ipynb", output_path=f"{PREFIX}/out.ipynb"
        )
        assert busy.startswith("BUSY:") and f"{PREFIX}/out.ipynb" in busy
        (workspace / "go").touch()
        view = await call(client, "get_execution", execution_id=view["execution_id"], wait=30)
        assert view["output_path"] == f"{PREFIX}/out.ipynb" and s3.keys() == ["runs/out.ipynb"]
        (workspace / "go").touch()
        assert (await run(client, overwrite=True))["status"] == "ok"  # the claim is gone


# The ways in which a write fails


@pytest.mark.parametrize("keeps", [True, False])
async def test_object_that_somebody_changes_meanwhile_stays(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, keeps: bool
) -> None:
    write_notebook(workspace / "in.ipynb", [cell(waiting_code())])
    if keeps:
        s3.put("runs/out.ipynb", b"before")
    async with remote() as client:
        view = await run(client, overwrite=True, wait=0)
        s3.put("runs/out.ipynb", b"theirs")
        (workspace / "go").touch()
        view = await call(client, "get_execution", execution_id=view["execution_id"], wait=30)
        assert view["status"] == "error" and s3.get("runs/out.ipynb") == b"theirs"
        assert "CONFLICT" in notes(view) and f"kept in {view['output_path']}" in notes(view)
        assert read_json(workspace / view["output_path"])["metadata"]["papermill"]["exception"] is None


async def test_bucket_that_is_not_there_is_an_error_before_the_run(remote: Callable[..., Any], workspace: Path) -> None:
    async with remote("s3://nowhere") as client:
        message = await refused(
            client, "execute_notebook_papermill", input_path="in.ipynb", output_path="s3://nowhere/out.ipynb"
        )
        assert message.startswith("NOT_FOUND:") and "bucket" in message and "Nothing was run" in message
        assert not list((workspace / "outputs").glob("*"))


async def test_server_that_goes_meanwhile_costs_no_result(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = S3Server()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        write_notebook(workspace / "in.ipynb", [cell("print('done')"), cell(waiting_code())])
        async with remote() as client:
            view = await run(client, wait=1)
            other.stop()
            (workspace / "go").touch()
            view = await call(client, "get_execution", seconds=90, execution_id=view["execution_id"], wait=80)
            assert view["status"] == "error" and "SERVER_NOT_RUNNING" in notes(view)
            assert "done" in (workspace / view["output_path"]).read_text()
            assert f"kept in {view['output_path']}" in notes(view)
    finally:
        other.stop()


async def test_credentials_that_are_missing_are_an_error_before_the_run(
    remote: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    async with remote() as client:
        message = await refused(
            client, "execute_notebook_papermill", input_path="in.ipynb", output_path=f"{PREFIX}/out.ipynb"
        )
        assert message.startswith("PERMISSION_DENIED:") and "Nothing was run" in message


class Stuck:
    """A proxy in front of a server that, once it is `held`, takes requests to write and never answers them.

    Args:
        only: in the path of these requests.
        conditions: whether the server knows requests with conditions.
    """

    def __init__(self, port: int, only: bytes = b"", *, conditions: bool = True) -> None:
        self._port = port
        self._conditions = conditions
        self._only = only
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.held = threading.Event()
        self.caught = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(near)
            far = socket.create_connection(("127.0.0.1", self._port))
            self._open.append(far)
            threading.Thread(target=self._copy, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, False), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        try:
            while data := source.recv(65536):
                if asking and self.held.is_set() and data.startswith(b"PUT") and self._only in data[:200]:
                    self.caught.set()
                    return
                if asking and not self._conditions and b"\nif-" in data.lower():
                    self.caught.set()
                    text = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"
                    head = b"HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                    source.sendall(head % len(text) + text)
                    source.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes its thread, which would keep it open
            one.close()


async def test_upload_can_be_cancelled(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Stuck(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.held.set()
    try:
        async with remote() as client:
            view = await run(client, wait=0)
            await until(proxy.caught.is_set, seconds=30, what="the upload")
            going = await call(client, "get_execution", execution_id=view["execution_id"])
            assert going["status"] == "running" and f"writing the output to {PREFIX}" in going["progress"]
            ended = await call(client, "cancel_execution", execution_id=view["execution_id"])
            assert ended["status"] == "interrupted" and "the upload was cancelled" in notes(ended)
            assert b"n is 1" in (workspace / ended["output_path"]).read_bytes()
            assert s3.keys() == []
    finally:
        proxy.close()


async def test_store_that_knows_no_conditions(
    remote: Callable[..., Any], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some that are compatible with S3. The look before the write is left."""
    proxy = Stuck(s3.port, conditions=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    try:
        async with remote() as client:
            view = await run(client)
            assert view["status"] == "ok" and proxy.caught.is_set(), notes(view)
            assert b"n is 1" in s3.get("runs/out.ipynb")
    finally:
        proxy.close()


async def test_server_that_ends_while_it_writes_keeps_the_file(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Stuck(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.held.set()
    try:
        async with remote() as client:
            await run(client, wait=0)
            await until(proxy.caught.is_set, seconds=30, what="the upload")
            began = time.monotonic()
        assert time.monotonic() - began < 3
        [copy] = (workspace / "outputs").glob("*.ipynb")
        assert b"n is 1" in copy.read_bytes() and s3.keys() == []
    finally:
        proxy.close()


async def test_large_output_is_written_while_others_are_answered(
    remote: Callable[..., Any], s3: S3Server, workspace: Path
) -> None:
    write_notebook(workspace / "in.ipynb", [cell(f"for _ in range(8): display('x' * {1_000_000})")])
    async with remote() as client:
        running = asyncio.create_task(run(client))
        slowest = 0.0
        while not running.done():
            began = time.monotonic()
            await call(client, "list_executions")
            slowest = max(slowest, time.monotonic() - began)
        assert (await running)["status"] == "ok" and len(s3.get("runs/out.ipynb")) > 8_000_000
        assert slowest < 2


async def test_one_key_runs_once_whatever_the_spelling(remote: Callable[..., Any], s3: S3Server) -> None:
    async with remote() as client:
        first = await run(client, idempotency_key="k")
        again = await run(client, "S3://bucket/runs/out.ipynb", idempotency_key="k")
        assert again["execution_id"] == first["execution_id"] and again["output_path"] == f"{PREFIX}/out.ipynb"
        message = await refused(
            client,
            "execute_notebook_papermill",
            input_path="in.ipynb",
            output_path=f"{PREFIX}/other.ipynb",
            idempotency_key="k",
        )
        assert message.startswith("INVALID_ARGUMENT:") and s3.keys() == ["runs/out.ipynb"]


async def test_kept_kernel_has_the_file(remote: Callable[..., Any], s3: S3Server) -> None:
    """After a failure the cell is mended in the file, since no tool writes to an object."""
    async with remote() as client:
        view = await run(client, parameters={"n": 100}, keep_kernel=True)
        assert view["status"] == "error" and view["kernel_id"]
        [note] = [note for note in view["notes"] if "is kept with the variables" in note]
        assert "path=outputs/out-" in note
        assert s3.keys() == ["runs/out.ipynb"]


async def test_run_that_is_cancelled_is_not_written(remote: Callable[..., Any], s3: S3Server, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell(waiting_code())])
    async with remote() as client:
        view = await run(client, wait=1)
        ended = await call(client, "cancel_execution", execution_id=view["execution_id"])
        assert ended["status"] == "interrupted" and "the run was cancelled" in notes(ended)
        assert s3.keys() == [] and (workspace / ended["output_path"]).is_file()


# Batches


async def batch(client: Client, **arguments: Any) -> Json:
    arguments = {"grid": {"n": [1, 2]}, "output_directory": f"{PREFIX}/sweep", "wait": 60, **arguments}
    return await call(client, "execute_notebook_batch", seconds=90, input_path="in.ipynb", **arguments)


def copies(workspace: Path) -> Path:
    """The directory with the copies of the outputs of a batch."""
    [found] = (workspace / "outputs").glob("sweep-*")
    return found


def table(s3: S3Server) -> list[Json]:
    return [json.loads(line) for line in s3.get("runs/sweep/results.jsonl").splitlines()]


async def test_batch_is_written_with_its_table_and_report(
    remote: Callable[..., Any], s3: S3Server, workspace: Path
) -> None:
    async with remote() as client:
        view = await batch(client, grid={"n": [1, 200]})
        assert (view["status"], view["runs_done"], view["runs_failed"]) == ("error", 2, 1)
        assert view["results"] == f"{PREFIX}/sweep/results.csv" and view["report"] == f"{PREFIX}/sweep/report.html"
        outputs = [f"{PREFIX}/sweep/in-n={n}.ipynb" for n in (1, 200)]
        assert sorted(row["output_path"] for row in view["runs"]) == outputs
        names = {key.removeprefix("runs/sweep/") for key in s3.keys()}  # noqa: SIM118 - they are a method's
        assert names == {
            *("in-n=1.ipynb", "in-n=200.ipynb", "results.csv", "results.jsonl", "results.parquet", "report.html")
        }
        assert [row["output"] for row in table(s3)] == outputs
        for name in names:
            assert (copies(workspace) / name).read_bytes() == s3.get(f"runs/sweep/{name}")
        page = s3.get("runs/sweep/report.html").decode()
        assert "in-n=200.ipynb" in page and "results.parquet" in page and "../" not in page


async def test_batch_is_resumed_from_the_store_alone(remote: Callable[..., Any], s3: S3Server, workspace: Path) -> None:
    async with remote() as client:
        await batch(client)
        shutil.rmtree(workspace / "outputs")
        before = s3.get("runs/sweep/in-n=1.ipynb")
        plan = await batch(client, grid={"n": [1, 2, 3]}, dry_run=True)
        assert (plan["runs_done"], plan["runs_total"]) == (2, 3) and not (workspace / "outputs").exists()
        view = await batch(client, grid={"n": [1, 2, 3]})
        assert view["status"] == "ok" and "2 of 3 runs were complete already" in notes(view)
        assert s3.get("runs/sweep/in-n=1.ipynb") == before
        assert (copies(workspace) / "in-n=1.ipynb").read_bytes() == before
        assert "not written" not in notes(view), notes(view)
        rows = [(row["run"], row["status"]) for row in table(s3)]
        assert rows == [(0, "ok"), (1, "ok"), (0, "ok"), (1, "ok"), (2, "ok")]  # those of the earlier batch stay


async def test_output_that_was_edited_in_the_store_is_named(
    remote: Callable[..., Any], s3: S3Server, workspace: Path
) -> None:
    async with remote() as client:
        await batch(client)
        shutil.rmtree(workspace / "outputs")
        assert "another program" not in notes(await batch(client))
        s3.put("runs/sweep/in-n=1.ipynb", s3.get("runs/sweep/in-n=1.ipynb").replace(b"n is 1", b"n is 5"))
        view = await batch(client)
        assert view["status"] == "ok" and "another program since the run, but complete, so kept: in-n=1" in notes(view)


async def test_output_that_was_changed_in_the_store_stays(remote: Callable[..., Any], s3: S3Server) -> None:
    async with remote() as client:
        await batch(client)
        theirs = s3.get("runs/sweep/in-n=1.ipynb").replace(b"print(", b"print('mine', ")
        s3.put("runs/sweep/in-n=1.ipynb", theirs)
        s3.put("runs/sweep/results.csv", b"mine")
        s3.put("runs/sweep/report.html", b"mine")
        view = await batch(client)
        assert view["status"] == "ok" and "changed since an earlier run stays" in notes(view)
        assert s3.get("runs/sweep/in-n=1.ipynb") == theirs
        assert s3.get("runs/sweep/results.csv") == s3.get("runs/sweep/report.html") == b"mine"
        assert view["results"] == f"{PREFIX}/sweep/results-2.csv"
        assert view["report"] == f"{PREFIX}/sweep/report-2.html"


async def test_batch_without_its_store_keeps_results_and_the_same_request_writes_them(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy = Stuck(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    write_notebook(
        workspace / "in.ipynb",
        [cell("n = 1", tags=["parameters"]), cell(waiting_code() + "open('times', 'a').write('x')")],
    )
    async with remote() as client:
        view = await batch(client, wait=0)
        await until((workspace / "waiting").exists, seconds=30)
        proxy.close()
        (workspace / "go").touch()
        view = await call(client, "get_execution", seconds=110, execution_id=view["execution_id"], wait=100)
        assert (view["status"], view["runs_failed"]) == ("error", 2)
        assert "the table of results was not written" in notes(view) and s3.keys() == []
        assert {row["output_path"].split("/")[0] for row in view["runs"]} == {"outputs"}
        assert all("the same request writes it" in " ".join(row["notes"]) for row in view["runs"])
        assert (copies(workspace) / "results.csv").is_file()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    async with remote() as client:
        view = await batch(client)
        assert view["status"] == "ok" and "2 of 2 runs were complete already" in notes(view)
        assert (workspace / "times").read_text() == "xx", "no run was done twice"
        last = [row["status"] for row in table(s3) if row["batch"] == view["execution_id"]]
        assert last == ["ok", "ok"] and len(s3.keys()) == 6


async def test_batch_on_dask_is_written(
    s3: S3Server, client: Connect, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path))
    write_notebook(workspace / "in.ipynb", [cell("n = 1", tags=["parameters"]), cell("print('n is', n)")])
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", asynchronous=True, processes=True
    )
    async with cluster, client(dask_scheduler=cluster.scheduler_address, remote_outputs=[PREFIX]) as connected:
        view = await batch(connected)
        assert view["status"] == "ok", view
        assert b"n is 2" in s3.get("runs/sweep/in-n=2.ipynb") and len(table(s3)) == 2
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # Dask starts workers by multiprocessing


async def test_two_servers_write_one_table(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, tmp_path: Path, client: Connect
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_notebook(other / "in.ipynb", [cell("n = 1", tags=["parameters"]), cell("n")])
    async with remote() as one, client(roots=[other], remote_outputs=[PREFIX]) as two:
        views = await asyncio.gather(batch(one), batch(two, grid={"n": [8, 9]}))
        assert [view["status"] for view in views] == ["ok", "ok"]
        assert len({row["batch"] for row in table(s3)}) == 2 and len(table(s3)) == 4


async def test_cancelled_batch_writes_no_more(remote: Callable[..., Any], s3: S3Server, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("n = 1", tags=["parameters"]), cell(waiting_code())])
    async with remote() as client:
        view = await batch(client, wait=0, max_parallel=1)
        await until((workspace / "waiting").exists, seconds=30)
        ended = await call(client, "cancel_execution", execution_id=view["execution_id"])
        assert ended["status"] == "interrupted" and s3.keys() == []
        assert (copies(workspace) / "results.csv").is_file()


async def test_server_that_is_killed_while_it_writes_is_taken_up_by_the_next_one(
    s3: S3Server, workspace: Path, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs that had no time to be written are written then, without another run."""
    write_notebook(
        workspace / "in.ipynb",
        [cell("n = 1", tags=["parameters"]), cell("with open('times', 'a') as log: log.write(f'{n} ')")],
    )
    flags = ("--remote-outputs", PREFIX)
    proxy = Stuck(s3.port, b"n%3D2")
    proxy.held.set()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    try:
        async with stdio_client_of(workspace, state_directory, *flags) as client:
            view = await batch(client, grid={"n": [1, 2]}, max_parallel=1, wait=0)
            await until(proxy.caught.is_set, seconds=40, what="the second upload")
            (server,) = [p for p in marked_processes(os.environ[MARKER]) if "papermill_mcp.main" in p.cmdline()]
            os.kill(server.pid, signal.SIGKILL)
            assert await wait_gone([server.pid], seconds=5) == []
    finally:
        proxy.close()
    assert "runs/sweep/in-n=1.ipynb" in s3.keys() and "runs/sweep/in-n=2.ipynb" not in s3.keys()  # noqa: SIM118
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    async with stdio_client_of(workspace, state_directory, *flags) as client:
        earlier = await call(client, "get_execution", execution_id=view["execution_id"])
        assert earlier["status"] == "aborted"
        again = await batch(client)
        assert again["status"] == "ok" and "2 of 2 runs were complete already" in notes(again)
    assert (workspace / "times").read_text() == "1 2 "
    assert len(s3.keys()) == 6


@pytest.mark.parametrize("file", ["results.jsonl", "report.html"])
async def test_cancel_ends_the_write_of_a_table_and_a_report(
    remote: Callable[..., Any], s3: S3Server, workspace: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    proxy = Stuck(s3.port, file.encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.held.set()
    try:
        async with remote() as client:
            view = await batch(client, wait=0)
            await until(proxy.caught.is_set, seconds=40, what="the upload")
            ended = await call(client, "cancel_execution", execution_id=view["execution_id"])
            assert ended["status"] in ("interrupted", "ok") and "that was cancelled" in notes(ended)
            assert {"runs/sweep/in-n=1.ipynb", "runs/sweep/in-n=2.ipynb"} <= {*s3.keys()}
            assert f"runs/sweep/{file}" not in s3.keys()  # noqa: SIM118 - they are a method's
            assert (copies(workspace) / "results.csv").is_file() and (copies(workspace) / "report.html").is_file()
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    finally:
        proxy.close()
    async with remote() as client:  # the same request writes them
        view = await batch(client)
        assert view["status"] == "ok" and view["report"] == f"{PREFIX}/sweep/report.html"
        assert len(s3.keys()) == 6


# Which URLs are allowed


@pytest.mark.case("P06")
@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/runsx/out.ipynb",
        "s3://bucket/runs/../out.ipynb",
        "s3://bucket/runs/./../x/out.ipynb",
        "s3://bucket/runs//out.ipynb",
        "s3://bucket/out.ipynb",
        "s3://bucket",
        "s3://BUCKET/runs/out.ipynb",
        "gs://bucket/runs/out.ipynb",
        "s3://user:secret-word@bucket/runs/out.ipynb",
        "s3://bucket/runs/out.ipynb?token=secret-word",
        "s3://bucket/runs/out.ipynb#secret-word",
        "s3://bucket:80/runs/out.ipynb",
        " s3://bucket/runs/out.ipynb",
        "http://bucket/runs/out.ipynb",
        "memory://runs/out.ipynb",
        "s3://bucket/runs/out.txt",
        "s3://bucket/runs/.ipynb",
        "s3://bucket/runs",
        "s3://bucket/runs\\..\\x.ipynb",
        "s3://bucket/runs/\u202eout.ipynb",
        "s3://" + "a" * 2000 + "/out.ipynb",
        "s3:///runs/out.ipynb",
    ],
)
async def test_no_other_url_is_connected(
    remote: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, workspace: Path, url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.setblocking(False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{canary.getsockname()[1]}")
        before = digest(workspace / "in.ipynb")
        async with remote() as client:
            message = await refused(client, "execute_notebook_papermill", input_path="in.ipynb", output_path=url)
            directory = url.removesuffix("/out.ipynb").rstrip("/")
            if directory not in (PREFIX, f"{PREFIX}/out.txt", f"{PREFIX}/.ipynb"):
                other = await refused(
                    client, "execute_notebook_batch", input_path="in.ipynb", grid={"n": [1]}, output_directory=directory
                )
                assert other.startswith("PATH_NOT_ALLOWED:") and "secret-word" not in other, other
        assert message.startswith("PATH_NOT_ALLOWED:") and "secret-word" not in message, message
        with pytest.raises(BlockingIOError):
            canary.accept()
        assert digest(workspace / "in.ipynb") == before and not (workspace / "outputs").exists()


async def test_url_is_no_input_and_cannot_be_read(remote: Callable[..., Any]) -> None:
    async with remote() as client:
        for tool, arguments in {
            "read_notebook": {"path": f"{PREFIX}/out.ipynb"},
            "execute_notebook_papermill": {"input_path": f"{PREFIX}/in.ipynb"},
        }.items():
            message = await refused(client, tool, **arguments)
            assert message.startswith("PATH_NOT_ALLOWED:") and "outputs of Papermill runs" in message


async def test_empty_setting_allows_no_url(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("1")])
    async with client() as connected:
        message = await refused(
            connected, "execute_notebook_papermill", input_path="in.ipynb", output_path="s3://u:pw@bucket/x.ipynb"
        )
        assert message.startswith("PATH_NOT_ALLOWED:") and "pw" not in message
