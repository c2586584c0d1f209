"""A job that threads work on: what is in place, how it ended, and how it is made to stop.

An engine whose reads are its own threads starts one or more *lanes* for a read. A lane may write into the destinations
only between `enter` and `leave`; the job ends when its fate is decided *and* no lane is in there any more, so whoever
sees DONE or FAILED knows that nothing writes. A lane that is still on its way (resolving a name, connecting) holds no
destination and delays nobody: it finds the door shut when it arrives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import xxhash

from peerload.clock import Clock
from peerload.engines.base import JobState, Progress
from peerload.engines.pieces import release, sizes_of
from peerload.errors import Fault, InvalidArgument

__all__ = ["EMPTY_DIGEST", "LaneJob", "Stop"]

_NEWS_EVERY: Final = 0.01
"""Seconds between two wake-ups of who waits for news, so that many small ranges do not wake him for each."""
_NEWS_LATE: Final = 0.05
"""Seconds that news without a wake-up waits at most."""

EMPTY_DIGEST: Final[bytes] = xxhash.xxh3_128_digest(b"")
"""The digest of no bytes."""

Stop: TypeAlias = Callable[[], None]
"""Makes a lane's blocking call return soon. Called with the job locked: it must not block, nor call the job."""


class LaneJob:
    """Implements `Job`, for the lanes on one side and the reader's caller on the other."""

    def __init__(self, destinations: Sequence[memoryview], *, deadline: float, clock: Clock) -> None:
        if not deadline > 0:
            raise InvalidArgument("deadline", f"{deadline} s is not a time from now")
        self._clock = clock
        self._seconds = deadline
        self._deadline = clock.monotonic() + deadline
        self._changed = threading.Condition()
        self._views = destinations
        self._news: list[tuple[int, bytes | None]] = [
            (index, EMPTY_DIGEST) for index, size in enumerate(sizes_of(destinations)) if not size
        ]
        self._told = len(self._news)
        self._heard = 0
        self._woken = 0.0
        self._left = len(self._views) - len(self._news)
        self._bytes = 0
        self._fault: tuple[str, bool, bool, Fault] | None = None
        self._inside: list[Stop] = []
        self._lanes = 0
        with self._changed:
            self._settle()

    # The caller's side: `peerload.engines.base.Job` has the meaning of these.

    def poll(self) -> Progress:
        self._expire()
        with self._changed:
            return self._progress()

    def wait(self, timeout: float) -> Progress:
        until = self._clock.monotonic() + max(0.0, timeout)
        while True:
            self._expire()
            with self._changed:
                now = self._clock.monotonic()
                if self._ended() or self._told != self._heard or now >= until:
                    self._heard = self._told
                    return self._progress()
                # Once failed, only the lanes inside are waited for, and they notify.
                patience = until if self._fault else min(until, self._deadline, now + _NEWS_LATE)
                self._changed.wait(max(0.0, patience - now))

    def completed(self) -> list[tuple[int, bytes | None]]:
        with self._changed:
            news, self._news = self._news, []
            return news

    def abandon(self) -> None:
        with self._changed:
            self._fail("abandoned", retryable=True, fault=Fault.OURS)
            # Without a time limit on purpose: to return earlier would be a lie, and what a lane waits for inside
            # (a socket that was shut down) is over whatever the peer does.
            while self._inside:
                self._changed.wait()

    # The lanes' side.

    @property
    def over(self) -> bool:
        """Whether lanes have nothing more to do here. Read without the lock: a lane asks before every call that blocks,
        and is woken by its `Stop` if the answer changes in between."""
        return self._fault is not None or not self._left

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; not positive once it has passed."""
        return self._deadline - self._clock.monotonic()

    def lane_started(self) -> None:
        """A lane will work on this job, and end with `lane_ended`."""
        with self._changed:
            self._lanes += 1

    def lane_ended(self, reason: str = "", *, retryable: bool = True, busy: bool = False) -> None:
        """A lane is gone. With work left over and no lane to do it, the job fails for this `reason`."""
        with self._changed:
            self._lanes -= 1
            if not self._lanes:
                self._fail(reason or "the source took no connection for this read", retryable=retryable, busy=busy)

    def enter(self, stop: Stop) -> Sequence[memoryview] | None:
        """The destinations, to write to until `leave(stop)`; None if there is nothing to do any more.

        Every view made from them must be gone before `leave`: the caller may unmap the memory the moment it knows that
        the job has ended.
        """
        with self._changed:
            if self._fault or not self._left:
                return None
            self._inside.append(stop)
            return self._views

    def leave(self, stop: Stop) -> None:
        """This lane writes no more, and holds no view of the destinations."""
        with self._changed:
            self._inside.remove(stop)
            self._settle()

    def arrived(self, nbytes: int, ranges: Sequence[tuple[int, bytes | None]] = ()) -> None:
        """`nbytes` more are in place, and with them these ranges are whole (with their digests)."""
        with self._changed:
            self._bytes += nbytes
            if ranges:
                self._news.extend(ranges)
                self._told += len(ranges)
                self._left -= len(ranges)
                now = self._clock.monotonic()
                if now - self._woken >= _NEWS_EVERY:
                    self._woken = now
                    self._changed.notify_all()
        self._expire()

    def fail(self, reason: str, *, retryable: bool = True, busy: bool = False, fault: Fault = Fault.OTHER) -> None:
        """Decide that the job has failed, unless its fate is decided already, and stop every lane."""
        with self._changed:
            self._fail(reason, retryable=retryable, busy=busy, fault=fault)

    # With the lock held.

    def _progress(self) -> Progress:
        if not self._ended():
            return Progress(JobState.RUNNING, self._bytes)
        if self._fault:
            return Progress(JobState.FAILED, self._bytes, *self._fault)
        return Progress(JobState.DONE, self._bytes)

    def _ended(self) -> bool:
        return not self._inside and (self._fault is not None or not self._left)

    def _fail(self, reason: str, *, retryable: bool, busy: bool = False, fault: Fault = Fault.OTHER) -> None:
        if self._fault or not self._left:
            return
        self._fault = (reason, retryable, busy, fault)
        for stop in self._inside:
            stop()
        self._settle()

    def _settle(self) -> None:
        if self._ended():
            release(self._views)
            self._views = []
        self._changed.notify_all()

    # Without it.

    def _expire(self) -> None:
        if not self.over and self.seconds_left <= 0:
            self.fail(f"not done within its deadline of {self._seconds:g} s", fault=Fault.OURS)
