"""How long a caller waits, on the clock that the backend was given."""

from __future__ import annotations

import asyncio

from peerload.clock import Clock
from peerload.server.rpc import Context

__all__ = ["deadline_on"]


def deadline_on(clock: Clock, context: Context) -> float | None:
    """The call's deadline in `clock.monotonic()` seconds; None: the caller waits for ever."""
    deadline = context.deadline
    return None if deadline is None else clock.monotonic() + deadline - asyncio.get_running_loop().time()
