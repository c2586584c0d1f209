"""The stock package's ways of choosing among the sources that our server lists."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.stock.test_stock_client import full_worker, identity_of
from tests.support.stock import import_stock

LOADS: dict[str, float | None] = {"busy": 0.9, "idle": 0.0, "quiet": None}
RACKS = {"busy": "r1", "idle": "r2", "quiet": "r3"}


@pytest.fixture
def candidates(client: Any, p2p: Any) -> list[Any]:
    for worker_id, load in LOADS.items():
        worker = full_worker(p2p)
        worker.topology.clear()
        worker.topology.update({"zone": "z", "rack": RACKS[worker_id], "x-other": "kept"})
        source_id = client.publish_metadata(identity_of(p2p), worker, worker_id)
        assert client.update_status(source_id, worker_id, 0, p2p.SOURCE_STATUS_READY, source_load=load)
    return list(client.list_sources(identity_of(p2p), p2p.SOURCE_STATUS_READY).instances)


def order(name: str, candidates: list[Any], identity: Any) -> list[str]:
    context = SimpleNamespace(identity=identity, worker_id="target", worker_rank=0)
    selector = import_stock("source_selection").get_selector(name)
    assert selector.name == name
    return [candidate.worker_id for candidate in selector.order(candidates, context)]


def test_load_decides(candidates: list[Any], p2p: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_P2P_LOAD_WEIGHT", "1000")
    assert order("load_aware", candidates, identity_of(p2p)) == ["idle", "quiet", "busy"]


@pytest.mark.parametrize("nearest", sorted(RACKS))
def test_topology_decides(candidates: list[Any], p2p: Any, monkeypatch: pytest.MonkeyPatch, nearest: str) -> None:
    monkeypatch.setenv("MX_P2P_TOPOLOGY", f'{{"zone":"z","rack":"{RACKS[nearest]}"}}')
    monkeypatch.setenv("MX_P2P_TOPOLOGY_LEVELS", "zone,rack")
    assert order("topology_aware", candidates, identity_of(p2p))[0] == nearest
    assert all(candidate.topology["x-other"] == "kept" for candidate in candidates)


@pytest.mark.parametrize("name", ["random", "rendezvous_hash"])
def test_every_other_way_gets_them_all(candidates: list[Any], p2p: Any, name: str) -> None:
    assert sorted(order(name, candidates, identity_of(p2p))) == sorted(LOADS)
