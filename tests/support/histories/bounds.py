"""What servers promise about time, by the kind of store that they are over."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KUBERNETES", "REDIS", "Bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds, all of them."""

    timeout: float
    """The heartbeat timeout with which the servers run."""
    agree: float = 2.0
    """Servers whose feeds are current agree within this."""
    stored: float = 1.0
    """A heartbeat that was answered is in the store within this; then those of `agree` begin."""
    recover: float = 5.0
    """A feed that was lost is current again within this, once the store is back."""
    restart: float = 3.0
    """A client has found a server again within this after it was restarted, or went on."""
    tolerance: float = 5.0
    """A longer silence of all servers is an outage, in which no heartbeat ages (`MetadataSettings.alive_tolerance`)."""
    breath: float = 1.0
    """A feed that is there speaks once in this time; with a shorter silence no server knows yet that the store is gone."""
    ridden_out: float = 2.0
    """A server's write waits so long for a store that is away."""
    alive: float = 2.0
    """The last sign of life before an outage is no older than this: as often as it comes, and some delay."""

    @property
    def quiet(self) -> float:
        """When nothing was done to anybody for so long, everything is known everywhere."""
        return self.recover + self.agree


REDIS = Bounds(timeout=4.0)
KUBERNETES = Bounds(timeout=12.0, stored=5.0, recover=8.0, tolerance=9.0, alive=5.0)
"""Heartbeats are written every three seconds only."""
