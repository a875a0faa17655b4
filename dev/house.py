"""Figures of the structure and of the prose: `python -m dev.house`. With `--check`, the prose must keep its limit.

Structure: files and folders beside each other, circles of siblings (imports for types count), fields of the largest
record, parameters of the widest function. Prose: how often words of a private dialect stand in 1,000 words of
docstrings, comments and messages.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "papermill_mcp"

#: Words of the dialect, and how often they may stand in 1,000 words of prose, all together.
DIALECT = ("what", "who", "whoever", "whatever", "nobody", "somebody", "told")
LIMIT = 1.0

#: Further words that are counted and not limited.
WATCHED = ("whose", "say", "says", "said", "tell", "tells")

_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_CODE = re.compile(r"``.*?``|`[^`\n]*`|\b\w+[._]\w+|\b\w+\(")


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def prose_of(module: Path) -> Iterator[str]:
    """Docstrings, comments, and strings of four words or more, which are messages or descriptions."""
    text = module.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "noqa" not in token.string and "type: ignore" not in token.string:
            yield token.string.lstrip("#: ")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(_WORD.findall(node.value)) >= 4:
            yield node.value


def words(text: str) -> list[str]:
    """The words of a text, without code."""
    return [word.lower() for word in _WORD.findall(_CODE.sub(" ", text))]


def prose_rates() -> tuple[int, Counter[str]]:
    """How many words of prose there are, and how often each word of the dialect stands there."""
    counted: Counter[str] = Counter()
    total = 0
    for module in modules():
        for text in prose_of(module):
            found = words(text)
            total += len(found)
            counted.update(word for word in found if word in DIALECT + WATCHED)
    return total, counted


def dialect_rate() -> float:
    """How often a word of the dialect stands in 1,000 words."""
    total, counted = prose_rates()
    return 1000 * sum(counted[word] for word in DIALECT) / total


def siblings() -> list[tuple[int, str]]:
    """Modules and packages in each folder, the fullest first."""
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    found = []
    for folder in folders:
        inside = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
        found.append((len([path for path in inside if path.name != "__init__.py"]), _name(folder)))
    return sorted(found, reverse=True)


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def circles() -> list[list[str]]:
    """Groups of siblings that import each other, in any folder. Imports for types count."""
    edges: dict[str, set[tuple[str, str]]] = {}
    for module in modules():
        own = ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for target in _imports(module):
            parts, others = own.split("."), target.split(".")
            shared = 0
            while shared < min(len(parts), len(others)) and parts[shared] == others[shared]:
                shared += 1
            if 0 < shared < len(parts) and shared < len(others):
                edges.setdefault(".".join(parts[:shared]), set()).add((parts[shared], others[shared]))
    found = []
    for folder, pairs in sorted(edges.items()):
        found += [[f"{folder}.{name}" for name in group] for group in _components(pairs)]
    return found


def _imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("papermill_mcp"):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                path = PACKAGE.parent / Path(*inside.split("."))
                yield inside if path.with_suffix(".py").is_file() or path.is_dir() else str(node.module)


def _components(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Strongly connected components of two and more."""
    after: dict[str, set[str]] = {}
    for one, other in pairs:
        after.setdefault(one, set()).add(other)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for name in after.get(left.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    left.append(name)
        return seen

    reached = {name: reach(name) for name in after}
    groups = {
        frozenset({name, *(other for other in reached[name] if name in reached.get(other, ()))})
        for name in after
        if name in reached[name]
    }
    return [sorted(group) for group in groups if len(group) > 1]


def largest_records() -> list[tuple[int, str]]:
    """Classes by the number of their annotated fields."""
    found = []
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                found.append((len(fields), f"{_name(module)}:{node.name}"))
    return sorted(found, reverse=True)


def widest_functions() -> list[tuple[int, str]]:
    """Functions by the number of their parameters, `self` left out."""
    found = []
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
                count = len([name for name in names if name not in ("self", "cls")])
                found.append((count, f"{_name(module)}:{node.name}"))
    return sorted(found, reverse=True)


def long_sentences(limit: int = 20) -> tuple[int, int]:
    """Sentences of more than `limit` words in the prose, and all sentences."""
    long = every = 0
    for module in modules():
        for text in prose_of(module):
            for sentence in re.split(r"(?<=[.:;!?])\s+|\n\s*\n", text):
                count = len(_WORD.findall(sentence))
                every += count > 0
                long += count > limit
    return long, every


def report() -> str:
    """All figures as lines."""
    total, counted = prose_rates()
    lines = ["siblings in a folder: " + ", ".join(f"{name} {number}" for number, name in siblings()[:5])]
    found = circles()
    lines.append(f"circles of siblings: {len(found)}" + "".join(f"\n  {' <-> '.join(group)}" for group in found))
    lines.append("fields of a record: " + ", ".join(f"{name} {number}" for number, name in largest_records()[:5]))
    lines.append(
        "parameters of a function: " + ", ".join(f"{name} {number}" for number, name in widest_functions()[:5])
    )
    lines.append(f"words of prose: {total:,}")
    rates = [f"{word} {1000 * counted[word] / total:.2f}" for word in DIALECT + WATCHED if counted[word]]
    lines.append(f"in 1,000 words: {', '.join(rates)}")
    lines.append(f"the dialect together: {dialect_rate():.2f} (limit {LIMIT})")
    long, every = long_sentences()
    lines.append(f"sentences of more than 20 words: {long} of {every}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the figures. Returns 1 if `--check` was given and the prose is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m dev.house", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the prose is over its limit")
    parser.add_argument("--places", action="store_true", help="list each place where a word of the dialect stands")
    arguments = parser.parse_args(argv)
    if arguments.places:
        for module in modules():
            for text in prose_of(module):
                for line in text.splitlines():
                    if set(words(line)) & set(DIALECT):
                        print(f"{_name(module)}: {line.strip()}")
        return 0
    print(report())
    return int(arguments.check and dialect_rate() > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
