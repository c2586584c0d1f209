"""What a server tells of the fleet, its feed and its store."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

from peerload.clock import Clock
from peerload.metadata.backend import MetadataBackend
from peerload.metadata.records import Status
from peerload.server.measures.families import counter, gauge, histogram
from peerload.server.measures.store import MeasuredStore

__all__ = ["OTHER_MODELS", "FleetCollector"]

OTHER_MODELS: Final = "(other)"
"""Stands for the models that have no row of their own."""
_MAX_LABEL: Final = 200
"""Characters of a model's name that are shown; what workers publish may be longer."""


class FleetCollector:
    """Reads the backend and the store's measures. `models` bounds how many models have rows of their own: those with the
    most sources; what others have is told together."""

    def __init__(self, backend: MetadataBackend, store: MeasuredStore, clock: Clock, models: int) -> None:
        self._backend = backend
        self._store = store
        self._clock = clock
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield from self._directory()
        yield from self._work()
        yield from self._operations()

    def _directory(self) -> Iterator[Metric]:
        backend = self._backend
        directory = backend.directory
        yield gauge(
            "peerload_sources",
            "Records by model and status: ranks of workers. The models with the most have rows of their own.",
            ("model", "status"),
            (((model, status.name.lower()), count) for (model, status), count in self._sources().items()),
        )
        yield gauge("peerload_claims", "Claims that are held.", (), [((), len(backend.claims))])
        yield gauge("peerload_watches", "Watches of sources.", (), [((), backend.watchers.watching)])
        yield gauge(
            "peerload_feed_up", "1 while the store tells of its changes, else 0.", (), [((), not directory.lost)]
        )
        silent = directory.silent_ms / 1000 if directory.synced else float("nan")
        yield gauge(
            "peerload_feed_silence_seconds",
            "Since the store's feed last spoke, which it does once a second; NaN before its first listing.",
            (),
            [((), silent)],
        )
        yield counter(
            "peerload_feed_listings",
            "Times the store was listed: at the start, and where its feed did not reach back.",
            (),
            [((), backend.feed.listings)],
        )
        yield histogram(
            "peerload_feed_batch_size", "Changes in one batch of the store's feed.", (), [((), backend.feed.batches)]
        )
        yield histogram(
            "peerload_directory_lag_seconds",
            "From a durable write of this server's until its directory had it; at most a second is waited for.",
            (),
            [((), backend.lag)],
        )
        yield counter(
            "peerload_manifest_reads",
            "Manifests that were asked for, by whether the cache had them.",
            ("cache",),
            [(("hit",), backend.manifests.hits), (("miss",), backend.manifests.misses)],
        )

    def _work(self) -> Iterator[Metric]:
        backend = self._backend
        heartbeats, reaper = backend.heartbeats, backend.reaper
        yield histogram(
            "peerload_heartbeat_batch_size", "Heartbeats in one batch to the store.", (), [((), heartbeats.batches)]
        )
        yield gauge("peerload_heartbeats_pending", "Heartbeats not stored yet.", (), [((), heartbeats.pending)])
        yield gauge(
            "peerload_heartbeats_failing",
            "1 while heartbeats cannot be stored, or take long to be, else 0.",
            (),
            [((), heartbeats.failed)],
        )
        yield counter(
            "peerload_reaper_sweeps",
            "Looks for sources whose heartbeat has run out, by whether an outage broke them off.",
            ("outcome",),
            [(("done",), reaper.sweeps - reaper.broken_off), (("broken_off",), reaper.broken_off)],
        )
        yield counter(
            "peerload_reaper_sources",
            "Sources that this server marked stale, removed, and marked ready again because a heartbeat came late.",
            ("action",),
            [
                (("marked",), reaper.marked),
                (("removed",), reaper.removed),
                (("revived",), backend.reviver.revived),
            ],
        )
        if backend.prober is not None:
            yield counter(
                "peerload_probes",
                "Silent or reported sources that were connected to, by what came of it.",
                ("answer",),
                (((answer.value,), count) for answer, count in backend.prober.answers.items()),
            )

    def _operations(self) -> Iterator[Metric]:
        operations = self._store.operations
        yield counter(
            "peerload_store_operations",
            "Calls to the store, by how they ended. A watch ends when it is lost.",
            ("operation", "outcome"),
            (
                ((name, outcome), count)
                for name, measures in operations.items()
                for outcome, count in measures.outcomes.items()
                if count or outcome in ("ok", "unavailable")
            ),
        )
        yield histogram(
            "peerload_store_operation_duration_seconds",
            "How long calls to the store took.",
            ("operation",),
            (((name,), measures.seconds) for name, measures in operations.items() if name != "watch"),
        )
        if self._backend.directory.synced:
            ahead = (self._clock.wall_ms() - self._backend.now()) / 1000
            yield gauge(
                "peerload_store_clock_skew_seconds",
                "How far this host's clock is ahead of the store's, which counts.",
                (),
                [((), ahead)],
            )

    def _sources(self) -> dict[tuple[str, Status], int]:
        counts = self._backend.directory.census.counts()
        by_model: dict[str, int] = {}
        for (model, _), count in counts.items():
            by_model[model] = by_model.get(model, 0) + count
        shown = set(heapq.nlargest(self._models, by_model, key=lambda model: (by_model[model], model)))
        told: dict[tuple[str, Status], int] = {}
        for (model, status), count in counts.items():
            place = (model[:_MAX_LABEL] if model in shown else OTHER_MODELS, status)
            told[place] = told.get(place, 0) + count
        return told
