"""The members of one source by when they were last heard from, for those who ask for a few of them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Final

from peerload.metadata.directory.held import Held, is_suspect, oldest

__all__ = ["Newest"]

_FEW: Final = 64
"""Places that may be out of date beside as many as there are members."""


class Newest:
    """An order of the members by their heartbeats. A question costs what is looked at: what it takes, what does not pass, and
    once each the places that members have left since by another heartbeat.

    There it is only where somebody has asked. A heartbeat leaves the place before it as it is, so that it costs next to nothing;
    when half of all places are such, the order is thrown away, and whoever asks next has it made anew."""

    __slots__ = ("_members", "_order")

    def __init__(self, members: Mapping[str, tuple[Held, ...]]) -> None:
        """`members` by worker id: those that there are at any time."""
        self._members = members
        # The newest last.
        self._order = sorted(((oldest(ranks), ranks) for ranks in members.values()), key=_stamp)

    def heard(self, ranks: tuple[Held, ...]) -> bool:
        """A member was heard from, or is new. False: this order is of no more use."""
        order, stamp = self._order, oldest(ranks)
        if not order or stamp >= order[-1][0]:
            order.append((stamp, ranks))
        else:
            insort(order, (stamp, ranks), key=_stamp)
        return len(order) <= 2 * len(self._members) + _FEW

    def first(self, count: int, admit: Callable[[tuple[Held, ...]], tuple[Held, ...] | None]) -> list[tuple[Held, ...]]:
        """So many of the members as `admit` gives them (None: not at all), the newest first, the suspect ones after the others."""
        order, members = self._order, self._members
        looked: dict[tuple[Held, ...], int] = {}
        found: list[tuple[Held, ...]] = []
        suspect: list[tuple[Held, ...]] = []
        while order and len(found) < count:
            stamp, ranks = order.pop()
            if ranks in looked or members.get(ranks[0].record.key.worker_id) is not ranks or oldest(ranks) != stamp:
                continue
            looked[ranks] = stamp
            admitted = admit(ranks)
            if admitted is not None:
                (suspect if is_suspect(admitted) else found).append(admitted)
        order.extend((stamp, ranks) for ranks, stamp in reversed(looked.items()))
        return (found + suspect)[:count]


_stamp = itemgetter(0)
