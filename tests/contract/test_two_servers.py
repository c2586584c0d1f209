"""A worker that turns from one server to another faster than the second hears of the first is still understood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from peerload.errors import Unavailable
from peerload.metadata.records import Status
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication


@pytest.fixture
async def first() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        yield fake


@pytest.fixture
async def late(first: FakeMetadataBackend) -> AsyncIterator[FakeMetadataBackend]:
    """A second server over the same store, with a READY source known to both; from then on it hears nothing new."""
    async with FakeMetadataBackend(store=FaultyStore(first.store.store), clock=first.clock) as fake:
        await first.publish(publication("w"))
        assert await first.update_status(SOURCE, "w", 0, Status.READY)
        await fake.settle()
        await fake.clock.advance(5)
        fake.store.hang("watch")
        yield fake


async def status(backend: FakeMetadataBackend) -> Status:
    found = await backend.stored(SOURCE, "w")
    assert found is not None
    return found.record.status


async def test_ready_after_stale_elsewhere(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    assert await first.update_status(SOURCE, "w", 0, Status.STALE)
    assert await late.update_status(SOURCE, "w", 0, Status.READY, 0.5)
    await first.settle()
    assert await status(first) is Status.READY
    (record,) = await first.list_workers(SOURCE, Status.READY)
    assert record.load == 0.5
    late.store.heal()
    await late.settle()
    assert await status(late) is Status.READY


async def test_ready_after_publishing_again_elsewhere(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    await first.publish(publication("w"))
    assert await late.update_status(SOURCE, "w", 0, Status.READY)
    await first.settle()
    assert await status(first) is Status.READY


async def test_a_later_word_elsewhere_counts(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    assert await first.update_status(SOURCE, "w", 0, Status.STALE)
    assert await late.update_status(SOURCE, "w", 0, Status.READY)
    await first.clock.advance(0.01)
    assert await first.update_status(SOURCE, "w", 0, Status.STALE)
    await first.settle()
    assert await status(first) is Status.STALE


async def test_a_later_word_here_counts(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    assert await first.update_status(SOURCE, "w", 0, Status.INITIALIZING)
    assert await late.update_status(SOURCE, "w", 0, Status.READY)
    # Answered once the feed tells of the write, which it does not here.
    update = asyncio.create_task(late.update_status(SOURCE, "w", 0, Status.STALE))
    await first.clock.advance(2)
    with pytest.raises(Unavailable, match="tells of no changes"):
        await update
    assert await status(first) is Status.STALE


async def test_withdrawn_elsewhere_stays_withdrawn(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    assert await first.withdraw(SOURCE, "w", 0)
    assert await late.update_status(SOURCE, "w", 0, Status.READY)
    await first.settle()
    assert await first.stored(SOURCE, "w") is None
    late.store.heal()
    await late.settle()
    assert not await late.update_status(SOURCE, "w", 0, Status.READY)


async def test_what_was_meant_survives_an_outage(first: FakeMetadataBackend, late: FakeMetadataBackend) -> None:
    assert await first.update_status(SOURCE, "w", 0, Status.STALE)
    late.store.fail("put")
    assert await late.update_status(SOURCE, "w", 0, Status.READY)
    await first.settle()
    assert await status(first) is Status.STALE
    late.store.heal("put")
    await first.clock.advance(2)
    assert await status(first) is Status.READY
