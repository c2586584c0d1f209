"""Moving what is missing from one source, and verifying each piece as it arrives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from peerload.client.digests import digest
from peerload.client.sources import SourceInfo
from peerload.client.threads import in_thread
from peerload.engines.base import Descriptor, Importer, Job, JobState, Range
from peerload.errors import Fault, TransferFailed, VerificationFailed

__all__ = ["FOREVER_S", "Served", "Slot", "SourceBusy", "transfer"]

FOREVER_S: Final = 7 * 24 * 3600.0
"""The deadline of a read whose caller set none. An engine fails a read that makes no progress long before."""

_TICK_S: Final = 0.1


class SourceBusy(TransferFailed):
    """The source is alive, and serves as many readers as it takes."""


@dataclass(frozen=True, slots=True)
class Served:
    """A source, and the address that it was read at."""

    source: SourceInfo
    address: str


@dataclass(slots=True, eq=False)
class Slot:
    """Bytes that are moved once: where they are at the source, where they go, and the names that they have.

    `verified` says that they are in place: `checked` that their digest was the manifest's, else that the manifest has none.
    """

    names: tuple[str, ...]
    range: Range
    digest: bytes
    destination: memoryview
    verified: bool = False
    origin: Served | None = None
    """Who gave the verified bytes; None for bytes that were in place before."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.range.length

    @property
    def checked(self) -> bool:
        """Whether a digest stands behind `verified`. Of no bytes, nothing can be wrong."""
        return self.verified and (bool(self.digest) or not self.size)


async def transfer(
    importer: Importer,
    descriptor: Descriptor,
    slots: Sequence[Slot],
    *,
    origin: Served,
    deadline: float,
    executor: Executor,
    report: Callable[[int], None],
) -> None:
    """Fill slots from one publication, and mark those that arrived whole and right as verified.

    Raises `TransferFailed`, or `VerificationFailed` at the first slot whose bytes are not the manifest's; slots verified
    until then stay so. `report` is told, on the event loop, the bytes in place so far. When this returns, raises or is
    cancelled, nothing writes into the destinations any more.
    """
    loop = asyncio.get_running_loop()

    def move(stop: threading.Event) -> None:
        def tell(done: int) -> None:
            loop.call_soon_threadsafe(lambda: None if stop.is_set() else report(done))

        _Work(importer, slots, origin, stop, tell).run(descriptor, deadline)

    await in_thread(executor, move)


class _Work:
    """The blocking side, on a thread of its own."""

    def __init__(
        self,
        importer: Importer,
        slots: Sequence[Slot],
        origin: Served,
        stop: threading.Event,
        tell: Callable[[int], object],
    ) -> None:
        self._importer = importer
        self._slots = slots
        self._origin = origin
        self._stop = stop
        self._tell = tell
        self._bounce: list[memoryview] | None = None

    def run(self, descriptor: Descriptor, deadline: float) -> None:
        targets = [slot.destination for slot in self._slots]
        if not self._importer.any_memory:
            # This engine writes only into memory of its own; what has arrived right is copied from there.
            targets = self._bounce = self._allocate()
        reader = self._importer.open(descriptor)
        try:
            job = reader.read([slot.range for slot in self._slots], targets, deadline=deadline)
            try:
                self._follow(job)
            finally:
                job.abandon()
        finally:
            reader.close()

    def _allocate(self) -> list[memoryview]:
        arena = self._importer.allocate(sum(slot.size for slot in self._slots))
        targets, at = [], 0
        for slot in self._slots:
            targets.append(arena[at : at + slot.size])
            at += slot.size
        return targets

    def _follow(self, job: Job) -> None:
        told = -1
        while True:
            progress = job.wait(_TICK_S)
            for index, found in job.completed():
                self._verify(index, found)
            if progress.bytes_done != told:
                told = progress.bytes_done
                self._tell(told)
            if progress.state is JobState.DONE:
                break
            if progress.state is JobState.FAILED:
                if progress.busy:
                    raise SourceBusy(progress.reason)
                reason = progress.reason or "the engine gave no reason"
                raise TransferFailed(reason, retryable=progress.retryable, fault=progress.fault)
            if self._stop.is_set():
                raise TransferFailed("abandoned", fault=Fault.OURS)
        missing = [slot for slot in self._slots if not slot.verified]
        if missing:
            raise TransferFailed(f"the engine called it done with {len(missing)} ranges missing")

    def _verify(self, index: int, found: bytes | None) -> None:
        slot = self._slots[index]
        arrived = slot.destination if self._bounce is None else self._bounce[index]
        if slot.digest and (digest(arrived) if found is None else found) != slot.digest:
            shown = ", ".join(name[:100] for name in slot.names[:3])
            raise VerificationFailed(
                f"{shown}: the bytes that arrived are not what the manifest says", items=slot.names
            )
        if self._bounce is not None:
            slot.destination[:] = arrived
        slot.origin = self._origin
        slot.verified = True
