"""The metrics of several processes as one page: each sample with a label more, `process`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

__all__ = ["Families", "Merged", "families"]

Families: TypeAlias = Sequence[Mapping[str, Any]]
"""A registry's metrics, fit for JSON."""


def families(registry: CollectorRegistry) -> Families:
    """What there is in a registry now."""
    return [
        {
            "name": each.name,
            "help": each.documentation,
            "type": each.type,
            "unit": each.unit,
            "samples": [(sample.name, sample.labels, sample.value) for sample in each.samples],
        }
        for each in registry.collect()
    ]


class Merged(Collector):
    """Tells a registry of its own what was last gathered, by process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.gathered: Mapping[int, Families] = {}

    def collect(self) -> Iterator[Metric]:
        """One metric for each name, with the samples of all processes."""
        merged: dict[str, Metric] = {}
        for process, told in sorted(self.gathered.items()):
            for family in told:
                metric = merged.get(family["name"])
                if metric is None:
                    metric = Metric(family["name"], family["help"], family["type"], family["unit"])
                    merged[metric.name] = metric
                for name, labels, value in family["samples"]:
                    metric.add_sample(name, {**labels, "process": str(process)}, value)
        yield from merged.values()
