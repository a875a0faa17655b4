"""Many random histories of notebooks under runs and other writers, on a scripted kernel.

    python -m dev.histories --count 10000
    python -m dev.histories --count 1000 --seed 7

Prints the seed, and ends with 1 if anything was lost. See `tests/histories.py`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def run(count: int, seed: int) -> int:
    """Play the histories. Returns the exit code of pytest."""
    print(f"{count:,} histories, seed {seed}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-m",
        "slow",
        "-k",
        "hundreds_of_histories",
        "--timeout=0",
    ]
    command += [f"--hypothesis-seed={seed}", "tests/integration/runs/test_histories.py"]
    began = time.monotonic()
    code = subprocess.run(command, cwd=_ROOT, env=os.environ | {"HISTORIES": str(count)}, check=False).returncode
    print(f"{'passed' if code == 0 else 'failed'} after {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plays random histories.")
    parser.add_argument("--count", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--seed", type=int, default=None, help="of hypothesis (default: another one each time)")
    chosen = parser.parse_args()
    sys.exit(run(chosen.count, secrets.randbelow(2**32) if chosen.seed is None else chosen.seed))
