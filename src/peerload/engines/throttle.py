"""A cap on the bytes that a source sends a second, shared by all that it serves."""

from __future__ import annotations

import threading

from peerload.clock import Clock

__all__ = ["Throttle"]


class Throttle:
    """Hands out turns to send so that all senders together keep below `rate` bytes a second.

    A turn is worth at most `quantum` bytes (a twentieth of a second's worth), so that senders take turns and a cap
    reads as a steady trickle rather than as bursts. There is no credit for idle time.
    """

    def __init__(self, rate: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()
        self.quantum = max(1, rate // 20)

    def wait(self, nbytes: int, stop: threading.Event) -> bool:
        """Block until it is this caller's turn to send `nbytes`; False as soon as `stop` is set, with no turn used up
        that anybody would miss."""
        with self._lock:
            now = self._clock.monotonic()
            turn = max(now, self._free_at)
            self._free_at = turn + nbytes / self._rate
        if turn > now:
            stop.wait(turn - now)
        return not stop.is_set()
