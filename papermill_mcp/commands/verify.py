"""`verify`: runs notebooks afresh and compares their outputs, for continuous integration and before a commit."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pydantic import ValidationError

from papermill_mcp.config import PROGRAM, Config, ConfigError, load_config
from papermill_mcp.errors import ServerError
from papermill_mcp.services.runs.requests import VerifyRequest
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.text_utils import clean_text, count_noun, head_and_tail, safe_utf8

if TYPE_CHECKING:
    from papermill_mcp.core.runs.snapshot import NotebookVerdict
    from papermill_mcp.core.verification import blanking
    from papermill_mcp.core.verification.blanking import Blank
    from papermill_mcp.server import app, readiness
    from papermill_mcp.utils import file_utils
else:
    app = lazy("papermill_mcp.server.app")
    blanking = lazy("papermill_mcp.core.verification.blanking")
    readiness = lazy("papermill_mcp.server.readiness")
    file_utils = lazy("papermill_mcp.utils.file_utils")

_EPILOG = """\
Exit code: 0 no notebook differs, 1 one differs, fails or cannot be run, 2 the arguments cannot be used. Cells without
saved outputs have only to run.
Tags and comments of nbval are followed: nbval-ignore-output, nbval-skip, raises-exception.
"""

_MAX_FILE_BYTES = 1_000_000

#: Characters of the differences of one notebook.
_CHARS = 20_000

_QUIET = ("same", "ignored")

#: The verdicts on notebooks in which no output differs.
_GOOD = ("same", "never_run")


def verify(arguments: Sequence[str]) -> int:
    """Verify notebooks and print the differences. Returns the exit code, as the help has it."""
    parser = _parser()
    options = parser.parse_args(list(arguments))
    for path in options.paths:
        if not Path(path).exists():
            sys.stderr.write(f"{PROGRAM} verify: {path} does not exist; nothing was run\n")
            return 2
    if options.junit is not None and not Path(options.junit).absolute().parent.is_dir():
        sys.stderr.write(f"{PROGRAM} verify: the directory of {options.junit} does not exist; nothing was run\n")
        return 2
    try:
        request = VerifyRequest(
            path=".",
            against=options.against,
            compare=options.compare,
            rtol=options.rtol,
            ignore=options.ignore,
            repeat=options.repeat,
            update=options.update,
            timeout=options.timeout,
            python=options.python,
        )
        config = load_config(["--roots", *dict.fromkeys(map(str, _roots(options.paths)))])
    except (ConfigError, ValidationError) as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        sys.stderr.write(f"{PROGRAM} verify: {text}\n")
        return 2
    try:
        rows = asyncio.run(
            _verified(config, request, options.paths, _blanks(options.sanitize_with), report=options.report)
        )
    except ServerError as error:
        sys.stderr.write(f"{PROGRAM} verify: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    if options.junit is not None:
        junit = Path(options.junit).absolute()
        file_utils.write_file(
            junit.parent.resolve() / junit.name,
            junit_report(rows),
            expected=None,
            overwrite=True,
            display_path=junit.name,
        )
    bad = sum(row.verdict not in _GOOD for row in rows)
    print_line(f"{count_noun(len(rows), 'notebook')}: {len(rows) - bad} well, {bad} not")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} verify",
        description="Run notebooks from top to bottom in fresh kernels, and compare their outputs with the saved ones.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="notebooks, and directories of them")
    add("--against", default="saved", help='"saved" (default), or "git:REV"')
    add("--compare", choices=["strict", "numeric", "run"], default="strict", help="default: strict")
    add("--rtol", type=float, default=1e-5, help="relative tolerance with --compare numeric (default 1e-05)")
    add("--ignore", action="append", metavar="REGEX", help="text that does not count; may be repeated")
    add("--sanitize-with", action="append", metavar="FILE", default=[], help="a sanitiser file of nbval")
    add("--repeat", type=int, default=1, help="fresh runs, 1 to 5; finds flaky cells (default 1)")
    add("--update", action="store_true", help="write the fresh outputs of cells that differ")
    add("--timeout", type=float, help="seconds a cell may run (default: no limit)")
    add("--python", help="the Python that runs the notebooks (default: as in the server)")
    add("--report", action="store_true", help="write a table and an HTML report below the output directory")
    add("--junit", metavar="FILE", help="write a report in JUnit's form of XML")
    return parser


def _roots(paths: Sequence[str]) -> list[Path]:
    """The current directory, and the place of each path outside of it."""
    here = Path.cwd()
    found = [here]
    for path in paths:
        real = Path(path).absolute().resolve()
        place = real if real.is_dir() else real.parent
        if not any(place.is_relative_to(root.resolve()) for root in found):
            found.append(place)
    return found


def _blanks(sanitizers: Sequence[str]) -> list[Blank]:
    """The expressions of sanitiser files.

    Raises:
        ServerError: one cannot be read, or is none.
    """
    found: list[Blank] = []
    for name in sanitizers:
        real = Path(name).absolute().resolve()
        content = file_utils.read_file(real, max_bytes=_MAX_FILE_BYTES, display_path=name)
        found += blanking.sanitizers(content.data.decode("utf-8", "replace"), name)
    return found


async def _verified(
    config: Config, request: VerifyRequest, paths: Sequence[str], blanks: list[Blank], *, report: bool
) -> list[NotebookVerdict]:
    """Verify the notebooks of all paths, printing each.

    Raises:
        ServerError: a path is none, or an expression cannot be used. Nothing was run.
    """
    state = app.state_directory(config)
    ready = readiness.Readiness(config, state)
    await ready.check()
    await blanking.checked(blanks)
    rows: list[NotebookVerdict] = []
    async with app.open_services(config, ready.workspace, state) as services:
        services.verifier.blanks = blanks
        begin = services.verifier.directory
        runs = [await begin(request.model_copy(update={"path": path}), report=report) for path in paths]
        for run in runs:
            run.on_row = _print
            run.start()
            try:
                await run.wait()
            except asyncio.CancelledError:
                await run.cancel()
                raise
            rows += run.rows
    return rows


def _print(row: NotebookVerdict) -> None:
    counts = ", ".join(f"{number} {name}" for name, number in row.counts.items())
    print_line(f"{row.path}: {row.verdict}" + (f" ({counts})" if counts else "") + f" · {row.seconds:.1f} s")
    if row.verdict != "same":
        print_line(_differences(row))


def _differences(row: NotebookVerdict) -> str:
    lines = [row.text] if row.text is not None and not row.cells else []
    for cell in row.cells:
        if cell.verdict in _QUIET:
            continue
        lines.append(f"  cell {cell.index}: {cell.verdict}")
        for found in cell.differences:
            separator = "\n" if "\n" in found.text else " "
            lines += [f"    {line}" for line in f"{found.what}:{separator}{found.text}".split("\n")]
    text, _ = head_and_tail("\n".join(map(clean_text, lines)), _CHARS)
    return text


def junit_report(rows: Sequence[NotebookVerdict]) -> bytes:
    """The verdicts in JUnit's form: a suite, and a case for each notebook."""
    failed = [row for row in rows if row.verdict not in (*_GOOD, "refused")]
    refused = [row for row in rows if row.verdict == "refused"]
    suite = ElementTree.Element(
        "testsuite",
        name="verify_notebook",
        tests=str(len(rows)),
        failures=str(len(failed)),
        errors=str(len(refused)),
        time=f"{sum(row.seconds for row in rows):.3f}",
    )
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname="notebook", name=_plain(row.path), time=f"{row.seconds:.3f}"
        )
        if row.verdict not in _GOOD:
            kind = "error" if row.verdict == "refused" else "failure"
            bad = ElementTree.SubElement(case, kind, type=row.verdict, message=_plain(_message(row)))
            bad.text = _plain(_differences(row))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    report: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return report


def _message(row: NotebookVerdict) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in row.counts.items() if name not in _QUIET)
    return f"{row.verdict}: {counts}" if counts else row.verdict


def _plain(text: str) -> str:
    """A text with characters that XML 1.0 allows."""
    return "".join(one for one in safe_utf8(clean_text(text)) if one in "\t\n" or one >= " ")


def print_line(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(safe_utf8(text) + "\n")
    sys.stdout.flush()
