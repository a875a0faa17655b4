"""The time and disk that a batch will take, estimated from complete outputs of earlier runs of the same notebook."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from papermill_mcp.core.papermill.metadata import last_run, of_notebook
from papermill_mcp.errors import ServerError
from papermill_mcp.services.notebook_service import NotebookService, OpenNotebook
from papermill_mcp.utils.text_utils import count_noun, human_size, rough_duration

#: Outputs of one notebook that are read, the newest.
_READ = 20


@dataclass(frozen=True)
class Estimate:
    """The medians of earlier outputs.

    Attributes:
        seconds: of one run.
        size: bytes of one output.
        outputs: how many there were.
    """

    seconds: float
    size: float
    outputs: int

    def sentence(self, runs: int, at_once: int | None) -> str:
        """For a person. Args: `at_once`: runs that go on together; None if that is not known."""
        together = min(at_once or 1, runs)
        whole = rough_duration(self.seconds * -(-runs // together))
        return (
            f"estimate from {count_noun(self.outputs, 'earlier output')}: {rough_duration(self.seconds)} a run, "
            f"{whole} for {count_noun(runs, 'run')} with {together} at a time, "
            f"{human_size(round(self.size * runs))} on the disk"
        )


async def estimate(notebook: Path, files: Sequence[Path], notebooks: NotebookService) -> Estimate | None:
    """An estimate from files that may be outputs of a notebook; None if none of them is a complete one.

    Args:
        files: the newest first.
    """
    seconds: list[float] = []
    sizes: list[int] = []
    for file in files[:_READ]:
        try:
            async with notebooks.opened(notebooks.display_path(file), light=True) as (output, _):
                took = _duration(output, notebook)
        except ServerError:
            continue
        if took is not None:
            seconds.append(took)
            sizes.append(output.content.stamp.size if output.content is not None else 0)
    return Estimate(statistics.median(seconds), statistics.median(sizes), len(seconds)) if seconds else None


def _duration(output: OpenNotebook, notebook: Path) -> float | None:
    """Seconds of the run that made an output; None if it is not complete, or of another notebook."""
    run = last_run(output.document)
    if run is None or run.status != "completed" or of_notebook(output.document).get("input_path") != str(notebook):
        return None
    return run.duration
