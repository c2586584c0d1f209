"""A store that wants heartbeats seldom gets them so, and nobody takes its pace for silence."""

from __future__ import annotations

import pytest

from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.metadata.settings import MetadataSettings
from peerload.store.base import Touch
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication

PACE = 3.0


class SlowStore(FaultyStore):
    """Wants a batch every three seconds."""

    @property
    def pace(self) -> float:
        return PACE


def test_a_pace_changes_what_is_faster_and_nothing_else() -> None:
    settings = MetadataSettings(flush_delay=0.05, alive_interval=7.0, alive_tolerance=5.0, probe_after=35.0)
    assert settings.at_pace(0.0) == settings
    paced = settings.at_pace(PACE)
    assert (paced.flush_delay, paced.alive_interval, paced.alive_tolerance, paced.probe_after) == (3.0, 7.0, 9.0, 38.0)


async def test_heartbeats_gather_for_as_long_as_the_store_wants() -> None:
    clock = ManualClock()
    store = SlowStore(MemoryStore(clock))
    async with FakeMetadataBackend(store=store, clock=clock) as backend:
        keys = [f"w{number}" for number in range(20)]
        for worker_id in keys:
            await backend.publish(publication(worker_id=worker_id))
        await clock.advance(PACE)
        before = store.calls["touch"]
        # Each worker at a moment of its own, as ten thousand would be.
        for _ in range(3):
            for worker_id in keys:
                assert await backend.update_status(SOURCE, worker_id, 0, Status.READY)
                await clock.advance(30 / len(keys))
        assert store.calls["touch"] - before <= 90 / PACE + 1
        found = await backend.select(Query(status=Status.READY))
        assert {record.worker_id for record in found} == set(keys)
        assert min(record.updated_at for record in found) > store.now() - 35_000


async def test_a_server_with_nothing_to_store_is_not_taken_for_gone() -> None:
    clock = ManualClock()
    store = SlowStore(MemoryStore(clock))
    async with FakeMetadataBackend(store=store, clock=clock) as backend:
        await backend.publish(publication())
        await clock.advance(60)
        assert len((await store.list("server/")).entries) == 1
        assert (await backend.select(Query(status=Status.READY)))[0].worker_id == "w1"
        await clock.advance(40)
        assert not [r for r in await backend.select(Query()) if r.status is Status.READY]


@pytest.mark.parametrize("pace", [0.0, PACE])
async def test_what_waits_for_its_answer_does_not_wait_for_the_pace(pace: float) -> None:
    clock = ManualClock()
    store = SlowStore(MemoryStore(clock)) if pace else FaultyStore(MemoryStore(clock))
    async with FakeMetadataBackend(store=store, clock=clock) as backend:
        await backend.publish(publication())
        (entry,) = (await store.list("source/")).entries
        await clock.advance(0.01)
        answer = await backend.heartbeats.store(Touch(entry.key, entry.generation, entry.beat or pytest.fail("none")))
        assert answer.value == "older"
