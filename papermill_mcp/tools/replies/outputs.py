"""How outputs and errors read."""

from __future__ import annotations

from papermill_mcp.services.outputs import ErrorView, OutputView
from papermill_mcp.tools.replies.text import fenced
from papermill_mcp.utils.text_utils import clean_text, one_line

_HEADLINE = "Traceback (most recent call last)"


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
    """The error in one line, and its traceback without the lines that say the same."""
    frames = _frames(error)
    return [f"error: {error_line(error)}", *(fenced(frames, "traceback") if frames else [])]


def _frames(error: ErrorView) -> str:
    """The traceback without the headline of IPython, and without the message where one line has it."""
    first, _, rest = error.traceback.partition("\n")
    frames = rest if first.startswith(error.ename) and first.endswith(_HEADLINE) else error.traceback
    above, _, last = frames.rstrip("\n").rpartition("\n")
    return above if last == error_line(error) else frames


def error_line(error: ErrorView) -> str:
    return one_line(f"{error.ename}: {error.evalue}" if error.evalue else error.ename, 500)
