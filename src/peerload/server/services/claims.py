"""peerload.v1.ClaimService: who does what only one should do. Errors are statuses."""

from __future__ import annotations

from typing import Final

from peerload.clock import Clock
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.leases import Lease
from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.services.messages import decode
from peerload.server.services.waiting import deadline_on
from peerload.wire.claims_pb2 import (
    AcquireClaimRequest,
    AcquireClaimResponse,
    Claim,
    ReleaseClaimRequest,
    ReleaseClaimResponse,
    RenewClaimRequest,
    RenewClaimResponse,
)

__all__ = ["ClaimService"]

_PATH: Final = "/peerload.v1.ClaimService"


class ClaimService:
    """The three calls, over a metadata backend's claims."""

    def __init__(self, backend: MetadataBackend, clock: Clock) -> None:
        self._claims = backend.claims
        self._clock = clock

    def methods(self) -> Methods:
        """Its table."""
        return {
            f"{_PATH}/Acquire": UnaryMethod(self.acquire),
            f"{_PATH}/Renew": UnaryMethod(self.renew),
            f"{_PATH}/Release": UnaryMethod(self.release),
        }

    async def acquire(self, request: bytes, context: Context) -> bytes:
        """Take a claim that is free; durable before the answer."""
        asked = decode(AcquireClaimRequest, request)
        acquired, lease = await self._claims.acquire(
            asked.name,
            asked.holder,
            asked.lease_ms,
            asked.note,
            principal=context.principal,
            deadline=deadline_on(self._clock, context),
        )
        return AcquireClaimResponse(acquired=acquired, claim=_claim(lease)).SerializeToString()

    async def renew(self, request: bytes, context: Context) -> bytes:
        """Begin its lease anew."""
        asked = decode(RenewClaimRequest, request)
        held, lease = await self._claims.renew(
            asked.name, asked.holder, principal=context.principal, deadline=deadline_on(self._clock, context)
        )
        return RenewClaimResponse(held=held, claim=None if lease is None else _claim(lease)).SerializeToString()

    async def release(self, request: bytes, context: Context) -> bytes:
        """Let go."""
        asked = decode(ReleaseClaimRequest, request)
        released = await self._claims.release(
            asked.name, asked.holder, principal=context.principal, deadline=deadline_on(self._clock, context)
        )
        return ReleaseClaimResponse(released=released).SerializeToString()


def _claim(lease: Lease) -> Claim:
    return Claim(
        name=lease.name,
        holder=lease.holder,
        note=lease.note,
        token=lease.token,
        lease_ms=lease.length,
        left_ms=lease.left,
        since=lease.since,
    )
