"""Heartbeats on their way into the store: gathered, and written many at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock
from peerload.errors import Unavailable
from peerload.metadata.directory.liveness import episode_key
from peerload.metadata.principals import ANYONE, Principal
from peerload.metadata.records import Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.waiting import settle, settled_within
from peerload.store.base import Beat, Store, Touch, Touched
from peerload.tally import SIZES, Histogram

__all__ = ["Heartbeats"]

_log = structlog.stdlib.get_logger(__name__)

_BATCH: Final = 5_000
"""Touches in one write: what a store does at once must not hold others up for long."""
_STAMPS_KEPT_MS: Final = 5_000
_RETRY_SECONDS: Final = 0.25
_TRUSTED_SECONDS: Final = 2.0
"""A write that takes longer has most likely failed already."""


class _Episode(NamedTuple):
    key: str
    generation: int
    until: int


class _Pending(NamedTuple):
    touch: Touch
    status: Status | None
    principal: Principal = ANYONE


class Heartbeats:
    """The batcher. `run` writes; `add` and `store` hand it touches.

    With every batch, and at least every `alive_interval`, goes the server's own sign of life (see
    `peerload.metadata.directory.liveness`): it is in the store if and only if heartbeats could be.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: MetadataSettings,
        server_id: str,
        *,
        on_mistake: Callable[[Touch, Status, Principal], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._server_id = server_id
        self._on_mistake = on_mistake
        self._pending: dict[str, _Pending] = {}
        self._answers: dict[str, list[asyncio.Future[Touched]]] = {}
        self._wanted: asyncio.Future[None] | None = None
        self._urgent = False
        # The stamps given lately, in two halves, so that the older one can be dropped whole.
        self._stamps: dict[str, int] = {}
        self._older_stamps: dict[str, int] = {}
        self._stamps_since = 0
        self._episode: _Episode | None = None
        self._flushing = asyncio.Lock()
        self._last_alive = 0.0
        self._last_failed = False
        self._writing_since: float | None = None
        self.batches = Histogram(SIZES)
        """Heartbeats in each batch that was stored; its sum is how many there were."""

    @property
    def failed(self) -> bool:
        """Whether the last write failed, or the present one takes long: then no heartbeat may be taken on trust."""
        since = self._writing_since
        return self._last_failed or (since is not None and self._clock.monotonic() - since > _TRUSTED_SECONDS)

    @property
    def pending(self) -> int:
        """How many wait for the next batch."""
        return len(self._pending)

    def stamp(self, key: str, held: int, now: int) -> int:
        """The stamp for a heartbeat of this key that arrives now: later than every one before it. `held` is the stamp
        that the store is known to have."""
        if now - self._stamps_since > _STAMPS_KEPT_MS:
            self._older_stamps, self._stamps, self._stamps_since = self._stamps, {}, now
        given = self._stamps.get(key) or self._older_stamps.get(key, 0)
        self._stamps[key] = stamp = max(now, given + 1, held + 1)
        return stamp

    def add(self, touch: Touch, status: Status, principal: Principal = ANYONE) -> None:
        """Write this with the next batch, in place of an earlier one for the same key. The caller took `status` for the
        stored one; `on_mistake` is told if the store says that the record is another by now."""
        # While others gather, one more does not cut that short.
        first = not self._pending
        self._pending[touch.key] = _Pending(touch, status, principal)
        if first:
            self._wake(urgent=False)

    async def store(self, touch: Touch) -> Touched:
        """Write this at once, and return what became of it. Raises `Unavailable`."""
        self._pending[touch.key] = _Pending(touch, None)
        answer: asyncio.Future[Touched] = asyncio.get_running_loop().create_future()
        self._answers.setdefault(touch.key, []).append(answer)
        self._wake(urgent=True)
        try:
            return await answer
        finally:
            # Of somebody who gave up before the batch began.
            waiting = self._answers.get(touch.key, [])
            if answer in waiting:
                waiting.remove(answer)
                if not waiting:
                    del self._answers[touch.key]

    async def run(self) -> None:
        """Write until cancelled."""
        failing = False
        while True:
            await self._next_batch()
            try:
                await self.flush()
            except Unavailable as error:
                if not failing:
                    failing = True
                    _log.warning("heartbeats cannot be stored", pending=len(self._pending), error=str(error))
                # Those who wait for an answer have had one; the others' heartbeats are tried again.
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                if failing:
                    failing = False
                    _log.info("heartbeats are stored again")

    async def flush(self) -> None:
        """Write what is pending, and the sign of life. Raises `Unavailable`, and keeps what was not written."""
        async with self._flushing:
            batch, self._pending = self._pending, {}
            answers, self._answers = self._answers, {}
            self._urgent = False
            pending = list(batch.values())
            written = 0
            self._writing_since = self._clock.monotonic()
            try:
                first = True
                while first or written < len(pending):
                    part = pending[written : written + _BATCH]
                    await self._write(part, answers)
                    written += len(part)
                    first = False
                    self._writing_since = self._clock.monotonic()
            except BaseException as error:
                for one in pending[written:]:
                    self._pending.setdefault(one.touch.key, one)
                failure = error if isinstance(error, Unavailable) else Unavailable("the server is stopping")
                # Those who joined meanwhile are told too: the next batch is a while away.
                joined, self._answers = self._answers, {}
                for waiting in (*answers.values(), *joined.values()):
                    for answer in waiting:
                        if not answer.done():
                            answer.set_exception(failure)
                            # Whoever asked may be gone; then nobody reads it.
                            answer.exception()
                self._last_failed = self._last_failed or isinstance(error, Unavailable)
                raise
            finally:
                self._writing_since = None
            self._last_failed = False

    async def _write(self, pending: list[_Pending], answers: dict[str, list[asyncio.Future[Touched]]]) -> None:
        alive = await self._alive()
        results = await self._store.touch([alive, *(one.touch for one in pending)])
        self._last_alive = self._clock.monotonic()
        if pending:
            self.batches.observe(len(pending))
        if self._episode is not None:
            if results[0] is Touched.MISSING:
                self._episode = None
            else:
                self._episode = self._episode._replace(until=alive.beat.stamp)
        for (touch, status, principal), result in zip(pending, results[1:], strict=True):
            if status is not None and result in (Touched.MISSING, Touched.CHANGED):
                self._on_mistake(touch, status, principal)
            for answer in answers.pop(touch.key, ()):
                if not answer.done():
                    answer.set_result(result)

    async def _alive(self) -> Touch:
        """The sign of life for now; where there was none for too long, as the beginning of a new episode."""
        now = self._store.now()
        episode = self._episode
        if episode is None or now - episode.until > self._settings.alive_tolerance * 1000:
            key = episode_key(self._server_id, now)
            written = await self._store.put(key, {"server": self._server_id, "since": now}, beat=Beat(now))
            self._episode = episode = _Episode(key, written.generation, now)
        return Touch(episode.key, episode.generation, Beat(max(now, episode.until + 1)))

    async def _next_batch(self) -> None:
        """Return when there is something to write: at once if somebody waits for it, else after a moment in which
        more may gather; and in any case when the next sign of life is due."""
        due = self._last_alive + self._settings.alive_interval - self._clock.monotonic()
        if not self._pending:
            self._wanted = asyncio.get_running_loop().create_future()
            await settled_within(self._clock, due, self._wanted)
        if self._pending and not self._urgent:
            self._wanted = asyncio.get_running_loop().create_future()
            await settled_within(self._clock, self._settings.flush_delay, self._wanted)
        self._wanted = None

    def _wake(self, *, urgent: bool) -> None:
        self._urgent = self._urgent or urgent
        if self._wanted is not None:
            settle(self._wanted)

    async def close(self, seconds: float) -> None:
        """Write what is pending a last time, within that time; what cannot be written is reported and dropped."""
        flush = asyncio.ensure_future(self.flush())
        done = await settled_within(self._clock, seconds, flush)
        if not done:
            flush.cancel()
        with contextlib.suppress(asyncio.CancelledError, Unavailable):
            await flush
        if self._pending:
            _log.warning("heartbeats were lost", count=len(self._pending))
