"""Prompts that a client offers to its user. A prompt is one function here. Its arguments are data, in code spans."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_types import GetPromptResult, Prompt, PromptArgument, PromptMessage

from papermill_mcp.errors import InvalidArgumentError, listed
from papermill_mcp.tools.replies.text import code_span
from papermill_mcp.tools.toolset import text_content


@dataclass(frozen=True)
class _PromptEntry:
    function: Callable[..., str]
    needs: Sequence[str]
    listing: Prompt


def _prompt(title: str, needs: Sequence[str], **descriptions: str) -> Callable[[Callable[..., str]], _PromptEntry]:
    """Make a function a prompt, with a description for each of its arguments.

    Args:
        needs: the tools that it names; without them it is not offered.
    """

    def entry(function: Callable[..., str]) -> _PromptEntry:
        parameters = inspect.signature(function).parameters
        arguments = [
            PromptArgument(name=name, description=text, required=parameters[name].default is inspect.Parameter.empty)
            for name, text in descriptions.items()
        ]
        listing = Prompt(name=function.__name__, title=title, description=inspect.getdoc(function), arguments=arguments)
        return _PromptEntry(function, needs, listing)

    return entry


@_prompt(
    "Run a notebook with parameters",
    needs=("get_notebook_info", "execute_notebook_papermill", "get_execution"),
    path="Notebook to run.",
    parameters="Values, such as `year=1950, station=Aswan`. Default: its own.",
    kernel_name="Kernel to run it in. Default: its own.",
)
def run_notebook(path: str, parameters: str = "", kernel_name: str = "") -> str:
    """Run a notebook with parameters, and report the results."""
    wish = f"Use these values: {parameters}." if parameters else "Use its own values unless they make no sense."
    wish += f" Run it in the kernel {kernel_name}." if kernel_name else ""
    return (
        f"Run the notebook {path} with Papermill. First look at its parameters with get_notebook_info: names, types "
        f"and defaults. {wish} Then call execute_notebook_papermill, with an output_path that says which values were "
        "used. If it answers `running`, follow it with get_execution. Tell me the values you used, what the notebook "
        "recorded or printed at its end, and where the output is. If a cell fails, show its source and error, and "
        "stop there."
    )


@_prompt(
    "Explain a failed run",
    needs=("get_execution", "read_notebook", "inspect_variables"),
    execution_id="Execution that failed.",
)
def explain_failed_run(execution_id: str) -> str:
    """Find the cause of a failed run, and the fix."""
    return (
        f"The execution {execution_id} failed. Look at it with get_execution, and read the failed cell and those "
        "before it with read_notebook. If its kernel was kept, look at the variables with inspect_variables. Tell me "
        "what went wrong, since which cell the cause was there, and the smallest change that fixes it. Change nothing "
        "yet. If the kernel is still there, say how the run can go on from the failed cell instead of from the start."
    )


@_prompt("Tidy a notebook for review", needs=("edit_notebook", "execute_notebook"), path="Notebook to tidy.")
def tidy_notebook(path: str) -> str:
    """Make a notebook ready for review, without changing its results."""
    return (
        f"Make the notebook {path} ready for review. Read its outline first, then its cells. Propose, and after my yes "
        "make with edit_notebook, in one step: a heading and a sentence before each part, imports in the first code "
        "cell, values that a reader may want to change in one cell with the tag `parameters`, no cells that are empty "
        "or do nothing, outputs of failed attempts cleared. Do not change the results. Then run it from top to "
        "bottom with execute_notebook in a new kernel, and tell me whether results differ from those that were there."
    )


_PROMPTS = {entry.listing.name: entry for entry in (run_notebook, explain_failed_run, tidy_notebook)}


def offered_prompts(tools: Collection[str]) -> list[Prompt]:
    """The prompts for which there are tools."""
    return [entry.listing for entry in _PROMPTS.values() if set(entry.needs) <= set(tools)]


def check_prompt(name: str, tools: Collection[str]) -> None:
    """Check that a prompt is offered.

    Raises:
        InvalidArgumentError: it is not.
    """
    offered = [known.name for known in offered_prompts(tools)]
    if name not in offered:
        raise InvalidArgumentError(
            f"there is no prompt {name[:100]!r}", allowed=f"the prompts: {listed(offered, limit=20)}"
        )


def filled_prompt(name: str, arguments: Mapping[str, Any], tools: Collection[str]) -> GetPromptResult:
    """A prompt with its arguments filled in.

    Raises:
        InvalidArgumentError: no such prompt, or an argument is missing or unknown.
    """
    check_prompt(name, tools)
    entry = _PROMPTS[name]
    described = {argument.name: argument for argument in entry.listing.arguments or []}
    missing = [known for known, argument in described.items() if argument.required and not arguments.get(known)]
    unknown = [given for given in arguments if given not in described]
    if missing or unknown:
        wrong = f"needs the argument {missing[0]!r}" if missing else f"has no argument {unknown[0][:100]!r}"
        raise InvalidArgumentError(f"{name} {wrong}", allowed=f"its arguments: {listed(described, limit=20)}")
    text = entry.function(**{given: code_span(str(value)) for given, value in arguments.items() if value})
    return GetPromptResult(
        description=entry.listing.description,
        messages=[PromptMessage(role="user", content=text_content(text))],
    )
