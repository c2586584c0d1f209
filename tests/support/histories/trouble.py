"""What is done to the processes of a trial, and how the machine itself holds them up."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence

from tests.support.histories.backings import Victim
from tests.support.histories.clients import Recorder
from tests.support.histories.records import Fault
from tests.support.live import LiveServer, Rpc, eventually

__all__ = ["Stalls", "Trouble"]

STALL = 0.5
"""If a thread that wanted to go on could not for so long, nor could the processes, perhaps."""


class Trouble:
    """Kills, stops and continues processes at random, one or all servers or one of the store's at a time."""

    def __init__(self, servers: Sequence[LiveServer], victims: Sequence[Victim], seed: int) -> None:
        self.faults: list[Fault] = []
        self._random = random.Random(seed)
        self._servers = servers
        self._victims = victims

    def run(self, until: float, progress: Callable[[], None]) -> None:
        """Do it until then; at the end everything is up. `progress` is called after each."""
        kinds: dict[Callable[[], Fault], int] = {
            self._kill_server: 4,
            self._stop_server: 4,
            self._kill_store: 2,
            self._stop_store: 2,
            self._kill_all: 1,
            self._stop_all: 1,
        }
        while True:
            # Mostly one after the other; sometimes there is time for everything to be well again.
            pause = self._random.uniform(5, 12) if self._random.random() < 0.15 else self._random.uniform(0.3, 1.5)
            (kind,) = self._random.choices(list(kinds), list(kinds.values()))
            if time.monotonic() + pause >= until:
                return
            time.sleep(pause)
            self.faults.append(kind())
            progress()

    def _short(self) -> float:
        """How long it lasts: seldom for longer than a heartbeat timeout."""
        return self._random.uniform(4, 9) if self._random.random() < 0.15 else self._random.uniform(0, 2.5)

    def _kill_server(self) -> Fault:
        return self._kill_servers("kill server", [self._random.randrange(len(self._servers))])

    def _kill_all(self) -> Fault:
        return self._kill_servers("kill all servers", range(len(self._servers)))

    def _kill_servers(self, what: str, numbers: Sequence[int]) -> Fault:
        chosen = [self._servers[number] for number in numbers]
        begun = time.monotonic()
        for server in chosen:
            server.kill()
        dead = time.monotonic()
        time.sleep(self._short())
        back = time.monotonic()
        for server in chosen:
            server.start(wait=False)
        for server in chosen:
            with Rpc(server.address) as rpc:
                eventually(rpc.healthy, within=30, what=f"a server to be well again:\n{server.log()[-2000:]}")
        return Fault(what, begun, time.monotonic(), servers=frozenset(numbers), killed=True, down=(dead, back))

    def _stop_server(self) -> Fault:
        return self._stop_servers("stop server", [self._random.randrange(len(self._servers))])

    def _stop_all(self) -> Fault:
        return self._stop_servers("stop all servers", range(len(self._servers)))

    def _stop_servers(self, what: str, numbers: Sequence[int]) -> Fault:
        begun = time.monotonic()
        for number in numbers:
            self._servers[number].signal(signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(self._short())
        back = time.monotonic()
        for number in numbers:
            self._servers[number].signal(signal.SIGCONT)
        return Fault(what, begun, time.monotonic(), servers=frozenset(numbers), down=(stopped, back))

    def _kill_store(self) -> Fault:
        victim = self._random.choice(self._victims)
        begun = time.monotonic()
        victim.kill()
        dead = time.monotonic()
        time.sleep(self._short())
        back = time.monotonic()
        victim.start()
        return Fault(f"kill {victim.name}", begun, time.monotonic(), store=True, killed=True, down=(dead, back))

    def _stop_store(self) -> Fault:
        victim = self._random.choice(self._victims)
        begun = time.monotonic()
        victim.pause()
        stopped = time.monotonic()
        time.sleep(self._short())
        back = time.monotonic()
        victim.resume()
        return Fault(f"stop {victim.name}", begun, time.monotonic(), store=True, down=(stopped, back))


class Stalls(Recorder):
    """Notes when the machine was too busy to let anybody go on in time."""

    def __init__(self, servers: int, over: threading.Event) -> None:
        super().__init__("stalls", over)
        self.faults: list[Fault] = []
        self._all = frozenset(range(servers))

    def work(self) -> None:
        begun = time.monotonic()
        while not self.over.wait(0.05):
            now = time.monotonic()
            if now - begun > STALL:
                self.faults.append(Fault("stall", begun, now, store=True, servers=self._all))
            begun = now
