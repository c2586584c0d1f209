"""peerload.v1.ServerService: what this server is, and what time it has."""

from __future__ import annotations

import socket
from collections.abc import Callable

from peerload import __version__
from peerload.clock import Clock
from peerload.metadata.backend import MetadataBackend
from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.services.messages import decode
from peerload.wire.server_pb2 import DescribeRequest, DescribeResponse

__all__ = ["ServerService"]


class ServerService:
    """The one call. `listen` tells where the server listens."""

    def __init__(self, backend: MetadataBackend, clock: Clock, listen: Callable[[], str]) -> None:
        self._backend = backend
        self._clock = clock
        self._listen = listen
        self._host = socket.gethostname()
        self._started = clock.monotonic()

    def methods(self) -> Methods:
        """Its table."""
        return {"/peerload.v1.ServerService/Describe": UnaryMethod(self.describe)}

    async def describe(self, request: bytes, context: Context) -> bytes:
        """Answered whatever the store is at."""
        decode(DescribeRequest, request)
        return DescribeResponse(
            version=__version__,
            host=self._host,
            listen=self._listen(),
            uptime_ms=round((self._clock.monotonic() - self._started) * 1000),
            wall_ms=self._clock.wall_ms(),
            store_ms=self._backend.now(),
        ).SerializeToString()
