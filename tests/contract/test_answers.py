"""What the answers of P2pService mean, case by case, through a real channel to a server on a clock held by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from peerload.metadata.limits import ANSWER_BYTES, MAX_MESSAGE_BYTES
from peerload.metadata.records import SourceKey
from peerload.server.app import Server
from peerload.store.memory import MemoryStore
from peerload.testing import FaultyStore, ManualClock
from peerload.wire import p2p_pb2, splice
from peerload.wire.identity import source_id
from tests.support.rpc import P2P, AsyncRpc, identity, publication
from tests.support.server import serving

UNKNOWN, INITIALIZING, READY, STALE = range(4)
SOURCE = source_id(identity())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> FaultyStore:
    return FaultyStore(MemoryStore(clock))


@pytest.fixture
async def server(clock: ManualClock, store: FaultyStore) -> AsyncIterator[Server]:
    async with serving(clock=clock, store=store) as made:
        yield made


@pytest.fixture
async def rpc(server: Server) -> AsyncIterator[AsyncRpc]:
    async with AsyncRpc(server.address) as made:
        yield made


async def update(rpc: AsyncRpc, worker: str, status: int, rank: int = 0, **more: float) -> bool:
    answer = await rpc.update(mx_source_id=SOURCE, worker_id=worker, worker_rank=rank, status=status, **more)
    assert answer.success or answer.message
    return answer.success


async def listed(rpc: AsyncRpc, **filters: object) -> list[tuple[str, int]]:
    return [(found.worker_id, found.worker_rank) for found in await rpc.list(**filters)]


# ListSources


async def test_a_worker_id_with_several_ranks_is_one_instance(rpc: AsyncRpc, clock: ManualClock) -> None:
    times = {}
    for rank in (7, 2, 5):
        await rpc.publish(publication("many", worker_rank=rank))
        times[rank] = (await rpc.list(worker_rank_filter=rank))[0].updated_at
        await clock.advance(1)
    await rpc.publish(publication("one", worker_rank=2))
    assert await listed(rpc) == [("many", 2), ("one", 2)]
    assert await listed(rpc, worker_rank_filter=5) == [("many", 5)]
    assert await listed(rpc, worker_rank_filter=0) == []
    # The oldest heartbeat of all its ranks, whichever of them is shown.
    for filters in ({}, {"worker_rank_filter": 5}):
        (first, *_) = await rpc.list(**filters)
        assert first.updated_at == times[7]
    assert await listed(rpc, min_updated_at=times[7]) == [("many", 2), ("one", 2)]
    assert await listed(rpc, min_updated_at=times[7] + 1) == [("one", 2)]
    # One rank that is not ready keeps the worker out, whichever rank is asked for.
    assert await update(rpc, "many", INITIALIZING, 7)
    assert await listed(rpc, status_filter=READY) == [("one", 2)]
    assert await listed(rpc, status_filter=READY, worker_rank_filter=5) == []
    assert await listed(rpc, status_filter=INITIALIZING) == []


async def test_the_limit_comes_after_all_filters(rpc: AsyncRpc, clock: ManualClock) -> None:
    for index in range(6):
        status = INITIALIZING if index == 5 else READY
        await rpc.publish(publication(f"w{index}", "org/other" if index == 4 else "org/model", status=status))
        await clock.advance(1)
    assert await listed(rpc, limit=2) == [("w5", 0), ("w4", 0)]
    assert await listed(rpc, limit=2, status_filter=READY) == [("w4", 0), ("w3", 0)]
    assert await listed(rpc, limit=2, identity=identity(), status_filter=READY) == [("w3", 0), ("w2", 0)]
    assert await listed(rpc, limit=2, model_name_filter="org/model") == [("w5", 0), ("w3", 0)]
    assert len(await listed(rpc, limit=0)) == len(await listed(rpc)) == len(await listed(rpc, limit=2**32 - 1)) == 6
    # A heartbeat makes it the newest.
    assert await update(rpc, "w0", READY)
    await clock.advance(1)
    assert await listed(rpc, limit=1) == [("w0", 0)]


async def test_an_explicit_status_of_0_is_a_filter(rpc: AsyncRpc) -> None:
    for status, name in enumerate(("unknown", "initializing", "ready", "stale")):
        await rpc.publish(publication(name, status=status))
    assert len(await listed(rpc)) == 4
    assert await listed(rpc, status_filter=UNKNOWN) == [("unknown", 0)]
    assert await listed(rpc, status_filter=STALE) == [("stale", 0)]
    for status in (4, -1, 2**31 - 1):
        # Field 2, by hand: our own message refuses such numbers nowhere, but others' may.
        request = splice.varint_field(2, status)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rpc.call(f"{P2P}/ListSources", request, p2p_pb2.ListSourcesResponse)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "status_filter" in (failure.value.details() or "")


async def test_an_identity_without_a_model_name_filters_nothing(rpc: AsyncRpc) -> None:
    await rpc.publish(publication("a"))
    await rpc.publish(publication("b", "Org/Model"))
    await rpc.publish(publication("c", "org/other"))
    nameless = p2p_pb2.SourceIdentity(mx_version="0.7.0", dtype="float32", tensor_parallel_size=8)
    assert len(await listed(rpc, identity=nameless)) == 3
    # Case makes no other source, but model_name_filter is exact.
    assert [name for name, _ in await listed(rpc, identity=identity("ORG/MODEL"))] == ["a", "b"]
    assert await listed(rpc, identity=nameless, model_name_filter="Org/Model") == [("b", 0)]
    assert await listed(rpc, identity=identity(), model_name_filter="org/model") == [("a", 0)]
    assert await listed(rpc, model_name_filter="ORG/MODEL") == []
    assert await listed(rpc, model_name_filter="") == []


async def test_ready_is_as_fresh_as_the_heartbeat(rpc: AsyncRpc, clock: ManualClock) -> None:
    """The reaper, whose first pass comes much later, has no part in it."""
    await rpc.publish(publication())
    await clock.advance(89)
    assert await listed(rpc, identity=identity(), status_filter=READY) == [("w0", 0)]
    await clock.advance(2)
    assert await listed(rpc, identity=identity(), status_filter=READY) == []
    assert await listed(rpc, identity=identity(), status_filter=STALE) == [("w0", 0)]
    got = await rpc.get(SOURCE, "w0")
    assert (got.found, got.worker.status) == (True, STALE)
    assert await update(rpc, "w0", READY)
    await clock.advance(1)
    assert await listed(rpc, identity=identity(), status_filter=READY) == [("w0", 0)]
    assert (await rpc.get(SOURCE, "w0")).worker.status == READY


# UpdateStatus


async def test_a_worker_may_call_itself_stale_and_come_back(rpc: AsyncRpc, clock: ManualClock) -> None:
    await rpc.publish(publication())
    for status in (STALE, STALE, READY, INITIALIZING, UNKNOWN, READY):
        assert await update(rpc, "w0", status)
        assert await listed(rpc, status_filter=status) == [("w0", 0)]
        assert (await rpc.get(SOURCE, "w0")).worker.status == status


async def test_a_load_lasts_until_the_next_update_or_publication(rpc: AsyncRpc, clock: ManualClock) -> None:
    await rpc.publish(publication())

    async def load() -> float | None:
        await clock.advance(1)
        (found,) = await rpc.list()
        return found.source_load if found.HasField("source_load") else None

    assert await load() is None
    for sent in (0.5, 0.0, 1.0):
        assert await update(rpc, "w0", READY, source_load=sent)
        assert await load() == sent
    assert await update(rpc, "w0", READY)
    assert await load() is None
    assert await update(rpc, "w0", INITIALIZING, source_load=0.25)
    assert await load() == 0.25
    await rpc.publish(publication())
    assert await load() is None
    assert await update(rpc, "w0", READY, source_load=0.75)
    assert await update(rpc, "w0", STALE)
    assert await load() is None


@pytest.mark.parametrize(
    ("field", "value"), [("mx_source_id", ""), ("worker_id", ""), ("status", 4), ("status", 99), ("worker_rank", 1)]
)
async def test_an_update_of_nobody_is_no_success(rpc: AsyncRpc, field: str, value: object) -> None:
    await rpc.publish(publication())
    sent: dict[str, object] = {"mx_source_id": SOURCE, "worker_id": "w0", "status": STALE, field: value}
    answer = await rpc.update(**sent)
    assert not answer.success
    assert answer.message
    assert (await rpc.get(SOURCE, "w0")).worker.status == READY


# PublishMetadata


async def test_publishing_again_replaces_everything(rpc: AsyncRpc) -> None:
    first = publication(topology={"host": "a", "rack": "r"}, accelerator="cuda", agent_name="old")
    second = publication(topology={"host": "b"}, tensors=5, status=INITIALIZING, metadata_endpoint="h:1")
    for sent in (first, first, second, second):
        answer = await rpc.publish(sent)
        assert answer.success
        got = await rpc.get(SOURCE, "w0")
        assert got.worker.updated_at > 0
        got.worker.updated_at = 0
        assert got.worker == sent.worker
        (found,) = await rpc.list()
        assert (dict(found.topology), found.accelerator) == (dict(sent.worker.topology), sent.worker.accelerator)


# GetMetadata


async def test_what_nobody_here_knows_comes_back_too(rpc: AsyncRpc) -> None:
    """Fields of later versions, an identity and a worker in several pieces, both tensor lists, one case of each oneof."""
    sent = publication(tensors=3)
    worker = sent.worker.SerializeToString()
    newer = splice.varint_field(99, 7) + splice.bytes_field(100, b"later") + b"\xa5\x06\x01\x02\x03\x04"
    pieces = [
        splice.bytes_field(1, sent.identity.SerializeToString(), newer),
        splice.bytes_field(3, b"w0"),
        splice.bytes_field(2, worker, newer),
        splice.bytes_field(1, p2p_pb2.SourceIdentity(revision="r1").SerializeToString()),
        # The later case of a oneof counts, and its list goes on where the first piece ended.
        splice.bytes_field(
            2,
            p2p_pb2.WorkerMetadata(
                transfer_engine_session_id="10.0.0.1:7",
                tensor_source={"tensors": [{"name": "late", "size": 1}]},
                status=INITIALIZING,
            ).SerializeToString(),
        ),
    ]
    merged = p2p_pb2.PublishMetadataRequest.FromString(b"".join(pieces))
    answer = await rpc.publish(b"".join(pieces))
    assert answer.success
    assert answer.mx_source_id == source_id(merged.identity)
    got = await rpc.get(answer.mx_source_id, "w0")
    assert got.worker.WhichOneof("backend_metadata") == "transfer_engine_session_id"
    assert [len(got.worker.tensors), len(got.worker.tensor_source.tensors)] == [3, 4]
    assert got.identity.SerializeToString(deterministic=True) == merged.identity.SerializeToString(deterministic=True)
    got.worker.updated_at = 0
    merged.worker.updated_at = 0
    assert got.worker == merged.worker
    assert splice.submessage(got.worker.SerializeToString(), 100) == b"later"
    assert splice.submessage(got.identity.SerializeToString(), 100) == b"later"


async def test_ids_of_nobody_are_echoed(rpc: AsyncRpc) -> None:
    for source, worker in ((SOURCE, "w0"), ("", ""), ("x" * 16, "w\x00\n/"), (SOURCE.upper(), "é")):
        got = await rpc.get(source, worker)
        assert (got.found, got.mx_source_id, got.worker_id) == (False, source, worker)
        assert not got.HasField("worker")
        assert not got.HasField("identity")


async def test_what_can_be_published_can_be_asked_for(rpc: AsyncRpc) -> None:
    """Answers name the source and its state beside what was published, and have the same limit."""
    sent = publication(tensors=0)
    most = MAX_MESSAGE_BYTES - ANSWER_BYTES
    sent.worker.nixl_metadata = bytes(most)
    sent.worker.nixl_metadata = bytes(2 * most - len(sent.SerializeToString()))
    assert len(sent.SerializeToString()) == most
    answer = await rpc.publish(sent)
    assert len((await rpc.get(answer.mx_source_id, "w0")).worker.nixl_metadata) == len(sent.worker.nixl_metadata)
    sent.worker.nixl_metadata += b"x"
    with pytest.raises(grpc.aio.AioRpcError, match=str(most)) as failure:
        await rpc.publish(sent)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_key_in_the_store_is_readable(rpc: AsyncRpc, store: FaultyStore) -> None:
    await rpc.publish(publication("a/b", worker_rank=3))
    entry = await store.get(SourceKey(SOURCE, 3, "a/b").encode())
    assert entry is not None
    assert entry.value["model"] == "org/model"
