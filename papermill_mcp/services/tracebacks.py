"""Which frames of a traceback are shown: those of the reader's own code, the innermost ones, and the message."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from papermill_mcp.utils.text_utils import count_noun, head_and_tail

_OWN_SHARE = 4
"""Frames of own code may take so many times the limit."""

_FEW = 2
"""So many equal frames in a row are all shown."""

# The first line of a frame as IPython 7 to 9 write it.
_CELL = re.compile(r"\s*(?:Cell |Input )?In ?\[\d+\]|\s*<ipython-input-|\s*(?:File )?[^\n]*ipykernel_\d+[/\\]\d+\.py")
_FILE = re.compile(r"\s*(?:File )?(\S[^\n]*?\.(?:py|ipynb))\b")
_LIBRARY = re.compile(r"(?:site|dist)-packages|[/\\]lib\d*[/\\]python|[/\\]Lib[/\\]|<frozen ")


def folded(entries: Sequence[str]) -> list[str]:
    """The entries of a traceback, with a frame that is repeated in a row once and the number of its repeats."""
    found: list[str] = []
    for entry, group in itertools.groupby(entries):
        same = list(group)
        is_frame = len(same) > _FEW and "\n" in entry
        found += [f"{entry}\n… this frame {len(same)} times …"] if is_frame else same
    return found


def trimmed(entries: Sequence[str], limit: int) -> tuple[str, int]:
    """A traceback in about `limit` characters, and how many are left out.

    IPython sends an entry for each frame and the message as the last one. A long message is cut in its middle and
    gets at most half of the room. The last frames fill the rest of the room. Frames of own code come on top.
    """
    whole = "\n".join(entries)
    if len(whole) <= limit:
        return whole, 0
    if limit <= 0:
        return "", len(whole)
    *frames, message = entries if len(entries) > 1 else whole.rsplit("\n", 1)
    last, cut = head_and_tail(message, max(limit // 2, 1) if frames else limit)
    kept_frames, start = _split(frames, limit - (len(message) - cut))
    own = _own_frames(kept_frames[:start], _OWN_SHARE * limit)
    lines, left_out = _with_gaps(kept_frames, {*own, *range(start, len(kept_frames))})
    return "\n".join([*lines, last]), cut + left_out


def _split(frames: Sequence[str], room: int) -> tuple[list[str], int]:
    """The frames, and the place of the first of the last ones that fit.

    If not even the innermost one fits whole, it is split, so that its last lines do. One of own code is not split.
    """
    start = len(frames)
    while start and len(frames[start - 1]) + 1 <= room:
        start -= 1
        room -= len(frames[start]) + 1
    if start < len(frames) or not frames or is_own(frames[-1]):
        return list(frames), start
    *above, frame = frames
    cut = frame.find("\n", max(len(frame) - room, 0))
    return ([*above, frame[:cut], frame[cut + 1 :]] if cut >= 0 else list(frames)), start


def _with_gaps(frames: Sequence[str], kept: set[int]) -> tuple[list[str], int]:
    """The kept frames with a line for each gap, and the number of characters that are left out."""
    lines: list[str] = []
    left_out = 0
    for is_kept, places in itertools.groupby(range(len(frames)), kept.__contains__):
        part = [frames[place] for place in places]
        if is_kept:
            lines += part
            continue
        size, number = sum(map(len, part)) + len(part), sum(text.count("\n") + 1 for text in part)
        lines.append(f"… {count_noun(size, 'character')} ({count_noun(number, 'line')}) left out …")
        left_out += size
    return lines, left_out


def _own_frames(frames: Sequence[str], room: int) -> set[int]:
    """The places of the frames of own code: the outermost one and the innermost ones that fit, equal ones once."""
    own = {frame: place for place, frame in enumerate(frames) if is_own(frame)}
    places = sorted(own.values())
    kept: set[int] = set()
    for place in [*places[:1], *reversed(places[1:])]:
        room -= len(frames[place]) + 1
        if room < 0:
            break
        kept.add(place)
    return kept


def is_own(frame: str) -> bool:
    """Whether a frame stands in a cell, or in a file that is part of no library."""
    head = frame.lstrip("\n").partition("\n")[0]
    if _CELL.match(head):
        return True
    file = _FILE.match(head)
    return file is not None and not _LIBRARY.search(file[1])
