"""What this server counts, for Prometheus. A registry of its own: an embedding program's metrics are not among them."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from peerload import __version__
from peerload.server.diagnosis.finding import FIELDS

__all__ = ["Metrics"]


class Metrics:
    """The metrics of one server, each an attribute. Labels are of fixed sets: no text of a client's is among them."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.build = Gauge(
            "peerload_build_info", "Always 1; the labels tell the version.", ["version"], registry=self.registry
        )
        self.serving = Gauge("peerload_serving", "1 while calls can be answered, else 0.", registry=self.registry)
        self.list_misses = Counter(
            "peerload_list_misses",
            "Lists that matched nothing, by the first thing that stood in the way.",
            ["field"],
            registry=self.registry,
        )
        self.lists_unanswered = Counter(
            "peerload_lists_unanswered", "Lists that an outage left without an answer.", registry=self.registry
        )
        self.refused = Counter(
            "peerload_calls_refused",
            "Calls that were not let in, by status.",
            ["code"],
            registry=self.registry,
        )
        self.build.labels(__version__).set(1)
        for code in ("unauthenticated", "permission_denied", "unavailable"):
            self.refused.labels(code)
        for field in FIELDS:
            self.list_misses.labels(field)
