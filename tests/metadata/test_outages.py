"""An outage is never told as absence, and nobody dies of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Literal, TypeVar

import pytest

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, SourceRecord, Status
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication

READY = Query(status=Status.READY)
_T = TypeVar("_T")


async def answered(backend: FakeMetadataBackend, call: Awaitable[_T], limit: float = 30.0) -> tuple[float, _T]:
    """The answer to a call, and after how much time it came."""
    task = asyncio.ensure_future(call)
    start = backend.clock.monotonic()
    await backend.clock.settle()
    while not task.done():
        assert backend.clock.monotonic() - start < limit
        await backend.clock.advance(0.05)
    return backend.clock.monotonic() - start, task.result()


async def refused(backend: FakeMetadataBackend, call: Awaitable[object], limit: float = 30.0) -> float:
    """After how much time a call is refused as unavailable."""
    start = backend.clock.monotonic()
    with pytest.raises(Unavailable):
        await answered(backend, call, limit)
    return backend.clock.monotonic() - start


def ids(records: Sequence[SourceRecord]) -> set[str]:
    return {record.worker_id for record in records}


async def test_a_fresh_store_is_empty_at_once(backend: FakeMetadataBackend) -> None:
    assert await answered(backend, backend.select(READY)) == (0.0, [])
    assert await answered(backend, backend.list_refs(READY)) == (0.0, b"")
    assert await answered(backend, backend.list_sources()) == (0.0, [])


@pytest.mark.parametrize("verb", ["put", "touch"])
async def test_a_server_that_starts_knows_that_it_was_not_there(
    backend: FakeMetadataBackend, verb: Literal["put", "touch"]
) -> None:
    """Before the store does, which it tells as soon as it can: what it could not hear meanwhile has not run out."""
    await backend.publish(publication())
    await backend.clock.advance(88)
    await backend.close()
    await backend.clock.advance(4)
    backend.store.hang(verb)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        [before] = await again.select(Query())
        backend.store.heal()
        await again.clock.advance(1)
        [after] = await again.select(Query())
        assert (before.status, after.status) == (Status.READY, Status.READY)
        await again.clock.advance(2)
        [later] = await again.select(Query())
        assert later.status is Status.STALE


@pytest.mark.parametrize("down", [1.0, 60.0, 600.0, 86_400.0])
async def test_sources_survive_while_the_server_is_down(backend: FakeMetadataBackend, down: float) -> None:
    await backend.publish(publication())
    await backend.clock.advance(20)
    await backend.close()
    await backend.clock.advance(down)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        waited, found = await answered(again, again.select(READY))
        assert (waited, ids(found)) == (0.0, {"w1"})
        # For as long as was left of its time, it counts as alive.
        await again.clock.advance(65)
        assert ids(await again.select(READY)) == {"w1"}
        # Then nothing is known, rather than that there is nobody: its client may still be waiting to reconnect.
        await again.clock.advance(10)
        assert await refused(again, again.select(READY)) == pytest.approx(20, abs=0.5)
        # A heartbeat ends the hold.
        hold = asyncio.ensure_future(again.select(READY))
        await again.clock.advance(5)
        assert not hold.done()
        _, known = await answered(again, again.update_status(SOURCE, "w1", 0, Status.READY))
        assert known
        assert ids(await hold) == {"w1"}


async def test_absence_is_a_fact_again_after_the_grace(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.close()
    await backend.clock.advance(600)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        await again.clock.advance(205)
        assert await refused(again, again.select(READY))
        # What becomes certain while the call is held is answered.
        waited, found = await answered(again, again.select(READY))
        assert 10 < waited < 20
        assert found == []
        assert await answered(again, again.select(READY)) == (0.0, [])


async def test_what_was_never_there_is_a_fact_even_after_an_outage(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.close()
    await backend.clock.advance(600)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as again:
        other = Query(source_id="0123456789abcdef", status=Status.READY)
        assert await answered(again, again.select(other)) == (0.0, [])


async def test_a_hold_ends_before_the_callers_deadline(backend: FakeMetadataBackend) -> None:
    backend.store.fail("watch", "list")
    await backend.clock.advance(5)
    deadline = backend.clock.monotonic() + 3
    waited = await refused(backend, backend.select(READY, deadline=deadline))
    assert 2.5 <= waited < 3


async def test_a_store_that_is_not_there_at_the_start() -> None:
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock))
    store.fail("list")
    async with FakeMetadataBackend(store=store, clock=clock) as backend:
        assert not backend.serving
        assert "not reached" in backend.reason
        assert await refused(backend, backend.select(READY)) == pytest.approx(20, abs=0.5)
        assert await refused(backend, backend.stored(SOURCE, "w1")) == pytest.approx(20, abs=0.5)
        hold = asyncio.ensure_future(backend.select(READY))
        changed = asyncio.ensure_future(backend.health_changed(False))
        await clock.settle()
        store.heal()
        await clock.advance(3)
        assert await changed
        assert await hold == []
        assert backend.serving


async def test_the_feed_is_lost_for_a_while(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.stored(SOURCE, "w1")
    await backend.clock.advance(10)
    backend.store.fail()
    # What is known is told, and nobody grows older meanwhile.
    await backend.clock.advance(60)
    assert backend.serving
    assert ids(await backend.select(READY)) == {"w1"}
    assert await backend.stored(SOURCE, "w1", 0) is not None
    # What is not known may be the outage's doing.
    other = Query(source_id="0123456789abcdef")
    assert await refused(backend, backend.select(other)) == pytest.approx(20, abs=0.5)
    # After the heartbeat timeout nothing is told any more.
    await backend.clock.advance(15)
    assert not backend.serving
    assert "could not be reached" in backend.reason
    assert await refused(backend, backend.select(READY)) == 0
    assert await refused(backend, backend.update_status(SOURCE, "w1", 0, Status.READY)) == 0
    await backend.clock.advance(600)
    changed = asyncio.ensure_future(backend.health_changed(False))
    backend.store.heal()
    await backend.clock.advance(4)
    assert await changed
    assert ids(await backend.select(READY)) == {"w1"}
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)


@pytest.mark.parametrize("fault", ["fail", "hang"])
async def test_an_outage_does_not_age_who_had_nearly_run_out_when_it_began(
    backend: FakeMetadataBackend, fault: Literal["fail", "hang"]
) -> None:
    """A feed that is there speaks once a second: what lies beyond may be an outage, long before it is known to be one."""

    def ready() -> set[str]:
        return {held.record.worker_id for (held,) in backend.directory.find(READY)}

    await backend.publish(publication())
    await backend.clock.advance(88.4)
    getattr(backend.store, fault)()
    for _ in range(60):
        await backend.clock.advance(1)
        assert ready() == {"w1"}
    backend.store.heal()
    await backend.clock.advance(1)
    assert ready() == {"w1"}, "afterwards it does not count either"
    await backend.clock.advance(3)
    assert ready() == set()


async def test_calls_during_an_outage_are_unavailable(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    backend.store.fail()
    await backend.clock.advance(1)
    for call in (
        backend.publish(publication("w2")),
        backend.update_status(SOURCE, "w1", 0, Status.STALE),
        backend.update_status(SOURCE, "w2", 0, Status.READY),
        backend.stored(SOURCE, "w1"),
        backend.stored(SOURCE, "w2"),
        backend.withdraw(SOURCE, "w1"),
        backend.withdraw(SOURCE, "w2", 0),
        backend.remove_metadata(SOURCE),
    ):
        await refused(backend, call)


async def test_an_answer_that_was_lost_leaves_all_or_nothing(backend: FakeMetadataBackend) -> None:
    backend.store.lose_answers("put", "delete")
    await refused(backend, backend.publish(publication()))
    backend.store.heal()
    await backend.publish(publication())
    assert len(await backend.select(Query())) == 1
    backend.store.lose_answers("delete")
    await refused(backend, backend.withdraw(SOURCE, "w1"))
    backend.store.heal()
    await backend.settle()
    assert not await backend.withdraw(SOURCE, "w1")


async def test_the_store_comes_back_without_its_data(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    backend.store.fail()
    await backend.clock.advance(5)
    inner = backend.store.store
    assert isinstance(inner, MemoryStore)
    for entry in (await inner.list()).entries:
        await inner.delete(entry.key)
    backend.store.heal()
    backend.store.compact_feed()
    await backend.clock.advance(3)
    assert backend.serving
    assert await refused(backend, backend.select(READY)) == pytest.approx(20, abs=0.5)
    _, known = await answered(backend, backend.update_status(SOURCE, "w1", 0, Status.READY))
    assert not known
    hold = asyncio.ensure_future(backend.select(READY))
    await backend.clock.advance(5)
    assert not hold.done()
    await backend.publish(publication())
    assert ids(await hold) == {"w1"}


async def test_another_server_keeps_everybody_alive(backend: FakeMetadataBackend) -> None:
    async with FakeMetadataBackend(store=FaultyStore(backend.store.store), clock=backend.clock) as other:
        await backend.publish(publication("here"))
        await backend.publish(publication("dead"))
        await backend.close()
        for _ in range(8):
            await other.clock.advance(30)
            assert await other.update_status(SOURCE, "here", 0, Status.READY)
        await other.settle()
        # The other server was there all along, so nothing excuses the silence.
        assert ids(await other.select(READY)) == {"here"}


async def test_a_newcomer_learns_of_an_outage_before_its_time(backend: FakeMetadataBackend) -> None:
    await backend.publish(publication())
    await backend.close()
    await backend.clock.advance(600)
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as second:
        await second.clock.advance(5)
        async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as third:
            assert ids(await third.select(READY)) == {"w1"}


async def test_a_server_that_stood_still_kills_nobody(backend: FakeMetadataBackend) -> None:
    """Its feed, when it goes on, begins with what happened long ago."""
    await backend.publish(publication())
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as frozen:
        await frozen.settle()
        events = frozen.watch(READY)
        assert (await anext(events)).complete
        # The frozen one gets no events while the other goes on.
        for task in frozen._tasks:
            if task.get_name() == "metadata feed":
                task.cancel()
        for _ in range(10):
            await backend.clock.advance(30)
            assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
        assert ids(await backend.select(READY)) == {"w1"}
        frozen.directory.sweep()
        assert not frozen.directory.settled
        assert [held.shown for held in frozen.directory.ranks(SOURCE, "w1")] == [Status.READY]
        await events.aclose()


async def test_a_server_that_stood_still_does_not_age_its_sources_before_it_has_heard(
    backend: FakeMetadataBackend,
) -> None:
    """Whether others ran meanwhile, and heartbeats could arrive, only the feed tells."""
    await backend.publish(publication())
    await backend.clock.advance(88)
    backend.clock.jump(6)
    for _ in range(2):
        backend.directory.sweep()
        assert len(list(backend.directory.find(READY))) == 1
    await backend.clock.advance(1)
    assert ids(await backend.select(READY)) == {"w1"}, "nobody ran, so the time does not count"
    await backend.clock.advance(3)
    assert not list(backend.directory.find(READY))


async def test_a_relisting_finds_what_was_missed(backend: FakeMetadataBackend) -> None:
    for name in ("stays", "goes", "changes"):
        await backend.publish(publication(name))
    async with FakeMetadataBackend(clock=backend.clock, store=FaultyStore(backend.store.store)) as other:
        backend.store.fail("watch", "list")
        await other.withdraw(SOURCE, "goes")
        await other.publish(publication("comes"))
        await other.update_status(SOURCE, "changes", 0, Status.INITIALIZING)
        backend.store.compact_feed()
        backend.store.heal()
        await backend.clock.advance(3)
        found = {record.worker_id: record.status for record in await backend.select(Query())}
        assert found == {"stays": Status.READY, "comes": Status.READY, "changes": Status.INITIALIZING}


async def test_other_entries_in_the_store_are_not_ours(backend: FakeMetadataBackend) -> None:
    for key in ("model/x", "source/odd", "server/odd", f"{SourceKey.prefix_of(SOURCE)}x/y"):
        await backend.store.put(key, {"a": 1})
    await backend.publish(publication())
    async with FakeMetadataBackend(store=backend.store, clock=backend.clock) as other:
        assert ids(await other.select(READY)) == {"w1"}


async def test_a_background_task_that_breaks_breaks_the_server_openly(
    backend: FakeMetadataBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = asyncio.ensure_future(backend.run())
    await backend.clock.settle()

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(backend.directory, "sweep", broken)
    await backend.clock.advance(1)
    with pytest.raises(ZeroDivisionError):
        await running
    assert not backend.serving
    monkeypatch.undo()


@pytest.mark.parametrize("stopped", [60.0, 600.0])
async def test_a_server_that_was_stopped_answers_once_it_has_caught_up(
    backend: FakeMetadataBackend, stopped: float
) -> None:
    """The first who ask after it goes on are not turned away for a silence that was its own."""
    await backend.publish(publication())
    await backend.clock.advance(10)
    backend.clock.jump(stopped)
    waited, found = await answered(backend, backend.select(READY))
    assert ids(found) == {"w1"}
    assert waited < 2
    backend.clock.jump(stopped)
    _, source = await answered(backend, backend.stored(SOURCE, "w1"))
    assert source is not None
    # With the store gone meanwhile there is a limit to that.
    backend.store.hang("watch")
    await backend.clock.advance(10)
    backend.clock.jump(100)
    assert await refused(backend, backend.select(READY)) <= 21
    assert await refused(backend, backend.select(READY)) == 0
