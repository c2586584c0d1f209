"""What the operations answer, as the contract says it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from peerload.errors import Damaged, InvalidArgument, MissingField
from peerload.metadata.publications.blobs import pack, unpack
from peerload.metadata.query import Query
from peerload.metadata.records import Form, SourceKey, SourceRecord, Status
from peerload.store.base import Beat
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.wire import p2p_pb2, sources_pb2
from tests.metadata.publications import SOURCE, identity, publication, worker


def ids(records: Sequence[SourceRecord]) -> list[str]:
    return [record.worker_id for record in records]


async def refs(backend: FakeMetadataBackend, **fields: object) -> list[p2p_pb2.SourceInstanceRef]:
    """What ListSources answers."""
    request = p2p_pb2.ListSourcesRequest(**fields).SerializeToString()  # type: ignore[arg-type]
    answer = await backend.list_refs(Query.from_list_request(request))
    return list(p2p_pb2.ListSourcesResponse.FromString(answer).instances)


async def get(backend: FakeMetadataBackend, source_id: str, worker_id: str) -> p2p_pb2.GetMetadataResponse:
    source = await backend.stored(source_id, worker_id)
    assert source is not None
    return p2p_pb2.GetMetadataResponse.FromString(source.metadata_response())


# Publish and get


async def test_what_was_published_comes_back(backend: FakeMetadataBackend) -> None:
    published = publication(tensors=3, topology={"rack": "r1"})
    assert await backend.publish(published) == SourceKey(SOURCE, 0, "w1")
    found = await get(backend, SOURCE, "w1")
    expected = worker(tensors=3, topology={"rack": "r1"})
    expected.updated_at = backend.now()
    assert found == p2p_pb2.GetMetadataResponse(
        found=True, worker=expected, mx_source_id=SOURCE, worker_id="w1", identity=identity()
    )


@pytest.mark.parametrize("status", Status)
async def test_the_status_is_kept_as_published(backend: FakeMetadataBackend, status: Status) -> None:
    await backend.publish(publication(status=status))
    assert (await get(backend, SOURCE, "w1")).worker.status == status


async def test_publishing_again_replaces_and_keeps_the_first_time(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(tensors=1))
    first = (await backend.select(Query()))[0]
    await backend.clock.advance(5)
    await backend.publish(publication(status=Status.INITIALIZING, tensors=2))
    again = (await backend.select(Query()))[0]
    assert again.published_at == first.published_at
    assert again.generation > first.generation
    assert again.updated_at > first.updated_at
    assert again.status is Status.INITIALIZING
    assert len((await get(backend, SOURCE, "w1")).worker.tensor_source.tensors) == 2


async def test_several_ranks_of_one_worker(backend: FakeMetadataBackend) -> None:
    for rank in (2, 1):
        await backend.publish(publication(rank=rank, status=Status.READY))
        await backend.clock.advance(1)
    assert (await get(backend, SOURCE, "w1")).worker.worker_rank == 1
    second = await backend.stored(SOURCE, "w1", 2)
    assert second is not None
    assert second.record.worker_rank == 2
    [ref] = await refs(backend, status_filter=Status.READY)
    assert ref.worker_rank == 1
    stamps = {record.worker_rank: record.updated_at for record in await backend.select(Query())}
    # The oldest heartbeat is the one of rank 2, which was published first.
    assert ref.updated_at == stamps[2] < stamps[1]
    [ref] = await refs(backend, worker_rank_filter=2)
    assert ref.worker_rank == 2
    assert await refs(backend, worker_rank_filter=0) == []

    assert await backend.update_status(SOURCE, "w1", 2, Status.INITIALIZING)
    assert await refs(backend, status_filter=Status.READY) == []
    assert await refs(backend, status_filter=Status.READY, worker_rank_filter=1) == []
    assert await refs(backend, status_filter=Status.INITIALIZING) == []
    assert len(await refs(backend)) == 1
    record = await backend.get_metadata(SOURCE, "w1")
    assert record is not None
    assert [worker.worker_rank for worker in record.workers] == [1, 2]
    assert [worker.status for worker in record.workers] == [Status.READY, Status.INITIALIZING]


async def test_one_worker_id_under_several_sources(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    other = await backend.publish(publication(model="org/other"))
    assert other.source_id != SOURCE
    assert await backend.list_sources() == [(SOURCE, "org/model"), (other.source_id, "org/other")]
    assert await backend.withdraw(SOURCE, "w1")
    assert ids(await backend.select(Query())) == ["w1"]


@pytest.mark.parametrize("worker_id", ["a/b\n\0c", "../..", "é" * 512, "x" * 1024])
async def test_odd_worker_ids(backend: FakeMetadataBackend, worker_id: str) -> None:
    await backend.publish(publication(worker_id))
    await backend.publish(publication(worker_id, rank=1))
    assert (await get(backend, SOURCE, worker_id)).worker_id == worker_id
    assert await backend.update_status(SOURCE, worker_id, 0, Status.STALE)
    assert await backend.withdraw(SOURCE, worker_id)
    assert await backend.stored(SOURCE, worker_id) is None


@pytest.mark.parametrize(
    ("source_id", "worker_id"),
    [("", "w1"), (SOURCE, ""), ("../..", "w1"), (SOURCE.upper(), "w1"), (SOURCE, "w" * 5000), (SOURCE, "other")],
)
async def test_nobody(backend: FakeMetadataBackend, source_id: str, worker_id: str) -> None:
    await backend.publish(publication())
    assert await backend.stored(source_id, worker_id) is None
    assert await backend.stored(source_id, worker_id, 0) is None
    assert await backend.get_metadata(source_id, worker_id) is None
    assert not await backend.update_status(source_id, worker_id, 0, Status.READY)
    assert not await backend.withdraw(source_id, worker_id)
    assert not await backend.withdraw(source_id, worker_id, 0)
    assert not await backend.update_status(SOURCE, "w1", 1, Status.READY)
    assert not await backend.update_status(SOURCE, "w1", 2**32, Status.READY)
    assert len(await backend.select(Query())) == 1


async def test_removing(backend: FakeMetadataBackend) -> None:
    for name in ("w1", "w2", "w3"):
        for rank in (0, 1):
            await backend.publish(publication(name, rank))
    assert await backend.withdraw(SOURCE, "w1", 1)
    assert not await backend.withdraw(SOURCE, "w1", 1)
    assert [r.worker_rank for r in await backend.select(Query(worker_id="w1"))] == [0]
    assert await backend.remove_worker(SOURCE, "w2")
    assert not await backend.remove_worker(SOURCE, "w2")
    assert await backend.remove_metadata(SOURCE) == 3
    assert await backend.remove_metadata(SOURCE) == 0
    assert await backend.remove_metadata("no id") == 0
    assert await backend.list_sources() == []


# Lists


async def test_the_exact_identity_or_everything(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("a"))
    await backend.publish(publication("b", model="ORG/model"))
    await backend.publish(publication("c", model="org/other"))
    # Case does not count in an identity …
    assert {ref.worker_id for ref in await refs(backend, identity=identity())} == {"a", "b"}
    # … and does in the filter.
    assert [ref.worker_id for ref in await refs(backend, model_name_filter="org/model")] == ["a"]
    assert [ref.worker_id for ref in await refs(backend, model_name_filter="ORG/model")] == ["b"]
    assert await refs(backend, identity=identity(), model_name_filter="org/other") == []
    assert await refs(backend, model_name_filter="") == []
    assert len(await refs(backend)) == 3
    assert len(await refs(backend, identity=p2p_pb2.SourceIdentity(dtype="bfloat16"))) == 3
    assert await refs(backend, identity=identity(extra="parameter")) == []


async def test_status_zero_is_a_filter(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("a", status=Status.UNKNOWN))
    await backend.publish(publication("b", status=Status.READY))
    assert [ref.worker_id for ref in await refs(backend, status_filter=0)] == ["a"]
    assert len(await refs(backend)) == 2


async def test_an_unknown_status_number_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="status_filter"):
        Query.from_list_request(p2p_pb2.ListSourcesRequest(status_filter=7).SerializeToString())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="ListSourcesRequest"):
        Query.from_list_request(b"\xff")


async def test_limit_is_of_the_newest(backend: FakeMetadataBackend) -> None:
    for name in "cab":
        await backend.publish(publication(name))
        await backend.clock.advance(1)
    await backend.update_status(SOURCE, "c", 0, Status.READY)
    await backend.settle()
    assert [ref.worker_id for ref in await refs(backend)] == ["a", "b", "c"]
    assert [ref.worker_id for ref in await refs(backend, limit=0)] == ["a", "b", "c"]
    assert [ref.worker_id for ref in await refs(backend, limit=2)] == ["c", "b"]
    assert ids(await backend.select(Query(limit=2))) == ["c", "b"]
    assert len(await refs(backend, limit=2**32 - 1)) == 3
    stamp = (await refs(backend, limit=1))[0].updated_at
    assert [ref.worker_id for ref in await refs(backend, min_updated_at=stamp)] == ["c"]
    assert await refs(backend, min_updated_at=stamp + 1) == []
    assert len(await refs(backend, min_updated_at=-5)) == 3


async def test_training_steps_and_layouts(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("a", training_step="5", layout_signature="tp8"))
    await backend.publish(publication("b", version="9"))
    await backend.publish(publication("c", training_step="soon", version="9"))
    found = {ref.worker_id: ref for ref in await refs(backend)}
    assert found["a"].training_step == 5
    assert found["a"].layout_signature == "tp8"
    assert found["b"].training_step == 9
    assert not found["b"].HasField("layout_signature")
    assert not found["c"].HasField("training_step")
    assert {ref.worker_id for ref in await refs(backend, min_training_step=0)} == {"a", "b"}
    assert {ref.worker_id for ref in await refs(backend, min_training_step=6)} == {"b"}


async def test_load_is_that_of_the_last_update(backend: FakeMetadataBackend) -> None:
    async def load() -> float | None:
        await backend.settle()
        [ref] = await refs(backend)
        return ref.source_load if ref.HasField("source_load") else None

    await backend.publish(publication())
    assert await load() is None
    await backend.update_status(SOURCE, "w1", 0, Status.READY, 0.5)
    assert await load() == 0.5
    await backend.update_status(SOURCE, "w1", 0, Status.READY, 0.0)
    assert await load() == 0.0
    await backend.update_status(SOURCE, "w1", 0, Status.READY)
    assert await load() is None
    await backend.update_status(SOURCE, "w1", 0, Status.INITIALIZING, 1.0)
    assert await load() == 1.0
    await backend.publish(publication())
    assert await load() is None


async def test_selecting(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("old", rank=1))
    await backend.clock.advance(1)
    await backend.publish(publication("new", rank=1))
    await backend.publish(publication("zero", rank=0, topology={"rack": "r1"}))
    await backend.publish(publication("b", model="a/first", manifest=sources_pb2.Manifest(form=Form.CHECKPOINT)))  # type: ignore[arg-type]
    assert ids(await backend.select(Query())) == ["b", "zero", "new", "old"]

    async def select(**fields: object) -> list[str]:
        query = Query.from_selector(sources_pb2.Selector(**fields))  # type: ignore[arg-type]
        return ids(await backend.select(query))

    assert await select(identity=identity(), worker_rank=1) == ["new", "old"]
    assert await select(source_id=SOURCE, worker_rank=0) == ["zero"]
    assert await select(form=Form.CHECKPOINT) == ["b"]
    assert await select(form=Form.UNSPECIFIED) == ["zero", "new", "old"]
    assert await select(worker_id="old") == ["old"]
    assert await select(model_name="org/model", status=Status.STALE) == []
    assert await select(revision="r1") == []
    assert len(await select(revision="")) == 4
    infos = await backend.list_workers(SOURCE, Status.READY)
    assert next((info.worker_id, dict(info.topology)) for info in infos) == ("zero", {"rack": "r1"})


@pytest.mark.parametrize(
    "fields",
    [
        {"identity": identity(), "source_id": SOURCE},
        {"status": 9},
        {"form": 9},
    ],
)
def test_a_bad_selector_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=r"^selector\."):
        Query.from_selector(sources_pb2.Selector(**fields))  # type: ignore[arg-type]


def test_a_selector_with_half_an_identity_is_refused() -> None:
    with pytest.raises(MissingField, match="model_name"):
        Query.from_selector(sources_pb2.Selector(identity=p2p_pb2.SourceIdentity(dtype="x")))


# Manifests in the store


async def test_a_manifest_comes_back(backend: FakeMetadataBackend) -> None:
    manifest = sources_pb2.Manifest(items=[sources_pb2.Item(name="a", size=3)])
    await backend.publish(publication(manifest=manifest))
    source = await backend.stored(SOURCE, "w1", 0)
    assert source is not None
    answer = sources_pb2.GetManifestResponse.FromString(source.manifest_response())
    assert answer.manifest == manifest
    assert answer.identity == identity()
    assert answer.source == source.record.to_source()
    assert answer.worker.updated_at == source.record.updated_at
    await backend.publish(publication())
    source = await backend.stored(SOURCE, "w1", 0)
    assert source is not None
    assert not sources_pb2.GetManifestResponse.FromString(source.manifest_response()).HasField("manifest")


async def test_reads_are_coalesced_and_cached(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication(tensors=10))
    backend.store.calls.clear()
    found = await asyncio.gather(*(backend.stored(SOURCE, "w1") for _ in range(20)))
    assert len({source.worker for source in found if source}) == 1
    await backend.stored(SOURCE, "w1")
    assert backend.store.calls["blob"] == 1


async def test_a_cancelled_reader_takes_nothing_from_the_others(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    backend.store.hang("blob")
    first, second = (asyncio.ensure_future(backend.stored(SOURCE, "w1")) for _ in range(2))
    await backend.clock.settle()
    first.cancel()
    backend.store.heal()
    assert await second is not None
    assert backend.store.calls["blob"] == 1


async def test_the_cache_is_bounded(backend: FakeMetadataBackend) -> None:
    manifests = backend.manifests
    manifests._limit = 4000
    for number in range(20):
        await backend.publish(publication(f"w{number}", tensors=5))
        await backend.stored(SOURCE, f"w{number}")
    assert manifests._bytes <= 4000
    assert sum(parts.size for parts in manifests._cached.values()) == manifests._bytes > 1000
    await backend.publish(publication("large", tensors=500))
    assert await backend.stored(SOURCE, "large") is not None
    assert manifests._bytes <= 4000


def test_packing_is_undone() -> None:
    for manifest in (None, sources_pb2.Manifest(), sources_pb2.Manifest(content="c")):
        kept = publication(tensors=3000, manifest=manifest)
        blob = pack(kept)
        assert len(blob) < 60_000
        parts = unpack(blob)
        assert (parts.worker, parts.identity, parts.manifest) == (kept.worker, kept.identity, kept.manifest)


def test_what_does_not_unpack_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = pack(publication(tensors=100))
    for bad in (b"", b"garbage", blob[:-3], blob[: len(blob) // 2], blob + b"more"):
        with pytest.raises(Damaged):
            unpack(bad)
    monkeypatch.setattr("peerload.metadata.publications.blobs._MAX_UNPACKED", 1000)
    with pytest.raises(Damaged, match="too large"):
        unpack(blob)


async def test_a_damaged_blob_is_an_error_and_no_answer(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication("bad"))
    await backend.publish(publication("none"))
    entry = await backend.store.get(SourceKey(SOURCE, 0, "bad").encode())
    assert entry is not None
    await backend.store.put(entry.key, entry.value, blob=b"\x28\xb5\x2f\xfd nothing", beat=entry.beat)
    key = SourceKey(SOURCE, 0, "none").encode()
    await backend.store.delete(key)
    await backend.store.put(key, entry.value, beat=Beat(backend.now()))
    await backend.settle()
    for name in ("bad", "none"):
        with pytest.raises(Damaged):
            await backend.stored(SOURCE, name)
    assert len(await backend.select(Query(status=Status.READY))) == 2
