"""Questions to the directory that are held until their answer is certain."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final, TypeVar

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.metadata.directory.directory import Directory
from peerload.metadata.health import Health
from peerload.metadata.patience import ANSWER_SECONDS
from peerload.metadata.query import Query
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import settled_within

__all__ = ["Holding"]

_F = TypeVar("_F", bound=Sized)

_LOOK_SECONDS: Final = 0.5
_SUSPENDED_SECONDS: Final = 2.0
"""Between two ticks: this process was stopped, or something held it up."""
_RESUMED_SECONDS: Final = 5.0
"""For so long after that the feed is expected to speak any moment."""


class Holding:
    """Asks the directory, and waits where it is about to know better: for `MetadataSettings.hold` at most, and never past
    the caller's deadline. `tick` is called twice a second at least; a longer silence means that this process did not run."""

    def __init__(self, directory: Directory, health: Health, clock: Clock, settings: MetadataSettings) -> None:
        self._directory = directory
        self._health = health
        self._clock = clock
        self._settings = settings
        self._ticked_at = clock.monotonic()
        self._resumed_at: float | None = None
        self._following = False

    def begin(self) -> None:
        """From now on the store is followed, so that waiting can help."""
        self._following = True
        self._ticked_at = self._clock.monotonic()

    def end(self) -> None:
        """Nobody follows the store any more."""
        self._following = False

    def tick(self) -> None:
        """This process runs."""
        now = self._clock.monotonic()
        if now - self._ticked_at > _SUSPENDED_SECONDS:
            self._resumed_at = now
        self._ticked_at = now

    async def found(self, find: Callable[[Query], _F], query: Query, deadline: float | None) -> _F:
        """What `find` finds in the directory, once that is certain. Raises `Unavailable`."""
        hold_until: float | None = None
        while True:
            reason = self._health.reason
            if not reason:
                found = find(query)
                if found or not self._directory.doubtful(query):
                    return found
                reason = "after an outage it is not known yet whether there are sources"
            now = self._clock.monotonic()
            if hold_until is None:
                # Only what is about to be known is waited for.
                hold_until = self._end(deadline) if self._hopeful() else now
            if now >= hold_until:
                raise Unavailable(reason)
            await self._news(hold_until - now)

    async def known(self, deadline: float | None) -> None:
        """Return once the directory can be asked. Raises `Unavailable`."""
        if not self._health.reason:
            return
        hold_until = self._end(deadline)
        while reason := self._health.reason:
            left = hold_until - self._clock.monotonic()
            if left <= 0 or not self._hopeful():
                raise Unavailable(reason)
            await self._news(left)

    def _end(self, deadline: float | None) -> float:
        end = self._clock.monotonic() + self._settings.hold
        return end if deadline is None else min(end, deadline - ANSWER_SECONDS)

    async def _news(self, seconds: float) -> None:
        await settled_within(self._clock, min(seconds, _LOOK_SECONDS), self._directory.changed.next())

    def _hopeful(self) -> bool:
        """Whether what is not known yet is about to be."""
        return self._following and (self._health.serving or not self._directory.synced or self._resumed())

    def _resumed(self) -> bool:
        """Whether this process has only just gone on after it was stopped: then the silence was its own."""
        now = self._clock.monotonic()
        return now - self._ticked_at > _SUSPENDED_SECONDS or (
            self._resumed_at is not None and now - self._resumed_at < _RESUMED_SECONDS
        )
