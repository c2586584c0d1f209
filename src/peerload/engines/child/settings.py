"""What the settings of every engine with children have in common."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.errors import InvalidArgument

__all__ = ["ChildSettings"]


@dataclass(frozen=True, kw_only=True)
class ChildSettings:
    """How such an engine listens for its targets, and waits. Times are seconds. Raises `InvalidArgument`."""

    port: int = 0
    """The source's port, at which targets ask how and what they may read; 0 takes any that is free."""
    bind: str | None = None
    """The address that it listens on. None: the host it is reached by if that is a loopback address, else every address of the
    machine."""
    max_connections: int = 128
    """Readers that a source serves at once; those beyond are told to come back later."""
    max_pending: int = 256
    """Connections at most that have not said yet what they want; beyond that the oldest is dropped."""
    max_bytes_per_second: int | None = None
    """A cap on what all readers together are allowed to read from this source."""
    connect_timeout: float = 5.0
    """For one attempt to connect, and for the source's answer to the greeting."""
    handshake_timeout: float = 5.0
    """For a new connection to say what it wants."""
    progress_timeout: float = 10.0
    """A reader gives up when no piece of its read has arrived for this long: of three under way, each of 16 MiB at most. A source drops a
    reader of whom it has heard nothing for this long."""
    idle_timeout: float = 30.0
    """A target keeps a child that has read everything for so long, in case there is more to read."""
    start_timeout: float = 60.0
    """For a child to start and to register its memory."""
    answer_timeout: float = 5.0
    """For a serving child to give a sign of life when a reader comes; one that does not is replaced."""
    recycle_after: int = 200
    """Readers after which a serving child is replaced, as soon as nobody reads: libraries leak with every connection."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidArgument("port", f"{self.port} is not a port")
        for name in ("max_connections", "max_pending", "recycle_after"):
            if getattr(self, name) < 1:
                raise InvalidArgument(name, "must be at least 1")
        if self.max_bytes_per_second is not None and self.max_bytes_per_second < 1:
            raise InvalidArgument("max_bytes_per_second", "must be at least 1, or None for no cap")
        for name in (
            "connect_timeout",
            "handshake_timeout",
            "progress_timeout",
            "idle_timeout",
            "start_timeout",
            "answer_timeout",
        ):
            if not getattr(self, name) > 0:
                raise InvalidArgument(name, "must be more than 0 seconds")
