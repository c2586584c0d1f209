"""One trial: three servers over one store, those who call them, and the trouble."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.histories.backings import BACKINGS
from tests.support.histories.clients import ANCHOR, Anchor, Client, Recorder, Rival, Watcher, look, publish
from tests.support.histories.records import History, Write
from tests.support.histories.times import Times
from tests.support.histories.trouble import Stalls, Trouble
from tests.support.live import LiveServer, Rpc, eventually

__all__ = ["trial"]

SERVERS = 3
CLIENTS = 4
RIVALS = 2


def trial(kind: str, folder: Path, seconds: float, seed: int, progress: Callable[[int, int], None]) -> History:
    """Run over a store of that kind (of `BACKINGS`) for that long and return what was recorded. `progress` is told how many
    calls and faults there were so far.

    At the end nothing is done to anybody for `Bounds.quiet`, and then everything must be known everywhere.
    """
    over, checked = threading.Event(), threading.Event()
    with contextlib.ExitStack() as stack:
        backing = stack.enter_context(BACKINGS[kind](folder))
        end = time.monotonic() + seconds
        history = History(SERVERS, backing.bounds)
        environment = {"PEERLOAD_HEARTBEAT_TIMEOUT": str(backing.bounds.timeout)}
        servers = [stack.enter_context(LiveServer(backing.url, environment=environment)) for _ in range(SERVERS)]
        for server in servers:
            server.start(wait=False)
        rpcs = [stack.enter_context(Rpc(server.address)) for server in servers]
        for rpc in rpcs:
            eventually(rpc.healthy, what="the servers to start")
        steps = itertools.count(1)
        begun, step = time.monotonic(), next(steps)
        source = publish(rpcs[0], ANCHOR, step)
        anchor = Anchor(rpcs, checked, seed, source, Write("publish", ANCHOR, 0, begun, time.monotonic(), True, step))
        clients = [Client(n, rpcs, over, seed * 100 + n, source, steps) for n in range(CLIENTS)]
        rivals = [Rival(n, rpcs, over, seed * 100 + 10 + n, steps) for n in range(RIVALS)]
        watchers = [
            Watcher(n, rpc, over, seed * 100 + 20 + n, ready=ready)
            for n, rpc in enumerate(rpcs)
            for ready in (False, True)
        ]
        stalls = Stalls(SERVERS, checked)
        trouble = Trouble(servers, backing.victims, seed)
        callers: list[Recorder] = [*clients, *rivals, *watchers]
        companions: list[Recorder] = [anchor, stalls]
        for thread in (*callers, *companions):
            thread.start()
        try:
            trouble.run(
                end - backing.bounds.quiet,
                lambda: progress(
                    sum(len(each.writes) for each in (anchor, *clients, *rivals))
                    + sum(len(each.looks) for each in clients),
                    len(trouble.faults),
                ),
            )
            time.sleep(max(0.0, end - time.monotonic()))
            _end(callers, over)
            history.looks = [each for client in clients for each in client.looks]
            last = max(write.ended for client in clients for write in client.writes)
            # While the anchor lives, for a list of nobody who is READY may be held for long after an outage.
            for server, rpc in enumerate(rpcs):
                eventually(
                    lambda n=server: (  # type: ignore[misc]
                        Times([*trouble.faults, *stalls.faults], SERVERS, backing.bounds).knows(n, time.monotonic())
                        > last
                    )
                )
                history.looks += [look(rpc, server, ready=ready, patience=10.0) for ready in (False, True)]
            _end(companions, checked)
        finally:
            over.set()
            checked.set()
        history.faults = sorted([*trouble.faults, *stalls.faults], key=lambda fault: fault.begun)
        history.writes = [write for each in (anchor, *clients) for write in each.writes]
        history.rivals = [write for each in rivals for write in each.writes]
        history.watches = [watch for each in watchers for watch in each.watches]
    return history


def _end(threads: list[Recorder], over: threading.Event) -> None:
    """Let them end, and see that nothing broke them."""
    over.set()
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), f"a call of {thread.name} never ended"
        assert thread.broken is None, f"{thread.name}: {thread.broken}"
