"""The store of versions: each is read back byte for byte, shares its parts with others, and keeps to the limits."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Json

from papermill_mcp.core.history import chunks, store
from papermill_mcp.core.history.cause import Cause
from papermill_mcp.core.history.store import HistoryStore, HistoryUnavailableError
from papermill_mcp.utils.digests import revision_of

CAUSE = Cause("edit", "update_cell", "1 cell changed")
PATH = Path("/work/n.ipynb")
FILL = Path(__file__).with_name("history_faults.py")


def rendered(cells: list[Json]) -> bytes:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def cell(source: str, output: str = "") -> Json:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": outputs, "execution_count": None}


def noise(size: int, seed: int = 0) -> str:
    return random.Random(seed).randbytes(size // 2).hex()


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryStore]:
    made = HistoryStore(tmp_path, versions=50, max_bytes=2**30)
    yield made
    made.close()


def keep(history: HistoryStore, data: bytes, path: Path = PATH) -> int:
    return history.keep(path, data, CAUSE, revision_of(data)).version


def rows(tmp_path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def check_whole(tmp_path: Path) -> None:
    """Each chunk belongs to a version, each version has its chunks, and the bytes are counted right."""
    needed: dict[int, set[bytes]] = {}
    for notebook, manifest in rows(tmp_path, "SELECT notebook, manifest FROM versions"):
        needed.setdefault(notebook, set()).update(chunks.digests_in(manifest))
    there: dict[int, set[bytes]] = {}
    sizes: dict[int, int] = {}
    for notebook, digest, size in rows(tmp_path, "SELECT notebook, digest, length(data) FROM chunks"):
        there.setdefault(notebook, set()).add(digest)
        sizes[notebook] = sizes.get(notebook, 0) + size
    assert there == needed
    assert dict(rows(tmp_path, "SELECT id, bytes FROM notebooks WHERE bytes <> 0")) == sizes


@pytest.mark.case("H01")
@pytest.mark.parametrize("seed", range(2))
def test_every_version_of_a_random_history_is_read_back_byte_for_byte(tmp_path: Path, seed: int) -> None:
    """Edits, moves and outputs of any size, foreign bytes, a limit of versions, and the later compression."""
    chance = random.Random(seed)
    history = HistoryStore(tmp_path, versions=chance.choice([3, 20, 50]), max_bytes=2**30)
    cells = [cell(f"x = {number}", noise(chance.choice([0, 10, 3000, 20_000]), number)) for number in range(30)]
    kept: dict[int, bytes] = {}
    for step in range(250):
        place = chance.randrange(len(cells))
        match chance.randrange(6):
            case 0:
                cells.insert(place, cell(f"new {step}", noise(chance.choice([0, 50_000]), step)))
            case 1 if len(cells) > 5:
                cells.insert(chance.randrange(len(cells)), cells.pop(place))
            case 2 if len(cells) > 20:
                del cells[place]
            case _:
                cells[place] = cell(f"changed {step}", noise(chance.choice([0, 100]), step))
        data = rendered(cells) if chance.random() < 0.95 else chance.randbytes(chance.choice([0, 10, 9000]))
        number = keep(history, data)
        assert number not in kept or kept[number] == data
        assert number >= max(kept, default=0), "a number was used again"
        kept[number] = data
        if step % 50 == 0:
            history.tidy()
    shown = [version.version for version in history.versions(PATH, 1000)]
    assert shown == sorted(kept, reverse=True)[: history._versions]
    for number in shown:
        assert history.read(PATH, number) == kept[number]
    assert history.read(PATH, min(kept)) is None
    history.close()
    check_whole(tmp_path)


def test_versions_share_the_outputs_that_are_the_same(tmp_path: Path, history: HistoryStore) -> None:
    cells = [cell("plot()", noise(300_000, number)) for number in range(5)] + [cell("x = 1")]
    keep(history, rendered(cells))
    before = rows(tmp_path, "SELECT bytes FROM notebooks")[0][0]
    cells.insert(1, cell("import"))
    cells[3]["metadata"] = {"tags": ["new"]}
    keep(history, rendered(cells))

    assert rows(tmp_path, "SELECT bytes FROM notebooks")[0][0] < before + 320_000


def test_an_inserted_cell_changes_few_chunks_of_small_cells() -> None:
    cells = [cell(f"value = {number}  # {noise(300, number)}") for number in range(500)]
    old = {chunk.digest for chunk in chunks.cut(rendered(cells))}
    cells.insert(3, cell("inserted"))
    new = {chunk.digest for chunk in chunks.cut(rendered(cells))}

    assert len(old) > 20
    assert len(new - old) <= 4


def test_the_same_version_is_kept_once(history: HistoryStore) -> None:
    assert keep(history, b"one") == keep(history, b"one") == 1
    assert keep(history, b"two") == 2
    assert keep(history, b"one") == 3


def test_a_notebook_has_at_most_so_many_bytes_of_versions(
    tmp_path: Path, history: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "NOTEBOOK_BYTES", 300_000)
    for number in range(6):
        keep(history, rendered([cell("x", noise(200_000, number))]))

    assert len(history.versions(PATH, 100)) < 4
    with pytest.raises(HistoryUnavailableError, match="over the limit of 300,000"):
        keep(history, rendered([cell("x", noise(400_000))]))
    history.close()
    check_whole(tmp_path)


def test_the_least_used_notebooks_lose_their_oldest_versions_first(tmp_path: Path) -> None:
    history = HistoryStore(tmp_path, versions=50, max_bytes=700_000)
    for name in ("old", "new"):
        for number in range(4):
            keep(history, rendered([cell(name, noise(200_000, number))]), Path(f"/work/{name}.ipynb"))
    history.tidy()

    assert len(history.versions(Path("/work/new.ipynb"), 10)) == 4
    assert len(history.versions(Path("/work/old.ipynb"), 10)) < 4
    history.close()
    check_whole(tmp_path)


def test_versions_are_dropped_after_thirty_days_and_their_numbers_stay_used(
    history: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 31 * 86_400)
    keep(history, b"old")
    monkeypatch.setattr(time, "time", lambda: now)
    history.tidy()

    assert history.versions(PATH, 10) == []
    assert keep(history, b"new") == 2


def test_a_renamed_notebook_is_found_by_its_content(tmp_path: Path, history: HistoryStore) -> None:
    old, new = tmp_path / "old.ipynb", tmp_path / "new.ipynb"
    keep(history, b"one", old)
    keep(history, b"two", old)

    assert history.latest(new, revision=revision_of(b"two")) is None, "it was taken without leave"
    found = history.latest(new, revision=revision_of(b"two"), adopt=lambda path: path == old)
    assert found is not None and found.version == 2
    assert history.read(new, 1) == b"one"
    assert history.versions(old, 10) == []


def test_an_earlier_notebook_of_the_new_name_keeps_its_versions_under_another(
    tmp_path: Path, history: HistoryStore
) -> None:
    old, new = tmp_path / "old.ipynb", tmp_path / "new.ipynb"
    keep(history, b"earlier", new)
    keep(history, b"one", old)
    (tmp_path / "new-earlier-1.ipynb").touch()

    assert history.moved(old, new) == tmp_path / "new-earlier-2.ipynb"
    assert history.read(new, 1) == b"one"
    assert history.read(tmp_path / "new-earlier-2.ipynb", 1) == b"earlier"
    assert history.moved(new, old) is None


def test_the_versions_of_a_copy_stay_with_the_original(tmp_path: Path, history: HistoryStore) -> None:
    old = tmp_path / "old.ipynb"
    old.touch()
    keep(history, b"one", old)

    assert history.latest(tmp_path / "copy.ipynb", revision=revision_of(b"one"), adopt=lambda _: True) is None


@pytest.mark.parametrize("path", [PATH, None])
def test_cleared_versions_leave_nothing_in_the_files(tmp_path: Path, history: HistoryStore, path: Path | None) -> None:
    secret = "hunter2-" + noise(40, 9)
    keep(history, rendered([cell(secret, noise(30_000))]))
    keep(history, rendered([cell("x")]))
    keep(history, b"another", Path("/work/other.ipynb"))
    (tmp_path / "history.sqlite.damaged").write_text(secret)

    assert history.clear(path) == (2 if path else 3)
    assert history.versions(PATH, 10) == []
    for file in tmp_path.glob("history*"):
        assert secret.encode() not in file.read_bytes()
    assert not (tmp_path / "history.sqlite.damaged").exists()
    assert (history.read(Path("/work/other.ipynb"), 1) == b"another") == bool(path)
    assert keep(history, b"new") == 3


def test_the_files_are_for_their_user_alone(tmp_path: Path) -> None:
    history = HistoryStore(tmp_path / "state", versions=50, max_bytes=2**30)
    assert history.latest(PATH) is None
    assert not (tmp_path / "state").exists(), "a look made a file"
    keep(history, b"one")

    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    for file in (tmp_path / "state").iterdir():
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file.name
    history.close()


def test_a_damaged_version_is_never_given_out(tmp_path: Path, history: HistoryStore) -> None:
    keep(history, b"some bytes that are long enough")
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute("UPDATE chunks SET data = 'other bytes', form = 2")
    connection.commit()
    connection.close()

    with pytest.raises(HistoryUnavailableError, match="version 1 is damaged"):
        history.read(PATH, 1)


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite").write_bytes(b"not a database " * 1000)
    history = HistoryStore(tmp_path, versions=50, max_bytes=2**30)

    assert keep(history, b"one") == 1
    assert (tmp_path / "history.sqlite.damaged").exists()
    history.close()


def test_room_is_given_back_and_nothing_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    history = HistoryStore(tmp_path / "state", versions=2, max_bytes=2**30)
    history.tidy()
    assert not (tmp_path / "state").exists()
    for number in range(10):
        keep(history, random.Random(number).randbytes(1_000_000))
    assert history.usage().bytes > 10_000_000
    history.tidy()
    assert history.usage().bytes < 9_000_000
    history.close()
    assert history.usage().bytes < 3_000_000


def test_a_database_of_a_newer_server_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    history = HistoryStore(tmp_path, versions=50, max_bytes=2**30)

    with pytest.raises(HistoryUnavailableError, match="newer version"):
        keep(history, b"one")
    history.close()


@pytest.mark.case("H02")
def test_two_processes_keep_versions_of_one_notebook_at_the_same_time(tmp_path: Path) -> None:
    """Numbers are unique, and nothing is lost. Both begin the file at once."""
    command = [sys.executable, str(FILL), "keep", str(tmp_path)]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("one", "two")]
    kept: dict[int, str] = {}
    for process in processes:
        out, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        kept |= {int(number): revision for number, revision in map(str.split, out.splitlines())}
    history = HistoryStore(tmp_path, versions=500, max_bytes=2**30)

    assert sorted(kept) == list(range(1, 121))
    for number, revision in kept.items():
        data = history.read(PATH, number)
        assert data is not None and revision_of(data) == revision
    history.close()
    check_whole(tmp_path)


def test_a_file_that_another_program_locks_is_left_alone_for_a_while(
    tmp_path: Path, history: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(history, b"one")
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.2)
    patient = HistoryStore(tmp_path, versions=50, max_bytes=2**30)
    connection = sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryUnavailableError, match="locked"):
        keep(patient, b"two")
    began = time.monotonic()
    with pytest.raises(HistoryUnavailableError, match="locked; it is tried again in half a minute"):
        keep(patient, b"two")
    assert time.monotonic() - began < 0.1
    connection.close()
    monkeypatch.setattr(time, "monotonic", lambda: began + store.PAUSE_SECONDS + 1)
    assert keep(patient, b"two") == 2
    monkeypatch.undo()
    patient.close()


@pytest.mark.case("H02")
@pytest.mark.parametrize("fault", ["pwrite64:error=ENOSPC", "fdatasync:error=EIO", "pwrite64:signal=KILL"])
@pytest.mark.skipif(not os.path.exists("/usr/bin/strace"), reason="strace is not installed")
def test_no_system_call_that_fails_or_kills_loses_a_version(tmp_path: Path, fault: str) -> None:
    """The n-th real system call of keeping a version fails, or is its last, for every n."""
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it writes, too
    done = subprocess.run(
        [sys.executable, str(FILL), fault, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=unmeasured,
    )
    if "PTRACE" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("strace may not trace here")

    assert done.returncode == 0, done.stderr[-2000:]
    _, met = map(int, done.stdout.split())
    assert met >= (1 if fault.startswith("fdatasync") else 3), "hardly a fault was met"


def test_what_is_kept_behind_a_reply_leaves_it_a_moment_and_a_close_does_it_at_once(history: HistoryStore) -> None:
    """A version of a large notebook is cut up in the same interpreter that answers the call."""
    done: list[float] = []
    begun = threading.Event()

    def act() -> None:
        done.append(time.monotonic())
        begun.set()

    asked = time.monotonic()
    history.later(act)
    assert begun.wait(10)
    assert done[0] - asked >= store.BEHIND_REPLY_SECONDS - 0.01

    begun.clear()
    history.later(act)
    history.close()
    assert begun.wait(10)


def test_jobs_that_wait_share_the_moment(history: HistoryStore) -> None:
    """Many edits after each other must not wait for each other's replies."""
    begun = threading.Event()
    asked = time.monotonic()
    for _ in range(30):
        history.later(lambda: None)
    history.later(begun.set)

    assert begun.wait(10)
    assert time.monotonic() - asked < 10 * store.BEHIND_REPLY_SECONDS
