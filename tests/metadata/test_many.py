"""Large fleets: what is bounded stays bounded."""

from __future__ import annotations

import asyncio
import tracemalloc

from peerload.metadata.confirm import Confirm
from peerload.metadata.directory.directory import Directory
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Beat, Beaten, Entry, Feed, Position, Put
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.faulty_store import FaultyStore
from peerload.wire import p2p_pb2
from tests.metadata.publications import SOURCE, publication

FLEET = 10_000
BYTES_EACH = 1_500
VALUE = publication(topology={"rack": "r1", "host": "h1"}).record.to_value()


def entry(number: int, stamp: int) -> Entry:
    key = SourceKey(f"{number // 64:016x}", number % 64, f"{number:032x}").encode()
    host = f"10.0.{number // 256}.{number % 256}"
    value = {**VALUE, "model": f"org/model-{number // 64}", "endpoints": f"{host}:6555,{host}:5555"}
    return Entry(key, value, number + 1, number + 1, Beat(stamp), 100)


def fleet() -> tuple[Directory, int]:
    clock = ManualClock()
    store = MemoryStore(clock)
    directory = Directory(store, clock, MetadataSettings())
    directory.begin_list()
    directory.end_list()
    now = store.now()
    for start in range(0, FLEET, 500):
        puts = tuple(Put(entry(number, now)) for number in range(start, start + 500))
        directory.apply(Feed(puts, Position("1")))
    return directory, now


def test_a_record_takes_about_a_kilobyte() -> None:
    tracemalloc.start()
    try:
        directory, _ = fleet()
        everything = Query(status=Status.READY, instances=True)
        answer = b"".join(ranks[0].framed() for ranks in directory.find(everything))
        taken = tracemalloc.get_traced_memory()[0] - len(answer)
    finally:
        tracemalloc.stop()
    assert len(p2p_pb2.ListSourcesResponse.FromString(answer).instances) == FLEET == len(directory)
    assert taken < FLEET * BYTES_EACH


def test_heartbeats_leave_nothing_behind() -> None:
    directory, now = fleet()
    keys = [SourceKey(f"{number // 64:016x}", number % 64, f"{number:032x}").encode() for number in range(1000)]
    for beat in range(1, 20):
        beats = tuple(Beaten(key, number + 1, Beat(now + beat)) for number, key in enumerate(keys))
        directory.apply(Feed(beats, Position("1")))
    assert len(directory.expiry._fresh) == FLEET
    assert not directory.expiry.quiet
    assert not directory._waiting
    assert not directory._tombstones


async def test_an_answer_of_one_source_does_not_look_at_the_others() -> None:
    directory, _ = fleet()
    one = Query(source_id=f"{7:016x}", instances=True)
    assert [group.members.keys() for group in directory._index.groups(one)] == [
        {f"{number:032x}" for number in range(7 * 64, 8 * 64)}
    ]
    assert len(list(directory.find(Query(model_name="org/model-7")))) == 64
    assert len(list(directory._index.groups(Query(model_name="org/model-7")))) == 1


async def test_many_questions_about_nobody_are_few_reads() -> None:
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock))
    await store.open()
    confirm = Confirm(store, clock)
    store.hang("list", "get")
    first = [asyncio.ensure_future(confirm.source(SOURCE)) for _ in range(50)]
    await clock.settle()
    later = [asyncio.ensure_future(confirm.source(SOURCE)) for _ in range(50)]
    await clock.settle()
    assert store.calls["list"] == 1
    store.heal()
    assert await asyncio.gather(*first, *later) == [()] * 100
    # Those who came while a read was in flight share the next one: it may have looked before they asked.
    assert store.calls["list"] == 2
    hung = [asyncio.ensure_future(confirm.entry(f"key{number}")) for number in range(100)]
    store.hang("get")
    await clock.settle()
    in_flight = store.calls["get"]
    assert in_flight < 30
    await confirm.close()
    answers = await asyncio.gather(*hung, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) or answer is None for answer in answers)
    await store.close()
