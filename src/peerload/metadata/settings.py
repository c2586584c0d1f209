"""What can be set about the directory, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

__all__ = ["MetadataSettings"]

_PACES_TOLERATED: Final = 3
"""How many signs of life in a row may be missing before that is an outage."""


@dataclass(frozen=True, slots=True)
class MetadataSettings:
    """Times are in seconds."""

    heartbeat_timeout: float = 90.0
    """A source that was not heard from for so long is dead."""
    reaper_interval: float = 30.0
    """How often the reaper looks."""
    gc_timeout: float = 3600.0
    """How long after it was marked stale a record is removed."""
    reaper_grace: float = 150.0
    """Beyond one heartbeat timeout of uninterrupted feed, how long the reaper still marks nothing: clients that lost
    their server reconnect with a back-off of up to two minutes."""
    hold: float = 20.0
    """How long a list is held that would be empty only because of an outage."""
    ride_out: float = 5.0
    """How long a fault of the store is ridden out for a caller whose deadline allows it."""
    ride_out_writes: float = 1.9
    """The same where something is to be written: it is told of within 2 seconds."""
    answer_within: float = 90.0
    """After this a call that the store leaves hanging is given up, whatever its caller's deadline."""
    visible_within: float = 1.5
    """How long a write waits to be seen in this server's own directory; then it is answered all the same, unless the
    feed, which speaks at least once a second, has said nothing meanwhile."""
    flush_delay: float = 0.05
    """How long heartbeats gather before they are stored together."""
    alive_interval: float = 1.0
    """How often a server stores that it is alive."""
    alive_tolerance: float = 5.0
    """A longer silence of all servers, or of the feed, is an outage."""
    probe: bool = True
    """Whether sources whose heartbeat is overdue, and those that were reported as failing, are asked by connecting to them."""
    probe_after: float = 35.0
    """After how long a heartbeat is overdue: the interval at which workers send them, and a margin."""
    limit_principal_records: int = 0
    """Records that one principal may have; 0: any number. Approximately: servers hear of each other's a moment late."""
    manifest_cache_bytes: int = 64 * 1024 * 1024
    """What may be kept of publications that were read lately."""
    list_cache_bytes: int = 32 * 1024 * 1024
    """What may be kept of lists that were asked for lately."""

    def at_pace(self, pace: float) -> MetadataSettings:
        """The same for a store that wants heartbeats no more often than that (`Store.pace`, seconds): they gather for so
        long, and what follows from silence follows later."""
        return replace(
            self,
            flush_delay=max(self.flush_delay, pace),
            alive_interval=max(self.alive_interval, pace),
            alive_tolerance=max(self.alive_tolerance, _PACES_TOLERATED * pace),
            probe_after=self.probe_after + pace,
        )

    @property
    def heartbeat_timeout_ms(self) -> int:
        return round(self.heartbeat_timeout * 1000)

    @property
    def quiet_ms(self) -> int:
        """After how long a heartbeat is overdue; the timeout where nobody is asked then."""
        return (
            min(self.heartbeat_timeout_ms, round(self.probe_after * 1000)) if self.probe else self.heartbeat_timeout_ms
        )

    @property
    def settle_ms(self) -> int:
        """For how long after an outage absence proves nothing."""
        return round((self.heartbeat_timeout + self.reaper_grace) * 1000)
