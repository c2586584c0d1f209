"""Holding a history against what must be true. Pure: the same history, the same sentences."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.support.histories.records import History, Look, State, Watch, Write
from tests.support.histories.register import Register, Sight
from tests.support.histories.rivals import Rivals
from tests.support.histories.times import Times

__all__ = ["PATIENT", "check"]

PATIENT = 8.0
"""Who waits so long while nothing is wrong gets an answer."""


def check(history: History) -> list[str]:
    """What was said or shown that cannot be: a sentence each."""
    times = Times(history.faults, history.servers, history.bounds)
    wrong: list[str] = [*unanswered(history, times)]
    registers: defaultdict[str, Register] = defaultdict(lambda: Register(times))
    for write in sorted(history.writes, key=lambda write: write.begun):
        complaint = registers[write.worker_id].add(write)
        if complaint:
            wrong.append(f"{write.worker_id}: {complaint}")
    rivals = Rivals(history.rivals, times)
    contended = {write.worker_id for write in history.rivals}
    begun: dict[str, float] = {}
    for write in sorted([*history.writes, *history.rivals], key=lambda write: write.begun):
        begun.setdefault(write.worker_id, write.begun)

    floors: defaultdict[tuple[str, str], _Floor] = defaultdict(_Floor)
    followed: defaultdict[tuple[str, str], list[Sight]] = defaultdict(list)
    for stream, worker_id, sight in sights(history, begun):
        if worker_id in registers:
            register = registers[worker_id]
            floor = floors[stream, worker_id]
            place = register.place(sight, floor.at(sight.until) if stream else 0)
            if place is None:
                back = " (or it went back)" if register.place(sight, 0) is not None else ""
                wrong.append(f"{worker_id}: {sight}, but it could only be one of {register.expected(sight)}{back}")
            elif stream:
                floor.raised(sight.since, place)
        elif worker_id in contended:
            complaint = rivals.see(sight)
            if complaint:
                wrong.append(f"{worker_id}: {sight}, but {complaint}")
            if stream:
                followed[stream, worker_id].append(sight)
        elif sight.shown is not None:
            wrong.append(f"{worker_id}: {sight}, but nobody ever published it")
    for seen in followed.values():
        rivals.follow(seen)
    if complaint := rivals.contradiction():
        wrong.append(complaint)
    return wrong


def unanswered(history: History, times: Times) -> Iterator[str]:
    """Calls that had no answer although nothing was wrong."""
    calls: list[Write | Look] = [*history.writes, *history.rivals, *history.looks]
    for call in calls:
        answer = call.shown if isinstance(call, Look) else call.answer
        if answer is None and call.patience >= PATIENT and times.calm(call.server, call.begun, call.ended):
            yield f"nothing was wrong, and yet there is no answer to {call}"


def sights(history: History, begun: Mapping[str, float]) -> Iterator[tuple[str, str, Sight]]:
    """Everything that was shown of everybody: the stream that it belongs to, the worker, and what. `begun` is when each
    worker was first written of, in order; that it was not shown before says nothing.

    What a stream shows goes forward in time: each watch is one, and so are the lists of a server.
    """
    workers, moments = [*begun], [*begun.values()]
    for look in sorted(history.looks, key=lambda look: look.ended):
        if look.shown is None:
            continue
        stream = "" if look.only else f"lists of {look.server}"
        known = workers[: bisect.bisect_right(moments, look.ended)]
        for worker_id in [look.only] if look.only else {*known, *look.shown}:
            shown = look.shown.get(worker_id)
            yield stream, worker_id, Sight(shown, look.server, look.ended, look.begun, look.ready)
    for number, watch in enumerate(history.watches):
        for worker_id, sight in spans(watch, workers):
            yield f"watch {number}", worker_id, sight


def spans(watch: Watch, workers: list[str]) -> Iterator[tuple[str, Sight]]:
    """What a watch showed of each worker, from when to when."""
    view: dict[str, State] = {}
    for piece in watch.pieces:
        began = piece.told[0].at
        since: dict[str, float] = {}

        def seen(
            worker_id: str,
            shown: State | None,
            until: float,
            since: dict[str, float] = since,
            began: float = began,
        ) -> Sight:
            return Sight(shown, watch.server, since.get(worker_id, began), until, watch.ready, streamed=True)

        for number, told in enumerate(piece.told):
            after = dict(told.present) if told.complete else view | dict(told.present)
            for worker_id in told.gone:
                after.pop(worker_id, None)
            for worker_id in {*view, *after} if told.complete else {*told.present, *told.gone}:
                if view.get(worker_id) != after.get(worker_id):
                    if number:
                        yield worker_id, seen(worker_id, view.get(worker_id), told.at)
                    since[worker_id] = told.at
            view = after
        for worker_id in {*workers, *view}:
            yield worker_id, seen(worker_id, view.get(worker_id), piece.ended)


class _Floor:
    """How far a stream has come: what ended before something else was asked for is not taken back in that."""

    def __init__(self) -> None:
        self._since: list[float] = []
        self._place: list[int] = []

    def raised(self, since: float, place: int) -> None:
        self._since.append(since)
        self._place.append(max(place, self._place[-1] if self._place else 0))

    def at(self, until: float) -> int:
        index = bisect.bisect_right(self._since, until)
        return self._place[index - 1] if index else 0
