"""The dead are forgotten, and only they."""

from __future__ import annotations

import asyncio

import pytest

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, SourceRecord, Status
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Beat, Touch
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication

KEY = SourceKey(SOURCE, 0, "w1").encode()
GC = 120.0
BY_HAND = MetadataSettings(reaper_interval=1e9, gc_timeout=GC)
SETTLED = 245.0


@pytest.fixture
async def backend() -> FakeMetadataBackend:
    """Its reaper does nothing of its own accord."""
    return FakeMetadataBackend(settings=BY_HAND)


async def record(backend: FakeMetadataBackend) -> SourceRecord | None:
    entry = await backend.store.get(KEY)
    return None if entry is None else SourceRecord.from_entry(entry)


async def marked(backend: FakeMetadataBackend, status: Status = Status.READY) -> SourceRecord:
    """A record that the reaper has marked."""
    await backend.publish(publication(status=status))
    await backend.clock.advance(SETTLED)
    assert await backend.reaper.sweep() == (1, 0)
    await backend.settle()
    found = await record(backend)
    assert found is not None
    assert found.status is Status.STALE
    assert found.mark is not None
    assert found.mark.was is status
    return found


@pytest.mark.parametrize("status", Status)
async def test_two_steps(backend: FakeMetadataBackend, status: Status) -> None:
    async with backend:
        await marked(backend, status)
        assert await backend.reaper.sweep() == (0, 0)
        await backend.clock.advance(GC - 10)
        assert await backend.reaper.sweep() == (0, 0)
        assert [r.status for r in await backend.select(Query())] == [Status.STALE]
        await backend.clock.advance(15)
        assert await backend.reaper.sweep() == (0, 1)
        await backend.settle()
        assert await backend.reaper.sweep() == (0, 0)
        assert await record(backend) is None
        assert await backend.stored(SOURCE, "w1") is None


async def test_nothing_before_servers_and_feed_have_settled(backend: FakeMetadataBackend) -> None:
    async with backend:
        await backend.publish(publication())
        await backend.clock.advance(230)
        assert await backend.select(Query(status=Status.STALE))
        assert await backend.reaper.sweep() == (0, 0)
        backend.store.fail("watch")
        await backend.clock.advance(6)
        backend.store.heal()
        await backend.clock.advance(230)
        assert await backend.reaper.sweep() == (0, 0)
        await backend.clock.advance(15)
        assert await backend.reaper.sweep() == (1, 0)


async def test_nothing_while_the_feed_is_lost(backend: FakeMetadataBackend) -> None:
    async with backend:
        await backend.publish(publication())
        await backend.clock.advance(SETTLED)
        backend.store.hang("watch")
        await backend.clock.advance(3)
        assert await backend.reaper.sweep() == (0, 0)
        backend.store.heal()


async def test_the_living_are_left_alone(backend: FakeMetadataBackend) -> None:
    async with backend:
        await backend.publish(publication())
        for _ in range(12):
            await backend.clock.advance(30)
            assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
            await backend.settle()
            assert await backend.reaper.sweep() == (0, 0)


async def test_two_reapers_are_as_one(backend: FakeMetadataBackend) -> None:
    async with backend, FakeMetadataBackend(store=backend.store, clock=backend.clock, settings=BY_HAND) as other:
        for number in range(20):
            await backend.publish(publication(f"w{number}"))
        await backend.clock.advance(SETTLED)
        one, two = await asyncio.gather(backend.reaper.sweep(), other.reaper.sweep())
        assert one.marked + two.marked == 20
        await backend.clock.advance(GC + 5)
        one, two = await asyncio.gather(backend.reaper.sweep(), other.reaper.sweep())
        assert one.removed + two.removed == 20


@pytest.mark.parametrize("status", [Status.READY, Status.INITIALIZING, Status.STALE])
async def test_a_heartbeat_on_a_marked_record(backend: FakeMetadataBackend, status: Status) -> None:
    async with backend:
        await marked(backend)
        assert await backend.update_status(SOURCE, "w1", 0, status)
        found = await record(backend)
        assert found is not None
        assert (found.status, found.mark) == (status, None)
        assert [r.status for r in await backend.select(Query())] == [status]


