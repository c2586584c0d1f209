"""Whose a source is, at two servers over each store: of two principals at once one wins, and nothing of it is overwritten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peerload.clock import SystemClock
from peerload.errors import NotAllowed
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.principals import ANYONE, Principal, Role
from peerload.metadata.records import SourceKey, SourceRecord, Status
from peerload.plugins import open_store
from peerload.store.base import Store
from peerload.store.memory import MemoryStore
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication
from tests.support.server import store_url

ALICE = Principal("token:alice", Role.PUBLISH)
BOB = Principal("token:bob", Role.PUBLISH)
ROUNDS = 8


@pytest.fixture(params=["memory", "sqlite", "redis", "kubernetes"])
async def servers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[MetadataBackend, MetadataBackend]]:
    clock = SystemClock()
    shared = MemoryStore(clock)

    def made() -> Store:
        # In memory the same one for both, so that neither closes it under the other.
        return FaultyStore(shared) if request.param == "memory" else open_store(url, clock)

    url = store_url(request, tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(MetadataBackend(made(), clock))
        second = await stack.enter_async_context(MetadataBackend(made(), clock))
        for server in (first, second):
            while not server.serving:
                await server.health_changed(False)
        yield first, second


async def stored(server: MetadataBackend, worker_id: str) -> SourceRecord:
    entry = await server._store.get(SourceKey(SOURCE, 0, worker_id).encode())
    assert entry is not None
    return SourceRecord.from_entry(entry)


async def test_one_of_two_wins_and_the_other_changes_nothing(
    servers: tuple[MetadataBackend, MetadataBackend],
) -> None:
    first, second = servers
    for number in range(ROUNDS):
        worker_id = f"w{number}"
        results = await asyncio.gather(
            first.publish(publication(worker_id, tensors=1), principal=ALICE),
            second.publish(publication(worker_id, tensors=2), principal=BOB),
            return_exceptions=True,
        )
        assert [type(result) for result in results].count(NotAllowed) == 1, results
        winner, loser = (ALICE, BOB) if isinstance(results[1], NotAllowed) else (BOB, ALICE)
        record = await stored(first, worker_id)
        assert (record.owner, record.item_count) == (winner.name, 1 if winner is ALICE else 2)
        for server in servers:
            with pytest.raises(NotAllowed):
                await server.update_status(SOURCE, worker_id, 0, Status.STALE, principal=loser)
            with pytest.raises(NotAllowed):
                await server.withdraw(SOURCE, worker_id, 0, principal=loser)
        assert (await stored(first, worker_id)).status is Status.READY
        for server in servers:
            assert await server.update_status(SOURCE, worker_id, 0, Status.READY, principal=winner)
        # Whoever it belongs to goes from server to server, faster than they hear of each other.
        await second.publish(publication(worker_id, tensors=3), principal=winner)
        await first.publish(publication(worker_id, tensors=4), principal=winner)
        assert await second.update_status(SOURCE, worker_id, 0, Status.STALE, principal=winner)
        record = await stored(second, worker_id)
        assert (record.owner, record.item_count, record.status) == (winner.name, 4, Status.STALE)
        assert await first.withdraw(SOURCE, worker_id, 0, principal=winner)


async def test_what_was_published_before_belongs_to_nobody(servers: tuple[MetadataBackend, MetadataBackend]) -> None:
    first, second = servers
    await first.publish(publication("old"), principal=ANYONE)
    assert (await stored(first, "old")).owner == ""
    assert await second.update_status(SOURCE, "old", 0, Status.READY, principal=BOB)
    await second.publish(publication("old"), principal=ALICE)
    with pytest.raises(NotAllowed):
        await first.update_status(SOURCE, "old", 0, Status.STALE, principal=BOB)
