"""The in-process engine: memory copied to memory by a thread. For tests and examples; it reaches nobody else.

It behaves as an engine between machines does: copies take their time (as long as `max_bytes_per_second` says), may be
abandoned midway, are cut off when their publication is retired, and carry digests.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import xxhash

from peerload.clock import Clock, SystemClock
from peerload.engines.allocate import allocate
from peerload.engines.base import Descriptor, DeviceMemory, Publication, Range, Region
from peerload.engines.checks import check_ranges, destination_views, host_views
from peerload.engines.job import LaneJob
from peerload.engines.throttle import Throttle
from peerload.errors import InvalidArgument, TransferFailed

__all__ = ["MemoryEngine", "open_memory"]

_PIECE: Final = 256 * 1024
_MAX_READERS: Final = 64


class _Shelved:
    """One publication: its memory, and the reads of it."""

    def __init__(self, exporter: _MemoryExporter, views: list[memoryview]) -> None:
        self.exporter = exporter
        self.views = views
        self.sizes = tuple(view.nbytes for view in views)
        self.live = True
        self.changed = threading.Condition()
        self.readers: dict[threading.Event, LaneJob] = {}

    def retire(self, grace: float, clock: Clock) -> None:
        until = clock.monotonic() + max(0.0, grace)
        with self.changed:
            self.live = False
            while self.readers and (left := until - clock.monotonic()) > 0:
                self.changed.wait(left)
            cut = dict(self.readers)
        for stop, job in cut.items():
            job.fail("the source withdrew these weights during the read", retryable=False)
            stop.set()
        with self.changed:
            while self.readers:
                self.changed.wait()
            for view in self.views:
                view.release()
            self.views = []


_published: weakref.WeakValueDictionary[bytes, _Shelved] = weakref.WeakValueDictionary()
"""What this process publishes, whichever engine object did it: a descriptor is all that a target needs."""


class _MemoryExporter:
    def __init__(self, host: str, rate: int | None, clock: Clock) -> None:
        self._address = f"memory:{host}"
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._live: dict[bytes, _Shelved] = {}
        self.throttle = None if rate is None else Throttle(rate, clock)

    def publish(self, regions: Sequence[Region]) -> Publication:
        shelved = _Shelved(self, host_views(regions))
        token = secrets.token_bytes(16)
        with self._lock:
            if self._closed:
                raise InvalidArgument("exporter", "is closed")
            self._live[token] = _published[token] = shelved
        return Publication(Descriptor("memory", self._address, token), shelved.sizes)

    def copies(self, regions: Sequence[Region]) -> int:
        return 0

    def retire(self, publication: Publication, *, grace: float = 0.0) -> None:
        token = publication.descriptor.data
        with self._lock:
            shelved = self._live.get(token)
        if shelved is None:
            return
        shelved.retire(grace, self._clock)
        with self._lock:
            self._live.pop(token, None)

    def load(self) -> float:
        with self._lock:
            busy = sum(len(shelved.readers) for shelved in self._live.values())
        return min(1.0, busy / _MAX_READERS)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            live, self._live = self._live, {}
        for shelved in live.values():
            shelved.retire(0.0, self._clock)


class _MemoryReader:
    def __init__(self, token: bytes, sizes: tuple[int, ...], clock: Clock) -> None:
        self._token = token
        self._sizes = sizes
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._jobs: weakref.WeakSet[LaneJob] = weakref.WeakSet()

    def read(
        self, ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory], *, deadline: float
    ) -> LaneJob:
        ranges = tuple(ranges)
        check_ranges(ranges, self._sizes)
        job = LaneJob(destination_views(ranges, destinations), deadline=deadline, clock=self._clock)
        if job.over:
            return job
        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
            self._jobs.add(job)
        job.lane_started()
        threading.Thread(target=self._run, args=(job, ranges), name="peerload-memory-read", daemon=True).start()
        return job

    def close(self) -> None:
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()

    def _run(self, job: LaneJob, ranges: Sequence[Range]) -> None:
        stop = threading.Event()
        try:
            shelved = _published.get(self._token)
            if shelved is None:
                job.fail("the source offers no such weights", retryable=False)
                return
            with shelved.changed:
                if not shelved.live:
                    job.fail("these weights are no longer offered", retryable=False)
                    return
                if len(shelved.readers) >= _MAX_READERS:
                    job.fail("the source serves as many readers as it takes", busy=True)
                    return
                shelved.readers[stop] = job
            try:
                destinations = job.enter(stop.set)
                if destinations is not None:
                    try:
                        _copy(job, shelved, ranges, destinations, stop)
                    finally:
                        job.leave(stop.set)
            finally:
                with shelved.changed:
                    del shelved.readers[stop]
                    shelved.changed.notify_all()
        finally:
            job.lane_ended("the copy stopped")


def _copy(
    job: LaneJob, shelved: _Shelved, ranges: Sequence[Range], destinations: Sequence[memoryview], stop: threading.Event
) -> None:
    throttle = shelved.exporter.throttle
    piece = min(_PIECE, throttle.quantum) if throttle else _PIECE
    for index, wanted in enumerate(ranges):
        hasher = xxhash.xxh3_128()
        for start in range(0, wanted.length, piece):
            size = min(piece, wanted.length - start)
            if job.over or (throttle and not throttle.wait(size, stop)):
                return
            at = wanted.offset + start
            with shelved.views[wanted.region][at : at + size] as source:
                with destinations[index][start : start + size] as destination:
                    destination[:] = source
                    hasher.update(destination)
            last = start + size == wanted.length
            job.arrived(size, [(index, hasher.digest())] if last else [])


class _MemoryImporter:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._readers: weakref.WeakSet[_MemoryReader] = weakref.WeakSet()
        self._closed = False

    def takes(self, memory: memoryview) -> bool:
        return True

    def allocate(self, nbytes: int) -> memoryview:
        return allocate(nbytes)

    def open(self, descriptor: Descriptor) -> _MemoryReader:
        if descriptor.engine != "memory":
            raise InvalidArgument("descriptor", f"is of engine {descriptor.engine!r}, not memory")
        if self._closed:
            raise InvalidArgument("importer", "is closed")
        shelved = _published.get(descriptor.data)
        if shelved is None:
            raise TransferFailed("this process offers no such weights", retryable=False)
        reader = _MemoryReader(descriptor.data, shelved.sizes, self._clock)
        self._readers.add(reader)
        return reader

    def close(self) -> None:
        self._closed = True
        for reader in list(self._readers):
            reader.close()


@dataclass(frozen=True, slots=True)
class MemoryEngine:
    """Implements `Engine`. `max_bytes_per_second` caps what an exporter hands out to all its readers together."""

    max_bytes_per_second: int | None = None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if self.max_bytes_per_second is not None and self.max_bytes_per_second < 1:
            raise InvalidArgument("max_bytes_per_second", "must be at least 1, or None for no cap")

    @property
    def name(self) -> str:
        return "memory"

    @property
    def registers_memory(self) -> bool:
        return False

    @property
    def reads_device_memory(self) -> bool:
        return False

    def exporter(self, host: str) -> _MemoryExporter:
        if not host:
            raise InvalidArgument("host", "is empty")
        return _MemoryExporter(host, self.max_bytes_per_second, self.clock)

    def importer(self) -> _MemoryImporter:
        return _MemoryImporter(self.clock)


def open_memory(**settings: object) -> MemoryEngine:
    """The engine; its only setting is `max_bytes_per_second`. Raises `InvalidArgument` for others."""
    for name in settings:
        if name != "max_bytes_per_second":
            raise InvalidArgument(name, "is not a setting of the memory engine; there is max_bytes_per_second")
    return MemoryEngine(**cast(Any, settings))
