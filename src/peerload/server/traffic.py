"""Who reads from whom: what clients reported, for people to see.

Nothing in it is proven, nothing is decided by it, and nothing of it is stored; other servers hear from those who read by
them. What is heeded is bounded: in number, by sender, and in time.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from peerload.clock import Clock
from peerload.metadata.directory.directory import Directory
from peerload.metadata.principals import Principal
from peerload.metadata.records import SourceKey
from peerload.metadata.transfers import Outcome, Reading, Transfer
from peerload.server.throughput import Throughput

__all__ = ["Ended", "Moving", "Traffic"]

_MOST_MOVING: Final = 4_096
_MOST_OF_ONE_HOST: Final = 1_024
_MOST_ENDED: Final = 1_000
_MOST_NAMES: Final = 4_096
"""Attempts that have ended, whose progress may come late."""
_MOST_BYTES: Final = 1 << 50
"""Of one attempt."""
_LONGEST_S: Final = 7 * 24 * 3600.0
_WATCHED_S, _UNWATCHED_S = 1.0, 5.0
"""Between two tellings of one client while somebody looks, and while nobody does."""
_MOST_A_SECOND: Final = 200
"""Readings that clients are asked for, all together."""
_SLACK_S: Final = 5.0
_HOSTS: Final = 4_096
_HEEDED_A_SECOND: Final = 100.0
"""Readings and transfers of one host; as many as `_BURST` at once."""
_BURST: Final = 1_000.0


@dataclass(slots=True)
class Moving:
    """One attempt under way, as it was last told of."""

    number: int
    """No other attempt has it."""
    model: str
    source: SourceKey
    target: SourceKey
    """Its source id is that of what it reads; its worker id one that no record may have."""
    target_host: str
    engine: str
    reporter: str
    began: int
    """Milliseconds on the store's clock."""
    total: int
    nbytes: int = 0
    heard: float = 0.0
    """When it was last told of, seconds on the server's own clock."""


class Ended(NamedTuple):
    """One attempt that has ended."""

    number: int
    """In the order in which they were told of."""
    attempt: int
    """`Moving.number`, if it was told of before."""
    at: int
    """Milliseconds on the store's clock."""
    model: str
    source: SourceKey
    target: SourceKey
    target_host: str
    engine: str
    outcome: Outcome
    nbytes: int
    seconds: float


