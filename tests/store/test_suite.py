"""Every store and every wrapper passes the one suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerload.testing import ManualClock
from peerload.testing.store_suite import StoreSuite
from tests.store.places import FaultyPlace, MemoryPlace, SqlitePlace


class TestMemory(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> MemoryPlace:
        return MemoryPlace(clock)


class TestSqlite(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock, tmp_path: Path) -> SqlitePlace:
        return SqlitePlace(clock, tmp_path)


class TestFaultless(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> FaultyPlace:
        return FaultyPlace(clock, repeats=False)


class TestRepeating(StoreSuite):
    @pytest.fixture
    def place(self, clock: ManualClock) -> FaultyPlace:
        return FaultyPlace(clock, repeats=True)
