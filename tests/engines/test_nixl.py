"""The NIXL engine keeps the contract, whatever strangers send it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from peerload.testing.engine_suite import EngineSuite
from tests.engines.lease_strangers import LeaseStrangers

pytest.importorskip("nixl_cu12", reason="NIXL is not installed")


class TestNixlEngine(LeaseStrangers, EngineSuite):
    engine = "nixl"
    copies_memory = True
    settings: ClassVar[dict[str, Any]] = {}
