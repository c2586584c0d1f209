"""Asking a server whether it can answer."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.client.connection import Connection
from peerload.clock import Clock
from peerload.wire.grpc_health_pb2 import HealthCheckRequest, HealthCheckResponse
from peerload.wire.health_pb2 import HealthRequest
from peerload.wire.server_pb2 import DescribeRequest

__all__ = ["Health", "ServerInfo", "ask", "describe"]

_LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself."""

    serving: bool
    """Whether it can answer calls; of `live` questions, whether it answers at all."""
    reason: str
    """Why not, for people; empty where it serves."""
    version: str
    uptime: float
    """Seconds since its start, whole ones."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is."""

    version: str
    host: str
    listen: str
    """Where it listens on that host."""
    uptime: float
    """Seconds since its start."""
    clock_ahead: float
    """Seconds by which the server's clock is ahead of this host's, give or take half the time of a call."""


async def describe(connection: Connection, clock: Clock) -> ServerInfo:
    """Ask the server; see `AsyncClient.server_info`."""
    before = clock.wall_ms()
    told = await connection.describe(DescribeRequest())
    middle = (before + clock.wall_ms()) / 2
    return ServerInfo(told.version, told.host, told.listen, told.uptime_ms / 1000, (told.wall_ms - middle) / 1000)


async def ask(connection: Connection, *, live: bool) -> Health:
    """Ask the server; see `AsyncClient.health`."""
    checked = await connection.check(HealthCheckRequest(service=_LIVENESS if live else ""))
    told = await connection.health(HealthRequest())
    serving = checked.status == HealthCheckResponse.SERVING
    return Health(
        serving, "" if serving else told.status.removeprefix("unavailable: "), told.version, float(told.uptime)
    )
