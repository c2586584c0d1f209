"""Asking sources that have fallen silent whether they are still there.

A process that was killed stops its heartbeats, and its host refuses connections to it at once; the heartbeat runs out only
much later. So a source whose heartbeat is overdue, or that was reported as failing, is connected to, and hidden where
every address that it published is refused. Each server finds out for itself, and nobody is told but by the list.

The addresses are what strangers published. So little is done with them: a connection that is closed without a word, so many
a second, none of them to places that are no single host's, and what comes of it shows in the asked source alone.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final

import structlog

from peerload.clock import Clock
from peerload.metadata.directory.directory import Directory
from peerload.metadata.directory.held import Held
from peerload.metadata.publications.addresses import split
from peerload.metadata.records import Status
from peerload.metadata.settings import MetadataSettings
from peerload.metadata.upkeep.dial import Answer, Dial
from peerload.metadata.waiting import Pulse, settled_within

__all__ = ["Prober"]

_log = structlog.stdlib.get_logger(__name__)

_AT_ONCE: Final = 64
_PAUSE: Final = 0.02
"""Between two probes: fifty a second."""
_SPACING: Final = 5.0
"""Between two probes of one source, however often it is reported."""
_DEAF_PAUSE: Final = 1.0


class _Turn:
    """When a source is asked next, and was asked last."""

    __slots__ = ("due", "last", "reported")

    def __init__(self, due: float) -> None:
        self.due = due
        self.last: float | None = None
        self.reported = False


class Prober:
    """Probes of one server."""

    def __init__(self, directory: Directory, clock: Clock, settings: MetadataSettings, dial: Dial) -> None:
        self._directory = directory
        self._clock = clock
        self._again_after = settings.probe_after
        self._dial = dial
        # By key; in the queue a source may have older places, which count no more.
        self._turns: dict[str, _Turn] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._wake = Pulse()
        self._running: set[asyncio.Task[None]] = set()
        self.answers = dict.fromkeys(Answer, 0)
        """How many probes ended so."""
        self.on_accepted: Callable[[str, int, int], None] | None = None
        """Called with the key, the generation and the beginning (store's clock) of each probe that found somebody listening."""
        directory.expiry.on_quiet = self._look

    def report(self, key: str) -> None:
        """Somebody could not connect to this source: ask it soon, however young its heartbeat is."""
        self._look(key)
        self._turns[key].reported = True

    async def run(self) -> None:
        """Ask, until cancelled."""
        try:
            while True:
                key, held = await self._next()
                task = asyncio.create_task(self._probe(key, held), name=f"metadata probe {key}")
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                await self._clock.sleep(_PAUSE)
        finally:
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    def _look(self, key: str) -> None:
        turn, now = self._turns.get(key), self._clock.monotonic()
        if turn is None:
            turn = self._turns[key] = _Turn(now)
        else:
            soonest = now if turn.last is None else max(now, turn.last + _SPACING)
            if turn.due <= soonest:
                return
            turn.due = soonest
        self._queued(key, turn)

    def _queued(self, key: str, turn: _Turn) -> None:
        heapq.heappush(self._queue, (turn.due, next(self._order), key))
        self._wake.beat()

    async def _next(self) -> tuple[str, Held]:
        """The next source that is to be asked, when its time has come."""
        while True:
            if len(self._running) >= _AT_ONCE:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            elif not self._queue:
                await self._wake.wait()
            elif self._directory.lost:
                # Heartbeats may have come in that this server cannot hear of at the moment.
                await self._clock.sleep(_DEAF_PAUSE)
            elif (left := self._queue[0][0] - self._clock.monotonic()) > 0:
                await settled_within(self._clock, left, self._wake.next())
            else:
                due, _, key = heapq.heappop(self._queue)
                turn = self._turns.get(key)
                if turn is None or turn.due != due:
                    continue
                held = self._directory.get(key)
                if held is None or not self._worth(key, held, turn):
                    del self._turns[key]
                    continue
                return key, held

    def _worth(self, key: str, held: Held, turn: _Turn) -> bool:
        """Whether a refusal would say anything about this source that is not known yet."""
        return (
            (turn.reported or key in self._directory.expiry.quiet)
            and held.shown is Status.READY
            and held.judgeable
            and bool(held.record.endpoints)
        )

    async def _probe(self, key: str, held: Held) -> None:
        record = held.record
        # A heartbeat from here on proves more than what comes of this.
        since = self._directory.now()
        turn = self._turns[key]
        turn.reported = False
        answer = await self._ask(record.endpoints, dict(record.topology).get("host", ""))
        self.answers[answer] += 1
        if answer is Answer.ACCEPTED and self.on_accepted is not None:
            self.on_accepted(key, record.generation, since)
        elif answer is Answer.REFUSED and self._directory.refused(key, record.generation, since):
            _log.info("a source is gone: its host refuses connections", key=key)
        turn.last = self._clock.monotonic()
        turn.due = turn.last + self._again_after
        self._queued(key, turn)

    async def _ask(self, endpoints: str, host: str) -> Answer:
        """Refused only where every address is."""
        answers = set()
        for address in split(endpoints):
            answer = await self._dial(address, host)
            if answer is Answer.ACCEPTED:
                return answer
            answers.add(answer)
        return Answer.REFUSED if answers == {Answer.REFUSED} else Answer.NOTHING
