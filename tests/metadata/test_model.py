"""Whatever happens to the feed, once it is healthy the directory is what a dictionary would be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerload.errors import Unavailable
from peerload.metadata.query import Query
from peerload.metadata.records import SourceKey, Status
from peerload.metadata.settings import MetadataSettings
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import publication

MODELS = ["org/a", "ORG/A", "org/b"]
WORKERS = ["w1", "w2/x"]
TIMEOUT_MS = 90_000
BY_HAND = MetadataSettings(reaper_interval=1e9)

keys = st.tuples(st.sampled_from(MODELS), st.integers(0, 1), st.sampled_from(WORKERS))
statuses = st.sampled_from([Status.UNKNOWN, Status.INITIALIZING, Status.READY, Status.STALE])
loads = st.none() | st.sampled_from([0.0, 0.5])
servers = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("publish"), servers, keys, statuses),
    st.tuples(st.just("update"), servers, keys, statuses, loads),
    st.tuples(st.just("withdraw"), servers, keys),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 5.0, 40.0, 80.0, 100.0])),
    st.tuples(st.just("reap"), servers),
    st.tuples(st.just("feed"), servers, st.sampled_from(["fail", "hang", "drop", "compact", "heal"])),
)


@dataclass
class Known:
    """What a dictionary knows of one record."""

    model: str
    status: Status
    heard: int
    load: float | None


class World:
    """Two servers on one store, and the model."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        kept = MemoryStore(self.clock, feed_limit=50)
        self.servers = [
            FakeMetadataBackend(store=FaultyStore(kept, repeats=repeats), clock=self.clock, settings=BY_HAND)
            for repeats in (False, True)
        ]
        self.model: dict[SourceKey, Known] = {}

    async def do(self, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        action: Callable[..., Coroutine[Any, Any, None]] = getattr(self, kind)
        await action(*rest)

    async def finished(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(call)
        await self.clock.settle()
        for _ in range(400):
            if task.done():
                return task.result()
            await self.clock.advance(0.1)
        raise AssertionError("a call does not end")

    async def insisted(self, server: int, call: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, bool]:
        """The answer, and whether it was the second try: the first may have been written although its feed was silent."""
        try:
            return await self.finished(call()), False
        except Unavailable:
            self.servers[server].store.heal()
            return await self.finished(call()), True

    async def publish(self, server: int, key: tuple[str, int, str], status: Status) -> None:
        model, rank, worker = key
        published = publication(worker, rank, status, model=model)
        place, _ = await self.insisted(server, lambda: self.servers[server].publish(published))
        self.model[place] = Known(model, status, self.clock.wall_ms(), None)

    async def update(self, server: int, key: tuple[str, int, str], status: Status, load: float | None) -> None:
        model, rank, worker = key
        place = publication(worker, rank, model=model).key
        done, _ = await self.insisted(
            server, lambda: self.servers[server].update_status(place.source_id, worker, rank, status, load)
        )
        assert done == (place in self.model)
        if done:
            known = self.model[place]
            known.status, known.load, known.heard = status, load, self.clock.wall_ms()
            # Time enough for the other server to have heard of it: workers do not send two updates in one moment.
            await self.clock.advance(0.3)

    async def withdraw(self, server: int, key: tuple[str, int, str]) -> None:
        model, rank, worker = key
        place = publication(worker, rank, model=model).key
        done, again = await self.insisted(server, lambda: self.servers[server].withdraw(place.source_id, worker, rank))
        known = self.model.pop(place, None) is not None
        assert done == known or (again and known)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def reap(self, server: int) -> None:
        await self.finished(self.servers[server].reaper.sweep())

    async def feed(self, server: int, fault: str) -> None:
        store = self.servers[server].store
        match fault:
            case "fail":
                store.fail("watch", "list")
            case "hang":
                store.hang("watch")
            case "drop":
                store.drop_feed()
            case "compact":
                store.compact_feed()
            case "heal":
                store.heal()

    async def check(self) -> None:
        for server in self.servers:
            server.store.heal()
        await self.clock.advance(4)
        now = self.clock.wall_ms()
        for server in self.servers:
            found = {record.key: record for record in await self.finished(server.select(Query()))}
            assert found.keys() == self.model.keys()
            for key, known in self.model.items():
                record = found[key]
                assert record.model_name == known.model
                assert record.load == known.load
                # The moment of the call is known to within the time that the call took.
                if abs(now - known.heard - TIMEOUT_MS) > 5_000:
                    dead = now - known.heard > TIMEOUT_MS
                    assert record.status is (Status.STALE if dead else known.status), (key, known, record)
                listed = list(
                    server.directory.find(
                        Query(source_id=key.source_id, worker_id=key.worker_id, worker_rank=key.worker_rank)
                    )
                )
                assert len(listed) == 1
            models = {(key.source_id, known.model) for key, known in self.model.items()}
            assert set(server.directory.sources()) == models
            directory = server.directory
            assert len(directory) == len(self.model)
            expiry = directory.expiry
            fresh = {id(held) for held in expiry._fresh if not held.removed and not held.expired}
            overdue = {id(held) for _, _, held in filter(lambda place: expiry._counts(*place), expiry._overdue)}
            assert overdue == {id(held) for held in expiry.quiet.values()}
            assert not overdue & fresh
            assert len(fresh) + len(expiry.quiet) + len(expiry.expired) == len(directory)
            everybody = (held for ranks in directory.find(Query()) for held in ranks)
            assert directory.census.counts() == Counter((held.record.model_name, held.shown) for held in everybody)


async def run(history: list[tuple[Any, ...]]) -> None:
    world = World()
    async with world.servers[0], world.servers[1]:
        for step in history:
            await world.do(step)
        await world.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_the_directory_is_a_dictionary(history: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(history))
