"""Hears at once that there is something new in the feed, on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from peerload.errors import Unavailable
from peerload.store.redis.link import Link
from peerload.store.redis.pool import checked
from peerload.store.redis.route import Route

__all__ = ["Poller"]

_BLOCK_MS: Final = 1_000
_ANSWER_SECONDS: Final = 2.0
"""How much longer than it was told to block Redis may take to answer."""
_CONNECT_SECONDS: Final = 2.0
_READ_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 0.1
_RETRY_MAX_SECONDS: Final = 1.0


class Poller:
    """Blocks in XREAD for as long as somebody watches, and calls `on_news`.

    It only wakes: what is new is read by the watches themselves, which also look on every tick of the clock. So a
    failure here costs time, never a change.
    """

    def __init__(self, route: Route, feed: str, wanted: Callable[[], bool], on_news: Callable[[], None]) -> None:
        self._route = route
        self._feed = feed
        self._wanted = wanted
        self._on_news = on_news
        self._seen = 0
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="redis poller")

    def seen(self, revision: int) -> None:
        """A watch has read this far; nothing up to here is news."""
        if revision != self._seen:
            self._seen = revision
            self._moved.set()

    async def stop(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        delay = _RETRY_SECONDS
        while True:
            await self._moved.wait()
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    link = await self._route.connect()
                with contextlib.closing(link):
                    await self._follow(link)
                delay = _RETRY_SECONDS
            except (Unavailable, TimeoutError):
                self._route.forget()
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_SECONDS)

    async def _follow(self, link: Link) -> None:
        heard = self._seen
        while self._wanted():
            start = max(heard, self._seen)
            self._moved.clear()
            async with asyncio.timeout(_BLOCK_MS / 1_000 + _ANSWER_SECONDS):
                (news,) = checked(
                    link,
                    await link.ask(("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", self._feed, f"{start}-0")),
                )
            if news:
                ((_, ((item_id, _),)),) = news
                heard = int(item_id.partition(b"-")[0])
                self._on_news()
                # Whoever was woken reads all there is, and says how far that was.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_READ_SECONDS):
                        await self._moved.wait()
            elif self._seen < heard:
                heard = self._seen  # the feed began anew
