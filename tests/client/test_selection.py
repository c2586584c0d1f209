"""The order in which sources are tried."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from peerload.client.selection import TOPOLOGY_KEYS, distance, order
from peerload.client.sources import SourceInfo
from peerload.wire import sources_pb2


def source(name: str, load: float | None = None, **topology: str) -> SourceInfo:
    return SourceInfo.from_wire(
        sources_pb2.Source(source_id="s", worker_id=name, topology=topology, source_load=load), now=0
    )


def names(
    sources: list[SourceInfo], topology: Mapping[str, str] | None = None, seed: int = 0, **more: object
) -> list[str]:
    found = order(sources, topology=topology or {}, rng=random.Random(seed), **more)  # type: ignore[arg-type]
    return [each.worker_id for each in found]


def test_the_widest_shared_path_comes_first() -> None:
    mine = {"region": "r", "zone": "z", "rack": "k", "host": "h", "numa": "0"}
    sources = [
        source("far", region="other", zone="z", rack="k"),
        source("silent"),
        source("region", region="r", zone="y"),
        source("zone", region="r", zone="z", rack="j", host="x"),
        source("rack", region="r", zone="z", rack="k", host="x"),
        source("host", host="h", numa="1"),
        source("numa", host="h", numa="0"),
    ]
    for seed in range(5):
        found = names(sources, mine, seed)
        assert found[:5] == ["numa", "host", "rack", "zone", "region"]
        assert set(found[5:]) == {"far", "silent"}


def test_a_level_that_one_side_leaves_out_is_passed_over() -> None:
    assert distance({"rack": "k"}, {"region": "r", "rack": "k"}) == distance({"rack": "k"}, {"rack": "k"})
    assert distance({}, {}) == len(TOPOLOGY_KEYS) + 1
    assert distance({"host": "h"}, {"host": "h", "region": "r"}) == 0
    assert distance({"host": ""}, {"host": ""}) > 1


def test_then_the_least_loaded_with_the_unknown_in_the_middle() -> None:
    sources = [source("busy", 0.9), source("unknown"), source("idle", 0.0), source("wrong", 7.0)]
    for seed in range(5):
        found = names(sources, seed=seed)
        assert found[:2] == ["idle", "unknown"]
        assert set(found[2:]) == {"busy", "wrong"}


def test_equals_are_spread_by_chance() -> None:
    sources = [source(str(index), load=index / 100) for index in range(4)]
    firsts = Counter(names(sources, seed=seed)[0] for seed in range(400))
    assert len(firsts) == 4
    assert min(firsts.values()) > 50


def test_those_that_failed_come_last() -> None:
    near, far = source("near", host="h"), source("far")
    assert names([near, far], {"host": "h"}) == ["near", "far"]
    assert names([near, far], {"host": "h"}, failures={near.key: 1}) == ["far", "near"]
    assert names([near, far], {"host": "h"}, failures={near.key: 1, far.key: 2}) == ["near", "far"]


@pytest.mark.parametrize("count", [0, 1])
def test_few(count: int) -> None:
    assert len(names([source("a")] * count)) == count


def test_those_that_failed_elsewhere_come_after_all_others() -> None:
    near = SourceInfo.from_wire(
        sources_pb2.Source(source_id="s", worker_id="near", topology={"host": "h"}, suspect=True), now=0
    )
    assert names([near, source("far", load=1.0)], {"host": "h"}) == ["far", "near"]
    assert names([near, source("far")], {"host": "h"}, failures={source("far").key: 1}) == ["near", "far"]
