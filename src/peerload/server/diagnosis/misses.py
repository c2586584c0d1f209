"""Lists that matched nothing: noted in a moment where they are answered, looked into afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import structlog

from peerload.clock import Clock
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.query import Query
from peerload.metadata.waiting import Pulse
from peerload.server.diagnosis.finding import Finding, Verdict
from peerload.server.diagnosis.judge import Judge
from peerload.server.diagnosis.memory import Memory, Miss, Occurred
from peerload.server.diagnosis.question import Call, Question
from peerload.server.diagnosis.shown import host_of, kept
from peerload.server.metrics import Metrics

__all__ = ["Misses", "Unanswered"]

_log = structlog.get_logger("peerload.server")

_MAX_REQUEST_BYTES: Final = 512 * 1024
"""Twice the largest identity that can be published: what is larger has no like."""
_MOST_NOTED: Final = 1_024
_MOST_NOTED_BYTES: Final = 16 * 1024 * 1024
_AT_ONCE_SECONDS: Final = 0.01
"""For so long questions are looked into before others get their turn …"""
_PAUSE_SECONDS: Final = 0.1
"""… for so long: a flood of questions about a large fleet must not take a server's time."""
_SETTLE_SECONDS: Final = 1.0
"""For so long somebody waits who asks why."""
_LINES: Final = 10
"""Lines in the log that may come at once …"""
_LINES_PER_SECOND: Final = 0.5
"""… and on the whole."""


class _Noted(NamedTuple):
    """A question that is to be looked into: its first request, and how often it came since."""

    call: Call
    query: Query
    request: bytes
    occurred: Occurred


@dataclass(slots=True)
class Unanswered:
    """Lists that an outage left without an answer. They are no misses: nothing is known of what there was."""

    count: int = 0
    first: int = 0
    """Milliseconds on the store's clock."""
    last: int = 0
    reason: str = ""
    """Of the last one, fit to be shown."""


class Misses:
    """What this server remembers of lists that matched nothing. Belongs to one event loop.

    `note` costs a look into a dictionary, whatever there is to compare; `run` does the rest.
    """

    def __init__(self, backend: MetadataBackend, clock: Clock, metrics: Metrics) -> None:
        self.judge = Judge(backend, clock)
        self.memory = Memory()
        self.unanswered = Unanswered()
        self._backend = backend
        self._metrics = metrics
        self._noted: dict[Query, _Noted] = {}
        self._noted_bytes = 0
        self._news = Pulse()
        self._one = asyncio.Lock()
        self._lines = _Lines(clock)
        self._clock = clock
        self.since = 0
        """When this memory began, milliseconds on the store's clock."""

    def note(self, call: Call, query: Query, request: bytes, peer: str) -> None:
        """A list has just been answered with nothing. `query` is what its encoded `request` asks for."""
        if query.models is not None:
            if query.source_id is None and query.model_name is None:
                return  # what there is, is out of its scope
            query = replace(query, models=None)
        now = self._backend.now()
        question = Question.same(query)
        noted = self._noted.get(question)
        if noted is None:
            if len(request) > _MAX_REQUEST_BYTES:
                self._oversize(call, len(request), Occurred(now, now), host_of(peer))
                return
            if len(self._noted) >= _MOST_NOTED or self._noted_bytes + len(request) > _MOST_NOTED_BYTES:
                self._metrics.list_misses.labels("unknown").inc()
                return
            noted = self._noted[question] = _Noted(call, query, request, Occurred(now, now))
            self._noted_bytes += len(request)
            self._news.beat()
        noted.occurred.again(now, host_of(peer))

    def outage(self, reason: str) -> None:
        """A list has just ended with UNAVAILABLE."""
        now = self._backend.now()
        known = self.unanswered
        known.count, known.first, known.last, known.reason = known.count + 1, known.first or now, now, kept(reason)
        self._metrics.lists_unanswered.inc()

    async def run(self) -> None:
        """Look into what is noted, for ever, a little at a time."""
        self.since = self._backend.now()
        while True:
            if not self._noted:
                await self._news.wait()
            await self._look(_AT_ONCE_SECONDS)
            await self._clock.sleep(_PAUSE_SECONDS)

    async def settle(self) -> None:
        """Look into everything that is noted by now; in a flood, into as much as can be done in a second."""
        await self._look(_SETTLE_SECONDS)

    async def _look(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        async with self._one:
            for question in list(self._noted):
                if self._clock.monotonic() > end:
                    break
                noted = self._noted.pop(question)
                self._noted_bytes -= len(noted.request)
                asked = Question(noted.query, noted.call.identity(noted.request))
                self._keep(noted.call, asked, await self._verdict(asked), noted.occurred)
                await asyncio.sleep(0)

    async def _verdict(self, question: Question) -> Verdict:
        try:
            verdict = await self.judge.judge(question)
        except Exception as error:
            # A defect here must not take the server down: everybody else's answers do not depend on it.
            _log.error("a list that matched nothing could not be looked into", exc_info=error)
            return Verdict((Finding("unknown", None, ("the server failed to compare; its log tells why",)),))
        if verdict.findings:
            return verdict
        # It came in between: the moment itself cannot be looked at any more.
        return Verdict((Finding("appeared", None, (verdict.text,)),), verdict.source_id, verdict.model)

    def _oversize(self, call: Call, size: int, occurred: Occurred, host: str) -> None:
        occurred.again(occurred.last, host)
        # Of what was asked nothing is kept, not even in order to tell such questions apart.
        self._keep(call, Question(Query()), Verdict((Finding("oversize", f"{size:,} bytes"),)), occurred)

    def _keep(self, call: Call, question: Question, verdict: Verdict, occurred: Occurred) -> None:
        self._metrics.list_misses.labels(verdict.field).inc(occurred.count)
        miss = self.memory.add(call.value, question, verdict, occurred)
        if miss is not None:
            self._lines.write(miss)


class _Lines:
    """A line in the log for each new miss; where there are too many, a number instead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = float(_LINES)
        self._at = clock.monotonic()
        self._left_out = 0

    def write(self, miss: Miss) -> None:
        now = self._clock.monotonic()
        self._left = min(_LINES, self._left + (now - self._at) * _LINES_PER_SECOND)
        self._at = now
        if self._left < 1:
            self._left_out += 1
            return
        self._left -= 1
        more = {"left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        _log.info(
            "a list matched nothing",
            model=miss.model,
            reason=miss.verdict.text,
            nearest=miss.verdict.source_id,
            peer=next(iter(miss.occurred.peers), ""),
            call=miss.call,
            **more,
        )
