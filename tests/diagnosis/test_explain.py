"""The whole way: calls that find nothing, and what `client.explain` tells of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from peerload import AsyncClient, Client, Identity, Selector
from peerload.client import Status
from peerload.errors import InvalidArgument, LimitExceeded
from peerload.server.app import Server
from peerload.wire import p2p_pb2, sources_pb2
from tests.support.rpc import SOURCES, AsyncRpc, identity, publication
from tests.support.server import serving

READY = p2p_pb2.SOURCE_STATUS_READY


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as made:
        yield made


@pytest.fixture
async def rpc(server: Server) -> AsyncIterator[AsyncRpc]:
    async with AsyncRpc(server.address) as made:
        yield made


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as made:
        yield made


async def test_a_miss_of_a_stock_list(rpc: AsyncRpc, client: AsyncClient, server: Server) -> None:
    source = (await rpc.publish(publication())).mx_source_id
    assert await rpc.list(identity=identity(mx_version="0.6.1"), status_filter=READY) == []
    found = await client.explain("ORG/model")
    (miss,) = found.misses
    assert miss.verdict.text == "no match: mx_version 0.6.1, sources have 0.7.0"
    (finding,) = miss.verdict.findings
    assert (finding.field, finding.key, finding.asked, finding.have) == ("mx_version", "", "0.6.1", ("0.7.0",))
    assert (miss.verdict.nearest_source_id, miss.verdict.nearest_model) == (source, "org/model")
    assert (miss.count, miss.peers, miss.peer_count, miss.more_peers, miss.call) == (
        1,
        ("127.0.0.1",),
        1,
        False,
        "ListSources",
    )
    assert {each.field: each.value for each in miss.asked} == {
        "model_name": "org/model",
        "mx_version": "0.6.1",
        "status": "READY",
    }
    assert found.live is not None
    assert (found.live.matches, found.live.findings) == (1, ())
    (known,) = found.sources
    assert (known.source_id, known.status, known.model) == (source, Status.READY, "org/model")
    assert (found.misses_total, found.sources_total, found.listen, found.unanswered) == (1, 1, server.address, None)
    assert 0 < found.since <= miss.first <= miss.last
    assert (await client.explain(source_id=source)).misses_total == 1
    assert (await client.explain()).live is None
    assert (await client.explain("org/other")).misses == ()


async def test_our_own_lists_and_watches_are_one_question(rpc: AsyncRpc, client: AsyncClient) -> None:
    selector = Selector(model="org/late", status=Status.READY)
    assert await client.find(selector) == []
    async with contextlib.aclosing(client.watch(selector)) as changes:
        await anext(changes)
        assert (await client.explain("org/late")).misses[0].call == "Watch"
        # What a watch tells later is no list.
        await rpc.publish(publication("w1", "org/late"))
        await anext(changes)
    (miss,) = (await client.explain("org/late")).misses
    assert (miss.count, miss.verdict.findings[0].field) == (2, "absent")


async def test_who_looks_on_misses_nothing(rpc: AsyncRpc, client: AsyncClient) -> None:
    async for answer in rpc.watch():
        assert answer.complete
        break
    assert (await client.explain()).misses == ()


async def test_an_identity_of_ours_is_compared_now(client: AsyncClient) -> None:
    one = Identity(model="org/model", dtype="bfloat16")
    async with client.publish({"w": b"bytes"}, model=one):
        found = await client.explain(Identity(model="org/model", dtype="int8", extra={"step": "1"}))
        assert found.misses == ()
        assert found.live is not None
        assert (
            found.live.text
            == "no match: dtype int8, sources have bfloat16; extra_parameters[step] 1, sources have (none)"
        )
        assert [source.model for source in found.sources] == ["org/model"]
        match = (await client.explain(one)).live
        assert match is not None
        assert match.text == "1 source matches"


async def test_the_limit_and_bad_questions(rpc: AsyncRpc, client: AsyncClient) -> None:
    for number in range(30):
        await rpc.list(identity=identity(mx_version=f"1.{number}"))
    found = await client.explain("org/model", limit=3)
    assert (len(found.misses), found.misses_total) == (3, 30)
    assert len((await client.explain("org/model")).misses) == 20
    with pytest.raises(LimitExceeded, match="limit"):
        await client.explain("org/model", limit=1_001)
    with pytest.raises(InvalidArgument, match="model_name"):
        await client.explain("")
    with pytest.raises(InvalidArgument, match="source_id"):
        await client.explain("org/model", source_id="5a5f555570065064")


async def test_without_an_event_loop(server: Server) -> None:
    def ask() -> int:
        with Client(server.address) as client:
            return client.explain("org/model").misses_total

    assert await asyncio.to_thread(ask) == 0


async def test_every_server_remembers_its_own(tmp_path) -> None:
    url = f"sqlite:{tmp_path / 'x.sqlite'}"
    async with serving(url) as one, serving(url) as two:
        async with AsyncRpc(one.address) as here, AsyncClient(one.address) as near, AsyncClient(two.address) as far:
            await here.list(identity=identity())
            assert [(await each.explain()).misses_total for each in (near, far)] == [1, 0]
            assert (await far.explain()).listen == two.address


async def test_a_list_of_another_shape_is_noted_too(rpc: AsyncRpc, client: AsyncClient) -> None:
    request = sources_pb2.ListRequest(selector=sources_pb2.Selector(identity=identity(), worker_rank=3))
    await rpc.publish(publication(worker_rank=1))
    await rpc.call(f"{SOURCES}/List", request, sources_pb2.ListResponse)
    (miss,) = (await client.explain()).misses
    assert (miss.call, miss.verdict.text) == ("List", "no match: worker_rank 3, sources have rank 1")
