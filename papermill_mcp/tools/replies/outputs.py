"""How outputs and errors read."""

from __future__ import annotations

from papermill_mcp.services.outputs import ErrorView, OutputView
from papermill_mcp.tools.replies.text import fenced
from papermill_mcp.utils.text_utils import clean_text, one_line


def output_blocks(outputs: list[OutputView] | None) -> list[str]:
    lines = []
    for output in outputs or []:
        facts = [output.name or output.output_type]
        if output.omitted_chars and not output.text:  # a text that is cut says so itself
            facts.append(f"{output.omitted_chars} characters left out")
        if output.note:
            facts.append(clean_text(output.note))
        label = " · ".join(facts)
        lines += fenced(output.text, label) if output.text else [f"[{label}]"]
    return lines


def error_block(error: ErrorView) -> list[str]:
    return [f"error: {error_line(error)}", *(fenced(error.traceback, "traceback") if error.traceback else [])]


def error_line(error: ErrorView) -> str:
    return one_line(f"{error.ename}: {error.evalue}" if error.evalue else error.ename, 500)
