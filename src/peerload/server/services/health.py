"""Health: the service that existing client packages call, and the standard one (grpc.health.v1).

Both stay open to everybody, and answer while the store is away: that is what they are for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Final

from peerload import __version__
from peerload.clock import Clock
from peerload.errors import NotFound
from peerload.server.readiness import Readiness
from peerload.server.rpc import Context, Methods, StreamMethod, UnaryMethod
from peerload.server.services.messages import decode, shown
from peerload.wire.grpc_health_pb2 import HealthCheckRequest, HealthCheckResponse
from peerload.wire.health_pb2 import HealthRequest, HealthResponse

__all__ = ["LIVENESS", "HealthService", "StandardHealth"]

LIVENESS: Final = "liveness"
"""A name for whoever would restart a server that does not answer: always SERVING, because a restart helps neither against a
store that is away nor a server that is stopping."""

_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()
_SERVICE_UNKNOWN: Final = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class HealthService:
    """model_express.health.HealthService."""

    def __init__(self, readiness: Readiness, clock: Clock) -> None:
        self._readiness = readiness
        self._clock = clock
        self._started = clock.monotonic()

    def methods(self) -> Methods:
        """Its table."""
        return {"/model_express.health.HealthService/GetHealth": UnaryMethod(self.get_health)}

    async def get_health(self, request: bytes, context: Context) -> bytes:
        """Version, `ok` or why not, and whole seconds since the start."""
        decode(HealthRequest, request)
        ready = self._readiness
        return HealthResponse(
            version=__version__,
            status="ok" if ready.serving else f"unavailable: {ready.reason}",
            uptime=int(self._clock.monotonic() - self._started),
        ).SerializeToString()


class StandardHealth:
    """grpc.health.v1.Health, for the server as a whole (the empty name), for each service by name, and for `LIVENESS`.

    `services` may grow until the server starts.
    """

    def __init__(self, readiness: Readiness, services: Collection[str]) -> None:
        self._readiness = readiness
        self._services = services

    def methods(self) -> Methods:
        """Its table."""
        return {
            "/grpc.health.v1.Health/Check": UnaryMethod(self.check),
            "/grpc.health.v1.Health/Watch": StreamMethod(self.watch),
        }

    async def check(self, request: bytes, context: Context) -> bytes:
        """The state of one service; NOT_FOUND for one that is not served here."""
        name = decode(HealthCheckRequest, request).service
        if not self._known(name):
            raise NotFound(f"service {shown(name)} is not served here")
        return _SERVING if self._readiness.serving or name == LIVENESS else _NOT_SERVING

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """The state of one service and its changes. One that is not served here is SERVICE_UNKNOWN for good, and, as
        the protocol asks, the stream stays open."""
        name = decode(HealthCheckRequest, request).service
        if not self._known(name):
            yield _SERVICE_UNKNOWN
        if name == LIVENESS:
            yield _SERVING
        async for serving in self._readiness.states():
            if self._known(name) and name != LIVENESS:
                yield _SERVING if serving else _NOT_SERVING

    def _known(self, name: str) -> bool:
        return name in ("", LIVENESS) or name in self._services
