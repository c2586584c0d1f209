"""Moving what is missing from one source, in one step or several, and verifying each piece as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

from peerload.client.digests import digest, digests
from peerload.client.sources import SourceInfo
from peerload.client.threads import in_thread
from peerload.engines.base import Importer, Job, JobState, Range, Reader
from peerload.engines.pieces import Pieces
from peerload.errors import Fault, TransferFailed, VerificationFailed

__all__ = ["FOREVER_S", "Batches", "Served", "Slot", "SourceBusy", "transfer"]

FOREVER_S: Final = 7 * 24 * 3600.0
"""The deadline of a read whose caller set none. An engine fails a read that makes no progress long before."""

_TICK_S: Final = 0.1
_PORTION: Final = 256 << 20
"""Bytes that are verified in place before anybody is told."""


class SourceBusy(TransferFailed):
    """The source is alive, and serves as many readers as it takes."""


@dataclass(frozen=True, slots=True)
class Served:
    """A source, and the address that it was read at."""

    source: SourceInfo
    address: str


class Slot:
    """Bytes that are moved once: where they are at the source, where they go, and the names that they have.

    There are tens of thousands of them, so what they have in common they share, and the rest is plain numbers: an object each for where
    the bytes are, and a view each, would take more than all the rest, and the garbage collector's time.
    """

    __slots__ = (
        "_names", "at", "digest", "land", "mapped", "memory", "offset", "origin", "region", "size", "verified",
    )  # fmt: skip

    def __init__(
        self, names: str | tuple[str, ...], where: tuple[int, int, int], digest: bytes, memory: memoryview, at: int = 0
    ) -> None:
        self._names = names
        self.region, self.offset, self.size = where
        self.digest = digest
        self.memory = memory
        self.at = at
        """Where in `memory` they go."""
        self.verified = False
        """Whether they are in place: `checked` says that their digest was the manifest's, else that the manifest has none."""
        self.origin: Served | None = None
        """Who gave the verified bytes; None for bytes that were in place before."""
        self.mapped = False
        """Whether `memory` is the source's own, so that nothing moves."""
        self.land: Callable[[memoryview], None] | None = None
        """Takes verified bytes to where they belong, where that is not `destination`. Called once, on the transfer's thread."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are these bytes."""
        names = self._names
        return (names,) if isinstance(names, str) else names

    @property
    def count(self) -> int:
        """How many tensors are these bytes."""
        return 1 if isinstance(self._names, str) else len(self._names)

    @property
    def range(self) -> Range:
        """Where the source has them."""
        return Range(self.region, self.offset, self.size)

    @property
    def destination(self) -> memoryview:
        """Where the bytes go, and nothing else."""
        memory, at, size = self.memory, self.at, self.size
        return memory if not at and memory.nbytes == size else memory[at : at + size]

    @destination.setter
    def destination(self, view: memoryview) -> None:
        self.memory, self.at = view, 0

    @property
    def checked(self) -> bool:
        """Whether a digest stands behind `verified`. Of no bytes, nothing can be wrong."""
        return self.verified and (bool(self.digest) or not self.size)


Batches: TypeAlias = Callable[[threading.Event], Iterable[Sequence[Slot]]]
"""What to read, one batch after the other; the next is asked for when the last is verified. May block until there is
room for more, but not once the event is set. On the transfer's thread."""


async def transfer(
    importer: Importer,
    reader: Reader,
    batches: Batches,
    *,
    origin: Served,
    left: Callable[[], float],
    executor: Executor,
    report: Callable[[int], None],
) -> None:
    """Fill slots from one publication, and mark those that arrived whole and right as verified; the reader is closed.

    `left` says, on any thread, how many seconds remain. Raises `TransferFailed`, or `VerificationFailed` at the first slot
    whose bytes are not the manifest's; slots verified until then stay so. `report` is told, on the event loop, the bytes
    in place so far, and again whenever more are verified. When this returns, raises or is cancelled, nothing writes into
    the destinations any more.
    """
    loop = asyncio.get_running_loop()

    def move(stop: threading.Event) -> None:
        def tell(done: int) -> None:
            loop.call_soon_threadsafe(lambda: None if stop.is_set() else report(done))

        _Work(importer, reader, origin, stop, tell).run(batches, left)

    await in_thread(executor, move)


def _destinations(slots: Sequence[Slot]) -> Pieces:
    """Where the slots' bytes go. Of tens of thousands of slots most share their memory."""
    numbers: dict[int, int] = {}
    memories: list[memoryview] = []
    places: list[tuple[int, int]] = []
    for slot in slots:
        number = numbers.get(id(slot.memory))
        if number is None:
            number = numbers[id(slot.memory)] = len(memories)
            memories.append(slot.memory)
        places.append((number, slot.at))
    return Pieces(memories, places, [slot.size for slot in slots])


