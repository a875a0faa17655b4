"""A record of executions that cannot be used: no call waits for it, and a key that cannot be kept is reported."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StartRaw
from helpers import Json, RawServer, write_notebook

pytestmark = pytest.mark.kernel

#: Seconds that a call may take longer than with a record in order.
_LONGER = 0.2

_NOT_KEPT = "idempotency_key is known to this server only"


@contextlib.contextmanager
def broken(file: Path, kind: str) -> Iterator[None]:
    """The file in a state in which it cannot be used."""
    if kind == "a directory":
        file.unlink()
        file.mkdir()
        yield
        return
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        if kind == "newer":
            other.execute("PRAGMA user_version = 1000")
        else:
            other.execute("BEGIN IMMEDIATE")
        yield


async def calls(server: RawServer, kernel_id: str, name: str) -> tuple[list[float], list[str]]:
    """Seconds of each of some calls that use the record, and the notes of runs with a key."""
    taken: list[float] = []
    notes: list[str] = []
    arguments: list[tuple[str, Json]] = [
        ("execute_cell", {"kernel_id": kernel_id, "code": "1", "idempotency_key": f"{name} 1"}),
        ("execute_cell", {"kernel_id": kernel_id, "code": "1"}),
        ("list_executions", {}),
        ("execute_notebook", {"path": "a.ipynb", "kernel_id": kernel_id, "idempotency_key": f"{name} 2"}),
        ("execute_notebook", {"path": "a.ipynb", "kernel_id": kernel_id}),
    ]
    for tool, given in arguments:
        began = time.monotonic()
        facts = await server.call(tool, **given)
        taken.append(time.monotonic() - began)
        if "idempotency_key" in given:
            notes.append(" ".join(facts.get("notes") or []))
    return taken, notes


@pytest.mark.case("W06")
@pytest.mark.parametrize("kind", ["locked", "newer", "a directory"])
async def test_no_call_waits_for_a_record_that_cannot_be_used(
    kind: str, raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    write_notebook(workspace / "a.ipynb", ["1"])
    async with raw_server() as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        await calls(server, kernel_id, "first")  # imports, and the first record
        usual, notes = await calls(server, kernel_id, "usual")
        assert notes == ["", ""]
    async with raw_server() as server:
        kernel_id = (await server.call("start_kernel"))["kernel_id"]
        with broken(state_directory / "executions.sqlite", kind):
            await calls(server, kernel_id, "broken, first")  # imports
            seen, notes = await calls(server, kernel_id, "broken")
            assert all(note.startswith(_NOT_KEPT) for note in notes), notes
            longer = [now - before for now, before in zip(seen, usual, strict=True)]
            assert max(longer) < _LONGER, longer
            listed = await server.call("list_executions")
            own = [row for row in listed["executions"] if row["status"] == "ok"]
            assert len(own) >= 5
            # A file that cannot be written may still be read.
            assert (listed.get("note") is None) == (kind == "locked")


@pytest.mark.case("W06")
async def test_a_damaged_record_is_begun_anew_by_the_servers_that_share_it(
    raw_server: StartRaw, workspace: Path, state_directory: Path
) -> None:
    """They meet the damage at the same time. Neither moves the new file of the other aside."""
    write_notebook(workspace / "a.ipynb", ["1"])
    write_notebook(workspace / "b.ipynb", ["1"])
    state_directory.mkdir()
    file = state_directory / "executions.sqlite"
    file.write_bytes(b"no database" * 1000)
    async with raw_server() as first, raw_server() as second:
        paths = ("a.ipynb", "b.ipynb")
        begun = await asyncio.gather(
            *(
                server.call("execute_notebook", path=path, idempotency_key=path)
                for server, path in zip((first, second), paths, strict=True)
            )
        )
        again = [
            await server.call("execute_notebook", path=path, idempotency_key=path)
            for server, path in zip((second, first), paths, strict=True)
        ]

    def known(run: Json) -> bool:
        """Whether the server of this run could use the record. One that could not tries again after a moment."""
        return not any(_NOT_KEPT in note for note in run.get("notes") or [])

    assert any(map(known, begun))
    for one, other in zip(begun, again, strict=True):
        assert one["execution_id"] == other["execution_id"] or not (known(one) and known(other))
    aside = file.with_name("executions.sqlite.damaged")
    assert aside.read_bytes() == b"no database" * 1000
    assert {stat.S_IMODE(path.stat().st_mode) for path in state_directory.glob("executions.sqlite*")} == {0o600}
