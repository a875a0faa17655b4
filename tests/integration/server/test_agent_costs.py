"""What an agent pays for nine pieces of work, as `benchmarks/agent.py` measures it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from helpers import REPOSITORY

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

#: The measured costs are 22 calls and 2,076 tokens. Times and paths in replies differ by a few characters.
_CALLS, _TOKENS = 22, 2400


@pytest.mark.timeout(120)
def test_nine_pieces_of_work_cost_no_more_calls_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    bench = importlib.import_module("run").Bench(tmp_path)
    agent = importlib.import_module("agent")
    with bench.ours() as server:
        server.handshake()
        costs = agent.measure(server, bench.workspace)
    whole = agent.total(costs)
    assert len(costs) == 9
    assert whole.calls <= _CALLS, costs
    assert whole.text <= _TOKENS, costs
