"""A guard against slowness that cannot flake: what each call may cost, counted.

The bounds stand a little above what is spent now. Who has to raise one shows with a row of bench/ that it is worth it.
"""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from peerload.clock import SystemClock
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.feed import follow
from peerload.metadata.publications import manifests
from peerload.metadata.publications.blobs import Parts, zstd
from peerload.metadata.publications.packed import Reading
from peerload.metadata.publications.publication import Publication
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Beat, Entry, Listing
from peerload.wire import p2p_pb2, sources_pb2
from tests.costs.counting import Asked, CountingStore, asked_directly, counted, finished, peak_bytes
from tests.support.live import publication, ready

TENSORS = 20_000
SLICES = 10
WATCHERS = 200
PAGE = 100
KIB = 1024
FRAME = 64 * KIB
"""For everything but the bytes that are moved."""


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def asked(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    async with asked_directly(store, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def large() -> bytes:
    return publication(tensors=TENSORS).SerializeToString()


async def publish(asked: Asked, request: bytes) -> str:
    answer = p2p_pb2.PublishMetadataResponse.FromString(await asked.call("PublishMetadata", request))
    assert answer.success
    return answer.mx_source_id


async def fleet(asked: Asked, model: str, workers: int) -> str:
    source_id = ""
    for number in range(workers):
        source_id = await publish(asked, publication(model, f"w{number}", tensors=0).SerializeToString())
    return source_id


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def heartbeat(source_id: str, worker_id: str = "w0") -> bytes:
    return p2p_pb2.UpdateStatusRequest(
        mx_source_id=source_id, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_READY, source_load=0.5
    ).SerializeToString()


def manifest_of(source_id: str) -> bytes:
    return p2p_pb2.GetMetadataRequest(mx_source_id=source_id, worker_id="w0").SerializeToString()


async def test_a_heartbeat_is_answered_without_waiting_and_stored_with_all_the_others(
    asked: Asked, store: CountingStore
) -> None:
    source_id = await fleet(asked, "org/model", 200)
    await asyncio.sleep(0)
    store.taken()
    for number in range(200):
        finished(asked.call("UpdateStatus", heartbeat(source_id, f"w{number}")))
    assert store.taken() == {}
    await until(lambda: bool(store.touched))
    # All of them, and the server's sign of life.
    assert store.touched[-1] == 201


async def test_what_a_heartbeat_runs_through(asked: Asked) -> None:
    request = heartbeat(await fleet(asked, "org/model", 1))
    finished(asked.call("UpdateStatus", request))
    with counted() as spent:
        finished(asked.call("UpdateStatus", request))
    assert spent.parsed == {"UpdateStatusRequest": 1}
    assert spent.encoded == {}
    assert spent.calls <= 49


async def test_a_list_costs_what_its_answer_has_and_nothing_for_the_rest_of_the_directory(
    asked: Asked, store: CountingStore
) -> None:
    await fleet(asked, "org/model", 64)
    request = ready(publication("org/model").identity).SerializeToString()
    costs = []
    for others in (0, 300, 300):
        for number in range(others):
            await publish(asked, publication(f"org/other-{len(costs)}-{number}", tensors=0).SerializeToString())
        store.taken()
        finished(asked.call("ListSources", request))
        with counted() as spent:
            answer = finished(asked.call("ListSources", request))
        assert len(p2p_pb2.ListSourcesResponse.FromString(answer).instances) == 64
        assert spent.encoded == {}
        assert "SourceInstanceRef" not in spent.parsed
        assert store.taken() == {}
        costs.append(spent.calls)
    # (Now and then it is time to look at what else is due.)
    assert max(costs) - min(costs) <= 10
    assert max(costs) <= 70


async def test_a_list_is_put_together_from_parts_that_are_encoded_once(asked: Asked) -> None:
    source_id = await fleet(asked, "org/model", 500)
    request = ready().SerializeToString()
    size = len(finished(asked.call("ListSources", request)))
    with peak_bytes() as peak:
        finished(asked.call("ListSources", request))
    # The joined parts, the front's frame of them, and the list of what is joined.
    assert peak[0] <= 2 * size + 64 * 500 + FRAME
    # A heartbeat has one part made anew.
    finished(asked.call("UpdateStatus", heartbeat(source_id)))
    with counted() as spent:
        finished(asked.call("ListSources", request))
    assert spent.encoded.total() <= 1


async def test_a_few_of_many_cost_what_a_few_of_few_do(asked: Asked) -> None:
    request = ready(publication("org/model").identity)
    request.limit = 8
    asking = request.SerializeToString()
    source_id, spent_calls, spent_bytes = "", [], []
    for number in range(1_000):
        source_id = await publish(asked, publication("org/model", f"w{number}", tensors=0).SerializeToString())
        if number + 1 in (50, 1_000):
            await asked.call("UpdateStatus", heartbeat(source_id))
            finished(asked.call("ListSources", asking))
            with peak_bytes() as peak:
                finished(asked.call("ListSources", asking))
            with counted() as spent:
                answer = finished(asked.call("ListSources", asking))
            assert len(p2p_pb2.ListSourcesResponse.FromString(answer).instances) == 8
            spent_calls.append(spent.calls)
            spent_bytes.append(peak[0])
    assert abs(spent_calls[1] - spent_calls[0]) <= 10
    assert spent_bytes[1] - spent_bytes[0] <= 4 * KIB


async def test_a_hot_manifest_is_one_copy_of_what_was_published(
    asked: Asked, store: CountingStore, large: bytes
) -> None:
    request = manifest_of(await publish(asked, large))
    await asked.call("GetMetadata", request)
    store.taken()
    with counted() as spent:
        answer = finished(asked.call("GetMetadata", request))
    assert len(answer) > len(large) - KIB
    assert spent.parsed == {"GetMetadataRequest": 1}
    assert spent.encoded == {}
    assert spent.calls <= 87
    assert store.taken() == {}
    del answer
    with peak_bytes() as peak:
        finished(asked.call("GetMetadata", request))
    # The answer, the front's pieces of it, and the test's own joining of them.
    assert peak[0] <= 3.5 * len(large) + FRAME


async def test_a_cold_manifest_is_read_and_unpacked_once_for_all_who_ask(
    asked: Asked, store: CountingStore, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []

    def unpack(blob: bytes) -> Parts:
        unpacked.append(len(blob))
        return was(blob)

    was = manifests.unpack
    monkeypatch.setattr(manifests, "unpack", unpack)
    request = manifest_of(await publish(asked, large))
    store.taken()
    answers = await asyncio.gather(*(asked.call("GetMetadata", request) for _ in range(8)))
    assert len(set(answers)) == 1
    assert store.taken() == {"blob": 1}
    assert len(unpacked) == 1


async def test_a_large_publication_is_read_elsewhere_and_written_once(
    asked: Asked, store: CountingStore, large: bytes
) -> None:
    await publish(asked, large)
    store.taken()
    with counted() as spent:
        await publish(asked, large)
    assert spent.parsed == {"PublishMetadataResponse": 1}
    assert spent.encoded.keys() <= {"PublishMetadataResponse", "SourceInstanceRef"}
    assert spent.calls <= 310
    assert store.taken() == {"put": 1}


def test_a_publication_is_parsed_once_and_packed_once(large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []

    class Compressor:
        def __init__(self, level: int) -> None:
            self._real = real(level=level)
            self.set_pledged_input_size, self.flush = self._real.set_pledged_input_size, self._real.flush

        def compress(self, data: bytes) -> bytes:
            packed.append(len(data))
            return self._real.compress(data)

    real = zstd.ZstdCompressor
    monkeypatch.setattr(zstd, "ZstdCompressor", Compressor)
    with counted() as spent:
        Reading(v1=False, most_tensors=TENSORS, hosts=False).of(large)
    # The request, and every slice of its tensors once as columns.
    assert spent.parsed == {"PublishMetadataRequest": 1, "Tensors": SLICES}
    assert spent.encoded == {"Elements": SLICES}
    assert spent.calls <= 120
    assert len(large) - KIB < sum(packed) < len(large) + KIB


async def test_a_small_publication_makes_no_tasks_beside_its_own(asked: Asked, store: CountingStore) -> None:
    made: list[object] = []

    def make(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        made.append(work)
        return asyncio.Task(work, loop=loop, **more)

    asyncio.get_running_loop().set_task_factory(make)
    await fleet(asked, "org/model", 100)
    # (Now and then a server does something by itself.)
    assert len(made) < 10
    assert store.taken()["put"] == 100


async def test_what_a_small_publication_runs_through(asked: Asked) -> None:
    request = publication(tensors=0).SerializeToString()
    await publish(asked, request)
    with counted() as spent:
        await publish(asked, request)
    assert spent.parsed == {"PublishMetadataRequest": 1, "PublishMetadataResponse": 1}
    assert spent.encoded.keys() <= {"PublishMetadataResponse", "SourceInstanceRef"}
    assert spent.calls <= 285


def test_a_manifest_is_checked_without_a_step_for_each_item() -> None:
    items = [sources_pb2.Item(name=f"layers.{n}.weight", size=4, shape=[4], digest=b"d" * 16) for n in range(TENSORS)]
    message = sources_pb2.PublishRequest(record=publication(tensors=0), manifest=sources_pb2.Manifest(items=items))
    request = message.SerializeToString()
    with counted() as spent:
        assert Publication.from_v1(request).record.total_size == 4 * TENSORS
    assert spent.parsed == {"PublishRequest": 1, "ItemList": SLICES, "Items": SLICES}
    assert spent.encoded == {"Elements": SLICES, "ItemList": SLICES}
    assert spent.calls <= 81


async def test_the_memory_of_a_publication(asked: Asked, large: bytes) -> None:
    await publish(asked, large)
    with peak_bytes() as peak:
        await publish(asked, large)
    # What the test sends, what the front hands over, the worker's part of it; and every tensor's name, to look for doubles.
    assert peak[0] <= 8 * len(large) + FRAME


class Listed(CountingStore):
    """A store whose listing is its own, as one that is read from elsewhere, and page by page."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        super().__init__()
        self._rows = rows

    async def pages(self, prefix: str = "") -> AsyncGenerator[Listing, None]:
        position = (await super().list(prefix)).position
        for start in range(0, len(self._rows), PAGE):
            entries = [
                Entry("".join(list(key)), json.loads(value), number, number, Beat(number), 9)
                for number, (key, value) in enumerate(self._rows[start : start + PAGE], start=10_000 + start)
            ]
            yield Listing(tuple(entries), position)


async def test_a_record_in_the_directory_has_a_kilobyte_and_what_was_listed_is_let_go() -> None:
    rows = []
    for number in range(2_000):
        record = Publication.from_p2p(publication("org/model", f"worker-{number:08}").SerializeToString()).record
        rows.append((record.key.encode(), json.dumps(record.to_value())))
    store = Listed(rows)
    directory = Directory(store, SystemClock(), MetadataSettings())
    await store.open()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        following = asyncio.create_task(follow(store, (directory,), SystemClock()))
        await until(lambda: directory.synced)
        held, most = (bytes_ - before for bytes_ in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    following.cancel()
    await asyncio.wait([following])
    await store.close()
    assert len(directory) == len(rows)
    assert held <= len(rows) * 900
    # What is not kept of two pages, the last and the next, and no more than that.
    assert most - held <= 2 * PAGE * 1_000


async def test_a_thousand_watchers_are_told_by_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked_directly(CountingStore(), monkeypatch) as asked:
        await fleet(asked, "org/model", 1)
        selector = sources_pb2.Selector(model_name="org/model")
        request = sources_pb2.WatchRequest(selector=selector).SerializeToString()
        heard: list[list[bytes]] = [[] for _ in range(WATCHERS)]
        watching = [asyncio.create_task(asked.watch(request, each.append)) for each in heard]
        await until(lambda: all(len(each) == 1 for each in heard))
        with counted() as spent:
            await publish(asked, publication("org/model", "another", tensors=0).SerializeToString())
            await until(lambda: all(len(each) == 2 for each in heard))
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
    # What they are told is encoded once, and for each of them the time at which it is told.
    assert spent.encoded["WatchResponse"] == 1 + WATCHERS
