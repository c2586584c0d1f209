"""Peers that have no owner of ours beside them: reading from one, and keeping what they read from served.

A reader without a lease says neither when it comes nor when it goes. So the one side takes what it was told as granted, and the
other lets its child make progress for as long as somebody may still be reading.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from peerload.clock import Clock
from peerload.engines.agents import PeerMemory
from peerload.engines.base import DeviceMemory
from peerload.engines.child.importer import ChildReader
from peerload.engines.child.lane import Lane
from peerload.engines.child.memory import Reach
from peerload.engines.child.nursery import Nursery, Reading
from peerload.engines.child.plan import Plan
from peerload.engines.child.process import Child, Recipe
from peerload.engines.child.service import Service
from peerload.engines.child.settings import ChildSettings
from peerload.engines.job import LaneJob
from peerload.engines.tcp.protocol import Endpoint

__all__ = ["Holds", "Stranger", "StrangerReader"]


@dataclass(frozen=True, slots=True)
class Stranger:
    """Memory of somebody else's process, and what our library needs to reach it."""

    engine: str
    host: str
    reach: bytes = field(repr=False)
    memory: tuple[PeerMemory, ...] = field(repr=False)

    @property
    def endpoint(self) -> Endpoint:
        """As if it were one of ours; nobody connects to it."""
        name = hashlib.sha256(self.reach).digest()[:8]
        return Endpoint(self.host or "unknown", 0, name, b"", tuple(each.nbytes for each in self.memory), self.engine)


class StrangerReader(ChildReader):
    """Reads from a stranger, in a child as every read."""

    def __init__(
        self,
        stranger: Stranger,
        recipe: Recipe,
        nursery: Nursery,
        settings: ChildSettings,
        clock: Clock,
        inside: Callable[[Sequence[DeviceMemory]], Child] | None,
    ) -> None:
        super().__init__(stranger.endpoint, recipe, nursery, settings, clock, inside)
        self._stranger = stranger

    def _run(self, job: LaneJob, plan: Plan, take: Callable[[], Reading], give: Callable[[Reading], None]) -> None:
        ours, theirs = socket.socketpair()
        address = self._stranger.host or "the source"
        with theirs:
            lane = _TakenForGranted(job, plan, address, lambda: ours, take, give, self._settings, self._clock)
            lane.stranger = self._stranger
            lane.run()


class _TakenForGranted(Lane):
    """A read without a lease. The socket is one that nobody says anything on."""

    stranger: Stranger

    def _look(self, sock: socket.socket) -> tuple[bytes, Sequence[int], Sequence[int]]:
        memory = self.stranger.memory
        devices = array("H", (0 if each.device is None else each.device + 1 for each in memory))
        return self.stranger.reach, array("Q", (each.address for each in memory)), devices

    def _ask(self, sock: socket.socket, wanted: int) -> None:
        if wanted > 0:
            self._granted += wanted

    def _say(self, sock: socket.socket, kind: int, amount: int = 0) -> None:
        self._said = self._clock.monotonic()


class Holds:
    """Publications that are kept served for readers without leases. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[Service, float] = {}
        self._timers: dict[Service, threading.Timer] = {}

    def touch(self, service: Service, seconds: float) -> Reach:
        """How to reach it; it makes progress for so long from now at least. Raises `TransferFailed`."""
        reach = service.enter()
        if seconds <= 0:
            service.leave()
            return reach
        with self._lock:
            new = service not in self._until
            self._until[service] = max(self._until.get(service, 0.0), self._clock.monotonic() + seconds)
            if new:
                self._wait(service, seconds)
        if not new:
            service.leave()  # One visit is enough for all of them.
        return reach

    def drop(self, service: Service) -> None:
        """It ends."""
        with self._lock:
            self._until.pop(service, None)
            timer = self._timers.pop(service, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """All of them do."""
        for service in list(self._until):
            self.drop(service)

    def _wait(self, service: Service, seconds: float) -> None:
        timer = threading.Timer(seconds, self._look, (service,))
        timer.daemon = True
        self._timers[service] = timer
        timer.start()

    def _look(self, service: Service) -> None:
        with self._lock:
            until = self._until.get(service)
            if until is None:
                return
            if (left := until - self._clock.monotonic()) > 0:
                self._wait(service, left)
                return
            del self._until[service], self._timers[service]
        service.leave()
