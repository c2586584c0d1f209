"""How much of the port clients may take up. An error that one of these causes names the flag that sets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_MESSAGE_BYTES", "SMALL_BYTES", "Limits"]

MAX_MESSAGE_BYTES: Final = 100 * 1024 * 1024
"""The largest message either way, unless it is set otherwise."""

SMALL_BYTES: Final = 64 * 1024
"""Messages up to this size never wait for room: heartbeats do not stand in line behind publications. They are not
counted either: the number of calls bounds them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one port. Times are in seconds; the settings of the server have the same names."""

    limit_message_bytes: int = MAX_MESSAGE_BYTES
    """One message, either way."""
    limit_connections: int = 50_000
    """Connections that are served. What happens to more is the front's: h2corn lets them wait, grpc closes them."""
    limit_calls: int = 20_000
    """Calls in flight, streams apart. Calls of the health services have as many places of their own."""
    limit_connection_calls: int = 100
    """Calls and streams in flight on one connection: the least that HTTP/2 recommends (RFC 9113, section 6.5.2). Clients
    know this number, and hold more back by themselves."""
    limit_watches: int = 20_000
    """Streams in flight. Those of the health services have as many places of their own."""
    limit_bytes_in_flight: int = 512 * 1024 * 1024
    """Bytes of the requests that are being read and answered; and as many of the answers that are on their way."""
    connection_age: float = 0.0
    """How long a connection is used; then its client is told to make another one. 0: for ever."""
    connection_age_grace: float = 60.0
    """How long calls of a connection that is too old have to end."""
    timeout_idle: float = 900.0
    """How long a connection without calls is kept. Pings count as a sign of life on h2corn, and not on grpc."""
    timeout_handshake: float = 10.0
    """From being accepted to the end of the handshakes (TLS, HTTP/2)."""
    timeout_request: float = 60.0
    """From the beginning of a request to its last byte."""
    timeout_stall: float = 20.0
    """How long an answer waits for its reader to take anything more of it. Only h2corn knows that."""
    timeout_silence: float = 80.0
    """After how long without any sign of life a peer has vanished, and its connection is closed."""
