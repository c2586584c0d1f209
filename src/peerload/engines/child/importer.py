"""The target side of an engine with children."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from peerload.clock import Clock
from peerload.engines.base import Descriptor, DeviceMemory, Range
from peerload.engines.checks import check_ranges, destination_views
from peerload.engines.child.inside import DeviceView, check_device_destinations
from peerload.engines.child.lane import Lane
from peerload.engines.child.nursery import Nursery, Reading
from peerload.engines.child.plan import Plan
from peerload.engines.child.process import Child, Recipe
from peerload.engines.child.settings import ChildSettings
from peerload.engines.job import LaneJob
from peerload.engines.pieces import Pieces
from peerload.engines.shared import allocate_shared, is_writable
from peerload.engines.tcp import protocol
from peerload.engines.tcp.greet import dial, greet
from peerload.engines.tcp.protocol import Endpoint
from peerload.errors import Fault, InvalidArgument, TransferFailed

__all__ = ["ChildImporter", "ChildReader"]


class ChildReader:
    """Implements `Reader`. Connects when it reads; each read under way has a child of its own.

    `inside` makes who reads into device memory, for engines that can.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        recipe: Recipe,
        nursery: Nursery,
        settings: ChildSettings,
        clock: Clock,
        inside: Callable[[Sequence[DeviceMemory]], Child] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._recipe = recipe
        self._inside = inside
        self._nursery = nursery
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._jobs: weakref.WeakSet[LaneJob] = weakref.WeakSet()

    def read(
        self, ranges: Sequence[Range], destinations: Sequence[memoryview | DeviceMemory], *, deadline: float
    ) -> LaneJob:
        ranges = tuple(ranges)
        check_ranges(ranges, self._endpoint.sizes)
        regions = len(self._endpoint.sizes)
        take, give = self._take, self._give
        inside = self._inside
        views: Sequence[memoryview]
        on_host = isinstance(destinations, Pieces) or not any(isinstance(each, DeviceMemory) for each in destinations)
        if inside is not None and not on_host:
            memory = check_device_destinations(ranges, destinations)
            plan = Plan(ranges, memory, regions)
            # To the job they are as good as views: something of a size that is let go of at the end.
            views = cast(list[memoryview], [DeviceView(each) for each in memory])

            def take() -> Reading:
                return Reading(inside(memory))

            def give(reading: Reading) -> None:
                reading.child.end()
        else:
            views = destination_views(ranges, destinations)
            plan = Plan(ranges, views, regions)
        job = LaneJob(views, deadline=deadline, clock=self._clock)
        if job.over:
            return job
        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
            self._jobs.add(job)
        job.lane_started()
        try:
            threading.Thread(
                target=self._run, args=(job, plan, take, give), name="peerload-child-read", daemon=True
            ).start()
        except RuntimeError as error:
            job.lane_ended(f"this process can start no more threads: {error}")
        return job

    def close(self) -> None:
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()
        self._nursery.rest(self._endpoint.publication)

    def _take(self) -> Reading:
        return self._nursery.take(self._recipe, self._endpoint.publication)

    def _give(self, reading: Reading) -> None:
        self._nursery.give(self._endpoint.publication, reading)
        if self._closed:
            self._nursery.rest(self._endpoint.publication)

    def _run(self, job: LaneJob, plan: Plan, take: Callable[[], Reading], give: Callable[[Reading], None]) -> None:
        def connect() -> socket.socket:
            timeout = max(0.05, min(self._settings.connect_timeout, job.seconds_left))
            endpoint = self._endpoint
            sock = dial(endpoint.host, endpoint.port, endpoint.address, timeout)
            greeting = protocol.greeting(endpoint.publication, endpoint.secret)
            return greet(sock, greeting, endpoint.address, timeout, self._clock, lambda: job.over)

        Lane(job, plan, self._endpoint.address, connect, take, give, self._settings, self._clock).run()


class ChildImporter:
    """Implements `Importer`. `recipe` says for a source's host how children that read from there are made."""

    def __init__(
        self,
        engine: str,
        recipe: Callable[[str], Recipe],
        words: Mapping[str, Any],
        settings: ChildSettings,
        clock: Clock,
        inside: Callable[[str], Callable[[Sequence[DeviceMemory]], Child]] | None = None,
    ) -> None:
        self._engine = engine
        self._inside = inside
        self._recipe = recipe
        self._settings = settings
        self._clock = clock
        self._nursery = Nursery(engine, words, settings)
        self._lock = threading.Lock()
        self._closed = False
        self._readers: weakref.WeakSet[ChildReader] = weakref.WeakSet()

    def takes(self, memory: memoryview) -> bool:
        return not memory.nbytes or is_writable(memory)

    def allocate(self, nbytes: int) -> memoryview:
        try:
            return allocate_shared(nbytes)
        except OSError as error:
            # A child could write to no other memory.
            raise TransferFailed(f"no shared memory to be had: {error}", fault=Fault.OURS) from error

    def open(self, descriptor: Descriptor) -> ChildReader:
        endpoint = Endpoint.decode(descriptor, self._engine)
        recipe, inside = self._recipe(endpoint.host), self._inside(endpoint.host) if self._inside else None
        reader = ChildReader(endpoint, recipe, self._nursery, self._settings, self._clock, inside)
        with self._lock:
            if self._closed:
                raise InvalidArgument("importer", "is closed")
            self._readers.add(reader)
        return reader

    def close(self) -> None:
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.close()
        self._nursery.close()
