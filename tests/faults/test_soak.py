"""A server under abuse for a minute; `make soak SECONDS=1800` for as long as you like, where waiting times are judged too."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.soak import MIB, Soak

LONG = float(os.environ.get("PEERLOAD_SOAK_SECONDS") or 0)
SECONDS = LONG or 60.0
SEED = int(os.environ.get("PEERLOAD_SOAK_SEED") or 0) or random.randrange(1, 2**32)
KINDS = tuple((os.environ.get("PEERLOAD_SOAK_KINDS") or "").split())
SLOWER = 2.0
"""By how much the 99th percentile of those who behave may grow."""


@pytest.mark.timeout(SECONDS * 1.1 + 300)
def test_soak(tmp_path: Path) -> None:
    soak = Soak(SECONDS, SEED, tmp_path, os.environ.get("PEERLOAD_FRONT", ""), KINDS)
    soak.run()
    print(f"\n{SECONDS:g} s, seed {SEED}: the server held {soak.peak / MIB:.0f} MiB at most")
    print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in sorted(soak.abuses.items())))
    for call, (quiet, abused) in soak.slower().items():
        count = len(soak.waits["abused"][call])
        print(f"{call}: p99 {quiet * 1e3:.1f} ms quiet, {abused * 1e3:.1f} ms abused ({count} calls)")
    if soak.wrong:
        said = "\n".join(line for line in soak.log.splitlines() if '"logger": "peerload' in line)
        print(f"the server said:\n{said[-8000:]}")
    assert not soak.wrong, f"seed {SEED}: {soak.wrong}"
    # It was a run worth the name.
    assert len(soak.abuses) == (len(KINDS) or 13)
    assert soak.waits["abused"]["heartbeat"]
    if LONG:
        late = {call: times for call, times in soak.slower().items() if times[1] > SLOWER * times[0]}
        assert not late, f"slower than {SLOWER:g} times their quiet p99, in seconds: {late}"
