"""A model of a power cut: what a disk may have after any step of a save, written down while a save is carried out."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.utils.file_utils import read_file, write_file

NAME = "n.ipynb"
OLD, NEW = b"old version\n" * 3, b"the new version, of another length\n" * 5


@dataclass
class Step:
    """What a save asked of the disk.

    Attributes:
        kind: `write`, `sync`, `sync directory`, or a change of the directory: `name` or `unname`.
        file: the inode.
    """

    kind: str
    file: int = 0
    name: str = ""
    data: bytes = b""


@dataclass
class Recorder:
    """Notes the steps of a save while they are carried out."""

    directory: Path
    steps: list[Step] = field(default_factory=list)

    def inode(self, name: str) -> int:
        return (self.directory / name).stat().st_ino

    @contextmanager
    def recording(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "link", "unlink")}

        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            descriptor: int = real["open"](path, flags, *arguments, **options)
            if flags & os.O_CREAT:
                self.steps.append(Step("name", os.fstat(descriptor).st_ino, str(path)))
            assert not flags & os.O_TRUNC, "a file is emptied before it is written"
            return descriptor

        def written(descriptor: int, data: Any) -> int:
            number: int = real["write"](descriptor, data)
            self.steps.append(Step("write", os.fstat(descriptor).st_ino, data=bytes(data[:number])))
            return number

        def synced(descriptor: int) -> None:
            real["fsync"](descriptor)
            status = os.fstat(descriptor)
            self.steps.append(Step("sync directory" if stat.S_ISDIR(status.st_mode) else "sync", status.st_ino))

        def replaced(source: str, target: str, **options: Any) -> None:
            inode = self.inode(source)
            real["replace"](source, target, **options)
            self.steps.append(Step("name", inode, target))
            self.steps.append(Step("unname", name=source))

        def linked(source: str, target: str, **options: Any) -> None:
            real["link"](source, target, **options)
            self.steps.append(Step("name", self.inode(target), target))

        def unlinked(name: str, **options: Any) -> None:
            real["unlink"](name, **options)
            self.steps.append(Step("unname", name=name))

        with pytest.MonkeyPatch.context() as patch:
            calls = {"open": opened, "write": written, "fsync": synced}
            for name, call in (calls | {"replace": replaced, "link": linked, "unlink": unlinked}).items():
                patch.setattr(os, name, call)
            yield


def found_after(steps: list[Step], names: dict[str, int], files: dict[int, bytes]) -> Iterator[bytes | None]:
    """What can be found under the name after a power cut at the end of these steps.

    What was flushed is there. Of the rest, any of the changes of the directory may be there or not, and of the bytes of
    a file nothing, a part, zeros in their place, or all.
    """
    sure = max((number for number, step in enumerate(steps) if step.kind == "sync directory"), default=-1)
    changes = [(number, step) for number, step in enumerate(steps) if step.kind in ("name", "unname")]
    loose = [step for number, step in changes if number > sure]
    for chosen in itertools.product((False, True), repeat=len(loose)):
        there = dict(names)
        kept = [step for step, keep in zip(loose, chosen, strict=True) if keep]
        for step in [step for number, step in changes if number < sure] + kept:
            if step.kind == "name":
                there[step.name] = step.file
            else:
                there.pop(step.name, None)
        file = there.get(NAME)
        if file is None:
            yield None
            continue
        flushed, unsure = files.get(file, b""), b""
        for step in steps:
            if step.file == file and step.kind == "write":
                unsure += step.data
            elif step.file == file and step.kind == "sync":
                flushed, unsure = flushed + unsure, b""
        for part in {b"", unsure[: len(unsure) // 2], bytes(len(unsure)), unsure}:
            yield flushed + part


def states(directory: Path, *, exists: bool, durable: bool) -> list[set[bytes | None]]:
    """What can be found, after each step of a save."""
    path = directory / NAME
    names, files = {}, {}
    if exists:
        path.write_bytes(OLD)
        names, files = {NAME: path.stat().st_ino}, {path.stat().st_ino: OLD}
    expected = read_file(path, max_bytes=1000, display_path=NAME) if exists else None
    recorder = Recorder(directory)
    descriptor = os.open(directory, os.O_RDONLY)  # keeps inode numbers from being used again
    try:
        with recorder.recording():
            write_file(path, NEW, expected=expected, display_path=NAME, durable=durable)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == NEW
    steps = recorder.steps
    return [set(found_after(steps[:end], names, files)) for end in range(len(steps) + 1)]
