"""Nothing that strangers can do makes the server keep more and more."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from peerload.errors import Unavailable
from peerload.metadata.directory.held import Held
from peerload.metadata.records import Status
from peerload.testing.fake_backend import FakeMetadataBackend
from tests.metadata.publications import SOURCE, publication


@pytest.fixture
async def backend() -> AsyncIterator[FakeMetadataBackend]:
    async with FakeMetadataBackend() as fake:
        yield fake


async def cancelled(tasks: list[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_what_comes_and_goes_is_not_kept(backend: FakeMetadataBackend) -> None:
    for index in range(1_500):
        await backend.publish(publication(f"w{index}"))
        assert await backend.withdraw(SOURCE, f"w{index}", 0)
    gc.collect()
    assert sum(isinstance(thing, Held) for thing in gc.get_objects()) < 1_200


async def test_questions_that_nobody_waits_for_are_not_asked(backend: FakeMetadataBackend) -> None:
    backend.store.hang("get")
    asked = backend.store.calls["get"]
    calls = [asyncio.create_task(backend.update_status(SOURCE, f"w{index}", 0, Status.READY)) for index in range(1_000)]
    await backend.clock.settle()
    await cancelled([*calls])
    backend.store.heal()
    await backend.clock.advance(5)
    assert backend.store.calls["get"] - asked < 50
    # And whoever comes afterwards has an answer.
    assert not await backend.update_status(SOURCE, "w1", 0, Status.READY)


async def test_a_question_lives_as_long_as_anybody_waits_for_it(backend: FakeMetadataBackend) -> None:
    backend.store.hang("get")
    others = [asyncio.create_task(backend.update_status(SOURCE, f"w{index}", 0, Status.READY)) for index in range(20)]
    await backend.clock.settle()
    same = [asyncio.create_task(backend.stored(SOURCE, "w", 0)) for _ in range(3)]
    await backend.clock.settle()
    await cancelled([*same[:2]])
    backend.store.heal()
    await backend.clock.advance(5)
    assert await same[2] is None
    assert await asyncio.gather(*others) == [False] * 20


async def test_more_questions_than_can_be_answered_are_turned_away(backend: FakeMetadataBackend) -> None:
    backend.store.hang("list")
    calls = [asyncio.create_task(backend.stored(f"{index:016x}", "w")) for index in range(2_100)]
    await backend.clock.settle()
    refused = [task for task in calls if task.done()]
    assert 50 <= len(refused) <= 100
    for task in refused:
        with pytest.raises(Unavailable, match="try again"):
            task.result()
    await cancelled([*calls])
    backend.store.heal()
    await backend.clock.advance(3)
    assert await backend.stored("0" * 16, "w") is None
