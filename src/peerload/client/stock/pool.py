"""The chunks of an artifact in memory that readers may read: a few at a time, each for as long as somebody has a lease on it.

Readers of a fleet that starts together ask for the same chunks at the same time: a chunk that is here is given to all of them,
and is read from the disk once. A slot gets another chunk only when no lease on it is left.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

from peerload.client.stock.leases import Leases
from peerload.clock import Clock
from peerload.errors import LimitExceeded, NotFound

__all__ = ["LEASE_S", "ChunkPool", "LeasedChunk"]

LEASE_S: Final = 300.0
"""As the stock package: longer than any of its readers tries to read a chunk."""
_MOST_LEASES: Final = 4096
_PATIENCE_S: Final = 3.0
"""How long a reader waits for a slot before it is told that there is none; its call has five seconds."""
_LOOK_S: Final = 0.02


@dataclass(slots=True, eq=False)
class _Slot:
    number: int
    chunk: int | None = None
    leases: set[str] = field(default_factory=set)
    filled: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class LeasedChunk:
    """A chunk that lies in slot number `slot` until the lease is released or has run out."""

    lease: str
    slot: int


class ChunkPool:
    """`memory` cut into slots of `slot_bytes`. `fill` reads a chunk into a slot, on a thread. Belongs to one event loop."""

    def __init__(
        self,
        memory: memoryview,
        slot_bytes: int,
        fill: Callable[[int, memoryview], None],
        *,
        clock: Clock,
        executor: Executor,
        lease_seconds: float = LEASE_S,
    ) -> None:
        self._memory = memory
        self._slot_bytes = slot_bytes
        self._fill = fill
        self._clock = clock
        self._executor = executor
        self._slots: OrderedDict[_Slot, None] = OrderedDict(
            (_Slot(number), None) for number in range(memory.nbytes // slot_bytes)
        )
        """The one that was wanted longest ago first."""
        self._leased: dict[str, _Slot] = {}
        self.leases = Leases(clock, lease_seconds, most=_MOST_LEASES, ended=self._ended)

    @property
    def load(self) -> float:
        """The part of the slots that somebody reads, 0 to 1."""
        len(self.leases)
        return sum(bool(slot.leases) for slot in self._slots) / len(self._slots)

    async def prepare(self, chunk: int) -> LeasedChunk:
        """Have a chunk in memory. Raises `LimitExceeded` if every slot is leased for too long, `OSError` and what `fill`
        raises, `Unavailable` once it is draining."""
        self.leases.check()
        slot = await self._slot(chunk)
        lease = self.leases.take()
        slot.leases.add(lease)
        self._leased[lease] = slot
        if slot.filled is None:
            slot.filled = self._filling(slot, chunk)
        filled = slot.filled
        try:
            # Others wait for it too, and this reader may go away meanwhile.
            await asyncio.shield(filled)
        except BaseException:
            if slot.filled is filled and filled.done() and (filled.cancelled() or filled.exception()):
                slot.chunk = slot.filled = None
            if lease in self._leased:
                self.leases.release(lease)
            raise
        return LeasedChunk(lease, slot.number)

    def release(self, lease: str) -> int:
        """End a lease; the chunk that it was on. Raises `NotFound` for one that is unknown or has run out."""
        len(self.leases)  # those that have run out go
        slot = self._leased.get(lease)
        if slot is None or slot.chunk is None:
            raise NotFound(f"there is no lease {lease[:64]!r} on a chunk, or it has run out")
        chunk = slot.chunk
        self.leases.release(lease)
        return chunk

    async def drain(self, seconds: float) -> None:
        """Give nothing more out, and wait up to `seconds` for readers to end."""
        await self.leases.drain(seconds)

    async def _slot(self, chunk: int) -> _Slot:
        until = self._clock.monotonic() + _PATIENCE_S
        while True:
            len(self.leases)
            free: _Slot | None = None
            for slot in self._slots:
                if slot.chunk == chunk:
                    self._slots.move_to_end(slot)
                    return slot
                if free is None and not slot.leases and (slot.filled is None or slot.filled.done()):
                    free = slot
            if free is not None:
                free.chunk, free.filled = chunk, None
                self._slots.move_to_end(free)
                return free
            if self._clock.monotonic() >= until:
                count = len(self._slots)
                raise LimitExceeded("chunk_index", f"all {count} chunks in memory are leased; ask again", limit=count)
            await self._clock.sleep(_LOOK_S)

    def _filling(self, slot: _Slot, chunk: int) -> asyncio.Future[None]:
        view = self._memory[slot.number * self._slot_bytes : (slot.number + 1) * self._slot_bytes]
        filling = asyncio.get_running_loop().run_in_executor(self._executor, self._fill, chunk, view)
        # Seen here, since all who wait for it may have gone.
        filling.add_done_callback(lambda done: done.cancelled() or done.exception())
        return filling

    def _ended(self, lease: str) -> None:
        self._leased.pop(lease).leases.discard(lease)