class Traffic:
    """What moves, and what moved of late. Belongs to one event loop. `sweep` forgets whom nothing was heard of."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._numbers = itertools.count(1)
        self._moving: dict[str, Moving] = {}
        self._by_host: Counter[str] = Counter()
        self._names: OrderedDict[str, None] = OrderedDict()
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._told = 0
        self.ended: deque[Ended] = deque(maxlen=_MOST_ENDED)
        """The latest, oldest first."""
        self.throughput = Throughput()
        self.watched = 0
        """How many look on."""

    @property
    def moving(self) -> list[Moving]:
        """What is under way."""
        return list(self._moving.values())

    @property
    def again_s(self) -> float:
        """After how long a client should tell again."""
        least = _WATCHED_S if self.watched else _UNWATCHED_S
        return max(least, len(self._moving) / _MOST_A_SECOND)

    def progress(self, reading: Reading, principal: Principal, peer: str) -> None:
        """How far an attempt is."""
        now, host = self._clock.monotonic(), _host(peer)
        if reading.attempt in self._names or not self._heeds(host, now):
            return
        known = self._moving.get(reading.attempt)
        if known is not None and (known.reporter != host or known.source != reading.source):
            return
        if reading.abandoned:
            if known is not None:
                self._count(known, reading.nbytes, now)
                self._end(reading.attempt)
            return
        if known is None:
            known = self._begin(reading, principal, host, now)
            if known is None:
                return
        self._count(known, reading.nbytes, now)

    def finished(self, transfer: Transfer, principal: Principal, peer: str) -> None:
        """How an attempt has ended."""
        now, host = self._clock.monotonic(), _host(peer)
        if transfer.attempt and transfer.attempt in self._names:
            return
        if not self._heeds(host, now):
            return
        known = self._moving.get(transfer.attempt) if transfer.attempt else None
        if known is not None and (known.reporter != host or known.source != transfer.source):
            return
        if known is not None:
            model, most = known.model, _most(known.total)
            self._count(known, transfer.nbytes, now)
        else:
            seen = self._seen(transfer.source, principal)
            if seen is None:
                return
            model, most = seen
            seconds = min(transfer.seconds, _LONGEST_S)
            self.throughput.add(model, min(transfer.nbytes, most), now - seconds, now)
        if transfer.attempt:
            self._end(transfer.attempt)
        self._told += 1
        self.ended.append(
            Ended(
                number=self._told,
                attempt=0 if known is None else known.number,
                at=self._directory.now(),
                model=model,
                source=transfer.source,
                target=SourceKey(transfer.source.source_id, transfer.target_rank, transfer.target_worker_id),
                target_host=transfer.target_host,
                engine=transfer.engine,
                outcome=transfer.outcome,
                nbytes=min(transfer.nbytes, most),
                seconds=min(transfer.seconds, _LONGEST_S),
            )
        )

    def sweep(self) -> None:
        """Forget attempts of which nothing was heard for long: their readers are gone."""
        # What was asked of a client before somebody looked on holds until it tells again.
        since = self._clock.monotonic() - 3 * max(self.again_s, _UNWATCHED_S) - _SLACK_S
        for name in [name for name, moving in self._moving.items() if moving.heard < since]:
            self._forget(name)

    def _begin(self, reading: Reading, principal: Principal, host: str, now: float) -> Moving | None:
        seen = self._seen(reading.source, principal)
        if seen is None or len(self._moving) >= _MOST_MOVING or self._by_host[host] >= _MOST_OF_ONE_HOST:
            return None
        model, most = seen
        moving = Moving(
            number=next(self._numbers),
            model=model,
            source=reading.source,
            target=SourceKey(reading.source.source_id, reading.target_rank, reading.target_worker_id),
            target_host=reading.target_host,
            engine=reading.engine,
            reporter=host,
            began=self._directory.now() - round(1000 * min(reading.seconds, _LONGEST_S)),
            total=min(reading.total, most),
            heard=now - min(reading.seconds, _LONGEST_S),
        )
        self._moving[reading.attempt] = moving
        self._by_host[host] += 1
        return moving

    def _count(self, moving: Moving, nbytes: int, now: float) -> None:
        nbytes = min(nbytes, _most(moving.total))
        if nbytes > moving.nbytes:
            self.throughput.add(moving.model, nbytes - moving.nbytes, moving.heard, now)
            moving.nbytes = nbytes
        moving.heard = now

    def _end(self, attempt: str) -> None:
        self._forget(attempt)
        self._names[attempt] = None
        if len(self._names) > _MOST_NAMES:
            self._names.popitem(last=False)

    def _forget(self, attempt: str) -> None:
        moving = self._moving.pop(attempt, None)
        if moving is not None:
            self._by_host[moving.reporter] -= 1
            if not self._by_host[moving.reporter]:
                del self._by_host[moving.reporter]

    def _seen(self, source: SourceKey, principal: Principal) -> tuple[str, int] | None:
        """The model of a source, and how many bytes one may have read of it; None where there is none that the principal may
        see."""
        held = self._directory.get(source.encode())
        if held is None or not principal.covers(held.record.model_name):
            return None
        return held.record.model_name, _most(held.record.total_size)

    def _heeds(self, host: str, now: float) -> bool:
        """Whether a host has not told too much of late."""
        left, at = self._allowances.pop(host, (_BURST, now))
        left = min(_BURST, left + (now - at) * _HEEDED_A_SECOND)
        self._allowances[host] = (max(0.0, left - 1.0), now)
        if len(self._allowances) > _HOSTS:
            self._allowances.popitem(last=False)
        return left >= 1.0


def _host(peer: str) -> str:
    return peer.rpartition(":")[0]


def _most(total: int) -> int:
    return min(total, _MOST_BYTES) if total else _MOST_BYTES
