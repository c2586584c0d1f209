"""Every store and every wrapper passes the one suite."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from peerload.testing import ManualClock
from peerload.testing.store_suite import StoreSuite
from peerload.testing.store_suite.beats import BeatTests
from peerload.testing.store_suite.feed import FeedTests
from peerload.testing.store_suite.model import ModelTests
from peerload.testing.store_suite.sharing import SharingTests
from peerload.testing.store_suite.trouble import TroubleTests
from tests.store.places import FaultyPlace, MemoryPlace, NamespacePlace, RedisPlace, SqlitePlace
from tests.support.redis import RedisProcess


class TestMemory(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> MemoryPlace:
        return MemoryPlace(clock)


class TestSqlite(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock, tmp_path: Path) -> SqlitePlace:
        return SqlitePlace(clock, tmp_path)


class TestRedis(StoreSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(wall_ms=time.time_ns() // 1_000_000)  # Redis goes by the host's time

    @pytest.fixture
    def place(self, clock: ManualClock, shared_redis: RedisProcess, redis_url: str) -> RedisPlace:
        return RedisPlace(clock, shared_redis, redis_url)


class TestKubernetes(StoreSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(wall_ms=time.time_ns() // 1_000_000)  # the API server goes by the host's time

    @pytest.fixture
    def place(self, clock: ManualClock, kube_url: str) -> NamespacePlace:
        return NamespacePlace(clock, kube_url)


class TestKubernetesSharing(BeatTests, FeedTests, SharingTests, TroubleTests, ModelTests):
    """With heartbeats that are kept in shared objects alone; only that is tested which knows of heartbeats."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(wall_ms=time.time_ns() // 1_000_000)

    @pytest.fixture
    def place(self, clock: ManualClock, kube_url: str) -> NamespacePlace:
        return NamespacePlace(clock, kube_url, sharing=True)


class TestFaultless(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> FaultyPlace:
        return FaultyPlace(clock, repeats=False)


class TestRepeating(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> FaultyPlace:
        return FaultyPlace(clock, repeats=True)