class _Work:
    """The blocking side, on a thread of its own."""

    def __init__(
        self,
        importer: Importer,
        reader: Reader,
        origin: Served,
        stop: threading.Event,
        tell: Callable[[int], object],
    ) -> None:
        self._importer = importer
        self._reader = reader
        self._origin = origin
        self._stop = stop
        self._tell = tell
        self._done = 0
        """Bytes of the batches that are whole."""

    def run(self, batches: Batches, left: Callable[[], float]) -> None:
        try:
            # One reader for all of them: it keeps its connections from batch to batch.
            for slots in batches(self._stop):
                if self._stop.is_set():
                    break
                if there := [slot for slot in slots if slot.mapped]:
                    self._look(there)
                if moving := [slot for slot in slots if not slot.mapped]:
                    self._read(moving, max(0.001, left()))
        finally:
            self._reader.close()
        if self._stop.is_set():
            raise TransferFailed("abandoned", fault=Fault.OURS)

    def _look(self, slots: Sequence[Slot]) -> None:
        """Verify what is in place already, while more of it is digested."""
        told = self._done
        places = _destinations(slots)
        with contextlib.closing(digests(places)) as batches:
            for first, some in batches:
                end = first + len(some)
                for slot, found in zip(slots[first:end], some, strict=True):
                    if slot.land is None:
                        self._confirm(slot, found)
                    else:
                        self._verify(slot, slot.destination, found, False)
                self._done += sum(places.sizes[first:end])
                if self._done - told >= _PORTION:
                    told = self._done
                    self._tell(told)
                if self._stop.is_set():
                    raise TransferFailed("abandoned", fault=Fault.OURS)
        self._tell(self._done)

    def _read(self, slots: Sequence[Slot], deadline: float) -> None:
        arrivals = _destinations(slots)
        bounced = not all(map(self._importer.takes, arrivals.memories))
        if bounced:
            # Memory of the caller's that this engine cannot write into; what has arrived right is copied there.
            arrivals = self._allocate(slots)
        job = self._reader.read([slot.range for slot in slots], arrivals, deadline=deadline)
        try:
            self._follow(job, slots, arrivals, bounced)
        finally:
            job.abandon()
        self._done += sum(slot.size for slot in slots)

    def _allocate(self, slots: Sequence[Slot]) -> Pieces:
        sizes = [slot.size for slot in slots]
        starts = list(accumulate(sizes, initial=0))
        return Pieces([self._importer.allocate(starts.pop())], [(0, start) for start in starts], sizes)

    def _follow(self, job: Job, slots: Sequence[Slot], arrivals: Pieces, bounced: bool) -> None:
        told = -1
        while True:
            progress = job.wait(_TICK_S)
            completed = job.completed()
            for index, found in completed:
                slot = slots[index]
                if found is None or bounced or slot.land is not None:
                    self._verify(slot, arrivals[index], found, bounced)
                else:
                    self._confirm(slot, found)
            if completed or progress.bytes_done != told:
                told = progress.bytes_done
                self._tell(self._done + told)
            if progress.state is JobState.DONE:
                break
            if progress.state is JobState.FAILED:
                if progress.busy:
                    raise SourceBusy(progress.reason)
                reason = progress.reason or "the engine gave no reason"
                raise TransferFailed(reason, retryable=progress.retryable, fault=progress.fault)
            if self._stop.is_set():
                raise TransferFailed("abandoned", fault=Fault.OURS)
        missing = [slot for slot in slots if not slot.verified]
        if missing:
            raise TransferFailed(f"the engine called it done with {len(missing)} ranges missing")

    def _verify(self, slot: Slot, arrived: memoryview, found: bytes | None, bounced: bool) -> None:
        """Confirm what arrived, and take it to where it belongs."""
        if found is None and slot.digest:
            found = digest(arrived)
        self._compare(slot, found)
        if slot.land is not None:
            slot.land(arrived)
        elif bounced:
            slot.destination[:] = arrived
        self._confirm(slot, found)

    def _confirm(self, slot: Slot, found: bytes | None) -> None:
        """Have what is in its place count, if it is what it should be."""
        if found != slot.digest:
            self._compare(slot, found)
        slot.origin = self._origin
        slot.verified = True

    def _compare(self, slot: Slot, found: bytes | None) -> None:
        if slot.digest and found != slot.digest:
            shown = ", ".join(name[:100] for name in slot.names[:3])
            raise VerificationFailed(
                f"{shown}: the bytes that arrived are not what the manifest says", items=slot.names
            )