async def test_publishing_a_marked_record_again(backend: FakeMetadataBackend) -> None:
    async with backend:
        before = await marked(backend)
        await backend.publish(publication())
        found = await record(backend)
        assert found is not None
        assert (found.status, found.mark) == (Status.READY, None)
        assert found.generation > before.generation
        await backend.clock.advance(80)
        assert await backend.reaper.sweep() == (0, 0)


async def test_a_heartbeat_between_the_judgement_and_the_mark(
    backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend:
        await backend.publish(publication())
        await backend.clock.advance(SETTLED)
        held = backend.directory.get(KEY)
        assert held is not None
        put = backend.store.put

        async def late_put(*args: object, **options: object) -> object:
            # The touch of another server gets in just before the mark.
            await backend.store.store.touch([Touch(KEY, held.record.generation, Beat(backend.now()))])
            monkeypatch.undo()
            return await put(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(backend.store, "put", late_put)
        assert (await backend.reaper.sweep()).marked == 1
        await backend.settle()
        found = await record(backend)
        assert found is not None
        assert (found.status, found.mark) == (Status.READY, None)
        assert len(await backend.select(Query(status=Status.READY))) == 1


async def test_a_heartbeat_that_was_on_its_way(backend: FakeMetadataBackend) -> None:
    async with backend:
        found = await marked(backend)
        # A server that had not seen the mark stores its batch.
        await backend.store.touch([Touch(KEY, found.generation, Beat(backend.now(), 0.5))])
        await backend.settle()
        found = await record(backend)  # type: ignore[assignment]
        assert (found.status, found.mark, found.load) == (Status.READY, None, 0.5)


async def test_the_write_back_waits_for_the_store(backend: FakeMetadataBackend) -> None:
    async with backend:
        found = await marked(backend)
        backend.store.fail("put")
        await backend.store.touch([Touch(KEY, found.generation, Beat(backend.now()))])
        await backend.settle()
        # Shown as alive already, whatever the store still says.
        assert len(await backend.select(Query(status=Status.READY))) == 1
        backend.store.heal()
        await backend.clock.advance(2)
        found = await record(backend)  # type: ignore[assignment]
        assert found.status is Status.READY


async def test_a_heartbeat_between_the_judgement_and_the_removal(backend: FakeMetadataBackend) -> None:
    async with backend:
        found = await marked(backend)
        await backend.clock.advance(GC + 5)
        backend.store.hang("watch", "put")
        await backend.store.touch([Touch(KEY, found.generation, Beat(backend.now()))])
        assert await backend.reaper.sweep() == (0, 0)
        assert await record(backend) is not None
        backend.store.heal()


async def test_an_outage_in_the_middle_of_a_sweep(backend: FakeMetadataBackend) -> None:
    async with backend:
        await backend.publish(publication())
        await backend.clock.advance(SETTLED)
        backend.store.fail("put")
        with pytest.raises(Unavailable):
            await backend.reaper.sweep()
        backend.store.heal()
        assert await backend.reaper.sweep() == (1, 0)


async def test_the_interval() -> None:
    async with FakeMetadataBackend(settings=MetadataSettings(gc_timeout=GC)) as running:
        await running.publish(publication())
        await running.clock.advance(239)
        found = await record(running)
        assert found is not None
        assert found.mark is None
        await running.clock.advance(35)
        found = await record(running)
        assert found is not None
        assert found.mark is not None
        await running.clock.advance(GC + 40)
        assert await record(running) is None


async def test_dead_servers_are_forgotten_in_the_end(backend: FakeMetadataBackend) -> None:
    async with backend:
        pass
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        await again.clock.advance(300)
        assert len((await again.store.list("server/")).entries) == 2
        await again.clock.advance(600)
        assert len((await again.store.list("server/")).entries) == 1
        assert await again.select(Query()) == []


async def test_a_worker_that_restarted_never_matches_its_old_record(backend: FakeMetadataBackend) -> None:
    async with backend:
        await marked(backend)
        await backend.publish(publication("w2"))
        assert await backend.update_status(SOURCE, "w2", 0, Status.READY)
        assert [r.worker_id for r in await backend.select(Query(status=Status.READY))] == ["w2"]
