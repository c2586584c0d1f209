"""Heartbeats and changes of status: what is answered at once, what is durable first, and what runs out when."""

from __future__ import annotations

import asyncio

import pytest

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.store.base import Beat, Touch
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication

KEY = SourceKey(SOURCE, 0, "w1").encode()


async def status(backend: FakeMetadataBackend) -> Status:
    source = await backend.stored(SOURCE, "w1")
    assert source is not None
    return source.record.status


async def stored_stamp(backend: FakeMetadataBackend) -> int:
    entry = await backend.store.get(KEY)
    assert entry is not None
    assert entry.beat is not None
    return entry.beat.stamp


async def test_a_mere_refresh_is_answered_at_once(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.clock.advance(30)
    before = await stored_stamp(backend)
    backend.store.calls.clear()
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
    assert not backend.store.calls
    await backend.clock.advance(1)
    assert await stored_stamp(backend) == before + 30_000
    assert backend.store.calls["put"] == 0


async def test_many_refreshes_are_one_write(backend: FakeMetadataBackend) -> None:
    for number in range(50):
        await backend.publish(publication(f"w{number}"))
    await backend.clock.advance(10)
    backend.store.calls.clear()
    for number in range(50):
        assert await backend.update_status(SOURCE, f"w{number}", 0, Status.READY)
    await backend.clock.advance(0.1)
    assert backend.store.calls["touch"] <= 2
    assert {record.updated_at for record in await backend.select(Query())} == {backend.now() - 100}


async def test_a_refresh_of_an_old_heartbeat_is_durable_first(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.clock.advance(46)
    backend.store.hang("touch")
    update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, Status.READY))
    await backend.clock.advance(0.2)
    assert not update.done()
    backend.store.heal()
    assert await update
    assert await stored_stamp(backend) >= backend.now() - 200


async def test_a_change_is_durable_first(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    backend.store.hang("put")
    update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, Status.STALE))
    await backend.clock.advance(0.2)
    assert not update.done()
    assert await status(backend) is Status.READY
    backend.store.heal()
    assert await update
    assert await status(backend) is Status.STALE


async def test_stamps_strictly_increase(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    last = await stored_stamp(backend)
    for number in range(20):
        change = (Status.READY, Status.READY, Status.INITIALIZING, Status.INITIALIZING)[number % 4]
        assert await backend.update_status(SOURCE, "w1", 0, change, number / 20)
        await backend.heartbeats.flush()
        stamp = await stored_stamp(backend)
        assert stamp > last
        last = stamp
        entry = await backend.store.get(KEY)
        assert entry is not None
        assert entry.beat is not None
        assert entry.beat.load == number / 20
    # Time stands still; what is shown is never ahead of it.
    await backend.clock.settle()
    assert (await backend.select(Query()))[0].updated_at <= backend.now()


async def test_the_last_of_many_updates_wins(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    changes = [Status.INITIALIZING, Status.STALE, Status.READY, Status.INITIALIZING] * 5
    updates = [asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, change)) for change in changes]
    while not all(update.done() for update in updates):
        await backend.clock.advance(0.1)
    assert all(update.result() for update in updates)
    assert await status(backend) is Status.INITIALIZING


async def test_a_change_and_a_refresh_while_the_feed_is_late(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    backend.store.hang("watch")
    for change in (Status.STALE, Status.READY):  # taken for a mere refresh, the second would leave the record STALE
        update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, change))
        await backend.clock.advance(2)
        with pytest.raises(Unavailable, match="tells of no changes"):
            await update
    backend.store.heal()
    await backend.settle()
    assert await status(backend) is Status.READY


async def test_an_update_of_what_another_server_published(backend: FakeMetadataBackend) -> None:
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as other:
        backend.store.hang("watch")
        publish = asyncio.ensure_future(other.publish(publication()))
        await backend.clock.advance(2)
        with pytest.raises(Unavailable, match="tells of no changes"):
            await publish
        assert backend.directory.get(KEY) is None
        update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, Status.READY))
        get = asyncio.ensure_future(backend.stored(SOURCE, "w1"))
        await backend.clock.advance(0.2)
        assert await update
        assert await get is not None
        backend.store.heal()
        await backend.settle()
        assert await backend.withdraw(SOURCE, "w1")
        await backend.settle()
        assert not await other.update_status(SOURCE, "w1", 0, Status.READY)


