"""A small notebook with every kind of cell, and the ways in which programs write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

SMALL: dict[str, Any] = {
    "cells": [
        {"cell_type": "markdown", "id": "intro", "metadata": {}, "source": ["# Ünïcode \u2028\n", "text"]},
        {
            "cell_type": "code",
            "execution_count": 3,
            "id": "load",
            "metadata": {"tags": ["parameters"], "x": [1, 2.5, None, True, {}, []]},
            "outputs": [
                {"name": "stdout", "output_type": "stream", "text": ["a\n", "b"]},
                {
                    "data": {"image/png": "aGk=", "text/plain": ["<Figure>"], "application/json": {"k": "a\nb"}},
                    "metadata": {},
                    "output_type": "display_data",
                },
            ],
            "source": ["x = 1\n", "print('\"\\\\é')"],
        },
        {"cell_type": "raw", "id": "last", "metadata": {}, "source": []},
    ],
    "metadata": {"kernelspec": {"display_name": "P", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def dumped(value: object, **style: Any) -> str:
    return json.dumps(value, **({"ensure_ascii": False, "sort_keys": True} | style))


STYLES: dict[str, Callable[[Any], bytes]] = {
    "nbformat": lambda nb: (dumped(nb, indent=1) + "\n").encode(),
    "no final newline": lambda nb: dumped(nb, indent=1).encode(),
    "two spaces": lambda nb: dumped(nb, indent=2).encode(),
    "tabs": lambda nb: dumped(nb, indent="\t").encode(),
    "no indent but lines": lambda nb: dumped(nb, indent=0).encode(),
    "ascii only": lambda nb: dumped(nb, indent=1, ensure_ascii=True).encode(),
    "byte order mark and ascii only": lambda nb: b"\xef\xbb\xbf" + dumped(nb, indent=1, ensure_ascii=True).encode(),
    "byte order mark": lambda nb: b"\xef\xbb\xbf" + dumped(nb, indent=1).encode(),
    "crlf": lambda nb: dumped(nb, indent=1).replace("\n", "\r\n").encode(),
    "one line": lambda nb: dumped(nb).encode(),
    "compact": lambda nb: dumped(nb, separators=(",", ":")).encode(),
    "unsorted": lambda nb: dumped(dict(reversed(nb.items())), sort_keys=False, indent=1).encode(),
    "space before colon": lambda nb: dumped(nb, indent=1, separators=(",", " : ")).encode(),
    "blank lines around": lambda nb: b"\n \n" + dumped(nb, indent=3).encode() + b"\n\n\t ",
    "cells on one line each": lambda nb: (
        '{\n "cells": [\n'
        + ",\n".join("  " + dumped(cell) for cell in nb["cells"])
        + "\n ],\n"
        + dumped({key: value for key, value in nb.items() if key != "cells"}, indent=1)[2:]
    ).encode(),
    "brackets hugged": lambda nb: dumped(nb, indent=1).replace("[\n  {", "[{").replace("},\n  {", "}, {").encode(),
}
