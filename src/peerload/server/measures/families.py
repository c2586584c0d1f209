"""Plain numbers as Prometheus' families, without a lock or a label looked up before somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from peerload.tally import Histogram

__all__ = ["counter", "gauge", "histogram"]

Labelled = tuple[tuple[str, ...], float]


def gauge(name: str, help_: str, labels: tuple[str, ...], values: Iterable[Labelled]) -> GaugeMetricFamily:
    """What may go up and down."""
    family = GaugeMetricFamily(name, help_, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def counter(name: str, help_: str, labels: tuple[str, ...], values: Iterable[Labelled]) -> CounterMetricFamily:
    """What only goes up; `_total` is added to the name."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def histogram(
    name: str, help_: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], Histogram]]
) -> HistogramMetricFamily:
    """What was observed how often."""
    family = HistogramMetricFamily(name, help_, labels=labels)
    for label, value in values:
        family.add_metric(label, value.buckets(), value.sum)
    return family
