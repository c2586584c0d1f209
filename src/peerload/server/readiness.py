"""Whether the server can answer, as health checks tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

__all__ = ["Readiness"]


class Readiness:
    """A state with a reason, and a way to hear of its changes. Not serving until told; final once stopped."""

    def __init__(self) -> None:
        self._serving = False
        self._reason = "the server is starting"
        self._stopped = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether calls can be answered."""
        return self._serving

    @property
    def reason(self) -> str:
        """Why calls cannot be answered; empty while they can."""
        return self._reason

    def set(self, serving: bool, reason: str = "") -> None:
        """Take over the state of the metadata backend; ignored once stopped."""
        if not self._stopped:
            self._become(serving, reason)

    def stop(self) -> None:
        """Not serving from now on, whatever the backend says."""
        self._become(False, "the server is stopping")
        self._stopped = True

    async def states(self) -> AsyncIterator[bool]:
        """Whether it serves: now, and whenever that changes (a state that lasts less than a turn of the event loop
        may be passed over)."""
        told: bool | None = None
        while True:
            changed = self._changed
            if told != self._serving:
                told = self._serving
                yield told
            else:
                await changed.wait()

    def _become(self, serving: bool, reason: str) -> None:
        self._serving, self._reason = serving, reason
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
