"""A store whose outages, lost answers and feed troubles are switched on and off by a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any as AnyType
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from peerload.errors import Compacted, StoreError, Unavailable
from peerload.store.base import (
    ANY,
    KEEP,
    Any,
    Beat,
    Entry,
    Expect,
    Feed,
    Keep,
    Listing,
    Position,
    Store,
    Touch,
    Touched,
    Value,
    Written,
)
from peerload.store.values import check_prefix

__all__ = ["FaultyStore", "Verb"]

Verb: TypeAlias = Literal["put", "touch", "get", "blob", "delete", "list", "watch"]
"""What can be made to fail or hang. `watch` stands for watches in progress as well as new ones."""

_ALL: Final[tuple[Verb, ...]] = get_args(Verb)
_REMEMBERED: Final = 10_000

_T = TypeVar("_T")


class FaultyStore:
    """Wraps any store and keeps its contract: with no fault switched on it is that store.

    With `repeats` every change comes twice, and a watch starts one batch earlier than it was asked to where it can:
    the contract allows both. `calls` counts the calls of each verb, failed ones included.
    """

    def __init__(self, store: Store, *, repeats: bool = False) -> None:
        self.store = store
        self.repeats = repeats
        self.calls: Counter[Verb] = Counter()
        self._failing: dict[Verb, str] = {}
        self._lossy: set[Verb] = set()
        self._hung: set[Verb] = set()
        self._healed = asyncio.Event()
        # A fault that ends the watches in progress is the result of this future; a new one takes its place.
        self._trouble: asyncio.Future[type[StoreError | Unavailable]] | None = None
        self._age = 0
        self._closed = False
        self._earlier: dict[Position, Position] = {}

    def fail(self, *verbs: Verb, reason: str = "the store was switched off") -> None:
        """Let these verbs (all, if none is named) raise `Unavailable` without asking the store, until `heal`."""
        for verb in verbs or _ALL:
            self._failing[verb] = reason
        if not verbs or "watch" in verbs:
            self.drop_feed()

    def lose_answers(self, *verbs: Verb) -> None:
        """Let these verbs take effect and then raise `Unavailable`, until `heal`."""
        self._lossy.update(verbs or _ALL)

    def hang(self, *verbs: Verb) -> None:
        """Let these verbs wait, until `heal`; watches in progress yield nothing, not even that they are there."""
        self._hung.update(verbs or _ALL)

    def heal(self, *verbs: Verb) -> None:
        """End what `fail`, `lose_answers` and `hang` began, for these verbs or all."""
        for verb in verbs or _ALL:
            self._failing.pop(verb, None)
            self._lossy.discard(verb)
            self._hung.discard(verb)
        self._wake()

    def drop_feed(self) -> None:
        """Let every watch in progress raise `Unavailable`; what it has not yielded comes when it is resumed."""
        self._disturb(Unavailable)

    def compact_feed(self) -> None:
        """Let every watch in progress, and every position handed out before, raise `Compacted`."""
        self._age += 1
        self._earlier.clear()
        self._disturb(Compacted)

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def pace(self) -> float:
        return self.store.pace

    async def open(self) -> None:
        await self.store.open()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        self._disturb(Unavailable)
        self._wake()
        await self.store.close()

    def now(self) -> int:
        return self.store.now()

    @property
    def doubt_ms(self) -> float:
        return self.store.doubt_ms

    async def put(
        self,
        key: str,
        value: Value,
        *,
        blob: bytes | Keep = KEEP,
        expect: Expect = ANY,
        beat: Beat | None = None,
    ) -> Written:
        return await self._call("put", lambda: self.store.put(key, value, blob=blob, expect=expect, beat=beat))

    async def touch(self, touches: Sequence[Touch]) -> list[Touched]:
        return await self._call("touch", lambda: self.store.touch(touches))

    async def get(self, key: str) -> Entry | None:
        return await self._call("get", lambda: self.store.get(key))

    async def blob(self, key: str, generation: int) -> bytes:
        return await self._call("blob", lambda: self.store.blob(key, generation))

    async def delete(
        self, key: str, *, expect: int | Literal[Any.ANY] = ANY, unless_beaten_since: int | None = None
    ) -> int:
        return await self._call(
            "delete", lambda: self.store.delete(key, expect=expect, unless_beaten_since=unless_beaten_since)
        )

    async def list(self, prefix: str = "") -> Listing:
        listing = await self._call("list", lambda: self.store.list(prefix))
        return Listing(listing.entries, self._wrap(listing.position))

    async def watch(self, position: Position, prefix: str = "") -> AsyncGenerator[Feed, None]:
        check_prefix(prefix)
        await self._enter("watch")
        if self._trouble is None or self._trouble.done():
            self._trouble = asyncio.get_running_loop().create_future()
        trouble = self._trouble
        age, _, inner = position.partition("|")
        if age != str(self._age):
            raise Compacted("the feed no longer reaches back to the reader's position")
        start = Position(inner)
        if self.repeats:
            start = self._earlier.get(start, start)
        async with contextlib.aclosing(self._undisturbed(start, prefix, trouble)) as feeds:
            async for feed in feeds:
                if self.repeats:
                    if len(self._earlier) < _REMEMBERED and feed.position != start:
                        self._earlier[feed.position] = start
                    start = feed.position
                    feed = Feed(tuple(change for change in feed.changes for _ in range(2)), feed.position)
                yield Feed(feed.changes, self._wrap(feed.position))

    async def _undisturbed(
        self, position: Position, prefix: str, trouble: asyncio.Future[type[StoreError | Unavailable]]
    ) -> AsyncGenerator[Feed, None]:
        """The store's feed, until trouble comes."""
        async with contextlib.aclosing(self.store.watch(position, prefix)) as feeds:
            while True:
                step = asyncio.ensure_future(anext(feeds))
                try:
                    await _first(step, trouble)
                    while "watch" in self._hung and not trouble.done():
                        healed = asyncio.ensure_future(self._healed.wait())
                        await _first(healed, trouble)
                        healed.cancel()
                    if trouble.done():
                        raise trouble.result()("the feed was disturbed")
                    feed = await step
                finally:
                    step.cancel()
                    await asyncio.wait({step})
                    if not step.cancelled():
                        step.exception()  # seen, where trouble came first
                yield feed

    async def _call(self, verb: Verb, ask: Callable[[], Awaitable[_T]]) -> _T:
        await self._enter(verb)
        answer = await ask()
        if verb in self._lossy:
            raise Unavailable("the answer was lost")
        return answer

    async def _enter(self, verb: Verb) -> None:
        self.calls[verb] += 1
        while verb in self._hung and not self._closed:
            await self._healed.wait()
        if self._closed:
            raise Unavailable("the store was closed")
        if verb in self._failing:
            raise Unavailable(self._failing[verb])

    def _wake(self) -> None:
        """Let what hangs look again."""
        self._healed.set()
        self._healed = asyncio.Event()

    def _wrap(self, position: Position) -> Position:
        return Position(f"{self._age}|{position}")

    def _disturb(self, error: type[StoreError | Unavailable]) -> None:
        if self._trouble is not None and not self._trouble.done():
            self._trouble.set_result(error)


async def _first(*futures: asyncio.Future[AnyType]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
