"""How far property tests look: every day a little, by this command for as long as one likes.

    python -m dev.fuzz --minutes 2
    python -m dev.fuzz --minutes 600 --profile long

Runs all property tests again and again, each round with another seed and without the examples of earlier ones, and ends
with the first round that fails, or that is over after this time.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, settings

_ROOT = Path(__file__).parents[1]
_USUAL = 100  # examples of a property test that says nothing else


def register() -> None:
    """Make the profiles known to hypothesis, and use the one of every day unless the command line names another."""
    # A limit of time on a single example is noise where others use the machine, too.
    settings.register_profile("everyday", max_examples=_USUAL, deadline=None)
    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "long", max_examples=20 * _USUAL, deadline=None, derandomize=False, suppress_health_check=slow
    )
    settings.register_profile("short", max_examples=_USUAL // 5, deadline=None, database=None)
    settings.load_profile("everyday")


def examples(number: int) -> settings:
    """Settings for a property test that needs `number` examples every day; other profiles multiply it."""
    return settings(max_examples=max(number * settings().max_examples // _USUAL, 1))


def run(minutes: float, profile: str) -> int:
    """The exit code of the last round."""
    end = time.monotonic() + minutes * 60
    rounds = 0
    while True:
        seed = secrets.randbelow(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "hypothesis and not slow", "--timeout=0"]
        command += [f"--hypothesis-profile={profile}", f"--hypothesis-seed={seed}", "-p", "no:cacheprovider"]
        code = subprocess.run(command, cwd=_ROOT, check=False).returncode
        rounds += 1
        print(f"round {rounds}, seed {seed}: {'passed' if code == 0 else 'failed'}", flush=True)
        if code or time.monotonic() > end:
            return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the property tests for some time.")
    parser.add_argument("--minutes", type=float, default=10, help="at least one round is run (default 10)")
    parser.add_argument("--profile", choices=["everyday", "long"], default="everyday")
    chosen = parser.parse_args()
    sys.exit(run(chosen.minutes, chosen.profile))
