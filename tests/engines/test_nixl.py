"""The NIXL engine keeps the contract, whatever strangers send it."""

from __future__ import annotations

from typing import Any, ClassVar

from peerload.testing.engine_suite import EngineSuite
from tests.engines.lease_strangers import LeaseStrangers
from tests.support.engines import need_engine

need_engine("nixl")


class TestNixlEngine(LeaseStrangers, EngineSuite):
    engine = "nixl"
    copies_memory = True
    settings: ClassVar[dict[str, Any]] = {}
