"""How the server and its store are, for people."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Final

from peerload import __version__
from peerload.clock import Clock
from peerload.errors import PeerloadError
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import Principal
from peerload.metadata.records import SourceKey
from peerload.server.readiness import Readiness
from peerload.server.traffic import Traffic
from peerload.store.base import Store

__all__ = ["Condition"]

_LOOK_SECONDS: Final = 5.0
_KEPT: Final = 60
_NOBODY: Final = SourceKey("0" * 16, 0, "nobody").encode()
"""A key that no record has: the store is asked for it, and timed."""
_PAGE_BYTES: Final = 4096


class Condition:
    """The state of one server. While somebody looks, `run` times a question to the store now and then."""

    def __init__(
        self, backend: MetadataBackend, store: Store, readiness: Readiness, traffic: Traffic, clock: Clock
    ) -> None:
        self._backend = backend
        self._store = store
        self._readiness = readiness
        self._traffic = traffic
        self._clock = clock
        self._since = clock.monotonic()
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self._trouble = ""

    async def run(self) -> None:
        """Look at the store, and let the traffic forget, until cancelled."""
        while True:
            self._traffic.sweep()
            if self._traffic.watched:
                await self.look()
            await self._clock.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Ask the store for something that it does not have."""
        start = self._clock.monotonic()
        try:
            await self._store.get(_NOBODY)
        except PeerloadError as error:
            self._trouble = str(error)
        else:
            self._trouble = ""
            self._latencies.append(self._clock.monotonic() - start)

    def fixed(self, principal: Principal, address: str, tls: bool) -> dict[str, Any]:
        """What does not change while the server runs, and what time it is."""
        settings = self._backend.settings
        return {
            "now": self._backend.directory.now(),
            "version": __version__,
            "address": address,
            "tls": tls,
            "store": self._store.url,
            "timeout": settings.heartbeat_timeout_ms,
            "principal": principal.name,
            "role": principal.role.name.lower(),
            "models": () if principal.sees_all else principal.models,
        }

    def now(self, principal: Principal) -> dict[str, Any]:
        """What changes. Numbers that tell of models out of a scope are for those who see all."""
        directory = self._backend.directory
        state: dict[str, Any] = {
            "now": directory.now(),
            "serving": self._readiness.serving,
            "reason": self._readiness.reason,
            "uptime": round(self._clock.monotonic() - self._since),
            "silent": directory.silent_ms if directory.synced else None,
            "lost": directory.lost,
            "settled": directory.settled,
            "stored": not self._backend.heartbeats.failed,
            "trouble": self._trouble,
            "latencies": [round(1000 * seconds, 2) for seconds in self._latencies],
        }
        if principal.sees_all:
            state |= {
                "records": len(directory),
                "watches": self._backend.watchers.watching,
                "lookers": self._traffic.watched,
                "moving": len(self._traffic.moving),
                "memory": _resident(),
            }
        return state


def _resident() -> int:
    """Bytes of memory that this process has."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
