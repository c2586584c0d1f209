"""Room for bytes: how many may be held at once, and who waits for others to let go of theirs."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from peerload.errors import LimitExceeded
from peerload.server.limits import SMALL_BYTES

__all__ = ["Held", "Room"]

_ANSWER_SECONDS: Final = 0.1
"""How long before the caller's deadline somebody who waits in vain is told so, so that he still hears it."""


class Held:
    """Some room that is held. Leaving the `with` block gives it back; so does `release`, and twice is allowed."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    def shrink(self, size: int) -> None:
        """Keep only so much of it."""
        if size < self._size:
            freed, self._size = self._size - size, size
            self._room._give_back(freed)

    def release(self) -> None:
        """Give it all back."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(0)


class Room:
    """Room for `limit` bytes, taken in the order in which it was asked for.

    Up to `SMALL_BYTES` are had at once, whoever else waits, and not counted: how many calls there may be bounds them.
    Something that is larger than all the room gets all of it. `setting` is the name by which errors speak of the limit;
    `max_waiting` the number of bytes that may wait in line, None for any.
    """

    def __init__(self, limit: int, *, setting: str, max_waiting: int | None = None) -> None:
        self._limit = limit
        self._setting = setting
        self._max_waiting = max_waiting
        self._used = 0
        self._waiting = 0
        self.nothing: Final = Held(self, 0)
        """What those hold whose bytes are not counted."""
        # In the order of arrival; whoever gives up leaves from the middle.
        self._line: dict[asyncio.Future[None], int] = {}

    @property
    def limit(self) -> int:
        """Bytes that there is room for."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    @property
    def waiting(self) -> int:
        """Bytes that are waited for now."""
        return self._waiting

    async def take(self, size: int, until: float | None) -> Held:
        """Room for `size` bytes, now or when it is this caller's turn.

        `until` is the caller's deadline on the event loop's clock. Raises `LimitExceeded` shortly before it, or at
        once where the line is full.
        """
        if size <= SMALL_BYTES:
            return self.nothing
        size = min(size, self._limit)
        if not self._line and self._used + size <= self._limit:
            self._used += size
        else:
            await self._turn(size, until)
        return Held(self, size)

    async def _turn(self, size: int, until: float | None) -> None:
        if self._max_waiting is not None and self._waiting + size > self._max_waiting:
            raise self._full(size)
        loop = asyncio.get_running_loop()
        if until is not None:
            until -= min(_ANSWER_SECONDS, max(0.0, until - loop.time()) / 2)
        turn: asyncio.Future[None] = loop.create_future()
        self._line[turn] = size
        self._waiting += size
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It was granted in the same turn of the event loop in which the caller gave up.
                self._used -= size
            elif self._line.pop(turn, None) is not None:
                self._waiting -= size
            self._admit()
            if isinstance(error, TimeoutError):
                raise self._full(size) from None
            raise

    def _give_back(self, size: int) -> None:
        self._used -= size
        self._admit()

    def _admit(self) -> None:
        """Let in those whose turn it is."""
        while self._line:
            turn, size = next(iter(self._line.items()))
            given_up = turn.cancelled()
            if not given_up and self._used + size > self._limit:
                return
            del self._line[turn]
            self._waiting -= size
            if not given_up:
                self._used += size
                turn.set_result(None)

    def _full(self, size: int) -> LimitExceeded:
        return LimitExceeded(
            self._setting,
            f"no room for another {size} bytes: {self._used} are taken and {self._waiting} waited for, of {self._limit}; "
            "try again",
            limit=self._limit,
        )
