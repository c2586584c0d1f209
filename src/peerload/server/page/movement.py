"""What one browser was told of transfers, and what there is to tell it."""

from __future__ import annotations

from typing import Any, Final

from peerload.clock import Clock
from peerload.metadata.directory.directory import Directory
from peerload.metadata.principals import Principal
from peerload.metadata.records import SourceKey
from peerload.server.throughput import STEP_S
from peerload.server.traffic import Ended, Moving, Traffic

__all__ = ["Movement"]

_FIRST_ENDED: Final = 300


class Movement:
    """The transfers that a principal may see, as one browser knows them; in the page, `files/flows.js` reads it."""

    def __init__(self, traffic: Traffic, directory: Directory, clock: Clock, principal: Principal) -> None:
        self._traffic = traffic
        self._directory = directory
        self._clock = clock
        self._covers = principal.covers
        self._known: dict[int, int] = {}
        """The bytes of what is under way, by number."""
        self._ended = 0
        self._step = (0, 0)
        self._first = True

    def changes(self) -> dict[str, Any]:
        """What is new; nothing but empty members where there is nothing."""
        new, moved, present = [], [], set()
        for moving in self._traffic.moving:
            if not self._covers(moving.model):
                continue
            present.add(moving.number)
            before = self._known.get(moving.number)
            if before is None:
                new.append(_moving(moving))
            elif before != moving.nbytes:
                moved += [moving.number, moving.nbytes]
            self._known[moving.number] = moving.nbytes
        gone = [number for number in self._known if number not in present]
        for number in gone:
            del self._known[number]
        ended = self._ended_since()
        # The last step is told of again if more was added to it.
        rates = [step for step in self._traffic.throughput.since(self._step[0], self._covers) if step != self._step]
        if rates:
            self._step = rates[-1]
        # Steps are of the server's own clock, and people read the store's.
        offset = self._directory.now() - round(1000 * self._clock.monotonic())
        reset, self._first = self._first, False
        return {
            "reset": reset,
            "new": new,
            "moved": moved,
            "gone": gone,
            "ended": ended,
            "rates": [[offset + number * STEP_S * 1000, nbytes] for number, nbytes in rates],
        }

    def _ended_since(self) -> list[dict[str, Any]]:
        latest: list[Ended] = []
        for ended in reversed(self._traffic.ended):
            if ended.number <= self._ended or (self._first and len(latest) >= _FIRST_ENDED):
                break
            if self._covers(ended.model):
                latest.append(ended)
        if self._traffic.ended:
            self._ended = self._traffic.ended[-1].number
        return [_ended(each) for each in reversed(latest)]


def _ends(source: SourceKey, target: SourceKey, host: str) -> dict[str, Any]:
    return {
        "source": source.source_id,
        "from": source.worker_id,
        "fromRank": source.worker_rank,
        "to": target.worker_id,
        "toRank": target.worker_rank,
        "toHost": host,
    }


def _moving(moving: Moving) -> dict[str, Any]:
    return {
        "n": moving.number,
        "model": moving.model,
        **_ends(moving.source, moving.target, moving.target_host),
        "engine": moving.engine,
        "began": moving.began,
        "total": moving.total,
        "bytes": moving.nbytes,
    }


def _ended(ended: Ended) -> dict[str, Any]:
    return {
        "n": ended.number,
        "attempt": ended.attempt,
        "at": ended.at,
        "model": ended.model,
        **_ends(ended.source, ended.target, ended.target_host),
        "engine": ended.engine,
        "outcome": ended.outcome.name.lower(),
        "bytes": ended.nbytes,
        "seconds": ended.seconds,
    }
