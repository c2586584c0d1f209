"""Lists as they were last encoded, for as long as they are true."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from peerload.metadata.query import Query

__all__ = ["Answers"]

_QUESTION_BYTES: Final = 2_048
"""What a question takes beside its answer, roughly: the names in one that has an answer are those of a record."""


class Answers:
    """The answers given last, by question, in bounded memory. Each is of one state of what it was made of (see
    `Index.version`), and nobody's answer any more in another."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self._limit = limit
        self._kept: OrderedDict[Query, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, query: Query, version: int) -> bytes | None:
        """The answer, if it is known."""
        kept = self._kept.get(query)
        if kept is None or kept[0] != version:
            return None
        self._kept.move_to_end(query)
        return kept[1]

    def keep(self, query: Query, version: int, answer: bytes) -> None:
        """Remember an answer in place of the one before it; not one that would take half of all the room."""
        before = self._kept.pop(query, None)
        if before is not None:
            self._bytes -= _size(before[1])
        size = _size(answer)
        if size > self._limit // 2:
            return
        self._kept[query] = version, answer
        self._bytes += size
        while self._bytes > self._limit:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)


def _size(answer: bytes) -> int:
    return len(answer) + _QUESTION_BYTES
