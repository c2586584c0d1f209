"""What a fleet's heartbeats cost the API server, by its own count: time is driven by hand, the requests are real."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from peerload.metadata.backend import MetadataBackend
from peerload.metadata.query import Query
from peerload.metadata.records import Status
from peerload.testing import ManualClock
from tests.metadata.publications import SOURCE, publication
from tests.store.places import HandTimedKubernetesStore
from tests.support.house import CountedStore
from tests.support.kube import Namespace

SERVERS = 3
INTERVAL = 30
"""Seconds between two heartbeats of a worker."""
MOST_WRITES = 20.0
"""A second, by all servers."""
SEEN_WITHIN = 10.0
"""Seconds from a heartbeat until every server knows of it."""
AT_ONCE = 32


class Fleet:
    """Servers over one namespace, and workers that have one of them each."""

    def __init__(self, clock: ManualClock, namespace: Namespace, stack: AsyncExitStack) -> None:
        self._clock = clock
        self._namespace = namespace
        self._stack = stack
        self._stores: list[CountedStore] = []
        self.servers: list[MetadataBackend] = []

    async def start(self) -> None:
        kubeconfig = self._namespace.kubeconfig()
        for _ in range(SERVERS):
            store = HandTimedKubernetesStore(self._namespace.store_url(kubeconfig), self._clock, call_seconds=60.0)
            self._stores.append(CountedStore(store))
            server = MetadataBackend(self._stores[-1], self._clock)
            await server.connect()
            self._stack.push_async_callback(server.close)
            self.servers.append(server)

    async def publish(self, workers: Sequence[str]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, worker_id: str) -> None:
            async with turns:
                await self.servers[number % SERVERS].publish(publication(worker_id=worker_id))

        async with asyncio.TaskGroup() as group:
            for number, worker_id in enumerate(workers):
                group.create_task(one(number, worker_id))

    async def beat(self, workers: Sequence[str]) -> None:
        """Half a minute, in which each of them sends a heartbeat."""
        for second in range(INTERVAL):
            for number in range(second, len(workers), INTERVAL):
                server = self.servers[number % SERVERS]
                assert await server.update_status(SOURCE, workers[number], 0, Status.READY)
            await self.advance(1)

    def now(self) -> int:
        return self._stores[0].now()

    async def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            await self._clock.advance(1.0)
            calm = 0
            while calm < 3:  # what a second set going ends before the next one begins
                await asyncio.sleep(0.002)
                calm = 0 if any(store.busy for store in self._stores) else calm + 1


async def measured(namespace: Namespace, workers: int) -> float:
    """Writes a second."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        fleet = Fleet(clock, namespace, stack)
        await fleet.start()
        names = [f"worker-{number}" for number in range(workers)]
        await fleet.publish(names)
        await fleet.beat(names)
        before = namespace.plane.admin.writes()
        await fleet.beat(names)
        await fleet.beat(names)
        writes = (namespace.plane.admin.writes() - before) / (2 * INTERVAL)
        for server in fleet.servers:
            found = await server.select(Query(status=Status.READY))
            assert len(found) == workers
            # The one whose turn came first in the last half minute sent its heartbeat as long ago.
            oldest = fleet.now() - min(record.updated_at for record in found)
            assert oldest <= (INTERVAL + SEEN_WITHIN) * 1_000
    print(f"{workers} workers, {SERVERS} servers: {writes:.1f} writes a second")
    return writes


@pytest.mark.timeout(300)
async def test_a_small_fleet_writes_little(kube_namespace: Namespace) -> None:
    assert await measured(kube_namespace, 120) <= MOST_WRITES


@pytest.mark.scale
@pytest.mark.timeout(1800)
async def test_ten_thousand_workers_write_no_more(kube_namespace: Namespace) -> None:
    assert await measured(kube_namespace, 10_000) <= MOST_WRITES
