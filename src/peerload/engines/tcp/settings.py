"""The settings of the TCP engine, and those that it shares with engines that speak over its connections."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.errors import InvalidArgument

__all__ = ["LineSettings", "TcpSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """How connections are accepted, used and waited for. Times are seconds. Raises `InvalidArgument`."""

    max_connections: int = 128
    """Readers' connections that a source serves at once; those beyond are told to come back later."""
    max_pending: int = 256
    """Connections at most that have not said yet what they want; beyond that the oldest is dropped."""
    max_bytes_per_second: int | None = None
    """A cap on what this source gives to all readers together."""
    connections: int = 2
    """Connections that a large read uses."""
    large_read: int = 32 * 1024 * 1024
    """Bytes from which on a read is large."""
    connect_timeout: float = 5.0
    """For one attempt to connect, and for the source's answer to the greeting."""
    handshake_timeout: float = 5.0
    """For a new connection to say what it wants, and for a request to arrive whole."""
    progress_timeout: float = 10.0
    """Either side gives up when not a byte has moved for this long."""
    idle_timeout: float = 30.0
    """A source drops a connection that has asked for nothing for this long; readers let go of it in half of that."""

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_pending", "connections", "large_read"):
            if getattr(self, name) < 1:
                raise InvalidArgument(name, "must be at least 1")
        if self.max_bytes_per_second is not None and self.max_bytes_per_second < 1:
            raise InvalidArgument("max_bytes_per_second", "must be at least 1, or None for no cap")
        for name in ("connect_timeout", "handshake_timeout", "progress_timeout", "idle_timeout"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(name, "must be more than 0 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSettings(LineSettings):
    """How the TCP engine listens, connects and waits. Raises `InvalidArgument`."""

    port: int = 0
    """The source's port; 0 takes any that is free."""
    bind: str | None = None
    """The address that the source listens on. None: the host it is reached by if that is a loopback address, else
    every address of the machine."""

    def __post_init__(self) -> None:
        LineSettings.__post_init__(self)
        if not 0 <= self.port <= 65535:
            raise InvalidArgument("port", f"{self.port} is not a port")
