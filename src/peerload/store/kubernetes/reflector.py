"""Follows the records by list and watch, as client-go's reflectors do: one list, then a watch from its resourceVersion.

A watch that ends is taken up where it ended. Where the API server no longer reaches back that far, the records are listed
again and compared with what was known, so that no change is lost. What is there only because a list was broken off half
way is told with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import structlog

from peerload.clock import Clock
from peerload.errors import Damaged, Unavailable
from peerload.kubernetes.trouble import Behind, Gone
from peerload.store.base import Change
from peerload.store.kubernetes.index import Index
from peerload.store.kubernetes.layout import Layout, begin_anew, read_layout, settle
from peerload.store.kubernetes.log import LOG_LIMIT, Log
from peerload.store.kubernetes.names import Type
from peerload.store.kubernetes.objects import Record, type_in, version_of
from peerload.store.kubernetes.resources import Resources

__all__ = ["BACK_SECONDS", "Reflector"]

_log = structlog.stdlib.get_logger(__name__)

BACK_SECONDS: Final = 1.5
"""How long what was written may take to come back on the watch."""
_RETRY_SECONDS: Final = 0.1
_RETRY_MAX_SECONDS: Final = 3.0
_ATTEMPTS: Final = 3
_GOOD_SECONDS: Final = 10.0
"""After so long a watch was a good one, and its end is no reason to be careful."""


class _Anew(Exception):
    """The store has begun anew."""


class Reflector:
    """Keeps an `Index` and a `Log` up to date. `on_news` is called when there is something for watches to look at."""

    def __init__(
        self,
        resources: Resources,
        index: Index,
        clock: Clock,
        now_ms: Callable[[], int],
        on_news: Callable[[], None],
        *,
        log_limit: int = LOG_LIMIT,
        back_seconds: float = BACK_SECONDS,
    ) -> None:
        self._resources = resources
        self._index = index
        self._clock = clock
        self._now_ms = now_ms
        self._on_news = on_news
        self._log_limit = log_limit
        self.back_seconds = back_seconds
        self.log = Log(0, log_limit)
        self._layout: Layout | None = None
        self.trouble: Unavailable | None = None
        """Why it is not known at present what happens. None: it is."""
        self.heard = 0.0
        """When something was last heard, in monotonic seconds."""
        self.on_trouble: Callable[[], None] = lambda: None
        self._events = 0
        self._lost = False
        self._owed: list[Change] = []
        self._reached: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._deletions: dict[str, list[asyncio.Future[tuple[int, str]]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stream: asyncio.Future[None] | None = None
        index.on_deleted = self._deleted

    @property
    def layout(self) -> Layout:
        """Which beginning of the store is followed. Raises `Unavailable` while that changes."""
        if self._layout is None:
            raise Unavailable("the store in Kubernetes has begun anew, and is not listed yet")
        return self._layout

    async def open(self) -> None:
        """List, and begin to follow. Raises `Unavailable`."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_Anew, Gone):
                await self._begin()
                break
        else:
            raise Unavailable("the API server's records begin anew or are forgotten before they are read to their end")
        self._task = asyncio.create_task(self._run(), name="kubernetes reflector")

    async def close(self) -> None:
        """End it; whoever waits is told that the store is unavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._fail_waiters(Unavailable("the store was closed"))

    async def reached(self, version: int) -> None:
        """Return once the index is as of that resourceVersion or a later one. Raises `Unavailable` if that takes long; and if
        nothing has come meanwhile, the watch is taken for hung."""
        if self.log.end >= version:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._reached, (version, next(self._order), future))
        heard = self._events
        try:
            async with asyncio.timeout(self.back_seconds):
                await future
        except TimeoutError:
            if self._events == heard:
                raise self.suspect() from None
            raise Unavailable("the Kubernetes API server's watch is slow to tell what was written") from None

    @contextlib.contextmanager
    def deletion(self, uid: str) -> Iterator[asyncio.Future[tuple[int, str]]]:
        """A future with the resourceVersion of the end of a record, and the last mark that it is known to have had, for as long
        as the block runs."""
        future: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._deletions.setdefault(uid, []).append(future)
        try:
            yield future
        finally:
            waiting = self._deletions[uid]
            waiting.remove(future)
            if not waiting:
                del self._deletions[uid]

    def suspect(self) -> Unavailable:
        """The watch has not brought what it should have: open another one."""
        error = Unavailable("the Kubernetes API server's watch does not tell what was written")
        self._fail(error)
        if self._stream is not None:
            self._stream.cancel()
        return error

    def doubt(self, error: Unavailable) -> None:
        """The watch is quiet, and what would prove it alive cannot be written."""
        self._fail(error)

    def went_back(self) -> Unavailable:
        """The API server counts from an earlier number than it has told of: its data are not what they were. List again."""
        self._lost = True
        return self.suspect()

    async def _run(self) -> None:
        delay = _RETRY_SECONDS
        while True:
            begun = self._clock.monotonic()
            try:
                if self._lost:
                    await self._list_again()
                await self._streamed()
            except _Anew:
                self._lost, self._layout = True, None
            except (Gone, Behind) as error:
                self._lost = True
                _log.info("the records are listed again", reason=str(error))
            except (Unavailable, Damaged) as error:
                # Of a watch that just ended it is the next one that tells whether the API server is there.
                if self._clock.monotonic() - begun < _GOOD_SECONDS:
                    self._fail(error if isinstance(error, Unavailable) else Unavailable(str(error)))
            if self._clock.monotonic() - begun >= _GOOD_SECONDS:
                delay = _RETRY_SECONDS
                continue
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _RETRY_MAX_SECONDS)

    async def _streamed(self) -> None:
        """Follow until the watch ends or is given up."""
        self._stream = asyncio.ensure_future(self._follow())
        try:
            await asyncio.wait([self._stream])
            if not self._stream.cancelled():
                self._stream.result()
        finally:
            self._stream.cancel()
            await asyncio.wait([self._stream])
            self._stream = None

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._resources.watch(self.log.end)) as events:
            async for event in events:
                try:
                    self._take(event)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    self._lost = True
                    raise Damaged(f"an event of the API server's cannot be read: {error!r}") from error

    def _take(self, event: Mapping[str, Any]) -> None:
        body = event["object"]
        version = version_of(body)
        if version > self.log.end:
            changes: tuple[Change, ...] = ()
            if type_in(body) == Type.LAYOUT:
                if event["type"] == "DELETED" or self._layout != read_layout(body):
                    raise _Anew
            elif event["type"] != "BOOKMARK":
                changes = self._index.changes_of(event)
            self._advance(version, changes)
        self._alive()

    async def _begin(self, after: int = 0) -> None:
        """Know nothing, and list."""
        self._layout = None
        layout = await settle(self._resources, self._now_ms(), after=after)
        self._index.clear(layout.base)
        self.log = Log(0, self._log_limit)
        version = await self._list(layout)
        self._owed.clear()
        self._lost = False
        self._layout, self.log = layout, Log(version, self._log_limit)
        self._advance(version, ())
        self._alive()

    async def _list_again(self) -> None:
        """List, and tell the difference as changes."""
        layout, before = self._layout, self.log.end
        if layout is None:
            await self._begin()
            return
        version = await self._list(layout)
        if version < before:
            _log.warning("the API server's data went back", known=before, found=version)
            after = layout.base + before + 1
            await begin_anew(self._resources, layout, self._now_ms(), after=after)
            await self._begin(after)
            return
        self._lost = False
        changes, self._owed = tuple(self._owed), []
        if version > before:
            self._advance(version, changes)
        self._alive()

    async def _list(self, layout: Layout) -> int:
        """Bring the index to the moment of a list. Raises `_Anew` where the layout is another one by then."""
        seen: set[str] = set()
        shared: list[dict[str, Any]] = []
        epoch = ""
        version = 0
        async with contextlib.aclosing(self._resources.pages({})) as pages:
            async for at, page in pages:
                version = at
                records = []
                for body in page:
                    match type_in(body):
                        case Type.LAYOUT:
                            epoch = read_layout(body).epoch
                        case Type.HEARTBEATS:
                            shared.append(body)
                        case _:
                            records.append(body)
                self._owed.extend(self._index.put_all(records, seen))
        if epoch != layout.epoch:
            raise _Anew
        if version >= self.log.end:
            self._owed.extend(self._index.finish(version, seen, shared))
        return version

    def _advance(self, version: int, changes: tuple[Change, ...]) -> None:
        if version > self.log.end:
            self.log.add(version, changes)
        self._index.seen = version
        while self._reached and self._reached[0][0] <= version:
            _, _, future = heapq.heappop(self._reached)
            if not future.done():
                future.set_result(None)
        if changes:
            self._on_news()

    def _alive(self) -> None:
        self._events += 1
        self.heard = self._clock.monotonic()
        if self.trouble is not None:
            self.trouble = None
            _log.info("the Kubernetes API server tells of changes again")

    def _fail(self, error: Unavailable) -> None:
        if self.trouble is None:
            _log.warning("the Kubernetes API server tells of no changes", error=str(error))
        self.trouble = error
        self._on_news()
        self.on_trouble()

    def _fail_waiters(self, error: Unavailable) -> None:
        waiting: list[asyncio.Future[Any]] = [future for _, _, future in self._reached]
        for future in (*waiting, *itertools.chain.from_iterable(self._deletions.values())):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waited may be gone
        self._reached.clear()

    def _deleted(self, record: Record, version: int) -> None:
        for future in self._deletions.get(record.uid, ()):
            if not future.done():
                future.set_result((version, record.mark))
