"""What a directory does with a store that is in trouble: try again, follow its feed, list where it must."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from peerload.clock import SystemClock
from peerload.errors import Compacted, Unavailable
from peerload.plugins import open_store
from peerload.store.base import Beat, Feed, Store, Touch
from peerload.testing.store_suite import Mirror

__all__ = ["PATIENCE", "follow", "in_time", "next_feed", "opened", "recovered", "refused"]

PATIENCE = 20.0


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The store that a URL names, while the block runs."""
    store = open_store(url, SystemClock())
    try:
        await store.open()
        yield store
    finally:
        async with asyncio.timeout(PATIENCE):
            await store.close()


async def in_time(condition: Callable[[], Any]) -> Any:
    """The first true answer of a synchronous question, asked while others run."""
    async with asyncio.timeout(PATIENCE):
        while not (answer := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.02)
    return answer


async def recovered(store: Store) -> None:
    """Return once the store takes writes again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(Unavailable):
                await store.put("recovered", {})
                return
            await asyncio.sleep(0.02)


async def refused(store: Store, reason: str) -> None:
    """Every kind of write is unavailable, and says why."""
    writes = (store.put("k", {"n": 2}), store.put("new", {}, blob=b"x"), store.touch([Touch("k", 1, Beat(1))]))
    async with asyncio.timeout(PATIENCE):
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            with pytest.raises(Unavailable, match=reason):
                raise outcome if isinstance(outcome, BaseException) else AssertionError("it was written")


async def follow(store: Store, mirror: Mirror, until: Callable[[Mirror], bool]) -> None:
    """As a directory does it: watch, and watch again from where it broke off; list again where it must."""
    async with asyncio.timeout(PATIENCE):
        while not until(mirror):
            try:
                assert mirror.position is not None
                mirror.rewind()
                async with contextlib.aclosing(store.watch(mirror.position)) as feeds:
                    async for feed in feeds:
                        mirror.apply(feed)
                        if until(mirror):
                            return
            except Unavailable:
                await asyncio.sleep(0.02)
            except Compacted:
                with contextlib.suppress(Unavailable):
                    fresh = Mirror(await store.list())
                    mirror.__dict__.update(fresh.__dict__)


async def next_feed(feeds: AsyncIterator[Feed]) -> Feed:
    async with asyncio.timeout(PATIENCE):
        return await anext(feeds)
