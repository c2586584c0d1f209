"""Of what a worker says at two servers whose clocks differ, the last counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.metadata.records import SourceKey, Status
from peerload.store.memory import MemoryStore
from peerload.testing import ManualClock
from peerload.testing.fake_backend import FakeMetadataBackend
from peerload.testing.faulty_store import FaultyStore
from tests.metadata.publications import SOURCE, publication

KEY = SourceKey(SOURCE, 0, "w1").encode()
DOUBT_MS = 15

T = TypeVar("T")


class Skewed(FaultyStore):
    """A server's store of which that server knows the time to within `doubt`, milliseconds."""

    def __init__(self, store: MemoryStore, ahead_ms: int, doubt: float) -> None:
        super().__init__(store)
        self.ahead_ms = ahead_ms
        self.doubt = doubt

    @property
    def doubt_ms(self) -> float:
        return self.doubt

    def now(self) -> int:
        return super().now() + self.ahead_ms


class Pair:
    """A worker, and two servers over one store."""

    def __init__(self, clock: ManualClock, ahead_ms: tuple[int, int], doubt: float = DOUBT_MS) -> None:
        self.clock = clock
        self.memory = MemoryStore(clock)
        self.servers = tuple(
            FakeMetadataBackend(store=Skewed(self.memory, ahead, doubt), clock=self.clock) for ahead in ahead_ms
        )

    async def __aenter__(self) -> Pair:
        for server in self.servers:
            await server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            await server.close()

    async def answered(self, call: Awaitable[T]) -> T:
        """The answer of a call, as soon as there is one."""
        asked = asyncio.ensure_future(call)
        await self.clock.settle()
        while not asked.done():
            await self.clock.advance(0.001)
        return await asked

    async def says(self, server: int, status: Status) -> None:
        assert await self.answered(self.servers[server].update_status(SOURCE, "w1", 0, status))

    async def publishes(self, server: int, status: Status) -> None:
        await self.answered(self.servers[server].publish(publication(status=status)))

    async def ends_as(self) -> Status:
        """What the store has once everything has come in."""
        for server in self.servers:
            server.store.heal()
        await self.clock.advance(5)
        entry = await self.memory.get(KEY)
        assert entry is not None
        return Status[str(entry.value["status"])]


SKEWS = [(DOUBT_MS, -DOUBT_MS), (-DOUBT_MS, DOUBT_MS), (0, 0)]


@pytest.mark.parametrize("ahead_ms", SKEWS)
@pytest.mark.parametrize("anew", [True, False], ids=["published anew", "another status"])
async def test_a_refresh_before_a_change_does_not_undo_it(ahead_ms: tuple[int, int], anew: bool) -> None:
    async with Pair(ManualClock(), ahead_ms) as pair:
        await pair.publishes(0, Status.INITIALIZING)
        await pair.clock.advance(5)
        pair.servers[0].store.hang("watch", "touch")
        await pair.says(0, Status.INITIALIZING)  # answered at once
        await pair.clock.advance(0.003)
        await (pair.publishes if anew else pair.says)(1, Status.READY)
        assert await pair.ends_as() is Status.READY


@pytest.mark.parametrize("ahead_ms", SKEWS)
@pytest.mark.parametrize("anew", [True, False], ids=["published anew", "another status"])
async def test_a_refresh_after_a_change_counts(ahead_ms: tuple[int, int], anew: bool) -> None:
    """At a server that has not heard of the change, what undoes it looks like a mere refresh."""
    async with Pair(ManualClock(), ahead_ms) as pair:
        await pair.publishes(0, Status.READY)
        await pair.clock.advance(5)
        pair.servers[0].store.hang("watch")
        await (pair.publishes if anew else pair.says)(1, Status.INITIALIZING)
        await pair.says(0, Status.READY)
        assert await pair.ends_as() is Status.READY


@pytest.mark.parametrize("anew", [True, False], ids=["published anew", "another status"])
async def test_a_refresh_in_the_millisecond_of_a_change_does_not_undo_it(anew: bool) -> None:
    """Where all are on one host there is no doubt, and stamps are of whole milliseconds all the same."""
    async with Pair(ManualClock(), (0, 0), doubt=0.0) as pair:
        await pair.publishes(0, Status.INITIALIZING)
        await pair.clock.advance(5)
        pair.servers[0].store.hang("watch", "touch")
        await pair.says(0, Status.INITIALIZING)  # answered at once
        await (pair.publishes if anew else pair.says)(1, Status.READY)
        assert await pair.ends_as() is Status.READY


async def test_of_two_mistakes_the_later_counts() -> None:
    """Both servers take for a refresh what is none: nobody can tell more than the stamps."""
    async with Pair(ManualClock(), (0, 0)) as pair:
        await pair.publishes(0, Status.READY)
        await pair.clock.advance(5)
        pair.servers[0].store.hang("watch")
        await pair.says(1, Status.INITIALIZING)
        pair.servers[1].store.hang("touch")
        await pair.says(0, Status.READY)
        await pair.clock.advance(0.002)
        await pair.says(1, Status.INITIALIZING)
        await pair.clock.advance(1)
        assert await pair.ends_as() is Status.INITIALIZING


STATUSES = st.sampled_from([Status.INITIALIZING, Status.READY])
SAYINGS = st.lists(
    st.tuples(st.booleans(), st.booleans(), STATUSES, st.integers(0, 40), st.booleans()), min_size=1, max_size=6
)
AHEAD = st.integers(-DOUBT_MS, DOUBT_MS)


@settings(max_examples=60, deadline=None)
@given(ahead_ms=st.tuples(AHEAD, AHEAD), sayings=SAYINGS)
def test_the_last_of_anything_said_counts(
    ahead_ms: tuple[int, int], sayings: list[tuple[bool, bool, Status, int, bool]]
) -> None:
    """Whatever is said, wherever, and however late the servers hear of each other."""

    async def run() -> None:
        async with Pair(ManualClock(), ahead_ms) as pair:
            await pair.publishes(0, Status.READY)
            await pair.clock.advance(5)
            last = Status.READY
            for other, anew, status, pause_ms, late in sayings:
                if late:
                    pair.servers[not other].store.hang("watch")
                await (pair.publishes if anew else pair.says)(int(other), status)
                pair.servers[not other].store.heal()
                last = status
                await pair.clock.advance(pause_ms / 1_000)
            assert await pair.ends_as() is last

    asyncio.run(run())
