"""What clients of three servers over one Redis were told, while servers and Redis are killed, stopped and continued."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.histories.checks import check
from tests.support.histories.trial import QUIET, trial

SECONDS = float(os.environ.get("PEERLOAD_HISTORY_SECONDS", "15"))
SEED = int(os.environ.get("PEERLOAD_HISTORY_SEED", str(time.time_ns() % 1_000_000)))
ROUND = 120.0


class Progress:
    """Counts over all rounds, told once a minute."""

    def __init__(self) -> None:
        self.begun = self._told = time.monotonic()
        self.calls = self.faults = 0

    def __call__(self, calls: int, faults: int, seed: int) -> None:
        now = time.monotonic()
        if now - self._told >= 60:
            self._told = now
            minutes = round((now - self.begun) / 60)
            print(f"{minutes} min: {self.calls + calls} calls, {self.faults + faults} faults, seed {seed}", flush=True)


@pytest.mark.timeout(SECONDS * 1.5 + 150)
def test_nobody_is_told_what_is_not_so(tmp_path: Path) -> None:
    print(f"PEERLOAD_HISTORY_SEED={SEED}", flush=True)
    progress = Progress()
    end = progress.begun + SECONDS
    seed = SEED
    while True:
        seconds = min(ROUND, end - time.monotonic())
        history = trial(
            tmp_path / str(seed), seconds, seed, lambda calls, faults, seed=seed: progress(calls, faults, seed)
        )
        wrong = check(history)
        done = [f"{fault.what} {fault.begun:.2f}..{fault.ended:.2f}" for fault in history.faults]
        assert not wrong, "\n".join([f"seed {seed}, {len(wrong)} contradictions after {done}", *wrong[:10]])
        calls = [*history.writes, *history.rivals, *history.looks]
        answered = sum((call.shown if hasattr(call, "shown") else call.answer) is not None for call in calls)
        progress.calls += len(calls)
        progress.faults += len(history.faults)
        print(f"seed {seed}: {len(calls)} calls, {answered} answered, {len(history.faults)} faults", flush=True)
        assert answered > len(calls) / 4
        seed += 1
        if end - time.monotonic() < 2 * QUIET:
            return
