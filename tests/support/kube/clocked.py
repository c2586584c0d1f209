"""A store over a Kubernetes whose clock a test moves, which the API server does not let anybody do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from peerload.clock import Clock
from peerload.store.kubernetes.kubetime import KubeTime
from peerload.store.kubernetes.store import KubernetesStore

__all__ = ["ClockedKubernetesStore"]

_PATIENCE_SECONDS = 20.0
"""A call may take so long: that says something about the machine, which runs all of Kubernetes besides the tests."""


class ClockedKubernetesStore(KubernetesStore):
    """It goes by the clock that it is given, whatever the API server says."""

    def __init__(self, url: str, clock: Clock, time_ms: Callable[[], float] | None = None) -> None:
        super().__init__(url, clock, call_seconds=_PATIENCE_SECONDS)
        self._time = _GivenTime(clock, time_ms or clock.wall_ms)


class _GivenTime(KubeTime):
    def __init__(self, clock: Clock, time_ms: Callable[[], float]) -> None:
        super().__init__(clock)
        self._time_ms = time_ms

    def now(self) -> int:
        return round(self._time_ms())

    def heard(self, before: float, after: float, date: str) -> None:
        """What the API server says."""

    async def learn(self, ask: Callable[[], Awaitable[object]]) -> None:
        """What the API server would say."""
