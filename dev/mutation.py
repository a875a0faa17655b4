"""Mutation testing of the small modules that carry the promises: which slips would the tests notice?

    python -m dev.mutation
    python -m dev.mutation utils/text_utils.py --mutants 1000

Each mutant is one small change of one module: a comparison turned round, a call left out, a number off by one, a piece
of a pattern gone. It is put into a copy of the package, and the unit tests of the module run on it. A mutant that they
notice is killed; those that survive are printed, to be looked at: a test is missing, or the change makes no difference.
The seed alone decides on the sample. Too slow for CI: a hundred mutants of a module take some minutes.

No library does it, because those that there are leave out what happens when a module is imported, such as patterns and
sets, and what has a decorator, such as context managers. Here that is most of it.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import io
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = "papermill_mcp"

#: Modules, and what pytest is told to run for each: of tests/unit, the quickest first.
TARGETS: dict[str, list[str]] = {
    "services/workspace.py": ["files/test_workspace.py", "files/test_workspace_model.py"],
    "commands/jsonc.py": ["commands/test_jsonc.py"],
    "commands/toml_text.py": ["commands/test_toml_text.py"],
    "utils/file_utils.py": ["files/test_file_utils.py"],
    "utils/text_utils.py": ["outputs/test_text_utils.py", "-k", "not linear"],
    "services/outputs.py": ["outputs/test_output_view.py"],
    "server/json_rpc.py": ["server/test_guard.py"],
    "server/transport.py": ["server/test_guard.py"],
}

_OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
_CHARACTERS = re.compile(r"\\(?:x..|u.{4}|U.{8})(?:-\\(?:x..|u.{4}|U.{8}))?")


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from `start` to `end` of a module become `text`."""

    line: int
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def shown(self, source: bytes) -> str:
        old = " ".join(source[self.start : self.end].decode().split())
        return f"line {self.line}: {old[:100]}  ->  {' '.join(self.text.split())[:100] or '(nothing)'}"


def mutants(source: bytes) -> list[Mutant]:
    """All mutants of a module."""
    return sorted(set(_Mutants(source).visit_all()), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


class _Mutants:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def visit_all(self) -> Iterator[Mutant]:
        pending: list[ast.AST] = [ast.parse(self._source)]
        while pending:
            node = pending.pop()
            yield from self._of(node)
            pending += self._below(node)

    def _below(self, node: ast.AST) -> Iterator[ast.AST]:
        """What is looked at below a node: no annotations, and no messages, which no promise depends on."""
        if isinstance(node, ast.JoinedStr | ast.Raise):
            return
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, ast.AST))

    def _of(self, node: ast.AST) -> Iterator[Mutant]:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPPOSITE:
                yield self._written(node, ast.Compare(left, [_OPPOSITE[type(op)]()], [right]))  # type: ignore[list-item]
            case ast.BoolOp(op=op, values=values):
                yield self._written(node, ast.BoolOp(_OPPOSITE[type(op)](), values))  # type: ignore[arg-type]
                for number in range(len(values)):
                    yield self._written(node, ast.BoolOp(op, [*values[:number], *values[number + 1 :]]))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield self._written(node, operand)
            case ast.BinOp(left=left, op=ast.BitOr()):
                yield self._written(node, left)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPPOSITE:
                yield self._written(node, ast.BinOp(left, _OPPOSITE[type(op)](), right))  # type: ignore[arg-type]
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                for value in (True, False) if not isinstance(node, ast.While) else (False,):
                    yield self._written(test, ast.Constant(value))
            case ast.Constant(value=bool(value)):
                yield self._written(node, ast.Constant(not value))
            case ast.Constant(value=int(value)):
                yield self._written(node, ast.Constant(value + 1))
            case ast.Constant(value=str()):
                yield from self._characters(node)
            case ast.Set(elts=parts) | ast.Tuple(elts=parts, ctx=ast.Load()) if len(parts) > 1:
                for part in parts:
                    yield self._written(part, parts[0] if part is not parts[0] else parts[1])
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
                yield self._replaced(node, "pass")
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
                yield self._written(value, ast.Constant(None))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr="compile"), args=[pattern, *_]):
                yield from self._pieces(pattern)

    def _characters(self, node: ast.Constant) -> Iterator[Mutant]:
        """A list of characters in a pattern, each gone once."""
        start, end = self._span(node)
        text = self._source[start:end]
        if b'r"' in text:
            for found in _CHARACTERS.finditer(text.decode()):
                before = len(text.decode()[: found.start()].encode())
                at = start + before
                yield Mutant(self._line(at), at, at + len(found[0].encode()), "")

    def _pieces(self, pattern: ast.expr) -> Iterator[Mutant]:
        """A pattern that is written in several pieces, each gone once."""
        start, end = self._span(pattern)
        text = self._source[start:end].decode()
        pieces = [token for token in _tokens(text) if token.type == tokenize.STRING]
        for piece in pieces if len(pieces) > 1 else ():
            row, column = piece.start
            before = "".join(text.splitlines(keepends=True)[: row - 1]) + text.splitlines()[row - 1][:column]
            at = start + len(before.encode())
            yield Mutant(self._line(at), at, at + len(piece.string.encode()), '""')

    def _written(self, node: ast.AST, new: ast.AST) -> Mutant:
        return self._replaced(node, f"({ast.unparse(new)})")

    def _replaced(self, node: ast.AST, text: str) -> Mutant:
        start, end = self._span(node)
        return Mutant(self._line(start), start, end, text)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _line(self, at: int) -> int:
        return self._source.count(b"\n", 0, at) + 1


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    with contextlib.suppress(tokenize.TokenError):  # a part of a file may end anywhere
        yield from tokenize.generate_tokens(io.StringIO(text).readline)


