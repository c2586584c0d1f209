"""Client certificates over real connections: who is let in, as whom, and beside tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest

from peerload.server.app import Server
from peerload.testing import ManualClock
from peerload.wire import p2p_pb2
from peerload.wire.identity import source_id
from tests.security.entries import TOKENS, write_access
from tests.support.certificates import Authority, Issued
from tests.support.rpc import AsyncRpc, identity, publication
from tests.support.server import serving

SOURCE = source_id(identity())
WORKER = "spiffe://prod/ns/inference/sa/worker"
RULES = """
[[certificate]]
name = "spiffe://prod/ns/inference/*"
role = "publish"
models = ["org/*"]

[[certificate]]
name = "*.reader.example"
role = "read"
"""
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server_files(authority: Authority) -> Issued:
    return authority.issue()


@pytest.fixture(scope="module")
def worker(authority: Authority) -> Issued:
    return authority.issue("worker", names=f"URI:{WORKER}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_ms=round(datetime.now(UTC).timestamp() * 1000))


@pytest.fixture(params=["grpc", "h2corn"])
async def server(
    request: pytest.FixtureRequest, authority: Authority, server_files: Issued, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Server]:
    access = write_access(tmp_path / "access.toml", RULES)
    files = {
        "tls_cert": str(server_files.certificate),
        "tls_key": str(server_files.key),
        "tls_client_ca": str(authority.certificate),
    }
    async with serving(clock=clock, access=str(access), front=request.param, **files) as made:
        yield made


def credentials(authority: Authority, mine: Issued | None) -> grpc.ChannelCredentials:
    own = (None, None) if mine is None else (mine.key.read_bytes(), mine.certificate.read_bytes())
    return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *own)


async def code(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    return error.value.code()


async def test_a_certificate_is_somebody(server: Server, authority: Authority, worker: Issued) -> None:
    reader = authority.issue("reader", names="DNS:a.reader.example")
    stranger = authority.issue("stranger", names="DNS:stranger.example")
    async with (
        AsyncRpc(server.address, credentials=credentials(authority, worker)) as mine,
        AsyncRpc(server.address, credentials=credentials(authority, reader)) as reads,
        AsyncRpc(server.address, credentials=credentials(authority, stranger)) as other,
    ):
        assert (await mine.publish(publication())).success
        (held,) = server.backend.directory.ranks(SOURCE, "w0")
        assert held.record.owner == f"certificate:{WORKER}"
        assert [ref.worker_id for ref in await reads.list()] == ["w0"]
        assert await code(reads.publish(publication("w1"))) is Code.PERMISSION_DENIED
        assert await code(mine.publish(publication("w1", "other/model"))) is Code.PERMISSION_DENIED
        assert await code(other.list()) is Code.PERMISSION_DENIED


async def test_a_token_counts_where_one_comes(server: Server, authority: Authority, worker: Issued) -> None:
    async with (
        AsyncRpc(server.address, credentials=credentials(authority, worker)) as mine,
        AsyncRpc(server.address, TOKENS["alice"], credentials=credentials(authority, worker)) as alice,
        AsyncRpc(server.address, "made-up", credentials=credentials(authority, worker)) as liar,
    ):
        assert (await alice.publish(publication("w-alice"))).success
        (held,) = server.backend.directory.ranks(SOURCE, "w-alice")
        assert held.record.owner == "token:alice"
        update = {"mx_source_id": SOURCE, "worker_id": "w-alice", "status": p2p_pb2.SOURCE_STATUS_READY}
        assert await code(mine.update(**update)) is Code.PERMISSION_DENIED
        assert await code(liar.list()) is Code.UNAUTHENTICATED


async def test_a_connection_outlives_its_certificate_and_its_calls_do_not(
    server: Server, authority: Authority, worker: Issued, clock: ManualClock
) -> None:
    async with AsyncRpc(server.address, credentials=credentials(authority, worker)) as mine:
        assert await mine.list() == []
        clock.set_wall_ms(clock.wall_ms() + 31 * 24 * 3600 * 1000)
        assert await code(mine.list()) is Code.UNAUTHENTICATED


async def test_without_one_there_is_no_connection(server: Server, authority: Authority, worker: Issued) -> None:
    async with AsyncRpc(server.address, TOKENS["admin"], credentials=credentials(authority, None)) as nobody:
        assert await code(nobody.list()) is Code.UNAVAILABLE
