"""Every engine under chaos, for some seconds; `make chaos ENGINE=tcp SECONDS=1800` for as long as you like."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.faults.chaos import MIB, PATIENCE, Chaos
from tests.support.engines import need_engine

SECONDS = float(os.environ.get("PEERLOAD_CHAOS_SECONDS") or 5)
SEED = int(os.environ.get("PEERLOAD_CHAOS_SEED") or 0) or random.randrange(1, 2**32)
ONLY = os.environ.get("PEERLOAD_CHAOS_ENGINE")

_LINE: dict[str, Any] = {"progress_timeout": PATIENCE, "connect_timeout": PATIENCE, "max_bytes_per_second": 100 * MIB}
ENGINES: dict[str, dict[str, Any]] = {
    "memfd": {"settings": _LINE, "shared": True, "maps": True},
    "mooncake": {"settings": _LINE, "children": True},
    "nixl": {"settings": _LINE, "children": True},
    "tcp": {"settings": {**_LINE, "large_read": MIB}},
}
"""What each is run with: how it gives up in time, and slowly enough for something to happen in the middle."""


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("engine", [name for name in ENGINES if ONLY in (None, "", name)])
def test_chaos(engine: str) -> None:
    need_engine(engine, module=False)
    chaos = Chaos(engine, SECONDS, SEED, **ENGINES[engine])
    chaos.run()
    counts = ", ".join(f"{count} {what}" for what, count in chaos.seen.items())
    print(f"\n{engine}, {SECONDS:g} s, seed {SEED}: {counts}; a source was back after {chaos.slowest:.1f} s at most")
    assert not chaos.wrong, f"seed {SEED}: {chaos.wrong}"
    # It was a run worth the name.
    assert chaos.seen["sources"]
    assert SECONDS < 30 or all(chaos.seen[what] for what in ("reads done", "reads abandoned", "sources killed"))
