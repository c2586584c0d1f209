"""peerload.v1.ClaimService through gRPC: over every store, and at two servers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from peerload.wire.claims_pb2 import (
    AcquireClaimRequest,
    AcquireClaimResponse,
    ReleaseClaimRequest,
    ReleaseClaimResponse,
    RenewClaimRequest,
    RenewClaimResponse,
)
from tests.support.rpc import AsyncRpc
from tests.support.server import serving, store_url

CLAIMS = "/peerload.v1.ClaimService"


class Claims:
    """The three calls at one server."""

    def __init__(self, rpc: AsyncRpc) -> None:
        self.rpc = rpc

    async def acquire(self, holder: str, name: str = "n", lease_ms: int = 20_000) -> AcquireClaimResponse:
        request = AcquireClaimRequest(name=name, holder=holder, lease_ms=lease_ms, note=f"note of {holder}")
        return await self.rpc.call(f"{CLAIMS}/Acquire", request, AcquireClaimResponse)

    async def renew(self, holder: str) -> RenewClaimResponse:
        request = RenewClaimRequest(name="n", holder=holder)
        return await self.rpc.call(f"{CLAIMS}/Renew", request, RenewClaimResponse)

    async def release(self, holder: str) -> bool:
        request = ReleaseClaimRequest(name="n", holder=holder)
        return (await self.rpc.call(f"{CLAIMS}/Release", request, ReleaseClaimResponse)).released


@pytest.fixture(params=["memory", "sqlite", "redis", "kubernetes"])
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Claims, Claims]]:
    """Two servers on one store; of memory, which none can share, one twice."""
    url = store_url(request, tmp_path)
    async with serving(url) as first, AsyncRpc(first.address) as one:
        if request.param == "memory":
            yield Claims(one), Claims(one)
            return
        async with serving(url) as second, AsyncRpc(second.address) as two:
            yield Claims(one), Claims(two)


async def test_a_claim_is_one_at_all_servers(servers: tuple[Claims, Claims]) -> None:
    one, two = servers
    answers = await asyncio.gather(*(server.acquire(f"h{index}") for index in range(10) for server in servers))
    (winner,) = {answer.claim.holder for answer in answers}
    assert {answer.claim.holder for answer in answers if answer.acquired} == {winner}
    assert {answer.claim.note for answer in answers} == {f"note of {winner}"}
    assert all(19_000 <= answer.claim.left_ms <= 20_000 for answer in answers)
    assert (await two.renew(winner)).held
    loser = await one.renew("somebody")
    assert (loser.held, loser.claim.holder) == (False, winner)
    assert not await two.release("somebody")
    assert await two.release(winner)
    assert not await one.release(winner)
    gone = await one.renew(winner)
    assert (gone.held, gone.HasField("claim")) == (False, False)
    assert (await one.acquire("next")).acquired


async def test_bad_requests_name_the_field(servers: tuple[Claims, Claims]) -> None:
    one, _ = servers
    for call, code, text in (
        (one.acquire("h", ""), grpc.StatusCode.INVALID_ARGUMENT, "name: is missing"),
        (one.acquire(""), grpc.StatusCode.INVALID_ARGUMENT, "holder: is missing"),
        (one.acquire("h" * 257), grpc.StatusCode.RESOURCE_EXHAUSTED, "holder: has 257 bytes, more than 256"),
        (one.acquire("h", "n" * 1025), grpc.StatusCode.RESOURCE_EXHAUSTED, "name: has 1025 bytes, more than 1024"),
        (one.acquire("h", lease_ms=0), grpc.StatusCode.RESOURCE_EXHAUSTED, "lease_ms: 0 is not between"),
        (one.rpc.call(f"{CLAIMS}/Acquire", b"\xff", AcquireClaimResponse), grpc.StatusCode.INVALID_ARGUMENT, "request"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is code
        assert str(refused.value.details()).startswith(text)
