"""What this server counts, for Prometheus. A registry of its own: an embedding program's metrics are not among them.

docs/metrics.md says what each of them is.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.registry import Collector

from peerload import __version__
from peerload.server.diagnosis.finding import FIELDS

__all__ = ["Metrics"]


class Metrics:
    """The metrics of one server. What happens seldom is an attribute and counted here; what happens often is counted in plain
    numbers by those who do it, and told by collectors that read them when somebody asks.

    Labels are of fixed sets, but for the names of models, whose number is bounded."""

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
        ProcessCollector(registry=self.registry)
        self.build.labels(__version__).set(1)
        for code in ("unauthenticated", "permission_denied", "unavailable"):
            self.refused.labels(code)
        for field in FIELDS:
            self.list_misses.labels(field)

    def tell(self, collector: Collector) -> None:
        """Have a collector asked too."""
        self.registry.register(collector)