class _Copy:
    """A copy of the package, its tests and their tools, in which one module is another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._temporary = directory / "tmp"
        for name in (_PACKAGE, "tests", "dev"):
            shutil.copytree(_ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(_ROOT / name, directory)
        compileall.compile_dir(directory, quiet=1)

    def passes(self, module: str, source: bytes, seconds: float) -> bool | None:
        """Whether the tests of a module pass on this text of it. None when they take too long."""
        path = self._directory / _PACKAGE / module
        original = path.read_bytes()
        for old in path.parent.glob(f"__pycache__/{path.stem}.*"):
            old.unlink()
        path.write_bytes(source)
        self._temporary.mkdir()
        tests = [f"tests/unit/{name}" if name.endswith(".py") else name for name in TARGETS[module]]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-n",
                "0",
                "-p",
                "no:cacheprovider",
                "--hypothesis-profile=short",
                *tests,
            ],
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self._temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            path.write_bytes(original)
            shutil.rmtree(self._temporary)


def run(module: str, copies: Sequence[_Copy], most: int, seed: int) -> str:
    """Try the mutants of a module. Returns its line of the report."""
    source = (_ROOT / _PACKAGE / module).read_bytes()
    every = mutants(source)
    chosen = random.Random(seed).sample(every, min(most, len(every)))
    began = time.monotonic()
    if not copies[0].passes(module, source, 600):
        sys.exit(f"the tests of {module} fail on the module as it is")
    limit = 20 + 5 * (time.monotonic() - began)
    free: queue.SimpleQueue[_Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def survives(mutant: Mutant) -> bool:
        copy = free.get()
        try:
            found = copy.passes(module, mutant.applied(source), limit)
        finally:
            free.put(copy)
        if found:
            print(f"  {module} {mutant.shown(source)}", flush=True)
        return found is True

    with ThreadPoolExecutor(len(copies)) as pool:
        survivors = sum(pool.map(survives, sorted(chosen, key=lambda mutant: mutant.start)))
    killed = len(chosen) - survivors
    minutes = (time.monotonic() - began) / 60
    return (
        f"{module}: {killed} of {len(chosen)} killed ({killed / len(chosen):.0%}), of {len(every)} there are; "
        f"{minutes:.0f} min"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Mutation testing of the modules that carry the promises.")
    parser.add_argument("modules", nargs="*", choices=[[], *TARGETS], help="default: all of them", metavar="module")
    parser.add_argument("--mutants", type=int, default=100, help="of each module, at most (default 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="at once (default 2)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # some tests act as another user
        made = [_Copy(Path(name) / str(number)) for number in range(given.jobs)]
        report = [run(module, made, given.mutants, given.seed) for module in given.modules or TARGETS]
    print("\n".join(report))
