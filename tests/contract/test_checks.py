"""What a server's settings demand of publications: how many tensors, and where sources are."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from peerload.server.services.checks import _address_of
from peerload.wire import sources_pb2
from tests.support.rpc import AsyncRpc, publication
from tests.support.server import serving

Code = grpc.StatusCode


def with_manifest(*endpoints: tuple[str, str], items: int = 1) -> sources_pb2.PublishRequest:
    manifest = sources_pb2.Manifest(form=sources_pb2.FORM_RUNTIME)
    for engine, address in endpoints:
        manifest.endpoints.add(engine=engine, address=address)
    for index in range(items):
        manifest.items.add(name=f"t{index}", size=1)
    return sources_pb2.PublishRequest(record=publication(tensors=0), manifest=manifest)


async def refused(publishing: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await publishing
    return error.value.code(), error.value.details() or ""


async def test_tensors_in_a_manifest() -> None:
    async with serving(limit_tensors=3) as server, AsyncRpc(server.address) as rpc:
        assert (await rpc.publish(publication(tensors=3))).success
        code, said = await refused(rpc.publish(publication(tensors=4)))
        assert code is Code.RESOURCE_EXHAUSTED
        assert said == "worker.tensor_source.tensors: has 4 tensors, more than 3 (--limit-tensors)"
        await rpc.publish_v1(with_manifest(items=3))
        code, said = await refused(rpc.publish_v1(with_manifest(items=4)))
        assert (code, said) == (
            Code.RESOURCE_EXHAUSTED,
            "manifest.items: has 4 items, more than 3 (--limit-tensors)",
        )


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("metadata_endpoint", "10.1.2.3:5555"),
        ("metadata_endpoint", "10.1.2.3"),
        ("worker_grpc_endpoint", "[fd00::1]:6555"),
        ("worker_grpc_endpoint", "127.0.0.2:6555"),
        ("worker_grpc_endpoint", f"{'a' * 64}.example:6555"),
        ("metadata_endpoint", "127.0.0.1:5555 10.1.2.3:5555"),
    ],
)
async def test_sources_elsewhere_are_refused_where_that_is_demanded(field: str, address: str) -> None:
    request = publication(**{field: address})
    async with serving(own_addresses=True) as server, AsyncRpc(server.address) as rpc:
        code, said = await refused(rpc.publish(request))
        assert code is Code.PERMISSION_DENIED
        assert said.startswith(f"worker.{field}: ")
        assert said.endswith("is not the address that this call comes from, which is 127.0.0.1")
        assert await rpc.list() == []
    async with serving() as server, AsyncRpc(server.address) as rpc:
        assert (await rpc.publish(request)).success


async def test_those_of_mooncake_and_of_manifests_too() -> None:
    async with serving(own_addresses=True) as server, AsyncRpc(server.address) as rpc:
        request = publication()
        request.worker.transfer_engine_session_id = "10.1.2.3:12345"
        assert (await refused(rpc.publish(request)))[1].startswith("worker.transfer_engine_session_id: '10.1.2.3'")
        two = with_manifest(("tcp", "127.0.0.1:1"), ("other", "10.1.2.3:1"))
        code, said = await refused(rpc.publish_v1(two))
        assert (code, said.partition(" is ")[0]) == (Code.PERMISSION_DENIED, "manifest.endpoints.address: '10.1.2.3'")


async def test_sources_at_their_own_address_are_taken() -> None:
    async with serving(own_addresses=True) as server, AsyncRpc(server.address) as rpc:
        request = publication(
            metadata_endpoint="127.0.0.1:5555", worker_grpc_endpoint="[::ffff:127.0.0.1]:6555", tensors=1
        )
        assert (await rpc.publish(request)).success
        assert (await rpc.publish(publication(metadata_endpoint="localhost:5555"))).success
        assert (await rpc.publish(publication())).success
        await rpc.publish_v1(
            with_manifest(("tcp", "127.0.0.1:1"), ("memfd", "peerload-memfd-0123"), ("nixl", "localhost:9"))
        )


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:1234", "10.0.0.1"),
        ("ipv6:[fd00::1]:1234", "fd00::1"),
        ("ipv6:%5B::1%5D:1234", "::1"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1234", "10.0.0.1"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80::1"),
        ("unix:", "None"),
        ("unknown", "None"),
        ("", "None"),
        ("ipv4:name:1", "None"),
    ],
)
def test_where_a_call_comes_from(peer: str, address: str) -> None:
    assert str(_address_of(peer)) == address
