"""What pulls add to the process's own count, by engine: for a registry that tells it."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from peerload import AsyncClient
from peerload.client import register_metrics
from peerload.server.app import Server
from tests.client.quick import QUICK


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    register_metrics(made)
    return made


async def test_reads_and_retries_are_counted(server: Server, registry: CollectorRegistry) -> None:
    def counts() -> dict[str, float]:
        found = {
            name: registry.get_sample_value(f"peerload_client_{name}_total", {"engine": "tcp"}) or 0.0
            for name in ("read_bytes", "read_seconds", "read_retries")
        }
        for outcome in ("ok", "corrupt"):
            labels = {"engine": "tcp", "outcome": outcome}
            found[outcome] = registry.get_sample_value("peerload_client_reads_total", labels) or 0.0
        return found

    before = counts()
    good, bad = np.ones(1000), np.ones(1000)
    near, far = {"host": "near"}, {"host": "far"}
    async with (
        AsyncClient(server.address, settings=QUICK, topology=near) as first,
        AsyncClient(server.address, settings=QUICK, topology=far) as second,
        AsyncClient(server.address, settings=QUICK, topology=near) as target,
        first.publish({"w": bad}, model="org/model"),
        second.publish({"w": good}, model="org/model"),
    ):
        bad[7] = 2.0
        await target.pull("org/model")
    added = {name: value - before[name] for name, value in counts().items()}
    assert added.pop("read_seconds") > 0
    assert added == {"read_bytes": 8000, "read_retries": 1, "ok": 1, "corrupt": 1}


def test_a_registry_is_told_once(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        register_metrics(registry)
