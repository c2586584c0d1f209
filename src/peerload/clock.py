"""The clock that everything is handed which asks the time or waits for it.

Two times, never mixed: *monotonic* seconds, to measure how long something took or to wait; *wall* milliseconds
since 1970, to stamp what other machines and people will read. Judging ages across machines uses a store's own
clock (`peerload.store.base.Store.now`), which is built on these two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "SystemClock", "Timer"]


class Timer(Protocol):
    """Something that is to be done later."""

    def cancel(self) -> None:
        """Leave it undone, if it has not been done yet."""
        ...


class Clock(Protocol):
    """A source of time. Tests pass `peerload.testing.ManualClock`, which moves only when told."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back, does not follow changes of the wall clock."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as the host believes it; may jump either way."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of monotonic time have passed; at once (after yielding) for zero or less."""
        ...

    def call_later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Have the running event loop call `act` once `seconds` of monotonic time have passed. Costs less than a task that sleeps."""
        ...


class SystemClock:
    """The host's clock.

    Monotonic time is CLOCK_MONOTONIC, which stands still while a machine is suspended: a suspended server must
    not wake up and find everybody dead.
    """

    # The builtin itself: it is asked several times a call.
    monotonic = staticmethod(time.monotonic)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, act: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, act)
