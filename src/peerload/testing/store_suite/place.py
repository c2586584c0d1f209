"""What the suite needs to know of a store, and the fixtures that all its parts use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import pytest

from peerload.store.base import Feed, Position, Store
from peerload.testing.clock import ManualClock
from peerload.testing.store_suite.mirror import Mirror

__all__ = ["StorePlace", "StoreTests", "soon"]

PATIENCE_SECONDS: Final = 30.0
"""How long the suite waits for what should come at once: only a store that is broken takes this long."""

_T = TypeVar("_T")


class StorePlace(Protocol):
    """A place that is empty at first and that stores can be opened on, several at once."""

    def store(self) -> Store:
        """A store on this place, not yet opened."""
        ...

    async def forget_feed(self, store: Store) -> None:
        """Make the feed no longer reach back to any position handed out so far; may write and delete entries under
        the prefix `forget/`."""
        ...


class StoreTests:
    """The base of the suite's parts."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock that stores of the place are made with."""
        return ManualClock()

    @pytest.fixture
    def place(self, clock: ManualClock, tmp_path: Path) -> StorePlace:
        """The place under test; every subclass says which."""
        raise NotImplementedError("a subclass of StoreSuite gives the fixture `place`")

    @pytest.fixture
    async def store(self, place: StorePlace) -> AsyncIterator[Store]:
        """An open store on an empty place."""
        async with opened(place) as store:
            yield store


@contextlib.asynccontextmanager
async def opened(place: StorePlace) -> AsyncGenerator[Store, None]:
    """One more open store on the place."""
    store = place.store()
    await soon(store.open())
    try:
        yield store
    finally:
        await soon(store.close())


async def soon(answer: Awaitable[_T]) -> _T:
    """The answer, which a working store gives long before the suite's patience ends."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await answer


async def follow(
    store: Store, position: Position, until: Callable[[Mirror], bool], mirror: Mirror | None = None, prefix: str = ""
) -> Mirror:
    """Apply the feed from a position to the mirror, until it looks as it should."""
    mirror = mirror or Mirror()
    async with contextlib.aclosing(store.watch(position, prefix)) as feeds:
        while True:
            mirror.apply(await soon(anext(feeds)))
            if until(mirror):
                return mirror


async def first(feeds: AsyncGenerator[Feed, None]) -> Feed:
    """The next batch that holds changes."""
    while True:
        feed = await soon(anext(feeds))
        if feed.changes:
            return feed
