"""Draws SVG, Vega and Vega-Lite as PNG, as a process of its own. Run as a script by `drawing`.

The drawings come from files and kernels of others. The libraries that draw them are native code: no call of theirs can
be interrupted, and they fetch the URLs and files that a drawing names. So this process gives up the right to open
anything before it sees a drawing, has a limit of memory, and a timer of the system ends it.

Arguments: the forms to be drawn beside `svg`, of `vega` and `vegalite`. Standard input: for each drawing a line of JSON
with `form`, `side` (pixels), `seconds` and `size` (bytes), then the drawing. Standard output: a line of JSON for each,
with `size` and then so many bytes of a PNG, or with `error`.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import vl_convert

_MEMORY = 1 << 30
_IDLE_SECONDS = 120

#: A drawing is enlarged up to this side, at most twofold, since it has no pixels to lose.
_COMFORTABLE = 800

_BLANK = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text font-family="sans-serif">a</text></svg>'
_SPECS: dict[str, dict[str, Any]] = {
    "vega": {"width": 9, "height": 9, "marks": []},
    "vegalite": {"data": {"values": [{}]}, "mark": "point"},
}
_CONVERTERS: dict[str, Callable[..., str]] = {
    "vega": vl_convert.vega_to_svg,
    "vegalite": vl_convert.vegalite_to_svg,
}

_ROOT = re.compile(r"<(?:\w{1,40}:)?svg\b[^>]{0,20000}>")
_LENGTH = re.compile(r"\s*\+?([0-9.]{1,20}(?:[eE][+-]?\d{1,3})?)\s*(px|pt|pc|mm|cm|in|em|ex)?\s*")
_UNITS = {
    None: 1.0,
    "px": 1.0,
    "pt": 4 / 3,
    "pc": 16.0,
    "mm": 96 / 25.4,
    "cm": 96 / 2.54,
    "in": 96.0,
    "em": 12.0,
    "ex": 6.0,
}
_FAMILY_ATTRIBUTE = re.compile(r"""(font-family\s*=\s*(["'])[^"'<>]{1,500})(?=\2)""")
_FAMILY_STYLE = re.compile(r"""((?<![\w-])font(?:-family)?\s*:(?:[^;}"<>&]|&quot;){1,500})(?=[;}"<])""")


def _close_doors(forms: list[str]) -> None:
    """Load fonts and scripts, then allow no file and no connection to be opened, and little memory to be taken."""
    vl_convert.svg_to_png(_BLANK)
    for form in forms:
        _CONVERTERS[form](_SPECS[form], allowed_base_urls=[])
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))


def _scale(svg: str, side: int) -> float:
    """By how much a drawing is scaled, so that its long side has at most `side` pixels."""
    root = _ROOT.search(svg)
    tag = root[0] if root else ""
    box = re.search(r"""\sviewBox\s*=\s*["']([^"']{1,200})""", tag)
    sizes = re.split(r"[\s,]+", box[1].strip())[2:4] if box else []
    lengths = [
        _pixels(tag, name) or _number(sizes[place] if len(sizes) == 2 else "100")
        for place, name in enumerate(("width", "height"))
    ]
    longest = max(*lengths, 1.0)
    return min(side / longest, max(1.0, min(2.0, _COMFORTABLE / longest)))


def _pixels(tag: str, name: str) -> float:
    found = re.search(rf"""\s{name}\s*=\s*["']([^"']{{1,100}})""", tag)
    length = _LENGTH.fullmatch(found[1]) if found else None
    return _number(length[1]) * _UNITS[length[2]] if length else 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _with_fonts(svg: str) -> str:
    """The drawing with the font of the library as the last one of each choice, so that no text is lost."""
    for pattern in (_FAMILY_ATTRIBUTE, _FAMILY_STYLE):
        svg = pattern.sub(r"\1, sans-serif", svg)
    root = _ROOT.search(svg)
    if root is None or "font-family" in root[0]:
        return svg
    at = root.start() + root[0].index("svg") + 3
    return f'{svg[:at]} font-family="sans-serif"{svg[at:]}'


def _drawn(form: str, side: int, text: str) -> bytes:
    if form in _CONVERTERS:
        spec = json.loads(text)
        if _names_a_url(spec):
            raise ValueError("it needs data of another place")
        text = _CONVERTERS[form](spec, allowed_base_urls=[])
    return vl_convert.svg_to_png(_with_fonts(text), scale=_scale(text, side))


def _names_a_url(value: Any) -> bool:
    """Whether a chart takes data or pictures from a file or a URL. It would be drawn without them."""
    if isinstance(value, dict):
        url = value.get("url")
        if isinstance(url, str) and not url.startswith("data:"):
            return True
        value = list(value.values())
    return isinstance(value, list) and any(map(_names_a_url, value))


def main() -> None:
    """Serve drawings until standard input ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, inside a native call too
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    signal.alarm(_IDLE_SECONDS)
    forms = [form for form in sys.argv[1:] if form in _CONVERTERS]
    _close_doors(forms)
    while line := stdin.readline():
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            png = _drawn(request["form"], request["side"], stdin.read(request["size"]).decode("utf-8", "replace"))
        except Exception as error:  # of any kind: the libraries translate none of theirs
            stdout.write(
                json.dumps({"error": str(error).partition("\n")[0][:200] or type(error).__name__}).encode() + b"\n"
            )
        else:
            stdout.write(json.dumps({"size": len(png)}).encode() + b"\n" + png)
        stdout.flush()
        signal.alarm(_IDLE_SECONDS)


if __name__ == "__main__":
    main()
