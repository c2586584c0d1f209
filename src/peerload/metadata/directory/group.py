"""The records of one source together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

from peerload.metadata.directory.held import Held
from peerload.metadata.directory.newest import Newest

__all__ = ["Group"]


class Group:
    """The records of one source, by worker id."""

    __slots__ = ("_newest", "_order", "members", "several", "version")

    def __init__(self) -> None:
        self.members: dict[str, tuple[Held, ...]] = {}
        """By worker id, each with its ranks in order."""
        self.several = 0
        """How many worker ids have several ranks."""
        self.version = 0
        """Another whenever anything in here is; see `Index.version`."""
        # Sorted when somebody asks, and from then on kept so: a fleet that starts changes it between any two lists.
        self._order: list[tuple[Held, ...]] | None = None
        self._newest: Newest | None = None

    def add(self, held: Held) -> None:
        """Take in a record that was not there."""
        worker_id = held.record.key.worker_id
        before = self.members.get(worker_id, ())
        self._become(worker_id, before, tuple(sorted((*before, held), key=_rank)))

    def remove(self, held: Held) -> None:
        """Let a record go that was there."""
        worker_id = held.record.key.worker_id
        before = self.members[worker_id]
        self._become(worker_id, before, tuple(other for other in before if other is not held))

    def ordered(self) -> list[tuple[Held, ...]]:
        """The members by lowest rank and worker id. Not the caller's to change."""
        if self._order is None:
            self._order = sorted(self.members.values(), key=_place)
        return self._order

    def of_rank(self, rank: int) -> list[tuple[Held, ...]]:
        """The members whose lowest rank that is, by worker id."""
        order = self.ordered()
        return order[bisect_left(order, (rank, ""), key=_place) : bisect_left(order, (rank + 1, ""), key=_place)]

    def has_few(self, rank: int | None, count: int) -> bool:
        """Whether members of a rank are so few that all of them are sooner looked at than `count` found among the newest."""
        if rank is None or self.several:
            return False
        order = self.ordered()
        there = bisect_left(order, (rank + 1, ""), key=_place) - bisect_left(order, (rank, ""), key=_place)
        return there * there <= count * len(order)

    def changed(self, held: Held) -> None:
        """One of its records has changed."""
        if self._newest is not None:
            self._heard(self.members[held.record.key.worker_id])

    def newest(
        self, count: int, admit: Callable[[tuple[Held, ...]], tuple[Held, ...] | None]
    ) -> list[tuple[Held, ...]]:
        """So many of the members as `admit` gives them (None: not at all), the newest first, the suspect ones after the others."""
        if self._newest is None:
            self._newest = Newest(self.members)
        return self._newest.first(count, admit)

    def _heard(self, ranks: tuple[Held, ...]) -> None:
        if self._newest is not None and not self._newest.heard(ranks):
            self._newest = None

    def _become(self, worker_id: str, before: tuple[Held, ...], after: tuple[Held, ...]) -> None:
        self.several += (len(after) > 1) - (len(before) > 1)
        if after:
            self.members[worker_id] = after
        else:
            del self.members[worker_id]
        order = self._order
        if order is not None:
            if before:
                del order[bisect_left(order, _place(before), key=_place)]
            if after:
                insort(order, after, key=_place)
        if after:
            self._heard(after)


def _rank(held: Held) -> int:
    return held.record.key.worker_rank


def _place(ranks: tuple[Held, ...]) -> tuple[int, str]:
    key = ranks[0].record.key
    return key.worker_rank, key.worker_id
