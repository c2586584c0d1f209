"""The last thousand misses, those of one question and one reason as one."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from peerload.server.diagnosis.finding import Verdict
from peerload.server.diagnosis.question import Asked, Question, name_digest
from peerload.server.diagnosis.shown import kept

__all__ = ["MOST_BYTES", "MOST_MISSES", "Memory", "Miss", "Occurred"]

MOST_MISSES: Final = 1_000
MOST_BYTES: Final = 16 * 1024 * 1024
"""Of texts that clients chose, in all."""
_MOST_PEERS: Final = 64
"""Hosts that are kept of one miss."""


@dataclass(slots=True)
class Occurred:
    """How often something happened, when, and to whom. Stamps are milliseconds on the store's clock."""

    first: int
    last: int
    count: int = 0
    peers: dict[str, None] = field(default_factory=dict)
    """Hosts, in the order in which they were first heard of."""
    more_peers: bool = False
    """Whether there were more hosts than are kept."""

    def again(self, now: int, peer: str) -> None:
        """Once more, just now."""
        self.last = max(self.last, now)
        self.count += 1
        self._add_peer(peer)

    def add(self, other: Occurred) -> None:
        """As often, and to those, besides."""
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.count += other.count
        self.more_peers |= other.more_peers
        for peer in other.peers:
            self._add_peer(peer)

    def _add_peer(self, peer: str) -> None:
        if len(self.peers) < _MOST_PEERS:
            self.peers[peer] = None
        elif peer not in self.peers:
            self.more_peers = True


@dataclass(slots=True)
class Miss:
    """Lists of one question that failed for one reason. Its texts are fit to be shown."""

    call: str
    """The call by which it was asked last."""
    model: str
    """As it was asked for; empty where none was."""
    asked: tuple[Asked, ...]
    verdict: Verdict
    """The latest: its values may have changed, its fields have not."""
    occurred: Occurred
    found_by: frozenset[bytes]
    """Digests of the names and source ids by which people look for it."""
    weight: int = 0


class Memory:
    """Misses, the latest of them; bounded in number and in bytes."""

    def __init__(self) -> None:
        self._misses: OrderedDict[tuple[bytes, tuple[tuple[str, str], ...]], Miss] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._misses)

    @property
    def size(self) -> int:
        """Bytes of texts."""
        return self._bytes

    def add(self, call: str, question: Question, verdict: Verdict, occurred: Occurred) -> Miss | None:
        """Keep what occurred. The miss if it is a new one, None if it is an old one again."""
        key = (question.digest, verdict.reason)
        known = self._misses.pop(key, None)
        if known is None:
            miss = _miss(call, question, verdict, occurred)
        else:
            self._bytes -= known.weight
            known.occurred.add(occurred)
            miss = _miss(call, question, verdict, known.occurred)
        self._misses[key] = miss
        self._bytes += miss.weight
        while len(self._misses) > MOST_MISSES or self._bytes > MOST_BYTES:
            _, dropped = self._misses.popitem(last=False)
            self._bytes -= dropped.weight
        return miss if known is None else None

    def latest(self, name: str | None = None) -> Iterator[Miss]:
        """The misses that are found by a model's name or a source id, or all; the latest first."""
        digest = None if name is None else name_digest(name)
        return (miss for miss in reversed(self._misses.values()) if digest is None or digest in miss.found_by)


def _miss(call: str, question: Question, verdict: Verdict, occurred: Occurred) -> Miss:
    asked = question.asked()
    names = (question.model, question.query.source_id, verdict.model, verdict.source_id)
    found_by = frozenset(name_digest(name) for name in names if name)
    miss = Miss(call, kept(question.model), asked, verdict, occurred, found_by)
    miss.weight = _weight([miss.model, *(text for each in asked for text in each), *verdict.texts, *occurred.peers])
    return miss


def _weight(texts: Iterable[str]) -> int:
    return sum(map(sys.getsizeof, texts))
