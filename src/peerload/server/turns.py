"""Who comes next where more is asked for than can be answered at once: those who ask much wait for each other."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from peerload.server.rpc import Context

__all__ = ["Turns"]

_PASS_SECONDS: Final = 0.002
"""How long one pass of the event loop may take over calls that are let in. Between two passes it hears of others."""
_FIRST: Final = 8
_MOST: Final = 64
"""How many are let in in one pass: at first, and at most."""


class Turns:
    """Turns of callers on one event loop.

    As long as a pass of the event loop has time left, calls go on at once. Then they line up, each behind those of the
    same caller, and callers take turns: one that has a thousand calls waiting costs another at most a pass or two. Who
    has not been waiting comes before those who have, but not more than every other time, so that many who ask little do
    not shut out the one who asks much. The fashion is that of fair queueing with new flows first (RFC 8290, section 4.2).
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """`clock` tells seconds; monotonic time by default."""
        self._now = time.monotonic if clock is None else clock
        self._until = 0.0
        """The end of the present pass."""
        self._in_pass = False
        self._begun = 0.0
        self._rate = _FIRST
        self._new: deque[str] = deque()
        self._old: deque[str] = deque()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._old_first = False

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(map(len, self._lines.values()))

    def at_once(self) -> bool:
        """Whether it is the turn of a call that has just come; else it is to line up."""
        now = self._now()
        if not self._in_pass:
            self._begin(asyncio.get_running_loop(), now)
        return not self._lines and now < self._until

    async def line_up(self, context: Context) -> None:
        """Return when it is the turn of a call; those that come from one peer, which is a connection, are one caller's."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        who = context.peer
        line = self._lines.get(who)
        if line is None:
            line = self._lines[who] = deque()
            self._new.append(who)
        line.append(turn)
        await turn

    def _begin(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._in_pass, self._begun, self._until = True, now, now + _PASS_SECONDS
        # Called after all that is ready now, so in the next pass, before which the event loop looks around.
        loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._in_pass = False
        if not self._lines:
            return
        now = self._now()
        # How many a pass can take is known only afterwards.
        self._rate = min(_MOST, self._rate + self._rate // 4 + 1) if now < self._until else max(1, self._rate // 2)
        self._begin(loop, now)
        let_in = 0
        while let_in < self._rate and self._lines:
            let_in += self._let_in()

    def _let_in(self) -> bool:
        """Let in the first call of whoever is next; False where it has been given up."""
        first, then = (self._old, self._new) if self._old_first else (self._new, self._old)
        self._old_first = not self._old_first
        who = (first or then).popleft()
        line = self._lines[who]
        turn = line.popleft()
        if line:
            self._old.append(who)
        else:
            del self._lines[who]
        if turn.done():
            return False
        turn.set_result(None)
        return True
