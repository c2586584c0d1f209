"""What ends a call that takes too long."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Timer"]


class Timer:
    """Cancels a call's task at the client's deadline, or when the client is late with what it has to send.

    `until` is the deadline on the event loop's clock, `allowed` are the seconds that a client has to send something. It does nothing
    before `arm`, so it costs nothing where a call is answered at once. `stop` it when the call has ended.
    """

    __slots__ = ("_allowed", "_expired", "_handle", "_task", "_until", "armed", "expects", "slow")

    def __init__(self, task: asyncio.Task[Any], until: float | None, allowed: float) -> None:
        self._task = task
        self._until = until
        self._allowed = allowed
        self._handle: asyncio.TimerHandle | None = None
        self._expired = False
        self.armed = False
        """Whether there was something to wait for, so that it has to end the call in time."""
        self.expects = False
        """Whether it is the client who is to do something."""
        self.slow = False
        """Whether the client is to send something before its deadline; so it is what the call was ended for."""

    def arm(self) -> None:
        """From now on the call is to be ended in time: by its deadline, or sooner if the client is expected to send something."""
        self.armed = True
        if self.expects:
            self.hurry()
        if not self.slow:
            self._set(self._until)

    def hurry(self) -> None:
        """From now on the client has a limited time, if it has not already."""
        if self.slow:
            return
        late = self._task.get_loop().time() + self._allowed
        if self._until is None or late < self._until:
            self.slow = True
            self._set(late)

    def be_patient(self) -> None:
        """From now on it has until its deadline."""
        if self.slow:
            self.slow = False
            self._set(self._until)

    def stop(self) -> None:
        """End nothing any more."""
        if self._handle is not None:
            self._handle.cancel()

    def takes_back(self) -> bool:
        """Whether it was this that cancelled the task, and nobody else did; then the task goes on."""
        return self._expired and self._task.uncancel() <= 0

    def _set(self, when: float | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if when is None else self._task.get_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
