"""Asking a server whether it can answer."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.client.connection import Connection
from peerload.wire.grpc_health_pb2 import HealthCheckRequest, HealthCheckResponse
from peerload.wire.health_pb2 import HealthRequest

__all__ = ["Health", "ask"]

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


async def ask(connection: Connection, *, live: bool) -> Health:
    """Ask the server; see `AsyncClient.health`."""
    checked = await connection.check(HealthCheckRequest(service=_LIVENESS if live else ""))
    told = await connection.health(HealthRequest())
    serving = checked.status == HealthCheckResponse.SERVING
    return Health(
        serving, "" if serving else told.status.removeprefix("unavailable: "), told.version, float(told.uptime)
    )
