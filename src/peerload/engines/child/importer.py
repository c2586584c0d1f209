"""The target side of an engine with children."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peerload.clock import Clock
from peerload.engines.allocate import allocate
from peerload.engines.base import Descriptor, Range
from peerload.engines.checks import check_ranges, destination_views
from peerload.engines.child.lane import Lane
from peerload.engines.child.nursery import Nursery
from peerload.engines.child.plan import Plan
from peerload.engines.child.process import Recipe
from peerload.engines.child.settings import ChildSettings
from peerload.engines.job import LaneJob
from peerload.engines.tcp.greet import greet
from peerload.engines.tcp.protocol import Endpoint
from peerload.errors import InvalidArgument

__all__ = ["ChildImporter", "ChildReader"]


class ChildReader:
    """Implements `Reader`. Connects when it reads; each read under way has a child of its own."""

    def __init__(
        self, endpoint: Endpoint, recipe: Recipe, nursery: Nursery, settings: ChildSettings, clock: Clock
    ) -> None:
        self._endpoint = endpoint
        self._recipe = recipe
        self._nursery = nursery
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._jobs: weakref.WeakSet[LaneJob] = weakref.WeakSet()

    def read(self, ranges: Sequence[Range], destinations: Sequence[memoryview], *, deadline: float) -> LaneJob:
        ranges = tuple(ranges)
        check_ranges(ranges, self._endpoint.sizes)
        views = destination_views(ranges, destinations)
        plan = Plan(ranges, views, len(self._endpoint.sizes))
        job = LaneJob(views, deadline=deadline, clock=self._clock)
        if job.over:
            return job
        with self._lock:
            if self._closed:
                raise InvalidArgument("reader", "is closed")
            self._jobs.add(job)
        job.lane_started()
        try:
            threading.Thread(target=self._run, args=(job, plan), name="peerload-child-read", daemon=True).start()
        except RuntimeError as error:
            job.lane_ended(f"this process can start no more threads: {error}")
        return job

    def close(self) -> None:
        with self._lock:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()

    def _run(self, job: LaneJob, plan: Plan) -> None:
        publication = self._endpoint.publication

        def connect() -> Any:
            timeout = max(0.05, min(self._settings.connect_timeout, job.seconds_left))
            return greet(self._endpoint, timeout, self._clock, lambda: job.over)

        Lane(
            job,
            plan,
            self._endpoint.address,
            connect,
            lambda: self._nursery.take(self._recipe, publication),
            lambda reading: self._nursery.give(publication, reading),
            self._settings,
            self._clock,
        ).run()


class ChildImporter:
    """Implements `Importer`. `recipe` says for a source's host how children that read from there are made."""

    def __init__(
        self,
        engine: str,
        recipe: Callable[[str], Recipe],
        words: Mapping[str, Any],
        settings: ChildSettings,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._recipe = recipe
        self._settings = settings
        self._clock = clock
        self._nursery = Nursery(engine, words, settings)
        self._lock = threading.Lock()
        self._closed = False
        self._readers: weakref.WeakSet[ChildReader] = weakref.WeakSet()

    @property
    def any_memory(self) -> bool:
        return False

    def allocate(self, nbytes: int) -> memoryview:
        return allocate(nbytes)

    def open(self, descriptor: Descriptor) -> ChildReader:
        endpoint = Endpoint.decode(descriptor, self._engine)
        reader = ChildReader(endpoint, self._recipe(endpoint.host), self._nursery, self._settings, self._clock)
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
