"""The in-process engine keeps the contract."""

from __future__ import annotations

from typing import Any

from peerload.testing.engine_suite import InProcessSuite


class TestMemoryEngine(InProcessSuite):
    engine = "memory"

    def slow(self, bytes_per_second: int) -> dict[str, Any]:
        return {"max_bytes_per_second": bytes_per_second}
