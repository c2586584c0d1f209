"""What this process's clients have read, by engine: for its own metrics, whoever serves those.

Counted once a read, whether anybody asks or not. `register_metrics` has a Prometheus registry tell it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from peerload.metadata.transfers import Outcome

__all__ = ["MEASURES", "Measures", "register_metrics"]


class _Engine:
    __slots__ = ("bytes", "reads", "retries", "seconds")

    def __init__(self) -> None:
        self.reads = dict.fromkeys(Outcome, 0)
        self.retries = 0
        self.bytes = 0
        self.seconds = 0.0


class Measures:
    """Of one process. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, _Engine] = {}

    def read(self, engine: str, outcome: Outcome, nbytes: int, seconds: float) -> None:
        """A read has ended, and brought so many verified bytes in so many seconds."""
        with self._lock:
            found = self._engine(engine)
            found.reads[outcome] += 1
            found.bytes += nbytes
            found.seconds += seconds

    def retry(self, engine: str) -> None:
        """A read begins because another one of the same pull has failed."""
        with self._lock:
            self._engine(engine).retries += 1

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        reads = CounterMetricFamily(
            "peerload_client_reads", "Reads from sources, by engine and how they ended.", labels=("engine", "outcome")
        )
        moved = CounterMetricFamily(
            "peerload_client_read_bytes", "Verified bytes that reads brought.", labels=("engine",)
        )
        seconds = CounterMetricFamily(
            "peerload_client_read_seconds", "Seconds that reads took, failed ones too.", labels=("engine",)
        )
        retries = CounterMetricFamily(
            "peerload_client_read_retries",
            "Reads that began because another one of the same pull had failed.",
            labels=("engine",),
        )
        with self._lock:
            for name, engine in sorted(self._engines.items()):
                for outcome, count in engine.reads.items():
                    reads.add_metric((name, _shown(outcome)), count)
                moved.add_metric((name,), engine.bytes)
                seconds.add_metric((name,), engine.seconds)
                retries.add_metric((name,), engine.retries)
        yield from (reads, moved, seconds, retries)

    def describe(self) -> Iterator[Metric]:
        """What there is, for a registry that is told a second time."""
        yield from self.collect()

    def _engine(self, name: str) -> _Engine:
        found = self._engines.get(name)
        if found is None:
            found = self._engines[name] = _Engine()
        return found


MEASURES: Final = Measures()
"""This process's."""


def register_metrics(registry: CollectorRegistry = REGISTRY) -> None:
    """Have a Prometheus registry (without one: the process's default, which engines serve at their own `/metrics`) tell what
    this process's clients have read. Once for each registry: it raises ValueError for a second time, as registries do."""
    registry.register(MEASURES)


def _shown(outcome: Outcome) -> str:
    return "abandoned" if outcome is Outcome.UNSPECIFIED else outcome.name.lower()
