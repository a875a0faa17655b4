"""Real environments for tests: virtual ones, the layout of conda, and wheels that a test makes."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

#: Variables by which installers would see other indexes.
_INDEXES = (
    *("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_CONFIG_FILE", "UV_WORKING_DIR"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TARGET", "PIP_USER", "PIP_CONSTRAINT", "UV_CONSTRAINT"),
)


def make_venv(directory: Path, *, python: str = sys.executable, modules: Mapping[str, str] | None = None) -> Path:
    """A virtual environment without pip and without ipykernel. `modules`: sources by name, put into it."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60)
    put_modules(directory, modules or {})
    return directory


def put_modules(environment: Path, modules: Mapping[str, str]) -> None:
    """Put modules into the packages of an environment."""
    site = next(environment.glob("lib/python*/site-packages"))
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)


def make_conda(directory: Path, *, modules: Mapping[str, str] | None = None) -> Path:
    """The layout of a conda environment, with the interpreter of this one: `conda-meta`, `bin`, `lib`."""
    version = ".".join(map(str, sys.version_info[:3]))
    (directory / "conda-meta").mkdir(parents=True)
    (directory / "conda-meta" / f"python-{version}-h0_0_cpython.json").write_text("{}")
    site = directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (directory / "bin").mkdir()
    python = directory / "bin" / "python"
    # A real conda has an interpreter of its own. This one is told where its packages are.
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    put_modules(directory, modules or {})
    return directory


def make_wheel(directory: Path, name: str, version: str, source: str) -> Path:
    """A wheel with one module, as an index has it."""
    directory.mkdir(parents=True, exist_ok=True)
    metadata = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{metadata}/RECORD"] = "\n".join([*rows, f"{metadata}/RECORD,,", ""])
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def make_index(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of wheels, the only one that installers of this test see: `alone` in two versions, and `other`."""
    index = directory / "index"
    for version in ("1.0", "2.0"):
        make_wheel(index, "alone", version, f"VERSION = {version!r}\n")
    make_wheel(index, "other", "1.0", "VERSION = '1.0'\n")
    for name in _INDEXES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for program in ("UV", "PIP"):
        monkeypatch.setenv(f"{program}_FIND_LINKS", str(index))
        monkeypatch.setenv(f"{program}_CACHE_DIR", str(directory / f"{program.lower()}-cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return index
