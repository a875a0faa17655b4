"""Jupyter's runtime directory as a tool shows it: names and what the directory says of them, never contents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import call, facts_of, text_of


async def test_a_runtime_directory_that_is_not_there(
    client: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "none"))
    async with client() as connected:
        facts = await call(connected, "debug_list_runtime_dir")

    assert facts == {"runtime_dir": str(tmp_path / "none"), "exists": False, "files": [], "count": 0}
    assert not (tmp_path / "none").exists()


@pytest.mark.case("S11")
async def test_a_runtime_directory_is_listed_without_opening_what_is_in_it(
    client: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "jupyter"
    directory.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(directory))
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number in range(10_000):
        (directory / f"kernel-{number:08}.json").write_text("")
        os.utime(directory / f"kernel-{number:08}.json", (number, number))
    for name in (f"jpserver-{os.getpid()}.json", f"jpserver-{ended.pid}.json", "kernel-x.json", "x_cookie_secret"):
        (directory / name).write_text("CANARY")
    (directory / f"nbserver-{os.getpid()}-open.html").write_text("CANARY")
    os.utime(directory / f"nbserver-{os.getpid()}-open.html", (10**9, 10**9))  # before this process began
    (directory / "kernel-x.json").chmod(0)
    (directory / "kernel-link.json").symlink_to("/etc/passwd")
    (directory / "kernel-\x1b[31m.json").touch()
    os.mkfifo(directory / "pipe")
    os.utime(directory / "pipe", (2**32, 2**32))
    opened: list[str] = []
    listening = True

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hear)  # it stays for the life of the process
    async with client() as connected:
        began = time.monotonic()
        result = await connected.call_tool("debug_list_runtime_dir", {})
        took = time.monotonic() - began
    listening = False

    facts = facts_of(result)
    files = {row["name"]: row for row in facts["files"]}
    assert took < 2
    assert facts["count"] == 10_008
    assert len(files) == 100
    assert files[f"jpserver-{os.getpid()}.json"].items() >= {"kind": "server", "size": 6, "owner_alive": True}.items()
    assert files[f"jpserver-{ended.pid}.json"]["owner_alive"] is False
    assert files[f"nbserver-{os.getpid()}-open.html"].items() >= {"kind": "page", "owner_alive": False}.items()
    assert files["kernel-x.json"]["kind"] == "kernel"
    assert "owner_alive" not in files["kernel-x.json"]
    assert files["x_cookie_secret"]["kind"] == "secret"
    assert files["pipe"]["kind"] == "other"
    assert "files: 100 of 10008" in text_of(result)
    assert "CANARY" not in text_of(result) + json.dumps(facts)
    assert "root:" not in text_of(result)
    assert "\x1b" not in text_of(result)
    names = {path.name for path in directory.iterdir()}
    assert not [path for path in opened if Path(path).name in names and path != directory.name]
    assert any(Path(path).name == directory.name for path in opened), "the hook hears nothing"
