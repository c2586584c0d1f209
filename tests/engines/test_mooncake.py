"""The Mooncake engine keeps the contract, whatever strangers send it."""

from __future__ import annotations

from peerload.testing.engine_suite import EngineSuite
from tests.engines.lease_strangers import LeaseStrangers
from tests.support.engines import need_engine

need_engine("mooncake")


class TestMooncakeEngine(LeaseStrangers, EngineSuite):
    engine = "mooncake"
    copies_memory = True
