"""The faults of the faulty store: each is what the contract allows, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from peerload.errors import Compacted, NotFound, Unavailable
from peerload.store.base import Feed
from peerload.store.memory import MemoryStore
from peerload.testing import FaultyStore, ManualClock
from peerload.testing.store_suite import Mirror


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[FaultyStore]:
    store = FaultyStore(MemoryStore(clock))
    await store.open()
    yield store
    await store.close()


async def test_an_outage_hits_the_verbs_that_are_named(store: FaultyStore) -> None:
    await store.put("k", {})
    store.fail("put", "get", reason="power cut")
    for call in (store.put("k", {"n": 1}), store.get("k")):
        with pytest.raises(Unavailable, match="power cut"):
            await call
    assert len((await store.list()).entries) == 1
    store.heal("get")
    assert await store.get("k") is not None
    with pytest.raises(Unavailable):
        await store.put("k", {})
    store.heal()
    await store.put("k", {})
    assert store.calls["put"] == 4


async def test_a_total_outage_ends_watches_and_nothing_is_lost(store: FaultyStore) -> None:
    position = (await store.list()).position
    feeds = store.watch(position)
    mirror = Mirror()
    mirror.apply(await anext(feeds))
    store.fail()
    with pytest.raises(Unavailable):
        await anext(feeds)
    with pytest.raises(Unavailable):
        await anext(store.watch(position))
    await store.store.put("meanwhile", {})
    store.heal()
    assert mirror.position is not None
    mirror.apply(await anext(store.watch(mirror.position)))
    assert set(mirror.entries) == {"meanwhile"}


async def test_a_lost_answer_has_taken_effect(store: FaultyStore) -> None:
    store.lose_answers("put")
    with pytest.raises(Unavailable):
        await store.put("k", {"n": 1})
    store.heal()
    entry = await store.get("k")
    assert entry is not None
    assert entry.value == {"n": 1}


async def test_a_hung_call_goes_on_when_healed_and_can_be_cancelled(store: FaultyStore) -> None:
    store.hang("put")
    waiting = asyncio.create_task(store.put("k", {"n": 1}))
    left = asyncio.create_task(store.put("left", {}))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    store.heal("put")
    await waiting
    assert [entry.key for entry in (await store.list()).entries] == ["k"]


async def test_close_lets_no_hung_call_wait(store: FaultyStore) -> None:
    store.hang()
    calls = [asyncio.create_task(store.put("k", {})), asyncio.create_task(store.list())]
    await asyncio.sleep(0)
    await store.close()
    for call in calls:
        with pytest.raises(Unavailable):
            await call


async def test_a_hung_feed_is_silent_and_then_complete(store: FaultyStore, clock: ManualClock) -> None:
    feeds = store.watch((await store.list()).position)
    await anext(feeds)
    store.hang("watch")
    step = asyncio.create_task(anext(feeds))
    await store.put("k", {})
    await clock.advance(5)
    assert not step.done()
    store.heal("watch")
    mirror = Mirror()
    mirror.apply(await step)
    while "k" not in mirror.entries:
        mirror.apply(await anext(feeds))
    await feeds.aclose()


async def test_a_dropped_feed_resumes(store: FaultyStore) -> None:
    feeds = store.watch((await store.list()).position)
    seen = await anext(feeds)
    step = asyncio.create_task(anext(feeds))
    await asyncio.sleep(0)
    store.drop_feed()
    with pytest.raises(Unavailable):
        await step
    await store.put("k", {})
    resumed = store.watch(seen.position)
    assert len((await anext(resumed)).changes) == 1
    await resumed.aclose()


async def test_a_compacted_feed_forgets_every_position(store: FaultyStore) -> None:
    position = (await store.list()).position
    feeds = store.watch(position)
    await anext(feeds)
    store.compact_feed()
    with pytest.raises(Compacted):
        await anext(feeds)
    with pytest.raises(Compacted):
        await anext(store.watch(position))
    feeds = store.watch((await store.list()).position)
    assert (await anext(feeds)).changes == ()
    await feeds.aclose()


async def test_repeats_come_twice_and_again(clock: ManualClock) -> None:
    store = FaultyStore(MemoryStore(clock), repeats=True)
    await store.open()
    feeds = store.watch((await store.list()).position)
    batches: list[Feed] = []
    for n in range(3):
        await store.put(f"k{n}", {})
        batches.append(await anext(feeds))
    await feeds.aclose()
    assert [len(feed.changes) for feed in batches] == [2, 2, 2]
    again = store.watch(batches[1].position)
    assert [feed.changes[0] for feed in [await anext(again)]] == [batches[1].changes[0]]
    await again.aclose()
    with pytest.raises(NotFound):
        await store.blob("k0", 1)
    await store.close()
