"""Leases of readers on memory that is served: bounded in time and number, and waited for by who wants the memory back."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from peerload.clock import Clock
from peerload.errors import LimitExceeded, NotFound, Unavailable

__all__ = ["Leases"]

_MOST: Final = 4096
_LOOK_S: Final = 0.05


class Leases:
    """Each lasts `seconds`, unless it is released before; `ended` is told of each that ends. Belongs to one event loop."""

    def __init__(
        self, clock: Clock, seconds: float, *, most: int = _MOST, ended: Callable[[str], object] | None = None
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._ended = ended
        self._until: dict[str, float] = {}
        self._draining = False

    def __len__(self) -> int:
        """How many are held."""
        self._expire()
        return len(self._until)

    def check(self) -> None:
        """Raise `Unavailable` once it is draining."""
        if self._draining:
            raise Unavailable("this source is draining: it ends")

    def take(self) -> str:
        """A new lease. Raises `Unavailable` once it is draining, `LimitExceeded` while too many are held."""
        self.check()
        self._expire()
        if len(self._until) >= self._most:
            raise LimitExceeded("lease_id", f"{self._most} leases are held; no more are given", limit=self._most)
        lease = uuid.uuid4().hex
        self._until[lease] = self._clock.monotonic() + self._seconds
        return lease

    def release(self, lease: str) -> None:
        """End one. Raises `NotFound` for one that is unknown or has run out."""
        self._expire()
        if lease not in self._until:
            raise NotFound(f"there is no lease {lease[:64]!r}, or it has run out")
        self._end(lease)

    async def drain(self, seconds: float) -> bool:
        """Give no more, and wait up to `seconds` for those that are held to end; whether all have."""
        self._draining = True
        until = self._clock.monotonic() + seconds
        while len(self) and (left := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, _LOOK_S))
        return not len(self)

    def _expire(self) -> None:
        # All last equally long, and a dictionary keeps their order: the first that lives ends the look.
        now = self._clock.monotonic()
        while self._until:
            lease, until = next(iter(self._until.items()))
            if until > now:
                return
            self._end(lease)

    def _end(self, lease: str) -> None:
        del self._until[lease]
        if self._ended is not None:
            self._ended(lease)