async def test_a_conflict_is_tried_again(backend: FakeMetadataBackend) -> None:
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as other:
        await backend.publish(publication())
        await backend.settle()
        updates = [
            asyncio.ensure_future(server.update_status(SOURCE, "w1", 0, change))
            for server, change in ((backend, Status.STALE), (other, Status.INITIALIZING))
        ]
        await backend.clock.advance(2)
        assert [await update for update in updates] == [True, True]
        assert await status(backend) is await status(other)


async def test_unknown_only_once_the_store_says_so(backend: FakeMetadataBackend) -> None:
    backend.store.fail("get", "list")
    for call in (backend.update_status(SOURCE, "w1", 0, Status.READY), backend.stored(SOURCE, "w1")):
        with pytest.raises(Unavailable):
            await call
    backend.store.heal()
    backend.store.calls.clear()
    answers = await asyncio.gather(*(backend.update_status(SOURCE, "w1", 0, Status.READY) for _ in range(30)))
    assert answers == [False] * 30
    answers = await asyncio.gather(*(backend.stored(SOURCE, "w1") for _ in range(30)))
    assert answers == [None] * 30
    assert backend.store.calls["list"] <= 2


async def test_refreshes_fail_while_they_cannot_be_stored(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.clock.advance(10)
    backend.store.fail("touch")
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
    await backend.clock.advance(0.5)
    with pytest.raises(Unavailable):
        await backend.update_status(SOURCE, "w1", 0, Status.READY)
    assert (await stored_stamp(backend)) < backend.now() - 10_000
    backend.store.heal()
    await backend.clock.advance(2)
    # What was answered before is stored after all.
    assert await stored_stamp(backend) >= backend.now() - 3_000
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)


async def test_answered_heartbeats_are_stored_at_the_end() -> None:
    backend = FakeMetadataBackend()
    async with backend:
        await backend.publish(publication())
        await backend.clock.advance(20)
        assert await backend.update_status(SOURCE, "w1", 0, Status.READY, 0.25)
    await backend.store.open()
    assert await stored_stamp(backend) == backend.now()
    await backend.store.close()


async def test_a_republication_is_not_touched_by_heartbeats_of_the_old(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.clock.advance(1)
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY, 0.75)
    await backend.publish(publication(status=Status.INITIALIZING))
    await backend.clock.advance(1)
    [record] = await backend.select(Query())
    assert (record.status, record.load) == (Status.INITIALIZING, None)


# Running out


@pytest.mark.parametrize("published", [Status.UNKNOWN, Status.INITIALIZING, Status.READY])
async def test_a_heartbeat_runs_out(backend: FakeMetadataBackend, published: Status) -> None:
    await backend.publish(publication(status=published))
    backend.store.fail("put", "delete")  # the reaper has no part in this
    await backend.clock.advance(89.9)
    assert [r.status for r in await backend.select(Query(status=published))] == [published]
    await backend.clock.advance(0.3)
    assert await status(backend) is Status.STALE
    assert [r.status for r in await backend.select(Query())] == [Status.STALE]
    assert await backend.select(Query(status=Status.STALE))
    backend.store.heal()
    await backend.clock.advance(300)
    assert await backend.select(Query(status=published)) == []
    # A heartbeat brings it back.
    update = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, published))
    await backend.clock.advance(0.2)
    assert await update
    assert [r.status for r in await backend.select(Query(status=published))] == [published]


async def test_heartbeats_keep_it_alive(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    for _ in range(20):
        await backend.clock.advance(30)
        assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
        assert len(await backend.select(Query(status=Status.READY))) == 1


@pytest.mark.parametrize("jump", [-86_400_000, 86_400_000])
async def test_a_step_of_the_wall_clock_kills_nobody(backend: FakeMetadataBackend, jump: int) -> None:
    await backend.publish(publication())
    backend.clock.set_wall_ms(backend.clock.wall_ms() + jump)
    for _ in range(12):
        await backend.clock.advance(30)
        assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
        assert len(await backend.select(Query(status=Status.READY))) == 1


async def test_a_stamp_from_a_clock_that_ran_ahead_runs_out_all_the_same(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    entry = await backend.store.get(KEY)
    assert entry is not None
    await backend.store.touch([Touch(KEY, entry.generation, Beat(backend.now() + 3_600_000))])
    await backend.clock.settle()
    assert (await backend.select(Query()))[0].updated_at <= backend.now()
    # The next heartbeat is still later than the last.
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
    await backend.clock.advance(89)
    assert len(await backend.select(Query(status=Status.READY))) == 1
    await backend.clock.advance(2)
    assert len(await backend.select(Query(status=Status.STALE))) == 1
