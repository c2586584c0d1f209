"""Calls while the store fails or hangs: short faults are ridden out, long ones are told in time, none as absence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.settings import MetadataSettings
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication

Call: TypeAlias = Callable[[FakeMetadataBackend, float | None], Awaitable[Any]]

CALLS: dict[str, tuple[Call, Any]] = {
    "publish": (lambda b, d: b.publish(publication("w2"), deadline=d), publication("w2").key),
    "publish again": (lambda b, d: b.publish(publication(), deadline=d), publication().key),
    "change": (lambda b, d: b.update_status(SOURCE, "w1", 0, Status.STALE, deadline=d), True),
    "old heartbeat": (lambda b, d: b.update_status(SOURCE, "w1", 0, Status.READY, deadline=d), True),
    "heartbeat of nobody": (lambda b, d: b.update_status(SOURCE, "w9", 0, Status.READY, deadline=d), False),
    "manifest": (lambda b, d: b.stored(SOURCE, "w1", deadline=d), ...),
    "manifest of nobody": (lambda b, d: b.stored(SOURCE, "w9", deadline=d), None),
    "withdraw": (lambda b, d: b.withdraw(SOURCE, "w1", deadline=d), True),
    "withdraw nobody": (lambda b, d: b.withdraw(SOURCE, "w9", deadline=d), False),
}
READS = {"manifest", "manifest of nobody"}
WRITES = {name: call for name, call in CALLS.items() if name not in READS}
every_call = pytest.mark.parametrize(("call", "answer"), CALLS.values(), ids=CALLS)


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    """A source whose heartbeat is old enough to be stored before it is answered, and nothing in the cache."""
    async with FakeMetadataBackend(settings=MetadataSettings(manifest_cache_bytes=0)) as fake:
        await fake.publish(publication())
        await fake.clock.advance(60)
        yield fake


async def ended(backend: FakeMetadataBackend, task: asyncio.Future[Any], limit: float) -> float:
    """How long it took to end."""
    start = backend.clock.monotonic()
    await backend.clock.settle()
    while not task.done() and backend.clock.monotonic() - start < limit:
        await backend.clock.advance(0.05)
    assert task.done()
    return backend.clock.monotonic() - start


@every_call
async def test_a_short_fault_is_ridden_out(backend: FakeMetadataBackend, call: Call, answer: Any) -> None:
    backend.store.fail()
    task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + 30))
    await backend.clock.advance(1.5)
    assert not task.done()
    backend.store.heal()
    assert await ended(backend, task, 4) < 4
    assert answer is ... or task.result() == answer


@every_call
async def test_a_longer_one_is_told_in_time(backend: FakeMetadataBackend, call: Call, answer: Any) -> None:
    backend.store.fail()
    start = backend.clock.monotonic()
    for seconds, limit in ((2, 2.0), (30, 7.0)):
        task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + seconds))
        await ended(backend, task, limit)
        with pytest.raises(Unavailable):
            task.result()
    # Once it is known to last, nobody waits for it.
    await backend.clock.advance(10 - (backend.clock.monotonic() - start))
    task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + 30))
    assert await ended(backend, task, 1.5) < 1.5
    with pytest.raises(Unavailable):
        task.result()


@pytest.mark.parametrize("call", [call for call, _ in WRITES.values()], ids=WRITES)
async def test_a_writer_is_told_within_two_seconds(backend: FakeMetadataBackend, call: Call) -> None:
    backend.store.fail()
    task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + 30))
    assert await ended(backend, task, 2.0) <= 2.0
    with pytest.raises(Unavailable, match="switched off"):
        task.result()


@pytest.mark.parametrize("call", [call for call, _ in WRITES.values()], ids=WRITES)
async def test_a_writer_whose_second_try_hangs_is_told_within_two_seconds(
    backend: FakeMetadataBackend, call: Call
) -> None:
    backend.store.fail()
    task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + 30))
    await backend.clock.advance(1)
    backend.store.hang()
    assert await ended(backend, task, 1.0) <= 1.0
    backend.store.heal()
    with pytest.raises(Unavailable, match="switched off"):
        task.result()


@every_call
async def test_a_store_that_hangs(backend: FakeMetadataBackend, call: Call, answer: Any) -> None:
    backend.store.hang()
    for deadline, limit in ((0.05, 0.05), (3.0, 3.0), (None, 91.0)):
        now = backend.clock.monotonic()
        task = asyncio.ensure_future(call(backend, None if deadline is None else now + deadline))
        await ended(backend, task, limit)
        with pytest.raises(Unavailable):
            task.result()
    # Those who gave up stand in nobody's way.
    backend.store.heal()
    await backend.clock.advance(5)
    task = asyncio.ensure_future(call(backend, backend.clock.monotonic() + 30))
    await ended(backend, task, 5)
    assert answer is ... or task.result() == answer


async def test_a_deadline_that_is_over_changes_nothing_for_the_better(backend: FakeMetadataBackend) -> None:
    with pytest.raises(Unavailable):
        await backend.publish(publication("w2"), deadline=backend.clock.monotonic() - 1)
    assert len(await backend.select(Query())) == 1


async def test_heartbeats_are_not_taken_on_trust_while_a_write_hangs(backend: FakeMetadataBackend) -> None:
    assert await asyncio.wait_for(asyncio.ensure_future(beat(backend)), 5)
    await backend.settle()
    backend.store.hang("touch")
    assert await beat(backend)
    await backend.clock.advance(3)
    with pytest.raises(Unavailable):
        await beat(backend)
    backend.store.heal()
    await backend.clock.advance(1)
    assert await beat(backend)


async def beat(backend: FakeMetadataBackend) -> bool:
    task = asyncio.ensure_future(backend.update_status(SOURCE, "w1", 0, Status.READY))
    await ended(backend, task, 2)
    return task.result()


async def test_a_removal_that_the_feed_has_not_told_of(backend: FakeMetadataBackend) -> None:
    """The store says that the source is gone, so that is the answer, whatever the directory believes."""
    (entry,) = (await backend.store.list(f"source/{SOURCE}/")).entries
    backend.store.hang("watch")
    await backend.store.store.delete(entry.key)
    task = asyncio.ensure_future(backend.stored(SOURCE, "w1", deadline=backend.clock.monotonic() + 30))
    assert await ended(backend, task, 3) < 3
    assert task.result() is None


async def test_what_was_acknowledged_here_is_not_denied_here(backend: FakeMetadataBackend) -> None:
    """Lists go on without the feed, so a withdrawal of which the feed does not tell is not acknowledged."""
    backend.store.hang("watch")
    deadline = backend.clock.monotonic() + 30
    task = asyncio.ensure_future(backend.withdraw(SOURCE, "w1", 0, deadline=deadline))
    assert await ended(backend, task, 2.0) <= 2.0
    with pytest.raises(Unavailable, match="tells of no changes"):
        task.result()
    again = asyncio.ensure_future(backend.withdraw(SOURCE, "w1", 0, deadline=deadline))
    await backend.clock.advance(0.5)
    assert not again.done()
    backend.store.heal()
    await ended(backend, again, 1.0)
    assert again.result() is False, "the first try did it"
    assert not await backend.select(Query())


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_server_that_was_stopped_while_a_publish_waited_to_be_seen(
    backend: FakeMetadataBackend, goes_on: bool
) -> None:
    """Written it is; acknowledged only if the lists of this server show it."""
    backend.store.hang("watch")
    task = asyncio.ensure_future(backend.publish(publication("w2"), deadline=backend.clock.monotonic() + 80))
    await backend.clock.advance(0.5)
    assert not task.done()
    backend.clock.jump(60)
    if goes_on:
        backend.store.heal()
        await ended(backend, task, 2.0)
        assert task.result().worker_id == "w2"
    else:
        await ended(backend, task, 2.0)
        with pytest.raises(Unavailable, match="tells of no changes"):
            task.result()
        backend.store.heal()
        await backend.publish(publication("w2"))
    assert len(await backend.select(Query())) == 2


async def test_a_server_that_was_stopped_gives_its_feed_time_to_tell_of_a_publish(backend: FakeMetadataBackend) -> None:
    """The time in which it stood still is none in which the feed was slow, and what comes first is old."""
    backend.store.hang("watch")
    assert await backend.update_status(SOURCE, "w1", 0, Status.READY)
    await backend.clock.advance(0.1)
    task = asyncio.ensure_future(backend.publish(publication("w2")))
    await backend.clock.advance(0.5)
    backend.clock.jump(60)
    backend.store.heal()
    while backend.directory.silent_ms:
        await asyncio.sleep(0)
    backend.store.hang("watch")
    await backend.clock.advance(0.1)
    assert not task.done()
    assert len(await backend.select(Query())) == 1
    backend.store.heal()
    await backend.clock.advance(0.1)
    assert task.done()
    assert len(await backend.select(Query())) == 2
