"""The store contract as tests.

To test a store, say where one can be made, and let pytest collect the suite::

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def place(self, clock, tmp_path):
            return MyPlace(clock, tmp_path)

where `MyPlace` is a `StorePlace`. It needs pytest with pytest-asyncio in its auto mode, and hypothesis.
"""

from __future__ import annotations

from peerload.testing.store_suite.beats import BeatTests
from peerload.testing.store_suite.entries import EntryTests
from peerload.testing.store_suite.examination import ExaminationTests
from peerload.testing.store_suite.feed import FeedTests
from peerload.testing.store_suite.limits import LimitTests
from peerload.testing.store_suite.mirror import Mirror
from peerload.testing.store_suite.model import ModelTests
from peerload.testing.store_suite.place import StorePlace
from peerload.testing.store_suite.sharing import SharingTests
from peerload.testing.store_suite.trouble import TroubleTests

__all__ = ["Mirror", "StorePlace", "StoreSuite"]


class StoreSuite(
    EntryTests, BeatTests, FeedTests, LimitTests, SharingTests, TroubleTests, ExaminationTests, ModelTests
):
    """Every test of the contract. A subclass gives the fixture `place`, and may give its own `clock`."""
