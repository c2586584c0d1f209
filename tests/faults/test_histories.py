"""What clients of three servers over one store were told, while servers and store are killed, stopped and continued.

The store is Redis, or Kubernetes, of which API server and etcd are harmed.

Four clients publish, withdraw, mark and keep alive workers of their own and ask for them, at a random server each time; two
more publish under one key that they share; one worker is kept alive throughout; and every server has two watchers. All
is written down with its times (`support/histories/records.py`), and held against what must be so (`checks.py`):

The times are those of servers over Redis; `bounds.py` has them, and those that are others over Kubernetes.

- What is shown was published, with that status, and before it was shown. No slack.
- An acknowledged publish, withdrawal or change of status is known to the server that answered it at once, and to every other
  within 2 s (`agree`) in which its feed was current: that is what servers promise. One that took 1.5 s (`VISIBLE`) was answered
  without waiting any longer for the server's own feed, and may be known there as late as elsewhere. A feed is not current
  while the store or the server is held up, nor for the 5 s (`recover`) after the store's return, which are promised too.
- With a feed that is lost, a server says nothing that is older than the heartbeat timeout. `agree` more, for so old may be
  what it knew when the feed was lost. One that was stopped is judged by the moment when it goes on.
- A server takes a heartbeat of a worker that was published elsewhere, at once, since it looks up whom it does not know; and
  it refuses one that was withdrawn elsewhere, after `agree`.
- Who is shown READY has not been silent for longer than the heartbeat timeout. 1 s (`LATE`), for servers
  know of each other's outages by signs of life that come once a second, and `agree`. Outages, 2 s before them and 5 s after, do not count: in those nobody's heartbeat ages, and from
  outside nobody can see exactly when a server began and ended to call it one.
- Who has sent a heartbeat since is neither shown STALE nor missing among the READY. 1 s (`stored`) until it is in the store,
  which takes 50 ms where nobody is busy, `agree` until all know, 0.3 s (`CLOCKS`) between clocks. One that was answered
  and died with its server does not count. Here only that is an outage which no server can have taken for less: what is
  longer than 5 s (`tolerance`), without the 2 s that a write may wait for its store (`ridden_out`); and while it lasts, without
  its first second (`breath`), in which nobody knows.
- A watch, also one that is resumed, shows a worker's states in their order, and so do the lists of one server. A stream may
  leave out what changed again at once.
- All streams of all servers show the publications under the shared key in one order, which is that of time where they did
  not overlap. One that was under way while the store was lost may happen twice, one without an answer whenever it likes.
- Who waits 8 s (`PATIENT`) gets an answer unless something was wrong. 3 s (`restart`) for a client to find a server that is
  back, `recover` where it was the store.
- When all has been quiet for 7 s, every server knows everything. No slack.

Where it is not known what came of a write, nothing is concluded from it: it may have happened, may yet, or never. When the
machine itself held everybody up (`trouble.py`, `Stalls`) that counts as a fault of everything. That the checks find each of
these violations, and no others, is tested with made-up histories in test_history_checks.py and test_history_streams.py.

`make histories SECONDS=600 SEED=1 STORE=redis` runs it for longer: rounds of two minutes, each with the next seed. A seed repeats the
choices, not the moments, so the history with a contradiction is kept, as a pickle of `records.History`.
"""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest

from tests.support.histories.backings import BACKINGS
from tests.support.histories.checks import check
from tests.support.histories.trial import trial

SECONDS = float(os.environ.get("PEERLOAD_HISTORY_SECONDS", "0"))
"""For how long, with each store. 0: as long as nobody minds, which for Kubernetes is longer, as all takes longer there."""
SHORT = {"redis": 15.0, "kubernetes": 25.0}
SEED = int(os.environ.get("PEERLOAD_HISTORY_SEED", str(time.time_ns() % 1_000_000)))
STORES = os.environ.get("PEERLOAD_HISTORY_STORE", "").split() or list(BACKINGS)
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


@pytest.mark.timeout((SECONDS or max(SHORT.values())) * 1.5 + 150)
@pytest.mark.parametrize("store", STORES)
def test_nobody_is_told_what_is_not_so(tmp_path: Path, store: str) -> None:
    print(f"PEERLOAD_HISTORY_SEED={SEED}", flush=True)
    progress = Progress()
    end = progress.begun + (SECONDS or SHORT[store])
    seed = SEED
    while True:
        seconds = min(ROUND, end - time.monotonic())
        history = trial(
            store, tmp_path / str(seed), seconds, seed, lambda calls, faults, seed=seed: progress(calls, faults, seed)
        )
        wrong = check(history)
        if wrong:
            kept = tmp_path / "history.pickle"
            kept.write_bytes(pickle.dumps(history))
            done = [f"{fault.what} {fault.begun:.2f}..{fault.ended:.2f}" for fault in history.faults]
            told = [f"seed {seed}, {len(wrong)} contradictions after {done}", *wrong[:10], f"the history is in {kept}"]
            pytest.fail("\n".join(told))
        calls = [*history.writes, *history.rivals, *history.looks]
        answered = sum((call.shown if hasattr(call, "shown") else call.answer) is not None for call in calls)
        progress.calls += len(calls)
        progress.faults += len(history.faults)
        print(f"seed {seed}: {len(calls)} calls, {answered} answered, {len(history.faults)} faults", flush=True)
        # Calls that fail at once while a store is away are many more than those that do not.
        assert answered > len(calls) / 20
        seed += 1
        if end - time.monotonic() < 2 * history.bounds.quiet:
            return
